"""Swin Transformer (arXiv 2103.14030), and the n-dimensional parts that Video Swin reuses.

Attention is computed inside windows of M x M tokens; every second block shifts the windows by
floor(M/2), so that neighbouring windows talk to each other; between stages, 2 x 2 tokens are merged.
Video Swin adds a time axis to the same three ideas. The functions below therefore work on maps
`(B, *size, C)` with any number of axes: `size` is (H, W) for images and (T, H, W) for video.

Parameter names are those of the official checkpoints
(microsoft/Swin-Transformer, models/swin_transformer.py).
"""
from collections.abc import Mapping
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vt_course.models import fast
from vt_course.models.checks import check_input, check_settings, per_axis
from vt_course.models.layers import DropPath, Mlp, Sides, Size, drop_path_schedule, init_weights, rescale_for_narrow
from vt_course.models.official import resize_bias_table

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
    """The window and the shift for a map of `size`: along an axis no longer than the window, one window covers it and
    nothing shifts. The rule of both official repositories, applied to each axis on its own.
    """
    clamped = tuple(min(s, w) for s, w in zip(size, window))
    return clamped, tuple(0 if s <= w else sh for s, w, sh in zip(size, window, shift))


def pad(x: Tensor, window: Size) -> Tensor:
    """Zeros at the end of each axis, as many as make it a multiple of the window: (B, *size, C) -> (B, *padded, C)."""
    padding = [-s % w for s, w in zip(x.shape[1:-1], window)]
    return F.pad(x, (0, 0, *[p for after in reversed(padding) for p in (0, after)])) if any(padding) else x


def shift_mask(size: Size, window: Size, shift: Size, device: torch.device | None = None,
               dtype: torch.dtype = torch.float32) -> Tensor:
    """Which pairs in a rolled window were neighbours before the roll (Swin, figure 4).

    Returns (nW, N, N): 0 where two tokens may attend to each other, -100 where the roll brought them
    together from opposite borders. After a roll by -shift, the last `shift` positions of an axis hold
    what came from its beginning, so one bit per axis tells the two sides apart. (The official code numbers
    3 slices per axis, 9 or 27 regions in all. Inside any one window, both ways tell the same tokens apart.)
    """
    sides = [torch.arange(s, device=device) >= s - sh for s, sh in zip(size, shift)]
    bits = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1)     # (*size, axes)
    bits = window_partition(bits[None], window)                       # (nW, N, axes)
    foreign = (bits[:, :, None] != bits[:, None, :]).any(-1)          # (nW, N, N)
    return torch.zeros(foreign.shape, device=device, dtype=dtype).masked_fill_(foreign, -100.0)


def roll_and_cut(x: Tensor, window: Size, shift: Size) -> tuple[Tensor, list[tuple[int, Tensor | None]], tuple | None]:
    """Roll the map by -shift and cut it into windows: (B, *size, C) -> windows (B·nW, N, C), groups, order.

    Equal to `window_partition(torch.roll(x, -shift), window)` and its `shift_mask`. Where something shifts, windows
    that have the same mask stand side by side; `put_back` needs their `order`. `groups` lists the masks: (count, mask)
    says that the next `count` windows have this mask, (N, N), or None, which forbids nothing.
    """
    if any(shift):
        return fast.cut(x, window, shift)
    windows = window_partition(x, window)
    return windows, [(windows.shape[0], None)], None


def put_back(windows: Tensor, window: Size, size: Size, order: tuple | None) -> Tensor:
    """Undo `roll_and_cut`, that is `window_reverse` and a roll by +shift: (B·nW, N, C) -> (B, *size, C)."""
    return window_reverse(windows, window, size) if order is None else fast.paste(windows, size, order)


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
    """(S)W-MSA: multi-head self-attention inside each (shifted) window, with a relative position bias.

    softmax(q k^T / sqrt(d) + bias + mask) v (Swin, equation 4). Shape: (B, *size, C) -> (B, *size, C) for any size.
    The map is padded at its end to whole windows. As in the official code, padded tokens are not masked.
    """

    still: Size = ()                     # on a map of this size nothing shifts (see `SwinTransformer`)

    def __init__(self, dim: int, window: Size, shift: Size, num_heads: int, relative_bias: bool = True):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not divisible by num_heads {num_heads}")
        self.window, self.shift, self.num_heads = tuple(window), tuple(shift), num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = None
        if relative_bias:
            table = prod(2 * w - 1 for w in window)
            self.relative_position_bias_table = nn.Parameter(torch.empty(table, num_heads))
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
            self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)

    def bias(self, N: int) -> Tensor | None:
        """(h, N, N), or None in a model without relative positions.

        A clamped window has fewer tokens. For it this takes the leading N x N corner of the index, as the official
        video code does. That is the right geometry only if just the first axis (time) shrank; see notebook 04.
        """
        if self.relative_position_bias_table is None:
            return None
        rows = self.relative_position_index[:N, :N].flatten()
        table = self.relative_position_bias_table.t().contiguous()    # (h, rows)
        return table.index_select(1, rows).view(-1, N, N)

    def window_and_shift(self, size: Size) -> tuple[Size, Size]:
        """Those of a map of `size` (`clamp_window`, `still`)."""
        window, shift = clamp_window(size, self.window, self.shift)
        return window, (0,) * len(size) if size == self.still else shift

    def forward(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[1:-1])
        window, shift = self.window_and_shift(size)
        x = pad(x, window)                                            # (B, *padded, C)
        windows, groups, order = roll_and_cut(x, window, shift)       # (B·nW, N, C)
        qkv = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1))             # (B·nW, N, 3, h, d)
        out = fast.attention(qkv, self.bias(windows.shape[1]), groups)             # (B·nW, N, h, d)
        x = put_back(self.proj(out.flatten(-2)), window, x.shape[1:-1], order)     # (B, *padded, C)
        return x[(slice(None), *map(slice, size))]                    # (B, *size, C)


