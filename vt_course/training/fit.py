"""Training: one loop that can be killed at any moment and then resumed.

Three rules make a resumed run equal to an uninterrupted one, bit for bit on a CPU:

* All random choices are pure functions of the place in the training. The order of the clips depends on
  (seed, epoch), the augmentation of a clip and the order of its frames on (seed, epoch, index), dropout and drop
  path on (seed, step).
* Everything else (weights, AdamW's moments, running sums, the best epoch so far) is in one
  file, `state.pt`, which is replaced by one rename and ends in a checksum (checkpoint.py).
* Every other file of the run folder is derived from that state and can be written again.

Started by torchrun, the same loop runs in several processes (ranks.py). Each process takes its share of
every batch. Only rank 0 prints and writes; its numbers cover all processes.
"""

import copy
import dataclasses
import errno
import functools
import itertools
import math
import signal
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from vt_course import CourseError
from vt_course.data import open_spec
from vt_course.data.loading import EpochBatches, in_order, make_loader
from vt_course.data.prepare import advice_on
from vt_course.machine import deterministic, peak_memory_mb, pick_device, precision
from vt_course.training import ranks
from vt_course.training.checkpoint import build_model, misfit, save_state, unusable
from vt_course.training.evaluate import class_scores, open_data, predict, reorder_frames, score, takes_images
from vt_course.training.folder import Progress, begin, describe, open_run, publish, quality, summarise
from vt_course.training.recipes import Recipe

# In the key of a random order of frames. The key of the augmentation is (seed, epoch, index), and no index is as large.
ORDER = 2**32 - 1
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def lr_at(step: int, steps: int, warmup: int, peak: float) -> float:
    """Learning rate of step 0 .. steps - 1: linear up to `peak` in `warmup` steps, then down to 0 as a cosine."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def parameter_groups(model, weight_decay: float) -> list[dict]:
    """Weight decay for matrices and kernels; none for norms, biases, bias tables and Swin's absolute positions.

    The released Video Swin configurations do the same (`paramwise_cfg` with `decay_mult=0.`).
    """
    decay, keep = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim <= 1 or name.endswith(("relative_position_bias_table", "absolute_pos_embed"))
            (keep if plain else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]


@contextmanager
def polite_interrupt():
    """Yields a list. The first Ctrl-C only appends to it; the second interrupts as usual.

    The training loop looks at the list between its steps, because a KeyboardInterrupt in the middle of an
    optimiser step would leave half of the weights updated.
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


def fit(
    recipe: Recipe,
    out,
    *,
    resume=True,
    device=None,
    workers=None,
    max_steps=None,
    checkpoint_minutes=5.0,
    progress=True,
    tell=None,
) -> dict:
    """Train `recipe` into the folder `out`. Returns the contents of summary.json.

    If the folder already holds this run, the run is continued (with `resume=False`, this is an error). A
    finished run is not changed. A checkpoint is written after each epoch, and every
    `checkpoint_minutes` within an epoch. `max_steps` stops after this many steps in total, and saves as after
    an interruption. Ctrl-C saves, prints how to go on, and raises KeyboardInterrupt. `tell` is called with each note
    on how the clips were found, and on what would make them quicker to read.

    Under torchrun, `recipe.batch_size` counts the clips of all ranks together, and a run may
    go on with another number of ranks.

    Raises `CourseError` for everything that the user can mend: settings that differ from the folder's, another run
    that uses the folder, a damaged checkpoint, a full disk, a loss that is not finite, no readable clip.
    The last good checkpoint is kept.
    """
    with (
        ranks.group(pick_device(device)) as device,
        deterministic(device),
        polite_interrupt() as interrupt,
        ExitStack() as held,
    ):
        config, sets = open_everywhere(recipe, tell)
        state = ranks.by_leader(functools.partial(open_run, Path(out), config, resume, held))
        run = Run(recipe, Path(out), config, state, device, sets, workers, progress)
        return run.train(interrupt, max_steps, checkpoint_minutes)


def open_everywhere(recipe: Recipe, tell) -> tuple[dict, list]:
    """Open the data on all ranks: (the result of `describe`, [training set, validation set]).

    Rank 0 gives `tell` the notes. Raises `CourseError` if the ranks see different clips.
    """
    if recipe.batch_size < ranks.world():
        raise CourseError(
            f"batch_size={recipe.batch_size} is of all {ranks.world()} processes together: raise it or start fewer"
        )
    spec, sets = None, []

    def open_here() -> dict:
        nonlocal spec
        spec = open_spec(recipe.data)
        sets.extend(open_data(recipe, spec))
        return describe(recipe, spec)

    each = ranks.together(open_here)
    for rank, config in enumerate(each):
        if config != each[0]:
            raise CourseError(
                f"{recipe.data} lists other clips for rank {rank} than for rank 0: give every machine the "
                "same data and the same command"
            )
    if tell and ranks.rank() == 0:
        for note in [*spec.notes, *advice_on(sets[0].rows if spec.train else [])]:
            tell(note)
    return each[0], sets


