"""`vt-course data ...`: make, fetch, prepare and check data."""

from pathlib import Path

import vt_course
from vt_course.cli.common import (
    PART,
    choice,
    counts,
    number_or,
    option,
    picture,
    print_json,
    print_table,
    set_sizes,
    tell,
    verb,
    whole,
    words,
)
from vt_course.data.decoders import DECODERS


@verb(
    "data synthetic",
    "Render the embedded data set: real mp4 clips with exact ceilings.",
    "vt-course data synthetic --clips 64,16 --frames 16 --size 64 --out data/small",
    option("--out", type=Path, help="folder (default: data/synthetic)"),
    option("--test", action="store_true", help="the 2,000 test clips, which experiments need"),
    option("--clips", type=set_sizes, metavar="TRAIN,VAL", help="default 1600,400; with --test 2000"),
    option("--frames", type=whole(1), default=32, help="frames a clip (default 32)"),
    option("--size", type=whole(1), default=112, help="height and width in pixels (default 112)"),
    option("--seed", type=whole(0), default=0),
    option("--workers", type=whole(0), help="processes (default: one a core)"),
    option("--quiet-if-complete", action="store_true", help="print nothing when there was nothing to do"),
)
def synthetic(args) -> int:
    from vt_course.data.synthetic import render

    summary = render(
        args.out,
        splits=("test",) if args.test else ("train", "val"),
        clips=args.clips,
        frames=args.frames,
        size=args.size,
        seed=args.seed,
        workers=args.workers,
        progress=not args.json,
    )
    if args.json:
        print_json(summary)
    elif summary["rendered"] or not args.quiet_if_complete:
        print(
            f"{summary['out']}: {sum(summary['clips'].values()):,} clips, {summary['bytes'] / 1e6:.0f} MB, "
            f"{summary['rendered']} rendered now in {summary['seconds']:.0f} s"
        )
    return 0


@verb(
    "data kinetics",
    "Fetch some classes of Kinetics from the CVDF mirror; run it again to go on.",
    "vt-course data kinetics --preset tiny10 --dry-run",
    choice(
        option("--classes", type=words, metavar="A,B,...", help="names as in the official list: archery,playing harp"),
        option(
            "--preset",
            choices=("tiny10", "mini200"),
            help="tiny10: the course's own 10 classes, 50+20 clips each; mini200: the 200 largest classes, 400+25",
        ),
    ),
    option(
        "--clips-per-class",
        type=counts,
        metavar="N[,M]",
        help="for every split, or for train,val (default: the preset's, or 50,20)",
    ),
    option("--split", type=words, default=("train", "val"), metavar="A,B", help="default train,val"),
    option("--out", type=Path, help="folder (default: data/kinetics)"),
    option(
        "--version",
        choices=("400", "700-2020"),
        default="400",
        help="archives of 400 (the default) mix all classes, those of 700-2020 hold one each; never both in one folder",
    ),
    option("--cc-only", action="store_true", help="only videos under Creative Commons (Kinetics-400: 2.6 %%)"),
    option("--dry-run", action="store_true", help="fetch only the lists (20 MB) and say what is to come"),
    option("--workers", type=whole(1), default=4, help="archives fetched at a time, 1.5 GB of disk each (default 4)"),
    option("--keep-archives", action="store_true"),
    option(
        "--skip",
        action="append",
        default=[],
        metavar="PART",
        help="leave an archive out, for instance train/part_7.tar.gz (may be repeated)",
    ),
    option("--mirror", default="https://s3.amazonaws.com/kinetics", metavar="URL", help="a copy with the same layout"),
)
def kinetics(args) -> int:
    from vt_course.fetch.kinetics import kinetics

    args.out = args.out or vt_course.own_data() / "kinetics"
    done = kinetics(
        args.out,
        classes=args.classes,
        preset=args.preset,
        clips_per_class=args.clips_per_class,
        splits=args.split,
        version=args.version,
        cc_only=args.cc_only,
        base_url=args.mirror,
        workers=args.workers,
        keep_archives=args.keep_archives,
        skip=args.skip,
        dry_run=args.dry_run,
        progress=not args.json,
    )
    if args.json:
        print_json(done)
    elif not args.dry_run:  # with it, only the estimate was wanted, and it is printed already
        for split, n in done["clips"].items():
            print(f"{args.out / split}.csv: {n:,} clips")
        for split, classes in done["short"].items():
            for label, n in classes.items():
                print(f"{split}, {label}: only {n}, the mirror has no more")
        print(f"train with --data csv:{args.out / 'train.csv'},{args.out / 'val.csv'}")
    return 1 if any(done.get("short", {}).values()) else 0


