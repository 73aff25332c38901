"""TimeSformer: every published variant."""
from vt_course.models.timesformer import TimeSformer
from vt_course.models.zoo.variant import Variant

README = "facebookresearch/TimeSformer README.md"
MMACTION = "open-mmlab/mmaction2 configs/recognition/timesformer"
HEAD = "the stated parameters are those with the 174 classes of SSv2"


def timesformer(frames, stated, *, size=224, classes=400, attention="divided", positions="space-time", note="") -> Variant:
    config = dict(img_size=size, num_frames=frames, num_classes=classes, attention=attention, positions=positions,
                  drop_path=0.1)
    return Variant(TimeSformer, config, (3, frames, size, size), stated, note, views="1x3")


def scheme(attention, params, k400, ssv2, gmacs=(), note=HEAD) -> Variant:
    return timesformer(8, (("params M", params, "TimeSformer table 1"), *gmacs, ("top-1 K400", k400, "TimeSformer table 1"),
                           ("top-1 SSv2", ssv2, "TimeSformer table 1")), attention=attention, note=note)


def tera(flops) -> tuple:
    return "GMACs", round(1000 * flops / 3, 1), f"TimeSformer table 5, {flops} TFLOPs over 3 views"


UNRELEASED = HEAD + "; no code was released: built from section 3 and from these parameters, see models/timesformer.py"

MINI = dict(img_size=32, patch_size=8, num_frames=8, embed_dim=96, depth=3, num_heads=4, num_classes=8, drop_path=0.0,
            narrow_init=True)

VARIANTS: dict[str, Variant] = {
    "timesformer_divided_8x224": timesformer(8, (
        ("params M", 121.4, "TimeSformer table 2"), ("GMACs", 196, MMACTION),
        ("top-1 K400", 78.0, "TimeSformer table 5")),
        note=HEAD + "; the released weights are stated at 77.9 (README.md); Diving-48 (48 classes) 74.9 in table 7"),
    "timesformer_divided_8x224_k600": timesformer(8, (
        tera(0.59), ("top-1 K600", 79.1, "TimeSformer table 6")), classes=600),
    "timesformer_divided_8x224_ssv2": timesformer(8, (
        ("params M", 121.4, "TimeSformer table 1"), tera(0.59), ("top-1 SSv2", 59.5, "TimeSformer table 7")), classes=174,
        note="the released weights are stated at 59.1 (README.md)"),
    "timesformer_hr_16x448": timesformer(16, (
        tera(5.11), ("top-1 K400", 79.7, "TimeSformer table 5")), size=448,
        note="the released weights are stated at 79.6 (README.md); Diving-48 (48 classes) 78.0 in table 7"),
    "timesformer_hr_16x448_k600": timesformer(16, (
        tera(5.11), ("top-1 K600", 81.8, "TimeSformer table 6")), size=448, classes=600),
    "timesformer_hr_16x448_ssv2": timesformer(16, (
        tera(5.11), ("top-1 SSv2", 62.2, "TimeSformer table 7")), size=448, classes=174,
        note="from IN-1K; 62.5 from IN-21K in table 3; the released weights are stated at 61.8 (README.md)"),
    "timesformer_l_96x224": timesformer(96, (
        tera(7.14), ("top-1 K400", 80.7, "TimeSformer table 5")),
        note="the released weights are stated at 80.6 (README.md); Diving-48 (48 classes) 81.0 in table 7"),
    "timesformer_l_96x224_k600": timesformer(96, (
        tera(7.14), ("top-1 K600", 82.2, "TimeSformer table 6")), classes=600),
    "timesformer_l_64x224_ssv2": timesformer(64, (
        ("top-1 SSv2", 62.0, README),), classes=174,
        note="the released weights for SSv2 take 64 frames; the paper describes L with 96 and states 62.4 (table 7)"),

    "timesformer_space_8x224": scheme("space", 85.9, 76.9, 36.6, (("GMACs", 141, MMACTION),)),
    "timesformer_joint_8x224": scheme("joint", 85.9, 77.4, 58.5, (("GMACs", 180, MMACTION),)),
    "timesformer_local_global_8x224": scheme("local_global", 121.4, 75.9, 56.3, note=UNRELEASED),
    "timesformer_axial_8x224": scheme("axial", 156.8, 73.5, 56.2, note=UNRELEASED),
    "timesformer_divided_8x224_space_positions": timesformer(8, (
        ("top-1 K400", 77.8, "TimeSformer table 4"), ("top-1 SSv2", 52.5, "TimeSformer table 4")), positions="space"),
    "timesformer_divided_8x224_no_positions": timesformer(8, (
        ("top-1 K400", 75.4, "TimeSformer table 4"), ("top-1 SSv2", 45.8, "TimeSformer table 4")), positions="none"),

    "timesformer_mini": Variant(
        TimeSformer, dict(MINI, attention="divided"), (3, 8, 32, 32), note="ours: trains on a laptop CPU in minutes"),
    "vit_frames_mini": Variant(
        TimeSformer, dict(MINI, attention="space", positions="space"), (3, 8, 32, 32),
        note="ours: a control that cannot see the order of frames. A ViT sees each frame, the class tokens are averaged"),
}
