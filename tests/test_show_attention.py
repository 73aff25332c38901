"""Figures of attention: what is drawn is what was given, and wrong input is named."""

import numpy as np
import pytest
import torch
from test_show import LONG, assert_readable, clip, legend_of, texts_of

from vt_course import CourseError
from vt_course.lab import show
from vt_course.lab.show.attention import amount

pytestmark = pytest.mark.silent

SHARES = torch.randn(4, 144, generator=torch.Generator().manual_seed(0)).softmax(-1).view(4, 4, 6, 6)
FLOW = [
    dict(name="tokens", axes="N C", shape=(1569, 768)),
    dict(name="queries, keys, values", axes="3 h N d", shape=(3, 12, 1569, 64)),
    dict(name="logits in half precision", axes="h N N", shape=(12, 1569, 1569), each=2),
]
GROWING = {"joint": dict(x=[8, 16, 32], y=[1, 4, 16])}
FIGURES = {
    "matrix": lambda: show.attention_matrices(SHARES[0].reshape(12, 12), LONG, every=6),
    "matrices": lambda: show.attention_matrices(list(SHARES.view(4, 12, 12)[:3]), ["a", "b", "c"]),
    "bias": lambda: show.attention_matrices([torch.randn(5, 5)] * 2, ["bias", "bias"]),
    "frames": lambda: show.attention_over_frames(clip(8, 48, 48), SHARES[:2], (1, 2, 3), ["head 0", "head 11"], LONG),
    "frames, one": lambda: show.attention_over_frames(clip(8, 32, 64), SHARES[0], (0, 0, 0)),
    "frames, eight": lambda: show.attention_over_frames(clip(16), torch.full((8, 3, 4), 1 / 96), (7, 2, 3)),
    "flow": lambda: show.shape_flow(FLOW, LONG),
    "flow, wide": lambda: show.shape_flow([dict(name="logits", axes="B h N N", shape=(8, 12, 18817, 18817))]),
    "limits": lambda: show.cost_curves(GROWING, "frames", "GB", LONG, limits={"a GPU of 16 GB": 11}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_text_is_readable(name):
    assert_readable(FIGURES[name]())


def test_matrices_are_drawn_as_given_on_one_scale():
    weak, strong = np.eye(4) / 2, np.eye(4)
    fig = show.attention_matrices([weak, torch.tensor(strong)], ["weak", "strong"], every=2)
    left, right = fig.axes[:2]
    assert (left.images[0].get_array() == weak).all() and (right.images[0].get_array() == strong).all()
    assert left.images[0].get_clim() == right.images[0].get_clim() == (0, 1)
    assert [a.get_title() for a in (left, right)] == ["weak", "strong"]
    assert [line.get_ydata()[0] for line in left.lines[::2]] == [1.5]  # between the frames
    assert not show.attention_matrices(weak).axes[0].lines
    signed = show.attention_matrices(-weak).axes[0].images[0]
    assert signed.get_clim() == (-0.5, 0)


@pytest.mark.parametrize("wrong", [np.zeros((3, 4)), np.zeros((2, 3, 3))])
def test_a_matrix_must_be_square(wrong):
    with pytest.raises(CourseError, match=r"is a matrix \(N, N\), not \("):
        show.attention_matrices([wrong])


def test_each_step_shows_its_own_weights_over_its_middle_frame():
    weights = np.zeros((2, 2, 3))
    weights[1, 0, 2], weights[0, 1, 1] = 0.75, 0.25
    frames = np.repeat(np.arange(8, dtype=np.uint8)[:, None, None, None] * 10, 3, -1) * np.ones((8, 4, 6, 3), np.uint8)
    fig = show.attention_over_frames(frames, weights, (1, 0, 2))
    first, second = fig.axes
    assert [a.get_title() for a in fig.axes] == ["t = 0: 25 %", "t = 1: 75 %"]
    assert [a.images[0].get_array().mean() for a in fig.axes] == [20, 60]  # frames 2 and 6
    opacity = [a.images[1].get_array()[..., 3] for a in fig.axes]
    assert np.allclose(opacity[1], [[0, 0, 0.85], [0, 0, 0]]) and np.allclose(opacity[0].max(), 0.85 / 3)
    assert not first.patches and len(second.patches) == 2
    box = second.patches[0]
    assert (*box.get_xy(), box.get_width(), box.get_height()) == (3.5, -0.5, 2, 2)


def test_rows_are_named_and_scaled_each_by_its_own():
    flat = np.full((2, 2, 2), 1 / 8)
    sharp = np.zeros((2, 2, 2))
    sharp[0, 0, 0] = 1
    fig = show.attention_over_frames(clip(4, 16, 16), np.stack([flat, sharp]), (0, 0, 0), ["flat", "sharp"])
    assert [a.get_ylabel() for a in fig.axes if a.get_ylabel()] == ["flat", "sharp"]
    assert [a.images[1].get_array()[..., 3].max() for a in (fig.axes[0], fig.axes[2])] == [0.85, 0.85]


@pytest.mark.parametrize(
    "weights, query, rows, message",
    [
        (SHARES[0] * 2, (0, 0, 0), None, "shares that sum to 1, not 2 with"),
        (SHARES[0] - 1, (0, 0, 0), None, "is it the softmax over the keys"),
        (SHARES[0], (4, 0, 0), None, r"\(4, 0, 0\) lies outside the map \(4, 6, 6\)"),
        (SHARES[0], (0, -1, 0), None, "lies outside the map"),
        (SHARES[0, 0], (0, 0, 0), None, r"\(t, h, w\) or \(rows, t, h, w\), not \(6, 6\)"),
        (SHARES, (0, 0, 0), ["a"], "1 row names for 4 rows"),
    ],
)
def test_weights_that_are_none_are_named(weights, query, rows, message):
    with pytest.raises(CourseError, match=message):
        show.attention_over_frames(clip(), weights, query, rows)


def test_a_flow_counts_numbers_and_bytes():
    axes = show.shape_flow(FLOW).axes[0]
    texts = texts_of(axes)
    for text in ("(N, C)", "1,569 × 768", "1,204,992", "4.82 MB", "(3, h, N, d)", "14.5 MB", "29,541,132", "59.1 MB"):
        assert text in texts
    widths = [p.get_width() for p in axes.patches]
    assert np.allclose(np.array(widths) / widths[0], np.array([1, 3, 2 * 29541132 / 4 / 1204992]))
    assert axes.patches[2].get_facecolor() != axes.patches[0].get_facecolor() == axes.patches[1].get_facecolor()
    with pytest.raises(CourseError, match="at least one row"):
        show.shape_flow([])


def test_amounts_of_bytes():
    assert [amount(n) for n in (12, 999, 1000, 4_819_968, 118e6, 15.1e9, 2.5e12, 4e15)] == [
        "12 B",
        "999 B",
        "1 kB",
        "4.82 MB",
        "118 MB",
        "15.1 GB",
        "2.5 TB",
        "4e+03 TB",
    ]


def test_limits_are_drawn_across_with_their_names():
    axes = show.cost_curves(GROWING, "frames", "GB", limits={"16 GB": 16, "80 GB": 80}).axes[0]
    assert [t.get_text() for t in axes.texts] == ["16 GB", "80 GB"]
    assert [line.get_ydata()[0] for line in axes.lines[1:]] == [16, 80]
    assert legend_of(axes) == ["joint (slope 2.00)"]
    with pytest.raises(CourseError, match="limit 'none' must be positive, not 0"):
        show.cost_curves(GROWING, "frames", "GB", limits={"none": 0})


def test_less_than_two_decades_are_labelled_in_plain_numbers():
    fig = show.cost_curves(GROWING, "frames", "GB")
    fig.canvas.draw()
    labels = [t.get_text() for t in fig.axes[0].get_yticklabels()]
    assert {"1", "2", "5", "10"} <= set(labels)
    fig = show.cost_curves({"a": dict(x=[1, 10], y=[1, 1000])}, "x", "y")
    fig.canvas.draw()
    assert any("10^" in t.get_text() for t in fig.axes[0].get_yticklabels())
