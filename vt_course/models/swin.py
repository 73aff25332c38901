"""Swin Transformer (arXiv 2103.14030), and the n-dimensional parts that Video Swin reuses.

Attention is computed inside windows of M x M tokens; every second block shifts the windows by
floor(M/2), so that neighbouring windows talk to each other; between stages, 2 x 2 tokens are merged.
Video Swin adds a time axis to the same three ideas. The functions below therefore work on maps
`(B, *size, C)` with any number of axes: `size` is (H, W) for images and (T, H, W) for video.

Parameter names are those of the official checkpoints
(microsoft/Swin-Transformer, models/swin_transformer.py).
"""
from functools import lru_cache
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import DropPath, Mlp, check_input, drop_path_schedule, init_weights, rescale_for_narrow

Size = tuple[int, ...]


# ---------------------------------------------------------------- windows

def window_partition(x: Tensor, window: Size) -> Tensor:
    """Cut a map into non-overlapping windows (Swin, section 3.2).

    (B, *size, C) -> (B * nW, N, C) with nW = prod(size / window) windows of N = prod(window) tokens,
    both in row-major order. Every size must be a multiple of its window.
    """
    B, *size, C = x.shape
    n = len(window)
    pairs = [m for s, w in zip(size, window) for m in (s // w, w)]
    x = x.reshape(B, *pairs, C)                                       # (B, n1, w1, n2, w2, ..., C)
    x = x.permute(0, *range(1, 2 * n, 2), *range(2, 2 * n + 1, 2), 2 * n + 1)
    return x.reshape(-1, prod(window), C)                             # (B·n1·n2·.., w1·w2·.., C)


def window_reverse(windows: Tensor, window: Size, size: Size) -> Tensor:
    """Undo `window_partition`: (B * nW, N, C) -> (B, *size, C)."""
    n, C = len(window), windows.shape[-1]
    grid = [s // w for s, w in zip(size, window)]
    x = windows.reshape(-1, *grid, *window, C)                        # (B, n1, n2, .., w1, w2, .., C)
    x = x.permute(0, *[a for i in range(1, n + 1) for a in (i, i + n)], 2 * n + 1)
    return x.reshape(-1, *size, C)                                    # (B, n1·w1, n2·w2, .., C)


def clamp_window(size: Size, window: Size, shift: Size) -> tuple[Size, Size]:
    """Where the map is no larger than the window, one window covers the axis and nothing shifts.

    The rule of both official repositories, applied to each axis on its own.
    """
    clamped = tuple(min(s, w) for s, w in zip(size, window))
    return clamped, tuple(0 if s <= w else sh for s, w, sh in zip(size, window, shift))


@lru_cache(maxsize=64)
@torch.inference_mode(False)         # a cached mask must also serve a later training step
def shift_mask(size: Size, window: Size, shift: Size, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Which pairs in a rolled window were neighbours before the roll (Swin, figure 4).

    Returns (nW, N, N): 0 where two tokens may attend to each other, -100 where the roll brought them
    together from opposite borders. After a roll by -shift, the last `shift` positions of an axis hold
    what came from its beginning, so one bit per axis tells the two sides apart. (The official code
    numbers 3 slices per axis, 9 or 27 regions in all; inside any one window the two agree.)
    """
    sides = [torch.arange(s, device=device) >= s - sh for s, sh in zip(size, shift)]
    bits = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1)     # (*size, axes)
    bits = window_partition(bits[None], window)                       # (nW, N, axes)
    foreign = (bits[:, :, None] != bits[:, None, :]).any(-1)          # (nW, N, N)
    return torch.zeros(foreign.shape, device=device, dtype=dtype).masked_fill_(foreign, -100.0)


def relative_position_index(window: Size) -> Tensor:
    """Row of the bias table for each ordered pair of tokens in a window: (N, N), int64.

    Offsets along an axis of length w run from -(w-1) to w-1; they are shifted to start at 0 and read
    as the digits of one number, the last axis fastest (Swin, equation 4).
    """
    axes = torch.meshgrid(*[torch.arange(w) for w in window], indexing="ij")
    coords = torch.stack(axes).flatten(1)                             # (axes, N)
    offset = coords[:, :, None] - coords[:, None, :]                  # (axes, N, N)
    index = torch.zeros_like(offset[0])
    for delta, w in zip(offset, window):
        index = index * (2 * w - 1) + delta + w - 1
    return index


# ---------------------------------------------------------------- attention and blocks

class WindowAttention(nn.Module):
    """Multi-head self-attention inside each window with a relative position bias (Swin, equation 4).

    softmax(q k^T / sqrt(d) + bias + mask) v. Shape: (B * nW, N, C) -> (B * nW, N, C).
    """

    def __init__(self, dim: int, window: Size, num_heads: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not divisible by num_heads {num_heads}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        table = prod(2 * w - 1 for w in window)
        self.relative_position_bias_table = nn.Parameter(torch.empty(table, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)
        self._cached = (None, None)

    def bias(self, N: int) -> Tensor:
        """(h, N, N). For a clamped window (N smaller than the full one) this takes the leading N x N
        corner of the index, as the official video code does. That is the right geometry only if just
        the first axis (time) shrank; see notebook 04.
        """
        table = self.relative_position_bias_table
        key = (N, table.data_ptr(), table._version, table.device, table.dtype)
        if torch.is_grad_enabled() or self._cached[0] != key:
            rows = self.relative_position_index[:N, :N].flatten()
            bias = table[rows].view(N, N, -1).permute(2, 0, 1).contiguous()        # (h, N, N)
            if torch.is_grad_enabled():
                return bias
            self._cached = (key, bias)
        return self._cached[1]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        BW, N, C = x.shape
        h = self.num_heads
        qkv = self.qkv(x).view(BW, N, 3, h, C // h)                   # (B·nW, N, 3, h, d)
        bias = self.bias(N).to(qkv.dtype)                             # (h, N, N)
        if mask is None:
            q, k, v = qkv.permute(2, 0, 3, 1, 4)                      # 3 x (B·nW, h, N, d)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        else:
            # Windows and heads share one axis, so that the mask is broadcast over B, never copied.
            nW = len(mask)
            bias = (bias + mask[:, None]).view(1, nW * h, N, N)
            qkv = qkv.view(-1, nW, N, 3, h, C // h).permute(3, 0, 1, 4, 2, 5)
            q, k, v = qkv.reshape(3, -1, nW * h, N, C // h)           # 3 x (B, nW·h, N, d)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            out = out.view(BW, h, N, C // h)
        return self.proj(out.transpose(1, 2).reshape(BW, N, C))       # (B·nW, N, C)


class SwinBlock(nn.Module):
    """(Shifted) window attention, then an MLP, each behind a LayerNorm and a residual (Swin, equation 3).

    Shape: (B, *size, C) -> (B, *size, C) for any size: the map is padded at its end to whole windows
    after the first norm, as in the official code; padded tokens are not masked.
    """

    def __init__(self, dim: int, num_heads: int, window: Size, shifted: bool, mlp_ratio: float = 4.0,
                 drop_path: float = 0.0):
        super().__init__()
        self.window = tuple(window)
        self.shift = tuple(w // 2 if shifted else 0 for w in window)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, self.window, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def attend(self, x: Tensor) -> Tensor:
        """Window attention over the map: pad, roll, cut, attend, and all of it back."""
        size = tuple(x.shape[1:-1])
        window, shift = clamp_window(size, self.window, self.shift)
        axes = tuple(range(1, x.ndim - 1))
        padding = [-s % w for s, w in zip(size, window)]
        if any(padding):
            x = F.pad(x, (0, 0, *[p for after in reversed(padding) for p in (0, after)]))
        padded = tuple(x.shape[1:-1])
        mask = None
        if any(shift):
            x = torch.roll(x, [-s for s in shift], axes)
            mask = shift_mask(padded, window, shift, x.device, x.dtype)
        x = self.attn(window_partition(x, window), mask)              # (B·nW, N, C)
        x = window_reverse(x, window, padded)                         # (B, *padded, C)
        if any(shift):
            x = torch.roll(x, shift, axes)
        return x[(slice(None), *[slice(s) for s in size])] if any(padding) else x

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Halve H and W, double C: concatenate 2 x 2 neighbours, normalise, project 4C -> 2C.

    Shape: (B, ..., H, W, C) -> (B, ..., ceil(H/2), ceil(W/2), 2C). Neighbours are concatenated in the
    order (0,0), (1,0), (0,1), (1,1) (row offset first). Time, if present, is never merged.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[-3:-1]
        if H % 2 or W % 2:
            x = F.pad(x, (0, 0, 0, W % 2, 0, H % 2))
        parts = [x[..., i::2, j::2, :] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, -1)))        # (B, .., H/2, W/2, 4C -> 2C)


class Stage(nn.Module):
    """`depth` blocks, every second one shifted, then (except in the last stage) patch merging."""

    def __init__(self, dim: int, depth: int, num_heads: int, window: Size, merge: bool,
                 mlp_ratio: float, drop_path: list[float]):
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(dim, num_heads, window, j % 2 == 1, mlp_ratio, drop_path[j]) for j in range(depth))
        if merge:
            self.downsample = PatchMerging(dim)


class Backbone(nn.Module):
    """What the image and the video model have in common: stages, the final norm, pooling, the head.

    A subclass provides `patch_embed` with `embed(x) -> (B, *size, C)` and names its input `layout`.
    """

    layout: str

    def __init__(self, patch_embed: nn.Module, windows: list[Size], *, in_channels: int, num_classes: int,
                 embed_dim: int, depths: Size, num_heads: Size, mlp_ratio: float, drop_path: float,
                 head_dropout: float, narrow_init: bool = False):
        super().__init__()
        if len(depths) != len(num_heads):
            raise ValueError(f"depths {tuple(depths)} and num_heads {tuple(num_heads)} name different numbers of stages")
        if any(w < 1 for window in windows for w in window):
            raise ValueError(f"window {tuple(windows[0])} has a side smaller than 1")
        self.in_channels = in_channels
        self.patch_embed = patch_embed
        dims = [embed_dim * 2**i for i in range(len(depths))]
        rates = drop_path_schedule(drop_path, depths)
        last = len(depths) - 1
        self.layers = nn.ModuleList(
            Stage(dims[i], depths[i], num_heads[i], windows[i], i < last, mlp_ratio, rates[i])
            for i in range(len(depths)))
        self.norm = nn.LayerNorm(dims[-1])
        self.head_drop = nn.Dropout(head_dropout)
        self.head = nn.Linear(dims[-1], num_classes)
        self.apply(init_weights)
        if narrow_init:
            rescale_for_narrow(self)

    def stages(self, x: Tensor) -> list[Tensor]:
        """The map at the end of each stage, before merging, channels last: [(B, *size_i, C_i), ...]."""
        check_input(x, self.layout, self.in_channels)
        x = self.patch_embed(x)
        maps = []
        for i, stage in enumerate(self.layers):
            if i:
                x = self.layers[i - 1].downsample(x)
            for block in stage.blocks:
                x = block(x)
            maps.append(x)
        return maps

    def features(self, x: Tensor) -> list[Tensor]:
        """Stage maps for dense prediction, channels first: [(B, C_i, *size_i), ...].

        Each is taken before patch merging; no norm is applied.
        """
        return [m.movedim(-1, 1) for m in self.stages(x)]

    def forward(self, x: Tensor) -> Tensor:
        """Class scores before softmax, (B, K)."""
        x = self.norm(self.stages(x)[-1])                             # (B, *size, C)
        x = x.flatten(1, -2).mean(1)                                  # (B, C)
        return self.head(self.head_drop(x))


# ---------------------------------------------------------------- the image model

class PatchEmbed(nn.Module):
    """Cut the image into P x P patches and project each: (B, C, H, W) -> (B, H/P, W/P, D).

    Sizes that are not a multiple of P are padded with zeros at the right and the bottom.
    """

    def __init__(self, patch: int, in_channels: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch, patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        p = self.proj.stride[0]
        x = F.pad(x, (0, -x.shape[3] % p, 0, -x.shape[2] % p))
        return self.norm(self.proj(x).movedim(1, -1))                 # (B, H/P, W/P, D)


class SwinTransformer(Backbone):
    """Swin Transformer for images (arXiv 2103.14030, section 3.3).

    Input (B, 3, H, W), output (B, num_classes). As in the official code, windows are clamped when the
    model is built for `img_size`: where a stage's map is no larger than the window, its bias table is
    made for the smaller window and nothing shifts.
    """

    layout = "B C H W"

    def __init__(self, img_size: int = 224, patch_size: int = 4, in_channels: int = 3, num_classes: int = 1000,
                 embed_dim: int = 96, depths: Size = (2, 2, 6, 2), num_heads: Size = (3, 6, 12, 24),
                 window: int = 7, mlp_ratio: float = 4.0, drop_path: float = 0.0, head_dropout: float = 0.0):
        sizes = [-(-img_size // patch_size // 2**i) for i in range(len(depths))]
        windows = [(min(window, s),) * 2 for s in sizes]
        super().__init__(
            PatchEmbed(patch_size, in_channels, embed_dim), windows, in_channels=in_channels,
            num_classes=num_classes, embed_dim=embed_dim, depths=depths, num_heads=num_heads,
            mlp_ratio=mlp_ratio, drop_path=drop_path, head_dropout=head_dropout)
