"""Figures of repeated measurements: one dot for each."""

import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from vt_course import CourseError
from vt_course.colours import ORANGE, SKY, VERMILION
from vt_course.lab.show.style import MARKERS, array, figure, headline


@figure
def spread(
    rows: dict,
    xlabel: str,
    title: str | None = None,
    marks: dict | None = None,
    paired: bool = False,
    median: bool = False,
    width: float = 10,
) -> Figure:
    """One dot for each measurement and a line at their mean, with the mean and the standard deviation as text.

    `rows`: name -> values, for instance one value for each seed. A single value has no deviation.
    `marks`: legend -> {name: value}, numbers of another kind in the same rows, for instance a
    published one. `paired`: the n-th values of all rows belong together, for instance to one
    seed; a thin line joins them. `median`: draw and write the median, without a deviation. Use it
    for times, because a few of them may be far off. `width`: of the figure, in inches.
    """
    for name, values in rows.items():
        if array(values).ndim != 1 or not len(values):
            raise CourseError(f"row {name!r} needs a list of at least one value")
    for label, values in (marks or {}).items():
        if unknown := [name for name in values if name not in rows]:
            raise CourseError(f"marks {label!r} name {', '.join(map(repr, unknown))}, which is no row")
    if paired and len({len(values) for values in rows.values()}) > 1:
        raise CourseError("paired rows need equally many values each")
    fig, axes = plt.subplots(figsize=(width, 0.62 * len(rows) + 1.2 + 0.35 * bool(marks)))
    for together in zip(*rows.values()) if paired else ():
        axes.plot(together, range(len(rows)), color="0.6", linewidth=1)
    deviations = [array(v).astype(float).std(ddof=1) for v in rows.values() if len(v) > 1 and not median]
    # As many decimals in all rows: two digits of the largest deviation.
    places = max(0, 1 - math.floor(math.log10(max(deviations) or 1))) if deviations else None
    for i, values in enumerate(array(v).astype(float) for v in rows.values()):
        axes.plot(
            values,
            np.full(len(values), i),
            "o",
            color=SKY,
            markeredgecolor="0.2",
            markersize=7,
            label="one measurement" if i == 0 else None,
        )
        middle = np.median(values) if median else values.mean()
        axes.plot(
            [middle] * 2,
            [i - 0.3, i + 0.3],
            color="black",
            linewidth=2.5,
            label=("median" if median else "mean") if i == 0 else None,
        )
        text = f"{middle:.3g}" if places is None else f"{middle:.{places}f}"
        if len(values) > 1 and not median:
            text += f" ± {values.std(ddof=1):.{places}f}"
        axes.annotate(text, (1.01, i), xycoords=("axes fraction", "data"), va="center", size=12)
    for n, (label, values) in enumerate((marks or {}).items()):
        axes.plot(
            list(values.values()),
            [list(rows).index(name) for name in values],
            MARKERS[n + 1],
            color=(ORANGE, VERMILION)[n % 2],
            markeredgecolor="0.2",
            markersize=9,
            linestyle="none",
            label=label,
            zorder=1.9,
        )  # behind the dots
    axes.set(yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.5), xlabel=xlabel)
    axes.set_yticklabels(list(rows))
    axes.margins(x=0.08)
    axes.grid(axis="x")
    fig.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2 + len(marks or {}))
    headline(fig, title)
    return fig
