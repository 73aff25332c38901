"""The cost of a model: its parameters and its multiply-accumulates (MACs).

All five papers call 10^9 multiply-accumulates one GFLOP: one multiplication and one addition count as one. Matrix
products are counted (linear layers, convolutions, attention scores and their weighted sums). Norms, softmax,
GELU and additions are not counted, as in the tools that the papers used.
"""
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """The number of learnable values. Buffers do not count."""
    return sum(p.numel() for p in model.parameters())


def count_macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """The MACs of one forward pass on an input of `shape` (with the batch axis).

    If the model was built under `torch.device("meta")`, counting needs no memory and no arithmetic. A model on
    another device is run once on zeros.
    """
    parameter = next(model.parameters())
    x = torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)
    training = model.training
    model.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(x)
    model.train(training)
    return counter.get_total_flops() // 2        # the counter counts a MAC as two operations
