"""Fine-tuning: the weights that a run starts from, frozen parts, slower first layers, weights of classes."""

import dataclasses
import json
import shutil

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from vt_course import CourseError
from vt_course.cli import main
from vt_course.cli import training as cli_training
from vt_course.models import create, mini_weights
from vt_course.models.official import LAYOUTS, to_official
from vt_course.training import finetune, fit, folder, start
from vt_course.training.checkpoint import build_model, load_run, read_weights
from vt_course.training.evaluate import evaluate_run
from vt_course.training.experiments import rows
from vt_course.training.recipes import RECIPES, Recipe

from test_training import assert_same_run, clips, recipe, tiny, train  # noqa: F401 (fixtures)
from weights import shake

CLASSES = ["dark", "grey", "light"]
MINIS = ("video_swin_mini", "mvit_mini", "mvit_v2_mini", "timesformer_mini", "uniformer_mini")
SHALLOW = {"depths": [1, 1, 1, 1], "embed_dims": [8, 8, 16, 16], "head_dim": 8}  # of UniFormer


def on_meta(name, **settings):
    with torch.device("meta"):
        return create(name, **settings)


# ---------------------------------------------------------------- slower first layers

# The layer of each part, counted by hand. A part is a prefix of names; of several, the longest counts.
LAYERS = {
    "video_swin_mini": {
        "patch_embed": 0, "layers.0.blocks.0": 1, "layers.0.blocks.1": 2, "layers.0.downsample": 2,
        "layers.1.blocks.0": 3, "layers.1.blocks.1": 4, "layers.1.downsample": 4, "layers.2.blocks.0": 5,
        "layers.2.blocks.1": 6, "norm": 7, "head": 7,
    },
    "mvit_mini": {
        "cls_token": 0, "pos_embed_class": 0, "pos_embed_spatial": 0, "pos_embed_temporal": 0, "patch_embed": 0,
        "blocks.0": 1, "blocks.1": 2, "blocks.2": 3, "blocks.3": 4, "norm": 5, "head": 5,
    },
    "timesformer_mini": {
        "cls_token": 0, "pos_embed": 0, "time_embed": 0, "patch_embed": 0, "blocks.0": 1, "blocks.1": 2, "blocks.2": 3,
        "norm": 4, "head": 4,
    },
    "uniformer_mini": {
        "patch_embed1": 0, "blocks1.0": 1, "blocks1.1": 2, "patch_embed2": 2, "blocks2.0": 3, "blocks2.1": 4,
        "patch_embed3": 4, "blocks3.0": 5, "blocks3.1": 6, "patch_embed4": 6, "blocks4.0": 7, "blocks4.1": 8,
        "norm": 9, "head": 9,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_learns_at_its_own_rate(name):
    model, last = on_meta(name), max(LAYERS[name].values())
    want = {}
    for parameter, _ in model.named_parameters():
        parts = [part for part in LAYERS[name] if parameter == part or parameter.startswith(f"{part}.")]
        assert parts, f"{parameter} belongs to no part"
        want[parameter] = LAYERS[name][max(parts, key=len)]
    assert finetune.layers(model) == want and set(LAYERS[name].values()) == set(range(last + 1))
    plain = fit.parameter_groups(model, 0.05)
    groups = finetune.by_layer(model, plain, 0.75)
    name_of = {id(parameter): key for key, parameter in model.named_parameters()}
    got = {name_of[id(p)]: (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    decays = {name_of[id(p)]: group["weight_decay"] for group in plain for p in group["params"]}
    assert got == {key: (0.75 ** (last - layer), decays[key]) for key, layer in want.items()}
    assert groups[0]["lr_scale"] == 1.0  # the rate in metrics.csv is that of the first group
    assert finetune.by_layer(model, plain, 1) is plain


def test_the_rate_of_a_step_is_that_of_its_layer(recipe, tiny, tmp_path, monkeypatch):  # noqa: F811
    seen = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *a: (seen.append([g["lr"] for g in self.param_groups]), step(self, *a))
    )
    train(dataclasses.replace(recipe, layer_decay=0.5, epochs=1, warmup_epochs=0), tmp_path / "run", max_steps=1)
    assert seen == [[0.01, 0.01, 0.005, 0.005]]  # norm and head, then the two of layer 0; Tiny has no blocks


# ---------------------------------------------------------------- frozen parts

# Of each family: the parts that freeze=stages:2 names, and the number of stages.
FIRST_TWO = {
    "swin_mini": ({"patch_embed", "layers.0", "layers.1"}, 3),
    "video_swin_mini": ({"patch_embed", "layers.0", "layers.1"}, 3),
    "mvit_mini": (
        {"cls_token", "pos_embed_class", "pos_embed_spatial", "pos_embed_temporal", "patch_embed"}
        | {"blocks.0", "blocks.1", "blocks.2"},
        3,
    ),
    "timesformer_mini": ({"cls_token", "pos_embed", "time_embed", "patch_embed", "blocks.0", "blocks.1"}, 3),
    "uniformer_mini": ({"patch_embed1", "blocks1", "patch_embed2", "blocks2"}, 4),
}


@pytest.mark.parametrize("name", FIRST_TWO)
def test_stages_of_each_family(name):
    model, (parts, stages) = on_meta(name), FIRST_TWO[name]
    names = [key for key, _ in model.named_parameters()]
    want = {key for key in names if any(key == part or key.startswith(f"{part}.") for part in parts)}
    assert finetune.frozen(model, "stages:2") == want
    body = {key for key in names if not key.startswith(("norm.", "head."))}
    assert finetune.frozen(model, f"stages:{stages}") == body
    assert finetune.frozen(model, "backbone") == {key for key in names if not key.startswith("head.")}
    for count in (stages + 1, 0, "two", -1):
        with pytest.raises(CourseError, match=f"has {stages} stages; write stages:1 to stages:{stages}"):
            finetune.frozen(model, f"stages:{count}")


@pytest.mark.parametrize(
    "pattern, count",
    [
        ("patch_embed", 4),
        ("patch_embed.proj.*", 2),
        ("layers.?.downsample", 6),
        ("patch_embed, layers.0.downsample", 7),
    ],
)
def test_patterns_name_parameters_and_modules(pattern, count):
    assert len(finetune.frozen(on_meta("video_swin_mini"), pattern)) == count


@pytest.mark.parametrize(
    "pattern, words",
    [
        ("patch_embd", "no parameter is called 'patch_embd'; the closest names are patch_embed"),
        ("backbon", "the closest names are backbone"),
        ("patch_embed,layer.0", "no parameter is called 'layer.0'; the closest names are layers.0"),
        ("patch_embed,", "no parameter is called ''; the closest names are backbone, patch_embed"),
        ("*", "leaves no parameter to train"),
    ],
)
def test_a_pattern_that_cannot_be(pattern, words):
    with pytest.raises(CourseError, match=words.replace("*", r"\*")):
        finetune.freeze(on_meta("video_swin_mini"), pattern)


@pytest.fixture(scope="module")
def small(clips):  # noqa: F811
    """A small UniFormer, which has BatchNorm, on frames of 32 pixels. The picture of a run is blank, as in `tiny`."""
    made = recipe.__wrapped__(clips)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "curves", lambda *rows_classes_title: Figure(figsize=(1, 1)))
        yield dataclasses.replace(made, model="uniformer_mini", config=SHALLOW, size=32, epochs=2)


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """A finished run of `small`."""
    out = tmp_path_factory.mktemp("trained") / "first"
    train(small, out)
    return out


def entries(out, which="last"):
    return read_weights(out / f"{which}.safetensors")[0]


@pytest.mark.parametrize("freeze, part", [("backbone", ("head.",)), ("stages:2", ("patch_embed3", "blocks3"))])
def test_frozen_bits_do_not_change_also_after_a_resume(freeze, part, small, trained, tmp_path):
    tuned = dataclasses.replace(small, init=str(trained), freeze=freeze, lr=0.05, seed=1)
    train(tuned, tmp_path / "whole")
    train(tuned, tmp_path / "parts", max_steps=4)
    train(tuned, tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    was, now = entries(trained, "best"), entries(tmp_path / "whole")
    still = finetune.frozen(build_model(small, 3), freeze)
    statistics = [key for key in was if "running_" in key]
    at_rest = [key for key in statistics if f"{key.rpartition('.')[0]}.weight" in still]
    assert at_rest and (freeze == "backbone") == (at_rest == statistics)
    for key in was:  # counted from 0: how many batches a BatchNorm has seen is no weight
        if not key.endswith("num_batches_tracked"):
            same = torch.equal(was[key], now[key])
            assert same if key in still or key in at_rest else key not in dict.fromkeys(statistics) or not same, key
    assert all(not torch.equal(was[key], now[key]) for key in was if key.startswith(part) and key.endswith("weight"))
    assert all(bool(now[key] == 0) for key in now if key.endswith("num_batches_tracked") and freeze == "backbone")


def test_without_freeze_the_statistics_move(small, trained, tmp_path):
    """What the test above would miss, if a BatchNorm never moved."""
    train(dataclasses.replace(small, init=str(trained), epochs=1, warmup_epochs=0, lr=0), tmp_path / "run")
    was, now = entries(trained, "best"), entries(tmp_path / "run")
    moved = [key for key in was if not key.endswith("num_batches_tracked") and not torch.equal(was[key], now[key])]
    assert moved == [key for key in was if "running_" in key]


def test_frozen_parameters_get_no_gradient():
    model = create("uniformer_mini", **SHALLOW).train()
    at_rest = finetune.freeze(model, "backbone")
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm3d)]
    assert at_rest == norms and len(norms) == 5
    model(torch.zeros(2, 3, 2, 32, 32)).sum().backward()
    assert {key for key, p in model.named_parameters() if p.grad is not None} == {"head.weight", "head.bias"}
    body = sum(p.numel() for key, p in model.named_parameters() if not key.startswith("head."))
    told = f"freeze=backbone: {body:,} parameters are frozen, {16 * 8 + 8} are trained"
    assert finetune.say_frozen(model, "backbone") == told and finetune.freeze(model, "") == []


def test_a_frozen_batch_norm_may_see_one_clip(small, tmp_path):
    """Of 12 clips, 11 and 1; a clip of one frame ends as one place. A BatchNorm that trains refuses that."""
    lone = dataclasses.replace(small, frames=1, stride=1, batch_size=11, epochs=1, warmup_epochs=0)
    with pytest.raises(CourseError, match="BatchNorm cannot be trained on one clip"):
        train(lone, tmp_path / "a")
    assert train(dataclasses.replace(lone, freeze="backbone"), tmp_path / "b")["finished"]


# ---------------------------------------------------------------- weights of classes


def test_balanced_weights_by_hand(tmp_path):
    # 6 clips of 3 classes: 6 / (3 * 1), 6 / (3 * 2), 6 / (3 * 3)
    assert finetune.class_weights("balanced", CLASSES, [0, 1, 1, 2, 2, 2]) == [2.0, 1.0, 6 / 9]
    assert finetune.class_weights("balanced", CLASSES, None) == [1.0, 1.0, 1.0]
    file = tmp_path / "w.csv"
    file.write_text("class,weight,note\nlight,3,\ndark,0.5,x\ngrey,1e0,\n", encoding="utf-8")
    assert finetune.class_weights(str(file), CLASSES, None) == [0.5, 1.0, 3.0]
    assert finetune.class_weights(str(tmp_path / "gone.csv"), CLASSES, None) is None


@pytest.mark.parametrize(
    "text, words",
    [
        ("class,weight\ndark,1\nlihgt,1\n", "line 3: unknown class 'lihgt'; did you mean light?"),
        ("class,weight\ndark,1\ngrey,2\n", "has no weight for light; add a line"),
        ("class,weight\ndark,1\ndark,2\n", "line 3: the class 'dark' occurs twice"),
        ("class,weight\ndark,0\n", "the weight of 'dark' is '0'; it must be a number above 0"),
        ("class,weight\ndark,nan\n", "must be a number above 0"),
        ("class,weight\ndark,many\n", "must be a number above 0"),
        ("class,weight\ndark\n", "must be a number above 0"),
        ("name,weight\ndark,1\n", "has the columns name, weight; write a line class,weight"),
        ("", "has the columns ; write a line class,weight"),
    ],
)
def test_a_file_of_weights_that_cannot_be(text, words, tmp_path):
    (tmp_path / "w.csv").write_text(text, encoding="utf-8")
    with pytest.raises(CourseError, match=words.replace("?", r"\?")) as caught:
        finetune.class_weights(str(tmp_path / "w.csv"), CLASSES, [0, 1, 2])
    assert str(tmp_path / "w.csv") in str(caught.value)


def test_a_class_without_clips_cannot_be_balanced():
    with pytest.raises(CourseError, match="the class 'grey' has no training clip"):
        finetune.class_weights("balanced", CLASSES, [0, 0, 2])


def test_the_loss_is_the_mean_over_clips_of_weight_times_loss(recipe, tiny, tmp_path, monkeypatch):  # noqa: F811
    """Not divided by the weights in the batch, as torch does: then a clip would count more beside light ones."""
    (tmp_path / "w.csv").write_text("class,weight\ndark,0.5\ngrey,1\nlight,4\n", encoding="utf-8")
    weighted = dataclasses.replace(recipe, class_weights=str(tmp_path / "w.csv"), epochs=1, label_smoothing=0.1)
    seen, losses = [], []
    plain = F.cross_entropy

    def watched(logits, label, *more, **settings):
        seen.append((logits.detach(), label))
        return plain(logits, label, *more, **settings)

    def plot(run, group, step, **numbers):
        losses.extend([numbers["loss"]] if group == "train" else [])

    with monkeypatch.context() as patch:
        patch.setattr(fit.F, "cross_entropy", watched)
        patch.setattr(fit.Run, "plot", plot)
        train(weighted, tmp_path / "run")
    weight = torch.tensor([0.5, 1.0, 4.0])
    assert len(losses) == 3
    for (logits, label), loss in zip(seen, losses):
        smooth = torch.full((4, 3), 0.1 / 3).scatter_(1, label[:, None], 0.9 + 0.1 / 3)
        by_hand = -(smooth * weight * logits.log_softmax(-1)).sum() / 4
        assert loss == pytest.approx(by_hand.item(), rel=1e-5)
    # the file is not needed any more, and another one is noticed
    (tmp_path / "w.csv").unlink()
    assert train(weighted, tmp_path / "run")["finished"]
    (tmp_path / "w.csv").write_text("class,weight\ndark,0.5\ngrey,1\nlight,5\n", encoding="utf-8")
    with pytest.raises(CourseError, match=r"class_weights=.*w.csv holds something else than when the run began"):
        train(weighted, tmp_path / "run")
    with pytest.raises(CourseError, match="class_weights=balnced: there is no such file; or write balanced"):
        train(dataclasses.replace(recipe, class_weights="balnced"), tmp_path / "other")


# ---------------------------------------------------------------- the start


def said(model, init, classes=CLASSES, **settings):
    return start.load_start(model, Recipe(model="tuned", frames=8, size=32, init=str(init), **settings), classes)


@pytest.mark.parametrize("name, layout", [(n, x) for n in MINIS for x in [*LAYOUTS[type(on_meta(n)).__name__], "ours"]])
def test_every_layout_is_a_start_and_its_head_is_new(name, layout, tmp_path):
    model, other = create(name, num_classes=3), shake(create(name, num_classes=400))
    head = {key: value.clone() for key, value in model.state_dict().items() if key.startswith("head.")}
    torch.save({"state_dict": to_official(other, layout=layout)}, tmp_path / "theirs.pth")
    notes = said(model, tmp_path / "theirs.pth")
    assert notes[0] == f"the run starts from {tmp_path / 'theirs.pth'}"
    assert notes[1:] == ["the head is new: that of the file is for 400 classes, the data have 3"]
    for key, value in model.state_dict().items():
        want = head[key] if key in head else other.state_dict()[key]
        assert torch.equal(value, want) or key.endswith("num_batches_tracked"), key
    # a head of the same size is kept
    same = create(name, num_classes=400)
    assert said(same, tmp_path / "theirs.pth", list(range(400)))[1:] == []
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in same.state_dict().items() if k.startswith("head."))


