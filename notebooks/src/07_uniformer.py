# %% [markdown]
# # 07 · UniFormer: one aggregator, two affinities
#
# *Li et al., "UniFormer: Unified Transformer for Efficient Spatiotemporal Representation Learning", ICLR 2022,
# [arXiv 2201.04676](https://arxiv.org/abs/2201.04676); for images and dense prediction
# [arXiv 2201.09450](https://arxiv.org/abs/2201.09450).*
#
# By the end of this notebook you own a complete UniFormer that is made only of cells you ran here. It accepts the weights of the finished model in `vt_course`, and gives the same numbers up to rounding.
# On the way you prove that a layer which looks like attention **is** three convolutions. You also see how a network without any table of positions knows where its tokens are.
#
# | | |
# |---|---|
# | **Needs** | PyTorch; softmax attention with queries, keys and values (notebook 02). Notebook 04 helps, but is not required |
# | **Data** | the embedded clips: `vt-course data synthetic`, once (`make course` and `make lab` do it) |
# | **Time** | 2 to 3 hours with the exercises; to run it: about half a minute on two cores |
# | **Profiles** | `smoke`; `lecture` and `full` test the trained model on 2,000 test clips instead of 400 (section 16), so that the error bars are less than half as long; a minute more |
# | **Hardware** | a laptop CPU and 2 GB of memory |
#
# **You will be able to**
#
# 1. write both kinds of affinity as one matrix, and say which numbers in it are learned and which follow from the clip;
# 2. turn the local kind into convolutions, and prove it on the same weights;
# 3. say how zeros at a border become a sense of place;
# 4. predict parameters and multiply-accumulates of every published video variant but the light ones (XXS, XS) to the last digit;
# 5. turn image weights into video weights, and say which rule keeps the image model and which does not;
# 6. say why the third stage is cut into windows on large images, and what that changes.

# %% tags=["parameters"]
PROFILE = "smoke"   # lecture, full: 2,000 test clips in section 16

# %%
import math
from itertools import product

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from vt_course.lab import show
from vt_course.lab.check import check
from vt_course.lab.report import agree, differ, report, within

_ = torch.manual_seed(0)

# %% [markdown]
# Four helpers print what is the same on every machine. `report` prints shapes and counts. `agree` stops the notebook unless two tensors match
# everywhere, and prints the bound it checked. `differ` is the opposite, its control; its line begins with ≠. `within` checks that a number lies in an interval.

# %% [markdown] tags=["core", "claim:uf-stage-1", "claim:uf-time-is-halved-once"]
# ## 1 · The network in one picture
#
# A clip enters as T × H × W pixels. Four [stages](glossary.md#stage) follow, and each begins with a patch embedding that makes the [map](glossary.md#map) smaller.
# The first one halves time and quarters height and width. The other three halve height and width only. The channels are 64, 128, 320 and 512.
#
# A map of N [tokens](glossary.md#token) can be mixed in two ways. With [global attention](glossary.md#global-attention) each token compares itself with all N. That costs 2 · N² · C
# [multiply-accumulates](glossary.md#multiply-accumulate) (MACs) a block: N² pairs, C for each product q·k, and C more for the weighted sum of the values. Or a token looks at a small neighbourhood only.
#
# **Predict, then run.** UniFormer-S reads 16 frames of 224 × 224. The whole network costs 41.7 billion MACs. How many billion would the two products of global attention cost in *one* block of stage 1?

# %%
def stage_shapes(T, H, W, dims=(64, 128, 320, 512)):
    """The map of each stage."""
    T, H, W = math.ceil(T / 2), H // 4, W // 4
    for i, C in enumerate(dims):
        yield dict(name=f"stage {i + 1}", shape=(T, H, W), channels=C)
        H, W = H // 2, W // 2


rows = list(stage_shapes(16, 224, 224))
report(**{r["name"]: (*r["shape"], r["channels"]) for r in rows})

# %% tags=["figure"] alt="Four boxes for the maps of UniFormer-S on 16 frames: height and width are halved from stage to stage, the 8 time steps stay, and the number of tokens falls from 25,088 to 392."
show.token_flow(rows, title="UniFormer-S, 16 frames of 224 × 224")

# %%
for r in rows:
    n = math.prod(r["shape"])
    pairs = f"{2 * n**2 * r['channels'] / 1e9:6.2f} GMACs a block"
    report(**{f"{r['name']}, {n:6,} tokens": pairs})

# %% [markdown] tags=["answer"]
# In stage 1 the two products alone would cost 80.6 billion MACs a block, nearly twice the whole network. In stage 4 they cost 0.16 billion.

# %% [markdown]
# Is it worth the price? The paper looks at the first layers of a trained TimeSformer (Fig. 1). There the attention of a token goes mostly to its
# neighbours: neighbouring patches in space, the same place in the next frames in time. To compare all pairs and then to use the neighbours is waste. The paper calls it *redundancy*. In the last layers, what is
# far apart must meet: *dependency*. So UniFormer mixes locally in stages 1 and 2, and globally in stages 3 and 4. (Section 12 repeats the look at the first layers on models that were trained here.)

# %% [markdown] tags=["core", "claim:uf-tube-125"]
# ## 2 · One formula, two affinities
#
# The paper writes both ways as one layer, the **multi-head relation aggregator** (MHRA, equations 4 and 5). X holds N tokens of C channels. Each [head](glossary.md#head) n has an [affinity](glossary.md#affinity) A_n: a matrix of N × N numbers.
# Row i says how much token i takes from each token j.
#
# $$R_n(X) = A_n\, V_n(X) \qquad \mathrm{MHRA}(X) = \mathrm{Concat}(R_1; \dots; R_N)\, U$$
#
# V_n is a linear layer that makes the [values](glossary.md#value) of head n. U is a linear layer that mixes the heads, laid side by side. (In the formula, N is the number of heads; everywhere else in this notebook N is the number of tokens.)
#
# As a function: one affinity for each head, `(h, N, N)`.

# %% tags=["definition"]
def aggregate(x, affinity, V, U):
    """MHRA: tokens (B, N, C), affinity (h, N, N) or (B, h, N, N)."""
    values = x @ V.T                                  # (B, N, C)
    values = values.unflatten(-1, (affinity.shape[-3], -1))
    values = values.transpose(1, 2)                   # (B, h, N, d)
    heads = affinity @ values                         # (B, h, N, d)
    return heads.transpose(1, 2).flatten(2) @ U.T     # (B, N, C)

# %% [markdown]
# Everything now hangs on the affinity.
#
# **Global** (equation 7): the softmax of products of queries and keys. The numbers follow from the *content* of the clip. The layer learns only how to make queries and keys. The
# official code divides the products by √d, where d is the number of channels of a head.

# %% tags=["definition"]
def global_affinity(x, Q, K, heads):
    """softmax(q·kᵀ/√d): (B, N, C) -> (B, h, N, N)."""
    q, k = (t.unflatten(-1, (heads, -1)).transpose(1, 2)
            for t in (x @ Q.T, x @ K.T))              # (B, h, N, d)
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)


size, C, heads = (2, 3, 4), 6, 2
N = math.prod(size)
tokens = torch.randn(1, N, C)
Q, K, V, U = (torch.randn(C, C) / C**0.5 for _ in range(4))
Q = 2 * Q                                             # sharper weights
by_content = global_affinity(tokens, Q, K, heads)
report(affinity=by_content.shape,
       output=aggregate(tokens, by_content, V, U).shape)

# %% [markdown]
# It is the attention of notebook 02, on the same weights:

# %% tags=["fast"]
q, k, v = (rearrange(tokens @ M.T, "b n (h d) -> b h n d", h=heads)
           for M in (Q, K, V))
fused = F.scaled_dot_product_attention(q, k, v)
fused = rearrange(fused, "b h n d -> b n (h d)") @ U.T
agree("aggregator with global affinity = attention", fused,
      aggregate(tokens, by_content, V, U))

# %% [markdown]
# **Local** (equation 6): each head has a small [kernel](glossary.md#kernel) a_n of kt × kh × kw learned numbers, the **tube** (5 × 5 × 5 in the paper). A_n(i, j) is the entry of the kernel for the [offset](glossary.md#offset) between i and j. It is 0 where j lies outside the tube around i.
# There is no softmax. The numbers depend on the offset only, never on the content.
#
# ### Exercise 7.1 · The affinity of a tube
#
# Difficulty 3/5 · importance 5/5 · 20 minutes
#
# `kernel` is `(h, kt, kh, kw)` with odd sides, `size` is (T, H, W). Return `(h, N, N)` with N = T·H·W. Row i is the query, column j is the key, both numbered (T H W), width fastest.
# The centre of the kernel belongs to the query itself. One entry further along an axis belongs to the key one place further along this axis. Keys outside the tube get 0. Read the entries by their index, without a convolution: section 3 compares your matrix with one.

# %% tags=["exercise:7.1"]
def tube_affinity(kernel, size):
    """(h, kt, kh, kw) -> (h, N, N): the kernel entry of each pair."""
    raise NotImplementedError("exercise 7.1")

# %% tags=["check:7.1"]
tube_affinity = check("7.1", tube_affinity)

# %% [markdown] tags=["hints:7.1"]
# <details><summary>Hint 1: intuition</summary>
#
# Begin with one axis of 4 places and a kernel of 3 numbers. Row 0 holds (centre, next, 0, 0). Row 1 holds (before, centre, next, 0).
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# For a query i and a key j: offset = place of j minus place of i, along each of the three axes. Add half the side of the kernel, rounded down. If all three numbers lie inside the kernel, that is the entry.
# Two loops over `product(range(T), range(H), range(W))` are fine.
# </details>
# <details><summary>Symptom: the matrix is transposed</summary>
#
# The rows are queries. The token *after* the query must get the entry after the centre.
# </details>

