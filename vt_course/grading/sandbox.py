"""A process in which the code of a submission runs, and what it may use.

On Linux with bubblewrap, the process sees no network, no other process and no files but Python, its packages and the
models of the course; it can write only into a scratch folder in memory, which is also its home. Without bubblewrap it
runs with the rights of the user, in an empty folder.

In both cases time, memory and the number of processes are watched from outside, and what uses too much is ended. The
system's own limits (`resource`) come on top.
"""

import contextlib
import json
import math
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import psutil

import vt_course
from vt_course import CourseError

PACKAGES = ("torch", "numpy", "einops", "safetensors", "cloudpickle")
RUNNER = Path(__file__).with_name("runner.py")
COURSE = Path(vt_course.__file__).resolve().parent
SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/alternatives")
TICK = 0.05  # seconds between two looks at a process
START = 300  # seconds in which a process must have imported PyTorch
PER_CPU_SECOND = 10  # how much longer a call may take on a machine that is busy, or asleep


@dataclass(frozen=True)
class Limits:
    """What the code of one submission may use. seconds: of CPU for one exercise. memory: bytes of all its processes.

    files: bytes of one file, and a fourth of the scratch folder in bubblewrap. answer: bytes of one result.
    """

    seconds: float = 20.0
    memory: int = 2 << 30
    processes: int = 32
    files: int = 16 << 20
    answer: int = 64 << 20


class Stopped(BaseException):
    """The process has ended, or was ended. The message is a sentence for the author of the submission.

    It is no `Exception`, so that a check does not take it for an error of the reader's function.
    """


