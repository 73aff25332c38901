"""The pieces that several of the five papers truly share."""
import torch
from torch import Tensor, nn

Size = tuple[int, ...]
Sides = int | Size                       # of a setting that has a value for each axis: one number stands for all of them


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

    0.02 suits layers of many hundred channels (1/sqrt(768) = 0.036). With 24 channels, attention and MLP would be so
    weak that every block starts as the identity, and training from scratch would stay at chance for a long time.
    Only our own `*_mini` variants use it. The published variants keep the official 0.02.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.startswith(("layers.", "blocks")):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)


MAY_BE_ZERO = ("patch_padding", "shift")


def check_settings(family: type[nn.Module], settings: dict) -> None:
    """Raise ValueError that names the first of a model's settings that makes no sense in any family.

    `settings` are the `locals()` of the constructor of `family`. Its annotations say what each should be. Whole numbers
    are at least 1 (except those in `MAY_BE_ZERO`), rates lie in [0, 1), ratios are positive.
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
