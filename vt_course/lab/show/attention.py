"""Figures of attention: its weights as a matrix and over frames, and the shapes of the tensors inside a layer."""

from math import prod

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vt_course import CourseError
from vt_course.colours import BLUE, ORANGE, SKY, VERMILION
from vt_course.lab.show.clips import frames_of
from vt_course.lab.show.style import array, bare, figure, headline, panels


def shares(weights, what: str) -> np.ndarray:
    """The attention weights of one query as an array. Raises CourseError unless none is negative and they sum to 1."""
    weights = array(weights).astype(float)
    if weights.min() < 0 or abs(weights.sum() - 1) > 1e-3:
        raise CourseError(
            f"{what} must be shares that sum to 1, not {weights.sum():.4g} with a minimum of "
            f"{weights.min():.4g}: is it the softmax over the keys?"
        )
    return weights


@figure
def attention_matrices(weights, title=None, every: int | None = None, width: float | None = None) -> Figure:
    """One panel for each (N, N) matrix of weights. Rows are queries, columns are keys; white is 0, darker is larger.

    `every`: draw a line after each `every` tokens, for instance after the tokens of a frame. `width`: of the figure in
    inches. All panels share one scale, so they can be compared. Raises CourseError for anything but square matrices.
    """
    matrices, titles, heading = panels(weights, title)
    for m in matrices:
        if m.ndim != 2 or m.shape[0] != m.shape[1]:
            raise CourseError(f"attention among N tokens is a matrix (N, N), not {m.shape}")
    top = max(m.max() for m in matrices)
    low = min(0, min(m.min() for m in matrices))
    width = width or (10 if len(matrices) > 1 else 5.6)
    side = (width - 1.1) / len(matrices)
    fig, grid = plt.subplots(
        1, len(matrices), squeeze=False, figsize=(width, min(side, 5) + 0.9 + 0.35 * bool(heading))
    )
    for axes, m, name in zip(grid[0], matrices, titles):
        image = axes.imshow(m, cmap="Blues" if low == 0 else "cividis", vmin=low, vmax=top if top > low else low + 1)
        axes.set(xlabel="key", ylabel="query", xticks=[], yticks=[])
        axes.set_title(name)
        for edge in range(every or len(m), len(m), every or len(m)):
            axes.axhline(edge - 0.5, color=VERMILION, linewidth=1.2)
            axes.axvline(edge - 0.5, color=VERMILION, linewidth=1.2)
    fig.colorbar(image, ax=list(grid[0]), label="weight" if low == 0 else "value", shrink=0.8)
    headline(fig, heading)
    return fig


