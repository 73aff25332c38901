"""Notebook 02: attention from scratch, and what it costs."""

from functools import partial
from math import ceil, sqrt

import torch
import torch.nn.functional as F

from vt_course.lab.exercise import Exercise, randoms
from vt_course.lab.kinds.formulas import Formula
from vt_course.lab.kinds.operations import (
    Choices,
    instead_of_product,
    instead_of_root,
    instead_of_softmax,
    instead_of_values,
)
from vt_course.lab.kinds.tables import Rows
from vt_course.models import swin

EXERCISES: dict[str, Exercise] = {}


# ---------------------------------------------------------------- 2.1 weights of one head


def weights_literal(q, k):
    """One query and one key at a time: the dot product divided by √d. Then softmax over the row, written out."""
    d = q.shape[-1]
    rows = []
    for i in range(q.shape[-2]):
        row = torch.stack([(q[..., i, :] * k[..., j, :]).sum(-1) / sqrt(d) for j in range(k.shape[-2])], -1)
        powers = (row - row.amax(-1, keepdim=True)).exp()
        rows.append(powers / powers.sum(-1, keepdim=True))  # (..., M)
    return torch.stack(rows, -2)  # (..., N, M)


def weights_cases():
    return [
        (2 * torch.randn(*lead, N, d), 2 * torch.randn(*lead, M, d))
        for lead, N, M, d in (((1, 1), 5, 5, 4), ((1, 3), 3, 7, 8), ((2, 3), 4, 6, 5), ((2, 1), 6, 2, 16))
    ]


def weights_like(q, k, *, softmax=None, scale=None, product=None):
    """The weights in which the steps that are given replace the right ones."""
    logits = q @ k.mT if product is None else product(q, k)
    logits = logits * (q.shape[-1] ** -0.5 if scale is None else scale(q, k, q.shape[-1] * q.shape[1]))
    return logits.softmax(-1) if softmax is None else softmax(logits)


EXERCISES["2.1"] = Exercise(
    "attention weights",
    weights_literal,
    weights_cases,
    lambda q, k: f"(..., N, M) = ({', '.join(map(str, [*q.shape[:-1], k.shape[-2]]))})",
    (
        ("the logits are not scaled: divide q·k by √d before the softmax", lambda q, k: (q @ k.mT).softmax(-1)),
        (
            "the logits are divided by d, not by √d (scaling q and then the product once more comes to the same)",
            lambda q, k: (q @ k.mT / q.shape[-1]).softmax(-1),
        ),
        (
            "the logits are multiplied by √d instead of divided",
            lambda q, k: (q @ k.mT * q.shape[-1] ** 0.5).softmax(-1),
        ),
        (
            "you divide by the root of the number of keys; d is the number of channels of one key, the last axis",
            lambda q, k: (q @ k.mT / k.shape[-2] ** 0.5).softmax(-1),
        ),
        (
            "you divide by the root of the number of queries; d is the number of channels of one query, the last axis",
            lambda q, k: (q @ k.mT / q.shape[-2] ** 0.5).softmax(-1),
        ),
        (
            "you divide after the softmax: rows no longer sum to 1, and the sharpness is that of unscaled logits",
            lambda q, k: (q @ k.mT).softmax(-1) / q.shape[-1] ** 0.5,
        ),
        (
            "the softmax runs over the queries: each row, one query's weights, must sum to 1, so it runs over the "
            "last axis",
            lambda q, k: (q @ k.mT / q.shape[-1] ** 0.5).softmax(-2),
        ),
        ("there is no softmax: these are the logits", lambda q, k: q @ k.mT / q.shape[-1] ** 0.5),
    ),
    piece=weights_like,
    more=lambda: [
        (torch.randn(B, h, r.randint(1, 7), d), torch.randn(B, h, r.randint(1, 7), d))
        for r in randoms(6)
        for B, h, d in [(r.randint(1, 3), r.randint(1, 4), r.randint(1, 9))]
    ],
    gradient=True,
    kinds=(
        Choices(
            weights_like,
            {
                "softmax": instead_of_softmax(("batch", "heads", "queries", "keys")),
                "scale": instead_of_root("√d"),
                "product": instead_of_product(),
            },
        ),
    ),
)


