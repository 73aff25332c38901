"""Evaluation: accuracy and its standard error, confusion, and the effect of the order of frames.

A video may have several views (clips in time, crops in space). Here its prediction is the mean of the softmax over the
views. The views of each paper, and how they are combined there, are in `protocols.py`; `scores.py` computes and keeps
the scores of all views.
`order` changes the order of the frames on purpose. The result of a model that does not use time stays the same.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from vt_course import CourseError
from vt_course.data import Spec, drawn, images, open_spec, synthetic
from vt_course.data.augment import Augment
from vt_course.data.clips import Rows, VideoFolder, read_manifest
from vt_course.data.loading import KeptFrames, in_order, make_loader, short_of_memory
from vt_course.machine import pick_device
from vt_course.training.protocols import Protocol, Views, check_sampling, video_scores
from vt_course.training.recipes import IMAGENET, ORDERS, Recipe
from vt_course.training.trained import Trained, open_model


def reorder_frames(clip, index: Iterable[int], order: str, seed: int | tuple[int, ...] = 0):
    """Clips (B, ..., C, T, H, W) with their frames in another order, one of `ORDERS`.

    "shuffled" draws a permutation for each video. "single" repeats one random frame over the
    whole clip. Both are pure functions of (seed, index of the video), so every model sees the
    same frames. `seed` is a number or several.

    A tube is a pair of frames: 0 and 1, 2 and 3, and so on. That is what one token covers in most families.
    "tubes-reversed" puts the last tube first and leaves each as it is. "frames-swapped" leaves each tube at its place
    and swaps its two frames. One after the other, they reverse the clip. (Of an odd number of frames the last is a
    tube of its own.) Raises `CourseError` for an unknown order.
    """
    if order not in ORDERS:
        raise CourseError(f"unknown frame order {order!r}: choose one of {', '.join(ORDERS)}")
    if order == "normal":
        return clip
    if order == "reversed":
        return clip.flip(-3)
    T = clip.shape[-3]
    tubes = torch.arange(T, device=clip.device).split(2)
    if order == "tubes-reversed":
        return clip.index_select(-3, torch.cat(tubes[::-1]))
    if order == "frames-swapped":
        return clip.index_select(-3, torch.cat([tube.flip(0) for tube in tubes]))
    key = seed if isinstance(seed, tuple) else (seed,)
    moved = []
    for video, i in zip(clip, index):
        rng = np.random.default_rng([*key, i])
        frames = rng.permutation(T) if order == "shuffled" else np.full(T, rng.integers(T))
        moved.append(video.index_select(-3, torch.from_numpy(frames).to(clip.device)))
    return torch.stack(moved)  # (B, ..., C, T, H, W)


def takes_images(model) -> bool:
    """Whether a model takes images (B, C, H, W). A module that is not of this course is assumed to take clips."""
    model = getattr(model, "module", model)  # the model inside DistributedDataParallel
    return "T" not in getattr(model, "layout", "B C T H W")


def class_scores(model, clip):
    """The model's logits (B, K) for clips (B, C, T, H, W). An image model gets the only frame of each clip."""
    return model(clip.squeeze(2) if takes_images(model) else clip)


