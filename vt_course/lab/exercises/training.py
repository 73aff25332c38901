"""Notebook 08: the pieces of a training loop."""

import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from vt_course.data.loading import EpochBatches
from vt_course.lab.exercise import Exercise, randoms
from vt_course.lab.exercises.training_step import SCORE, TRAIN_STEP
from vt_course.lab.kinds.operations import Choices

EXERCISES: dict[str, Exercise] = {}


# ---------------------------------------------------------------- which clips


def batch_literal(step, clips, batch_size, seed):
    """Go through the epochs, one batch at a time, until this step."""
    epoch = 0
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(clips).tolist()
        for start in range(0, clips, batch_size):
            if step == 0:
                return torch.tensor(order[start : start + batch_size])  # (B,)
            step -= 1
        epoch += 1


def batch_of(step, clips, batch_size, seed):
    """The same batch, taken from the package's `EpochBatches`."""
    batches = EpochBatches(clips, batch_size, seed)
    batches.epoch, batches.start = divmod(step, len(batches))
    return torch.tensor([index for _, index in next(iter(batches))])


def batch_like(step, clips, batch_size, seed, *, key=lambda seed, epoch: [seed, epoch], last=True, fill=False):
    """The batch if one thing is done in another way."""
    n = math.ceil(clips / batch_size) if last else max(clips // batch_size, 1)
    epoch, k = divmod(step, n)
    order = np.random.default_rng(key(seed, epoch)).permutation(clips)
    order = np.resize(order, n * batch_size) if fill else order
    return torch.from_numpy(order[k * batch_size : (k + 1) * batch_size])


def batch_of_order(step, clips, batch_size, seed, order):
    """The batch if `order(clips, seed, epoch)` gives the order of an epoch."""
    epoch, k = divmod(step, math.ceil(clips / batch_size))
    return torch.as_tensor(order(clips, seed, epoch))[k * batch_size : (k + 1) * batch_size]


def order_in_turn(clips, seed, epoch):
    """The order if one generator draws the orders of all epochs, one after the other, up to this one."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(clips) for _ in range(epoch + 1)][-1]


def order_of_torch(clips, seed):
    return torch.randperm(clips, generator=torch.Generator().manual_seed(seed))


def batch_shape(step, clips, batch_size, seed):
    size = len(batch_literal(step, clips, batch_size, seed))
    return ("" if size == batch_size else "what the epoch has left, ") + f"(B,) = ({size},)"


def batch_cut(step, clips, batch_size, seed, *, key=None, batches=None, order=None, cut=None):
    """The batch in which the steps that are given replace the right ones."""
    n = math.ceil(clips / batch_size) if batches is None else max(batches(clips, batch_size), 1)
    epoch, k = divmod(step, n)
    rng = np.random.default_rng([seed, epoch] if key is None else key(seed, epoch, step, k))
    full = rng.permutation(clips) if order is None else order(rng, clips)
    b = batch_size
    return torch.from_numpy(np.asarray(full[k * b : (k + 1) * b] if cut is None else cut(full, k, b, n, step)).copy())


BATCHES = Choices(
    batch_cut,
    {
        "key": (
            (
                "every epoch has the same order: the epoch belongs into the seed of the generator, [seed, epoch]",
                lambda seed, epoch, step, k: seed,
            ),
            ("the seed is [seed]: it must be [seed, epoch]", lambda seed, epoch, step, k: [seed]),
            (
                "seed and epoch are added, so epoch 1 of seed 0 is epoch 0 of seed 1: give the generator the "
                "list [seed, epoch]",
                lambda seed, epoch, step, k: seed + epoch,
            ),
            ("the seed is seed · epoch: it must be the list [seed, epoch]", lambda seed, epoch, step, k: seed * epoch),
            ("the list is [epoch, seed]; it must be [seed, epoch]", lambda seed, epoch, step, k: [epoch, seed]),
            (
                "the generator knows the epoch only: two runs with different seeds would see the clips in the "
                "same order",
                lambda seed, epoch, step, k: epoch,
            ),
            (
                "epochs are counted from 0: here the first one has the order of [seed, 1]",
                lambda seed, epoch, step, k: [seed, epoch + 1],
            ),
            (
                "the generator is seeded with the step: the batches of an epoch must be cut from one order, "
                "that of [seed, epoch]",
                lambda seed, epoch, step, k: [seed, step],
            ),
            ("the generator knows the batch of the epoch, not the epoch", lambda seed, epoch, step, k: [seed, k]),
        ),
        "batches": (
            (
                "the last batch of an epoch is dropped: an epoch has clips / batch_size batches, rounded up",
                lambda n, b: n // b,
            ),
            ("an epoch always has one batch more: round up, do not add 1", lambda n, b: n // b + 1),
            ("the batches of an epoch are rounded to the nearest number: round up", lambda n, b: round(n / b)),
            ("an epoch has as many steps as clips: it has clips / batch_size, rounded up", lambda n, b: n),
            ("epoch and batch are exchanged: `step` is divided by batch_size", lambda n, b: b),
        ),
        "order": (
            ("the clips are not shuffled", lambda rng, n: np.arange(n)),
            (
                "clips are drawn with repeats, by `integers` or `choice`: use `permutation`",
                lambda rng, n: rng.integers(0, n, n),
            ),
            ("clips are drawn with repeats, by `choice`: use `permutation`", lambda rng, n: rng.choice(n, n)),
            ("the clips are counted from 1", lambda rng, n: rng.permutation(n) + 1),
            (
                "the order is the inverse permutation (an `argsort` too many)",
                lambda rng, n: np.argsort(rng.permutation(n)),
            ),
            ("the order runs backwards", lambda rng, n: rng.permutation(n)[::-1]),
        ),
        "cut": (
            (
                "each batch takes every n-th clip of the order; take batch_size neighbours",
                lambda p, k, b, n, s: p[k::n],
            ),
            ("each batch takes every batch_size-th clip; take batch_size neighbours", lambda p, k, b, n, s: p[k::b]),
            ("a batch begins one clip after the last one: k, not k · batch_size", lambda p, k, b, n, s: p[k : k + b]),
            (
                "the batch is one clip too short: it ends before (k + 1) · batch_size",
                lambda p, k, b, n, s: p[k * b : (k + 1) * b - 1],
            ),
            (
                "the batch is one clip too long: it ends before (k + 1) · batch_size",
                lambda p, k, b, n, s: p[k * b : (k + 1) * b + 1],
            ),
            ("the batch begins a clip too late", lambda p, k, b, n, s: p[k * b + 1 : (k + 1) * b + 1]),
            (
                "the clips of the batch are sorted: keep the order of the permutation",
                lambda p, k, b, n, s: np.sort(p[k * b : (k + 1) * b]),
            ),
            ("every step gets the first batch of its epoch", lambda p, k, b, n, s: p[:b]),
            (
                "the order is cut at step · batch_size: count from the beginning of the epoch, k · batch_size",
                lambda p, k, b, n, s: p[s * b : (s + 1) * b],
            ),
            (
                "the batch reaches to the end of the order: cut it after batch_size clips",
                lambda p, k, b, n, s: p[k * b :],
            ),
            ("the batch holds all clips up to its end", lambda p, k, b, n, s: p[: (k + 1) * b]),
            (
                "the next batch is returned: steps are counted from 0",
                lambda p, k, b, n, s: p[(k + 1) * b : (k + 2) * b],
            ),
            (
                "the parts are as equal as possible (array_split); batches have batch_size clips but the last",
                lambda p, k, b, n, s: np.array_split(p, n)[k],
            ),
        ),
    },
)


EXERCISES["8.1"] = Exercise(
    "the batch of a step",
    batch_literal,
    lambda: [(0, 10, 4, 0), (2, 10, 4, 0), (3, 10, 4, 0), (7, 9, 3, 1), (4, 3, 8, 2), (11, 13, 5, 7)],
    batch_shape,
    (
        (
            "one generator draws all epochs in turn, so it has a memory: each epoch needs a fresh one, of [seed, "
            "epoch]",
            lambda s, n, b, seed: batch_of_order(s, n, b, seed, order_in_turn),
        ),
        (
            "the order is that of `torch.randperm`: another generator, and its seed leaves out the epoch",
            lambda s, n, b, seed: batch_of_order(s, n, b, seed, lambda clips, seed, epoch: order_of_torch(clips, seed)),
        ),
        (
            "the order is that of `torch.randperm`: another generator than `np.random.default_rng([seed, epoch])`",
            lambda s, n, b, seed: batch_of_order(
                s, n, b, seed, lambda clips, seed, epoch: order_of_torch(clips, seed + epoch)
            ),
        ),
        (
            "the last batch of an epoch is filled up with clips that this epoch has seen: it may be smaller",
            partial(batch_like, fill=True),
        ),
        (
            "each step draws a new permutation: a clip may come twice in an epoch and another one never",
            lambda s, n, b, seed: torch.from_numpy(np.random.default_rng([seed, s]).permutation(n)[:b]),
        ),
    ),
    piece=batch_of,
    more=lambda: [(r.randint(0, 30), r.randint(1, 20), r.randint(1, 8), r.randint(0, 9)) for r in randoms(24)],
    kinds=(BATCHES,),
)


# ---------------------------------------------------------------- learning rate


def lr_literal(step, steps, warmup, peak):
    """The rate rises in equal parts during the warm-up, then falls along half a period of the cosine."""
    if step < warmup:
        return torch.tensor((step + 1) / warmup * peak)
    done = (step - warmup) / (steps - warmup)  # 0 at the end of the warm-up, 1 at the end
    return torch.tensor((math.cos(math.pi * done) + 1) / 2 * peak)


def lr_of(step, steps, warmup, peak):
    """The package's learning rate, in float64, the precision of Python's floats."""
    from vt_course.training.fit import lr_at  # here: importing TensorBoard takes seconds

    return torch.tensor(lr_at(step, steps, warmup, peak), dtype=torch.float64)


def lr_like(after, before=lambda step, steps, warmup, peak: peak * (step + 1) / warmup):
    """A schedule with other rules during (`before`) and after (`after`) the warm-up."""
    return lambda step, steps, warmup, peak: torch.tensor(
        float((before if step < warmup else after)(step, steps, warmup, peak))
    )


def cosine(step, steps, warmup, peak):
    return peak * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def rate_like(step, steps, warmup, peak, *, before=None, share=None, wave=None, late=0):
    """The schedule in which the steps that are given replace the right ones."""
    if step < warmup + late:
        return torch.tensor(float(peak * ((step + 1) / warmup if before is None else before(step, steps, warmup))))
    x = (step - warmup) / (steps - warmup) if share is None else share(step, steps, warmup)
    return torch.tensor(float(peak * ((1 + math.cos(math.pi * x)) / 2 if wave is None else wave(x))))


RATES = Choices(
    rate_like,
    {
        "before": (
            (
                "the warm-up begins at 0, so the first step does nothing: step 0 gets peak / warmup, step "
                "warmup - 1 the peak",
                lambda s, n, w: s / w,
            ),
            (
                "the warm-up ends a step too late: its last step, warmup - 1, has the peak",
                lambda s, n, w: (s + 1) / (w + 1),
            ),
            ("the warm-up reaches the peak from 0: step 0 gets peak / warmup", lambda s, n, w: s / (w - 1)),
            ("the warm-up is divided by all steps: divide by `warmup`", lambda s, n, w: (s + 1) / n),
            ("the warm-up is divided by all steps, and begins at 0: divide by `warmup`", lambda s, n, w: s / n),
            ("in the warm-up the learning rate is the peak", lambda s, n, w: 1),
            ("in the warm-up the learning rate is 0", lambda s, n, w: 0),
            ("in the warm-up the learning rate falls", lambda s, n, w: 1 - (s + 1) / w),
            ("the warm-up is not a straight line: it is squared", lambda s, n, w: ((s + 1) / w) ** 2),
            (
                "the warm-up is a cosine; it rises in equal parts",
                lambda s, n, w: (1 - math.cos(math.pi * (s + 1) / w)) / 2,
            ),
        ),
        "share": (
            (
                "the cosine counts from step 0: it must begin, at the peak, where the warm-up ends",
                lambda s, n, w: s / n,
            ),
            (
                "the cosine is too long: it has steps - warmup steps, and the learning rate does not come down to 0",
                lambda s, n, w: (s - w) / n,
            ),
            ("the cosine is a step early: step `warmup` has the whole peak", lambda s, n, w: (s - w + 1) / (n - w)),
            (
                "the cosine reaches 0 in the last step, it is a step too short: its length is steps - warmup",
                lambda s, n, w: (s - w) / max(n - w - 1, 1),
            ),
            ("the cosine counts from step 0 over steps - warmup", lambda s, n, w: s / (n - w)),
            ("the cosine is a step long: its length is steps - warmup", lambda s, n, w: (s - w) / (n - w + 1)),
        ),
        "wave": (
            (
                "1 + cos runs from 2 to 0: divide by 2, or the first step after the warm-up has twice the peak",
                lambda x: 1 + math.cos(math.pi * x),
            ),
            ("the cosine goes down to -peak: (1 + cos) / 2 lies between 0 and 1", lambda x: math.cos(math.pi * x)),
            (
                "a whole wave, cos(2πx), comes back to the peak: half a wave is cos(πx)",
                lambda x: (1 + math.cos(2 * math.pi * x)) / 2,
            ),
            (
                "a quarter of a wave, cos(π/2 · t): asked for is half a wave, which is flat at both ends",
                lambda x: math.cos(math.pi / 2 * x),
            ),
            ("the π is missing: cos(π · x)", lambda x: (1 + math.cos(x)) / 2),
            ("the π is missing, and the wave is not moved: (1 + cos πx) / 2", lambda x: math.cos(x)),
            ("a sine stands in place of the cosine", lambda x: (1 + math.sin(math.pi * x)) / 2),
            ("a sine stands in place of (1 + cos πx) / 2", lambda x: math.sin(math.pi * x)),
            (
                "the learning rate rises again after the warm-up: the sign of the cosine",
                lambda x: (1 - math.cos(math.pi * x)) / 2,
            ),
            ("the learning rate falls in a straight line after the warm-up", lambda x: 1 - x),
            ("the learning rate falls as (1 - x)²", lambda x: (1 - x) ** 2),
            ("the learning rate falls as an exponential", lambda x: math.exp(-x)),
            ("it stays at the peak after the warm-up", lambda x: 1),
            ("after the warm-up the learning rate stays at half the peak", lambda x: 0.5),
            ("only half of (1 + cos πx): the 1 is divided, the cosine is not", lambda x: 0.5 + math.cos(math.pi * x)),
            ("only the cosine is divided by 2, not the 1: brackets", lambda x: 1 + math.cos(math.pi * x) / 2),
        ),
        "late": (("the warm-up is a step too long: it has the steps below `warmup`, so `<` and not `<=`", 1),),
    },
)


EXERCISES["8.2"] = Exercise(
    "the learning rate of a step",
    lr_literal,
    lambda: [(0, 20, 4, 1.0), (3, 20, 4, 2.0), (4, 20, 4, 2.0), (9, 20, 4, 1.0), (19, 20, 4, 2.0), (3, 10, 0, 1.0)],
    lambda *args: "a single number, shape ()",
    (
        (
            "there is no warm-up: the cosine is used from the first step on",
            lr_like(cosine, lambda s, n, w, p: cosine(s, n, w, p)),
        ),
        (
            "the smaller of warm-up and cosine is taken: before step `warmup` the cosine must not count",
            lr_like(cosine, lambda s, n, w, p: min(p * (s + 1) / w, cosine(s, n, w, p))),
        ),
    ),
    piece=lr_of,
    more=lambda: [
        (r.randint(0, steps - 1), steps, r.randint(0, steps - 2), r.uniform(0.1, 3))
        for r in randoms(24)
        for steps in [r.randint(5, 40)]
    ],
    kinds=(RATES,),
)


# ---------------------------------------------------------------- AdamW


def adamw_literal(w, g, m, v, t, lr, decay):
    """One entry of the tensors at a time: AdamW's update written out."""
    out = torch.empty(3, *w.shape)
    for i in np.ndindex(*w.shape):
        new_m, new_v = 0.9 * m[i] + 0.1 * g[i], 0.999 * v[i] + 0.001 * g[i] ** 2
        size = (new_m / (1 - 0.9**t)) / ((new_v / (1 - 0.999**t)) ** 0.5 + 1e-8)
        out[(0, *i)], out[(1, *i)], out[(2, *i)] = w[i] - lr * decay * w[i] - lr * size, new_m, new_v
    return out  # (3, ...)


def adamw_torch(w, g, m, v, t, lr, decay):
    """One step of torch's AdamW, whose state is set to that of the step before."""
    w = nn.Parameter(w.detach().clone())
    w.grad = g.clone()
    optimizer = torch.optim.AdamW([w], lr=lr, weight_decay=decay)
    optimizer.state[w] = dict(step=torch.tensor(t - 1.0), exp_avg=m.clone(), exp_avg_sq=v.clone())
    optimizer.step()
    return torch.stack([w.detach(), optimizer.state[w]["exp_avg"], optimizer.state[w]["exp_avg_sq"]])


def adamw_like(
    w,
    g,
    m,
    v,
    t,
    lr,
    decay,
    *,
    betas=(0.9, 0.999),
    l2=False,
    correct=(True, True),
    shift=0,
    root=torch.sqrt,
    old=False,
    of=torch.square,
    decoupled=None,
    sign=-1,
    late=False,
    eps=1e-8,
    returned="raw",
    fresh=("", None),
):
    """The step if one thing is done in another way."""
    g = g + decay * w if l2 else g
    new_m, new_v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * of(g)
    new_m = fresh[1](betas[0], m, g) if fresh[0] == "m" else new_m
    new_v = fresh[1](betas[1], v, of(g)) if fresh[0] == "v" else new_v
    used = (m, v) if old else (new_m, new_v)
    right = [1 - b ** (t + shift) if c else 1.0 for b, c in zip(betas, correct)]
    hat_m, hat_v = (u / r for u, r in zip(used, right))
    keep = 1 - (0 if l2 else lr * decay if decoupled is None else decoupled(lr, decay))
    size = sign * lr * hat_m / (root(hat_v) + eps)
    new_w = keep * (w + size) if late else keep * w + size
    return torch.stack(
        [new_w, *{"raw": (new_m, new_v), "corrected": (hat_m, hat_v), "exchanged": (new_v, new_m)}[returned]]
    )


STEPS = Choices(
    adamw_like,
    {
        "fresh": (
            ("the new m has all of g: it is β₁ m + (1 - β₁) g", ("m", lambda b, m, g: b * m + g)),
            ("the new m is (1 - β₁) m + β₁ g: β₁ belongs to the old m", ("m", lambda b, m, g: (1 - b) * m + b * g)),
            ("the new m is (1 - β₁) g: the old m is forgotten", ("m", lambda b, m, g: (1 - b) * g)),
            ("m is not updated", ("m", lambda b, m, g: m)),
            ("the new m is the gradient: there is no running mean", ("m", lambda b, m, g: g)),
            ("the new v has all of g²: it is β₂ v + (1 - β₂) g²", ("v", lambda b, v, g: b * v + g)),
            ("the new v is (1 - β₂) v + β₂ g²: β₂ belongs to the old v", ("v", lambda b, v, g: (1 - b) * v + b * g)),
            ("the new v is (1 - β₂) g²: the old v is forgotten", ("v", lambda b, v, g: (1 - b) * g)),
            ("v is not updated", ("v", lambda b, v, g: v)),
            ("the new v is g²: there is no running mean", ("v", lambda b, v, g: g)),
        ),
        "betas": (
            ("both β are 0.9: that of v is 0.999", (0.9, 0.9)),
            ("both β are 0.999: that of m is 0.9", (0.999, 0.999)),
            ("β₂ is 0.99; it must be 0.999", (0.9, 0.99)),
            ("β₂ is 0.95; it must be 0.999", (0.9, 0.95)),
        ),
        "correct": (
            (
                "the bias correction is missing: m and v start at zero, so at first they are too small by 1 - β^t",
                (False, False),
            ),
            ("m is corrected and v is not: both start at zero", (True, False)),
            ("v is corrected and m is not: both start at zero", (False, True)),
        ),
        "l2": (
            (
                "the decay is added to the gradient: that is Adam with L2, where m and v see it too; AdamW "
                "shrinks the weight itself",
                True,
            ),
        ),
        "decoupled": (
            ("the weight does not decay", lambda lr, decay: 0),
            (
                "the decay is not multiplied by the learning rate: the weight shrinks by lr · decay in a step",
                lambda lr, decay: decay,
            ),
            ("the weight shrinks by all of the learning rate: decay is missing", lambda lr, decay: lr),
            ("the weight grows: the decay has the wrong sign", lambda lr, decay: -lr * decay),
            (
                "the weight is multiplied by lr · decay; it must be multiplied by 1 - lr · decay",
                lambda lr, decay: 1 - lr * decay,
            ),
        ),
        "root": (
            ("the step is divided by v: it is the square root of v", lambda v: v),
            ("the step is not divided by the root of v", lambda v: torch.ones_like(v)),
            (
                "ε stands outside the root, √v + ε: inside it is as large as gradients of 1e-4",
                lambda v: (v + 1e-8).sqrt(),
            ),
        ),
        "sign": (("the step goes up the gradient: its sign is minus", 1),),
        "old": (("the step uses m and v of before: update them first", True),),
        "returned": (
            (
                "the m and v that you return are corrected: keep them as they are, the correction belongs to "
                "this step only",
                "corrected",
            ),
            ("m and v are returned the other way round", "exchanged"),
        ),
        "eps": (
            *((f"ε is {e:g}; it must be 1e-8", e) for e in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)),
            ("the ε is missing: where v is 0 the step would be 0/0", 0),
        ),
    },
)


