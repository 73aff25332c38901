"""Where the time of a training goes, from the file to the step, as `vt-course bench train` measured it."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from vt_course import need
from vt_course.lab.show.style import COLOURS, figure

HATCHES = ("", "///", "...", "", "xxx", "")  # so that neighbours differ in greyscale, too


@figure
def where_the_time_goes(report: dict) -> Figure:
    """A bar for each side of each comparison: the milliseconds that one thread works on a clip, by stage.

    `report`: of `claims.bench_train.bench_train`. decode: open the file, decode, convert to RGB (ours also scales
    large frames). resize: crop, scale, flip, make floats. backward: with the loss. step: of the optimiser. rest: of the
    loop.
    Raises `CourseError` for a report in which no part succeeded.
    """
    results = {name: part["result"] for name, part in report["parts"].items() if "result" in part}
    made = {name: result for name, result in results.items() if "stages" in result["sides"]["ours"]}
    need(made, "the report has no finished part to draw; run the same command again")
    fig, axes = plt.subplots(len(made), squeeze=False, figsize=(9, 0.5 + 1.5 * len(made)))
    for ax, (name, result) in zip(axes[:, 0], made.items()):
        sides = result["sides"]
        left = [0.0] * len(sides)
        stages = {stage: [side["stages"][stage] for side in sides.values()] for stage in sides["ours"]["stages"]}
        rest = [side["one_thread_ms"] - sum(side["stages"].values()) for side in sides.values()]
        for (stage, widths), colour, hatch in zip((stages | {"rest": rest}).items(), COLOURS, (*HATCHES, "")):
            ax.barh(
                list(sides), widths, left=left, label=stage, color=colour, hatch=hatch, edgecolor="white", height=0.7
            )
            left = [a + max(b, 0.0) for a, b in zip(left, widths)]
        for at, total in enumerate(left):
            ax.annotate(f"{total:,.0f}", (total, at), (4, 0), textcoords="offset points", va="center", fontsize=11)
        ax.set(title=f"{name}: {result['model']}, ms a clip", xlim=(0, 1.12 * max(left)))
        ax.title.set_fontsize(12)
        ax.invert_yaxis()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels), handlelength=1.4, columnspacing=1.2)
    return fig
