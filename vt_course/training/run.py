"""What a training run is made of, how it is saved and resumed, and what it reports. `fit.py` has the loop.

A run ends in one sentence for everything that the user can mend. Those sentences stand here.
"""

import copy
import dataclasses
import errno
import functools
import itertools
import sys
import time
from contextlib import contextmanager, nullcontext

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from vt_course import CourseError, need
from vt_course.data import open_spec
from vt_course.data.loading import EpochBatches, in_order, make_loader
from vt_course.data.prepare import advice_on
from vt_course.machine import peak_memory_mb, precision
from vt_course.training import ranks
from vt_course.training.checkpoint import EMA, build_model, misfit, save_state, unusable
from vt_course.training.engine import averaged, batch_norms, checkpoint_blocks, compiled, moments
from vt_course.training.evaluate import class_scores, open_data, predict, score, takes_images
from vt_course.training.finetune import class_weights, freeze
from vt_course.training.folder import FROM_FILES, Progress, describe, publish
from vt_course.training.recipes import Recipe
from vt_course.training.start import digest

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        return describe(recipe, spec) | from_files(recipe, sets[0])

    each = ranks.together(open_here)
    for rank, config in enumerate(each):
        if config != each[0]:
            of_files = any(config.get(name) != each[0].get(name) for name in FROM_FILES)
            what = "init or class_weights names another file" if of_files else f"{recipe.data} lists other clips"
            raise CourseError(
                f"{what} for rank {rank} than for rank 0: give every machine the same data and the same command"
            )
    if tell and ranks.rank() == 0:
        for note in [*spec.notes, *advice_on(sets[0].rows if spec.train else [])]:
            tell(note)
    return each[0], sets


def from_files(recipe: Recipe, train_set) -> dict:
    """What the recipe takes from files beside the clips. It becomes a part of the config, where `FROM_FILES` names it.

    So a resumed run notices another file, and does not need the file itself. None: the file is gone.
    """
    found = {}
    if recipe.init:
        found["start"] = digest(recipe.init)
    if recipe.class_weights:
        labels = getattr(train_set, "labels", None)  # of drawn images, every class has as many
        found["class_weights"] = class_weights(recipe.class_weights, train_set.classes, labels)
    return found


