"""Checks of structure: the sizes that a running model has inside, who sees whom, and equations against literal loops.

No check returns what a configuration says. Each runs a model or a part of one and reads what came out, so that a change
of the code behind the configuration is noticed. In the equations all weights are random and all numbers float64.
"""

import re
from itertools import groupby, product
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vt_course.claims.ledger.running import Refuted, build, check, fill, noise, passed, plain, seen_by, seen_by_each
from vt_course.models import mvit, official, swin, timesformer, uniformer, video_swin
from vt_course.models.zoo import ZOO

EQUAL = 1e-9  # in float64, after a few layers

# ---------------------------------------------------------------- sizes


@check
def output(model: str, at: str, settings=None, size=None) -> list[int]:
    """The shape of what the module `at` gave out, without the batch axis."""
    seen = passed(model, settings, size).outputs
    if at not in seen:
        raise Refuted(f"nothing passes a module {at!r} of {model}")
    return list(seen[at][1:])


@check
def stage_maps(model: str, settings=None, size=None) -> list[list[int]]:
    """The shapes of `features`, without the batch axis."""
    with torch.no_grad():
        maps = build(model, settings).features(torch.zeros(1, *(size or ZOO[model].input), device="meta"))
    return [list(each.shape[1:]) for each in maps]


@check
def attention(model: str, what: str, settings=None, size=None, within: str = "") -> list[int]:
    """For each attention of one pass, its number of groups, heads, queries, keys or channels of a head (`what`: groups,
    heads, queries, keys, d); values that repeat are listed once.

    `groups` are the windows or groups that are computed, `kinds` those among them that have masks of their own.
    `within`: only modules whose name contains this pattern.
    """
    calls = [call for call in passed(model, settings, size).attention if re.search(within, call["name"])]
    return [value for value, _ in groupby(call[what] for call in calls)]


@check
def blocks(model: str, pattern: str, settings=None) -> list[int]:
    """How many modules ran whose whole name is `pattern`, counted for each value of its group."""
    names = [found for name in passed(model, settings).outputs if (found := re.fullmatch(pattern, name))]
    counts = {}
    for found in names:
        counts[found[1]] = counts.get(found[1], 0) + 1
    return [counts[key] for key in sorted(counts, key=int)]


@check
def blocks_by_heads(model: str, settings=None) -> list[int]:
    """How many attentions in a row have the same number of heads: in MViT, the blocks of each stage."""
    calls = passed(model, settings).attention
    return [len(list(group)) for _, group in groupby(calls, key=lambda call: call["heads"])]


@check
def widths(model: str, modules: str, settings=None) -> list[int]:
    """The channels (last axis) that come out of the modules whose whole name is the pattern; equal neighbours once."""
    seen = passed(model, settings).outputs
    return [value for value, _ in groupby(seen[name][-1] for name in seen if re.fullmatch(modules, name))]


