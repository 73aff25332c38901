"""Files are the old ones or the new ones, whatever happens while they are written; one run works at a time."""

import subprocess
import sys

import pytest

from vt_course import CourseError
from vt_course.files import alone, atomic_write, replacing, write_csv


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    atomic_write(path, b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as part:
        part.write_bytes(b"half")
        assert path.read_bytes() == b"old"
        1 / 0
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a.txt"]
    atomic_write(path, memoryview(b"new"))
    assert path.read_bytes() == b"new" and names(tmp_path) == ["a.txt"]


def test_what_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "folder").mkdir()
    for path, why in ((tmp_path / "folder", "Is a directory"), (tmp_path / "no/a.txt", "No such file or directory")):
        with pytest.raises(CourseError, match=rf"cannot write .* \({why}\); what was there is untouched"):
            atomic_write(path, b"new")
    assert names(tmp_path) == ["folder"]


def test_a_table_holds_any_path(tmp_path):
    write_csv(tmp_path / "a.csv", ("path", "reason"), [('a, "b".mp4', None), ("\udcff.mp4", "é")])
    assert (tmp_path / "a.csv").read_bytes() == b'path,reason\n"a, ""b"".mp4",\n\xff.mp4,\xc3\xa9\n'


def test_another_run_is_refused_or_waited_for_and_a_dead_one_is_no_hindrance(tmp_path):
    lock = tmp_path / "out" / ".lock"
    lock.parent.mkdir()
    code = (
        "import pathlib, sys; from vt_course.files import alone\n"
        "with alone(pathlib.Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"in\n"
    with (
        pytest.raises(CourseError, match=f"another run is at work in {lock.parent}; wait for it"),
        alone(lock, wait=False),
    ):
        pass
    assert lock.exists()
    other.kill()
    other.communicate()
    assert lock.exists()  # of the dead run, but nobody holds it
    with alone(lock, wait=False):
        pass
    assert not lock.exists()
