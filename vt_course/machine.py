"""What this machine gives a program: cores and memory, of the container where there is one."""
import os
import sys
from contextlib import suppress
from pathlib import Path


def cores() -> int:
    """Cores that this process may use: of a container its share, where the system says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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


def held_memory(process) -> int:
    """Bytes that a psutil.Process holds and the system cannot take back: pages of files, which can be read again, do not count.

    A page that several processes share counts in each for its part, on Linux; elsewhere all that is resident counts.
    """
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="utf-8")
        return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(("Pss_Anon:", "Pss_Shmem:"))) * 1024
    except OSError:
        return process.memory_info().rss
