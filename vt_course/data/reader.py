"""One video file: open it, read frames, and say what is wrong with it.

Nothing here needs torch, so that a process which only reads files starts quickly.
"""
import io
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vt_course import CourseError

LARGEST = 8192 * 4320          # pixels of a picture: 8K, the most that any level of H.264 allows
SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")     # of the files that ClipReader opens
KEEP = 64 << 20                # bytes: packets of a larger file are read a second time rather than kept


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
    """A video file (MP4, MOV, MKV, WebM or AVI), opened with PyAV, on one thread.

    `short_side` (pixels): frames come out with this short side, scaled as they are converted to
    RGB, aspect ratio kept (`scaled_size`); None leaves them as stored. Rotation tags are obeyed.
    `span` (offset, bytes): the video lies there inside the file, as in a tar.
    `num_frames`, `fps`, `height`, `width` describe what `read` returns.

    Raises `BadClip` for a file that is missing, empty, truncated, damaged, without video, or with
    pictures of more than `LARGEST` pixels by its headers (a few kB can hold GB of them). What only
    a full decode can find (damage in frames that nobody asked for, a wrong frame count) is left
    to `vt_course.data.verify`.
    """

    def __init__(self, path: str | os.PathLike, short_side: int | None = None, span: tuple[int, int] | None = None):
        if short_side is not None and short_side < 1:
            raise CourseError(f"short_side is {short_side}; it counts pixels: give 1 or more.")
        self.path, self._span, self._size = Path(path), span, None
        self._container, self._stream = _open(self.path, span)
        packets = self._demux(self._container)
        self._kept = list(packets) if self._container.size <= KEEP else None
        table = [(p.pts, p.duration or 0, p.is_keyframe, p.is_discard) for p in self._kept or packets]
        pts, durations, keys, hidden = (np.array(column) for column in zip(*table)) if table else [np.zeros(0)] * 4
        self.num_frames = int((hidden == 0).sum())                 # an edit list hides what a cut left before its start
        if not self.num_frames:
            raise BadClip(f"Clip {path} has a video stream without frames; replace it.")
        self.fps, step = float(self._stream.average_rate or 25), float(self._stream.time_base)
        # AVI stores no time stamps. What FFmpeg makes up for H.264 and H.265 there is wrong where they have B frames.
        guessed = self._container.format.name == "avi" and self._stream.codec.name in ("h264", "hevc")
        if pts.dtype != object and len(np.unique(pts)) == len(pts) and not guessed:
            self._pts, self._keys = pts, np.flatnonzero(keys)      # of the packets, in the order of decoding
            order = np.argsort(pts)
            self._shown = order[~hidden[order]]                    # the packet of frame 0, 1, ...
            self._times, last = pts[self._shown] * step, durations[self._shown[-1]] * step
        else:                                                      # frames are counted
            self._pts, self._times, last = None, np.arange(self.num_frames) / self.fps, 0
        # How long the last frame is shown is the muxer's guess: as long as the shortest one before it.
        self._end = self._times[-1] + np.diff(self._times).min(initial=last or 1 / self.fps)
        height, width = self._stream.height, self._stream.width
        self._scaled = scaled_size(height, width, short_side) if short_side else (height, width)

    def __del__(self):
        if hasattr(self, "_container"):        # PyAV's objects hold each other and would wait for the garbage collector
            self._container.close()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels. A rotation tag shows only on a frame, so it is read late."""
        if self._size is None:
            self.read([0])
        return self._size

    @property
    def seconds(self) -> float:
        """From the first frame's beginning to the last one's end, by their time stamps."""
        return float(self._end - self._times[0])

    height = property(lambda self: self.size[0])
    width = property(lambda self: self.size[1])

    def read(self, indices) -> np.ndarray:
        """The frames at `indices`, in that order, repeats allowed: uint8 (T, H, W, 3), RGB."""
        indices = np.asarray(indices, dtype=np.int64)
        if indices.min() < 0 or indices.max() >= self.num_frames:
            raise IndexError(f"Frames {indices.min()} to {indices.max()} were asked of "
                             f"{self.path}, which has frames 0 to {self.num_frames - 1}.")
        wanted = np.unique(indices)
        frames = None
        if self._pts is not None:
            frames = self._collect(self._selected(wanted), self._pts[self._shown[wanted]].tolist())
        if frames is None:      # no usable time stamps, or a stream that does not start afresh at its key frames
            frames = self._collect(enumerate(self._every_frame()), wanted.tolist())
        if frames is None:
            raise BadClip(f"Clip {self.path} is damaged or ends before its frame {wanted[-1]} of "
                          f"{self.num_frames}; fetch or render it again.")
        self._size = frames.shape[1:3]
        if np.array_equal(wanted, indices):
            return frames
        return frames[np.searchsorted(wanted, indices)]            # (T, H, W, C)

    def _collect(self, frames: Iterator, names: list) -> np.ndarray | None:
        """Of `frames`, pairs of a name and a frame, those named, as RGB: (T, H, W, C); None where some do not come."""
        place = {name: k for k, name in enumerate(names)}
        clip, convert, (height, width) = None, VideoReformatter(), self._scaled
        try:
            for name, frame in frames:
                if name in place:
                    if frame.is_corrupt:
                        return None
                    # One thread: the default starts one a core for each picture, which is slower and outlives it.
                    rgb = convert.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()     # (h, w, C)
                    if turns := round(frame.rotation / 90) % 4:
                        rgb = np.rot90(rgb, turns)
                    if clip is None:
                        clip = np.empty((len(names), *rgb.shape), np.uint8)
                    clip[place.pop(name)] = rgb
                    if not place:
                        return clip
        except av.FFmpegError:
            pass
        return None

    def _selected(self, wanted: np.ndarray) -> Iterator:
        """(time stamp, frame): decodes what the frames at `wanted` depend on, and little else.

        A frame depends on packets from the last key frame that is shown before it up to its own.
        Of these, frames that no other refers to (most B frames) are skipped where they are not wanted.
        """
        needed = np.zeros(len(self._pts), bool)
        for own in self._shown[wanted].tolist():
            k = np.searchsorted(self._keys, own, "right") - 1
            while k >= 0 and self._pts[self._keys[k]] > self._pts[own]:
                k -= 1
            needed[self._keys[k] if k >= 0 else 0:own + 1] = True
        context, wanted, mode = self._stream.codec_context, set(self._pts[self._shown[wanted]].tolist()), None
        context.flush_buffers()
        for use, packet in zip(needed, self._packets()):
            if use:
                if mode != (mode := "DEFAULT" if packet.pts in wanted else "NONREF"):
                    context.skip_frame = mode
                for frame in context.decode(packet):
                    yield frame.pts, frame
        context.skip_frame = "DEFAULT"
        for frame in context.decode(None):
            yield frame.pts, frame

    def _every_frame(self) -> Iterator:
        context = self._stream.codec_context
        context.flush_buffers()
        context.skip_frame = "DEFAULT"
        for packet in chain(self._packets(), [None]):
            yield from context.decode(packet)

    def _packets(self) -> Iterator:
        return self._kept or self._demux(_open(self.path, self._span)[0])

    def _demux(self, container) -> Iterator:
        """The video stream's packets, in the order of decoding."""
        try:
            for packet in container.demux(container.streams.video[0]):
                if packet.size:
                    yield packet
        except av.FFmpegError as error:
            raise BadClip(f"Clip {self.path} is damaged ({error.strerror}); fetch or render it again.") from error

    def frame_range(self, start: float | None, end: float | None) -> tuple[int, int]:
        """(first, stop): the frames shown from `start` up to `end` seconds; None: no bound.

        Each frame's own time stamp decides, so a variable frame rate is no trouble.
        """
        first = 0 if start is None else int(np.searchsorted(self._times, start - 1e-3))
        stop = self.num_frames if end is None else int(np.searchsorted(self._times, end - 1e-3))
        if first >= stop:
            raise BadClip(f"Clip {self.path} shows no frame from {start} to {end} seconds (its "
                          f"last begins at {self._times[-1]:.2f}); correct start and end in the "
                          "manifest.")
        return first, stop


