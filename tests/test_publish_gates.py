"""Each gate for notebooks turns red on its fault, and stays green on a clean notebook.

The toy notebook below is built once; the broken ones are edits of it, or of its source.
"""

import base64
import copy
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import nbformat
import psutil
import pytest

from vt_course import CourseError, machine, repo_root
from vt_course.machine import PeakMemory, at_once
from vt_course.publish import NotebookFailed, course, hygiene, kernel
from vt_course.publish.build import build
from vt_course.publish.course import course_table, run_course
from vt_course.publish.source import METADATA, cell_ids, from_source

pytestmark = pytest.mark.slow

CLEAN = """# %% [markdown]
# # A toy

# %% tags=["parameters"]
PROFILE = "smoke"

# %%
import os

print("two threads would differ", os.environ["OMP_NUM_THREADS"] == "1")


def check(number, f, solution=False):
    try:
        print("✓ exercise 1.1" if f(2) == 4 else "exercise 1.1: wrong")
    except NotImplementedError:
        print("exercise 1.1: not attempted yet")
    return f

# %%
print("figures are drawn by", os.environ["MPLBACKEND"])

# %% tags=["exercise:1.1"]
def double(x):
    raise NotImplementedError("exercise 1.1")

# %% tags=["check:1.1"]
double = check("1.1", double)

# %% [markdown] tags=["hints:1.1"]
# <details><summary>Hint</summary>Add it to itself.</details>

# %% tags=["solution:1.1"]
def double(x):
    return x + x


double = check("1.1", double, solution=True)

# %% tags=["claim:toy-1"]
"%s" % double(21)
"""
SHORT = """# %% tags=["parameters"]
PROFILE = "smoke"

# %%
print("one")

# %%
{cell}

# %%
print("three")
"""
FAULTS = {  # what the third cell of a short notebook may do
    "error": "raise KeyError('broken on purpose')",
    "dead": "import os\n\nos._exit(1)",
    "slow": "import time\n\ntime.sleep(60)",
}
DRAW = """import io

import numpy as np
from IPython.display import Image
from PIL import Image as Pillow


def draw(number):
    x = np.full((60, 90, 3), 255, np.uint8)
    x[10 * number : 10 * number + 9, 20:70] = 0
    out = io.BytesIO()
    Pillow.fromarray(x).save(out, "png")
    return Image(out.getvalue())"""
REPR = "<IPython.core.display.Image object>"
STDERR = "import sys\n\nprint('careful', file=sys.stderr)"
CELL = "cell 3 (In [3])"


def write_source(root: Path, stem: str, text: str) -> Path:
    (root / "notebooks" / "src").mkdir(parents=True, exist_ok=True)
    path = root / "notebooks" / "src" / f"{stem}.py"
    path.write_text(text, encoding="utf-8")
    return path


def write_notebook(root: Path, stem: str, nb) -> Path:
    (root / "notebooks").mkdir(parents=True, exist_ok=True)
    path = root / "notebooks" / f"{stem}.ipynb"
    nbformat.write(nb, path)
    return path


