"""Kinds that need only the right result: it was left unfinished, or one thing too many was done to it."""

import inspect
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import combinations, permutations

import torch
from torch import Tensor

from vt_course.lab.kinds.common import Begins, Outcome, Reads, attempt, axis_names, first_wrong, power, same_tensor


def candidates(exercise, outcomes: list[Outcome], base: Callable, how: Callable) -> Iterator[tuple[str, Callable]]:
    """What may have been done to the result of `base`: those of `how` that fit in the first wrong case.

    `how` is `simple`, `changes` or, for the second of two mistakes, `endings`.
    """
    outcome = first_wrong(outcomes)
    have = attempt(base, outcome.args)
    if not isinstance(have, Tensor):
        return
    names = axis_names(exercise, outcome)
    if have.shape not in (outcome.got.shape, outcome.want.shape):
        return  # `base` makes a wrong shape, which is neither the reader's nor wanted: nothing may be said of it
    for sentence, change in how(have, outcome.got, names, exercise, outcomes):
        if same_tensor(apply(change, have, outcome.args), outcome.got):
            yield sentence, lambda *args, change=change: change(base(*args), *args)


def apply(change: Callable, have: Tensor, args: tuple):
    try:
        return change(have, *args)
    except (RuntimeError, IndexError, ValueError, TypeError, ZeroDivisionError):
        return None


def simple(have: Tensor, got: Tensor, names: list[str], exercise, outcomes: list[Outcome]):
    """What is said before all else: the type, the order of the axes, an axis of length 1."""
    if have.shape == got.shape:
        yield from of_type(have, got)
    yield from of_order(have, names)
    yield from of_unit_axes(got, names, outcomes)


def endings(have: Tensor, got: Tensor, names: list[str], exercise, outcomes: list[Outcome]):
    """What a second mistake may be, without those that could undo the first: no factors, no offsets."""
    yield from of_order(have, names)
    if have.shape == got.shape:
        yield from of_mixed(have, got, names)
        yield from of_arguments(have, exercise, outcomes)
        yield "the sign is the other one: your result is minus the right one", lambda w, *a: -w
    else:
        yield from of_unit_axes(got, names, outcomes)
        yield from of_places(have, got, names)
        yield from of_reductions(have, got, names)


def changes(have: Tensor, got: Tensor, names: list[str], exercise, outcomes: list[Outcome]):
    """Pairs of a sentence and change(have, *args)."""
    if have.shape == got.shape:
        yield from of_mixed(have, got, names)
        yield from of_size(have, got, exercise, outcomes)
        yield from of_arguments(have, exercise, outcomes)
        yield from along_an_axis(have, names)
        yield from of_last_step(have, got, names)
    else:
        yield from of_shape(have, got, names)
        yield from of_missing_step(have, got, names)


# ---------------------------------------------------------------- the same shape


def of_type(have: Tensor, got: Tensor):
    """The numbers are right, or would be after rounding."""
    if have.dtype.is_floating_point == got.dtype.is_floating_point:
        return
    if not have.dtype.is_floating_point:
        yield (
            "the numbers are right, but they are floating-point: whole numbers come from `//` (`/` always gives "
            "floating-point) or, at the end, from `.long()`",
            lambda w, *a: w.double(),
        )
        yield (
            "your numbers have fractions; rounded down, they are right: divide with `//`, once, at the end",
            lambda w, *a: Reads(w.double(), lambda g: g.double().floor()),
        )
        for name, function in (("rounded", torch.round), ("rounded up", torch.ceil)):
            yield (
                f"your numbers have fractions; {name}, they are right",
                lambda w, *a, f=function: Reads(w.double(), lambda g: f(g.double())),
            )
    else:
        yield (
            "the numbers are right, but they are whole numbers, where floating-point ones are wanted: `.float()`",
            lambda w, *a: w.double(),
        )
        for name, rounded in (("rounded down", torch.floor), ("cut off after the point", torch.trunc)):
            yield (
                f"the numbers are {name}: an integer type, or `//`, loses the fractions",
                lambda w, *a, rounded=rounded: rounded(w).long(),
            )


def of_order(have: Tensor, names: list[str]):
    for axes in permutations(range(have.ndim)) if have.ndim < 7 else ():
        if list(axes) != sorted(axes):
            yield (
                f"your axes are in another order: finish with `.permute{back(axes)}`",
                lambda w, *a, axes=axes: w.permute(axes),
            )


