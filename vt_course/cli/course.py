"""Verbs for the course itself: its notebooks, its tests, the installation."""

import importlib.util
import subprocess
import sys
from pathlib import Path

from vt_course import need
from vt_course.cli.common import as_typed, need_data, option, print_json, print_table, tell, verb, whole

PROFILE = option("--profile", default="smoke", choices=["smoke", "lecture", "full"])
NOTEBOOKS = option("names", nargs="*", help="notebooks, for instance 04_video_swin, or 4 (default: all)")


@verb("doctor", "Report versions, hardware, data and what is missing, for a bug report.", "vt-course doctor")
def doctor(args) -> int:
    from vt_course.doctor import render, report

    facts = report()
    print_json(facts) if args.json else print(as_typed(render(facts)))
    return 0


@verb(
    "clean",
    "Show what lies where and how large it is; remove what the course makes again.",
    "vt-course clean --dry-run",
    option("--dry-run", action="store_true", help="only show; remove nothing"),
)
def clean(args) -> int:
    from vt_course.clean import clean

    rows = clean(args.dry_run)
    if args.json:
        print_json(rows)
        return 0
    print_table(
        [{**row, "state": as_typed(row["state"])} for row in rows],
        {"what": "what", "where": "where", "mb": "MB", "state": "state"},
    )
    gone = sum(row["mb"] for row in rows if row["state"] in ("can go", "removed"))
    stays = sum(row["mb"] for row in rows) - gone
    print(f"{gone:,.0f} MB {'can go' if args.dry_run else 'removed'}, {stays:,.0f} MB stay")
    return 0


@verb(
    "build",
    "Execute notebooks/src/*.py into notebooks/*.ipynb, with outputs.",
    "vt-course build 04_video_swin",
    NOTEBOOKS,
    PROFILE,
    option("--check", action="store_true", help="only compare; exit 1 if a notebook is not its source"),
    option("--text-only", action="store_true", help="execute nothing, keep the outputs; refused if code changed"),
    option("--discard", action="store_true", help="overwrite notebooks that were edited by hand (a copy is kept)"),
)
def build(args) -> int:
    from vt_course.publish.build import build

    if not (args.check or args.text_only):  # these execute nothing
        need_data()
    rows = build(
        args.names or None, profile=args.profile, check=args.check, text_only=args.text_only, discard=args.discard
    )
    if args.json:
        print_json(rows)
    else:
        print_table(rows, {k: k for k in rows[0]} if rows else {})
    return 0


@verb(
    "course",
    "Run every notebook in order into build/notebooks/ and print a table.",
    "vt-course course --profile smoke",
    NOTEBOOKS,
    PROFILE,
    option(
        "--unsolved",
        action="store_true",
        help="run the student edition; what it prints must be what the notebooks show",
    ),
    option("--out", type=Path, help="default: build/notebooks, build/unsolved"),
    option("--workers", type=whole(1), help="notebooks at the same time (default: by cores and memory)"),
)
def course(args) -> int:
    from vt_course.publish.course import run_course

    need_data()
    rows = run_course(
        args.names or None,
        profile=args.profile,
        unsolved=args.unsolved,
        out=args.out,
        progress=not args.json,
        workers=args.workers,
    )
    if args.json:
        print_json(rows)
    return 0


@verb(
    "test",
    "Run all tests in stages: rules, unit tests, notebooks. Results go to build/test.",
    "vt-course test --quick",
    option("stages", nargs="*", metavar="STAGE", help="rules, tests, outputs, unsolved (default: all)"),
    option("--quick", action="store_true", help="rules and the tests that are not slow: about 2 minutes"),
)
def test(args) -> int:
    from vt_course.publish.suite import run_suite, verdict

    need_data()
    rows = run_suite(args.stages or None, quick=args.quick)
    print_json(rows) if args.json else print(verdict(rows))
    return 0 if all(row["passed"] for row in rows) else 1