@pytest.mark.parametrize(
    "name, was, now, first",
    [
        (
            "timesformer_mini",
            dict(num_frames=4, img_size=64),
            {},
            "pos_embed from (1, 65, 96) to (1, 17, 96) and 1 more",
        ),
        (
            "mvit_mini",
            dict(frames=16, img_size=64),
            {},
            "pos_embed_spatial from (1, 256, 32) to (1, 64, 32) and 1 more",
        ),
        ("mvit_v2_mini", dict(frames=8, img_size=64), {}, "blocks.0.attn.rel_pos_h from"),
        (
            "video_swin_mini",
            dict(window=(2, 7, 7)),
            {},
            "layers.0.blocks.0.attn.relative_position_bias_table from (507, 2) to",
        ),
    ],
)
def test_another_size_is_resized_by_the_familys_rule_and_said(name, was, now, first, tmp_path):
    model, other = create(name, num_classes=3), shake(create(name, num_classes=3, **was))
    want = model.resize_positions(other.state_dict())
    safetensors.torch.save_file(other.state_dict(), tmp_path / "other.safetensors")
    (note,) = said(model, tmp_path / "other.safetensors")[1:]
    assert note.startswith(f"positions are resized for frames=8, size=32 and the windows of tuned: {first}")
    assert all(torch.equal(value, want[key]) for key, value in model.state_dict().items() if key in want)


