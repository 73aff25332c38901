"""Drawn images, and what is trained on them."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from vt_course import CourseError, repo_root
from vt_course.data import images, open_spec
from vt_course.data.clips import collate
from vt_course.data.images import SHAPES, Shapes, draw
from vt_course.models import create, mini_weights
from vt_course.training import fit, folder
from vt_course.training.checkpoint import load_run
from vt_course.training.evaluate import evaluate, evaluate_run, open_data
from vt_course.training.experiments.rows import read_rows
from vt_course.training.recipes import Recipe, recipe_for

QUIET = dict(device="cpu", workers=0, progress=False)
SMALL = {"embed_dim": 8, "depths": [1, 1, 1], "num_heads": [1, 1, 1]}


def digest(image):
    return hashlib.sha256(image.tobytes()).hexdigest()


# ---------------------------------------------------------------- drawing


def test_an_image_is_a_function_of_its_key():
    image = draw("star", 64, (0, 0, 0, 4))
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    assert np.array_equal(image, draw("star", 64, (0, 0, 0, 4)))
    assert not np.array_equal(image, draw("star", 64, (0, 0, 0, 5)))


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_shape_is_whole_and_has_the_stated_area(shape, size):
    """The bright pixels are the shape: its area is that of a disc of 0.22 to 0.30 sides, no border is touched."""
    areas = []
    for i in range(25):
        bright = draw(shape, size, (7, i)).max(-1) > 235  # (S, S)
        areas.append(bright.mean())
        rim = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
        assert rim.mean() < 0.04
    assert 0.8 * np.pi * 0.22**2 < min(areas) and max(areas) < 1.1 * np.pi * 0.30**2
    assert max(areas) > 1.3 * min(areas)


def test_the_middle_of_the_shape_is_where_it_should_be():
    """A circle's bright pixels fill a disc: as wide as high, area pi r^2."""
    bright = draw("circle", 128, (1, 2)).max(-1) > 235
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    high, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert abs(int(high) - int(wide)) <= 1
    assert bright.sum() == pytest.approx(np.pi * (high / 2) ** 2, rel=0.05)


def test_shapes_turn_and_differ():
    def side(shape, key):
        bright = draw(shape, 96, key).max(-1) > 235
        return np.ptp(np.flatnonzero(bright.any(1))), np.ptp(np.flatnonzero(bright.any(0)))

    ratios = [a / b for a, b in (side("ellipse", (3, i)) for i in range(20))]
    assert min(ratios) < 0.7 and max(ratios) > 1.4  # lying and standing
    assert len({digest(draw(shape, 64, (0, 0))) for shape in SHAPES}) == 8


# ---------------------------------------------------------------- the data set


def test_samples_are_like_those_of_a_video_folder():
    data = Shapes("train", size=64)
    batch = collate([data[3, 5], data[3, 14]])
    assert batch["clip"].shape == (2, 3, 1, 64, 64) and batch["clip"].dtype == torch.float32
    assert batch["label"].tolist() == [5, 6] and batch["index"].tolist() == [5, 14] and batch["bad"] == []
    assert data.classes == SHAPES and len(data) == 4000 and len(Shapes("val", size=64)) == 1000
    with pytest.raises(IndexError):
        data[4000]


def test_training_never_repeats_a_scene_and_depends_on_the_seed():
    data = Shapes("train", size=32)
    seen = {digest(data.image(i, epoch)) for epoch in range(3) for i in range(24)}
    assert len(seen) == 72
    again = Shapes("train", size=32)
    assert torch.equal(data[1, 9]["clip"], again[1, 9]["clip"])
    assert not torch.equal(data[1, 9]["clip"], Shapes("train", size=32, seed=1)[1, 9]["clip"])


def test_validation_is_fixed_and_never_seen_in_training():
    val = Shapes("val", size=32)
    held = [digest(val.image(i)) for i in range(200)]
    assert len(set(held)) == 200
    assert held == [digest(Shapes("val", size=32, seed=3).image(i, epoch=2)) for i in range(200)]
    for seed in range(3):
        train = Shapes("train", size=32, seed=seed)
        assert not set(held) & {digest(train.image(i, epoch)) for epoch in range(2) for i in range(200)}
    test = Shapes("test", size=32)
    assert len(test) == 2000 and not set(held) & {digest(test.image(i)) for i in range(200)}


@pytest.mark.parametrize(
    "settings",
    [
        dict(split="tests", size=64),
        dict(split="val", size=16),
        dict(split="val", size=65),
        dict(split="val", size=64, count=7),
    ],
)
def test_what_cannot_be_drawn_is_refused(settings):
    with pytest.raises(CourseError, match="choose train, val or test"):
        Shapes(**settings)


