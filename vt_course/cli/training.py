"""Verbs that train and evaluate a model."""

import sys
from pathlib import Path

from vt_course.cli.common import leads, option, print_json, print_table, verb, whole


@verb(
    "train",
    "Train a model; run the same command again to resume.",
    "vt-course train video_swin_mini --data synthetic:motion --out runs/a --set epochs=4 lr=5e-4",
    option("model", help="a name from `vt-course models`"),
    option(
        "--data",
        help="synthetic:motion, synthetic:appearance, images:shapes, csv:TRAIN.csv,VAL.csv, folder:PATH or shards:PATH"
        " (default: the recipe's)",
    ),
    option("--out", type=Path, required=True, help="run folder"),
    option("--set", nargs="*", default=[], metavar="NAME=VALUE", help="change settings of the recipe"),
    option("--device", help="cpu, cuda, mps (default: the NVIDIA GPU if there is one, else the CPU)"),
    option("--workers", type=whole(0), help="loader processes (default: by the number of cores)"),
    option("--max-steps", type=whole(1), help="stop after this many optimiser steps in total"),
    option("--no-resume", action="store_true", help="refuse to continue a run that is already there"),
)
def train(args) -> int:
    from vt_course.training.fit import fit
    from vt_course.training.recipes import recipe_for

    recipe = recipe_for(args.model).override([f"data={args.data}"] * bool(args.data) + args.set)
    recipe_for(recipe.model)  # raises if `--set model=...` names an unknown model
    summary = fit(
        recipe,
        args.out,
        resume=not args.no_resume,
        device=args.device,
        workers=args.workers,
        max_steps=args.max_steps,
        progress=not args.json,
        tell=lambda note: print(f"vt-course: {note}", file=sys.stderr),
    )
    if args.json and leads():
        print_json(summary)
    return 0


@verb(
    "evaluate",
    "Accuracy of a run on its validation clips, frames in order or not.",
    "vt-course evaluate runs/a --order normal shuffled single",
    option("run", type=Path, help="run folder or .safetensors file"),
    option("--data", help="default: what it was trained on"),
    option("--order", nargs="+", default=["normal"], choices=["normal", "shuffled", "reversed", "single"]),
    option("--device", help="cpu, cuda, mps (default: the NVIDIA GPU if there is one, else the CPU)"),
)
def evaluate(args) -> int:
    from vt_course.training.evaluate import evaluate, open_trained

    model, clips = open_trained(args.run, args.data)
    rows = [evaluate(model, clips, order=order, device=args.device, progress=not args.json) for order in args.order]
    if args.json:
        print_json(rows)
    else:
        print_table(
            [{**r, "top1": 100 * r["top1"], "stderr": 100 * r["stderr"]} for r in rows],
            {"order": "frames", "n": "clips", "top1": "top-1 %", "stderr": "± %"},
        )
    return 0
