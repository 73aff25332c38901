"""notebooks/src/NN_name.py (py:percent) -> notebooks/NN_name.ipynb, executed. The source is never written back."""

import hashlib
import time
from collections import Counter
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from tqdm import tqdm

from vt_course import CourseError, repo_root
from vt_course.files import replacing
from vt_course.publish import NotebookFailed, hygiene
from vt_course.publish.compare import build_env
from vt_course.publish.kernel import CELL_ERRORS, CELL_SECONDS, CourseKernel, explain, select

METADATA = {
    "kernelspec": dict(name="python3", language="python", display_name="Python 3 (ipykernel)"),
    "language_info": {"name": "python"},
}


def build(
    names: list[str] | None = None,
    *,
    profile: str = "smoke",
    check: bool = False,
    root: Path | None = None,
    progress: bool = True,
) -> list[dict]:
    """Execute the sources and write the notebooks. With `check`, only compare notebooks with their sources.

    names: stems ("04_video_swin") or numbers ("04"); None: all, in order. root: the checkout.
    Returns a row for each notebook: notebook, and status ("built" or "in step"). Built ones also have
    cells (the number of code cells) and seconds.
    All notebooks are tried. Then NotebookFailed is raised if a source breaks a rule of `hygiene`, if a
    cell failed, or (check) if a notebook differs from its source; in these cases the old .ipynb is kept. Raises
    CourseError for an unknown name, and for another profile than that of committed notebooks.
    """
    if profile != "smoke":
        raise CourseError(
            f"Committed notebooks show the profile smoke, not {profile!r};"
            f" run `vt-course course --profile {profile}` instead."
        )
    folder = (root or repo_root()) / "notebooks"
    sources = select(folder / "src", "[0-9][0-9]_*.py", names)
    if check:
        rows = [_check_one(source, folder / f"{source.stem}.ipynb") for source in sources]
        if not names:
            stems = {source.stem for source in sources}
            rows += [
                dict(notebook=path.stem, status="no source", problems=[f"{path.stem}: has no source in notebooks/src."])
                for path in sorted(folder.glob("*.ipynb"))
                if path.stem not in stems
            ]
    else:
        rows = [_build_one(source, folder / f"{source.stem}.ipynb", progress) for source in sources]
    wrong = [text for row in rows for text in row.pop("problems")]
    if wrong:
        raise NotebookFailed("\n".join(wrong), rows)
    return rows


def from_source(source: Path):
    """The notebook of a py:percent file, not executed. The ids of cells depend only on their content."""
    percent = {"extension": ".py", "format_name": "percent", "comment_magics": False}
    nb = jupytext.read(source, fmt=percent)
    nb.metadata = nbformat.from_dict(METADATA)
    nb.nbformat, nb.nbformat_minor = 4, 5
    seen = Counter()
    for cell in nb.cells:
        cell.metadata.pop("lines_to_next_cell", None)  # jupytext's note on blank lines
        seen[cell.cell_type, cell.source] += 1
        key = f"{cell.cell_type}\0{cell.source}\0{seen[cell.cell_type, cell.source]}"
        cell.id = hashlib.sha256(key.encode()).hexdigest()[:12]
    return nb


def drift(source: Path, path: Path) -> list[str]:
    """The differences between a committed notebook and its source, in cell types, text and tags (not in outputs)."""
    remedy = f"run `vt-course build {source.stem}`"
    if not path.is_file():
        return [f"{source.stem}: was never built; {remedy}."]
    wanted, got = from_source(source), nbformat.v4.reads(path.read_text(encoding="utf-8"))
    for index, (a, b) in enumerate(zip(wanted.cells, got.cells)):
        if _content(a) != _content(b):
            where = f"{source.stem}, {hygiene.label(got, index)}"
            return [f"{where}: differs from its source; {remedy}."]
    if len(wanted.cells) != len(got.cells):
        return [f"{source.stem}: has {len(got.cells)} cells, its source {len(wanted.cells)}; {remedy}."]
    return []


def execute(nb, folder: Path, name: str, progress: bool = False) -> None:
    """Run all cells in place, in `folder`.

    Raises NotebookFailed, which names the cell that failed, hung, or killed the kernel.
    """
    where = "start of the kernel"

    def on_cell_start(cell, cell_index):
        nonlocal where
        where = hygiene.label(nb, cell_index)

    with tqdm(total=_code_cells(nb), desc=name, unit="cell", disable=not progress) as bar:
        client = NotebookClient(
            nb,
            timeout=CELL_SECONDS["smoke"],
            startup_timeout=120,
            kernel_name="python3",
            kernel_manager_class=CourseKernel,
            resources={"metadata": {"path": str(folder)}},
            record_timing=False,
            coalesce_streams=True,
            on_cell_start=on_cell_start,
            on_cell_executed=lambda **_: bar.update(),
        )
        try:
            client.execute(env=build_env())  # the same as for the comparison of outputs
        except CELL_ERRORS as error:
            raise NotebookFailed(f"{name}, {where}: {explain(error)}", []) from error


def _check_one(source: Path, path: Path) -> dict:
    wrong = drift(source, path)
    return dict(notebook=source.stem, status="drifted" if wrong else "in step", problems=wrong)


def _build_one(source: Path, path: Path, progress: bool) -> dict:
    nb, start = from_source(source), time.perf_counter()
    wrong = hygiene.source_problems(nb, source.stem)
    if not wrong:
        try:
            execute(nb, path.parent, source.stem, progress)
            wrong = hygiene.run_problems(nb, source.stem)
        except NotebookFailed as error:
            wrong = [str(error)]
    if not wrong:
        nb.metadata = nbformat.from_dict(METADATA)  # else nbclient adds the exact Python version
        write(nb, path)
    return dict(
        notebook=source.stem,
        cells=_code_cells(nb),
        seconds=round(time.perf_counter() - start, 1),
        status="failed" if wrong else "built",
        problems=wrong,
    )


def write(nb, path: Path) -> None:
    """Write the notebook whole or not at all, so that nobody ever reads a part of a file."""
    nbformat.validate(nb)
    with replacing(path) as part:
        nbformat.write(nb, part)


def _code_cells(nb) -> int:
    return sum(cell.cell_type == "code" for cell in nb.cells)


def _content(cell) -> tuple:
    return cell.cell_type, cell.source, cell.metadata.get("tags", [])
