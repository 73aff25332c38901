"""The weights that ship: one file for each family, from one recipe, right on clips that nobody has seen."""

import csv
import dataclasses
import json

import pytest
import torch

from vt_course import repo_root
from vt_course.data.loading import KeptFrames
from vt_course.data.synthetic import MOTIONS, render
from vt_course.models import ZOO, mini_weights
from vt_course.training.checkpoint import load_run
from vt_course.training.recipes import MOTION, Recipe, recipe_for
from vt_course.training.scores import measure
from vt_course.training.trained import open_model

FAMILIES = ["video_swin_mini", "mvit_mini", "mvit_v2_mini", "timesformer_mini", "uniformer_mini"]
CLIPS = 128


def record(name) -> dict:
    """The summary of the run whose weights ship."""
    return json.loads((repo_root() / "results" / "ship" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    """A manifest of clips of another seed than those of the course."""
    out = tmp_path_factory.mktemp("unseen")
    render(out, clips=(8, CLIPS), seed=1, progress=False)
    return out / "motion_val.csv"


@pytest.mark.parametrize("name", FAMILIES)
def test_they_read_motion(name, unseen):
    model = open_model(name)
    recipe = model.recipe
    same = dict(frames=recipe.frames, stride=recipe.stride, size=recipe.size)
    clips = KeptFrames(unseen, keep=recipe.keep, classes=MOTIONS, train=False, **same)
    found = measure(model, clips, model.protocol, device=torch.device("cpu"), workers=0, progress=False)
    assert found["top1"] > record(name)["last"]["val_top1"] - 0.1
    assert found["calibration"]["error"] < 0.05  # of 128 clips; results/calibration.json has that of 2,000


def test_the_page_has_the_recorded_calibration():
    """docs/researchers.md shows what `vt-course evaluate NAME --split test --json` found for each of them."""
    recorded = json.loads((repo_root() / "results" / "calibration.json").read_text(encoding="utf-8"))
    page = (repo_root() / "docs" / "researchers.md").read_text(encoding="utf-8")
    assert list(recorded) == FAMILIES
    for name, row in recorded.items():
        numbers = (100 * row[key] for key in ("top1", "confidence", "error"))
        assert f"| `{name}` | " + " | ".join(f"{number:.2f}" for number in numbers) + " |" in page
        assert row["n"] == 2000 and row["error"] < 0.01


@pytest.mark.parametrize("name", FAMILIES)
def test_they_come_from_the_one_recipe(name):
    run = record(name)
    assert load_run(mini_weights(name))[1] == Recipe.from_json(json.dumps(run["recipe"]))
    longer = dict(epochs=80) if name == "timesformer_mini" else {}  # it learns to tell growing from shrinking late
    assert Recipe.from_json(json.dumps(run["recipe"])) == dataclasses.replace(recipe_for(name), **longer)
    assert recipe_for(name) == dataclasses.replace(MOTION, model=name, lr=recipe_for(name).lr)  # one regime but for lr
    assert run["finished"] and run["last"]["val_top1"] >= 0.95


@pytest.mark.parametrize("name", ["video_swin_mini", "video_swin_mini_seed1"])
def test_the_epochs_that_notebook_08_draws_are_those_of_the_recorded_run(name):
    run = record(name)
    with open(repo_root() / "results" / "ship" / f"{name}.csv", encoding="utf-8") as file:
        epochs = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert [row["epoch"] for row in epochs] == list(range(1, run["epochs"] + 1))
    assert epochs[-1] == run["last"] and epochs[run["best"]["epoch"] - 1] == run["best"]


def test_all_together_are_small():
    files = [mini_weights(name) for name in (*FAMILIES, "swin_mini")]
    assert {file.name for file in files[0].parent.glob("*")} == {file.name for file in files}
    assert sum(file.stat().st_size for file in files) <= 15_000_000
    assert {name for name in ZOO if name.endswith("_mini")} == {*FAMILIES, "swin_mini", "vit_frames_mini"}
