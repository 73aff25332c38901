"""What a GPU does with the course: one report in parts, for whoever has one (`vt-course gpu-report`).

Each part runs in a process of its own, and its result is written before the next one begins. So the report can be cut
off at any moment and goes on where it was. The parts stand in the order of their value. On a card such as an H200 all
of them together are meant to take at most 9 minutes; a part that takes longer than its limit is stopped and says so.
"""

import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from vt_course import need
from vt_course.claims.bench_models import PAIRS, PASSES, Pair, bench_pair, clock, in_own_process
from vt_course.claims.parts import in_parts
from vt_course.data import open_spec
from vt_course.data.clips import read_manifest
from vt_course.data.loading import EpochBatches, KeptFrames, default_workers, make_loader
from vt_course.files import write_csv
from vt_course.machine import processor, provenance
from vt_course.models import create
from vt_course.training.checkpoint import build_model
from vt_course.training.evaluate import class_scores, open_data
from vt_course.training.experiments.run import seeded, select
from vt_course.training.experiments.worker import train_and_test
from vt_course.training.fit import fit
from vt_course.training.recipes import CLIPS, Recipe, recipe_for

MINIS = tuple(name for name in CLIPS if name != "vit_frames_mini")  # which cannot reach the goal
GOAL = 0.85  # of the validation clips
EXPERIMENT, SEEDS = "swin-shift-early", (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Part:
    """A part of the report. `work(*arguments)` is called in a process of its own and returns plain JSON."""

    name: str
    work: Callable
    arguments: tuple
    limit: float  # seconds, the start of the process included


def parts(device: str, tiny: bool, clips: str | None) -> list[Part]:
    """All parts, the most valuable first. `tiny`: so little of each that a CPU does it. `clips`: see `real_clips`."""
    mini = "vit_frames_mini"
    small = {mini: Pair(mini, "itself", functools.partial(create, mini), (3, 8, 32, 32))}
    pairs, turns = (small, 0.0) if tiny else (PAIRS, 3.0)
    compiled = pairs if tiny else ("video_swin_tiny", "mvit_v2_small_16x4")
    where = torch.device(device)
    found = [
        *(Part(f"speed: {name}", bench_pair, (name, pair, where, False, turns), 40) for name, pair in pairs.items()),
        *(
            Part(f"training to {GOAL:.0%}: {name}", train_to_goal, (name, device, tiny), 60)
            for name in (MINIS[:1] if tiny else MINIS)
        ),
        *(
            Part(f"compiled: {name}", bench_pair, (name, pairs[name], where, True, turns, PASSES[:1]), 120)
            for name in compiled
        ),
        Part("waiting for the loader", loader_wait, (device, tiny), 60),
        Part("real clips", real_clips, (clips, device, tiny), 90),
        *(
            Part(f"{EXPERIMENT}: seed {seed}", one_seed, (seed, device, tiny), 60)
            for seed in (SEEDS[:1] if tiny else SEEDS)
        ),
    ]
    if device == "cpu":  # which may be busy
        found = [dataclasses.replace(part, limit=900) for part in found]
    return found


def gpu_report(
    out: Path, *, device: str = "cuda", tiny: bool = False, clips: str | None = None, tell: Callable = print
) -> dict:
    """Make the parts that `out` lacks, and write it after each. Returns what it then holds.

    A part whose result is there is not made again; one that failed is. `tell` is called with a line for each part.
    Raises `CourseError` without a CUDA device (except with another `device`), and for a file that holds the report of
    another device or size.
    """
    need(
        not device.startswith("cuda") or torch.cuda.is_available(),
        "there is no CUDA device on this machine; --device cpu --tiny tries the command without one",
    )
    head = {"what": "parts of vt-course gpu-report", **provenance(torch.device(device)), "processor": processor()}
    todo = [
        (part.name, functools.partial(in_own_process, part.work, *part.arguments, limit=part.limit))
        for part in parts(device, tiny, clips)
    ]
    describe = f"of {head['device']}{' with --tiny' if tiny else ''}"
    return in_parts(out, head | {"tiny": tiny}, ("device", "tiny"), describe, todo, tell)


# ---------------------------------------------------------------- the parts


def few_clips(folder: str, count: int = 16) -> str:
    """A spec of some of the embedded clips, whose lists are written into `folder`."""
    for split in ("train", "val"):
        rows = read_manifest(getattr(open_spec("synthetic:motion"), split))[:count]
        write_csv(
            Path(folder) / f"{split}.csv",
            ("path", "label", "start", "end"),
            ((row["path"], row["label"], "", "") for row in rows),
        )
    return f"csv:{folder}/train.csv,{folder}/val.csv"


def train_to_goal(model: str, device: str, tiny: bool) -> dict:
    """Train a mini by its recipe on `motion` until it has `GOAL` of the validation clips (tiny: for one epoch).

    Returns dict(reached, seconds, steps, val_top1, clips_per_second, peak_memory_mb). seconds: of training, validation
    and, in the first epoch, decoding. clips_per_second: of the last epoch, training alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        recipe = recipe_for(model)
        if tiny:
            recipe = dataclasses.replace(recipe, data=few_clips(folder), epochs=1, warmup_epochs=0.0)
        steps = -(-len(open_data(recipe)[0]) // recipe.batch_size)
        KeptFrames.shared = {}  # decoded once, although `fit` is called anew for each epoch
        for epoch in range(1, recipe.epochs + 1):  # a run goes on from its checkpoint, so it can stop after any epoch
            run = fit(recipe, Path(folder) / "run", device=device, workers=0, max_steps=epoch * steps, progress=False)
            last = run["last"]
            if last["val_top1"] >= GOAL:
                break
    return {
        "reached": last["val_top1"] >= GOAL,
        "seconds": last["seconds"],
        "steps": last["step"],
        "val_top1": last["val_top1"],
        "clips_per_second": last["clips_per_second"],
        "peak_memory_mb": run["peak_memory_mb"],
    }


def loader_wait(device: str, tiny: bool) -> list[dict]:
    """How long training waits for clips: video_swin_mini, clips decoded anew for each batch.

    A row for 1 process that decodes and for the default number: dict(workers, steps, clips_per_second, waiting_share).
    waiting_share: of the time from the third step on, the part in which the next batch was not there yet.
    """
    where, rows = torch.device(device), []
    recipe = dataclasses.replace(recipe_for("video_swin_mini"), keep=0)
    train = open_data(recipe)[0]
    model = build_model(recipe, len(train.classes)).to(where)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr)

    def step(batch) -> None:
        logits = class_scores(model, batch["clip"].to(where, non_blocking=True))
        F.cross_entropy(logits, batch["label"].to(where)).backward()
        optimizer.step()
        optimizer.zero_grad()

    for workers in sorted({1, default_workers()}):
        batches = iter(make_loader(train, EpochBatches(len(train), recipe.batch_size, 0), workers, where))
        waits, works = [], []
        for _ in range(6 if tiny else 60):
            began = time.perf_counter()
            batch = next(batches)
            waits.append(time.perf_counter() - began)
            works.append(clock(functools.partial(step, batch), where))
        waited, worked = sum(waits[2:]), sum(works[2:])
        rows.append(
            {
                "workers": workers,
                "steps": len(works) - 2,
                "clips_per_second": recipe.batch_size * (len(works) - 2) / (waited + worked),
                "waiting_share": waited / (waited + worked),
            }
        )
        del batches  # its processes end before the next ones begin
    return rows


def real_clips(clips: str | None, device: str, tiny: bool) -> dict:
    """Two epochs of video_swin_mini (tiny: two steps) on a folder of videos with a subfolder for each class.

    Returns dict(classes, train, val, val_top1, val_top1_stderr, seconds, clips_per_second, unreadable). Raises
    `CourseError` if `clips` is None: the project contains no real clips.
    """
    need(clips, "no real clips: name a folder of videos with --clips, or in the environment as VT_COURSE_CLIPS")
    recipe = Recipe("video_swin_mini", data=f"folder:{clips}", frames=8, stride=1, size=64, batch_size=16, epochs=2)
    train, val = open_data(recipe)
    with tempfile.TemporaryDirectory() as folder:
        run = fit(recipe, Path(folder) / "run", device=device, max_steps=2 if tiny else None, progress=False)
    last = run["last"] or {"val_top1": None, "val_top1_stderr": None, "clips_per_second": None}
    return {
        "classes": len(train.classes),
        "train": len(train),
        "val": len(val),
        "steps": run["steps"],
        **{key: last[key] for key in ("val_top1", "val_top1_stderr", "clips_per_second")},
        "seconds": run["seconds"],
        "unreadable": run["bad_clips"],
    }


def one_seed(seed: int, device: str, tiny: bool) -> dict:
    """variant -> the run of this seed, of the row `EXPERIMENT`, as in results/experiments, but on this device.

    tiny: of the first variant only, with smaller images.
    """
    (row,) = select([EXPERIMENT])
    made = {}
    for name in list(row.recipes)[: 1 if tiny else None]:
        recipe = seeded(row, name, seed)
        if tiny:
            recipe = dataclasses.replace(recipe, size=32, batch_size=1000)
        made[name] = train_and_test(recipe, row.test, None, device=device, workers=None)
    return made
