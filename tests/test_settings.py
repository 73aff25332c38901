"""A model that cannot be is refused by the name of the setting, whichever family and however it is built."""

import re

import pytest

from vt_course.models import ZOO, create

WHOLE, SEVERAL, EACH, RATE = (
    "must be one whole number",
    "must be a tuple of whole numbers",
    "must be one whole number, or one for each axis",
    "must be at least 0 and below 1",
)
BAD = {
    "swin_mini": [
        (dict(window=(7, 7, 7)), "window (7, 7, 7) must have two"),
        (dict(window=2.5), EACH),
        (dict(patch_size=(4, 4.0)), "must have two"),
        (dict(img_size="64"), EACH),
        (dict(embed_dim="96"), WHOLE),
        (dict(depths=2), SEVERAL),
        (dict(num_heads=4), SEVERAL),
        (dict(depths=(2, 2.5, 2)), SEVERAL),
        (dict(mlp_ratio=0.0), "must be above 0"),
        (dict(mlp_ratio=-1), "must be above 0"),
        (dict(mlp_ratio="4"), "must be a number"),
        (dict(drop_path=1.5), RATE),
        (dict(drop_path=-0.1), RATE),
        (dict(drop_path=1), RATE),
        (dict(head_dropout=2.0), RATE),
        (dict(depths=(2, 2)), "different numbers of stages"),
        (dict(embed_dim=25), "dim 25 is not divisible by num_heads 2"),
    ],
    "video_swin_mini": [
        (dict(patch=4.0), EACH),
        (dict(window="7"), EACH),
        (dict(shift=None), EACH),
        (dict(patch=(4, 4)), "patch (4, 4) must have three"),
        (dict(window=(7, 7)), "window (7, 7) must have three"),
        (dict(shift=(True, True)), "shift (True, True) must have three"),
        (dict(design="x"), "unknown design 'x'"),
    ],
    "mvit_mini": [
        (dict(patch_stride=(4, 4)), "patch_stride (4, 4)"),
        (dict(patch_kernel=(7, 7)), "must all have two values"),
        (dict(patch_kernel=(7,), patch_stride=(4,), patch_padding=(3,)), "must all have two values"),
        (dict(kernel=(3, 3)), "kernel (3, 3) must have three"),
        (dict(kernel=3.5), "kernel 3.5 must have three"),
        (dict(img_size=(48, 48, 48)), "img_size (48, 48, 48) must have two"),
        (dict(head_mul={1: 0.0}), "factors above 0"),
        (dict(dim_mul={1: "2"}), "factors above 0"),
        (dict(kv_stride=(8, 8)), "kv_stride (8, 8) must have three"),
        (dict(kv_stride={2: (8, 8)}), "kv_stride of block 2 (8, 8)"),
        (dict(q_stride={1: (2, 2)}), "q_stride of block 1 (2, 2) must have three"),
        (dict(q_stride=[(1, 2, 2)]), "must be a dictionary"),
        (dict(q_stride={4: (1, 2, 2)}), "by number of block, 0 to 3"),
        (dict(kv_stride={4: (1, 2, 2)}), "by number of block, 0 to 3"),
        (dict(dim_mul={5: 2}), "by number of block, 0 to 4"),
        (dict(head_mul={-1: 2}), "by number of block, 0 to 3"),
        (dict(rel_pos="x"), "rel_pos 'x' must name axes"),
        (dict(rel_pos="wht"), "in the order of 'thw'"),
        (dict(rel_pos="tt"), "'thw'"),
        (dict(frames=7), "an input of (7, 32, 32) is not a multiple of patch_stride"),
        (dict(num_heads=5), "not divisible by num_heads 5"),
        (dict(pool_mode="mean"), "choose 'conv', 'max' or 'avg'"),
    ],
    "timesformer_mini": [
        (dict(img_size=(48,)), "img_size (48,) must have two"),
        (dict(patch_size=2.0), EACH),
        (dict(img_size=(48, 7)), "smaller than"),
        (dict(img_size=3), "smaller than patch_size 8"),
        (dict(attention="divide"), "unknown attention 'divide'"),
        (dict(drop_path=1.0), RATE),
        (dict(num_heads=5), "not divisible"),
    ],
    "uniformer_mini": [
        (dict(depths=3), SEVERAL),
        (dict(mlp_ratio=0), "must be above 0"),
        (dict(kinds="llgg"), "unknown letter"),
        (dict(tube=4), "must be odd"),
        (dict(layer_scale="X"), "unknown letter"),
        (dict(embed_dims=(8, 16, 32)), "each must have 4 stages"),
        (dict(head_dim=5), "not divisible"),
    ],
}


@pytest.mark.parametrize("name, settings, words", [(name, *row) for name, rows in BAD.items() for row in rows], ids=str)
def test_what_cannot_be_is_refused(name, settings, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        create(name, **settings)


@pytest.mark.parametrize(
    "name, setting",
    [
        ("swin_tiny", dict(patch_size=0)),
        ("swin_tiny", dict(num_heads=(0, 2, 4, 8))),
        ("swin_tiny", dict(depths=())),
        ("video_swin_tiny", dict(patch=(2, 0, 4))),
        ("video_swin_tiny", dict(embed_dim=-96)),
        ("mvit_base_16x4", dict(depth=0)),
        ("mvit_base_16x4", dict(num_heads=0)),
        ("mvit_base_16x4", dict(patch_stride=(2, 4, 0))),
        ("mvit_base_16x4", dict(q_stride={1: (1, 2, 2), 3: (1, 0, 2)})),
        ("mvit_base_16x4", dict(kv_stride=(0, 8, 8))),
        ("timesformer_divided_8x224", dict(depth=0)),
        ("timesformer_divided_8x224", dict(patch_size=0)),
        ("uniformer_small_16", dict(head_dim=0)),
        ("uniformer_small_16", dict(depths=(3, 4, 0, 3))),
        ("swin_mini", dict(num_classes=0)),
    ],
)
def test_sizes_below_one_are_refused_by_name(name, setting):
    ((key, value),) = setting.items()
    family, config = ZOO[name].family, ZOO[name].config
    with pytest.raises(
        ValueError, match=re.escape(f"{family.__name__} was given {key}={value!r}; it must be at least 1.")
    ):
        family(**config | setting)


def test_what_may_be_zero_is_built():
    create("swin_mini", drop_path=0, head_dropout=0)
    create("video_swin_mini", shift=(0, 0, 0), drop_path=0)
