"""Notebook 08: the whole step of a training, and the evaluation over views."""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vt_course.lab.exercise import Exercise, randoms
from vt_course.lab.kinds.operations import Choices
from vt_course.lab.kinds.steps import Step, Steps
from vt_course.training.experiments.statistics import wilson

# ---------------------------------------------------------------- a small training to try a step on


class Toy(nn.Module):
    """48 weights: two linear layers, a root, whose gradient at 0 is infinite, and dropout."""

    def __init__(self):
        super().__init__()
        self.body, self.drop, self.head = nn.Linear(6, 5, bias=False), nn.Dropout(0.2), nn.Linear(5, 3)

    def forward(self, clips: Tensor) -> Tensor:  # (B, 3, 2, 1, 1) -> (B, 3)
        return self.head(self.drop(self.body(clips.flatten(1)).abs().sqrt()))


class Schedule:
    """Sets the learning rate of an optimiser: at first to that of step 0, and by each `step()` to the next one."""

    def __init__(self, optimizer: torch.optim.Optimizer, rates: list[float]):
        self.optimizer, self.rates, self.at = optimizer, rates, -1
        self.step()

    def step(self) -> None:
        self.at = min(self.at + 1, len(self.rates) - 1)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rates[self.at]


class Run(nn.Module):
    """What a step is given: model, optimizer, schedule, loss, limit and autocast."""

    def __init__(self, optimizer: Callable, limit: float, sixteen: bool = False):
        super().__init__()
        self.model = Toy()
        self.optimizer, self.limit, self.sixteen = optimizer(self.model.parameters()), limit, sixteen
        self.schedule = Schedule(self.optimizer, [0.1, 0.3, 0.2, 0.05, 0.02])

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), labels)

    def autocast(self):
        return torch.autocast("cpu", torch.bfloat16, enabled=self.sixteen)

    def __repr__(self) -> str:
        return type(self.optimizer).__name__ + " in 16 bits" * self.sixteen


class Batches(list):
    """One batch for each step: a list of parts (clips, labels)."""

    def __repr__(self) -> str:
        return f"{len(self)} of {' + '.join(str(len(y)) for _, y in self[0])} clips"


def batches(sizes: tuple[int, ...], steps: int) -> Batches:
    return Batches([[(torch.randn(n, 3, 2, 1, 1), torch.randint(3, (n,))) for n in sizes] for _ in range(steps)])


def with_bad_clips(made: Batches) -> Batches:
    """In step 1 a clip has an infinite pixel, so the loss is NaN. In step 2 one is black: only the gradient is NaN."""
    made[1][1][0][0, 0] = math.inf
    made[2][0][0][1] = 0
    return made


def trajectory(step: Callable) -> Callable:
    """From a step to what it does to a run in several steps: a row for each, its loss (0 for NaN), then all weights.

    As in a training, the model comes from a validation, in eval mode; dropout is seeded in each step.
    """

    def rows(run: Run, batches: Batches) -> Tensor:
        run, out = deepcopy(run), []
        for k, parts in enumerate(batches):
            run.model.eval()
            torch.manual_seed(k)
            loss = step(run, parts)
            if not isinstance(loss, (int, float)) and not (isinstance(loss, Tensor) and loss.numel() == 1):
                return loss
            loss = torch.tensor([float(loss)]).nan_to_num(0, 0, 0)
            out.append(torch.cat([loss, *(p.detach().flatten() for p in run.model.parameters())]))
        return torch.stack(out)  # (steps, 1 + P)

    return rows


# ---------------------------------------------------------------- 8.6: the step


def step_literal(run: Run, parts: list) -> float:
    """The gradient of each clip's loss by itself; their mean; and only then what is done with it."""
    run.model.train()
    parameters = list(run.model.parameters())
    clips, total, grads = sum(len(y) for _, y in parts), 0.0, [torch.zeros_like(p) for p in parameters]
    for x, y in parts:
        with run.autocast():
            loss = run.loss(run.model(x), y)  # the mean over this part
        found = torch.autograd.grad(loss * len(y) / clips, parameters)
        grads = [a + b for a, b in zip(grads, found)]
        total += loss.item() * len(y) / clips
    norm = torch.stack([g.norm() for g in grads]).norm()
    if math.isfinite(total) and math.isfinite(norm):
        for p, g in zip(parameters, grads):
            p.grad = g * (run.limit / (norm + 1e-6)).clamp(max=1)
        run.optimizer.step()
    run.schedule.step()
    return total


def clip_all(run: Run) -> Tensor:
    return nn.utils.clip_grad_norm_(run.model.parameters(), run.limit, foreach=False)


