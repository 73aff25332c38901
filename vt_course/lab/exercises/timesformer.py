"""Notebook 06: attention divided over space and time."""

from itertools import product

import torch
import torch.nn.functional as F

from vt_course.lab.exercise import Exercise, randoms
from vt_course.lab.kinds.axes import Axes
from vt_course.lab.kinds.operations import Choices, instead_of_ratio, instead_of_tokens
from vt_course.lab.kinds.relations import Relations
from vt_course.lab.kinds.steps import Step, Steps
from vt_course.models import timesformer

EXERCISES: dict[str, Exercise] = {}
GRID = {"size": ("H", "W", "T")}


# ---------------------------------------------------------------- 6.1: tokens with positions


def tokens_literal(patches, cls, pos, time):
    """One clip and one token at a time: the class token, then place by place, and at each place frame by frame."""
    clips = []
    for frames in patches:  # (T, N, D)
        tokens = [cls[0, 0] + pos[0, 0]]
        for n in range(frames.shape[1]):
            for t in range(len(frames)):
                tokens.append(frames[t, n] + pos[0, 1 + n] + time[0, t])
        clips.append(torch.stack(tokens))
    return torch.stack(clips)  # (B, 1+N·T, D)


def with_class(cls, tokens):
    """(1, 1, D) and (B, L, D) -> (B, 1+L, D)."""
    return torch.cat([cls.expand(len(tokens), -1, -1), tokens], 1)


def tokens_like(patches, cls, pos, time, *, place=None, when=None, of_class=None, order=None, join=with_class):
    """The tokens in which the steps that are given replace the right ones."""
    x = patches + pos[:, None, 1:] if place is None else place(patches, pos)  # (B, T, N, D)
    x = x + time[:, :, None] if when is None else when(x, time)
    x = x.transpose(1, 2).flatten(1, 2) if order is None else order(x)  # (B, N·T, D)
    return join(cls + pos[:, :1] if of_class is None else of_class(cls, pos, time), x)


TOKENS = Choices(
    tokens_like,
    {
        "place": (
            ("the patches get no position in space", lambda p, pos: p),
            (
                "the entries of `pos` are one too early: entry 0 belongs to the class token, patch n gets entry 1 + n",
                lambda p, pos: p + pos[:, None, :-1],
            ),
            ("the patches are multiplied by their positions: add them", lambda p, pos: p * pos[:, None, 1:]),
            ("every patch gets the position of the first patch", lambda p, pos: p + pos[:, None, 1:2]),
            ("the positions in space are added twice", lambda p, pos: p + 2 * pos[:, None, 1:]),
            ("every patch gets the position of the class token, entry 0", lambda p, pos: p + pos[:, None, :1]),
        ),
        "when": (
            ("the time embedding is not added", lambda x, t: x),
            ("the tokens are multiplied by the time embedding: add it", lambda x, t: x * t[:, :, None]),
            ("every frame gets the time embedding of the first frame", lambda x, t: x + t[:, :1, None]),
            ("the time embedding runs backwards: frame t gets entry t", lambda x, t: x + t.flip(1)[:, :, None]),
            ("the time embedding is added twice", lambda x, t: x + 2 * t[:, :, None]),
            (
                "the time embedding is averaged over the frames: each frame has its own entry",
                lambda x, t: x + t.mean(1)[:, None, None],
            ),
        ),
        "of_class": (
            ("the class token gets no position: entry 0 of `pos` is its own", lambda c, pos, t: c),
            ("the class token is not used: its place holds only its position", lambda c, pos, t: pos[:, :1]),
            (
                "the class token gets the time of the first frame: it belongs to no frame",
                lambda c, pos, t: c + pos[:, :1] + t[:, :1],
            ),
            (
                "the class token gets the time of the last frame: it belongs to no frame",
                lambda c, pos, t: c + pos[:, :1] + t[:, -1:],
            ),
            (
                "the class token gets the average of all times: it belongs to no frame",
                lambda c, pos, t: c + pos[:, :1] + t.mean(1, keepdim=True),
            ),
            ("the class token gets the position of the first patch", lambda c, pos, t: c + pos[:, 1:2]),
        ),
        "order": (
            (
                "your tokens run frame by frame, (T N): they must run place by place, with time fastest, (N T)",
                lambda x: x.flatten(1, 2),
            ),
            ("the places run backwards: place 0 comes first", lambda x: x.flip(2).transpose(1, 2).flatten(1, 2)),
        ),
        "join": (
            (
                "the class token stands at the end: it comes first",
                lambda c, x: torch.cat([x, c.expand(len(x), -1, -1)], 1),
            ),
            ("there is no class token", lambda c, x: x),
        ),
    },
)


def tokens_fast(patches, cls, pos, time):
    return tokens_like(patches, cls, pos, time)


def token_cases(sizes=((1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 4, 2))):
    return [
        (torch.randn(B, T, N, D), torch.randn(1, 1, D), torch.randn(1, 1 + N, D), torch.randn(1, T, D))
        for B, T, N, D in sizes
    ]


