"""One video file: open it with decord, read frames, and say what is wrong with it.

Nothing here needs torch, so that a process which only reads files starts quickly.
"""
import os
from pathlib import Path

import decord
import numpy as np

from vt_course import CourseError

LARGEST = 8192 * 4320          # pixels of a picture: 8K, the most that any level of H.264 allows
SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")     # of the files that ClipReader opens

decord.logging.set_level(decord.logging.QUIET)       # faults come as exceptions, not on stderr


class BadClip(CourseError):
    """A video file that cannot be used: the message names it, the fault and the remedy."""


def scaled_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) with the short side at `short_side` and the aspect ratio kept.

    The long side is rounded half up, as `mmcv.rescale_size` does: 340x256 at 128 is 170x128.
    """
    scale = short_side / min(height, width)
    if height <= width:
        return short_side, int(width * scale + 0.5)
    return int(height * scale + 0.5), short_side


class ClipReader:
    """A video file (MP4, MOV, MKV, WebM or AVI), opened with decord.

    `short_side` (pixels): frames come out with this short side, scaled while decoding, aspect
    ratio kept (`scaled_size`); None leaves them as stored. Rotation tags are obeyed.
    `num_frames`, `fps`, `height`, `width` describe what `read` returns.

    Raises `BadClip` for a file that is missing, empty, truncated, damaged, without video, cut
    in a way that decord misreads, or with pictures of more than `LARGEST` pixels by its headers
    (a few kB can hold GB of them; a Matroska or WebM file is not asked). What only a full decode can find (a damaged picture that
    the codec conceals, a wrong frame count) is left to `vt_course.data.verify`.
    Open it in the process that reads: a decord reader that crosses a fork deadlocks.
    """

    def __init__(self, path: str | os.PathLike, short_side: int | None = None):
        if short_side is not None and short_side < 1:
            raise CourseError(f"short_side is {short_side}; it counts pixels: give 1 or more.")
        self.path = Path(path)
        self._reader, self._size = _open(self.path), None
        self.num_frames, self.fps = len(self._reader), self._reader.get_avg_fps()
        if short_side and short_side != min(self.size):
            self._size = scaled_size(*self.size, short_side)
            self._reader = _open(self.path, *self._size)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels. decord tells it only with a frame, so it is read late."""
        if self._size is None:
            self.read([0])
        return self._size

    @property
    def seconds(self) -> float:
        """From the first frame's beginning to the last one's end, by their time stamps."""
        times = self._reader.get_frame_timestamp(range(self.num_frames))          # (F, 2)
        return float(times[-1, 1] - times[0, 0])

    height = property(lambda self: self.size[0])
    width = property(lambda self: self.size[1])

    def read(self, indices) -> np.ndarray:
        """The frames at `indices`, in that order, repeats allowed: uint8 (T, H, W, 3), RGB."""
        indices = np.asarray(indices, dtype=np.int64)
        if indices.min() < 0 or indices.max() >= self.num_frames:
            raise IndexError(f"Frames {indices.min()} to {indices.max()} were asked of "
                             f"{self.path}, which has frames 0 to {self.num_frames - 1}.")
        wanted = np.unique(indices)
        first, last = wanted[0], wanted[-1]
        if last - first < 2 * len(wanted):           # reading on beats seeking past one frame
            wanted = np.arange(first, last + 1)
        try:
            frames = self._decode(wanted)                          # (T', H, W, C)
        except (RuntimeError, decord.DECORDError, decord.DECORDLimitReachedError) as error:
            raise BadClip(f"Clip {self.path} is damaged or ends before its frame {last} of "
                          f"{self.num_frames}; fetch or render it again.") from error
        self._size = frames.shape[1:3]
        if np.array_equal(wanted, indices):
            return frames
        return frames[np.searchsorted(wanted, indices)]            # (T, H, W, C)

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        try:
            return self._reader.get_batch(wanted).asnumpy()
        except decord.DECORDError as error:
            if "size must exactly match" not in str(error):
                raise
        # At a few widths (16, 24, 48, 72) decord takes the padding of its rows for channels.
        # Single frames then come as (H, W, 4 or 6): the picture is the first 3 W bytes of rows.
        frames = np.stack([self._reader[int(i)].asnumpy() for i in wanted])
        count, height, width, _ = frames.shape
        rows = frames.reshape(count, height, -1)[:, :, :3 * width]
        return rows.reshape(count, height, width, 3)

    def frame_range(self, start: float | None, end: float | None) -> tuple[int, int]:
        """(first, stop): the frames shown from `start` up to `end` seconds; None: no bound.

        Each frame's own time stamp decides, so a variable frame rate is no trouble.
        """
        times = self._reader.get_frame_timestamp(range(self.num_frames))[:, 0]
        first = 0 if start is None else int(np.searchsorted(times, start - 1e-3))
        stop = self.num_frames if end is None else int(np.searchsorted(times, end - 1e-3))
        if first >= stop:
            raise BadClip(f"Clip {self.path} shows no frame from {start} to {end} seconds (its "
                          f"last begins at {times[-1]:.2f}); correct start and end in the "
                          "manifest.")
        return first, stop


