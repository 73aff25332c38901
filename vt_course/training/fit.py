"""Training: one loop that can be killed at any moment and then resumed.

Three rules make a resumed run equal to an uninterrupted one, bit for bit on a CPU:

* All random choices are pure functions of the place in the training. The order of the clips depends on
  (seed, epoch), the augmentation of a clip and the order of its frames on (seed, epoch, index), the mixing of clips,
  dropout and drop path on (seed, step).
* Everything else (weights, their moving average, the optimiser's moments, running sums, the best epoch) is in one
  file, `state.pt`, which is replaced by one rename and ends in a checksum (checkpoint.py).
* Every other file of the run folder is derived from that state and can be written again.

Started by torchrun, the same loop runs in several processes (ranks.py). Each process takes its share of
every batch. Only rank 0 prints and writes; its numbers cover all processes.
"""

import functools
import math
import time
from contextlib import ExitStack
from pathlib import Path

import torch
import torch.nn.functional as F

from vt_course import CourseError, need
from vt_course.data.augment import mix
from vt_course.data.loading import short_of_memory
from vt_course.machine import deterministic, pick_device
from vt_course.training import engine, ranks
from vt_course.training.checkpoint import load_run
from vt_course.training.evaluate import class_scores, reorder_frames
from vt_course.training.finetune import HEAD, by_layer, say_frozen
from vt_course.training.folder import begin, open_run, summarise, with_gone_files
from vt_course.training.recipes import Recipe
from vt_course.training.run import RunState, open_everywhere
from vt_course.training.start import load_start

# In the key of a random order of frames. The key of the augmentation is (seed, epoch, index), and no index is as large.
ORDER = 2**32 - 1


def lr_at(step: int, steps: int, warmup: int, peak: float, milestones=()) -> float:
    """Learning rate of step 0 .. steps - 1: linear up to `peak` in `warmup` steps, then down to 0 as a cosine.

    With `milestones`, numbers of steps, there is no cosine: from each of them on, the rate is a tenth of what it was.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if milestones:
        return peak * 0.1 ** sum(step >= milestone for milestone in milestones)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def parameter_groups(model, weight_decay: float, decays: str = "matrices", backbone_lr: float = 1.0) -> list[dict]:
    """The parameters that decay and those that do not, each with what the optimiser needs to know of them.

    decays: "matrices": weight decay for matrices and kernels. None for vectors (norms, biases), nor for what the family
    exempts. "biases": the biases of linear layers and convolutions decay, too. "all": everything decays.
    A family names its exceptions in `no_weight_decay`; one that names none decays its position tables. The released
    recipes differ. Swin: "matrices" (optimizer.py). Video Swin: "biases" (`paramwise_cfg`). MViT and MViTv2 on
    Kinetics: no exception but vectors (`ZERO_DECAY_POS_CLS: False`, `ZERO_WD_1D_PARAM: True`). TimeSformer: "all".
    UniFormer has no position table.

    backbone_lr: the learning rate of all parameters but the classifier's (`head`) is this share of it. Groups of such
    a share carry it as `lr_scale`.
    """
    exempt = getattr(model, "no_weight_decay", ())
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, (torch.nn.LayerNorm, torch.nn.modules.batchnorm._BatchNorm))
        for parameter in module.parameters()
    }
    groups = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        spared = parameter.ndim <= 1 and (decays == "matrices" or id(parameter) in norms) or name.endswith(exempt)
        share = 1.0 if name.startswith(HEAD) else backbone_lr
        groups.setdefault((share, decays != "all" and spared), []).append(parameter)
    told = {share: {} if share == 1.0 else {"lr_scale": share} for share in (1.0, backbone_lr)}
    return [
        {"params": groups.get((share, spared), []), "weight_decay": 0.0 if spared else weight_decay, **told[share]}
        for share in told
        for spared in (False, True)
    ]


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

    If `recipe.inflate` names an image model, that one is trained first, into the folder `out`/image, and inflated.
    If `recipe.init` names weights, the run starts from them; they are not needed any more once it has a checkpoint.

    Raises `CourseError` for everything that the user can mend: settings that differ from the folder's, another run
    that uses the folder, a damaged checkpoint, a full disk, a loss that is not finite, no readable clip.
    The last good checkpoint is kept.
    """
    image = None
    if recipe.inflate:
        image = Path(out) / "image"
        fit(recipe.image(), image, device=device, workers=workers, progress=progress, tell=tell)
    with (
        ranks.group(pick_device(device)) as device,
        deterministic(device),
        short_of_memory(progress_kept=True),
        ranks.polite_interrupt() as interrupt,
        ExitStack() as held,
    ):
        config, sets = open_everywhere(recipe, tell)
        state = ranks.by_leader(functools.partial(open_run, Path(out), config, resume, held))
        config = with_gone_files(config, state)
        say = tell if tell and ranks.rank() == 0 else lambda note: None

        def first_weights(model) -> None:
            if image:
                inflate(model, load_run(image, "last")[0], recipe.inflate["mode"])
            if recipe.init:
                for note in load_start(model, recipe, config["classes"]):
                    say(note)

        begun = None if state else first_weights
        run = Run(recipe, Path(out), config, state, device, sets, workers, progress, begun)
        if recipe.freeze:
            say(say_frozen(run.model, recipe.freeze))
        return run.train(interrupt, max_steps, checkpoint_minutes)


