"""Notebook 04: windows of space and time, and the network made of them."""

from functools import lru_cache
from itertools import permutations, product
from math import prod

import torch
import torch.nn.functional as F
from torch import nn

from vt_course.lab.exercise import Exercise, randoms
from vt_course.lab.exercises.uniformer import Parts, a_map, part, then, two_layers
from vt_course.lab.kinds.axes import Axes
from vt_course.lab.kinds.operations import Choices, instead_of_roll
from vt_course.lab.kinds.steps import Step, Steps
from vt_course.lab.kinds.tables import Rows
from vt_course.models import official, swin, video_swin

EXERCISES: dict[str, Exercise] = {}
WINDOW = {"window": ("P", "Mh", "Mw")}
WORDS = dict(b="B", T="T/P", p="P", H="H/Mh", h="Mh", W="W/Mw", w="Mw", c="C")


def partition_literal(x, window):
    """One slice for each window, at (t, h, w), with its tokens frame by frame and row by row."""
    P, Mh, Mw = window
    B, T, H, W, C = x.shape
    out = [
        x[b, t : t + P, h : h + Mh, w : w + Mw].reshape(-1, C)
        for b in range(B)
        for t in range(0, T, P)
        for h in range(0, H, Mh)
        for w in range(0, W, Mw)
    ]
    return torch.stack(out)  # (B·nW, P·M·M, C)


