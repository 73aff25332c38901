"""Training: the loop, its checkpoints, evaluation. Clips are tiny files that PyAV writes."""

import csv
import dataclasses
import errno
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from vt_course import CourseError, machine
from vt_course.data import loading, transforms
from vt_course.data.reader import ClipReader
from vt_course.models import ZOO, create, mini_weights
from vt_course.training import checkpoint, curves, evaluate, fit, folder
from vt_course.training.recipes import RECIPES, Recipe, recipe_for

from videos import write_video

CLASSES = ("dark", "grey", "light")
QUIET = dict(device="cpu", workers=0, progress=False)


class Tiny(nn.Module):
    """A small network with what makes a resumed run drift: dropout, a gathered table."""

    def __init__(self, num_classes, drop_path):
        super().__init__()
        self.proj = nn.Conv3d(3, 8, (2, 4, 4), (2, 4, 4))
        self.norm = nn.LayerNorm(8)
        self.relative_position_bias_table = nn.Parameter(torch.randn(27, 8))
        index = torch.randint(27, (8192,), generator=torch.Generator().manual_seed(0))
        self.register_buffer("relative_position_index", index)
        self.weight = nn.Buffer(torch.sin(torch.arange(8192.0)).view(-1, 1), persistent=False)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.proj(x).mean((2, 3, 4))  # (B, 8)
        bias = self.relative_position_bias_table[self.relative_position_index] * self.weight
        return self.head(self.drop(self.norm(x + bias.mean(0))))  # (B, K)