# ---------------------------------------------------------------- 2.2 all heads


def heads_literal(x, w_qkv, b_qkv, w_out, b_out, num_heads):
    """One head at a time. Each head has its own rows of the three projection matrices."""
    C = x.shape[-1]
    d = C // num_heads
    outputs = []
    for a in range(num_heads):
        q, k, v = (
            x @ w_qkv[part * C + a * d : part * C + (a + 1) * d].T + b_qkv[part * C + a * d : part * C + (a + 1) * d]
            for part in range(3)
        )  # 3 x (B, N, d)
        outputs.append(weights_literal(q, k) @ v)  # (B, N, d)
    return torch.cat(outputs, -1) @ w_out.T + b_out  # (B, N, C)


def heads_case(B, N, C, num_heads):
    """Queries and keys are near 1 and everything else is small, so gradients and their rounding errors stay small."""
    size = torch.tensor([5.0, 5.0, 1.0]).repeat_interleave(C)  # (3C,) the scale of the rows of q, k and v
    return (
        0.3 * torch.randn(B, N, C),
        torch.randn(3 * C, C) * size[:, None] / C**0.5,
        0.2 * torch.randn(3 * C) * size,
        0.1 * torch.randn(C, C) / C**0.5,
        0.1 * torch.randn(C),
        num_heads,
    )


def heads_cases():
    return [heads_case(1, 7, 8, 2), heads_case(2, 5, 12, 3), heads_case(3, 4, 16, 4), heads_case(2, 6, 10, 5)]


def heads_like(
    x,
    w_qkv,
    b_qkv,
    w_out,
    b_out,
    h,
    split=None,
    order=(0, 1, 2),
    product=None,
    scale=None,
    softmax=None,
    attend=None,
    values=None,
    merge=None,
):
    """Multi-head attention in which the steps that are given replace the right ones."""
    B, N, C = x.shape
    d = C // h
    qkv = F.linear(x, w_qkv, b_qkv)  # (B, N, 3C)
    qkv = (split or three_heads)(qkv, h)  # 3 x (B, h, N, d)
    q, k, v = (qkv[i] for i in order)
    logits = (q @ k.mT if product is None else product(q, k)) * (d**-0.5 if scale is None else scale(q, k, C))
    if attend is None:
        weights = logits.softmax(-1) if softmax is None else softmax(logits)
        out = weights @ v if values is None else values(weights, v)  # (B, h, N, d)
    else:
        out = attend(logits, v)
    out = (merge or (lambda o: o.transpose(1, 2).reshape(B, N, C)))(out)
    return F.linear(out, w_out, b_out)


