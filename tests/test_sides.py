"""Settings that are one number or one for each axis, and maps that are not square."""

import warnings

import pytest
import torch
import transformers

from vt_course.models import create
from vt_course.models.official import from_official, resize_bias_table, to_official
from vt_course.models.swin import SwinTransformer

from weights import shake

IMAGE = dict(patch_kernel=(7, 7), patch_stride=(4, 4), patch_padding=(3, 3), kernel=3)
SAME = [
    ("swin_mini", {}, dict(img_size=32, patch_size=2, window=3), (3, 32, 32)),
    ("video_swin_mini", {}, dict(patch=2, window=3, shift=True), (3, 4, 16, 16)),
    (
        "mvit_mini",
        dict(kv_stride=1),
        dict(img_size=32, patch_kernel=3, patch_stride=4, patch_padding=1, kernel=3),
        (3, 8, 32, 32),
    ),
    ("mvit_mini", {}, dict(kv_stride={0: 2, 2: 2}, q_stride={1: 2, 3: 2}), (3, 8, 32, 32)),
    ("mvit_mini", IMAGE, dict(img_size=32, kv_stride=4, q_stride={1: 2, 3: 2}), (3, 32, 32)),
    ("mvit_v2_mini", {}, dict(img_size=32, kernel=3), (3, 8, 32, 32)),
    ("timesformer_mini", {}, dict(img_size=32, patch_size=4), (3, 8, 32, 32)),
    ("uniformer_mini", {}, dict(tube=3), (3, 4, 32, 32)),
    ("uniformer_image_small", dict(depths=(1, 1, 1, 1), kinds="LLWG"), dict(tube=3, window=2), (3, 64, 64)),
]


def each(name, value, axes):
    """The same setting with its numbers written out for every axis."""
    if isinstance(value, dict):
        return {i: each(name, v, axes) for i, v in value.items()}
    return [value] * (
        2 if name in ("img_size", "patch_size") or name == "window" and axes == 2 else axes
    )  # as JSON has it


@pytest.mark.parametrize("name, fixed, numbers, shape", SAME, ids=[f"{row[0]} {' '.join(row[2])}" for row in SAME])
@torch.no_grad()
def test_a_number_is_that_number_for_each_axis(name, fixed, numbers, shape):
    axes = len(shape) - 1
    one = shake(create(name, **fixed, **numbers))
    all_axes = create(name, **fixed, **{k: each(k, v, axes) for k, v in numbers.items()}).eval()
    all_axes.load_state_dict(one.state_dict())
    x = torch.randn(1, *shape)
    assert torch.equal(one(x), all_axes(x))


OBLONG = [
    ("swin_mini", dict(img_size=(48, 80), patch_size=(4, 8), window=(3, 2)), (3, 48, 80)),
    ("swin_mini", dict(img_size=(40, 24), window=5, ape=True), (3, 40, 24)),
    ("video_swin_mini", dict(patch=(1, 4, 2), window=(2, 3, 5)), (3, 3, 40, 24)),
    ("mvit_mini", dict(img_size=(32, 48), kernel=(3, 1, 5), kv_stride=(1, 2, 4)), (3, 8, 32, 48)),
    ("mvit_v2_mini", dict(img_size=(48, 32), pool_mode="max"), (3, 8, 48, 32)),
    ("timesformer_mini", dict(img_size=(48, 32), patch_size=(8, 4)), (3, 8, 48, 32)),
    ("uniformer_mini", dict(tube=(3, 1, 5)), (3, 4, 32, 64)),
    ("uniformer_image_small", dict(depths=(1, 1, 1, 1), kinds="LLHW", tube=(3, 5), window=(2, 3)), (3, 64, 96)),
]


@pytest.mark.parametrize("name, settings, shape", OBLONG, ids=[f"{row[0]} {' '.join(row[1])}" for row in OBLONG])
def test_oblong_models_train(name, settings, shape):
    """Every parameter learns; one axis mistaken for the other would not fit these sizes."""
    model = shake(create(name, **settings)).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is stretched
        scores = model(torch.randn(2, *shape))
    (scores * torch.linspace(-1, 1, scores.numel()).view_as(scores)).sum().backward()
    idle = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not idle
    assert model.features(torch.randn(1, *shape))[0].shape[0] == 1


# ------------------------------------------------------------ the official image Swin on oblong maps


def clone(model, **settings):
    other = SwinTransformer(**settings).eval()
    other.load_state_dict(model.state_dict())
    return other


