"""Run the course: execute every notebook, in order, with papermill, and write the results to another folder."""

import os
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from vt_course import CourseError, own_root, repo_root
from vt_course.machine import PeakMemory, at_once, cores
from vt_course.publish import NotebookFailed, hygiene
from vt_course.publish.figures import compare_cell
from vt_course.publish.kernel import CELL_ERRORS, CELL_SECONDS, PROFILES, CourseKernel, explain, kernel_env
from vt_course.publish.source import select, write
from vt_course.publish.student import student_edition
from vt_course.publish.tags import exercises, parts

# The most memory, in bytes, that a notebook may hold (`held_memory`): what many hubs give.
MEMORY = 2 * 2**30


def run_course(
    names: list[str] | None = None,
    *,
    profile: str = "smoke",
    unsolved: bool = False,
    out: Path | None = None,
    progress: bool = True,
    root: Path | None = None,
    workers: int | None = None,
) -> list[dict]:
    """Execute the notebooks of `root` (the course); results go to `out` (below build/ of `own_root`).

    names: stems ("04_video_swin") or numbers ("04"); None: all.
    profile: "smoke", "lecture" or "full". progress: show a bar, and a table at the end.
    unsolved: run the student edition as it is handed out. Then each check must print that its
    exercise was not attempted, and every other cell must print and draw what the committed notebook shows.
    workers: the number of notebooks that run at the same time (default: as many as cores and memory allow).
    Returns a row for each notebook: notebook, cells (the number of code cells), seconds, peak_mb (the memory that the
    kernel and its child processes held, see `held_memory`), passed and checks (of exercises), status, output.
    All notebooks are tried. Then NotebookFailed is raised if a cell failed, hung or killed the kernel, if
    the check of an exercise did not pass, or if a notebook has no parameter PROFILE. Raises
    CourseError for an unknown name or profile, and for an `out` inside notebooks/, because that folder is
    never written to.
    """
    root = root or repo_root()
    if profile not in PROFILES:
        raise CourseError(f"There is no profile {profile!r}; choose from {', '.join(PROFILES)}.")
    notebooks = select(root / "notebooks", "[0-9][0-9]_*.ipynb", names)
    out = Path(out or own_root(root) / "build" / ("unsolved" if unsolved else "notebooks")).resolve()
    outputs = [(out / path.name).resolve() for path in notebooks]  # links are replaced by their targets
    for output in outputs:
        if output.is_relative_to((root / "notebooks").resolve()):
            raise CourseError(
                f"{output} lies inside notebooks/, which the course never writes to; choose another folder."
            )
    out.mkdir(parents=True, exist_ok=True)
    if (glossary := root / "notebooks" / "glossary.md").is_file():  # the notebooks link to it
        shutil.copyfile(glossary, out / glossary.name)

    committed = [nbformat.v4.reads(path.read_text(encoding="utf-8")) for path in notebooks]
    originals = (
        [student_edition(root / "notebooks" / "src" / f"{path.stem}.py") for path in notebooks]
        if unsolved
        else committed
    )
    workers = workers or at_once(len(notebooks), MEMORY)
    env = kernel_env(OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // workers))))
    with (
        tqdm(
            total=sum(map(_code_cells, originals)),
            unit="cell",
            disable=not progress,
            desc=f"{len(notebooks)} notebooks, {workers} at a time",
        ) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        runs = [
            pool.submit(_run_one, *job, profile, env, bar)
            for job in zip([path.stem for path in notebooks], originals, outputs)
        ]
        rows = [run.result() for run in runs]
    for row, nb, shown in zip(rows, originals, committed):
        ran = row.pop("ran")
        if unsolved and not row["failures"]:
            row["failures"] = unlike(ran, shown, row["notebook"])
        elif not row["failures"]:
            row["failures"] = [
                f"{row['notebook']}: the check of exercise {exercise} did not pass."
                for exercise in sorted(exercises(nb).keys() - hygiene.passed(ran))
            ]
        row["status"] = "failed" if row["failures"] else "ok"
    failures = [text for row in rows for text in row.pop("failures")]
    if progress:
        print(course_table(rows))
    if failures:
        raise NotebookFailed("\n\n".join(failures), rows)
    return rows


def unlike(ran, committed, stem: str) -> list[str]:
    """Sentences on how the run of an unsolved notebook differs from what its reader should see."""
    expected = {cell.id: cell for cell in committed.cells}
    found = []
    for index, cell in enumerate(ran.cells):
        if cell.cell_type != "code" or cell.id not in expected:  # a cell that papermill added
            continue
        where, text = f"{stem}, unsolved, {hygiene.label(ran, index)}", _printed(cell)
        if number := parts(cell).get("check"):
            if not re.match(rf"○ exercise {re.escape(number)} is not attempted yet", text):
                found.append(
                    f"{where}: the check of exercise {number} printed {text[:200]!r}, not that it is not attempted yet."
                )
        elif text != _printed(expected[cell.id]):
            found.append(
                f"{where}: printed {text[:200]!r}, the committed notebook {_printed(expected[cell.id])[:200]!r}."
            )
        else:
            found += [f"{where}: {text}." for text in compare_cell(expected[cell.id], cell.get("outputs", []))]
        if noise := _printed(cell, "stderr"):
            found.append(f"{where}: wrote to stderr: {noise.strip()[:200]!r}.")
    return found


def _printed(cell, stream: str = "stdout") -> str:
    return "".join(output.text for output in cell.get("outputs", []) if output.get("name") == stream)


def course_table(rows: list[dict]) -> str:
    """The rows as text, with a line of totals."""
    total = {key: sum(row[key] for row in rows) for key in ("cells", "seconds", "passed", "checks")}
    total |= dict(notebook="total", status="", peak_mb=max(row["peak_mb"] for row in rows))
    width = max(len(row["notebook"]) for row in [*rows, total])
    lines = [f"{'notebook':<{width}}  cells  seconds  peak MB  checks passed"]
    for row in [*rows, total]:
        checks = f"{row['passed']}/{row['checks']}"
        lines.append(
            f"{row['notebook']:<{width}}  {row['cells']:5d}  {row['seconds']:7.1f}"
            f"  {row['peak_mb']:7.0f}  {checks:>13}  {row['status']}".rstrip()
        )
    return "\n".join(lines)


def _run_one(stem: str, original, output: Path, profile: str, env: dict[str, str], bar) -> dict:
    """Run one notebook and return its row, with the notebook as it is after the run under `ran`."""
    places = {cell.id: hygiene.label(original, index) for index, cell in enumerate(original.cells)}
    finished, where, executed = 0, "start of the kernel", {}

    def on_cell_start(cell, cell_index):
        nonlocal where
        where = places.get(cell.id, "the parameters papermill sets")

    def on_cell_executed(cell, cell_index, execute_reply):
        nonlocal finished
        executed[cell.id] = cell
        if cell.id in places:  # not the cell that papermill added
            finished += 1
            bar.update()

    failures, start = [], time.perf_counter()
    write(original, output)
    with PeakMemory() as memory:

        class Kernel(CourseKernel):
            async def start_kernel(self, **kw):
                await super().start_kernel(**kw | {"env": env})
                memory.watch(self.provisioner.pid)

        if "PROFILE" not in papermill.inspect_notebook(output):  # no parameter PROFILE: papermill only warns
            failures.append(f"{stem}: has no parameter PROFILE; set it in a cell tagged `parameters`.")
        else:
            try:
                papermill.execute_notebook(
                    output,
                    output,
                    parameters=dict(PROFILE=profile),
                    cwd=output.parent,
                    progress_bar=False,
                    kernel_name="python3",
                    language="python",
                    request_save_on_cell_execute=False,  # else it is written twice a cell: a third of all CPU time
                    kernel_manager_class=Kernel,
                    start_timeout=120,
                    execution_timeout=CELL_SECONDS[profile],
                    on_cell_start=on_cell_start,
                    on_cell_executed=on_cell_executed,
                )
            except PapermillExecutionError as error:
                what = f"{stem}, {where}: raised {error.ename}: {error.evalue}"
                failures.append("\n".join([what, *error.traceback]))
            except CELL_ERRORS as error:
                failures.append(f"{stem}, {where}: {explain(error)}")
                unfinished = nbformat.read(output, as_version=4)  # for whoever looks for the reason
                unfinished.cells = [executed.get(cell.id, cell) for cell in unfinished.cells]
                write(unfinished, output)
    seconds = time.perf_counter() - start
    if not failures and finished < _code_cells(original):  # for papermill, `sys.exit()` is success
        failures.append(f"{stem}, {where}: ended the notebook before its last cell.")
    bar.update(_code_cells(original) - finished)  # the cells that a failed notebook did not run
    ran = nbformat.read(output, as_version=4)
    return dict(
        notebook=stem,
        cells=_code_cells(original),
        seconds=round(seconds, 1),
        peak_mb=round(memory.peak / 1e6),
        passed=len(hygiene.passed(ran)) if finished else 0,  # a notebook that did not start has its old outputs
        checks=len(exercises(original)),
        output=str(output),
        failures=failures,
        ran=ran,
    )


def _code_cells(nb) -> int:
    return sum(cell.cell_type == "code" for cell in nb.cells)
