"""Faults that can be put into the running models, family by family. `mutants.py` runs them.

A fault changes functions, attributes or settings while a `with` block lasts, never text. It names beforehand the claims
that must turn red.
"""

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from vt_course.models import fast, layers, mvit, mvit_config, official, swin, timesformer, uniformer, video_swin
from vt_course.models.zoo import ZOO

SWIN, VIDEO, MVIT, TS, UF = (("Swin", "Video Swin"), ("Video Swin",), ("MViT",), ("TimeSformer",), ("UniFormer",))


class Changes(ExitStack):
    """Attributes that are set inside a `with` block, and set back at its end."""

    def set(self, owner, name: str, value) -> None:
        self.callback(setattr, owner, name, vars(owner)[name])
        setattr(owner, name, value)

    def entry(self, table: dict, key: str, value) -> None:
        self.callback(table.__setitem__, key, table[key])
        table[key] = value

    def exchange(self, table: dict, one: str, other: str) -> None:
        first, second = table[one], table[other]
        self.entry(table, one, second)
        self.entry(table, other, first)

    def variant(self, name: str, **settings) -> None:
        """A variant of the zoo has other settings."""
        self.entry(ZOO, name, dataclasses.replace(ZOO[name], config=ZOO[name].config | settings))

    def init(self, cls: type, change: Callable) -> None:
        """`change(real, module, *args, **settings)` stands for the `__init__` of a `cls`, which is `real`."""
        real = cls.__init__

        def __init__(module, *args, **settings):
            change(real, module, *args, **settings)

        __init__.__annotations__ = real.__annotations__  # the models check their settings by them
        self.set(cls, "__init__", __init__)

    def after_init(self, cls: type, change: Callable) -> None:
        """`change(module)` follows each construction of a `cls`."""

        def both(real, module, *args, **settings):
            real(module, *args, **settings)
            change(module)

        self.init(cls, both)

    def settings(self, cls: type, change: Callable) -> None:
        """`change(settings)` edits the keywords with which a `cls` is constructed; the zoo gives keywords only."""
        self.init(cls, lambda real, module, *args, **settings: real(module, *args, **change(settings)))

    def arguments(self, cls: type, change: Callable) -> None:
        """`change(*args)` gives the arguments with which a `cls`, a part of a model, is constructed."""
        self.init(cls, lambda real, module, *args: real(module, *change(*args)))


@dataclass(frozen=True)
class Mutant:
    """`papers`: those whose models it changes. `kills`: the claims that must turn red, by name or pattern."""

    name: str
    papers: tuple[str, ...]
    kills: tuple[str, ...]
    apply: Callable[[Changes], None]


MUTANTS: dict[str, Mutant] = {}


def mutant(papers: tuple[str, ...], kills: str):
    """Decorator: register a fault. `kills`: names and patterns of claims, with spaces between them."""

    def register(apply):
        MUTANTS[apply.__name__] = Mutant(apply.__name__, papers, tuple(kills.split()), apply)
        return apply

    return register


def like(module, **changed) -> SimpleNamespace:
    """A module with some of its names changed, for one importer alone."""
    return SimpleNamespace(**vars(module) | changed)


def unscaled(q, k, v, attn_mask=None, **settings):
    return F.scaled_dot_product_attention(q, k, v, attn_mask, **settings | {"scale": 1.0})


def narrow(mlp):
    """An MLP of three quarters of the width."""
    return lambda *args: mlp(*args[:-1], 0.75 * args[-1]) if len(args) > 1 else mlp(*args, 3.0)


def other_epsilon(module) -> SimpleNamespace:
    """Epsilons of 1e-6 become 1e-5, and those of 1e-5, which is PyTorch's, 1e-6."""

    def norm(dim, eps=1e-5):
        return nn.LayerNorm(dim, eps=1e-6 if eps == 1e-5 else 1e-5)

    return like(module, LayerNorm=norm)


def mixed(forward):
    """A part of a network in which the first clip of a batch leaks into the others."""

    def mix(module, x, *more):
        found = forward(module, x, *more)
        return found + 0.1 * found.roll(1, 0) if isinstance(found, torch.Tensor) else found

    return mix


def still(embed):
    """An embedding that sees each frame as the mean of all."""
    return lambda module, x: embed(module, x.mean(2, keepdim=True).expand_as(x) if x.ndim == 5 else x)


# ---------------------------------------------------------------- Swin and Video Swin


@mutant(
    SWIN,
    "swin-9-windows swin-shifted-windows-12 swin-odd-window-shift swin-reach-of-two-blocks "
    "swin-every-second-block-shifts vswin-27-windows vswin-8-kinds-of-masks vswin-reach-of-two-blocks "
    "vswin-no-shift-in-time swin-equation-3-shifted vswin-16-frames-* vswin-stage-4-shifts-* recording-swin_mini "
    "recording-video_swin_mini_*",
)
def no_shift(change):
    real = swin.clamp_window
    change.set(swin, "clamp_window", lambda size, window, shift: (real(size, window, shift)[0], (0,) * len(size)))