# ---------------------------------------------------------------- spec, recipe, training


def test_the_spec_needs_no_files():
    spec = open_spec("images:shapes")
    assert spec.classes == SHAPES and spec.train is None and spec.val is None
    with pytest.raises(CourseError, match="images:shapes"):
        open_spec("images:colours")


def test_the_recipe_opens_both_splits():
    recipe = recipe_for("swin_mini")
    train, val = open_data(dataclasses.replace(recipe, seed=5))
    assert (train.split, train.seed, train.size) == ("train", 5, 64) and (val.split, len(val)) == ("val", 1000)
    with pytest.raises(CourseError, match="images, not clips of 8 frames; train with frames=1"):
        open_data(dataclasses.replace(recipe, frames=8))


def test_a_recipe_carries_settings_of_the_model():
    recipe = Recipe(model="swin_mini", config={"shift": False, "depths": [2, 2, 4]})
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe(model="swin_mini").override(['config={"shift": false}']).config == {"shift": False}
    for wrong in ("config=shift", "config=3", 'config={"drop_path": 0.5}'):
        with pytest.raises(CourseError, match="recipe setting config="):
            recipe.override([wrong])


@pytest.fixture
def few(monkeypatch):
    """Few images; the picture of the run is blank: drawing takes longer than training."""
    monkeypatch.setattr(images, "COUNTS", {"train": 32, "val": 16, "test": 16})
    monkeypatch.setattr(folder, "curves", lambda *rows_classes_title: Figure(figsize=(1, 1)))


def test_a_run_on_images_can_be_resumed_and_read_back(few, tmp_path):
    recipe = dataclasses.replace(
        recipe_for("swin_mini"), config=SMALL | {"shift": False}, batch_size=8, epochs=2, warmup_epochs=1
    )
    whole = fit.fit(recipe, tmp_path / "whole", **QUIET)
    fit.fit(recipe, tmp_path / "parts", **QUIET, max_steps=5)
    parts = fit.fit(recipe, tmp_path / "parts", **QUIET)
    assert whole["steps"] == parts["steps"] == 8 and whole["last"]["val_loss"] == parts["last"]["val_loss"]
    config = json.loads((tmp_path / "whole" / "config.json").read_text(encoding="utf-8"))
    assert config["manifests"] == {"train": "32 drawn images, version 1", "val": "16 drawn images, version 1"}
    model, used = load_run(tmp_path / "whole", "last")
    assert used == recipe and not any(any(block.attn.shift) for stage in model.layers for block in stage.blocks)
    assert evaluate_run(tmp_path / "whole", device="cpu", workers=0, progress=False)["n"] == 16


def test_a_setting_the_model_lacks_is_named(few, tmp_path):
    with pytest.raises(CourseError, match="has no setting shifts"):
        fit.fit(
            Recipe(model="swin_mini", data="images:shapes", frames=1, config={"shifts": False}),
            tmp_path / "run",
            **QUIET,
        )


def test_the_position_embedding_has_no_decay():
    model = create("swin_mini", ape=True)
    decay, keep = fit.parameter_groups(model, 0.05)
    assert any(p is model.absolute_pos_embed for p in keep["params"])
    assert not any(p is model.absolute_pos_embed for p in decay["params"])


# ---------------------------------------------------------------- the ablation of experiments.yaml


def test_variants_differ_in_what_they_say():
    row = next(row for row in read_rows() if row.id == "swin-shift-and-bias")
    base, still, none, absolute = (create("swin_mini", **recipe.config) for recipe in row.recipes.values())
    shifts = [[any(block.attn.shift) for stage in model.layers for block in stage.blocks] for model in (base, still)]
    assert shifts == [[False, True] * 3, [False] * 6]
    names = [{name.rpartition(".")[2] for name in model.state_dict()} for model in (base, none, absolute)]
    assert ["relative_position_bias_table" in each for each in names] == [True, False, False]
    assert ["absolute_pos_embed" in each for each in names] == [False, False, True]
    assert all(recipe.epochs == 3 and recipe.model == "swin_mini" for recipe in row.recipes.values())


# ---------------------------------------------------------------- the weights that ship


def test_the_shipped_weights_see_the_shapes():
    record = json.loads((repo_root() / "results" / "swin_mini_images.json").read_text(encoding="utf-8"))
    model, recipe = load_run(mini_weights("swin_mini"))
    assert recipe == recipe_for("swin_mini") == Recipe.from_json(json.dumps(record["recipe"]))
    scores = evaluate(model, Shapes("val", size=recipe.size, count=200), **QUIET)
    assert scores["top1"] > record["last"]["val_top1"] - 0.05
