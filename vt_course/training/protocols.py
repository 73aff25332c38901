"""Which views of a video a model is tested on: the protocols of the papers, as data and a few functions.

A view is one crop of one clip. A protocol says how many clips and crops a video has, which frames and which pixels they
are, and how the scores of the views become those of the video. How the model was shown videos in training (its clip
length, size, colours) is no part of the protocol. It belongs to the weights: see `Shown`.

Sources: SwinTransformer/Video-Swin-Transformer configs/recognition/swin and mmaction/datasets/pipelines,
facebookresearch/SlowFast slowfast/datasets, Sense-X/UniFormer video_classification, TimeSformer sections 4 and 4.5.
"""

import dataclasses
import math
import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vt_course import CourseError, closest
from vt_course.data import transforms
from vt_course.data.clips import SEGMENT_RULES, VIEW_RULES, VideoFolder, dense_indices
from vt_course.data.reader import ClipReader, scaled_size


@dataclass(frozen=True)
class Shown:
    """How a model is shown a video: what its weights have learnt, whatever the protocol.

    A clip has `frames` frames, `stride` apart (or, unless `sampling` is "dense", one of each segment of the video), of
    size × size pixels. `rate`: if given, `stride` counts frames of a video of so many frames a second, as in SlowFast,
    and the gap of another video is stretched. `keep`: frames are first scaled to this short side, as
    `loading.KeptFrames` does. `antialias`: whether frames are made smaller with antialiasing, as here and in PIL. The
    authors' code does without, by OpenCV or `interpolate`. `mean`, `std`: of the pixels from 0 to 1. `bgr`: blue first.
    """

    frames: int
    stride: float
    size: int
    sampling: str = "dense"
    rate: float | None = None
    keep: int = 0
    antialias: bool = True
    mean: tuple[float, float, float] = transforms.IMAGENET_MEAN
    std: tuple[float, float, float] = transforms.IMAGENET_STD
    bgr: bool = False


@dataclass(frozen=True)
class Protocol:
    """A set of views.

    `time`: "centre", a key of `clips.VIEW_RULES`, or a key of `clips.SEGMENT_RULES`, which takes one frame of each
    segment of the video. `short`: the short side of the frames over the side of the crop. `cut`: the rule of mmaction
    or of SlowFast for sizes and places that are no whole numbers, see `scaled` and `boxes`. `average`: the scores of a
    video are the mean over its views of the "softmax" or of the "logits".
    """

    name: str
    clips: int
    crops: int
    time: str
    short: float
    cut: str
    average: str
    source: str

    @property
    def views(self) -> str:
        return f"{self.clips}x{self.crops}"


WIDE = 256 / 224  # the short side when only the centre is cropped: 256 pixels for a crop of 224
SWIN, SLOWFAST = "SwinTransformer/Video-Swin-Transformer", "facebookresearch/SlowFast"
TIMESFORMER, UNIFORMER = "facebookresearch/TimeSformer", "Sense-X/UniFormer video_classification"

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("centre", 1, 1, "centre", 1.0, "mmaction", "softmax", "the validation of this course"),
        Protocol("swin", 4, 3, "video_swin", 1.0, "mmaction", "softmax", f"{SWIN} configs/recognition/swin"),
        Protocol("swin-ssv2", 1, 3, "slowfast_ssv2", 1.0, "mmaction", "softmax", f"{SWIN} configs/recognition/swin"),
        # The head of MViT applies the softmax in eval mode, and the scores are summed (slowfast/utils/meters.py).
        Protocol("mvit", 5, 1, "mvit", WIDE, "slowfast", "softmax", f"MViT section 4; {SLOWFAST} configs/Kinetics"),
        Protocol("mvit-ssv2", 1, 3, "slowfast_ssv2", 1.0, "slowfast", "softmax", f"{SLOWFAST} datasets/ssv2.py"),
        # The released code begins at frame 0 and sums logits. The paper has a clip from the middle and the softmax.
        Protocol("timesformer", 1, 3, "timesformer", 1.0, "slowfast", "logits", f"{TIMESFORMER}, the released code"),
        Protocol("timesformer-paper", 1, 3, "mvit", 1.0, "slowfast", "softmax", "TimeSformer section 4"),
        Protocol(
            "timesformer-ssv2", 1, 3, "slowfast_ssv2", 1.0, "slowfast", "logits", f"{TIMESFORMER} datasets/ssv2.py"
        ),
        # Its short side is that of the crop, by TRAIN_JITTER_SCALES [224, 224] in test.sh.
        Protocol("uniformer", 4, 1, "uniformer", 1.0, "slowfast", "logits", f"{UNIFORMER}/exp/*_k400/test.sh"),
        Protocol("uniformer-ssv2", 1, 3, "uniformer_ssv2", 1.0, "slowfast", "logits", f"{UNIFORMER}/exp/*_sthv2_*"),
    )
}
SEGMENTS = (*SEGMENT_RULES, "uniformer_ssv2")  # values of `time` that spread the frames over the whole video


