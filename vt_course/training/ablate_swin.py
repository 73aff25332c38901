"""What shifted windows and the relative position bias are worth, on `swin_mini` and drawn shapes.

A replication in kind, not in number, of Swin's table 4: the same switches, a model of 0.6 M
parameters, images of 64 pixels, minutes of training. Task, model and recipe were fixed on the
baseline alone; every variant then trains with the same recipe, seeds and images.

    python -m vt_course.training.ablate_swin --out results/swin_mini_ablation.json --runs runs/ablation

Finished runs in the folder `--runs` are kept, so the same command goes on after an interruption.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
from pathlib import Path

from vt_course.data.images import Shapes
from vt_course.files import atomic_write
from vt_course.machine import pick_device, provenance
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
NOTE = """\
Task and recipe were fixed on the baseline alone; its run of seed 0 was seen before the others began, and is one of \
its runs. Then each variant was trained once per seed and is reported as it came out. 12,000 images are early in \
training: the whole recipe sees 40,000. The times are of a machine with other work on it."""
EPOCHS = 3  # 4,000 images each
HELD_OUT = 1000  # images


def recipe(config: dict, seed: int) -> Recipe:
    """The recipe of a variant: that of swin_mini, shortened to `EPOCHS`."""
    return dataclasses.replace(recipe_for("swin_mini"), config=config, seed=seed, epochs=EPOCHS)


def train_variant(
    config: dict, seed: int, *, max_steps: int | None = None, held_out: int = HELD_OUT, out: Path | str | None = None
) -> dict:
    """Train one variant on the CPU and score its last weights on `held_out` images.

    `config`, for instance `{"shift": False}`, replaces entries of swin_mini's configuration.
    `max_steps` stops early; `out` is the run's folder (None: a temporary one).

    Returns dict(config, seed, steps, images, parameters, train_loss, top1, stderr, seconds).
    images is the number of training images that were seen. train_loss is the mean over the last epoch (None
    after an early stop). top1 and its binomial standard error stderr are fractions from 0 to 1. seconds is the time
    of training, including its validation. Raises `CourseError` for an unknown entry of `config`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(out) if out is not None else Path(scratch)
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


def summarise(runs: dict[str, list[dict]]) -> dict[str, dict]:
    """For each variant: its config, its runs, and the mean and the standard deviation (n - 1) of top1 over its seeds.

    The standard deviation of a single run is None.
    """
    table = {}
    for name, each in runs.items():
        top1 = [run["top1"] for run in each]
        table[name] = {
            "config": each[0]["config"],
            "mean": statistics.mean(top1),
            "std": statistics.stdev(top1) if len(top1) > 1 else None,
            "runs": each,
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", type=int, default=len(VARIANTS), help="only the first so many")
    args = parser.parse_args()
    variants = dict(list(VARIANTS.items())[: args.variants])
    command = ["python", "-m", "vt_course.training.ablate_swin", *sys.argv[1:]]
    facts = provenance(pick_device("cpu")) | {"command": command}
    runs = {name: [] for name in variants}
    for seed in args.seeds:
        for number, (name, config) in enumerate(variants.items()):
            run = train_variant(config, seed, held_out=HELD_OUT, out=args.runs / f"variant{number}_seed{seed}")
            runs[name].append(run)
            print(
                f"{name}, seed {seed}: {run['top1']:.3f} after {run['steps']} steps, {run['seconds']:.0f} s", flush=True
            )
            result = {
                "note": NOTE,
                "model": "swin_mini",
                "data": "images:shapes",
                "classes": 8,
                "held_out": HELD_OUT,
                "recipe": dataclasses.asdict(recipe({}, seed)),
                "seeds": args.seeds,
                "variants": summarise({name: each for name, each in runs.items() if each}),
                **facts,
            }
            del result["recipe"]["seed"], result["recipe"]["config"]
            args.out.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(args.out, (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
