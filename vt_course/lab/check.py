"""Exercise checks that name the likely mistake.

    window_partition = check("4.1", window_partition)

compares the reader's function with the literal definition on several cases. A correct function prints one
line, always the same. A wrong one raises nothing: the check prints what is wrong and where. It then looks for the
mistake that gives the reader's output, number by number: in the exercise's list of known mistakes, and among the
kinds of mistakes of `vt_course.lab.kinds`. The cells below use the returned function: the reader's, or the package's
while the stub is untouched. `vt_course/lab/exercises` holds the definition, the cases and the mistakes of each
exercise. `vt-course course` counts the lines "✓ exercise".
"""

import inspect
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO

import torch
from torch import Tensor

from vt_course import CourseError
from vt_course.lab import progress
from vt_course.lab.exercise import Exercise
from vt_course.lab.exercises import EXERCISES
from vt_course.lab.kinds import explain
from vt_course.lab.kinds.common import Outcome, as_tensor, axis_names, clone, plain, same_tensor
from vt_course.lab.kinds.errors import explain_error
from vt_course.lab.kinds.results import quantities

PASSED, FAILED, NOT_ATTEMPTED = "passed", "failed", "not attempted"
SLACK = 1.0  # times the tolerance; the grader's random cases need more, because rounding decides some of them


def check(number: str, function: Callable, solution: bool = False) -> Callable:
    """Check the reader's `function` for exercise `number` and print the verdict.

    Returns the function that the cells below should use: `function`, or the package's piece if `function` is
    still the stub. A pass is recorded for `vt-course progress`, but not if `solution` is True (the course's own
    solution). A wrong function raises nothing. Raises KeyError for a number that does not exist, and Interrupted if
    the reader stops a function that does not end.
    """
    exercise = exercise_of(number)
    if function is exercise.piece:  # which a check of the untouched stub has bound to the name
        print(
            f"○ exercise {number} is not attempted yet: its name stands for the course's own function; run the cell "
            "with your code first"
        )
        return function
    torch.manual_seed(0)
    found = verdict(number, exercise, function, exercise.cases())
    print(found.text)
    if found.picture:
        draw(number, *found.picture)
    if found.state == NOT_ATTEMPTED:
        return exercise.piece
    if found.state == PASSED and not solution:
        progress.record(number)
    return function


@dataclass(frozen=True)
class Verdict:
    """What a check finds: its state, the lines to print, and (the right result, the reader's) if both can be drawn."""

    state: str
    text: str
    picture: tuple | None = None


def verdict(number: str, exercise: Exercise, function: Callable, cases: list[tuple]) -> Verdict:
    """Compare a function with the definition of an exercise on `cases`. Prints nothing, records nothing."""
    given, outputs, raised = [clone(args) for args in cases], [], None
    tried = exercise.driven(function)
    for args in given:
        try:
            outputs.append(as_tensor(tried(*args)))
        except KeyboardInterrupt:
            said = f"✗ exercise {number}, on {describe(exercise, args)}: interrupted; does a loop never end?"
            raise Interrupted(said) from None
        except (Exception, SystemExit) as error:  # any error of the reader's code is a result of the check
            if of_stub(error, number, function):
                return Verdict(
                    NOT_ATTEMPTED,
                    f"○ exercise {number} is not attempted yet; until it is, the cells below use the course's "
                    f"own {name_of(function)}",
                )
            raised = error, args
            break
    for args, used, got in zip(cases, given, outputs):  # a wrong result before the error may tell more
        want = exercise.definition(*clone(args))
        problem = compare(exercise, args, got, want)
        if problem:
            return failed(
                number,
                (exercise.words and exercise.words(tried, *args)) or f"on {describe(exercise, args)}: {problem}",
                diagnose(exercise, tried, cases, outputs),
                picture=(want, got),
            )
        if not all(torch.equal(a, b) for a, b in zip(args, used) if isinstance(a, Tensor)):
            return failed(
                number,
                f"on {describe(exercise, args)}: the result is right, but your function changes its input: "
                "make a new tensor instead",
                None,
            )
        problem = exercise.gradient and compare_gradients(exercise, tried, args)
        if problem:
            return failed(number, f"on {describe(exercise, args)}: the result is right, but {problem}", None)
    if raised:
        error, args = raised
        if exercise.words and isinstance(error, CourseError):
            return failed(number, str(error), None)
        likely = diagnose(exercise, tried, cases, outputs, error=True) or explain_error(
            error, function, names_given(exercise), args, lengths(exercise, args)
        )
        text = "" if isinstance(error, SystemExit) else f": {error}"
        return failed(
            number, f"your function raised {type(error).__name__} on {describe(exercise, args)}{text}", likely
        )
    return Verdict(PASSED, f"✓ exercise {number} ({exercise.title}): {len(cases)} cases")