def adamw_cases():
    small = 1e-5 * torch.randn(2, 4)  # so small that ε matters
    return [
        (torch.randn(2, 4), torch.randn(2, 4), torch.randn(2, 4), torch.rand(2, 4) + 0.1, 3, 0.2, 0.3),
        (torch.randn(3), torch.randn(3), torch.zeros(3), torch.zeros(3), 1, 0.1, 0.5),
        (torch.randn(5), torch.randn(5), torch.randn(5), torch.rand(5) + 0.1, 7, 0.05, 0.0),
        (torch.randn(4), small[0], small[1], 1e-10 * (torch.rand(4) + 0.1), 5, 0.1, 0.2),
    ]


EXERCISES["8.3"] = Exercise(
    "one step of AdamW",
    adamw_literal,
    adamw_cases,
    lambda w, *rest: f"(3, ...): weight, m, v = {(3, *w.shape)}",
    (
        ("the two β are exchanged: 0.9 belongs to m, 0.999 to v", partial(adamw_like, betas=(0.999, 0.9))),
        (
            "the weight decays after the step, which shrinks the step as well: shrink the old weight",
            partial(adamw_like, late=True),
        ),
        ("v averages |g|: it is the square of the gradient", partial(adamw_like, of=torch.abs)),
        (
            "v averages the gradient itself, as m does: it is the square of the gradient",
            partial(adamw_like, of=lambda g: g),
        ),
        ("t counts from 1 already: the correction is 1 - β^t, not 1 - β^(t+1)", partial(adamw_like, shift=1)),
        (
            "t counts from 1 already: the correction is 1 - β^t, and 1 - β^(t-1) is 0 in the first step",
            partial(adamw_like, shift=-1),
        ),
    ),
    piece=adamw_torch,
    more=lambda: [
        (*torch.randn(3, n), torch.rand(n) + 0.01, r.randint(1, 9), r.uniform(0.01, 0.5), r.uniform(0, 0.9))
        for r in randoms(6)
        for n in [r.randint(2, 6)]
    ],
    kinds=(STEPS,),
)


