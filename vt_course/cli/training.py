"""Verbs that train and evaluate a model."""

import argparse
import csv
import math
import sys
from pathlib import Path

from vt_course import CourseError, need
from vt_course.cli.common import (
    choice,
    command,
    containing,
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
        device=args.device,
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


MODEL = option(
    "run",
    metavar="RUN|NAME",
    help="run folder, .safetensors file, a *_mini, or a name from `vt-course weights list` (downloaded on first use)",
)
VIEWS = "swin, mvit, timesformer, uniformer, each also with -ssv2; timesformer-paper; centre; or clips x crops, as 4x3"
CLASSES = option("--classes", type=Path, metavar="FILE", help="names of the classes, one a line, in the head's order")


def opened(args):
    """The model that a user names, as `trained.open_model` opens it."""
    from vt_course.fetch.weights import located
    from vt_course.training.trained import name_classes, open_model

    trained = open_model(located(args.run, progress=not args.json))
    return name_classes(trained, args.classes) if args.classes else trained


@verb(
    "recipes",
    "List the recipes: the published ones with their source, one a family for a Kinetics subset, those of the minis.",
    "vt-course recipes uniformer",
    option("words", nargs="*", metavar="WORD", help="only recipes whose name contains every word (default: all)"),
)
def recipes(args) -> int:
    from vt_course.training.official_recipes import recipe_table

    rows = {row["name"]: row for row in recipe_table()}
    rows = [rows[name] for name in containing(args.words, rows)]
    if args.json:
        print_json(rows)
        return 0
    columns = {"name": "recipe", "model": "model", "lr": "lr", "batch_size": "clips a step", "epochs": "epochs"}
    print_table(
        [{**row["settings"], "lr": f"{row['settings']['lr']:g}", **row} for row in rows],
        columns | {"grade": "grade", "source": "source"},
    )
    return 0


@verb(
    "evaluate",
    "Accuracy of a run or of published weights, by the views of each paper, frames in order or not.",
    "vt-course evaluate runs/a --protocol swin --out results/a",
    MODEL,
    option("--data", help="as for `train`, also csv:LIST.csv (default: what it was trained on)"),
    option("--split", default="val", choices=["val", "test"], help="test: clips on which nothing was tuned"),
    option("--protocol", metavar="VIEWS", help=f"{VIEWS} (default: the one clip of a run's validation)"),
    option("--order", nargs="+", default=["normal"], choices=ORDERS),
    option("--out", type=Path, help="folder for predictions, confusion matrix and scores; the same command goes on"),
    option("--batch-size", type=whole(1), default=32, help="views that the model sees at a time (default: 32)"),
    option("--workers", type=whole(0), help="loader processes (default: by the number of cores)"),
    CLASSES,
    option("--device", help="cpu, cuda, mps (default: the NVIDIA GPU if there is one, else the CPU)"),
)
def evaluate(args) -> int:
    from vt_course.machine import pick_device
    from vt_course.training import ranks
    from vt_course.training.evaluate import open_clips
    from vt_course.training.protocols import protocol_named
    from vt_course.training.scores import measure

    if args.out and len(args.order) > 1:
        raise CourseError("--out keeps one evaluation: give one --order with it")
    trained = opened(args)
    protocol = protocol_named(args.protocol, trained.family) if args.protocol else None
    clips = open_clips(trained, args.data, args.split, protocol)
    told = dict(out=args.out, batch_size=args.batch_size, workers=args.workers, progress=not args.json)
    with ranks.group(pick_device(args.device)) as device:
        views = protocol or trained.protocol
        rows = [measure(trained, clips, views, order=order, device=device, **told) for order in args.order]
    if leads():
        print_json(rows) if args.json else print_accuracy(rows, args.out)
    return 0


def percent(share: float, ends=None) -> str:
    """A share in percent, with its interval if there is one: "91.2 (88.0 to 93.6)"."""
    return f"{100 * share:.1f}" + (f" ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})" if ends else "")


def print_accuracy(rows: list[dict], out: Path | None) -> None:
    """Print the results of `scores.measure`: a table, and of a single result its classes and its views."""
    columns = {"order": "frames", "views": "views", "n": "clips", "top1": "top-1 %, 95 % interval", "top5": "top-5 %"}
    columns |= {"mean": "mean class %", "error": "calibration error %", "chance": "chance %"}
    print_table(
        [
            row
            | {
                "top1": percent(row["top1"], row["top1_interval"]),
                "top5": percent(row["top5"]) if "top5" in row else None,
                "mean": percent(row["mean_class"], row["mean_class_interval"]),
                "error": percent(row["calibration"]["error"]),
                "chance": percent(1 / len(row["classes"])),
            }
            for row in rows
        ],
        columns,
    )
    if len(rows) == 1:
        [row] = rows
        ends = row["per_class_interval"]
        if len(ends) <= 40:
            print()
            print_table(
                [
                    {"name": name, "n": row["counts"][name], "top1": percent(row["per_class"][name], ends[name])}
                    for name in ends
                ],
                {"name": "class", "n": "clips", "top1": "right %, 95 % interval"},
            )
        if row["growth"]:
            print()
            print_table(
                [{**few, "top1": percent(few["top1"])} for few in row["growth"]],
                {"clips": "clips", "crops": "crops", "top1": "top-1 % with so many views"},
            )
        if row["bad"]:
            print(f"\n{len(row['bad'])} clips could not be read, the first: {row['bad'][0][1]}")
    if out:
        print(f"\npredictions, classes, confusion matrix and the scores of all views are in {out}")


def seconds(text: str) -> float:
    """The argparse type of a length of time: 10s, 1.5m or a number of seconds."""
    unit = {"s": 1.0, "m": 60.0}.get(text[-1:])
    try:
        value = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        value = math.nan
    if not 0.1 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no length of at least 0.1 seconds, such as 10s or 2m")
    return value


@verb(
    "predict",
    "Say what videos show, as a trained model sees it.",
    "vt-course predict video_swin_mini data/synthetic/clips/val/00000.mp4 --top 3",
    MODEL,
    option("videos", nargs="+", metavar="VIDEO", help="files, and folders of videos"),
    option("--protocol", metavar="VIEWS", help=f"{VIEWS} (default: that of the weights)"),
    option("--top", type=whole(1), default=5, help="how many classes to show (default: 5)"),
    option("--window", type=seconds, metavar="LENGTH", help="an answer for each part of so many seconds, as in 10s"),
    option("--out", type=Path, help="with --window: a folder for the pictures of the time lines"),
    option("--csv", action="store_true", help="print CSV"),
    CLASSES,
    option("--device", help="cpu, cuda, mps (default: the NVIDIA GPU if there is one, else the CPU)"),
)
def predict(args) -> int:
    from vt_course.training.predict import Predictor

    if args.out and not args.window:
        raise CourseError("--out is for the time lines of --window: give both, for instance --window 10s")
    predictor, found = Predictor(opened(args), args.protocol, args.device), []
    try:
        look(predictor, args, found)
    finally:  # after Ctrl-C, what was found so far
        if args.json:
            trained = predictor.trained
            told = {"model": trained.name, "trained_on": trained.trained_on, "classes": trained.classes}
            print_json(told | {"protocol": predictor.protocol.name, "caution": predictor.caution, "videos": found})
        elif answers(found):
            (print_answers_csv if args.csv else print_answers)(found)
            print(predictor.caution, file=sys.stderr if args.csv else sys.stdout)
    return 2 if any("error" in one for one in found) else 0


def look(predictor, args, found: list[dict]) -> None:
    """Look at all videos that were given, and append what each shows to `found`, or why it could not be read."""
    from tqdm import tqdm

    from vt_course.training.predict import draw_time_line, videos_at

    def attempt(path, work) -> None:
        try:
            work()
        except CourseError as error:
            tell(error)
            found.append({"path": str(path), "error": str(error)})

    def look_at(path) -> None:
        if not args.window:
            found.append(predictor(path, args.top))
            return
        rows, every = [], predictor.windows(path, args.window, len(predictor.trained.classes))
        try:
            for row in tqdm(every, desc=path, unit="window", leave=False, disable=args.json):
                rows.append(row)
        finally:  # a film may be damaged in the middle
            if rows:
                few = [row | {"classes": row["classes"][: args.top]} for row in rows]
                found.append({"path": path, "windows": few})
        if args.out:
            draw_time_line(rows, args.out)

    for given in args.videos:
        videos = []
        attempt(given, lambda: videos.extend(videos_at(given)))
        for path in videos:
            attempt(path, lambda: look_at(path))


def answers(found: list[dict]) -> list[dict]:
    """What `predict` found, one dict for each video or window of a video that could be read."""
    return [row for one in found if "error" not in one for row in one.get("windows", [one])]


def print_answers_csv(found: list[dict]) -> None:
    lines = csv.writer(sys.stdout, lineterminator="\n")
    lines.writerow(["path", "start", "end", "place", "class", "probability"])
    for row in answers(found):
        for place, each in enumerate(row["classes"], 1):
            when = (row.get("start", ""), row.get("end", ""))
            lines.writerow([row["path"], *when, place, each["class"], f"{each['probability']:.6f}"])


def print_answers(found: list[dict]) -> None:
    """A table with a row for each video or window: the most probable class, and those that follow."""
    rows = answers(found)
    for row in rows:
        first, *others = row["classes"]
        row |= {"class": first["class"], "probability": percent(first["probability"])}
        row["next"] = ", ".join(f"{one['class']} {percent(one['probability'])}" for one in others)
        if "start" in row:
            row |= {edge: clock(row[edge]) for edge in ("start", "end")}
    columns = {
        "path": "video",
        "start": "from",
        "end": "to",
        "class": "class",
        "probability": "%",
        "next": "then, in %",
    }
    if rows:
        print_table(rows, {key: head for key, head in columns.items() if any(row.get(key) for row in rows)})
    for row in rows:
        if row.get("note"):
            print(f"{row['path']}: {row['note']}")


def clock(time: float) -> str:
    """Seconds as h:mm:ss, with a tenth of a second if there is one."""
    whole_part = int(time)
    text = f"{whole_part // 3600}:{whole_part // 60 % 60:02}:{whole_part % 60:02}"
    return text + (f".{int(10 * (time - whole_part))}" if time - whole_part >= 0.1 else "")


@verb(
    "explain",
    "Draw on a video what a model's answer rests on, or where it looks.",
    "vt-course explain video_swin_mini data/synthetic/clips/val/00000.mp4 --out explain.png --class left",
    MODEL,
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
    CLASSES,
)
def explain(args) -> int:
    from vt_course.files import atomic_write
    from vt_course.training.curves import figure_bytes
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
    clip, found, classes = explain_run(opened(args), args.video, args.method, **options)
    name, share = classes[found.target], 100 * found.probability
    title = f"{args.video.name}, {name} ({share:.1f} %): {found.method}, {found.shows}"
    atomic_write(args.out, figure_bytes(explanation(clip, found.map, title, found.caveat), dpi=160))
    if args.json:
        facts = dict(method=found.method, shows=found.shows, probability=found.probability, caveat=found.caveat)
        print_json({"out": args.out, "class": name, **facts, "map": found.map.tolist()})
    else:
        print(f"{title}; the picture is {args.out}\n{found.caveat}")
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
