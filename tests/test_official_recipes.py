"""Recipes by name: every model of the zoo has one that can be built, the published ones say what their source says."""

import csv
import dataclasses
import os
import re
from pathlib import Path

import pytest
import torch
from test_cli import refused, run, run_json

from vt_course import CourseError
from vt_course.data import transforms
from vt_course.data.reader import ClipReader
from vt_course.models import ZOO
from vt_course.models.cost import count_macs, count_parameters
from vt_course.training import evaluate, recipes
from vt_course.training.checkpoint import build_model
from vt_course.training.evaluate import open_data
from vt_course.training.fit import fit
from vt_course.training.official_recipes import NAMES, PUBLISHED, TINY10_RECIPES, name_for, recipe_table, resolve
from vt_course.training.protocols import to_floats
from vt_course.training.recipes import RECIPES, Recipe
from vt_course.training.trained import published, shown_by

from videos import write_video


def numbers(recipe: Recipe, *names) -> tuple:
    return tuple(getattr(recipe, name) for name in names)


BASIC = ("optimizer", "lr", "batch_size", "epochs", "warmup_epochs", "weight_decay", "drop_path")


@pytest.mark.parametrize(
    "model, basic, more",
    [
        # Swin appendix A2.1
        ("swin_base", ("adamw", 1e-3, 1024, 300, 20, 0.05, 0.5), dict(grad_clip=1.0, mixup=0.8, frames=1, stride=1)),
        # swin_{tiny,base}_patch244_window877_kinetics400_{1k,22k}.py, swin_base_patch244_window1677_sthv2.py
        ("video_swin_tiny", ("adamw", 1e-3, 256, 30, 2.5, 0.02, 0.1), dict(backbone_lr=0.1, stride=2, flip=0.5)),
        ("video_swin_base", ("adamw", 1e-3, 512, 30, 2.5, 0.05, 0.3), dict(backbone_lr=0.1, mixup=0.0)),
        ("video_swin_base_22k", ("adamw", 3e-4, 512, 30, 2.5, 0.05, 0.2), dict(decays="biases")),
        ("video_swin_base_ssv2", ("adamw", 3e-4, 512, 60, 2.5, 0.05, 0.4), dict(flip=0.0, erasing=0.25)),
        # MVIT_B_16x4_CONV.yaml (1e-4 for 16 videos, each twice), SSv2/MVITv2_S_16x4.yaml
        ("mvit_base_16x4", ("adamw", 1.6e-3, 512, 200, 30, 0.05, 0.2), dict(repeats=2, grad_clip=1.0, stride=4)),
        ("mvit_v2_base_32x3", ("adamw", 1.6e-3, 512, 200, 30, 0.05, 0.3), dict(randaugment=(4, 7), stride=3)),
        ("mvit_v2_small_16x4_ssv2", ("nesterov", 2.5e-3, 16, 100, 3, 1e-4, 0.4), dict(flip=0.0, sampling="uniform")),
        # TimeSformer section 4
        ("timesformer_divided_8x224", ("sgd", 5e-3, 16, 15, 0, 1e-4, 0.1), dict(milestones=(11, 14), decays="all")),
        ("timesformer_l_96x224", ("sgd", 5e-3, 16, 15, 0, 1e-4, 0.1), dict(stride=4, frames=96)),
        # UniFormer appendix C, run.sh (1e-4 for 32 videos, each twice)
        ("uniformer_small_16", ("adamw", 1e-4, 64, 110, 10, 0.05, 0.1), dict(repeats=2, cutmix=1.0, flip=0.5)),
        ("uniformer_base_8", ("adamw", 1e-4, 64, 100, 10, 0.05, 0.3), dict(stride=8)),
        ("uniformer_base_16_ssv2", ("adamw", 2e-4, 64, 50, 5, 0.05, 0.4), dict(flip=0.0)),
    ],
)
def test_published_numbers(model, basic, more):
    recipe = PUBLISHED[name_for(model)].recipe(model)
    assert numbers(recipe, *BASIC) == basic
    assert {name: getattr(recipe, name) for name in more} == more


