"""Notebook 04: windows of space and time."""

from itertools import product
from math import prod

import torch

from vt_course.lab.exercise import Exercise, randoms
from vt_course.lab.kinds.axes import Axes
from vt_course.lab.kinds.operations import Choices, instead_of_roll
from vt_course.lab.kinds.tables import Rows
from vt_course.models import official, swin

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
