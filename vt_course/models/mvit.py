"""Multiscale Vision Transformers: MViT (arXiv 2104.11227) and MViTv2 (arXiv 2112.01526), for video and images.

A network starts with many tokens of few channels and ends with few tokens of many. What does it is attention
that pools: queries, keys and values are shrunk by a strided pooling over (T, H, W) before they meet
(section 3.1). Pooled keys and values make attention cheap; pooled queries make the output smaller, which
starts a new stage (section 3.2). The class token, if there is one, is never pooled.

MViTv2 changes four things in the same blocks: relative positions, added to the scores one axis at a time,
replace the absolute ones; pooled queries are added to the output of attention; queries pass a pooling in
every block; channels double inside the attention of the first block of a stage, not in the MLP before it.

Tokens are (B, N, C): the class token first, then the map in row-major (t, h, w) order. The same memory is a map
(B, T, H, W, C), and pooling reads it as one, so that no head is copied. An image is a clip of one frame.
Sizes are fixed when the model is built; `MViT.resize_positions` carries weights to another size.

Parameter names are those of the official checkpoints (facebookresearch/SlowFast, slowfast/models/
video_model_builder.py and attention.py, with fused qkv).
"""
from collections import OrderedDict
from collections.abc import Mapping
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vt_course.models import fast
from vt_course.models.checks import check_input, check_settings, per_axis
from vt_course.models.layers import DropPath, Mlp, Sides, Size, drop_path_schedule, rescale_for_narrow
from vt_course.models.mvit_config import EPS, check_choices, check_patches, overlapping, plan_blocks

# ---------------------------------------------------------------- pooling