def split(x, window):
    """(B, T, H, W, C) -> (B, nT, P, nH, Mh, nW, Mw, C)."""
    P, Mh, Mw = window
    B, T, H, W, C = x.shape
    return x.reshape(B, T // P, P, H // Mh, Mh, W // Mw, Mw, C)


def cut(x, window, order):
    """Partition in which the eight axes of `split` are brought into another order."""
    return split(x, window).permute(order).reshape(-1, prod(window), x.shape[-1])


def partition_cases():
    return [
        (torch.randn(B, T, H, W, C), window)
        for B, T, H, W, C, window in (
            (1, 4, 4, 4, 1, (2, 2, 2)),
            (2, 4, 6, 9, 3, (2, 2, 3)),
            (3, 6, 4, 4, 2, (3, 4, 2)),
            (2, 2, 8, 4, 5, (1, 4, 4)),
        )
    ]


def partition_shape(x, window):
    B, T, H, W, C = x.shape
    P, Mh, Mw = window
    return f"(B·T/P·H/M·W/M, P·M·M, C) = ({B}·{T // P}·{H // Mh}·{W // Mw}, {P}·{Mh}·{Mw}, {C})"


EXERCISES["4.1"] = Exercise(
    "window partition",
    partition_literal,
    partition_cases,
    partition_shape,
    (
        (
            "the axes are never permuted: a plain reshape takes tokens that follow each other in memory, not a P × M "
            "× M block",
            lambda x, w: x.reshape(-1, prod(w), x.shape[-1]),
        ),
        (
            "inside a window your tokens run (H W T); the paper's order is (T H W), W fastest",
            lambda x, w: cut(x, w, (0, 1, 3, 5, 4, 6, 2, 7)),
        ),
        (
            "inside a window your tokens run (T W H): H and W are exchanged",
            lambda x, w: cut(x, w, (0, 1, 3, 5, 2, 6, 4, 7)),
        ),
        (
            "inside a window your tokens run (W H T): the order of the three axes is reversed",
            lambda x, w: cut(x, w, (0, 1, 3, 5, 6, 4, 2, 7)),
        ),
        (
            "the windows themselves are listed (W H T); the order is (T H W), W fastest",
            lambda x, w: cut(x, w, (0, 5, 3, 1, 2, 4, 6, 7)),
        ),
        (
            "the windows are listed (T W H): H and W of the window grid are exchanged",
            lambda x, w: cut(x, w, (0, 1, 5, 3, 2, 4, 6, 7)),
        ),
        (
            "you gather tokens at the same place of all windows (a dilated grid): number of windows and window size "
            "are exchanged in the reshape, T must become (T/P, P), not (P, T/P)",
            lambda x, w: dilated(x, w),
        ),
        (
            "the batch axis comes after the windows: all windows of sample 0 must come first",
            lambda x, w: cut(x, w, (1, 3, 5, 0, 2, 4, 6, 7)),
        ),
    ),
    piece=swin.window_partition,
    parts=WINDOW,
    more=lambda: [
        (torch.randn(r.randint(1, 3), *(m * r.randint(1, 3) for m in window), r.randint(1, 4)), window)
        for r in randoms(6)
        for window in [(r.randint(1, 4), r.randint(1, 4), r.randint(1, 4))]
    ],
    kinds=(
        Axes(
            "b (T p) (H h) (W w) c -> (b T H W) (p h w) c",
            dict(b=2, T=3, p=2, H=2, h=5, W=4, w=3, c=2),
            lambda x, n: (x, (n["p"], n["h"], n["w"])),
            lambda x, window: dict(zip("phw", window)),
            WORDS,
        ),
    ),
)


def dilated(x, window):
    P, Mh, Mw = window
    B, T, H, W, C = x.shape
    x = x.reshape(B, P, T // P, Mh, H // Mh, Mw, W // Mw, C)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(-1, prod(window), C)


def reverse_literal(windows, window, size):
    """Write each window back where it was cut."""
    P, Mh, Mw = window
    T, H, W = size
    per_clip = (T // P) * (H // Mh) * (W // Mw)
    out = windows.new_empty(len(windows) // per_clip, T, H, W, windows.shape[-1])
    i = 0
    for b in range(len(out)):
        for t, h, w in product(range(0, T, P), range(0, H, Mh), range(0, W, Mw)):
            out[b, t : t + P, h : h + Mh, w : w + Mw] = windows[i].view(P, Mh, Mw, -1)
            i += 1
    return out  # (B, T, H, W, C)


def glue(windows, window, size, order, axes=(0, 1, 2)):
    """Reverse that permutes the axes (B, nT, nH, nW, P, Mh, Mw, C) by `order`; `axes`: the order of the grid's axes."""
    grid = [size[a] // window[a] for a in axes]
    return windows.reshape(-1, *grid, *window, windows.shape[-1]).permute(order).reshape(-1, *size, windows.shape[-1])


EXERCISES["4.2"] = Exercise(
    "window reverse",
    reverse_literal,
    lambda: [(partition_literal(x, w), w, tuple(x.shape[1:4])) for x, w in partition_cases()],
    lambda windows, w, size: f"(B, T, H, W, C) = (B, {size[0]}, {size[1]}, {size[2]}, {windows.shape[-1]})",
    (
        (
            "the axes are never permuted: reshaping alone lays the windows one after the other along W",
            lambda x, w, s: x.reshape(-1, *s, x.shape[-1]),
        ),
        (
            "each axis is put together as (token, window) instead of (window, token): neighbours end up one window "
            "apart",
            lambda x, w, s: glue(x, w, s, (0, 4, 1, 5, 2, 6, 3, 7)),
        ),
        (
            'this is the permutation of exercise 4.1, which is not its own inverse: each "where" must come right '
            'after its "which", (0, 1, 4, 2, 5, 3, 6, 7)',
            lambda x, w, s: glue(x, w, s, (0, 1, 3, 5, 2, 4, 6, 7)),
        ),
        (
            "H and W of the window grid are exchanged in the permutation",
            lambda x, w, s: glue(x, w, s, (0, 1, 4, 3, 5, 2, 6, 7)),
        ),
        (
            "H and W of the window grid are exchanged in the first reshape",
            lambda x, w, s: glue(x, w, s, (0, 1, 4, 2, 5, 3, 6, 7), (0, 2, 1)),
        ),
        (
            "you read the windows in the order (T W H); they are listed (T H W), W fastest",
            lambda x, w, s: glue(x, w, s, (0, 1, 4, 3, 5, 2, 6, 7), (0, 2, 1)),
        ),
        ("H and W inside the windows are exchanged", lambda x, w, s: glue(x, w, s, (0, 1, 4, 2, 6, 3, 5, 7))),
    ),
    piece=swin.window_reverse,
    parts=WINDOW | {"size": ("T", "H", "W")},
    more=lambda: [
        (torch.randn(r.randint(1, 3) * prod(n), prod(w), r.randint(1, 4)), w, tuple(a * b for a, b in zip(n, w)))
        for r in randoms(6)
        for w, n in [[tuple(r.randint(1, 4) for _ in range(3)), tuple(r.randint(1, 3) for _ in range(3))]]
    ],
    kinds=(
        Axes(
            "(b T H W) (p h w) c -> b (T p) (H h) (W w) c",
            dict(b=2, T=3, p=2, H=2, h=5, W=4, w=3, c=2),
            lambda x, n: (x, (n["p"], n["h"], n["w"]), (n["T"] * n["p"], n["H"] * n["h"], n["W"] * n["w"])),
            lambda x, window, size: dict(zip("phw", window)) | dict(zip("THW", (n // m for n, m in zip(size, window)))),
            WORDS,
        ),
    ),
)


def roll_literal(x, shift):
    """Token (t, h, w) of the result is token (t + st, h + sh, w + sw) of x; indices wrap around at the border."""
    index = [(torch.arange(n) + s) % n for n, s in zip(x.shape[1:4], shift)]
    return x[:, index[0]][:, :, index[1]][:, :, :, index[2]]


def roll_cases():
    return [
        (torch.randn(2, 4, 6, 5, 3), (1, 2, 3)),
        (torch.randn(1, 8, 8, 8, 2), (2, 2, 2)),
        (torch.randn(2, 5, 3, 4, 1), (2, 0, 1)),
    ]


AXES_OF_SHIFT = ("time", "height", "width")


def roll_like(x, shift, *, dims=(1, 2, 3), signs=(-1, -1, -1), rolled=None):
    if rolled is not None:
        return rolled(x, shift)
    return torch.roll(x, [a * s for a, s in zip(signs, shift)], dims)


def each_clip(rolled):
    """A roll of the whole batch as one row, and one of each clip's axes: f(x, shift) of (B, T, H, W, C)."""
    return lambda x, s: torch.stack([rolled(clip, s) for clip in x])


ROLLS = Choices(
    roll_like,
    {
        "dims": tuple(
            (f"the three shifts are applied to the axes {dims}; it must be (1, 2, 3)", dims)
            for dims in product(range(5), repeat=3)
            if dims != (1, 2, 3)
        ),
        "signs": tuple(
            (
                "the shift along "
                + " and ".join(name for name, s in zip(("time", "height", "width"), signs) if s > 0)
                + " has the other sign: `torch.roll` gets -shift",
                signs,
            )
            for signs in product((-1, 1), repeat=3)
            if signs != (-1, -1, -1)
        ),
        "rolled": tuple(
            (sentence, function)
            for sentence, rolled in instead_of_roll(AXES_OF_SHIFT)
            for function in (each_clip(rolled), *([rolled] if "one long row" in sentence else []))
        ),
    },
)


EXERCISES["4.3"] = Exercise(
    "cyclic shift",
    roll_literal,
    roll_cases,
    lambda x, s: "the shape of x",
    (
        (
            "the sign is the other one: the shift moves tokens towards index 0, so `torch.roll` gets -shift",
            lambda x, s: torch.roll(x, s, (1, 2, 3)),
        ),
        (
            "time is not shifted: the shift has three entries, axes 1, 2 and 3",
            lambda x, s: torch.roll(x, [-v for v in s[1:]], (2, 3)),
        ),
        ("only time is shifted: H and W need their shift too", lambda x, s: torch.roll(x, -s[0], 1)),
        ("the axes are off by one: axis 0 is the batch", lambda x, s: torch.roll(x, [-v for v in s], (0, 1, 2))),
        ("the shift is applied in the order (W, H, T)", lambda x, s: torch.roll(x, [-v for v in s], (3, 2, 1))),
        (
            "what leaves on one side is dropped and replaced by zeros; a cyclic shift brings it back on the other side",
            lambda x, s: drop(x, s),
        ),
    ),
    piece=roll_literal,
    more=lambda: [
        (torch.randn(r.randint(1, 4), *(r.randint(3, 6) for _ in range(4))), tuple(r.randint(0, 3) for _ in range(3)))
        for r in randoms(8)
    ],
    kinds=(ROLLS,),
    parts={"shift": ("st", "sh", "sw")},
)


def drop(x, shift):
    out = torch.zeros_like(x)
    T, H, W = (n - s for n, s in zip(x.shape[1:4], shift))
    out[:, :T, :H, :W] = x[:, shift[0] :, shift[1] :, shift[2] :]
    return out


def mask_from(labels, window):
    """(T, H, W) group numbers -> (nW, N, N): -100 between tokens of different groups."""
    groups = partition_literal(labels[None, ..., None].float(), window)[..., 0]  # (nW, N)
    return torch.where(groups[:, :, None] == groups[:, None, :], 0.0, -100.0)


def number_groups(size, window, shift):
    """The literal group numbers before the roll. The borders of the shifted windows cut each axis into pieces."""
    labels = torch.zeros(size, dtype=torch.long)
    for axis, (n, w, s) in enumerate(zip(size, window, shift)):
        piece = torch.div(torch.arange(n) - s, w, rounding_mode="floor") + 1  # (n,) the piece of each place
        labels = labels * (n + 1) + piece.view([-1 if a == axis else 1 for a in range(3)])
    return labels


def mask_literal(size, window, shift):
    """Roll the group numbers of the shifted windows, cut them into windows, and compare every pair of tokens."""
    return mask_from(roll_literal(number_groups(size, window, shift)[None, ..., None], shift)[0, ..., 0], window)


def mask_cases():
    return [
        ((8, 8, 8), (4, 4, 4), (2, 2, 2)),
        ((6, 4, 9), (3, 2, 3), (1, 1, 2)),
        ((8, 4, 4), (4, 4, 4), (2, 0, 0)),
        ((4, 8, 4), (4, 4, 2), (0, 2, 1)),
        ((4, 4, 4), (2, 2, 2), (0, 0, 0)),
    ]


def mask_like(size, window, shift, *, values=(0.0, -100.0), rolled=None, turned=None, cut=None, used=None):
    """The mask in which the steps that are given replace the right ones."""
    numbers = number_groups(size, window, shift if used is None else used(shift, window))
    if rolled is None:
        by = shift if turned is None else turned(shift, window)
        numbers = roll_literal(numbers[None, ..., None], by)[0, ..., 0]
    else:
        numbers = rolled(numbers, shift)
    groups = (partition_literal if cut is None else cut)(numbers[None, ..., None], window)[..., 0]
    return torch.where(groups[:, :, None] == groups[:, None, :], *values)


MASKS = Choices(
    mask_like,
    {
        "values": (
            ("forbidden pairs hold 1 instead of -100 (a boolean mask?): it is added to the logits", (0.0, 1.0)),
            ("allowed pairs hold 1 and forbidden pairs 0 (a truth value): allowed is 0, forbidden -100", (1.0, 0.0)),
            ("the mask is the wrong way round: you forbid pairs of the same group and allow the others", (-100.0, 0.0)),
            ("forbidden pairs get +100 instead of -100: softmax would look at nothing else", (0.0, 100.0)),
            ("forbidden pairs hold -1 instead of -100: softmax would hardly notice", (0.0, -1.0)),
            (
                "forbidden pairs hold -inf; the official value is -100 (with -inf a row that is all forbidden "
                "becomes NaN)",
                (0.0, -torch.inf),
            ),
            ("allowed pairs hold 1; they must hold 0", (1.0, -100.0)),
            ("forbidden pairs hold -10; the official value is -100", (0.0, -10.0)),
            ("forbidden pairs hold -1000; the official value is -100", (0.0, -1000.0)),
            ("forbidden pairs hold -1e9; the official value is -100", (0.0, -1e9)),
            ("forbidden pairs hold -10,000; the official value is -100", (0.0, -1e4)),
            ("allowed pairs hold 100 and forbidden pairs 0: allowed is 0, forbidden -100", (100.0, 0.0)),
            *(
                (f"forbidden pairs hold {c:g}; the official value is -100", (0.0, c))
                for c in (-1e5, -1e6, -1e8, -1e10, -1e12, torch.finfo().min)
            ),
            *(
                (
                    "the mask is inverted: pairs of the same group hold "
                    f"{'minus infinity' if c == -torch.inf else f'{c:g}'}, the others 0",
                    (c, 0.0),
                )
                for c in (-10.0, -1e3, -1e4, -1e5, -1e6, -1e8, -1e9, -1e10, -1e12, torch.finfo().min, -torch.inf)
            ),
        ),
        "rolled": (
            (
                "your groups are numbered before the roll: number the groups of the rolled map, or roll the "
                "numbers too",
                lambda g, s: g,
            ),
            (
                "the numbers are rolled the other way: they must move with the tokens, by -shift",
                lambda g, s: g.roll(s, (0, 1, 2)),
            ),
            *(
                (
                    f"the numbers of the groups are not rolled along {name}",
                    lambda g, s, a=a: g.roll([-v if b != a else 0 for b, v in enumerate(s)], (0, 1, 2)),
                )
                for a, name in enumerate(AXES_OF_SHIFT)
            ),
            *instead_of_roll(AXES_OF_SHIFT),
        ),
        "turned": (
            ("the numbers are rolled by half a window, whatever `shift` is", lambda s, w: tuple(m // 2 for m in w)),
            (
                "the numbers are rolled by window - shift instead of by the shift",
                lambda s, w: tuple(m - v for m, v in zip(w, s)),
            ),
        ),
        "used": (
            *(
                (
                    f"{name} is not cut by the shift, so nothing is forbidden along it",
                    lambda s, w, a=a: tuple(0 if b == a else v for b, v in enumerate(s)),
                )
                for a, name in enumerate(AXES_OF_SHIFT)
            ),
            ("the groups are those of windows that are not shifted", lambda s, w: (0, 0, 0)),
            ("the groups are cut at half a window, whatever `shift` is", lambda s, w: tuple(m // 2 for m in w)),
            (
                "the groups are cut at window - shift; the first cut lies at `shift`",
                lambda s, w: tuple(m - v for m, v in zip(w, s)),
            ),
        ),
        "cut": (
            (
                "inside a window the tokens of the mask are listed (H W T); the order is (T H W)",
                lambda x, w: cut(x, w, (0, 1, 3, 5, 4, 6, 2, 7)),
            ),
            (
                "the masks of the windows are listed (H W T); the order is (T H W)",
                lambda x, w: cut(x, w, (0, 3, 5, 1, 2, 4, 6, 7)),
            ),
            (
                "the masks of the windows are listed (W H T); the order is (T H W)",
                lambda x, w: cut(x, w, (0, 5, 3, 1, 2, 4, 6, 7)),
            ),
            (
                "the axes are never permuted before the windows are cut",
                lambda x, w: x.reshape(-1, prod(w), x.shape[-1]),
            ),
        ),
    },
)


EXERCISES["4.4"] = Exercise(
    "shift mask",
    mask_literal,
    mask_cases,
    lambda size, w, s: f"(T/P·H/M·W/M, P·M·M, P·M·M) = ({prod(a // b for a, b in zip(size, w))}, {prod(w)}, {prod(w)})",
    (
        (
            "time is forgotten: tokens of the first and the last frames may not meet either",
            lambda z, w, s: mask_literal(z, w, (0, *s[1:])),
        ),
        ("only time is masked: H and W wrap around as well", lambda z, w, s: mask_literal(z, w, (s[0], 0, 0))),
        (
            "nothing is masked: the border that matters lies inside the last window of an axis, `shift` tokens before "
            "its end",
            lambda z, w, s: torch.zeros_like(mask_literal(z, w, s)),
        ),
    ),
    piece=swin.shift_mask,
    parts=WINDOW | {"size": ("T", "H", "W"), "shift": ("st", "sh", "sw")},
    more=lambda: [
        (tuple(m * r.randint(1, 3) for m in window), window, tuple(r.randint(0, m - 1) for m in window))
        for r in randoms(6)
        for window in [(r.randint(1, 3), r.randint(1, 4), r.randint(1, 4))]
    ],
    kinds=(MASKS,),
)


def index_literal(window):
    """One pair of tokens at a time: the offset along each of the three axes gives the row."""
    P, Mh, Mw = window
    tokens = list(product(range(P), range(Mh), range(Mw)))
    return torch.tensor(
        [
            [
                ((t1 - t2 + P - 1) * (2 * Mh - 1) + h1 - h2 + Mh - 1) * (2 * Mw - 1) + w1 - w2 + Mw - 1
                for t2, h2, w2 in tokens
            ]
            for t1, h1, w1 in tokens
        ]
    )


def index_like(window, place, tokens=None):
    """The relative index if `place(dt, dh, dw, P, Mh, Mw)` gives the row of an offset."""
    P, Mh, Mw = window
    tokens = tokens or list(product(range(P), range(Mh), range(Mw)))
    return torch.tensor([[place(a[0] - b[0], a[1] - b[1], a[2] - b[2], P, Mh, Mw) for b in tokens] for a in tokens])


EXERCISES["4.5"] = Exercise(
    "relative position index",
    index_literal,
    lambda: [((2, 2, 2),), ((3, 2, 2),), ((2, 3, 4),), ((4, 4, 4),)],
    lambda w: f"(N, N) with N = {w[0]}·{w[1]}·{w[2]}",
    (
        ("the index is transposed: the offset is query minus key, rows are queries", lambda w: index_literal(w).T),
        (
            "the offsets are not moved to start at 0: add P-1, M-1, M-1 before you combine them",
            lambda w: index_like(w, lambda t, h, x, P, A, B: (t * (2 * A - 1) + h) * (2 * B - 1) + x),
        ),
        (
            "off by one: the offset -(M-1) must become 0, so add M-1, not M",
            lambda w: index_like(w, lambda t, h, x, P, A, B: ((t + P) * (2 * A - 1) + h + A) * (2 * B - 1) + x + B),
        ),
        (
            "an axis has 2M-1 offsets, not 2M: different offsets share a row or rows stay unused",
            lambda w: index_like(w, lambda t, h, x, P, A, B: ((t + P - 1) * 2 * A + h + A - 1) * 2 * B + x + B - 1),
        ),
        (
            "you multiply by the window size instead of the number of offsets (2M-1): different offsets share a row "
            "(the difference of the tokens' numbers, i - j, comes to the same)",
            lambda w: index_like(w, lambda t, h, x, P, A, B: ((t + P - 1) * A + h + A - 1) * B + x + B - 1),
        ),
        (
            "the digits run (W H T): time must be the slowest, W the fastest",
            lambda w: index_like(
                w, lambda t, h, x, P, A, B: ((x + B - 1) * (2 * A - 1) + h + A - 1) * (2 * P - 1) + t + P - 1
            ),
        ),
        (
            "Mh and Mw are taken as equal: W has 2Mw-1 offsets, H has 2Mh-1",
            lambda w: index_like(
                w, lambda t, h, x, P, A, B: ((t + P - 1) * (2 * A - 1) + h + A - 1) * (2 * A - 1) + x + A - 1
            ),
        ),
        (
            "2P-1 is the base of all digits; the digit of H has 2M-1 values, that of W has 2M-1: these are the bases",
            lambda w: index_like(
                w, lambda t, h, x, P, A, B: ((t + P - 1) * (2 * P - 1) + h + A - 1) * (2 * P - 1) + x + B - 1
            ),
        ),
        (
            "the three offsets are added instead of being read as digits of one number",
            lambda w: index_like(w, lambda t, h, x, P, A, B: t + P - 1 + h + A - 1 + x + B - 1),
        ),
    ),
    piece=swin.relative_position_index,
    parts=WINDOW,
    more=lambda: [((r.randint(1, 3), r.randint(1, 4), r.randint(1, 5)),) for r in randoms(8)],
    kinds=(Rows(lambda window: window, ("P", "Mh", "Mw"), ("time", "height", "width")),),
)


def inflate_literal(weight, pt):
    """Each time step of the tube gets the weight of the image model, divided by the number of time steps."""
    out = torch.empty(*weight.shape[:2], pt, *weight.shape[2:])
    for t in range(pt):
        out[:, :, t] = weight / pt
    return out  # (D, C, pt, ph, pw)


def inflate_like(weight, pt, *, scale=None, filled=None):
    """The tube weights in which the steps that are given replace the right ones."""
    share = 1 / pt if scale is None else scale(pt, weight)
    held = range(pt) if filled is None else filled(pt)
    return torch.stack([share * weight if t in held else torch.zeros_like(weight) for t in range(pt)], 2)


INFLATED = Choices(
    inflate_like,
    {
        "scale": (
            ("duplicated but not divided: on a still clip every token comes out pt times too large", lambda pt, w: 1.0),
            ("divided by pt², or twice by pt", lambda pt, w: 1 / pt**2),
            (
                "divided by √pt: that keeps the variance of independent frames, but neighbouring frames are "
                "nearly equal",
                lambda pt, w: pt**-0.5,
            ),
            ("halved always: divide by pt, not by 2", lambda pt, w: 0.5),
            ("the weights are multiplied by pt; divide by it", lambda pt, w: float(pt)),
            ("the weights are divided by pt + 1; divide by pt", lambda pt, w: 1 / (pt + 1)),
            ("the weights are divided by the number of output channels; divide by pt", lambda pt, w: 1 / w.shape[0]),
            ("the weights are divided by the number of colours; divide by pt", lambda pt, w: 1 / w.shape[1]),
            (
                "the weights are divided by all numbers of the kernel; divide by pt",
                lambda pt, w: 1 / (pt * w[0, 0].numel()),
            ),
        ),
        "filled": (
            ("only the first time step holds weights", lambda pt: (0,)),
            ("only the last time step holds weights", lambda pt: (pt - 1,)),
            ("only the middle time step holds weights", lambda pt: (pt // 2,)),
            ("the last time step holds no weights", lambda pt: range(pt - 1)),
            ("the first time step holds no weights", lambda pt: range(1, pt)),
        ),
    },
)


EXERCISES["4.6"] = Exercise(
    "inflation",
    inflate_literal,
    lambda: [(torch.randn(6, 3, 4, 4), 2), (torch.randn(5, 3, 4, 2), 3), (torch.randn(2, 1, 2, 2), 1)],
    lambda w, pt: f"(D, C, pt, ph, pw) = ({w.shape[0]}, {w.shape[1]}, {pt}, {w.shape[2]}, {w.shape[3]})",
    (
        (
            "only one time step holds weights: that is centre initialisation; asked for is duplicate and divide",
            lambda w, pt: torch.stack([w if t == pt // 2 else torch.zeros_like(w) for t in range(pt)], 2),
        ),
        (
            "only the first time step holds weights",
            lambda w, pt: torch.stack([w if t == 0 else torch.zeros_like(w) for t in range(pt)], 2),
        ),
        (
            "the time axis is the last one; Conv3d wants (D, C, time, height, width)",
            lambda w, pt: w[..., None].repeat(1, 1, 1, 1, pt) / pt,
        ),
    ),
    piece=official.inflate_patch,
    more=lambda: [(torch.randn(*(r.randint(1, 5) for _ in range(4))), r.randint(1, 5)) for r in randoms(6)],
    kinds=(INFLATED,),
)


# ---------------------------------------------------------------- 4.7: a whole block


class MaskedAttention(nn.Module):
    """Attention in windows: (B·nW, N, C) and the mask (nW, N, N) -> (B·nW, N, C). It stands for the notebook's."""

    def __init__(self, dim, heads, window):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.table = nn.Parameter(torch.zeros(prod(2 * m - 1 for m in window), heads))
        self.register_buffer("index", swin.relative_position_index(window))

    def forward(self, windows, mask):
        N = windows.shape[1]
        q, k, v = self.qkv(windows).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3 x (B·nW, h, N, d)
        bias = self.table[self.index[:N, :N]].permute(2, 0, 1) + mask[:, None]  # (nW, h, N, N)
        logits = q @ k.mT * q.shape[-1] ** -0.5 + bias.repeat(len(windows) // len(mask), 1, 1, 1)
        return self.proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


def block_parts(dim, heads, window, shift):
    block = Parts(
        f"a block with window {window} and shift {shift}",
        norm1=nn.LayerNorm(dim),
        attn=MaskedAttention(dim, heads, window),
        norm2=nn.LayerNorm(dim),
        mlp=two_layers(nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)),
    )
    block.window, block.shift = window, shift
    return block


known_mask = lru_cache(maxsize=256)(mask_literal)


def block_literal(block, x):
    """Line by line, with the literal functions of 4.1 to 4.4. An axis that one window covers does not shift."""
    size = x.shape[1:4]
    window = tuple(min(n, m) for n, m in zip(size, block.window))
    shift = tuple(s if n > m else 0 for n, m, s in zip(size, block.window, block.shift))
    padded = tuple(m * -(-n // m) for n, m in zip(size, window))
    y = x.new_zeros(len(x), *padded, x.shape[-1])
    y[:, : size[0], : size[1], : size[2]] = block.norm1(x)
    windows = partition_literal(roll_literal(y, shift), window)
    windows = block.attn(windows, known_mask(padded, window, shift))
    y = roll_literal(reverse_literal(windows, window, padded), [-s for s in shift])
    x = x + y[:, : size[0], : size[1], : size[2]]
    return x + block.mlp(block.norm2(x))


def clamped(s):
    """The step of the clamp: window and shift of the map as it is now."""
    size, block = s["x"].shape[1:4], s["block"]
    s["window"] = tuple(min(n, m) for n, m in zip(size, block.window))
    s["shift"] = tuple(m if n > w else 0 for n, w, m in zip(size, block.window, block.shift))


def clamped_with(window=None, shift=None):
    """A wrong clamp: window(size, block) or shift(size, block) replaces the right one."""

    def do(s):
        size, block = s["x"].shape[1:4], s["block"]
        clamped(s)
        if window:
            s["window"] = window(size, block)
        if shift:
            s["shift"] = shift(size, block)

    return do


def padded_with(amounts, front=False):
    """The step that pads with zeros: amounts(n, m) for each axis."""

    def do(s):
        s["size"] = s["x"].shape[1:4]
        t, h, w = (amounts(n, m) for n, m in zip(s["size"], s["window"]))
        s["x"] = F.pad(s["x"], (0, 0, w, 0, h, 0, t, 0) if front else (0, 0, 0, w, 0, h, 0, t))

    return do


def rolled(sign, shift=lambda s: s["shift"]):
    return then(lambda x, s: x.roll([sign * m for m in shift(s)], (1, 2, 3)))


def attend_with(mask):
    """The step of the attention; mask(size, window, shift, block)."""

    def do(s):
        s["padded"] = tuple(s["x"].shape[1:4])
        windows = cut(s["x"], s["window"], (0, 1, 3, 5, 2, 4, 6, 7))
        windows = s["block"].attn(windows, mask(s["padded"], s["window"], s["shift"], s["block"]))
        s["x"] = glue(windows, s["window"], s["padded"], (0, 1, 4, 2, 5, 3, 6, 7))

    return do


def cropped(s):
    T, H, W = s["size"]
    s["x"] = s["x"][:, :T, :H, :W]


def cropped_at_the_front(s):
    T, H, W = (p - n for p, n in zip(s["x"].shape[1:4], s["size"]))
    s["x"] = s["x"][:, T:, H:, W:]


def kept_normed(s):
    s["x"] = s["normed"] = s["block"].norm1(s["x"])


def first_sum(function):
    """The step that adds the input; the MLP's residual adds what it makes."""

    def do(s):
        s["x"] = s["kept"] = function(s["x"], s)

    return do


BLOCK = Steps(
    lambda block, x: dict(
        block=block, x=x, input=x, kept=x, size=x.shape[1:4], window=block.window, shift=block.shift, normed=x
    ),
    (
        Step("norm1", kept_normed, (("the norms are exchanged: `norm1` is that of the attention", part("norm2")),)),
        Step(
            "clamp window and shift",
            clamped,
            (
                (
                    "the window is clamped and the shift is not: an axis that one window covers must not shift, and "
                    "`clamp` returns both",
                    clamped_with(shift=lambda size, b: b.shift),
                ),
                (
                    "the shift is clamped and the window is not: on a small map the window shrinks too, and `clamp` "
                    "returns both",
                    clamped_with(window=lambda size, b: b.window),
                ),
                ("the windows never shift: `block.shift` is not used", clamped_with(shift=lambda size, b: (0, 0, 0))),
                (
                    "every block shifts by half a window; the shift is `block.shift`, which may be 0",
                    clamped_with(shift=lambda size, b: tuple(m // 2 if n > m else 0 for n, m in zip(size, b.window))),
                ),
                (
                    "every block shifts by half of its window, also where one window covers the axis; use `clamp`",
                    clamped_with(shift=lambda size, b: tuple(min(n, m) // 2 for n, m in zip(size, b.window))),
                ),
                (
                    "one axis that a window covers stops the shift of all axes: each axis has its own shift",
                    clamped_with(
                        shift=lambda size, b: b.shift if all(n > m for n, m in zip(size, b.window)) else (0, 0, 0)
                    ),
                ),
                (
                    "an axis exactly as long as the window shifts: one window covers it, so its shift is 0",
                    clamped_with(
                        shift=lambda size, b: tuple(s if n >= m else 0 for n, m, s in zip(size, b.window, b.shift))
                    ),
                ),
            ),
        ),
        Step(
            "pad",
            padded_with(lambda n, m: -n % m),
            (
                (
                    "the zeros come before the map: `F.pad` wants (0, 0, 0, w, 0, h, 0, t), the 0 before the amount",
                    padded_with(lambda n, m: -n % m, front=True),
                ),
                (
                    "an axis that is a multiple of the window is padded with one more window: use `-n % m`",
                    padded_with(lambda n, m: m - n % m),
                ),
                ("the padding is n % m; what is missing is `-n % m`", padded_with(lambda n, m: n % m)),
            ),
        ),
        Step(
            "roll",
            rolled(-1),
            (
                ("the first roll has the other sign: `cyclic_shift` rolls towards index 0 by itself", rolled(1)),
                (
                    "the map is rolled by `block.shift`: use the shift that `clamp` returned, as the mask does",
                    rolled(-1, lambda s: s["block"].shift),
                ),
            ),
        ),
        Step(
            "attn with the mask",
            attend_with(lambda size, window, shift, block: known_mask(size, window, shift)),
            (
                (
                    "nothing is masked: `attn` needs the mask of the padded, rolled map",
                    attend_with(
                        lambda size, window, shift, block: torch.zeros(prod(a // b for a, b in zip(size, window)), 1, 1)
                    ),
                ),
                (
                    "the mask is made with `block.shift`: use the shift that `clamp` returned",
                    attend_with(lambda size, window, shift, block: known_mask(size, window, block.shift)),
                ),
                (
                    "every window gets the mask of the first one",
                    attend_with(
                        lambda size, window, shift, block: known_mask(size, window, shift)[:1].expand(
                            prod(a // b for a, b in zip(size, window)), -1, -1
                        )
                    ),
                ),
                (
                    "the mask has the other sign: +100 makes a token look at nothing but foreign ones",
                    attend_with(lambda size, window, shift, block: -known_mask(size, window, shift)),
                ),
            ),
        ),
        Step(
            "roll back",
            rolled(1),
            (("the map is rolled once more instead of back: the second roll is by minus the shift", rolled(-1)),),
        ),
        Step(
            "crop",
            cropped,
            (
                (
                    "the crop takes the end of the map: the zeros stand at the end, so keep the first T, H and W",
                    cropped_at_the_front,
                ),
            ),
        ),
        Step(
            "add x",
            first_sum(lambda x, s: s["input"] + x),
            (
                ("the first residual is missing: add x to what the attention made", first_sum(lambda x, s: x)),
                (
                    "the first residual adds norm1(x): it must add x as it came in",
                    first_sum(lambda x, s: s["normed"] + x),
                ),
            ),
        ),
        Step("norm2", part("norm2"), (("the first norm is used twice: the MLP has its own, `norm2`", part("norm1")),)),
        Step("mlp", part("mlp")),
        Step(
            "add y",
            then(lambda x, s: s["kept"] + x),
            (
                ("the second residual is missing: add what the first one made", then(lambda x, s: x)),
                (
                    "the second residual adds the block's input: it must add what the first one made",
                    then(lambda x, s: s["input"] + x),
                ),
            ),
        ),
    ),
    together=(("roll", "roll back"), ("norm2", "mlp", "add y")),
)


def swin_block(block, x):
    """(B, T, H, W, C) -> the same shape, with the modules, the window and the shift of `block`."""
    return BLOCK.function(block, x)


def with_norms_behind(sums):
    """Norms at other places; sums(branch, norm, x) is one half of the block."""

    def forward(block, x):
        attend = BLOCK.run([s.do for s in BLOCK.steps[1:7]], (block, x))
        x = sums(lambda _: attend, block.norm1, x)
        return sums(block.mlp, block.norm2, x)

    return forward


def mlp_of_input(block, x):
    y = BLOCK.run([s.do for s in BLOCK.steps[:8]], (block, x))
    return y + block.mlp(block.norm2(x))


def block_cases():
    return [
        (block_parts(4, 2, window, shift), a_map(B, *size, 4))
        for B, size, window, shift in (
            (2, (4, 4, 6), (2, 2, 3), (1, 1, 1)),
            (1, (3, 5, 7), (2, 2, 3), (1, 1, 1)),
            (2, (3, 4, 6), (4, 2, 3), (2, 1, 1)),
            (1, (2, 2, 5), (2, 2, 2), (1, 1, 1)),
            (1, (5, 3, 4), (2, 2, 2), (0, 0, 0)),
        )
    ]


EXERCISES["4.7"] = Exercise(
    "a whole block",
    block_literal,
    block_cases,
    lambda block, x: f"(B, T, H, W, C) = ({', '.join(map(str, x.shape))})",
    (
        (
            "the norms come last, after the sums (post-norm): each stands before its branch, and the sum gets no norm",
            with_norms_behind(lambda branch, norm, x: norm(x + branch(x))),
        ),
        (
            "each norm stands behind its branch: it must stand before it",
            with_norms_behind(lambda branch, norm, x: x + norm(branch(x))),
        ),
        (
            "both rolls have the other sign: `cyclic_shift` rolls towards index 0 by itself, so it gets `shift` first, "
            "and minus the shift on the way back",
            BLOCK.changed({3: rolled(1), 5: rolled(-1)}),
        ),
        ("the MLP gets norm2(x): it must get norm2 of what attention and the first sum made", mlp_of_input),
        (
            "the block's input is added once more at the end: there are two residuals",
            lambda block, x: x + BLOCK.function(block, x),
        ),
    ),
    piece=swin_block,
    gradient=True,
    more=lambda: [
        (block_parts(4, 2, window, tuple(r.randint(0, m // 2) for m in window)), a_map(1, *size, 4))
        for r in randoms(4)
        for window, size in [[tuple(r.randint(1, 3) for _ in range(3)), [r.randint(2, 5) for _ in range(3)]]]
    ],
    kinds=(BLOCK,),
)


# ---------------------------------------------------------------- 4.8: merging and the stages


class Neighbours(nn.Module):
    """Stands for a block: (B, T, H, W, C) -> the same shape. It is quick, and mixes places and channels."""

    def __init__(self, dim):
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, x):
        return x + F.gelu(self.linear(x.roll((1, 1, 1), (1, 2, 3))))


def small_network(*depths):
    """The modules of a small network, as in the notebook: a merging has parts and no `forward`."""
    layers = nn.ModuleList()
    for i, depth in enumerate(depths):
        C = 4 * 2**i
        merging = Parts("a merging", norm=nn.LayerNorm(4 * C), reduction=nn.Linear(4 * C, 2 * C, bias=False))
        last = i == len(depths) - 1
        blocks = nn.Sequential(*(Neighbours(C) for _ in range(depth)))
        layers.append(Parts("a stage", blocks=blocks, downsample=None if last else merging))
    words = f"a network with {', '.join(map(str, depths))} blocks"
    embed = video_swin.PatchEmbed3D((2, 4, 4), 3, 4)
    return Parts(words, patch_embed=embed, layers=layers, norm=nn.LayerNorm(C), head=nn.Linear(C, 5))


def scores_literal(net, x):
    """Patch embedding; for each stage its blocks one by one and its merging, row by row; norm, mean, head."""
    x = net.patch_embed(x)
    for stage in net.layers:
        for block in stage.blocks:
            x = block(x)
        if stage.downsample is not None:
            B, T, H, W, C = x.shape
            even = x.new_zeros(B, T, H + H % 2, W + W % 2, C)
            even[:, :, :H, :W] = x
            rows = []
            for h in range(0, H, 2):
                four = [even[:, :, h + i, j::2] for j in (0, 1) for i in (0, 1)]  # 4 x (B, T, W/2, C)
                rows.append(torch.cat(four, -1))
            x = stage.downsample.reduction(stage.downsample.norm(torch.stack(rows, 2)))  # (B, T, H/2, W/2, 2C)
    return net.head(net.norm(x).mean((1, 2, 3)))  # (B, K)


ORDER = ((0, 0), (1, 0), (0, 1), (1, 1))


def even(x):
    return F.pad(x, (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2))


def neighbours(x, order=ORDER):
    return torch.cat([x[:, :, i::2, j::2] for i, j in order], -1)  # (B, T, H/2, W/2, 4C)


def merge(m, x):
    return m.reduction(m.norm(neighbours(even(x))))


def halves(m, x):
    x = even(x)
    H, W = (n // 2 for n in x.shape[2:4])
    return m.reduction(m.norm(torch.cat([x[:, :, i * H :][:, :, :H, j * W :][:, :, :, :W] for i, j in ORDER], -1)))


def pad_in_front(m, x):
    x = F.pad(x, (0, 0, x.shape[3] % 2, 0, x.shape[2] % 2, 0))
    return m.reduction(m.norm(neighbours(x)))


def order_text(order):
    return ", ".join(f"({i}, {j})" for i, j in order)


def scores_like(net, x, *, blocks=None, merging=merge, norm=None, pool=None, head=None):
    """The scores in which the steps that are given replace the right ones."""
    x = net.patch_embed(x)
    for i, stage in enumerate(net.layers):
        inside = list(stage.blocks)
        for block in inside if blocks is None else blocks(inside, i):
            x = block(x)
        if stage.downsample is not None:
            x = merging(stage.downsample, x)
    x = net.norm(x) if norm is None else norm(net, x)
    x = x.mean((1, 2, 3)) if pool is None else pool(x)
    return net.head(x) if head is None else head(net, x)


SCORES = Choices(
    scores_like,
    {
        "blocks": (
            ("only the first block of each stage is used", lambda stage, i: stage[:1]),
            (
                "only the last block of each stage counts: each block must get what the one before it made",
                lambda stage, i: stage[-1:],
            ),
            ("the blocks of a stage run from the last to the first", lambda stage, i: stage[::-1]),
            ("no block is used: each stage runs its blocks, then merges", lambda stage, i: []),
            ("the blocks of the last stage are left out", lambda stage, i: [] if i == 2 else stage),
            ("the blocks of the first stage are left out", lambda stage, i: stage if i else []),
            ("each block runs twice", lambda stage, i: [b for b in stage for _ in range(2)]),
        ),
        "norm": (("the last norm is missing: `net.norm` comes before the mean", lambda net, x: x),),
        "pool": (
            ("the places are added up: the classifier reads their mean", lambda x: x.sum((1, 2, 3))),
            ("the largest value of all places is taken: the classifier reads their mean", lambda x: x.amax((1, 2, 3))),
            (
                "only the first token is read: there is no class token here, the classifier reads the mean of all",
                lambda x: x[:, 0, 0, 0],
            ),
            ("only the first time step is read: take the mean over time, too", lambda x: x[:, 0].mean((1, 2))),
            ("only the last time step is read: take the mean over time, too", lambda x: x[:, -1].mean((1, 2))),
            ("the mean over time is a sum: divide by the number of time steps, too", lambda x: x.sum(1).mean((1, 2))),
        ),
        "head": (
            (
                "there is a softmax at the end: asked for are the scores before it",
                lambda net, x: net.head(x).softmax(-1),
            ),
            ("the last norm comes after the mean, too: once is enough", lambda net, x: net.head(net.norm(x))),
            ("there is a GELU before the classifier; it reads the mean as it is", lambda net, x: net.head(F.gelu(x))),
        ),
        "merging": (
            *(
                (
                    f"the channels of a merged token run ({words}), slowest first: each neighbour keeps its C channels "
                    "together",
                    lambda m, x, axes=axes: m.reduction(
                        m.norm(neighbours(even(x)).unflatten(-1, (2, 2, -1)).permute(*range(4), *axes).flatten(4))
                    ),
                )
                for words, axes in (("channel, column, row", (6, 4, 5)), ("channel, row, column", (6, 5, 4)))
            ),
            (
                "the norm of the merging is missing: it stands between the four neighbours and `reduction`",
                lambda m, x: m.reduction(neighbours(even(x))),
            ),
            (
                "an odd map is cropped: pad it with zeros, so that the last row and column are kept",
                lambda m, x: m.reduction(m.norm(neighbours(x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]))),
            ),
            ("the zeros come before the first row and column; they belong behind the last", pad_in_front),
            ("the halves of the map are laid side by side: neighbours are in rows 0 and 1, 2 and 3, ...", halves),
            (
                "time is merged too: every second time step is lost. Merging leaves time alone",
                lambda m, x: merge(m, x[:, ::2]),
            ),
            (
                "time is merged too: two time steps become their mean. Merging leaves time alone",
                lambda m, x: merge(m, x[:, : x.shape[1] // 2 * 2].unflatten(1, (-1, 2)).mean(2)),
            ),
            (
                "a stage merges before the map is complete: only the first time step is kept",
                lambda m, x: merge(m, x[:, :1]),
            ),
            *(
                (
                    f"the four neighbours (row offset, column offset) stand in the order {order_text(order)}; the "
                    f"weights expect {order_text(ORDER)}",
                    lambda m, x, order=order: m.reduction(m.norm(neighbours(even(x), order))),
                )
                for order in permutations(ORDER)
                if order != ORDER
            ),
        ),
    },
)


def classify(net, x):
    """(B, 3, T, H, W) -> (B, K), with the modules of `net`."""
    return scores_like(net, x)


EXERCISES["4.8"] = Exercise(
    "merging and the stages",
    scores_literal,
    lambda: [(small_network(1, 2, 1), a_map(2, 3, 8, 20, 28)), (small_network(2, 1, 2), a_map(1, 3, 10, 28, 20))],
    lambda net, x: f"(B, K) = ({len(x)}, 5)",
    (
        (
            "the last norm comes after the mean: it normalises each token, so it must come before",
            lambda net, x: scores_like(net, x, norm=lambda net, x: x, head=lambda net, x: net.head(net.norm(x))),
        ),
    ),
    piece=classify,
    gradient=True,
    more=lambda: [(small_network(2, 2, 2), a_map(1, 3, 12, 24, 20))],
    kinds=(SCORES,),
)


# ---------------------------------------------------------------- 4.9: inflate a whole image model


def entry_literal(name, weight, pt, P):
    """Three rules: the patch embedding, the bias tables, and a copy of all else."""
    if name == "patch_embed.proj.weight":
        return inflate_literal(weight, pt)
    if name.endswith("relative_position_bias_table"):
        return torch.cat([weight for _ in range(2 * P - 1)])
    return weight.clone()


def entry_like(name, weight, pt, P, *, patch=None, table=None, other=None, tables=None, patches=None):
    """The entry in which the rules that are given replace the right ones."""
    if (name == "patch_embed.proj.weight") if patches is None else patches(name, weight):
        return inflate_literal(weight, pt) if patch is None else patch(weight, pt, P)
    if name.endswith("relative_position_bias_table") if tables is None else tables(name, weight):
        return weight.repeat(2 * P - 1, 1) if table is None else table(weight, pt, P)
    return weight.clone() if other is None else other(weight, pt, P)


def only_at_zero(weight, P):
    out = torch.zeros(2 * P - 1, *weight.shape)
    out[P - 1] = weight
    return out.flatten(0, 1)


ENTRIES = Choices(
    entry_like,
    {
        "patch": (
            (
                "the patch embedding is repeated and not divided: use `inflate`",
                lambda w, pt, P: pt * inflate_literal(w, pt),
            ),
            ("the patch embedding is copied: it needs a time axis, use `inflate`", lambda w, pt, P: w),
            (
                "the patch embedding gets P time steps; it has pt, the frames of a tube",
                lambda w, pt, P: inflate_literal(w, P),
            ),
            (
                "the patch embedding holds weights in one time step only: that is centre initialisation",
                lambda w, pt, P: torch.stack([w if t == pt // 2 else 0 * w for t in range(pt)], 2),
            ),
        ),
        "table": (
            (
                "a table is repeated P times: there are 2P-1 offsets in time, from -(P-1) to P-1",
                lambda w, pt, P: w.repeat(P, 1),
            ),
            ("a table is repeated 2P times: there are 2P-1 offsets in time", lambda w, pt, P: w.repeat(2 * P, 1)),
            ("a table is repeated pt times: there are 2P-1 offsets in time", lambda w, pt, P: w.repeat(pt, 1)),
            (
                "a table is repeated 2·pt-1 times: the offsets in time are those of the window, 2P-1",
                lambda w, pt, P: w.repeat(2 * pt - 1, 1),
            ),
            (
                "each row is repeated in place: time is the slowest digit, so the whole table must be repeated",
                lambda w, pt, P: w.repeat_interleave(2 * P - 1, 0),
            ),
            (
                "a table is divided by 2P-1: on a still clip the copies of a key share its weight by themselves",
                lambda w, pt, P: w.repeat(2 * P - 1, 1) / (2 * P - 1),
            ),
            (
                "a table is divided by P: on a still clip the copies of a key share its weight by themselves",
                lambda w, pt, P: w.repeat(2 * P - 1, 1) / P,
            ),
            ("a table is copied: it needs rows for each of the 2P-1 offsets in time", lambda w, pt, P: w),
            (
                "the table holds the image's rows at offset 0 only, and 0 elsewhere: other time steps need them too",
                lambda w, pt, P: only_at_zero(w, P),
            ),
            ("the heads are repeated, not the rows: rows are the first axis", lambda w, pt, P: w.repeat(1, 2 * P - 1)),
        ),
        "other": (
            ("all other weights are divided too: copy them", lambda w, pt, P: w / pt),
            ("all other weights become 0: copy them", lambda w, pt, P: 0 * w),
        ),
        "tables": (
            (
                "tables are found by their two axes: other matrices have two, too. Ask for the name",
                lambda n, w: w.ndim == 2,
            ),
            (
                "tables are found only in the first stage: ask how the name ends",
                lambda n, w: n.startswith("layers.0") and n.endswith("bias_table"),
            ),
            (
                "the tables are found by `bias` in the name: other biases are vectors of other layers",
                lambda n, w: "bias" in n,
            ),
        ),
    },
)


def inflate_entry(name, weight, pt, P):
    """What an entry of an image model's state becomes in the video model."""
    return entry_like(name, weight, pt, P)


def entry_cases():
    return [
        ("patch_embed.proj.weight", torch.randn(5, 3, 4, 4), 2, 4),
        ("layers.0.blocks.0.attn.relative_position_bias_table", torch.randn(9, 2), 2, 4),
        ("layers.1.blocks.1.attn.relative_position_bias_table", torch.randn(25, 3), 3, 2),
        ("layers.0.blocks.0.attn.proj.weight", torch.randn(4, 4), 2, 4),
        ("layers.0.blocks.0.attn.proj.bias", torch.randn(4), 2, 4),
        ("layers.0.downsample.reduction.weight", torch.randn(6, 12), 2, 3),
        ("patch_embed.proj.weight", torch.randn(2, 3, 4, 2), 3, 2),
    ]


def entry_shape(name, weight, pt, P):
    if name == "patch_embed.proj.weight":
        D, C, ph, pw = weight.shape
        return f"(D, C, pt, ph, pw) = ({D}, {C}, {pt}, {ph}, {pw})"
    if name.endswith("relative_position_bias_table"):
        rows, h = weight.shape
        return f"((2P-1)·rows, h) = ({(2 * P - 1)}·{rows}, {h}) = ({(2 * P - 1) * rows}, {h})"
    return "the shape of the weight"


EXERCISES["4.9"] = Exercise(
    "inflate a whole model",
    entry_literal,
    entry_cases,
    entry_shape,
    (),
    piece=inflate_entry,
    more=lambda: [
        (f"layers.{r.randint(0, 3)}.blocks.0.attn.{end}", torch.randn(*shape), r.randint(1, 3), r.randint(1, 5))
        for r in randoms(4)
        for end, shape in (
            ("relative_position_bias_table", (r.randint(1, 9), r.randint(1, 3))),
            ("qkv.weight", (r.randint(1, 5), 3)),
        )
    ],
    kinds=(ENTRIES,),
)
