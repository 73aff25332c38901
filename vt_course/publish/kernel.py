"""The kernel that runs a notebook, the same for the build and for the course."""

import os
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from traitlets import default

from vt_course import own_root, repo_root
from vt_course.files import atomic_write

PROFILES = ("smoke", "lecture", "full")
# The seconds that one cell may take; None means no limit.
CELL_SECONDS = {"smoke": 180, "lecture": 1800, "full": None}

# RuntimeError: the kernel died (DeadKernelError) or did not start (jupyter_client).
CELL_ERRORS = (CellExecutionError, CellTimeoutError, RuntimeError)


def kernel_env(**extra: str) -> dict[str, str]:
    """The environment of a kernel: no messages at start, no progress bars, static figures, no record of progress."""
    env = {
        **os.environ,
        "IPYTHONDIR": str(ipython_folder()),
        "TQDM_DISABLE": "1",
        "VT_COURSE_STATIC": "1",
        "VT_COURSE_PROGRESS": "",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        **extra,
    }  # the last: debugger's warning
    env.pop("MPLBACKEND", None)  # if it is set, inline figures are missing in the output
    return env


def ipython_folder() -> Path:
    """The folder with the course's settings of IPython, which writes into it: where the course's own files are only
    read, a copy."""
    settings, own = repo_root() / ".ci" / "ipython", own_root()
    if own == repo_root():
        return settings
    copy = own / "build" / "ipython"
    (copy / "profile_default").mkdir(parents=True, exist_ok=True)
    for file in (settings / "profile_default").glob("*.py"):
        atomic_write(copy / "profile_default" / file.name, file.read_bytes())
    return copy


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