@torch.no_grad()
def predict(model, loader, device, *, order="normal", seed=0, autocast=None):
    """Run the model over a loader.

    Returns (log_probs, label, bad). log_probs: the logarithm of the mean softmax over the views of each video, float64
    (N, K). label: the true classes (N,). bad: [(index, sentence)] of the videos that could not be read.
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
        views = logits.cpu().unflatten(0, (len(clip), -1))  # (B, V, K)
        log_probs.append(video_scores(views, "softmax"))  # (B, K)
        labels.append(batch["label"])
    model.train(was_training)
    if not labels:
        return log_probs[0], torch.zeros(0, dtype=torch.int64), bad
    return torch.cat(log_probs[1:]), torch.cat(labels), bad


def score(log_probs, label, classes: Iterable[str]) -> dict:
    """The metrics of `evaluate` from log-probabilities (N, K) and true classes (N,)."""
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
    result["per_class"] = {
        name: confusion[k, k].item() / counts[k] if counts[k] else None for k, name in enumerate(classes)
    }
    result["confusion"] = confusion.tolist()
    result["classes"] = classes
    return result


def calibration(log_probs, label, bins: int = 15) -> dict:
    """Whether probabilities tell how often a model is right, from log-probabilities (N, K) and true classes (N,).

    Videos are sorted by the probability of their predicted class into `bins` parts of [0, 1] of the same width. Returns
    error: the expected calibration error, the mean over the videos of |accuracy - mean probability| of their part
    (Guo et al., On calibration of modern neural networks, 2017, equation 3); confidence: the mean probability of the
    predicted class; and bins: [dict(n, confidence, accuracy)] of the parts that are not empty.
    """
    confidence, best = log_probs.exp().max(-1)  # (N,)
    right, part = (best == label).double(), (confidence * bins).long().clamp(max=bins - 1)
    rows, error = [], 0.0
    for number in part.unique().tolist():
        here = part == number
        row = dict(n=int(here.sum()), confidence=confidence[here].mean().item(), accuracy=right[here].mean().item())
        error += row["n"] / len(label) * abs(row["accuracy"] - row["confidence"])
        rows.append(row)
    return {"error": error, "confidence": confidence.mean().item(), "bins": rows}


def evaluate(
    model, dataset, *, device=None, batch_size=32, order="normal", seed=0, workers=None, progress=True
) -> dict:
    """Accuracy of `model` on `dataset` (a `VideoFolder` with `train=False`).

    `order` is one of `ORDERS`; `seed` fixes the random ones. `batch_size` counts views, not videos.

    Returns a dict:
    n            videos evaluated
    loss         mean of -log(probability of the true class), in nats
    top1, top5   fractions from 0 to 1; top5 only if there are at least five classes
    stderr       binomial standard error of top1, sqrt(top1 * (1 - top1) / n)
    per_class    class name: accuracy, None for a class without videos
    confusion    counts, [true class][predicted class], in the order of `classes`
    bad          videos that could not be read, [(index, sentence)]

    Raises `CourseError` if no video can be read.
    """
    device = pick_device(device)
    loader = make_loader(dataset, in_order(dataset, batch_size), workers, device)
    watched = tqdm(loader, desc="evaluate", disable=not progress, leave=False)
    with short_of_memory():
        log_probs, label, bad = predict(model.to(device), watched, device, order=order, seed=seed)
    if not len(label):
        raise CourseError(f"none of the clips could be read (the first: {bad[0][1]})")
    return {**score(log_probs, label, dataset.classes), "order": order, "bad": bad}


def open_data(
    recipe: Recipe, spec: Spec | None = None
) -> tuple[VideoFolder, VideoFolder] | tuple[images.Shapes, images.Shapes]:
    """The training set and the validation set of a recipe. `spec`: `open_spec(recipe.data)`, if it is open already.

    Raises `CourseError` for data that do not fit the recipe.
    """
    spec = spec or open_spec(recipe.data)
    if spec.train is None:
        if recipe.frames != 1:
            raise CourseError(f"{recipe.data} has images, not clips of {recipe.frames} frames; train with frames=1")
        if dict(mean=recipe.mean, std=recipe.std) != IMAGENET or recipe.bgr:
            raise CourseError(f"{recipe.data} has images that are drawn with ImageNet's mean and std, and red first")
        return tuple(images.Shapes(split, size=recipe.size, seed=recipe.seed) for split in ("train", "val"))
    folder, same = _videos(recipe, spec)
    seen = dict(scale=recipe.crop_scale, ratio=recipe.crop_ratio, flip=recipe.flip)
    augment = Augment(*recipe.randaugment, recipe.erasing, recipe.jitter)
    train = folder(spec.train, train=True, augment=augment, **seen, **same)
    return train, folder(spec.val, train=False, **same)


def has_test(data: str) -> bool:
    """Whether a data set has a third split, on which nothing is tuned."""
    return drawn(data)


def no_test(data: str) -> CourseError:
    return CourseError(f"{data} has no test split: evaluate on its validation clips, or name clips by --data")


def open_test(recipe: Recipe, progress: bool = True) -> VideoFolder | images.Shapes:
    """The test set of a recipe. That of the embedded clips is rendered if it is not there.

    Raises `CourseError` for data without a test split.
    """
    if not has_test(recipe.data):
        raise no_test(recipe.data)
    if recipe.data == "images:shapes":
        return images.Shapes("test", size=recipe.size, seed=recipe.seed)
    need_test_clips(progress)
    spec = open_spec(recipe.data)
    folder, same = _videos(recipe, spec)
    return folder(spec.test, train=False, **same)


def need_test_clips(progress: bool = True) -> None:
    """Render the test clips of the embedded set if they are not there."""
    if not synthetic.rendered("test"):
        synthetic.render(splits=("test",), progress=progress)


def _videos(recipe: Recipe, spec: Spec):
    """The class of a recipe's data sets, and the settings that all its splits share."""
    same = dict(
        classes=spec.classes,
        frames=recipe.frames,
        stride=recipe.stride,
        size=recipe.size,
        sampling=recipe.sampling,
        seed=recipe.seed,
        decoder=recipe.decoder,
        mean=recipe.mean,
        std=recipe.std,
        bgr=recipe.bgr,
    )
    return functools.partial(KeptFrames, keep=recipe.keep) if recipe.keep else VideoFolder, same


