# %% [markdown]
# # 04 · Video Swin: attention in windows of space and time
#
# *Liu et al., "Video Swin Transformer", [arXiv 2106.13230](https://arxiv.org/abs/2106.13230).*
#
# By the end of this notebook you own a complete Video Swin network. It is made only of cells that you ran here, and you wrote its block and the order of its stages. It accepts the weights of the finished model in `vt_course`, and gives the same numbers up to rounding.
# On the way you meet the central trick of the paper. Roll the video, cut it into **8** regular windows, mask: the result is the same as attention inside **27** shifted windows.
#
# | | |
# |---|---|
# | **Needs** | PyTorch; softmax attention with queries, keys and values (notebook 02). Notebook 03 shows the same ideas on images. It helps, but is not required |
# | **Data** | the embedded clips: `vt-course data synthetic`, once (`make course` and `make lab` do it) |
# | **Time** | 3 to 4 hours with the exercises; the core sections alone 2 to 3 hours. To run it on two quiet cores: about half a minute (`smoke`), 2 to 4 minutes (`lecture`), 9 to 15 minutes (`full`) |
# | **Hardware** | a laptop CPU and 2 GB of memory |
#
# Sections 3 to 6, 9 and 12 are the core. At a first reading the others may be left out; run their cells all the same. Two exercises of section 9 need a rule from outside the core: 4.7 the first rule of section 7, and 4.9 the exercise of section 8.
#
# **You will be able to**
#
# 1. follow a clip through the network with the shape at every step, and say which axis is never merged (section 1, exercise 4.8);
# 2. draw the 27 shifted windows of an 8 × 8 × 8 map, and derive the mask that lets 8 windows do their work (exercises 4.1 to 4.4);
# 3. write a whole block for maps of any size (exercise 4.7);
# 4. compute the relative position index by hand, and say when the official code reads the wrong entries (exercise 4.5, section 7);
# 5. turn image weights into video weights, and say what stays the same (exercises 4.6 and 4.9);
# 6. predict parameters and multiply-accumulates of every published variant to the last digit (section 10);
# 7. say how much a trained model uses time, against ceilings that are exact (section 12).

# %% tags=["parameters"]
PROFILE = "smoke"   # 4 training steps; lecture: 1,000; full: all

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
# everywhere, and prints the bound that it checked. `differ` is the opposite, its control; its line begins with ≠. `within` checks that a number lies in an interval.

# %% [markdown] tags=["deep-dive"]
# ## 1 · The whole network in one picture
#
# Video Swin is the image model Swin with one more axis. A clip enters as T × H × W pixels. It is
# cut into small [tubes](glossary.md#tube) of pixels, one token each. Four [stages](glossary.md#stage) of attention blocks follow. Between two stages,
# 2 × 2 neighbouring tokens are merged into one: the map shrinks, and the channels double.
#
# **Predict, then run.** The clip below has 32 frames of 224 × 224. The tubes are 2 × 4 × 4 pixels. How many tokens
# enter stage 1, and how many time steps are left in stage 4?

# %%
def stage_shapes(T, H, W, dim=96, stages=4, tube=(2, 4, 4)):
    """The map that enters each stage, and its channels."""
    shape = [math.ceil(n / p) for n, p in zip((T, H, W), tube)]
    for i in range(stages):
        yield dict(name=f"stage {i + 1}", shape=tuple(shape),
                   channels=dim * 2**i)
        shape[1:] = [math.ceil(n / 2) for n in shape[1:]]


rows = list(stage_shapes(32, 224, 224))
report(**{r["name"]: (*r["shape"], r["channels"]) for r in rows})

# %% tags=["figure"] alt="Four boxes for the tokens of the stages of Video Swin-T: height and width are halved from stage to stage, the 16 time steps stay, and the number of tokens falls from 50,176 to 784."
show.token_flow(rows, title="Video Swin-T, 32 frames of 224 × 224")

# %% [markdown] tags=["answer"]
# 16 · 56 · 56 = 50,176 tokens enter, and 16 time steps leave. After the tubes, time is never shortened again. MViT and UniFormer (notebooks 05 and 07) choose the same. The price is paid in tokens.

# %% [markdown] tags=["deep-dive", "claim:vswin-token-96", "claim:vswin-base-config-444"]
# ## 2 · Tokens: 2 × 4 × 4 pixels are 96 numbers
#
# A tube of 2 frames, 4 rows and 4 columns in 3 colours holds 2 · 4 · 4 · 3 = 96 numbers (the paper, section 3.1,
# counts them so). One linear layer maps the 96 numbers to C channels. In Swin-T C is 96 as well, by coincidence. *Cut, then a linear layer* is a convolution whose stride equals its kernel; notebook 01, section 6, shows this step by step.
#
# Here is the first module of your network. A clip whose size is no multiple of the tube is padded with zeros at its
# end, as in the official code. Channels go last, and stay last until the head.

# %%
class PatchEmbed3D(nn.Module):
    def __init__(self, dim, tube=(2, 4, 4)):
        super().__init__()
        self.tube = tube
        self.proj = nn.Conv3d(3, dim, tube, tube)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x):                             # (B, 3, T, H, W)
        t, h, w = (-n % p for n, p in zip(x.shape[2:], self.tube))
        x = self.proj(F.pad(x, (0, w, 0, h, 0, t)))
        return self.norm(x.movedim(1, -1))  # (B, T', H', W', C)


embed = PatchEmbed3D(24)
report(numbers_of_a_tube=embed.proj.weight[0].numel(),
       odd_clip=embed(torch.randn(1, 3, 7, 50, 45)).shape)

# %% [markdown] tags=["core", "claim:vswin-window-392"]
# ## 3 · Windows
#
# Attention among all 50,176 tokens would compare 2.5 billion pairs in every head. Swin compares only tokens that share a
# [**window**](glossary.md#window) of P × M × M tokens (P in time; the paper uses 8 × 7 × 7). The windows do not overlap. So the cost grows
# with the number of windows, which is linear in the number of tokens.
#
# From here on, T, H and W count the tokens of a map. (Only in the shape of a clip, (B, 3, T, H, W), do they still count frames and pixels.)
#
# Our running example is small enough to draw: a map of 8 × 8 × 8 tokens and windows of 4 × 4 × 4. **Predict:** how many
# tokens does each of its windows hold?

