"""Right and wrong solutions of the exercises of notebook 10."""

from math import prod

import numpy as np
import torch

from vt_course.models.swin import SwinTransformer
from vt_course.models.video_swin import SwinTransformer3D

from .common import likely

# ---------------------------------------------------------------- right solutions


def block(C, heads, window):
    rows = 1
    for n in window:
        rows *= 2 * n - 1
    return 12 * C**2 + 13 * C + rows * heads


def size(dim, depths, heads, window, patch, classes):
    total, C = 3 * prod(patch) * dim + 3 * dim, dim
    for i, (n, h) in enumerate(zip(depths, heads)):
        if i:
            total += 8 * C + 8 * C**2
            C *= 2
        total += n * block(C, h, window)
    return total + 2 * C + C * classes + classes


def size_tensor(dim, depths, heads, window, patch, classes):
    C = dim * 2 ** torch.arange(len(depths))
    n, h = torch.tensor(depths), torch.tensor(heads)
    rows = torch.tensor([2 * w - 1 for w in window]).prod()
    blocks = n * (12 * C**2 + 13 * C + rows * h)
    merge = (8 * C**2 + 8 * C)[:-1]
    pixels = torch.tensor(patch).prod()
    return blocks.sum() + merge.sum() + (3 * pixels + 3) * dim + C[-1] * (classes + 2) + classes


def size_built(dim, depths, heads, window, patch, classes):
    same = dict(embed_dim=dim, depths=depths, num_heads=heads, window=window, num_classes=classes)
    with torch.device("meta"):
        if len(window) == 2:
            model = SwinTransformer(img_size=2000, patch_size=patch, **same)
        else:
            model = SwinTransformer3D(patch=patch, **same)
    return sum(p.numel() for p in model.parameters())


def fits(stated, values):
    rows = []
    for text in stated:
        digits = len(text.partition(".")[2])
        rows.append((values - float(text)).abs() <= 0.5 * 10**-digits)
    return torch.stack(rows)


def fits_printed(stated, values):
    def printed(value, text):
        return f"{value:.{len(text.split('.')[1]) if '.' in text else 0}f}" == text

    return torch.tensor([[printed(value, text) for value in values.tolist()] for text in stated])


def fits_numpy(stated, values):
    digits = np.array([len(text.partition(".")[2]) for text in stated])[:, None]
    numbers = np.array([float(text) for text in stated])[:, None]
    return torch.from_numpy(np.abs(values.numpy()[None] - numbers) * 10.0**digits <= 0.5)


def claim(**changes):
    told = {
        "id": "one-more",
        "paper": "Swin",
        "where": "section 3.2",
        "claim": "Windows of 2 x 3 that are shifted cut 6 x 9 tokens into 16.",
        "check": "groups_that_see_each_other",
        "with": {"window": [2, 3], "shift": [1, 1], "size": [6, 9]},
        "stated": 16,
        "teaches": "03, section 5",
    }
    return {**told, **changes}


def still(change, models):
    real = models.swin.clamp_window
    change.set(
        models.swin, "clamp_window", lambda size, window, shift: (real(size, window, shift)[0], (0,) * len(size))
    )


def windows():
    return claim(), still


def tube():
    told = claim(
        id="tube-of-9",
        paper="UniFormer",
        claim="A tube of 9 sees 729 tokens.",
        check="relation_reach",
        stated=729,
        teaches="07, section 2",
        **{"with": {"tube": 9, "size": [11, 11, 11]}},
    )

    def fault(change, models):
        real = models.uniformer.Depthwise.forward

        def forward(conv, x):
            conv.weight.data[..., 0] = 0  # the first column of each filter
            return real(conv, x)

        change.set(models.uniformer.Depthwise, "forward", forward)

    return told, fault


def joint():
    told = claim(
        id="joint-keys-of-4-frames",
        paper="TimeSformer",
        claim="With 4 frames, joint attention compares 785 tokens.",
        check="attention",
        stated=[785],
        teaches="06, section 3",
        **{
            "with": {
                "model": "timesformer_joint_8x224",
                "what": "keys",
                "settings": {"num_frames": 4},
                "size": [3, 4, 224, 224],
            }
        },
    )

    def fault(change, models):
        change.entry(models.timesformer.SCHEMES, "joint", ("temporal", "space"))

    return told, fault


RIGHT = {
    "10.1": {"by hand": size, "tensors": size_tensor, "built": size_built},
    "10.2": {"half a unit": fits, "printed": fits_printed, "NumPy": fits_numpy},
    "10.3": {"windows": windows, "tube": tube, "joint": joint},
}

# ---------------------------------------------------------------- wrong solutions


def sized(
    block=block, embed=lambda patch, C: 3 * prod(patch) * C + 3 * C, merge=lambda C: 8 * C + 8 * C**2, end=2, grow=2
):
    """The sum with other parts."""

    def function(dim, depths, heads, window, patch, classes):
        total, C = embed(patch, dim), dim
        for i, (n, h) in enumerate(zip(depths, heads)):
            if i:
                total += merge(C)
                C *= grow
            total += n * block(C, h, window)
        return total + end * C + C * classes + classes

    return function


def offsets(rows):
    return sized(lambda C, heads, window: 12 * C**2 + 13 * C + rows(window) * heads)