class ConvPool3d(nn.Conv3d):
    """Learned pooling: one filter for each channel of a head, shared by all heads (MViT, table 15).

    Shape: (B, h·d, T, H, W) -> (B, h·d, T', H', W').
    """

    def __init__(self, head_dim: int, kernel: Size, stride: Size, padding: Size):
        super().__init__(head_dim, head_dim, kernel, stride, padding, groups=head_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.repeat(x.shape[1] // self.groups, 1, 1, 1, 1)         # (d, 1, k, k, k) -> (h·d, 1, k, k, k)
        return fast.depthwise(x, weight, None, self.stride)


def pooling(mode: str, kernel: Size, stride: Size, head_dim: int) -> nn.Module | None:
    """The pooling of `mode`, padded by kernel // 2; None where neither kernel nor stride does anything."""
    padding = tuple(k // 2 for k in kernel)
    if prod(kernel) * prod(stride) == 1:
        return None
    if mode == "conv":
        return ConvPool3d(head_dim, kernel, stride, padding)
    return {"max": nn.MaxPool3d, "avg": nn.AvgPool3d}[mode](kernel, stride, padding)


def pooled_size(size: Size, pool: nn.Module | None) -> Size:
    """The size of the map after `pool` (MViT, section 3.1)."""
    if pool is None:
        return size
    return tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, pool.kernel_size, pool.stride, pool.padding))


def pool_tokens(x: Tensor, pool: nn.Module | None, size: Size, cls: int) -> Tensor:
    """Pool the tokens of a map of `size`; the first `cls` tokens pass by. (B, cls + N, C) -> (B, cls + N', C)."""
    if pool is None:
        return x
    B, _, C = x.shape
    y = x[:, cls:].view(B, *size, C).permute(0, 4, 1, 2, 3)           # (B, C, T, H, W), channels last in memory
    y = pool(y).permute(0, 2, 3, 4, 1).reshape(B, -1, C)              # (B, N', C)
    return torch.cat([x[:, :cls], y], 1) if cls else y


# ---------------------------------------------------------------- attention and blocks

def relative_rows(table: Tensor, q: int, k: int) -> Tensor:
    """The entry of `table` for every pair of a query and a key on one axis: (L, d) -> (q, k, d).

    Both axes are measured in steps of the finer one, and offsets are shifted to start at 0 (MViTv2, section 4.1).
    A table made for another length is interpolated. This happens inside MViTv2-L at 312 pixels: the official code
    sizes its tables with floor division, but the maps have ceil sizes.
    """
    length = 2 * max(q, k) - 1
    if len(table) != length:
        table = F.interpolate(table.T[None], length, mode="linear")[0].T                  # (2·max - 1, d)
    steps = torch.arange(q)[:, None] * max(k / q, 1.0) - (torch.arange(k) - (k - 1)) * max(q / k, 1.0)
    return table[steps.long().to(table.device)]


class PoolingAttention(nn.Module):
    """Multi-head pooling attention (MViT, section 3.1; MViTv2, section 4.1).

    softmax(P(q) P(k)^T / sqrt(d) + E) P(v) [+ P(q)]. P pools over (T, H, W) and then normalises each head.
    E adds, for each axis in `rel_pos`, the dot product of the pooled query with a learned vector for the offset (MViTv2).
    The class token takes no part in E, and P(q) is not added to it. The learned vectors are made for maps of
    `table_size`, by default of `size`.

    Shape: (B, cls + N, dim) -> (B, cls + N', dim_out), with N = prod(size) and N' = prod(size_out).
    """

    def __init__(self, dim: int, dim_out: int, num_heads: int, size: Size, cls: int, mode: str,
                 kernel_q: Size, stride_q: Size, kernel_kv: Size, stride_kv: Size, rel_pos: str, residual: bool,
                 table_size: Size = ()):
        super().__init__()
        if dim_out % num_heads:
            raise ValueError(f"dim {dim_out} is not divisible by num_heads {num_heads}")
        d = dim_out // num_heads
        self.num_heads, self.cls, self.size = num_heads, cls, size
        self.rel_pos, self.residual = rel_pos, residual
        self.qkv = nn.Linear(dim, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)
        for name, kernel, stride in (("q", kernel_q, stride_q), ("k", kernel_kv, stride_kv), ("v", kernel_kv, stride_kv)):
            pool = pooling(mode, kernel, stride, d)
            setattr(self, f"pool_{name}", pool)
            setattr(self, f"norm_{name}", nn.LayerNorm(d, EPS) if pool is not None and mode == "conv" else None)
        self.size_out, self.size_kv = pooled_size(size, self.pool_q), pooled_size(size, self.pool_k)
        for axis, n, s_q, s_kv in zip("thw", table_size or size, stride_q, stride_kv):
            if axis in rel_pos:
                longest = n if axis == "t" else max(n // s_q, n // s_kv)                   # as in the official code
                table = nn.Parameter(torch.empty(2 * longest - 1, d))
                setattr(self, f"rel_pos_{axis}", nn.init.trunc_normal_(table, std=0.02))
        if rel_pos:
            self.register_buffer("places", fast.places_of_keys(rel_pos, self.size_kv, cls), persistent=False)
        if residual:                                                  # 0 for the class token, 1 for the map
            on_map = torch.arange(cls + prod(self.size_out)) >= cls
            self.register_buffer("on_map", on_map.float()[:, None], persistent=False)

    def pooled(self, x: Tensor, name: str) -> Tensor:
        """Pool the projected tokens: (B, cls + N, dim_out) -> (B, cls + N', h, d)."""
        x = pool_tokens(x, getattr(self, f"pool_{name}"), self.size, self.cls)
        x = x.view(*x.shape[:2], self.num_heads, -1)                  # (B, cls + N', h, d)
        norm = getattr(self, f"norm_{name}")
        return x if norm is None else norm(x)                         # normalises the class token as well

    def relative_scores(self, q: Tensor) -> dict[str, Tensor]:
        """P(q) . R for every place on each axis of the keys: (B, h, cls + N', d) -> {axis: (B, h, T, H, W, places)}."""
        q = q[:, :, self.cls:].unflatten(2, self.size_out)            # (B, h, T, H, W, d)
        sizes = dict(zip("thw", zip(self.size_out, self.size_kv)))
        return {a: torch.einsum(f"bnthwd,{a}kd->bnthwk", q, relative_rows(getattr(self, f"rel_pos_{a}"), *sizes[a]))
                for a in self.rel_pos}

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = [self.pooled(part, name).transpose(1, 2)            # P(q), P(k), P(v): 3 x (B, h, cls + N', d)
                   for name, part in zip("qkv", self.qkv(x).chunk(3, -1))]
        if self.rel_pos:                                              # softmax(P(q) P(k)^T / sqrt(d) + E) P(v)
            out = fast.attention_with_positions(q, k, v, self.relative_scores(q), self.size_kv, self.places)
        else:                                                         # softmax(P(q) P(k)^T / sqrt(d)) P(v)
            out = F.scaled_dot_product_attention(q, k, v)
        if self.residual:                                             # + P(q), but not to the class token
            out = torch.addcmul(out, q, self.on_map)
        return self.proj(out.transpose(1, 2).flatten(2))              # (B, cls + N', dim_out)


class MultiscaleBlock(nn.Module):
    """Pooling attention, then an MLP, each behind a LayerNorm and a residual.

    Where attention pools its queries, the residual is max-pooled (MViT, section 3.2). Where channels grow, the
    residual is a projection of the normalised input (table A.1): in MViT around the MLP, whose last layer
    grows; in MViTv2 around attention (`dim_mul_in_att`).

    Shape: (B, cls + N, dim) -> (B, cls + N', dim_out), with N = prod(size) and N' = prod(size_out).
    """

    def __init__(self, dim: int, dim_out: int, num_heads: int, size: Size, cls: int, mode: str, kernel_q: Size,
                 stride_q: Size, kernel_kv: Size, stride_kv: Size, rel_pos: str, residual: bool,
                 dim_mul_in_att: bool, mlp_ratio: float, drop_path: float, table_size: Size):
        super().__init__()
        att_dim = dim_out if dim_mul_in_att else dim
        self.size, self.cls = size, cls
        self.grows = None if dim == dim_out else "attn" if dim_mul_in_att else "mlp"
        self.norm1 = nn.LayerNorm(dim, EPS)
        self.attn = PoolingAttention(dim, att_dim, num_heads, size, cls, mode, kernel_q, stride_q, kernel_kv,
                                     stride_kv, rel_pos, residual, table_size)
        self.size_out = self.attn.size_out
        self.norm2 = nn.LayerNorm(att_dim, EPS)
        self.mlp = Mlp(att_dim, mlp_ratio)
        if self.grows:
            self.proj = nn.Linear(dim, dim_out)
        if self.grows == "mlp":
            self.mlp.fc2 = nn.Linear(self.mlp.fc2.in_features, dim_out)
        self.pool_skip = pooling("max", overlapping(stride_q), stride_q, dim_out)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        skip = pool_tokens(self.proj(y) if self.grows == "attn" else x, self.pool_skip, self.size, self.cls)
        x = skip + self.drop_path(self.attn(y))                       # (B, cls + N', att_dim)
        y = self.norm2(x)
        skip = self.proj(y) if self.grows == "mlp" else x
        return skip + self.drop_path(self.mlp(y))                     # (B, cls + N', dim_out)


# ---------------------------------------------------------------- the model

class PatchEmbed(nn.Module):
    """Project overlapping cubes of the clip, or patches of the image, to D channels ("cube1", table 2).

    Shape: (B, C, T, H, W) or (B, C, H, W) -> (B, N, D), N tokens in row-major order.
    """

    def __init__(self, in_channels: int, dim: int, kernel: Size, stride: Size, padding: Size):
        super().__init__()
        self.proj = (nn.Conv2d if len(kernel) == 2 else nn.Conv3d)(in_channels, dim, kernel, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)                # (B, N, D)


class MViT(nn.Module):
    """MViT and MViTv2. The defaults are MViT-B 16x4 (MViT, table 3b).

    Input (B, 3, T, H, W) with T = `frames` and (H, W) = `img_size`, or (B, 3, H, W) if the patches have two
    axes; output (B, num_classes). `img_size`, patches, strides and kernels are one number for all axes, or one for each:
    T, H and W, in image models H and W. What single blocks do is given by block number, as in the official
    configurations (see `mvit_config`):

    - `dim_mul`, `head_mul`: {block: factor} by which channels and heads grow from that block on;
    - `q_stride`: {block: (t, h, w)}, blocks whose queries are pooled;
    - `kv_stride`: (t, h, w), the stride in block 0. A block that pools its queries divides it by their stride: all blocks then
      see equally many keys, only the first of a stage sees more, because its map is not yet smaller ("adaptive", MViT,
      table 14). Or {block: (t, h, w)}, fixed strides; or None, keys and values are not pooled;
    - `kernel`: of all these poolings; None is stride + 1, and 1 where the stride is 1;
    - `pool_mode`: "conv", "max" or "avg" (MViT, table 15); the latter two are not followed by a LayerNorm;
    - `pos_embed`: "separate" in space and time, "joint", "space" or "none" (MViT, table 11);
    - `rel_pos`: the axes with MViTv2's relative positions, "thw" for video, "hw" for images.

    Raises ValueError for settings that do not fit together, and for an input of any other size.
    """

    def __init__(self, frames: int = 16, img_size: Sides = 224, in_channels: int = 3, num_classes: int = 400,
                 patch_kernel: Sides = (3, 7, 7), patch_stride: Sides = (2, 4, 4), patch_padding: Sides = (1, 3, 3),
                 embed_dim: int = 96, num_heads: int = 1, depth: int = 16, mlp_ratio: float = 4.0,
                 dim_mul: dict[int, float] = {1: 2, 3: 2, 14: 2}, head_mul: dict[int, float] = {1: 2, 3: 2, 14: 2},
                 q_stride: dict[int, Sides] = {1: (1, 2, 2), 3: (1, 2, 2), 14: (1, 2, 2)},
                 kv_stride: Sides | dict[int, Sides] | None = (1, 8, 8), kernel: Sides | None = (3, 3, 3),
                 pool_mode: str = "conv", class_token: bool = True, pos_embed: str = "separate", rel_pos: str = "",
                 residual_pooling: bool = False, dim_mul_in_att: bool = False, drop_path: float = 0.0,
                 head_dropout: float = 0.5, narrow_init: bool = False):
        super().__init__()
        check_settings(MViT, locals())
        check_choices(pool_mode, pos_embed, rel_pos)
        axes, patch_kernel, patch_stride, patch_padding = check_patches(patch_kernel, patch_stride, patch_padding)
        self.in_channels, self.image = in_channels, axes == "HW"
        self.layout = "B C H W" if self.image else "B C T H W"
        blocks = plan_blocks(depth, self.image, embed_dim, num_heads, dim_mul, head_mul, q_stride, kv_stride, kernel, dim_mul_in_att)
        img_size = per_axis("img_size", img_size, "HW")
        self.input_size = img_size if self.image else (frames, *img_size)
        if any(n % s for n, s in zip(self.input_size, patch_stride)):
            raise ValueError(f"an input of {self.input_size} is not a multiple of patch_stride {tuple(patch_stride)}")
        size = tuple(n // s for n, s in zip(self.input_size, patch_stride))
        self.size = size = (1, *size) if self.image else size         # (T, H, W) of the tokens
        self.patch_embed = PatchEmbed(in_channels, embed_dim, patch_kernel, patch_stride, patch_padding)

        def position(*shape):
            return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, *shape, embed_dim), std=0.02))

        cls = int(class_token)
        if cls:
            self.cls_token = position(1)
        if pos_embed == "joint":
            self.pos_embed = position(cls + prod(size))
        if pos_embed in ("separate", "space"):
            self.pos_embed_spatial = position(size[1] * size[2])
            if pos_embed == "separate":
                self.pos_embed_temporal = position(size[0])
            if cls:
                self.pos_embed_class = position(1)

        self.blocks = nn.ModuleList()
        table_size = size                # the official code divides it with floor from stage to stage; the maps have ceil sizes
        for block, rate in zip(blocks, drop_path_schedule(drop_path, (depth,))[0]):
            self.blocks.append(MultiscaleBlock(
                **block, size=size, cls=cls, mode=pool_mode, rel_pos=rel_pos, residual=residual_pooling,
                dim_mul_in_att=dim_mul_in_att, mlp_ratio=mlp_ratio, drop_path=rate, table_size=table_size))
            size = self.blocks[-1].size_out
            table_size = tuple(n // s for n, s in zip(table_size, block["stride_q"]))
        dim = blocks[-1]["dim_out"]
        self.norm = nn.LayerNorm(dim, EPS)
        self.head = nn.Sequential(OrderedDict(dropout=nn.Dropout(head_dropout), projection=nn.Linear(dim, num_classes)))
        self.apply(init_mvit_weights)
        if narrow_init:
            rescale_for_narrow(self)

    def embed(self, x: Tensor) -> Tensor:
        """The tokens that enter block 0: class token in front, absolute positions added. (B, cls + N, D)."""
        x = self.patch_embed(x)                                       # (B, N, D)
        T, H, W = self.size
        if hasattr(self, "pos_embed_spatial"):
            pos = self.pos_embed_spatial.repeat(1, T, 1)              # (1, T·H·W, D)
            if hasattr(self, "pos_embed_temporal"):
                pos = pos + self.pos_embed_temporal.repeat_interleave(H * W, 1)
            x = x + pos
        if hasattr(self, "cls_token"):
            token = self.cls_token
            if hasattr(self, "pos_embed_class"):
                token = token + self.pos_embed_class
            x = torch.cat([token.expand(x.shape[0], -1, -1), x], 1)  # (B, 1 + N, D)
        return x + self.pos_embed if hasattr(self, "pos_embed") else x

    def stages(self, x: Tensor) -> list[Tensor]:
        """The tokens at the end of each stage, before the next one shrinks the map: [(B, cls + N_i, C_i), ...]."""
        check_input(x, self.layout, self.in_channels)
        if tuple(x.shape[2:]) != self.input_size:
            H, W = x.shape[-2:]
            size = f"img_size={H if H == W else (H, W)}"
            raise ValueError(f"input of size {tuple(x.shape[2:])}, but this model was built for {self.input_size}: build it "
                             f"with {size if self.image else f'frames={x.shape[2]}, {size}'} and carry the weights over with "
                             "its method resize_positions.")
        x = self.embed(x)
        maps = []
        for block, following in zip(self.blocks, [*self.blocks[1:], None]):
            x = block(x)
            if following is None or following.pool_skip is not None:
                maps.append(x)
        return maps

    def features(self, x: Tensor) -> list[Tensor]:
        """Stage maps for dense prediction, without the class token: [(B, C_i, T, H_i, W_i), ...], no T for images.

        Each is the output of a stage's last block, with the channels that enter the next stage; no norm is applied.
        """
        sizes = [b.size for b in self.blocks if b.pool_skip is not None] + [self.blocks[-1].size_out]
        maps = [m[:, -prod(s):].transpose(1, 2).unflatten(2, s) for m, s in zip(self.stages(x), sizes)]
        return [m.squeeze(2) for m in maps] if self.image else maps

    def forward(self, x: Tensor) -> Tensor:
        """Class scores before softmax, (B, K)."""
        x = self.norm(self.stages(x)[-1])                             # (B, cls + N, C)
        return self.head(x[:, 0] if hasattr(self, "cls_token") else x.mean(1))

    def resize_positions(self, state: Mapping[str, Tensor], source: Size | None = None) -> dict[str, Tensor]:
        """Interpolate the positions in `state`, made for another number of frames or image size, to those of this model.

        Absolute positions are interpolated linearly along each axis. MViT-B 64x3 starts from 32x3 by this rule, and the
        official code fits another input by it. Tables of relative positions are interpolated along their length.
        `source` is the (T, H, W) of the tokens that the old positions were made for. Joint positions need it; positions of
        a map are without it taken to be of a square one. All other entries are returned as they are. Raises ValueError
        if the old positions are neither a square map nor `source`.
        """
        (T, H, W), wanted, state = self.size, self.state_dict(), dict(state)
        for key, old in state.items():
            name = key.rsplit(".", 1)[-1]
            if key not in wanted or not ("pos_embed" in name or "rel_pos" in name):
                continue
            if old.shape == wanted[key].shape and (source in (None, self.size) or name not in ("pos_embed", "pos_embed_spatial")):
                continue
            if "rel_pos" in name:
                state[key] = resize(old, (len(old),), (len(wanted[key]),))
            elif name == "pos_embed_temporal":
                state[key] = resize(old[0], (old.shape[1],), (T,))[None]
            elif name == "pos_embed_spatial":
                side = round(old.shape[1] ** 0.5)
                state[key] = resize(old[0], source[-2:] if source else (side, side), (H, W))[None]
            elif name == "pos_embed":
                if source is None:
                    raise ValueError(f"pos_embed of {old.shape[1]} joint positions does not fit {wanted[key].shape[1]}; give "
                                     "source=(T, H, W), the tokens it was made for")
                cls = old.shape[1] - prod(source)
                state[key] = torch.cat([old[:, :cls], resize(old[0, cls:], source, (T, H, W))[None]], 1)
        return state


def init_mvit_weights(module: nn.Module) -> None:
    """The official initialisation: weights truncated normal with std 0.02, biases of Linear and LayerNorm 0.02."""
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, (nn.Linear, nn.LayerNorm)):
        nn.init.constant_(module.bias, 0.02)


# ---------------------------------------------------------------- other sizes

def resize(rows: Tensor, source: Size, target: Size) -> Tensor:
    """Interpolate a map given as rows, linearly in every axis: (prod(source), C) -> (prod(target), C)."""
    if len(rows) != prod(source):
        raise ValueError(f"{len(rows)} positions are not a map of {source}; give the size they were made for")
    mode = ("linear", "bilinear", "trilinear")[len(source) - 1]
    grid = rows.T.reshape(1, -1, *source)                             # (1, C, *source)
    return F.interpolate(grid, target, mode=mode).flatten(2)[0].T     # (prod(target), C)