def of_stub(error: BaseException, number: str, function: Callable) -> bool:
    """Whether an error is what the stub of this exercise raises: its sentence, or a bare `raise NotImplementedError`.

    The class alone does not tell: torch raises it too, for instance where two bool tensors are subtracted. A bare one
    counts where the reader's own module raised it, because a library may have methods that raise it bare.
    """
    if not isinstance(error, NotImplementedError):
        return False
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    here = trace.tb_frame.f_globals.get("__name__") == getattr(function, "__module__", None)
    return str(error) == f"exercise {number}" or not str(error) and here


def exercise_of(number: str) -> Exercise:
    """The exercise of this number. Raises KeyError that names those that exist."""
    if number not in EXERCISES:
        books = dict.fromkeys(n.split(".")[0] for n in EXERCISES)
        of = {b: [n for n in EXERCISES if n.split(".")[0] == b] for b in books}
        near = of.get(str(number).split(".")[0]) or [" to ".join(dict.fromkeys((n[0], n[-1]))) for n in of.values()]
        raise UnknownExercise(f"there is no exercise {number}; there are {', '.join(near)}")
    return EXERCISES[number]


class UnknownExercise(KeyError):
    """A KeyError whose message is printed as it is."""

    def __str__(self) -> str:
        return self.args[0]


class Interrupted(KeyboardInterrupt):
    """An interrupt that a notebook shows as one sentence. It still stops the cells that wait for this one."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def failed(number: str, problem: str, likely: str | None, picture: tuple | None = None) -> Verdict:
    likely = f"\n  Likely: {likely}" if likely else ""
    want, got = picture or (None, None)
    if not (
        isinstance(got, Tensor) and plain(got) and got.shape == want.shape and not same_tensor(got, want) and want.ndim
    ):
        picture = None
    return Verdict(FAILED, f"✗ exercise {number}, {problem}{likely}", picture)


def draw(number: str, want: Tensor, got: Tensor) -> None:
    from IPython.display import display

    from vt_course.lab.show import expected_got

    got, want = (t.detach().float() if t.is_floating_point() else t for t in (got, want))  # NumPy has no bfloat16
    display(expected_got(want, got, title=f"exercise {number}: the first case that fails"))


def compare(exercise: Exercise, args: tuple, got, want: Tensor) -> str | None:
    """What is wrong with `got`, or None."""
    if not isinstance(got, Tensor):
        wanted = "a tensor" if want.ndim else "a tensor or a number"
        if got is None:
            return f"your function returned nothing, not {wanted}; is there a `return`?"
        return f"your function returned a {type(got).__name__}, not {wanted}"
    if not plain(got):
        return f"your function returned a tensor of {got.dtype}, {got.layout}, on {got.device}; wanted is a plain one"
    if got.shape != want.shape:
        formula, numbers = exercise.shape(*args), str(tuple(want.shape))
        return f"shape {tuple(got.shape)}, wanted {formula}" + (
            f" = {numbers}" if not formula.endswith(numbers) else ""
        )
    if got.dtype.is_floating_point != want.dtype.is_floating_point and want.ndim:
        return f"dtype {got.dtype}, wanted {want.dtype}"
    wrong = differing(got, want)
    if not wrong.any():
        return None
    if not want.ndim:
        return got_wanted(got, want)
    where = tuple(wrong.nonzero()[0].tolist())
    return (
        f"{int(wrong.sum()):,} of {want.numel():,} numbers differ, first at index {where}: "
        f"{got_wanted(got[where], want[where])}"
    )


def compare_gradients(exercise: Exercise, function: Callable, args: tuple) -> str | None:
    """What is wrong with the gradients of the floating-point arguments, or None."""
    gradients = []
    for f in (exercise.definition, function):
        inputs = [a.clone().requires_grad_() if is_float(a) else a for a in clone(args)]
        out = as_tensor(f(*inputs))
        if not out.requires_grad:
            return (
                "no gradient reaches the input: `.detach()`, `.data`, `.item()`, `torch.tensor(...)` or `no_grad` "
                "cut it off"
            )
        weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        try:
            found = torch.autograd.grad((out * weights).sum(), [a for a in inputs if is_float(a)], allow_unused=True)
        except RuntimeError as error:  # the reader's: the definition has a gradient
            if "inplace" in str(error):
                return (
                    "it has no gradient: a tensor that the backward pass still needs is changed in place; write "
                    "`x = x + y` instead of `x += y`"
                )
            return f"its gradient cannot be computed: {error}"
        gradients.append(found)
    names = [name for name, a in zip(names_of(exercise), args) if is_float(a)]
    for name, want, got in zip(names, *gradients):
        if want is not None and (got is None or differing(got, want).any()):
            return f"the gradient of `{name}` is not: is a part of the computation outside the graph?"
    return None


def diagnose(
    exercise: Exercise, function: Callable, cases: list[tuple], outputs: list, error: bool = False
) -> str | None:
    """The sentence of the mistake that reproduces what the reader's function returned in all cases, or None."""
    if not all(isinstance(out, Tensor) and plain(out) for out in outputs):
        return None
    # The reader's function runs again here: what it prints, warns of or draws at random belongs to the first time.
    with redirect_stdout(StringIO()), warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]):
        outputs = outputs + [
            result(function, args) for args in cases[len(outputs) :]
        ]  # after an error: the other cases
        try:
            outcomes = [Outcome(args, exercise.definition(*clone(args)), out) for args, out in zip(cases, outputs)]
            return explain(exercise, function, outcomes, error)
        except (Exception, KeyboardInterrupt):  # whatever a reader's function returns, its place has been printed
            return None


