"""Right and wrong solutions of the exercises of notebook 04."""

from itertools import product

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat

from vt_course.models import official, swin

from .common import likely, overwrite

# ---------------------------------------------------------------- right solutions


def names(window):
    return dict(zip("pac", window))


def partition(x, window, out="(b t h w) (p a c) d"):
    return rearrange(x, f"b (t p) (h a) (w c) d -> {out}", **names(window))


def partition_unfold(x, window):
    for axis, n in enumerate(window, start=1):
        x = x.unfold(axis, n, n)  # (B, nT, nH, nW, C, P, Mh, Mw)
    return x.movedim(4, -1).flatten(0, 3).flatten(1, 3)  # (B·nW, N, C)


def partition_token_by_token(x, window):
    (B, T, H, W, C), (P, A, D) = x.shape, window
    rows = [
        x[b, t + i, h + j, w + k]
        for b, t, h, w in product(range(B), range(0, T, P), range(0, H, A), range(0, W, D))
        for i, j, k in product(range(P), range(A), range(D))
    ]
    return torch.stack(rows).reshape(-1, P * A * D, C)


def reverse(windows, window, size, out="b (t p) (h a) (w c) d"):
    grid = {axis: s // w for axis, s, w in zip("thw", size, window)}
    return rearrange(windows, f"(b t h w) (p a c) d -> {out}", **grid, **names(window))


def reverse_by_inverse(windows, window, size):
    """Partition the numbers of the tokens, then send each token back to its number."""
    tokens = size[0] * size[1] * size[2]
    B, C = windows.shape[0] * windows.shape[1] // tokens, windows.shape[2]
    number = partition(torch.arange(B * tokens).reshape(B, *size, 1), window).flatten()
    out = torch.empty(B * tokens, C)
    out[number] = windows.reshape(-1, C)
    return out.reshape(B, *size, C)


def roll_by_cat(x, shift):
    for axis, s in enumerate(shift, start=1):
        x = torch.cat([x.narrow(axis, s, x.shape[axis] - s), x.narrow(axis, 0, s)], axis)
    return x


def roll_by_index(x, shift):
    axes = [(torch.arange(n) + s) % n for n, s in zip(x.shape[1:4], shift)]
    return x[:, axes[0][:, None, None], axes[1][:, None], axes[2]]


def forbid(groups, window, value=-100.0):
    """(T, H, W) group numbers, rolled -> the mask."""
    groups = partition(groups[None, ..., None].float(), window)[..., 0]  # (nW, N)
    return (groups[:, :, None] != groups[:, None, :]).float() * value


def slices_27(size, window, shift):
    """The three slices an axis of the official code, on the rolled map."""
    groups, number = torch.zeros(size), 0
    cuts = [(slice(-w), slice(-w, -s), slice(-s, None)) for w, s in zip(window, shift)]
    for t, h, w in product(*cuts):
        groups[t, h, w] = number
        number += 1
    return groups


def mask_official(size, window, shift):
    return forbid(slices_27(size, window, shift), window)


def mask_pair_by_pair(size, window, shift):
    rolled = [[(i + s) % n for i in range(n)] for n, s in zip(size, shift)]
    group = {
        place: tuple((rolled[a][i] - s) // w for a, (i, s, w) in enumerate(zip(place, shift, window)))
        for place in product(*map(range, size))
    }
    masks = []
    for corner in product(*[range(0, n, w) for n, w in zip(size, window)]):
        inside = [group[tuple(c + i for c, i in zip(corner, token))] for token in product(*map(range, window))]
        masks.append([[0.0 if q == k else -100.0 for k in inside] for q in inside])
    return torch.tensor(masks, dtype=torch.float64)


def index(window, combine=None):
    """(N, N): offsets that begin at 0, combined; by default as digits, width fastest."""
    P, A, C = window
    coords = torch.cartesian_prod(*map(torch.arange, window))  # (N, 3)
    t, h, w = (coords[:, None] - coords[None, :] + torch.tensor([P - 1, A - 1, C - 1])).unbind(-1)
    if combine:
        return combine(t, h, w, *window)
    return t * (2 * A - 1) * (2 * C - 1) + h * (2 * C - 1) + w


def index_official(window):
    P, A, C = window
    coords = torch.stack(torch.meshgrid(*map(torch.arange, window), indexing="ij")).flatten(1)
    relative = (coords[:, :, None] - coords[:, None, :]).permute(1, 2, 0).contiguous()
    relative[:, :, 0] += P - 1
    relative[:, :, 1] += A - 1
    relative[:, :, 2] += C - 1
    relative[:, :, 0] *= (2 * A - 1) * (2 * C - 1)
    relative[:, :, 1] *= 2 * C - 1
    return relative.sum(-1)


def inflate_by_conv(weight, pt):
    return torch.nn.functional.conv3d(
        weight.flatten(0, 1)[:, None, None], torch.full((1, 1, pt, 1, 1), 1 / pt), padding=(pt - 1, 0, 0)
    ).reshape(*weight.shape[:2], pt, *weight.shape[2:])


# ---------------------------------------------------------------- 4.7: a whole block


def fitted(size, block):
    """Window and shift, one axis after the other."""
    pairs = [(n, 0) if n <= m else (m, s) for n, m, s in zip(size, block.window, block.shift)]
    return tuple(m for m, _ in pairs), tuple(s for _, s in pairs)


def fitted_if_longer(size, block):
    """Wrong: an axis as long as its window shifts."""
    return fitted(size, block)[0], tuple(0 if n < m else s for n, m, s in zip(size, block.window, block.shift))


def zeros_behind(x, window):
    t, h, w = (-n % m for n, m in zip(x.shape[1:4], window))
    return F.pad(x, (0, 0, 0, w, 0, h, 0, t))


def mask_of(size, window, shift):
    return swin.shift_mask(size, window, shift)


def block_with(
    fit=fitted, norm="norm1", pad=zeros_behind, roll=-1, mask=mask_of, back=1, crop=None, add=None, end=None
):
    """A block in which some steps are replaced."""

    def function(block, x):
        size = x.shape[1:4]
        window, shift = fit(size, block)
        y = pad(x if norm == "skip" else getattr(block, norm)(x), window)
        full = y.shape[1:4]
        y = partition(y.roll([roll * s for s in shift], (1, 2, 3)), window)
        y = reverse(block.attn(y, mask(full, window, shift)), window, full)
        y = y.roll([back * s for s in shift], (1, 2, 3))
        y = y[:, : size[0], : size[1], : size[2]] if crop is None else crop(y, size)
        y = x + y if add is None else add(block, x, y)
        return y + block.mlp(block.norm2(y)) if end is None else end(block, x, y)

    return function


def block_by_groups(block, x):
    """No roll and no mask: each shifted window of the padded map on its own, and its keys found by their place.

    `attn` knows only whole windows, so a group is put at its places in a window of zeros, and the rest is masked.
    """
    size = x.shape[1:4]
    window, shift = fitted(size, block)
    y = zeros_behind(block.norm1(x), window)
    edges = [[0, *range(s or m, n, m), n] for n, m, s in zip(y.shape[1:4], window, shift)]
    out = torch.zeros_like(y)
    for corner in product(*[zip(e, e[1:]) for e in edges]):
        here = tuple(slice(a, b) for a, b in corner)
        piece = y[:, here[0], here[1], here[2]]
        room = [m - n for m, n in zip(window, piece.shape[1:4])]
        first = F.pad(piece, (0, 0, 0, room[2], 0, room[1], 0, room[0]))
        real = torch.zeros(window, dtype=torch.bool)
        real[: piece.shape[1], : piece.shape[2], : piece.shape[3]] = True
        mask = torch.where(real.flatten(), 0.0, -100.0).expand(1, real.numel(), -1)
        done = block.attn(first.flatten(1, 3), mask).view(first.shape)
        out[:, here[0], here[1], here[2]] = done[:, : piece.shape[1], : piece.shape[2], : piece.shape[3]]
    x = x + out[:, : size[0], : size[1], : size[2]]
    return x + block.mlp(block.norm2(x))


def block_clip_by_clip(block, x):
    return torch.cat([block_with()(block, clip[None]) for clip in x])


def block_padded_by_cat(block, x):
    def pad(x, window):
        for axis, m in enumerate(window, start=1):
            missing = -x.shape[axis] % m
            if missing:
                x = torch.cat([x, torch.zeros_like(x.narrow(axis, 0, 1)).repeat_interleave(missing, axis)], axis)
        return x

    return block_with(pad=pad)(block, x)


def block_masked_only_where_it_shifts(block, x):
    """No mask is computed for a block that does not shift."""

    def mask(size, window, shift):
        return mask_of(size, window, shift) if any(shift) else torch.zeros(1, 1, 1)

    return block_with(mask=mask)(block, x)


def pad_first(block, x):
    """The map is padded before the norm, whose bias then fills the padding."""
    size = x.shape[1:4]
    window, shift = fitted(size, block)
    y = block.norm1(zeros_behind(x, window))
    full = y.shape[1:4]
    y = partition(y.roll([-s for s in shift], (1, 2, 3)), window)
    y = reverse(block.attn(y, mask_of(full, window, shift)), window, full).roll(shift, (1, 2, 3))
    x = x + y[:, : size[0], : size[1], : size[2]]
    return x + block.mlp(block.norm2(x))


def crop_first(block, x):
    """The padding is cut off before the map is rolled back."""
    size = x.shape[1:4]
    window, shift = fitted(size, block)
    y = zeros_behind(block.norm1(x), window)
    full = y.shape[1:4]
    y = partition(y.roll([-s for s in shift], (1, 2, 3)), window)
    y = reverse(block.attn(y, mask_of(full, window, shift)), window, full)
    y = y[:, : size[0], : size[1], : size[2]].roll(shift, (1, 2, 3))
    x = x + y
    return x + block.mlp(block.norm2(x))


# ---------------------------------------------------------------- 4.8: merging and the stages


def pad_even(x):
    return F.pad(x, (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2))


def side_by_side(x, order="j i c"):
    return rearrange(pad_even(x), f"b t (h i) (w j) c -> b t h w ({order})", i=2, j=2)


def network(merge=lambda m, x: m.reduction(m.norm(side_by_side(x))), blocks=None, norm=True, pool=None, end=None):
    def function(net, x):
        x = net.patch_embed(x)
        for stage in net.layers:
            x = stage.blocks(x) if blocks is None else blocks(stage.blocks, x)
            if stage.downsample is not None:
                x = merge(stage.downsample, x)
        x = net.norm(x) if norm else x
        x = x.flatten(1, 3).mean(1) if pool is None else pool(x)
        return net.head(x) if end is None else end(net, x)

    return function


def network_by_index(net, x):
    """Loops over numbers; the last stage is told by its place; the head before the mean."""
    x = net.patch_embed(x)
    for i in range(len(net.layers)):
        for block in net.layers[i].blocks:
            x = block(x)
        if i + 1 < len(net.layers):
            merging = net.layers[i].downsample
            x = pad_even(x)
            even, odd = x[:, :, 0::2], x[:, :, 1::2]
            x = torch.cat([even[:, :, :, 0::2], odd[:, :, :, 0::2], even[:, :, :, 1::2], odd[:, :, :, 1::2]], -1)
            x = F.linear(merging.norm(x), merging.reduction.weight)
    return net.head(net.norm(x)).mean((1, 2, 3))


def merge_by_convolution(m, x):
    """The reduction as a convolution of stride 2, after a norm over the four neighbours."""
    x = side_by_side(x)
    kernel = m.reduction.weight[:, :, None, None]
    flat = m.norm(x).flatten(0, 1).permute(0, 3, 1, 2)
    return F.conv2d(flat, kernel).permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


def merge_with_time(m, x):
    """Eight neighbours, averaged over two time steps."""
    x = x[:, : x.shape[1] // 2 * 2]
    return m.reduction(m.norm(side_by_side(reduce(x, "b (t k) h w c -> b t h w c", "mean", k=2))))


# ---------------------------------------------------------------- 4.9: inflate a whole model


def entry(name, weight, pt, P, patch=None, table=None, other=lambda w: w, ends="relative_position_bias_table"):
    if name.startswith("patch_embed.proj.w"):
        return torch.stack([weight / pt] * pt, 2) if patch is None else patch(weight, pt, P)
    if name.endswith(ends):
        return torch.cat([weight] * (2 * P - 1)) if table is None else table(weight, pt, P)
    return other(weight)


def entry_by_axes(name, weight, pt, P):
    """The patch embedding is the only entry with four axes."""
    if weight.ndim == 4:
        return (weight / pt)[:, :, None].expand(-1, -1, pt, -1, -1)
    return repeat(weight, "r h -> (t r) h", t=2 * P - 1) if "bias_table" in name else weight


def changed(**how):
    return lambda name, weight, pt, P: entry(name, weight, pt, P, **how)


RIGHT = {
    "4.1": {
        "course": lambda x, w: swin.window_partition(x, w),
        "einops": partition,
        "unfold": partition_unfold,
        "token by token": partition_token_by_token,
        "float64": lambda x, w: partition(x.double(), w),
        "non-contiguous": lambda x, w: partition(x.mT.contiguous().mT, w).mT.contiguous().mT,
        "with gradient": lambda x, w: partition(x.requires_grad_(), w),
    },
    "4.2": {
        "course": lambda x, w, s: swin.window_reverse(x, w, s),
        "einops": reverse,
        "inverse permutation": reverse_by_inverse,
        "float64": lambda x, w, s: reverse(x.double(), w, s),
        "non-contiguous": lambda x, w, s: (
            reverse(x.mT.contiguous().mT, w, s).transpose(1, 3).contiguous().transpose(1, 3)
        ),
    },
    "4.3": {
        "roll": lambda x, s: torch.roll(x, tuple(-v for v in s), (1, 2, 3)),
        "one axis at a time": lambda x, s: x.roll(-s[2], 3).roll(-s[0], 1).roll(-s[1], 2),
        "the long way round": lambda x, s: x.roll([n - v for n, v in zip(x.shape[1:4], s)], (1, 2, 3)),
        "cat": roll_by_cat,
        "index": roll_by_index,
        "float64": lambda x, s: roll_by_cat(x.double(), s),
        "non-contiguous": lambda x, s: roll_by_cat(x.mT.contiguous().mT, s),
    },
    "4.4": {
        "course": lambda z, w, s: swin.shift_mask(z, w, s, torch.device("cpu"), torch.float32),
        "official slices": mask_official,
        "as in the hints": lambda z, w, s: mask_rolled(z, w, s, -1),
        "pair by pair, float64": mask_pair_by_pair,
        "float16": lambda z, w, s: mask_official(z, w, s).half(),
        "non-contiguous": lambda z, w, s: mask_official(z, w, s).mT,
    },
    "4.5": {
        "course": lambda *given: swin.relative_position_index(*given),
        "cartesian product": index,
        "official": index_official,
        "int32": lambda w: index(w).int(),
        "non-contiguous": lambda w: index(w).T.contiguous().T,
    },
    "4.6": {
        "course": lambda *given, **settings: official.inflate_patch(*given, **settings),
        "einops": lambda w, pt: repeat(w, "d c h w -> d c t h w", t=pt) / pt,
        "expand, not contiguous": lambda w, pt: (w / pt)[:, :, None].expand(-1, -1, pt, -1, -1),
        "stack": lambda w, pt: torch.stack([w / pt] * pt, 2),
        "convolution": inflate_by_conv,
        "float64": lambda w, pt: w.double().unsqueeze(2).repeat_interleave(pt, 2) / pt,
    },
    "4.7": {
        "line by line": block_with(),
        "group by group": block_by_groups,
        "clip by clip": block_clip_by_clip,
        "padded by cat": block_padded_by_cat,
        "no mask without a shift": block_masked_only_where_it_shifts,
    },
    "4.8": {
        "einops": network(),
        "by index, head before the mean": network_by_index,
        "convolution": network(merge_by_convolution),
        "sum over the number": network(pool=lambda x: x.sum((1, 2, 3)) / x[0, ..., 0].numel()),
    },
    "4.9": {
        "by name": entry,
        "by axes, expanded": entry_by_axes,
        "float64": lambda name, w, pt, P: entry(name, w.double(), pt, P),
        "tile": changed(table=lambda w, pt, P: w.tile(2 * P - 1, 1)),
    },
}


# ---------------------------------------------------------------- wrong solutions


def view_after_permute(x, window):
    (B, T, H, W, C), (P, A, D) = x.shape, window
    x = x.view(B, T // P, P, H // A, A, W // D, D, C).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return x.view(-1, P * A * D, C)


def glue_view(windows, window, size):
    (P, A, D), (T, H, W) = window, size
    x = windows.view(-1, T // P, H // A, W // D, P, A, D, windows.shape[-1])
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).view(-1, T, H, W, windows.shape[-1])


def grid_swapped(windows, window, size, order=(0, 1, 4, 2, 5, 3, 6, 7)):
    (P, A, D), (T, H, W) = window, size
    x = windows.reshape(-1, T // P, W // D, H // A, P, A, D, windows.shape[-1])
    return x.permute(order).reshape(-1, T, H, W, windows.shape[-1])


def permuted_wrongly(windows, window, size):
    (P, A, D), (T, H, W) = window, size
    x = windows.reshape(-1, T // P, H // A, W // D, P, A, D, windows.shape[-1])
    return x.permute(0, 1, 4, 3, 5, 2, 6, 7).reshape(-1, T, H, W, windows.shape[-1])


def zero_filled(x, shift):
    out = torch.zeros_like(x)
    st, sh, sw = shift
    moved = x[:, st:, sh:, sw:]
    out[:, : moved.shape[1], : moved.shape[2], : moved.shape[3]] = moved
    return out


def mask_space_only(size, window, shift):
    """Figure 4 of the image paper: regions of (H, W), the same at all times."""
    groups = slices_27(size, window, (0, *shift[1:]))
    return forbid(groups, window)


def shifted_windows(size, window, shift):
    """The number of the shifted window of each token, before the roll."""
    numbers = torch.zeros(size)
    edges = [[0, *range(s or w, n, w), n] for n, w, s in zip(size, window, shift)]
    for number, (t, h, w) in enumerate(product(*[zip(e, e[1:]) for e in edges])):
        numbers[slice(*t), slice(*h), slice(*w)] = number
    return numbers


def mask_rolled(size, window, shift, sign):
    numbers = shifted_windows(size, window, shift)
    return forbid(numbers.roll([sign * s for s in shift], (0, 1, 2)), window)


def mask_without_shift(size, window, shift):
    """Groups cut at the window's borders: inside a window all are one group."""
    groups = torch.zeros(size)
    for number, (t, h, w) in enumerate(product(*[range(0, n, m) for n, m in zip(size, window)])):
        groups[t : t + window[0], h : h + window[1], w : w + window[2]] = number
    return forbid(groups, window)


def index_transposed(window):
    P, A, C = window
    tokens = list(product(range(P), range(A), range(C)))
    out = torch.zeros(len(tokens), len(tokens), dtype=torch.long)
    for (i, q), (j, k) in product(enumerate(tokens), repeat=2):
        t, h, w = (a - b + m - 1 for a, b, m in zip(q, k, window))
        out[j, i] = (t * (2 * A - 1) + h) * (2 * C - 1) + w
    return out


def index_not_moved(window):
    t, h, w = (axis[:, None] - axis[None, :] for axis in torch.cartesian_prod(*map(torch.arange, window)).unbind(1))
    return (t * (2 * window[1] - 1) + h) * (2 * window[2] - 1) + w


def one_step(weight, pt, step):
    out = torch.zeros(*weight.shape[:2], pt, *weight.shape[2:])
    out[:, :, step] = weight
    return out


def divide_in_place(weight, pt):
    weight /= pt
    return weight.unsqueeze(2).repeat(1, 1, pt, 1, 1)


WRONG = {
    "4.1": {
        "only reshape": (lambda x, w: x.reshape(-1, w[0] * w[1] * w[2], x.shape[-1]), likely("4.1", "never permuted")),
        "(H W T)": (lambda x, w: partition(x, w, "(b t h w) (a c p) d"), likely("4.1", "(H W T)")),
        "(T W H)": (lambda x, w: partition(x, w, "(b t h w) (p c a) d"), likely("4.1", "run (T W H)")),
        "(W H T)": (lambda x, w: partition(x, w, "(b t h w) (c a p) d"), likely("4.1", "run (W H T)")),
        "windows (W H T)": (lambda x, w: partition(x, w, "(b w h t) (p a c) d"), likely("4.1", "windows themselves")),
        "windows (T W H)": (
            lambda x, w: partition(x, w, "(b t w h) (p a c) d"),
            likely("4.1", "listed (T W H): H and W"),
        ),
        "windows before batch": (lambda x, w: partition(x, w, "(t h w b) (p a c) d"), likely("4.1", "batch axis")),
        "dilated": (
            lambda x, w: rearrange(x, "b (p t) (a h) (c w) d -> (b t h w) (p a c) d", **names(w)),
            likely("4.1", "dilated"),
        ),
        "channels first": (
            lambda x, w: partition(x, w, "(b t h w) d (p a c)"),
            "shape (8, 1, 8), wanted (B·T/P·H/M·W/M, P·M·M, C) = "
            "(1·2·2·2, 2·2·2, 1) = (8, 8, 1)\n"
            "  Likely: your axes are in another order: finish with `.permute(0, 2, 1)`\n",
        ),
        "tokens not flat": (lambda x, w: partition(x, w, "(b t h w) p a c d"), "shape (8, 2, 2, 2, 1), wanted"),
        "one clip": (
            lambda x, w: partition(x[:1], w),
            "shape (18, 12, 3), wanted (B·T/P·H/M·W/M, P·M·M, C) = (2·2·3·3, 2·2·3, 3)",
        ),
        "list": (lambda x, w: list(partition(x, w)), "returned a list, not a tensor"),
        "integers": (lambda x, w: partition(x, w).long(), "dtype torch.int64, wanted torch.float32"),
        "view": (view_after_permute, "raised RuntimeError"),
        "bad sizes": (lambda x, w: x.reshape(-1, 7, x.shape[-1]), "  Likely: the sizes you reshape to do not multiply"),
        "NaN": (
            lambda x, w: partition(x, w) * torch.nan,
            "64 of 64 numbers differ, first at index (0, 0, 0): got nan, wanted ",
        ),
        "bfloat16": (lambda x, w: partition(x, w).bfloat16(), "numbers differ"),
        "in place": (overwrite(partition), "the result is right, but your function changes its input"),
    },
    "4.2": {
        "only reshape": (lambda x, w, s: x.reshape(-1, *s, x.shape[-1]), likely("4.2", "never permuted")),
        "permutation of 4.1": (
            lambda x, w, s: (
                x.reshape(-1, *[n // m for n, m in zip(s, w)], *w, x.shape[-1])
                .permute(0, 1, 3, 5, 2, 4, 6, 7)
                .reshape(-1, *s, x.shape[-1])
            ),
            likely("4.2", "its own inverse"),
        ),
        "token before window": (
            lambda x, w, s: reverse(x, w, s, "b (p t) (a h) (c w) d"),
            likely("4.2", "(token, window)"),
        ),
        "grid W H": (grid_swapped, likely("4.2", "in the first reshape")),
        "permuted W H": (permuted_wrongly, likely("4.2", "in the permutation")),
        "read W H": (
            lambda x, w, s: grid_swapped(x, w, s, (0, 1, 4, 3, 5, 2, 6, 7)),
            likely("4.2", "you read the windows"),
        ),
        "inside W H": (
            lambda x, w, s: reverse(x, w, s, "b (t p) (h c) (w a) d").reshape(-1, *s, x.shape[-1]),
            likely("4.2", "inside the windows"),
        ),
        "channels first": (
            lambda x, w, s: reverse(x, w, s, "b d (t p) (h a) (w c)"),
            "shape (1, 1, 4, 4, 4), wanted (B, T, H, W, C) = (B, 4, 4, 4, 1) = "
            "(1, 4, 4, 4, 1)\n  Likely: your axes are in another order: finish with `.permute(0, 2, 3, 4, 1)`\n",
        ),
        "no batch axis": (lambda x, w, s: reverse(x, w, s).squeeze(0), "shape (4, 4, 4, 1), wanted"),
        "tuple": (lambda x, w, s: (reverse(x, w, s), s), "returned a tuple, not a tensor"),
        "view": (glue_view, "raised RuntimeError"),
        "never filled": (
            lambda x, w, s: torch.full(
                (len(x) * x[0, :, 0].numel() // (s[0] * s[1] * s[2]), *s, x.shape[-1]), torch.nan
            ),
            "got nan, wanted ",
        ),
        "in place": (overwrite(reverse), "changes its input"),
    },
    "4.3": {
        "+shift": (lambda x, s: x.roll(s, (1, 2, 3)), likely("4.3", "sign is the other one")),
        "no time": (lambda x, s: x.roll((-s[1], -s[2]), (2, 3)), likely("4.3", "time is not shifted")),
        "time only": (lambda x, s: x.roll(-s[0], 1), likely("4.3", "only time is shifted")),
        "axis 0": (lambda x, s: x.roll([-v for v in s], (0, 1, 2)), likely("4.3", "off by one")),
        "(W, H, T)": (lambda x, s: x.roll([-v for v in s[::-1]], (1, 2, 3)), likely("4.3", "(W, H, T)")),
        "zeros come in": (zero_filled, likely("4.3", "replaced by zeros")),
        "cut off": (lambda x, s: x[:, s[0] :, s[1] :, s[2] :], "shape (2, 3, 4, 2, 3), wanted the shape of x"),
        "not shifted": (lambda x, s: x, "numbers differ"),
        "no dims": (lambda x, s: x.roll([-v for v in s]), "raised RuntimeError"),
        "string": (lambda x, s: "rolled", "returned a str, not a tensor"),
        "in place": (overwrite(roll_by_cat), "changes its input"),
    },
    "4.4": {
        "space only": (mask_space_only, likely("4.4", "time is forgotten")),
        "time only": (lambda z, w, s: forbid(slices_27(z, w, (s[0], 0, 0)), w), likely("4.4", "only time is masked")),
        "not rolled": (lambda z, w, s: mask_rolled(z, w, s, 0), likely("4.4", "before the roll")),
        "rolled back": (lambda z, w, s: mask_rolled(z, w, s, +1), likely("4.4", "rolled the other way")),
        "not shifted": (mask_without_shift, likely("4.4", "nothing is masked")),
        "all zero": (lambda z, w, s: 0 * mask_official(z, w, s), likely("4.4", "nothing is masked")),
        "boolean": (lambda z, w, s: mask_official(z, w, s) < 0, likely("4.4", "a boolean mask?")),
        "ones": (lambda z, w, s: forbid(slices_27(z, w, s), w, 1.0), likely("4.4", "a boolean mask?")),
        "-1": (lambda z, w, s: forbid(slices_27(z, w, s), w, -1.0), likely("4.4", "hold -1 ")),
        "+100": (lambda z, w, s: forbid(slices_27(z, w, s), w, 100.0), likely("4.4", "+100")),
        "-inf": (
            lambda z, w, s: torch.zeros(mask_official(z, w, s).shape).masked_fill(
                mask_official(z, w, s) < 0, float("-inf")
            ),
            likely("4.4", "-inf"),
        ),
        "inverted": (
            lambda z, w, s: torch.where(mask_official(z, w, s) == 0, -100.0, 0.0),
            likely("4.4", "wrong way round"),
        ),
        "0 · inf": (lambda z, w, s: forbid(slices_27(z, w, s), w, float("-inf")), "got nan, wanted 0\n"),
        "integers": (lambda z, w, s: mask_official(z, w, s).long(), "dtype torch.int64, wanted torch.float32\n"),
        "one window": (
            lambda z, w, s: mask_official(z, w, s)[0],
            "shape (64, 64), wanted (T/P·H/M·W/M, P·M·M, P·M·M) = (8, 64, 64)",
        ),
        "no size": (lambda z, w, s: torch.zeros(z) @ w, "raised TypeError"),
    },
    "4.5": {
        "index[j, i]": (index_transposed, likely("4.5", "transposed")),
        "key minus query": (lambda w: index(w).max() - index(w), likely("4.5", "transposed")),
        "not moved": (index_not_moved, likely("4.5", "not moved")),
        "moved by M": (
            lambda w: index(w, lambda t, h, x, P, A, C: ((t + 1) * (2 * A - 1) + h + 1) * (2 * C - 1) + x + 1),
            likely("4.5", "not M"),
        ),
        "2M": (lambda w: index(w, lambda t, h, x, P, A, C: t * 4 * A * C + h * 2 * C + x), likely("4.5", "not 2M")),
        "M": (lambda w: index(w, lambda t, h, x, P, A, C: (t * A + h) * C + x), likely("4.5", "by the window size")),
        "(W H T)": (
            lambda w: index(w, lambda t, h, x, P, A, C: (x * (2 * A - 1) + h) * (2 * P - 1) + t),
            likely("4.5", "digits run"),
        ),
        "square windows only": (
            lambda w: (
                index((w[0], w[1], w[1]), None)
                if w[1] == w[2]
                else index(w, lambda t, h, x, P, A, C: (t * (2 * A - 1) + h) * (2 * A - 1) + x - (C - 1) + A - 1)
            ),
            likely("4.5", "taken as equal"),
        ),
        "2P-1": (
            lambda w: index(w, lambda t, h, x, P, A, C: (t * (2 * P - 1) + h) * (2 * P - 1) + x),
            likely("4.5", "base of all digits"),
        ),
        "sum": (lambda w: index(w, lambda t, h, x, P, A, C: t + h + x), likely("4.5", "are added")),
        "float": (lambda w: index(w).float(), "dtype torch.float32, wanted torch.int64\n"),
        "table": (lambda w: index(w).flatten(), "shape (64,), wanted (N, N) with N = 2·2·2 = (8, 8)"),
        "list": (lambda w: index(w).tolist(), "returned a list, not a tensor"),
        "NaN": (lambda w: index(w) * torch.nan, "dtype torch.float32, wanted torch.int64\n"),
    },
    "4.6": {
        "not divided": (lambda w, pt: torch.stack([w] * pt, 2), likely("4.6", "not divided")),
        "pt²": (lambda w, pt: torch.stack([w / pt] * pt, 2) / pt, likely("4.6", "pt²")),
        "√pt": (lambda w, pt: torch.stack([w] * pt, 2) / pt**0.5, likely("4.6", "√pt")),
        "centre": (lambda w, pt: one_step(w, pt, pt // 2), likely("4.6", "centre initialisation")),
        "first": (lambda w, pt: one_step(w, pt, 0), likely("4.6", "only the first time step")),
        "halved": (lambda w, pt: torch.stack([0.5 * w] * pt, 2), likely("4.6", "halved always")),
        "time last": (
            lambda w, pt: repeat(w / pt, "d c h w -> d c h w t", t=pt),
            likely("4.6", "time axis is the last"),
        ),
        "time first": (
            lambda w, pt: repeat(w / pt, "d c h w -> t d c h w", t=pt),
            "shape (2, 6, 3, 4, 4), wanted (D, C, pt, ph, pw) = (6, 3, 2, 4, 4)\n"
            "  Likely: your axes are in another order: finish with `.permute(1, 2, 0, 3, 4)`\n",
        ),
        "no axis": (lambda w, pt: w / pt, "shape (6, 3, 4, 4), wanted"),
        "NaN": (lambda w, pt: inflate_by_conv(w, pt) * torch.nan, "got nan, wanted "),
        "module": (lambda w, pt: torch.nn.Conv3d(3, 6, (pt, 4, 4)), "returned a Conv3d, not a tensor"),
        "in place": (divide_in_place, "changes its input"),
    },
    "4.7": {
        "post-norm": (
            block_with(norm="skip", add=lambda b, x, y: b.norm1(x + y), end=lambda b, x, y: b.norm2(y + b.mlp(y))),
            likely("4.7", "post-norm"),
        ),
        "no residual": (block_with(add=lambda b, x, y: y), "the first residual is missing"),
        "no second residual": (block_with(end=lambda b, x, y: b.mlp(b.norm2(y))), "“add y” is forgotten"),
        "residual of the norm": (block_with(add=lambda b, x, y: b.norm1(x) + y), "adds norm1(x)"),
        "adds the input twice": (block_with(end=lambda b, x, y: x + b.mlp(b.norm2(y))), "adds the block's input"),
        "no mlp": (block_with(end=lambda b, x, y: y), "“norm2” and “mlp”"),
        "no mask": (block_with(mask=lambda z, w, s: torch.zeros(1, 1, 1)), "nothing is masked"),
        "shift not clamped": (
            block_with(fit=lambda size, b: (tuple(map(min, size, b.window)), b.shift)),
            "the window is clamped and the shift is not",
        ),
        "window not clamped": (
            block_with(fit=lambda size, b: (b.window, fitted(size, b)[1])),
            "the shift is clamped and the window is not",
        ),
        "not clamped": (
            block_with(fit=lambda size, b: (b.window, b.shift)),
            "the step “clamp window and shift” is forgotten",
        ),
        "never shifts": (block_with(fit=lambda size, b: (fitted(size, b)[0], (0, 0, 0))), "the windows never shift"),
        "half a window always": (
            block_with(fit=lambda size, b: (fitted(size, b)[0], tuple(m // 2 for m in fitted(size, b)[0]))),
            "every block shifts by half of its window",
        ),
        "n < m": (block_with(fit=fitted_if_longer), "an axis exactly as long as the window shifts"),
        "rolled the other way": (block_with(roll=1, back=-1), likely("4.7", "both rolls")),
        "not rolled back": (block_with(back=0), "the step “roll back” is forgotten"),
        "rolled twice": (block_with(back=-1), "rolled once more instead of back"),
        "zeros in front": (
            block_with(
                pad=lambda x, w: F.pad(x, [0, 0, *[v for n, m in zip(x.shape[3:0:-1], w[::-1]) for v in (-n % m, 0)]])
            ),
            "the zeros come before the map",
        ),
        "padded before the norm": (pad_first, "the step “norm1” comes too late: it must come before “pad”"),
        "cropped before rolling back": (crop_first, "the step “roll back” comes too late: it must come before “crop”"),
        "crop at the end": (
            block_with(crop=lambda y, n: y[:, -n[0] :, -n[1] :, -n[2] :]),
            "the crop takes the end of the map",
        ),
        "not cropped": (block_with(crop=lambda y, n: y), "raised RuntimeError"),
        "not padded": (block_with(pad=lambda x, w: x), "raised EinopsError"),
        "mask of the map": (
            lambda block, x: block_with(mask=lambda z, w, s: mask_of(x.shape[1:4], w, s))(block, x),
            "raised RuntimeError",
        ),
        "wrong norm": (block_with(norm="norm2"), "the norms are exchanged"),
        "no gradient": (lambda block, x: block_with()(block, x.detach()), "no gradient reaches the input"),
    },
    "4.8": {
        "order of 03's reading": (
            network(lambda m, x: m.reduction(m.norm(side_by_side(x, "i j c")))),
            likely("4.8", "stand in the order (0, 0), (0, 1), (1, 0), (1, 1)"),
        ),
        "channels slowest": (network(lambda m, x: m.reduction(m.norm(side_by_side(x, "c j i")))), "✗ exercise 4.8"),
        "no norm in merging": (
            network(lambda m, x: m.reduction(side_by_side(x))),
            likely("4.8", "norm of the merging is missing"),
        ),
        "cropped": (
            network(
                lambda m, x: m.reduction(m.norm(side_by_side(x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2])))
            ),
            likely("4.8", "an odd map is cropped"),
        ),
        "zeros first": (
            network(
                lambda m, x: m.reduction(m.norm(side_by_side(F.pad(x, (0, 0, x.shape[3] % 2, 0, x.shape[2] % 2, 0)))))
            ),
            likely("4.8", "zeros come before the first row"),
        ),
        "time merged": (network(merge_with_time), likely("4.8", "two time steps become their mean")),
        "every second step": (
            network(lambda m, x: m.reduction(m.norm(side_by_side(x[:, ::2])))),
            likely("4.8", "every second time step is lost"),
        ),
        "no norm": (network(norm=False), likely("4.8", "the last norm is missing")),
        "norm after the mean": (
            network(norm=False, end=lambda net, x: net.head(net.norm(x))),
            likely("4.8", "comes after the mean: it"),
        ),
        "sum": (network(pool=lambda x: x.sum((1, 2, 3))), likely("4.8", "the places are added up")),
        "last step": (network(pool=lambda x: x[:, -1].mean((1, 2))), likely("4.8", "only the last time step is read")),
        "first token": (network(pool=lambda x: x.flatten(1, 3)[:, 0]), likely("4.8", "only the first token is read")),
        "softmax": (network(end=lambda net, x: net.head(x).softmax(1)), likely("4.8", "there is a softmax")),
        "one block": (network(blocks=lambda bs, x: bs[0](x)), likely("4.8", "only the first block")),
        "no merging": (network(lambda m, x: x), "raised RuntimeError"),
        "features": (network(end=lambda net, x: x), "shape (2, 16), wanted (B, K)"),
    },
    "4.9": {
        "P copies": (changed(table=lambda w, pt, P: w.repeat(P, 1)), "a table is repeated P times"),
        "in place": (
            changed(table=lambda w, pt, P: w.repeat_interleave(2 * P - 1, 0)),
            likely("4.9", "each row is repeated in place"),
        ),
        "table divided": (
            changed(table=lambda w, pt, P: torch.cat([w] * (2 * P - 1)) / (2 * P - 1)),
            likely("4.9", "divided by 2P-1"),
        ),
        "divided by P": (
            changed(table=lambda w, pt, P: torch.cat([w / P] * (2 * P - 1))),
            likely("4.9", "divided by P:"),
        ),
        "only offset 0": (
            changed(
                table=lambda w, pt, P: torch.cat([w if t == P - 1 else torch.zeros_like(w) for t in range(2 * P - 1)])
            ),
            likely("4.9", "at offset 0 only"),
        ),
        "not divided": (
            changed(patch=lambda w, pt, P: w[:, :, None].repeat(1, 1, pt, 1, 1)),
            likely("4.9", "repeated and not divided"),
        ),
        "P frames": (
            changed(patch=lambda w, pt, P: torch.stack([w / P] * P, 2)),
            "shape (5, 3, 4, 4, 4), wanted (D, C, pt, ph, pw) = (5, 3, 2, 4, 4)",
        ),
        "all divided": (
            lambda name, w, pt, P: entry(name, w, pt, P, other=lambda w: w / pt),
            likely("4.9", "all other weights are divided"),
        ),
        "by two axes": (
            lambda name, w, pt, P: w.repeat(2 * P - 1, 1) if w.ndim == 2 else entry(name, w, pt, P),
            "shape (28, 4), wanted the shape of the weight",
        ),
        "table as it is": (changed(table=lambda w, pt, P: w), "shape (9, 2), wanted ((2P-1)·rows, h)"),
        "its input changed": (
            lambda name, w, pt, P: entry(name, w.mul_(1), pt, P) + 0 * w.zero_().sum(),
            "your function changes its input",
        ),
    },
}
