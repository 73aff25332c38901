"""Kinds that need only the right function: it was computed on wrong arguments.

One argument stands for another, is not used (as if it were 0 or 1), has the other sign, is off by one, is transposed;
the entries of a tuple are exchanged; only the first image of a batch is used; modules of a block are not called.
"""

import inspect
from collections.abc import Callable, Iterator
from copy import copy
from itertools import combinations, permutations

import torch
from torch import Tensor, nn

from vt_course.lab.kinds.common import Outcome, first_wrong


def edits(exercise, outcomes: list[Outcome]) -> Iterator[tuple[str, Callable]]:
    """Pairs of a sentence and a function from the arguments to other arguments."""
    names = list(inspect.signature(exercise.definition).parameters)
    args = first_wrong(outcomes).args
    for i, (name, value) in enumerate(zip(names, args)):
        if isinstance(value, Tensor):
            yield from of_tensor(i, name, value)
        elif isinstance(value, bool):
            pass
        elif isinstance(value, (int, float)):
            yield from of_number(i, name, value)
        elif isinstance(value, tuple):
            yield from of_tuple(i, name, value, exercise.parts.get(name) or [f"{name}[{k}]" for k in range(len(value))])
        elif callable(value) or hasattr(value, "__dict__"):
            yield from of_modules(i, name, value)
        elif isinstance(value, str):
            yield from of_text(i, name, value, {o.args[i] for o in outcomes})
    for i, name in enumerate(names[: len(args)]):
        for j, other in enumerate(names[: len(args)]):
            if i != j and alike(args[i], args[j]):
                yield (
                    f"your result is the right one for {name} = {other}: `{other}` stands in place of `{name}`",
                    lambda a, i=i, j=j: put(a, i, a[j]),
                )
                if i < j:
                    yield (f"`{name}` and `{other}` are exchanged", lambda a, i=i, j=j: put(put(a, i, a[j]), j, a[i]))
    yield from instead_of_tuples(names, args)


def forgotten(exercise, outcomes: list[Outcome]) -> Iterator[tuple[str, Callable]]:
    """The edits that may be one of two mistakes: an argument or an entry that is not used, or is transposed."""
    for sentence, edit in edits(exercise, outcomes):
        if "that is 1" not in sentence and ("not used" in sentence or "transposed" in sentence):
            yield sentence, edit


