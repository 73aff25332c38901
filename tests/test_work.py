"""work/: written once, opened by `vt-course lab`, and brought to a newer edition with everything the reader wrote."""

import errno
import json
import re
import shutil

import nbformat
import pytest

from vt_course import CourseError, files, repo_root
from vt_course.cli import course, main
from vt_course.data import synthetic
from vt_course.publish import student as student_module
from vt_course.publish import work
from vt_course.publish.source import from_source
from vt_course.publish.student import student, student_edition, untouched
from vt_course.publish.tags import parts

OLD = '''# %% [markdown]
# # 05 · Toy

# %% tags=["parameters"]
PROFILE = "smoke"

# %% [markdown]
# A text that stays.

# %%
import math

# %% tags=["exercise:5.1"]
def double(x):
    """Twice x."""
    raise NotImplementedError("exercise 5.1")

# %% tags=["check:5.1"]
double = check("5.1", double)

# %% [markdown] tags=["hints:5.1"]
# <details>Add.</details>

# %% tags=["solution:5.1"]
def double(x):
    """Twice x."""
    return 2 * x

double = check("5.1", double, solution=True)

# %% [markdown]
# A text that will change.

# %% tags=["exercise:5.2"]
class Shift(nn.Module):
    def forward(self, x, n=1):
        """Rolled."""
        raise NotImplementedError("exercise 5.2")

# %% tags=["check:5.2"]
Shift = check("5.2", Shift)

# %% tags=["exercise:5.3"]
def gone(x):
    raise NotImplementedError("exercise 5.3")

# %%
print(double(3))
'''
REWORDED = OLD.replace("Twice x.", "Two times x, for a number x.").replace("will change", "has changed")
WITHOUT = re.sub(r'# %% tags=\["exercise:5.3"\]\n.*\n.*\n', "", OLD)
MINE = {
    "5.1": 'def double(x):\n    """Twice x."""\n    return x + x',
    "5.2": "class Shift(nn.Module):\n    def forward(self, x, n=1):\n        return x.roll(n)",
    "5.3": "def gone(x):\n    return x",
}


class Course:
    """A checkout with one notebook, and the reader's copy of it in work/."""

    def __init__(self, root, text=OLD):
        self.root = root
        self.source = root / "notebooks" / "src" / "05_toy.py"
        self.source.parent.mkdir(parents=True)
        self.publish(text)
        self.path = root / "work" / "05_toy.ipynb"
        work.first_use(root)

    def publish(self, text):
        self.source.write_text(text, encoding="utf-8")

    @property
    def notebook(self):
        return student_module.read(self.path)

    def save(self, nb):
        self.path.write_text(json.dumps(nb), encoding="utf-8")

    def solve(self, **more):
        """Fill all stubs, as JupyterLab saves it: ids stay, outputs and counts come."""
        nb = self.notebook
        for cell in nb.cells:
            if number := parts(cell).get("exercise"):
                cell.source = MINE[number]
            if cell.cell_type == "code":
                cell.execution_count, cell.outputs = 7, [nbformat.v4.new_output("stream", text="ran\n")]
        self.save(nb)
        return nb

    def update(self):
        (row,) = work.update(root=self.root)
        assert row["output"] == str(self.path)
        return row

    def stub(self, number):
        return next(cell for cell in self.notebook.cells if parts(cell).get("exercise") == number).source

    def texts(self):
        return [cell.source for cell in self.notebook.cells]


@pytest.fixture
def toy(tmp_path):
    return Course(tmp_path)


def position(nb, start: str) -> int:
    return next(index for index, cell in enumerate(nb.cells) if cell.source.startswith(start))


# ---------------------------------------------------------------- the first use


def test_first_use_writes_what_is_absent_and_nothing_else(toy):
    assert untouched(toy.path) and not any("solution" in parts(cell) for cell in toy.notebook.cells)
    toy.path.write_text("the reader's", encoding="utf-8")
    assert [row["state"] for row in work.first_use(toy.root)] == ["kept"]
    assert toy.path.read_text(encoding="utf-8") == "the reader's"
    shutil.copy(toy.source, toy.source.with_name("06_new.py"))  # a notebook that came later
    assert [(row["notebook"], row["state"]) for row in work.first_use(toy.root)][1:] == [("06_new", "written")]
    assert toy.path.read_text(encoding="utf-8") == "the reader's"


