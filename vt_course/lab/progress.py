"""Which checks passed: one line for each, in a file on the reader's machine. Nothing is sent anywhere."""

from datetime import datetime
from pathlib import Path

from vt_course import CourseError, progress_file
from vt_course.files import csv_header, read_csv

FIELDS = ("exercise", "passed")


def record(number: str) -> None:
    """Note that the check of exercise `number` passed now.

    If the file cannot be written, the pass is not recorded, but the cell still succeeds.
    """
    path = progress_file()
    try:
        if path is None or number in passed(path):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        with path.open("a", encoding="utf-8", newline="") as file:  # one write appends the whole line
            file.write(
                (",".join(FIELDS) + "\n" if new else "") + f"{number},{datetime.now().isoformat(' ', 'minutes')}\n"
            )
    except (OSError, CourseError) as error:
        print(f"  (`vt-course progress` will not know: {error})")


def passed(path: Path | None) -> dict[str, str]:
    """Exercise number -> when its check first passed. Raises CourseError for a file of another kind."""
    if path is None or not path.exists():
        return {}
    remedy = "move it away, or set VT_COURSE_PROGRESS to another file."
    if tuple(csv_header(path, remedy)) != FIELDS:
        raise CourseError(f"{path} is not a record of progress (its first line should be {','.join(FIELDS)}); {remedy}")
    found = {}
    for _, row in read_csv(path, remedy):
        found.setdefault(row["exercise"], row["passed"])
    return found


def progress_table() -> list[dict]:
    """A row for each exercise of the course, in order: exercise, title, passed (when, or None: not yet)."""
    from vt_course.lab.exercises import EXERCISES

    done = passed(progress_file())
    return [
        dict(exercise=number, title=exercise.title, passed=done.get(number)) for number, exercise in EXERCISES.items()
    ]