def protocol_named(name: str, family: str = "swin") -> Protocol:
    """The protocol with this name; or, of a name such as 4x3, so many clips and crops by the rules of a family.

    For a single crop the frames then have the short side that the family's own test has, for three that of the crop.
    Raises `CourseError` for another name, which the message compares with those that there are.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    if not (views := re.fullmatch(r"([1-9]\d?)x(\d+)", name)):
        raise CourseError(
            f"there is no protocol {name!r}: {closest(name, PROTOCOLS)}, or give clips and crops, as in 4x3"
        )
    return with_views(PROTOCOLS[family], int(views[1]), int(views[2]))


def with_views(protocol: Protocol, clips: int, crops: int) -> Protocol:
    """A protocol with other numbers of clips and crops. Raises `CourseError` for numbers that its rules do not have."""
    if crops not in (1, 3):
        raise CourseError(f"{clips}x{crops} has {crops} crops a clip; the rules that are known have 1 or 3")
    if clips > 1 and protocol.time in SEGMENT_RULES:
        raise CourseError(f"{clips}x{crops} has {clips} clips, but one clip of {protocol.name} spans the whole video")
    short = 1.0 if crops == 3 else protocol.short if protocol.crops == 1 else WIDE
    return dataclasses.replace(protocol, name=f"{protocol.name} {clips}x{crops}", clips=clips, crops=crops, short=short)


def check_sampling(protocol: Protocol, shown: Shown, name) -> None:
    """Raise `CourseError` if a model that learnt from dense clips would see frames of segments, or the other way."""
    spread = protocol.time in SEGMENTS
    if protocol.time != "centre" and spread != (shown.sampling != "dense"):
        fitting = [one.name for one in PROTOCOLS.values() if one.time == "centre" or (one.time in SEGMENTS) != spread]
        has, learnt = ("one frame of each segment", "dense clips")[:: 1 if spread else -1]
        raise CourseError(
            f"the protocol {protocol.name} takes {has} of a video, but {name} has learnt from {learnt}; choose one of "
            f"{', '.join(fitting)}"
        )


# ---------------------------------------------------------------- frames


def frame_numbers(protocol: Protocol, shown: Shown, num_frames: int, fps: float = 30.0) -> np.ndarray:
    """The frames of each clip of a video of `num_frames` frames: (clips, T).

    "centre" is the clip that is seen in validation. For weights with a `rate`, the gap is stretched for videos of
    another number of frames a second (SlowFast's decoder: sampling_rate * num_frames / target_fps * fps).
    """
    if protocol.time == "centre" and shown.sampling == "dense":
        return dense_indices(num_frames, shown.frames, shown.stride)[None]  # (1, T)
    rule = shown.sampling if protocol.time == "centre" else protocol.time
    if rule in SEGMENT_RULES:
        return SEGMENT_RULES[rule](num_frames, shown.frames)[None]  # (1, T)
    stride = shown.stride * fps / shown.rate if shown.rate else shown.stride
    return VIEW_RULES[rule](num_frames, shown.frames, stride, protocol.clips)  # (clips, T)


# ---------------------------------------------------------------- pixels


def scaled(protocol: Protocol, height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) of the frames before the crop of size × size pixels.

    The short side is `protocol.short` times `size`, to the nearest pixel. The long side keeps the aspect ratio.
    mmaction rounds it (`mmcv.rescale_size`); SlowFast drops what is left of a pixel (`random_short_side_scale_jitter`).
    """
    short = round(protocol.short * size)
    if protocol.cut == "mmaction":
        return scaled_size(height, width, short)
    if width < height:
        return math.floor(height / width * short), short
    return short, math.floor(width / height * short)


def boxes(protocol: Protocol, height: int, width: int, size: int) -> list[tuple[int, int]]:
    """(top, left) of the crops of size × size pixels: of one in the centre, or of three along the longer side.

    If the margin is odd, mmaction's centre (`CenterCrop`) is half a pixel before the middle, SlowFast's
    (`uniform_crop`) half a pixel behind. The last of mmaction's three crops (`ThreeCrop`) is twice as far from the
    first as the middle one, so it does not reach the last column; SlowFast's does. The order is: first, middle, last.
    """
    up = protocol.cut == "slowfast"
    top, left = ((side - size + up) // 2 for side in (height, width))
    if protocol.crops == 1:
        return [(top, left)]
    if height > width:
        return [(0, left), (top, left), (height - size if up else 2 * top, left)]
    return [(top, 0), (top, left), (top, width - size if up else 2 * left)]


def read_views(reader: ClipReader, protocol: Protocol, shown: Shown, first: int = 0, stop: int | None = None) -> Tensor:
    """The views of a video, or of its frames `first` to `stop` - 1: uint8 (V, T, size, size, 3), not normalised.

    First all crops of the first clip, then those of the second. Frames are scaled a few at a time while they are
    decoded, so a large video needs no more memory than its small views. Raises `BadClip` for damage.
    """
    stop = reader.num_frames if stop is None else stop
    fps = 30.0 if reader.pictures else reader.fps  # pictures have no times
    indices = first + frame_numbers(protocol, shown, stop - first, fps)  # (clips, T)
    steps, short = [], round(protocol.short * shown.size)
    if shown.keep >= short:  # as in training: two steps make other pixels than one
        steps = [scaled_size(*reader.size, shown.keep)]
        reader.at_most(2 * shown.keep)
    steps.append(scaled(protocol, *(steps[0] if steps else reader.size), shown.size))

    def small(few: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(few)  # (k, H, W, C)
        for height, width in steps:
            x = transforms.resize(x, height, width, shown.antialias)  # (k, h, w, C)
        return x.numpy()

    frames = torch.from_numpy(reader.read(indices.ravel(), small))  # (clips * T, h, w, C)
    corners = boxes(protocol, *frames.shape[1:3], shown.size)
    views = [
        transforms.crop(clip, top, left, shown.size, shown.size)
        for clip in frames.unflatten(0, indices.shape)  # (clips, T, h, w, C)
        for top, left in corners
    ]
    return torch.stack(views)  # (V, T, size, size, C)


def to_floats(views: Tensor, shown: Shown) -> Tensor:
    """Views uint8 (V, T, H, W, 3) as the model takes them: float32 (V, C, T, H, W), normalised."""
    told = dict(mean=shown.mean, std=shown.std, bgr=shown.bgr)
    return torch.stack([transforms.normalise(view, **told) for view in views])  # (V, C, T, H, W)


# ---------------------------------------------------------------- scores


def video_scores(logits: Tensor, average: str) -> Tensor:
    """Log-probabilities of videos, float64 (N, K), from the logits of their views (N, V, K).

    "softmax": of the mean probability of the views. "logits": of the mean of the logits, for which the order of the
    classes is that of the sum.
    """
    logits = logits.double()
    if average == "logits":
        return logits.mean(1).log_softmax(-1)
    return logits.log_softmax(-1).logsumexp(1) - math.log(logits.shape[1])  # no probability underflows


# ---------------------------------------------------------------- the data set


class Views(VideoFolder):
    """A `VideoFolder` whose samples are the views of a protocol: clip is uint8 (V, T, size, size, 3).

    They are normalised just before the model sees them (`to_floats`): as bytes they take a quarter of the memory.
    """

    def __init__(self, manifest, *, classes, protocol: Protocol, shown: Shown, decoder: str = "pyav"):
        made = dict(frames=shown.frames, stride=1, size=shown.size, train=False, decoder=decoder)
        super().__init__(manifest, classes=classes, **made)
        self.protocol, self.shown, self.views = protocol, shown, (protocol.clips, protocol.crops)

    def _clip(self, row, rng):
        reader = self._open(row)
        return read_views(reader, self.protocol, self.shown, *self._range(reader, row))