def inflate(model, image_model, mode: str) -> None:
    """Set the weights of a video model to those of an image model, inflated by the rule `mode` of its family."""
    need(
        hasattr(model, "inflate"), f"{type(model).__name__} cannot start from an image model; train it without inflate"
    )
    try:
        model.load_state_dict(model.inflate(image_model.state_dict(), mode))
    except (TypeError, ValueError) as error:
        raise CourseError(f"the image model cannot be inflated: {error}") from error


class Run(RunState):
    """The loop: epochs of steps, each epoch closed by validation and a checkpoint."""

    def make_optimizer(self) -> torch.optim.Optimizer:
        recipe = self.recipe
        groups = parameter_groups(self.model, recipe.weight_decay, recipe.decays, recipe.backbone_lr)
        return engine.optimizer(recipe.optimizer, by_layer(self.model, groups, recipe.layer_decay))

    def train(self, interrupt, max_steps, checkpoint_minutes) -> dict:
        finished = ranks.by_leader(functools.partial(begin, self))
        if finished:
            return finished
        with self.event_log():
            while self.progress.epoch < self.recipe.epochs:
                stopped = self.train_epoch(interrupt, max_steps, checkpoint_minutes)
                if stopped or self.close_epoch(interrupt):
                    self.save()
                    break
        if interrupt and self.progress.epoch < self.recipe.epochs:
            self.say_stopped()
            raise KeyboardInterrupt
        return ranks.by_leader(functools.partial(summarise, self))

    def train_epoch(self, interrupt, max_steps, checkpoint_minutes) -> bool:
        """Train to the end of the epoch. Returns True if it was stopped before the end."""
        recipe, progress, batches = self.recipe, self.progress, self.batches
        steps = recipe.epochs * len(batches)
        warmup = round(recipe.warmup_epochs * len(batches))
        milestones = [round(epoch * len(batches)) for epoch in recipe.milestones]
        batches.epoch, batches.start = progress.epoch, progress.batch
        loader = iter(self.train_loader)
        began = saved = time.monotonic()
        before = progress.clips
        self.speed = 0.0
        with self.bar(len(batches)) as bar:
            while progress.batch < len(batches):
                if max_steps is not None and self.step >= max_steps:
                    return True
                batch = next(loader)
                good = 0 if batch["clip"] is None else len(batch["label"])
                due = self.leads and time.monotonic() - saved > checkpoint_minutes * 60
                # What one rank knows, all must act on: a Ctrl-C, an unreadable clip, the time for a checkpoint.
                stop, due, clips, skipped = ranks.total(bool(interrupt), due, good, len(batch["bad"]))
                if stop:
                    interrupt.append("another rank's")
                    return True
                if due:
                    self.save()
                    saved = time.monotonic()
                progress.bad["train"].update(batch["bad"])
                progress.skipped += int(skipped)
                if clips:
                    lr = lr_at(self.step, steps, warmup, recipe.lr, milestones)
                    self.train_step(batch, good, int(clips), lr)
                    self.speed = (progress.clips - before) / (time.monotonic() - began)
                progress.batch += 1
                self.advance(bar)
        return False

    def train_step(self, batch, good: int, clips: int, lr: float) -> None:
        """One step on `clips` clips, `good` of them in this process."""
        recipe, progress = self.recipe, self.progress
        # The seed of mixing, dropout and drop path. It differs between ranks, because their clips differ.
        torch.manual_seed(recipe.seed * 1_000_003 + self.step + (ranks.rank() << 53))
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        if not good:  # all ranks must take the step: a rank without a clip uses a placeholder clip of weight 0
            batch = {"clip": torch.zeros(1, 3, recipe.frames, recipe.size, recipe.size), "label": torch.zeros(1).long()}
        self.parallel.train(good > 0)  # eval mode, so that the placeholder clip does not change BatchNorm's statistics
        for module in self.at_rest:  # nor does any clip change a frozen one's
            module.eval()
        clip = batch["clip"].to(self.device, non_blocking=True)  # (B, C, T, H, W)
        if recipe.order != "normal" and good:  # another order in each epoch
            index, seed = batch["index"].tolist(), (recipe.seed, progress.epoch, ORDER)
            clip = reorder_frames(clip, index, recipe.order, seed)
        label = batch["label"].to(self.device, non_blocking=True)  # (B,)
        if recipe.mixup or recipe.cutmix:
            clip, label = mix(clip, label, len(self.classes), recipe.mixup, recipe.cutmix)  # label: (B, K)
        self.optimizer.zero_grad()
        loss_sum = hits = 0
        parts = min(recipe.accumulate, len(clip))
        for number, (some, aim) in enumerate(zip(clip.tensor_split(parts), label.tensor_split(parts)), 1):
            weight = len(some) if good else 0
            with ranks.apart(self.parallel, number < parts):
                with self.autocast():
                    try:
                        logits = class_scores(self.parallel, some)  # (b, K)
                    except ValueError as error:  # too few clips are left, because some are unreadable
                        raise CourseError(f"step {self.step + 1} with {len(some)} clip: {error}") from error
                loss = self.loss(logits.float(), aim)
                # The gradients of the parts are added, those of the ranks are averaged. With this weight, the result
                # is the mean over all clips of the batch.
                self.scaler.scale(loss * (weight * ranks.world() / clips)).backward()
            right = logits.argmax(-1) == (aim if aim.ndim == 1 else aim.argmax(-1))  # of mixed clips: the larger share
            loss_sum += loss.item() * weight
            hits += int(right.sum()) if good else 0
        self.scaler.unscale_(self.optimizer)
        limit = recipe.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit).item()
        loss_sum, hits = ranks.total(loss_sum, hits)
        value = loss_sum / clips
        # With loss scaling, infinite gradients are normal: `scaler.step` skips the step.
        if not math.isfinite(value) or not (math.isfinite(norm) or self.scaler.is_enabled()):
            raise self.diverged(f"loss {value}, gradient norm {norm}")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema:
            self.ema.update_parameters(self.model)
        progress.loss_sum += loss_sum
        progress.correct += int(hits)
        progress.clips += clips
        if self.leads:
            self.plot("train", self.step + 1, loss=value, lr=lr, grad_norm=norm)

    def loss(self, logits, aim):
        """The mean cross-entropy, weighted by class. aim: classes (b,), or shares (b, K) where clips are mixed."""
        weights = self.class_weights  # (K,) or None
        loss = F.cross_entropy(logits, aim, weights, label_smoothing=self.recipe.label_smoothing)
        if weights is None or aim.ndim == 2:
            return loss
        return loss * weights[aim].mean()  # torch has divided by the weights of these clips; divide by their number

    def close_epoch(self, interrupt) -> bool:
        """Validate, record the epoch and save. Returns True if it was interrupted; then nothing is recorded."""
        self.share_bad()
        if not self.progress.clips:
            raise self.nothing_readable("training", next(iter(self.progress.bad["train"].values())))
        val, bad = self.validate(interrupt)
        if val is None:
            return True
        if not math.isfinite(val["loss"]):
            raise self.diverged(f"validation loss {val['loss']}")
        row = self.progress.close_epoch(
            steps=len(self.batches),
            lr=self.optimizer.param_groups[0]["lr"],
            val=val,
            seconds=time.monotonic() - self.started,
            clips_per_second=self.speed,
        )
        if self.leads:
            self.report(row, bad)
        self.save()
        return False
