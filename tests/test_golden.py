"""Our models against recorded outputs of the official code, through the official checkpoint layouts, and
proof that the comparison notices what it is there to notice."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vt_course import CourseError
from vt_course.claims import golden
from vt_course.claims.golden import check_case, check_folder
from vt_course.cli import main
from vt_course.models.mvit import MViT
from vt_course.models.official import from_official, to_official

from weights import unset

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(GOLDEN.glob("*.json"))


# Video models as they were published take most of two minutes. `vt-course verify tests/golden` runs them, too.
PUBLISHED = ("mvit_b_16x4", "timesformer_divided_8x224", "uniformer_s_16", "video_swin_tiny_k400")


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=[pytest.mark.dear] * (path.stem in PUBLISHED), id=path.stem) for path in CASES]
)
def test_case(path):
    with unset():  # those of the case replace all
        row = check_case(path)
    assert row["passed"], row["problem"]
    assert row["max_abs"] < 1e-4
    if "logits_f64" in np.load(path.with_suffix(".npz")):
        assert row["max_abs_f64"] < 1e-9


def test_every_family_and_kind_of_check_is_there():
    facts = [json.loads(p.read_text(encoding="utf-8")) for p in CASES]
    assert {f["source"]["repo"] for f in facts} >= {
        "microsoft/Swin-Transformer",
        "SwinTransformer/Video-Swin-Transformer",
        "facebookresearch/SlowFast",
        "facebookresearch/TimeSformer",
        "Sense-X/UniFormer",
    }
    assert sum(f.get("kind") == "inflation" for f in facts) == 3
    assert sum("gradients_f64" in f for f in facts) >= 10


# ------------------------------------------------------------ what must go red

MINI = {
    "swin": "swin_mini",
    "video_swin": "video_swin_mini_8x32x32",
    "mvit": "mvit_mini",
    "mvit_v2": "mvit_v2_mini",
    "timesformer": "timesformer_mini_divided",
    "uniformer": "uniformer_mini",
}


@pytest.fixture
def built(monkeypatch):
    """Change our model after it is built and before it is checked."""
    original = golden.build

    def use(change):
        def build(*args):
            model = original(*args)
            change(model)
            return model

        monkeypatch.setattr(golden, "build", build)

    return use


@pytest.mark.parametrize("case", MINI.values(), ids=MINI)
def test_a_wrong_epsilon_is_seen_in_float64(case, built):
    def change(model):
        norm = [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)][-1]
        norm.eps *= 1.2  # far below what float32 shows

    built(change)
    row = check_case(GOLDEN / f"{case}.json")
    assert not row["passed"] and 1e-9 < row["max_abs_f64"] < 1e-4
    assert "float64 although float32 agrees" in row["problem"] and "epsilon" in row["problem"]


@pytest.mark.parametrize(
    "case, where, stage",
    [
        ("swin_mini", "layers.0.blocks.1", "layers.0.blocks.1"),
        ("video_swin_mini_8x32x32", "layers.1.downsample", "backbone.layers.1.downsample"),
        ("mvit_mini", "blocks.2", "blocks.2"),
        ("mvit_v2_mini", "blocks.1", "blocks.1"),
        ("timesformer_mini_divided", "blocks.1", "model.blocks.1"),
        ("uniformer_mini", "blocks2.1", "blocks2.1"),
    ],
)
def test_the_first_stage_that_departs_is_named(case, where, stage, built):
    built(lambda model: model.get_submodule(where).register_forward_hook(lambda m, args, out: out * 1.01))
    row = check_case(GOLDEN / f"{case}.json")
    assert not row["passed"] and f"stage {stage} is the first that departs" in row["problem"], row["problem"]


def test_a_wrong_head_is_not_blamed_on_a_stage(built):
    built(lambda model: model.head.register_forward_hook(lambda m, args, out: out + 0.01))
    assert "look at pooling and head" in check_case(GOLDEN / "swin_mini.json")["problem"]


def test_a_wrong_gradient_is_seen(built):
    """Right forward, wrong backward."""

    class Twice(torch.autograd.Function):
        forward = staticmethod(lambda ctx, x: x.clone())
        backward = staticmethod(lambda ctx, g: 2 * g)

    built(lambda model: model.norm.register_forward_hook(lambda m, args, out: Twice.apply(out)))
    row = check_case(GOLDEN / "video_swin_mini_8x32x32.json")
    assert "nearest the output that of backbone.norm.bias" in row["problem"] and "float32" in row["problem"]


def copy(tmp_path, case, change):
    facts = json.loads((GOLDEN / f"{case}.json").read_text(encoding="utf-8"))
    change(facts)
    (tmp_path / f"{case}.json").write_text(json.dumps(facts), encoding="utf-8")
    shutil.copy(GOLDEN / f"{case}.npz", tmp_path)
    return tmp_path / f"{case}.json"


@pytest.mark.parametrize(
    "case, change, words",
    [
        ("swin_mini", lambda f: f["config"].update(layer_norm_eps=1e-6), "layer_norm_eps=1e-06; our model has 1e-05"),
        ("swin_mini", lambda f: f["config"].update(surprise=1), "facts we do not know: surprise"),
        ("swin_mini", lambda f: f["config"].update(depths=[2, 4]), "missing layers.1.blocks.2"),
        ("swin_mini", lambda f: f["source"].update(repo="a/b"), "no model of ours for a/b"),
        ("swin_mini", lambda f: f["input"].update(seed=1), "not the recorded one"),
        ("swin_mini", lambda f: f.update(weights_abs_sum=1.0), "the case says 1"),
        ("swin_mini", lambda f: f.update(param_count=1), "official 1"),
        ("swin_mini", lambda f: f["keys"][0].__setitem__(2, "odd"), "unknown rule 'odd'"),
        ("swin_mini", lambda f: f.pop("keys"), "no entry 'keys'"),
        ("mvit_mini", lambda f: f["config"]["MVIT"].update(POOL_FIRST=True), "POOL_FIRST"),
        (
            "timesformer_mini_joint",
            lambda f: f["config"].update(attention_type="axial"),
            "unknown attention_type 'axial'",
        ),
        (
            "inflate_swin_to_video_swin_mini",
            lambda f: f["tensors"]["patch_embed.proj.weight"].update(l2=1.0),
            "not inflated",
        ),
    ],
)
def test_a_case_that_does_not_fit_says_why(case, change, words, tmp_path):
    row = check_case(copy(tmp_path, case, change))
    assert not row["passed"] and words in row["problem"], row["problem"]


def test_a_case_of_pytorchvideo_is_built_from_its_blocks():
    """None is recorded here; the network it describes must be the one of SlowFast's facts."""
    facts = json.loads((GOLDEN / "mvit_mini.json").read_text(encoding="utf-8"))
    slowfast = golden.build(facts["config"], facts)
    theirs = to_official(slowfast, layout="pytorchvideo")
    case = {
        "source": {"repo": "facebookresearch/pytorchvideo", "cls": "mvit"},
        "input": facts["input"],
        "config": {"blocks": facts["config"]["blocks"]},
        "keys": [[k, list(v.shape), ""] for k, v in theirs.items()],
    }
    model = golden.build(case["config"], case)
    model.load_state_dict(from_official(model, {"model_state": theirs}))
    x = torch.randn(facts["input"]["shape"])
    with torch.no_grad():
        assert torch.equal(model(x), slowfast(x))