def part_by_part(share=lambda n, total, parts: n / total, of=lambda s: s["parts"], before=None, after=None, report=None,
                 autocast=True):  # fmt: skip
    """Forward, loss and backward of each part, in which what is given replaces what is right."""

    def do(s: dict) -> None:
        run, parts = s["run"], of(s)
        clips, losses = sum(len(y) for _, y in parts), []
        for x, y in parts:
            if before:
                before(run)
            with torch.autocast("cpu", torch.bfloat16, enabled=run.sixteen and autocast):
                loss = run.loss(run.model(x), y)
            (loss * share(len(y), clips, len(parts))).backward()
            losses.append((loss.item(), len(y)))
            if after:
                s["norm"] = after(run)
        s["loss"] = report(losses) if report else sum(v * share(n, clips, len(parts)) for v, n in losses)

    return do


def whole(s: dict) -> list:
    return [tuple(torch.cat(tensors) for tensors in zip(*s["parts"]))]


def finite(s: dict) -> bool:
    return math.isfinite(s["loss"]) and math.isfinite(s["norm"])


def take(when: Callable = finite):
    def do(s: dict) -> None:
        s["taken"] = when(s)
        if s["taken"]:
            s["run"].optimizer.step()

    return do


def clip(how: Callable):
    def do(s: dict) -> None:
        s["norm"] = how(s["run"])

    return do


def clip_value(run: Run) -> float:
    nn.utils.clip_grad_value_(run.model.parameters(), run.limit)
    return 0.0


def clip_each(run: Run) -> Tensor:
    return max(nn.utils.clip_grad_norm_(p, run.limit) for p in run.model.parameters())


def mean(losses: list) -> float:
    return sum(v for v, _ in losses) / len(losses)


def weighted(losses: list) -> float:
    return sum(v * n for v, n in losses) / sum(n for _, n in losses)


WEIGHTS = {
    "every part counts the same: multiply the loss of a part by its share of the clips, not by 1 / number of parts": (
        lambda n, total, parts: 1 / parts
    ),
    "the gradients of the parts are added up as they are: multiply the loss of each part by its share of the clips": (
        lambda n, total, parts: 1.0
    ),
    "the losses of the clips are added, not averaged: a part's share is its clips divided by all clips": (
        lambda n, total, parts: n
    ),
}


@dataclass(frozen=True)
class TrainingSteps(Steps):
    """The lines of a step of training; what is compared is the trajectory that they make.

    often: pairs of a sentence and a wrong step of training, to be tried first.
    """

    often: tuple[tuple[str, Callable], ...] = ()

    def candidates(self, function: Callable, outcomes: list) -> Iterator[tuple[str, Callable]]:
        for sentence, step in self.often:
            yield sentence, trajectory(step)
        yield from super().candidates(function, outcomes)

    def run(self, steps: list[Callable], args: tuple) -> Tensor:
        def step(run: Run, parts: list) -> float:
            state = dict(run=run, parts=parts, loss=0.0, norm=0.0, taken=True)
            for do in steps:
                do(state)
            return state["loss"]

        return trajectory(step)(*args)


def stepping_often(run: Run, parts: list) -> float:
    """Each part is a step of its own."""
    losses = []
    for part in parts:
        run.model.train()
        run.optimizer.zero_grad()
        losses.append(step_of(run, [part], last=part is parts[-1]))
    return sum(v * len(y) for v, (_, y) in zip(losses, parts)) / sum(len(y) for _, y in parts)


def all_finite(*numbers: float) -> bool:
    return all(map(math.isfinite, numbers))


def frozen(run: Run, parts: list) -> float:
    """Nothing is changed but the learning rate."""
    return step_of(run, parts, good=lambda loss, norm: False)


def step_of(
    run: Run,
    parts: list,
    last=True,
    clipped=True,
    early=False,
    still: Callable | None = None,
    good: Callable = all_finite,
) -> float:
    """The step as one would write it.

    last: whether the schedule moves on. clipped: whether the gradients are. early: the schedule comes first.
    still: of loss and norm, whether it waits. good: of loss and norm, whether to step.
    """
    run.model.train()
    run.optimizer.zero_grad()
    clips, total = sum(len(y) for _, y in parts), 0.0
    for x, y in parts:
        with run.autocast():
            loss = run.loss(run.model(x), y) * (len(y) / clips)
        loss.backward()
        total += loss.item()
    norm = clip_all(run) if clipped else torch.stack([p.grad.norm() for p in run.model.parameters()]).norm()
    if early:
        run.schedule.step()
    if good(total, norm):
        run.optimizer.step()
    if last and not early and not (still and still(total, norm)):
        run.schedule.step()
    return total


