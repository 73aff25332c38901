"""TimeSformer (arXiv 2102.05095): a Vision Transformer (ViT) over the patches of all frames.

Attention between all N·F patches of a clip costs (N·F)² comparisons, so the paper tries five schemes
(section 3, table 1; here N = H·W patches a frame and T = F frames):

    space           every frame by itself, averaged at the end
    joint           all patches of the clip at once (equation 5)
    divided         over time at one location (equation 13), then over space in one frame (equation 6)
    local_global    in a T x H/2 x W/2 window, then over the clip with stride 2 in time, height and width
    axial           over time, then along the width, then along the height

The last two were never released. Their parameters in table 1, 121.4 M and 156.8 M, are those of one and two
more of what `divided` adds to each block of `joint` (a LayerNorm, an attention and a Linear), so that is how
they are built here, and for the rest they follow the released code of `divided`:
- every step but the last sees patches only and ends in a Linear that starts at zero;
- in the last step the class token joins each group of patches, and what it learns there is averaged.
That is assumed, and so is the shape of the patterns: "neighbouring" patches are those of the same quarter
of the frame, and "stride 2" counts from the querying patch, which makes eight interleaved groups.

Released code and paper differ once: in equation 13 a patch also attends to the class token over time, and
section 3 therefore counts N + F + 2 comparisons a patch; the released code, and this file, make N + F + 1.

Parameter names are those of the official checkpoints without their `model.` prefix
(facebookresearch/TimeSformer, timesformer/models/vit.py).
"""
import warnings
from collections.abc import Mapping
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vt_course.models.checks import check_input, check_settings, per_axis
from vt_course.models.layers import DropPath, Mlp, Sides, drop_path_schedule, init_weights, rescale_for_narrow
from vt_course.models.official import check_state

Size = tuple[int, int, int]
Pattern = tuple[str, str, str]


# ---------------------------------------------------------------- who attends to whom

# How a step divides H, W and T: "whole" keeps an axis together, "each" cuts it into single positions, "half"
# into a first and a second half, "stride" into even and odd positions. Patches attend inside their group.
PATTERNS: dict[str, Pattern] = {
    "temporal": ("each", "each", "whole"),
    "space": ("whole", "whole", "each"),
    "local": ("half", "half", "whole"),
    "global": ("stride", "stride", "stride"),
    "width": ("each", "whole", "each"),
    "height": ("whole", "each", "each"),
}

# The steps of a block in order. The last one is the image model's own attention and has no name in the
# checkpoint; the others put theirs in front: temporal_norm1, temporal_attn, temporal_fc.
SCHEMES: dict[str, tuple[str, ...]] = {
    "space": (),
    "joint": (),
    "divided": ("temporal", "space"),
    "local_global": ("local", "global"),
    "axial": ("temporal", "width", "height"),
}


