"""Notebook 01: which frames, which crops, and how pixels become tokens."""

from math import prod

import numpy as np
import torch
from einops import rearrange

from vt_course.data import clips, transforms
from vt_course.lab.exercise import Exercise, randoms
from vt_course.lab.kinds.axes import Axes
from vt_course.lab.kinds.operations import Choices, instead_of_centre
from vt_course.lab.kinds.points import Points

EXERCISES: dict[str, Exercise] = {}


# ---------------------------------------------------------------- which frames


def dense_literal(num_frames, frames, stride, position="centre"):
    """One frame at a time. The first is the middle of all starts that fit; each next one is `stride` frames later."""
    starts = [s for s in range(num_frames) if s + (frames - 1) * stride < num_frames] or [0]
    start = starts[(len(starts) - 1) // 2] if position == "centre" else starts[0]
    return torch.tensor([(start + i * stride) % num_frames for i in range(frames)])  # (frames,)


def steps(start, frames, stride, num_frames):
    return torch.tensor([(start + i * stride) % num_frames for i in range(frames)])


def dense_like(
    n, frames, stride, position="centre", *, span=None, start=None, centre=None, step=None, spread=None, end=None
):
    """The indices in which the steps that are given replace the right ones."""
    length = (frames - 1) * stride + 1 if span is None else span(frames, stride)
    left = n - length
    first = (max(left, 0) // 2 if position == "centre" else 0) if start is None else start(left, n, length, position)
    first = centre(n, frames, stride) if centre and position == "centre" else first
    i = torch.arange(frames)
    places = first + (i * stride if step is None else step(i, stride, frames, n))
    places = places if spread is None else spread(first, stride, frames)
    return places % n if end is None else end(places, n)


DENSE = Choices(
    dense_like,
    {
        "span": (
            (
                "the span is one step too long: `frames` frames have frames - 1 gaps, so they span (frames - 1) "
                "* stride + 1",
                lambda f, s: f * s,
            ),
            ("the span is frames · stride + 1: `frames` frames have frames - 1 gaps", lambda f, s: f * s + 1),
            ("the span is frames · stride - 1: it is (frames - 1) · stride + 1", lambda f, s: f * s - 1),
            ("the span leaves the stride out", lambda f, s: f),
        ),
        "start": (
            ("`position` is ignored: the clip always begins at frame 0", lambda r, n, _, p: 0),
            ("`position` is ignored: the clip is always in the centre", lambda r, n, _, p: max(r, 0) // 2),
            ("`position` is read the wrong way round", lambda r, n, _, p: max(r, 0) // 2 if p == "start" else 0),
            (
                "where several starts are left over, take room // 2, rounded down; yours is rounded up (or the span "
                "lacks its last frame, + 1)",
                lambda r, n, _, p: (max(r, 0) + 1) // 2 if p == "centre" else 0,
            ),
            (
                "the clip stands at the end of the video, not in its centre",
                lambda r, n, _, p: max(r, 0) if p == "centre" else 0,
            ),
            (
                "the clip begins at the middle of the video; its own middle belongs there",
                lambda r, n, _, p: n // 2 if p == "centre" else 0,
            ),
            (
                "the clip begins a quarter before the end: divide the room by 2 once",
                lambda r, n, _, p: max(r, 0) // 4 if p == "centre" else 0,
            ),
            (
                "a video that is too short begins before its frame 0; then start at 0",
                lambda r, n, _, p: r // 2 if p == "centre" else 0,
            ),
            (
                "a video that is too short begins before its frame 0, rounded towards 0; then start at 0",
                lambda r, n, _, p: int(r / 2) if p == "centre" else 0,
            ),
            (
                "a video that is too short begins in the centre of the missing frames; then start at 0",
                lambda r, n, _, p: abs(r) // 2 if p == "centre" else 0,
            ),
            (
                "the centre is a fraction: round room / 2 down with `//`",
                lambda r, n, _, p: max(r, 0) / 2 if p == "centre" else 0,
            ),
        ),
        "centre": instead_of_centre(
            "num_frames",
            {
                "span": lambda f, s: (f - 1) * s + 1,
                "frames · stride": lambda f, s: f * s,
                "(frames - 1) · stride": lambda f, s: (f - 1) * s,
                "frames": lambda f, s: f,
                "2 · (frames // 2 · stride)": lambda f, s: 2 * (f // 2 * s),
                "frames // 2 · stride": lambda f, s: f // 2 * s,
            },
            "a clip in the centre begins at (num_frames - span) // 2, or at 0 if the video is shorter than the span, "
            "(frames - 1) · stride + 1",
        ),
        "step": (
            ("the stride is forgotten: your frames follow each other", lambda i, s, f, n: i),
            ("frames are repeated `stride` times: multiply by the stride", lambda i, s, f, n: i // s),
            ("frames are counted from 1: the first one stands at the start", lambda i, s, f, n: (i + 1) * s),
            (
                "frames are counted from 1: the first one stands at the start, every index is one too large",
                lambda i, s, f, n: i * s + 1,
            ),
            ("the frames stand `stride` + 1 apart: one too far", lambda i, s, f, n: i * (s + 1)),
            ("the frames stand `stride` - 1 apart: one too near", lambda i, s, f, n: i * (s - 1)),
            ("the frames run backwards", lambda i, s, f, n: i.flip(0) * s),
            (
                "the frames are spread over the whole video instead of by the stride",
                lambda i, s, f, n: torch.linspace(0, n - 1, f).long(),
            ),
        ),
        "spread": (
            *(
                (
                    "the frames are spread by `linspace`, whose end is the last point: it must be start + (frames - 1) "
                    f"· stride; yours is {end}{how}",
                    lambda first, s, f, last=last, rounded=rounded: rounded(
                        torch.linspace(first, first + last(s, f), f)
                    ).long(),
                )
                for end, last in {
                    "start + the span, one too far": lambda s, f: (f - 1) * s + 1,
                    "one frame less": lambda s, f: (f - 1) * s - 1,
                    "start + frames · stride - 1": lambda s, f: f * s - 1,
                    "start + frames · stride": lambda s, f: f * s,
                }.items()
                for how, rounded in {
                    "": torch.floor,
                    ", and the points are rounded": torch.round,
                    ", and the points are rounded up": torch.ceil,
                }.items()
            ),
        ),
        "end": (
            (
                "frames past the end stay at the last frame; asked for is the loop: after the last frame comes frame 0",
                lambda p, n: p.clamp(max=n - 1),
            ),
            (
                "frames past the end are left as they are: the video has no such frames, take them modulo num_frames",
                lambda p, n: p,
            ),
            ("frames outside the video stay at its ends; asked for is the loop", lambda p, n: p.clamp(0, n - 1)),
            (
                "the loop is one frame short: take the remainder of num_frames, not of num_frames - 1",
                lambda p, n: p % max(n - 1, 1),
            ),
            (
                "the loop is one frame long: take the remainder of num_frames, not of num_frames + 1",
                lambda p, n: p % (n + 1),
            ),
            (
                "the video runs back from its end (mirrored); asked for is the loop",
                lambda p, n: (n - 1) - ((p % (2 * n)) - n).abs().clamp(max=n - 1) if n > 1 else 0 * p,
            ),
            ("frames past the end become frame 0; asked for is the loop", lambda p, n: torch.where(p < n, p, 0)),
            ("frames past the end are left out: the result must have `frames` of them", lambda p, n: p[p < n]),
        ),
    },
)


EXERCISES["1.1"] = Exercise(
    "dense frame indices",
    dense_literal,
    lambda: [
        (100, 8, 4, "centre"),
        (300, 32, 2, "centre"),
        (301, 16, 4, "start"),
        (64, 16, 4, "centre"),
        (20, 8, 4, "centre"),
        (10, 8, 3, "centre"),
        (7, 5, 3, "start"),
        (8, 8, 1, "centre"),
    ],
    lambda n, frames, stride, position: f"(frames,) = ({frames},)",
    (
        (
            "your frames are spread over the whole video: that is uniform sampling, which has no stride",
            lambda n, f, s, p: torch.linspace(0, n - 1, f).long(),
        ),
    ),
    piece=lambda num_frames, frames, stride, position="centre": torch.from_numpy(
        clips.dense_indices(num_frames, frames, stride, position)
    ),
    more=lambda: [
        (r.randint(5, 300), r.randint(2, 20), r.randint(1, 6), r.choice(["start", "centre"])) for r in randoms(24)
    ],
    kinds=(DENSE,),
)


def segments_literal(num_frames, frames):
    """The frame that contains the middle of each segment. Frame k reaches from k to k + 1 on the time axis."""
    out = []
    for i in range(frames):
        middle = 2 * (2 * i + 1) * num_frames  # times 4 * frames: all whole numbers
        out.append(next(k for k in range(num_frames) if 4 * frames * k <= middle < 4 * frames * (k + 1)))
    return torch.tensor(out)  # (frames,)


def uniform_like(n, frames, *, point=None, rounding=None):
    """The indices if the points in time are others, or are rounded otherwise."""
    i = torch.arange(frames).double()
    points = (i + 0.5) * n / frames if point is None else point(i, n, frames)
    return (torch.floor(points + 1e-9) if rounding is None else rounding(points)).long()


UNIFORM = Choices(
    uniform_like,
    {
        "point": (
            (
                "you take the first frame of each segment; asked for is the middle: add half a segment",
                lambda i, n, f: i * n / f,
            ),
            ("you take the end of each segment; asked for is the middle", lambda i, n, f: (i + 1) * n / f),
            (
                "you take the frame before the end of each segment; asked for is the middle",
                lambda i, n, f: (i + 1) * n / f - 1,
            ),
            ("you take one before the middle", lambda i, n, f: (i + 0.5) * n / f - 1),
            ("you take half a frame before the middle", lambda i, n, f: (i + 0.5) * n / f - 0.5),
            (
                "your frames include the first and the last of the video (`linspace`): segments have their "
                "middles half a segment away from the ends",
                lambda i, n, f: i * (n - 1) / max(f - 1, 1),
            ),
            ("your points run to num_frames, both ends included (`linspace`)", lambda i, n, f: i * n / max(f - 1, 1)),
            (
                "your segments end at the last frame, (num_frames - 1) / frames long",
                lambda i, n, f: (i + 0.5) * (n - 1) / f,
            ),
            (
                "you begin at 0 and use segments that are (num_frames - 1) / frames long",
                lambda i, n, f: i * (n - 1) / f,
            ),
            ("your segments are (num_frames + 1) / frames long", lambda i, n, f: (i + 0.5) * (n + 1) / f),
            ("you divide by frames + 1, as if the ends were segments too", lambda i, n, f: (i + 1) * n / (f + 1)),
            ("you divide by frames + 1", lambda i, n, f: (i + 0.5) * n / (f + 1)),
            (
                "the length of a segment is rounded too early: num_frames // frames loses up to a frame a "
                "segment, and they add up; multiply first, divide last",
                lambda i, n, f: (i + 0.5) * (n // f),
            ),
            (
                "the length of a segment is rounded to a whole number of frames first",
                lambda i, n, f: (i + 0.5) * round(n / f),
            ),
            ("half a frame is added, not half a segment", lambda i, n, f: i * n / f + 0.5),
            (
                "a whole segment is added, not half a segment, and the last point is kept inside the video",
                lambda i, n, f: ((i + 1) * n / f).clamp(max=n - 1),
            ),
            ("a segment and a half is added, not half a segment", lambda i, n, f: (i + 1.5) * n / f),
            (
                "a segment and a half is added, and the points are kept inside the video",
                lambda i, n, f: ((i + 1.5) * n / f).clamp(max=n - 1),
            ),
            ("a quarter of a segment is added, not half a segment", lambda i, n, f: (i + 0.25) * n / f),
            ("the frames run backwards", lambda i, n, f: (f - i - 0.5) * n / f),
        ),
        "rounding": (
            ("the points are rounded to the nearest frame; the frame that holds the time t is floor(t)", torch.round),
            ("the points are rounded up; the frame that holds the time t is floor(t)", torch.ceil),
            (
                "the points are rounded up and one is taken away; the frame that holds the time t is floor(t)",
                lambda t: torch.ceil(t) - 1,
            ),
            (
                "half is added before rounding down; the frame that holds the time t is floor(t)",
                lambda t: torch.floor(t + 0.5),
            ),
        ),
    },
)


EXERCISES["1.2"] = Exercise(
    "uniform frame indices",
    segments_literal,
    lambda: [(300, 4), (17, 4), (32, 8), (101, 16), (5, 8), (12, 12), (1, 3), (200, 12)],
    lambda n, frames: f"(frames,) = ({frames},)",
    (
        (
            "you take the last frame of each segment; asked for is the middle",
            lambda n, f: ((torch.arange(f) + 1) * n - 1) // f,
        ),
        (
            "you rounded twice, the start of the segment and half its length, and lose a frame where the fractions "
            "add up to one; divide once, at the end",
            lambda n, f: torch.arange(f) * n // f + n // f // 2,
        ),
        (
            "floating-point numbers fall on the wrong side of a frame: num_frames / frames is rounded, and what "
            "should be 125 may be 124.99999; stay with integers",
            lambda n, f: ((torch.arange(f) + 0.5) * (n / f)).long(),
        ),
        (
            "the middle is rounded up; the frame that holds the time t is floor(t)",
            lambda n, f: -(-(2 * torch.arange(f) + 1) * n // (2 * f)).clamp(min=-(n - 1)),
        ),
        (
            "your segments end at the last frame, (num_frames - 1) / frames long: that is the rule of SlowFast, "
            "another one",
            lambda n, f: torch.from_numpy(clips.slowfast_segments(n, f)),
        ),
        (
            "a video with fewer frames than segments loops; here frames are repeated in place, which keeps the order "
            "of time",
            lambda n, f: segments_literal(n, f) if n >= f else torch.arange(f) % n,
        ),
        (
            "your frames follow each other with a fixed stride from frame 0: the end of the video is never seen",
            lambda n, f: torch.arange(f) * max(n // f, 1) % n,
        ),
    ),
    piece=lambda num_frames, frames: torch.from_numpy(clips.uniform_indices(num_frames, frames)),
    more=lambda: [(r.randint(1, 400), r.randint(1, 32)) for r in randoms(24)],
    kinds=(UNIFORM, Points("num_frames", "frames")),
)


# ---------------------------------------------------------------- which pixels


def boxes_literal(height, width, size):
    """Three squares along the longer side. Along the shorter side they are in the middle."""
    out = []
    for third in range(3):
        top, left = (height - size) // 2, (width - size) // 2
        if width - size >= height - size:
            left = (0, left, width - size)[third]
        else:
            top = (0, top, height - size)[third]
        out.append([top, left, top + size, left + size])
    return torch.tensor(out)  # (3, 4)


def boxes_of_the_package(height, width, size):
    """The boxes of `three_crops`, found by cropping an array in which each pixel holds its own position."""
    places = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1)[
        None
    ]  # (1, H, W, 2)
    return torch.stack([torch.cat([c[0, 0, 0], c[0, -1, -1] + 1]) for c in transforms.three_crops(places, size)])


def boxes_with(height, width, size, where, across=None):
    """Boxes at `where(margin)` along the longer side, at `across(margin)` along the other."""
    long_is_width = width >= height
    margin, other = (width - size, height - size) if long_is_width else (height - size, width - size)
    fixed = (across or (lambda m: m // 2))(other)
    out = [[fixed, x] if long_is_width else [x, fixed] for x in where(margin)]
    return torch.tensor([[top, left, top + size, left + size] for top, left in out])


def boxes_like(height, width, size, *, where=None, across=None, centre=None, along=None, order=None, edges=None):
    """The boxes in which the steps that are given replace the right ones."""
    moves = "width" if width >= height else "height"
    moves = moves if along is None else along(moves)
    margins = dict(height=height - size, width=width - size)
    middle = {name: m // 2 if centre is None else centre(m + size, size) for name, m in margins.items()}
    places = (lambda m: (0, middle[moves], m)) if where is None else where
    out = []
    for place in places(margins[moves]):
        at = {name: middle[name] if across is None else across(m) for name, m in margins.items()} | {moves: place}
        top, left = at["height"], at["width"]
        box = (top, left, top + size, left + size)
        out.append(box if edges is None else edges(top, left, size))
    box = torch.tensor(out)
    return box if order is None else box[:, order]


BOXES = Choices(
    boxes_like,
    {
        "where": (
            (
                "the centre comes last; the order asked for is first, centre, last along the longer side",
                lambda m: (0, m, m // 2),
            ),
            ("the centre comes first; the order is first, centre, last", lambda m: (m // 2, 0, m)),
            ("the centre comes first, then the last; the order is first, centre, last", lambda m: (m // 2, m, 0)),
            ("the three run from the end to the beginning; the order is first, centre, last", lambda m: (m, m // 2, 0)),
            ("the last comes first; the order is first, centre, last", lambda m: (m, 0, m // 2)),
            ("the centre is rounded up: round down", lambda m: (0, (m + 1) // 2, m)),
            (
                "the centre is rounded to the nearest whole number (`round` takes the even one of two): round down",
                lambda m: (0, round(m / 2), m),
            ),
            (
                "your crops lie at 1/4, 2/4 and 3/4 of the margin; the outer two touch the border",
                lambda m: (m // 4, m // 2, 3 * m // 4),
            ),
            (
                "your crops lie at 0, 1/3 and 2/3 of the margin; the last touches the border",
                lambda m: (0, m // 3, 2 * m // 3),
            ),
            (
                "your crops lie at 1/6, 3/6 and 5/6 of the margin; the outer two touch the border",
                lambda m: (m // 6, m // 2, 5 * m // 6),
            ),
            ("all three crops are the centre", lambda m: (m // 2,) * 3),
            ("there is only the centre; three crops are wanted", lambda m: (m // 2,)),
            ("there are only the two outer crops; three are wanted", lambda m: (0, m)),
            ("the last crop ends one pixel too early", lambda m: (0, m // 2, m - 1)),
        ),
        "across": (
            ("along the shorter side the crops must be centred; yours lie at its beginning", lambda m: 0),
            ("along the shorter side the crops must be centred; yours lie at its end", lambda m: m),
            ("along the shorter side the centre is rounded up: round down", lambda m: (m + 1) // 2),
            (
                "along the shorter side the centre is rounded to the nearest whole number (`round` takes the even one "
                "of two): round down",
                lambda m: round(m / 2),
            ),
        ),
        "centre": instead_of_centre(
            "side", {"size": lambda size: size}, "a crop in the centre begins at (side - size) // 2"
        ),
        "along": (
            (
                "the crops always move along the width; in a portrait video they move along the height",
                lambda side: "width",
            ),
            ("the crops always move along the height", lambda side: "height"),
            ("the crops move along the shorter side", lambda side: "height" if side == "width" else "width"),
        ),
        "order": (
            ("a box is top, left, bottom, right: rows come first; yours have columns first", [1, 0, 3, 2]),
            ("a box is top, left, bottom, right; yours is top, bottom, left, right", [0, 2, 1, 3]),
            ("a box is top, left, bottom, right; yours is left, right, top, bottom", [1, 3, 0, 2]),
            ("a box is top, left, bottom, right; yours is top, left, right, bottom", [0, 1, 3, 2]),
            ("a box is top, left, bottom, right; yours is bottom, right, top, left", [2, 3, 0, 1]),
        ),
        "edges": (
            ("the last two numbers are the bottom and right edge, not height and width", lambda y, x, s: (y, x, s, s)),
            (
                "the edges at the bottom and the right lie behind the last pixel, as in a slice: yours are "
                "one too small",
                lambda y, x, s: (y, x, y + s - 1, x + s - 1),
            ),
            (
                "only the bottom is an edge; the last number is the right edge, not the width",
                lambda y, x, s: (y, x, y + s, s),
            ),
            (
                "only the right is an edge; the third number is the bottom edge, not the height",
                lambda y, x, s: (y, x, s, x + s),
            ),
            (
                "top and left are taken as the middle of the crop",
                lambda y, x, s: (y - s // 2, x - s // 2, y + s // 2, x + s // 2),
            ),
            ("only top and left are returned", lambda y, x, s: (y, x)),
        ),
    },
)


EXERCISES["1.3"] = Exercise(
    "three crops",
    boxes_literal,
    lambda: [(64, 112, 64), (320, 240, 224), (256, 341, 224), (224, 224, 224), (57, 90, 48), (90, 57, 57)],
    lambda height, width, size: "(3, 4)",
    (
        (
            "the odd pixel of a margin goes below and to the right: round down",
            lambda h, w, s: boxes_with(h, w, s, lambda m: (0, (m + 1) // 2, m), lambda m: (m + 1) // 2),
        ),
        (
            "your crops lie on the diagonal, from the top left to the bottom right; only the longer side moves",
            lambda h, w, s: torch.tensor(
                [[top, left, top + s, left + s] for top, left in ((0, 0), ((h - s) // 2, (w - s) // 2), (h - s, w - s))]
            ),
        ),
    ),
    piece=boxes_of_the_package,
    more=lambda: [(r.randint(50, 99), r.randint(50, 99), r.randint(20, 50)) for r in randoms(24)],
    kinds=(BOXES,),
)


# ---------------------------------------------------------------- patches and tubes


def numbered(*shape):
    """A tensor in which each number is its own place in memory: a wrong cut shows where its numbers came from."""
    return torch.arange(prod(shape), dtype=torch.float32).view(shape)


def cut_literal(x, sizes):
    """One slice for each box of the grid, flattened colour by colour, with the last axis fastest."""
    grid = [n // p for n, p in zip(x.shape[2:], sizes)]
    out = x.new_empty(len(x), *grid, x.shape[1] * prod(sizes))
    for place in np.ndindex(*grid):
        box = [slice(i * p, (i + 1) * p) for i, p in zip(place, sizes)]
        out[(slice(None), *place)] = x[(slice(None), slice(None), *box)].reshape(len(x), -1)
    return out  # (B, *grid, C·prod(sizes))


def cut(x, sizes, out, split):
    """Cut with einops. In the patterns, capitals are axes of the grid of boxes, small letters are axes inside a box."""
    return rearrange(x, f"{split} -> {out}", **dict(zip("thw"[-len(sizes) :], sizes)))


def shaped(tokens, x, sizes):
    """Tokens with a wrong order of numbers, reshaped to the right shape."""
    return tokens.reshape(len(x), *[n // p for n, p in zip(x.shape[2:], sizes)], -1)


def patches_literal(x, patch):
    return cut_literal(x, patch)  # (B, H/ph, W/pw, C·ph·pw)


def patches(x, patch, out="b H W (c h w)", split="b c (H h) (W w)"):
    return cut(x, patch, out, split)


EXERCISES["1.4"] = Exercise(
    "cut into patches",
    patches_literal,
    lambda: [
        (numbered(1, 3, 8, 8), (4, 4)),
        (numbered(2, 3, 8, 12), (4, 2)),
        (numbered(3, 2, 6, 15), (3, 5)),
        (numbered(2, 1, 4, 6), (1, 3)),
    ],
    lambda x, patch: (
        f"(B, H/ph, W/pw, C·ph·pw) = ({x.shape[0]}, {x.shape[2]}/{patch[0]}, {x.shape[3]}/{patch[1]}, "
        f"{x.shape[1]}·{patch[0]}·{patch[1]})"
    ),
    (
        (
            "the axes are never permuted: a plain reshape takes pixels that follow each other in memory, parts of "
            "rows, not a patch",
            lambda x, p: x.reshape(x.shape[0], x.shape[2] // p[0], x.shape[3] // p[1], -1),
        ),
        (
            "inside a token your numbers run (row, column, colour); the order asked for is that of convolution "
            "weights: colour slowest, then row, then column",
            lambda x, p: patches(x, p, "b H W (h w c)"),
        ),
        (
            "inside a token your numbers run (row, colour, column); colour must be slowest",
            lambda x, p: patches(x, p, "b H W (h c w)"),
        ),
        (
            "your patches are transposed: within a colour the numbers run down the columns, not along the rows",
            lambda x, p: patches(x, p, "b H W (c w h)"),
        ),
        (
            "you gather pixels that lie a whole grid apart: H must become (H/ph, ph), not (ph, H/ph)",
            lambda x, p: patches(x, p, split="b c (h H) (w W)"),
        ),
        (
            "the patches are listed column by column: rows of patches must come first",
            lambda x, p: shaped(patches(x, p, "b W H (c h w)"), x, p),
        ),
        (
            "the colours stay apart: a token holds all colours of its patch",
            lambda x, p: shaped(patches(x, p, "b c H W (h w)"), x, p),
        ),
    ),
    piece=patches,
    parts={"patch": ("ph", "pw")},
    more=lambda: [
        (torch.randn(r.randint(2, 4), r.randint(1, 5), r.randint(1, 4) * ph, r.randint(1, 4) * pw), (ph, pw))
        for r in randoms(5)
        for ph, pw in [(r.randint(1, 5), r.randint(1, 5))]
    ],
    kinds=(
        Axes(
            "b c (H h) (W w) -> b H W (c h w)",
            dict(b=2, c=3, H=5, h=2, W=3, w=4),
            lambda x, n: (x, (n["h"], n["w"])),
            lambda x, patch: dict(h=patch[0], w=patch[1]),
            dict(b="B", c="colour", H="H/ph", h="row", W="W/pw", w="column"),
        ),
    ),
)


def tubes_literal(x, tube):
    return cut_literal(x, tube)  # (B, T/pt, H/ph, W/pw, C·pt·ph·pw)


def tubes(x, tube, out="b T H W (c t h w)", split="b c (T t) (H h) (W w)"):
    return cut(x, tube, out, split)


EXERCISES["1.5"] = Exercise(
    "cut into tubes",
    tubes_literal,
    lambda: [
        (numbered(1, 3, 4, 8, 8), (2, 4, 4)),
        (numbered(2, 3, 6, 4, 9), (3, 2, 3)),
        (numbered(2, 2, 4, 6, 6), (2, 3, 2)),
        (numbered(3, 1, 6, 4, 4), (2, 4, 2)),
    ],
    lambda x, tube: (
        "(B, T/pt, H/ph, W/pw, C·pt·ph·pw) = ("
        + ", ".join([str(x.shape[0]), *(f"{n}/{p}" for n, p in zip(x.shape[2:], tube))])
        + f", {x.shape[1]}·{tube[0]}·{tube[1]}·{tube[2]})"
    ),
    (
        (
            "the axes are never permuted: a plain reshape takes pixels that follow each other in memory, not a tube",
            lambda x, p: x.reshape(x.shape[0], *[n // m for n, m in zip(x.shape[2:], p)], -1),
        ),
        (
            "inside a token your numbers run (H W T); the order is (T H W), W fastest",
            lambda x, p: tubes(x, p, "b T H W (c h w t)"),
        ),
        (
            "inside a token the frames come before the colours; colour must be slowest, as in convolution weights",
            lambda x, p: tubes(x, p, "b T H W (t c h w)"),
        ),
        (
            "inside a token the colours come last (as decord delivers them); colour must be slowest, as in "
            "convolution weights",
            lambda x, p: tubes(x, p, "b T H W (t h w c)"),
        ),
        (
            "your tubes are transposed: within a frame the numbers run down the columns, not along the rows",
            lambda x, p: tubes(x, p, "b T H W (c t w h)"),
        ),
        (
            "the frames of a tube lie T/pt apart: T must become (T/pt, pt), not (pt, T/pt)",
            lambda x, p: tubes(x, p, split="b c (t T) (H h) (W w)"),
        ),
        (
            "you gather pixels that lie a whole grid apart: each axis must become (number of tubes, size of a tube), "
            "in this order",
            lambda x, p: tubes(x, p, split="b c (t T) (h H) (w W)"),
        ),
        (
            "the tubes themselves are listed (H W T); the order is (T H W), W fastest",
            lambda x, p: shaped(tubes(x, p, "b H W T (c t h w)"), x, p),
        ),
        (
            "C belongs inside the token, after T', H', W': your tubes hold one colour each",
            lambda x, p: shaped(tubes(x, p, "b c T H W (t h w)"), x, p),
        ),
        (
            "the tubes themselves are listed (T W H): H and W are exchanged",
            lambda x, p: shaped(tubes(x, p, "b T W H (c t h w)"), x, p),
        ),
    ),
    piece=tubes,
    parts={"tube": ("pt", "ph", "pw")},
    more=lambda: [
        (torch.randn(r.randint(2, 4), r.randint(1, 4), *(m * r.randint(1, 3) for m in tube)), tube)
        for r in randoms(5)
        for tube in [(r.randint(1, 4), r.randint(1, 4), r.randint(1, 4))]
    ],
    kinds=(
        Axes(
            "b c (T t) (H h) (W w) -> b T H W (c t h w)",
            dict(b=2, c=3, T=3, t=2, H=5, h=2, W=3, w=4),
            lambda x, n: (x, (n["t"], n["h"], n["w"])),
            lambda x, tube: dict(t=tube[0], h=tube[1], w=tube[2]),
            dict(b="B", c="colour", T="T/pt", t="frame", H="H/ph", h="row", W="W/pw", w="column"),
        ),
    ),
)


# ---------------------------------------------------------------- weights


def weight_literal(weight, order):
    """One number at a time: put the weight of pixel (c, t, h, w) at the place of this pixel in the token."""
    D, *sizes = weight.shape
    size = dict(zip("cthw", sizes))
    out = weight.new_empty(D, prod(sizes))
    for place in np.ndindex(*sizes):
        at, column = dict(zip("cthw", place)), 0
        for axis in order:
            column = column * size[axis] + at[axis]
        out[:, column] = weight[(slice(None), *place)]
    return out  # (D, C·pt·ph·pw)


def weight_by(weight, order):
    return rearrange(weight, f"d c t h w -> d ({' '.join(order)})")


def inverse_order(weight, order):
    axes = [order.index(a) for a in "cthw"]
    return weight.permute(0, *[1 + a for a in axes]).reshape(len(weight), -1)


EXERCISES["1.6"] = Exercise(
    "convolution weights for a linear layer",
    weight_literal,
    lambda: [
        (numbered(6, 3, 2, 4, 4), "cthw"),
        (numbered(5, 3, 2, 4, 2), "thwc"),
        (numbered(4, 2, 3, 1, 2), "tchw"),
        (numbered(3, 2, 3, 4, 5), "hwct"),
        (numbered(3, 2, 3, 4, 5), "wcth"),
    ],
    lambda w, order: f"(D, C·pt·ph·pw) = ({w.shape[0]}, {'·'.join(map(str, w.shape[1:]))})",
    (
        (
            'the order of the token\'s numbers is ignored: this is right for "cthw" only; permute before you flatten',
            lambda w, o: w.flatten(1),
        ),
        (
            "the permutation is the inverse one: axis i of the result must be the axis of the weight that order[i] "
            "names",
            inverse_order,
        ),
        (
            "the axes run in the reverse of `order`: its first letter is the slowest axis, the last the fastest",
            lambda w, o: weight_by(w, o[::-1]),
        ),
        (
            "the weights are mirrored in time and space: PyTorch's convolution does not flip its kernel (it "
            "correlates)",
            lambda w, o: weight_by(w.flip(2, 3, 4), o),
        ),
        (
            "the result is transposed: a linear layer's weight is (out, in), and computes x @ weight.T",
            lambda w, o: weight_by(w, o).T,
        ),
        (
            "the transposed matrix was reshaped: that does not move the numbers of one output channel into one row",
            lambda w, o: weight_by(w, o).T.reshape(len(w), -1),
        ),
    ),
    piece=weight_by,
    more=lambda: [
        (torch.randn(*(r.randint(1, 5) for _ in range(5))), "".join(r.sample("cthw", 4))) for r in randoms(8)
    ],
)
