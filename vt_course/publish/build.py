"""notebooks/src/NN_name.py (py:percent) -> notebooks/NN_name.ipynb, executed. The source is never written back.

A notebook that somebody edited by hand is not overwritten. Two marks tell: the id of a cell is a hash of its type and
text, and the notebook's metadata hold a hash of all cells without their outputs. So a notebook that was only run again,
or saved by JupyterLab, does not count as edited.
"""

import hashlib
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from tqdm import tqdm

from vt_course import CourseError, need_own_checkout, repo_root
from vt_course.files import atomic_write
from vt_course.publish import NotebookFailed, figures, hygiene, links
from vt_course.publish.compare import build_env
from vt_course.publish.hosted import drifted, write_hosted
from vt_course.publish.kernel import CELL_ERRORS, CELL_SECONDS, CourseKernel, explain
from vt_course.publish.source import built_metadata, cell_ids, content, fingerprint, from_source, select_sources, write


def build(
    names: list[str] | None = None,
    *,
    profile: str = "smoke",
    check: bool = False,
    text_only: bool = False,
    discard: bool = False,
    root: Path | None = None,
    progress: bool = True,
) -> list[dict]:
    """Execute the sources and write the notebooks. With `check`, only compare notebooks with their sources.

    names: stems ("04_video_swin") or numbers ("04"); None: all, in order. root: the checkout.
    text_only: execute nothing, take text, tags and alt texts from the source and the outputs from the notebook; refused
    where code has changed. discard: overwrite notebooks that somebody edited by hand, too (a copy is kept).
    Returns a row for each notebook: notebook, and status ("built" or "in step"). Built ones also have
    cells (the number of code cells) and seconds.
    All notebooks are tried. Then NotebookFailed is raised if a source breaks a rule of `hygiene`, if a
    cell failed, or (check) if a notebook differs from its source; in these cases the old .ipynb is kept. Raises
    CourseError for an unknown name, for another profile than that of committed notebooks, and, before anything is
    executed, for notebooks that somebody edited by hand.
    """
    if profile != "smoke":
        raise CourseError(
            f"Committed notebooks show the profile smoke, not {profile!r};"
            f" run `vt-course course --profile {profile}` instead."
        )
    root = root or repo_root()
    if not check:
        need_own_checkout(root, "A build, which writes notebooks/,")
    folder = root / "notebooks"
    sources = select_sources(root, names)
    pairs = [(source, folder / f"{source.stem}.ipynb") for source in sources]
    if check:
        rows = [_check_one(*pair) for pair in pairs]
        if not names:
            stems = {source.stem for source in sources}
            rows += [
                dict(notebook=path.stem, status="no source", problems=[f"{path.stem}: has no source in notebooks/src."])
                for path in sorted(folder.glob("*.ipynb"))
                if path.stem not in stems
            ]
    else:
        _keep_edited(pairs, root, discard)
        if text_only:
            rows = [_build_one(*pair, _take_outputs) for pair in pairs]
        else:
            rows = [_build_one(*pair, lambda nb, path: execute(nb, path.parent, path.stem, progress)) for pair in pairs]
    wrong = [text for row in rows for text in row.pop("problems")]
    if check:
        wrong += drifted(root, sources)
    else:
        write_hosted(root, [source for source, row in zip(sources, rows) if row["status"] == "built"])
    if wrong:
        raise NotebookFailed("\n".join(wrong), rows)
    return rows


def drift(source: Path, path: Path) -> list[str]:
    """How a committed notebook differs from its source: in types of cells, text, tags, alt texts (not in outputs)."""
    remedy = f"run `vt-course build {source.stem}"
    if not path.is_file():
        return [f"{source.stem}: was never built; {remedy}`."]
    wanted, got = from_source(source), _read(path)
    if got is None:
        return [f"{source.stem}: is not a valid notebook; {remedy}`."]
    for index, (a, b) in enumerate(zip(wanted.cells, got.cells)):
        if content(a) != content(b):
            where = f"{source.stem}, {hygiene.label(got, index)}"
            return [f"{where}: differs from its source; {remedy}`."]
    if len(wanted.cells) != len(got.cells):
        return [f"{source.stem}: has {len(got.cells)} cells, its source {len(wanted.cells)}; {remedy}`."]
    if got.metadata.get("vt_course", {}).get("sha256") != fingerprint(got):
        return [f"{source.stem}: the record of its build is not that of its cells; {remedy} --text-only`."]
    return []


