"""The student edition: what is handed out, and that the committed notebook is what its reader ends with.

That every student edition runs from top to bottom unsolved is shown by the stage `unsolved` of `vt-course test`, by
executing it. That it runs solved, with all checks passed, follows from two facts: the stage `outputs` executes the
committed notebook, and the tests below show that this is the student edition with the solutions put in.
"""

import ast

import nbformat
import pytest

from vt_course import CourseError, repo_root
from vt_course.cli import main
from vt_course.lab.exercises import EXERCISES
from vt_course.publish import hygiene, links, stubs
from vt_course.publish.source import from_source
from vt_course.publish.student import NOTE, student, student_edition, untouched
from vt_course.publish.tags import parts, tags

pytestmark = pytest.mark.slow

FOLDER = repo_root() / "notebooks"
SOURCES = sorted((FOLDER / "src").glob("[0-9][0-9]_*.py"))
each_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def solutions(source) -> dict[str, str]:
    """Exercise -> its solution as a reader would paste it: without the check."""
    found = {}
    for cell in from_source(source).cells:
        if "solution" in parts(cell):
            statements = ast.parse(cell.source).body
            assert "check(" in ast.unparse(statements[-1])
            found[parts(cell)["solution"]] = "\n".join(cell.source.splitlines()[: statements[-1].lineno - 1])
    return found


def code_cells(nb) -> list:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


@each_notebook
def test_the_committed_notebook_is_the_student_edition_solved(source):
    """A reader puts each solution into its stub and goes on: that is, cell by cell, the code of the committed notebook.

    The committed notebook also runs the stub and its check before the solution. Nothing hangs on that: the solution
    defines the same names anew (`hygiene`), and its check begins by setting the seed, as the first one did.
    """
    bodies = solutions(source)
    solved = []
    for cell in code_cells(student_edition(source)):
        number = parts(cell).get("exercise")
        solved.append(bodies[number] if number else cell.source)
    ran = []
    for cell in code_cells(nbformat.read(FOLDER / f"{source.stem}.ipynb", as_version=4)):
        if number := parts(cell).get("solution"):
            check = cell.source.removeprefix(bodies[number])
            ran += [bodies[number], check.replace(", solution=True)", ")")]
        elif not parts(cell) and "answer" not in cell.metadata.get("tags", []):
            ran.append(cell.source)
    assert [text.strip() for text in ran] == [text.strip() for text in solved]
    assert hygiene.source_problems(from_source(source), source.stem) == []


@each_notebook
def test_every_solution_of_the_committed_notebook_passed(source):
    committed = nbformat.read(FOLDER / f"{source.stem}.ipynb", as_version=4)
    shown = {
        parts(cell)["solution"]: "".join(out.text for out in cell.outputs if out.get("name") == "stdout")
        for cell in committed.cells
        if "solution" in parts(cell)
    }
    assert shown == {
        number: f"✓ exercise {number} ({EXERCISES[number].title}): {len(EXERCISES[number].cases())} cases\n"
        for number in solutions(source)
    }


@each_notebook
def test_no_solution_is_left(source):
    nb, solved = student_edition(source), from_source(source)
    text, note = "\n".join(cell.source for cell in nb.cells), NOTE.format(stem=source.stem)
    assert note in text and not any("solution" in parts(cell) for cell in nb.cells)
    for number, body in solutions(source).items():
        assert body not in text
    assert [cell.id for cell in nb.cells if cell.source != note] == [
        cell.id for cell in solved.cells if "solution" not in parts(cell) and "answer" not in tags(cell)
    ]
    answers = [cell.source for cell in solved.cells if "answer" in tags(cell)]
    assert not any(answer in text for answer in answers) and "<summary>Answer" not in text
    assert not any(cell.get("outputs") for cell in nb.cells)


# ---------------------------------------------------------------- the stub rule

STUB = '''import math

def f(x, n: int = 2) -> int:
    """Doc."""
    raise NotImplementedError("exercise 1.1")'''
