"""Right and wrong solutions of the exercises of notebook 06."""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat

from vt_course.lab.exercises import EXERCISES
from vt_course.models import timesformer

from .common import likely, overwrite

# ---------------------------------------------------------------- 6.1 tokens


def tokens(patches, cls, pos, time):
    B = patches.shape[0]
    x = patches + pos[:, None, 1:] + time[:, :, None]
    x = rearrange(x, "b t n d -> b (n t) d")
    return torch.cat([(cls + pos[:, :1]).expand(B, -1, -1), x], dim=1)


def tokens_by_repeat(patches, cls, pos, time):
    """Positions as a table of all tokens, added at the end."""
    B, T, N, D = patches.shape
    x = torch.cat([cls.repeat(B, 1, 1), patches.permute(0, 2, 1, 3).reshape(B, N * T, D)], 1)
    table = pos[:, 1:].repeat_interleave(T, 1) + time.repeat(1, N, 1)
    return x + torch.cat([pos[:, :1], table], 1)


def tokens_by_stack(patches, cls, pos, time):
    columns = [
        patches[:, t, n] + pos[:, 1 + n] + time[:, t] for n in range(patches.shape[2]) for t in range(patches.shape[1])
    ]
    return torch.stack([(cls[:, 0] + pos[:, 0]).expand(len(patches), -1), *columns], 1)


def tokens_frame_by_frame(patches, cls, pos, time):
    x = (patches + pos[:, None, 1:] + time[:, :, None]).flatten(1, 2)
    return torch.cat([(cls + pos[:, :1]).expand(len(x), -1, -1), x], 1)


def tokens_no_place(patches, cls, pos, time):
    x = rearrange(patches + time[:, :, None], "b t n d -> b (n t) d")
    return torch.cat([(cls + pos[:, :1]).expand(len(x), -1, -1), x], 1)


def tokens_shifted(patches, cls, pos, time):
    x = rearrange(patches + pos[:, None, :-1] + time[:, :, None], "b t n d -> b (n t) d")
    return torch.cat([(cls + pos[:, :1]).expand(len(x), -1, -1), x], 1)


def tokens_without(patches, cls, pos, time, place=1, when=1, of_class=1, last=False):
    x = rearrange(patches + place * pos[:, None, 1:] + when * time[:, :, None], "b t n d -> b (n t) d")
    c = (cls + of_class * pos[:, :1]).expand(len(x), -1, -1)
    return torch.cat([x, c] if last else [c, x], 1)


def tokens_timed_class(patches, cls, pos, time):
    return tokens(patches, cls + time[:, :1], pos, time)


def tokens_reshaped(patches, cls, pos, time):
    B, T, N, D = patches.shape
    x = patches.reshape(B, N, T, D) + pos[:, 1:, None] + time[:, None]
    return torch.cat([(cls + pos[:, :1]).expand(B, -1, -1), x.flatten(1, 2)], 1)


# ---------------------------------------------------------------- 6.2 masks


def coordinates(size):
    return torch.cartesian_prod(*map(torch.arange, size)).view(-1, 3)


def mask(step, size, **other):
    """Compare labels: two patches meet if the labels of their groups agree."""
    h, w, t = coordinates(size).unbind(1)
    H, W, T = size
    labels = dict(
        all=0 * h, temporal=h * W + w, space=t, local=(h >= H / 2) * 2 + (w >= W / 2), width=h * T + t, height=w * T + t
    ) | {"global": (h % 2) * 4 + (w % 2) * 2 + t % 2}
    label = (labels | {k: f(h, w, t) for k, f in other.items()})[step]
    return label[:, None] == label[None]


def mask_by_groups(step, size):
    """Send the numbers of the patches through the package's groups."""
    L = size[0] * size[1] * size[2]
    out = torch.zeros(L, L, dtype=torch.bool)
    if step == "all":
        return ~out
    numbers = torch.arange(L).view(1, L, 1)
    for one in timesformer.group(numbers, size, timesformer.PATTERNS[step])[0, ..., 0]:
        out[one[:, None], one] = True
    return out


def mask_as_numbers(step, size):
    return mask(step, size).long()


def mask_time_slowest(step, size):
    H, W, T = size
    order = torch.arange(H * W * T).view(H, W, T).permute(2, 0, 1).flatten()
    return mask(step, size)[order][:, order]


