"""The attention weights of any model, although its attention is fused and never writes them.

    with recording(model) as layers:
        model(clip)
    layers[0].name, layers[0].weights        # "blocks.0.temporal_attn", (groups, heads, queries, keys)

Every attention of the five families, and of most other networks, ends in one function of PyTorch,
`scaled_dot_product_attention`. Inside `recording` PyTorch hands each call of it to us first. We keep its queries, keys
and bias, and let it compute what it always computes. So the output is the same in every bit, and outside of `recording`
nothing is slower. Only when `weights` is read, softmax(q k^T · scale + bias) is computed, literally.

`token_places` says which token of the map each query and each key is: windows, groups and pools have orders of their own.
"""
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vt_course.models.layers import Size
from vt_course.models.mvit import PoolingAttention
from vt_course.models.swin import WindowAttention, pad, roll_and_cut, window_partition
from vt_course.models.timesformer import PATTERNS, DividedBlock, group
from vt_course.models.uniformer import DividedBlock as UniFormerDividedBlock
from vt_course.models.uniformer import RelationAggregator


@dataclass
class Call:
    """The tensors of one call of `scaled_dot_product_attention`: q (n, h, N, d), k (n, h, M, d), v, bias that broadcasts."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    scale: float


@dataclass
class Layer:
    """One attention layer of one forward pass. `name` is that of its module in the model."""

    name: str
    module: nn.Module
    block: nn.Module                     # what contains the module
    arguments: tuple[tuple, tuple]       # with which the module and the block were called
    visit: int                           # number of the call of the module
    calls: list[Call] = field(default_factory=list)

    @property
    def heads(self) -> int:
        return self.calls[0].q.shape[1]

    @property
    def weights(self) -> Tensor:
        """softmax(q k^T · scale + bias): (n, h, N, M) for n groups (windows, frames, ..., samples). Rows sum to 1."""
        return torch.cat([torch.softmax(c.q @ c.k.mT * c.scale + (0 if c.bias is None else c.bias), -1) for c in self.calls])

    @property
    def values(self) -> Tensor:
        """(n, h, M, d). `weights @ values` is what the layer's last projection reads."""
        return torch.cat([c.v for c in self.calls])


