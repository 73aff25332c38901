"""A whole number that is a sum of products: a factor, a power or a term of it is wrong, or one of its quantities."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations, product
from math import floor, prod

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
    beside: what a reader may count besides, as pairs of its name and its powers; it does not belong to the formula.
    """

    terms: tuple[tuple[str, int, dict[str, int]], ...]
    quantities: Callable[..., dict[str, int]]
    wrong: dict[str | tuple[str, ...], tuple[tuple[str, Callable], ...]]
    plus: dict[str, tuple[str, int]] = field(default_factory=dict)
    beside: tuple[tuple[str, dict[str, int]], ...] = ()

    def candidates(self, function: Callable, outcomes: list[Outcome]) -> Iterator[tuple[str, Callable]]:
        for _, sentence, change in self.changes(outcomes[0].args):
            yield sentence, self.with_changes(change)
        for sentence, at, how in self.sums(outcomes[0].args):
            yield sentence, self.with_sum(at, how)
        for name, (what, constant) in self.plus.items():
            yield from self.misplaced(name, what, constant)
        yield from self.one_term_more(self.with_changes(), outcomes)

    def pairs(self, outcomes: list[Outcome]) -> Iterator[tuple[str, str, Callable]]:
        monomials = self.monomials(outcomes)
        for _, first, change in self.changes(outcomes[0].args):
            for second, candidate in self.one_term_more(self.with_changes(change), outcomes, monomials):
                yield first, second, candidate
        for first, second, a, b in at_two_places(self.changes(outcomes[0].args)):
            yield first, second, self.with_changes(a, b)

    def one_term_more(self, base: Callable, outcomes: list[Outcome], monomials: list | None = None):
        """A term that does not belong: a coefficient times powers of the quantities, read from what is left over."""
        rest = [o.got.item() - base(*o.args).item() for o in outcomes if number(o.got)]
        if len(rest) < 3 or not all(rest):
            return
        names = self.names()
        for powers, sizes in monomials or self.monomials(outcomes):
            near = Fraction(rest[0] / sizes[0]).limit_denominator(2)
            if not near or abs(near) > 12 or any(r != near * size for r, size in zip(rest, sizes)):
                continue
            written = "·".join(power(n, k) for n, k in zip(names, powers) if k) or "1"
            what = next((w for w, own in self.beside if powers == tuple(own.get(n, 0) for n in names)), None)
            written = written if abs(near) == 1 else f"{abs(near)}·{written}"
            said = f"there is a term too {'many' if near > 0 else 'few'}: {written}"

            def candidate(*args, powers=powers, near=near):
                q = self.quantities(*args)
                total = base(*args).item() + near * prod(q[n] ** k for n, k in zip(names, powers))
                return torch.tensor(float(total), dtype=torch.float64)

            yield said + (f", which is {what}" if what else ""), candidate
            return

    def names(self) -> list[str]:
        """The quantities of the formula."""
        return list(dict.fromkeys(name for *_, powers in self.terms for name in powers))

    def monomials(self, outcomes: list[Outcome]) -> list[tuple]:
        """Pairs of powers of the quantities and, for each case with a number, their product."""
        values = [self.quantities(*o.args) for o in outcomes if number(o.got)]
        names = self.names()
        return [
            (powers, [prod(v[n] ** k for n, k in zip(names, powers)) for v in values])
            for powers in product(range(4), repeat=len(names))
        ]

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

            squared = [n for n, k in powers.items() if k == 2]
            for chosen in ([squared] if squared else []) + ([[n] for n in squared] if len(squared) > 1 else []):
                inside = "·".join(chosen)
                one = inside if len(chosen) == 1 else f"({inside})"
                for shown, square in (
                    (f"{one}·({inside} - 1)/2", lambda p: p * (p - 1) // 2),
                    (f"{one}·({inside} + 1)/2", lambda p: p * (p + 1) // 2),
                    *([] if self.plus.keys() & chosen else [(f"{one}·({inside} - 1)", lambda p: p * (p - 1))]),
                ):
                    why = "the two orders of a pair count once" if "/2" in shown else "nothing is paired with itself"
                    yield (
                        f"square {i}",
                        f"in {where} you take {shown} in place of {one}²: {why}; all ordered pairs count",
                        lambda terms, values, args, i=i, chosen=chosen, square=square: terms[i].append(
                            (chosen, square)
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
            total = 0
            for (c, powers, *squares), own in zip(terms, values[1]):
                value, left = values[0] | own, dict(powers)
                for names, square in squares:  # something else in place of the square of a product
                    c *= square(prod(value[n] for n in names))
                    left |= {n: left[n] - 2 for n in names}
                total += c * prod((Fraction(value[n]) ** k for n, k in left.items()), start=Fraction(1))
            return torch.tensor(floor(total))

        return candidate


def number(got) -> bool:
    """Whether a result is one number."""
    return isinstance(got, Tensor) and not got.ndim


def named(names: str | tuple[str, ...], values) -> dict:
    """One quantity and its value, or several and theirs."""
    return {names: values} if isinstance(names, str) else dict(zip(names, values))


def set_coefficient(terms: list, i: int, value) -> None:
    terms[i][0] = value


def add_power(terms: list, i: int, name: str, by: int) -> None:
    terms[i][1][name] = terms[i][1].get(name, 0) + by
