"""Video Swin Transformer (arXiv 2106.13230): Swin with a time axis.

Three things change against the image model, and this file holds exactly those:
- a token is a tube of 2 x 4 x 4 pixels (section 3.1), so T/2 x H/4 x W/4 tokens of 96 numbers enter;
- windows are P x M x M tokens and shift by (P/2, M/2, M/2) (section 3.2), so up to 8 kinds of border
  have to be kept apart; the bias table has (2P-1)(2M-1)(2M-1) rows;
- image weights are inflated (the section on initialisation): see `official.inflate_swin`.
Everything else, `window_partition`, the roll and its mask, blocks and merging, is `swin.py` on three axes.
Time is never merged: T/2 steps enter and T/2 steps leave.

Parameter names are those of the official checkpoints without their `backbone.` prefix; `head` is their
`cls_head.fc_cls` (SwinTransformer/Video-Swin-Transformer, mmaction/models/backbones/swin_transformer.py).
"""
import torch.nn.functional as F
from torch import Tensor, nn

from .swin import Backbone, Size


class PatchEmbed3D(nn.Module):
    """Cut the clip into tubes and project each: (B, C, T, H, W) -> (B, T/pt, H/ph, W/pw, D).

    Sizes that are not a multiple of the tube are padded with zeros at their end.
    """

    def __init__(self, patch: Size, in_channels: int, dim: int):
        super().__init__()
        self.proj = nn.Conv3d(in_channels, dim, patch, patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        pt, ph, pw = self.proj.stride
        _, _, T, H, W = x.shape
        x = F.pad(x, (0, -W % pw, 0, -H % ph, 0, -T % pt))
        return self.norm(self.proj(x).movedim(1, -1))                 # (B, T/pt, H/ph, W/pw, D)


class SwinTransformer3D(Backbone):
    """Video Swin Transformer.

    Input (B, 3, T, H, W), output (B, num_classes). Any T, H, W >= 1: maps are padded like the official
    code's, and windows are clamped per axis while running (`swin.clamp_window`); the bias tables keep
    their size. Raises ValueError, with the shape got and the shape wanted, for other inputs.
    """

    layout = "B C T H W"

    def __init__(self, patch: Size = (2, 4, 4), in_channels: int = 3, num_classes: int = 400,
                 embed_dim: int = 96, depths: Size = (2, 2, 6, 2), num_heads: Size = (3, 6, 12, 24),
                 window: Size = (8, 7, 7), mlp_ratio: float = 4.0, drop_path: float = 0.0,
                 head_dropout: float = 0.0, narrow_init: bool = False):
        super().__init__(
            PatchEmbed3D(tuple(patch), in_channels, embed_dim), [tuple(window)] * len(depths),
            in_channels=in_channels, num_classes=num_classes, embed_dim=embed_dim, depths=depths,
            num_heads=num_heads, mlp_ratio=mlp_ratio, drop_path=drop_path, head_dropout=head_dropout,
            narrow_init=narrow_init)
