"""The embedded data set: small clips with two labels. Only the order of frames tells one, each frame tells the other.

One shape moves in front of a patterned background. It has a pose of four numbers, each periodic with period 1:

    x, y    its place; it leaves the picture at one border and comes back at the other
    turn    its rotation: the colours of the colour circle stand around its centre
    zoom    the phase of an endless zoom: bright, dark and pale rings, the same again after growing by `ZOOM_PERIOD`

The first label is the motion. A class changes exactly one of these numbers, at constant speed, and does not
change the other three. The second label, the appearance, is the kind of pattern of the background.

One frame: the pose of the middle frame is uniformly distributed, so the pose of *every* frame is uniformly
distributed, whatever the class. One frame says nothing about the motion (ceiling 1/8).

Frames without order: a clip of a class, played backwards, is exactly as probable as a clip of its partner
class. A set of frames without their order tells at most the pair (ceiling 1/2).

Both ceilings are exact, not estimates, because each frame is painted from its own pose and its own independent
noise, and is encoded by itself (`encode`).
"""

from __future__ import annotations

import errno
import io
import json
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vt_course import CourseError, closest, data_roots, need, own_data
from vt_course.files import alone, parse_json, read_utf8
from vt_course.machine import cores

# Four pairs of neighbours; in a pair, each motion is the time reversal of the other.
MOTIONS = ("left", "right", "up", "down", "grow", "shrink", "clockwise", "counter-clockwise")
# Patterns of the background.
APPEARANCES = ("clouds", "grain", "rows", "columns", "rising", "falling", "checks", "dots")
OUTLINES = ("circle", "ellipse", "triangle", "square", "star", "cross", "flower", "heart")  # drawn at random
SPLITS = ("train", "val", "test")

X, Y, TURN, ZOOM = range(4)
COORDINATE = {
    "left": X,
    "right": X,
    "up": Y,
    "down": Y,
    "grow": ZOOM,
    "shrink": ZOOM,
    "clockwise": TURN,
    "counter-clockwise": TURN,
}
SIGN = {
    "left": -1,
    "right": 1,
    "up": -1,
    "down": 1,
    "grow": 1,
    "shrink": -1,
    "clockwise": 1,
    "counter-clockwise": -1,
}  # image axes: y points down

ZOOM_PERIOD = 4.0  # the texture is the same again after growing by this factor
SPEEDS = {  # slowest and fastest, in periods per frame
    X: (1.5 / 112, 3.0 / 112),
    Y: (1.5 / 112, 3.0 / 112),
    TURN: (8 / 360, 13 / 360),
    ZOOM: (np.log(1.06) / np.log(ZOOM_PERIOD), np.log(1.10) / np.log(ZOOM_PERIOD)),
}

FPS = 16
CLIPS = {"train": 1600, "val": 400, "test": 2000}  # how many, by default
SMALLEST = (72, 400)  # train and val clips with which every notebook runs in its profile smoke; `.ci/doors` tries it
VERSION = 2  # version of the rendering; raise it if the same seed gives other pixels
ANGLES, TEXTURE_ANGLES, TEXTURE_RINGS = 4096, 512, 128  # sizes of the look-up tables


# ---------------------------------------------------------------- what a clip is made of


@dataclass(frozen=True)
class Scene:
    """Everything that is the same in all frames of a clip. Colours are RGB in 0..1, lengths are in pixels."""

    log_outline: np.ndarray  # (ANGLES,) log of the distance from the centre to the outline
    texture: np.ndarray  # (TEXTURE_RINGS, TEXTURE_ANGLES, 3) periodic in both axes
    rim: np.ndarray  # (3,) colour of the outline and of the hub
    background: np.ndarray  # (S, S, 3) periodic in both axes


