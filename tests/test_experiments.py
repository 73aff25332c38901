"""Experiments: what a row may say, what makes a result stale, refused variants, statistics, kills and failures."""

import copy
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from torch import nn

from vt_course import CourseError, cli, files, machine, repo_root
from vt_course.data import images
from vt_course.data.loading import KeptFrames
from vt_course.models import ZOO
from vt_course.training import folder, recipes
from vt_course.training.checkpoint import read_state, state_path
from vt_course.training.evaluate import open_data
from vt_course.training.experiments import results, rows, run, statistics, switches, worker
from vt_course.training.recipes import Recipe, recipe_for

from videos import write_video

TINY = {"embed_dim": 4, "depths": [2, 1], "num_heads": [1, 1], "window": [2, 2, 2]}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """The spec of 6 and 4 clips of two classes. They all look the same."""
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "a.mp4", frames=6, size=(32, 32))
    for split, count in (("train", 6), ("val", 4)):
        lines = [f"{split}{i}.mp4,{'ab'[i % 2]},," for i in range(count)]
        for i in range(count):
            (folder / f"{split}{i}.mp4").write_bytes((folder / "a.mp4").read_bytes())
        (folder / f"{split}.csv").write_text("\n".join(["path,label,start,end", *lines, ""]), encoding="utf-8")
    return f"csv:{folder / 'train.csv'},{folder / 'val.csv'}"


@pytest.fixture
def entry(clips):
    """A row with two variants, two seeds, and runs of 4 steps."""
    return {
        "id": "small",
        "question": "Does it run?",
        "paper": "none",
        "table": "none",
        "expectation": "It does.",
        "data": clips,
        "seeds": [0, 1],
        "minutes": 0.5,
        "model": "video_swin_mini",
        "recipe": {"frames": 4, "stride": 1, "size": 32, "keep": 32, "batch_size": 4, "epochs": 2},
        "variants": {
            "shift": {"config": TINY, "stated": {"top-1": 81.3}},
            "still": {"config": TINY | {"shift": False}},
        },
    }


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "repo_root", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """Runs are made in this process, one after the other. The list of the jobs that were asked for."""
    jobs = []

    def here(todo, count):
        for number, job in enumerate(todo):
            jobs.append(job)
            yield number, worker.answer(json.loads(json.dumps(job)))

    monkeypatch.setattr(run, "in_workers", here)
    monkeypatch.setattr(KeptFrames, "shared", None)
    monkeypatch.setattr(folder, "curves", lambda *rows_classes_title: Figure(figsize=(1, 1)))  # drawing takes longer
    return jobs


def write(home, *entries):
    (home / "experiments.yaml").write_text(yaml.safe_dump(list(entries), sort_keys=False), encoding="utf-8")
    return rows.read_rows()


def result(home, id="small"):
    return json.loads((home / "results" / "experiments" / f"{id}.json").read_text(encoding="utf-8"))


# ---------------------------------------------------------------- rows


