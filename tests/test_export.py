"""Exported files: each mini as ONNX and as a program of torch, and files that lost something on the way."""

import json
import sys

import onnx
import pytest
import torch

from vt_course import CourseError
from vt_course.cli import main
from vt_course.models import ZOO, create, mini_weights
from vt_course.training import export
from vt_course.training.protocols import PROTOCOLS, Shown
from vt_course.training.trained import Trained, open_model

from weights import shake

MINIS = [name for name in ZOO if name.endswith("_mini")]


def shaken(name: str, **settings) -> Trained:
    """A model whose every part matters, as `open_model` gives it."""
    _, *frames, size, _ = ZOO[name].input
    model = shake(create(name, **settings))
    told = dict(protocol=PROTOCOLS["centre"], family="swin", trained_on="nothing", identity="")
    return Trained(name, model, tuple("abcdefgh"), Shown(*(frames or [1]), 1, size), **told)


SHALLOW = dict(depth=1, dim_mul={}, head_mul={}, q_stride={0: (1, 2, 2)})


@pytest.fixture(scope="module")
def shallow(tmp_path_factory):
    """MViTv2, whose positions exporters have lost, with one block as ONNX and as a program of torch."""
    trained, folder = shaken("mvit_v2_mini", **SHALLOW), tmp_path_factory.mktemp("export")
    files = {to: folder / f"a{suffix}" for to, suffix in export.SUFFIX.items()}
    return trained, files, {to: export.export(trained, to, file) for to, file in files.items()}


# ---------------------------------------------------------------- what is written


@pytest.mark.slow
@pytest.mark.parametrize("to", export.SUFFIX)
def test_a_file_answers_as_its_model_and_says_what_it_is(shallow, to):
    trained, files, found = shallow
    assert [(row["input"], row["batch"]) for row in found[to]["checks"]] == [
        ("moves", 1),
        ("moves", 3),
        ("stands still", 2),
    ]
    assert found[to]["input"] == ["batch", 3, 8, 32, 32] and found[to]["reversed"] > 0.1
    data = files[to].read_bytes()
    x = torch.randn(5, 3, 8, 32, 32)  # a number of clips that nobody tried before
    with torch.no_grad():
        want = trained.model(x)
    run = (export.run_onnx if to == "onnx" else export.run_torch)(data, "x")
    torch.testing.assert_close(run(x), want, rtol=1e-4, atol=1e-4)
    if to == "onnx":
        told = {p.key: p.value for p in onnx.load_from_string(data).metadata_props}["vt_course"]
        assert b"fast.py" not in data  # nor any other path of this machine
    else:
        extra = {"vt_course.json": ""}
        torch.export.load(files[to], extra_files=extra)
        told = extra["vt_course.json"]
    told = json.loads(told)
    assert told["classes"] == list("abcdefgh") and told["input"]["mean"] == [0.485, 0.456, 0.406]
    assert told["input"]["frames"] == 8 and told["model"] == "mvit_v2_mini"


@pytest.mark.dear
@pytest.mark.parametrize("name", MINIS)
@pytest.mark.parametrize("to", export.SUFFIX)
def test_every_mini(name, to, tmp_path):
    found = export.export(shaken(name), to, tmp_path / f"a{export.SUFFIX[to]}")
    assert max(row["difference"] / row["largest"] for row in found["checks"]) < 1e-5
    assert [row["batch"] for row in found["checks"]][:2] == [1, 3]


