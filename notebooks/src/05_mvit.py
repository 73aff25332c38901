# %% [markdown]
# # 05 · MViT: attention that pools
#
# *Fan et al., "Multiscale Vision Transformers", [arXiv 2104.11227](https://arxiv.org/abs/2104.11227), and Li et al., "MViTv2", [arXiv 2112.01526](https://arxiv.org/abs/2112.01526).*
#
# Video Swin (notebook 04) makes attention cheap by windows: a token sees few others. In MViT every query looks at keys from all over the clip. MViT makes attention
# cheap by **pooling**: before queries and keys meet, the map of keys and values is made smaller. The same operation, applied to the queries, makes the output smaller,
# and so a network with several resolutions comes out. Here you build both, then the whole network.
#
# | | |
# |---|---|
# | **Needs** | PyTorch; softmax attention with queries, keys and values (notebook 02). Notebook 04 helps, but is not required |
# | **Data** | sections 1 to 12: none, clips are random numbers; section 13: the embedded clips (`vt-course data synthetic`, once) |
# | **Time** | 3 to 4 hours with the exercises (sections 1 to 7: 2 hours and a half); to run it: 1 minute on two cores |
# | **Profiles** | `smoke`; `lecture` and `full` test the trained model on 2,000 test clips instead of 400 (section 13), so that the error bars are less than half as long; a minute more |
# | **Hardware** | a laptop CPU and 2 GB of memory |
#
# **You will be able to**
#
# 1. follow a clip through MViT with the shape at every step, and rebuild the paper's Table 2 by running it;
# 2. say what pooling the queries changes, what pooling keys and values changes, and why the two are used in different blocks;
# 3. write the block: the order of norms, poolings and skips, and the place where channels grow;
# 4. own a network of your cells that loads the weights of the package's model strictly, and agrees with it and with torchvision;
# 5. predict parameters and multiply-accumulates from formulas, and compare them with the tables of the paper, row by row;
# 6. turn MViT into MViTv2 by four changes, and into a model for images by taking one frame for a clip.

# %% tags=["parameters"]
PROFILE = "smoke"   # lecture, full: 2,000 test clips in section 13

# %%
import math
from itertools import product

import torch
import torch.nn.functional as F
from torch import nn

from vt_course.lab import show
from vt_course.lab.check import check
from vt_course.lab.report import agree, differ, report, within

_ = torch.manual_seed(0)

# %% [markdown]
# `report` prints shapes and counts. `agree` stops the notebook unless two tensors match everywhere, and prints the bound it checked (times |x| for numbers x above 1). `differ` is
# its opposite, the control; its line begins with ≠. `within` checks that a number lies in an interval.

# %% [markdown] tags=["core"]
# ## 1 · Few channels for many tokens, many channels for few
#
# A plain vision Transformer (ViT) has one map: its tokens stay as many from the first block to the last, and each has as many channels. A convolutional network does
# otherwise. It begins with large maps of few channels, which see fine detail, and ends with small maps of many channels, which hold what the
# detail means. MViT builds a Transformer in this way. Its blocks form four [stages](glossary.md#stage). From stage to stage height and width of the map are halved, and the channels double.
#
# **Predict, then run.** A clip has 16 frames of 224 × 224 pixels. The first layer makes one token for each 2 frames and 4 × 4 pixels, with 96 channels. How many tokens
# are there in stage 1, and how many in stage 4? By which factor does the number of *numbers* (tokens times channels) change from one stage to the next?

