"""MViT and MViTv2, for video and images: every published variant with a complete configuration.

MViT-S (table 3c) is left out, because its configuration is not complete. The paper does not say how many blocks its
first stage has, how keys and values are pooled, and how the cubes are padded. It states 26.1 M parameters for max and
conv pooling. 4 + 7 + 6 blocks with max pooling have 26.11 M, 3 + 7 + 6 blocks with conv pooling have 26.04 M. Neither
has the stated 32.9 GMACs with any of the key strides that we tried.
"""
from vt_course.models.mvit import MViT
from vt_course.models.zoo.variant import Variant

TABLE3, TABLE4, TABLE5, TABLE6, TABLE17 = (f"MViT table {n}" for n in (3, 4, 5, 6, 17))
MODEL_ZOO = "facebookresearch/SlowFast MODEL_ZOO.md"
V2 = "facebookresearch/SlowFast projects/mvitv2/README.md"
V2_IMAGE = "facebookresearch/mvit README.md"

SCALES_16, SCALES_24, SCALES_48, SCALES_80 = (1, 3, 14), (2, 5, 21), (2, 8, 44), (4, 12, 72)     # where a stage begins
IMAGE = dict(patch_kernel=(7, 7), patch_stride=(4, 4), patch_padding=(3, 3), kv_stride=(1, 4, 4), kernel=(1, 3, 3))


def scales(depth: int, first: tuple, everywhere: bool = False) -> dict:
    """Settings for `depth` blocks. In the blocks `first`, channels and heads double, and queries have stride (1, 2, 2).

    everywhere=True (MViTv2): all blocks pool queries, the others with stride (1, 1, 1).
    """
    stride = {i: (1, 1, 1) for i in range(depth)} if everywhere else {}
    double = dict.fromkeys(first, 2)
    return dict(depth=depth, dim_mul=double, head_mul=double, q_stride=stride | dict.fromkeys(first, (1, 2, 2)))


def mvit(frames, stated, *, depth=16, first=SCALES_16, classes=400, drop_path=0.2, views="5x1", note="", **other) -> Variant:
    config = dict(frames=frames, num_classes=classes, drop_path=drop_path, **scales(depth, first), **other)
    return Variant(MViT, config, (3, frames, 224, 224), stated, note, views=views)


def mvit_v2(frames, stated, *, depth, first, classes=400, size=224, drop_path, views="5x1", note="", **other) -> Variant:
    config = dict(frames=frames, img_size=size, num_classes=classes, pos_embed="none", rel_pos="thw", residual_pooling=True,
                  dim_mul_in_att=True, drop_path=drop_path, **scales(depth, first, everywhere=True), **other)
    return Variant(MViT, config, (3, frames, size, size), stated, note, views=views)


def image(stated, *, depth=16, first=SCALES_16, size=224, drop_path=0.1, note="", **other) -> Variant:
    config = dict(img_size=size, num_classes=1000, head_dropout=0.0, pos_embed="joint", drop_path=drop_path, **IMAGE,
                  **scales(depth, first), **other)
    return Variant(MViT, config, (3, size, size), stated, note, views="1x1")


def image_v2(stated, *, depth, first, drop_path=0.1, class_token=False, note="", **other) -> Variant:
    config = dict(num_classes=1000, head_dropout=0.0, pos_embed="none", rel_pos="hw", residual_pooling=True,
                  class_token=class_token, drop_path=drop_path,
                  **{"dim_mul_in_att": True, **IMAGE, **scales(depth, first, everywhere=True), **other})
    return Variant(MViT, config, (3, 224, 224), stated, note, views="1x1")


DEEP = dict(depth=24, first=SCALES_24)
LARGE = dict(depth=48, first=SCALES_48, embed_dim=144, num_heads=2)
DEEP_KERNEL = dict(kernel=None, drop_path=0.3)
RELEASED_24 = ("MVIT_B_32x3_CONV.yaml, which has 24 layers and kernels of stride + 1: the paper's MViT-B-24, although the "
               "model zoo calls it B 32x3")
WITHOUT_400 = "the paper repeats the parameters of 400 classes"
MAX = dict(pool_mode="max")