# %%
def window_numbers(size, window):
    """For each token of a (T, H, W) map, the number of its window."""
    axes = [torch.arange(n) // m for n, m in zip(size, window)]
    t, h, w = torch.meshgrid(*axes, indexing="ij")
    rows_of_windows = t * (size[1] // window[1]) + h
    return rows_of_windows * (size[2] // window[2]) + w


size, window = (8, 8, 8), (4, 4, 4)
regular = window_numbers(size, window)
which, counts = regular.unique(return_counts=True)
report(windows=len(which), tokens_in_each=counts.unique().tolist())

# %% [markdown] tags=["answer"]
# 2 · 2 · 2 = 8 windows of 64 tokens. The figure of section 4 shows them, on the left.

# %% [markdown]
# ### Exercise 4.1 · Window partition
#
# Difficulty 2/5 · importance 5/5 · 10 minutes
#
# Attention works on `(batch, tokens, channels)`. Cut a map into windows and put the windows on the batch axis:
#
# `(B, T, H, W, C) → (B·nW, P·M·M, C)`, with nW = T/P · H/M · W/M.
#
# `window` is a tuple (P, Mh, Mw). The text writes M for both sides, but they may differ, and the check tries it. Windows come in the order
# time, height, width (width fastest), and so do the tokens inside each window.

# %% tags=["exercise:4.1"]
def window_partition(x, window):
    """(B, T, H, W, C) -> (B·nW, P·M·M, C)."""
    raise NotImplementedError("exercise 4.1")

# %% tags=["check:4.1"]
window_partition = check("4.1", window_partition)

# %% [markdown] tags=["hints:4.1"]
# <details><summary>Hint 1: intuition</summary>
#
# First split each axis in two, "which window" and "where in the window", without moving a number. Then bring all
# "which" axes to the front.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `x → (B, T/P, P, H/M, M, W/M, M, C) → permute → (B, T/P, H/M, W/M, P, M, M, C) → reshape`
# </details>
# <details><summary>Symptom: the shape is right, most numbers are wrong</summary>
#
# A single `reshape` always gives the right shape. Without the permutation it takes
# P·M·M tokens that follow each other in memory (here a whole time step), not a block.
# </details>

# %% tags=["solution:4.1"]
def window_partition(x, window):
    """(B, T, H, W, C) -> (B·nW, P·M·M, C)."""
    B, T, H, W, C = x.shape
    P, Mh, Mw = window
    x = x.reshape(B, T // P, P, H // Mh, Mh, W // Mw, Mw, C)
    # (B, gT, gH, gW, P, Mh, Mw, C)
    x = x.permute(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(-1, P * Mh * Mw, C)              # (B·nW, N, C)


window_partition = check("4.1", window_partition, solution=True)

# %% [markdown]
# The same in einops, which names what the permutation does:

# %% tags=["fast"]
x = torch.randn(2, 8, 8, 8, 16)
same = rearrange(
    x, "b (T p) (H h) (W w) c -> (b T H W) (p h w) c", p=4, h=4, w=4)
agree("einops = permute", same, window_partition(x, window))

# %% [markdown]
# ### Exercise 4.2 · And back
#
# Difficulty 2/5 · importance 4/5 · 10 minutes
#
# `(B·nW, P·M·M, C) → (B, T, H, W, C)`. `size` is (T, H, W). The batch size is not given: it follows from the number of windows.

# %% tags=["exercise:4.2"]
def window_reverse(windows, window, size):
    """(B·nW, P·M·M, C) -> (B, T, H, W, C), the way back."""
    raise NotImplementedError("exercise 4.2")

# %% tags=["check:4.2"]
window_reverse = check("4.2", window_reverse)

# %% [markdown] tags=["hints:4.2"]
# <details><summary>Hint 1: intuition</summary>
#
# Read your solution of 4.1 from the bottom to the top.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `windows → (-1, T/P, H/M, W/M, P, M, M, C) → permute so that each "which" stands before its "where" → reshape`
# </details>

# %% tags=["solution:4.2"]
def window_reverse(windows, window, size):
    """(B·nW, P·M·M, C) -> (B, T, H, W, C), the way back."""
    T, H, W = size
    P, Mh, Mw = window
    C = windows.shape[-1]
    x = windows.reshape(-1, T // P, H // Mh, W // Mw, P, Mh, Mw, C)
    # (B, gT, P, gH, Mh, gW, Mw, C)
    x = x.permute(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(-1, T, H, W, C)                  # (B, T, H, W, C)


window_reverse = check("4.2", window_reverse, solution=True)

# %%
there_and_back = window_reverse(window_partition(x, window), window,
                                size)
agree("reverse undoes partition", there_and_back, x)
# window i holds 64 times the number i
numbers = torch.arange(8)[:, None, None].expand(8, 64, 1)
yours = window_reverse(numbers, window, size)[0, ..., 0]  # (T, H, W)
agree("your windows are those of window_numbers", yours, regular)

# %% [markdown] tags=["core", "claim:vswin-27-windows", "claim:vswin-shift-is-half"]
# ## 4 · Shifted windows, by definition
#
# Windows that never move do not talk to each other within a stage. (Between stages, merging connects neighbours in height and width. In time nothing would connect them until the mean at the end.) So every second block **shifts** its windows by half their size, rounded down: windows of
# 8 × 7 × 7 by (4, 3, 3). A shifted window takes one corner from each of eight regular windows. At the border of the map it is cut off.
#
# **Predict.** Shift the 4 × 4 × 4 windows of the 8 × 8 × 8 map by 2 along every axis. Into how many pieces is each axis
# cut? How many tokens do the smallest and the largest window hold?

# %% tags=["definition"]
def shifted_pieces(n, window, shift):
    """Slices of one axis, cut at shift, shift + window, ..."""
    edges = sorted({0, n, *range(shift, n, window)})
    return [slice(a, b) for a, b in zip(edges, edges[1:])]


def shifted_windows(size, window, shift):
    """All shifted windows of a map, each as three slices."""
    return list(product(*map(shifted_pieces, size, window, shift)))


shift = (2, 2, 2)
groups = shifted_windows(size, window, shift)
pieces = [s.stop - s.start for s in shifted_pieces(8, 4, 2)]
report(pieces_of_one_axis=str(pieces), windows=len(groups))

# %%
shifted = torch.zeros(size, dtype=torch.long)
for number, (t, h, w) in enumerate(groups):
    shifted[t, h, w] = number
_, tokens = shifted.unique(return_counts=True)        # of each window
for n, k in zip(*tokens.unique(return_counts=True)):
    report(**{f"windows of {n:2} tokens": int(k)})

# %% tags=["figure"] alt="8 × 8 × 8 tokens twice, drawn apart: on the left 8 equal windows, on the right the 27 windows of the shift, namely 8 corners of 8 tokens, 12 edges of 16, 6 faces of 32, and one centre of 64."
show.windows_3d([regular, shifted],
                title=["regular: 8 windows",
                       "shifted by (2, 2, 2): 27 windows"])

# %% [markdown]
# 3 · 3 · 3 = **27** windows: 8 corners of 2 × 2 × 2, 12 edges, 6 faces, and one whole window in the centre. The paper's figure of the
# shifted windows shows this map. From here on, a **group** is the set of tokens of one shifted window: 27 groups.
#
# ### How far does a token see?
#
# This needs only bookkeeping. A token sees another one after one block if both share a window. After more blocks it sees another one if there is a chain. The windows are products of pieces of the three axes, so each axis can be followed alone.
#
# **Predict.** Stage 1 of Swin-T has 16 × 56 × 56 tokens, windows of 8 × 7 × 7 and shifts of (4, 3, 3). A token in the middle sees 8 · 7 · 7 = 392 tokens after one block. How many does it see after two? And if nothing ever shifted? (The stage has two blocks. The cell counts up to four, to show how it would go on.)

# %%
def sight(n, m, s, place, blocks):
    """First and last place of one axis on which a token depends."""
    first = last = place
    for i in reversed(range(blocks)):                 # odd ones shift
        move = s * (i % 2)
        first = max((first - move) // m * m + move, 0)
        last = min((last - move) // m * m + move + m, n) - 1
    return first, last


def seen_after(blocks, size, window, shift, place):
    ends = [sight(*axis, blocks)
            for axis in zip(size, window, shift, place)]
    return math.prod(last - first + 1 for first, last in ends)


in_stage_1 = ((16, 56, 56), (8, 7, 7))
for name, s, place in (("middle", (4, 3, 3), (8, 28, 28)),
                       ("corner", (4, 3, 3), (0, 0, 0)),
                       ("middle, no shift", (0, 0, 0), (8, 28, 28)),
                       ("middle, shift of 1", (1, 1, 1), (8, 28, 28))):
    counts = [seen_after(k, *in_stage_1, s, place) for k in range(1, 5)]
    report(**{f"{name}: after 1, 2, 3, 4 blocks": str(counts)})

# %% [markdown] tags=["answer"]
# After two blocks a token in the middle sees 16 · 14 · 14 = 3,136 tokens, eight windows. Each further block adds a window in height and in width. The corner lags behind: in a shifted block it sits in a small window. Without a shift, every token stays with its 392. Swin-T has only two blocks in stage 1, so the rest is left to merging and to the later, smaller maps.

# %% [markdown]
# ### Why half a window?
#
# The last line shows something that surprises many readers. A shift of 1 sees as far as a shift of half a window. So the reach is no reason for the half. What differs is *how many* tokens of two neighbouring windows meet. Count the pairs along one axis, one token from each of two neighbouring windows of 8, that share a shifted window:

# %%
def meetings(m, s):
    """Pairs (i, j) of two neighbouring windows in a shifted window."""
    where = {i: (i - s) // m for i in range(2 * m)}
    return sum(where[i] == where[j]
               for i in range(m) for j in range(m, 2 * m))


report(**{"pairs that meet, for shifts 0 to 7":
          str([meetings(8, s) for s in range(8)])})

# %% [markdown]
# The number is s · (M − s), and half a window gives the most. The paper states the shift and gives no reason.
#
# ### Attention in the groups
#
# First the attention of one group, written out. The relative position
# bias of section 6 enters as a number for each head and each pair of tokens. Until then it is only an argument.

# %% tags=["definition"]
def attend(tokens, attn, bias):
    """softmax(q·kᵀ/√d + bias)·v for tokens (B, N, C).

    `bias` broadcasts to (B, h, N, N)."""
    B, N, C = tokens.shape
    h = attn.num_heads
    qkv = attn.qkv(tokens).view(B, N, 3, h, C // h)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)              # 3 × (B, h, N, d)
    logits = q @ k.mT / math.sqrt(C // h)             # (B, h, N, N)
    out = (logits + bias).softmax(-1) @ v             # (B, h, N, d)
    return attn.proj(out.transpose(1, 2).reshape(B, N, C))


class Weights(nn.Module):
    """One attention layer, without an opinion about windows."""

    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)


attn = Weights(16, 2)

# %% tags=["definition"]
def no_bias(shape):
    return 0.0


def attend_in_groups(x, attn, groups, bias=no_bias):
    """Take each group out, attend inside it, and put it back.

    `bias(shape)` gives the bias of a group of this shape."""
    out = torch.empty_like(x)
    for t, h, w in groups:
        piece = x[:, t, h, w]  # (B, p, m, m', C), any size
        y = attend(piece.flatten(1, 3), attn, bias(piece.shape[1:4]))
        out[:, t, h, w] = y.view_as(piece)
    return out


by_definition = attend_in_groups(x, attn, groups)
report(map=x.shape, loop_passes=len(groups))

# %% [markdown]
# This is correct, and slow: 27 passes with 8 to 64 tokens, and passes of different sizes cannot be batched. A real map of
# 16 × 56 × 56 tokens has 3 · 9 · 9 = 243 groups.

# %% [markdown] tags=["core", "claim:vswin-roll-keeps-8", "claim:vswin-27-are-not-computed"]
# ## 5 · The trick: roll, mask, attend, roll back
#
# The cut-off windows at opposite borders fit together. Look at one axis of 8 tokens: the shift cuts it into 2 + 4 + 2. Roll it by 2, and
# the first 2 land behind the last 2:
#
# ```
# before   0 1 | 2 3 4 5 | 6 7
# rolled         2 3 4 5 | 6 7 · 0 1
# ```
#
# That is 4 + (2 + 2), two full windows; the second joins tokens from opposite borders. The same happens along each axis, and there are as many
# windows as without a shift: 8.
#
# ### Exercise 4.3 · Cyclic shift
#
# Difficulty 1/5 · importance 4/5 · 5 minutes
#
# After the shift by (s_t, s_h, s_w), position (t, h, w) holds what was at (t + s_t, h + s_h, w + s_w), counted around
# the border. Shape: `(B, T, H, W, C)` stays.

# %% tags=["exercise:4.3"]
def cyclic_shift(x, shift):
    """Roll (B, T, H, W, C) towards index 0 by shift = (st, sh, sw)."""
    raise NotImplementedError("exercise 4.3")

# %% tags=["check:4.3"]
cyclic_shift = check("4.3", cyclic_shift)

# %% [markdown] tags=["hints:4.3"]
# <details><summary>Hint 1: intuition</summary>
#
# `torch.roll(x, 1, dim)` moves what was at index 0 to index 1. We want the other direction.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `torch.roll(x, three negative numbers, three axes)`; axis 0 is the batch.
# </details>

# %% tags=["solution:4.3"]
def cyclic_shift(x, shift):
    """Roll (B, T, H, W, C) towards index 0 by shift = (st, sh, sw)."""
    return torch.roll(x, [-s for s in shift], dims=(1, 2, 3))


cyclic_shift = check("4.3", cyclic_shift, solution=True)

# %% [markdown]
# Here is one time step of the group numbers before and after the roll. Heavy lines separate groups. The dashed lines show where the regular windows end after the roll.

# %% tags=["figure"] alt="The numbers of the shifted windows on one time step of 8 × 8 places, before and after the roll: after it dashed lines cut the map into quarters, the top left one holds number 13 only, and pieces from opposite borders meet in the other three."
rolled = cyclic_shift(shifted[None, ..., None], shift)[0, ..., 0]
show.regions_2d([shifted[3], rolled[1]],
                ["before: time step 3", "after the roll: now step 1"],
                window=[None, window[1:]])

# %% [markdown]
# The window at the top left holds one group. Those at the top right and the bottom left hold two, the last one four. In the last time windows there are twice as many.
#
# Tokens of different groups must not see each other: they became neighbours only by the roll.
# So a number is added to each forbidden logit before the softmax: **−100**, the value in the official code of Swin and of Video Swin.
#
# ### Exercise 4.4 · The mask
#
# Difficulty 4/5 · importance 5/5 · 25 minutes
#
# Return a float tensor `(nW, N, N)`. It has one matrix for each of the nW = T/P · H/M · W/M windows of the *rolled* map, in the order of exercise 4.1. An entry is 0 where query and key belong to the same group, and −100
# where they do not. `size` is the size of the whole map, a multiple of the window. `shifted_windows` of section 4 gives the groups. An axis with shift 0 forbids no pair.

# %% tags=["exercise:4.4"]
def shift_mask(size, window, shift):
    """(nW, N, N): 0 for pairs of one group, -100 for all others."""
    raise NotImplementedError("exercise 4.4")

# %% tags=["check:4.4"]
shift_mask = check("4.4", shift_mask)

# %% [markdown] tags=["hints:4.4"]
# <details><summary>Hint 1: intuition</summary>
#
# A map of group numbers is a video with one channel. Whatever you do to the tokens, do to the numbers; then compare all pairs.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `numbers (T, H, W)` by a loop over `shifted_windows` → `cyclic_shift` → `window_partition` → `(nW, N)`; then
# `numbers[:, :, None] != numbers[:, None, :]`.
# </details>
# <details><summary>Symptom: an axis with shift 0 is masked</summary>
#
# Along an axis with shift 0 there are only whole windows, so along this axis no window holds two groups.
# </details>

# %% tags=["solution:4.4"]
def shift_mask(size, window, shift):
    """(nW, N, N): 0 for pairs of one group, -100 for all others."""
    groups = shifted_windows(size, window, shift)
    numbers = torch.zeros(1, *size, 1)
    for number, (t, h, w) in enumerate(groups):
        numbers[:, t, h, w] = number
    rolled = cyclic_shift(numbers, shift)
    numbers = window_partition(rolled, window)[..., 0]  # (nW, N)
    foreign = numbers[:, :, None] != numbers[:, None, :]
    return torch.where(foreign, -100.0, 0.0)          # (nW, N, N)


shift_mask = check("4.4", shift_mask, solution=True)

# %% [markdown]
# One of the eight masks, enlarged. It belongs to window (1, 0, 1): the last one in time and in width, the first one in height. One query is marked on the left. On the right stand its 64 keys at their places in the window.

# %% tags=["figure"] alt="On the left a mask of 64 queries by 64 keys in which two of four quarters are a chequered pattern and one row is marked; on the right the keys of this row in four time steps: only the right half of the last two steps is allowed, and the query lies in it."
show.mask_of_window(
    shift_mask(size, window, shift)[5], window, (2, 1, 2),
    title="Window (1, 0, 1): who may see whom")

# %% [markdown]
# The times in the figure count inside the window. After the roll, its steps 0, 1, 2 and 3 hold the steps 6, 7, 0 and 1 of the map; the same is true of its columns. So the query came from the first two time steps of the map and from its first two columns. It sees the 16 tokens of the window that came from there, and nobody else.
#
# In a live JupyterLab the next cell has sliders (elsewhere it stands still). **Try:** which shifts give the most windows? Which leave an axis
# whole? When is every mask white? The masks are drawn by your own function.

# %% tags=["figure"] alt="Above, 8 × 8 × 8 tokens in 8 regular windows and in the 27 windows of a shift by (2, 2, 2); below, the masks of the 8 windows after the roll, which forbid between 0 and 87.5 % of the pairs."
show.explore_windows(size, window, shift, mask=shift_mask)

# %% [markdown] tags=["answer"]
# A shift that is zero on no axis gives the most windows. An axis with shift 0 stays whole. All masks are white only for (0, 0, 0). In window (1, 1, 1), which was put together from all eight corners, each token sees 8 of 64.

# %% [markdown]
# Now the claim. Same input, same weights: 27 passes by definition against one batched pass over 8 windows.

# %% tags=["fast"]
def attend_by_trick(x, attn, window, shift, mask, bias=0.0):
    """Roll, cut into regular windows, attend, put back, roll back."""
    windows = window_partition(cyclic_shift(x, shift), window)
    repeats = len(windows) // len(mask)               # the batch
    allowed = (mask[:, None] + bias).repeat(repeats, 1, 1, 1)
    windows = attend(windows, attn, allowed)          # (B·nW, N, C)
    y = window_reverse(windows, window, x.shape[1:4])
    return cyclic_shift(y, [-s for s in shift])       # (B, T, H, W, C)


mask = shift_mask(size, window, shift)                # (nW, N, N)
by_trick = attend_by_trick(x, attn, window, shift, mask)
agree("8 windows with roll and mask = 27 windows", by_trick,
      by_definition)

# %% [markdown]
# A check that cannot fail proves nothing. Take the mask away, and the equality must break. Leave out the roll back, and it must break, too.

# %%
unmasked = attend_by_trick(x, attn, window, shift, 0 * mask)
differ("without the mask", unmasked, by_definition)
differ("without rolling back", cyclic_shift(by_trick, shift),
       by_definition)

# %% [markdown]
# **Why −100 and not −∞?** A weight is multiplied by e⁻¹⁰⁰ ≈ 4·10⁻⁴⁴, so nothing visible gets through, as long as logits differ by a few tens at most. Here −∞ does the same. It could only hurt where a whole row is forbidden, which gives 0/0. No such row exists, because each token may see itself. (It exists where somebody forbids padded keys as well, as section 11 does: a padded query may have no key left.)

# %%
forbidden = mask.masked_fill(mask < 0, -torch.inf)
with_infinity = attend_by_trick(x, attn, window, shift, forbidden)
agree("−∞ in place of −100", with_infinity, by_definition)
report(rows_without_any_key=int((mask < 0).all(-1).sum()))

# %% [markdown] tags=["core", "claim:vswin-attention", "claim:vswin-table-rows"]
# ## 6 · Where is the other token? The relative position bias
#
# Attention by itself does not know which token is where. Swin adds to each logit a learned number. It depends
# only on the head and on the **offset** between query and key, (Δt, Δh, Δw), query minus key. Along an axis of length M, offsets run
# from −(M−1) to M−1, that is 2M−1 values. So the table has (2P−1)(2M−1)(2M−1) rows.
#
# By hand, for a window of 2 × 2 × 2: 8 tokens, 3 · 3 · 3 = 27 rows. Move each offset to start at 0. Then read the three as
# digits of one number, width fastest. Token 0 is (0, 0, 0) and token 7 is (1, 1, 1).
#
# | query, key | offset | digits | row |
# |---|---|---|---|
# | 0, 7 | (−1, −1, −1) | 0, 0, 0 | 0 |
# | 7, 0 | (1, 1, 1) | 2, 2, 2 | 2·9 + 2·3 + 2 = 26 |
# | a token and itself | (0, 0, 0) | 1, 1, 1 | 13 |
#
# ### Exercise 4.5 · Relative position index
#
# Difficulty 3/5 · importance 4/5 · 20 minutes
#
# `(P, Mh, Mw) → (N, N)` integers with N = P·Mh·Mw: entry (i, j) is the row for query i and key j.

# %% tags=["exercise:4.5"]
def relative_position_index(window):
    """(N, N) rows of the bias table, for each pair (query, key)."""
    raise NotImplementedError("exercise 4.5")

# %% tags=["check:4.5"]
relative_position_index = check(
    "4.5", relative_position_index)

# %% [markdown] tags=["hints:4.5"]
# <details><summary>Hint 1: intuition</summary>
#
# Write down the coordinates of all N tokens, (3, N). All pairwise differences are one broadcast subtraction, (3, N, N).
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `row = ((dt + P-1) · (2Mh-1) + (dh + Mh-1)) · (2Mw-1) + (dw + Mw-1)`
# </details>
# <details><summary>Symptom: negative numbers</summary>
#
# The offsets must be moved to start at 0 before they are combined.
# </details>

# %% tags=["solution:4.5"]
def relative_position_index(window):
    """(N, N) rows of the bias table, for each pair (query, key)."""
    P, Mh, Mw = window
    axes = torch.meshgrid(*map(torch.arange, window), indexing="ij")
    coords = torch.stack(axes).flatten(1)             # (3, N)
    # 3 × (N, N), query - key
    dt, dh, dw = coords[:, :, None] - coords[:, None, :]
    rows = (dt + P - 1) * (2 * Mh - 1) + dh + Mh - 1
    return rows * (2 * Mw - 1) + dw + Mw - 1


relative_position_index = check(
    "4.5", relative_position_index, solution=True)

# %% tags=["figure"] alt="An 8 × 8 matrix of queries by keys of a 2 × 2 × 2 window with the row of the bias table for each pair: 13 on the diagonal, 26 at the bottom left, 0 at the top right."
show.index_matrix(
    relative_position_index((2, 2, 2)), window=(2, 2, 2),
    title="Rows of the bias table for a window of 2 × 2 × 2")

# %%
def table_rows(window):
    return math.prod(2 * n - 1 for n in window)


for w in [(8, 7, 7), (16, 7, 7), (8, 12, 12)]:
    index = relative_position_index(w)
    assert index.max() + 1 == len(index.unique()) == table_rows(w)
    report(**{f"window {w}": f"{table_rows(w):,} rows for "
                             f"{math.prod(w)**2:,} pairs"})

# %% [markdown]
# ### The claim again, with a bias and with padding
#
# In the roll, two tokens of one group keep their distance. So the index of the regular window is right for every pair that is allowed. We prove it with a *random* table, in which every offset has another number. The definition looks each offset up directly, in groups of any shape.
#
# The map now has 7 × 6 × 8 tokens, which the windows do not divide. Zeros are added at its end, up to 8 × 8 × 8. From there on everything lives on the padded map: the groups, the roll, the mask. At the end the padding is cut off.

# %% tags=["definition"]
random_table = torch.randn(table_rows(window), 2)     # (rows, h)
random_bias = random_table.view(7, 7, 7, 2)           # (Δt, Δh, Δw, h)


def looked_up(shape):
    """(h, N, N): the bias of a group, one pair at a time."""
    tokens = list(product(*map(range, shape)))
    out = torch.empty(2, len(tokens), len(tokens))
    for (i, q), (j, k) in product(enumerate(tokens), repeat=2):
        dt, dh, dw = (a - b + 3 for a, b in zip(q, k))
        out[:, i, j] = random_bias[dt, dh, dw]
    return out


small = torch.randn(2, 7, 6, 8, 16)
filled_up = F.pad(small, (0, 0, 0, 0, 0, 2, 0, 1))    # (B, 8, 8, 8, C)
literal = attend_in_groups(filled_up, attn, groups, looked_up)

# %% tags=["fast"]
rows_read = relative_position_index(window)
indexed = random_table[rows_read].permute(2, 0, 1)    # (h, N, N)
trick = attend_by_trick(filled_up, attn, window, shift, mask, indexed)
agree("random table, padded map: 8 windows = 27 windows",
      trick[:, :7, :6], literal[:, :7, :6])
turned = attend_by_trick(filled_up, attn, window, shift, mask,
                         indexed.mT)
differ("key minus query", turned[:, :7, :6], literal[:, :7, :6])

# %% [markdown] tags=["deep-dive", "claim:vswin-odd-sizes", "claim:vswin-corner-time"]
# ## 7 · When the map is smaller than the window
#
# In stage 4 of a 224-pixel clip the map is 7 × 7, exactly one window: there is nothing to shift to. The official rule is
# applied to each axis on its own: **where the map is no larger than the window, the window shrinks to the map and the shift becomes 0.**
#
# **Find the bug.** A colleague wrote this function for the rule, and tested it on stages 1 to 3. In stage 4 something is wrong. What, and which character of the code is it? Answer before you scroll on: the corrected function comes next.

# %%
def colleagues_clamp(size, window, shift):
    shift = tuple(0 if n < m else s
                  for n, m, s in zip(size, window, shift))
    return tuple(map(min, size, window)), shift


for r in stage_shapes(32, 224, 224):
    w, s = colleagues_clamp(r["shape"], (8, 7, 7), (4, 3, 3))
    report(**{r["name"]: f"map {r['shape']}, window {w}, shift {s}"})
share = (shift_mask((16, 7, 7), w, s) < 0).float().mean().item()
report(forbidden_in_stage_4=f"{100 * share:.0f} % of the pairs")

# %% [markdown] tags=["answer"]
# A map of 7 is not smaller than a window of 7, so the shift stays 3: it must be `n <= m`. Nothing fails. But one window covers the axis, and the mask cuts it into pieces that do not see each other, as if the border of the map ran through its middle.

# %%
def clamp(size, window, shift):
    shift = tuple(0 if n <= m else s
                  for n, m, s in zip(size, window, shift))
    return tuple(map(min, size, window)), shift


for r in stage_shapes(32, 224, 224):
    w, s = clamp(r["shape"], (8, 7, 7), (4, 3, 3))
    report(**{r["name"]: f"map {r['shape']}, window {w}, shift {s}"})
stage_4 = shift_mask((16, 7, 7), w, s)                # (nW, N, N)
masked = (stage_4 < 0).flatten(1).any(1)              # (nW,)
report(windows_of_stage_4=len(masked),
       of_these_masked=int(masked.sum()))

# %% [markdown]
# Stage 4 shifts in time only, (4, 0, 0), and the second of its two windows is masked. With 16 frames or fewer the map has at most 8 time
# steps, one window: **nothing ever shifts in time**.
#
# ### The trap in the official slice
#
# A shrunken window has fewer tokens, N' < N. The official code does not build a new index for it. It takes the corner `index[:N', :N']`
# of the full one, and so do torchvision and mmaction2. Is that the right geometry? **Predict** for a window (8, 7, 7) that shrinks to
# (4, 7, 7), and for one that shrinks to (8, 4, 4). Tokens are numbered time first, width fastest.

# %%
def same_geometry(window, shrunken):
    """Does the corner hold the row of the true offset, everywhere?"""
    block = torch.zeros(window, dtype=torch.bool)
    block[tuple(slice(n) for n in shrunken)] = True   # the map
    block, n = block.flatten(), math.prod(shrunken)
    rows = relative_position_index(window)            # (N, N)
    return torch.equal(rows[:n, :n], rows[block][:, block])


for shrunken in [(4, 7, 7), (1, 7, 7), (8, 4, 4), (8, 7, 4),
                 (4, 4, 7), (1, 4, 7), (1, 4, 4)]:
    report(**{f"(8, 7, 7) → {shrunken}":
              same_geometry((8, 7, 7), shrunken)})

# %% [markdown] tags=["answer"]
# - **Time** may always shrink. The first 4 · 49 tokens of an (8, 7, 7) window *are* its first 4 frames, so their offsets are right.
# - **Height** may shrink only if one time step is left. The first 4 · 7 tokens are the first 4 rows of the first frame. But the first 8 · 16 tokens are not 8 blocks of 4 × 4. They are two frames and a bit, so the corner mixes up offsets.
# - **Width** may shrink only if one time step and one row are left.

# %% [markdown]
# So a model reads the right entries of its tables where every stage keeps at least 7 × 7 tokens. The last stage has one token for 32 pixels, rounded up. So this holds from 193 pixels on; with M = 12 it holds from 353 on. (Such a size may still need padding: section 11.) We keep the behaviour, because
# equality with the official model is the point. Our own mini model below has windows of 2 × 4 × 4 and ends with maps of 2 × 2, so it lives with the mix-up, in training and in use.

# %% [markdown] tags=["deep-dive", "claim:vswin-still-clip"]
# ## 8 · Image weights for the tubes
#
# Video Swin starts from weights that were trained on images. This is called [inflation](glossary.md#inflation). Three things do not fit: the patch embedding (48 = 4 · 4 · 3 numbers for each output
# channel become 96), the bias tables, and the head, which is dropped. The rest is copied. Here comes the patch embedding. The whole model follows in section 9.
#
# The paper duplicates the weights over the two frames and halves them, so that mean and
# variance of the output stay (its section on initialisation from a pre-trained model).
#
# ### Exercise 4.6 · Inflate the patch embedding
#
# Difficulty 1/5 · importance 4/5 · 5 minutes
#
# `(D, C, ph, pw) → (D, C, pt, ph, pw)`: the **same weights in every time step**, such that a clip that repeats one image pt times gives the
# image's tokens. Here D is the number of output channels and C = 3 the colours.

# %% tags=["exercise:4.6"]
def inflate(weight, pt):
    """Image weights (D, C, ph, pw) -> tubes' (D, C, pt, ph, pw)."""
    raise NotImplementedError("exercise 4.6")

# %% tags=["check:4.6"]
inflate = check("4.6", inflate)

# %% [markdown] tags=["hints:4.6"]
# <details><summary>Hint 1: intuition</summary>
#
# A convolution sums over its kernel. With pt equal frames it sums the same product pt times.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# new axis 2 → repeat pt times → divide by pt
# </details>

# %% tags=["solution:4.6"]
def inflate(weight, pt):
    """Image weights (D, C, ph, pw) -> tubes' (D, C, pt, ph, pw)."""
    return weight[:, :, None].repeat(1, 1, pt, 1, 1) / pt


inflate = check("4.6", inflate, solution=True)

# %% [markdown]
# Do mean and variance really stay? On a still clip the tokens are *equal*, so yes, exactly. On a moving clip each token is the mean of two
# image tokens. The mean stays. The variance can only shrink: compared with the mean variance of the two image tokens, it loses a quarter of the variance of their difference. We measure it on frames of the
# embedded clips (section 12). **Predict:** how much of the variance stays there?

# %%
from vt_course.data import open_spec
from vt_course.data.clips import VideoFolder
from vt_course.training.recipes import RECIPES

motion = open_spec("synthetic:motion")
recipe = RECIPES["video_swin_mini"]
view = dict(frames=recipe.frames, stride=recipe.stride,
            size=recipe.size)
val = VideoFolder(motion.val, classes=motion.classes, train=False,
                  **view)
moving = torch.stack([val[i]["clip"] for i in range(16)])
still = moving[:, :, :1].expand_as(moving)            # (16, 3, T, H, W)
image = nn.Conv2d(3, 32, 4, 4)
tube_weight = inflate(image.weight.detach(), 2)       # (32, 3, 2, 4, 4)

# %%
@torch.no_grad()
def tokens_of(clip, weight):
    """(B, 3, T, H, W) -> (B, 32, T', H', W')."""
    return F.conv3d(clip, weight, image.bias, stride=(2, 4, 4))


on_image = image(still[:, :, 0]).detach()             # (B, 32, H', W')
on_still = tokens_of(still, tube_weight)              # (B, 32, T', ...)
agree("still clip: video tokens = image tokens", on_still[:, :, 0],
      on_image)
first = image(moving[:, :, 0::2].movedim(2, 1).flatten(0, 1))
second = image(moving[:, :, 1::2].movedim(2, 1).flatten(0, 1))
on_moving = tokens_of(moving, tube_weight).movedim(2, 1).flatten(0, 1)
mean_variance = (first.var(correction=0) + second.var(correction=0)) / 2
lost = (first - second).var(correction=0) / 4
within("variance lost, measured over predicted",
       ((mean_variance - on_moving.var(correction=0)) / lost).item(),
       0.99, 1.01)
within("share of the variance that stays, %",
       100 * (on_moving.var() / mean_variance).item(), 85, 97)

# %% [markdown] tags=["answer"]
# The prediction holds. On these clips 91 % of the variance stays.

# %% [markdown]
# **And without halving?** The product with the weights doubles. Released Swin has a LayerNorm
# after the patch embedding, which divides a common factor out again. But the bias of the projection was not doubled. So it counts half as much beside the doubled product, and the tokens
# after the norm are not the same. Without that norm, everything after would receive numbers twice as large as in pre-training.

# %% [markdown] tags=["core", "claim:vswin-merging-1", "claim:vswin-time-is-not-merged"]
# ## 9 · The network
#
# You have all parts. First attention with its bias table and its mask. The names are those of the official
# checkpoints.

# %%
class WindowAttention3D(nn.Module):
    def __init__(self, dim, window, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        table = torch.zeros(table_rows(window), num_heads)
        self.relative_position_bias_table = nn.Parameter(table)
        index = relative_position_index(window)
        self.register_buffer("index", index, persistent=False)

    def forward(self, x, mask):  # (B·nW, N, C), (nW, N, N)
        BW, N, _ = x.shape
        rows = self.index[:N, :N]                     # section 7
        bias = self.relative_position_bias_table[rows]  # (N, N, h)
        # (nW, h, N, N), then (B·nW, h, N, N)
        bias = bias.permute(2, 0, 1) + mask[:, None]
        return attend(x, self, bias.repeat(BW // len(mask), 1, 1, 1))

# %% [markdown]
# A block holds this attention and an MLP. A LayerNorm comes before each of them, and the result is added to what came in. Here are its parts. The `forward` is yours.

# %%
class SwinBlock3D(nn.Module):
    def __init__(self, dim, num_heads, window, shifted):
        super().__init__()
        self.window = window
        self.shift = tuple(m // 2 * shifted for m in window)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = WindowAttention3D(dim, window, num_heads)
        self.mlp = nn.Sequential()  # runs its modules in this order
        self.mlp.fc1, self.mlp.act = nn.Linear(dim, 4 * dim), nn.GELU()
        self.mlp.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x):                             # (B, T, H, W, C)
        return swin_block(self, x)

# %% [markdown]
# ### Exercise 4.7 · A whole block
#
# Difficulty 4/5 · importance 5/5 · 30 minutes
#
# Write the whole forward pass, for a map of any size:
#
# 1. `block.norm1`. Then `clamp` (section 7) gives window and shift for this map.
# 2. Pad with zeros at the *end* of each axis, up to multiples of the window. Padding comes after the norm, so the padded tokens are exact zeros.
# 3. Roll, cut into windows, `block.attn(windows, mask)`, put back, roll back. The mask is that of the *padded* map.
# 4. Cut the padding off and add x.
# 5. Add `block.mlp(block.norm2(...))`.
#
# `block` has `norm1`, `attn`, `norm2`, `mlp`, `window` and `shift`. Use your functions of 4.1 to 4.4. A block whose shift is (0, 0, 0) gets a mask, too: zeros.

# %% tags=["exercise:4.7"]
def swin_block(block, x):
    """(B, T, H, W, C) -> the same shape."""
    raise NotImplementedError("exercise 4.7")

# %% tags=["check:4.7"]
swin_block = check("4.7", swin_block)

# %% [markdown] tags=["hints:4.7"]
# <details><summary>Hint 1: intuition</summary>
#
# Each step has a partner that undoes it: pad and crop, roll and roll back, partition and reverse. The partners stand in the opposite order, like brackets.
# </details>
# <details><summary>Hint 2: how much to pad</summary>
#
# `-n % m` is what is missing up to a multiple of m. `F.pad` counts from the last axis: (0, 0) for the channels comes first, then the pairs for W, H and T.
# </details>
# <details><summary>Symptom: right on the first case, wrong on a small map</summary>
#
# Use the window and the shift that `clamp` returned everywhere: for padding, roll, mask, partition and reverse.
# </details>

# %% tags=["solution:4.7"]
def swin_block(block, x):
    """(B, T, H, W, C) -> the same shape."""
    T, H, W = size = x.shape[1:4]
    window, shift = clamp(size, block.window, block.shift)
    t, h, w = (-n % m for n, m in zip(size, window))
    y = F.pad(block.norm1(x), (0, 0, 0, w, 0, h, 0, t))
    padded = y.shape[1:4]
    mask = shift_mask(padded, window, shift)          # (nW, N, N)
    y = window_partition(cyclic_shift(y, shift), window)
    y = window_reverse(block.attn(y, mask), window, padded)
    y = cyclic_shift(y, [-s for s in shift])[:, :T, :H, :W]
    x = x + y
    return x + block.mlp(block.norm2(x))


swin_block = check("4.7", swin_block, solution=True)

# %% [markdown]
# **Merging.** Between stages, 2 × 2 neighbours in height and width are laid side by side: 4C channels. They are normalised and projected to 2C (notebook 03, section 9). Time is left alone. Here are the parts of the network:

# %%
class PatchMerging(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)


class Stage(nn.Module):
    def __init__(self, dim, depth, num_heads, window, last):
        super().__init__()
        self.blocks = nn.Sequential(
            *[SwinBlock3D(dim, num_heads, window, j % 2)
              for j in range(depth)])
        self.downsample = None if last else PatchMerging(dim)

# %%
class VideoSwin(nn.Module):
    def __init__(self, embed_dim, depths, num_heads, window,
                 num_classes):
        super().__init__()
        self.patch_embed = PatchEmbed3D(embed_dim)
        last = len(depths) - 1
        self.layers = nn.ModuleList(
            [Stage(embed_dim * 2**i, depths[i], num_heads[i], window,
                   i == last) for i in range(len(depths))])
        self.norm = nn.LayerNorm(embed_dim * 2**last)
        self.head = nn.Linear(embed_dim * 2**last, num_classes)

    def forward(self, x):                             # (B, 3, T, H, W)
        return classify(self, x)                      # (B, K)

# %% [markdown]
# ### Exercise 4.8 · Merging and the stages
#
# Difficulty 3/5 · importance 5/5 · 20 minutes
#
# Put the network together. First `net.patch_embed`. Then, for each `stage` of `net.layers`: `stage.blocks`, and after them the merging, unless `stage.downsample` is None. A merging has only `norm` and `reduction`; the rest is yours:
#
# - an odd height or width is padded with one row or column of zeros, at the end;
# - the four neighbours stand in the order (0, 0), (1, 0), (0, 1), (1, 1). Each pair is (row offset, column offset). The order is part of the checkpoint.
#
# At the end come `net.norm` (on each token), the mean over all places and time steps, and `net.head`. Return the scores before the softmax, `(B, K)` for K classes.

# %% tags=["exercise:4.8"]
def classify(net, x):
    """(B, 3, T, H, W) -> (B, K)."""
    raise NotImplementedError("exercise 4.8")

# %% tags=["check:4.8"]
classify = check("4.8", classify)

# %% [markdown] tags=["hints:4.8"]
# <details><summary>Hint 1: intuition</summary>
#
# A slice with a step of 2 takes every second row, from 0 or from 1. Four such slices, side by side along the channels, are the merged map before its norm.
# </details>
# <details><summary>Hint 2: padding</summary>
#
# The map is (B, T, H, W, C). `H % 2` is what is missing in height. Time needs nothing.
# </details>
# <details><summary>Symptom: "expected input with shape [*, 8]" or the like</summary>
#
# A stage got the map of another one: is a merging left out, or is one made after the last stage?
# </details>

# %% tags=["solution:4.8"]
def classify(net, x):
    """(B, 3, T, H, W) -> (B, K)."""
    x = net.patch_embed(x)                            # (B, T, H, W, C)
    for stage in net.layers:
        x = stage.blocks(x)
        if stage.downsample is not None:
            _, _, H, W, _ = x.shape
            x = F.pad(x, (0, 0, 0, W % 2, 0, H % 2))
            four = [x[:, :, i::2, j::2] for j in (0, 1) for i in (0, 1)]
            four = stage.downsample.norm(torch.cat(four, -1))
            x = stage.downsample.reduction(four)
    return net.head(net.norm(x).mean((1, 2, 3)))      # (B, K)


classify = check("4.8", classify, solution=True)

# %% [markdown]
# ### Your network is the model
#
# The package ships a small Video Swin, trained on clips of moving shapes (section 12). `ZOO` lists every variant with its settings and stated numbers. Your class must accept its weights
# **strictly**: no name missing, and none left over. And it must agree on any size of clip, also odd ones.

# %%
from safetensors.torch import load_file

from vt_course.models import ZOO, create, mini_weights


def only(config):
    """The settings that shape the network."""
    shape = ("embed_dim", "depths", "num_heads", "window",
             "num_classes")
    return {k: config[k] for k in shape}


mini = only(ZOO["video_swin_mini"].config)
weights = load_file(mini_weights("video_swin_mini"))
mine = VideoSwin(**mini).eval()
report(**{name: str(value) for name, value in mini.items()},
       loading=str(mine.load_state_dict(weights, strict=True)))

# %%
package = create("video_swin_mini").eval()
_ = package.load_state_dict(weights)
for shape in [(1, 3, 16, 64, 64), (2, 3, 7, 50, 45),
              (1, 3, 20, 72, 40), (1, 3, 1, 33, 64)]:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(shape, generator=generator)
    with torch.no_grad():
        agree(f"yours = package, {shape}", mine(noise), package(noise))

# %% [markdown]
# **A third witness.** Both could share a mistake. So ask somebody else's code: torchvision's `swin3d_t`, with random weights copied into *your* class.
# (The repository's tests also compare with recorded outputs of the authors' own code.)

# %% tags=["oracle"]
from torchvision.models.video import swin3d_t

from vt_course.models.official import from_official

_ = torch.manual_seed(0)
theirs = swin3d_t(num_classes=400).eval()
tiny = VideoSwin(**only(ZOO["video_swin_tiny"].config)).eval()
renamed = from_official(create("video_swin_tiny"),
                        theirs.state_dict())
_ = tiny.load_state_dict(renamed, strict=True)
noise = torch.randn(1, 3, 18, 64, 96)
with torch.no_grad():
    agree("your Swin-T = torchvision's swin3d_t", tiny(noise),
          theirs(noise))

# %% [markdown]
# ### Who sees whom
#
# The bookkeeping of section 4 says how far a token *can* see. Now ask the network. Take one token of a later map, and compute how its numbers change with the tokens that entered stage 1. Where the gradient is larger than 10⁻³⁰, the token sees. (A masked pair lets through about 10⁻⁴⁴ of a gradient.)
#
# The map is 8 × 16 × 16 tokens: 16 frames of 64 × 64 pixels. The mini has windows of 2 × 4 × 4 and two blocks in each stage. **Predict** for the token (4, 8, 8): how many tokens does it see after each block of stage 1? In the figure, the percentage above a picture says how many of all seen tokens lie in this time step.

# %%
def seen(net, clip, stage, block):
    """|gradient| at stage 1's tokens (T, H, W) of one later token."""
    x = net.patch_embed(clip).detach().requires_grad_()
    hooked = net.layers[stage].blocks[block]
    found = []
    handle = hooked.register_forward_hook(
        lambda module, given, made: found.append(made))
    with_tokens = net.patch_embed.register_forward_hook(
        lambda module, given, made: x)
    _ = net(clip)
    handle.remove(), with_tokens.remove()
    T, H, W = found[0].shape[1:4]
    found[0][0, T // 2, H // 2, W // 2].pow(2).sum().backward()
    return x.grad[0].norm(dim=-1)                     # (T, H, W)


large = dict(frames=16, stride=1, size=64)
wide = VideoFolder(motion.val, classes=motion.classes, train=False,
                   **large)
clip = wide[0]["clip"]                                # (3, 16, 64, 64)
places = {"stage 1, block 1": (0, 0), "stage 1, block 2": (0, 1),
          "stage 2, block 1": (1, 0), "stage 2, block 2": (1, 1)}
sights = {name: seen(mine, clip[None], *where) > 1e-30
          for name, where in places.items()}
for name, s in sights.items():
    report(**{name: f"{int(s.sum()):5,} of {s.numel():,} tokens"})

# %%
for blocks, name in ((1, "stage 1, block 1"), (2, "stage 1, block 2")):
    counted = int(sights[name].sum())
    assert counted == seen_after(blocks, (8, 16, 16), (2, 4, 4),
                                 (1, 2, 2), (4, 8, 8))
report(network_and_bookkeeping_agree=True)

# %% tags=["figure"] alt="A clip in eight time steps, three times, with a marked token and red boxes that it sees: small ones in two time steps after the first block, larger ones in four after the second, and in six after the first block of stage 2, up to the right and lower border."
drawn = list(sights)[:3]
maps = torch.stack([sights[name].float() for name in drawn])
maps = maps / maps.sum((1, 2, 3), keepdim=True)       # equal shares
show.attention_over_frames(clip, maps, (4, 8, 8), rows=drawn)

# %% [markdown] tags=["answer"]
# 32 tokens, one window, and then 4 · 8 · 8 = 256. In stage 2 a token covers 2 × 2 tokens of stage 1. There the same block reaches twice as far in height and width: 864 tokens after its first block, and all 2,048 after its second.

# %% [markdown]
# ### From an image model to a video model
#
# **The bias tables** get a time axis: the image table, (2M−1)² rows, is repeated for each of the 2P−1 offsets in time. Nothing is divided
# here. Why not? A query now sees its keys once for every time step of its group: P copies, or fewer where the border cuts the group. On a still clip the copies have equal logits. So they
# share the weight of their original, and their sum is the image model's attention.
#
# ### Exercise 4.9 · Inflate a whole model
#
# Difficulty 2/5 · importance 4/5 · 10 minutes
#
# Write what becomes of one entry of an image model's state: the patch embedding, `patch_embed.proj.weight`, is inflated as in 4.6; a bias table, whose name ends with `relative_position_bias_table`, is repeated; all else stays. `pt` is the length of a tube, P that of a window. In the video table time is the slowest digit.

# %% tags=["exercise:4.9"]
def inflate_entry(name, weight, pt, P):
    """An image model's tensor -> the video model's."""
    raise NotImplementedError("exercise 4.9")

# %% tags=["check:4.9"]
inflate_entry = check("4.9", inflate_entry)

# %% [markdown] tags=["hints:4.9"]
# <details><summary>Hint 1: intuition</summary>
#
# How many offsets in time are there in a window of P steps? Each of them gets the whole image table.
# </details>
# <details><summary>Hint 2: repeat</summary>
#
# `repeat` lays whole copies one below the other; `repeat_interleave` repeats each row in place. Which of the two changes time slowest?
# </details>

# %% tags=["solution:4.9"]
def inflate_entry(name, weight, pt, P):
    """An image model's tensor -> the video model's."""
    if name == "patch_embed.proj.weight":
        return inflate(weight, pt)
    if name.endswith("relative_position_bias_table"):
        return weight.repeat(2 * P - 1, 1)  # ((2P-1)(2M-1)², h)
    return weight


inflate_entry = check("4.9", inflate_entry, solution=True)

# %% [markdown]
# The *whole* network must now agree with the image model on a still clip. That is a strong test. It needs all rules at once: tubes divided, tables repeated, the rest copied. It holds where nothing is padded in time (tubes and windows divide the clip), and where no map is smaller than the image window (section 7).

# %%
from vt_course.models.swin import SwinTransformer

_ = torch.manual_seed(0)
shared = dict(embed_dim=24, depths=(2, 2), num_heads=(2, 4))
image_model = SwinTransformer(32, window=4, num_classes=5,
                              **shared).eval()
video_model = VideoSwin(window=(4, 4, 4), num_classes=5,
                        **shared).eval()
state = {name: inflate_entry(name, t, 2, 4)
         for name, t in image_model.state_dict().items()}
_ = video_model.load_state_dict(state, strict=True)
picture = still[:2, :, 0]                             # (2, 3, 32, 32)
still_clip = picture[:, :, None].repeat(1, 1, 16, 1, 1)
with torch.no_grad():
    agree("inflated model, still clip = image model, picture",
          video_model(still_clip), image_model(picture))

# %% [markdown]
# The head fits here because both toys have five classes. With real weights it is trained anew. The package's
# `official.inflate_swin` does the same for released files. It also resizes tables for other window sizes bicubically, and knows the
# alternative that the paper tried, *centre* initialisation (weights only in one time step).

# %% [markdown] tags=["deep-dive", "claim:vswin-t-depths", "claim:vswin-l-200-m"]
# ## 10 · The published variants, and what they cost
#
# There are four sizes, some of them with other windows for Something-Something and for 384 pixels. The "FLOPs" of the paper are
# multiply-accumulates (MACs) of [**one view**](glossary.md#view): one clip, one crop. Its accuracies average several views (3 on Something-Something, 12 or 50 elsewhere), so multiply by their number.
#
# | | channels of stage 1 | blocks of each stage | heads of each stage |
# |---|---|---|---|
# | Swin-T | 96 | 2, 2, 6, 2 | 3, 6, 12, 24 |
# | Swin-S | 96 | 2, 2, 18, 2 | 3, 6, 12, 24 |
# | Swin-B | 128 | 2, 2, 18, 2 | 4, 8, 16, 32 |
# | Swin-L | 192 | 2, 2, 18, 2 | 6, 12, 24, 48 |
#
# All of it follows from the structure. Take a map of L tokens with C channels.
#
# - The four projections (q, k, v and the output) cost 4LC².
# - The MLP, C → 4C → C, costs 8LC².
# - **Complete the formula:** the two products of attention cost 2 · … · L · C.
#
# The parameters of a block are 12C² weights, 13C biases and norm numbers (3C + C for q, k, v and output, 4C + C for the MLP, 2 · 2C for two norms), and the bias table, rows times heads. Merging from C/2
# channels has a norm of 2 · 2C numbers and a matrix of 2C × C.
#
# **Predict** for one block in stage 1 of Swin-T (L = 50,176, C = 96, windows of 8 × 7 × 7): which costs more, projections and MLP, or the products of attention?

# %% [markdown] tags=["answer"]
# Each token meets the PM² tokens of its window, once in q·k and once in the weighted sum of the values: 2 · PM² · L · C.
#
# With PM² = 392 projections and MLP cost 12LC² = 5.5 billion, and the products of attention 2PM²LC = 3.8 billion.

# %% [markdown]
# The next cells sum the formulas over all variants. The counters must agree to the last digit.

# %%
def predicted_macs(T, H, W, dim, depths, window, classes,
                   everywhere=False):
    """From the formulas alone; windows must divide the maps."""
    total = 0
    for i, r in enumerate(stage_shapes(T, H, W, dim)):
        L, C = math.prod(r["shape"]), r["channels"]
        smaller, _ = clamp(r["shape"], window, window)
        partners = L if everywhere else math.prod(smaller)
        block = 12 * L * C**2 + 2 * partners * L * C
        before = L * 96 * C if i == 0 else L * 2 * C * C
        total += depths[i] * block + before           # tubes or merging
    return total + C * classes


def predicted_parameters(embed_dim, depths, num_heads, window,
                         num_classes):
    total = 96 * embed_dim + 3 * embed_dim            # tubes, norm
    for i, (depth, h) in enumerate(zip(depths, num_heads)):
        C = embed_dim * 2**i
        block = 12 * C**2 + 13 * C + table_rows(window) * h
        merging = 2 * C * C + 4 * C if i else 0       # 4 · C/2 → C
        total += depth * block + merging
    return total + 2 * C + C * num_classes + num_classes

# %% tags=["claim:video_swin_tiny-gmacs"]
from vt_course.models.cost import count_macs, count_parameters

variants = {n: v for n, v in ZOO.items()
            if n.startswith("video_swin") and v.stated
            and "design" not in v.config}


def macs_of(v):
    c = v.config
    return predicted_macs(*v.input[1:], c["embed_dim"], c["depths"],
                          c["window"], c["num_classes"])


for name, v in variants.items():
    with torch.device("meta"):                        # shapes only
        model = create(name)
    assert macs_of(v) == count_macs(model, (1, *v.input))
    params = predicted_parameters(**only(v.config))
    assert params == count_parameters(model)
report(variants=len(variants), formula_equals_count_in_all=True)

# %% [markdown]
# And against what was stated, by the authors' repository or, for Swin-L and the parameters of Swin-T, by others (`vt-course models --json` names each source):

# %%
print(f"{'':22}{'params M':>9}{'stated':>8}{'GMACs':>9}{'stated':>8}")
for name, v in variants.items():
    stated = {what: value for what, value, _ in v.stated}
    params = predicted_parameters(**only(v.config)) / 1e6
    print(f"{name:25}{params:6.1f}{stated['params M']:8g}"
          f"{macs_of(v) / 1e9:9.1f}{stated['GMACs']:8g}")

# %% [markdown]
# Parameters agree to the digits that were stated, GMACs to within 0.2 %. (`_22k` is the same network, pre-trained on more images.) Two remarks:
#
# - The paper's Swin-L row, 200.0 M and 2107 G, is the **384-pixel model with an (8, 12, 12) window**. At 224 pixels
# Swin-L has 197.0 M and 603 G by our count; 604 G is stated.
# - The stated GMACs are a little higher than ours. If their counter adds two operations for each number that passes
# a LayerNorm, the difference is explained in every row. (A test of the repository checks that.)

# %% [markdown]
# ### Why 8 × 7 × 7?
#
# **Why 7?** It is the window of the image model. Neither paper gives a reason. One advantage can be seen: at 224 pixels the maps have 56, 28, 14 and 7 tokens a side, all multiples of 7, so nothing is padded.
#
# **Why 8 time steps?** The paper compares three lengths for Swin-T with 32 frames, that is 16 time steps (Table 5; we quote the accuracies second-hand). The costs are ours:

# %%
swin_t_settings = (96, (2, 2, 6, 2))
for P, accuracy in ((4, 78.6), (8, 78.8), (16, 79.1)):
    macs = predicted_macs(32, 224, 224, *swin_t_settings, (P, 7, 7),
                          400)
    report(**{f"window {P:2} × 7 × 7": f"{macs / 1e9:5.1f} GMACs, "
              f"{accuracy} % top-1 on Kinetics-400 in the paper"})

# %% [markdown]
# So 8 is no optimum. It is a middle: the longest window gets 0.3 points more, and costs a fifth more.

# %% [markdown] tags=["deep-dive", "claim:vswin-linear", "claim:vswin-padding-is-seen"]
# ## 11 · How the cost grows, and what padding costs
#
# The price of attention per token is its number of partners. In windows that is PM², however long the clip. In **global** attention it is all L tokens.
# Let the clip grow in time. The points of "window" are counted on the model, and the thin line is the formula. "Global" is the formula
# only. Both axes are logarithmic: slope 1 is
# linear, 2 quadratic. **Predict:** 256 frames, eight times the usual 32. How many times as much would the whole network cost with global attention as with windows?

# %%
with torch.device("meta"):
    swin_t = create("video_swin_tiny")


def growth(sizes):
    """GMACs: counted in windows, by formula, and with global."""
    window = [count_macs(swin_t, (1, 3, *s)) / 1e9 for s in sizes]
    formulas = [[predicted_macs(*s, *swin_t_settings, (8, 7, 7), 400,
                                everywhere) / 1e9 for s in sizes]
                for everywhere in (False, True)]
    return window, *formulas


frames = [16, 32, 64, 128, 256]
in_time = growth([(t, 224, 224) for t in frames])
for i in (1, 4):
    ratio = in_time[2][i] / in_time[0][i]
    report(**{f"{frames[i]} frames, global over window":
              f"{ratio:.1f} times"})

# %% tags=["figure"] alt="GMACs of one view against the number of frames, on logarithmic axes: windows rise with slope 1, global attention rises with slope 1.96 and lies about a hundred times higher at 256 frames."
window_gmacs, formula, everywhere = in_time
show.cost_curves(
    {"window 8×7×7": dict(x=frames, y=window_gmacs, formula_y=formula),
     "global (formula)": dict(x=frames, y=everywhere)},
    "frames of 224 × 224", "GMACs of one view",
    "Windows are linear in time, global attention is not")

# %% [markdown] tags=["answer"]
# About 100 times as much. And the logits of one head in stage 1, if stored in float32, would take 644 GB. Global stays a little below slope 2, because projections and MLP are linear. In space it is the same: at 896 × 896 pixels instead of 224 × 224 the map has 16 times as many tokens, and windows cost 16 times as much.

# %%
in_space = growth([(32, s, s) for s in (224, 896)])
report(**{f"{name}: 896 over 224 pixels": f"{b / a:.1f} times"
          for name, (a, b) in zip(("window", "global"), in_space[1:])})

# %% [markdown]
# Global attention costs 242 times as much, and not 16² = 256 times: the projections and the MLP grow only 16 times.
#
# ### What does unmasked padding cost?
#
# When a map is no multiple of the window, zeros are added, and the official code does *not* mask them. So real tokens attend to padding. A padded token is not nothing: its key and its value are the biases of `qkv`. Your network does the same.
#
# Padding has two prices. The first is work. **Predict:** clips of 256 × 256 pixels give maps of 64, 32, 16 and 8 tokens a side. How much more do windows of 7 have to compute in each stage?

# %%
for r in stage_shapes(32, 256, 256):
    n = r["shape"][1]
    up = math.ceil(n / 7) * 7
    report(**{r["name"]: f"{n} → {up}: {up**2 / n**2:.2f} times "
                         "the tokens in attention"})

# %% [markdown]
# The second price is attention that real tokens spend on nothing. How much does it change? Here is a version of attention that forbids padded keys. It knows them by their zeros. We test both on clips of 40 × 40 pixels. Their maps have 10 × 10, 5 × 5 and 3 × 3 tokens, and attention pads the first two. (At this size two other faults stay in both versions: merging pads the map of 5 × 5, and on the map of 3 × 3 the window shrinks, so that it reads wrong entries of its table.) The weights were trained on 32 × 32 pixels, where nothing is padded. **Predict** both accuracies; at 32 × 32 it is 99 %.

# %%
class WithoutPadding(nn.Module):
    """The same attention, in which padded keys are forbidden."""

    def __init__(self, attn):
        super().__init__()
        self.attn = attn

    def forward(self, x, mask):
        real = (x != 0).any(-1)                       # (B·nW, N)
        keys = torch.where(real, 0.0, -100.0)[:, None]
        mask = mask.repeat(len(x) // len(mask), 1, 1) + keys
        return self.attn(x, mask)                     # (B·nW, N, C)


careful = VideoSwin(**mini).eval()
_ = careful.load_state_dict(weights)
for stage in careful.layers:
    for block in stage.blocks:
        block.attn = WithoutPadding(block.attn)

# %%
def clips_of(side, count=200):
    """The first held-out clips at this size, and their labels."""
    sized = VideoFolder(motion.val, classes=motion.classes, train=False,
                        **(view | dict(size=side)))
    samples = [sized[i] for i in range(count)]
    labels = torch.tensor([s["label"] for s in samples])
    return torch.stack([s["clip"] for s in samples]), labels


@torch.no_grad()
def accuracy(net, clips, labels):
    """Share of right answers, and its standard error."""
    share = (net(clips).argmax(1) == labels).float().mean().item()
    return share, math.sqrt(share * (1 - share) / len(labels))


clips_32, clips_40 = clips_of(32, 16), clips_of(40)
with torch.no_grad():
    agree("32 pixels, nothing is padded", careful(clips_32[0]),
          mine(clips_32[0]))
padding = {"padding not masked": accuracy(mine, *clips_40),
           "padded keys forbidden": accuracy(careful, *clips_40)}
gain = padding["padded keys forbidden"][0]
gain -= padding["padding not masked"][0]
within("gain by masking", 100 * gain, 10, 40, " points")

# %% tags=["figure"] alt="Two bars of the accuracy on 200 clips of 40 × 40 pixels: where padding is not masked it is far lower than where padded keys are forbidden."
show.ceilings(padding, {"chance": 0.125},
              "Top-1 on 200 clips of 40 × 40 pixels")

# %% [markdown] tags=["answer"]
# At 256 pixels the last stage works on three times the tokens that it needs. And padding that nobody masks costs this model about a quarter of its answers. Forbid the padded keys, and most of them are right again, with the same weights, on a size that the model has never seen.
#
# So choose sizes that need no padding, above all for weights that were trained without it. The released ones were: at 224 pixels windows of 7 need none, and neither do windows of 12 at 384.

# %% [markdown] tags=["core", "claim:vswin-order-matters"]
# ## 12 · Does it use time?
#
# Kinetics cannot answer that: many of its classes are recognised from one frame. The embedded data set can. Its eight motions form four pairs (left and right, up and down, grow and shrink, clockwise and counter-clockwise). Each is
# the film of its partner run backwards. One frame shows nothing about the motion. (In *grow* and *shrink* the outline stays: only the rings inside flow outward or inward, endlessly. Shapes
# that leave on one side come back on the other. So no size or place betrays the class.) So two ceilings hold for *every* model, by construction:
#
# - a model that sees **one frame** cannot beat 12.5 % on average;
# - a model that sees the frames **without their order** cannot beat 50 % on average. It may find the pair, never the direction.

# %% tags=["figure"] alt="Six frames of two clips, in rows named left and grow: a heart moves to the left, and the coloured rings of another heart flow outward while its outline stays; each has a pattern behind it."
chosen = {"left": 9, "grow": 14}
sharp = VideoFolder(motion.val, classes=motion.classes, train=False,
                    frames=6, stride=3, size=64)
films = [sharp[i] for i in chosen.values()]
assert [motion.classes[f["label"]] for f in films] == list(chosen)
show.film_strip([f["clip"] for f in films], n=6, rows=list(chosen))

# %% [markdown]
# Our model is Video Swin with 24 channels, three stages and windows of 2 × 4 × 4, on 8 frames of 32 × 32 pixels, 3 apart. In small it has all
# that this notebook shows, except padding:

# %%
half = tuple(m // 2 for m in mini["window"])
pixels = ZOO["video_swin_mini"].input[1:]             # (T, H, W)
for r in stage_shapes(*pixels, mini["embed_dim"], 3):
    w, s = clamp(r["shape"], mini["window"], half)
    whole = math.prod(n // m for n, m in zip(r["shape"], w))
    cut = len(shifted_windows(r["shape"], w, s))
    report(**{r["name"]: f"map {r['shape']}, window {w}, shift {s}, "
                         f"{whole} windows, shifted {cut}"})

# %% [markdown]
# Stage 1 is the picture of section 4 with half of its time steps: 8 windows, 27 when they are shifted. In stages 2 and 3 a window is as large as a frame, so only time still shifts.
#
# Training is one call. In `smoke` it makes 4 steps, to show that everything is connected. In `lecture` it makes 1,000 steps, and your curve stands beside a stored one. In `full` it goes to the end, 4,000 steps.
# The run folder then holds the metrics, the curves and the weights.

# %%
import csv
import json
import tempfile
from pathlib import Path

from vt_course import repo_root
from vt_course.training.fit import fit

steps = {"smoke": 4, "lecture": 1000, "full": None}[PROFILE]
temporary = tempfile.TemporaryDirectory()
run = Path(temporary.name)
summary = fit(recipe, run, max_steps=steps, progress=False)
report(model=summary["model"], parameters=summary["parameters"])

# %% tags=["figure"] alt="Accuracy on held-out clips against the epochs of a stored training: it stays near an eighth at first, crosses a dashed line at 50 % before the middle, and ends far above it."
def accuracy_by_epoch(lines):
    return [100 * float(row["val_top1"]) for row in lines]


results_folder = repo_root() / "results"
curve_file = results_folder / "video_swin_mini_curve.json"
stored_run = json.loads(curve_file.read_text(encoding="utf-8"))
learning = {"a stored run": accuracy_by_epoch(stored_run["epochs"])}
if PROFILE != "smoke":
    with open(run / "metrics.csv", encoding="utf-8") as lines:
        learning["yours"] = accuracy_by_epoch(csv.DictReader(lines))
epochs = max(map(len, learning.values()))
learning["most without the order of frames"] = [50] * epochs
show.curves(learning, "top-1 on held-out clips, %",
            "The first epochs of the training", "epoch (100 steps)")

# %% [markdown]
# At the end of the figure the stored curve stands far above 50 %. Only a model that uses the order of the frames gets there.
#
# The weights that the package ships come from the same call, run to the end once. `results/ship/video_swin_mini.json` in the repository records
# the hardware, seconds, seed and commit. We evaluate them (or, in the `full` profile, yours) on the 400 held-out clips. They are the weights of the last
# epoch, not of the best one: picking by held-out accuracy would flatter the model.

# %%
from vt_course.training.checkpoint import load_run
from vt_course.training.evaluate import evaluate, open_data

source = run if PROFILE == "full" else mini_weights("video_swin_mini")
trained, _ = load_run(source, "last")
temporary.cleanup()
_, held_out = open_data(recipe)
kept = dict(workers=0, progress=False)  # clips stay decoded
results = {order: evaluate(trained, held_out, order=order, **kept)
           for order in ("normal", "shuffled", "single", "reversed")}
normal = results["normal"]
within("held-out top-1, frames in order", 100 * normal["top1"], 85, 100,
       " %")

# %% [markdown]
# **Predict.** What happens to the accuracy when the same clips are shown with their frames shuffled? When one frame is repeated over the whole clip? When they are
# played backwards?

# %% tags=["figure"] alt="Bars of the accuracy on 400 held-out clips: the bar of frames in order lies far above the dashed lines at 12.5 % and 50 %, shuffled frames below 50 %, one frame near 12.5 %, and backwards near 0."
names = dict(normal="in order", shuffled="shuffled", single="one frame",
             reversed="backwards")
bars = {names[o]: (r["top1"], r["stderr"]) for o, r in results.items()}
show.ceilings(bars, {"one frame": 0.125, "no order": 0.5},
              "Top-1 on 400 held-out clips")

# %%
def partner(i):
    return i + 1 if i % 2 == 0 else i - 1  # left ↔ right, ...


backwards = torch.tensor(results["reversed"]["confusion"])
flipped = sum(backwards[i, partner(i)] for i in range(8)).item() / 400
within("backwards, predicted as the partner", 100 * flipped, 80, 100,
       " %")
for order, ceiling in (("single", 0.125), ("shuffled", 0.5)):
    error = math.sqrt(ceiling * (1 - ceiling) / 400)
    most = round(100 * (ceiling + 4 * error), 1)
    within(names[order], 100 * results[order]["top1"], 0, most, " %")

# %% [markdown] tags=["answer"]
# Played backwards, "left" becomes "right": the model does not fail, it answers correctly for what it sees. The accuracies on shuffled frames and on
# one frame are compatible with the ceilings. (A ceiling bounds the *expected* accuracy; 400 clips may exceed it by chance. The checks allow
# four standard errors.) Shuffled, the model stays far below 50 %. A ceiling says what is possible, not what this model reaches. It never saw shuffled frames in training, and they look like no motion it knows.

# %% [markdown]
# Models and recipes were chosen by these 400 clips. A third split, of 2,000 test clips, was left alone until the end. Its result, stored once:

# %%
orders_file = results_folder / "video_swin_mini_motion_orders.json"
on_test = json.loads(orders_file.read_text(encoding="utf-8"))["rows"]
report(test_clips=on_test[0]["n"],
       **{names[r["order"]]:
          f"{100 * r['top1']:.1f} ± {100 * r['stderr']:.1f} %"
          for r in on_test})

# %% [markdown]
# ### Does the trained model need its shift?
#
# **A small experiment.** Take the shift away from the trained model, along some axes or all, and test it again. Nothing is trained anew. **Predict** first: section 4 says that without a shift in time, steps 0 and 1 never meet steps 2 and 3 before the mean at the end.

# %%
# In the package's model a block's attention holds the shift.
shifts = [(block.attn, block.attn.shift)
          for stage in trained.layers for block in stage.blocks]


def accuracy_with_shift(on):
    """Top-1 when windows shift only along the axes that are on."""
    for attention, s in shifts:
        attention.shift = tuple(m * k for m, k in zip(s, on))
    top1 = evaluate(trained, held_out, **kept)["top1"]
    for attention, s in shifts:
        attention.shift = s
    return 100 * top1


for name, on in {"height and width": (0, 1, 1), "time": (1, 0, 0),
                 "no axis": (0, 0, 0)}.items():
    change = accuracy_with_shift(on) - 100 * normal["top1"]
    within(f"shift along {name} only, change", change, -3, 3, " points")

# %% [markdown] tags=["answer"]
# Hardly anything changes: 99.2 % with all shifts, 99.2 % with those in height and width only, 100 % with those in time only, 99.2 % without any. So this model does not need to bring the halves of the clip together inside a window: each of its tubes already holds two frames, and the mean at the end gathers what they found. (This says what a *trained* model needs. Whether it would *learn* as well without a shift is another question, and only training can answer it. In the paper's Table 6, no shift at all costs 0.7 points on Kinetics.)

# %% [markdown]
# ### What the model wrote into its bias table
#
# The second head of the first block in stage 1. One panel is for Δt = −1, one for Δt = +1. The offset is query minus key. So Δt = +1 means: the key lies one time step *earlier* than the query. The tables started as noise with a standard deviation of 0.02; frames mark what is larger than three times that.
#
# Look for two things. Where are the largest entries? And are the two panels the same? If they were, this head could not tell before from after by position alone.

# %% tags=["figure"] alt="Two maps of the learned bias of one head by offsets of height and width, for the time offsets −1 and +1: for +1 the brightest cells stand at the centre and just left of it, for −1 the centre is grey; a quarter of the cells has a black frame."
first_block = "layers.0.blocks.0.attn.relative_position_bias_table"
show.bias_tables(weights[first_block], mini["window"], head=1,
                 noise=0.06, offsets=(-1, 1),
                 title="Learned bias of the second head (head 1)")

# %%
P, Mh, Mw = mini["window"]
learned = weights[first_block].view(2 * P - 1, 2 * Mh - 1,
                                    2 * Mw - 1, -1)
same_place = learned[:, Mh - 1, Mw - 1, 1]            # (2P-1,)
report(**{f"bias at Δt = {dt:+d}, same place":
          f"{same_place[dt + P - 1]:+.2f}" for dt in (-1, 0, 1)})

# %% [markdown] tags=["answer"]
# The largest entries belong to the same place and its neighbours one time step earlier. For the step after there is nothing at the centre. So the panels differ: this head looks back in time, and it *could* tell before from
# after.

# %% [markdown]
# Now look at the colour bar. A bias of 0.2 multiplies a weight by e^0.2 ≈ 1.22, which is not much. **Predict:** what is left of the accuracy when all bias tables are zero?

# %%
learned_state = {n: v.clone() for n, v in trained.state_dict().items()}
zero_tables = {n: v * ("bias_table" not in n)
               for n, v in learned_state.items()}
_ = trained.load_state_dict(zero_tables)
zeroed = evaluate(trained, held_out, **kept)["top1"]
_ = trained.load_state_dict(learned_state)
change = 100 * abs(zeroed - normal["top1"])
within("change of top-1 without any bias table", change, 0, 4,
       " points")

# %% [markdown] tags=["answer"]
# Next to nothing: 99.5 % with zeros against 99.2 % with the learned tables, one clip more of 400.

# %% [markdown]
# So where does the model read the direction? Notebook 01 (section 9) answers with two experiments. Put the four tubes in reverse order, with the two frames
# inside each in the right one: this model answers as before. Swap the two frames inside each tube: it answers with the partner. **So it does use time, but inside its tubes**, where the
# first linear layer sees two frames at once. Attention over time steps gathers what the tubes have seen. On this data it does not need their order.
#
# ## What is scaled down, and what was left out
#
# - Accuracies above are of a model with a third of a million parameters on 8 frames of 32 × 32, drawn shapes. They say nothing about Kinetics. The
#   paper's 78.8 % (Swin-T, 12 views) starts from ImageNet weights and trains 30 epochs on about 240,000 clips. No accuracy of the paper is reproduced here.
# - The mini model starts with larger weights than the official ones (standard deviation 1/√fan-in, not 0.02; its bias tables keep 0.02). At 24 channels the official values make every block
#   nearly the identity. The recipe in `vt_course/training/recipes.py` says what else mattered.
# - Parameters, multiply-accumulates and the equality of outputs are at full scale and exact.
# - Dropout and drop path act in training only. Your network leaves them out, the package's has them.
# - Your network is literal: it rebuilds the mask in every block and writes all logits to memory. The package's version keeps masks
#   and uses the fused attention of PyTorch.
#
# ## Summary
#
# - A token is a tube of 2 × 4 × 4 pixels, 96 numbers. Time is halved once, by the tubes. Between stages H and W halve and C doubles,
#   three times.
# - Windows of P × M × M make the cost linear in the number of tokens. Shifting them lets them talk. A shift of half a window lets the most pairs of tokens from two neighbouring windows meet.
# - 27 shifted windows = roll + mask + 8 windows + roll back, on the same weights, with any bias table and with padding.
# - Along an axis that one window covers, the window shrinks to the map and nothing shifts.
# - The bias table has a row for each offset, (2P−1)(2M−1)(2M−1). The official corner of the index is right if only time shrank, or if one time step is left and the width is whole.
# - Inflation: divide the patch weights by the number of frames, repeat the bias tables without dividing. On a still clip the video model
#   *is* the image model, if nothing is padded in time and no map is smaller than the image window.
#
# ## Questionnaire
#
# 1. A map holds gT · gH · gW regular windows. Why are there (gT+1)(gH+1)(gW+1) shifted ones, and why does the trick need only gT · gH · gW?
# 2. In which stages of a 224-pixel, 16-frame clip does anything shift, and along which axes?
# 3. What would a mask of −5 do? When would −∞ hurt?
# 4. The query is 3 time steps later than the key, at the same place: which row of an (8, 7, 7) table do they use?
# 5. You go from 32 frames to 64. What happens to tokens, parameters, and multiply-accumulates?
# 6. Your model reaches 50 % on the motion set. What has it learned, and what not?
# 7. **Explain** to a fellow student, in three sentences, why the mask must be made for the padded map and not for the map itself.

# %% [markdown] tags=["answer"]
# <details><summary>Answers</summary>
#
# 1. The shift cuts each axis once more (section 4). The roll joins first and last pieces in pairs (section 5).
# 2. With 16 frames the map has 8 time steps, one window: no shift in time anywhere. In space: stages 1 to 3, not stage 4 (section 7).
# 3. −5 leaves e⁻⁵ ≈ 0.7 % of a weight: information leaks across the border. −∞ hurts where a row is forbidden entirely (section 5).
# 4. Digits 3+7, 0+6, 0+6 in base (·, 13, 13): 10 · 169 + 6 · 13 + 6 = 1774 (section 6).
# 5. Tokens and multiply-accumulates double, parameters stay (section 11).
# 6. It may have learned to tell the four pairs apart, perfectly even; not the direction in any of them (section 12).
# 7. The windows are cut from the padded map, so the mask needs one matrix for each of *its* windows. The roll brings the beginning of an axis behind the end of the *padding*. A mask of the smaller map has borders at other places, and would part tokens that belong together (sections 6 and 9).
# </details>

# %% [markdown]
# **Next:** [05 · MViT](05_mvit.ipynb), where attention stays global, and keys and values are pooled.
