"""Right and wrong solutions of the exercises of notebook 08."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from vt_course.data.loading import EpochBatches
from vt_course.training.fit import lr_at

from . import training_step
from .common import likely, overwrite

# ---------------------------------------------------------------- right solutions


def batch(step, clips, batch_size, seed):
    epoch, k = divmod(step, math.ceil(clips / batch_size))
    order = np.random.default_rng([seed, epoch]).permutation(clips)
    return torch.from_numpy(order[k * batch_size : (k + 1) * batch_size])


def batch_by_split(step, clips, batch_size, seed):
    n = -(-clips // batch_size)
    order = torch.tensor(np.random.default_rng((seed, step // n)).permutation(np.arange(clips)))
    return order.split(batch_size)[step % n]


def batch_of_package(step, clips, batch_size, seed):
    batches = EpochBatches(clips, batch_size, seed)
    batches.epoch = step // len(batches)
    return torch.tensor(list(batches)[step % len(batches)])[:, 1]


def rate(step, steps, warmup, peak):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * math.cos(math.pi / 2 * (step - warmup) / (steps - warmup)) ** 2


def rate_torch(step, steps, warmup, peak):
    up = torch.tensor((step + 1) / max(warmup, 1))
    down = (1 + torch.cos(torch.tensor(math.pi * (step - warmup) / (steps - warmup)))) / 2
    return peak * torch.where(torch.tensor(step < warmup), up, down)


def adamw(w, g, m, v, t, lr, decay):
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * g * g
    size = m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    return torch.stack([w - lr * (size + decay * w), m, v])


def adamw_in_torchs_order(w, g, m, v, t, lr, decay):
    m = torch.lerp(m, g, 1 - 0.9)
    v = (0.999 * v).addcmul(g, g, value=1 - 0.999)
    size = v.sqrt() / math.sqrt(1 - 0.999**t) + 1e-8
    return torch.stack([(w * (1 - lr * decay)).addcdiv(m, size, value=-lr / (1 - 0.9**t)), m, v])


def smooth(logits, label, eps):
    target = (1 - eps) * F.one_hot(label, logits.shape[1]) + eps / logits.shape[1]
    return -(target * logits.log_softmax(-1)).sum(1).mean()


def smooth_two_parts(logits, label, eps):
    log_p = logits - logits.logsumexp(-1, keepdim=True)
    true = log_p[torch.arange(len(label)), label]
    return -(1 - eps) * true.mean() - eps * log_p.mean()


def factor(norms, limit):
    return min(1.0, limit / norms.square().sum().sqrt().item())


def combine(gradients, sizes):
    return (gradients * (sizes / sizes.sum())[:, None]).sum(0)


def combine_clip_by_clip(gradients, sizes):
    """A row for each clip, all of a rank the same; then their mean."""
    return gradients.repeat_interleave(sizes, 0).mean(0)


RIGHT = {
    "8.1": {"divmod": batch, "split": batch_by_split, "package": batch_of_package, "int32": lambda *a: batch(*a).int()},
    "8.2": {
        "package": lr_at,
        "cos squared": rate,
        "tensor": rate_torch,
        "numpy": lambda *a: float(np.float64(rate(*a))),
    },
    "8.3": {
        "as in the text": adamw,
        "torch's order": adamw_in_torchs_order,
        "float64": lambda w, g, m, v, *a: adamw(*(x.double() for x in (w, g, m, v)), *a),
        "with gradient": lambda w, *a: adamw(w.requires_grad_(), *a),
        "Adam after shrinking": lambda w, g, m, v, t, lr, d: adamw((1 - lr * d) * w, g, m, v, t, lr, 0.0),
    },
    "8.4": {
        "target": smooth,
        "two parts": smooth_two_parts,
        "torch": lambda x, y, e: F.cross_entropy(x, y, label_smoothing=e),
        "soft targets": lambda x, y, e: F.cross_entropy(
            x, torch.full_like(x, e / x.shape[1]).scatter_add(1, y[:, None], torch.full((len(y), 1), 1 - e))
        ),
    },
    "8.5": {
        "plain number": factor,
        "torch's epsilon": lambda n, limit: (limit / (n.norm() + 1e-6)).clamp(max=1),
        "if": lambda n, limit: limit / n.norm() if n.norm() > limit else 1.0,
        "integer one": lambda n, limit: limit / n.norm() if n.norm() > limit else 1,
    },
    "8.6": training_step.RIGHT_STEP,
    "8.7": {
        "weights": combine,
        "clip by clip": combine_clip_by_clip,
        "matrix": lambda g, n: n.float() @ g / n.sum(),
        "einsum, float64": lambda g, n: torch.einsum("rp,r->p", g.double(), n / n.double().sum()),
    },
    "8.8": training_step.RIGHT_SCORE,
}


# ---------------------------------------------------------------- wrong solutions


def batch_with(step, clips, batch_size, seed, generator):
    epoch, k = divmod(step, math.ceil(clips / batch_size))
    return torch.from_numpy(generator(seed, epoch).permutation(clips)[k * batch_size : (k + 1) * batch_size])


def batch_in_turn(step, clips, batch_size, seed):
    rng = np.random.default_rng(seed)
    for _ in range(step // -(-clips // batch_size) + 1):
        order = rng.permutation(clips)
    return torch.from_numpy(order).split(batch_size)[step % -(-clips // batch_size)]


def batch_dropping(step, clips, batch_size, seed):
    n = max(clips // batch_size, 1)
    order = np.random.default_rng([seed, step // n]).permutation(clips)
    return torch.from_numpy(order)[step % n * batch_size :][:batch_size]


def batch_filled(step, clips, batch_size, seed):
    n = math.ceil(clips / batch_size)
    order = np.random.default_rng([seed, step // n]).permutation(clips)
    places = (step % n * batch_size + np.arange(batch_size)) % clips
    return torch.from_numpy(order[places])


def batch_every_nth(step, clips, batch_size, seed):
    n = math.ceil(clips / batch_size)
    order = torch.from_numpy(np.random.default_rng([seed, step // n]).permutation(clips))
    return order[step % n :: n]


def wave(step, steps, warmup, peak, height, first=None):
    """`height` of the share that is done after the warm-up."""
    if step < warmup:
        return peak * (step + 1) / warmup if first is None else first
    return peak * height((step - warmup) / (steps - warmup))


def adamw_written(w, g, m, v, t, lr, decay, b1=0.9, b2=0.999):
    """Another way to write it, for changes of the arguments."""
    m, v = m + (1 - b1) * (g - m), v + (1 - b2) * (g**2 - v)
    return torch.stack([w - lr * decay * w - lr * (m / (1 - b1**t)) / (torch.sqrt(v / (1 - b2**t)) + 1e-8), m, v])


def adamw_with(
    w, g, m, v, t, lr, decay, right_m=None, right_v=None, root=lambda v: v.sqrt() + 1e-8, square=lambda g: g * g
):
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * square(g)
    size = m / (right_m or 1 - 0.9**t) / root(v / (right_v or 1 - 0.999**t))
    return torch.stack([w - lr * (size + decay * w), m, v])


def adamw_moments_corrected(w, g, m, v, t, lr, decay):
    w, m, v = adamw_written(w, g, m, v, t, lr, decay)
    return torch.stack([w, m / (1 - 0.9**t), v / (1 - 0.999**t)])


def adamw_uncorrected(w, g, m, v, t, lr, decay):
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    return torch.stack([w * (1 - lr * decay) - lr * m / (v.sqrt() + 1e-8), m, v])


def adamw_in_place(w, g, m, v, t, lr, decay):
    m.mul_(0.9).add_(0.1 * g)
    v.mul_(0.999).add_(0.001 * g * g)
    size = m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    return torch.stack([w - lr * (size + decay * w), m, v])


def adamw_only_weight(*args):
    return adamw(*args)[0]


def smooth_others(logits, label, eps):
    K = logits.shape[1]
    target = torch.full_like(logits, eps / (K - 1)).scatter(1, label[:, None], 1 - eps)
    return -(target * logits.log_softmax(-1)).sum(1).mean()


def smooth_true_short(logits, label, eps):
    target = torch.full_like(logits, eps / logits.shape[1]).scatter(1, label[:, None], 1 - eps)
    return -(target * logits.log_softmax(-1)).sum(1).mean()


def mean_nll(log_p, label, eps):
    return (1 - eps) * F.nll_loss(log_p, label) - eps * log_p.mean()


WRONG = {
    "8.1": {
        "one order": (
            lambda *a: batch_with(*a, lambda seed, epoch: np.random.default_rng([seed, 0])),
            likely("8.1", "every epoch has the same order"),
        ),
        "added": (
            lambda *a: batch_with(*a, lambda seed, epoch: np.random.default_rng(seed + epoch)),
            likely("8.1", "are added"),
        ),
        "epoch first": (
            lambda *a: batch_with(*a, lambda seed, epoch: np.random.default_rng((epoch, seed))),
            likely("8.1", "[epoch, seed]; it must"),
        ),
        "epoch alone": (
            lambda *a: batch_with(*a, lambda seed, epoch: np.random.default_rng(epoch)),
            likely("8.1", "epoch only"),
        ),
        "in order": (
            lambda s, n, b, seed: torch.arange(n).split(b)[s % math.ceil(n / b)],
            likely("8.1", "not shuffled"),
        ),
        "dropped": (batch_dropping, likely("8.1", "is dropped")),
        "filled": (batch_filled, likely("8.1", "filled up")),
        "new permutation": (
            lambda s, n, b, seed: torch.tensor(np.random.default_rng([seed, s]).permutation(n).tolist()[:b]),
            likely("8.1", "each step draws"),
        ),
        "every n-th": (batch_every_nth, likely("8.1", "every n-th")),
        "array": (lambda *a: batch(*a).numpy(), "returned a ndarray, not a tensor"),
        "list": (lambda *a: batch(*a).tolist(), "returned a list, not a tensor"),
        "torch's generator": (
            lambda s, n, b, seed: torch.randperm(n, generator=torch.Generator().manual_seed(seed)).split(b)[
                s % math.ceil(n / b)
            ],
            likely("8.1", "its seed leaves out the epoch"),
        ),
        "torch's generator, epoch added": (
            lambda s, n, b, seed: torch.randperm(
                n, generator=torch.Generator().manual_seed(seed + s // math.ceil(n / b))
            ).split(b)[s % math.ceil(n / b)],
            likely("8.1", "another generator than"),
        ),
        "torch's global generator": (
            lambda s, n, b, seed: torch.randperm(n)[: min(b, n - s % math.ceil(n / b) * b)],
            "numbers differ",
        ),
        "rounded down": (
            lambda s, n, b, seed: torch.from_numpy(
                np.random.default_rng([seed, s // (n // b)]).permutation(n)[s % (n // b) * b :][:b]
            ),
            likely("8.1", "is dropped"),
        ),  # and a ZeroDivisionError in a later case
        "in turn": (batch_in_turn, likely("8.1", "one generator draws")),
        "epoch from 1": (
            lambda *a: batch_with(*a, lambda seed, epoch: np.random.default_rng((seed, 1 + epoch))),
            likely("8.1", "epochs are counted from 0"),
        ),
        "step as seed": (
            lambda s, n, b, seed: torch.from_numpy(np.random.default_rng([seed, s]).permutation(n)).split(b)[
                s % -(-n // b)
            ],
            likely("8.1", "seeded with the step"),
        ),
        "cut by step": (
            lambda s, n, b, seed: torch.tensor(
                np.random.default_rng([seed, s // -(-n // b)]).permutation(n).tolist()[s * b :][:b], dtype=torch.int64
            ),
            likely("8.1", "cut at step"),
        ),
        "floats": (lambda *a: batch(*a).float(), "dtype torch.float32, wanted torch.int64"),
        "the whole epoch": (
            lambda s, n, b, seed: torch.from_numpy(np.random.default_rng([seed, 0]).permutation(n)),
            "shape (10,), wanted (B,) = (4,)\n",
        ),
        "always full": (
            lambda s, n, b, seed: batch(s, n, b, seed).repeat(b)[:b],
            "shape (4,), wanted what the epoch has left, (B,) = (2,)\n",
        ),
    },
    "8.2": {
        "from zero": (lambda s, n, w, p: s / w * p if s < w else rate(s, n, w, p), likely("8.2", "begins at 0, so")),
        "cosine from step 0": (
            lambda s, n, w, p: (
                rate(s, n, w, p) if s < w else wave(s, n, 0, p, lambda x: (math.cos(math.pi * x) + 1) / 2)
            ),
            likely("8.2", "counts from step 0: it"),
        ),
        "too long": (
            lambda s, n, w, p: rate(s, n, w, p) if s < w else p / 2 + p / 2 * math.cos(math.pi / n * (s - w)),
            likely("8.2", "cosine is too long"),
        ),
        "negative": (lambda *a: wave(*a, lambda x: math.cos(math.pi * x)), likely("8.2", "down to -peak")),
        "quarter": (lambda *a: wave(*a, lambda x: math.sin(math.pi / 2 * (1 - x))), likely("8.2", "a quarter")),
        "twice": (lambda *a: wave(*a, lambda x: 1 + math.cos(math.pi * x)), likely("8.2", "divide by 2")),
        "straight": (lambda *a: wave(*a, lambda x: 1 - x), likely("8.2", "falls in a straight line")),
        "rising": (lambda *a: wave(*a, lambda x: math.sin(math.pi / 2 * x) ** 2), likely("8.2", "rises again")),
        "no warm-up": (
            lambda s, n, w, p: p * (1 + math.cos(math.pi * (s - w) / (n - w))) / 2,
            likely("8.2", "no warm-up"),
        ),
        "smaller of both": (
            lambda s, n, w, p: p * min((s + 1) / max(w, 0.01), (1 + math.cos(math.pi * (s - w) / (n - w))) / 2),
            likely("8.2", "the smaller of"),
        ),
        "constant": (lambda *a: wave(*a, lambda x: 1.0), likely("8.2", "stays at the peak")),
        "<=": (
            lambda s, n, w, p: p * (s + 1) / w if s <= w and w else rate(s, n, w, p),
            likely("8.2", "a step too long"),
        ),
        "a step early": (lambda s, n, w, p: rate(s + (s >= w), n, w, p), likely("8.2", "a step early")),
        "to zero": (lambda s, n, w, p: rate(s, n - (s >= w), w, p), likely("8.2", "a step too short")),
        "no π": (lambda *a: wave(*a, lambda x: math.cos(x / 2) ** 2), likely("8.2", "π is missing: ")),
        "nearly": (lambda *a: rate(*a) * (1 + 3e-5), "got 0.2500075, wanted 0.25\n"),
        "degrees": (lambda *a: wave(*a, lambda x: (1 + math.cos(180 * x)) / 2), "got "),
        "list": (lambda *a: [rate(*a)], "returned a list, not a tensor or a number"),
        "vector": (lambda *a: torch.tensor([rate(*a)]), "shape (1,), wanted a single number, shape ()"),
    },
    "8.3": {
        "uncorrected": (adamw_uncorrected, likely("8.3", "bias correction is missing")),
        "L2": (
            lambda w, g, m, v, t, lr, d: adamw_written(w, g + d * w, m, v, t, lr, 0.0),
            likely("8.3", "Adam with L2"),
        ),
        "decay without lr": (
            lambda w, g, m, v, t, lr, d: adamw_written(w, g, m, v, t, lr, d / lr),
            likely("8.3", "not multiplied by the learning rate"),
        ),
        "no decay": (lambda w, g, m, v, t, lr, d: adamw_written(w, g, m, v, t, lr, 0), likely("8.3", "does not decay")),
        "growth": (
            lambda w, g, m, v, t, lr, d: adamw_written(w, g, m, v, t, lr, -d),
            likely("8.3", "the weight grows"),
        ),
        "β exchanged": (lambda *a: adamw_written(*a, 0.999, 0.9), likely("8.3", "two β are exchanged")),
        "t + 1": (
            lambda w, g, m, v, t, lr, d: torch.stack(
                [
                    adamw_written(w, g, m, v, t, lr, d)[0]
                    - lr
                    * (
                        (adamw_written(w, g, m, v, t, lr, d)[1] / (1 - 0.9 ** (t + 1)))
                        / ((adamw_written(w, g, m, v, t, lr, d)[2] / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8)
                        - (adamw_written(w, g, m, v, t, lr, d)[1] / (1 - 0.9**t))
                        / ((adamw_written(w, g, m, v, t, lr, d)[2] / (1 - 0.999**t)).sqrt() + 1e-8)
                    ),
                    *adamw_written(w, g, m, v, t, lr, d)[1:],
                ]
            ),
            likely("8.3", "not 1 - β^(t+1)"),
        ),
        "corrected moments": (adamw_moments_corrected, likely("8.3", "m and v that you return")),
        "t from 0": (
            lambda w, g, m, v, t, lr, d: adamw_written(w, g, m, v, t - 1, lr, d),
            likely("8.3", "1 - β^(t-1)"),
        ),
        "t from 0, torch's order": (
            lambda w, g, m, v, t, lr, d: adamw_in_torchs_order(w, g, m, v, t - 1, lr, d),
            likely("8.3", "1 - β^(t-1)"),
        ),  # and a ZeroDivisionError at t = 1
        "only m corrected": (
            lambda w, g, m, v, t, *a: adamw_with(w, g, m, v, t, *a, right_v=1),
            likely("8.3", "corrected and v is not"),
        ),
        "only v corrected": (
            lambda w, g, m, v, t, *a: adamw_with(w, g, m, v, t, *a, right_m=1),
            likely("8.3", "corrected and m is not"),
        ),
        "ε inside": (lambda *a: adamw_with(*a, root=lambda v: torch.sqrt(v + 1e-8)), likely("8.3", "outside the root")),
        "no ε": (lambda *a: adamw_with(*a, root=torch.sqrt), likely("8.3", "ε is missing")),
        "ε before the correction": (
            lambda w, g, m, v, t, *a: adamw_with(
                w, g, m, v, t, *a, root=lambda v: v.sqrt() + 1e-8 / math.sqrt(1 - 0.999**t)
            ),
            "numbers differ",
        ),
        "decay at the end": (
            lambda w, g, m, v, t, lr, d: torch.cat(
                [(1 - lr * d) * adamw(w, g, m, v, t, lr, 0)[:1], adamw(w, g, m, v, t, lr, d)[1:]]
            ),
            likely("8.3", "after the step"),
        ),
        "g, not g²": (lambda *a: adamw_with(*a, square=lambda g: g), likely("8.3", "the gradient itself")),
        "v, m": (lambda *a: adamw(*a)[[0, 2, 1]], likely("8.3", "the other way round")),
        "only the weight": (adamw_only_weight, "shape (2, 4), wanted (3, ...): weight, m, v = (3, 2, 4)"),
        "tuple": (lambda *a: tuple(adamw(*a)), "returned a tuple, not a tensor"),
        "order": (lambda *a: adamw(*a)[[1, 2, 0]], "numbers differ"),
        "in place": (adamw_in_place, "changes its input"),
    },
    "8.4": {
        "the others": (smooth_others, likely("8.4", "K - 1 other classes")),
        "true too small": (smooth_true_short, likely("8.4", "gets 1 - ε only")),
        "not smoothed": (lambda x, y, e: F.nll_loss(x.log_softmax(1), y), likely("8.4", "nothing is smoothed")),
        "exchanged": (lambda x, y, e: smooth(x, y, 1 - e), likely("8.4", "exchanged")),
        "sum": (lambda x, y, e: len(x) * smooth(x, y, e), likely("8.4", "are added")),
        "softmax twice": (
            lambda x, y, e: smooth(x.exp() / x.exp().sum(1, keepdim=True), y, e),
            likely("8.4", "applied twice"),
        ),
        "sign": (lambda x, y, e: -smooth(x, y, e), likely("8.4", "sign is missing")),
        "over clips": (lambda x, y, e: mean_nll(x.log_softmax(0), y, e), likely("8.4", "over the clips")),
        "not over K": (
            lambda x, y, e: -(x.log_softmax(1) * ((1 - e) * F.one_hot(y, x.shape[1]) + e)).sum(1).mean(),
            likely("8.4", "not divided by K"),
        ),
        "mean over K": (lambda x, y, e: smooth(x, y, e) / x.shape[-1], likely("8.4", "K times too small")),
        "number": (lambda x, y, e: smooth(x, y, e).item(), "no gradient reaches the input"),
        "each clip": (
            lambda x, y, e: F.cross_entropy(x, y, label_smoothing=e, reduction="none"),
            "shape (4,), wanted a single number, shape ()",
        ),
        "no graph": (lambda x, y, e: torch.tensor(smooth(x, y, e).item()), "no gradient reaches the input"),
        "NaN": (lambda x, y, e: smooth(x, y, e) * torch.nan, "got nan, wanted "),
    },
    "8.5": {
        "sum": (lambda n, limit: min(1.0, limit / sum(n.tolist())), likely("8.5", "norms are added")),
        "no root": (lambda n, limit: min(1.0, limit / float(n @ n)), likely("8.5", "root is missing: that")),
        "largest": (lambda n, limit: min(1.0, limit / max(n.tolist())), likely("8.5", "only the largest")),
        "mean": (lambda n, limit: min(1.0, limit * len(n) / n.sum().item()), likely("8.5", "mean of the norms")),
        "longer": (lambda n, limit: limit / float(n @ n) ** 0.5, likely("8.5", "made longer")),
        "upside down": (lambda n, limit: min(1.0, float(n @ n) ** 0.5 / limit), likely("8.5", "upside down")),
        "clipped norm": (lambda n, limit: min(limit, float(n @ n) ** 0.5), likely("8.5", "clipped norm")),
        "norm": (lambda n, limit: float(n @ n) ** 0.5, likely("8.5", "this is the norm, not")),
        "dropped": (
            lambda n, limit: limit / float(n @ n) ** 0.5 if float(n @ n) > limit**2 else 0.0,
            likely("8.5", "or are dropped"),
        ),
        "each": (
            lambda n, limit: (limit / n).clamp(max=1),
            "shape (2,), wanted a single number for all gradients, shape ()",
        ),
        "bool": (lambda n, limit: bool(n.norm() > limit), "returned a bool, not a tensor or a number"),
        "in place": (overwrite(lambda n, limit: (limit / n.norm()).clamp(max=1)), "changes its input"),
    },
    "8.6": training_step.WRONG_STEP,
    "8.7": {
        "mean": (lambda g, n: sum(g) / len(g), likely("8.7", "every rank counts the same")),
        "sum": (lambda g, n: torch.ones(len(g)) @ g, likely("8.7", "gradients are added")),
        "not divided": (lambda g, n: (n[:, None] * g).sum(0), likely("8.7", "is not divided")),
        "divided twice": (lambda g, n: (g * n[:, None] / n.sum()).mean(0), likely("8.7", "once more")),
        "by ranks": (lambda g, n: (g * n[:, None]).mean(0), likely("8.7", "divide by the number of clips")),
        "largest rank": (lambda g, n: g[n.tolist().index(n.max())], likely("8.7", "only the rank")),
        "each rank's": (lambda g, n: g * (n / n.sum())[:, None], "shape (2, 5), wanted (P,) = (5,)"),
        "sum of means": (lambda g, n: sum(g) / sum(n), likely("8.7", "added as they are")),
        "integers": (lambda g, n: n @ g / n.sum(), "  Likely: a matrix product wants one dtype on both sides"),
        "transposed": (lambda g, n: g @ n.float(), "raised RuntimeError"),
        "NaN": (lambda g, n: combine(g, n) * torch.nan, "got nan, wanted "),
        "in place": (overwrite(combine), "changes its input"),
    },
    "8.8": training_step.WRONG_SCORE,
}
