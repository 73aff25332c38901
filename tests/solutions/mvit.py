"""Right and wrong solutions of the exercises of notebook 05."""

from math import prod

import torch
import torch.nn.functional as F
from einops import rearrange

from .common import likely

# ---------------------------------------------------------------- 5.1


def pooled(x, size, pool, read="b (t h w) c -> b c t h w", write="b c t h w -> b (t h w) c", cls=lambda x: x[:, :1]):
    """einops, with the patterns and the class token as given."""
    t, h, w = size
    grid = rearrange(x[:, 1:], read, t=t, h=h, w=w)
    return torch.cat([cls(x), rearrange(pool(grid), write)], 1)


def pooled_into_a_new_row(x, size, pool):
    grid = torch.empty(len(x), x.shape[-1], *size)
    for i in range(prod(size)):
        t, place = divmod(i, size[1] * size[2])
        h, w = divmod(place, size[2])
        grid[:, :, t, h, w] = x[:, i + 1]
    y = pool(grid)
    out = x.new_zeros(len(x), 1 + y[0, 0].numel(), x.shape[-1])
    out[:, 0] = x[:, 0]
    out[:, 1:] = y.permute(0, 2, 3, 4, 1).reshape(len(x), -1, x.shape[-1])
    return out


def pooled_clip_by_clip(x, size, pool):
    rows = []
    for row in x:
        grid = pool(row[1:].T.reshape(1, -1, *size))[0]
        rows.append(torch.cat([row[None, 0], grid.reshape(len(grid), -1).T]))
    return torch.stack(rows)


def pooled_scratch(x, size, pool):
    out = pooled(x, size, pool)
    x[:, 0] = 0
    return out


# ---------------------------------------------------------------- 5.2 and 5.6


def parts_of(self, x, name, norm=True, pool=True, third=None):
    """(B, h, 1 + N', d) of q, k or v."""
    C = self.proj.in_features
    at = "qkv".index(name if third is None else third)
    y = self.qkv(x)[..., at * C : at * C + C]
    if pool:
        y = pooled(y, self.size, getattr(self, "pool_" + (pool if isinstance(pool, str) else name)))
    y = rearrange(y, "b n (h d) -> b n h d", h=self.heads)
    if norm:
        y = getattr(self, "norm_" + (norm if isinstance(norm, str) else name))(y)
    return y.transpose(1, 2)


def attend(self, q, k, v, scale=-0.5, axis=-1, merge="b h n d -> b n (h d)"):
    weights = torch.einsum("bhid,bhjd->bhij", q, k).mul(q.shape[-1] ** scale).softmax(axis)
    return self.proj(rearrange(torch.einsum("bhij,bhjd->bhid", weights, v), merge))


def attention(self, x, **how):
    return attend(self, *(parts_of(self, x, name) for name in "qkv"), **how)


def attention_fused(self, x):
    q, k, v = (parts_of(self, x, name) for name in "qkv")
    return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def attention_by_heads(self, x):
    q, k, v = (parts_of(self, x, name).unbind(1) for name in "qkv")
    d = q[0].shape[-1]
    out = [F.softmax(a @ b.transpose(1, 2) / d**0.5, dim=-1) @ c for a, b, c in zip(q, k, v)]
    return self.proj(torch.cat(out, dim=-1))


def attention_in_double(self, x):
    q, k, v = (parts_of(self, x, name).double() for name in "qkv")
    out = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
    return self.proj(out.transpose(1, 2).flatten(2).float())


def heads_interleaved(self, x):
    q, k, v = (
        rearrange(parts_of(self, x, n, norm=False), "b h n d -> b n (h d)")
        .unflatten(2, (-1, self.heads))
        .permute(0, 3, 1, 2)
        for n in "qkv"
    )
    return attend(self, *(getattr(self, f"norm_{n}")(t) for n, t in zip("qkv", (q, k, v))))


def norm_then_pool(self, x):
    out = []
    for name, part in zip("qkv", self.qkv(x).chunk(3, -1)):
        y = getattr(self, f"norm_{name}")(part.unflatten(-1, (self.heads, -1))).flatten(2)
        out.append(pooled(y, self.size, getattr(self, f"pool_{name}")).unflatten(-1, (self.heads, -1)).transpose(1, 2))
    return attend(self, *out)


