"""Figures of an explanation: its shares over the frames of a clip, as a film strip and as a moving picture."""

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image as Picture
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from vt_course import CourseError
from vt_course.lab.show.clips import frames_of, play, thumbnails
from vt_course.lab.show.style import COLOURS, MARKERS, array, bare, figure, headline, wrapped

MAP = "cividis"  # looks the same to readers with and without colour blindness, and is a ramp of greys in print


def overlaid(clip, shares) -> np.ndarray:
    """The frames in grey, tinted by the shares of a map (t, h, w), uint8 (T, H, W, 3): the yellower, the larger.

    Each place of the map is one box of one tint, as fine as the explanation is. Where the share is small, the tint is
    thin and the picture shows. The largest share of the map has the fullest tint. Raises CourseError for shares that
    are no map or negative.
    """
    frames, shares = frames_of(clip), array(shares).astype(float)
    if shares.ndim != 3 or shares.min() < 0:
        raise CourseError(
            f"shares are a map (t, h, w) of numbers of at least 0, not {shares.shape}: is a relu missing?"
        )
    if any(places > pixels for places, pixels in zip(shares.shape, frames.shape)):
        raise CourseError(f"the map {shares.shape} has more steps than the clip has frames, or more places than pixels")
    at = [np.arange(n) * m // n for n, m in zip(frames.shape[:3], shares.shape)]  # the place of each pixel
    level = (shares / max(shares.max(), 1e-12))[np.ix_(*at)][..., None]  # (T, H, W, 1)
    grey = frames.mean(-1, keepdims=True) / 255
    tint = plt.get_cmap(MAP)(level[..., 0])[..., :3]  # (T, H, W, 3)
    part = 0.25 + 0.5 * level
    return (255 * ((1 - part) * grey + part * tint)).round().astype(np.uint8)


@figure
def explanation(clip, shares, title: str | None = None, caveat: str | None = None, n: int = 8) -> Figure:
    """`n` evenly spaced frames of a clip, and below each the same frame under the shares of an explanation.

    `clip`: uint8 (T, H, W, 3) or normalised float (3, T, H, W). `shares`: (t, h, w), see `overlaid`. Above each column
    stands how much of all shares lies in its time step. `caveat`: what the picture does not say, written below it.
    """
    frames, tinted, shares = frames_of(clip), overlaid(clip, shares), array(shares).astype(float)
    picks = np.unique(np.linspace(0, len(frames) - 1, n).round().astype(int))
    side = min(1.9, 9 / len(picks))
    note = wrapped(caveat, 105) if caveat else ""
    lines = note.count("\n") + 1 if note else 0
    fig, grid = plt.subplots(
        2,
        len(picks),
        squeeze=False,
        figsize=(10, 2 * side * frames.shape[1] / frames.shape[2] + 0.8 + 0.35 * bool(title) + 0.2 * lines),
    )
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0, hspace=0)
    small = zip(*[thumbnails(each[picks], 45_000 // len(picks)) for each in (frames, tinted)])
    for column, i, pictures in zip(grid.T, picks, small):
        step = i * len(shares) // len(frames)
        for axes, picture in zip(column, pictures):
            axes.imshow(picture, interpolation="nearest")
            bare(axes)
        column[0].set_title(f"frame {i}", size=11, pad=3)
        column[1].set_title(f"step {step}: {100 * shares[step].sum():.0f} %", size=11, pad=3)
    legend = fig.colorbar(ScalarMappable(cmap=MAP), ax=list(grid.flat), ticks=[0, 1], shrink=0.8, aspect=14, pad=0.01)
    legend.ax.set_yticklabels(["no share", "largest"])
    if note:
        fig.supxlabel(note, size=11, x=0.01, ha="left")
    headline(fig, title)
    return fig


def play_explanation(clip, shares, fps: float = 8, width: int = 336) -> Picture:
    """The frames under the shares of an explanation (see `overlaid`) as a moving picture that repeats."""
    return play(overlaid(clip, shares), fps, width)


@figure
def cascades(rows: dict, title: str | None = None) -> Figure:
    """How an explanation changes while a model loses its weights, the classifier's first: a line for each method.

    `rows`: name -> {part of the model: rank correlation with the true picture}, as the proofs in `results/explain.json`
    have them under `cascade`. A line that stays at 1 shows nothing of what was learnt above that part.
    """
    parts = list(next(iter(rows.values())))
    fig, axes = plt.subplots(figsize=(10, 4 + 0.35 * bool(title)))
    for (name, values), colour, marker in zip(rows.items(), COLOURS, MARKERS):
        if list(values) != parts:
            raise CourseError(f"{name} has other parts than the first row: draw the methods of one model")
        axes.plot(range(len(parts) + 1), [1, *values.values()], color=colour, marker=marker, label=name)
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set_xticks(range(len(parts) + 1), ["none", *parts], rotation=30, ha="right")
    axes.set(ylim=(-0.6, 1.08), xlabel="random down to", ylabel="rank correlation")
    axes.legend()
    headline(fig, title)
    return fig
