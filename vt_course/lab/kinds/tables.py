"""The index into a table of relative positions: row = Σ (offset + length - 1) · stride, one digit for each axis.

`changes` lists what is often done wrongly. What is not in this list is read from the numbers of the index itself (see
`offsets`): what is taken for the offset along each axis, and by what it is multiplied.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, permutations
from math import prod

import torch
from torch import Tensor

from vt_course.lab.kinds import offsets
from vt_course.lab.kinds.common import Outcome, at_two_places, attempt


@dataclass(frozen=True)
class Rows:
    """The answer is this index, or what it finds in a table.

    lengths: from the arguments to the lengths of the window.
    names: the name of each length, as in ("P", "Mh", "Mw").
    axes: the name of each axis, as in ("time", "height", "width").
    table: whether the answer is `table[index]`, with the heads in front, of the first argument.
    """

    lengths: Callable[..., tuple[int, ...]]
    names: tuple[str, ...]
    axes: tuple[str, ...]
    table: bool = False

    def candidates(self, function: Callable, outcomes: list[Outcome]) -> Iterator[tuple[str, Callable]]:
        for _, sentence, change in self.changes():
            yield sentence, self.answer(change)
        yield from self.read(function, outcomes)

    def pairs(self, outcomes: list[Outcome]) -> Iterator[tuple[str, str, Callable]]:
        for first, second, a, b in at_two_places(self.changes()):
            yield first, second, self.answer(a | b)

    def changes(self):
        """Triples of what is changed, a sentence, and the settings of `index` that differ."""
        d = range(len(self.axes))
        yield "sign", "the offset is key minus query; it must be query minus key", {"sign": -1}
        yield (
            "sign",
            "the sign of the offset is lost: before and after must have rows of their own",
            {"absolute": set(d)},
        )
        for a in d:
            if len(d) > 1:
                yield (
                    "sign",
                    f"the sign of the offset along {self.axes[a]} is lost (an absolute value?)",
                    {"absolute": {a}},
                )
                yield "sign", f"the offset along {self.axes[a]} has the other sign", {f"sign{a}": -1}
        for a in d:
            text = f"the offset along {self.axes[a]} is not moved to start at 0: add {self.names[a]}-1"
            yield f"move{a}", text, {f"move{a}": lambda m, a: 0}
        n = self.names[-1]
        for plus, size in ((1, "large"), (-1, "small")):
            instead = n if plus > 0 else f"{n}-2"
            yield (
                f"move{d[-1]}",
                f"every row is one too {size}: is {instead} added to the offset along {self.axes[-1]}, and not {n}-1?",
                {"plus": plus},
            )
        for a in d:
            n = self.names[a]
            for text, move in {
                f"starts at 1, not at 0: add {n}-1, not {n}": lambda m, a: m[a],
                f"starts at -1, not at 0: add {n}-1, not {n}-2": lambda m, a: m[a] - 2,
                f"starts at 2, not at 0: add {n}-1, not {n}+1": lambda m, a: m[a] + 1,
                f"is moved by -1: add {n}-1": lambda m, a: -1,
                f"is moved by 1: add {n}-1": lambda m, a: 1,
            }.items():
                yield f"move{a}", f"the offset along {self.axes[a]} {text}", {f"move{a}": move}
            for b in d:
                if b != a:
                    yield (
                        f"move{a}",
                        f"the offset along {self.axes[a]} is moved by {self.names[b]}-1; it must be moved by {n}-1",
                        {f"move{a}": lambda m, a, b=b: m[b] - 1},
                    )
        for a in d:
            for b in d:
                if a != b:
                    to, of = self.axes[a], self.axes[b]
                    for what, keys in (
                        (f"the offset along {of} stands in place of that along {to}", ("query", "key")),
                        (f"the query's place along {of} stands in place of that along {to}", ("query",)),
                        (f"the key's place along {of} stands in place of that along {to}", ("key",)),
                    ):
                        yield f"place{a}", what, {f"{key}{a}": b for key in keys}
        factors = {"1": lambda m: 1}
        for b, n in enumerate(self.names):
            factors |= {
                f"(2{n}-1)": lambda m, b=b: 2 * m[b] - 1,
                f"{n}": lambda m, b=b: m[b],
                f"2{n}": lambda m, b=b: 2 * m[b],
                f"(2{n}-2)": lambda m, b=b: 2 * m[b] - 2,
                f"(2{n}+1)": lambda m, b=b: 2 * m[b] + 1,
            }
        for b in d[1:]:  # one base wrong for all slower digits
            for text, f in factors.items():
                if text not in ("1", f"(2{self.names[b]}-1)"):
                    yield (
                        "bases",
                        f"the digit of {self.axes[b]} has 2{self.names[b]}-1 values, which multiply the slower digits; "
                        f"you take {text}",
                        {f"base{b}": f},
                    )
        products = {name: (f,) for name, f in factors.items()}
        if len(d) > 2:
            products |= {
                f"{n}·{o}": (f, g) for (n, f), (o, g) in combinations([x for x in factors.items() if x[0] != "1"], 2)
            }
            products |= {f"{n}²": (f, f) for n, f in factors.items() if n != "1"}
        for a in d:
            right = "·".join(f"(2{self.names[b]}-1)" for b in d if b > a) or "1"
            for text, fs in products.items():
                if text != right:
                    yield (
                        f"stride{a}",
                        f"the offset along {self.axes[a]} is multiplied by {text}; it must be multiplied by {right}",
                        {f"stride{a}": lambda m, fs=fs: prod(f(m) for f in fs)},
                    )
        for order in permutations(d):
            if list(order) != list(d):
                listed = ", ".join(self.axes[a] for a in order)
                yield (
                    "digits",
                    f"the digits come in the order {listed}, slowest first; it must be {', '.join(self.axes)}",
                    {"digits": order},
                )
                yield (
                    "tokens",
                    f"the tokens of the window are listed with the axes in the order {listed}, slowest first; it must "
                    f"be {', '.join(self.axes)}"
                    + (' (`meshgrid` with indexing="xy" does that; use "ij")' if order[:2] == (1, 0) else ""),
                    {"tokens": order},
                )
        yield "rows", "rows below 0 are set to 0 (a clamp): first move the offsets to start at 0", {"low": True}
        unmoved = {f"move{a}": lambda m, a: 0 for a in d}
        yield (
            "rows",
            "the offsets are not moved to start at 0, and rows below 0 are set to 0 (a clamp)",
            unmoved | {"low": True},
        )
        if self.table:
            yield (
                "rows",
                "rows outside the table are set to its first and last one (a clamp)",
                {"low": True, "high": True},
            )
            yield "rows", "rows are taken modulo the length of the table", {"modulo": True}
        for a in d:
            n = self.names[a]
            yield ("rows", f"rows are taken modulo {n}: different offsets share a row", {"by": lambda m, a=a: m[a]})

    def read(self, function: Callable, outcomes: list[Outcome]) -> Iterator[tuple[str, Callable]]:
        """What the index is made of, up to a constant, read from its numbers in the case with the longest axes."""
        found = [(self.lengths(*o.args), self.index_of(function, o.args)) for o in outcomes if o.got is not None]
        found = sorted(((m, i) for m, i in found if i is not None), key=lambda f: min(f[0]), reverse=True)
        if not found:
            return
        flat = [((prod(m),), i) for m, i in found]
        for cases, axes in ((flat, ("the tokens of the window",)), (found, self.axes)):
            if axes is not self.axes and (len(self.axes) == 1 or min(self.lengths_of(cases)) < 2):
                continue
            first = offsets.read(cases[0][1], cases[0][0])
            reads = first and [offsets.read(i, m, first.taken) for m, i in cases]
            if not reads or None in reads:
                continue
            said = self.described(first, reads, [m for m, _ in cases], axes)
            if said:
                yield said, self.same_as(function, first.taken, flat=axes is not self.axes)
            return

    @staticmethod
    def lengths_of(cases: list[tuple]) -> list[int]:
        return [n for m, _ in cases for n in m]

    def index_of(self, function: Callable, args: tuple) -> Tensor | None:
        """(N, N): the reader's index; where the answer is looked up, that of a table whose row r holds r."""
        n = prod(self.lengths(*args))
        if not self.table:
            got = attempt(function, args)
            right = isinstance(got, Tensor) and got.shape == (n, n) and not got.is_floating_point()
            return got if right else None
        rows, heads = args[0].shape
        got = attempt(function, (torch.arange(rows, dtype=args[0].dtype)[:, None].repeat(1, heads), *args[1:]))
        if not isinstance(got, Tensor) or got.shape != (heads, n, n) or (got != got[0]).any():
            return None
        return unwrapped(got[0].round().long(), rows, self.lengths(*args))

    def described(self, first, reads: list, lengths: list[tuple], axes: tuple[str, ...]) -> str | None:
        """What is wrong with an index that was read, or None if only its constant is."""
        said = []
        if axes is not self.axes:
            if first.taken == ("nothing",):
                return None
            said.append(
                "the offset is that of the numbers of the tokens, as if the window were one row: different steps, such "
                "as one row down and one row's length to the right, then share a row of the table"
            )
        wrong = [t for t in first.taken if t != "offset"]
        if len(wrong) > 1 and len(set(first.taken)) == 1:
            said.append(offsets.TAKEN[wrong[0]][0].format("every axis"))
        else:
            said += [offsets.TAKEN[t][0].format(axes[a]) for a, t in enumerate(first.taken) if t != "offset"]
        for a in range(len(axes)) if axes is self.axes else ():
            if first.taken[a] == "nothing":
                continue
            cases = [(r.strides[a], m) for r, m in zip(reads, lengths) if m[a] > 1]
            right = "·".join(f"(2{n}-1)" for n in self.names[a + 1 :]) or "1"
            strides, sizes = [k for k, _ in cases], [m for _, m in cases]
            if all(k == prod(2 * n - 1 for n in m[a + 1 :]) for k, m in cases):
                continue
            factor = offsets.named(strides, sizes, self.names)
            yours = factor[0] if factor else f"{strides[0]} in a window of {' × '.join(map(str, sizes[0]))}"
            said.append(f"the offset along {self.axes[a]} is multiplied by {yours}; it must be multiplied by {right}")
        if not said:
            said.append("the offsets and their factors are right, but not what is added: the smallest row must be 0")
        return "; and ".join(said)

    def same_as(self, function: Callable, taken: tuple[str, ...], flat: bool) -> Callable:
        """The reader's result wherever its index is made of the same things."""

        def candidate(*args):
            index, m = self.index_of(function, args), self.lengths(*args)
            if index is None or offsets.read(index, (prod(m),) if flat else m, taken) is None:
                return None
            return function(*args)

        return candidate

    def answer(self, settings: dict) -> Callable:
        def candidate(*args):
            index = self.index(self.lengths(*args), settings, len(args[0]) if self.table else None)
            return args[0][index].permute(2, 0, 1) if self.table else index

        return candidate

    def index(self, m: tuple[int, ...], settings: dict, rows: int | None) -> Tensor:
        d = range(len(m))
        order = settings.get("tokens", tuple(d))
        grid = torch.meshgrid(*[torch.arange(m[a]) for a in order], indexing="ij")
        place = {a: g.flatten() for a, g in zip(order, grid)}
        digits = settings.get("digits", tuple(d))
        out = torch.tensor(settings.get("plus", 0))
        for a in d:
            offset = (
                settings.get("sign", 1)
                * settings.get(f"sign{a}", 1)
                * (place[settings.get(f"query{a}", a)][:, None] - place[settings.get(f"key{a}", a)])
            )
            if a in settings.get("absolute", ()):
                offset = offset.abs()
            move = settings.get(f"move{a}", lambda m, a: m[a] - 1)(m, a)
            faster = digits[digits.index(a) + 1 :]
            stride = (
                settings[f"stride{a}"](m)
                if f"stride{a}" in settings
                else prod(settings.get(f"base{b}", lambda m, b=b: 2 * m[b] - 1)(m) for b in faster)
            )
            out = out + (offset + move) * stride
        if settings.get("low"):
            out = out.clamp(min=0)
        if settings.get("high"):
            out = out.clamp(max=rows - 1)
        if settings.get("modulo"):
            out = out % rows
        return out % settings["by"](m) if "by" in settings else out


def unwrapped(index: Tensor, rows: int, m: tuple[int, ...]) -> Tensor:
    """An index as it was before negative rows were counted from the end of the table, where that makes it simple."""
    if offsets.read(index, m):
        return index
    middle = index - index[0, 0]
    return (middle + rows // 2) % rows - rows // 2
