"""Video Swin Transformer (arXiv 2106.13230): Swin with a time axis.

Three things change against the image model, and this file holds exactly those:
- a token is a tube of 2 x 4 x 4 pixels (section 3.1), so T/2 x H/4 x W/4 tokens of 96 numbers enter;
- windows are P x M x M tokens and shift by (P/2, M/2, M/2) (section 3.2), so up to 8 kinds of border
  have to be kept apart; the bias table has (2P-1)(2M-1)(2M-1) rows;
- image weights are inflated (the section on initialisation): see `SwinTransformer3D.inflate`.
Everything else, `window_partition`, the roll and its mask, blocks and merging, is `swin.py` on three axes.
Time is never merged: T/2 steps enter and T/2 steps leave.

Besides the joint attention in 3-D windows, the paper tries two other ways to bring in time (its ablation on designs
for space-time attention, table 4). Both are windows of other shapes, so both are here as well.

Parameter names are those of the official checkpoints without their `backbone.` prefix; `head` is their
`cls_head.fc_cls` (SwinTransformer/Video-Swin-Transformer, mmaction/models/backbones/swin_transformer.py).
"""
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vt_course.models.checks import check_settings, per_axis
from vt_course.models.layers import Sides, init_weights
from vt_course.models.official import check_state, inflate_bias_table, inflate_patch, unwrap
from vt_course.models.swin import Backbone, Size, SwinBlock, WindowAttention


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
        if T % pt or H % ph or W % pw:
            x = F.pad(x, (0, -W % pw, 0, -H % ph, 0, -T % pt))
        return self.norm(self.proj(x).movedim(1, -1))                 # (B, T/pt, H/ph, W/pw, D)


class FactorizedBlock(SwinBlock):
    """A block whose attention over space is followed by attention over time (table 4, "factorized").

    The window (P, M, M) is used as 1 x M x M for space and as P x 1 x 1 for time. A weight that starts at zero
    stands at the end of the attention over time, so that the block starts as the image model's block.
    Shape: (B, T, H, W, C) -> (B, T, H, W, C).
    """

    def __init__(self, dim: int, num_heads: int, window: Size, shift: Size, mlp_ratio: float, drop_path: float,
                 relative_bias: bool = True):
        super().__init__(dim, num_heads, (1, *window[1:]), (0, *shift[1:]), mlp_ratio, drop_path, relative_bias)
        self.norm_time = nn.LayerNorm(dim)
        self.attn_time = WindowAttention(dim, (window[0], 1, 1), (0, 0, 0), num_heads, relative_bias)
        self.weight_time = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = x + self.drop_path(self.weight_time * self.attn_time(self.norm_time(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class SwinTransformer3D(Backbone):
    """Video Swin Transformer.

    Input (B, 3, T, H, W), output (B, num_classes). Any T, H, W >= 1: maps are padded like the official
    code's, and windows are clamped per axis while running (`swin.clamp_window`); the bias tables keep
    their size. Raises ValueError, with the shape got and the shape wanted, for other inputs. `patch`, `window` and
    `shift` have a value for T, H and W, or one for all.

    `shift` names the axes along which windows shift: (False, True, True) and (False, False, False) are
    the rows of the ablation on 3-D shifts. `design` is the row of the ablation on space-time attention:
    - "joint": windows of P x M x M tokens;
    - "split": windows of 1 x M x M, and two transformer layers over time, P x 1 x 1, after the last stage;
    - "factorized": every block attends in 1 x M x M and then in P x 1 x 1 windows (`FactorizedBlock`).

    No code of "split" and "factorized" was released. From the stated parameters and costs it follows that what is added
    over time sees each place on its own, and that it is whole layers in "split" but attention alone in "factorized".
    Assumed: a LayerNorm before each and a relative position bias in each, as many heads as in the stage, and no shift,
    so P should be the whole T/2 (16 for 32 frames). The split layers stand before the final norm.

    `relative_bias=False` drops the bias tables, as in the ablation of the image model.
    """

    layout = "B C T H W"

    def __init__(self, patch: Sides = (2, 4, 4), in_channels: int = 3, num_classes: int = 400,
                 embed_dim: int = 96, depths: Size = (2, 2, 6, 2), num_heads: Size = (3, 6, 12, 24),
                 window: Sides = (8, 7, 7), mlp_ratio: float = 4.0, drop_path: float = 0.0,
                 head_dropout: float = 0.0, shift: Sides = (True, True, True), design: str = "joint",
                 relative_bias: bool = True, narrow_init: bool = False):
        check_settings(SwinTransformer3D, locals())
        if design not in ("joint", "split", "factorized"):
            raise ValueError(f"unknown design {design!r}; choose 'joint', 'split' or 'factorized'")
        patch, window, shift = (per_axis(name, value, "THW") for name, value in
                                (("patch", patch), ("window", window), ("shift", shift)))
        P, *M = window
        super().__init__(
            PatchEmbed3D(patch, in_channels, embed_dim), [(1, *M) if design == "split" else window] * len(depths), shift,
            in_channels=in_channels, num_classes=num_classes, embed_dim=embed_dim, depths=depths,
            num_heads=num_heads, mlp_ratio=mlp_ratio, drop_path=drop_path, head_dropout=head_dropout,
            narrow_init=narrow_init, relative_bias=relative_bias, block=FactorizedBlock if design == "factorized" else SwinBlock)
        dim = self.norm.normalized_shape[0]
        self.temporal_layers = ()
        if design == "split":
            self.temporal_layers = nn.ModuleList(
                SwinBlock(dim, num_heads[-1], (P, 1, 1), (0, 0, 0), mlp_ratio, drop_path, relative_bias) for _ in range(2))
            self.temporal_layers.apply(init_weights)

    def stages(self, x: Tensor) -> list[Tensor]:
        maps = super().stages(x)
        for layer in self.temporal_layers:
            maps[-1] = layer(maps[-1])                                # (B, T/2, H/32, W/32, C)
        return maps

    def inflate(self, image_state: Mapping, mode: str = "average") -> dict[str, Tensor]:
        """Initialise the model from an image Swin checkpoint (the paper's section on initialisation).

        Returns a complete state dict. The patch embedding and the bias tables gain a time axis, by the rule `mode` of
        `official.inflate_patch` and `official.inflate_bias_table`; everything else is copied; the head is the model's
        own, because the classes differ. Raises ValueError as `from_official` does.
        """
        head = {k: v for k, v in self.state_dict().items() if k.startswith("head.")}
        state = {k: v for k, v in unwrap(image_state).items() if not k.startswith("head.")} | head
        patch = state.get("patch_embed.proj.weight")
        if patch is not None and patch.ndim == 4:
            state["patch_embed.proj.weight"] = inflate_patch(patch, self.patch_embed.proj.stride[0], mode)
        window = self.layers[0].blocks[0].window
        for key in [k for k in state if k.endswith("relative_position_bias_table")]:
            state[key] = inflate_bias_table(state[key], window, mode)
        check_state(self, state)
        return state
