"""Notebook 03: windows of images, their shift, the position bias, patch merging."""

from functools import partial
from itertools import permutations, product

import torch
import torch.nn.functional as F
from torch import nn

from vt_course.lab.exercise import Exercise, randoms
from vt_course.lab.exercises.attention_and_cost import counting
from vt_course.lab.exercises.uniformer import Parts, a_map, two_layers
from vt_course.lab.kinds.axes import Axes
from vt_course.lab.kinds.formulas import Formula
from vt_course.lab.kinds.operations import (
    Choices,
    instead_of_head,
    instead_of_product,
    instead_of_roll,
    instead_of_root,
    instead_of_softmax,
    instead_of_values,
)
from vt_course.lab.kinds.steps import Step, Steps
from vt_course.lab.kinds.tables import Rows
from vt_course.models import swin

EXERCISES: dict[str, Exercise] = {}
WINDOW_WORDS = dict(b="image", H="window row", h="token row", W="window column", w="token column", c="channel")


# ---------------------------------------------------------------- 3.1, 3.2: windows


def partition_literal(x, M):
    """One slice for each window, at (h, w), with its tokens row by row."""
    B, H, W, C = x.shape
    out = [x[b, h : h + M, w : w + M].reshape(-1, C) for b in range(B) for h in range(0, H, M) for w in range(0, W, M)]
    return torch.stack(out)  # (B·nW, M·M, C)