class RunState:
    """A training run without its loop: model, optimiser, loaders, progress, and the folder they are saved to.

    `begin`: a function that sets the first weights of the model; None leaves those with which it is built.
    """

    def __init__(self, recipe, out, config, state, device, sets, workers, show, begin=None):
        self.recipe, self.out, self.config = recipe, out, config
        self.device, self.leads = device, ranks.rank() == 0
        self.show = show and self.leads
        self.classes = config["classes"]
        torch.manual_seed(recipe.seed)
        self.model = build_model(recipe, len(self.classes))
        if begin:  # by one rank: the files of the weights may lie on one machine only
            ranks.by_leader(functools.partial(begin, self.model))
            ranks.share(self.model.state_dict().values())
        self.model.to(device)
        self.at_rest = freeze(self.model, recipe.freeze)
        self.class_weights = None
        if recipe.class_weights:
            need(
                config["class_weights"],
                f"class_weights={recipe.class_weights}: there is no such file; or write balanced",
            )
            self.class_weights = torch.tensor(config["class_weights"], device=device)  # (K,)
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
        # With a moving average of the weights, that is what is validated and written to the files of weights.
        self.ema = averaged(self.model, recipe.ema) if recipe.ema else None
        self.evaluated = self.ema.module if self.ema else self.model
        if recipe.checkpoint_activations:
            checkpoint_blocks(self.model, recipe.compile)
        self.parallel = ranks.parallel(self.model, device)
        if recipe.compile:
            self.parallel = compiled(self.parallel, device)
        self.optimizer = self.make_optimizer()
        self.autocast, self.scaler = precision(recipe.amp, device)
        self.progress = Progress()
        train_set, val_set = sets
        self.batches = EpochBatches(
            len(train_set), recipe.batch_size, recipe.seed, ranks.rank(), ranks.world(), recipe.repeats
        )
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
        own, saved = self.optimizer.state_dict()["param_groups"], state["optimizer"]
        # An optimiser has a state after its first step.
        held = {k: moments(self.optimizer, p) for k, p in enumerate(parameters)} if saved.get("state") else {}
        fault = (
            misfit(self.model.state_dict(), state["model"], "model")
            or self.ema
            and misfit(self.ema.state_dict(), state.get(EMA), "ema")
            or misfit({"state": held, "param_groups": own}, saved, "optimizer")
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
        if self.ema:
            self.ema.load_state_dict(state[EMA])
        self.optimizer.load_state_dict(saved)
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])

    def check_smallest_batch(self) -> None:
        """Raise `CourseError`, before the first step, if the last batch of an epoch is too small to train a BatchNorm.

        The batch cannot be made larger instead, because each clip comes once in an epoch and the batches depend only on
        the recipe.
        """
        recipe, size, clips = self.recipe, self.batches.size, self.batches.clips
        if not batch_norms(self.model):
            return
        few = (n * recipe.repeats // ranks.world() // recipe.accumulate for n in (size, clips % size or size))
        least = max(min(few), 1)
        twin = copy.deepcopy(self.model).to("meta").train()  # only shapes: no running mean changes
        for module in freeze(twin, recipe.freeze):
            module.eval()
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

    def validate(self, interrupt) -> tuple[dict | None, int]:
        """The scores on the validation clips (None if interrupted; see `evaluate.score`); how many were unreadable."""
        ranks.share(self.evaluated.buffers())  # a BatchNorm's running means differ, because the ranks' clips do
        watched = itertools.takewhile(lambda batch: not interrupt, self.val_loader)
        mine = predict(self.evaluated, watched, self.device, order=self.recipe.order, autocast=self.autocast)
        log_probs, label, bad, interrupted = zip(*ranks.gather((*mine, bool(interrupt))))
        if any(interrupted):
            interrupt.append("another rank's")
            return None, 0
        label, bad = torch.cat(label), sum(bad, [])
        log_probs = torch.cat([part for part in log_probs if len(part)] or log_probs[:1])  # (N, K)
        self.progress.bad["val"].update(bad)
        if not len(label):
            raise self.nothing_readable("validation", bad[0][1])
        return score(log_probs, label, self.classes), len(bad)

    def nothing_readable(self, split: str, first: str) -> CourseError:
        return CourseError(f"none of the {split} clips of {self.recipe.data} could be read (the first: {first})")

    def diverged(self, what: str) -> CourseError:
        recipe = self.recipe
        mixed = recipe.amp and (self.device.type == "cuda" or recipe.amp is not True)
        return CourseError(
            f"training diverged at step {self.step + 1} ({what}): lower lr={recipe.lr}, raise "
            f"warmup_epochs={recipe.warmup_epochs}"
            + (" or turn mixed precision off with amp=false" if mixed else "")
            + f", in another --out folder; {self.out} keeps the last good checkpoint"
        )

    def say_stopped(self) -> None:
        if self.leads:
            print(
                f"stopped after step {self.step}, in epoch {self.progress.epoch + 1} of "
                f"{self.recipe.epochs}; run the same command again to go on from there",
                file=sys.stderr,
            )

    @contextmanager
    def event_log(self):
        """Opens the log for TensorBoard, on rank 0, and closes it. Raises `CourseError` if the disk is full."""
        self.log = None
        try:
            if self.leads:
                # Events later than the checkpoint are removed, because their steps will be taken again.
                self.log = SummaryWriter(str(self.out / "log"), purge_step=self.step + 1)
            with self.log or nullcontext():
                yield
        except OSError as error:  # from the log only: atomic_write, which writes the other files, raises CourseError
            if error.errno not in DISK_FULL:
                raise
            raise CourseError(
                f"cannot write {self.out / 'log'} ({error.strerror}); the last checkpoint is kept: free space and run "
                "the same command again"
            ) from error

    def plot(self, group: str, step: int, **scalars: float) -> None:
        for name, scalar in scalars.items():
            self.log.add_scalar(f"{group}/{name}", scalar, step)

    def bar(self, steps: int) -> tqdm:
        """The progress bar of an epoch of `steps` steps."""
        return tqdm(
            desc=f"epoch {self.progress.epoch + 1}/{self.recipe.epochs}",
            total=steps,
            initial=self.progress.batch,
            unit="step",
            leave=False,
            disable=not self.show,
        )

    def advance(self, bar: tqdm) -> None:
        """Moves the bar on by a step, with the loss and the accuracy of the epoch so far."""
        if self.progress.clips:
            loss, accuracy = (n / self.progress.clips for n in (self.progress.loss_sum, self.progress.correct))
            bar.set_postfix_str(f"loss {loss:.3f}, acc {accuracy:.3f}, {self.speed:.0f} clips/s", refresh=False)
        bar.update()

    def report(self, row: dict, bad_val: int) -> None:
        """Print one line, write three points to TensorBoard, and list the clips that could not be read."""
        self.plot("epoch", row["step"], **{name: row[name] for name in ("train_top1", "val_loss", "val_top1")})
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
            }
            | ({EMA: self.ema.state_dict()} if self.ema else {}),
        )
        publish(self)
