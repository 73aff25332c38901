"""Right and wrong solutions of exercises 8.6 (the step) and 8.8 (views, interval), as readers write them."""

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import nn

from vt_course.lab.exercises.training_step import STEP

from .common import likely


def named(words):
    """The full text of the one mistake of exercise 8.6 that holds `words`."""
    (text,) = {n for n in [*(n for n, _ in STEP.often), *(n for _, n, _ in STEP.changes())] if words in n}
    return f"  Likely: {text}\n"


# ---------------------------------------------------------------- 8.6


def step(
    run,
    parts,
    train=True,
    zero=True,
    autocast=True,
    share=lambda labels, clips: len(labels) / clips,
    clip=lambda run: nn.utils.clip_grad_norm_(run.model.parameters(), run.limit),
    good=lambda total, norm: math.isfinite(total) and math.isfinite(norm),
    late=True,
    value=None,
):
    """The step as in the notebook, for changes of single lines."""
    if train:
        run.model.train()
    if zero:
        run.optimizer.zero_grad()
    clips, losses = sum(len(labels) for _, labels in parts), []
    for x, labels in parts:
        with run.autocast() if autocast else contextlib.nullcontext():
            loss = run.loss(run.model(x), labels)
        losses.append(loss.item())
        (loss * share(labels, clips)).backward()
    total = sum(v * len(labels) / clips for v, (_, labels) in zip(losses, parts))
    norm = clip(run) if clip else 0.0
    if not late:
        run.schedule.step()
    if good(total, float(norm)):
        run.optimizer.step()
    if late:
        run.schedule.step()
    return total if value is None else value(losses)


def step_zero_at_the_end(run, parts):
    """`zero_grad` last; gradients are None before the first step."""
    total = step(run, parts, zero=False)
    run.model.zero_grad(set_to_none=True)
    return total


def step_in_one_context(run, parts):
    """All of it within autocast, and one backward of the sum of all losses: needs more memory, gives the same."""
    run.model.train(True)
    for p in run.model.parameters():
        p.grad = None
    total = 0
    for x, labels in parts:
        with run.autocast():
            total = total + run.loss(run.model(x), labels) * len(labels)
    total = total / sum(len(labels) for _, labels in parts)
    total.backward()
    norm = torch.cat([p.grad.flatten() for p in run.model.parameters()]).norm()
    if norm.isfinite():
        for p in run.model.parameters():
            p.grad *= min(1.0, run.limit / (norm.item() + 1e-6))
        run.optimizer.step()
    run.schedule.step()
    return total.detach()


def step_scaled_gradients(run, parts):
    """The sums of the losses first; the gradients are divided by all clips at the end."""
    run.model.train()
    run.optimizer.zero_grad(set_to_none=False)
    n, total = 0, 0.0
    for x, labels in parts:
        with run.autocast():
            loss = run.loss(run.model(x), labels) * len(labels)
            loss.backward()
        n, total = n + len(labels), total + loss.detach()
    for p in run.model.parameters():
        p.grad /= n
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), run.limit)
    if not (torch.isnan(norm) or torch.isinf(norm)):
        run.optimizer.step()
    run.schedule.step()
    return (total / n).item()


def step_clipped_first(run, parts):
    """Clip before backward: there are no gradients yet."""
    run.model.train()
    run.optimizer.zero_grad()
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), run.limit)
    clips, total = sum(len(labels) for _, labels in parts), 0
    for x, labels in parts:
        with run.autocast():
            loss = run.loss(run.model(x), labels) * len(labels) / clips
        loss.backward()
        total += loss.item()
    if math.isfinite(total) and math.isfinite(norm):
        run.optimizer.step()
    run.schedule.step()
    return total


def step_without_backward(run, parts):
    run.model.train()
    run.optimizer.zero_grad()
    with run.autocast():
        losses = [run.loss(run.model(x), labels) * len(labels) for x, labels in parts]
    run.optimizer.step()
    run.schedule.step()
    return sum(losses).item() / sum(len(labels) for _, labels in parts)


def step_zero_after_backward(run, parts):
    run.model.train()
    clips, total = sum(len(labels) for _, labels in parts), 0
    for x, labels in parts:
        with run.autocast():
            loss = run.loss(run.model(x), labels) * len(labels) / clips
        loss.backward()
        total += loss.item()
    run.optimizer.zero_grad()
    run.optimizer.step()
    run.schedule.step()
    return total


def step_zero_in_the_loop(run, parts):
    run.model.train()
    clips, total = sum(len(labels) for _, labels in parts), 0
    for x, labels in parts:
        run.optimizer.zero_grad()
        with run.autocast():
            loss = run.loss(run.model(x), labels) * len(labels) / clips
        loss.backward()
        total += loss.item()
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), run.limit)
    if math.isfinite(total) and math.isfinite(norm):
        run.optimizer.step()
    run.schedule.step()
    return total


