"""Axes that are split, ordered or merged wrongly: for exercises whose answer is one einops pattern.

The reader's function is called on a tensor in which each number is its own place in memory, with factors of different
lengths. From the numbers of the answer it can be read which factor runs slowest, which comes next, and so on, and
how each axis was split. So no list of wrong orders is needed: every order has its sentence.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, permutations, product

import torch
from einops import rearrange, reduce
from torch import Tensor

from vt_course.lab.kinds.common import Outcome, Reads, attempt


@dataclass(frozen=True)
class Axes:
    """The answer is `rearrange(first argument, pattern, **sizes)`.

    pattern: an einops pattern, such as "b (T p) (H h) (W w) c -> (b T H W) (p h w) c".
    probe: the length of each letter; lengths above 1, different where they can be.
    arguments: from the first argument and these lengths to all arguments.
    sizes: from the arguments of a case to the lengths that `rearrange` needs.
    words: a name for each letter that is shown to the reader.
    before: what is done to the first argument before it is cut (padding).
    """

    pattern: str
    probe: dict[str, int]
    arguments: Callable[[Tensor, dict[str, int]], tuple]
    sizes: Callable[..., dict[str, int]]
    words: dict[str, str]
    before: Callable[[Tensor], Tensor] = lambda x: x

    def candidates(self, function: Callable, outcomes: list[Outcome]) -> Iterator[tuple[str, Callable]]:
        left, right = sides(self.pattern)
        yield from self.reductions(right)
        shape = [math.prod(self.probe[a] for a in group) for group in left]
        numbers = torch.arange(math.prod(shape), dtype=torch.float64).view(shape)
        got = attempt(function, self.arguments(numbers.float(), self.probe))
        if not isinstance(got, Tensor) or not got.numel() or got.is_complex() or not torch.isfinite(got.double()).all():
            return
        wanted = [a for g in right for a in g]
        read = read_order(got.detach().double(), left, self.probe, wanted)
        if read is None:
            return
        reading, order, backwards = read
        groups = group(order, tuple(got.shape), self.probe)
        missing = [a for a in wanted if a not in order]
        if order == wanted and reading == left and groups == right and not backwards:
            return
        said = self.sentence(left, right, reading, order, groups, missing, backwards)
        pattern = f"{written(reading)} -> {' '.join([*missing, *order])}"

        def candidate(x, *rest):
            sizes = self.sizes(x, *rest)
            out = rearrange(self.before(x), pattern, **sizes)  # one axis for each factor
            out = out.flip([len(missing) + order.index(a) for a in backwards])
            out = out[(0,) * len(missing)] if missing else out
            if groups is None:
                return Reads(out.flatten(), torch.flatten)
            at = iter(out.shape)
            return out.reshape([math.prod(next(at) for _ in g) for g in groups])

        yield said, candidate

        # the order is the same in all cases, but the shape is made otherwise (a plain reshape to the right shape)
        yield said, lambda *args: Reads(in_one_row(candidate(*args)), torch.flatten)

    def reductions(self, right: list[list[str]]) -> Iterator[tuple[str, Callable]]:
        """One or two factors are added up, averaged or reduced to their largest."""
        letters = [a for g in right for a in g]
        for gone in [*((a,) for a in letters), *combinations(letters, 2)]:
            kept = " ".join(f"({' '.join(a for a in g if a not in gone)})" for g in right if set(g) - set(gone))
            pattern = f"{self.pattern.split('->')[0]} -> {kept}"
            for how, words in (("sum", "added up"), ("mean", "averaged"), ("max", "reduced to the largest one")):
                yield (
                    f"the numbers of {' and '.join(self.words.get(a, a) for a in gone)} are {words}; they must all be "
                    "kept",
                    lambda x, *rest, how=how, pattern=pattern: reduce(
                        self.before(x), pattern, how, **self.sizes(x, *rest)
                    ),
                )

    def pairs(self, outcomes: list[Outcome]) -> Iterator[tuple[str, str, Callable]]:
        return iter(())  # whatever is done to the axes has one sentence already

    def sentence(self, left, right, reading, order, groups, missing, backwards) -> str:
        def words(letters):
            return "(" + " · ".join(self.words.get(a, a) for a in letters) + ")"

        said = []
        if backwards:
            named = " and along ".join(self.words.get(a, a) for a in backwards)
            said.append(f"along {named} your numbers run backwards, the last one first; nothing is to be flipped")
        if missing:
            said.append(f"of {' and '.join(self.words.get(a, a) for a in missing)} only the first is in your result")
        for axis, (was, now) in enumerate(zip(left, reading)):
            if was != now:
                said.append(f"you split axis {axis} of the input as {words(now)}; it is {words(was)}, slowest first")
        right = [[a for a in g if a in order] for g in right]
        wanted = [a for g in right for a in g]
        if groups is not None and len(groups) == len(right) and all(set(a) == set(b) for a, b in zip(groups, right)):
            said += [
                f"inside axis {axis} your numbers run {words(is_)}, slowest first; they must run {words(must)}"
                for axis, (is_, must) in enumerate(zip(groups, right))
                if is_ != must
            ]
        elif order == wanted and groups is not None:
            said.append(f"your axes are {', '.join(map(words, groups))}; they must be {', '.join(map(words, right))}")
        elif order != wanted and groups is None:
            said.append(f"your numbers run {words(order)}, slowest first; they must run {words(wanted)}")
        elif order != wanted:
            yours, must = (", ".join(map(words, g)) for g in (groups, right))
            said.append(f"your axes are {yours}, slowest first; they must be {must}")
        elif not said:
            said.append(f"your shape is made wrongly: the axes must be {', '.join(map(words, right))}")
        return "; and ".join(said)


def in_one_row(value):
    return value.right if isinstance(value, Reads) else value.flatten()


def sides(pattern: str) -> tuple[list[list[str]], list[list[str]]]:
    """ "b (h i) -> b h i" as [[b], [h, i]], [[b], [h], [i]]."""
    out = []
    for side in pattern.split("->"):
        groups, inside = [], None
        for letter in side.replace("(", " ( ").replace(")", " ) ").split():
            if letter == "(":
                inside = []
            elif letter == ")":
                groups.append(inside)
                inside = None
            elif inside is not None:
                inside.append(letter)
            else:
                groups.append([letter])
        out.append(groups)
    return out[0], out[1]


def written(groups: list[list[str]]) -> str:
    return " ".join(f"({' '.join(g)})" if len(g) > 1 else g[0] for g in groups)


def read_order(got: Tensor, left: list[list[str]], size: dict[str, int], wanted: list[str]) -> tuple | None:
    """(how each axis was split, the letters from slowest to fastest, those that run backwards) of `got`, or None.

    Where factors have equal lengths several answers are possible; the one with the fewest mistakes is given.
    """
    flat = got.flatten()
    relative = flat - flat[0]
    found = []
    for reading in (list(map(list, r)) for r in product(*(permutations(g) for g in left))):
        steps, stride = {}, 1
        for letter in reversed([a for g in reading for a in g]):
            steps[letter], stride = stride, stride * size[letter]
        order, backwards, block = [], [], 1
        while block < len(flat):
            for letter, n in size.items():
                if letter in order or n < 2 or block * n > len(flat):
                    continue
                here = relative[torch.arange(n) * block].tolist()
                forwards = [float(k * steps[letter]) for k in range(n)]
                if here in (forwards, [-f for f in forwards]):
                    order.insert(0, letter)
                    backwards += [letter] if here != forwards else []
                    block *= n
                    break
            else:
                break
        if block == len(flat) and torch.equal(flat, expected(order, steps, size, backwards)):
            changed = sum(a != b for a, b in zip(reading, left)) + (order != [a for a in wanted if a in order])
            found.append((changed + len(backwards), len(found), reading, order, backwards))
    return min(found)[2:] if found else None


def expected(order: list[str], steps: dict[str, int], size: dict[str, int], backwards: list[str]) -> Tensor:
    out = torch.zeros(1, dtype=torch.float64)
    for letter in order:
        places = torch.arange(size[letter], dtype=torch.float64)
        out = (out[:, None] + steps[letter] * (places.flip(0) if letter in backwards else places)).flatten()
    return out


def group(order: list[str], shape: tuple, size: dict[str, int]) -> list[list[str]] | None:
    """The letters of each axis of a result, or None if an axis ends inside a letter."""
    groups, at = [], 0
    for length in shape:
        inside, n = [], 1
        while n < length and at < len(order):
            n *= size[order[at]]
            inside.append(order[at])
            at += 1
        if n != length:
            return None
        groups.append(inside)
    return groups if at == len(order) else None