def norms_without_class(self, x):
    out = []
    for name in "qkv":
        y = parts_of(self, x, name, norm=False)
        out.append(torch.cat([y[:, :, :1], getattr(self, f"norm_{name}")(y[:, :, 1:])], 2))
    return attend(self, *out)


def second(self, x, relative=lambda self, q: F.pad(self.relative(q[:, :, 1:]), (1, 0, 1, 0)), rest=None, scale=1.0):
    """MViTv2's attention, with the relative scores and the residual as given."""
    q, k, v = (parts_of(self, x, name) for name in "qkv")
    scores = (q @ k.mT) / q.shape[-1] ** 0.5 + scale * relative(self, q)
    y = scores.softmax(-1) @ v
    if rest is None:
        y[:, :, 1:] += q[:, :, 1:]
    else:
        y = y + rest(q)
    return self.proj(y.transpose(1, 2).flatten(2))


def second_in_place(self, x):
    q, k, v = (parts_of(self, x, name) for name in "qkv")
    scores = q @ k.mT / q.shape[-1] ** 0.5
    scores[..., 1:, 1:] += self.relative(q[:, :, 1:])
    out = scores.softmax(-1) @ v
    out[:, :, 1:] += q[:, :, 1:]
    return self.proj(out.transpose(1, 2).reshape(len(x), -1, self.proj.in_features))


def second_fused(self, x):
    q, k, v = (parts_of(self, x, name) for name in "qkv")
    bias = F.pad(self.relative(q[:, :, 1:]), (1, 0, 1, 0))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    cls, rest = y.split([1, y.shape[2] - 1], 2)
    return self.proj(torch.cat([cls, rest + q[:, :, 1:]], 2).transpose(1, 2).flatten(2))


def second_with_mask(self, x):
    q, k, v = (parts_of(self, x, name) for name in "qkv")
    scores = q @ k.mT / q.shape[-1] ** 0.5
    bias = torch.zeros_like(scores)
    bias[:, :, 1:, 1:] = self.relative(q[:, :, 1:])
    on_map = (torch.arange(q.shape[2]) > 0)[:, None]
    out = torch.softmax(scores + bias, -1) @ v + q * on_map
    return self.proj(torch.cat(out.unbind(1), -1))


def added_behind_proj(self, x):
    q, k, v = (parts_of(self, x, name) for name in "qkv")
    scores = q @ k.mT / q.shape[-1] ** 0.5 + F.pad(self.relative(q[:, :, 1:]), (1, 0, 1, 0))
    y = self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    y[:, 1:] += q[:, :, 1:].transpose(1, 2).flatten(2)
    return y


def relative_after_softmax(self, x):
    q, k, v = (parts_of(self, x, name) for name in "qkv")
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) + F.pad(self.relative(q[:, :, 1:]), (1, 0, 1, 0))
    y = weights @ v
    y[:, :, 1:] += q[:, :, 1:]
    return self.proj(y.transpose(1, 2).flatten(2))


# ---------------------------------------------------------------- 5.3


def block(self, x, first=None, normed=None, skip=None, last=None, pool=True):
    """A block, with the parts as given: of the input, of the norm, of the sum, its norm."""
    y = self.norm1(x) if normed is None else normed(self, x)
    shortcut = x if first is None else first(self, x)
    x = (pooled(shortcut, self.size, self.pool_skip) if pool else shortcut) + self.attn(y)
    y = self.norm2(x) if last is None else last(self, x)
    if skip is not None:
        return skip(self, x, y) + self.mlp(y)
    return (x if self.proj is None else self.proj(y)) + self.mlp(y)


def block_step_by_step(self, x):
    skip = pooled_into_a_new_row(x, self.size, self.pool_skip)
    out = self.attn(self.norm1(x))
    out += skip
    normed = self.norm2(out)
    if self.proj is not None:
        out = self.proj(normed)
    return torch.add(self.mlp(normed), out)


