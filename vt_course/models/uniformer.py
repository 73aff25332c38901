"""UniFormer for video (arXiv 2201.04676) and, with `dims=2`, for images and dense prediction (arXiv 2201.09450).

Neighbouring tokens of a video say nearly the same, so early layers need not compare all with all; what is far
apart matters late. One block therefore has two kinds of relation aggregator. In the first two stages the affinity
of two tokens is a learned number that depends on their offset only, within a tube of 5 x 5 x 5: that is a depthwise
convolution. In the last two it is self-attention over all T x H x W tokens jointly.

Maps are (B, C, *size) as in the official code, *size being (T, H, W) or (H, W), but in channels-last memory:
depthwise convolutions run several times faster that way on a CPU, and turning a map into tokens costs nothing.

Parameter names are those of the official checkpoints (Sense-X/UniFormer,
video_classification/slowfast/models/uniformer.py and image_classification/models/uniformer.py).
"""
from collections.abc import Mapping
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vt_course.models.checks import check_input, check_settings, per_axis
from vt_course.models.fast import CHANNELS_LAST, depthwise
from vt_course.models.layers import DropPath, Mlp, Sides, Size, drop_path_schedule, init_weights, rescale_for_narrow
from vt_course.models.official import check_state, inflate_patch, unwrap
from vt_course.models.swin import pad, window_partition, window_reverse

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def check_batch_norm(module: nn.Module, x: Tensor) -> None:
    """Raise ValueError where a BatchNorm in training would see one value a channel: its variance is not defined.

    A frozen BatchNorm is in eval mode inside a module that trains: it computes no variance.
    """
    one_value = module.training and x.shape[0] * prod(x.shape[2:]) == 1
    if one_value and any(m.training for m in module.modules() if isinstance(m, tuple(BATCH_NORM.values()))):
        raise ValueError(f"BatchNorm cannot be trained on one clip whose map is {' x '.join(map(str, x.shape[2:]))}: it needs two values a "
                         "channel or more; give two clips or more at a time, more frames or larger ones.")


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, *size) -> (B, N, C).

    Channels move first, then places are counted. In the other order, `x.flatten(2).transpose(1, 2)`, the gradient of one
    clip comes back with a stride of C along the batch. PyTorch 2.15 on a CPU then takes its memory for
    channels-first, and the backward pass of BatchNorm is wrong. Blocks go back to maps in the same way.
    """
    return x.movedim(1, -1).flatten(1, -2)


# ---------------------------------------------------------------- embeddings

class PatchEmbed(nn.Module):
    """A convolution that shrinks the map, then LayerNorm: (B, C, *size) -> (B, D, *smaller).

    Video: the first one has a kernel of 3 x 4 x 4 at stride 2 x 4 x 4 (padded in time only), the others 1 x 2 x 2
    (section 3.4). Images: 4 x 4 and 2 x 2. Rows and columns that fill no patch are left out, as in the official code.
    """

    def __init__(self, dims: int, in_channels: int, dim: int, patch: int):
        super().__init__()
        t = {2: ((), (), ()), 3: ((1,), (1,), (0,))}[dims]            # along time: kernel, stride, padding
        if dims == 3 and patch == 4:
            t = (3,), (2,), (1,)
        self.proj = CONV[dims](in_channels, dim, (*t[0], patch, patch), (*t[1], patch, patch), (*t[2], 0, 0))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).movedim(1, -1)).movedim(-1, 1)  # (B, D, *smaller)


class ConvEmbed(nn.Module):
    """Overlapping 3 x 3 convolutions of stride 2 with BatchNorm, twice for the first embedding.

    The patch embedding of the image model UniFormer-S† (2201.04676, appendix E.3):
    (B, C, H, W) -> (B, D, ceil(H/2), ceil(W/2)), or ceil(H/4), ceil(W/4) for the first.
    """

    def __init__(self, in_channels: int, dim: int, patch: int):
        super().__init__()
        widths = [in_channels, dim // 2, dim] if patch == 4 else [in_channels, dim]
        layers = []
        for before, after in zip(widths, widths[1:]):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.GELU()]
        self.patch, self.proj = patch, nn.Sequential(*layers[:-1])    # no GELU at the end

    def forward(self, x: Tensor) -> Tensor:
        check_batch_norm(self, x[:, :, ::self.patch, ::self.patch])   # of the size that comes out
        return self.proj(x)


class Depthwise(nn.Module):
    """One filter of odd sides `size` for each channel, zero-padded: (B, C, *size) -> (B, C, *size).

    That is the convolution it takes its weights from, with a faster backward pass (`fast.depthwise`).
    """

    def __init__(self, dims: int, dim: int, size: Sides):
        super().__init__()
        conv = CONV[dims](dim, dim, size, groups=dim)
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return depthwise(x, self.weight, self.bias, (1,) * (x.ndim - 2))


# ---------------------------------------------------------------- blocks

class RelationAggregator(nn.Module):
    """Multi-head relation aggregator with global affinity (equations 4, 5, 7).

    A = softmax(q k^T / sqrt(d)), then A V U.

    Shape: (B, N, C) -> (B, N, C). The local one (equation 6) is inside `LocalBlock`.
    """

    def __init__(self, dim: int, head_dim: int):
        super().__init__()
        if dim % head_dim:
            raise ValueError(f"{dim} channels are not divisible by head_dim {head_dim}")
        self.num_heads = dim // head_dim
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        h = self.num_heads
        q, k, v = self.qkv(x).view(B, N, 3, h, C // h).permute(2, 0, 3, 1, 4)      # 3 x (B, h, N, d)
        out = F.scaled_dot_product_attention(q, k, v)                 # (B, h, N, d)
        return self.proj(out.transpose(1, 2).reshape(B, N, C))        # (B, N, C)


class ConvMlp(nn.Module):
    """The FFN on a map: 1 x 1 convolutions, (B, C, *size) -> (B, C, *size)."""

    def __init__(self, dims: int, dim: int, ratio: float):
        super().__init__()
        self.fc1 = CONV[dims](dim, int(dim * ratio), 1)
        self.act = nn.GELU()
        self.fc2 = CONV[dims](int(dim * ratio), dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """What every UniFormer block shares (equations 1 to 3): dynamic position embedding and scaled, droppable residuals.

    The position embedding is no table but a depthwise convolution of side 3 (equation 8), so it serves any size.
    Its zero padding tells the tokens near a border where they are. Blocks map (B, C, *size) -> (B, C, *size).
    """

    def __init__(self, dims: int, dim: int, dpe: bool, gamma_shape: Size | None, drop_path: float):
        super().__init__()
        self.pos_embed = Depthwise(dims, dim, 3) if dpe else None
        self.drop_path = DropPath(drop_path)
        self.gamma_1 = self.gamma_2 = None
        if gamma_shape:                                               # LayerScale, which starts near nothing
            self.gamma_1 = nn.Parameter(torch.full(gamma_shape, 1e-6))
            self.gamma_2 = nn.Parameter(torch.full(gamma_shape, 1e-6))

    def embed_position(self, x: Tensor) -> Tensor:
        return x if self.pos_embed is None else x + self.pos_embed(x)

    def add(self, x: Tensor, branch: Tensor, gamma: Tensor | None) -> Tensor:
        return x + self.drop_path(branch if gamma is None else gamma * branch)


class LocalBlock(Block):
    """Local affinity: A(i, j) is a learned number that depends on the offset of j from i only, 0 outside a tube
    (equation 6).

    Every channel is a head. V(X) is then a 1 x 1 convolution, A V(X) a depthwise convolution with filters of the
    tube's size, and (A V(X)) U a 1 x 1 convolution. BatchNorm takes the place of LayerNorm.
    Without `ffn` it becomes the MobileNet block of the ablation (table 4): no FFN, and the 1 x 1 convolutions widen
    three times. The paper does not say where that block's activations sit. GELU after the first two is our choice.
    """

    def __init__(self, dims: int, dim: int, mlp_ratio: float, tube: Size, ffn: bool, dpe: bool, layer_scale: bool,
                 drop_path: float):
        super().__init__(dims, dim, dpe, (1, dim, *[1] * dims) if layer_scale else None, drop_path)
        wide = dim if ffn else 3 * dim
        self.norm1 = BATCH_NORM[dims](dim)
        self.conv1 = CONV[dims](dim, wide, 1)                         # V
        self.attn = Depthwise(dims, wide, tube)                       # A
        self.conv2 = CONV[dims](wide, dim, 1)                         # U
        self.act = nn.Identity() if ffn else nn.GELU()
        self.norm2 = BATCH_NORM[dims](dim) if ffn else None
        self.mlp = ConvMlp(dims, dim, mlp_ratio) if ffn else None

    def relate(self, x: Tensor) -> Tensor:
        """A V(X) U, what each token learns from its tube (equations 4 and 5)."""
        V = self.act(self.conv1(x))                                   # (B, C or 3C, *size)
        AV = self.act(self.attn(V))                                   # (B, C or 3C, *size)
        return self.conv2(AV)                                         # (B, C, *size)

    def forward(self, x: Tensor) -> Tensor:
        check_batch_norm(self, x)
        x = self.embed_position(x)                                    # equation 1
        x = self.add(x, self.relate(self.norm1(x)), self.gamma_1)     # equation 2
        return x if self.mlp is None else self.add(x, self.mlp(self.norm2(x)), self.gamma_2)     # equation 3


class GlobalBlock(Block):
    """Self-attention among all tokens of the clip or image.

    With `window`, only among the tokens of one window (2201.09450, adaptation to dense prediction). As in the official
    code, maps are then padded at their end to whole windows, after the norm, and padded tokens are not masked.
    """

    def __init__(self, dims: int, dim: int, mlp_ratio: float, head_dim: int, window: Size | None, dpe: bool,
                 layer_scale: bool, drop_path: float):
        super().__init__(dims, dim, dpe, (dim,) if layer_scale else None, drop_path)
        self.window = window
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = RelationAggregator(dim, head_dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_ratio)

    def attend_in_windows(self, x: Tensor, size: Size) -> Tensor:
        H, W = size
        x = pad(x.unflatten(1, size), self.window)                    # (B, H+, W+, C)
        windows = self.attn(window_partition(x, self.window))         # (B·nW, N, C)
        x = window_reverse(windows, self.window, x.shape[1:-1])       # (B, H+, W+, C)
        return x[:, :H, :W].flatten(1, 2)                             # (B, H·W, C)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed_position(x)                                    # equation 1
        size = x.shape[2:]
        x = to_tokens(x)                                              # (B, N, C): a view, the memory is channels-last
        y = self.norm1(x)
        x = self.add(x, self.attend_in_windows(y, size) if self.window else self.attn(y), self.gamma_1)      # equation 2
        x = self.add(x, self.mlp(self.norm2(x)), self.gamma_2)        # equation 3
        return x.unflatten(1, size).movedim(-1, 1)                    # (B, C, *size)


class DividedBlock(GlobalBlock):
    """The ablation of table 4: attention over time at each place, then over space in each frame (not jointly).

    As in the official code (`SplitSABlock`), the residual of spatial attention is the map from *before* temporal
    attention: what time contributes passes through spatial attention only.
    """

    def __init__(self, dims: int, dim: int, mlp_ratio: float, head_dim: int, window: Size | None, dpe: bool,
                 layer_scale: bool, drop_path: float):
        super().__init__(dims, dim, mlp_ratio, head_dim, window, dpe, layer_scale, drop_path)
        self.t_norm = nn.LayerNorm(dim, eps=1e-6)
        self.t_attn = RelationAggregator(dim, head_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed_position(x)
        B, C, T, H, W = x.shape
        x = x.permute(0, 2, 3, 4, 1).flatten(2, 3)                    # (B, T, H·W, C)
        t = x.transpose(1, 2).flatten(0, 1)                           # (B·H·W, T, C)
        t = t + self.drop_path(self.t_attn(self.t_norm(t)))
        s = t.unflatten(0, (B, H * W)).transpose(1, 2).flatten(0, 1)  # (B·T, H·W, C)
        x = self.add(x.flatten(0, 1), self.attn(self.norm1(s)), self.gamma_1)      # (B·T, H·W, C)
        x = x.reshape(B, T * H * W, C)
        x = self.add(x, self.mlp(self.norm2(x)), self.gamma_2)
        return x.unflatten(1, (T, H, W)).movedim(-1, 1)               # (B, C, T, H, W)


# ---------------------------------------------------------------- the model

class UniFormer(nn.Module):
    """UniFormer. Input (B, 3, T, H, W), or (B, 3, H, W) with `dims=2`; output (B, num_classes).

    - `kinds` has one letter a stage: L local, G global; for images also W, windows, and H, three window blocks and one
      global block in turn;
    - `divided` splits global attention into time and space (video);
    - `dpe`, `local_ffn` and `tube` are varied in the ablations of table 4;
    - `tube` and `window` are one number, or one for each axis;
    - `conv_stem` is the overlapping patch embedding of S† (images);
    - `layer_scale` names the kinds of blocks that have LayerScale;
    - `aux_head` is the second classifier of models trained with token labelling. The scores are then those of `head`
      plus half the largest that `aux_head` gives at any place.

    Any T >= 1, and H, W >= 32 (>= 1 with `conv_stem`). Raises ValueError for other inputs and for settings that
    do not go together.
    """

    def __init__(self, dims: int = 3, in_channels: int = 3, num_classes: int = 400, depths: Size = (3, 4, 8, 3),
                 embed_dims: Size = (64, 128, 320, 512), head_dim: int = 64, mlp_ratio: float = 4.0, kinds: str = "LLGG",
                 tube: Sides = 5, window: Sides = 14, divided: bool = False, dpe: bool = True, local_ffn: bool = True,
                 conv_stem: bool = False, layer_scale: str = "", aux_head: bool = False, drop_path: float = 0.0,
                 narrow_init: bool = False):
        super().__init__()
        check_settings(UniFormer, locals())
        if dims not in (2, 3):
            raise ValueError(f"dims is {dims}; 2 builds the image model, 3 the video model")
        if not len(depths) == len(embed_dims) == len(kinds) == 4:
            raise ValueError(f"depths {tuple(depths)}, embed_dims {tuple(embed_dims)}, kinds {kinds!r}: each must have 4 stages")
        if not set(kinds) <= set("LGWH" if dims == 2 else "LG"):
            raise ValueError(f"kinds {kinds!r} has an unknown letter; a stage is L or G, in image models also W or H")
        if not set(layer_scale) <= set("LG"):
            raise ValueError(f"layer_scale {layer_scale!r} has an unknown letter; the kinds of blocks are L and G")
        sides, window = per_axis("tube", tube, "HW" if dims == 2 else "THW"), per_axis("window", window, "HW")
        if any(n % 2 == 0 for n in sides) or max(sides) < 3:
            raise ValueError(f"tube {tube} must be odd and at least 3")
        if dims == 3 and conv_stem or dims == 2 and divided:
            raise ValueError("conv_stem needs dims=2, divided needs dims=3")
        self.dims, self.in_channels, self.conv_stem = dims, in_channels, conv_stem
        self.layout = "B C T H W" if dims == 3 else "B C H W"
        rates = drop_path_schedule(drop_path, depths)
        widths = [in_channels, *embed_dims]
        for i, (dim, kind) in enumerate(zip(embed_dims, kinds)):
            patch = 2 if i else 4
            embed = ConvEmbed(widths[i], dim, patch) if conv_stem else PatchEmbed(dims, widths[i], dim, patch)
            blocks = nn.ModuleList()
            for j, rate in enumerate(rates[i]):
                if kind == "L":
                    block = LocalBlock(dims, dim, mlp_ratio, sides, local_ffn, dpe, "L" in layer_scale, rate)
                else:
                    windowed = kind == "W" or kind == "H" and j % 4 != 3
                    block = (DividedBlock if divided else GlobalBlock)(
                        dims, dim, mlp_ratio, head_dim, window if windowed else None, dpe, "G" in layer_scale, rate)
                blocks.append(block)
            self.add_module(f"patch_embed{i + 1}", embed)
            self.add_module(f"blocks{i + 1}", blocks)
        self.norm = BATCH_NORM[dims](embed_dims[-1])
        self.head = nn.Linear(embed_dims[-1], num_classes)
        self.aux_head = nn.Linear(embed_dims[-1], num_classes) if aux_head else None
        self.apply(init_weights)
        if narrow_init:
            rescale_for_narrow(self)
        for module in self.modules():                                 # temporal attention starts at nothing (official)
            if isinstance(module, DividedBlock):
                nn.init.zeros_(module.t_attn.qkv.weight)
                nn.init.ones_(module.t_attn.proj.weight)              # not 0 as well, or no gradient would ever flow

    def features(self, x: Tensor) -> list[Tensor]:
        """The map at the end of each stage, channels first: [(B, C_i, *size_i), ...].

        Without a norm; the official detection and segmentation backbones put a LayerNorm of their own on each.
        """
        check_input(x, self.layout, self.in_channels)
        if min(x.shape[-2:]) < 32 and not self.conv_stem:
            raise ValueError(f"input of shape {tuple(x.shape)} is too small: H and W shrink 32-fold, so both must be >= 32")
        x = x.contiguous(memory_format=CHANNELS_LAST[self.dims])
        maps = []
        for i in range(1, 5):
            x = getattr(self, f"patch_embed{i}")(x)
            for block in getattr(self, f"blocks{i}"):
                x = block(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Class scores before softmax, (B, K)."""
        x = self.features(x)[-1]                                      # (B, C, *size)
        check_batch_norm(self.norm, x)
        x = to_tokens(self.norm(x))                                   # (B, N, C)
        scores = self.head(x.mean(1))                                 # (B, K)
        return scores if self.aux_head is None else scores + 0.5 * self.aux_head(x).amax(1)

    def resize_positions(self, state: Mapping[str, Tensor], source: Size | None = None) -> dict[str, Tensor]:
        """`state` as it is: the position embedding is a convolution, which serves every size."""
        return dict(state)

    def inflate(self, image_state: Mapping, mode: str = "average") -> dict[str, Tensor]:
        """Initialise the video model from an image checkpoint (section 4.1). Returns a complete state dict.

        Every convolution gains a time axis of the length t that the video model has there. "average" (the official
        rule): repeat over t and divide by t, so that a still clip gives what the image gave, except near its ends,
        where zero padding takes the place of frames. "centre": the image kernel at step t // 2 (the middle, as every
        published t is odd), zeros elsewhere. BatchNorm statistics are copied; the head is kept when the number of
        classes agrees, else it is the model's own. Raises ValueError that lists what does not fit, and for an unknown
        mode.
        """
        state, want = unwrap(image_state), self.state_dict()
        for key, value in state.items():
            if key in want and value.ndim == 4 and want[key].ndim == 5:
                state[key] = inflate_patch(value, want[key].shape[2], mode)
        keep = [k for k in want if k.endswith("num_batches_tracked")]             # counted anew
        if "head.weight" in state and len(state["head.weight"]) != len(want["head.weight"]):
            keep += ["head.weight", "head.bias"]
        state |= {k: want[k] for k in keep}
        check_state(self, state)
        return state
