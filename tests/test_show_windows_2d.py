"""Figures of notebook 03: numbered tokens in windows, the hierarchy, repeated measurements."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from test_show import assert_readable, texts_of

from vt_course import CourseError
from vt_course.lab import show
from vt_course.models.swin import relative_position_index, shift_mask

pytestmark = pytest.mark.silent

NUMBERS = torch.arange(64).view(8, 8)
IMAGE = np.broadcast_to(np.arange(224, dtype=np.uint8)[:, None], (224, 224, 3)).copy()
SWIN = [dict(name=f"stage {i + 1}", size=(56 >> i, 56 >> i), window=7, channels=96 << i) for i in range(4)]
VIT = dict(name="ViT", size=(14, 14), window=14, channels=768)

FIGURES = {
    "one map": lambda: show.windows_2d(NUMBERS, 4, "64 tokens in 4 windows of 4 × 4"),
    "two maps": lambda: show.windows_2d(
        [NUMBERS, NUMBERS.roll((-2, -2), (0, 1))], 4, ["before", "after"], [(2, 2), (0, 0)]
    ),
    "three maps": lambda: show.windows_2d([NUMBERS] * 3, (4, 2), ["a title that is longer than its map is wide"] * 3),
    "padded": lambda: show.windows_2d(np.pad(NUMBERS, 2, constant_values=-1), 4),
    "rolled": lambda: show.windows_2d(
        [NUMBERS, NUMBERS.roll((-2, -2), (0, 1))], 4, ["before", "after"], (2, 2), [False, True], width=7
    ),
    "regions with windows": lambda: show.regions_2d([NUMBERS // 20] * 2, ["one", "two"], [None, (4, 4)], width=7),
    "regions in rows": lambda: show.regions_2d([NUMBERS // 20] * 3, ["one", "two", "three"], columns=2, width=7),
    "mask in rows": lambda: show.shift_mask(shift_mask((8, 8), (4, 4), (2, 2)), (4, 4), columns=2, title="Title"),
    "marked mask": lambda: show.marked_mask(shift_mask((8, 8), (4, 4), (2, 2))[1], (4, 4), (1, 3), "Title"),
    "gallery, narrow": lambda: show.gallery(np.stack([IMAGE[:64, :64]] * 4), list("abcd"), columns=2, width=5),
    "largest": lambda: show.windows_2d(torch.arange(256).view(16, 16), 4),
    "hierarchy": lambda: show.hierarchy_2d(IMAGE, [*SWIN, VIT], "Swin and ViT"),
    "hierarchy, one stage": lambda: show.hierarchy_2d(
        IMAGE[:100], [dict(name="odd", size=(5, 9), window=4, channels=3)]
    ),
    "gallery": lambda: show.gallery(
        np.stack([IMAGE[:64, :64]] * 16), "one two three four five six seven eight".split(), "Shapes"
    ),
    "gallery, one": lambda: show.gallery(IMAGE[None, :64, :64], ["alone"], columns=1),
    "spread": lambda: show.spread(
        {"stage 1": [1.0, 1.25], "a long name of a row": [2.5]},
        "ratio",
        "Title",
        {"counted": {"stage 1": 1.1}, "published": {"stage 1": 1.5}},
    ),
    "spread, median": lambda: show.spread({"one": [1.0, 2.0, 9.0]}, "x", median=True),
    "none": lambda: show.regions_2d(
        [NUMBERS // 20 - 1] * 3, ["a title that is longer than its map is wide, by far"] * 3
    ),
    "cut-outs": lambda: show.table_cutouts(relative_position_index((4, 4)), [(0, 0), (1, 2)]),
    "cut-outs, small": lambda: show.table_cutouts(relative_position_index((2, 2)), [(0, 0), (0, 1)], "Title"),
    "one cut-out": lambda: show.table_cutouts(relative_position_index((3, 3)), [(2, 2)]),
    "spread, plain": lambda: show.spread({"one": torch.tensor([1.0, 2.0, 3.0])}, "x"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_text_is_readable(name):
    assert_readable(FIGURES[name]())


def heavy_lines(axes):
    """Where the heavy vertical and horizontal lines of a panel are, in tokens."""
    thick = [c.get_segments() for c in axes.collections if c.get_linewidths()[0] > 2]
    ends = np.array([segment for segments in thick for segment in segments]) + 0.5
    upright = ends[:, 0, 0] == ends[:, 1, 0]
    return sorted(ends[upright, 0, 0]), sorted(ends[~upright, 0, 1])


def test_numbers_stand_where_they_were_given_and_lines_where_windows_end():
    rolled = NUMBERS.roll((-2, -2), (0, 1))
    left, right = show.windows_2d([NUMBERS, rolled], 4, ["", ""], [(2, 1), (0, 0)]).axes
    assert texts_of(left) == [str(int(n)) for n in NUMBERS.flatten()]
    assert texts_of(right) == [str(int(n)) for n in rolled.flatten()]
    assert heavy_lines(left) == ([0, 1, 5, 8], [0, 2, 6, 8])
    assert heavy_lines(right) == ([0, 4, 8], [0, 4, 8])
    a, b = (axes.images[0].get_array() for axes in (left, right))
    assert np.array_equal(np.roll(a, (-2, -2), (0, 1)), b)  # a token keeps its colour
    (oblong,) = show.windows_2d(torch.arange(12).view(2, 6), (2, 3)).axes
    assert heavy_lines(oblong) == ([0, 3, 6], [0, 2])


def dashed_lines(axes):
    """Where the dashed vertical and horizontal lines of a panel are, in tokens."""
    dashed = [c.get_segments() for c in axes.collections if c.get_linestyles()[0][1] is not None]
    ends = np.array([segment for segments in dashed for segment in segments]) + 0.5
    if not len(ends):
        return [], []
    upright = ends[:, 0, 0] == ends[:, 1, 0]
    return sorted(ends[upright, 0, 0]), sorted(ends[~upright, 0, 1])


def test_a_rolled_map_shows_the_groups_and_the_regular_windows():
    rolled = NUMBERS.roll((-2, -1), (0, 1))
    left, right = show.windows_2d([NUMBERS, rolled], 4, ["", ""], (2, 1), [False, True]).axes
    assert heavy_lines(left) == ([0, 1, 5, 8], [0, 2, 6, 8]) and dashed_lines(left) == ([], [])
    assert heavy_lines(right) == ([0, 4, 7, 8], [0, 4, 6, 8]) and dashed_lines(right) == ([0, 4, 8], [0, 4, 8])
    left, right = show.regions_2d([NUMBERS // 32] * 2, ["", ""], [None, (4, 2)]).axes
    assert dashed_lines(left) == ([], []) and dashed_lines(right) == ([0, 2, 4, 6, 8], [0, 4, 8])


def test_a_marked_query_is_framed_in_the_mask_and_in_its_window():
    mask = shift_mask((8, 8), (4, 4), (2, 2))[1]
    fig = show.marked_mask(mask, (4, 4), (1, 3), "Title")
    left, right = fig.axes
    (row,), (cell,) = left.patches, right.patches
    assert (row.get_xy(), row.get_width(), row.get_height()) == ((-0.5, 6.5), 16, 1)
    assert (cell.get_xy(), cell.get_width(), cell.get_height()) == ((2.5, 0.5), 1, 1)
    assert np.array_equal(left.images[0].get_array(), mask < 0)
    assert np.array_equal(right.images[0].get_array(), (mask[7] < 0).view(4, 4))
    assert texts_of(right) == [str(i) for i in range(16)] and right.get_title() == "what token 7 may see"
    with pytest.raises(CourseError, match=r"one window \(4, 4\) is \(16, 16\), not \(4, 16, 16\)"):
        show.marked_mask(shift_mask((8, 8), (4, 4), (2, 2)), (4, 4), (1, 3))
    with pytest.raises(CourseError, match=r"query \(4, 0\) is not in a window of 4 × 4"):
        show.marked_mask(mask, (4, 4), (4, 0))


def test_padding_is_grey_and_has_no_number():
    padded = np.pad(NUMBERS[:2, :2], 1, constant_values=-1)
    (axes,) = show.windows_2d(padded, 2).axes
    assert texts_of(axes) == ["0", "1", "8", "9"]
    colours = axes.images[0].get_array()
    assert len({tuple(c) for c in colours[padded < 0]}) == 1
    assert len({tuple(c) for c in colours.reshape(-1, 4)}) == 5


def test_what_windows_2d_cannot_draw():
    with pytest.raises(CourseError, match=r"\(H, W\) of at most 16, not \(17, 3\)"):
        show.windows_2d(np.zeros((17, 3), int), 1)
    with pytest.raises(CourseError, match=r"not \(1, 8, 8\)"):
        show.windows_2d(NUMBERS[None], 4)
    with pytest.raises(CourseError, match="3 shifts for 2 maps"):
        show.windows_2d([NUMBERS, NUMBERS], 4, ["", ""], [(0, 0)] * 3)
    with pytest.raises(CourseError, match="1 titles for 2 panels"):
        show.windows_2d([NUMBERS, NUMBERS], 4, ["one"])


def test_hierarchy_counts_windows_and_draws_every_patch():
    fig = show.hierarchy_2d(IMAGE, [*SWIN, VIT])
    assert [axes.get_title() for axes in fig.axes if axes.axison] == ["stage 1", "stage 2", "stage 3", "stage 4", "ViT"]
    assert [axes.get_xlabel() for axes in fig.axes if axes.axison] == [
        "56 × 56 × 96\n64 windows of 7 × 7",
        "28 × 28 × 192\n16 windows of 7 × 7",
        "14 × 14 × 384\n4 windows of 7 × 7",
        "7 × 7 × 768\n1 window of 7 × 7",
        "14 × 14 × 768\n1 window of 14 × 14",
    ]
    lines = [[len(c.get_segments()) for c in axes.collections] for axes in fig.axes]
    assert lines[0] == [57, 57, 9, 9] and lines[3] == [8, 8, 2, 2]
    (odd,) = show.hierarchy_2d(IMAGE[:100], [dict(name="odd", size=(5, 9), window=4, channels=3)]).axes
    assert odd.get_xlabel() == "5 × 9 × 3\n6 windows of 4 × 4"  # those cut off are windows too
    with pytest.raises(CourseError, match=r"uint8 \(H, W, 3\), not float64"):
        show.hierarchy_2d(IMAGE / 255, SWIN)


def test_spread_draws_each_measurement_and_its_summary():
    (axes,) = show.spread({"a": [1.0, 2.0, 3.0], "b": [5.0]}, "ms", marks={"paper": {"b": 4.0}}).axes
    assert texts_of(axes) == ["2.0 ± 1.0", "5.0"]
    (same,) = show.spread({"a": [66.5, 68.5, 70.5], "b": [53.3, 60.4, 67.5]}, "%").axes
    assert texts_of(same) == ["68.5 ± 2.0", "60.4 ± 7.1"]  # as many digits in each row
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b"]
    dots = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "o"]
    assert dots == [[[1, 0], [2, 0], [3, 0]], [[5, 1]]]
    (mark,) = (line for line in axes.lines if line.get_label() == "paper")
    assert mark.get_xydata().tolist() == [[4, 1]]
    assert [t.get_text() for t in axes.figure.legends[0].get_texts()] == ["one measurement", "mean", "paper"]
    with pytest.raises(CourseError, match="'a' needs a list of at least one value"):
        show.spread({"a": []}, "ms")
    with pytest.raises(CourseError, match="marks 'paper' name 'c', which is no row"):
        show.spread({"a": [1.0]}, "ms", marks={"paper": {"c": 1.0}})


def test_gallery_shows_the_images_in_order_under_their_names():
    images = np.arange(10 * 2 * 3 * 3, dtype=np.uint8).reshape(10, 2, 3, 3)
    axes = show.gallery(torch.from_numpy(images), list("abcdefgh")).axes
    assert [a.get_title() for a in axes] == [*"abcdefgh"] + [""] * 8
    for a, image in zip(axes, images):
        assert abs(a.images[0].get_array().astype(int) - image).max() <= 4
    assert not any(a.images for a in axes[10:])
    with pytest.raises(CourseError, match=r"uint8 \(n, H, W, 3\), not float64 \(10, 2, 3, 3\)"):
        show.gallery(images / 255)
    with pytest.raises(CourseError, match="3 names for 10 images in 8 columns"):
        show.gallery(images, list("abc"))


def test_paired_measurements_are_joined():
    (axes,) = show.spread({"a": [1.0, 2.0], "b": [5.0, 4.0]}, "ms", paired=True).axes
    assert [line.get_xydata().tolist() for line in axes.lines[:2]] == [[[1, 0], [5, 1]], [[2, 0], [4, 1]]]
    with pytest.raises(CourseError, match="equally many values"):
        show.spread({"a": [1.0, 2.0], "b": [5.0]}, "ms", paired=True)


def test_the_median_stands_where_the_mean_would_and_has_no_deviation():
    (axes,) = show.spread({"a": [1.0, 2.0, 9.0], "b": [3.0]}, "ms", marks={"paper": {"a": 2.0}}, median=True).axes
    assert texts_of(axes) == ["2", "3"]
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["median"].get_xdata().tolist() == [2, 2] and "mean" not in lines
    assert lines["paper"].get_zorder() < lines["one measurement"].get_zorder()


def test_a_negative_region_is_none():
    (axes,) = show.regions_2d(np.array([[1, -1], [2, 1]])).axes
    assert texts_of(axes) == ["1", "–", "2", "1"]
    grid = axes.images[0].get_array()
    assert len({tuple(c) for c in np.array(grid).reshape(-1, 3)}) == 3
    (alone,) = show.regions_2d(np.array([[1, 2]])).axes
    assert np.array_equal(
        alone.images[0].get_array()[0], np.array(grid)[[0, 1], [0, 0]]
    )  # colours stay those of the others


def outline(axes, colour):
    """The cells of the table beside which a line of this colour runs: its rows and columns, first and last."""
    points = np.concatenate([line.get_xydata() for line in axes.lines if line.get_color() == colour]) + 0.5
    (w0, h0), (w1, h1) = points.min(0), points.max(0) - 1
    return (h0, h1), (w0, w1)


def test_cutouts_are_what_each_query_reads():
    index = relative_position_index((4, 4))
    table, first, second = show.table_cutouts(index, [(0, 0), (1, 2)]).axes
    assert texts_of(table) == [str(n) for n in range(49)]
    assert [t.get_text() for t in table.get_xticklabels()] == ["−3", "−2", "−1", "0", "1", "2", "3"]
    assert texts_of(first) == [str(int(n)) for n in index[0]]
    assert texts_of(second) == [str(int(n)) for n in index[6]]
    colours = [axes.spines["left"].get_edgecolor() for axes in (first, second)]
    drawn = {to_rgba(line.get_color()): line.get_color() for line in table.lines}
    assert outline(table, drawn[colours[0]]) == ((0, 3), (0, 3))
    assert outline(table, drawn[colours[1]]) == ((1, 4), (2, 5))
    assert len(table.lines) == 2 * 16  # two closed squares of 4 x 4
    scattered = index.roll(1, 1)  # a wrong index is drawn as it is
    assert texts_of(show.table_cutouts(scattered, [(0, 0)]).axes[1]) == [str(int(n)) for n in scattered[0]]


def test_what_cannot_be_cut_out():
    index = relative_position_index((2, 2))
    with pytest.raises(CourseError, match=r"M up to 4, not \(25, 25\)"):
        show.table_cutouts(relative_position_index((5, 5)), [(0, 0)])
    with pytest.raises(CourseError, match=r"not \(4,\)"):
        show.table_cutouts(index[0], [(0, 0)])
    with pytest.raises(CourseError, match=r"query \(2, 0\) is not in a window of 2 × 2"):
        show.table_cutouts(index, [(2, 0)])
    with pytest.raises(CourseError, match="3 queries cannot be told apart"):
        show.table_cutouts(index, [(0, 0)] * 3)
