"""Kinds of mistakes: which systematic mistake explains a wrong result?

A *candidate* is a sentence to the reader and a function of an exercise's arguments that makes one mistake. Each kind
of mistake produces candidates from what is known of an exercise:

    results    the right result, read or finished wrongly (a factor, a missing sum, axes in another order, ...)
    arguments  the right computation on wrong arguments (one for another, one that is not used, ...)
    axes       axes that are split, ordered or merged wrongly, of an exercise that is one einops pattern
    formulas   a sum of products with a wrong factor, power or term, or with a term too many
    points     points in time, a fraction of whole numbers that is rounded
    tables     the index into a table of relative positions; offsets read what it is made of
    steps      a sequence of named steps, one of them forgotten, moved or done wrongly
    operations one function with a wrong setting, or several that make one idea; what may stand in place of a softmax, a
               product, a roll, a centre, a head
    relations  a mask of pairs with a wrong relation along one axis or several

`explain` tries the exercise's own mistakes first, then the kinds, then two mistakes at once. Its answer describes the
reader's result in every case, number by number; where nothing does so, there is no answer. Candidates are tried
from simple to complicated, so of two that give the same numbers the simpler one is named.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from time import monotonic, thread_time

import torch
from torch import Tensor

from vt_course.lab.exercise import Exercise
from vt_course.lab.kinds import arguments, results
from vt_course.lab.kinds.common import Outcome, attempt, clone, first_wrong, same_tensor

NAN = (
    "NaN (not a number) comes from 0/0, from inf - inf or 0 · inf, or from a root or logarithm of a negative number; "
    "or a tensor was made with `torch.empty` and not filled"
)
SECONDS = 1.7  # of `spent`, 1.5 on a quiet machine: in this time an answer is explained, or only its place is named


def spent() -> float:
    """A clock that other work on the machine hardly moves, because what is said must not depend on it."""
    return thread_time() + monotonic() / 8


def explain(exercise: Exercise, function: Callable, outcomes: list[Outcome], error: bool = False) -> str | None:
    """The sentence of the first candidate that reproduces every result of the reader's `function`, or None.

    `outcomes` has the arguments, the right and the reader's result of each case (None where it raised). `function`
    is called again by kinds that read an answer from numbers of their own choice. If `error`, the reader is told of an
    error, so what is said must also make an error in the cases that have no result.
    """
    if not any(isinstance(o.got, Tensor) and not o.right for o in outcomes):
        # nothing wrong was returned, so no mistake can be recognised by its numbers
        return by_failures(exercise, function, outcomes) if error else None
    said = search(exercise, function, outcomes, error)
    if any(floats_for_whole(o.got, o.want) for o in outcomes):
        if not said or said == NAN:
            down = [Outcome(o.args, o.want, rounded_down(o.got)) for o in outcomes]
            if any(o.got is not None and not o.right for o in down):
                said = search(exercise, lambda *args: rounded_down(function(*args)), down, error)
        if said and said != NAN and "floating-point" not in said and "fraction" not in said:
            remedy = (
                "numbers are floating-point ones: whole ones come from `//` or, at the end, `.long()`"
                if outcomes[0].want.ndim
                else "number is a floating-point one: a whole one comes from `//`, `math.ceil` or `int(...)`"
            )
            return f"{said}. Besides, your {remedy}"
    return said


def by_failures(exercise: Exercise, function: Callable, outcomes: list[Outcome]) -> str | None:
    """The sentence of the first mistake of an exercise that is right in the same cases, and fails in the same others.

    Asked for are cases of both sorts, and six of them in all.
    """
    torch.manual_seed(1)
    more = [Outcome(args, None, attempt(function, clone(args))) for args in exercise.more()]
    if len({o.got is None for o in outcomes}) < 2 or len(outcomes) + len(more) < 6:
        return None
    until = spent() + SECONDS
    for sentence, candidate in [
        *exercise.mistakes,
        *(c for kind in exercise.kinds for c in kind.candidates(function, outcomes)),
    ]:
        if spent() > until:
            return None
        if fits(candidate, outcomes, error=True) and fits(candidate, more, error=True):
            return sentence
    return None


def floats_for_whole(got: Tensor | None, want: Tensor) -> bool:
    return got is not None and got.is_floating_point() and not want.is_floating_point()


def rounded_down(got):
    """The whole numbers that a reader's floating-point ones become by `//`."""
    return got.double().floor().long() if isinstance(got, Tensor) and got.is_floating_point() else got


