"""The figures of a run: loss and accuracy over the epochs, its confusions, its answers over the time of a film."""

import io

from matplotlib.figure import Figure

from vt_course.colours import BLUE, GREEN, ORANGE, PINK, SKY, VERMILION

# The markers differ as well as the colours.
TRAIN = dict(color=BLUE, marker="o", linestyle="--", markersize=4, label="train")
VAL = dict(color=VERMILION, marker="s", linestyle="-", markersize=4, label="validation")


def curves(rows: list[dict], classes: int, title: str) -> Figure:
    """Draw the rows of metrics.csv. The accuracy of guessing is 1 / `classes`."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    for axes, name in ((loss, "loss"), (accuracy, "top1")):
        axes.plot(epochs, [row[f"train_{name}"] for row in rows], **TRAIN)
        axes.plot(epochs, [row[f"val_{name}"] for row in rows], **VAL)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    loss.set(xlabel="epoch", ylabel="cross-entropy (nats per clip)")
    accuracy.axhline(1 / classes, color="0.4", linestyle=":", label="chance")
    accuracy.set(xlabel="epoch", ylabel="top-1 accuracy", ylim=(0, 1.02))
    for axes in (loss, accuracy):
        axes.legend(frameon=False)
    figure.suptitle(title)
    return figure


def confusion_picture(confusion: list[list[int]], classes, title: str) -> Figure:
    """Counts [true class][predicted class] as a picture: each row shows the shares of the videos of its class.

    Numbers and names are written only where there is room: up to 30 classes.
    """
    shares = [[count / max(sum(row), 1) for count in row] for row in confusion]
    side = min(2.5 + 0.45 * len(classes), 14.0)
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(drawn, label="share of the videos of a class", shrink=0.7)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if len(classes) <= 30:
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
        for y, row in enumerate(confusion):
            for x, count in enumerate(row):
                if count:
                    dark = shares[y][x] > 0.5
                    axes.text(x, y, count, ha="center", va="center", color="white" if dark else "black", size=8)
    return figure


def time_line(times: list[float], probabilities: dict[str, list[float]], title: str) -> Figure:
    """The probabilities of some classes in the windows of a film. `times`: the edges of the windows in seconds, one
    more than there are probabilities of each class. NaN leaves a gap."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots()
    styles = zip((BLUE, VERMILION, GREEN, ORANGE, PINK, SKY), ("-", "--", "-.", ":", "-", "--"))
    for (name, values), (colour, line) in zip(probabilities.items(), styles):
        axes.stairs(values, times, baseline=None, color=colour, linestyle=line, linewidth=2, label=name)
    axes.set(xlabel="seconds", ylabel="probability", ylim=(0, 1.02), title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def figure_bytes(figure: Figure, dpi: int = 120) -> memoryview:
    """A figure as a PNG file."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=dpi)
    return image.getbuffer()