# %% tags=["solution:7.1"]
def tube_affinity(kernel, size):
    """(h, kt, kh, kw) -> (h, N, N): the kernel entry of each pair."""
    sides = kernel.shape[1:]
    places = list(product(*map(range, size)))
    rows = []
    for query in places:
        row = []
        for key in places:
            at = [b - a + n // 2 for a, b, n in zip(query, key, sides)]
            inside = all(0 <= p < n for p, n in zip(at, sides))
            entry = kernel[:, at[0], at[1], at[2]] if inside else None
            zero = torch.zeros_like(kernel[:, 0, 0, 0])
            row.append(zero if entry is None else entry)
        rows.append(torch.stack(row, -1))             # (h, N)
    return torch.stack(rows, 1)                       # (h, N, N)


tube_affinity = check("7.1", tube_affinity, solution=True)

# %%
kernel = torch.randn(heads, 3, 3, 3) / 8
by_offset = tube_affinity(kernel, size)
report(affinity=by_offset.shape,
       output=aggregate(tokens, by_offset, V, U).shape)

# %% tags=["figure"] alt="Two matrices of 24 queries by 24 keys with a line between the two frames: the global affinity has shares everywhere, the local one repeats the same numbers along diagonals and is empty elsewhere."
show.attention_matrices(
    [by_content[0, 0].detach(), by_offset[0]], every=12,
    title=["global: from the content", "local: the offset only"])

# %% [markdown]
# (Head 0 of two. The orange lines separate the two time steps; the diagonals break where a row of the map ends.) Left, each row is a set of shares that sum to 1. Right, the same numbers repeat along diagonals, and some are negative: a head can subtract a neighbour, which attention cannot do with its weights.
#
# **Predict.** Put other contents into tokens 3 and 17. Which rows of the left matrix change, and which of the right one?

# %%
other = tokens.clone()
other[:, [3, 17]] = torch.randn(1, 2, C)
changed = global_affinity(other, Q, K, heads) - by_content
changed = changed[0, 0].abs().amax(-1) > 1e-4         # (N,)
report(rows_that_change=f"{int(changed.sum())} of {N}, head 0")

# %% [markdown] tags=["answer"]
# In the left matrix the rows and the columns of these two tokens change, and with their columns each row's sum, so all shares change a little. In the right one nothing changes: `tube_affinity` is not even given the clip.

# %% [markdown] tags=["core", "claim:uf-local-block-3"]
# ## 3 · The local aggregator is three convolutions
#
# A matrix whose entries depend on the offset only is a convolution. The kernel slides over the map, with zeros around it. In the paper every channel is a head of its own, so each channel has a kernel of its own: a [**depthwise convolution**](glossary.md#depthwise-convolution).
# V and U act on each token alone. On a map that is a convolution with a kernel of 1 × 1 × 1, a *pointwise* one. So the layer is
#
# pointwise (V) → depthwise (A) → pointwise (U).
#
# ### Exercise 7.2 · Three convolutions
#
# Difficulty 2/5 · importance 5/5 · 15 minutes
#
# `x` is a map `(B, C, T, H, W)`. `V` is `(D, C)`, `a` is `(D, kt, kh, kw)`, `U` is `(C, D)`, where D is the number of channels in between. No biases. The sides of the kernel are odd, and they may differ. The map keeps its size. Any code that gives the same numbers passes.

# %% tags=["exercise:7.2"]
def local_relation(x, V, a, U):
    """(B, C, T, H, W) -> the same shape, in three convolutions."""
    raise NotImplementedError("exercise 7.2")

# %% tags=["check:7.2"]
local_relation = check("7.2", local_relation)

# %% [markdown] tags=["hints:7.2"]
# <details><summary>Hint 1: intuition</summary>
#
# `F.conv3d(x, weight, padding=..., groups=...)` wants a weight of shape (channels out, channels in of one group, kt, kh, kw).
# With as many groups as channels, each channel is filtered alone.
# </details>
# <details><summary>Hint 2: the shapes</summary>
#
# `V` becomes (D, C, 1, 1, 1) and `a` becomes (D, 1, kt, kh, kw). The padding is half of each side, rounded down.
# </details>
# <details><summary>Symptom: "expected input to have 1 channels"</summary>
#
# The number of groups is missing.
# </details>

# %% tags=["solution:7.2"]
def local_relation(x, V, a, U):
    """(B, C, T, H, W) -> the same shape, in three convolutions."""
    x = F.conv3d(x, V[:, :, None, None, None])        # (B, D, T, H, W)
    half = [n // 2 for n in a.shape[1:]]
    x = F.conv3d(x, a[:, None], padding=half, groups=len(a))
    return F.conv3d(x, U[:, :, None, None, None])     # (B, C, T, H, W)


local_relation = check("7.2", local_relation, solution=True)

# %% [markdown]
# The proof on the same weights: your matrix from exercise 7.1, once for each channel, against your convolutions.

# %% tags=["fast"]
some_map = torch.randn(2, C, *size)
a = torch.randn(C, 5, 5, 5)                           # C heads
as_tokens = some_map.flatten(2).mT                    # (B, N, C)
by_matrix = aggregate(as_tokens, tube_affinity(a, size), V, U)
by_matrix = by_matrix.mT.unflatten(2, size)           # (B, C, T, H, W)
agree("MHRA with local affinity = three convolutions",
      local_relation(some_map, V, a, U), by_matrix)
differ("control: a flipped kernel",
       local_relation(some_map, V, a.flip(1, 2, 3), U), by_matrix)

# %% [markdown]
# A remark on the control. The paper writes the entry as a^{i−j}, query minus key. PyTorch's convolution uses key minus query. While the entries are still to be learned, that is a difference of names only. A kernel that has been learned must be read in its own direction.
#
# **What the affinity costs.** A token takes 125 numbers from its tube, in each channel: 125 · N · C MACs for A. Global attention takes 2 · N · N · C. In stage 1 of UniFormer-S, N is 25,088.

# %%
for r in rows:
    n = math.prod(r["shape"])
    ratio = f"{2 * n / 125:6.1f} times the local one"
    report(**{f"{r['name']}, global products": ratio})

# %% [markdown]
# **Is it a MobileNet block?** Pointwise, depthwise, pointwise: that is how MobileNetV2 builds its blocks, too. Two things differ. UniFormer's three layers are linear, with no activation between them. And a second half follows: an MLP on each token, which the paper calls [FFN](glossary.md#ffn), as in every transformer block.
# Without that half (and with the convolutions three times as wide instead), the paper's [accuracy](glossary.md#accuracy) on Kinetics-400, top-1 in percent, falls from 79.3 to 78.6 (Table 4).
#
# **Why 5 × 5 × 5?** The paper tried 3, 5, 7 and 9: 79.0, 79.3, 79.1, 78.9 (Table 4). The differences are small, and it gives no spread over seeds. So "5 is best" is not proven. No gain of a larger tube is visible.

# %% [markdown] tags=["core", "claim:uf-32-frames", "claim:uf-dpe-is-no-table"]
# ## 4 · Where am I? Position from zeros
#
# Attention does not know where a token is. Shuffle its tokens, and the outputs are shuffled in the same way. Swin adds a [bias table](glossary.md#bias-table), which is made for one size of window. TimeSformer adds a learned vector for each place, which is made for one size of clip.
# UniFormer has the [**dynamic position embedding**](glossary.md#dynamic-position-embedding) (DPE, equation 8), at the beginning of *every* block:
#
# $$\mathrm{DPE}(X) = \mathrm{DWConv}(X) \qquad X \leftarrow X + \mathrm{DPE}(X)$$
#
# DWConv is a depthwise convolution of 3 × 3 × 3 with zeros around the map. It fits every size. How can it know a place?
#
# **Predict.** Take a map of 8 × 8 × 8 tokens that are all *equal*. How many different tokens are there after one DPE? And after two?

# %%
def add_dpe(x, weight, padding="zeros"):
    """X + DWConv(X); around the map: zeros, or its opposite side."""
    mode = "constant" if padding == "zeros" else padding
    padded = F.pad(x, (1,) * 6, mode=mode)
    return x + F.conv3d(padded, weight, groups=len(weight))


def kinds_of_tokens(x):
    """A number for each token of (1, C, T, H, W), its kind."""
    tokens = x[0].flatten(1).T.mul(1e9).round()       # (N, C)
    _, kinds = tokens.unique(dim=0, return_inverse=True)
    return kinds.view(x.shape[2:])                    # (T, H, W)


def different_tokens(x):
    return int(kinds_of_tokens(x).max()) + 1

# %%
w = torch.randn(3, 4, 1, 3, 3, 3, dtype=torch.float64) / 27**0.5
equal = torch.ones(1, 4, 8, 8, 8, dtype=torch.float64)
once = add_dpe(equal, w[0])
twice = add_dpe(once, w[1])
thrice = add_dpe(twice, w[2])
for name, x_now in {"at first": equal, "after one": once,
                    "after two": twice, "after three": thrice}.items():
    report(**{name: different_tokens(x_now)})

# %% tags=["figure"] alt="Kinds of tokens of one time step of 8 by 8 equal tokens, as numbers: after one position embedding nine kinds, with a frame one token wide; after two embeddings twenty-five, with a frame two tokens wide."
def numbered(x):
    """The kinds of tokens of time step 4, numbered from 0."""
    kinds = kinds_of_tokens(x)[4]                     # (H, W)
    seen_first = list(dict.fromkeys(kinds.flatten().tolist()))
    numbers = [seen_first.index(k) for k in kinds.flatten().tolist()]
    return torch.tensor(numbers).view(kinds.shape)


show.regions_2d([numbered(once), numbered(twice)],
                ["after one DPE", "after two"])

# %% [markdown] tags=["answer"]
# One DPE makes 3 · 3 · 3 = 27 different tokens. Along each axis a token is the first, the last, or inside. A second one makes 5³ = 125, a third 7³ = 343. (The figure shows one time step: 3 · 3 and 5 · 5 kinds.)

# %% [markdown]
# The zeros at the border tell where the border is, and each block carries the news one token further.
# So a token that is near enough to a border knows its distance to it: an *absolute* position. (Three blocks are not enough for all of the 512 tokens here: there are 343 kinds.) In a large map the others learn it in later stages, where the map is smaller.
#
# If the zeros are the cause, then without a border nothing may be left. The control: pad with the opposite side of the map, so that no token lies at a border.

# %%
around = equal
for weight in w:
    around = add_dpe(around, weight, "circular")
report(circular_after_three=different_tokens(around))

# %% [markdown]
# One kind of token: with circular padding the place is gone. What stays, also without any border, is *relative* position: the kernel has another number for "before" than for "after". The tokens of a real clip differ, so a DPE makes attention sensitive to their order, as section 7 shows.
#
# Without DPE, the paper's top-1 on Kinetics-400 falls from 79.3 to 77.6 (Table 4). That is the largest fall among the three parts that it takes away one by one: the FFN of local blocks, joint attention, and the DPE. (The zeros around the tubes of stages 1 and 2 tell the place, too. So "no DPE" is not "no position".) Why in every block, and not once? The paper does not compare this for video; what you have just seen is that each block carries the place one token further.

# %% [markdown] tags=["core", "claim:uf-ffn-4-local"]
# ## 5 · The local block
#
# A block has three lines (equations 1 to 3), the same for both affinities. Each adds something to what came in; such a sum is called a *residual*.
#
# $$X = \mathrm{DPE}(X_{in}) + X_{in} \qquad Y = \mathrm{MHRA}(\mathrm{Norm}(X)) + X \qquad Z = \mathrm{FFN}(\mathrm{Norm}(Y)) + Y$$
#
# In the local block, Norm is [**BatchNorm**](glossary.md#batchnorm). It subtracts from each channel a mean and divides by a deviation. In training these are taken over all places of all clips of the batch. In evaluation they are stored numbers, a running mean of those of training. Then each channel gets a learned scale and a learned shift. The FFN is two pointwise convolutions, C → 4C → C, with a GELU between, a smooth nonlinear function.
#
# The modules, with the names of the official checkpoints:

# %%
def two_layers(first, second):
    """first, GELU, second; the names are those of the checkpoints."""
    layers = nn.Sequential()
    layers.fc1, layers.act, layers.fc2 = first, nn.GELU(), second
    return layers


class LocalBlock(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.pos_embed = nn.Conv3d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.BatchNorm3d(dim)
        self.conv1 = nn.Conv3d(dim, dim, 1)                        # V
        self.attn = nn.Conv3d(dim, dim, 5, padding=2, groups=dim)  # A
        self.conv2 = nn.Conv3d(dim, dim, 1)                        # U
        self.norm2 = nn.BatchNorm3d(dim)
        self.mlp = two_layers(nn.Conv3d(dim, 4 * dim, 1),
                              nn.Conv3d(4 * dim, dim, 1))

    def forward(self, x):                             # (B, C, T, H, W)
        return local_block(self, x)

# %% [markdown]
# ### Exercise 7.3 · The local block
#
# Difficulty 2/5 · importance 5/5 · 15 minutes
#
# Write the whole forward pass: equations 1, 2 and 3. `block` has the modules `pos_embed` (DWConv alone, without the sum), `norm1`, `conv1`, `attn`, `conv2`, `norm2` and `mlp`, as above. Each of them can be called on a map.

# %% tags=["exercise:7.3"]
def local_block(block, x):
    """(B, C, T, H, W) -> the same shape."""
    raise NotImplementedError("exercise 7.3")

# %% tags=["check:7.3"]
local_block = check("7.3", local_block)

# %% [markdown] tags=["hints:7.3"]
# <details><summary>Hint 1: intuition</summary>
#
# Three lines, and each adds something to what came in. The norms stand inside the branches, before the aggregator and before the FFN.
# </details>
# <details><summary>Hint 2: the aggregator</summary>
#
# `conv1`, `attn` and `conv2` are V, A and U. Nothing stands between them.
# </details>
# <details><summary>Symptom: "the second residual adds X"</summary>
#
# Overwrite `x` with each of the three results, or take care which name you add.
# </details>

# %% tags=["solution:7.3"]
def local_block(block, x):
    """(B, C, T, H, W) -> the same shape."""
    x = x + block.pos_embed(x)
    values = block.conv1(block.norm1(x))              # (B, C, T, H, W)
    x = x + block.conv2(block.attn(values))
    return x + block.mlp(block.norm2(x))


local_block = check("7.3", local_block, solution=True)

# %% [markdown]
# Against the package's block, on the same weights. The package's depthwise convolution has a faster backward pass; the numbers are the same. (`stir` draws biases, norms and statistics at random: a new BatchNorm would do nearly nothing.)

# %% tags=["fast"]
from vt_course.models import uniformer as package


@torch.no_grad()
def stir(module):
    """Random biases, norms and statistics; sets eval mode."""
    for name, t in module.state_dict().items():
        if t.is_floating_point() and t.ndim < 2:
            scale = name.endswith(("weight", "running_var"))
            t.copy_(1 + 0.1 * torch.randn(t.shape).abs() if scale
                    else 0.1 * torch.randn(t.shape))
    return module.eval()


my_local = stir(LocalBlock(8))
off = dict(layer_scale=False, drop_path=0.0)
their_local = package.LocalBlock(3, 8, mlp_ratio=4, tube=(5, 5, 5),
                                 ffn=True, dpe=True, **off).eval()
report(loading=str(their_local.load_state_dict(my_local.state_dict())))

# %%
x = torch.randn(2, 8, 4, 6, 5)
with torch.no_grad():
    agree("your local block = the package's", my_local(x),
          their_local(x))

# %% [markdown]
# **Why BatchNorm here, and not LayerNorm?** The paper does not compare them, so *which learns better* is not known from it. One advantage is certain. In evaluation a BatchNorm is a fixed scale and shift for each channel. So it can be folded into the convolution behind it, and costs nothing:

# %%
@torch.no_grad()
def fold(norm, conv):
    """One pointwise convolution that does what both do in eval mode."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()  # (C,)
    shift = norm.bias - scale * norm.running_mean  # (C,)
    weight = conv.weight.flatten(1)  # (D, C)
    return weight * scale, conv.bias + weight @ shift


weight, bias = fold(my_local.norm1, my_local.conv1)
folded = torch.einsum("dc,bcthw->bdthw", weight, x)
folded = folded + bias[:, None, None, None]
with torch.no_grad():
    agree("norm and conv1 in one", folded,
          my_local.conv1(my_local.norm1(x)))

# %% [markdown] tags=["deep-dive", "claim:uf-clips-apart"]
# ## 6 · BatchNorm and a single clip
#
# In training the mean and the deviation come from the batch. So the answer for one clip depends on the clips beside it. LayerNorm has no such effect.

# %%
def alone_and_together(block):
    with torch.no_grad():
        return block(x[:1]), block(x)[:1]


in_training = stir(LocalBlock(8)).train()
differ("train: alone and beside another clip",
       *alone_and_together(in_training))
agree("eval: alone and beside another clip",
      *alone_and_together(stir(LocalBlock(8))))

# %% [markdown]
# How large is the effect? In a batch of hundreds of clips the mean is nearly that of all clips, and one neighbour more or less changes nothing. So take the answer for one clip in a batch of 512 as the standard, and measure how far the answers in small batches lie from it.
#
# **Predict:** the batch grows from 2 clips to 8. By which factor does the distance shrink: 1.4, 2, 4 or 16?

# %%
def distance_from_large_batch(batch, draws=20):
    """Of one clip's answer, over random neighbours: the mean."""
    total = 0.0
    for _ in range(draws):
        others = torch.randn(batch - 1, *x.shape[1:])
        with torch.no_grad():
            answer = in_training(torch.cat([x[:1], others]))[:1]
        total += (answer - in_large_batch).square().mean().sqrt()
    return total.item() / draws


_ = torch.manual_seed(0)
with torch.no_grad():
    many = torch.cat([x[:1], torch.randn(511, *x.shape[1:])])
    in_large_batch = in_training(many)[:1]
ratio = distance_from_large_batch(2) / distance_from_large_batch(8)
within("2 clips over 8 clips", ratio, 1.6, 2.4, " times")

# %% [markdown] tags=["answer"]
# By about 2. The error of a mean of n independent numbers falls with √n, and √4 = 2. (These clips are independent noise. The frames of a real clip resemble each other, so there are fewer independent numbers than places.)

# %% [markdown]
# Three traps follow.
#
# - **Forgotten `eval()`.** A model in training mode classifies a clip differently in each batch. Besides, every pass changes the stored numbers.
# - **Small batches.** The mean of few clips is a noisy one. The noise enters the local blocks and the last norm. The global blocks have none of their own.
# - **One clip of one place.** A mean over one value is the value itself, and the deviation is 0. PyTorch refuses:

# %%
one_place = torch.randn(1, 8, 1, 1, 1)
try:
    LocalBlock(8).train()(one_place)
except ValueError as error:
    report(refused=str(error).split(", got")[0])
else:
    raise AssertionError("a variance of one value was accepted")

# %% [markdown] tags=["core", "claim:uf-head-64"]
# ## 7 · The global block
#
# The same three lines. Now MHRA is attention among all N = T·H·W tokens of the clip, and Norm is LayerNorm, over the channels of each token. The DPE needs a map, the attention needs tokens. So the block changes its form twice.

# %%
class Attention(nn.Module):
    """MHRA with global affinity, (B, N, C) -> (B, N, C)."""

    def __init__(self, dim, head_dim):
        super().__init__()
        self.heads = dim // head_dim
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)          # 3 × (B, h, N, d)
        logits = q @ k.mT / math.sqrt(q.shape[-1])    # (B, h, N, N)
        out = logits.softmax(-1) @ v                  # (B, h, N, d)
        return self.proj(out.transpose(1, 2).flatten(2))


class GlobalBlock(nn.Module):
    def __init__(self, dim, head_dim):
        super().__init__()
        self.pos_embed = nn.Conv3d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, head_dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = two_layers(nn.Linear(dim, 4 * dim),
                              nn.Linear(4 * dim, dim))

    def forward(self, x):                             # (B, C, T, H, W)
        return global_block(self, x)

# %% [markdown]
# ### Exercise 7.4 · The global block
#
# Difficulty 3/5 · importance 5/5 · 20 minutes
#
# Write the whole forward pass. `block` has `pos_embed` (map to map, without the sum), and `norm1`, `attn`, `norm2`, `mlp` (tokens `(B, N, C)` to tokens). The input and the output are maps.

# %% tags=["exercise:7.4"]
def global_block(block, x):
    """(B, C, T, H, W) -> the same shape."""
    raise NotImplementedError("exercise 7.4")

# %% tags=["check:7.4"]
global_block = check("7.4", global_block)

# %% [markdown] tags=["hints:7.4"]
# <details><summary>Hint 1: intuition</summary>
#
# Position on the map; then flatten the three axes of places into one, and bring the channels to the end; two residual branches; then the way back.
# </details>
# <details><summary>Hint 2: the way back</summary>
#
# Undo the steps in reverse order: channels before the places, then the places apart again, `unflatten`.
# </details>
# <details><summary>Symptom: the shape is right, all numbers are wrong</summary>
#
# A `reshape` from (B, C, T, H, W) to (B, N, C) moves no axis. It needs a transpose.
# </details>

# %% tags=["solution:7.4"]
def global_block(block, x):
    """(B, C, T, H, W) -> the same shape."""
    x = x + block.pos_embed(x)
    size = x.shape[2:]
    x = rearrange(x, "b c t h w -> b (t h w) c")
    x = x + block.attn(block.norm1(x))
    x = x + block.mlp(block.norm2(x))
    return x.mT.unflatten(2, size)                    # (B, C, T, H, W)


global_block = check("7.4", global_block, solution=True)

# %% tags=["fast"]
my_global = stir(GlobalBlock(8, 4))
their_global = package.GlobalBlock(
    3, 8, mlp_ratio=4, head_dim=4, window=None, dpe=True, **off)
_ = their_global.load_state_dict(my_global.state_dict())
with torch.no_grad():
    agree("your global block = the package's", my_global(x),
          their_global.eval()(x))

# %% [markdown]
# The order of the tokens, seen only through the DPE. Play the map backwards in time. Without the DPE, the output is the old one played backwards. With it, it is another one.

# %%
blind = GlobalBlock(8, 4).eval()
state = my_global.state_dict()
_ = blind.load_state_dict(
    {name: t * ("pos_embed" not in name) for name, t in state.items()})
with torch.no_grad():
    differ("with DPE: backwards in, backwards out",
           my_global(x.flip(2)), my_global(x).flip(2))
    agree("without DPE: backwards in, backwards out",
          blind(x.flip(2)), blind(x).flip(2))

# %% [markdown] tags=["core", "claim:uf-s-blocks"]
# ## 8 · The network
#
# Between the stages stand patch embeddings: a convolution whose stride makes the map smaller, then a LayerNorm. The first has a kernel of 3 × 4 × 4 and a stride of 2 × 4 × 4. So along time the kernels *overlap*: step t reads frames 2t − 1, 2t and 2t + 1, and frame −1 is zeros.
# (Video Swin's patches of 2 × 4 × 4 do not overlap.) The others have 1 × 2 × 2 and leave time alone.

# %%
class PatchEmbed(nn.Module):
    def __init__(self, before, dim, first):
        super().__init__()
        kernel = (3, 4, 4) if first else (1, 2, 2)
        stride = (2, 4, 4) if first else (1, 2, 2)
        padding = (1, 0, 0) if first else 0
        self.proj = nn.Conv3d(before, dim, kernel, stride, padding)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x):
        x = self.proj(x).movedim(1, -1)  # (B, T', H', W', C)
        return self.norm(x).movedim(-1, 1)  # (B, C, T', H', W')


class UniFormer(nn.Module):
    def __init__(self, depths, embed_dims, head_dim, num_classes):
        super().__init__()
        before = (3, *embed_dims)
        for i, (depth, dim) in enumerate(zip(depths, embed_dims)):
            embed = PatchEmbed(before[i], dim, first=i == 0)
            blocks = [LocalBlock(dim) if i < 2 else
                      GlobalBlock(dim, head_dim) for _ in range(depth)]
            self.add_module(f"patch_embed{i + 1}", embed)
            self.add_module(f"blocks{i + 1}", nn.Sequential(*blocks))
        self.norm = nn.BatchNorm3d(embed_dims[-1])
        self.head = nn.Linear(embed_dims[-1], num_classes)

    def forward(self, x):                             # (B, 3, T, H, W)
        return classify(self, x)                      # (B, K)

# %% [markdown]
# ### Exercise 7.5 · The network
#
# Difficulty 2/5 · importance 5/5 · 15 minutes
#
# Put the stages together. `net` has `patch_embed1` to `patch_embed4` and `blocks1` to `blocks4`. Each `blocks` is an `nn.Sequential`: you may call it, or loop over it. After stage 4 comes `net.norm`, on the map. Then the mean over all places, and `net.head`. There is no [class token](glossary.md#class-token).
# Return the scores before the softmax, `(B, K)` for K classes.

# %% tags=["exercise:7.5"]
def classify(net, x):
    """(B, 3, T, H, W) -> (B, K)."""
    raise NotImplementedError("exercise 7.5")

# %% tags=["check:7.5"]
classify = check("7.5", classify)

# %% [markdown] tags=["hints:7.5"]
# <details><summary>Hint 1: intuition</summary>
#
# Four times: first the embedding of the stage, then its blocks. `getattr(net, f"blocks{i}")` fetches a module by its name.
# </details>
# <details><summary>Hint 2: the mean</summary>
#
# The map is (B, C, T, H, W). The places are its last three axes.
# </details>
# <details><summary>Symptom: "weight of size [...], expected input to have ... channels"</summary>
#
# A stage got the map of another one: is an embedding left out?
# </details>

# %% tags=["solution:7.5"]
def classify(net, x):
    """(B, 3, T, H, W) -> (B, K)."""
    for i in range(1, 5):
        x = getattr(net, f"patch_embed{i}")(x)
        x = getattr(net, f"blocks{i}")(x)  # (B, C, T', H', W')
    x = net.norm(x)
    return net.head(x.mean((2, 3, 4)))                # (B, K)


classify = check("7.5", classify, solution=True)

# %% [markdown]
# ### Your network is the model
#
# The package ships a small UniFormer, trained on clips of moving shapes (section 16). `ZOO` lists every variant with its settings. Your class must accept its weights **strictly**, no name missing and none left over. And it must agree on any size of clip, from 32 × 32 pixels on.

# %%
from safetensors.torch import load_file

from vt_course.models import ZOO, create, mini_weights


def only(config):
    """The settings that shape the network."""
    shape = ("depths", "embed_dims", "head_dim", "num_classes")
    return {k: config[k] for k in shape}


mini = ZOO["uniformer_mini"]
net = UniFormer(**only(mini.config)).eval()
weights = load_file(mini_weights("uniformer_mini"))
report(**only(mini.config),
       loading=str(net.load_state_dict(weights, strict=True)))

# %%
model = create("uniformer_mini").eval()
_ = model.load_state_dict(weights)
for shape in [mini.input, (3, 7, 50, 45), (3, 1, 33, 64)]:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(2, *shape, generator=generator)
    with torch.no_grad():
        agree(f"yours = package, {shape}", net(noise), model(noise))

# %% [markdown]
# The same class at the paper's size, on the device `meta`, where tensors have shapes and no numbers: UniFormer-S, with 3, 4, 8 and 3 blocks, stage by stage. **Predict:** how many of the 21.4 million parameters do the two local stages hold together? And in the stage that costs most: do the products among tokens cost more than all its linear layers, or less? (Section 1 printed what the products cost in a block.)

# %%
from torch.utils.flop_counter import FlopCounterMode

with torch.device("meta"):
    paper_s = UniFormer((3, 4, 8, 3), (64, 128, 320, 512), 64, 400)
    x_now = torch.empty(1, 3, 16, 224, 224)
for i in range(1, 5):
    parts = [getattr(paper_s, f"patch_embed{i}"),
             getattr(paper_s, f"blocks{i}")]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for part in parts:
            x_now = part(x_now)
    sizes = [p.numel() for part in parts for p in part.parameters()]
    report(**{f"stage {i}": f"{tuple(x_now.shape[1:])}, "
              f"{sum(sizes) / 1e6:.1f} M parameters, "
              f"{counter.get_total_flops() / 2e9:.1f} GMACs"})
whole = sum(p.numel() for p in paper_s.parameters())
n, C = math.prod(rows[2]["shape"]), rows[2]["channels"]
report(whole=f"{whole:,} parameters",
       stage_3_products=f"{8 * 2 * n**2 * C / 1e9:.1f} GMACs",
       stage_3_linear=f"{8 * 12 * n * C**2 / 1e9:.1f} GMACs")

# %% [markdown] tags=["answer"]
# The local stages hold 1.0 million parameters, a twentieth. Their channels are few, and a kernel of 125 numbers a channel is little beside C² numbers.
#
# Stage 3 costs most, 28.4 billion: it has most blocks. Its products among tokens cost 12.6 billion, *less* than its linear layers with 15.4. At this size the square of N is not yet the larger part. On larger images it is (section 14).

# %% [markdown]
# ### A third witness
#
# Both could share a mistake. No library that the course installs has UniFormer. So the authors' code was run once, elsewhere, and its answers were written down. The repository keeps them (`tests/golden`): configuration, official names, the input and the logits. The weights are not kept. A random generator that starts from a parameter's name makes its numbers, then and now; the sum of all |w| checks that they are the same.
# Here *your* class gives those answers.

# %% tags=["oracle"]
import json

import numpy as np

from vt_course import repo_root
from vt_course.claims.golden import case_input, fill_all

recorded = repo_root() / "tests/golden/uniformer_mini.json"
facts = json.loads(recorded.read_text(encoding="utf-8"))
config = facts["config"]
official = UniFormer(config["depth"], config["embed_dim"],
                     config["head_dim"], config["num_classes"]).eval()
filled = fill_all(facts["keys"], facts["weights_abs_sum"])
uncounted = official.load_state_dict(filled, strict=False)
with torch.no_grad():
    logits = official(case_input(facts["input"]))
wanted = np.load(recorded.with_suffix(".npz"))["logits"]
agree("yours = the authors' code", logits, torch.from_numpy(wanted))

# %%
report(left_over=len(uncounted.unexpected_keys))
assert all(key.endswith("num_batches_tracked")
           for key in uncounted.missing_keys)

# %% [markdown] tags=["core", "claim:uf-block-reach"]
# ## 9 · Who sees whom
#
# How much of the clip can reach one token? Ask the gradient. Take the token in the middle of a map, and compute how its numbers change with the tokens that entered stage 1. Where the gradient is not 0, the token *sees*.
#
# The map is 8 × 32 × 32 tokens: 16 frames of 128 × 128 pixels. **Predict:** a local block has a DPE of 3 × 3 × 3 and then a tube of 5 × 5 × 5. How many places along one axis does a token see after the first block, how many after the second? How many tokens is that after one block, and after two? The token stands at step 4 of 0 to 7; rows and columns are more than enough. (In the figure, a percentage says which part of the seen tokens lies in this time step.)

# %%
def seen(network, clip, stage, block):
    """|gradient| at stage 1's tokens (T, H, W) of one later token."""
    x = network.patch_embed1(clip).detach().requires_grad_()
    y = x
    for i in range(1, stage + 1):
        y = y if i == 1 else getattr(network, f"patch_embed{i}")(y)
        blocks = getattr(network, f"blocks{i}")
        for b in blocks[:block] if i == stage else blocks:
            y = b(y)
    middle = [n // 2 for n in y.shape[2:]]
    token = y[0, :, middle[0], middle[1], middle[2]]
    token.pow(2).sum().backward()
    return x.grad[0].norm(dim=0)                      # (T, H, W)

# %%
from vt_course.data import open_spec
from vt_course.data.clips import VideoFolder
from vt_course.training.recipes import RECIPES

motion = open_spec("synthetic:motion")
recipe = RECIPES["uniformer_mini"]
view = dict(frames=recipe.frames, stride=recipe.stride,
            size=recipe.size)
large = dict(frames=16, stride=1, size=128)
val, wide = (VideoFolder(motion.val, classes=motion.classes,
                         train=False, **how) for how in (view, large))
clip = wide[3]["clip"]  # (3, 16, 128, 128)

# %%
places = {"stage 1, block 1": (1, 1), "stage 1, block 2": (1, 2),
          "stage 2, block 1": (2, 1), "stage 3, block 1": (3, 1)}
sight = {name: seen(net, clip[None], *where)
         for name, where in places.items()}
for name, g in sight.items():
    report(**{name: f"{int((g > 0).sum()):5,} of {g.numel():,} tokens"})

# %% tags=["figure"] alt="A clip in eight time steps, four times, with a growing red box around its centre: small after one local block, larger after the next two, and the whole clip after the first global block."
maps = torch.stack([(g > 0).float() for g in sight.values()])
maps = maps / maps.sum((1, 2, 3), keepdim=True)       # equal shares
show.attention_over_frames(clip, maps, (4, 16, 16), rows=list(sight))

# %% [markdown] tags=["answer"]
# After one block 7 places along each axis (1 + 2 to either side), 7³ = 343 tokens. After two, 13 along each axis, and time has only 8 steps: 13 · 13 · 8 = 1,352.

# %% [markdown]
# The third row belongs to stage 2. Its tokens cover 2 × 2 tokens of stage 1, so the same block reaches twice as far. After the first *global* block every token sees everything, at once.
#
# This is what a token *can* see. How much it takes from each place is up to the weights.

# %% [markdown] tags=["deep-dive", "claim:uf-table-4-no-ffn", "claim:uf-table-4-gggg"]
# ## 10 · What it costs
#
# For a map of N tokens with C channels and a tube of 125 places, a **local** block costs
#
# - 27·N·C for the DPE, 125·N·C for the tube,
# - 2·N·C² for V and U, and 8·N·C² for the FFN (C → 4C → C).
#
# Norms, activations and additions are not counted, as in the tools that the papers used.
#
# ### Exercise 7.6 · The cost of a global block
#
# Difficulty 3/5 · importance 3/5 · 10 minutes
#
# The multiply-accumulates of one *global* block, DPE and FFN included, on a map of T × H × W tokens with C channels, as a whole number.

# %% tags=["exercise:7.6"]
def global_macs(T, H, W, C):
    """Multiply-accumulates of one global block."""
    raise NotImplementedError("exercise 7.6")

# %% tags=["check:7.6"]
global_macs = check("7.6", global_macs)

# %% [markdown] tags=["hints:7.6"]
# <details><summary>Hint 1: intuition</summary>
#
# Go through the block from top to bottom and write down each product. A linear layer from C to D channels costs N·C·D.
# </details>
# <details><summary>Hint 2: count of the products</summary>
#
# Four square projections (which?), two products among tokens, two layers of the FFN, and the DPE.
# </details>

# %% tags=["solution:7.6"]
def global_macs(T, H, W, C):
    """Multiply-accumulates of one global block."""
    N = T * H * W
    position = 27 * N * C
    attention = 4 * N * C**2 + 2 * N**2 * C
    return position + attention + 8 * N * C**2


global_macs = check("7.6", global_macs, solution=True)

# %% [markdown]
# With the patch embeddings and the head, that makes the whole network. The counter of the package must agree to the last digit, for every published video variant but the light ones (XXS, XS).

# %% tags=["claim:uniformer_small_16-gmacs"]
from vt_course.models.cost import count_macs, count_parameters


def predicted_macs(T, H, W, depths, dims, classes, kinds="LLGG"):
    """From the formulas alone."""
    total, before = dims[-1] * classes, 3 * 3 * 4 * 4
    stages = stage_shapes(T, H, W, dims)
    for r, depth, kind in zip(stages, depths, kinds):
        N, C = math.prod(r["shape"]), r["channels"]
        local = 152 * N * C + 10 * N * C**2
        block = local if kind == "L" else global_macs(*r["shape"], C)
        total += depth * int(block) + before * N * C
        before = 4 * C                                # 1 × 2 × 2 tokens
    return total


variants = {n: v for n, v in ZOO.items() if n.startswith("uniformer_")
            and v.stated and len(v.input) == 4}
for name, v in variants.items():
    c = dict(embed_dims=(64, 128, 320, 512)) | v.config
    with torch.device("meta"):                        # shapes only
        macs = count_macs(create(name), (1, *v.input))
    assert macs == predicted_macs(*v.input[1:], c["depths"],
                                  c["embed_dims"], c["num_classes"])
report(variants=len(variants), formula_equals_count_in_all=True)

# %% [markdown]
# **Parameters.** A local block has 10·C² weights in its pointwise layers, and 165·C other numbers. A global block has 12·C² and 41·C. Count them: 27 + 1 a channel for the DPE, 125 + 1 for the tube, 2 for each norm, and the biases.

# %%
def predicted_parameters(depths, dims, classes, kinds="LLGG"):
    total = (dims[-1] + 1) * classes + 2 * dims[-1]       # head, norm
    before = 3 * 3 * 4 * 4
    for C, depth, kind in zip(dims, depths, kinds):
        block = (10 * C + 165) * C if kind == "L" else (12 * C + 41) * C
        total += depth * block + (before + 3) * C
        before = 4 * C
    return total


for name, v in variants.items():
    c = dict(embed_dims=(64, 128, 320, 512)) | v.config
    with torch.device("meta"):
        params = count_parameters(create(name))
    assert params == predicted_parameters(c["depths"], c["embed_dims"],
                                          c["num_classes"])
report(variants=len(variants), parameters_equal_in_all=True)

# %% [markdown]
# ### Which stages should be global?
#
# L is a local stage and G a global one. The paper's Table 4 compares five such networks and three other changes, each trained with one shorter schedule. We count all eight; the accuracies (top-1 on Kinetics-400) are the paper's, ours are not known. `divided` is explained in section 11.
#
# **Predict** before you run. GGGG has two blocks in stage 1. What must it cost at least? Section 1 has the number you need.

# %%
table = [  # the change, GMACs, parameters in millions and top-1 stated
    ("LLGG", {}, 41.8, 21.4, 79.3),
    ("no FFN in L", dict(local_ffn=False), 41.0, 21.3, 78.6),
    ("divided", dict(divided=True), 36.8, 27.7, 78.7),
    ("no DPE", dict(dpe=False), 41.4, 21.3, 77.6),
    ("LLLL", dict(kinds="LLLL", depths=(3, 5, 10, 4)),
     31.6, 23.7, 77.2),
    ("LLLG", dict(kinds="LLLG", depths=(3, 5, 10, 3)),
     31.6, 22.4, 78.4),
    ("LGGG", dict(kinds="LGGG"), 39.0, 21.4, 79.0),
    ("GGGG", dict(kinds="GGGG", depths=(2, 2, 7, 3)),
     72.0, 19.8, 75.3),
]

# %%
print(f"{'':12}{'GMACs':>8}{'stated':>8}{'params M':>10}{'stated':>8}"
      f"{'top-1, paper':>14}")
for name, change, g, p, top1 in table:
    with torch.device("meta"):
        variant = package.UniFormer(**change)
    macs = count_macs(variant, (1, 3, 16, 224, 224)) / 1e9
    params = count_parameters(variant) / 1e6
    print(f"{name:12}{macs:8.1f}{g:8.1f}{params:10.2f}{p:8.1f}"
          f"{top1:14.1f}")

# %% [markdown]
# GGGG cannot cost less than 2 · 80.6 = 161 billion, by the paper's own formula.
#
# Six rows come out, to within 0.2 GMACs and 0.2 million parameters. (The depths of LLLG are not stated in the paper: ours are the only choice near the others that gives its numbers.) Two rows do **not** come out: LGGG and GGGG. Their parameters agree. Their GMACs cannot be those of the paper's formula:
# the products of attention at 8 × 28 × 28 tokens cost 40 billion alone in LGGG, more than the 39.0 that are stated for everything. What the authors counted, or changed, is not known.
#
# Read as accuracies, the table says: some global stages are better than none (77.2 for LLLL), and global attention from the first stage on is worst (75.3), with many more MACs. The paper gives no spread, and LGGG (79.0) and LLGG (79.3) are close. By our count the cost decides between those two, 82.4 against 41.7 GMACs; by the stated numbers it would not.

# %%
counts = [392, 1568, 6272, 25088]
local_cost = [(152 * n * 64 + 10 * n * 64**2) / 1e9 for n in counts]
global_cost = [int(global_macs(n, 1, 1, 64)) / 1e9 for n in counts]

# %% [markdown]
# Both axes of the figure are logarithmic. The **slope** in the legend is an exponent: the cost grows as the number of tokens to this power, on average over the drawn range. 1 is linear, 2 quadratic.

# %% tags=["figure"] alt="GMACs of one block of 64 channels against the number of tokens, on logarithmic axes: the local block rises with slope 1, the global one steeper and lies about sixty times higher at 25,088 tokens."
show.cost_curves({"local block": dict(x=counts, y=local_cost),
                  "global block": dict(x=counts, y=global_cost)},
                 "tokens of the map", "GMACs of one block",
                 "One block with 64 channels")

# %% [markdown] tags=["deep-dive", "claim:uf-table-4-divided", "claim:uf-table-4-divided-size"]
# ## 11 · Joint or divided?
#
# Global attention of UniFormer is [joint](glossary.md#joint-attention): each token compares itself with all T·H·W. TimeSformer's [divided attention](glossary.md#divided-attention) first compares over time at one place, then over space in one frame. It needs a second attention layer, so it has **more** parameters. And T + H·W comparisons a token, so it has **fewer** MACs: 36.7 against 41.7 billion above.
#
# The official code has this block, too. It holds a surprise.

# %%
small_config = dict(depths=(1, 1, 1, 1), embed_dims=(8, 16, 24, 32),
                    head_dim=8, num_classes=5)


class DividedBlock(GlobalBlock):
    def __init__(self, dim, head_dim):
        super().__init__(dim, head_dim)
        self.t_norm = nn.LayerNorm(dim, eps=1e-6)
        self.t_attn = Attention(dim, head_dim)

    def forward(self, x, keep_time=False):
        B, C, T, H, W = x.shape
        x = x + self.pos_embed(x)
        t = rearrange(x, "b c t h w -> (b h w) t c")
        t = t + self.t_attn(self.t_norm(t))           # over time
        s = rearrange(t, "(b n) t c -> (b t) n c", b=B)
        x = rearrange(x, "b c t h w -> (b t) (h w) c")
        x = (s if keep_time else x) + self.attn(self.norm1(s))
        x = x + self.mlp(self.norm2(x))
        return rearrange(x, "(b t) (h w) c -> b c t h w", b=B, h=H)


my_divided = stir(DividedBlock(8, 4))
their_divided = package.DividedBlock(
    3, 8, mlp_ratio=4, head_dim=4, window=None, dpe=True, **off).eval()
_ = their_divided.load_state_dict(my_divided.state_dict())
with torch.no_grad():
    wanted = their_divided(x)
    agree("your divided block = the package's", my_divided(x), wanted)
    differ("the residual of time kept", my_divided(x, True), wanted)

# %% [markdown]
# The residual of the second attention is the map from *before* the attention over time. So what time contributed is not added to the token. It passes through the spatial attention only. TimeSformer's block adds it. Whether this is meant is not known. The package does as the official code does (`SplitSABlock`), because the row of the table was made with it.
#
# One more detail of the official code. A new second attention should change nothing at first, so that the image weights still fit. So the weights of q, k and v of the attention over time start at 0. In its output layer all weights start at 1, and not at 0 as well: with both at 0, no weight of either would ever get a gradient.

# %%
_ = torch.manual_seed(0)
new = package.UniFormer(divided=True, **small_config)
fresh = new.blocks3[0]
added = fresh.t_attn(fresh.t_norm(torch.randn(2, 4, 24)))
report(added_by_time_at_first=f"{added.abs().max().item():g}")

# %% [markdown]
# The paper trains both on Something-Something V1, once from ImageNet weights and once from those of Kinetics. To start from Kinetics instead of ImageNet is worth 1.8 points of top-1 to joint attention (52.0 → 53.8), and −0.1 to divided attention (51.9 → 51.8; Table 4). No spread is given.

# %% [markdown] tags=["deep-dive"]
# ## 12 · What shallow attention looks at
#
# The paper's argument (Fig. 1) is about the first layers of a TimeSformer that was trained on Kinetics. We look at the first block of *our* small TimeSformer, trained on the same clips as our UniFormer. Where does the weight of a patch go?
#
# Over time: to the same step, to a neighbour step, or farther away. Over space: to the same patch, to one of the patches around it, or farther away. Each dot is one head, averaged over clips; ± is the standard deviation over the heads. The orange square is what *equal* weights would give.
#
# **Predict:** the paper says that shallow attention prefers neighbours. If that holds here, on which side of its square does each row have its dots? And what is the square of "same step", with 8 steps?

# %%
timesformer = create("timesformer_mini").eval()
_ = timesformer.load_state_dict(
    load_file(mini_weights("timesformer_mini")))
moving = torch.stack([val[i]["clip"] for i in range(16)])
inputs = {}


def keep(name):
    def hook(module, args):
        inputs[name] = args[0]
    return hook


first = timesformer.blocks[0]
hooks = [first.temporal_attn.register_forward_pre_hook(keep("time")),
         first.attn.register_forward_pre_hook(keep("space"))]
with torch.no_grad():
    _ = timesformer(moving)
for hook in hooks:
    hook.remove()
report(**{f"over {k}": x.shape[1:] for k, x in inputs.items()})

# %%
@torch.no_grad()
def weights_of(attn, x):
    """The attention weights, averaged over clips: (h, N, N)."""
    qkv = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1))
    q, k, _ = qkv.permute(2, 0, 3, 1, 4)
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).mean(0)