@pytest.mark.parametrize("solutions", [False, True])
def test_lab_opens_the_students_edition_or_the_solutions(solutions, tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(course, "need_data", lambda: None)
    monkeypatch.setattr(course.subprocess, "call", lambda command: ran.append(command) or 0)
    monkeypatch.setattr(work, "repo_root", lambda: tmp_path)
    toy = Course(tmp_path)
    shutil.rmtree(tmp_path / "work")
    argv = ["lab", *["--solutions"] * solutions, "--", "--no-browser"]
    assert main(argv) == 0
    folder = tmp_path / ("notebooks" if solutions else "work")
    assert ran[0][-2:] == [f"--notebook-dir={folder}", "--no-browser"] and toy.path.exists() is not solutions
    said = f"vt-course: wrote into {folder}: 05_toy; this is never overwritten\n"
    assert capsys.readouterr().err == ("" if solutions else said)
    assert main(argv) == 0 and capsys.readouterr().err == ""
    toy.publish(REWORDED)
    assert main(argv) == 0
    said = (
        f"vt-course: 05_toy in {folder} is of an older edition; "
        "vt-course student --update takes your work over into the new one\n"
    )
    assert capsys.readouterr().err == ("" if solutions else said)


def test_open_copies_and_renders_and_never_overwrites(tmp_path, monkeypatch, capsys):
    made, ran = [], []
    toy = Course(tmp_path / "course")
    (toy.root / "notebooks" / "05_toy.ipynb").write_text("solved", encoding="utf-8")
    monkeypatch.setattr(work, "repo_root", lambda: toy.root)
    monkeypatch.setattr(synthetic, "rendered", lambda split: made)
    monkeypatch.setattr(synthetic, "render", lambda **how: made.append(how) or {"out": "there"})
    monkeypatch.setattr(course.subprocess, "call", lambda command: ran.append(command) or 0)
    folder = tmp_path / "mine"
    assert main(["open", "--dir", str(folder), "--no-start"]) == 0 and not ran
    out, err = capsys.readouterr()
    assert err.startswith(f"vt-course: wrote into {folder}: 05_toy; this is never overwritten\n") and "472 clips" in err
    assert out.splitlines()[1].split() == ["05_toy", "written", str(folder / "05_toy.ipynb")]
    (folder / "05_toy.ipynb").write_text("mine", encoding="utf-8")
    assert main(["open", "5", "--dir", str(folder)]) == 0
    assert ran[0][3:] == [f"--notebook-dir={folder}", str(folder / "05_toy.ipynb")]
    assert made == [{"clips": synthetic.SMALLEST, "progress": True}] and capsys.readouterr().err == ""
    assert (folder / "05_toy.ipynb").read_text(encoding="utf-8") == "mine"
    assert main(["open", "--solutions", "--dir", str(folder / "solved"), "--no-start", "--json"]) == 0
    assert [row["state"] for row in json.loads(capsys.readouterr().out)] == ["written"]
    assert (folder / "solved" / "05_toy.ipynb").read_text(encoding="utf-8") == "solved"
    monkeypatch.setattr(course.importlib.util, "find_spec", lambda name: None)
    assert main(["open"]) == 2
    assert f"JupyterLab is not installed: open {toy.path.parent} in a Jupyter" in capsys.readouterr().err


def test_work_is_ignored_by_git():
    assert "work/" in (repo_root() / ".gitignore").read_text(encoding="utf-8").splitlines()


# ---------------------------------------------------------------- a newer edition


def test_solved_cells_are_carried_over_by_their_tags(toy):
    old = toy.solve()
    data = toy.path.read_bytes()
    toy.publish(REWORDED)
    row = toy.update()
    kept = toy.path.with_name("05_toy.old.ipynb")
    assert row == dict(
        notebook="05_toy", state="updated", exercises=["5.1", "5.2", "5.3"], moved={}, cells=0, kept=str(kept), left=[],
        output=str(toy.path),
    )  # fmt: skip
    assert kept.read_bytes() == data
    new = student_edition(toy.source)
    for number, text in MINE.items():
        assert toy.stub(number) == text
    assert [cell.id for cell in toy.notebook.cells] == [cell.id for cell in new.cells]
    assert "A text that has changed." in toy.texts() and "A text that will change." not in toy.texts()
    assert not any(cell.get("outputs") for cell in toy.notebook.cells) and len(old.cells) == len(new.cells)


def test_the_second_update_does_nothing(toy):
    toy.solve()
    toy.publish(REWORDED)
    toy.update()
    before = toy.path.read_bytes()
    assert toy.update()["state"] == "up to date" and toy.path.read_bytes() == before
    toy.publish(WITHOUT)  # a third edition: the first old file stays
    row = toy.update()
    assert row["kept"] == str(toy.path.with_name("05_toy.old-2.ipynb")) and row["exercises"] == ["5.1", "5.2"]
    assert row["left"] == ["exercise 5.3: the new edition has no such exercise"]
    assert toy.path.with_name("05_toy.old-2.ipynb").read_bytes() == before
    assert sorted(path.name for path in toy.path.parent.iterdir()) == [
        "05_toy.ipynb",
        "05_toy.old-2.ipynb",
        "05_toy.old.ipynb",
    ]
    with pytest.raises(CourseError, match="was changed or run by somebody"):  # the reader's, as before
        student(out=toy.path.parent, root=toy.root)


def test_a_notebook_that_nobody_touched_is_replaced_and_an_absent_one_written(toy):
    toy.publish(REWORDED)
    assert toy.update() | {"output": ""} == dict(
        notebook="05_toy", state="replaced", exercises=[], moved={}, cells=0, kept=None, left=[], output=""
    )
    assert untouched(toy.path)
    toy.path.unlink()
    assert toy.update()["state"] == "written" and untouched(toy.path)
    assert [path.name for path in toy.path.parent.iterdir()] == ["05_toy.ipynb"]


def test_cells_that_the_reader_added_follow_the_same_cells(toy):
    nb = toy.solve()
    note = nbformat.v4.new_markdown_cell("![](attachment:a.png) mine")
    note.attachments = {"a.png": {"image/png": "aGk="}}
    helper = nbformat.v4.new_code_cell("def helper(): ...", execution_count=3, metadata={"tags": ["exercise:5.1"]})
    last = nbformat.v4.new_code_cell("double(7)")
    nb.cells.insert(0, nbformat.v4.new_raw_cell("first of all"))
    nb.cells.insert(position(nb, "import math") + 1, note)
    nb.cells.insert(position(nb, "double = check"), helper)
    nb.cells += [last, nbformat.v4.new_code_cell("")]
    toy.save(nb)
    toy.publish(REWORDED)
    row = toy.update()
    assert row["cells"] == 4 and row["left"] == [] and row["exercises"] == ["5.1", "5.2", "5.3"]
    texts, new = toy.texts(), toy.notebook
    assert texts[0] == "first of all" and texts[-1] == "double(7)"
    assert texts[texts.index("import math") + 1] == note.source
    assert new.cells[texts.index(note.source)].attachments == note.attachments
    place = texts.index(helper.source)
    assert texts[place - 1 : place + 2 : 2] == [MINE["5.1"], 'double = check("5.1", double)']
    assert sum(parts(cell).get("exercise") == "5.1" for cell in new.cells) == 1
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in new.cells)
    nbformat.validate(new)


