"""Evaluation: accuracy and its standard error, confusion, and what frame order is worth.

A video may be seen through several views (clips in time, crops in space). Its prediction is the
mean of the softmax over the views, as in the official test code of the models of this course.
`order` breaks the order of the frames on purpose: a model blind to time does not notice.
"""
import dataclasses
import functools
import math
import os
import signal
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from vt_course import CourseError, need
from vt_course.data import images, open_spec, transforms
from vt_course.data.clips import VideoFolder, collate
from vt_course.data.reader import scaled_size
from vt_course.files import parse_json, parsing
from vt_course.machine import cores
from vt_course.models import ZOO, built_for, create
from vt_course.models.official import check_state
from vt_course.training.checkpoint import check_whole, read_weights
from vt_course.training.recipes import Recipe

ROOM = 512 << 20  # bytes of frames that a data set keeps: all of the embedded one's, 482 MB
ORDERS = ("normal", "shuffled", "reversed", "single")


class KeptFrames(VideoFolder):
    """A `VideoFolder` that decodes each file once and keeps its frames in memory, while there is room.

    They are scaled to the short side `keep`; files of more than twice that are scaled to twice it
    while they are decoded. For training all frames of a file are kept, for validation those that it
    looks at: frames * H * W * 3 bytes, at most `ROOM` bytes in the process that reads. A file that
    has no room is decoded for each sample, to the same pixels.
    Raises `CourseError` for a manifest with start or end times: a part of a
    long video would keep all of it.
    """

    def __init__(self, manifest, *, keep: int, **settings):
        super().__init__(manifest, **settings)
        if any(row["start"] is not None or row["end"] is not None for row in self.rows):
            raise CourseError(f"{manifest} has start or end times: train with keep=0")
        self.keep, self.kept, self.room = keep, {}, ROOM

    def _clip(self, row, rng):
        video = row["path"], row.get("offset")
        if video not in self.kept:
            reader = self._open(row)
            n, size = reader.num_frames, scaled_size(*reader.size, self.keep)
            reader.at_most(2 * self.keep)
            wanted = np.arange(n) if self.train else self._indices(n, rng)
            if len(wanted) * math.prod(size) * 3 > self.room:
                return self._view(_read_scaled(reader, self._indices(n, rng), size), rng)
            self.kept[video] = _read_scaled(reader, wanted, size)  # (F, h, w, C)
            self.room -= self.kept[video].nbytes
        frames = self.kept[video]
        if self.train:
            frames = frames[torch.from_numpy(self._indices(len(frames), rng))]  # (T, h, w, C)
        return self._view(frames, rng)


def _read_scaled(reader, indices, size: tuple[int, int]):
    """The frames at `indices`, uint8 (T, h, w, C), (h, w) = size; never more than a few of them larger."""
    return torch.from_numpy(reader.read(indices, lambda few: transforms.resize(torch.from_numpy(few), *size).numpy()))


def pick_device(device=None) -> torch.device:
    """The device asked for, else CUDA, else Apple's MPS, else the CPU. Raises `CourseError`."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise CourseError(f"device {device!r} cannot be used here ({reason}); "
                          "try cpu") from error
    return found


def reorder_frames(clip, index: Iterable[int], order: str, seed: int = 0):
    """Clips (B, ..., C, T, H, W) with their frames in another order.

    "shuffled" draws a permutation for each video, "single" repeats one random frame over the
    whole clip; both are pure functions of (seed, index of the video), so every model sees the
    same frames.
    """
    if order not in ORDERS:
        raise CourseError(f"unknown frame order {order!r}: choose one of {', '.join(ORDERS)}")
    if order == "normal":
        return clip
    if order == "reversed":
        return clip.flip(-3)
    T = clip.shape[-3]
    moved = []
    for video, i in zip(clip, index):
        rng = np.random.default_rng([seed, i])
        frames = rng.permutation(T) if order == "shuffled" else np.full(T, rng.integers(T))
        moved.append(video.index_select(-3, torch.from_numpy(frames).to(clip.device)))
    return torch.stack(moved)  # (B, ..., C, T, H, W)


def ignore_interrupt(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; only the main one may answer it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def make_loader(dataset, batches, workers: int | None, device: torch.device) -> DataLoader:
    """A loader over `batches`, an iterable of lists of data set keys."""
    workers = default_workers() if workers is None else workers
    if isinstance(dataset, KeptFrames):
        workers = min(workers, 1)  # each process would keep its own copy
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=collate,
                      worker_init_fn=ignore_interrupt, persistent_workers=workers > 0,
                      pin_memory=device.type == "cuda")


def in_order(dataset, batch_size: int) -> list[list[int]]:
    """Batches of consecutive indices that hold about `batch_size` clips, all views counted."""
    n, videos = len(dataset), max(batch_size // math.prod(dataset.views or (1,)), 1)
    return [list(range(i, min(i + videos, n))) for i in range(0, n, videos)]


def default_workers() -> int:
    """One decoding process leaves the second core of a small machine to the model; torchrun's processes share the cores."""
    return min(max(cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1, 1), 8)