def printed(text: str, name: str = "stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


def short(cell: str, outputs=()) -> nbformat.NotebookNode:
    """A built-looking notebook around `cell`, as if an earlier version of it had run well."""
    make = nbformat.v4
    cells = [
        make.new_code_cell('PROFILE = "smoke"', metadata=dict(tags=["parameters"])),
        make.new_code_cell('print("one")', outputs=[printed("one\n")]),
        make.new_code_cell(cell, outputs=list(outputs)),
        make.new_code_cell('print("three")', outputs=[printed("three\n")]),
    ]
    nb = make.new_notebook(cells=cells, metadata=copy.deepcopy(METADATA))
    for count, (cell, name) in enumerate(zip(cells, cell_ids(nb)), start=1):
        cell.execution_count, cell.id = count, name
    return nb


def figures_exchanged() -> nbformat.NotebookNode:
    """A notebook of five drawings of one size. The first two are exchanged, the third lost its picture, the fourth is
    as it was drawn, the fifth is of something else, but tagged measured."""
    nb, scope = short(DRAW), {}
    nb.cells.pop()
    exec(DRAW, scope)
    drawn = []
    for number in range(5):
        data = {"image/png": base64.b64encode(scope["draw"](number).data).decode(), "text/plain": REPR}
        drawn.append(nbformat.v4.new_output("execute_result", data, execution_count=len(nb.cells) + 1))
        tags = ["figure", "measured"] if number == 4 else ["figure"]
        nb.cells.append(nbformat.v4.new_code_cell(f"draw({number})", metadata=dict(tags=tags)))
    shown = [drawn[1], drawn[0], drawn[2], drawn[3], drawn[0]]
    del shown[2]["data"]["image/png"]
    for count, (cell, output) in enumerate(zip(nb.cells[-5:], shown), start=len(nb.cells) - 4):
        cell.execution_count, cell.outputs = count, [output]
    return nb


def code(nb, number: int):
    return [cell for cell in nb.cells if cell.cell_type == "code"][number - 1]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A checkout with one clean notebook, built although the machine's kernelspec is broken."""
    root = tmp_path_factory.mktemp("checkout")
    spec = root / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        json.dumps(dict(argv=["/nonexistent"], display_name="no", language="python")), encoding="utf-8"
    )
    write_source(root, "01_clean", CLEAN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(root / "jupyter"))
        patch.setenv("MPLBACKEND", "Agg")
        rows = build(root=root, progress=False)
    assert [row["notebook"] for row in rows] == ["01_clean"]
    assert (rows[0]["cells"], rows[0]["status"]) == (7, "built")
    return root


@pytest.fixture(scope="module")
def built(clean):
    return nbformat.read(clean / "notebooks" / "01_clean.ipynb", as_version=4)


# ---------------------------------------------------------------- the clean notebook


def test_clean_notebook_passes_hygiene_and_drift(clean):
    assert hygiene.problems(clean / "notebooks" / "01_clean.ipynb") == []
    assert build(root=clean, check=True) == [dict(notebook="01_clean", status="in step")]


def test_built_notebook_holds_what_readers_need_and_no_more(clean, built):
    assert set(built.metadata) == {"kernelspec", "language_info", "vt_course"}
    assert set(built.metadata.vt_course) == {"sha256"}  # by which the next build knows that nobody edited it
    assert built.metadata.language_info == {"name": "python"}
    assert all(set(cell.metadata) <= {"tags"} for cell in built.cells)
    # It was built with MPLBACKEND=Agg, which would keep figures out of the notebook.
    assert code(built, 3).outputs[0].text.endswith("matplotlib_inline.backend_inline\n")
    assert not list(clean.glob("notebooks/*.part"))
    profile = repo_root() / ".ci" / "ipython" / "profile_default"
    assert not list(profile.rglob("*.sqlite"))  # no history that kernels would share


def test_cell_ids_do_not_depend_on_the_cells_before(clean, built, tmp_path):
    moved = from_source(write_source(tmp_path, "01_clean", "# %%\nprint('new')\n\n" + CLEAN))
    twice = from_source(write_source(tmp_path, "02_twice", "# %%\nx = 1\n\n# %%\nx = 1\n"))
    assert [cell.id for cell in moved.cells[1:]] == [cell.id for cell in built.cells]
    assert len({cell.id for cell in twice.cells}) == 2


def test_course_runs_the_clean_notebook_and_leaves_it_alone(clean, capfd):
    notebook = clean / "notebooks" / "01_clean.ipynb"
    before = notebook.read_bytes(), sorted(notebook.parent.iterdir())
    (row,) = run_course(root=clean, profile="lecture")
    assert (row["cells"], row["passed"], row["checks"], row["status"]) == (7, 1, 1, "ok")
    assert row["seconds"] > 0 and 0 < row["peak_mb"] < 2000
    assert (notebook.read_bytes(), sorted(notebook.parent.iterdir())) == before
    ran = nbformat.read(row["output"], as_version=4)
    assert any('PROFILE = "lecture"' in cell.source for cell in ran.cells)
    assert Path(row["output"]) == clean / "build" / "notebooks" / "01_clean.ipynb"
    out, err = capfd.readouterr()
    assert out == course_table([row]) + "\n" and re.search(r"01_clean +7 .* 1/1  ok\n", out)
    assert "7/7" in err and "IPKernelApp" not in err  # the bar; but kernels start silently


