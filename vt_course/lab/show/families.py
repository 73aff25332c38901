"""The families side by side: what each reads from clips, with and without the order of frames, and what it costs."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from vt_course import CourseError, closest
from vt_course.files import read_json
from vt_course.lab.show.style import COLOURS, MARKERS, figure
from vt_course.training.experiments.rows import home

ROW = "families-motion"
TIMES = "bench_minis_cpu.json"
ORDERS = {"normal": "frames in order", "shuffled": "shuffled", "reversed": "in reverse", "single": "one frame repeated"}


def measured(result: dict) -> dict[str, dict]:
    """name of a family -> its accuracies in percent, {order: one for each seed}, and what it costs, {title: number}."""
    from vt_course.models import ZOO, create
    from vt_course.models.cost import count_macs

    path = home() / "results" / TIMES
    rows = read_json(path, "restore it, or run `vt-course bench minis --json`", dict)["rows"]
    timed = {row["model"]: row for row in rows}
    families = {}
    for name, variant in result["variants"].items():
        model, runs = result["depends_on"]["recipes"][name]["model"], variant["runs"]
        if not runs:
            continue
        with torch.device("meta"):
            macs = count_macs(create(model), (1, *ZOO[model].input))
        families[name] = {
            "top1": {order: [100 * run["top1"][order] for run in runs] for order in runs[0]["top1"]},
            "cost": {
                "parameters,\nthousands": runs[0]["parameters"] / 1e3,
                "MACs of a clip,\nmillions": macs / 1e6,
                "time of a clip,\nms": timed[model]["ms"],
                "memory of a clip,\nMB": timed[model]["peak_mb"],
            },
        }
    return families


@figure
def families(*names: str) -> Figure:
    """What the families of the course read from clips of motion, and what they cost: one row each, in the given order.

    `names`: of the families, as in results/experiments/families-motion.json; without names, all. Left: the accuracy on
    test clips, one mark for each seed. All were trained with their frames in order, and tested in four orders. Dashed:
    what one frame can tell at most (12.5 %), and what frames without order can tell at most (50 %).
    Right: parameters, multiply-accumulates of one clip, and the milliseconds and the memory that one clip takes,
    forward and backward, on one core of a CPU, where all models took turns in one process (`vt-course bench minis`).
    The seconds of the trainings are not drawn, because they were made beside other work.

    Raises `CourseError` for a family that was not measured, and if the course's file of measurements is missing.
    """
    from vt_course.training.experiments.results import read_result, result_file

    result = read_result(ROW)
    if result is None:
        raise CourseError(f"there is no {result_file(ROW)}: restore it, or run `vt-course experiments --only {ROW}`")
    known = measured(result)
    for name in names:
        if name not in known:
            raise CourseError(f"no family {name!r} was measured: {closest(name, known)}")
    names = names or tuple(known)
    titles = list(known[names[0]]["cost"])
    fig, (axes, *bars) = plt.subplots(
        1, 1 + len(titles), figsize=(12, 1.9 + 0.62 * len(names)), sharey=True, width_ratios=[3.4] + [1] * len(titles)
    )
    for n, (order, label) in enumerate(ORDERS.items()):
        for i, name in enumerate(names):
            values = known[name]["top1"][order]
            places = np.full(len(values), i + 0.2 * (n - 1.5))
            style = dict(color=COLOURS[n], markeredgecolor="0.2", markersize=6, linestyle="none")
            axes.plot(values, places, MARKERS[n], **style, label=None if i else label)
    for ceiling in (12.5, 50):
        axes.axvline(ceiling, color="0.3", linestyle="--", linewidth=1, zorder=0)
    axes.set(xlim=(-2, 102), ylim=(len(names) - 0.5, -0.5), yticks=range(len(names)))
    axes.set(xlabel="accuracy on test clips, %", xticks=[0, 12.5, 50, 100], xticklabels=["0", "12.5", "50", "100"])
    axes.set_yticklabels(names)
    for panel, title in zip(bars, titles):
        values = [known[name]["cost"][title] for name in names]
        panel.barh(range(len(names)), values, height=0.55, color="0.8", edgecolor="0.4")
        for i, value in enumerate(values):
            text = f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
            panel.text(0.04 * max(values), i, text, va="center")
        panel.set(title=title, xticks=[])
        panel.title.set_fontsize(11)
        panel.spines[["left", "bottom"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
    fig.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return fig
