"""Figures for notebook cells: each function draws the reader's own arrays, returns the figure.

What is drawn is what was given: a partition with the wrong axis order comes out scattered, a
roll with the wrong sign puts the regions on the wrong side. Arrays are NumPy's or PyTorch's.

    python -m vt_course.lab.show        # draws notebooks/img/windows_27.png again
"""
from functools import wraps
from io import BytesIO
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Polygon, Rectangle
from PIL import Image

from vt_course import CourseError, repo_root
from vt_course.data.transforms import IMAGENET_MEAN, IMAGENET_STD, resize

# Okabe and Ito's colours: told apart by every kind of colour vision. Markers, line styles,
# borders and numbers say the same thing again in greyscale.
BLUE, YELLOW, VERMILION, SKY, GREEN, ORANGE, PINK = (
    "#0072B2", "#F0E442", "#D55E00", "#56B4E9", "#009E73", "#E69F00", "#CC79A7")
COLOURS = [BLUE, ORANGE, GREEN, VERMILION, SKY, PINK, "black", YELLOW]
MARKERS = "osD^vPX*"
ALLOWED, FORBIDDEN = "#FFFFFF", "#0B3C5D"

STYLE = {
    "figure.dpi": 110, "savefig.dpi": "figure", "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.07, "figure.constrained_layout.w_pad": 0.06,
    "font.size": 12, "axes.titlesize": 13, "figure.titlesize": 14, "axes.labelsize": 12,
    "xtick.labelsize": 11, "ytick.labelsize": 11, "legend.fontsize": 11,
    "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
    "grid.alpha": 0.3, "grid.color": "0.5",
}


def figure(draw):
    """Give `draw` the house style and close its figure: a cell ending in it shows it once."""
    @wraps(draw)
    def drawn(*args, **kwargs) -> Figure:
        before = set(plt.get_fignums())
        with plt.style.context(["default", STYLE]):
            try:
                return draw(*args, **kwargs)
            finally:
                for number in set(plt.get_fignums()) - before:
                    plt.close(number)
    return drawn


def array(x) -> np.ndarray:
    return np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)


def panels(arrays, title) -> tuple[list[np.ndarray], list[str], str | None]:
    """One array or several, one title or one each -> (arrays, titles, title of the figure)."""
    several = isinstance(arrays, (list, tuple)) and np.ndim(array(arrays[0])) > 1
    arrays = [array(a) for a in (arrays if several else [arrays])]
    if isinstance(title, (list, tuple)):
        if len(title) != len(arrays):
            raise CourseError(f"{len(title)} titles for {len(arrays)} panels: give one each")
        return arrays, list(title), None
    return arrays, [""] * len(arrays), title


def headline(fig: Figure, title: str | None) -> None:
    """The figure's title, broken into lines that fit its width."""
    if title:
        fig.suptitle(fill(title, int(8.5 * fig.get_figwidth())))


