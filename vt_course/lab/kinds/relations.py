"""Who may see whom: a mask that asks for one relation along each axis. One or several axes have another relation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from vt_course.lab.kinds.common import Outcome, at_two_places

# name -> what it asks of the places a (query) and b (key) along an axis of n places, and the words for it.
RELATIONS: dict[str, tuple[Callable, str]] = {
    "free": (lambda a, b, n: torch.ones_like(a == b), "are free"),
    "same": (lambda a, b, n: a == b, "must be equal"),
    "half": (lambda a, b, n: (2 * a < n) == (2 * b < n), "must lie in the same half"),
    "even": (lambda a, b, n: (a - b) % 2 == 0, "must have an even distance"),
    "half, rounded down": (
        lambda a, b, n: (a < n // 2) == (b < n // 2),
        "must lie in the same half, where the one in the middle counts to the second half",
    ),
    "first half": (lambda a, b, n: (2 * a < n) & (2 * b < n), "must both lie in the first half"),
    "first half, rounded down": (
        lambda a, b, n: (a < n // 2) & (b < n // 2),
        "must both lie in the first half, without the one in the middle",
    ),
    "key in the first half": (lambda a, b, n: (2 * b < n) & (a == a), "of the key must lie in the first half"),
    "near": (lambda a, b, n: (a - b).abs() <= n // 2, "must be at most half the axis apart"),
    "next": (lambda a, b, n: (a - b).abs() <= 1, "must be equal or neighbours"),
    "other": (lambda a, b, n: a != b, "must differ"),
    "both even": (lambda a, b, n: (a % 2 == 0) & (b % 2 == 0), "must both be even"),
    "odd": (lambda a, b, n: (a - b) % 2 == 1, "must have an odd distance"),
    "fourth": (lambda a, b, n: (a - b) % 4 == 0, "must have a distance that 4 divides"),
    "third": (lambda a, b, n: (a - b) % 3 == 0, "must have a distance that 3 divides"),
    "not after": (lambda a, b, n: b <= a, "of the key must not come after that of the query"),
}


@dataclass(frozen=True)
class Relations:
    """The answer is a boolean mask (L, L) of all pairs of places, numbered with the last axis fastest.

    axes: the plural of what each axis counts, as in ("rows", "columns", "frames").
    rules: for each name, the relation along each axis; names of `RELATIONS`.
    The arguments of the exercise are one of the names, and the lengths of the axes.
    """

    axes: tuple[str, ...]
    rules: dict[str, tuple[str, ...]]

    def candidates(self, function: Callable, outcomes: list[Outcome]) -> Iterator[tuple[str, Callable]]:
        for _, sentence, change in self.changes(range(1, len(self.axes) + 1)):
            yield sentence, self.changed(change)

    def pairs(self, outcomes: list[Outcome]) -> Iterator[tuple[str, str, Callable]]:
        for first, second, a, b in at_two_places(self.changes((1,))):
            yield first, second, self.changed(a, b)

    def changes(self, sizes):
        """Triples of a place, a sentence, and (rule, axes, relation): along the axes the rule has this relation."""
        for size in sizes:
            for rule, right in self.rules.items():
                for axes in combinations(range(len(self.axes)), size):
                    for relation, (_, words) in RELATIONS.items():
                        if all(right[a] == relation for a in axes):
                            continue
                        listed = " and ".join(self.axes[a] for a in axes)
                        must = ", ".join(f"{self.axes[a]} {RELATIONS[right[a]][1]}" for a in axes)
                        yield (
                            f"{rule} {axes}",
                            f"in `{rule}` the {listed} {words} in your mask; it must be: {must}",
                            (rule, axes, relation),
                        )

    def changed(self, *changes: tuple) -> Callable:
        rules = {name: list(right) for name, right in self.rules.items()}
        for rule, axes, relation in changes:
            for a in axes:
                rules[rule][a] = relation
        return lambda name, lengths: self.mask(rules[name], lengths)

    def mask(self, relations, lengths: tuple[int, ...]) -> Tensor:
        """(L, L): which pairs have all the relations, one for each axis."""
        grid = torch.meshgrid(*map(torch.arange, lengths), indexing="ij")
        parts = []
        for relation, place, n in zip(relations, grid, lengths):
            place = place.flatten()
            parts.append(RELATIONS[relation][0](place[:, None], place[None], n))
        return torch.stack(parts).all(0)