def mask_named(step, size, names):
    return mask(names.get(step, step), size)


def mask_local_around(step, size):
    if step != "local":
        return mask(step, size)
    c = coordinates(size)
    d = (c[:, None] - c[None]).abs()
    return (d[..., 0] < size[0] / 2) & (d[..., 1] < size[1] / 2)


def mask_one_parity(step, size):
    if step != "global":
        return mask(step, size)
    return (coordinates(size) % 2 == 0).all(1).expand(len(coordinates(size)), -1)


# ---------------------------------------------------------------- 6.3 groups


def stride(x, size, out="(b i j k) (h w t) c"):
    names = dict(h=size[0] // 2, w=size[1] // 2, t=size[2] // 2)
    return rearrange(x, f"b (h i w j t k) c -> {out}", i=2, j=2, k=2, **names)


def stride_by_index(x, size):
    c = coordinates(size) % 2
    label = c[:, 0] * 4 + c[:, 1] * 2 + c[:, 2]
    return torch.stack([x[:, label == g] for g in range(8)], 1).flatten(0, 1)


def stride_by_slices(x, size):
    y = x.reshape(len(x), *size, -1)
    parts = [y[:, i::2, j::2, k::2].flatten(1, 3) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    return torch.stack(parts, 1).flatten(0, 1)


def halves(x, size):
    names = dict(h=size[0] // 2, w=size[1] // 2, t=size[2] // 2)
    return rearrange(x, "b (i h j w k t) c -> (b i j k) (h w t) c", i=2, j=2, k=2, **names)


# ---------------------------------------------------------------- 6.4 the block


def block_einops(x, size, block):
    H, W, T = size
    cls, x = x[:, :1], x[:, 1:]
    y = rearrange(x, "b (n t) c -> (b n) t c", t=T)
    y = block.temporal_fc(block.temporal_attn(block.temporal_norm1(y)))
    x = x + rearrange(y, "(b n) t c -> b (n t) c", n=H * W)
    z = rearrange(x, "b (n t) c -> (b t) n c", t=T)
    z = torch.cat([repeat(cls, "b 1 c -> (b t) 1 c", t=T), z], 1)
    z = block.attn(block.norm1(z))
    cls = cls + rearrange(z[:, :1], "(b t) 1 c -> b t 1 c", t=T).mean(1)
    x = x + rearrange(z[:, 1:], "(b t) n c -> b (n t) c", t=T)
    x = torch.cat([cls, x], 1)
    return x + block.mlp(block.norm2(x))


def block_by_frames(x, size, block):
    """All in one tensor (B, T, N, C), and one frame at a time."""
    H, W, T = size
    cls, grid = x[:, 0], x[:, 1:].reshape(len(x), H * W, T, -1)
    y = grid.reshape(-1, T, grid.shape[-1])
    grid = grid + block.temporal_fc(block.temporal_attn(block.temporal_norm1(y))).reshape(grid.shape)
    news, frames = 0, []
    for t in range(T):
        tokens = torch.cat([cls[:, None], grid[:, :, t]], 1)
        z = block.attn(block.norm1(tokens))
        news = news + z[:, 0] / T
        frames.append(grid[:, :, t] + z[:, 1:])
    out = torch.cat([(cls + news)[:, None], torch.stack(frames, 2).flatten(1, 2)], 1)
    return out + block.mlp(block.norm2(out))


def block_and_no_more(x, size, block):
    """Right, and what it was given is of no use any more."""
    out = block_einops(x, size, block)
    del block.attn, block.norm1
    return out


def block_package(x, size, block):
    return block.forward(x, size)


def block_like(x, size, block, *, time=None, fc=True, keep=True, attend=None, of_class="mean", mlp=None, back=None):
    """A reader's block with the mistakes below."""
    H, W, T = size
    cls, x = x[:, :1], x[:, 1:]
    y = rearrange(x, "b (n t) c -> (b n) t c", t=T)
    y = (time or (lambda y: block.temporal_attn(block.temporal_norm1(y))))(y)
    y = block.temporal_fc(y) if fc else y
    y = rearrange(y, "(b n) t c -> b (n t) c", n=H * W)
    x = x + y if keep else y
    z = torch.cat([repeat(cls, "b 1 c -> (b t) 1 c", t=T), rearrange(x, "b (n t) c -> (b t) n c", t=T)], 1)
    z = (attend or (lambda z: block.attn(block.norm1(z))))(z)
    copies = rearrange(z[:, :1], "(b t) 1 c -> b t 1 c", t=T)
    pooled = {"mean": copies.mean(1), "sum": copies.sum(1), "first": copies[:, 0]}
    cls = cls + pooled[of_class] if of_class in pooled else copies.mean(1)
    x = x + (z[:, 1:].reshape(x.shape) if back else rearrange(z[:, 1:], "(b t) n c -> b (n t) c", t=T))
    x = torch.cat([cls, x], 1)
    return x + block.mlp(block.norm2(x)) if mlp is None else mlp(x)


def block_paper(x, size, block):
    """Equation 13: at every place, the class token is seen over time."""
    H, W, T = size
    cls = repeat(x[:, :1], "b 1 c -> (b n) 1 c", n=H * W)

    def time(y):
        return block.temporal_attn(block.temporal_norm1(torch.cat([cls, y], 1)))[:, 1:]

    return block_like(x, size, block, time=time)


def block_parallel(x, size, block):
    """Both attentions look at what came in; their results are added."""
    H, W, T = size
    cls, x = x[:, :1], x[:, 1:]
    y = block.temporal_attn(block.temporal_norm1(rearrange(x, "b (n t) c -> (b n) t c", t=T)))
    y = rearrange(block.temporal_fc(y), "(b n) t c -> b (n t) c", n=H * W)
    z = torch.cat([repeat(cls, "b 1 c -> (b t) 1 c", t=T), rearrange(x, "b (n t) c -> (b t) n c", t=T)], 1)
    z = block.attn(block.norm1(z))
    cls = cls + rearrange(z[:, :1], "(b t) 1 c -> b t 1 c", t=T).mean(1)
    x = torch.cat([cls, x + y + rearrange(z[:, 1:], "(b t) n c -> b (n t) c", t=T)], 1)
    return x + block.mlp(block.norm2(x))


def block_space_first(x, size, block):
    H, W, T = size
    cls, x = x[:, :1], x[:, 1:]
    z = torch.cat([repeat(cls, "b 1 c -> (b t) 1 c", t=T), rearrange(x, "b (n t) c -> (b t) n c", t=T)], 1)
    z = block.attn(block.norm1(z))
    cls = cls + rearrange(z[:, :1], "(b t) 1 c -> b t 1 c", t=T).mean(1)
    x = x + rearrange(z[:, 1:], "(b t) n c -> b (n t) c", t=T)
    y = block.temporal_attn(block.temporal_norm1(rearrange(x, "b (n t) c -> (b n) t c", t=T)))
    x = torch.cat([cls, x + rearrange(block.temporal_fc(y), "(b n) t c -> b (n t) c", n=H * W)], 1)
    return x + block.mlp(block.norm2(x))


# ---------------------------------------------------------------- 6.5 the network


def network(
    x, model, *, norm=True, choose=lambda z: z[:, 0], when=1, blocks=None, swap=False, fold=None, first_norm=False
):
    B, _, T, H, W = x.shape
    frames = rearrange(x, "b c t h w -> (b t) c h w") if fold is None else fold(x)
    maps = model.patch_embed.proj(frames)
    h, w = maps.shape[2:]
    patches = rearrange(maps, "(b t) d h w -> b t (h w) d", t=T)
    z = tokens_without(patches, model.cls_token, model.pos_embed, model.time_embed, when=when)
    for block in model.blocks if blocks is None else blocks(model.blocks):
        z = block(z, (T, h, w) if swap else (h, w, T))
    if first_norm:
        return model.head(model.norm(choose(z)))
    return model.head(choose(model.norm(z) if norm else z))


def network_loop(x, model):
    """The patches of a frame at a time, and the class token's norm alone."""
    maps = torch.stack([model.patch_embed.proj(x[:, :, t]) for t in range(x.shape[2])], 1)  # (B, T, D, h, w)
    z = tokens_by_repeat(maps.flatten(3).mT, model.cls_token, model.pos_embed, model.time_embed)
    size = (*maps.shape[3:], x.shape[2])
    for i in range(len(model.blocks)):
        z = model.blocks[i].forward(z, size)
    return model.norm(z[:, :1]).squeeze(1) @ model.head.weight.T + model.head.bias


# ---------------------------------------------------------------- 6.6 positions


def resized(pos, grid, new, mode="nearest"):
    cls, table = pos[:, :1], rearrange(pos[:, 1:], "b (h w) d -> b d h w", h=grid[0])
    return torch.cat([cls, rearrange(F.interpolate(table, size=new, mode=mode), "b d h w -> b (h w) d")], 1)


def resized_by_index(pos, grid, new):
    i = torch.div(torch.arange(new[0]) * grid[0], new[0], rounding_mode="floor")
    j = torch.div(torch.arange(new[1]) * grid[1], new[1], rounding_mode="floor")
    table = pos[:, 1:].reshape(1, *grid, -1)[:, i][:, :, j]
    return torch.cat([pos[:, :1], table.reshape(1, -1, pos.shape[-1])], 1)


def resized_loop(pos, grid, new):
    rows = [pos[0, 0]]
    for i in range(new[0]):
        for j in range(new[1]):
            rows.append(pos[0, 1 + int(i * grid[0] / new[0]) * grid[1] + int(j * grid[1] / new[1])])
    return torch.stack(rows)[None]


def resized_in_one_row(pos, grid, new):
    line = F.interpolate(pos[:, 1:].mT, size=new[0] * new[1], mode="nearest").mT
    return torch.cat([pos[:, :1], line], 1)


def resized_tiled(pos, grid, new):
    i, j = torch.arange(new[0]) % grid[0], torch.arange(new[1]) % grid[1]
    table = pos[:, 1:].reshape(1, *grid, -1)[:, i][:, :, j]
    return torch.cat([pos[:, :1], table.flatten(1, 2)], 1)


def resized_columns(pos, grid, new):
    table = rearrange(pos[:, 1:], "b (w h) d -> b d h w", h=grid[0])
    table = F.interpolate(table, size=new, mode="nearest")
    return torch.cat([pos[:, :1], rearrange(table, "b d h w -> b (h w) d")], 1)


RIGHT = {
    "6.1": {
        "einops": tokens,
        "tables": tokens_by_repeat,
        "stack": tokens_by_stack,
        "float64": lambda p, c, pos, t: tokens(p.double(), c.double(), pos.double(), t.double()),
        "without broadcasting of the class": lambda p, c, pos, t: tokens_by_repeat(p, c.clone(), pos, t),
    },
    "6.2": {
        "labels": mask,
        "package's groups": mask_by_groups,
        "0 and 1": mask_as_numbers,
        "distances": lambda step, size: mask(step, size).T,
        "non-contiguous": lambda step, size: mask(step, size).T.contiguous().T,
    },
    "6.3": {
        "einops": stride,
        "index": stride_by_index,
        "slices": stride_by_slices,
        "course": lambda x, size: timesformer.group(x, size, ("stride",) * 3).flatten(0, 1),
        "float64": lambda x, size: stride(x.double(), size),
    },
    "6.4": {
        "einops": block_einops,
        "frame by frame": block_by_frames,
        "package": block_package,
        "a reader's": block_like,
        "takes the block apart afterwards": block_and_no_more,
    },
    "6.5": {
        "einops": network,
        "frame by frame": network_loop,
        "package": lambda x, model: model.forward(x),
        "norm of the class token alone": lambda x, model: network(x, model, first_norm=True),
    },
    "6.6": {
        "interpolate": resized,
        "index": resized_by_index,
        "loop": resized_loop,
        "course": lambda pos, grid, new: timesformer.stretch(pos, grid, new),
        "float64": lambda pos, grid, new: resized(pos.double(), grid, new),
    },
}


def said(words):
    """The verdict names a mistake that is no entry of the catalogue: a wrong step of a forward."""
    found = [
        text
        for number in ("6.4", "6.5")
        for step in EXERCISES[number].kinds[0].steps
        for text, _ in step.wrong
        if words in text
    ]
    assert len(found) == 1, (words, found)
    return f"  Likely: {found[0]}\n"


WRONG = {
    "6.1": {
        "frame by frame": (tokens_frame_by_frame, likely("6.1", "must run place by place")),
        "no place": (tokens_no_place, likely("6.1", "no position in space")),
        "one too early": (tokens_shifted, likely("6.1", "one too early")),
        "no time": (lambda *a: tokens_without(*a, when=0), likely("6.1", "time embedding is not added")),
        "class without position": (
            lambda *a: tokens_without(*a, of_class=0),
            likely("6.1", "class token gets no position"),
        ),
        "class last": (lambda *a: tokens_without(*a, last=True), likely("6.1", "stands at the end")),
        "class with time": (tokens_timed_class, likely("6.1", "time of the first frame")),
        "reshaped": (tokens_reshaped, likely("6.1", "reshaped from (T, N)")),
        "no class token": (
            lambda *a: tokens(*a)[:, 1:],
            "shape (1, 6, 4), wanted (B, 1 + N·T, C) = (1, 1 + 3·2, 4) = (1, 7, 4)\n"
            + likely("6.1", "there is no class"),
        ),
        "detached": (lambda p, c, pos, t: tokens(p, c, pos.detach(), t), "the gradient of `pos` is not"),
        "in place": (overwrite(tokens), "the result is right, but your function changes its input"),
    },
    "6.2": {
        "exchanged": (
            lambda step, size: mask_named(step, size, dict(temporal="space", space="temporal")),
            likely("6.2", "`temporal` and `space` are exchanged"),
        ),
        "rows and columns": (
            lambda step, size: mask_named(step, size, dict(width="height", height="width")),
            likely("6.2", "`width` and `height` are exchanged"),
        ),
        "time slowest": (mask_time_slowest, likely("6.2", "numbered (T H W)")),
        "inverted": (lambda step, size: ~mask(step, size), likely("6.2", "inverted")),
        "not itself": (lambda step, size: mask(step, size).fill_diagonal_(False), likely("6.2", "does not see itself")),
        "local in one frame": (
            lambda step, size: mask(step, size) & (mask("space", size) if step == "local" else True),
            likely("6.2", "in `local` a patch sees one frame"),
        ),
        "local around the query": (mask_local_around, likely("6.2", "columns away")),
        "every frame": (
            lambda step, size: mask(step, size, **{"global": lambda h, w, t: (h % 2) * 2 + w % 2}),
            likely("6.2", "all frames are seen"),
        ),
        "checkerboard": (
            lambda step, size: mask(step, size, **{"global": lambda h, w, t: (h + w + t) % 2}),
            likely("6.2", "sum of the three"),
        ),
        "only even": (mask_one_parity, likely("6.2", "only patches with even")),
        "whole rows of all frames": (
            lambda step, size: mask(step, size, width=lambda h, w, t: h, height=lambda h, w, t: w),
            likely("6.2", "in `width` and `height` the frame is free"),
        ),
        "logits": (
            lambda step, size: torch.where(mask(step, size), 0.0, -100.0),
            "dtype torch.float32, wanted torch.bool",
        ),
        "with the class token": (
            lambda step, size: F.pad(mask(step, size), (1, 0, 1, 0), value=True),
            "shape (25, 25), wanted (L, L) with L = 2·3·4 = (24, 24)",
        ),
    },
    "6.3": {
        "reshape": (lambda x, size: x.reshape(len(x) * 8, -1, x.shape[-1]), likely("6.3", "never permuted")),
        "halves": (halves, likely("6.3", "that makes halves")),
        "(T H W) inside": (
            lambda x, size: stride(x, size, "(b i j k) (t h w) c"),
            likely("6.3", "your tokens run (T H W)"),
        ),
        "(T H W) of groups": (
            lambda x, size: stride(x, size, "(b k i j) (h w t) c"),
            likely("6.3", "offset in time first"),
        ),
        "groups (W H T)": (lambda x, size: stride(x, size, "(b j i k) (h w t) c"), likely("6.3", "listed (W H T)")),
        "tokens (W H T)": (
            lambda x, size: stride(x, size, "(b i j k) (w h t) c"),
            likely("6.3", "your tokens run (W H T)"),
        ),
        "groups before batch": (lambda x, size: stride(x, size, "(i j k b) (h w t) c"), likely("6.3", "batch axis")),
        "transposed": (
            lambda x, size: rearrange(stride(x, size, "b (h w t) (i j k) c"), "b n g c -> (b g) n c").reshape(
                len(x) * 8, -1, x.shape[-1]
            )[:, :-1],
            "shape (8, 1, 2), wanted (B·8, H/2·W/2·T/2, C) = (1·8, 1·1·2, 2)",
        ),
        "in place": (overwrite(stride), "the result is right, but your function changes its input"),
    },
    "6.4": {
        "class token over time": (block_paper, said("so it is in equation 13")),
        "no fc": (lambda *a: block_like(*a, fc=False), "  Likely: the step “temporal_fc” is forgotten\n"),
        "no residual over time": (
            lambda *a: block_like(*a, keep=False),
            said("attention over time replaces the patches"),
        ),
        "space first": (block_space_first, likely("6.4", "time comes first")),
        "parallel": (block_parallel, said("the steps follow each other")),
        "sum of copies": (lambda *a: block_like(*a, of_class="sum"), said("are added up")),
        "first copy": (lambda *a: block_like(*a, of_class="first"), said("class copy of the first frame")),
        "class replaced": (lambda *a: block_like(*a, of_class="new"), said("replaces the class token")),
        "no norm over time": (
            lambda x, size, block: block_like(x, size, block, time=block.temporal_attn),
            said("`temporal_norm1` is forgotten"),
        ),
        "one norm for both": (
            lambda x, size, block: block_like(x, size, block, time=lambda y: block.temporal_attn(block.norm1(y))),
            said("it has a norm of its own"),
        ),
        "one attention for both": (
            lambda x, size, block: block_like(x, size, block, time=lambda y: block.attn(block.temporal_norm1(y))),
            said("that is `temporal_attn`"),
        ),
        "no norm over space": (
            lambda x, size, block: block_like(x, size, block, attend=block.attn),
            said("`norm1` is forgotten before"),
        ),
        "back by reshape": (lambda *a: block_like(*a, back=True), said("come back frame by frame")),
        "no second norm": (
            lambda x, size, block: block_like(x, size, block, mlp=lambda v: v + block.mlp(v)),
            said("`norm2` is forgotten"),
        ),
        "no residual of the MLP": (
            lambda x, size, block: block_like(x, size, block, mlp=lambda v: block.mlp(block.norm2(v))),
            said("the MLP replaces the tokens"),
        ),
        "in place": (overwrite(block_einops), "the result is right, but your function changes its input"),
    },
    "6.5": {
        "average of all": (lambda x, m: network(x, m, choose=lambda z: z.mean(1)), said("average of all tokens goes")),
        "average of patches": (
            lambda x, m: network(x, m, choose=lambda z: z[:, 1:].mean(1)),
            said("average of the patches goes"),
        ),
        "last token": (lambda x, m: network(x, m, choose=lambda z: z[:, -1]), said("the last token goes")),
        "no norm": (lambda x, m: network(x, m, norm=False), likely("6.5", "last norm is forgotten")),
        "no time": (lambda x, m: network(x, m, when=0), said("time embedding is not added")),
        "one block": (lambda x, m: network(x, m, blocks=lambda b: b[:1]), said("only the first block")),
        "(T, H, W)": (lambda x, m: network(x, m, swap=True), said("the size as (T, H, W)")),
        "folded by reshape": (
            lambda x, m: network(x, m, fold=lambda x: x.reshape(-1, 3, *x.shape[3:])),
            said("mixes colours and frames"),
        ),
        "softmax": (lambda x, m: network(x, m).softmax(1), said("the answer is a softmax")),
        "no blocks": (lambda x, m: network(x, m, blocks=lambda b: []), likely("6.5", "blocks are not used")),
    },
    "6.6": {
        "one line": (resized_in_one_row, likely("6.6", "so does the official loader")),
        "with the class token": (
            lambda pos, grid, new: F.interpolate(pos.mT, size=1 + new[0] * new[1]).mT,
            likely("6.6", "the whole table"),
        ),
        "bilinear": (lambda *a: resized(*a, "bilinear"), likely("6.6", "interpolated between")),
        "bicubic": (lambda *a: resized(*a, "bicubic"), likely("6.6", "cubic")),
        "nearest-exact": (lambda *a: resized(*a, "nearest-exact"), likely("6.6", "nearest-exact")),
        "columns": (resized_columns, likely("6.6", "read column by column")),
        "tiled": (resized_tiled, "the columns repeat from the first one"),
        "no class token": (lambda *a: resized(*a)[:, 1:], likely("6.6", "is lost")),
        "class token last": (lambda *a: resized(*a).roll(-1, 1), likely("6.6", "stands at the end")),
        "in place": (overwrite(resized), "changes its input"),
    },
}
