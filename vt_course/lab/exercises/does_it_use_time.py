"""Notebook 09: a control without a leak, a paired interval, a share that is lost, a verdict."""

import math

import numpy as np
import torch

from vt_course.lab.exercise import Exercise
from vt_course.lab.kinds.operations import Choices
from vt_course.training.evaluate import reorder_frames
from vt_course.training.experiments.statistics import compare
from vt_course.training.experiments.verdicts import AGREES, DISAGREES, verdict

EXERCISES: dict[str, Exercise] = {}


# ---------------------------------------------------------------- 9.1: frames without order


def shuffle_literal(clip, index, seed):
    """One clip and one frame at a time."""
    out = torch.zeros_like(clip)
    T = clip.shape[2]
    for place, number in enumerate(index):
        order = np.random.default_rng([seed, number]).permutation(T)
        for t in range(T):
            out[place, :, t] = clip[place, :, order[t]]
    return out  # (B, C, T, H, W)


def shuffle_of(clip, index, seed):
    """The package's shuffled frames."""
    return reorder_frames(clip, index, "shuffled", seed)


def shuffle_like(clip, index, seed, *, key=None, frames=None, axis=2):
    """The clips in which the steps that are given replace the right ones."""
    out = []
    for place, number in enumerate(index):
        rng = np.random.default_rng([seed, number] if key is None else key(seed, number, place, index))
        T = clip.shape[axis]
        order = rng.permutation(T) if frames is None else frames(rng, T)
        out.append(clip[place].index_select(axis - 1, torch.from_numpy(np.array(order))))
    return torch.stack(out)


def tubes_permuted(rng, T):
    pairs = [list(range(T))[i : i + 2] for i in range(0, T, 2)]
    return [t for k in rng.permutation(len(pairs)) for t in pairs[k]]


def shuffle_channels(clip, index, seed):
    out = torch.zeros_like(clip)
    for place, number in enumerate(index):
        rng = np.random.default_rng([seed, number])
        for c in range(clip.shape[1]):
            out[place, c] = clip[place, c, torch.from_numpy(rng.permutation(clip.shape[2]))]
    return out


SHUFFLES = Choices(
    shuffle_like,
    {
        "key": (
            (
                "every clip gets the same order, that of [seed]: a model can learn one new order as well as the old "
                "one. The number of the clip belongs into the seed, [seed, number]",
                lambda seed, number, place, index: [seed],
            ),
            (
                "all clips of a batch get the order of the first: seed a generator for each, with [seed, number]",
                lambda seed, number, place, index: [seed, index[0]],
            ),
            (
                "the generator is seeded with the place in the batch, so another batch gives another order: use "
                "its number, index[place]",
                lambda seed, number, place, index: [seed, place],
            ),
            (
                "seed and number are added: clip 1 of seed 0 gets the order of clip 0 of seed 1. Give the list "
                "[seed, number]",
                lambda seed, number, place, index: seed + number,
            ),
            (
                "the list is [number, seed]; it must be [seed, number]",
                lambda seed, number, place, index: [number, seed],
            ),
            (
                "the seed of the experiment is left out: every seed would test the same orders",
                lambda seed, number, place, index: [number],
            ),
        ),
        "frames": (
            ("the frames stay in order: nothing is shuffled", lambda rng, T: np.arange(T)),
            (
                "the frames run backwards. That is one order for all clips: each motion looks like its partner, and "
                "a model reads it in full",
                lambda rng, T: np.arange(T)[::-1],
            ),
            (
                "the frames are rolled round, and neighbours stay neighbours: the direction of the motion leaks",
                lambda rng, T: np.roll(np.arange(T), rng.integers(T)),
            ),
            ("whole tubes change their places: the order of the two frames inside each leaks", tubes_permuted),
            (
                "frames are drawn with repeats, by `integers` or `choice`: the clip loses frames, and with them what "
                "a set of frames tells. Use `permutation`",
                lambda rng, T: rng.integers(0, T, T),
            ),
            (
                "the order is the inverse permutation (an `argsort` too many): frame t of the result must be frame "
                "order[t] of the clip",
                lambda rng, T: np.argsort(rng.permutation(T)),
            ),
            (
                "one frame is repeated: that is the control for one frame, and no set of frames",
                lambda rng, T: np.full(T, rng.integers(T)),
            ),
        ),
        "axis": (
            ("the rows of the picture are shuffled: time is axis 2 of (B, C, T, H, W)", 3),
            ("the columns of the picture are shuffled: time is axis 2 of (B, C, T, H, W)", 4),
            ("the colours are shuffled: time is axis 2 of (B, C, T, H, W)", 1),
        ),
    },
)