def cut(x, M, order):
    """Partition in which the axes (B, nH, M, nW, M, C) are brought into another order."""
    B, H, W, C = x.shape
    return x.reshape(B, H // M, M, W // M, M, C).permute(order).reshape(-1, M * M, C)


def partition_cases():
    return [
        (torch.randn(B, H, W, C), M)
        for B, H, W, C, M in ((1, 4, 4, 1, 2), (2, 4, 6, 3, 2), (3, 6, 9, 2, 3), (1, 8, 4, 5, 4))
    ]


def dilated(x, M):
    B, H, W, C = x.shape
    return x.reshape(B, M, H // M, M, W // M, C).permute(0, 2, 4, 1, 3, 5).reshape(-1, M * M, C)


def sides_exchanged(x, M):
    B, H, W, C = x.shape
    return x.reshape(B, W // M, M, H // M, M, C).permute(0, 1, 3, 2, 4, 5).reshape(-1, M * M, C)


EXERCISES["3.1"] = Exercise(
    "2-D window partition",
    partition_literal,
    partition_cases,
    lambda x, M: f"(B·H/M·W/M, M·M, C) = ({x.shape[0]}·{x.shape[1] // M}·{x.shape[2] // M}, {M}·{M}, {x.shape[3]})",
    (
        (
            "the axes are never permuted: a plain reshape takes M·M tokens that follow each other in a row of the map, "
            "not an M × M block",
            lambda x, M: x.reshape(-1, M * M, x.shape[-1]),
        ),
        (
            "inside a window your tokens run column by column; they must run row by row, the column fastest",
            lambda x, M: cut(x, M, (0, 1, 3, 4, 2, 5)),
        ),
        (
            "the windows are listed column by column; they must be listed row by row",
            lambda x, M: cut(x, M, (0, 3, 1, 2, 4, 5)),
        ),
        (
            "rows and columns are transposed everywhere: windows and their tokens both run column by column",
            lambda x, M: cut(x, M, (0, 3, 1, 4, 2, 5)),
        ),
        ("H and W are exchanged in the first reshape: axis 1 of x has H/M windows, axis 2 has W/M", sides_exchanged),
        (
            "you gather tokens that are H/M and W/M apart (a dilated grid): H must become (H/M, M), not (M, H/M)",
            dilated,
        ),
        (
            "the batch axis comes after the windows: all windows of image 0 must come first",
            lambda x, M: cut(x, M, (1, 3, 0, 2, 4, 5)),
        ),
    ),
    piece=lambda x, M: swin.window_partition(x, (M, M)),
    more=lambda: [
        (torch.randn(r.randint(1, 3), M * r.randint(1, 4), M * r.randint(1, 4), r.randint(1, 4)), M)
        for r in randoms(6)
        for M in [r.randint(2, 4)]
    ],
    kinds=(
        Axes(
            "b (H h) (W w) c -> (b H W) (h w) c",
            dict(b=2, H=3, h=4, W=5, w=4, c=2),
            lambda x, n: (x, n["h"]),
            lambda x, M: dict(h=M, w=M),
            WINDOW_WORDS,
        ),
    ),
)


def reverse_literal(windows, M, H, W):
    """Write each window back where it was cut."""
    per_image = (H // M) * (W // M)
    out = windows.new_empty(len(windows) // per_image, H, W, windows.shape[-1])
    i = 0
    for b in range(len(out)):
        for h in range(0, H, M):
            for w in range(0, W, M):
                out[b, h : h + M, w : w + M] = windows[i].view(M, M, -1)
                i += 1
    return out  # (B, H, W, C)


def glue(windows, M, H, W, grid, order):
    """Reverse that reads the windows as `grid` and permutes the axes (B, ., ., M, M, C) by `order`."""
    C = windows.shape[-1]
    return windows.reshape(-1, *grid, M, M, C).permute(order).reshape(-1, H, W, C)


def batch_last(windows, M, H, W):
    C = windows.shape[-1]
    return windows.reshape(H // M, W // M, -1, M, M, C).permute(2, 0, 3, 1, 4, 5).reshape(-1, H, W, C)


EXERCISES["3.2"] = Exercise(
    "2-D window reverse",
    reverse_literal,
    lambda: [(partition_literal(x, M), M, *x.shape[1:3]) for x, M in partition_cases()],
    lambda windows, M, H, W: f"(B, H, W, C) = (B, {H}, {W}, {windows.shape[-1]})",
    (
        (
            "the axes are never permuted: reshaping alone lays the tokens of a window along a row",
            lambda x, M, H, W: x.reshape(-1, H, W, x.shape[-1]),
        ),
        (
            "the windows are put back in the wrong order: you read them column by column, they are listed row by row",
            lambda x, M, H, W: glue(x, M, H, W, (W // M, H // M), (0, 2, 3, 1, 4, 5)),
        ),
        (
            "the grid has H/M rows and W/M columns of windows; you exchanged the two in the first reshape",
            lambda x, M, H, W: glue(x, M, H, W, (W // M, H // M), (0, 1, 3, 2, 4, 5)),
        ),
        (
            "rows and columns of the window grid are exchanged in the permutation",
            lambda x, M, H, W: glue(x, M, H, W, (H // M, W // M), (0, 2, 3, 1, 4, 5)),
        ),
        (
            "rows and columns inside each window are exchanged",
            lambda x, M, H, W: glue(x, M, H, W, (H // M, W // M), (0, 1, 4, 2, 3, 5)),
        ),
        (
            "each axis is put together as (token, window) instead of (window, token): neighbours end up one window "
            "apart",
            lambda x, M, H, W: glue(x, M, H, W, (H // M, W // M), (0, 3, 1, 4, 2, 5)),
        ),
        (
            "the batch axis is taken for the last one: all windows of image 0 come first, then those of image 1",
            batch_last,
        ),
    ),
    piece=lambda windows, M, H, W: swin.window_reverse(windows, (M, M), (H, W)),
    more=lambda: [
        (torch.randn(r.randint(1, 3) * a * b, M * M, r.randint(1, 4)), M, M * a, M * b)
        for r in randoms(6)
        for M, a, b in [(r.randint(2, 4), r.randint(1, 4), r.randint(1, 4))]
    ],
    kinds=(
        Axes(
            "(b H W) (h w) c -> b (H h) (W w) c",
            dict(b=2, H=3, h=4, W=5, w=4, c=2),
            lambda x, n: (x, n["h"], n["H"] * n["h"], n["W"] * n["w"]),
            lambda x, M, H, W: dict(H=H // M, W=W // M, h=M, w=M),
            WINDOW_WORDS,
        ),
    ),
)


# ---------------------------------------------------------------- 3.3: attention


def attention_literal(q, k, v, bias, mask):
    """One window, one head and one query at a time."""
    out = torch.zeros_like(q)
    for i in range(len(q)):  # window i has mask i mod nW
        for h in range(q.shape[1]):
            for n in range(q.shape[2]):
                logits = (k[i, h] @ q[i, h, n]) / q.shape[-1] ** 0.5
                weights = (logits + bias[h, n] + mask[i % len(mask), n].detach()).softmax(0)  # (N,)
                out[i, h, n] = weights @ v[i, h]
    return out  # (B·nW, h, N, d)


def attention_cases():
    cases = []
    for B, nW, h, N, d in ((1, 1, 2, 4, 3), (2, 3, 2, 4, 5), (2, 4, 3, 6, 2)):
        q, k, v = torch.randn(3, B * nW, h, N, d)
        forbidden = (torch.rand(nW, N, N) < 0.4) & ~torch.eye(N, dtype=torch.bool)
        cases.append((q, k, v, torch.randn(h, N, N), torch.where(forbidden, -100.0, 0.0)))
    return cases


def windows_mask(q, mask):
    """(nW, N, N) -> (B·nW, 1, N, N)."""
    return mask.repeat(len(q) // len(mask), 1, 1)[:, None]


def logits_of(q, k, bias, scale=None):
    return q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale) + bias


def attention_fast(q, k, v, bias, mask):
    """The same function with PyTorch's fused attention."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias + windows_mask(q, mask))


def attention_like(
    q, k, v, bias, mask, *, product=None, softmax=None, scale=None, masking=None, biasing=None, attend=None
):
    """Attention in which the steps that are given replace the right ones."""
    logits = q @ k.mT if product is None else product(q, k)
    logits = logits * (q.shape[-1] ** -0.5 if scale is None else scale(q, k, q.shape[1] * q.shape[-1]))
    logits = logits + bias if biasing is None else biasing(logits, bias)
    logits = logits + windows_mask(q, mask) if masking is None else masking(logits, mask)
    weights = logits.softmax(-1) if softmax is None else softmax(logits)
    return weights @ v if attend is None else attend(weights, v)


ATTENTION = Choices(
    attention_like,
    {
        "softmax": instead_of_softmax(("windows", "heads", "queries", "keys")),
        "scale": instead_of_root("√d"),
        "masking": (
            ("the mask is forgotten", lambda s, m: s),
            (
                "the mask is the wrong way round: it is subtracted, so only forbidden pairs are seen; add it",
                lambda s, m: s - windows_mask(s, m),
            ),
            (
                "the mask is multiplied with the logits: add it, 0 allows and -100 forbids",
                lambda s, m: s * windows_mask(s, m),
            ),
            (
                "forbidden pairs get 1 added instead of -100: the mask is added as it is",
                lambda s, m: s + (windows_mask(s, m) < 0).to(s),
            ),
            (
                "allowed pairs get 1 added, forbidden pairs nothing: the mask is added as it is",
                lambda s, m: s + (windows_mask(s, m) == 0).to(s),
            ),
            (
                "logits of forbidden pairs are set to 0, whose exp is 1: they must be very negative, add the mask",
                lambda s, m: s * (windows_mask(s, m) == 0),
            ),
            (
                "logits of allowed pairs are set to the mask's 0 or dropped: only forbidden pairs are seen",
                lambda s, m: s.masked_fill(windows_mask(s, m) == 0, -torch.inf),
            ),
            (
                "the mask is inverted: allowed pairs get a very negative number, so only forbidden pairs are seen",
                lambda s, m: s.masked_fill(windows_mask(s, m) == 0, -1e9),
            ),
            *(
                (
                    f"the mask is inverted: allowed pairs get {c:g} added, so only forbidden pairs are seen",
                    lambda s, m, c=c: s + torch.where(windows_mask(s, m) == 0, c, 0.0),
                )
                for c in (-1e3, -1e4, -1e5, -1e6)
            ),
            (
                "the mask is transposed: its rows are queries, its columns keys, like those of the logits",
                lambda s, m: s + windows_mask(s, m).mT,
            ),
            (
                "every window gets the mask of window 0: window i of the batch has mask number i modulo nW",
                lambda s, m: s + m[:1, None],
            ),
            (
                "the masks meet the wrong windows: the batch holds all windows of image 0, then all of image 1, "
                "so repeat the masks as a whole (`repeat`, not `repeat_interleave`)",
                lambda s, m: s + m.repeat_interleave(len(s) // len(m), 0)[:, None],
            ),
        ),
        "biasing": (
            ("the bias is forgotten", lambda s, b: s),
            ("the bias is added twice", lambda s, b: s + 2 * b),
            ("the bias is subtracted: add it", lambda s, b: s - b),
            ("the logits are multiplied by the bias: add it", lambda s, b: s * b),
            ("every head gets the bias of head 0", lambda s, b: s + b[:1]),
            ("the heads' biases are averaged: each head has its own", lambda s, b: s + b.mean(0)),
            ("the bias is transposed: its rows are queries, its columns keys", lambda s, b: s + b.mT),
        ),
        "product": instead_of_product(),
        "attend": (
            *instead_of_values(),
            ("`v` is added to the result: there is no residual here", lambda w, v: w @ v + v),
        ),
    },
)


def attention_with(q, k, v, bias, mask, scale):
    return (logits_of(q, k, bias, scale) + windows_mask(q, mask)).softmax(-1) @ v


EXERCISES["3.3"] = Exercise(
    "attention with bias and mask",
    attention_literal,
    attention_cases,
    lambda q, k, v, bias, mask: f"(B·nW, h, N, d) = {tuple(q.shape)}",
    (
        (
            "the mask is added after the softmax; it must be added to the logits, so that softmax turns -100 into "
            "nothing",
            lambda q, k, v, b, m: (logits_of(q, k, b).softmax(-1) + windows_mask(q, m)) @ v,
        ),
        (
            "forbidden weights are set to 0 after the softmax: the rest of a row no longer sums to 1; mask the logits",
            lambda q, k, v, b, m: (logits_of(q, k, b).softmax(-1) * (windows_mask(q, m) == 0)) @ v,
        ),
        (
            "the weights are multiplied by the mask after the softmax: allowed ones become 0, forbidden ones -100 "
            "times as large; add the mask to the logits",
            lambda q, k, v, b, m: (logits_of(q, k, b).softmax(-1) * windows_mask(q, m)) @ v,
        ),
        (
            "allowed weights are set to 0 after the softmax, so the mask is inverted; add it to the logits",
            lambda q, k, v, b, m: (logits_of(q, k, b).softmax(-1) * (windows_mask(q, m) != 0)) @ v,
        ),
        (
            "1/√d is missing: divide q·kᵀ by the root of the head's dimension",
            lambda q, k, v, b, m: attention_with(q, k, v, b, m, 1),
        ),
        (
            "1/√d is there twice: was q scaled before, and the logits again?",
            lambda q, k, v, b, m: attention_with(q, k, v, b, m, 1 / q.shape[-1]),
        ),
        ("you multiply by √d; divide by it", lambda q, k, v, b, m: attention_with(q, k, v, b, m, q.shape[-1] ** 0.5)),
        (
            "the scale is 1/√C with C = h·d channels; it must be that of one head, 1/√d",
            lambda q, k, v, b, m: attention_with(q, k, v, b, m, (q.shape[1] * q.shape[-1]) ** -0.5),
        ),
        (
            "the bias is scaled too: only q·kᵀ is divided by √d, the bias is added to the quotient",
            lambda q, k, v, b, m: attention_with(q, k, v, b * q.shape[-1] ** -0.5, m, None),
        ),
        (
            "the softmax runs over the queries; each query's weights must sum to 1 over its keys, the last axis",
            lambda q, k, v, b, m: (logits_of(q, k, b) + windows_mask(q, m)).softmax(-2) @ v,
        ),
    ),
    piece=attention_fast,
    more=attention_cases,
    gradient=True,
    kinds=(ATTENTION,),
)


# ---------------------------------------------------------------- 3.4: groups of the shifted windows


def groups_literal(H, W, M, shift):
    """Number the shifted windows row by row. Each place gets the number of the token that the roll moves there."""
    pieces = [[(i - s) // M + (s > 0) for i in range(n)] for n, s in zip((H, W), shift)]
    columns = pieces[1][-1] + 1
    numbers = [[pieces[0][h] * columns + pieces[1][w] for w in range(W)] for h in range(H)]
    return torch.tensor([[numbers[(h + shift[0]) % H][(w + shift[1]) % W] for w in range(W)] for h in range(H)])


def groups_like(H, W, M, shift, roll=-1, first=None, columns=None, combine=None, whole=0, rolled=None):
    """Group numbers in which one thing can be changed: the sign of the roll; the length of the first piece of an
    axis (`first`); how the numbers of two pieces become one number (`columns`, `combine`); the number of the first
    piece of an axis that is not shifted (`whole`); all of the roll (`rolled`)."""
    rows, cols = (
        torch.div(torch.arange(n) - (s if first is None else first(M, s)), M, rounding_mode="floor")
        + (1 if s else whole)
        for n, s in zip((H, W), shift)
    )
    rows, cols = rows - min(rows.min(), 0), cols - min(cols.min(), 0)
    count = cols.max() + 1 if columns is None else columns(W, M)
    numbers = rows[:, None] * count + cols if combine is None else combine(rows[:, None], cols)
    return numbers.roll([roll * s for s in shift], (0, 1)) if rolled is None else rolled(numbers, M, shift)


def groups_by_counter(H, W, M, shift):
    """The regions of the rolled map as the official code numbers them, from the top left."""
    groups = torch.zeros(H, W, dtype=torch.long)
    rows, cols = ((slice(0, -M), slice(-M, -s), slice(-s, None)) for s in shift)
    for number, (h, w) in enumerate(product(rows, cols)):
        groups[h, w] = number
    return groups


GROUPS = Choices(
    groups_like,
    {
        "rolled": (
            ("only the rows are rolled", lambda g, M, s: g.roll(-s[0], 0)),
            ("only the columns are rolled", lambda g, M, s: g.roll(-s[1], 1)),
            (
                "the roll takes the two shifts the wrong way round: `shift` is (down, right), and down rolls "
                "the rows, axis 0",
                lambda g, M, s: g.roll((-s[1], -s[0]), (0, 1)),
            ),
            (
                "the numbers are rolled by a whole window, M, instead of by the shift",
                lambda g, M, s: g.roll((-M, -M), (0, 1)),
            ),
            (
                "the numbers are rolled by M - shift instead of by the shift",
                lambda g, M, s: g.roll((s[0] - M, s[1] - M), (0, 1)),
            ),
            (
                "the numbers are rolled by M // 2 instead of by `shift`",
                lambda g, M, s: g.roll((-(M // 2), -(M // 2)), (0, 1)),
            ),
            ("both axes are rolled by the shift down", lambda g, M, s: g.roll((-s[0], -s[0]), (0, 1))),
            ("both axes are rolled by the shift to the right", lambda g, M, s: g.roll((-s[1], -s[1]), (0, 1))),
            (
                "the rows are rolled the right way, the columns the other way",
                lambda g, M, s: g.roll((-s[0], s[1]), (0, 1)),
            ),
            (
                "the columns are rolled the right way, the rows the other way",
                lambda g, M, s: g.roll((s[0], -s[1]), (0, 1)),
            ),
            (
                "the roll has the wrong sign: tokens move towards the top left, so `torch.roll` gets -shift",
                lambda g, M, s: g.roll(s, (0, 1)),
            ),
            ("the numbers are not rolled: they must lie where the roll puts their tokens", lambda g, M, s: g),
            *(
                (sentence, lambda g, M, s, rolled=rolled: rolled(g, s))
                for sentence, rolled in instead_of_roll(("the rows", "the columns"))
            ),
        ),
        "whole": (
            (
                "an axis with shift 0 has no cut-off piece: its windows are numbered from 0, and there are only "
                "W/M of them",
                1,
            ),
        ),
        "first": (
            (
                "you numbered the regular windows: shifted ones are cut at s, s + M, s + 2M, ...",
                lambda M, s: M if s else 0,
            ),
            ("the first piece of an axis has s tokens, not M - s", lambda M, s: M - s if s else 0),
        ),
        "columns": (
            ("a row has W/M + 1 shifted windows, not W/M: different windows share a number", lambda W, M: W // M),
        ),
        "combine": (
            ("the windows are numbered column by column; number them row by row", lambda h, w: w * (h.max() + 1) + h),
            ("the numbers of an axis are added: windows on a diagonal share a number", lambda h, w: h + w),
            (
                "the numbers of two pieces are read as two binary digits, 2 · row + column: an axis can have more "
                "than two pieces, so different windows share a number; multiply by the number of columns",
                lambda h, w: 2 * h + w,
            ),
            ("only the rows are numbered", lambda h, w: h + 0 * w),
            ("only the columns are numbered", lambda h, w: 0 * h + w),
            (
                "the windows are numbered from the last to the first",
                lambda h, w: (h.max() - h) * (w.max() + 1) + w.max() - w,
            ),
        ),
    },
)


def late_bits(H, W, M, shift, factor):
    """What a mask of bits needs: `late` is 1 in the last `shift` rows or columns of the rolled map."""
    late = [(torch.arange(n) >= n - s).long() for n, s in zip((H, W), shift)]
    return factor * late[0][:, None] + late[1]


EXERCISES["3.4"] = Exercise(
    "shifted windows after the roll",
    groups_literal,
    lambda: [
        (8, 8, 4, (2, 2)),
        (6, 9, 3, (1, 1)),
        (10, 15, 5, (2, 2)),
        (8, 4, 4, (2, 0)),
        (4, 8, 4, (0, 2)),
        (9, 6, 3, (1, 2)),
    ],
    lambda H, W, M, shift: f"(H, W) = ({H}, {W})",
    (
        ("the numbers are rolled twice as far as they should", partial(groups_like, roll=-2)),
        (
            "without `dims`, `torch.roll` rolls the flattened map, where a row goes on into the next: give both "
            "shifts and `dims=(0, 1)`",
            lambda H, W, M, s: groups_like(H, W, M, s, roll=0).roll(-s[0]),
        ),
        (
            "these are the official code's nine regions, `cnt`, counted on the rolled map: enough for the mask, but "
            "other numbers, and windows share one where a map is large; number the shifted windows before the roll",
            groups_by_counter,
        ),
        (
            "the shifts of the two axes are exchanged: shift is (down, right)",
            lambda H, W, M, s: groups_like(H, W, M, s[::-1]),
        ),
        (
            "you number late rows plus late columns, late being what the roll brings from the other border: a late "
            "row and a late column both become 1, so windows share a number; wanted is the number of each token's "
            "shifted window, counted row by row before the roll",
            lambda H, W, M, s: late_bits(H, W, M, s, 1),
        ),
        (
            "you number 2 · late row + late column, late being what the roll brings from the other border: enough "
            "for the mask, but far windows share a number; wanted is the number of each token's shifted window, "
            "counted row by row before the roll",
            lambda H, W, M, s: late_bits(H, W, M, s, 2),
        ),
        ("you count from 1; the first window has number 0", lambda H, W, M, s: groups_like(H, W, M, s) + 1),
    ),
    piece=groups_like,
    parts={"shift": ("down", "right")},
    more=lambda: [
        (M * r.randint(1, 4), M * r.randint(1, 4), M, (r.randint(0, M - 1), r.randint(0, M - 1)))
        for r in randoms(16)
        for M in [r.randint(2, 5)]
    ],
    kinds=(GROUPS,),
)


# ---------------------------------------------------------------- 3.5: relative position bias


def bias_literal(table, M):
    """One pair at a time: query i at (i // M, i % M), key j at (j // M, j % M), and the row of their offset."""
    rows = [
        [(i // M - j // M + M - 1) * (2 * M - 1) + i % M - j % M + M - 1 for j in range(M * M)] for i in range(M * M)
    ]
    return torch.stack([torch.stack([table[r] for r in row], 1) for row in rows], 1)  # (h, M·M, M·M)


def bias_like(table, M, row):
    """The bias if `row(dh, dw)` is the row of the table that is read for an offset."""
    h, w = torch.arange(M * M) // M, torch.arange(M * M) % M
    return table[row(h[:, None] - h, w[:, None] - w)].permute(2, 0, 1)


def bias_fast(table, M):
    """One look-up with the package's index."""
    return table[swin.relative_position_index((M, M))].permute(2, 0, 1)  # (h, M·M, M·M)


EXERCISES["3.5"] = Exercise(
    "relative position bias",
    bias_literal,
    lambda: [(torch.randn((2 * M - 1) ** 2, h), M) for M, h in ((2, 2), (3, 4), (4, 1), (5, 3))],
    lambda table, M: f"(h, M·M, M·M) = ({table.shape[1]}, {M * M}, {M * M})",
    (
        (
            "the bias is transposed: the offset is query minus key, and rows are queries",
            lambda t, M: bias_literal(t, M).mT,
        ),
        (
            "the offsets are not moved to start at 0: negative rows silently count from the end of the table; add M-1 "
            "to both",
            lambda t, M: bias_like(t, M, lambda h, w: h * (2 * M - 1) + w),
        ),
        (
            "only the column offset is moved to start at 0: add M-1 to the row offset too",
            lambda t, M: bias_like(t, M, lambda h, w: h * (2 * M - 1) + w + M - 1),
        ),
        (
            "the two digits are exchanged: the row offset is the slow one, row = dh'·(2M-1) + dw'",
            lambda t, M: bias_like(t, M, lambda h, w: (w + M - 1) * (2 * M - 1) + h + M - 1),
        ),
        (
            "off by one: you multiply by 2M-2, but an axis has 2M-1 offsets; different offsets share a row",
            lambda t, M: bias_like(t, M, lambda h, w: (h + M - 1) * (2 * M - 2) + w + M - 1),
        ),
        (
            "you multiply by M, but an axis has 2M-1 offsets: different offsets share a row (the difference of the "
            "tokens' numbers, i - j, comes to the same)",
            lambda t, M: bias_like(t, M, lambda h, w: (h + M - 1) * M + w + M - 1),
        ),
        (
            "the two offsets are added; read them as the digits of one number, row = dh'·(2M-1) + dw'",
            lambda t, M: bias_like(t, M, lambda h, w: h + w + 2 * M - 2),
        ),
        (
            "the sign of the offset is lost: left and right, above and below have rows of their own",
            lambda t, M: bias_like(t, M, lambda h, w: (h.abs() + M - 1) * (2 * M - 1) + w.abs() + M - 1),
        ),
        (
            "the look-up gives (M·M, M·M, h); bring the heads to the front with permute, a reshape or view mixes them "
            "up",
            lambda t, M: bias_literal(t, M).permute(1, 2, 0).reshape(t.shape[1], M * M, M * M),
        ),
    ),
    piece=bias_fast,
    more=lambda: [(torch.randn((2 * M - 1) ** 2, r.randint(1, 4)), M) for r in randoms(4) for M in [r.randint(2, 5)]],
    gradient=True,
    kinds=(Rows(lambda table, M: (M, M), ("M", "M"), ("the rows", "the columns"), table=True),),
)


# ---------------------------------------------------------------- 3.6: patch merging

ORDER = ((0, 0), (1, 0), (0, 1), (1, 1))
NAMED = {
    ((0, 0), (0, 1), (1, 0), (1, 1)): "row by row, (0,0), (0,1), (1,0), (1,1)",
    ((0, 0), (0, 1), (1, 1), (1, 0)): "clockwise, (0,0), (0,1), (1,1), (1,0)",
    ((0, 0), (1, 0), (1, 1), (0, 1)): "counter-clockwise, (0,0), (1,0), (1,1), (0,1)",
}


def even(x):
    """Zeros at the bottom and at the right until H and W are even."""
    return F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))


def neighbours_literal(x):
    """One place at a time: the channels of its four neighbours, one after the other."""
    x = even(x)
    return torch.stack(
        [
            torch.stack(
                [torch.cat([x[:, 2 * h + i, 2 * w + j] for i, j in ORDER], -1) for w in range(x.shape[2] // 2)], 1
            )
            for h in range(x.shape[1] // 2)
        ],
        1,
    )


def neighbours_in(x, order, axis=-1):
    x = even(x)
    return torch.cat([x[:, i::2, j::2] for i, j in order], axis)


def neighbours_fast(x):
    x = even(x).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H/2, i, W/2, j, C)
    return x.permute(0, 1, 3, 4, 2, 5).flatten(3)  # (B, H/2, W/2, j·i·C)


def interleaved(x):
    x = even(x)
    return torch.stack([x[:, i::2, j::2] for i, j in ORDER], -1).flatten(-2)


def quadrants(x):
    """The four quarters of the map instead of the four neighbours."""
    x = even(x)
    H, W = x.shape[1] // 2, x.shape[2] // 2
    return torch.cat([x[:, i * H : i * H + H, j * W : j * W + W] for i, j in ORDER], -1)


def padded_first(x):
    return neighbours_in(F.pad(x, (0, 0, x.shape[2] % 2, 0, x.shape[1] % 2, 0)), ORDER)


def padded_by_repeating(x):
    x = torch.cat([x, x[:, -1:]], 1) if x.shape[1] % 2 else x
    return neighbours_in(torch.cat([x, x[:, :, -1:]], 2) if x.shape[2] % 2 else x, ORDER)


EXERCISES["3.6"] = Exercise(
    "the neighbours of patch merging",
    neighbours_literal,
    lambda: [(torch.randn(shape),) for shape in ((1, 2, 2, 1), (2, 4, 6, 3), (1, 5, 4, 2), (2, 3, 7, 4))],
    lambda x: f"(B, ⌈H/2⌉, ⌈W/2⌉, 4C) = ({x.shape[0]}, {-(-x.shape[1] // 2)}, {-(-x.shape[2] // 2)}, 4·{x.shape[3]})",
    (
        *(
            (
                f"your neighbours are joined {name}; the order of the checkpoints is (0,0), (1,0), (0,1), (1,1), down "
                f"first",
                lambda x, order=order: neighbours_in(x, order),
            )
            for order, name in NAMED.items()
        ),
        (
            "the four numbers of each channel are interleaved; join whole tokens, all C channels of one, then of the "
            "next",
            interleaved,
        ),
        ("these are the four quarters of the map, not four neighbours: take every second row and column", quadrants),
        ("an odd map is padded at its top and left; pad at the bottom and at the right", padded_first),
        ("an odd map is padded by repeating its last row and column; pad with zeros", padded_by_repeating),
        *(
            (
                f"your neighbours come in the order {', '.join(f'({i},{j})' for i, j in order)}; it must be (0,0), "
                f"(1,0), (0,1), (1,1)",
                lambda x, order=order: neighbours_in(x, order),
            )
            for order in permutations(ORDER)
            if order != ORDER and order not in NAMED
        ),
    ),
    piece=neighbours_fast,
    more=lambda: [(torch.randn(*(r.randint(1, 6) for _ in range(4))),) for r in randoms(6)],
    gradient=True,
    kinds=(
        Axes(
            "b (H i) (W j) c -> b H W (j i c)",
            dict(b=3, H=5, i=2, W=4, j=2, c=7),
            lambda x, n: (x,),
            lambda x: dict(i=2, j=2),
            dict(b="image", H="row of blocks", i="row offset", W="column of blocks", j="column offset", c="channel"),
            even,
        ),
    ),
)


# ---------------------------------------------------------------- 3.7: the block


class InWindows(nn.Module):
    """Attention in windows that are cut already: (B·nW, N, C) and a mask (nW, N, N) -> (B·nW, N, C)."""

    def __init__(self, dim, M, heads):
        super().__init__()
        self.M, self.heads = M, heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.table = nn.Parameter(torch.zeros((2 * M - 1) ** 2, heads))

    def attend(self, tokens, bias, mask):
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3 x (B·nW, h, N, d)
        return self.proj(attention_fast(q, k, v, bias, mask).transpose(1, 2).flatten(2))

    def forward(self, windows, mask):
        return self.attend(windows, bias_fast(self.table, self.M), mask.to(windows.dtype))


class BlockParts(Parts):
    """The modules and the numbers `M` and `shift` of a block."""

    def __init__(self, dim, heads, M, shift):
        super().__init__(
            f"a block of {dim} channels with M = {M} and shift = {shift}",
            norm1=nn.LayerNorm(dim),
            attn=InWindows(dim, M, heads),
            norm2=nn.LayerNorm(dim),
            mlp=two_layers(nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)),
        )
        self.M, self.shift = M, shift


def to_windows(x, M):
    """Zeros at the bottom and at the right, until both sides are multiples of M."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % M, 0, -x.shape[1] % M))


def clamped(size, M, shift):
    """Nothing shifts along an axis that one window covers."""
    return tuple(shift if n > M else 0 for n in size)


def block_literal(block, x):
    """Each shifted window of the padded map is taken out as a piece of its own size; no roll, no mask."""
    y, M, table = to_windows(block.norm1(x), block.M), block.M, block.attn.table
    out = torch.empty_like(y)
    edges = [[0, *range(s or M, n, M), n] for n, s in zip(y.shape[1:3], clamped(y.shape[1:3], M, block.shift))]
    for (a, b), (c, d) in product(*[zip(e, e[1:]) for e in edges]):
        h, w = torch.cartesian_prod(torch.arange(b - a), torch.arange(d - c)).unbind(1)
        rows = (h[:, None] - h + M - 1) * (2 * M - 1) + w[:, None] - w + M - 1
        bias = table[rows].permute(2, 0, 1)
        piece = block.attn.attend(y[:, a:b, c:d].flatten(1, 2), bias, torch.zeros(1, len(h), len(h), dtype=x.dtype))
        out[:, a:b, c:d] = piece.view(len(x), b - a, d - c, -1)
    x = x + out[:, : x.shape[1], : x.shape[2]]
    return x + block.mlp(block.norm2(x))


def step(name, do, *wrong, forgotten=""):
    return Step(name, do, tuple(wrong), forgotten)


def change(function):
    """A step that changes x."""
    return lambda s: s.update(x=function(s["x"], s))


def rolled_by(sign):
    return change(lambda x, s: x.roll([sign * n for n in s["shift"]], (1, 2)))


def make_mask(s):
    M, (H, W) = s["block"].M, s["x"].shape[1:3]
    s["mask"] = swin.shift_mask((H, W), (M, M), s["shift"])


def mask_that_forbids_padding(s):
    make_mask(s)
    real = to_windows(torch.ones(1, *s["size"], 1), s["block"].M).roll([-n for n in s["shift"]], (1, 2))
    real = partition_literal(real, s["block"].M)[..., 0]  # (nW, N)
    s["mask"] = s["mask"] + torch.where(real[:, None] == 1, 0.0, -100.0)


def mask_of_the_map(s):
    """The mask of the map without padding, where it has the right number of windows at all."""
    M = s["block"].M
    bits = [torch.arange(n) >= n - sh for n, sh in zip(s["size"], s["shift"])]
    bits = to_windows((2 * bits[0][:, None].float() + bits[1])[None, ..., None], M)
    bits = partition_literal(bits, M)[..., 0]
    s["mask"] = torch.where(bits[:, :, None] == bits[:, None], 0.0, -100.0)


def mask_of_the_full_shift(s):
    M, size = s["block"].M, s["x"].shape[1:3]
    s["mask"] = swin.shift_mask(tuple(size), (M, M), (s["block"].shift,) * 2)


def attend_in_windows(x, s):
    windows = swin.window_partition(x, (s["block"].M,) * 2)
    mask = s.get("mask")
    if mask is None:
        mask = torch.zeros(1, *[windows.shape[1]] * 2)
    return swin.window_reverse(s["block"].attn(windows, mask), (s["block"].M,) * 2, x.shape[1:3])


def padded_before(x, s):
    M = s["block"].M
    return F.pad(x, (0, 0, -x.shape[2] % M, 0, -x.shape[1] % M, 0))


def crop(x, s):
    return x[:, : s["size"][0], : s["size"][1]]


def keep(s):
    s["kept"] = s["x"]


def add(x, s):
    return x + s["kept"]


BLOCK = Steps(
    lambda block, x: dict(block=block, x=x, size=tuple(x.shape[1:3]), shift=(0, 0)),
    (
        step("keep the shortcut", keep),
        step(
            "norm1",
            change(lambda x, s: s["block"].norm1(x)),
            ("the norms are exchanged: `norm1` is that of the attention", change(lambda x, s: s["block"].norm2(x))),
        ),
        step(
            "pad",
            change(lambda x, s: to_windows(x, s["block"].M)),
            ("the zeros stand at the top and at the left: pad at the bottom and at the right", change(padded_before)),
            (
                "you pad by W % M, which is what W has too many: what it lacks to the next multiple of M is -W % M",
                change(lambda x, s: F.pad(x, (0, 0, 0, x.shape[2] % s["block"].M, 0, x.shape[1] % s["block"].M))),
            ),
            forgotten="only maps that need padding fail. Three things to look at: the map is padded before it is cut; "
            "mask and `window_reverse` get the padded sides; and what is added to `x` is cropped to the old ones",
        ),
        step(
            "clamp the shift",
            lambda s: s.update(shift=clamped(s["x"].shape[1:3], s["block"].M, s["block"].shift)),
            (
                "the shift is not clamped: along an axis that one window covers, nothing shifts",
                lambda s: s.update(shift=(s["block"].shift,) * 2),
            ),
            (
                "if one axis holds a single window, you shift neither: each axis is clamped on its own",
                lambda s: s.update(shift=(min(clamped(s["x"].shape[1:3], s["block"].M, s["block"].shift)),) * 2),
            ),
            (
                "if one axis holds more than one window, you shift both: each axis is clamped on its own",
                lambda s: s.update(shift=(max(clamped(s["x"].shape[1:3], s["block"].M, s["block"].shift)),) * 2),
            ),
            (
                "the shift is always M // 2: a block that does not shift has `block.shift` = 0",
                lambda s: s.update(shift=clamped(s["x"].shape[1:3], s["block"].M, s["block"].M // 2)),
            ),
            forgotten="nothing ever shifts: along an axis that is longer than one window the shift is `block.shift`",
        ),
        step(
            "mask",
            make_mask,
            (
                "padded keys are forbidden, too: the checkpoints expect that only groups are told apart",
                mask_that_forbids_padding,
            ),
            ("the mask is made for the map without its padding: it must be made for the padded size", mask_of_the_map),
            (
                "the mask is made with `block.shift` where the roll takes the clamped shift: give both the same",
                mask_of_the_full_shift,
            ),
        ),
        step(
            "roll",
            rolled_by(-1),
            ("the roll has the wrong sign: the tokens move towards the top left, so by minus the shift", rolled_by(1)),
        ),
        step("attend", change(attend_in_windows)),
        step("roll back", rolled_by(1)),
        step("crop", change(crop)),
        step("add the shortcut", change(add)),
        step("keep the second shortcut", keep),
        step(
            "norm2",
            change(lambda x, s: s["block"].norm2(x)),
            (
                "the first norm is used twice: the MLP has a norm of its own, `norm2`",
                change(lambda x, s: s["block"].norm1(x)),
            ),
        ),
        step("MLP", change(lambda x, s: s["block"].mlp(x))),
        step("add the second shortcut", change(add)),
    ),
    together=(
        ("roll", "mask", "roll back"),
        ("roll", "roll back"),
        ("norm2", "MLP", "add the second shortcut"),
        ("keep the second shortcut", "norm2", "MLP", "add the second shortcut"),
    ),
)


def block_fast(block, x):
    """(B, H, W, C) -> the same shape, with the modules of `block`."""
    return BLOCK.function(block, x)


def norms_behind(block, x):
    """Wrong: each norm stands behind its branch, before the sum (as in Swin V2)."""
    branch = BLOCK.steps[2:9]  # from "pad" to "crop"
    state = dict(block=block, x=x, size=tuple(x.shape[1:3]))
    for each in branch:
        each.do(state)
    x = x + block.norm1(state["x"])
    return x + block.norm2(block.mlp(x))


def without(*names):
    """Wrong: the block without some of its steps."""
    kept = [each.do for each in BLOCK.steps if each.name not in names]
    return lambda block, x: BLOCK.run(kept, (block, x))


def rolls_exchanged(block, x):
    signs = {"roll": rolled_by(1), "roll back": rolled_by(-1)}
    return BLOCK.run([signs.get(each.name, each.do) for each in BLOCK.steps], (block, x))


def rolls_over_images(block, x):
    def roll(sign):
        return change(lambda y, s: y.roll([sign * n for n in s["shift"]], (0, 1)))

    wrong = {"roll": roll(-1), "roll back": roll(1)}
    return BLOCK.run([wrong.get(each.name, each.do) for each in BLOCK.steps], (block, x))


BLOCK_CASES = (
    (4, 2, 4, 2, (1, 8, 8)),
    (6, 3, 3, 1, (2, 5, 7)),
    (4, 1, 4, 2, (1, 3, 9)),
    (4, 1, 3, 1, (1, 3, 2)),
    (2, 1, 2, 0, (2, 4, 5)),
)

EXERCISES["3.7"] = Exercise(
    "the Swin block",
    block_literal,
    lambda: [(BlockParts(C, h, M, shift), a_map(*size, C)) for C, h, M, shift, size in BLOCK_CASES],
    lambda block, x: f"(B, H, W, C) = ({', '.join(map(str, x.shape))})",
    (
        (
            "the first residual is missing: what the attention makes is added to the block's input",
            without("keep the shortcut", "add the shortcut"),
        ),
        (
            "the second residual is missing: what the MLP makes is added to what it was made of",
            without("keep the second shortcut", "add the second shortcut"),
        ),
        (
            "the second residual adds the block's input: it must add the sum behind the attention",
            without("keep the second shortcut"),
        ),
        ("both rolls have the wrong sign: first by minus the shift, afterwards by plus the shift", rolls_exchanged),
        (
            "the rolls run over the axes 0 and 1, which are images and rows: the map is (B, H, W, C), so roll over the "
            "axes (1, 2)",
            rolls_over_images,
        ),
        ("each norm stands behind its branch: it must stand before it", norms_behind),
        (
            "the block's input is added once more at the end: there are two residuals",
            lambda block, x: x + block_fast(block, x),
        ),
    ),
    piece=lambda block, x: block_fast(block, x),
    gradient=True,
    more=lambda: [
        (BlockParts(2 * h, h, M, M // 2), a_map(r.randint(1, 2), r.randint(1, 9), r.randint(1, 9), 2 * h))
        for r in randoms(4)
        for h, M in [(r.randint(1, 2), r.randint(2, 4))]
    ],
    kinds=(BLOCK,),
)


# ---------------------------------------------------------------- 3.8: from pixels to scores


def small_network(depths, window=2, side=32):
    """The modules of a small network, with the names of the checkpoints; each stage's blocks are a Sequential."""
    n = len(depths)
    heads = [1, 2, 2, 2][:n]
    model = swin.SwinTransformer(
        img_size=side, embed_dim=4, depths=depths, num_heads=heads, window=window, num_classes=5
    )
    layers = []
    for i, stage in enumerate(model.layers):
        merging = {"downsample": stage.downsample} if i < n - 1 else {}
        layers.append(Parts("a stage" if merging else "the last stage", blocks=nn.Sequential(*stage.blocks), **merging))
    parts = dict(patch_embed=model.patch_embed, layers=nn.ModuleList(layers), norm=model.norm, head=model.head)
    return Parts(f"a network with {', '.join(map(str, depths))} blocks", **parts)


def scores_literal(net, x):
    """Block by block; where a stage has a merging, it stands between this stage and the next."""
    x = net.patch_embed(x)
    for stage in net.layers:
        for block in stage.blocks:
            x = block(x)
        if hasattr(stage, "downsample"):
            x = stage.downsample(x)
    B, H, W, C = x.shape
    x = net.norm(x).reshape(B, H * W, C)
    return net.head(x.sum(1) / (H * W))  # (B, K)


def scores_like(net, x, *, blocks=None, norm=None, pool=None, head=None):
    """The scores in which the steps that are given replace the right ones."""
    x = net.patch_embed(x)
    for i, stage in enumerate(net.layers):
        run = list(stage.blocks)
        for block in run if blocks is None else blocks(run, i, len(net.layers)):
            x = block(x)
        x = stage.downsample(x) if hasattr(stage, "downsample") else x
    pooled = (lambda y: y.mean((1, 2))) if pool is None else pool
    x = pooled(net.norm(x)) if norm is None else norm(net, x, pooled)
    return net.head(x) if head is None else head(net, x)


SCORES = Choices(
    scores_like,
    {
        "blocks": (
            ("only the first block of each stage is used: no window ever shifts", lambda run, i, n: run[:1]),
            ("only the last block of each stage is used", lambda run, i, n: run[-1:]),
            ("the blocks of a stage run from the last to the first", lambda run, i, n: run[::-1]),
            ("no block is used: in each stage all its blocks follow each other", lambda run, i, n: []),
            ("the last block of each stage is left out", lambda run, i, n: run[:-1]),
            ("each block runs twice", lambda run, i, n: [b for b in run for _ in range(2)]),
            (
                "the blocks of the last stage are left out: it has no merging, but it has blocks",
                lambda run, i, n: run if i < n - 1 else [],
            ),
            ("the blocks of the first stage are left out", lambda run, i, n: run if i else []),
        ),
        "norm": (
            ("the last norm is missing: `net.norm` comes before the mean", lambda net, x, pool: pool(x)),
            (
                "the last norm comes after the mean: each token is normalised, then the mean is taken",
                lambda net, x, pool: net.norm(pool(x)),
            ),
        ),
        "pool": (
            ("the tokens are added up: the head reads their mean", lambda x: x.sum((1, 2))),
            ("the largest value of all tokens is taken: the head reads their mean", lambda x: x.amax((1, 2))),
            (
                "only the first token is read: there is no class token, the head reads the mean of all",
                lambda x: x[:, 0, 0],
            ),
            ("only the last token is read: the head reads the mean of all", lambda x: x[:, -1, -1]),
            ("only the first row is read: the head reads the mean of all tokens", lambda x: x[:, 0].mean(1)),
            ("only the first column is read: the head reads the mean of all tokens", lambda x: x[:, :, 0].mean(1)),
        ),
        "head": instead_of_head("head"),
    },
)


def class_scores(net, x):
    """(B, 3, H, W) -> (B, K), with the modules of `net`."""
    return scores_like(net, x)


EXERCISES["3.8"] = Exercise(
    "from pixels to scores",
    scores_literal,
    lambda: [
        (small_network((2, 2, 1)), a_map(1, 3, 24, 40)),
        (small_network((1, 2)), a_map(2, 3, 20, 12)),
        (small_network((2, 1, 2, 2), side=64), a_map(1, 3, 50, 33)),
    ],
    lambda net, x: f"(B, K) = ({len(x)}, 5)",
    (),
    piece=class_scores,
    gradient=True,
    more=lambda: [(small_network((2, 2, 2)), a_map(1, 3, 44, 28))],
    kinds=(SCORES,),
)


# ---------------------------------------------------------------- 3.9: the parameters of a block


def parameters_literal(C, h, M):
    """One module at a time: the weights and the bias of each layer, and the table."""
    layers = [(C, 3 * C), (C, C), (C, 4 * C), (4 * C, C)]
    linear = sum(a * b + b for a, b in layers)
    return torch.tensor(linear + 2 * 2 * C + (2 * M - 1) ** 2 * h)


def parameters_piece(C, h, M):
    return 12 * C**2 + 13 * C + (2 * M - 1) ** 2 * h


EXERCISES["3.9"] = counting(
    "parameters of a Swin block",
    parameters_literal,
    lambda: [(2, 1, 2), (96, 3, 7), (192, 6, 7), (384, 12, 12), (10, 5, 3)],
    (
        (
            "the biases of the linear layers are missing: 3C, C, 4C and C",
            lambda C, h, M: parameters_piece(C, h, M) - 9 * C,
        ),
        (
            "the norms are missing: two of them, with C weights and C biases each",
            lambda C, h, M: parameters_piece(C, h, M) - 4 * C,
        ),
        (
            "2C are missing: a block has two norms, each with C weights and C biases",
            lambda C, h, M: parameters_piece(C, h, M) - 2 * C,
        ),
        ("biases and norms are missing: 9C and 4C", lambda C, h, M: parameters_piece(C, h, M) - 13 * C),
        ("the bias of `qkv` is missing: 3C", lambda C, h, M: parameters_piece(C, h, M) - 3 * C),
        (
            "`proj` is missing, the layer that mixes the heads: C² weights and C biases",
            lambda C, h, M: parameters_piece(C, h, M) - C**2 - C,
        ),
        (
            "the MLP has two layers, C to 4C and back; you count one",
            lambda C, h, M: parameters_piece(C, h, M) - 4 * C**2 - C,
        ),
        (
            "the MLP is missing: two layers, C to 4C and back",
            lambda C, h, M: parameters_piece(C, h, M) - 8 * C**2 - 5 * C,
        ),
        (
            "the bias table is missing: (2M-1)² rows, a column for each head",
            lambda C, h, M: parameters_piece(C, h, M) - (2 * M - 1) ** 2 * h,
        ),
        (
            "the bias table has one column for each head; you count one column",
            lambda C, h, M: parameters_piece(C, h, M) - (2 * M - 1) ** 2 * (h - 1),
        ),
        (
            "the bias table has a row for each offset, (2M-1)²; you count the pairs of tokens, M⁴",
            lambda C, h, M: parameters_piece(C, h, M) - (2 * M - 1) ** 2 * h + M**4 * h,
        ),
        (
            "the bias table has a row for each offset, (2M-1)²; you count the tokens of a window, M²",
            lambda C, h, M: parameters_piece(C, h, M) - (2 * M - 1) ** 2 * h + M**2 * h,
        ),
        (
            "an axis has 2M-1 offsets, not 2M",
            lambda C, h, M: parameters_piece(C, h, M) - (2 * M - 1) ** 2 * h + (2 * M) ** 2 * h,
        ),
        (
            "an axis has 2M-1 offsets; you count 2M+1",
            lambda C, h, M: parameters_piece(C, h, M) - (2 * M - 1) ** 2 * h + (2 * M + 1) ** 2 * h,
        ),
        (
            "the table is counted for one axis, 2M-1 rows: both axes have 2M-1 offsets",
            lambda C, h, M: parameters_piece(C, h, M) - (2 * M - 1) ** 2 * h + (2 * M - 1) * h,
        ),
        (
            "the index into the table is counted: it is computed, not learned",
            lambda C, h, M: parameters_piece(C, h, M) + M**4,
        ),
    ),
    piece=parameters_piece,
    more=lambda: [(r.randint(1, 99), r.randint(1, 12), r.randint(2, 14)) for r in randoms(12)],
    formula=Formula(
        (("12C²", 12, dict(C=2)), ("13C", 13, dict(C=1)), ("(2M-1)²h", 1, dict(S=2, h=1))),
        lambda C, h, M: dict(C=C, S=2 * M - 1, h=h),
        {},
    ),
)
