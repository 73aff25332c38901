"""The folder of a run: which run it belongs to, how far the run is, and every file that is derived from its state.

Only `state.pt` (checkpoint.py) says how far a run is. All other files are written from it, and can be written again.
"""

import dataclasses
import json
import math
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from vt_course import CourseError, need
from vt_course.data import Spec, images
from vt_course.files import alone, atomic_write, read_json, write_csv
from vt_course.machine import provenance
from vt_course.training import ranks
from vt_course.training.checkpoint import (
    PREVIOUS,
    STATE,
    model_settings,
    read_state,
    save_weights,
    state_path,
    unusable,
)
from vt_course.training.curves import curves, figure_bytes
from vt_course.training.pretrained import CARD, card_text, results_of, usage
from vt_course.training.recipes import Recipe
from vt_course.training.trained import FACTS, shown_by

# The columns of metrics.csv, which has one row for each epoch.
COLUMNS = (
    "epoch",
    "step",
    "lr",
    "train_loss",
    "train_top1",
    "val_loss",
    "val_top1",
    "val_top1_stderr",
    "skipped",
    "seconds",
    "clips_per_second",
)


@dataclass
class Progress:
    """How far a run is. Sums are over the part of the current epoch that is done."""

    epoch: int = 0  # epochs completed
    batch: int = 0  # batches done in the current epoch
    loss_sum: float = 0.0
    correct: int = 0
    clips: int = 0
    skipped: int = 0
    rows: list = field(default_factory=list)  # one dict per completed epoch: metrics.csv
    best: dict | None = None  # the row with the highest val_top1, then the lowest val_loss
    bad: dict = field(default_factory=lambda: {"train": {}, "val": {}})  # {index: sentence}
    seconds: float = 0.0  # of training, over all calls
    peak_memory_mb: float = 0.0

    def close_epoch(self, *, steps: int, lr: float, val: dict, seconds: float, clips_per_second: float) -> dict:
        """End the epoch of `steps` steps: add its row and set the sums back. Returns the row. `val` are the scores."""
        self.epoch, self.batch = self.epoch + 1, 0
        row = {
            "epoch": self.epoch,
            "step": self.epoch * steps,
            "lr": lr,
            "train_loss": self.loss_sum / self.clips,
            "train_top1": self.correct / self.clips,
            "val_loss": val["loss"],
            "val_top1": val["top1"],
            "val_top1_stderr": val["stderr"],
            "skipped": self.skipped,
            "seconds": round(seconds, 3),
            "clips_per_second": round(clips_per_second, 2),
        }
        self.rows.append(row)
        self.best = max(self.rows, key=quality)
        self.loss_sum, self.correct, self.clips, self.skipped = 0.0, 0, 0, 0
        return row

    def fault(self, epochs: int, batches: int) -> str | None:
        """What is impossible in this progress, in a run of `epochs` epochs of `batches` batches; else None."""
        for name in ("epoch", "batch", "correct", "clips", "skipped", "loss_sum", "seconds", "peak_memory_mb"):
            value, whole = getattr(self, name), name not in ("loss_sum", "seconds", "peak_memory_mb")
            if type(value) not in ((int,) if whole else (int, float)) or not 0 <= value < math.inf:
                return f"{name} is {value!r}"
        if self.epoch > epochs or self.batch > (batches if self.epoch < epochs else 0):
            return f"epoch {self.epoch} of {epochs} is done and batch {self.batch} of {batches} of the next"
        if self.correct > self.clips:
            return f"{self.correct} of {self.clips} clips were right"
        if not isinstance(self.rows, list) or len(self.rows) != self.epoch:
            return f"the rows are not of {self.epoch} epochs"
        for number, row in enumerate(self.rows, 1):
            if (
                not isinstance(row, dict)
                or tuple(row) != COLUMNS
                or (row["epoch"], row["step"]) != (number, number * batches)
                or not all(type(value) in (int, float) and math.isfinite(value) for value in row.values())
            ):
                return f"the row of epoch {number} is damaged"
        if self.best != max(self.rows, key=quality, default=None):
            return "the best epoch is not the best of the rows"
        if (
            not isinstance(self.bad, dict)
            or sorted(self.bad) != ["train", "val"]
            or not all(
                isinstance(found, dict) and all(type(k) is int and isinstance(v, str) for k, v in found.items())
                for found in self.bad.values()
            )
        ):
            return "the list of bad clips is damaged"
        return None


