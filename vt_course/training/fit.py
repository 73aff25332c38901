"""Training: one loop that can be killed at any moment and goes on as if nothing had happened.

Three rules make a resumed run equal to an uninterrupted one, bit for bit on a CPU:

* what is random is a pure function of where we are: the order of the clips of (seed, epoch), a clip's
  augmentation of (seed, epoch, index), dropout and drop path of (seed, step), the learning rate of step;
* everything else (weights, AdamW's moments, running sums, the best epoch so far) is in one file,
  `state.pt`, replaced by one rename (checkpoint.py);
* every other file of the run folder is derived from that state and can be written again.
"""
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
import platform
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from vt_course import CourseError, repo_root
from vt_course.data import open_spec
from vt_course.models import create
from vt_course.training.checkpoint import atomic_write, read_state, save_state, save_weights, write_csv
from vt_course.training.curves import draw_curves
from vt_course.training.evaluate import (in_order, make_loader, open_data, pick_device, predict,
                                         score)
from vt_course.training.recipes import Recipe


def lr_at(step: int, steps: int, warmup: int, peak: float) -> float:
    """Learning rate of step 0, 1, ..., steps − 1: linear up to `peak` in `warmup` steps, cosine to 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def parameter_groups(model, weight_decay: float) -> list[dict]:
    """Weight decay for matrices and kernels; none for norms, biases and relative position bias tables."""
    decay, keep = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim <= 1 or name.endswith("relative_position_bias_table")
            (keep if plain else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]


class EpochBatches:
    """Batches of keys (epoch, index): a permutation that depends on (seed, epoch) only.

    `start` skips batches at the front, which is how a run goes on in the middle of an epoch. A last batch
    that is not full is dropped, except when it is the only one.
    """

    def __init__(self, clips: int, batch_size: int, seed: int):
        self.clips, self.size, self.seed = clips, min(batch_size, clips), seed
        self.epoch = self.start = 0

    def __len__(self):
        return self.clips // self.size

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.clips).tolist()
        for batch in range(self.start, len(self)):
            yield [(self.epoch, index) for index in order[batch * self.size:(batch + 1) * self.size]]


@dataclass
class Progress:
    """Where a run is. Sums are over the part of the current epoch that is done."""

    epoch: int = 0  # epochs completed
    batch: int = 0  # batches done in the current epoch
    loss_sum: float = 0.0
    correct: int = 0
    clips: int = 0
    skipped: int = 0
    rows: list = field(default_factory=list)  # one dict per completed epoch: metrics.csv
    best: dict | None = None  # the row with the highest val_top1, then the lowest val_loss
    bad: dict = field(default_factory=lambda: {"train": {}, "val": {}})  # split → index → sentence
    seconds: float = 0.0  # over all resumes
    peak_memory_mb: float = 0.0


@contextmanager
def deterministic(device: torch.device):
    """On a CPU, add up in a fixed order.

    The gradient of `relative_position_bias_table[relative_position_index]` is summed by several threads
    with atomic adds otherwise, and two equal runs differ in the last bits.
    """
    before = torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, changes no result
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn)
        torch.utils.deterministic.fill_uninitialized_memory = fill


@contextmanager
def polite_interrupt():
    """Yields a list that the first Ctrl-C appends to; the second interrupts as usual.

    A KeyboardInterrupt in the middle of an optimiser step would leave half of the weights updated.
    """
    pressed = []
    if threading.current_thread() is not threading.main_thread():
        yield pressed  # only the main thread may set handlers
        return

    def handle(number, frame):
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def precision(recipe: Recipe, device: torch.device):
    """(autocast, scaler): bfloat16 where a CUDA device has it, else float16 with loss scaling; else none."""
    dtype = None
    if recipe.amp and device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = torch.bfloat16 if native else torch.float16
    autocast = functools.partial(torch.autocast, device.type, dtype=dtype, enabled=dtype is not None)
    return autocast, torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)


def describe(recipe: Recipe) -> dict:
    """What a run folder belongs to: the recipe and the very clips. Written to config.json."""
    spec = open_spec(recipe.data)
    digests = {split: hashlib.sha256(Path(path).read_bytes()).hexdigest()
               for split, path in (("train", spec.train), ("val", spec.val))}
    return {"recipe": dataclasses.asdict(recipe), "classes": list(spec.classes), "manifests": digests}


def check_same(folder: Path, old: dict, new: dict) -> None:
    """Raises `CourseError` naming what differs between a run folder and what was asked."""
    old, new = json.loads(json.dumps(old)), json.loads(json.dumps(new))  # tuples become lists
    differ = [f"{name} was {old['recipe'].get(name)!r} and is now {new['recipe'].get(name)!r}"
              for name in {**old["recipe"], **new["recipe"]}
              if old["recipe"].get(name) != new["recipe"].get(name)]
    if not differ and old != new:
        differ = ["the clips listed in the data set's manifests changed"]
    if differ:
        raise CourseError(f"{folder} holds a run with other settings ({'; '.join(differ)}); go on with the "
                          "old settings or choose another --out folder")


def fit(recipe: Recipe, out, *, resume=True, device=None, workers=None, max_steps=None,
        checkpoint_minutes=5.0, progress=True) -> dict:
    """Train `recipe` into the folder `out`; returns what summary.json holds.

    A folder that already holds this run is continued (`resume=False` refuses instead); a finished one is
    left as it is. A checkpoint is written after each epoch and every `checkpoint_minutes` in between.
    `max_steps` stops after so many steps in total, saved as if interrupted. Ctrl-C saves, says how to go
    on and raises KeyboardInterrupt. Raises `CourseError` for what the user can mend: other settings than
    the folder's, a full disk, a loss that is not finite, no readable clip. The folder then keeps the last
    good checkpoint.
    """
    device, out = pick_device(device), Path(out)
    config, (train_set, val_set) = describe(recipe), open_data(recipe)
    if not len(train_set) or not len(val_set):
        raise CourseError(f"{recipe.data} has {len(train_set)} clips to train on and {len(val_set)} to "
                          "validate on; both need at least one")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(f"cannot make the folder {out} ({error.strerror}); choose another --out") from error
    state = read_state(out)
    if state is not None:
        if not resume:
            raise CourseError(f"{out} already holds a run; resume it or choose another --out folder")
        check_same(out, state["config"], config)
    with deterministic(device), polite_interrupt() as interrupt:
        run = Run(recipe, out, config, state, device, train_set, val_set, workers, progress)
        return run.train(interrupt, max_steps, checkpoint_minutes)


class Run:
    """The state of a training run and the few things that can be done with it."""

    def __init__(self, recipe, out, config, state, device, train_set, val_set, workers, show):
        self.recipe, self.out, self.config, self.device, self.show = recipe, out, config, device, show
        self.classes = config["classes"]
        torch.manual_seed(recipe.seed)
        self.model = create(recipe.model, num_classes=len(self.classes), drop_path=recipe.drop_path)
        self.model.to(device)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, recipe.weight_decay), lr=recipe.lr)
        self.autocast, self.scaler = precision(recipe, device)
        self.progress = Progress()
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if state["scaler"] and self.scaler.is_enabled():
                self.scaler.load_state_dict(state["scaler"])
            self.progress = Progress(**state["progress"])
        self.batches = EpochBatches(len(train_set), recipe.batch_size, recipe.seed)
        self.train_loader = make_loader(train_set, self.batches, workers, device)
        self.val_loader = make_loader(val_set, in_order(val_set, recipe.batch_size), workers, device)
        self.started = time.monotonic() - self.progress.seconds

    @property
    def step(self) -> int:
        return self.progress.epoch * len(self.batches) + self.progress.batch

    def train(self, interrupt, max_steps, checkpoint_minutes) -> dict:
        recipe, progress = self.recipe, self.progress
        if progress.epoch == recipe.epochs and (self.out / "summary.json").is_file():
            self.publish()
            return json.loads((self.out / "summary.json").read_text())
        atomic_write(self.out / "config.json", json.dumps(self.config, indent=2).encode())
        if self.step:
            self.publish()
        # Events after the checkpoint that we go on from are of steps that will be taken again.
        self.log = SummaryWriter(str(self.out / "log"), purge_step=self.step + 1)
        try:
            while progress.epoch < recipe.epochs:
                stopped = self.train_epoch(interrupt, max_steps, checkpoint_minutes)
                if not stopped:
                    stopped = self.close_epoch(interrupt)
                if stopped:
                    self.save()
                if interrupt:
                    print(f"stopped after step {self.step} (epoch {progress.epoch + 1} of "
                          f"{recipe.epochs}); run the same command again to go on from there")
                    raise KeyboardInterrupt
                if stopped:
                    break
        except OSError as error:
            raise CourseError(f"cannot write to {self.out} ({error.strerror}); the last checkpoint is "
                              "kept: free space and run the same command again") from error
        finally:
            self.log.close()
        return self.summarise()

    def train_epoch(self, interrupt, max_steps, checkpoint_minutes) -> bool:
        """Train to the end of the epoch; True when stopped before."""
        recipe, progress = self.recipe, self.progress
        steps = recipe.epochs * len(self.batches)
        warmup = round(recipe.warmup_epochs * len(self.batches))
        self.batches.epoch, self.batches.start = progress.epoch, progress.batch
        saved = began = time.monotonic()
        done = progress.clips
        bar = tqdm(total=len(self.batches), initial=progress.batch, disable=not self.show, leave=False,
                   desc=f"epoch {progress.epoch + 1}/{recipe.epochs}", unit="step")
        loader = iter(self.train_loader) if progress.batch < len(self.batches) else iter(())
        with bar:
            while progress.batch < len(self.batches):
                if interrupt or (max_steps is not None and self.step >= max_steps):
                    return True
                if time.monotonic() - saved > checkpoint_minutes * 60:
                    self.save()
                    saved = time.monotonic()
                batch = next(loader)
                lr = lr_at(self.step, steps, warmup, recipe.lr)
                self.note_bad("train", batch["bad"])
                progress.skipped += len(batch["bad"])
                if batch["clip"] is not None:
                    self.train_step(batch, lr)
                progress.batch += 1
                bar.update()
                if progress.clips:
                    speed = (progress.clips - done) / (time.monotonic() - began)
                    bar.set_postfix_str(f"loss {progress.loss_sum / progress.clips:.3f}, "
                                        f"acc {progress.correct / progress.clips:.3f}, "
                                        f"{speed:.0f} clips/s", refresh=False)
        self.speed = (progress.clips - done) / (time.monotonic() - began)
        return False

    def train_step(self, batch, lr: float) -> None:
        recipe, progress = self.recipe, self.progress
        torch.manual_seed(recipe.seed * 1_000_003 + self.step)  # dropout and drop path of this step
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        clip = batch["clip"].to(self.device, non_blocking=True)  # (B, C, T, H, W)
        label = batch["label"].to(self.device, non_blocking=True)
        with self.autocast():
            logits = self.model(clip)  # (B, K)
            loss = F.cross_entropy(logits, label, label_smoothing=recipe.label_smoothing)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        limit = recipe.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit).item()
        value = loss.item()
        # With loss scaling an infinite gradient is an everyday event, which `scaler.step` skips.
        if not math.isfinite(value) or not (math.isfinite(norm) or self.scaler.is_enabled()):
            self.diverged(f"loss {value}, gradient norm {norm}")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        progress.loss_sum += value * len(label)
        progress.correct += int((logits.argmax(-1) == label).sum())
        progress.clips += len(label)
        for name, scalar in (("loss", value), ("lr", lr), ("grad_norm", norm)):
            self.log.add_scalar(f"train/{name}", scalar, self.step + 1)

    def diverged(self, what: str) -> None:
        amp = " or turn mixed precision off (amp=false)" if self.recipe.amp and self.device.type == "cuda" else ""
        raise CourseError(f"training diverged at step {self.step} ({what}): lower lr={self.recipe.lr}, "
                          f"raise warmup_epochs={self.recipe.warmup_epochs}{amp}; {self.out} keeps the "
                          "last good checkpoint")

    def close_epoch(self, interrupt) -> bool:
        """Validate, record the epoch and save; True when interrupted, with nothing recorded."""
        recipe, progress = self.recipe, self.progress
        if not progress.clips:
            raise CourseError(f"none of the training clips of {recipe.data} could be read (the first: "
                              f"{next(iter(progress.bad['train'].values()))})")
        watched = itertools.takewhile(lambda _: not interrupt, self.val_loader)
        log_probs, label, bad = predict(self.model, watched, self.device, autocast=self.autocast)
        if interrupt:
            return True
        self.note_bad("val", bad)
        if not len(label):
            raise CourseError(f"none of the validation clips of {recipe.data} could be read (the first: "
                              f"{bad[0][1]})")
        val = score(log_probs, label, self.classes)
        if not math.isfinite(val["loss"]):
            self.diverged(f"validation loss {val['loss']}")
        progress.epoch, progress.batch = progress.epoch + 1, 0
        row = {
            "epoch": progress.epoch,
            "step": self.step,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": progress.loss_sum / progress.clips,
            "train_top1": progress.correct / progress.clips,
            "val_loss": val["loss"],
            "val_top1": val["top1"],
            "val_top1_stderr": val["top1_stderr"],
            "skipped": progress.skipped,
            "seconds": round(time.monotonic() - self.started, 3),
            "clips_per_second": round(self.speed, 2),
        }
        self.report(row, len(bad))
        progress.rows.append(row)
        rank = lambda row: (row["val_top1"], -row["val_loss"])
        if progress.best is None or rank(row) > rank(progress.best):
            progress.best = row
        progress.loss_sum, progress.correct, progress.clips, progress.skipped = 0.0, 0, 0, 0
        self.save()
        return False

    def report(self, row: dict, bad_val: int) -> None:
        for name in ("train_top1", "val_loss", "val_top1"):
            self.log.add_scalar(f"epoch/{name}", row[name], row["step"])
        if self.show:
            tqdm.write(f"epoch {row['epoch']:3d}/{self.recipe.epochs}  "
                       f"train loss {row['train_loss']:.3f} acc {row['train_top1']:.3f}  "
                       f"val loss {row['val_loss']:.3f} acc {row['val_top1']:.3f}  "
                       f"{row['clips_per_second']:.0f} clips/s  {row['seconds']:.0f} s")
        if row["skipped"] or bad_val:
            sentences = [*self.progress.bad["train"].values(), *self.progress.bad["val"].values()]
            more = f"\n  ... and {len(sentences) - 3} more" if len(sentences) > 3 else ""
            tqdm.write(f"epoch {row['epoch']}: {row['skipped']} training and {bad_val} validation clips "
                       f"could not be read and were skipped (all in {self.out / 'bad_clips.csv'}):\n  "
                       + "\n  ".join(sentences[:3]) + more)

    def note_bad(self, split: str, bad) -> None:
        self.progress.bad[split].update(bad)

    def save(self) -> None:
        """A checkpoint: first the state, by one rename, then what is derived from it."""
        self.log.flush()  # events before the state, so that a resumed log has no gap
        progress = self.progress
        progress.seconds = time.monotonic() - self.started
        progress.peak_memory_mb = max(progress.peak_memory_mb, peak_memory_mb(self.device))
        save_state(self.out, {
            "config": self.config,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": dataclasses.asdict(progress),
        })
        self.publish()

    def publish(self) -> None:
        """Write every file that is derived from the state."""
        progress = self.progress
        header = {"format": "pt", "model": self.recipe.model, "recipe": self.recipe.to_json(),
                  "classes": self.classes, "epoch": progress.epoch, "step": self.step}
        row = progress.rows[-1] if progress.rows else None
        if row and progress.batch == 0:
            header["metric"] = {name: row[name] for name in ("val_top1", "val_loss")}
        save_weights(self.out / "last.safetensors", self.model, header)
        # Only in the state written right after the best epoch are the model's weights the best ones;
        # later states find the file in place.
        if row and progress.batch == 0 and progress.best["epoch"] == progress.epoch:
            save_weights(self.out / "best.safetensors", self.model, header)
        if row:
            write_csv(self.out / "metrics.csv", list(row), [r.values() for r in progress.rows])
        bad = [(split, index, sentence) for split, found in progress.bad.items()
               for index, sentence in sorted(found.items())]
        if bad:
            write_csv(self.out / "bad_clips.csv", ["split", "index", "reason"], bad)

    def summarise(self) -> dict:
        """Write summary.json and curves.png."""
        progress = self.progress
        summary = {
            "model": self.recipe.model,
            "data": self.recipe.data,
            "finished": progress.epoch == self.recipe.epochs,
            "epochs": progress.epoch,
            "steps": self.step,
            "best": progress.best,
            "last": progress.rows[-1] if progress.rows else None,
            "bad_clips": {split: len(found) for split, found in progress.bad.items()},
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "seconds": round(progress.seconds, 1),
            "peak_memory_mb": round(progress.peak_memory_mb),
            "seed": self.recipe.seed,
            "recipe": dataclasses.asdict(self.recipe),
            **machine(self.device),
        }
        atomic_write(self.out / "summary.json", json.dumps(summary, indent=2).encode())
        if progress.rows:
            draw_curves(progress.rows, self.out / "curves.png", len(self.classes),
                        f"{self.recipe.model} on {self.recipe.data}")
        return json.loads(json.dumps(summary))


def peak_memory_mb(device: torch.device) -> float:
    """Peak so far: of the GPU's tensors where there is a GPU, else of this process (loaders not counted)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kibibytes on Linux, bytes on macOS
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def machine(device: torch.device) -> dict:
    """Where and with what a run was made."""
    git = functools.partial(subprocess.run, cwd=repo_root(), capture_output=True, text=True)
    try:
        head = git(["git", "rev-parse", "HEAD"])
        changes = git(["git", "status", "--porcelain", "--untracked-files=no"])
        commit = head.stdout.strip() + ("+changes" if changes.stdout else "") if head.returncode == 0 else None
    except FileNotFoundError:  # no git on this machine
        commit = None
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit,
        "command": sys.argv,
    }