@pytest.mark.parametrize("model", ZOO)
def test_every_model_has_a_recipe_at_the_size_it_is_built_for(model):
    recipe, told = resolve(model, None, ["data=folder:x"])
    _, *frames, height, width = ZOO[model].input
    assert (recipe.frames, recipe.size) == ((frames or [1])[0], height) and height == width
    assert recipe.data == "folder:x" and recipe.model == model and recipe.batch_size <= 16
    assert (told is None) == (model in RECIPES)
    assert told is None or (name_for(model) or "a plain one") in told
    if model not in RECIPES and name_for(model):
        published = PUBLISHED[name_for(model)].recipe(model)
        assert recipe.lr / published.lr == pytest.approx(recipe.batch_size / published.batch_size)


@pytest.mark.parametrize("name, recipe", TINY10_RECIPES.items(), ids=list(TINY10_RECIPES))
def test_recipes_for_ten_classes_lie_between_mini_and_small(name, recipe):
    """5 to 13 million parameters, 3 to 14 GMACs, 16 frames of 128 pixels, in the same regime; they survive JSON."""
    assert Recipe.from_json(recipe.to_json()) == recipe
    with torch.device("meta"):
        model = build_model(recipe, 10)
        assert 5e6 < count_parameters(model) < 13e6
        assert 3e9 < count_macs(model, (1, 3, recipe.frames, recipe.size, recipe.size)) < 14e9
    other = TINY10_RECIPES["tiny10-mvit"]
    assert dataclasses.replace(recipe, model="", config={}) == dataclasses.replace(other, model="", config={})


def test_a_recipe_fits_the_batch_at_hand():
    recipe, told = resolve("mvit_base_16x4", None, ["data=folder:x"])
    assert (recipe.batch_size, recipe.lr) == (16, pytest.approx(5e-5))
    assert told.endswith("scaled: batch_size=16 for 512, so lr=5e-05 for 0.0016") and "MVIT_B_16x4_CONV.yaml" in told
    recipe, told = resolve("mvit_base_16x4", "mvit_k400", ["data=folder:x", "batch_size=512"])
    assert recipe == dataclasses.replace(PUBLISHED["mvit_k400"].recipe("mvit_base_16x4"), data="folder:x")
    assert told.endswith("as published")
    recipe, told = resolve("timesformer_divided_8x224", None, ["data=folder:x", "epochs=30", "batch_size=4", "lr=0.1"])
    assert (recipe.lr, recipe.milestones, recipe.epochs) == (0.1, (22, 28), 30)
    assert told.endswith("scaled: batch_size=4 for 16, epochs=30 for 15")
    recipe, _ = resolve(None, "uniformer_k400", ["data=folder:x", "epochs=11", "warmup_epochs=2"])
    assert (recipe.model, recipe.warmup_epochs, recipe.batch_size) == ("uniformer_small_16", 2, 16)


def test_a_recipe_of_another_model():
    recipe, _ = resolve("timesformer_mini", "mvit_k400", ["data=folder:x"])
    assert (recipe.model, recipe.frames, recipe.size, recipe.drop_path) == ("timesformer_mini", 8, 32, 0.0)
    recipe, told = resolve("mvit_mini", "tiny10-uniformer", ["data=folder:x"])
    assert (recipe.model, recipe.config, recipe.size, told) == ("mvit_mini", {}, 128, None)
    assert resolve("mvit_mini", None, []) == (RECIPES["mvit_mini"], None)
    assert resolve(None, "mvit_mini", ["lr=1"])[0] == dataclasses.replace(RECIPES["mvit_mini"], lr=1.0)


