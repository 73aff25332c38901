"""Verbs for proofs and measurements, and for the official weights."""

import os
import sys
from pathlib import Path

from vt_course import repo_root
from vt_course.cli.common import containing, need_data, on_stderr, option, picture, print_json, print_table, verb, whole

WORDS = option("words", nargs="*", metavar="WORD", help="only names that contain every WORD (default: all)")


@verb(
    "bench decode",
    "Our reader, decord, PyAV and torchcodec on the same files, side by side.",
    "vt-course bench decode clip.mp4 other.mp4 --frames 16 --short-side 256",
    option("files", type=Path, nargs="+"),
    option("--frames", type=whole(1), default=16, help="frames a clip (default 16)"),
    option("--stride", type=whole(1), default=2, help="frames from one to the next (default 2)"),
    option("--short-side", type=whole(1), help="resize while decoding (default: as it is)"),
    option("--repeats", type=whole(1), default=5, help="medians of this many (default 5)"),
)
def decode(args) -> int:
    from vt_course.claims.bench_data import bench_decode, decode_table

    rows = bench_decode(
        args.files, frames=args.frames, stride=args.stride, short_side=args.short_side, repeats=args.repeats
    )
    print_json(rows) if args.json else print(decode_table(rows))
    return 0


@verb(
    "bench loader",
    "Training clips a second on one core: ours beside loaders built on other decoders.",
    "vt-course bench loader clip.mp4 other.mp4 --frames 8 16 32",
    option("files", type=Path, nargs="+"),
    option("--frames", type=whole(1), nargs="+", default=[8, 16, 32], help="frames a clip (default 8 16 32)"),
    option(
        "--span",
        type=whole(1),
        default=64,
        help="frames from first to last; the stride is this over frames (default 64)",
    ),
    option("--size", type=whole(1), default=224, help="height and width of the model's input (default 224)"),
    option("--repeats", type=whole(1), default=5, help="medians of this many (default 5)"),
)
def loader(args) -> int:
    from vt_course.claims.bench_data import bench_loader

    rows = bench_loader(args.files, frames=args.frames, span=args.span, size=args.size, repeats=args.repeats)
    if args.json:
        print_json(rows)
    else:
        print_table(
            rows,
            {
                "frames": "frames",
                "stride": "stride",
                "peer": "peer",
                "clips_per_second": "ours, clips/s",
                "peer_clips_per_second": "peer's",
                "ratio": "ratio",
                "max_difference": "max diff / 255",
            },
        )
    return 0


@verb(
    "bench models",
    "Compare our models with other libraries' on the same weights, side by side.",
    "vt-course bench models swin_tiny video_swin_tiny --seconds 10",
    option("names", nargs="*", help="pairs, for instance video_swin_tiny (default: all whose library is installed)"),
    option("--device", default="cpu", help="cpu (float32, the default) or cuda (bf16)"),
    option("--compile", action="store_true", help="add rows for torch.compile"),
    option("--seconds", type=whole(0), default=60, help="take turns for so long a pass, at least 7 times (default 60)"),
)
def models(args) -> int:
    import torch

    from vt_course.claims.bench_models import bench_models, geometric_mean
    from vt_course.machine import provenance

    rows = bench_models(args.names, device=args.device, compile=args.compile, seconds=args.seconds, progress=on_stderr)
    modes = dict.fromkeys(row["mode"] for row in rows)
    means = {mode: geometric_mean([r for r in rows if r["mode"] == mode]) for mode in modes}
    if args.json:
        print_json({**provenance(torch.device(args.device)), "geometric_mean": means, "rows": rows})
        return 0
    print_table(
        rows,
        {
            "model": "model",
            "peer": "peer",
            "pass": "pass",
            "mode": "mode",
            "batch": "batch",
            "turns": "turns",
            "ours_ms": "ours ms",
            "peer_ms": "peer ms",
            "ratio": "ratio",
            "ratio_error": "±",
            "clips_per_second": "clips/s",
            "peak_mb": "peak MB",
            "peer_peak_mb": "peer's",
            "matmul_share": "of matmul",
        },
    )
    for mode, mean in means.items():
        print(f"geometric mean of the ratios, {mode}: {mean:.2f}")
    return 0


