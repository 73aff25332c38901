"""Writing files whole, locking folders, and parsing files.

A file that is written here is at any moment either the old one or the new one, never a part of one. A lock lets
only one run work in a folder at a time.

Every file that a user may have made is parsed by a function below, so that any error of a parser
becomes one sentence. Videos are opened by `data.reader.open_file`.
"""

import csv
import errno
import gzip
import hashlib
import io
import json
import math
import os
import stat
import sys
import tarfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from vt_course import CourseError, need

LONGEST = 1 << 20  # characters of a line of text
LARGEST = 1 << 28  # bytes of a text, JSON or NPZ file
SMALL = 1 << 20  # bytes of a member of a tar that is read at once, and of a YAML file
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # errors of a file system without locks


def part_of(path: Path) -> Path:
    """The temporary file, hidden and beside `path`, to which a file is written until it is complete."""
    return path.with_name(f".{path.name}.part")


def open_own(path: Path, mode: str, **how):
    """`open` a file of our own for writing. If somebody put a link or a pipe in its place, that is removed.

    Else what we write would go to the file that the link names, for instance in a folder that many can write to.
    """
    with suppress(FileNotFoundError):
        there = os.lstat(path)
        if not stat.S_ISREG(there.st_mode) and not stat.S_ISDIR(there.st_mode) or there.st_nlink > 1:
            os.unlink(path)
    no_link = getattr(os, "O_NOFOLLOW", 0)
    return open(path, mode, opener=lambda path, flags: os.open(path, flags | no_link, 0o666), **how)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields `part_of(path)`, an empty file. When the block ends it becomes `path`, by one rename. After an error it is
    deleted."""
    part = part_of(path)
    try:
        open_own(part, "wb").close()
        yield part
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def atomic_write(path: Path, data, keep: Path | None = None) -> None:
    """Replace the file `path` by the bytes `data`. `keep`: a path to which the old file is renamed.

    Raises `CourseError` if that fails (disk full, no permission). Then the old file is unchanged.
    """
    try:
        with replacing(path) as part:
            with open(part, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # else a power failure may keep the rename but lose the bytes
            if keep:
                with suppress(FileNotFoundError):
                    os.replace(path, keep)
    except OSError as error:
        raise CourseError(
            f"cannot write {path} ({error.strerror}); what was there is untouched: free space or mend "
            "permissions and run the same command again"
        ) from error


def write_csv(path: Path, header: Iterable, rows: Iterable[Iterable]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    atomic_write(path, text.getvalue().encode("utf-8", "surrogateescape"))  # a path need not be UTF-8


@contextmanager
def alone(lock: Path, progress: bool = False, *, wait: bool | float = True) -> Iterator[None]:
    """Hold a lock on the file `lock`. The system releases it if the process dies.

    If another process holds the lock: wait for its release. Or raise `CourseError`, with wait=False at once, with a
    number after so many seconds.
    If the file system has no locks, we continue without one.
    """
    held = FileLock(lock)
    try:
        try:
            held.acquire(timeout=0.0 if wait is True else float(wait))
        except Timeout as error:
            if wait is not True:
                raise CourseError(
                    f"another run is at work in {lock.parent}; wait for it or name another folder."
                ) from error
            if progress:
                print(f"another process is at work on {lock.with_suffix('')}, waiting for it", file=sys.stderr)
            held.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        yield
    finally:
        if os.name == "nt":  # Windows cannot remove a file that any process has open
            held.release()
        with suppress(OSError):
            lock.unlink()  # a process that waits notices this, and locks a new file
        held.release()


def of_share(name: str, share: tuple | None) -> str:
    """The name of a file that belongs to share (I, N) of the work: "prepared.2-of-3.csv". None: all of the work."""
    stem, ending = os.path.splitext(name)
    return f"{stem}.{share[0]}-of-{share[1]}{ending}" if share else name


def shares_of(path: Path) -> list[Path]:
    """The files beside `path` that belong to shares of the work, and have its name but for that."""
    return sorted(path.parent.glob(of_share(path.name, ("*", "*"))))


def remove_shares(path: Path) -> None:
    """Delete the files that `shares_of` names, and the unfinished ones that a killed share has left of them."""
    unfinished = part_of(path.with_name(of_share(path.name, ("*", "*"))))
    for file in (*shares_of(path), *path.parent.glob(unfinished.name)):
        file.unlink()


@contextmanager
def alone_in(folder: Path, share: tuple[int, int] | None = None) -> Iterator[None]:
    """Hold the lock of a folder, or of share (I, N) of the work in it. Raises `CourseError` if that is held.

    Shares may work beside each other, but none beside a run without shares.
    """
    need(share is None or 1 <= share[0] <= share[1], f"the share {share} is not I of N with I from 1 to N")
    whole = folder / ".lock"
    with alone(folder / of_share(".lock", share), wait=False):
        for lock in [whole] if share else shares_of(whole):
            with alone(lock, wait=2.0):  # shares that start together look at it at the same moment
                pass
        yield


# ------------------------------------------------------------------------- parsing
# `name`: how an error message calls the file (default: its path). `remedy`: the end of the message, "...; delete it.".


class Unreadable(CourseError):
    """A file that cannot be parsed. `why`: the reason that the parser gives."""

    def __init__(self, sentence: str, why: str):
        super().__init__(sentence)
        self.why = why


class Place:
    """The place of a parser in a file. `line`: the last line that was read without an error; None if not known."""

    line = None


@contextmanager
def parsing(name, fault: str, remedy: str) -> Iterator[Place]:
    """Turn any error that a parser raises in this context into one sentence, "`name` is `fault` (why); `remedy`".

    On unexpected input, parsers raise any kind of error: ValueError, OverflowError, RecursionError, MemoryError, their
    own classes. So put only calls of the parser into the context. A bug of our own in it would look like a fault of the
    file. Raises `Unreadable`; a `CourseError` passes unchanged.
    """
    place = Place()
    try:
        yield place
    except CourseError:
        raise
    except Exception as raised:
        if isinstance(raised, OSError) and raised.errno in errno.errorcode:  # FFmpeg has numbers of its own
            why, sentence = raised.strerror, f"{name} cannot be read ({raised.strerror}); {remedy}"
        else:
            # Python's own words for it differ from version to version.
            deep = isinstance(raised, RecursionError)
            why = "nested too deeply" if deep else str(raised).partition("\n")[0][:120] or type(raised).__name__
            after = f" after line {place.line}" if place.line else ""
            sentence = f"{name} is {fault} ({why}){after}; {remedy}"
        raise Unreadable(sentence, why) from raised


def regular(path) -> str | os.PathLike:
    """`path`, if it is a file. A pipe, a terminal or a device may never send anything, or never end: OSError."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "It is a pipe, a terminal or a device, and no file", os.fspath(path))
    return path