@pytest.mark.silent
def test_ids_stay_unique(toy):
    nb = toy.solve()
    nb.cells += [nbformat.v4.new_raw_cell(text, id="same") for text in ("one", "two")]
    toy.save(nb)
    toy.publish(REWORDED)
    assert toy.update()["cells"] == 2 and toy.texts()[-2:] == ["one", "two"]
    ids = [cell.id for cell in toy.notebook.cells]
    assert len(set(ids)) == len(ids) and ids[-2] == "same"


def test_cells_that_the_reader_changed_in_place(toy):
    nb = toy.notebook
    changes = {'PROFILE = "smoke"': 'PROFILE = "lecture"', "A text that stays.": "I wrote here."}
    changes |= {"A text that will change.": "I wrote there.", "print(double(3))": "print(double(4))"}
    picture = {"a.png": {"image/png": "aGk="}}
    for cell in nb.cells:
        cell.source = changes.get(cell.source, cell.source)
        if cell.source == "I wrote here.":
            cell.attachments = picture
    toy.save(nb)
    where = position(nb, "I wrote there.") + 1
    toy.publish(REWORDED)
    row = toy.update()
    assert row["cells"] == 3 and row["exercises"] == []
    assert row["left"] == [f"cell {where} ('I wrote there.'): you changed it, and the course changed or removed it"]
    assert set(changes.values()) - set(toy.texts()) == {"I wrote there."}
    assert toy.notebook.cells[toy.texts().index("I wrote here.")].attachments == picture
    assert 'PROFILE = "smoke"' not in toy.texts() and "A text that has changed." in toy.texts()


