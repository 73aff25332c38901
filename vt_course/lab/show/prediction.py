"""The figure of one prediction: one bar for each class."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from vt_course import CourseError
from vt_course.colours import BLUE, VERMILION
from vt_course.lab.show.style import array, figure, headline


@figure
def probabilities(values, classes, title: str | None = None) -> Figure:
    """Probabilities (K,), or a dict of name -> (K,) drawn side by side. The highest bar has another colour.

    Raises CourseError if numbers and classes do not match, or if the numbers are not probabilities.
    """
    panels = values if isinstance(values, dict) else {"": values}
    panels = {name: array(v).astype(float) for name, v in panels.items()}
    for v in panels.values():
        if v.shape != (len(classes),):
            raise CourseError(
                f"{len(classes)} classes need {len(classes)} probabilities, not an array of shape {v.shape}"
            )
        if not np.isclose(v.sum(), 1, atol=1e-3) or v.min() < 0:
            raise CourseError(
                f"probabilities are at least 0 and sum to 1, these sum to {v.sum():.3g}: is a softmax missing?"
            )
    fig, grid = plt.subplots(
        1, len(panels), squeeze=False, sharey=True, figsize=(10, 0.36 * len(classes) + 1.3 + 0.3 * bool(title))
    )
    for axes, (name, v) in zip(grid[0], panels.items()):
        winner = int(v.argmax())
        bars = axes.barh(
            range(len(v)),
            v,
            color=[VERMILION if k == winner else BLUE for k in range(len(v))],
            hatch=["///" if k == winner else "" for k in range(len(v))],
            edgecolor="white",
        )
        axes.bar_label(bars, [f"{100 * p:.1f} %" for p in v], padding=4, size=11)
        axes.set(xlim=(0, 1.22), xticks=[0, 0.5, 1], xlabel="probability", title=name)
        axes.set_yticks(range(len(v)), classes)
    grid[0][0].invert_yaxis()
    headline(fig, title)
    return fig
