"""The figure below a failed check: what was expected, what the reader got, and where they differ."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from vt_course import CourseError
from vt_course.colours import VERMILION
from vt_course.lab.show.style import array, bare, figure, headline, number_cells

# Grey: equal. Then from pale to dark as the difference grows.
GAPS = LinearSegmentedColormap.from_list("gaps", [(0, "#E4E4E4"), (0.4, "#F6C3A0"), (0.75, VERMILION), (1, "#6B2A00")])


def montage(x: np.ndarray) -> np.ndarray:
    """An array of 1 to 3 axes -> one picture (rows, columns); a 3-D array as slices with NaN between them."""
    if x.ndim < 3:
        return np.atleast_2d(x)
    n, height, width = x.shape
    columns = int(np.clip(round((n * height / width) ** 0.5), 1, n))
    gap = max(1, min(height, width) // 16)
    x = np.pad(x, ((0, -n % columns), (0, gap), (0, gap)), constant_values=np.nan)
    x = x.reshape(-1, columns, height + gap, width + gap)  # (rows, columns, h, w)
    x[-1, columns - (-n % columns) :] = np.nan
    return x.swapaxes(1, 2).reshape(-1, columns * (width + gap))[:-gap, :-gap]


@figure
def expected_got(expected, got, title: str | None = None) -> Figure:
    """Three panels: expected, got, and where they differ by more than 1e-5 (relative and absolute); darker is more.

    Arrays of up to three axes are drawn whole. Of arrays with more axes, the first slice that differs
    is drawn. The first position that differs is marked and printed with both values. Arrays of
    different shapes are drawn without a comparison.
    """
    expected, got = array(expected), array(got)
    if not expected.size or not got.size:
        raise CourseError(f"an empty array cannot be drawn: expected {expected.shape}, got {got.shape}")
    lead = [(0,) * max(0, a.ndim - 3) for a in (expected, got)]
    heading = f"shapes differ\nexpected {expected.shape}\ngot {got.shape}"
    differs = np.zeros(expected.shape, bool)
    if expected.shape == got.shape:
        pair = expected.astype(float), got.astype(float)
        differs = ~np.isclose(*pair, rtol=1e-5, atol=1e-5, equal_nan=True)
        heading = f"all {differs.size:,} equal"
    if differs.any():
        first = tuple(map(int, np.argwhere(differs)[0]))
        lead = [first[: max(0, len(first) - 3)]] * 2
        heading = (
            f"{differs.sum():,} of {differs.size:,} differ, first\n{list(first)}: "
            f"expected {float(expected[first]):.4g}, got {float(got[first]):.4g}"
        )
        only = np.zeros(differs.shape)
        only[first] = 1
        y, x = np.argwhere(montage(only[lead[0]]) == 1)[0]
    drawn = [montage(a[i].astype(float)) for a, i in zip((expected, got), lead)]
    numbered = all(a.ndim < 3 and a.size <= 64 and a.dtype.kind in "iub" for a in (expected, got))
    finite = np.concatenate([d[np.isfinite(d)] for d in drawn])
    low, high = (finite.min(), finite.max()) if finite.size else (0, 1)
    ratios = [np.clip(d.shape[0] / d.shape[1], 0.15, 1.3) for d in drawn]
    fig, grid = plt.subplots(1, 3, figsize=(10, 3.1 * max(ratios) + 1.2 + 0.35 * bool(title)))
    for axes, d, ratio, name in zip(grid, drawn, ratios, ("expected", "got")):
        image = axes.imshow(d, cmap="cividis", vmin=low, vmax=high if high > low else low + 1, aspect="auto")
        axes.set_box_aspect(ratio)
        axes.set_title(name)
        if numbered:
            number_cells(axes, d.astype(int), image.to_rgba(d))
    if expected.shape == got.shape:
        with np.errstate(invalid="ignore"):
            gap = np.nan_to_num(np.abs(pair[0] - pair[1]), nan=np.inf)
        largest = gap[np.isfinite(gap)].max(initial=0)
        shade = differs * (0.4 + 0.6 * np.clip(gap / (largest or 1), 0, 1))  # 0 where equal
        grid[2].imshow(montage(shade[lead[0]]), cmap=GAPS, vmin=0, vmax=1, aspect="auto")
    grid[2].set_box_aspect(ratios[0])
    grid[2].set_title(heading.replace("-", "−"), size=11)
    fig.colorbar(image, ax=list(grid), location="bottom", aspect=40, shrink=0.5)
    fig.get_layout_engine().set(wspace=0.06)
    for axes in grid:
        bare(axes)
        axes.spines[:].set(visible=True, color="0.75")  # a frame, because the slices belong to one array
        axes.set_anchor("N")
        if differs.any():
            for colour, line in (("white", 6), ("black", 2.5)):  # visible on every colour
                if numbered:
                    axes.add_patch(
                        Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=colour, linewidth=line, clip_on=False)
                    )
                else:
                    axes.plot(
                        x, y, "o", markersize=16, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=line
                    )
    if differs.any():
        fig.legend(handles=legend(numbered), loc="outside lower center", ncols=4, frameon=False)
    headline(fig, title)
    return fig


def legend(numbered: bool) -> list:
    """What the colours of the third panel and the mark mean."""
    mark = Line2D([], [], linestyle="none", marker="s" if numbered else "o", markersize=11, markeredgewidth=2.5)
    mark.set(markerfacecolor="none", markeredgecolor="black", label="first difference")
    return [
        Patch(color=GAPS(0.0), label="equal"),
        Patch(color=GAPS(0.4), label="differs a little"),
        Patch(color=GAPS(1.0), label="differs most"),
        mark,
    ]