EXERCISES["6.1"] = Exercise(
    "tokens with positions",
    tokens_literal,
    token_cases,
    lambda patches, *_: "(B, 1 + N·T, C) = ({}, 1 + {}·{}, {})".format(*(patches.shape[i] for i in (0, 2, 1, 3))),
    (
        (
            "the patches are reshaped from (T, N) to (N T), and a reshape moves no axis: exchange the two with "
            "`transpose` before you join them",
            lambda p, c, pos, t: with_class(
                c + pos[:, :1],
                (p.flatten(1, 2) + pos[:, 1:].repeat_interleave(p.shape[1], 1) + t.repeat(1, p.shape[2], 1)),
            ),
        ),
        (
            "the patches run place by place, but the positions are added to them in the order of frames, (T N)",
            lambda p, c, pos, t: with_class(
                c + pos[:, :1],
                p.transpose(1, 2).flatten(1, 2)
                + pos[:, 1:].repeat(1, p.shape[1], 1)
                + t.repeat_interleave(p.shape[2], 1),
            ),
        ),
        (
            "there is a class token in every frame; the clip has one",
            lambda p, c, pos, t: (
                torch.cat(
                    [(c + pos[:, :1])[:, None].expand(len(p), p.shape[1], 1, -1), p + pos[:, None, 1:] + t[:, :, None]],
                    2,
                )
                .transpose(1, 2)
                .flatten(1, 2)
            ),
        ),
    ),
    piece=tokens_fast,
    gradient=True,
    more=lambda: token_cases([tuple(r.randint(1, 4) for _ in range(4)) for r in randoms(6)]),
    kinds=(TOKENS,),
)


# ---------------------------------------------------------------- 6.2: who may see whom

# Which of the coordinates (row, column, frame) of two patches a and b must agree, and in what sense.
SEES = {
    "all": lambda a, b, n: True,
    "temporal": lambda a, b, n: a[:2] == b[:2],
    "space": lambda a, b, n: a[2] == b[2],
    "local": lambda a, b, n: all((2 * a[i] < n[i]) == (2 * b[i] < n[i]) for i in (0, 1)),
    "global": lambda a, b, n: all((i - j) % 2 == 0 for i, j in zip(a, b)),
    "width": lambda a, b, n: (a[0], a[2]) == (b[0], b[2]),
    "height": lambda a, b, n: a[1:] == b[1:],
}


def mask_literal(step, size):
    """One pair of patches at a time."""
    patches = list(product(*map(range, size)))
    return torch.tensor([[SEES[step](a, b, size) for b in patches] for a in patches])


def mask_like(step, size, *, order=(0, 1, 2), rules=None, finish=None):
    """The mask in which the steps that are given replace the right ones; `order`: of the axes, slowest first."""
    axes = torch.meshgrid(*[torch.arange(size[a]) for a in order], indexing="ij")
    at = dict(zip(order, (a.flatten() for a in axes)))  # the coordinate of each token along each axis
    h, w, t = ((at[a][:, None], at[a][None, :]) for a in range(3))
    mask = (RULES | (rules or {}))[step](h, w, t, size)
    mask = mask.expand(len(at[0]), len(at[0]))
    return mask if finish is None else finish(mask)


def same(pair):
    return pair[0] == pair[1]


def half(pair, n):
    return (2 * pair[0] < n) == (2 * pair[1] < n)


def even(pair):
    return (pair[0] - pair[1]) % 2 == 0


RULES = {
    "all": lambda h, w, t, n: torch.tensor(True),
    "temporal": lambda h, w, t, n: same(h) & same(w),
    "space": lambda h, w, t, n: same(t),
    "local": lambda h, w, t, n: half(h, n[0]) & half(w, n[1]),
    "global": lambda h, w, t, n: even(h) & even(w) & even(t),
    "width": lambda h, w, t, n: same(h) & same(t),
    "height": lambda h, w, t, n: same(w) & same(t),
}