def test_joint_positions_are_resized_by_the_size_in_the_header(tmp_path):
    settings = dict(num_classes=3, pos_embed="joint")
    old = Recipe(model="mvit_mini", frames=16, size=32, config={"pos_embed": "joint"})
    other = shake(build_model(old, 3))
    header = {"recipe": old.to_json(), "classes": json.dumps(CLASSES)}
    safetensors.torch.save_file(other.state_dict(), tmp_path / "other.safetensors", header)
    model = create("mvit_mini", **settings)
    assert "pos_embed from (1, 513, 32) to (1, 257, 32)" in said(model, tmp_path / "other.safetensors")[1]
    want = model.resize_positions(other.state_dict(), (8, 8, 8))["pos_embed"]
    assert torch.equal(model.state_dict()["pos_embed"], want)


def test_a_head_for_other_classes_of_the_same_number_is_new():
    motions = ["left", "right", "up", "down", "grow", "shrink", "clockwise", "counter-clockwise"]
    shipped = read_weights(mini_weights("uniformer_mini"))[0]
    for classes, kept in ((motions, True), (motions[::-1], False)):
        model = create("uniformer_mini")
        own = model.state_dict()["head.weight"].clone()
        notes = said(model, "uniformer_mini", classes)
        assert torch.equal(model.state_dict()["head.weight"], shipped["head.weight"] if kept else own)
        assert torch.equal(model.state_dict()["norm.running_var"], shipped["norm.running_var"])
        assert ("the head is new: that of the file is for the classes left, right, up, down, ..." in notes) is not kept