ARGUMENTS = dict(
    spatial_size=[32, 48],
    temporal_size=4,
    num_heads=2,
    embed_dim_mul=[[1, 1.5], [2, 2.0]],
    atten_head_mul=[[1, 2.0]],
    pool_q_stride_size=[[1, 1, 2, 2]],
    pool_kv_stride_adaptive=[1, 4, 4],
    pool_kvq_kernel=[3, 3, 3],
    residual_pool=False,
    patch_embed_dim=20,
    depth=2,
    layer_norm_eps=1e-6,
)
WRITTEN_OUT = dict(
    frames=4,
    img_size=(32, 48),
    num_heads=2,
    embed_dim=20,
    depth=2,
    dim_mul={1: 1.5, 2: 2},
    head_mul={1: 2},
    q_stride={1: (1, 2, 2)},
    kv_stride={0: (1, 4, 4), 1: (1, 2, 2)},
    kernel=(3, 3, 3),
    num_classes=7,
)


@pytest.mark.parametrize(
    "changes, written_out",
    [
        ({}, {}),
        (dict(sep_pos_embed=False), dict(pos_embed="joint")),
        (dict(pool_kvq_kernel=None), dict(kernel=None)),
        (dict(cls_embed_on=False, residual_pool=True), dict(class_token=False, residual_pooling=True)),
        (dict(pooling_mode="max", spatial_size=32), dict(pool_mode="max", img_size=32)),
        (dict(pool_kv_stride_adaptive=None), dict(kv_stride=None)),
        (dict(pool_kv_stride_adaptive=None, pool_kv_stride_size=[[1, 1, 2, 1]]), dict(kv_stride={1: (1, 2, 1)})),
    ],
    ids=str,
)
def test_a_case_of_pytorchvideo_is_built_from_its_builders_arguments(changes, written_out, tmp_path):
    """The recording is made with the settings written out: 20 channels become 32, a multiple of 4 heads, then 64."""
    want = MViT(**WRITTEN_OUT | written_out).eval()
    assert [b.mlp.fc2.out_features for b in want.blocks] == [32, 64]
    keys = [
        [
            k,
            list(v.shape),
            "scale"
            if v.ndim == 1 and k.endswith("weight")
            else "bias"
            if k.endswith("bias")
            else "matrix"
            if k.endswith("weight")
            else "free",
        ]
        for k, v in to_official(want, layout="pytorchvideo").items()
    ]
    filled = {k: golden.fill(k, shape, kind) for k, shape, kind in keys}
    want.load_state_dict(from_official(want, filled))
    x = torch.from_numpy(np.random.RandomState(1).standard_normal((2, 3, 4, *want.input_size[1:])).astype(np.float32))
    with torch.no_grad():
        logits, tokens, double = want(x).numpy(), want.embed(x), want.double()(x.double()).numpy()
    facts = {
        "source": {"repo": "facebookresearch/pytorchvideo", "cls": "create_multiscale_vision_transformers"},
        "keys": keys,
        "weights_abs_sum": sum(v.double().abs().sum().item() for v in filled.values()),
        "config": ARGUMENTS | changes,
        "checkpoint": {"wrapper": "{'model_state': state_dict}"},
        "param_count": sum(v.numel() for v in filled.values()),
        "input": {"seed": 1, "shape": list(x.shape), "first4": x.flatten()[:4].tolist(), "sum": x.sum().item()},
        "stages": [{"name": "cls_positional_encoding", "shape": list(tokens.shape), "layout": "B (1+T*H*W) C"}],
    }
    (tmp_path / "case.json").write_text(json.dumps(facts), encoding="utf-8")
    rows = tokens.flatten(0, 1)
    np.savez(
        tmp_path / "case.npz",
        logits=logits,
        logits_f64=double,
        stage_mean=[tokens.mean()],
        stage_std=[tokens.std(correction=0)],
        stage_first8=rows[:1, :8],
        stage_last8=rows[-1:, :8],
    )
    assert check_case(tmp_path / "case.json")["problem"] == ""


