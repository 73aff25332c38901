"""Figures of training: the path of a clip, schedules, clips by rank, the numbers that 16 bits can hold, accuracies."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from vt_course import CourseError
from vt_course.colours import BLUE, ORANGE, SKY, VERMILION
from vt_course.lab.show.style import COLOURS, array, bare, figure, headline, ink
from vt_course.training.experiments.statistics import wilson


@figure
def training_path(
    per_clip: list[tuple[str, str]], per_step: list[tuple[str, str]], back: str, title: str | None = None
) -> Figure:
    """Two rows of boxes (name, detail), joined by arrows: what happens to each clip, and what happens in each step.

    An arrow leads from the first row into the second. Another leads from the last box of the second row back to its
    second box, the model; `back` is the text at this arrow. A detail may have several lines of about 17 characters.
    Raises `CourseError` for fewer than three boxes in a row.
    """
    if min(len(per_clip), len(per_step)) < 3:
        raise CourseError("a path needs at least three boxes in each row")
    columns = max(len(per_clip), len(per_step))
    lines = max(detail.count("\n") + 1 for _, detail in [*per_clip, *per_step])
    tall, gap = 0.42 + 0.19 * lines, 0.75  # in inches: the height of a box, the space between rows
    fig, axes = plt.subplots(figsize=(10, 2 * tall + gap + 0.95 + 0.35 * bool(title)))
    wide = 10 / columns  # of a column, in inches
    arrow = dict(arrowstyle="-|>", color="0.25", linewidth=1.6, shrinkA=0, shrinkB=0, mutation_scale=14)
    left = [[i * wide + 0.12 for i in range(len(row))] for row in (per_clip, per_step)]
    low = [tall + gap, 0]
    for row, xs, y, shade in zip((per_clip, per_step), left, low, (SKY, "#FBE3BC")):
        for (name, detail), x in zip(row, xs):
            axes.add_patch(
                FancyBboxPatch(
                    (x, y),
                    wide - 0.42,
                    tall,
                    boxstyle="round,pad=0,rounding_size=0.08",
                    facecolor=shade,
                    edgecolor="0.2",
                )
            )
            middle = x + (wide - 0.42) / 2
            axes.text(middle, y + tall - 0.1, name, ha="center", va="top", size=12, weight="bold")
            axes.text(middle, y + tall - 0.36, detail, ha="center", va="top", size=11, linespacing=1.25)
        for x, after in zip(xs, xs[1:]):
            axes.annotate("", (after, y + tall / 2), (x + wide - 0.42, y + tall / 2), arrowprops=arrow)
    half = (wide - 0.42) / 2
    level = low[0] - 0.3  # y of the line from the first row to the second
    axes.plot(
        [left[0][-1] + half] * 2 + [left[1][0] + half] * 2,
        [low[0], level, level, tall + 0.3],
        color="0.25",
        linewidth=1.6,
    )
    axes.annotate("", (left[1][0] + half, tall), (left[1][0] + half, tall + 0.32), arrowprops=arrow)
    axes.plot([left[1][-1] + half] * 2 + [left[1][1] + half] * 2, [0, -0.25, -0.25, -0.2], color="0.25", linewidth=1.6)
    axes.annotate("", (left[1][1] + half, 0), (left[1][1] + half, -0.22), arrowprops=arrow)
    axes.text((left[1][1] + left[1][-1]) / 2 + half, -0.32, back, ha="center", va="top", size=11)
    axes.text(0.12, low[0] + tall + 0.08, "for each clip, in the loader", size=12, color=BLUE, va="bottom")
    axes.text(left[1][1], tall + 0.1, "for each step", size=12, color="#9A5B00", va="bottom")
    axes.set(xlim=(0, 10 - 0.18), ylim=(-0.6, low[0] + tall + 0.35))
    bare(axes)
    headline(fig, title)
    return fig


@figure
def schedules(series: dict, title: str | None = None) -> Figure:
    """Learning rates over a whole training: name -> values, one for each step (or each epoch), any number of them.

    Both axes are fractions: x of the whole training, y of the highest learning rate.
    """
    fig, axes = plt.subplots(figsize=(10, 4))
    for i, (name, values) in enumerate(series.items()):
        y = array(values).astype(float)
        if y.ndim != 1 or len(y) < 2 or not y.max() > 0:
            raise CourseError(f"schedule {name!r} needs at least two learning rates, the highest above 0")
        axes.plot(
            (np.arange(len(y)) + 0.5) / len(y),
            y / y.max(),
            color=COLOURS[i % len(COLOURS)],
            linewidth=2,
            linestyle=["-", "--", "-.", ":"][i % 4],
            label=name,
        )
    axes.set(xlim=(0, 1), ylim=(0, 1.05), xlabel="share of the training", ylabel="learning rate, share of its peak")
    axes.grid()
    fig.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    headline(fig, title)
    return fig


@figure
def ranks(batches, world: int, title: str | None = None) -> Figure:
    """The batches of an epoch, one in each row. Each clip's number has the colour of the rank that takes it.

    `batches`: lists of clip numbers; rank r takes every `world`-th clip of a batch, beginning with the r-th.
    """
    batches = [array(batch) for batch in batches]
    if not batches or min(map(len, batches)) < 1 or not 1 <= world <= 8:
        raise CourseError(f"ranks need batches of at least one clip and 1 to 8 processes, not {world}")
    widest = max(map(len, batches))
    fig, axes = plt.subplots(figsize=(10, 0.46 * len(batches) + 0.75 + 0.35 * bool(title)))
    shades = [SKY, ORANGE, *(c for c in COLOURS if c not in (SKY, ORANGE))][:world]
    for row, batch in enumerate(batches):
        for r, shade in enumerate(shades):
            taken = np.arange(r, len(batch), world)
            axes.barh(
                np.full(len(taken), row),
                0.92,
                left=taken - 0.46,
                height=0.84,
                color=shade,
                edgecolor="0.3",
                label=f"rank {r}" if row == 0 else None,
            )
        for place, number in enumerate(batch):
            axes.text(place, row, f"{number}", ha="center", va="center", size=11, color=ink(shades[place % world]))
        axes.text(
            widest, row, " + ".join(f"{len(batch[r::world])}" for r in range(world)) + " clips", va="center", size=11
        )
    axes.set_yticks(range(len(batches)), [f"step {k}" for k in range(len(batches))])
    axes.set(xlim=(-0.7, widest + 0.17 * widest), ylim=(len(batches) - 0.4, -0.6), xticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    fig.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=world)
    headline(fig, title)
    return fig


def count_float32(low: float, high: float) -> int:
    """How many float32 numbers lie between `low` and `high`, both included."""

    def place(x: float) -> int:  # of the float32 nearest to x, counted from 0
        bits = int(torch.tensor(abs(x), dtype=torch.float32).view(torch.int32))
        return bits if x >= 0 else -bits

    outside = (np.float32(low).item() < low) + (np.float32(high).item() > high)
    return place(high) - place(low) + 1 - outside


@figure
def number_lines(dtypes, low: float, high: float, value: float | None = None, title: str | None = None) -> Figure:
    """The numbers that each of `dtypes` has between `low` and `high`.

    A type of 16 bits gets one tick for each number. torch.float32 has too many, so it gets a band. `value`: a line
    across all types, with a dot at the number to which each type rounds it.
    """
    if not low < high:
        raise CourseError(f"a number line runs upwards, not from {low} to {high}")
    fig, axes = plt.subplots(figsize=(10, 0.75 * len(dtypes) + 0.9 + 0.35 * bool(title)))
    for row, dtype in enumerate(dtypes):
        axes.plot([low, high], [row, row], color="0.8", linewidth=1, zorder=0)
        if dtype.itemsize == 2:
            numbers = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).double()
            numbers = numbers[(numbers >= low) & (numbers <= high)].numpy()
            axes.vlines(numbers, row - 0.3, row + 0.3, color=BLUE, linewidth=1.8)
            count = f"{len(numbers):,} numbers"
        else:
            count = f"{count_float32(low, high):,} numbers"
            axes.fill_between([low, high], row - 0.3, row + 0.3, color=BLUE, linewidth=0)
        axes.text(1.015, row, count, transform=axes.get_yaxis_transform(), va="center", size=11)
        if value is not None:
            axes.plot(
                torch.tensor(value).to(dtype).item(), row, "o", color=VERMILION, markeredgecolor="white", markersize=10
            )
    if value is not None:
        axes.axvline(value, color=VERMILION, linestyle="--", linewidth=1.6, zorder=0)
    axes.set_yticks(range(len(dtypes)), [str(dtype).removeprefix("torch.") for dtype in dtypes])
    axes.set(ylim=(len(dtypes) - 0.4, -0.6), xlabel="number")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    headline(fig, title)
    return fig


@figure
def gradient_sizes(gradients: dict, title: str | None = None) -> Figure:
    """Histograms of log2 |g|, one panel for each name -> values, with the range of float16. Zeros are left out.

    float16 has full precision from 2^-14 up to its largest number, 65504 (about 2^16). Below 2^-14 it loses digits.
    Values below 2^-25, half of its smallest positive number, are rounded to 0. The first bar also counts all values
    below 2^-30.
    """
    sizes = {name: np.log2(np.abs(array(g)[array(g) != 0])) for name, g in gradients.items()}
    if not sizes or min(map(len, sizes.values())) < 1:
        raise CourseError("there are no gradients other than zero to draw")
    edges = np.arange(-30, np.ceil(max(20, *(s.max() for s in sizes.values()))) + 1)
    fig, grid = plt.subplots(
        len(sizes),
        1,
        squeeze=False,
        sharex=True,
        sharey=True,
        figsize=(10, 1.75 * len(sizes) + 0.9 + 0.35 * bool(title)),
    )
    for axes, (name, s) in zip(grid[:, 0], sizes.items()):
        counts, _ = np.histogram(s.clip(min=-30), edges)
        axes.bar(edges[:-1] + 0.5, 100 * counts / len(s), width=0.9, color=BLUE)
        for left, right, shade in ((edges[0], -25, "#F6C3A0"), (-25, -14, "#FBE9C6"), (16, edges[-1], "#F6C3A0")):
            axes.axvspan(left, right, color=shade, zorder=0)
        lost, few = 100 * (s < -25).mean(), 100 * ((s >= -25) & (s < -14)).mean()
        axes.set(ylabel="% of all", xlim=(edges[0], edges[-1]))
        axes.set_title(f"{name}: {lost:.1f} % become 0, {few:.0f} % lose digits", size=12)
    top = grid[0, 0]
    top.set_ylim(0, 1.35 * top.get_ylim()[1])
    for x, text in (
        ((edges[0] - 25) / 2, "become 0"),
        (-19.5, "lose digits"),
        (1, "keep all digits"),
        ((16 + edges[-1]) / 2, "∞"),
    ):
        top.text(x, 0.97 * top.get_ylim()[1], text, ha="center", va="top", size=11)
    grid[-1, 0].set_xlabel("log₂ of the size of a gradient")
    headline(fig, title)
    return fig


@figure
def accuracies(rows: dict, chance: float, title: str | None = None) -> Figure:
    """Accuracies, name -> (share of clips that are right, number of clips), each with its 95 % interval (Wilson's).

    `chance`: the accuracy of guessing, drawn as a dashed line. Raises `CourseError` for a share outside 0 to 1, or
    without clips.
    """
    fig, axes = plt.subplots(figsize=(10, 0.5 * len(rows) + 1.3 + 0.3 * bool(title)))
    for row, (name, (share, clips)) in enumerate(rows.items()):
        if clips < 1 or not 0 <= share <= 1:
            raise CourseError(
                f"accuracy {name!r} needs a share from 0 to 1 of at least one clip, not {share:g} of {clips}"
            )
        p, (low, high) = 100 * share, (100 * end for end in wilson(share, clips))
        bar = [[max(0, p - low)], [max(0, high - p)]]  # where none or all are right, an end is p, but for rounding
        axes.errorbar(p, row, xerr=bar, fmt="o", color=BLUE, markersize=8, capsize=5, linewidth=2)
        text = f"{p:.1f} % of {clips} ({low:.1f} to {high:.1f})"
        axes.text(1.015, row, text, transform=axes.get_yaxis_transform(), va="center", size=11)
    axes.axvline(
        100 * chance, color=VERMILION, linestyle="--", linewidth=1.6, zorder=0, label=f"a guess: {100 * chance:.3g} %"
    )
    axes.set(xlim=(-3, 103), ylim=(len(rows) - 0.5, -0.5), xlabel="right (%), with 95 % intervals")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.grid(axis="x")
    fig.legend(*axes.get_legend_handles_labels(), loc="outside lower left")
    headline(fig, title)
    return fig