@torch.no_grad()
def test_the_shorter_side_covers_both_axes_of_the_map_a_swin_is_built_for():
    """transformers follows the official code: on a map of 4 x 12 windows of 4 do not shift, not even along the 12."""
    config = dict(embed_dim=8, depths=(2,), num_heads=(2,))
    theirs = shake(
        transformers.SwinForImageClassification(
            transformers.SwinConfig(image_size=(16, 48), window_size=4, num_labels=5, drop_path_rate=0.0, **config)
        )
    )
    config |= dict(num_classes=5, window=4)
    ours = SwinTransformer((16, 48), **config).eval()
    ours.load_state_dict(from_official(ours, theirs.state_dict()))
    x, taller = torch.randn(2, 3, 16, 48), torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(ours(x), theirs(pixel_values=x).logits, rtol=1e-5, atol=1e-5)
    square = clone(ours, img_size=48, **config)
    assert (square(x) - ours(x)).abs().max() > 1e-3  # built for another size: each axis alone
    assert torch.equal(square(taller), ours(taller))  # and a model goes on to shift where it can


@pytest.mark.parametrize(
    "img_size, window, windows, rows",
    [
        ((48, 80), 7, [(7, 7), (6, 6), (3, 3)], [169, 121, 25]),
        ((80, 16), 7, [(4, 4), (2, 2), (1, 1)], [49, 9, 1]),
        ((64, 64), (4, 2), [(4, 2), (4, 2), (4, 2)], [21, 21, 21]),
        ((32, 64), (2, 4), [(2, 4), (2, 4), (2, 2)], [21, 21, 9]),
    ],
    ids=str,
)
def test_windows_are_clamped_at_building_by_the_shorter_side(img_size, window, windows, rows):
    model = create("swin_mini", img_size=img_size, window=window)
    attentions = [stage.blocks[1].attn for stage in model.layers]
    assert [a.window for a in attentions] == windows
    assert [len(a.relative_position_bias_table) for a in attentions] == rows
    model(torch.randn(1, 3, *img_size))


def test_a_table_of_an_oblong_window_stays():
    table = torch.randn(3 * 7, 2)
    assert torch.equal(resize_bias_table(table, (2, 4)), table)
    video = torch.randn(3 * 3 * 7, 2)
    assert torch.equal(resize_bias_table(video, (2, 2, 4)), video)
    square = torch.randn(49, 2)
    want = torch.nn.functional.interpolate(square.T.view(1, 2, 7, 7), (3, 11), mode="bicubic").view(2, -1).T
    torch.testing.assert_close(resize_bias_table(square, (2, 6)), want)


# ------------------------------------------------------------ TimeSformer's positions


def places(h, w):
    """A position embedding that names its place: 100 y + x, the class token's is -1."""
    grid = 100.0 * torch.arange(h)[:, None] + torch.arange(w)
    return torch.cat([-torch.ones(1), grid.flatten()])[None, :, None]


def test_positions_of_an_oblong_grid_are_resized_along_each_axis():
    model = create("timesformer_mini", img_size=(48, 32), patch_size=8)  # 6 x 4
    wide = create("timesformer_mini", img_size=(24, 64), patch_size=8)  # 3 x 8, as many patches
    state = to_official(wide) | {"model.pos_embed": places(3, 8).expand(1, 25, 96)}
    got = from_official(model, state, resize=True, source=(3, 8))["pos_embed"][0, :, 0].tolist()
    assert got == [-1, *[100 * (y // 2) + 2 * x for y in range(6) for x in range(4)]]
    longer = create("timesformer_mini", img_size=(48, 64), patch_size=8)
    with pytest.raises(
        ValueError, match="24|25 places; only a square grid and one class token can be resized, or that of source"
    ):
        from_official(longer, state, resize=True)
    got = from_official(longer, state, resize=True, source=(8, 3, 8))["pos_embed"][
        0, :, 0
    ].tolist()  # (T, H, W) as well
    assert got == [-1, *[100 * (y // 2) + x for y in range(6) for x in range(8)]]


@pytest.mark.parametrize(
    "shape, words",
    [
        ((3, 16, 32, 32), "8 frames of 4 x 4 patches and its input has 16 of 4 x 4"),
        ((3, 8, 32, 48), "8 frames of 4 x 4 patches and its input has 8 of 4 x 6"),
        ((3, 8, 16, 64), "its input has 8 of 2 x 8"),
    ],
    ids=str,
)
@torch.no_grad()
def test_stretched_positions_are_said_once(shape, words):
    model, x = create("timesformer_mini"), torch.randn(1, *shape)
    with pytest.warns(UserWarning, match=words):
        model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(x)
        create("timesformer_mini")(torch.randn(1, 3, 8, 32, 32))
        create("timesformer_mini", positions="none")(x)
        create("timesformer_mini", attention="space", img_size=shape[2:])(x)  # frames by themselves: any number
