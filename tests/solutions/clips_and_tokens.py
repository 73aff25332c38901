"""Right and wrong solutions of the exercises of notebook 01."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from vt_course.data import clips

from .common import likely, overwrite

# ---------------------------------------------------------------- right solutions


def dense(num_frames, frames, stride, position="centre"):
    span = (frames - 1) * stride + 1
    start = 0 if position == "start" else max(num_frames - span, 0) // 2
    return (start + torch.arange(frames) * stride) % num_frames


def dense_loop(num_frames, frames, stride, position="centre"):
    index = 0
    while position == "centre" and index + 1 + (frames - 1) * stride + index < num_frames - 1:
        index += 1  # as much room before the clip as behind it
    picked = []
    for _ in range(frames):
        picked.append(index)
        index += stride
        while index >= num_frames:
            index -= num_frames
    return torch.tensor(picked)


def dense_numpy(num_frames, frames, stride, position="centre"):
    return torch.from_numpy(clips.dense_indices(num_frames, frames, stride, position)).int()


def dense_tile(num_frames, frames, stride, position="centre"):
    """Repeat the video behind itself, cut the middle out with a slice."""
    room = max(num_frames - (frames - 1) * stride - 1, 0)
    start = {"start": 0, "centre": room // 2}[position]
    return torch.arange(num_frames).repeat(frames * stride)[start::stride][:frames]


def uniform(num_frames, frames):
    return (2 * torch.arange(frames) + 1) * num_frames // (2 * frames)


def uniform_float(num_frames, frames):
    edges = np.linspace(0, num_frames, 2 * frames + 1)[1::2]
    return torch.tensor([math.floor(e + 1e-9) for e in edges])


def uniform_nearest(num_frames, frames):
    line = torch.arange(num_frames, dtype=torch.float64)[None, None]
    return F.interpolate(line, size=frames, mode="nearest-exact")[0, 0].long()


def uniform_repeat(num_frames, frames):
    """2 · frames copies of every frame make segments of whole length."""
    return torch.arange(num_frames).repeat_interleave(2 * frames)[num_frames :: 2 * num_frames]


def boxes(height, width, size):
    top, left = (height - size) // 2, (width - size) // 2
    if width >= height:
        places = [(top, 0), (top, left), (top, width - size)]
    else:
        places = [(0, left), (top, left), (height - size, left)]
    return torch.tensor([(t, x, t + size, x + size) for t, x in places])


def boxes_vector(height, width, size):
    margin = torch.tensor([height, width]) - size
    moves = (margin == margin.max()) if height != width else torch.tensor([False, True])
    steps = torch.arange(3)[:, None] * margin // 2  # (3, 2)
    corner = torch.where(moves, steps, margin // 2)
    return torch.cat([corner, corner + size], 1)


def boxes_by_turning(height, width, size):
    if height > width:
        return boxes_by_turning(width, height, size)[:, [1, 0, 3, 2]]
    t = (height - size) // 2
    out = torch.zeros(3, 4, dtype=torch.int32)
    for i, x in enumerate([0, (width - size) // 2, width - size]):
        out[i] = torch.tensor([t, x, t + size, x + size])
    return out


def patch(x, p, out="b H W (c h w)"):
    return rearrange(x, f"b c (H h) (W w) -> {out}", h=p[0], w=p[1])


def patch_reshape(x, p):
    B, C, H, W = x.shape
    x = x.reshape(B, C, H // p[0], p[0], W // p[1], p[1]).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(B, H // p[0], W // p[1], -1)


def patch_unfold(x, p):
    columns = F.unfold(x, p, stride=p)  # (B, C·ph·pw, N)
    return columns.transpose(1, 2).unflatten(1, (x.shape[2] // p[0], x.shape[3] // p[1]))


def patch_tensor_unfold(x, p):
    x = x.unfold(2, p[0], p[0]).unfold(3, p[1], p[1])  # (B, C, H', W', ph, pw)
    return x.movedim(1, 3).flatten(3)


def patch_convolution(x, p):
    """A convolution whose weights pick one number each."""
    n = x.shape[1] * p[0] * p[1]
    return F.conv2d(x, torch.eye(n).view(n, x.shape[1], *p), stride=p).movedim(1, -1)


def tube(x, p, out="b T H W (c t h w)", split="b c (T t) (H h) (W w)"):
    return rearrange(x, f"{split} -> {out}", t=p[0], h=p[1], w=p[2])


def tube_reshape(x, p):
    (B, C, *sizes), (a, b, c) = x.shape, p
    T, H, W = (n // m for n, m in zip(sizes, p))
    return x.reshape(B, C, T, a, H, b, W, c).permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(B, T, H, W, C * a * b * c)


def tube_unfold(x, p):
    for axis, n in enumerate(p, start=2):
        x = x.unfold(axis, n, n)  # (B, C, T', H', W', pt, ph, pw)
    return x.movedim(1, 4).flatten(4)


def tube_stack(x, p):
    """Patches of every frame, then the frames of a tube side by side, colour by colour."""
    frames = [patch(x[:, :, t], p[1:], "b H W c (h w)") for t in range(x.shape[2])]
    tubes = [torch.stack(frames[t : t + p[0]], 4).flatten(3) for t in range(0, len(frames), p[0])]
    return torch.stack(tubes, 1)


def flat(weight, order):
    return rearrange(weight, f"d c t h w -> d ({' '.join(order)})")


def flat_permute(weight, order):
    return weight.permute(0, *["dcthw".index(a) for a in order]).reshape(weight.shape[0], -1)


def flat_index(weight, order):
    """Which number of the weight stands at each place of the token?"""
    number = torch.arange(weight[0].numel()).reshape(weight.shape[1:])
    return weight.flatten(1)[:, number.permute(*["cthw".index(a) for a in order]).flatten()]


def flat_einsum(weight, order):
    return torch.einsum(f"dcthw->d{order}", weight).flatten(1)


RIGHT = {
    "1.1": {"formula": dense, "loop": dense_loop, "package, int32": dense_numpy, "slice": dense_tile},
    "1.2": {"formula": uniform, "linspace": uniform_float, "nearest-exact": uniform_nearest, "repeat": uniform_repeat},
    "1.3": {"places": boxes, "vector": boxes_vector, "turned": boxes_by_turning},
    "1.4": {
        "einops": patch,
        "reshape": patch_reshape,
        "F.unfold": patch_unfold,
        "Tensor.unfold": patch_tensor_unfold,
        "convolution": patch_convolution,
        "double": lambda x, p: patch(x.double(), p),
    },
    "1.5": {
        "einops": tube,
        "reshape": tube_reshape,
        "unfold": tube_unfold,
        "stack": tube_stack,
        "not contiguous": lambda x, p: tube(x.movedim(2, 0).contiguous().movedim(0, 2), p),
    },
    "1.6": {"einops": flat, "permute": flat_permute, "index": flat_index, "einsum": flat_einsum},
}


# ---------------------------------------------------------------- wrong solutions


def dense_too_long(num_frames, frames, stride, position="centre"):
    start = 0 if position == "start" else max((num_frames - frames * stride) // 2, 0)
    return (start + torch.arange(frames) * stride) % num_frames


def dense_unlooped(num_frames, frames, stride, position="centre"):
    start = max(num_frames - (frames - 1) * stride - 1, 0) // 2 * (position == "centre")
    return torch.arange(start, start + frames * stride, stride)


def dense_from_middle(num_frames, frames, stride, position="centre"):
    start = num_frames // 2 if position == "centre" else 0
    return torch.arange(start, start + frames * stride, stride) % num_frames


def dense_negative(num_frames, frames, stride, position="centre"):
    middle = (num_frames - 1 - (frames - 1) * stride) // 2
    return (torch.arange(frames) * stride + (middle if position == "centre" else 0)) % num_frames


def dense_rounded_up(num_frames, frames, stride, position="centre"):
    room = max(num_frames - (frames - 1) * stride - 1, 0)
    return (math.ceil(room / 2) * (position == "centre") + torch.arange(frames) * stride) % num_frames


def boxes_along_width(height, width, size):
    return boxes(size, width, size) + torch.tensor([1, 0, 1, 0]) * ((height - size) // 2)


def boxes_at_the_edge(height, width, size):
    return boxes(size, width, size) if width >= height else boxes(height, size, size)


def boxes_quarters(height, width, size):
    out = boxes(height, width, size)
    axis = 1 if width >= height else 0
    margin = max(height, width) - size
    out[:, axis] = torch.tensor([margin // 4, margin // 2, 3 * margin // 4])
    out[:, axis + 2] = out[:, axis] + size
    return out


def boxes_rounded(height, width, size):
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    places = (
        [(top, 0), (top, left), (top, width - size)]
        if width >= height
        else [(0, left), (top, left), (height - size, left)]
    )
    return torch.tensor([(t, x, t + size, x + size) for t, x in places])


def boxes_diagonal(height, width, size):
    corner = torch.tensor([(0, 0), ((height - size) // 2, (width - size) // 2), (height - size, width - size)])
    return torch.cat([corner, corner + size], 1)


def view_after_permute(x, p):
    B, C, H, W = x.shape
    return x.view(B, C, H // p[0], p[0], W // p[1], p[1]).permute(0, 2, 4, 1, 3, 5).view(B, H // p[0], W // p[1], -1)


def patch_grid_apart(x, p):
    B, C, H, W = x.shape
    x = x.reshape(B, C, p[0], H // p[0], p[1], W // p[1])
    return x.permute(0, 3, 5, 1, 2, 4).flatten(3)


def patch_by_columns(x, p):
    return patch(x, p, "b W H (c h w)").reshape(patch(x, p).shape)


def patch_unfold_as_it_is(x, p):
    return F.unfold(x, p, stride=p)


def tube_plain(x, p):
    return x.reshape(tube(x, p).shape)


def tube_frames_apart(x, p):
    B, C, T, H, W = x.shape
    halves = x.reshape(B, C, p[0], T // p[0], H // p[1], p[1], W // p[2], p[2])
    return halves.permute(0, 3, 4, 6, 1, 2, 5, 7).flatten(4)


def tube_colour_in_front(x, p):
    (B, C, *sizes), (a, b, c) = x.shape, p
    T, H, W = (n // m for n, m in zip(sizes, p))
    return x.reshape(B, C, T, a, H, b, W, c).permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(B, T, H, W, -1)


def tube_in_place(x, p):
    out = tube(x, p).clone()
    x += 1
    return out


WRONG = {
    "1.1": {
        "frames * stride": (dense_too_long, likely("1.1", "one step too long")),
        "clamp": (
            lambda n, f, s, p: dense_unlooped(n, f, s, p).clamp(0, n - 1),
            likely("1.1", "stay at the last frame"),
        ),
        "no modulo": (dense_unlooped, likely("1.1", "no such frames")),
        "start": (lambda n, f, s, p: dense(n, f, s, "start"), likely("1.1", "always begins at frame 0")),
        "centre": (lambda n, f, s, p: dense(n, f, s), likely("1.1", "always in the centre")),
        "from the middle": (dense_from_middle, likely("1.1", "its own middle")),
        "consecutive": (
            lambda n, f, s, p: (dense(n, f, s, p)[0] + torch.arange(f)) % n,
            likely("1.1", "stride is forgotten"),
        ),
        "rounded up": (dense_rounded_up, likely("1.1", "yours is rounded up")),
        "negative": (dense_negative, likely("1.1", "begins before its frame 0; then")),
        "linspace": (
            lambda n, f, s, p: torch.from_numpy(np.linspace(0, n - 1, f).astype(int)),
            likely("1.1", "spread over"),
        ),
        "SlowFast": (lambda n, f, s, p: torch.from_numpy(clips.mvit_views(n, f, s, 1)[0]), "numbers differ"),
        "float": (lambda *args: dense(*args).float(), "dtype torch.float32, wanted torch.int64\n"),
        "list": (lambda *args: dense(*args).tolist(), "returned a list, not a tensor"),
        "array": (lambda *args: dense(*args).numpy(), "returned a ndarray, not a tensor"),
        "one short": (lambda n, f, s, p: dense(n, f, s, p)[:-1], "shape (7,), wanted (frames,) = (8,)\n"),
    },
    "1.2": {
        "first": (lambda n, f: torch.tensor([i * n // f for i in range(f)]), likely("1.2", "first frame of each")),
        "last": (
            lambda n, f: torch.tensor([((i + 1) * n - 1) // f for i in range(f)]),
            likely("1.2", "last frame of each"),
        ),
        "linspace": (
            lambda n, f: torch.from_numpy(np.linspace(0, n - 1, f).astype(int)),
            likely("1.2", "your frames include the first"),
        ),
        "early rounding": (
            lambda n, f: torch.tensor([(n // f) * i + (n // f) // 2 for i in range(f)]),
            likely("1.2", "rounded too early"),
        ),
        "rounded twice": (
            lambda n, f: torch.tensor([i * n // f + n // f // 2 for i in range(f)]),
            likely("1.2", "rounded twice"),
        ),
        "float step": (lambda n, f: ((torch.arange(f) + 0.5) * (n / f)).long(), likely("1.2", "floating-point")),
        "ceil": (
            lambda n, f: torch.tensor([min(math.ceil((i + 0.5) * n / f), n - 1) for i in range(f)]),
            likely("1.2", "rounded up"),
        ),
        "SlowFast": (lambda n, f: torch.from_numpy(clips.slowfast_segments(n, f)), likely("1.2", "SlowFast")),
        "looped": (
            lambda n, f: uniform(n, f) if n >= f else torch.tensor([i % n for i in range(f)]),
            likely("1.2", "loops"),
        ),
        "stride": (
            lambda n, f: torch.tensor([i * max(n // f, 1) % n for i in range(f)]),
            likely("1.2", "fixed stride"),
        ),
        "float": (lambda n, f: (torch.arange(f) + 0.5) * n / f, "dtype torch.float32, wanted torch.int64\n"),
        "edges": (lambda n, f: torch.arange(f + 1) * n // f, "shape (5,), wanted (frames,) = (4,)\n"),
    },
    "1.3": {
        "columns first": (lambda h, w, s: boxes(h, w, s)[:, [1, 0, 3, 2]], likely("1.3", "rows come first")),
        "turned": (lambda h, w, s: boxes(w, h, s), likely("1.3", "rows come first")),
        "sizes": (
            lambda h, w, s: torch.cat([boxes(h, w, s)[:, :2], torch.full((3, 2), s)], 1),
            likely("1.3", "not height and width"),
        ),
        "inclusive": (
            lambda h, w, s: torch.cat([boxes(h, w, s)[:, :2], boxes(h, w, s)[:, 2:] - 1], 1),
            likely("1.3", "one too small"),
        ),
        "along the width": (boxes_along_width, likely("1.3", "always move along the width")),
        "at the edge": (boxes_at_the_edge, likely("1.3", "at its beginning")),
        "mmaction's order": (
            lambda h, w, s: boxes(h, w, s)[torch.tensor([0, 2, 1])],
            likely("1.3", "centre comes last"),
        ),
        "rounded up": (boxes_rounded, likely("1.3", "round down")),
        "quarters": (boxes_quarters, likely("1.3", "1/4")),
        "diagonal": (boxes_diagonal, likely("1.3", "diagonal")),
        "centre only": (lambda h, w, s: boxes(h, w, s)[1], "shape (4,), wanted (3, 4)\n"),
        "corners": (lambda h, w, s: boxes(h, w, s)[:, :2], "shape (3, 2), wanted (3, 4)"),
    },
    "1.4": {
        "reshape": (lambda x, p: x.reshape(patch(x, p).shape), likely("1.4", "never permuted")),
        "channels last": (lambda x, p: patch(x, p, "b H W (h w c)"), likely("1.4", "(row, column, colour)")),
        "colour between": (lambda x, p: patch(x, p, "b H W (h c w)"), likely("1.4", "(row, colour, column)")),
        "transposed": (lambda x, p: patch(x, p, "b H W (c w h)"), likely("1.4", "transposed")),
        "grid apart": (patch_grid_apart, likely("1.4", "grid apart")),
        "by columns": (patch_by_columns, likely("1.4", "column by column")),
        "a token a colour": (
            lambda x, p: patch(x, p, "b c H W (h w)").reshape(patch(x, p).shape),
            likely("1.4", "colours stay apart"),
        ),
        "view": (view_after_permute, "use `reshape`"),
        "unfold as it is": (
            patch_unfold_as_it_is,
            "shape (1, 48, 4), wanted (B, H/ph, W/pw, C·ph·pw) = (1, 8/4, 8/4, 3·4·4)",
        ),
        "flat": (lambda x, p: patch(x, p).flatten(1, 2), "shape (1, 4, 48), wanted"),
        "channels first": (
            lambda x, p: patch(x, p).movedim(-1, 1),
            "shape (1, 48, 2, 2), wanted (B, H/ph, W/pw, C·ph·pw) = (1, 8/4, 8/4, 3·4·4) = (1, 2, 2, 48)\n"
            "  Likely: your axes are in another order: finish with `.permute(0, 2, 3, 1)`\n",
        ),
        "NaN": (lambda x, p: patch(x, p) * torch.nan, "got nan, wanted "),
        "in place": (overwrite(patch), "changes its input"),
    },
    "1.5": {
        "reshape": (tube_plain, likely("1.5", "never permuted")),
        "(H W T)": (lambda x, p: tube(x, p, "b T H W (c h w t)"), likely("1.5", "run (H W T)")),
        "frames first": (lambda x, p: tube(x, p, "b T H W (t c h w)"), likely("1.5", "frames come before")),
        "channels last": (lambda x, p: tube(x, p, "b T H W (t h w c)"), likely("1.5", "colours come last")),
        "transposed": (lambda x, p: tube(x, p, "b T H W (c t w h)"), likely("1.5", "transposed")),
        "halves": (tube_frames_apart, likely("1.5", "T/pt apart")),
        "grid apart": (lambda x, p: tube(x, p, split="b c (t T) (h H) (w W)"), likely("1.5", "grid apart")),
        "tubes (H W T)": (
            lambda x, p: tube(x, p, "b H W T (c t h w)").reshape(tube(x, p).shape),
            likely("1.5", "listed (H W T)"),
        ),
        "tubes (T W H)": (
            lambda x, p: tube(x, p, "b T W H (c t h w)").reshape(tube(x, p).shape),
            likely("1.5", "listed (T W H)"),
        ),
        "C in front": (tube_colour_in_front, likely("1.5", "C belongs inside the token")),
        "no time": (lambda x, p: patch(x[:, :, 0], p[1:]), "shape (1, 2, 2, 48), wanted"),
        "integers": (lambda x, p: tube(x, p).long(), "dtype torch.int64, wanted torch.float32\n"),
        "in place": (tube_in_place, "changes its input"),
    },
    "1.6": {
        "flatten": (lambda w, o: w.flatten(1), likely("1.6", "is ignored")),
        "inverse": (
            lambda w, o: w.permute(0, *[o.index(a) + 1 for a in "cthw"]).flatten(1),
            likely("1.6", "inverse one"),
        ),
        "reversed": (lambda w, o: flat(w, "".join(reversed(o))), likely("1.6", "reverse of `order`")),
        "mirrored": (lambda w, o: flat(torch.flip(w, (2, 3, 4)), o), likely("1.6", "mirrored")),
        "transposed": (lambda w, o: flat(w, o).mT, likely("1.6", "result is transposed")),
        "reshaped": (lambda w, o: flat(w, o).mT.reshape(w.shape[0], -1), likely("1.6", "was reshaped")),
        "all flat": (
            lambda w, o: flat(w, o).flatten(),
            "shape (576,), wanted (D, C·pt·ph·pw) = (6, 3·2·4·4) = (6, 96)",
        ),
        "five axes": (lambda w, o: w.permute(0, *["dcthw".index(a) for a in o]), "shape (6, 3, 2, 4, 4), wanted"),
        "in place": (overwrite(flat), "changes its input"),
    },
}
