"""The tags of cells: which there are, what each says, and where it may stand. notebooks/AUTHORS.md explains them."""

import difflib
import re

TAGS = {
    "parameters": "the one cell that sets PROFILE",
    "definition": "a witness: slow, close to the paper's words",
    "fast": "a witness: the code that one would use",
    "oracle": "a witness: code of somebody else",
    "figure": "the cell draws one figure",
    "measured": "its figure shows times of the machine, so only its size is compared with the committed one",
    "core": "on the heading of a section: every reader needs it",
    "deep-dive": "on the heading of a section: a first reading may leave it out",
    "slide": "its code stands on a slide, though the rules leave it out",
    "notes": "only in the notes for the speaker",
    "skip": "neither on slides nor in the notes",
    "answer": "the answer of a prediction or a question; the student edition leaves it out",
}
# The cells of an exercise, in this order. A tag names the part and the exercise, such as `check:4.1`.
PARTS = {"exercise": "code", "check": "code", "hints": "markdown", "solution": "code"}
NUMBERED = (*PARTS, "claim")
LEVELS = ("core", "deep-dive")
SLIDES = ("slide", "notes", "skip")
SECTION = re.compile(r"## (\d+) · ")


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def alt(cell) -> str | None:
    """The text that stands for the figure of a cell, where site generators look for it (myst-nb)."""
    return cell.metadata.get("mystnb", {}).get("image", {}).get("alt")


def parts(cell) -> dict[str, str]:
    """Which part of which exercise a cell is, such as {"solution": "4.1"}; {} for other cells."""
    split = [tag.partition(":") for tag in tags(cell)]
    return {part: exercise for part, _, exercise in split if part in PARTS and exercise}


def exercises(nb) -> dict[str, dict[str, list[int]]]:
    """Exercise id -> part ("exercise", "check", ...) -> positions of its cells."""
    found = {}
    for index, cell in enumerate(nb.cells):
        for part, exercise in parts(cell).items():
            found.setdefault(exercise, {}).setdefault(part, []).append(index)
    return found


def cell_problems(cell) -> list[str]:
    """What is wrong with the tags of one cell."""
    found = [f"the tag {tag!r} is not one of the course's{_meant(tag)}." for tag in tags(cell) if not known(tag)]
    if len(set(tags(cell))) < len(tags(cell)):
        found.append("carries a tag twice.")
    for group in (LEVELS, SLIDES):
        if len(both := [tag for tag in group if tag in tags(cell)]) > 1:
            found.append(f"carries {' and '.join(both)}; one of them is enough.")
    if set(LEVELS) & set(tags(cell)) and not (cell.cell_type == "markdown" and SECTION.match(cell.source)):
        found.append("carries core or deep-dive, which belong on the cell that begins with `## 1 · ...`.")
    if "measured" in tags(cell) and "figure" not in tags(cell):
        found.append("carries measured without figure.")
    return found


def notebook_problems(nb) -> list[str]:
    """Sections begin cells, so that a tag can stand for a section; all of them say their level, or none does."""
    texts = [cell for cell in nb.cells if cell.cell_type == "markdown"]
    inside = [number for cell in texts for number in re.findall(r"^## (\d+) · ", "-" + cell.source, re.MULTILINE)]
    found = [f"section {number} begins inside a cell; begin a new one there." for number in inside]
    headings = [cell for cell in texts if SECTION.match(cell.source)]
    bare = [cell for cell in headings if not set(LEVELS) & set(tags(cell))]
    if bare and len(bare) < len(headings):
        numbers = ", ".join(SECTION.match(cell.source)[1] for cell in bare)
        found.append(f"section {numbers} is neither core nor deep-dive, but other sections are.")
    return found


def known(tag: str) -> bool:
    part, colon, exercise = tag.partition(":")
    return tag in TAGS or bool(colon) and part in NUMBERED and bool(re.fullmatch(r"[\w.-]+", exercise))


def _meant(tag: str) -> str:
    part, colon, exercise = tag.partition(":")
    close = difflib.get_close_matches(part.lower().replace("_", "-").replace(" ", "-"), [*TAGS, *NUMBERED], 1)
    if not close:
        return f"; there are {', '.join(TAGS)}, and {', '.join(NUMBERED)} with a number"
    meant = close[0] if close[0] in TAGS else f"{close[0]}:{exercise or 'NUMBER'}"
    return f"; did you mean {meant!r}?"
