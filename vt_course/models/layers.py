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