# ---------------------------------------------------------------- loss


def smooth_literal(logits, label, eps):
    """Write out the target of each clip, then compute the cross-entropy with it."""
    K, losses = logits.shape[1], []
    for row, k in zip(logits, label.tolist()):
        log_p = row - row.exp().sum().log()
        losses.append(-sum(((1 - eps) * (j == k) + eps / K) * log_p[j] for j in range(K)))
    return torch.stack(losses).mean()


def smooth_like(logits, label, share, rest):
    """Cross-entropy with a target of `share` for the true class and `rest` for each of the others."""
    log_p = logits.log_softmax(-1)
    true = log_p.gather(1, label[:, None])[:, 0]
    return -(share * true + rest * (log_p.sum(1) - true)).mean()


def loss_like(logits, label, eps, *, log_p=None, share=None, rest=None, reduce=None):
    """The loss in which the steps that are given replace the right ones; a target is `rest`, and `share` more for the
    true class."""
    K = logits.shape[1]
    log = logits.log_softmax(-1) if log_p is None else log_p(logits)
    even = torch.full_like(logits, eps / K if rest is None else rest(eps, K))
    target = even + (1 - eps if share is None else share(eps, K)) * F.one_hot(label, K).to(logits)
    parts = -target * log  # (B, K)
    return parts.sum(1).mean() if reduce is None else reduce(parts)


