"""What every model checks: its settings when it is built, and the shape and the type of its input."""
from torch import Tensor, nn

from vt_course.models.layers import Sides, Size

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
