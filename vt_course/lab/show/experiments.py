"""Figures of experiments: orders of frames, intervals and their verdicts, accuracy against cost."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vt_course import CourseError
from vt_course.lab.show.style import COLOURS, MARKERS, figure, headline

VERDICTS = ("agrees", "disagrees", "undecided", "no claim")


@figure
def orders(
    rows: dict, ceilings: tuple[float, ...] = (), title: str | None = None, xlabel: str = "accuracy, %"
) -> Figure:
    """Accuracies of models in several orders of frames: a line for each model, a mark for each order and seed.

    `rows`: name -> {order: one percentage for each seed}. `ceilings`: percentages, drawn as dashed lines.
    """
    names = list(dict.fromkeys(order for each in rows.values() for order in each))
    fig, axes = plt.subplots(figsize=(10, 1.7 + 0.62 * len(rows)))
    for i, each in enumerate(rows.values()):
        for order, values in each.items():
            n = names.index(order)
            place = i + 0.7 * (n - (len(names) - 1) / 2) / len(names)
            style = dict(color=COLOURS[n], markeredgecolor="0.2", markersize=7, linestyle="none")
            axes.plot(values, [place] * len(values), MARKERS[n], **style)
    for ceiling in ceilings:
        axes.axvline(ceiling, color="0.3", linestyle="--", linewidth=1, zorder=0)
    ticks = sorted({0, *ceilings, 100})
    low, high = (f(value for each in rows.values() for values in each.values() for value in values) for f in (min, max))
    axes.set(xlim=(min(low, 0) - 2, max(high, 100) + 2), xlabel=xlabel)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set(ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)))
    axes.set_yticklabels(list(rows))
    for i in range(len(rows) - 1):
        axes.axhline(i + 0.5, color="0.85", linewidth=0.8, zorder=0)
    marks = [
        Line2D([], [], color=COLOURS[n], marker=MARKERS[n], markeredgecolor="0.2", linestyle="none", label=name)
        for n, name in enumerate(names)
    ]
    fig.legend(handles=marks, loc="outside lower center", ncols=min(len(names), 4))
    headline(fig, title)
    return fig


@figure
def intervals(lines: list[dict], title: str | None = None) -> Figure:
    """Differences with their 95 % intervals, one line each; colour and marker say the verdict.

    `lines`: dicts with label, mean, low, high (in points) and verdict, as in `verdicts.comparisons`; low and high may
    be None. claimed, a sign or None: a small triangle at the border says which way a paper's difference goes.
    """
    if not lines:
        raise CourseError("there is no difference to draw: give at least one line")
    fig, axes = plt.subplots(figsize=(10, 1.7 + 0.36 * len(lines)))
    ends = [x for line in lines for x in (line["mean"], line["low"], line["high"]) if x is not None]
    room = 0.06 * (max(*ends, 0) - min(*ends, 0) + 1)
    left, right = min(*ends, 0) - 2 * room, max(*ends, 0) + 2 * room
    for i, line in enumerate(lines):
        n = VERDICTS.index(line["verdict"])
        if line["low"] is not None:
            axes.plot([line["low"], line["high"]], [i, i], color=COLOURS[n], linewidth=3, solid_capstyle="butt")
        axes.plot(line["mean"], i, MARKERS[n], color=COLOURS[n], markeredgecolor="0.2", markersize=8)
        if line["claimed"]:
            up = line["claimed"] > 0
            axes.plot(right if up else left, i, ">" if up else "<", color="0.3", markersize=7, clip_on=False)
    axes.axvline(0, color="0.3", linewidth=1, zorder=0)
    axes.set(xlim=(left, right), ylim=(len(lines) - 0.5, -0.5), yticks=range(len(lines)))
    axes.set_yticklabels([line["label"] for line in lines])
    axes.set_xlabel("difference of accuracies, points")
    axes.grid(axis="x")
    here = [n for n, name in enumerate(VERDICTS) if any(line["verdict"] == name for line in lines)]
    marks = [
        Line2D([], [], color=COLOURS[n], marker=MARKERS[n], markeredgecolor="0.2", linewidth=3, label=VERDICTS[n])
        for n in here
    ]
    if any(line["claimed"] for line in lines):
        marks.append(Line2D([], [], color="0.3", marker="<", linestyle="none", label="the paper's direction"))
    fig.legend(handles=marks, loc="outside lower center", ncols=len(marks))
    headline(fig, title)
    return fig


@figure
def tradeoff(points: dict, title: str | None = None) -> Figure:
    """Accuracy against two costs, side by side: a mark for each seed and a line from the worst to the best.

    `points`: name -> dict(top1=[percent for each seed], seconds=number, macs=number in millions).
    """
    fig, panels = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    for axes, cost, label in zip(
        panels, ("macs", "seconds"), ("million multiply-accumulates of a clip", "seconds of training, one core")
    ):
        for n, (name, point) in enumerate(points.items()):
            x = [point[cost]] * len(point["top1"])
            style = dict(color=COLOURS[n], linewidth=1.5, markeredgecolor="0.2", markersize=9)
            axes.plot(x, point["top1"], marker=MARKERS[n], **style, label=name if cost == "macs" else None)
        axes.set(xscale="log", xlabel=label, ylim=(-4, 106))
        axes.grid()
        low, high = (f(point[cost] for point in points.values()) for f in (min, max))
        ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if low / 1.6 <= tick <= high * 1.6]
        axes.set_xlim(low / 1.5, high * 1.5)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
    panels[0].set_ylabel("accuracy with frames in order, %")
    fig.legend(loc="outside lower center", ncols=3)
    headline(fig, title)
    return fig