def step_returns_early(run, parts):
    """In a step that is left out the schedule is forgotten."""
    run.model.train()
    run.optimizer.zero_grad()
    clips, total = sum(len(labels) for _, labels in parts), 0
    for x, labels in parts:
        with run.autocast():
            loss = run.loss(run.model(x), labels) * len(labels) / clips
        loss.backward()
        total += loss.item()
    if not nn.utils.clip_grad_norm_(run.model.parameters(), run.limit).isfinite():
        return total
    run.optimizer.step()
    run.schedule.step()
    return total


def step_returns_at_a_nan_loss(run, parts):
    """The loss is looked at first, and the function is left before the schedule."""
    run.model.train()
    run.optimizer.zero_grad()
    total = 0.0
    for x, labels in parts:
        with run.autocast():
            loss = run.loss(run.model(x), labels)
        if not loss.isfinite():
            return math.nan
        share = len(labels) / sum(len(y) for _, y in parts)
        (share * loss).backward()
        total += share * loss.item()
    if nn.utils.clip_grad_norm_(run.model.parameters(), run.limit).isfinite():
        run.optimizer.step()
    run.schedule.step()
    return total


def step_then_clip(run, parts):
    """The gradients are shortened when the optimiser has used them."""
    total = step(run, parts, clip=None, good=lambda total, norm: True)
    nn.utils.clip_grad_norm_(run.model.parameters(), run.limit)
    return total


def step_each_part(run, parts):
    total, clips = 0.0, sum(len(labels) for _, labels in parts)
    run.model.train()
    for x, labels in parts:
        run.optimizer.zero_grad()
        with run.autocast():
            loss = run.loss(run.model(x), labels)
        loss.backward()
        if nn.utils.clip_grad_norm_(run.model.parameters(), run.limit).isfinite():
            run.optimizer.step()
        total += loss.item() * len(labels) / clips
    run.schedule.step()
    return total


def step_zero_if_taken(run, parts):
    total = step(run, parts, zero=False)
    if all(p.grad.isfinite().all() for p in run.model.parameters()):
        run.optimizer.zero_grad()
    return total


def everything_at_once(run, parts):
    return step(run, [(torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))])


RIGHT_STEP = {
    "as in the notebook": step,
    "zero_grad at the end": step_zero_at_the_end,
    "one backward, by hand": step_in_one_context,
    "gradients divided": step_scaled_gradients,
    "loss as a tensor": lambda run, parts: torch.tensor([step(run, parts)]),
}

WRONG_STEP = {
    "no zero_grad": (lambda r, p: step(r, p, zero=False), named("“zero_grad()” is forgotten")),
    "eval mode left on": (lambda r, p: step(r, p, train=False), named("“model.train()” is forgotten")),
    "no clipping": (
        lambda r, p: step(r, p, clip=lambda run: run.model.head.weight.grad.norm()),
        named("clipped before `backward`"),
    ),
    "clipped before backward": (step_clipped_first, named("clipped before `backward`")),
    "schedule first": (lambda r, p: step(r, p, late=False), named("before the optimiser steps")),
    "zero_grad after backward": (step_zero_after_backward, named("weights never change")),
    "zero_grad in the loop": (step_zero_in_the_loop, named("in the loop over the parts")),
    "mean of means": (
        lambda r, p: step(r, p, share=lambda labels, clips: 1 / len(p)),
        named("every part counts the same"),
    ),
    "sum of means": (lambda r, p: step(r, p, share=lambda labels, clips: 1), named("added up as they are")),
    "sum of clips": (lambda r, p: step(r, p, share=lambda y, clips: len(y)), named("added, not averaged")),
    "no autocast": (lambda r, p: step(r, p, autocast=False), named("`autocast` is not used")),
    "not skipped": (lambda r, p: step(r, p, good=lambda total, norm: True), named("taken in any case")),
    "looks at the loss only": (
        lambda r, p: step(r, p, good=lambda total, norm: math.isfinite(total)),
        named("only the loss is looked at"),
    ),
    "schedule stands still": (step_returns_early, named("stands still in a step that is left out")),
    "early return at a NaN loss": (step_returns_at_a_nan_loss, named("as after an early `return`")),
    "stepped, then clipped": (step_then_clip, named("after the optimiser has used")),
    "last loss, times its share": (
        lambda r, p: step(r, p, value=lambda losses: losses[-1] * len(p[-1][1]) / sum(len(y) for _, y in p)),
        named("the share of the last part only"),
    ),
    "gradients stay": (step_zero_if_taken, named("the gradients stay")),
    "a step for each part": (step_each_part, named("steps after each part")),
    "all at once": (everything_at_once, named("at once")),
    "last loss": (lambda r, p: step(r, p, value=lambda losses: losses[-1]), named("that of the last part")),
    "mean of losses": (
        lambda r, p: step(r, p, value=lambda losses: sum(losses) / len(losses)),
        named("plain mean over the parts"),
    ),
    "by value": (
        lambda r, p: step(r, p, clip=lambda run: nn.utils.clip_grad_value_(run.model.parameters(), run.limit) or 0.0),
        named("each number of the gradients"),
    ),
    "limit 1": (
        lambda r, p: step(r, p, clip=lambda run: nn.utils.clip_grad_norm_(run.model.parameters(), 1)),
        named("the limit is 1"),
    ),
    "no backward": (step_without_backward, named("weights never change")),
    "a tuple": (lambda r, p: (step(r, p), 0), "returned a tuple, not a tensor"),
}