@verb(
    "lab",
    "Open your notebooks in JupyterLab: the student edition, written into work/ on first use.",
    "vt-course lab -- --no-browser",
    option("--solutions", action="store_true", help="open notebooks/, the notebooks with solutions and outputs"),
    option("options", nargs="*", help="options of JupyterLab, after --"),
)
def lab(args) -> int:
    from vt_course.publish.work import first_use, outdated, solutions_folder, work_folder

    need_data()
    folder = solutions_folder() if args.solutions else work_folder()
    tell_written(first_use(out=folder, solutions=args.solutions), folder)
    if not args.solutions and (old := outdated()):
        tell(
            f"{', '.join(old)} in {folder} {'is' if len(old) == 1 else 'are'} of an older edition; "
            "vt-course student --update takes your work over into the new one"
        )
    return start_lab(folder, args.options)


@verb(
    "open",
    "Copy notebooks into a folder of yours, render the smallest clips, open JupyterLab. Needs no checkout.",
    "vt-course open 04 --dir course",
    NOTEBOOKS,
    option("--dir", type=Path, metavar="DIR", help="default: work (`vt-course doctor` says where)"),
    option("--solutions", action="store_true", help="the notebooks with solutions and outputs"),
    option("--no-start", action="store_true", help="only copy and render"),
)
def open_(args) -> int:
    from vt_course.data.synthetic import SMALLEST, render, rendered
    from vt_course.publish.work import first_use

    rows = first_use(names=args.names or None, out=args.dir, solutions=args.solutions)
    folder = Path(rows[0]["output"]).parent
    tell_written(rows, folder)
    if not rendered("train"):
        made = render(clips=SMALLEST, progress=not args.json)
        tell(f"rendered {sum(SMALLEST)} clips, the fewest that the notebooks take, into {made['out']}")
    if args.json:
        print_json(rows)
    if args.no_start:
        if not args.json:
            print_table(rows, {"notebook": "notebook", "state": "state", "output": "yours"})
        return 0
    return start_lab(folder, [rows[0]["output"]] if len(rows) == 1 else [])


def tell_written(rows: list[dict], folder: Path) -> None:
    """Say which of the rows of `first_use` were written into `folder`."""
    if written := [row["notebook"] for row in rows if row["state"] == "written"]:
        tell(f"wrote into {folder}: {', '.join(written)}; this is never overwritten")


def start_lab(folder: Path, options: list[str]) -> int:
    need(
        importlib.util.find_spec("jupyterlab"),
        f"JupyterLab is not installed: open {folder} in a Jupyter that runs {sys.executable}, or install it with "
        "`pip install jupyterlab` and run this again",
    )
    return subprocess.call([sys.executable, "-m", "jupyterlab", f"--notebook-dir={folder}", *options])


@verb(
    "student",
    "Write the student edition: the notebooks without solutions.",
    "vt-course student 04 --out handout",
    NOTEBOOKS,
    option("--out", type=Path, help="default: build/student; with --update: work (`vt-course doctor` says where)"),
    option(
        "--update",
        action="store_true",
        help="bring notebooks to the newest edition and keep what their reader wrote; first save and close them",
    ),
)
def student(args) -> int:
    from vt_course.publish.student import student

    if args.update:
        return update(args)
    rows = student(args.names or None, out=args.out)
    print_json(rows) if args.json else print_table(
        rows, {"notebook": "notebook", "exercises": "exercises", "output": "student edition"}
    )
    return 0


def update(args) -> int:
    from vt_course.publish.work import update

    rows = update(args.names or None, out=args.out)
    if args.json:
        print_json(rows)
        return 0
    print_table(
        [{**row, "exercises": ", ".join(row["exercises"])} for row in rows],
        {
            "notebook": "notebook",
            "state": "state",
            "exercises": "your exercises",
            "cells": "your other cells",
            "kept": "the old file",
        },
    )
    for row in rows:
        for number, new in row["moved"].items():
            print(f"{row['notebook']}: exercise {number} is {new} now; your cell is there")
        for sentence in row["left"]:
            print(f"{row['notebook']}: {sentence}; yours is in the old file")
    return 0


@verb("progress", "Which exercises' checks passed, of this user.", "vt-course progress")
def progress(args) -> int:
    from vt_course.lab.progress import progress_file, progress_table

    rows = progress_table()
    if args.json:
        print_json(rows)
    else:
        print_table(rows, {"exercise": "exercise", "title": "title", "passed": "check passed"})
        done = sum(row["passed"] is not None for row in rows)
        print(f"{done} of {len(rows)} checks passed; kept in {progress_file()}, sent nowhere")
    return 0
