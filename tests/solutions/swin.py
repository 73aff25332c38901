"""Right and wrong solutions of the exercises of notebook 03."""

from itertools import product

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from vt_course.models import swin

from .common import likely, overwrite

# ---------------------------------------------------------------- right solutions


def partition(x, M, out="(b h w) (i j) c"):
    return rearrange(x, f"b (h i) (w j) c -> {out}", i=M, j=M)


def partition_unfold(x, M):
    x = x.unfold(1, M, M).unfold(2, M, M)  # (B, nH, nW, C, M, M)
    return x.movedim(3, -1).flatten(0, 2).flatten(1, 2)  # (B·nW, N, C)


def partition_token_by_token(x, M):
    B, H, W, C = x.shape
    rows = [
        x[b, h + i, w + j]
        for b, h, w in product(range(B), range(0, H, M), range(0, W, M))
        for i, j in product(range(M), range(M))
    ]
    return torch.stack(rows).reshape(-1, M * M, C)


def reverse(windows, M, H, W, out="b (h i) (w j) c"):
    return rearrange(windows, f"(b h w) (i j) c -> {out}", h=H // M, w=W // M, i=M)


def reverse_by_rows(windows, M, H, W):
    """Glue windows to bands, bands to maps."""
    C = windows.shape[-1]
    tiles = windows.view(-1, M, M, C).split(W // M)
    bands = torch.stack([torch.cat(list(tile), 1) for tile in tiles])  # (B·nH, M, W, C)
    return bands.reshape(-1, H, W, C)


def masked(q, k, v, bias, mask, scale=None):
    """(B, nW, h, N, N) logits, as the official code has them."""
    logits = torch.einsum("bhnd,bhmd->bhnm", q * (scale or q.shape[-1] ** -0.5), k) + bias
    nW, N = mask.shape[:2]
    logits = logits.view(-1, nW, *bias.shape[:1], N, N) + mask[:, None]
    return logits.view(len(q), -1, N, N).softmax(-1) @ v


def sdpa(q, k, v, bias, mask):
    m = torch.cat([mask] * (len(q) // len(mask)))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None] + m[:, None])


def filled(q, k, v, bias, mask):
    """Forbidden logits are overwritten instead of lowered."""
    logits = (q @ k.mT / q.shape[-1] ** 0.5 + bias[None]).unflatten(0, (-1, len(mask)))
    logits = logits.masked_fill((mask < 0)[None, :, None], float("-inf"))
    return logits.flatten(0, 1).softmax(-1) @ v


def groups_by_filling(H, W, M, shift, sign=-1):
    numbers = torch.zeros(H, W, dtype=torch.long)
    edges = [[0, *range(s or M, n, M), n] for n, s in zip((H, W), shift)]
    for number, ((a, b), (c, d)) in enumerate(product(*[zip(e, e[1:]) for e in edges])):
        numbers[a:b, c:d] = number
    return numbers.roll([sign * s for s in shift], (0, 1))


def groups_rolled(H, W, M, shift, *roll):
    return groups_by_filling(H, W, M, shift, sign=0).roll(*roll)


def groups_by_cnt(H, W, M, shift):
    groups, cnt = torch.zeros(H, W).long(), 0
    for h in (slice(0, -M), slice(-M, -shift[0]), slice(-shift[0], None)):
        for w in (slice(0, -M), slice(-M, -shift[1]), slice(-shift[1], None)):
            groups[h, w] = cnt
            cnt += 1
    return groups


def late_labels(H, W, M, shift, factor=1):
    """The colleague of the bug hunt; with factor 2 the answer to it."""
    late = torch.zeros(H, W, dtype=torch.long)
    if shift[0]:
        late[-shift[0] :] += factor
    if shift[1]:
        late[:, -shift[1] :] += 1
    return late


def groups_by_arithmetic(H, W, M, shift, per_row=None):
    def axis(n, s):
        place = (torch.arange(n) + s) % n  # whose token is it
        return (place + M - s) // M if s else place // M

    rows, columns = axis(H, shift[0]), axis(W, shift[1])
    return rows[:, None] * (per_row or columns.max() + 1) + columns


def bias_by_picture(table, M):
    picture = table.T.reshape(-1, 2 * M - 1, 2 * M - 1)  # (h, dh, dw)
    rows = [picture[:, h : h + M, w : w + M].flip(1, 2).flatten(1) for h in range(M) for w in range(M)]
    return torch.stack(rows, 1)


def bias_official(table, M):
    coords = torch.stack(torch.meshgrid(torch.arange(M), torch.arange(M), indexing="ij")).flatten(1)
    relative = (coords[:, :, None] - coords[:, None, :]).permute(1, 2, 0).contiguous()
    relative += M - 1
    relative[:, :, 0] *= 2 * M - 1
    index = relative.sum(-1)
    return table[index.view(-1)].view(M * M, M * M, -1).permute(2, 0, 1).contiguous()


def bias_one_hot(table, M):
    index = swin.relative_position_index((M, M))
    return (F.one_hot(index, len(table)).to(table.dtype) @ table).movedim(-1, 0)


def padded(x):
    return F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))


def merge(x, order=((0, 0), (1, 0), (0, 1), (1, 1))):
    x = padded(x)
    return torch.cat([x[:, i::2, j::2] for i, j in order], 3)


def merge_einops(x, out="b h w (j i c)"):
    return rearrange(padded(x), f"b (h i) (w j) c -> {out}", i=2, j=2)


def merge_by_convolution(x):
    """A convolution that only picks: one output channel for each neighbour and channel."""
    B, H, W, C = x.shape
    pick = torch.zeros(4 * C, C, 2, 2)
    for n, (i, j) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
        pick[n * C : (n + 1) * C, :, i, j] = torch.eye(C)
    return F.conv2d(padded(x).movedim(-1, 1), pick.to(x.dtype), stride=2).movedim(1, -1)


def in_windows(x, M, mask, attn, shift=(0, 0)):
    """Roll, cut, attend, put together, roll back."""
    H, W = x.shape[1:3]
    x = torch.roll(x, tuple(-s for s in shift), (1, 2))
    x = reverse(attn(partition(x, M), mask), M, H, W)
    return torch.roll(x, shift, (1, 2))


def mask_for(H, W, M, shift):
    return swin.shift_mask((H, W), (M, M), shift)


def pad_map(x, M):
    return F.pad(x, (0, 0, 0, (M - x.shape[2] % M) % M, 0, (M - x.shape[1] % M) % M))


def block(
    b,
    x,
    *,
    padding=pad_map,
    clamp=lambda n, M, s: 0 if n <= M else s,
    both=None,
    mask=mask_for,
    sign=1,
    back=True,
    crop_first=False,
    crop=True,
    dims=(1, 2),
    pad_first=False,
    first=None,
    shortcut=None,
    second=None,
    norm2=None,
):
    """A block as a reader would write it, with the mistakes of the table below."""
    H, W = x.shape[1:3]
    first = first or b.norm1
    y = first(padding(x, b.M)) if pad_first else padding(first(x), b.M)
    size = tuple(y.shape[1:3])
    shift = tuple(clamp(n, b.M, b.shift) for n in size)
    shift = (both(shift),) * 2 if both else shift
    m = mask(*size, b.M, shift)
    y = torch.roll(y, tuple(-sign * s for s in shift), dims)
    y = reverse(b.attn(partition(y, b.M), m), b.M, *size)
    H, W = (H, W) if crop else size
    if crop_first:
        y = torch.roll(y[:, :H, :W], shift, (1, 2))
    elif back:
        y = torch.roll(y, tuple(sign * s for s in shift), dims)[:, :H, :W]
    else:
        y = y[:, :H, :W]
    kept = {None: x, "none": 0, "normed": b.norm1(x)}[shortcut]
    z = kept + y
    out = b.mlp((norm2 or b.norm2)(z))
    return out + {None: z, "none": 0, "input": x}[second]


def block_short(b, x):
    H, W = x.shape[1:3]
    y = pad_map(b.norm1(x), b.M)
    shift = tuple(b.shift * (n > b.M) for n in y.shape[1:3])
    x = x + in_windows(y, b.M, mask_for(*y.shape[1:3], b.M, shift), b.attn, shift)[:, :H, :W]
    return x + b.mlp(b.norm2(x))


def block_with_an_if(b, x):
    """As in the official code: the mask and the roll only where something shifts."""
    shortcut, (H, W), M = x, x.shape[1:3], b.M
    x = F.pad(b.norm1(x), (0, 0, 0, -W % M, 0, -H % M))
    size, shift = x.shape[1:3], [0 if n == M else b.shift for n in x.shape[1:3]]
    if any(shift):
        x, mask = x.roll([-s for s in shift], [1, 2]), mask_for(*size, M, shift)
    else:
        mask = torch.zeros(size[0] * size[1] // M**2, M * M, M * M)
    x = reverse(b.attn(partition(x, M), mask), M, *size)
    x = shortcut + x.roll(shift, [1, 2])[:, :H, :W].contiguous()
    return x + b.mlp(b.norm2(x))


def block_post(b, x):
    """Norms behind the branches, as in Swin V2."""
    y = pad_map(x, b.M)
    shift = tuple(b.shift * (n > b.M) for n in y.shape[1:3])
    y = in_windows(y, b.M, mask_for(*y.shape[1:3], b.M, shift), b.attn, shift)[:, : x.shape[1], : x.shape[2]]
    x = x + b.norm1(y)
    return x + b.norm2(b.mlp(x))


def mask_with_padding(b, x):
    """Padded keys are forbidden, too."""

    def mask(H, W, M, shift):
        real = F.pad(torch.ones(1, *x.shape[1:3], 1), (0, 0, 0, W - x.shape[2], 0, H - x.shape[1]))
        real = partition(real.roll([-s for s in shift], (1, 2)), M)[..., 0]
        return mask_for(H, W, M, shift).masked_fill(real[:, None] == 0, -100.0)

    return block(b, x, mask=mask)


def mask_of_the_true_map(b, x):
    """The groups are those of the map; the padding is group 0."""

    def mask(H, W, M, shift):
        (h, w), (down, right) = x.shape[1:3], shift
        late = (torch.arange(h) >= h - down)[:, None] * 2 + (torch.arange(w) >= w - right)
        late = partition(F.pad(late.float(), (0, W - w, 0, H - h))[None, ..., None], M)[..., 0]
        return torch.where(late[:, :, None] == late[:, None], 0.0, -100.0)

    return block(b, x, mask=mask)


def mask_before_padding(b, x):
    """The mask is asked for the size of the map."""
    return block(b, x, mask=lambda H, W, M, shift: mask_for(*x.shape[1:3], M, shift))


def clamped_before_padding(b, x):
    sides = iter(x.shape[1:3])
    return block(b, x, clamp=lambda n, M, s: 0 if next(sides) <= M else s)


def attention_only(b, x):
    """What the attention adds."""
    y = pad_map(b.norm1(x), b.M)
    shift = tuple(b.shift * (n > b.M) for n in y.shape[1:3])
    return in_windows(y, b.M, mask_for(*y.shape[1:3], b.M, shift), b.attn, shift)[:, : x.shape[1], : x.shape[2]]


def network(net, x, run=list, merge=True, norm=True, pool=lambda x: x.mean((1, 2)), finish=lambda x: x):
    x = net.patch_embed(x)
    last = len(net.layers) - 1
    for i, stage in enumerate(net.layers):
        for each in run(stage.blocks):
            x = each(x)
        if i < last and merge:
            x = stage.downsample(x)
    return finish(net.head(pool(net.norm(x) if norm else x)))


def merging_after_every_stage(net, x):
    x = net.patch_embed(x)
    for stage in net.layers:
        x = stage.downsample(stage.blocks(x))
    return net.head(net.norm(x).mean((1, 2)))


def network_merging_first(net, x):
    """The paper's view: a stage begins with the merging of the one before."""
    x, before = net.patch_embed(x), None
    for stage in net.layers:
        x = stage.blocks(x if before is None else before.downsample(x))
        before = stage
    return net.head(net.norm(x).flatten(1, 2).mean(1))


def network_with_average_pool(net, x):
    x = net.patch_embed(x)
    for stage in net.layers:
        x = stage.blocks(x)
        x = getattr(stage, "downsample", nn.Identity())(x)
    return net.head(F.adaptive_avg_pool2d(net.norm(x).permute(0, 3, 1, 2), 1).flatten(1))


RIGHT = {
    "3.1": {
        "course": lambda x, M: swin.window_partition(x, (M, M)),
        "einops": partition,
        "unfold": partition_unfold,
        "token by token": partition_token_by_token,
        "float64": lambda x, M: partition(x.double(), M),
        "non-contiguous": lambda x, M: partition(x.mT.contiguous().mT, M).mT.contiguous().mT,
    },
    "3.2": {
        "course": lambda x, M, H, W: swin.window_reverse(x, (M, M), (H, W)),
        "einops": reverse,
        "bands": reverse_by_rows,
        "float64": lambda x, M, H, W: reverse(x.double(), M, H, W),
        "non-contiguous": lambda x, M, H, W: reverse(x.mT.contiguous().mT, M, H, W),
    },
    "3.3": {
        "as the official code": masked,
        "fused": sdpa,
        "masked_fill": filled,
        "float64": lambda *a: masked(*[t.double() for t in a]),
        "non-contiguous": lambda q, k, v, b, m: masked(q.mT.contiguous().mT, k.mT.contiguous().mT, v, b, m),
    },
    "3.4": {
        "filling": groups_by_filling,
        "arithmetic": groups_by_arithmetic,
        "int32": lambda *a: groups_by_filling(*a).int(),
        "non-contiguous": lambda *a: groups_by_filling(*a).T.contiguous().T,
    },
    "3.5": {
        "cut-outs of the picture": bias_by_picture,
        "official": bias_official,
        "one-hot product": bias_one_hot,
        "float64": lambda t, M: bias_official(t.double(), M),
        "non-contiguous": lambda t, M: t.T.contiguous().T[swin.relative_position_index((M, M))].permute(2, 0, 1),
    },
    "3.6": {
        "slices": merge,
        "einops": merge_einops,
        "convolution": merge_by_convolution,
        "float64": lambda x: merge(x.double()),
        "non-contiguous": lambda x: merge_einops(x.mT.contiguous().mT),
    },
    "3.7": {
        "step by step": block,
        "short": block_short,
        "the mask only where something shifts": block_with_an_if,
        "an extra window of zeros": lambda b, x: block(
            b, x, clamp=lambda n, M, s: s if n > M else 0, padding=lambda y, M: pad_map(y.clone(), M).contiguous()
        ),
        "clamped by the side before its padding": clamped_before_padding,
        "float64 mask": lambda b, x: block(b, x, mask=lambda *a: mask_for(*a).double()),
    },
    "3.8": {
        "merging behind a stage": network,
        "merging before a stage": network_merging_first,
        "average pool": network_with_average_pool,
        "einops": lambda net, x: network(net, x, pool=lambda y: rearrange(y, "b h w c -> b (h w) c").mean(1)),
        "norm of the flattened map": lambda net, x: network(
            net, x, norm=False, pool=lambda y: net.norm(y.flatten(1, 2)).mean(1)
        ),
    },
    "3.9": {
        "formula": lambda C, h, M: 12 * C**2 + 13 * C + (2 * M - 1) ** 2 * h,
        "layer by layer": lambda C, h, M: (
            C * 3 * C + 3 * C + C * C + C + C * 4 * C + 4 * C + 4 * C * C + C + 4 * C + h * (2 * M - 1) * (2 * M - 1)
        ),
        "as modules": lambda C, h, M: sum(
            p.numel()
            for layer in (
                nn.Linear(C, 3 * C),
                nn.Linear(C, C),
                nn.Linear(C, 4 * C),
                nn.Linear(4 * C, C),
                nn.LayerNorm(C),
                nn.LayerNorm(C),
                nn.Embedding((2 * M - 1) ** 2, h),
            )
            for p in layer.parameters()
        ),
        "tensor": lambda C, h, M: torch.tensor([12 * C * C, 13 * C, h * (2 * M - 1) ** 2]).sum(),
    },
}


# ---------------------------------------------------------------- wrong solutions


def view_after_permute(x, M):
    B, H, W, C = x.shape
    return x.view(B, H // M, M, W // M, M, C).permute(0, 1, 3, 2, 4, 5).view(-1, M * M, C)


def wrong_grid(windows, M, H, W, order):
    C = windows.shape[-1]
    return windows.reshape(-1, W // M, H // M, M, M, C).permute(order).reshape(-1, H, W, C)


def after_softmax(q, k, v, bias, mask, combine):
    weights = (q @ k.mT / q.shape[-1] ** 0.5 + bias).softmax(-1)
    return combine(weights, mask.repeat(len(q) // len(mask), 1, 1)[:, None]) @ v


def over_queries(q, k, v, bias, mask):
    logits = q @ k.mT / q.shape[-1] ** 0.5 + bias + mask.repeat(len(q) // len(mask), 1, 1)[:, None]
    return logits.softmax(2) @ v


def look_up(table, M, row, head_first=True):
    h, w = torch.cartesian_prod(torch.arange(M), torch.arange(M)).unbind(1)
    out = table[row(h[:, None] - h[None], w[:, None] - w[None])]
    return out.permute(2, 0, 1) if head_first else out


WRONG = {
    "3.1": {
        "only reshape": (lambda x, M: x.reshape(-1, M * M, x.shape[-1]), likely("3.1", "never permuted")),
        "tokens by column": (
            lambda x, M: partition(x, M, "(b h w) (j i) c"),
            likely("3.1", "your tokens run column by column"),
        ),
        "windows by column": (
            lambda x, M: partition(x, M, "(b w h) (i j) c"),
            likely("3.1", "listed column by column; they"),
        ),
        "transposed": (lambda x, M: partition(x.transpose(1, 2), M), likely("3.1", "transposed everywhere")),
        "dilated": (
            lambda x, M: rearrange(x, "b (i h) (j w) c -> (b h w) (i j) c", i=M, j=M),
            likely("3.1", "dilated"),
        ),
        "windows before batch": (lambda x, M: partition(x, M, "(h w b) (i j) c"), likely("3.1", "batch axis")),
        "channels first": (
            lambda x, M: partition(x, M, "(b h w) c (i j)"),
            "  Likely: your axes are in another order: finish with `.permute(0, 2, 1)`\n",
        ),
        "one image": (lambda x, M: partition(x[:1], M), "wanted (B·H/M·W/M, M·M, C) = (2·2·3, 2·2, 3)"),
        "view": (view_after_permute, "  Likely: `view` cannot follow `permute`"),
        "in place": (overwrite(partition), "the result is right, but your function changes its input"),
    },
    "3.2": {
        "only reshape": (lambda x, M, H, W: x.reshape(-1, H, W, x.shape[-1]), likely("3.2", "never permuted")),
        "windows by column": (
            lambda x, M, H, W: wrong_grid(x, M, H, W, (0, 2, 3, 1, 4, 5)),
            likely("3.2", "wrong order"),
        ),
        "grid exchanged": (
            lambda x, M, H, W: wrong_grid(x, M, H, W, (0, 1, 3, 2, 4, 5)),
            likely("3.2", "in the first reshape"),
        ),
        "inside transposed": (
            lambda x, M, H, W: rearrange(x, "(b h w) (j i) c -> b (h i) (w j) c", h=H // M, w=W // M, i=M),
            likely("3.2", "inside each window"),
        ),
        "token before window": (
            lambda x, M, H, W: reverse(x, M, H, W, "b (i h) (j w) c"),
            likely("3.2", "(token, window)"),
        ),
        "batch last": (
            lambda x, M, H, W: rearrange(x, "(h w b) (i j) c -> b (h i) (w j) c", h=H // M, w=W // M, i=M),
            likely("3.2", "batch axis"),
        ),
        "channels first": (
            lambda x, M, H, W: reverse(x, M, H, W, "b c (h i) (w j)"),
            "  Likely: your axes are in another order: finish with `.permute(0, 2, 3, 1)`\n",
        ),
        "no batch": (lambda x, M, H, W: reverse(x, M, H, W)[0], "shape (4, 4, 1), wanted (B, H, W, C) = (B, 4, 4, 1)"),
        "in place": (overwrite(reverse), "changes its input"),
    },
    "3.3": {
        "added after softmax": (lambda *a: after_softmax(*a, torch.add), likely("3.3", "added after the softmax")),
        "set to 0 after softmax": (
            lambda *a: after_softmax(*a, lambda w, m: w.masked_fill(m < 0, 0)),
            likely("3.3", "no longer sums to 1"),
        ),
        "wrong way round": (lambda q, k, v, b, m: masked(q, k, v, b, -m), likely("3.3", "wrong way round")),
        "mask transposed": (lambda q, k, v, b, m: masked(q, k, v, b, m.mT), likely("3.3", "mask is transposed")),
        "no mask": (lambda q, k, v, b, m: masked(q, k, v, b, 0 * m), likely("3.3", "mask is forgotten")),
        "first mask": (lambda q, k, v, b, m: masked(q, k, v, b, m[:1].expand_as(m)), likely("3.3", "window 0")),
        "interleaved": (
            lambda q, k, v, b, m: masked(q, k, v, b, m.repeat_interleave(len(q) // len(m), 0)),
            likely("3.3", "repeat_interleave"),
        ),
        "no scale": (lambda q, k, v, b, m: masked(q, k, v, b, m, 1.0), likely("3.3", "1/√d is missing")),
        "scaled twice": (
            lambda q, k, v, b, m: masked(q * q.shape[-1] ** -0.5, k, v, b, m),
            likely("3.3", "there twice"),
        ),
        "times √d": (lambda q, k, v, b, m: masked(q, k, v, b, m, q.shape[-1] ** 0.5), likely("3.3", "multiply by √d")),
        "1/√C": (lambda q, k, v, b, m: masked(q, k, v, b, m, (q.shape[1] * q.shape[3]) ** -0.5), likely("3.3", "1/√C")),
        "bias scaled": (
            lambda q, k, v, b, m: masked(q, k, v, b / q.shape[-1] ** 0.5, m),
            likely("3.3", "bias is scaled"),
        ),
        "bias transposed": (lambda q, k, v, b, m: masked(q, k, v, b.mT, m), likely("3.3", "bias is transposed")),
        "mask as it is": (
            lambda q, k, v, b, m: (q @ k.mT / q.shape[-1] ** 0.5 + b + m).softmax(-1) @ v,
            "raised RuntimeError",
        ),
        "mask without images": (
            lambda q, k, v, b, m: (q @ k.mT / q.shape[-1] ** 0.5 + b + m[:, None]).softmax(-1) @ v,
            "raised RuntimeError",
        ),
        "no bias": (lambda q, k, v, b, m: masked(q, k, v, torch.zeros_like(b), m), likely("3.3", "bias is forgotten")),
        "over queries": (over_queries, likely("3.3", "over the queries")),
        "detached": (lambda q, k, v, b, m: masked(q, k, v, b.detach(), m), "the gradient of `bias` is not"),
        "weights": (
            lambda q, k, v, b, m: (q @ k.mT).softmax(-1),
            "shape (1, 2, 4, 4), wanted (B·nW, h, N, d) = (1, 2, 4, 3)",
        ),
    },
    "3.4": {
        "+shift": (lambda *a: groups_by_filling(*a, sign=+1), likely("3.4", "wrong sign")),
        "not rolled": (lambda *a: groups_by_filling(*a, sign=0), likely("3.4", "not rolled")),
        "regular windows": (
            lambda H, W, M, s: groups_by_filling(H, W, M, (0, 0)).roll((-s[0], -s[1]), (0, 1)),
            likely("3.4", "regular windows"),
        ),
        "by column": (lambda H, W, M, s: groups_by_filling(W, H, M, s[::-1]).T, likely("3.4", "column by column")),
        "exchanged": (lambda H, W, M, s: groups_by_filling(H, W, M, s[::-1]), likely("3.4", "exchanged")),
        "from 1": (lambda *a: groups_by_filling(*a) + 1, likely("3.4", "count from 1")),
        "right, down": (
            lambda H, W, M, s: groups_rolled(H, W, M, s, (-s[1], -s[0]), (0, 1)),
            likely("3.4", "wrong way round"),
        ),
        "no dims": (lambda H, W, M, s: groups_rolled(H, W, M, s, -s[0]), likely("3.4", "without `dims`")),
        "no dims, two shifts": (lambda H, W, M, s: groups_rolled(H, W, M, s, (-s[0], -s[1])), "raised RuntimeError"),
        "cnt": (groups_by_cnt, likely("3.4", "nine regions")),
        "zeros": (lambda H, W, M, s: torch.zeros(H, W, dtype=torch.long), "numbers differ"),
        "late rows plus late columns": (late_labels, likely("3.4", "late rows plus late columns")),
        "late rows and columns as bits": (
            lambda H, W, M, s: late_labels(H, W, M, s, 2),
            likely("3.4", "2 · late row + late column"),
        ),
        "2 · row + column": (
            lambda H, W, M, s: groups_by_arithmetic(H, W, M, s, 2),
            "two binary digits, 2 · row + column",
        ),
        "rolled over (1, 2)": (
            lambda H, W, M, s: groups_rolled(H, W, M, s, (-s[0], -s[1]), (1, 2)),
            "  Likely: there is no axis 2: the axes of this tensor are numbered from 0 to 1\n",
        ),
        "mask": (lambda H, W, M, s: groups_by_filling(H, W, M, s).float(), "dtype torch.float32, wanted torch.int64"),
    },
    "3.5": {
        "transposed": (lambda t, M: bias_official(t, M).mT, likely("3.5", "transposed")),
        "key minus query": (
            lambda t, M: look_up(t, M, lambda h, w: (M - 1 - h) * (2 * M - 1) + M - 1 - w),
            likely("3.5", "transposed"),
        ),
        "not moved": (lambda t, M: look_up(t, M, lambda h, w: h * (2 * M - 1) + w), likely("3.5", "not moved")),
        "exchanged": (
            lambda t, M: look_up(t, M, lambda h, w: (w + M - 1) * (2 * M - 1) + h + M - 1),
            likely("3.5", "digits are exchanged"),
        ),
        "2M - 2": (
            lambda t, M: look_up(t, M, lambda h, w: (h + M - 1) * (2 * M - 2) + w + M - 1),
            likely("3.5", "2M-2"),
        ),
        "M": (lambda t, M: look_up(t, M, lambda h, w: (h + M - 1) * M + w + M - 1), likely("3.5", "multiply by M")),
        "sum": (lambda t, M: look_up(t, M, lambda h, w: h + M - 1 + w + M - 1), likely("3.5", "are added")),
        "no sign": (
            lambda t, M: look_up(t, M, lambda h, w: (abs(h) + M - 1) * (2 * M - 1) + abs(w) + M - 1),
            likely("3.5", "sign of the offset"),
        ),
        "reshaped": (
            lambda t, M: look_up(t, M, lambda h, w: (h + M - 1) * (2 * M - 1) + w + M - 1, False).reshape(
                -1, M * M, M * M
            ),
            likely("3.5", "mixes them up"),
        ),
        "2M": (lambda t, M: look_up(t, M, lambda h, w: (h + M - 1) * 2 * M + w + M - 1), "raised IndexError"),
        "heads last": (
            lambda t, M: look_up(t, M, lambda h, w: (h + M - 1) * (2 * M - 1) + w + M - 1, False),
            "  Likely: your axes are in another order: finish with `.permute(2, 0, 1)`\n",
        ),
        "detached": (lambda t, M: bias_official(t.detach(), M), "no gradient reaches the input"),
    },
    "3.6": {
        "row by row": (lambda x: merge(x, ((0, 0), (0, 1), (1, 0), (1, 1))), likely("3.6", "row by row")),
        "einops row by row": (lambda x: merge_einops(x, "b h w (i j c)"), likely("3.6", "row by row")),
        "clockwise": (lambda x: merge(x, ((0, 0), (0, 1), (1, 1), (1, 0))), likely("3.6", "joined clockwise")),
        "counter-clockwise": (lambda x: merge(x, ((0, 0), (1, 0), (1, 1), (0, 1))), likely("3.6", "counter-clockwise")),
        "backwards": (
            lambda x: merge(x, ((1, 1), (0, 1), (1, 0), (0, 0))),
            likely("3.6", "the order (1,1), (0,1), (1,0), (0,0)"),
        ),
        "interleaved": (lambda x: merge_einops(x, "b h w (c j i)"), likely("3.6", "interleaved")),
        "not padded": (
            lambda x: torch.cat(
                [x[:, i : 2 * (x.shape[1] // 2) : 2, j : 2 * (x.shape[2] // 2) : 2] for j in (0, 1) for i in (0, 1)], -1
            ),
            "wanted (B, ⌈H/2⌉, ⌈W/2⌉, 4C) = (1, 3, 2, 4·2)",
        ),
        "odd": (lambda x: torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1), "raised RuntimeError"),
        "H and W in the wrong pairs": (
            lambda x: torch.cat(
                [F.pad(x, (0, 0, 0, x.shape[1] % 2, 0, x.shape[2] % 2))[:, i::2, j::2] for j in (0, 1) for i in (0, 1)],
                -1,
            ),
            "raised RuntimeError",
        ),
        "channels first": (
            lambda x: merge(x).movedim(-1, 1),
            "  Likely: your axes are in another order: finish with `.permute(0, 2, 3, 1)`\n",
        ),
        "mean": (lambda x: F.avg_pool2d(padded(x).movedim(-1, 1), 2).movedim(1, -1), "shape (1, 1, 1, 1), wanted"),
        "in place": (overwrite(merge), "changes its input"),
    },
    "3.7": {
        "no mask": (
            lambda b, x: block(b, x, mask=lambda H, W, M, shift: 0 * mask_for(H, W, M, shift)),
            "the step “mask” is forgotten",
        ),
        "nothing shifts": (lambda b, x: block(b, x, clamp=lambda n, M, s: 0), "  Likely: nothing ever shifts: along"),
        "mask of the full shift": (
            lambda b, x: block(b, x, mask=lambda H, W, M, shift: mask_for(H, W, M, (b.shift, b.shift))),
            "the mask is made with `block.shift` where the roll takes the clamped shift",
        ),
        "rolled over (0, 1)": (lambda b, x: block(b, x, dims=(0, 1)), likely("3.7", "images and rows")),
        "padded by W % M": (
            lambda b, x: block(b, x, padding=lambda y, M: F.pad(y, (0, 0, 0, y.shape[2] % M, 0, y.shape[1] % M))),
            "  Likely: you pad by W % M",
        ),
        "not clamped": (lambda b, x: block(b, x, clamp=lambda n, M, s: s), "is not clamped"),
        "neither axis": (lambda b, x: block(b, x, both=min), "you shift neither"),
        "both axes": (lambda b, x: block(b, x, both=max), "you shift both"),
        "always M // 2": (lambda b, x: block(b, x, clamp=lambda n, M, s: M // 2 * (n > M)), "always M // 2"),
        "roll with the other sign": (
            lambda b, x: block(b, x, sign=-1),
            likely("3.7", "both rolls have the wrong sign"),
        ),
        "not rolled back": (lambda b, x: block(b, x, back=False), "the step “roll back” is forgotten"),
        "cropped before it is rolled back": (
            lambda b, x: block(b, x, crop_first=True),
            "“roll back” comes too late: it must come before “crop”",
        ),
        "padded before the norm": (
            lambda b, x: block(b, x, pad_first=True),
            "“norm1” comes too late: it must come before “pad”",
        ),
        "padded at the top left": (
            lambda b, x: block(b, x, padding=lambda y, M: F.pad(y, (0, 0, -y.shape[2] % M, 0, -y.shape[1] % M, 0))),
            "at the top and at the left",
        ),
        "padding is masked": (mask_with_padding, "padded keys are forbidden"),
        "groups of the true map": (mask_of_the_true_map, "for the map without its padding"),
        "mask of the true size": (mask_before_padding, "  Likely: only maps that need padding fail. Three things"),
        "not padded": (
            lambda b, x: block(b, x, padding=lambda y, M: y),
            "  Likely: only maps that need padding fail. Three things",
        ),
        "padded sum": (
            lambda b, x: block(b, x, crop=False),
            "  Likely: only maps that need padding fail. Three things",
        ),
        "no first norm": (lambda b, x: block(b, x, first=lambda y: y), "the step “norm1” is forgotten"),
        "no second norm": (lambda b, x: block(b, x, norm2=lambda y: y), "the step “norm2” is forgotten"),
        "first norm twice": (lambda b, x: block(b, x, norm2=b.norm1), "first norm is used twice"),
        "no first residual": (
            lambda b, x: block(b, x, shortcut="none"),
            likely("3.7", "the first residual is missing"),
        ),
        "residual of the normed": (
            lambda b, x: block(b, x, shortcut="normed"),
            "“keep the shortcut” comes too late: it must come before “norm1”",
        ),
        "no second residual": (
            lambda b, x: block(b, x, second="none"),
            likely("3.7", "the second residual is missing"),
        ),
        "second residual of the input": (
            lambda b, x: block(b, x, second="input"),
            likely("3.7", "the second residual adds the block's input"),
        ),
        "norms behind": (block_post, likely("3.7", "each norm stands behind its branch")),
        "no MLP": (lambda b, x: x + attention_only(b, x), "“norm2” and “MLP”"),
        "not cropped": (
            lambda b, x: block(b, pad_map(x, b.M), first=lambda y: pad_map(b.norm1(x), b.M)),
            "shape (2, 6, 9, 6), wanted (B, H, W, C) = (2, 5, 7, 6)",
        ),
    },
    "3.8": {
        "no hasattr": (merging_after_every_stage, "  Likely: the last stage has no `downsample`; it has `blocks`\n"),
        "not merged": (lambda net, x: network(net, x, merge=False), "your function raised"),
        "merged after the last stage": (
            lambda net, x: [x := s.downsample(s.blocks(x)) for s in net.layers],
            "your function raised",
        ),
        "first block only": (
            lambda net, x: network(net, x, run=lambda b: b[:1]),
            likely("3.8", "only the first block"),
        ),
        "backwards": (
            lambda net, x: network(net, x, run=lambda b: reversed(list(b))),
            likely("3.8", "from the last to the first"),
        ),
        "no blocks": (lambda net, x: network(net, x, run=lambda b: []), likely("3.8", "no block is used")),
        "blocks twice": (lambda net, x: network(net, x, run=lambda b: [c for c in b for _ in "ab"]), "runs twice"),
        "no norm": (lambda net, x: network(net, x, norm=False), likely("3.8", "the last norm is missing")),
        "norm after the mean": (
            lambda net, x: network(net, x, norm=False, pool=lambda y: net.norm(y.mean((1, 2)))),
            likely("3.8", "comes after the mean"),
        ),
        "sum": (lambda net, x: network(net, x, pool=lambda y: y.sum((1, 2))), likely("3.8", "are added up")),
        "class token": (lambda net, x: network(net, x, pool=lambda y: y[:, 0, 0]), likely("3.8", "no class token")),
        "softmax": (
            lambda net, x: network(net, x, finish=lambda y: y.softmax(-1)),
            likely("3.8", "there is a softmax"),
        ),
        "mean of rows": (lambda net, x: network(net, x, pool=lambda y: y.mean(1)), "wanted (B, K)"),
        "map": (lambda net, x: network(net, x, pool=lambda y: y), "wanted (B, K)"),
    },
    "3.9": {
        "no biases": (lambda C, h, M: 12 * C**2 + 4 * C + (2 * M - 1) ** 2 * h, likely("3.9", "of the linear layers")),
        "no norms": (lambda C, h, M: 12 * C**2 + 9 * C + (2 * M - 1) ** 2 * h, likely("3.9", "norms are missing: two")),
        "weights only": (lambda C, h, M: 12 * C**2 + (2 * M - 1) ** 2 * h, likely("3.9", "biases and norms")),
        "no table": (lambda C, h, M: 12 * C**2 + 13 * C, likely("3.9", "bias table is missing")),
        "M⁴ rows": (lambda C, h, M: 12 * C**2 + 13 * C + M**4 * h, likely("3.9", "pairs of tokens")),
        "one column": (lambda C, h, M: 12 * C**2 + 13 * C + (2 * M - 1) ** 2, likely("3.9", "you count one column")),
        "2M": (lambda C, h, M: 12 * C**2 + 13 * C + (2 * M) ** 2 * h, "an axis has 2M-1 offsets, not 2M\n"),
        "one axis": (lambda C, h, M: 12 * C**2 + 13 * C + (2 * M - 1) * h, likely("3.9", "for one axis")),
        "no proj": (lambda C, h, M: 11 * C**2 + 12 * C + (2 * M - 1) ** 2 * h, likely("3.9", "`proj` is missing")),
        "half an MLP": (
            lambda C, h, M: 8 * C**2 + 12 * C + (2 * M - 1) ** 2 * h,
            "two layers, C to 4C and back; you count one",
        ),
    },
}
