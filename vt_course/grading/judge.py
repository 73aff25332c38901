"""The checks, run on the functions of a submission. Nothing of a submission is executed in this process.

A check calls the function of a submission like any other. Here the function is a stand-in: it sends the arguments to
the process of `sandbox.py`, and what comes back becomes a plain tensor. Right answers stay here.
"""

import builtins
import copy
import functools
import inspect
import io
import time
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import cloudpickle
import torch
from torch import Tensor

import vt_course.lab
from vt_course import CourseError
from vt_course.files import parse_json, parse_safetensors
from vt_course.grading.sandbox import PER_CPU_SECOND, Limits, Process, Stopped, used
from vt_course.grading.submission import BY_HAND, FAILED, Answer
from vt_course.lab import check
from vt_course.lab import exercise as randomness
from vt_course.lab.check import PASSED, Verdict, verdict
from vt_course.lab.exercise import Exercise
from vt_course.lab.exercises import EXERCISES
from vt_course.lab.kinds.common import as_tensor

# The classes of arguments that the exercises define travel as code, because the other side has no `vt_course.lab`.
cloudpickle.register_pickle_by_value(vt_course.lab)


class Pickler(cloudpickle.Pickler):
    def reducer_override(self, obj):
        if isinstance(obj, functools._lru_cache_wrapper):  # the other side may compute it again
            return copy.copy, (inspect.unwrap(obj),)
        return super().reducer_override(obj)


def pickled(request: dict) -> bytes:
    file = io.BytesIO()
    Pickler(file).dump(request)
    return file.getvalue()


class StandIn:
    """Looks like the function of a submission, and asks the process in which it is."""

    def __init__(self, process: Process, answer: Answer, name: str, drive):
        self.process, self.calls = process, 0
        seconds = process.limits.seconds
        self.until, self.cpu = time.monotonic() + seconds * PER_CPU_SECOND, used(process.family()) + seconds
        self.__name__ = name
        if answer.parameters:  # what sentences on errors say of a function
            self.__code__ = SimpleNamespace(co_varnames=answer.locals, co_argcount=len(answer.parameters))
        self.ask(do="load", code=answer.code, name=name, drive=drive)

    def ask(self, **request) -> tuple[dict, dict[str, Tensor]]:
        """(header, tensors) of an answer. Raises the error that the submission raised, or Stopped."""
        answer = self.process.ask(pickled(request), self.until, self.cpu)
        try:
            header = parse_json(answer[0], "the answer", "", dict)
            tensors = parse_safetensors(answer[1], "the answer", "")
            kind = header["value"]
        except (CourseError, KeyError):
            raise Stopped("it wrote something into the pipe to the grader") from None
        if kind == "large":
            raise self.process.too_large()
        if kind == "error":
            raise error_like(header)
        return header, tensors

    def __call__(self, *args):
        gradients = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad]
        if gradients:
            return Remote.apply(self, args, gradients, *(args[i] for i in gradients))
        return self.call(args, [])[1]

    def call(self, args: tuple, gradients: list[int]) -> tuple[dict, object]:
        """(header, result). What the function has changed in its arguments is changed in ours."""
        self.calls += 1
        plain = tuple(a.detach() if isinstance(a, Tensor) else a for a in args)
        header, tensors = self.ask(do="call", number=self.calls, args=plain, gradients=gradients)
        if not gradients:
            for i, a in enumerate(args):
                if f"arg{i}" in tensors and isinstance(a, Tensor):
                    changed = tensors[f"arg{i}"]
                    a.copy_(changed) if changed.shape == a.shape else a.set_(changed)
        if header["value"] == "tensor" and "out" in tensors:
            return header, tensors["out"]
        if header["value"] == "number":
            return header, number_of(header)
        if header["value"] == "none":
            return header, None
        return header, type(str(header.get("type", "value")), (), {})()  # a check says the name of its class