@verb(
    "data prepare",
    "Encode a folder of videos again, small and quick to read; run it again to go on.",
    "vt-course data prepare videos --out data/videos --short-side 256 --fps keep --seconds 10",
    option("src", type=Path, help="folder of videos, any layout"),
    option("--out", type=Path, required=True, help="folder for the result, in the same layout"),
    option("--short-side", type=whole(16), default=256, help="pixels; smaller pictures stay (default 256)"),
    option(
        "--fps",
        type=number_or("keep", 0.01, 1000),
        metavar="keep|N",
        help="frames a second, or keep those of the source (default keep)",
    ),
    option(
        "--seconds",
        type=number_or("all", 0.01, 100_000),
        default=10.0,
        metavar="N|all",
        help="the first so many seconds, or all (default 10)",
    ),
    option("--workers", type=whole(1), help="processes (default: one a core)"),
    PART,
)
def prepare(args) -> int:
    from vt_course.data.prepare import prepare
    from vt_course.files import of_share

    how = dict(share=args.part, progress=not args.json)
    row = prepare(args.src, args.out, args.short_side, args.fps, args.seconds, args.workers, **how)
    if args.json:
        print_json(row)
    else:
        print(
            f"{row['out']}: {row['clips'] - row['failed']:,} of {row['clips']:,} clips, {row['bytes'] / 1e6:.0f} MB, "
            f"{row['encoded']:,} encoded now in {row['seconds']:.0f} s"
        )
        if row["failed"]:
            print(f"{row['failed']:,} failed; {args.out / of_share('quarantine.csv', args.part)} says why")
        if row["left_out"] and not args.part:
            print(
                f"{row['left_out']:,} files left out, no videos by their names; {args.out / 'left_out.csv'} names them"
            )
    return 0


@verb(
    "data shard",
    "Pack a folder of videos into tar files (WebDataset layout) for large data; run it again to go on.",
    "vt-course data shard data/videos --out data/shards --shard-mb 500",
    option("folder", type=Path, help="folder of videos, any layout that --data folder:PATH reads"),
    option("--out", type=Path, help="folder for the shards (default: FOLDER-shards)"),
    option("--shard-mb", type=whole(1), default=1000, help="size of a shard, about (default 1000)"),
    PART,
)
def shard(args) -> int:
    from vt_course.data.shards import shard

    args.out = args.out or Path(f"{args.folder}-shards")
    row = shard(args.folder, args.out, args.shard_mb * 1_000_000, share=args.part, progress=not args.json)
    if args.json:
        print_json(row)
    else:
        for note in row["notes"]:  # how the folder was split, and what is missing
            tell(note)
        print(
            f"{row['out']}: {row['clips']:,} clips in {row['shards']:,} shards, {row['bytes'] / 1e6:.0f} MB, "
            f"{row['written']:,} written now in {row['seconds']:.0f} s"
        )
        if args.part:
            return 0
        if row["left_out"]:
            print(f"{row['left_out']:,} clips left out; {args.out / 'left_out.csv'} says why")
        print(f"train with --data shards:{args.out}")
    return 0


@verb(
    "data verify",
    "Decode every clip of a folder; writes report.csv; exits 2 if a promised clip is missing.",
    "vt-course data verify data/kinetics",
    option("folder", type=Path),
    option("--report", type=Path, help="CSV file (default: report.csv in the folder)"),
    option("--timeout", type=whole(1), default=60, help="seconds a clip may take (default 60); a long one gets more"),
    option(
        "--decoder",
        default="pyav",
        choices=DECODERS,
        help="decode each clip with this one as well, and compare every frame with PyAV's",
    ),
    option("--workers", type=whole(1), help="processes (default: one a core)"),
)
def verify(args) -> int:
    from vt_course.data.prepare import verify_folder

    how = dict(timeout=args.timeout, workers=args.workers, decoder=args.decoder, progress=not args.json)
    rows = verify_folder(args.folder, report=args.report, **how)
    count = {
        status: sum(row["status"] == status for row in rows)
        for status in ("ok", "corrupt", "short", "missing", "timeout")
    }
    if args.json:
        print_json(rows)
    else:
        bad = [row for row in rows if row["status"] != "ok"]
        if bad:
            print_table(bad[:50], {k: k for k in ("path", "status", "frames", "seconds", "reason")})
        print(
            ", ".join(f"{n:,} {status}" for status, n in count.items())
            + f"; {args.report or args.folder / 'report.csv'}"
        )
    return 2 if count["missing"] else 1 if count["corrupt"] or count["timeout"] else 0


@verb(
    "data stats",
    "Classes, clips, lengths and sizes of a folder of videos.",
    "vt-course data stats data/kinetics --figure stats.png",
    option("folder", type=Path),
    option("--figure", type=picture, metavar="FILE.png", help="draw clips a class and their lengths, too"),
    option("--workers", type=whole(1), help="processes (default: one a core)"),
)
def stats(args) -> int:
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
            tell(note)
        print_table(
            rows,
            {
                "label": "class",
                "train": "train",
                "val": "val",
                "unreadable": "unreadable",
                "shortest": "shortest s",
                "median": "median s",
                "longest": "longest s",
                "minutes": "minutes",
                "usual_size": "usual size",
                "sizes": "sizes",
                "mb": "MB",
            },
        )
    return 0
