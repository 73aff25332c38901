"""The source of a notebook (py:percent text) and the notebook that it is, without outputs.

All editions begin here. Nothing here runs a notebook, so it needs no Jupyter beyond its file format.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path

import jupytext
import nbformat

from vt_course import CourseError
from vt_course.files import replacing
from vt_course.publish.tags import alt, tags

# What a notebook says about itself. Anything else, such as an exact version of Python, would be of one machine.
METADATA = {
    "kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3 (ipykernel)"},
    "language_info": {"name": "python"},
}


def select_sources(root: Path, names: list[str] | None) -> list[Path]:
    """The sources of the course's notebooks; see `select`."""
    return select(root / "notebooks" / "src", "[0-9][0-9]_*.py", names)


def select(folder: Path, pattern: str, names: list[str] | None) -> list[Path]:
    """The notebooks (or sources) in `folder`, in course order.

    names: stems ("04_video_swin") or their numbers ("04" or "4"); None: all.
    Raises CourseError for a name that does not exist, and for an empty folder.
    """
    found = sorted(folder.glob(pattern))
    if not found:
        raise CourseError(f"There is no {pattern} in {folder}; restore it, or install the course again.")
    known = {key: path for path in found for key in (path.stem, path.stem[:2])}
    stem = {name: f"{int(name):02}" if name.isdecimal() else name for name in names or []}
    for name, meant in stem.items():
        if meant not in known:
            stems = ", ".join(path.stem for path in found)
            raise CourseError(f"There is no notebook {name!r}; choose from {stems}.")
    return sorted({known[meant] for meant in stem.values()}) if names else found


def from_source(source: Path):
    """The notebook of a py:percent file, not executed.

    A source writes alt="..." for the alt text of a figure; the notebook keeps it where site generators look for it.
    """
    percent = {"extension": ".py", "format_name": "percent", "comment_magics": False}
    nb = jupytext.read(source, fmt=percent)
    nb.nbformat, nb.nbformat_minor = 4, 5
    for cell, name in zip(nb.cells, cell_ids(nb)):
        cell.metadata.pop("lines_to_next_cell", None)  # jupytext's note on blank lines
        if told := cell.metadata.pop("alt", None):
            cell.metadata["mystnb"] = {"image": {"alt": told}}
        cell.id = name
    nb.metadata = built_metadata(nb)
    return nb


def cell_ids(nb) -> list[str]:
    """The ids that the build gives to cells. They depend only on the type and the text of a cell."""
    seen, ids = Counter(), []
    for cell in nb.cells:
        seen[cell.cell_type, cell.source] += 1
        key = f"{cell.cell_type}\0{cell.source}\0{seen[cell.cell_type, cell.source]}"
        ids.append(hashlib.sha256(key.encode()).hexdigest()[:12])
    return ids


def fingerprint(nb) -> str:
    """A hash of everything in a notebook that comes from its source, so not of outputs."""
    return hashlib.sha256(json.dumps([content(cell) for cell in nb.cells]).encode()).hexdigest()


def built_metadata(nb):
    """What a notebook says about itself: the kernel, and the record of its build."""
    return nbformat.from_dict(METADATA | {"vt_course": {"sha256": fingerprint(nb)}})


def content(cell) -> list:
    return [cell.cell_type, cell.source, tags(cell), alt(cell)]


def write(nb, path: Path) -> None:
    """Write the notebook whole or not at all, so that nobody ever reads a part of a file."""
    nbformat.validate(nb)
    with replacing(path) as part:
        nbformat.write(nb, part)