def back(axes: tuple) -> tuple:
    """The permutation that undoes another one."""
    return tuple(axes.index(i) for i in range(len(axes)))


def of_mixed(have: Tensor, got: Tensor, names: list[str]):
    """A reshape or view to the right shape where a permute belongs."""
    if not same_tensor(have.flatten().sort().values, got.flatten().sort().values):
        return  # not the same numbers: no order of the axes need be tried
    letters = [name[name.index("(") + 1 : -1] if "(" in name else name for name in names]
    for axes in permutations(range(have.ndim)) if have.ndim < 7 else ():
        if list(axes) != sorted(axes):
            order = ", ".join(letters[i] for i in axes)
            yield (
                "your shape is right, but a reshape or view mixes the numbers up (it moves no axis): they run in the "
                f"order ({order}), slowest first; bring them to ({', '.join(letters)}) with permute before it",
                lambda w, *a, axes=axes: w.permute(axes).reshape(w.shape),
            )


def of_size(have: Tensor, got: Tensor, exercise, outcomes: list[Outcome]):
    """A factor or an offset, the same in all cases or an expression of the arguments."""
    if have.dtype == torch.bool or got.dtype == torch.bool or not have.numel():
        return
    w, g = have.detach().double(), got.detach().double()
    if not torch.isfinite(g).all():
        return
    clear = w.abs() > 1e-3 * w.abs().max()
    enough = sum(o.got is not None and not o.right for o in outcomes) >= 3 or have.numel() > 1
    if not clear.any() or not enough:  # one number may be a multiple of another by chance
        return
    number = "number is" if not have.ndim else "numbers are"
    factor, offset = (g[clear] / w[clear]).median().item(), (g - w).median().item()
    if abs(factor + 1) < 1e-6:
        yield "the sign is the other one: your result is minus the right one", lambda w, *a: -w
    elif factor and abs(factor - 1) > 1e-6:
        yield f"your {number} {times(factor)} the right {'one' if not have.ndim else 'ones'}", times_constant(factor)
        yield from of_factor_of_arguments(factor, number, exercise, outcomes)
    if abs(offset) > 1e-6:
        side = "large" if offset > 0 else "small"
        shown = f"{abs(offset):.6g}"
        yield f"your {number} too {side} by {shown}", lambda w, *a: w + offset
    if not g.any():
        yield "your result holds zeros only", lambda w, *a: torch.zeros_like(w)
    if w.any() and have.dtype.is_floating_point:
        yield (
            "you return 1 where the right result is not 0, and 0 elsewhere: these are truth values, not the numbers",
            lambda w, *a: (w != 0).double(),
        )
        yield (
            f"you return 1 where the right result is 0, and 0 elsewhere; wanted are the numbers, "
            f"{w.min():g} to {w.max():g}",
            lambda w, *a: (w == 0).double(),
        )


def times_constant(factor: float):
    return lambda w, *a: w.double() * factor


def times(factor: float) -> str:
    """ "3 times", "1/49 of", "√2 times"."""
    for root, size in (("", abs(factor)), ("√", factor**2)):
        near = Fraction(size).limit_denominator(144)
        if near and abs(float(near) - size) < 1e-6 * size and min(near.numerator, near.denominator) <= 12:
            sign = "-" if factor < 0 else ""
            if near.denominator == 1:
                return f"{sign}{root}{near} times"
            return f"{sign}{root}{near} of" if not root else f"{sign}√({near}) times"
    return f"{factor:.6g} times"


def quantities(exercise, args: tuple) -> dict[str, float]:
    """The numbers among the arguments and the lengths of the axes of tensors, by name."""
    out = {}
    for name, value in zip(inspect.signature(exercise.definition).parameters, args):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            out[f"`{name}`"] = float(value)
        elif isinstance(value, tuple) and all(isinstance(v, int) for v in value):
            parts = exercise.parts.get(name) or [f"{name}[{i}]" for i in range(len(value))]
            out |= {f"`{p}`": float(v) for p, v in zip(parts, value)}
            out[f"the product of `{name}`"] = float(math.prod(value))
    for name, value in zip(inspect.signature(exercise.definition).parameters, args):
        if isinstance(value, Tensor):
            out |= {f"the length of axis {i} of `{name}`": float(n) for i, n in enumerate(value.shape)}
    return {name: value for name, value in out.items() if value > 0}


