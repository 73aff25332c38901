"""Checks that compare with what others recorded: outputs of official code, torchvision, and results of training."""

from dataclasses import replace

import torchvision
from torchvision.models.video.mvit import MSBlockConfig

from vt_course import CourseError, repo_root
from vt_course.claims.golden import check_case
from vt_course.claims.ledger.running import Refuted, check, fill, noise, remembered
from vt_course.claims.ledger.structure import EQUAL
from vt_course.files import read_json
from vt_course.models import mvit, swin, video_swin
from vt_course.models.official import from_official
from vt_course.models.zoo import ZOO
from vt_course.training.experiments import rows, verdicts
from vt_course.training.protocols import PROTOCOLS, Shown, frame_numbers
from vt_course.training.trained import FAMILIES

GOLDEN = "tests/golden"


@check
def equals_the_recording(case: str) -> bool:
    """Logits, stages and, where recorded, gradients of the official code: see `vt-course verify`."""
    path = repo_root() / GOLDEN / f"{case}.json"
    if not path.is_file():
        raise CourseError(f"there is no {path}: restore it, or install the course again")
    row = check_case(path)
    if not row["passed"]:
        raise Refuted(row["problem"])
    return True


def twins(family: str):
    """A small network of torchvision, ours of the same shape, and an input."""
    small = dict(embed_dim=12, depths=[2, 2], num_heads=[2, 4], num_classes=5)
    if family == "swin":
        theirs = torchvision.models.SwinTransformer([4, 4], window_size=[4, 4], **small)
        return theirs, swin.SwinTransformer(img_size=64, window=4, **small), noise(2, 3, 64, 64)
    if family == "video_swin":
        theirs = torchvision.models.video.SwinTransformer3d([2, 4, 4], window_size=[2, 4, 4], **small)
        return theirs, video_swin.SwinTransformer3D(window=(2, 4, 4), **small), noise(2, 3, 7, 50, 45)
    v2 = family == "mvit_v2"
    wide = ((8, 8), (8, 16), (16, 16), (16, 32)) if v2 else ((8, 16), (16, 16), (16, 32), (32, 32))
    none, two = ([1, 1, 1], [1, 2, 2]) if v2 else ([], [1, 2, 2])
    kernels, strides = [[3, 3, 3] if v2 else [], [3, 3, 3]] * 2, [none, two] * 2
    keys = [1, 4, 4], [1, 2, 2], [1, 2, 2], [1, 1, 1]
    plan = [MSBlockConfig(h, *c, k, [3, 3, 3], *s) for h, c, k, *s in zip((1, 2, 2, 4), wide, kernels, strides, keys)]
    theirs = torchvision.models.video.MViT((32, 32), 4, plan, v2, False, v2, v2, num_classes=5)
    double = {1: 2, 3: 2}
    ours = dict(frames=4, img_size=32, embed_dim=8, depth=4, num_classes=5, kv_stride=(1, 4, 4), dim_mul=double)
    ours |= dict(head_mul=double, q_stride={1: (1, 2, 2), 3: (1, 2, 2)})
    if v2:
        ours |= dict(q_stride={i: (1, 1 + i % 2, 1 + i % 2) for i in range(4)}, pos_embed="none", rel_pos="thw")
        ours |= dict(residual_pooling=True, dim_mul_in_att=True)
    return theirs, mvit.MViT(**ours), noise(2, 3, 4, 32, 32)


@check
def equals_torchvision(family: str) -> bool:
    """Scores, and the gradients of all weights, of a small network with the same random weights."""
    theirs, ours, x = twins(family)
    theirs, ours = fill(theirs.double().eval()), ours.double().eval()
    ours.load_state_dict(from_official(ours, theirs.state_dict()))
    scores, want = ours(x), theirs(x)
    for each in (scores, want):
        (each * noise(*each.shape, seed=5)).sum().backward()
    grads = from_official(ours, {name: p.grad for name, p in theirs.named_parameters()})
    worst = max(float((p.grad - grads[name]).abs().max()) for name, p in ours.named_parameters())
    difference = float((scores - want).detach().abs().max())
    if max(worst, difference) > 10 * EQUAL * max(1.0, float(want.detach().abs().max())):
        raise Refuted(f"scores differ by {difference:.2g}, gradients by {worst:.2g}")
    return True


@remembered
def table_of_trends() -> dict:
    """(row, variant, against) -> the comparison that `vt-course experiments` has made."""
    found = {}
    for row in verdicts.table(rows.read_rows()):
        for line in row["comparisons"]:
            found[row["id"], line["variant"], line["against"]] = row, line
    return found


@check
def trend(row: str, variant: str, against: str) -> str:
    """The verdict of a row of experiments.yaml on the sign of a difference: agrees, disagrees, undecided, not run."""
    return table_of_trends()[row, variant, against][1]["verdict"]


@check
def joint_takes_more_memory(tokens: int) -> bool:
    """Whether the bench of growth recorded more memory for a joint layer than for a divided one, at so many patches."""
    path = repo_root() / "results" / "bench_growth_cpu.json"
    lines = read_json(path, "make it anew with `vt-course bench growth --json`", dict)["rows"]
    peak = {line["attention"]: line["peak_mb"] for line in lines if (line["grows"], line["tokens"]) == ("side", tokens)}
    return peak["joint"] > peak["divided"]


@check
def views_of_the_protocol(model: str) -> str:
    """The views with which an accuracy is stated, "4x3". Raises unless the authors' protocol gives so many clips.

    The accuracy itself is not run here: there are neither the data nor the released weights.
    """
    variant = ZOO[model]
    number, _ = map(int, variant.views.split("x"))
    if len(variant.input) == 4:
        _, frames, size, _ = variant.input
        protocol = PROTOCOLS[FAMILIES[variant.family] + "-ssv2" * ("_ssv2" in model)]
        found = frame_numbers(replace(protocol, clips=number), Shown(frames, 2, size), 300)
        if found.shape != (number, frames):
            raise Refuted(f"the rule gives clips of shape {found.shape}, not {(number, frames)}")
    return variant.views
