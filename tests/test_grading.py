"""Hostile submissions in the middle of good ones: each has a row, and no good one loses a mark."""

import ast
import csv
import io
import json
import os
import re
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from functools import cache

import nbformat
import pytest
import torch

from vt_course import CourseError, __version__, cli, repo_root
from vt_course.grading import grade as batch
from vt_course.grading import sandbox
from vt_course.grading.grade import grade, harmless
from vt_course.grading.judge import Answer, changed, judge
from vt_course.grading.sandbox import Limits
from vt_course.grading.submission import assignment, read_submission, statements, variables, with_needs
from vt_course.lab.exercises import EXERCISES
from vt_course.publish.build import from_source
from vt_course.publish.release import release
from vt_course.publish.student import student_edition
from vt_course.publish.tags import parts

SOURCES = {path.stem[:2]: path for path in sorted((repo_root() / "notebooks" / "src").glob("[0-9][0-9]_*.py"))}
GOOD = "def play_backwards(clip):\n    return clip.flip(1)"
QUICK = Limits(seconds=2, memory=1 << 30, processes=16)
INSIDE = sandbox.bubblewrap()[0]
in_bubblewrap = pytest.mark.skipif(not INSIDE, reason=f"{sandbox.bubblewrap()[1]}; `.ci/more` installs it")


@cache
def known():
    return [assignment(source) for source in SOURCES.values()]


def notebook(code: str | dict = GOOD, number: str = "00"):
    """The student edition of a notebook with code in its exercises."""
    nb = student_edition(SOURCES[number])
    for cell in nb.cells:
        at = parts(cell).get("exercise")
        if at and (isinstance(code, str) or at in code):
            cell.source = code if isinstance(code, str) else code[at]
    return nb


def text(code: str | dict = GOOD, number: str = "00") -> str:
    return nbformat.writes(notebook(code, number))


def function(body: str, before: str = "") -> str:
    """An answer to exercise 0.1: lines before the function, and its body."""
    return before + "\ndef play_backwards(clip):\n" + "\n".join(f"    {line}" for line in body.splitlines())


def solutions(number: str) -> dict[str, str]:
    found = {}
    for cell in from_source(SOURCES[number]).cells:
        if at := parts(cell).get("solution"):
            found[at] = "\n".join(cell.source.splitlines()[: ast.parse(cell.source).body[-1].lineno - 1])
    return found


# ---------------------------------------------------------------- hostile submissions