def quality(row: dict) -> tuple[float, float]:
    """The key by which epochs are compared: the best one has the highest val_top1, then the lowest val_loss."""
    return row["val_top1"], -row["val_loss"]


def describe(recipe: Recipe, spec: Spec) -> dict:
    """What identifies a run: its recipe, its classes, and digests of the lists of its clips. Written to config.json."""
    digests = {
        split: spec.digest(split) if spec.train else f"{images.COUNTS[split]} drawn images, version {images.VERSION}"
        for split in ("train", "val")
    }
    return {"recipe": dataclasses.asdict(recipe), "classes": list(spec.classes), "manifests": digests}


# Parts of a config that come from files of the user: see `run.from_files`.
FROM_FILES = {"start": "init", "class_weights": "class_weights"}


def with_gone_files(config: dict, state: dict | None) -> dict:
    """`config`, and of each file that is gone since the run began, what the config in `state` has of it."""
    gone = [name for name in FROM_FILES if name in config and config[name] is None]
    return config | {name: state["config"].get(name) for name in gone if state}


DEFAULTS = {name: value for name, value in dataclasses.asdict(Recipe(model="")).items() if name != "model"}


def with_defaults(recipe: dict) -> dict:
    """The settings of a recipe, as read from JSON, and the default of each setting that an older version lacked."""
    return json.loads(json.dumps(DEFAULTS)) | recipe


def check_same(folder: Path, old: dict, new: dict) -> None:
    """Raise `CourseError` if the folder holds a run with other settings; the message names the differences."""
    old, new = (json.loads(json.dumps(config, default=str)) for config in (old, new))  # tuples become lists
    old["recipe"] = with_defaults(old["recipe"])
    was, now = old["recipe"], new["recipe"]
    differ = [
        f"{name} was {was.get(name)!r:.200} and is now {now.get(name)!r:.200}"
        for name in {**was, **now}
        if was.get(name) != now.get(name)
    ]
    if not differ:
        differ = [
            f"{setting}={now[setting]} holds something else than when the run began"
            for name, setting in FROM_FILES.items()
            if old.get(name) != new.get(name)
        ]
    if not differ and old != new:
        differ = [f"the manifests of {now['data']} list other clips or classes"]
    if differ:
        raise CourseError(
            f"{folder} holds a run with other settings ({'; '.join(differ[:4])}); go on with the old settings or "
            f"choose another --out folder, where --init {folder} starts from the weights of this run"
        )


def open_run(out: Path, config: dict, resume: bool, held: ExitStack) -> dict | None:
    """Make the folder `out` and lock it until `held` is closed. Returns the state of the run in it, or None.

    Raises `CourseError` if another run uses the folder, if it holds a run with other settings, or if `resume` is False
    and it holds a run.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        held.enter_context(alone(out / ".lock", wait=False))
    except OSError as error:
        raise CourseError(f"cannot make the folder {out} ({error.strerror}); choose another --out folder") from error
    state = read_state(out)
    if state is not None:
        if not resume:
            raise CourseError(f"{out} already holds a run; resume it or choose another --out folder")
        if not isinstance(state["config"].get("recipe"), dict):
            raise unusable(out, "is damaged: its config has no recipe")
        check_same(out, state["config"], with_gone_files(config, state))
        if state_path(out).name == PREVIOUS:
            print(
                f"{out / STATE} is not there: going on from the checkpoint before it, {out / PREVIOUS}", file=sys.stderr
            )
    return state


def begin(run) -> dict | None:
    """Write the folder's files again from the state. Returns the summary if the run is finished, else None."""
    atomic_write(run.out / "config.json", json.dumps(run.config, indent=2).encode())
    if run.step:
        publish(run)  # a kill may have left the state without the files derived from it
    path = run.out / "summary.json"
    if run.progress.epoch == run.recipe.epochs and os.path.lexists(path):
        anew = "delete it and run the same command again, which writes it anew"
        summary = read_json(path, anew, dict)
        if isinstance(summary.get("recipe"), dict):
            summary["recipe"] = with_defaults(summary["recipe"])
        need(facts(run).items() <= summary.items(), f"{path} does not tell what {state_path(run.out)} holds; {anew}")
        return summary