@mutant(
    SWIN,
    "swin-masked-windows swin-equation-4-shifted vswin-attention-shifted vswin-stage-4-half-masked swin-9-windows "
    "vswin-27-windows",
)
def no_mask(change):
    real = fast.known_kinds
    change.set(fast, "known_kinds", lambda *key: [(rows, None) for rows, _ in real(*key)])


@mutant(SWIN, "swin-equation-3-shifted swin-equation-4-shifted vswin-block recording-swin_mini")
def weak_mask(change):
    real = fast.known_kinds
    change.set(
        fast, "known_kinds", lambda *key: [(rows, mask if mask is None else mask / 50) for rows, mask in real(*key)]
    )


@mutant(SWIN, "swin-roll-keeps-4 vswin-roll-keeps-8")
def windows_of_the_naive_way(change):
    """All windows of the shifted cut are computed, each padded to a whole one."""
    real = swin.roll_and_cut

    def padded(x, window, shift):
        windows, groups, order = real(x, window, shift)
        more = 1
        for n, w, s in zip(x.shape[1:-1], window, shift):
            more *= n // w + bool(s)
        extra = windows.new_zeros(more * x.shape[0] - len(windows), *windows.shape[1:])
        return torch.cat([windows, extra]), groups, order

    change.set(swin, "roll_and_cut", padded)


@mutant(
    SWIN, "swin-169 swin-529 vswin-2535 vswin-5239 vswin-7935 recording-swin_mini recording-video_swin_mini_8x32x32"
)
def smaller_table(change):
    def shrink(attn):
        if attn.relative_position_bias_table is not None and len(attn.relative_position_bias_table) > 1:
            attn.relative_position_bias_table = nn.Parameter(attn.relative_position_bias_table[:-1].detach())
            attn.relative_position_index.clamp_(max=len(attn.relative_position_bias_table) - 1)

    change.after_init(swin.WindowAttention, shrink)


@mutant(SWIN, "swin-equation-4 vswin-attention swin-equation-3 recording-swin_mini recording-video_swin_mini_8x32x32")
def offsets_reversed(change):
    real = swin.relative_position_index
    change.set(swin, "relative_position_index", lambda window: real(window).T.contiguous())


@mutant(
    SWIN, "swin-merging-is vswin-merging-is recording-swin_odd_w2 recording-video_swin_mini_7x50x45 swin-torchvision"
)
def merging_order(change):
    real = swin.PatchMerging.forward

    def swapped(merging, x):
        H, W = x.shape[-3:-1]
        x = F.pad(x, (0, 0, 0, W % 2, 0, H % 2))
        return real(merging, torch.stack((x[..., 1::2, :, :], x[..., ::2, :, :]), -3).flatten(-4, -3))

    change.set(swin.PatchMerging, "forward", swapped)


@mutant(VIDEO, "vswin-merging-* vswin-pyramid vswin-odd-sizes vswin-time-is-not-merged")
def merging_halves_time(change):
    real = swin.PatchMerging.forward
    change.set(swin.PatchMerging, "forward", lambda merging, x: real(merging, x[:, ::2] if x.ndim == 5 else x))


