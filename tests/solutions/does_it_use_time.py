"""Right and wrong solutions of the exercises of notebook 09."""

import math
import statistics

import numpy as np
import torch

from vt_course.training.evaluate import reorder_frames
from vt_course.training.experiments.verdicts import verdict

from .common import likely, overwrite

# ---------------------------------------------------------------- right solutions


def permutations(index, seed, T):
    return torch.tensor(np.array([np.random.default_rng((seed, i)).permutation(T) for i in index]))  # (B, T)


def shuffle(clip, index, seed):
    orders = permutations(index, seed, clip.shape[2])
    return torch.stack([video[:, order] for video, order in zip(clip, orders)])


def shuffle_by_gather(clip, index, seed):
    orders = permutations(index, seed, clip.shape[2])
    return clip.gather(2, orders[:, None, :, None, None].expand_as(clip))


def shuffle_frame_by_frame(clip, index, seed):
    out = torch.empty_like(clip)
    for b, number in enumerate(index):
        for t, source in enumerate(np.random.default_rng([seed, number]).permutation(clip.shape[2])):
            out[b, :, t] = clip[b, :, source]
    return out


def shuffle_numpy(clip, index, seed):
    orders = permutations(index, seed, clip.shape[2]).numpy()
    moved = np.moveaxis(clip.numpy(), 2, 1)[np.arange(len(clip))[:, None], orders]  # (B, T, C, H, W)
    return torch.from_numpy(np.moveaxis(moved, 1, 2).copy())


def interval(first, second, t):
    d = second - first
    half = t * d.std() / math.sqrt(len(d))
    return torch.stack([d.mean() - half, d.mean() + half])


def interval_statistics(first, second, t):
    d = [b - a for a, b in zip(first.tolist(), second.tolist())]
    half = t * statistics.stdev(d) / len(d) ** 0.5
    return torch.tensor([statistics.fmean(d) - half, statistics.fmean(d) + half])


def interval_moments(first, second, t):
    d, n = (second - first).numpy(), len(first)
    error = np.sqrt((np.mean(d**2) - np.mean(d) ** 2) / (n - 1))
    return torch.from_numpy(d.mean() + t * error * np.array([-1, 1]))


def lost(in_order, swapped, chance):
    return (in_order.mean() - swapped.mean()) / (in_order.mean() - chance)


def lost_sums(in_order, swapped, chance):
    return float((in_order - swapped).sum() / (in_order - chance).sum())


def lost_kept(in_order, swapped, chance):
    return 1 - (np.mean(swapped.numpy()) - chance) / (np.mean(in_order.numpy()) - chance)


def judge(low, high, predicted):
    sign = (low > 0).int() - (high < 0).int()
    return torch.where(sign == 0, 0, torch.where(sign == predicted, 1, -1))


def judge_product(low, high, predicted):
    decided = low * high > 0
    return (decided * ((low.sign() == predicted) * 2 - 1)).long()


def judge_one_by_one(low, high, predicted):
    words = [verdict(int(p), float(a), float(b)) for a, b, p in zip(low, high, predicted)]
    return torch.tensor([(word == "agrees") - (word == "disagrees") for word in words])


RIGHT = {
    "9.1": {
        "index": shuffle,
        "gather": shuffle_by_gather,
        "frame by frame": shuffle_frame_by_frame,
        "NumPy": shuffle_numpy,
        "the package's": lambda clip, index, seed: reorder_frames(clip, index, "shuffled", seed),
    },
    "9.2": {"torch": interval, "statistics": interval_statistics, "moments": interval_moments},
    "9.3": {"means": lost, "sums": lost_sums, "what is kept": lost_kept},
    "9.4": {"signs": judge, "product": judge_product, "one by one": judge_one_by_one},
}

# ---------------------------------------------------------------- wrong solutions


def ordered(clip, orders):
    """The clips with the frames of each in the order that is given."""
    return torch.stack([video[:, torch.as_tensor(np.array(order))] for video, order in zip(clip, orders)])


def shuffle_with(clip, index, seed, draw):
    """`draw(rng, T)` gives the order of a clip."""
    rngs = [np.random.default_rng([seed, i]) for i in index]
    return ordered(clip, [draw(rng, clip.shape[2]) for rng in rngs])


def roll(clip, index, seed):
    shifts = [int(np.random.default_rng([seed, i]).integers(clip.shape[2])) for i in index]
    return torch.stack([video.roll(shift, 1) for video, shift in zip(clip, shifts)])


