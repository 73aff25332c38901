"""Figures of windows: their tokens in 2-D and 3-D, the masks of shifted windows, their tables of the position bias."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from vt_course import CourseError
from vt_course.colours import BLUE, GREEN, ORANGE, PINK, SKY, VERMILION, YELLOW
from vt_course.lab.show.style import (
    ALLOWED,
    FORBIDDEN,
    array,
    bare,
    figure,
    headline,
    ink,
    number_cells,
    outline_cells,
    panels,
    wrapped,
)


def split(cells: np.ndarray) -> list[np.ndarray]:
    """Token positions (n, 3) of one group -> a list of boxes, each as its token positions.

    A group that fills its bounding box is one box. Any other group is cut into its connected parts,
    and a part that is no box is cut into single tokens, because a wrong partition must not look like
    a right one.
    """

    def is_box(part):
        return len(part) == np.prod(np.ptp(part, axis=0) + 1)

    if is_box(cells):
        return [cells]
    left, boxes = set(map(tuple, cells.tolist())), []
    while left:
        part = [left.pop()]
        for t, h, w in part:  # `part` grows during this loop
            near = {(t - 1, h, w), (t, h - 1, w), (t, h, w - 1), (t + 1, h, w), (t, h + 1, w), (t, h, w + 1)}
            part += sorted(near & left)
            left -= near
        part = np.array(sorted(part))
        boxes += [part] if is_box(part) else list(part[:, None])
    return boxes


def project(points) -> np.ndarray:
    """Positions (..., 3) of (t, h, w) -> (..., 3) of (x, y, depth), by parallel projection.

    Frame t = 0 faces the viewer. Rows run down, columns to the right, and time into the picture.
    The viewer stands a little to the right and above. A smaller depth is nearer.
    """
    turn, tilt = np.radians(36), np.radians(27)
    t, h, w = np.moveaxis(np.asarray(points, float), -1, 0)
    back = t * np.cos(turn) - w * np.sin(turn)
    return np.stack(
        [
            w * np.cos(turn) + t * np.sin(turn),
            back * np.sin(tilt) - h * np.cos(tilt),
            back * np.cos(tilt) + h * np.sin(tilt),
        ],
        -1,
    )


# The faces of a unit cube that are visible after `project`: the step to the neighbour that would hide the
# face, its corners, and its shading (the grey to mix in, and the share of that grey).
FACES = [
    ((-1, 0, 0), [(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0)], 1.0, 0.0),  # front, t = 0
    ((0, -1, 0), [(0, 0, 0), (0, 0, 1), (1, 0, 1), (1, 0, 0)], 1.0, 0.18),  # top, h = 0
    ((0, 0, 1), [(0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)], 0.0, 0.2),  # right, last w
]


def place_boxes(boxes: list[np.ndarray], gap: float) -> list[np.ndarray]:
    """The corner of each token after the boxes were pulled apart around 0: float (n, 3) for each box.

    Along each axis the boxes keep their order. Before each different start of a box one gap is added, which is
    `gap` times the mean distance between starts. So boxes never touch, whatever the partition.
    """
    starts = np.array([box.min(0) for box in boxes])  # (boxes, 3)
    size = np.max([box.max(0) + 1 for box in boxes], axis=0)
    order = np.stack([np.unique(s, return_inverse=True)[1] for s in starts.T], -1)
    step = gap * size / (order.max(0) + 1)
    placed = [box + step * place for box, place in zip(boxes, order)]
    middle = np.max([p.max(0) + 1 for p in placed], axis=0) / 2
    return [p - middle for p in placed]


def draw_boxes(axes, boxes: list[np.ndarray], placed: list[np.ndarray], colours: list) -> None:
    """Draw the visible faces of all tokens at the surface of their box, far tokens first."""
    faces = []  # (depth, corners, colour)
    for box, where, colour in zip(boxes, placed, colours):
        inside = set(map(tuple, box.tolist()))
        for token, corner in zip(box, where):
            for step, corners, grey, amount in FACES:
                if tuple(token + step) not in inside:
                    face = np.array(to_rgb(colour)) * (1 - amount) + grey * amount
                    depth = project(corner + 0.5)[2]  # of the centre of the token
                    faces.append((depth, project(corner + corners)[:, :2], face))
    faces.sort(key=lambda face: -face[0])
    _, polygons, fills = zip(*faces)
    lines = [0.55 * f if ink(f) == "black" else 0.55 * f + 0.45 for f in np.array(fills)]
    axes.add_collection(PolyCollection(polygons, facecolors=fills, edgecolors=lines, linewidths=0.6))


def draw_arrows(axes, shape, placed: list[np.ndarray]) -> None:
    """Draw arrows along three edges of the whole cube, named T, H and W, with the number of tokens."""
    T, H, W = np.max([p.max(0) + 1 for p in placed], axis=0)  # half of each side
    off = 0.13 * max(T, H, W)
    for name, start, end, step, ha, va in (
        (f"time\nT = {shape[0]}", (-T, H, W), (T, H, W), (0.6, -0.7), "left", "top"),
        (f"H = {shape[1]}", (-T, -H, -W), (-T, H, -W), (-1, 0), "right", "center"),
        (f"W = {shape[2]}", (-T, H, -W), (-T, H, W), (-0.4, -1), "right", "top"),
    ):
        step = off * np.array(step)
        a, b = project([start, end])[:, :2] + step
        axes.annotate("", b, a, arrowprops=dict(arrowstyle="->", color="0.25", linewidth=1.4, shrinkA=0, shrinkB=0))
        axes.text(*(a + b) / 2 + 0.35 * step, name, size=12, ha=ha, va=va)
        axes.update_datalim([a, b])


@figure
def windows_3d(labels, title=None, gap: float = 0.6) -> Figure:
    """The cube of tokens, cut into its groups, which are pulled apart.

    `labels`: integers (T, H, W), in which tokens with equal numbers share a window; or a list of such
    arrays, drawn side by side at one scale, with a list of titles. The colour shows the number of
    tokens in the group. A group that is not one box is drawn in pieces (`split`), and the
    legend says in how many. `gap` is relative to the size of the windows.
    """
    arrays, names, title = panels(labels, title)
    for a in arrays:
        if a.ndim != 3 or a.size == 0:
            raise CourseError(f"labels must have three axes (T, H, W), not shape {a.shape}")
    sizes = sorted({count for a in arrays for count in np.unique(a, return_counts=True)[1]})
    # Light for few tokens. Printed in grey, the faces of two sizes must not meet: the whole range, and pale shading.
    shades = np.linspace(1, 0, len(sizes)) if len(sizes) > 1 else [0.45]
    colour_of = {size: plt.get_cmap("viridis")(shade)[:3] for size, shade in zip(sizes, shades)}
    width = 5 if len(arrays) > 1 else 5.6  # of a panel, in inches
    fig, grid = plt.subplots(1, len(arrays), squeeze=False, layout="none", figsize=(width * len(arrays), 5))
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
        axes.set_title(wrapped(name, 36))
        entries = []
        for size, parts in sorted(legend.items()):
            pieces = f", in {sum(parts)} pieces" if sum(parts) > len(parts) else ""
            entries.append(
                Patch(facecolor=colour_of[size], edgecolor="0.2", label=f"{size} tokens × {len(parts)}{pieces}")
            )
        axes.legend(
            handles=entries, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, title=f"{len(np.unique(a))} windows"
        )
    x0, y0 = np.min([axes.dataLim.min for axes in grid[0]], axis=0)
    x1, y1 = np.max([axes.dataLim.max for axes in grid[0]], axis=0)
    # A panel has 0.75 inches on the left and 0.55 on the right for the names of the axes. The figure is as
    # high as titles, picture and legend together.
    inch = (x1 - x0) / (width - 1.3)
    for axes in grid[0]:
        axes.set(xlim=(x0 - 0.75 * inch, x1 + 0.55 * inch), ylim=(y0, y1), aspect="equal")
    headline(fig, title)
    above = 0.15 + 0.25 * sum(
        max(len(text.splitlines()) for text in texts)
        for texts in ([axes.get_title() for axes in grid[0]], [fig.get_suptitle()])
    )
    legend_rows = max((len(axes.get_legend().get_texts()) + 1) // 2 for axes in grid[0])
    below = 0.5 + 0.24 * legend_rows
    height = above + below + (y1 - y0) / inch
    fig.set_figheight(height)
    fig.subplots_adjust(0, below / height, 1, 1 - above / height, wspace=0)
    return fig


@figure
def shift_mask(mask, window, heads: int | None = None, title: str | None = None, grid=None, columns: int = 4) -> Figure:
    """One small picture for each window: which query (row) may attend to which key (column).

    `mask`: (nW, N, N), where 0 means allowed and a negative number means forbidden. `window`: its sides, whose
    product is N. `grid`: the number of windows along each axis. If it is left out, all axes are taken to have
    equally many windows; if nW does not permit that, windows are only numbered. `heads`: the number of heads, for
    the caption (the mask is the same for all). If there are more than 16 windows, each different picture is drawn
    once, named by its first window. `columns`: the most pictures in one row; with fewer the figure is narrower.
    """
    mask, window = array(mask), tuple(window)
    N = int(np.prod(window))
    if mask.ndim != 3 or mask.shape[1:] != (N, N):
        raise CourseError(f"the mask of windows {window} has shape (nW, {N}, {N}), not {mask.shape}")
    nW, forbidden = len(mask), mask < 0  # (nW, N, N)
    if grid is not None and np.prod(grid) != nW:
        raise CourseError(f"a grid of {tuple(grid)} windows has {np.prod(grid)}, the mask {nW}")
    side = round(nW ** (1 / len(window)))
    grid = tuple(grid) if grid is not None else (side,) * len(window)
    names = [f"({', '.join(map(str, place))})" for place in np.ndindex(grid)]
    names = names if len(names) == nW else [f"{i}" for i in range(nW)]
    shown = range(nW)
    if nW > 16:
        alike = {}  # picture -> the windows that have it
        for i, picture in enumerate(forbidden):
            alike.setdefault(picture.tobytes(), []).append(i)
        shown = [windows[0] for windows in alike.values()]
        for i, *others in alike.values():
            names[i] += f" and {len(others)} more" if others else ""
    wide, columns = 7 if columns < 3 else 10, min(len(shown), columns)  # wide: the figure, in inches
    rows = -(-len(shown) // columns)
    fig, cells = plt.subplots(rows, columns, squeeze=False, figsize=(wide, rows * 2.75 + 1.0 + 0.3 * bool(title)))
    for axes in cells.flat:
        axes.set_axis_off()
    for axes, i in zip(cells.flat, shown):
        axes.set_axis_on()
        axes.imshow(forbidden[i], cmap=ListedColormap([ALLOWED, FORBIDDEN]), vmin=0, vmax=1)
        ticks = range(0, N, window[-1]) if N <= 16 else []  # a row of the window begins at each
        axes.set(xticks=ticks, yticks=ticks)
        axes.spines[:].set(visible=True, color="0.3")
        axes.set_title(f"{names[i]}: {100 * forbidden[i].mean():.3g} %", size=12)
    caption = f"{N} queries (down) × {N} keys (across) in window ({', '.join('thw'[-len(window) :])}): share forbidden"
    caption = wrapped(caption, 48) if wide < 10 else caption
    fig.legend(
        handles=[
            Patch(facecolor=ALLOWED, edgecolor="0.3", label="allowed (0)"),
            Patch(facecolor=FORBIDDEN, label="forbidden (−100)"),
        ],
        loc="outside lower center",
        ncols=2,
        title=caption + (f", the same for all {heads} heads" if heads else ""),
    )
    headline(fig, title)
    return fig


@figure
def mask_of_window(mask, window, query, title: str | None = None) -> Figure:
    """One mask, enlarged: the row of one query is marked, and its keys are drawn again at their places in the window.

    `mask`: (N, N) of one window, 0 where allowed and negative where forbidden. `window`: its sides (P, M, M).
    `query`: its place in the window. Left: queries down, keys across. Right: one picture for each time step.
    """
    mask, window, query = array(mask), tuple(window), tuple(query)
    N = int(np.prod(window))
    if mask.shape != (N, N):
        raise CourseError(f"the mask of one window {window} has shape ({N}, {N}), not {mask.shape}")
    if len(query) != 3 or not all(0 <= q < m for q, m in zip(query, window)):
        raise CourseError(f"query {query} is not in a window of {window}")
    row = int(np.ravel_multi_index(query, window))
    steps = (mask[row] < 0).reshape(window)  # (P, M, M)
    rows = min(len(steps), 2)
    columns = -(-len(steps) // rows)
    fig = plt.figure(figsize=(10, 5.2 + 0.35 * bool(title)))
    grid = fig.add_gridspec(rows, 2 * columns, width_ratios=[1] * 2 * columns)
    colours = dict(cmap=ListedColormap([ALLOWED, FORBIDDEN]), vmin=0, vmax=1)
    whole = fig.add_subplot(grid[:, :columns])
    whole.imshow(mask < 0, **colours)
    whole.add_patch(Rectangle((-0.5, row - 0.5), N, 1, fill=False, edgecolor=VERMILION, linewidth=3, clip_on=False))
    whole.set(xticks=[], xlabel=f"{N} keys", ylabel=f"{N} queries", yticks=[row], title="the mask")
    whole.set_yticklabels([str(row)], color="#A04000")
    whole.spines[:].set(visible=True, color="0.3")
    for t, step in enumerate(steps):
        axes = fig.add_subplot(grid[t // columns, columns + t % columns])
        axes.imshow(step, **colours)
        outline_cells(axes, step, "0.5", 0.8)
        axes.tick_params(which="both", length=0)
        axes.set(xticks=[], yticks=[], title=f"its keys at t = {t}")
        axes.spines[:].set(visible=True, color="0.3")
        if t == query[0]:
            corner = query[2] - 0.5, query[1] - 0.5
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=VERMILION, linewidth=4, clip_on=False))
    handles = [
        Patch(facecolor=ALLOWED, edgecolor="0.3", label="allowed (0)"),
        Patch(facecolor=FORBIDDEN, label="forbidden (−100)"),
        Patch(fill=False, edgecolor=VERMILION, linewidth=3, label=f"query {row}, at {query}"),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    headline(fig, title)
    return fig


@figure
def marked_mask(mask, window, query, title: str | None = None) -> Figure:
    """The mask of one window, enlarged, with one query marked; beside it the window itself, as this query sees it.

    `mask`: (N, N), where 0 means allowed and a negative number means forbidden. `window`: its sides (M, M'), with
    M·M' = N. `query`: the place (h, w) of the marked token in the window. Tokens are numbered row by row.
    """
    mask, (rows, columns), (h, w) = array(mask), tuple(window), tuple(query)
    if mask.shape != (rows * columns, rows * columns):
        raise CourseError(
            f"the mask of one window {tuple(window)} is ({rows * columns}, {rows * columns}), not {mask.shape}"
        )
    if not (0 <= h < rows and 0 <= w < columns):
        raise CourseError(f"query ({h}, {w}) is not in a window of {rows} × {columns}")
    forbidden, token = mask < 0, h * columns + w
    seen = forbidden[token].reshape(rows, columns)
    fig, (left, right) = plt.subplots(1, 2, figsize=(7, 4.3 + 0.3 * bool(title)))
    for axes, picture in ((left, forbidden), (right, seen)):
        axes.imshow(picture, cmap=ListedColormap([ALLOWED, FORBIDDEN]), vmin=0, vmax=1)
        outline_cells(axes, picture, "0.6", 0.5)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set(visible=True, color="0.3")
    ticks = range(0, rows * columns, columns)
    left.set(xlabel="key", ylabel="query", title="the mask", xticks=ticks, yticks=sorted({*ticks, token}))
    mark = dict(fill=False, edgecolor=VERMILION, linewidth=3, clip_on=False)
    left.add_patch(Rectangle((-0.5, token - 0.5), rows * columns, 1, **mark))
    right.set(title=f"what token {token} may see", xticks=[], yticks=[])
    colours = np.where(seen[..., None], to_rgb(FORBIDDEN), to_rgb(ALLOWED))
    number_cells(right, np.arange(rows * columns).reshape(rows, columns), colours)
    right.add_patch(Rectangle((w - 0.5, h - 0.5), 1, 1, **mark))
    fig.legend(
        handles=[
            Patch(facecolor=ALLOWED, edgecolor="0.3", label="allowed (0)"),
            Patch(facecolor=FORBIDDEN, label="forbidden (−100)"),
            Patch(label="the query", **{k: mark[k] for k in ("fill", "edgecolor", "linewidth")}),
        ],
        loc="outside lower center",
        ncols=3,
    )
    headline(fig, title)
    return fig


@figure
def hierarchy_2d(image, stages: list[dict], title: str | None = None) -> Figure:
    """The area of the image that one token covers at each stage: the image under the grids of patches and windows.

    `image`: uint8 (H, W, 3). `stages`: dicts with name, size (h, w) in tokens, window (in
    tokens along a side) and channels. Thin lines separate patches, thick lines separate windows. Below
    each picture stand the size of the map and the number of windows, including windows that are cut off.
    """
    image = array(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise CourseError(f"the image must be uint8 (H, W, 3), not {image.dtype} {image.shape}")
    H, W = image.shape[:2]
    columns, side = min(len(stages), 2), 3.5  # side: of a panel, in inches
    rows = -(-len(stages) // columns)
    fig, grid = plt.subplots(
        rows, columns, squeeze=False, figsize=(side * columns, rows * (side * H / W + 0.75) + 0.3 * bool(title))
    )
    for axes in grid.flat[len(stages) :]:
        axes.set_axis_off()
    for axes, stage in zip(grid.flat, stages):
        (h, w), M = stage["size"], stage["window"]
        axes.imshow(image // 32 * 16 + 120, extent=(0, w, h, 0), aspect=H / W * w / h, interpolation="nearest")
        for step, colour, width in ((1, "0.35", 0.5), (M, VERMILION, 2.0)):
            lines = dict(color=colour, linewidth=width, clip_on=False)
            axes.vlines([*range(0, w, step), w], 0, h, **lines)
            axes.hlines([*range(0, h, step), h], 0, w, **lines)
        count = -(-h // M) * -(-w // M)
        axes.set(
            title=stage["name"],
            xlim=(0, w),
            ylim=(h, 0),
            xlabel=(f"{h} × {w} × {stage['channels']}\n{count} window{'s' * (count > 1)} of {M} × {M}"),
        )
        bare(axes)
    headline(fig, title)
    return fig


@figure
def windows_2d(tokens, window, title=None, shift=(0, 0), rolled=False, width: float | None = None) -> Figure:
    """Numbered tokens on a grid, with thick lines around their windows.

    `tokens`: integers (H, W), or a list of such maps, drawn side by side, with a list of titles. The
    colour changes with the number, so that a roll is visible. A negative number is padding: it is grey and
    has no number. `window`: (Mh, Mw) or M. `shift`: how far the lines have moved, (sh, sw), one pair for
    all maps or one for each; a shifted axis is cut at sh, sh + Mh, ... `rolled`: whether the map was rolled by minus
    the shift, one answer for all maps or one for each. Then thick lines surround the pieces of the shifted windows
    where the roll has put them, and dashed lines the regular windows. `width`: of the figure, in inches.
    """
    arrays, names, title = panels(tokens, title)
    rolls = list(rolled) if np.ndim(rolled) else [rolled] * len(arrays)
    window = (window, window) if np.ndim(window) == 0 else tuple(window)
    shifts = list(shift) if np.ndim(shift) == 2 else [shift] * len(arrays)
    if len(shifts) != len(arrays):
        raise CourseError(f"{len(shifts)} shifts for {len(arrays)} maps: give one for all or one each")
    for a in arrays:
        if a.ndim != 2 or max(a.shape) > 16:
            raise CourseError(f"a map of numbered tokens has two axes (H, W) of at most 16, not {a.shape}")
    highest = max(1, max(a.max() for a in arrays))
    widest = max(a.shape[1] for a in arrays)
    width = width / len(arrays) if width else min(max(4.8, 0.36 * widest), 10.4 / len(arrays))  # of a panel
    tall = max(a.shape[0] / a.shape[1] for a in arrays)
    lines = max(len(wrapped(name, int(8.5 * width)).split("\n")) for name in names) if any(names) else 0
    fig, grid = plt.subplots(
        1, len(arrays), squeeze=False, figsize=(width * len(arrays), width * tall + 0.35 + 0.25 * (lines + bool(title)))
    )
    for axes, a, name, moved, roll in zip(grid[0], arrays, names, shifts, rolls):
        colours = plt.get_cmap("viridis")(0.25 + 0.75 * np.maximum(a, 0) / highest)  # (H, W, 4)
        colours[a < 0] = to_rgb("#D9D9D9") + (1,)
        axes.imshow(colours)
        H, W = a.shape
        thin = dict(color="0.3", linewidth=0.5)
        axes.vlines(np.arange(W + 1) - 0.5, -0.5, H - 0.5, **thin)
        axes.hlines(np.arange(H + 1) - 0.5, -0.5, W - 0.5, **thin)
        cuts = [[0, *range(s or m, n, m), n] for n, m, s in zip(a.shape, window, moved)]
        if roll:
            cuts = [sorted({*range(0, n, m), n - s, n}) for n, m, s in zip(a.shape, window, moved)]
        rows, columns = cuts
        heavy = dict(color="black", linewidth=3, capstyle="projecting", clip_on=False)
        axes.vlines(np.array(columns) - 0.5, -0.5, H - 0.5, **heavy)
        axes.hlines(np.array(rows) - 0.5, -0.5, W - 0.5, **heavy)
        if roll:
            dash_windows(axes, a.shape, window)
        for (i, j), value in np.ndenumerate(a):
            if value >= 0:
                axes.text(j, i, f"{value}", ha="center", va="center", size=11, color=ink(colours[i, j, :3]))
        axes.set(xlabel="W", ylabel="H", title=wrapped(name, int(8.5 * width)), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    if any(rolls):
        explain_lines(fig, padding=any((a < 0).any() for a in arrays))
    headline(fig, title)
    return fig


def dash_windows(axes, size, window) -> None:
    """Draw the borders of the regular windows as dashed lines, visible beside thick black ones."""
    (H, W), (rows, columns) = size, window
    ends = [[*range(0, n, m), n] for n, m in ((H, rows), (W, columns))]
    style = dict(color=VERMILION, linewidth=2, linestyle=(0, (3, 2)), clip_on=False, zorder=3)
    axes.vlines(np.array(ends[1]) - 0.5, -0.5, H - 0.5, **style)
    axes.hlines(np.array(ends[0]) - 0.5, -0.5, W - 0.5, **style)


def explain_lines(fig: Figure, padding: bool = False) -> None:
    """A legend for thick and dashed lines, and for grey cells if they are padding, below the figure."""
    fig.set_figheight(fig.get_figheight() + 0.3)
    handles = [
        Line2D([], [], color="black", linewidth=3, label="border of a shifted window"),
        Line2D([], [], color=VERMILION, linewidth=2, linestyle=(0, (3, 2)), label="regular window"),
        *([Patch(facecolor="#D9D9D9", edgecolor="0.3", label="padding")] if padding else []),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))


@figure
def regions_2d(labels, title=None, window=None, columns: int | None = None, width: float | None = None) -> Figure:
    """Integer maps (H, W) as coloured grids with the numbers in the cells, side by side.

    `labels`: one map or a list of maps. `title`: one for the figure, or a list with one for each map. A
    negative number means that the cell has no region: it is grey and shows –. `window`: the sides (Mh, Mw) of regular
    windows, drawn as dashed lines, or a list with one for each map, None for none. `columns`: maps in one row; if it
    is left out, all. `width`: of the figure, in inches.
    """
    arrays, names, title = panels(labels, title)
    dashed = list(window) if isinstance(window, list) else [window] * len(arrays)
    for a in arrays:
        if a.ndim != 2:
            raise CourseError(f"a map of regions has two axes (H, W), not shape {a.shape}")
    fourth = "#8E6BBF" if any(sides is not None for sides in dashed) else VERMILION  # dashed lines are vermilion
    palette = np.array([to_rgb(c) for c in (YELLOW, BLUE, ORANGE, fourth, "#F7F7F7", GREEN, SKY, "#44546A", PINK)])
    values = np.unique(np.concatenate([a[a >= 0] for a in arrays]))
    columns = min(columns or len(arrays), len(arrays))
    width = width / columns if width else min(4.2, 10 / columns)  # of a panel, in inches
    tall = max(a.shape[0] / a.shape[1] for a in arrays)
    lines = max(len(wrapped(name, int(8.5 * width)).split("\n")) for name in names)
    rows = -(-len(arrays) // columns)
    height = rows * (width * tall + 0.35 + 0.25 * lines) + 0.25 * bool(title)
    fig, grid = plt.subplots(rows, columns, squeeze=False, figsize=(width * columns, height))
    for axes in grid.flat[len(arrays) :]:
        axes.set_axis_off()
    for axes, a, name, sides in zip(grid.flat, arrays, names, dashed):
        colours = palette[np.searchsorted(values, a) % len(palette)]  # (H, W, 3)
        colours[a < 0] = to_rgb("#D9D9D9")
        axes.imshow(colours)
        outline_cells(axes, a, "0.3", 0.6)
        border = dict(color="black", linewidth=2.5, solid_capstyle="round")
        for i, j in np.argwhere(a[1:] != a[:-1]):
            axes.plot([j - 0.5, j + 0.5], [i + 0.5, i + 0.5], **border)
        for i, j in np.argwhere(a[:, 1:] != a[:, :-1]):
            axes.plot([j + 0.5, j + 0.5], [i - 0.5, i + 0.5], **border)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set(visible=True, color="0.3")
        axes.set(xlabel="W", ylabel="H", title=wrapped(name, int(8.5 * width)), xticks=[], yticks=[])
        if sides is not None:
            dash_windows(axes, a.shape, sides)
        if max(a.shape) <= 16:
            number_cells(axes, np.where(a < 0, "–", a.astype(str)), colours)
    if any(sides is not None for sides in dashed):
        explain_lines(fig)
    headline(fig, title)
    return fig


@figure
def table_cutouts(index, queries: list[tuple[int, int]], title: str | None = None) -> Figure:
    """Which rows of the bias table a query reads: the whole table, and the part that each query reads.

    `index`: (N, N), the row of the table for each query and key of an M x M window. `queries`: one
    or two places (h, w) in the window. On the left, the rows 0, 1, ... of the table are drawn as a picture
    over (Δh, Δw), with a line around the rows that each query reads. To the right of it, the row numbers
    that each query reads are drawn in the order of the keys, in a frame of the same colour.
    """
    index = array(index)
    M = round(len(index) ** 0.5) if index.ndim == 2 else 0
    if index.shape != (M * M, M * M) or not 1 <= M <= 4:
        raise CourseError(f"the index of a window of M × M tokens is (M·M, M·M) with M up to 4, not {index.shape}")
    if len(queries) not in (1, 2):
        raise CourseError(f"{len(queries)} queries cannot be told apart in the table: give one or two")
    for h, w in queries:
        if not (0 <= h < M and 0 <= w < M):
            raise CourseError(f"query ({h}, {w}) is not in a window of {M} × {M}")
    side = 2 * M - 1
    table = np.arange(side * side).reshape(side, side)  # (Δh, Δw)
    read = [index[h * M + w].reshape(M, M) for h, w in queries]
    total = side + len(read) * M
    fig, panels_ = plt.subplots(
        1, 1 + len(read), figsize=(7, 7 * side / total + 0.9 + 0.3 * bool(title)), width_ratios=[side] + [M] * len(read)
    )
    for axes, a in zip(panels_, [table, *read]):
        colours = plt.get_cmap("viridis")(0.25 + 0.75 * np.clip(a / (side * side - 1), 0, 1))  # (., ., 4)
        axes.imshow(colours)
        outline_cells(axes, a, "0.3", 0.5)
        axes.tick_params(which="both", length=0, pad=6)
        number_cells(axes, a, colours)
    offsets = [f"{d}".replace("-", "−") for d in range(1 - M, M)]
    panels_[0].set(xlabel="Δw", ylabel="Δh", title="the table, by offset", xticks=range(side), yticks=range(side))
    panels_[0].set_xticklabels(offsets)
    panels_[0].set_yticklabels(offsets)
    panels_[0].spines[:].set_visible(False)
    for axes, (h, w), a, colour, width in zip(panels_[1:], queries, read, (VERMILION, "black"), (6, 3.5)):
        axes.set(
            xlabel="column of the key",
            ylabel="row of the key",
            title=wrapped(f"read by query ({h},\u00a0{w})", int(60 * M / total)),
            xticks=range(M),
            yticks=range(M),
        )
        axes.spines[:].set(visible=True, color=colour, linewidth=width)
        inside = np.pad(np.isin(table, a), 1)  # with a border of False around the table
        border = dict(color=colour, linewidth=width, solid_capstyle="projecting", clip_on=False)
        for i, j in np.argwhere(inside[1:] != inside[:-1]):
            panels_[0].plot([j - 1.5, j - 0.5], [i - 0.5, i - 0.5], **border)
        for i, j in np.argwhere(inside[:, 1:] != inside[:, :-1]):
            panels_[0].plot([j - 0.5, j - 0.5], [i - 1.5, i - 0.5], **border)
    headline(fig, title)
    return fig


# From dark for negative numbers through grey to light for positive ones, so that signs differ without colours, too.
SIGNS = LinearSegmentedColormap.from_list("signs", ["#08214A", BLUE, "#9A9A9A", "#F3B562", "#FFF8D6"])


@figure
def bias_tables(table, window, head: int = 0, title: str | None = None, noise: float = 0.0, offsets=None) -> Figure:
    """The bias table of one head as pictures over (Δh, Δw), one for each offset Δt in time.

    `table`: (rows, heads) with (2P-1)(2M-1)(2M-1) rows, in which Δw changes fastest. `window`: (P, M, M), or
    (M, M) for images. An offset is the query's position minus the key's. All pictures share one colour scale,
    which is centred at 0: negative is dark, positive is light. `noise`: entries whose size exceeds it get a frame.
    `offsets`: the Δt to draw; if it is left out, all.
    """
    table, window = array(table), tuple(window)
    sides = tuple(2 * w - 1 for w in (1,) * (3 - len(window)) + window)
    if table.ndim != 2 or len(table) != np.prod(sides):
        formula = " · ".join(f"(2·{w}−1)" for w in window)
        raise CourseError(
            f"the bias table of window {window} has {formula} = "
            f"{np.prod(sides)} rows and a column per head, "
            f"not shape {table.shape}"
        )
    dt, dh, dw = [s // 2 for s in sides]
    offsets = range(-dt, dt + 1) if offsets is None else offsets
    if not all(-dt <= d <= dt for d in offsets):
        raise CourseError(f"window {window} has offsets in time from {-dt} to {dt}, not {list(offsets)}")
    values = table[:, head].reshape(sides)  # (Δt, Δh, Δw)
    limit = np.abs(values).max() or 1.0
    columns = min(len(offsets), 4)
    rows = -(-len(offsets) // columns)
    side = min(8.1 / columns, 3.6)  # of a panel, in inches
    height = rows * (side + 0.35) + 0.6 + 0.35 * bool(title) + 0.3 * bool(noise)
    fig, grid = plt.subplots(
        rows, columns, squeeze=False, sharex=True, sharey=True, figsize=(side * columns + 1.9, height)
    )
    for axes in grid.flat[len(offsets) :]:
        axes.set_axis_off()
    for axes, t in zip(grid.flat, offsets):
        panel = values[t + dt]
        image = axes.imshow(
            panel, cmap=SIGNS, vmin=-limit, vmax=limit, extent=(-dw - 0.5, dw + 0.5, dh + 0.5, -dh - 0.5)
        )
        for h, w in np.argwhere(np.abs(panel) > noise) if noise else ():
            frame = dict(fill=False, edgecolor="black", linewidth=2.5)
            axes.add_patch(Rectangle((w - dw - 0.42, h - dh - 0.42), 0.84, 0.84, **frame))
        axes.set(xticks=sorted({-dw, 0, dw}), yticks=sorted({-dh, 0, dh}))
        axes.spines[:].set(visible=True, color="0.3")
        if len(window) == 3:
            axes.set_title(f"Δt = {t:+d}".replace("-", "−") if t else "Δt = 0")
    for axes in grid[-1]:
        axes.set_xlabel("Δw")
    for axes in grid[:, 0]:
        axes.set_ylabel("Δh")
    fig.colorbar(image, ax=grid, label=f"bias, head {head}", pad=0.01, aspect=15 * rows)
    if noise:
        frame = Patch(fill=False, edgecolor="black", linewidth=2.5, label=f"|bias| > {noise:.2g}")
        fig.legend(handles=[frame], loc="outside lower center")
    headline(fig, title)
    return fig


@figure
def index_matrix(index, title: str | None = None, window=None) -> Figure:
    """An integer matrix (N, N), N <= 16, as numbers. `window`: its sides, to name rows and columns (t, h, w)."""
    index = array(index)
    if index.ndim != 2 or max(index.shape) > 16:
        raise CourseError(f"the matrix must be at most 16 x 16 to be read, not {index.shape}")
    names, suffix = range(len(index)), ""
    if window is not None:
        names = [",".join(map(str, place)) for place in np.ndindex(*window)]
        suffix = f" ({','.join('thw'[-len(window) :])})"
    if len(names) != len(index):
        raise CourseError(f"window {tuple(window)} has {len(names)} tokens, the matrix {len(index)} rows")
    colours = plt.get_cmap("cividis")(Normalize()(index))  # (N, N, 4)
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


def window_numbers(size, window, shift=(0, 0, 0)) -> np.ndarray:
    """The number of each token's window after all windows have moved by `shift`: integers of shape `size`."""
    per_axis = [(np.arange(s) + (w - sh) % w) // w for s, w, sh in zip(size, window, shift)]
    grid = np.meshgrid(*per_axis, indexing="ij")
    return np.ravel_multi_index(grid, [int(a.max()) + 1 for a in per_axis])