def sha256_of(path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def utf8(name) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise Unreadable(f"{name} is not UTF-8 text; save it as UTF-8.", error.reason) from error


def read_utf8(path, remedy: str, name=None) -> str:
    """The text of a UTF-8 file, without the byte order mark that some editors write at its beginning."""
    name = name or path
    with parsing(name, "no text", remedy), utf8(name):
        if os.path.getsize(path) > LARGEST:
            raise ValueError(f"it has more than {LARGEST >> 20:,} MB")
        with open(regular(path), encoding="utf-8-sig") as file:
            text = file.read()
        if "\0" in text:
            raise ValueError("it has NUL bytes, as UTF-16 and damaged files have")
    return text


def parse_json(text: str | bytes, name, remedy: str, kind: type | tuple = object):
    """The value of a JSON text. Raises `Unreadable` unless it is of type `kind`, and for NaN, Infinity and 1e400."""

    def finite(number: str) -> float:
        value = float(number)
        if not math.isfinite(value):
            raise ValueError(f"it has the number {number[:20]}")
        return value

    with parsing(name, "not valid JSON", remedy):
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(text, parse_float=finite, parse_constant=finite)
        if "\\u" in text:  # refuse NUL and unpaired surrogates: no name may have them
            json.dumps(value, ensure_ascii=False).encode()
            if "\\u0000" in text:
                raise ValueError("it has the character NUL")
        if not isinstance(value, kind):
            raise ValueError(f"it holds a {type(value).__name__}")
    return value


def read_json(path, remedy: str, kind: type | tuple = object):
    return parse_json(read_utf8(path, remedy), path, remedy, kind)


def read_yaml(path, remedy: str):
    """The value in a YAML file, which may hold what JSON can hold. Raises `Unreadable` for a key that occurs twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for key in keys:
                if not isinstance(key, str) or keys.count(key) > 1:
                    fault = "occurs twice" if isinstance(key, str) else "is not a text"
                    raise ValueError(f"the key {key!r} of the entry in line {node.start_mark.line + 1} {fault}")
            return super().construct_mapping(node, deep)

    text = read_utf8(path, remedy)
    with parsing(path, "not a YAML file that we can use", remedy):
        if len(text) > SMALL:  # reading YAML is slow
            raise ValueError("it has more than 1 MB")
        value = yaml.load(text, Loader)
        json.dumps(value, allow_nan=False)
        return value


def read_lines(path, remedy: str, name=None, errors: str = "strict") -> Iterator[str]:
    """The lines of a UTF-8 file of any size, one by one, with their line ends."""
    name = name or path
    with (
        parsing(name, "no text", remedy) as place,
        utf8(name),
        open(regular(path), newline="", encoding="utf-8-sig", errors=errors) as file,
    ):
        place.line = 0
        while line := file.readline(LONGEST):
            if "\0" in line:
                raise ValueError("it has NUL bytes, as UTF-16 and damaged files have")
            if len(line) == LONGEST:
                raise ValueError("a line has no end")
            place.line += 1
            yield line


def read_csv(path, remedy: str, name=None, errors: str = "strict") -> Iterator[tuple[int, dict]]:
    """(line number, row as a dict) of a CSV file of any size, whose first line names the columns."""
    with parsing(name or path, "not a CSV file", remedy) as place:
        rows = csv.DictReader(read_lines(path, remedy, name, errors))
        place.line = rows.line_num if rows.fieldnames else None
        for row in rows:
            place.line = rows.line_num
            yield rows.line_num, row


def csv_header(path, remedy: str, name=None) -> list[str]:
    """The names in the first line of a CSV file; [] for an empty file."""
    with parsing(name or path, "not a CSV file", remedy):
        return next(csv.reader(read_lines(path, remedy, name)), [])


def csv_lines(data: bytes) -> Iterator[list[str]]:
    """The lines of a damaged CSV file, each without regard to the others; the last one only if it has an end."""
    for line in data.split(b"\n")[:-1]:
        with suppress(csv.Error):
            yield from csv.reader([line.decode(errors="surrogateescape")])


def read_npz(path, remedy: str) -> dict:
    """name -> array of an .npz file of NumPy. Raises `Unreadable` for arrays that need pickle."""
    import numpy as np

    with parsing(path, "no whole NPZ file", remedy):
        if os.path.getsize(path) > LARGEST:
            raise ValueError(f"it has more than {LARGEST >> 20:,} MB")
        with np.load(regular(path)) as arrays:
            return dict(arrays)


def read_safetensors(path, remedy: str) -> tuple[dict, dict[str, str]]:
    """(weights, metadata) of a safetensors file, copied into memory. On Windows, a file that stays mapped cannot be
    replaced or removed."""
    import safetensors.torch

    with parsing(path, "not a readable safetensors file", remedy):
        with open(regular(path), "rb") as file:
            data = file.read()
        weights = safetensors.torch.load(data)  # this also checks the header, which is read again below
        size = int.from_bytes(data[:8], "little")
        return weights, json.loads(data[8 : 8 + size]).get("__metadata__") or {}


def parse_safetensors(data: bytes, name, remedy: str) -> dict:
    """The tensors in the bytes of a safetensors file."""
    import safetensors.torch

    with parsing(name, "not readable as safetensors", remedy):
        return safetensors.torch.load(data)


def read_pt(path, remedy: str, fault: str = "no whole PyTorch file", allow: Iterable[type] = ()):
    """The object in a file of `torch.save`, on the CPU. It may hold plain values, tensors and the classes `allow`.

    No code that a pickle can contain is run. Raises `Unreadable` for everything else.
    """
    import torch

    with (
        parsing(path, fault, remedy),
        warnings.catch_warnings(action="ignore"),
        torch.serialization.safe_globals(list(allow)),
    ):
        return torch.load(regular(path), map_location="cpu", weights_only=True)


def read_tar(path, remedy: str, name=None, zipped: bool = False) -> Iterator[tuple]:
    """(member, its bytes as a file) for all members of a tar. Read a member's bytes before asking for the next one.

    A member of a plain tar must fit into the file, because a header can name any size, also a negative one. `zipped`:
    the tar is compressed by gzip, whose checksum at the end is checked.
    """
    name, fault = name or path, "truncated, damaged or no plain tar"
    with parsing(name, fault, remedy):
        size = math.inf if zipped else os.path.getsize(path)
        with (
            (gzip.open if zipped else open)(regular(path), "rb") as file,
            tarfile.open(fileobj=file, mode="r|" if zipped else "r:") as tar,
        ):
            for member in tar:
                if member.size < 0 or member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"its member {member.name[:60]} claims {member.size:,} bytes")
                yield member, Member(tar.extractfile(member) if member.isreg() else None, name, fault, remedy)
            if zipped:
                while file.read(SMALL):
                    pass
            else:
                file.seek(tar.offset)  # for tarfile, a truncated header is the end of the file
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("unexpected end of data")


class Member:
    """The bytes of a member of a tar. Errors while reading become sentences, as in `parsing`."""

    def __init__(self, stream, *said: str):
        self.stream, self.said = stream, said

    def read(self, size: int = -1) -> bytes:
        with parsing(*self.said):
            return self.stream.read(size) if self.stream else b""  # a folder or a link has no bytes
