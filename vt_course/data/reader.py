"""One video file: open it, read frames, and say what is wrong with it.

Nothing here imports torch, so that a process which only reads files starts quickly.
"""

import io
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from fractions import Fraction
from functools import lru_cache
from itertools import chain, compress
from pathlib import Path
from typing import NamedTuple

import av
import av.filter
import numpy as np
from av.video.reformatter import VideoReformatter

from vt_course import CourseError
from vt_course.data.decoders import OPEN, alike, need_decoder
from vt_course.files import regular

LARGEST = 8192 * 4320  # pixels of a picture: 8K, the most that any level of H.264 allows
LONGER = 100  # times the short side: a longer picture would become a huge one when its short side is enlarged
SECONDS = 8.0  # that FFmpeg may take to open a file, or to find its next packet
MOST = 50_000  # boxes of an MP4 that are looked at
SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")  # files that ClipReader opens
OTHERS = (
    ".mpg",
    ".mpeg",
    ".mpe",
    ".m1v",
    ".m2v",
    ".vob",
    ".ts",
    ".mts",
    ".m2ts",
    ".m2t",
    ".wmv",
    ".asf",
    ".flv",
    ".f4v",
    ".3gp",
    ".3g2",
    ".ogv",
    ".ogm",
    ".gif",
    ".divx",
    ".qt",
    ".mxf",
    ".dv",
    ".rm",
    ".rmvb",
)  # `prepare` converts these
PICTURES = {".jpg": "mjpeg", ".jpeg": "mjpeg", ".png": "png", ".bmp": "bmp", ".webp": "webp"}  # and their decoders
KEEP, LONG = 64 << 20, 600  # bytes, seconds; a larger or longer file is not read as a whole, but by seeking
INDEXED = 8 << 20  # the same for an MP4 or MOV, whose index says where the packets are: a phone writes 2 MB a second
BLOCK = 32 << 20  # bytes of frames that `read` passes to `then` in one call


class BadClip(CourseError):
    """A video file that cannot be used: the message names it, the fault and the remedy."""


class Astray(Exception):
    """After a seek, the packets are not those of the table of packets."""