@pytest.mark.parametrize("video, image", [("video_swin_mini", dict(embed_dim=24)), ("uniformer_mini", dict(dims=2))])
def test_an_image_model_is_inflated(video, image, tmp_path):
    source = shake(create("swin_mini" if "swin" in video else video, num_classes=5, **image))
    torch.save(source.half().state_dict(), tmp_path / "image.pt")
    source.float()
    model = create(video, num_classes=3)
    want = model.inflate(source.state_dict())
    assert said(model, f"inflate:{tmp_path / 'image.pt'}")[1:] == [
        "the weights of the image model are inflated",
        "the head is new",
    ]
    assert all(torch.equal(value, want[key]) for key, value in model.state_dict().items())
    if "swin" in video:  # finding out what weights are takes a second
        with pytest.raises(CourseError, match=r"entries differ.*these are weights of an image model, write inflate:"):
            said(model, tmp_path / "image.pt")


def saved(tmp_path, change, name="timesformer_mini"):
    state = dict(shake(create(name, num_classes=3)).state_dict())
    change(state)
    torch.save(state, tmp_path / "w.pt")
    return tmp_path / "w.pt"


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: s.pop("norm.bias"), r"cannot start from init=.*w.pt: .*1 entries differ: missing norm.bias \(96,\)"),
        (lambda s: s.update(extra=torch.zeros(2)), r"1 entries differ: unexpected extra \(2,\)"),
        (lambda s: s.update({"norm.bias": torch.zeros(95)}), r"norm.bias has shape \(95,\), wanted \(96,\)"),
        (lambda s: s.update({"pos_embed": torch.zeros(3)}), r"pos_embed has shape \(3,\), wanted \(1, 17, 96\)"),
        (lambda s: s.update({"pos_embed": torch.zeros(1, 13, 96)}), r"pos_embed has 13 places; only a square grid"),
        (lambda s: s.update({"norm.bias": torch.full((96,), torch.nan)}), "norm.bias has numbers that are not finite"),
    ],
)
def test_what_does_not_fit_is_named(change, words, tmp_path):
    with pytest.raises(CourseError, match=words) as caught:
        said(create("timesformer_mini", num_classes=3), saved(tmp_path, change))
    assert "\n" not in str(caught.value)