EXERCISES["9.1"] = Exercise(
    "frames without order",
    shuffle_literal,
    lambda: [
        (torch.randn(2, 3, 8, 2, 5), [4, 5], 0),
        (torch.randn(3, 1, 8, 3, 2), [0, 7, 31], 1),
        (torch.randn(1, 2, 6, 1, 1), [3], 7),
    ],
    lambda clip, index, seed: "(B, C, T, H, W)",
    (
        ("each colour is shuffled for itself: then no frame of the result is a frame of the clip", shuffle_channels),
        (
            "one generator draws the orders of all clips in turn, so an order depends on the clips before: each clip "
            "needs a fresh one, of [seed, number]",
            lambda clip, index, seed: in_turn(clip, np.random.default_rng(seed)),
        ),
    ),
    piece=shuffle_of,
    more=lambda: [(torch.randn(2, 2, 4 + k, 3, 4), [3 * k, 11 + k], k) for k in range(8)],
    kinds=(SHUFFLES,),
)


def in_turn(clip, rng):
    return torch.stack([video[:, torch.from_numpy(rng.permutation(clip.shape[2]))] for video in clip])


# ---------------------------------------------------------------- 9.2: a paired interval


def interval_literal(first, second, t):
    """The mean of the differences, and t times its standard error on both sides."""
    n = len(first)
    differences = [b - a for a, b in zip(first.tolist(), second.tolist())]
    mean = sum(differences) / n
    variance = sum((d - mean) ** 2 for d in differences) / (n - 1)
    half = t * math.sqrt(variance / n)
    return torch.tensor([mean - half, mean + half], dtype=torch.float64)


def interval_of(first, second, t):
    """The package's interval. It finds t itself; this one is stretched to the t that is asked for."""
    from vt_course.training.experiments.statistics import t_quantile

    found = compare(dict(enumerate(second.tolist())), dict(enumerate(first.tolist())))
    half = (found["high"] - found["low"]) / 2 * t / t_quantile(len(first) - 1)
    return torch.tensor([found["mean"] - half, found["mean"] + half], dtype=torch.float64)


def interval_like(first, second, t, *, difference=None, spread=None, error=None, factor=None, centre=None, ends=None):
    """The interval in which the steps that are given replace the right ones."""
    n = len(first)
    d = second - first if difference is None else difference(first, second)
    s = d.std() if spread is None else spread(d, first, second)
    e = s / math.sqrt(n) if error is None else error(s, n)
    half = (t if factor is None else factor(t)) * e
    middle = d.mean() if centre is None else centre(d)
    return torch.stack([middle - half, middle + half] if ends is None else ends(middle, half))


INTERVALS = Choices(
    interval_like,
    {
        "difference": (
            ("the difference has the wrong sign: it is second - first", lambda a, b: a - b),
            ("the sizes of the differences are taken, without their signs: drop `abs`", lambda a, b: (b - a).abs()),
            ("the difference is divided by the first: wanted are points, second - first", lambda a, b: (b - a) / a),
        ),
        "spread": (
            (
                "the two variants are treated as if they had no seed in common: √(var + var). Take the difference of "
                "each seed first, then the standard deviation of the differences",
                lambda d, a, b: (a.var() + b.var()).sqrt(),
            ),
            (
                "the sum of squares is divided by n: divide by n - 1, because the mean comes from the same numbers",
                lambda d, a, b: d.std(correction=0),
            ),
            ("this is the variance of the differences, not its root", lambda d, a, b: d.var()),
            ("the spread is that of the second variant alone", lambda d, a, b: b.std()),
            ("the spread is that of the first variant alone", lambda d, a, b: a.std()),
            ("the spread is the range, largest minus smallest", lambda d, a, b: d.max() - d.min()),
            ("the differences of the two standard deviations is no spread", lambda d, a, b: (b.std() - a.std()).abs()),
        ),
        "error": (
            (
                "the standard deviation is not divided by √n: that tells of one more run, not of the mean",
                lambda s, n: s,
            ),
            ("the standard deviation is divided by n: divide by √n", lambda s, n: s / n),
            ("the standard deviation is divided by √(n - 1): divide by √n", lambda s, n: s / math.sqrt(n - 1)),
        ),
        "factor": (
            (
                "1.96 is the number for many runs: with few, the spread itself is uncertain, and t is larger",
                lambda t: 1.96,
            ),
            ("2 stands in place of t", lambda t: 2.0),
            ("t is missing: this is one standard error on both sides", lambda t: 1.0),
            ("t is halved: it already belongs to both sides together", lambda t: t / 2),
        ),
        "centre": (("the middle is the median: take the mean", lambda d: d.median()),),
        "ends": (
            ("the ends are exchanged: low first", lambda m, h: [m + h, m - h]),
            ("you return mean and half the width; wanted are low and high", lambda m, h: [m, h]),
        ),
    },
)


