"""From a video file to a clip: which frames to take, how to decode them, and what to do if the file is bad.

The index rules are pure functions that say which frames to take; their names say where they come from.
`reader.ClipReader` decodes the frames. `VideoFolder` is a data set that uses both, and `transforms`.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vt_course import CourseError, need
from vt_course.data import transforms
from vt_course.data.augment import Augment
from vt_course.data.decoders import need_decoder
from vt_course.data.reader import OTHERS, SUFFIXES, BadClip, ClipReader
from vt_course.files import csv_header, read_csv, read_lines

# ------------------------------------------------------------------------- which frames


def loop(indices: np.ndarray, num_frames: int) -> np.ndarray:
    """Indices past the last frame continue at frame 0 (mmaction2, `out_of_bound_opt="loop"`)."""
    return np.mod(indices, num_frames)


def dense_indices(num_frames: int, frames: int, stride: int, position: str = "centre", rng=None) -> np.ndarray:
    """`frames` indices, `stride` apart, (frames,). `position`: "start", "centre" or "random".

    They span (frames - 1) * stride + 1 frames. A shorter video is looped, beginning at its frame 0.
    "random" is uniform over all starts that fit, and needs `rng`.
    """
    room = max(num_frames - ((frames - 1) * stride + 1), 0)  # starts 0 .. room fit
    if position == "random":
        start = int(rng.integers(room + 1))
    else:
        start = {"start": 0, "centre": room // 2}[position]
    return loop(start + np.arange(frames, dtype=np.int64) * stride, num_frames)


def uniform_indices(num_frames: int, frames: int, rng=None) -> np.ndarray:
    """One frame of each of `frames` equal segments: a random one if `rng` is given, else the middle one. (frames,)

    The middle of segment i is floor((i + 1/2) * num_frames / frames). This is the rule of
    `SampleFrames(clip_len=1, num_clips=frames)` in the mmaction on which Video Swin is built.
    (Video Swin's own SSv2 configuration has `frame_uniform=True`, which is `slowfast_segments`.)
    If there are fewer frames than segments, a frame is taken several times in a row. Looping would
    break the order of time.
    """
    if rng is None:
        return (2 * np.arange(frames, dtype=np.int64) + 1) * num_frames // (2 * frames)
    edges = np.arange(frames + 1, dtype=np.int64) * num_frames // frames
    return edges[:-1] + rng.integers(np.maximum(np.diff(edges), 1))


def slowfast_segments(num_frames: int, frames: int, rng=None) -> np.ndarray:
    """The SSv2 rule of SlowFast, MViT and TimeSformer (`datasets/ssv2.py`, get_seq_frames).

    Segment i runs from round(i * s) to round((i + 1) * s), both included, where s is
    (num_frames - 1) / frames. One frame of it is taken: a random one if `rng` is given, else the middle
    one, rounded down. (frames,)
    """
    edges = np.round(np.arange(frames + 1) * ((num_frames - 1) / frames)).astype(np.int64)
    if rng is None:
        return (edges[:-1] + edges[1:]) // 2
    return rng.integers(edges[:-1], edges[1:], endpoint=True)


def video_swin_views(num_frames: int, frames: int, stride: int, clips: int) -> np.ndarray:
    """The starts are the centres of `clips` equal parts: start_i = floor(i * avg + avg / 2); (clips, frames).

    avg = (num_frames - frames * stride + 1) / clips. This is `SampleFrames` in test mode, in the
    mmaction on which Video Swin is built. Indices past the end loop. (mmaction2 1.x has
    another rule: it spreads the starts from the first to the last one that fits.)
    """
    room = max(num_frames - frames * stride + 1, 0)
    starts = ((np.arange(clips) + 0.5) * room / clips).astype(np.int64)
    steps = np.arange(frames, dtype=np.int64) * stride
    return loop(starts[:, None] + steps, num_frames)  # (clips, frames)


def mvit_views(num_frames: int, frames: int, stride: float, clips: int) -> np.ndarray:
    """start_i = i * floor(delta / (clips - 1)), or floor(delta / 2) if clips = 1; (clips, frames).

    delta = max(num_frames - frames * stride, 0). This is SlowFast's `datasets/decoder.py` with
    `USE_OFFSET_SAMPLING: True`, which the Kinetics configurations of MViT and UniFormer set. `stride` need not be
    whole (see `training.protocols.frame_numbers`).
    """
    delta = max(num_frames - frames * stride, 0)
    starts = [i * (delta // (clips - 1)) for i in range(clips)] if clips > 1 else [delta // 2]
    return _slowfast_span(starts, num_frames, frames, stride)


def timesformer_views(num_frames: int, frames: int, stride: int, clips: int) -> np.ndarray:
    """start_i = delta * i / clips, so that a single view begins at frame 0; (clips, frames).

    delta is that of `mvit_views`. This is the rule of the released code (`timesformer/datasets/decoder.py`). The
    paper speaks of a clip from the middle of the video: that is `mvit_views` with clips=1.
    """
    delta = max(num_frames - frames * stride, 0)
    starts = [delta * i / clips for i in range(clips)]
    return _slowfast_span(starts, num_frames, frames, stride)


def _slowfast_span(starts, num_frames: int, frames: int, stride: float) -> np.ndarray:
    """SlowFast's `temporal_sampling`: `frames` points on [start, start + frames * stride - 1]; (clips, frames).

    Neighbours are (frames * stride - 1) / (frames - 1) apart, a little more than `stride`.
    Points past the end are clamped to the last frame (these repositories do not loop).
    """
    points = [torch.linspace(s, s + frames * stride - 1, frames) for s in starts]
    return torch.stack(points).clamp(0, num_frames - 1).long().numpy()  # (clips, frames)


def uniformer_ssv2_views(num_frames: int, frames: int, stride: int, clips: int) -> np.ndarray:
    """UniFormer's test rule for Something-Something (`datasets/sth.py`); (clips, frames).

    Clip c takes frame round(i * s) + floor(s * (c + 1) / (clips + 1)) of segment i, where s is
    (num_frames - 1) / frames. `stride` is not used; it is there so that all rules have the same arguments.
    """
    s = (num_frames - 1) / frames
    firsts = np.round(np.arange(frames) * s).astype(np.int64)
    shifts = (s / (clips + 1) * np.arange(1, clips + 1)).astype(np.int64)
    return firsts + shifts[:, None]  # (clips, frames)


SEGMENT_RULES = {"uniform": uniform_indices, "slowfast_ssv2": slowfast_segments}
VIEW_RULES = {
    "video_swin": video_swin_views,
    "mvit": mvit_views,
    "uniformer": mvit_views,
    "timesformer": timesformer_views,
    "uniformer_ssv2": uniformer_ssv2_views,
}


# ------------------------------------------------------------------------- views


def iter_views(reader: ClipReader, indices: np.ndarray, size: int, crops: int = 3) -> Iterator[Tensor]:
    """The test views of one video: for each row of `indices` (clips, T), 1 or 3 crops.

    Yields uint8 (T, size, size, 3): first all crops of the first clip, then those of the second, and so on. The
    frames are decoded together, and scaled to the short side `size` a few at a time. They are then cropped in the
    centre (1 crop) or at three places along the longer side.
    """
    frames = reader.read(indices.ravel(), lambda few: transforms.resize_short_side(torch.from_numpy(few), size).numpy())
    for small in torch.from_numpy(frames).unflatten(0, indices.shape):  # (T, h, w, C)
        yield from (transforms.three_crops(small, size) if crops == 3 else [transforms.centre_crop(small, size)])


# ------------------------------------------------------------------------- a data set


class Rows(list):
    """Clips that were not read from a manifest file: dicts as `read_manifest` returns. `name` stands in messages."""

    def __init__(self, rows, name: str):
        super().__init__(rows)
        self.name = name

    def __str__(self) -> str:
        return self.name


def read_manifest(path: str | os.PathLike, also: tuple[str, ...] = ()) -> list[dict]:
    """The rows of a `path,label,start,end` CSV as dict(path: str, label: str, start, end).

    Paths are joined to the manifest's folder. Start and end are seconds, or None if empty. If a
    video lies inside another file (see `shards`), its row also has offset and bytes, its place in that file.
    `also`: further columns to keep, as text; a row without such a column gets "".
    A list without a header is read, too (see `read_list`).
    """
    folder, rows, name, remedy = (
        Path(path).parent,
        [],
        f"Manifest {path}",
        "give a CSV file with the header path,label,start,end.",
    )
    need(os.path.exists(path), f"There is no manifest {path} (No such file or directory); {remedy}")
    if is_list(path):
        return read_list(path, also)
    header = csv_header(path, remedy, name)
    if not {"path", "label"} <= set(header):
        raise CourseError(
            f"Manifest {path} has no columns path and label: it begins with {header!r:.200}; "
            "its first line must be path,label,start,end."
        )
    for line, row in read_csv(path, remedy, name):
        if not row["path"] or not row["label"]:
            raise CourseError(
                f"Line {line} of manifest {path} lacks a path or a label; it must read path,label,start,end."
            )
        try:
            start, end = (_seconds(row[key]) if row.get(key) else None for key in ("start", "end"))
            place = {key: _bytes(row[key]) for key in ("offset", "bytes") if row.get("offset") and row.get("bytes")}
        except ValueError as error:
            raise CourseError(
                f"Line {line} of manifest {path} has a bad start or end, offset or bytes "
                f"({error!s:.100}); give seconds, as in 2.5, and whole bytes, or nothing."
            ) from error
        rows.append(
            dict(path=os.path.join(folder, row["path"]), label=row["label"], start=start, end=end)
            | place
            | {key: row.get(key) or "" for key in also}
        )
    if not rows:
        raise CourseError(f"Manifest {path} lists no clips; give each one a line path,label,start,end.")
    return rows


VIDEO = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, SUFFIXES + OTHERS))}))[\s,]+(\S.*)", re.IGNORECASE)
LONGEST = 4096  # characters of a line, as of a path in Linux
FRAMES = re.compile(r"(.+?)[\s,]+(?:(\d+)[\s,]+)?(\d+)")  # for a folder of pictures: no ending


def is_list(path: str | os.PathLike) -> bool:
    """Whether the first line of a file is a line of a list (see `read_list`), not a header."""
    try:
        line = next((line for line in map(str.strip, read_lines(path, "")) if line), "")
    except CourseError:
        return False  # `read_manifest` will raise the error with its cause
    first = _list_line(line)
    return first is not None and bool(
        first[0].lower().endswith(SUFFIXES + OTHERS) or first[1] or os.path.isdir(_finder(path)(first[0]))
    )


def read_list(path: str | os.PathLike, also: tuple[str, ...] = ()) -> list[dict]:
    """The rows, as `read_manifest` returns them, of a list without a header: lines `PATH LABEL` or `PATH FRAMES LABEL`.

    SlowFast, TimeSformer, UniFormer, VideoMAE and mmaction2 use such lists, with spaces or commas. If all labels are
    numbers, each is the index of its class (see `numbered_classes`). A path is searched for in the list's folder, in
    the folder above it, and in the direct subfolders of both, because the videos often lie beside a folder of lists.
    Raises `CourseError` for a line of another form.
    """
    rows, find = [], _finder(path)
    for number, line in enumerate(
        map(str.strip, read_lines(path, "each line is PATH LABEL or PATH FRAMES LABEL.", f"List {path}")), 1
    ):
        if line and (found := _list_line(line)) is None:
            raise CourseError(
                f"Line {number} of the list {path} is {line[:80]!r}; each line is PATH LABEL or PATH FRAMES LABEL."
            )
        if line:
            name, frames, label = found
            rows.append(
                dict(path=find(name), label=label, start=None, end=None)
                | {key: frames if key == "frames" else "" for key in also}
            )
    return rows


def _finder(path):
    from vt_course.data.folders import Finder, below  # here: `folders` imports this module

    folder = Path(os.path.abspath(path)).parent
    return Finder(folder, *below(folder), folder.parent, *below(folder.parent))


def _list_line(line: str) -> tuple[str, str, str] | None:
    """(path, number of frames or "", label) of a line of a list; None if it is not such a line."""
    if len(line) >= LONGEST:
        return None
    if line.startswith('"') and '"' in line[1:]:  # a quoted path, which may hold commas (CSV)
        name, _, rest = line[1:].partition('"')
        rest = rest.strip(", \t")
    elif found := VIDEO.fullmatch(line):
        name, rest = found[1], found[2].strip()
    elif found := FRAMES.fullmatch(line):
        return found[1], found[2] or "", str(int(found[3]))
    else:
        return None
    numbers = re.split(r"[\s,]+", rest)
    if not all(map(str.isdecimal, numbers)):
        return (name, "", rest) if rest else None
    return (name, "".join(numbers[:-1]), str(int(numbers[-1]))) if len(numbers) < 3 else None


def numbered_classes(labels) -> tuple[str, ...] | None:
    """If all labels are numbers: the classes "0", "1", ..., so that each label is the index of its class. Else None."""
    if not all(map(str.isdecimal, labels)):
        return None
    most = max(map(int, labels))
    if most >= 100_000:
        raise CourseError(f"A list has the label {most}, which would make so many classes; number the classes from 0.")
    return tuple(map(str, range(most + 1)))


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:  # 1e9 s: 30 years; NaN fails, too
        raise ValueError(f"{text} is no place in a video")
    return value


def _bytes(text: str) -> int:
    value = int(text)
    if not 0 <= value < 1 << 60:
        raise ValueError(f"{text} is no place in a file")
    return value


class VideoFolder(torch.utils.data.Dataset):
    """The clips of a manifest (a CSV file, or `Rows`) as samples for a model.

    `ds[index]` or `ds[epoch, index]` is dict(clip, label, index). clip is float32 (C, T, size,
    size), normalised; label is the place of the class name in `classes`. Every random choice is a
    pure function of (seed, epoch, index), so a resumed run sees the same clips.
    A file that cannot be used gives dict(index, error) instead, never the frames of another clip.

    train=True:  a random start (or a random frame of each segment), a random resized crop, and a
                 horizontal flip with probability `flip` (it must be 0 if left and right are classes).
    train=False: the centre of the video (or the middle frame of each segment), short side scaled to
                 `size`, centre crop.
    views=(clips, crops), with train=False: clip is (clips * crops, C, T, size, size), see
                 `iter_views`. `view_rule`, a key of VIEW_RULES, says where the clips are.

    `sampling`: "dense" (`frames` frames, `stride` apart) or a key of SEGMENT_RULES, which ignores
    `stride`. `short_side`: scale while decoding (see ClipReader); None decodes at the size of the file, which
    is faster for files that are small already. In training, frames with more than twice the short side `enough`, such
    as a phone's, are scaled to `enough` while they are decoded. `scale`, `ratio`: area and aspect ratio of the
    random crop (the published Kinetics recipes have scale (0.08, 1)). The process that asks for a
    sample opens the file, so DataLoader workers are safe, also forked ones. `augment`: what else changes a clip in
    training. `mean`, `std`: of the pixels from 0 to 1, in the order of the colours, which is red, green, blue, or with
    `bgr` blue first. `decoder`: whose pixels are read, see `ClipReader`; one that is not installed is a `CourseError`.
    """

    def __init__(
        self,
        manifest,
        *,
        classes,
        frames: int,
        stride: int,
        size: int,
        train: bool,
        sampling: str = "dense",
        seed: int = 0,
        short_side: int | None = None,
        scale=(0.5, 1.0),
        ratio=(3 / 4, 4 / 3),
        flip: float = 0.0,
        augment: Augment | None = None,
        views: tuple[int, int] | None = None,
        view_rule: str = "video_swin",
        mean=transforms.IMAGENET_MEAN,
        std=transforms.IMAGENET_STD,
        bgr: bool = False,
        decoder: str = "pyav",
    ):
        need_decoder(decoder)
        if min(frames, stride, size) < 1:
            raise CourseError(
                f"frames={frames}, stride={stride}, size={size}: each counts frames or pixels and must be 1 or more."
            )
        if sampling not in ("dense", *SEGMENT_RULES):
            raise CourseError(f"sampling={sampling!r} is unknown; choose dense or one of {', '.join(SEGMENT_RULES)}.")
        if views and (train or views[0] < 1 or views[1] not in (1, 3) or sampling != "dense" and views[0] != 1):
            raise CourseError(
                f"views={views} must be (clips, 1 or 3 crops), for testing only, "
                "with one clip where the frames come from segments."
            )
        if view_rule not in VIEW_RULES:
            raise CourseError(f"view_rule={view_rule!r} is unknown; choose one of {', '.join(VIEW_RULES)}.")
        self.rows = manifest if isinstance(manifest, Rows) else read_manifest(manifest)
        self.classes = tuple(classes)
        number = {name: k for k, name in enumerate(self.classes)}
        unknown = sorted({row["label"] for row in self.rows} - set(number))
        if unknown:
            raise CourseError(
                f"Manifest {manifest} has labels ({', '.join(unknown[:3])}) that "
                f"are not among the classes ({', '.join(self.classes[:8])}); "
                "correct the manifest or the classes."
            )
        self.labels = [number[row["label"]] for row in self.rows]
        self.frames, self.stride, self.size, self.sampling = frames, stride, size, sampling
        self.train, self.seed, self.short_side = train, seed, short_side
        self.enough = math.ceil(2 * size / math.sqrt(scale[0]))  # of it the smallest crop is about twice the input
        self.scale, self.ratio, self.flip, self.augment = scale, ratio, flip, augment or Augment()
        self.views, self.view_rule, self.mean, self.std = views, view_rule, mean, std
        self.bgr, self.decoder = bgr, decoder

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        index = range(len(self))[index]
        rng = np.random.default_rng((self.seed, epoch, index))
        try:
            return dict(clip=self._clip(self.rows[index], rng), label=self.labels[index], index=index)
        except BadClip as error:
            return dict(index=index, error=str(error))

    def _open(self, row: dict) -> ClipReader:
        span = (row["offset"], row["bytes"]) if "offset" in row else None
        return ClipReader(row["path"], self.short_side, span, decoder=self.decoder)

    def _range(self, reader: ClipReader, row: dict) -> tuple[int, int]:
        """The frames of the video that belong to a row: the first one, and the one after the last."""
        if row["start"] is None and row["end"] is None:
            return 0, reader.num_frames
        return reader.frame_range(row["start"], row["end"])

    def _clip(self, row: dict, rng) -> Tensor:
        reader = self._open(row)
        first, stop = self._range(reader, row)
        indices = first + self._indices(stop - first, rng)
        if self.views:
            views = iter_views(reader, np.atleast_2d(indices), self.size, self.views[1])
            return torch.stack([self._floats(view) for view in views])  # (V, C, T, H, W)
        if self.train and self.short_side is None and min(reader.stored) > 2 * self.enough:
            reader.at_most(self.enough)
        return self._view(torch.from_numpy(reader.read(indices)), rng)

    def _view(self, clip: Tensor, rng) -> Tensor:
        """One square view of a clip uint8 (T, H, W, C): a random one in training, else the centre."""
        if not self.train:
            clip = transforms.resize_short_side(clip, self.size)
            return self._floats(transforms.centre_crop(clip, self.size))
        clip = transforms.random_resized_crop(clip, self.size, rng, self.scale, self.ratio)
        flipped = rng.random() < self.flip
        clip = self.augment.change(transforms.horizontal_flip(clip) if flipped else clip, rng)
        return self.augment.erase(self._floats(clip), rng)

    def _indices(self, num_frames: int, rng) -> np.ndarray:
        """The frame numbers of a sample: (T,), or (clips, T) if `views` was given and sampling is dense."""
        if self.sampling in SEGMENT_RULES:
            rule = SEGMENT_RULES[self.sampling]
            return rule(num_frames, self.frames, rng if self.train else None)
        if self.views:
            rule = VIEW_RULES[self.view_rule]
            return rule(num_frames, self.frames, self.stride, self.views[0])
        position = "random" if self.train else "centre"
        return dense_indices(num_frames, self.frames, self.stride, position, rng)

    def _floats(self, clip: Tensor) -> Tensor:
        return transforms.normalise(clip, self.mean, self.std, self.bgr)  # (C, T, H, W)


def collate(samples: list[dict]) -> dict:
    """Samples -> dict(clip (B, C, T, H, W), label (B,), index (B,), bad=[(index, sentence), ...]).

    B counts the good samples only. If there are none, clip is None.
    """
    good = [sample for sample in samples if "error" not in sample]
    return dict(
        clip=torch.stack([sample["clip"] for sample in good]) if good else None,
        label=torch.tensor([sample["label"] for sample in good], dtype=torch.int64),
        index=torch.tensor([sample["index"] for sample in good], dtype=torch.int64),
        bad=[(sample["index"], sample["error"]) for sample in samples if "error" in sample],
    )