def by_distance(w, distance, names):
    """Shares of the weight (h, N, N) at distance 0, 1, and more."""
    far = distance.clamp(max=2)
    shares, equal = {}, {}
    for d, name in enumerate(names):
        at = far == d
        shares[name] = (w * at).sum(-1).mean(-1).tolist()     # (h,)
        equal[name] = at.float().mean(-1).mean().item()
    return shares, equal

# %%
steps = torch.arange(inputs["time"].shape[1])
over_time = weights_of(first.temporal_attn, inputs["time"])
shares_t, equal_t = by_distance(
    over_time, (steps[:, None] - steps).abs(),
    ["time: same step", "next", "farther"])
over_space = weights_of(first.attn, inputs["space"])
over_space = over_space[:, 1:, 1:]                    # no class token
over_space = over_space / over_space.sum(-1, keepdim=True)
side = math.isqrt(over_space.shape[-1])
at = torch.cartesian_prod(torch.arange(side), torch.arange(side))
distance = (at[:, None] - at).abs().amax(-1)                   # (N, N)
shares_s, equal_s = by_distance(
    over_space, distance, ["space: same patch", "around it", "beyond"])

# %% tags=["figure"] alt="Shares of the attention weight of four heads in the first block of a small TimeSformer, in six rows: over time to the same, the next and farther steps, over space to the same patch, around it and beyond; squares mark equal shares."
show.spread(shares_t | shares_s, "share of the weight",
            "First block of our TimeSformer",
            marks={"equal weights": equal_t | equal_s})