def test_kinetics_is_the_default_where_it_was_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("VT_COURSE_DATA", str(tmp_path))
    with pytest.raises(
        CourseError, match="has no clips of Kinetics: name clips with --data, or fetch ten classes with"
    ):
        resolve(None, "tiny10-mvit", [])
    (tmp_path / "kinetics").mkdir()
    (tmp_path / "kinetics" / "train.csv").touch()
    folder = tmp_path / "kinetics"
    assert resolve(None, "tiny10-mvit", [])[0].data == f"csv:{folder / 'train.csv'},{folder / 'val.csv'}"


def test_recipes_on_the_command_line(tmp_path):
    rows = run_json("recipes")
    assert [row["name"] for row in rows] == list(NAMES) and all(row["source"] and row["grade"] for row in rows)
    assert rows[-1]["settings"]["randaugment"] == [4, 7]
    assert [row["name"] for row in run_json("recipes", "tiny10", "mvit_v2")] == ["tiny10-mvit_v2"]
    code, out, err = run("recipes")
    assert (code, err) == (0, "") and len(out.splitlines()) == 1 + len(NAMES)
    code, out, err = run("recipes", "uniformer")
    assert (code, err) == (0, "") and len(out.splitlines()) == 1 + sum("uniformer" in name for name in NAMES)
    assert "No name contains" in refused("recipes", "resnet")
    out = ["--out", tmp_path / "x"]
    assert "unknown recipe 'tiny10-mvitv2': did you mean tiny10-mvit_v2?" in refused(
        "train", "--recipe", "tiny10-mvitv2", *out
    )
    assert "unknown recipe 'uniformer_k40': did you mean uniformer_k400?" in refused(
        "train", "--recipe", "uniformer_k40", *out
    )
    assert "unknown model 'mvit_bas_16x4': did you mean mvit_base_16x4?" in refused("train", "mvit_bas_16x4", *out)
    assert "name a model, or a recipe with --recipe" in refused("train", *out)
    assert "milestones" in refused("train", "mvit_mini", *out, "--set", "milestone=3")
    assert not (tmp_path / "x").exists()


def test_every_recipe_says_where_it_was_read():
    for row in recipe_table():
        assert row["grade"] in ("code", "paper, code", "partly", "ours")
        assert row["grade"] == "ours" or re.search(r"(section|appendix|configs/|run\.sh)", row["source"])
        assert row["grade"] != "partly" or row["differs"]


@pytest.mark.dear
@pytest.mark.parametrize("name", TINY10_RECIPES)
@pytest.mark.skipif(not os.environ.get("VT_COURSE_CLIPS"), reason="VT_COURSE_CLIPS names no folder of real clips")
def test_from_a_folder_in_kinetics_layout_to_a_trained_run(name, tmp_path, monkeypatch):
    """Real clips as `vt-course data kinetics` leaves them: four clips are learnt by heart, without augmentation.

    The folder of VT_COURSE_CLIPS has a subfolder for each class, as of `vt-course gpu-report --clips`.
    """
    kinetics = kinetics_folder(Path(os.environ["VT_COURSE_CLIPS"]), tmp_path / "kinetics")
    monkeypatch.setenv("VT_COURSE_DATA", str(tmp_path))
    few = ["epochs=2", "warmup_epochs=0.25", "batch_size=4", "stride=1"]
    plain = ["randaugment=0,0", "erasing=0", "crop_scale=1,1", "flip=0", "label_smoothing=0", "drop_path=0"]
    recipe, _ = resolve(None, name, few + plain)
    assert str(kinetics) in recipe.data
    summary = fit(recipe, tmp_path / "run", device="cpu", workers=0, progress=False)
    with open(tmp_path / "run" / "metrics.csv", newline="", encoding="utf-8") as file:
        first, last = (float(row["train_loss"]) for row in csv.DictReader(file))
    assert summary["finished"] and summary["steps"] == 8 and not any(summary["bad_clips"].values())
    assert last < 0.9 * first
    assert evaluate.evaluate_run(tmp_path / "run", device="cpu", workers=0, progress=False)["n"] == 4


