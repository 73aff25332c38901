"""One deterministic, single-threaded, headless world for all tests."""

import os
import random
import sys
from pathlib import Path

# Before any test module imports torch, which reads the number of threads on import.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TQDM_DISABLE="1")
os.environ["PATH"] += os.pathsep + str(Path(sys.executable).parent)  # as if the environment were activated
os.environ.pop("MPLBACKEND", None)  # a kernel that inherits it draws no inline figures

import hypothesis
import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")  # in this process only
for name in ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
    # `make test` and a hook of git leave these. A make inside a test would print what the outer one asks for, and a
    # git inside a test would work in the outer repository.
    os.environ.pop(name, None)
hypothesis.settings.register_profile("course", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("course")


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state, in whatever order tests run."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


HANG = """
import os, time

def stat(path, *args, real=os.stat, **settings):
    while os.path.basename(str(path)) == "hangs.mp4":
        time.sleep(1)
    return real(path, *args, **settings)

os.stat = stat
"""


@pytest.fixture
def hangs(tmp_path_factory, monkeypatch):
    """In a process of Python that is started now, a file named hangs.mp4 cannot be looked at: it takes for ever."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(HANG, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *sys.path]))


# Another test's garbage, such as an event loop that Jupyter never closes, is collected in whatever test runs next.
SILENT = pytest.mark.filterwarnings("error", "default::pytest.PytestUnraisableExceptionWarning")


def pytest_assertrepr_compare(op, left, right):
    """Two long byte strings are told by where they part. Written out, they hide the rest of the log of CI."""
    if op == "==" and isinstance(left, bytes) and isinstance(right, bytes) and max(len(left), len(right)) > 1000:
        same = len(os.path.commonprefix([left, right]))
        return [f"{len(left)} bytes == {len(right)} bytes; the first {same} are the same"]


def pytest_collection_modifyitems(items):
    """Warnings are errors in `silent` tests. On Windows a `posix` test is skipped, and says what Windows lacks."""
    for item in items:
        if item.get_closest_marker("silent"):
            item.add_marker(SILENT)
    for item in items if os.name == "nt" else ():
        if marker := item.get_closest_marker("posix"):
            item.add_marker(pytest.mark.skip(reason=f"Windows has no such thing: {marker.args[0]}"))
