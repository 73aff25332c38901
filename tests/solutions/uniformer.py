"""Right and wrong solutions of the exercises of notebook 07."""

from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from einops import rearrange

from .common import likely

# ---------------------------------------------------------------- 7.1: affinity of a tube


def places_of(size):
    return torch.cartesian_prod(*map(torch.arange, size)).view(-1, 3)  # (N, 3)


def affinity(kernel, size, offset=lambda q, k: k - q, move=True, clip=False):
    p, sides = places_of(size), torch.tensor(kernel.shape[1:])
    at = offset(p[:, None], p[None, :]) + (sides // 2 if move else 0)  # (N, N, 3)
    ok = ((at >= 0) & (at < sides)).all(-1)
    at = at.clamp(min=torch.zeros(3, dtype=torch.long), max=sides - 1)
    values = kernel[:, at[..., 0], at[..., 1], at[..., 2]]
    return values if clip else torch.where(ok, values, torch.zeros(()))


def affinity_in_loops(kernel, size):
    radius = [n // 2 for n in kernel.shape[1:]]
    places = list(product(*map(range, size)))
    rows = []
    for q in places:
        row = []
        for k in places:
            d = [b - a for a, b in zip(q, k)]
            inside = all(abs(x) <= r for x, r in zip(d, radius))
            row.append(
                kernel[:, d[0] + radius[0], d[1] + radius[1], d[2] + radius[2]] if inside else 0 * kernel[:, 0, 0, 0]
            )
        rows.append(torch.stack(row))
    return torch.stack(rows).permute(2, 0, 1)


def affinity_by_convolution(kernel, size):
    """Row i of the matrix is what token i gets from each unit map: the transpose of convolved unit maps."""
    N = prod(size)
    units = torch.eye(N, dtype=kernel.dtype).view(N, 1, *size).expand(-1, len(kernel), *size)
    out = F.conv3d(units, kernel[:, None], padding=[n // 2 for n in kernel.shape[1:]], groups=len(kernel))
    return out.flatten(2).permute(1, 2, 0)  # (h, query, key)


def affinity_by_padding(kernel, size):
    """Each query cuts its own window from a kernel that lies in the middle of many zeros."""
    t, h, w = size
    sides = kernel.shape[1:]
    big = F.pad(kernel, (w, w, h, h, t, t))
    rows = []
    for q in product(*map(range, size)):
        start = [n + s // 2 - a for n, s, a in zip(size, sides, q)]
        rows.append(big[:, start[0] : start[0] + t, start[1] : start[1] + h, start[2] : start[2] + w].flatten(1))
    return torch.stack(rows, 1)


def affinity_of(numbering, **how):
    """The tokens of the map are numbered in another order."""

    def function(kernel, size):
        N = prod(size)
        order = rearrange(torch.arange(N).view(size), f"t h w -> ({numbering})")
        return affinity(kernel, size, **how)[:, order][:, :, order]

    return function


# ---------------------------------------------------------------- 7.2: three convolutions


def relation(x, V, a, U, conv=None, between=lambda y: y):
    values = torch.einsum("dc,bcthw->bdthw", V, x)
    if conv is None:
        related = F.conv3d(values, a.unsqueeze(1), None, 1, tuple(n // 2 for n in a.shape[1:]), 1, len(a))
    else:
        related = conv(values, a)
    return torch.einsum("cd,bdthw->bcthw", U, between(related))


def relation_by_shifts(x, V, a, U):
    """One entry of the kernels at a time: the whole map moves by its offset."""
    y = torch.einsum("dc,bcthw->bdthw", V, x)
    r = [n // 2 for n in a.shape[1:]]
    T, H, W = y.shape[2:]
    big = F.pad(y, (r[2], r[2], r[1], r[1], r[0], r[0]))
    out = torch.zeros_like(y)
    for t, h, w in product(*map(range, a.shape[1:])):
        out = out + a[:, t, h, w, None, None, None] * big[:, :, t : t + T, h : h + H, w : w + W]
    return torch.einsum("cd,bdthw->bcthw", U, out)


def relation_by_matrix(x, V, a, U):
    A = affinity_by_convolution(a, x.shape[2:])
    y = A @ (V @ x.flatten(2))[..., None]
    return (U @ y.squeeze(-1)).view(x.shape)


def relation_one_convolution(x, V, a, U):
    """The three linear maps written as one full convolution."""
    full = torch.einsum("cd,dthw,de->cethw", U, a, V)
    return F.conv3d(x, full, padding=[n // 2 for n in a.shape[1:]])


def grouped(y, a, **how):
    return F.conv3d(y, a[:, None], groups=len(a), **how)


def same(a):
    return [n // 2 for n in a.shape[1:]]


def wrapped(y, a, mode):
    t, h, w = same(a)
    return grouped(F.pad(y, (w, w, h, h, t, t), mode=mode), a)


# ---------------------------------------------------------------- 7.3, 7.4: blocks


def local(block, x):
    x = x + block.pos_embed(x)
    x = x + block.conv2(block.attn(block.conv1(block.norm1(x))))
    x = x + block.mlp(block.norm2(x))
    return x


def local_in_layers(block, x):
    """The MLP and the norm of the evaluated model written out."""
    x = block.pos_embed(x).add(x)
    branch = torch.nn.Sequential(block.norm1, block.conv1, block.attn, block.conv2)
    y = torch.add(x, branch(x))
    n = block.norm2
    view = (1, -1, 1, 1, 1)
    z = (y - n.running_mean.view(view)) / (n.running_var.view(view) + n.eps).sqrt()
    z = z * n.weight.view(view) + n.bias.view(view)
    return y + block.mlp.fc2(F.gelu(block.mlp.fc1(z)))


def local_in_place(block, x):
    x = x.clone()
    x += block.pos_embed(x)
    x += block.conv2(block.attn(block.conv1(block.norm1(x))))
    x += block.mlp(block.norm2(x))
    return x


def local_clip_by_clip(block, x):
    return torch.cat([local(block, clip[None]) for clip in x])


def local_with(first=None, branch=None, second=None, end=None):
    def function(block, x):
        X = x + block.pos_embed(x) if first is None else first(block, x)
        Y = X + block.conv2(block.attn(block.conv1(block.norm1(X)))) if branch is None else branch(block, x, X)
        Z = Y + block.mlp(block.norm2(Y)) if second is None else second(block, x, X, Y)
        return Z if end is None else end(x, Z)

    return function


def around_attention(attend=None, to=None, back=None, first=None, second=None):
    """A global block with some of its steps replaced."""

    def function(block, x):
        B, C, T, H, W = x.shape
        x = x + block.pos_embed(x) if first is None else first(block, x)
        X = rearrange(x, "b c t h w -> b (t h w) c") if to is None else to(x)
        Y = X + (block.attn(block.norm1(X)) if attend is None else attend(block, block.norm1(X), (T, H, W)))
        Z = Y + block.mlp(block.norm2(Y)) if second is None else second(block, X, Y)
        return rearrange(Z, "b (t h w) c -> b c t h w", t=T, h=H) if back is None else back(Z, x.shape)

    return function


def global_by_permute(block, x):
    B, C, T, H, W = x.shape
    x = (x + block.pos_embed(x)).permute(0, 2, 3, 4, 1).reshape(B, -1, C)
    x = x + block.attn(block.norm1(x))
    x = x + block.mlp(block.norm2(x))
    return x.reshape(B, T, H, W, C).permute(0, 4, 1, 2, 3)


def global_in_another_order(block, x):
    """Attention does not care how the places are numbered, as long as the map is put together the same way."""
    B, C, T, H, W = x.shape
    x = rearrange(x + block.pos_embed(x), "b c t h w -> b (w t h) c")
    x = x + block.attn(block.norm1(x))
    x = x + block.mlp(block.norm2(x))
    return rearrange(x, "b (w t h) c -> b c t h w", t=T, h=H)


def global_written_out(block, x):
    x = x + block.pos_embed(x)
    size = x.shape
    x = x.flatten(2).mT
    q, k, v = block.attn.qkv(block.norm1(x)).chunk(3, -1)
    heads = block.attn.heads
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    y = ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(-1) @ v
    x = x + block.attn.proj(y.transpose(1, 2).flatten(2))
    return (x + block.mlp(block.norm2(x))).mT.reshape(size)


def frames_apart(block, x, size):
    y = rearrange(x, "b (t n) c -> (b t) n c", t=size[0])
    return rearrange(block.attn(y), "(b t) n c -> b (t n) c", t=size[0])


def places_apart(block, x, size):
    y = rearrange(x, "b (t n) c -> (b n) t c", t=size[0])
    return rearrange(block.attn(y), "(b n) t c -> b (t n) c", b=len(x))


# ---------------------------------------------------------------- 7.5: the network


def scores(net, x, blocks=lambda stage: stage, pool=lambda x: x.mean((-3, -2, -1)), norm=True, end=lambda s: s):
    for embed, stage in (
        (net.patch_embed1, net.blocks1),
        (net.patch_embed2, net.blocks2),
        (net.patch_embed3, net.blocks3),
        (net.patch_embed4, net.blocks4),
    ):
        x = embed(x)
        for block in blocks(list(stage)):
            x = block(x)
    return end(net.head(pool(net.norm(x) if norm else x)))


def scores_by_names(net, x):
    for i in (1, 2, 3, 4):
        x = getattr(net, f"blocks{i}")(getattr(net, f"patch_embed{i}")(x))
    return net.head(torch.nn.functional.adaptive_avg_pool3d(net.norm(x), 1).flatten(1))


def scores_mean_first(net, x):
    """In an evaluated model the norm is linear, so it may come after the mean."""
    for i in (1, 2, 3, 4):
        x = getattr(net, f"blocks{i}")(getattr(net, f"patch_embed{i}")(x))
    return net.head(net.norm(x.mean((2, 3, 4), keepdim=True)).flatten(1))


def scores_of_tokens(net, x):
    """The head is linear, too: the mean of the scores of all tokens."""
    for i in (1, 2, 3, 4):
        x = getattr(net, f"blocks{i}")(getattr(net, f"patch_embed{i}")(x))
    return net.head(net.norm(x).flatten(2).transpose(1, 2)).mean(1)


# ---------------------------------------------------------------- the tables

RIGHT = {
    "7.1": {
        "index": affinity,
        "loops": affinity_in_loops,
        "convolution": affinity_by_convolution,
        "cut from zeros": affinity_by_padding,
        "float64": lambda kernel, size: affinity_in_loops(kernel.double(), size),
    },
    "7.2": {
        "einsum": relation,
        "shifts": relation_by_shifts,
        "matrix": relation_by_matrix,
        "one convolution": relation_one_convolution,
        "float64": lambda *args: relation_by_shifts(*[a.double() for a in args]),
    },
    "7.3": {"three lines": local, "written out": local_in_layers, "clip by clip": local_clip_by_clip},
    "7.4": {
        "einops": around_attention(),
        "permute": global_by_permute,
        "another order": global_in_another_order,
        "written out": global_written_out,
    },
    "7.5": {
        "loops": scores,
        "names": scores_by_names,
        "mean before the norm": scores_mean_first,
        "mean of scores": scores_of_tokens,
    },
    "7.6": {
        "factored": lambda T, H, W, C: T * H * W * C * (27 + 12 * C + 2 * T * H * W),
        "float": lambda T, H, W, C: float(27 * T * H * W * C + 12 * T * H * W * C**2 + 2 * (T * H * W) ** 2 * C),
        "one by one": lambda T, H, W, C: sum([27 * C, 4 * C * C, 2 * T * H * W * C, 8 * C * C]) * T * H * W,
    },
}

WRONG = {
    "7.1": {
        "flipped": (lambda k, s: affinity(k, s, lambda q, j: q - j), likely("7.1", "other sign")),
        "not moved": (lambda k, s: affinity(k, s, move=False), likely("7.1", "not moved to start at 0")),
        "nearest": (lambda k, s: affinity(k, s, clip=True), likely("7.1", "nearest entry")),
        "softmax": (lambda k, s: affinity(k, s).softmax(-1), likely("7.1", "each row goes through a softmax")),
        "circular": (
            lambda k, s: affinity(
                k, s, lambda q, j: (j - q + torch.tensor(s) // 2) % torch.tensor(s) - torch.tensor(s) // 2
            ),
            likely("7.1", "around the border of the map"),
        ),
        "heads last": (lambda k, s: affinity(k, s).permute(1, 2, 0), "your axes are in another order"),
        "h w t": (affinity_of("h w t"), likely("7.1", "numbered (H W T)")),
        "absolute": (
            lambda k, s: affinity(k, s, lambda q, j: (q - j).abs()),
            likely("7.1", "sign of the offset is lost"),
        ),
        "space only": (
            lambda k, s: affinity(k, s, lambda q, j: (j - q) * torch.tensor([0, 1, 1])),
            likely("7.1", "in space only"),
        ),
        "mask": (
            lambda k, s: torch.where(affinity(torch.ones_like(k), s) > 0, affinity(k, s), torch.tensor(-100.0)),
            likely("7.1", "hold -100"),
        ),
        "no gradient": (lambda k, s: affinity(k.detach(), s), "no gradient reaches the input"),
    },
    "7.2": {
        "flipped": (
            lambda x, V, a, U: relation(x, V, a, U, lambda y, k: grouped(y, k.flip((1, 2, 3)), padding=same(k))),
            "the kernel is flipped",
        ),
        "circular": (
            lambda x, V, a, U: relation(x, V, a, U, lambda y, k: wrapped(y, k, "circular")),
            "its own other side (circular)",
        ),
        "replicate": (
            lambda x, V, a, U: relation(x, V, a, U, lambda y, k: wrapped(y, k, "replicate")),
            "by repeating its border",
        ),
        "no padding": (
            lambda x, V, a, U: relation(x, V, a, U, lambda y, k: grouped(y, k)),
            "the map is not padded, so it shrinks",
        ),
        "no V": (
            lambda x, V, a, U: torch.einsum("cd,bdthw->bcthw", U, grouped(x, a, padding=same(a))),
            "“V, a 1 × 1 × 1 convolution” is forgotten",
        ),
        "no A": (
            lambda x, V, a, U: relation(x, V, a, U, lambda y, k: y),
            "“A, the depthwise convolution” is forgotten",
        ),
        "gelu": (lambda x, V, a, U: relation(x, V, a, U, between=F.gelu), "there is a GELU before U"),
        "one kernel": (
            lambda x, V, a, U: relation(
                x, V, a, U, lambda y, k: grouped(y, k[:1].repeat(len(k), 1, 1, 1), padding=same(k))
            ),
            "all channels share the first kernel",
        ),
        "softmax": (
            lambda x, V, a, U: relation(x, V, a.reshape(len(a), -1).softmax(-1).reshape(a.shape), U),
            "the kernels go through a softmax",
        ),
        "padding 2": (
            lambda x, V, a, U: relation(x, V, a, U, lambda y, k: grouped(y, k, padding=2)),
            "the padding is 2 along every axis",
        ),
        "U first": (lambda x, V, a, U: relation(x, U.T, a, V.T), likely("7.2", "are exchanged")),
        "groups forgotten": (
            lambda x, V, a, U: relation(x, V, a, U, lambda y, k: F.conv3d(y, k[:, None], padding=same(k))),
            "your function raised RuntimeError",
        ),
    },
    "7.3": {
        "no position": (local_with(lambda b, x: x), "“add the position embedding” is forgotten"),
        "position alone": (local_with(lambda b, x: b.pos_embed(x)), "takes the place of the tokens"),
        "no first residual": (
            local_with(branch=lambda b, x, X: b.conv2(b.attn(b.conv1(b.norm1(X))))),
            likely("7.3", "the first residual is missing"),
        ),
        "no norm": (local_with(branch=lambda b, x, X: X + b.conv2(b.attn(b.conv1(X)))), "“norm1” is forgotten"),
        "mobilenet": (local_with(second=lambda b, x, X, Y: Y), likely("7.3", "the FFN is missing")),
        "same norm": (local_with(second=lambda b, x, X, Y: Y + b.mlp(b.norm1(Y))), "the first norm is used twice"),
        "adds X": (
            local_with(second=lambda b, x, X, Y: X + b.mlp(b.norm2(Y))),
            likely("7.3", "the second residual adds X"),
        ),
        "adds the input": (
            local_with(branch=lambda b, x, X: x + b.conv2(b.attn(b.conv1(b.norm1(X))))),
            "the first residual adds the block's input",
        ),
        "exchanged": (
            local_with(branch=lambda b, x, X: X + b.conv1(b.attn(b.conv2(b.norm1(X))))),
            "“conv1” and “conv2” are exchanged",
        ),
        "gelu": (
            local_with(branch=lambda b, x, X: X + b.conv2(F.gelu(b.attn(b.conv1(b.norm1(X)))))),
            "there is a GELU before `conv2`",
        ),
        "the ffn reads X": (local_with(second=lambda b, x, X, Y: Y + b.mlp(b.norm2(X))), likely("7.3", "the FFN gets")),
        "training mode": (lambda b, x: local(b.train(), x), "numbers differ"),
        "in place": (local_in_place, "the result is right, but it has no gradient: a tensor that the backward pass"),
        "once more": (local_with(end=lambda x, Z: x + Z), likely("7.3", "added once more")),
    },
    "7.4": {
        "frames": (around_attention(frames_apart), likely("7.4", "each frame attends on its own")),
        "places": (around_attention(places_apart), likely("7.4", "each place attends over time only")),
        "batch": (
            around_attention(lambda b, x, s: b.attn(x.transpose(0, 1)).transpose(0, 1)),
            likely("7.4", "runs over the batch"),
        ),
        "reshaped in": (
            around_attention(to=lambda x: x.reshape(len(x), -1, x.shape[1])),
            "a reshape to (B, N, C) moves no axis",
        ),
        "reshaped out": (
            around_attention(back=lambda Z, shape: Z.reshape(shape)),
            "reshaped to the map without a transpose",
        ),
        "h w t": (
            around_attention(back=lambda Z, s: rearrange(Z, "b (h w t) c -> b c t h w", t=s[2], h=s[3])),
            "read in the order (H W T)",
        ),
        "t w h": (
            around_attention(back=lambda Z, s: rearrange(Z, "b (t w h) c -> b c t h w", t=s[2], h=s[3])),
            "read in the order (T W H)",
        ),
        "the ffn reads X": (
            around_attention(second=lambda b, X, Y: Y + b.mlp(b.norm2(X))),
            likely("7.4", "the FFN gets"),
        ),
        "no position": (around_attention(first=lambda b, x: x), "“add the position embedding” is forgotten"),
        "no ffn": (around_attention(second=lambda b, X, Y: Y), "are forgotten"),
        "same norm": (around_attention(second=lambda b, X, Y: Y + b.mlp(b.norm1(Y))), "the first norm is used twice"),
        "adds X": (
            around_attention(second=lambda b, X, Y: X + b.mlp(b.norm2(Y))),
            likely("7.4", "the second residual adds X"),
        ),
        "tokens returned": (around_attention(back=lambda Z, shape: Z), "wanted (B, C, T, H, W)"),
    },
    "7.5": {
        "one block": (lambda n, x: scores(n, x, lambda s: s[:1]), likely("7.5", "only the first block of each")),
        "last block": (lambda n, x: scores(n, x, lambda s: s[-1:]), likely("7.5", "only the last block of each")),
        "backwards": (lambda n, x: scores(n, x, reversed), likely("7.5", "from the last to the first")),
        "no norm": (lambda n, x: scores(n, x, norm=False), likely("7.5", "the last norm is missing")),
        "maximum": (
            lambda n, x: scores(n, x, pool=lambda y: y.flatten(2).max(2).values),
            likely("7.5", "largest value"),
        ),
        "first token": (
            lambda n, x: scores(n, x, pool=lambda y: y[:, :, 0, 0, 0]),
            likely("7.5", "only the first token"),
        ),
        "sum": (lambda n, x: scores(n, x, pool=lambda y: y.sum((2, 3, 4))), likely("7.5", "places are added up")),
        "softmax": (lambda n, x: scores(n, x, end=lambda s: s.softmax(1)), likely("7.5", "softmax at the end")),
        "class": (lambda n, x: scores(n, x, end=lambda s: s.argmax(1)), likely("7.5", "all scores")),
        "log": (lambda n, x: scores(n, x, end=lambda s: s.log_softmax(1)), likely("7.5", "logarithms")),
        "training mode": (lambda n, x: scores(n.train(), x), "numbers differ"),
        "no embedding": (lambda n, x: n.head(n.norm(n.blocks4(n.blocks1(x))).mean((2, 3, 4))), "your function raised"),
    },
    "7.6": {
        "flops": (lambda T, H, W, C: 2 * T * H * W * C * (27 + 12 * C + 2 * T * H * W), likely("7.6", "counted twice")),
        "no position": (
            lambda T, H, W, C: T * H * W * C * (12 * C + 2 * T * H * W),
            likely("7.6", "embedding is missing"),
        ),
        "no ffn": (
            lambda T, H, W, C: T * H * W * C * (27 + 4 * C + 2 * T * H * W),
            likely("7.6", "the FFN is missing"),
        ),
        "three": (lambda T, H, W, C: T * H * W * C * (27 + 11 * C + 2 * T * H * W), likely("7.6", "not three")),
        "one product": (
            lambda T, H, W, C: T * H * W * C * (27 + 12 * C + T * H * W),
            likely("7.6", "two products among"),
        ),
        "no time": (lambda T, H, W, C: H * W * C * (27 + 12 * C + 2 * H * W), "time is forgotten"),
        "frames": (lambda T, H, W, C: T * H * W * C * (27 + 12 * C + 2 * H * W), likely("7.6", "in each frame alone")),
        "bias": (lambda T, H, W, C: T * H * W * C * (28 + 12 * C + 2 * T * H * W), likely("7.6", "is counted: an")),
        "class token": (
            lambda T, H, W, C: (T * H * W + 1) * C * (27 + 12 * C + 2 * T * H * W + 2),
            "there is no class token",
        ),
    },
}