@pytest.mark.dear
def test_the_classic_exporter_keeps_relative_positions(tmp_path):
    trained, path = shaken("mvit_v2_mini", **SHALLOW), tmp_path / "a.onnx"
    with export.recording(trained, "onnx"):
        torch.onnx.export(trained.model, (export.moving(1, (3, 8, 32, 32)),), path, dynamo=False)
    x = export.moving(1, (3, 8, 32, 32), seed=1)
    with torch.no_grad():
        torch.testing.assert_close(export.run_onnx(path.read_bytes(), path)(x), trained.model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.dear
def test_int8_says_what_it_costs(tmp_path, monkeypatch):
    """On drawn images, whose labels are known, and on clips of another kind than the model has seen."""
    monkeypatch.setattr(export, "CLIPS", 16)
    trained = open_model("swin_mini")
    found = export.export(trained, "onnx", tmp_path / "a.onnx", int8=True)
    whole = sum(p.numel() for p in trained.model.parameters()) * 4e-6
    assert found["mb"] < 0.6 * whole and found["int8"]["clips"] == 16
    assert found["int8"]["same"] >= 0.9 and 0 < found["int8"]["probability"] < 0.5
    assert found["int8"]["top1"] > 0.8 and found["int8"]["top1_int8"] > 0.8


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("lost", ["rel_pos_t", "rel_pos_h"])
def test_a_file_that_lost_the_positions_is_refused(lost):
    """What exporters did. In freshly drawn weights, where positions matter least."""
    trained = shaken("mvit_v2_mini")
    for model in (trained.model, create("mvit_v2_mini").eval()):
        broken = create("mvit_v2_mini").eval()
        broken.load_state_dict({k: v * (not k.endswith(lost)) for k, v in model.state_dict().items()})
        with (
            torch.no_grad(),
            pytest.raises(CourseError, match="a.onnx answers otherwise than the model: for a batch of 1 "),
        ):
            export.check(broken, model, (3, 8, 32, 32), "a.onnx")
        with torch.no_grad():
            export.check(model, model, (3, 8, 32, 32), "a.onnx")


FAULTS = {
    "the second of a batch": lambda out: torch.cat([out[:1], out[:1], out[2:]]) if len(out) > 1 else out,
    "no number": lambda out: out * float("nan"),
    "another shape": lambda out: out[:, :7],
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["swin_mini", "timesformer_mini"])
def test_a_file_with_a_fault_is_refused(name, fault):
    trained = shaken(name)
    with pytest.raises(CourseError, match="the export to a.onnx "), torch.no_grad():
        export.check(lambda x: FAULTS[fault](trained.model(x)), trained.model, export.clip_shape(trained), "a.onnx")


def test_nothing_is_written_when_the_check_fails(tmp_path, monkeypatch):
    trained = shaken("timesformer_mini", depth=1)
    monkeypatch.setattr(export, "run_torch", lambda data, name: lambda x: trained.model(x.flip(2)))
    with pytest.raises(CourseError, match="answers otherwise than the model"):
        export.export(trained, "torch", tmp_path / "a.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_does_not_run_is_refused():
    for run in (export.run_onnx, export.run_torch):
        with pytest.raises(CourseError, match="the export to a.file does not run"):
            run(b"no model", "a.file")


def test_what_moves_moves():
    clips = export.moving(3, (3, 8, 32, 48))
    assert clips.shape == (3, 3, 8, 32, 48)
    assert all((a - b).abs().mean() > 0.1 for clip in clips for a, b in zip(clip.unbind(1), clip.unbind(1)[1:]))
    torch.testing.assert_close(clips[1, :, 1], clips[1, :, 0].roll(2 * 2, 1))
    assert export.moving(2, (3, 32, 32)).shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(to="tflite", out="a.tflite"), "there is no export to 'tflite': choose from onnx, torch"),
        (dict(to="onnx", out="a.pt2"), "a file of --to onnx ends in .onnx"),
        (dict(to="torch", out="nowhere/a.pt2"), "there is no folder .*nowhere"),
        (dict(to="torch", out="a.pt2", int8=True), "int8 is for --to onnx"),
    ],
)
def test_what_cannot_be_exported_is_said_at_once(settings, message, tmp_path):
    trained = open_model(mini_weights("timesformer_mini"))
    with pytest.raises(CourseError, match=message):
        export.export(trained, **settings | {"out": tmp_path / settings["out"]})


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        CourseError, match=r"needs the package onnxscript, which is not installed: pip install -e .\[exp"
    ):
        export.export(open_model("timesformer_mini"), "onnx", tmp_path / "a.onnx")


@pytest.mark.slow
def test_the_verb(tmp_path, capsys):
    out = tmp_path / "a.pt2"
    words = ["export", "timesformer_mini", "--to", "torch", "--out", str(out)]
    assert main(words) == 0
    printed, err = capsys.readouterr()
    assert err == "" and printed.splitlines()[0].split() == "input batch largest difference largest logit".split()
    assert f"{out}: timesformer_mini, " in printed and "input batch x 3 x 8 x 32 x 32" in printed
    assert main([*words, "--int8"]) == 2 and "int8 is for --to onnx" in capsys.readouterr().err


def test_the_verb_says_what_int8_costs(capsys, monkeypatch):
    """As a table and a sentence, and as JSON."""
    row = {"input": "moves", "batch": 1, "difference": 1.234e-6, "largest": 9.87}
    int8 = {"clips": 64, "same": 63 / 64, "probability": 0.0123, "top1": 1.0, "top1_int8": 0.984375}
    found = {"file": "a.onnx", "model": "m", "input": ["batch", 3, 8], "mb": 0.5, "checks": [row], "reversed": 2.0}
    monkeypatch.setattr(export, "export", lambda *args, **settings: found | {"int8": int8})
    words = ["export", "timesformer_mini", "--to", "onnx", "--out", "a.onnx", "--int8"]
    assert main(words) == 0
    assert (
        "int8 against the model, on 64 clips: 98.4 % the same answer, a probability differs by up to 0.012; right are "
        "98.4 % (the model: 100.0 %)." in capsys.readouterr().out
    )
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found | {"int8": int8}
