"""notebooks/src/NN_name.py -> the student edition: the same notebook, not executed, without solutions and answers."""

import hashlib
import shutil
from pathlib import Path

import nbformat

from vt_course import CourseError, __version__, own_root, repo_root
from vt_course.files import parsing, read_utf8
from vt_course.publish.source import METADATA, from_source, select_sources, write
from vt_course.publish.tags import exercises, parts, tags

NOTE = (
    "*Student edition: solutions and answers are left out. Each exercise is a stub, a check and hints. While a stub "
    "is untouched, the cells below it use the course's own function, and the check says so: everything runs from top "
    "to bottom unsolved. After a check that failed they use yours, and may stop; put `raise NotImplementedError` back "
    "to go on without it. Answers to predictions and questions are in the solved notebook, `notebooks/{stem}.ipynb`, "
    "at the same places. `vt-course progress` lists the checks that passed.*"
)


def student(names: list[str] | None = None, *, out: Path | None = None, root: Path | None = None) -> list[dict]:
    """Write the student edition of the notebooks of `root` (the course) to `out` (build/student of `own_root`).

    names: stems ("04_video_swin") or numbers ("04"); None: all, in order.
    Returns a row for each notebook: notebook, exercises (their number), output.
    Raises CourseError for an unknown name, for an `out` inside notebooks/, and, before anything is written,
    if a notebook is there already and somebody has changed or run it.
    """
    root = root or repo_root()
    sources = select_sources(root, names)
    out = out_folder(out, "student", root)
    outputs = [out / f"{source.stem}.ipynb" for source in sources]
    for path in outputs:
        if path.exists() and not untouched(path):
            raise CourseError(
                f"{path} was changed or run by somebody; move it away, or choose another folder with --out."
            )
    out.mkdir(parents=True, exist_ok=True)
    copy_glossary(root, out)
    rows = []
    for source, path in zip(sources, outputs):
        nb = student_edition(source)
        write(nb, path)
        rows.append(dict(notebook=source.stem, exercises=len(exercises(nb)), output=str(path)))
    return rows


def copy_glossary(root: Path, out: Path) -> None:
    """Copy the glossary, to which the notebooks link, unless there is one."""
    glossary = root / "notebooks" / "glossary.md"
    if glossary.is_file() and not (out / glossary.name).exists():
        shutil.copyfile(glossary, out / glossary.name)


def student_edition(source: Path):
    """The notebook of a source, without its solutions and answers, and with a note after the title.

    After the last hint of an exercise a line says where its solution is.
    """
    nb = from_source(source)
    nb.cells = [cell for cell in nb.cells if "solution" not in parts(cell) and "answer" not in tags(cell)]
    for cell in nb.cells:
        if "hints" in parts(cell):
            cell.source += (
                f"\n\n*The solution of exercise {parts(cell)['hints']} is in the solved notebook, "
                f"`notebooks/{source.stem}.ipynb`, right after these hints.*"
            )
    nb.cells.insert(1, nbformat.v4.new_markdown_cell(NOTE.format(stem=source.stem), id="student-edition"))
    cells = {cell.id: text_hash(cell) for cell in nb.cells}  # so that an update knows what its reader changed
    ours = {"edition": "student", "notebook": source.stem, "version": __version__, "sha256": digest(nb), "cells": cells}
    nb.metadata = nbformat.from_dict(METADATA | {"vt_course": ours})
    return nb


def text_hash(cell) -> str:
    return hashlib.sha256(cell.source.encode()).hexdigest()[:12]


def digest(nb) -> str:
    return hashlib.sha256("\0".join(cell.source for cell in nb.cells).encode()).hexdigest()


def untouched(path: Path) -> bool:
    """Whether a file is a student edition as it was written: nothing changed, nothing run."""
    try:
        nb = read(path)
    except CourseError:
        return False
    return as_written(nb)


def as_written(nb) -> bool:
    same = told(nb).get("sha256") == digest(nb)
    return same and not any(cell.get("outputs") or cell.get("execution_count") for cell in nb.cells)


def told(nb) -> dict:
    """What the metadata of a notebook say about its edition; {} if they say nothing."""
    ours = nb.metadata.get("vt_course")
    return ours if isinstance(ours, dict) else {}


def out_folder(out: Path | None, name: str, root: Path) -> Path:
    """`out`, or else the folder build/NAME of this user (`own_root`); refused inside the notebooks of the course."""
    return refuse_notebooks(Path(out or own_root(root) / "build" / name), root)


def refuse_notebooks(out: Path, root: Path) -> Path:
    """The folder `out` in full. Raises CourseError if it lies inside notebooks/."""
    out = out.resolve()
    if out.is_relative_to((root / "notebooks").resolve()):
        raise CourseError(
            f"{out} lies inside notebooks/, which holds the edition with solutions; choose another folder."
        )
    return out


def read(path: Path, name=None, remedy: str = "move it away and run the same command again."):
    """The notebook in a file that a reader may have made. Cells without an id stay so. `name`, `remedy`: see files.py.

    Raises CourseError for a file that is no notebook of format 4.
    """
    text = read_utf8(path, remedy, name)
    with parsing(name or path, "no notebook", remedy):
        nb = nbformat.v4.reads(text)
        if nb["nbformat"] != 4 or not isinstance(nb.metadata, dict):
            raise ValueError(f"its format is {nb['nbformat']}, not 4")
        for number, cell in enumerate(nb.cells, start=1):
            tags = cell.metadata.get("tags", [])
            if (
                cell.cell_type not in ("code", "markdown", "raw")
                or not isinstance(cell.source, str)
                or not isinstance(cell.get("id"), (str, type(None)))
                or not isinstance(tags, list)
                or not all(isinstance(tag, str) for tag in tags)
            ):
                raise ValueError(f"cell {number} is damaged")
    return nb
