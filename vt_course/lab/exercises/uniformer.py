"""Notebook 07: one aggregator with two affinities, and the network made of it."""

from itertools import permutations, product
from math import prod

import torch
import torch.nn.functional as F
from torch import nn

from vt_course.lab.exercise import Exercise, randoms
from vt_course.lab.exercises.attention_and_cost import counting, products
from vt_course.lab.kinds.formulas import Formula
from vt_course.lab.kinds.operations import (
    Choices,
    instead_of_bounds,
    instead_of_head,
    instead_of_radius,
    instead_of_tokens,
)
from vt_course.lab.kinds.steps import Step, Steps
from vt_course.models.uniformer import UniFormer

EXERCISES: dict[str, Exercise] = {}


# ---------------------------------------------------------------- 7.1: the affinity of a tube


def affinity_literal(kernel, size):
    """One head and one pair of tokens at a time: the entry of the kernel at the key's offset from the query."""
    sides = kernel.shape[1:]
    places = list(product(*map(range, size)))
    out = torch.zeros(len(kernel), len(places), len(places))
    for i, query in enumerate(places):
        for j, key in enumerate(places):
            at = [b - a + n // 2 for a, b, n in zip(query, key, sides)]
            if all(0 <= k < n for k, n in zip(at, sides)):
                out[:, i, j] = kernel[:, at[0], at[1], at[2]]
    return out  # (h, N, N)


def affinity_like(kernel, size, *, at=None, bounds=None, outside=None, order=(0, 1, 2), finish=None):
    """The affinity in which the steps that are given replace the right ones."""
    sides = torch.tensor(kernel.shape[1:])
    axes = torch.meshgrid(*[torch.arange(size[a]) for a in order], indexing="ij")
    places = torch.stack([axes[order.index(a)] for a in range(3)], -1).flatten(0, 2)  # (N, 3)
    offset = places[None] - places[:, None]  # (N, N, 3), key - query
    entry = (offset + sides // 2) if at is None else at(offset, sides, torch.tensor(size))
    if bounds is not None:
        return looked_up(kernel, entry, bounds(entry, sides, offset))
    inside = ((entry >= 0) & (entry < sides)).all(-1)  # (N, N)
    t, h, w = (entry % sides if outside == "wrap" else entry.clamp(torch.zeros(3).long(), sides - 1)).unbind(-1)
    out = kernel[:, t, h, w]  # (h, N, N)
    out = out if outside else out * inside
    return out if finish is None else finish(out, inside)


def looked_up(kernel, entry, inside):
    """Entries as Python takes them: one below 0 counts from the end, one behind the end is an error."""
    t, h, w = (entry * inside[..., None]).unbind(-1)
    return kernel[:, t, h, w] * inside  # (h, N, N)


def around(offset, sides, size):
    """Offsets counted around the border of the map."""
    return (offset + size // 2) % size - size // 2 + sides // 2


AFFINITIES = Choices(
    affinity_like,
    {
        "at": (
            (
                "the offset is not moved to start at 0: add the radius, half of the kernel's side rounded down",
                lambda o, n, s: o,
            ),
            (
                "the centre of a kernel of side n is entry n // 2; you count from one entry later",
                lambda o, n, s: o + n // 2 + 1,
            ),
            ("the tube goes around the border of the map: what lies outside the map has no token", around),
            (
                "the sign of the offset is lost: before and after have entries of their own",
                lambda o, n, s: o.abs() + n // 2,
            ),
            (
                "the tube is used in space only: a key at another time step has an entry of its own",
                lambda o, n, s: torch.stack([0 * o[..., 0] + n[0] // 2, *(o + n // 2).unbind(-1)[1:]], -1),
            ),
            ("the offsets of height and width are exchanged", lambda o, n, s: o[..., [0, 2, 1]] + n // 2),
            (
                "the offsets are taken in the order (W, H, T); it is (T, H, W)",
                lambda o, n, s: o[..., [2, 1, 0]] + n // 2,
            ),
            *((text, lambda o, n, s, f=f: o + f(n)) for text, f in instead_of_radius(("time", "height", "width"))),
        ),
        "bounds": instead_of_bounds(("time", "height", "width")),
        "outside": (
            ("outside the tube the affinity must be 0; you use the nearest entry of the kernel", "nearest"),
            ("outside the tube the affinity must be 0; you count around the end of the kernel", "wrap"),
        ),
        "order": (
            ("the tokens are numbered (H W T); the order is (T H W), width fastest", (1, 2, 0)),
            ("the tokens are numbered (W H T); the order is (T H W), width fastest", (2, 1, 0)),
            ("the tokens are numbered (T W H); the order is (T H W), width fastest", (0, 2, 1)),
        ),
        "finish": (
            (
                "each row goes through a softmax: the local affinity has none, its numbers may be negative",
                lambda a, i: a.softmax(-1),
            ),
            (
                "the keys of the tube go through a softmax: the local affinity has none, its numbers may be negative",
                lambda a, i: a.masked_fill(~i, -torch.inf).softmax(-1),
            ),
            (
                "each row is divided by its sum; the local affinity is the kernel's number",
                lambda a, i: a / a.sum(-1, True),
            ),
            ("pairs in the tube hold 1: they must hold the kernel's number", lambda a, i: i.float().expand_as(a)),
            (
                "pairs outside the tube hold -inf: that is a mask for a softmax, here they hold 0",
                lambda a, i: a.masked_fill(~i, -torch.inf),
            ),
            (
                "pairs outside the tube hold -100: that is a mask for a softmax, here they hold 0",
                lambda a, i: a.masked_fill(~i, -100.0),
            ),
            ("the heads are the last axis: bring them to the front", lambda a, i: a.permute(1, 2, 0)),
        ),
    },
    together=tuple(
        (text, dict(at=lambda o, n, s, f=f: o + f(n), bounds=lambda entry, n, o, f=f: (o.abs() <= f(n)).all(-1)))
        for text, f in instead_of_radius(("time", "height", "width"))
    ),
)


def affinity_cases():
    return [
        (torch.randn(h, *sides), size)
        for h, sides, size in (
            (1, (3, 3, 3), (2, 3, 4)),
            (2, (5, 3, 1), (4, 3, 2)),
            (3, (1, 3, 5), (2, 4, 3)),
            (2, (3, 5, 3), (3, 2, 5)),
            (1, (3, 5, 5), (2, 3, 3)),  # all keys lie in the tube
        )
    ]


def tube_affinity(kernel, size):
    """`affinity_like` without options, for the cells of the notebook."""
    return affinity_like(kernel, size)


EXERCISES["7.1"] = Exercise(
    "the affinity of a tube",
    affinity_literal,
    affinity_cases,
    lambda kernel, size: f"(h, N, N) = ({len(kernel)}, {prod(size)}, {prod(size)})",
    (
        (
            "the offset has the other sign: rows are queries, and the entry of the kernel is that of key minus query",
            lambda kernel, size: affinity_literal(kernel, size).mT,
        ),
    ),
    piece=tube_affinity,
    gradient=True,
    parts={"size": ("T", "H", "W")},
    more=lambda: [
        (
            torch.randn(r.randint(1, 3), *(2 * r.randint(0, 2) + 1 for _ in range(3))),
            tuple(r.randint(1, 4) for _ in range(3)),
        )
        for r in randoms(6)
    ],
    kinds=(AFFINITIES,),
)


# ---------------------------------------------------------------- 7.2: three convolutions


def relation_literal(x, V, a, U):
    """Each channel is a head: its affinity times its values, for all tokens. V and U act on each token alone."""
    size = x.shape[2:]
    values = torch.einsum("dc,bcn->bdn", V, x.flatten(2))  # (B, D, N)
    related = torch.einsum("dij,bdj->bdi", affinity_literal(a, size), values)  # (B, D, N)
    return torch.einsum("cd,bdn->bcn", U, related).unflatten(2, size)  # (B, C, T, H, W)


def depthwise(x, a, pad=None):
    padding = [n // 2 for n in a.shape[1:]]
    if pad:
        t, h, w = padding
        x, padding = F.pad(x, (w, w, h, h, t, t), mode=pad), 0
    return F.conv3d(x, a[:, None], padding=padding, groups=len(a))


def pointwise(x, weight):
    return F.conv3d(x, weight[:, :, None, None, None])


def then(function):
    """A step that changes x."""
    return lambda s: s.update(x=function(s["x"], s))


RELATION = Steps(
    lambda x, V, a, U: dict(x=x, V=V, a=a, U=U),
    (
        Step("V, a 1 × 1 × 1 convolution", then(lambda x, s: pointwise(x, s["V"]))),
        Step(
            "A, the depthwise convolution",
            then(lambda x, s: depthwise(x, s["a"])),
            (
                (
                    "the kernel is flipped: PyTorch's convolution uses it as it is, entry 0 for the token before",
                    then(lambda x, s: depthwise(x, s["a"].flip(1, 2, 3))),
                ),
                (
                    "the map is padded with its own other side (circular): pad with zeros",
                    then(lambda x, s: depthwise(x, s["a"], "circular")),
                ),
                (
                    "the map is padded by repeating its border: pad with zeros",
                    then(lambda x, s: depthwise(x, s["a"], "replicate")),
                ),
                (
                    "the map is not padded, so it shrinks: pad it with zeros, half of the kernel's side rounded down",
                    then(lambda x, s: F.conv3d(x, s["a"][:, None], groups=len(s["a"]))),
                ),
                *(
                    (
                        f"the padding is {n} along every axis: it is half of each side, rounded down",
                        then(lambda x, s, n=n: F.conv3d(x, s["a"][:, None], padding=n, groups=len(s["a"]))),
                    )
                    for n in (1, 2)
                ),
                (
                    "all channels share the mean of the kernels: each channel has a kernel of its own",
                    then(lambda x, s: depthwise(x, s["a"].mean(0, keepdim=True).expand_as(s["a"]))),
                ),
                (
                    "all channels share the first kernel: each channel has a kernel of its own",
                    then(lambda x, s: depthwise(x, s["a"][:1].expand_as(s["a"]))),
                ),
                (
                    "the kernels go through a softmax: the local affinity has none",
                    then(lambda x, s: depthwise(x, s["a"].flatten(1).softmax(1).view_as(s["a"]))),
                ),
                (
                    "the channels are added up: the convolution is not depthwise, it needs one group for each channel",
                    then(lambda x, s: depthwise(x, s["a"]).sum(1, keepdim=True).expand_as(x)),
                ),
                (
                    "there is a residual around A: none is inside the aggregator",
                    then(lambda x, s: x + depthwise(x, s["a"])),
                ),
            ),
        ),
        Step(
            "U, a 1 × 1 × 1 convolution",
            then(lambda x, s: pointwise(x, s["U"])),
            (
                (
                    "there is a GELU before U: the aggregator is linear, the only GELU of a block is in its FFN",
                    then(lambda x, s: pointwise(F.gelu(x), s["U"])),
                ),
                (
                    "there is a ReLU before U: the aggregator is linear, the only nonlinear function is in the FFN",
                    then(lambda x, s: pointwise(F.relu(x), s["U"])),
                ),
            ),
        ),
    ),
)


def relation_case(B, C, D, size, sides):
    return (
        torch.randn(B, C, *size),
        torch.randn(D, C) / C**0.5,
        torch.randn(D, *sides) / prod(sides) ** 0.5,
        torch.randn(C, D) / D**0.5,
    )


def local_relation(x, V, a, U):
    """PWConv - DWConv - PWConv, (B, C, T, H, W) -> the same shape."""
    return RELATION.function(x, V, a, U)


EXERCISES["7.2"] = Exercise(
    "the local aggregator as three convolutions",
    relation_literal,
    lambda: [
        relation_case(1, 2, 2, (3, 4, 5), (3, 3, 3)),
        relation_case(2, 3, 5, (6, 3, 2), (5, 3, 1)),
        relation_case(2, 4, 4, (2, 4, 6), (1, 3, 5)),
    ],
    lambda x, V, a, U: f"(B, C, T, H, W) = ({', '.join(map(str, x.shape))})",
    (
        (
            "`V` and `U` are exchanged: V comes before A and makes D channels of C",
            lambda x, V, a, U: local_relation(x, U.T, a, V.T),
        ),
    ),
    piece=local_relation,
    gradient=True,
    more=lambda: [
        relation_case(r.randint(1, 2), r.randint(1, 3), r.randint(1, 3), size, sides)
        for r in randoms(4)
        for size, sides in [[[r.randint(1, 4) for _ in range(3)], [2 * r.randint(0, 2) + 1 for _ in range(3)]]]
    ],
    kinds=(RELATION,),
)


# ---------------------------------------------------------------- 7.3 and 7.4: the two blocks


class Parts(nn.Module):
    """The modules of a block with random weights. It prints as a few words, because a check prints its arguments."""

    def __init__(self, words, **modules):
        super().__init__()
        self.words = words
        for name, module in modules.items():
            self.add_module(name, module)
        stir(self)

    def __repr__(self):
        return self.words


def stir(module):
    """Random weights and statistics that are large enough for every part to matter, for gradients without rounding.

    Returns the module in float64 and in eval mode.
    """
    module.double()
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        value.requires_grad_(False)
        if value.is_floating_point():
            noise = torch.randn(value.shape, dtype=value.dtype)
            if value.ndim > 1:
                value.copy_(noise / value[0].numel() ** 0.5)
            else:
                value.copy_(1 + 0.3 * noise.abs() if name.endswith(("weight", "running_var")) else 0.3 * noise)
    return module.eval()


def a_map(*shape):
    return torch.randn(shape, dtype=torch.float64)


def two_layers(first, second):
    layers = nn.Sequential()
    layers.fc1, layers.act, layers.fc2 = first, nn.GELU(), second
    return layers


def depthwise_layer(dim, sides):
    return nn.Conv3d(dim, dim, sides, padding=[n // 2 for n in sides], groups=dim)


def local_parts(dim, sides=(5, 5, 5)):
    return Parts(
        f"a local block of {dim} channels",
        pos_embed=depthwise_layer(dim, (3, 3, 3)),
        norm1=nn.BatchNorm3d(dim),
        conv1=nn.Conv3d(dim, dim, 1),
        attn=depthwise_layer(dim, sides),
        conv2=nn.Conv3d(dim, dim, 1),
        norm2=nn.BatchNorm3d(dim),
        mlp=two_layers(nn.Conv3d(dim, 2 * dim, 1), nn.Conv3d(2 * dim, dim, 1)),
    )


class Attention(nn.Module):
    """Self-attention among N tokens, (B, N, C) -> (B, N, C)."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3 x (B, h, N, d)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def global_parts(dim, heads):
    return Parts(
        f"a global block of {dim} channels",
        pos_embed=depthwise_layer(dim, (3, 3, 3)),
        norm1=nn.LayerNorm(dim),
        attn=Attention(dim, heads),
        norm2=nn.LayerNorm(dim),
        mlp=two_layers(nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)),
    )


def part(name):
    """A step that sends x through a part of the block."""
    return then(lambda x, s: getattr(s["block"], name)(x))


KEEP = Step("keep X", lambda s: s.update(kept=s["x"]))
ADD = Step(
    "add X",
    then(lambda x, s: s["kept"] + x),
    (
        (
            "the first residual adds the block's input: it must add X, the tokens with their position",
            then(lambda x, s: s["input"] + x),
        ),
    ),
)
KEEP_Y = Step("keep Y", lambda s: s.update(kept=s["x"]))
ADD_Y = Step(
    "add Y",
    then(lambda x, s: s["kept"] + x),
    (
        (
            "the second residual adds the block's input: it must add Y, what the aggregator made",
            then(lambda x, s: s["input"] + x),
        ),
    ),
)


def embed(s):
    s["x"] = s["x"] + s["block"].pos_embed(s["x"])


POSITION = Step(
    "add the position embedding",
    embed,
    (
        (
            "the position embedding takes the place of the tokens: it must be added to them",
            then(lambda x, s: s["block"].pos_embed(x)),
        ),
        ("the position embedding is added twice", then(lambda x, s: x + 2 * s["block"].pos_embed(x))),
    ),
)


SECOND_NORM = Step(
    "norm2", part("norm2"), (("the first norm is used twice: the FFN has a norm of its own, `norm2`", part("norm1")),)
)


def post_norm_local(block, x):
    x = x + block.pos_embed(x)
    x = block.norm1(x + block.conv2(block.attn(block.conv1(x))))
    return block.norm2(x + block.mlp(x))


def res_post_norm_local(block, x):
    x = x + block.pos_embed(x)
    x = x + block.norm1(block.conv2(block.attn(block.conv1(x))))
    return x + block.norm2(block.mlp(x))


def sums(X, branch, second, adds_x, adds_y, reads):
    """X + branch(X), then the same with the second branch; 0 in place of a residual leaves it out."""
    Y = branch(X) + X * adds_x
    return second(X if reads == "X" else Y) + (X if adds_y == "X" else Y * adds_y)


def local_with(adds_x, adds_y, reads="Y"):
    def forward(block, x):
        X = x + block.pos_embed(x)
        aggregate, ffn = (
            nn.Sequential(block.norm1, block.conv1, block.attn, block.conv2),
            nn.Sequential(block.norm2, block.mlp),
        )
        return sums(X, aggregate, ffn, adds_x, adds_y, reads)

    return forward


def global_with(adds_x, adds_y, reads="Y"):
    def forward(block, x):
        X = (x + block.pos_embed(x)).flatten(2).transpose(1, 2)
        attend, ffn = nn.Sequential(block.norm1, block.attn), nn.Sequential(block.norm2, block.mlp)
        return sums(X, attend, ffn, adds_x, adds_y, reads).transpose(1, 2).reshape(x.shape)

    return forward


LOCAL = Steps(
    lambda block, x: dict(block=block, x=x, input=x, kept=0),
    (
        POSITION,
        KEEP,
        Step("norm1", part("norm1"), (("the norms are exchanged: `norm1` is that of the aggregator", part("norm2")),)),
        Step("conv1", part("conv1"), (("`conv2` stands in place of `conv1`", part("conv2")),)),
        Step("attn", part("attn"), (("`pos_embed` stands in place of `attn`", part("pos_embed")),)),
        Step(
            "conv2",
            part("conv2"),
            (
                (
                    "there is a GELU before `conv2`: the aggregator is linear, the only GELU is inside `mlp`",
                    then(lambda x, s: s["block"].conv2(F.gelu(x))),
                ),
                ("`conv1` stands in place of `conv2`", part("conv1")),
            ),
        ),
        ADD,
        KEEP_Y,
        SECOND_NORM,
        Step("mlp", part("mlp")),
        ADD_Y,
    ),
    together=(("keep Y", "norm2", "mlp", "add Y"), ("norm2", "mlp", "add Y"), ("conv1", "attn", "conv2")),
)


def local_block(block, x):
    """(B, C, T, H, W) -> the same shape, with the modules of `block`."""
    return LOCAL.function(block, x)


def local_literal(block, x):
    """Equations 1, 2 and 3."""
    X = x + block.pos_embed(x)
    Y = X + block.conv2(block.attn(block.conv1(block.norm1(X))))
    return Y + block.mlp(block.norm2(Y))


def map_shape(block, x):
    return f"(B, C, T, H, W) = ({', '.join(map(str, x.shape))})"


EXERCISES["7.3"] = Exercise(
    "the local block",
    local_literal,
    lambda: [
        (local_parts(4), a_map(2, 4, 2, 3, 4)),
        (local_parts(6, (3, 5, 3)), a_map(1, 6, 3, 4, 2)),
        (local_parts(3), a_map(2, 3, 1, 5, 3)),
    ],
    map_shape,
    (
        (
            "the FFN is missing: Z = Y + mlp(norm2(Y)). Without it the block is near to a MobileNet block",
            lambda block, x: (X := x + block.pos_embed(x)) + block.conv2(block.attn(block.conv1(block.norm1(X)))),
        ),
        ("the first residual is missing: Y = X + aggregator(norm1(X))", local_with(0, 1)),
        ("the second residual is missing: Z = Y + mlp(norm2(Y))", local_with(1, 0)),
        ("the second residual adds X: it must add Y, what the aggregator made", local_with(1, "X")),
        ("the FFN gets norm2(X): it must get norm2(Y), of what the aggregator made", local_with(1, 1, "X")),
        (
            "the norms come last, after the sums (post-norm): each stands before its branch, and the sum gets no norm",
            post_norm_local,
        ),
        ("each norm stands behind its branch: it must stand before it", res_post_norm_local),
        (
            "the block's input is added once more at the end: there are two residuals, and one for the position",
            lambda block, x: x + local_literal(block, x),
        ),
        (
            "the aggregator gets Norm(x), and only its sum gets the position: add `pos_embed(x)` before all else",
            lambda block, x: local_literal_from(block, x),
        ),
    ),
    piece=local_block,
    gradient=True,
    more=lambda: [
        (local_parts(C), a_map(r.randint(1, 2), C, *(r.randint(1, 4) for _ in range(3))))
        for r in randoms(3)
        for C in [r.randint(2, 5)]
    ],
    kinds=(LOCAL,),
)


def local_literal_from(block, x):
    Y = x + block.pos_embed(x) + block.conv2(block.attn(block.conv1(block.norm1(x))))
    return Y + block.mlp(block.norm2(Y))


def to_tokens(s):
    s["size"] = s["x"].shape[2:]
    s["x"] = s["x"].flatten(2).transpose(1, 2)


def to_tokens_wrongly(s):
    s["size"] = s["x"].shape[2:]
    s["x"] = s["x"].reshape(len(s["x"]), prod(s["size"]), -1)


def in_frames(attn, x, size, over):
    """Attention in each frame (over "space") or at each place (over "time") of tokens (B, N, C)."""
    B, N, C = x.shape
    x = x.view(B, size[0], -1, C)
    x = x.transpose(1, 2) if over == "time" else x
    shape = x.shape
    x = attn(x.flatten(0, 1)).view(shape)
    return (x.transpose(1, 2) if over == "time" else x).reshape(B, N, C)


def batch_as_tokens(attn, x):
    return attn(x.transpose(0, 1)).transpose(0, 1)


def with_attention(attend):
    def forward(block, x):
        B, C, *size = x.shape
        X = (x + block.pos_embed(x)).flatten(2).transpose(1, 2)
        Y = X + attend(block.attn, block.norm1(X), size)
        return (Y + block.mlp(block.norm2(Y))).transpose(1, 2).reshape(x.shape)

    return forward


def post_norm_global(block, x):
    X = (x + block.pos_embed(x)).flatten(2).transpose(1, 2)
    Y = block.norm1(X + block.attn(X))
    return block.norm2(Y + block.mlp(Y)).transpose(1, 2).reshape(x.shape)


def res_post_norm_global(block, x):
    X = (x + block.pos_embed(x)).flatten(2).transpose(1, 2)
    Y = X + block.norm1(block.attn(X))
    return (Y + block.norm2(block.mlp(Y))).transpose(1, 2).reshape(x.shape)


def places_in_order(x, size, order):
    """Wrong: tokens (B, N, C) whose places are read in another order than (T H W)."""
    x = x.transpose(1, 2).reshape(len(x), -1, *(size[a] for a in order))
    return x.permute(0, 1, *(2 + order.index(a) for a in range(3)))


GLOBAL = Steps(
    lambda block, x: dict(block=block, x=x, input=x.flatten(2).transpose(1, 2), kept=0),
    (
        POSITION,
        Step(
            "map to tokens",
            to_tokens,
            (
                (
                    "a reshape to (B, N, C) moves no axis, so channels of different tokens are mixed: flatten the "
                    "places, then transpose",
                    to_tokens_wrongly,
                ),
                *(
                    (text, lambda s, f=f: s.update(size=s["x"].shape[2:], x=f(s["x"])))
                    for text, f in instead_of_tokens("THW")[1:]
                ),
            ),
        ),
        KEEP,
        Step("norm1", part("norm1"), (("the norms are exchanged: `norm1` is that of the attention", part("norm2")),)),
        Step("attn", part("attn")),
        ADD,
        KEEP_Y,
        SECOND_NORM,
        Step("mlp", part("mlp")),
        ADD_Y,
        Step(
            "tokens to map",
            then(lambda x, s: x.transpose(1, 2).unflatten(2, s["size"])),
            (
                (
                    "the tokens are reshaped to the map without a transpose: channels must come before the places",
                    then(lambda x, s: x.reshape(len(x), x.shape[2], *s["size"])),
                ),
                *(
                    (
                        f"at the end the places are read in the order ({' '.join('THW'[a] for a in order)}): they were "
                        "flattened (T H W)",
                        then(lambda x, s, order=order: places_in_order(x, s["size"], order)),
                    )
                    for order in permutations(range(3))
                    if order != (0, 1, 2)
                ),
            ),
        ),
    ),
    together=(("keep Y", "norm2", "mlp", "add Y"), ("norm2", "mlp", "add Y")),
)


def global_block(block, x):
    """(B, C, T, H, W) -> the same shape, with the modules of `block`."""
    return GLOBAL.function(block, x)


EXERCISES["7.4"] = Exercise(
    "the global block",
    with_attention(lambda attn, x, size: attn(x)),
    lambda: [
        (global_parts(4, 2), a_map(2, 4, 2, 3, 4)),
        (global_parts(6, 3), a_map(1, 6, 3, 4, 2)),
        (global_parts(3, 1), a_map(2, 3, 2, 2, 3)),
    ],
    map_shape,
    (
        ("the first residual is missing: Y = X + aggregator(norm1(X))", global_with(0, 1)),
        ("the second residual is missing: Z = Y + mlp(norm2(Y))", global_with(1, 0)),
        ("the second residual adds X: it must add Y, what the aggregator made", global_with(1, "X")),
        ("the FFN gets norm2(X): it must get norm2(Y), of what the aggregator made", global_with(1, 1, "X")),
        (
            "each frame attends on its own: the tokens of all frames must be in one axis of T·H·W",
            with_attention(lambda attn, x, size: in_frames(attn, x, size, "space")),
        ),
        (
            "each place attends over time only: the tokens of all frames must be in one axis of T·H·W",
            with_attention(lambda attn, x, size: in_frames(attn, x, size, "time")),
        ),
        (
            "attention runs over the batch: its axes are (B, N, C), and clips must not see each other",
            with_attention(lambda attn, x, size: batch_as_tokens(attn, x)),
        ),
        (
            "the norms come last, after the sums (post-norm): each stands before its branch, and the sum gets no norm",
            post_norm_global,
        ),
        ("each norm stands behind its branch: it must stand before it", res_post_norm_global),
        (
            "the block's input is added once more at the end: there are two residuals, and one for the position",
            lambda block, x: x + GLOBAL.function(block, x),
        ),
    ),
    piece=global_block,
    gradient=True,
    more=lambda: [
        (global_parts(2 * h, h), a_map(r.randint(1, 2), 2 * h, *(r.randint(1, 4) for _ in range(3))))
        for r in randoms(3)
        for h in [r.randint(1, 3)]
    ],
    kinds=(GLOBAL,),
)


# ---------------------------------------------------------------- 7.5: the network


def small_network(depths, kinds="LLGG"):
    """The modules of a small network, each stage's blocks in a Sequential, as in the notebook."""
    model = UniFormer(embed_dims=(4, 4, 6, 8), depths=depths, head_dim=2, num_classes=5, kinds=kinds)
    parts = {}
    for i in range(1, 5):
        parts[f"patch_embed{i}"] = getattr(model, f"patch_embed{i}")
        parts[f"blocks{i}"] = nn.Sequential(*getattr(model, f"blocks{i}"))
    words = f"a network with {', '.join(map(str, depths))} blocks"
    return Parts(words, **parts, norm=model.norm, head=model.head)


def scores_literal(net, x):
    """One stage after the other; the norm; the mean over all places; the classifier."""
    x = net.patch_embed1(x)
    for block in net.blocks1:
        x = block(x)
    x = net.patch_embed2(x)
    for block in net.blocks2:
        x = block(x)
    x = net.patch_embed3(x)
    for block in net.blocks3:
        x = block(x)
    x = net.patch_embed4(x)
    for block in net.blocks4:
        x = block(x)
    return net.head(net.norm(x).mean((2, 3, 4)))  # (B, K)


def scores_like(net, x, *, stages=(1, 2, 3, 4), blocks=None, norm=None, pool=None, head=None):
    """The scores in which the steps that are given replace the right ones."""
    for i in stages:
        x = getattr(net, f"patch_embed{i}")(x)
        stage = list(getattr(net, f"blocks{i}"))
        for block in stage if blocks is None else blocks(stage, i):
            x = block(x)
    x = net.norm(x) if norm is None else norm(net, x)
    x = x.mean((2, 3, 4)) if pool is None else pool(x)
    return net.head(x) if head is None else head(net, x)


SCORES = Choices(
    scores_like,
    {
        "stages": tuple(
            (f"stage {n} is left out, its patch embedding and its blocks", tuple(i for i in range(1, 5) if i != n))
            for n in range(1, 5)
        ),
        "blocks": (
            ("only the first block of each stage is used", lambda stage, i: stage[:1]),
            (
                "only the last block of each stage counts: each block must get what the one before it made",
                lambda stage, i: stage[-1:],
            ),
            ("the blocks of a stage run from the last to the first", lambda stage, i: stage[::-1]),
            ("no block is used: after each patch embedding come the blocks of its stage", lambda stage, i: []),
            *(
                (f"the blocks of stage {n} are left out", lambda stage, i, n=n: [] if i == n else stage)
                for n in range(1, 5)
            ),
            ("the last block of each stage is left out", lambda stage, i: stage[:-1]),
            ("each block runs twice", lambda stage, i: [b for b in stage for _ in range(2)]),
        ),
        "norm": (
            ("the last norm is missing: `net.norm` comes before the mean", lambda net, x: x),
            (
                "the last norm normalises each token over its channels (LayerNorm): `net.norm` is a BatchNorm",
                lambda net, x: F.layer_norm(x.movedim(1, -1), x.shape[1:2], net.norm.weight, net.norm.bias).movedim(
                    -1, 1
                ),
            ),
        ),
        "pool": (
            ("the places are added up: the classifier reads their mean", lambda x: x.sum((2, 3, 4))),
            ("the largest value of all places is taken: the classifier reads their mean", lambda x: x.amax((2, 3, 4))),
            (
                "only the first token is read: there is no class token here, the classifier reads the mean of all",
                lambda x: x.flatten(2)[..., 0],
            ),
            ("only the last token is read: the classifier reads the mean of all", lambda x: x.flatten(2)[..., -1]),
            ("only the first time step is read: take the mean over time, too", lambda x: x[:, :, 0].mean((2, 3))),
            ("only the last time step is read: take the mean over time, too", lambda x: x[:, :, -1].mean((2, 3))),
            ("the mean over time is a sum: divide by the number of time steps, too", lambda x: x.sum(2).mean((2, 3))),
        ),
        "head": instead_of_head("classifier"),
    },
)


def classify(net, x):
    """(B, 3, T, H, W) -> (B, K), with the modules of `net`."""
    return scores_like(net, x)


EXERCISES["7.5"] = Exercise(
    "the network",
    scores_literal,
    # Two clips: of one clip, PyTorch 2.15 computes wrong gradients of BatchNorm where its input and the gradient lie in
    # memory in another order, and this network's last norm does that in some right solutions and not in others.
    lambda: [
        (small_network((1, 2, 2, 1)), a_map(2, 3, 4, 64, 32)),
        (small_network((2, 1, 1, 2)), a_map(2, 3, 3, 32, 64)),
    ],
    lambda net, x: f"(B, K) = ({len(x)}, 5)",
    (),
    piece=classify,
    gradient=True,
    more=lambda: [(small_network((2, 2, 3, 2), "LLLG"), a_map(2, 3, 2, 64, 64))],
    kinds=(SCORES,),
)


# ---------------------------------------------------------------- 7.6: what a global block costs


def macs_literal(T, H, W, C):
    """One product at a time: the position embedding, q, k, v, logits, weighted sum, output, and the FFN."""
    N = T * H * W
    attention = products(*3 * [(N, C, C)], (N, C, N), (N, N, C), (N, C, C))
    return products((N, 27, C)) + attention + products((N, C, 4 * C), (N, 4 * C, C))


EXERCISES["7.6"] = counting(
    "multiply-accumulates of a global block",
    macs_literal,
    lambda: [(2, 3, 4, 8), (8, 14, 14, 320), (8, 7, 7, 512), (1, 5, 6, 3), (4, 2, 2, 96)],
    (
        (
            "every multiply-accumulate is counted twice: that is PyTorch's FLOP; the papers' is one multiplication "
            "with its addition",
            lambda T, H, W, C: 2 * macs_literal(T, H, W, C),
        ),
        (
            "the position embedding is missing: 27 multiplications for each of N·C numbers",
            lambda T, H, W, C: macs_literal(T, H, W, C) - 27 * T * H * W * C,
        ),
        (
            "the FFN is missing: two products, N·C·4C each",
            lambda T, H, W, C: macs_literal(T, H, W, C) - 8 * T * H * W * C**2,
        ),
        (
            "the FFN has two layers, C to 4C and back: you count one",
            lambda T, H, W, C: macs_literal(T, H, W, C) - 4 * T * H * W * C**2,
        ),
        (
            "there are four projections, not three: the output has one too",
            lambda T, H, W, C: macs_literal(T, H, W, C) - T * H * W * C**2,
        ),
        (
            "there are two products among tokens, q kᵀ and the weighted sum of v: 2N²C",
            lambda T, H, W, C: macs_literal(T, H, W, C) - (T * H * W) ** 2 * C,
        ),
        (
            "the products among tokens are missing: 2N²C",
            lambda T, H, W, C: macs_literal(T, H, W, C) - 2 * (T * H * W) ** 2 * C,
        ),
        (
            "the position embedding is taken for a full convolution: it is depthwise, 27 and not 27C for each number",
            lambda T, H, W, C: macs_literal(T, H, W, C) + 27 * T * H * W * (C**2 - C),
        ),
        (
            "the kernel of the position embedding is 3 × 3 × 3, 27 numbers; you use 5 × 5 × 5",
            lambda T, H, W, C: macs_literal(T, H, W, C) + 98 * T * H * W * C,
        ),
        (
            "the bias of the position embedding is counted: an addition is no multiply-accumulate",
            lambda T, H, W, C: macs_literal(T, H, W, C) + T * H * W * C,
        ),
        (
            "attention runs in each frame alone: a token meets the tokens of all frames, N = T·H·W",
            lambda T, H, W, C: macs_literal(T, H, W, C) - 2 * T * (T - 1) * (H * W) ** 2 * C,
        ),
    ),
    piece=lambda T, H, W, C: (27 * C + 12 * C**2 + 2 * T * H * W * C) * T * H * W,
    more=lambda: [(r.randint(1, 9), r.randint(1, 20), r.randint(1, 20), r.randint(1, 99)) for r in randoms(12)],
    formula=Formula(
        (("27NC", 27, dict(N=1, C=1)), ("12NC²", 12, dict(N=1, C=2)), ("2N²C", 2, dict(N=2, C=1))),
        lambda T, H, W, C: dict(N=T * H * W, C=C),
        {
            "N": (
                ("time is forgotten: N is T·H·W", lambda T, H, W, C: H * W),
                ("N is T·H·W, and you add T to H·W", lambda T, H, W, C: T + H * W),
                ("N is T·H·W, and you take the sum T + H + W", lambda T, H, W, C: T + H + W),
                ("there is no class token in this network: N is T·H·W", lambda T, H, W, C: T * H * W + 1),
                ("W is not used: the map need not be square", lambda T, H, W, C: T * H * H),
                ("H is not used: the map need not be square", lambda T, H, W, C: T * W * W),
            )
        },
    ),
)