class SwinBlock(nn.Module):
    """(Shifted) window attention, then an MLP, each behind a LayerNorm and a residual (Swin, equation 3).

    Shape: (B, *size, C) -> (B, *size, C) for any size.
    """

    def __init__(self, dim: int, num_heads: int, window: Size, shift: Size, mlp_ratio: float = 4.0,
                 drop_path: float = 0.0, relative_bias: bool = True):
        super().__init__()
        self.window = tuple(window)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, shift, num_heads, relative_bias)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
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
        x = x.unflatten(-3, (-1, 2)).unflatten(-2, (-1, 2))           # (B, .., H/2, i, W/2, j, C)
        x = x.movedim(-4, -2).flatten(-3)                             # (B, .., H/2, W/2, j·i·C)
        return self.reduction(self.norm(x))                           # (B, .., H/2, W/2, 4C -> 2C)


class Stage(nn.Module):
    """`depth` blocks, every second one shifted, then (except in the last stage) patch merging.

    `shifted` says along which axes windows shift: all in the paper, fewer for its ablations.
    """

    def __init__(self, dim: int, depth: int, num_heads: int, window: Size, shifted: Size, merge: bool,
                 mlp_ratio: float, drop_path: list[float], relative_bias: bool, block: type[nn.Module]):
        super().__init__()
        shifts = [tuple(w // 2 * (j % 2) * on for w, on in zip(window, shifted)) for j in range(depth)]
        self.blocks = nn.ModuleList(block(dim, num_heads, window, shift, mlp_ratio, rate, relative_bias)
                                    for shift, rate in zip(shifts, drop_path))
        if merge:
            self.downsample = PatchMerging(dim)


class Backbone(nn.Module):
    """What the image and the video model have in common: stages, the final norm, pooling, the head.

    A subclass provides `patch_embed(x) -> (B, *size, C)` and names its input `layout`.
    """

    layout: str
    # Endings of names of parameters without weight decay, beside vectors: those of both official repositories.
    no_weight_decay = ("relative_position_bias_table", "absolute_pos_embed")

    def __init__(self, patch_embed: nn.Module, windows: list[Size], shifted: Size, *, in_channels: int,
                 num_classes: int, embed_dim: int, depths: Size, num_heads: Size, mlp_ratio: float, drop_path: float,
                 head_dropout: float, narrow_init: bool, relative_bias: bool = True,
                 block: type[nn.Module] = SwinBlock):
        super().__init__()
        if len(depths) != len(num_heads):
            raise ValueError(f"depths {tuple(depths)} and num_heads {tuple(num_heads)} name different numbers of stages")
        self.in_channels = in_channels
        self.patch_embed = patch_embed
        dims = [embed_dim * 2**i for i in range(len(depths))]
        rates = drop_path_schedule(drop_path, depths)
        last = len(depths) - 1
        self.layers = nn.ModuleList(
            Stage(dims[i], depths[i], num_heads[i], windows[i], shifted, i < last, mlp_ratio, rates[i],
                  relative_bias, block)
            for i in range(len(depths)))
        self.norm = nn.LayerNorm(dims[-1])
        self.head_drop = nn.Dropout(head_dropout)
        self.head = nn.Linear(dims[-1], num_classes)
        self.apply(init_weights)
        if narrow_init:
            rescale_for_narrow(self)

    def embed(self, x: Tensor) -> Tensor:
        """The tokens that enter the first stage, (B, *size, C)."""
        return self.patch_embed(x)

    def stages(self, x: Tensor) -> list[Tensor]:
        """The map at the end of each stage, before merging, channels last: [(B, *size_i, C_i), ...]."""
        check_input(x, self.layout, self.in_channels)
        x = self.embed(x)
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

    def resize_positions(self, state: Mapping[str, Tensor], source: Size | None = None) -> dict[str, Tensor]:
        """`state` with the bias tables of another window resized to this model's windows
        (`official.resize_bias_table`).

        The tables' rows tell the old window, so `source`, which other families need, is not used.
        """
        windows = {f"{name}.attn.relative_position_bias_table": block.window
                   for name, block in self.named_modules() if isinstance(block, SwinBlock)}
        return {k: resize_bias_table(v, windows[k]) if k in windows else v for k, v in state.items()}


# ---------------------------------------------------------------- the image model

class PatchEmbed(nn.Module):
    """Cut the image into patches of P x P (or Ph x Pw) pixels and project each: (B, C, H, W) -> (B, H/P, W/P, D).

    Sizes that are not a multiple of P are padded with zeros at the right and the bottom.
    """

    def __init__(self, patch: Size, in_channels: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch, patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        ph, pw = self.proj.stride
        if x.shape[2] % ph or x.shape[3] % pw:
            x = F.pad(x, (0, -x.shape[3] % pw, 0, -x.shape[2] % ph))
        return self.norm(self.proj(x).movedim(1, -1))                 # (B, H/P, W/P, D)


class SwinTransformer(Backbone):
    """Swin Transformer for images (arXiv 2103.14030, section 3.3).

    Input (B, 3, H, W), output (B, num_classes). `img_size`, `patch_size` and `window` are one number, or a pair
    for height and width.

    Where we follow the official code (microsoft/Swin-Transformer, models/swin_transformer.py): windows are clamped
    when the model is built for `img_size`. Where a stage's map is no larger than the window along one axis, the
    window shrinks to the *shorter* side of the map along both, its bias table is made for that window, and nothing
    shifts on this map. Where we pad instead: that code refuses an image of another size than `img_size`, a map that
    its window does not divide, and a map of odd sides before a merging, and it leaves out pixels that fill no patch.
    Here any image goes in. Zeros are appended at the right and the bottom, the masks are made for each map as it
    comes, and on maps of another size than the built one windows are clamped for each axis alone (`clamp_window`).

    The paper's table 4 varies three things: `shift=False` leaves every window where it is, `ape=True` adds a
    learned absolute position embedding (the model then takes images of `img_size` only and raises ValueError
    for others), `relative_bias=False` drops the bias tables.
    """

    layout = "B C H W"

    def __init__(self, img_size: Sides = 224, patch_size: Sides = 4, in_channels: int = 3, num_classes: int = 1000,
                 embed_dim: int = 96, depths: Size = (2, 2, 6, 2), num_heads: Size = (3, 6, 12, 24),
                 window: Sides = 7, mlp_ratio: float = 4.0, drop_path: float = 0.0, head_dropout: float = 0.0,
                 shift: bool = True, ape: bool = False, relative_bias: bool = True, narrow_init: bool = False):
        check_settings(SwinTransformer, locals())
        patch, window = per_axis("patch_size", patch_size, "HW"), per_axis("window", window, "HW")
        grid = [-(-n // p) for n, p in zip(per_axis("img_size", img_size, "HW"), patch)]
        sizes = [tuple(-(-n // 2**i) for n in grid) for i in range(len(depths))]           # of each stage's map, rounded up
        covered = [any(n <= w for n, w in zip(size, window)) for size in sizes]
        windows = [tuple(min(w, *size) for w in window) if small else window for size, small in zip(sizes, covered)]
        super().__init__(
            PatchEmbed(patch, in_channels, embed_dim), windows, (shift, shift), in_channels=in_channels,
            num_classes=num_classes, embed_dim=embed_dim, depths=depths, num_heads=num_heads,
            mlp_ratio=mlp_ratio, drop_path=drop_path, head_dropout=head_dropout, narrow_init=narrow_init,
            relative_bias=relative_bias)
        for stage, size, small in zip(self.layers, sizes, covered):
            for block in stage.blocks:
                block.attn.still = size if small else ()
        self.grid, self.absolute_pos_embed = sizes[0], None
        if ape:
            self.absolute_pos_embed = nn.Parameter(torch.empty(1, prod(self.grid), embed_dim))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)

    def embed(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)                                       # (B, H/P, W/P, D)
        if self.absolute_pos_embed is None:
            return x
        H, W = self.grid
        if x.shape[1:3] != (H, W):
            raise ValueError(f"the absolute position embedding is made for {H} x {W} patches, the image has "
                             f"{x.shape[1]} x {x.shape[2]}; build the model with ape=False or another img_size.")
        return x + self.absolute_pos_embed.view(1, H, W, -1)
