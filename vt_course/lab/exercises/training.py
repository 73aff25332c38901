"""Notebook 08: the pieces of a training loop."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from vt_course.data.loading import EpochBatches
from vt_course.lab.exercise import Exercise

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


def batch_by_step(step, clips, batch_size, seed):
    order = np.random.default_rng([seed, step // math.ceil(clips / batch_size)]).permutation(clips)
    return torch.from_numpy(order[step * batch_size : (step + 1) * batch_size])


def batch_shape(step, clips, batch_size, seed):
    size = len(batch_literal(step, clips, batch_size, seed))
    return ("" if size == batch_size else "what the epoch has left, ") + f"(B,) = ({size},)"


def batch_in_order(step, clips, batch_size, seed):
    k = step % math.ceil(clips / batch_size)
    return torch.arange(clips)[k * batch_size : (k + 1) * batch_size]


def batch_strided(step, clips, batch_size, seed):
    n = math.ceil(clips / batch_size)
    epoch, k = divmod(step, n)
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(clips)[k::n].copy())


EXERCISES["8.1"] = Exercise(
    "the batch of a step",
    batch_literal,
    lambda: [(0, 10, 4, 0), (2, 10, 4, 0), (3, 10, 4, 0), (7, 9, 3, 1), (4, 3, 8, 2), (11, 13, 5, 7)],
    batch_shape,
    (
        (
            "every epoch has the same order: the epoch belongs into the seed of the generator, [seed, epoch]",
            lambda s, n, b, seed: batch_like(s, n, b, seed, key=lambda seed, epoch: [seed, 0]),
        ),
        (
            "seed and epoch are added, so epoch 1 of seed 0 is epoch 0 of seed 1: give the generator the list [seed, "
            "epoch]",
            lambda s, n, b, seed: batch_like(s, n, b, seed, key=lambda seed, epoch: seed + epoch),
        ),
        (
            "the list is [epoch, seed]; it must be [seed, epoch]",
            lambda s, n, b, seed: batch_like(s, n, b, seed, key=lambda seed, epoch: [epoch, seed]),
        ),
        (
            "the generator knows the epoch only: two runs with different seeds would see the clips in the same order",
            lambda s, n, b, seed: batch_like(s, n, b, seed, key=lambda seed, epoch: epoch),
        ),
        (
            "epochs are counted from 0: here the first one has the order of [seed, 1]",
            lambda s, n, b, seed: batch_like(s, n, b, seed, key=lambda seed, epoch: [seed, epoch + 1]),
        ),
        (
            "one generator draws all epochs in turn, so it has a memory: each epoch needs a fresh one, of [seed, "
            "epoch]",
            lambda s, n, b, seed: batch_of_order(s, n, b, seed, order_in_turn),
        ),
        (
            "the generator is seeded with the step: the batches of an epoch must be cut from one order, that of "
            "[seed, epoch]",
            lambda s, n, b, seed: batch_like(s, n, b, seed, key=lambda seed, epoch: [seed, s]),
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
        ("the order is cut at step · batch_size: count from the beginning of the epoch, k · batch_size", batch_by_step),
        ("the clips are not shuffled", batch_in_order),
        (
            "the last batch of an epoch is dropped: an epoch has clips / batch_size batches, rounded up",
            lambda s, n, b, seed: batch_like(s, n, b, seed, last=False),
        ),
        (
            "the last batch of an epoch is filled up with clips that this epoch has seen: it may be smaller",
            lambda s, n, b, seed: batch_like(s, n, b, seed, fill=True),
        ),
        (
            "each step draws a new permutation: a clip may come twice in an epoch and another one never",
            lambda s, n, b, seed: torch.from_numpy(np.random.default_rng([seed, s]).permutation(n)[:b]),
        ),
        ("each batch takes every n-th clip of the order; take batch_size neighbours", batch_strided),
    ),
    piece=batch_of,
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


EXERCISES["8.2"] = Exercise(
    "the learning rate of a step",
    lr_literal,
    lambda: [(0, 20, 4, 1.0), (3, 20, 4, 2.0), (4, 20, 4, 2.0), (9, 20, 4, 1.0), (19, 20, 4, 2.0), (3, 10, 0, 1.0)],
    lambda *args: "a single number, shape ()",
    (
        (
            "the warm-up begins at 0, so the first step does nothing: step 0 gets peak / warmup, step warmup - 1 the "
            "peak",
            lr_like(cosine, lambda step, steps, warmup, peak: peak * step / warmup),
        ),
        (
            "the cosine counts from step 0: it must begin, at the peak, where the warm-up ends",
            lr_like(lambda s, n, w, p: p * (1 + math.cos(math.pi * s / n)) / 2),
        ),
        (
            "the cosine is too long: it has steps - warmup steps, and the learning rate does not come down to 0",
            lr_like(lambda s, n, w, p: p * (1 + math.cos(math.pi * (s - w) / n)) / 2),
        ),
        (
            "the cosine goes down to -peak: (1 + cos) / 2 lies between 0 and 1",
            lr_like(lambda s, n, w, p: p * math.cos(math.pi * (s - w) / (n - w))),
        ),
        (
            "a quarter of a wave, cos(π/2 · t): asked for is half a wave, which is flat at both ends",
            lr_like(lambda s, n, w, p: p * math.cos(math.pi / 2 * (s - w) / (n - w))),
        ),
        (
            "1 + cos runs from 2 to 0: divide by 2, or the first step after the warm-up has twice the peak",
            lr_like(lambda s, n, w, p: 2 * cosine(s, n, w, p)),
        ),
        (
            "the learning rate falls in a straight line after the warm-up",
            lr_like(lambda s, n, w, p: p * (n - s) / (n - w)),
        ),
        (
            "the learning rate rises again after the warm-up: the sign of the cosine",
            lr_like(lambda s, n, w, p: p - cosine(s, n, w, p)),
        ),
        (
            "there is no warm-up: the cosine is used from the first step on",
            lr_like(cosine, lambda s, n, w, p: cosine(s, n, w, p)),
        ),
        (
            "the warm-up is a step too long: it has the steps below `warmup`, so `<` and not `<=`",
            lambda s, n, w, p: lr_like(cosine)(s, n, w, p) if s != w else torch.tensor(p * (s + 1) / w),
        ),
        (
            "the cosine is a step early: step `warmup` has the whole peak",
            lr_like(lambda s, n, w, p: cosine(s + 1, n, w, p)),
        ),
        (
            "the cosine reaches 0 in the last step, it is a step too short: its length is steps - warmup",
            lr_like(lambda s, n, w, p: cosine(s, n - 1, w, p)),
        ),
        ("the π is missing: cos(π · x)", lr_like(lambda s, n, w, p: p * (1 + math.cos((s - w) / (n - w))) / 2)),
        ("it stays at the peak after the warm-up", lr_like(lambda s, n, w, p: p)),
    ),
    piece=lr_of,
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
):
    """The step if one thing is done in another way."""
    g = g + decay * w if l2 else g
    new_m, new_v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * of(g)
    used = (m, v) if old else (new_m, new_v)
    right = [1 - b ** (t + shift) if c else 1.0 for b, c in zip(betas, correct)]
    hat_m, hat_v = (u / r for u, r in zip(used, right))
    keep = 1 - (0 if l2 else lr * decay if decoupled is None else decoupled(lr, decay))
    size = sign * lr * hat_m / (root(hat_v) + eps)
    new_w = keep * (w + size) if late else keep * w + size
    return torch.stack(
        [new_w, *{"raw": (new_m, new_v), "corrected": (hat_m, hat_v), "exchanged": (new_v, new_m)}[returned]]
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
        (
            "the bias correction is missing: m and v start at zero, so at first they are too small by 1 - β^t",
            lambda *a: adamw_like(*a, correct=(False, False)),
        ),
        ("m is corrected and v is not: both start at zero", lambda *a: adamw_like(*a, correct=(True, False))),
        ("v is corrected and m is not: both start at zero", lambda *a: adamw_like(*a, correct=(False, True))),
        (
            "the decay is added to the gradient: that is Adam with L2, where m and v see it too; AdamW shrinks the "
            "weight itself",
            lambda *a: adamw_like(*a, l2=True),
        ),
        (
            "the decay is not multiplied by the learning rate: the weight shrinks by lr · decay in a step",
            lambda *a: adamw_like(*a, decoupled=lambda lr, decay: decay),
        ),
        ("the weight does not decay", lambda *a: adamw_like(*a, decoupled=lambda lr, decay: 0)),
        (
            "the weight grows: the decay has the wrong sign",
            lambda *a: adamw_like(*a, decoupled=lambda lr, decay: -lr * decay),
        ),
        ("the two β are exchanged: 0.9 belongs to m, 0.999 to v", lambda *a: adamw_like(*a, betas=(0.999, 0.9))),
        ("the step is divided by v: it is the square root of v", lambda *a: adamw_like(*a, root=lambda v: v)),
        (
            "ε stands outside the root, √v + ε: inside it is as large as gradients of 1e-4",
            lambda *a: adamw_like(*a, root=lambda v: (v + 1e-8).sqrt(), eps=0),
        ),
        ("the ε is missing: where v is 0 the step would be 0/0", lambda *a: adamw_like(*a, eps=0)),
        (
            "the weight decays after the step, which shrinks the step as well: shrink the old weight",
            lambda *a: adamw_like(*a, late=True),
        ),
        ("v averages |g|: it is the square of the gradient", lambda *a: adamw_like(*a, of=torch.abs)),
        (
            "v averages the gradient itself, as m does: it is the square of the gradient",
            lambda *a: adamw_like(*a, of=lambda g: g),
        ),
        ("the step goes up the gradient: its sign is minus", lambda *a: adamw_like(*a, sign=1)),
        ("t counts from 1 already: the correction is 1 - β^t, not 1 - β^(t+1)", lambda *a: adamw_like(*a, shift=1)),
        (
            "t counts from 1 already: the correction is 1 - β^t, and 1 - β^(t-1) is 0 in the first step",
            lambda *a: adamw_like(*a, shift=-1),
        ),
        ("the step uses m and v of before: update them first", lambda *a: adamw_like(*a, old=True)),
        ("m and v are returned the other way round", lambda *a: adamw_like(*a, returned="exchanged")),
        (
            "the m and v that you return are corrected: keep them as they are, the correction belongs to this step "
            "only",
            lambda *a: adamw_like(*a, returned="corrected"),
        ),
    ),
    piece=adamw_torch,
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
        (
            "the true class gets 1 - ε only: its share of the ε that goes to all K classes is missing",
            lambda x, y, e: smooth_like(x, y, 1 - e, e / x.shape[1]),
        ),
        ("nothing is smoothed", lambda x, y, e: F.cross_entropy(x, y)),
        ("1 - ε and ε are exchanged", lambda x, y, e: F.cross_entropy(x, y, label_smoothing=1 - e)),
        ("the even part is not divided by K: the target sums to more than 1", lambda x, y, e: smooth_like(x, y, 1, e)),
        (
            "the losses of the clips are added: take their mean, or the step grows with the batch",
            lambda x, y, e: F.cross_entropy(x, y, label_smoothing=e, reduction="sum"),
        ),
        (
            "the loss of a clip is the sum over its classes; here it is the mean, K times too small",
            lambda x, y, e: F.cross_entropy(x, y, label_smoothing=e) / x.shape[1],
        ),
        (
            "softmax is applied twice: the argument holds logits, use log_softmax once",
            lambda x, y, e: F.cross_entropy(x.softmax(-1), y, label_smoothing=e),
        ),
        (
            "the sign is missing: a loss is the negative log of a probability",
            lambda x, y, e: -F.cross_entropy(x, y, label_smoothing=e),
        ),
        (
            "the softmax runs over the clips: the classes are the last axis",
            lambda x, y, e: (
                -((1 - e) * x.log_softmax(0).gather(1, y[:, None])[:, 0].mean() + e * x.log_softmax(0).mean())
            ),
        ),
    ),
    piece=lambda logits, label, eps: F.cross_entropy(logits, label, label_smoothing=eps),
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
        (
            "the norms are added: the norm of all gradients is the root of the sum of their squares",
            lambda n, limit: (limit / n.sum()).clamp(max=1),
        ),
        (
            "the root is missing: that is the square of the norm",
            lambda n, limit: (limit / n.square().sum()).clamp(max=1),
        ),
        (
            "only the largest norm counts: the gradients of all parameters together have the limit",
            lambda n, limit: (limit / n.max()).clamp(max=1),
        ),
        (
            "the mean of the norms is compared: it is the root of the sum of their squares",
            lambda n, limit: (limit / n.mean()).clamp(max=1),
        ),
        ("short gradients are made longer: a factor above 1 must become 1", lambda n, limit: limit / n.norm()),
        ("the factor is upside down: limit / norm, not norm / limit", lambda n, limit: (n.norm() / limit).clamp(max=1)),
        ("this is the clipped norm, not the factor", lambda n, limit: n.norm().clamp(max=limit)),
        ("this is the norm, not the factor", lambda n, limit: n.norm()),
        (
            "the gradients always get the length of the limit or are dropped: below the limit the factor is 1",
            lambda n, limit: torch.where(n.norm() > limit, limit / n.norm(), 0.0),
        ),
    ),
    piece=factor_torch,
)


def combine_literal(gradients, sizes):
    """A rank's gradient is a mean over its clips: make it a sum, add all ranks, divide by the number of all clips."""
    total = torch.zeros_like(gradients[0])
    for gradient, n in zip(gradients, sizes.tolist()):
        total = total + n * gradient
    return total / sizes.sum().item()  # (P,)


EXERCISES["8.6"] = Exercise(
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
        ("the sum is not divided by the number of all clips", lambda g, n: n.to(g) @ g),
        (
            "it is divided once more, by the number of ranks: the weights n_r / n sum to 1 already",
            lambda g, n: n.to(g) @ g / n.sum() / len(n),
        ),
        (
            "the sums are divided by the number of ranks: divide by the number of clips",
            lambda g, n: n.to(g) @ g / len(n),
        ),
        (
            "the means are added as they are, and divided by the number of clips: each counts n_r times",
            lambda g, n: g.sum(0) / n.sum(),
        ),
        (
            "the weights are exchanged: the rank with the most clips weighs least",
            lambda g, n: (n.max() + n.min() - n).to(g) @ g / (n.max() + n.min() - n).sum(),
        ),
        ("only the rank with the most clips counts", lambda g, n: g[n.argmax()]),
    ),
    piece=lambda gradients, sizes: (sizes / sizes.sum()) @ gradients,
)
