"""The figure of a run: loss and accuracy over the epochs."""

from matplotlib.figure import Figure

from vt_course.colours import BLUE, VERMILION

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