def test_a_remark_in_the_note_of_the_edition_stays(toy, monkeypatch):
    nb = toy.solve()
    monkeypatch.setattr(student_module, "NOTE", "*Student edition: another text.*")
    assert toy.update()["state"] == "updated" and "*Student edition: another text.*" in toy.texts()
    nb.cells[1].source += "\n\nMy remark."
    toy.save(nb)
    assert toy.update()["cells"] == 1 and nb.cells[1].source in toy.texts()


@pytest.mark.parametrize("mine", ["", " And my remark."])
def test_hints_that_the_course_changed(mine, toy):
    nb = toy.solve()
    hint = position(nb, "<details>")
    nb.cells[hint].source += mine
    toy.save(nb)
    toy.publish(OLD.replace("Add.", "Add it to itself."))
    said = f"cell {hint + 1} ('<details>Add.</details>'): you changed it, and so did the course"
    assert toy.update()["left"] == ([said] if mine else [])
    assert any(text.startswith("<details>Add it to itself.</details>") for text in toy.texts())
    assert not any("And my remark." in text for text in toy.texts())


def test_a_cell_that_was_copied_stays_where_it_is(toy):
    nb = toy.solve()
    check = nb.cells[position(nb, "double = check")]
    nb.cells.append(nbformat.v4.new_code_cell("import math"))
    nb.cells.append(nbformat.v4.new_code_cell(check.source, metadata=check.metadata))
    nb.cells.append(nbformat.v4.new_code_cell(check.source + "  # again", metadata=check.metadata))
    toy.save(nb)
    toy.publish(REWORDED)
    row = toy.update()
    texts = toy.texts()
    assert texts[-3:] == ["import math", check.source, check.source + "  # again"]
    assert row["cells"] == 3 and row["left"] == [] and texts.count("import math") == texts.count(check.source) == 2


def test_a_stub_that_was_solved_in_a_copy(toy):
    nb = toy.notebook
    stub = nb.cells[position(nb, "def double")]
    nb.cells.insert(2, nbformat.v4.new_markdown_cell("mine"))
    nb.cells.insert(3, nbformat.v4.new_code_cell(MINE["5.1"], metadata=stub.metadata))
    nb.cells.insert(4, nbformat.v4.new_markdown_cell("mine, too"))
    toy.save(nb)
    toy.publish(REWORDED)
    assert toy.update()["exercises"] == ["5.1"] and toy.stub("5.1") == MINE["5.1"]
    assert toy.texts()[2:4] == ["mine", "mine, too"]


def test_the_glossary_comes_too(toy):
    (toy.root / "notebooks" / "glossary.md").write_text("terms", encoding="utf-8")
    toy.update()
    assert (toy.path.parent / "glossary.md").read_text(encoding="utf-8") == "terms"


def test_the_second_of_two_cells_with_one_tag_follows_the_first(toy):
    nb = toy.solve()
    stub = position(nb, "def double")
    again = nbformat.v4.new_code_cell("def double(x):\n    return 2 * x  # better", metadata=nb.cells[stub].metadata)
    nb.cells.insert(stub + 1, again)
    toy.save(nb)
    toy.publish(REWORDED)
    assert toy.update()["cells"] == 1
    texts = toy.texts()
    assert texts.index(again.source) == texts.index(MINE["5.1"]) + 1


def test_a_copy_of_the_notebook_with_solutions(toy):
    """It has no record of the course's texts: exercises are carried by their tags, and the rest is not guessed."""
    toy.save(from_source(toy.source))
    nb = toy.solve()
    assert any("solution" in parts(cell) for cell in nb.cells)
    row = toy.update()
    assert (row["state"], row["exercises"]) == ("updated", ["5.1", "5.2", "5.3"])
    assert row["left"] == [UNSURE.format(2)]  # the hints, which say here where the solution is, and the solution
    assert not any("solution" in parts(cell) for cell in toy.notebook.cells)