LOOKS_RIGHT = """
import torch
class Equal(torch.Tensor):
    def __torch_function__(self, *a, **k): return True
    def __eq__(self, other): return torch.tensor(True)
"""
# Name -> (the answer to 0.1, what its row or its page says). Each runs.
RUNS = {
    "loop": (function("while True:\n    pass"), "it did not end in time, and was stopped; does"),
    "exit": (function("import os\nos._exit(0)"), "it ended the whole process (exit code 0); leave a function with"),
    "sleep": (function("import time\ntime.sleep(1000)"), "does it wait for something, as"),
    "quit": (function("raise SystemExit('enough')"), "`exit()` ends the whole program"),
    "fork bomb": (
        function("import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"),
        "processes, and was stopped|did not end in time",
    ),
    "memory": (
        function("hog = []\nwhile True:\n    hog.append(bytearray(b'1' * 50_000_000))"),
        "MB of memory, and was stopped|raised MemoryError",
    ),
    "a large file": (
        function("with open('large', 'wb') as f:\n    while True:\n        f.write(bytes(1 << 20))"),
        "raised OSError|signal SIGXFSZ|File too large",
    ),
    "a subclass": (
        function("return Equal(torch.zeros(1))", LOOKS_RIGHT),
        r"returned a Equal \(a subclass of Tensor\), not a tensor",
    ),
    "torch is patched": (
        function(
            "import torch\nyes = lambda *a, **k: torch.ones(())\ntorch.equal = torch.allclose = torch.isclose = yes\n"
            "torch.Tensor.__eq__ = torch.Tensor.any = yes\nreturn clip * 0"
        ),
        "numbers differ",
    ),
    "the answer of another process": (
        function("import sys\nsys.modules['__main__'].describe = lambda v: ({'value': 'passed'}, {})\nreturn clip"),
        "returned a value, not a tensor",
    ),
    "nonsense in the pipe": (
        function("import os\nfor fd in range(3, 40):\n    try:\n        os.write(fd, b'x' * 4096)\n"
                 "    except OSError:\n        pass\nreturn clip.flip(1)"),
        "wrote something into the pipe|more than 64 MB|ended the whole process",
    ),
    "a large result": (function("return clip.new_zeros(30_000_000)"), "its result has more than 64 MB"),
    "a crash": (
        function("import ctypes\nctypes.string_at(0)"), "ended the whole process by the signal SIGSEGV|did not end"
    ),
    "the package's function": (
        function("import importlib\nm = importlib.import_module('vt_' + 'course.lab.exercises')\n"
                 "return m.EXERCISES['0.1'].definition(clip)"),
        "raised ModuleNotFoundError",
    ),
    "an error at its start": ("1 / 0\nBAD = 1 / 0\n" + GOOD, "your cell raised ZeroDivisionError: division by zero"),
    "html": (function("raise ValueError('<script>alert(1)</script>\\ud800\\0')"), "&lt;script&gt;alert"),
}  # fmt: skip
# Name -> (the file, what its row or its page says). Nothing of these runs.
READ = {
    "no notebook.ipynb": (b"my answers are in the mail", "it is no notebook"),
    "wrong json.ipynb": (text()[:-40], "it is no notebook"),
    "deep.ipynb": (b"[" * 200_000, "nested too deeply|no notebook"),
    "binary.ipynb": (bytes(range(256)) * 10, "is not UTF-8 text|no text"),
    "empty.ipynb": (b"", "it is an empty file"),
    "large.ipynb": (b" " * (21 << 20), "it has 22 MB, more than 21"),
    "a list.ipynb": (b"[1, 2]", "it is no notebook"),
    "photo.jpg": (b"\xff\xd8\xff\xe0" + bytes(100), "no text|not UTF-8 text"),
    "renamed.ipynb": (text(GOOD.replace("play_", "run_")), "it defines `run_backwards`: give it back its name"),
    "not python.ipynb": (text("def play_backwards(clip:\n  return"), "your cell is not valid Python"),
    "a deep cell.ipynb": (text("x = " + "-" * 90_000 + "1\n" + GOOD), "your cell is not valid Python|process .* died"),
    "untouched.ipynb": (text({}), "not attempted"),
    "imports.ipynb": (
        text("from vt_course.lab.exercises import EXERCISES\n" + GOOD), "your cell uses `vt_course`, the course"
    ),
    "another.ipynb": (text({}, "09"), "it is notebook 09_does_it_use_time; asked for is 00_start_here"),
}  # fmt: skip


def deleted() -> str:
    nb = notebook()
    nb.cells = [cell for cell in nb.cells if "exercise" not in parts(cell)]
    return nbformat.writes(nb)


def doubled() -> str:
    """The stub twice: once filled in, once as it was, behind it."""
    nb, stub = notebook(), next(c for c in notebook({}).cells if "exercise" in parts(c))
    place = next(i for i, cell in enumerate(nb.cells) if "exercise" in parts(cell))
    stub.id = "twice"
    nb.cells.insert(place + 1, stub)
    return nbformat.writes(nb)


def older() -> str:
    """Of another edition, in which the exercise had another number."""
    nb = notebook(GOOD)
    nb.metadata.vt_course.update(sha256="0" * 64, version="0.1.0")
    for cell in nb.cells:
        if "exercise" in parts(cell):
            cell.metadata.tags = ["exercise:0.7"]
    return nbformat.writes(nb)


def without_tags() -> str:
    """As a site may save it: no tags, no ids, no metadata; a helper in a cell of its own, and a magic."""
    nb = notebook("%matplotlib inline\ndef play_backwards(clip):\n    return turned(clip)")
    for cell in nb.cells:
        cell.metadata = {}
    nb.cells.append(nbformat.v4.new_code_cell("def turned(x):\n    return x.flip(AXIS)\nAXIS = 1"))
    nb.metadata = {}
    nb.nbformat_minor = 4
    for cell in nb.cells:
        cell.pop("id", None)
    return nbformat.writes(nb)


GOOD_ONES = {  # name -> (file, what its notes say)
    "anna.ipynb": (text(), ""),
    "Zoë 你好.ipynb": (text(function("T = clip.shape[1]\nreturn clip[:, list(range(T))[::-1]]")), ""),
    "duplicated.ipynb": (doubled(), "2 cells are tagged exercise:0.1; the last one that is written counts"),
    "older.ipynb": (older(), "its edition is of release 0.1.0; its exercises were found by number and name"),
    "untagged.ipynb": (without_tags(), "it does not say of which edition it is"),
    "prints 2 GB.ipynb": (
        text(function("import sys\nfor _ in range(80):\n    sys.stdout.write('x' * 5_000_000)\nreturn clip.flip(1)")),
        "",
    ),
}  # fmt: skip


