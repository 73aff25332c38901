"""notebooks/src/NN_name.py -> the student edition: the same notebook, not executed, without solutions and answers."""

import hashlib
import shutil
from pathlib import Path

import nbformat

from vt_course import CourseError, repo_root
from vt_course.publish.build import from_source, write
from vt_course.publish.hygiene import METADATA
from vt_course.publish.kernel import select
from vt_course.publish.tags import exercises, parts, tags

NOTE = (
    "*Student edition: solutions and answers are left out. Each exercise is a stub, a check and hints. While a stub is "
    "untouched, the"
    " cells below it use the course's own function, and the check says so: everything runs from top to bottom "
    "unsolved. After a"
    " check that failed they use yours, and may stop; put `raise NotImplementedError` back to go on without it. "
    "`vt-course progress` lists the checks that passed.*"
)


def student(names: list[str] | None = None, *, out: Path | None = None, root: Path | None = None) -> list[dict]:
    """Write the student edition of the notebooks of `root` (the checkout) to `out` (build/student).

    names: stems ("04_video_swin") or numbers ("04"); None: all, in order.
    Returns a row for each notebook: notebook, exercises (their number), output.
    Raises CourseError for an unknown name, for an `out` inside notebooks/, and, before anything is written,
    if a notebook is there already and somebody has changed or run it.
    """
    root = root or repo_root()
    sources = select(root / "notebooks" / "src", "[0-9][0-9]_*.py", names)
    out = Path(out or root / "build" / "student").resolve()
    if out.is_relative_to((root / "notebooks").resolve()):
        raise CourseError(
            f"{out} lies inside notebooks/, which holds the edition with solutions; choose another folder."
        )
    outputs = [out / f"{source.stem}.ipynb" for source in sources]
    for path in outputs:
        if path.exists() and not untouched(path):
            raise CourseError(
                f"{path} was changed or run by somebody; move it away, or choose another folder with --out."
            )
    out.mkdir(parents=True, exist_ok=True)
    glossary = root / "notebooks" / "glossary.md"  # the notebooks link to it
    if glossary.is_file() and not (out / glossary.name).exists():
        shutil.copyfile(glossary, out / glossary.name)
    rows = []
    for source, path in zip(sources, outputs):
        nb = student_edition(source)
        write(nb, path)
        rows.append(dict(notebook=source.stem, exercises=len(exercises(nb)), output=str(path)))
    return rows


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
    nb.cells.insert(1, nbformat.v4.new_markdown_cell(NOTE, id="student-edition"))
    nb.metadata = nbformat.from_dict(METADATA | {"vt_course": {"edition": "student", "sha256": digest(nb)}})
    return nb


def digest(nb) -> str:
    return hashlib.sha256("\0".join(cell.source for cell in nb.cells).encode()).hexdigest()


def untouched(path: Path) -> bool:
    """Whether a file is a student edition as it was written: nothing changed, nothing run."""
    try:
        nb = nbformat.v4.reads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    ours = nb.metadata.get("vt_course", {}).get("sha256") == digest(nb)
    return ours and not any(cell.get("outputs") or cell.get("execution_count") for cell in nb.cells)
