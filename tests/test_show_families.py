"""The figure of the families draws the stored runs, one mark for each, and refuses what was not measured."""

import copy
import json

import matplotlib.pyplot as plt
import pytest

from vt_course import CourseError, repo_root
from vt_course.lab import show
from vt_course.training.experiments import results


def stored():
    return results.read_result("families-motion")


def test_each_run_is_one_mark_in_its_row():
    names = ("UniFormer", "Video Swin")
    fig, variants = show.families(*names), stored()["variants"]
    axes, *bars = fig.axes
    assert plt.get_fignums() == [] and [t.get_text() for t in axes.get_yticklabels()] == list(names)
    drawn = sorted(x for line in axes.lines if line.get_linestyle() == "None" for x in line.get_xdata())
    told = sorted(100 * x for name in names for run in variants[name]["runs"] for x in run["top1"].values())
    assert drawn == pytest.approx(told)
    assert [bar.get_width() for bar in bars[0].patches] == [variants[n]["runs"][0]["parameters"] / 1e3 for n in names]
    rows = json.loads((repo_root() / "results/bench_minis_cpu.json").read_text(encoding="utf-8"))["rows"]
    times = {r["model"]: r["ms"] for r in rows}
    assert [bar.get_width() for bar in bars[2].patches] == [times["uniformer_mini"], times["video_swin_mini"]]


def test_without_names_all_that_were_measured_are_drawn():
    measured = [name for name, variant in stored()["variants"].items() if variant["runs"]]
    assert [t.get_text() for t in show.families().axes[0].get_yticklabels()] == measured


def test_what_was_not_measured_is_refused(monkeypatch):
    with pytest.raises(CourseError, match="no family 'Swin' was measured.*Video Swin"):
        show.families("Swin")
    begun = copy.deepcopy(stored())
    begun["variants"]["MViT"]["runs"] = []
    monkeypatch.setattr(results, "read_result", lambda id: begun)
    with pytest.raises(CourseError, match="no family 'MViT' was measured"):
        show.families("MViT")
    monkeypatch.setattr(results, "read_result", lambda id: None)
    with pytest.raises(CourseError, match="vt-course experiments --only families-motion"):
        show.families()
