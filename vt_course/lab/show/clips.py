"""Figures of clips: film strips."""
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from vt_course import CourseError
from vt_course.data.transforms import IMAGENET_MEAN, IMAGENET_STD, resize

from .style import array, bare, figure, headline


def frames_of(clip) -> np.ndarray:
    """A clip, uint8 (T, H, W, 3) or normalised float (C, T, H, W), as uint8 (T, H, W, 3)."""
    clip = array(clip)
    if clip.ndim == 4 and clip.dtype == np.uint8 and clip.shape[3] == 3:
        return clip
    if clip.ndim == 4 and clip.dtype.kind == "f" and clip.shape[0] == 3:
        clip = clip.transpose(1, 2, 3, 0) * IMAGENET_STD + IMAGENET_MEAN     # (T, H, W, C)
        return (clip * 255).round().clip(0, 255).astype(np.uint8)
    raise CourseError(f"a clip is uint8 (T, H, W, 3) or float (3, T, H, W), "
                      f"not {clip.dtype} {clip.shape}")


def thumbnails(frames: np.ndarray, pixels: int) -> np.ndarray:
    """Frames of at most `pixels` pixels and 32 levels a colour: keeps a strip near 150 kB."""
    height, width = frames.shape[1:3]
    scale = min(1, (pixels / (height * width)) ** 0.5)
    size = [max(1, round(scale * side)) for side in (height, width)]
    small = resize(torch.from_numpy(frames), *size)                # (n, h, w, 3)
    return small.numpy() // 8 * 8 + 4


@figure
def film_strip(clip, n: int = 8, title: str | None = None,
               rows: list[str] | None = None) -> Figure:
    """`n` evenly spaced frames of a clip, or of several clips, one strip each, named by `rows`.

    A clip is uint8 (T, H, W, 3), or float (3, T, H, W) normalised with ImageNet's mean and
    standard deviation, which is undone. Raises `CourseError` for anything else.
    """
    clips = [frames_of(c) for c in (clip if isinstance(clip, (list, tuple)) else [clip])]
    if rows is not None and len(rows) != len(clips):
        raise CourseError(f"{len(rows)} row names for {len(clips)} clips: give one each")
    picks = [np.unique(np.linspace(0, len(c) - 1, n).round().astype(int)) for c in clips]
    columns = max(map(len, picks))
    margin = 0.1 * max(map(len, rows or [""]))              # inches, for the row names
    heights = [(10 - margin) / columns * c.shape[1] / c.shape[2] for c in clips]
    height = sum(heights) + 0.06 * len(clips) + 0.4 + 0.3 * bool(title)
    fig, grid = plt.subplots(len(clips), columns, squeeze=False, height_ratios=heights,
                             figsize=(10, height))
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for r, (frames, pick) in enumerate(zip(clips, picks)):
        small = thumbnails(frames[pick], 90_000 // grid.size)
        for axes in grid[r]:
            bare(axes)
        for axes, i, image in zip(grid[r], pick, small):
            axes.imshow(image, interpolation="nearest")
            if r == 0 or len(frames) != len(clips[0]):
                axes.set_title(f"frame {i}" if columns <= 8 else f"{i}", size=11, pad=3)
        if rows is not None:
            grid[r, 0].set_ylabel(rows[r], rotation=0, ha="right", va="center")
    headline(fig, title)
    return fig
