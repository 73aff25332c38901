"""Figures of experiments: orders of frames, intervals and their verdicts, accuracy against cost."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vt_course import CourseError
from vt_course.lab.show.style import COLOURS, MARKERS, figure, headline

VERDICTS = ("agrees", "disagrees", "undecided", "no claim")


# An order of frames has one colour and marker in all figures, also in `families`: the place of its name here.
ORDERS = ("in order", "shuffled", "reversed", "one frame repeated", "tubes reversed", "frames swapped")


@figure
def orders(rows: dict, ceilings: dict | None = None, title: str | None = None, xlabel: str = "accuracy, %") -> Figure:
    """Accuracies of models in several orders of frames: a line for each model, a mark for each order and seed.

    `rows`: name -> {order: one percentage for each seed}. The names in `ORDERS` have fixed colours; others take the
    colours that are left. `ceilings`: name -> percentage, drawn as dashed lines.
    """
    ceilings = ceilings or {}
    names = list(dict.fromkeys(order for each in rows.values() for order in each))
    left = iter(n for n in range(len(COLOURS)) if n >= len(ORDERS) or ORDERS[n] not in names)
    styles = {name: ORDERS.index(name) if name in ORDERS else next(left) for name in names}
    fig, axes = plt.subplots(figsize=(10, 1.7 + 0.62 * len(rows)))
    for i, each in enumerate(rows.values()):
        for order, values in each.items():
            n = styles[order]
            place = i + 0.7 * (names.index(order) - (len(names) - 1) / 2) / len(names)
            style = dict(color=COLOURS[n], markeredgecolor="0.2", markersize=7, linestyle="none")
            axes.plot(values, [place] * len(values), MARKERS[n], **style)
    dashed = dict(color="0.3", linestyle="--", linewidth=1)
    for ceiling in ceilings.values():
        axes.axvline(ceiling, **dashed, zorder=0)
    ticks = sorted({0, *ceilings.values(), 100}) if ceilings else range(0, 101, 25)
    low, high = (f(value for each in rows.values() for values in each.values() for value in values) for f in (min, max))
    axes.set(xlim=(min(low, 0) - 2, max(high, 100) + 2), xlabel=xlabel)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set(ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)))
    axes.set_yticklabels(list(rows))
    for i in range(len(rows) - 1):
        axes.axhline(i + 0.5, color="0.85", linewidth=0.8, zorder=0)
    marks = [
        Line2D([], [], color=COLOURS[n], marker=MARKERS[n], markeredgecolor="0.2", linestyle="none", label=name)
        for name, n in styles.items()
    ]
    if ceilings:
        told = ", ".join(f"{name} {value:g} %" for name, value in ceilings.items())
        marks.append(Line2D([], [], **dashed, label=f"ceilings: {told}"))
    fig.legend(handles=marks, loc="outside lower center", ncols=min(len(marks), 3 if ceilings else 4))
    headline(fig, title)
    return fig


@figure
def intervals(lines: list[dict], title: str | None = None, near: float | None = None) -> Figure:
    """Differences with their 95 % intervals, one line each; colour and marker say the verdict.

    `lines`: dicts with label, mean, low, high (in points) and verdict, as in `verdicts.comparisons`; low and high may
    be None. claimed, a sign or None: a small triangle beside the border says which way a paper's difference goes.
    `near`: a second panel shows the same lines from -near to near, for intervals that are short in the first.
    """
    if not lines:
        raise CourseError("there is no difference to draw: give at least one line")
    panels, width = (2, 12) if near else (1, 10)
    fig, axes = plt.subplots(1, panels, figsize=(width, 1.7 + 0.27 * len(lines)), sharey=True, squeeze=False)
    ends = [x for line in lines for x in (line["mean"], line["low"], line["high"]) if x is not None]
    room = 0.06 * (max(*ends, 0) - min(*ends, 0) + 1)
    left, right = min(*ends, 0) - 2 * room, max(*ends, 0) + 2 * room
    for i, line in enumerate(lines):
        n = VERDICTS.index(line["verdict"])
        for panel in axes[0]:
            if line["low"] is not None:
                panel.plot([line["low"], line["high"]], [i, i], color=COLOURS[n], linewidth=3, solid_capstyle="butt")
            panel.plot(line["mean"], i, MARKERS[n], color=COLOURS[n], markeredgecolor="0.2", markersize=8)
        if line["claimed"]:
            up = line["claimed"] > 0
            axes[0, 0].plot(
                right - 0.7 * room if up else left + 0.7 * room, i, ">" if up else "<", color="0.3", markersize=7
            )
    for panel in axes[0]:
        panel.axvline(0, color="0.3", linewidth=1, zorder=0)
        panel.grid(axis="x")
        panel.set_xlabel("difference of accuracies, points")
    axes[0, 0].set(xlim=(left, right), ylim=(len(lines) - 0.5, -0.5), yticks=range(len(lines)))
    axes[0, 0].set_yticklabels([line["label"] for line in lines])
    if near:
        axes[0, 0].set_title("all")
        axes[0, 1].set(xlim=(-near, near), title=f"from −{near:g} to {near:g}")
        axes[0, 1].tick_params(axis="y", length=0)
    here = [n for n, name in enumerate(VERDICTS) if any(line["verdict"] == name for line in lines)]
    marks = [
        Line2D([], [], color=COLOURS[n], marker=MARKERS[n], markeredgecolor="0.2", linewidth=3, label=VERDICTS[n])
        for n in here
    ]
    if any(line["claimed"] for line in lines):
        marks.append(Line2D([], [], color="0.3", marker="<", linestyle="none", label="the paper's direction"))
    if any(line["claimed"] == 0 for line in lines):
        marks.append(Line2D([], [], linestyle="none", label="no arrow: the paper says no difference"))
    fig.legend(handles=marks, loc="outside lower center", ncols=min(len(marks), 4))
    headline(fig, title)
    return fig


@figure
def tradeoff(points: dict, title: str | None = None) -> Figure:
    """Accuracy against two costs, side by side: a mark for each seed and a line from the worst to the best.

    `points`: name -> dict(top1=[percent for each seed], seconds=number, macs=number in millions).
    """
    fig, panels = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    for axes, cost, label in zip(
        panels, ("macs", "seconds"), ("million multiply-accumulates of a clip", "seconds of training on one core")
    ):
        for n, (name, point) in enumerate(points.items()):
            x = [point[cost]] * len(point["top1"])
            style = dict(color=COLOURS[n], linewidth=1.5, markeredgecolor="0.2", markersize=9)
            axes.plot(x, point["top1"], marker=MARKERS[n], **style, label=name if cost == "macs" else None)
        axes.set(xscale="log", xlabel=f"{label} (log axis)", ylim=(-4, 106))
        axes.grid()
        low, high = (f(point[cost] for point in points.values()) for f in (min, max))
        ticks = [n * 10**k for k in range(5) for n in (1, 2, 3, 5, 7) if low / 1.5 <= n * 10**k <= high * 1.5]
        axes.set_xlim(low / 1.5, high * 1.5)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
    panels[0].set_ylabel("accuracy with frames in order, %")
    fig.legend(loc="outside lower center", ncols=3)
    headline(fig, title)
    return fig