MASKS = Choices(
    mask_like,
    {
        "order": tuple(
            (f"your tokens are numbered ({' '.join('HWT'[a] for a in order)}); the order is (H W T), T fastest", order)
            for order in ((2, 0, 1), (2, 1, 0), (0, 2, 1), (1, 0, 2), (1, 2, 0))
        ),
        "finish": (
            ("the mask is inverted: True means that the query may see the key", lambda m: ~m),
            (
                "a patch does not see itself: the diagonal must be True",
                lambda m: m & ~torch.eye(len(m), dtype=torch.bool),
            ),
            ("a query sees only later tokens: no step looks in one direction", lambda m: m.triu()),
            ("a query sees only earlier tokens: no step looks in one direction", lambda m: m.tril()),
        ),
        "rules": (
            (
                "`temporal` and `space` are exchanged: in `temporal` a patch sees the same place in all frames",
                dict(temporal=RULES["space"], space=RULES["temporal"]),
            ),
            (
                "`width` and `height` are exchanged: along the width, row and frame stay and the column changes",
                dict(width=RULES["height"], height=RULES["width"]),
            ),
            (
                "in `width` and `height` the frame is free: axial attention over space stays in one frame",
                dict(width=lambda h, w, t, n: same(h), height=lambda h, w, t, n: same(w)),
            ),
            ("in `width` the frame is free: it stays in one frame", dict(width=lambda h, w, t, n: same(h))),
            ("in `height` the frame is free: it stays in one frame", dict(height=lambda h, w, t, n: same(w))),
            (
                "in `local` a patch sees one frame: the local neighbourhood reaches over all frames",
                dict(local=lambda h, w, t, n: half(h, n[0]) & half(w, n[1]) & same(t)),
            ),
            (
                "in `local` the clip is halved in time as well: only the frame is quartered",
                dict(local=lambda h, w, t, n: half(h, n[0]) & half(w, n[1]) & half(t, n[2])),
            ),
            ("in `local` only the rows are halved: the columns are, too", dict(local=lambda h, w, t, n: half(h, n[0]))),
            ("in `local` only the columns are halved: the rows are, too", dict(local=lambda h, w, t, n: half(w, n[1]))),
            (
                "in `local` a patch sees what is less than H/2 rows and W/2 columns away; here the quarters are fixed",
                dict(local=lambda h, w, t, n: (2 * (h[0] - h[1]).abs() < n[0]) & (2 * (w[0] - w[1]).abs() < n[1])),
            ),
            (
                "in `global` a patch sees one frame: it skips every second frame and sees the others",
                dict({"global": lambda h, w, t, n: even(h) & even(w) & same(t)}),
            ),
            (
                "in `global` all frames are seen: every second frame is left out, too",
                dict({"global": lambda h, w, t, n: even(h) & even(w)}),
            ),
            (
                "in `global` the sum of the three distances is even: each distance must be even by itself",
                dict({"global": lambda h, w, t, n: even(h) ^ even(w) ^ even(t)}),
            ),
            (
                "in `global` the axes are halved: stride 2 means that every second row, column and frame is seen",
                dict({"global": lambda h, w, t, n: half(h, n[0]) & half(w, n[1]) & half(t, n[2])}),
            ),
            (
                "in `global` only patches with even row, column and frame are seen: what counts is the distance",
                dict({"global": lambda h, w, t, n: (h[1] % 2 == 0) & (w[1] % 2 == 0) & (t[1] % 2 == 0)}),
            ),
            ("`local` and `global` are exchanged", {"local": RULES["global"], "global": RULES["local"]}),
            ("in `temporal` the column is free: row and column stay", dict(temporal=lambda h, w, t, n: same(h))),
            ("in `all` something is forbidden: there every patch sees every patch", dict({"all": RULES["space"]})),
        ),
    },
)


RELATED = Relations(
    ("rows", "columns", "frames"),
    {
        "all": ("free", "free", "free"),
        "temporal": ("same", "same", "free"),
        "space": ("free", "free", "same"),
        "local": ("half", "half", "free"),
        "global": ("even", "even", "even"),
        "width": ("same", "free", "same"),
        "height": ("free", "same", "same"),
    },
)


def mask_fast(step, size):
    return mask_like(step, size)


EXERCISES["6.2"] = Exercise(
    "who may see whom",
    mask_literal,
    lambda: [
        ("temporal", (2, 3, 4)),
        ("space", (3, 2, 4)),
        ("width", (2, 3, 4)),
        ("height", (4, 3, 2)),
        ("local", (4, 6, 3)),
        ("global", (4, 6, 4)),
        ("all", (2, 2, 3)),
    ],
    lambda step, size: f"(L, L) with L = {size[0]}·{size[1]}·{size[2]}",
    (),
    piece=mask_fast,
    parts=GRID,
    more=lambda: [(step, tuple(2 * r.randint(1, 2) for _ in range(3))) for r, step in zip(randoms(7), SEES)],
    kinds=(MASKS, RELATED),
)


# ---------------------------------------------------------------- 6.3: the groups of global attention

LETTERS = dict(b="B", H="H/2", i="row offset", W="W/2", j="column offset", T="T/2", k="frame offset", c="C")


def groups_literal(x, size):
    """One group at a time: every second row, column and frame, counted from the offsets (i, j, k)."""
    grid = x.unflatten(1, size)  # (B, H, W, T, C)
    out = [
        one[i::2, j::2, k::2].flatten(0, 2)  # (H/2·W/2·T/2, C)
        for one in grid
        for i, j, k in product(range(2), repeat=3)
    ]
    return torch.stack(out)  # (B·8, N, C)


