"""What shifted windows and the relative position bias are worth, on `swin_mini` and drawn shapes: one run.

Notebook 03 calls this live. The question is Swin's table 4: the same switches, on a model of 0.6 M parameters, images
of 64 pixels and minutes of training. The row `swin-shift-and-bias` of experiments.yaml trains the same variants.
"""

import dataclasses
import tempfile

from vt_course.data.images import Shapes
from vt_course.training.checkpoint import load_run
from vt_course.training.evaluate import evaluate
from vt_course.training.fit import fit
from vt_course.training.recipes import Recipe, recipe_for

# Name -> the entries of swin_mini's configuration that it replaces. The first variant is the baseline.
VARIANTS = {
    "shifted windows, relative bias": {},
    "windows never shift": {"shift": False},
    "no position information": {"relative_bias": False},
    "absolute instead of relative": {"relative_bias": False, "ape": True},
}
EPOCHS = 3  # 4,000 images each
HELD_OUT = 1000  # images


def recipe(config: dict, seed: int) -> Recipe:
    """The recipe of a variant: that of swin_mini, shortened to `EPOCHS`."""
    return dataclasses.replace(recipe_for("swin_mini"), config=config, seed=seed, epochs=EPOCHS)


def train_variant(config: dict, seed: int, *, max_steps: int | None = None, held_out: int = HELD_OUT) -> dict:
    """Train one variant on the CPU and score its last weights on `held_out` images.

    `config`, for instance `{"shift": False}`, replaces entries of swin_mini's configuration.
    `max_steps` stops early.

    Returns dict(config, seed, steps, images, parameters, train_loss, top1, stderr, seconds).
    images is the number of training images that were seen. train_loss is the mean over the last epoch (None
    after an early stop). top1 and its binomial standard error stderr are fractions from 0 to 1. seconds is the time
    of training, including its validation. Raises `CourseError` for an unknown entry of `config`.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = fit(recipe(config, seed), folder, device="cpu", workers=0, max_steps=max_steps, progress=False)
        model, used = load_run(folder, "last")
        scores = evaluate(model, Shapes("val", size=used.size, count=held_out), device="cpu", workers=0, progress=False)
    return {
        "config": config,
        "seed": seed,
        "steps": run["steps"],
        "images": run["steps"] * used.batch_size,
        "parameters": run["parameters"],
        "train_loss": run["last"] and run["last"]["train_loss"],
        "top1": scores["top1"],
        "stderr": scores["stderr"],
        "seconds": run["seconds"],
    }
