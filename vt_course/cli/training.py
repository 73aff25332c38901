"""Verbs that train models."""

from pathlib import Path

from vt_course.cli.common import (
    choice,
    command,
    containing,
    leads,
    need_data,
    on_stderr,
    option,
    print_json,
    print_table,
    shell,
    tell,
    verb,
    whole,
)


@verb(
    "train",
    "Train a model; run the same command again to resume.",
    "vt-course train video_swin_mini --data synthetic:motion --out runs/a --set epochs=4 lr=5e-4",
    option("model", nargs="?", help="a name from `vt-course models` (default: the recipe's)"),
    option("--recipe", metavar="NAME", help="a name from `vt-course recipes` (default: the model's)"),
    option(
        "--data",
        help="synthetic:motion, synthetic:appearance, images:shapes, csv:TRAIN.csv,VAL.csv, folder:PATH or shards:PATH"
        " (default: the recipe's)",
    ),
    option("--out", type=Path, required=True, help="run folder"),
    option("--set", nargs="*", default=[], metavar="NAME=VALUE", help="change settings of the recipe"),
    option(
        "--init",
        metavar="FILE|NAME|RUN",
        help="weights to start from: a file, a name from `vt-course weights list` or of a mini, a run folder;"
        " inflate:FILE if they are those of an image model",
    ),
    option(
        "--freeze",
        metavar="WHAT",
        help="what keeps its weights: backbone (all but the head), stages:N (the first N), or names of parameters,"
        " for instance patch_embed,layers.0",
    ),
    option("--device", help="cpu, cuda, mps (default: the NVIDIA GPU if there is one, else the CPU)"),
    option("--workers", type=whole(0), help="loader processes (default: by the number of cores)"),
    option("--max-steps", type=whole(1), help="stop after this many optimiser steps in total"),
    option("--no-resume", action="store_true", help="refuse to continue a run that is already there"),
)
def train(args) -> int:
    from vt_course.machine import pick_device
    from vt_course.training import ranks

    with ranks.group(pick_device(args.device)) as device:  # first of all: if one rank fails, the others hear of it
        return train_here(args, device)


def train_here(args, device) -> int:
    from vt_course.training.fit import fit
    from vt_course.training.official_recipes import resolve

    given = {name: getattr(args, name) for name in ("data", "init", "freeze")}
    settings = [f"{name}={value}" for name, value in given.items() if value] + args.set
    recipe, told = resolve(args.model, args.recipe, settings)
    if told and leads() and not args.json:
        tell(told)
    fetch_start(recipe.init, args.out, progress=not args.json)
    summary = fit(
        recipe,
        args.out,
        resume=not args.no_resume,
        device=device,
        workers=args.workers,
        max_steps=args.max_steps,
        progress=not args.json,
        tell=tell,
    )
    if leads():
        print_json(summary) if args.json else print(last_line(summary, args.out))
    return 0


def fetch_start(init: str, out: Path, progress: bool) -> None:
    """Download the official weights from which a run is to start. With a checkpoint it does not need them any more."""
    from vt_course.training.checkpoint import state_path
    from vt_course.training.start import INFLATE, find

    if "/" not in init or find(init) or state_path(out):  # the name of a published file has a slash
        return
    from vt_course.fetch.weights import get, releases

    name = init.removeprefix(INFLATE)
    if name in releases():
        get(name, progress=progress)


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
    "recipes",
    "List the recipes: the published ones with their source, one a family for a Kinetics subset, those of the minis.",
    "vt-course recipes uniformer",
    option("words", nargs="*", metavar="WORD", help="only recipes whose name contains every word (default: all)"),
)
def recipes(args) -> int:
    from vt_course.training.official_recipes import TINY10_RECIPES, recipe_table

    rows = {row["name"]: row for row in recipe_table()}
    rows = [rows[name] for name in containing(args.words, rows)]
    costs = {}
    if all(row["name"] in TINY10_RECIPES for row in rows):
        from vt_course.training.estimates import ASSUMED, estimates

        costs = estimates([row["name"] for row in rows])
        rows = [row | {"estimate": costs.get(row["name"])} for row in rows]
    if args.json:
        print_json(rows)
        return 0
    columns = {"name": "recipe", "model": "model", "lr": "lr", "batch_size": "clips a step", "epochs": "epochs"}
    print_table(
        [{**row["settings"], "lr": f"{row['settings']['lr']:g}", **row} for row in rows],
        columns | {"grade": "grade", "source": "source"},
    )
    if costs:
        columns = {"name": "estimates", "gmacs": "GMACs a clip", "steps": "steps", "cpu_hours": "hours on 2 CPU cores"}
        columns |= {"gpu_minutes": "minutes on a GPU, at least", "gpu_gb": "GB on it"}
        print()
        print_table([row["estimate"] | row for row in rows], columns)
        print(ASSUMED)
    return 0


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
    failed = run_rows(rows, jobs=args.jobs, tell=lambda line: quiet or on_stderr(line))
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
