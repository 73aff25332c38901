"""MACs of large models, counted faster than by a whole pass: equal blocks are counted once, whatever model they are in.

A pass without arithmetic still costs seconds, nearly all of them in blocks that do the same as the one before.
"""

import pytest
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vt_course.models.cost import count_macs
from vt_course.models.layers import DropPath

COUNTED = {}  # what sets a block's cost -> (MACs, shape of its output)


def settings(block: nn.Module) -> tuple:
    """What it prints, the shapes of its parameters, its settings and those of its parts."""
    plain = (int, float, str, tuple, type(None))
    return (
        repr(block),
        *(tuple(p.shape) for p in block.parameters()),
        *((name, value) for part in block.modules() for name, value in vars(part).items() if isinstance(value, plain)),
    )


def count_equal_blocks_once(model: nn.Module, shape: tuple[int, ...]) -> int:
    """`count_macs` of a model built under `torch.device("meta")`. It will not drop paths: blocks differ in their
    rates."""
    for part in model.modules():
        if isinstance(part, DropPath):
            part.rate = 0.0
    repeated = 0

    def once(forward, key):
        def counted(x, *more):
            nonlocal repeated
            if (at := (key, tuple(x.shape), more)) in COUNTED:
                macs, after = COUNTED[at]
                repeated += macs
                return x.new_empty(after)
            with FlopCounterMode(display=False) as counter:  # within that of `count_macs`, which counts too
                y = forward(x, *more)
            COUNTED[at] = counter.get_total_flops() // 2, y.shape
            return y

        return counted

    with pytest.MonkeyPatch.context() as patch:
        for block in [m for m in model.modules() if type(m).__name__.endswith("Block")]:
            patch.setattr(block, "forward", once(block.forward, settings(block)))
        return count_macs(model, shape) + repeated
