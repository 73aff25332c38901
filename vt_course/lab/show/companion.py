"""Figures of the ledger: how the claims came out, and what the papers state of accuracy and cost."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vt_course import CourseError
from vt_course.colours import BLUE, GREEN, PINK, SKY, VERMILION, YELLOW
from vt_course.lab.show.style import COLOURS, MARKERS, figure, headline, ink

SHADES = {
    "exact": GREEN,
    "within tolerance": SKY,
    "scaled down": BLUE,
    "differs": VERMILION,
    "undecided": YELLOW,
    "not run": "0.85",
    "unverified source": PINK,
}


@figure
def statuses(groups: dict[str, dict[str, dict[str, int]]], title: str | None = None) -> Figure:
    """How many claims have which status: a panel for each of `groups`, a bar for each name in it.

    `groups`: title of a panel -> {name: {status: number}}. A number stands in its part of the bar where it has room,
    and the sum at the end.
    """
    heights = [len(each) for each in groups.values()]
    fig, panels = plt.subplots(
        len(groups),
        1,
        squeeze=False,
        figsize=(10, 1.9 + 0.42 * sum(heights) + 0.3 * len(groups)),
        height_ratios=heights,
    )
    for axes, (heading, bars) in zip(panels[:, 0], groups.items()):
        top = max(sum(each.values()) for each in bars.values())
        for i, each in enumerate(bars.values()):
            left = 0
            for status, number in each.items():
                axes.barh(i, number, left=left, color=SHADES[status], edgecolor="0.3", linewidth=0.6, height=0.7)
                if number >= 0.016 * len(f"{number}") * top:
                    style = dict(ha="center", va="center", size=11, color=ink(SHADES[status]))
                    axes.text(left + number / 2, i, f"{number}", **style)
                left += number
            axes.text(left + 0.01 * top, i, f"{left}", va="center", size=11, weight="bold")
        axes.set(xlim=(0, 1.08 * top), ylim=(len(bars) - 0.5, -0.5), yticks=range(len(bars)), xticks=[], title=heading)
        axes.set_yticklabels(list(bars))
        axes.spines["bottom"].set_visible(False)
    handles = [plt.Rectangle((0, 0), 1, 1, facecolor=shade, edgecolor="0.3") for shade in SHADES.values()]
    fig.legend(handles, list(SHADES), loc="outside lower center", ncols=4)
    headline(fig, title)
    return fig


@figure
def landscape(
    points: list[dict], data: dict[str, str], title: str | None = None, names: dict[str, dict[str, str]] | None = None
) -> Figure:
    """Stated accuracies against what an answer costs, a row of two panels for each data set, a mark for each variant.

    `points`: dict(family, model, data, accuracy, gmacs (of all views), parameters (millions), firm) as in
    `vt_course.lab.companion.landscape`; a cost that is None is not drawn. `data`: the data sets to draw, and their
    names in full. A mark is hollow where one of its numbers was read in a table of other authors. `names`: what
    to write beside marks of the right panels, data set -> {model: text}. Raises `CourseError` for a data set without a
    point.
    """
    families = list(dict.fromkeys(point["family"] for point in points))
    fig, grid = plt.subplots(len(data), 2, squeeze=False, figsize=(11, 3.3 * len(data) + 0.9), sharey="row")
    for (short, name), panels in zip(data.items(), grid):
        here = [point for point in points if point["data"] == short]
        if not here:
            raise CourseError(f"no variant has an accuracy on {short!r}")
        for axes, cost, label in (
            (panels[0], "gmacs", "GMACs of all views of one answer"),
            (panels[1], "parameters", "million parameters"),
        ):
            drawn = [point for point in here if point[cost] is not None]
            for point in drawn:
                n = families.index(point["family"])
                style = dict(markeredgecolor=COLOURS[n], markeredgewidth=1.5, markersize=8, linestyle="none")
                face = to_rgba(COLOURS[n], 0.35) if point["firm"] else "none"  # one mark does not hide another
                axes.plot(point[cost], point["accuracy"], MARKERS[n], markerfacecolor=face, **style)
            axes.set(xscale="log", xlabel=label)
            costs = [point[cost] for point in drawn]
            low, high = min(costs), max(costs)
            steps = (1, 2, 5) if high < 50 * low else (1,)  # more of them would touch
            ticks = [step * 10**k for k in range(-1, 6) for step in steps if low <= 1.5 * step * 10**k <= 2.25 * high]
            axes.set_xlim(low / 1.5, 1.5 * high)
            axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
            axes.minorticks_off()
            axes.grid()
        panels[0].set_ylabel("stated top-1, %")
        panels[0].set_title(name, loc="left")
    style = dict(linestyle="none", markersize=8, markeredgewidth=1.5)
    marks = [
        Line2D([], [], marker=m, color=c, markerfacecolor=to_rgba(c, 0.35), label=family, **style)
        for m, c, family in zip(MARKERS, COLOURS, families)
    ]
    if not all(point["firm"] for point in points if point["data"] in data):
        hollow = dict(marker="o", markerfacecolor="none", markeredgecolor="0.3")
        marks.append(Line2D([], [], **style, **hollow, label="hollow: a secondary source"))
    fig.legend(handles=marks, loc="outside lower center", ncols=4)
    headline(fig, title)
    fig.draw_without_rendering()  # only now it is known where the marks are
    for short, axes in zip(data, grid[:, 1]):
        for point in points:
            text = (names or {}).get(short, {}).get(point["model"])
            if text and point["data"] == short:
                write_beside(axes, (point["parameters"], point["accuracy"]), text)
    return fig


def write_beside(axes: Axes, place: tuple[float, float], text: str) -> None:
    """Write a text right, left, below or above a mark: at the first of these sides that other marks and texts leave."""
    marks = axes.transData.transform([(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines])
    boxes = [other.get_window_extent() for other in axes.texts]
    for x, y, across, up in ((9, 0, "left", "center"), (-9, 0, "right", "center"), (0, -8, "center", "top")):
        style = dict(xytext=(x, y), textcoords="offset points", ha=across, va=up, size=11)
        note = axes.annotate(text, place, **style)
        box = note.get_window_extent()
        inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0
        if inside and not box.expanded(1, 1.3).count_contains(marks) and not box.count_overlaps(boxes):
            return
        note.remove()
    axes.annotate(text, place, **style | dict(xytext=(0, 8), va="bottom"))