def test_the_course_runs_side_by_side_and_its_rows_keep_their_order(built, tmp_path):
    """Each of the two waits for the other, with the threads of half of the machine."""
    meet = (
        "import os, pathlib, time\n\npathlib.Path('{0}').touch()\nstart = time.time()\nwhile not "
        "pathlib.Path('{1}').exists():\n"
        "    assert time.time() < start + 30\n    time.sleep(0.05)\nassert os.environ['OMP_NUM_THREADS'] == '1'"
    )
    for stem, cell in (("01_first", meet.format("a", "b")), ("02_second", meet.format("b", "a"))):
        write_notebook(tmp_path, stem, short(cell))
    rows = run_course(root=tmp_path, progress=False, workers=2)
    assert [(row["notebook"], row["status"]) for row in rows] == [("01_first", "ok"), ("02_second", "ok")]


@pytest.mark.parametrize(
    "free, limit, cpus, notebooks, wanted",
    [(64, 64, 8, 11, 8), (64, 64, 2, 11, 2), (64, 64, 8, 3, 3), (5, 64, 8, 11, 2), (64, 8, 8, 11, 4), (1, 1, 8, 11, 1)],
)
def test_as_many_at_once_as_cores_and_memory_allow(monkeypatch, free, limit, cpus, notebooks, wanted):
    monkeypatch.setattr(machine, "cores", lambda: cpus)
    monkeypatch.setattr(machine, "memory_limit", lambda: limit * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("", (), {"available": free * 2**30}))
    assert at_once(notebooks, course.MEMORY) == wanted


# ---------------------------------------------------------------- the student edition, as it is handed out

HANDED_OUT = CLEAN.replace('"%s" % double(21)', "print(double(21))").replace(
    'print("exercise 1.1: not attempted yet")\n    return f',
    'print("○ exercise 1.1 is not attempted yet")\n        return lambda x: 2 * x\n    return f',
)


@pytest.fixture(scope="module")
def handed_out(tmp_path_factory):
    """A notebook whose check says what the course's checks say; its student edition runs unsolved."""
    root = tmp_path_factory.mktemp("unsolved")
    write_source(root, "01_toy", HANDED_OUT)
    build(root=root, progress=False)
    return root / "notebooks" / "01_toy.ipynb"


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("", "", None),
        ("○ exercise 1.1 is not attempted yet", "✓ exercise 1.1", "the check of exercise 1.1 printed '✓ exercise 1.1"),
        ("lambda x: 2 * x", "lambda x: 3 * x", "printed '63.*', the committed notebook '42"),
        ("return lambda", "import sys; print('!', file=sys.stderr); return lambda", "wrote to stderr: '!'"),
        ("return lambda x: 2 * x", "return f", "raised NotImplementedError: exercise 1.1"),
    ],
)
def test_an_unsolved_run_prints_what_the_committed_notebook_shows(handed_out, tmp_path, old, new, message):
    assert HANDED_OUT.count(old) == 1 or not old
    write_source(tmp_path, "01_toy", HANDED_OUT.replace(old, new))
    shutil.copy(handed_out, tmp_path / "notebooks")
    if message is None:
        (row,) = run_course(root=tmp_path, unsolved=True, progress=False)
        assert (row["passed"], row["checks"], row["status"]) == (0, 1, "ok")
        assert Path(row["output"]) == tmp_path / "build" / "unsolved" / "01_toy.ipynb"
        assert "return x + x" not in Path(row["output"]).read_text(encoding="utf-8")
    else:
        with pytest.raises(NotebookFailed, match=message):
            run_course(root=tmp_path, unsolved=True, progress=False)


# ---------------------------------------------------------------- nbval


