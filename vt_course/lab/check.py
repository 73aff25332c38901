"""Exercise checks that name the likely mistake.

    window_partition = check("4.1", window_partition)

compares the reader's function with the literal definition on several cases. A correct function prints one
line, always the same. A wrong one raises nothing: the check prints what is wrong and where. It then compares the
reader's output with a catalogue of known mistakes, to name the likely one. The cells below use the returned
function: the reader's, or the package's while the stub is untouched. `vt_course/lab/exercises` holds the
definition, the cases and the mistakes of each exercise. `vt-course course` counts the lines "✓ exercise".
"""

import inspect
from collections.abc import Callable
from itertools import permutations

import torch
from torch import Tensor

from vt_course.lab import progress
from vt_course.lab.exercise import Exercise
from vt_course.lab.exercises import EXERCISES


def check(number: str, function: Callable, solution: bool = False) -> Callable:
    """Check the reader's `function` for exercise `number` and print the verdict.

    Returns the function that the cells below should use: `function`, or the package's piece if `function` is
    still the stub. A pass is recorded for `vt-course progress`, but not if `solution` is True (the course's own
    solution). A wrong function raises nothing. Raises KeyError for a number that does not exist.
    """
    exercise = EXERCISES[number]
    torch.manual_seed(0)
    cases = exercise.cases()
    given, outputs, raised = [clone(args) for args in cases], [], None
    for args in given:
        try:
            outputs.append(as_tensor(function(*args)))
        except NotImplementedError:
            print(
                f"○ exercise {number} is not attempted yet; until it is, the cells below use the course's "
                f"own {name_of(function)}"
            )
            return exercise.piece
        except Exception as error:  # any error of the reader's code is a result of the check
            raised = (
                f"your function raised {type(error).__name__} on {describe(exercise, args)}: {error}",
                error_hint(error),
            )
            break
    for args, used, got in zip(cases, given, outputs):  # a wrong result before the error may tell more
        want = exercise.definition(*clone(args))
        problem = compare(exercise, args, got, want)
        if problem:
            fail(
                number,
                f"on {describe(exercise, args)}: {problem}",
                diagnose(exercise, cases, outputs),
                picture=(want, got),
            )
            return function
        if not all(torch.equal(a, b) for a, b in zip(args, used) if isinstance(a, Tensor)):
            fail(
                number,
                f"on {describe(exercise, args)}: the result is right, but your function changes its input: "
                "make a new tensor instead",
                None,
            )
            return function
        problem = exercise.gradient and compare_gradients(exercise, function, args)
        if problem:
            fail(number, f"on {describe(exercise, args)}: the result is right, but {problem}", None)
            return function
    if raised:
        fail(number, *raised)
        return function
    print(f"✓ exercise {number} ({exercise.title}): {len(cases)} cases")
    if not solution:
        progress.record(number)
    return function


def fail(number: str, problem: str, likely: str | None, picture: tuple | None = None) -> None:
    print(f"✗ exercise {number}, {problem}")
    if likely:
        print(f"  Likely: {likely}")
    want, got = picture or (None, None)
    if isinstance(got, Tensor) and got.shape == want.shape and not same_tensor(got, want) and want.ndim:
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
        inputs = [a.clone().requires_grad_() if is_float(a) else a for a in args]
        out = as_tensor(f(*inputs))
        if not out.requires_grad:
            return (
                "no gradient reaches the input: `.detach()`, `.data`, `.item()`, `torch.tensor(...)` or `no_grad` "
                "cut it off"
            )
        weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        gradients.append(
            torch.autograd.grad((out * weights).sum(), [a for a in inputs if is_float(a)], allow_unused=True)
        )
    names = [name for name, a in zip(inspect.signature(exercise.definition).parameters, args) if is_float(a)]
    for name, want, got in zip(names, *gradients):
        if want is not None and (got is None or differing(got, want).any()):
            return f"the gradient of `{name}` is not: is a part of the computation outside the graph?"
    return None