def block_clip_by_clip(self, x):
    return torch.cat([block(self, clip[None]) for clip in x])


def block_with_an_identity(self, x):
    proj = self.proj or (lambda y: None)
    x = pooled_clip_by_clip(x, self.size, self.pool_skip) + self.attn(self.norm1(x))
    grown = proj(self.norm2(x))
    return self.mlp(self.norm2(x)) + (x if grown is None else grown)


def side_by_side(self, x):
    skip = pooled(x, self.size, self.pool_skip)
    y, x = self.norm2(skip), skip + self.attn(self.norm1(x))
    return (x if self.proj is None else self.proj(self.norm2(x))) + self.mlp(y)


# ---------------------------------------------------------------- 5.4


def table(depth, dim, starts, kv, **columns):
    """The plan as columns; each may be replaced by a function of block, stages begun and the next one's."""
    rows = []
    for i in range(depth):
        n, after = sum(s <= i for s in starts), sum(s <= i + 1 for s in starts)
        row = dict(C=dim << n, C2=dim << after, h=2**n, q=1 + (i in starts), k=max(1, kv >> n))
        rows.append([columns[name](i, n, after) if name in columns else value for name, value in row.items()])
    return torch.tensor(rows)


def table_by_stage(depth, dim, starts, kv):
    edges, rows = [0, *starts, depth], []
    for stage, (a, b) in enumerate(zip(edges, edges[1:])):
        C, key = dim * 2**stage, max(1, kv // 2**stage)
        rows += [[C, C, 2**stage, 1, key] for _ in range(b - a)]
        if stage:
            rows[a][3] = 2
            rows[a - 1][1] = C
    return torch.tensor(rows)


def table_in_arrays(depth, dim, starts, kv):
    begins = torch.zeros(depth + 1, dtype=torch.long)
    begins[list(starts)] = 1
    stage = begins.cumsum(0)
    channels = dim * 2**stage
    key = torch.div(torch.full((depth + 1,), kv), 2**stage, rounding_mode="floor").clamp(min=1)
    return torch.stack([channels[:-1], channels[1:], (2**stage)[:-1], 1 + begins[:-1], key[:-1]], -1)


def table_recursive(depth, dim, starts, kv, i=0, heads=1):
    if i == depth:
        return torch.zeros(0, 5, dtype=torch.long)
    if i in starts:
        heads, kv = heads * 2, kv // 2 or 1
    wide = dim * (1 + (i + 1 in starts))
    row = torch.tensor([[dim, wide, heads, 1 + (i in starts), kv]])
    return torch.cat([row, table_recursive(depth, wide, starts, kv, i + 1, heads)])


# ---------------------------------------------------------------- 5.5


def network(self, x, space=None, time=None, cls=None, blocks=None, norm=True, read=None, front=True):
    T, H, W = self.size
    x = self.patch_embed(x)
    x = x + (self.pos_embed_spatial.repeat(1, T, 1) if space is None else space(self))
    x = x + (torch.repeat_interleave(self.pos_embed_temporal, H * W, dim=1) if time is None else time(self))
    token = (self.cls_token + self.pos_embed_class if cls is None else cls(self)).repeat(len(x), 1, 1)
    x = torch.cat([token, x] if front else [x, token], 1)
    for layer in self.blocks if blocks is None else blocks(self):
        x = layer(x)
    x = self.norm(x) if norm else x
    return self.head(x[:, 0] if read is None else read(x))


def network_on_the_grid(self, x):
    T, H, W = self.size
    x = rearrange(self.patch_embed(x), "b (t h w) c -> b t h w c", t=T, h=H)
    space = rearrange(self.pos_embed_spatial, "1 (h w) c -> 1 1 h w c", h=H)
    x = x + space + self.pos_embed_temporal[:, :, None, None]
    first = self.cls_token + self.pos_embed_class
    x = torch.cat([first.expand(x.shape[0], -1, -1), x.flatten(1, 3)], dim=1)
    for layer in self.blocks:
        x = layer(x)
    return self.head(self.norm(x[:, 0]))


def network_with_one_sum(self, x):
    T, H, W = self.size
    both = (self.pos_embed_temporal[0, :, None] + self.pos_embed_spatial).reshape(1, T * H * W, -1)
    positions = torch.cat([self.pos_embed_class, both], 1)
    x = self.patch_embed(x)
    x = torch.cat([self.cls_token.expand(len(x), 1, -1), x], 1) + positions
    for layer in self.blocks:
        x = layer(x)
    return self.head(self.norm(x))[:, 0]


def all_get_positions(self, x):
    T, H, W = self.size
    x = self.patch_embed(x) + self.pos_embed_spatial.repeat(1, T, 1)
    x = x + self.pos_embed_temporal.repeat_interleave(H * W, 1)
    cls = self.cls_token + self.pos_embed_class + self.pos_embed_spatial[:, :1] + self.pos_embed_temporal[:, :1]
    x = torch.cat([cls.expand(len(x), -1, -1), x], 1)
    for layer in self.blocks:
        x = layer(x)
    return self.head(self.norm(x)[:, 0])


def swapped_positions(self):
    return self.pos_embed_spatial.repeat_interleave(self.size[0], 1)


def swapped_times(self):
    return self.pos_embed_temporal.repeat(1, self.size[1] * self.size[2], 1)


def step(name):
    """What is said of a forgotten step."""
    return f"  Likely: the step “{name}” is forgotten\n"


RIGHT = {
    "5.1": {
        "einops": pooled,
        "a new row": pooled_into_a_new_row,
        "clip by clip": pooled_clip_by_clip,
        "float64": lambda x, size, pool: pooled_clip_by_clip(x.clone(), size, pool).double(),
        "permute": lambda x, size, pool: torch.cat(
            [
                x[:, 0][:, None],
                pool(x[:, 1:].reshape(len(x), *size, -1).permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1).flatten(1, 3),
            ],
            dim=1,
        ),
    },
    "5.2": {
        "einsum": attention,
        "fused": attention_fused,
        "head by head": attention_by_heads,
        "float64 inside": attention_in_double,
        "scaled queries": lambda self, x: attend(
            self,
            parts_of(self, x, "q") / (self.proj.in_features // self.heads) ** 0.5,
            parts_of(self, x, "k"),
            parts_of(self, x, "v"),
            scale=0,
        ),
    },
    "5.3": {
        "short": block,
        "step by step": block_step_by_step,
        "clip by clip": block_clip_by_clip,
        "two norms": block_with_an_identity,
    },
    "5.4": {
        "shifts": table,
        "stage by stage": table_by_stage,
        "arrays": table_in_arrays,
        "recursive": table_recursive,
        "int32": lambda *args: table(*args).int(),
    },
    "5.5": {
        "short": network,
        "on the grid": network_on_the_grid,
        "one sum": network_with_one_sum,
        "norm of one token": lambda self, x: network(self, x, norm=False, read=lambda y: self.norm(y[:, 0])),
    },
    "5.6": {"padded": second, "in place": second_in_place, "fused": second_fused, "masks": second_with_mask},
}


WRONG = {
    "5.1": {
        "reshape in": (
            lambda x, size, pool: torch.cat(
                [x[:, :1], pool(x[:, 1:].reshape(len(x), x.shape[2], *size)).flatten(2).transpose(1, 2)], 1
            ),
            likely("5.1", "a reshape reads"),
        ),
        "reshape out": (
            lambda x, size, pool: torch.cat(
                [x[:, :1], pool(x[:, 1:].mT.unflatten(2, size)).reshape(len(x), -1, x.shape[2])], 1
            ),
            likely("5.1", "a reshape makes tokens"),
        ),
        "class token in the map": (
            lambda x, size, pool: torch.cat([x[:, :1], pooled(x.roll(1, 1), size, pool)[:, 1:]], 1),
            likely("5.1", "is taken for the first place"),
        ),
        "class token last": (lambda x, size, pool: pooled(x, size, pool).roll(-1, 1), likely("5.1", "behind the map")),
        "height and width": (
            lambda x, size, pool: pooled(
                x, (size[0], size[2], size[1]), pool, "b (t h w) c -> b c t w h", "b c t h w -> b (t h w) c"
            ),
            likely("5.1", "read the tokens in the order (T W H)"),
        ),
        "written W H": (
            lambda x, size, pool: pooled(x, size, pool, write="b c t h w -> b (t w h) c"),
            likely("5.1", "write the pooled places in the order (T W H)"),
        ),
        "written H W T": (
            lambda x, size, pool: pooled(x, size, pool, write="b c t h w -> b (h w t) c"),
            likely("5.1", "write the pooled places in the order (H W T)"),
        ),
        "mean for the class token": (
            lambda x, size, pool: pooled(x, size, pool, cls=lambda x: x[:, 1:].mean(1, keepdim=True)),
            likely("5.1", "the mean of the map stands"),
        ),
        "last token": (
            lambda x, size, pool: pooled(x, size, pool, cls=lambda x: x[:, -1:]),
            likely("5.1", "the last token stands"),
        ),
        "no class token": (lambda x, size, pool: pooled(x, size, pool)[:, 1:], likely("5.1", "is missing from")),
        "no pooling": (lambda x, size, pool: pooled(x, size, lambda grid: grid), likely("5.1", "map is not pooled")),
        "channels last": (
            lambda x, size, pool: torch.cat([x[:, :1], pool(x[:, 1:].unflatten(1, size)).flatten(1, 3)], 1),
            "Error on x of shape",
        ),
        "in place": (pooled_scratch, "changes its input"),
    },
    "5.2": {
        "no scale": (lambda self, x: attention(self, x, scale=0), likely("5.2", "are not scaled")),
        "scale of all channels": (
            lambda self, x: attend(
                self, parts_of(self, x, "q") * self.heads**-0.5, parts_of(self, x, "k"), parts_of(self, x, "v")
            ),
            likely("5.2", "root of all C channels"),
        ),
        "softmax over queries": (lambda self, x: attention(self, x, axis=-2), likely("5.2", "runs over the queries")),
        "no norm": (
            lambda self, x: attend(self, *(parts_of(self, x, n, norm=False) for n in "qkv")),
            likely("5.2", "there is no norm after"),
        ),
        "values not normalised": (
            lambda self, x: attend(
                self, parts_of(self, x, "q"), parts_of(self, x, "k"), parts_of(self, x, "v", norm=False)
            ),
            likely("5.2", "the values are not normalised"),
        ),
        "norm before pooling": (norm_then_pool, likely("5.2", "the norm comes before the pooling")),
        "class token not normalised": (norms_without_class, likely("5.2", "class token is left out")),
        "k pools v": (
            lambda self, x: attend(
                self, parts_of(self, x, "q"), parts_of(self, x, "k"), parts_of(self, x, "v", pool="k")
            ),
            likely("5.2", "`pool_k` pools the values"),
        ),
        "q not pooled": (
            lambda self, x: attend(
                self, parts_of(self, x, "q", pool=False), parts_of(self, x, "k"), parts_of(self, x, "v")
            ),
            likely("5.2", "the queries are not pooled"),
        ),
        "k, q, v": (
            lambda self, x: attend(
                self, parts_of(self, x, "q", third="k"), parts_of(self, x, "k", third="q"), parts_of(self, x, "v")
            ),
            "you read it as k, q, v\n",
        ),
        "heads interleaved": (heads_interleaved, likely("5.2", "head 0 is the first d")),
        "merged without transpose": (
            lambda self, x: self.proj(
                F.scaled_dot_product_attention(*(parts_of(self, x, n) for n in "qkv")).reshape(
                    len(x), -1, self.proj.in_features
                )
            ),
            likely("5.2", "merged without a transpose"),
        ),
        "no projection": (
            lambda self, x: rearrange(
                F.scaled_dot_product_attention(*(parts_of(self, x, n) for n in "qkv")), "b h n d -> b n (h d)"
            ),
            likely("5.2", "the last projection"),
        ),
        "residual pooling": (
            lambda self, x: self.proj(
                rearrange(
                    F.scaled_dot_product_attention(*(parts_of(self, x, n) for n in "qkv")) + parts_of(self, x, "q"),
                    "b h n d -> b n (h d)",
                )
            ),
            likely("5.2", "the pooled queries are added to"),
        ),
    },
    "5.3": {
        "first skip normalised": (
            lambda self, x: block(self, x, first=lambda self, x: self.norm1(x)),
            likely("5.3", "the first skip is normalised"),
        ),
        "no first norm": (lambda self, x: block(self, x, normed=lambda self, x: x), likely("5.3", "without `norm1`")),
        "no first skip": (
            lambda self, x: block(self, x, first=lambda self, x: torch.zeros_like(x)),
            likely("5.3", "no skip around attention"),
        ),
        "no second norm": (lambda self, x: block(self, x, last=lambda self, x: x), step("norm2")),
        "proj of the sum": (
            lambda self, x: block(self, x, skip=lambda self, x, y: x if self.proj is None else self.proj(x)),
            "  Likely: where channels grow, `proj` takes the tokens before `norm2`; it takes the normalised ones",
        ),
        "second skip normalised": (
            lambda self, x: block(self, x, skip=lambda self, x, y: y if self.proj is None else self.proj(y)),
            "  Likely: the skip of the MLP is normalised in every block",
        ),
        "norm1 twice": (
            lambda self, x: block(self, x, last=lambda self, x: self.norm1(x)),
            "  Likely: `norm1` stands in place of `norm2`\n",
        ),
        "no second skip": (
            lambda self, x: self.mlp(self.norm2(pooled(x, self.size, self.pool_skip) + self.attn(self.norm1(x)))),
            likely("5.3", "no skip around the MLP"),
        ),
        "no pooling": (lambda self, x: block(self, x, pool=False), "your function raised RuntimeError on self=a block"),
        "no MLP": (lambda self, x: pooled(x, self.size, self.pool_skip) + self.attn(self.norm1(x)), "numbers differ"),
        "side by side": (side_by_side, likely("5.3", "side by side")),
    },
    "5.4": {
        "MViTv2": (
            lambda depth, dim, starts, kv: table(
                depth,
                dim,
                starts,
                kv,
                C=lambda i, n, after: dim << sum(s <= i - 1 for s in starts),
                C2=lambda i, n, after: dim << n,
            ),
            likely("5.4", "which is MViTv2's rule"),
        ),
        "channels stay": (
            lambda depth, dim, starts, kv: table(
                depth, dim, starts, kv, C=lambda i, n, after: dim, C2=lambda i, n, after: dim
            ),
            likely("5.4", "the channels never double"),
        ),
        "heads early": (
            lambda depth, dim, starts, kv: table(depth, dim, starts, kv, h=lambda i, n, after: 2**after),
            likely("5.4", "heads double one block early"),
        ),
        "one head": (
            lambda depth, dim, starts, kv: table(depth, dim, starts, kv, h=lambda i, n, after: 1),
            likely("5.4", "always one head"),
        ),
        "q everywhere": (
            lambda depth, dim, starts, kv: table(depth, dim, starts, kv, q=lambda i, n, after: 2),
            likely("5.4", "stride 2 in every block; only"),
        ),
        "q at the end": (
            lambda depth, dim, starts, kv: table(depth, dim, starts, kv, q=lambda i, n, after: 1 + (after > n)),
            likely("5.4", "pooled in the last block of a stage"),
        ),
        "fixed": (
            lambda depth, dim, starts, kv: table(depth, dim, starts, kv, k=lambda i, n, after: kv),
            likely("5.4", "the same in all blocks"),
        ),
        "zero": (
            lambda depth, dim, starts, kv: table(depth, dim, starts, kv, k=lambda i, n, after: kv >> n),
            likely("5.4", "becomes 0"),
        ),
        "late": (
            lambda depth, dim, starts, kv: table(
                depth, dim, starts, kv, k=lambda i, n, after: max(1, kv >> sum(s <= i - 1 for s in starts))
            ),
            likely("5.4", "in the block after the one"),
        ),
        "columns": (lambda *args: table(*args)[:, [0, 1, 2, 4, 3]], likely("5.4", "“query stride” and “key stride”")),
        "transposed": (
            lambda *args: table(*args).T,
            "shape (5, 4), wanted (depth, 5) = (4, 5)\n"
            "  Likely: your axes are in another order: finish with `.permute(1, 0)`\n",
        ),
        "list": (lambda *args: table(*args).tolist(), "returned a list, not a tensor"),
        "floats": (lambda *args: table(*args).float(), "dtype torch.float32, wanted torch.int64\n"),
    },
    "5.5": {
        "space interleaved": (
            lambda self, x: network(self, x, space=swapped_positions),
            "  Likely: the positions in space are repeated token by token",
        ),
        "time repeated": (
            lambda self, x: network(self, x, time=swapped_times),
            "  Likely: the positions in time are repeated as a whole",
        ),
        "both": (
            lambda self, x: network(self, x, space=swapped_positions, time=swapped_times),
            likely("5.5", "time and space are exchanged"),
        ),
        "no time": (lambda self, x: network(self, x, time=lambda self: 0), step("positions in time")),
        "no space": (lambda self, x: network(self, x, space=lambda self: 0), step("positions in space")),
        "class token without position": (
            lambda self, x: network(self, x, cls=lambda self: self.cls_token),
            "  Likely: the class token lacks its position",
        ),
        "class token last": (lambda self, x: network(self, x, front=False, read=lambda y: y[:, -1]), "numbers differ"),
        "mean": (
            lambda self, x: network(self, x, read=lambda y: y.mean(1)),
            "  Likely: the mean of all tokens is classified",
        ),
        "mean of the map": (
            lambda self, x: network(self, x, read=lambda y: y[:, 1:].mean(1)),
            "  Likely: the mean of the map is classified",
        ),
        "no norm": (lambda self, x: network(self, x, norm=False), step("norm")),
        "softmax": (lambda self, x: network(self, x).softmax(1), "  Likely: the result is a softmax"),
        "first block only": (
            lambda self, x: network(self, x, blocks=lambda s: s.blocks[:1]),
            "only the first block is run",
        ),
        "positions for all": (all_get_positions, likely("5.5", "added to the class token as well")),
    },
    "5.6": {
        "exercise 5.2": (attention, likely("5.6", "this is the attention of MViT")),
        "no relative": (
            lambda self, x: second(self, x, lambda self, q: 0),
            likely("5.6", "relative scores are missing"),
        ),
        "relative scaled": (
            lambda self, x: second(self, x, scale=(self.proj.in_features // self.heads) ** -0.5),
            likely("5.6", "divided by √d as well"),
        ),
        "padded behind": (
            lambda self, x: second(self, x, lambda self, q: F.pad(self.relative(q[:, :, 1:]), (0, 1, 0, 1))),
            likely("5.6", "put behind the map"),
        ),
        "no residual": (
            lambda self, x: second(self, x, rest=lambda q: 0 * q),
            likely("5.6", "are not added to the output"),
        ),
        "residual of the class token": (
            lambda self, x: second(self, x, rest=lambda q: q),
            likely("5.6", "query of the class token is added as well"),
        ),
        "residual scaled": (
            lambda self, x: second(self, x, rest=lambda q: F.pad(q[:, :, 1:], (0, 0, 1, 0)) / q.shape[-1] ** 0.5),
            likely("5.6", "that are added are divided"),
        ),
        "behind proj": (added_behind_proj, likely("5.6", "added behind `proj`; they")),
        "behind softmax": (relative_after_softmax, likely("5.6", "added behind the softmax; they")),
        "queries with the class token": (
            lambda self, x: second(self, x, lambda self, q: self.relative(q)),
            "your function raised ValueError on self=an attention",
        ),
        "first queries": (
            lambda self, x: second(self, x, lambda self, q: F.pad(self.relative(q[:, :, :-1]), (1, 0, 1, 0))),
            likely("5.6", "is given the first N' queries"),
        ),
        "other sign": (lambda self, x: second(self, x, scale=-1.0), likely("5.6", "scores have the other sign")),
    },
}
