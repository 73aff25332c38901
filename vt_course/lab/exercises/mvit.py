"""Notebook 05: attention that pools."""

from itertools import permutations, product
from math import prod

import torch
import torch.nn.functional as F
from torch import nn

from vt_course.lab.exercise import Exercise, randoms
from vt_course.lab.kinds.operations import Choices, instead_of_root, instead_of_softmax
from vt_course.lab.kinds.steps import Step, Steps
from vt_course.models.mvit import ConvPool3d

EXERCISES: dict[str, Exercise] = {}


class Part:
    """Stands for a layer of the notebook: the same attributes, and a few words as its text in a verdict."""

    def __init__(self, words: str, call=None, **attributes):
        self.words, self.call = words, call
        self.__dict__ |= attributes

    def __repr__(self) -> str:
        return self.words

    def __call__(self, *args):
        return self.call(*args)


def frozen(layer: nn.Module) -> nn.Module:
    """A layer whose numbers are drawn at random, large enough that each of them shows; no gradient is wanted."""
    for p in layer.requires_grad_(False).parameters():
        p.copy_(torch.randn(p.shape) * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.3) + isinstance(layer, nn.LayerNorm))
    return layer


# ---------------------------------------------------------------- 5.1: pool a map of tokens


def pooling(what: str, stride=(1, 2, 2), d: int = 2) -> Part:
    """A pooling of maps (B, C, T, H, W), which refuses everything else."""
    kernel = tuple(s + 1 if s > 1 else 1 for s in stride)
    layer = {
        "none": nn.Identity(),
        "max": nn.MaxPool3d(kernel, stride, tuple(k // 2 for k in kernel)),
        "conv": frozen(ConvPool3d(d, (3, 3, 3), stride, (1, 1, 1))),
    }[what]

    def call(grid):
        if getattr(grid, "ndim", 0) != 5:
            raise ValueError(f"`pool` wants a map (B, C, T, H, W), not {tuple(getattr(grid, 'shape', ()))}")
        return layer(grid)

    return Part({"none": "no pooling"}.get(what, f"{what} pooling with stride {stride}"), call)


def pool_literal(x, size, pool):
    """Place (t, h, w) of the map is token 1 + (t·H + h)·W + w; the class token is token 0, before and after."""
    T, H, W = size
    grid = x.new_empty(x.shape[0], x.shape[2], T, H, W)
    for t, h, w in product(range(T), range(H), range(W)):
        grid[:, :, t, h, w] = x[:, 1 + (t * H + h) * W + w]
    pooled = pool(grid)  # (B, C, T', H', W')
    places = product(*map(range, pooled.shape[2:]))
    return torch.stack([x[:, 0], *(pooled[:, :, t, h, w] for t, h, w in places)], 1)


def read_map(tokens, size):
    """(B, N, C) -> (B, C, T, H, W)."""
    return tokens.mT.unflatten(2, size)


def pool_like(x, size, pool, *, taken=None, read=read_map, write=lambda m: m.flatten(2).mT, join=None, times=1):
    """The pooled tokens in which the steps that are given replace the right ones."""
    grid = read(x[:, 1:] if taken is None else taken(x), size)
    for _ in range(times):
        grid = pool(grid)
    tokens = write(grid)
    return torch.cat([x[:, :1], tokens], 1) if join is None else join(x, tokens)


def other_order(order: str):
    """Read the tokens as if the axes ran in another order, slowest first."""
    axes = ["THW".index(a) for a in order]

    def read(tokens, size):
        grid = tokens.mT.unflatten(2, [size[a] for a in axes])
        return grid.permute(0, 1, *(2 + axes.index(a) for a in range(3)))

    return read


ORDERS = ("TWH", "HTW", "HWT", "WTH", "WHT")
POOLED = Choices(
    pool_like,
    {
        "taken": (
            ("the class token is taken for the first place of the map: the map is `x[:, 1:]`", lambda x: x[:, :-1]),
        ),
        "read": (
            (
                "a reshape reads the tokens (B, N, C) as (B, C, T, H, W) without moving the channels: transpose or "
                "permute first",
                lambda tokens, size: tokens.reshape(tokens.shape[0], tokens.shape[2], *size),
            ),
            *(
                (f"you read the tokens in the order ({' '.join(o)}), slowest first; they run (T H W)", other_order(o))
                for o in ORDERS
            ),
        ),
        "write": (
            (
                "a reshape makes tokens of the pooled map (B, C, T', H', W') without moving the channels: they must "
                "become the last axis",
                lambda m: m.reshape(m.shape[0], -1, m.shape[1]),
            ),
            *(
                (
                    f"you write the pooled places in the order ({' '.join(o)}), slowest first; it must be (T H W)",
                    lambda m, o=o: m.permute(0, 1, *(2 + "THW".index(a) for a in o)).flatten(2).mT,
                )
                for o in ORDERS
            ),
        ),
        "join": (
            ("the class token is put behind the map; it stays in front", lambda x, y: torch.cat([y, x[:, :1]], 1)),
            (
                "the last token stands in place of the class token, which is token 0",
                lambda x, y: torch.cat([x[:, -1:], y], 1),
            ),
            (
                "the mean of the map stands in place of the class token; it passes by unchanged",
                lambda x, y: torch.cat([x[:, 1:].mean(1, keepdim=True), y], 1),
            ),
            (
                "the mean of all tokens stands in place of the class token; it passes by unchanged",
                lambda x, y: torch.cat([x.mean(1, keepdim=True), y], 1),
            ),
            (
                "the mean of the pooled map stands in place of the class token; it passes by unchanged",
                lambda x, y: torch.cat([y.mean(1, keepdim=True), y], 1),
            ),
            (
                "zeros stand in place of the class token; it passes by unchanged",
                lambda x, y: torch.cat([torch.zeros_like(x[:, :1]), y], 1),
            ),
            (
                "the class token of the first clip is used for all clips",
                lambda x, y: torch.cat([x[:1, :1].expand(len(x), -1, -1), y], 1),
            ),
            (
                "the class token is added to each token of the map, too",
                lambda x, y: torch.cat([x[:, :1], y + x[:, :1]], 1),
            ),
        ),
        "times": (("the map is not pooled", 0), ("the map is pooled twice", 2)),
    },
)


def pooled_shape(x, size, pool):
    B, _, C = x.shape
    T, H, W = pool(torch.zeros(1, C, *size)).shape[2:]
    return f"(B, 1 + T'·H'·W', C) = ({B}, 1 + {T}·{H}·{W}, {C})"


def pool_case(B, size, C, what, stride=(1, 2, 2)):
    return torch.randn(B, 1 + prod(size), C), size, pooling(what, stride)


EXERCISES["5.1"] = Exercise(
    "pool the map, not the class token",
    pool_literal,
    lambda: [
        pool_case(1, (2, 4, 4), 4, "max"),
        pool_case(2, (3, 4, 6), 2, "conv"),
        pool_case(3, (2, 3, 5), 6, "conv", (1, 4, 4)),
        pool_case(2, (4, 2, 3), 4, "max", (2, 2, 2)),
        pool_case(2, (2, 2, 3), 2, "none"),
    ],
    pooled_shape,
    (
        (
            "the class token is missing from the result: put `x[:, :1]` in front of the pooled tokens",
            lambda x, size, pool: pool_like(x, size, pool)[:, 1:],
        ),
    ),
    piece=pool_like,
    parts={"size": ("T", "H", "W")},
    more=lambda: [
        pool_case(
            r.randint(1, 3), tuple(r.randint(2, 5) for _ in range(3)), 2 * r.randint(1, 3), r.choice(["max", "conv"])
        )
        for r in randoms(5)
    ],
    kinds=(POOLED,),
)


# ---------------------------------------------------------------- 5.2: pooling attention


def attention_layer(dim, dim_out, heads, size, q_stride, kv_stride) -> Part:
    """An attention with the attributes of the notebook's class."""
    d, parts = dim_out // heads, {}
    for name, stride in zip("qkv", (q_stride, kv_stride, kv_stride)):
        parts[f"pool_{name}"] = nn.Identity() if stride is None else pooling("conv", stride, d)
        parts[f"norm_{name}"] = nn.Identity() if stride is None else frozen(nn.LayerNorm(d, eps=1e-6))
    shrunk = {n: f"pooled by {s}" if s else "not pooled" for n, s in (("q", q_stride), ("k", kv_stride))}
    return Part(
        f"an attention with {heads} head{'s' * (heads > 1)}, q {shrunk['q']}, k and v {shrunk['k']}",
        heads=heads,
        size=size,
        qkv=frozen(nn.Linear(dim, 3 * dim_out)),
        proj=frozen(nn.Linear(dim_out, dim_out)),
        **parts,
    )


def attention_literal(self, x):
    """One clip, one head and one query at a time."""
    out = []
    d = self.proj.in_features // self.heads
    for tokens in x:
        parts = self.qkv(tokens[None]).chunk(3, -1)
        q, k, v = (
            getattr(self, f"norm_{name}")(
                pool_literal(part, self.size, getattr(self, f"pool_{name}"))[0].unflatten(1, (self.heads, d))
            )
            for part, name in zip(parts, "qkv")
        )  # (1 + N', h, d)
        rows = []
        for i in range(len(q)):
            weights = [
                torch.stack([q[i, n] @ k[j, n] for j in range(len(k))]).div(d**0.5).softmax(0)
                for n in range(self.heads)
            ]
            rows.append(torch.cat([weights[n] @ v[:, n] for n in range(self.heads)]))
        out.append(self.proj(torch.stack(rows)))
    return torch.stack(out)


def softmax(logits):
    return logits.softmax(-1)


def attention_like(
    self,
    x,
    *,
    order=(0, 1, 2),
    pools="qkv",
    norms="qkv",
    first=False,
    cls=True,
    split=None,
    root=None,
    weights=softmax,
    merge=None,
    out=True,
    rest=None,
):
    """Pooling attention in which the steps that are given replace the right ones.

    order: which third of the projection is q, k and v; pools and norms: whose layer each of them uses, "-" for none.
    """
    parts, d = self.qkv(x).chunk(3, -1), self.proj.in_features // self.heads

    def heads(t):
        return (t.unflatten(-1, (self.heads, d)) if split is None else split(t, self.heads)).transpose(1, 2)

    def pooled(t, name):
        return t if name == "-" else pool_like(t, self.size, getattr(self, f"pool_{name}"))

    def normed(t, name):
        if name == "-":
            return t
        y = getattr(self, f"norm_{name}")(t)
        return y if cls else torch.cat([t[:, :, :1], y[:, :, 1:]], 2)

    q, k, v = (
        heads(pooled(normed(heads(parts[at]), norm).transpose(1, 2).flatten(2), pool))
        if first
        else normed(heads(pooled(parts[at], pool)), norm)
        for at, pool, norm in zip(order, pools, norms)
    )  # (B, h, 1 + N', d)
    scale = d**-0.5 if root is None else root(q, k, self.heads * d)
    y = weights(q @ k.mT * scale) @ v
    y = y if rest is None else y + rest(q)
    y = y.transpose(1, 2).flatten(2) if merge is None else merge(y)
    return self.proj(y) if out else y


WHO = {"q": "queries", "k": "keys", "v": "values"}
ATTENDED = Choices(
    attention_like,
    {
        "order": tuple(
            (
                "the projection holds q, k, v in this order, C channels each; you read it as "
                + ", ".join("qkv"[order.index(i)] for i in range(3)),
                order,
            )
            for order in permutations(range(3))
            if order != (0, 1, 2)
        ),
        "pools": (
            ("the queries are not pooled: all three have a `pool_`", "-kv"),
            ("keys and values are not pooled: all three have a `pool_`", "q--"),
            ("nothing is pooled: all three have a `pool_`", "---"),
            ("`pool_k` pools the values as well; they have a `pool_v` of their own", "qkk"),
            ("`pool_v` pools the keys as well; they have a `pool_k` of their own", "qvv"),
            ("`pool_k` and `pool_v` are exchanged", "qvk"),
            ("`pool_q` pools all three; each has its own", "qqq"),
            ("`pool_k` pools the queries, too", "kkv"),
        ),
        "norms": (
            *(
                (f"the {WHO[n]} are not normalised after their pooling: use `norm_{n}`", "qkv".replace(n, "-"))
                for n in "qkv"
            ),
            ("there is no norm after the poolings: use `norm_q`, `norm_k` and `norm_v`", "---"),
            ("keys and values are not normalised after their pooling", "q--"),
            ("only the values are normalised after their pooling", "--v"),
            ("`norm_k` normalises the values as well", "qkk"),
            ("`norm_k` and `norm_v` are exchanged", "qvk"),
            ("`norm_q` normalises all three; each has its own", "qqq"),
        ),
        "first": (("the norm comes before the pooling; pool first, then normalise", True),),
        "cls": (
            (
                "the class token is left out of `norm_q`, `norm_k` and `norm_v`; it passes by the pooling only, the "
                "norms take all tokens",
                False,
            ),
        ),
        "split": (
            (
                "the heads are interleaved: head 0 is the first d channels, so unflatten C as (h, d)",
                lambda t, h: t.unflatten(-1, (-1, h)).transpose(-1, -2),
            ),
            (
                "a reshape makes the heads from tokens and channels mixed: unflatten the channels, then transpose",
                lambda t, h: t.reshape(t.shape[0], h, t.shape[1], -1).transpose(1, 2),
            ),
        ),
        "root": instead_of_root("√d"),
        "weights": instead_of_softmax(("batch", "heads", "queries", "keys")),
        "merge": (
            (
                "the heads are merged without a transpose: (B, h, N', d) must become (B, N', h, d) before it is "
                "flattened",
                lambda y: y.reshape(y.shape[0], y.shape[2], -1),
            ),
            (
                "the channels of the heads are interleaved when they are merged: flatten (h, d), not (d, h)",
                lambda y: y.permute(0, 2, 3, 1).flatten(2),
            ),
        ),
        "out": (("the last projection, `proj`, is missing", False),),
        "rest": (
            ("the pooled queries are added to the output; only MViTv2 does that (section 11)", lambda q: q),
            (
                "the pooled queries of the map are added to the output; only MViTv2 does that (section 11)",
                lambda q: torch.cat([torch.zeros_like(q[:, :, :1]), q[:, :, 1:]], 2),
            ),
        ),
    },
)


def attention_cases():
    one = (1, 2, 2)
    return [
        (attention_layer(C, C_out, h, size, q, kv), torch.randn(B, 1 + prod(size), C))
        for B, C, C_out, h, size, q, kv in (
            (1, 4, 4, 1, (2, 3, 4), None, one),
            (2, 6, 4, 2, (2, 4, 4), one, one),
            (2, 4, 6, 3, (1, 4, 3), one, (1, 1, 1)),
            (1, 4, 8, 2, (2, 2, 3), None, None),
        )
    ]


def attention_shape(self, x):
    layer = self.pool_q
    T, H, W = layer(torch.zeros(1, self.proj.in_features, *self.size)).shape[2:]
    return f"(B, 1 + T'·H'·W', C') = ({len(x)}, 1 + {T}·{H}·{W}, {self.proj.in_features})"


EXERCISES["5.2"] = Exercise(
    "pooling attention",
    attention_literal,
    attention_cases,
    attention_shape,
    (),
    piece=attention_like,
    more=lambda: [
        (attention_layer(4, 2 * h, h, size, (1, 2, 2), (1, 2, 2)), torch.randn(2, 1 + prod(size), 4))
        for r in randoms(3)
        for h, size in [(r.randint(2, 3), (r.randint(1, 2), r.randint(2, 4), r.randint(2, 4)))]
    ],
    kinds=(ATTENDED,),
)


# ---------------------------------------------------------------- 5.3: the block


def block_layer(dim, dim_out, heads, size, shrinks) -> Part:
    """A block of MViT with the attributes of the notebook's class."""
    attn = attention_layer(dim, dim, heads, size, (1, 2, 2) if shrinks else None, (1, 2, 2))
    fc1, fc2 = frozen(nn.Linear(dim, 4 * dim)), frozen(nn.Linear(4 * dim, dim_out))
    words = " that shrinks its map" * shrinks + " and"[: 4 * shrinks] * (dim != dim_out)
    words += " that doubles its channels" if dim != dim_out else ""
    return Part(
        f"a block{words or ' that keeps map and channels'}",
        size=size,
        norm1=frozen(nn.LayerNorm(dim, eps=1e-6)),
        attn=Part("pooling attention", lambda x: attention_like(attn, x)),
        pool_skip=pooling("max") if shrinks else nn.Identity(),
        norm2=frozen(nn.LayerNorm(dim, eps=1e-6)),
        mlp=Part("an MLP", lambda x: fc2(F.gelu(fc1(x)))),
        proj=None if dim == dim_out else frozen(nn.Linear(dim, dim_out)),
    )


def put(name, function, *wrong):
    """A step that changes x; `wrong` are pairs of a sentence and a function like `function`."""

    def change(f):
        return lambda s: s.update(x=f(s["x"], s))

    return Step(name, change(function), tuple((sentence, change(f)) for sentence, f in wrong))


def keep(name, function, *wrong):
    """A step that changes the skip."""

    def change(f):
        return lambda s: s.update(skip=f(s["x"], s))

    return Step(name, change(function), tuple((sentence, change(f)) for sentence, f in wrong))


def pool_skip(skip, s):
    return pool_like(skip, s["self"].size, s["self"].pool_skip)


def second_skip(x, s):
    return s["before"] if s["self"].proj is None else s["self"].proj(x)


NORMALISED_SKIP = "the first skip is normalised: it is the input of the block, before `norm1`"
BLOCK = Steps(
    lambda self, x: {"self": self, "x": x},
    (
        keep("keep the skip", lambda x, s: x),
        put("norm1", lambda x, s: s["self"].norm1(x)),
        put("attention", lambda x, s: s["self"].attn(x)),
        Step(
            "pool the skip",
            lambda s: s.update(skip=pool_skip(s["skip"], s)),
            ((NORMALISED_SKIP, lambda s: s.update(skip=pool_skip(s["self"].norm1(s["skip"]), s))),),
        ),
        put("add the pooled skip", lambda x, s: x + s["skip"]),
        Step("keep the sum", lambda s: s.update(before=s["x"])),
        put(
            "norm2",
            lambda x, s: s["self"].norm2(x),
            ("`norm1` stands in place of `norm2`", lambda x, s: s["self"].norm1(x)),
        ),
        keep(
            "the skip of the MLP",
            second_skip,
            (
                "where channels grow, `proj` takes the tokens before `norm2`; it takes the normalised ones (the "
                "paper's table A.1)",
                lambda x, s: s["before"] if s["self"].proj is None else s["self"].proj(s["before"]),
            ),
            (
                "the skip of the MLP is normalised in every block; only `proj`, where channels grow, takes the "
                "normalised tokens",
                lambda x, s: x if s["self"].proj is None else s["self"].proj(x),
            ),
            (
                "the skip of the MLP is the input of the block; it is the sum after attention",
                lambda x, s: s["start"] if s["self"].proj is None else s["self"].proj(x),
            ),
        ),
        put("MLP", lambda x, s: s["self"].mlp(x)),
        put("add the skip of the MLP", lambda x, s: x + s["skip"]),
    ),
)


def block_literal(self, x):
    """As the paper's section 3.2 says it, one clip at a time."""
    out = []
    for tokens in x:
        normed = self.norm1(tokens[None])
        tokens = pool_literal(tokens[None], self.size, self.pool_skip) + self.attn(normed)
        normed = self.norm2(tokens)
        out.append((tokens if self.proj is None else self.proj(normed)) + self.mlp(normed))
    return torch.cat(out)


def block_fast(self, x):
    """A plain function, which can be the `forward` of a class; a method of `BLOCK` cannot."""
    return BLOCK.function(self, x)


def block_cases():
    return [
        (block_layer(dim, dim_out, heads, size, shrinks), torch.randn(B, 1 + prod(size), dim))
        for B, dim, dim_out, heads, size, shrinks in (
            (2, 4, 4, 2, (2, 3, 4), False),
            (1, 6, 6, 3, (2, 4, 4), True),
            (2, 4, 8, 2, (1, 4, 2), False),
            (2, 4, 8, 2, (2, 4, 5), True),
        )
    ]


def block_shape(self, x):
    T, H, W = self.pool_skip(torch.zeros(1, 1, *self.size)).shape[2:]
    channels = x.shape[2] if self.proj is None else self.proj.out_features
    return f"(B, 1 + T'·H'·W', C') = ({len(x)}, 1 + {T}·{H}·{W}, {channels})"


def normalised_skip(self, x):
    y = self.norm1(x)
    return after_attention(self, pool_like(y, self.size, self.pool_skip) + self.attn(y))


def after_attention(self, x):
    y = self.norm2(x)
    return (x if self.proj is None else self.proj(y)) + self.mlp(y)


EXERCISES["5.3"] = Exercise(
    "the block",
    block_literal,
    block_cases,
    block_shape,
    (
        (NORMALISED_SKIP, normalised_skip),
        (
            "attention is given the tokens without `norm1`",
            lambda self, x: after_attention(self, pool_like(x, self.size, self.pool_skip) + self.attn(x)),
        ),
        (
            "there is no skip around attention: add the pooled input of the block",
            lambda self, x: after_attention(self, self.attn(self.norm1(x))),
        ),
        (
            "there is no skip around the MLP: add the sum after attention, or `proj` of the normalised tokens where "
            "channels grow",
            lambda self, x: self.mlp(self.norm2(pool_like(x, self.size, self.pool_skip) + self.attn(self.norm1(x)))),
        ),
        (
            "the norms come behind attention and MLP; MViT puts them in front of both",
            lambda self, x: norms_behind(self, x),
        ),
        (
            "attention and MLP work side by side on the same tokens; the MLP takes the sum after attention",
            lambda self, x: side_by_side(self, x),
        ),
    ),
    piece=block_fast,
    more=lambda: [
        (block_layer(4, 4 * r.randint(1, 2), 2, size, r.random() < 0.5), torch.randn(2, 1 + prod(size), 4))
        for r in randoms(3)
        for size in [(r.randint(1, 2), r.randint(2, 4), r.randint(2, 4))]
    ],
    kinds=(BLOCK,),
)


def norms_behind(self, x):
    x = pool_like(x, self.size, self.pool_skip) + self.norm1(self.attn(x))
    skip = x if self.proj is None else self.proj(x)
    y = self.mlp(x)
    return skip + (self.norm2(y) if self.proj is None else F.layer_norm(y, y.shape[-1:]))


def side_by_side(self, x):
    pooled = pool_like(x, self.size, self.pool_skip)
    y = self.norm2(pooled)
    skip = pooled + self.attn(self.norm1(x))
    return (skip if self.proj is None else self.proj(self.norm2(skip))) + self.mlp(y)


# ---------------------------------------------------------------- 5.4: the plan of the blocks

COLUMNS = ("channels in", "channels out", "heads", "query stride", "key stride")


def plan_literal(depth, dim, starts, kv):
    """Block by block: what is known when the block begins, and what it changes."""
    rows, heads = [], 1
    for i in range(depth):
        begins, ends = i in starts, i + 1 in starts  # of a stage
        heads, kv = (2 * heads, max(kv // 2, 1)) if begins else (heads, kv)
        rows.append([dim, 2 * dim if ends else dim, heads, 2 if begins else 1, kv])
        dim = rows[-1][1]
    return torch.tensor(rows)


def begun(i, starts):
    """How many stages have begun by shrinking the map, up to block i."""
    return sum(s <= i for s in starts)


def plan_like(depth, dim, starts, kv, *, channels=None, heads=None, query=None, key=None, columns=None):
    """The plan in which single columns are computed as given: functions of (i, begun, starts, argument)."""
    rows = []
    for i in range(depth):
        n = begun(i, starts)
        first = begun(0, starts)  # a start at block 0 has no block before it, in which channels could grow
        c = (
            (dim * 2 ** (n - first), dim * 2 ** (begun(i + 1, starts) - first))
            if channels is None
            else channels(i, n, starts, dim)
        )
        h = 2**n if heads is None else heads(i, n, starts, dim)
        q = 2 if i in starts else 1
        q = q if query is None else query(i, n, starts, depth)
        k = max(kv // 2**n, 1) if key is None else key(i, n, starts, kv)
        rows.append([*c, h, q, k])
    out = torch.tensor(rows)
    return out if columns is None else out[:, list(columns)]


PLANS = Choices(
    plan_like,
    {
        "channels": (
            (
                "the channels double in the first block of a stage, which is MViTv2's rule; in MViT the last block of "
                "the stage before does it, in its MLP",
                lambda i, n, starts, dim: (dim * 2 ** begun(i - 1, starts), dim * 2**n),
            ),
            ("the channels never double", lambda i, n, starts, dim: (dim, dim)),
            ("`channels out` is always `channels in`", lambda i, n, starts, dim: (dim * 2**n, dim * 2**n)),
            (
                "`channels in` is already doubled in the block that doubles them",
                lambda i, n, starts, dim: (dim * 2 ** begun(i + 1, starts),) * 2,
            ),
            (
                "the channels grow by `dim` at a stage; they double",
                lambda i, n, starts, dim: (dim * (n + 1), dim * (begun(i + 1, starts) + 1)),
            ),
            (
                "the channels become four times as many at a stage; they double",
                lambda i, n, starts, dim: (dim * 4**n, dim * 4 ** begun(i + 1, starts)),
            ),
            (
                "the channels double in every block; only at the end of a stage do they",
                lambda i, n, starts, dim: (dim * 2**i, dim * 2 ** (i + 1)),
            ),
        ),
        "heads": (
            (
                "the heads double one block early, with the channels; they double in the first block of a stage",
                lambda i, n, starts, dim: 2 ** begun(i + 1, starts),
            ),
            (
                "the heads double one block late; they double in the first block of a stage",
                lambda i, n, starts, dim: 2 ** begun(i - 1, starts),
            ),
            ("there is always one head; heads double at each stage", lambda i, n, starts, dim: 1),
            ("the heads grow by one at a stage; they double", lambda i, n, starts, dim: n + 1),
            (
                "each stage has half the heads of the one before; they double",
                lambda i, n, starts, dim: 2 ** (len(starts) - n),
            ),
        ),
        "query": (
            (
                "the queries have stride 2 in every block; only the first block of a stage pools them",
                lambda i, n, s, d: 2,
            ),
            (
                "the queries have stride 2 in every block but the first of all; only the first of a stage pools them",
                lambda i, n, s, d: 2 if i else 1,
            ),
            (
                "the queries are pooled in the last block of a stage; it is the first block of the next one",
                lambda i, n, s, d: 2 if i + 1 in s else 1,
            ),
            ("the queries are never pooled", lambda i, n, s, d: 1),
            (
                "the query stride is that of the whole way, 2 for each stage; each block only has its own",
                lambda i, n, s, d: 2**n,
            ),
        ),
        "key": (
            ("the key stride is the same in all blocks; it is halved where the map is", lambda i, n, s, kv: kv),
            (
                "the key stride is halved in the block after the one that halves the map; the first block of a stage "
                "already has the smaller stride",
                lambda i, n, s, kv: max(kv // 2 ** begun(i - 1, s), 1),
            ),
            (
                "the key stride is halved one block early; the first block of a stage halves it",
                lambda i, n, s, kv: max(kv // 2 ** begun(i + 1, s), 1),
            ),
            ("the key stride becomes 0; a stride is at least 1", lambda i, n, s, kv: kv // 2**n),
            (
                "the key stride is halved in every block; only the first of a stage halves it",
                lambda i, n, s, kv: max(kv // 2**i, 1),
            ),
            ("the key stride doubles at a stage; it is halved", lambda i, n, s, kv: kv * 2**n),
            (
                "keys and values are only pooled in the first block of a stage; they are pooled in all blocks",
                lambda i, n, s, kv: max(kv // 2**n, 1) if i in s or not i else 1,
            ),
        ),
        "columns": tuple(
            (
                f"the columns “{COLUMNS[a]}” and “{COLUMNS[b]}” are exchanged",
                [b if c == a else a if c == b else c for c in range(5)],
            )
            for a in range(5)
            for b in range(a + 1, 5)
        ),
    },
    together=(
        (
            "heads, query stride and key stride change one block early, with the channels; they change in the first "
            "block of a stage, and only the channels grow in the block before",
            dict(
                heads=lambda i, n, starts, dim: 2 ** begun(i + 1, starts),
                query=lambda i, n, s, d: 2 if i + 1 in s else 1,
                key=lambda i, n, s, kv: max(kv // 2 ** begun(i + 1, s), 1),
            ),
        ),
        (
            "heads, query stride and key stride change one block late; they change in the first block of a stage",
            dict(
                heads=lambda i, n, starts, dim: 2 ** begun(i - 1, starts),
                query=lambda i, n, s, d: 2 if i - 1 in s else 1,
                key=lambda i, n, s, kv: max(kv // 2 ** begun(i - 1, s), 1),
            ),
        ),
        (
            "heads and query stride change one block early, with the channels; they change in the first block of a "
            "stage",
            dict(
                heads=lambda i, n, starts, dim: 2 ** begun(i + 1, starts),
                query=lambda i, n, s, d: 2 if i + 1 in s else 1,
            ),
        ),
    ),
)


EXERCISES["5.4"] = Exercise(
    "the plan of the blocks",
    plan_literal,
    lambda: [(4, 32, (1, 3), 4), (16, 96, (1, 3, 14), 8), (6, 8, (2, 4), 2), (5, 10, (1, 2, 4), 4)],
    lambda depth, dim, starts, kv: f"(depth, 5) = ({depth}, 5)",
    (),
    piece=plan_like,
    more=lambda: [
        (
            r.randint(6, 9),
            4 * r.randint(1, 9),
            tuple(sorted(r.sample(range(1, 6), r.randint(1, 3)))),
            2 ** r.randint(0, 4),
        )
        for r in randoms(8)
    ],
    kinds=(PLANS,),
)


# ---------------------------------------------------------------- 5.5: the network


def network_layer(frames, side, dim, blocks, classes) -> Part:
    """A whole network with the attributes of the notebook's class; its blocks keep the map."""
    size = (frames // 2, side // 4, side // 4)
    cubes = frozen(nn.Conv3d(3, dim, (3, 7, 7), (2, 4, 4), (1, 3, 3)))
    norm, head = frozen(nn.LayerNorm(dim, eps=1e-6)), frozen(nn.Linear(dim, classes))
    layers = [block_layer(dim, dim, 2, size, False) for _ in range(blocks)]

    def position(n):
        return torch.randn(1, n, dim)

    return Part(
        f"a network with {blocks} block{'s' * (blocks > 1)} and maps of {size}",
        size=size,
        patch_embed=Part("the cubes", lambda x: cubes(x).flatten(2).mT),
        cls_token=position(1),
        pos_embed_class=position(1),
        pos_embed_spatial=position(size[1] * size[2]),
        pos_embed_temporal=position(size[0]),
        blocks=tuple(Part("a block", lambda x, b=b: BLOCK.function(b, x)) for b in layers),
        norm=norm,
        head=head,
    )


def with_class(cls):
    """A step that puts the class token `cls(network)` in front."""
    return lambda x, s: torch.cat([cls(s["self"]).expand(len(x), -1, -1), x], 1)


def run_blocks(x, s):
    for block in s["self"].blocks:
        x = block(x)
    return x


def in_space(x, s):
    return x + s["self"].pos_embed_spatial.repeat(1, s["self"].size[0], 1)


def in_time(x, s):
    return x + s["self"].pos_embed_temporal.repeat_interleave(prod(s["self"].size[1:]), 1)


NETWORK = Steps(
    lambda self, x: {"self": self, "x": x},
    (
        put("cubes", lambda x, s: s["self"].patch_embed(x)),
        put(
            "positions in space",
            in_space,
            (
                "the positions in space are repeated token by token (`repeat_interleave`); the whole frame is "
                "repeated for each time step (`repeat`)",
                lambda x, s: x + s["self"].pos_embed_spatial.repeat_interleave(s["self"].size[0], 1),
            ),
        ),
        put(
            "positions in time",
            in_time,
            (
                "the positions in time are repeated as a whole (`repeat`); each belongs to H·W tokens in a row "
                "(`repeat_interleave`)",
                lambda x, s: x + s["self"].pos_embed_temporal.repeat(1, prod(s["self"].size[1:]), 1),
            ),
        ),
        put(
            "class token",
            with_class(lambda n: n.cls_token + n.pos_embed_class),
            ("the class token lacks its position, `pos_embed_class`", with_class(lambda n: n.cls_token)),
            (
                "`pos_embed_class` stands in place of the class token: add it to `cls_token`",
                with_class(lambda n: n.pos_embed_class),
            ),
            (
                "the class token is put behind the map; it stands in front",
                lambda x, s: torch.cat(
                    [x, (s["self"].cls_token + s["self"].pos_embed_class).expand(len(x), -1, -1)], 1
                ),
            ),
        ),
        put(
            "blocks",
            run_blocks,
            ("only the first block is run", lambda x, s: s["self"].blocks[0](x)),
            ("only the last block is run", lambda x, s: s["self"].blocks[-1](x)),
            (
                "the first block is left out",
                lambda x, s: run_blocks(x, {"self": Part("", blocks=s["self"].blocks[1:])}),
            ),
            (
                "the blocks are run in the other order",
                lambda x, s: run_blocks(x, {"self": Part("", blocks=s["self"].blocks[::-1])}),
            ),
        ),
        put("norm", lambda x, s: s["self"].norm(x)),
        put(
            "take the class token",
            lambda x, s: x[:, 0],
            ("the mean of all tokens is classified; MViT reads the class token", lambda x, s: x.mean(1)),
            ("the mean of the map is classified; MViT reads the class token", lambda x, s: x[:, 1:].mean(1)),
            ("the last token of the map is classified; the class token is token 0", lambda x, s: x[:, -1]),
            ("the first token of the map is classified; the class token is token 0", lambda x, s: x[:, 1]),
        ),
        put(
            "head",
            lambda x, s: s["self"].head(x),
            ("the result is a softmax; wanted are the logits", lambda x, s: s["self"].head(x).softmax(-1)),
        ),
    ),
)


def network_literal(self, x):
    """One clip and one token at a time: place (t, h, w) gets the positions of (h, w) and of t."""
    _, H, W = self.size
    out = []
    for clip in x:
        tokens = list(self.patch_embed(clip[None])[0])
        for i in range(len(tokens)):
            t, place = divmod(i, H * W)
            tokens[i] = tokens[i] + self.pos_embed_spatial[0, place] + self.pos_embed_temporal[0, t]
        y = torch.stack([self.cls_token[0, 0] + self.pos_embed_class[0, 0], *tokens])[None]
        for block in self.blocks:
            y = block(y)
        out.append(self.head(self.norm(y[0, 0])))
    return torch.stack(out)


def network_fast(self, x):
    return NETWORK.function(self, x)


def network_cases():
    return [
        (network_layer(frames, side, dim, blocks, classes), torch.randn(B, 3, frames, side, side))
        for B, frames, side, dim, blocks, classes in ((1, 4, 12, 4, 1, 3), (2, 8, 8, 6, 2, 5), (2, 2, 12, 4, 3, 4))
    ]


EXERCISES["5.5"] = Exercise(
    "the network",
    network_literal,
    network_cases,
    lambda self, x: f"(B, K) = ({len(x)}, {self.head.out_features})",
    (
        (
            "the positions of time and space are exchanged: tokens run time first, so each time step holds a whole "
            "frame of H·W tokens",
            lambda self, x: exchanged_positions(self, x),
        ),
        (
            "the positions are added to the class token as well: it has only `pos_embed_class`",
            lambda self, x: positions_for_class(self, x),
        ),
        (
            "each block is given the embedded clip, and only the last result is used; it gets what the block before "
            "made",
            lambda self, x: blocks_side_by_side(self, x),
        ),
    ),
    piece=network_fast,
    more=network_cases,
    kinds=(NETWORK,),
)


def rest_of_network(self, x, blocks=run_blocks):
    x = torch.cat([(self.cls_token + self.pos_embed_class).expand(len(x), -1, -1), x], 1)
    return self.head(self.norm(blocks(x, {"self": self}))[:, 0])


def exchanged_positions(self, x):
    T, H, W = self.size
    x = self.patch_embed(x) + self.pos_embed_spatial.repeat_interleave(T, 1)
    return rest_of_network(self, x + self.pos_embed_temporal.repeat(1, H * W, 1))


def positions_for_class(self, x):
    s = {"self": self}
    x = in_time(in_space(self.patch_embed(x), s), s)
    cls = self.cls_token + self.pos_embed_class + self.pos_embed_spatial[:, :1] + self.pos_embed_temporal[:, :1]
    x = torch.cat([cls.expand(len(x), -1, -1), x], 1)
    return self.head(self.norm(run_blocks(x, s))[:, 0])


def blocks_side_by_side(self, x):
    s = {"self": self}
    x = in_time(in_space(self.patch_embed(x), s), s)
    return rest_of_network(self, x, lambda x, s: [block(x) for block in s["self"].blocks][-1])


# ---------------------------------------------------------------- 5.6: the attention of MViTv2


def attention_v2_layer(dim, dim_out, heads, size, q_stride, kv_stride) -> Part:
    """An attention of MViTv2: as before, with relative scores of random vectors."""
    layer = attention_layer(dim, dim_out, heads, size, q_stride, kv_stride)
    queries, keys = (prod(-(-n // s) for n, s in zip(size, stride)) for stride in (q_stride, kv_stride))
    vectors = torch.randn(queries, keys, dim_out // heads)

    def relative(q):
        if getattr(q, "ndim", 0) != 4 or q.shape[2] != queries:
            shape = tuple(getattr(q, "shape", ()))
            raise ValueError(f"`relative` wants the {queries} queries of the map, (B, h, {queries}, d), not {shape}")
        return torch.einsum("bnid,ijd->bnij", q, vectors)

    layer.relative = Part("relative scores", relative)
    return layer


def attention_v2_literal(self, x):
    """One clip, one head and one query at a time."""
    out, d = [], self.proj.in_features // self.heads
    for tokens in x:
        parts = self.qkv(tokens[None]).chunk(3, -1)
        q, k, v = (
            getattr(self, f"norm_{name}")(
                pool_literal(part, self.size, getattr(self, f"pool_{name}"))[0].unflatten(1, (self.heads, d))
            ).transpose(0, 1)
            for part, name in zip(parts, "qkv")
        )  # (h, 1 + N', d)
        relative = self.relative(q[None, :, 1:])[0]  # (h, N', keys of the map)
        rows = []
        for i in range(q.shape[1]):
            row = []
            for n in range(self.heads):
                scores = k[n] @ q[n, i] / d**0.5
                if i:
                    scores[1:] += relative[n, i - 1]
                row.append(scores.softmax(0) @ v[n] + (q[n, i] if i else 0))
            rows.append(torch.cat(row))
        out.append(self.proj(torch.stack(rows)))
    return torch.stack(out)


def beside_class(relative):
    """Scores of the map with a row and a column of zeros for the class token."""
    return F.pad(relative, (1, 0, 1, 0))


def map_only(q):
    return torch.cat([torch.zeros_like(q[:, :, :1]), q[:, :, 1:]], 2)


def attention_v2_like(
    self, x, *, more=None, rest=map_only, after=None, behind=None, norms="qkv", weights=softmax, root=None
):
    """The attention of MViTv2 in which the steps that are given replace the right ones.

    more: of the layer and q, what is added to the scores; rest: of q, what is added to the output; after: of the
    layer, the weights and q; behind: of the layer's result and q.
    """
    d = self.proj.in_features // self.heads
    q, k, v = (
        layer(pool_like(part, self.size, getattr(self, f"pool_{name}")).unflatten(-1, (self.heads, d))).transpose(1, 2)
        for part, name, layer in zip(
            self.qkv(x).chunk(3, -1), "qkv", (getattr(self, f"norm_{n}", lambda t: t) for n in norms)
        )
    )
    scale = d**-0.5 if root is None else root(q, k, self.heads * d)
    scores = q @ k.mT * scale
    scores = scores + (beside_class(self.relative(q[:, :, 1:])) if more is None else more(self, q))
    shares = weights(scores)
    y = (shares if after is None else after(self, shares, q)) @ v + rest(q)
    y = self.proj(y.transpose(1, 2).flatten(2))
    return y if behind is None else behind(y, q)


def merged(q):
    return map_only(q).transpose(1, 2).flatten(2)


ATTENDED_V2 = Choices(
    attention_v2_like,
    {
        "more": (
            ("the relative scores are missing", lambda self, q: 0),
            (
                "the relative scores are divided by √d as well; only q·kᵀ is",
                lambda self, q: beside_class(self.relative(q[:, :, 1:])) * q.shape[-1] ** -0.5,
            ),
            (
                "the relative scores are multiplied by √d",
                lambda self, q: beside_class(self.relative(q[:, :, 1:])) * q.shape[-1] ** 0.5,
            ),
            ("the relative scores have the other sign", lambda self, q: -beside_class(self.relative(q[:, :, 1:]))),
            (
                "the zeros for the class token are put behind the map; it is token 0, so they stand in front",
                lambda self, q: F.pad(self.relative(q[:, :, 1:]), (0, 1, 0, 1)),
            ),
            (
                "`relative` is given the first N' queries, with the class token among them: give it `q[:, :, 1:]`",
                lambda self, q: beside_class(self.relative(q[:, :, :-1])),
            ),
            (
                "the column of the class token is behind the keys; it is key 0",
                lambda self, q: F.pad(self.relative(q[:, :, 1:]), (0, 1, 1, 0)),
            ),
            (
                "the row of the class token is behind the queries; it is query 0",
                lambda self, q: F.pad(self.relative(q[:, :, 1:]), (1, 0, 0, 1)),
            ),
            ("the relative scores count twice", lambda self, q: 2 * beside_class(self.relative(q[:, :, 1:]))),
        ),
        "after": (
            (
                "the relative scores are added to the weights as well, behind the softmax",
                lambda self, w, q: w + beside_class(self.relative(q[:, :, 1:])),
            ),
        ),
        "rest": (
            ("the pooled queries are not added to the output (residual pooling)", torch.zeros_like),
            ("the query of the class token is added as well; residual pooling leaves token 0 out", lambda q: q),
            (
                "only the query of the class token is added; residual pooling adds all but that one",
                lambda q: q - map_only(q),
            ),
            (
                "the queries that are added are divided by √d; they are added as they are",
                lambda q: map_only(q) * q.shape[-1] ** -0.5,
            ),
            ("the pooled queries are subtracted; they are added", lambda q: -map_only(q)),
            ("the pooled queries are added twice", lambda q: 2 * map_only(q)),
            (
                "the queries are added one place late: token i + 1 gets query i",
                lambda q: q.roll(1, 2) * (map_only(q) != 0),
            ),
        ),
        "behind": (
            ("the queries are added behind `proj`, too; they are added once, before it", lambda y, q: y + merged(q)),
        ),
        "norms": (
            ("the queries are not normalised after their pooling", "-kv"),
            ("the keys are not normalised after their pooling", "q-v"),
            ("the values are not normalised after their pooling", "qk-"),
            ("there is no norm after the poolings", "---"),
        ),
        "root": instead_of_root("√d"),
        "weights": instead_of_softmax(("batch", "heads", "queries", "keys")),
    },
)


def attention_v2_cases():
    one, two = (1, 1, 1), (1, 2, 2)
    return [
        (attention_v2_layer(C, C_out, h, size, q, kv), torch.randn(B, 1 + prod(size), C))
        for B, C, C_out, h, size, q, kv in (
            (1, 4, 4, 1, (2, 3, 3), one, two),
            (2, 6, 4, 2, (1, 4, 4), two, one),
            (2, 4, 6, 3, (2, 2, 3), one, one),
        )
    ]


EXERCISES["5.6"] = Exercise(
    "the attention of MViTv2",
    attention_v2_literal,
    attention_v2_cases,
    attention_shape,
    (
        (
            "the queries are added behind `proj`; they are added before it",
            lambda self, x: attention_v2_like(self, x, rest=torch.zeros_like, behind=lambda y, q: y + merged(q)),
        ),
        (
            "the relative scores are added behind the softmax; they belong to the scores before it",
            lambda self, x: attention_v2_like(
                self, x, more=lambda self, q: 0, after=lambda self, w, q: w + beside_class(self.relative(q[:, :, 1:]))
            ),
        ),
        (
            "this is the attention of MViT, exercise 5.2: relative scores and residual pooling are missing",
            lambda self, x: attention_like(self, x),
        ),
    ),
    piece=attention_v2_like,
    more=lambda: [
        (attention_v2_layer(4, 2 * h, h, size, (1, 2, 2), (1, 2, 2)), torch.randn(2, 1 + prod(size), 4))
        for r in randoms(3)
        for h, size in [(r.randint(2, 3), (r.randint(1, 2), r.randint(2, 4), r.randint(2, 4)))]
    ],
    kinds=(ATTENDED_V2,),
)