def scaled_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) after scaling so that the short side is `short_side`; the aspect ratio is kept.

    The long side is rounded (half up), as in `mmcv.rescale_size`: 340x256 becomes 170x128 for short side 128.
    """
    scale = short_side / min(height, width)
    if height <= width:
        return short_side, int(width * scale + 0.5)
    return int(height * scale + 0.5), short_side


class ClipReader:
    """A video file (MP4, MOV, MKV, WebM or AVI), opened with PyAV on one thread; or a folder of its frames as pictures.

    `short_side` (pixels): frames are scaled to this short side while they are converted to
    RGB, with the aspect ratio kept (`scaled_size`). None leaves the size of the file. `span` (offset, bytes): the
    place of the video inside a larger file, such as a tar.
    Frames look as a player shows them. Rotation tags are obeyed. If pixels are not square, pictures are made
    wider or narrower (`shown_width`); with `square=False` they are not, as in other readers.
    Interlaced pictures are completed (`progressive`).
    `decoder`: whose pixels `read` returns, "pyav", "decord" or "torchcodec" (see `decoders`); those of a folder of
    pictures are always PyAV's.
    `num_frames`, `fps`, `height`, `width` describe what `read` returns. `pictures`: the names of a folder's pictures.
    Pictures have no times; they count as 25 a second, as in FFmpeg.

    Raises `BadClip` for a file that is missing, empty, truncated, damaged or without video, for what is no file (a
    pipe, a device), and for pictures of more than `LARGEST` pixels (a file of a few kB can decode to GBs), or more than
    `LONGER` times as long as the other side. Some faults are found only
    by a full decode (damage in frames that nobody asked for, a wrong frame count); `vt_course.data.verify` does that.
    `read` raises it for a file that another decoder would show otherwise than PyAV. Raises `CourseError` for a decoder
    that is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        short_side: int | None = None,
        span: tuple[int, int] | None = None,
        square: bool = True,
        decoder: str = "pyav",
    ):
        need_decoder(decoder)
        if short_side is not None and short_side < 1:
            raise CourseError(f"short_side is {short_side}; it counts pixels: give 1 or more.")
        self.path, self._span, self._size, self._square = Path(path), span, None, square
        self.decoder, self._other, self._sideways = decoder, None, False
        self.pictures = pictures_in(path) if span is None else []
        try:
            height, width = self._open_pictures() if self.pictures else self._open_video()
            if fault := _too_large(width, height):
                raise BadClip(f"Clip {self.path} {fault}.")
        except BaseException:
            self.close()
            raise
        self.stored = height, width
        self._scaled = scaled_size(height, width, short_side) if short_side else (height, width)

    def _open_video(self) -> tuple[int, int]:
        self._opened = self._container, self._stream, _ = _open(self.path, self._span)
        most = INDEXED if "mp4" in self._container.format.name else KEEP
        self._long = self._container.size > most or (self._container.duration or 0) > LONG * av.time_base
        self._kept = None if self._long else list(_demux(self.path, self._container))
        table = _long_table(self._container, self.path, self._span) if self._long else _table(self._kept)
        pts, self._dts, durations, keys, hidden = table
        self.num_frames = int((hidden == 0).sum())  # an edit list hides frames before the start of a cut
        if not self.num_frames:
            raise BadClip(f"Clip {self.path} has a video stream without frames; replace it.")
        self.fps, step = float(self._stream.average_rate or 25), float(self._stream.time_base)
        # AVI stores no time stamps. FFmpeg guesses them, and for H.264 and H.265 with B frames it guesses wrong.
        guessed = self._container.format.name == "avi" and self._stream.codec.name in ("h264", "hevc")
        order = None if guessed or pts.dtype == object else np.argsort(pts)
        if order is not None and (np.diff(pts[order]) > 0).all():
            self._pts, self._order, self._keys = pts, order, np.flatnonzero(keys)  # of packets, in decoding order
            self._shown = order[~hidden[order]]  # the packets of frames 0, 1, ...
            self._times, last = pts[self._shown] * step, durations[self._shown[-1]] * step
        else:  # no usable time stamps: frames are counted
            self._pts, self._times, last = None, np.arange(self.num_frames) / self.fps, 0
        # The duration of the last frame is only a guess of the muxer. We take that of the shortest frame before it.
        self._end = self._times[-1] + np.diff(self._times).min(initial=last or 1 / self.fps)
        return self._stream.height, shown_width(self._stream.width, self._square and self._stream.sample_aspect_ratio)

    def _open_pictures(self) -> tuple[int, int]:
        self.num_frames, self.fps, self._codecs = len(self.pictures), 25.0, {}
        self._times, self._end = np.arange(self.num_frames) / self.fps, self.num_frames / self.fps
        first = self._picture(0)
        return first.height, first.width

    def close(self) -> None:
        """Close the file. PyAV's objects are in a cycle, and their descriptor would wait for the garbage collector."""
        self._other = None
        if hasattr(self, "_opened"):
            self._opened.close()

    __del__ = close

    def at_most(self, short_side: int) -> "ClipReader":
        """This reader, set to scale frames to this short side if the file has a longer one."""
        if short_side < min(self.stored):
            self._scaled, self._size = scaled_size(*self.stored, short_side), None
        return self

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames in pixels. Only a decoded frame shows its rotation tag, so it is read here."""
        if self._size is None:
            self.read([0])
        return self._size

    @property
    def seconds(self) -> float:
        """The time from the beginning of the first frame to the end of the last one, by their time stamps."""
        return float(self._end - self._times[0])

    @property
    def begin(self) -> float:
        """The time stamp of the first frame in seconds."""
        return float(self._times[0])

    height = property(lambda self: self.size[0])
    width = property(lambda self: self.size[1])

    def read(self, indices, then: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
        """The frames at `indices`, in that order, repeats allowed: uint8 (T, H, W, 3), RGB.

        `then` is a function from (k, H, W, 3) to (k, h, w, 3). Frames go through it in blocks of at most
        `BLOCK` bytes, so that only one block is in memory at full size. Raises `BadClip` for damage and `IndexError`
        for an index that the video does not have.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if indices.min() < 0 or indices.max() >= self.num_frames:
            raise IndexError(
                f"Frames {indices.min()} to {indices.max()} were asked of "
                f"{self.path}, which has frames 0 to {self.num_frames - 1}."
            )
        wanted = np.unique(indices)
        for frames, names in self._ways(wanted):
            clip = self._collect(frames, names, then)
            if clip is not None:
                return (
                    clip if np.array_equal(wanted, indices) else clip[np.searchsorted(wanted, indices)]
                )  # (T, H, W, C)
        raise self._damaged(wanted[-1])

    def _damaged(self, last: int) -> BadClip:
        return BadClip(
            f"Clip {self.path} is damaged or ends before its frame {last} of "
            f"{self.num_frames}; fetch or render it again."
        )

    def _ways(self, wanted: np.ndarray) -> Iterator[tuple[Iterable, list]]:
        """The ways to get the wanted frames, quickest first, each as (pairs of a name and a frame, names wanted)."""
        if self.pictures:
            yield ((k, self._picture(k)) for k in wanted.tolist()), wanted.tolist()
        elif self.decoder == "pyav":
            yield from self._own_ways(wanted)
        else:
            self._open_other()
            yield zip(wanted.tolist(), map(self._as_frame, self._others(wanted))), wanted.tolist()

    def _own_ways(self, wanted: np.ndarray) -> Iterator[tuple[Iterable, list]]:
        """The ways of PyAV, for a video."""
        if self._pts is not None:
            names = self._pts[self._shown[wanted]].tolist()
            if self._long:
                yield self._selected(wanted, seek=True), names
            yield self._selected(wanted), names
        # The surest way, for files without usable time stamps and streams that cannot be decoded from a key frame on.
        yield enumerate(self.every_frame()), wanted.tolist()

    def _collect(self, frames: Iterable, names: list, then=None) -> np.ndarray | None:
        """Of `frames`, pairs of a name and a frame, those in `names`, as RGB (T, H, W, C); None if some are missing."""
        place = {name: k for k, name in enumerate(names)}
        clip, block, slots, convert, (height, width) = None, None, [], VideoReformatter(), self._scaled
        if self._sideways:
            height, width = width, height
        try:
            for name, frame in frames:
                if name in place:
                    if frame.is_corrupt:
                        return None
                    # One thread: the default starts one per core for each picture. That is slower, and they stay alive.
                    rgb = convert.reformat(
                        progressive(frame), width, height, "rgb24", threads=1
                    ).to_ndarray()  # (h, w, C)
                    if turns := round(frame.rotation / 90) % 4:
                        rgb = np.rot90(rgb, turns)
                    if clip is None:
                        self._size = rgb.shape[:2]
                        if then is None:
                            clip = np.empty((len(names), *rgb.shape), np.uint8)
                        elif block is None:
                            block = np.empty((min(max(BLOCK // rgb.nbytes, 1), len(names)), *rgb.shape), np.uint8)
                    if then is None:
                        clip[place.pop(name)] = rgb
                    else:
                        block[len(slots)] = rgb
                        slots.append(place.pop(name))
                        if len(slots) == len(block) or not place:
                            small = then(block[: len(slots)])  # (k, h, w, C)
                            clip = np.empty((len(names), *small.shape[1:]), np.uint8) if clip is None else clip
                            clip[slots], slots = small, []
                    if not place:
                        return clip
        except (av.FFmpegError, Astray):
            pass
        return None

    def _selected(self, wanted: np.ndarray, seek: bool = False) -> Iterator:
        """(time stamp, frame) of the frames at `wanted` and of some others; decodes little more than they depend on.

        A frame depends on the packets from the last key frame that is shown before it, up to its own.
        Among these, frames to which no other frame refers (most B frames) are skipped unless they are wanted.
        `seek`: seek over the other packets instead of reading them.
        """
        needed = np.zeros(len(self._pts), bool)
        for own in self._shown[wanted].tolist():
            k = np.searchsorted(self._keys, own, "right") - 1
            while k >= 0 and self._pts[self._keys[k]] > self._pts[own]:
                k -= 1
            needed[self._keys[k] if k >= 0 else 0 : own + 1] = True
        context, wanted, mode = self._stream.codec_context, set(self._pts[self._shown[wanted]].tolist()), None
        skips = context.codec.name != "libdav1d"  # AV1's decoder keeps the first mode
        context.flush_buffers()
        for packet in self._sought(needed) if seek else compress(self._packets(), needed):
            if skips and mode != (mode := "DEFAULT" if packet is None or packet.pts in wanted else "NONREF"):
                context.skip_frame = mode
            for frame in decode(context, packet):
                yield frame.pts, frame
        context.skip_frame = "DEFAULT"
        for frame in decode(context, None):
            yield frame.pts, frame

    def _sought(self, needed: np.ndarray) -> Iterator:
        """The `needed` packets of a long file, after one seek for each run of them, with None between two runs.

        Every packet must be the one that the table has at its place. So it is noticed if a seek lands too late, or if
        the time stamps after a seek differ from those of reading from the beginning. Raises `Astray` in both cases.
        """
        edges = np.flatnonzero(np.diff(needed, prepend=False, append=False))
        for number, (first, stop) in enumerate(edges.reshape(-1, 2).tolist()):
            if number:
                yield None  # take the frames left in the decoder before the seek
            stamp = self._pts[first] if self._dts[first] is None else self._dts[first]  # Matroska's first: no dts
            self._container.seek(int(stamp), stream=self._stream)
            at = None
            for packet in _demux(self.path, self._container):
                if at is None:  # find where the seek landed
                    at = int(self._order[np.searchsorted(self._pts[self._order[:-1]], packet.pts or 0)])
                    if at > first:
                        raise Astray
                if packet.pts != self._pts[at]:
                    raise Astray
                if at >= first:
                    yield packet
                at += 1
                if at == stop:
                    break
            if at != stop:
                raise Astray

    def _others(self, wanted: np.ndarray) -> Iterator[np.ndarray]:
        """The pictures of the other decoder, opened, at the indices `wanted`, uint8 (H, W, 3): of the file's size.

        They are turned as its rotation tag says. Raises `BadClip` if they are of other times.
        """
        step = max(BLOCK // (3 * math.prod(self.stored)), 1)
        for at in range(0, len(wanted), step):
            yield from self._ask(self._other, wanted[at : at + step])

    def _open_other(self) -> None:
        """Open the file with the other decoder, and make sure that it counts and shows the frames that PyAV does."""
        if self._other:
            return
        source = f"file:{self.path}" if self._span is None else _part(self.path, self._span)[0]
        try:
            other = OPEN[self.decoder](source)
        except MemoryError:
            raise
        except Exception as error:  # each has errors of its own
            raise self._refused("does not open it; it may not know its codec") from error
        if other.frames != self.num_frames:
            raise self._refused(f"counts {other.frames} frames, but the video shows {self.num_frames}")
        if self.decoder == "decord" and self._pts is not None and self._open_groups():
            raise self._refused("shows other frames after a seek in open groups of pictures")
        first = self._first()
        if first.interlaced_frame:
            raise self._refused("does not complete interlaced pictures")
        if not alike(first, self._ask(other, np.zeros(1, np.int64))[0]):
            raise self._refused("shows another first picture than PyAV, as with more than 8 bits a colour")
        self._other, self._sideways = other, round(first.rotation / 90) % 2 == 1

    def _ask(self, other, indices: np.ndarray) -> np.ndarray:
        """The pictures of the other decoder, uint8 (k, H, W, 3). Raises `BadClip` if they are of other times."""
        try:
            pictures, times = other.read(indices)
        except MemoryError:
            raise
        except Exception as error:
            fault = "fails on it: it is damaged, or "
            fault += "16, 24, 48 or 72 pixels wide" if self.decoder == "decord" else "of a kind that it does not read"
            raise self._refused(fault) from error
        if np.abs(times - self._times[indices]).max() > np.diff(self._times).min(initial=1 / self.fps) / 2:
            raise self._refused("shows frames of other times")
        return pictures

    def _refused(self, fault: str) -> BadClip:
        return BadClip(
            f"Clip {self.path} cannot be read with decoder={self.decoder}, which {fault}; read it with decoder=pyav, "
            "or encode it again with `vt-course data prepare`."
        )

    def _open_groups(self) -> bool:
        """Whether a frame is shown before the key frame that precedes it in the file: it needs the group before."""
        before = np.searchsorted(self._keys, np.arange(len(self._pts)), "right") - 1
        return bool((self._pts < self._pts[self._keys[np.maximum(before, 0)]])[before >= 0].any())

    def _first(self):
        """Frame 0 as PyAV decodes it."""
        for frames, [name] in self._own_ways(np.zeros(1, np.int64)):
            with suppress(av.FFmpegError, Astray):
                for number, frame in frames:
                    if number == name and not frame.is_corrupt:
                        return frame
        raise self._damaged(0)

    def _as_frame(self, picture: np.ndarray):
        """A picture of the other decoder as a frame. One that will be scaled gets the format of the file before.

        PyAV's frames are scaled in that format. Scaled as RGB, the colours at edges would be others.
        """
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        return frame if self._scaled == self.stored else frame.reformat(format=self._stream.pix_fmt, threads=1)

    def compare(self) -> None:
        """Decode the whole file with both decoders. Raises `BadClip` at the first frame that the other shows otherwise.

        A folder of pictures has no other decoder.
        """
        if self.pictures:
            return
        self._open_other()  # before the first frame, because it uses PyAV's decoder, too
        for number, (frame, picture) in enumerate(zip(self.every_frame(), self._others(np.arange(self.num_frames)))):
            if not alike(frame, picture):
                raise self._refused(f"shows another picture {number} than PyAV")

    def every_frame(self) -> Iterator:
        """All frames in order, as PyAV decodes them (av.VideoFrame). Raises av.FFmpegError if one cannot be decoded."""
        if self.pictures:
            yield from map(self._picture, range(self.num_frames))
            return
        context = self._stream.codec_context
        context.flush_buffers()
        context.skip_frame = "DEFAULT"
        for packet in chain(self._packets(), [None]):
            yield from decode(context, packet)

    def _packets(self) -> Iterator:
        if self._kept:
            yield from self._kept
            return
        with closing(_open(self.path, self._span)) as opened:
            yield from _demux(self.path, opened.container)

    def _picture(self, number: int):
        """Decode one of a folder's pictures. Raises `BadClip` if it cannot be, or is not as large as the first."""
        path = os.path.join(self.path, self.pictures[number])
        codec = PICTURES[os.path.splitext(path)[1].lower()]
        try:
            if codec not in self._codecs:
                self._codecs[codec] = av.CodecContext.create(codec, "r")
                self._codecs[codec].thread_count, self._codecs[codec].options = 1, {"max_pixels": str(LARGEST)}
            packet = av.Packet(Path(regular(path)).read_bytes())
            packet.is_keyframe = True  # else FFmpeg adds a PNG to the one before it
            [frame] = self._codecs[codec].decode(packet)
        except (av.FFmpegError, OSError, ValueError) as error:  # ValueError: no picture in the file, or several
            if isinstance(error, OSError) and not isinstance(error, av.FFmpegError):
                fault = f"cannot be read ({error.strerror})"
            else:
                fault = "is damaged, or larger than 8192x4320 pixels" if os.path.getsize(path) else "is empty (0 bytes)"
            raise BadClip(f"Picture {path} {fault}; fetch or write it again.") from error
        if number and (frame.height, frame.width) != self.stored:
            raise BadClip(
                f"Picture {path} has {frame.width}x{frame.height} pixels and the first of its folder "
                f"{self.stored[1]}x{self.stored[0]}; put the frames of one video into a folder."
            )
        frame.pts, frame.time_base, frame.duration = number, Fraction(1, 25), 1
        return frame

    def frame_range(self, start: float | None, end: float | None) -> tuple[int, int]:
        """(first, stop): the range of frames that are shown from `start` up to `end` seconds. None means no bound.

        The time stamp of each frame decides, so this works with a variable frame rate, too.
        """
        if self.pictures:
            raise BadClip(
                f"Clip {self.path} is a folder of pictures, which have no times; leave its start and end empty in "
                "the manifest."
            )
        first = 0 if start is None else int(np.searchsorted(self._times, start - 1e-3))
        stop = self.num_frames if end is None else int(np.searchsorted(self._times, end - 1e-3))
        if first >= stop:
            raise BadClip(
                f"Clip {self.path} shows no frame from {start} to {end} seconds (its "
                f"last begins at {self._times[-1]:.2f}); correct start and end in the "
                "manifest."
            )
        return first, stop


def shown_width(width: int, aspect) -> int:
    """The width at which a player shows pictures whose pixels are `aspect` times as wide as high.

    A change of up to 1 % is ignored, because it comes from rounding when the video was scaled, not from an intention.
    """
    return width if not aspect or abs(aspect - 1) <= 0.01 else max(round(width * aspect), 1)


def progressive(frame):
    """A frame without the combs of interlacing: the lines of its second field are computed from the first (`estdif`).

    This filter of FFmpeg uses no other picture, so a frame is the same, whatever was read before it. Frames that are
    not interlaced are returned unchanged.
    """
    if not frame.interlaced_frame:
        return frame
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25))
    graph.link_nodes(source, graph.add("estdif", "mode=frame:deint=all"), graph.add("buffersink")).configure()
    frame.pts, stamp = 0, frame.pts
    graph.push(frame)
    graph.push(None)
    mended = graph.pull()
    frame.pts = mended.pts = stamp
    return mended


def pictures_in(folder: str | os.PathLike) -> list[str]:
    """The names of the frames in a folder, in order: pictures whose names differ only in a number, as img_00001.jpg.

    [] if there is none. If there are several series, those of optical flow (mmaction2's flow_x_00001.jpg) are ignored.
    Raises `BadClip` if not exactly one of the several is left.
    """
    try:
        series = picture_series(os.listdir(folder)) if os.path.isdir(folder) else {}
    except OSError:
        return []  # opening it as a file will say what is wrong
    if len(series) > 1:
        series = {like: names for like, names in series.items() if not re.match(r"(flow|[xyuv]_)", like)}
        if len(series) != 1:
            raise BadClip(
                f"Folder {folder} has pictures of several series ({', '.join(sorted(series)[:3])}); keep the frames "
                "of one video in a folder."
            )
    return next(iter(series.values()), [])


def picture_series(names: Iterable[str]) -> dict[str, list[str]]:
    """{"img_#.jpg": ["img_1.jpg", "img_2.jpg", "img_10.jpg"]}: names of pictures, in the order of their numbers."""
    series = {}
    for name in names:
        like = re.sub(r"[0-9]+", "#", name)
        if name.lower().endswith(tuple(PICTURES)) and like != name and not name.startswith("."):
            series.setdefault(like, []).append(name)
    for members in series.values():
        members.sort(key=lambda name: [int(n) for n in re.findall(r"[0-9]+", name)])
    return series


def clips_below(
    folder: str | os.PathLike, suffixes: tuple[str, ...], leave_out: Path | None = None
) -> tuple[list[str], list[str]]:
    """(clips, other files) below a folder: relative paths with /, sorted, without hidden ones.

    A clip is a file with the ending of a video, or a folder that holds only numbered pictures (see `pictures_in`). The
    folder itself is never a clip. Links are followed, but not in circles. Raises `CourseError` for a folder that cannot
    be read.
    """
    clips, other, barred = [], [], {os.path.realpath(leave_out)} if leave_out else set()

    def walk(at: str, above: set[str]) -> None:
        real = os.path.realpath(at)
        if real in above or real in barred:
            return
        try:
            with os.scandir(at) as entries:
                names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        except OSError as error:
            raise CourseError(f"folder {at} cannot be read ({error.strerror}); check its permissions.") from error
        folders = [name for name in names if os.path.isdir(os.path.join(at, name))]
        files = sorted(set(names).difference(folders))
        videos = [name for name in files if name.lower().endswith(suffixes)]
        if above and not videos and not folders and any(len(series) > 1 for series in picture_series(files).values()):
            clips.append(below(at))
            files = [name for name in files if not name.lower().endswith(tuple(PICTURES))]
        clips.extend(below(at, name) for name in videos)
        other.extend(below(at, name) for name in files if name not in videos)
        for name in folders:
            walk(os.path.join(at, name), above | {real})

    def below(*parts: str) -> str:
        return Path(os.path.relpath(os.path.join(*parts), folder)).as_posix()

    walk(str(folder), set())
    return sorted(clips), sorted(other)


# ------------------------------------------------------------------------- the table of a file's packets


def _table(packets: Iterable) -> tuple[np.ndarray, ...]:
    """Arrays over the packets, in decoding order: (pts, dts, durations, is key frame, is hidden)."""
    table = [(p.pts, p.dts, p.duration or 0, p.is_keyframe, p.is_discard) for p in packets]
    return tuple(np.array(column) for column in zip(*table)) if table else (np.zeros(0),) * 5


def _long_table(container, path: Path, span) -> tuple[np.ndarray, ...]:
    """`_table` of a long file: from the index of an MP4 or MOV, else from all its packets (the last 16 are cached)."""
    stat = path.stat()
    return _indexed_table(container, path, span) or _scanned_table(path, span, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _scanned_table(path: Path, span, size: int, mtime_ns: int) -> tuple[np.ndarray, ...]:
    with closing(_open(path, span)) as opened:
        return _table(_demux(path, opened.container))


def _indexed_table(container, path: Path, span) -> tuple[np.ndarray, ...] | None:
    """`_table` from the index of an MP4 or MOV (ISO/IEC 14496-12, 8.6), or None if the index is not sufficient.

    It is sufficient if there is one video track, and no edit list or one that hides nothing. The first and the last
    packets must also be as FFmpeg reads them.
    """
    if "mp4" not in container.format.name:
        return None
    with _source(path, span) as file:
        found = _sample_tables(file)
    first = next(_demux(path, container), None)
    if found is None or first is None or first.pts is None or first.dts is None:
        return None
    pts, dts, durations, keys = found
    pts, dts, last = pts + (first.pts - pts[0]), dts + (first.dts - dts[0]), np.flatnonzero(keys)[-1]  # FFmpeg's shifts
    if len(pts) - last > 2000:
        return None
    container.seek(int(dts[last]), stream=container.streams.video[0])
    ours, tail = (pts, dts, durations, keys, np.zeros(len(pts), bool)), _table(_demux(path, container))
    same = [np.array_equal(ours[k][-len(tail[k]) :], tail[k]) for k in (0, 1, 3, 4)]  # not durations: the last differs
    return ours if len(tail[0]) and all(same) and not first.is_discard else None


TABLES = (b"stts", b"ctts", b"stss", b"stsz", b"stsd")  # time steps, pts - dts, key frames, sizes, codecs


def _sample_tables(file) -> tuple[np.ndarray, ...] | None:
    """(pts, dts, durations, is key frame) of the only video track, in its time scale, not shifted by its edit list."""
    size = file.seek(0, os.SEEK_END)
    movie = box(file, 0, size, b"moov")
    if not movie or box(file, *movie, b"mvex"):  # fragments follow, so the index is not complete
        return None
    tracks = [
        track
        for kind, *track in _boxes(file, *movie)
        if kind == b"trak"
        and (handler := box(file, *track, b"mdia", b"hdlr"))
        and _payload(file, handler)[8:12] == b"vide"
    ]
    if len(tracks) != 1:
        return None
    media = box(file, *tracks[0], b"mdia")
    tables = {
        kind: np.frombuffer(_payload(file, place), np.uint8)
        for kind, *place in _boxes(file, *(media and box(file, *media, b"minf", b"stbl") or (0, 0)))
        if kind in TABLES
    }
    header = _payload(file, box(file, *media, b"mdhd") or (0, 0))
    scales = [
        int.from_bytes(head[at : at + 4], "big")
        for head in (header, _payload(file, box(file, *movie, b"mvhd") or (0, 0)))
        for at in [20 if head[:1] == b"\1" else 12]
    ]
    entries = {kind: _big_endian(table[8:]) for kind, table in tables.items()}
    if min(scales) == 0 or b"stts" not in entries or b"stsz" not in entries or len(tables.get(b"stsd", b"")) < 8:
        return None
    count, same = len(entries[b"stsz"]) - 1, int.from_bytes(tables[b"stsz"][4:8].tobytes(), "big")
    deltas = _runs(entries[b"stts"], count)
    shifts = _runs(entries[b"ctts"], count) if b"ctts" in entries else np.zeros(count, np.int64)
    numbers = entries.get(b"stss", np.arange(1, count + 1))
    if (
        same
        or count < 1
        or entries[b"stsz"][0] != count
        or deltas is None
        or shifts is None
        or deltas.min() <= 0
        or tables[b"stsd"][4:8].tolist() != [0, 0, 0, 1]
        or not len(numbers)
        or numbers.min() < 1
        or numbers.max() > count
    ):
        return None
    dts = np.cumsum(deltas) - deltas
    pts, keys = dts + shifts, np.zeros(count, bool)
    keys[numbers - 1] = True
    edits = box(file, *tracks[0], b"edts", b"elst")
    return (pts, dts, deltas, keys) if not edits or _hides_nothing(_payload(file, edits), pts, scales) else None


def _hides_nothing(edits: bytes, pts: np.ndarray, scales: list[int]) -> bool:
    """Whether an edit list is a single edit that shows all frames with these time stamps."""
    wide = 8 if edits[:1] == b"\1" else 4
    length, begin, rate = (
        int.from_bytes(edits[at : at + n], "big", signed=True)
        for at, n in ((8, wide), (8 + wide, wide), (8 + 2 * wide, 4))
    )
    end = begin + length * scales[0] / scales[1]
    return (
        edits[4:8] == b"\0\0\0\1" and rate == 1 << 16 and 0 <= begin <= pts.min() and (length == 0 or pts.max() < end)
    )


def _runs(entries: np.ndarray, count: int) -> np.ndarray | None:
    """The values of a run-length table of (how often, value); None unless there are `count` of them."""
    often, values = entries[0::2], entries[1::2]
    if len(often) != len(values) or often.min(initial=0) < 0 or often.sum() != count:
        return None
    return np.repeat(values, often)


def _big_endian(data: np.ndarray) -> np.ndarray:
    return data[: len(data) // 4 * 4].view(">i4").astype(np.int64)


def _boxes(file, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, begin, end) of the content of each box of an MP4 or MOV, between the places `at` and `end`.

    Only the first `MOST` boxes: millions of 8 bytes each are no video, and looking at them all would take minutes.
    """
    for _ in range(MOST):
        if at + 8 > end:
            return
        file.seek(at)
        head = file.read(16)
        length, skip = int.from_bytes(head[:4], "big"), 8
        if length == 1:  # a 64-bit length follows
            length, skip = int.from_bytes(head[8:], "big"), 16
        length = length or end - at  # 0: up to the end
        yield head[4:8], at + skip, at + length
        at += max(length, 8)


def box(file, at: int, end: int, *kinds: bytes) -> tuple[int, int] | None:
    """(begin, end) of a nested box: the first of kinds[0], in it the first of kinds[1], and so on; None if absent."""
    for kind in kinds:
        found = next(((begin, stop) for k, begin, stop in _boxes(file, at, end) if k == kind and stop <= end), None)
        if found is None:
            return None
        at, end = found
    return at, end


def _payload(file, place: tuple[int, int]) -> bytes:
    file.seek(place[0])
    return file.read(max(min(place[1] - place[0], 256 << 20), 0))


def decode(context, packet) -> list:
    """The frames that a packet completes; None for `packet` gives those that are left. Every fault is av.FFmpegError.

    With FFmpeg 8, a decoder that could not be opened once has no codec any more, and PyAV raises a mere ValueError.
    """
    try:
        return context.decode(packet)
    except ValueError as error:
        if isinstance(error, av.FFmpegError):
            raise
        raise av.error.InvalidDataError(av.error.tag_to_code(b"INDA"), str(error)) from error


def _demux(path: Path, container) -> Iterator:
    """The packets of the video stream, in decoding order.

    A damaged index can name the same bytes again and again. No video has more packets than bytes. The packets together
    have fewer bytes than the file, unless they are compressed in it, which hardly helps.
    """
    number, total, size = 0, 0, container.size
    try:
        for packet in container.demux(container.streams.video[0]):
            number, total = number + 1, total + packet.size
            if number > size + 1 or total > 4 * size + (1 << 20):
                raise BadClip(
                    f"Clip {path} is damaged (its index names the same bytes again and again); fetch or render it "
                    "again."
                )
            if packet.size:
                yield packet
    except av.FFmpegError as error:
        raise BadClip(f"Clip {path} is damaged ({_said(error)}); fetch or render it again.") from error


def _said(error: av.FFmpegError) -> str:
    late = isinstance(error, av.error.ExitError)
    return f"nothing was found in it for {SECONDS:g} s" if late else error.strerror


# ------------------------------------------------------------------------- opening


def open_file(source, pixels: int | None = LARGEST):
    """`av.open` for reading: the one place that opens videos. `source`: a path, or a file in memory.

    FFmpeg decodes a picture to learn its format; it refuses one of more than `pixels` before it takes the memory.
    Raises av.FFmpegError, OSError, ValueError or any other error for a file that is not a video, and for one that is
    not open after `SECONDS`: damage can lead FFmpeg in circles.
    """
    how = dict(timeout=SECONDS, options={"max_pixels": str(pixels)} if pixels else {})
    if isinstance(source, (str, os.PathLike)):
        source = f"file:{os.fspath(regular(source))}"  # else FFmpeg takes "a:b.mp4" for b.mp4 by protocol a
    else:
        source = _Timed(source)
    try:
        container = av.open(source, metadata_errors="replace", **how)  # a title in Latin-1 is not an error
    except TypeError:  # PyAV 19 has no such argument and ignores such titles
        container = av.open(source, **how)
    if isinstance(source, _Timed):
        source.until = math.inf
    return container


class _Timed:
    """A file object that can be read for `SECONDS` only, unless `until` is set to a later time.

    FFmpeg itself looks at the clock when it reads from a path, but not when it reads from an object of Python.
    """

    def __init__(self, file):
        self.file, self.until = file, time.monotonic() + SECONDS
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if time.monotonic() > self.until:
            raise TimeoutError
        return self.file.read(size)


class Opened(NamedTuple):
    """An open video. `part`: what it is read from, if it lies inside a larger file."""

    container: object
    stream: object
    part: object = None

    def close(self) -> None:
        self.container.close()
        if self.part:
            self.part.close()


def _open(path: Path, span: tuple[int, int] | None) -> Opened:
    """Raises `BadClip`, which says the cause in one sentence."""
    try:
        part, fault = (None, container_fault(path)) if span is None else _part(path, span)
    except (OSError, ValueError) as error:  # ValueError: a path that cannot exist
        raise BadClip(
            f"Clip {path} cannot be read ({getattr(error, 'strerror', error)}); correct its path in the "
            "manifest or fetch the file."
        ) from error
    if fault:
        raise BadClip(f"Clip {path} {fault}.")
    try:
        container = open_file(part or path)
    except Exception as error:  # a damaged file may raise any error
        if part:
            part.close()
        why = f" within {SECONDS:g} s" if isinstance(error, (av.error.ExitError, TimeoutError)) else ""
        raise BadClip(f"Clip {path} is damaged and cannot be opened{why}; fetch or render it again.") from error
    stream = next(iter(container.streams.video), None)
    opened = Opened(container, stream, part)
    if stream is None or stream.codec_context is None:
        fault = "has no video stream that can be decoded; replace it or encode it again"
    elif not stream.width:
        fault = "is damaged, or has pictures of more than 8192x4320 pixels; fetch it again, or encode it smaller"
    else:
        fault = _too_large(stream.width, stream.height)
    if fault:
        opened.close()
        raise BadClip(f"Clip {path} {fault}.")
    stream.thread_type, stream.codec_context.thread_count = "NONE", 1
    # Damage is an error, not something to conceal. The size of pictures can change within a stream.
    stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(LARGEST)}
    return opened


class _Part:
    """A file object for reading that shows a part of a file as a file of its own."""

    def __init__(self, path: Path, offset: int, size: int):
        self.file, self.offset, self.size, self.at = open(regular(path), "rb", buffering=0), offset, size, 0
        self.there = min(size, os.fstat(self.file.fileno()).st_size - offset)  # less if the file is truncated

    def read(self, size: int = -1) -> bytes:
        size = max(min(size if size >= 0 else self.size, self.size - self.at), 0)
        self.file.seek(self.offset + self.at)
        data = self.file.read(size)
        self.at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def close(self) -> None:
        self.file.close()

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.close()


def _source(path: Path, span: tuple[int, int] | None):
    """The file, or its part, opened for reading."""
    return open(regular(path), "rb", buffering=0) if span is None else _Part(path, *span)


def _part(path: Path, span: tuple[int, int]) -> tuple[io.BytesIO | _Part | None, str | None]:
    """(a video inside a larger file, None), or (None, its fault). A short video is read into memory at once."""
    part = _Part(path, *span)
    if part.there < span[1]:
        fault = f"is truncated (a clip lies at byte {span[0]:,}, beyond its end); fetch or write it again"
    else:
        if span[1] <= KEEP:
            with part:
                part = io.BytesIO(part.read())
        fault = _header_fault(part, span[1])
    if fault:
        part.close()
        return None, fault
    part.seek(0)
    return part, None


def container_fault(path: Path) -> str | None:
    """What is wrong with a file, by its headers alone (which takes microseconds); None if nothing is.

    It finds a truncated file even if all frames that are asked for are there. It accepts only formats
    whose frames can be told apart without decoding.
    """
    with _source(path, None) as file:
        return _header_fault(file, os.fstat(file.fileno()).st_size)


def _header_fault(file, size: int) -> str | None:
    truncated = "is truncated (shorter than its headers say); fetch or render it again"
    head = file.read(512)
    if size == 0:
        return "is empty (0 bytes); fetch or render it again"
    if head.startswith(b"\x1a\x45\xdf\xa3"):  # Matroska, WebM
        return truncated if _matroska_end(head) > size else None
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        width, height = (int.from_bytes(head[at : at + 4], "little") for at in (64, 68))  # in the header avih
        return truncated if int.from_bytes(head[4:8], "little") + 8 > size else _too_large(width, height)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        index = _mp4_index(file, size)
        return truncated if index is None or _claims_more(index, size) else _mp4_too_large(index)
    return (
        "is no MP4, MOV, MKV, WebM or AVI file, whatever its name; convert it with `vt-course data prepare`, "
        "or replace it"
    )


def _mp4_index(file, size: int) -> bytes | None:
    """The index of an MP4 or MOV (the box moov, at most 1 MB of it), found by going through the top-level boxes.

    None if the index or the data are not complete.
    """
    index = None
    for kind, begin, end in _boxes(file, 0, size):
        if kind in (b"moov", b"mdat") and end > size:
            return None
        if kind == b"moov":
            file.seek(begin)
            index = file.read(min(end - begin, 1 << 20))
    return index


def _claims_more(index: bytes, size: int) -> bool:
    """Whether a table of an MP4 names more samples of one size than the file can hold; FFmpeg would list them all."""
    at = -1
    while (at := index.find(b"stsz", at + 1)) >= 0:
        each, count = (int.from_bytes(index[at + k : at + k + 4], "big") for k in (8, 12))
        if each * count > size:
            return True
    return False


def _mp4_too_large(index: bytes) -> str | None:
    """The fault of too large pictures, or None. A track header ends in width and height (16.16 fixed point)."""
    at = index.find(b"tkhd")
    while at >= 0:
        end = at - 4 + int.from_bytes(index[at - 4 : at], "big")
        width, height = (int.from_bytes(index[end - back : end - back + 2], "big") for back in (8, 4))
        if fault := _too_large(width, height):
            return fault
        at = index.find(b"tkhd", at + 4)
    return None


def _too_large(width: int, height: int) -> str | None:
    if width * height > LARGEST:
        return (
            f"has pictures of {width}x{height} pixels, more than 8192x4320; make it smaller with "
            "`vt-course data prepare`"
        )
    if max(width, height) > LONGER * min(width, height):
        return f"shows pictures of {width}x{height} pixels, longer than any video's; look at it, or fetch it again"
    return None


def _matroska_end(head: bytes) -> int:
    """The end of the segment of a Matroska or WebM file, as the file itself says; 0 if it does not say."""
    at = head.find(b"\x18\x53\x80\x67") + 4  # the place after the segment's id
    field = head[at : at + 8]
    if at < 4 or not field:  # cut, or after a long header: FFmpeg will tell
        return 0
    digits = 9 - field[0].bit_length()  # bytes of the length: the leading zeros tell it
    length = int.from_bytes(field[:digits], "big") & ((1 << 7 * digits) - 1)
    unknown = length == (1 << 7 * digits) - 1  # all bits set: a live stream
    return 0 if unknown else at + digits + length
