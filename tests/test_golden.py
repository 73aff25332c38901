"""Our models against recorded outputs of the official code, through the official checkpoint layouts, and
proof that the comparison notices what it is there to notice."""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vt_course import CourseError
from vt_course.cli import main
from vt_course.models.official import from_official, to_official
from vt_course.oracles import golden
from vt_course.oracles.golden import check_case, verify

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(GOLDEN.glob("*.json"))


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_case(path):
    row = check_case(path)
    assert row["passed"], row["problem"]
    assert row["max_abs"] < 1e-4
    if "logits_f64" in np.load(path.with_suffix(".npz")):
        assert row["max_abs_f64"] < 1e-9


def test_every_family_and_kind_of_check_is_there():
    facts = [json.loads(p.read_text(encoding="utf-8")) for p in CASES]
    assert {f["source"]["repo"] for f in facts} >= {
        "microsoft/Swin-Transformer", "SwinTransformer/Video-Swin-Transformer", "facebookresearch/SlowFast",
        "facebookresearch/TimeSformer", "Sense-X/UniFormer"}
    assert sum(f.get("kind") == "inflation" for f in facts) == 3
    assert sum("gradients_f64" in f for f in facts) >= 10


# ------------------------------------------------------------ what must go red

MINI = {"swin": "swin_mini", "video_swin": "video_swin_mini_8x32x32", "mvit": "mvit_mini", "mvit_v2": "mvit_v2_mini",
        "timesformer": "timesformer_mini_divided", "uniformer": "uniformer_mini"}


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
        norm.eps *= 1.2                          # far below what float32 shows
    built(change)
    row = check_case(GOLDEN / f"{case}.json")
    assert not row["passed"] and 1e-9 < row["max_abs_f64"] < 1e-4
    assert "float64 although float32 agrees" in row["problem"] and "epsilon" in row["problem"]


@pytest.mark.parametrize("case, where, stage", [
    ("swin_mini", "layers.0.blocks.1", "layers.0.blocks.1"),
    ("video_swin_mini_8x32x32", "layers.1.downsample", "backbone.layers.1.downsample"),
    ("mvit_mini", "blocks.2", "blocks.2"), ("mvit_v2_mini", "blocks.1", "blocks.1"),
    ("timesformer_mini_divided", "blocks.1", "model.blocks.1"), ("uniformer_mini", "blocks2.1", "blocks2.1")])
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


@pytest.mark.parametrize("case, change, words", [
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
    ("timesformer_mini_joint", lambda f: f["config"].update(attention_type="axial"), "unknown attention_type 'axial'"),
    ("inflate_swin_to_video_swin_mini", lambda f: f["tensors"]["patch_embed.proj.weight"].update(l2=1.0), "not inflated"),
])
def test_a_case_that_does_not_fit_says_why(case, change, words, tmp_path):
    row = check_case(copy(tmp_path, case, change))
    assert not row["passed"] and words in row["problem"], row["problem"]


def test_a_case_of_pytorchvideo_is_built_from_its_blocks():
    """None is recorded here; the network it describes must be the one of SlowFast's facts."""
    facts = json.loads((GOLDEN / "mvit_mini.json").read_text(encoding="utf-8"))
    slowfast = golden.build(facts["config"], facts)
    theirs = to_official(slowfast, layout="pytorchvideo")
    case = {"source": {"repo": "facebookresearch/pytorchvideo", "cls": "mvit"}, "input": facts["input"],
            "config": {"blocks": facts["config"]["blocks"]}, "keys": [[k, list(v.shape), ""] for k, v in theirs.items()]}
    model = golden.build(case["config"], case)
    model.load_state_dict(from_official(model, {"model_state": theirs}))
    x = torch.randn(facts["input"]["shape"])
    with torch.no_grad():
        assert torch.equal(model(x), slowfast(x))


def test_broken_files_fail_and_the_rest_goes_on(tmp_path, capsys):
    copy(tmp_path, "swin_mini", lambda f: None)
    (tmp_path / "cut.json").write_text((GOLDEN / "swin_mini.json").read_text(encoding="utf-8")[:500], encoding="utf-8")
    shutil.copy(GOLDEN / "swin_mini.json", tmp_path / "lonely.json")
    shutil.copy(GOLDEN / "swin_mini.json", tmp_path / "short.json")
    (tmp_path / "short.npz").write_bytes((GOLDEN / "swin_mini.npz").read_bytes()[:700])
    assert [(r["case"], r["passed"], bool(r["problem"])) for r in verify(tmp_path)] == [
        ("cut", False, True), ("lonely", False, True), ("short", False, True), ("swin_mini", True, False)]
    assert main(["verify", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "FAIL  cut" in out and "pass  swin_mini" in out and "4 cases, 3 failed" in out


def test_verify_json_and_exit_code_0(tmp_path, capsys):
    copy(tmp_path, "swin_mini", lambda f: None)
    assert main(["verify", str(tmp_path), "--json"]) == 0
    row, = json.loads(capsys.readouterr().out)
    assert row["passed"] and row["max_abs_f64"] < 1e-9 and row["source"] == "microsoft/Swin-Transformer SwinTransformer"


def test_nothing_to_verify(tmp_path):
    with pytest.raises(CourseError, match="no recorded cases"):
        list(verify(tmp_path))
    with pytest.raises(CourseError, match="no folder"):
        list(verify(tmp_path / "absent"))
    assert main(["verify", str(tmp_path)]) == 2
