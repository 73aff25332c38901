"""The figure of a data set counts what it is given, and refuses what is no clip."""

import matplotlib.pyplot as plt
import pytest
from test_show import assert_readable

from vt_course import CourseError
from vt_course.lab.show.dataset import dataset

pytestmark = pytest.mark.silent
CLIPS = [
    dict(label=label, split=split, seconds=seconds)
    for label, split, seconds in (
        ("typing", "train", 10.0),
        ("typing", "train", 9.0),
        ("typing", "val", 10.0),
        ("archery", "train", 2.0),
        ("archery", "val", None),
    )
]


def test_bars_and_histogram_are_the_counts():
    fig = dataset(CLIPS, "two classes")
    left, right = fig.axes
    assert plt.get_fignums() == [] and fig.get_suptitle() == "two classes"
    assert [t.get_text() for t in left.get_yticklabels()] == ["typing", "archery"]
    assert [bar.get_width() for bar in left.patches] == [2, 1, 1, 1]  # training, then validation
    assert [bar.get_x() for bar in left.patches] == [0, 0, 2, 1]
    assert sum(bar.get_height() for bar in right.patches) == 4
    assert (left.get_title(), right.get_title()) == ("2 classes", "5 clips, 1 unreadable")


def test_many_classes_are_one_curve_in_falling_order():
    clips = [dict(label=f"class {k}", split="train", seconds=1.0) for k in range(40) for _ in range(k + 1)]
    left = dataset(clips).axes[0]
    top = left.collections[0].get_paths()[0].vertices[:, 1].max()
    assert top == 40 and left.get_title() == "40 classes"


@pytest.mark.parametrize(
    "clips",
    [
        CLIPS,
        CLIPS[:1],
        [dict(CLIPS[0], seconds=None)],
        [
            dict(label=f"a class with quite a long name, number {k}", split="val" if k % 3 else "train", seconds=k / 7)
            for k in range(30)
        ],
        [dict(label=str(k), split="train", seconds=1.0) for k in range(400)],
    ],
)
def test_every_figure_is_readable(clips):
    assert_readable(
        dataset(clips, "A title that an author wrote without a thought for the width of the figure beneath")
    )


@pytest.mark.parametrize(
    "clips, words",
    [
        ([], "no clips"),
        ([dict(label="a", split="train")], "needs label"),
        ([dict(label="a", split="test", seconds=1)], "train or val"),
    ],
)
def test_what_is_no_clip_is_refused(clips, words):
    with pytest.raises(CourseError, match=words):
        dataset(clips)
