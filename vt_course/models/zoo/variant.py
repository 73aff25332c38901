"""The class of an entry of the zoo."""
from dataclasses import dataclass, field

from torch import nn


@dataclass(frozen=True)
class Variant:
    """One published model: how to build it, the shape of its input, and the numbers that its authors state."""

    family: type[nn.Module]
    config: dict
    input: tuple[int, ...]                                   # shape of one view, without the batch axis
    stated: tuple[tuple[str, float, str], ...] = ()          # ("params M" | "GMACs" | "top-1 ...", value, source)
    note: str = ""
    views: str = field(default="", kw_only=True)             # clips x crops with which the stated accuracy was measured
