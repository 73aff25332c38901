"""Figures are checked through their data, and every one of them for text that can be read."""

import io
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter
from matplotlib.text import Text
from PIL import Image

from vt_course import CourseError, repo_root
from vt_course.data.transforms import normalise
from vt_course.lab import show
from vt_course.lab.show import __main__ as picture
from vt_course.lab.show import clips, compare, style, windows
from vt_course.lab.show.style import wrapped
from vt_course.models import swin

pytestmark = pytest.mark.silent

SIZE, WINDOW, SHIFT = (8, 8, 8), (4, 4, 4), (2, 2, 2)
REGULAR, SHIFTED = show.window_numbers(SIZE, WINDOW), show.window_numbers(SIZE, WINDOW, SHIFT)
DILATED = (np.indices(SIZE) % 2 * np.array([4, 2, 1])[:, None, None, None]).sum(0)
MASK = swin.shift_mask(SIZE, WINDOW, SHIFT, torch.device("cpu"), torch.float32)
CLASSES = "left right up down grow shrink clockwise counter-clockwise".split()


def texts_of(axes) -> list[str]:
    return [t.get_text() for t in axes.texts]


def legend_of(axes) -> list[str]:
    return [t.get_text() for t in axes.get_legend().get_texts()]


def drawn_texts(fig) -> tuple[list[tuple[Text, object]], bytes]:
    """Every text that savefig really draws, with its extent in pixels; and the PNG."""
    seen, draw, picture = {}, Text.draw, io.BytesIO()

    def record(self, renderer, *args, **kwargs):
        draw(self, renderer, *args, **kwargs)
        if self.get_visible() and self.get_text().strip():
            # An annotation's own extent includes its arrow; its text is what must be readable.
            seen[self] = Text.get_window_extent(self, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", record)
        fig.savefig(picture, format="png")
    return list(seen.items()), picture.getvalue()


def assert_readable(fig) -> None:
    """All text inside the picture, at least 11 points, none on another; a small file."""
    texts, png = drawn_texts(fig)
    width, height = Image.open(io.BytesIO(png)).size
    assert texts, "no text at all"
    assert len(png) < 300_000
    on_page = style.page_size(width)["width"] / width  # pixels of a page for one of the picture
    for text, box in texts:
        assert text.get_size() >= 11, text
        assert text.get_size() * fig.dpi / 72 * on_page >= 10.5, f"{text} is too small where the figure is wide"
        assert box.x0 >= -1 and box.y0 >= -1, f"{text} is clipped: {box}"
        assert box.x1 <= width + 1 and box.y1 <= height + 1, f"{text} is clipped: {box}"
    level = [(text, box) for text, box in texts if text.get_rotation() % 90 == 0]
    low, high = (np.array([getattr(box, end) for _, box in level]) for end in ("min", "max"))
    shared = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)  # (n, n, x y)
    for i, j in np.argwhere(np.triu((shared > 1).all(-1), 1)):
        raise AssertionError(f"{level[i][0]} lies on {level[j][0]}")


@pytest.mark.parametrize("shape, width", [((6, 5), None), ((11, 3), 800)], ids=["fits", "wide"])
def test_a_cell_shows_a_figure_at_a_width_that_a_phone_does_not_shrink(shape, width):
    fig = style.figure(lambda: plt.subplots(figsize=shape)[0])()
    data, metadata = DisplayFormatter().format(fig)
    pixels = Image.open(io.BytesIO(data["image/png"])).width
    assert metadata["image/png"] == {"width": width or pixels, "unconfined": True} and pixels >= (width or 0)
    assert data["text/plain"].startswith("<Figure size ") and set(data) == {"image/png", "text/plain"}


def clip(T=12, H=48, W=64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (T, H, W, 3), np.uint8)


def stages(*sides) -> list[dict]:
    return [dict(name=f"stage {i + 1}", shape=(16, s, s), channels=96 << i) for i, s in enumerate(sides)]