def of_factor_of_arguments(factor: float, number: str, exercise, outcomes: list[Outcome]):
    """The factor is a product of powers of at most two arguments."""
    known = quantities(exercise, first_wrong(outcomes).args)
    powers = [(n, k) for n, v in known.items() for k in (1, 2, 0.5, -1, -2, -0.5) if v != 1]
    for chosen in [*((p,) for p in powers), *combinations(powers, 2)]:
        if abs(math.prod(known[n] ** k for n, k in chosen) / factor - 1) > 1e-6:
            continue
        missing = " · ".join(root_or_power(n, -k) for n, k in chosen if k < 0)
        extra = " · ".join(root_or_power(n, k) for n, k in chosen if k > 0)
        said = [f"a factor {missing} is missing"] * bool(missing) + [f"a factor {extra} is too much"] * bool(extra)
        yield (
            f"your {number} {times(factor)} the right {'one' if number.endswith('is') else 'ones'} in this case: "
            + " and ".join(said),
            lambda w, *args, chosen=chosen: (
                w.double() * math.prod(quantities(exercise, args)[n] ** k for n, k in chosen)
            ),
        )


def root_or_power(name: str, exponent: float) -> str:
    if exponent == 0.5:
        return f"√{name}"
    return name if exponent == 1 else power(name, int(exponent))


def of_arguments(have: Tensor, exercise, outcomes: list[Outcome]):
    """A residual where none belongs: an argument of the right shape is added, subtracted or multiplied."""
    names = list(inspect.signature(exercise.definition).parameters)
    for i, (name, value) in enumerate(zip(names, first_wrong(outcomes).args)):
        if isinstance(value, Tensor) and value.shape == have.shape:
            yield f"`{name}` is added to the result: there is no residual here", lambda w, *a, i=i: w + a[i]
            yield f"`{name}` is subtracted from the result; it must not be", lambda w, *a, i=i: w - a[i]
            yield f"the result is multiplied by `{name}`; it must not be", lambda w, *a, i=i: w * a[i]
            yield f"your result is `{name}` as it came: nothing is done to it", lambda w, *a, i=i: a[i]


def along_an_axis(have: Tensor, names: list[str]):
    for axis, (name, length) in enumerate(zip(names, have.shape)):
        if length < 2:
            continue
        if length < 5:
            for order in permutations(range(length)):
                if list(order) != sorted(order) and order != tuple(range(length))[::-1]:
                    listed = ", ".join(map(str, order))
                    yield (
                        f"along {name} the places come in the order {listed}; it must be 0, 1, 2 and so on",
                        lambda w, *a, axis=axis, order=order: w.index_select(axis, torch.tensor(order)),
                    )
        yield f"along {name} your result runs backwards", lambda w, *a, axis=axis: w.flip(axis)
        for by in range(1, min(length, 9)):
            for sign in (1, -1):
                yield (
                    f"along {name} every number stands {by} place{'s' * (by > 1)} too "
                    f"{'far' if sign > 0 else 'early'}, counted around the end",
                    lambda w, *a, axis=axis, by=sign * by: w.roll(by, axis),
                )
        yield f"along {name} your numbers are sorted", lambda w, *a, axis=axis: w.sort(axis).values
        yield (
            f"along {name} all your results equal the first one",
            lambda w, *a, axis=axis: w.narrow(axis, 0, 1).expand_as(w),
        )
        if have.dtype.is_floating_point:
            yield (
                f"along {name} every number is the mean of the right ones: a mean too many",
                lambda w, *a, axis=axis: w.mean(axis, keepdim=True).expand_as(w),
            )
            yield (f"along {name} your numbers add up: a `cumsum` too many", lambda w, *a, axis=axis: w.cumsum(axis))


