"""Verbs that use a trained model: how often it is right, what it says about videos, and what its answer rests on."""

import argparse
import csv
import itertools
import math
import sys
from pathlib import Path

from vt_course import CourseError, need
from vt_course.cli.common import leads, option, print_json, print_table, tell, verb, whole
from vt_course.training.recipes import ORDERS

MODEL_HELP = (
    "run folder, .safetensors file, a *_mini, or a name from `vt-course weights list` (downloaded on first use)"
)
MODEL = option("run", metavar="RUN|NAME", help=MODEL_HELP)
FAMILY = "family"  # as a protocol: each model's own
VIEWS = "swin, mvit, timesformer, uniformer, each also with -ssv2; timesformer-paper; centre; or clips x crops, as 4x3"
CLASSES = option("--classes", type=Path, metavar="FILE", help="names of the classes, one a line, in the head's order")


def opened(args, name=None):
    """The model that a user names (`args.run`, if there is no `name`), as `trained.open_model` opens it."""
    from vt_course.fetch.weights import located
    from vt_course.training.trained import name_classes, open_model

    trained = open_model(located(name or args.run, progress=not args.json))
    return name_classes(trained, args.classes) if args.classes else trained


@verb(
    "evaluate",
    "Accuracy of runs or of published weights, by the views of each paper, frames in order or not.",
    "vt-course evaluate runs/a --protocol swin --out results/a",
    option("runs", nargs="+", metavar="RUN|NAME", help=f"{MODEL_HELP}; several give a table with a row for each"),
    option("--data", help="as for `train`, also csv:LIST.csv (default: what it was trained on)"),
    option("--split", default="val", choices=["val", "test"], help="test: clips on which nothing was tuned"),
    option(
        "--protocol",
        metavar="VIEWS",
        help=f"{VIEWS}; family: that of each model's paper (default: the one clip of a run's validation)",
    ),
    option("--order", nargs="+", default=["normal"], choices=ORDERS),
    option(
        "--out",
        type=Path,
        help="folder for predictions, confusion matrix and scores (of several runs: a folder in it for each); the same "
        "command goes on",
    ),
    option("--batch-size", type=whole(1), default=32, help="views that the model sees at a time (default: 32)"),
    option("--workers", type=whole(0), help="loader processes (default: by the number of cores)"),
    CLASSES,
    option("--device", help="cpu, cuda, mps (default: the NVIDIA GPU if there is one, else the CPU)"),
)
def evaluate(args) -> int:
    from vt_course.machine import pick_device
    from vt_course.training import ranks

    need(not args.out or len(args.order) == 1, "--out keeps one evaluation of a run: give one --order with it")
    folders = out_folders(args.runs, args.out)
    rows = []
    try:
        with ranks.group(pick_device(args.device)) as device:
            for name, folder in zip(args.runs, folders):
                rows += evaluations(args, name, folder, device)
    finally:  # if one of several runs cannot be read, the others are not lost
        if rows and leads():
            print_json(rows) if args.json else print_accuracy(rows, args.out)
    return 0


