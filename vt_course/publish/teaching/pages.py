"""The pages for teachers that are made from the course itself: plans, misconceptions, questions and their answers."""

from pathlib import Path

from vt_course import need_own_checkout, repo_root
from vt_course.files import atomic_write
from vt_course.lab.exercises import EXERCISES
from vt_course.publish.source import select
from vt_course.publish.teaching.outline import Outline, outline
from vt_course.publish.teaching.plans import plans_page
from vt_course.publish.teaching.questions import bank_pages, read_bank


def outlines(root: Path | None = None, names: list[str] | None = None) -> list[Outline]:
    """The outlines of the notebooks of a checkout, in course order. Raises CourseError for an unknown name."""
    return [outline(path) for path in select((root or repo_root()) / "notebooks", "[0-9][0-9]_*.ipynb", names)]


def pages(known: list[Outline]) -> dict[str, str]:
    """name in docs/ -> text, of all pages that are made."""
    made = {"plans.md": plans_page(known), "misconceptions.md": misconceptions_page(known)}
    return made | bank_pages(read_bank(), known)


def write_pages(root: Path | None = None) -> list[dict]:
    """Write the pages into docs/. Returns a row for each: page, and whether it has changed. Raises CourseError."""
    root = root or repo_root()
    need_own_checkout(root, "`vt-course pages`, which writes docs/,")
    folder, rows = root / "docs", []
    for name, text in pages(outlines(root)).items():
        old = (folder / name).read_text(encoding="utf-8") if (folder / name).exists() else None
        if old != text:
            atomic_write(folder / name, text.encode())
        rows.append(dict(page=f"docs/{name}", state="in step" if old == text else "written"))
    return rows


def misconceptions_page(known: list[Outline]) -> str:
    """What readers get wrong: the mistakes that the checks know, by exercise, in the checks' own words."""
    text = (
        "# What goes wrong\n\n"
        "The mistakes that the checks of the exercises know by their numbers, in the words in which they tell them.\n"
        "This page is made by `vt-course pages` from the checks; do not edit it.\n\n"
        "Beside these, a check searches systematic mistakes of many kinds (`vt_course/lab/kinds`):\n"
        "wrong orders of axes, wrong factors, forgotten steps.\n"
    )
    for plan in known:
        text += f"\n## {plan.title}\n"
        for exercise in plan.exercises:
            mistakes = [sentence for sentence, _ in EXERCISES[exercise.number].mistakes]
            text += f"\n### Exercise {exercise.number} · {exercise.title}\n\n"
            text += "".join(f"- {sentence[0].upper()}{sentence[1:]}.\n" for sentence in mistakes)
            text += "" if mistakes else "- Only the systematic ones.\n"
    return text