def lengths(exercise: Exercise, args: tuple) -> dict[str, int]:
    """The sizes that a reader may have forgotten, by name: the batch, then the lengths of all axes and the numbers."""
    want = exercise.definition(*clone(args))
    axes = axis_names(exercise, Outcome(args, want, None))
    batch = {f"the batch, axis {i} of the result": n for i, n in enumerate(want.shape) if axes[i].endswith("(B)")}
    if "x" in names_of(exercise) and axes and "(B·" in axes[0]:  # batch and windows are one axis of the result
        batch |= {"the batch, axis 0 of `x`": args[names_of(exercise).index("x")].shape[0]}
    return batch | {name: int(n) for name, n in quantities(exercise, args).items() if n == int(n)}


def result(function: Callable, args: tuple) -> Tensor | None:
    """The tensor that the reader's function returns, or None if it does not."""
    try:
        out = as_tensor(function(*clone(args)))
    except (Exception, SystemExit):
        return None
    return out if isinstance(out, Tensor) and plain(out) else None


def differing(got: Tensor, want: Tensor) -> Tensor:
    slack = SLACK if want.is_floating_point() else 1.0
    if got.is_floating_point() and not want.is_floating_point():
        want = want.double()  # a count is compared as a number, with all its digits
    return ~torch.isclose(got.to(want.dtype), want, rtol=slack * 1e-5, atol=slack * 1e-6, equal_nan=False)


def is_float(value) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def describe(exercise: Exercise, args: tuple) -> str:
    """The arguments of a case in words: names, and shapes or values."""
    return ", ".join(
        f"{name} of shape {tuple(a.shape)}" if isinstance(a, Tensor) else f"{name}={a}"
        for name, a in zip(names_of(exercise), args)
    )


def names_of(exercise: Exercise) -> list[str]:
    return list(inspect.signature(exercise.definition).parameters)


def names_given(exercise: Exercise) -> list[str]:
    """The names of what the reader's function is called with."""
    return list(inspect.signature(exercise.piece).parameters) if exercise.drive else names_of(exercise)


def name_of(function: Callable) -> str:
    return f"`{getattr(function, '__name__', 'function')}`"


def got_wanted(got: Tensor, want: Tensor) -> str:
    """Both numbers as text, with enough digits to see that they differ."""
    if got.is_floating_point() and not want.is_floating_point():
        return f"got {got.item():,.15g}, wanted {number_text(want, 4)}"
    for digits in (4, 7, 17):
        got_text, want_text = number_text(got, digits), number_text(want, digits)
        if got_text != want_text:
            break
    return f"got {got_text}, wanted {want_text}"


def number_text(value: Tensor, digits: int) -> str:
    return (
        f"{value.item():,}"
        if not value.is_floating_point() and value.dtype != torch.bool
        else f"{value.item():.{digits}g}"
    )
