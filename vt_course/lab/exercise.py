"""What a check knows of one exercise."""
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Exercise:
    """What a check needs to know.

    title: a few words. definition: the literal, slow solution; it gets clones of a case's arguments and
    returns a tensor. cases: argument tuples, made anew after `torch.manual_seed(0)`. shape: from a case's
    arguments, the expected shape as a formula with the numbers put in. mistakes: (what is wrong, as a
    sentence to the reader; a wrong version of the definition). piece: the package's function, for the cells
    below an unsolved exercise. gradient: compare the gradients of all floating-point arguments as well.
    """

    title: str
    definition: Callable[..., Tensor]
    cases: Callable[[], list[tuple]]
    shape: Callable[..., str]
    mistakes: tuple[tuple[str, Callable[..., Tensor]], ...]
    piece: Callable[..., Tensor]
    gradient: bool = False
