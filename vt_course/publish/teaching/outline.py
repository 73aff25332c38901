"""What a notebook offers to a class: its goals, sections, exercises and predictions."""

import re
from dataclasses import dataclass
from pathlib import Path

from vt_course.publish.slides.deck import EXERCISE, Slide, deck
from vt_course.publish.slides.markup import items
from vt_course.publish.student import read
from vt_course.publish.tags import SECTION, tags

META = re.compile(r"Difficulty (\d)/5 · importance (\d)/5 · (\d+) minutes")


@dataclass(frozen=True)
class Exercise:
    number: str
    title: str
    difficulty: int
    importance: int
    minutes: int
    section: str  # its number


@dataclass(frozen=True)
class Part:
    """A numbered section. `core`: whether every reader needs it."""

    number: str
    title: str
    core: bool
    slides: list[Slide]


@dataclass(frozen=True)
class Outline:
    stem: str
    title: str
    goals: list[str]
    parts: list[Part]
    exercises: list[Exercise]
    predictions: list[tuple[str, str]]  # (number of the section, the question)
    questions: list[str]  # the questionnaire


def outline(path: Path) -> Outline:
    """The outline of an executed notebook. Raises CourseError if it is none."""
    nb = read(path)
    second = {cell.source.split("\n")[0] for cell in nb.cells if "deep-dive" in tags(cell)}
    goals, parts, exercises, predictions, questions = [], [], [], [], []
    for i, section in enumerate(deck(nb)):
        numbered = SECTION.match(f"## {section.title}") if i else None  # the first one is the title
        number = numbered[1] if numbered else ""
        if numbered:
            core = f"## {section.title}" not in second
            parts.append(Part(number, section.title.partition(" · ")[2], core, section.slides))
        for slide in section.slides:
            if slide.kind == "list" and slide.title.startswith("You will be able to"):
                goals += items(slide.texts[0])
            elif slide.kind == "list" and slide.title.startswith("Questionnaire"):
                questions += items(slide.texts[0])
            elif slide.kind == "question":
                predictions.append((number, slide.texts[0]))
            elif slide.kind == "exercise" and (meta := META.match(slide.sentence)):
                title = re.sub(r" \(\d+ of \d+\)$", "", slide.title)
                name, title = EXERCISE.match(title)[1], title.partition(" · ")[2]
                exercises.append(Exercise(name, title, *map(int, meta.groups()), number))
    title = nb.cells[0].source.split("\n")[0].lstrip("# ")
    return Outline(path.stem, title, goals, parts, exercises, predictions, questions)