def publish(run) -> None:
    """Write last.safetensors, best.safetensors, metrics.csv and bad_clips.csv from the state.

    The weights are those that were evaluated: the moving average, if the run keeps one.
    """
    progress = run.progress
    header = {
        "format": "pt",
        "model": run.recipe.model,
        "recipe": run.recipe.to_json(),
        "classes": run.classes,
        "epoch": progress.epoch,
        "step": run.step,
        FACTS: how_to_use(run),
    }
    row = progress.rows[-1] if progress.rows else None
    at_epoch_end = row is not None and progress.batch == 0
    if at_epoch_end:
        header["metric"] = {name: row[name] for name in ("val_top1", "val_loss")}
    save_weights(run.out / "last.safetensors", run.evaluated, header)
    # Only in the state at the end of the best epoch are the model's weights the best ones. In later states
    # best.safetensors is there already.
    if at_epoch_end and progress.best["epoch"] == progress.epoch:
        save_weights(run.out / "best.safetensors", run.evaluated, header)
    if row:
        write_csv(run.out / "metrics.csv", row, [r.values() for r in progress.rows])
    bad = [
        (split, index, sentence) for split, found in progress.bad.items() for index, sentence in sorted(found.items())
    ]
    if bad:
        write_csv(run.out / "bad_clips.csv", ["split", "index", "reason"], bad)


def how_to_use(run) -> dict:
    made_of = run.recipe.model, model_settings(run.recipe, len(run.classes))
    return usage(made_of, run.classes, shown_by(run.recipe), run.recipe.data)


def facts(run) -> dict:
    """The facts of the run in summary.json, in the types that reading JSON gives."""
    progress = run.progress
    return json.loads(
        json.dumps(
            {
                "model": run.recipe.model,
                "data": run.recipe.data,
                "finished": progress.epoch == run.recipe.epochs,
                "epochs": progress.epoch,
                "steps": run.step,
                "best": progress.best,
                "last": progress.rows[-1] if progress.rows else None,
                "bad_clips": {split: len(found) for split, found in progress.bad.items()},
                "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
                "seconds": round(progress.seconds, 1),
                "peak_memory_mb": round(progress.peak_memory_mb),
                "seed": run.recipe.seed,
                "recipe": dataclasses.asdict(run.recipe),
            }
        )
    )


def summarise(run) -> dict:
    """Write summary.json, curves.png and the model card. Returns the contents of summary.json."""
    progress = run.progress
    summary = {**facts(run), **provenance(run.device, ranks.world())}
    if progress.rows:
        figure = curves(progress.rows, len(run.classes), f"{run.recipe.model} on {run.recipe.data}")
        atomic_write(run.out / "curves.png", figure_bytes(figure))
        clips = len(run.val_loader.dataset) - len(progress.bad["val"])
        results = results_of(progress.rows, progress.best, clips, len(run.classes))
        told = how_to_use(run)
        atomic_write(run.out / CARD, card_text(told, run.recipe, results=results).encode())
    atomic_write(run.out / "summary.json", json.dumps(summary, indent=2).encode())
    return summary