def pairs_of(n, seed):
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(n, generator=generator, dtype=torch.float64)
    second = first + 0.1 * torch.randn(n, generator=generator, dtype=torch.float64) - 0.05
    return first, second, {2: 12.706, 3: 4.303, 5: 2.776, 10: 2.262}[n]


EXERCISES["9.2"] = Exercise(
    "a paired interval",
    interval_literal,
    lambda: [pairs_of(3, 0), pairs_of(5, 1), pairs_of(10, 2)],
    lambda first, second, t: "low and high, (2,)",
    (
        (
            "the seeds are sorted first: then the pairs no longer have a seed in common",
            lambda a, b, t: interval_literal(a.sort().values, b.sort().values, t),
        ),
    ),
    piece=interval_of,
    more=lambda: [pairs_of(n, seed) for seed in range(3, 7) for n in (3, 5, 10)],
    kinds=(INTERVALS,),
)


# ---------------------------------------------------------------- 9.3: what is lost inside tubes


def lost_literal(in_order, swapped, chance):
    """Of what stands above chance with frames in order, the share that the swap takes."""
    n = len(in_order)
    before = sum(in_order.tolist()) / n
    after = sum(swapped.tolist()) / n
    return torch.tensor((before - after) / (before - chance), dtype=torch.float64)


def lost_like(in_order, swapped, chance, *, top=None, bottom=None, mean=None, finish=None):
    """The share in which the steps that are given replace the right ones."""
    take = (lambda x: x.mean()) if mean is None else mean
    a, b = take(in_order), take(swapped)
    share = (a - b if top is None else top(a, b, chance)) / (a - chance if bottom is None else bottom(a, b, chance))
    return share if finish is None else finish(share)


LOST = Choices(
    lost_like,
    {
        "top": (
            ("the loss has the wrong sign: in order minus swapped", lambda a, b, c: b - a),
            ("the top is what is left, not what is lost: in order minus swapped", lambda a, b, c: b),
            ("the top is what is left above chance: wanted is what is lost", lambda a, b, c: b - c),
            ("chance is taken off the loss: it is in both, and cancels", lambda a, b, c: a - b - c),
        ),
        "bottom": (
            (
                "the loss is divided by the accuracy itself: a model at chance reads nothing, so divide by what stands "
                "above chance",
                lambda a, b, c: a,
            ),
            ("the loss is not divided: wanted is a share, not points", lambda a, b, c: 1),
            (
                "the loss is divided by 1 - chance: divide by what this model reads, its accuracy minus chance",
                lambda a, b, c: 1 - c,
            ),
            ("the loss is divided by what is left above chance: divide by what there was", lambda a, b, c: b - c),
            ("chance is added, not taken off", lambda a, b, c: a + c),
        ),
        "mean": (
            ("the seeds are added, not averaged", lambda x: x.sum()),
            ("only the first seed is used", lambda x: x[0]),
            ("only the best seed is used: that is how one fools oneself", lambda x: x.max()),
            ("the median of the seeds is used: take the mean", lambda x: x.median()),
        ),
        "finish": (
            ("your result is in percent; a share lies between 0 and 1", lambda s: 100 * s),
            ("your result is what is left; wanted is what is lost, 1 minus yours", lambda s: 1 - s),
            ("the sign is cut off by `abs` or `clamp`: a swap may also help", lambda s: s.clamp(min=0)),
        ),
    },
)


def accuracies_of(n, low, high, seed, better=False):
    generator = torch.Generator().manual_seed(seed)
    in_order = low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64)
    kept = 0.3 + 0.5 * torch.rand(n, generator=generator, dtype=torch.float64)
    return in_order, in_order + 0.02 if better else in_order * kept, 0.125


EXERCISES["9.3"] = Exercise(
    "what the swap takes",
    lost_literal,
    lambda: [accuracies_of(5, 0.9, 1.0, 0), accuracies_of(3, 0.4, 0.7, 1), accuracies_of(4, 0.6, 0.8, 2, better=True)],
    lambda in_order, swapped, chance: "a single number, shape ()",
    (
        (
            "the share of each seed is computed first, then averaged: average the accuracies first, as a seed near "
            "chance would divide by almost 0",
            lambda a, b, c: ((a - b) / (a - c)).mean(),
        ),
    ),
    piece=lost_literal,
    more=lambda: [accuracies_of(n, 0.3, 0.9, seed, seed % 3 == 0) for seed in range(3, 8) for n in (3, 5)],
    kinds=(LOST,),
)


# ---------------------------------------------------------------- 9.4: the verdict


