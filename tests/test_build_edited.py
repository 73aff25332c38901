"""`vt-course build` never overwrites what somebody edited in a notebook, and knows it from a notebook that was only
run again. Nothing is executed here: `text_only` builds with the outputs that a notebook has."""

import copy

import nbformat
import pytest

from vt_course import CourseError
from vt_course.cli import main
from vt_course.lab.show.style import WIDE
from vt_course.publish import NotebookFailed, figures
from vt_course.publish import build as building
from vt_course.publish.build import build, drift, edited
from vt_course.publish.source import METADATA, cell_ids, fingerprint, from_source

SOURCE = """# %% [markdown]
# # A toy

# %% tags=["parameters"]
PROFILE = "smoke"

# %% alt="Two words stand in one line, as a picture of text would show them."
print("a", "b")

# %% [markdown]
# The end.
"""
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAG7buVgAAAABJRU5ErkJggg=="


@pytest.fixture
def toy(tmp_path):
    """(source, notebook): a checkout with one notebook that was built."""
    source = tmp_path / "notebooks" / "src" / "01_toy.py"
    source.parent.mkdir(parents=True)
    source.write_text(SOURCE, encoding="utf-8")
    path = tmp_path / "notebooks" / "01_toy.ipynb"
    nb = from_source(source)
    for count, cell in enumerate((cell for cell in nb.cells if cell.cell_type == "code"), start=1):
        cell.execution_count = count
    picture = nbformat.v4.new_output("display_data", {"image/png": PIXEL})
    nb.cells[2].outputs = [nbformat.v4.new_output("stream", text="a b\n"), picture]
    nbformat.write(nb, path)
    build(root=tmp_path, text_only=True)
    return source, path


def read(path):
    return nbformat.v4.reads(path.read_text(encoding="utf-8"))


def edit(path, change) -> None:
    nb = read(path)
    change(nb)
    path.write_text(nbformat.v4.writes(nb), encoding="utf-8")


def saved_by_jupyterlab(nb):
    """What JupyterLab changes when somebody runs a notebook and saves it."""
    nb.metadata.kernelspec.display_name = "My Python"
    nb.metadata.language_info = {"name": "python", "version": "3.13.1", "codemirror_mode": {"name": "ipython"}}
    for cell in nb.cells:
        cell.metadata["collapsed"] = False
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = 7, [nbformat.v4.new_output("stream", text="new\n")]
            cell.metadata["execution"] = {"iopub.execute_input": "now"}


def outputs_cleared(nb):
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = None, []


@pytest.mark.parametrize("change", [lambda nb: None, saved_by_jupyterlab, outputs_cleared])
def test_a_notebook_that_was_only_run_is_not_edited(toy, change):
    edit(toy[1], change)
    assert edited(*toy) == []
    toy[0].write_text(SOURCE.replace("The end.", "The very end."), encoding="utf-8")  # the author goes on
    assert edited(*toy) == []


def change_text(nb):
    nb.cells[3].source = "My own end."


def change_code(nb):
    nb.cells[2].source += "\nprint('c')"


def add_cell(nb):
    nb.cells.insert(1, nbformat.v4.new_markdown_cell("A thought."))


def repeat_cell(nb):
    nb.cells.append(copy.deepcopy(nb.cells[3]))
    nb.cells[-1].id = "0123456789ab"


def remove_cell(nb):
    del nb.cells[3]


def move_cell(nb):
    nb.cells.insert(0, nb.cells.pop())


def change_tags(nb):
    nb.cells[1].metadata["tags"] = ["parameters", "slide"]


def change_alt(nb):
    nb.cells[2].metadata["mystnb"]["image"]["alt"] = "Another sentence about what there is to be seen here."


EDITS = [
    (change_text, "cell 4 is changed or new"),
    (change_code, r"cell 3 \(In \[2\]\) is changed or new"),
    (add_cell, "cell 2 is changed or new"),
    (repeat_cell, "cell 5 is changed or new"),
    (remove_cell, "cell 4 of the source is not in the notebook"),
    (move_cell, "the order of the cells is changed"),
    (change_tags, r"cell 2 \(In \[1\]\) of the source has other tags or another alt text"),
    (change_alt, r"cell 3 \(In \[2\]\) of the source has other tags or another alt text"),
]


@pytest.mark.parametrize("also_run", [False, True])
@pytest.mark.parametrize("change, message", EDITS)
def test_an_edited_notebook_is_kept(toy, monkeypatch, change, message, also_run):
    monkeypatch.setattr(building, "execute", lambda *_: pytest.fail("something was executed"))
    source, path = toy
    edit(path, change)
    if also_run:
        edit(path, saved_by_jupyterlab)
    work, root = path.read_bytes(), path.parent.parent
    for options in ({}, {"text_only": True}):
        with pytest.raises(CourseError, match=message) as refused:
            build(root=root, progress=False, **options)
        assert path.read_bytes() == work
    (copied,) = (root / "edited").iterdir()  # the second refusal finds the copy of the first
    assert copied.read_bytes() == work
    for words in (f"A copy lies in edited/{copied.name}", "notebooks/src/01_toy.py", "build 01_toy --discard"):
        assert words in str(refused.value)
    with pytest.raises(NotebookFailed):  # the comparison says so, too, and copies nothing more
        build(root=root, check=True)
    assert len(list((root / "edited").iterdir())) == 1


def test_discard_overwrites_and_keeps_a_copy(toy):
    source, path = toy
    before = path.read_bytes()
    edit(path, change_text)
    work, root = path.read_bytes(), path.parent.parent
    (row,) = build(root=root, text_only=True, discard=True)
    assert row["status"] == "built" and path.read_bytes() == before
    assert [copied.read_bytes() for copied in (root / "edited").iterdir()] == [work]


