"""Committed notebooks are clean and in step with their sources; the stage `outputs` of `vt-course test` runs them
again."""

import json
import re

import nbformat
import pytest

from vt_course import repo_root
from vt_course.lab.exercises import EXERCISES
from vt_course.publish import build, figures, hygiene, links
from vt_course.publish.tags import NUMBERED, TAGS, alt, exercises

FOLDER = repo_root() / "notebooks"
STEMS = sorted({path.stem for path in [*FOLDER.glob("*.ipynb"), *FOLDER.glob("src/*.py")]})
LIMITS = json.loads((FOLDER / "limits.json").read_text(encoding="utf-8"))
PAGES = ["README.md", "CHANGELOG.md", "data/README.md", "notebooks/AUTHORS.md", "notebooks/glossary.md"]
PAGES += [f"docs/{name}.md" for name in ("students", "teachers", "researchers", "contributors")]


def committed(stem: str):
    return nbformat.v4.reads((FOLDER / f"{stem}.ipynb").read_text(encoding="utf-8"))


def test_there_is_a_notebook():
    assert list(FOLDER.glob("[0-9][0-9]_*.ipynb"))


@pytest.mark.parametrize("stem", STEMS)
def test_hygiene(stem):
    assert hygiene.problems(FOLDER / f"{stem}.ipynb") == []


@pytest.mark.parametrize("stem", STEMS)
def test_figures_stay_readable_on_a_phone(stem):
    assert figures.without_size(committed(stem)) == 0, f"run `vt-course build {stem} --text-only`"


@pytest.mark.parametrize("stem", STEMS)
def test_in_step_with_its_source(stem):
    assert build.drift(FOLDER / "src" / f"{stem}.py", FOLDER / f"{stem}.ipynb") == []


@pytest.mark.parametrize("stem", STEMS)
def test_limits(stem):
    assert hygiene.limit_problems(committed(stem), stem, LIMITS) == []


def test_limits_name_notebooks():
    assert set(LIMITS) <= set(STEMS)
    assert all(set(row) == {"figure_kb", "wide_lines"} for row in LIMITS.values())


def test_no_two_figures_of_the_course_have_the_same_text():
    cells = [(f"{stem}, cell {k}", cell) for stem in STEMS for k, cell in enumerate(committed(stem).cells, start=1)]
    assert figures.same_text(cells) == []


def test_every_exercise_stands_in_its_notebook():
    found = {number: stem for stem in STEMS for number in exercises(committed(stem))}
    assert list(found) == list(EXERCISES)
    assert all(stem.startswith(f"{int(number.split('.')[0]):02}_") for number, stem in found.items())


@pytest.mark.parametrize("page", PAGES)
def test_links_of_pages_lead_somewhere(page):
    assert links.problems(repo_root() / page) == []


# ---------------------------------------------------------------- the glossary

ENTRY = re.compile(r"### ([a-z][a-z -]*)\n\n\*\*([\u4e00-\u9fff]+)\*\* · ([A-Z][^\n]*\.)\n")


def test_glossary():
    text = (FOLDER / "glossary.md").read_text(encoding="utf-8")
    entries = ENTRY.findall(text)
    terms = [term for term, _, _ in entries]
    assert len(terms) >= 40 and terms == sorted(set(terms))
    assert ENTRY.sub("", text).count("#") == 1  # nothing but the title is left: each entry has the right form
    for term, _, sentence in entries:
        assert not re.search(r"[.!?] [A-Z]", sentence), f"{term}: one sentence is enough"


def test_every_term_of_the_glossary_is_used():
    cells = [cell for stem in STEMS for cell in committed(stem).cells]
    prose = " ".join(f"{cell.source} {alt(cell)}".lower() for cell in cells)
    terms = [term for term, _, _ in ENTRY.findall((FOLDER / "glossary.md").read_text(encoding="utf-8"))]
    assert [term for term in terms if term not in prose] == []


@pytest.mark.parametrize("stem", STEMS)
def test_every_notebook_leads_into_the_glossary(stem):
    assert sum(cell.source.count("](glossary.md#") for cell in committed(stem).cells) >= 3


# ---------------------------------------------------------------- the page for authors


def test_the_page_for_authors_knows_every_tag_and_every_limit():
    page = (FOLDER / "AUTHORS.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `([\w-]+)(?::4\.1|:swin-169)?` \|", page, re.MULTILINE)
    assert table == [*TAGS, *NUMBERED]
    for number, words in (
        (hygiene.LONGEST_CELL, "lines"),
        (hygiene.GOOD_WIDTH, "characters"),
        (hygiene.FIGURE_KB, "kB"),
        (hygiene.SIZE_MB, "MB"),
    ):
        assert f"{number} {words}" in page