@cache
def bubblewrap() -> tuple[str | None, str]:
    """(its path, "") if bubblewrap is installed and works here, else (None, why not)."""
    path = shutil.which("bwrap")
    if not sys.platform.startswith("linux"):
        return None, "bubblewrap exists on Linux only"
    if not path:
        return None, "bubblewrap is not installed (Debian and Ubuntu: apt install bubblewrap)"
    try:
        tried = subprocess.run(
            [path, *walls(), *sights(), "--", sys.executable, "-I", "-S", "-c", "pass"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"bubblewrap does not work here ({error})"
    if tried.returncode:
        why = tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"]
        return None, f"bubblewrap does not work here ({why[-1]}); are user namespaces forbidden, as in containers?"
    return path, ""


def lacking() -> list[str]:
    """The limits that this system does not have: sentences for the first lines of `grade`."""
    if find_spec("resource") is None:
        return ["this system limits neither the size of files nor the number of processes; both are only watched"]
    if not sys.platform.startswith("linux"):
        return ["this system does not limit memory; it is only watched"]
    return []


# ---------------------------------------------------------------- bubblewrap


def walls() -> list[str]:
    """Namespaces of its own (no network, no processes of others), no rights, and an end with us."""
    return ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--uid", "65534", "--gid",
            "65534", "--hostname", "sandbox"]  # fmt: skip


def packages() -> list[str]:
    """The folders in which Python finds its own modules and the packages that a function may need."""
    found = [p for p in sys.path if p and any(is_inside(p, root) for root in (sys.prefix, sys.base_prefix))]
    for name in PACKAGES:
        spec = find_spec(name)
        if spec and spec.origin:
            found.append(str(Path(spec.origin).parent.parent))
    return [folder for folder in dict.fromkeys(found) if os.path.isdir(folder)]


def is_inside(path, folder) -> bool:
    return Path(path).resolve().is_relative_to(Path(folder).resolve())


def sights(scratch_bytes: int = 64 << 20) -> list[str]:
    """What can be seen: Python and its packages, and of the course nothing but its models; one folder to write into."""
    words = []
    for place in SYSTEM:
        if os.path.islink(place):
            words += ["--symlink", os.readlink(place), place]
        elif os.path.exists(place):
            words += ["--ro-bind", place, place]
    seen = {sys.prefix, sys.base_prefix, *packages()}
    seen |= {os.path.realpath(place) for place in seen}
    shown = [Path(p) for p in SYSTEM]
    for place in sorted(seen, key=len):
        if not any(Path(place).is_relative_to(other) for other in shown):
            words += ["--ro-bind", place, place]
            shown.append(Path(place))
    for hidden in (COURSE, COURSE.parent / "notebooks", COURSE.parent / "tests"):
        if any(hidden.is_relative_to(other) for other in shown) and hidden.exists():
            words += ["--tmpfs", str(hidden), "--remount-ro", str(hidden)]
    words += ["--dir", "/course/vt_course", "--ro-bind", str(COURSE / "__init__.py"), "/course/vt_course/__init__.py"]
    words += ["--ro-bind", str(COURSE / "models"), "/course/vt_course/models"]
    words += ["--ro-bind", str(RUNNER), "/course/runner.py", "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    words += ["--size", str(scratch_bytes), "--perms", "0700", "--tmpfs", "/scratch", "--chdir", "/scratch"]
    words += ["--remount-ro", "/", "--clearenv"]  # its root is a folder in memory, too
    for name, value in environment("/scratch").items():
        words += ["--setenv", name, value]
    return words


def environment(home: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("SYSTEMROOT", "PATH") if name in os.environ}
    return kept | {
        "HOME": home,
        "USERPROFILE": home,
        "TMPDIR": home,
        "TEMP": home,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


# ---------------------------------------------------------------- a process


class Process:
    """A running `runner.py`. Start it with `with`; at the end everything that it has started is ended."""

    def __init__(self, limits: Limits, inside: str | None):
        """inside: the path of bubblewrap, or None: with the rights of the user."""
        self.limits, self.inside = limits, inside
        self.answers = queue.Queue(maxsize=2)  # a process that answers without being asked is held up

    def __enter__(self):
        self.scratch = tempfile.mkdtemp(prefix="vt-course-grade-")
        told = {
            "path": packages(),
            "models": "/course" if self.inside else str(COURSE.parent),
            "rlimits": self.rlimits(),
            "answer": self.limits.answer,
        }
        python = [sys.executable, "-I", "-S", "-B"]
        if self.inside:
            words = [self.inside, *walls(), *sights(4 * self.limits.files), "--", *python, "/course/runner.py"]
        else:
            words = [*python, str(RUNNER)]
        self.process = subprocess.Popen(
            [*words, json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self.scratch,
            env=environment(self.scratch),
            start_new_session=True,
        )
        threading.Thread(target=self.listen, daemon=True).start()
        try:
            self.wait(time.monotonic() + START, cpu=math.inf)
        except Stopped as error:
            self.__exit__()
            raise CourseError(f"the process for a submission did not start: {error}; run `vt-course doctor`") from None
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error) -> None:
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                process.kill()
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        # The pipes stay open: a process that has escaped may hold them, and closing would wait for our threads.
        shutil.rmtree(self.scratch, ignore_errors=True)

    def rlimits(self) -> dict[str, int]:
        """For `resource.setrlimit`. The number of processes counts those of the user, too, so these are added."""
        limits = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": self.limits.files, "RLIMIT_NOFILE": 256}
        limits["RLIMIT_CPU"] = 60 + 12 * math.ceil(self.limits.seconds)  # should nobody be left who watches
        if sys.platform.startswith("linux"):
            limits["RLIMIT_DATA"] = self.limits.memory
            mine = 0
            for process in psutil.process_iter(["uids", "num_threads"]):
                uids = process.info["uids"]
                mine += (process.info["num_threads"] or 1) if uids and uids.real == os.getuid() else 0
            limits["RLIMIT_NPROC"] = mine + self.limits.processes
        return limits

    def listen(self) -> None:
        """Put the answers into the queue, as (header, tensors) in bytes; None at the end, or for nonsense."""
        read = self.process.stdout.read
        with contextlib.suppress(OSError, ValueError):
            while len(sizes := read(16)) == 16:
                head, body = int.from_bytes(sizes[:8], "little"), int.from_bytes(sizes[8:], "little")
                if head + body > self.limits.answer:
                    self.answers.put(TooLarge)
                    return
                answer = read(head), read(body)
                if len(answer[0]) < head or len(answer[1]) < body:
                    break
                self.answers.put(answer)
        self.answers.put(None)

    def ask(self, request: bytes, until: float, cpu: float) -> tuple[bytes, bytes]:
        """The answer to a request. until, cpu: when to give up, in seconds of `time.monotonic` and of our CPU time.

        Raises Stopped if there is none.
        """

        def write() -> None:
            with contextlib.suppress(OSError, ValueError):
                self.process.stdin.write(len(request).to_bytes(8, "little") + request)
                self.process.stdin.flush()

        threading.Thread(target=write, daemon=True).start()  # a process that does not read must not hold us up
        return self.wait(until, cpu)

    def wait(self, until: float, cpu: float) -> tuple[bytes, bytes]:
        while True:
            try:
                answer = self.answers.get(timeout=TICK)
            except queue.Empty:
                self.watch(cpu)
                if time.monotonic() > until:
                    raise Stopped(
                        "it did not end in time, and was stopped; does it wait for something, as `input()` and "
                        "`sleep` do?"
                    ) from None
                continue
            if answer is TooLarge:
                raise self.too_large()
            if answer is None:
                raise Stopped(self.ended())
            return answer

    def too_large(self) -> Stopped:
        return Stopped(f"its result has more than {self.limits.answer >> 20} MB")

    def ended(self) -> str:
        """Why the process has ended by itself."""
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it closed the pipe to the grader"
        if code > 128 and self.inside:  # as bubblewrap, and a shell, tell of a signal
            code = 128 - code
        if code < 0:
            name = signal.Signals(-code).name if -code in list(signal.Signals) else str(-code)
            return f"it ended the whole process by the signal {name}"
        return f"it ended the whole process (exit code {code}); leave a function with `return`"

    def family(self) -> list[psutil.Process]:
        try:
            me = psutil.Process(self.process.pid)
            return [me, *me.children(recursive=True)]
        except psutil.Error:
            return []

    def watch(self, cpu: float) -> None:
        """Raise Stopped if the process uses more than it may."""
        family = self.family()
        if len(family) > self.limits.processes:
            raise Stopped(f"it started more than {self.limits.processes} processes, and was stopped")
        if held(family) > self.limits.memory and held(family, shared_once=True) > self.limits.memory:
            raise Stopped(f"it used more than {self.limits.memory >> 20:,} MB of memory, and was stopped")
        if used(family) > cpu:
            raise Stopped("it did not end in time, and was stopped; does a loop never end?")


def used(family: list[psutil.Process]) -> float:
    """Seconds of CPU of some processes."""
    total = 0.0
    for process in family:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()  # on some systems with those of children that have ended
            total += times.user + times.system
            total += getattr(times, "children_user", 0) + getattr(times, "children_system", 0)
    return total


def held(family: list[psutil.Process], shared_once: bool = False) -> int:
    """Bytes of memory of some processes. shared_once: what they share counts once (on Linux), which takes longer."""
    total = 0
    for process in family:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss if not shared_once else of_its_own(process)
    return total


def of_its_own(process: psutil.Process) -> int:
    try:
        found = process.memory_full_info()
    except psutil.AccessDenied:
        found = process.memory_info()
    return getattr(found, "pss", found.rss)


class TooLarge:
    """In place of an answer: one that is larger than it may be."""