def diagnose(exercise: Exercise, cases: list[tuple], outputs: list) -> str | None:
    """The first mistake of the catalogue that reproduces the reader's output in every case."""
    for name, wrong in exercise.mistakes:
        if all(same_tensor(attempt(wrong, args), out) for args, out in zip(cases, outputs)):
            return name
    return permutation_hint(exercise, cases, outputs)


def permutation_hint(exercise: Exercise, cases: list[tuple], outputs: list) -> str | None:
    """A hint if, in every case, the output is the right one with its axes in another order; else None."""
    wants = [exercise.definition(*clone(args)) for args in cases]
    for axes in permutations(range(wants[0].ndim)) if len({want.ndim for want in wants}) == 1 else ():
        if all(same_tensor(want.permute(axes), got) for want, got in zip(wants, outputs)):
            if list(axes) == sorted(axes):  # the identity comes first: only the dtype is wrong
                return None
            return f"your axes are in another order: the right result, permuted by {axes}"
    return None


def error_hint(error: Exception) -> str | None:
    if "view size is not compatible" in str(error):
        return "`view` cannot follow `permute`, whose result is not contiguous: use `reshape`"
    if "invalid for input of size" in str(error) or "shape '" in str(error):
        return (
            "the sizes you reshape to do not multiply to the number of elements (are two sides exchanged "
            "or taken as equal? is the "
            "batch taken to be 1?)"
        )
    if "Expected size for first two dimensions" in str(error) or "shapes cannot be multiplied" in str(error):
        return (
            "the inner sizes of a matrix product differ; `.T` turns all axes around, `.mT` exchanges the "
            "last two, and the weight "
            "of a linear layer is (out, in): `F.linear(x, w)` or `x @ w.T`"
        )
    if "same dtype" in str(error) or "expected scalar type" in str(error):
        return "a matrix product wants one dtype on both sides: make the integers floating-point first, `n.to(g.dtype)`"
    if "Sizes of tensors must match" in str(error):
        return (
            "the pieces you join have different sizes: an axis was not padded, or the pairs of `F.pad` "
            "are in the wrong order: "
            "the last axis comes first"
        )
    if "must match the size of tensor" in str(error):
        return (
            "two shapes do not broadcast: sizes are compared from the last axis on, and a missing axis must be "
            "added as one of size 1"
        )
    if isinstance(error, IndexError) and "out of" in str(error):
        return "an index lies outside its axis, which has the places 0 to length - 1: is something off by one?"
    return None


def attempt(function: Callable, args: tuple):
    try:
        return function(*clone(args))
    except (RuntimeError, IndexError, ValueError):
        return None  # this mistake cannot be made in this case


def differing(got: Tensor, want: Tensor) -> Tensor:
    return ~torch.isclose(got.to(want.dtype), want, rtol=1e-5, atol=1e-6, equal_nan=False)


def same_tensor(a, b) -> bool:
    """Whether two tensors have the same numbers, whatever their dtypes (True equals 1).

    NaN equals NaN, because a known mistake may produce NaN, and then so does the reader's function.
    """
    return (
        isinstance(a, Tensor)
        and isinstance(b, Tensor)
        and a.shape == b.shape
        and torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-6, equal_nan=True)
    )


def as_tensor(value):
    """A plain number as a tensor without axes; any other value unchanged."""
    return torch.tensor(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def is_float(value) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def clone(args: tuple) -> tuple:
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in args)


def describe(exercise: Exercise, args: tuple) -> str:
    """The arguments of a case in words: names, and shapes or values."""
    names = inspect.signature(exercise.definition).parameters
    return ", ".join(
        f"{name} of shape {tuple(a.shape)}" if isinstance(a, Tensor) else f"{name}={a}" for name, a in zip(names, args)
    )


def name_of(function: Callable) -> str:
    return f"`{getattr(function, '__name__', 'function')}`"


def got_wanted(got: Tensor, want: Tensor) -> str:
    """Both numbers as text, with enough digits to see that they differ."""
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
