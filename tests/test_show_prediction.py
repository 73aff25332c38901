"""The figure of a prediction draws the numbers it is given, and refuses what is no probability."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from vt_course import CourseError
from vt_course.lab import show
from vt_course.lab.show.style import VERMILION

CLASSES = ["left", "right", "up"]


def test_the_bars_are_the_probabilities():
    values = torch.tensor([0.2, 0.7, 0.1])
    fig = show.probabilities({"a": values, "b": values.flip(0)}, CLASSES, title="two")
    assert plt.get_fignums() == [] and fig.get_suptitle() == "two"
    for axes, v, name in zip(fig.axes, (values, values.flip(0)), "ab"):
        assert [round(bar.get_width(), 3) for bar in axes.patches] == [round(p, 3) for p in v.tolist()]
        assert axes.get_title() == name
        assert [text.get_text() for text in axes.texts] == [f"{100 * p:.1f} %" for p in v.tolist()]
        red = plt.matplotlib.colors.to_rgba(VERMILION)
        assert [bar.get_facecolor() == red for bar in axes.patches] == [False, True, False]
    assert [text.get_text() for text in fig.axes[0].get_yticklabels()] == CLASSES
    assert fig.axes[0].yaxis_inverted()


@pytest.mark.parametrize(
    "values, words",
    [
        (np.array([0.5, 0.5]), "3 classes need 3 probabilities"),
        (np.array([[0.2, 0.7, 0.1]]), "of shape"),
        (np.array([2.0, -1.5, 0.3]), "is a softmax missing"),
        (np.array([1.5, -0.5, 0.0]), "is a softmax missing"),
    ],
)
def test_what_is_no_probability_is_refused(values, words):
    with pytest.raises(CourseError, match=words):
        show.probabilities(values, CLASSES)