@dataclass(frozen=True)
class Shake:
    """Everything that is drawn independently for each frame of a clip."""

    offset: np.ndarray  # (T, 2) integer shift of the background, pixels
    gain: np.ndarray  # (T,) brightness factor
    noise: np.ndarray  # (T, S, S) added brightness, 0..1 scale


def _rng(key: tuple[int, ...], stream: int) -> np.random.Generator:
    """A generator with an independent stream for each purpose, so that the motion never changes a clip's colours."""
    return np.random.default_rng((*key, stream))


def draw_path(motion: str, frames: int, key: tuple[int, ...]) -> np.ndarray:
    """Poses (T, 4) in [0, 1): x, y, turn, zoom. Uniformly distributed at the middle frame, and so at every frame.

    With the same key, the path of a motion is its partner's path read backwards.
    """
    rng = _rng(key, 0)
    middle, pace = rng.random(4), rng.random()
    slow, fast = SPEEDS[COORDINATE[motion]]
    path = np.tile(middle, (frames, 1))  # (T, 4)
    steps = np.arange(frames) - (frames - 1) / 2
    path[:, COORDINATE[motion]] += SIGN[motion] * (slow + (fast - slow) * pace) * steps
    return path % 1.0


def draw_scene(appearance: str, size: int, key: tuple[int, ...]) -> Scene:
    """Background, and outline, size and texture of the shape. None of them depends on the motion."""
    rng = _rng(key, 1)
    radius = rng.uniform(26, 34) * size / 112  # radius of the disc with the same area
    return Scene(
        log_outline=np.log(radius * _outline(OUTLINES[rng.integers(len(OUTLINES))])).astype(np.float32),
        texture=_texture(rng),
        rim=np.ones(3, np.float32),
        background=_background(rng, size, appearance),
    )


def draw_shake(frames: int, size: int, key: tuple[int, ...]) -> Shake:
    rng = _rng(key, 2)
    return Shake(
        offset=rng.integers(-1, 2, (frames, 2)),
        gain=rng.uniform(0.96, 1.04, frames).astype(np.float32),
        noise=rng.standard_normal((frames, size, size), dtype=np.float32) * np.float32(0.008),
    )


def _rgb(hue, saturation, value) -> np.ndarray:
    """HSV to RGB, all in 0..1; the hue is periodic. (3,), or of arrays (..., 1) also (..., 3)."""
    wheel = np.clip(np.abs((hue + np.array([0, 2, 1]) / 3) % 1 * 6 - 3) - 1, 0, 1)
    return (value * (1 - saturation + saturation * wheel)).astype(np.float32)