def ink(colour) -> str:
    """Black or white, whichever reads better on `colour` (WCAG relative luminance)."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ [0.2126, 0.7152, 0.0722] > 0.18 else "white"


def number_cells(axes, values: np.ndarray, colours) -> None:
    """Write each value of a 2-D array into its cell, in an ink that reads on its colour."""
    for (i, j), value in np.ndenumerate(values):
        colour = ink(colours[i, j, :3])
        axes.text(j, i, f"{value}", ha="center", va="center", size=11, color=colour)


def bare(axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


# ---------------------------------------------------------------- clips

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


# ---------------------------------------------------------------- windows, regions, masks

def split(cells: np.ndarray) -> list[np.ndarray]:
    """Token positions (n, 3) of one group -> boxes, each as its positions.

    A group that fills its bounding box is one box. Any other falls into its connected parts,
    and a part that is no box falls into single tokens: a wrong partition must not look like a
    right one.
    """
    def is_box(part):
        return len(part) == np.prod(np.ptp(part, axis=0) + 1)

    if is_box(cells):
        return [cells]
    left, boxes = set(map(tuple, cells.tolist())), []
    while left:
        part = [left.pop()]
        for t, h, w in part:                                # grows while it is walked
            near = {(t - 1, h, w), (t, h - 1, w), (t, h, w - 1),
                    (t + 1, h, w), (t, h + 1, w), (t, h, w + 1)}
            part += sorted(near & left)
            left -= near
        part = np.array(sorted(part))
        boxes += [part] if is_box(part) else list(part[:, None])
    return boxes


def project(points) -> np.ndarray:
    """Positions (..., (t, h, w)) -> (..., (x, y, depth)), parallel projection.

    Frame t = 0 faces the viewer, rows run down, columns to the right, time runs into the
    picture; the viewer stands a little to the right of it and above. Smaller depth is nearer.
    """
    turn, tilt = np.radians(36), np.radians(27)
    t, h, w = np.moveaxis(np.asarray(points, float), -1, 0)
    back = t * np.cos(turn) - w * np.sin(turn)
    return np.stack([w * np.cos(turn) + t * np.sin(turn),
                     back * np.sin(tilt) - h * np.cos(tilt),
                     back * np.cos(tilt) + h * np.sin(tilt)], -1)


# The faces of a unit cube that `project` can see: step to the neighbour that would hide it,
# corners, and the shading: the grey to mix in and how much of it.
FACES = [
    ((-1, 0, 0), [(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0)], 1.0, 0.0),        # front, t = 0
    ((0, -1, 0), [(0, 0, 0), (0, 0, 1), (1, 0, 1), (1, 0, 0)], 1.0, 0.35),       # top, h = 0
    ((0, 0, 1), [(0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)], 0.0, 0.25),        # right, last w
]


def place_boxes(boxes: list[np.ndarray], gap: float) -> list[np.ndarray]:
    """Where each token's corner goes when boxes move apart around 0: float (n, 3) per box.

    Along each axis boxes keep their order, and each start that occurs adds one gap: `gap` times
    the mean distance between starts. So boxes never meet, whatever the partition.
    """
    starts = np.array([box.min(0) for box in boxes])                               # (boxes, 3)
    size = np.max([box.max(0) + 1 for box in boxes], axis=0)
    order = np.stack([np.unique(s, return_inverse=True)[1] for s in starts.T], -1)
    step = gap * size / (order.max(0) + 1)
    placed = [box + step * place for box, place in zip(boxes, order)]
    middle = np.max([p.max(0) + 1 for p in placed], axis=0) / 2
    return [p - middle for p in placed]


def draw_boxes(axes, boxes: list[np.ndarray], placed: list[np.ndarray], colours: list) -> None:
    """The visible face of every token at the surface of its box, far tokens first."""
    faces = []                                              # (depth, corners, colour)
    for box, where, colour in zip(boxes, placed, colours):
        inside = set(map(tuple, box.tolist()))
        for token, corner in zip(box, where):
            for step, corners, grey, amount in FACES:
                if tuple(token + step) not in inside:
                    face = np.array(to_rgb(colour)) * (1 - amount) + grey * amount
                    depth = project(corner + 0.5)[2]        # of the token's centre
                    faces.append((depth, project(corner + corners)[:, :2], face))
    faces.sort(key=lambda face: -face[0])
    _, polygons, fills = zip(*faces)
    lines = [0.55 * f if ink(f) == "black" else 0.55 * f + 0.45 for f in np.array(fills)]
    axes.add_collection(PolyCollection(polygons, facecolors=fills, edgecolors=lines,
                                       linewidths=0.6))


def draw_arrows(axes, shape, placed: list[np.ndarray]) -> None:
    """Arrows along three edges of the whole, named T, H and W with the number of tokens."""
    T, H, W = np.max([p.max(0) + 1 for p in placed], axis=0)       # half its sides
    off = 0.13 * max(T, H, W)
    for name, start, end, step, ha, va in (
            (f"time\nT = {shape[0]}", (-T, H, W), (T, H, W), (0.6, -0.7), "left", "top"),
            (f"H = {shape[1]}", (-T, -H, -W), (-T, H, -W), (-1, 0), "right", "center"),
            (f"W = {shape[2]}", (-T, H, -W), (-T, H, W), (-0.4, -1), "right", "top")):
        step = off * np.array(step)
        a, b = project([start, end])[:, :2] + step
        axes.annotate("", b, a, arrowprops=dict(arrowstyle="->", color="0.25", linewidth=1.4,
                                                shrinkA=0, shrinkB=0))
        axes.text(*(a + b) / 2 + 0.35 * step, name, size=12, ha=ha, va=va)
        axes.update_datalim([a, b])


@figure
def windows_3d(labels, title=None, gap: float = 0.6) -> Figure:
    """The token cube cut into its groups, pulled apart.

    `labels`: integers (T, H, W), tokens with equal numbers share a window; or a list of such
    arrays, drawn side by side at one scale, with a list of titles. Colour is the number of
    tokens in the group. A group that is not one box is drawn in pieces (`split`), and the
    legend says in how many. `gap` is relative to the windows.
    """
    arrays, names, title = panels(labels, title)
    for a in arrays:
        if a.ndim != 3 or a.size == 0:
            raise CourseError(f"labels must have three axes (T, H, W), not shape {a.shape}")
    sizes = sorted({count for a in arrays for count in np.unique(a, return_counts=True)[1]})
    shades = np.linspace(0.95, 0.2, len(sizes)) if len(sizes) > 1 else [0.45]      # light: few
    colour_of = {size: plt.get_cmap("viridis")(shade)[:3] for size, shade in zip(sizes, shades)}
    width = 5 if len(arrays) > 1 else 5.6                   # of a panel, in inches
    fig, grid = plt.subplots(1, len(arrays), squeeze=False, layout="none",
                             figsize=(width * len(arrays), 5))
    for axes, a, name in zip(grid[0], arrays, names):
        boxes, colours, legend = [], [], {}
        for label in np.unique(a):
            cells = np.argwhere(a == label)
            parts = split(cells)
            boxes += parts
            colours += [colour_of[len(cells)]] * len(parts)
            legend.setdefault(len(cells), []).append(len(parts))
        placed = place_boxes(boxes, gap)
        draw_boxes(axes, boxes, placed, colours)
        draw_arrows(axes, a.shape, placed)
        bare(axes)
        axes.set_title(fill(name, 36))
        entries = []
        for size, parts in sorted(legend.items()):
            pieces = f", in {sum(parts)} pieces" if sum(parts) > len(parts) else ""
            entries.append(Patch(facecolor=colour_of[size], edgecolor="0.2",
                                 label=f"{size} tokens × {len(parts)}{pieces}"))
        axes.legend(handles=entries, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2,
                    title=f"{len(np.unique(a))} windows")
    x0, y0 = np.min([axes.dataLim.min for axes in grid[0]], axis=0)
    x1, y1 = np.max([axes.dataLim.max for axes in grid[0]], axis=0)
    # In inches: 0.75 on the left and 0.55 on the right for the names of the axes; as high as
    # titles, picture and legend are together.
    inch = (x1 - x0) / (width - 1.3)
    for axes in grid[0]:
        axes.set(xlim=(x0 - 0.75 * inch, x1 + 0.55 * inch), ylim=(y0, y1), aspect="equal")
    headline(fig, title)
    above = 0.15 + 0.25 * sum(max(len(text.splitlines()) for text in texts) for texts in (
        [axes.get_title() for axes in grid[0]], [fig.get_suptitle()]))
    legend_rows = max((len(axes.get_legend().get_texts()) + 1) // 2 for axes in grid[0])
    below = 0.5 + 0.24 * legend_rows
    height = above + below + (y1 - y0) / inch
    fig.set_figheight(height)
    fig.subplots_adjust(0, below / height, 1, 1 - above / height, wspace=0)
    return fig


@figure
def shift_mask(mask, window, heads: int | None = None, title: str | None = None,
               grid=None) -> Figure:
    """One small picture per window: which query (row) may see which key (column).

    `mask`: (nW, N, N), 0 allowed, anything lower forbidden. `window`: its sides, N tokens in
    all. `grid`: how many windows along each axis; left out, equally many along all if nW
    permits, else windows are only numbered. `heads`: for the caption, the mask is the same for
    all of them. Of more than 16 windows each different picture is drawn once, named by its
    first window.
    """
    mask, window = array(mask), tuple(window)
    N = int(np.prod(window))
    if mask.ndim != 3 or mask.shape[1:] != (N, N):
        raise CourseError(f"the mask of windows {window} has shape (nW, {N}, {N}), "
                          f"not {mask.shape}")
    nW, forbidden = len(mask), mask < 0                     # (nW, N, N)
    if grid is not None and np.prod(grid) != nW:
        raise CourseError(f"a grid of {tuple(grid)} windows has {np.prod(grid)}, the mask {nW}")
    side = round(nW ** (1 / len(window)))
    grid = tuple(grid) if grid is not None else (side,) * len(window)
    names = [f"({', '.join(map(str, place))})" for place in np.ndindex(grid)]
    names = names if len(names) == nW else [f"{i}" for i in range(nW)]
    shown = range(nW)
    if nW > 16:
        alike = {}                                          # picture -> its windows
        for i, picture in enumerate(forbidden):
            alike.setdefault(picture.tobytes(), []).append(i)
        shown = [windows[0] for windows in alike.values()]
        for i, *others in alike.values():
            names[i] += f" and {len(others)} more" if others else ""
    columns = min(len(shown), 4)
    rows = -(-len(shown) // columns)
    fig, cells = plt.subplots(rows, columns, squeeze=False,
                              figsize=(10, rows * 2.75 + 1.0 + 0.3 * bool(title)))
    for axes in cells.flat:
        axes.set_axis_off()
    for axes, i in zip(cells.flat, shown):
        axes.set_axis_on()
        axes.imshow(forbidden[i], cmap=ListedColormap([ALLOWED, FORBIDDEN]), vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color="0.3")
        axes.set_title(f"{names[i]}: {100 * forbidden[i].mean():.3g} %", size=12)
    caption = (f"{N} queries (down) × {N} keys (across) in window "
               f"({', '.join('thw'[-len(window):])}): share forbidden")
    fig.legend(handles=[Patch(facecolor=ALLOWED, edgecolor="0.3", label="allowed (0)"),
                        Patch(facecolor=FORBIDDEN, label="forbidden (−100)")],
               loc="outside lower center", ncols=2,
               title=caption + (f", the same for all {heads} heads" if heads else ""))
    headline(fig, title)
    return fig


@figure
def regions_2d(labels, title=None) -> Figure:
    """Integer maps (H, W) as coloured grids with the numbers in the cells, side by side.

    `labels`: one map or a list; `title`: one for the figure, or a list with one for each map.
    """
    arrays, names, title = panels(labels, title)
    for a in arrays:
        if a.ndim != 2:
            raise CourseError(f"a map of regions has two axes (H, W), not shape {a.shape}")
    palette = np.array([to_rgb(c) for c in (YELLOW, BLUE, ORANGE, VERMILION, "#F7F7F7", GREEN,
                                            SKY, "#44546A", PINK)])
    values = np.unique(np.concatenate([a.ravel() for a in arrays]))
    width = min(4.2, 10 / len(arrays))                      # of a panel, in inches
    tall = max(a.shape[0] / a.shape[1] for a in arrays)
    lines = max(len(fill(name, int(8.5 * width)).split("\n")) for name in names)
    height = width * tall + 0.35 + 0.25 * (lines + bool(title))
    fig, grid = plt.subplots(1, len(arrays), squeeze=False, figsize=(width * len(arrays),
                                                                    height))
    for axes, a, name in zip(grid[0], arrays, names):
        colours = palette[np.searchsorted(values, a) % len(palette)]               # (H, W, 3)
        axes.imshow(colours)
        axes.set_xticks(np.arange(a.shape[1] + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(a.shape[0] + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="0.3", linewidth=0.6, alpha=1)
        border = dict(color="black", linewidth=2.5, solid_capstyle="round")
        for i, j in np.argwhere(a[1:] != a[:-1]):
            axes.plot([j - 0.5, j + 0.5], [i + 0.5, i + 0.5], **border)
        for i, j in np.argwhere(a[:, 1:] != a[:, :-1]):
            axes.plot([j + 0.5, j + 0.5], [i - 0.5, i + 0.5], **border)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set(visible=True, color="0.3")
        axes.set(xlabel="W", ylabel="H", title=fill(name, int(8.5 * width)),
                 xticks=[], yticks=[])
        if max(a.shape) <= 16:
            number_cells(axes, a, colours)
    headline(fig, title)
    return fig


# ---------------------------------------------------------------- relative position bias

@figure
def bias_tables(table, window, head: int = 0, title: str | None = None) -> Figure:
    """A bias table as pictures over (dh, dw), one for each temporal offset dt.

    `table`: (rows, heads) with (2P-1)(2M-1)(2M-1) rows, dw fastest; `window`: (P, M, M), or (M,
    M) for images. An offset is the query's position minus the key's. Colours share one scale
    around 0.
    """
    table, window = array(table), tuple(window)
    sides = tuple(2 * w - 1 for w in (1,) * (3 - len(window)) + window)
    if table.ndim != 2 or len(table) != np.prod(sides):
        formula = " · ".join(f"(2·{w}−1)" for w in window)
        raise CourseError(f"the bias table of window {window} has {formula} = "
                          f"{np.prod(sides)} rows and a column per head, "
                          f"not shape {table.shape}")
    values = table[:, head].reshape(sides)                  # (dt, dh, dw)
    limit = np.abs(values).max() or 1.0
    columns = min(sides[0], 7 if sides[0] <= 7 else 8)
    rows = -(-sides[0] // columns)
    side = min(8.1 / columns, 2.6)                          # of a panel, in inches
    height = rows * (side + 0.35) + 0.6 + 0.35 * bool(title)
    fig, grid = plt.subplots(rows, columns, squeeze=False, sharex=True, sharey=True,
                             figsize=(side * columns + 1.9, height))
    for axes in grid.flat[sides[0]:]:
        axes.set_axis_off()
    _, dh, dw = [s // 2 for s in sides]
    for axes, dt, panel in zip(grid.flat, range(-(sides[0] // 2), sides[0]), values):
        image = axes.imshow(panel, cmap="RdBu_r", vmin=-limit, vmax=limit,
                            extent=(-dw - 0.5, dw + 0.5, dh + 0.5, -dh - 0.5))
        axes.set(xticks=sorted({-dw, 0, dw}), yticks=sorted({-dh, 0, dh}))
        axes.spines[:].set(visible=True, color="0.3")
        if len(window) == 3:
            axes.set_title(f"dt = {dt}".replace("-", "−"), size=12)
    fig.supxlabel("dw", size=12)
    fig.supylabel("dh", size=12)
    fig.colorbar(image, ax=grid, label=f"bias, head {head}", pad=0.01, aspect=15 * rows)
    headline(fig, title)
    return fig


@figure
def index_matrix(index, title: str | None = None, window=None) -> Figure:
    """An integer matrix (N, N), N <= 16, as numbers; a `window` names its tokens (t, h, w)."""
    index = array(index)
    if index.ndim != 2 or max(index.shape) > 16:
        raise CourseError(f"the matrix must be at most 16 x 16 to be read, not {index.shape}")
    names, suffix = range(len(index)), ""
    if window is not None:
        names = [",".join(map(str, place)) for place in np.ndindex(*window)]
        suffix = f" ({','.join('thw'[-len(window):])})"
    if len(names) != len(index):
        raise CourseError(f"window {tuple(window)} has {len(names)} tokens, "
                          f"the matrix {len(index)} rows")
    colours = plt.get_cmap("cividis")(Normalize()(index))                          # (N, N, 4)
    side = 0.42 * len(index) + 1.6
    fig, axes = plt.subplots(figsize=(max(side, 4), max(side, 4) + 0.3 * bool(title)))
    axes.imshow(colours)
    number_cells(axes, index, colours)
    axes.set_xticks(range(len(index)), names, rotation=90 if window is not None else 0)
    axes.set_yticks(range(len(index)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="key" + suffix, ylabel="query" + suffix)
    headline(fig, title)
    return fig


# ---------------------------------------------------------------- shapes and costs

@figure
def token_flow(rows: list[dict], title: str | None = None) -> Figure:
    """The maps on the way through a network, each a box to scale (time is drawn at a quarter).

    `rows`: dicts with name, shape (T, H, W) in tokens, channels. Beneath each: its shape, its
    tokens, and the megabytes (10^6 bytes) of one such map in float32.
    """
    top = max(r["shape"][1] for r in rows)                  # the tallest box: 1.5 inches
    width = 2 / 1.5 * top                                   # of a column: 2 inches
    fig, axes = plt.subplots(figsize=(2 * len(rows), 3.1 + 0.4 * bool(title)))
    for i, row in enumerate(rows):
        T, H, W = row["shape"]
        depth = np.array([0.24, 0.16]) * top * T / rows[0]["shape"][0]
        left = i * width + (width - W - depth[0]) / 2
        a, b, c, d = np.array([(left, 0), (left + W, 0), (left + W, H), (left, H)])
        for corners, shade in (((a, b, c, d), SKY), ((d, c, c + depth, d + depth), "#A9D9F4"),
                               ((b, b + depth, c + depth, c), BLUE)):
            axes.add_patch(Polygon(corners, facecolor=shade, edgecolor="0.15", linewidth=0.8))
        tokens, C = T * H * W, row["channels"]
        below = dict(xy=((i + 0.5) * width, 0), textcoords="offset points",
                     ha="center", va="top")
        axes.annotate(row["name"], xytext=(0, -8), weight="bold", **below)
        axes.annotate(f"{T} × {H} × {W} × {C}\n{tokens:,} tokens\n{4e-6 * tokens * C:.3g} MB",
                      xytext=(0, -27), size=11, linespacing=1.4, **below)
    axes.set(xlim=(0, width * len(rows)), ylim=(-0.85 * top, 1.2 * top))         # room for text
    axes.set_aspect("equal")
    bare(axes)
    headline(fig, title)
    return fig


@figure
def cost_curves(series: dict, xlabel: str, ylabel: str, title: str | None = None) -> Figure:
    """Measured costs on log-log axes, the fitted slope in the legend, formulas as thin lines.

    `series`: name -> dict(x=[...], y=[...]) and, where there is a formula, its values at x as
    formula_y=[...]. On these axes y ~ x^k is a line of slope k.
    """
    fig, axes = plt.subplots(figsize=(9, 5))
    for i, (name, s) in enumerate(series.items()):
        x, y = array(s["x"]).astype(float), array(s["y"]).astype(float)
        if len(x) < 2 or len(x) != len(y) or min(x.min(), y.min()) <= 0:
            raise CourseError(f"series {name!r} needs at least two positive points, "
                              f"x and y equally many")
        slope = np.polyfit(np.log(x), np.log(y), 1)[0]
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(x, y, marker=MARKERS[i % len(MARKERS)], markersize=7, color=colour,
                  linestyle="-" if s.get("formula_y") is None else "--",
                  label=f"{name} (slope {slope:.2f})")
        if s.get("formula_y") is not None:
            axes.plot(x, array(s["formula_y"]), color=colour, linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    ticks, nearest = [], 0.07 * np.subtract(*np.log(axes.get_xlim())[::-1])
    for x in np.unique(np.concatenate([array(s["x"]) for s in series.values()])):
        if not ticks or np.log(x / ticks[-1]) > nearest:    # what was measured, if room
            ticks.append(x)
    axes.set_xticks(ticks, [f"{x:,.6g}" for x in ticks])
    axes.set_xticks([], minor=True)
    axes.grid()
    handles, _ = axes.get_legend_handles_labels()
    if any(s.get("formula_y") is not None for s in series.values()):
        handles.append(Line2D([], [], color="0.3", linewidth=1, label="formula"))
    axes.legend(handles=handles)
    headline(fig, title)
    return fig


# ---------------------------------------------------------------- results

@figure
def confusion(matrix, classes, title: str | None = None) -> Figure:
    """Counts (K, K): true class down, predicted class across, coloured by share of the row."""
    matrix, K = array(matrix), len(classes)
    if matrix.shape != (K, K):
        raise CourseError(f"{K} classes need a confusion matrix of shape ({K}, {K}), "
                          f"not {matrix.shape}")
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    colours = plt.get_cmap("Blues")
    longest = max(map(len, classes))
    fig, axes = plt.subplots(figsize=(0.5 * K + 0.09 * longest + 1.7,
                                      0.5 * K + 0.06 * longest + 0.9))
    image = axes.imshow(share, cmap=colours, vmin=0, vmax=1)
    number_cells(axes, matrix, colours(share))
    axes.set_xticks(range(K), classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(K), classes)
    axes.tick_params(length=0)
    axes.set(xlabel="predicted", ylabel="true")
    fig.colorbar(image, label="share of the true class")
    headline(fig, title)
    return fig


@figure
def ceilings(results: dict, ceilings: dict, title: str | None = None) -> Figure:
    """Accuracies as bars against what is possible at most.

    `results`: name -> (accuracy, standard error), `ceilings`: name -> accuracy; all are
    fractions from 0 to 1 and drawn in percent.
    """
    for name, value in [*((n, r[0]) for n, r in results.items()), *ceilings.items()]:
        if not 0 <= value <= 1:
            raise CourseError(f"accuracy {value} of {name!r} is not a fraction from 0 to 1")
    fig, axes = plt.subplots(figsize=(10, 0.5 * len(results) + 1.6))
    for i, (name, (accuracy, error)) in enumerate(results.items()):
        axes.barh(i, 100 * accuracy, xerr=100 * error, height=0.6, color=SKY, edgecolor="0.2",
                  error_kw=dict(capsize=5, elinewidth=1.6, ecolor="black"))
        axes.text(1.02, i, f"{100 * accuracy:.1f} ± {100 * error:.1f} %", va="center",
                  transform=axes.get_yaxis_transform())
    row_ends = []                                           # of the names above, in percent
    for name, value in sorted(ceilings.items(), key=lambda item: item[1]):
        value, name = 100 * value, f"{name}: {100 * value:.4g} %"
        start = min(value, 100 - 1.4 * len(name))           # a letter is about 1.4 % wide
        row = next((r for r, end in enumerate(row_ends) if end < start), len(row_ends))
        row_ends[row:row + 1] = [start + 1.4 * len(name)]
        axes.axvline(value, color=VERMILION, linestyle="--", linewidth=2,
                     clip_on=False)
        axes.annotate(name, (start, 1), (0, 4 + 17 * row), xycoords=("data", "axes fraction"),
                      textcoords="offset points", color="#A04000", va="bottom")
    axes.set_yticks(range(len(results)), list(results))
    axes.set(xlim=(0, 100), xlabel="accuracy (%)")
    axes.invert_yaxis()
    headline(fig, title)
    return fig


@figure
def curves(histories: dict, ylabel: str, title: str | None = None) -> Figure:
    """Curves over training: name -> values per epoch, or name -> dict(x=[...], y=[...])."""
    fig, axes = plt.subplots(figsize=(9, 4.2))
    for i, (name, history) in enumerate(histories.items()):
        given = isinstance(history, dict)
        y = array(history["y"] if given else history)
        x = array(history["x"]) if given else np.arange(1, len(y) + 1)
        axes.plot(x, y, color=COLOURS[i % len(COLOURS)], linestyle=["-", "--"][i % 2],
                  marker=MARKERS[i % len(MARKERS)], markersize=6,
                  markevery=max(1, len(y) // 20), label=name)
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid()
    axes.legend()
    headline(fig, title)
    return fig


# ---------------------------------------------------------------- exercises

def montage(x: np.ndarray) -> np.ndarray:
    """1-D to 3-D -> one picture (rows, columns): slices of a 3-D array, NaN between."""
    if x.ndim < 3:
        return np.atleast_2d(x)
    n, height, width = x.shape
    columns = int(np.clip(round((n * height / width) ** 0.5), 1, n))
    gap = max(1, min(height, width) // 16)
    x = np.pad(x, ((0, -n % columns), (0, gap), (0, gap)), constant_values=np.nan)
    x = x.reshape(-1, columns, height + gap, width + gap)          # (rows, columns, h, w)
    x[-1, columns - (-n % columns):] = np.nan
    return x.swapaxes(1, 2).reshape(-1, columns * (width + gap))[:-gap, :-gap]


@figure
def expected_got(expected, got, title: str | None = None) -> Figure:
    """Expected, got, and where they differ (by more than 1e-5 relative and absolute).

    Up to three axes are drawn whole, of more the first slice that differs. The first differing
    position is marked, and named with both values. Arrays of different shapes are drawn as they
    are.
    """
    expected, got = array(expected), array(got)
    if not expected.size or not got.size:
        raise CourseError(f"an empty array cannot be drawn: expected {expected.shape}, "
                          f"got {got.shape}")
    lead = [(0,) * max(0, a.ndim - 3) for a in (expected, got)]
    heading = f"shapes differ\nexpected {expected.shape}\ngot {got.shape}"
    differs = np.zeros(expected.shape, bool)
    if expected.shape == got.shape:
        pair = expected.astype(float), got.astype(float)
        differs = ~np.isclose(*pair, rtol=1e-5, atol=1e-5, equal_nan=True)
        heading = f"all {differs.size:,} equal"
    if differs.any():
        first = tuple(map(int, np.argwhere(differs)[0]))
        lead = [first[:max(0, len(first) - 3)]] * 2
        heading = (f"{differs.sum():,} of {differs.size:,} differ, first\n{list(first)}: "
                   f"expected {float(expected[first]):.4g}, got {float(got[first]):.4g}")
        only = np.zeros(differs.shape)
        only[first] = 1
        y, x = np.argwhere(montage(only[lead[0]]) == 1)[0]
    drawn = [montage(a[i].astype(float)) for a, i in zip((expected, got), lead)]
    numbered = all(a.ndim < 3 and a.size <= 64 and a.dtype.kind in "iub"
                   for a in (expected, got))
    finite = np.concatenate([d[np.isfinite(d)] for d in drawn])
    low, high = (finite.min(), finite.max()) if finite.size else (0, 1)
    ratios = [np.clip(d.shape[0] / d.shape[1], 0.15, 1.3) for d in drawn]
    fig, grid = plt.subplots(1, 3, figsize=(10, 3.1 * max(ratios) + 1.2 + 0.35 * bool(title)))
    for axes, d, ratio, name in zip(grid, drawn, ratios, ("expected", "got")):
        image = axes.imshow(d, cmap="cividis", vmin=low, vmax=high if high > low else low + 1,
                            aspect="auto")
        axes.set_box_aspect(ratio)
        axes.set_title(name)
        if numbered:
            number_cells(axes, d.astype(int), image.to_rgba(d))
    if expected.shape == got.shape:
        d = montage(differs[lead[0]].astype(float))
        grid[2].imshow(d, cmap=ListedColormap(["#E4E4E4", VERMILION]), vmin=0, vmax=1,
                       aspect="auto")
    grid[2].set_box_aspect(ratios[0])
    grid[2].set_title(heading.replace("-", "−"), size=11)
    fig.colorbar(image, ax=list(grid), location="bottom", aspect=40, shrink=0.5)
    for axes in grid:
        bare(axes)
        axes.set_anchor("N")
        if differs.any():
            for colour, line in (("white", 6), ("black", 2.5)):    # seen on every colour
                if numbered:
                    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False,
                                             edgecolor=colour, linewidth=line, clip_on=False))
                else:
                    axes.plot(x, y, "o", markersize=16, markerfacecolor="none",
                              markeredgecolor=colour, markeredgewidth=line)
    headline(fig, title)
    return fig


def window_numbers(size, window, shift=(0, 0, 0)) -> np.ndarray:
    """The window of each token when all windows move by `shift`: integers of shape `size`."""
    per_axis = [(np.arange(s) + (w - sh) % w) // w for s, w, sh in zip(size, window, shift)]
    grid = np.meshgrid(*per_axis, indexing="ij")
    return np.ravel_multi_index(grid, [int(a.max()) + 1 for a in per_axis])


def main() -> None:
    """Draw the README's picture; a palette of 128 colours keeps it small."""
    path = repo_root() / "notebooks" / "img" / "windows_27.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    size, window = (8, 8, 8), (4, 4, 4)
    fig = windows_3d([window_numbers(size, window), window_numbers(size, window, (2, 2, 2))],
                     ["One block: 8 × 8 × 8 tokens attend in 8 windows of 4 × 4 × 4",
                      "The next: windows shifted by 2 along T, H and W, so 27 windows"],
                     gap=0.9)
    buffer = BytesIO()
    fig.savefig(buffer, dpi=160)
    picture = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