def train_step(run: Run, parts: list) -> float:
    """One step on a batch that comes in parts [(clips, labels), ...]; returns its loss."""
    return step_of(run, parts)


def zero_if_taken(run: Run, parts: list) -> float:
    """`zero_grad` comes after the optimiser, and with it is left out of a step that is not finite."""
    run.model.train()
    clips, total = sum(len(y) for _, y in parts), 0.0
    for x, y in parts:
        with run.autocast():
            loss = run.loss(run.model(x), y) * (len(y) / clips)
        loss.backward()
        total += loss.item()
    norm = clip_all(run)
    if math.isfinite(total) and math.isfinite(norm):
        run.optimizer.step()
        run.optimizer.zero_grad()
    run.schedule.step()
    return total


ALWAYS = "the step is taken in any case: one loss or gradient that is NaN makes all weights NaN; leave such a step out"
STILL = "the schedule stands still in a step that is left out: it counts all steps"
LOSS_ONLY = "only the loss is looked at: a gradient may be NaN although the loss is finite; look at the norm"
NOT_CLIPPED = (
    "the gradients are not clipped; or they are clipped before `backward` has made them, or after the optimiser has "
    "used them"
)

STEP = TrainingSteps(
    often=(  # first those that make NaN: for them the search has less time
        (ALWAYS, partial(step_of, good=lambda loss, norm: True)),
        (LOSS_ONLY, partial(step_of, good=lambda loss, norm: math.isfinite(loss))),
        (
            "the weights never change: `backward` or the optimiser's step is missing, or `zero_grad` stands between",
            frozen,
        ),
        (
            NOT_CLIPPED,
            partial(step_of, clipped=False, good=lambda loss, norm: math.isfinite(loss)),
        ),
        (NOT_CLIPPED, partial(step_of, clipped=False)),
        (NOT_CLIPPED, partial(step_of, clipped=False, good=lambda loss, norm: True)),
        (
            "the schedule moves on before the optimiser steps: this step gets the learning rate of the next one",
            partial(step_of, early=True),
        ),
        (STILL, partial(step_of, still=lambda loss, norm: not all_finite(loss, norm))),
        (
            "the schedule stands still where the loss is not finite, as after an early `return`: it counts all steps",
            partial(step_of, still=lambda loss, norm: not math.isfinite(loss)),
        ),
        (
            "in a step that is left out the gradients stay and spoil the next one: `zero_grad` belongs into every step",
            zero_if_taken,
        ),
        (
            "the optimiser steps after each part: a batch is one step, after all of its parts",
            stepping_often,
        ),
    ),
    start=dict,
    steps=(
        Step("model.train()", lambda s: s["run"].model.train()),
        Step("zero_grad()", lambda s: s["run"].optimizer.zero_grad()),
        Step(
            "forward, loss and backward",
            part_by_part(),
            (
                *(
                    (sentence, part_by_part(share, report=report))
                    for sentence, share in WEIGHTS.items()
                    for report in (None, weighted)
                ),
                (
                    "`zero_grad` comes in the loop over the parts, so only the gradient of the last one is left",
                    part_by_part(before=lambda run: run.optimizer.zero_grad()),
                ),
                ("only the first part is used", part_by_part(of=lambda s: s["parts"][:1])),
                ("only the last part is used", part_by_part(of=lambda s: s["parts"][-1:])),
                (
                    "`autocast` is not used: forward pass and loss belong into `with run.autocast():`",
                    part_by_part(autocast=False),
                ),
                (
                    "all parts go through the model at once: they do not fit into memory together",
                    part_by_part(of=whole),
                ),
                (
                    "the gradients are clipped after each part: clip once, when all parts are added up",
                    part_by_part(after=clip_all),
                ),
                (
                    "the right weights, but the loss that you return is that of the last part",
                    part_by_part(report=lambda losses: losses[-1][0]),
                ),
                (
                    "the right weights, but the loss that you return is the share of the last part only: add up all "
                    "shares",
                    part_by_part(report=lambda losses: losses[-1][0] * losses[-1][1] / sum(n for _, n in losses)),
                ),
                (
                    "the right weights, but the loss that you return is the plain mean over the parts: weigh each by "
                    "its clips",
                    part_by_part(report=mean),
                ),
                (
                    "the right weights, but the loss that you return is the sum over the parts: it is their mean, "
                    "weighed by clips",
                    part_by_part(report=lambda losses: sum(v for v, _ in losses)),
                ),
            ),
        ),
        Step(
            "clip the gradients",
            clip(clip_all),
            (
                ("each number of the gradients is clipped: the limit is for their common norm", clip(clip_value)),
                (
                    "the gradient of each parameter is clipped by itself: the limit is for all of them together",
                    clip(clip_each),
                ),
                (
                    "the limit is 1: use `run.limit`",
                    clip(lambda run: nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)),
                ),
            ),
        ),
        Step(
            "optimizer.step()",
            take(),
            (
                (ALWAYS, take(lambda s: True)),
                (LOSS_ONLY, take(lambda s: math.isfinite(s["loss"]))),
                (
                    "the condition is the other way round: the step is taken where something is not finite",
                    take(lambda s: not finite(s)),
                ),
            ),
        ),
        Step(
            "schedule.step()",
            lambda s: s["run"].schedule.step(),
            (
                (
                    STILL,
                    lambda s: s["run"].schedule.step() if s["taken"] else None,
                ),
                (
                    "the schedule moves on after each part: it counts steps",
                    lambda s: [s["run"].schedule.step() for _ in s["parts"]],
                ),
            ),
        ),
    ),
)  # fmt: skip


