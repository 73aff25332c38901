"""Verbs for a class: hand out notebooks, grade what comes back."""

from pathlib import Path

from vt_course.cli.common import option, print_json, print_table, tell, verb, whole


@verb(
    "release",
    "Make a folder and a zip of a notebook for a class: student edition, glossary, first page.",
    "vt-course release 04",
    option("names", nargs="+", help="notebooks, for instance 04_video_swin, or 4"),
    option("--out", type=Path, help="default: build/release"),
)
def release(args) -> int:
    from vt_course.publish.release import release

    rows = release(args.names, out=args.out)
    print_json(rows) if args.json else print_table(
        rows, {"notebook": "notebook", "edition": "edition", "exercises": "exercises", "folder": "folder", "zip": "zip"}
    )
    return 0


@verb(
    "grade",
    "Grade a folder of submissions: a row for each in a table, a page for each student.",
    "vt-course grade submissions --notebook 04",
    option("folder", type=Path, help="the submissions: a file for each student, or a folder with the notebook in it"),
    option("--notebook", help="grade only this one, for instance 04; the row of another one says so"),
    option("--out", type=Path, help="the table, CSV (default: FOLDER.csv); pages go into a folder beside it"),
    option("--seconds", type=whole(1), default=20, help="of CPU, for one exercise (default: %(default)s)"),
    option("--trust", action="store_true", help="without bubblewrap: run submissions with your own rights"),
)
def grade(args) -> int:
    from vt_course.grading.grade import grade
    from vt_course.grading.sandbox import Limits

    rows = grade(
        args.folder,
        notebook=args.notebook,
        out=args.out,
        limits=Limits(seconds=args.seconds),
        trust=args.trust,
        tell=tell,
    )
    if args.json:
        print_json([{key: value for key, value in row.items() if key != "text"} for row in rows])
        return 0
    print_table(
        [row | {"of": f"{row['passed']} of {row['exercises']}", "said": "; ".join(row["notes"])} for row in rows],
        {"submission": "submission", "notebook": "notebook", "state": "state", "of": "passed", "said": "notes"},
    )
    return 0
