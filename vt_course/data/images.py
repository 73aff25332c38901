"""Single images for the image models: one bright shape on a dark background, drawn when it is needed.

The label is the outline of the shape, which is no label of the embedded clips: 1,600 clips show 1,600 outlines, too
few to learn the eight shapes. Here an image is drawn in about a millisecond, so training sees a new image each time.

The task can be learned in minutes on one core. The shape has one colour, fills much of the image, lies wholly inside it
and is brighter than the background. Random are its place, its size (the disc of the same area
has a radius of 0.22 to 0.30 of the image's side), its rotation, both colours, the background and
some noise. Harder settings were tried with one run each. With any colour on any background, `swin_mini` was
still at chance after 8,000 images (at twice the learning rate). With smaller bright shapes (radius
0.16 to 0.28), it was at 31 %. With the present settings, it was at 57 %.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from vt_course import CourseError
from vt_course.data import transforms
from vt_course.data.synthetic import ANGLES, OUTLINES, SPLITS, _clouds, _muted, _outline, _rgb

SHAPES = OUTLINES
VERSION = 1  # version of the drawing; raise it if the same key gives other pixels
COUNTS = {"train": 4000, "val": 1000, "test": 2000}  # images an epoch, held-out images

outline = functools.cache(_outline)  # (ANGLES,) distance from centre to outline; the area is pi


def draw(shape: str, size: int, key: tuple[int, ...]) -> np.ndarray:
    """One image, uint8 (size, size, 3), size even: a pure function of its arguments."""
    rng = np.random.default_rng(key)
    radius = rng.uniform(0.22, 0.30) * size  # pixels
    reach = radius * outline(shape).max()
    x, y = rng.uniform(reach, size - reach, 2)
    turn = rng.random()
    colour = _rgb(rng.random(), rng.uniform(0.1, 0.5), 1.0)  # (3,)
    image = 0.5 * background(rng, size)  # (S, S, 3)

    grid = np.arange(size, dtype=np.float32) + 0.5
    dx, dy = grid[None] - np.float32(x), grid[:, None] - np.float32(y)  # (1, S), (S, 1)
    angle = np.arctan2(dy, dx) / np.float32(2 * np.pi) + np.float32(0.5 - turn)  # (S, S) turns
    edge = radius * outline(shape)[np.floor(angle * ANGLES).astype(np.int32) % ANGLES]
    cover = np.clip(edge - np.hypot(dx, dy) + 0.5, 0, 1)[..., None]  # (S, S, 1), a soft edge
    image += cover * (colour - image)
    image += rng.normal(0, 0.02, (size, size, 1))
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A smooth random pattern around a muted colour: (S, S, 3)."""
    cloud = _clouds(rng, size, 2, 2.5)  # (2, S, S)
    base, tint = _muted(rng)
    image = base + cloud[0, ..., None] * 0.07 + cloud[1, ..., None] * 0.09 * tint
    return image.astype(np.float32)


class Shapes(torch.utils.data.Dataset):
    """Images as samples for a model: dict(clip, label, index), as `VideoFolder` gives them.

    clip is float32 (3, 1, size, size), normalised: a clip of one frame. label is the place of
    the shape in `SHAPES`. Of each eight neighbouring images, every shape occurs once. `ds[epoch, index]` of the
    "train" split is another image in each epoch and for each `seed`. The "val" and "test" splits have the
    same images for every seed and epoch. None of them is drawn in training, because the split is part of the key of
    the random numbers.

    Raises `CourseError` for an unknown split, for a size that is odd or below 32, and for fewer than 8 images.
    """

    classes, views = SHAPES, None

    def __init__(self, split: str, *, size: int, seed: int = 0, count: int | None = None):
        count = COUNTS.get(split, 0) if count is None else count
        if split not in SPLITS or size < 32 or size % 2 or count < len(SHAPES):
            raise CourseError(
                f"split={split!r}, size={size}, count={count}: choose train, val or test, an even "
                "number of at least 32 pixels and at least 8 images."
            )
        self.split, self.size, self.seed, self.count = split, size, seed, count

    def __len__(self) -> int:
        return self.count

    def image(self, index: int, epoch: int = 0) -> np.ndarray:
        """Image number `index` of an epoch, uint8 (size, size, 3)."""
        key = (self.seed, 0, epoch, index) if self.split == "train" else (0, SPLITS.index(self.split), 0, index)
        return draw(SHAPES[index % len(SHAPES)], self.size, key)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        index = range(len(self))[index]
        image: Tensor = torch.from_numpy(self.image(index, epoch))  # (H, W, C)
        return dict(clip=transforms.normalise(image[None]), label=index % len(SHAPES), index=index)