def sgd(momentum: float = 0.0) -> Callable:
    return lambda parameters: torch.optim.SGD(parameters, momentum=momentum, foreach=False)


def step_cases() -> list[tuple]:
    return [
        (Run(sgd(), 100.0), batches((4,), 2)),
        (Run(sgd(0.9), 100.0), batches((4, 2, 2), 2)),
        (Run(sgd(), 0.3), batches((2, 4, 2), 2)),
        (Run(sgd(0.9), 2.0, sixteen=True), with_bad_clips(batches((2, 4, 2), 4))),
    ]


TRAIN_STEP = Exercise(
    "a step of training",
    trajectory(step_literal),
    step_cases,
    lambda run, batches: f"(steps, loss and weights) = ({len(batches)}, 49)",
    (),
    piece=train_step,
    more=lambda: [(Run(sgd(0.5), r.choice([0.3, 100.0])), batches((2, 4, 2), 2)) for r in randoms(2)],
    kinds=(STEP,),
    drive=trajectory,
)


# ---------------------------------------------------------------- 8.8: views and an interval

Z = 1.96  # 95 % of a normal distribution lie within so many standard deviations


def score_literal(logits: Tensor, labels: Tensor) -> Tensor:
    """Video by video: average the probabilities of its views, look at the largest, count; then Wilson's interval."""
    right = 0
    for views, label in zip(logits, labels.tolist()):
        shares = torch.stack([view.exp() / view.exp().sum() for view in views]).mean(0)  # (K,)
        right += int(shares.argmax()) == label
    n, p = len(labels), right / len(labels)
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return torch.tensor([p, middle - half, middle + half])


def score_like(logits, labels, *, views=None, clips=None, ends=None, out=None):
    """The score in which the steps that are given replace the right ones."""
    shares = logits.softmax(-1).mean(1) if views is None else views(logits)  # (N, K)
    p = (shares.argmax(-1) == labels).double().mean().item()
    n = len(labels) if clips is None else clips(*logits.shape)
    low, high = wilson(p, n) if ends is None else ends(p, n)
    return torch.tensor([p, low, high] if out is None else out(p, low, high))


def plain(p: float, n: float, z: float = Z) -> tuple[float, float]:
    half = z * math.sqrt(p * (1 - p) / n)
    return p - half, p + half


def around(middle: Callable, half: Callable) -> Callable:
    return lambda p, n: (middle(p, n) - half(p, n), middle(p, n) + half(p, n))


def centre(p: float, n: float) -> float:
    return (p + Z**2 / (2 * n)) / (1 + Z**2 / n)


def width(p: float, n: float) -> float:
    return Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))