LONG = "A title that an author wrote without a thought for the width of the figure beneath it"
FIGURES = {
    "film strip": lambda: show.film_strip(clip(), title=LONG + ", or for the reader"),
    "film strip, rows": lambda: show.film_strip([clip(), clip(30)], 12, rows=CLASSES[-2:]),
    "windows, one": lambda: show.windows_3d(SHIFTED, LONG),
    "windows, two": lambda: show.windows_3d([REGULAR, SHIFTED], ["8 windows", LONG]),
    "windows, flat": lambda: show.windows_3d(show.window_numbers((2, 14, 28), (2, 7, 7), (0, 3, 3))),
    "windows, scattered": lambda: show.windows_3d(
        [DILATED, np.roll(REGULAR, SHIFT, (0, 1, 2))], ["wrong axes", "rolled"]
    ),
    "mask, 3-D": lambda: show.shift_mask(MASK, WINDOW, heads=12, title=LONG),
    "mask, 2-D": lambda: show.shift_mask(
        swin.shift_mask((8, 8), (4, 4), (2, 2), torch.device("cpu"), torch.float32), (4, 4)
    ),
    "mask, enlarged": lambda: show.mask_of_window(MASK[5], WINDOW, (2, 1, 2), LONG),
    "mask, one": lambda: show.shift_mask(torch.zeros(1, 8, 8), (2, 2, 2)),
    "regions": lambda: show.regions_2d([SHIFTED[0], REGULAR[0]], ["after the roll", LONG]),
    "regions, windows": lambda: show.regions_2d([SHIFTED[0]] * 2, ["before", LONG], window=[None, (4, 4)]),
    "regions, 12": lambda: show.regions_2d(np.arange(144).reshape(12, 12) // 8 + 90, LONG),
    "bias 8": lambda: show.bias_tables(torch.randn(15 * 13 * 13, 3), (8, 7, 7), 2, LONG),
    "bias, some": lambda: show.bias_tables(torch.randn(147, 3), (2, 4, 4), 0, LONG, noise=1.0, offsets=(-1, 1)),
    "bias 2-D": lambda: show.bias_tables(torch.randn(169, 3), (7, 7), title="Stage 1"),
    "bias, untrained": lambda: show.bias_tables(torch.zeros(27, 1), (2, 2, 2)),
    "index 8": lambda: show.index_matrix(swin.relative_position_index((2, 2, 2)), LONG, (2, 2, 2)),
    "index 16": lambda: show.index_matrix(swin.relative_position_index((4, 2, 2)), "Rows"),
    "flow": lambda: show.token_flow(stages(112, 56, 28, 14, 7), LONG),
    "flow, mini": lambda: show.token_flow(stages(16, 8, 4)),
    "confusion": lambda: show.confusion(np.eye(8, dtype=int) * 150, CLASSES, LONG),
    "ceilings": lambda: show.ceilings(
        {"frames in order": (0.995, 0.004), "one frame": (0.13, 0.02)},
        {"one frame": 0.125, "frames in no order": 0.15, "no order": 0.5, "best": 1.0},
        LONG,
    ),
    "cost": lambda: show.cost_curves(
        {
            "joint": dict(x=[2, 3, 4, 64], y=[4, 9, 16, 4096], formula_y=[4, 9, 16, 4096]),
            "windows": dict(x=[2, 4, 8], y=[1, 2, 4]),
        },
        "frames",
        "GMACs",
        LONG,
    ),
    "curves": lambda: show.curves({"train": [3, 2, 1], "validation": [3.1, 2.2, 1.5]}, "loss"),
    "mask, wrong": lambda: show.expected_got(MASK, MASK.roll(1, 0), LONG),
    "index, wrong": lambda: show.expected_got(REGULAR[0], REGULAR[0].T, "window_partition"),
    "indices, wrong": lambda: show.expected_got(np.arange(12), np.arange(12) * 8 // 7),
    "shape, wrong": lambda: show.expected_got(torch.zeros(8, 64, 3), torch.zeros(64, 8, 3)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_text_is_readable_and_nothing_is_left_open(name):
    """Also: the reader's own figure and settings are as before; a cell shows it just once."""
    plt.close("all")
    own, dpi = plt.figure(), plt.rcParams["figure.dpi"]
    fig = FIGURES[name]()
    assert plt.get_fignums() == [own.number] and plt.gcf() is own
    assert plt.rcParams["figure.dpi"] == dpi and fig.dpi == 110
    plt.close(own)
    assert_readable(fig)


def test_the_readability_check_sees_clipped_and_overlapping_text():
    fig = plt.figure()
    plt.close(fig)
    fig.text(0.9, 0.5, "a text that runs out of the picture", size=11)
    with pytest.raises(AssertionError, match="clipped"):
        assert_readable(fig)
    fig.texts[0].set_x(0.1)
    assert_readable(fig)
    fig.text(0.2, 0.5, "another on it", size=11)
    with pytest.raises(AssertionError, match="lies on"):
        assert_readable(fig)
    fig.texts[1].set(y=0.9, size=10)
    with pytest.raises(AssertionError, match="10.0 >= 11"):
        assert_readable(fig)


def test_a_figure_that_fails_halfway_is_closed_too():
    plt.close("all")
    with pytest.raises(TypeError):
        show.curves({"train": [1, 2]}, "loss", title=3)
    assert plt.get_fignums() == []


def test_same_input_same_bytes():
    def png():
        buffer = io.BytesIO()
        show.windows_3d([REGULAR, SHIFTED], ["a", "b"]).savefig(buffer, format="png")
        return buffer.getvalue()

    assert png() == png()


# ---------------------------------------------------------------- clips


def test_normalisation_is_undone():
    frames = torch.from_numpy(clip())
    floats = normalise(frames)  # (C, T, H, W)
    assert floats.min() < -1
    assert (clips.frames_of(floats) == frames.numpy()).all()
    a, b = show.film_strip(frames), show.film_strip(floats)
    for left, right in zip(a.axes, b.axes, strict=True):
        assert (left.images[0].get_array() == right.images[0].get_array()).all()
    shown = a.axes[0].images[0].get_array().astype(int)
    assert np.abs(shown - frames[0].numpy()).max() <= 4  # small frames are not resized


def test_frames_are_evenly_spaced_and_numbered():
    fig = show.film_strip(clip(T=29), n=8)
    assert [a.get_title() for a in fig.axes] == [f"frame {i}" for i in range(0, 29, 4)]
    assert len(show.film_strip(clip(T=3), n=8).axes) == 3  # never one frame twice


def test_rows_are_named_and_each_strip_is_its_own_clip():
    black, white = np.zeros((4, 8, 8, 3), np.uint8), np.full((4, 8, 8, 3), 255, np.uint8)
    fig = show.film_strip([black, white], n=4, rows=["black", "white"])
    assert [a.get_ylabel() for a in fig.axes if a.get_ylabel()] == ["black", "white"]
    means = [a.images[0].get_array().mean() for a in fig.axes]
    assert max(means[:4]) < 10 and min(means[4:]) > 245


@pytest.mark.parametrize(
    "wrong", [np.zeros((3, 8, 8, 8), np.uint8), np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 8, 3), np.float32)]
)
def test_what_is_no_clip_is_named_with_its_shape(wrong):
    with pytest.raises(CourseError, match=r"\(3, T, H, W\), not \w+ \("):
        show.film_strip(wrong)
    with pytest.raises(CourseError, match="2 row names for 1 clips"):
        show.film_strip(clip(), rows=["a", "b"])


# ---------------------------------------------------------------- windows in 3-D


def test_the_27_windows_and_their_sizes():
    left, right = show.windows_3d([torch.tensor(REGULAR), SHIFTED], ["regular", "shifted"]).axes
    assert left.get_legend().get_title().get_text() == "8 windows"
    assert legend_of(left) == ["64 tokens × 8"]
    assert right.get_legend().get_title().get_text() == "27 windows"
    assert legend_of(right) == ["8 tokens × 8", "16 tokens × 12", "32 tokens × 6", "64 tokens × 1"]
    assert (left.get_title(), right.get_title()) == ("regular", "shifted")
    colour = [axes.get_legend().get_patches()[-1].get_facecolor() for axes in (left, right)]
    assert colour[0] == colour[1]  # 64 tokens: one colour
    assert len({p.get_facecolor() for p in right.get_legend().get_patches()}) == 4


def test_one_face_for_every_token_at_a_visible_surface():
    """8 windows of 4 x 4 x 4 show 3 faces of 16 tokens; of 27, each its own three sides."""
    left, right = show.windows_3d([REGULAR, SHIFTED], ["", ""]).axes
    assert len(left.collections[0].get_paths()) == 8 * 3 * 16
    per_axis = [2, 4, 2]
    expected = sum(a * b + b * c + a * c for a in per_axis for b in per_axis for c in per_axis)
    assert len(right.collections[0].get_paths()) == expected


def test_numbers_do_not_matter_only_who_shares_one():
    """The package's own partition, rolled and cut as in the model, draws the same 8 windows."""
    tokens = torch.arange(512).view(1, *SIZE, 1)
    windows = swin.window_partition(tokens, WINDOW)  # (nW, N, 1)
    labels = torch.empty(512, dtype=torch.long)
    labels[windows.flatten()] = torch.arange(8).flip(0).repeat_interleave(64)
    a, b = (show.windows_3d(x).axes[0] for x in (labels.view(SIZE), REGULAR))
    assert legend_of(a) == legend_of(b)
    for p, q in zip(a.collections[0].get_paths(), b.collections[0].get_paths(), strict=True):
        assert np.allclose(p.vertices, q.vertices)


def test_a_wrong_partition_looks_wrong():
    """Every second token: eight groups of the right size, but scattered, not eight boxes."""
    axes = show.windows_3d(DILATED).axes[0]
    assert legend_of(axes) == ["64 tokens × 8, in 512 pieces"]
    assert len(axes.collections[0].get_paths()) == 3 * 512
    axes = show.windows_3d(np.roll(REGULAR, SHIFT, (0, 1, 2))).axes[0]
    assert legend_of(axes) == ["64 tokens × 8, in 27 pieces"]  # wraps round the border


def test_a_group_that_is_no_box_falls_into_single_tokens():
    labels = np.zeros((2, 2, 2), int)
    labels[0, 0, 0] = 1  # the rest: a box less a corner
    axes = show.windows_3d(labels).axes[0]
    assert legend_of(axes) == ["1 tokens × 1", "7 tokens × 1, in 7 pieces"]
    assert len(axes.collections[0].get_paths()) == 3 * 8


@settings(max_examples=20)
@given(st.lists(st.integers(0, 2), min_size=27, max_size=27), st.sampled_from([0.0, 0.6]))
def test_pieces_hold_each_token_once_and_never_meet(numbers, gap):
    labels = np.array(numbers).reshape(3, 3, 3)
    boxes = [part for n in np.unique(labels) for part in windows.split(np.argwhere(labels == n))]
    drawn = Counter(tuple(token) for box in boxes for token in box.tolist())
    assert drawn == Counter(np.ndindex(3, 3, 3))
    for box in boxes:
        assert len(box) == np.prod(np.ptp(box, axis=0) + 1)
        assert len(set(labels[tuple(box.T)])) == 1
    corners = np.concatenate(windows.place_boxes(boxes, gap))
    apart = np.abs(corners[:, None] - corners[None]).max(-1) + 10 * np.eye(27)
    assert apart.min() > 1 - 1e-9  # unit cubes do not overlap


def test_time_runs_into_the_picture_and_near_tokens_hide_far_ones():
    origin = windows.project((0, 0, 0))
    t, h, w = (windows.project(step) - origin for step in np.eye(3))
    assert h[0] == 0 and h[1] < 0 and w[0] > 0  # rows down, columns right
    assert t[2] > 0 and h[2] > 0 and w[2] < 0  # near: first, top, right
    labels = np.arange(8).reshape(2, 2, 2)
    last = show.windows_3d(labels, gap=0).axes[0].collections[0].get_paths()[-3:]
    middle = windows.project((1, 1, 1))
    nearest = np.concatenate(
        [(windows.project(np.add((0, 0, 1), corners)) - middle)[:, :2] for _, corners, *_ in windows.FACES]
    )
    drawn = np.concatenate([path.vertices[:4] for path in last])
    assert np.allclose(sorted(map(tuple, drawn.round(6))), sorted(map(tuple, nearest.round(6))))


def test_labels_need_three_axes_and_a_title_each():
    with pytest.raises(CourseError, match=r"\(T, H, W\), not shape \(8, 8\)"):
        show.windows_3d(REGULAR[0])
    with pytest.raises(CourseError, match="1 titles for 2 panels"):
        show.windows_3d([REGULAR, SHIFTED], ["one"])


# ---------------------------------------------------------------- masks and regions


def test_mask_panels_show_the_mask_and_its_share():
    fig = show.shift_mask(MASK, WINDOW)
    assert [a.get_title() for a in fig.axes] == [
        "(0, 0, 0): 0 %",
        "(0, 0, 1): 50 %",
        "(0, 1, 0): 50 %",
        "(0, 1, 1): 75 %",
        "(1, 0, 0): 50 %",
        "(1, 0, 1): 75 %",
        "(1, 1, 0): 75 %",
        "(1, 1, 1): 87.5 %",
    ]
    for axes, window in zip(fig.axes, MASK, strict=True):
        assert (axes.images[0].get_array() == (window < 0).numpy()).all()


def test_a_wrong_mask_is_drawn_as_it_is():
    wrong = torch.zeros_like(MASK)
    wrong[0, 3, 5] = -100
    first = show.shift_mask(wrong, WINDOW).axes[0]
    assert np.argwhere(first.images[0].get_array()).tolist() == [[3, 5]]
    assert first.get_title() == "(0, 0, 0): 0.0244 %"


def test_many_windows_are_drawn_once_for_each_picture():
    cpu = torch.device("cpu")
    mask = swin.shift_mask((2, 14, 21), (2, 2, 3), (0, 1, 1), cpu, torch.float32)
    titles = [a.get_title() for a in show.shift_mask(mask, (2, 2, 3), grid=(1, 7, 7)).axes]
    assert titles == [
        "(0, 0, 0) and 35 more: 0 %",
        "(0, 0, 6) and 5 more: 44.4 %",
        "(0, 6, 0) and 5 more: 50 %",
        "(0, 6, 6): 72.2 %",
    ]
    assert show.shift_mask(mask, (2, 2, 3)).axes[0].get_title() == "0 and 35 more: 0 %"
    with pytest.raises(CourseError, match=r"\(1, 7, 6\) windows has 42, the mask 49"):
        show.shift_mask(mask, (2, 2, 3), grid=(1, 7, 6))
    with pytest.raises(CourseError, match=r"\(nW, 27, 27\), not \(8, 64, 64\)"):
        show.shift_mask(MASK, (3, 3, 3))


def test_regions_show_numbers_colours_and_borders():
    before = np.roll(SHIFTED[0], (2, 2), (0, 1))
    fig = show.regions_2d([before, torch.tensor(SHIFTED[0])], ["before", "after"])
    for axes, a in zip(fig.axes, (before, SHIFTED[0]), strict=True):
        assert texts_of(axes) == [str(v) for v in a.ravel()]
        colours = axes.images[0].get_array()
        for v in np.unique(a):
            assert len(np.unique(colours[a == v], axis=0)) == 1
        assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 9
        borders = (a[1:] != a[:-1]).sum() + (a[:, 1:] != a[:, :-1]).sum()
        assert len(axes.lines) == borders
    assert fig.axes[1].images[0].get_array()[0, 0].tolist() == colours[0, 0].tolist()
    with pytest.raises(CourseError, match=r"\(H, W\), not shape \(8, 8, 8\)"):
        show.regions_2d(SHIFTED)


def test_the_enlarged_mask_shows_one_query_and_its_keys_by_time():
    whole, *steps = show.mask_of_window(MASK[5], WINDOW, (2, 1, 2)).axes
    row = int(np.ravel_multi_index((2, 1, 2), WINDOW))
    assert np.array_equal(whole.images[0].get_array(), MASK[5] < 0) and len(steps) == WINDOW[0]
    assert [t.get_text() for t in whole.get_yticklabels()] == [str(row)]
    for t, axes in enumerate(steps):
        wanted = (MASK[5][row] < 0).reshape(WINDOW)[t]
        assert np.array_equal(axes.images[0].get_array(), wanted) and len(axes.patches) == (t == 2)
    assert steps[2].patches[0].get_xy() == (1.5, 0.5)
    with pytest.raises(CourseError, match=r"has shape \(64, 64\), not \(8, 64, 64\)"):
        show.mask_of_window(MASK, WINDOW, (0, 0, 0))
    with pytest.raises(CourseError, match=r"query \(0, 4, 0\) is not in a window"):
        show.mask_of_window(MASK[0], WINDOW, (0, 4, 0))


def test_the_windows_of_27_differ_without_colours():
    """Greys of the front faces of 8, 16, 32 and 64 tokens, from light to dark."""
    legend = show.windows_3d(SHIFTED).axes[0].get_legend()
    greys = [np.dot(p.get_facecolor()[:3], [0.2126, 0.7152, 0.0722]) for p in legend.get_patches()]
    assert all(a - b > 0.1 for a, b in zip(greys, greys[1:]))


# ---------------------------------------------------------------- bias


@pytest.mark.parametrize("window", [(2, 3, 4), (3, 3)])
def test_bias_panels_agree_with_the_models_index(window):
    """A panel's pixel (dh, dw) at dt is the bias that the model adds for that query and key."""
    rows = np.prod([2 * w - 1 for w in window])
    table = torch.nn.Parameter(torch.arange(2 * rows).view(-1, 2).float())
    fig = show.bias_tables(table, window, head=1)
    panels = [a for a in fig.axes if a.get_label() != "<colorbar>"]
    index = swin.relative_position_index(window)
    places = list(np.ndindex(*((1,) * (3 - len(window)) + window)))
    sides = np.array(places[-1])
    for i, query in enumerate(places):
        for j, key in enumerate(places):
            dt, dh, dw = np.subtract(query, key) + sides
            assert panels[dt].images[0].get_array()[dh, dw] == table[index[i, j], 1]
    if len(window) == 3:
        assert [a.get_title() for a in panels] == ["Δt = −1", "Δt = 0", "Δt = +1"]
    low, high = panels[0].images[0].get_clim()
    assert low == -high  # zero is the middle colour


def test_large_entries_of_a_bias_table_are_framed_and_signs_differ_in_grey():
    table = torch.zeros(27, 1)
    table[0], table[26] = -0.5, 0.2
    first, last = show.bias_tables(table, (2, 2, 2), noise=0.3, offsets=(-1, 1)).axes[:2]
    assert [p.get_xy() for p in first.patches] == [(-1.42, -1.42)] and not last.patches
    assert [a.get_title() for a in (first, last)] == ["Δt = −1", "Δt = +1"]
    greys = [first.images[0].cmap(x)[:3] @ np.array([0.2126, 0.7152, 0.0722]) for x in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert greys == sorted(greys) and greys[4] - greys[0] > 0.6
    with pytest.raises(CourseError, match=r"from -1 to 1, not \[2\]"):
        show.bias_tables(table, (2, 2, 2), offsets=[2])


def test_bias_table_of_the_wrong_length_is_explained():
    with pytest.raises(CourseError, match=r"\(2·2−1\) · \(2·3−1\) · \(2·3−1\) = 75 rows"):
        show.bias_tables(torch.zeros(76, 3), (2, 3, 3))


def test_index_matrix_shows_every_number_and_names_tokens():
    index = swin.relative_position_index((2, 2, 2))
    axes = show.index_matrix(index, window=(2, 2, 2)).axes[0]
    assert texts_of(axes) == [str(int(v)) for v in index.flatten()]
    assert [t.get_text() for t in axes.get_yticklabels()][:3] == ["0,0,0", "0,0,1", "0,1,0"]
    assert axes.get_xlabel() == "key (t,h,w)"
    with pytest.raises(CourseError, match="at most 16 x 16"):
        show.index_matrix(np.zeros((17, 17), int))
    with pytest.raises(CourseError, match="has 4 tokens, the matrix 8 rows"):
        show.index_matrix(index, window=(2, 2))


# ---------------------------------------------------------------- shapes and costs


def test_token_flow_is_to_scale_and_counts():
    axes = show.token_flow(stages(56, 28)).axes[0]
    assert texts_of(axes) == [
        "stage 1",
        "16 × 56 × 56 × 96\n50,176 tokens\n19.3 MB",
        "stage 2",
        "16 × 28 × 28 × 192\n12,544 tokens\n9.63 MB",
    ]
    fronts = [np.ptp(p.get_xy(), axis=0) for p in axes.patches[::3]]
    assert np.allclose(fronts, [(56, 56), (28, 28)])
    depths = [p.get_xy()[1] - p.get_xy()[0] for p in axes.patches[2::3]]
    assert np.allclose(depths[0], depths[1])  # time stays as it is


def test_times_have_no_slope_and_ticks_have_the_names_that_are_given():
    series = {"a": dict(x=[49, 196], y=[1, 20])}
    axes = show.cost_curves(series, "tokens", "ms", ticks={49: "7²", 196: "14²"}, slopes=False, width=6).axes[0]
    assert legend_of(axes) == ["a"] and axes.figure.get_figwidth() == 6
    assert [(t.get_text(), x) for t, x in zip(axes.get_xticklabels(), axes.get_xticks())] == [("7²", 49), ("14²", 196)]


def test_titles_never_break_inside_a_size():
    size = "windows of 2 × 4 × 4 tokens at T = 8"
    for width in range(10, 60):
        lines = wrapped(size, width).split("\n")
        assert " ".join(lines) == size and any("2 × 4 × 4" in line for line in lines)


def test_slopes_are_fitted_on_log_log_axes():
    x = np.array([1, 2, 4, 8])
    axes = show.cost_curves(
        {"square": dict(x=x, y=5 * x**2, formula_y=x**2), "line": dict(x=x, y=7.0 * x, formula_y=None)}, "T", "s"
    ).axes[0]
    assert legend_of(axes) == ["square (slope 2.00)", "line (slope 1.00)", "lines: formula"]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert [line.get_ydata().tolist() for line in axes.lines] == [[5, 20, 80, 320], [1, 4, 16, 64], [7, 14, 28, 56]]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "4", "8"]
    for bad in ([0, 1], [1], [1, 2, 3]):
        with pytest.raises(CourseError, match="'a' needs at least two positive points"):
            show.cost_curves({"a": dict(x=bad, y=[1, 2])}, "T", "s")


# ---------------------------------------------------------------- results


def test_confusion_shows_counts_and_colours_rows():
    matrix = np.array([[8, 2, 0], [0, 1, 1], [0, 0, 0]])
    axes = show.confusion(torch.tensor(matrix), ["a", "b", "c"]).axes[0]
    assert texts_of(axes) == [str(v) for v in matrix.ravel()]
    assert np.allclose(axes.images[0].get_array(), [[0.8, 0.2, 0], [0, 0.5, 0.5], [0, 0, 0]])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b", "c"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "predicted")
    with pytest.raises(CourseError, match=r"shape \(2, 2\), not \(3, 3\)"):
        show.confusion(matrix, ["a", "b"])


def test_accuracies_against_ceilings_are_in_percent():
    axes = show.ceilings(
        {"in order": (0.945, 0.011), "shuffled": (0.48, 0.025)}, {"no order": 0.5, "one frame": 0.125}
    ).axes[0]
    assert [p.get_width() for p in axes.patches] == [94.5, 48.0]
    assert texts_of(axes) == ["94.5 ± 1.1 %", "48.0 ± 2.5 %", "one frame: 12.5 %", "no order: 50 %"]
    dashed = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert dashed == [12.5, 50]
    ends = np.concatenate([c.get_segments() for c in axes.collections])[:, :, 0]
    assert np.allclose(ends, [(93.4, 95.6), (45.5, 50.5)])
    assert axes.get_xlim() == (0, 100) and axes.yaxis_inverted()
    with pytest.raises(CourseError, match="94.5 of 'in order' is not a fraction"):
        show.ceilings({"in order": (94.5, 1.1)}, {})


def test_the_runs_behind_a_curve_are_thin_lines():
    axes = show.curves({"mean": [2.0, 1.0]}, "loss", single={"mean": torch.tensor([[3.0, 1.0], [1.0, 1.0]])}).axes[0]
    thick, *thin = axes.lines
    assert [list(each.get_ydata()) for each in thin] == [[3, 1], [1, 1]]
    assert {each.get_color() for each in thin} == {thick.get_color()} and thin[0].get_linewidth() < 1
    with pytest.raises(CourseError, match="'other', which is no history"):
        show.curves({"mean": [2.0]}, "loss", single={"other": [[1.0]]})


def test_curves_have_levels_to_compare_with():
    axes = show.curves({"loss": [2.0, 1.0]}, "loss", levels={"a guess": 2.08}).axes[0]
    (level,) = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert level.get_ydata()[0] == 2.08 and level.get_label() == "a guess"
    assert "a guess" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_curves_start_at_epoch_one_unless_told():
    axes = show.curves({"train": torch.tensor([3.0, 2.0]), "validation": dict(x=[5, 9], y=[1, 0])}, "loss").axes[0]
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1, 3], [2, 2]], [[5, 1], [9, 0]]]
    assert legend_of(axes) == ["train", "validation"]