def test_arguments_of_the_builder_that_ours_does_not_have_are_named():
    case = {
        "source": {"repo": "facebookresearch/pytorchvideo", "cls": "mvit"},
        "keys": [
            ["patch_embed.patch_model.weight", [20, 3, 3, 7, 7], ""],
            ["blocks.0.mlp.fc1.weight", [80, 20], ""],
            ["head.proj.weight", [7, 64], ""],
        ],
    }
    for change, words in [
        (dict(pool_first=True), "pool_first=True"),
        (dict(norm="batchnorm"), "norm='batchnorm'"),
        (dict(residual_pool=True), "residual_pool=True and a class token"),
    ]:
        with pytest.raises(golden.Departure, match=words):
            golden.build(ARGUMENTS | change, case | {"config": {"builder": ARGUMENTS | change}})


def test_broken_files_fail_and_the_rest_goes_on(tmp_path, capsys):
    copy(tmp_path, "swin_mini", lambda f: None)
    (tmp_path / "cut.json").write_text((GOLDEN / "swin_mini.json").read_text(encoding="utf-8")[:500], encoding="utf-8")
    shutil.copy(GOLDEN / "swin_mini.json", tmp_path / "lonely.json")
    shutil.copy(GOLDEN / "swin_mini.json", tmp_path / "short.json")
    (tmp_path / "short.npz").write_bytes((GOLDEN / "swin_mini.npz").read_bytes()[:700])
    assert [(r["case"], r["passed"], bool(r["problem"])) for r in check_folder(tmp_path)] == [
        ("cut", False, True),
        ("lonely", False, True),
        ("short", False, True),
        ("swin_mini", True, False),
    ]
    assert main(["verify", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "FAIL  cut" in out and "pass  swin_mini" in out and "4 cases, 3 failed" in out


def test_verify_json_and_exit_code_0(tmp_path, capsys):
    copy(tmp_path, "swin_mini", lambda f: None)
    assert main(["verify", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["passed"] and row["max_abs_f64"] < 1e-9 and row["source"] == "microsoft/Swin-Transformer SwinTransformer"


def test_nothing_to_verify(tmp_path):
    with pytest.raises(CourseError, match="no recorded cases"):
        list(check_folder(tmp_path))
    with pytest.raises(CourseError, match="no folder"):
        list(check_folder(tmp_path / "absent"))
    assert main(["verify", str(tmp_path)]) == 2