SCORES = Choices(
    score_like,
    {
        "views": (
            (
                "the logits, or the logarithms of the probabilities, are averaged: average the probabilities",
                lambda x: x.mean(1),
            ),
            ("the softmax runs over the views, axis 1: it must run over the classes", lambda x: x.softmax(1).mean(1)),
            ("the softmax runs over the videos, axis 0: it must run over the classes", lambda x: x.softmax(0).mean(1)),
            (
                "the largest probability of any view decides: average over the views",
                lambda x: x.softmax(-1).amax(1),
            ),
            ("the smallest probability of a class decides: average over the views", lambda x: x.softmax(-1).amin(1)),
            ("the median of the views is taken: average", lambda x: x.softmax(-1).median(1).values),
            (
                "each view has one vote: average the probabilities, so that a view that is unsure counts less",
                lambda x: F.one_hot(x.argmax(-1), x.shape[-1]).sum(1),
            ),
            ("only the first view is used", lambda x: x[:, 0]),
            ("only the last view is used", lambda x: x[:, -1]),
            ("only the middle view is used", lambda x: x[:, x.shape[1] // 2]),
        ),
        "clips": (
            (
                "the views are counted as videos, so the interval is too narrow: views of one video are not "
                "independent, n is the number of videos",
                lambda N, V, K: N * V,
            ),
            ("n is the number of views: it is that of the videos", lambda N, V, K: V),
            ("n is the number of classes: it is that of the videos", lambda N, V, K: K),
            ("n is one too small: the formula has n, not n - 1", lambda N, V, K: N - 1),
        ),
        "ends": (
            (
                "this is p ± z·√(p(1 − p)/n), which is ± 0 where all are right: Wilson's interval is wanted",
                plain,
            ),
            ("these are p ± one standard error: Wilson's interval is wanted", lambda p, n: plain(p, n, 1.0)),
            ("z is 1: for 95 % it is 1.96", lambda p, n: wilson(p, n, 1.0)),
            ("z is 2: use 1.96", lambda p, n: wilson(p, n, 2.0)),
            ("the interval stands around p: its middle is (p + z²/2n) / (1 + z²/n)", around(lambda p, n: p, width)),
            (
                "the middle is not divided by 1 + z²/n",
                around(lambda p, n: p + Z**2 / (2 * n), width),
            ),
            (
                "the middle has z²/n added to p: it is z²/2n",
                around(lambda p, n: (p + Z**2 / n) / (1 + Z**2 / n), width),
            ),
            ("the half width is not divided by 1 + z²/n", around(centre, lambda p, n: width(p, n) * (1 + Z**2 / n))),
            (
                "neither the middle nor the half width is divided by 1 + z²/n",
                around(lambda p, n: p + Z**2 / (2 * n), lambda p, n: width(p, n) * (1 + Z**2 / n)),
            ),
            ("z is missing before the root", around(centre, lambda p, n: width(p, n) / Z)),
            (
                "under the root z²/4n² is missing",
                around(centre, lambda p, n: Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n)),
            ),
            (
                "under the root stands z²/4n: it is z²/4n²",
                around(centre, lambda p, n: Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n))),
            ),
            (
                "under the root p(1 − p) is not divided by n",
                around(centre, lambda p, n: Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) + Z**2 / (4 * n**2))),
            ),
            (
                "the root is missing",
                around(centre, lambda p, n: Z / (1 + Z**2 / n) * (p * (1 - p) / n + Z**2 / (4 * n**2))),
            ),
            ("this is the whole width on either side: the half width reaches from the middle to an end",
             around(centre, lambda p, n: 2 * width(p, n))),
            ("these are middle and half width: return the two ends", lambda p, n: (centre(p, n), width(p, n))),
        ),
        "out": (
            ("the ends are exchanged: the lower one comes first", lambda p, low, high: [p, high, low]),
            ("these are percent: the results are shares from 0 to 1", lambda *ends: [100 * x for x in ends]),
            ("the share comes last: it is share, lower end, upper end", lambda p, low, high: [low, high, p]),
            ("the share stands between the ends: it comes first", lambda p, low, high: [low, p, high]),
        ),
    },
)  # fmt: skip


def score_views(logits: Tensor, labels: Tensor) -> Tensor:
    """`score_like` without options, for the cells of the notebook."""
    return score_like(logits, labels)


def some_views(N: int, V: int, K: int, signal: float = 2.0) -> tuple[Tensor, Tensor]:
    """Logits (N, V, K) in which the true class is favoured, and views are sure of themselves in different degrees."""
    labels = torch.randint(K, (N,))
    favour = signal * F.one_hot(labels, K)[:, None]
    return (favour + 1.5 * torch.randn(N, V, K)) * torch.rand(N, V, 1) * 4, labels


SCORE = Exercise(
    "the score of several views",
    score_literal,
    lambda: [some_views(40, 4, 5), some_views(30, 1, 3), some_views(20, 3, 4, 40.0), some_views(60, 5, 6, 1.0)],
    lambda logits, labels: "(share, lower end, upper end) = (3,)",
    (
        (
            "each view is scored as a video of its own: average the probabilities of a video's views first",
            lambda x, y: score_like(x.flatten(0, 1)[:, None], y.repeat_interleave(x.shape[1])),
        ),
    ),
    piece=score_views,
    more=lambda: [
        some_views(r.randint(20, 60), r.randint(2, 5), r.randint(3, 6), r.uniform(0.5, 2)) for r in randoms(6)
    ],
    kinds=(SCORES,),
)  # fmt: skip