@figure
def attention_over_frames(clip, weights, query, rows: list[str] | None = None, title: str | None = None) -> Figure:
    """The attention weights of one query token, drawn over the frames: the redder a token, the larger its weight.

    `clip`: uint8 (T, H, W, 3) or normalised float (3, T, H, W). `weights`: (t, h, w), or (rows, t, h, w) for several
    heads or layers, named by `rows`; each sums to 1. `query`: (t, h, w), the place of the query token, which gets a
    black and white frame. There is one column for each of the t time steps. It shows the middle frame of the time
    step and, below its title, the share of the weight in this time step. Colours are scaled to the largest weight
    of each row.
    """
    frames = frames_of(clip)
    maps = array(weights)
    maps = maps[None] if maps.ndim == 3 else maps
    if maps.ndim != 4:
        raise CourseError(f"weights over frames are (t, h, w) or (rows, t, h, w), not {maps.shape}")
    maps = [shares(m, "the weights of a query") for m in maps]
    steps, height, width = maps[0].shape
    if not all(0 <= q < n for q, n in zip(query, maps[0].shape)):
        raise CourseError(f"the query {tuple(query)} lies outside the map {maps[0].shape}")
    if rows is not None and len(rows) != len(maps):
        raise CourseError(f"{len(rows)} row names for {len(maps)} rows: give one each")
    margin = 0.1 * max(map(len, rows or [""]))
    cell = min(2.3, (10 - margin) / steps)
    fig, grid = plt.subplots(
        len(maps),
        steps,
        squeeze=False,
        figsize=(
            cell * steps + margin,
            len(maps) * (cell * frames.shape[1] / frames.shape[2] + 0.3) + 0.3 + 0.35 * bool(title),
        ),
    )
    fig.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.01, hspace=0.01)
    box = (frames.shape[2] / width, frames.shape[1] / height)  # (width, height) of one token, in pixels
    for r, m in enumerate(maps):
        for t, axes in enumerate(grid[r]):
            picture = frames[int((t + 0.5) * len(frames) / steps)].mean(-1)
            axes.imshow(picture, cmap="gray", vmin=-60, vmax=300)
            layer = np.zeros((height, width, 4))
            layer[..., :3], layer[..., 3] = to_rgb(VERMILION), 0.85 * m[t] / m.max()
            axes.imshow(
                layer, extent=(-0.5, frames.shape[2] - 0.5, frames.shape[1] - 0.5, -0.5), interpolation="nearest"
            )
            axes.set_title(f"t = {t}: {100 * m[t].sum():.0f} %", size=11, pad=3)
            if t == query[0]:
                corner = query[2] * box[0] - 0.5, query[1] * box[1] - 0.5
                for colour, line in (("white", 5), ("black", 2)):
                    axes.add_patch(Rectangle(corner, *box, fill=False, edgecolor=colour, linewidth=line, clip_on=False))
            bare(axes)
        if rows is not None:
            grid[r, 0].set_ylabel(rows[r], rotation=0, ha="right", va="center")
    headline(fig, title)
    return fig


def amount(size: float) -> str:
    """A number of bytes as text, such as 1.2 MB, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            break
        size /= 1000
    else:
        unit = "TB"
    return f"{size:.3g} {unit}"


@figure
def shape_flow(rows: list[dict], title: str | None = None, counts: bool = True) -> Figure:
    """The tensors inside a layer as a table: name, shape, how many numbers, and their bytes as bars.

    `rows`: dicts with name, axes (the shape in letters, such as "B h N d"), shape, and each (the bytes of one
    number; 4 if it is left out). Bars of the largest tensors are marked. Without `counts` the column of the numbers is
    left out, and the figure is narrower. Raises CourseError if there are no rows.
    """
    if not rows:
        raise CourseError("a flow needs at least one row")
    sizes = [prod(r["shape"]) * r.get("each", 4) for r in rows]
    second, third, bars = (0.23, 0.355, 0.77) if counts else (0.285, 0.435, 0.7)
    long = 0.92 - bars
    fig, axes = plt.subplots(figsize=(10 if counts else 8, 0.42 * len(rows) + 0.75 + 0.35 * bool(title)))
    for i, (row, size) in enumerate(zip(rows, sizes)):
        shape = " × ".join(f"{n:,}" for n in row["shape"])
        for x, text in ((0, row["name"]), (second, f"({', '.join(row['axes'].split())})"), (third, shape)):
            axes.text(x, i, text, va="center", size=11)
        if counts:
            axes.text(0.745, i, f"{prod(row['shape']):,}", va="center", ha="right", size=11)
        axes.add_patch(
            Rectangle(
                (bars, i - 0.32),
                long * size / max(sizes),
                0.64,
                facecolor=ORANGE if size == max(sizes) else SKY,
                edgecolor="0.2",
                linewidth=0.8,
            )
        )
        axes.text(bars + 0.01 + long * size / max(sizes), i, amount(size), va="center", size=11)
    for x, text, side in (
        (0, "tensor", "left"),
        (second, "axes", "left"),
        (third, "shape", "left"),
        *([(0.745, "numbers", "right")] if counts else []),
        (bars, "bytes", "left"),
    ):
        axes.text(x, -1, text, va="center", ha=side, size=11, weight="bold", color=BLUE)
    axes.axhline(-0.5, color="0.5", linewidth=0.8)
    axes.set(xlim=(0, 1.03), ylim=(len(rows) - 0.4, -1.5))
    bare(axes)
    headline(fig, title)
    return fig
