"""Moving pictures, picked frames, test views, one token: what is drawn is what was given."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from IPython.display import Image as Picture
from matplotlib.patches import Rectangle
from PIL import Image
from test_show import LONG, assert_readable

from vt_course import CourseError
from vt_course.data.clips import dense_indices, uniform_indices, video_swin_views
from vt_course.data.transforms import normalise
from vt_course.lab import show
from vt_course.lab.show import clips


def colours(T=6, H=24, W=32):
    """A clip whose frame t is one grey, brighter from frame to frame."""
    return np.broadcast_to((np.arange(T) * (250 // T)).astype(np.uint8)[:, None, None, None], (T, H, W, 3)).copy()


def noise(T, side, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (T, side, side, 3), dtype=np.uint8)


# ---------------------------------------------------------------- play


def test_a_moving_picture_has_the_frames_in_order_at_their_rate():
    picture = show.play(colours(), fps=8, width=200)
    assert isinstance(picture, Picture) and picture.width == 200 and picture.unconfined
    moving = Image.open(io.BytesIO(picture.data))
    assert moving.format == "PNG" and moving.n_frames == 6 and moving.info["loop"] == 0
    seen = []
    for t in range(6):
        moving.seek(t)
        assert moving.info["duration"] == 125
        seen.append(np.asarray(moving.convert("RGB"), int).mean())
    assert np.abs(np.array(seen) - colours()[:, 0, 0, 0]).max() <= 8 and (np.diff(seen) > 0).all()


def test_normalised_clips_play_as_well():
    frames = torch.from_numpy(noise(4, 16) // 8 * 8 + 4)
    assert show.play(normalise(frames)).data == show.play(frames).data


def test_a_small_bright_thing_on_a_large_background_keeps_its_colours():
    frames = noise(4, 112) // 3  # dark
    rainbow = (plt.get_cmap("hsv")(np.linspace(0, 1, 24))[:, :3] * 255).astype(np.uint8)  # (24, 3)
    frames[:, :8, :24] = rainbow
    shown = np.asarray(Image.open(io.BytesIO(show.play(frames).data)).convert("RGB"), int)
    assert np.abs(shown[:8, :24] - rainbow).mean() <= 12


def test_a_moving_picture_stays_small():
    assert len(show.play(noise(32, 112)).data) <= clips.PLAY_BYTES  # noise cannot be compressed
    with pytest.raises(CourseError, match="every second one"):
        show.play(noise(120, 112))
    with pytest.raises(CourseError, match="a clip is uint8"):
        show.play(np.zeros((4, 8, 8), np.uint8))


# ---------------------------------------------------------------- sampling


def lines(axes):
    """x of the vertical lines of each clip, in the order drawn."""
    return [[path.vertices[0, 0] for path in c.get_paths()] for c in axes.collections]


def test_each_row_shows_its_frames():
    schemes = {"32×2": dense_indices(300, 32, 2), "uniform": torch.from_numpy(uniform_indices(300, 16))}
    (axes,) = show.sampling(300, schemes, segments={"uniform": np.arange(17) * 300 / 16}, title="Title").axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["32×2", "uniform"]
    assert lines(axes) == [list(indices) for indices in schemes.values()]
    bars = [p for p in axes.patches if isinstance(p, Rectangle)]
    assert [(b.get_x(), b.get_width()) for b in bars] == [(117.5, 63), (8.5, 282)]
    assert len([line for line in axes.lines if line.get_linestyle() == ":"]) == 17
    assert [t.get_text() for t in axes.texts] == ["32 frames\n2.1 s", "16 frames\n9.4 s"]


def test_several_clips_lie_on_levels_of_their_own():
    views = video_swin_views(300, 32, 2, 4)
    (axes,) = show.sampling(300, {"views": views}, fps=60).axes
    assert lines(axes) == views.tolist()
    levels = [p.get_y() for p in axes.patches]
    assert len(set(levels)) == 4 and levels == sorted(levels)
    assert axes.texts[0].get_text() == "4 × 32 frames\n1.1 s"


def test_a_looped_clip_gets_a_new_bar():
    (axes,) = show.sampling(20, {"short": dense_indices(20, 8, 4)}).axes
    assert lines(axes) == [[0, 4, 8, 12, 16], [0, 4, 8]]
    assert len({p.get_y() for p in axes.patches}) == 2 and axes.texts[0].get_text() == "8 frames\nlooped"


@pytest.mark.parametrize("wrong", [[0, 300], [-1, 4]])
def test_frames_that_the_video_does_not_have(wrong):
    with pytest.raises(CourseError, match="'mine' picks frames .* of a video with frames 0 to 299"):
        show.sampling(300, {"mine": wrong})


# ---------------------------------------------------------------- film strips


def test_a_strip_from_the_middle_of_a_video_has_the_videos_frame_numbers():
    fig = show.film_strip([noise(6, 16), noise(6, 16)], n=6, first=12)
    assert [axes.get_title() for axes in fig.axes[:6]] == [f"frame {i}" for i in range(12, 18)]
    assert [axes.get_title() for axes in show.film_strip(noise(20, 16), n=10, first=5).axes][:2] == ["5", "7"]


# ---------------------------------------------------------------- views

BOXES = torch.tensor([[0, 0, 24, 24], [0, 8, 24, 32]])


def test_views_are_light_inside_their_box_and_dark_outside():
    fig = show.views(colours(), [[0, 2, 4], [1, 3, 5]], BOXES, "Title")
    assert len(fig.axes) == 6
    for row, (frames, middle) in enumerate((([0, 2, 4], 2), ([1, 3, 5], 3))):
        line, *pictures = fig.axes[3 * row : 3 * row + 3]
        assert lines(line) == [frames] and line.get_title() == f"frames {frames[0]} to {frames[-1]}"
        value = int(colours()[middle, 0, 0, 0])
        for c, (axes, box) in enumerate(zip(pictures, BOXES.tolist())):
            top, left, bottom, right = box
            image = axes.images[0].get_array().astype(int)
            inside = np.zeros(image.shape[:2], bool)
            inside[top:bottom, left:right] = True
            assert np.abs(image[inside] - value).max() <= 4 and image[~inside].max() <= 0.3 * (value + 4)
            (frame,) = axes.patches
            assert frame.get_bbox().bounds == (left, top, right - left, bottom - top)
            assert axes.get_title() == f"view {2 * row + c + 1}"


@pytest.mark.parametrize(
    "indices, boxes, words",
    [
        ([[0, 6]], BOXES, "the video has 0 to 5"),
        ([[0, 1]], [[0, 0, 25, 24]], "within 24 x 32"),
        ([[0, 1]], [[0, 8, 24, 8]], "within"),
        ([[0, 1]], [[-1, 0, 24, 24]], "within"),
        ([[0, 1]], [[0, 0]], "within"),
    ],
)
def test_views_that_do_not_exist(indices, boxes, words):
    with pytest.raises(CourseError, match=words):
        show.views(colours(), indices, boxes)


# ---------------------------------------------------------------- one token


def cut(frames, tube, place):
    t, h, w = (slice(i * n, (i + 1) * n) for i, n in zip(place, tube))
    return frames[t, h, w].transpose(3, 0, 1, 2).reshape(-1)  # (c, t, h, w)


@pytest.mark.parametrize("tube, place", [((2, 4, 4), (1, 2, 3)), ((1, 4, 4), (3, 0, 1)), ((3, 2, 4), (0, 1, 0))])
def test_a_token_is_drawn_as_its_numbers(tube, place):
    frames = noise(6, 16)
    numbers = cut(frames, tube, place)
    fig = show.token(frames, tube, place, numbers, "Title")
    *pictures, axes = fig.axes
    assert len(pictures) == 2 * tube[0]
    assert [int(t.get_text()) for t in axes.texts] == numbers.tolist()
    first = place[0] * tube[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        f"{c}, frame {first + i}" for c in ("red", "green", "blue") for i in range(tube[0])
    ]
    tint = axes.images[0].get_array()
    assert tint[0, 0, 0] == pytest.approx(0.5 + 0.5 * numbers[0] / 255) and (tint[0, :, 1:] == 0.5).all()
    for i in range(tube[0]):
        assert pictures[2 * i].get_title() == f"frame {first + i}"
        pixels = pictures[2 * i + 1].images[0].get_array()
        assert (
            pixels.transpose(2, 0, 1).reshape(3, -1)[0] == numbers[i * tube[1] * tube[2] :][: tube[1] * tube[2]]
        ).all()


def test_the_numbers_of_a_token_can_be_read_on_their_colour():
    numbers = np.linspace(0, 255, 96)
    axes = show.token(noise(2, 4), (2, 4, 4), (0, 0, 0), numbers).axes[-1]
    tint = axes.images[0].get_array()
    for text, colour in zip(axes.texts, tint.reshape(-1, 3)):
        linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
        lightness = linear @ [0.2126, 0.7152, 0.0722] + 0.05  # WCAG
        assert (lightness / 0.05 if text.get_color() == "black" else 1.05 / lightness) > 5


def test_many_numbers_are_drawn_without_text():
    frames = noise(2, 32)
    fig = show.token(frames, (1, 16, 16), (1, 1, 0), cut(frames, (1, 16, 16), (1, 1, 0)))
    assert not fig.axes[-1].texts and fig.axes[-1].images[0].get_array().shape == (3, 256, 3)


def test_tokens_that_do_not_fit():
    frames = noise(4, 16)
    with pytest.raises(CourseError, match="has 96 numbers, not"):
        show.token(frames, (2, 4, 4), (0, 0, 0), np.zeros(48))
    with pytest.raises(CourseError, match="ends outside"):
        show.token(frames, (2, 4, 4), (0, 4, 0), np.zeros(96))


# ---------------------------------------------------------------- readable

SCHEMES = {
    "Video Swin 32×2": dense_indices(300, 32, 2),
    "MViT-B, UniFormer 16×4": dense_indices(300, 16, 4),
    "looped": dense_indices(300, 96, 4),
    "views": video_swin_views(300, 32, 2, 5),
}


@pytest.mark.parametrize(
    "draw",
    [
        lambda: show.sampling(300, SCHEMES, title=LONG),
        lambda: show.sampling(60, {"one": [3, 5]}, fps=12),
        lambda: show.views(
            noise(32, 64), video_swin_views(32, 8, 2, 4), [[0, x, 48, x + 48] for x in (0, 8, 16)], LONG
        ),
        lambda: show.views(noise(32, 64), [[0, 31]], [[0, 0, 64, 64]]),
        lambda: show.token(noise(6, 112), (2, 4, 4), (2, 20, 27), np.full(96, 255), LONG),
        lambda: show.token(noise(16, 64), (1, 4, 4), (15, 0, 0), np.zeros(48)),
    ],
    ids=["sampling", "sampling, one", "views, 4 × 3", "views, one", "tube", "patch"],
)
def test_everything_can_be_read(draw):
    assert_readable(draw())
