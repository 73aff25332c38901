"""Figure of a data set: how many clips each class has, and how long they are."""

from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from vt_course import CourseError
from vt_course.colours import BLUE, ORANGE, SKY
from vt_course.lab.show.style import figure, headline

MOST = 30  # with more classes than this, only their counts are drawn, without names


@figure
def dataset(clips: list[dict], title: str | None = None) -> Figure:
    """Left: the number of training and validation clips of each class. Right: a histogram of their lengths.

    `clips`: rows with label, split ("train" or "val") and seconds (None if the file is unreadable), as
    `vt_course.data.prepare.probe_folder` returns them. If there are more than 30 classes, the left panel
    shows the counts in falling order, without names.
    """
    if not clips:
        raise CourseError("there are no clips to draw: give the rows of probe_folder")
    for row in clips:
        if not {"label", "split", "seconds"} <= set(row) or row["split"] not in ("train", "val"):
            raise CourseError(f"{row} is no clip: it needs label, split (train or val) and seconds")
    names = list(dict.fromkeys(row["label"] for row in clips))
    seen = Counter((row["label"], row["split"]) for row in clips)
    count = {split: np.array([seen[name, split] for name in names]) for split in ("train", "val")}
    named = len(names) <= MOST
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(11, max(3.6, 1.4 + 0.32 * len(names)) if named else 4), width_ratios=(1.3, 1)
    )
    if named:
        place = np.arange(len(names))
        left.barh(place, count["train"], color=SKY, edgecolor="0.2", label="training")
        left.barh(
            place, count["val"], left=count["train"], color=ORANGE, edgecolor="0.2", hatch="//", label="validation"
        )
        left.set(yticks=place, ylim=(len(names) - 0.5, -0.5), xlabel="clips")
        left.set_yticklabels([name if len(name) < 31 else name[:29] + "…" for name in names])
    else:
        total = np.sort(count["train"] + count["val"])[::-1]
        left.fill_between(np.arange(1, len(names) + 1), total, step="mid", color=SKY, label="training and validation")
        left.set(xlabel="class, by number of clips", ylabel="clips", ylim=(0, None), xlim=(1, len(names)))
    lengths = np.array([row["seconds"] for row in clips if row["seconds"] is not None], float)
    unreadable = len(clips) - len(lengths)
    if len(lengths):
        right.hist(lengths, bins=min(30, max(5, len(lengths) // 5)), color=BLUE, edgecolor="white")
    right.set(xlabel="length in seconds", ylabel="clips", ylim=(0, None))
    right.set_title(f"{len(clips):,} clips" + (f", {unreadable:,} unreadable" if unreadable else ""))
    left.set_title(f"{len(names):,} class" + "es" * (len(names) > 1))
    right.yaxis.get_major_locator().set_params(integer=True)
    left.grid(axis="x" if named else "y")
    right.grid(axis="y")
    for axes in (left, right):
        axes.set_axisbelow(True)
    fig.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2)
    headline(fig, title)
    return fig