@verb(
    "bench growth",
    "How the cost of each family's attention grows with frames and with height and width.",
    "vt-course bench growth --json",
    option("--device", default="cpu", help="cpu (the default) or cuda"),
    option("--repeats", type=whole(1), default=3, help="medians of this many (default 3)"),
)
def growth(args) -> int:
    from vt_course.claims.bench_models import bench_growth

    return tell_rows(args, bench_growth(args.device, args.repeats))


@verb(
    "bench minis",
    "How long a clip takes in each family's mini, forward and backward, side by side.",
    "vt-course bench minis --json",
    option("--device", default="cpu", help="cpu (the default) or cuda"),
    option("--repeats", type=whole(1), default=15, help="medians of this many turns (default 15)"),
)
def minis(args) -> int:
    from vt_course.claims.bench_models import bench_minis

    return tell_rows(args, bench_minis(args.device, args.repeats))


@verb(
    "bench train",
    "Training from files to steps of the optimiser: ours beside torchvision's and transformers' loops.",
    "vt-course bench train --out results/bench_train.json --figure results/bench_train.svg",
    option("files", type=Path, nargs="*", help="train on these (default: drawn stand-ins for a phone's clips)"),
    option("--out", type=Path, help="the report (JSON), written after each part; the same command again goes on"),
    option("--figure", type=picture, metavar="FILE.svg", help="draw where the time goes, as .svg or .png"),
    option("--peers", nargs="+", metavar="PEER", help="torchvision, transformers (default: those installed)"),
    option("--turns", type=whole(1), default=3, help="medians of this many epochs (default 3)"),
    option("--frames", type=whole(1), default=16, help="frames a clip (default 16)"),
    option("--stride", type=whole(1), default=2, help="frames from one to the next (default 2)"),
    option("--size", type=whole(1), default=64, help="height and width of the model's input (default 64)"),
    option("--batch", type=whole(1), default=4, help="clips a step (default 4)"),
)
def train(args) -> int:
    from vt_course.claims.bench_train import bench_train, goals, summary, table

    report = bench_train(
        args.files,
        out=args.out,
        peers=args.peers,
        turns=args.turns,
        frames=args.frames,
        stride=args.stride,
        size=args.size,
        batch=args.batch,
        tell=on_stderr,
    )
    if args.figure:
        from vt_course.lab.show.bench_train import where_the_time_goes

        where_the_time_goes(report).savefig(args.figure)
    if args.json:
        print_json(report)
    else:
        print_table(
            table(report),
            {
                "part": "clips",
                "side": "side",
                "clips_per_second": "clips/s",
                "waiting": "waiting %",
                "peak_mb": "peak MB",
                "ratio": "ours is faster",
                "ratio_error": "±",
                "target": "target",
                "loader": "fastest with",
            },
        )
        if rows := goals(report):
            shown = {"part": "training", "side": "side", "reached": "reached", "epochs": "epochs", "seconds": "seconds"}
            print_table(rows, shown | {"seconds_per_epoch": "seconds an epoch", "best": "best share"})
        print(summary(report))
    return exit_code(report)


def exit_code(report: dict) -> int:
    """1 if a part of a report (claims/parts.py) went wrong, else 0."""
    return 1 if any("error" in part for part in report["parts"].values()) else 0


def tell_rows(args, rows: list[dict]) -> int:
    """Print what a bench measured on `args.device`: a table of all columns, or JSON with the facts of the machine."""
    import torch

    from vt_course.machine import provenance

    if args.json:
        print_json({**provenance(torch.device(args.device)), "rows": rows})
    else:
        print_table(rows, {k: k for k in rows[0]})
    return 0


