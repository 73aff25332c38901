"""What the checks of the ledger have in common: models to run, what happens inside them, and who sees whom.

A check is a function that runs something of the course and returns what it found. The ledger compares that with what
a paper states. Checks are registered by name, because the files of claims name them.
"""

import functools
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from math import prod
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vt_course.models import mvit, swin, timesformer, uniformer
from vt_course.models.layers import DropPath
from vt_course.models.zoo import ZOO

CHECKS: dict[str, Callable] = {}
KEPT: list = []  # the caches that `forget` empties


def check(function):
    """Decorator: register a function that a claim may name."""
    CHECKS[function.__name__] = function
    return function


def remembered(function):
    """Decorator: compute once for each arguments, until `forget`. Arguments may be lists and dicts."""
    kept = {}
    KEPT.append(kept)

    @functools.wraps(function)
    def look_up(*args, **kwargs):
        key = repr((args, sorted(kwargs.items())))
        if key not in kept:
            kept[key] = function(*args, **kwargs)
        return kept[key]

    return look_up


def forget() -> None:
    """Empty the caches: the code that filled them has changed."""
    for kept in KEPT:
        kept.clear()


def two_digits(value: float | Tensor) -> float:
    """Rounded to two significant digits."""
    return float(f"{float(value):.2g}")


class Refuted(Exception):
    """What a check ran does not do what the claim says, and there is no number for it. The message says what it did."""


class NotRun(Exception):
    """A check cannot run here. The message says why."""


# ---------------------------------------------------------------- models


def plain(value):
    """A setting from a file as the models take it: lists become tuples, and numbers of blocks are numbers again."""
    if isinstance(value, dict):
        return {int(key) if key.isdecimal() else key: plain(each) for key, each in value.items()}
    return tuple(map(plain, value)) if isinstance(value, list) else value


def build(model: str, settings: dict | None = None, device: str = "meta") -> nn.Module:
    """The variant `model` of the zoo with other settings, in eval mode. On "cpu", all weights are random (`fill`)."""
    variant = ZOO[model]
    with torch.device(device):
        built = variant.family(**variant.config | plain(settings or {})).eval()
    return built if device == "meta" else fill(built.double())


def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and BatchNorm statistics so large that every part of the network matters to its output."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if not value.is_floating_point() or name.endswith(("places", "on_map")):
                continue
            noise = torch.randn(value.shape, generator=random, dtype=value.dtype)
            if name.endswith("running_var") or value.ndim == 1 and name.endswith(("weight", "gamma_1", "gamma_2")):
                value.copy_(1 + 0.2 * noise.abs())
            else:
                value.copy_(noise * (0.5 if value.ndim < 2 or "pos" in name else 1 / value[0].numel() ** 0.5))
    return model


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------- one pass, seen from inside

ATTENTION = (swin.WindowAttention, mvit.PoolingAttention, timesformer.Attention, uniformer.RelationAggregator)


def macs_of_layer(module: nn.Module, out: Tensor) -> int:
    """Multiply-accumulates of a linear layer or a convolution: for each number that comes out, one filter."""
    return out.numel() * module.weight[0].numel()


def macs_of_positions(module: mvit.PoolingAttention, args, scores: dict[str, Tensor]) -> int:
    """Of MViTv2's relative scores: each is a product of a query with a vector of d numbers."""
    return sum(each.numel() for each in scores.values()) * args[0].shape[-1]


def macs_of_attention(q: Tensor, k: Tensor, v: Tensor) -> int:
    """Of q k^T and of its product with v, (..., N, d) and (..., M, d)."""
    return prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


@contextmanager
def watched(model: nn.Module):
    """Yields what passes inside the context will fill: `outputs` {name of a module: shape of its last output},
    `attention` [{name, groups, heads, queries, keys, d, masked}] of each module that attends, and `macs`, counted from
    the shapes of layers and of attention, without PyTorch's counter. `normalised` counts numbers that pass a LayerNorm.
    """
    seen = SimpleNamespace(outputs={}, attention=[], macs=0, normalised=0)
    real, scores = F.scaled_dot_product_attention, mvit.PoolingAttention.relative_scores

    def attend(q, k, v, attn_mask=None, *args, **kwargs):
        seen.macs += macs_of_attention(q, k, v)
        if seen.attention:
            now = seen.attention[-1]
            now |= dict(heads=q.shape[1], queries=q.shape[2], keys=k.shape[2], d=q.shape[3])
            now["groups"] += q.shape[0]
            now["kinds"] += 1
        return real(q, k, v, attn_mask, *args, **kwargs)

    def relative_scores(module, *args):
        found = scores(module, *args)
        seen.macs += macs_of_positions(module, args, found)
        return found

    def after(name, module, out):
        if isinstance(out, Tensor):
            seen.outputs[name] = tuple(out.shape)
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d, uniformer.Depthwise)):
                seen.macs += macs_of_layer(module, out)
            if isinstance(module, nn.LayerNorm):
                seen.normalised += out.numel()

    with ExitStack() as undo:
        for name, module in model.named_modules():
            hook = module.register_forward_hook(lambda module, args, out, name=name: after(name, module, out))
            undo.callback(hook.remove)
            if isinstance(module, ATTENTION):

                def before(module, args, name=name):
                    seen.attention.append(dict(name=name, groups=0, kinds=0))

                undo.callback(module.register_forward_pre_hook(before).remove)
        F.scaled_dot_product_attention, mvit.PoolingAttention.relative_scores = attend, relative_scores
        undo.callback(setattr, F, "scaled_dot_product_attention", real)
        undo.callback(setattr, mvit.PoolingAttention, "relative_scores", scores)
        yield seen


