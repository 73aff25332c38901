"""Operations along a wrong axis, and what stands in their place."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from vt_course.lab.kinds.common import Outcome, at_two_places


@dataclass(frozen=True)
class Choices:
    """Wrong versions of one function that has a keyword for each of its steps.

    function: function(*arguments, **settings); without settings it gives the right answer.
    settings: for each keyword, pairs of a sentence and a wrong value.
    """

    function: Callable
    settings: dict[str, tuple[tuple[str, object], ...]]

    def candidates(self, function: Callable, outcomes: list[Outcome]) -> Iterator[tuple[str, Callable]]:
        for _, sentence, setting in self.single():
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