def search(exercise: Exercise, function: Callable, outcomes: list[Outcome], error: bool) -> str | None:
    """The sentence of the first candidate that reproduces all outcomes, what NaN means if nothing does, or None."""
    outcomes = sorted(outcomes, key=lambda o: o.got is None or o.right)  # wrong ones first: most candidates fail there
    nan = bool(first_wrong(outcomes).got.isnan().any())  # the numbers beside which the sentence stands
    only_nan = nan and all(o.got.isnan().all() for o in outcomes if o.got is not None and not o.right)
    until, more = spent() + (SECONDS / 5 if nan else SECONDS), []

    def explains(candidate: Callable) -> bool:
        if not fits(candidate, outcomes, error):
            return False
        if not more:
            torch.manual_seed(1)
            more.extend(Outcome(args, None, attempt(function, clone(args))) for args in exercise.more())
        return fits(candidate, more)

    for sentence, candidate in single(exercise, function, outcomes):
        if explains(candidate):
            return sentence
        if spent() > until:
            return NAN if nan else None
    if only_nan:
        return NAN  # no number speaks for one pair of mistakes or another
    for kind in [Settings(exercise.mistakes), *exercise.kinds]:
        sentence = pair_of_kind(kind, function, outcomes, explains, until)
        if sentence:
            return sentence
    for sentence, candidate in mixed_pairs(exercise, function, outcomes, until):
        if explains(candidate):
            return sentence
        if spent() > until:
            break
    return NAN if nan else None


def fits(candidate: Callable, outcomes: list[Outcome], error: bool = False) -> bool:
    """Whether a candidate gives the reader's result in every case that has one; if `error`, none in the others."""
    for outcome in outcomes:
        if isinstance(outcome.got, Tensor):
            if not same_tensor(attempt(candidate, outcome.args), outcome.got):
                return False
        elif error and attempt(candidate, outcome.args) is not None:
            return False
    return True


def right_function(exercise: Exercise) -> Callable:
    """The right answer, computed as fast as may be."""
    return next(
        (kind.function for kind in exercise.kinds if hasattr(kind, "function")), exercise.driven(exercise.piece)
    )


def single(exercise: Exercise, function: Callable, outcomes: list[Outcome]) -> Iterator[tuple[str, Callable]]:
    """One mistake."""
    right = right_function(exercise)
    yield from exercise.mistakes
    yield from results.candidates(exercise, outcomes, right, results.simple)
    for kind in exercise.kinds:
        yield from kind.candidates(function, outcomes)
    yield from results.candidates(exercise, outcomes, right, results.changes)
    for sentence, edit in arguments.edits(exercise, outcomes):
        yield sentence, lambda *args, edit=edit: right(*edit(args))


@dataclass(frozen=True)
class Settings:
    """The mistakes of an exercise that are settings (`functools.partial`) of one function, to be combined."""

    mistakes: tuple

    def candidates(self, function: Callable, outcomes: list[Outcome]) -> Iterator[tuple[str, Callable]]:
        return iter(self.mistakes)

    def pairs(self, outcomes: list[Outcome]) -> Iterator[tuple[str, str, Callable]]:
        settings = [(name, m) for name, m in self.mistakes if hasattr(m, "keywords")]
        for (name, a), (other, b) in combinations(settings, 2):
            if a.func is b.func and not a.keywords.keys() & b.keywords.keys():
                yield name, other, lambda *args, a=a, b=b: a.func(*args, **a.keywords, **b.keywords)


def pair_of_kind(kind, function: Callable, outcomes: list[Outcome], explains: Callable, until: float) -> str | None:
    """What is said of two mistakes of one kind. If several pairs fit, what they have in common."""
    found = []
    for first, second, candidate in kind.pairs(outcomes):
        if explains(candidate):
            found.append((first, second))
            until = spent() + SECONDS / 4 if len(found) == 1 else until  # for other pairs that fit
        if spent() > until:
            break
    if not found:
        return None
    alone = dict(kind.candidates(function, outcomes))
    args = first_wrong(outcomes).args

    def alike(a: str, b: str) -> bool:
        return a == b or (a in alone and b in alone and same_tensor(attempt(alone[a], args), attempt(alone[b], args)))

    first, *others = found
    common = [a for a in first if all(any(alike(a, b) for b in other) for other in others)]
    if len(common) == 2:
        return two(*first)
    return f"more than one mistake. One of them: {common[0]}" if common else None


def mixed_pairs(exercise, function, outcomes: list[Outcome], until: float) -> Iterator[tuple[str, Callable]]:
    """A mistake of the exercise or of its arguments, and one that was made with the result or an argument besides."""
    right = right_function(exercise)
    edits = arguments.edits(exercise, outcomes)
    edited = [(name, lambda *args, edit=edit: right(*edit(args))) for name, edit in edits]
    declared = [c for kind in exercise.kinds for c in kind.candidates(function, outcomes)]
    for name, wrong in [*exercise.mistakes, *declared, *edited]:
        if spent() > until:
            return
        for other, finished in results.candidates(exercise, outcomes, wrong, results.endings):
            if not undoes(name, other):
                yield two(name, other), finished
    unused = list(arguments.forgotten(exercise, outcomes))
    for name, wrong in [*exercise.mistakes, *declared]:
        for other, edit in unused:
            if not undoes(name, other):
                yield two(name, other), lambda *args, wrong=wrong, edit=edit: wrong(*edit(args))


def undoes(first: str, second: str) -> bool:
    """Whether two mistakes of one sort may cancel each other: then nobody made them."""
    words = ("sign", "other", "exchanged", "transposed", "order", "place", "added up", "averaged")
    return "that is 1" in first or any(word in first and word in second for word in words)


def two(first: str, second: str) -> str:
    return f"two mistakes at once. One: {first}. The other: {second}"
