"""Hostile submissions in the middle of good ones: each has a row, and no good one loses a mark."""

import ast
import csv
import io
import json
import os
import re
import sys
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from functools import cache
from pathlib import Path

import nbformat
import pytest
import torch

from vt_course import CourseError, __version__, cli, repo_root
from vt_course.grading import grade as batch
from vt_course.grading import sandbox
from vt_course.grading.grade import grade
from vt_course.grading.judge import changed, judge
from vt_course.grading.pages import page
from vt_course.grading.sandbox import Limits
from vt_course.grading.submission import MISSING, Answer, assignment, read_submission, statements
from vt_course.lab.check import Verdict
from vt_course.lab.exercises import EXERCISES
from vt_course.publish.source import from_source
from vt_course.publish.student import student_edition
from vt_course.publish.tags import parts

SOURCES = {path.stem[:2]: path for path in sorted((repo_root() / "notebooks" / "src").glob("[0-9][0-9]_*.py"))}
GOOD = "def play_backwards(clip):\n    return clip.flip(1)"
QUICK = Limits(seconds=2, memory=1 << 30, processes=16)
INSIDE = sandbox.bubblewrap()[0]
in_bubblewrap = pytest.mark.skipif(not INSIDE, reason=f"{sandbox.bubblewrap()[1]}; `.ci/more` installs it")


edition = cache(lambda number: student_edition(SOURCES[number]))