LOSSES = Choices(
    loss_like,
    {
        "log_p": (
            ("the softmax runs over the clips: the classes are the last axis", lambda x: x.log_softmax(0)),
            ("the log is missing: the loss takes the logarithm of the softmax", lambda x: x.softmax(-1)),
            ("the softmax is missing: logits are no logarithms of probabilities", lambda x: x),
            ("the softmax is missing: this is the logarithm of the logits", lambda x: x.log()),
            (
                "softmax is applied twice: the argument holds logits, use log_softmax once",
                lambda x: x.softmax(-1).log_softmax(-1),
            ),
            (
                "log_softmax of log_softmax: once is enough, and the mistake lies elsewhere",
                lambda x: x.log_softmax(-1).exp().log_softmax(-1),
            ),
            ("a sigmoid stands in place of the softmax", lambda x: F.logsigmoid(x)),
            ("the logarithm has base 2: it must be the natural one", lambda x: x.log_softmax(-1) / math.log(2)),
            ("the logarithm has base 10: it must be the natural one", lambda x: x.log_softmax(-1) / math.log(10)),
        ),
        "share": (
            ("the true class keeps all of its 1: it must keep 1 - ε", lambda e, K: 1.0),
            (
                "the true class gets 1 - ε only: its share of the ε that goes to all K classes is missing",
                lambda e, K: 1 - e - e / K,
            ),
            ("the true class loses ε twice", lambda e, K: 1 - 2 * e),
            ("the true class gets ε in place of 1 - ε", lambda e, K: e),
            ("the true class gets only its share of ε", lambda e, K: 0.0),
        ),
        "rest": (
            ("the even part is not divided by K: the target sums to more than 1", lambda e, K: e),
            ("ε is divided by K - 1: all K classes, the true one too, get ε / K", lambda e, K: e / (K - 1)),
            ("ε is divided by K + 1: there are K classes", lambda e, K: e / (K + 1)),
            ("nothing is given to the other classes", lambda e, K: 0.0),
            ("1 - ε is spread, not ε", lambda e, K: (1 - e) / K),
            ("every class gets 1 / K, whatever ε is", lambda e, K: 1 / K),
        ),
        "reduce": (
            ("the losses of the clips are added: take their mean, or the step grows with the batch", lambda p: p.sum()),
            (
                "the loss of a clip is the sum over its classes; here it is the mean, K times too small",
                lambda p: p.mean(),
            ),
            (
                "the losses are averaged over clips and added over classes after a division by K",
                lambda p: p.mean(1).sum(),
            ),
            ("only the first clip counts", lambda p: p[0].sum()),
            ("only the last clip counts", lambda p: p[-1].sum()),
            ("only the largest term of each clip counts: add all classes", lambda p: p.amax(1).mean()),
        ),
    },
)