def edited(source: Path, path: Path) -> list[str]:
    """What somebody changed by hand in a notebook since it was built: names of cells. [] if nothing, or no notebook.

    A cell that was changed has no longer the id of its text; a new one never had.
    """
    if not path.is_file():
        return []
    if (nb := _read(path)) is None:
        return ["the file is not a valid notebook any more"]
    record, wanted = nb.metadata.get("vt_course", {}).get("sha256"), from_source(source)
    if fingerprint(nb) in (record, fingerprint(wanted)):
        return []
    changed = [
        f"{hygiene.label(nb, index)} is changed or new"
        for index, (cell, name) in enumerate(zip(nb.cells, cell_ids(nb)))
        if cell.get("id") != name
    ]
    if changed or record is None:  # without a record (an older build) the ids are all that tells
        return changed
    here = {cell.get("id"): cell for cell in nb.cells}
    for index, cell in enumerate(wanted.cells):
        if cell.id not in here:
            changed.append(f"{hygiene.label(wanted, index)} of the source is not in the notebook")
        elif cell.source == here[cell.id].source and content(cell) != content(here[cell.id]):
            changed.append(f"{hygiene.label(wanted, index)} of the source has other tags or another alt text")
    return changed or ["the order of the cells is changed, or their tags"]


def _read(path: Path):
    """The notebook of a file; None if the file holds none."""
    try:
        nb = nbformat.v4.reads(path.read_text(encoding="utf-8"))
        nbformat.validate(nb)
    except (ValueError, TypeError, AttributeError, KeyError, nbformat.ValidationError):
        return None
    return nb


def _keep_edited(pairs: list[tuple[Path, Path]], root: Path, discard: bool) -> None:
    """Copy each notebook that somebody edited by hand to edited/; raise CourseError unless they may be overwritten."""
    texts = []
    for source, path in pairs:
        if what := edited(source, path):
            content = path.read_bytes()
            copy = root / "edited" / f"{path.stem}-{hashlib.sha256(content).hexdigest()[:8]}.ipynb"
            copy.parent.mkdir(exist_ok=True)
            atomic_write(copy, content)
            cells = "; ".join(what[:5]) + (f"; and {len(what) - 5} more" if len(what) > 5 else "")
            texts.append(
                f"notebooks/{path.name} was edited by hand since it was built ({cells}). A build would overwrite that."
                f" A copy lies in edited/{copy.name}. Put the changes into notebooks/src/{source.name}, then run"
                f" `vt-course build {source.stem} --discard`."
            )
    if texts and not discard:
        raise CourseError(" ".join(texts))


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


def _build_one(source: Path, path: Path, fill) -> dict:
    """fill(nb, path) puts outputs into the notebook."""
    nb, start = from_source(source), time.perf_counter()
    wrong = hygiene.source_problems(nb, source.stem) + links.problems(path, nb)
    if not wrong:
        try:
            fill(nb, path)
            figures.keep_sizes(nb)
            wrong = hygiene.run_problems(nb, source.stem)
        except NotebookFailed as error:
            wrong = [str(error)]
    if not wrong:
        nb.metadata = built_metadata(nb)  # nbclient has added the exact version of Python
        write(nb, path)
    return dict(
        notebook=source.stem,
        cells=_code_cells(nb),
        seconds=round(time.perf_counter() - start, 1),
        status="failed" if wrong else "built",
        problems=wrong,
    )


def _take_outputs(nb, path: Path) -> None:
    """Copy the outputs of the notebook at `path` into `nb`, whose code must be the same."""
    if not path.is_file() or not (old := _read(path)):
        raise NotebookFailed(f"{path.stem}: has no notebook with outputs; run `vt-course build {path.stem}`.", [])
    new, had = ([cell for cell in each.cells if cell.cell_type == "code"] for each in (nb, old))
    if [cell.source for cell in new] != [cell.source for cell in had]:
        raise NotebookFailed(f"{path.stem}: its code has changed; run `vt-course build {path.stem}`.", [])
    for cell, was in zip(new, had):
        cell.outputs, cell.execution_count = was.outputs, was.execution_count


def _code_cells(nb) -> int:
    return sum(cell.cell_type == "code" for cell in nb.cells)