def takes_images(model) -> bool:
    """Whether a model of this course takes (B, C, H, W); every other module is taken to see clips."""
    model = getattr(model, "module", model)                          # what DistributedDataParallel wraps
    return "T" not in getattr(model, "layout", "B C T H W")


def class_scores(model, clip):
    """The model's logits (B, K) for clips (B, C, T, H, W); an image model gets the one frame of each."""
    return model(clip.squeeze(2) if takes_images(model) else clip)


@torch.no_grad()
def predict(model, loader, device, *, order="normal", seed=0, autocast=None):
    """Run the model over a loader.

    Returns (log_probs, label, bad): log of the mean softmax over a video's views, float64
    (N, K); true classes (N,); and [(index, sentence)] for the videos that could not be read.
    """
    was_training = model.training
    model.eval()
    log_probs, labels, bad = [torch.zeros(0, 0, dtype=torch.float64)], [], []
    for batch in loader:
        bad += batch["bad"]
        if batch["clip"] is None:
            continue
        clip = batch["clip"].to(device, non_blocking=True)  # (B, [V,] C, T, H, W)
        clip = reorder_frames(clip, batch["index"].tolist(), order, seed)
        with autocast() if autocast else nullcontext():
            logits = class_scores(model, clip.flatten(0, -5))  # (B * V, K)
        views = logits.cpu().double().log_softmax(-1).unflatten(0, (len(clip), -1))  # (B, V, K)
        # The mean over views, kept in logs so that no probability underflows.
        log_probs.append(views.logsumexp(1) - math.log(views.shape[1]))  # (B, K)
        labels.append(batch["label"])
    model.train(was_training)
    if not labels:
        return log_probs[0], torch.zeros(0, dtype=torch.int64), bad
    return torch.cat(log_probs[1:]), torch.cat(labels), bad


def score(log_probs, label, classes: Iterable[str]) -> dict:
    """Metrics of predictions, log-probabilities (N, K), against true classes (N,)."""
    classes = list(classes)
    n, K = log_probs.shape
    best = log_probs.argmax(-1)  # (N,)
    confusion = torch.bincount(label * K + best, minlength=K * K).view(K, K)  # (true, guessed)
    top1 = (best == label).double().mean().item()
    result = {
        "n": n,
        "loss": F.nll_loss(log_probs, label).item(),
        "top1": top1,
        "stderr": math.sqrt(top1 * (1 - top1) / n),
    }
    if K >= 5:
        hits = (log_probs.topk(5).indices == label[:, None]).any(-1)  # (N,)
        result["top5"] = hits.double().mean().item()
    counts = confusion.sum(1).tolist()
    result["per_class"] = {name: confusion[k, k].item() / counts[k] if counts[k] else None
                           for k, name in enumerate(classes)}
    result["confusion"] = confusion.tolist()
    result["classes"] = classes
    return result


def evaluate(model, dataset, *, device=None, batch_size=32, order="normal", seed=0,
             workers=None, progress=True) -> dict:
    """Accuracy of `model` on `dataset` (a `VideoFolder` with `train=False`).

    `order` is one of `ORDERS`; `seed` fixes the random ones. `batch_size` counts views.

    Returns a dict:
    n            videos evaluated
    loss         mean of -log(probability of the true class), in nats
    top1, top5   shares in [0, 1]; top5 only where there are at least five classes
    stderr       binomial standard error of top1, sqrt(top1 * (1 - top1) / n)
    per_class    class name: accuracy, None for a class without videos
    confusion    counts, [true class][predicted class], in the order of `classes`
    bad          videos that could not be read, [(index, sentence)]

    Raises `CourseError` when no video can be read.
    """
    device = pick_device(device)
    loader = make_loader(dataset, in_order(dataset, batch_size), workers, device)
    watched = tqdm(loader, desc="evaluate", disable=not progress, leave=False)
    log_probs, label, bad = predict(model.to(device), watched, device, order=order, seed=seed)
    if not len(label):
        raise CourseError(f"none of the clips could be read (the first: {bad[0][1]})")
    return {**score(log_probs, label, dataset.classes), "order": order, "bad": bad}


