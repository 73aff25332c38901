"""Pixels by another decoder than PyAV, for those who compare with a pipeline that is built on decord or torchcodec.

The other decoder gives pixels only. Which frames a video has and when they are shown is always read by PyAV from the
packets of the file (`reader.ClipReader`). So the indices of a clip are the same for all decoders, and the faults that
are known of the others are noticed, because they show as another number of frames, another time of a frame, or another
first picture:

    decord: repeats the last frame in place of those that an edit list hides (videos cut without encoding); after a seek
        in H.264 with open groups of pictures, shows other frames; guesses frames of AVI with B frames; does not know
        AV1; takes the padding of rows for pixels at a width of 16, 24, 48 or 72.
    both: do not complete interlaced pictures; make other colours of pictures of 10 bits.

Pixels that are not square and rotation tags are no fault: the reader shows them as a player does. What is not noticed:
decord and torchcodec may conceal damage in the middle of a file. `vt-course data verify --decoder` decodes every frame
with both decoders and finds it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from vt_course import CourseError, closest
from vt_course.machine import version

if TYPE_CHECKING:  # recipes and the command line import this module for the names; they need no numpy
    import numpy as np

CLOSE = 3  # levels of 255 by which a colour of a pixel may differ; on 618 real videos the pixels were the same
INSTALL = {
    "decord": "pip install decord (decord2 on a machine that is not x86-64)",
    "torchcodec": "pip install --no-deps torchcodec, in a version for your torch, and the libraries of FFmpeg",
}
DECODERS = ("pyav", *INSTALL)
ENTRY = {"decord": "decord", "torchcodec": "torchcodec.decoders"}  # what is imported of each
DOES_NOT_LOAD = "{} {} does not load: it does not suit this Python or torch, or finds no FFmpeg libraries; {}."


class Other(NamedTuple):
    """A video that another decoder has opened.

    frames: how many it counts. read: from indices to their pictures, uint8 (k, H, W, 3), and times in seconds (k,).
    """

    frames: int
    read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def need_decoder(name: str) -> None:
    """Raise `CourseError` for a decoder that is unknown, or cannot be used here; the message says what to install."""
    if name not in DECODERS:
        raise CourseError(f"decoder={name!r} is unknown: {closest(name, DECODERS)}")
    if name != "pyav" and (fault := decoder_fault(name)):
        raise CourseError(fault)


def decoder_fault(name: str) -> str | None:
    """The reason why a decoder cannot be used here, with what to install, as one sentence; or None."""
    try:
        module = importlib.import_module(name)
        importlib.import_module(ENTRY[name])
    except ModuleNotFoundError as error:
        return f"{name} needs the package {error.name}, which is not installed: {INSTALL[name]}."
    except (ImportError, OSError, RuntimeError):  # of a native library that does not load
        return DOES_NOT_LOAD.format(name, version(name), INSTALL[name])
    if name == "torchcodec" and getattr(module, "ffmpeg_major_version", 0) is None:  # since 0.17 it loads without
        return DOES_NOT_LOAD.format(name, version(name), INSTALL[name])
    if name == "decord":
        module.logging.set_level(module.logging.QUIET)  # it would print its errors beside ours
    return None


def open_decord(source) -> Other:
    """`source`: a path or the file in memory. One thread, as loader processes share the cores."""
    import decord

    video = decord.VideoReader(source, num_threads=1)

    def read(indices):
        return video.get_batch(indices).asnumpy(), video.get_frame_timestamp(indices)[:, 0]

    return Other(len(video), read)


def open_torchcodec(source) -> Other:
    """`source`: a path or the file in memory. One thread and the exact seek mode; the other one leaks memory."""
    from torchcodec.decoders import VideoDecoder

    source = source if isinstance(source, str) else source.read()
    video = VideoDecoder(source, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")

    def read(indices):
        found = video.get_frames_at(indices.tolist())
        return found.data.numpy(), found.pts_seconds.numpy()

    return Other(video.metadata.num_frames, read)


OPEN = {"decord": open_decord, "torchcodec": open_torchcodec}


def alike(frame, picture: np.ndarray) -> bool:
    """Whether another decoder's picture (H, W, 3) is what PyAV's frame shows, turned as its rotation tag says."""
    import numpy as np

    ours = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)  # (H, W, C)
    return ours.shape == picture.shape and int(np.abs(ours.astype(np.int16) - picture).max()) <= CLOSE
