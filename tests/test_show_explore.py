"""The windows to play with: a static picture without a front end, sliders with one."""

import io

import numpy as np
import pytest
import torch
from IPython.display import Image as Picture
from PIL import Image

from vt_course import CourseError
from vt_course.lab import show
from vt_course.lab.show import explore
from vt_course.models import swin

pytestmark = pytest.mark.slow


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), int)


@pytest.fixture
def static(monkeypatch):
    monkeypatch.setenv("VT_COURSE_STATIC", "1")


@pytest.fixture
def live(monkeypatch):
    monkeypatch.delenv("VT_COURSE_STATIC", raising=False)


@pytest.mark.parametrize("setting", [((8, 8), (4, 4), (2, 2)), ((4, 6, 4), (2, 3, 4), (1, 1, 0))])
def test_without_a_front_end_it_is_one_small_picture(setting, static):
    picture = show.explore_windows(*setting)
    assert isinstance(picture, Picture) and len(picture.data) < 100_000
    assert pixels(picture.data).shape[1] >= 900


def test_the_readers_functions_are_drawn(static):
    right = pixels(show.explore_windows((4, 4), (2, 2), (1, 1)).data)
    same = pixels(show.explore_windows((4, 4), (2, 2), (1, 1), roll=explore.package_roll, mask=swin.shift_mask).data)
    wrong_roll = pixels(show.explore_windows((4, 4), (2, 2), (1, 1), roll=lambda x, s: x.roll(s, (1, 2))).data)
    wrong_mask = pixels(show.explore_windows((4, 4), (2, 2), (1, 1), mask=lambda *a: -100 - swin.shift_mask(*a)).data)
    top, middle = len(right) // 2, right.shape[1] * 2 // 3

    def differ(other, *part):  # a palette of few colours moves each a little
        return np.abs(right[part] - other[part]).mean() > 2

    assert (right == same).all()
    assert not differ(wrong_roll, slice(top), slice(middle)) and differ(wrong_roll, slice(top), slice(middle, None))
    assert not differ(wrong_mask, slice(top)) and differ(wrong_mask, slice(top, None))


def test_sliders_redraw_the_picture(live):
    box = show.explore_windows((4, 4), (4, 4), (2, 2))
    sides, shifts, image = box.children
    first = image.value
    shifts.children[0].value = 1
    second = image.value
    assert first != second and shifts.children[0].max == 3
    sides.children[0].value = 2  # the shift stays below the window
    assert image.value not in (first, second) and shifts.children[0].max == 1
    sides.children[0].value, sides.children[1].value = 1, 1
    assert [s.value for s in shifts.children] == [0, 0]
    sides.children[0].value, sides.children[1].value = 4, 4
    shifts.children[0].value = shifts.children[1].value = 2
    assert image.value == first


@pytest.mark.parametrize(
    "size, window, shift",
    [
        ((8, 8), (3, 4), (0, 0)),
        ((8, 8), (4, 4), (4, 0)),
        ((8, 8), (4, 4), (-1, 0)),
        ((8,), (4,), (2,)),
        ((8, 8), (4, 4, 4), (2, 2)),
    ],
)
def test_settings_that_cannot_be_drawn(size, window, shift, static):
    with pytest.raises(CourseError):
        show.explore_windows(size, window, shift)


def test_the_packages_functions():
    x = torch.arange(16).view(1, 4, 4, 1)
    assert explore.package_roll(x, (1, 2))[0, 0, 0] == x[0, 1, 2]
    assert swin.shift_mask((4, 4), (2, 2), (1, 1)).shape == (4, 4, 4)