def test_nbval_gate(clean, built, tmp_path):
    """One run, two workers, as in `make test` but for the time a cell may take."""
    shutil.copytree(repo_root() / ".ci", tmp_path / ".ci")  # notebooks must lie in the checkout, see `compare`
    shutil.copy(repo_root() / "pyproject.toml", tmp_path)
    write_notebook(tmp_path, "01_clean", built)
    broken = short("print(1 + 1)", [printed("3\n")])
    for count, text in enumerate([STDERR, FAULTS["error"]], start=5):
        broken.cells.append(nbformat.v4.new_code_cell(text, execution_count=count))
    write_notebook(tmp_path, "02_broken", broken)
    write_notebook(tmp_path, "03_dead", short(FAULTS["dead"]))
    write_notebook(tmp_path, "04_slow", short(FAULTS["slow"]))
    write_notebook(tmp_path, "05_figures", figures_exchanged())
    report = tmp_path / "report.xml"
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    code = (
        "import sys\nfrom pathlib import Path\nfrom vt_course.publish.compare import compare\nroot = "
        "Path(sys.argv[1])\n"
        "sys.exit(compare(sorted((root / 'notebooks').glob('*.ipynb')), *sys.argv[2:], root=root))"
    )
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            tmp_path,
            "--nbval-cell-timeout",
            "6",
            "--junitxml",
            report,
            "-o",
            "junit_family=xunit1",
        ],
        env={**env, "MPLBACKEND": "Agg"},
        cwd=repo_root(),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    cells, red = {}, {}
    for case in ElementTree.parse(report).iter("testcase"):
        stem = Path(case.get("file")).stem
        cells[stem] = cells.get(stem, 0) + 1
        failed = [*case.iter("failure"), *case.iter("error")]
        if failed:
            red.setdefault(stem, {})[case.get("name")] = failed[0].text
    assert cells == {"01_clean": 7, "02_broken": 6, "03_dead": 4, "04_slow": 4, "05_figures": 8}
    # nbval counts code cells from 0: Cell 2 is In [3]. The good cells are not red.
    assert {stem: list(names) for stem, names in red.items()} == {
        "02_broken": ["Cell 2", "Cell 4", "Cell 5"],
        "03_dead": ["Cell 2"],
        "04_slow": ["Cell 2"],
        "05_figures": ["Cell 3", "Cell 4", "Cell 5"],
    }, run.stdout
    assert "figures: the pictures differ in" in red["05_figures"]["Cell 3"]
    assert "figures: the committed cell shows 0 pictures, the new run 1" in red["05_figures"]["Cell 5"]
    assert "Cell outputs differ" in red["02_broken"]["Cell 2"]
    assert "careful" in red["02_broken"]["Cell 4"]
    assert "broken on purpose" in red["02_broken"]["Cell 5"]
    assert "Timeout of 6 seconds" in red["04_slow"]["Cell 2"]


# ---------------------------------------------------------------- the course run


def test_course_names_every_failure_and_goes_on(clean, built, tmp_path, monkeypatch):
    unsolved = copy.deepcopy(built)
    unsolved.cells[7].source = "def double(x):\n    return 3 * x\n\n\ncheck('1.1', double)"
    unaware = short("x = 1")
    unaware.cells[0].source = "PROFIL = 'smoke'"
    for stem, cell in FAULTS.items():
        write_notebook(tmp_path, f"10_{stem}", short(cell))
    write_notebook(tmp_path, "60_exit", short("import sys\n\nsys.exit()"))
    write_notebook(tmp_path, "70_unsolved", unsolved)
    write_notebook(tmp_path, "80_unaware", unaware)
    write_notebook(tmp_path, "90_fine", short("x = 1"))
    monkeypatch.setitem(kernel.CELL_SECONDS, "smoke", 6)
    with pytest.raises(NotebookFailed) as failed:
        run_course(root=tmp_path, progress=False)
    text, rows = str(failed.value), {row["notebook"][3:]: row for row in failed.value.rows}
    assert {name: row["status"] for name, row in rows.items()} == {
        "dead": "failed",
        "slow": "failed",
        "error": "failed",
        "exit": "failed",
        "unsolved": "failed",
        "unaware": "failed",
        "fine": "ok",
    }
    assert f"error, {CELL}: raised KeyError: 'broken on purpose'\n" in text
    assert "----> 1 raise KeyError('broken on purpose')" in text  # the traceback
    assert f"dead, {CELL}: the kernel died" in text
    assert f"slow, {CELL}: took too long" in text
    assert f"exit, {CELL}: ended the notebook before its last cell" in text
    assert "unsolved: the check of exercise 1.1 did not pass" in text
    assert "unaware: has no parameter PROFILE" in text
    assert rows["dead"]["seconds"] < rows["slow"]["seconds"]  # not only when its time is up
    for name in ("dead", "slow", "error"):  # what ran is kept, for whoever looks for the reason
        assert "one\n" in Path(rows[name]["output"]).read_text(encoding="utf-8").replace("\\n", "\n")
    assert "fine" not in text


