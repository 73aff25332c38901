"""UniFormer for video and images: every published variant of the plain architecture.

The light models XXS and XS are left out (image_classification/models/uniformer_light.py and
video_classification/slowfast/models/uniformer_light.py), because they have another architecture. From stage 3 on they
have a class token. Its attention selects the tokens that a block updates; all other tokens are merged into one.
"""
from vt_course.models.uniformer import UniFormer
from vt_course.models.zoo.variant import Variant

VIDEO = "Sense-X/UniFormer video_classification/README.md"
IMAGE = "Sense-X/UniFormer image_classification/README.md"
TABLE5, TABLE6 = "UniFormer table 5", "UniFormer table 6"

SMALL, BASE = (3, 4, 8, 3), (5, 8, 20, 7)
LARGE = dict(depths=(5, 10, 24, 7), embed_dims=(128, 192, 448, 640), layer_scale="LG", aux_head=True)
PLUS = dict(depths=(3, 5, 9, 3), conv_stem=True, head_dim=32)


def video(depths, frames, stated, *, classes=400, drop_path=None, views="4x1", note="") -> Variant:
    rate = drop_path or (0.1 if depths == SMALL else 0.3)
    return Variant(UniFormer, dict(depths=depths, num_classes=classes, drop_path=rate), (3, frames, 224, 224), stated, note,
                   views=views)


def image(stated, *, size=224, note="", **config) -> Variant:
    return Variant(UniFormer, dict(dims=2, num_classes=1000, **config), (3, size, size), stated, note, views="1x1")


LABELLED = "trained with token labelling, so with the second classifier `aux_head`"
FLOPS_8 = "the stated GMACs are a quarter of the four-clip total"

