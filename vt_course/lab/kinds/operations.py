"""Operations along a wrong axis, and what stands in their place."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations, product

import torch
import torch.nn.functional as F

from vt_course.lab.kinds.common import Outcome, at_two_places


@dataclass(frozen=True)
class Choices:
    """Wrong versions of one function that has a keyword for each of its steps.

    function: function(*arguments, **settings); without settings it gives the right answer.
    settings: for each keyword, pairs of a sentence and a wrong value.
    together: pairs of a sentence and several settings that make one idea, {keyword: wrong value}.
    """

    function: Callable
    settings: dict[str, tuple[tuple[str, object], ...]]
    together: tuple[tuple[str, dict], ...] = ()

    def candidates(self, function: Callable, outcomes: list[Outcome]) -> Iterator[tuple[str, Callable]]:
        for _, sentence, setting in self.single():
            yield sentence, self.with_settings(setting)
        for sentence, setting in self.together:
            yield sentence, self.with_settings(setting)

    def pairs(self, outcomes: list[Outcome]) -> Iterator[tuple[str, str, Callable]]:
        for first, second, a, b in at_two_places(self.single()):
            yield first, second, self.with_settings(a | b)

    def single(self):
        for name, values in self.settings.items():
            for sentence, value in values:
                yield name, sentence, {name: value}

    def with_settings(self, settings: dict) -> Callable:
        return lambda *args: self.function(*args, **settings)


def instead_of_softmax(axes: tuple[str, ...]) -> tuple[tuple[str, Callable], ...]:
    """What may stand in place of a softmax over the last axis of a tensor whose axes are called `axes`."""
    over = f"it must run over the {axes[-1]}, the last axis"
    out = [
        (f"the softmax runs over the {name}: {over}", lambda s, a=a - len(axes): s.softmax(a))
        for a, name in enumerate(axes[:-1])
    ]
    return (
        *out,
        ("there is no softmax", lambda s: s),
        (
            "the logits are divided by their sum, without exp: softmax is exp first",
            lambda s: s / s.sum(-1, keepdim=True),
        ),
        ("there is an exp, and no division by the sum over the " + axes[-1], lambda s: s.exp()),
        (
            f"the powers are divided by the sum of all {axes[-2]} and {axes[-1]}: take the sum over the {axes[-1]}",
            lambda s: s.exp() / s.exp().sum((-1, -2), keepdim=True),
        ),
        (
            f"the powers are divided by the sum over all numbers: divide by the sum over the {axes[-1]}",
            lambda s: s.exp() / s.exp().sum(),
        ),
        *(
            (
                f"the powers are divided by their sum over the {name}: divide by the sum over the {axes[-1]}",
                lambda s, a=a - len(axes): s.exp() / s.exp().sum(a, keepdim=True),
            )
            for a, name in enumerate(axes[:-1])
        ),
        (
            "absolute values are divided by their sum: softmax is exp first",
            lambda s: s.abs() / s.abs().sum(-1, keepdim=True),
        ),
        ("squares are divided by their sum: softmax is exp first", lambda s: s**2 / (s**2).sum(-1, keepdim=True)),
        ("relu stands in place of exp", lambda s: s.relu() / s.relu().sum(-1, keepdim=True)),
        ("a sigmoid stands in place of the softmax", torch.sigmoid),
        ("log_softmax stands in place of softmax: these are logarithms", lambda s: s.log_softmax(-1)),
        ("there are two softmaxes, one after the other", lambda s: s.softmax(-1).softmax(-1)),
        ("softmin: the logits have the other sign", lambda s: (-s).softmax(-1)),
        (
            f"the weights are averaged over the {axes[1]}: each has weights of its own",
            lambda s: s.softmax(-1).mean(1, keepdim=True).expand_as(s),
        ),
    )


def instead_of_head(called: str) -> tuple[tuple[str, Callable], ...]:
    """What may stand in place of `net.head`, which the text of the exercise calls `called`: f(net, x)."""
    return (
        ("there is a softmax at the end: asked for are the scores before it", lambda net, x: net.head(x).softmax(-1)),
        ("these are logarithms of shares: asked for are the scores", lambda net, x: net.head(x).log_softmax(-1)),
        ("this is the class with the largest score: asked for are all scores", lambda net, x: net.head(x).argmax(-1)),
        (f"there is a GELU before the {called}; it reads the mean as it is", lambda net, x: net.head(F.gelu(x))),
        (f"the bias of the {called} is not added", lambda net, x: x @ net.head.weight.T),
    )


def instead_of_root(root: str) -> tuple[tuple[str, Callable], ...]:
    """What may stand in place of a division by the root of d, as factors of the logits: f(q, k, C)."""
    return (
        (f"the logits are not scaled: divide by {root}", lambda q, k, C: 1.0),
        (f"the logits are multiplied by {root} instead of divided", lambda q, k, C: q.shape[-1] ** 0.5),
        (f"the logits are divided by d, not by {root}", lambda q, k, C: 1 / q.shape[-1]),
        (f"the logits are multiplied by d; divide by {root}", lambda q, k, C: float(q.shape[-1])),
        (f"the logits are divided by the fourth root of d; divide by {root}", lambda q, k, C: q.shape[-1] ** -0.25),
        (f"the logits are divided by the root of all C channels; divide by {root}", lambda q, k, C: C**-0.5),
        (
            f"the logits are divided by the root of the number of keys; divide by {root}, d channels of one head",
            lambda q, k, C: k.shape[-2] ** -0.5,
        ),
        (
            f"the logits are divided by the root of the number of queries; divide by {root}, d channels of one head",
            lambda q, k, C: q.shape[-2] ** -0.5,
        ),
        (
            f"the logits are divided by the root of the number of heads; divide by {root}",
            lambda q, k, C: (C / q.shape[-1]) ** -0.5,
        ),
    )


def instead_of_product() -> tuple[tuple[str, Callable], ...]:
    """What may stand in place of the product q kᵀ over channels: f(q, k)."""
    return (
        ("rows are keys, columns queries: the product is q kᵀ, not k qᵀ", lambda q, k: k @ q.mT),
        ("the queries are multiplied with themselves: the product is q kᵀ", lambda q, k: q @ q.mT),
        ("the keys are multiplied with themselves: the product is q kᵀ", lambda q, k: k @ k.mT),
        (
            "k is reshaped where it must be transposed: a reshape or view moves no number; kᵀ is `k.transpose(-1, -2)`",
            lambda q, k: q @ k.reshape(*k.shape[:-2], k.shape[-1], k.shape[-2]),
        ),
        (
            "q is reshaped where nothing is to be exchanged: its rows are queries already",
            lambda q, k: q.reshape(*q.shape[:-2], q.shape[-1], q.shape[-2]).mT @ k.mT,
        ),
    )


def instead_of_values() -> tuple[tuple[str, Callable], ...]:
    """What may stand in place of the product of the weights with the values: f(weights, v)."""
    return (
        ("the weights are transposed before they meet v: row i holds the weights of query i", lambda w, v: w.mT @ v),
        (
            "v is reshaped before it meets the weights, as if its last two axes were exchanged: a reshape or view "
            "moves no number",
            lambda w, v: w @ v.reshape(*v.shape[:-2], v.shape[-1], v.shape[-2]).mT,
        ),
        (
            "the weights are averaged over the heads before they meet v",
            lambda w, v: w.mean(1, keepdim=True).expand_as(w) @ v,
        ),
    )


def instead_of_roll(axes: tuple[str, ...]) -> tuple[tuple[str, Callable], ...]:
    """What may stand in place of a roll by minus the shift along the first axes of x, called `axes`: f(x, shift)."""
    d = tuple(range(len(axes)))
    out = []
    flat = "the map is rolled as one long row, where one line of it goes on into the next (`torch.roll` without `dims`)"
    remedy = "give one shift for each axis, and `dims`"
    for sign, word in ((-1, ""), (1, "plus ")):
        for a in d:
            out.append(
                (f"{flat}, by {word}the shift along {axes[a]}: {remedy}", lambda x, s, a=a, k=sign: x.roll(k * s[a]))
            )
        out.append((f"{flat}, by {word}the sum of all shifts: {remedy}", lambda x, s, k=sign: x.roll(k * sum(s))))
        out.append(
            (
                f"{flat}, by {word}the shifts counted in places of that row: {remedy}",
                lambda x, s, k=sign: x.roll(k * sum(v * x[(0,) * (a + 1)].numel() for a, v in zip(d, s))),
            )
        )
    for a in d:
        out.append((f"only {axes[a]} is rolled", lambda x, s, a=a: x.roll(-s[a], a)))
        out.append((f"all shifts are applied to {axes[a]}", lambda x, s, a=a: x.roll(-sum(s), a)))
        out.append(
            (
                f"there is no roll along {axes[a]}",
                lambda x, s, a=a: x.roll([-v if b != a else 0 for b, v in zip(d, s)], d),
            )
        )
        out.append(
            (f"every axis is rolled by the shift along {axes[a]}", lambda x, s, a=a: x.roll([-s[a]] * len(s), d))
        )
    for signs in list(product((-1, 1), repeat=len(axes)))[1:]:
        wrong = " and ".join(name for name, k in zip(axes, signs) if k > 0)
        out.append(
            (
                f"the roll along {wrong} has the other sign: tokens move towards index 0, so `torch.roll` gets -shift",
                lambda x, s, signs=signs: x.roll([k * v for k, v in zip(signs, s)], d),
            )
        )
    for order in list(permutations(d))[1:]:
        listed = ", ".join(axes[a] for a in order)
        out.append(
            (
                f"the shifts are applied to the axes in the order {listed}; the first one is for {axes[0]}",
                lambda x, s, order=order: x.roll([-v for v in s], order),
            )
        )
    out.append(("the roll goes twice as far as it should", lambda x, s: x.roll([-2 * v for v in s], d)))
    out.append(("there is no roll", lambda x, s: x))
    return tuple(out)


def instead_of_centre(whole: str, lengths: dict[str, Callable], right: str) -> tuple[tuple[str, Callable], ...]:
    """What may stand in place of the start of a piece in the centre, max(whole - length, 0) // 2: f(n, *others).

    `lengths`: what may be taken for the length of the piece, as text, and as a function of the others. `right` says
    what the start must be.
    """
    forms = {
        "{0} // 2 - ({1}) // 2": lambda n, m: n // 2 - m // 2,
        "({0} - 1) // 2 - ({1}) // 2": lambda n, m: (n - 1) // 2 - m // 2,
        "({0} - ({1})) // 2": lambda n, m: (n - m) // 2,
        "({0} - ({1})) / 2, rounded up": lambda n, m: -((m - n) // 2),
        "({0} - ({1})) / 2, rounded to the nearest whole number (`round` takes the even one of two)": (
            lambda n, m: round((n - m) / 2)
        ),
        "({0} - ({1})) / 2, cut off after the point": lambda n, m: int((n - m) / 2),
        "({0} - ({1}) + 1) // 2": lambda n, m: (n - m + 1) // 2,
        "({0} - ({1}) - 1) // 2": lambda n, m: (n - m - 1) // 2,
        "|{0} - ({1})| // 2": lambda n, m: abs(n - m) // 2,
        "({0} - ({1})) // 4": lambda n, m: (n - m) // 4,
    }
    ends = {"": lambda start, n: max(start, 0), ", also where that is negative": lambda start, n: start}
    out = []
    for end, bound in ends.items():
        for text, form in forms.items():
            for name, length in lengths.items():
                shown = text.format(whole, name).replace(f"({name})", f"({name})" if " " in name else name)
                shown = re.sub(r"\(2 · \((.*?)\)\) // 2", r"\1", shown)  # half of twice something
                out.append(
                    (
                        f"you begin at {shown}{end}; {right}",
                        lambda n, *others, f=form, m=length, b=bound: b(f(n, m(*others)), n),
                    )
                )
    for text, start in {f"{whole} // 2": lambda n: n // 2, f"{whole} // 4": lambda n: n // 4}.items():
        out.append((f"you begin at {text}; {right}", lambda n, *others, s=start: s(n)))
    return tuple(out)


def instead_of_tokens(axes: str) -> tuple[tuple[str, Callable], ...]:
    """What may stand in place of `maps.flatten(2).mT`, maps (B, C, *places) -> tokens (B, N, C).

    `axes` are the letters of the places, "HW" or "THW", slowest first.
    """
    right = " ".join(axes)
    out = [
        (
            "a reshape makes tokens of the map without moving its channels: flatten the places, then bring the "
            "channels to the end with a transpose",
            lambda m: m.reshape(len(m), -1, m.shape[1]),
        )
    ]
    for order in permutations(range(len(axes))):
        if order != tuple(range(len(axes))):
            out.append(
                (
                    f"the places of the map become tokens in the order ({' '.join(axes[a] for a in order)}), slowest "
                    f"first; it must be ({right})",
                    lambda m, order=order: m.permute(0, 1, *(2 + a for a in order)).flatten(2).mT,
                )
            )
    return tuple(out)


def instead_of_ratio() -> tuple[tuple[str, Callable], ...]:
    """What may stand in place of i · n // N, the old place of each of N new ones: functions of n and N."""
    whole = "the ratio of the two sizes is rounded to a whole number before it is used: multiply first, i · n // N"

    def of(f):
        return lambda n, N: f(torch.arange(N), n, N)

    return (
        (whole, of(lambda i, n, N: i // (N // n))),
        (whole, of(lambda i, n, N: (i // max(N // n, 1)) % n)),
        (whole, of(lambda i, n, N: (i // max(N // n, 1)).clamp(max=n - 1))),
        (whole, of(lambda i, n, N: i * (n // N))),
        (whole, of(lambda i, n, N: (i // round(N / n)).clamp(max=n - 1))),
        (
            f"each place is repeated N // n times, which reaches N only where n divides N: {whole}",
            lambda n, N: torch.arange(n).repeat_interleave(N // n),
        ),
        (
            f"each place is repeated N // n times, which reaches N only where n divides N: {whole}",
            lambda n, N: torch.arange(n).repeat_interleave(max(N // n, 1)),
        ),
        (
            "the place is rounded to the nearest whole number; round down",
            of(lambda i, n, N: (i * n / N).round().long().clamp(max=n - 1)),
        ),
        ("the place is rounded up; round down", of(lambda i, n, N: (-(-i * n // N)).clamp(max=n - 1))),
        (
            "the last new place is made to fall on the last old one (i · (n-1) / (N-1), rounded down): it is i · n / N",
            of(lambda i, n, N: i * (n - 1) // max(N - 1, 1)),
        ),
        (
            "the last new place is made to fall on the last old one (i · (n-1) / (N-1), rounded): it is i · n / N, "
            "rounded down",
            of(lambda i, n, N: (i * (n - 1) / max(N - 1, 1)).round().long()),
        ),
        ("n and N are exchanged in the ratio: it is i · n // N", of(lambda i, n, N: (i * N // n).clamp(max=n - 1))),
    )


def instead_of_radius(axes: tuple[str, ...]) -> tuple[tuple[str, Callable], ...]:
    """What may stand in place of `sides // 2`, the radius of a window along each axis: functions of the sides."""
    own = "each axis has its own, half of its side rounded down"
    return (
        *(
            (f"the radius along {name} is used along all axes: {own}", lambda n, a=a: (n[a] // 2).expand(len(n)))
            for a, name in enumerate(axes)
        ),
        (f"the largest radius is used along all axes: {own}", lambda n: n.max().expand(len(n)) // 2),
        (f"the smallest radius is used along all axes: {own}", lambda n: n.min().expand(len(n)) // 2),
        ("the radius is rounded up: it is half of the side, rounded down", lambda n: (n + 1) // 2),
        ("the side is used in place of the radius, which is half of it, rounded down", lambda n: n),
        ("the radius is one too small: it is half of the side, rounded down", lambda n: n // 2 - 1),
    )


def instead_of_bounds(axes: tuple[str, ...]) -> tuple[tuple[str, Callable], ...]:
    """What may stand in place of the test 0 <= entry < side along each axis: functions of entry, sides and offset.

    Entries are (..., axes), and so are the offsets from the middle of the window. The result is (...), True inside.
    """
    low, high = (lambda e, n: e >= 0), (lambda e, n: e < n)
    negative = "an index below 0 counts from the end in Python, and raises nothing"
    out = [
        (f"the lower bound is not tested: {negative}", lambda e, n, o: high(e, n).all(-1)),
        (
            "the upper bound is not tested: an entry behind the end does not exist, the number there is 0",
            lambda e, n, o: low(e, n).all(-1),
        ),
        ("no bound is tested: outside the window the number is 0", lambda e, n, o: (e == e).all(-1)),
        (
            "the entry is tested against `<= side`; the last one is side - 1",
            lambda e, n, o: ((e >= 0) & (e <= n)).all(-1),
        ),
        ("entry 0 is left out: the test is `> 0`, it must be `>= 0`", lambda e, n, o: ((e > 0) & (e < n)).all(-1)),
        (
            "the last entry is left out: the test is `< side - 1`, it must be `< side`",
            lambda e, n, o: ((e >= 0) & (e < n - 1)).all(-1),
        ),
        (
            "the window ends one place too early at both ends: an offset may be as large as the radius",
            lambda e, n, o: (o.abs() < n // 2).all(-1),
        ),
        (
            "the offset may be as large as the side: it may be as large as the radius, half of the side rounded down",
            lambda e, n, o: (o.abs() <= n).all(-1),
        ),
        (
            "one axis inside is enough for you: all must be inside (`and`, not `or`)",
            lambda e, n, o: (low(e, n) & high(e, n)).any(-1),
        ),
    ]
    for a, name in enumerate(axes):
        others = [b for b in range(len(axes)) if b != a]

        def inside(e, n, a=a, others=others, lower=True, upper=True):
            rest = (low(e, n) & high(e, n))[..., others].all(-1)
            own = (low(e, n)[..., a] | (not lower)) & (high(e, n)[..., a] | (not upper))
            return rest & own

        out += [
            (f"along {name} the upper bound is not tested", lambda e, n, o, f=inside: f(e, n, upper=False)),
            (f"along {name} the lower bound is not tested: {negative}", lambda e, n, o, f=inside: f(e, n, lower=False)),
            (f"along {name} no bound is tested", lambda e, n, o, f=inside: f(e, n, lower=False, upper=False)),
        ]
    return tuple(out)
