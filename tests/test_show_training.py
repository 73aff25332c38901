"""Figures of training: what is drawn is what was given, and wrong input is named."""

import numpy as np
import pytest
import torch
from test_show import LONG, assert_readable, texts_of

from vt_course import CourseError
from vt_course.lab import show
from vt_course.lab.show.training import accuracies, count_float32

pytestmark = pytest.mark.silent

PER_CLIP = [("mp4 file", "32 frames"), ("crop", "one random box\nfor all 8 frames"), ("normalise", "floats")]
PER_STEP = [("batch", "10 clips"), ("model", "10 × 8 logits,\ndrop path"), ("loss", "cross-entropy"), ("AdamW", "lr")]
ORDER = [[3, 1, 4, 0, 7], [2, 6, 5]]
GRADIENTS = 2.0 ** torch.tensor([-30.0, -24.5, -16, -10, 0, 3, 5, 15])
HALF = [torch.float32, torch.float16, torch.bfloat16]
FIGURES = {
    "path": lambda: show.training_path(PER_CLIP, PER_STEP, "new weights, the next batch", LONG),
    "path, bare": lambda: show.training_path(PER_CLIP, PER_STEP[:3], "again"),
    "schedules": lambda: show.schedules({f"recipe {k}": np.arange(1, 9) ** k for k in range(1, 7)}, LONG),
    "ranks": lambda: show.ranks([list(range(16)), list(range(8))], 2, LONG),
    "ranks, eight": lambda: show.ranks([list(range(990, 1006))], 8),
    "numbers": lambda: show.number_lines(HALF, 0.98, 1.02, 1.003, LONG),
    "numbers, no value": lambda: show.number_lines(HALF[1:], 1, 1.1),
    "gradients": lambda: show.gradient_sizes({"gradients": GRADIENTS, "times 2¹⁶": GRADIENTS * 2**16}, LONG),
    "accuracies": lambda: accuracies(
        {"one view": (0.9, 400), "frames shuffled": (0.19, 400), "all": (1.0, 3)}, 1 / 8, LONG
    ),
    "accuracy": lambda: accuracies({"mine": (2 / 3, 3)}, 1 / 3),
    "gradients, one": lambda: show.gradient_sizes({"gradients": GRADIENTS}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_text_is_readable(name):
    assert_readable(FIGURES[name]())


def test_a_path_has_a_box_for_each_stop_and_an_arrow_between():
    axes = show.training_path(PER_CLIP, PER_STEP, "again").axes[0]
    texts = texts_of(axes)
    assert all(text in texts for stop in PER_CLIP + PER_STEP for text in stop) and "again" in texts
    assert len(axes.patches) == 7
    arrows = [a for a in axes.texts if getattr(a, "arrow_patch", None) is not None]
    assert len(arrows) == 2 + 3 + 2  # within the rows, to the second row, back to the model
    with pytest.raises(CourseError, match="at least three boxes"):
        show.training_path(PER_CLIP[:2], PER_STEP, "again")


def test_schedules_are_shares_of_the_training_and_of_the_peak():
    up, down = show.schedules({"up": [1, 2, 3, 4], "down": torch.tensor([5e-3, 5e-4])}).axes[0].lines
    assert up.get_xdata().tolist() == [0.125, 0.375, 0.625, 0.875] and up.get_ydata().tolist() == [0.25, 0.5, 0.75, 1]
    assert down.get_xdata().tolist() == [0.25, 0.75] and np.allclose(down.get_ydata(), [1, 0.1])


@pytest.mark.parametrize("wrong", [[1.0], [0.0, 0.0], np.ones((2, 2))])
def test_what_is_no_schedule_is_named(wrong):
    with pytest.raises(CourseError, match="schedule 'mine' needs at least two learning rates"):
        show.schedules({"mine": wrong})


def test_each_rank_takes_every_nth_clip():
    axes = show.ranks(ORDER, 2).axes[0]
    colours = {}
    for bar in axes.patches:
        row, place = round(bar.get_y() + bar.get_height() / 2), round(bar.get_x() + bar.get_width() / 2)
        colours[row, place] = bar.get_facecolor()
    assert len(colours) == 8
    assert all((colours[row, place] == colours[0, 0]) == (place % 2 == 0) for row, place in colours)
    at = {(round(t.get_position()[1]), t.get_position()[0]): t.get_text() for t in axes.texts}
    assert [at[0, k] for k in range(5)] == list("31407") and at[0, 5] == "3 + 2 clips" and at[1, 5] == "2 + 1 clips"


@pytest.mark.parametrize("batches, world", [([], 2), ([[1, 2], []], 2), ([[1, 2]], 0), ([[1, 2]], 9)])
def test_no_ranks_without_clips(batches, world):
    with pytest.raises(CourseError, match="at least one clip and 1 to 8 processes"):
        show.ranks(batches, world)


def test_number_lines_show_every_number_and_where_a_value_goes():
    axes = show.number_lines(HALF, 1, 1.0625, 1.003).axes[0]
    assert [t.get_text() for t in axes.texts] == ["524,289 numbers", "65 numbers", "9 numbers"]
    ticks = [np.unique([segment[0, 0] for segment in c.get_segments()]) for c in axes.collections[1:]]
    assert ticks[1].tolist() == [1 + k / 128 for k in range(9)] and len(ticks[0]) == 65
    dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert dots == [pytest.approx(1.003), 1 + 3 / 1024, 1]
    with pytest.raises(CourseError, match="runs upwards"):
        show.number_lines(HALF, 2, 1)


def test_gradients_are_counted_by_what_float16_makes_of_them():
    fig = show.gradient_sizes({"gradients": GRADIENTS, "with zeros": torch.cat([GRADIENTS, torch.zeros(9)])})
    titles = [axes.get_title() for axes in fig.axes]
    assert titles == [f"{name}: 12.5 % become 0, 25 % lose digits" for name in ("gradients", "with zeros")]
    assert (GRADIENTS.half() == 0).sum() == 1  # of 8: 2^-30
    heights = {round(p.get_x()): p.get_height() for p in fig.axes[0].containers[0]}
    assert {edge: h for edge, h in heights.items() if h} == dict.fromkeys([-30, -25, -16, -10, 0, 3, 5, 15], 12.5)
    with pytest.raises(CourseError, match="no gradients other than zero"):
        show.gradient_sizes({"gradients": torch.zeros(3)})
    beyond = show.gradient_sizes({"tiny": torch.tensor([2.0**-40, 2.0**-33, 2.0**-29, 1])}).axes[0]
    assert [p.get_height() for p in beyond.containers[0]][:3] == [50, 25, 0] and "75.0 % become 0" in beyond.get_title()


@pytest.mark.parametrize("low, high", [(0.98, 1.02), (1, 1 + 2**-20), (0.1, 0.1001), (0.1, 0.1 + 1e-9)])
def test_float32_numbers_are_counted(low, high):
    near = np.float32([low, high]).view(np.int32) + [-9, 9]
    numbers = np.arange(*near, dtype=np.int32).view(np.float32).astype(float)
    assert count_float32(low, high) == count_float32(-high, -low) == ((numbers >= low) & (numbers <= high)).sum()
    assert count_float32(-(2**-140), 2**-140) == 2 * 2**9 + 1  # across 0


def test_accuracies_have_intervals_also_where_all_or_none_are_right():
    axes = accuracies({"a": (0.5, 100), "b": (1.0, 3), "c": (0.0, 4)}, 1 / 8).axes[0]
    # 1 / (1 + 1.96² / n) is the end for n of n
    assert [t.get_text() for t in axes.texts] == [
        "50.0 % of 100 (40.4 to 59.6)",
        "100.0 % of 3 (43.8 to 100.0)",
        "0.0 % of 4 (0.0 to 49.0)",
    ]
    segments = [bars.lines[2][0].get_segments()[0][:, 0] for bars in axes.containers]
    assert np.allclose(segments, [[40.383, 59.617], [43.849, 100], [0, 48.991]], atol=1e-3)
    assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [12.5]
    for wrong in ((1.1, 3), (0.5, 0)):
        with pytest.raises(CourseError, match="accuracy 'a' needs a share from 0 to 1 of at least one clip"):
            accuracies({"a": wrong}, 0.5)
