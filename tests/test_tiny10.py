"""From ten classes of Kinetics to a table of five families: one command each, here on tiny models and clips."""

import dataclasses
import re

import pytest
from test_cli import refused, run, run_json

from vt_course.fetch.kinetics import PRESETS
from vt_course.training import estimates
from vt_course.training.official_recipes import TINY10_CLASSES, TINY10_CLIPS, TINY10_RECIPES

from videos import write_video

FAMILIES = {"video_swin": "swin", "mvit": "mvit", "mvit_v2": "mvit", "timesformer": "timesformer"}
FAMILIES |= {"uniformer": "uniformer"}
HERE = ["--device", "cpu", "--workers", "0"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two clips where `data kinetics --preset tiny10` puts its own, and one step of each recipe on the mini."""
    root = tmp_path_factory.mktemp("tiny10")
    (root / "kinetics").mkdir()
    for split, frames in (("train", 12), ("val", 20)):
        for label in "ab":
            write_video(root / "kinetics" / f"{split}_{label}.mp4", frames=frames)
        rows = "".join(f"{split}_{label}.mp4,{label},,\n" for label in "ab")
        (root / "kinetics" / f"{split}.csv").write_text(f"path,label,start,end\n{rows}", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VT_COURSE_DATA", str(root))
        for family in FAMILIES:
            small = ["--set", "frames=8", "stride=1", "size=32", "batch_size=2", "epochs=1", "warmup_epochs=0"]
            how = ["--recipe", f"tiny10-{family}", "--out", root / family, *HERE, *small]
            run_json("train", f"{family}_mini", *how)
        yield root


def test_five_runs_are_evaluated_to_one_table(runs, tmp_path):
    asked = ["evaluate", *(runs / family for family in FAMILIES), "--protocol", "family", *HERE, "--out", tmp_path]
    rows = run_json(*asked)
    assert [(row["model"], row["protocol"]) for row in rows] == [(str(runs / a), b) for a, b in FAMILIES.items()]
    assert all(row["n"] == 2 and row["classes"] == ["a", "b"] for row in rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FAMILIES)
    code, text, _ = run(*asked)  # nothing is left to do
    heading, *lines = text.splitlines()[:6]
    assert code == 0 and re.split("  +", heading)[:4] == ["run", "protocol", "frames", "views"]
    for line, (name, protocol), row in zip(lines, FAMILIES.items(), rows, strict=True):
        assert line.split()[:5] == [name, protocol, "normal", row["views"], "2"]
    assert text.splitlines()[-1].endswith(f"in {tmp_path}")


def test_one_run_that_cannot_be_read_does_not_take_the_others_along(runs, tmp_path):
    code, text, err = run("evaluate", runs / "mvit", tmp_path / "none", *HERE)
    assert code == 2 and text.splitlines()[1].split()[0] == "normal" and "none does not exist" in err
    other = tmp_path / "mvit"
    other.symlink_to(runs / "mvit", target_is_directory=True)
    assert "several of the runs are named mvit" in refused("evaluate", runs / "mvit", other, "--out", tmp_path / "x")
    assert "did you mean" in refused("evaluate", runs / "mvit", "--protocol", "mvitt")


# ------------------------------------------------------------------------- estimates


RATES = {"x": dict(share=0.5, seconds=2e-9, bytes=0.01), "y": dict(share=0.25, seconds=1e-9, bytes=0.02)}


def test_an_estimate_by_hand():
    recipe = dataclasses.replace(TINY10_RECIPES["tiny10-uniformer"], epochs=2, batch_size=8, warmup_epochs=0.0)
    found = estimates.estimate(recipe, RATES, "x")
    macs, clips = found["gmacs"] * 1e9, 1000
    assert found["steps"] == 2 * 63  # the last batch of an epoch has 4 clips
    assert found["cpu_hours"] == pytest.approx(clips * macs * 2e-9 / 3600)
    assert found["gpu_minutes"] == pytest.approx(clips * macs * 3 / 0.5 / estimates.GPU / 60)
    unknown = estimates.estimate(recipe, RATES, None)  # the least favourable of each
    assert unknown["gpu_minutes"] == pytest.approx(2 * found["gpu_minutes"])
    assert unknown["cpu_hours"] == pytest.approx(found["cpu_hours"])
    state = 16 * 5.38e6  # bytes of the parameters, their gradients and moments
    assert unknown["gpu_gb"] * 1e9 - state == pytest.approx(2 * (found["gpu_gb"] * 1e9 - state), rel=1e-2)


def test_estimates_are_told_as_such_and_only_of_these_recipes(monkeypatch):
    monkeypatch.setattr(estimates, "measured_rates", lambda: RATES)
    [row] = run_json("recipes", "tiny10-uniformer")
    assert row["estimate"] == estimates.estimate(TINY10_RECIPES["tiny10-uniformer"], RATES, None)
    code, text, err = run("recipes", "tiny10-uniformer")
    assert (code, err) == (0, "") and "Estimates, not measurements" in text and "minutes on a GPU, at least" in text
    assert "estimate" not in run_json("recipes", "uniformer")[0]
    monkeypatch.setattr(estimates, "measured_rates", lambda: None)
    assert "stimate" not in run("recipes", "tiny10-uniformer")[1]


def test_they_come_from_the_recorded_bench(monkeypatch):
    monkeypatch.setattr(estimates, "LIKE", {"tiny10-mvit": "mvit_base_16x4"})
    rates = estimates.measured_rates()
    assert set(rates) == {"mvit_base_16x4"}
    rate, macs = rates["mvit_base_16x4"], 70.8e9  # MViT table 4: 70.5
    assert 4 < rate["seconds"] * macs < 7 and 0.9e9 < rate["bytes"] * macs < 1.2e9 and 0.5 < rate["share"] < 1


def test_the_numbers_of_clips_are_those_of_the_preset():
    assert TINY10_CLIPS == TINY10_CLASSES * PRESETS["tiny10"][0]
    assert set(estimates.LIKE) < set(TINY10_RECIPES)