def factors(size: Size, pattern: Pattern) -> tuple[list[int], list[int], list[int]]:
    """Each axis as two: which group, and which place in it. Returns the six lengths in the order of the
    tokens, and where among them stand the three group axes and the three place axes.
    """
    lengths, groups, places = [], [], []
    for n, how in zip(size, pattern):
        g = {"whole": 1, "each": n, "half": 2, "stride": 2}[how]
        interleaved = how == "stride"                                 # the group is the remainder, not the quotient
        groups.append(len(lengths) + interleaved)
        places.append(len(lengths) + 1 - interleaved)
        lengths += [n // g, g] if interleaved else [g, n // g]
    return lengths, groups, places


def group(x: Tensor, size: Size, pattern: Pattern) -> Tensor:
    """Sort patches into groups: (B, H·W·T, C) -> (B, G, N, C), G groups of N patches."""
    lengths, groups, places = factors(size, pattern)
    x = x.unflatten(1, lengths)                                       # (B, H1, H2, W1, W2, T1, T2, C)
    x = x.permute(0, *[1 + a for a in groups + places], 7)            # (B, gh, gw, gt, nh, nw, nt, C)
    return x.flatten(4, 6).flatten(1, 3)                              # (B, G, N, C)


def ungroup(x: Tensor, size: Size, pattern: Pattern) -> Tensor:
    """Undo `group`: (B, G, N, C) -> (B, H·W·T, C)."""
    lengths, groups, places = factors(size, pattern)
    order = groups + places
    x = x.unflatten(2, [lengths[a] for a in places]).unflatten(1, [lengths[a] for a in groups])
    x = x.permute(0, *[1 + order.index(a) for a in range(6)], 7)      # (B, H1, H2, W1, W2, T1, T2, C)
    return x.flatten(1, 6)                                            # (B, H·W·T, C)


# ---------------------------------------------------------------- attention and blocks

class PatchEmbed(nn.Module):
    """Cut every frame into patches of P x P (or Ph x Pw) pixels and project each (equation 1).

    (B, C, T, H, W) -> (B·T, H/P·W/P, D).

    As in the official code, pixels at the right and the bottom that do not fill a patch are left out.
    """

    def __init__(self, patch: Sides, in_channels: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2).flatten(0, 1)                           # (B·T, C, H, W)
        return self.proj(x).flatten(2).transpose(1, 2)                # (B·T, H/P·W/P, D)


class Attention(nn.Module):
    """Multi-head self-attention among N tokens (equations 2 to 10). Shape: (B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"embed_dim {dim} is not divisible by num_heads {num_heads}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).view(B, N, 3, self.num_heads, -1)           # (B, N, 3, h, d)
        q, k, v = (t.transpose(1, 2) for t in qkv.unbind(2))          # 3 x (B, h, N, d)
        x = F.scaled_dot_product_attention(q, k, v)                   # (B, h, N, d)
        return self.proj(x.transpose(1, 2).reshape(B, N, C))          # (B, N, C)


class Block(nn.Module):
    """The block of ViT, for `space` and `joint`: attention among all tokens, then an MLP.

    Shape: (B, 1 + H·W·T, C) -> the same, class token first, time varying fastest.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def attend(self, x: Tensor, size: Size) -> Tensor:
        return x + self.drop_path(self.attn(self.norm1(x)))

    def forward(self, x: Tensor, size: Size) -> Tensor:
        x = self.attend(x, size)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class DividedBlock(Block):
    """Attention in several steps, each in groups of its own, then one MLP (section 3).

    Shape as `Block`. Drop path before the MLP acts on whole groups (one location, one frame), as in the
    official code, which has the group axis in place of the batch axis there.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path: float, steps: tuple[str, ...]):
        super().__init__(dim, num_heads, mlp_ratio, drop_path)
        *self.first, self.last = steps
        for name in self.first:
            self.add_module(f"{name}_norm1", nn.LayerNorm(dim, eps=1e-6))
            self.add_module(f"{name}_attn", Attention(dim, num_heads))
            self.add_module(f"{name}_fc", nn.Linear(dim, dim))

    def attend(self, x: Tensor, size: Size) -> Tensor:
        cls, x = x.split((1, x.shape[1] - 1), 1)                      # (B, 1, C), (B, H·W·T, C)
        for name in self.first:
            norm, attn, fc = (self.get_submodule(f"{name}_{part}") for part in ("norm1", "attn", "fc"))
            y = group(x, size, PATTERNS[name])                        # (B, G, N, C)
            y = fc(self.drop_path(attn(norm(y.flatten(0, 1)))))       # (B·G, N, C)
            x = x + ungroup(y.unflatten(0, (x.shape[0], -1)), size, PATTERNS[name])
        y = group(x, size, PATTERNS[self.last])                       # (B, G, N, C)
        y = torch.cat((cls[:, None].expand(-1, y.shape[1], -1, -1), y), 2)         # (B, G, 1+N, C)
        y = self.drop_path(self.attn(self.norm1(y.flatten(0, 1))))    # (B·G, 1+N, C)
        to_cls, y = y.unflatten(0, (x.shape[0], -1)).split((1, y.shape[1] - 1), 2)     # (B, G, 1, C), (B, G, N, C)
        cls = cls + to_cls.mean(1)                                    # (B, 1, C)
        x = x + ungroup(y, size, PATTERNS[self.last])                 # (B, H·W·T, C)
        return torch.cat((cls, x), 1)                                 # (B, 1+H·W·T, C)


# ---------------------------------------------------------------- the model

class TimeSformer(nn.Module):
    """TimeSformer with one of the five `attention` schemes (table 1).

    Input (B, 3, T, H, W), output (B, num_classes). `img_size` in pixels and `num_frames` say for what the position
    embeddings are made; for other inputs these are resized while running, to the nearest neighbour as in the
    official code, and the first time a warning says so. `img_size` and `patch_size` are one number, or a pair for
    height and width. `positions` is "space-time", "space" or "none" (table 4); the class
    token keeps its own in "space". `space` never has a time embedding.

    Raises ValueError, with the shape got and the shape wanted, for frames smaller than a patch, and in
    `local_global` unless there is an even number of frames and of patches along H and W.
    """

    layout = "B C T H W"

    def __init__(self, img_size: Sides = 224, patch_size: Sides = 16, num_frames: int = 8, in_channels: int = 3,
                 num_classes: int = 400, embed_dim: int = 768, depth: int = 12, num_heads: int = 12,
                 mlp_ratio: float = 4.0, attention: str = "divided", positions: str = "space-time",
                 drop_path: float = 0.1, narrow_init: bool = False):
        super().__init__()
        check_settings(TimeSformer, locals())
        if attention not in SCHEMES:
            raise ValueError(f"unknown attention {attention!r}; choose one of {', '.join(SCHEMES)}")
        if positions not in ("space-time", "space", "none"):
            raise ValueError(f"unknown positions {positions!r}; choose 'space-time', 'space' or 'none'")
        patch = per_axis("patch_size", patch_size, "HW")
        self.grid = tuple(n // p for n, p in zip(per_axis("img_size", img_size, "HW"), patch))          # (H, W) in patches
        if not all(self.grid):
            raise ValueError(f"img_size {img_size} is smaller than patch_size {patch_size}; give at least one patch")
        self.in_channels, self.patch_size, self.attention, self.warned = in_channels, patch, attention, False
        self.patch_embed = PatchEmbed(patch, in_channels, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        has_space, has_time = positions != "none", positions == "space-time" and attention != "space"
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + prod(self.grid), embed_dim)) if has_space else None
        self.time_embed = nn.Parameter(torch.zeros(1, num_frames, embed_dim)) if has_time else None
        rates, = drop_path_schedule(drop_path, (depth,))
        steps = SCHEMES[attention]
        self.blocks = nn.ModuleList(
            DividedBlock(embed_dim, num_heads, mlp_ratio, rate, steps) if steps else
            Block(embed_dim, num_heads, mlp_ratio, rate) for rate in rates)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = nn.Linear(embed_dim, num_classes)

        nn.init.trunc_normal_(self.cls_token, std=0.02)
        if has_space:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)           # the time embedding stays zero
        self.apply(init_weights)
        if narrow_init:
            rescale_for_narrow(self)
            # Both zeros below suit a model that starts as an image model (`inflate`). From scratch they are a saddle:
            # at zero, no first step tells the order of frames, and the mini stayed below 40 % on `motion`.
            for table in (self.pos_embed, self.time_embed):
                if table is not None:
                    nn.init.normal_(table, std=0.5)                   # the tokens of a normalised clip have 0.58
            return
        for name, module in self.named_modules():
            if name.endswith("_fc"):                                  # so that a new step adds nothing at first
                nn.init.zeros_(module.weight)

    def embed(self, x: Tensor) -> tuple[Tensor, Size]:
        """(B, C, T, H, W) -> tokens (B, 1 + H·W·T, D), and their (H, W, T) in patches.

        For `space`, frames become samples: (B·T, 1 + H·W, D), and T is 1.
        """
        check_input(x, self.layout, self.in_channels)
        B, _, T, *pixels = x.shape
        H, W = (n // p for n, p in zip(pixels, self.patch_size))
        if not H or not W:
            raise ValueError(f"input is smaller than one {self.patch_size[0]} x {self.patch_size[1]} patch, "
                             f"shape {tuple(x.shape)}; resize the frames to at least that")
        if self.attention == "local_global" and (H % 2 or W % 2 or T % 2):
            raise ValueError(f"local_global attention halves all three axes but got {T} frames of {H} x {W} patches, "
                             f"shape {tuple(x.shape)}; give an even number of each")
        self.warn_if_stretched((H, W), T)
        x = self.patch_embed(x)                                       # (B·T, H·W, D)
        cls = self.cls_token                                          # (1, 1, D)
        if self.pos_embed is not None:
            place = resize_space(self.pos_embed, (H, W), self.grid)   # (1, 1+H·W, D)
            cls, x = cls + place[:, :1], x + place[:, 1:]
        if self.attention == "space":
            B, T = B * T, 1
        x = x.unflatten(0, (B, T)).transpose(1, 2)                    # (B, H·W, T, D)
        if self.time_embed is not None:
            x = x + resize_time(self.time_embed, T)[:, None]          # (1, 1, T, D)
        return torch.cat((cls.expand(B, -1, -1), x.flatten(1, 2)), 1), (H, W, T)

    def warn_if_stretched(self, grid: tuple[int, int], T: int) -> None:
        """Warn once where the embeddings are made for another input: patches that share one have no position of their own."""
        frames = T if self.time_embed is None else self.time_embed.shape[1]
        if self.warned or T == frames and (self.pos_embed is None or grid == self.grid) or torch.compiler.is_compiling():
            return
        self.warned = True
        (h, w), (H, W) = self.grid, grid
        warnings.warn(f"TimeSformer was built for {frames} frames of {h} x {w} patches and its input has {T} of {H} x {W}: position "
                      "embeddings are stretched to the nearest neighbour as in the official code, so that neighbours may "
                      "share one; build it with num_frames and img_size of the input to have one for each.", stacklevel=3)

    def features(self, x: Tensor) -> list[Tensor]:
        """Maps for dense prediction after each quarter of the blocks, [(B, D, T, H/P, W/P)] * 4.

        All have the same resolution, that of the patches; the class token is left out, no norm is applied.
        Quarters end at ceil(depth · i / 4).
        """
        B = x.shape[0]
        x, (H, W, T) = self.embed(x)
        maps = []
        for block in self.blocks:
            x = block(x, (H, W, T))
            m = x[:, 1:].unflatten(1, (H, W, T)).permute(0, 4, 3, 1, 2)            # (B, D, T, H, W)
            if self.attention == "space":
                m = m.unflatten(0, (B, -1)).squeeze(3).transpose(1, 2)             # from (B, T, D, 1, H, W)
            maps.append(m)
        return [maps[-(-len(maps) * i // 4) - 1] for i in range(1, 5)]

    def forward(self, x: Tensor) -> Tensor:
        """Class scores before softmax, (B, K)."""
        B = x.shape[0]
        x, size = self.embed(x)
        for block in self.blocks:
            x = block(x, size)
        if self.attention == "space":
            x = x.unflatten(0, (B, -1)).mean(1)                       # (B, 1+H·W, D): frames are averaged first
        return self.head(self.norm(x)[:, 0])                          # the class token

    def resize_positions(self, state: Mapping[str, Tensor], source: tuple[int, ...] | None = None) -> dict[str, Tensor]:
        """Fit the position embeddings of `state` to the grid and the number of frames the model was built for.

        The number of rows does not tell the old grid, which is taken to be square; of another, give its (H, W) in
        patches as `source`. The result is what running at that size would use. It differs from the official `load_pretrained`
        (timesformer/models/helpers.py), which resizes the flattened grid as one line of s·s places and so moves
        patches between columns; the official forward resizes in 2-D as we do. Raises ValueError for a grid that is
        neither square nor `source`.
        """
        state, want = dict(state), self.state_dict()
        if "pos_embed" in state and "pos_embed" in want:
            old, rows = state["pos_embed"], state["pos_embed"].shape[1]
            grid = source[-2:] if source else (round((rows - 1) ** 0.5),) * 2
            if rows == want["pos_embed"].shape[1] and not source:
                grid = self.grid
            if prod(grid) + 1 != rows:
                raise ValueError(f"pos_embed has {rows} places; only a square grid and one class token can be resized, or "
                                 "that of source=(H, W), in patches")
            state["pos_embed"] = old if grid == self.grid else stretch(old, grid, self.grid)
        if "time_embed" in state and "time_embed" in want:
            state["time_embed"] = resize_time(state["time_embed"], want["time_embed"].shape[1])
        return state

    def inflate(self, image_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Initialise the model from an image ViT (appendix A; timesformer/models/helpers.py). Returns a complete state dict.

        `image_state` has the names of this file, which are timm's. All attentions of a block start as the image model's,
        the Linear after each new one at zero and so does the time embedding; the head is the model's own. Position
        embeddings are resized to the model's grid. A `divided` or `space` model then sees a still clip exactly as the
        image model sees the frame. Raises ValueError that lists what is missing, unexpected or misshapen.
        """
        want = self.state_dict()
        state = {k: v for k, v in image_state.items() if not k.startswith(("head.", "pre_logits."))}
        for key in want:
            for name in PATTERNS:
                source = key.replace(f".{name}_norm1.", ".norm1.").replace(f".{name}_attn.", ".attn.")
                if source != key and source in state:
                    state[key] = state[source]
            if "_fc." in key or key == "time_embed":
                state[key] = torch.zeros_like(want[key])
            elif key.startswith("head."):
                state[key] = want[key]
        if "pos_embed" not in want:
            state.pop("pos_embed", None)
        if "pos_embed" in state:         # images are square, also where a video has as many patches in another shape
            side = round((state["pos_embed"].shape[1] - 1) ** 0.5)
            state = self.resize_positions(state, (side, side))
        check_state(self, state)
        return state


# ---------------------------------------------------------------- other sizes

def resize_space(pos: Tensor, grid: tuple[int, int], source: tuple[int, int] | None = None) -> Tensor:
    """The position embedding (1, 1 + h·w, D) of a grid `source` = (h, w), by default square, for another: (1, 1 + H·W, D).

    As in the official code, a grid of another shape with as many patches (2 x 8 for 4 x 4) takes the table as it is. It
    then reads the table in rows of the wrong length.
    """
    side = round((pos.shape[1] - 1) ** 0.5)
    return pos if prod(grid) + 1 == pos.shape[1] else stretch(pos, source or (side, side), grid)


def stretch(pos: Tensor, source: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Nearest neighbours along each axis, (1, 1 + h·w, D) -> (1, 1 + H·W, D); the class token's entry in front stays."""
    places = pos[:, 1:].unflatten(1, source).permute(0, 3, 1, 2)                   # (1, D, h, w)
    places = F.interpolate(places, grid, mode="nearest").flatten(2).transpose(1, 2)
    return torch.cat((pos[:, :1], places), 1)                         # (1, 1+H·W, D)


def resize_time(time: Tensor, T: int) -> Tensor:
    """Resize a time embedding (1, t, D) to T frames, nearest neighbour: (1, T, D)."""
    return time if time.shape[1] == T else F.interpolate(time.transpose(1, 2), T, mode="nearest").transpose(1, 2)
