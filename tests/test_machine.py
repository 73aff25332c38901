"""What the machine gives, on systems that tell it in different ways."""

import os
import subprocess
import sys
import types
from pathlib import Path

import psutil
import pytest

from vt_course import machine


def test_cores_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert machine.cores() == 3
    monkeypatch.delattr(machine.os, "sched_getaffinity")  # macOS, Windows
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 6)
    assert machine.cores() == 6
    monkeypatch.setattr(machine.os, "cpu_count", lambda: None)
    assert machine.cores() == 1


@pytest.mark.parametrize(
    "files, gib",
    [
        ({}, 16),
        ({"memory.max": "max\n"}, 16),
        ({"memory.max": f"{3 * 2**30}\n"}, 3),
        ({"memory.max": f"{64 * 2**30}\n"}, 16),
        ({"memory/memory.limit_in_bytes": str(2 * 2**30)}, 2),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, 16),
    ],
)
def test_the_memory_of_a_container_counts(monkeypatch, files, gib):
    def read_text(path, encoding):
        for name, text in files.items():
            if path == Path("/sys/fs/cgroup", name):
                return text
        raise FileNotFoundError(path)

    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(total=16 * 2**30))
    monkeypatch.setattr(Path, "read_text", read_text)
    assert machine.memory_limit() == gib * 2**30


@pytest.mark.skipif(sys.platform != "linux", reason="measures what Linux tells; what the others tell is below")
def test_peak_memory_is_in_bytes_and_stays_when_the_memory_is_given_back():
    code = (
        "from vt_course.machine import forget_peak_memory, peak_memory\nbefore = peak_memory()\n"
        "held = bytearray(100_000_000)\ndel held\nafter = peak_memory()\nforget_peak_memory()\n"
        "print(before, after, peak_memory())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True).stdout
    before, after, anew = map(int, out.split())
    assert 5e6 < before < 100e6 and 90e6 < after - before < 130e6
    assert anew < before + 10e6 or not os.access("/proc/self/clear_refs", os.W_OK)


def test_the_processor_has_a_name(monkeypatch):
    told = {"/proc/cpuinfo": "processor : 0\nmodel name\t: Some CPU: fast\nmodel name\t: Some CPU: fast\n"}
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: told[path.as_posix()])
    assert machine.processor() == "Some CPU: fast"
    told["/proc/cpuinfo"] = "CPU part : 0xd0c\n"  # an ARM processor
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    assert machine.processor() == "aarch64"


@pytest.mark.skipif("OTHER_OS" in os.environ, reason="another system is played already")
def test_peak_memory_on_other_systems(monkeypatch):
    monkeypatch.setattr(machine.sys, "platform", "win32")
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: types.SimpleNamespace(rss=7, peak_wset=11))
    assert machine.peak_memory() == 11
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    usage = types.SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: types.SimpleNamespace(ru_maxrss=13))
    monkeypatch.setitem(sys.modules, "resource", usage)
    assert machine.peak_memory() == 13


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_memory_that_is_held_is_that_of_no_file(tmp_path):
    """100 MB of a mapped file and 50 MB of its own, half of which a child shares."""
    (tmp_path / "file").write_bytes(bytes(100_000_000))
    code = (
        "import mmap, os, sys, time\nfile = open(sys.argv[1], 'rb')\nmapped = mmap.mmap(file.fileno(), 0, "
        "prot=mmap.PROT_READ)\n"
        "own = bytearray(50_000_000)\nsum(mapped[::4096]); os.write(1, b'%d\\n' % os.fork()); time.sleep(30)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "file"], stdout=subprocess.PIPE, encoding="utf-8"
    )
    child = max(int(process.stdout.readline()) for _ in range(2))  # in the child it is 0
    family = [psutil.Process(process.pid), psutil.Process(child)]
    held, together = [machine.held_memory([each]) for each in family], machine.held_memory(family)
    quick = machine.held_memory(family, above=150_000_000)  # shared pages count in both
    resident = [each.memory_info().rss for each in family]
    for each in family:
        each.kill()
    process.communicate()
    assert resident[0] > 140e6 and all(25e6 <= part < 40e6 for part in held) and 50e6 < sum(held) < 75e6
    assert abs(together - sum(held)) < 1e6 and 100e6 < quick < 120e6
    assert machine.held_memory(family) == 0  # they have ended


@pytest.mark.parametrize(
    ("started", "typed"),
    [
        ("/home/ann/vt_course/cli/__main__.py", "vt-course"),
        ("C:/b/.venv/Scripts/vt-course.exe", "vt-course"),
        (".venv/bin/vt-course", "vt-course"),
        ("/home/ann/mine/train.py", "train.py"),
        ("-c", "-c"),
    ],
)
def test_the_record_of_a_command_holds_no_path(started, typed):
    assert machine.program(started) == typed