def open_file(source):
    """`av.open` for reading: the one place that opens videos. `source`: a path, or a file in memory.

    Raises av.FFmpegError, OSError, ValueError or anything else for what is no video.
    """
    if isinstance(source, (str, os.PathLike)):
        source = f"file:{os.fspath(source)}"           # "a:b.mp4" would be a file b.mp4 by protocol a
    try:
        return av.open(source, metadata_errors="replace")      # a title in Latin-1 is no fault
    except TypeError:                                          # PyAV 19 has no such argument and never fails on a title
        return av.open(source)


def _open(path: Path, span: tuple[int, int] | None):
    """(container, video stream), or `BadClip` with the cause in one sentence."""
    try:
        if span is None:
            source, fault = path, container_fault(path)
        else:
            source, fault = _part(path, span)
    except (OSError, ValueError) as error:                         # ValueError: a path that no system can have
        raise BadClip(f"Clip {path} cannot be read ({getattr(error, 'strerror', error)}); correct its path in the "
                      "manifest or fetch the file.") from error
    if fault:
        raise BadClip(f"Clip {path} {fault}.")
    try:
        container = open_file(source)
    except Exception as error:                                     # a damaged file can make FFmpeg and PyAV raise anything
        raise BadClip(f"Clip {path} is damaged and cannot be opened; fetch or render it again.") from error
    stream = next(iter(container.streams.video), None)
    if stream is None or stream.codec_context is None:
        raise BadClip(f"Clip {path} has no video stream that can be decoded; replace it or encode it again.")
    if fault := _too_large(stream.width, stream.height):
        raise BadClip(f"Clip {path} {fault}.")
    if not stream.width:
        raise BadClip(f"Clip {path} is damaged and cannot be opened; fetch or render it again.")
    stream.thread_type, stream.codec_context.thread_count = "NONE", 1
    stream.codec_context.options = {"err_detect": "explode"}       # damage is an error, not something to conceal
    return container, stream