def instead_of_tuples(names: list[str], args: tuple):
    """A tuple is ignored, and what it should say is taken from another one, or is a constant."""
    tuples = [i for i, a in enumerate(args) if isinstance(a, tuple) and all(isinstance(v, int) for v in a)]
    for i in tuples:
        for constant in (1, 2, 3):
            yield (
                f"`{names[i]}` is ignored: your result is always that of ({', '.join([str(constant)] * len(args[i]))})",
                lambda a, i=i, c=constant: put(a, i, (c,) * len(a[i])),
            )
        for j in tuples:
            if i == j or len(args[i]) != len(args[j]):
                continue
            other = names[j]
            yield (
                f"`{names[i]}` is ignored: your result is always that of {other} // 2",
                lambda a, i=i, j=j: put(a, i, tuple(v // 2 for v in a[j])),
            )
            yield (
                f"your result is that of {other} - {names[i]} in place of `{names[i]}`",
                lambda a, i=i, j=j: put(a, i, tuple(v - own for own, v in zip(a[i], a[j]))),
            )
            yield (
                f"the numbers in `{names[i]}` are ignored: your result is that of {other} // 2 wherever they are not 0",
                lambda a, i=i, j=j: put(a, i, tuple(v // 2 if own else 0 for own, v in zip(a[i], a[j]))),
            )
            for k in range(len(args[i])):
                yield (
                    f"only entry {k} of `{names[i]}` is used: your result is that of {other} // 2 along the others",
                    lambda a, i=i, j=j, k=k: put(a, i, put(tuple(v // 2 for v in a[j]), k, a[i][k])),
                )
                yield (
                    f"entry {k} of `{names[i]}` is ignored: your result is always that of half of `{other}` there",
                    lambda a, i=i, j=j, k=k: put(a, i, put(a[i], k, a[j][k] // 2)),
                )
            for third in tuples:
                if third not in (i, j) and len(args[third]) == len(args[i]):
                    yield (
                        f"`{names[i]}` is ignored: your result is always that of {other} // 2 where `{names[third]}` "
                        f"is larger than `{other}`, and of 0 elsewhere",
                        lambda a, i=i, j=j, t=third: put(
                            a, i, tuple(v // 2 if n > v else 0 for v, n in zip(a[j], a[t]))
                        ),
                    )


def put(args: tuple, i: int, value) -> tuple:
    return (*args[:i], value, *args[i + 1 :])


def alike(a, b) -> bool:
    """Whether one argument can stand for another."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b)
    return isinstance(a, (int, float)) and isinstance(b, (int, float))


def edited(sentence: str, i: int, function: Callable) -> tuple[str, Callable]:
    return sentence, lambda args: put(args, i, function(args[i]))


def of_tensor(i: int, name: str, value: Tensor):
    if value.is_floating_point():
        yield edited(f"`{name}` is not used: your result is that of a `{name}` that is 0", i, torch.zeros_like)
        yield edited(f"`{name}` counts twice", i, lambda t: 2 * t)
        yield edited(f"`{name}` has the other sign", i, torch.neg)
        yield edited(f"the absolute value of `{name}` is used: its sign is lost", i, torch.abs)
        yield edited(f"`{name}` is not used: your result is that of a `{name}` that is 1", i, torch.ones_like)
    if value.ndim >= 2 and value.shape[-1] == value.shape[-2]:
        yield edited(f"`{name}` is transposed: its last two axes are exchanged", i, lambda t: t.mT)
    for axis in range(value.ndim):
        if value.shape[axis] > 1:
            yield edited(
                f"of `{name}` only the first place of axis {axis} is used, for all",
                i,
                lambda t, axis=axis: t.narrow(axis, 0, 1).expand_as(t),
            )
            yield edited(f"`{name}` is read backwards along axis {axis}", i, lambda t, axis=axis: t.flip(axis))
    if value.ndim > 1:
        yield edited(f"only the first entry of the batch is used, `{name}[:1]`", i, lambda t: t[:1])
    for a, b in ((a, b) for a in range(value.ndim) for b in range(a)):
        # the numbers are read as if two axes had been exchanged, with the shape that was expected
        yield edited(f"axes {b} and {a} of `{name}` are exchanged", i, lambda t, a=a, b=b: t.transpose(a, b))
        yield edited(
            f"`{name}` is reshaped where its axes {b} and {a} must be exchanged: a reshape or view moves no number; "
            "use `transpose` or `permute`",
            i,
            lambda t, a=a, b=b: reshaped(t, a, b).transpose(a, b),
        )


def reshaped(t: Tensor, a: int, b: int) -> Tensor:
    """Read with the lengths of two axes exchanged; no number moves."""
    sizes = list(t.shape)
    sizes[a], sizes[b] = sizes[b], sizes[a]
    return t.reshape(sizes)


def of_number(i: int, name: str, value):
    whole = isinstance(value, int)
    for text, function in {
        f"`{name}` is not used: your result is that of {name} = 1": lambda n: type(n)(1),
        f"`{name}` is not used: your result is that of {name} = 0": lambda n: type(n)(0),
        f"off by one: your result is that of {name} + 1": lambda n: n + 1,
        f"off by one: your result is that of {name} - 1": lambda n: n - 1,
        f"your result is that of twice the `{name}`": lambda n: 2 * n,
        f"your result is that of half the `{name}`": lambda n: n // 2 if whole else n / 2,
        f"`{name}` is squared": lambda n: n * n,
    }.items():
        yield edited(text, i, function)
    if not whole:  # nobody negates a count
        yield edited(f"`{name}` has the other sign", i, lambda n: -n)
        yield edited(f"your result is that of 1 - {name}", i, lambda n: 1 - n)


def of_tuple(i: int, name: str, value: tuple, parts):
    if not all(isinstance(v, int) for v in value):
        return
    written = ", ".join(parts)
    for order in permutations(range(len(value))):
        if list(order) != sorted(order):
            yield edited(
                f"the entries of `{name}` are taken in the wrong order: it is ({written}), and your result is that of "
                f"({', '.join(parts[k] for k in order)})",
                i,
                lambda t, order=order: tuple(t[k] for k in order),
            )
    for k, part in enumerate(parts):
        for j, other in enumerate(parts):
            if j != k:
                yield edited(
                    f"{other} stands in place of {part}: `{name}` is ({written})",
                    i,
                    lambda t, k=k, j=j: put(t, k, t[j]),
                )
        for text, function in {
            f"{part} is not used: your result is that of {part} = 0": lambda n: 0,
            f"{part} is not used: your result is that of {part} = 1": lambda n: 1,
            f"{part} has the other sign": lambda n: -n,
            f"off by one: your result is that of {part} + 1": lambda n: n + 1,
            f"off by one: your result is that of {part} - 1": lambda n: n - 1,
            f"your result is that of twice {part}": lambda n: 2 * n,
        }.items():
            yield edited(text, i, lambda t, k=k, function=function: put(t, k, function(t[k])))
        if len(parts) > 2:
            yield edited(
                f"only {part} is used: the other entries of `{name}` are taken as 0",
                i,
                lambda t, k=k: tuple(v if m == k else 0 for m, v in enumerate(t)),
            )
            yield edited(
                f"only {part} has the right sign; the other entries of `{name}` have the other one",
                i,
                lambda t, k=k: tuple(v if m == k else -v for m, v in enumerate(t)),
            )
            yield edited(f"{part} is used for all entries of `{name}`", i, lambda t, k=k: (t[k],) * len(t))
    for by, words in ((-1, "are they counted from 1, and not from 0?"), (1, "are they counted one place too late?")):
        yield edited(
            f"every entry of `{name}` is off by one: your result is that of {name} {'-+'[by > 0]} 1; {words}",
            i,
            lambda t, by=by: tuple(v + by for v in t),
        )
    yield edited(f"all entries of `{name}` have the other sign", i, lambda t: tuple(-v for v in t))
    yield edited(f"`{name}` is not used: your result is that of zeros", i, lambda t: (0,) * len(t))


def of_modules(i: int, name: str, value):
    """Up to three of the modules of a block, or all its norms, are not called; two of them are exchanged."""
    parts = modules_of(value)
    norms = tuple(n for n in parts if "norm" in n)
    few = len(parts) <= 8  # a network of many stages takes too long to be tried without each two of them
    groups = [g for size in ((1, 2, 3) if few else (1,)) for g in combinations(parts, size)]
    for group in [*groups, norms] if len(norms) > 3 else groups:
        listed = " and ".join(f"`{n}`" for n in group)
        yield edited(
            f"{listed} {'is' if len(group) == 1 else 'are'} not called: your result is that of a `{name}` without "
            f"{'it' if len(group) == 1 else 'them'}",
            i,
            lambda block, group=group: with_parts(block, {n: nn.Identity() for n in group}),
        )
    for a, b in combinations(parts, 2) if few else ():
        yield edited(
            f"`{a}` and `{b}` are exchanged",
            i,
            lambda block, a=a, b=b: with_parts(block, {a: getattr(block, b), b: getattr(block, a)}),
        )


def modules_of(value) -> list[str]:
    """The names of what a block calls, in order."""
    if isinstance(value, nn.Module):
        return [n for n, _ in value.named_children()]
    return [n for n, part in vars(value).items() if callable(part) and n != "call"]


def with_parts(block, parts: dict):
    """The same block with some of its modules replaced; the other modules are shared."""
    new = copy(block)
    if isinstance(block, nn.Module):
        new._modules = dict(block._modules)
    for name, part in parts.items():
        setattr(new, name, part)
    return new


def of_text(i: int, name: str, value: str, seen: set):
    for other in sorted(seen):
        yield edited(f'`{name}` is ignored: your result is always that of {name}="{other}"', i, lambda t, o=other: o)
    if 1 < len(value) < 6:
        for order in permutations(sorted(value)):
            other = "".join(order)
            yield edited(
                f'`{name}` is ignored: your result is always that of {name}="{other}"', i, lambda t, o=other: o
            )
