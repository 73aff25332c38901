"""Spatial views: where they cut, what they leave alone, and the step to floats."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vt_course import CourseError
from vt_course.data import transforms as T
from vt_course.data.reader import scaled_size


def grid(height, width, frames=2):
    """uint8 (T, H, W, 3): channel 0 is the row, 1 the column, 2 the frame."""
    t, y, x = torch.meshgrid(torch.arange(frames), torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([y, x, t], -1).to(torch.uint8)  # (T, H, W, C)


def corner(clip):
    """(top, left) of a crop of a grid, after a check that it is a plain cut of all frames."""
    top, left, _ = clip[0, 0, 0].tolist()
    size = clip.shape[1:3]
    whole = grid(200, 200, len(clip))
    assert torch.equal(clip, whole[:, top : top + size[0], left : left + size[1]])
    return top, left


@pytest.mark.parametrize(
    "size, short_side, wanted",
    [
        ((256, 340), 128, (128, 170)),
        ((340, 256), 128, (170, 128)),
        ((240, 320), 256, (256, 341)),
        ((50, 101), 25, (25, 51)),  # 50.5 is rounded up
        ((112, 112), 56, (56, 56)),
        ((9, 9), 9, (9, 9)),
    ],
)
def test_scaled_size(size, short_side, wanted):
    assert scaled_size(*size, short_side) == wanted


def test_resize_is_what_pil_does_to_each_frame():
    clip = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 40, 61, 3), np.uint8))
    for height, width in ((20, 31), (55, 90)):
        small = T.resize(clip, height, width)
        assert small.dtype == torch.uint8 and small.shape == (3, height, width, 3)
        pil = [Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR) for frame in clip.numpy()]
        assert abs(small.numpy().astype(int) - np.stack(pil)).max() <= 1
    assert T.resize(clip, 40, 61) is clip
    assert T.resize_short_side(clip, 20).shape == (3, 20, 31, 3)


@pytest.mark.parametrize("size, wanted", [((10, 14), (1, 3)), ((13, 8), (2, 0)), ((9, 11), (0, 1))])
def test_centre_crop(size, wanted):
    clip = T.centre_crop(grid(*size), 8)
    assert clip.shape == (2, 8, 8, 3) and corner(clip) == wanted


@pytest.mark.parametrize(
    "size, wanted",
    [
        ((8, 19), [(0, 0), (0, 5), (0, 11)]),
        ((19, 8), [(0, 0), (5, 0), (11, 0)]),
        ((10, 16), [(1, 0), (1, 4), (1, 8)]),
        ((8, 8), [(0, 0)] * 3),
    ],
)
def test_three_crops_run_along_the_longer_side(size, wanted):
    crops = T.three_crops(grid(*size), 8)
    assert [corner(crop) for crop in crops] == wanted
    assert all(crop.shape == (2, 8, 8, 3) for crop in crops)


@pytest.mark.parametrize("crop", [T.centre_crop, T.three_crops])
@pytest.mark.parametrize("size", [0, 9])
def test_a_crop_that_does_not_fit_is_explained(crop, size):
    with pytest.raises(CourseError, match=f"{size}x{size} does not fit into frames of 8x12"):
        crop(grid(8, 12), size)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32))
def test_a_random_box_lies_inside_the_frame(height, width, seed):
    top, left, h, w = T.random_box(height, width, np.random.default_rng(seed))
    assert 0 <= top <= top + h <= height and 0 <= left <= left + w <= width and h and w


def test_random_boxes_follow_scale_and_ratio_and_reach_every_corner():
    rng = np.random.default_rng(0)
    boxes = np.array([T.random_box(300, 400, rng, (0.1, 0.3), (0.5, 2)) for _ in range(3000)])
    top, left, h, w = boxes.T
    share, ratio = h * w / (300 * 400), w / h
    assert 0.099 < share.min() < 0.102 and 0.298 < share.max() < 0.301
    assert abs(share.mean() - 0.2) < 0.005  # uniform in area
    assert 0.49 < ratio.min() < 0.52 and 1.95 < ratio.max() < 2.04
    assert abs((ratio < 1).mean() - 0.5) < 0.04  # uniform in log(ratio)
    for start, room in ((top, 300 - h), (left, 400 - w)):
        assert start.min() == 0 and (start == room).any()
        assert abs((start / room).mean() - 0.5) < 0.03


def test_a_random_box_that_cannot_fit_is_the_largest_central_one():
    # in 30 x 200 no box of 90 % of the area has ratio 4/3 or less: full height, width 40
    box = T.random_box(30, 200, np.random.default_rng(0), (0.9, 1), (3 / 4, 4 / 3))
    assert box == (0, 80, 30, 40)
    box = T.random_box(200, 30, np.random.default_rng(0), (0.9, 1), (3 / 4, 4 / 3))
    assert box == (80, 0, 40, 30)


def test_random_resized_crop_cuts_all_frames_alike_and_repeats_with_its_seed():
    clip = grid(60, 80)
    a, b, c = (T.random_resized_crop(clip, 24, np.random.default_rng(s)) for s in (1, 1, 2))
    assert a.shape == (2, 24, 24, 3) and a.dtype == torch.uint8
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(a[0, ..., :2], a[1, ..., :2])  # the box is the clip's
    box = T.random_box(60, 80, np.random.default_rng(1))
    assert torch.equal(a, T.resize(T.crop(clip, *box), 24, 24))


def test_horizontal_flip_mirrors_columns_only():
    clip = grid(4, 6)
    flipped = T.horizontal_flip(clip)
    assert flipped[0, 0, :, 1].tolist() == [5, 4, 3, 2, 1, 0]
    assert torch.equal(flipped[..., [0, 2]], clip[..., [0, 2]])


def test_normalise():
    clip = grid(5, 7)
    x = T.normalise(clip, (0.5, 0.25, 0.0), (0.1, 0.2, 1.0))
    assert x.shape == (3, 2, 5, 7) and x.dtype == torch.float32 and x.is_contiguous()
    assert x[0, 0, 4, 0].item() == pytest.approx((4 / 255 - 0.5) / 0.1)
    assert x[1, 1, 0, 6].item() == pytest.approx((6 / 255 - 0.25) / 0.2)
    assert x[2, 1, 3, 3].item() == pytest.approx(1 / 255)
    assert clip.dtype == torch.uint8 and torch.equal(clip, grid(5, 7))  # left as it was
    standard = T.normalise(torch.full((1, 1, 1, 3), 255, dtype=torch.uint8)).flatten()
    assert standard.tolist() == pytest.approx([2.2489, 2.4286, 2.64], abs=1e-4)  # ImageNet
