"""From a video file to a clip: which frames, decoded how, and what to do when the file is bad.

The stops are `ClipReader` (decord, uint8 frames), the index rules (pure functions, named after
where they come from), and `VideoFolder`, the data set that joins both with `transforms`.
"""
import csv
import os
from pathlib import Path

import decord
import numpy as np
import torch
from torch import Tensor

from vt_course import CourseError
from vt_course.data import transforms

decord.logging.set_level(decord.logging.QUIET)


class BadClip(CourseError):
    """A video file that cannot be used. The message names the file, what is wrong, and the remedy."""


# ---------------------------------------------------------------------------- which frames

def loop(indices: np.ndarray, num_frames: int) -> np.ndarray:
    """Past the last frame a clip starts again from the first (mmaction2, `out_of_bound_opt="loop"`)."""
    return np.mod(indices, num_frames)


def dense_indices(num_frames: int, frames: int, stride: int, position: str = "centre", rng=None
                  ) -> np.ndarray:
    """`frames` indices, `stride` apart, from one place of the video: "start", "centre", "random".

    The clip spans (frames - 1) * stride + 1 frames. When the video is shorter it starts at 0 and
    loops. "random" is uniform over every start that fits and needs `rng`.
    """
    room = max(num_frames - ((frames - 1) * stride + 1), 0)        # starts 0 .. room fit
    if position == "random":
        start = int(rng.integers(room + 1))
    else:
        start = {"start": 0, "centre": room // 2}[position]
    return loop(start + np.arange(frames, dtype=np.int64) * stride, num_frames)


def uniform_indices(num_frames: int, frames: int, rng=None) -> np.ndarray:
    """One frame from each of `frames` equal segments: random with `rng`, else the middle one.

    Middle frame: floor((i + 1/2) * num_frames / frames), the SSv2 rule of Video Swin
    (`SampleFrames(clip_len=1, num_clips=frames)` of mmaction). A video with fewer frames than
    segments repeats frames in place; it never loops, so the order of time is kept.
    """
    if rng is None:
        return (2 * np.arange(frames, dtype=np.int64) + 1) * num_frames // (2 * frames)
    edges = np.arange(frames + 1, dtype=np.int64) * num_frames // frames
    return edges[:-1] + rng.integers(np.maximum(np.diff(edges), 1))


def video_swin_views(num_frames: int, frames: int, stride: int, clips: int) -> np.ndarray:
    """Centres of `clips` equal parts: start_i = floor(i * avg + avg / 2); (clips, frames) indices.

    avg = (num_frames - frames * stride + 1) / clips. Video Swin's fork of mmaction, `SampleFrames`
    in test mode; frames out of bounds loop. (mmaction2 1.x changed the rule: it spreads the
    starts from the first to the last one that fits.)
    """
    room = num_frames - frames * stride + 1
    starts = np.zeros(clips)
    if room > 0:
        starts = (np.arange(clips) + 0.5) * room / clips
    steps = np.arange(frames, dtype=np.int64) * stride
    return loop(starts.astype(np.int64)[:, None] + steps, num_frames)   # (clips, frames)


def mvit_views(num_frames: int, frames: int, stride: int, clips: int) -> np.ndarray:
    """start_i = i * floor(delta / (clips - 1)), or floor(delta / 2) for one clip; (clips, frames).

    delta = max(num_frames - frames * stride, 0). SlowFast with `USE_OFFSET_SAMPLING: True`, which
    the MViT and UniFormer Kinetics configurations set (`datasets/decoder.py`).
    """
    delta = max(num_frames - frames * stride, 0)
    starts = [i * (delta // (clips - 1)) for i in range(clips)] if clips > 1 else [delta // 2]
    return _slowfast_span(starts, num_frames, frames, stride)


def timesformer_views(num_frames: int, frames: int, stride: int, clips: int) -> np.ndarray:
    """start_i = delta * i / clips, so a single view begins at frame 0; (clips, frames).

    The released code (`timesformer/datasets/decoder.py`, without offset sampling). The paper says
    that the single clip is taken from the middle (section 4): that is `mvit_views` with clips=1.
    """
    delta = max(num_frames - frames * stride, 0)
    return _slowfast_span([delta * i / clips for i in range(clips)], num_frames, frames, stride)


def _slowfast_span(starts, num_frames: int, frames: int, stride: int) -> np.ndarray:
    """SlowFast's `temporal_sampling`: `frames` points from start to start + frames * stride - 1.

    So neighbours are (frames * stride - 1) / (frames - 1) apart, a little more than `stride`, and
    points past the end are clamped to the last frame (these repositories do not loop).
    """
    ends = [start + frames * stride - 1 for start in starts]
    points = np.linspace(starts, ends, frames, axis=-1, dtype=np.float32)
    return np.clip(points, 0, num_frames - 1).astype(np.int64)          # (clips, frames)


def slowfast_segments(num_frames: int, frames: int, rng=None) -> np.ndarray:
    """The SSv2 rule of SlowFast, MViT and TimeSformer (`datasets/ssv2.py`, `get_seq_frames`).

    Segment i runs from round(i * s) to round((i + 1) * s), both included, s = (num_frames - 1) /
    frames; a random frame of it with `rng`, else the middle one, rounded down.
    """
    edges = np.round(np.arange(frames + 1) * ((num_frames - 1) / frames)).astype(np.int64)
    if rng is None:
        return (edges[:-1] + edges[1:]) // 2
    return rng.integers(edges[:-1], edges[1:], endpoint=True)


def uniformer_segments(num_frames: int, frames: int, clips: int = 1) -> np.ndarray:
    """UniFormer's test rule for Something-Something (`datasets/sth.py`); (clips, frames) indices.

    Clip c takes frame round(i * s) + floor(s * (c + 1) / (clips + 1)) of segment i.
    """
    s = (num_frames - 1) / frames
    firsts = np.round(np.arange(frames) * s).astype(np.int64)
    shifts = (s * np.arange(1, clips + 1) / (clips + 1)).astype(np.int64)
    return firsts + shifts[:, None]                                     # (clips, frames)


VIEW_RULES = {"video_swin": video_swin_views, "mvit": mvit_views, "uniformer": mvit_views,
              "timesformer": timesformer_views}


# ---------------------------------------------------------------------------- one file

class ClipReader:
    """A video file, opened with decord.

    `short_side` (pixels): frames come out with this short side, scaled while decoding, aspect
    ratio kept (`transforms.scaled_size`); None leaves them as stored. Rotation tags are obeyed.
    `num_frames`, `fps`, `height`, `width` describe what `read` returns.

    Raises `BadClip` for a file that is missing, empty, truncated, damaged or without video.
    Open it in the process that reads: a decord reader that crosses a fork deadlocks.
    """

    def __init__(self, path: str | os.PathLike, short_side: int | None = None):
        if short_side is not None and short_side < 1:
            raise CourseError(f"short_side is {short_side}; it counts pixels, so give 1 or more.")
        self.path = Path(path)
        self._reader = _open(self.path)
        self.num_frames, self.fps = len(self._reader), self._reader.get_avg_fps()
        self._size, self._short_side = None, short_side
        if short_side and min(self.size) != short_side:
            height, width = transforms.scaled_size(*self.size, short_side)
            self._reader, self._size = _open(self.path, width, height), (height, width)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels; known once one frame is decoded, so asked for late."""
        if self._size is None:
            self.read([0])
        return self._size

    height = property(lambda self: self.size[0])
    width = property(lambda self: self.size[1])

    def read(self, indices) -> np.ndarray:
        """The frames at `indices`, in that order, repeats allowed: uint8 (T, H, W, 3), RGB."""
        indices = np.asarray(indices, dtype=np.int64)
        if indices.min() < 0 or indices.max() >= self.num_frames:
            raise IndexError(f"Frame indices {indices.min()} to {indices.max()} asked of "
                             f"{self.path}, which has frames 0 to {self.num_frames - 1}.")
        wanted, back = np.unique(indices, return_inverse=True)
        try:
            frames = self._reader.get_batch(wanted).asnumpy()           # (T, H, W, C)
        except (RuntimeError, decord.DECORDError, decord.DECORDLimitReachedError) as error:
            raise BadClip(f"Clip {self.path} breaks off or is damaged between frame {wanted[0]} "
                          f"and frame {wanted[-1]}; fetch or render it again.") from error
        self._size = frames.shape[1:3]
        return frames if len(wanted) == len(indices) and (back[:-1] < back[1:]).all() else frames[back]


def _open(path: Path, width: int = -1, height: int = -1) -> decord.VideoReader:
    """A decord reader, or `BadClip` with the likeliest cause in one sentence."""
    try:
        if os.stat(path).st_size == 0:
            raise BadClip(f"Clip {path} is empty (0 bytes); fetch or render it again.")
        return decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1,
                                  width=width, height=height)
    except FileNotFoundError as error:
        raise BadClip(f"Clip {path} does not exist; check the path column of the manifest, or "
                      "fetch the file.") from error
    except (RuntimeError, AssertionError, decord.DECORDError) as error:
        raise BadClip(_cause(path, str(error))) from error


def _cause(path: Path, message: str) -> str:
    if path.is_dir():
        return f"Clip {path} is a folder; the manifest wants the path of a video file."
    if "cannot find video stream" in message:
        return f"Clip {path} has no video stream (audio only?); replace the file."
    with open(path, "rb") as file:
        is_mp4 = file.read(12)[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide")
    if is_mp4:
        return f"Clip {path} is truncated or damaged and cannot be opened; fetch or render it again."
    return f"Clip {path} is not a video file, whatever its name says; replace it."


# ---------------------------------------------------------------------------- a data set

def read_manifest(path: str | os.PathLike) -> list[dict]:
    """Rows of a `path,label,start,end` CSV: dict(path: Path, label: str, start, end: float | None)."""
    path = Path(path)
    if not path.is_file():
        raise CourseError(f"Manifest {path} does not exist; give a CSV with the header "
                          "path,label,start,end.")
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"path", "label"} <= set(reader.fieldnames or ()):
            raise CourseError(f"Manifest {path} starts with {','.join(reader.fieldnames or ())!r}; "
                              "its first line must be path,label,start,end.")
        rows = [dict(path=path.parent / row["path"], label=row["label"],
                     start=float(row["start"]) if row.get("start") else None,
                     end=float(row["end"]) if row.get("end") else None) for row in reader]
    if not rows:
        raise CourseError(f"Manifest {path} lists no clips; add a line path,label,start,end for each.")
    return rows


class VideoFolder(torch.utils.data.Dataset):
    """The clips of a manifest CSV as samples for a model.

    `ds[index]` or `ds[epoch, index]` is dict(clip, label, index): clip float32 (C, T, size, size),
    normalised; label the position of the class name in `classes`. What is random (train=True) is
    a pure function of (seed, epoch, index), so a resumed run sees the same clips.
    A file that cannot be used gives dict(index, error): recorded, never replaced by another.

    train=True:  random place in time (or random frame of each segment), random resized crop, and
                 a horizontal flip with probability `flip` (0: never, for directions are classes).
    train=False: centre (or middle frames), short side scaled to `size`, centre crop.
    views=(clips, crops), for testing: clip is (clips * crops, C, T, size, size), crop fastest;
                 the clips by `view_rule` (a key of VIEW_RULES), crops 1 (centre) or 3.

    `sampling`: "dense" (`frames` frames, `stride` apart) or "uniform" (`frames` segments).
    `short_side`: scale while decoding (see ClipReader); None decodes as stored, which is quicker
    for sources that are small already. `scale`, `ratio`: of the random crop (published Kinetics
    recipes: 0.08 to 1). Frames are decoded in the process that asks, so any number of DataLoader
    workers is safe.
    """

    def __init__(self, manifest, *, classes, frames: int, stride: int, size: int, train: bool,
                 sampling: str = "dense", seed: int = 0, short_side: int | None = None,
                 scale=(0.5, 1.0), ratio=(3 / 4, 4 / 3), flip: float = 0.0,
                 views: tuple[int, int] | None = None, view_rule: str = "video_swin",
                 mean=transforms.IMAGENET_MEAN, std=transforms.IMAGENET_STD):
        if min(frames, stride, size) < 1:
            raise CourseError(f"frames={frames}, stride={stride}, size={size}: each must be 1 or more.")
        if sampling not in ("dense", "uniform"):
            raise CourseError(f"sampling={sampling!r} is unknown; choose dense or uniform.")
        self.rows, self.classes = read_manifest(manifest), tuple(classes)
        number = {name: k for k, name in enumerate(self.classes)}
        unknown = sorted({row["label"] for row in self.rows} - set(number))
        if unknown:
            raise CourseError(f"Manifest {manifest} has labels that are no classes of this data set "
                              f"({', '.join(unknown[:3])}); it knows {', '.join(self.classes[:8])}.")
        self.labels = [number[row["label"]] for row in self.rows]
        self.frames, self.stride, self.size, self.sampling = frames, stride, size, sampling
        self.train, self.seed, self.short_side = train, seed, short_side
        self.scale, self.ratio, self.flip = scale, ratio, flip
        self.views, self.view_rule, self.mean, self.std = views, view_rule, mean, std

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        try:
            clip = self._clip(self.rows[index], np.random.default_rng((self.seed, epoch, index)))
        except BadClip as error:
            return dict(index=index, error=str(error))
        return dict(clip=clip, label=self.labels[index], index=index)

    def _clip(self, row: dict, rng) -> Tensor:
        reader = ClipReader(row["path"], self.short_side)
        indices = self._indices(reader.num_frames, rng)                 # (T,) or (clips, T)
        clip = torch.from_numpy(reader.read(indices.ravel()))           # (.., H, W, C)
        if self.views:
            clips = clip.unflatten(0, indices.shape)                    # (clips, T, H, W, C)
            return torch.stack([self._floats(view) for one in clips for view in self._crops(one)])
        if not self.train:
            small = transforms.resize_short_side(clip, self.size)
            return self._floats(transforms.centre_crop(small, self.size))
        clip = transforms.random_resized_crop(clip, self.size, rng, self.scale, self.ratio)
        return self._floats(transforms.horizontal_flip(clip) if rng.random() < self.flip else clip)

    def _indices(self, num_frames: int, rng) -> np.ndarray:
        if self.views:
            return VIEW_RULES[self.view_rule](num_frames, self.frames, self.stride, self.views[0])
        if self.sampling == "uniform":
            return uniform_indices(num_frames, self.frames, rng if self.train else None)
        return dense_indices(num_frames, self.frames, self.stride,
                             "random" if self.train else "centre", rng)

    def _crops(self, clip: Tensor) -> list[Tensor]:
        small = transforms.resize_short_side(clip, self.size)
        if self.views[1] == 3:
            return transforms.three_crops(small, self.size)
        return [transforms.centre_crop(small, self.size)]

    def _floats(self, clip: Tensor) -> Tensor:
        return transforms.normalise(clip, self.mean, self.std)          # (C, T, H, W)


def collate(samples: list[dict]) -> dict:
    """dict(clip (B, C, T, H, W), label (B,), index (B,), bad=[(index, sentence), ...]).

    B counts the good samples only; when there are none, clip is None.
    """
    good = [sample for sample in samples if "error" not in sample]
    return dict(clip=torch.stack([sample["clip"] for sample in good]) if good else None,
                label=torch.tensor([sample["label"] for sample in good], dtype=torch.int64),
                index=torch.tensor([sample["index"] for sample in good], dtype=torch.int64),
                bad=[(sample["index"], sample["error"]) for sample in samples if "error" in sample])
