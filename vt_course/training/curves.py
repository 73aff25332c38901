"""The picture of a run: loss and accuracy against epoch."""
import io
from pathlib import Path

from matplotlib.figure import Figure

from vt_course.training.checkpoint import atomic_write

# Okabe and Ito's blue and vermilion differ for every kind of colour vision; markers differ besides.
TRAIN = dict(color="#0072B2", marker="o", linestyle="--", markersize=4, label="train")
VAL = dict(color="#D55E00", marker="s", linestyle="-", markersize=4, label="validation")


def draw_curves(rows: list[dict], path: Path, classes: int, title: str) -> None:
    """`rows` are those of metrics.csv; chance is 1/`classes`. The figure replaces `path` in one step."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    epochs = [row["epoch"] for row in rows]
    for axes, name, label in zip(figure.subplots(1, 2), ("loss", "top1"),
                                 ("cross-entropy (nats per clip)", "top-1 accuracy")):
        axes.plot(epochs, [row[f"train_{name}"] for row in rows], **TRAIN)
        axes.plot(epochs, [row[f"val_{name}"] for row in rows], **VAL)
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if name == "top1":
            axes.axhline(1 / classes, color="0.4", linestyle=":", label="chance")
            axes.set_ylim(0, 1.02)
        axes.legend(frameon=False)
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    atomic_write(path, buffer.getbuffer())