def change(entry, path, value):
    """A copy of a row in which the key at `path`, for instance "recipe.lr", has another value; None removes it."""
    entry = copy.deepcopy(entry)
    *parents, last = path.split(".")
    inner = entry
    for key in parents:
        inner = inner[key]
    inner[last] = value
    if value is None:
        del inner[last]
    return entry


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("sedes", [0], "row 'small': unknown key 'sedes'; did you mean seeds?"),
        ("expectation", None, "row 'small': it lacks expectation"),
        ("expectation", " ", "row 'small': expectation must be a text"),
        ("table", 4, "row 'small': table must be a text"),
        ("id", "Small one", "row 'Small one': id must be small letters"),
        ("curves", False, "row 'small': curves must be true, or not be there"),
        ("seeds", [0, 0], "row 'small': seeds must be a list of different"),
        ("seeds", [True], "row 'small': seeds must be"),
        ("seeds", [], "row 'small': seeds must be"),
        ("seeds", [-1], r"row 'small', seeds: recipe setting seed=-1 must be in \[0"),
        ("test", ["normal", "backwards"], "row 'small', test: unknown order of frames 'backwards'; there are normal"),
        ("test", [["normal"]], "row 'small': test must be a list of orders"),
        ("minutes", 0, "row 'small': minutes must be a number above 0"),
        ("variants", {}, "row 'small': variants must map names"),
        ("variants", {"a": 1}, "row 'small', variant 'a': it must have some of the keys model, config"),
        ("variants.still.confg", {}, "row 'small', variant 'still': unknown key 'confg'; did you mean config?"),
        ("variants.still.config.shfit", False, "variant 'still', config: .* video_swin_mini has no setting shfit"),
        ("variants.still.config", [1], "variant 'still': config must map settings"),
        ("variants.still.config.num_classes", 3, "variant 'still', config: recipe setting config="),
        ("variants.still.model", "video_swin_mni", "variant 'still', model: no training recipe .* video_swin_mini?"),
        ("variants.still.stated", {"top-1": "high"}, "variant 'still': stated must map"),
        ("variants.still.recipe", {"lr": -1}, "variant 'still', recipe: recipe setting lr=-1"),
        ("variants.still.recipe", {"order": "backwards"}, "recipe setting order='backwards' must be one of normal"),
        ("model", None, "row 'small', variant 'shift': model must name a model"),
        ("recipe.epoch", 2, "row 'small', recipe: unknown recipe setting 'epoch': did you mean epochs?"),
        ("recipe.data", "images:shapes", "row 'small': recipe must not have data, because the key data says it"),
        ("recipe.seed", 3, "row 'small': recipe must not have seed, because the key seeds says it"),
    ],
)
def test_a_wrong_row_is_refused_in_one_sentence(home, entry, path, value, message):
    with pytest.raises(CourseError, match=message) as caught:
        write(home, change(entry, path, value))
    assert "\n" not in str(caught.value) and "experiments.yaml" in str(caught.value)


def test_orders_of_frames_need_frames(home, entry):
    images_row = entry | {"data": "images:shapes", "model": "swin_mini", "recipe": {}, "variants": {"a": None}}
    assert [*write(home, images_row)[0].recipes] == ["a"]
    with pytest.raises(CourseError, match="test must be .normal., because variant 'a' sees one frame"):
        write(home, images_row | {"test": ["shuffled"]})
    with pytest.raises(CourseError, match="recipe setting order='single' must be normal for clips of one frame"):
        write(home, images_row | {"recipe": {"order": "single"}})