# %% [markdown]
# And what does the local kernel do? Its tube is 5 × 5 × 5, and nothing outside counts. Here are the shares of |a| in the first block of the shipped UniFormer, by the distance in time and in space; each dot is one channel. Again the orange square stands for equal numbers.

# %%
kernels = weights["blocks1.0.attn.weight"][:, 0].abs()
kernels = kernels / kernels.sum((1, 2, 3), keepdim=True)
o = (torch.arange(5) - 2).abs()
in_space = torch.maximum(o[:, None], o[None, :])               # (5, 5)
in_kernel, even = {}, {}
for d in range(3):
    name = f"Δt = {'±' * (d > 0)}{d}"
    in_kernel[name] = kernels[:, o == d].sum((1, 2, 3)).tolist()
    even[name] = (o == d).float().mean().item()
for d in range(3):
    name = f"{d} in space"
    in_kernel[name] = kernels[:, :, in_space == d].sum((1, 2)).tolist()
    even[name] = (in_space == d).float().mean().item()

# %% tags=["figure"] alt="Shares of the absolute kernel of every channel in the first block of the small UniFormer, in six rows: at the same, the next and the second time step, and at distance 0, 1 and 2 in space; squares mark equal shares."
show.spread(in_kernel, "share of |a|",
            "First local kernel of our UniFormer",
            marks={"equal numbers": even})

