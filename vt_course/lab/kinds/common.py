"""What the kinds of mistakes share: how results are compared, and how axes and numbers are named."""

import re
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Outcome:
    """One case: its arguments, the right result (None if nobody asks for it), and the reader's (None if no tensor)."""

    args: tuple
    want: Tensor | None
    got: Tensor | None

    @property
    def right(self) -> bool:
        """The same numbers, and whole ones where whole ones are wanted (which of a single number nobody asks)."""
        if not same_tensor(self.got, self.want):
            return False
        return not self.want.ndim or self.got.is_floating_point() == self.want.is_floating_point()


@dataclass(frozen=True)
class Reads:
    """Instead of a result: whatever becomes `right` by `function`, for a last step that the reader left out."""

    right: Tensor
    function: Callable[[Tensor], Tensor]

    def match(self, got: Tensor) -> bool:
        try:
            return same_tensor(self.function(got.detach()), self.right)
        except (RuntimeError, IndexError, ValueError):
            return False


@dataclass(frozen=True)
class Begins(Reads):
    """Instead of a result: whatever agrees with the right one as far as it goes, and is shorter somewhere."""

    def match(self, got: Tensor) -> bool:
        if got.ndim != self.right.ndim or any(g > w for g, w in zip(got.shape, self.right.shape)):
            return False
        return same_tensor(self.right[tuple(slice(n) for n in got.shape)], got)


def at_two_places(changes: Iterable[tuple]) -> Iterator[tuple]:
    """(sentence, sentence, change, change) of every two of some (place, sentence, change) whose places differ."""
    for (where, first, a), (other, second, b) in combinations(list(changes), 2):
        if where != other:
            yield first, second, a, b


def first_wrong(outcomes: list[Outcome]) -> Outcome:
    """The case on which proposals are made: the first whose result is wrong."""
    return next(o for o in outcomes if o.got is not None and not o.right)


def clone(args: tuple) -> tuple:
    """Arguments that a function may change: copies of tensors and modules."""
    return tuple(a.clone() if isinstance(a, Tensor) else deepcopy(a) if isinstance(a, nn.Module) else a for a in args)


def attempt(function: Callable, args: tuple):
    """The result of a candidate, or None where this mistake cannot be made. Candidates are ours: all errors count.

    Tensors are copied. Modules are not, which would take most of the time: candidates only call them.
    """
    try:
        out = function(*(a.clone() if isinstance(a, Tensor) else a for a in args))
    except (Exception, SystemExit):
        return None
    return as_tensor(out)


def as_tensor(value):
    """A plain number as a tensor without axes, a float with all its digits; any other value unchanged."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)


def plain(tensor: Tensor) -> bool:
    """Whether a tensor holds real numbers on the CPU, one for each place; only such ones are compared."""
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_complex()


def same_tensor(a, b) -> bool:
    """Whether two tensors have the same numbers, whatever their dtypes (True equals 1).

    Whole numbers must be equal, others to 1e-5. NaN equals NaN, because a mistake may produce NaN, and then so does
    the reader's function.
    """
    if isinstance(a, Reads):
        return isinstance(b, Tensor) and a.match(b)
    if not (isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape):
        return False
    if not plain(a) or not plain(b):
        return False
    if a.is_floating_point() != b.is_floating_point() and not a.ndim:
        return torch.allclose(a.detach().double(), b.detach().double(), rtol=1e-9, atol=0)  # a count of many digits
    if a.is_floating_point() or b.is_floating_point():
        return torch.allclose(a.detach().double(), b.detach().double(), rtol=1e-5, atol=1e-6, equal_nan=True)
    return torch.equal(a.long(), b.long())


def axis_names(exercise, outcome: Outcome) -> list[str]:
    """Words for the axes of the right result: from the exercise's shape formula where it has one name an axis."""
    formula = exercise.shape(*outcome.args).split(" = ")[0].strip()
    inner = re.fullmatch(r"\((.*)\)(?: with .*)?", formula)
    names = [n.strip() for n in inner[1].split(",")] if inner else []
    named = len(names) == outcome.want.ndim and not any(n == "..." or n.isdigit() or not n for n in names)
    return [f"axis {i} ({n})" if named else f"axis {i}" for i, n in enumerate(names if named else outcome.want.shape)]


def power(name: str, exponent: int) -> str:
    """h, h² and so on."""
    return name if exponent == 1 else f"{name}{str(exponent).translate(SUPERSCRIPT)}"
