"""Verbs that train and evaluate a model."""

import sys
from pathlib import Path

from vt_course import CourseError, need
from vt_course.cli.common import (
    choice,
    command,
    leads,
    need_data,
    option,
    print_json,
    print_table,
    shell,
    tell,
    verb,
    whole,
)
from vt_course.training.recipes import ORDERS


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
        tell=tell,
    )
    if leads():
        print_json(summary) if args.json else print(last_line(summary, args.out))
    return 0


def last_line(summary: dict, out: Path) -> str:
    """How a training ended: the accuracy of its last epoch beside chance, the folder, and what to do next."""
    from vt_course.files import read_json

    last = summary["last"]
    classes = read_json(out / "config.json", "run the same command again, which writes it anew.", dict)["classes"]
    if last is None:
        return (
            f"{summary['model']} stopped after step {summary['steps']}, before the end of an epoch; the run is in "
            f"{out}; next: the same command without --max-steps"
        )
    epochs = f"{last['epoch']} epoch{'s' * (last['epoch'] != 1)}"
    more = "" if summary["finished"] else f" of {summary['recipe']['epochs']}"
    return (
        f"{summary['model']}: {100 * last['val_top1']:.1f} ± {100 * last['val_top1_stderr']:.1f} % of the validation "
        f"set are right after {epochs}{more} (chance: {100 / len(classes):.1f} %); weights and curves are in {out}; "
        f"next: {command()} evaluate {shell(out / 'last.safetensors')}"
    )


@verb(
    "evaluate",
    "Accuracy of a run on its validation or test clips, frames in order or not.",
    "vt-course evaluate runs/a --order normal shuffled single",
    option("run", type=Path, help="run folder or .safetensors file"),
    option("--data", help="default: what it was trained on"),
    option("--split", default="val", choices=["val", "test"], help="test: clips on which nothing was tuned"),
    option("--order", nargs="+", default=["normal"], choices=ORDERS),
    option("--device", help="cpu, cuda, mps (default: the NVIDIA GPU if there is one, else the CPU)"),
)
def evaluate(args) -> int:
    from vt_course.training.evaluate import evaluate, open_trained

    model, clips = open_trained(args.run, args.data, args.split)
    rows = [evaluate(model, clips, order=order, device=args.device, progress=not args.json) for order in args.order]
    if args.json:
        print_json(rows)
    else:
        print_table(
            [
                {**r, "top1": 100 * r["top1"], "stderr": 100 * r["stderr"], "chance": 100 / len(r["classes"])}
                for r in rows
            ],
            {"order": "frames", "n": "clips", "top1": "top-1 %", "stderr": "± %", "chance": "chance %"},
        )
    return 0


@verb(
    "explain",
    "Draw on a video what a model's answer rests on, or where it looks.",
    "vt-course explain video_swin_mini data/synthetic/clips/val/00000.mp4 --out explain.png --class left",
    option("run", help="run folder, .safetensors file, or a model whose weights ship, such as video_swin_mini"),
    option("video", type=Path),
    option("--out", type=Path, required=True, help="picture to write, .png"),
    option(
        "--method",
        default="occlusion",
        help="occlusion: hide boxes (default); gradcam: slopes of the score; rollout: all attention layers; "
        "attention: one layer",
    ),
    option("--layer", type=int, metavar="N", help="attention: which layer; gradcam: after which block (-1: the last)"),
    option("--head", type=whole(0), metavar="N", help="attention: which head (default: their mean)"),
    option("--class", dest="target", metavar="NAME", help="occlusion, gradcam: of which class (default: the answer)"),
)
def explain(args) -> int:
    from io import BytesIO

    from vt_course.files import atomic_write
    from vt_course.training.explain import explain_run

    try:
        from vt_course.lab.show import explanation
    except ModuleNotFoundError as error:
        raise CourseError(
            f"drawing needs the package {error.name}, which is not installed: pip install -e .[notebooks]"
        ) from error

    need(args.out.suffix.lower() == ".png", f"{args.out} is no name of a picture that we write; name a .png file")
    need(args.out.parent.is_dir(), f"there is no folder {args.out.parent} for the picture; make it or name another")
    options = dict(target=args.target, layer=args.layer, head=args.head, progress=not args.json)
    clip, found, classes = explain_run(weights_of(args.run), args.video, args.method, **options)
    name, share = classes[found.target], 100 * found.probability
    title = f"{args.video.name}, {name} ({share:.1f} %): {found.method}, {found.shows}"
    buffer = BytesIO()
    explanation(clip, found.map, title, found.caveat).savefig(buffer, format="png", dpi=160)
    atomic_write(args.out, buffer.getvalue())
    if args.json:
        facts = dict(method=found.method, shows=found.shows, probability=found.probability, caveat=found.caveat)
        print_json({"out": args.out, "class": name, **facts, "map": found.map.tolist()})
    else:
        print(f"{title}; the picture is {args.out}\n{found.caveat}")
    return 0


def weights_of(run: str) -> Path:
    """The path of a run, or of the weights that ship for a model of this name."""
    from vt_course.models import ZOO, mini_weights

    if Path(run).exists() or run not in ZOO:
        return Path(run)
    try:
        return mini_weights(run)
    except ValueError as error:
        raise CourseError(str(error)) from error


@verb(
    "experiments",
    "Make the missing runs of experiments.yaml; run the same command again to resume.",
    "vt-course experiments --only swin-shift-early --jobs 2",
    option("--only", nargs="+", metavar="ID", help="only these rows (default: all)"),
    choice(
        option("--list", action="store_true", help="show the rows, what is done of them, and the time for the rest"),
        option("--verify", metavar="ID", help="make one recorded run of a row again and compare; exit 1 if it differs"),
        required=False,
    ),
    option("--jobs", type=whole(1), help="runs at the same time (default: by cores and memory)"),
)
def experiments(args) -> int:
    from vt_course.training.evaluate import need_test_clips
    from vt_course.training.experiments import results
    from vt_course.training.experiments.run import run_rows, select, verify

    rows = select([args.verify] if args.verify else args.only)
    if args.list:
        states = [results.state(row) for row in rows]
        if args.json:
            print_json(states)
        else:
            print_table(states, {"id": "id", "state": "state", "minutes": "core minutes left", "question": "question"})
        return 0
    if any(row.told["data"].startswith("synthetic:") for row in rows):
        need_data()
        need_test_clips(progress=not args.json)
    if args.verify:
        found = verify(args.verify)
        if args.json:
            print_json(found)
        else:
            print(f"{found['id']}: {found['variant']}, seed {found['seed']}: {found['verdict']}")
            numbers = ("recorded", "again", "tolerance")
            shown = [{"order": row["order"], **{k: 100 * row[k] for k in numbers}} for row in found["rows"]]
            print_table(shown, {"order": "frames", **{k: f"{k} %" for k in numbers}})
        return 0 if found["good"] else 1
    quiet = args.json
    failed = run_rows(rows, jobs=args.jobs, tell=lambda line: quiet or print(line, file=sys.stderr, flush=True))
    found = [result for row in rows if (result := results.read_result(row.id))]
    if args.json:
        print_json({"results": found, "failed": failed})
    else:
        columns = {"id": "id", "variant": "variant", "order": "frames", "runs": "runs", "top1": "top-1 %", "std": "± %"}
        columns |= {"difference": "difference, 95 % interval", "verdict": "verdict"}
        print_table([line for result in found for line in results.table(result)], columns)
    for sentence in failed:
        tell(sentence)
    return 1 if failed else 0
