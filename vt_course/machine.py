"""What this machine gives a program, and how it computes: cores, memory, device, precision; and the facts that tell where a result was made.

torch is imported where it is needed: who only reads files starts without it.
"""
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

from vt_course import CourseError, repo_root


def cores() -> int:
    """Cores that this process may use: of a container its share, where the system says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads() -> int:
    """Threads that torch computes with in this process."""
    import torch
    return torch.get_num_threads()


def memory_limit() -> int:
    """Bytes of memory that this process and all beside it may use: the machine's, or its container's where that is less."""
    import psutil                                                      # not above: `doctor` reports where it is broken
    limits = [psutil.virtual_memory().total]
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):       # version 2 and 1 of Linux' control groups
        with suppress(OSError, ValueError):                            # there is none, or it says "max"
            limits.append(int(Path("/sys/fs/cgroup", limit).read_text(encoding="utf-8")))
    return min(limits)


def peak_memory() -> int:
    """Bytes: the most that this process had in memory so far. Processes it started are not counted."""
    if sys.platform == "win32":
        import psutil
        now = psutil.Process().memory_info()
        return getattr(now, "peak_wset", now.rss)
    if sys.platform == "linux":                                        # getrusage there begins with what the parent had
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss          # bytes on macOS


def held_memory(processes, above: int = 0) -> int:
    """Bytes that psutil.Processes hold and the system cannot take back: pages of files, which can be read again, do not count.

    A page that several processes share counts in each for its part, on Linux; elsewhere all that is resident counts.
    A process that has ended holds nothing. On Linux adding up takes long for a large process, so it is done only where
    a quick sum, in which shared pages count fully, is `above` so many bytes; else the quick sum is returned.
    """
    quick = sum(_from_proc(each, "status", ("RssAnon:", "RssShmem:")) for each in processes)
    return quick if quick <= above else sum(_from_proc(each, "smaps_rollup", ("Pss_Anon:", "Pss_Shmem:")) for each in processes)


def _from_proc(process, name: str, wanted: tuple[str, ...]) -> int:
    """The sum of some lines of /proc/PID/name, which are in kB, in bytes; where there is no such file, what is resident."""
    try:
        lines = Path(f"/proc/{process.pid}/{name}").read_text(encoding="utf-8").splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(wanted)) * 1024
    except OSError:
        import psutil
        with suppress(psutil.Error):
            return process.memory_info().rss
    return 0


def peak_memory_mb(device) -> float:
    """The most so far, in MiB: of the tensors on a GPU, else of this process (its loaders not counted)."""
    if device.type == "cuda":
        import torch
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_memory() / 2**20


# ---------------------------------------------------------------- the device

def pick_device(device=None):
    """The torch.device asked for, else CUDA, else the CPU. Raises `CourseError` for one that cannot be used.

    Apple's MPS is used only where it is asked for: it has no float64, which the equalities of the notebooks need.
    """
    import torch
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise CourseError(f"device {device!r} cannot be used here ({reason}); "
                          "try cpu") from error
    return found


def gpus() -> list[str]:
    """The names of the GPUs that torch can use."""
    import torch
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return names or (["Apple MPS"] if torch.backends.mps.is_available() else [])


def precision(mixed: bool, device):
    """(autocast, scaler) for training: with `mixed`, bfloat16 where a CUDA device has it, else float16 with loss scaling.

    Other devices train in float32: autocast does nothing there.
    """
    import torch
    dtype = None
    if mixed and device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = torch.bfloat16 if native else torch.float16
    autocast = functools.partial(torch.autocast, device.type, dtype, enabled=dtype is not None)
    return autocast, torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)


@contextmanager
def deterministic(device):
    """On a CPU, add up in a fixed order.

    The gradient of `relative_position_bias_table[relative_position_index]` is otherwise summed
    by several threads with atomic adds, and two equal runs differ in the last bits.
    """
    import torch
    before = torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # filling only costs time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn)
        torch.utils.deterministic.fill_uninitialized_memory = fill


# ---------------------------------------------------------------- where a result was made

def version(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The checkout's commit, "+changes" appended where files differ from it."""
    git = functools.partial(subprocess.run, cwd=repo_root(), capture_output=True, encoding="utf-8")
    try:
        head = git(["git", "rev-parse", "HEAD"])
        changes = git(["git", "status", "--porcelain", "--untracked-files=no"])
    except FileNotFoundError:  # no git on this machine
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("+changes" if changes.stdout else "")


def provenance(device, ranks: int = 1) -> dict:
    """Where, by `ranks` processes, and with what a result was made."""
    import torch
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "ranks": ranks,
        "cores": cores(),
        "threads": threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
        "command": sys.argv,
    }