UNSURE = "the new edition does not have the texts of {} cells, and nothing says who wrote them"


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("tags", [True, False])
def test_marks_that_another_program_has_removed(toy, ids, tags):
    """Without tags the ids still tell, without ids the tags. Without both, what is not certain is said."""
    nb = toy.solve()
    nb.cells.append(nbformat.v4.new_code_cell("added"))
    for cell in nb.cells:
        if not ids:
            del cell["id"]
        if not tags:
            cell.metadata.pop("tags", None)
    if not ids:
        nb.nbformat_minor = 4
    toy.save(nb)
    data = toy.path.read_bytes()
    toy.publish(OLD.replace("will change", "has changed") if not tags else REWORDED)
    row = toy.update()
    assert row["exercises"] == (["5.1", "5.2", "5.3"] if ids or tags else [])
    assert row["cells"] == ids
    unsure = 0 if ids else 1 if tags else 4  # the added cell; the solved stubs
    assert row["left"] == ([UNSURE.format(unsure)] if unsure else [])
    assert files.Path(row["kept"]).read_bytes() == data
    nbformat.validate(toy.notebook)


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    "change, mine, sentence",
    [
        (("def double(x)", "def double(x, y)"), {}, "the new stub is double(x, y), yours is double(x)"),
        (("def double(x)", "def double(value)"), {}, "the new stub is double(value), yours is double(x)"),
        (("def double(x)", "def twice(x)"), {}, "the new stub defines twice, your cell does not"),
        (("def double(x)", "import os\ndef double(x)"), {}, "the new stub has the line `import os`, your cell has not"),
        (
            ("def double(x)", "def given():\n    return 1\n\ndef double(x)"),
            {"5.1": "def given():\n    return 2\n\n" + MINE["5.1"]},
            "given, which the new stub gives, is not that of your cell",
        ),
        (("def double(x)", "def double(x)"), {"5.1": "x = double"}, "the new stub defines double, your cell does not"),
        (("x, n=1", "x, n=2"), {}, "the new stub is Shift.forward(self, x, n=2), yours is Shift.forward(self, x, n=1)"),
        (("def forward", "def backward"), {}, "the new stub defines Shift.backward, your cell does not"),
        (("class Shift(nn.Module):\n    def forward(self, ", "def Shift("), {}, "Shift is a function now"),
        (("def double(x)", "def double(x: int)"), {}, None),
        (("def double(x)", "def double(x)"), {"5.1": "def double(x, extra=0):\n    return x"}, None),
        (
            ("def double(x)", "def double(x)"),
            {"5.1": "def double(x, extra):\n    return x"},
            "the new stub is double(x)",
        ),
        (
            ("def double(x)", "def double(x)"),
            {"5.1": "def double(x, *, k):\n    return x"},
            "the new stub is double(x)",
        ),
        (("def double(x)", "def double(*x)"), {"5.1": "def double(*x):\n    return x"}, None),
        (("def double(x)", "def double(*x)"), {}, "the new stub is double(*x), yours is double(x)"),
        (("def double(x)", "def double(x, *y)"), {}, "the new stub is double(x, *y), yours is double(x)"),
        (("def double(x)", "def double(x, **y)"), {}, "the new stub is double(x, **y), yours is double(x)"),
        (("def double(x)", "def double(x, *, y=1)"), {}, "the new stub is double(x, *, y=1), yours is double(x)"),
        (("def double(x)", "def double(x, *, y)"), {"5.1": "def double(x, *, y, z=1):\n    return x"}, None),
        (("def double(x)", "def double(x, y)"), {"5.1": "def double(x:\n    half a thought"}, None),
        (("def double(x)", "def double(x, y)"), {"5.1": "%timeit 1\n" + MINE["5.1"]}, None),
        (("def double(x)", "def double(x)"), {"5.1": "double = lambda x: 2 * x"}, None),
        (("def double(x)", "def double(x)"), {"5.1": "from mine import twice as double"}, None),
    ],
)
def test_what_no_longer_fits_is_said_and_the_rest_is_carried(change, mine, sentence, toy):
    nb = toy.solve()
    for cell in nb.cells:
        if number := parts(cell).get("exercise"):
            cell.source = (MINE | mine)[number]
    toy.save(nb)
    assert REWORDED.count(change[0]) in (1, 2)  # the stub, and its solution
    toy.publish(REWORDED.replace(*change))
    row = toy.update()
    moved = "5.2" if "Shift" in (sentence or "") else "5.1"
    if sentence:
        (said,) = row["left"]
        assert said.startswith(f"exercise {moved}: {sentence}") and row["exercises"] == [n for n in MINE if n != moved]
        assert "NotImplementedError" in toy.stub(moved)  # the new stub: all cells run
    else:
        assert row["left"] == [] and row["exercises"] == list(MINE)
        assert toy.stub("5.1") == (MINE | mine)["5.1"]
    assert (MINE | mine)[moved] in "".join(c.source for c in student_module.read(files.Path(row["kept"])).cells)


