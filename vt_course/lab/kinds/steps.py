"""A whole `forward` as a sequence of named steps: one of them forgotten, moved, exchanged, repeated or done wrongly,
or given what an earlier step had not yet changed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

from torch import Tensor

from vt_course.lab.kinds.common import Outcome, at_two_places


@dataclass(frozen=True)
class Step:
    """One step.

    name: what it does, as in "pad" or "add the shortcut"; shown in quotation marks.
    do: changes the state, a dictionary, in place.
    wrong: pairs of a sentence and a wrong version of `do`.
    forgotten: what is said if the step is missing, where "the step is forgotten" would not be true of all that do so.
    """

    name: str
    do: Callable[[dict], None]
    wrong: tuple[tuple[str, Callable[[dict], None]], ...] = ()
    forgotten: str = ""


@dataclass(frozen=True)
class Steps:
    """The answer is what the steps, one after the other, make of a state.

    start: from the arguments of a case to the state.
    steps: in the right order.
    end: from the last state to the answer.
    together: names of steps that make one idea, such as ("shift", "shift back"), and are forgotten together.
    """

    start: Callable[..., dict]
    steps: tuple[Step, ...]
    end: Callable[[dict], Tensor] = lambda state: state["x"]
    together: tuple[tuple[str, ...], ...] = ()

    def function(self, *args) -> Tensor:
        """The right answer; an exercise may take it as its definition."""
        return self.run([step.do for step in self.steps], args)

    def run(self, steps: list[Callable], args: tuple) -> Tensor:
        state = self.start(*args)
        for do in steps:
            do(state)
        return self.end(state)

    def candidates(self, function: Callable, outcomes: list[Outcome]) -> Iterator[tuple[str, Callable]]:
        for _, sentence, change in self.changes():
            yield sentence, self.changed(change)
        for names in self.together:
            left = {i: None for i, step in enumerate(self.steps) if step.name in names}
            yield f"the steps {' and '.join(f'“{n}”' for n in names)} are forgotten", self.changed(left)
        for _, sentence, change in self.early():
            yield sentence, self.changed(change)
        yield from self.moves()

    def pairs(self, outcomes: list[Outcome]) -> Iterator[tuple[str, str, Callable]]:
        for first, second, a, b in at_two_places(self.changes()):
            yield first, second, self.changed(a | b)
        early = list(self.early())
        for i, first, change in self.changes():
            for _, second, taken in early:
                if i not in taken:
                    yield first, second, self.changed(change | taken)
        for _, first, change in self.changes():
            for second, i, j in self.places():
                if i not in change:
                    yield first, second, self.changed(change, i, j)

    def changes(self):
        """Triples of a step's number, a sentence, and what is done instead, by the step's number."""
        for i, step in enumerate(self.steps):
            yield i, step.forgotten or f"the step “{step.name}” is forgotten", {i: None}
            for sentence, do in step.wrong:
                yield i, sentence, {i: do}

    def early(self):
        """Triples as those of `changes`: a step is given the `x` from before an earlier step; near ones first."""
        for far in range(1, len(self.steps)):
            for j, i in zip(range(len(self.steps)), range(far, len(self.steps))):
                yield (
                    i,
                    f"the step “{self.steps[i].name}” is given what there was before “{self.steps[j].name}”",
                    {j: lambda s, j=j: (s.update(early=s["x"]), self.steps[j].do(s)), i: self.on_early(self.steps[i])},
                )

    def on_early(self, step: Step) -> Callable[[dict], None]:
        def do(state: dict) -> None:
            now, state["x"] = state["x"], state["early"]
            step.do(state)
            if state["x"] is state["early"]:  # the step changes something else
                state["x"] = now

        return do

    def changed(self, change: dict, moved: int | None = None, to: int | None = None) -> Callable:
        order = list(range(len(self.steps)))
        if moved is not None:
            order.insert(to, order.pop(moved))
        done = [change.get(i, self.steps[i].do) for i in order]
        return lambda *args: self.run([do for do in done if do is not None], args)

    def places(self):
        """Triples of a sentence, a step's number and the place to which it is moved; near ones first."""
        n = len(self.steps)
        for far in range(1, n):
            for i in range(n):
                for j in (i + far, i - far):
                    if 0 <= j < n and not (far == 1 and j < i):  # a step back by one is the other's step forward
                        neighbour = self.steps[j].name
                        yield (
                            f"the step “{self.steps[i].name}” comes too {'late' if j > i else 'early'}: it must come "
                            f"{'before' if j > i else 'after'} “{neighbour}”",
                            i,
                            j,
                        )

    def moves(self):
        for sentence, i, j in self.places():
            yield sentence, self.changed({}, i, j)
        for i, j in combinations(range(len(self.steps)), 2):
            order = list(range(len(self.steps)))
            order[i], order[j] = order[j], order[i]
            yield (
                f"the steps “{self.steps[i].name}” and “{self.steps[j].name}” are exchanged",
                lambda *args, order=order: self.run([self.steps[k].do for k in order], args),
            )
        for i, step in enumerate(self.steps):
            done = [s.do for s in self.steps]
            done.insert(i, step.do)
            yield f"the step “{step.name}” is done twice", lambda *args, done=done: self.run(done, args)