# %% [markdown]
# The mean over the channels lies near equal numbers: 0.19, 0.39 and 0.41 at Δt = 0, 1 and 2 (equal: 0.20, 0.40, 0.40), and in space a little more than equal at the centre and around it (0.05 and 0.35 for 0.04 and 0.32).
#
# And as a picture, like the paper's: one patch of one clip, in the first block. Rows one and two are what TimeSformer's patch takes over time and over space, the mean over heads. Row three is where a token of UniFormer looks, whatever the clip: the mean of |a| over the channels. (Its tube is cut off at the last time step.) The colours of each row are scaled to its largest number. All are drawn on a grid of 8 × 8 × 8: a patch of TimeSformer covers 2 × 2 cells, a token of UniFormer two frames.

# %%
frame, row, column = 4, 1, 2                          # of the patch
place = (frame, 2 * row, 2 * column)                  # on the grid
patch = row * side + column
one_clip = inputs["time"].unflatten(0, (16, -1))[0]   # (N, T, C)
in_time = weights_of(first.temporal_attn, one_clip[patch][None]).mean(0)
one_frame = inputs["space"].unflatten(0, (16, -1))[0, frame][None]
in_frame = weights_of(first.attn, one_frame).mean(0)[1 + patch, 1:]

grids = torch.zeros(3, len(steps), side, side)
grids[0, :, row, column] = in_time[frame]
grids[1, frame] = in_frame.view(side, side)
grids = grids.repeat_interleave(2, 2).repeat_interleave(2, 3)
tube_of = tube_affinity(kernels.mean(0, keepdim=True), (4, 8, 8))
tube_of = tube_of.view(4, 8, 8, 4, 8, 8)[2, 2 * row, 2 * column]
grids[2] = tube_of.repeat_interleave(2, 0)
grids = grids / grids.sum((1, 2, 3), keepdim=True)