EXERCISES["8.4"] = Exercise(
    "label smoothing",
    smooth_literal,
    lambda: [
        (torch.randn(4, 8), torch.randint(8, (4,)), 0.1),
        (3 * torch.randn(3, 5), torch.randint(5, (3,)), 0.3),
        (torch.randn(2, 3), torch.randint(3, (2,)), 0.0),
    ],
    lambda *args: "a single number, shape ()",
    (
        (
            "ε is spread over the K - 1 other classes; here each of the K classes gets ε / K, so the true one 1 - ε + "
            "ε / K",
            lambda x, y, e: smooth_like(x, y, 1 - e, e / (x.shape[1] - 1)),
        ),
        ("nothing is smoothed", lambda x, y, e: F.cross_entropy(x, y)),
        ("1 - ε and ε are exchanged", lambda x, y, e: F.cross_entropy(x, y, label_smoothing=1 - e)),
        (
            "the sign is missing: a loss is the negative log of a probability",
            lambda x, y, e: -F.cross_entropy(x, y, label_smoothing=e),
        ),
    ),
    piece=lambda logits, label, eps: F.cross_entropy(logits, label, label_smoothing=eps),
    more=lambda: [
        (2 * torch.randn(B, K), torch.randint(K, (B,)), r.uniform(0, 0.5))
        for r in randoms(6)
        for B, K in [(r.randint(1, 5), r.randint(2, 9))]
    ],
    kinds=(LOSSES,),
    gradient=True,
)


