"""Notebook 03: windows of images, their shift, the position bias, patch merging."""

from functools import partial
from itertools import permutations, product

import torch
import torch.nn.functional as F

from vt_course.lab.exercise import Exercise, randoms
from vt_course.lab.kinds.axes import Axes
from vt_course.lab.kinds.operations import (
    Choices,
    instead_of_product,
    instead_of_roll,
    instead_of_root,
    instead_of_softmax,
    instead_of_values,
)
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
            ("only the rows are numbered", lambda h, w: h + 0 * w),
            ("only the columns are numbered", lambda h, w: 0 * h + w),
            (
                "the windows are numbered from the last to the first",
                lambda h, w: (h.max() - h) * (w.max() + 1) + w.max() - w,
            ),
        ),
    },
)


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