@check
def input_values_of_a_token(model: str, size: list[int]) -> int:
    """On how many numbers of the input a token in the middle depends. `size`: (C, T, H, W) or (C, H, W), in pixels."""
    meta = build(model)
    patch = getattr(meta, "patch_embed", None) or meta.patch_embed1
    patch = fill(patch.to_empty(device="cpu").double())
    x = noise(1, *size).requires_grad_()
    out = patch(x)
    if isinstance(meta, uniformer.UniFormer):
        out = out.movedim(1, -1)  # (B, T, H, W, D)
    stride = (*[1] * (len(size) - 1 - len(patch.proj.stride)), *patch.proj.stride)
    grid = [n // s for n, s in zip(size[1:], stride)]
    middle = 0
    for n in grid:
        middle = middle * n + n // 2
    out.reshape(-1, out.shape[-1])[middle].square().sum().backward()
    return int((x.grad != 0).sum())


@check
def bias_rows(window: list[int]) -> int:
    """How many rows of the bias table the pairs of tokens of one whole window use: those that get a gradient."""
    window = tuple(window)
    attn = fill(swin.WindowAttention(4, window, (0,) * len(window), 1).double())
    attn(noise(1, *window, 4)).square().sum().backward()
    used = attn.relative_position_bias_table.grad.abs().amax(1) > 0
    if not used.all():
        raise Refuted(f"{int((~used).sum())} of {len(used)} rows of the table are not used")
    return int(used.sum())


@check
def learned_values(model: str, name: str, settings=None) -> list[int]:
    """The shape of a parameter that the model uses: its gradient from a random input has no row of zeros only."""
    built = build(model, settings, "cpu")
    built(noise(2, *input_of(built, model))).square().sum().backward()
    grad = dict(built.named_parameters())[name].grad
    if grad is None or not grad.any():
        raise Refuted(f"{name} of {model} has no influence on the scores")
    return list(grad.shape)


def input_of(built: nn.Module, model: str) -> tuple[int, ...]:
    """The shape of an input of `built`: MViT takes one size only."""
    return (built.in_channels, *built.input_size) if isinstance(built, mvit.MViT) else ZOO[model].input


@check
def entries(model: str, pattern: str, settings=None) -> int:
    """How many names of parameters contain `pattern`."""
    return sum(bool(re.search(pattern, name)) for name, _ in build(model, settings).named_parameters())


# ---------------------------------------------------------------- who sees whom


def window_attention(window: list[int], shift: list[int]) -> nn.Module:
    return fill(swin.WindowAttention(4, tuple(window), tuple(shift), 1).double())


@check
def groups_that_see_each_other(window: list[int], shift: list[int], size: list[int]) -> int:
    """The number of groups of tokens: inside a group all tokens see each other, and nothing outside."""
    attn = window_attention(window, shift)

    def tokens(x):
        return attn(x.unflatten(1, size)).flatten(1, -2)

    sees = seen_by_each(tokens, noise(1, prod(size), 4))
    sets = {tuple(row.nonzero().flatten().tolist()) for row in sees}
    if sorted(token for group in sets for token in group) != list(range(prod(size))):
        raise Refuted("the sets overlap, or miss a token")
    return len(sets)


@check
def windows_computed(window: list[int], shift: list[int], size: list[int]) -> int:
    """How many windows the roll leaves to be computed."""
    x = noise(1, *size, 4)
    return len(swin.roll_and_cut(x, tuple(window), tuple(shift))[0])


@check
def masked_share(window: list[int], shift: list[int], size: list[int]) -> float:
    """The share of windows, after the roll, in which some pairs may not attend."""
    _, groups, _ = swin.roll_and_cut(noise(1, *size, 4), tuple(window), tuple(shift))
    total = sum(count for count, _ in groups)
    return sum(count for count, mask in groups if mask is not None and bool((mask < 0).any())) / total


@check
def mask_value(window: list[int], shift: list[int], size: list[int]) -> float:
    """What the mask adds to the score of a pair that may not attend, with the sign of the score."""
    _, groups, _ = swin.roll_and_cut(noise(1, *size, 4), tuple(window), tuple(shift))
    return min(float(mask.min()) for _, mask in groups if mask is not None)


@check
def reach(model: str, at: list[str], size: list[int], place: list[int], settings=None, channels_first=False) -> int:
    """How many places of a map notice a change at `place`, after the blocks `at` of a mini, one after the other."""
    built = build(model, settings, "cpu")
    parts = [built.get_submodule(name) for name in at]
    width = next(p.numel() for name, p in parts[0].named_parameters() if name == "norm1.weight")

    def through(x):
        for part in parts:
            x = part(x)
        return x

    shape = (1, width, *size) if channels_first else (1, *size, width)
    axes = tuple(range(2, 2 + len(size))) if channels_first else tuple(range(1, 1 + len(size)))
    return int(seen_by(through, noise(*shape), tuple(place), axes).sum())


@check
def relation_reach(tube: int, size: list[int]) -> int:
    """How many places notice a change of the place in the middle, in UniFormer's local relation: a linear layer V, the
    affinity A of a tube, which is a convolution, and a linear layer U. There is no position embedding."""
    block = fill(uniformer.LocalBlock(3, 6, 4.0, (tube,) * 3, True, True, False, 0.0).double().eval())
    place = tuple(n // 2 for n in size)
    return int(seen_by(block.relate, noise(1, 6, *size), place, (2, 3, 4)).sum())


@check
def step_reach(attention: str, step: str, size: list[int]) -> int:
    """Of one step of a TimeSformer block: how many patches, of (H, W, T) patches, notice one of them."""
    block = one_block(attention)
    *first, last = timesformer.SCHEMES[attention] or [""]
    for name in set(first) - {step}:
        block.get_submodule(f"{name}_fc").weight.data.zero_()
    if step != last and timesformer.SCHEMES[attention]:
        block.attn.proj.weight.data.zero_()
    tokens = noise(1, 1 + prod(size), 8)
    map_of = seen_by(lambda x: block(x, tuple(size)), tokens, (1,), (1,))
    return int(map_of[1:].sum())


def one_block(attention: str) -> nn.Module:
    steps = timesformer.SCHEMES[attention]
    block = timesformer.DividedBlock(8, 2, 4.0, 0.0, steps) if steps else timesformer.Block(8, 2, 4.0, 0.0)
    return fill(block.double().eval())


@check
def comparisons_of_a_patch(model: str, settings=None) -> int:
    """With how many keys one patch is compared in a block: the sum over the steps of its attention."""
    calls = passed(model, settings).attention
    first = [call for call in calls if call["name"].startswith("blocks.0.")]
    return sum(call["keys"] for call in first)


@check
def class_token_hears(attention: str, size: list[int]) -> list[int]:
    """Of one block: how many patches change the class token, and how many patches change with it."""
    block, tokens = one_block(attention), noise(1, 1 + prod(size), 8)
    hears = seen_by_each(lambda x: block(x, tuple(size)), tokens)
    return [int(hears[1:, 0].sum()), int(hears[0, 1:].sum())]


@check
def order_changes_the_scores(model: str, settings=None, untrained=False) -> bool:
    """Whether a permutation of the frames changes the scores. `untrained`: of a model as it is built, not shaken."""
    torch.manual_seed(0)
    variant = ZOO[model]
    built = variant.family(**variant.config | plain(settings or {})).double().eval()
    built = built if untrained else fill(built)
    x = noise(1, *variant.input)
    order = torch.randperm(x.shape[2], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return bool((built(x[:, :, order]) - built(x)).abs().max() > EQUAL)


@check
def place_changes_the_scores(model: str, settings=None) -> bool:
    """Whether the tokens of a map, as a set, give other scores when they change places.

    The input of a UniFormer block of its third stage is permuted, since before it convolutions see places.
    """
    block = build(model, settings, "cpu").blocks3[0]
    x = noise(1, block.norm1.weight.numel(), 2, 3, 4)
    with torch.no_grad():
        return bool((block(x).flip(2, 3, 4) - block(x.flip(2, 3, 4))).abs().max() > EQUAL)


@check
def clips_see_each_other(model: str, settings=None) -> bool:
    """Whether a clip of a batch changes the scores of another."""
    built, x = build(model, settings, "cpu"), noise(2, *ZOO[model].input)
    with torch.no_grad():
        return bool((built(x)[:1] - built(x[:1])).abs().max() > EQUAL)


# ---------------------------------------------------------------- equations, against literal loops


def same(got: Tensor, want: Tensor) -> bool:
    return bool((got - want).abs().max() <= EQUAL * max(1.0, float(want.abs().max())))


def literal_linear(layer: nn.Module, x: Tensor) -> Tensor:
    return x @ layer.weight.flatten(1).T + layer.bias


def literal_norm(norm: nn.Module, x: Tensor, eps: float) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * norm.weight + norm.bias


def literal_mlp(mlp: nn.Module, x: Tensor) -> Tensor:
    hidden = literal_linear(mlp.fc1, x)
    return literal_linear(mlp.fc2, hidden * (1 + torch.erf(hidden / 2**0.5)) / 2)


def literal_heads(qkv: nn.Module, x: Tensor, heads: int) -> list[Tensor]:
    """q, k and v of each head: (N, C) -> 3 lists of (N, d)."""
    return [part.chunk(heads, -1) for part in literal_linear(qkv, x).chunk(3, -1)]


def literal_softmax(scores: Tensor) -> Tensor:
    e = (scores - scores.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def literal_window_attention(attn: nn.Module, x: Tensor, bias=True) -> Tensor:
    """Swin, equation 4, for the tokens x (*size, C) of one window, or of a part of one."""
    *size, C = x.shape
    places = list(product(*map(range, size)))
    table = attn.relative_position_bias_table.view(*[2 * w - 1 for w in attn.window], -1)
    out, d = [], C // attn.num_heads
    for head, (q, k, v) in enumerate(zip(*literal_heads(attn.qkv, x.reshape(-1, C), attn.num_heads))):
        scores = q @ k.T / d**0.5
        for i, a in enumerate(places) if bias else ():
            for j, b in enumerate(places):
                scores[i, j] += table[tuple(m - n + w - 1 for m, n, w in zip(a, b, attn.window))][head]
        out.append(literal_softmax(scores) @ v)
    return literal_linear(attn.proj, torch.cat(out, -1)).view(*size, C)


def literal_shifted(attn: nn.Module, x: Tensor) -> Tensor:
    """Attention in windows that are shifted, by their definition: the map (*size, C) is cut at the shifted borders."""
    cuts = []
    for n, w, s in zip(x.shape, attn.window, attn.shift):
        edges = sorted({0, n, *range(s, n, w)}) if s else list(range(0, n + 1, w))
        cuts.append([slice(a, b) for a, b in zip(edges, edges[1:])])
    out = torch.empty_like(x)
    for piece in product(*cuts):
        out[piece] = literal_window_attention(attn, x[piece])
    return out


@check
@torch.no_grad()
def swin_equation_4(window: list[int], shift: list[int], size: list[int]) -> bool:
    """(S)W-MSA of the model against attention in windows cut at the shifted borders, with the bias of each offset."""
    attn = fill(swin.WindowAttention(8, tuple(window), tuple(shift), 2).double())
    x = noise(1, *size, 8)
    return same(attn(x)[0], literal_shifted(attn, x[0]))


@check
@torch.no_grad()
def swin_equation_3(window: list[int], shift: list[int], size: list[int]) -> bool:
    """A block: z' = (S)W-MSA(LN(z)) + z, then MLP(LN(z')) + z'."""
    block = fill(swin.SwinBlock(8, 2, tuple(window), tuple(shift)).double().eval())
    x = noise(1, *size, 8)
    z = x[0] + literal_shifted(block.attn, literal_norm(block.norm1, x[0], 1e-5))
    return same(block(x)[0], z + literal_mlp(block.mlp, literal_norm(block.norm2, z, 1e-5)))


@check
@torch.no_grad()
def patch_merging(size: list[int]) -> bool:
    """The four neighbours (0,0), (1,0), (0,1), (1,1) are concatenated, normalised and projected without a bias."""
    merging = fill(swin.PatchMerging(6).double())
    x = noise(1, *size, 6)
    H, W = size[-2:]
    padded = F.pad(x, (0, 0, 0, W % 2, 0, H % 2))
    four = torch.cat([padded[..., i::2, j::2, :] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))], -1)
    return same(merging(x), literal_norm(merging.norm, four, 1e-5) @ merging.reduction.weight.T)


@check
@torch.no_grad()
def factorized_block() -> bool:
    """Video Swin's factorized block: attention in 1 x M x M windows, weighted attention in P x 1 x 1, then the MLP."""
    block = fill(video_swin.FactorizedBlock(8, 2, (3, 2, 2), (0, 0, 0), 4.0, 0.0).double().eval())
    x = noise(3, 4, 4, 8)
    z = x + literal_shifted(block.attn, literal_norm(block.norm1, x, 1e-5))
    z = z + block.weight_time * literal_shifted(block.attn_time, literal_norm(block.norm_time, z, 1e-5))
    return same(block(x[None])[0], z + literal_mlp(block.mlp, literal_norm(block.norm2, z, 1e-5)))


@check
@torch.no_grad()
def pooled_length(size: list[int], kernel: list[int], stride: list[int]) -> bool:
    """MViT, section 3.1: a pooled axis has floor((L + 2p - k) / s) + 1 places."""
    x = noise(1, 2, *size)
    pool = mvit.pooling("conv", tuple(kernel), tuple(stride), 2).double()
    want = [(n + 2 * (k // 2) - k) // s + 1 for n, k, s in zip(size, kernel, stride)]
    return list(pool(x).shape[2:]) == want


def literal_pool(attn: nn.Module, name: str, x: Tensor, cls: int) -> tuple[Tensor, Tensor]:
    """One of P(q), P(k), P(v): class token and map apart, one head, by convolution and LayerNorm."""
    pool, norm = getattr(attn, f"pool_{name}"), getattr(attn, f"norm_{name}")
    token, grid = x[:cls], x[cls:].unflatten(0, attn.size)
    if pool is None:
        return token, grid
    grid = grid.movedim(-1, 0)[None]
    y = F.conv3d(grid, pool.weight, None, pool.stride, tuple(k // 2 for k in pool.kernel_size), groups=grid.shape[1])
    return literal_norm(norm, token, 1e-6), literal_norm(norm, y[0].movedim(0, -1), 1e-6)


@check
@torch.no_grad()
def pooling_attention(rel_pos: str, residual: bool, divided: bool = False) -> bool:
    """softmax(P(q) P(k)^T / sqrt(d) + E) P(v) [+ P(q)], one head and one pair of tokens after the other.

    E is, for each axis of `rel_pos`, the product of the query with the vector of the offset in steps of the finer grid.
    divided: E is divided by sqrt(d) as well.
    """
    size, one, two = (2, 4, 4), (1, 1, 1), (1, 2, 2)
    attn = mvit.PoolingAttention(6, 6, 2, size, 1, "conv", (3, 3, 3), two, (3, 3, 3), one, rel_pos, residual)
    attn = fill(attn.double())
    x = noise(1, 1 + prod(size), 6)
    out = []
    for heads in zip(*literal_heads(attn.qkv, x[0], 2)):
        (qc, q), (kc, k), (vc, v) = (literal_pool(attn, name, each, 1) for name, each in zip("qkv", heads))
        queries, keys = torch.cat([qc, q.flatten(0, 2)]), torch.cat([kc, k.flatten(0, 2)])
        scores = queries @ keys.T / 3**0.5
        places = [list(product(*map(range, each.shape[:3]))) for each in (q, k)]
        for (i, a), (j, b), axis in product(enumerate(places[0]), enumerate(places[1]), range(3)):
            if "thw"[axis] in rel_pos:
                Q, K = q.shape[axis], k.shape[axis]
                fine = max(Q, K)
                row = a[axis] * fine // Q + (K - 1 - b[axis]) * fine // K
                E = queries[1 + i] @ getattr(attn, f"rel_pos_{'thw'[axis]}")[row]
                scores[1 + i, 1 + j] += E / 3**0.5 if divided else E
        y = literal_softmax(scores) @ torch.cat([vc, v.flatten(0, 2)])
        out.append(y + torch.cat([torch.zeros_like(qc), q.flatten(0, 2)]) if residual else y)
    return same(attn(x)[0], literal_linear(attn.proj, torch.cat(out, -1)))


@check
@torch.no_grad()
def pooling_block(grows_in: str) -> bool:
    """A block that shrinks its map: the skip is max-pooled, and where channels grow it is a projection of the norm."""
    size, one, two = (2, 4, 4), (1, 1, 1), (1, 2, 2)
    block = mvit.MultiscaleBlock(
        6, 12, 2, size, 1, "conv", (3, 3, 3), two, (3, 3, 3), one, "", False, grows_in == "attn", 4.0, 0.0, size
    )
    block = fill(block.double().eval())
    x = noise(1, 1 + prod(size), 6)
    y = literal_norm(block.norm1, x, 1e-6)
    skip = literal_linear(block.proj, y) if grows_in == "attn" else x
    grid = skip[:, 1:].unflatten(1, size).movedim(-1, 1)
    grid = F.max_pool3d(grid, (1, 3, 3), two, (0, 1, 1)).flatten(2).mT
    z = torch.cat([skip[:, :1], grid], 1) + block.attn(y)
    y = literal_norm(block.norm2, z, 1e-6)
    skip = literal_linear(block.proj, y) if grows_in == "mlp" else z
    return same(block(x), skip + literal_mlp(block.mlp, y))


@check
@torch.no_grad()
def mvit_reads_the_class_token() -> bool:
    """The scores are a linear function of the normalised class token alone."""
    built, x = build("mvit_mini", None, "cpu"), noise(2, *ZOO["mvit_mini"].input)
    tokens = built.stages(x)[-1]
    return same(built(x), literal_linear(built.head.projection, literal_norm(built.norm, tokens[:, 0], 1e-6)))


# Who sees whom in a step, for the patches a and b, each (row, column, frame), of a map of H x W x T patches.
SEES = {
    "joint": lambda a, b, H, W: True,
    "temporal": lambda a, b, H, W: a[:2] == b[:2],
    "space": lambda a, b, H, W: a[2] == b[2],
    "local": lambda a, b, H, W: (a[0] < H / 2, a[1] < W / 2) == (b[0] < H / 2, b[1] < W / 2),
    "global": lambda a, b, H, W: all((i - j) % 2 == 0 for i, j in zip(a, b)),
    "width": lambda a, b, H, W: (a[0], a[2]) == (b[0], b[2]),
    "height": lambda a, b, H, W: a[1:] == b[1:],
}


def literal_attend(attn: nn.Module, x: Tensor, sees: Tensor) -> Tensor:
    """TimeSformer, equations 5 to 10, for tokens (N, C): token i is compared with those where sees[i] is true."""
    out, d = [], x.shape[-1] // attn.num_heads
    for q, k, v in zip(*literal_heads(attn.qkv, x, attn.num_heads)):
        scores = (q @ k.T / d**0.5).masked_fill(~sees, -torch.inf)
        out.append(literal_softmax(scores) @ v)
    return literal_linear(attn.proj, torch.cat(out, -1))


@check
@torch.no_grad()
def timesformer_block(attention: str, size: list[int]) -> bool:
    """A block of a scheme against masks: who may see whom in each step, the class token in the last one only."""
    H, W, T = size
    block, x = one_block(attention), noise(1, 1 + H * W * T, 8)
    places = list(product(range(H), range(W), range(T)))
    *first, last = timesformer.SCHEMES[attention] or ("joint",)
    cls, z = x[0, :1], x[0, 1:]
    sees = {step: torch.tensor([[SEES[step](a, b, H, W) for b in places] for a in places]) for step in [*first, last]}
    for step in first:
        norm, attn, fc = (block.get_submodule(f"{step}_{part}") for part in ("norm1", "attn", "fc"))
        z = z + literal_linear(fc, literal_attend(attn, literal_norm(norm, z, 1e-6), sees[step]))
    y = literal_norm(block.norm1, torch.cat([cls, z]), 1e-6)
    with_cls = F.pad(sees[last], (1, 0), value=True)  # (N, 1 + N): each patch also sees the class token
    of_groups = []
    for group in sees[last].unique(dim=0):  # the class token has a copy in each group, and the copies are averaged
        whole = torch.cat([F.pad(group, (1, 0), value=True)[None], with_cls])
        attended = literal_attend(block.attn, y, whole)
        of_groups.append(attended[:1])
    z = torch.cat([cls + torch.stack(of_groups).mean(0), z + attended[1:]])
    return same(block(x, tuple(size))[0], z + literal_mlp(block.mlp, literal_norm(block.norm2, z, 1e-6)))


@check
@torch.no_grad()
def timesformer_reads_the_class_token(attention: str) -> bool:
    """Equation 12: the scores are a linear function of the normalised class token after the last block.

    Attention in space alone has a class token for each frame; they are averaged before the norm.
    """
    built, x = build("timesformer_mini", {"attention": attention}, "cpu"), noise(2, *ZOO["timesformer_mini"].input)
    tokens = []
    hook = built.blocks[-1].register_forward_hook(lambda module, args, out: tokens.append(out))
    scores = built(x)
    hook.remove()
    cls = tokens[0][:, 0].unflatten(0, (2, -1)).mean(1)
    return same(scores, literal_linear(built.head, literal_norm(built.norm, cls, 1e-6)))


@check
@torch.no_grad()
def timesformer_equation_1() -> bool:
    """Each token is a projected patch plus the embeddings of its place and its frame; t varies fastest."""
    built = build("timesformer_mini", None, "cpu")
    x = noise(1, *ZOO["timesformer_mini"].input)
    tokens, (H, W, T) = built.embed(x)
    ph, pw = built.patch_size
    want = [built.cls_token[0, 0] + built.pos_embed[0, 0]]
    for h, w, t in product(range(H), range(W), range(T)):
        pixels = x[0, :, t, h * ph : (h + 1) * ph, w * pw : (w + 1) * pw].flatten()
        patch = literal_linear(built.patch_embed.proj, pixels)
        want.append(patch + built.pos_embed[0, 1 + h * W + w] + built.time_embed[0, t])
    return same(tokens[0], torch.stack(want))


@check
@torch.no_grad()
def uniformer_local(tube: int) -> bool:
    """Equations 4 to 6: A V U with one head a channel, A[i, j] a number of the offset, 0 outside the tube; then 1 to 3.

    The whole block: position embedding, BatchNorm and relation, BatchNorm and FFN, each with its residual.
    """
    size = (3, 5, 4)
    block = fill(uniformer.LocalBlock(3, 6, 4.0, (tube,) * 3, True, True, False, 0.0).double().eval())
    x = noise(1, 6, *size)
    places = list(product(*map(range, size)))

    def relate(conv: nn.Module, tokens: Tensor, side: int) -> Tensor:  # (N, C): a matrix A for each channel
        A = torch.zeros(len(places), len(places), 6, dtype=torch.float64)
        for (i, a), (j, b) in product(enumerate(places), enumerate(places)):
            offset = [n - m + side // 2 for m, n in zip(a, b)]
            if all(0 <= o < side for o in offset):
                A[i, j] = conv.weight[:, 0, offset[0], offset[1], offset[2]]
        return torch.einsum("ijc,jc->ic", A, tokens) + conv.bias

    def batch_norm(norm: nn.Module, tokens: Tensor) -> Tensor:
        return (tokens - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias

    z = x[0].flatten(1).T  # (N, C)
    z = z + relate(block.pos_embed, z, 3)
    V = literal_linear(block.conv1, batch_norm(block.norm1, z))
    z = z + literal_linear(block.conv2, relate(block.attn, V, tube))
    z = z + literal_mlp(block.mlp, batch_norm(block.norm2, z))
    return same(block(x)[0].flatten(1).T, z)


@check
@torch.no_grad()
def uniformer_global() -> bool:
    """Equations 7 and 1 to 3: softmax attention among all tokens, after the position embedding, then the FFN."""
    size = (2, 3, 4)
    block = fill(uniformer.GlobalBlock(3, 8, 4.0, 4, None, True, False, 0.0).double().eval())
    x = noise(1, 8, *size)
    z = x + F.conv3d(x, block.pos_embed.weight, block.pos_embed.bias, padding=1, groups=8)
    z = z[0].flatten(1).T  # (N, C)
    everyone = torch.ones(len(z), len(z), dtype=torch.bool)
    z = z + literal_attend(block.attn, literal_norm(block.norm1, z, 1e-6), everyone)
    z = z + literal_mlp(block.mlp, literal_norm(block.norm2, z, 1e-6))
    return same(block(x)[0].flatten(1).T, z)


@check
@torch.no_grad()
def uniformer_head() -> bool:
    """BatchNorm, the average over all places, a linear layer."""
    built, x = build("uniformer_mini", None, "cpu"), noise(2, *ZOO["uniformer_mini"].input)
    maps = built.features(x)[-1].flatten(2)  # (B, C, N)
    norm = built.norm
    mean, scale = norm.running_mean[:, None], (norm.running_var + 1e-5).sqrt()[:, None]
    y = (maps - mean) / scale * norm.weight[:, None] + norm.bias[:, None]
    return same(built(x), literal_linear(built.head, y.mean(2)))


# ---------------------------------------------------------------- inflation: image weights in video models


@check
@torch.no_grad()
def still_clip_is_the_image(family: str) -> bool:
    """A video model with inflated image weights sees a clip of one repeated image as the image model sees the image."""
    if family == "swin":
        small = dict(embed_dim=8, depths=(2, 2), num_heads=(2, 4), num_classes=5)
        image = fill(swin.SwinTransformer(32, window=4, **small).double().eval())
        video = video_swin.SwinTransformer3D(window=(2, 4, 4), **small).double().eval()
        x = noise(1, 3, 32, 32)
        state = video.inflate(image.state_dict())
        video.load_state_dict(state)
        wants, gots = image.stages(x), video.stages(x[:, :, None].repeat(1, 1, 8, 1, 1))
        return all(same(got, want[:, None].expand_as(got)) for want, got in zip(wants, gots))
    if family == "timesformer":
        small = dict(img_size=16, patch_size=4, embed_dim=8, depth=2, num_heads=2, num_classes=5, drop_path=0.0)
        image = fill(timesformer.TimeSformer(num_frames=1, attention="space", **small).double().eval())
        video = timesformer.TimeSformer(num_frames=4, attention="divided", **small).double().eval()
        head = {key: value for key, value in image.state_dict().items() if key.startswith("head.")}
        video.load_state_dict(video.inflate(image.state_dict()) | head)
        x = noise(1, 3, 1, 16, 16)
        return same(video(x.expand(-1, -1, 4, -1, -1)), image(x))
    small = dict(embed_dims=(8, 12, 16, 24), depths=(1, 1, 1, 1), head_dim=4, num_classes=5)
    image = fill(uniformer.UniFormer(dims=2, **small).double().eval())
    video = uniformer.UniFormer(**small).double().eval()
    video.load_state_dict(video.inflate(image.state_dict()))
    x = noise(1, 3, 32, 32)
    want, got = image.features(x)[0], video.features(x[:, :, None].expand(-1, -1, 25, -1, -1))[0]
    return same(got[:, :, got.shape[2] // 2], want)  # in the middle of a long clip, where no border is near


@check
def inflated_patch_sum(mode: str, steps: int) -> float:
    """The sum over time of inflated weights, as a multiple of the image's weights."""
    weight = noise(4, 3, 2, 2)
    ratio = official.inflate_patch(weight, steps, mode).sum(2) / weight
    return round(float(ratio.mean()), 9) if float(ratio.std()) < EQUAL else float("nan")


@check
def inflated_bias_equals_the_image_table(mode: str) -> int:
    """For how many of the 2P - 1 offsets in time an inflated bias table, P = 8, is that of the image."""
    table = noise(49, 2)
    steps = official.inflate_bias_table(table, (8, 4, 4), mode).view(15, 49, 2)
    return int(sum(torch.equal(step, table) for step in steps))


@check
@torch.no_grad()
def interpolated_bias_rows(old: int, new: list[int]) -> int:
    """Rows of a bias table that was trained for windows of side `old` and is resized (bicubically) for `new`."""
    return len(official.resize_bias_table(noise((2 * old - 1) ** 2, 3), tuple(new)))