def write_clip(path, level, frames=6):
    rng = np.random.default_rng(sum(path.name.encode()))
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=8, options={"g": "1", "preset": "ultrafast"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(frames):
            image = rng.integers(level, level + 40, (32, 32, 3), dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """A folder with train.csv (12 clips) and val.csv (6 clips) of three classes."""
    folder = tmp_path_factory.mktemp("clips")
    for split, count in (("train", 12), ("val", 6)):
        lines = ["path,label,start,end"]
        for i in range(count):
            write_clip(folder / f"{split}{i}.mp4", 20 + 80 * (i % 3))
            lines.append(f"{split}{i}.mp4,{CLASSES[i % 3]},,")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def recipe(clips):
    return Recipe(
        model="tiny",
        data=f"csv:{clips / 'train.csv'},{clips / 'val.csv'}",
        frames=2,
        stride=2,
        size=16,
        batch_size=4,
        epochs=3,
        lr=0.01,
        drop_path=0.0,
    )


@pytest.fixture
def tiny(monkeypatch):
    """`create` builds `Tiny`, or what the test puts in its place; the picture of the run is blank: drawing takes
    longer."""
    monkeypatch.setattr(folder, "curves", lambda *rows_classes_title: Figure(figsize=(1, 1)))

    def use(build):
        monkeypatch.setattr(checkpoint, "create", build)

    use(lambda name, **settings: Tiny(**settings))
    return use


def train(recipe, out, **settings):
    return fit.fit(recipe, out, **QUIET | settings)


def rows(out, without=("seconds", "clips_per_second")):
    with open(out / "metrics.csv", newline="", encoding="utf-8") as file:
        return [{name: value for name, value in row.items() if name not in without} for row in csv.DictReader(file)]


def weights(out, name="last"):
    return safetensors.torch.load_file(out / f"{name}.safetensors")


def assert_same_run(a, b):
    """Bit for bit: weights, metrics apart from times, and the choice of the best epoch."""
    assert rows(a) == rows(b) and len(rows(a)) > 0
    for name in ("last", "best"):
        one, two = weights(a, name), weights(b, name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one), name
    one, two = (json.loads((out / "summary.json").read_text(encoding="utf-8")) for out in (a, b))
    for row in (one["best"], two["best"]):
        del row["seconds"], row["clips_per_second"]
    assert one["best"] == two["best"] and one["steps"] == two["steps"]


def scalars(out, tag):
    events = EventAccumulator(str(out / "log"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


# ---------------------------------------------------------------- recipes


def test_recipe_survives_json_and_overrides():
    recipe = Recipe(model="m", lr=3e-4, crop_scale=(0.5, 1.0), amp=False)
    assert Recipe.from_json(recipe.to_json()) == recipe
    changed = recipe.override(["epochs=7", "lr=1e-2", "crop_scale=0.25,0.75", "amp=true"])
    assert changed == dataclasses.replace(recipe, epochs=7, lr=0.01, crop_scale=(0.25, 0.75), amp=True)
    assert isinstance(changed.epochs, int)
    assert recipe_for("video_swin_mini") is RECIPES["video_swin_mini"]


def test_every_mini_model_has_a_recipe_that_fits_it():
    assert set(RECIPES) == {name for name in ZOO if name.endswith("_mini")}
    for name, recipe in RECIPES.items():
        channels, *frames, height, width = ZOO[name].input
        assert [recipe.frames] == (frames or [1]) and recipe.size == height == width and recipe.model == name


@pytest.mark.slow
def test_an_image_model_is_trained_on_single_frames(clips, tmp_path):
    recipe = dataclasses.replace(
        RECIPES["swin_mini"], data=f"csv:{clips / 'train.csv'},{clips / 'val.csv'}", keep=0, epochs=1, batch_size=4
    )
    summary = train(recipe, tmp_path / "run")
    assert summary["finished"] and summary["steps"] == 3
    scores = evaluate.evaluate_run(tmp_path / "run" / "last.safetensors")
    assert scores["n"] == 6
    with pytest.raises(CourseError, match="swin_mini sees images, not clips of 2 frames; train it with frames=1"):
        train(dataclasses.replace(recipe, frames=2), tmp_path / "other")


@pytest.mark.parametrize(
    "assignment, words",
    [
        ("epoch=3", "did you mean epochs"),
        ("epochs=2.5", "of type int"),
        ("lr=fast", "of type float"),
        ("lr=nan", "finite"),
        ("amp=maybe", "true, false, bf16 or fp16"),
        ("crop_scale=0.5", "low,high"),
        ("crop_scale=0.9,0.5", "crop_scale"),
        ("epochs=0", "at least 1"),
        ("epochs", "name=value"),
        ("warmup_epochs=99", "at most epochs"),
        ("drop_path=1", "[0, 1)"),
        ("sampling=x", "sampling"),
        ("order=backwards", "one of normal, shuffled, reversed, single"),
    ],
)
def test_recipe_rejects_what_cannot_work(assignment, words):
    with pytest.raises(CourseError) as error:
        Recipe(model="m").override([assignment])
    assert words in str(error.value)


def test_recipe_for_an_unknown_model_suggests_a_name():
    with pytest.raises(CourseError, match="did you mean video_swin_mini"):
        recipe_for("video_swim_mini")


# ---------------------------------------------------------------- schedule, groups, order


def test_schedule_by_hand():
    lrs = [fit.lr_at(step, 10, 2, 2.0) for step in range(10)]
    assert lrs[:3] == [1.0, 2.0, 2.0]  # up in two steps, the cosine starts at 1
    assert lrs[6] == pytest.approx(1.0)  # half way down
    assert lrs[9] == pytest.approx(1 + math.cos(math.pi * 7 / 8))
    assert fit.lr_at(0, 4, 0, 1.0) == 1.0  # no warm-up: no division by zero
    assert fit.lr_at(3, 4, 4, 1.0) == 1.0  # nothing but warm-up


@pytest.mark.parametrize(
    "name, exempt",
    [
        ("swin_mini", {"relative_position_bias_table"}),
        ("video_swin_mini", {"relative_position_bias_table"}),
        ("mvit_mini", set()),
        ("mvit_v2_mini", set()),
        ("timesformer_mini", set()),
        ("uniformer_mini", set()),
    ],
)
def test_each_family_names_what_does_not_decay(name, exempt):
    """As its official recipe does, but that vectors never decay."""
    model = create(name)
    _, keep = fit.parameter_groups(model, 0.05)
    kept = {id(parameter) for parameter in keep["params"]}
    spared = {n.rsplit(".", 1)[-1] for n, p in model.named_parameters() if p.ndim > 1 and id(p) in kept}
    assert spared == exempt
    assert all(id(p) in kept for p in model.parameters() if p.ndim <= 1)


def test_weight_decay_spares_norms_biases_and_bias_tables():
    model = create("video_swin_mini")
    decay, keep = fit.parameter_groups(model, 0.05)
    assert (decay["weight_decay"], keep["weight_decay"]) == (0.05, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, kept = ([names[id(p)] for p in group["params"]] for group in (decay, keep))
    assert sorted(decayed + kept) == sorted(names.values())
    assert all(name.endswith(".weight") and "norm" not in name for name in decayed)
    assert any("relative_position_bias_table" in name for name in kept)
    assert any("norm" in name and name.endswith("weight") for name in kept)
    assert any("qkv" in name for name in decayed)
    assert any("patch_embed" in name for name in decayed)


def test_epoch_order_is_a_function_of_seed_and_epoch():
    def keys(epoch, start=0, seed=0):
        batches = loading.EpochBatches(11, 4, seed)
        batches.epoch, batches.start = epoch, start
        return list(batches)

    whole = keys(epoch=3)
    assert [len(batch) for batch in whole] == [4, 4, 3]
    flat = [key for batch in whole for key in batch]
    assert {epoch for epoch, _ in flat} == {3} and sorted(index for _, index in flat) == list(range(11))
    assert keys(epoch=3, start=1) == whole[1:]
    order = [index for _, index in flat]
    assert order != [index for batch in keys(epoch=4) for _, index in batch]
    assert order != [index for batch in keys(epoch=3, seed=1) for _, index in batch]
    assert [len(batch) for batch in loading.EpochBatches(3, 4, 0)] == [3]  # less than a batch


# ---------------------------------------------------------------- a run


def test_a_run_leaves_its_files(recipe, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "curves", curves.curves)
    summary = train(recipe, tmp_path / "run")
    out = tmp_path / "run"
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "best.safetensors",
        "config.json",
        "curves.png",
        "last.safetensors",
        "log",
        "metrics.csv",
        "previous.pt",
        "state.pt",
        "summary.json",
    ]
    assert summary == json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["finished"] and summary["epochs"] == 3 and summary["steps"] == 9
    model = Tiny(3, 0.0)
    assert summary["parameters"] == sum(p.numel() for p in model.parameters())
    assert summary["seed"] == 0 and summary["command"][1:] == sys.argv[1:]
    assert summary["peak_memory_mb"] > 50 and summary["torch"] == torch.__version__
    assert Recipe.from_json(json.dumps(summary["recipe"])) == recipe
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"after epoch 3: {100 * summary['last']['val_top1']:.1f} % of " in card and "95 % interval: " in card
    assert "- lr: 0.01" in card and "Not decided. It depends on what the owners of csv:" in card

    table = rows(out)
    assert [row["epoch"] for row in table] == ["1", "2", "3"]
    assert [row["step"] for row in table] == ["3", "6", "9"]
    best = max(table, key=lambda row: (float(row["val_top1"]), -float(row["val_loss"])))
    assert summary["best"]["epoch"] == int(best["epoch"])
    with safetensors.safe_open(out / "best.safetensors", "pt") as file:
        header = file.metadata()
    assert header["model"] == "tiny" and header["epoch"] == best["epoch"]
    assert json.loads(header["classes"]) == list(CLASSES)
    assert json.loads(header["metric"])["val_top1"] == float(best["val_top1"])
    assert Recipe.from_json(header["recipe"]) == recipe

    lrs = scalars(out, "train/lr")
    assert [step for step, _ in lrs] == list(range(1, 10))
    assert [lr for _, lr in lrs] == pytest.approx([fit.lr_at(s, 9, 3, 0.01) for s in range(9)])
    assert [step for step, _ in scalars(out, "epoch/val_top1")] == [3, 6, 9]
    png = (out / "curves.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and len(png) > 5000


def test_curves_show_the_rows():
    table = [dict(epoch=e, train_loss=2 / e, val_loss=3 / e, train_top1=e / 4, val_top1=e / 5) for e in (1, 2, 3)]
    loss, accuracy = curves.curves(table, 8, "a run").axes
    assert [line.get_label() for line in accuracy.lines] == ["train", "validation", "chance"]
    assert list(loss.lines[1].get_ydata()) == [3.0, 1.5, 1.0]
    assert list(accuracy.lines[0].get_ydata()) == [0.25, 0.5, 0.75]
    assert list(accuracy.lines[2].get_ydata()) == [1 / 8, 1 / 8]
    assert loss.get_xlabel() == "epoch" and "nats" in loss.get_ylabel()
    styles = {(line.get_color(), line.get_linestyle()) for line in accuracy.lines}
    assert len(styles) == 3


@pytest.mark.slow
def test_video_swin_mini_learns_a_few_clips(recipe, tmp_path):
    recipe = dataclasses.replace(
        recipe,
        model="video_swin_mini",
        epochs=8,
        lr=2e-3,
        size=32,
        batch_size=6,
        crop_scale=(1.0, 1.0),
        label_smoothing=0.0,
    )
    summary = train(recipe, tmp_path / "run")
    table = rows(tmp_path / "run")
    first, last = (float(table[i]["train_loss"]) for i in (0, -1))
    assert last < 0.4 and first > 2 * last
    assert summary["last"]["train_top1"] > 0.9


def test_seed_decides_everything(recipe, tiny, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(dataclasses.replace(recipe, seed=seed, epochs=1), tmp_path / name)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert not torch.equal(weights(tmp_path / "a")["head.weight"], weights(tmp_path / "c")["head.weight"])


@pytest.fixture
def seen(tiny):
    """For each clip that a model is given in training and in validation: the mean of each of its frames."""
    frames = {True: [], False: []}

    class Watching(Tiny):
        def forward(self, x):
            frames[self.training] += [tuple(row.tolist()) for row in x.mean((1, 3, 4))]
            return super().forward(x)

    tiny(lambda name, **settings: Watching(**settings))
    return frames


def test_the_order_of_frames_in_training_and_validation(recipe, seen, tmp_path):
    recipe = dataclasses.replace(recipe, frames=4, stride=1, epochs=2, batch_size=12, crop_scale=(1.0, 1.0))
    told = {}
    for order in ("normal", "reversed", "shuffled", "single"):
        train(dataclasses.replace(recipe, order=order), tmp_path / order)
        told[order] = {training: rows[:] for training, rows in seen.items()}
        seen[True].clear(), seen[False].clear()
    for training in (True, False):
        rows = {order: each[training][1 - training :] for order, each in told.items()}  # the first one is a trial
        assert {len(each) for each in rows.values()} == {24 if training else 12}
        same = pytest.approx
        for normal, backwards, shuffled, single in zip(*rows.values()):
            assert backwards == same(normal[::-1], abs=1e-5)
            assert sorted(shuffled) == same(sorted(normal), abs=1e-5)
            assert any(single == same((frame,) * 4, abs=1e-5) for frame in normal)
        assert rows["shuffled"] != rows["normal"]
    moved = [tuple(sorted(row).index(value) for value in row) for row in told["shuffled"][True]]
    assert len(set(moved)) > 3


def test_each_epoch_shuffles_anew(recipe, tiny, tmp_path, monkeypatch):
    keys = []
    monkeypatch.setattr(fit, "reorder_frames", lambda clip, index, order, seed: keys.append((order, seed)) or clip)
    train(dataclasses.replace(recipe, epochs=2, batch_size=12, order="shuffled", seed=5), tmp_path / "run")
    assert keys == [("shuffled", (5, epoch, fit.ORDER)) for epoch in (0, 1)]
    train(dataclasses.replace(recipe, epochs=2, batch_size=12), tmp_path / "normal")
    assert len(keys) == 2  # a clip whose frames are in order is not touched


class Image(nn.Module):
    layout = "B C H W"

    def __init__(self, **settings):
        super().__init__()
        self.head = nn.Linear(3, settings["num_classes"])

    def forward(self, x):
        return self.head(x.mean((2, 3)))


class Inflated(Image):
    """`inflate` keeps the image model's weights and adds 1 to the bias where the mode is "centre"."""

    layout = "B C T H W"

    def forward(self, x):
        return self.head(x.mean((2, 3, 4)))

    def inflate(self, state, mode):
        return {"head.weight": state["head.weight"], "head.bias": state["head.bias"] + (mode == "centre")}


@pytest.mark.parametrize("mode", ["average", "centre"])
def test_a_run_starts_from_an_image_model(recipe, tiny, tmp_path, mode):
    tiny(lambda name, **settings: {"tiny": Inflated, "image": Image}[name](**settings))
    start = {"mode": mode, "model": "image", "epochs": 2, "lr": 0.1}
    inflated, out = dataclasses.replace(recipe, inflate=start, lr=0.0), tmp_path / "run"
    assert train(inflated, out)["finished"]  # with lr 0 the weights stay those of the start
    image, now = weights(out / "image"), weights(out)
    of_image = dataclasses.replace(recipe, model="image", frames=1, stride=1, epochs=2, lr=0.1)
    summary = json.loads((out / "image" / "summary.json").read_text(encoding="utf-8"))
    assert summary["recipe"] == json.loads(of_image.to_json())
    assert torch.equal(now["head.weight"], image["head.weight"])
    assert torch.equal(now["head.bias"], image["head.bias"] + (mode == "centre"))
    # A resumed run goes on from its own checkpoint, not from the image model.
    inflated = dataclasses.replace(inflated, lr=0.01)
    train(inflated, tmp_path / "whole")
    train(inflated, tmp_path / "parts", max_steps=4)
    train(inflated, tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    with pytest.raises(CourseError, match="inflate was .* and is now"):
        train(dataclasses.replace(inflated, inflate={}), tmp_path / "parts")


@pytest.mark.parametrize(
    "start, message",
    [
        ({"model": "image"}, "inflate=.* must be with the mode average or centre"),
        ({"mode": "average"}, "inflate=.* must be with the model"),
        ({"mode": "centre", "model": "image", "epoch": 3}, "unknown recipe setting 'epoch': did you mean epochs?"),
        ({"mode": "centre", "model": "image", "lr": -1}, "lr=-1.0 must be finite"),
    ],
)
def test_a_start_that_cannot_be(recipe, start, message):
    with pytest.raises(CourseError, match=message):
        dataclasses.replace(recipe, inflate=start)


def test_a_model_that_cannot_be_inflated(recipe, tiny, tmp_path):
    tiny(lambda name, **settings: {"tiny": Tiny, "image": Image}[name](**settings))
    recipe = dataclasses.replace(recipe, inflate={"mode": "average", "model": "image", "epochs": 1})
    with pytest.raises(CourseError, match="Tiny cannot start from an image model; train it without inflate"):
        train(recipe, tmp_path / "run")


def test_a_run_on_shuffled_frames_resumes(recipe, tiny, tmp_path):
    recipe = dataclasses.replace(recipe, frames=4, stride=1, order="shuffled")
    train(recipe, tmp_path / "a")
    train(recipe, tmp_path / "b", max_steps=4)
    train(recipe, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("steps", [4, None])
def test_a_folder_of_before_there_was_an_order_goes_on(recipe, tiny, tmp_path, steps):
    whole = train(recipe, tmp_path / "new")
    out = tmp_path / "old"
    train(recipe, out, max_steps=steps)
    state = checkpoint.read_state(out)
    del state["config"]["recipe"]["order"]
    checkpoint.save_state(out, state)
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    del summary["recipe"]["order"]
    (out / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    with pytest.raises(CourseError, match="order was 'normal' and is now 'reversed'"):
        train(dataclasses.replace(recipe, order="reversed"), out)
    again = train(recipe, out)
    assert again["recipe"]["order"] == "normal" and again["steps"] == whole["steps"]
    assert_same_run(tmp_path / "new", out)


def test_shipped_weights_of_before_there_was_an_order_load():
    assert "order" not in json.loads(checkpoint.read_run(mini_weights("swin_mini"))[2]["recipe"])
    assert checkpoint.load_run(mini_weights("swin_mini"))[1].order == "normal"


def test_gradients_are_clipped_and_labels_smoothed(recipe, tiny, tmp_path, monkeypatch):
    norms, smoothing = [], []
    step = torch.optim.AdamW.step
    cross_entropy = torch.nn.functional.cross_entropy

    def spy(optimizer, *args, **kwargs):
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.stack([grad.norm() for grad in grads]).norm().item())
        return step(optimizer, *args, **kwargs)

    def loss(*args, label_smoothing=0.0, **kwargs):
        smoothing.append(label_smoothing)
        return cross_entropy(*args, label_smoothing=label_smoothing, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    monkeypatch.setattr(fit.F, "cross_entropy", loss)
    train(dataclasses.replace(recipe, epochs=1, grad_clip=1e-3, label_smoothing=0.25), tmp_path / "run")
    assert norms == pytest.approx([1e-3] * 3, rel=1e-3) and smoothing == [0.25] * 3
    logged = [norm for _, norm in scalars(tmp_path / "run", "train/grad_norm")]
    assert min(logged) > 1e-2  # the log shows the norm before clipping


# ---------------------------------------------------------------- killed and continued

DRIVER = textwrap.dedent("""
    # Each run is a forked child, so that it can be killed for real and torch is imported once.
    import dataclasses, json, os, resource, signal, socket, sys, traceback
    sys.path.insert(0, TESTS)
    import torch
    import test_training as t
    from vt_course import CourseError
    from vt_course.training import checkpoint, fit, folder
    from vt_course.training.recipes import Recipe

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def kill_at_rename(name, count, moment):
        # "half": killed while writing; "before", "after" the rename that makes the file valid
        real = os.replace
        def replace(source, target):
            nonlocal count
            if os.path.basename(target) == name:
                count -= 1
                if count == 0 and moment == "half":
                    os.truncate(source, os.path.getsize(source) // 2)
                if count == 0 and moment != "after":
                    die()
            real(source, target)
            if count == 0 and os.path.basename(target) == name:
                die()
        os.replace = replace

    def at_step(count, act):
        real = torch.optim.AdamW.step
        def step(optimizer, *args, **kwargs):
            nonlocal count
            result = real(optimizer, *args, **kwargs)
            count -= 1
            if count == 0:
                act()
            return result
        torch.optim.AdamW.step = step

    def child(out, plan, settings):
        os.setsid()
        torch.set_num_threads(2)
        if plan[0] == "step":
            at_step(plan[1], die)
        elif plan[0] == "ctrl-c":  # as a terminal does: to every process of the group
            at_step(plan[1], lambda: os.killpg(0, signal.SIGINT))
        elif plan[0] == "disk":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (plan[1], plan[1]))
        elif plan[0] != "none":
            kill_at_rename(*plan)
        try:
            t.train(recipe, t.Path(out), **settings)
        except KeyboardInterrupt:
            os._exit(130)
        except CourseError as error:
            print("CourseError", error, flush=True)
            os._exit(2)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    # One run here does the slow imports for all children; one thread is safe to fork.
    torch.set_num_threads(1)
    t.checkpoint.create = lambda name, **settings: t.Tiny(**settings)
    folder.curves = lambda *rows_classes_title: t.Figure(figsize=(1, 1))       # the real one takes longer than the run
    recipe = Recipe.from_json(RECIPE)
    t.train(dataclasses.replace(recipe, epochs=1), WARM)
    results = []
    for number, (out, plan, settings) in enumerate(PLANS):
        # TensorBoard reads event files in the order of second, host, process: runs of one second must sort, too.
        socket.gethostname = lambda: f"run{number:03}"
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            child(out, plan, settings)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        state = checkpoint.read_state(t.Path(out))
        where = state and [state["progress"]["epoch"], state["progress"]["batch"]]
        results.append([status, where])
    print("RESULTS", json.dumps(results), flush=True)
""")


OFTEN = {"checkpoint_minutes": 0}  # a checkpoint before every step
PLANS = [  # run folder, what happens, arguments of `fit`
    ("whole", ("none",), {}),
    ("killed", ("state.pt", 2, "half"), OFTEN),  # 0: the state of step 0 is kept
    ("killed", ("state.pt", 3, "before"), OFTEN),  # 1
    ("killed", ("state.pt", 2, "after"), OFTEN),  # 2: nothing derived from it yet
    ("killed", ("best.safetensors", 1, "before"), OFTEN),  # 3: the state's best has no file
    ("killed", ("metrics.csv", 2, "before"), OFTEN),  # 4
    ("killed", ("step", 2), {"workers": 1}),  # 5: weights changed, nothing saved
    ("killed", ("last.safetensors", 2, "half"), OFTEN),  # 6
    ("killed", ("curves.png", 1, "half"), {}),  # 7
    ("killed", ("summary.json", 1, "before"), {}),  # 8
    ("killed", ("none",), {}),
    ("cut", ("ctrl-c", 2), {"workers": 1}),
    ("cut", ("disk", 5_000), {}),
    ("cut", ("ctrl-c", 1), {}),  # the last step of the epoch: before validation
    ("cut", ("none",), {}),
]


@pytest.fixture(scope="module")
def driven(recipe, tmp_path_factory):
    """The plans, run one by one: (folder, {run folder: [[exit code (-signal), [epoch, batch]], ...]}, what was
    printed)."""
    folder = tmp_path_factory.mktemp("driven")
    head = (
        f"TESTS = {str(Path(__file__).parent)!r}\nRECIPE = {recipe.to_json()!r}\nWARM = {str(folder / 'warm')!r}\n"
        f"PLANS = {[(str(folder / out), plan, settings) for out, plan, settings in PLANS]!r}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", head + DRIVER],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
    )
    assert "RESULTS" in done.stdout, done.stderr
    results = {}
    for (out, _, _), result in zip(PLANS, json.loads(done.stdout.split("RESULTS")[1]), strict=True):
        results.setdefault(out, []).append(result)
    assert results["whole"] == [[0, [3, 0]]], done.stderr
    return folder, results, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.posix("kill -9")
def test_killed_at_any_moment_and_resumed_equals_uninterrupted(driven):
    folder, results, output = driven
    whole, killed = folder / "whole", folder / "killed"
    codes, places = zip(*results["killed"])
    assert codes == (*[-signal.SIGKILL] * 9, 0), output
    assert places[:3] == ([0, 0], [0, 1], [0, 2]), output  # one step lost at most, here
    assert places[3] == [1, 0] and places[4] == places[5]  # killed at a step, saved before
    assert places[7] == places[9] == [3, 0]
    assert list(places) == sorted(places)  # never backwards
    assert_same_run(whole, killed)
    # TensorBoard shows each step once, although some were taken twice
    assert [step for step, _ in scalars(killed, "train/loss")] == list(range(1, 10))
    assert scalars(killed, "train/loss") == scalars(whole, "train/loss")
    assert not list(killed.glob(".*.part")), "a killed write leaves its temporary file behind"


@pytest.mark.slow
def test_ctrl_c_and_a_full_disk(driven):
    folder, results, output = driven
    assert results["cut"] == [[130, [0, 2]], [2, [0, 2]], [130, [0, 3]], [0, [3, 0]]], output
    assert "run the same command again" in output and "File too large" in output
    assert "Traceback" not in output
    assert_same_run(folder / "whole", folder / "cut")


def test_max_steps_stops_and_the_run_goes_on(recipe, tiny, tmp_path):
    train(recipe, tmp_path / "whole")
    summary = train(recipe, tmp_path / "cut", max_steps=4)
    assert summary["steps"] == 4 and not summary["finished"] and summary["epochs"] == 1
    with safetensors.safe_open(tmp_path / "cut" / "last.safetensors", "pt") as file:
        assert file.metadata()["step"] == "4"
    seconds = summary["seconds"]
    summary = train(recipe, tmp_path / "cut")
    assert summary["finished"] and summary["seconds"] >= seconds
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def kill_worker(monkeypatch):
    """Kill the loader process when its third batch is asked for. From here, because a spawned one knows no patches."""
    calls, real = [], torch.utils.data.dataloader._MultiProcessingDataLoaderIter._next_data

    def next_data(self):
        calls.append(self)
        if len(calls) == 3:
            os.kill(self._workers[0].pid, signal.SIGKILL)
            self._workers[0].join()  # so that torch hears of it now, and not after the next line of the test
        return real(self)

    monkeypatch.setattr(torch.utils.data.dataloader._MultiProcessingDataLoaderIter, "_next_data", next_data)


@pytest.mark.posix("kill -9")
def test_a_killed_loader_process_is_one_sentence_and_the_run_goes_on(recipe, tiny, tmp_path, monkeypatch):
    recipe = dataclasses.replace(recipe, keep=0)
    train(recipe, tmp_path / "whole", workers=1)
    with monkeypatch.context() as patch:
        kill_worker(patch)
        with pytest.raises(CourseError, match="a loader process (is killed|exited).*, which goes on from") as caught:
            train(recipe, tmp_path / "run", workers=1)
        assert "\n" not in str(caught.value) and "--workers 0" in str(caught.value)
        patch.undo()
        model, clips = evaluate.open_trained(tmp_path / "whole")
        kill_worker(patch)
        monkeypatch.setattr(clips, "rows", clips.rows * 2), monkeypatch.setattr(clips, "labels", clips.labels * 2)
        with pytest.raises(CourseError, match="a loader process (is killed|exited).*same command again with"):
            evaluate.evaluate(model, clips, device="cpu", batch_size=1, workers=1, progress=False)
    train(recipe, tmp_path / "run", workers=1)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


WORKER = "DataLoader worker (pid 43) is killed by signal: "
LACKING = [
    (RuntimeError(WORKER + "Killed. "), "a loader process is killed by signal: Killed"),
    (RuntimeError("DataLoader worker (pid(s) 43, 44) exited unexpectedly"), "a loader process exited unexpectedly"),
    (
        RuntimeError(WORKER + "Bus error. It is possible that dataloader's workers are out of shared memory."),
        "/dev/shm",
    ),
    (RuntimeError("unable to write to file </torch_7_1>: No space left on device (28)"), "/dev/shm"),
    (MemoryError("Caught MemoryError in DataLoader worker process 0.\nOriginal Traceback"), "memory ran out"),
    (MemoryError(), "memory ran out"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), "memory ran out"),
    (ConnectionResetError(104, "Connection reset by peer"), "a loader process exited unexpectedly"),
    (EOFError(), "a loader process exited unexpectedly"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), "the GPU has too little"),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
    (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback: a bug"), None),
]


@pytest.mark.parametrize("error, words", LACKING)
def test_a_lack_of_memory_is_told_from_a_bug(error, words):
    with pytest.raises(CourseError if words else RuntimeError, match=words) as caught, loading.short_of_memory():
        raise error
    assert words is None or "\n" not in str(caught.value)


def test_a_finished_run_is_left_alone(recipe, tiny, tmp_path):
    first = train(recipe, tmp_path / "run")
    stamp = (tmp_path / "run" / "summary.json").stat().st_mtime_ns
    assert train(recipe, tmp_path / "run") == first
    assert (tmp_path / "run" / "summary.json").stat().st_mtime_ns == stamp
    with pytest.raises(CourseError, match="already holds a run"):
        train(recipe, tmp_path / "run", resume=False)


def test_other_settings_in_the_same_folder_are_refused(recipe, clips, tiny, tmp_path):
    out = tmp_path / "run"
    train(recipe, out, max_steps=1)
    before = (out / "state.pt").read_bytes()
    with pytest.raises(CourseError, match=r"lr was 0.01 and is now 0.02.*choose another --out"):
        train(dataclasses.replace(recipe, lr=0.02), out)
    assert (out / "state.pt").read_bytes() == before
    # the same names, other clips
    for name in ("train.csv", "val.csv"):
        lines = (clips / name).read_text(encoding="utf-8").replace("train", f"{clips}/train")
        (tmp_path / name).write_text(lines.replace("val", f"{clips}/val"), encoding="utf-8")
    recipe = dataclasses.replace(recipe, data=f"csv:{tmp_path}/train.csv,{tmp_path}/val.csv")
    train(recipe, tmp_path / "b", max_steps=1)
    lines = (tmp_path / "train.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "train.csv").write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    with pytest.raises(CourseError, match="list other clips"):
        train(recipe, tmp_path / "b")


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_checkpoint(recipe, tiny, tmp_path, monkeypatch):
    out = tmp_path / "run"
    train(recipe, out, max_steps=4)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(CourseError, match="No space left on device.*free space"):
            train(recipe, out)
    after = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert after == before
    train(recipe, out)
    train(recipe, tmp_path / "whole")
    assert_same_run(tmp_path / "whole", out)


def test_a_folder_that_cannot_be_made(recipe, tiny, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(CourseError, match=r"file.*choose another --out"):
        train(recipe, tmp_path / "file" / "run")


# ---------------------------------------------------------------- numbers that are not finite


class Explodes(Tiny):
    """Gives NaN from the sixth training step on."""

    calls = 0

    def forward(self, x):
        Explodes.calls += self.training
        return super().forward(x) * (math.nan if Explodes.calls > 5 else 1)


class BadGradient(Tiny):
    """A finite loss with a gradient of NaN: d sqrt(|t|)/dt is infinite at 0, times 0."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.trap = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return super().forward(x) + 0 * self.trap.abs().sqrt()


def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(recipe, tiny, tmp_path):
    Explodes.calls = 0
    tiny(lambda name, **settings: Explodes(**settings))
    with pytest.raises(CourseError, match=r"step 6 .*lower lr=0.01.*warmup_epochs"):
        train(recipe, tmp_path / "run")
    state = checkpoint.read_state(tmp_path / "run")
    assert (state["progress"]["epoch"], state["progress"]["batch"]) == (1, 0)
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_nan_gradient_never_reaches_the_weights(recipe, tiny, tmp_path):
    tiny(lambda name, **settings: BadGradient(**settings))
    with pytest.raises(CourseError, match="step 1 .*gradient norm nan"):
        train(recipe, tmp_path / "run")
    assert checkpoint.read_state(tmp_path / "run") is None


# ---------------------------------------------------------------- clips that cannot be read


def with_bad_clips(clips, folder, recipe, bad, **settings):
    """The data of `clips` with the training files in `bad` replaced by empty ones."""
    for split in ("train", "val"):
        lines = (clips / f"{split}.csv").read_text(encoding="utf-8").splitlines()
        for i, line in enumerate(lines[1:]):
            name = line.split(",")[0]
            if name in bad:
                (folder / name).write_bytes(b"")
            lines[i + 1] = line.replace(name, str((folder if name in bad else clips) / name))
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return dataclasses.replace(recipe, data=f"csv:{folder / 'train.csv'},{folder / 'val.csv'}", **settings)


def test_bad_clips_are_skipped_counted_and_listed(recipe, clips, tiny, tmp_path, capsys):
    bad = ["train1.mp4", "train2.mp4", "train4.mp4", "train7.mp4", "val5.mp4"]
    recipe = with_bad_clips(clips, tmp_path, recipe, bad, batch_size=2, epochs=2)
    summary = train(recipe, tmp_path / "run", max_steps=7)
    summary = train(recipe, tmp_path / "run")  # counts survive a resume in the epoch
    assert summary["finished"] and summary["bad_clips"] == {"train": 4, "val": 1}
    assert [row["skipped"] for row in rows(tmp_path / "run")] == ["4", "4"]
    with open(tmp_path / "run" / "bad_clips.csv", newline="", encoding="utf-8") as file:
        listed = [(row["split"], row["index"]) for row in csv.DictReader(file)]
    assert listed == [("train", "1"), ("train", "2"), ("train", "4"), ("train", "7"), ("val", "5")]
    assert "train4.mp4" in (tmp_path / "run" / "bad_clips.csv").read_text(encoding="utf-8")
    printed = capsys.readouterr().err  # stdout belongs to --json
    assert printed.count("4 training and 1 validation clips could not be read") == 2
    assert "and 2 more" in printed and "bad_clips.csv" in printed


def test_a_batch_of_bad_clips_only_is_no_step(recipe, clips, tiny, tmp_path):
    recipe = with_bad_clips(clips, tmp_path, recipe, ["train0.mp4"], batch_size=1, epochs=1)
    train(recipe, tmp_path / "run")
    assert rows(tmp_path / "run")[0]["step"] == "12"
    assert len(scalars(tmp_path / "run", "train/loss")) == 11


def test_nothing_readable_stops(recipe, clips, tiny, tmp_path):
    every = [f"train{i}.mp4" for i in range(12)]
    recipe = with_bad_clips(clips, tmp_path, recipe, every)
    with pytest.raises(CourseError, match="none of the training clips.*train.*empty"):
        train(recipe, tmp_path / "run")


# ---------------------------------------------------------------- frames kept in memory


@pytest.mark.slow
def test_kept_frames_are_the_same_samples_decoded_once(recipe, tiny, monkeypatch, tmp_path):
    plain, _ = evaluate.open_data(recipe)
    kept, kept_val = evaluate.open_data(dataclasses.replace(recipe, keep=32))  # as stored
    opened, reader = [], kept._open
    monkeypatch.setattr(kept, "_open", lambda row: opened.append(Path(row["path"]).name) or reader(row))
    for key in [(0, 3), (1, 3), (2, 3), (0, 4)]:
        assert torch.equal(kept[key]["clip"], plain[key]["clip"])
    assert opened == ["train3.mp4", "train4.mp4"]
    # kept at the size the model wants, validation clips are still what decoding gives
    _, val = evaluate.open_data(dataclasses.replace(recipe, sampling="uniform"))
    _, kept_val = evaluate.open_data(dataclasses.replace(recipe, sampling="uniform", keep=16))
    assert torch.equal(kept_val[5]["clip"], val[5]["clip"])
    assert kept_val.kept[val.rows[5]["path"], None].shape == (2, 16, 16, 3)  # the two of its frames that it looks at
    assert loading.make_loader(kept, [[0]], 4, torch.device("cpu")).num_workers == 1
    for name, worker in (("kept", 1), ("again", 0)):
        train(dataclasses.replace(recipe, keep=32), tmp_path / name, workers=worker)
    assert_same_run(tmp_path / "kept", tmp_path / "again")


def test_frames_without_room_are_decoded_again_to_the_same_pixels(recipe, clips, tmp_path, monkeypatch):
    write_video(tmp_path / "large.mp4", frames=30, size=(180, 240))
    (tmp_path / "large.csv").write_text(f"path,label\nlarge.mp4,dark\n{clips / 'train0.mp4'},dark\n", encoding="utf-8")
    recipe = dataclasses.replace(
        recipe, data=f"csv:{tmp_path / 'large.csv'},{tmp_path / 'large.csv'}", size=16, keep=16
    )
    kept, _ = evaluate.open_data(recipe)
    monkeypatch.setattr(loading, "ROOM", 30 * 16 * 21 * 3 - 1)  # bytes, one too few for the large file
    monkeypatch.setattr("vt_course.data.reader.BLOCK", 40_000)  # bytes: two frames at once
    decoded, decoded_val = evaluate.open_data(recipe)
    for key in [(0, 0), (1, 0), (0, 1), (5, 1)]:
        assert torch.equal(kept[key]["clip"], decoded[key]["clip"])
    large = str(tmp_path / "large.mp4")
    assert [path for path, _ in decoded.kept] == [str(clips / "train0.mp4")] and kept.kept[large, None].shape == (
        30,
        16,
        21,
        3,
    )
    whole = torch.from_numpy(ClipReader(large).read(range(30)))
    gap = transforms.resize(whole, 16, 21).float() - kept.kept[large, None].float()
    assert gap.abs().mean() < 4  # scaled to 32x43 while it was decoded, then as everything is
    assert decoded_val[0]["clip"].shape == (3, recipe.frames, 16, 16) and decoded_val.room > 0


def test_parts_of_videos_are_not_kept(recipe, clips, tmp_path):
    line = f"{clips / 'train0.mp4'},dark,0.1,0.6\n"
    (tmp_path / "parts.csv").write_text("path,label,start,end\n" + line, encoding="utf-8")
    data = f"csv:{tmp_path / 'parts.csv'},{tmp_path / 'parts.csv'}"
    with pytest.raises(CourseError, match="keep=0"):
        evaluate.open_data(dataclasses.replace(recipe, data=data, keep=16))


# ---------------------------------------------------------------- evaluation


class Numbers(torch.utils.data.Dataset):
    """Videos whose pixels are numbers we choose: `logits` (N, K) or (N, V, K), frame t of T."""

    views = None

    def __init__(self, logits, labels, classes, frames=4):
        self.logits, self.labels = torch.as_tensor(logits, dtype=torch.float32), labels
        self.classes, self.frames = classes, frames
        if self.logits.ndim == 3:
            self.views = (self.logits.shape[1], 1)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        if self.labels[index] is None:
            return dict(index=index, error=f"video {index} is broken")
        x = self.logits[index][..., :, None, None, None]  # ([V,] K, 1, 1, 1)
        clip = x.expand(*x.shape[:-3], self.frames, 1, 1)
        return dict(clip=clip, label=self.labels[index], index=index)


class Echo(nn.Module):
    def forward(self, x):
        return x.mean((2, 3, 4))


def test_evaluate_by_hand():
    # six classes; the guesses are 0, 1, 1, 2, 5 and the second video of class 1 is broken
    logits = torch.zeros(6, 6)
    for row, guess in enumerate((0, 1, 1, 0, 2, 5)):
        logits[row, guess] = math.log(5)  # probability 5/10
    logits[5, :5] = torch.tensor([-1, -2, -3, -9, -4.0])  # class 3 comes last
    data = Numbers(logits, [0, 1, 0, None, 2, 3], list("abcdef"))
    result = evaluate.evaluate(Echo(), data, batch_size=2, **QUIET)
    assert result["n"] == 5 and result["bad"] == [(3, "video 3 is broken")]
    assert result["confusion"] == [
        [1, 1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 1],
        [0] * 6,
        [0] * 6,
    ]
    assert result["per_class"] == {"a": 0.5, "b": 1.0, "c": 1.0, "d": 0.0, "e": None, "f": None}
    assert result["top1"] == pytest.approx(3 / 5) and result["top5"] == pytest.approx(4 / 5)
    assert result["stderr"] == pytest.approx(math.sqrt(0.6 * 0.4 / 5))
    last = -9 - math.log(sum(math.exp(v) for v in (-1, -2, -3, -9, -4, math.log(5))))
    total = 3 * math.log(2) + math.log(10) - last
    assert result["loss"] == pytest.approx(total / 5, rel=1e-5)


def test_views_are_averaged_as_probabilities():
    # the mean softmax (0.50, 0.37, 0.13) chooses class 0, mean logits (-6, 0.5, 0) class 1
    data = Numbers([[[8, 0, 0], [-20, 1, 0]]] * 3, [0, 0, 1], list("abc"))
    result = evaluate.evaluate(Echo(), data, batch_size=4, **QUIET)
    assert result["confusion"] == [[2, 0, 0], [1, 0, 0], [0, 0, 0]] and result["n"] == 3
    assert "top5" not in result
    assert loading.in_order(data, 4) == [[0, 1], [2]]  # two views a video


def test_nothing_to_evaluate():
    with pytest.raises(CourseError, match="video 0 is broken"):
        evaluate.evaluate(Echo(), Numbers([[0.0, 0]], [None], "ab"), **QUIET)


def test_frame_orders():
    clip = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(3, 2, 8, 2, 2)  # frame t holds t

    def order(name, index=(4, 5, 6), seed=0, x=clip):
        y = evaluate.reorder_frames(x, index, name, seed)
        assert y.shape == x.shape
        assert (y == y[:, :1, :, :1, :1]).all()  # whole frames moved
        return y[:, 0, :, 0, 0].int().tolist()

    assert order("normal") == [list(range(8))] * 3
    assert order("reversed") == [list(range(7, -1, -1))] * 3
    shuffled = order("shuffled")
    assert all(sorted(row) == list(range(8)) for row in shuffled)
    assert len({tuple(row) for row in shuffled}) == 3  # one for each video ...
    assert order("shuffled", (6,), x=clip[:1]) == shuffled[2:]  # ... whatever the batch
    assert order("shuffled", seed=1) != shuffled
    single = order("single", range(40), x=clip[:1].expand(40, -1, -1, -1, -1))
    assert all(len(set(row)) == 1 for row in single) and len({row[0] for row in single}) == 8
    assert order("tubes-reversed") == [[6, 7, 4, 5, 2, 3, 0, 1]] * 3
    assert order("frames-swapped") == [[1, 0, 3, 2, 5, 4, 7, 6]] * 3
    both = evaluate.reorder_frames(evaluate.reorder_frames(clip, (), "tubes-reversed"), (), "frames-swapped")
    assert torch.equal(both, evaluate.reorder_frames(clip, (), "reversed"))
    assert order("tubes-reversed", x=clip[:, :, :5])[0] == [4, 2, 3, 0, 1]
    assert order("frames-swapped", x=clip[:, :, :5])[0] == [1, 0, 3, 2, 4]
    with pytest.raises(CourseError, match="choose one of normal, shuffled, reversed, single"):
        order("backwards")


def test_frame_orders_reach_the_model_and_leave_it_as_it_was():
    class First(nn.Module):
        def forward(self, x):
            assert not self.training
            return x[:, :, 0, 0, 0]

    class Ramp(Numbers):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            sample["clip"] = torch.eye(2)[:, :, None, None]  # (K, T, 1, 1)
            return sample

    data, model = Ramp(torch.zeros(4, 2), [0] * 4, "ab"), First().train()
    assert evaluate.evaluate(model, data, **QUIET)["top1"] == 1.0
    assert evaluate.evaluate(model, data, order="reversed", **QUIET)["top1"] == 0.0
    assert model.training


def test_unusable_device():
    with pytest.raises(CourseError, match="device 'tpu9' cannot be used"):
        machine.pick_device("tpu9")


# ---------------------------------------------------------------- loading a run


def test_load_run_gives_back_model_and_recipe(recipe, tmp_path):
    out = tmp_path / "run"
    recipe = dataclasses.replace(recipe, model="video_swin_mini", epochs=1, size=32, drop_path=0.2)
    summary = train(recipe, out)
    model, loaded = checkpoint.load_run(out)
    assert loaded == recipe and not model.training
    _, val = evaluate.open_data(loaded)
    result = evaluate.evaluate(model, val, **QUIET)
    assert result["top1"] == summary["best"]["val_top1"]
    assert result["loss"] == pytest.approx(summary["best"]["val_loss"], abs=1e-6)
    for path in (out / "last.safetensors", str(out / "best.safetensors")):
        assert checkpoint.load_run(path)[1] == recipe


def test_evaluate_run(recipe, clips, tiny, tmp_path):
    out = tmp_path / "run"
    summary = train(recipe, out)
    result = evaluate.evaluate_run(out, **QUIET)
    assert (result["n"], result["top1"]) == (6, summary["best"]["val_top1"])
    twelve = f"csv:{clips / 'train.csv'},{clips / 'train.csv'}"
    assert evaluate.evaluate_run(out, data=twelve, order="reversed", **QUIET)["n"] == 12
    lines = (clips / "train.csv").read_text(encoding="utf-8").replace("dark", "black")
    other = tmp_path / "other.csv"
    other.write_text(lines, encoding="utf-8")
    with pytest.raises(CourseError, match="black, grey, light, but .*trained on dark"):
        evaluate.evaluate_run(out, data=f"csv:{other},{other}", **QUIET)


def test_load_run_tells_best_from_last(recipe, tiny, tmp_path):
    out = tmp_path / "run"
    train(recipe, out, max_steps=1)
    saved = weights(out)
    assert torch.equal(checkpoint.load_run(out)[0].head.weight, saved["head.weight"])  # no best
    changed = {key: tensor + 1 for key, tensor in saved.items()}
    with safetensors.safe_open(out / "last.safetensors", "pt") as file:
        header = file.metadata()
    del header["checksum"]  # these are other weights
    safetensors.torch.save_file(changed, out / "best.safetensors", header)
    assert torch.equal(checkpoint.load_run(out)[0].head.weight, changed["head.weight"])
    last = checkpoint.load_run(out, "last")[0]
    assert torch.equal(last.head.weight, saved["head.weight"])


def test_load_run_lists_what_does_not_fit(recipe, tiny, tmp_path):
    out = tmp_path / "run"
    train(recipe, out, max_steps=1)
    with safetensors.safe_open(out / "last.safetensors", "pt") as file:
        header = file.metadata()
    tensors = weights(out)
    tensors["extra"] = tensors.pop("head.weight")
    tensors["norm.bias"] = torch.zeros(9)
    safetensors.torch.save_file(tensors, out / "odd.safetensors", header)
    with pytest.raises(CourseError) as error:
        checkpoint.load_run(out / "odd.safetensors")
    assert "missing head.weight" in str(error.value)
    assert "unexpected extra" in str(error.value)
    assert "norm.bias has shape (9,), wanted (8,)" in str(error.value)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda path: path.mkdir(), "holds no checkpoint"),
        (lambda path: path.write_bytes(b"no weights"), "not a readable safetensors"),
        (lambda path: safetensors.torch.save_file({"a": torch.zeros(1)}, path), "no recipe"),
        (lambda path: None, "does not exist"),
    ],
)
def test_load_run_of_something_else(make, words, tmp_path):
    make(tmp_path / "thing")
    with pytest.raises(CourseError, match=words):
        checkpoint.load_run(tmp_path / "thing")


# ---------------------------------------------------------------- a model for the clips that are asked for


@pytest.mark.parametrize(
    "name, changes, built",
    [
        ("timesformer_mini", dict(frames=4, size=32), {"time_embed": (1, 4, 96), "pos_embed": (1, 17, 96)}),
        ("mvit_mini", dict(frames=4, size=32), {"pos_embed_temporal": (1, 2, 32), "pos_embed_spatial": (1, 64, 32)}),
        (
            "mvit_v2_mini",
            dict(frames=16, size=64),
            {"blocks.0.attn.rel_pos_t": (15, 32), "blocks.0.attn.rel_pos_h": (31, 32)},
        ),
        ("swin_mini", dict(frames=1, size=32), {"layers.2.blocks.0.attn.relative_position_bias_table": (9, 8)}),
        (
            "timesformer_mini",
            dict(frames=4, size=32, config={"num_frames": 2, "img_size": [32, 48]}),
            {"time_embed": (1, 2, 96), "pos_embed": (1, 25, 96)},
        ),
    ],
    ids=str,
)
def test_a_model_is_built_for_the_frames_and_the_size_of_its_recipe(name, changes, built):
    """What `config` says has the last word. video_swin_mini and uniformer_mini take any clip and depend on none."""
    model = checkpoint.build_model(dataclasses.replace(RECIPES[name], keep=0, **changes), 3)
    state = model.state_dict()
    assert {key: tuple(state[key].shape) for key in built} == built
    frames = [] if name == "swin_mini" else [changes["frames"]]
    clip = torch.randn(1, 3, *frames, changes["size"], changes["size"])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model(clip), model(clip)
    assert [str(w.message)[:36] for w in said] == ["TimeSformer was built for 2 frames of"[:36]] * ("config" in changes)


def test_a_run_tells_neighbouring_frames_apart_and_is_built_the_same_again(clips, tmp_path):
    """16 frames of a model whose variant has 8: with 8 stretched embeddings, frames swapped in pairs change nothing."""
    recipe = dataclasses.replace(
        RECIPES["timesformer_mini"],
        data=f"csv:{clips / 'train.csv'},{clips / 'val.csv'}",
        keep=0,
        frames=16,
        stride=1,
        size=16,
        config={"depth": 1},
        epochs=1,
        batch_size=4,
        warmup_epochs=0,
    )
    train(recipe, tmp_path / "run", max_steps=1)
    model, again = checkpoint.load_run(tmp_path / "run", "last")
    assert again == recipe and model.time_embed.shape == (1, 16, 96)
    torch.nn.init.normal_(model.time_embed)
    torch.nn.init.normal_(model.blocks[0].temporal_fc.weight, std=0.1)
    x = torch.randn(1, 3, 16, 16, 16)
    swapped = x.unflatten(2, (8, 2)).flip(3).flatten(2, 3)
    with torch.no_grad():
        assert (model(x) - model(swapped)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "model, changes, words",
    [
        (
            "mvit_mini",
            dict(frames=7),
            r"mvit_mini cannot be built for frames=7, size=32 and config={}: an input of \(7, 32, 32\) "
            "is not a multiple",
        ),
        ("timesformer_mini", dict(size=4), "img_size 4 is smaller than patch_size 8"),
        ("timesformer_mini", dict(config={"in_channels": 1}), "input has 3 channels"),
    ],
)
def test_clips_that_a_model_cannot_be_built_for(model, changes, words, clips, tmp_path):
    recipe = dataclasses.replace(
        RECIPES[model], data=f"csv:{clips / 'train.csv'},{clips / 'val.csv'}", keep=0, **changes
    )
    with pytest.raises(CourseError, match=words):
        train(recipe, tmp_path / "run")


@pytest.mark.parametrize("batch_size, refused", [(11, True), (1, True), (5, False)])
def test_a_last_batch_that_batch_norm_cannot_be_trained_on_is_said_before_the_first_step(
    batch_size, refused, clips, tmp_path
):
    """Of 12 clips; with frames=1 and size=32 one clip ends as one place."""
    recipe = dataclasses.replace(
        RECIPES["uniformer_mini"],
        data=f"csv:{clips / 'train.csv'},{clips / 'val.csv'}",
        keep=0,
        frames=1,
        stride=1,
        size=32,
        batch_size=batch_size,
        epochs=1,
        warmup_epochs=0,
        config={"depths": [1, 1, 1, 1]},
    )
    if not refused:
        train(recipe, tmp_path / "run", max_steps=1)
        return
    with pytest.raises(
        CourseError,
        match=rf"\(12 clips, batch_size={batch_size}\) gives a process 1 clip: BatchNorm cannot be trained on one",
    ):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "state.pt").exists()