def _outline(shape: str) -> np.ndarray:
    """(ANGLES,) distance from centre to outline, at angles from -pi to pi; the area of the shape is pi."""
    t = np.linspace(0, 2 * np.pi, 721)
    ring = np.exp(1j * t)
    if shape == "circle":
        curve = ring
    elif shape == "ellipse":
        curve = 2.1 * ring.real + 1j * ring.imag
    elif shape == "flower":
        curve = (1 + 0.33 * np.cos(5 * t)) * ring
    elif shape == "heart":
        curve = 16 * np.sin(t) ** 3 - 1j * (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    else:
        w = 0.36  # half the width of an arm of the cross
        corners = {
            "triangle": np.exp(2j * np.pi * np.arange(4) / 3),
            "square": np.exp(2j * np.pi * np.arange(5) / 4),
            "star": np.exp(2j * np.pi * np.arange(11) / 10) * np.array([1, 0.5] * 5 + [1]),
            "cross": np.outer(1j ** np.arange(5), [1 - w * 1j, 1 + w * 1j, w + w * 1j]).ravel(),
        }[shape]
        last = len(corners) - 1
        curve = np.interp(np.linspace(0, last, 4801), np.arange(last + 1), corners)
    order = np.argsort(np.angle(curve))
    angles = np.linspace(-np.pi, np.pi, ANGLES, endpoint=False)
    distance = np.interp(angles, np.angle(curve)[order], np.abs(curve)[order], period=2 * np.pi)
    return distance / np.sqrt(np.mean(distance**2))


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Around the centre, the hue runs once through the colour circle. From ring to ring, colours get dark, pale, full.

    Brightness and saturation are two waves over the rings, a quarter of a period apart. All are bent by some waves
    over (ring, angle), which are periodic in both axes. So turning never looks like zooming, the texture has no
    rotational symmetry, and no zoom by less than a whole period leaves it unchanged.
    All clips have these colours in this order. So at a fixed place turning shows them in one order, turning back in the
    other, and the same holds for zooming. A network that compares the same place in two frames can read this early.
    """
    ring = np.arange(TEXTURE_RINGS)[:, None] / TEXTURE_RINGS  # (R, 1) in [0, 1)
    angle = np.arange(TEXTURE_ANGLES)[None] / TEXTURE_ANGLES  # (1, A) in [0, 1)

    def wave(rings: int, angles: int) -> np.ndarray:
        return np.cos(2 * np.pi * (rings * ring + angles * angle + rng.random()))

    hue = angle + 0.03 * (wave(1, 1) + wave(1, -1) + wave(0, 2))  # (R, A)
    place = 2 * np.pi * (ring + 0.05 * wave(0, 1) + 0.03 * wave(0, 2))  # (R, A)
    saturation, value = 0.65 + 0.35 * np.sin(place), 0.68 + 0.32 * np.cos(place)  # (R, A) each
    return _rgb(hue[..., None], saturation[..., None], value[..., None])  # (R, A, 3)


def _background(rng: np.random.Generator, size: int, kind: str) -> np.ndarray:
    """A pattern of one `kind` and faint clouds on a muted colour, periodic in both axes: (S, S, 3)."""
    pattern = _pattern(rng, size, kind)
    cloud = _clouds(rng, size, 1, 2.5)[0]
    base, tint = _muted(rng)
    return (base + 0.08 * pattern[..., None] + 0.05 * cloud[..., None] * tint).astype(np.float32)  # (S, S, 3)


def _muted(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A muted colour, and the direction in which clouds change it: (3,) each."""
    hue = rng.random()
    base = _rgb(hue, rng.uniform(0.2, 0.6), rng.uniform(0.3, 0.6))
    return base, _rgb(hue + rng.uniform(0.2, 0.8), 0.8, 1.0) - 0.5


def _pattern(rng: np.random.Generator, size: int, kind: str) -> np.ndarray:
    """A pattern with mean 0 and standard deviation about 1, (S, S). Stripes and dots are bent, and begin anywhere."""
    if kind in ("clouds", "grain"):
        return _clouds(rng, size, 1, {"clouds": 2.5, "grain": 16.0}[kind])[0]
    place = 2 * np.pi * np.arange(size) / size
    waves = int(rng.integers(5, 8) if kind in ("rows", "columns", "checks", "dots") else rng.integers(4, 6))
    down, across = rng.uniform(0, 2 * np.pi, (2, 1, 1)) + 0.5 * _clouds(rng, size, 2, 1.5)  # (S, S) each: phases
    down, across = down + waves * place[:, None], across + waves * place[None]
    if kind == "checks":
        return 1.4 * np.tanh(3 * np.sin(down) * np.sin(across))
    if kind == "dots":
        dots = np.exp(3 * (np.cos(down) + np.cos(across)))
        return (dots - dots.mean()) / dots.std()
    # The sum of both phases is the same along lines that rise to the right (y points down), their difference along
    # lines that fall.
    return 1.4 * np.sin({"rows": down, "columns": across, "rising": down + across, "falling": down - across}[kind])


def _clouds(rng: np.random.Generator, size: int, count: int, width: float) -> np.ndarray:
    """Random fields with mean 0 and standard deviation 1, periodic in both axes: (count, S, S).

    `width`: of the Gaussian spectrum, in waves per picture. With a small width the fields are smooth.
    """
    k = np.fft.fftfreq(size, 1 / size)
    low = np.exp(-(k[:, None] ** 2 + k[None, : size // 2 + 1] ** 2) / (2 * width**2))
    low[0, 0] = 0
    fields = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((count, size, size))) * low)
    return fields / fields.std(axis=(1, 2), keepdims=True)


# ---------------------------------------------------------------- painting and encoding


def paint(scene: Scene, path: np.ndarray, shake: Shake) -> np.ndarray:
    """Frames, uint8 (T, S, S, 3). Frame t depends only on the scene, path[t] and the values of `shake` at t."""
    size, frames = len(scene.background), len(path)
    canvas = np.stack([np.roll(scene.background, tuple(o), (0, 1)) for o in shake.offset])
    pixels = canvas.reshape(-1, 3)  # (T*S*S, 3) view

    # Positions of the pixels relative to the centre of the shape, by the shorter way (the picture is periodic).
    grid = (np.arange(size) + 0.5) / size
    dx, dy = (((grid - path[:, i, None] + 0.5) % 1 - 0.5) * size for i in (X, Y))
    dx, dy = dx.astype(np.float32), dy.astype(np.float32)  # (T, S) each
    square = dy[:, :, None] ** 2 + dx[:, None, :] ** 2  # (T, S, S)
    reach = np.exp(scene.log_outline.max()) + 1
    near = np.flatnonzero(square < reach**2)  # (n,)
    t, row, column = np.unravel_index(near, (frames, size, size))

    # Polar coordinates that turn with the shape; radius 1 is the outline at every angle.
    angle = np.arctan2(dy[t, row], dx[t, column]) / np.float32(2 * np.pi) + np.float32(0.5)
    angle -= path[:, TURN].astype(np.float32)[t]
    step = np.floor(angle * ANGLES).astype(np.int32) % ANGLES
    outline = scene.log_outline[step]
    log_radius = 0.5 * np.log(square.ravel()[near] + np.float32(1e-6)) - outline
    radius = np.exp(log_radius)

    # The endless zoom: the logarithm of the radius, shifted by the phase of the zoom, selects the ring of the texture.
    ring = log_radius / np.float32(np.log(ZOOM_PERIOD)) - path[:, ZOOM].astype(np.float32)[t]
    ring = np.floor(ring * TEXTURE_RINGS).astype(np.int32) % TEXTURE_RINGS
    colour = scene.texture[ring, step // (ANGLES // TEXTURE_ANGLES)]  # (n, 3)

    # The hub hides the centre, where rings are finer than pixels. The rim marks the outline.
    thickness = np.exp(outline)  # pixels per unit of radius
    plain = np.clip((0.17 - radius) * thickness + 0.5, 0, 1)
    plain += np.clip((radius - 0.92) * thickness + 0.5, 0, 1)
    colour += plain[:, None] * (scene.rim - colour)
    cover = np.clip((1 - radius) * thickness + 0.5, 0, 1)[:, None]  # soft edge
    pixels[near] += cover * (colour - pixels[near])

    canvas *= shake.gain[:, None, None, None]
    canvas += shake.noise[..., None]
    return (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)


def clip_array(
    motion: str, appearance: str, *, frames: int = 32, size: int = 112, key: tuple[int, ...] = (0, 0, 0)
) -> np.ndarray:
    """One clip before encoding, uint8 (T, S, S, 3). `key` is (seed, split number, clip number).

    The same key with another motion gives the same shape, colours, background and noise. Raises `CourseError` for a
    motion or an appearance that does not exist.
    """
    for name, known in ((motion, MOTIONS), (appearance, APPEARANCES)):
        need(name in known, f"no motion or appearance {name!r}: {closest(name, known)}")
    return paint(draw_scene(appearance, size, key), draw_path(motion, frames, key), draw_shake(frames, size, key))


def mask_array(
    motion: str, appearance: str, *, frames: int = 32, size: int = 112, key: tuple[int, ...] = (0, 0, 0)
) -> np.ndarray:
    """How much of each pixel of `clip_array` the shape covers, from 0 to 1: float32 (T, S, S).

    The renderer paints it itself: the same shape in white, before black, on the same path, with nothing that shakes.
    """
    scene, white = draw_scene(appearance, size, key), np.ones(3, np.float32)
    plain = replace(scene, background=0 * scene.background, texture=0 * scene.texture + white, rim=white)
    still = Shake(np.zeros((frames, 2), int), np.ones(frames, np.float32), np.zeros((frames, size, size), np.float32))
    return paint(plain, draw_path(motion, frames, key), still)[..., 0] / np.float32(255)


def encode(clip: np.ndarray) -> bytes:
    """The bytes of an MP4 file (H.264) of a uint8 clip (T, S, S, 3). Each frame is coded by itself.

    There are only key frames, with a constant quantiser. Everything that uses neighbouring frames is off: lookahead,
    macroblock tree, B frames, adaptive quantisation, frame threads. So a frame decodes to the same pixels,
    whatever its neighbours are, and compression gives no information about the direction of time.
    """
    import av  # here: nobody needs it who only asks for the classes

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264",
            rate=FPS,
            options={
                "preset": "veryfast",
                "x264-params": "qp=30:keyint=1:bframes=0:scenecut=0:rc-lookahead=0:sync-lookahead=0"
                ":mbtree=0:aq-mode=0:weightp=0:threads=1:lookahead-threads=1",
            },
        )
        stream.height, stream.width, stream.pix_fmt = *clip.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1
        for image in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


# ---------------------------------------------------------------- rendering the data set


def labels(count: int, split: int, seed: int) -> list[tuple[str, str]]:
    """(motion, appearance) of each clip of a split: balanced, independent, in random order.

    Before shuffling, each 8 neighbours have each motion and each appearance once, and each 64 neighbours have each
    combination once.
    """
    pairs = [(MOTIONS[i % 8], APPEARANCES[(i // 8 + i) % 8]) for i in range(count)]
    return [pairs[i] for i in np.random.default_rng((seed, split)).permutation(count)]


def render(
    out: Path | str | None = None,
    *,
    splits: tuple[str, ...] = ("train", "val"),
    clips: tuple[int, ...] | None = None,
    frames: int = 32,
    size: int = 112,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> dict:
    """Render training and validation clips, or with `splits=("test",)` the test clips, into `out`.

    `out`: default `synthetic` in the user's data folder, unless the installation has these clips. `clips`: how many of
    each split, default 1600, 400 and 2000. Nobody tunes on the test clips: their random numbers are used for nothing
    else.

    Writes `clips/{train,val}/NNNNN.mp4`, the manifests `{motion,appearance}_{train,val}.csv` and, last, `config.json`;
    for the test clips the same with `test` and `config_test.json`. Clips that are there already are kept: after an
    interruption, call it again. The files depend on the settings only, not on `workers` or on earlier calls. Clips
    that another version of the course has rendered are replaced.

    Returns a summary: `out`, `clips` (of each split), `rendered` (by this call), `bytes`,
    `seconds`, `manifests`. Raises `CourseError` for settings that are not possible, for a folder
    that holds a data set with other settings, and if the disk is full or the folder cannot be
    written.
    """
    start = time.perf_counter()
    clips = clips or tuple(CLIPS[split] for split in splits)
    settings = _settings(splits, clips, frames, size, seed)
    if out is None and (shared := _shared(splits, settings)):
        return _summary(shared, splits, settings, 0, start)
    out = Path(out) if out is not None else own_data() / "synthetic"
    try:
        for split in splits:
            (out / "clips" / split).mkdir(parents=True, exist_ok=True)
        with alone(out / ".lock", progress):  # a second process waits, and then finds the work done
            rendered = _render_missing(out, splits, settings, workers, progress)
    except OSError as error:
        remedy = (
            "free some space (the default set takes 100 MB)"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "choose another folder"
        )
        raise CourseError(
            f"Cannot write the clips to {out} ({error.strerror}): {remedy} and run "
            "`vt-course data synthetic` again; finished clips are kept."
        ) from error
    return _summary(out, splits, settings, rendered, start)


def _summary(out: Path, splits: tuple[str, ...], settings: dict, rendered: int, start: float) -> dict:
    return {
        "out": str(out),
        "clips": dict(zip(splits, settings["clips"])),
        "rendered": rendered,
        "bytes": sum(file.stat().st_size for split in splits for file in out.glob(f"clips/{split}/*.mp4")),
        "seconds": round(time.perf_counter() - start, 2),
        "manifests": {
            f"{label}_{split}": str(out / f"{label}_{split}.csv")
            for label in ("motion", "appearance")
            for split in splits
        },
    }


def rendered(split: str) -> Path | None:
    """The folder of the embedded data set, if one has this split, whole and of this version: the user's own first."""
    for root in data_roots():
        config = root / "synthetic" / _config("config", (split,))
        if config.is_file() and _version(read_utf8(config, "delete the folder to render it anew.")) == VERSION:
            return root / "synthetic"
    return None


def _shared(splits: tuple[str, ...], settings: dict) -> Path | None:
    """The folder of an installation for many that holds the clips of these settings, if the user has none."""
    name = _config("config", splits)
    own, *others = (root / "synthetic" for root in data_roots())
    if (own / name).exists():
        return None
    wanted = json.dumps(settings) + "\n"
    whole = (folder for folder in others if (folder / name).is_file())
    return next((folder for folder in whole if (folder / name).read_text(encoding="utf-8") == wanted), None)


def _config(name: str, splits: tuple[str, ...]) -> str:
    """The file that says how these splits were rendered."""
    return f"{name}_test.json" if "test" in splits else f"{name}.json"


def _version(config: str) -> int | None:
    """The version of a file `config.json`; None if it is damaged."""
    try:
        return parse_json(config, "the settings", "render it anew", dict).get("version")
    except CourseError:
        return None


def _settings(splits: tuple[str, ...], clips: tuple[int, ...], frames: int, size: int, seed: int) -> dict:
    if splits not in (("train", "val"), ("test",)):
        raise CourseError(f"splits must be ('train', 'val') or ('test',), got {splits!r}.")
    clips = [int(count) for count in clips]
    if len(clips) != len(splits) or any(count < 8 or count % 8 for count in clips):
        numbers = "two multiples of 8 (train, validation)" if len(splits) == 2 else "one multiple of 8"
        raise CourseError(
            f"clips must be {numbers} so that labels are balanced, got {clips}; "
            f"use for instance {' and '.join(str(CLIPS[split]) for split in splits)}."
        )
    if frames < 2:
        raise CourseError(f"frames must be at least 2 for anything to move, got {frames}.")
    if size < 32 or size % 2:
        raise CourseError(f"size must be an even number of at least 32 pixels, got {size}.")
    if seed < 0:
        raise CourseError(f"seed must not be negative, got {seed}.")
    return {"version": VERSION, "clips": clips, "frames": int(frames), "size": int(size), "seed": int(seed), "fps": FPS}


def _render_missing(out: Path, splits: tuple[str, ...], settings: dict, workers: int | None, progress: bool) -> int:
    """Render the clips that `out` does not have yet, and return how many."""
    started, finished = (out / _config(name, splits) for name in ("rendering", "config"))
    config = json.dumps(settings) + "\n"
    for file in (started, finished):
        there = read_utf8(file, "delete the folder to render it anew.") if file.exists() else config
        if _version(there) not in (None, VERSION):  # its clips are of no more use: the same seed gives others now
            for old in (file, *(clip for split in splits for clip in out.glob(f"clips/{split}/*.mp4"))):
                old.unlink()
        elif there != config:
            raise CourseError(
                f"{out} holds clips rendered with other settings "
                f"({' '.join(there.split()):.300}): choose another folder, or delete "
                "this one to render it anew."
            )
    jobs, tables = [], {}
    for split, count in zip(splits, settings["clips"]):
        number = SPLITS.index(split)
        for index, (motion, appearance) in enumerate(labels(count, number, settings["seed"])):
            path = f"clips/{split}/{index:05d}.mp4"
            tables.setdefault(f"motion_{split}.csv", []).append((path, motion))
            tables.setdefault(f"appearance_{split}.csv", []).append((path, appearance))
            if not (out / path).exists():
                key = (settings["seed"], number, index)
                jobs.append((str(out / path), motion, appearance, settings["frames"], settings["size"], key))
    if not finished.exists():
        _write(started, config.encode())
    for split in splits:
        for stray in out.glob(f"clips/{split}/*.part"):  # left by a run that was killed
            stray.unlink()
    _run(jobs, workers or cores(), progress)
    for name, rows in tables.items():
        lines = ["path,label,start,end", *(f"{path},{label},," for path, label in rows)]
        _write(out / name, ("\n".join(lines) + "\n").encode())
    if not finished.exists():
        os.replace(started, finished)
    return len(jobs)


def _run(jobs: list[tuple], workers: int, progress: bool) -> None:
    """Do the jobs in up to `workers` processes, with a progress bar.

    Processes are spawned, not forked, because torch may be loaded here, with threads. Each
    worker takes every n-th job and reports through a pipe of its own. So it is noticed if a worker dies,
    and workers end by themselves if this process is killed.
    """
    workers = min(workers, len(jobs) // 16)  # starting a process takes as long as a few clips
    with tqdm(
        total=len(jobs), desc="rendering clips", unit="clip", mininterval=0.5, disable=not progress or not jobs
    ) as bar:
        if workers < 2:
            for job in jobs:
                _render_clip(*job)
                bar.update()
            return
        context = multiprocessing.get_context("spawn")
        processes, pipes, done = [], [], 0
        try:
            for n in range(workers):
                receive, send = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(jobs[n::workers], send), daemon=True)
                process.start()
                processes.append(process)
                send.close()  # now only the worker holds this end, so its death closes the pipe
                pipes.append(receive)
            while pipes:
                for pipe in wait(pipes):
                    try:
                        error = pipe.recv()
                    except EOFError:
                        pipes.remove(pipe)
                        continue
                    if error is not None:
                        raise error
                    done += 1
                    bar.update()
            if done < len(jobs):
                raise CourseError(
                    "A rendering process was killed (out of memory?); run "
                    "`vt-course data synthetic` again, finished clips are kept."
                )
        finally:
            for process in processes:
                process.terminate()
                process.join()


def _work(jobs: list[tuple], report) -> None:
    """The work of a worker process. It sends one message for each clip: None, or the error that ended its work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # after Ctrl-C the main process ends this one
    try:
        for job in jobs:
            _render_clip(*job)
            report.send(None)
    except BrokenPipeError:
        return  # the main process is gone, so nobody needs the rest
    except OSError as error:
        report.send(error)


def _render_clip(file: str, motion: str, appearance: str, frames: int, size: int, key: tuple[int, ...]) -> None:
    clip = clip_array(motion, appearance, frames=frames, size=size, key=key)
    _write(Path(file), encode(clip))


def _write(file: Path, data: bytes) -> None:
    """Write the whole file or none: a kill leaves a `.part` file, never an incomplete file of that name."""
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, file)
    except OSError:
        part.unlink(missing_ok=True)  # if the disk was full, this frees the space
        raise
