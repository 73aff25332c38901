"""What a model costs: parameters and multiply-accumulates (MACs).

"GFLOPs" in all five papers are multiply-accumulates, one multiplication and one addition counted as one.
Matrix products (linear layers, convolutions, attention scores and their weighted sums) are counted;
norms, softmax, GELU and additions are not, as in the tools the papers used.
"""
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Number of learnable values; buffers do not count."""
    return sum(p.numel() for p in model.parameters())


def count_macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """MACs of one forward pass on an input of `shape` (batch axis included).

    Give a model built under `torch.device("meta")` to count without memory or arithmetic; a model on any
    other device is run once on zeros.
    """
    parameter = next(model.parameters())
    x = torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)
    training = model.training
    model.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(x)
    model.train(training)
    return counter.get_total_flops() // 2        # the counter counts both halves of a MAC