def test_files_that_are_no_list_of_rows(home, entry):
    with pytest.raises(CourseError, match="there is no .*experiments.yaml: restore it, or install the course again"):
        rows.read_rows()
    with pytest.raises(CourseError, match="two rows with the id 'small'"):
        write(home, entry, entry)
    path = home / "experiments.yaml"
    for text, message in (
        ("id: small\n", "is no list of rows"),
        ("- small\n", "row 1: it must have the keys id"),
        ("- {id: a, id: b}\n", "the key 'id' of the entry in line 1 occurs twice"),
        ("- {1: b}\n", "the key 1 of the entry in line 1 is not a text"),
        ("- {minutes: .nan}\n", "not a YAML file that we can use"),
        ("- {id: 2026-11-29}\n", "not a YAML file that we can use .*date"),
        ("- {id: [}\n", "not a YAML file that we can use"),
        ("- !!python/name:os.system\n", "not a YAML file that we can use"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(CourseError, match=message):
            rows.read_rows()
    path.write_text("a: &x {b: 1e-3}\nc: *x\n", encoding="utf-8")
    assert files.read_yaml(path, "") == {"a": {"b": "1e-3"}, "c": {"b": "1e-3"}}


def test_a_variant_changes_the_recipe_of_its_model(home, entry):
    more = {"recipe": {"lr": "1e-2", "order": "shuffled"}, "model": "uniformer_mini"}
    (row,) = write(home, change(entry, "variants.other", more))
    base, other = row.recipes["shift"], row.recipes["other"]
    assert base == dataclasses.replace(
        recipe_for("video_swin_mini"), **entry["recipe"], data=entry["data"], config=TINY
    )
    assert other == dataclasses.replace(
        recipe_for("uniformer_mini"), **entry["recipe"], data=entry["data"], lr=0.01, order="shuffled"
    )


# ---------------------------------------------------------------- stale results


def test_every_change_but_that_of_the_estimate_makes_a_result_stale(home, entry):
    (row,) = write(home, entry)
    then = row.depends_on()
    for path, value in (
        ("question", "Else?"),
        ("expectation", "It does not."),
        ("seeds", [0, 1, 2]),
        ("test", ["normal", "single"]),
        ("recipe.epochs", 3),
        ("variants.shift.stated", {"top-1": 81.2}),
        ("variants.still.recipe", {"order": "single"}),
        ("variants.third", {"config": TINY | {"mlp_ratio": 2.0}}),
    ):
        (changed,) = write(home, change(entry, path, value))
        assert not rows.unchanged(then, changed), path
        assert rows.digest(changed.depends_on()) != rows.digest(then), path
    (same,) = write(home, entry | {"minutes": 7})
    assert rows.unchanged(then, same) and rows.digest(same.depends_on()) == rows.digest(then)


def test_changes_of_model_recipe_and_data_make_a_result_stale(home, entry, monkeypatch):
    (row,) = write(home, entry)
    then = row.depends_on()
    mini = ZOO["video_swin_mini"]
    with monkeypatch.context() as patch:
        patch.setitem(ZOO, "video_swin_mini", dataclasses.replace(mini, config={**mini.config, "mlp_ratio": 2.0}))
        assert not rows.unchanged(then, rows.read_rows()[0])
    with monkeypatch.context() as patch:
        slower = dataclasses.replace(recipe_for("video_swin_mini"), weight_decay=0.1)
        patch.setitem(recipes.RECIPES, "video_swin_mini", slower)
        assert not rows.unchanged(then, rows.read_rows()[0])
    assert rows.unchanged(then, rows.read_rows()[0])
    drawn = entry | {"data": "images:shapes", "model": "swin_mini", "recipe": {}, "variants": {"a": None}}
    (row,) = write(home, drawn)
    then = row.depends_on()
    monkeypatch.setattr(images, "VERSION", images.VERSION + 1)
    assert not rows.unchanged(then, row)


def test_a_setting_that_a_result_lacks_had_its_default(home, entry):
    """As after a new setting of `Recipe`: results that were made without it stay valid."""
    (row,) = write(home, entry)
    then = row.depends_on()
    for recipe in then["recipes"].values():
        del recipe["order"]
    assert rows.unchanged(then, row)
    assert not rows.unchanged(then, write(home, change(entry, "recipe.order", "single"))[0])


def committed():
    return sorted((repo_root() / "results" / "experiments").glob("*.json"))


def test_the_rows_can_be_read_and_have_results():
    assert {path.stem for path in committed()} <= {row.id for row in rows.read_rows()} and len(committed()) >= 2


@pytest.mark.parametrize("path", committed(), ids=lambda path: path.stem)
def test_a_committed_result_is_that_of_its_row(path):
    """If this fails, the row, its models or its recipes have changed: run `vt-course experiments --only ID`."""
    found = results.read_result(path.stem)
    row = next(row for row in rows.read_rows() if row.id == path.stem)
    assert rows.unchanged(found["depends_on"], row), f"{path.stem} is stale"
    assert found == json.loads(json.dumps(results.summarise(copy.deepcopy(found))))
    refused = {name: variant["refused"] for name, variant in found["variants"].items() if variant["refused"]}
    assert refused == switches.refusals(row.recipes)
    for name, variant in found["variants"].items():
        for made in variant["runs"]:
            assert made["row"] == found["hash"] and re.fullmatch(r"[0-9a-f]{40}(\+changes)?", made["commit"])
            assert {"seed", "device", "processor", "torch", "python", "seconds", "peak_memory_mb"} <= made.keys()
            assert set(made["top1"]) == set(row.test) and not variant["refused"]


def test_a_result_that_was_edited_is_refused(home, entry, asked):
    write(home, entry)
    run.run_rows(rows.read_rows(), jobs=1, tell=lambda line: None)
    path, whole = results.result_file("small"), result(home)
    other = copy.deepcopy(whole)
    other["depends_on"]["row"]["expectation"] = "What came out."
    foreign = copy.deepcopy(whole)
    foreign["variants"]["still"]["runs"][0]["row"] = "0" * 64
    for damaged in (other, foreign, {"id": "small"}, []):
        path.write_text(json.dumps(damaged), encoding="utf-8")
        with pytest.raises(CourseError, match="restore it, or delete it and run the experiment again"):
            results.read_result("small")


# ---------------------------------------------------------------- refused variants


def test_a_switch_that_changes_nothing_is_refused():
    base = recipe_for("video_swin_mini")
    whole = {"window": [4, 4, 4]}  # of the 4 time steps: time never shifts
    variants = {
        "full": {},
        "none": {"shift": False},
        "space": {"shift": [False, True, True]},
        "also none": {"shift": [False, False, False]},
        "initial values": {"narrow_init": False},
        "dropout": {"head_dropout": 0.5},
        "other parameters": {"mlp_ratio": 2.0},
    }
    refused = switches.refusals(
        {name: dataclasses.replace(base, config=whole | each) for name, each in variants.items()}
    )
    assert {name: re.search("logits of '(.*)'", reason)[1] for name, reason in refused.items()} == {
        "space": "full",
        "also none": "none",
    }


def test_variants_with_other_recipes_are_not_refused():
    base = recipe_for("video_swin_mini")
    others = {"order": dataclasses.replace(base, order="single"), "lr": dataclasses.replace(base, lr=1.0)}
    assert switches.refusals({"base": base, **others}) == {}
    assert [*switches.refusals({"base": base, "again": base})] == ["again"]


def test_zero_initialised_parameters_do_not_hide_a_switch(monkeypatch):
    class Gated(nn.Module):
        def __init__(self, on):
            super().__init__()
            self.head, self.gate, self.on = nn.Linear(3, 2), nn.Parameter(torch.zeros(1)), on

        def forward(self, x):
            x = x.mean((2, 3, 4))  # (B, C)
            return self.head(x + self.gate * x.flip(1) if self.on else x)

    monkeypatch.setattr(switches, "build_model", lambda recipe, classes: Gated(recipe.config["on"]))
    on, off = (Recipe(model="gated", frames=2, size=4, config={"on": each}) for each in (True, False))
    assert not switches.same_training(on, off) and switches.same_training(on, on)
    monkeypatch.setattr(switches, "fill", lambda model: None)
    assert switches.same_training(on, off)  # so at their own initialisation the two do look alike


# ---------------------------------------------------------------- statistics


@pytest.mark.parametrize(
    "df, level, t",
    [  # from tables of Student's t distribution
        (1, 0.95, 12.706),
        (2, 0.95, 4.303),
        (3, 0.95, 3.182),
        (4, 0.95, 2.776),
        (5, 0.95, 2.571),
        (9, 0.95, 2.262),
        (10, 0.95, 2.228),
        (29, 0.95, 2.045),
        (120, 0.95, 1.980),
        (2, 0.99, 9.925),
        (7, 0.99, 3.499),
        (10, 0.5, 0.700),
    ],
)
def test_quantiles_are_those_of_the_tables(df, level, t):
    assert statistics.t_quantile(df, level) == pytest.approx(t, abs=6e-4)
    assert statistics.t_probability(statistics.t_quantile(df, level), df) == pytest.approx(level, abs=1e-12)


def test_differences_are_paired_over_seeds():
    """Seeds lie far apart, but the difference is nearly the same in each: only the paired interval excludes 0."""
    first = {0: 0.2, 1: 0.5, 2: 0.8, 7: 0.1}
    found = statistics.compare({2: 0.9, 0: 0.32, 1: 0.59, 9: 1.0}, first)
    assert found["seeds"] == [2, 0, 1] and found["differences"] == pytest.approx([0.10, 0.12, 0.09])
    half = 4.303 * 0.015275 / 3**0.5
    assert (found["low"], found["high"]) == pytest.approx((0.10333 - half, 0.10333 + half), abs=1e-4)
    assert found["decided"]


@pytest.mark.parametrize("values", [{0: 0.9}, {}, {5: 0.9}])
def test_fewer_than_two_pairs_decide_nothing(values):
    found = statistics.compare(values, {0: 0.1, 1: 0.2})
    assert not found["decided"] and found["low"] is found["high"] is None


@pytest.mark.parametrize(
    "differences, verdict",
    [
        ([0.1, 0.2, 0.15], "higher"),
        ([-0.1, -0.2, -0.15], "lower"),
        ([0.1, -0.2, 0.15], "undecided"),
        ([0.1], "undecided"),
    ]
    + [([0.0, 0.0], "undecided")],
)
def test_only_an_interval_without_0_decides(differences, verdict):
    runs = [[{"seed": s, "top1": {"normal": x}, "seconds": 1, "peak_memory_mb": 2} for s, x in enumerate(values)]
            for values in ([0.5] * len(differences), [0.5 + d for d in differences])]  # fmt: skip
    variants = {name: {"refused": None, "runs": each} for name, each in zip("ab", runs)}
    variants["c"] = {"refused": "as a", "runs": []}
    found = results.summarise({"depends_on": {"row": {}}, "variants": variants})
    (pair,) = found["comparisons"]
    assert (pair["variant"], pair["against"], pair["verdict"]) == ("b", "a", verdict)
    assert found["seconds"] == 2 * len(differences) and found["peak_memory_mb"] == 2
    assert [line["verdict"] for line in results.table(found | {"id": "x"})] == [None, verdict, "refused"]


# ---------------------------------------------------------------- runs


def test_runs_are_recorded_and_not_made_again(home, entry, asked):
    refused = change(entry, "variants.same", {"config": TINY | {"shift": [True, True, True]}})
    (row,) = write(home, refused | {"test": ["shuffled", "normal"]})
    assert results.state(row)["state"] == "not run" and results.state(row)["minutes"] == 0.5 * 6
    told = []
    assert run.run_rows([row], jobs=1, tell=told.append) == []
    assert "'same' is refused" in told[0] and "4 runs, 1 at a time" in told[1] and "left" in told[-2]
    found = result(home)
    assert [(job["recipe"]["seed"], job["recipe"]["config"] == TINY) for job in asked] == [
        (0, True), (0, False), (1, True), (1, False)
    ]  # fmt: skip
    assert [len(v["runs"]) for v in found["variants"].values()] == [2, 2, 0] and len(found["comparisons"]) == 2
    assert found["depends_on"]["row"]["expectation"] == "It does."
    first = found["variants"]["shift"]["runs"][0]
    assert first["steps"] == 4 and first["held_out"] == 4 and set(first["top1"]) == {"normal", "shuffled"}
    assert {"commit", "device", "processor", "torch", "threads", "jobs"} <= first.keys() and "command" not in first
    assert results.state(row) | {"question": 0} == {
        "id": "small", "question": 0, "state": "done", "runs": 4, "missing": 0, "minutes": 0.0
    }  # fmt: skip
    before = results.result_file("small").read_bytes()
    assert run.run_rows([row], jobs=1) == [] and len(asked) == 4
    assert results.result_file("small").read_bytes() == before

    (changed,) = write(home, refused | {"expectation": "It does not."})
    assert results.state(changed)["state"] == "stale" and results.state(changed)["missing"] == 6
    assert run.run_rows([changed], jobs=1, tell=told.append) == [] and len(asked) == 8
    assert any("the row has changed since its result; all its runs are made anew" in line for line in told)
    assert result(home)["hash"] != found["hash"]


def test_a_run_of_two_rows_is_trained_once(home, entry, asked, monkeypatch):
    trained = []
    real = worker.fit
    monkeypatch.setattr(worker, "fit", lambda recipe, out, **s: trained.append(str(out)) or real(recipe, out, **s))
    other = change(entry, "variants.third", {"config": TINY | {"shift": [False, True, False]}})
    other = other | {"id": "other", "test": ["tubes-reversed", "frames-swapped"], "seeds": [1, 2], "minutes": 3}
    small, other = write(home, entry, other)
    told = []
    assert run.run_rows([other], jobs=1, tell=told.append) == []  # the second row first
    assert "6 runs, 1 at a time" in told[0]
    assert {  # of the shared run, not of the one of seed 2
        run["trained_for"] for run in result(home, "other")["variants"]["still"]["runs"] if "trained_for" in run
    } == {"small"}
    assert run.run_rows([small], jobs=1, tell=told.append) == []
    assert len(trained) == 10 and len(set(trained)) == 8
    runs = {id: result(home, id)["variants"]["still"]["runs"] for id in ("small", "other")}
    assert [each["seed"] for each in runs["small"]] == [0, 1] and "trained_for" not in runs["small"][1]
    shared, own = runs["other"]
    assert shared["seed"] == 1 and "trained_for" not in own
    for key in ("train_loss", "val_top1", "seconds", "commit"):
        assert shared[key] == runs["small"][1][key]
    assert len(own["val_top1"]) == 2 and shared["top1"].keys() == {"tubes-reversed", "frames-swapped"}
    # Its seconds count once, and do not say how long a further run of the other row will take.
    found = result(home, "other")
    here = [each for variant in found["variants"].values() for each in variant["runs"] if "trained_for" not in each]
    assert found["seconds"] == pytest.approx(sum(each["seconds"] for each in here)) and len(here) == 4
    for each in here:
        each["trained_for"] = "small"
    assert results.expected_seconds(other, found) == 180


def test_a_recorded_run_is_copied(home, entry, asked):
    """Its folder may be gone. Not copied: an order that the record lacks, a curve that it lacks, another machine."""
    entry = entry | {"test": ["normal", "shuffled"]}
    (small,) = write(home, entry)
    run.run_rows([small], jobs=1, tell=lambda line: None)
    shutil.rmtree(home / "runs")
    path, before = results.result_file("small"), len(asked)
    fewer = entry | {"id": "other", "test": ["shuffled"], "curves": True}
    _, other = write(home, entry, fewer)
    told = []
    assert run.run_rows([other], jobs=1, tell=told.append) == [] and len(asked) == before
    assert told[0] == "other: shift, seed 0: copied from the result of small" and len(told) == 4
    for name, variant in result(home, "other")["variants"].items():
        for copied, original in zip(variant["runs"], result(home)["variants"][name]["runs"], strict=True):
            assert copied["top1"] == {"shuffled": original["top1"]["shuffled"]} and copied["trained_for"] == "small"
            assert copied["train_loss"] == original["train_loss"]
    assert results.state(other)["state"] == "done" and result(home, "other")["seconds"] == 0

    record = json.loads(path.read_text(encoding="utf-8"))
    for change, row in (
        ({}, fewer | {"test": ["shuffled", "tubes-reversed"]}),
        ({"val_top1": None}, fewer),
        ({"processor": "another"}, fewer | {"curves": True}),
    ):
        runs = {name: [dict(r) for r in v["runs"]] for name, v in record["variants"].items()}
        for each in (each for name in runs for each in runs[name]):
            each.update(change)
            if change.get("val_top1", 1) is None:
                del each["val_top1"]
        variants = {name: v | {"runs": runs[name]} for name, v in record["variants"].items()}
        path.write_text(json.dumps(record | {"variants": variants}), encoding="utf-8")
        small, other = write(home, entry, row)
        recipe = run.seeded(other, "shift", 0)
        assert run.recorded(run.rows_with_results(), other, recipe, run.facts(1)) is None


def test_a_lost_result_is_written_from_the_run_folders(home, entry, asked):
    (row,) = write(home, entry)
    run.run_rows([row], jobs=1, tell=lambda line: None)
    before = result(home)
    results.result_file("small").unlink()
    run.run_rows([row], jobs=1, tell=lambda line: None)
    assert result(home) == before  # the seconds, too: nothing was trained


def test_a_failed_run_does_not_stop_the_others(home, entry, asked):
    diverges = change(entry, "variants.still.recipe", {"lr": 1e30, "grad_clip": 0, "warmup_epochs": 0})
    (row,) = write(home, diverges)
    failed = run.run_rows([row], jobs=1, tell=lambda line: None)
    assert len(failed) == 2 and all("training diverged at step" in sentence for sentence in failed)
    assert [sentence.partition(":")[0] for sentence in failed] == ["small", "small"]
    assert results.state(row)["state"] == "2 of 4 runs"
    assert [len(v["runs"]) for v in result(home)["variants"].values()] == [2, 0]
    run.run_rows([row], jobs=1, tell=lambda line: None)
    assert len(asked) == 6  # only the failed ones are tried again


def test_a_bug_in_a_run_is_one_sentence_and_its_place_is_kept(home, entry, asked, monkeypatch):
    monkeypatch.setattr(worker, "evaluate", lambda *args, **settings: {}["nothing"])
    (row,) = write(home, entry)
    assert run.run_rows([row], jobs=1, tell=lambda line: None)[0] == "small: shift, seed 0: KeyError: 'nothing'"
    (text, *_) = sorted((home / "runs" / "experiments").glob("small-*/*.error.txt"))
    assert "Traceback" in text.read_text(encoding="utf-8")


def test_only_one_command_at_a_time(home, entry, asked):
    (row,) = write(home, entry)
    (home / "runs" / "experiments").mkdir(parents=True)
    with files.alone(home / "runs" / "experiments" / ".lock"):
        with pytest.raises(CourseError, match="another run is at work in"):
            run.run_rows([row])
    assert asked == []


def test_as_many_runs_as_cores_and_memory_allow(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 4)
    monkeypatch.setattr(machine, "memory_limit", lambda: 5 * run.MEMORY // 2)
    assert [run.at_once(n, run.MEMORY) for n in (1, 2, 9)] == [1, 2, 2]
    monkeypatch.setattr(machine, "memory_limit", lambda: 100 * run.MEMORY)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("memory", (), {"available": 100 * run.MEMORY}))
    assert [run.at_once(n, run.MEMORY) for n in (3, 9)] == [3, 4]
    monkeypatch.setattr(machine, "memory_limit", lambda: 1)
    assert run.at_once(9, run.MEMORY) == 1


def test_frames_are_kept_for_the_next_run(clips, monkeypatch):
    recipe = Recipe(model="video_swin_mini", data=clips, frames=4, stride=1, size=32, keep=32)
    opened = []
    real = KeptFrames._open
    monkeypatch.setattr(KeptFrames, "_open", lambda self, row: opened.append(row["path"]) or real(self, row))
    monkeypatch.setattr(KeptFrames, "shared", {})
    for times, expected in ((1, 10), (2, 10), (3, 10)):
        train, val = open_data(dataclasses.replace(recipe, seed=times))
        seen = [train[0, i]["clip"] for i in range(6)] + [val[i]["clip"] for i in range(4)]
        assert len(opened) == expected
    _, other = open_data(dataclasses.replace(recipe, stride=2))  # keeps other frames of the same files
    other[0]
    assert len(opened) == 11
    monkeypatch.setattr(KeptFrames, "shared", None)
    train, val = open_data(dataclasses.replace(recipe, seed=3))
    alone = [train[0, i]["clip"] for i in range(6)] + [val[i]["clip"] for i in range(4)]
    assert all(torch.equal(a, b) for a, b in zip(seen, alone)) and len(opened) == 21


# ---------------------------------------------------------------- again


def test_verify_makes_a_run_again(home, entry, asked):
    (row,) = write(home, entry)
    with pytest.raises(CourseError, match="no run of small is recorded; run it first with vt-course"):
        run.verify("small")
    run.run_rows([row], jobs=1, tell=lambda line: None)
    found = run.verify("small")
    assert found["good"] and found["same_machine"] and asked[-1]["out"] is None and len(asked) == 5
    assert [each["tolerance"] for each in found["rows"]] == [0.0]

    path, told = results.result_file("small"), result(home)
    for variant in told["variants"].values():
        for made in variant["runs"]:
            made["train_loss"] += 1e-12
    path.write_text(json.dumps(told), encoding="utf-8")
    assert not run.verify("small")["good"]
    for variant in told["variants"].values():
        for made in variant["runs"]:
            made["processor"] = "another"
    path.write_text(json.dumps(told), encoding="utf-8")
    found = run.verify("small")  # there, only accuracies within a tolerance are asked for
    assert found["good"] and not found["same_machine"] and "another kind of machine" in found["verdict"]
    assert found["rows"][0]["tolerance"] >= 0
    write(home, entry | {"expectation": "Something else."})
    with pytest.raises(CourseError, match="the row small has changed since its result"):
        run.verify("small")


# ---------------------------------------------------------------- the command


def command(capsys, *argv):
    code = cli.main(["experiments", *argv])
    return code, *capsys.readouterr()


def test_the_command(home, entry, asked, capsys):
    write(home, entry, entry | {"id": "other", "seeds": [3]})
    code, out, err = command(capsys, "--list")
    assert code == 0 and re.search(r"^small +not run +2\.00  Does it run\?$", out, re.MULTILINE) and asked == []
    code, out, err = command(capsys, "--only", "othr")
    assert code == 2 and "unknown experiment 'othr'; did you mean other?" in err
    code, out, err = command(capsys, "--only", "other", "--jobs", "1")
    assert code == 0 and re.search(r"^other +still +normal +1 .* undecided$", out, re.MULTILINE)
    assert "2/2  other: still, seed 3: " in err
    code, out, err = command(capsys, "--json", "--jobs", "1")
    assert code == 0 and [each["id"] for each in json.loads(out)["results"]] == ["small", "other"] and len(asked) == 6
    code, out, err = command(capsys, "--list", "--json")
    assert [row["state"] for row in json.loads(out)] == ["done", "done"]
    code, out, err = command(capsys, "--verify", "other")
    assert code == 0 and "equal, on the same kind of machine" in out
    write(home, change(entry, "variants.still.recipe", {"lr": 1e30, "grad_clip": 0, "warmup_epochs": 0}))
    code, out, err = command(capsys, "--jobs", "1")
    assert code == 1 and err.count("vt-course: small: still") == 2


# ---------------------------------------------------------------- processes


@pytest.mark.posix("SIGKILL")
def test_a_process_that_dies_is_replaced(monkeypatch):
    """Each answers with its PID; the job "die" ends it without an answer."""
    script = """
        import json, os, signal, sys
        for line in sys.stdin:
            job = json.loads(line)
            if job == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            print(json.dumps({"job": job, "pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}), flush=True)
    """
    monkeypatch.setattr(run, "COMMAND", [sys.executable, "-c", textwrap.dedent(script)])
    answers = dict(run.in_workers(["a", "die", "b", "c"], 1))
    assert "its process ended with signal 9, perhaps for want of memory" in answers[1]["error"]
    assert [answers[i]["job"] for i in (0, 2, 3)] == ["a", "b", "c"] and answers[0]["threads"] == "1"
    assert answers[0]["pid"] != answers[2]["pid"] == answers[3]["pid"]


DRIVER = """
    import signal
    import sys
    from pathlib import Path
    from vt_course.cli import main
    from vt_course.training.experiments import rows

    signal.signal(signal.SIGINT, signal.default_int_handler)  # if the tests run in the background, it is ignored
    rows.repo_root = lambda: Path(sys.argv[1])
    sys.exit(main(["experiments", "--jobs", "1"]))
"""


@pytest.mark.slow
@pytest.mark.posix("signals between processes")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_a_killed_command_goes_on(home, entry, asked, name):
    """The first run is kept, and the one that was interrupted goes on from its own checkpoint."""
    long = change(entry, "seeds", [0])
    long["variants"]["shift"]["recipe"] = {"epochs": 1}
    long["recipe"]["epochs"] = 20
    (row,) = write(home, long)
    number = getattr(signal, name)  # Windows does not have both
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRIVER), str(home)], stderr=subprocess.PIPE, encoding="utf-8"
    )
    runs = home / "runs" / "experiments" / f"small-{rows.digest(row.depends_on())[:8]}"
    second, path = runs / "1-0", results.result_file("small")
    deadline = time.monotonic() + 60
    while not (path.is_file() and state_path(second)) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(driver.pid, number)
    code, err = driver.wait(60), driver.stderr.read()
    assert code == (130 if number == signal.SIGINT else -number), err
    before = result(home)
    assert [len(v["runs"]) for v in before["variants"].values()] == [1, 0]
    with files.alone(runs / "1-0.lock"):  # the worker has ended
        assert 0 < read_state(second)["progress"]["epoch"] < 20
    (home / "runs" / "experiments" / ".lock").unlink(missing_ok=True)

    assert run.run_rows([row], jobs=1, tell=lambda line: None) == []
    assert len(asked) == 1
    after = result(home)
    assert after["variants"]["shift"]["runs"] == before["variants"]["shift"]["runs"]
    whole = worker.train_and_test(dataclasses.replace(row.recipes["still"], seed=0), row.test, home / "whole")
    (resumed,) = after["variants"]["still"]["runs"]
    for key in ("top1", "train_loss", "steps"):
        assert resumed[key] == whole[key]
