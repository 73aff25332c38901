"""`vt-course VERB`: the one command-line entry. Verbs parse, call and print; the work is done elsewhere.

Exit codes: 0 done, 1 something that was checked is wrong (a failing notebook), 2 input that the user can mend
(one sentence on stderr), 130 interrupted, 141 whoever read our output is gone (as in `| head`).
"""
import argparse
import json
import math
import os
import sys
from pathlib import Path

import vt_course
from vt_course import CourseError, __version__
from vt_course.publish import NotebookFailed

# Before torch starts its threads: let them sleep while they wait, or training with a loader beside it loses
# most of a small machine to spinning.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def print_json(value) -> None:
    print(json.dumps(value, indent=2, default=str))


def print_table(rows: list[dict], columns: dict[str, str]) -> None:
    """`columns` maps a key of the rows to its heading. Numbers are aligned right."""
    def text(value):
        return "" if value is None else f"{value:,.2f}" if isinstance(value, float) else str(value)
    cells = [list(columns.values())] + [[text(row.get(k)) for k in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    right = [any(isinstance(row.get(k), (int, float)) for row in rows) for k in columns]
    for line in cells:
        print("  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right)).rstrip())


# ---------------------------------------------------------------- verbs

def doctor(args) -> int:
    from vt_course.doctor import report, render
    facts = report()
    print_json(facts) if args.json else print(render(facts))
    return 0


def data_synthetic(args) -> int:
    from vt_course.data.synthetic import render
    summary = render(args.out, clips=args.clips, frames=args.frames, size=args.size, seed=args.seed,
                     workers=args.workers, progress=not args.json)
    if args.json:
        print_json(summary)
    elif summary["rendered"] or not args.quiet_if_complete:
        print(f"{summary['out']}: {sum(args.clips):,} clips, {summary['bytes'] / 1e6:.0f} MB, "
              f"{summary['rendered']} rendered now in {summary['seconds']:.0f} s")
    return 0


def data_kinetics(args) -> int:
    from vt_course.fetch.kinetics import kinetics
    args.out = args.out or vt_course.data_root() / "kinetics"
    done = kinetics(args.out, classes=args.classes, preset=args.preset, clips_per_class=args.clips_per_class, splits=args.split,
                    version=args.version, cc_only=args.cc_only, base_url=args.mirror, workers=args.workers,
                    keep_archives=args.keep_archives, skip=args.skip, dry_run=args.dry_run, progress=not args.json)
    if args.json:
        print_json(done)
    elif not args.dry_run:                       # the estimate was printed to stderr already
        for split, n in done["clips"].items():
            print(f"{args.out / split}.csv: {n:,} clips")
        for split, classes in done["short"].items():
            for label, n in classes.items():
                print(f"{split}, {label}: only {n}, the mirror has no more")
        print(f"train with --data csv:{args.out / 'train.csv'},{args.out / 'val.csv'}")
    return 1 if any(done.get("short", {}).values()) else 0


def data_prepare(args) -> int:
    from vt_course.data.prepare import prepare
    row = prepare(args.src, args.out, args.short_side, args.fps, args.seconds, args.workers, progress=not args.json)
    if args.json:
        print_json(row)
    else:
        print(f"{row['out']}: {row['clips'] - row['failed']:,} of {row['clips']:,} clips, {row['bytes'] / 1e6:.0f} MB, "
              f"{row['encoded']:,} encoded now in {row['seconds']:.0f} s")
        if row["failed"]:
            print(f"{row['failed']:,} failed; {args.out / 'quarantine.csv'} says why")
        if row["left_out"]:
            print(f"{row['left_out']:,} files left out, no videos by their names; {args.out / 'left_out.csv'} names them")
    return 0


def data_shard(args) -> int:
    from vt_course.data.shards import shard
    args.out = args.out or Path(f"{args.folder}-shards")
    row = shard(args.folder, args.out, args.shard_mb * 1_000_000, progress=not args.json)
    if args.json:
        print_json(row)
    else:
        for note in row["notes"]:                # how a folder was split, what is missing
            print(f"vt-course: {note}", file=sys.stderr)
        print(f"{row['out']}: {row['clips']:,} clips in {row['shards']:,} shards, {row['bytes'] / 1e6:.0f} MB, "
              f"{row['written']:,} written now in {row['seconds']:.0f} s")
        if row["left_out"]:
            print(f"{row['left_out']:,} clips left out; {args.out / 'left_out.csv'} says why")
        print(f"train with --data shards:{args.out}")
    return 0


def data_verify(args) -> int:
    from vt_course.data.prepare import verify_folder
    rows = verify_folder(args.folder, report=args.report, timeout=args.timeout, workers=args.workers, progress=not args.json)
    count = {status: sum(row["status"] == status for row in rows) for status in ("ok", "corrupt", "short", "missing", "timeout")}
    if args.json:
        print_json(rows)
    else:
        bad = [row for row in rows if row["status"] != "ok"]
        if bad:
            print_table(bad[:50], {k: k for k in ("path", "status", "frames", "seconds", "reason")})
        print(", ".join(f"{n:,} {status}" for status, n in count.items()) + f"; {args.report or args.folder / 'report.csv'}")
    return 2 if count["missing"] else 1 if count["corrupt"] or count["timeout"] else 0


def data_stats(args) -> int:
    from vt_course.data.prepare import advice, probe_folder, stats
    notes = []
    clips = probe_folder(args.folder, workers=args.workers, progress=not args.json, notes=notes)
    rows = stats(clips)
    if args.figure:
        from vt_course.lab.show.dataset import dataset
        dataset(clips, str(args.folder)).savefig(args.figure)
    if args.json:
        print_json(rows)
    else:
        for note in notes + advice(clips):
            print(f"vt-course: {note}", file=sys.stderr)
        print_table(rows, {"label": "class", "train": "train", "val": "val", "unreadable": "unreadable", "shortest": "shortest s",
                           "median": "median s", "longest": "longest s", "minutes": "minutes", "usual_size": "usual size",
                           "sizes": "sizes", "mb": "MB"})
    return 0


def bench_decode(args) -> int:
    from vt_course.claims.bench_data import bench_decode, table
    rows = bench_decode(args.files, frames=args.frames, stride=args.stride, short_side=args.short_side,
                        repeats=args.repeats)
    print_json(rows) if args.json else print(table(rows))
    return 0


def bench_loader(args) -> int:
    from vt_course.claims.bench_data import bench_loader
    rows = bench_loader(args.files, frames=args.frames, span=args.span, size=args.size, repeats=args.repeats)
    if args.json:
        print_json(rows)
    else:
        print_table(rows, {"frames": "frames", "stride": "stride", "peer": "peer", "clips_per_second": "ours, clips/s",
                           "peer_clips_per_second": "peer's", "ratio": "ratio", "max_difference": "max diff / 255"})
    return 0


def models(args) -> int:
    from vt_course.models.zoo import table
    rows = table()
    if args.json:
        print_json(rows)
    else:
        print_table(rows, {"name": "model", "input": "input", "params": "params M", "params_stated": "stated",
                           "params_diff": "diff %", "gmacs": "GMACs", "gmacs_stated": "stated", "gmacs_diff": "diff %",
                           "accuracy": "stated accuracy", "views": "views"})
    return 0


def bench_models(args) -> int:
    import torch

    from vt_course.claims.bench_models import bench_models, geometric_mean
    from vt_course.training.fit import machine
    rows = bench_models(args.names, device=args.device, compile=args.compile, seconds=args.seconds,
                        progress=lambda text: print(text, file=sys.stderr))
    modes = dict.fromkeys(row["mode"] for row in rows)
    means = {mode: geometric_mean([r for r in rows if r["mode"] == mode]) for mode in modes}
    if args.json:
        print_json({**machine(torch.device(args.device)), "geometric_mean": means, "rows": rows})
        return 0
    print_table(rows, {"model": "model", "peer": "peer", "pass": "pass", "mode": "mode", "batch": "batch", "turns": "turns",
                       "ours_ms": "ours ms", "peer_ms": "peer ms", "ratio": "ratio", "ratio_error": "±", "clips_per_second": "clips/s", "peak_mb": "peak MB",
                       "peer_peak_mb": "peer's", "matmul_share": "of matmul"})
    for mode, mean in means.items():
        print(f"geometric mean of the ratios, {mode}: {mean:.2f}")
    return 0


def bench_growth(args) -> int:
    import torch

    from vt_course.claims.bench_models import bench_growth
    from vt_course.training.fit import machine
    rows = bench_growth(args.device, args.repeats)
    if args.json:
        print_json({**machine(torch.device(args.device)), "rows": rows})
    else:
        print_table(rows, {k: k for k in rows[0]})
    return 0


def verify(args) -> int:
    from vt_course.claims.golden import verify
    rows = []
    for row in verify(args.folder):
        rows.append(row)
        if not args.json:
            numbers = "  ".join(f"{'        ' if row[k] is None else format(row[k], '8.1e')}" for k in ("max_abs", "max_abs_f64"))
            print(f"{'pass' if row['passed'] else 'FAIL'}  {row['case']:<44}  {numbers}  {row['problem']}".rstrip(), flush=True)
    failed = sum(not row["passed"] for row in rows)
    if args.json:
        print_json(rows)
    else:
        print(f"{len(rows)} cases, {failed} failed; the numbers are the largest differences from the recorded output in float32 and in float64")
    return 1 if failed else 0


def weights_list(args) -> int:
    from vt_course.fetch import weights as released
    rows = released.table()
    if args.json:
        print_json(rows)
    else:
        print_table(rows, {"name": "name", "licence": "licence", "weights_mb": "MB", "url": "address"})
    return 0


def weights_get(args) -> int:
    from vt_course.fetch import weights as released
    row = released.row(args.name)
    if not args.json:
        print(f"{args.name}: {row['url']}\nlicence of the weights: {row['licence']}; {row['weights_mb']:,.0f} MB of weights", file=sys.stderr)
    path = released.get(args.name, args.out, progress=not args.json)
    print_json(row | {"path": path}) if args.json else print(path)
    return 0


def train(args) -> int:
    from vt_course.data import open_spec
    from vt_course.data.clips import read_manifest
    from vt_course.data.prepare import advice_on
    from vt_course.training.fit import fit
    from vt_course.training.recipes import recipe_for
    recipe = recipe_for(args.model).override([f"data={args.data}"] * bool(args.data) + args.set)
    recipe_for(recipe.model)                     # `--set model=...` may name one that does not exist
    if leads():
        spec = open_spec(recipe.data)
        rows = read_manifest(spec.train) if isinstance(spec.train, Path) else spec.train or []
        for note in [*spec.notes, *advice_on(rows)]:    # how a folder was split, what was left out, what would be quicker
            print(f"vt-course: {note}", file=sys.stderr)
    summary = fit(recipe, args.out, resume=not args.no_resume, device=args.device, workers=args.workers,
                  max_steps=args.max_steps, progress=not args.json)
    if args.json and leads():
        print_json(summary)
    return 0


def leads() -> bool:
    """Whether this process speaks for the run: of those that torchrun starts, the first (training/ranks.py)."""
    return "LOCAL_RANK" not in os.environ or os.environ["RANK"] == "0"


def evaluate(args) -> int:
    from vt_course.training.evaluate import evaluate_run
    rows = [evaluate_run(args.run, data=args.data, order=order, device=args.device, progress=not args.json)
            for order in args.order]
    if args.json:
        print_json(rows)
    else:
        print_table([{**r, "top1": 100 * r["top1"], "stderr": 100 * r["stderr"]} for r in rows],
                    {"order": "frames", "n": "clips", "top1": "top-1 %", "stderr": "± %"})
    return 0


def need_data() -> None:
    """Render the embedded data set where it is not there yet."""
    if not (vt_course.data_root() / "synthetic" / "config.json").is_file():
        from vt_course.data.synthetic import render
        render()


def build(args) -> int:
    from vt_course.publish.build import build
    need_data()
    rows = build(args.names or None, profile=args.profile, check=args.check)
    if args.json:
        print_json(rows)
    else:
        print_table(rows, {k: k for k in rows[0]} if rows else {})
    return 0


def course(args) -> int:
    from vt_course.publish.course import run_course
    need_data()
    rows = run_course(args.names or None, profile=args.profile, unsolved=args.unsolved, out=args.out, progress=not args.json,
                      workers=args.workers)
    if args.json:
        print_json(rows)
    return 0


def test(args) -> int:
    from vt_course.publish.suite import run_suite, verdict
    need_data()
    rows = run_suite(args.stages or None, quick=args.quick)
    print_json(rows) if args.json else print(verdict(rows))
    return 0 if all(row["passed"] for row in rows) else 1


def lab(args) -> int:
    import subprocess
    need_data()
    return subprocess.call([sys.executable, "-m", "jupyterlab", f"--notebook-dir={vt_course.repo_root() / 'notebooks'}", *args.options])


def student(args) -> int:
    from vt_course.publish.student import student
    rows = student(args.names or None, out=args.out)
    print_json(rows) if args.json else print_table(rows, {"notebook": "notebook", "exercises": "exercises", "output": "student edition"})
    return 0


def progress(args) -> int:
    from vt_course.lab.progress import progress_file, table
    rows = table()
    if args.json:
        print_json(rows)
    else:
        print_table(rows, {"exercise": "exercise", "title": "title", "passed": "check passed"})
        done = sum(row["passed"] is not None for row in rows)
        print(f"{done} of {len(rows)} checks passed; kept in {progress_file()}, sent nowhere")
    return 0


# ---------------------------------------------------------------- arguments

def pair(text: str) -> tuple[int, int]:
    try:
        train, val = (int(n) for n in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not TRAIN,VAL, for instance 1600,400") from None
    return train, val


def whole(least: int):
    """The argparse type of a whole number that is at least `least`."""
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)
    return parse


def counts(text: str) -> tuple[int, ...]:
    """The argparse type of N for every split, or N,M for train and val."""
    numbers = text.split(",")
    if len(numbers) > 2 or not all(n.strip().isdecimal() and int(n) > 0 for n in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not N or N,M, for instance 50 or 50,20")
    return (int(numbers[0]), int(numbers[-1]))


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def number_or(word: str, least: float, most: float):
    """The argparse type of a number from `least` to `most`, or of `word`, which is None."""
    def parse(text: str) -> float | None:
        try:
            value = least if text == word else float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is neither {word} nor a number from {least:g} to {most:g}")
        return None if text == word else value
    return parse


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="vt-course", description=vt_course.__doc__,
                                  epilog="`vt-course VERB --help` shows an example of each verb.")
    top.add_argument("--version", action="version", version=f"vt-course {__version__}")
    verbs = top.add_subparsers(metavar="VERB", required=True)

    def verb(group, name, run, help, example):
        p = group.add_parser(name, help=help, description=help, epilog=f"example: {example}")
        p.set_defaults(verb=run)
        p.add_argument("--json", action="store_true", help="print the result as JSON, nothing else")
        return p

    verb(verbs, "doctor", doctor, "Report versions, hardware, data and what is missing, for a bug report.",
         "vt-course doctor")

    data = verbs.add_parser("data", help="Make, fetch, prepare and check data.", description="Make, fetch, prepare and check data.",
                            epilog="example: vt-course data synthetic").add_subparsers(metavar="WHAT", required=True)
    p = verb(data, "synthetic", data_synthetic, "Render the embedded data set: real mp4 clips with exact ceilings.",
             "vt-course data synthetic --clips 64,16 --frames 16 --size 64 --out data/small")
    p.add_argument("--out", type=Path, help="folder (default: data/synthetic)")
    p.add_argument("--clips", type=pair, default=(1600, 400), metavar="TRAIN,VAL", help="default 1600,400")
    p.add_argument("--frames", type=whole(1), default=32, help="frames a clip (default 32)")
    p.add_argument("--size", type=whole(1), default=112, help="height and width in pixels (default 112)")
    p.add_argument("--seed", type=whole(0), default=0)
    p.add_argument("--workers", type=whole(0), help="processes (default: one a core)")
    p.add_argument("--quiet-if-complete", action="store_true", help="print nothing when there was nothing to do")

    p = verb(data, "kinetics", data_kinetics, "Fetch some classes of Kinetics from the CVDF mirror; run it again to go on.",
             "vt-course data kinetics --preset tiny10 --dry-run")
    which = p.add_mutually_exclusive_group(required=True)
    which.add_argument("--classes", type=words, metavar="A,B,...", help="names as in the official list: archery,playing harp")
    which.add_argument("--preset", choices=("tiny10", "mini200"),
                       help="tiny10: the course's own 10 classes, 50+20 clips each; mini200: the 200 largest classes, 400+25")
    p.add_argument("--clips-per-class", type=counts, metavar="N[,M]", help="for every split, or for train,val (default: the preset's, or 50,20)")
    p.add_argument("--split", type=words, default=("train", "val"), metavar="A,B", help="default train,val")
    p.add_argument("--out", type=Path, help="folder (default: data/kinetics)")
    p.add_argument("--version", choices=("400", "700-2020"), default="400",
                   help="archives of 400 (the default) mix all classes, those of 700-2020 hold one each; never both in one folder")
    p.add_argument("--cc-only", action="store_true", help="only videos under Creative Commons (Kinetics-400: 2.6 %%)")
    p.add_argument("--dry-run", action="store_true", help="fetch only the lists (20 MB) and say what is to come")
    p.add_argument("--workers", type=whole(1), default=4, help="archives fetched at a time, 1.5 GB of disk each (default 4)")
    p.add_argument("--keep-archives", action="store_true")
    p.add_argument("--skip", action="append", default=[], metavar="PART", help="leave an archive out, for instance train/part_7.tar.gz (may be repeated)")
    p.add_argument("--mirror", default="https://s3.amazonaws.com/kinetics", metavar="URL", help="a copy with the same layout")

    p = verb(data, "prepare", data_prepare, "Encode a folder of videos again, small and quick to read; run it again to go on.",
             "vt-course data prepare videos --out data/videos --short-side 256 --fps keep --seconds 10")
    p.add_argument("src", type=Path, help="folder of videos, any layout")
    p.add_argument("--out", type=Path, required=True, help="folder for the result, in the same layout")
    p.add_argument("--short-side", type=whole(16), default=256, help="pixels; smaller pictures stay (default 256)")
    p.add_argument("--fps", type=number_or("keep", 0.01, 1000), metavar="keep|N", help="frames a second, or keep those of the source (default keep)")
    p.add_argument("--seconds", type=number_or("all", 0.01, 100_000), default=10.0, metavar="N|all", help="the first so many seconds, or all (default 10)")
    p.add_argument("--workers", type=whole(1), help="processes (default: one a core)")

    p = verb(data, "shard", data_shard, "Pack a folder of videos into tar files (WebDataset layout) for large data; run it again to go on.",
             "vt-course data shard data/videos --out data/shards --shard-mb 500")
    p.add_argument("folder", type=Path, help="folder of videos, any layout that --data folder:PATH reads")
    p.add_argument("--out", type=Path, help="folder for the shards (default: FOLDER-shards)")
    p.add_argument("--shard-mb", type=whole(1), default=1000, help="size of a shard, about (default 1000)")

    p = verb(data, "verify", data_verify, "Decode every clip of a folder; writes report.csv; exits 2 if a promised clip is missing.",
             "vt-course data verify data/kinetics")
    p.add_argument("folder", type=Path)
    p.add_argument("--report", type=Path, help="CSV file (default: report.csv in the folder)")
    p.add_argument("--timeout", type=whole(1), default=60, help="seconds a clip may take (default 60); a long one gets more")
    p.add_argument("--workers", type=whole(1), help="processes (default: one a core)")

    p = verb(data, "stats", data_stats, "Classes, clips, lengths and sizes of a folder of videos.",
             "vt-course data stats data/kinetics --figure stats.png")
    p.add_argument("folder", type=Path)
    p.add_argument("--figure", type=Path, metavar="FILE.png", help="draw clips a class and their lengths, too")
    p.add_argument("--workers", type=whole(1), help="processes (default: one a core)")

    bench = verbs.add_parser("bench", help="Measure.", description="Measure.",
                             epilog="example: vt-course bench decode clip.mp4").add_subparsers(metavar="WHAT", required=True)
    p = verb(bench, "decode", bench_decode, "Our reader, decord, PyAV and torchcodec on the same files, side by side.",
             "vt-course bench decode clip.mp4 other.mp4 --frames 16 --short-side 256")
    p.add_argument("files", type=Path, nargs="+")
    p.add_argument("--frames", type=whole(1), default=16, help="frames a clip (default 16)")
    p.add_argument("--stride", type=whole(1), default=2, help="frames from one to the next (default 2)")
    p.add_argument("--short-side", type=whole(1), help="resize while decoding (default: as it is)")
    p.add_argument("--repeats", type=whole(1), default=5, help="medians of this many (default 5)")

    p = verb(bench, "loader", bench_loader, "Training clips a second on one core: ours beside loaders built on other decoders.",
             "vt-course bench loader clip.mp4 other.mp4 --frames 8 16 32")
    p.add_argument("files", type=Path, nargs="+")
    p.add_argument("--frames", type=whole(1), nargs="+", default=[8, 16, 32], help="frames a clip (default 8 16 32)")
    p.add_argument("--span", type=whole(1), default=64, help="frames from first to last; the stride is this over frames (default 64)")
    p.add_argument("--size", type=whole(1), default=224, help="height and width of the model's input (default 224)")
    p.add_argument("--repeats", type=whole(1), default=5, help="medians of this many (default 5)")

    p = verb(bench, "models", bench_models, "Compare our models with other libraries' on the same weights, side by side.",
             "vt-course bench models swin_tiny video_swin_tiny --seconds 10")
    p.add_argument("names", nargs="*", help="pairs, for instance video_swin_tiny (default: all whose library is installed)")
    p.add_argument("--device", default="cpu", help="cpu (float32, the default) or cuda (bf16)")
    p.add_argument("--compile", action="store_true", help="add rows for torch.compile")
    p.add_argument("--seconds", type=whole(0), default=60, help="take turns for so long a pass, at least 7 times (default 60)")

    p = verb(bench, "growth", bench_growth, "How the cost of each family's attention grows with frames and with height and width.",
             "vt-course bench growth --json")
    p.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    p.add_argument("--repeats", type=whole(1), default=3, help="medians of this many (default 3)")

    p = verb(verbs, "verify", verify, "Prove our models equal to recorded outputs of the official code.",
             "vt-course verify tests/golden")
    p.add_argument("folder", type=Path, help="NAME.json beside NAME.npz, in the format of tests/golden/README.md")

    weights = verbs.add_parser("weights", help="Official weights.", description="Official weights.",
                               epilog="example: vt-course weights list").add_subparsers(metavar="WHAT", required=True)
    verb(weights, "list", weights_list, "Every official file: address, size, licence.", "vt-course weights list")
    p = verb(weights, "get", weights_get, "Download an official file, check it, and store it as safetensors in our layout.",
             "vt-course weights get swin_tiny/in1k")
    p.add_argument("name", help="a name from `vt-course weights list`")
    p.add_argument("--out", type=Path, help="folder (default: data/weights)")

    verb(verbs, "models", models, "Every published variant: our parameters and MACs beside the stated ones.",
         "vt-course models --json")

    p = verb(verbs, "train", train, "Train a model; run the same command again to resume.",
             "vt-course train video_swin_mini --data synthetic:motion --out runs/a --set epochs=4 lr=5e-4")
    p.add_argument("model", help="a name from `vt-course models`")
    p.add_argument("--data", help="synthetic:motion, synthetic:appearance, images:shapes, csv:TRAIN.csv,VAL.csv, folder:PATH or shards:PATH"
                   " (default: the recipe's)")
    p.add_argument("--out", type=Path, required=True, help="run folder")
    p.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="change settings of the recipe")
    p.add_argument("--device", help="cpu, cuda, mps (default: the NVIDIA GPU if there is one, else the CPU)")
    p.add_argument("--workers", type=whole(0), help="loader processes (default: by the number of cores)")
    p.add_argument("--max-steps", type=whole(1), help="stop after this many optimiser steps in total")
    p.add_argument("--no-resume", action="store_true", help="refuse to continue a run that is already there")

    p = verb(verbs, "evaluate", evaluate, "Accuracy of a run on its validation clips, frames in order or not.",
             "vt-course evaluate runs/a --order normal shuffled single")
    p.add_argument("run", type=Path, help="run folder or .safetensors file")
    p.add_argument("--data", help="default: what it was trained on")
    p.add_argument("--order", nargs="+", default=["normal"], choices=["normal", "shuffled", "reversed", "single"])
    p.add_argument("--device", help="cpu, cuda, mps (default: the NVIDIA GPU if there is one, else the CPU)")

    for name, run, help, example in (
            ("build", build, "Execute notebooks/src/*.py into notebooks/*.ipynb, with outputs.",
             "vt-course build 04_video_swin"),
            ("course", course, "Run every notebook in order into build/notebooks/ and print a table.",
             "vt-course course --profile smoke")):
        p = verb(verbs, name, run, help, example)
        p.add_argument("names", nargs="*", help="notebooks, for instance 04_video_swin (default: all)")
        p.add_argument("--profile", default="smoke", choices=["smoke", "lecture", "full"])
        if name == "build":
            p.add_argument("--check", action="store_true", help="only compare; exit 1 if a notebook is not its source")
        else:
            p.add_argument("--unsolved", action="store_true", help="run the student edition; what it prints must be what the notebooks show")
            p.add_argument("--out", type=Path, help="default: build/notebooks, build/unsolved")
            p.add_argument("--workers", type=whole(1), help="notebooks at the same time (default: by cores and memory)")

    p = verb(verbs, "test", test, "Run all tests in stages: rules, unit tests, notebooks. Results go to build/test.",
             "vt-course test --quick")
    p.add_argument("stages", nargs="*", metavar="STAGE", help="rules, tests, outputs, unsolved (default: all)")
    p.add_argument("--quick", action="store_true", help="rules and the tests that are not slow: 3 minutes")

    p = verb(verbs, "lab", lab, "Open JupyterLab in notebooks/.", "vt-course lab -- --no-browser")
    p.add_argument("options", nargs="*", help="options of JupyterLab, after --")

    p = verb(verbs, "student", student, "Write the student edition: the notebooks without solutions.",
             "vt-course student 04 --out handout")
    p.add_argument("names", nargs="*", help="notebooks, for instance 04_video_swin (default: all)")
    p.add_argument("--out", type=Path, help="default: build/student")
    verb(verbs, "progress", progress, "Which exercises' checks passed in this checkout.", "vt-course progress")
    return top


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):      # a pipe on Windows knows 256 characters; a name need not be valid anywhere
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = args.verb(args)
        sys.stdout.flush()
        return code
    except NotebookFailed as error:
        if args.json:
            print_json(error.rows)
        print(error, file=sys.stderr)
        return 1
    except CourseError as error:
        if leads():
            print(f"vt-course: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:                      # an OSError: must come before it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())        # for the flush at exit
        return 141
    except OSError as error:
        name = f" {error.filename}" if error.filename else ""
        print(f"vt-course:{name}: {error.strerror or error}; check the path, its permissions and the free space.",
              file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if leads():
            print("vt-course: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
