"""The kernel that runs a notebook, the same for the build and for the course."""

import os
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from traitlets import default

from vt_course import CourseError, repo_root

PROFILES = ("smoke", "lecture", "full")
# The seconds that one cell may take; None means no limit.
CELL_SECONDS = {"smoke": 180, "lecture": 1800, "full": None}

# RuntimeError: the kernel died (DeadKernelError) or did not start (jupyter_client).
CELL_ERRORS = (CellExecutionError, CellTimeoutError, RuntimeError)


def kernel_env(**extra: str) -> dict[str, str]:
    """The environment of a kernel: no messages at start, no progress bars, static figures, no record of progress."""
    profile = str(repo_root() / ".ci" / "ipython")
    env = {
        **os.environ,
        "IPYTHONDIR": profile,
        "TQDM_DISABLE": "1",
        "VT_COURSE_STATIC": "1",
        "VT_COURSE_PROGRESS": "",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        **extra,
    }  # the last: debugger's warning
    env.pop("MPLBACKEND", None)  # if it is set, inline figures are missing in the output
    return env


class CourseKernel(AsyncKernelManager):
    """A kernel manager for which `python3` is this interpreter, whatever kernelspecs the machine has."""

    @default("kernel_spec_manager")
    def _only_this_interpreter(self):
        return KernelSpecManager(kernel_dirs=[])

    async def start_kernel(self, **kw):
        kw.setdefault("env", kernel_env())
        return await super().start_kernel(**kw)


def explain(error: Exception) -> str:
    """What happened in a cell, as text that follows "notebook, cell: "."""
    if isinstance(error, DeadKernelError):
        return "the kernel died (out of memory, or the process was ended)."
    if isinstance(error, CellTimeoutError):
        return "took too long and was stopped."
    if isinstance(error, RuntimeError):
        return f"the kernel did not start: {error}."
    return f"raised {error.ename}: {error.evalue}\n{error.traceback}"


def select_sources(root: Path, names: list[str] | None) -> list[Path]:
    """The sources of the notebooks of a checkout; see `select`."""
    return select(root / "notebooks" / "src", "[0-9][0-9]_*.py", names)


def select(folder: Path, pattern: str, names: list[str] | None) -> list[Path]:
    """The notebooks (or sources) in `folder`, in course order.

    names: stems ("04_video_swin") or their numbers ("04" or "4"); None: all.
    Raises CourseError for a name that does not exist, and for an empty folder.
    """
    found = sorted(folder.glob(pattern))
    if not found:
        raise CourseError(f"There is no {pattern} in {folder}; run this in a checkout of the course.")
    known = {key: path for path in found for key in (path.stem, path.stem[:2])}
    stem = {name: f"{int(name):02}" if name.isdecimal() else name for name in names or []}
    for name, meant in stem.items():
        if meant not in known:
            stems = ", ".join(path.stem for path in found)
            raise CourseError(f"There is no notebook {name!r}; choose from {stems}.")
    return sorted({known[meant] for meant in stem.values()}) if names else found