def fitting(rule):
    """`rule(value, number, digits)` says whether a value fits."""
    return lambda stated, values: torch.tensor(
        [[bool(rule(v, float(t), len(t.partition(".")[2]))) for v in values.tolist()] for t in stated]
    )


def told(changes=None, fault=still, **more):
    return lambda: (claim(**(changes or {}), **more), fault)


def stopped(change, models):
    change.set(models.swin.WindowAttention, "forward", None)


def assigned(change, models):
    real = models.swin.clamp_window
    models.swin.clamp_window = lambda size, window, shift: (real(size, window, shift)[0], (0,) * len(size))


def scorched(change, models):
    still(change, models)
    for part in (models.mvit.PoolingAttention, models.timesformer.Block, models.uniformer.LocalBlock):
        change.set(part, "forward", lambda self, x, *more: x)
    change.set(models.timesformer.Attention, "forward", lambda self, x: 0 * x)
    change.set(models.uniformer.Depthwise, "forward", lambda self, x: x)


WRONG = {
    "10.1": {
        "no biases of qkv": (
            sized(lambda C, heads, window: 12 * C**2 + 10 * C + prod(2 * n - 1 for n in window) * heads),
            likely("10.1", "keys and values have a bias"),
        ),
        "rows for tokens": (offsets(prod), likely("10.1", "not for each token")),
        "2w": (
            offsets(lambda window: prod(2 * n for n in window)),
            "  Likely: along an axis of w tokens there are 2w - 1 offsets, not 2w\n",
        ),
        "pairs": (offsets(lambda window: prod(window) ** 2), likely("10.1", "each pair of tokens")),
        "no tables": (offsets(lambda window: 0), likely("10.1", "the bias tables are missing")),
        "one head": (
            sized(lambda C, heads, window: 12 * C**2 + 13 * C + prod(2 * n - 1 for n in window)),
            likely("10.1", "a column for each head"),
        ),
        "merging with a bias": (sized(merge=lambda C: 8 * C + 8 * C**2 + 2 * C), likely("10.1", "merging has no bias")),
        "no norm in merging": (sized(merge=lambda C: 8 * C**2), likely("10.1", "so it has 8C numbers")),
        "no last norm": (sized(end=0), likely("10.1", "the last norm is missing")),
        "grey patches": (
            sized(embed=lambda patch, C: prod(patch) * C + 3 * C),
            likely("10.1", "colours are forgotten"),
        ),
        "same width": (sized(grow=1), likely("10.1", "channels stay the same")),
        "in millions": (lambda *args: size(*args) / 1e6, "wanted"),
    },
    "10.2": {
        "1 %": (fitting(lambda v, x, n: abs(v - x) <= 0.01 * x), likely("10.2", "you allow 1 %")),
        "whole units": (
            fitting(lambda v, x, n: abs(v - x) <= 10**-n),
            likely("10.2", "a whole unit of the last digit"),
        ),
        "one digit": (fitting(lambda v, x, n: abs(v - x) <= 0.05), likely("10.2", "you round everything to one digit")),
        "whole numbers": (fitting(lambda v, x, n: abs(v - x) <= 0.5), likely("10.2", "everything to whole numbers")),
        "equal": (fitting(lambda v, x, n: v == x), likely("10.2", "you ask for equal numbers")),
        "one side": (fitting(lambda v, x, n: 0 <= v - x <= 0.5 * 10**-n), likely("10.2", "only values above")),
        "no abs": (
            fitting(lambda v, x, n: v - x <= 0.5 * 10**-n),
            likely("10.2", "a large difference with a minus sign"),
        ),
        "cut": (fitting(lambda v, x, n: int(v * 10**n) == round(x * 10**n)), likely("10.2", "you cut digits off")),
        "exchanged": (lambda s, v: ~fits(s, v), likely("10.2", "true and false are exchanged")),
        "transposed": (lambda s, v: fits(s, v).T, "  Likely: your axes are in another order: finish with"),
        "numbers": (lambda s, v: fits(s, v).double(), "dtype torch.float64, wanted torch.bool"),
    },
    "10.3": {
        "no fault": (
            told(fault=lambda change, models: None),
            "  Likely: your claim stays green with the fault in place: the fault changes nothing that this check runs",
        ),
        "stops": (told(fault=stopped), "  Likely: with the fault the check ends in an error instead of another value"),
        "assigned": (told(fault=assigned), "  Likely: the fault stays when it should be gone"),
        "all red": (told(fault=scorched), "  Likely: the fault breaks other papers' claims as well"),
        "does not hold": (
            told(stated=12),
            "  Likely: the claim does not hold for the code as it is: run its check first",
        ),
        "of the fault": (
            told(stated=9),
            "  Likely: the claim does not hold for the code as it is, but with your fault",
        ),
        "arguments": (told({"with": {"window": [2, 3]}}), "  Likely: the check ends in an error for the code as it is"),
        "known": (
            told({"with": {"window": [4, 4], "shift": [2, 2], "size": [8, 8]}}),
            "the ledger has this claim already, as swin-9-windows",
        ),
        "known id": (told(id="swin-9-windows"), "the ledger has this claim already, as swin-9-windows"),
        "no check": (told(check="windows"), "unknown check 'windows'"),
        "dead link": (told(teaches="03, section 99"), "dead link, there is no 03, section 99"),
        "no paper": (told(paper="swin"), "paper must be one of Swin, Video Swin"),
        "exchanged": (lambda: (still, claim()), "return two things, `claim, fault`"),
    },
}