def of_last_step(have: Tensor, got: Tensor, names: list[str]):
    """One function too many, or one missing."""
    if not have.dtype.is_floating_point or not got.dtype.is_floating_point:
        return
    for name, function in {
        "exp": torch.exp,
        "log": torch.log,
        "sqrt": torch.sqrt,
        "abs": torch.abs,
        "square": torch.square,
        "relu": torch.relu,
        "sigmoid": torch.sigmoid,
    }.items():
        yield (
            f"there is one `{name}` too many: yours is the `{name}` of the right result",
            lambda w, *a, f=function: f(w),
        )
    yield "your result is 1 divided by the right one", lambda w, *a: 1 / w
    yield "your result is 1 minus the right one", lambda w, *a: 1 - w
    for axis, name in enumerate(names):
        yield f"there is a softmax too many, over {name}", lambda w, *a, axis=axis: w.softmax(axis)
    for axis, name in enumerate(names):
        yield (
            f"a softmax over {name} is missing at the end: that of your result is right",
            lambda w, *a, axis=axis: Reads(w, lambda g: g.softmax(axis)),
        )
        yield (
            f"your numbers must still be divided by their sum over {name}",
            lambda w, *a, axis=axis: Reads(w, lambda g: g / g.sum(axis, keepdim=True)),
        )
    for name in ("exp", "log", "square", "sqrt"):
        yield (
            f"a last `{name}` is missing: the right result is the `{name}` of yours",
            lambda w, *a, f=getattr(torch, name): Reads(w, f),
        )


# ---------------------------------------------------------------- another shape


def of_places(have: Tensor, got: Tensor, names: list[str]):
    """Axes that were not merged, merged too far, or dropped: all numbers of one place are right."""
    if have.numel() == got.numel():
        yield how_merged(have.shape, got.shape, names), lambda w, *a: Reads(w.flatten(), torch.flatten)
    for axis, name in enumerate(names):
        for which, at in (("first", 0), ("last", -1)):
            words = f"of {name} only the {which} place is in your result"
            yield words, lambda w, *a, axis=axis, at=at: w.select(axis, at)
            yield words, lambda w, *a, axis=axis, at=at: w.narrow(axis, at % w.shape[axis], 1)


def of_unit_axes(got: Tensor, names: list[str], outcomes: list[Outcome]):
    """Axes of length 1 too many, or one that is missing, in all cases."""
    shapes = [(o.got.shape, o.want.shape) for o in outcomes if o.got is not None]
    for axes in [c for n in (1, 2, 3) for c in combinations(range(got.ndim), n)]:
        if all(without(yours, axes) == tuple(right) for yours, right in shapes):
            said = (
                f"an axis too many, axis {axes[0]} of length 1: drop it with `.squeeze({axes[0]})`"
                if len(axes) == 1
                else f"axes too many, {' and '.join(map(str, axes))} of length 1: drop them with `.squeeze({axes})`"
            )
            yield f"your result has {said}", lambda w, *a, axes=axes: Reads(w, lambda g: g.squeeze(axes))
    for axis, name in enumerate(names):
        if all(without(right, (axis,)) == tuple(yours) for yours, right in shapes):
            yield (
                f"your result lacks {name}, of length 1: add it with `.unsqueeze({axis})`",
                lambda w, *a, axis=axis: w.squeeze(axis),
            )


