"""Every published variant: its configuration, and what was stated about it, with the place.

`stated` holds (quantity, value, source). Sources name the paper's table or the repository's file;
a source that begins with "secondary" was read in somebody else's table.
"""
from dataclasses import dataclass, field

from torch import nn

from .swin import SwinTransformer
from .video_swin import SwinTransformer3D

VSWIN = "SwinTransformer/Video-Swin-Transformer README.md"
SWIN = "Swin table 1"


@dataclass(frozen=True)
class Variant:
    """One published model: how to build it, what goes in, and what its authors say comes out."""

    family: type[nn.Module]
    config: dict
    input: tuple[int, ...]                                   # one view, without the batch axis
    stated: tuple[tuple[str, float, str], ...] = ()          # ("params M" | "GMACs" | "top-1 ...", value, source)
    note: str = ""
    views: str = field(default="", kw_only=True)             # clips x crops of the stated accuracy


def video_swin(dim, depths, heads, stated, *, window=(8, 7, 7), size=224, classes=400, drop_path=0.1,
               views="4x3", note="") -> Variant:
    config = dict(embed_dim=dim, depths=depths, num_heads=heads, window=window, num_classes=classes,
                  drop_path=drop_path, head_dropout=0.5)
    return Variant(SwinTransformer3D, config, (3, 32, size, size), stated, note, views=views)


def swin(dim, depths, heads, stated, *, window=7, size=224, drop_path=0.2, note="") -> Variant:
    config = dict(embed_dim=dim, depths=depths, num_heads=heads, window=window, img_size=size, drop_path=drop_path)
    return Variant(SwinTransformer, config, (3, size, size), stated, note, views="1x1")


DEEP = (2, 2, 18, 2)

ZOO: dict[str, Variant] = {
    "swin_tiny": swin(96, (2, 2, 6, 2), (3, 6, 12, 24), (
        ("params M", 28, SWIN), ("GMACs", 4.5, SWIN), ("top-1 IN-1K", 81.3, SWIN))),
    "swin_small": swin(96, DEEP, (3, 6, 12, 24), (
        ("params M", 50, SWIN), ("GMACs", 8.7, SWIN), ("top-1 IN-1K", 83.0, SWIN)), drop_path=0.3),
    "swin_base": swin(128, DEEP, (4, 8, 16, 32), (
        ("params M", 88, SWIN), ("GMACs", 15.4, SWIN), ("top-1 IN-1K", 83.5, SWIN)), drop_path=0.5),
    "swin_base_384": swin(128, DEEP, (4, 8, 16, 32), (
        ("params M", 88, SWIN), ("GMACs", 47.0, SWIN), ("top-1 IN-1K", 84.5, SWIN)),
        window=12, size=384, drop_path=0.5),
    "swin_large": swin(192, DEEP, (6, 12, 24, 48), (
        ("params M", 197, "microsoft/Swin-Transformer README.md"),
        ("GMACs", 34.5, "microsoft/Swin-Transformer README.md"))),
    "swin_large_384": swin(192, DEEP, (6, 12, 24, 48), (
        ("params M", 197, SWIN), ("GMACs", 103.9, SWIN), ("top-1 IN-1K", 87.3, SWIN + ", IN-22K pre-training")),
        window=12, size=384),

    "video_swin_tiny": video_swin(96, (2, 2, 6, 2), (3, 6, 12, 24), (
        ("params M", 28.2, "secondary, Video Swin table 4"), ("GMACs", 87.9, VSWIN), ("top-1 K400", 78.8, VSWIN))),
    "video_swin_small": video_swin(96, DEEP, (3, 6, 12, 24), (
        ("params M", 50, VSWIN), ("GMACs", 165.9, VSWIN), ("top-1 K400", 80.6, VSWIN)),
        note="drop path 0.1 is the released configuration's; a secondary note gives 0.2 for the paper"),
    "video_swin_base": video_swin(128, DEEP, (4, 8, 16, 32), (
        ("params M", 88, VSWIN), ("GMACs", 281.6, VSWIN), ("top-1 K400", 80.6, VSWIN)), drop_path=0.3,
        note="from IN-1K; the same network from IN-22K (drop path 0.2) is stated at 82.7"),
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
        note="the paper's 200.0 M and 2107 G belong to this model, not to the 224-pixel one"),
    "video_swin_mini": Variant(
        SwinTransformer3D,
        dict(embed_dim=24, depths=(2, 2, 2, 2), num_heads=(2, 4, 8, 16), window=(4, 6, 6), num_classes=8,
             narrow_init=True),
        (3, 8, 48, 48), note="ours: trains on a laptop CPU in minutes"),
}


def table() -> list[dict]:
    """One row a variant: our own parameters (M) and GMACs, the stated ones, their relative difference in %."""
    import torch

    from .cost import count_macs, count_parameters
    rows = []
    for name, variant in ZOO.items():
        with torch.device("meta"):
            model = variant.family(**variant.config)
        stated = {quantity: (value, source) for quantity, value, source in variant.stated}
        row = {"name": name, "input": "x".join(map(str, variant.input)), "params": count_parameters(model) / 1e6,
               "gmacs": count_macs(model, (1, *variant.input)) / 1e9, "views": variant.views, "note": variant.note}
        for key, quantity in (("params", "params M"), ("gmacs", "GMACs")):
            value, row[f"{key}_source"] = stated.pop(quantity, (None, None))
            row[f"{key}_stated"] = value and float(value)
            row[f"{key}_diff"] = value and 100 * (row[key] - value) / value
        row["accuracy"] = ", ".join(f"{q} {v}" for q, (v, _) in stated.items())
        row["accuracy_source"] = ", ".join(s for _, s in stated.values())
        rows.append(row)
    return rows