def tubes(rng, T):
    return np.arange(T).reshape(-1, 2)[rng.permutation(T // 2)].ravel()


def seeded(clip, keys):
    return ordered(clip, [np.random.default_rng(key).permutation(clip.shape[2]) for key in keys])


def shuffle_turn(clip, index, seed):
    rng = np.random.default_rng(seed)
    return ordered(clip, [rng.permutation(clip.shape[2]) for _ in index])


def shuffle_axis(axis):
    def function(clip, index, seed):
        rngs = [np.random.default_rng([seed, i]) for i in index]
        orders = [torch.from_numpy(rng.permutation(clip.shape[axis])) for rng in rngs]
        return torch.stack([video.index_select(axis - 1, order) for video, order in zip(clip, orders)])

    return function


def shuffle_colours(clip, index, seed):
    out = clip.clone()
    for b, i in enumerate(index):
        rng = np.random.default_rng([seed, i])
        for c in range(clip.shape[1]):
            out[b, c] = clip[b, c][torch.from_numpy(rng.permutation(clip.shape[2]))]
    return out


def around(middle, half):
    return torch.stack([middle - half, middle + half])


def verdicts(rule):
    """`rule(low, high, predicted)` says one verdict."""
    return lambda low, high, predicted: torch.tensor(
        [rule(*each) for each in zip(low.tolist(), high.tolist(), predicted.tolist())]
    )


WRONG = {
    "9.1": {
        "one order": (lambda c, i, s: seeded(c, [s] * len(i)), likely("9.1", "every clip gets the same order")),
        "of the first": (lambda c, i, s: seeded(c, [(s, i[0])] * len(i)), likely("9.1", "order of the first")),
        "by place": (lambda c, i, s: seeded(c, [(s, k) for k in range(len(i))]), likely("9.1", "place in the batch")),
        "added": (lambda c, i, s: seeded(c, [s + k for k in i]), likely("9.1", "are added")),
        "exchanged": (lambda c, i, s: seeded(c, [(k, s) for k in i]), likely("9.1", "[number, seed]; it")),
        "number alone": (lambda c, i, s: seeded(c, list(i)), likely("9.1", "is left out")),
        "nothing": (lambda c, i, s: c, likely("9.1", "stay in order")),
        "backwards": (lambda c, i, s: c.flip(2), likely("9.1", "run backwards")),
        "rolled": (roll, likely("9.1", "rolled round")),
        "tubes": (lambda *a: shuffle_with(*a, tubes), likely("9.1", "whole tubes")),
        "repeats": (lambda *a: shuffle_with(*a, lambda rng, T: rng.integers(T, size=T)), likely("9.1", "with repeats")),
        "inverse": (
            lambda *a: shuffle_with(*a, lambda rng, T: rng.permutation(T).argsort()),
            likely("9.1", "inverse permutation"),
        ),
        "one frame": (
            lambda *a: shuffle_with(*a, lambda rng, T: [rng.integers(T)] * T),
            likely("9.1", "one frame is repeated"),
        ),
        "rows": (shuffle_axis(3), likely("9.1", "the rows of the picture")),
        "columns": (shuffle_axis(4), likely("9.1", "the columns of the picture")),
        "colours apart": (shuffle_colours, likely("9.1", "each colour is shuffled")),
        "in turn": (shuffle_turn, likely("9.1", "one generator draws")),
        "frames first": (
            lambda *a: shuffle(*a).transpose(1, 2),
            "  Likely: your axes are in another order: finish with",
        ),
        "in place": (overwrite(shuffle), "changes its input"),
    },
    "9.2": {
        "sign": (lambda a, b, t: interval(b, a, t), likely("9.2", "wrong sign")),
        "unpaired": (
            lambda a, b, t: around(b.mean() - a.mean(), t * ((a.var() + b.var()) / len(a)) ** 0.5),
            likely("9.2", "no seed in common"),
        ),
        "n": (
            lambda a, b, t: around((b - a).mean(), t * float(np.std((b - a).numpy())) / math.sqrt(len(a))),
            likely("9.2", "divided by n: divide by n - 1"),
        ),
        "no root of n": (lambda a, b, t: around((b - a).mean(), t * (b - a).std()), likely("9.2", "not divided by √n")),
        "by n": (
            lambda a, b, t: around((b - a).mean(), t * (b - a).std() / len(a)),
            likely("9.2", "divided by n: divide by √n"),
        ),
        "1.96": (lambda a, b, t: interval(a, b, 1.96), likely("9.2", "1.96")),
        "no t": (lambda a, b, t: interval(a, b, 1), likely("9.2", "t is missing")),
        "variance": (
            lambda a, b, t: around((b - a).mean(), t * (b - a).var() / len(a) ** 0.5),
            likely("9.2", "not its root"),
        ),
        "median": (
            lambda a, b, t: around((b - a).median(), t * (b - a).std() / len(a) ** 0.5),
            likely("9.2", "the median"),
        ),
        "sorted": (
            lambda a, b, t: interval(torch.tensor(sorted(a)), torch.tensor(sorted(b)), t),
            likely("9.2", "are sorted first"),
        ),
        "high first": (lambda a, b, t: interval(a, b, t).flip(0), likely("9.2", "low first")),
        "mean and half": (
            lambda a, b, t: torch.stack([(b - a).mean(), t * (b - a).std() / len(a) ** 0.5]),
            likely("9.2", "half the width"),
        ),
        "tuple": (lambda a, b, t: tuple(interval(a, b, t)), "returned a tuple, not a tensor"),
        "one end": (lambda a, b, t: interval(a, b, t)[0], "shape (), wanted low and high, (2,)"),
    },
    "9.3": {
        "sign": (lambda a, b, c: -lost(a, b, c), likely("9.3", "wrong sign")),
        "of the accuracy": (lambda a, b, c: 1 - b.mean() / a.mean(), likely("9.3", "the accuracy itself")),
        "points": (lambda a, b, c: (a - b).mean(), likely("9.3", "is not divided")),
        "of all": (lambda a, b, c: (a - b).mean() / (1 - c), likely("9.3", "divided by 1 - chance")),
        "kept": (lambda a, b, c: (b.mean() - c) / (a.mean() - c), likely("9.3", "what is left above chance: wanted")),
        "each seed": (lambda a, b, c: ((a - b) / (a - c)).mean(), likely("9.3", "share of each seed")),
        "one seed": (lambda a, b, c: lost(a[:1], b[:1], c), likely("9.3", "only the first seed")),
        "best seed": (lambda a, b, c: (max(a) - max(b)) / (max(a) - c), likely("9.3", "only the best seed")),
        "percent": (lambda a, b, c: 100 * lost(a, b, c), likely("9.3", "in percent")),
        "clamped": (lambda a, b, c: max(0.0, float(lost(a, b, c))), likely("9.3", "cut off by")),
        "all seeds": (lambda a, b, c: (a - b) / (a - c), "shape (5,), wanted a single number, shape ()"),
    },
    "9.4": {
        "middle": (
            verdicts(lambda a, b, p: 1 if ((a + b) > 0) - ((a + b) < 0) == p else -1),
            likely("9.4", "the sign of the middle"),
        ),
        "touching": (
            verdicts(lambda a, b, p: 0 if a < 0 < b else 1 if (1 if a >= 0 else -1) == p else -1),
            "numbers differ, first at index (6,): got 1, wanted 0",
        ),
        "only above": (
            verdicts(lambda a, b, p: (1 if p > 0 else -1) if a > 0 else 0),
            likely("9.4", "interval above 0 is"),
        ),
        "only below": (
            verdicts(lambda a, b, p: (1 if p < 0 else -1) if b < 0 else 0),
            likely("9.4", "interval below 0 is"),
        ),
        "no evidence": (lambda *a: torch.where(judge(*a) > 0, 1, -1), likely("9.4", "not evidence against")),
        "proof of nothing": (
            lambda low, high, p: torch.where((judge(low, high, p) == 0) & (p == 0), 1, judge(low, high, p)),
            likely("9.4", "proof that there is no"),
        ),
        "exchanged": (lambda *a: -judge(*a), likely("9.4", "are exchanged")),
        "always": (lambda low, high, p: ((low > 0) | (high < 0)).long(), likely("9.4", "comparison agrees")),
        "no difference agrees": (
            lambda low, high, p: torch.where((p == 0) & ((low > 0) | (high < 0)), 1, judge(low, high, p)),
            likely("9.4", "it cannot agree"),
        ),
        "product": (
            lambda low, high, p: ((low > 0).int() - (high < 0).int()) * p,
            likely("9.4", "the product of sign and prediction"),
        ),
        "never": (lambda low, high, p: torch.zeros(len(p)).long(), likely("9.4", "nothing is ever decided")),
        "floats": (lambda *a: judge(*a).float(), "dtype torch.float32, wanted torch.int64"),
        "words": (lambda *a: ["agrees"] * len(a[0]), "returned a list, not a tensor"),
    },
}
