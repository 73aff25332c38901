"""Files that are either the old ones or the new ones, never halves, in folders where one run works at a time."""
import csv
import errno
import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from vt_course import CourseError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)        # what a file system without locks answers


def part_of(path: Path) -> Path:
    """Where a file is written until it is whole: beside `path`, hidden."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """`part_of(path)`, which becomes `path` when the block ends, by one rename. After an error it is gone."""
    part = part_of(path)
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def atomic_write(path: Path, data) -> None:
    """Replace the file `path` by the bytes `data`.

    Raises `CourseError` when that fails (disk full, no permission); `path` is then as it was.
    """
    try:
        with replacing(path) as part, open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())                # else a power cut may keep the rename and lose the bytes
    except OSError as error:
        raise CourseError(f"cannot write {path} ({error.strerror}); what was there is untouched: free space or mend "
                          "permissions and run the same command again") from error


def write_csv(path: Path, header: Iterable, rows: Iterable[Iterable]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    atomic_write(path, text.getvalue().encode("utf-8", "surrogateescape"))       # paths need not be UTF-8


@contextmanager
def alone(lock: Path, progress: bool = False, *, wait: bool = True) -> Iterator[None]:
    """Hold the file `lock`; the system lets go of it when the process dies.

    Where another process has it: wait until nobody does or, with wait=False, raise `CourseError`.
    A file system that has no locks is taken at its word.
    """
    held = FileLock(lock)
    try:
        try:
            held.acquire(blocking=False)
        except Timeout as error:
            if not wait:
                raise CourseError(f"another run is at work in {lock.parent}; wait for it or name another "
                                  "folder.") from error
            if progress:
                print(f"another process is at work on {lock.with_suffix('')}, waiting for it", file=sys.stderr)
            held.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        yield
    finally:
        if os.name == "nt":                        # Windows removes no file that is open, nor one that the next run has opened
            held.release()
        with suppress(OSError):
            lock.unlink()                          # who waits for it notices that this file is gone, and locks the new one
        held.release()
