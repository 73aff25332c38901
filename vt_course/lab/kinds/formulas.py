"""A whole number that is a sum of products: a factor, a power or a term of it is wrong, or one of its quantities."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations
from math import prod

import torch
from torch import Tensor

from vt_course.lab.kinds.common import Outcome, at_two_places, power


@dataclass(frozen=True)
class Formula:
    """Σ coefficient · Π quantity^power.

    terms: triples of the term as it is printed, its coefficient and its powers, ("2hwC²", 2, {"h": 1, "w": 1, "C": 2}).
    quantities: from the arguments to the value of each quantity; more may be listed than the right terms use.
    wrong: for a quantity, pairs of a sentence and a function from the arguments to a wrong value; for a tuple of
        quantities the function gives the values of all of them.
    plus: for a quantity that is a sum of something and a constant, what the constant stands for, and the constant.
    """

    terms: tuple[tuple[str, int, dict[str, int]], ...]
    quantities: Callable[..., dict[str, int]]
    wrong: dict[str | tuple[str, ...], tuple[tuple[str, Callable], ...]]
    plus: dict[str, tuple[str, int]] = field(default_factory=dict)

    def candidates(self, function: Callable, outcomes: list[Outcome]) -> Iterator[tuple[str, Callable]]:
        for _, sentence, change in self.changes(outcomes[0].args):
            yield sentence, self.with_changes(change)
        for sentence, at, how in self.sums(outcomes[0].args):
            yield sentence, self.with_sum(at, how)
        for name, (what, constant) in self.plus.items():
            yield from self.misplaced(name, what, constant)

    def pairs(self, outcomes: list[Outcome]) -> Iterator[tuple[str, str, Callable]]:
        for first, second, a, b in at_two_places(self.changes(outcomes[0].args)):
            yield first, second, self.with_changes(a, b)

    def changes(self, args: tuple):
        """Triples of a place, a sentence and change(terms, values, args), which works on copies in place."""
        names = list(self.quantities(*args))
        for name, others in self.wrong.items():
            for sentence, value in others:
                yield name, sentence, lambda terms, values, args, n=name, v=value: values[0].update(named(n, v(*args)))
                if len(self.terms) > 1:
                    for i, (text, *_) in enumerate(self.terms):
                        yield (
                            f"{name} {i}",
                            f"in the term {text}, and only there: {sentence}",
                            lambda terms, values, args, n=name, v=value, i=i: values[1][i].update(named(n, v(*args))),
                        )
        several = len(self.terms) > 1
        for i, (text, coefficient, powers) in enumerate(self.terms):
            where = f"the term {text}" if several else f"your formula ({text})"
            for k in (*range(1, 13), Fraction(1, 2)):
                if k != coefficient:
                    yield (
                        f"coefficient {i}",
                        f"{where} must have the factor {coefficient}; yours has {k}",
                        lambda terms, values, args, i=i, k=k: set_coefficient(terms, i, k),
                    )
            if several:
                yield (
                    f"coefficient {i}",
                    f"{where} is missing",
                    lambda terms, values, args, i=i: set_coefficient(terms, i, 0),
                )
            for name in names:
                for by, words in (
                    (-1, f"in {where} a factor {name} is missing"),
                    (1, f"in {where} there is one factor {name} too many"),
                    (-2, f"in {where} the factor {name} is missing twice"),
                ):
                    if by > 0 or powers.get(name, 0) >= -by:
                        yield (
                            f"power {i}",
                            words,
                            lambda terms, values, args, i=i, n=name, by=by: add_power(terms, i, n, by),
                        )
                if powers.get(name, 0) > 1:
                    for other in names:
                        if other != name:
                            yield (
                                f"power {i}",
                                f"in {where} {power(name, 2)} is replaced by {power(other, 2)}",
                                lambda terms, values, args, i=i, n=name, o=other: (
                                    add_power(terms, i, n, -2),
                                    add_power(terms, i, o, 2),
                                ),
                            )
                for other in names:
                    if powers.get(name) and other != name:
                        yield (
                            f"power {i}",
                            f"in {where} one factor {name} is replaced by {other}",
                            lambda terms, values, args, i=i, n=name, o=other: (
                                add_power(terms, i, n, -1),
                                add_power(terms, i, o, 1),
                            ),
                        )

    def misplaced(self, name: str, what: str, constant: int):
        """A constant that belongs to a quantity, added to its power or to the whole product instead."""

        def total(args: tuple, change: Callable) -> Tensor:
            q = self.quantities(*args)
            terms = [
                (c * prod(q[n] ** k for n, k in powers.items() if n != name), q[name], powers.get(name, 0))
                for _, c, powers in self.terms
            ]
            return torch.tensor(sum(change(rest, value, k) if k else rest for rest, value, k in terms))

        for words, change in {
            f"is added after the power: {name} contains it, so add it first": (
                lambda rest, value, k: rest * ((value - constant) ** k + constant)
            ),
            f"is added to the whole product: {name} contains it, so add it first": (
                lambda rest, value, k: rest * (value - constant) ** k + constant
            ),
            f"is in one factor {name} only: it belongs in each": (
                lambda rest, value, k: rest * (value - constant) ** (k - 1) * value
            ),
            f"is added once more after the power: {name} contains it already": (
                lambda rest, value, k: rest * (value**k + constant)
            ),
            f"is added once more to the whole product: {name} contains it already": (
                lambda rest, value, k: rest * value**k + constant
            ),
        }.items():
            yield f"{what} {words}", lambda *args, change=change: total(args, change)

    def sums(self, args: tuple):
        """A + that stands where a · belongs, in one of the terms: pairs of a sentence and the two groups of factors."""
        for i, (text, coefficient, powers) in enumerate(self.terms):
            factors = ["", *sorted(n for n, k in powers.items() for _ in range(k))]  # "" is the coefficient
            for size in range(1, len(factors)):
                for part in set(combinations(factors[1:], size)):
                    rest = list(factors)
                    for name in part:
                        rest.remove(name)
                    groups = [[str(coefficient) if n == "" else n for n in g] for g in (rest, part)]
                    yield (
                        f"in the term {text} a + stands where a · belongs: yours is "
                        + " + ".join("·".join(g) for g in groups),
                        i,
                        (rest, part),
                    )
            for a, b in combinations(sorted(powers), 2):
                k = min(powers[a], powers[b])
                yield f"in the term {text} you take {a} + {b} in place of {a} · {b}", i, (a, b, k)
        if all(len(p) > 1 for *_, p in self.terms):
            for a, b in combinations(sorted(set.intersection(*(set(p) for *_, p in self.terms))), 2):
                yield f"you take {a} + {b} in place of {a} · {b}", None, (a, b, None)

    def with_sum(self, at: int | None, how: tuple) -> Callable:
        def candidate(*args):
            q, total = self.quantities(*args), 0
            for i, (_, coefficient, powers) in enumerate(self.terms):
                if at is not None and i != at:
                    total += coefficient * prod(q[n] ** k for n, k in powers.items())
                elif len(how) == 2:
                    total += sum(prod(coefficient if n == "" else q[n] for n in group) for group in how)
                else:
                    a, b, k = how[0], how[1], how[2] or min(powers[how[0]], powers[how[1]])
                    rest = {n: p - k * (n in (a, b)) for n, p in powers.items()}
                    total += coefficient * (q[a] + q[b]) ** k * prod(q[n] ** p for n, p in rest.items())
            return torch.tensor(total)

        return candidate

    def with_changes(self, *changes: Callable) -> Callable:
        def candidate(*args):
            right = self.quantities(*args)
            values = dict(right), [dict() for _ in self.terms]  # for all terms, and for one of them only
            terms = [[coefficient, dict(powers)] for _, coefficient, powers in self.terms]
            for change in changes:
                change(terms, values, args)
            total = sum(
                c * prod((Fraction((values[0] | own)[n]) ** k for n, k in powers.items()), start=Fraction(1))
                for (c, powers), own in zip(terms, values[1])
            )
            return torch.tensor(int(total)) if Fraction(total).denominator == 1 else torch.tensor(float(total)).double()

        return candidate


def named(names: str | tuple[str, ...], values) -> dict:
    """One quantity and its value, or several and theirs."""
    return {names: values} if isinstance(names, str) else dict(zip(names, values))


def set_coefficient(terms: list, i: int, value) -> None:
    terms[i][0] = value


def add_power(terms: list, i: int, name: str, by: int) -> None:
    terms[i][1][name] = terms[i][1].get(name, 0) + by
