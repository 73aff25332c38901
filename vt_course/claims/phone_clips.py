"""Stand-ins for the videos of a phone, drawn: what a benchmark of training needs where no real ones may be passed on.

What costs time is as phones make it: 1920 x 1080 pixels with a tag that turns them upright, 30 frames a second, 17
Mbit/s, a key frame each second, no B frames, the noise of a sensor and a hand that shakes.
"""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from vt_course.data.reader import box
from vt_course.files import replacing

SECONDS, FPS, RATE = 20, 30, 17_000_000
SIZE = 1080, 1920  # height and width as stored
MARGIN = 96  # pixels by which the scene is larger than the picture on each side, for the shaking


def phone_clips(folder: Path, count: int, *, seconds: int = SECONDS, size: tuple[int, int] = SIZE) -> list[Path]:
    """The first `count` stand-ins in `folder`. Those that are missing are rendered, about 20 s each. Sizes are even."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"phone_{number}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.is_file():
            with replacing(path) as part:
                _write(part, number, seconds * FPS, size)
                part.write_bytes(turned(part.read_bytes()))
    return paths


def turned(video: bytes) -> bytes:
    """An MP4 with the tag of a phone that was held upright: a player turns its pictures by 90 degrees clockwise."""
    matrix = b"".join(n.to_bytes(4, "big", signed=True) for n in (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30))
    header, _ = box(io.BytesIO(video), 0, len(video), b"moov", b"trak", b"tkhd")  # pictures may contain these letters
    place = header + 40  # ISO/IEC 14496-12, 8.3.2: the matrix of a track header of version 0
    return video[:place] + matrix + video[place + len(matrix) :]


def _write(path: Path, seed: int, frames: int, size: tuple[int, int]) -> None:
    (height, width), rng = size, np.random.default_rng(seed)
    options = {"preset": "veryfast", "g": str(FPS), "sc_threshold": "0", "bf": "0", "refs": "1"}
    options |= {"maxrate": str(RATE), "bufsize": str(RATE)}
    luma = (110 + 70 * _clouds(rng, size, (4, 16, 64, 160))).astype(np.int16)
    chroma = [(128 + 50 * _clouds(rng, (height // 2, width // 2), (32, 120))).astype(np.uint8) for _ in range(2)]
    noise = [rng.normal(0, 3, size).round().astype(np.int16) for _ in range(7)]
    shake = np.cumsum(rng.normal(0, 2, (frames, 2)), axis=0)
    shake = np.clip(shake - shake.mean(0), -MARGIN // 2, MARGIN // 2)
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = height, width, "yuv420p", RATE
        for t in range(frames):
            y, x = 2 * ((MARGIN + shake[t]) / 4).astype(int)  # even, as colour has half the pixels
            light = luma[y : y + height, x : x + width] + noise[t % len(noise)]
            angle, side = 6 * np.pi * t / frames, height // 4  # a square runs around three times
            top, left = (int(n / 2 + n / 4 * part - side / 2) for n, part in zip(size, (np.sin(angle), np.cos(angle))))
            light[top : top + side, left : left + side] += 60
            colours = [plane[y // 2 : y // 2 + height // 2, x // 2 : x // 2 + width // 2] for plane in chroma]
            frame = av.VideoFrame(width, height, "yuv420p")
            for plane, pixels in zip(frame.planes, (light.clip(16, 235), *colours)):
                rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
                rows[:, : plane.width] = pixels
            frame.pts, frame.time_base = t, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _clouds(rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, ...]) -> np.ndarray:
    """Random squares of several sizes on top of each other, float32 in [-1, 1], `MARGIN` larger on each side."""
    height, width = (n + 2 * MARGIN for n in size)
    sum_ = np.zeros((height, width), np.float32)
    for cell in cells:
        shades = rng.standard_normal((height // cell + 1, width // cell + 1)).astype(np.float32)
        sum_ += shades.repeat(cell, 0).repeat(cell, 1)[:height, :width] * cell**0.5
    return sum_ / np.abs(sum_).max()