# %% tags=["figure"] alt="One clip in eight frames, three times, with the place of one patch marked: over time only this place is coloured in all frames, over space only its own frame, and for the tube of the local kernel a box around it."
show.attention_over_frames(moving[0], grids, place,
                           rows=["time", "space", "local kernel"])

# %%
for name in ("time: same step", "next"):
    mean = sum(shares_t[name]) / len(shares_t[name])
    report(**{f"{name}: more than equal weights":
              mean > equal_t[name]})

# %% [markdown] tags=["answer"]
# If attention prefers neighbours, the dots lie right of the square at "same" and "next" and left of it at "farther" and "beyond". The square of "same step" lies at 1/8. Where dots lie on the square, distance plays no role for this head. Where they lie on the other side, the head looks away from its neighbourhood. In both cases a local layer would be no replacement.

# %% [markdown]
# So over time our model does not show the paper's preference. It does the reverse: steps farther away get 0.75 of the weight (equal weights: 0.66), the same step and the next get less. Over space its weights are nearly equal.
#
# Be careful with what this says. It is one small model of each kind, one seed, 16 clips of drawn shapes. Its patches are 8 × 8 pixels of 32, so "around it" is already a large part of the frame. The paper's figure is of a large model on Kinetics. Ours can show that the question has an answer in numbers; it cannot confirm or refute theirs.

# %% [markdown] tags=["core", "claim:uf-still-clip"]
# ## 13 · From images to video: inflation
#
# UniFormer for video starts from weights that were trained on ImageNet (section 4.1 of the paper). The image model is the same network without time: its convolutions are 2-D. Everything else is copied; each convolution [grows a time axis](glossary.md#inflation) of the length t that the video model has there: 3 in the first embedding and in each DPE, 5 in each tube, 1 elsewhere. Two rules are known:
#
# - **average**, the rule of the official code: repeat the kernel t times and divide by t;
# - **centre**: the kernel in the middle, zeros elsewhere.
#
# Image weights pay: a user who trained UniFormer-S (8 frames, every 8th of the video) on Kinetics-400 without image weights got 75.1, where 78.4 is stated; the author calls this normal (issue 92 of the official repository).
#
# How 2-D weights become 3-D is asked in issues 41, 122 and 123. The answer there is "average".

