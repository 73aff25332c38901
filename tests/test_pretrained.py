"""Folders from which a model can be used again, and the card that says what it is."""

import json
import re
import shutil
import sys

import huggingface_hub
import pytest
import torch

from vt_course import CourseError
from vt_course.models import create
from vt_course.training import pretrained
from vt_course.training.checkpoint import save_weights
from vt_course.training.pretrained import from_pretrained, save_pretrained
from vt_course.training.protocols import Shown
from vt_course.training.trained import open_model

from weights import shake

MINI = "timesformer_mini"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_pretrained(MINI, tmp_path_factory.mktemp("pretrained") / "a")


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_a_mini_comes_back_as_it_was(folder):
    trained, again = open_model(MINI), from_pretrained(folder)
    assert (again.classes, again.shown, again.recipe) == (trained.classes, trained.shown, trained.recipe)
    state = trained.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in again.model.state_dict().items())
    assert open_model(folder).classes == trained.classes  # so every verb takes the folder
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}


def test_the_facts_travel_with_the_weights(folder):
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    trained = open_model(folder / "model.safetensors")
    assert told == json.loads(trained.header["vt_course"])
    assert told["input"]["mean"] == [0.485, 0.456, 0.406] and told["input"]["frames"] == 8
    assert told["model"] == MINI and told["settings"]["num_classes"] == 8 and told["classes"][0] == "left"


@pytest.mark.parametrize("name", ["mvit_mini", "swin_mini"])  # settings by the number of a block; images
def test_a_model_trained_elsewhere(name, tmp_path):
    settings = dict(dim_mul={1: 2, 3: 2}) if name == "mvit_mini" else {}
    model = shake(create(name, num_classes=3, **settings))
    shown = Shown(8 if settings else 1, 2, 32, mean=(0.5,) * 3, bgr=True)
    save_pretrained(model, tmp_path / "a", classes=["x", "y", "z"], shown=shown, trained_on="my films")
    again = from_pretrained(tmp_path / "a")
    assert (again.classes, again.shown, again.trained_on) == (("x", "y", "z"), shown, "my films")
    assert all(torch.equal(again.model.state_dict()[key], value) for key, value in model.state_dict().items())
    card = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    assert "license: other" in card and "Not decided. It depends on what the owners of my films allow." in card
    with pytest.raises(CourseError, match="give save_pretrained the classes"):
        save_pretrained(model, tmp_path / "b")
    with pytest.raises(CourseError, match="Linear was not built by vt_course.models.create"):
        save_pretrained(torch.nn.Linear(1, 1), tmp_path / "b", classes=["x"], shown=shown)


def test_published_weights_keep_their_licence(tmp_path):
    model = shake(create(MINI))
    told = dict(
        model=MINI, settings={"num_classes": 8}, release=f"{MINI}/ssv2", url="https://x.org/a", licence="CC BY-NC 4.0"
    )
    save_weights(tmp_path / "a.safetensors", model, told)
    save_pretrained(tmp_path / "a.safetensors", tmp_path / "b")
    again = from_pretrained(tmp_path / "b")
    assert all(torch.equal(again.model.state_dict()[key], value) for key, value in model.state_dict().items())
    card = (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    assert "\nCC BY-NC 4.0.\n" in card and "license: other" in card and "https://x.org/a" in card


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


FOREIGN = {
    "no folder": (lambda f: shutil.rmtree(f), "there is no folder"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
    "nothing": (lambda f: [path.unlink() for path in f.iterdir()], "has no config.json and no model.safetensors"),
    "truncated": (lambda f: truncate(f / "model.safetensors"), "is not a readable safetensors file"),
    "no JSON": (lambda f: (f / "config.json").write_text("{", encoding="utf-8"), "config.json is not"),
    "of another library": (
        lambda f: (f / "config.json").write_text('{"model_type": "swin"}', encoding="utf-8"),
        "config.json is not one of vt_course",
    ),
    "classes changed": (
        lambda f: (f / "config.json").write_text(
            (f / "config.json").read_text(encoding="utf-8").replace("left", "links"), encoding="utf-8"
        ),
        "do not belong together: they differ in classes",
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_folder_that_is_damaged_or_foreign(what, copy):
    change, message = FOREIGN[what]
    change(copy)
    with pytest.raises(CourseError, match=message) as error:
        from_pretrained(copy)
    assert str(copy) in str(error.value) and "\n" not in str(error.value)


def test_weights_of_another_program(copy):
    import safetensors.torch

    safetensors.torch.save_file({"w": torch.zeros(3)}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(CourseError, match="has no recipe in its header"):
        from_pretrained(copy)


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("my thesis", encoding="utf-8")
    with pytest.raises(CourseError, match="holds other files"):
        save_pretrained(MINI, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# ---------------------------------------------------------------- the hub


def test_an_address_on_the_hub(folder, monkeypatch):
    asked = []

    def download(address, revision, allow_patterns):
        asked.append((address, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert from_pretrained("ann/clips", revision="v1").classes[0] == "left"
    assert asked == [("ann/clips", "v1", ["config.json", "model.safetensors", "README.md"])]


def test_a_hub_that_does_not_answer(monkeypatch):
    def download(*args, **settings):
        raise ConnectionError("no route to host\nand so on")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(
        CourseError, match=r"no folder ann/clips, and the hub did not give it \(no route to host\); check"
    ):
        from_pretrained("ann/clips")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CourseError, match="needs the package huggingface_hub, which is not installed: pip install"):
        from_pretrained("ann/clips")


# ---------------------------------------------------------------- the card

ROWS = [{"epoch": 1, "val_top1": 0.9}, {"epoch": 2, "val_top1": 0.8}]


def test_the_card_says_what_a_user_must_know(folder):
    card = (folder / "README.md").read_text(encoding="utf-8")
    heads = ["Data", "Recipe", "Accuracy", "Licence of the weights", "What it must not be used for"]
    assert re.findall(r"^## (.*)$", card, re.MULTILINE) == heads
    assert "license: mit" in card and "- lr: 0.0004" in card and "clips of 8 frames, 3 apart, of 32 x 32 pixels" in card
    assert "MIT. The code of vt_course makes the data" in card and "It has seen drawn shapes only" in card


def test_accuracy_has_an_interval():
    last, best, _ = pretrained.results_of(ROWS, ROWS[0], 400, 8)
    assert "after epoch 2: 80.0 % of 400 validation clips are right (95 % interval: 75.8 to 83.6 %)" in last
    assert "chance is 12.5 %" in last and "after epoch 1: 90.0 % of 400" in best


def test_the_card_of_a_run_is_copied(tmp_path):
    run = save_pretrained(MINI, tmp_path / "run")
    (run / "README.md").write_text("# my card\n", encoding="utf-8")
    assert (save_pretrained(run, tmp_path / "b") / "README.md").read_text(encoding="utf-8") == "# my card\n"
    shutil.copy(run / "model.safetensors", tmp_path / "weights.safetensors")  # beside a README.md of something else
    (tmp_path / "README.md").write_text("# my thesis\n", encoding="utf-8")
    card = (save_pretrained(tmp_path / "weights.safetensors", tmp_path / "c") / "README.md").read_text(encoding="utf-8")
    assert "thesis" not in card and "98.8 % of the validation clips" in card