def cut(x, size, order, split="stride"):
    """Split each axis in two and permute the axes (B, H, i, W, j, T, k, C)."""
    pairs = [(n // 2, 2) if split == "stride" else (2, n // 2) for n in size]
    y = x.reshape(len(x), *[m for pair in pairs for m in pair], x.shape[-1])
    if split != "stride":
        y = y.permute(0, 2, 1, 4, 3, 6, 5, 7)
    return y.permute(order).reshape(len(x) * 8, -1, x.shape[-1])


def groups_fast(x, size):
    return timesformer.group(x, size, timesformer.PATTERNS["global"]).flatten(0, 1)


def group_cases(sizes=((1, 2, 2, 4, 2), (2, 4, 6, 2, 3), (3, 2, 4, 6, 1))):
    return [(torch.randn(B, H * W * T, C), (H, W, T)) for B, H, W, T, C in sizes]


EXERCISES["6.3"] = Exercise(
    "the groups of global attention",
    groups_literal,
    group_cases,
    lambda x, size: (
        f"(B·8, H/2·W/2·T/2, C) = ({len(x)}·8, {size[0] // 2}·{size[1] // 2}·{size[2] // 2}, {x.shape[-1]})"
    ),
    (
        (
            "the axes are never permuted: a plain reshape takes tokens that follow each other, not every second one",
            lambda x, size: x.reshape(len(x) * 8, -1, x.shape[-1]),
        ),
        (
            "each axis is split as (offset, place): that makes halves; for every second position it is (place, offset)",
            lambda x, size: cut(x, size, (0, 2, 4, 6, 1, 3, 5, 7), "half"),
        ),
        (
            "inside a group your tokens run (T H W); the order is (H W T), T fastest",
            lambda x, size: cut(x, size, (0, 2, 4, 6, 5, 1, 3, 7)),
        ),
        (
            "the groups are listed by their offset in time first; the order is (H W T), the frame's offset fastest",
            lambda x, size: cut(x, size, (0, 6, 2, 4, 1, 3, 5, 7)),
        ),
        (
            "the groups are listed (W H T): the offsets of row and column are exchanged",
            lambda x, size: cut(x, size, (0, 4, 2, 6, 1, 3, 5, 7)),
        ),
        (
            "inside a group your tokens run (W H T): rows and columns are exchanged",
            lambda x, size: cut(x, size, (0, 2, 4, 6, 3, 1, 5, 7)),
        ),
        (
            "the batch axis comes after the groups: all groups of clip 0 must come first",
            lambda x, size: cut(x, size, (2, 4, 6, 0, 1, 3, 5, 7)),
        ),
        (
            "places and offsets are exchanged: a group holds one offset of all places, not one place of all offsets",
            lambda x, size: cut(x, size, (0, 1, 3, 5, 2, 4, 6, 7)),
        ),
    ),
    piece=groups_fast,
    parts=GRID,
    gradient=True,
    more=lambda: group_cases(
        [(r.randint(1, 3), *(2 * r.randint(1, 3) for _ in range(3)), r.randint(1, 3)) for r in randoms(6)]
    ),
    kinds=(
        Axes(
            "b (H i W j T k) c -> (b i j k) (H W T) c",
            dict(b=3, H=4, i=2, W=5, j=2, T=3, k=2, c=7),
            lambda x, n: (x, (n["H"] * 2, n["W"] * 2, n["T"] * 2)),
            lambda x, size: dict(zip("HWT", (n // 2 for n in size)), i=2, j=2, k=2),
            LETTERS,
        ),
    ),
)


# ---------------------------------------------------------------- 6.4: the divided block


class Block(timesformer.DividedBlock):
    """A divided block that is printed in one line."""

    def __repr__(self):
        return "<a block>"


class Net(timesformer.TimeSformer):
    """A TimeSformer that is printed in one line."""

    def __repr__(self):
        return "<a network>"


def shaken(model):
    """Random weights, so large that each of them matters to the output."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * (p[0].numel() ** -0.5 if p.ndim == 2 or p.ndim == 4 else 0.5))
            if "norm" in name and name.endswith("weight"):
                p.add_(1)
    return model.requires_grad_(False)


def block_cases(sizes=((1, 2, 2, 3), (2, 2, 3, 4), (2, 3, 1, 2))):
    return [
        (torch.randn(B, 1 + H * W * T, 12), (H, W, T), shaken(Block(12, 3, 2.0, 0.0, ("temporal", "space"))))
        for B, H, W, T in sizes
    ]


def block_literal(x, size, block):
    """One clip, one place and one frame at a time."""
    H, W, T = size
    clips = []
    for tokens in x:  # (1 + H·W·T, C)
        cls, patches = tokens[:1], tokens[1:].unflatten(0, (H * W, T))
        after = []
        for place in patches:  # (T, C)
            y = block.temporal_attn(block.temporal_norm1(place)[None])[0]
            after.append(place + block.temporal_fc(y))
        patches = torch.stack(after)  # (H·W, T, C)
        seen, after = [], []
        for t in range(T):
            frame = torch.cat([cls, patches[:, t]])  # (1 + H·W, C)
            y = block.attn(block.norm1(frame)[None])[0]
            seen.append(y[:1])
            after.append(patches[:, t] + y[1:])
        cls = cls + torch.stack(seen).mean(0)
        tokens = torch.cat([cls, torch.stack(after, 1).flatten(0, 1)])
        clips.append(tokens + block.mlp(block.norm2(tokens)))
    return torch.stack(clips)


def by_place(x, size):
    """(B, H·W·T, C) -> (B·H·W, T, C)."""
    return x.unflatten(1, (-1, size[2])).flatten(0, 1)


def by_frame(x, size):
    """(B, H·W·T, C) -> (B·T, H·W, C)."""
    return x.unflatten(1, (-1, size[2])).transpose(1, 2).flatten(0, 1)


def from_frames(x, T):
    """(B·T, N, C) -> (B, N·T, C)."""
    return x.unflatten(0, (-1, T)).transpose(1, 2).flatten(1, 2)


def over_time(s, norm=None, attn=None, groups=by_place, back=None):
    block, x = s["block"], s["x"]
    y = groups(x, s["size"])
    y = (attn or block.temporal_attn)((norm or block.temporal_norm1)(y))
    return y.reshape(x.shape) if back is None else back(y)


def frames_of(s, source="x"):
    """(B·T, 1+N, C): a copy of the class token in front of the patches of each frame."""
    y = by_frame(s[source], s["size"])
    return torch.cat([s["cls"].repeat_interleave(s["size"][2], 0), y], 1)


def over_space(s, norm=None, attn=None, source="x"):
    block = s["block"]
    return (attn or block.attn)((norm or block.norm1)(frames_of(s, source)))


def put(**changes):
    """A step that sets entries of the state."""
    return lambda s: s.update({name: f(s) for name, f in changes.items()})


def with_class_over_time(s):
    """Equation 13: the class token is one more key and value at every place."""
    y = by_place(s["x"], s["size"])
    cls = s["cls"].repeat_interleave(len(y) // len(s["cls"]), 0)
    y = s["block"].temporal_attn(s["block"].temporal_norm1(torch.cat([cls, y], 1)))[:, 1:]
    return y.reshape(s["x"].shape)


def identity(x):
    return x


BLOCK = Steps(
    lambda x, size, block: dict(cls=x[:, :1], x=x[:, 1:], first=x[:, 1:], size=size, block=block),
    (
        Step(
            "attention over time",
            put(y=over_time),
            (
                (
                    "the class token takes part in the attention over time: so it is in equation 13, but in the "
                    "released code only patches do",
                    put(y=with_class_over_time),
                ),
                ("`temporal_norm1` is forgotten", put(y=lambda s: over_time(s, norm=identity))),
                (
                    "`norm1` stands before the attention over time: it has a norm of its own, `temporal_norm1`",
                    put(y=lambda s: over_time(s, norm=s["block"].norm1)),
                ),
                (
                    "`attn` is used for the attention over time: that is `temporal_attn`",
                    put(y=lambda s: over_time(s, attn=s["block"].attn)),
                ),
                (
                    "in the attention over time the groups are frames: group by place, so that T patches of one "
                    "place meet",
                    put(y=lambda s: over_time(s, groups=by_frame, back=lambda y: from_frames(y, s["size"][2]))),
                ),
                (
                    "in the attention over time all patches of the clip meet: the places must lie on the batch axis",
                    put(y=lambda s: over_time(s, groups=lambda x, size: x)),
                ),
                (
                    "a reshape makes the groups of the attention over time from tokens that are H·W apart in the wrong "
                    "order: time is fastest, so the last axis of (H·W, T) is time",
                    put(
                        y=lambda s: over_time(
                            s,
                            groups=lambda x, size: x.unflatten(1, (size[2], -1)).transpose(1, 2).flatten(0, 1),
                            back=lambda y: y.unflatten(0, (len(s["x"]), -1)).transpose(1, 2).flatten(1, 2),
                        )
                    ),
                ),
            ),
        ),
        Step("temporal_fc", put(y=lambda s: s["block"].temporal_fc(s["y"]))),
        Step(
            "add what time found",
            put(x=lambda s: s["x"] + s["y"]),
            (
                (
                    "what comes from the attention over time replaces the patches: add it to them",
                    put(x=lambda s: s["y"]),
                ),
            ),
        ),
        Step(
            "attention over space",
            put(z=over_space),
            (
                ("`norm1` is forgotten before the attention over space", put(z=lambda s: over_space(s, norm=identity))),
                (
                    "`temporal_norm1` stands before the attention over space: that is `norm1`",
                    put(z=lambda s: over_space(s, norm=s["block"].temporal_norm1)),
                ),
                (
                    "`temporal_attn` is used for the attention over space: that is `attn`",
                    put(z=lambda s: over_space(s, attn=s["block"].temporal_attn)),
                ),
                (
                    "the attention over space looks at the patches as they were before the step over time: the steps "
                    "follow each other",
                    put(z=lambda s: over_space(s, source="first")),
                ),
                (
                    "the class token is not in the attention over space: each frame gets a copy of it",
                    put(
                        z=lambda s: torch.cat(
                            [
                                torch.zeros_like(s["cls"]).repeat_interleave(s["size"][2], 0),
                                s["block"].attn(s["block"].norm1(by_frame(s["x"], s["size"]))),
                            ],
                            1,
                        )
                    ),
                ),
                (
                    "`norm1` is applied to the patches only: the copies of the class token pass through it, too",
                    put(
                        z=lambda s: s["block"].attn(
                            torch.cat([frames_of(s)[:, :1], s["block"].norm1(frames_of(s)[:, 1:])], 1)
                        )
                    ),
                ),
            ),
        ),
        Step(
            "add the average of the class copies",
            put(cls=lambda s: s["cls"] + s["z"][:, :1].unflatten(0, (-1, s["size"][2])).mean(1)),
            (
                (
                    "the results of the class copies are added up: take their average over the frames",
                    put(cls=lambda s: s["cls"] + s["z"][:, :1].unflatten(0, (-1, s["size"][2])).sum(1)),
                ),
                (
                    "only the class copy of the first frame is used: take the average over all frames",
                    put(cls=lambda s: s["cls"] + s["z"][:, :1].unflatten(0, (-1, s["size"][2]))[:, 0]),
                ),
                (
                    "only the class copy of the last frame is used: take the average over all frames",
                    put(cls=lambda s: s["cls"] + s["z"][:, :1].unflatten(0, (-1, s["size"][2]))[:, -1]),
                ),
                (
                    "the average of the class copies replaces the class token: add it",
                    put(cls=lambda s: s["z"][:, :1].unflatten(0, (-1, s["size"][2])).mean(1)),
                ),
                (
                    "the class copies of a clip are mixed with those of other clips: the batch axis is the slow one, "
                    "(B T)",
                    put(cls=lambda s: s["cls"] + s["z"][:, :1].unflatten(0, (s["size"][2], -1)).mean(0)),
                ),
            ),
        ),
        Step(
            "add what space found",
            put(x=lambda s: s["x"] + from_frames(s["z"][:, 1:], s["size"][2])),
            (
                (
                    "what comes from the attention over space replaces the patches: add it to them",
                    put(x=lambda s: from_frames(s["z"][:, 1:], s["size"][2])),
                ),
                (
                    "what comes from the attention over space is added to the patches as they were before the step "
                    "over time: that of time is lost",
                    put(x=lambda s: s["first"] + from_frames(s["z"][:, 1:], s["size"][2])),
                ),
                (
                    "the patches come back frame by frame, (T N); bring them back to (N T), time fastest",
                    put(x=lambda s: s["x"] + s["z"][:, 1:].reshape(s["x"].shape)),
                ),
            ),
        ),
        Step(
            "MLP",
            put(out=lambda s: (lambda v: v + s["block"].mlp(s["block"].norm2(v)))(torch.cat([s["cls"], s["x"]], 1))),
            (
                (
                    "the MLP replaces the tokens: add its result to them",
                    put(out=lambda s: s["block"].mlp(s["block"].norm2(torch.cat([s["cls"], s["x"]], 1)))),
                ),
                (
                    "`norm2` is forgotten",
                    put(out=lambda s: (lambda v: v + s["block"].mlp(v))(torch.cat([s["cls"], s["x"]], 1))),
                ),
                (
                    "the class token does not pass through the MLP",
                    put(out=lambda s: torch.cat([s["cls"], s["x"] + s["block"].mlp(s["block"].norm2(s["x"]))], 1)),
                ),
                (
                    "the MLP adds its result to the normed tokens: add it to the tokens before `norm2`",
                    put(
                        out=lambda s: (lambda v: v + s["block"].mlp(v))(
                            s["block"].norm2(torch.cat([s["cls"], s["x"]], 1))
                        )
                    ),
                ),
                ("the MLP is forgotten", put(out=lambda s: torch.cat([s["cls"], s["x"]], 1))),
                (
                    "the class token stands at the end: it comes first",
                    put(
                        out=lambda s: (lambda v: v + s["block"].mlp(s["block"].norm2(v)))(
                            torch.cat([s["x"], s["cls"]], 1)
                        )
                    ),
                ),
            ),
        ),
    ),
    end=lambda s: s["out"],
    together=(("attention over time", "temporal_fc", "add what time found"),),
)


def space_first(x, size, block):
    """The two attentions in the other order, with the class token in the one over space."""
    s = dict(cls=x[:, :1], x=x[:, 1:], first=x[:, 1:], size=size, block=block)
    for i in (3, 4, 5, 0, 1, 2, 6):
        BLOCK.steps[i].do(s)
    return s["out"]


def without_time(x, size, block):
    s = dict(cls=x[:, :1], x=x[:, 1:], first=x[:, 1:], size=size, block=block)
    for i in (3, 4, 5, 6):
        BLOCK.steps[i].do(s)
    return s["out"]


def without_space(x, size, block):
    s = dict(cls=x[:, :1], x=x[:, 1:], first=x[:, 1:], size=size, block=block)
    for i in (0, 1, 2, 6):
        BLOCK.steps[i].do(s)
    return s["out"]


def block_fast(x, size, block):
    return BLOCK.function(x, size, block)


EXERCISES["6.4"] = Exercise(
    "the divided block",
    block_literal,
    block_cases,
    lambda x, *_: f"(B, 1 + H·W·T, C) = {tuple(x.shape)}",
    (
        ("the attention over space comes before the attention over time: time comes first", space_first),
        ("there is no step over time", without_time),
        ("there is no step over space", without_space),
    ),
    piece=block_fast,
    parts=GRID,
    gradient=True,
    more=lambda: block_cases([(r.randint(1, 2), *(r.randint(2, 3) for _ in range(3))) for r in randoms(3)]),
    kinds=(BLOCK,),
)


# ---------------------------------------------------------------- 6.5: the network


def network_cases(sizes=((1, 8, 12, 3), (2, 8, 8, 4), (2, 12, 8, 2))):
    return [
        (torch.randn(B, 3, T, H, W), shaken(Net((H, W), 4, T, 3, 5, 12, 2, 3, 2.0, drop_path=0.0)))
        for B, H, W, T in sizes
    ]


def network_literal(x, model):
    """One clip at a time, and in it one frame at a time, until the blocks begin."""
    T, pos = x.shape[2], model.pos_embed[0]
    scores = []
    for clip in x:  # (3, T, H, W)
        frames = [model.patch_embed.proj(clip[None, :, t])[0] for t in range(T)]  # (D, H', W')
        H, W = frames[0].shape[1:]
        tokens = [model.cls_token[0, 0] + pos[0]]
        for h, w in product(range(H), range(W)):
            for t in range(T):
                tokens.append(frames[t][:, h, w] + pos[1 + h * W + w] + model.time_embed[0, t])
        tokens = torch.stack(tokens)[None]
        for block in model.blocks:
            tokens = block(tokens, (H, W, T))
        scores.append(model.head(model.norm(tokens)[0, 0]))
    return torch.stack(scores)  # (B, K)


def cut_frames(s, fold=None, tokens=None, clips=None):
    x = s["x"]
    frames = x.transpose(1, 2).flatten(0, 1) if fold is None else fold(x)  # (B·T, 3, H, W)
    maps = s["model"].patch_embed.proj(frames)
    s["size"] = (*maps.shape[2:], x.shape[2])
    patches = maps.flatten(2).mT if tokens is None else tokens(maps)  # (B·T, N, D)
    s["patches"] = patches.unflatten(0, (len(x), -1)) if clips is None else clips(patches, len(x))  # (B, T, N, D)


def add_positions(s, **changes):
    m = s["model"]
    s["z"] = tokens_like(s["patches"], m.cls_token, m.pos_embed, m.time_embed, **changes)


def run_blocks(s, blocks=identity, size=identity):
    for block in blocks(list(s["model"].blocks)):
        s["z"] = block(s["z"], size(s["size"]))


def chosen(sentences_and_functions):
    return tuple((text, put(z=lambda s, f=f: f(s["z"]))) for text, f in sentences_and_functions)


NETWORK = Steps(
    lambda x, model: dict(x=x, model=model),
    (
        Step(
            "cut the frames",
            cut_frames,
            (
                (
                    "`reshape` mixes colours and frames: bring time before the colours with `transpose` before you "
                    "join it with the batch",
                    lambda s: cut_frames(s, lambda x: x.reshape(-1, 3, *x.shape[3:])),
                ),
                *((text, lambda s, f=f: cut_frames(s, tokens=f)) for text, f in instead_of_tokens("HW")),
                (
                    "the frames of different clips are mixed when the batch is unfolded: the clips are slow, (B T)",
                    lambda s: cut_frames(s, clips=lambda p, B: p.unflatten(0, (-1, B)).transpose(0, 1)),
                ),
            ),
        ),
        Step(
            "class token and positions",
            add_positions,
            tuple(
                (text, lambda s, name=name, f=f: add_positions(s, **{name: f}))
                for name, settings in TOKENS.settings.items()
                for text, f in settings
                if "backwards: place 0" not in text  # the class token does not care
            ),
        ),
        Step(
            "blocks",
            run_blocks,
            (
                ("only the first block is used", lambda s: run_blocks(s, lambda b: b[:1])),
                ("only the last block is used", lambda s: run_blocks(s, lambda b: b[-1:])),
                ("the blocks run in reverse order", lambda s: run_blocks(s, lambda b: b[::-1])),
                (
                    "the blocks get the size as (T, H, W); it is (H, W, T)",
                    lambda s: run_blocks(s, size=lambda n: (n[2], n[0], n[1])),
                ),
            ),
        ),
        Step("last norm", put(z=lambda s: s["model"].norm(s["z"]))),
        Step(
            "take the class token",
            put(z=lambda s: s["z"][:, 0]),
            chosen(
                (
                    ("the average of all tokens goes into the head: it is the class token", lambda z: z.mean(1)),
                    (
                        "the average of the patches goes into the head: it is the class token",
                        lambda z: z[:, 1:].mean(1),
                    ),
                    ("the last token goes into the head: the class token is the first", lambda z: z[:, -1]),
                    ("the first patch goes into the head: the class token is token 0", lambda z: z[:, 1]),
                    (
                        "the largest value of each channel goes into the head: it is the class token",
                        lambda z: z.amax(1),
                    ),
                )
            ),
        ),
        Step(
            "head",
            put(z=lambda s: s["model"].head(s["z"])),
            (("the answer is a softmax: return the logits", put(z=lambda s: s["model"].head(s["z"]).softmax(-1))),),
        ),
    ),
    end=lambda s: s["z"],
)


def network_fast(x, model):
    return NETWORK.function(x, model)


def without(step):
    def wrong(x, model):
        s = dict(x=x, model=model)
        for one in NETWORK.steps:
            if one.name != step:
                one.do(s)
        return s["z"]

    return wrong


EXERCISES["6.5"] = Exercise(
    "the network",
    network_literal,
    network_cases,
    lambda x, model: f"(B, K) = ({len(x)}, {model.head.out_features})",
    (
        ("the blocks are not used", without("blocks")),
        ("the last norm is forgotten: `norm` stands before `head`", without("last norm")),
    ),
    piece=network_fast,
    gradient=True,
    more=lambda: network_cases([(r.randint(1, 2), 4 * r.randint(2, 3), 8, r.randint(2, 3)) for r in randoms(2)]),
    kinds=(NETWORK,),
)


# ---------------------------------------------------------------- 6.6: positions for another grid


def resize_literal(pos, grid, new):
    """One place at a time: row i of H lies in row ⌊i·h/H⌋ of h."""
    (h, w), (H, W) = grid, new
    rows = [pos[:, 0]] + [pos[:, 1 + i * h // H * w + j * w // W] for i in range(H) for j in range(W)]
    return torch.stack(rows, 1)  # (1, 1 + H·W, D)


def resize_like(pos, grid, new, *, rows=None, cols=None, join=with_class, read=None):
    """Resized positions in which the steps that are given replace the right ones."""
    (h, w), (H, W) = grid, new
    i = nearest(h, H) if rows is None else rows(h, H)
    j = nearest(w, W) if cols is None else cols(w, W)
    table = pos[:, 1:] if read is None else read(pos)
    return join(pos[:, :1], table[:, (i[:, None] * w + j).flatten()])


def nearest(n, N):
    return torch.arange(N) * n // N


def wrap(n, N):
    return torch.arange(N) % n


def middle(n, N):
    return ((torch.arange(N) + 0.5) * n / N).floor().long()


def cut_off(n, N):
    return torch.arange(N).clamp(max=n - 1)


def interpolated(pos, grid, new, mode):
    table = pos[:, 1:].mT.unflatten(2, grid)
    return with_class(pos[:, :1], F.interpolate(table, new, mode=mode).flatten(2).mT)


RESIZED = Choices(
    resize_like,
    {
        "read": (("the entry of the class token is taken for a place: place 0 is entry 1", lambda pos: pos[:, :-1]),),
        "rows": (
            ("the rows repeat from the first one when they run out: stretch them", wrap),
            ("after the last row the last one is repeated: stretch the rows", cut_off),
            ("the rows are taken backwards", lambda n, N: nearest(n, N).flip(0)),
        ),
        "cols": (
            ("the columns repeat from the first one when they run out: stretch them", wrap),
            ("after the last column the last one is repeated: stretch the columns", cut_off),
            ("the columns are taken backwards", lambda n, N: nearest(n, N).flip(0)),
        ),
        "join": (
            ("the entry of the class token is lost: it comes first and stays as it is", lambda c, x: x),
            ("the entry of the class token stands at the end: it comes first", lambda c, x: torch.cat([x, c], 1)),
        ),
    },
    together=tuple((text, dict(rows=f, cols=f)) for text, f in instead_of_ratio()),
)


EXERCISES["6.6"] = Exercise(
    "positions for another grid",
    resize_literal,
    lambda: [
        (torch.randn(1, 1 + h * w, D), (h, w), new)
        for (h, w), new, D in (((2, 2), (4, 6), 3), ((3, 4), (5, 7), 2), ((4, 3), (2, 2), 4), ((2, 3), (2, 3), 2))
    ],
    lambda pos, grid, new: f"(1, 1 + H·W, C) = (1, 1 + {new[0]}·{new[1]}, {pos.shape[-1]})",
    (
        (
            "the table is stretched as one line of h·w entries (so does the official loader): stretch rows and columns",
            lambda pos, grid, new: with_class(
                pos[:, :1], F.interpolate(pos[:, 1:].mT, new[0] * new[1], mode="nearest").mT
            ),
        ),
        (
            "the whole table is stretched as one line, the class token's entry with it: entry 0 stays as it is",
            lambda pos, grid, new: F.interpolate(pos.mT, 1 + new[0] * new[1], mode="nearest").mT,
        ),
        (
            "the entries are interpolated between neighbours: take the nearest one",
            lambda pos, grid, new: interpolated(pos, grid, new, "bilinear"),
        ),
        (
            "the entries are interpolated with cubic curves: take the nearest one",
            lambda pos, grid, new: interpolated(pos, grid, new, "bicubic"),
        ),
        (
            "the middle of each new place is rounded down (`nearest-exact`): row i is row ⌊i·h/H⌋ of the old grid",
            lambda pos, grid, new: resize_like(pos, grid, new, rows=middle, cols=middle),
        ),
        (
            "the old grid is read column by column: its entries run row by row, (h w)",
            lambda pos, grid, new: with_class(
                pos[:, :1],
                pos[:, 1:]
                .unflatten(1, grid[::-1])
                .transpose(1, 2)[:, nearest(grid[0], new[0])][:, :, nearest(grid[1], new[1])]
                .flatten(1, 2),
            ),
        ),
        (
            "the new places run column by column: they must run row by row",
            lambda pos, grid, new: with_class(
                pos[:, :1],
                pos[:, 1:]
                .unflatten(1, grid)[:, nearest(grid[0], new[0])][:, :, nearest(grid[1], new[1])]
                .transpose(1, 2)
                .flatten(1, 2),
            ),
        ),
    ),
    piece=lambda pos, grid, new: timesformer.stretch(pos, grid, new),
    parts={"grid": ("h", "w"), "new": ("H", "W")},
    gradient=True,
    more=lambda: [
        (torch.randn(1, 1 + h * w, 2), (h, w), (H, W))
        for r in randoms(8)
        for h, w, H, W in [[r.randint(1, 5) for _ in range(4)]]
    ],
    kinds=(RESIZED,),
)
