"""The student edition: every notebook runs unsolved and solved; a stub is its solution without the body."""
import ast
import re

import nbformat
import pytest

from vt_course import CourseError, repo_root
from vt_course.cli import main
from vt_course.lab.exercises import EXERCISES
from vt_course.publish import hygiene
from vt_course.publish.build import execute, from_source
from vt_course.publish.student import NOTE, parts, student, student_edition, untouched

FOLDER = repo_root() / "notebooks"
SOURCES = sorted((FOLDER / "src").glob("[0-9][0-9]_*.py"))
each_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def printed(cell) -> str:
    return "".join(output.text for output in cell.get("outputs", []) if output.get("name") == "stdout")


def run(nb, source):
    execute(nb, FOLDER, source.stem)
    wrong = [out for cell in nb.cells for out in cell.get("outputs", []) if out.get("name") == "stderr"]
    assert wrong == []
    return nb


def solutions(source) -> dict[str, str]:
    """Exercise -> its solution as a reader would paste it: without the check."""
    found = {}
    for cell in from_source(source).cells:
        if "solution" in parts(cell):
            statements = ast.parse(cell.source).body
            assert "check(" in ast.unparse(statements[-1])
            found[parts(cell)["solution"]] = "\n".join(cell.source.splitlines()[:statements[-1].lineno - 1])
    return found


@each_notebook
def test_it_runs_from_top_to_bottom_unsolved(source):
    """The checks say that nothing was attempted; all other cells print what the solved edition prints."""
    nb = run(student_edition(source), source)
    solved = nbformat.read(FOLDER / f"{source.stem}.ipynb", as_version=4)
    expected = {cell.id: printed(cell) for cell in solved.cells if cell.cell_type == "code"}
    different = {cell.id: printed(cell) for cell in nb.cells
                 if cell.cell_type == "code" and printed(cell) != expected[cell.id]}
    assert different == {}
    checks = [printed(cell) for cell in nb.cells if "check" in parts(cell)]
    assert len(checks) == len(solutions(source))
    assert all(re.match(r"○ exercise [\d.]+ is not attempted yet", text) for text in checks)


@each_notebook
def test_with_solutions_pasted_in_all_checks_pass(source):
    nb, pasted = student_edition(source), solutions(source)
    last = max((i for i, cell in enumerate(nb.cells) if "check" in parts(cell)), default=-1)
    nb.cells = nb.cells[:last + 1]                              # what follows is run by the test above
    for cell in nb.cells:
        if "exercise" in parts(cell):
            cell.source = pasted[parts(cell)["exercise"]]
    if nb.cells:
        run(nb, source)
    for cell in nb.cells:
        if "check" in parts(cell):
            number = parts(cell)["check"]
            exercise = EXERCISES[number]
            assert printed(cell) == f"✓ exercise {number} ({exercise.title}): {len(exercise.cases())} cases\n"


@each_notebook
def test_no_solution_is_left(source):
    nb, solved = student_edition(source), from_source(source)
    text = "\n".join(cell.source for cell in nb.cells)
    assert NOTE in text and not any("solution" in parts(cell) for cell in nb.cells)
    for number, body in solutions(source).items():
        assert body not in text
    assert [cell.id for cell in nb.cells if cell.source != NOTE] == [
        cell.id for cell in solved.cells if "solution" not in parts(cell)]
    assert not any(cell.get("outputs") for cell in nb.cells)


def test_every_exercise_stands_in_a_notebook():
    found = {number: source.stem for source in SOURCES for number in hygiene.exercises(from_source(source))}
    assert list(found) == list(EXERCISES)
    assert all(stem.startswith(f"{int(number.split('.')[0]):02}_") for number, stem in found.items())


# ---------------------------------------------------------------- the stub rule

STUB = '''import math

def f(x, n: int = 2) -> int:
    """Doc."""
    raise NotImplementedError("exercise 1.1")'''
SOLUTION = STUB.replace('raise NotImplementedError("exercise 1.1")', "return n * x") + '\n\nf = check("1.1", f, solution=True)'


@pytest.mark.parametrize("change, words", [
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
])
def test_a_stub_is_its_solution_with_the_body_removed(change, words):
    cells = {"exercise": STUB, "check": 'f = check("1.1", f)', "solution": SOLUTION.replace(*change)}
    found = hygiene._stub_problems("1.1", cells)
    assert (found == []) if words is None else (len(found) == 1 and words in found[0])


def test_a_stub_may_be_a_class():
    stub = 'class F(nn.Module):\n    def forward(self, x):\n        """Doc."""\n        raise NotImplementedError("exercise 1.1")'
    right = stub.replace('raise NotImplementedError("exercise 1.1")', "return x") + '\n\n\nF = check("1.1", F, solution=True)'
    cells = {"exercise": stub, "check": 'F = check("1.1", F)', "solution": right}
    assert hygiene._stub_problems("1.1", cells) == []
    cells["solution"] = right.replace("(self, x)", "(self, y)")
    assert len(hygiene._stub_problems("1.1", cells)) == 1


# ---------------------------------------------------------------- the verb

def test_the_verb_writes_all_and_writes_again(tmp_path, capsys):
    assert main(["student", "--out", str(tmp_path / "a")]) == 0
    written = sorted((tmp_path / "a").iterdir())
    assert [path.stem for path in written] == [source.stem for source in SOURCES]
    before = written[-1].read_bytes()
    assert main(["student", "04", "--out", str(tmp_path / "a")]) == 0     # untouched: may be replaced
    assert written[-1].read_bytes() == before
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
    assert capsys.readouterr().err == (f"vt-course: {path} was changed or run by somebody; move it away,"
                                       " or choose another folder with --out.\n")
    assert path.read_bytes() == kept and list(tmp_path.iterdir()) == [path]


def test_never_into_the_notebooks():
    with pytest.raises(CourseError, match="inside notebooks/"):
        student(["04"], out=FOLDER / "src")
    with pytest.raises(CourseError, match="There is no notebook '99'"):
        student(["99"])