# ---------------------------------------------------------------- gradients


def factor_literal(norms, limit):
    """The factor from the norm of all gradients, taken as one long vector."""
    length = math.sqrt(sum(norm.item() ** 2 for norm in norms))
    return torch.tensor(1.0 if length <= limit else limit / length)


def factor_torch(norms, limit):
    """The factor of `torch.nn.utils.clip_grad_norm_`."""
    return (limit / (torch.linalg.vector_norm(norms) + 1e-6)).clamp(max=1.0)


def factor_like(norms, limit, *, size=None, ratio=None, cut=None):
    """The factor in which the steps that are given replace the right ones."""
    length = norms.norm() if size is None else size(norms)
    out = limit / length if ratio is None else ratio(length, limit)
    return out.clamp(max=1) if cut is None else cut(out, limit)


FACTORS = Choices(
    factor_like,
    {
        "size": (
            (
                "the norms are added: the norm of all gradients is the root of the sum of their squares",
                lambda n: n.sum(),
            ),
            ("the root is missing: that is the square of the norm", lambda n: n.square().sum()),
            (
                "only the largest norm counts: the gradients of all parameters together have the limit",
                lambda n: n.max(),
            ),
            ("only the smallest norm counts: it is the root of the sum of all squares", lambda n: n.min()),
            ("only the first norm counts: it is the root of the sum of all squares", lambda n: n[0]),
            ("only the last norm counts: it is the root of the sum of all squares", lambda n: n[-1]),
            ("the mean of the norms is compared: it is the root of the sum of their squares", lambda n: n.mean()),
            ("the median of the norms is taken: it is the root of the sum of their squares", lambda n: n.median()),
            ("the squares are averaged: they must be added", lambda n: n.square().mean().sqrt()),
            ("the squares are averaged and the root is missing", lambda n: n.square().mean()),
            ("the norms are multiplied", lambda n: n.prod()),
            ("the root of the sum of the norms is taken: square them first", lambda n: n.sum().sqrt()),
            ("each parameter has a factor of its own: one factor for all gradients", lambda n: n),
        ),
        "ratio": (
            ("the factor is upside down: limit / norm, not norm / limit", lambda n, limit: n / limit),
            ("1 / norm: the limit is missing", lambda n, limit: 1 / n),
            ("the limit minus the norm: it is a quotient", lambda n, limit: limit - n),
            ("the quotient is squared", lambda n, limit: (limit / n) ** 2),
            ("this is the norm, not the factor", lambda n, limit: n),
        ),
        "cut": (
            ("short gradients are made longer: a factor above 1 must become 1", lambda x, limit: x),
            ("the factor is kept above 1; it must be kept below: clamp(max=1)", lambda x, limit: x.clamp(min=1)),
            ("the factor is limited by `limit`; it must be limited by 1", lambda x, limit: x.clamp(max=limit)),
            (
                "the factor is kept above `limit`; it must be limited by 1 from above",
                lambda x, limit: x.clamp(min=limit),
            ),
            (
                "the gradients always get the length of the limit or are dropped: below the limit the factor is 1",
                lambda x, limit: torch.where(x > 1, 0.0, x),
            ),
        ),
    },
)