def kinetics_folder(clips: Path, folder: Path) -> Path:
    """Links to clips of four classes in the layout of Kinetics: train/LABEL/ID_S_E.mp4, val/..., train.csv, val.csv.

    Each class has one clip for training, which is listed four times, and one for validation.
    """
    classes = [each for each in sorted(clips.iterdir()) if each.is_dir() and len(list(each.glob("*.mp4"))) >= 20][:4]
    for number, (split, times) in enumerate((("train", 4), ("val", 1))):
        rows = []
        for label in classes:
            name = f"{split}/{label.name}/{label.name:_<11.11}_{number:06d}_{number + 10:06d}.mp4"
            (folder / name).parent.mkdir(parents=True)
            (folder / name).symlink_to(sorted(label.glob("*.mp4"))[number])
            rows += [(name, label.name.replace("_", " "), "", "")] * times
        with open(folder / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "label", "start", "end"), *rows])
    return folder


# ------------------------------------------------------------------------- colours


@pytest.mark.parametrize(
    "model, pixels, bgr",
    [
        ("video_swin_base", recipes.IMAGENET, False),
        ("mvit_base_16x4", recipes.GREY, False),
        ("mvit_v2_large_40x3", recipes.IMAGENET, False),
        ("mvit_v2_small_16x4_ssv2", recipes.GREY, True),
        ("timesformer_divided_8x224", recipes.GREY, False),
        ("uniformer_small_16", recipes.GREY, False),
    ],
)
def test_a_model_trains_on_the_colours_that_its_weights_are_shown(model, pixels, bgr):
    """The recipe says what `published` says of the released weights."""
    recipe = PUBLISHED[name_for(model)].recipe(model)
    assert dict(mean=recipe.mean, std=recipe.std) == pixels and recipe.bgr == bgr
    data = "ssv2_16x4" if model.endswith("ssv2") else "k400_16x4"
    shown = published(f"{model}/{data}", model, {"num_frames": recipe.frames})["shown"]
    assert (shown.mean, shown.std, shown.bgr) == (recipe.mean, recipe.std, recipe.bgr)


def test_colours_reach_training_validation_and_every_later_test(tmp_path):
    """Against torch's arithmetic: (pixels / 255 - mean) / std, blue first."""
    write_video(tmp_path / "a.mp4", size=(32, 32), frames=8)
    (tmp_path / "a.csv").write_text("path,label,start,end\na.mp4,a,,\na.mp4,b,,\n", encoding="utf-8")
    grey = Recipe("mvit_mini", data=f"csv:{tmp_path / 'a.csv'},{tmp_path / 'a.csv'}", frames=4, stride=1, size=32)
    grey = dataclasses.replace(grey, **recipes.GREY, bgr=True, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    frames = torch.from_numpy(ClipReader(tmp_path / "a.mp4").read(range(2, 6)))  # (T, H, W, C), the centre
    wanted = ((frames.flip(-1) / 255 - 0.45) / 0.225).permute(3, 0, 1, 2)  # (C, T, H, W)
    train, val = open_data(grey)
    assert torch.allclose(val[0]["clip"], wanted, atol=1e-5)
    blue = train[0]["clip"][0]  # a random start, the whole picture: one of the clips of four frames, blue first
    every = torch.from_numpy(ClipReader(tmp_path / "a.mp4").read(range(8)))[..., 2]  # (T, H, W)
    assert any(torch.allclose(blue, (every[k : k + 4] / 255 - 0.45) / 0.225, atol=1e-5) for k in range(5))
    shown = shown_by(grey)
    assert torch.allclose(to_floats(frames[None], shown)[0], wanted, atol=1e-5)
    assert torch.allclose(open_data(dataclasses.replace(grey, keep=32))[1][0]["clip"], wanted, atol=1e-5)
    with pytest.raises(CourseError, match="images that are drawn with ImageNet's"):
        open_data(dataclasses.replace(grey, model="swin_mini", data="images:shapes", frames=1))


def test_the_default_colours_are_those_of_the_transforms():
    assert recipes.IMAGENET == dict(mean=transforms.IMAGENET_MEAN, std=transforms.IMAGENET_STD)