def notebook(code: str | dict = GOOD, number: str = "00"):
    """The student edition of a notebook with code in its exercises."""
    nb = deepcopy(edition(number))
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
        "MB of memory, and was stopped|raised MemoryError|did not end in time",
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
        text(function("import os\nfor _ in range(8):\n    os.write(1, bytes(40_000_000))\nreturn clip.flip(1)")),
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
    hostile = {"loop.ipynb": (text(RUNS["loop"][0]), RUNS["loop"][1]), "deleted.ipynb": (deleted(), "cell is missing")}
    for name in ("no notebook", "wrong json", "renamed", "another", "imports"):
        hostile[f"{name}.ipynb"] = READ[f"{name}.ipynb"]
    write(folder, {name: data for name, (data, _) in hostile.items()} | {"untagged.ipynb": without_tags()})
    write(folder / "zoe", {"00_start_here.ipynb": doubled()})
    good = {"untagged.ipynb": GOOD_ONES["untagged.ipynb"][1], "zoe/00_start_here.ipynb": "2 cells are tagged"}
    said = []
    how = dict(notebook="00", limits=Limits(seconds=1), trust=True, tell=said.append)
    rows = grade(folder, **how)
    check_rows(rows, {name: sentence for name, (_, sentence) in hostile.items()}, good, tmp_path / "in-pages")
    assert INSIDE or said[0].startswith("submissions run with your rights")
    with open(tmp_path / "in.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["submission"] for row in table] == [row["submission"] for row in rows]
    assert {row["0.1"] for row in table} == {"passed", "failed", "missing", ""}
    # Again: nothing is judged twice, and a submission that was changed is judged anew.
    write(folder, {"imports.ipynb": "{}"})
    said.clear()
    again = grade(folder, **how)
    assert [text.split(": ")[1] for text in said if " of " in text] == ["imports.ipynb"]
    assert {row["submission"]: row["passed"] for row in again} == {row["submission"]: row["passed"] for row in rows}


# ---------------------------------------------------------------- the batch, without any process


@pytest.fixture
def imitated(monkeypatch):
    """Submissions are read in this process and nothing of them runs: every answer passes. Returns what was judged."""
    judged = []

    def row_of(name, path, known, asked, *how):
        judged.append(name)
        if name == "stop.ipynb":
            raise KeyboardInterrupt
        return batch.row_of(name, path, known, asked, *how)

    everything = lambda answers, *how: {n: Verdict(a.state or "passed", a.text) for n, (_, a) in answers.items()}  # noqa: E731
    monkeypatch.setattr("vt_course.grading.judge.judge", everything)
    monkeypatch.setattr(batch, "in_process", row_of)
    monkeypatch.setattr(sandbox, "bubblewrap", lambda: ("bwrap", ""))
    return judged


def table(path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_an_interrupted_batch_goes_on(tmp_path, imitated):
    folder = tmp_path / "in"
    write(folder, {"anna.ipynb": text(), "stop.ipynb": text(), "zoe.ipynb": text()})
    with pytest.raises(KeyboardInterrupt):
        grade(folder)
    assert [row["submission"] for row in table(tmp_path / "in.csv")] == ["anna.ipynb"]
    record = tmp_path / "in-pages" / "record.jsonl"
    seed = record.read_text(encoding="utf-8").splitlines()[0]
    with record.open("a", encoding="utf-8") as file:
        file.write('{"key": "cut by the interr')
    (folder / "stop.ipynb").rename(folder / "bo.ipynb")
    imitated.clear()
    assert [row["passed"] for row in grade(folder)] == [1, 1, 1]
    assert imitated == ["bo.ipynb", "zoe.ipynb"] and record.read_text(encoding="utf-8").splitlines()[0] == seed


def test_names_are_harmless_in_a_spreadsheet_and_on_a_page(tmp_path, imitated):
    folder = tmp_path / "in"
    names = ["=HYPERLINK(1).ipynb", "+1.ipynb", "-1.ipynb", "@a.ipynb", "a b,c.ipynb", "<b>x.ipynb"]
    if os.name != "nt":
        names += ["\tt.ipynb", "line\nend.ipynb", os.fsdecode(b"\xff.ipynb")]
    write(folder, dict.fromkeys(names, text()))
    rows = grade(folder)
    found = table(tmp_path / "in.csv")
    assert len(rows) == len(found) == len(names) and {row["passed"] for row in found} == {"1"}
    assert not any(row["submission"][0] in "=+-@\t\r\n" for row in found)
    assert all(row["submission"].isprintable() for row in found)
    pages = [(tmp_path / row["page"]).read_text(encoding="utf-8") for row in found]
    assert len({row["page"] for row in found}) == len(names) and not any("<b>x" in page for page in pages)


def test_equal_answers_are_named_and_the_page_does_not_tell(tmp_path, imitated):
    long = GOOD + "\n" + "\n".join(f"# my own thought number {i}" for i in range(20))
    write(tmp_path / "in", {"a.ipynb": text(long), "b.ipynb": text(long), "c.ipynb": text(), "d.ipynb": text()})
    rows = {row["submission"]: row for row in grade(tmp_path / "in")}
    same = "its answers are the same, letter by letter, as those of "
    assert rows["a.ipynb"]["notes"] == [same + "b.ipynb"] and rows["b.ipynb"]["notes"] == [same + "a.ipynb"]
    assert rows["c.ipynb"]["notes"] == []  # short answers may well be equal
    assert "letter by letter" not in (tmp_path / "in-pages" / rows["a.ipynb"]["page"]).read_text(encoding="utf-8")


def test_what_is_refused(tmp_path, imitated, monkeypatch):
    folder = tmp_path / "in"
    with pytest.raises(CourseError, match="in is no folder; name the folder that holds the submissions"):
        grade(folder)
    folder.mkdir()
    (folder / ".DS_Store").touch()
    with pytest.raises(CourseError, match="holds no submissions"):
        grade(folder)
    write(folder, {"a.ipynb": text()})
    (tmp_path / "in.csv").write_text("name,mark\n", encoding="utf-8")
    with pytest.raises(CourseError, match="in.csv exists and is no table of `vt-course grade`; name another file"):
        grade(folder)
    with pytest.raises(CourseError, match="There is no notebook '77'"):
        grade(folder, notebook="77", out=tmp_path / "out.csv")
    monkeypatch.setattr(sandbox, "bubblewrap", lambda: (None, "bubblewrap is not installed"))
    said = []
    with pytest.raises(CourseError, match="grade runs code of others; install bubblewrap, or allow it with --trust"):
        grade(folder, out=tmp_path / "out.csv", tell=said.append)
    assert (
        said[0] == "submissions run with your rights, and can read and change your files: bubblewrap is not installed"
    )
    assert imitated == [] and not (tmp_path / "out.csv").exists()
    assert grade(folder, out=tmp_path / "out.csv", trust=True)[0]["passed"] == 1


def test_limits_that_a_system_lacks_are_said(monkeypatch):
    monkeypatch.setattr(sandbox, "find_spec", lambda name: None)
    assert "limits neither the size of files nor the number of processes" in sandbox.lacking()[0]
    monkeypatch.undo()
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    if os.name != "nt":
        assert sandbox.lacking() == ["this system does not limit memory; it is only watched"]
    assert sandbox.bubblewrap.__wrapped__() == (None, "bubblewrap exists on Linux only")


def run(*argv) -> tuple[int, str, str]:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = cli.main([str(word) for word in argv])
    return code, out.getvalue(), err.getvalue()


def test_grade_on_the_command_line(tmp_path, imitated):
    write(tmp_path / "in", {"anna.ipynb": text(), "bo.ipynb": text({}, "09"), "zoe.ipynb": "nothing"})
    code, out, err = run("grade", tmp_path / "in", "--notebook", "0")
    head, *lines = out.splitlines()
    assert code == 0 and head.split() == ["submission", "notebook", "state", "passed", "notes"]
    assert re.fullmatch(r"anna.ipynb +00_start_here +graded +1 of 1", lines[0])
    assert "another notebook  0 of 0  it is notebook 09_does_it_use_time; asked for is 00_start_here" in lines[1]
    assert "not readable      0 of 0  it is no notebook" in lines[2] and "3 of 3: zoe.ipynb" in err
    rows = json.loads(run("grade", tmp_path / "in", "--json")[1])
    assert rows[0]["verdicts"]["0.1"]["state"] == "passed" and rows[1]["exercises"] == 4


# ---------------------------------------------------------------- what is taken out of a submission


def handed_in(tmp_path, data):
    path = tmp_path / "a.ipynb"
    path.write_text(data, encoding="utf-8")
    return read_submission(path, list(map(assignment, SOURCES.values())))


def test_only_what_a_function_needs_is_taken(tmp_path):
    code = (
        "import math, os\nBIG = 3\nprint('hello')\nos.system('true')\nfor i in range(3): pass\n"
        "def helper(x):\n    return turn(x)\n" + GOOD.replace("clip.flip(1)", "helper(clip)[:, ::1]") +
        "\nplay_backwards = check('0.1', play_backwards)\n"
    )  # fmt: skip
    nb = notebook(code)
    nb.cells.append(nbformat.v4.new_code_cell("def turn(x):\n    return torch.flip(x, [1])\ndef other(): pass"))
    answer = handed_in(tmp_path, nbformat.writes(nb)).answers["0.1"]
    assert answer.state == "" and answer.parameters == ("clip",)
    assert [line for line in answer.code.splitlines() if not line.startswith(" ")] == [
        "import torch", "def turn(x):", "import math, os", "BIG = 3", "def helper(x):", "def play_backwards(clip):"
    ]  # fmt: skip


@pytest.mark.parametrize("number", list(SOURCES))
def test_every_solution_is_complete_with_what_the_notebook_gives(number, tmp_path):
    """Every name that a solution needs is there, and its own definition is not, nor that of a later exercise."""
    submission = handed_in(tmp_path, text(solutions(number), number))
    assert submission.assignment.notebook == SOURCES[number].stem and submission.notes == ()
    for at, answer in submission.answers.items():
        found = statements(answer.code)
        missing = set().union(*(s.needs for s in found)) - {name for s in found for name in s.sets}
        assert answer.state == "" and missing == set(), at
        names = [name for s in found for name in s.sets]
        assert len(names) == len(set(names)) and "vt_course" not in answer.code


@pytest.mark.parametrize("number", [n for n, exercise in EXERCISES.items() if not exercise.by_hand])
def test_the_cases_are_not_those_that_students_see(number):
    torch.manual_seed(0)
    shown = {*map(key_of, EXERCISES[number].cases())}
    asked = [key_of(case) for case in changed(number, 4711)[1]]
    assert len(asked) >= 3 and set(asked) - shown


def key_of(case: tuple) -> str:
    return repr([a.state_dict() if isinstance(a, torch.nn.Module) else a for a in case])


# ---------------------------------------------------------------- release


def test_a_release_is_a_folder_and_a_zip(tmp_path):
    code, out, err = run("release", "4", "00", "--out", tmp_path)
    assert (code, err) == (0, "") and out.splitlines()[0].split() == [
        "notebook",
        "edition",
        "exercises",
        "folder",
        "zip",
    ]
    folder = tmp_path / f"04_video_swin-{__version__}"
    assert {path.name for path in folder.iterdir()} == {"README.md", "04_video_swin.ipynb", "glossary.md"}
    archive = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(archive) as file:
        assert {name: file.read(name) for name in file.namelist()} == {
            f"{folder.name}/{path.name}": path.read_bytes() for path in folder.iterdir()
        }
    first = (folder / "README.md").read_text(encoding="utf-8")
    edition = nbformat.read(folder / "04_video_swin.ipynb", as_version=4).metadata.vt_course
    assert edition.version == __version__ and edition.notebook == "04_video_swin" and edition.sha256[:8] in first
    other = (tmp_path / f"00_start_here-{__version__}" / "README.md").read_text(encoding="utf-8")
    assert "it has 9 exercises." in first and "it has 1 exercise." in other
    before = archive.read_bytes()
    assert run("release", "04", "--out", tmp_path)[0] == 0 and archive.read_bytes() == before
    (folder / "04_video_swin.ipynb").write_text("{}", encoding="utf-8")
    code, out, err = run("release", "04", "--out", tmp_path)
    assert code == 2 and "was changed or run by somebody" in err


# ---------------------------------------------------------------- the walls


PROBE = """
import os, socket
def play_backwards(clip):
    seen = [place for place in {places!r} if os.path.exists(place)]
    for place in ("/", "/usr", "/tmp", "/course", "/course/vt_course", "/dev", "/dev/shm", "/etc", "/proc", {prefix!r}):
        try:
            open(place + "/x", "w")
        except OSError:
            continue
        seen.append("wrote into " + place)
    try:
        socket.create_connection(("1.1.1.1", 53), timeout=1)
        seen.append("network")
    except OSError:
        pass
    seen += [p for p in os.listdir("/proc") if p.isdigit() and int(p) > 40]
    seen += {{*os.listdir(os.path.expanduser("~"))}} - {{"scratch"}}
    open("scratch", "w").close()
    if seen:
        raise ValueError(str(seen))
    return clip.flip(1)
"""


@pytest.mark.dear
@pytest.mark.posix("bubblewrap")
@in_bubblewrap
def test_inside_bubblewrap_there_is_nothing_to_see(tmp_path):
    """No file of the user, of the checkout, of other submissions; nothing to write into but the scratch folder."""
    root = repo_root()
    files = [root / name for name in ("README.md", "notebooks", "tests", "vt_course/lab/check.py", "pyproject.toml")]
    places = [*map(str, files), str(tmp_path / "in"), "/etc/passwd", "/var", "/course/vt_course/lab"]
    places += [str(path) for path in Path.home().iterdir() if path.is_file()]
    write(tmp_path / "in", {"probe.ipynb": text(PROBE.format(places=places, prefix=sys.prefix))})
    assert all(map(os.path.exists, places[:8]))
    (row,) = grade(tmp_path / "in", limits=QUICK)
    assert row["passed"] == 1, row["verdicts"]


@pytest.mark.parametrize(
    "code, state",
    [
        (solutions("10")["10.3"], "by hand"),
        ("def new_claim():\n    from vt_course.models import swin\n    return {}, swin", "by hand"),  # as it may
        ("def new_claim(:", "by hand"),
        (None, "not attempted"),
        ("", "failed"),
    ],
)
def test_an_exercise_that_changes_the_course_is_left_to_the_teacher(code, state, tmp_path):
    """It counts for nobody, so all who hand in this notebook have marks of the same number of exercises."""
    write(tmp_path, {"a.ipynb": text({} if code is None else {"10.3": code}, "10")})
    known = list(map(assignment, SOURCES.values()))
    row = batch.row_of("a.ipynb", tmp_path / "a.ipynb", known, known, 4711, QUICK, "/no/process/is/needed")
    assert (row["passed"], row["exercises"]) == (0, 2)
    states = {number: verdict["state"] for number, verdict in row["verdicts"].items()}
    assert states == {"10.1": "not attempted", "10.2": "not attempted", "10.3": state}
    assert ("for your teacher to read" in page(row)) == (state == "by hand")


def test_a_notebook_without_the_exercise_that_is_left_to_the_teacher(tmp_path):
    answer = Answer(MISSING, "✗ exercise 10.3: its cell is missing")
    assert judge({"10.3": ("new_claim", answer)}, 4711, QUICK, None) == {"10.3": Verdict(MISSING, answer.text)}


@pytest.mark.dear
@pytest.mark.parametrize("number", ["05", "08"])
def test_solutions_of_whole_blocks_keep_their_marks(number, tmp_path):
    """Exercises whose arguments are modules, networks or a training; and one of them wrong among right ones."""
    folder, right = tmp_path / "in", solutions(number)
    wrong = {"05": "5.2", "08": "8.6"}[number]
    first, _, rest = right[wrong].partition("\n")
    write(
        folder,
        {"right.ipynb": text(right, number), "wrong.ipynb": text(right | {wrong: f"{first}\n    return 1"}, number)},
    )
    rows = grade(folder, trust=True)
    assert [row["exercises"] - row["passed"] for row in rows] == [0, 1], [row["verdicts"] for row in rows]
    assert rows[1]["verdicts"][wrong]["text"].startswith(f"✗ exercise {wrong}, on ")
