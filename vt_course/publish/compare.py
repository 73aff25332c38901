"""Run committed notebooks again, cell by cell, and compare every output with the committed one (nbval).

nbval leaves pictures out; `figures` adds them.
"""

import os
import subprocess
import sys
from pathlib import Path

from vt_course import repo_root
from vt_course.publish.kernel import CELL_SECONDS, kernel_env


def compare(paths: list[Path], *more: str, root: Path | None = None, workers: int = 2) -> int:
    """pytest's exit code: 0 if every output is as committed. `more`: further options of pytest.

    The notebooks must lie in `root` (the checkout), because pytest gives no names to files outside its root. xdist then
    runs only the first of them and reports success. `make test` and the tests of this function both call it, so they
    cannot differ in an option.
    """
    root = root or repo_root()
    return subprocess.call(
        [
            sys.executable,
            "-m",
            "pytest",
            "-c",
            str(root / "pyproject.toml"),
            "--rootdir",
            str(root),
            "-p",
            "no:cacheprovider",
            "-p",
            "vt_course.publish.figures",
            "--nbval",
            "--nbval-current-env",
            "--nbval-sanitize-with",
            str(root / ".ci" / "nbval_sanitize.cfg"),
            "--nbval-cell-timeout",
            str(CELL_SECONDS["smoke"]),
            "--nbval-kernel-startup-timeout",
            "120",
            "-n",
            str(workers),
            "--dist",
            "loadfile",
            "-q",
            *more,
            *map(str, paths),
        ],
        cwd=root,
        env=build_env(),
    )


def build_env() -> dict[str, str]:
    """An environment with fixed values for everything on which outputs may depend.

    The number of threads is one, unless OMP_NUM_THREADS gives another.
    """
    return kernel_env(OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"), PYTHONHASHSEED="0")