class Recorder(TorchFunctionMode):
    """Sees every function of PyTorch while it is active. Notes the attentions, changes nothing."""

    def __init__(self, layers: list[Layer], entered: list[tuple]):
        super().__init__()
        self.layers, self.entered = layers, entered

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            self.note(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def note(self, q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        bias = attn_mask
        if is_causal:
            bias = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        if bias is not None and bias.dtype == torch.bool:
            bias = torch.zeros(bias.shape, dtype=q.dtype, device=q.device).masked_fill_(~bias, -torch.inf)
        (_, _, block, of_block), (visit, name, module, of_module) = self.entered[-2:]
        if not self.layers or self.layers[-1].visit != visit:          # Swin calls it once for each kind of windows
            self.layers.append(Layer(name, module, block, (of_module, of_block), visit))
        self.layers[-1].calls.append(Call(q, k, v, bias, q.shape[-1] ** -0.5 if scale is None else scale))


@contextmanager
def recording(model: nn.Module) -> Iterator[list[Layer]]:
    """Inside, each forward pass of `model` appends its attention layers to the list, in the order in which they are computed.

    No gradients are computed inside: those would take other ways through `fast`, which have no such function at their
    end. The queries and keys of all layers stay in memory as long as the list does.
    """
    layers, entered, visits, hooks = [], [(0, "", model, ())], count(1), []

    def leave(module, args, out):
        entered.pop()

    for name, module in model.named_modules():
        def enter(module, args, name=name):
            entered.append((next(visits), name, module, args))

        hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
    try:
        with torch.no_grad(), Recorder(layers, entered):
            yield layers
    finally:
        for hook in hooks:
            hook.remove()


# ---------------------------------------------------------------- which token is which

@dataclass
class Places:
    """Where the tokens of a layer are, for one clip.

    Tokens of a map (T, H, W) have the numbers t·H·W + h·W + w. The class tokens follow (one, or in a model that sees
    frames one by one a token a frame). The number after them stands for the padding of windows, which is no token.
    """

    queries: Tensor                      # (n, N) numbers on the map `size_q`
    keys: Tensor                         # (n, M) numbers on the map `size_k`
    size_in: Size                        # of the map that enters the layer
    size_q: Size                         # of the map that leaves it; smaller where queries are pooled
    size_k: Size
    cls: int                             # how many class tokens


def token_places(layer: Layer) -> Places:
    """The `Places` of a layer of the five families. The pass must have been one of a single clip or image.

    Raises ValueError for a layer of another network and for several clips.
    """
    module, block, (of_module, of_block) = layer.module, layer.block, layer.arguments
    find = {WindowAttention: in_windows, PoolingAttention: in_pools, RelationAggregator: in_relations}.get(type(module))
    if find is None and hasattr(block, "attend"):                     # TimeSformer
        find = in_groups
    if find is None:
        raise ValueError(f"{layer.name} is a {type(module).__name__}: only the layers of this course's models have known places")
    places = find(layer, of_module[0], of_block)
    n = sum(len(call.q) for call in layer.calls)
    if places.queries.shape[0] != n:
        raise ValueError(f"{layer.name} saw {n} groups of tokens, one clip has {places.queries.shape[0]}; record one clip at a time")
    return places


def in_three(size: Size) -> Size:
    """(H, W) as the map of one frame (1, H, W)."""
    return (1,) * (3 - len(size)) + tuple(size)


def windows_of(numbers: Tensor, window: Size, shift: Size) -> Tensor:
    """Cut the numbers of a map (*size) into (shifted) windows as the models do: (nW, N). Padding gets the number after the last."""
    x = pad(numbers[None, ..., None] + 1, window)                     # (1, *padded, 1), 0 where padded
    windows = (roll_and_cut(x, window, shift)[0] if any(shift) else window_partition(x, window))[..., 0]
    return torch.where(windows == 0, numbers.numel(), windows - 1)


def in_windows(layer: Layer, x: Tensor, _) -> Places:
    """Swin, Video Swin: windows that shift in every second block."""
    size = tuple(x.shape[1:-1])
    numbers = torch.arange(prod(size)).view(size)
    windows = windows_of(numbers, *layer.module.window_and_shift(size))            # (nW, N)
    return Places(windows, windows, *[in_three(size)] * 3, 0)


def in_pools(layer: Layer, x: Tensor, _) -> Places:
    """MViT: pooled queries and keys in row-major order. The class token stands first, and its number is the last."""
    m = layer.module

    def numbers(size: Size) -> Tensor:
        n = prod(size)
        return torch.cat([torch.full((m.cls,), n), torch.arange(n)])[None]         # (1, cls + n)

    return Places(numbers(m.size_out), numbers(m.size_kv), m.size, m.size_out, m.size_kv, m.cls)


def in_relations(layer: Layer, x: Tensor, of_block: tuple) -> Places:
    """UniFormer's global blocks: all tokens, those of a window (images), or time and space apart."""
    size = tuple(of_block[0].shape[2:])
    numbers = torch.arange(prod(size)).view(size)
    if layer.block.window:
        groups = windows_of(numbers, layer.block.window, (0, 0))      # (nW, N)
    elif isinstance(layer.block, UniFormerDividedBlock):
        groups = numbers.flatten(1)                                   # (T, H·W)
        groups = groups.T if layer.module is layer.block.t_attn else groups
    else:
        groups = numbers.view(1, -1)
    return Places(groups, groups, *[in_three(size)] * 3, 0)


def in_groups(layer: Layer, x: Tensor, of_block: tuple) -> Places:
    """TimeSformer's five schemes. In `space` the frames are samples, each with a class token of its own."""
    H, W, T = of_block[1]
    frames = len(of_block[0]) if T == 1 else 1                        # of `space`; of one frame, both are the same
    numbers = torch.arange(frames * T * H * W).view(frames, T, H, W)
    numbers = numbers.permute(0, 2, 3, 1).flatten(1)                  # (frames, H·W·T): time varies fastest
    step = layer.name.rpartition(".")[2].removesuffix("attn").rstrip("_")
    if isinstance(layer.block, DividedBlock):
        numbers = group(numbers[..., None], (H, W, T), PATTERNS[step or layer.block.last]).squeeze(-1)[0]          # (G, N)
    if not step:                                                      # the class token joins the last step only
        cls = frames * T * H * W + torch.arange(frames)
        numbers = torch.cat([cls[:, None].expand(len(numbers), 1), numbers], 1)    # (G or frames, 1 + N)
    return Places(numbers, numbers, *[(frames * T, H, W)] * 3, frames)