def _part(path: Path, span: tuple[int, int]) -> tuple[io.BytesIO, str | None]:
    """(a video that lies inside a file, its fault), read once."""
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(min(span[0], size))
        part = io.BytesIO(file.read(min(span[1], size)))           # a place can claim any number of bytes
    if part.getbuffer().nbytes < span[1]:
        return part, f"is truncated (a clip lies at byte {span[0]:,}, beyond its end); fetch or write it again"
    fault = _header_fault(part, span[1])
    part.seek(0)
    return part, fault


def container_fault(path: Path) -> str | None:
    """What a file's headers, read in microseconds, say is wrong with it; None if nothing.

    It finds a truncated file even where the frames asked for are all there, and lets only formats
    pass whose frames can be told apart without decoding.
    """
    with open(path, "rb", buffering=0) as file:
        return _header_fault(file, os.fstat(file.fileno()).st_size)


def _header_fault(file, size: int) -> str | None:
    truncated = "is truncated (shorter than its headers say); fetch or render it again"
    head = file.read(512)
    if size == 0:
        return "is empty (0 bytes); fetch or render it again"
    if head.startswith(b"\x1a\x45\xdf\xa3"):                       # Matroska, WebM
        return truncated if _matroska_end(head) > size else None
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        width, height = (int.from_bytes(head[at:at + 4], "little") for at in (64, 68))         # in avih
        return truncated if int.from_bytes(head[4:8], "little") + 8 > size else _too_large(width, height)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        index = _mp4_index(file, size)
        return truncated if index is None else _mp4_too_large(index)
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