SOLUTION = (
    STUB.replace('raise NotImplementedError("exercise 1.1")', "return n * x") + '\n\nf = check("1.1", f, solution=True)'
)


@pytest.mark.parametrize(
    "change, words",
    [
        ((SOLUTION, SOLUTION), None),
        (("n: int = 2", "n: int = 3"), "body removed"),
        (("n: int = 2", "m: int = 2"), "body removed"),
        (("-> int", "-> float"), "body removed"),
        (("Doc.", "Another."), "body removed"),
        (("import math", "import math, os"), "body removed"),
        (("import math", "import math\nhelper = 3"), "body removed"),
        (("def f(x", "@torch.no_grad()\ndef f(x"), "body removed"),
        (("f = check(", "_ = check("), 'solution:1.1 must end with `f = check("1.1", f, solution=True)`'),
        ((", solution=True", ""), "solution:1.1 must end with"),
        (('"1.1", f, sol', '"1.2", f, sol'), "solution:1.1 must end with"),
    ],
)
def test_a_stub_is_its_solution_with_the_body_removed(change, words):
    cells = {"exercise": STUB, "check": 'f = check("1.1", f)', "solution": SOLUTION.replace(*change)}
    found = stubs.pair_problems("1.1", cells)
    assert (found == []) if words is None else (len(found) == 1 and words in found[0])


def test_a_stub_may_be_a_class():
    stub = 'class F(nn.Module):\n    def forward(self, x):\n        """Doc."""\n'
    stub += '        raise NotImplementedError("exercise 1.1")'
    right = (
        stub.replace('raise NotImplementedError("exercise 1.1")', "return x")
        + '\n\n\nF = check("1.1", F, solution=True)'
    )
    cells = {"exercise": stub, "check": 'F = check("1.1", F)', "solution": right}
    assert stubs.pair_problems("1.1", cells) == []
    cells["solution"] = right.replace("(self, x)", "(self, y)")
    assert len(stubs.pair_problems("1.1", cells)) == 1


# ---------------------------------------------------------------- the verb


def test_the_verb_writes_all_and_writes_again(tmp_path, capsys):
    assert main(["student", "--out", str(tmp_path / "a")]) == 0
    written = sorted((tmp_path / "a").glob("*.ipynb"))
    assert [path.stem for path in written] == [source.stem for source in SOURCES]
    before = written[-1].read_bytes()
    notes = tmp_path / "a" / "glossary.md"  # the notebooks link to it
    assert notes.read_bytes() == (FOLDER / "glossary.md").read_bytes()
    assert [text for path in written for text in links.problems(path)] == []
    notes.write_text("my own words", encoding="utf-8")
    assert main(["student", "04", "--out", str(tmp_path / "a")]) == 0  # untouched: may be replaced
    assert written[-1].read_bytes() == before
    assert notes.read_text(encoding="utf-8") == "my own words"
    assert "04_video_swin" in capsys.readouterr().out


@pytest.mark.parametrize("work", ["source", "output", "broken"])
def test_work_of_a_reader_is_never_overwritten(work, tmp_path, capsys):
    path = tmp_path / "04_video_swin.ipynb"
    student(["04"], out=tmp_path)
    assert untouched(path)
    nb = nbformat.read(path, as_version=4)
    code = next(cell for cell in nb.cells if cell.cell_type == "code")
    if work == "source":
        code.source += "\n# my idea"
    else:
        code.outputs = [nbformat.v4.new_output("stream", text="mine")]
    nbformat.write(nb, path)
    if work == "broken":
        path.write_text("{", encoding="utf-8")
    kept = path.read_bytes()
    assert main(["student", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"vt-course: {path} was changed or run by somebody; move it away, or choose another folder with --out.\n"
    )
    assert path.read_bytes() == kept and list(tmp_path.glob("*.ipynb")) == [path]


def test_never_into_the_notebooks():
    with pytest.raises(CourseError, match="inside notebooks/"):
        student(["04"], out=FOLDER / "src")
    with pytest.raises(CourseError, match="There is no notebook '99'"):
        student(["99"])
