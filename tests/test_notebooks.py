"""Committed notebooks are clean and in step with their sources; the stage `outputs` of `vt-course test` runs them
again."""

import pytest

from vt_course import repo_root
from vt_course.publish import build, hygiene

FOLDER = repo_root() / "notebooks"
STEMS = sorted({path.stem for path in [*FOLDER.glob("*.ipynb"), *FOLDER.glob("src/*.py")]})


def test_there_is_a_notebook():
    assert list(FOLDER.glob("[0-9][0-9]_*.ipynb"))


@pytest.mark.parametrize("stem", STEMS)
def test_hygiene(stem):
    assert hygiene.problems(FOLDER / f"{stem}.ipynb") == []


@pytest.mark.parametrize("stem", STEMS)
def test_in_step_with_its_source(stem):
    assert build.drift(FOLDER / "src" / f"{stem}.py", FOLDER / f"{stem}.ipynb") == []
