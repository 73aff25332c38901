"""Figures of experiments, checked on what they draw."""

import pytest

from vt_course import CourseError
from vt_course.lab import show


def drawn(axes, marker):
    """The (x, y) of all points with this marker, a list for each call."""
    return [list(zip(*line.get_data())) for line in axes.lines if line.get_marker() == marker and len(line.get_xdata())]


def test_orders_draws_each_seed_once():
    rows = {"one": {"in order": [99, 98], "reversed": [1, 2]}, "two": {"reversed": [120]}}
    fig = show.orders(rows, {"one frame": 12.5, "no order": 50}, "title", "share, %")
    (axes,) = fig.axes
    assert [x for x, _ in sum(drawn(axes, "o"), [])] == [99, 98]
    assert [x for x, _ in sum(drawn(axes, "D"), [])] == [1, 2, 120]
    assert [round(y) for _, y in sum(drawn(axes, "D"), [])] == [0, 0, 1]
    assert axes.get_xlim()[1] > 120 and axes.get_xlabel() == "share, %"
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["one", "two"]
    assert {line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"} == {12.5, 50}
    assert [text.get_text() for text in fig.legends[0].get_texts()] == [
        "in order",
        "reversed",
        "ceilings: one frame 12.5 %, no order 50 %",
    ]


def test_an_order_looks_the_same_in_all_figures():
    found = {each.get_label(): each.get_marker() for each in show.families("UniFormer").axes[0].lines}
    wanted = dict(zip(("frames in order", "shuffled", "in reverse", "one frame repeated"), "osD^"))
    assert {label: found[label] for label in wanted} == wanted
    rows = {"one": {"unknown": [1], "frames swapped": [2], "one frame repeated": [3], "shuffled": [4], "another": [5]}}
    (axes,) = show.orders(rows).axes
    found = {line.get_marker(): line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "None"}
    assert found == {"o": 1, "P": 2, "^": 3, "s": 4, "D": 5}


def line(label, mean, low, high, verdict, claimed):
    return dict(label=label, mean=mean, low=low, high=high, verdict=verdict, claimed=claimed)


def test_intervals_say_their_verdicts():
    lines = [
        line("a", -3, -5, -1, "agrees", -1),
        line("b", 3, 1, 5, "disagrees", -1),
        line("c", 1, -1, 3, "undecided", 1),
        line("d", 2, None, None, "no claim", None),
    ]
    fig = show.intervals(lines)
    (axes,) = fig.axes
    assert [drawn(axes, marker)[0][0] for marker in "osD^"] == [(-3, 0), (3, 1), (1, 2), (2, 3)]
    spans = [list(each.get_xdata()) for each in axes.lines if each.get_linewidth() == 3]
    assert spans == [[-5, -1], [1, 5], [-1, 3]]
    assert len(sum(drawn(axes, "<"), [])) == 2 and len(sum(drawn(axes, ">"), [])) == 1
    words = [text.get_text() for text in fig.legends[0].get_texts()]
    assert words == ["agrees", "disagrees", "undecided", "no claim", "the paper's direction"]
    left, right = axes.get_xlim()
    assert left < -5 and right > 5


def test_a_second_panel_shows_short_intervals_and_no_arrow_is_explained():
    lines = [line("a", -60, -70, -50, "agrees", -1), line("b", 0.1, -0.2, 0.4, "undecided", 0)]
    fig = show.intervals(lines, near=5)
    wide, close = fig.axes
    assert close.get_xlim() == (-5, 5) and wide.get_xlim()[0] < -70
    assert drawn(wide, "D") == drawn(close, "D") == [[(0.1, 1)]]
    assert len(drawn(wide, "<")) == 1 and drawn(close, "<") == drawn(wide, ">") == []
    assert "no arrow: the paper says no difference" in [text.get_text() for text in fig.legends[0].get_texts()]


def test_no_interval_is_an_error():
    with pytest.raises(CourseError, match="no difference to draw"):
        show.intervals([])


def test_tradeoff_has_a_panel_for_each_cost():
    points = {
        "cheap": {"top1": [90, 80], "macs": 13.0, "seconds": 100},
        "dear": {"top1": [95], "macs": 66.0, "seconds": 400},
    }
    fig = show.tradeoff(points)
    left, right = fig.axes
    assert drawn(left, "o") == [[(13.0, 90), (13.0, 80)]] and drawn(left, "s") == [[(66.0, 95)]]
    assert drawn(right, "o") == [[(100, 90), (100, 80)]] and drawn(right, "s") == [[(400, 95)]]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["cheap", "dear"]
    assert "seconds" in right.get_xlabel() and "multiply" in left.get_xlabel()
