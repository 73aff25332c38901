"""The pieces that several of the five papers truly share."""
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

Size = tuple[int, ...]
Sides = int | Size                       # of a setting that has a value for each axis: one number stands for all of them
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


class DropPath(nn.Module):
    """Stochastic depth: in training, drops the residual branch of a whole sample with probability
    `rate` and scales the survivors by 1/(1 - rate), so that the expectation stays the same.

    Shape: (B, ...) -> (B, ...).
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop path rate {rate} is not in [0, 1)")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(keep)           # (B, 1, ...)
        return x * (mask / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


class Mlp(nn.Module):
    """Linear, exact GELU, Linear over the last axis. Shape: (..., C) -> (..., C)."""

    def __init__(self, dim: int, ratio: float = 4.0):
        super().__init__()
        self.fc1 = nn.Linear(dim, int(dim * ratio))
        self.act = nn.GELU()                     # erf form, as in all five official repositories
        self.fc2 = nn.Linear(int(dim * ratio), dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


def drop_path_schedule(rate: float, depths: tuple[int, ...]) -> list[list[float]]:
    """Drop-path rates that rise linearly over *all* blocks: 0 in the first, `rate` in the last.

    Returns one list per stage; the same rule in all five official repositories.
    """
    rates = torch.linspace(0, rate, sum(depths), device="cpu").tolist()      # also under torch.device("meta")
    ends = [sum(depths[: i + 1]) for i in range(len(depths))]
    return [rates[end - depth : end] for end, depth in zip(ends, depths)]


def init_weights(module: nn.Module) -> None:
    """Truncated normal with std 0.02 for Linear weights, zeros for biases, LayerNorm at identity."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def rescale_for_narrow(model: nn.Module) -> None:
    """Redraw the Linear weights inside blocks with std 1/sqrt(fan_in) instead of 0.02.

    0.02 suits layers of many hundred channels (1/sqrt(768) = 0.036). At 24 channels it makes attention and
    MLP so weak that every block starts as the identity, and training from scratch stays at chance for long.
    Only our own `*_mini` variants use it; the published ones keep the official 0.02.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.startswith(("layers.", "blocks")):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)


MAY_BE_ZERO = ("patch_padding", "shift")


def check_settings(family: type[nn.Module], settings: dict) -> None:
    """Raise ValueError that names the first of a model's settings that makes no sense in any family.

    `settings` are the `locals()` of the constructor of `family`; its annotations say what each should be: whole numbers
    are at least 1 (but for `MAY_BE_ZERO`), rates lie in [0, 1), ratios are positive.
    """
    def refuse(name: str, what: str):
        raise ValueError(f"{family.__name__} was given {name}={settings[name]!r}; it must be {what}.")

    for name, kind in family.__init__.__annotations__.items():
        value = settings[name]
        if kind is int and type(value) is not int:
            refuse(name, "one whole number")
        if kind is Size and not (isinstance(value, (tuple, list)) and all(isinstance(n, int) for n in value)):
            refuse(name, "a tuple of whole numbers")
        if kind == Sides and not isinstance(value, (int, tuple, list)):
            refuse(name, "one whole number, or one for each axis")
        if kind is float:
            if not isinstance(value, (int, float)):
                refuse(name, "a number")
            if name.endswith("ratio") and value <= 0:
                refuse(name, "above 0")
            if not name.endswith("ratio") and not 0 <= value < 1:
                refuse(name, "at least 0 and below 1")
        if kind is float or name in MAY_BE_ZERO:
            continue
        for size in value.values() if isinstance(value, dict) else [value]:
            numbers = size if isinstance(size, (tuple, list)) else (size,)
            if all(type(n) is int for n in numbers) and min(numbers, default=0) < 1:
                refuse(name, "at least 1")


def per_axis(name: str, value: Sides, axes: str) -> Size:
    """The setting `name` for each of the `axes` ("HW" or "THW"): one number stands for all of them.

    Raises ValueError, with the name, for anything else than one whole number or one for each axis.
    """
    if isinstance(value, int):
        return (value,) * len(axes)
    if not isinstance(value, (tuple, list)) or len(value) != len(axes) or not all(isinstance(n, int) for n in value):
        wanted = {2: "two values, for H and W", 3: "three values, for T, H and W"}[len(axes)]
        shown = tuple(value) if isinstance(value, list) else value
        raise ValueError(f"{name} {shown!r} must have {wanted}, or be one whole number for all")
    return tuple(value)


def check_input(x: Tensor, layout: str, channels: int) -> None:
    """Raise ValueError, with the shape got and the shape wanted, unless `x` is a floating-point
    tensor laid out as `layout` (for instance "B C T H W") with `channels` channels and no empty axis.
    """
    axes = layout.split()
    wanted = "(" + ", ".join(f"C={channels}" if a == "C" else a for a in axes) + ")"
    got = tuple(x.shape)
    if x.ndim != len(axes):
        hint = " Add the batch axis with x[None]." if x.ndim == len(axes) - 1 else ""
        raise ValueError(f"input has {x.ndim} axes, shape {got}; wanted {len(axes)}, {wanted}.{hint}")
    if x.shape[1] != channels:
        raise ValueError(f"input has {x.shape[1]} channels, shape {got}; wanted {wanted}: channels come second.")
    empty = [a for a, n in zip(axes, got) if n == 0]
    if empty:
        raise ValueError(f"input is empty along {', '.join(empty)}, shape {got}; wanted {wanted} with every size >= 1.")
    if not x.is_floating_point():
        raise ValueError(f"input of shape {got} has dtype {x.dtype}; wanted floating point {wanted}: "
                         "convert and normalise the pixels first.")


def own_backward(x: Tensor) -> bool:
    """Whether our own backward passes, faster on a CPU, are to be used for `x`.

    Not in compiled graphs and inside the transforms of torch.func (grad, vmap, jvp), which see into PyTorch's only.
    """
    return (x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()
            and not torch._C._are_functorch_transforms_active())


# ---------------------------------------------------------------- depthwise convolution

def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Size) -> Tensor:
    """One filter for each channel, zero-padded by kernel // 2, on a channels-last map.

    (B, C, *size), (C, 1, *kernel) -> (B, C, *smaller).
    """
    if not own_backward(x):
        return convolve(x, weight, bias, stride)
    if torch.is_autocast_enabled("cpu"):         # as autocast does to PyTorch's convolutions, so that backward sees one dtype
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), bias if bias is None else bias.to(dtype)
    return DepthwiseFunction.apply(x, weight, bias, stride)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Size) -> Tensor:
    conv = F.conv3d if x.ndim == 5 else F.conv2d
    return conv(x, weight, bias, stride, tuple(k // 2 for k in weight.shape[2:]), groups=len(weight))


class DepthwiseFunction(torch.autograd.Function):
    """`convolve` with a faster backward pass on CPUs: PyTorch's takes 10 to 40 times as long as its forward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Size) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return convolve(x, weight, bias, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        x, weight = ctx.saved_tensors
        kernel = weight.shape[2:]
        g = g.to(x.dtype).contiguous(memory_format=CHANNELS_LAST[len(kernel)])
        dx = dw = db = None
        if max(ctx.stride) > 2 or min(kernel[-2:]) < 3 or any(k % 2 == 0 for k in kernel):
            dx, dw = gradients_by_tap(x, weight, g, ctx.stride)
        else:
            if ctx.needs_input_grad[0]:
                dx = input_gradient(x.shape, weight, g, ctx.stride)
            if ctx.needs_input_grad[1]:
                dw = filter_gradient(x, g, kernel, ctx.stride)
        if ctx.needs_input_grad[2]:
            db = g.sum((0, *range(2, g.ndim)))
        return dx, dw, db, None