def out_folders(runs: list[str], out: Path | None) -> list[Path | None]:
    """For each run, the folder of its evaluation: `out`, or of several runs one in it, named like the run.

    Raises `CourseError` for runs whose names are the same.
    """
    if out is None or len(runs) == 1:
        return [out] * len(runs)
    names = [run_name(name) for name in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    need(not twice, f"several of the runs are named {', '.join(twice)}: evaluate them with an --out folder each")
    return [out / name for name in names]


def run_name(run: str) -> str:
    """What a run is called in a table: its folder, or the name of published weights with a - for each /."""
    path = Path(run)
    if path.suffix == ".safetensors":
        path = path.parent if path.stem in ("best", "last") else path.with_suffix("")
    return path.resolve().name if path.exists() else run.replace("/", "-")


def evaluations(args, name: str, folder: Path | None, device) -> list[dict]:
    """The results of one run, one for each order of frames."""
    from vt_course.training.evaluate import open_clips
    from vt_course.training.protocols import PROTOCOLS, protocol_named
    from vt_course.training.scores import measure

    trained = opened(args, name)
    if args.protocol == FAMILY:
        protocol = PROTOCOLS[trained.family]
    else:
        protocol = protocol_named(args.protocol, trained.family) if args.protocol else None
    clips = open_clips(trained, args.data, args.split, protocol)
    told = dict(out=folder, batch_size=args.batch_size, workers=args.workers, progress=not args.json)
    views = protocol or trained.protocol
    return [measure(trained, clips, views, order=order, device=device, **told) for order in args.order]


def percent(share: float, ends=None) -> str:
    """A share in percent, with its interval if there is one: "91.2 (88.0 to 93.6)"."""
    return f"{100 * share:.1f}" + (f" ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})" if ends else "")


def print_accuracy(rows: list[dict], out: Path | None) -> None:
    """Print the results of `scores.measure`: a table, and of a single result its classes and its views."""
    several = len({row["model"] for row in rows}) > 1
    columns = {"run": "run", "protocol": "protocol"} if several else {}
    columns |= {"order": "frames", "views": "views", "n": "clips", "top1": "top-1 %, 95 % interval", "top5": "top-5 %"}
    columns |= {"mean": "mean class %", "error": "calibration error %", "chance": "chance %"}
    print_table(
        [
            row
            | {
                "run": run_name(row["model"]),
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
    from vt_course.machine import pick_device
    from vt_course.training import ranks
    from vt_course.training.predict import Predictor

    if args.out and not args.window:
        raise CourseError("--out is for the time lines of --window: give both, for instance --window 10s")
    with ranks.group(pick_device(args.device)) as device:
        predictor, found = Predictor(opened(args), args.protocol, device), []
        ranks.same({"weights": predictor.trained.identity})
        try:
            look(predictor, args, found)
        finally:  # after Ctrl-C, what was found so far
            if leads():
                print_found(predictor, args, found)
    return 2 if any("error" in one for one in found) else 0


def print_found(predictor, args, found: list[dict]) -> None:
    """Print what `predict` found, as JSON, CSV or a table."""
    if args.json:
        trained = predictor.trained
        told = {"model": trained.name, "trained_on": trained.trained_on, "classes": trained.classes}
        print_json(told | {"protocol": predictor.protocol.name, "caution": predictor.caution, "videos": found})
    elif answers(found):
        (print_answers_csv if args.csv else print_answers)(found)
        print(predictor.caution, file=sys.stderr if args.csv else sys.stdout)


def look(predictor, args, found: list[dict]) -> None:
    """Look at all videos that were given, and append what each shows to `found`, or why it could not be read.

    Of several ranks, each looks at one video in a round. Rank 0 tells the errors and draws.
    """
    from tqdm import tqdm

    from vt_course.training import ranks
    from vt_course.training.predict import draw_time_line, videos_at

    def attempt(path, work, found: list[dict]) -> None:
        try:
            work()
        except CourseError as error:
            found.append({"path": str(path), "error": str(error)})

    def look_at(path, found: list[dict]) -> None:
        if not args.window:
            found.append(predictor(path, args.top))
            return
        rows, every = [], predictor.windows(path, args.window, len(predictor.trained.classes))
        try:
            for row in tqdm(every, desc=path, unit="window", leave=False, disable=args.json):
                rows.append(row)
        finally:  # a film may be damaged in the middle
            if rows:
                found.append({"path": path, "windows": rows})

    def take(one: dict) -> None:
        """Append what was found of a video. Rank 0 draws it, or tells why it could not be read."""
        found.append(one)
        failed = []
        if "error" in one and leads():
            tell(one["error"])
        if "windows" in one and args.out and leads():
            attempt(one["path"], lambda: draw_time_line(one["windows"], args.out), failed)
        if "windows" in one:
            one["windows"] = [row | {"classes": row["classes"][: args.top]} for row in one["windows"]]
        for each in failed:
            take(each)

    def listed() -> list:
        """The path of each video, or what is wrong with a name that was given."""
        videos = []
        for given in args.videos:
            attempt(given, lambda: videos.extend(videos_at(given)), videos)
        return videos

    videos = ranks.by_leader(listed)
    for first in range(0, len(videos), ranks.world()):
        mine = []  # of this rank: what it finds in one video
        try:
            for path in videos[first : first + ranks.world()][ranks.rank() :][:1]:
                if isinstance(path, dict):
                    mine.append(path)
                else:
                    attempt(path, lambda: look_at(path, mine), mine)
        except BaseException:
            for one in mine:
                take(one)
            raise
        for one in itertools.chain(*ranks.gather(mine)):
            take(one)


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