EXERCISES["8.5"] = Exercise(
    "the factor of gradient clipping",
    factor_literal,
    lambda: [
        (torch.tensor([3.0, 4.0]), 1.0),
        (torch.tensor([0.3, 0.4]), 1.0),
        (torch.tensor([1.0, 2.0, 2.0]), 6.0),
        (torch.tensor([0.5, 1.5, 3.0, 0.2]), 2.0),
    ],
    lambda *args: "a single number for all gradients, shape ()",
    (
        ("this is the clipped norm, not the factor", lambda n, limit: n.norm().clamp(max=limit)),
        ("this is the norm, not the factor", lambda n, limit: n.norm()),
    ),
    piece=factor_torch,
    more=lambda: [
        ((torch.rand(r.randint(1, 6)) + 0.3) * 10 ** r.uniform(0, 0.7), 10 ** r.uniform(-1, 1)) for r in randoms(12)
    ],
    kinds=(FACTORS,),
)


def combine_literal(gradients, sizes):
    """A rank's gradient is a mean over its clips: make it a sum, add all ranks, divide by the number of all clips."""
    total = torch.zeros_like(gradients[0])
    for gradient, n in zip(gradients, sizes.tolist()):
        total = total + n * gradient
    return total / sizes.sum().item()  # (P,)