def _open(path: Path, height: int = -1, width: int = -1) -> decord.VideoReader:
    """A decord reader, or `BadClip` with the cause in one sentence."""
    try:
        fault = container_fault(path)
    except OSError as error:
        raise BadClip(f"Clip {path} cannot be read ({error.strerror}); correct its path in the "
                      "manifest or fetch the file.") from error
    if fault:
        raise BadClip(f"Clip {path} {fault}.")
    try:
        # fault_tol: raise where decord would repeat a neighbour for a frame that it lost.
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), width=width, height=height,
                                    num_threads=1, fault_tol=1e-6)
    except (RuntimeError, AssertionError, decord.DECORDError) as error:
        fault = ("has no video stream, or one of a kind that decord cannot decode (AV1); replace it or encode it again"
                 if "cannot find video stream" in str(error) else "is damaged and cannot be opened; fetch or render it again")
        raise BadClip(f"Clip {path} {fault}.") from error
    if reader.get_frame_timestamp([0])[0, 0] < -1e-3:
        # decord counts the hidden frames, and then returns others than those asked for.
        raise BadClip(f"Clip {path} was cut without re-encoding, so frames before its start "
                      "are hidden in it; encode it again (ffmpeg without -c copy).")
    return reader


def container_fault(path: Path) -> str | None:
    """What the file's headers, read in microseconds, say is wrong with it; None if nothing.

    It spares decord the files on which it prints to stderr, and it finds a truncated file even
    where the frames asked for are all there.
    """
    truncated = "is truncated (shorter than its headers say); fetch or render it again"
    with open(path, "rb", buffering=0) as file:
        size, head = os.fstat(file.fileno()).st_size, file.read(512)
        if size == 0:
            return "is empty (0 bytes); fetch or render it again"
        if head.startswith(b"\x1a\x45\xdf\xa3"):                   # Matroska, WebM
            return truncated if _matroska_end(head) > size else None
        if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
            width, height = (int.from_bytes(head[at:at + 4], "little") for at in (64, 68))     # in avih
            return truncated if int.from_bytes(head[4:8], "little") + 8 > size else _too_large(width, height)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            index = _mp4_index(file, size)
            if index is None:
                return truncated
            if _mp4_overcounts(index, size):
                return "is damaged (its index counts more frames than it has bytes); fetch or render it again"
            return _mp4_too_large(index)
    return "is no MP4, MOV, MKV, WebM or AVI file, whatever its name; convert or replace it"


def _mp4_index(file, size: int) -> bytes | None:
    """Walk the top-level boxes of an MP4 or MOV: its index (the box moov; at most 1 MB of it).

    None where the index or the data are not all there.
    """
    index, at = None, 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:                                            # a 64-bit length follows
            length = int.from_bytes(head[8:], "big")
        if length == 0:                                            # up to the end of the file
            length = size - at
        if kind in (b"moov", b"mdat") and at + length > size:
            return None
        if kind == b"moov":
            file.seek(at)
            index = file.read(min(length, 1 << 20))
        at += max(length, 8)
    return index


def _mp4_overcounts(index: bytes, size: int) -> bool:
    """Does a table of times (stts) claim more frames than there are bytes, or run over its end?

    decord makes room for as many frames as the table claims, and ends the process if it cannot.
    """
    at = index.find(b"stts")
    while at >= 0:
        length, entries = (int.from_bytes(index[k:k + 4], "big") for k in (at - 4, at + 8))
        table = index[at + 12:at + 12 + 8 * entries]
        counts = np.frombuffer(table[:len(table) // 8 * 8], ">u4")[::2]
        if 16 + 8 * entries > length or counts.sum(dtype=np.int64) > size:
            return True
        at = index.find(b"stts", at + 4)
    return False


def _mp4_too_large(index: bytes) -> str | None:
    """The track headers end in width and height, in pixels with 16 bits behind the point."""
    at = index.find(b"tkhd")
    while at >= 0:
        end = at - 4 + int.from_bytes(index[at - 4:at], "big")
        width, height = (int.from_bytes(index[end - back:end - back + 2], "big") for back in (8, 4))
        if fault := _too_large(width, height):
            return fault
        at = index.find(b"tkhd", at + 4)
    return None


def _too_large(width: int, height: int) -> str | None:
    return (f"has pictures of {width}x{height} pixels, more than 8192x4320; make it smaller with "
            "`vt-course data prepare`" if width * height > LARGEST else None)


def _matroska_end(head: bytes) -> int:
    """Where the segment of a Matroska or WebM file says it ends; 0 where it does not say."""
    at = head.find(b"\x18\x53\x80\x67") + 4                        # behind the segment's id
    digits = 9 - head[at].bit_length()                             # zeros in front tell it
    length = int.from_bytes(head[at:at + digits], "big") & ((1 << 7 * digits) - 1)
    unknown = length == (1 << 7 * digits) - 1                      # a live stream: all bits set
    return 0 if at < 4 or unknown else at + digits + length