def test_a_start_that_is_none(tmp_path):
    model = create("timesformer_mini", num_classes=3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pth").write_text("hello", encoding="utf-8")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    for name, words in {
        "gone.pth": "there is no such file; name a run folder, a file of weights or a name from",
        "empty": r"the folder holds no weights \(best.safetensors",
        "text.pth": "not a PyTorch checkpoint or is damaged",
        "list.pth": "holds a list instead of named weights; name a run folder",
        "none.pth": "the checkpoint holds no tensors by name, only epoch; name a run folder",
    }.items():
        with pytest.raises(CourseError, match=words) as caught:
            said(model, tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(CourseError, match="did you mean timesformer_mini?"):
        said(model, "timesfromer_mini")
    with pytest.raises(CourseError, match="MViT has no rule to inflate an image model"):
        said(create("mvit_mini", num_classes=3), "inflate:swin_mini")
    with pytest.raises(
        CourseError, match="patch_embed.proj.weight is a tensor of a video model; name its file without"
    ):
        said(create("video_swin_mini", num_classes=3), "inflate:video_swin_mini")
    with pytest.raises(CourseError, match="the rule of the family cannot inflate these weights"):
        torch.save({"pos_embed": torch.zeros(3), "head.weight": torch.tensor(1.0)}, tmp_path / "odd.pt")
        said(model, f"inflate:{tmp_path / 'odd.pt'}")
    with pytest.raises(CourseError, match="entries differ: missing cls_token"):
        said(model, tmp_path / "odd.pt")
    with pytest.raises(CourseError, match="absolute_pos_embed has shape"):  # the family has no rule for this table
        torch.save(create("swin_mini", num_classes=3, ape=True).state_dict(), tmp_path / "ape.pt")
        said(create("swin_mini", num_classes=3, ape=True, img_size=32), tmp_path / "ape.pt")


def test_names_come_before_files_and_a_folder_of_transformers_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VT_COURSE_DATA", str(tmp_path / "data"))
    (tmp_path / "mvit_mini").mkdir()
    (tmp_path / "mvit_mini" / "model.safetensors").touch()
    assert start.find("mvit_mini") == mini_weights("mvit_mini") == start.find("inflate:mvit_mini")
    assert start.find("./mvit_mini") == start.find("inflate:./mvit_mini").absolute().relative_to(tmp_path)
    (tmp_path / "data" / "weights" / "uniformer_small_16").mkdir(parents=True)
    official = tmp_path / "data" / "weights" / "uniformer_small_16" / "k400_16x4.safetensors"
    official.touch()
    assert start.find("uniformer_small_16/k400_16x4") == official
    assert start.find("x" * 5000) is start.find("") is None and start.digest("x" * 5000) is None
    assert start.digest("mvit_mini") != start.digest("inflate:mvit_mini")


# ---------------------------------------------------------------- a run from a run


def test_a_run_goes_on_from_another_and_needs_it_no_more(small, trained, tmp_path):
    first, out, notes = tmp_path / "first", tmp_path / "out", []
    shutil.copytree(trained, first)
    longer = dataclasses.replace(small, lr=0.001, epochs=3)
    with pytest.raises(CourseError) as caught:
        train(longer, first)
    assert "epochs was 2 and is now 3" in str(caught.value) and f"--init {first} starts from" in str(caught.value)
    longer = dataclasses.replace(longer, init=str(first))
    train(longer, tmp_path / "whole")
    train(longer, out, max_steps=4, tell=notes.append)
    assert notes == [f"the run starts from {first / 'best.safetensors'}"]  # its head is kept: the classes are the same
    away = shutil.move(first, tmp_path / "away")
    assert train(longer, out, max_steps=5)["steps"] == 5
    shutil.copytree(tmp_path / "whole", first)  # other weights at the same place
    with pytest.raises(CourseError, match=r"init=.*first holds something else than when the run began"):
        train(longer, out)
    shutil.rmtree(first)
    shutil.move(away, first)
    train(longer, out)
    assert_same_run(tmp_path / "whole", out)
    with pytest.raises(CourseError, match="init was .* and is now ''"):
        train(dataclasses.replace(longer, init=""), out)
    # it loads anywhere, without the run from which it started
    shutil.rmtree(first)
    moved = shutil.move(out, tmp_path / "elsewhere")
    model, told = load_run(moved)
    assert told.init == str(first) and evaluate_run(moved, device="cpu", workers=0, progress=False)["n"] == 6
    assert evaluate_run(moved, device="cpu", workers=0, progress=False)["top1"] == max(
        row["val_top1"] for row in [json.loads((moved / "summary.json").read_text(encoding="utf-8"))["best"]]
    )
    again = create("uniformer_mini", **SHALLOW, num_classes=3)
    assert said(again, moved, CLASSES) == [f"the run starts from {moved / 'best.safetensors'}"]
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in again.state_dict().items() if "num_batch" not in k)