def open_trained(path, data: str | None = None, split: str = "val"):
    """(model, data set): the best model of a run, and the clips of the split "val" or "test" to evaluate it on.

    For the clips see `open_clips`.
    """
    trained = open_model(path)
    return trained.model, open_clips(trained, data, split)


def open_clips(trained: Trained, data: str | None = None, split: str = "val", protocol: Protocol | None = None):
    """The clips on which a model is evaluated: those of its own run, or of `data`, a spec (`vt_course.data.open_spec`).

    Without a protocol they are the clips that the validation of a run sees, else `Views`. The classes of `data` may be
    some of the model's. Their names may differ from those of the model in capitals and in "_" for a space.
    Raises `CourseError` for other classes, for published weights without `data`, and for images with a protocol.
    """
    recipe = trained.recipe
    if data is None and recipe is None:
        raise CourseError(f"{trained.name} was not trained here: name the clips to evaluate it on with --data")
    data = data or recipe.data
    if data.startswith("csv:") and "," not in data:
        data += f",{data[4:]}"  # a single list of clips
    if split == "test":
        if not has_test(data):
            raise no_test(data)
        if data != "images:shapes":
            need_test_clips()
    spec = open_spec(data)
    names = {plain(name): name for name in trained.classes}
    if any(plain(name) not in names for name in spec.classes):
        raise CourseError(
            f"{data} has the classes {', '.join(spec.classes[:8])}, but {trained.name} was trained on "
            f"{', '.join(trained.classes[:8])}; name data with the same classes"
            + (
                ", or the model's classes with --classes FILE, because their order in its head is not known here"
                if trained.numbered
                else ""
            )
        )
    if spec.train is None:
        if protocol or recipe is None:
            raise CourseError(f"{data} has drawn images, not videos; give clips with --data, or no --protocol")
        return images.Shapes(split, size=recipe.size, seed=recipe.seed)
    listed = getattr(spec, split)
    rows = listed if isinstance(listed, Rows) else read_manifest(listed)
    rows = Rows([{**row, "label": names.get(plain(row["label"]), row["label"])} for row in rows], str(listed))
    if protocol is None and recipe is not None:
        folder, same = _videos(recipe, dataclasses.replace(spec, classes=trained.classes))
        return folder(rows, train=False, **same)
    protocol = protocol or trained.protocol
    check_sampling(protocol, trained.shown, trained.name)
    decoder = recipe.decoder if recipe else "pyav"
    return Views(rows, classes=trained.classes, protocol=protocol, shown=trained.shown, decoder=decoder)


def plain(name: str) -> str:
    return name.replace("_", " ").lower()


def evaluate_run(path, *, data=None, split="val", **settings) -> dict:
    """`evaluate` what `open_trained` opens. `settings` are passed to `evaluate`."""
    return evaluate(*open_trained(path, data, split), **settings)