# ---------------------------------------------------------------- exercises


def test_first_difference_is_named_and_marked():
    expected, got = np.arange(12).reshape(3, 4), np.arange(12).reshape(3, 4)
    got[1, 2:] = -7
    left, middle, right = show.expected_got(expected, got).axes[:3]
    assert right.get_title() == "2 of 12 differ, first\n[1, 2]: expected 6, got −7"
    assert ((right.images[0].get_array() > 0) == (expected != got)).all()
    assert (middle.images[0].get_array() == got).all()
    assert texts_of(middle) == [str(v) for v in got.ravel()]
    assert all(a.patches[-1].get_xy() == (1.5, 0.5) for a in (left, middle, right))


def test_the_mark_follows_into_a_slice_of_a_3_d_array():
    got = MASK.clone()
    got[3, 10, 20] = 5
    left, _, right = show.expected_got(MASK, got).axes[:3]
    assert right.get_title() == "1 of 32,768 differ, first\n[3, 10, 20]: expected −100, got 5"
    x, y = (int(v[0]) for v in left.lines[-1].get_data())
    assert np.argwhere(right.images[0].get_array() > 0).tolist() == [[y, x]]
    pixels = compare.montage(np.arange(MASK.numel(), dtype=float).reshape(MASK.shape))
    assert pixels[y, x] == np.ravel_multi_index((3, 10, 20), MASK.shape)
    seen = pixels[np.isfinite(pixels)]
    assert sorted(seen) == list(range(MASK.numel()))  # nothing lost, nothing twice


