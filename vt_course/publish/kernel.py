"""The kernel that runs a notebook, the same for the build and for the course."""
import os
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from traitlets import default

from .. import CourseError, repo_root

PROFILES = ("smoke", "lecture", "full")
# How long one cell may take, in seconds; None: for ever.
CELL_SECONDS = {"smoke": 180, "lecture": 1800, "full": None}

# RuntimeError: the kernel died (DeadKernelError), or never started (jupyter_client).
CELL_ERRORS = (CellExecutionError, CellTimeoutError, RuntimeError)


def kernel_env(**extra: str) -> dict[str, str]:
    """Environment of a kernel: silent start, no progress bars, static figures, no notes of progress."""
    profile = str(repo_root() / ".ci" / "ipython")
    env = {**os.environ, "IPYTHONDIR": profile, "TQDM_DISABLE": "1", "VT_COURSE_STATIC": "1",
           "VT_COURSE_PROGRESS": "", "PYDEVD_DISABLE_FILE_VALIDATION": "1", **extra}     # the last: a debugger's remark at start
    env.pop("MPLBACKEND", None)         # where it is set, inline figures vanish from the output
    return env


class CourseKernel(AsyncKernelManager):
    """`python3` means this interpreter, whatever kernelspecs the machine has (or lacks)."""

    @default("kernel_spec_manager")
    def _only_this_interpreter(self):
        return KernelSpecManager(kernel_dirs=[])

    async def start_kernel(self, **kw):
        kw.setdefault("env", kernel_env())
        return await super().start_kernel(**kw)


def explain(error: Exception) -> str:
    """What happened in the cell, after "notebook, cell: "."""
    if isinstance(error, DeadKernelError):
        return "the kernel died (out of memory, or the process was ended)."
    if isinstance(error, CellTimeoutError):
        return "took too long and was stopped."
    if isinstance(error, RuntimeError):
        return f"the kernel did not start: {error}."
    return f"raised {error.ename}: {error.evalue}\n{error.traceback}"


def select(folder: Path, pattern: str, names: list[str] | None) -> list[Path]:
    """The notebooks (or sources) in `folder`, in course order.

    names: stems ("04_video_swin") or their numbers ("04"); None: all.
    Raises CourseError for a name that is not there, and for an empty folder.
    """
    found = sorted(folder.glob(pattern))
    if not found:
        raise CourseError(f"There is no {pattern} in {folder};"
                          " run this in a checkout of the course.")
    known = {key: path for path in found for key in (path.stem, path.stem[:2])}
    for name in names or []:
        if name not in known:
            stems = ", ".join(path.stem for path in found)
            raise CourseError(f"There is no notebook {name!r}; choose from {stems}.")
    return sorted({known[name] for name in names}) if names else found
