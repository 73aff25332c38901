"""Figures of explanations: what is drawn is what was given, and wrong input is named."""

import numpy as np
import pytest
import torch
from test_show import LONG, assert_readable, clip, legend_of

from vt_course import CourseError
from vt_course.lab import show
from vt_course.lab.show.clips import PLAY_BYTES

pytestmark = pytest.mark.silent

SHARES = torch.rand(4, 3, 4, generator=torch.Generator().manual_seed(0)).flatten().softmax(-1).view(4, 3, 4)
ROWS = {
    "gradcam": {"classifier": 0.3, "layers.1.blocks.1": 0.2, "embedding": -0.1},
    "rollout": {"classifier": 1.0, "layers.1.blocks.1": 0.9, "embedding": 0.4},
}
FIGURES = {
    "strip": lambda: show.explanation(clip(8), SHARES, LONG, ". ".join([LONG] * 5)),
    "strip, wide": lambda: show.explanation(clip(16, 64, 160), SHARES, LONG),
    "strip, high": lambda: show.explanation(clip(16, 96, 48), SHARES, caveat=LONG),
    "strip, one frame": lambda: show.explanation(clip(1, 64, 64), SHARES[:1] / SHARES[0].sum(), LONG, LONG),
    "strip, large": lambda: show.explanation(clip(16, 224, 224), SHARES),
    "cascades": lambda: show.cascades(ROWS, LONG),
}


@pytest.mark.parametrize("name", FIGURES)
def test_text_is_readable(name):
    assert_readable(FIGURES[name]())


def test_the_strip_says_how_much_lies_in_each_step():
    fig = show.explanation(clip(8), SHARES, "title", "what it does not say")
    titles = [axes.get_title() for axes in fig.axes if axes.get_title()]
    steps = [f"step {i // 2}: {100 * SHARES[i // 2].sum():.0f} %" for i in range(8)]
    assert sorted(titles) == sorted([f"frame {i}" for i in range(8)] + steps)
    assert (fig.get_suptitle(), fig.get_supxlabel()) == ("title", "what it does not say")
    legend = fig.axes[-1]
    assert [label.get_text() for label in legend.get_yticklabels()] == ["no share", "largest"]


def test_the_larger_a_share_the_yellower_its_box():
    shares = np.array([[[0.1, 0.2]], [[0.3, 0.4]]])
    tinted = show.overlaid(np.full((4, 6, 8, 3), 128, np.uint8), shares).astype(int)
    boxes = tinted.reshape(2, 2, 6, 2, 4, 3)
    assert (boxes == boxes[:, :1, :1, :, :1]).all()  # one tint a box
    yellow = boxes[:, 0, 0, :, 0, 0] - boxes[:, 0, 0, :, 0, 2]  # red - blue, (t, w)
    assert (np.diff(yellow.ravel()) > 0).all() and yellow[0, 0] < yellow[1, 1] - 50
    even = show.overlaid(np.full((2, 4, 4, 3), 128, np.uint8), np.zeros((1, 2, 2)))  # an empty map
    assert (even == even[0, 0, 0]).all()


def test_an_explanation_moves():
    picture = show.play_explanation(torch.randn(3, 8, 32, 32), SHARES)
    assert picture.format == "png" and len(picture.data) <= PLAY_BYTES


def test_cascades_begin_at_one():
    fig = show.cascades(ROWS)
    lines = [line.get_ydata() for line in fig.axes[0].get_lines()[:2]]
    assert [list(line) for line in lines] == [[1, 0.3, 0.2, -0.1], [1, 1.0, 0.9, 0.4]]
    assert legend_of(fig.axes[0]) == list(ROWS)
    assert [label.get_text() for label in fig.axes[0].get_xticklabels()] == ["none", *ROWS["gradcam"]]


@pytest.mark.parametrize(
    "draw, words",
    [
        (lambda: show.explanation(clip(8), SHARES[0]), r"a map \(t, h, w\) of numbers of at least 0, not \(3, 4\)"),
        (lambda: show.overlaid(clip(8), SHARES - 0.1), "is a relu missing"),
        (lambda: show.explanation(SHARES, SHARES), "a clip is uint8"),
        (lambda: show.overlaid(clip(2), SHARES), "more steps than the clip has frames"),
        (lambda: show.cascades({"a": {"x": 1}, "b": {"y": 1}}), "b has other parts than the first row"),
    ],
)
def test_wrong_input_is_named(draw, words):
    with pytest.raises(CourseError, match=words):
        draw()