def three_heads(qkv, h):
    B, N, C3 = qkv.shape
    return qkv.view(B, N, 3, h, C3 // 3 // h).permute(2, 0, 3, 1, 4)


def varied(**how):
    return partial(heads_like, **how)


ORDERS = {(a, b, c) for a in range(3) for b in range(3) for c in range(3)} - {(0, 1, 2)}
HEADS = Choices(
    heads_like,
    {
        "softmax": instead_of_softmax(("batch", "heads", "queries", "keys")),
        "scale": instead_of_root("√d"),
        "order": tuple(
            (f"the order is q, k, v; you take {', '.join('qkv'[i] for i in order)} for them", order)
            for order in sorted(ORDERS)
        ),
        "split": (
            (
                "a head takes every h-th channel: the C channels split into (h d), head first, not (d h)",
                lambda y, h: y.view(*y.shape[:2], 3, -1, h).permute(2, 0, 4, 1, 3),
            ),
            (
                "you read the 3C rows as (h 3 d); they are (3 h d): all of q, then all of k, then all of v",
                lambda y, h: y.view(*y.shape[:2], h, 3, -1).permute(3, 0, 2, 1, 4),
            ),
            (
                "you read the 3C rows as (h d 3); they are (3 h d): all of q, then all of k, then all of v",
                lambda y, h: y.view(*y.shape[:2], h, -1, 3).permute(4, 0, 2, 1, 3),
            ),
            (
                "you read the 3C rows as (d 3 h); they are (3 h d): all of q, then all of k, then all of v",
                lambda y, h: y.view(*y.shape[:2], -1, 3, h).permute(3, 0, 4, 1, 2),
            ),
            (
                "(B, N, C) is reshaped to (B, h, N, d) without a transpose: a head then mixes channels of "
                "different tokens",
                lambda y, h: torch.stack([t.reshape(len(y), h, y.shape[1], -1) for t in y.chunk(3, -1)]),
            ),
        ),
        "merge": (
            (
                "(B, h, N, d) is reshaped to (B, N, C) without transposing back: bring the heads next to their "
                "channels first",
                lambda o: o.reshape(len(o), o.shape[2], -1),
            ),
            (
                "the heads are interleaved at the end, (d h): lay them side by side, (h d), head first",
                lambda o: o.permute(0, 2, 3, 1).flatten(2),
            ),
            ("the heads are averaged at the end: lay them side by side", lambda o: o.mean(1).repeat(1, 1, o.shape[1])),
            ("the heads come in reverse order at the end", lambda o: o.flip(1).transpose(1, 2).flatten(2)),
        ),
        "product": instead_of_product(),
        "values": instead_of_values(),
    },
)


def piece_heads(x, w_qkv, b_qkv, w_out, b_out, num_heads):
    """(B, N, C) -> (B, N, C) with PyTorch's fused attention, as in `models.timesformer.Attention`."""
    q, k, v = three_heads(F.linear(x, w_qkv, b_qkv), num_heads)  # 3 x (B, h, N, d)
    out = F.scaled_dot_product_attention(q, k, v)  # (B, h, N, d)
    return F.linear(out.transpose(1, 2).flatten(2), w_out, b_out)  # (B, N, C)


EXERCISES["2.2"] = Exercise(
    "multi-head attention",
    heads_literal,
    heads_cases,
    lambda x, *_: f"(B, N, C) = ({', '.join(map(str, x.shape))})",
    (
        (
            "the output projection is missing: the heads, side by side, still pass `w_out` and `b_out`",
            lambda x, wq, bq, wo, bo, h: heads_like(x, wq, bq, torch.eye(len(wo)), 0 * bo, h),
        ),
        ("`b_out` is not added", lambda x, wq, bq, wo, bo, h: heads_like(x, wq, bq, wo, 0 * bo, h)),
        ("`b_qkv` is not added", lambda x, wq, bq, wo, bo, h: heads_like(x, wq, 0 * bq, wo, bo, h)),
        ("queries and keys are exchanged: the order is q, k, v", varied(order=(1, 0, 2))),
        ("keys and values are exchanged: the order is q, k, v", varied(order=(0, 2, 1))),
        ("queries and values are exchanged: the order is q, k, v", varied(order=(2, 1, 0))),
        ("the logits are not scaled: divide by √d", varied(scale=lambda q, k, C: 1.0)),
        ("you divide by √C; d is the number of channels of one head, C/h", varied(scale=lambda q, k, C: C**-0.5)),
        (
            "the logits are divided by d, not by √d (scaling q and then the product once more comes to the same)",
            varied(scale=lambda q, k, C: 1 / q.shape[-1]),
        ),
        (
            "the softmax runs over the queries: it must run over the keys, the last axis",
            varied(attend=lambda s, v: s.softmax(-2) @ v),
        ),
        (
            "the softmax runs over the heads: it must run over the keys, the last axis",
            varied(attend=lambda s, v: s.softmax(1) @ v),
        ),
        ("there is no softmax", varied(attend=lambda s, v: s @ v)),
        (
            "all C channels attend as one head: `num_heads` is not used",
            lambda x, wq, bq, wo, bo, h: heads_like(x, wq, bq, wo, bo, 1),
        ),
    ),
    piece=piece_heads,
    more=lambda: [
        heads_case(r.randint(1, 3), r.randint(2, 8), h * r.randint(2, 5), h)
        for r in randoms(4)
        for h in [r.randint(2, 4)]
    ],
    gradient=True,
    kinds=(HEADS,),
)


# ---------------------------------------------------------------- 2.3 relative position bias in one dimension


def bias_literal(table, n):
    """One head and one pair at a time. The row of the table is query minus key, shifted so that the smallest is 0."""
    return torch.stack(
        [
            torch.stack([torch.stack([table[i - j + n - 1, a] for j in range(n)]) for i in range(n)])
            for a in range(table.shape[1])
        ]
    )  # (h, n, n)


def offsets(n):
    """(n, n): query minus key."""
    i = torch.arange(n)
    return i[:, None] - i[None, :]


def look_up(table, rows):
    return table[rows].permute(2, 0, 1)  # (h, n, n)


EXERCISES["2.3"] = Exercise(
    "relative position bias",
    bias_literal,
    lambda: [(torch.randn(2 * n - 1, h), n) for n, h in ((4, 3), (2, 2), (6, 1), (5, 4))],
    lambda table, n: f"(h, n, n) = ({table.shape[1]}, {n}, {n})",
    (
        (
            "the offset is key minus query; it must be query minus key, with queries in the rows",
            lambda t, n: look_up(t, -offsets(n) + n - 1),
        ),
        (
            "the offsets are not moved: -(n-1) must become row 0, but a negative index counts from the end of the "
            "table",
            lambda t, n: look_up(t, offsets(n)),
        ),
        (
            "the sign of the offset is lost: before and after must have rows of their own",
            lambda t, n: look_up(t, offsets(n).abs()),
        ),
        (
            "the bias depends on the key alone: that is an absolute position",
            lambda t, n: look_up(t, torch.arange(n).expand(n, n)),
        ),
        (
            "the bias depends on the query alone: the softmax removes it again",
            lambda t, n: look_up(t, torch.arange(n)[:, None].expand(n, n)),
        ),
        (
            "query and key are added, not subtracted",
            lambda t, n: look_up(t, torch.arange(n)[:, None] + torch.arange(n)),
        ),
        ("the heads are the last axis: bring them to the front", lambda t, n: t[offsets(n) + n - 1]),
        (
            "the look-up gives (n, n, h); bring the heads to the front with permute, a reshape or view mixes them up",
            lambda t, n: t[offsets(n) + n - 1].reshape(-1, n, n),
        ),
        (
            "the table is reshaped to (h, 2n-1); it must be transposed",
            lambda t, n: t.reshape(t.shape[1], -1)[:, offsets(n) + n - 1],
        ),
    ),
    piece=lambda table, n: look_up(table, swin.relative_position_index((n,))),
    more=lambda: [(torch.randn(2 * n - 1, r.randint(1, 5)), n) for r in randoms(5) for n in [r.randint(2, 8)]],
    gradient=True,
    kinds=(Rows(lambda table, n: (n,), ("n",), ("the row",), table=True),),
)


# ---------------------------------------------------------------- 2.4, 2.5 multiply-accumulates


def numbers(function):
    """Make `function` return its number as a tensor without axes, because the checks compare tensors."""
    return lambda *args: torch.as_tensor(function(*args))


def counting(title, definition, cases, mistakes, piece, more, formula):
    """An exercise whose answer is a whole number."""
    return Exercise(
        title,
        definition,
        cases,
        lambda *_: "a whole number",
        tuple((name, numbers(wrong)) for name, wrong in mistakes),
        piece=numbers(piece),
        more=more,
        kinds=(formula,),
    )


BESIDE = (
    ("that of a softmax: it is no product of matrices, and the formula leaves it out", dict(h=2, w=2)),
    (
        "that of adding a bias or of scaling: it is no product of matrices, and the formula leaves it out",
        dict(h=1, w=1, C=1),
    ),
    ("that of a linear layer more", dict(h=1, w=1, C=2)),
)
BESIDE_WINDOWS = ((BESIDE[0][0], dict(h=1, w=1, M=2)), *BESIDE[1:])


def products(*sizes):
    """MACs of matrix products (a × b) by (b × c)."""
    return torch.tensor(sum(a * b * c for a, b, c in sizes))


def msa_literal(h, w, C):
    """One matrix product at a time: q, k, v, logits, weighted sum (for all heads together), output."""
    N = h * w
    return products(*3 * [(N, C, C)], (N, C, N), (N, N, C), (N, C, C))


EXERCISES["2.4"] = counting(
    "multiply-accumulates of MSA",
    msa_literal,
    lambda: [(2, 3, 4), (7, 5, 32), (56, 56, 96), (14, 14, 768), (28, 10, 1)],
    (
        (
            "every multiply-accumulate is counted twice: that is PyTorch's FLOP; the papers' is one multiplication "
            "with its addition",
            lambda h, w, C: 2 * msa_literal(h, w, C),
        ),
        (
            "there are four projections, not three: the output has one too",
            lambda h, w, C: 3 * h * w * C**2 + 2 * (h * w) ** 2 * C,
        ),
        (
            "there are two products among tokens, q kᵀ and the weighted sum of v, so the second term has a factor 2",
            lambda h, w, C: 4 * h * w * C**2 + (h * w) ** 2 * C,
        ),
        (
            "the second term must grow with the number of pairs, (hw)², not of tokens",
            lambda h, w, C: 4 * h * w * C**2 + 2 * h * w * C,
        ),
        (
            "the second term lacks C: comparing one pair takes one multiplication a channel",
            lambda h, w, C: 4 * h * w * C**2 + 2 * (h * w) ** 2,
        ),
        (
            "the first term lacks a C: a projection takes C multiplications for each of C outputs",
            lambda h, w, C: 4 * h * w * C + 2 * (h * w) ** 2 * C,
        ),
        (
            "the MLP is included (8hwC²): asked for is attention only",
            lambda h, w, C: 12 * h * w * C**2 + 2 * (h * w) ** 2 * C,
        ),
        ("the projections are missing: 4hwC²", lambda h, w, C: 2 * (h * w) ** 2 * C),
        ("the number of tokens is h·w; you used h²", lambda h, w, C: 4 * h * h * C**2 + 2 * h**4 * C),
    ),
    piece=lambda h, w, C: 4 * h * w * C**2 + 2 * (h * w) ** 2 * C,
    more=lambda: [(r.randint(1, 60), r.randint(1, 60), r.randint(1, 99)) for r in randoms(12)],
    formula=Formula(
        (("4hwC²", 4, dict(h=1, w=1, C=2)), ("2(hw)²C", 2, dict(h=2, w=2, C=1))),
        lambda h, w, C: dict(h=h, w=w, C=C),
        {},
        beside=BESIDE,
    ),
)


def window_msa_literal(h, w, C, M):
    """One window at a time, on a map that is padded to whole windows."""
    windows = len(range(0, h, M)) * len(range(0, w, M))
    return windows * msa_literal(M, M, C)


def padded(n, M):
    return ceil(n / M) * M


def window_like(N, C, partners):
    return 4 * N * C**2 + 2 * partners * N * C


EXERCISES["2.5"] = counting(
    "multiply-accumulates of W-MSA",
    window_msa_literal,
    lambda: [(56, 56, 96, 7), (14, 21, 32, 7), (15, 20, 16, 7), (9, 6, 8, 4), (10, 5, 3, 5)],
    (
        (
            "the padding is missing: a map that is no multiple of M is padded to whole windows, and padded tokens "
            "cost the same",
            lambda h, w, C, M: window_like(h * w, C, M * M),
        ),
        (
            "only the products among tokens are padded: the map is padded before the projections, so these see the "
            "padding too",
            lambda h, w, C, M: 4 * h * w * C**2 + 2 * M * M * padded(h, M) * padded(w, M) * C,
        ),
        (
            "rounded down: tokens that do not fill a window would be dropped; the number of windows is rounded up",
            lambda h, w, C, M: window_like(h // M * M * (w // M * M), C, M * M),
        ),
        (
            "a map that is already a multiple of M gets one more row and column of windows: round up, do not add 1",
            lambda h, w, C, M: window_like((h // M + 1) * M * (w // M + 1) * M, C, M * M),
        ),
        (
            "the total is rounded up to windows; each side must be rounded up on its own",
            lambda h, w, C, M: window_like(padded(h * w, M * M), C, M * M),
        ),
        ("a token meets M² tokens, not M", lambda h, w, C, M: window_like(padded(h, M) * padded(w, M), C, M)),
        (
            "that is global attention: a token meets the M² tokens of its window only",
            lambda h, w, C, M: window_like(padded(h, M) * padded(w, M), C, padded(h, M) * padded(w, M)),
        ),
        ("that is one window: multiply by their number", lambda h, w, C, M: window_like(M * M, C, M * M)),
        (
            "every multiply-accumulate is counted twice: that is PyTorch's FLOP; the papers' is one multiplication "
            "with its addition",
            lambda h, w, C, M: 2 * window_msa_literal(h, w, C, M),
        ),
        (
            "there are four projections, not three: the output has one too",
            lambda h, w, C, M: padded(h, M) * padded(w, M) * (3 * C**2 + 2 * M * M * C),
        ),
        (
            "there are two products among tokens, q kᵀ and the weighted sum of v, so the second term has a factor 2",
            lambda h, w, C, M: padded(h, M) * padded(w, M) * (4 * C**2 + M * M * C),
        ),
    ),
    piece=lambda h, w, C, M: window_like(padded(h, M) * padded(w, M), C, M * M),
    more=lambda: [
        (M + r.randint(0, 50), M + r.randint(0, 50), r.randint(1, 99), M)
        for r in randoms(16)
        for M in [r.randint(2, 9)]
    ],
    formula=Formula(
        (("4hwC²", 4, dict(h=1, w=1, C=2)), ("2M²hwC", 2, dict(h=1, w=1, C=1, M=2))),
        lambda h, w, C, M: dict(h=padded(h, M), w=padded(w, M), C=C, M=M),
        {
            side: (
                (f"{side} is not padded to a multiple of M", lambda *a, i=i: a[i]),
                (f"{side} is rounded down to a multiple of M: round up", lambda *a, i=i: a[i] // a[3] * a[3]),
                (
                    f"{side} is rounded to the nearest multiple of M: round up",
                    lambda *a, i=i: round(a[i] / a[3]) * a[3],
                ),
                (
                    f"{side} always gets one more window: round up, do not add 1",
                    lambda *a, i=i: (a[i] // a[3] + 1) * a[3],
                ),
                (f"{side} grows by M - 1 at most: round up to a multiple of M", lambda *a, i=i: a[i] + a[3] - 1),
                (f"{side} grows by {side} mod M: it must grow by -{side} mod M", lambda *a, i=i: a[i] + a[i] % a[3]),
            )
            for i, side in enumerate(("h", "w"))
        }
        | {
            ("h", "w"): (
                ("h and w are rounded down to a multiple of M: round up", lambda h, w, C, M: (h // M * M, w // M * M)),
                ("h and w are not padded to a multiple of M", lambda h, w, C, M: (h, w)),
                (
                    "h and w always get one more window: round up, do not add 1",
                    lambda h, w, C, M: ((h // M + 1) * M, (w // M + 1) * M),
                ),
                (
                    "h and w are rounded to the nearest multiple of M: round up",
                    lambda h, w, C, M: (round(h / M) * M, round(w / M) * M),
                ),
                (
                    "h · w is rounded down to whole windows; each side must be rounded up on its own",
                    lambda h, w, C, M: (h * w // M**2 * M**2, 1),
                ),
                (
                    "h · w is rounded up to whole windows; each side must be rounded up on its own",
                    lambda h, w, C, M: (padded(h * w, M**2), 1),
                ),
            )
        },
        beside=BESIDE_WINDOWS,
    ),
)


# ---------------------------------------------------------------- 2.6 bytes of the logits


def bytes_literal(T, H, W, patch, heads, batch, each):
    """There is one logit for each ordered pair of tokens, in each head and each clip."""
    tokens = 1 + sum(
        1 for _ in range(T) for _ in range(0, H - patch + 1, patch) for _ in range(0, W - patch + 1, patch)
    )
    return torch.tensor(batch * heads * tokens * tokens * each)


def bytes_like(tokens, heads, batch, each):
    return batch * heads * tokens**2 * each


def patches(T, H, W, patch):
    return T * (H // patch) * (W // patch)


EXERCISES["2.6"] = counting(
    "bytes of joint attention",
    bytes_literal,
    lambda: [
        (8, 224, 224, 16, 1, 1, 4),
        (32, 224, 224, 16, 12, 8, 4),
        (3, 32, 48, 8, 2, 3, 2),
        (16, 64, 32, 32, 4, 1, 2),
    ],
    (
        (
            "the class token is missing: it is one more token of the clip",
            lambda T, H, W, p, h, b, e: bytes_like(patches(T, H, W, p), h, b, e),
        ),
        (
            "there is a class token in every frame; the clip has one",
            lambda T, H, W, p, h, b, e: bytes_like(patches(T, H, W, p) + T, h, b, e),
        ),
        (
            "you count tokens; the matrix has a number for every pair of tokens",
            lambda T, H, W, p, h, b, e: b * h * (patches(T, H, W, p) + 1) * e,
        ),
        (
            "every frame has a matrix of its own: that is attention in space only; joint attention pairs tokens of "
            "all frames",
            lambda T, H, W, p, h, b, e: T * bytes_like((H // p) * (W // p) + 1, h, b, e),
        ),
        (
            "the heads are missing: each has a matrix of its own",
            lambda T, H, W, p, h, b, e: bytes_like(patches(T, H, W, p) + 1, 1, b, e),
        ),
        (
            "the batch is missing: each clip has matrices of its own",
            lambda T, H, W, p, h, b, e: bytes_like(patches(T, H, W, p) + 1, h, 1, e),
        ),
        (
            "these are bits: a number takes `each` bytes",
            lambda T, H, W, p, h, b, e: 8 * bytes_like(patches(T, H, W, p) + 1, h, b, e),
        ),
        (
            "these are numbers, not bytes: multiply by `each`",
            lambda T, H, W, p, h, b, e: bytes_like(patches(T, H, W, p) + 1, h, b, 1),
        ),
        (
            "a patch is `patch` pixels wide and high: divide H and W by it, both",
            lambda T, H, W, p, h, b, e: bytes_like(T * H * W // p + 1, h, b, e),
        ),
        (
            "two frames share a token: that is Video Swin's tube; TimeSformer cuts every frame by itself",
            lambda T, H, W, p, h, b, e: bytes_like(patches(ceil(T / 2), H, W, p) + 1, h, b, e),
        ),
    ),
    piece=lambda T, H, W, patch, heads, batch, each: bytes_like(patches(T, H, W, patch) + 1, heads, batch, each),
    more=lambda: [
        (r.randint(1, 20), p * r.randint(1, 9), p * r.randint(1, 9), p, *(r.randint(1, 9) for _ in range(3)))
        for r in randoms(16)
        for p in [r.randint(2, 16)]
    ],
    formula=Formula(
        (("batch · heads · N² · each", 1, dict(batch=1, heads=1, N=2, each=1)),),
        lambda T, H, W, patch, heads, batch, each: dict(
            N=patches(T, H, W, patch) + 1, batch=batch, heads=heads, each=each, T=T, patch=patch
        ),
        {
            "N": (
                ("the class token is missing", lambda T, H, W, p, *_: patches(T, H, W, p)),
                ("every frame has a class token; the clip has one", lambda T, H, W, p, *_: patches(T, H, W, p) + T),
                (
                    "the tokens of one frame are counted; N is that of the clip",
                    lambda T, H, W, p, *_: patches(1, H, W, p) + 1,
                ),
                ("there are two class tokens; the clip has one", lambda T, H, W, p, *_: patches(T, H, W, p) + 2),
                ("H is not divided by `patch`", lambda T, H, W, p, *_: T * H * (W // p) + 1),
                ("W is not divided by `patch`", lambda T, H, W, p, *_: T * (H // p) * W + 1),
                ("neither H nor W is divided by `patch`", lambda T, H, W, p, *_: T * H * W + 1),
                (
                    "H · W is divided by `patch` once; each of the two must be",
                    lambda T, H, W, p, *_: T * H * W // p + 1,
                ),
                (
                    "the number of patches is that of a square image, H for W",
                    lambda T, H, W, p, *_: patches(T, H, H, p) + 1,
                ),
                (
                    "the number of patches is that of a square image, W for H",
                    lambda T, H, W, p, *_: patches(T, W, W, p) + 1,
                ),
                (
                    "T is cut by `patch` as well: a patch is part of one frame",
                    lambda T, H, W, p, *_: patches(-(-T // p), H, W, p) + 1,
                ),
                (
                    "the frames are not counted: N is that of the clip, class token aside",
                    lambda T, H, W, p, *_: patches(1, H, W, p),
                ),
            )
        },
        plus={"N": ("the class token", 1)},
    ),
)