class Run:
    """A training run: model, optimiser, loaders, progress, and the folder they are saved to."""

    def __init__(self, recipe, out, config, state, device, sets, workers, show):
        self.recipe, self.out, self.config = recipe, out, config
        self.device, self.leads = device, ranks.rank() == 0
        self.show = show and self.leads
        self.classes = config["classes"]
        torch.manual_seed(recipe.seed)
        self.model = build_model(recipe, len(self.classes)).to(device)
        if takes_images(self.model) and recipe.frames != 1:
            raise CourseError(
                f"{recipe.model} sees images, not clips of {recipe.frames} frames; train it with frames=1"
            )
        shape = (1, 3, recipe.frames, recipe.size, recipe.size)
        try:
            with torch.no_grad():
                class_scores(self.model.eval(), torch.zeros(shape, device=device))
        except ValueError as error:  # a wrong size of the input, found before the first clip is decoded
            raise CourseError(
                f"frames={recipe.frames} and size={recipe.size} do not fit {recipe.model}: {error}"
            ) from error
        self.parallel = ranks.parallel(self.model, device)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, recipe.weight_decay))
        self.autocast, self.scaler = precision(recipe.amp, device)
        self.progress = Progress()
        train_set, val_set = sets
        self.batches = EpochBatches(len(train_set), recipe.batch_size, recipe.seed, ranks.rank(), ranks.world())
        if state is not None:
            self.restore(state)
        self.train_loader = make_loader(train_set, self.batches, workers, device)
        self.check_smallest_batch()
        val_batches = in_order(val_set, recipe.batch_size)[ranks.rank() :: ranks.world()]
        self.val_loader = make_loader(val_set, val_batches, workers, device)
        self.started = time.monotonic() - self.progress.seconds

    def restore(self, state: dict) -> None:
        """Go on from `state`. Raises `CourseError` if its parts differ from ours.

        Without this check, torch would silently fill in missing parts.
        """
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        own, saved, moments = self.optimizer.state_dict()["param_groups"], state["optimizer"], {}
        if saved.get("state"):  # AdamW has a state after its first step
            moments = {
                k: dict(step=torch.zeros(()), exp_avg=p.detach(), exp_avg_sq=p.detach())
                for k, p in enumerate(parameters)
            }
        fault = (
            misfit(self.model.state_dict(), state["model"], "model")
            or misfit({"state": moments, "param_groups": own}, saved, "optimizer")
            or state["scaler"]
            and self.scaler.is_enabled()
            and misfit(self.scaler.state_dict(), state["scaler"], "scaler")
            or misfit(dict.fromkeys(dataclasses.asdict(self.progress)), dict.fromkeys(state["progress"]), "progress")
        )
        if not fault and [dict(group, lr=0) for group in saved["param_groups"]] != [dict(group, lr=0) for group in own]:
            fault = "optimizer has other settings than the recipe"
        if not fault:
            self.progress = Progress(**state["progress"])
            fault = self.progress.fault(self.recipe.epochs, len(self.batches))
        if fault:
            raise unusable(self.out, f"is damaged, or of another version of {self.recipe.model} ({fault})")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(saved)
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])

    def check_smallest_batch(self) -> None:
        """Raise `CourseError`, before the first step, if the last batch of an epoch is too small to train a BatchNorm.

        The batch cannot be made larger instead, because each clip comes once in an epoch and the batches depend only on
        the recipe.
        """
        recipe, size, clips = self.recipe, self.batches.size, self.batches.clips
        if not any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in self.model.modules()):
            return
        least = min(max(n // ranks.world(), 1) for n in (size, clips % size or size))
        twin = copy.deepcopy(self.model).to("meta").train()  # only shapes: no running mean changes
        try:
            with torch.no_grad():
                class_scores(twin, torch.zeros(least, 3, recipe.frames, recipe.size, recipe.size, device="meta"))
        except ValueError as error:
            raise CourseError(
                f"the smallest batch of an epoch ({clips} clips, batch_size={recipe.batch_size}) gives a process "
                f"{least} clip: {error} Choose another batch_size, frames={recipe.frames} or size={recipe.size}."
            ) from error

    @property
    def step(self) -> int:
        """The number of steps since the start of the run."""
        return self.progress.epoch * len(self.batches) + self.progress.batch

    def train(self, interrupt, max_steps, checkpoint_minutes) -> dict:
        recipe, progress = self.recipe, self.progress
        finished = ranks.by_leader(functools.partial(begin, self))
        if finished:
            return finished
        try:
            # Events later than the checkpoint are removed from the log, because their steps will be taken again.
            with (
                SummaryWriter(str(self.out / "log"), purge_step=self.step + 1) if self.leads else nullcontext()
            ) as self.log:
                while progress.epoch < recipe.epochs:
                    stopped = self.train_epoch(interrupt, max_steps, checkpoint_minutes)
                    if stopped or self.close_epoch(interrupt):
                        self.save()
                        break
        except OSError as error:  # from the event log: atomic_write, which writes the other files, raises CourseError
            if error.errno not in DISK_FULL:
                raise
            raise CourseError(
                f"cannot write {self.out / 'log'} ({error.strerror}); the last "
                "checkpoint is kept: free space and run the same command "
                "again"
            ) from error
        if interrupt and progress.epoch < recipe.epochs:
            if self.leads:
                print(
                    f"stopped after step {self.step}, in epoch {progress.epoch + 1} of "
                    f"{recipe.epochs}; run the same command again to go on from there",
                    file=sys.stderr,
                )
            raise KeyboardInterrupt
        return ranks.by_leader(functools.partial(summarise, self))

    def train_epoch(self, interrupt, max_steps, checkpoint_minutes) -> bool:
        """Train to the end of the epoch. Returns True if it was stopped before the end."""
        recipe, progress, batches = self.recipe, self.progress, self.batches
        steps = recipe.epochs * len(batches)
        warmup = round(recipe.warmup_epochs * len(batches))
        batches.epoch, batches.start = progress.epoch, progress.batch
        loader = iter(self.train_loader)
        began = saved = time.monotonic()
        before = progress.clips
        self.speed = 0.0
        with tqdm(
            desc=f"epoch {progress.epoch + 1}/{recipe.epochs}",
            total=len(batches),
            initial=progress.batch,
            unit="step",
            leave=False,
            disable=not self.show,
        ) as bar:
            while progress.batch < len(batches):
                if max_steps is not None and self.step >= max_steps:
                    return True
                batch = next(loader)
                good = 0 if batch["clip"] is None else len(batch["label"])
                due = self.leads and time.monotonic() - saved > checkpoint_minutes * 60
                stop, due, clips, skipped = ranks.total(bool(interrupt), due, good, len(batch["bad"]))
                if stop:
                    interrupt.append(signal.SIGINT)  # perhaps another rank got the Ctrl-C
                    return True
                if due:
                    self.save()
                    saved = time.monotonic()
                progress.bad["train"].update(batch["bad"])
                progress.skipped += int(skipped)
                if clips:
                    self.train_step(batch, good, int(clips), lr_at(self.step, steps, warmup, recipe.lr))
                    self.speed = (progress.clips - before) / (time.monotonic() - began)
                    bar.set_postfix_str(
                        f"loss {progress.loss_sum / progress.clips:.3f}, "
                        f"acc {progress.correct / progress.clips:.3f}, "
                        f"{self.speed:.0f} clips/s",
                        refresh=False,
                    )
                progress.batch += 1
                bar.update()
        return False

    def train_step(self, batch, good: int, clips: int, lr: float) -> None:
        """One step on `clips` clips, `good` of them in this process."""
        recipe, progress = self.recipe, self.progress
        # The seed of dropout and drop path. It differs between ranks, because their clips differ.
        torch.manual_seed(recipe.seed * 1_000_003 + self.step + (ranks.rank() << 53))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if not good:  # all ranks must take the step: a rank without a clip uses a placeholder clip of weight 0
            batch = {"clip": torch.zeros(1, 3, recipe.frames, recipe.size, recipe.size), "label": torch.zeros(1).long()}
        self.parallel.train(good > 0)  # eval mode, so that the placeholder clip does not change BatchNorm's statistics
        clip = batch["clip"].to(self.device, non_blocking=True)  # (B, C, T, H, W)
        if recipe.order != "normal" and good:  # another order in each epoch
            index, seed = batch["index"].tolist(), (recipe.seed, progress.epoch, ORDER)
            clip = reorder_frames(clip, index, recipe.order, seed)
        label = batch["label"].to(self.device, non_blocking=True)  # (B,)
        with self.autocast():
            try:
                logits = class_scores(self.parallel, clip)  # (B, K)
            except ValueError as error:  # too few clips are left, because some are unreadable
                raise CourseError(f"step {self.step + 1} with {len(clip)} clip: {error}") from error
            loss = F.cross_entropy(logits, label, label_smoothing=recipe.label_smoothing)
        self.optimizer.zero_grad()
        # The gradients of the ranks are averaged. With this weight, the result is the mean over all clips of the batch.
        self.scaler.scale(loss * (good * ranks.world() / clips)).backward()
        self.scaler.unscale_(self.optimizer)
        limit = recipe.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit).item()
        hits = int((logits.argmax(-1) == label).sum()) if good else 0
        loss_sum, hits = ranks.total(loss.item() * good, hits)
        value = loss_sum / clips
        # With loss scaling, infinite gradients are normal: `scaler.step` skips the step.
        if not math.isfinite(value) or not (math.isfinite(norm) or self.scaler.is_enabled()):
            self.diverged(f"loss {value}, gradient norm {norm}")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        progress.loss_sum += loss_sum
        progress.correct += int(hits)
        progress.clips += clips
        if self.leads:
            for name, scalar in (("loss", value), ("lr", lr), ("grad_norm", norm)):
                self.log.add_scalar(f"train/{name}", scalar, self.step + 1)

    def diverged(self, what: str) -> None:
        recipe = self.recipe
        mixed = recipe.amp and self.device.type == "cuda"
        raise CourseError(
            f"training diverged at step {self.step + 1} ({what}): lower lr={recipe.lr}, raise "
            f"warmup_epochs={recipe.warmup_epochs}"
            + (" or turn mixed precision off with amp=false" if mixed else "")
            + f", in another --out folder; {self.out} keeps the last good checkpoint"
        )

    def close_epoch(self, interrupt) -> bool:
        """Validate, record the epoch and save. Returns True if it was interrupted; then nothing is recorded."""
        recipe, progress = self.recipe, self.progress
        self.share_bad()
        if not progress.clips:
            raise CourseError(
                f"none of the training clips of {recipe.data} could be read (the "
                f"first: {next(iter(progress.bad['train'].values()))})"
            )
        ranks.share_buffers(self.model)
        watched = itertools.takewhile(lambda batch: not interrupt, self.val_loader)
        mine = predict(self.model, watched, self.device, order=recipe.order, autocast=self.autocast)
        log_probs, label, bad, interrupted = zip(*ranks.gather((*mine, bool(interrupt))))
        if any(interrupted):
            interrupt.append(signal.SIGINT)
            return True
        label, bad = torch.cat(label), sum(bad, [])
        log_probs = torch.cat([part for part in log_probs if len(part)] or log_probs[:1])  # (N, K)
        progress.bad["val"].update(bad)
        if not len(label):
            raise CourseError(f"none of the validation clips of {recipe.data} could be read (the first: {bad[0][1]})")
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
            "val_top1_stderr": val["stderr"],
            "skipped": progress.skipped,
            "seconds": round(time.monotonic() - self.started, 3),
            "clips_per_second": round(self.speed, 2),
        }
        progress.rows.append(row)
        progress.best = max(progress.rows, key=quality)
        progress.loss_sum, progress.correct, progress.clips, progress.skipped = 0.0, 0, 0, 0
        if self.leads:
            self.report(row, len(bad))
        self.save()
        return False

    def report(self, row: dict, bad_val: int) -> None:
        """Print one line, write three points to TensorBoard, and list the clips that could not be read."""
        for name in ("train_top1", "val_loss", "val_top1"):
            self.log.add_scalar(f"epoch/{name}", row[name], row["step"])
        if self.show:
            tqdm.write(
                f"epoch {row['epoch']:3d}/{self.recipe.epochs}"
                f"  train loss {row['train_loss']:.3f} acc {row['train_top1']:.3f}"
                f"  val loss {row['val_loss']:.3f} acc {row['val_top1']:.3f}"
                f"  {row['clips_per_second']:.0f} clips/s  {row['seconds']:.0f} s"
            )
        if row["skipped"] or bad_val:
            bad = self.progress.bad
            sentences = [*bad["train"].values(), *bad["val"].values()]
            if len(sentences) > 3:
                sentences[3:] = [f"... and {len(sentences) - 3} more"]
            tqdm.write(
                "\n  ".join(
                    [
                        f"epoch {row['epoch']}: {row['skipped']} training and {bad_val} validation "
                        "clips could not be read and were skipped "
                        f"({self.out / 'bad_clips.csv'} lists them):",
                        *sentences,
                    ]
                ),
                file=sys.stderr,
            )

    def save(self) -> None:
        """Write a checkpoint. All ranks call this; rank 0 writes."""
        self.share_bad()
        ranks.by_leader(self.write)

    def share_bad(self) -> None:
        """Collect the bad training clips of all ranks, so that each rank knows all of them."""
        for found in ranks.gather(self.progress.bad["train"]):
            self.progress.bad["train"].update(found)

    def write(self) -> None:
        """Write a checkpoint: first the state, by one rename, then the files that are derived from it."""
        self.log.flush()  # write events before the state, so that the log of a resumed run has no gap
        progress = self.progress
        progress.seconds = time.monotonic() - self.started
        progress.peak_memory_mb = max(progress.peak_memory_mb, peak_memory_mb(self.device))
        save_state(
            self.out,
            {
                "config": self.config,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "progress": dataclasses.asdict(progress),
            },
        )
        publish(self)