def test_kernel_that_does_not_start_is_named(clean, tmp_path, monkeypatch):
    (tmp_path / "ipykernel_launcher.py").write_text("raise SystemExit(1)", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    message = "01_clean, start of the kernel: the kernel did not start: "
    with pytest.raises(NotebookFailed, match=message):
        run_course(root=clean, progress=False)
    with pytest.raises(NotebookFailed, match=message):
        build(root=clean, progress=False)
    assert hygiene.problems(clean / "notebooks" / "01_clean.ipynb") == []


@pytest.mark.posix("symbolic links")
def test_course_never_writes_to_notebooks(clean, tmp_path):
    notebook = clean / "notebooks" / "01_clean.ipynb"
    before = notebook.read_bytes()
    folder = notebook.parent
    for out in (folder, folder / "new", clean / "build" / ".." / "notebooks"):
        with pytest.raises(CourseError, match="never writes to"):
            run_course(root=clean, out=out, progress=False)
    (tmp_path / "01_clean.ipynb").symlink_to(notebook)
    with pytest.raises(CourseError, match="never writes to"):
        run_course(root=clean, out=tmp_path, progress=False)
    assert notebook.read_bytes() == before and not (folder / "new").exists()


def test_unknown_names_are_the_users_mistake(clean, tmp_path):
    with pytest.raises(CourseError, match="'07'; choose from 01_clean"):
        run_course(["07"], root=clean, progress=False)
    with pytest.raises(CourseError, match="'tiny'; choose from smoke"):
        run_course(profile="tiny", root=clean, progress=False)
    with pytest.raises(CourseError, match="'02_no'; choose from 01_clean"):
        build(["02_no"], root=clean)
    with pytest.raises(CourseError, match="--profile full"):
        build(profile="full", root=clean)
    with pytest.raises(CourseError, match="There is no"):
        run_course(root=tmp_path, progress=False)


def test_peak_memory_counts_only_what_is_watched():
    sleeper = "import sys, time; hold = bytearray(int(sys.argv[1])); time.sleep(1.5)"
    before = subprocess.Popen([sys.executable, "-c", sleeper, str(200_000_000)])
    with PeakMemory() as memory:
        watched = subprocess.Popen([sys.executable, "-c", sleeper, str(60_000_000)])
        memory.watch(watched.pid)
        watched.wait()
        memory.watch(watched.pid)  # it has ended: nothing to watch
    before.wait()
    assert 60e6 < memory.peak < 150e6


# ---------------------------------------------------------------- build


@pytest.mark.parametrize("stem", FAULTS)
def test_failed_build_names_the_cell_and_keeps_the_old_notebook(stem, tmp_path, monkeypatch):
    monkeypatch.setitem(kernel.CELL_SECONDS, "smoke", 4)
    write_source(tmp_path, "05_toy", SHORT.format(cell=FAULTS[stem]))
    old = write_notebook(tmp_path, "05_toy", short("x = 1")).read_bytes()
    message = {"error": "raised KeyError: 'broken on purpose'", "dead": "the kernel died", "slow": "took too long"}[
        stem
    ]
    with pytest.raises(NotebookFailed) as failed:
        build(root=tmp_path, progress=False)
    assert f"05_toy, {CELL}: {message}" in str(failed.value)
    assert (tmp_path / "notebooks" / "05_toy.ipynb").read_bytes() == old
    assert failed.value.rows[0]["status"] == "failed"


def test_build_refuses_stderr(tmp_path):
    write_source(tmp_path, "05_toy", SHORT.format(cell=STDERR))
    message = re.escape(f"05_toy, {CELL}: wrote to stderr: 'careful'")
    with pytest.raises(NotebookFailed, match=message):
        build(root=tmp_path, progress=False)
    assert not (tmp_path / "notebooks" / "05_toy.ipynb").exists()


def test_build_refuses_unsuitable_source_before_running_it(tmp_path):
    marker = tmp_path / "it_ran"
    write_source(tmp_path, "05_toy", SHORT.format(cell=f"open({str(marker)!r}, 'w').close();"))
    with pytest.raises(NotebookFailed, match="a line ends with `;`"):
        build(root=tmp_path, progress=False)
    assert not marker.exists()


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("return x + x", "return 2 * x", r"01_clean, cell 8 \(In \[6\]\): differs from its source"),
        ('tags=["claim:toy-1"]', 'tags=["oracle"]', r"cell 9 \(In \[7\]\): differs"),
        ("# # A toy", "# # Another toy", "cell 1: differs"),
        ("# %% [markdown]\n# # A toy", "# %%\nx = 1", "cell 1: differs"),
        ('"%s" % double(21)', '"%s" % double(21)\n\n# %%\nx = 1', "has 9 cells, its source 10"),
    ],
)
def test_drift_is_named_and_nothing_is_written(built, tmp_path, old, new, message):
    assert CLEAN.count(old) == 1
    write_source(tmp_path, "01_clean", CLEAN.replace(old, new))
    committed = write_notebook(tmp_path, "01_clean", built)
    before = committed.read_bytes()
    with pytest.raises(NotebookFailed, match=message) as failed:
        build(root=tmp_path, check=True)
    assert committed.read_bytes() == before and "vt-course build 01_clean" in str(failed.value)


