"""`vt-course test`: all tests, in stages, the quickest first. CI runs the same stages.

    rules      checks that committed files, notebooks and their sources obey the rules; no notebook is executed
    tests      runs the unit tests. Those that are marked `dear` (compilers, benches, video models
               of full size) are left to .ci/more
    outputs    executes every committed notebook again and compares each output and each figure with the committed
               one. The committed notebooks contain the solutions, so these must print that their checks passed
    unsolved   runs the student edition of every notebook from top to bottom, as it is handed out, with the code of
               `vt-course course`. Each notebook must stay within the memory that a notebook may take

The results are in build/test: JUnit XML, the executed unsolved notebooks, the notebooks whose outputs differ
(failed/), and seconds.json, whose times are compared with tests/budget.json.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from vt_course import CourseError, need_own_checkout, repo_root
from vt_course.files import atomic_write, read_json
from vt_course.machine import cores
from vt_course.publish import NotebookFailed
from vt_course.publish.compare import compare
from vt_course.publish.course import MEMORY, run_course

RULES = ("test_project.py", "test_notebooks.py", "test_pages.py")
STAGES = ("rules", "tests", "outputs", "unsolved")
QUICK = ("rules", "tests")
SLACK = 1.5  # a stage that takes more than 1.5 times its budget of CPU seconds gives a warning


def run_suite(stages: list[str] | None = None, *, quick: bool = False, root: Path | None = None) -> list[dict]:
    """Run the stages and print what they do. Default: all; quick: rules, and the tests that are not marked slow.

    All chosen stages are run, also after a failure. Returns a row for each: stage, passed, seconds, cpu_seconds (of all
    processes that it started; None if the system does not tell), budget (CPU seconds, or None). Raises CourseError for
    a stage that does not exist.
    """
    root = root or repo_root()
    need_own_checkout(root, "`vt-course test`, which runs tests/ and writes build/,")
    if unknown := sorted(set(stages or ()) - set(STAGES)):
        raise CourseError(f"there is no stage {', '.join(unknown)}; choose from {', '.join(STAGES)}")
    chosen = [stage for stage in STAGES if stage in (stages or (QUICK if quick else STAGES))]
    shutil.rmtree(root / "build" / "test", ignore_errors=True)
    (root / "build" / "test").mkdir(parents=True)
    budget = read_json(root / "tests" / "budget.json", "restore it with git.", dict)
    rows = []
    for number, stage in enumerate(chosen, start=1):
        expected = None if quick else budget["cpu_seconds"].get(stage)
        say(
            f"stage {number} of {len(chosen)}, {stage}: {DOES[stage]}"
            + (f" (about {expected:.0f} CPU seconds)" if expected else "")
        )
        start, before = time.monotonic(), cpu_seconds()
        passed = RUN[stage](root, quick)
        spent = None if before is None else round(cpu_seconds() - before, 1)
        rows.append(
            dict(
                stage=stage,
                passed=passed,
                seconds=round(time.monotonic() - start, 1),
                cpu_seconds=spent,
                budget=expected,
            )
        )
        atomic_write(root / "build" / "test" / "seconds.json", json.dumps(rows, indent=1).encode())
    return rows


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def verdict(rows: list[dict]) -> str:
    """The last line of output: which stages failed, how long each took, and which exceeded their budget."""
    failed = [row["stage"] for row in rows if not row["passed"]]
    times = ", ".join(
        f"{row['stage']} {row['seconds']:.0f} s" + (f" ({row['cpu_seconds']:.0f} CPU)" if row["cpu_seconds"] else "")
        for row in rows
    )
    dear = [
        f"{row['stage']} took {row['cpu_seconds']:.0f} CPU seconds, {row['cpu_seconds'] / row['budget']:.1f} times "
        f"its budget of {row['budget']:.0f}"
        for row in rows
        if row["budget"] and row["cpu_seconds"] and row["cpu_seconds"] > SLACK * row["budget"]
    ]
    return f"== {'FAILED: ' + ', '.join(failed) if failed else 'all stages passed'}; {times}" + "".join(
        f"; WARNING: {text} (tests/budget.json)" for text in dear
    )


def cpu_seconds() -> float | None:
    """CPU seconds of this process and of all its child processes that have ended; None on Windows."""
    try:
        import resource
    except ModuleNotFoundError:  # on Windows
        return None
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def run_pytest(root: Path, stage: str, *options: str) -> bool:
    """Whether all tests passed. A run without any test counts as failed."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--junitxml={root / 'build' / 'test' / stage}.xml",
        *options,
    ]
    return subprocess.call(command, cwd=root, env=env) == 0


def rules(root: Path, quick: bool) -> bool:
    return run_pytest(root, "rules", *(f"tests/{name}" for name in RULES))


def tests(root: Path, quick: bool) -> bool:
    others = [f"--ignore=tests/{name}" for name in RULES]
    return run_pytest(
        root,
        "tests",
        "tests",
        *others,
        "-m",
        "not dear and not slow" if quick else "not dear",
        "-n",
        str(min(cores(), 4)),
        "--dist",
        "loadfile",
        "--durations=10",
        "--durations-min=5",
    )


def outputs(root: Path, quick: bool) -> bool:
    notebooks = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    report = root / "build" / "test" / "outputs.xml"
    if (
        compare(
            notebooks,
            f"--junitxml={report}",
            "-o",
            "junit_family=xunit1",
            root=root,
            workers=min(cores(), len(notebooks)),
        )
        == 0
    ):
        return True
    # The notebooks that differ are executed again and kept, to help to find the reason.
    cases = ElementTree.parse(report).iter("testcase") if report.is_file() else ()
    red = sorted(
        {Path(case.get("file")).stem for case in cases if list(case.iter("failure")) or list(case.iter("error"))}
    )
    if red:
        try:
            run_course(red, out=root / "build" / "test" / "failed", progress=False, root=root)
        except NotebookFailed as error:
            print(error, file=sys.stderr)
        print(f"executed again into build/test/failed: {', '.join(red)}")
    return False


def unsolved(root: Path, quick: bool) -> bool:
    try:
        rows = run_course(unsolved=True, out=root / "build" / "test" / "unsolved", root=root)
    except NotebookFailed as error:
        print(error, file=sys.stderr)
        return False
    large = [
        f"{row['notebook']} took {row['peak_mb']:,} MB of memory, more than the {MEMORY / 1e6:,.0f} that a notebook "
        f"may take"
        for row in rows
        if row["peak_mb"] > MEMORY / 1e6
    ]
    print(*large, sep="\n", file=sys.stderr)
    return not large


DOES = {
    "rules": "the rules of the house, nothing is executed",
    "tests": "the unit tests, but for those of compilers, benches and published video models (.ci/more)",
    "outputs": "committed notebooks, executed again and compared, output by output and figure by figure",
    "unsolved": "the student edition, from top to bottom as it is handed out",
}
RUN = {"rules": rules, "tests": tests, "outputs": outputs, "unsolved": unsolved}
