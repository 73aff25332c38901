"""Right and wrong solutions of the exercises of notebook 04."""

from itertools import product

import torch
from einops import rearrange, repeat

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
        "course": swin.relative_position_index,
        "cartesian product": index,
        "official": index_official,
        "int32": lambda w: index(w).int(),
        "non-contiguous": lambda w: index(w).T.contiguous().T,
    },
    "4.6": {
        "course": official.inflate_patch,
        "einops": lambda w, pt: repeat(w, "d c h w -> d c t h w", t=pt) / pt,
        "expand, not contiguous": lambda w, pt: (w / pt)[:, :, None].expand(-1, -1, pt, -1, -1),
        "stack": lambda w, pt: torch.stack([w / pt] * pt, 2),
        "convolution": inflate_by_conv,
        "float64": lambda w, pt: w.double().unsqueeze(2).repeat_interleave(pt, 2) / pt,
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
}