def test_drift_finds_notebooks_without_source_and_sources_without_notebook(built, tmp_path):
    write_source(tmp_path, "01_clean", CLEAN)
    write_source(tmp_path, "02_new", CLEAN)
    write_notebook(tmp_path, "01_clean", built)
    write_notebook(tmp_path, "03_orphan", built)
    message = "02_new: was never built.*\n03_orphan: has no source"
    with pytest.raises(NotebookFailed, match=message) as failed:
        build(root=tmp_path, check=True)
    assert [row["status"] for row in failed.value.rows] == ["in step", "drifted", "no source"]


# ---------------------------------------------------------------- hygiene


def never_run(nb):
    code(nb, 2).execution_count, code(nb, 2).outputs = None, []


def stripped(nb):
    for number in range(1, 8):
        code(nb, number).execution_count, code(nb, number).outputs = None, []


def outputs_cleared(nb):
    for number in range(1, 8):
        code(nb, number).outputs = []


def run_twice(nb):
    for number in range(1, 8):
        code(nb, number).execution_count += 1


def holds_error(nb):
    code(nb, 2).outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])]


def holds_stderr(nb):
    code(nb, 2).outputs = [printed("UserWarning: careful\n", "stderr")]


def names_machine(nb):
    code(nb, 2).outputs = [printed("saved /home/ann/x.png\n")]


def unsolved(nb):
    code(nb, 6).outputs = [printed("exercise 1.1: wrong\n")]


def source(text, number=2):
    def edit(nb):
        code(nb, number).source = text

    return edit


def tags(number, *tags):
    def edit(nb):
        code(nb, number).metadata["tags"] = list(tags)

    return edit


def hints(text):
    def edit(nb):
        nb.cells[6].source = text

    return edit


def hints_last(nb):
    nb.cells.append(nb.cells.pop(6))


def same_ids(nb):
    nb.cells[3].id = nb.cells[2].id


def other_kernel(nb):
    nb.metadata.kernelspec.name = "my-env"


def metadata(nb):
    nb.cells[2].metadata["collapsed"] = True


def heavy(nb):
    nb.cells[0].source += "\n" + "x" * 1_600_000


def long_cells(nb):
    for number in range(2, 8):
        code(nb, number).source = "\n".join(f"x{i} = {i}" for i in range(9))


IN_2 = r"01_clean, cell 3 \(In \[2\]\): "


