"""The machine: cores, memory, device, precision, and the facts that say where a result was computed.

torch is imported inside the functions that need it, so that a process which only reads files starts without it.
"""

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

from vt_course import CourseError, carried, repo_root


def cores() -> int:
    """The number of cores that this process may use. In a container it is the container's share, if known."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads() -> int:
    """The number of threads with which torch computes in this process."""
    import torch

    return torch.get_num_threads()


def memory_limit() -> int:
    """Bytes of memory that all processes together may use: the machine's, or its container's if that is less."""
    import psutil  # here: `doctor` reports a broken one

    limits = [psutil.virtual_memory().total]
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # Linux control groups, version 2 and version 1
        with suppress(OSError, ValueError):  # the file does not exist, or it says "max"
            limits.append(int(Path("/sys/fs/cgroup", limit).read_text(encoding="utf-8")))
    return min(limits)


def at_once(jobs: int, memory: int) -> int:
    """How many of some jobs are done at the same time: one per core, `memory` bytes for each, and at least one."""
    import psutil

    room = min(psutil.virtual_memory().available, memory_limit())
    return max(1, min(jobs, cores(), room // memory))


def peak_memory() -> int:
    """The peak memory of this process so far, in bytes, without its child processes."""
    if sys.platform == "win32":
        import psutil

        now = psutil.Process().memory_info()
        return getattr(now, "peak_wset", now.rss)
    if sys.platform == "linux":  # getrusage begins with the parent's peak
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


def forget_peak_memory() -> None:
    """Let `peak_memory` begin anew, for a process that makes several runs. Only Linux can do this."""
    with suppress(OSError):  # another system, or a container that forbids it
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def held_memory(processes, above: int = 0) -> int:
    """Bytes of memory of some psutil.Processes that the system cannot take back. A process that has ended holds none.

    Pages of files do not count, because they can be read again. On Linux, a page that several processes share counts in
    each of them for its part. On other systems, all resident memory counts.

    The exact sum takes long for a large process. It is computed only if a quick sum, in which shared pages count
    fully, is greater than `above`. Else the quick sum is returned.
    """
    quick = sum(_from_proc(each, "status", ("RssAnon:", "RssShmem:")) for each in processes)
    return (
        quick
        if quick <= above
        else sum(_from_proc(each, "smaps_rollup", ("Pss_Anon:", "Pss_Shmem:")) for each in processes)
    )


def _from_proc(process, name: str, wanted: tuple[str, ...]) -> int:
    """The sum, in bytes, of some lines of /proc/PID/name, or all resident memory where there is no such file."""
    try:
        lines = Path(f"/proc/{process.pid}/{name}").read_text(encoding="utf-8").splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(wanted)) * 1024
    except OSError:
        import psutil

        with suppress(psutil.Error):
            return process.memory_info().rss
    return 0


class PeakMemory:
    """The peak memory, in bytes, of the watched processes and their children inside the `with` (see `held_memory`)."""

    def __enter__(self):
        self.peak, self._roots, self._stop = 0, [], threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def watch(self, pid: int) -> None:
        import psutil

        with suppress(psutil.NoSuchProcess):  # the process has ended already
            self._roots.append(psutil.Process(pid))

    def _watch(self):
        import psutil

        pause = 0.1  # a small notebook may take half a second in all
        while not self._stop.wait(pause):
            pause = min(pause * 1.2, 0.5)
            processes = []
            for root in self._roots:
                with suppress(psutil.NoSuchProcess):  # ended between two calls
                    processes += root, *root.children(recursive=True)
            self.peak = max(self.peak, held_memory(processes, above=self.peak))


def peak_memory_mb(device) -> float:
    """The peak memory so far, in MiB: of the tensors if `device` is a GPU, else of this process without its loaders."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_memory() / 2**20


# ---------------------------------------------------------------- the device


def pick_device(device=None):
    """The torch.device that is asked for, else CUDA if there is a GPU, else the CPU.

    Apple's MPS is used only if it is asked for, because it has no float64, which the comparisons of the notebooks need.
    Raises `CourseError` for a device that cannot be used.
    """
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise CourseError(f"device {device!r} cannot be used here ({reason}); try cpu") from error
    return found


def gpus() -> list[str]:
    """The names of the GPUs that torch can use."""
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return names or (["Apple MPS"] if torch.backends.mps.is_available() else [])


def precision(amp: bool | str, device):
    """(autocast, scaler) for training in mixed precision.

    True: on a CUDA device in bfloat16 if the GPU has it, else in float16 with loss scaling; on other devices in
    float32, where both do nothing. "bf16": in bfloat16, also on a CPU. "fp16": in float16 with loss scaling.
    False: in float32. Raises `CourseError` for a type that the device does not train in.
    """
    import torch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(amp)
    if dtype and device.type != "cuda" and not (device.type == "cpu" and amp == "bf16"):
        raise CourseError(f"amp={amp} cannot be used on {device.type}: choose amp=false, or bf16 on a cpu")
    if amp is True and device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = torch.bfloat16 if native else torch.float16
    autocast = functools.partial(torch.autocast, device.type, dtype, enabled=dtype is not None)
    return autocast, torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)


@contextmanager
def deterministic(device):
    """A context in which torch adds numbers in a fixed order on a CPU.

    Without it, several threads sum the gradient of `relative_position_bias_table[relative_position_index]`
    with atomic additions, and two equal runs differ in the last bits.
    """
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # filling would only take time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn)
        torch.utils.deterministic.fill_uninitialized_memory = fill


# ---------------------------------------------------------------- where a result was computed


def processor() -> str:
    """The name of the processor, for instance "AMD EPYC"; where it is unknown, that of its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def version(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the checkout, with "+changes" if files differ from it; None if it is unknown."""
    if carried():  # a repository around it would be somebody else's
        return None
    git = functools.partial(subprocess.run, cwd=repo_root(), capture_output=True, encoding="utf-8")
    try:
        head = git(["git", "rev-parse", "HEAD"])
        changes = git(["git", "status", "--porcelain", "--untracked-files=no"])
    except FileNotFoundError:  # git is not installed
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("+changes" if changes.stdout else "")


def program(started: str) -> str:
    """The first word of the command that a reader would type. A path of this machine helps nobody else."""
    path = Path(started)
    return "vt-course" if path.parent.name == "cli" or path.stem == "vt-course" else path.name


def provenance(device, ranks: int = 1) -> dict:
    """The facts on where and with which versions a result was computed, by `ranks` processes."""
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
        "command": [program(sys.argv[0]), *sys.argv[1:]],
    }
