"""Spatial views of a clip: resize, crops, flip, and the step from bytes to normalised floats.

A clip stays uint8 `(T, H, W, 3)` until the last step, `normalise`. It is cropped first, so that fewer numbers
must be converted to floats. Random functions take a `numpy.random.Generator`, so a view is a pure
function of its seed.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vt_course import CourseError
from vt_course.data.reader import scaled_size

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def resize(clip: Tensor, height: int, width: int, antialias: bool = True) -> Tensor:
    """Bilinear resizing on bytes: uint8 (T, H, W, 3) -> (T, height, width, 3). With antialiasing it is that of PIL."""
    if clip.shape[1:3] == (height, width):
        return clip
    x = clip.permute(0, 3, 1, 2)  # (T, C, H, W), channels last
    x = F.interpolate(x, (height, width), mode="bilinear", antialias=antialias)
    return x.permute(0, 2, 3, 1)  # (T, H, W, C)


def resize_short_side(clip: Tensor, size: int) -> Tensor:
    """Scale so that the short side is `size`. The aspect ratio is kept (see `scaled_size`)."""
    return resize(clip, *scaled_size(*clip.shape[1:3], size))


def crop(clip: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    return clip[:, top : top + height, left : left + width]  # (T, h, w, C)


def centre_crop(clip: Tensor, size: int) -> Tensor:
    """The size x size square in the middle. If a margin is odd, the extra pixel is on the right or at the bottom."""
    top, left = _margins(clip, size)
    return crop(clip, top // 2, left // 2, size, size)


def three_crops(clip: Tensor, size: int) -> list[Tensor]:
    """Three squares along the longer side: left, centre, right (or top, centre, bottom).

    The test crops of Video Swin (`ThreeCrop` of mmaction, which lists the centre last), and of
    SlowFast and TimeSformer (`uniform_crop`). Along the shorter side they are centred. If the margin is odd, each
    of the two has one crop that begins one pixel elsewhere: `training.protocols.boxes` has their own rules.
    """
    top, left = _margins(clip, size)
    if left >= top:
        return [crop(clip, top // 2, x, size, size) for x in (0, left // 2, left)]
    return [crop(clip, y, left // 2, size, size) for y in (0, top // 2, top)]


def _margins(clip: Tensor, size: int) -> tuple[int, int]:
    """The numbers of rows and columns outside a crop of `size`. Raises CourseError if the clip is smaller."""
    height, width = clip.shape[1:3]
    if size < 1 or size > min(height, width):
        raise CourseError(
            f"A crop of {size}x{size} does not fit into frames of "
            f"{height}x{width}; scale the short side to the crop size first."
        )
    return height - size, width - size


def random_box(height: int, width: int, rng, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the random box of the Inception crop.

    Its share of the area is uniform in `scale`; width / height is log-uniform in `ratio`. If ten boxes in a row
    do not fit, the largest central box with an allowed ratio is taken, as in
    `torchvision.transforms.RandomResizedCrop`.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    aspect = min(max(width / height, ratio[0]), ratio[1])
    h, w = min(height, round(width / aspect)), min(width, round(height * aspect))
    return (height - h) // 2, (width - w) // 2, h, w


def random_resized_crop(clip: Tensor, size: int, rng, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)) -> Tensor:
    """One random box for all frames of the clip, resized to size x size."""
    return resize(crop(clip, *random_box(*clip.shape[1:3], rng, scale, ratio)), size, size)


def horizontal_flip(clip: Tensor) -> Tensor:
    """Mirror left and right. Do not use it if classes differ in their direction."""
    return clip.flip(2)  # (T, H, W, C)


def normalise(clip: Tensor, mean=IMAGENET_MEAN, std=IMAGENET_STD, bgr: bool = False) -> Tensor:
    """uint8 (T, H, W, C) -> float32 (C, T, H, W), contiguous: (x / 255 - mean) / std, with `bgr` blue first."""
    mean, std = torch.tensor(mean), torch.tensor(std)
    x = (clip.flip(-1) if bgr else clip).permute(3, 0, 1, 2)  # (C, T, H, W)
    x = x.to(torch.float32, memory_format=torch.contiguous_format)
    return x.mul_((1 / (255 * std)).view(-1, 1, 1, 1)).sub_((mean / std).view(-1, 1, 1, 1))
