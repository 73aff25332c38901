"""Swin and Video Swin: every published variant."""
from vt_course.models.swin import SwinTransformer
from vt_course.models.video_swin import SwinTransformer3D
from vt_course.models.zoo.variant import Variant

VSWIN = "SwinTransformer/Video-Swin-Transformer README.md"
SWIN = "Swin table 1"
SWIN_README = "microsoft/Swin-Transformer README.md"
DESIGNS = "secondary, Video Swin table 4"


def video_swin(dim, depths, heads, stated, *, window=(8, 7, 7), size=224, classes=400, drop_path=0.1,
               views="4x3", note="", **other) -> Variant:
    config = dict(embed_dim=dim, depths=depths, num_heads=heads, window=window, num_classes=classes,
                  drop_path=drop_path, head_dropout=0.5, **other)
    return Variant(SwinTransformer3D, config, (3, 32, size, size), stated, note, views=views)


def swin(dim, depths, heads, stated, *, window=7, size=224, drop_path=0.2, note="") -> Variant:
    config = dict(embed_dim=dim, depths=depths, num_heads=heads, window=window, img_size=size, drop_path=drop_path)
    return Variant(SwinTransformer, config, (3, size, size), stated, note, views="1x1")


DEEP = (2, 2, 18, 2)

VARIANTS: dict[str, Variant] = {
    "swin_tiny": swin(96, (2, 2, 6, 2), (3, 6, 12, 24), (
        ("params M", 28, SWIN_README), ("GMACs", 4.5, SWIN), ("top-1 IN-1K", 81.3, SWIN)),
        note="table 1 prints 29 M; the released weights are stated at 81.2, those pre-trained on IN-22K at 80.9 (README.md)"),
    "swin_small": swin(96, DEEP, (3, 6, 12, 24), (
        ("params M", 50, SWIN), ("GMACs", 8.7, SWIN), ("top-1 IN-1K", 83.0, SWIN)), drop_path=0.3,
        note="the released weights are stated at 83.2, also those pre-trained on IN-22K (README.md)"),
    "swin_base": swin(128, DEEP, (4, 8, 16, 32), (
        ("params M", 88, SWIN), ("GMACs", 15.4, SWIN), ("top-1 IN-1K", 83.5, SWIN)), drop_path=0.5,
        note="table 8 says 83.3; pre-trained on IN-22K 85.2 (table 1)"),
    "swin_base_384": swin(128, DEEP, (4, 8, 16, 32), (
        ("params M", 88, SWIN), ("GMACs", 47.0, SWIN), ("top-1 IN-1K", 84.5, SWIN)),
        window=12, size=384, drop_path=0.5, note="pre-trained on IN-22K 86.4 (table 1)"),
    "swin_large": swin(192, DEEP, (6, 12, 24, 48), (
        ("params M", 197, SWIN_README), ("GMACs", 34.5, SWIN_README),
        ("top-1 IN-1K", 86.3, SWIN_README + ", IN-22K pre-training")),
        note="drop path unverified"),
    "swin_large_384": swin(192, DEEP, (6, 12, 24, 48), (
        ("params M", 197, SWIN), ("GMACs", 103.9, SWIN), ("top-1 IN-1K", 87.3, SWIN + ", IN-22K pre-training")),
        window=12, size=384, note="drop path unverified"),
    "swin_mini": Variant(
        SwinTransformer,
        dict(img_size=64, embed_dim=32, depths=(2, 2, 2), num_heads=(2, 4, 8), window=4, num_classes=8, narrow_init=True),
        (3, 64, 64), note="ours: trains on a laptop CPU in minutes"),

    "video_swin_tiny": video_swin(96, (2, 2, 6, 2), (3, 6, 12, 24), (
        ("params M", 28.2, "secondary, Video Swin table 4"), ("GMACs", 87.9, VSWIN), ("top-1 K400", 78.8, VSWIN))),
    "video_swin_small": video_swin(96, DEEP, (3, 6, 12, 24), (
        ("params M", 50, VSWIN), ("GMACs", 165.9, VSWIN), ("top-1 K400", 80.6, VSWIN)),
        note="drop path 0.1 is the released configuration's; a secondary note gives 0.2 for the paper"),
    "video_swin_base": video_swin(128, DEEP, (4, 8, 16, 32), (
        ("params M", 88, VSWIN), ("GMACs", 281.6, VSWIN), ("top-1 K400", 80.6, VSWIN)), drop_path=0.3,
        note="initialised from IN-1K"),
    "video_swin_base_22k": video_swin(128, DEEP, (4, 8, 16, 32), (
        ("params M", 88, VSWIN), ("GMACs", 281.6, VSWIN), ("top-1 K400", 82.7, VSWIN)), drop_path=0.2,
        note="initialised from IN-22K"),
    "video_swin_base_k600": video_swin(128, DEEP, (4, 8, 16, 32), (
        ("params M", 88, VSWIN), ("GMACs", 281.6, VSWIN), ("top-1 K600", 84.0, VSWIN)),
        classes=600, drop_path=0.2),
    "video_swin_base_ssv2": video_swin(128, DEEP, (4, 8, 16, 32), (
        ("params M", 89, VSWIN), ("GMACs", 320.6, VSWIN), ("top-1 SSv2", 69.6, VSWIN)),
        window=(16, 7, 7), classes=174, drop_path=0.4, views="1x3"),
    "video_swin_large": video_swin(192, DEEP, (6, 12, 24, 48), (
        ("params M", 197.0, "open-mmlab/mmaction2 configs/recognition/swin"),
        ("GMACs", 604, "open-mmlab/mmaction2 configs/recognition/swin"),
        ("top-1 K400", 83.1, "secondary, X-CLIP table")), drop_path=0.2,
        note="no released configuration: drop path as in the IN-22K base model"),
    "video_swin_large_384": video_swin(192, DEEP, (6, 12, 24, 48), (
        ("params M", 200.0, "secondary, Video Swin table 1"), ("GMACs", 2107, "secondary, Video Swin table 1"),
        ("top-1 K400", 84.9, "Video Swin abstract")), window=(8, 12, 12), size=384, drop_path=0.2, views="10x5",
        note="the paper's 200.0 M and 2107 G belong to this model, not to the 224-pixel one; with 4x3 views 84.6 (unverified)"),
    "video_swin_large_384_k600": video_swin(192, DEEP, (6, 12, 24, 48), (
        ("params M", 200.0, "secondary, Video Swin table 2"), ("GMACs", 2107, "secondary, Video Swin table 2"),
        ("top-1 K600", 86.1, "Video Swin abstract (arXiv v1)")), window=(8, 12, 12), size=384, classes=600,
        drop_path=0.2, views="10x5", note="the abstract of the CVPR version says 85.9; 200.0 M is the count with 400 classes"),
    "video_swin_tiny_split": video_swin(96, (2, 2, 6, 2), (3, 6, 12, 24), (
        ("params M", 42.0, DESIGNS), ("GMACs", 83, DESIGNS), ("top-1 K400", 76.4, DESIGNS)),
        window=(16, 7, 7), design="split", note="no released code: see SwinTransformer3D for what is assumed"),
    "video_swin_tiny_factorized": video_swin(96, (2, 2, 6, 2), (3, 6, 12, 24), (
        ("params M", 36.5, DESIGNS), ("GMACs", 95, DESIGNS), ("top-1 K400", 78.5, DESIGNS)),
        window=(16, 7, 7), design="factorized", note="no released code: see SwinTransformer3D for what is assumed"),
    "video_swin_mini": Variant(
        SwinTransformer3D,
        dict(embed_dim=24, depths=(2, 2, 2), num_heads=(2, 4, 8), window=(2, 4, 4), num_classes=8, narrow_init=True),
        (3, 8, 32, 32), note="ours: trains on a laptop CPU in minutes"),
}