@pytest.mark.parametrize(
    "edit, message",
    [
        (never_run, IN_2 + "execution count is None, not 2"),
        (stripped, "execution count is None, not 7"),
        (outputs_cleared, "01_clean: no cell has any output"),
        (run_twice, IN_2 + "execution count is 3, not 2"),
        (holds_error, IN_2 + "holds an error, ValueError: no"),
        (holds_stderr, IN_2 + "wrote to stderr: 'UserWarning: careful'"),
        (names_machine, IN_2 + "the output names a folder of the machine"),
        (unsolved, "01_clean: exercise 1.1 printed no line that begins with '✓ '"),
        (source("x = 1;"), IN_2 + "a line ends with `;`"),
        (source("if True:\n    x = 1;  # quiet\ny = 2"), IN_2 + "a line ends with `;`"),
        (source("!false"), IN_2 + "is not plain Python"),
        (source("%matplotlib inline"), IN_2 + "is not plain Python.*'%matplotlib inline'"),
        (source("files = !ls"), IN_2 + "is not plain Python"),
        (source("print?"), IN_2 + "is not plain Python"),
        (source("get_ipython().system('ls')"), IN_2 + r"calls get_ipython\(\)"),
        (source("# NBVAL_IGNORE_OUTPUT\nprint(1)"), IN_2 + "a comment switches nbval off"),
        (source(""), IN_2 + "is an empty code cell"),
        (source("\n".join(["x = 1"] * 31)), IN_2 + "has 31 lines; at most 30"),
        (source("x = " + "1" * 85), IN_2 + "has a line of 89 characters"),
        (long_cells, "01_clean: half of the code cells have more than 8 lines"),
        (source("PROFILE = 'full'", 1), "needs exactly one cell tagged `parameters`"),
        (tags(2, "parameters"), "needs exactly one cell tagged `parameters`"),
        (tags(2, "raises-exception"), IN_2 + "the tag 'raises-exception' is not one of"),
        (tags(2, "exercise:"), IN_2 + "the tag 'exercise:' is not"),
        (tags(6), "01_clean: exercise 1.1 lacks a cell tagged solution:1.1"),
        (tags(5), "exercise 1.1 lacks a cell tagged check:1.1"),
        (tags(7, "exercise:1.2"), "lacks a cell tagged check:1.2, hints:1.2, solution:1.2"),
        (tags(2, "exercise:1.1"), "exercise 1.1 has 2 cells tagged exercise:1.1"),
        (tags(6, "solution:1.1", "check:1.1"), "exercise 1.1: its cells must come in the order"),
        (tags(2, "hints:1.1"), "exercise 1.1: hints:1.1 must be a markdown cell"),
        (source("double = None", 4), "cell exercise:1.1 must hold NotImplementedError"),
        (hints("Add it."), "cell hints:1.1 must hold <details>"),
        (hints_last, "cells must come in the order exercise, check, hints, solution"),
        (same_ids, "01_clean: cell ids are missing or not unique"),
        (other_kernel, "01_clean: the kernelspec must be python3"),
        (metadata, IN_2 + "carries metadata collapsed; only tags and alt texts are kept"),
        (heavy, "01_clean: takes 1.6 MB; the cap is 1.5 MB"),
    ],
)
def test_hygiene_gate(built, tmp_path, edit, message):
    nb = copy.deepcopy(built)
    edit(nb)
    path = tmp_path / "01_clean.ipynb"
    path.write_text(nbformat.v4.writes(nb), encoding="utf-8")  # nbformat.write repairs the ids
    found = hygiene.problems(path)
    assert any(re.search(message, text) for text in found), found


@pytest.mark.parametrize("text", ["x = 'a;'", "x = 1  # a;", "x = [1,\n     2]", "a = 1; b = 2\nb", '"""\nx;\n"""'])
def test_hygiene_allows_semicolons_that_hide_nothing(built, text):
    nb = copy.deepcopy(built)
    code(nb, 2).source = text
    assert hygiene.source_problems(nb, "01_clean") == []


def test_hygiene_of_a_file_that_is_no_notebook(tmp_path):
    (tmp_path / "01_text.ipynb").write_text("hello", encoding="utf-8")
    (text,) = hygiene.problems(tmp_path / "01_text.ipynb")
    assert text.startswith("01_text: is not a notebook file")
