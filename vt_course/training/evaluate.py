"""Evaluation: accuracy with its standard error, the confusion matrix, and what frame order is worth.

A video may be seen through several views (clips in time, crops in space). The prediction for a video is
the mean of the softmax over its views, as all four papers of this course do. `order` breaks the order of
the frames on purpose: a model that does not use time cannot tell the difference.
"""
import math
import os
import signal
from collections.abc import Iterable
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from vt_course import CourseError
from vt_course.data import open_spec
from vt_course.data.clips import VideoFolder, collate
from vt_course.training.recipes import Recipe

ORDERS = ("normal", "shuffled", "reversed", "single")


def pick_device(device=None) -> torch.device:
    """The device asked for, else CUDA, else Apple's MPS, else the CPU. Raises `CourseError`."""
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise CourseError(f"device {device!r} cannot be used here ({reason}); try cpu") from error
    return found


def reorder_frames(clip, index: Iterable[int], order: str, seed: int = 0):
    """Clips (B, ..., C, T, H, W) with their frames in another order.

    "shuffled" draws a permutation for each video, "single" repeats one random frame over the whole
    clip; both are pure functions of (seed, index of the video), so every model sees the same frames.
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
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=collate,
                      worker_init_fn=ignore_interrupt, persistent_workers=workers > 0,
                      pin_memory=device.type == "cuda")


def in_order(dataset, batch_size: int) -> list[list[int]]:
    """Batches of consecutive indices that hold about `batch_size` clips, all views counted."""
    videos = max(batch_size // math.prod(dataset.views or (1,)), 1)
    return [list(range(i, min(i + videos, len(dataset)))) for i in range(0, len(dataset), videos)]


def default_workers() -> int:
    """One decoding process leaves the second core of a small machine to the model."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores - 1, 1), 8)


@torch.no_grad()
def predict(model, loader, device, *, order="normal", seed=0, autocast=None):
    """Run the model over a loader.

    Returns (log_probs, label, bad): log of the mean softmax over a video's views, float64 (N, K);
    true classes (N,); and [(index, sentence)] for the videos that could not be read.
    """
    was_training = model.training
    model.eval()
    log_probs, labels, bad = [torch.zeros(0, 0, dtype=torch.float64)], [], []
    for batch in loader:
        bad += batch["bad"]
        if batch["clip"] is None:
            continue
        clip = batch["clip"].to(device, non_blocking=True)  # (B, C, T, H, W) or (B, V, C, T, H, W)
        clip = reorder_frames(clip, batch["index"].tolist(), order, seed)
        with autocast() if autocast else nullcontext():
            logits = model(clip.flatten(0, -5))  # (B * V, K)
        views = logits.cpu().double().log_softmax(-1).view(len(clip), -1, logits.shape[-1])
        # The mean over views, kept in logs so that no probability underflows.
        log_probs.append(views.logsumexp(1) - math.log(views.shape[1]))  # (B, K)
        labels.append(batch["label"])
    model.train(was_training)
    if not labels:
        return log_probs[0], torch.zeros(0, dtype=torch.int64), bad
    return torch.cat(log_probs[1:]), torch.cat(labels), bad


def score(log_probs, label, classes: Iterable[str]) -> dict:
    """Metrics of predictions (V, K) against true classes (V,)."""
    classes = list(classes)
    K, n = len(classes), len(label)
    best = log_probs.argmax(-1)  # (V,)
    confusion = torch.bincount(label * K + best, minlength=K * K).view(K, K)  # (true, predicted)
    top1 = (best == label).double().mean().item()
    result = {
        "n": n,
        "loss": F.nll_loss(log_probs, label).item(),
        "top1": top1,
        "top1_stderr": math.sqrt(top1 * (1 - top1) / n),
    }
    if K >= 5:
        result["top5"] = (log_probs.topk(5).indices == label[:, None]).any(-1).double().mean().item()
    counts = confusion.sum(1).tolist()
    result["per_class"] = {name: confusion[k, k].item() / counts[k] if counts[k] else None
                           for k, name in enumerate(classes)}
    result["confusion"] = confusion.tolist()
    result["classes"] = classes
    return result


def evaluate(model, dataset, *, device=None, batch_size=32, order="normal", seed=0, workers=None,
             progress=True) -> dict:
    """Accuracy of `model` on `dataset` (a `VideoFolder` with `train=False`).

    Returns n (videos), loss (mean −log of the mean probability of the true class), top1, top1_stderr
    (binomial standard error √(p(1−p)/n)), top5 where there are five classes, per_class (class → accuracy,
    None for a class without videos), confusion (counts, row = true class), classes, order, and bad, the
    videos that could not be read: [(index, sentence)]. `order` is one of `ORDERS`; `seed` fixes the
    random ones. Raises `CourseError` when no video can be read.
    """
    device = pick_device(device)
    loader = make_loader(dataset, in_order(dataset, batch_size), workers, device)
    watched = tqdm(loader, desc="evaluate", disable=not progress, leave=False)
    log_probs, label, bad = predict(model.to(device), watched, device, order=order, seed=seed)
    if not len(label):
        raise CourseError(f"nothing to evaluate: no clip could be read (the first: {bad[0][1]})")
    return {**score(log_probs, label, dataset.classes), "order": order, "bad": bad}


def open_data(recipe: Recipe) -> tuple[VideoFolder, VideoFolder]:
    """The training and the validation set of a recipe."""
    spec = open_spec(recipe.data)
    same = dict(classes=spec.classes, frames=recipe.frames, stride=recipe.stride, size=recipe.size,
                sampling=recipe.sampling, seed=recipe.seed)
    train = VideoFolder(spec.train, train=True, scale=recipe.crop_scale, ratio=recipe.crop_ratio,
                        flip=recipe.flip, **same)
    return train, VideoFolder(spec.val, train=False, **same)
