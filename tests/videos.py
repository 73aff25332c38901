"""Little videos for the tests, written with PyAV, and PyAV's own full decode as the oracle."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from vt_course.claims.phone_clips import turned


def write_video(
    path,
    frames=24,
    size=(48, 64),
    fps=24,
    gop=12,
    bframes=0,
    times=None,
    codec="libx264",
    pixels="yuv420p",
    faststart=False,
    aspect=None,
) -> Path:
    """A texture (h, w = size) that slides 2 pixels a frame under a brightness that rises.

    No two frames are alike. `times`: time stamps in units of 1 / fps, else 0, 1, 2, ...
    `aspect`: the tag that pixels are so many times as wide as high.
    """
    texture = np.random.default_rng(0).integers(0, 160, (size[0] // 8 + 1, size[1] // 8 + 1, 3))
    texture = texture.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]  # (H, W, C)
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.options = {"g": str(gop), "bf": str(bframes)}
        stream.codec_context.time_base = Fraction(1, fps)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for t in range(frames):
            shade = (np.roll(texture, 2 * t, 1) + 90 * t // frames).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(shade, format="rgb24")
            frame.pts, frame.time_base = times[t] if times else t, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Path(path)


def write_audio(path) -> Path:
    """A tenth of a second of silence: a healthy file without a picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        silence.rate = 44100
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    return Path(path)


def write_interlaced(path, frames=6) -> Path:
    """A white bar of 32 pixels that moves 16 pixels from one field to the next, 64x128: woven, its ends are combs."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"flags": "+ildct+ilme", "crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 64, 128, "yuv420p"
        for t in range(frames):
            picture = np.full((64, 128, 3), 16, np.uint8)
            for order, field in enumerate((1, 0)):  # the lower lines are shown first, as in DV
                picture[field::2, (at := 16 * (2 * t + order) % 96) : at + 32] = 235
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = t, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Path(path)


def cut_without_encoding(source, path, start: float) -> Path:
    """`ffmpeg -ss start -c copy`: from the key frame before, which an edit list then hides."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        copy, offset = new.add_stream_from_template(stream), int(start / stream.time_base)
        old.seek(offset, stream=stream, backward=True)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts - offset, packet.dts - offset
                packet.stream = copy
                new.mux(packet)
    return Path(path)


def rotate_tag(source, path) -> Path:
    """The same stream with a display matrix that turns it by 90 degrees clockwise."""
    Path(path).write_bytes(turned(Path(source).read_bytes()))
    return Path(path)


def decode(path) -> np.ndarray:
    """Every frame that PyAV shows, in order: uint8 (T, H, W, 3), rotation tags not obeyed."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