# %%
def stage_shapes(T, H, W, dim=96, stages=4):
    """The map behind the first attention of each stage."""
    shape = [T // 2, H // 4, W // 4]
    for i in range(stages):
        yield dict(name=f"stage {i + 1}", shape=tuple(shape),
                   channels=dim * 2**i)
        shape[1:] = [math.ceil(n / 2) for n in shape[1:]]


stages = list(stage_shapes(16, 224, 224))
report(**{s["name"]: (*s["shape"], s["channels"]) for s in stages})

# %% tags=["figure"] alt="Four boxes for the maps of MViT-B: height and width are halved from stage to stage while 8 time steps stay, so 25,088 tokens become 392, and the memory of one map is halved each time."
show.token_flow(stages, title="MViT-B, 16 frames of 224 × 224")

# %% [markdown] tags=["answer"]
# 8 · 56 · 56 = 25,088 tokens enter, 8 · 7 · 7 = 392 are left. A quarter of the tokens with twice the channels are half the numbers. (The paper counts the first layer as a scale of its own, so
# its Table 2 calls these stages scale 2 to scale 5.)

# %% [markdown]
# Attention of all 25,088 tokens to all others would compare 629 million pairs in each head. That is the problem; pooling is the paper's answer.

# %% [markdown] tags=["core", "claim:mvit-token-441"]
# ## 2 · Cubes that overlap, positions, and one more token
#
# The first layer is a convolution over cubes of 3 × 7 × 7 pixels with a stride of 2 × 4 × 4 (Table 2 calls it cube₁). The stride is smaller than the cube, so
# neighbouring cubes overlap. At the border half a cube of zeros is added. (In Swin, TimeSformer and ViT cube and stride are equal; notebook 01, section 7, compares them.)

# %%
class PatchEmbed(nn.Module):
    def __init__(self, dim, cube=(3, 7, 7), stride=(2, 4, 4)):
        super().__init__()
        half = tuple(k // 2 for k in cube)
        self.proj = nn.Conv3d(3, dim, cube, stride, half)

    def forward(self, x):                        # (B, 3, T, H, W)
        return self.proj(x).flatten(2).mT        # (B, N, C)

# %%
tokens = PatchEmbed(96)(torch.randn(1, 3, 16, 64, 64))
report(tokens=tokens.shape, of_a_map=(16 // 2, 64 // 4, 64 // 4))

# %% [markdown]
# The tokens now are one long row: time step by time step, in each of them row by row of the map. Two things are added.
#
# **Positions.** Attention does not know where a token stands, so a learned vector is added to each, a [position embedding](glossary.md#position-embedding). One vector for each of the T · H · W places of the map
# would be many numbers. MViT learns H · W vectors for places in a frame and T vectors for time steps, and adds both. This is the *separate* embedding; section 10 compares it with others.
#
# **Predict** for the map of 8 × 56 × 56 with 96 channels: how many numbers does each kind have, in millions?

# %%
T, H, W, C = 8, 56, 56, 96
report(one_for_each_place=T * H * W * C, separate=(H * W + T) * C)

# %% [markdown]
# **The [class token](glossary.md#class-token).** One more token is put in front of the row. It stands for no place. It takes part in attention like all others, and at the end the classifier reads it alone. So
# a row has 1 + N tokens, and *every step that treats tokens as a map must leave the first one out*.

# %% [markdown] tags=["core", "claim:mvit-pooled-length-even", "claim:mvit-kernel-is-not-the-stride"]
# ## 3 · Pooling a map of tokens
#
# [Pooling](glossary.md#pooling) replaces a map by a smaller one: each new token is made from the tokens in a small box around a place, and the boxes lie a **stride** apart. What is done in the box may be the maximum, the
# average, or a weighted sum with learned weights. The paper tries all three (Table 15) and the released models use the last, with boxes of 3 × 3 × 3.
#
# Its weights are few: each channel of a head has 27 numbers of its own, and all heads share them. Here it is, one place and one neighbour at a time. `grid` is the map of one head, d is the number of its channels.

# %% tags=["definition"]
def pool_one_head(grid, weight, stride):
    """(T, H, W, d) and (kt, kh, kw, d) -> (T', H', W', d)."""
    box = weight.shape[:3]
    t, h, w = (k // 2 for k in box)              # zeros at the border
    grid = F.pad(grid, (0, 0, w, w, h, h, t, t))
    size = [(n - k) // s + 1
            for n, k, s in zip(grid.shape, box, stride)]
    out = torch.zeros(*size, grid.shape[3])
    for place in product(*map(range, size)):
        for at in product(*map(range, box)):
            t, h, w = (p * s + a for p, s, a in zip(place, stride, at))
            out[place] += weight[at] * grid[t, h, w]
    return out

# %%
grid = torch.randn(4, 6, 6, 8)                   # (T, H, W, d)
weight = torch.randn(3, 3, 3, 8)                 # (kt, kh, kw, d)
for stride in [(1, 1, 1), (1, 2, 2), (1, 4, 4)]:
    pooled = pool_one_head(grid, weight, stride)
    report(**{f"stride {stride}": pooled.shape[:3]})

# %% [markdown]
# With a box of an odd side k and k // 2 zeros at each border, an axis of n places and stride s gives ⌈n/s⌉ places, whatever k is. With stride 1 the map keeps its size.
#
# A convolution in which each channel has a filter of its own is called [depthwise](glossary.md#depthwise-convolution). The same numbers in one call, for all heads of a map `(B, h·d, T, H, W)`:

# %% tags=["fast"]
class ConvPool(nn.Conv3d):
    """One filter for each channel of a head; the heads share them."""

    def __init__(self, head_dim, box, stride):
        half = tuple(k // 2 for k in box)
        super().__init__(head_dim, head_dim, box, stride, half,
                         groups=head_dim, bias=False)

    def forward(self, x):                        # (B, h·d, T, H, W)
        heads = x.shape[1] // self.groups
        weight = self.weight.repeat(heads, 1, 1, 1, 1)
        return F.conv3d(x, weight, None, self.stride, self.padding,
                        groups=x.shape[1])       # (B, h·d, T', H', W')

# %% tags=["fast"]
conv = ConvPool(8, (3, 3, 3), (1, 2, 2))
by_hand = conv.weight[:, 0].movedim(0, -1)       # (3, 3, 3, d)
two_heads = torch.randn(1, 16, 4, 6, 6)          # (B, h·d, T, H, W)
for n, head in enumerate(two_heads[0].split(8)):
    want = pool_one_head(head.movedim(0, -1), by_hand, (1, 2, 2))
    got = conv(two_heads)[0, 8 * n:8 * n + 8].movedim(0, -1)
    agree(f"convolution = definition, head {n}", got, want)

# %% [markdown]
# ### Exercise 5.1 · Pool the map, not the class token
#
# Difficulty 2/5 · importance 5/5 · 15 minutes
#
# `pool` takes maps `(B, C, T, H, W)` and gives smaller ones; it may be `ConvPool`, a maximum, or `nn.Identity()`, which changes nothing. Your tokens are a row `(B, 1 + N, C)`: the class token first, then the N = T · H · W tokens of the map, with time
# slowest and width fastest. Make a map of the N tokens, pool it, make a row of it again, and put the class token, unchanged, in front. `size` is (T, H, W).

# %% tags=["exercise:5.1"]
def pool_tokens(x, size, pool):
    """(B, 1 + T·H·W, C) -> (B, 1 + T'·H'·W', C)."""
    raise NotImplementedError("exercise 5.1")

# %% tags=["check:5.1"]
pool_tokens = check("5.1", pool_tokens)

# %% [markdown] tags=["hints:5.1"]
# <details><summary>Hint 1: intuition</summary>
#
# In a row the channels are the last axis, in a map they are the second. So the channels must move, once before the pooling and once after it. A reshape alone moves nothing.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# class token, rest = split the row → transpose the rest → unflatten its last axis to (T, H, W) → pool → flatten the last three axes → transpose → concatenate
# </details>
# <details><summary>Symptom: the shape is right, most numbers are wrong</summary>
#
# The row was reshaped to (B, C, T, H, W) without a transpose, or the last token was dropped instead of the first.
# </details>

# %% tags=["solution:5.1"]
def pool_tokens(x, size, pool):
    """(B, 1 + T·H·W, C) -> (B, 1 + T'·H'·W', C)."""
    grid = x[:, 1:].mT.unflatten(2, size)        # (B, C, T, H, W)
    rest = pool(grid).flatten(2).mT              # (B, T'·H'·W', C)
    return torch.cat([x[:, :1], rest], 1)


pool_tokens = check("5.1", pool_tokens, solution=True)

# %% [markdown]
# A row of the small map, pooled by 1 × 2 × 2. The class token passes by, as the control shows: change it, and nothing else changes.

# %%
row = torch.randn(2, 1 + 4 * 6 * 6, 16)          # (B, 1 + N, C)
once = pool_tokens(row, (4, 6, 6), conv)
report(before=row.shape, after=once.shape, map_after=(4, 3, 3))
other = row.clone()
other[:, 0] = 7.0
again = pool_tokens(other, (4, 6, 6), conv)
agree("the map does not see the class token", again[:, 1:], once[:, 1:])
differ("the class token, before and after", again[:, 0], once[:, 0])

# %% [markdown] tags=["core", "claim:mvit-pooling-attention"]
# ## 4 · Pooling attention
#
# A token x gives a query q, a key k and a value v, by one linear layer each. [Pooling attention](glossary.md#pooling-attention) pools the three maps, each with weights of its own, and then attends as always:
#
# Attention(x) = softmax(P(q) · P(k)ᵀ / √d) · P(v)
#
# P is a pooling, and d the number of channels of a head. (This is the formula of the paper's section 3.1. In the released code a LayerNorm follows each learned pooling; it is a part of P here. Maximum and average have none.) Three facts follow, and they are the whole design.
#
# - **The output has as many tokens as P(q).** A row of P(q) · P(k)ᵀ belongs to one pooled query. So pooling the *queries* shrinks the map. It is done in the first block of stages 2, 3 and 4.
# - **P(k) and P(v) must be equally long**, because each weight belongs to one key and its value. So both use one stride.
# - **Pooling keys and values does not change the shape of the output.** Each output is a sum over keys, so their number does not show in it. Pooling them only makes the matrix of scores narrower, and thereby cheaper. So it is done in *every* block. (In stage 4 the stride is 1. Nothing gets narrower there, but the convolution and the norm stay.)
#
# **Predict.** In stage 1 of MViT-B there are 25,088 map tokens and one head. Keys and values are pooled with stride 1 × 8 × 8. How many columns has the matrix of scores, and by which factor is it smaller than without pooling?

# %%
def places(size, stride):
    return [math.ceil(n / s) for n, s in zip(size, stride)]


map_1 = (8, 56, 56)
keys = 1 + math.prod(places(map_1, (1, 8, 8)))
queries = 1 + math.prod(map_1)
report(rows_one_a_query=queries, columns_one_a_key=keys,
       times_smaller=f"{queries / keys:.1f}")

# %% tags=["figure"] alt="A table of the tensors of pooling attention in block 0 of MViT-B with their shapes and bytes: tokens, q, k and v have 25,089 rows and 9.6 MB each, pooled keys and values 393 rows and 151 kB, the scores 39.4 MB, the output 9.6 MB."
show.shape_flow(
    [dict(name="tokens", axes="1+N C", shape=(queries, 96)),
     dict(name="q, k, v, each", axes="1+N C", shape=(queries, 96)),
     dict(name="P(k), P(v), each", axes="K C", shape=(keys, 96)),
     dict(name="scores, weights", axes="1+N K",
          shape=(queries, keys)),
     dict(name="output", axes="1+N C", shape=(queries, 96))],
    "Pooling attention in block 0 of MViT-B, one head", counts=False)

# %% [markdown]
# Now the definition: the pooling of section 3 for each head, then one query at a time. `layer` is the layer that you finish in exercise 5.2: it holds `qkv`, `proj`, and a pooling and a norm for each of q, k and v. The class token is neither pooled nor left out of attention: it is a query, a key and a value like the others. And the LayerNorm
# after the pooling normalises it too. (That is not in the paper; it is what the released code does, and what weights were trained with.)

# %% tags=["definition"]
def heads_by_definition(layer, x, name):
    """(1, 1 + N, C) -> a list: (1 + N', d) for each head."""
    part = layer.qkv(x).chunk(3, -1)["qkv".index(name)][0]
    pool = getattr(layer, f"pool_{name}")
    norm = getattr(layer, f"norm_{name}")
    out = []
    for head in part.chunk(layer.heads, -1):         # (1 + N, d)
        rest = head[1:]
        if isinstance(pool, ConvPool):
            weight = pool.weight[:, 0].movedim(0, -1)
            rest = rest.unflatten(0, layer.size)     # (T, H, W, d)
            rest = pool_one_head(rest, weight, pool.stride)
            rest = rest.flatten(0, 2)                # (N', d)
        out.append(norm(torch.cat([head[:1], rest])))
    return out

# %% tags=["definition"]
def attention_by_definition(layer, x):
    """(1, 1 + N, C) -> (1, 1 + N', C'), one query at a time."""
    heads = []
    for q, k, v in zip(*(heads_by_definition(layer, x, name)
                         for name in "qkv")):
        rows = []
        for query in q:
            scores = torch.stack([query @ key for key in k])
            weights = (scores / math.sqrt(len(query))).softmax(0)
            rows.append(sum(w * value for w, value in zip(weights, v)))
        heads.append(torch.stack(rows))              # (1 + N', d)
    return layer.proj(torch.cat(heads, -1))[None]

# %% [markdown]
# ### Exercise 5.2 · Pooling attention
#
# Difficulty 4/5 · importance 5/5 · 30 minutes
#
# Write the `forward` of the layer, for all clips and heads at once. `self` has these attributes:
#
# - `heads`, `size`: the number of heads h, and (T, H, W) of the map that comes in;
# - `qkv`: one linear layer from C to 3 · C' channels, which are those of q, of k and of v, in this order; `proj`: a linear layer from C' to C', the last step;
# - `pool_q`, `pool_k`, `pool_v`: poolings for `pool_tokens`; `nn.Identity()` where nothing is pooled;
# - `norm_q`, `norm_k`, `norm_v`: LayerNorms over the d = C'/h channels of one head, for *all* tokens; `nn.Identity()` where nothing is pooled.
#
# Head 0 has the first d of the C' channels. `pool_tokens` gets all heads at once, `(B, 1 + N, C')`; norms take `(..., d)`. Compute the scores yourself, without `F.scaled_dot_product_attention`: section 9 measures what storing them takes.

# %% tags=["exercise:5.2"]
def attention_forward(self, x):
    """(B, 1 + N, C) -> (B, 1 + N', C'): softmax(P(q)·P(k)ᵀ/√d)·P(v)."""
    raise NotImplementedError("exercise 5.2")

# %% tags=["check:5.2"]
attention_forward = check("5.2", attention_forward)

# %% [markdown] tags=["hints:5.2"]
# <details><summary>Hint 1: intuition</summary>
#
# The three parts are treated alike, so loop over the letters q, k and v; `getattr(self, "pool_q")` finds a layer by its name. Only after that do they meet.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# for each part: pool the row → unflatten the channels to (h, d) → norm → heads to the second axis, `(B, h, 1 + N', d)`
#
# then: scores, scaled → softmax over keys → times values → heads back → flatten (h, d) → last projection
# </details>
# <details><summary>Symptom: right with one head, wrong with two</summary>
#
# Look at how heads are split and merged. Both need a transpose, because tokens and heads change places.
# </details>
# <details><summary>Symptom: "wants a map (B, C, T, H, W)"</summary>
#
# A pooling was called on a row of tokens. `pool_tokens` makes the map, and keeps the class token out.
# </details>

# %% tags=["solution:5.2"]
def attention_forward(self, x):
    """(B, 1 + N, C) -> (B, 1 + N', C'): softmax(P(q)·P(k)ᵀ/√d)·P(v)."""
    parts = []
    for part, name in zip(self.qkv(x).chunk(3, -1), "qkv"):
        pool = getattr(self, f"pool_{name}")
        part = pool_tokens(part, self.size, pool)
        part = part.unflatten(2, (self.heads, -1))   # (B, 1 + N', h, d)
        part = getattr(self, f"norm_{name}")(part)
        parts.append(part.transpose(1, 2))           # (B, h, 1 + N', d)
    q, k, v = parts
    scores = q @ k.mT / math.sqrt(q.shape[-1])   # (B, h, 1 + N', K)
    out = scores.softmax(-1) @ v                 # (B, h, 1 + N', d)
    return self.proj(out.transpose(1, 2).flatten(2))


attention_forward = check("5.2", attention_forward, solution=True)

# %% [markdown]
# The layer around it. A stride of `None` says that a part is not pooled: then it has no convolution and no norm. Names are those of the official checkpoints.

# %%
class PoolingAttention(nn.Module):
    def __init__(self, dim, dim_out, heads, size, box, q_stride,
                 kv_stride):
        super().__init__()
        self.heads, self.size = heads, size
        self.qkv = nn.Linear(dim, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)
        d = dim_out // heads
        strides = q_stride, kv_stride, kv_stride
        for name, stride in zip("qkv", strides):
            pool, norm = nn.Identity(), nn.Identity()
            if stride is not None:
                pool = ConvPool(d, box, stride)
                norm = nn.LayerNorm(d, eps=1e-6)
            setattr(self, f"pool_{name}", pool)
            setattr(self, f"norm_{name}", norm)

    forward = attention_forward

# %% tags=["fast"]
box, two, four = (3, 3, 3), (1, 2, 2), (1, 4, 4)
small = (2, 4, 4)
sample = torch.randn(1, 1 + math.prod(small), 8)  # (B, 1 + N, C)
for q_stride, kv_stride in [(None, two), (two, two), (two, four)]:
    layer = PoolingAttention(8, 8, 2, small, box, q_stride, kv_stride)
    agree(f"yours = definition, q {q_stride}, k and v {kv_stride}",
          layer(sample).detach(),
          attention_by_definition(layer, sample).detach())

# %% [markdown]
# Two controls. Without any pooling the layer must be the multi-head attention of everybody; we ask PyTorch. And with queries that are not pooled, the output keeps its length whatever the key stride is.

# %% tags=["oracle"]
plain = PoolingAttention(8, 8, 2, small, box, None, None)
row = sample.transpose(0, 1)                         # (1 + N, B, C)
want, _ = F.multi_head_attention_forward(
    row, row, row, 8, 2, plain.qkv.weight, plain.qkv.bias, None, None,
    False, 0.0, plain.proj.weight, plain.proj.bias)
agree("no pooling = PyTorch's attention",
      plain(sample).detach(), want.transpose(0, 1).detach())

# %%
for q_stride, kv_stride in product((None, two), (None, two, four)):
    layer = PoolingAttention(8, 8, 2, small, box, q_stride, kv_stride)
    q, k = (pool_tokens(sample, small,
                        getattr(layer, f"pool_{n}")).shape[1]
            for n in "qk")
    report(**{f"q {q_stride}, k and v {kv_stride}":
              f"tokens out {layer(sample).shape[1]}, pairs {q * k}"})

# %% [markdown]
# Pooling queries *and* keys saves twice. Why then are queries pooled in few blocks only? Because the output has as many tokens as there are pooled queries, and what is thrown away does not come back: a network that pools its queries in block 1 has a coarse map from there on. Keys and values
# are only looked at; the next block looks at the fine map again.

# %% [markdown] tags=["core", "claim:mvit-block"]
# ## 5 · The block: a skip that pools
#
# A [block](glossary.md#block) is what it is in every Transformer: attention, then an MLP (two linear layers with a GELU between them, applied to each token alone). A LayerNorm comes before each of them, and each is added to what came in. What came in and is added is called the [skip connection](glossary.md#skip-connection). Two things do not fit
# any more.
#
# **The map shrinks.** Where attention pools its queries, its output is shorter than its input, and a sum is impossible. So the skip is pooled, too: by a maximum over boxes of 3 × 3 in space with stride 2, `pool_skip`, again without the class token. (A maximum has no weights. Why not the average, or the learned pooling? The paper says nothing about it.)
#
# **The channels grow.** In the last block of a stage the MLP's second linear layer has twice as many outputs as the block has channels. Then the skip around the MLP needs twice as many channels as well: a linear layer, `proj`, makes them. It is given the *normalised* tokens, the output of `norm2`. Table A.1 of the paper compares: normalised 77.2 %, not normalised 74.6 %, without any skip at these places 74.7 %.
# (These and all other percentages that follow are [accuracies](glossary.md#accuracy), "top-1", on Kinetics-400, videos of 400 kinds of human actions, and are quoted from the papers. The table says that it matters; why, it does not say.)
#
# The block as a picture. Where two lines meet in a +, they are added:
#
# ```
# x ─┬─ norm1 ── attention ── + ─┬─ norm2 ─┬─ MLP ─────────── + ── out
#    └─────── pool_skip ──────┘  │         └─ proj, or ───────┤
#                                └─ the sum, if channels stay ┘
# ```
#
# ### Exercise 5.3 · The block
#
# Difficulty 3/5 · importance 5/5 · 20 minutes
#
# `self` has `norm1`, `attn` (pooling attention), `norm2`, `mlp`; `size`, the map that comes in; `pool_skip`, a pooling for `pool_tokens` (`nn.Identity()` where the map stays); and `proj`, which is `None` where the channels stay.

# %% tags=["exercise:5.3"]
def block_forward(self, x):
    """(B, 1 + N, C) -> (B, 1 + N', C')."""
    raise NotImplementedError("exercise 5.3")

# %% tags=["check:5.3"]
block_forward = check("5.3", block_forward)

# %% [markdown] tags=["hints:5.3"]
# <details><summary>Hint 1: intuition</summary>
#
# Two sums. In the first one the skip is the input of the block, pooled and not normalised. In the second one it is that first sum, or `proj` of its norm.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# x ← pooled x + attention of norm1 of x; y ← norm2 of x; result ← (x, or `proj` of y) + MLP of y
# </details>
# <details><summary>Symptom: two sizes do not match in a sum</summary>
#
# At axis 1, the tokens: the skip was not pooled. At axis 2, the channels: where they grow, `proj` must make the skip. "NoneType is not callable": where they stay there is no `proj`.
# </details>

# %% tags=["solution:5.3"]
def block_forward(self, x):
    """(B, 1 + N, C) -> (B, 1 + N', C')."""
    skip = pool_tokens(x, self.size, self.pool_skip)
    x = skip + self.attn(self.norm1(x))          # (B, 1 + N', C)
    y = self.norm2(x)
    skip = x if self.proj is None else self.proj(y)
    return skip + self.mlp(y)                    # (B, 1 + N', C')


block_forward = check("5.3", block_forward, solution=True)

# %% [markdown]
# The block around it. `sq` and `sk` are the strides of queries and keys in space; time is never pooled.

# %%
def mlp(dim, dim_out):
    """Linear, GELU, linear, with the names of checkpoints."""
    layers = nn.Sequential()     # runs what is assigned, in this order
    layers.fc1, layers.act = nn.Linear(dim, 4 * dim), nn.GELU()
    layers.fc2 = nn.Linear(4 * dim, dim_out)
    return layers


class Block(nn.Module):
    def __init__(self, dim, dim_out, heads, sq, sk, size, box):
        super().__init__()
        self.size = size
        q_stride = (1, sq, sq) if sq > 1 else None
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = PoolingAttention(dim, dim, heads, size, box,
                                     q_stride, (1, sk, sk))
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = mlp(dim, dim_out)
        self.proj = nn.Linear(dim, dim_out) if dim_out > dim else None
        self.pool_skip = nn.Identity()
        if sq > 1:
            self.pool_skip = nn.MaxPool3d((1, 3, 3), (1, sq, sq),
                                          (0, 1, 1))

    forward = block_forward

# %%
block = Block(8, 16, 2, 2, 1, (2, 4, 6), box)
tokens = torch.randn(2, 1 + 2 * 4 * 6, 8)
report(tokens_in=tokens.shape, tokens_out=block(tokens).shape)

# %% [markdown] tags=["core", "claim:mvit-table-3b-tokens", "claim:mvit-file-32x3"]
# ## 6 · Sixteen blocks in four stages
#
# MViT-B has 16 blocks. Stages begin at blocks 1, 3 and 14, counted from 0: they have 1, 2, 11 and 2 blocks. (Why these? Section 9 has the comparison of the paper's Table 13.) Now the rules for all blocks:
#
# - **queries**: the first block of a stage (not block 0) pools them with stride 2 in height and width; the stride of all others is 1;
# - **heads**: they double in the same block. Head width d is 96 in all of MViT-B, because the channels double as well;
# - **channels**: they double in the block *before*, in its MLP, as section 5 said;
# - **keys and values**: block 0 pools them with a given stride, 8 in MViT-B. Where the map is halved, the stride is halved with it, but is at least 1. The paper calls this *adaptive* (Table 14). So on a map that gets smaller, blocks keep their number of keys; only the first block of a later stage sees four times as many.
#
# ### Exercise 5.4 · The plan of the blocks
#
# Difficulty 3/5 · importance 4/5 · 20 minutes
#
# Return an integer tensor `(depth, 5)`, one row a block, with the columns: channels in, channels out, heads, query stride, key stride. `dim` channels enter block 0, which has one head and the key stride `kv`. `starts` are the blocks at which stages 2, 3, … begin.

# %% tags=["exercise:5.4"]
def plan(depth, dim, starts, kv):
    """(depth, 5): channels in, out, heads, strides of q and of k, v."""
    raise NotImplementedError("exercise 5.4")

# %% tags=["check:5.4"]
plan = check("5.4", plan)

# %% [markdown] tags=["hints:5.4"]
# <details><summary>Hint 1: intuition</summary>
#
# Walk through the blocks and carry channels, heads and key stride along. Two questions decide what changes: does a stage begin here? Does one begin with the next block?
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# if the block is a start: heads twice, key stride half (at least 1), query stride 2; if the next block is a start: channels out are twice the channels in
# </details>
# <details><summary>Symptom: right up to the row before a start</summary>
#
# Channels grow in the block *before* a start, everything else changes *at* the start.
# </details>

# %% tags=["solution:5.4"]
def plan(depth, dim, starts, kv):
    """(depth, 5): channels in, out, heads, strides of q and of k, v."""
    rows, heads = [], 1
    for i in range(depth):
        if i in starts:
            heads, kv = 2 * heads, max(kv // 2, 1)
        dim_out = 2 * dim if i + 1 in starts else dim
        rows.append([dim, dim_out, heads, 2 if i in starts else 1, kv])
        dim = dim_out
    return torch.tensor(rows)


plan = check("5.4", plan, solution=True)

# %% [markdown]
# With the plan, the blocks run. We send a row of zeros through all 16 and print what comes out: the right half of the paper's Table 2. So that nothing has to be computed, the blocks stand on PyTorch's *meta* device, where tensors have a shape and no numbers.

# %%
def blocks_of(rows, size, box=(3, 3, 3), kind=Block):
    """A block for each row of a plan, and the map behind them."""
    out = []
    for dim, dim_out, heads, sq, sk in rows.tolist():
        out.append(kind(dim, dim_out, heads, sq, sk, size, box))
        size = tuple(places(size, (1, sq, sq)))
    return nn.Sequential(*out), size

# %%
base = plan(16, 96, (1, 3, 14), 8)               # (16, 5)
with torch.device("meta"):
    blocks, last_map = blocks_of(base, (8, 56, 56))
    x = torch.zeros(1, 1 + 8 * 56 * 56, 96)
print("block    tokens  channels  heads   keys")
for i, block in enumerate(blocks):
    k = places(block.size, (1, *base[i, 4:].repeat(2).tolist()))
    x = block(x)
    print(f"{i:5}{x.shape[1]:10,}{x.shape[2]:10}{block.attn.heads:7}"
          f"{1 + math.prod(k):7,}")
report(map_at_the_end=last_map)

# %% [markdown]
# **Read the last column.** All blocks see 393 keys, the class token and 8 · 7 · 7, except blocks 1, 3 and 14, which see 1,569. Why these? The first block of a stage still gets the large map, and its key stride is already the smaller one. Its queries are as few as those of the blocks behind it, so it compares four times as many pairs as they do.
#
# Channels: the 192 behind block 0 are what enters block 1. Section 3.2 of the paper says that the MLP before a stage makes the new channels, and so they are there when attention shrinks the map.

# %% [markdown] tags=["core", "claim:mvit-class-token", "claim:mvit-no-softmax"]
# ## 7 · The network
#
# ### Exercise 5.5 · From pixels to scores
#
# Difficulty 3/5 · importance 5/5 · 20 minutes
#
# Put all together. `self` has `patch_embed`, which gives `(B, N, C)`; `size`, the map (T, H, W) of these N tokens; `cls_token` and `pos_embed_class`, both `(1, 1, C)`, whose sum is put in front; `pos_embed_spatial` `(1, H·W, C)`, the same for each time step; `pos_embed_temporal` `(1, T, C)`, the same for
# each place of a frame; `blocks`, to be run one after the other in a loop (the check passes a tuple of them); `norm`; and `head`, the classifier, which reads the class token only.

# %% tags=["exercise:5.5"]
def mvit_forward(self, x):
    """(B, 3, T, H, W) -> (B, K): one score for each class."""
    raise NotImplementedError("exercise 5.5")

# %% tags=["check:5.5"]
mvit_forward = check("5.5", mvit_forward)

# %% [markdown] tags=["hints:5.5"]
# <details><summary>Hint 1: intuition</summary>
#
# The row runs frame by frame. So the H·W vectors of a frame are repeated as a whole, T times; and each of the T vectors is repeated H·W times in a row. PyTorch has two functions for the two.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# tokens → add `repeat` of space → add `repeat_interleave` of time → class token and its position, expanded to B, in front → blocks → norm → token 0 → head
# </details>
# <details><summary>Symptom: two sizes do not match in a sum</summary>
#
# There are T · H · W tokens, but only H · W positions in space and T in time. Both must be repeated to T · H · W first, or be added to each other by broadcasting, as (T, 1, C) and (1, H·W, C).
# </details>

# %% tags=["solution:5.5"]
def mvit_forward(self, x):
    """(B, 3, T, H, W) -> (B, K): one score for each class."""
    T, H, W = self.size
    x = self.patch_embed(x)                      # (B, N, C)
    x = x + self.pos_embed_spatial.repeat(1, T, 1)
    x = x + self.pos_embed_temporal.repeat_interleave(H * W, 1)
    cls = self.cls_token + self.pos_embed_class
    x = torch.cat([cls.expand(len(x), -1, -1), x], 1)    # (B, 1 + N, C)
    for block in self.blocks:
        x = block(x)
    return self.head(self.norm(x)[:, 0])


mvit_forward = check("5.5", mvit_forward, solution=True)

# %%
class MViT(nn.Module):
    def __init__(self, frames, side, classes, dim, depth, starts, kv):
        super().__init__()
        self.patch_embed = PatchEmbed(dim)
        T, H, W = self.size = (frames // 2, side // 4, side // 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed_class = nn.Parameter(torch.zeros(1, 1, dim))
        space, time = torch.zeros(1, H * W, dim), torch.zeros(1, T, dim)
        self.pos_embed_spatial = nn.Parameter(space)
        self.pos_embed_temporal = nn.Parameter(time)
        with torch.device("cpu"):                # numbers are needed
            rows = plan(depth, dim, starts, kv)
        self.blocks, _ = blocks_of(rows, self.size)
        last = rows[-1, 1].item()
        self.norm = nn.LayerNorm(last, eps=1e-6)
        self.head = nn.Sequential()
        self.head.projection = nn.Linear(last, classes)

    forward = mvit_forward

# %% [markdown]
# ### Your network is the model
#
# The package ships a small MViT, trained on clips of moving shapes (section 13). `ZOO` lists every variant with its settings. Your class must accept the weights **strictly**, no name missing and none left over, and give the same scores.

# %%
from safetensors.torch import load_file

from vt_course.models import ZOO, create, mini_weights


def settings(name):
    """The settings of a variant that shape your network."""
    c, (_, frames, side, _) = ZOO[name].config, ZOO[name].input
    return dict(frames=frames, side=side, classes=c["num_classes"],
                dim=c.get("embed_dim", 96), depth=c["depth"],
                starts=tuple(c["dim_mul"]),
                kv=c.get("kv_stride", (1, 8, 8))[1])

# %%
def seeded(seed):
    return torch.Generator().manual_seed(seed)


weights = load_file(mini_weights("mvit_mini"))
mine = MViT(**settings("mvit_mini")).eval()
report(tensors=len(weights),
       loading=str(mine.load_state_dict(weights, strict=True)))

# %%
package = create("mvit_mini").eval()
_ = package.load_state_dict(weights)
clips = torch.randn(2, *ZOO["mvit_mini"].input, generator=seeded(1))
with torch.no_grad():
    agree("yours = package", mine(clips), package(clips))
    rows = mine.patch_embed(clips), package.patch_embed(clips)
    agree("the cubes alone", *rows)

# %% [markdown]
# MViT is built for one size of clip, because positions belong to places. Another size needs another network, and positions that are stretched to it; the package's `resize_positions` does that. (The paper's MViT-B with 64 frames starts from the one with 32 in this way, section 4.1.)

# %% [markdown]
# ### A third witness: torchvision
#
# You and the package could share a mistake. So take somebody else's code, torchvision's, with random weights, and copy them into *your* class. Its class is told what each block does, so we tell it *your* plan. The network has the 16 blocks of MViT-B and the clip 8 frames of 96 × 96 pixels, to save time.
# First, on the meta device, the full size: the names and shapes of torchvision's `mvit_v1_b` must be those of your network.

# %% tags=["oracle"]
import torchvision.models.video as tv
from torchvision.models.video.mvit import MSBlockConfig

from vt_course.models.official import from_official

with torch.device("meta"):
    full = MViT(**settings("mvit_base_16x4"))
    theirs = tv.mvit_v1_b().state_dict()
    renamed = from_official(create("mvit_base_16x4"), theirs)
assert {k: v.shape for k, v in renamed.items()} == {
    k: v.shape for k, v in full.state_dict().items()}
report(tensors=len(renamed), all_names_and_shapes_agree=True,
       parameters=sum(p.numel() for p in full.parameters()))

# %%
def livelier(model):
    """Fresh weights are small and would hide mistakes: add noise."""
    random = seeded(0)
    for p in model.parameters():
        std = p[0].numel() ** -0.5 if p.ndim in (2, 5) else 0.2
        p.data += std * torch.randn(p.shape, generator=random)
    return model.eval()


def torchvision_twin(rows, frames, side, v2=False):
    """torchvision's MViT with the blocks of a plan and 400 classes."""
    blocks = []
    for dim, dim_out, heads, sq, sk in rows.tolist():
        pooled = v2 or sq > 1
        blocks.append(MSBlockConfig(
            heads, dim, dim_out, [3, 3, 3] * pooled, [3, 3, 3],
            [1, sq, sq] * pooled, [1, sk, sk]))
    twin = tv.MViT((side, side), frames, blocks, residual_pool=v2,
                   residual_with_cls_embed=False, rel_pos_embed=v2,
                   proj_after_attn=v2)
    return livelier(twin)

# %% tags=["oracle", "claim:mvit-torchvision"]
theirs = torchvision_twin(base, 8, 96)
smaller = dict(settings("mvit_base_16x4"), frames=8, side=96)
ours = MViT(**smaller).eval()
with torch.device("meta"):
    named = create("mvit_base_16x4", frames=8, img_size=96)
state = from_official(named, theirs.state_dict())
_ = ours.load_state_dict(state, strict=True)
clip = torch.randn(1, 3, 8, 96, 96, generator=seeded(2))
with torch.no_grad():
    agree("your MViT-B = torchvision's", ours(clip), theirs(clip),
          tol=1e-4)

# %% [markdown]
# ### Questions from the issues of SlowFast, the authors' repository
#
# **My checkpoint has `attn.q`, `attn.k` and `attn.v`, but the model wants `attn.qkv`.** (Issues 456 and 524.) The code changed its layout between releases. The numbers are the same: three matrices, one under the other.

# %%
fused = weights["blocks.1.attn.qkv.weight"]      # (3·C, C)
q, k, v = fused.chunk(3)                         # of other files
x = torch.randn(4, fused.shape[1])
agree("three products, side by side = one product",
      torch.cat([x @ q.T, x @ k.T, x @ v.T], 1), x @ fused.T)

# %% [markdown]
# **Which network is `MVIT_B_32x3_CONV.yaml`?** Not the paper's MViT-B 32×3. That one has 16 blocks and 36.6 million parameters. The file describes 24 blocks, with stages that begin at blocks 2, 5 and 21: the network that the paper calls MViT-B-24. It also says nothing about the boxes of the pooling, and then the code takes boxes of stride + 1.

# %%
from vt_course.models.cost import count_macs, count_parameters

for name in ("mvit_base_32x3", "mvit_base_24_32x3"):
    with torch.device("meta"):
        model = create(name)
    gmacs = count_macs(model, (1, *ZOO[name].input)) / 1e9
    params = count_parameters(model) / 1e6
    report(**{name: f"{len(model.blocks)} blocks, {params:.1f} M "
                    f"parameters, {gmacs:.0f} GMACs"})

# %% [markdown]
# (A GMAC is 10⁹ [multiply-accumulates](glossary.md#multiply-accumulate). The paper states 52.9 M and 236 G for MViT-B-24 on Kinetics-600. 52.9 M are what it would have with the 174 classes of Something-Something, where its Table 6 states 53.2 M; the two seem to have changed places.)
#
# **Where is the configuration for Kinetics-600?** (Issue 529 asks for `MVIT_B_32x3_CONV_K600`; it has no answer.) For the network it differs in one layer:

# %%
with torch.device("meta"):
    k400 = create("mvit_base_32x3").state_dict()
    k600 = create("mvit_base_32x3_k600").state_dict()
assert k400.keys() == k600.keys()
other_shapes = [k for k in k400 if k400[k].shape != k600[k].shape]
report(tensors=len(k400), of_another_shape=", ".join(other_shapes))

# %% [markdown]
# **How do I use MViT for AVA?** (Issues 452, 553 and 595.) AVA asks what each *person* does, and gives a box around each. SlowFast's head for it (`ResNetRoIHead`) wants a map: it averages over time, cuts a small grid of numbers out of the map for each box (RoIAlign), takes the maximum over the grid, and then comes a linear layer. MViT has tokens. So the class token is left out, and the others become a map again. (No configuration of MViT for AVA was released. The users reach a score of about 20, in AVA's measure, the mean average precision, and the threads do not say what was missing.)

# %%
from torchvision.ops import roi_align


def box_vectors(row, size, boxes, pixels):
    """Tokens (B, 1 + N, C), and for each clip boxes (n, 4) in pixels:
    left, top, right, bottom -> (all n, C)."""
    grid = row[:, 1:].mT.unflatten(2, size)      # (B, C, T, H, W)
    cut = roi_align(grid.mean(2), boxes, output_size=size[1:],
                    spatial_scale=size[2] / pixels, aligned=True)
    return cut.amax((2, 3))                      # (all n, C)

# %%
row, size = torch.randn(2, 1 + 4 * 8 * 8, 16), (4, 8, 8)
whole, corner = [0.0, 0, 32, 32], [0.0, 0, 8, 8]
boxes = [torch.tensor([whole, corner]), torch.tensor([whole])]
vectors = box_vectors(row, size, boxes, pixels=32)   # (3, C)
grid = row[:, 1:].mT.unflatten(2, size).mean(2)      # (B, C, H, W)
report(boxes=2 + 1, vectors=vectors.shape)
agree("a box around all = maximum of the map",
      vectors[[0, 2]], grid.amax((2, 3)))
row[0, 1 + 7::8] += 9                            # the last column
again = box_vectors(row, size, boxes, pixels=32)
agree("a corner does not see the other side", again[1], vectors[1])

# %% [markdown]
# **Videos that cannot be decoded** (issues 551 and 664) are a matter of files, not of the network: notebook 08, section 12, tests a folder of videos before training.
#
# **Why do my outputs differ from the released model's?** If they are all positive and sum to 1, the softmax is in the model: SlowFast's head applies it in evaluation. Yours, the package's and torchvision's return scores before the softmax.

# %% [markdown] tags=["deep-dive"]
# ## 8 · Who hears whom
#
# With windows it takes a token two or three blocks to hear of all others on the map of 8 × 8 of notebook 03, and more on larger maps. In MViT every query looks at the whole map of *keys*. Does it hear of every token after one block? **Predict** for stride 4 × 4 and boxes of 3 × 3: which places of a row of 8 lie in one of the boxes?
#
# We measure it. A token hears of another if its output changes with the other's input, that is, if the gradient is not exactly 0. The network is yours, small, with random weights: a map of 4 × 8 × 8, key stride 4, stages that begin at blocks 1 and 3.

# %%
def hears(blocks, place):
    """(T, H, W) of booleans: on which tokens of the map that enters the
    first block does the output at `place` of that map depend?"""
    size, dim = blocks[0].size, blocks[0].norm1.weight.numel()
    row = torch.randn(1, 1 + math.prod(size), dim, generator=seeded(2))
    x = row.requires_grad_()
    for block in blocks:
        x = block(x)
        if not isinstance(block.pool_skip, nn.Identity):
            place = (place[0], place[1] // 2, place[2] // 2)
    side = side_of(x, size[0])
    at = 1 + (place[0] * side + place[1]) * side + place[2]
    one = (x[0, at] ** 3).sum()        # a plain sum may cancel
    gradient, = torch.autograd.grad(one, row)
    return gradient[0, 1:].abs().sum(-1).view(size) > 0


def side_of(x, frames):
    """The side of the square map in a row of tokens."""
    return math.isqrt((x.shape[1] - 1) // frames)


tiny = livelier(MViT(8, 32, 8, 32, 4, (1, 3), 4))
place = (1, 2, 2)
until = torch.full(tiny.size, -1)                # blocks until it hears
for n in range(len(tiny.blocks), 0, -1):
    until[hears(tiny.blocks[:n], place)] = n
for n in (1, 2):
    report(**{f"places of its frame heard after {n} block(s)":
              int(((until[1] > 0) & (until[1] <= n)).sum())})

# %% [markdown] tags=["answer"]
# After one block, 26 of 64: 25 that lie in a box, and the token itself, by its skip. Along an axis the boxes hold the places 0, 1, 3, 4 and 5. They are 3 wide and lie 4 apart, so places 2, 6 and 7 are in none of them. Their keys and values are multiplied by no weight: *nobody else hears of them in this block*.

# %% [markdown]
# The same for boxes of stride + 1, which leave no gap between them, and a picture of both:

# %%
larger = livelier(Block(32, 64, 1, 1, 4, tiny.size, (1, 5, 5)))
once_5 = torch.where(hears([larger], place), 1, -1)        # (T, H, W)
report(with_boxes_of_5=int((once_5[1] == 1).sum()))

# %% tags=["figure"] alt="Two 8 × 8 maps of the number of blocks until one token hears of each place: with boxes of 3 × 3 and stride 4 rows and columns 2, 6 and 7 need two blocks, with boxes of 5 × 5 only the last row and column are not heard after one block."
show.regions_2d([until[1], once_5[1]],
                ["blocks until heard: boxes of 3, stride 4",
                 "blocks until heard: boxes of 5, stride 4"])

# %% [markdown]
# With boxes of 5 only the last row and column are missing: the last box is centred on place 4 and reaches to place 6. With boxes of 3, all places are heard after two blocks, because in block 1 the stride of the *keys* is 2, where boxes of 3 leave no gap. (The class token is a second way: it is never pooled, everybody hears it, but it heard no more than the others.)
#
# **Predict** for block 0 of MViT-B, stride 8 on a map of 56 × 56: how many of the 3,136 places of a frame lie in a box of 3 × 3?

# %%
def covered(box, stride, size):
    """How many places of one frame lie in some box of a pooling."""
    conv = ConvPool(1, box, stride)
    _ = nn.init.ones_(conv.weight)
    grid = torch.zeros(1, 1, *size, requires_grad=True)
    conv(grid).sum().backward()
    return int((grid.grad[0, 0, size[0] // 2] > 0).sum())


for box_, stride in (((3, 3, 3), (1, 8, 8)), ((1, 9, 9), (1, 8, 8)),
                     ((3, 3, 3), (1, 4, 4)), ((3, 3, 3), (1, 2, 2))):
    report(**{f"boxes {box_}, stride {stride}":
              covered(box_, stride, (4, 56, 56))})

# %% [markdown] tags=["answer"]
# 400, which is 13 %: 20 of 56 rows and columns. Seven of eight tokens of block 0 are queries only; no other token hears of them there. One should think that this hurts. The paper's Table 15 does not show it: boxes of 3 × 3 × 3 reach 78.4 %, boxes of stride + 1, without gaps, 78.3 %. Two differences pull in opposite directions here, because the large boxes, 1 × 9 × 9, do not reach over time. Which of them matters was not tested.

# %% [markdown] tags=["deep-dive", "claim:mvit-vit-tokens", "claim:mvit-keys-consistent"]
# ## 9 · What it costs
#
# Cost is counted in multiply-accumulates (MACs) of one view: one clip, one crop. For a block with N tokens in, Q pooled queries and K pooled keys (all with the class token), C channels in and C' out:
#
# - 3NC² for q, k and v, and QC² for the last projection of attention;
# - 27C for each pooled place of each pooled part: K − 1 twice, and Q − 1 where queries are pooled;
# - 2QKC for the two products of attention;
# - 4QC² + 4QCC' for the MLP, and QCC' for `proj`, where channels grow.
#
# The tables of the paper that follow here and in section 10 (Tables 10, 11, 13, 14 and 15) have three sorts of columns. **Cost and parameters** we count, and compare with what is stated. **Accuracies** are the paper's. We trained none of these variants, and do not plan to: a small difference on Kinetics would tell nothing on our small clips. **Memory** is measured here for one layer only.
#
# Parameters are counted in the same way. A linear layer has a bias for each output, and a norm two numbers for each channel. So each pooled part has 27 + 2 = 29 numbers for each channel of a head.
#
# Note what is *not* reduced by pooling: q, k and v are computed for all N tokens before they are pooled. **Predict** for block 0 of MViT-B (N = 25,089, K = 393, C = 96): which costs more, the products of attention or the MLP?

# %%
def block_macs(row, size, volume=lambda stride: 27, kv=None):
    """MACs of a block, by name. volume: the numbers of a box; kv: other
    strides of keys and values than the (1, sk, sk) of the plan."""
    C, C_out, _, sq, sk = row
    q_stride, kv = (1, sq, sq), kv or (1, sk, sk)
    N = 1 + math.prod(size)
    Q = 1 + math.prod(places(size, q_stride))
    K = 1 + math.prod(places(size, kv))
    pools = 2 * (K - 1) * volume(kv)
    pools += (sq > 1) * (Q - 1) * volume(q_stride)
    mlp = 4 * Q * C * (C + C_out) + (C_out > C) * Q * C * C_out
    return dict(qkv=3 * N * C**2 + Q * C**2, pooling=pools * C,
                attention=2 * Q * K * C, mlp=mlp)


def network_macs(rows, size, classes, volume=lambda stride: 27,
                 kvs=None):
    """MACs of the network's two ends, and of each block: a list."""
    cubes = math.prod(size) * 3 * 3 * 7 * 7 * rows[0, 0].item()
    parts = [dict(ends=cubes + rows[-1, 1].item() * classes)]
    for i, row in enumerate(rows.tolist()):
        parts.append(block_macs(row, size, volume, kvs and kvs[i]))
        size = places(size, (1, row[3], row[3]))
    return parts


def total(parts):
    return sum(sum(part.values()) for part in parts)

# %%
def predicted_parameters(rows, size, classes):
    C, (T, H, W) = rows[0, 0].item(), size
    count = 3 * 3 * 7 * 7 * C + C + (2 + H * W + T) * C  # before blocks
    for C, C_out, heads, sq, _ in rows.tolist():
        pools = (2 + (sq > 1)) * 29 * (C // heads)       # 27 and a norm
        grows = (C_out > C) * (C + 1) * C_out            # proj
        count += 4 * C * C + 4 * C + pools + grows + 4 * C
        count += 4 * C * C + 4 * C + 4 * C * C_out + C_out
    return count + 2 * C_out + (C_out + 1) * classes     # norm, head

# %% tags=["claim:mvit_base_16x4-gmacs"]
for name in ("mvit_base_16x4", "mvit_base_32x3", "mvit_base_64x3"):
    with torch.device("meta"):
        yours = MViT(**settings(name))
    macs = total(network_macs(base, yours.size, 400))
    params = predicted_parameters(base, yours.size, 400)
    assert macs == count_macs(yours, (1, *ZOO[name].input))
    assert params == count_parameters(yours)
    stated = {what: value for what, value, _ in ZOO[name].stated}
    report(**{name: f"{params / 1e6:.1f} M parameters, stated "
                    f"{stated['params M']}; {macs / 1e9:.1f} GMACs, "
                    f"stated {stated['GMACs']}"})
report(formulas_equal_counts=True)

# %%
parts = network_macs(base, map_1, 400)
print("GMACs of some blocks")
print(f"{'block':>5}{'q, k, v, out':>14}{'pooling':>9}"
      f"{'attention':>11}{'MLP, proj':>11}")
for i in (0, 1, 2, 3, 13, 14, 15):
    p = {k: v / 1e9 for k, v in parts[1 + i].items()}
    print(f"{i:5}{p['qkv']:14.2f}{p['pooling']:9.3f}"
          f"{p['attention']:11.2f}{p['mlp']:11.2f}")
share = sum(p["attention"] for p in parts[1:]) / total(parts)
report(attention_of_the_whole_network=f"{100 * share:.0f} %")

# %% [markdown] tags=["answer"]
# In block 0 the MLP costs 3.2 GMACs (with `proj`, which this column contains) and the products of attention 1.9. Without pooling they would cost 121, more than the whole network.
#
# In blocks 2, 4 to 13 and 15 projections and MLP cost 4 to 12 times as much as attention: there the network is what a ViT is. The first block of a stage is the exception. It sees four times as many keys, and its q, k and v are computed on the map before it shrinks.

# %% [markdown]
# ### Longer clips
#
# Time is halved once, by the cubes, and never pooled. So a clip of twice the length has twice the queries *and* twice the keys, in every block. **Predict** the GMACs for 128 frames, from those of 16, 32 and 64 frames that were printed above. (The second number of each row is for key stride 1. Convolutions and norms stay.)

# %%
def growth(lengths, kvs=None):
    """GMACs of MViT-B for clips of 224 × 224 with so many frames."""
    maps = [(t // 2, 56, 56) for t in lengths]
    return [total(network_macs(base, size, 400, kvs=kvs)) / 1e9
            for size in maps]

# %%
lengths = [8, 16, 32, 64, 128]
with_pooling = growth(lengths)
without = growth(lengths, [(1, 1, 1)] * 16)
for t, a, b in zip(lengths, with_pooling, without):
    report(**{f"{t:3} frames":
              f"{a:7.1f} GMACs, with key stride 1 {b:9.1f}"})

# %% [markdown]
# Both axes of the figure are logarithmic. The **slope** in its legend is an exponent: GMACs grow as the number of frames to this power, on average over the drawn range. Linear growth has slope 1, quadratic growth slope 2.

# %% tags=["figure"] alt="GMACs of one view against the number of frames, on logarithmic axes: two rising curves; the one without pooling of keys lies higher, rises with a slope near 2, and moves away from the one with pooling, whose slope is about 1.4."
show.cost_curves({"keys pooled": dict(x=lengths, y=with_pooling),
                  "keys not pooled": dict(x=lengths, y=without)},
                 "frames of 224 × 224", "GMACs of one view",
                 "MViT-B: what pooling keys in space saves")

# %% [markdown] tags=["answer"]
# 1,371, three times those of 64 frames. When the length doubles, projections and MLP double, and the products of attention become four times as many. That is the price of a global view in time; windows (notebook 04, section 11) stay linear.

# %% [markdown]
# ### Table 14: the stride of keys and values
#
# The paper trains MViT-B (with maximum pooling, 77.2 % on Kinetics) with other strides. *Fixed* means that the stride is the same in all blocks that the table names; *adaptive* that it is halved with the map. The table names three stages only. We assume that the fourth keeps all its keys, in the fixed rows as well. Then five of the six rows come out to within 0.2 GMACs. A maximum costs no MACs, so boxes have the volume 0.

# %%
def gmacs_with_maximum(stride, adaptive, starts=(1, 3, 14)):
    """Of MViT-B with maximum pooling; the last stage keeps its keys."""
    t, s = (stride or (1, 1))[:2]
    rows = plan(16, 96, starts, s)
    sk = rows[:, 4].tolist() if adaptive else [s] * 16
    kvs = [(t, n, n) for n in sk[:starts[-1]]]
    kvs += [(1, 1, 1)] * (16 - starts[-1])
    parts = network_macs(rows, map_1, 400, lambda stride: 0, kvs)
    return total(parts) / 1e9

# %%
print(f"{'stride':12}{'':10}{'ours':>8}{'stated':>8}{'top-1':>7}")
for stride, how, gmacs, top1 in [
        (None, "", 130.8, 77.6), ((1, 4, 4), "fixed", 71.4, 75.9),
        ((2, 4, 4), "fixed", 64.3, 74.8),
        ((2, 4, 4), "adaptive", 83.6, 77.1),
        ((1, 8, 8), "adaptive", 70.5, 77.2),
        ((2, 8, 8), "adaptive", 63.7, 75.8)]:
    ours = gmacs_with_maximum(stride, how == "adaptive")
    print(f"{str(stride or 'none'):12}{how:10}{ours:8.1f}{gmacs:8}"
          f"{top1:7}")
    assert (stride is None) != (abs(ours - gmacs) < 0.2)

# %%
for what, size, stride in (
        ("an image, stride 4", (1, 56, 56), (1, 4, 4)),
        ("a clip, stride 8", map_1, (1, 8, 8))):
    report(**{f"keys of {what}": 1 + math.prod(places(size, stride))})

# %% [markdown]
# The row without pooling does **not** come out: we count 279.9 GMACs, of which block 0 alone has 125, the paper states 130.8. We know of no reading that gives its number. What do the accuracies say? A stride that follows the map is better at equal cost: 1 × 8 × 8 adaptive reaches 77.2 % with 70.5 GMACs, 1 × 4 × 4 fixed 75.9 % with 71.4. Without any pooling of keys it is 77.6 %, so 1 × 8 × 8 adaptive loses only 0.4 points. The accuracies also say why keys are not pooled over time: with 2 × 8 × 8 in place of 1 × 8 × 8, 7 GMACs are saved and 1.4 points lost. (Issue 8 of the authors' `mvit` repository is about weights for images, which have stride 4 where video has 8. The maps are both 56 × 56; with these strides an image has half as many keys as a clip, as the last cell counts.)
#
# ### Table 10: pooling in a plain ViT
#
# Does pooling need stages? The paper puts it into a ViT of 12 blocks, whose 8 × 14 × 14 tokens have 768 channels everywhere. Once the queries are pooled, in block 6, by a maximum; once keys and values in all blocks but block 0. **Predict:** which of the two saves more of the 179.6 GMACs?

# %%
vit = {"ViT-B": {}, "queries, block 6": dict(q_stride={6: two}),
       "keys, values": dict(kv_stride={i: two for i in range(1, 12)})}
for name, stated in zip(vit, (179.6, 111.1, 148.4)):
    with torch.device("meta"):
        model = create("vit_base_8x8", **vit[name], pool_mode="max",
                       kernel=None)
    gmacs = count_macs(model, (1, *ZOO["vit_base_8x8"].input)) / 1e9
    report(**{name: f"{gmacs:.1f} GMACs, stated {stated}"})
    assert abs(gmacs - stated) < 0.06

# %% [markdown] tags=["answer"]
# The queries: from block 6 on *everything* has a quarter of the tokens, MLP and projections too. Pooled keys save only in the products of attention. (The stride of the keys is not stated. 2 × 2 in every block but the first gives the number, 2 × 2 in all blocks would give 145.6.) With pooled keys the paper states 69.1 %, without 68.5 %: cheaper and, in one training each, no worse.

# %% [markdown]
# ### Table 13: how many blocks has each stage?
#
# Section 6 took 1, 2, 11 and 2 blocks as given. The paper compares six divisions of the 16 blocks, all with the stride 2 × 4 × 4, adaptive. All of their GMACs come out.

# %%
print("blocks          ours  stated  top-1")
for division, gmacs, top1 in [
        ((2, 6, 6, 2), 90.2, 76.3), ((2, 4, 6, 4), 86.9, 75.9),
        ((2, 4, 8, 2), 88.3, 76.6), ((2, 2, 8, 4), 85.0, 76.7),
        ((1, 2, 11, 2), 83.6, 77.1), ((2, 2, 10, 2), 86.4, 76.9)]:
    starts = tuple(sum(division[:i]) for i in (1, 2, 3))
    ours = gmacs_with_maximum((2, 4, 4), True, starts)
    print(f"{str(division):14}{ours:6.1f}{gmacs:8}{top1:7}")
    assert abs(ours - gmacs) < 0.2

# %% [markdown]
# The cheapest division is the best one of the six. Most of its blocks stand in stage 3. The differences are of 0.2 to 1.2 points, in one training each, and the table gives no spread.
#
# ### Table 15: kinds of pooling
#
# | pooling of MViT-B | boxes | GMACs stated | ours | top-1 Kinetics |
# |---|---|---|---|---|
# | maximum | as large as the stride | 70.5 | 70.3 | 76.1 |
# | maximum | 2 · stride + 1 | 70.5 | 70.3 | 75.5 |
# | maximum | stride + 1 | 70.5 | 70.3 | 77.2 |
# | average | stride + 1 | 70.5 | 70.3 | 75.4 |
# | learned | stride + 1 | 70.5 | 70.4 | 78.3 |
# | learned | 3 × 3 × 3 | 70.5 | 70.6 | 78.4 |
#
# A maximum or an average multiplies nothing, so all of them count alike. The released models are those of the last row. It has the highest accuracy, by 0.1 points.

# %%
def plus_one(stride):
    return math.prod(s + 1 if s > 1 else 1 for s in stride)


def pooled_by(volume):
    """GMACs; a box of one place is no pooling, so it costs nothing."""
    return total(network_macs(
        base, map_1, 400, lambda s: volume(s) * (volume(s) > 1))) / 1e9

# %%
report(maximum_or_average=f"{pooled_by(lambda stride: 0):.1f} GMACs",
       learned_stride_plus_1=f"{pooled_by(plus_one):.1f} GMACs",
       learned_3_3_3=f"{pooled_by(lambda stride: 27):.1f} GMACs")

# %% [markdown]
# ### Memory
#
# What stops a training is often memory, not MACs. The paper states 16.3 GB without pooling and 6.8 GB with stride 1 × 8 × 8 (Table 14). Where does it come from? A layer that stores its scores keeps Q · K numbers for each head, for the backward pass. All blocks together, for one clip, with 4 bytes a number:

# %%
def scores_in_gb(kvs=None):
    """What the scores of all blocks of MViT-B take, for one clip."""
    size, count = map_1, 0
    for i, (_, _, heads, sq, sk) in enumerate(base.tolist()):
        Q = 1 + math.prod(places(size, (1, sq, sq)))
        K = 1 + math.prod(places(size, kvs[i] if kvs else (1, sk, sk)))
        count += heads * Q * K
        size = places(size, (1, sq, sq))
    return 4e-9 * count

# %%
report(stride_8=f"{scores_in_gb():.2f} GB",
       no_pooling=f"{scores_in_gb([(1, 1, 1)] * 16):.2f} GB")

# %% [markdown]
# The paper does not say how many clips its 9.5 GB of difference belong to. Now measured: one layer with 48 channels and one head, forward and backward, on a map of 4 × 28 × 28. **Literal** is yours, **fused** the package's, which never stores all scores. Both axes are logarithmic.

# %%
from vt_course.claims.bench_models import peak_bytes
from vt_course.models.mvit import PoolingAttention as Packaged


def peak_of(layer, x):
    """Peak megabytes of forward and backward."""
    def work():
        layer(x).sum().backward()

    work()
    return peak_bytes(work, torch.device("cpu")) / 1e6


map_4 = (4, 28, 28)
x = torch.randn(1, 1 + math.prod(map_4), 48)     # (B, 1 + N, C)
key_counts, literal_mb, fused_mb = [], [], []
for s in (8, 4, 2, 1):
    strides = (1, 1, 1), (1, s, s)
    yours = PoolingAttention(48, 48, 1, map_4, box, None, strides[1])
    theirs = Packaged(48, 48, num_heads=1, size=map_4, cls=1,
                      mode="conv", kernel_q=(1, 1, 1),
                      stride_q=strides[0], kernel_kv=box,
                      stride_kv=strides[1], rel_pos="",
                      residual=False)
    _ = theirs.load_state_dict(yours.state_dict())
    agree(f"fused = literal, stride {s}",
          theirs(x).detach(), yours(x).detach())
    key_counts.append(1 + math.prod(places(map_4, strides[1])))
    literal_mb.append(peak_of(yours, x))
    fused_mb.append(peak_of(theirs, x))

# %% tags=["figure"] alt="Peak memory of one attention layer against its number of keys, on logarithmic axes: literal attention rises steeply with the keys, fused attention hardly rises, and the two are close where keys are fewest."
show.cost_curves({"literal": dict(x=key_counts, y=literal_mb),
                  "fused": dict(x=key_counts, y=fused_mb)},
                 "keys (stride 8, 4, 2, 1)", "peak of memory, MB",
                 "One layer, 3,137 queries of 48 channels")

# %%
within("literal: keys without pooling over stride 8, peaks",
       literal_mb[-1] / literal_mb[0], 10, 40)
within("fused: the same", fused_mb[-1] / fused_mb[0], 0.8, 2)

# %% [markdown]
# So with fused attention, which was not yet in PyTorch when the paper was written, pooling saves arithmetic, and only little memory. (Fused attention: notebook 02, section 8.)

# %% [markdown] tags=["deep-dive", "claim:mvit-table-11-none", "claim:mvit-class-token-normalised"]
# ## 10 · Positions, and what pooling does around the class token
#
# Table 11 compares four position embeddings of MViT-B, on Kinetics: none 75.8 %, only space 76.7 %, one vector for each place (*joint*) 76.5 %, *separate* 77.2 %. We repeat the parameters, not the trainings. They must come out. **Predict:** how many million parameters has *joint* more than *separate*? (The networks have a maximum as pooling, as in the paper's table. It has no weights and no norm, so *separate* has a little less than MViT-B in section 7.)

# %%
stated = dict(none=36.2, space=36.5, joint=38.6, separate=36.5)
for kind, million in stated.items():
    with torch.device("meta"):
        model = create("mvit_base_16x4", pos_embed=kind,
                       pool_mode="max", kernel=None)
    count = count_parameters(model) / 1e6
    report(**{kind: f"{count:.3f} M, stated {million}"})
    assert round(count, 1) == million

# %% [markdown]
# Joint is more general: with A[t, h, w] = S[h, w] + E[t] it can be any separate embedding. Here it is one, made of yours, and the network does not notice:

# %%
class JointMViT(MViT):
    """MViT with one vector for each token, the class token too."""

    def forward(self, x):
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = self.blocks(x + self.pos_embed)
        return self.head(self.norm(x)[:, 0])


joint = JointMViT(**settings("mvit_mini")).eval()
_ = joint.load_state_dict(weights)
T, H, W = joint.size
space, time = joint.pos_embed_spatial, joint.pos_embed_temporal
both = (time[0, :, None] + space).flatten(0, 1)[None]    # (1, T·H·W, C)
joint.pos_embed = torch.cat([joint.pos_embed_class, both], 1)
with torch.no_grad():
    agree("joint = separate, here", joint(clips), mine(clips))

# %% [markdown]
# That it is worse all the same, with 2.1 million parameters more, is a result and not a theorem. The paper gives no reason.
#
# **The class token.** It is cut off before each pooling and put back after it. Then it goes through the norm with the others. One could do without it, and average the map at the end, as Swin does; some image models of MViTv2 do so. It must not be in the map: the row would not fit it. And in attention it sees the pooled map only, like every query. The cell shows what pooling and norm do to it:

# %%
block = mine.blocks[0]
with torch.no_grad():
    channels = block.norm1.weight.numel()
    row = torch.randn(1, 1 + math.prod(block.size), channels)
    k = block.attn.qkv(row).chunk(3, -1)[1]              # (1, 1 + N, C)
    pooled = pool_tokens(k, block.size, block.attn.pool_k)
    agree("pooling leaves it alone", pooled[:, 0], k[:, 0])
    normed = block.attn.norm_k(pooled)
    differ("the class token, normalised", normed[:, 0], k[:, 0])
    report(keys=pooled.shape[1], map_tokens=row.shape[1] - 1)

# %% [markdown] tags=["deep-dive", "claim:mvitv2-attention", "claim:mvitv2-class-token-residual"]
# ## 11 · MViTv2: four changes
#
# MViTv2-S has 34.5 million parameters and 64 GMACs against 36.6 and 70.5 of MViT-B, and the authors state 81.0 % against 78.4 % on Kinetics. Four things differ, and all are local. Take your MViT and change it.
#
# ### Change 1: relative positions in place of absolute ones
#
# MViT adds positions once, before block 0. MViTv2 adds nothing there. Instead, each layer adds a number to the score of a query i and a key j that depends on where they lie: q_i · R, where the vector R belongs to the *offset* between the two. (Swin's bias is a learned number for each offset; here it also depends on the query.)
#
# One vector for each offset in (t, h, w) would be a large table: 15 · 111 · 111 rows in stage 1. So R is **decomposed** into a sum of three: R = R_t + R_h + R_w, with one small table for each axis. It has 2n − 1 rows, where n counts the places of queries or keys, whichever are more. Rows at the end may stay unused.
#
# Queries and keys are pooled with different strides, so their places have different units. Both are measured in steps of the finer map. By hand, for 4 queries and 2 keys on an axis: one step of the keys is two of the queries. Key 0 lies at 0, key 1 at 2. The offsets query minus key run from 0 − 2 = −2 to 3 − 0 = 3. Adding 2 makes them start at 0:

# %%
def relative_rows(n, m):
    """(n, m): the row of the table for query i of n and key j of m."""
    fine = max(n, m)
    i, j = torch.arange(n) * (fine // n), torch.arange(m) * (fine // m)
    return i[:, None] - j + (m - 1) * (fine // m)


print(relative_rows(4, 2))
for n, m in [(4, 4), (4, 2), (2, 8), (56, 7)]:
    report(**{f"{n} queries, {m} keys":
              f"rows up to {relative_rows(n, m).max()}, "
              f"table of {2 * max(n, m) - 1}"})

# %% [markdown]
# First by definition, one pair at a time; then axis by axis. The N queries and M keys are those of the map, without the class token, which has no place.

# %% tags=["definition"]
def relative_by_definition(q, tables, size_q, size_k):
    """(B, h, N, d) -> (B, h, N, M): q_i · (R_t + R_h + R_w)."""
    queries, keys = (list(product(*map(range, s)))
                     for s in (size_q, size_k))
    out = torch.zeros(*q.shape[:3], len(keys))
    for (i, a), (j, b) in product(enumerate(queries), enumerate(keys)):
        for axis, table in enumerate(tables):
            rows = relative_rows(size_q[axis], size_k[axis])
            vector = table[rows[a[axis], b[axis]]]           # (d,)
            out[:, :, i, j] += q[:, :, i] @ vector
    return out

# %% tags=["fast"]
def relative_by_axis(q, tables, size_q, size_k):
    """The same: a product with few places on each axis, then a sum."""
    q = q.unflatten(2, size_q)                   # (B, h, T, H, W, d)
    t, h, w = (table[relative_rows(n, m)]            # (n, m, d) each
               for table, n, m in zip(tables, size_q, size_k))
    t = torch.einsum("bnthwd,tkd->bnthwk", q, t)[..., None, None]
    h = torch.einsum("bnthwd,hkd->bnthwk", q, h)[..., None, :, None]
    w = torch.einsum("bnthwd,wkd->bnthwk", q, w)[..., None, None, :]
    return (t + h + w).flatten(5).flatten(2, 4)      # (B, h, N, M)

# %% tags=["fast"]
size_q, size_k = (2, 4, 4), (2, 2, 2)
q = torch.randn(1, 2, math.prod(size_q), 8)
tables = [torch.randn(2 * max(n, m) - 1, 8)
          for n, m in zip(size_q, size_k)]
agree("axis by axis = pair by pair",
      relative_by_axis(q, tables, size_q, size_k),
      relative_by_definition(q, tables, size_q, size_k))

# %% [markdown]
# ### Change 2: residual pooling
#
# The pooled and normalised queries, P(q) of section 4, are added to what attention gives: the output is softmax(…) · P(v) + P(q), in every block. So the path of the queries, which keeps all places apart, goes on even where attention averages. This is called [residual pooling](glossary.md#residual-pooling). Two details are those of the released code: the class token's query is *not* added, and the relative scores are *not* divided by √d.
#
# ### Exercise 5.6 · The attention of MViTv2
#
# Difficulty 4/5 · importance 4/5 · 25 minutes
#
# Take your solution of 5.2 and put both changes into it. `self` has the attributes of 5.2 and a method `relative(q)`, from the pooled and normalised queries of the map, `(B, h, N', d)`, to their scores with all keys of the map, `(B, h, N', K − 1)`, where K counts the class token. Scores of or with the class token get nothing added. The residual comes before `proj`.

# %% tags=["exercise:5.6"]
def attention_v2_forward(self, x):
    """(B, 1 + N, C) -> (B, 1 + N', C'): softmax(…)·P(v) + P(q)."""
    raise NotImplementedError("exercise 5.6")

# %% tags=["check:5.6"]
attention_v2_forward = check("5.6", attention_v2_forward)

# %% [markdown] tags=["hints:5.6"]
# <details><summary>Hint 1: intuition</summary>
#
# Scores are a matrix with a row and a column for the class token in front. What is added has neither. `F.pad` with (1, 0, 1, 0) makes both, of zeros.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# scores ← q·kᵀ/√d + padded relative scores of q without token 0 → softmax, values → add q to all tokens but token 0 → merge heads → `proj`
# </details>
# <details><summary>Symptom: "wants the … queries of the map"</summary>
#
# `relative` was given the query of the class token as well. It is token 0 of q, after the pooling.
# </details>

# %% tags=["solution:5.6"]
def attention_v2_forward(self, x):
    """(B, 1 + N, C) -> (B, 1 + N', C'): softmax(…)·P(v) + P(q)."""
    parts = []
    for part, name in zip(self.qkv(x).chunk(3, -1), "qkv"):
        pool = getattr(self, f"pool_{name}")
        part = pool_tokens(part, self.size, pool)
        part = part.unflatten(2, (self.heads, -1))   # (B, 1 + N', h, d)
        part = getattr(self, f"norm_{name}")(part)
        parts.append(part.transpose(1, 2))           # (B, h, 1 + N', d)
    q, k, v = parts
    scores = q @ k.mT / math.sqrt(q.shape[-1])   # (B, h, 1 + N', K)
    scores = scores + F.pad(self.relative(q[:, :, 1:]), (1, 0, 1, 0))
    out = scores.softmax(-1) @ v                 # (B, h, 1 + N', d)
    rest = torch.cat([torch.zeros_like(q[:, :, :1]), q[:, :, 1:]], 2)
    return self.proj((out + rest).transpose(1, 2).flatten(2))


attention_v2_forward = check("5.6", attention_v2_forward, solution=True)

# %%
class AttentionV2(PoolingAttention):
    def __init__(self, dim, dim_out, heads, size, box, q_stride,
                 kv_stride):
        super().__init__(dim, dim_out, heads, size, box, q_stride,
                         kv_stride)
        self.size_q = places(size, q_stride)
        self.size_k = places(size, kv_stride)
        for axis, n, m in zip("thw", self.size_q, self.size_k):
            table = torch.zeros(2 * max(n, m) - 1, dim_out // heads)
            setattr(self, f"rel_pos_{axis}", nn.Parameter(table))

    def relative(self, q):
        tables = self.rel_pos_t, self.rel_pos_h, self.rel_pos_w
        return relative_by_axis(q, tables, self.size_q, self.size_k)

    forward = attention_v2_forward

# %% [markdown]
# ### Changes 3 and 4: queries are pooled in every block, and channels double in attention
#
# In MViTv2 all blocks pool their queries, most with stride 1: a convolution that keeps the map. And channels double in the attention of the *first* block of a stage, not in the MLP of the block before. The skip around attention then needs new channels, and gets them as before, by a linear layer `proj` of the normalised tokens; the pooling of the skip comes after it. The MLP keeps its channels.
#
# ```
# x ─┬─ norm1 ─┬─ attention ───────────── + ─┬─ norm2 ─ MLP ─ + ── out
#    │         └─ proj, or ─┬─ pool_skip ─┘  └────────────────┘
#    └─ x, if channels stay ┘
# ```

# %%
class BlockV2(nn.Module):
    def __init__(self, dim, dim_out, heads, sq, sk, size, box):
        super().__init__()
        self.size = size
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = AttentionV2(dim, dim_out, heads, size, box,
                                (1, sq, sq), (1, sk, sk))    # changed
        self.norm2 = nn.LayerNorm(dim_out, eps=1e-6)         # changed
        self.mlp = mlp(dim_out, dim_out)                     # changed
        self.proj = nn.Linear(dim, dim_out) if dim_out > dim else None
        self.pool_skip = nn.Identity()
        if sq > 1:
            self.pool_skip = nn.MaxPool3d((1, 3, 3), (1, sq, sq),
                                          (0, 1, 1))

    def forward(self, x):
        y = self.norm1(x)
        skip = x if self.proj is None else self.proj(y)      # changed
        skip = pool_tokens(skip, self.size, self.pool_skip)
        x = skip + self.attn(y)
        return x + self.mlp(self.norm2(x))                   # changed


def plan_v2(depth, dim, starts, kv):
    """The plan with channels that double one block later."""
    rows = plan(depth, dim, starts, kv)
    channels = rows[:, 0]
    before = torch.cat([channels[:1], channels[:-1]])
    return torch.stack([before, channels, *rows[:, 2:].unbind(1)], 1)

# %%
print(plan_v2(4, 32, (1, 3), 4))

# %%
class MViTv2(nn.Module):
    def __init__(self, frames, side, classes, dim, depth, starts, kv):
        super().__init__()
        self.patch_embed = PatchEmbed(dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        size = (frames // 2, side // 4, side // 4)
        with torch.device("cpu"):
            rows = plan_v2(depth, dim, starts, kv)
        self.blocks, _ = blocks_of(rows, size, kind=BlockV2)
        last = rows[-1, 1].item()
        self.norm = nn.LayerNorm(last, eps=1e-6)
        self.head = nn.Sequential()
        self.head.projection = nn.Linear(last, classes)

    def forward(self, x):                        # (B, 3, T, H, W)
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        return self.head(self.norm(self.blocks(x))[:, 0])

# %% [markdown]
# The same proofs as before: the package's trained weights, strictly, and torchvision's code.

# %%
weights_v2 = load_file(mini_weights("mvit_v2_mini"))
mine_v2 = MViTv2(**settings("mvit_v2_mini")).eval()
report(tensors=len(weights_v2),
       loading=str(mine_v2.load_state_dict(weights_v2, strict=True)))
package_v2 = create("mvit_v2_mini").eval()
_ = package_v2.load_state_dict(weights_v2)
with torch.no_grad():
    agree("yours = package, MViTv2", mine_v2(clips), package_v2(clips))

# %% tags=["oracle", "claim:mvitv2-torchvision"]
base_v2 = plan_v2(16, 96, (1, 3, 14), 8)
theirs = torchvision_twin(base_v2, 8, 96, v2=True)
ours = MViTv2(**smaller).eval()
with torch.device("meta"):
    named = create("mvit_v2_small_16x4", frames=8, img_size=96)
state = from_official(named, theirs.state_dict())
_ = ours.load_state_dict(state, strict=True)
with torch.no_grad():
    agree("your MViTv2-S = torchvision's", ours(clip), theirs(clip),
          tol=1e-4)

# %%
with torch.device("meta"):
    full_v2 = MViTv2(**settings("mvit_v2_small_16x4"))
    gmacs = count_macs(full_v2, (1, 3, 16, 224, 224)) / 1e9
params = count_parameters(full_v2) / 1e6
report(parameters=f"{params:.1f} M (stated 34.5)",
       macs=f"{gmacs:.1f} G (stated 64)")

# %% [markdown]
# Where do 2 million parameters and 6 GMACs go? **Predict** which of the four changes saves them. Each change alone, made to MViT-B:

# %%
kept = {i: (1, 1, 1) for i in range(16)} | {
    i: (1, 2, 2) for i in (1, 3, 14)}            # as in MViTv2
relative = dict(pos_embed="none", rel_pos="thw")
changes = {"MViT-B": {}, "1, relative": relative,
           "2, residual pooling": dict(residual_pooling=True),
           "3, queries pooled": dict(q_stride=kept),
           "4, channels": dict(dim_mul_in_att=True)}
for change, config in changes.items():
    with torch.device("meta"):
        model = create("mvit_base_16x4", **config)
    gmacs = count_macs(model, (1, 3, 16, 224, 224)) / 1e9
    params = count_parameters(model) / 1e6
    report(**{change: f"{params:.2f} M parameters, {gmacs:.2f} GMACs"})

# %% [markdown] tags=["answer"]
# Change 4 alone saves 1.9 million parameters and 6.9 GMACs; the others cost a little or nothing. In MViT the last MLP of a stage is wide at its end, and works on the large map. In MViTv2 the new channels appear behind the pooled queries, so the MLP works on the small map before it is wide.

# %% [markdown] tags=["deep-dive", "claim:mvit-image-tokens", "claim:mvitv2-image-l-41.8"]
# ## 12 · Images
#
# An image is a clip of one frame. The cubes become squares of 7 × 7 with stride 4, and the boxes 1 × 3 × 3. The block is yours, unchanged. Two more settings are those of the released image models: joint positions, and the key stride 4 in block 0. Your blocks, for images of 64 × 64, against the package's image model, stage by stage:

# %%
class ImageMViT(nn.Module):
    def __init__(self, side, classes, dim, depth, starts, kv):
        super().__init__()
        self.patch_embed = PatchEmbed(dim, (1, 7, 7), (1, 4, 4))
        size = (1, side // 4, side // 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(
            1, 1 + math.prod(size), dim))
        rows = plan(depth, dim, starts, kv)
        self.blocks, _ = blocks_of(rows, size, box=(1, 3, 3))
        last = rows[-1, 1].item()
        self.norm = nn.LayerNorm(last, eps=1e-6)
        self.head = nn.Sequential()
        self.head.projection = nn.Linear(last, classes)

    def stages(self, x):                         # (B, 3, H, W)
        """The map that each block leaves, (B, C, H', W')."""
        x = self.patch_embed(x[:, :, None])
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
            side = side_of(x, 1)
            yield x[:, 1:].mT.unflatten(2, (side, side))

# %%
shape = dict(embed_dim=16, depth=6, dim_mul={1: 2, 3: 2, 5: 2},
             head_mul={1: 2, 3: 2, 5: 2}, num_classes=10, img_size=64,
             q_stride={i: (1, 2, 2) for i in (1, 3, 5)})
image_package = livelier(create("mvit_image_base_16", **shape))
state = image_package.state_dict()
name = "patch_embed.proj.weight"
state[name] = state[name][:, :, None]            # one time step
image_model = ImageMViT(64, 10, 16, 6, (1, 3, 5), 4).eval()
_ = image_model.load_state_dict(state, strict=True)
picture = torch.randn(2, 3, 64, 64, generator=seeded(3))
with torch.no_grad():
    maps = list(image_model.stages(picture))
    # What stages leave has the channels of the next one.
    ends = [maps[0], maps[2], maps[4], maps[5]]
    theirs = image_package.features(picture)
    for i, (got, want) in enumerate(zip(ends, theirs)):
        agree(f"stage {i + 1}, {tuple(got.shape[1:])}", got, want)

# %% [markdown] tags=["deep-dive", "claim:mvit-order-matters"]
# ## 13 · Does it use time?
#
# The paper's Table 9 is a famous test. The frames of a clip are shuffled when the trained model is tested. MViT-B loses 7.1 points on Kinetics (77.2 to 70.1 %), a ViT that was trained in the same way loses 0.1 (68.5 to 68.4 %). The conclusion: MViT has learned to use time, the ViT has not.
#
# Three cases have to be kept apart. (a) The order is needed: every model that is good must fall. (b) The order is not needed: no model has to fall. (c) One model falls and another does not, on the *same* label. The paper shows (c). Our two labels can show (a) and (b).
#
# On Kinetics many classes are known from a single frame, so a model *may* ignore time. On the course's data set `motion` it may not: eight motions in four pairs, each the other's film run backwards, and one frame shows nothing. A model that sees the frames
# without their order reaches 50 % at most, a model that sees one frame 12.5 % (notebook 04, section 12). So here is case (a): *every* model that is better than 50 % must fall, and that is all that a fall proves here.
#
# The weights that the package ships were trained on `motion` once; their file says with which recipe. They are tested on clips that they never saw: on 400 (`smoke`) or 2,000 (`lecture`, `full`). Models and recipes were chosen by the 400; the 2,000 were left alone. *One frame* means that one frame is repeated over the whole clip.

# %%
from vt_course.training.checkpoint import load_run
from vt_course.training.evaluate import evaluate, open_data, open_test
from vt_course.training.recipes import RECIPES

recipe = RECIPES["mvit_mini"]
trained, _ = load_run(mini_weights("mvit_mini"), "last")
held_out = (open_data(recipe)[1] if PROFILE == "smoke"
            else open_test(recipe, progress=False))
orders = {"normal": "in order", "shuffled": "shuffled",
          "single": "one frame", "reversed": "backwards"}
results = {order: evaluate(trained, held_out, order=order, workers=0,
                           progress=False) for order in orders}
report(clips=len(held_out), frames=recipe.frames)

# %% [markdown]
# **Predict:** the four accuracies, from the two ceilings and from what "backwards" makes of a motion. (In the figure, ± is one standard error over the clips.)

# %% tags=["figure"] alt="Bars of mvit_mini's accuracy on held-out motion clips: frames in order lie above the dashed line at 50 %, shuffled frames below it, one frame near the line at 12.5 %, backwards lowest."
bars = {name: (results[order]["top1"], results[order]["stderr"])
        for order, name in orders.items()}
show.ceilings(bars, {"one frame": 0.125, "no order": 0.5},
              "mvit_mini: top-1 on held-out motion clips")

# %% [markdown] tags=["answer"]
# Backwards, a clip of "left" is a clip of "right". A model that has learned directions gives the other name of the pair, which counts as wrong. Shuffled frames look like no motion that the model has seen, so it may stay below the ceiling of 50 %.

# %%
for order, ceiling in (("single", 0.125), ("shuffled", 0.5)):
    error = math.sqrt(ceiling * (1 - ceiling) / len(held_out))
    most = round(100 * (ceiling + 4 * error), 1)     # by chance
    within(orders[order], 100 * results[order]["top1"], 0, most, " %")
fall = results["normal"]["top1"] - results["shuffled"]["top1"]
within("fall by shuffling", 100 * fall, 10, 100, " points")

# %% [markdown]
# What of a model that does not fall? The paper's ViT attends over all frames and has positions for all of them; that it ignores them is a result of its training, and on `motion` such a model could not be better than 50 %. What can be shown without any training is a model that is blind by *construction*: a ViT that looks at each frame alone and averages. Shuffled frames then are the same set, and the scores are equal to the last digits:

# %%
blind = livelier(create("vit_frames_mini"))      # random weights
order = torch.randperm(clips.shape[2], generator=seeded(4))
mixed = clips[:, :, order]
with torch.no_grad():
    agree("average of frames: shuffled = in order",
          blind(mixed), blind(clips))
    differ("your MViT: shuffled, in order", mine(mixed), mine(clips))

# %% [markdown]
# So a model that has to use the order does use it, and a blind one cannot. (Where MViT reads the order, within a cube or from cube to cube, is asked in notebook 09.)
#
# ### Where one frame tells the label
#
# The paper's contrast needs data that a single frame mostly solves. `appearance`, the other label of the same clips, is such a label: the pattern of the background. This is case (b). Four models were trained on it with their frames in order, each with five seeds, and tested in four orders. (`vt-course experiments --only families-appearance` makes these runs; nothing is trained here.)
#
# **Predict:** how many points does each model lose when the frames are shuffled? On Kinetics the paper's MViT loses 7.1. (In the figure, ± is the standard deviation over the seeds.)

# %%
from vt_course.training.experiments.results import read_result

variants = read_result("families-appearance")["variants"]
read = {name: {o: [100 * run["top1"][o] for run in v["runs"]]
               for o in orders} for name, v in variants.items()}
print(f"{'mean top-1, %':20}" + "".join(f"{w:>12}"
                                        for w in orders.values()))
for name, top1 in read.items():
    means = [sum(top1[o]) / len(top1[o]) for o in orders]
    print(f"{name:20}" + "".join(f"{mean:12.1f}" for mean in means))

# %% tags=["figure"] alt="Points of accuracy that four families lose on appearance when the frames are shuffled, one dot for each seed: all lie close to 0, and a square marks the 7.1 points of the paper's MViT on Kinetics far to the right."
lost = {name: [a - b for a, b in zip(top1["normal"], top1["shuffled"])]
        for name, top1 in read.items()}
show.spread(lost, "points lost by shuffling",
            "The label is the pattern of the background",
            marks={"the paper's MViT, on Kinetics": {"MViT": 7.1}})

# %%
for name, top1 in read.items():
    mean = sum(top1["normal"]) / len(top1["normal"])
    within(f"{name}: in order", mean, 85, 100, " %")
    fall = sum(lost[name]) / len(lost[name])
    within(f"{name}: lost by shuffling", fall, -2, 2, " points")
    assert max(lost[name]) < 1.5
assert read["frame-average ViT"]["normal"] == (
    read["frame-average ViT"]["shuffled"])

# %% [markdown] tags=["answer"]
# Less than 2 points, on average over the seeds, for each of the four. The ViT loses nothing at all, and not by training: the average over frames has no order.

# %% [markdown]
# **What is tested by this, and what is not?** On `motion` the order is everything, and all that read it fall: case (a). On `appearance` it tells nothing, and no run falls by more than 1.4 points: case (b). (MViT's fall is not zero. It is 0.7 points on average, and above zero with each seed; the paper's is ten times as large.) The paper's table lies between the two. On Kinetics one frame tells much and the order tells a little more, and there MViT uses it and the ViT does not. That is case (c), and our two labels cannot test it.

# %% [markdown] tags=["deep-dive"]
# ## 14 · What this architecture buys, and what it costs
#
# The families so far, trained on the same clips with the same number of steps, and a ViT that sees each frame by itself and averages. The figure reads a result file; nothing is trained here. It grows from notebook to notebook. There is one mark for each of five seeds. The dashed lines are the two ceilings, 12.5 % for one frame and 50 % without the order. (`vt-course experiments --only families-motion` makes these runs.)

# %% tags=["figure"] alt="One row for each family: marks for the accuracy with frames in order, shuffled, in reverse and one frame repeated, dashed lines at 12.5 % and 50 %, and bars for parameters, multiply-accumulates, time and memory of a clip; of two MViTs, a Video Swin and a ViT that averages frames."
show.families("Video Swin", "MViT", "MViTv2", "frame-average ViT")

# %% [markdown]
# Read it with three remarks. Networks of a few hundred thousand parameters on drawn shapes say nothing about Kinetics. Multiply-accumulates and milliseconds need not have the same order: a depthwise convolution has few MACs and takes long on a CPU; one reason is that each number is used at most 27 times after it was fetched. (Time and memory are of one clip, forward and backward, on one core; the models took turns in one process: `vt-course bench minis`.) And a difference that is smaller than the spread over seeds is not shown by these runs.
#
# **What pooling buys.** Every query sees keys from the whole clip, at the price of 393 keys (1,569 where a later stage begins). The maps of four stages come out as a by-product, fine ones first, which detectors want. Adaptive strides keep the number of keys about constant, so that attention is a fifth of the multiply-accumulates of MViT-B (section 9).
#
# **What it costs.** The network is built for one size of clip: positions, and the tables of MViTv2, belong to places. Keys are coarse where queries are fine, and with boxes smaller than their stride some tokens are not heard by others within that block (section 8). Weights of a plain image ViT do not fit, because each stage has other shapes: the paper trains on Kinetics from scratch, for 200 epochs (appendix D).

# %% [markdown]
# ## What is scaled down, and what was left out
#
# - No accuracy of the papers is reproduced here. Percentages in sections 5 to 11 are quoted, each with its table.
# - Parameters, multiply-accumulates, names and shapes are at full scale, and exact. Outputs were compared on smaller clips: 8 frames of 96 × 96, with all 16 blocks. The repository's tests also compare with recorded outputs of the authors' own code, and in float64.
# - Table 14's first row does not come out (section 9). MViT-S is not among the variants: the paper does not say enough about it to build it.
# - The trainings behind Tables 10, 11, 13, 14, 15 and A.1 were not repeated. Memory was measured for one layer, not for the networks of Table 14.
# - Dropout and drop path act in training only; your networks leave them out, the package's have them. Fresh weights of the package follow the official rule, in which even the biases of linear layers begin at 0.02; yours begin as PyTorch's do, or at 0, and get their numbers by loading.
# - Your networks are literal: all scores are stored. The package's use fused attention, and a faster depthwise convolution.
#
# ## Summary
#
# - Four stages: height and width are halved, channels and heads double; time is halved once, by the cubes.
# - Pooled queries make the output smaller, in the first block of stages 2, 3 and 4. Pooled keys and values make attention cheap, in all blocks whose stride is above 1, and do not change the shape of the output. The class token passes by all poolings, and through their norms.
# - The skip pools with a maximum where queries are pooled. Where channels grow, a linear layer of the *normalised* tokens is the skip: in MViT around the MLP of the block before, in MViTv2 around attention.
# - Key strides are adaptive: halved where the map is.
# - MViTv2 = relative positions that depend on the query, residual pooling, pooled queries everywhere, channels that double in attention.
#
# ## Questionnaire
#
# 1. Keys and values are pooled by 1 × 8 × 8, queries are not. How many tokens has the output, and how many rows and columns the matrix of scores of one head, for a map of 8 × 56 × 56?
# 2. Why can keys and values not have different strides, while queries and keys can?
# 3. Which blocks of MViT-B have a convolution as `pool_q`, and which have a layer `proj` of the block itself (each attention has one, too)? Which are these in MViTv2-S?
# 4. You pool the map with the class token still in front of it. Which error do you get, if any?
# 5. A network for 32 frames gets the weights of one for 16. Which tensors do not fit, in MViT and in MViTv2?
# 6. Attention in block 0 costs 1.9 GMACs. What would it cost with stride 1 × 4 × 4?
# 7. A model falls from 90 to 30 % when frames are shuffled, on data where one frame tells nothing. What does that prove?

# %% [markdown] tags=["answer"]
# <details><summary>Answers</summary>
#
# 1. 25,089 tokens; 25,089 rows and 393 columns (section 4).
# 2. A weight belongs to one key and to its value; a row of weights belongs to one query, whatever there are of keys (section 4).
# 3. `pool_q`: blocks 1, 3 and 14; `proj`: the blocks before them, 0, 2 and 13 (sections 5 and 6). In MViTv2-S all blocks have a `pool_q`, and blocks 1, 3 and 14 have the `proj` (section 11).
# 4. 1 + N numbers do not fit a map of T · H · W, so it raises an error, unless the last token is dropped by mistake. Then all places shift by one, and nothing is raised (section 3).
# 5. In MViT `pos_embed_temporal`; in MViTv2 all `rel_pos_t`. With another size of the frames also `pos_embed_spatial`, or `rel_pos_h` and `rel_pos_w` (sections 2 and 11).
# 6. Four times the map keys, 1,569 in all: 1.9 · 1569 / 393 = 7.6 GMACs (section 9).
# 7. That it used the order, which it had to. On data where one frame tells the label, the same network would have no reason to fall (section 13).
# </details>

# %% [markdown]
# **Next:** [06 · TimeSformer](06_timesformer.ipynb), which keeps a plain ViT and divides attention between time and space.
