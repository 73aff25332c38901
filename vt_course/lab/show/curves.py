"""Figures of numbers: the shapes inside a network, costs, training, results."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from vt_course import CourseError
from vt_course.colours import BLUE, SKY, VERMILION
from vt_course.lab.show.style import COLOURS, MARKERS, array, bare, figure, headline, number_cells


@figure
def token_flow(rows: list[dict], title: str | None = None) -> Figure:
    """The feature maps inside a network, each drawn as a box to scale (the time axis at a quarter of the scale).

    `rows`: dicts with name, shape (T, H, W) in tokens, channels. Below each box: its shape, its
    number of tokens, and the megabytes (10^6 bytes) of one such map in float32.
    """
    top = max(r["shape"][1] for r in rows)  # in tokens: the tallest box, drawn 1.5 inches high
    width = 2 / 1.5 * top  # in tokens: a column, 2 inches wide
    fig, axes = plt.subplots(figsize=(2 * len(rows), 3.1 + 0.4 * bool(title)))
    for i, row in enumerate(rows):
        T, H, W = row["shape"]
        depth = np.array([0.24, 0.16]) * top * T / rows[0]["shape"][0]
        left = i * width + (width - W - depth[0]) / 2
        a, b, c, d = np.array([(left, 0), (left + W, 0), (left + W, H), (left, H)])
        for corners, shade in (
            ((a, b, c, d), SKY),
            ((d, c, c + depth, d + depth), "#A9D9F4"),
            ((b, b + depth, c + depth, c), BLUE),
        ):
            axes.add_patch(Polygon(corners, facecolor=shade, edgecolor="0.15", linewidth=0.8))
        tokens, C = T * H * W, row["channels"]
        below = dict(xy=((i + 0.5) * width, 0), textcoords="offset points", ha="center", va="top")
        axes.annotate(row["name"], xytext=(0, -8), weight="bold", **below)
        axes.annotate(
            f"{T} × {H} × {W} × {C}\n{tokens:,} tokens\n{4e-6 * tokens * C:.3g} MB",
            xytext=(0, -27),
            size=11,
            linespacing=1.4,
            **below,
        )
    axes.set(xlim=(0, width * len(rows)), ylim=(-0.85 * top, 1.2 * top))  # room for text
    axes.set_aspect("equal")
    bare(axes)
    headline(fig, title)
    return fig


@figure
def cost_curves(
    series: dict,
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    limits: dict | None = None,
    ticks: dict | None = None,
    slopes: bool = True,
    width: float = 9,
) -> Figure:
    """Measured costs on log-log axes, with the fitted slope in the legend and the line of a formula, if there is one.

    `series`: name -> dict(x=[...], y=[...]). If there is a formula for the cost, formula_y=[...] holds its values at x.
    On these axes y ~ x^k is a line of slope k. `limits`: name -> a value of y that should not be passed, such as
    the memory of a machine; it is drawn as a horizontal line with its name at the left. `ticks`: x -> its text, such as
    {50176: "224²"}. `slopes`: False for times, whose slope the next machine turns upside down.
    """
    fig, axes = plt.subplots(figsize=(width, max(5 * width / 9, 4.4)))
    for i, (name, s) in enumerate(series.items()):
        x, y = array(s["x"]).astype(float), array(s["y"]).astype(float)
        if len(x) < 2 or len(x) != len(y) or min(x.min(), y.min()) <= 0:
            raise CourseError(f"series {name!r} needs at least two positive points, x and y equally many")
        slope = np.polyfit(np.log(x), np.log(y), 1)[0]
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(
            x,
            y,
            marker=MARKERS[i % len(MARKERS)],
            markersize=7,
            color=colour,
            linestyle="-" if s.get("formula_y") is None else "",
            label=f"{name} (slope {slope:.2f})" if slopes else name,
        )
        if s.get("formula_y") is not None:
            axes.plot(x, array(s["formula_y"]), color=colour, linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    shown, nearest = [], 0.07 * np.subtract(*np.log(axes.get_xlim())[::-1])
    for x in ticks or np.unique(np.concatenate([array(s["x"]) for s in series.values()])):
        if not shown or np.log(x / shown[-1]) > nearest:  # the x that were measured, where labels have room
            shown.append(x)
    axes.set_xticks(shown, [ticks[x] if ticks else f"{x:,.6g}" for x in shown])
    axes.set_xticks([], minor=True)
    low, high = axes.get_ylim()
    if high / low < 50:  # less than two decades: write 20, 50, 100, not 2 × 10¹
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.6g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid()
    for name, value in (limits or {}).items():
        if value <= 0:
            raise CourseError(f"limit {name!r} must be positive, not {value}")
        axes.axhline(value, color="0.25", linestyle=":", linewidth=1.8)
        axes.annotate(name, (0, value), (4, 3), xycoords=("axes fraction", "data"), textcoords="offset points", size=11)
    handles, _ = axes.get_legend_handles_labels()
    if any(s.get("formula_y") is not None for s in series.values()):
        handles.append(Line2D([], [], color="0.3", linewidth=1, label="lines: formula"))
    if limits:  # their names stand where the legend would be put
        axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.17))
    else:
        axes.legend(handles=handles)
    headline(fig, title)
    return fig


@figure
def confusion(matrix, classes, title: str | None = None) -> Figure:
    """Counts (K, K): rows are true classes, columns predicted classes; the colour is the share of the row."""
    matrix, K = array(matrix), len(classes)
    if matrix.shape != (K, K):
        raise CourseError(f"{K} classes need a confusion matrix of shape ({K}, {K}), not {matrix.shape}")
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    colours = plt.get_cmap("Blues")
    longest = max(map(len, classes))
    fig, axes = plt.subplots(figsize=(0.5 * K + 0.09 * longest + 1.7, 0.5 * K + 0.06 * longest + 0.9))
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
def ceilings(results: dict, ceilings: dict, title: str | None = None, width: float = 10) -> Figure:
    """Accuracies as bars, with lines for the highest accuracies that are possible.

    `results`: name -> (accuracy, standard error), `ceilings`: name -> accuracy; all are
    fractions from 0 to 1 and drawn in percent.
    """
    for name, value in [*((n, r[0]) for n, r in results.items()), *ceilings.items()]:
        if not 0 <= value <= 1:
            raise CourseError(f"accuracy {value} of {name!r} is not a fraction from 0 to 1")
    fig, axes = plt.subplots(figsize=(width, 0.5 * len(results) + 1.6))
    letter = 14 / width  # a letter is about 1.4 % wide in a figure of 10 inches
    for i, (name, (accuracy, error)) in enumerate(results.items()):
        axes.barh(
            i,
            100 * accuracy,
            xerr=100 * error,
            height=0.6,
            color=SKY,
            edgecolor="0.2",
            error_kw=dict(capsize=5, elinewidth=1.6, ecolor="black"),
        )
        axes.text(
            1.02, i, f"{100 * accuracy:.1f} ± {100 * error:.1f} %", va="center", transform=axes.get_yaxis_transform()
        )
    row_ends = []  # where the names above the axes end, in percent
    for name, value in sorted(ceilings.items(), key=lambda item: item[1]):
        value, name = 100 * value, f"{name}: {100 * value:.4g} %"
        start = min(value, 100 - letter * len(name))
        row = next((r for r, end in enumerate(row_ends) if end < start), len(row_ends))
        row_ends[row : row + 1] = [start + letter * len(name)]
        axes.axvline(value, color=VERMILION, linestyle="--", linewidth=2, clip_on=False)
        axes.annotate(
            name,
            (start, 1),
            (0, 4 + 17 * row),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color="#A04000",
            va="bottom",
        )
    axes.set_yticks(range(len(results)), list(results))
    axes.set(xlim=(0, 100), xlabel="accuracy (%)")
    axes.invert_yaxis()
    headline(fig, title)
    return fig


@figure
def curves(
    histories: dict,
    ylabel: str,
    title: str | None = None,
    xlabel: str = "epoch",
    levels: dict | None = None,
    single: dict | None = None,
) -> Figure:
    """Curves over training: name -> values per epoch, or name -> dict(x=[...], y=[...]).

    `levels`: name -> a value of y to compare with, such as the loss of a guess; dotted lines.
    `single`: name -> curves (n, epochs) of the runs behind a history, for instance one for each seed; thin lines.
    """
    if unknown := [name for name in single or {} if name not in histories]:
        raise CourseError(f"single names {', '.join(map(repr, unknown))}, which is no history")
    fig, axes = plt.subplots(figsize=(9, 4.2))
    for i, (name, history) in enumerate(histories.items()):
        given = isinstance(history, dict)
        y = array(history["y"] if given else history)
        x = array(history["x"]) if given else np.arange(1, len(y) + 1)
        axes.plot(
            x,
            y,
            color=COLOURS[i % len(COLOURS)],
            linestyle=["-", "--"][i % 2],
            marker=MARKERS[i % len(MARKERS)],
            markersize=6,
            markevery=max(1, len(y) // 20),
            label=name,
        )
        for run in array((single or {}).get(name, [])):
            axes.plot(np.arange(1, len(run) + 1), run, color=COLOURS[i % len(COLOURS)], linewidth=0.7, zorder=1)
    for name, level in (levels or {}).items():
        axes.axhline(level, color="0.35", linestyle=":", linewidth=2, zorder=0, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid()
    axes.legend()
    headline(fig, title)
    return fig