def write(folder, files: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def check_rows(rows, wanted: dict, good: dict, pages) -> None:
    rows = {row["submission"]: row for row in rows}
    assert set(rows) == set(wanted) | set(good)
    for name, sentence in wanted.items():
        row = rows[name]
        assert row["passed"] == 0, row
        said = "; ".join(row["notes"]) + (pages / row["page"]).read_text(encoding="utf-8")
        assert re.search(sentence, said) or sentence in said, (name, row)
        assert "<script" not in said
    for name, note in good.items():
        row = rows[name]
        assert (row["state"], row["passed"], row["exercises"]) == ("graded", 1, 1), row
        assert note in "; ".join(row["notes"])


@pytest.fixture(scope="module", autouse=True)
def no_progress():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VT_COURSE_PROGRESS", "")
        yield


@pytest.mark.dear
@pytest.mark.posix("fork, bubblewrap")
@in_bubblewrap
def test_all_hostile_submissions_among_good_ones(tmp_path):
    folder = tmp_path / "in"
    hostile = {f"{name}.ipynb": (text(code), sentence) for name, (code, sentence) in RUNS.items()} | READ
    hostile["deleted.ipynb"] = (deleted(), "its cell is missing, and no other cell defines `play_backwards`")
    write(folder, {name: data for name, (data, _) in (hostile | GOOD_ONES).items()})
    wanted = {name: sentence for name, (_, sentence) in hostile.items()}
    (folder / "link.ipynb").symlink_to(repo_root() / "notebooks" / "00_start_here.ipynb")
    os.mkfifo(folder / "pipe.ipynb")
    (folder / "folder").mkdir()
    wanted |= {"link.ipynb": "it is a link", "pipe.ipynb": "is a pipe", "folder": "it is a folder without a notebook"}
    rows = grade(folder, notebook="00", limits=QUICK, trust=True)
    assert len(wanted) >= 15
    check_rows(rows, wanted, {name: note for name, (_, note) in GOOD_ONES.items()}, tmp_path / "in-pages")


@pytest.mark.slow
def test_a_small_batch(tmp_path):
    """One loop and what is not run, among good ones; with bubblewrap where it is, else with the rights of the user."""
    folder = tmp_path / "in"
    hostile = {"loop.ipynb": (text(RUNS["loop"][0]), RUNS["loop"][1])}
    hostile |= {
        name: READ[name] for name in ("no notebook.ipynb", "wrong json.ipynb", "renamed.ipynb", "another.ipynb")
    }
    hostile |= {"deleted.ipynb": (deleted(), "its cell is missing"), "imports.ipynb": READ["imports.ipynb"]}
    good = {name: GOOD_ONES[name] for name in ("untagged.ipynb",)}
    write(folder, {name: data for name, (data, _) in (hostile | good).items()})
    (folder / "zoe").mkdir()
    write(folder / "zoe", {"00_start_here.ipynb": doubled()})
    said = []
    rows = grade(folder, notebook="00", limits=Limits(seconds=1), trust=True, tell=said.append)
    good = {name: note for name, (_, note) in good.items()} | {
        "zoe/00_start_here.ipynb": GOOD_ONES["duplicated.ipynb"][1]
    }
    check_rows(rows, {name: sentence for name, (_, sentence) in hostile.items()}, good, tmp_path / "in-pages")
    assert INSIDE or said[0].startswith("submissions run with your rights")
    with open(tmp_path / "in.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["submission"] for row in table] == [row["submission"] for row in rows]
    assert {row["0.1"] for row in table} == {"passed", "failed", "missing", ""}
    # Again: nothing is judged twice, and a submission that was changed is judged anew.
    write(folder, {"imports.ipynb": "{}"})
    said.clear()
    again = grade(folder, notebook="00", limits=Limits(seconds=1), trust=True, tell=said.append)
    assert [text.split(": ")[1] for text in said if " of " in text] == ["imports.ipynb"]
    assert {row["submission"]: row["passed"] for row in again} == {row["submission"]: row["passed"] for row in rows}
