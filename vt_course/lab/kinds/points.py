"""Points in time, ⌊(a·i + b) · whole / (c · count)⌋ for i = 0, 1, ..., with a number or the rounding wrong."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from vt_course.lab.kinds.common import Outcome, first_wrong

ROUNDED = {"⌊{}⌋": lambda a, b: a // b, "⌈{}⌉": lambda a, b: -(-a // b), "{} rounded": lambda a, b: round(a / b)}
DIVIDED = {  # how a·i + b meets the whole, c and the count: all is divided at the end, or some of it too early
    "({a}) · {n} / ({c} · {f})": lambda r, k, n, c, f: r(k * n, c * f),
    "({a}) · ⌊{n} / {f}⌋ / {c}": lambda r, k, n, c, f: r(k * (n // f), c),
    "({a}) · ⌊{n} / {c}⌋ / {f}": lambda r, k, n, c, f: r(k * (n // c), f),
    "({a}) · ⌊{n} / ({c} · {f})⌋": lambda r, k, n, c, f: k * (n // (c * f)),
    "({a}) · {n} / {c}": lambda r, k, n, c, f: r(k * n, c),
    "({a}) · {n} / {c} · {f}": lambda r, k, n, c, f: r(k * n, c) * f,
    "({a}) · {n} / ({c} · {f} - 1)": lambda r, k, n, c, f: r(k * n, c * f - 1),
    "({a}) · {n} / ({c} · {f} + 1)": lambda r, k, n, c, f: r(k * n, c * f + 1),
}
ENDS = {
    "": lambda p, n: p,
    ", kept inside the video": lambda p, n: min(max(p, 0), n - 1),
    ", taken modulo the number of frames": lambda p, n: p % n,
}


@dataclass(frozen=True)
class Points:
    """The answer is ⌊(step · i + first) · whole / (parts · count)⌋ for i = 0 to count - 1.

    whole, count: how the two arguments are called; the function takes them in this order.
    """

    whole: str
    count: str
    step: int = 2
    first: int = 1
    parts: int = 2

    def candidates(self, function: Callable, outcomes: list[Outcome]) -> Iterator[tuple[str, Callable]]:
        outcome = first_wrong(outcomes)
        n, f = outcome.args
        got = outcome.got
        if got.shape != (f,) or got.is_floating_point():
            return
        seen = got.tolist()
        for how in sorted(self.ways(), key=self.wrongs):
            ends = [self.point(how, i, n, f) for i in (0, f - 1)]
            if ends == [seen[0], seen[-1]]:
                yield self.sentence(how), lambda n, f, how=how: self.points(how, n, f)

    def pairs(self, outcomes: list[Outcome]) -> Iterator[tuple[str, str, Callable]]:
        return iter(())  # what is wrong with a formula has one sentence

    def ways(self) -> Iterator[tuple]:
        return product((1, 2, 4), range(-3, 5), (1, 2, 4), (0, -1, 1), (0, -1, 1), ROUNDED, DIVIDED, ENDS)

    def right(self) -> tuple:
        return (self.step, self.first, self.parts, 0, 0, *(next(iter(d)) for d in (ROUNDED, DIVIDED, ENDS)))

    def wrongs(self, how: tuple) -> int:
        return sum(a != b for a, b in zip(how, self.right()))

    def point(self, how: tuple, i: int, n: int, f: int) -> int | None:
        step, first, parts, more, others, rounded, divided, end = how
        try:
            return ENDS[end](DIVIDED[divided](ROUNDED[rounded], step * i + first, n + more, parts, f + others), n)
        except ZeroDivisionError:
            return None

    def points(self, how: tuple, n: int, f: int) -> Tensor:
        return torch.tensor([self.point(how, i, n, f) for i in range(f)])

    def sentence(self, how: tuple) -> str:
        right = self.right()
        said = ""
        if self.wrongs(how) == 1 and how[2] != right[2]:
            said = f"the denominator is {times(how[2], self.count)}, and must be {times(right[2], self.count)}: "
        return f"{said}you take {self.written(how)}; it must be {self.written(right)}"

    def written(self, how: tuple) -> str:
        step, first, parts, more, others, rounded, divided, end = how
        line = "i" if step == 1 else f"{step}i"
        names = ((self.whole, more), (self.count, others))
        line += f" {'+' if first > 0 else '-'} {abs(first)}" if first else ""
        n, f = (f"({name} {'+' if by > 0 else '-'} 1)" if by else name for name, by in names)
        text = divided.format(a=line, n=n, c=parts, f=f).replace("(1 · ", "(").replace("(i)", "i")
        text = text.removesuffix(" / 1").replace(f"({f})", f) if parts == 1 else text
        return rounded.format(text) + end


def times(parts: int, name: str) -> str:
    return name if parts == 1 else f"{parts} · {name}"
