"""A run folder is one run's, and a checkpoint is whole or refused: by one sentence whose remedy works."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch

from vt_course import CourseError
from vt_course.files import alone
from vt_course.training import checkpoint, evaluate, folder, run

from test_training import QUIET, Tiny, assert_same_run, clips, recipe, train  # noqa: F401 (fixtures)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(checkpoint, "create", lambda name, **settings: Tiny(**settings))


@pytest.fixture(scope="module")
def runs(clips, tmp_path_factory):  # noqa: F811
    """A run to its end, and one that was stopped after 4 of 9 steps: its checkpoint before is that of step 3."""
    at = tmp_path_factory.mktemp("checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "create", lambda name, **settings: Tiny(**settings))
        made = recipe.__wrapped__(clips)
        train(made, at / "whole")
        train(made, at / "cut", max_steps=4)
    return at


@pytest.fixture
def cut(runs, tmp_path):
    return shutil.copytree(runs / "cut", tmp_path / "cut")


def refused(recipe, out, *words):  # noqa: F811
    with pytest.raises(CourseError) as caught:
        train(recipe, out)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 600 and all(word in said for word in words), said
    return said


# ------------------------------------------------------------------------- one run


def test_a_run_has_its_folder_for_itself_from_the_first_write_to_the_last(recipe, tmp_path, monkeypatch):  # noqa: F811
    out, writes = tmp_path / "run", []

    def watched(write):
        def watch(*args, **settings):
            with pytest.raises(CourseError, match="another run is at work"), alone(out / ".lock", wait=False):
                pass
            writes.append(write.__name__)
            return write(*args, **settings)

        return watch

    for module, names in (
        (run, ("save_state", "SummaryWriter")),
        (folder, ("atomic_write", "write_csv", "save_weights")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, watched(getattr(module, name)))
    train(dataclasses.replace(recipe, epochs=1), out)
    assert writes[0] == writes[-1] == "atomic_write" and set(writes) == {
        "atomic_write",
        "write_csv",
        "save_state",
        "save_weights",
        "SummaryWriter",
    }  # config.json first, summary.json last
    assert not (out / ".lock").exists()


def test_a_second_run_is_refused_and_writes_nothing(recipe, cut):  # noqa: F811
    before = {path.name: path.read_bytes() for path in cut.iterdir() if path.is_file()}
    with alone(cut / ".lock"):
        assert refused(recipe, cut) == f"another run is at work in {cut}; wait for it or name another folder."
    assert before == {path.name: path.read_bytes() for path in cut.iterdir() if path.is_file()}


# ------------------------------------------------------------------------- whole or refused


def damaged(data: bytes, count: int):
    """`count` copies with a flipped bit, a zeroed page, a page of another place, a piece cut out, or the end cut
    off."""
    rng = np.random.default_rng(0)
    for k in range(count):
        copy, at = bytearray(data), int(rng.integers(len(data)))
        if k % 5 == 0:
            copy[at] ^= 1 << k % 8
        elif k % 5 == 1:
            copy[at // 4096 * 4096 : (at // 4096 + 1) * 4096] = bytes(
                len(copy[at // 4096 * 4096 : (at // 4096 + 1) * 4096])
            )
        elif k % 5 == 2:
            other = int(rng.integers(len(data) - 512))
            copy[at : at + 512] = copy[other : other + len(copy[at : at + 512])]
        elif k % 5 == 3:
            del copy[at : at + 1 + k % 64]
        else:
            del copy[at:]
        if copy != data:
            yield bytes(copy)


def test_no_damaged_state_is_resumed(recipe, cut):  # noqa: F811
    whole, tried = (cut / "state.pt").read_bytes(), 0
    for copy in damaged(whole, 300):
        (cut / "state.pt").write_bytes(copy)
        with pytest.raises(CourseError, match="state.pt is damaged.*previous.pt$"):
            checkpoint.read_state(cut)
        tried += 1
    assert tried > 280
    refused(recipe, cut, "state.pt is damaged", "delete it and run the same command again")


def test_the_remedy_works(recipe, runs, cut):  # noqa: F811
    """Deleted as the sentence says, the run goes on from the checkpoint before and ends as if nothing had happened."""
    page = bytearray((cut / "state.pt").read_bytes())
    page[8192:12288] = bytes(4096)
    (cut / "state.pt").write_bytes(page)
    assert refused(recipe, cut).endswith(
        f"delete it and run the same command again, which goes on from the checkpoint before it, {cut / 'previous.pt'}"
    )
    (cut / "state.pt").unlink()
    assert checkpoint.read_state(cut)["progress"]["epoch"] == 1 and checkpoint.read_state(cut)["progress"]["batch"] == 0
    assert train(recipe, cut)["finished"]
    assert_same_run(runs / "whole", cut)


def test_a_finished_run_is_mended_from_the_checkpoint_before(recipe, runs, tmp_path):  # noqa: F811
    out = shutil.copytree(runs / "whole", tmp_path / "run")
    (out / "state.pt").write_bytes(b"")
    refused(recipe, out, "state.pt is damaged: it is empty (0 bytes)", "previous.pt")
    (out / "state.pt").unlink()
    assert checkpoint.read_state(out)["progress"]["epoch"] == 2
    train(recipe, out)
    assert_same_run(runs / "whole", out)


def test_where_both_are_damaged_the_sentence_names_neither_as_a_remedy(recipe, cut):  # noqa: F811
    (cut / "previous.pt").write_bytes(b"text")
    (cut / "state.pt").write_bytes(b"text")
    assert refused(recipe, cut, "state.pt is damaged").endswith("; start again in another --out folder")
    (cut / "state.pt").unlink()
    assert refused(recipe, cut, "previous.pt is damaged").endswith("; start again in another --out folder")
    (cut / "previous.pt").unlink()
    (cut / "state.pt").mkdir()
    refused(recipe, cut, "state.pt cannot be read (Is a directory)")


def test_a_state_of_before_the_checksums_is_refused(recipe, cut):  # noqa: F811
    state = torch.load(cut / "state.pt", weights_only=True)  # other programs still read it
    torch.save(state, cut / "state.pt")
    refused(recipe, cut, "state.pt is damaged, or older than the checksums that checkpoints end in")


KINDS = {  # what is done to a state before it is saved, with a checksum that is right: words of the sentence
    "a list": (lambda s: [s], "does not hold the parts"),
    "no scaler": (lambda s: s.pop("scaler"), "does not hold the parts"),
    "one more": (lambda s: s.update(epoch=1), "does not hold the parts"),
    "no dict": (lambda s: s.update(progress=7), "does not hold the parts"),
    "no recipe": (lambda s: s["config"].pop("recipe"), "its config has no recipe"),
    "other recipe": (lambda s: s["config"].update(recipe={"lr": torch.zeros(2)}), "run with other settings"),
    "weight": (lambda s: s["model"].pop("head.weight"), "model lacks or adds head.weight"),
    "extra weight": (lambda s: s["model"].update(extra=torch.zeros(1)), "model lacks or adds extra"),
    "shape": (
        lambda s: s["model"].update({"norm.bias": torch.zeros(9)}),
        "model norm.bias is torch.float32 (9,) and not",
    ),
    "type": (
        lambda s: s["model"].update({"norm.bias": torch.zeros(8, dtype=torch.int64)}),
        "model norm.bias is torch.int64 (8,)",
    ),
    "precision": (
        lambda s: s["model"].update({"norm.bias": torch.zeros(8).half()}),
        "model norm.bias is torch.float16",
    ),
    "no tensor": (lambda s: s["model"].update({"norm.bias": 1.0}), "model norm.bias is a float and not a Tensor"),
    "nan": (lambda s: s["model"]["norm.bias"].fill_(float("nan")), "model norm.bias has numbers that are not finite"),
    "moment": (lambda s: s["optimizer"]["state"][0].pop("exp_avg"), "optimizer state 0 lacks or adds exp_avg"),
    "moments": (lambda s: s["optimizer"]["state"].pop(2), "optimizer state lacks or adds 2"),
    "moment shape": (
        lambda s: s["optimizer"]["state"][1].update(exp_avg_sq=torch.zeros(())),
        "optimizer state 1 exp_avg_sq is",
    ),
    "groups": (lambda s: s["optimizer"]["param_groups"].pop(), "optimizer param_groups has 1 entries and not 2"),
    "decay": (lambda s: s["optimizer"]["param_groups"][0].update(weight_decay=9.0), "optimizer has other settings"),
    "batch": (lambda s: s["progress"].update(batch=4), "epoch 1 of 3 is done and batch 4 of 3 of the next"),
    "epoch": (lambda s: s["progress"].update(epoch=4), "epoch 4 of 3 is done"),
    "negative": (lambda s: s["progress"].update(batch=-1), "batch is -1"),
    "fraction": (lambda s: s["progress"].update(batch=1.0), "batch is 1.0"),
    "sum": (lambda s: s["progress"].update(loss_sum=float("nan")), "loss_sum is nan"),
    "counts": (lambda s: s["progress"].update(correct=10**6), "1000000 of"),
    "rows": (lambda s: s["progress"].update(rows=[]), "the rows are not of 1 epochs"),
    "row": (lambda s: s["progress"]["rows"][0].pop("lr"), "the row of epoch 1 is damaged"),
    "best": (lambda s: s["progress"].update(best=None), "the best epoch is not the best of the rows"),
    "bad": (lambda s: s["progress"].update(bad={"train": {}}), "the list of bad clips is damaged"),
    "field": (lambda s: s["progress"].update(more=1), "progress lacks or adds more"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_is_not_built_like_ours_is_one_sentence(kind, recipe, cut):  # noqa: F811
    change, words = KINDS[kind]
    state = checkpoint.read_state(cut)
    changed = change(state)
    checkpoint.save_state(cut, changed if kind == "a list" else state)
    said = refused(recipe, cut, words)
    assert kind == "other recipe" or said.endswith(f"the checkpoint before it, {cut / 'previous.pt'}")


def test_a_damaged_summary_is_one_sentence_and_can_be_written_anew(recipe, runs, tmp_path):  # noqa: F811
    out = shutil.copytree(runs / "whole", tmp_path / "run")
    path, whole = out / "summary.json", json.loads((out / "summary.json").read_text(encoding="utf-8"))
    for text, words in (
        ("", "not valid JSON"),
        ("[]", "it holds a list"),
        ("{}", "does not tell what"),
        ("[" * 100_000, "not valid JSON"),
        (b"\xff\xfe{", "not UTF-8"),
        ('{"steps": 1e400}', "1e400"),
        (json.dumps({**whole, "steps": 8}), "does not tell what"),
    ):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        refused(recipe, out, "summary.json", words)
    path.unlink()
    path.mkdir()
    refused(recipe, out, "summary.json", "Is a directory")
    path.rmdir()  # as the sentence says
    again = train(recipe, out)
    assert all(again[name] == whole[name] for name in ("best", "last", "steps", "recipe")) and path.is_file()


# ------------------------------------------------------------------------- weights


def resave(path, change):
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    weights = safetensors.torch.load(data)
    change(weights, header)
    path.write_bytes(safetensors.torch.save(weights, header))


def cast(dtype):
    return lambda weights, header: weights.update({"head.weight": weights["head.weight"].to(dtype)})


CHANGES = {  # of weights and header, by somebody who knows the format: words of the sentence
    "nan": (lambda w, h: w["norm.weight"][3:4].fill_(float("nan")), "norm.weight has numbers that are not finite"),
    "infinity": (lambda w, h: w["head.weight"].fill_(float("inf")), "head.weight has numbers that are not finite"),
    "overflow": (
        lambda w, h: w.update({"norm.bias": torch.full((8,), 1e300, dtype=torch.float64)}),
        "norm.bias has numbers that are not",
    ),
    "integers": (cast(torch.int32), "head.weight has numbers of type torch.int32, wanted torch.float32"),
    "booleans": (cast(torch.bool), "head.weight has numbers of type torch.bool"),
    "floats": (
        lambda w, h: w.update(relative_position_index=w["relative_position_index"].float()),
        "of type torch.float32, wanted torch.int64",
    ),
    "another weight": (lambda w, h: w["norm.weight"][3:4].fill_(7), "do not agree with its checksum"),
    "another order": (
        lambda w, h: w["relative_position_index"].copy_(w["relative_position_index"].flip(0)),
        "with its checksum",
    ),
    "another recipe": (
        lambda w, h: h.update(recipe=h["recipe"].replace('"stride": 2', '"stride": 1')),
        "with its checksum",
    ),
    "no weight": (lambda w, h: w.pop("norm.bias"), "missing norm.bias"),
    "classes": (lambda w, h: h.update(classes="[1, 2, 3]"), "the list of classes in"),
    "no list": (lambda w, h: h.update(classes="dark"), "the list of classes in"),
    "brackets": (lambda w, h: h.update(recipe="[" * 100_000), "the recipe is not valid JSON"),
    "no recipe": (lambda w, h: h.pop("recipe"), "no recipe in its header"),
    "setting": (lambda w, h: h.update(recipe=h["recipe"].replace('"frames": 2', '"frames": 1e400')), "the recipe in"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_are_none_are_not_evaluated(change, cut):
    resave(cut / "last.safetensors", CHANGES[change][0])
    with pytest.raises(CourseError) as caught:
        evaluate.evaluate_run(cut / "last.safetensors", **QUIET)
    said = str(caught.value)
    assert CHANGES[change][1] in said and "last.safetensors" in said and "\n" not in said and len(said) < 600, said


def test_half_precision_is_read_and_needs_no_checksum(cut):
    before = checkpoint.load_run(cut)[0].state_dict()
    resave(
        cut / "best.safetensors",
        lambda w, h: (h.pop("checksum"), w.update({k: v.half() for k, v in w.items() if v.is_floating_point()})),
    )
    after = checkpoint.load_run(cut)[0].state_dict()
    assert all(torch.equal(after[k], v.half().to(v.dtype) if v.is_floating_point() else v) for k, v in before.items())


def test_no_damaged_weights_are_evaluated_as_others(cut):
    """Damage anywhere: refused, or the same weights and recipe."""
    path, tried = cut / "last.safetensors", 0
    whole = path.read_bytes()
    model, used = checkpoint.load_run(path)
    for copy in damaged(whole, 150):
        path.write_bytes(copy)
        try:
            other, theirs = checkpoint.load_run(path)
        except CourseError as error:
            assert "\n" not in str(error)
            tried += 1
        else:
            assert theirs == used and all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    assert tried > 130


def test_reading_weights_leaves_the_file_closed(cut, monkeypatch):
    """On Windows a file that is open or mapped can be neither replaced nor removed."""
    opened = []
    real = io.open
    monkeypatch.setattr("builtins.open", lambda *args, **settings: opened.append(real(*args, **settings)) or opened[-1])
    weights, _ = checkpoint.read_weights(cut / "last.safetensors")
    (cut / "last.safetensors").write_bytes(b"")
    assert opened and all(file.closed for file in opened) and weights["head.weight"].isfinite().all()
