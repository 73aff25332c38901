"""One row of the zoo."""
from dataclasses import dataclass, field

from torch import nn


@dataclass(frozen=True)
class Variant:
    """One published model: how to build it, what goes in, and what its authors say comes out."""

    family: type[nn.Module]
    config: dict
    input: tuple[int, ...]                                   # one view, without the batch axis
    stated: tuple[tuple[str, float, str], ...] = ()          # ("params M" | "GMACs" | "top-1 ...", value, source)
    note: str = ""
    views: str = field(default="", kw_only=True)             # clips x crops of the stated accuracy
