"""An index of relative positions, read from its numbers: what stands for each offset, and its factor."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement, product
from math import prod

import torch
from torch import Tensor

# What may be taken for the offset of query and key along an axis: what is wrong with it, and its numbers.
TAKEN = {
    "offset": ("", lambda q, k: q - k),
    "size": (
        "the sign of the offset along {} is lost (an absolute value?): before and after must have rows of their own",
        lambda q, k: (q - k).abs(),
    ),
    "after": (
        "negative offsets along {} all count as 0 (a clamp?): every offset must have a row of its own",
        lambda q, k: (q - k).clamp(min=0),
    ),
    "before": (
        "positive offsets along {} all count as 0 (a clamp?): every offset must have a row of its own",
        lambda q, k: (q - k).clamp(max=0),
    ),
    "near": (
        "offsets along {} beyond 1 and -1 count as these two (a clamp?): every offset must have a row of its own",
        lambda q, k: (q - k).clamp(-1, 1),
    ),
    "query": ("along {} only the place of the query counts, not the offset", lambda q, k: q + 0 * k),
    "key": ("along {} only the place of the key counts, not the offset", lambda q, k: k + 0 * q),
    "sum": ("along {} query and key are added; the offset is query minus key", lambda q, k: q + k),
    "nothing": ("the offset along {} is left out", lambda q, k: 0 * (q - k)),
}


@dataclass(frozen=True)
class Read:
    """What an index is made of in one case: for each axis a key of `TAKEN`, and the rows that a step of it counts."""

    taken: tuple[str, ...]
    strides: tuple[int, ...]


def places(m: tuple[int, ...]) -> list[Tensor]:
    """For each axis the places of all tokens, (N,), the last axis fastest."""
    return [g.flatten() for g in torch.meshgrid(*map(torch.arange, m), indexing="ij")]


def numbers(taken: str, place: Tensor) -> Tensor:
    """(N, N): rows are queries."""
    return TAKEN[taken][1](place[:, None], place[None, :])


def read(index: Tensor, m: tuple[int, ...], taken: tuple[str, ...] | None = None) -> Read | None:
    """The simplest description of an index (N, N), up to a constant, or None; `taken` permits this one only."""
    at = places(m)
    index = (index - index[0, 0]).double().flatten()
    some = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))[:400]
    columns = {}
    for a, place in enumerate(at):
        for t in TAKEN:
            column = numbers(t, place)
            columns[t, a] = (column - column[0, 0]).double().flatten()
    ways = [taken] if taken else sorted(product(TAKEN, repeat=len(m)), key=lambda ts: sum(t != "offset" for t in ts))
    for way in ways:
        x = torch.stack([columns[t, a] for a, t in enumerate(way)], -1)  # (N·N, axes)
        strides = torch.linalg.lstsq(x[some], index[some, None], driver="gelsd").solution.round()  # (axes, 1)
        if torch.equal((x[some] @ strides)[:, 0], index[some]) and torch.equal((x @ strides)[:, 0], index):
            if taken or all(k or t == "nothing" or n == 1 for k, t, n in zip(strides, way, m)):
                return Read(way, tuple(int(k) for k in strides))
    return None


def factors(names: tuple[str, ...]) -> Iterator[tuple[str, Callable]]:
    """By what an offset may be multiplied: a text, and a function of the lengths. Simple ones first."""
    bases = {}
    for b, n in enumerate(names):
        bases |= {
            f"(2{n}-1)": lambda m, b=b: 2 * m[b] - 1,
            f"{n}": lambda m, b=b: m[b],
            f"2{n}": lambda m, b=b: 2 * m[b],
            f"(2{n}-2)": lambda m, b=b: 2 * m[b] - 2,
            f"(2{n}+1)": lambda m, b=b: 2 * m[b] + 1,
            f"({n}-1)": lambda m, b=b: m[b] - 1,
        }
    yield from {"0": lambda m: 0, "1": lambda m: 1, "2": lambda m: 2}.items()
    yield from bases.items()
    for (s, f), (t, g) in combinations_with_replacement(list(bases.items()), 2):
        yield (f"{s}²" if s == t else f"{s}·{t}"), lambda m, f=f, g=g: f(m) * g(m)
    for (s, f), (t, g) in combinations(list(bases.items()), 2):
        yield f"({s} + {t})", lambda m, f=f, g=g: f(m) + g(m)
    for three in combinations_with_replacement([f"(2{n}-1)" for n in names], 3):
        yield "·".join(three), lambda m, three=three: prod(bases[t](m) for t in three)


def named(strides: list[int], lengths: list[tuple], names: tuple[str, ...]) -> tuple[str, Callable] | None:
    """The factor that gives these strides for these lengths, in all cases, or None."""
    for text, f in factors(names):
        for sign, mark in ((1, ""), (-1, "-")):
            if all(k == sign * f(m) for k, m in zip(strides, lengths)):
                return mark + text, lambda m, f=f, sign=sign: sign * f(m)
    return None
