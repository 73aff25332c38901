"""Run the course: every committed notebook, in order, with papermill, into another folder."""
import threading
import time
from pathlib import Path

import nbformat
import papermill
import psutil
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from .. import CourseError, repo_root
from . import NotebookFailed, hygiene
from .kernel import CELL_ERRORS, CELL_SECONDS, PROFILES, CourseKernel, explain, select


def run_course(names: list[str] | None = None, *, profile: str = "smoke",
               out: Path | None = None, progress: bool = True,
               root: Path | None = None) -> list[dict]:
    """Execute the notebooks of `root` (the checkout); results go to `out` (build/notebooks).

    names: stems ("04_video_swin") or numbers ("04"); None: all.
    profile: "smoke", "lecture" or "full". progress: show a bar, and the table at the end.
    Returns a row for each notebook: notebook, cells (code cells), seconds, peak_mb (resident
    memory of the kernel and all it started), passed and checks (exercises), status, output.
    Raises NotebookFailed, after all were tried, when a cell fails, hangs or kills the kernel,
    the check of an exercise does not pass, or a notebook has no parameter PROFILE. Raises
    CourseError for an unknown name or profile, and for an `out` inside notebooks/, which is
    never written to.
    """
    root = root or repo_root()
    if profile not in PROFILES:
        raise CourseError(f"There is no profile {profile!r};"
                          f" choose from {', '.join(PROFILES)}.")
    notebooks = select(root / "notebooks", "[0-9][0-9]_*.ipynb", names)
    out = Path(out or root / "build" / "notebooks").resolve()
    outputs = [(out / path.name).resolve() for path in notebooks]   # links: their targets
    for output in outputs:
        if output.is_relative_to((root / "notebooks").resolve()):
            raise CourseError(f"{output} lies inside notebooks/, which the course never writes"
                              " to; choose another folder.")
    out.mkdir(parents=True, exist_ok=True)

    originals = [nbformat.v4.reads(path.read_text(encoding="utf-8")) for path in notebooks]
    rows, failures = [], []
    with tqdm(total=sum(map(_code_cells, originals)), unit="cell", disable=not progress) as bar:
        for path, original, output in zip(notebooks, originals, outputs):
            bar.set_description(path.stem)
            row, done = _run_one(path, original, output, profile, bar)
            bar.update(row["cells"] - done)             # a failed notebook leaves cells undone
            failures += row.pop("failures")
            rows.append(row)
    if progress:
        print(table(rows))
    if failures:
        raise NotebookFailed("\n\n".join(failures), rows)
    return rows


def table(rows: list[dict]) -> str:
    """The rows as text, with a line of totals."""
    total = {key: sum(row[key] for row in rows)
             for key in ("cells", "seconds", "passed", "checks")}
    total |= dict(notebook="total", status="", peak_mb=max(row["peak_mb"] for row in rows))
    width = max(len(row["notebook"]) for row in [*rows, total])
    lines = [f"{'notebook':<{width}}  cells  seconds  peak MB  checks passed"]
    for row in [*rows, total]:
        checks = f"{row['passed']}/{row['checks']}"
        lines.append(f"{row['notebook']:<{width}}  {row['cells']:5d}  {row['seconds']:7.1f}"
                     f"  {row['peak_mb']:7.0f}  {checks:>13}  {row['status']}".rstrip())
    return "\n".join(lines)


def _run_one(path: Path, original, output: Path, profile: str, bar) -> tuple[dict, int]:
    """Run one notebook; the row, and how many of its code cells came to an end."""
    places = {cell.id: hygiene.label(original, index)
              for index, cell in enumerate(original.cells)}
    finished, where = 0, "start of the kernel"

    def on_cell_start(cell, cell_index):
        nonlocal where
        where = places.get(cell.id, "the parameters papermill sets")

    def on_cell_executed(cell, cell_index, execute_reply):
        nonlocal finished
        if cell.id in places:           # papermill's own cell is not the notebook's
            finished += 1
            bar.update()

    failures, start = [], time.perf_counter()
    with PeakMemory() as memory:
        ran = "PROFILE" in papermill.inspect_notebook(path)
        if not ran:                     # papermill would only warn
            failures.append(f"{path.stem}: has no parameter PROFILE;"
                            " set it in a cell tagged `parameters`.")
        else:
            try:
                papermill.execute_notebook(
                    path, output, parameters=dict(PROFILE=profile), cwd=output.parent,
                    progress_bar=False, kernel_name="python3", language="python",
                    kernel_manager_class=CourseKernel, start_timeout=120,
                    execution_timeout=CELL_SECONDS[profile],
                    on_cell_start=on_cell_start, on_cell_executed=on_cell_executed)
            except PapermillExecutionError as error:
                what = f"{path.stem}, {where}: raised {error.ename}: {error.evalue}"
                failures.append("\n".join([what, *error.traceback]))
            except CELL_ERRORS as error:
                failures.append(f"{path.stem}, {where}: {explain(error)}")
    seconds = time.perf_counter() - start

    checks, solved = hygiene.exercises(original).keys(), set()
    if ran:
        solved = hygiene.passed(nbformat.read(output, as_version=4))
    if not failures and finished < _code_cells(original):   # to papermill `sys.exit()` is success
        failures.append(f"{path.stem}, {where}: ended the notebook before its last cell.")
    if not failures:
        failures = [f"{path.stem}: the check of exercise {exercise} did not pass."
                    for exercise in sorted(checks - solved)]
    row = dict(notebook=path.stem, cells=_code_cells(original), seconds=round(seconds, 1),
               peak_mb=round(memory.peak / 1e6), passed=len(solved), checks=len(checks),
               status="failed" if failures else "ok", output=str(output), failures=failures)
    return row, finished


def _code_cells(nb) -> int:
    return sum(cell.cell_type == "code" for cell in nb.cells)


class PeakMemory:
    """Highest resident memory, in bytes, of all processes started inside the `with`."""

    def __enter__(self):
        self.peak, self._stop = 0, threading.Event()
        self._before = {child.pid for child in psutil.Process().children()}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _watch(self):
        while not self._stop.wait(0.2):
            total = 0
            for child in psutil.Process().children(recursive=True):
                try:
                    total += 0 if child.pid in self._before else child.memory_info().rss
                except psutil.NoSuchProcess:            # ended between the two calls
                    continue
            self.peak = max(self.peak, total)