def test_a_start_that_is_missing_leaves_no_run(small, tmp_path):
    with pytest.raises(CourseError, match="init=.*gone: there is no such file"):
        train(dataclasses.replace(small, init=str(tmp_path / "gone")), tmp_path / "run")
    assert not (tmp_path / "run" / "state.pt").exists()
    with pytest.raises(CourseError, match="init='x' must be empty where inflate is given"):
        dataclasses.replace(small, init="x", inflate={"mode": "average", "model": "swin_mini"})
    with pytest.raises(CourseError, match="layer_decay=1.5 must be above 0 and at most 1"):
        dataclasses.replace(small, layer_decay=1.5)


def test_the_command_line_passes_them_on(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("vt_course.training.fit.fit", lambda recipe, out, **_: asked.append(recipe) or {})
    monkeypatch.setattr("vt_course.fetch.weights.get", lambda name, **settings: asked.append((name, settings)))
    monkeypatch.setenv("VT_COURSE_DATA", str(tmp_path))
    words = "train uniformer_mini --json --set layer_decay=0.75 class_weights=balanced --freeze stages:2 --init"
    assert main([*words.split(), "inflate:uniformer_image_small/in1k", "--out", str(tmp_path / "a")]) == 0
    fetched, recipe = asked  # noqa: F811
    assert fetched == ("uniformer_image_small/in1k", {"progress": False})
    assert recipe == dataclasses.replace(
        RECIPES["uniformer_mini"],
        init="inflate:uniformer_image_small/in1k",
        freeze="stages:2",
        layer_decay=0.75,
        class_weights="balanced",
    )
    # nothing is fetched for what is here, for a path, and for a run that has its checkpoint
    (tmp_path / "state.pt").touch()
    for init, out in (("uniformer_mini", "b"), ("runs/a", "b"), ("", "b"), ("uniformer_image_small/in1k", ".")):
        cli_training.fetch_start(init, tmp_path / out, False)
    assert len(asked) == 2


# ---------------------------------------------------------------- rows


def test_a_row_depends_on_the_weights_from_which_it_starts(tmp_path):
    text = """
- {id: a, question: q, paper: none, table: none, expectation: e, data: "synthetic:appearance", seeds: [0], minutes: 1,
   model: mvit_mini, variants: {scratch: , tuned: {recipe: {init: INIT}}}}
"""
    (tmp_path / "rows.yaml").write_text(text.replace("INIT", "mvit_mini"), encoding="utf-8")
    (row,) = rows.read_rows(tmp_path / "rows.yaml")
    assert row.depends_on()["starts"] == {"mvit_mini": start.digest("mvit_mini")}
    plain = dataclasses.replace(row, recipes={"scratch": row.recipes["scratch"]})
    assert "starts" not in plain.depends_on()  # so results of before there was a start stay fresh
    (tmp_path / "rows.yaml").write_text(text.replace("INIT", "gone"), encoding="utf-8")
    with pytest.raises(CourseError, match="variant 'tuned': init=gone: there is no such file of weights"):
        rows.read_rows(tmp_path / "rows.yaml")