BLOCKS: dict = {}  # what sets a block's pass -> what was seen of it
KEPT.append(BLOCKS)


def settings_of(block: nn.Module) -> tuple:
    """What a block prints, the shapes of its parameters, the settings of its parts."""
    plain = (int, float, str, tuple, list, type(None))
    parts = [
        (name, value) for part in block.modules() for name, value in vars(part).items() if isinstance(value, plain)
    ]
    return repr(block), str([p.shape for p in block.parameters()]), str(parts)


def once(name: str, block: nn.Module, seen: SimpleNamespace, counter: FlopCounterMode):
    """The forward of a block that is computed only if no equal one was: most blocks of a network are like the one
    before, and a pass without arithmetic still takes time."""
    real, settings = block.forward, settings_of(block)

    def forward(x, *more):
        key = settings, tuple(x.shape), more
        if key not in BLOCKS:
            before, counted, calls = (seen.macs, seen.normalised), counter.get_total_flops(), len(seen.attention)
            y = real(x, *more)
            BLOCKS[key] = SimpleNamespace(
                shape=y.shape,
                added=(seen.macs - before[0], seen.normalised - before[1]),
                counted=counter.get_total_flops() - counted,
                attention=[call | {"name": call["name"].removeprefix(name)} for call in seen.attention[calls:]],
                outputs={
                    inner.removeprefix(name): shape
                    for inner, shape in seen.outputs.items()
                    if inner.startswith(name + ".")
                },
            )
            return y
        known = BLOCKS[key]
        seen.macs += known.added[0]
        seen.normalised += known.added[1]
        seen.again += known.counted
        seen.attention += [call | {"name": name + call["name"]} for call in known.attention]
        seen.outputs |= {name + inner: shape for inner, shape in known.outputs.items()}
        return x.new_empty(known.shape)

    return forward


def watched_pass(built: nn.Module, shape: tuple[int, ...]) -> SimpleNamespace:
    """One pass without arithmetic, of a model on the meta device: what `watched` saw, and `counted`, the
    multiply-accumulates that PyTorch's own counter found. `shape`: of the input. The model will not drop paths.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), ExitStack() as undo, watched(built) as seen, counter:
        seen.again = 0
        for block in built.modules():
            if isinstance(block, DropPath):
                block.rate = 0.0  # does nothing here, but would tell equal blocks apart
        for name, block in built.named_modules():
            if type(block).__name__.endswith("Block"):
                block.forward = once(name, block, seen, counter)
                undo.callback(delattr, block, "forward")
        built(torch.zeros(shape, device="meta"))
    seen.counted = (counter.get_total_flops() + seen.again) // 2  # it counts a multiply-accumulate as two operations
    return seen


@remembered
def passed(model: str, settings: dict | None = None, size: list | None = None) -> SimpleNamespace:
    """`watched_pass` of a variant of the zoo. `size`: of the input without batch, by default the variant's."""
    return watched_pass(build(model, settings), (1, *(size or ZOO[model].input)))


# ---------------------------------------------------------------- who sees whom


@torch.no_grad()
def seen_by(function, x: Tensor, place: tuple[int, ...], axes: tuple[int, ...]) -> Tensor:
    """Which places of function(x) notice a change of x at `place` of the `axes`: a boolean map of these axes."""
    changed = x.clone()
    at = [slice(None)] * x.ndim
    for axis, index in zip(axes, place):
        at[axis] = index
    changed[tuple(at)] += noise(*changed[tuple(at)].shape, seed=7)
    difference = (function(changed) - function(x)).abs() > 1e-9
    others = [axis for axis in range(x.ndim) if axis not in axes]
    return difference.amax(others)


@torch.no_grad()
def seen_by_each(function, x: Tensor) -> Tensor:
    """(N, N) booleans: whether token j of function(x) notices a change of token i, for tokens (1, N, C)."""
    N = x.shape[1]
    changed = x.expand(N, -1, -1).clone()
    changed[range(N), range(N)] += noise(x.shape[-1], seed=7)
    return ((function(changed) - function(x)).abs() > 1e-9).any(-1)