def input_gradient(shape: Size, weight: Tensor, g: Tensor, stride: Size) -> Tensor:
    """Gradient of x, of `shape`: itself a depthwise convolution of stride 1, with mirrored filters of odd sides.

    Its input is the map g (B, C, *smaller) with zeros between the values, where the stride left places out.
    """
    B, C, *size = shape
    if max(stride) > 1:
        spread = g.new_zeros(B, *size, C).movedim(-1, 1)              # (B, C, *size)
        spread[(..., *[slice(None, None, s) for s in stride])] = g
        g = spread
    axes = tuple(range(2, g.ndim))
    return convolve(g, weight.flip(axes), None, (1,) * len(axes))


def filter_gradient(x: Tensor, g: Tensor, kernel: Size, stride: Size) -> Tensor:
    """Gradient of filters of odd sides: (B, C, *size), (B, C, *smaller) -> (C, 1, *kernel), sums of x times shifted g.

    Each time offset is a 2-D problem, and 3 x 3 filters have a fast kernel, so larger ones are put together
    from 3 x 3 pieces (for 5 x 5: four, which share the middle row and column).
    """
    if x.ndim == 4:                                                   # an image is a clip of one frame
        return filter_gradient(x[:, :, None], g[:, :, None], (1, *kernel), (1, *stride))[:, :, 0]
    C, (T, H, W) = g.shape[1], [s * (n - 1) + 1 for s, n in zip(stride, g.shape[2:])]      # what the first tap sees
    x = F.pad(x, [p for k in reversed(kernel) for p in (k // 2, k // 2)]).movedim(1, -1)   # (B, T+, H+, W+, C)
    g = g.transpose(1, 2).flatten(0, 1)                               # (B·T', C, H', W')
    dw = x.new_empty(C, 1, *kernel)
    for i, j in product(range(0, kernel[1] - 2, 2), range(0, kernel[2] - 2, 2)):
        piece = x[:, :, i:i + H + 2, j:j + W + 2].contiguous()
        for t in range(kernel[0]):
            frames = piece[:, t:t + T:stride[0]].flatten(0, 1).movedim(-1, 1)              # (B·T', C, H+2, W+2)
            dw[:, :, t, i:i + 3, j:j + 3] = conv2d_weight(frames, (C, 1, 3, 3), g, stride=stride[1:], groups=C)
    return dw


def gradients_by_tap(x: Tensor, weight: Tensor, g: Tensor, stride: Size) -> tuple[Tensor, Tensor]:
    """Both gradients for any kernel and stride, one tap of the filter after the other.

    The way for large strides, where the map of zeros in `input_gradient` would be mostly zeros.
    """
    kernel, size = weight.shape[2:], x.shape[2:]
    x = F.pad(x, [p for k in reversed(kernel) for p in (k // 2, k // 2)]).movedim(1, -1)   # (B, *size+, C)
    g = g.movedim(1, -1)                                              # (B, *smaller, C)
    dx, dw = torch.zeros_like(x), torch.empty_like(weight)
    for tap in product(*map(range, kernel)):
        seen = (slice(None), *[slice(i, i + s * (n - 1) + 1, s) for i, s, n in zip(tap, stride, g.shape[1:-1])])
        dx[seen].addcmul_(g, weight[:, 0][(slice(None), *tap)])
        dw[:, 0][(slice(None), *tap)] = (x[seen] * g).flatten(0, -2).sum(0)
    dx = dx[(slice(None), *[slice(k // 2, k // 2 + n) for k, n in zip(kernel, size)])]
    return dx.movedim(-1, 1), dw