# %%
def inflate(weight, t, rule):
    """(D, C, kh, kw) -> (D, C, t, kh, kw)."""
    if rule == "average":
        return weight[:, :, None].repeat(1, 1, t, 1, 1) / t
    out = weight.new_zeros(*weight.shape[:2], t, *weight.shape[2:])
    out[:, :, t // 2] = weight
    return out


def inflate_all(image_state, video, rule):
    """A state dict for `video`, from one of the image model."""
    state = dict(image_state)
    for name, wanted in video.state_dict().items():
        if wanted.ndim == 5:
            state[name] = inflate(state[name], wanted.shape[2], rule)
    return state

# %% [markdown]
# A *still* clip shows one picture in every frame. Then a video model with inflated weights should see what the image model sees in the picture. **Predict:** for which rule does the whole network agree with the image model, on a still clip of 16 frames: average, centre, both or neither?

# %%
_ = torch.manual_seed(0)
small = dict(depths=(1, 1, 1, 1), embed_dims=(8, 16, 24, 32),
             head_dim=8, num_classes=5)
image_model = stir(package.UniFormer(dims=2, **small)).double()
picture = moving[:1, :, 0].double()                   # (1, 3, H, W)
still = picture[:, :, None].repeat(1, 1, 16, 1, 1)    # (1, 3, 16, H, W)
videos = {}
for rule in ("average", "centre"):
    videos[rule] = UniFormer(**small).double().eval()
    _ = videos[rule].load_state_dict(
        inflate_all(image_model.state_dict(), videos[rule], rule))

# %%
with torch.no_grad():
    on_picture = image_model(picture)
    agree("centre: still clip = picture", videos["centre"](still),
          on_picture)
    differ("average: still clip and picture", videos["average"](still),
           on_picture, at_least=1e-3)

# %% [markdown] tags=["answer"]
# Only the centre rule keeps the image model. (Video Swin's inflation keeps it with the average: notebook 04, section 9. There the tubes do not overlap, and nothing is padded along time.)

# %% [markdown]
# Where does the average fail? Inside the clip all frames of a kernel are equal, and their mean is right. At the ends some of the frames are zeros. So count the time steps whose map still equals the picture's:

# %%
@torch.no_grad()
def right_steps(video, still, stages):
    """For each time step: does the map equal the image model's?"""
    x, y = still, still[:, :, 0]
    for i in range(1, stages + 1):
        x = getattr(video, f"patch_embed{i}")(x)
        x = getattr(video, f"blocks{i}")(x)
        y = getattr(image_model, f"patch_embed{i}")(y)
        for block in getattr(image_model, f"blocks{i}"):
            y = block(y)
    gap = (x - y[:, :, None]).abs().amax((0, 1, 3, 4))    # (T',)
    return "".join("=" if g < 1e-9 else "x" for g in gap)


long = picture[:, :, None].repeat(1, 1, 48, 1, 1)     # 24 time steps
for rule in videos:
    for stages in (1, 2, 3):
        name = f"{rule}, after stage {stages}"
        report(**{name: right_steps(videos[rule], long, stages)})

# %% [markdown]
# `=` is a time step that equals the picture, `x` one that does not. With the average, each local block spoils 3 more steps at either end (1 by the DPE, 2 by the tube), and the first embedding spoils the first step. Then the first global block mixes the ends into everything.
#
# Why then does the official code average? With centre, the model at first sees each time step alone, apart from its attention: its kernels ignore the neighbours. And because the first stride in time is 2, every second frame is not read at all. With average they see them from the start. Which trains better, the paper does not compare.

# %% [markdown] tags=["deep-dive", "claim:uf-windows-of-14", "claim:uf-no-windows-in-video"]
# ## 14 · Large images: windows in stage 3
#
# Detection and segmentation need large images, and maps of all stages: a [feature pyramid](glossary.md#feature-pyramid). (The second paper, arXiv 2201.09450, is about this.) Global attention in stage 3 then becomes the problem. The image model has 9 numbers in a DPE and 25 in a tube, instead of 27 and 125.
#
# **Predict** for UniFormer-S on one image: which share of all MACs do the two products of attention in stage 3 take at 224 × 224 pixels, and which at 1008 × 1008?

# %%
def image_macs(H, W, window=None, depths=(3, 4, 8, 3), hybrid=False):
    """MACs of each stage of UniFormer-S; `window`: side, in stage 3."""
    dims, kinds, stages = (64, 128, 320, 512), "LLGG", []
    before, H, W = 3 * 4 * 4, H // 4, W // 4
    for i, (C, depth, kind) in enumerate(zip(dims, depths, kinds)):
        N = H * W
        macs = before * N * C
        for j in range(depth):
            if kind == "L":
                macs += (9 + 25) * N * C + 10 * N * C**2
                continue
            partners, M = N, N
            if window and i == 2 and not (hybrid and j % 4 == 3):
                M = math.ceil(H / window) * math.ceil(W / window)
                M *= window**2                        # padded tokens
                partners = window**2
            macs += 9 * N * C + 8 * N * C**2
            macs += 4 * M * C**2 + 2 * M * partners * C
        stages.append(macs)
        before, H, W = 4 * C, H // 2, W // 2
    return stages

# %%
for edge in (224, 448, 1008):
    total = sum(image_macs(edge, edge))
    stage3, stage4 = (2 * depth * (edge // s) ** 4 * C for depth, s, C
                      in ((8, 16, 320), (3, 32, 512)))
    share3, share4 = 100 * stage3 / total, 100 * stage4 / total
    report(**{f"{edge:4} pixels": f"{total / 1e9:.1f} GMACs, products: "
              f"stage 3 {share3:4.1f} %, stage 4 {share4:4.1f} %"})

# %% tags=["claim:uf-hybrid-windows"]
for kind, settings in {"G": {}, "W": dict(window=14),
                       "H": dict(window=14, hybrid=True)}.items():
    with torch.device("meta"):
        counted = package.UniFormer(dims=2, kinds=f"LL{kind}G",
                                    window=14, num_classes=1)
    for H, W in ((224, 224), (800, 1280), (1008, 1008)):
        formula = sum(image_macs(H, W, **settings)) + 512
        assert count_macs(counted, (1, 3, H, W)) == formula
report(formula_equals_count_in_all=True)

# %% [markdown]
# At 1008 pixels more than half of all MACs are the products of stage 3. They grow with the *square* of the number of pixels. Stage 4 has a quarter of the tokens, so a sixteenth of the pairs; it has 3 blocks instead of 8, but 512 channels instead of 320. Together its products cost about a 28th of those of stage 3 at this size.
#
# So the paper changes stage 3 only. **W**: attention in windows of 14 × 14 tokens that do not overlap, as in Swin without the shift. (A map that 14 does not divide is padded with zeros at its end; they are not masked.) **H**, hybrid: three window blocks, then one global block, in turn. In W, the attention never leaves a window, and yet the windows are not cut off: the DPE, over the whole map, carries news by one token across the border in each block.

# %%
pixels = [224, 448, 672, 1008, 1344]
curves = {"global": {}, "hybrid": dict(window=14, hybrid=True),
          "windows": dict(window=14)}
series = {}
for name, how in curves.items():
    gmacs = [sum(image_macs(s, s, **how)) / 1e9 for s in pixels]
    series[name] = dict(x=pixels, y=gmacs)

# %% [markdown]
# Here the axis is the *side* of the image. There are side² places, so slope 2 is linear in their number, and slope 4 quadratic.

# %% tags=["figure"] alt="GMACs of UniFormer-S against the side of an image, on logarithmic axes: global attention in stage 3 rises steepest, windows rise with slope near 2, and the hybrid of both lies between."
show.cost_curves(series, "side of the image in pixels", "GMACs",
                 "Stage 3: global, hybrid, or in windows of 14 × 14")

# %% [markdown]
# A window has no parameters of its own. So the three networks take the **same weights**, strictly. Three facts, on random weights: on a map of one window they are one and the same; on a larger map they are not; and each gives the maps of a pyramid, at a 4th, 8th, 16th and 32nd of the image's sides.

# %%
_ = torch.manual_seed(0)
tiny = dict(dims=2, window=4, embed_dims=(8, 16, 24, 32), head_dim=8,
            depths=(1, 1, 4, 1), num_classes=5)
dense = {kind: package.UniFormer(kinds=f"LL{kind}G", **tiny)
         for kind in "GWH"}
shared = stir(dense["G"]).state_dict()
for kind in "WH":
    _ = dense[kind].eval().load_state_dict(shared, strict=True)
one, many = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 128, 96)
with torch.no_grad():
    for kind in "WH":
        agree(f"{kind} = G on one window", dense[kind](one),
              dense["G"](one))
        differ(f"{kind} and G on a larger map", dense[kind](many),
               dense["G"](many), at_least=1e-4)
    shapes = {kind: [tuple(m.shape[1:]) for m in net.features(many)]
              for kind, net in dense.items()}
assert shapes["G"] == shapes["W"] == shapes["H"]
report(pyramid=", ".join(map(str, shapes["G"])))

# %% [markdown] tags=["deep-dive", "claim:uf-effect-softmax"]
# ## 15 · Questions of users
#
# **"The loss is NaN."** (Issues 30, 106 and 112 of the official repository.) With [mixed precision](glossary.md#mixed-precision) the products q·k are computed in float16, whose largest number is 65,504. The official code multiplies first and divides by √d afterwards. So the product before the division can overflow. Then the logits hold infinities, and their softmax is NaN:

# %%
query = key = torch.full((1, 64), 45.0, dtype=torch.float16)
after = (query @ key.mT) * 64**-0.5                   # as in the code
before = (query * 64**-0.5) @ key.mT
softmax_of_both = torch.cat([after, after], -1).softmax(-1)
report(divided_afterwards=str(after.item()),
       divided_before=str(before.item()),
       softmax="NaN" if softmax_of_both.isnan().all() else "finite")

# %% [markdown]
# Dividing q before the product helps at no cost. bfloat16 has the range of float32 and does not overflow here. The authors' advice in these issues is a lower learning rate, weaker augmentation, a longer warm-up, or attention in float32. The package's fused attention scales inside.
#
# **"What does `head_dim` change?"** (Issue 92.) Neither parameters nor MACs. The memory of the weights N × N grows with the number of heads. The outputs change, of course. (In the issue the author adds that more heads are slightly better; no numbers are given.)

# %%
for head_dim in (32, 64):
    with torch.device("meta"):
        s = create("uniformer_small_16", head_dim=head_dim)
    mb = 4 * 1568**2 * (320 // head_dim) / 1e6        # in stage 3
    report(**{f"head_dim {head_dim}": f"{count_parameters(s):,} "
              f"parameters, {mb:.0f} MB of weights in float32"})

# %% [markdown]
# **"How do I train on my own classes?"** (Issues 91, 97 and 98.) The files: notebook 08, section 12. In the network the classifier has to be new. The author's advice in issue 97 is to delete its weights before loading the rest. Here your network with six classes gets all else from the trained mini:

# %%
six = UniFormer(**only(mini.config) | dict(num_classes=6)).eval()
rest = {n: t for n, t in weights.items() if not n.startswith("head")}
loaded = six.load_state_dict(rest, strict=False)
report(new=", ".join(loaded.missing_keys),
       left_over=len(loaded.unexpected_keys))

# %% [markdown]
# **"Why are the image weights with LayerScale not used for video?"** [Layer scale](glossary.md#layer-scale), as it is written in two words elsewhere, multiplies each branch by one learned number for each channel, before it is added. These numbers begin at 10⁻⁶, so a new block does nearly nothing. The README of the image models says that it helps to train deep models, that fine-tuning on video met problems, and that only weights without it are used for video. Which problems these were, it does not say.
#
# In *trained* weights the factors are only numbers, and can be folded into the last layer of their branch. Then they fit a network without LayerScale:

# %%
def without_layer_scale(state):
    """Fold gamma_1 and gamma_2 into the layers before them."""
    state = dict(state)
    last = {"gamma_1": "attn.proj", "gamma_2": "mlp.fc2"}
    for name in [n for n in state if "gamma" in n]:
        block, which = name.rsplit(".", 1)
        gamma = state.pop(name).flatten()             # (C,)
        weight = state[f"{block}.{last[which]}.weight"]
        bias = state[f"{block}.{last[which]}.bias"]
        state[f"{block}.{last[which]}.weight"] = gamma[:, None] * weight
        state[f"{block}.{last[which]}.bias"] = gamma * bias
    return state

# %%
scaled = stir(package.UniFormer(dims=2, layer_scale="G", **small))
plain = package.UniFormer(dims=2, **small).eval()
state = without_layer_scale(scaled.state_dict())
_ = plain.load_state_dict(state, strict=True)
with torch.no_grad():
    images = torch.randn(2, 3, 64, 64)
    agree("LayerScale folded into its branch", plain(images),
          scaled(images))

# %% [markdown] tags=["core", "claim:uf-order-matters"]
# ## 16 · Does it use time, and what does it buy?
#
# The embedded data set has eight motions in four pairs: left and right, up and down, grow and shrink, clockwise and counter-clockwise. In each pair, one motion is the other's film run backwards. One frame shows nothing about the motion. So a model that sees **one frame** cannot beat 12.5 % on average. One that sees the frames **without their order** cannot beat 50 %.
#
# The shipped UniFormer was trained on these clips, from scratch (recipe `uniformer_mini`; `results/ship/uniformer_mini.json` records the run). We test it on held-out clips: with the frames in order, shuffled, with one frame repeated, and backwards.
#
# **Predict** two numbers for a model that is right nearly always when the frames are in order: its accuracy backwards, and its accuracy shuffled. For the second one: does it come near its ceiling? In training, this model never saw shuffled frames. (± is one standard error over the clips, so a bar may stand a little above its ceiling by chance.)

# %%
from vt_course.training.evaluate import evaluate, open_data, open_test

held_out = (open_data(recipe)[1] if PROFILE == "smoke"
            else open_test(recipe, progress=False))
kept = dict(workers=0, progress=False)
results = {order: evaluate(model, held_out, order=order, **kept)
           for order in ("normal", "shuffled", "single", "reversed")}

# %% tags=["figure"] alt="Bars of the accuracy of the small UniFormer on held-out clips with frames in order, shuffled, one frame repeated and backwards, with dashed lines at 12.5 and 50 %."
names = dict(normal="in order", shuffled="shuffled", single="one frame",
             reversed="backwards")
bars = {names[o]: (r["top1"], r["stderr"]) for o, r in results.items()}
show.ceilings(bars, {"one frame": 0.125, "no order": 0.5},
              f"UniFormer, top-1 on {len(held_out):,} held-out clips")

# %%
for order, ceiling in (("single", 0.125), ("shuffled", 0.5)):
    error = math.sqrt(ceiling * (1 - ceiling) / len(held_out))
    most = round(100 * (ceiling + 4 * error), 1)
    top1 = 100 * results[order]["top1"]
    assert top1 <= most, (order, top1)
within("backwards", 100 * results["reversed"]["top1"], 0, 5, " %")
within("shuffled", 100 * results["shuffled"]["top1"], 15, 40, " %")

# %% [markdown] tags=["answer"]
# Backwards: near 0. A model that reads the direction answers with the partner, which counts as wrong. So it falls *below* chance, and the lower this bar, the more of the answer was direction.
#
# Shuffled: well below its ceiling of 50 %. The ceiling says what is possible, not what a model does with frames of a kind that it never saw in training. (Trained on shuffled frames, the same model reaches 48.9 % of the test clips: `results/experiments/ceilings-motion.json`.) All this is one seed.

# %% [markdown]
# All families, trained in one regime on the same clips and the same machine, and a ViT that sees each frame by itself and averages. There is one mark for each of five seeds (`vt-course experiments --only families-motion`); dashed lines stand at 12.5 and 50 %. Time and memory are of one clip, forward and backward, on one core (`vt-course bench minis`). Look at the parameters first: this UniFormer has 2.6 to 4.1 times as many as the others. A difference that is smaller than the spread over seeds is not shown by these runs.

# %% tags=["figure"] alt="One row for each family: marks for the accuracy with frames in order, shuffled, in reverse and one frame repeated, dashed lines at 12.5 % and 50 %, and bars for parameters, multiply-accumulates, time and memory of a clip; all five families and the ViT that averages."
show.families("Video Swin", "MViT", "MViTv2", "TimeSformer",
              "UniFormer", "frame-average ViT")

# %% [markdown]
# ### What the architecture buys, and what it costs
#
# - **Bought: cheap early layers.** The first two stages cost as much per token as convolutions do, whatever the length of the clip. In UniFormer-S they hold seven blocks on the largest maps.
# - **Bought: any size.** No table depends on the number of frames or pixels. The same weights run on every clip; section 8 used three sizes. What the weights *learned* on one size they need not know on another.
# - **Bought: one global step is enough** for every token to see the whole clip (section 9). Video Swin needs several blocks with shifted windows for that.
# - **Paid: the square.** Stages 3 and 4 compare all pairs. Twice the frames means four times the products. At 32 frames, UniFormer-S costs 109 GMACs, 2.6 times as much as at 16.
# - **Paid: BatchNorm.** It ties the clips of a batch together in training, and wants batches that are not small (section 6).
# - **Paid: content-blind early layers.** A local kernel treats every clip alike. What is far apart meets only from stage 3 on, on a map of a sixteenth of the sides.
#
# ## What is scaled down, and what was left out
#
# - Our trained models are small, on small clips of drawn shapes. No accuracy of the paper is reproduced here. Its numbers are quoted with their table.
# - Parameters and multiply-accumulates are at full scale and exact. Outputs are compared on small networks, up to rounding. Two rows of Table 4 do not come out; section 10 says which.
# - The light models (XXS, XS) are not built, neither here nor in the package. Token labelling, a training in which each patch has a label of its own, is not used; the package loads weights that were trained so. LayerScale stands here only as its factors (section 15); the package has it.
# - Your network is literal: it writes all attention weights to memory. The package's uses the fused attention of PyTorch and a faster depthwise convolution.
# - Drop path acts in training only; your network leaves it out.
#
# ## Summary
#
# - MHRA is A·V(X) for each head; then U mixes all heads. A is a softmax of products (global), or a learned number for each offset in a tube (local).
# - Local MHRA with one head a channel = pointwise, depthwise, pointwise convolution, on the same weights.
# - DPE is a depthwise convolution; its zero padding tells the place. One layer tells 27 kinds of places, two tell 125.
# - Blocks: x + DPE(x); + MHRA(Norm); + FFN(Norm). BatchNorm in local blocks and at the end, LayerNorm in global blocks.
# - Stages L L G G: local where maps are large, global where they are small.
# - Inflation by average spoils the ends of a clip; by centre it keeps the image model exactly.
# - Large images: stage 3 in windows, or three window blocks and one global block, with the same weights.
#
# ## Questionnaire
#
# 1. Which numbers depend on the content of the clip: those of A, the weights of V, the weights of U? Answer for the local and for the global aggregator.
# 2. A tube of 5 × 5 × 5 holds 125 numbers a channel. How many of them stand in the row of the affinity for a token in the corner of a large map, and what is the rest of the row?
# 3. How many different tokens has a map of 3 × 9 × 9 equal tokens after one DPE? After two?
# 4. You evaluate clip by clip and forget `model.eval()`. Which layers cause other answers, and why not the other layers?
# 5. Twice the frames: what happens to parameters, to the MACs of stage 1, and to those of the products in stage 3?
# 6. You fine-tune the W network for detection with weights that were trained with G. Which weights have to be changed?

# %% [markdown] tags=["answer"]
# <details><summary>Answers</summary>
#
# 1. None of the three in the local one. In the global one A does; V and U never (section 2).
# 2. 27 that belong to tokens of the map (3 along each axis), and 0 for all others (section 2).
# 3. 3 · 3 · 3 = 27. After two: time has only 3 steps, so 3 · 5 · 5 = 75 (section 4).
# 4. The BatchNorms, those in the local blocks and the last norm: they take their numbers from the batch. LayerNorm looks at one token alone (section 6).
# 5. Parameters stay. Stage 1 doubles. The products of stage 3 become four times as many (sections 1 and 10).
# 6. None: windows have no parameters, the state dict is the same (section 14). Training must get used to the missing pairs.
# </details>

# %% [markdown]
# **Next:** [08 · Training](08_training.ipynb), from clips to a trained model.