NEW_FIRST = """# %% tags=["exercise:5.1"]
def halve(x):
    raise NotImplementedError("exercise 5.1")

"""


def renumbered(text: str) -> str:
    """A new exercise 5.1; the old ones have the next numbers."""
    for old, new in (("5.3", "5.4"), ("5.2", "5.3"), ("5.1", "5.2")):
        text = text.replace(old, new)
    return text.replace('# %% tags=["exercise:5.2"]', NEW_FIRST + '# %% tags=["exercise:5.2"]', 1)


def test_solved_cells_follow_their_exercise_to_its_new_number(toy):
    toy.solve()
    toy.publish(renumbered(REWORDED))
    row = toy.update()
    assert row["moved"] == {"5.1": "5.2", "5.2": "5.3", "5.3": "5.4"} and row["left"] == []
    assert row["exercises"] == ["5.2", "5.3", "5.4"] and "halve" in toy.stub("5.1")
    assert [toy.stub(new) for new in row["moved"].values()] == list(MINE.values())


@pytest.mark.parametrize(
    "change, mine, left",
    [
        (("def double", "def twice"), MINE["5.1"], "the new stub defines halve"),  # renumbered and renamed: nowhere
        (("def gone(x)", "def double(x)"), MINE["5.1"], "the new stub defines halve"),  # two exercises might be it
        (("def double(x)", "def double(x, y)"), MINE["5.1"], "the new stub defines halve"),
        (("def double", "def double"), "print(1)", "the new stub defines halve"),  # a note in place of a solution
    ],
)
def test_a_solution_without_one_plain_home_stays_in_the_old_file(change, mine, left, toy):
    toy.solve()
    nb = toy.notebook
    next(cell for cell in nb.cells if parts(cell).get("exercise") == "5.1").source = mine
    toy.save(nb)
    text = renumbered(OLD)
    assert text.count(change[0]) in (1, 2)
    toy.publish(text.replace(*change))
    row = toy.update()
    assert "5.1" not in row["moved"] and row["left"][0].startswith(f"exercise 5.1: {left}")
    assert "NotImplementedError" in toy.stub("5.1") and "NotImplementedError" in toy.stub("5.2")


def test_a_number_that_fits_comes_before_a_name(toy):
    """The cell of 5.1 also defines what 5.3 asks for; that of 5.3 is not solved."""
    toy.solve()
    nb = toy.notebook
    for cell in nb.cells:
        if (number := parts(cell).get("exercise")) == "5.1":
            cell.source = MINE["5.1"] + "\n\n" + MINE["5.3"]
        elif number == "5.3":
            cell.source = 'def gone(x):\n    raise NotImplementedError("exercise 5.3")'
    toy.save(nb)
    toy.publish(REWORDED)
    row = toy.update()
    assert row["moved"] == {} and row["exercises"] == ["5.1", "5.2"] and toy.stub("5.1").endswith(MINE["5.3"])


# ---------------------------------------------------------------- files that cannot be updated


