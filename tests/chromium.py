"""A headless Chromium for tests, as a fixture."""

import os

import pytest

from vt_course.publish.printing import Chromium


@pytest.fixture(scope="module")
def browser():
    """A Chromium of this module; where there is none, its tests are skipped, but not on a server (CI)."""
    try:
        one = Chromium()
    except Exception as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no Chromium: {error}")
    yield one
    one.close()