VARIANTS: dict[str, Variant] = {
    "mvit_base_16x4": mvit(16, (
        ("params M", 36.6, TABLE4), ("GMACs", 70.5, TABLE4), ("top-1 K400", 78.4, TABLE4))),
    "mvit_base_32x3": mvit(32, (
        ("params M", 36.6, TABLE4), ("GMACs", 170, TABLE4), ("top-1 K400", 80.2, TABLE4)),
        note="drop path is that of 16x4; SlowFast's file of this name is mvit_base_24_32x3"),
    "mvit_base_64x3": mvit(64, (
        ("params M", 36.6, TABLE4), ("GMACs", 455, TABLE4), ("top-1 K400", 81.2, TABLE4)), views="3x3",
        note="five epochs from 32x3, whose temporal position embedding is interpolated (section 4.1)"),
    "mvit_base_24_32x3": mvit(32, (
        ("params M", 52.9, TABLE5), ("GMACs", 236, TABLE5), ("top-1 K400", 80.4, MODEL_ZOO)), **DEEP, **DEEP_KERNEL,
        note=RELEASED_24 + "; its parameters are stated for K600"),
    "mvit_base_16x4_k600": mvit(16, (
        ("params M", 36.8, TABLE5), ("GMACs", 70.5, TABLE5), ("top-1 K600", 82.1, TABLE5)), classes=600),
    "mvit_base_32x3_k600": mvit(32, (
        ("params M", 36.8, TABLE5), ("GMACs", 170, TABLE5), ("top-1 K600", 83.4, TABLE5)), classes=600),
    "mvit_base_24_32x3_k600": mvit(32, (
        ("params M", 52.9, TABLE5), ("GMACs", 236, TABLE5), ("top-1 K600", 83.8, TABLE5)), classes=600, **DEEP, **DEEP_KERNEL,
        note=RELEASED_24 + "; the released weights are stated at 83.9. 52.9 M are what 174 classes give, table 6 has 53.2"),
    "mvit_base_16x4_ssv2": mvit(16, (
        ("params M", 36.6, TABLE6), ("GMACs", 70.5, TABLE6), ("top-1 SSv2", 64.7, TABLE6)), classes=174, drop_path=0.4,
        views="1x3", note=f"from K400; from K600 66.2; {WITHOUT_400}. Drop path: appendix D.4"),
    "mvit_base_32x3_ssv2": mvit(32, (
        ("params M", 36.6, TABLE6), ("GMACs", 170, TABLE6), ("top-1 SSv2", 67.1, TABLE6)), classes=174, drop_path=0.4,
        views="1x3", note=f"from K400; from K600 67.8; {WITHOUT_400}"),
    "mvit_base_64x3_ssv2": mvit(64, (
        ("params M", 36.6, TABLE6), ("GMACs", 455, TABLE6), ("top-1 SSv2", 67.7, TABLE6)), classes=174, drop_path=0.4,
        views="1x3", note=f"from K400; {WITHOUT_400}"),
    "mvit_base_24_32x3_ssv2": mvit(32, (
        ("params M", 53.2, TABLE6), ("GMACs", 236, TABLE6), ("top-1 SSv2", 68.7, TABLE6)), classes=174, **DEEP,
        kernel=None, drop_path=0.4, views="1x3", note="from K600; 53.2 M are what 600 classes give, table 5 has 52.9"),
    "vit_base_8x8": Variant(
        MViT, dict(frames=8, patch_kernel=(1, 16, 16), patch_stride=(1, 16, 16), patch_padding=(0, 0, 0), embed_dim=768,
                   num_heads=12, depth=12, dim_mul={}, head_mul={}, q_stride={}, kv_stride=None, pos_embed="joint"),
        (3, 8, 224, 224), (("params M", 87.2, TABLE3), ("GMACs", 179.6, TABLE3), ("top-1 K400", 68.5, TABLE4)), views="5x1",
        note="the paper's baseline, table 3a: joint attention in one scale. 87.2 M are those of joint position embeddings; "
             "from IN-21K 79.3 (table 4)"),

    "mvit_image_base_16": image((
        ("params M", 37.0, TABLE17), ("GMACs", 7.8, TABLE17), ("top-1 IN-1K", 83.0, TABLE17)),
        note=f"the released weights are stated at 82.9 ({MODEL_ZOO})"),
    "mvit_image_base_16_max": image((
        ("params M", 37.0, TABLE17), ("GMACs", 7.8, TABLE17), ("top-1 IN-1K", 82.5, TABLE17)), **MAX),
    "mvit_image_base_24_max": image((
        ("params M", 53.5, TABLE17), ("GMACs", 10.9, TABLE17), ("top-1 IN-1K", 83.1, TABLE17)), **DEEP, **MAX, drop_path=0.3),
    "mvit_image_base_24_wide_320": image((
        ("params M", 72.9, TABLE17), ("GMACs", 32.7, TABLE17), ("top-1 IN-1K", 84.8, TABLE17)), **DEEP, embed_dim=112,
        size=320, drop_path=0.3),
    "mvit_image_base_24_wide_320_max": image((
        ("params M", 72.9, TABLE17), ("GMACs", 32.7, TABLE17), ("top-1 IN-1K", 84.3, TABLE17)), **DEEP, **MAX, embed_dim=112,
        size=320, drop_path=0.3),

    "mvit_v2_small_16x4": mvit_v2(16, (
        ("params M", 34.5, V2), ("GMACs", 64, V2), ("top-1 K400", 81.0, V2)), depth=16, first=SCALES_16, drop_path=0.2),
    "mvit_v2_base_32x3": mvit_v2(32, (
        ("params M", 51.2, V2), ("GMACs", 225, V2), ("top-1 K400", 82.9, V2)), **DEEP, drop_path=0.3),
    "mvit_v2_large_40x3": mvit_v2(40, (
        ("params M", 217.6, V2), ("GMACs", 2828, V2), ("top-1 K400", 86.1, V2)), **LARGE, size=312, drop_path=0.75, views="5x3",
        note="217.6 M are what channels that double in the MLP would give; MVITv2_L_40x3_test.yaml doubles them in attention, "
             "as do the parameters stated for SSv2"),
    "mvit_v2_small_16x4_ssv2": mvit_v2(16, (
        ("params M", 34.4, V2), ("GMACs", 64, V2), ("top-1 SSv2", 68.2, V2)), depth=16, first=SCALES_16, classes=174,
        drop_path=0.4, views="1x3", note="drop path unverified"),
    "mvit_v2_base_32x3_ssv2": mvit_v2(32, (
        ("params M", 51.1, V2), ("GMACs", 225, V2), ("top-1 SSv2", 70.5, V2)), **DEEP, classes=174, drop_path=0.4, views="1x3",
        note="drop path unverified"),
    "mvit_v2_large_40x3_ssv2": mvit_v2(40, (
        ("params M", 213.1, V2), ("GMACs", 2828, V2), ("top-1 SSv2", 73.3, V2)), **LARGE, size=312, classes=174,
        drop_path=0.75, views="1x3", note="from IN-21K and K400"),

    "mvit_v2_image_tiny": image_v2((
        ("params M", 24, V2_IMAGE), ("GMACs", 4.7, V2_IMAGE), ("top-1 IN-1K", 82.3, V2_IMAGE)), depth=10, first=(1, 3, 8)),
    "mvit_v2_image_small": image_v2((
        ("params M", 35, V2_IMAGE), ("GMACs", 7.0, V2_IMAGE), ("top-1 IN-1K", 83.6, V2_IMAGE)), depth=16, first=SCALES_16),
    "mvit_v2_image_base": image_v2((
        ("params M", 52, V2_IMAGE), ("GMACs", 10.2, V2_IMAGE), ("top-1 IN-1K", 84.4, V2_IMAGE)), **DEEP, drop_path=0.3,
        note="51.5 M and 10.1 GMACs by the configuration of the repository; drop path unverified; released for IN-21K as "
             "well, then with a class token"),
    "mvit_v2_image_large": image_v2((
        ("params M", 218, V2_IMAGE), ("GMACs", 42.1, V2_IMAGE), ("top-1 IN-1K", 85.3, V2_IMAGE)), **LARGE, drop_path=0.5,
        dim_mul_in_att=False, note="channels double in the MLP (MVITv2_L_test.yaml), which makes 43.7 GMACs; in attention "
        "it would be 213.6 M and 41.8 GMACs. Pre-trained on IN-21K 87.5, then with a class token"),
    "mvit_v2_image_huge": image_v2((
        ("params M", 667, V2_IMAGE), ("GMACs", 120.6, V2_IMAGE), ("top-1 IN-1K", 88.0, V2_IMAGE + ", IN-21K pre-training")),
        depth=80, first=SCALES_80, embed_dim=192, num_heads=3, class_token=True,
        note="no configuration was released: width and depths are those of timm's mvitv2_huge_cls; drop path unverified"),

    "mvit_mini": Variant(
        MViT, dict(frames=8, img_size=32, num_classes=8, embed_dim=32, depth=4, dim_mul={1: 2, 3: 2}, head_mul={1: 2, 3: 2},
                   q_stride={1: (1, 2, 2), 3: (1, 2, 2)}, kv_stride=(1, 4, 4), head_dropout=0.0, narrow_init=True),
        (3, 8, 32, 32), note="ours: trains on a laptop CPU in minutes"),
    "mvit_v2_mini": Variant(
        MViT, dict(frames=8, img_size=32, num_classes=8, embed_dim=32, kv_stride=(1, 4, 4), head_dropout=0.0, pos_embed="none",
                   rel_pos="thw", residual_pooling=True, dim_mul_in_att=True, narrow_init=True,
                   **scales(4, (1, 3), everywhere=True)),
        (3, 8, 32, 32), note="ours: trains on a laptop CPU in minutes"),
}