@pytest.mark.parametrize(
    "data, words",
    [
        (b"{", "no notebook"),
        (b"[]", "no notebook"),
        (b'{"nbformat": 3, "worksheets": []}', "no notebook"),
        (b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": ["text"]}', "no notebook"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {"vt_course": 7}, "cells": [{"cell_type": "raw", '
         b'"id": "abc", "metadata": {}, "source": "a text"}]}', "has no cell of this notebook"),
        (None, "cannot be read"),
    ],
    ids=["cut", "list", "old format", "cells", "bytes", "another notebook", "folder"],
)  # fmt: skip
def test_a_file_that_is_no_edition_is_refused_before_anything_is_written(data, words, toy, capsys, monkeypatch):
    toy.solve()
    toy.publish(REWORDED)
    other = toy.path.with_name("06_other.ipynb")
    shutil.copy(toy.source, toy.source.with_name("06_other.py"))
    other.mkdir() if data is None else other.write_bytes(data)
    before = toy.path.read_bytes()
    monkeypatch.setattr(work, "repo_root", lambda: toy.root)
    assert main(["student", "--update"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"vt-course: {other} ") and words in err and err.count("\n") == 1
    assert re.search("move it away|save it as UTF-8", err)
    assert toy.path.read_bytes() == before and len(list(toy.path.parent.iterdir())) == 2
    with pytest.raises(CourseError, match="was changed or run by somebody"):  # the same files, without --update
        student(["6"], out=other.parent, root=toy.root)
    assert main(["student", "5", "--update"]) == 0  # the others can be updated


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_full_disk_loses_nothing(fails_at, toy, monkeypatch):
    toy.solve()
    toy.publish(REWORDED)
    before, calls, sync = toy.path.read_bytes(), [], files.os.fsync

    def full(handle):
        calls.append(handle)
        if len(calls) == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(CourseError, match="No space left on device"):
        toy.update()
    assert toy.path.read_bytes() == before and list(toy.path.parent.iterdir()) == [toy.path]
    assert toy.update()["kept"] == str(toy.path.with_name("05_toy.old.ipynb"))


def test_a_kill_between_the_two_files_leaves_one_copy(toy, monkeypatch):
    toy.solve()
    toy.publish(REWORDED)
    shutil.copy(toy.path, toy.path.with_name("05_toy.old.ipynb"))  # what the kill left
    toy.update()
    assert len(list(toy.path.parent.iterdir())) == 2


def test_never_into_the_notebooks(toy):
    with pytest.raises(CourseError, match="inside notebooks/"):
        work.update(out=toy.source.parent, root=toy.root)
    with pytest.raises(CourseError, match="There is no notebook '99'"):
        work.update(["99"], root=toy.root)


# ---------------------------------------------------------------- the verb, and the course itself


def test_the_verb_says_what_became_of_the_work(toy, monkeypatch, capsys):
    monkeypatch.setattr(work, "repo_root", lambda: toy.root)
    toy.solve()
    toy.publish(WITHOUT)
    assert main(["student", "5", "--update", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["exercises"] == ["5.1", "5.2"]
    assert main(["student", "--update"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert re.split("  +", head) == ["notebook", "state", "your exercises", "your other cells", "the old file"]
    assert re.split("  +", line) == ["05_toy", "up to date", "0"]
    toy.path.write_bytes(files.Path(row["kept"]).read_bytes())
    assert main(["student", "--update"]) == 0
    head, line, left = capsys.readouterr().out.splitlines()
    assert re.split("  +", line) == ["05_toy", "updated", "5.1, 5.2", "0", row["kept"]]
    assert left == "05_toy: exercise 5.3: the new edition has no such exercise; yours is in the old file"
    toy.solve()
    toy.publish(renumbered(WITHOUT))
    assert main(["student", "--update"]) == 0
    said = capsys.readouterr().out.splitlines()[2:]
    assert said[:2] == [f"05_toy: exercise 5.{k} is 5.{k + 1} now; your cell is there" for k in (1, 2)]


def test_a_solved_notebook_of_the_course_is_carried_over(tmp_path):
    """Its own solutions, put into the stubs of notebook 04, whose stubs are reworded in the newer edition."""
    toy = Course(tmp_path, (repo_root() / "notebooks" / "src" / "04_video_swin.py").read_text(encoding="utf-8"))
    solved = {parts(c)["solution"]: c.source for c in from_source(toy.source).cells if "solution" in parts(c)}
    solved = {number: text[: text.rindex("\n\n")].rstrip() for number, text in solved.items()}
    nb = toy.notebook
    for cell in nb.cells:
        if number := parts(cell).get("exercise"):
            cell.source = solved[number]
    toy.save(nb)
    text = toy.source.read_text(encoding="utf-8")
    toy.publish(text.replace('    """', '    """Read this twice. '))
    row = toy.update()
    assert row["exercises"] == list(solved) and row["left"] == [] and len(solved) > 5
    assert all(toy.stub(number) == text for number, text in solved.items())