VARIANTS: dict[str, Variant] = {
    "uniformer_small_8": video(SMALL, 8, (
        ("params M", 21.4, TABLE5), ("GMACs", 70 / 4, VIDEO), ("top-1 K400", 78.4, VIDEO)), note=f"stride 8; {FLOPS_8}"),
    "uniformer_small_16": video(SMALL, 16, (
        ("params M", 21.4, TABLE5), ("GMACs", 41.8, TABLE5), ("top-1 K400", 80.8, TABLE5)),
        note="stride 4; the same network at stride 8 is stated at 80.8, from one clip 78.4 (stride 4: 76.2)"),
    "uniformer_small_32": video(SMALL, 32, (
        ("params M", 21.4, TABLE5), ("GMACs", 109.6, TABLE5), ("top-1 K400", 82.0, TABLE5)),
        note="stride 4; the same network at stride 2 is stated at 81.2"),
    "uniformer_base_8": video(BASE, 8, (
        ("params M", 49.8, TABLE5), ("GMACs", 161 / 4, VIDEO), ("top-1 K400", 79.8, VIDEO)), note=f"stride 8; {FLOPS_8}"),
    "uniformer_base_16": video(BASE, 16, (
        ("params M", 49.8, TABLE5), ("GMACs", 96.7, TABLE5), ("top-1 K400", 82.0, TABLE5)),
        note="stride 4, at stride 8 81.7; drop path 0.3 is that of run.sh, the paper's text doubles the small model's 0.1"),
    "uniformer_base_32": video(BASE, 32, (
        ("params M", 49.8, TABLE5), ("GMACs", 259, TABLE5), ("top-1 K400", 82.9, TABLE5)),
        note="stride 4; with 4x3 views stated at 83.0 (table 2)"),
    "uniformer_small_16_k600": video(SMALL, 16, (
        ("params M", 21.4, TABLE5), ("GMACs", 41.8, TABLE5), ("top-1 K600", 82.8, TABLE5)), classes=600,
        note="stride 4, at stride 8 82.7; the paper repeats the parameters of 400 classes"),
    "uniformer_base_16_k600": video(BASE, 16, (
        ("params M", 49.8, TABLE5), ("GMACs", 96.7, TABLE5), ("top-1 K600", 84.0, TABLE5)), classes=600,
        note="stride 4, at stride 8 83.4; the paper repeats the parameters of 400 classes"),
    "uniformer_base_32_k600": video(BASE, 32, (
        ("params M", 49.8, TABLE5), ("GMACs", 259, TABLE5), ("top-1 K600", 84.8, TABLE5)), classes=600,
        note=f"the released model is another, trained on several machines: 84.5 ({VIDEO})"),
    "uniformer_small_16_ssv2": video(SMALL, 16, (
        ("params M", 21.3, TABLE6), ("GMACs", 41.8, TABLE6), ("top-1 SSv2", 69.4, TABLE6), ("top-1 SSv1", 57.6, TABLE6)),
        classes=174, drop_path=0.3, views="1x3", note="from K600; from K400 67.7 and 57.2. Drop path: appendix C"),
    "uniformer_small_32_ssv2": video(SMALL, 32, (
        ("params M", 21.3, TABLE6), ("GMACs", 109.6, TABLE6), ("top-1 SSv2", 70.4, TABLE6), ("top-1 SSv1", 59.9, TABLE6)),
        classes=174, drop_path=0.3, views="1x3", note="from K600; from K400 69.0 and 58.8. Drop path: appendix C"),
    "uniformer_base_16_ssv2": video(BASE, 16, (
        ("params M", 49.7, TABLE6), ("GMACs", 96.7, TABLE6), ("top-1 SSv2", 70.4, TABLE6), ("top-1 SSv1", 59.1, TABLE6)),
        classes=174, drop_path=0.4, views="1x3", note="from K400; from K600 70.2 and 58.8. Drop path: run.sh; appendix C has 0.6"),
    "uniformer_base_32_ssv2": video(BASE, 32, (
        ("params M", 49.7, TABLE6), ("GMACs", 259, TABLE6), ("top-1 SSv2", 71.2, TABLE6), ("top-1 SSv1", 60.9, TABLE6)),
        classes=174, drop_path=0.6, views="1x3",
        note=f"from K400 ({VIDEO} says 71.1); from K600 71.2 and 61.0. Drop path: appendix C"),

    "uniformer_image_small": image((
        ("params M", 22, IMAGE), ("GMACs", 3.6, IMAGE), ("top-1 IN-1K", 82.9, IMAGE)), depths=SMALL, drop_path=0.1,
        note="with token labelling 83.4, also with head_dim 32"),
    "uniformer_image_small_plus": image((
        ("params M", 24, IMAGE), ("GMACs", 4.2, IMAGE), ("top-1 IN-1K", 83.4, IMAGE)), **PLUS, drop_path=0.1,
        note="S†; with head_dim 64 also 83.4; with token labelling 83.9, at head_dim 64 83.6"),
    "uniformer_image_base": image((
        ("params M", 50, IMAGE), ("GMACs", 8.3, IMAGE), ("top-1 IN-1K", 83.8, IMAGE)), depths=BASE, drop_path=0.3,
        note="with token labelling and head_dim 32 85.1, at head_dim 64 84.8"),
    "uniformer_image_base_ls": image((
        ("params M", 50, IMAGE), ("GMACs", 8.3, IMAGE), ("top-1 IN-1K", 83.9, IMAGE)), depths=BASE, drop_path=0.3,
        layer_scale="G", note="LayerScale in the global blocks only, as in image_classification/models/uniformer.py"),
    "uniformer_image_large_ls": image((
        ("params M", 100, IMAGE), ("GMACs", 12.6, IMAGE), ("top-1 IN-1K", 85.6, IMAGE)), **LARGE, drop_path=0.4,
        note=f"{LABELLED}; the stated 12.6 GMACs could not be reproduced from the published configuration"),
    "uniformer_image_small_384": image((
        ("params M", 22, IMAGE), ("GMACs", 11.9, IMAGE), ("top-1 IN-1K", 84.6, IMAGE)), size=384, depths=SMALL,
        head_dim=32, aux_head=True, drop_path=0.1, note=LABELLED),
    "uniformer_image_small_plus_384": image((
        ("params M", 24, IMAGE), ("GMACs", 13.7, IMAGE), ("top-1 IN-1K", 84.9, IMAGE)), size=384, **PLUS,
        aux_head=True, drop_path=0.1, note=LABELLED),
    "uniformer_image_base_384": image((
        ("params M", 50, IMAGE), ("GMACs", 27.2, IMAGE), ("top-1 IN-1K", 86.0, IMAGE)), size=384, depths=BASE,
        head_dim=32, aux_head=True, drop_path=0.3, note=LABELLED),
    "uniformer_image_large_ls_384": image((
        ("params M", 100, IMAGE), ("GMACs", 39.2, IMAGE), ("top-1 IN-1K", 86.3, IMAGE)), size=384, **LARGE, drop_path=0.3,
        note=f"{LABELLED}; the stated 39.2 GMACs could not be reproduced. Its run.sh names another model, small_plus"),

    "uniformer_mini": Variant(
        UniFormer, dict(depths=(2, 2, 2, 2), embed_dims=(24, 48, 96, 192), head_dim=24, num_classes=8, narrow_init=True),
        (3, 8, 32, 32), note="ours: trains on a laptop CPU in minutes; H and W must be 32 or more"),
}