def test_of_more_axes_the_slice_that_differs_is_drawn():
    expected = np.zeros((2, 3, 2, 2, 2))
    got = expected.copy()
    got[1, 2, 0, 1, 1] = 4
    _, middle, right = show.expected_got(expected, got).axes[:3]
    assert "[1, 2, 0, 1, 1]" in right.get_title()
    assert np.nanmax(middle.images[0].get_array()) == 4


def test_equal_arrays_and_other_shapes_and_nan():
    titles = [
        show.expected_got(a, b).axes[2].get_title()
        for a, b in (
            (MASK, MASK.double()),
            (np.ones(4), np.ones(4) + 1e-6),
            (np.ones((8, 3)), np.ones((3, 8))),
            (np.ones(2), np.full(2, np.nan)),
            (np.array([True, False]), np.array([True, True])),
        )
    ]
    assert titles == [
        "all 32,768 equal",
        "all 4 equal",
        "shapes differ\nexpected (8, 3)\ngot (3, 8)",
        "2 of 2 differ, first\n[0]: expected 1, got nan",
        "1 of 2 differ, first\n[1]: expected 0, got 1",
    ]
    with pytest.raises(CourseError, match=r"empty array .* got \(0, 4\)"):
        show.expected_got(np.ones(4), np.ones((0, 4)))


# ---------------------------------------------------------------- the picture of the README


def test_the_readme_picture_is_what_the_command_draws(tmp_path, monkeypatch):
    committed = repo_root() / "notebooks" / "img" / "windows_27.png"
    monkeypatch.setattr(picture, "repo_root", lambda: tmp_path)
    picture.main()
    new = Image.open(tmp_path / "notebooks" / "img" / "windows_27.png").convert("RGB")
    old = Image.open(committed).convert("RGB")
    assert old.size == new.size and old.width == 1600
    assert committed.stat().st_size < 250_000
    assert old.getpixel((2, 2)) == (255, 255, 255)
    difference = np.abs(np.asarray(old, float) - np.asarray(new, float)).mean()
    assert difference < 2  # of 255: another Matplotlib may shift a line