# ---------------------------------------------------------------- 8.8


def ends(p, n, z=1.96):
    middle, half = p + z * z / 2 / n, z * (p * (1 - p) / n + z * z / 4 / n / n) ** 0.5
    return [(middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)]


def score(logits, labels, merge=lambda x: x.softmax(-1).mean(1), n=None, interval=ends):
    p = (merge(logits).argmax(1) == labels).double().mean().item()
    return torch.tensor([p, *interval(p, n or len(labels))])


def score_by_roots(logits, labels, z=1.96):
    """The ends solve (p - q)² = z² q (1 - q) / n, a quadratic equation in q."""
    p = (logits.softmax(2).sum(1).max(1).indices == labels).float().mean().double()
    n = len(labels)
    a, b, c = 1 + z**2 / n, -(2 * p + z**2 / n), p**2
    root = (b**2 - 4 * a * c).clamp(min=0).sqrt()
    return torch.stack([p, (-b - root) / (2 * a), (-b + root) / (2 * a)])


def score_by_logs(logits, labels):
    """The mean computed with logarithms, as in the package."""
    return score(logits, labels, lambda x: x.log_softmax(-1).logsumexp(1))


def score_by_loop(logits, labels):
    right = sum(int(sum(F.softmax(v, 0) for v in views).argmax() == k) for views, k in zip(logits, labels))
    return torch.tensor([right / len(labels), *ends(right / len(labels), len(labels))], dtype=torch.float64)


def wald(p, n, z=1.96):
    error = (p * (1 - p) / n) ** 0.5
    return [p - z * error, p + z * error]


RIGHT_SCORE = {
    "as in the notebook": score,
    "roots of an equation": score_by_roots,
    "logsumexp": score_by_logs,
    "video by video": score_by_loop,
}

WRONG_SCORE = {
    "mean of logits": (lambda x, y: score(x, y, lambda x: x.mean(1)), likely("8.8", "the logits, or")),
    "softmax of mean logits": (
        lambda x, y: score(x, y, lambda x: x.mean(1).softmax(-1)),
        likely("8.8", "the logits, or"),
    ),
    "logs averaged": (lambda x, y: score(x, y, lambda x: x.softmax(-1).log().mean(1)), likely("8.8", "the logits, or")),
    "softmax over views": (
        lambda x, y: score(x, y, lambda x: x.softmax(1).sum(1)),
        likely("8.8", "runs over the views"),
    ),
    "largest": (lambda x, y: score(x, y, lambda x: x.softmax(-1).max(1).values), likely("8.8", "the largest prob")),
    "votes": (
        lambda x, y: score(x, y, lambda x: F.one_hot(x.softmax(-1).argmax(-1)).float().mean(1)),
        likely("8.8", "each view has one vote"),
    ),
    "first view": (lambda x, y: score(x, y, lambda x: x[:, 0]), likely("8.8", "only the first view")),
    "views as videos": (
        lambda x, y: score(x, y, n=x.shape[0] * x.shape[1]),
        likely("8.8", "the views are counted as videos"),
    ),
    "plain": (lambda x, y: score(x, y, interval=wald), likely("8.8", "which is ± 0 where all are right")),
    "standard error": (
        lambda x, y: score(x, y, interval=lambda p, n: wald(p, n, 1)),
        likely("8.8", "one standard error"),
    ),
    "z = 1": (lambda x, y: score(x, y, interval=lambda p, n: ends(p, n, 1)), likely("8.8", "z is 1:")),
    "z = 2": (lambda x, y: score(x, y, interval=lambda p, n: ends(p, n, 2)), likely("8.8", "z is 2:")),
    "n - 1": (lambda x, y: score(x, y, n=len(y) - 1), likely("8.8", "one too small")),
    "views flattened": (
        lambda x, y: score(x.flatten(0, 1)[:, None], y.repeat_interleave(x.shape[1])),
        likely("8.8", "each view is scored"),
    ),
    "no denominator": (
        lambda x, y: score(x, y, interval=lambda p, n: [e * (1 + 1.96**2 / n) for e in ends(p, n)]),
        likely("8.8", "neither the middle"),
    ),
    "exchanged": (
        lambda x, y: score(x, y, interval=lambda p, n: ends(p, n)[::-1]),
        likely("8.8", "the ends are exchanged"),
    ),
    "percent": (lambda x, y: 100 * score(x, y), "Likely: "),
    "share alone": (lambda x, y: score(x, y)[0], "shape (), wanted (share, lower end, upper end) = (3,)"),
    "list": (lambda x, y: score(x, y).tolist(), "returned a list, not a tensor"),
}
