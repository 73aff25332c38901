"""The fast pieces of the models. Each computes what a short literal expression says, in less time or memory.

The docstring of a piece gives the expression, why the piece is faster, and by how much. `tests/test_fast.py` proves that
both agree, and that no piece depends on the size of the batch. Who reads for the paper can skip this file.

Five names serve the models: `cut` and `paste`, `attention`, `attention_with_positions`, `depthwise`. How many times as fast
they are, forward and forward with backward, was measured on one thread of a CPU in float32 by `python tests/test_fast.py`.
"""
from functools import lru_cache
from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

from vt_course.models.layers import Size

CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)         # torch 2.6 has the second only
KEPT_SCORES = 2**23                      # most scores (32 MB) that one attention keeps for its backward pass on a CPU


def recorded() -> bool:
    """Whether operations are being recorded: by compilers and exporters, or the transforms of torch.func (grad, vmap, jvp)."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()


def own_backward(x: Tensor) -> bool:
    """Whether `x` takes one of our own backward passes, which are faster on a CPU. Who records sees into PyTorch's own only."""
    return x.device.type == "cpu" and torch.is_grad_enabled() and not recorded()


# ---------------------------------------------------------------- rolled windows (Swin, section 3.2)

def cut(x: Tensor, window: Size, shift: Size) -> tuple[Tensor, list[tuple[int, Tensor | None]], tuple[Tensor, Tensor]]:
    """`window_partition(torch.roll(x, -shift), window)`, with the windows sorted by the kind of their `shift_mask`.

    (B, *size, C) -> windows (B·nW, N, C), groups, order. The next `count` windows have the mask of their group
    (count, mask), an (N, N) or None. `paste` needs the order. Every size must be a multiple of its window.

    One gather takes the place of two copies. With `paste`, on a map of 8 x 56 x 56 x 96: 2.5 and 2.7 times as fast. Along a
    shifted axis only the last window straddles the seam of the roll. So there are at most 2^axes kinds of windows (8 for
    video) however large the map, most windows have no mask, and `attention` adds a mask to the bias once for each kind.
    """
    B, *size, C = x.shape
    N = prod(window)
    # Inside torch.export and other tracers, tensors are stand-ins of another class. Those must not be remembered.
    kinds = (known_kinds if type(x) is Tensor else kinds_of_windows)(tuple(size), window, shift, x.device, x.dtype)
    first = prod(size) * torch.arange(B, device=x.device)[:, None]    # (B, 1): the first row of each sample
    index = torch.cat([(first + rows).flatten() for rows, _ in kinds])             # (B·L,)
    inverse = torch.empty_like(index).scatter_(0, index, torch.arange(index.shape[0], device=x.device))
    windows = permute(x.reshape(-1, C), index, inverse).view(-1, N, C)
    return windows, [(B * (rows.shape[0] // N), mask) for rows, mask in kinds], (index, inverse)


def paste(windows: Tensor, size: Size, order: tuple[Tensor, Tensor]) -> Tensor:
    """Undo `cut`: `torch.roll(window_reverse(windows, window, size), shift)`, (B·nW, N, C) -> (B, *size, C)."""
    (index, inverse), C = order, windows.shape[-1]
    return permute(windows.reshape(-1, C), inverse, index).view(-1, *size, C)


def known_kinds(*key) -> list[tuple[Tensor, Tensor | None]]:
    """`kinds_of_windows`, computed once for each map.

    Under `torch.compile` this runs once, while tracing; its tensors become constants of the graph.
    """
    return kept_kinds(*key)


def kinds_of_windows(size: Size, window: Size, shift: Size, device: torch.device,
                     dtype: torch.dtype) -> list[tuple[Tensor, Tensor | None]]:
    """The kinds of windows of one rolled map: [(rows, mask), ...], first the kind without a mask.

    `rows` (count·N,) are the rows of the flattened map (L, C) that make the windows of this kind, one after the other.
    """
    row = torch.zeros((), dtype=torch.long, device=device)
    for axis, (s, w, sh) in enumerate(zip(size, window, shift)):
        shape = [1] * 2 * len(size)
        shape[axis], shape[len(size) + axis] = s // w, w
        came_from = (torch.arange(s, device=device) + sh) % s        # position i of the rolled map was there
        row = row * s + came_from.view(shape)                         # (n1, n2, .., w1, w2, ..)
    grid, kinds = [s // w for s, w in zip(size, window)], []
    for straddles in product(*[(False, True) if sh else (False,) for sh in shift]):        # the seam, along each axis
        which = tuple(slice(n - 1, n) if last else slice(0, n - 1 if sh else n)
                      for n, sh, last in zip(grid, shift, straddles))
        sides = torch.meshgrid(*[torch.arange(w, device=device) >= w - sh * last
                                 for w, sh, last in zip(window, shift, straddles)], indexing="ij")
        sides = torch.stack(sides, -1).view(-1, len(size))            # (N, axes): behind the seam or before it
        apart = (sides[:, None] != sides).any(-1)                     # (N, N)
        mask = torch.zeros(apart.shape, device=device, dtype=dtype).masked_fill_(apart, -100.0)
        kinds.append((row[which].flatten(), mask if any(straddles) else None))
    return kinds


kept_kinds = lru_cache(maxsize=64)(torch.inference_mode(False)(kinds_of_windows))      # must also serve a later training step
known_kinds._dynamo_marked_constant = True           # torch.compiler.assume_constant_result, but that imports the compiler


class Permute(torch.autograd.Function):
    """`x[index]`. Knowing the inverse makes the backward pass a gather as well; PyTorch alone would have to scatter."""

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(index, inverse)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        index, inverse = ctx.saved_tensors
        return Permute.apply(grad, inverse, index), None, None


def permute(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """`x[index]`, the rows of x in another order, (n, C) -> (n, C)."""
    if is_exporting() or torch._C._are_functorch_transforms_active():
        return x.index_select(0, index)
    return Permute.apply(x, index, inverse)


# ---------------------------------------------------------------- attention in windows (Swin, equation 4)

def attention(qkv: Tensor, bias: Tensor | None, groups: list[tuple[int, Tensor | None]]) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias + mask) v in windows: (B·nW, N, 3, h, d) -> (B·nW, N, h, d).

    The bias is (h, N, N), or None for none. The next `count` windows have the mask of their group (count, mask), which
    is (N, N) or None.

    PyTorch's fused kernel never holds all N x N scores. It gives no gradient to a bias on a CPU, so training there has a
    backward pass of its own. 64 windows of 8 x 7 x 7: 1.8 and 2.5 times as fast; 64 windows of 7 x 7: 0.7 and 1.0 times.
    """
    N = qkv.shape[1]
    bias = qkv.new_zeros(1, N, N) if bias is None else bias
    counts = [count for count, _ in groups]
    biases = [(bias if mask is None else bias + mask).to(qkv.dtype) for _, mask in groups]      # (h or 1, N, N)
    if bias.requires_grad and own_backward(qkv):
        return BiasedAttention.apply(qkv, counts, *biases)
    return fused_attention(qkv, counts, biases)


def fused_attention(qkv: Tensor, counts: list[int], biases: list[Tensor]) -> Tensor:
    """`attention` in PyTorch's fused kernel. `counts[k]` windows in a row have the bias `biases[k]`, (h or 1, N, N)."""
    outs = []
    for part, bias in zip(qkv.split(counts), biases):
        q, k, v = part.permute(2, 0, 3, 1, 4)                         # 3 x (n, h, N, d)
        outs.append(F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None]).transpose(1, 2))
    return torch.cat(outs) if len(outs) > 1 else outs[0]


class BiasedAttention(torch.autograd.Function):
    """`fused_attention` for training on a CPU, where PyTorch has no fused kernel for a bias that learns.

    PyTorch's general way makes several passes over the N x N scores, each into new memory. Here they are changed in place.
    More than `KEPT_SCORES` (video) are not kept for the backward pass: computing them again, a few windows at a time so
    that they stay in the cache, is faster than fetching them from memory.
    """

    @staticmethod
    def forward(ctx, qkv: Tensor, counts: list[int], *biases: Tensor) -> Tensor:
        BW, N, _, h, d = qkv.shape
        ctx.counts, ctx.again = counts, BW * h * N * N > KEPT_SCORES
        if ctx.again:
            out = fused_attention(qkv.detach(), counts, [bias.detach() for bias in biases])
            ctx.save_for_backward(out, qkv, *biases)
        else:
            q, k, v = heads_first(qkv)                                # 3 x (B·nW·h, N, d)
            p = qkv.new_empty(BW, h, N, N)
            for part, bias in zip(p.split(counts), biases):
                part.copy_(bias)
            p = softmax_scores(q, k, p)                               # (B·nW·h, N, N)
            out = (p @ v).view(BW, h, N, d).transpose(1, 2).contiguous()           # as `proj` needs it: both keep one tensor
            ctx.save_for_backward(out, q, k, v, p)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        BW, N, h, d = grad.shape
        dqkv = grad.new_empty(BW, N, 3, h, d)
        if ctx.again:
            out, qkv, *biases = ctx.saved_tensors
            dbiases = [torch.zeros_like(bias) for bias in biases]
            few, first = max(1, 2**18 // (h * N * N)), 0              # 1 MB of scores
            for count, bias, dbias in zip(ctx.counts, biases, dbiases):
                for start in range(first, first + count, few):
                    at = slice(start, min(start + few, first + count))
                    q, k, v = heads_first(qkv[at])                    # 3 x (n·h, N, d)
                    p = softmax_scores(q, k, bias.repeat(at.stop - start, 1, 1, 1))
                    ds = attention_gradients(q, k, v, p, out[at], grad[at], dqkv[at])
                    dbias += ds.sum(0) if len(ds) > 1 else ds[0]
                first += count
        else:
            out, q, k, v, p = ctx.saved_tensors
            ds = attention_gradients(q, k, v, p, out, grad, dqkv)
            dbiases = [part.sum(0) for part in ds.split(ctx.counts)]
        return dqkv, None, *[dbias.mul_(d**0.5) for dbias in dbiases]


def heads_first(qkv: Tensor) -> Tensor:
    """(n, N, 3, h, d) -> (3, n·h, N, d)."""
    return qkv.permute(2, 0, 3, 1, 4).reshape(3, -1, qkv.shape[1], qkv.shape[4])


def softmax_scores(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias), written over `bias`: q and k (n·h, N, d), bias (n, h, N, N) -> (n·h, N, N)."""
    scores = bias.view(-1, *bias.shape[2:]).baddbmm_(q, k.mT, alpha=q.shape[-1]**-0.5)
    return torch.softmax(scores, -1, out=scores)


def attention_gradients(q: Tensor, k: Tensor, v: Tensor, p: Tensor, out: Tensor, grad: Tensor, dqkv: Tensor) -> Tensor:
    """Writes the gradients of q, k and v into `dqkv` (n, N, 3, h, d). Returns the scores' gradient divided by sqrt(d), (n, h, N, N).

    `BiasedAttention.backward` multiplies it by sqrt(d) again for the bias. q, k and v are (n·h, N, d), the softmax p is
    (n·h, N, N), the result `out` and its gradient `grad` are (n, N, h, d).
    """
    (n, N, h, d), scale = grad.shape, grad.shape[-1]**-0.5
    # The gradient of the softmax is ds = p (dp - sum(p dp)). The sum over keys of p dp equals the sum over channels of out dout.
    row = (grad * out).sum(-1).transpose(1, 2).reshape(-1, N, 1)      # (n·h, N, 1)
    grad = grad.transpose(1, 2).reshape(-1, N, d)                     # (n·h, N, d)
    ds = torch.baddbmm(row, grad, v.mT, beta=-scale, alpha=scale).mul_(p)          # (n·h, N, N)
    for part, value in zip(dqkv.permute(2, 0, 3, 1, 4), (ds @ k, ds.mT @ q, p.mT @ grad)):     # part: (n, h, N, d)
        part.copy_(value.view(n, h, N, d))
    return ds.view(n, h, N, N)


# ---------------------------------------------------------------- relative positions in pooling attention (MViTv2, section 4.1)

def attention_with_positions(q: Tensor, k: Tensor, v: Tensor, scores: dict[str, Tensor], size_k: Size, places: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + E) v, where E sums the scores of a query for the places of a key on each axis.

    For the query at (t, h, w) and the key at (t', h', w'),

        E = scores["t"][..., t, h, w, t'] + scores["h"][..., t, h, w, h'] + scores["w"][..., t, h, w, w']

    or as many of the three as there are; E is 0 for the class token. q, k, v: (B, h, cls + N, d). `scores[axis]`:
    (B, h, T, H, W, places on the axis), with (T, H, W) the map of the queries. `size_k` is the map of the keys, and
    `places` is `places_of_keys`. Returns (B, h, cls + N, d).

    The expression writes all pairs of queries and keys once for each axis and once for each sum. The pieces write them twice
    or, in training, never. 6272 queries, 392 keys: 3.0 and 1.9 times as fast.
    """
    if torch.is_grad_enabled():
        return positions_in_the_product(q, k, v, list(scores.values()), places)
    return positions_as_mask(q, k, v, scores, size_k)


def places_of_keys(axes: str, size: Size, cls: int) -> Tensor:
    """For each key of a map of `size`, a 1 at its place on each of the `axes`, 0 elsewhere: (cls + N, places)."""
    grid = torch.meshgrid(*[torch.arange(n) for n in size], indexing="ij")
    places = [torch.eye(n)[at.flatten()] for axis, n, at in zip("thw", size, grid) if axis in axes]
    return F.pad(torch.cat(places, 1), (0, 0, cls, 0))


def positions_as_mask(q: Tensor, k: Tensor, v: Tensor, scores: dict[str, Tensor], size_k: Size) -> Tensor:
    """`attention_with_positions` without gradients: E is the mask of a fused kernel, written once.

    Programs that record operations do not all see what is written into a view. The classic exporter of ONNX loses it
    without a word, and so it lost the positions. For them E is put together from parts, which takes one more pass.
    """
    first, *rest = [of_axis.unflatten(-1, [-1 if a == axis else 1 for a in "thw"])         # (B, h, T, H, W, t, h, w)
                    for axis, of_axis in scores.items()]
    cls, size_q = q.shape[2] - prod(first.shape[2:5]), first.shape[2:5]
    first, rest = first.to(q.dtype).expand(*first.shape[:5], *size_k), sum(rest)           # rest broadcasts: it is smaller than E
    if recorded():
        E = (first + rest).to(q.dtype).flatten(5).flatten(2, 4)       # (B, h, N', Nk)
        E = torch.cat([E.new_zeros(*E.shape[:3], cls), E], 3)         # (B, h, N', cls + Nk)
        E = torch.cat([E.new_zeros(*E.shape[:2], cls, E.shape[3]), E], 2)          # (B, h, cls + N', cls + Nk)
    else:
        E = q.new_empty(*q.shape[:3], k.shape[2])                     # (B, h, cls + N', cls + Nk)
        E[:, :, :cls] = E[:, :, :, :cls] = 0
        torch.add(first, rest, out=E[:, :, cls:, cls:].unflatten(3, size_k).unflatten(2, size_q))
    return F.scaled_dot_product_attention(q, k, v, E)


def positions_in_the_product(q: Tensor, k: Tensor, v: Tensor, scores: list[Tensor], places: Tensor) -> Tensor:
    """`attention_with_positions` for training: E becomes a part of the product of queries and keys and is never written out.

    No fused kernel on a CPU passes gradients to a mask. So the query is extended by its score for every place on an axis,
    the key by a 1 at its place and 0 elsewhere: q'.k' = q.k + E. This multiplies more; without gradients it is slower.
    """
    d = q.shape[-1]
    extra = torch.cat(scores, -1).flatten(2, 4) * d**0.5              # (B, h, N', places)
    q = torch.cat([q, F.pad(extra, (0, 0, q.shape[2] - extra.shape[2], 0))], -1)
    k = torch.cat([k, places.to(k.dtype).expand(*k.shape[:3], -1)], -1)
    v = F.pad(v, (0, places.shape[1]))                                # the kernel wants one width
    return F.scaled_dot_product_attention(q, k, v, scale=d**-0.5)[..., :d]


# ---------------------------------------------------------------- depthwise convolution (UniFormer, equation 6; MViT's pooling)

def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Size) -> Tensor:
    """`F.conv3d(x, weight, bias, stride, kernel // 2, groups=C)`, or `F.conv2d`: one filter for each channel.

    (B, C, *size), (C, 1, *kernel) -> (B, C, *smaller), x in channels-last memory. On a CPU, PyTorch's backward pass takes 10
    to 40 times as long as its forward pass; ours is made of convolutions that have a fast kernel. Forward with backward on
    8 x 56 x 56 places: 1.9 times as fast with filters of 5 x 5 x 5, 2.2 times with 3 x 3 x 3 at a stride of 1 x 2 x 2.
    """
    if not own_backward(x):
        return convolve(x, weight, bias, stride)
    if torch.is_autocast_enabled("cpu"):         # as autocast does to PyTorch's convolutions, so that backward sees one dtype
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), bias if bias is None else bias.to(dtype)
    return DepthwiseFunction.apply(x, weight, bias, stride)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Size) -> Tensor:
    """The literal expression of `depthwise`."""
    conv = F.conv3d if x.ndim == 5 else F.conv2d
    return conv(x, weight, bias, stride, tuple(k // 2 for k in weight.shape[2:]), groups=len(weight))


class DepthwiseFunction(torch.autograd.Function):
    """`convolve` with a faster backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Size) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return convolve(x, weight, bias, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        x, weight = ctx.saved_tensors
        kernel = weight.shape[2:]
        g = g.to(x.dtype).contiguous(memory_format=CHANNELS_LAST[len(kernel)])
        dx = dw = db = None
        if max(ctx.stride) > 2 or min(kernel[-2:]) < 3 or any(k % 2 == 0 for k in kernel):
            dx, dw = gradients_by_tap(x, weight, g, ctx.stride)
        else:
            if ctx.needs_input_grad[0]:
                dx = input_gradient(x.shape, weight, g, ctx.stride)
            if ctx.needs_input_grad[1]:
                dw = filter_gradient(x, g, kernel, ctx.stride)
        if ctx.needs_input_grad[2]:
            db = g.sum((0, *range(2, g.ndim)))
        return dx, dw, db, None


def input_gradient(shape: Size, weight: Tensor, g: Tensor, stride: Size) -> Tensor:
    """Gradient of x, which has `shape`: g (B, C, *smaller) convolved with the mirrored filters, of odd sides.

    At the places that the stride left out, g has zeros.
    """
    B, C, *size = shape
    if max(stride) > 1:
        spread = g.new_zeros(B, *size, C).movedim(-1, 1)              # (B, C, *size)
        spread[(..., *[slice(None, None, s) for s in stride])] = g
        g = spread
    return convolve(g, weight.flip(tuple(range(2, g.ndim))), None, (1,) * (g.ndim - 2))


def filter_gradient(x: Tensor, g: Tensor, kernel: Size, stride: Size) -> Tensor:
    """Gradient of filters of odd sides, sums of x times shifted g: (B, C, *size), (B, C, *smaller) -> (C, 1, *kernel).

    Each offset in time is a problem in two dimensions, and PyTorch has a fast kernel for filters of 3 x 3. Larger filters
    are put together from pieces of 3 x 3: 5 x 5 from four, which share the middle row and column.
    """
    if x.ndim == 4:                                                   # an image is a clip of one frame
        return filter_gradient(x[:, :, None], g[:, :, None], (1, *kernel), (1, *stride))[:, :, 0]
    C, (T, H, W) = g.shape[1], [s * (n - 1) + 1 for s, n in zip(stride, g.shape[2:])]      # what the first tap sees
    x = F.pad(x, [p for k in reversed(kernel) for p in (k // 2, k // 2)]).movedim(1, -1)   # (B, T+, H+, W+, C)
    g = g.transpose(1, 2).flatten(0, 1)                               # (B·T', C, H', W')
    dw = x.new_empty(C, 1, *kernel)
    for i, j in product(range(0, kernel[1] - 2, 2), range(0, kernel[2] - 2, 2)):
        piece = x[:, :, i:i + H + 2, j:j + W + 2].contiguous()
        for t in range(kernel[0]):
            frames = piece[:, t:t + T:stride[0]].flatten(0, 1).movedim(-1, 1)              # (B·T', C, H+2, W+2)
            dw[:, :, t, i:i + 3, j:j + 3] = conv2d_weight(frames, (C, 1, 3, 3), g, stride=stride[1:], groups=C)
    return dw


def gradients_by_tap(x: Tensor, weight: Tensor, g: Tensor, stride: Size) -> tuple[Tensor, Tensor]:
    """Both gradients for any kernel and stride, one tap of the filter after the other.

    At large strides the map in `input_gradient` would be mostly zeros.
    """
    kernel, size = weight.shape[2:], x.shape[2:]
    x = F.pad(x, [p for k in reversed(kernel) for p in (k // 2, k // 2)]).movedim(1, -1)   # (B, *size+, C)
    g = g.movedim(1, -1)                                              # (B, *smaller, C)
    dx, dw = torch.zeros_like(x), torch.empty_like(weight)
    for tap in product(*map(range, kernel)):
        seen = (slice(None), *[slice(i, i + s * (n - 1) + 1, s) for i, s, n in zip(tap, stride, g.shape[1:-1])])
        dx[seen].addcmul_(g, weight[:, 0][(slice(None), *tap)])
        dw[:, 0][(slice(None), *tap)] = (x[seen] * g).flatten(0, -2).sum(0)
    dx = dx[(slice(None), *[slice(k // 2, k // 2 + n) for k, n in zip(kernel, size)])]
    return dx.movedim(-1, 1), dw