@verb(
    "gpu-report",
    "Measure on a GPU what the course could not, in parts; run the same command again to go on.",
    "vt-course gpu-report --out results/gpu.json",
    option("--out", type=Path, required=True, help="the report (JSON), written after each part"),
    option("--device", default="cuda", help="cuda (the default) or cpu"),
    option("--tiny", action="store_true", help="so little of each part that a CPU can do it, to try the command"),
    option("--clips", help="a folder of real videos, a subfolder for each class (default: $VT_COURSE_CLIPS)"),
)
def gpu_report(args) -> int:
    from vt_course.claims.gpu_report import gpu_report

    need_data()
    report = gpu_report(
        args.out,
        device=args.device,
        tiny=args.tiny,
        clips=args.clips or os.environ.get("VT_COURSE_CLIPS"),
        tell=on_stderr,
    )
    if args.json:
        print_json(report)
    else:
        print_table(
            [
                {"part": name, "seconds": p["seconds"], "error": p.get("error", "")}
                for name, p in report["parts"].items()
            ],
            {"part": "part", "seconds": "seconds", "error": "what went wrong"},
        )
    return exit_code(report)


@verb(
    "verify",
    "Prove our models equal to recorded outputs of the official code.",
    "vt-course verify tests/golden",
    option(
        "folder",
        nargs="?",
        type=Path,
        default=repo_root() / "tests/golden",
        help="NAME.json beside NAME.npz, in the format of tests/golden/README.md (default: the course's recordings)",
    ),
)
def verify(args) -> int:
    from vt_course.claims.golden import check_folder

    rows = []
    for row in check_folder(args.folder):
        rows.append(row)
        if not args.json:
            if len(rows) == 1:
                print(f"{'':<6}{'case':<44}  {'float32':>8}  {'float64':>8}  problem")
            numbers = "  ".join(
                f"{'        ' if row[k] is None else format(row[k], '8.1e')}" for k in ("max_abs", "max_abs_f64")
            )
            print(
                f"{'pass' if row['passed'] else 'FAIL'}  {row['case']:<44}  {numbers}  {row['problem']}".rstrip(),
                flush=True,
            )
    failed = sum(not row["passed"] for row in rows)
    if args.json:
        print_json(rows)
    else:
        print(
            f"{len(rows)} cases, {failed} failed; the numbers are the largest differences from the recorded output in "
            f"float32 and in float64"
        )
    return 1 if failed else 0


@verb("weights list", "Every official file: address, size, licence.", "vt-course weights list video_swin k400", WORDS)
def weights_list(args) -> int:
    from vt_course.fetch.weights import release_table

    rows = release_table()
    names = containing(args.words, [row["name"] for row in rows])
    rows = [row for row in rows if row["name"] in names]
    if args.json:
        print_json(rows)
    else:
        print_table(rows, {"name": "name", "licence": "licence", "weights_mb": "MB", "url": "address"})
    return 0


@verb(
    "weights get",
    "Download an official file, check it, and store it as safetensors in our layout.",
    "vt-course weights get swin_tiny/in1k",
    option("name", help="a name from `vt-course weights list`"),
    option("--out", type=Path, help="folder (default: data/weights)"),
)
def weights_get(args) -> int:
    from vt_course.fetch import weights

    row = weights.row(args.name)
    if not args.json:
        print(
            f"{args.name}: {row['url']}\nlicence of the weights: {row['licence']}; {row['weights_mb']:,.0f} MB of "
            f"weights",
            file=sys.stderr,
        )
    path = weights.get(args.name, args.out, progress=not args.json)
    print_json(row | {"path": path}) if args.json else print(path)
    return 0


@verb(
    "models",
    "Every published variant: our parameters and MACs beside the stated ones.",
    "vt-course models mvit small",
    WORDS,
)
def zoo(args) -> int:
    from vt_course.models.zoo import ZOO, model_table

    rows = model_table(containing(args.words, ZOO))
    if args.json:
        print_json(rows)
    else:
        print_table(
            rows,
            {
                "name": "model",
                "input": "input",
                "params": "params M",
                "params_stated": "stated",
                "params_diff": "diff %",
                "gmacs": "GMACs",
                "gmacs_stated": "stated",
                "gmacs_diff": "diff %",
                "accuracy": "stated accuracy",
                "views": "views",
            },
        )
    return 0
