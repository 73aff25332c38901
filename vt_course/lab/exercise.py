"""One exercise: what its check compares with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from torch import Tensor


@dataclass(frozen=True)
class Exercise:
    """What a check needs to know.

    title: a few words.
    definition: the literal, slow solution. It is called with clones of a case's arguments and returns a tensor.
    cases: returns the argument tuples; called after `torch.manual_seed(0)`, so they are the same each time.
    shape: maps a case's arguments to the expected shape, as a formula in which numbers are put in.
    mistakes: pairs of a sentence to the reader that says what is wrong, and a wrong version of the definition.
    piece: the package's function, which the cells below use while the exercise is unsolved.
    gradient: whether the gradients of all floating-point arguments are compared as well.
    parts: names for the entries of arguments that are tuples, {"window": ("P", "Mh", "Mw")}.
    more: further argument tuples, random ones: a mistake is named only if it explains the reader's results on them too.
    kinds: what the check can search for beyond `mistakes`, objects of `vt_course.lab.kinds` (axes, formulas, ...).
    drive: for a function that changes things and returns little, such as a step of training: drive(function) uses it
        and returns what is compared, as a function of a case's arguments. `definition` has this form already.
    by_hand: why `vt-course grade` leaves it to the teacher, or "".
    words: for a driven function whose results are only signs: words(driven, *arguments) says in a sentence what it saw
        in a case that went wrong, "" if nothing. A `CourseError` of such a function is a sentence to the reader too.
    """

    title: str
    definition: Callable[..., Tensor]
    cases: Callable[[], list[tuple]]
    shape: Callable[..., str]
    mistakes: tuple[tuple[str, Callable[..., Tensor]], ...]
    piece: Callable[..., Tensor]
    gradient: bool = False
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    more: Callable[[], list[tuple]] = list
    kinds: tuple = ()
    drive: Callable[[Callable], Callable[..., Tensor]] | None = None
    by_hand: str = ""
    words: Callable[..., str] | None = None

    def driven(self, function: Callable) -> Callable:
        """The function of a case's arguments that is compared with the definition."""
        return self.drive(function) if self.drive else function


FIRST = 0  # seed of the first generator; the grader sets another, for cases that a submission has not seen


def randoms(n: int) -> list[Random]:
    """n generators of random numbers, the same each time."""
    return [Random(FIRST + k) for k in range(n)]