@mutant(SWIN, "swin-merging-* swin-pyramid* vswin-merging-1")
def merging_keeps_channels(change):
    """The projection gives the C channels of one neighbour twice."""

    def half(merging):
        merging.norm = nn.LayerNorm(merging.norm.normalized_shape[0] // 4)
        merging.reduction = nn.Linear(merging.norm.normalized_shape[0], merging.reduction.out_features, bias=False)

    change.after_init(swin.PatchMerging, half)
    change.set(swin.PatchMerging, "forward", lambda merging, x: merging.reduction(merging.norm(x)))


@mutant(SWIN, "swin-epsilon vswin-epsilon swin-equation-3 recording-swin_mini recording-video_swin_mini_8x32x32")
def swin_epsilon(change):
    change.set(swin, "nn", other_epsilon(nn))
    change.set(video_swin, "nn", other_epsilon(nn))


@mutant(
    SWIN,
    "swin-equation-4 vswin-attention vswin-factorized recording-swin_tiny_224 recording-video_swin_tiny_k400 "
    "vswin-torchvision",
)
def swin_unscaled(change):
    real = fast.attention

    def attention(qkv, bias, groups):
        q, k, v = qkv.unbind(2)
        return real(torch.stack((q * q.shape[-1] ** 0.5, k, v), 2), bias, groups)

    change.set(fast, "attention", attention)


@mutant(
    SWIN,
    "swin-mlp-4 vswin-mlp-4 swin_*-parameters swin_*-gmacs video_swin_*-parameters video_swin_*-gmacs "
    "swin-padding-gmacs vswin-*-with-norms vswin-table-5-* uf-quotes-swin-t",
)
def swin_narrow_mlp(change):
    change.set(swin, "Mlp", narrow(layers.Mlp))


@mutant(SWIN, "swin-equation-3 vswin-block recording-swin_mini recording-video_swin_mini_4x32x32")
def swin_other_gelu(change):
    def mlp(dim, ratio=4.0):
        made = layers.Mlp(dim, ratio)
        made.act = nn.GELU("tanh")
        return made

    change.set(swin, "Mlp", mlp)


@mutant(SWIN, "swin-equation-1 swin-equation-2 swin-equation-2-shifted swin-sliding-macs recording-swin_mini")
def swin_no_projection(change):
    change.after_init(swin.WindowAttention, lambda attn: setattr(attn, "proj", nn.Identity()))


@mutant(SWIN, "swin-?-heads swin-?-head-32 vswin-heads vswin-head-32")
def swin_more_heads(change):
    def double(attn):
        attn.num_heads *= 2
        if attn.relative_position_bias_table is not None:
            attn.relative_position_bias_table = nn.Parameter(attn.relative_position_bias_table.detach().repeat(1, 2))

    change.after_init(swin.WindowAttention, double)


@mutant(SWIN, "swin-?-depths vswin-?-depths swin-one-table-a-block")
def swin_one_block_more(change):
    change.settings(swin.Backbone, lambda s: s | {"depths": (*s["depths"][:-1], s["depths"][-1] + 1)})


@mutant(
    SWIN,
    "swin-window-49 swin-window-144 swin-keys-* swin-windows-of-the-stages vswin-window-* vswin-windows-of-the-stages",
)
def larger_windows(change):
    def wider(dim, depth, heads, window, *more):
        return dim, depth, heads, (*window[:-1], 2 * window[-1]), *more

    change.arguments(swin.Stage, wider)


@mutant(
    SWIN,
    "swin-linear swin-equation-2 swin-4-windows swin-reach-of-a-window vswin-linear vswin-8-windows "
    "vswin-reach-of-a-window swin-reach-without-shift",
)
def one_window(change):
    """Attention is global: one window covers the map. The bias, which is made for a window, is left out."""
    change.set(swin, "clamp_window", lambda size, window, shift: (tuple(size), (0,) * len(size)))
    change.set(swin.WindowAttention, "bias", lambda attn, N: None)


@mutant(("Swin",), "swin-token-48 swin-stage-1 swin-?-channels swin-pyramid* swin-absolute-positions")
def patches_of_8(change):
    change.arguments(swin.PatchEmbed, lambda patch, *more: (tuple(2 * p for p in patch), *more))


@mutant(VIDEO, "vswin-token-96 vswin-tokens vswin-?-channels vswin-pyramid vswin-patch-map")
def tubes_of_one_frame(change):
    change.arguments(video_swin.PatchEmbed3D, lambda patch, *more: ((1, *patch[1:]), *more))


@mutant(("Swin",), "swin-absolute-positions")
def no_absolute_positions(change):
    change.set(swin.SwinTransformer, "embed", lambda model, x: model.patch_embed(x))


@mutant(SWIN, "swin-bias-to-another-window recording-inflate_swin_to_video_swin_bicubic")
def table_not_resized(change):
    for module in (official, swin):
        change.set(module, "resize_bias_table", lambda table, window: table)


@mutant(
    ("Swin",),
    "swin-b-channels swin-s-half* swin-l-double* swin-t-quarter swin_base-parameters swin_base-gmacs "
    "swin-t-quarter-size",
)
def base_is_small(change):
    change.variant("swin_base", embed_dim=96, num_heads=(3, 6, 12, 24))


@mutant(SWIN, "swin-samples-apart vswin-clips-apart")
def swin_samples_leak(change):
    change.set(swin.Backbone, "embed", mixed(swin.Backbone.embed))
    change.set(swin.SwinTransformer, "embed", mixed(swin.SwinTransformer.embed))


@mutant(VIDEO, "vswin-order-matters")
def vswin_sees_a_mean(change):
    change.set(swin.Backbone, "embed", still(swin.Backbone.embed))


@mutant(VIDEO, "vswin-factorized vswin-factorized-*")
def factorized_without_weight(change):
    change.after_init(video_swin.FactorizedBlock, lambda block: nn.init.ones_(block.weight_time))
    change.set(
        video_swin.FactorizedBlock,
        "forward",
        lambda block, x: swin.SwinBlock.forward(block, x + block.attn_time(block.norm_time(x))),
    )


@mutant(VIDEO, "vswin-split")
def split_sees_one_step(change):
    def block(dim, heads, window, shift, *more):
        return swin.SwinBlock(dim, heads, (1, 1, 1) if window[1:] == (1, 1) else window, shift, *more)

    change.set(video_swin, "SwinBlock", block)


@mutant(
    (*VIDEO, *UF),
    "vswin-inflate-average vswin-inflate-centre vswin-still-clip uf-inflation-divides uf-still-clip "
    "recording-inflate_swin_to_video_swin_mini recording-inflate_uniformer_image_to_video_mini",
)
def inflation_without_division(change):
    for module in (official, video_swin, uniformer):
        change.set(
            module, "inflate_patch", lambda weight, pt, mode="average": weight[:, :, None].repeat(1, 1, pt, 1, 1)
        )


@mutant(
    VIDEO, "vswin-inflate-bias vswin-inflate-bias-centre vswin-still-clip recording-inflate_swin_to_video_swin_mini"
)
def bias_in_the_first_step_only(change):
    def inflate(table, window, mode="average"):
        table = official.resize_bias_table(table, window[1:])
        return torch.cat([table, table.new_zeros((2 * window[0] - 2) * len(table), table.shape[1])]) * 1.5

    for module in (official, video_swin):
        change.set(module, "inflate_bias_table", inflate)


# ---------------------------------------------------------------- MViT


@mutant(
    MVIT,
    "mvit-pooling-attention mvitv2-attention mvitv2-residual-alone recording-mvit_mini recording-mvit_v2_mini "
    "recording-mvit_b_16x4 mvit-torchvision mvitv2-torchvision",
)
def mvit_unscaled(change):
    def with_positions(q, *more):
        return fast.attention_with_positions(q * q.shape[-1] ** 0.5, *more)

    change.set(mvit, "F", like(F, scaled_dot_product_attention=unscaled))
    change.set(mvit, "fast", like(fast, attention_with_positions=with_positions))


@mutant(MVIT, "mvit-epsilon mvit-epsilon-of-pooling mvit-block recording-mvit_mini recording-mvit_v2_mini")
def mvit_epsilon(change):
    change.set(mvit, "EPS", 1e-5)


@mutant(MVIT, "mvit-class-token recording-mvit_mini mvit-torchvision")
def mvit_averages(change):
    def forward(model, x):
        return model.head(model.norm(model.stages(x)[-1]).mean(1))

    change.set(mvit.MViT, "forward", forward)


@mutant(
    MVIT,
    "mvit-table-3b-tokens mvit-table-3b-end mvit-maps mvit-32-tokens mvit-64-tokens mvit-image-tokens "
    "mvit-image-320 mvit-pooled-length-* mvit-channels-grow-2 mvit-channels-grow-3 mvitv2-keys",
)
def mvit_stride_1(change):
    """Poolings do not skip a place."""
    real = mvit.pooling

    def pooling(mode, kernel, stride, head_dim):
        return real(mode, tuple(k | 1 for k in kernel), (1, 1, 1), head_dim)

    change.set(mvit, "pooling", pooling)


@mutant(MVIT, "mvit_base_16x4-gmacs mvit_v2_small_16x4-gmacs mvitv2-keys mvit-vit-2.6-flops")
def mvit_fixed_strides(change):
    """Strides of keys and values do not adapt to the stage."""
    change.set(
        mvit_config,
        "kv_strides",
        lambda kv, q, depth: [kv] * depth if isinstance(kv, tuple) else [(kv or {}).get(i) for i in range(depth)],
    )


@mutant(MVIT, "mvit-block mvitv2-block recording-mvit_mini mvit-torchvision")
def mvit_skip_averages(change):
    real = mvit.pooling
    change.set(mvit, "pooling", lambda mode, *more: real("avg" if mode == "max" else mode, *more))


@mutant(MVIT, "mvit-channels-grow-1 mvit-channels-grow-2 mvitv2-grows-in-attention mvit-maps")
def mvit_grows_elsewhere(change):
    change.settings(mvit.MViT, lambda s: s | {"dim_mul_in_att": not s.get("dim_mul_in_att", False)})


@mutant(MVIT, "mvit-table-3b-channels mvit-table-3b-mlp mvit-table-3b-end mvit-image-112 mvit-head-96")
def mvit_grows_less(change):
    change.settings(mvit.MViT, lambda s: s | {"dim_mul": dict.fromkeys(s.get("dim_mul", {}), 1)})


@mutant(MVIT, "mvitv2-attention mvitv2-residual-alone recording-mvit_v2_mini mvitv2-torchvision")
def mvit_no_residual(change):
    change.after_init(mvit.PoolingAttention, lambda attn: setattr(attn, "residual", False))


@mutant(MVIT, "mvitv2-residual-alone mvitv2-attention-image")
def mvit_residual_everywhere(change):
    def everywhere(attn):
        if attn.residual:
            attn.on_map.fill_(1)

    change.after_init(mvit.PoolingAttention, everywhere)


@mutant(MVIT, "mvitv2-attention mvitv2-attention-image recording-mvit_v2_mini")
def mvit_offsets_reversed(change):
    real = mvit.relative_rows
    change.set(mvit, "relative_rows", lambda table, q, k: real(table.flip(0), q, k))


@mutant(MVIT, "mvitv2-rel-pos-space mvitv2-rel-pos-time recording-mvit_v2_mini")
def mvit_smaller_table(change):
    def shrink(attn):
        for axis in attn.rel_pos:
            setattr(attn, f"rel_pos_{axis}", nn.Parameter(getattr(attn, f"rel_pos_{axis}")[:-1].detach()))

    change.after_init(mvit.PoolingAttention, shrink)


@mutant(MVIT, "mvit-pooling-attention mvit-epsilon-of-pooling recording-mvit_mini")
def mvit_no_norm_behind_pooling(change):
    change.after_init(mvit.PoolingAttention, lambda attn: [setattr(attn, f"norm_{name}", None) for name in "qkv"])


@mutant(MVIT, "mvit-positions-in-space mvit-positions-in-time recording-mvit_mini")
def mvit_no_positions(change):
    def embed(model, x):
        x = model.patch_embed(x)
        return torch.cat([model.cls_token.expand(x.shape[0], -1, -1), x], 1) if hasattr(model, "cls_token") else x

    change.set(mvit.MViT, "embed", embed)


@mutant(
    MVIT,
    "mvit-table-3b-mlp mvit-vit-width mvit*-parameters mvit*-gmacs mvit-table-10-* mvit-table-11-* "
    "mvit-table-12-* mvit-table-13-* mvit-table-14-?x* mvit-table-15-* vit_base_8x8-parameters vit_base_8x8-gmacs",
)
def mvit_narrow_mlp(change):
    change.set(mvit, "Mlp", narrow(layers.Mlp))


@mutant(MVIT, "mvit-heads mvit-head-96 mvit-pool-shared-by-heads")
def mvit_more_heads(change):
    real = mvit.plan_blocks
    change.set(mvit, "plan_blocks", lambda *args: [b | {"num_heads": 2 * b["num_heads"]} for b in real(*args)])


@mutant(
    MVIT,
    "mvit-table-3b-blocks mvit-vit-blocks mvit-24-blocks mvitv2-?-blocks mvit-kv-pooling-everywhere mvit-vit-2.4-size",
)
def mvit_one_block_more(change):
    change.settings(mvit.MViT, lambda s: s | {"depth": s.get("depth", 16) + 1})


@mutant(MVIT, "mvit-token-441 recording-mvit_mini")
def mvit_larger_cubes(change):
    def larger(in_channels, dim, kernel, stride, padding):
        return in_channels, dim, tuple(k + 2 for k in kernel), stride, tuple(p + 1 for p in padding)

    change.arguments(mvit.PatchEmbed, larger)


@mutant(MVIT, "mvit-table-3b-cube mvit-vit-tokens mvit-image-tokens mvit-positions-in-space")
def mvit_coarser_cubes(change):
    """Cubes at twice the stride along the width."""
    change.settings(
        mvit.MViT,
        lambda s: (
            s | {"patch_stride": (*s.get("patch_stride", (2, 4, 4))[:-1], 2 * s.get("patch_stride", (2, 4, 4))[-1])}
        ),
    )


@mutant(MVIT, "mvitv2-queries-everywhere mvit-kv-pooling-everywhere recording-mvit_v2_mini")
def mvit_pools_only_where_it_shrinks(change):
    real = mvit.pooling
    change.set(
        mvit, "pooling", lambda mode, kernel, stride, d: real(mode, kernel, stride, d) if max(stride) > 1 else None
    )


@mutant(MVIT, "mvit-query-pooling-3 mvit-table-3b-tokens")
def mvit_all_queries_pooled(change):
    change.settings(mvit.MViT, lambda s: s | {"q_stride": dict.fromkeys(range(s.get("depth", 16)), (1, 1, 1))})


@mutant(MVIT, "mvit-pool-shared-by-heads recording-mvit_mini")
def mvit_larger_kernels(change):
    real = mvit.pooling
    change.set(mvit, "pooling", lambda mode, kernel, *more: real(mode, tuple(k + 2 for k in kernel), *more))


@mutant(MVIT, "mvit-image-112 mvit_image_base_24_wide_320-parameters")
def mvit_wide_is_not_wide(change):
    change.variant("mvit_image_base_24_wide_320", embed_dim=96)


@mutant(MVIT, "mvit-clips-apart")
def mvit_samples_leak(change):
    change.set(mvit.MViT, "embed", mixed(mvit.MViT.embed))


@mutant(MVIT, "mvit-order-matters mvitv2-order-matters")
def mvit_sees_a_mean(change):
    change.set(mvit.MViT, "embed", still(mvit.MViT.embed))


# ---------------------------------------------------------------- TimeSformer


def attend(block, x, size, *, in_time=False, first_only=False, unheard=False):
    """`DividedBlock.attend` with faults: the class token takes part in the first steps, as in equation 13; of its
    copies only one counts; it does not change at all."""
    cls, x = x.split((1, x.shape[1] - 1), 1)
    patterns = timesformer.PATTERNS
    for name in block.first:
        norm, attn, fc = (block.get_submodule(f"{name}_{part}") for part in ("norm1", "attn", "fc"))
        y = timesformer.group(x, size, patterns[name])
        if in_time:
            y = torch.cat((cls[:, None].expand(-1, y.shape[1], -1, -1), y), 2)
        y = fc(attn(norm(y.flatten(0, 1)))).unflatten(0, (x.shape[0], -1))
        x = x + timesformer.ungroup(y[:, :, int(in_time) :], size, patterns[name])
    y = timesformer.group(x, size, patterns[block.last])
    y = torch.cat((cls[:, None].expand(-1, y.shape[1], -1, -1), y), 2)
    y = block.attn(block.norm1(y.flatten(0, 1))).unflatten(0, (x.shape[0], -1))
    to_cls = y[:, :, :1]
    cls = cls + (0 if unheard else to_cls[:, 0] if first_only else to_cls.mean(1))
    return torch.cat((cls, x + timesformer.ungroup(y[:, :, 1:], size, patterns[block.last])), 1)


@mutant(
    TS,
    "ts-divided-steps ts-axial-steps ts-local-global-steps ts-block-divided ts-n-f-2 "
    "recording-timesformer_mini_divided ts-class-token-not-in-time",
)
def class_token_in_time(change):
    change.set(timesformer.DividedBlock, "attend", lambda *args: attend(*args, in_time=True))


@mutant(TS, "ts-block-divided ts-block-axial ts-block-local-global recording-timesformer_mini_divided")
def class_token_of_the_first_frame(change):
    change.set(timesformer.DividedBlock, "attend", lambda *args: attend(*args, first_only=True))


@mutant(TS, "ts-class-token-hears-all ts-block-divided")
def class_token_does_not_hear(change):
    change.set(timesformer.DividedBlock, "attend", lambda *args: attend(*args, unheard=True))


@mutant(
    TS,
    "ts-class-token-joint ts-joint-reach ts-block-joint ts-block-space recording-timesformer_mini_joint "
    "recording-timesformer_mini_space recording-timesformer_odd_space",
)
def no_attention_in_joint(change):
    change.set(timesformer.Block, "attend", lambda block, x, size: x)


@mutant(TS, "ts-new-model-is-blind ts-time-embedding-starts-at-0")
def time_embedding_starts_awake(change):
    def wake(model):
        if model.time_embed is not None:
            nn.init.trunc_normal_(model.time_embed, std=0.5)

    change.after_init(timesformer.TimeSformer, wake)


@mutant(TS, "ts-space-is-blind ts-without-time-embedding ts-joint-without-time-embedding ts-still-clip")
def frames_are_marked(change):
    """The first frame is brighter."""
    real = timesformer.PatchEmbed.forward

    def forward(embed, x):
        return real(embed, torch.cat((x[:, :, :1] + 1, x[:, :, 1:]), 2))

    change.set(timesformer.PatchEmbed, "forward", forward)


@mutant(TS, "ts-divided-steps ts-temporal-groups ts-temporal-reach ts-block-divided recording-timesformer_mini_divided")
def time_and_space_exchanged(change):
    change.exchange(timesformer.PATTERNS, "temporal", "space")


@mutant(TS, "ts-local-reach ts-local-global-steps ts-global-reach ts-block-local-global")
def local_and_global_changed(change):
    change.entry(timesformer.PATTERNS, "local", ("half", "whole", "whole"))
    change.entry(timesformer.PATTERNS, "global", ("half", "stride", "whole"))


@mutant(TS, "ts-width-reach ts-height-reach ts-block-axial")
def width_and_height_exchanged(change):
    change.exchange(timesformer.PATTERNS, "width", "height")


@mutant(TS, "ts-divided-is-linear ts-space-reach ts-divided-steps")
def divided_sees_all(change):
    for name in ("temporal", "space"):
        change.entry(timesformer.PATTERNS, name, ("whole", "whole", "whole"))


@mutant(
    TS,
    "ts-joint-keys ts-space-keys ts-table-1-joint ts-table-1-space ts-joint-is-quadratic "
    "timesformer_joint_8x224-parameters timesformer_joint_8x224-gmacs",
)
def all_schemes_are_divided(change):
    for scheme in ("joint", "space"):
        change.entry(timesformer.SCHEMES, scheme, ("temporal", "space"))


@mutant(
    TS,
    "ts-epsilon ts-epsilon-of-time ts-block-joint recording-timesformer_mini_divided "
    "recording-timesformer_divided_8x224",
)
def ts_epsilon(change):
    change.set(timesformer, "nn", other_epsilon(nn))


@mutant(TS, "ts-block-* recording-timesformer_mini_*")
def ts_unscaled(change):
    change.set(timesformer, "F", like(F, scaled_dot_product_attention=unscaled))


@mutant(
    TS,
    "ts-mlp-3072 timesformer_*-parameters timesformer_*-gmacs ts-table-1-* mvit-quotes-timesformer-* "
    "uf-quotes-timesformer-l",
)
def ts_narrow_mlp(change):
    change.set(timesformer, "Mlp", narrow(layers.Mlp))


@mutant(TS, "ts-12-heads ts-head-64 recording-timesformer_mini_joint")
def ts_fewer_heads(change):
    change.after_init(timesformer.Attention, lambda attn: setattr(attn, "num_heads", attn.num_heads // 2))


@mutant(TS, "ts-12-blocks ts-own-matrices-in-time ts-axial-own-matrices")
def ts_one_block_more(change):
    change.settings(timesformer.TimeSformer, lambda s: s | {"depth": s.get("depth", 12) + 1})


@mutant(TS, "ts-token-768 ts-patches-of-a-frame ts-tokens ts-hr-tokens ts-l-tokens ts-place-embedding")
def ts_oblong_patches(change):
    change.settings(
        timesformer.TimeSformer, lambda s: s | {"patch_size": (s.get("patch_size", 16), 2 * s.get("patch_size", 16))}
    )


@mutant(TS, "ts-time-embedding ts-trained-model-sees ts-equation-1 recording-timesformer_mini_divided")
def ts_no_time_embedding(change):
    real = timesformer.resize_time
    change.set(timesformer, "resize_time", lambda time, T: 0 * real(time, T))


@mutant(TS, "ts-equation-1 recording-timesformer_mini_joint")
def ts_places_reversed(change):
    real = timesformer.resize_space
    change.set(
        timesformer,
        "resize_space",
        lambda pos, *more: torch.cat((real(pos, *more)[:, :1], real(pos, *more)[:, 1:].flip(1)), 1),
    )


@mutant(TS, "recording-timesformer_mini_divided_resize")
def ts_positions_interpolated(change):
    def interpolate(x, size, mode):
        return F.interpolate(x, size, mode={3: "linear", 4: "bilinear"}[x.ndim])

    change.set(timesformer, "F", like(F, interpolate=interpolate))


@mutant(
    TS, "ts-equation-12 ts-space-averages-frames recording-timesformer_mini_space recording-timesformer_mini_divided"
)
def ts_averages_patches(change):
    def forward(model, x):
        B = x.shape[0]
        x, size = model.embed(x)
        for block in model.blocks:
            x = block(x, size)
        return model.head(model.norm(x).unflatten(0, (B, -1)).mean((1, 2)))

    change.set(timesformer.TimeSformer, "forward", forward)


@mutant(TS, "ts-clips-apart")
def ts_samples_leak(change):
    change.set(timesformer.PatchEmbed, "forward", mixed(timesformer.PatchEmbed.forward))


# ---------------------------------------------------------------- UniFormer


@mutant(
    UF,
    "uf-dpe-tells-places uf-block-reach uf-dpe-kernel uf-local-block uf-global-block recording-uniformer_mini "
    "uf-dpe-is-no-table",
)
def no_dpe(change):
    change.set(uniformer.Block, "embed_position", lambda block, x: x)


@mutant(UF, "uf-without-dpe")
def dpe_cannot_be_left_out(change):
    change.settings(uniformer.UniFormer, lambda s: s | {"dpe": True})


@mutant(UF, "uf-dpe-everywhere")
def dpe_in_local_blocks_only(change):
    def drop(block):
        block.pos_embed = None

    change.after_init(uniformer.GlobalBlock, drop)


def with_tube(side, dims, dim, ratio, tube, *more):
    """The arguments of a `LocalBlock` with tubes of another side."""
    return dims, dim, ratio, (side,) * dims, *more


@mutant(UF, "uf-tube-125 uf-local-head-a-channel uf-local-block recording-uniformer_mini uf-block-reach-without-dpe")
def tubes_of_3(change):
    change.arguments(uniformer.LocalBlock, lambda *args: with_tube(3, *args))


@mutant(UF, "uf-tube-27 uf-local-block-3")
def tubes_of_5(change):
    change.arguments(uniformer.LocalBlock, lambda *args: with_tube(5, *args))


@mutant(
    UF,
    "uf-epsilon uf-epsilon-of-patches uf-global-block recording-uniformer_mini recording-uniformer_image_mini "
    "recording-uniformer_s_16",
)
def uf_epsilon(change):
    change.set(uniformer, "nn", other_epsilon(nn))


@mutant(UF, "uf-local-block uf-head recording-uniformer_mini")
def uf_batch_norm_epsilon(change):
    for dims, norm in ((2, nn.BatchNorm2d), (3, nn.BatchNorm3d)):
        change.entry(uniformer.BATCH_NORM, dims, lambda dim, norm=norm: norm(dim, eps=1e-3))


@mutant(UF, "uf-global-block recording-uniformer_mini recording-uniformer_image_mini")
def uf_unscaled(change):
    change.set(uniformer, "F", like(F, scaled_dot_product_attention=unscaled))


@mutant(UF, "uf-global-reach uf-global-block uf-without-dpe")
def global_is_local(change):
    """Global relations see the token before only."""

    def forward(aggregator, x):
        _, _, v = aggregator.qkv(x).chunk(3, -1)
        return aggregator.proj(v + v.roll(1, 1))

    change.set(uniformer.RelationAggregator, "forward", forward)


@mutant(
    UF,
    "uf-ffn-4 uf-ffn-4-local uniformer_*-parameters uniformer_*-gmacs uf-table-4-no-* uf-table-4-llll* "
    "uf-table-4-lllg* uf-table-4-gggg* uf-table-4-lggg uf-table-4-lggg-size uf-table-4-tube-* uf-table-4-divided* "
    "uf-image-no-ffn uf-image-llll* uf-image-lllg*",
)
def uf_narrow_ffn(change):
    change.set(uniformer, "Mlp", narrow(layers.Mlp))
    change.set(uniformer, "ConvMlp", narrow(uniformer.ConvMlp))


@mutant(UF, "uf-head-64 uf-heads recording-uniformer_mini uf-two-local-stages")
def uf_one_head(change):
    change.after_init(uniformer.RelationAggregator, lambda aggregator: setattr(aggregator, "num_heads", 1))


@mutant(UF, "uf-?-blocks uf-dpe-everywhere uf-two-local-stages")
def uf_one_block_more(change):
    change.settings(
        uniformer.UniFormer,
        lambda s: s | {"depths": (*s["depths"][:3], s["depths"][3] + 1) if "depths" in s else (3, 4, 8, 4)},
    )


@mutant(UF, "uf-two-local-stages uf-global-tokens uf-heads")
def uf_one_global_stage(change):
    change.settings(uniformer.UniFormer, lambda s: s | {"kinds": "LLLG"})


@mutant(UF, "uf-token-144 recording-uniformer_mini")
def uf_stem_of_5_frames(change):
    def stem(real, embed, dims, in_channels, dim, patch):
        real(embed, dims, in_channels, dim, patch)
        if dims == 3 and patch == 4:
            embed.proj = nn.Conv3d(in_channels, dim, (5, 4, 4), (2, 4, 4), (2, 0, 0))

    change.init(uniformer.PatchEmbed, stem)


@mutant(UF, "uf-stage-? uf-32-frames uf-global-tokens uf-time-is-halved-once uf-image-pyramid")
def uf_stem_shrinks_more(change):
    """The stem quarters time as well, and in images width is cut into eighths."""

    def stem(real, embed, dims, in_channels, dim, patch):
        real(embed, dims, in_channels, dim, patch)
        if patch == 4:
            embed.proj.stride = (4, 4, 4) if dims == 3 else (4, 8)

    change.init(uniformer.PatchEmbed, stem)


@mutant(UF, "uf-local-block uf-local-block-3 recording-uniformer_mini")
def uf_no_projection(change):
    change.set(uniformer.LocalBlock, "relate", lambda block, x: block.attn(block.conv1(x)))


@mutant(UF, "uf-head recording-uniformer_mini recording-uniformer_image_mini")
def uf_largest_place(change):
    def forward(model, x):
        return model.head(uniformer.to_tokens(model.norm(model.features(x)[-1])).amax(1))

    change.set(uniformer.UniFormer, "forward", forward)


@mutant(UF, "uf-windows-of-14 uf-hybrid-windows")
def uf_no_windows(change):
    change.set(uniformer.GlobalBlock, "attend_in_windows", lambda block, x, size: block.attn(x))


@mutant(UF, "uf-clips-apart")
def uf_samples_leak(change):
    change.set(uniformer.PatchEmbed, "forward", mixed(uniformer.PatchEmbed.forward))


@mutant(UF, "uf-order-matters")
def uf_sees_a_mean(change):
    change.set(uniformer.PatchEmbed, "forward", still(uniformer.PatchEmbed.forward))