def without(shape: tuple, axes: tuple) -> tuple | None:
    """A shape without these axes, which must be of length 1, or None."""
    if any(i >= len(shape) or shape[i] != 1 for i in axes):
        return None
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def of_shape(have: Tensor, got: Tensor, names: list[str]):
    """Axes that were not merged, merged too far, dropped, cut short, repeated or joined along another axis."""
    yield from of_places(have, got, names)
    if got.ndim == have.ndim and got.numel() and got.numel() < have.numel():
        short = [(n, g, w) for n, g, w in zip(names, got.shape, have.shape) if g < w]
        ends = " and ".join(f"{n} ends after {g} of {w} places" for n, g, w in short)
        cropped = any("⌈" in n for n, *_ in short)
        yield (
            f"your result is right as far as it goes, but {ends}"
            + (": what fills no whole piece is cropped instead of padded" if cropped else ""),
            lambda w, *a: Begins(w, torch.flatten),
        )
    for axis, name in enumerate(names):
        length = have.shape[axis]
        if got.ndim == have.ndim and got.shape[axis] < length:
            cut = length - got.shape[axis]
            yield (
                f"your result lacks the first {cut} of the {length} places of {name}",
                lambda w, *a, axis=axis, cut=cut: w.narrow(axis, cut, w.shape[axis] - cut),
            )
        if got.ndim == have.ndim and got.shape[axis] > length:
            times = got.shape[axis] // length
            yield (
                f"the right result is repeated {times} times along {name}",
                lambda w, *a, axis=axis, n=times: torch.cat([w] * n, axis),
            )
            yield (
                f"every place of {name} is repeated {times} times",
                lambda w, *a, axis=axis, n=times: w.repeat_interleave(n, axis),
            )
        for other, other_name in enumerate(names):
            for parts in (2, 3, 4):
                if other != axis and length % parts == 0:
                    yield (
                        f"the {parts} pieces are joined along {other_name}; join them along {name}",
                        lambda w, *a, axis=axis, other=other, n=parts: torch.cat(w.chunk(n, axis), other),
                    )
                    if got.ndim == have.ndim + 1:
                        yield (
                            f"the {parts} pieces are stacked on an axis of their own; join them along {name}",
                            lambda w, *a, axis=axis, n=parts, at=place_of(parts, got): torch.stack(
                                w.chunk(n, axis), at
                            ),
                        )
        if length in got.shape and got.ndim == have.ndim:
            yield (
                f"{name} stands at the place of axis {got.shape.index(length)}",
                lambda w, *a, axis=axis, to=got.shape.index(length): w.movedim(axis, to),
            )
            yield f"{name} stands last; it must not", lambda w, *a, axis=axis: w.movedim(axis, -1)
    if have.ndim:
        yield "all axes are merged into one", lambda w, *a: w.flatten()


def place_of(length: int, got: Tensor) -> int:
    return got.shape.index(length) if length in got.shape else 0


def how_merged(right: tuple, yours: tuple, names: list[str]) -> str:
    """Which axes were not merged, or merged too far."""
    start = f"all numbers are right and in the right order, but your shape {tuple(yours)} must become {tuple(right)}: "
    if not yours or not right:
        return start + "use `reshape`"
    parts = pieces(yours, right)
    if parts is not None and max(map(len, parts)) > 1:
        which = [f"{name}, which you have as {' · '.join(map(str, p))}" for name, p in zip(names, parts) if len(p) > 1]
        return start + f"merge the axes of {' and of '.join(which)}"
    parts = pieces(right, yours)
    if parts is not None and max(map(len, parts)) > 1:
        at = iter(names)
        groups = [[next(at) for _ in p] for p in parts]
        return start + "keep apart " + " and ".join(", ".join(g) for g in groups if len(g) > 1)
    return start + "use `reshape`"


def pieces(fine: tuple, coarse: tuple) -> list[tuple] | None:
    """For each axis of `coarse` the axes of `fine` whose product it is, or None. Axes of length 1 go to the left."""
    out, i = [], 0
    for j, length in enumerate(coarse):
        group = []
        while i < len(fine) and (math.prod(group) < length or not group or (fine[i] == 1 and j == len(coarse) - 1)):
            group.append(fine[i])
            i += 1
        if math.prod(group) != length:
            return None
        out.append(tuple(group))
    return out if i == len(fine) else None


def of_missing_step(have: Tensor, got: Tensor, names: list[str]):
    """A mean or a sum is missing, or there is one too many."""
    for axis in range(got.ndim) if got.ndim > have.ndim else ():
        for word, function in (("sum", torch.sum), ("mean", torch.mean)):
            rest = "" if have.ndim else ", to get one number"
            yield (
                f"a {word} over axis {axis} of your result is missing{rest}",
                lambda w, *a, f=function, axis=axis: Reads(w, lambda g: f(g, axis)),
            )
    yield from of_reductions(have, got, names)


def of_reductions(have: Tensor, got: Tensor, names: list[str]):
    """A mean or a sum too many."""
    if have.ndim and got.ndim <= have.ndim:
        for count in (1, 2, have.ndim):
            for axes in combinations(range(have.ndim), count) if count <= have.ndim else ():
                where = " and ".join(names[i] for i in axes) if count < have.ndim else "all axes"
                for word, function in (("mean", torch.mean), ("sum", torch.sum)):
                    if word == "mean" and not have.dtype.is_floating_point:
                        continue
                    for keep in (False, True):
                        yield (
                            f"there is a {word} too many, over {where}",
                            lambda w, *a, f=function, axes=axes, keep=keep: f(w, axes, keepdim=keep),
                        )