def open_data(recipe: Recipe) -> tuple[VideoFolder, VideoFolder] | tuple[images.Shapes, images.Shapes]:
    """The training and the validation set of a recipe."""
    spec = open_spec(recipe.data)
    if spec.train is None:
        if recipe.frames != 1:
            raise CourseError(f"{recipe.data} has images, not clips of {recipe.frames} frames; train with frames=1")
        return tuple(images.Shapes(split, size=recipe.size, seed=recipe.seed) for split in images.COUNTS)
    same = dict(classes=spec.classes, frames=recipe.frames, stride=recipe.stride,
                size=recipe.size, sampling=recipe.sampling, seed=recipe.seed)
    folder = functools.partial(KeptFrames, keep=recipe.keep) if recipe.keep else VideoFolder
    train = folder(spec.train, train=True, scale=recipe.crop_scale, ratio=recipe.crop_ratio,
                   flip=recipe.flip, **same)
    return train, folder(spec.val, train=False, **same)


def build_model(recipe: Recipe, classes: int):
    """The model of a recipe, with fresh weights: built for the clips that the recipe asks for, RGB.

    `recipe.config` has the last word. A run that is loaded again passes here as well, so it builds the same model.
    Raises `CourseError` for what the model cannot be built with.
    """
    settings = dict(num_classes=classes, drop_path=recipe.drop_path, **recipe.config)
    if recipe.model in ZOO:                                            # else `create` names the closest one
        settings = built_for(recipe.model, 3, recipe.frames, recipe.size) | settings
    try:
        return create(recipe.model, **settings)
    except ValueError as error:
        if recipe.model not in ZOO:
            raise CourseError(str(error)) from error
        raise CourseError(f"{recipe.model} cannot be built for frames={recipe.frames}, size={recipe.size} and "
                          f"config={recipe.config}: {error}") from error


def load_weights(model, weights: dict, name) -> None:
    """Load a state dict strictly. Raises `CourseError` that lists every difference, and for numbers that are no weights.

    Floats may have another precision than the model's.
    """
    try:
        check_state(model, weights)
    except ValueError as error:
        raise CourseError(f"cannot load {name}: {error}; load it into the model and settings it "
                          "was saved from") from error
    for key, own in model.state_dict().items():
        if own.is_floating_point() and not weights[key].to(own.dtype).isfinite().all():
            raise CourseError(f"cannot load {name}: {key} has numbers that are not finite (NaN or infinity); train again, with a "
                              "lower lr if it was the training that diverged")
    model.load_state_dict(weights)


def read_run(path, which: str = "best") -> tuple[Path, dict, dict]:
    """(file, weights, header) of a run folder or `.safetensors` file; see `load_run`."""
    path = Path(path)
    if path.is_dir():
        names = [f"{which}.safetensors", "last.safetensors"]
        files = [path / name for name in names if (path / name).is_file()]
        if not files:
            raise CourseError(f"{path} holds no checkpoint ({names[0]}); train first with "
                              f"vt-course train MODEL --out {path}")
        path = files[0]
    need(path.exists(), f"{path} does not exist; name a run folder or one of its .safetensors files")
    weights, header = read_weights(path)
    if "recipe" not in header or "classes" not in header:
        raise CourseError(f"{path} has no recipe in its header; name a file that `vt-course "
                          "train` wrote")
    return path, weights, header


def load_run(path, which: str = "best"):
    """(model, recipe) of a run folder or `.safetensors` file, the model in eval mode.

    Of a folder, `which` ("best" or "last") says which checkpoint; a run without a best one yet
    gives the last. Raises `CourseError` when there is none or when it does not fit.
    """
    model, recipe, _ = _restore(path, which)
    return model, recipe


def _restore(path, which: str = "best"):
    """(model, recipe, classes) from one reading of the file."""
    path, weights, header = read_run(path, which)
    again = "name a file that `vt-course train` wrote"
    classes = tuple(parse_json(header["classes"], f"the list of classes in {path}", again, list))
    need(classes and all(isinstance(name, str) for name in classes), f"the list of classes in {path} does not hold names; {again}")
    try:
        recipe = Recipe.from_json(header["recipe"])
    except CourseError as error:
        raise CourseError(f"the recipe in {path} cannot be used: {error}") from error
    with parsing(f"the recipe in {path}", "none that a model can be built from", again):
        try:
            model = build_model(recipe, len(classes))
        except CourseError as error:
            raise ValueError(str(error)) from error
    load_weights(model, weights, path)
    check_whole(path, weights, header)
    return model.eval(), recipe, classes


def evaluate_run(path, *, data=None, **settings) -> dict:
    """`evaluate` a run's best model on the validation clips it was trained with, or of `data`.

    `data` is a spec (see `vt_course.data.open_spec`) with the same classes; `settings` go to
    `evaluate`. Raises `CourseError`.
    """
    model, recipe, trained = _restore(path)
    _, val = open_data(dataclasses.replace(recipe, data=data or recipe.data))
    if val.classes != trained:
        had, has = (", ".join(classes[:8]) for classes in (trained, val.classes))
        raise CourseError(f"{data or recipe.data} has the classes {has}, but {path} was "
                          f"trained on {had}; name data with the same classes")
    return evaluate(model, val, **settings)