def combine_like(gradients, sizes, *, weights=None, total=None, axis=0):
    """The mean in which the steps that are given replace the right ones."""
    w = sizes.to(gradients) if weights is None else weights(sizes.to(gradients))
    return (w[:, None] * gradients).sum(axis) / (sizes.sum() if total is None else total(sizes.to(gradients), w))


COMBINED = Choices(
    combine_like,
    {
        "axis": (("the sum runs over the parameters, the last axis: it must run over the ranks, axis 0", 1),),
        "weights": (
            ("the means are added as they are: each must count n_r times", torch.ones_like),
            (
                "every rank that has clips counts the same: it must weigh as many clips as it has",
                lambda n: (n > 0).to(n),
            ),
            *(
                (f"{what}: each rank must weigh as many clips as it has", lambda n, f=f: f(n) * n.sum() / f(n).sum())
                for what, f in {
                    "the weights are the squares of the numbers of clips, divided by their sum": torch.square,
                    "the weights are the roots of the numbers of clips, divided by their sum": torch.sqrt,
                    "the weights are 1 over the numbers of clips, divided by their sum": lambda n: 1 / n,
                    "the weights are the numbers of clips plus 1, divided by their sum": lambda n: n + 1,
                    "the ranks with the most clips count alone, the same": lambda n: (n == n.max()).to(n),
                }.items()
            ),
            ("the numbers of clips are squared", torch.square),
            ("the roots of the numbers of clips are the weights", torch.sqrt),
            ("the weights are exchanged: the rank with the most clips weighs least", lambda n: 1 / n),
            ("the weights run backwards over the ranks", lambda n: n.flip(0)),
            ("the weights are a softmax of the numbers of clips", lambda n: n.softmax(0) * n.sum()),
            ("the weights are the shares squared", lambda n: n * n / n.sum()),
            (
                "the shares are rounded down to whole numbers: divide with `/`",
                lambda n: torch.floor(n / n.sum()) * n.sum(),
            ),
            ("only the first rank counts", lambda n: torch.eye(len(n))[0] * n.sum()),
            ("only the last rank counts", lambda n: torch.eye(len(n))[-1] * n.sum()),
            ("only the rank with the most clips counts", lambda n: torch.eye(len(n))[n.argmax()] * n.sum()),
        ),
        "total": (
            ("the sum is not divided by the number of all clips", lambda n, w: 1),
            ("the sums are divided by the number of ranks: divide by the number of clips", lambda n, w: len(n)),
            ("the sum is divided by the number of ranks that have clips", lambda n, w: (n > 0).sum()),
            (
                "it is divided once more, by the number of ranks: the weights n_r / n sum to 1 already",
                lambda n, w: n.sum() * len(n),
            ),
            ("the sum is divided by the largest number of clips", lambda n, w: n.max()),
            ("the sum is divided by the mean number of clips", lambda n, w: n.mean()),
            ("the sum is divided by the length of the weights' vector, a norm", lambda n, w: n.norm()),
            ("the sum is divided by the number of clips of the first rank", lambda n, w: n[0]),
        ),
    },
)


EXERCISES["8.6"] = TRAIN_STEP


# ---------------------------------------------------------------- ranks


EXERCISES["8.7"] = Exercise(
    "the gradient of all ranks",
    combine_literal,
    lambda: [
        (torch.randn(2, 5), torch.tensor([7, 6])),
        (torch.randn(2, 3), torch.tensor([4, 4])),
        (torch.randn(3, 4), torch.tensor([5, 0, 3])),
        (torch.randn(4, 2), torch.tensor([9, 3, 3, 1])),
    ],
    lambda gradients, sizes: f"(P,) = ({gradients.shape[1]},)",
    (
        ("every rank counts the same: a rank with fewer clips must weigh less, n_r / n", lambda g, n: g.mean(0)),
        ("the gradients are added: they are means of their clips, and so must be the result", lambda g, n: g.sum(0)),
        (
            "the weights are exchanged: the rank with the most clips weighs least",
            lambda g, n: (n.max() + n.min() - n).to(g) @ g / (n.max() + n.min() - n).sum(),
        ),
        (
            "every rank that has clips counts the same: a rank with fewer clips must weigh less, n_r / n",
            lambda g, n: g[n > 0].mean(0),
        ),
        (
            "the means of all ranks are added and divided by the number of ranks that have clips: a rank must weigh as "
            "many clips as it has",
            lambda g, n: g.sum(0) / (n > 0).sum(),
        ),
    ),
    piece=lambda gradients, sizes: (sizes / sizes.sum()) @ gradients,
    more=lambda: [
        (torch.randn(R, r.randint(1, 6)), torch.tensor([r.randint(1, 9) for _ in range(R)]))
        for r in randoms(8)
        for R in [r.randint(2, 5)]
    ],
    kinds=(COMBINED,),
)


EXERCISES["8.8"] = SCORE