@pytest.mark.parametrize("text", ["<<<<<<< HEAD\n{}", "", "{}", "[]", "null", '{"cells": 3}', '{"cells": [{}]}'])
def test_a_broken_file_is_somebodys_work_too(toy, text):
    """For instance one with the marks of a merge that git could not finish."""
    source, path = toy
    path.write_text(text, encoding="utf-8")
    root = path.parent.parent
    with pytest.raises(CourseError, match="the file is not a valid notebook any more"):
        build(root=root, progress=False)
    assert path.read_text(encoding="utf-8") == text
    assert drift(source, path) == ["01_toy: is not a valid notebook; run `vt-course build 01_toy`."]
    with pytest.raises(NotebookFailed, match="has no notebook with outputs"):
        build(root=root, text_only=True, discard=True)


def test_edits_that_went_into_the_source_are_no_edits(toy):
    source, path = toy
    edit(path, change_text)
    source.write_text(SOURCE.replace("The end.", "My own end."), encoding="utf-8")
    assert edited(source, path) == []
    build(root=path.parent.parent, text_only=True)
    assert drift(source, path) == []


def test_a_notebook_of_an_older_build_has_no_record(toy):
    """Then only the ids tell: changed and new cells are seen, cells that were removed or moved are not."""
    source, path = toy
    edit(path, lambda nb: nb.metadata.pop("vt_course"))
    source.write_text(SOURCE.replace("The end.", "The very end."), encoding="utf-8")
    assert edited(source, path) == []
    edit(path, change_code)
    assert edited(source, path) == ["cell 3 (In [2]) is changed or new"]


def test_all_edited_notebooks_are_named_before_anything_is_executed(toy, monkeypatch, capsys):
    source, path = toy
    second = source.with_name("02_toy.py")
    second.write_text(SOURCE, encoding="utf-8")
    path.with_name("02_toy.ipynb").write_bytes(path.read_bytes())
    for each in (path, path.with_name("02_toy.ipynb")):
        edit(each, change_text)
    monkeypatch.setattr(building, "repo_root", lambda: path.parent.parent)
    assert main(["build", "--text-only"]) == 2
    said = capsys.readouterr().err
    assert "01_toy.ipynb was edited by hand" in said and "02_toy.ipynb was edited by hand" in said
    assert main(["build", "--text-only", "--discard"]) == 0
    assert len(list((path.parent.parent / "edited").iterdir())) == 2


# ---------------------------------------------------------------- text only


def test_text_only_keeps_every_output(toy):
    source, path = toy
    before = read(path)
    source.write_text(
        SOURCE.replace("The end.", "The end, said again.").replace(
            'tags=["parameters"]', 'tags=["parameters", "slide"]'
        ),
        encoding="utf-8",
    )
    build(root=path.parent.parent, text_only=True)
    after = read(path)
    assert after.cells[3].source == "The end, said again." and after.cells[1].metadata.tags[-1] == "slide"
    assert [cell.get("outputs") for cell in after.cells] == [cell.get("outputs") for cell in before.cells]
    assert [cell.get("execution_count") for cell in after.cells] == [None, 1, 2, None]
    assert [cell.id for cell in after.cells] == cell_ids(after)
    assert after.metadata == METADATA | {"vt_course": {"sha256": fingerprint(after)}}
    assert drift(source, path) == []


@pytest.mark.parametrize(
    "had, wanted",
    [
        ({}, {"width": 1, "unconfined": True}),  # a picture of one pixel
        ({"width": 336}, {"width": 336, "unconfined": True}),  # shown larger than it is, as a clip
        ({"width": 900}, {"width": WIDE, "unconfined": True}),
    ],
)
def test_pictures_of_an_older_build_get_their_size_on_a_page_without_a_run(toy, had, wanted):
    _, path = toy
    edit(path, lambda nb: nb.cells[2].outputs[1].update(metadata={"image/png": had} if had else {}))
    assert figures.without_size(read(path)) == 1
    build(root=path.parent.parent, text_only=True)
    assert read(path).cells[2].outputs[1].metadata == {"image/png": wanted}
    assert figures.without_size(read(path)) == 0


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('print("a", "b")', 'print("a", "c")', "01_toy: its code has changed; run `vt-course build 01_toy`"),
        ("# %% [markdown]\n# The end.", "# %%\nx = 1", "its code has changed"),
        ("The end.", "See [this](nowhere.md).", "link to nowhere.md is dead"),
        ("# # A toy", '# %% tags=["toy"]\n# # A toy', "is not one of the course's"),
    ],
)
def test_text_only_refuses_what_needs_a_run(toy, old, new, message):
    source, path = toy
    before = path.read_bytes()
    source.write_text(SOURCE.replace(old, new), encoding="utf-8")
    with pytest.raises(NotebookFailed, match=message):
        build(root=path.parent.parent, text_only=True)
    assert path.read_bytes() == before


def test_text_only_needs_a_notebook(toy):
    source, path = toy
    path.unlink()
    with pytest.raises(NotebookFailed, match="01_toy: has no notebook with outputs"):
        build(root=path.parent.parent, text_only=True)


def test_a_stale_record_is_a_drift(toy):
    source, path = toy
    edit(path, lambda nb: nb.metadata.vt_course.update(sha256="0"))
    assert drift(source, path) == [
        "01_toy: the record of its build is not that of its cells; run `vt-course build 01_toy --text-only`."
    ]
    build(root=path.parent.parent, text_only=True)
    assert drift(source, path) == []