def judge_literal(low, high, predicted):
    """One comparison at a time: 1 agrees, -1 disagrees, 0 undecided."""
    out = []
    for a, b, sign in zip(low.tolist(), high.tolist(), predicted.tolist()):
        if a <= 0 <= b:
            out.append(0)
        else:
            out.append(1 if (a > 0 and sign > 0) or (b < 0 and sign < 0) else -1)
    return torch.tensor(out)  # (n,)


def judge_of(low, high, predicted):
    """The package's verdict, as numbers."""
    numbers = {AGREES: 1, DISAGREES: -1}
    triples = zip(predicted.tolist(), low.tolist(), high.tolist())
    return torch.tensor([numbers.get(verdict(*each), 0) for each in triples])


def judge_like(low, high, predicted, *, decided=None, side=None, same=None):
    """The verdicts in which the steps that are given replace the right ones."""
    sure = (low > 0) | (high < 0) if decided is None else decided(low, high)
    sign = torch.where(low > 0, 1, -1) if side is None else side(low, high)
    agrees = sign == predicted if same is None else same(sign, predicted)
    return torch.where(sure, torch.where(agrees, 1, -1), 0)


VERDICTS = Choices(
    judge_like,
    {
        "decided": (
            (
                "the interval is not looked at: where it contains 0 the comparison is undecided, whatever its middle",
                lambda low, high: torch.ones_like(low, dtype=torch.bool),
            ),
            (
                "an interval that ends at 0 contains it: undecided. Use < and >, not <= and >=",
                lambda low, high: (low >= 0) | (high <= 0),
            ),
            ("only an interval above 0 is decided: one below 0 is, too", lambda low, high: low > 0),
            ("only an interval below 0 is decided: one above 0 is, too", lambda low, high: high < 0),
            (
                "an interval that contains 0 is called decided: it is the other way round",
                lambda low, high: (low <= 0) & (high >= 0),
            ),
            (
                "nothing is ever decided: low > 0 and high < 0 cannot both hold; use `or`",
                lambda low, high: (low > 0) & (high < 0),
            ),
        ),
        "side": (
            ("the side is turned round: above 0 means higher", lambda low, high: torch.where(low > 0, -1, 1)),
            ("every decided comparison is taken as higher", lambda low, high: torch.ones_like(low).long()),
        ),
        "same": (
            ("agrees and disagrees are exchanged", lambda sign, predicted: sign != predicted),
            ("every decided comparison agrees: look at what was predicted", lambda sign, predicted: sign == sign),
            (
                "a prediction of 0, no difference, is contradicted by an interval beside 0: it cannot agree",
                lambda sign, predicted: (sign == predicted) | (predicted == 0),
            ),
        ),
    },
)


def undecided_disagree(low, high, predicted):
    return torch.where(judge_literal(low, high, predicted) > 0, 1, -1)


def none_confirmed(low, high, predicted):
    said = judge_literal(low, high, predicted)
    return torch.where((predicted == 0) & (said == 0), 1, said)


def judgements(seed, n=8):
    generator = torch.Generator().manual_seed(seed)
    middle, half = (torch.randn(n, generator=generator) for _ in range(2))
    return middle - half.abs() / 2, middle + half.abs(), torch.randint(-1, 2, (n,), generator=generator)


EXERCISES["9.4"] = Exercise(
    "the verdict",
    judge_literal,
    lambda: [
        (
            torch.tensor([0.5, 0.5, -2.0, -2.0, -1.0, -1.0, 0.0, -2.0, 0.5, -1.0]),
            torch.tensor([2.0, 2.0, -0.5, -0.5, 3.0, 0.4, 1.0, 0.0, 1.0, 2.0]),
            torch.tensor([1, -1, -1, 1, 1, 1, 1, -1, 0, 0]),
        ),
        judgements(0),
        judgements(1),
    ],
    lambda low, high, predicted: f"(n,) = ({len(low)},)",
    (
        (
            "where the interval contains 0 you say that it disagrees: no evidence for is not evidence against, it is "
            "undecided",
            undecided_disagree,
        ),
        (
            "an interval around 0 is taken as proof that there is no difference: a small one may hide in it, so it is "
            "undecided",
            none_confirmed,
        ),
        (
            'the product of sign and prediction is 0 where the prediction is 0: an interval beside 0 contradicts "no '
            'difference", -1',
            lambda low, high, predicted: ((low > 0).long() - (high < 0).long()) * predicted,
        ),
        (
            "the sign of the middle is judged where the interval contains 0, too",
            lambda low, high, predicted: torch.where(((low + high) / 2).sign() == predicted, 1, -1),
        ),
    ),
    piece=judge_of,
    more=lambda: [judgements(seed) for seed in range(2, 12)],
    kinds=(VERDICTS,),
)