class Remote(torch.autograd.Function):
    """The function of a submission, with its gradient."""

    @staticmethod
    def forward(ctx, stand_in: StandIn, args: tuple, gradients: list[int], *tensors: Tensor):
        header, out = stand_in.call(args, gradients)
        ctx.stand_in, ctx.number, ctx.count = stand_in, stand_in.calls, len(tensors)
        out = as_tensor(out)
        if not isinstance(out, Tensor):
            raise TypeError("your function returned a tensor before, and now returns none")
        if header.get("grad") is not True:
            ctx.mark_non_differentiable(out)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        _, tensors = ctx.stand_in.ask(do="back", number=ctx.number, gradient=gradient)
        return None, None, None, *(tensors.get(f"arg{i}") for i in range(ctx.count))


def number_of(header: dict) -> int | float | None:
    try:
        return (float if header.get("float") else int)(header.get("number"))
    except (TypeError, ValueError):
        return None


def error_like(header: dict) -> BaseException:
    """An error with the name and the text of that of a submission."""
    name, text = str(header.get("type")), str(header.get("text"))
    kind = getattr(builtins, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)) or issubclass(kind, (OSError, UnicodeError)):
        if name in ("SystemExit", "KeyboardInterrupt"):
            return SystemExit(text)
        kind = type(name if name.isidentifier() else "Error", (Exception,), {})
    try:
        error = kind(text)
    except Exception:
        error = type(name, (Exception,), {})(text)
    if isinstance(error, (NameError, AttributeError)):
        error.name = header.get("name")
    return error


# ---------------------------------------------------------------- other cases than a student has seen


SLACK = 10.0  # in float32, right functions differ from the definition by up to 4 times the tolerance of a check


def changed(number: str, seed: int) -> tuple[Exercise, list[tuple]]:
    """(the exercise with other random cases, the cases to check): its own with other numbers, and random ones.

    A case on which the package's own function fails, because rounding decides it, is left out.
    """
    exercise = EXERCISES[number]

    def more() -> list[tuple]:
        torch.manual_seed(seed)
        randomness.FIRST = seed
        try:
            return exercise.more()
        finally:
            randomness.FIRST = 0

    torch.manual_seed(seed)
    cases = exercise.cases() + more()
    with with_slack():
        fair = [case for case in cases if verdict(number, exercise, exercise.piece, [case]).state == PASSED]
    return replace(exercise, more=more), fair


@contextmanager
def with_slack():
    check.SLACK = SLACK
    try:
        yield
    finally:
        check.SLACK = 1.0


def check_answer(number: str, exercise: Exercise, cases: list[tuple], function: StandIn) -> Verdict:
    drive = exercise.drive
    if drive:  # the other side drives the function of a submission
        exercise = replace(exercise, drive=lambda f: f if f is function else drive(f))
    with with_slack():
        return verdict(number, exercise, function, cases)


def judge(answers: dict[str, tuple[str, Answer]], seed: int, limits: Limits, inside: str | None) -> dict[str, Verdict]:
    """The verdict on each exercise. answers: number -> (name of the function, what the submission says).

    All exercises of a submission share a process. If that ends or must be ended, the next one gets a new one.
    """
    found, process = {}, None
    try:
        for number, (name, answer) in answers.items():
            why = EXERCISES[number].by_hand
            if why and answer.written:
                found[number] = Verdict(BY_HAND, f"○ exercise {number} is for your teacher to read: {why}")
                continue
            if answer.state:
                found[number] = Verdict(answer.state, answer.text)
                continue
            exercise, cases = changed(number, seed)
            try:
                if process is None:
                    process = Process(limits, inside).__enter__()
                try:
                    function = StandIn(process, answer, name, exercise.drive)
                except Exception as error:
                    said = f"your cell raised {type(error).__name__}: {error}"
                    found[number] = Verdict(FAILED, f"✗ exercise {number}: {said}")
                else:
                    found[number] = check_answer(number, exercise, cases, function)
            except Stopped as error:
                found[number] = Verdict(FAILED, f"✗ exercise {number}: your function was not checked: {error}")
                process.__exit__()
                process = None
            except CourseError:
                raise
            except Exception as error:  # of the check, on a result that nobody has thought of
                said = f"the check cannot compare what your function returned ({type(error).__name__}: {error})"
                found[number] = Verdict(FAILED, f"✗ exercise {number}: {said}")
    finally:
        if process is not None:
            process.__exit__()
    return found
