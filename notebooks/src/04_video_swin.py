# %% [markdown]
# # 04 · Video Swin: attention in windows of space and time
#
# *Liu et al., "Video Swin Transformer", [arXiv 2106.13230](https://arxiv.org/abs/2106.13230).*
#
# By the end of this notebook you own a complete Video Swin network that is made only of cells you ran here.
# It accepts the weights of the finished model in `vt_course`, and gives the same numbers up to rounding. On the way you meet the
# central trick of the paper, and see why it is exact up to rounding: rolling the video, cutting it into **8** regular windows and masking does the
# same as attending inside **27** shifted ones.
#
# | | |
# |---|---|
# | **Needs** | PyTorch; softmax attention with queries, keys and values. Notebook 03 helps, but is not required |
# | **Data** | the embedded clips: `vt-course data synthetic`, once (`make course` and `make lab` do it) |
# | **Time** | 2 to 3 hours with the exercises, an hour more without notebook 03; to run it: 1 minute (`smoke`, `lecture`), 10 (`full`) on two cores |
# | **Hardware** | a laptop CPU and 3 GB of memory (5 GB for `full`) |
#
# **You will be able to**
#
# 1. follow a clip through the network with the shape at every step, and say which axis is never merged;
# 2. draw the 27 shifted windows of an 8 × 8 × 8 map, and derive the mask that makes 8 windows do their work;
# 3. compute the relative position index by hand, and say when the official code uses the wrong entries;
# 4. turn image weights into video weights, and say what stays the same and what does not;
# 5. predict parameters and multiply-accumulates of every published variant to the last digit, from formulas;
# 6. say how much a trained model uses time, against ceilings that are exact.

# %% tags=["parameters"]
PROFILE = "smoke"   # smoke: 4 training steps; lecture: 60; full: to the end

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
# everywhere, and prints the bound it checked (times |x| for numbers x above 1); `differ` is the opposite, its control; `within` checks that a number lies in an interval.

# %% [markdown] tags=["deep-dive"]
# ## 1 · The whole network in one picture
#
# Video Swin is the image model Swin with one more axis. A clip enters as T × H × W pixels. It is
# cut into small [tubes](glossary.md#tube) of pixels, one token each; then four [stages](glossary.md#stage) of attention blocks follow. Between two stages,
# 2 × 2 neighbouring tokens are merged into one, so the map shrinks while the channels double.
#
# **Predict, then run.** The clip below has 32 frames of 224 × 224. The tubes are 2 × 4 × 4 pixels. How many tokens
# enter stage 1, and how many time steps are left in stage 4?

# %%
def stage_shapes(T, H, W, dim=96, stages=4, tube=(2, 4, 4)):
    """The map at each stage: time halves once, at the entrance, and never again."""
    shape = [math.ceil(n / p) for n, p in zip((T, H, W), tube)]
    for i in range(stages):
        yield dict(name=f"stage {i + 1}", shape=tuple(shape), channels=dim * 2**i)
        shape[1:] = [math.ceil(n / 2) for n in shape[1:]]


rows = list(stage_shapes(32, 224, 224))
report(**{r["name"]: (*r["shape"], r["channels"]) for r in rows})

# %% tags=["figure"] alt="Four boxes for the tokens of the stages of Video Swin-T: height and width are halved from stage to stage, the 16 time steps stay, and the number of tokens falls from 50,176 to 784."
show.token_flow(rows, title="Video Swin-T, 32 frames of 224 × 224")

# %% [markdown]
# 16 · 56 · 56 = 50,176 tokens enter, 16 time steps leave. After the tubes, time is never shortened again. That is a choice (MViT and
# UniFormer, notebooks 05 and 07, make it too), and its price is paid in tokens.

# %% [markdown] tags=["deep-dive"]
# ## 2 · Tokens: 2 × 4 × 4 pixels are 96 numbers
#
# A tube of 2 frames, 4 rows and 4 columns in 3 colours holds 2 · 4 · 4 · 3 = 96 numbers (the paper, section 3.1,
# counts them so). One linear layer maps the 96 numbers to C channels. In Swin-T C is 96 as well, by coincidence.

# %% tags=["definition"]
def cut_tubes(x):
    """(B, 3, T, H, W) -> (B, T/2, H/4, W/4, 96): each tube's numbers in a row."""
    B, C, T, H, W = x.shape
    x = x.reshape(B, C, T // 2, 2, H // 4, 4, W // 4, 4)  # (B, C, T', 2, H', 4, W', 4)
    x = x.permute(0, 2, 4, 6, 1, 3, 5, 7)  # (B, T', H', W', C, 2, 4, 4)
    return x.reshape(B, T // 2, H // 4, W // 4, -1)           # (B, T', H', W', 96)


clip = torch.randn(2, 3, 8, 32, 48)
tubes = cut_tubes(clip)
report(clip=clip.shape, tubes=tubes.shape)

# %% [markdown]
# The same cut in one line of einops, and then the fact that makes it fast: *cut, then a linear layer* is a
# convolution whose stride equals its kernel. The weights are the same numbers in another shape.

# %% tags=["fast"]
same = rearrange(clip, "b c (T t) (H h) (W w) -> b T H W (c t h w)", t=2, h=4, w=4)
agree("einops = reshape and permute", same, tubes)

# %% tags=["fast"]
conv = nn.Conv3d(3, 24, kernel_size=(2, 4, 4), stride=(2, 4, 4))
linear = F.linear(tubes, conv.weight.reshape(24, 96), conv.bias)  # (B, T', H', W', 24)
agree("convolution = cut + linear", conv(clip).movedim(1, -1), linear)

# %% [markdown]
# The first module of your network. Clips whose size is not a multiple of the tube are padded with zeros at the
# end, as in the official code. Channels go last, and stay last until the head.

# %%
class PatchEmbed3D(nn.Module):
    def __init__(self, dim, tube=(2, 4, 4)):
        super().__init__()
        self.tube = tube
        self.proj = nn.Conv3d(3, dim, tube, tube)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x):                                              # (B, 3, T, H, W)
        t, h, w = (-n % p for n, p in zip(x.shape[2:], self.tube))     # what is missing
        x = self.proj(F.pad(x, (0, w, 0, h, 0, t)))
        return self.norm(x.movedim(1, -1))  # (B, T', H', W', C)


report(odd_clip=PatchEmbed3D(24)(torch.randn(1, 3, 7, 50, 45)).shape)

# %% [markdown] tags=["core"]
# ## 3 · Windows
#
# Attention among all 50,176 tokens would compare 2.5 billion pairs in every head. Swin compares only tokens that share a
# **window** of P × M × M tokens (P in time; the paper uses 8 × 7 × 7). The windows do not overlap, so the cost grows
# with the number of windows, which is linear in the number of tokens.
#
# Our running example is small enough to draw: a map of 8 × 8 × 8 tokens and windows of 4 × 4 × 4. **Predict:** how many
# windows are there, and how many tokens does each hold?

# %%
def window_numbers(size, window):
    """For each token of a (T, H, W) map, the number of its window."""
    axes = [torch.arange(n) // m for n, m in zip(size, window)]
    t, h, w = torch.meshgrid(*axes, indexing="ij")
    return (t * (size[1] // window[1]) + h) * (size[2] // window[2]) + w


size, window = (8, 8, 8), (4, 4, 4)
regular = window_numbers(size, window)
numbers, counts = regular.unique(return_counts=True)
report(windows=len(numbers), tokens_in_each=counts.unique().tolist())

# %% tags=["figure"] alt="A cube of 8 × 8 × 8 tokens, drawn apart into 8 windows of 4 × 4 × 4; arrows show height, width and time."
show.windows_3d(regular, title="8 × 8 × 8 tokens in 8 windows of 4 × 4 × 4")

# %% [markdown]
# ### Exercise 4.1 · Window partition
#
# Difficulty 2/5 · importance 5/5 · 10 minutes
#
# Attention works on `(batch, tokens, channels)`. Cut a map into windows and put the windows on the batch axis:
#
# `(B, T, H, W, C) → (B·nW, P·M·M, C)`, with nW = T/P · H/M · W/M.
#
# `window` is a tuple (P, Mh, Mw): the text writes M for both sides, but they may differ, and the check tries it. Windows come in the order
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
    x = x.permute(0, 1, 3, 5, 2, 4, 6, 7)             # (B, gT, gH, gW, P, Mh, Mw, C)
    return x.reshape(-1, P * Mh * Mw, C)              # (B·gT·gH·gW, P·Mh·Mw, C)


window_partition = check("4.1", window_partition, solution=True)

# %% [markdown]
# The same in einops, which names what the permutation does:

# %% tags=["fast"]
x = torch.randn(2, 8, 8, 8, 16)
same = rearrange(x, "b (T p) (H h) (W w) c -> (b T H W) (p h w) c", p=4, h=4, w=4)
agree("einops = permute", same, window_partition(x, window))

# %% [markdown]
# ### Exercise 4.2 · And back
#
# Difficulty 2/5 · importance 4/5 · 10 minutes
#
# `(B·nW, P·M·M, C) → (B, T, H, W, C)`. `size` is (T, H, W). The batch size is not given: it follows from the number of windows.

# %% tags=["exercise:4.2"]
def window_reverse(windows, window, size):
    """(B·nW, P·M·M, C) -> (B, T, H, W, C), the inverse of window_partition."""
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
    """(B·nW, P·M·M, C) -> (B, T, H, W, C), the inverse of window_partition."""
    T, H, W = size
    P, Mh, Mw = window
    x = windows.reshape(-1, T // P, H // Mh, W // Mw, P, Mh, Mw, windows.shape[-1])
    x = x.permute(0, 1, 4, 2, 5, 3, 6, 7)  # (B, gT, P, gH, Mh, gW, Mw, C)
    return x.reshape(-1, T, H, W, windows.shape[-1])          # (B, T, H, W, C)


window_reverse = check("4.2", window_reverse, solution=True)

# %%
there_and_back = window_reverse(window_partition(x, window), window, size)
agree("reverse undoes partition", there_and_back, x)
numbers = torch.arange(8)[:, None, None].expand(8, 64, 1)     # window i: 64 times i
yours = window_reverse(numbers, window, size)[0, ..., 0]      # (T, H, W)
agree("your windows are those of the picture", yours, regular)

# %% [markdown] tags=["core"]
# ## 4 · Shifted windows, by definition
#
# Within a stage, windows that never move never talk to each other (between stages, merging connects them in height and width, never in time). So every second block **shifts** them by half their size, rounded down: windows of
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
_, tokens = shifted.unique(return_counts=True)                # tokens in each window
for n, k in zip(*tokens.unique(return_counts=True)):
    report(**{f"windows of {n:2} tokens": int(k)})

# %% tags=["figure"] alt="8 × 8 × 8 tokens twice, drawn apart: on the left 8 equal windows, on the right the 27 windows of the shift, namely 8 corners of 8 tokens, 12 edges of 16, 6 faces of 32, and one centre of 64."
show.windows_3d([regular, shifted],
                title=["regular: 8 windows", "shifted by (2, 2, 2): 27 windows"])

# %% [markdown]
# 3 · 3 · 3 = **27** windows: 8 corners of 2 × 2 × 2, 12 edges, 6 faces, and one whole window in the centre. The paper's figure of the
# shifted windows shows this map. From here on, a **group** is the set of tokens of one shifted window: 27 groups.
#
# Now attention in them. First the attention of one group, written out. The relative position
# bias of section 6 enters as a number per head and pair of tokens; until then it is only an argument.

# %% tags=["definition"]
def attend(tokens, attn, bias):
    """softmax(q·kᵀ/√d + bias)·v; tokens (B, N, C), bias broadcasts to (B, h, N, N)."""
    B, N, C = tokens.shape
    h = attn.num_heads
    qkv = attn.qkv(tokens).view(B, N, 3, h, C // h)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)                      # 3 × (B, h, N, d)
    logits = q @ k.transpose(-1, -2) / math.sqrt(C // h)      # (B, h, N, N)
    out = (logits + bias).softmax(-1) @ v                     # (B, h, N, d)
    return attn.proj(out.transpose(1, 2).reshape(B, N, C))    # (B, N, C)


class Weights(nn.Module):
    """The weights of one attention layer, without an opinion about windows."""

    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)


attn = Weights(16, 2)

# %% tags=["definition"]
def attend_in_groups(x, attn, groups):
    """The definition: take each shifted window out, attend inside it, put it back."""
    out = torch.empty_like(x)
    for t, h, w in groups:
        piece = x[:, t, h, w]  # (B, p, m, m', C), any size
        y = attend(piece.flatten(1, 3), attn, bias=0.0)       # (B, p·m·m', C)
        out[:, t, h, w] = y.view_as(piece)
    return out


by_definition = attend_in_groups(x, attn, groups)
report(map=x.shape, loop_passes=len(groups))

# %% [markdown]
# Correct, and slow: 27 passes with 8 to 64 tokens, none of which can be batched with another size. On a real map of
# 16 × 56 × 56 tokens there are 3 · 9 · 9 = 243 of them.

# %% [markdown] tags=["core"]
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
# Here is one time step of the group numbers before and after the roll (heavy lines separate groups). After the roll, the regular windows end after row 4 and column 4.
# The top left one holds one group. The windows on the right and at the bottom hold two or four (in the last time windows twice as many).

# %% tags=["figure"] alt="The numbers of the shifted windows on one time step of 8 × 8 places, before and after the roll: time step 3 is now step 1, window 13 has moved to the top left, and pieces from opposite borders meet in the other quarters."
rolled = cyclic_shift(shifted[None, ..., None], shift)[0, ..., 0]      # (T, H, W)
show.regions_2d([shifted[3], rolled[1]],
                ["before: time step 3", "after the roll: now step 1"])

# %% [markdown]
# Tokens of different groups must not see each other: they became neighbours only by the roll.
# So a number is added to each forbidden logit before the softmax: **−100**, the value in the official code of Swin and of Video Swin.
#
# ### Exercise 4.4 · The mask
#
# Difficulty 4/5 · importance 5/5 · 25 minutes
#
# Return a float tensor `(nW, N, N)`: for each of the nW = T/P · H/M · W/M windows of the *rolled* map, in the order of exercise 4.1, 0 where query and key belong to the same group, −100
# where they do not. `size` is the size of the whole map; `shifted_windows` of section 4 gives the groups. An axis with shift 0 forbids no pair.

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
# With shift 0 there are only whole windows: each is a group of its own, and no window holds two groups.
# </details>

# %% tags=["solution:4.4"]
def shift_mask(size, window, shift):
    """(nW, N, N): 0 for pairs of one group, -100 for all others."""
    numbers = torch.zeros(1, *size, 1)
    for number, (t, h, w) in enumerate(shifted_windows(size, window, shift)):
        numbers[:, t, h, w] = number
    numbers = window_partition(cyclic_shift(numbers, shift), window)[..., 0]  # (nW, N)
    foreign = numbers[:, :, None] != numbers[:, None, :]  # (nW, N, N)
    return torch.where(foreign, -100.0, 0.0)


shift_mask = check("4.4", shift_mask, solution=True)

# %% tags=["figure"] alt="Eight masks of 64 queries by 64 keys, one for each window, white for allowed and dark for forbidden: 0 % is forbidden in the first window, 50 or 75 % in the next six, 87.5 % in the last."
show.shift_mask(shift_mask(size, window, shift), window, grid=(2, 2, 2),
                title="Who may see whom, window by window")

# %% [markdown]
# Window (0, 0, 0) is the whole one in the centre: everything allowed. Window (1, 1, 1) was put together from all eight
# corners: each token sees 8 of 64.
#
# In a live JupyterLab the next cell has sliders (elsewhere it stands still). **Try:** which shift gives the most windows? Which leaves an axis
# whole? When is every mask white? The mask is drawn by your own function. (Most windows: any shift that is zero on no axis. An axis with shift 0 stays whole. All masks are white only for (0, 0, 0).)

# %% tags=["figure"] alt="Above, 8 × 8 × 8 tokens in 8 regular windows and in the 27 windows of a shift by (2, 2, 2); below, the masks of the 8 windows after the roll, which forbid between 0 and 87.5 % of the pairs."
show.explore_windows(size, window, shift, mask=shift_mask)

# %% [markdown]
# Now the claim. Same input, same weights: 27 passes by definition against one batched pass over 8 windows.

# %% tags=["fast"]
def attend_by_trick(x, attn, window, shift):
    """Roll, cut into regular windows, attend with the mask, put together, roll back."""
    B, *size, C = x.shape
    windows = window_partition(cyclic_shift(x, shift), window)         # (B·nW, N, C)
    mask = shift_mask(size, window, shift)                             # (nW, N, N)
    mask = mask[:, None].repeat(B, 1, 1, 1)                            # (B·nW, 1, N, N)
    windows = attend(windows, attn, bias=mask)
    return cyclic_shift(window_reverse(windows, window, size), [-s for s in shift])


by_trick = attend_by_trick(x, attn, window, shift)
agree("8 windows with roll and mask = 27 shifted windows", by_trick, by_definition)

# %% [markdown]
# A check that cannot fail proves nothing. Take the mask away, and the equality must break; leave out the roll back, likewise.

# %%
zero = torch.zeros(8, 1, 64, 64).repeat(2, 1, 1, 1)
unmasked = attend(window_partition(cyclic_shift(x, shift), window), attn, zero)
unmasked = cyclic_shift(window_reverse(unmasked, window, size), [-s for s in shift])
differ("without the mask", unmasked, by_definition)
differ("without rolling back", cyclic_shift(by_trick, shift), by_definition)

# %% [markdown]
# ### Why −100 and not −∞?
#
# As long as logits differ by a few tens at most, adding −100 is enough: it multiplies a weight by e⁻¹⁰⁰ ≈ 4·10⁻⁴⁴, below the smallest normal
# float32 number, so nothing visible gets through. −∞ would do the same here, because each token may at least see itself. We avoid it all the same:
# a row that is forbidden entirely would become 0/0. (What the mask does is asked in issues 38, 52 and 125 of the
# official Swin repository.)

# %%
logits = torch.tensor([3.0, 1.0, 2.0])
forbid = torch.tensor([0.0, -100.0, 0.0])
weight = (logits + forbid).softmax(0)
report(**{"forbidden weight < 1e-38": bool(weight[1] < 1e-38),
          "sum of weights": f"{weight.sum():.6f}"})

# %% [markdown]
# **What about padding?** When a map is not a multiple of the window, zeros are added at its end, and the official code does
# *not* mask them: real tokens attend to padding. Your network below does the same, because the released weights
# were trained so.

# %% [markdown] tags=["core"]
# ## 6 · Where is the other token? The relative position bias
#
# Attention by itself does not know which token is where. Swin adds to each logit a learned number that depends
# only on the **offset** between query and key, (Δt, Δh, Δw), and on the head. Along an axis of length M, offsets run
# from −(M−1) to M−1, that is 2M−1 values. So the table has (2P−1)(2M−1)(2M−1) rows.
#
# By hand, for a window of 2 × 2 × 2: 8 tokens, 3 · 3 · 3 = 27 rows. Move each offset to start at 0, then read the three as
# digits of one number, width fastest. Token 0 is (0, 0, 0) and token 7 is (1, 1, 1). The pair (query 0, key 7) has offset (−1, −1, −1)
# → digits 0, 0, 0 → row 0. The pair (7, 0) has (1, 1, 1) → digits 2, 2, 2 → row 2·9 + 2·3 + 2 = 26. A token and itself:
# digits 1, 1, 1 → row 13.
#
# ### Exercise 4.5 · Relative position index
#
# Difficulty 3/5 · importance 4/5 · 20 minutes
#
# `(P, Mh, Mw) → (N, N)` integers with N = P·Mh·Mw: entry (i, j) is the row for query i and key j. The offset is query minus key.

# %% tags=["exercise:4.5"]
def relative_position_index(window):
    """(N, N) rows of the bias table, for each pair (query, key)."""
    raise NotImplementedError("exercise 4.5")

# %% tags=["check:4.5"]
relative_position_index = check("4.5", relative_position_index)

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
    axes = torch.meshgrid(*[torch.arange(n) for n in window], indexing="ij")
    coords = torch.stack(axes).flatten(1)                     # (3, N)
    dt, dh, dw = coords[:, :, None] - coords[:, None, :]      # 3 × (N, N), query - key
    return ((dt + P - 1) * (2 * Mh - 1) + dh + Mh - 1) * (2 * Mw - 1) + dw + Mw - 1


relative_position_index = check("4.5", relative_position_index, solution=True)

# %% tags=["figure"] alt="An 8 × 8 matrix of queries by keys of a 2 × 2 × 2 window with the row of the bias table for each pair: 13 on the diagonal, 26 at the bottom left, 0 at the top right."
show.index_matrix(relative_position_index((2, 2, 2)), window=(2, 2, 2),
                  title="Rows of the bias table for a window of 2 × 2 × 2")

# %%
def table_rows(window):
    return math.prod(2 * n - 1 for n in window)


for w in [(8, 7, 7), (16, 7, 7), (8, 12, 12)]:
    index = relative_position_index(w)
    assert index.max() + 1 == len(index.unique()) == table_rows(w)
    report(**{f"window {w}": f"{table_rows(w):,} rows for {math.prod(w)**2:,} pairs"})

# %% [markdown] tags=["deep-dive"]
# ## 7 · When the map is smaller than the window
#
# In stage 4 of a 224-pixel clip the map is 7 × 7, exactly one window: there is nothing to shift to. The official rule,
# applied to each axis on its own: **where the map is no larger than the window, the window shrinks to the map and the shift becomes 0.**

# %%
def clamp(size, window, shift):
    shift = tuple(0 if n <= m else s for n, m, s in zip(size, window, shift))
    return tuple(min(n, m) for n, m in zip(size, window)), shift


for r in stage_shapes(32, 224, 224):
    w, s = clamp(r["shape"], (8, 7, 7), (4, 3, 3))
    report(**{r["name"]: f"map {r['shape']}, window {w}, shift {s}"})
masked = (shift_mask((16, 7, 7), (8, 7, 7), (4, 0, 0)) < 0).flatten(1).any(1)   # (nW,)
report(windows_of_stage_4=len(masked), of_these_masked=int(masked.sum()))

# %% [markdown]
# Stage 4 shifts in time only, (4, 0, 0), and the second of its two windows is masked. With 16 frames or fewer the map has at most 8 time
# steps, one window: **nothing ever shifts in time**.
#
# ### The trap in the official slice
#
# A shrunken window has fewer tokens, N' < N. The official code does not build a new index for it; it takes the corner `index[:N', :N']`
# of the full one (torchvision and mmaction2 do the same). Is that the right geometry? **Predict** for a window (8, 7, 7) that shrinks to
# (4, 7, 7), and for one that shrinks to (8, 4, 4). Tokens are numbered time first, width fastest.

# %%
def same_geometry(window, shrunken):
    """Does the corner hold the row of the true offset, for every pair?"""
    block = torch.zeros(window, dtype=torch.bool)
    block[tuple(slice(n) for n in shrunken)] = True           # where the map lies
    block, n = block.flatten(), math.prod(shrunken)
    rows = relative_position_index(window)                    # (N, N)
    return torch.equal(rows[:n, :n], rows[block][:, block])


for shrunken in [(4, 7, 7), (1, 7, 7), (8, 4, 4), (8, 7, 4),
                 (4, 4, 7), (1, 4, 7), (1, 4, 4)]:
    report(**{f"(8, 7, 7) → {shrunken}": same_geometry((8, 7, 7), shrunken)})

# %% [markdown]
# Time may always shrink. The first 4 · 49 tokens of an (8, 7, 7) window *are* its first 4 frames, so their offsets are right. The first
# 8 · 16 tokens are not 8 blocks of 4 × 4; they are 2 frames and a bit, so the corner mixes up offsets. Height may shrink only if one time step is left: the first 4 · 7 tokens are the first 4 rows of the first frame. Width may shrink only if one row is left.
# Released weights are therefore reliable where every stage keeps at least 7 × 7 tokens (224 pixels and up; with M = 12, 384 and up). We keep the behaviour, since
# equality with the official model is the point, and stay aware of it: our own mini model below has windows of 2 × 4 × 4 and ends with maps of 2 × 2.

# %% [markdown] tags=["deep-dive"]
# ## 8 · The network
#
# Everything is on the table. Attention with its bias table and optional mask; the names are those of the official
# checkpoints.

# %%
class WindowAttention3D(nn.Module):
    def __init__(self, dim, window, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        table = torch.zeros(table_rows(window), num_heads)
        self.relative_position_bias_table = nn.Parameter(table)
        self.register_buffer("index", relative_position_index(window), persistent=False)

    def forward(self, x, mask):  # (B·nW, N, C), (nW, N, N)
        BW, N, _ = x.shape
        bias = self.relative_position_bias_table[self.index[:N, :N]]   # (N, N, h)
        bias = bias.permute(2, 0, 1) + mask[:, None]                   # (nW, h, N, N)
        return attend(x, self, bias.repeat(BW // len(mask), 1, 1, 1))  # (B·nW, N, C)

# %% [markdown]
# A block: attention and an MLP, each behind a LayerNorm, each added to what came in. Padding comes after the
# norm, so the padded tokens are exact zeros.

# %%
class SwinBlock3D(nn.Module):
    def __init__(self, dim, num_heads, window, shifted):
        super().__init__()
        self.window, self.shift = window, tuple(m // 2 * shifted for m in window)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = WindowAttention3D(dim, window, num_heads)
        self.mlp = nn.Sequential()      # runs what is assigned to it, in this order
        self.mlp.fc1, self.mlp.act = nn.Linear(dim, 4 * dim), nn.GELU()
        self.mlp.fc2 = nn.Linear(4 * dim, dim)

    def attend_in_windows(self, x):                                    # (B, T, H, W, C)
        T, H, W = size = x.shape[1:4]
        window, shift = clamp(size, self.window, self.shift)
        t, h, w = (-n % m for n, m in zip(size, window))
        x = F.pad(x, (0, 0, 0, w, 0, h, 0, t))
        padded = x.shape[1:4]
        windows = window_partition(cyclic_shift(x, shift), window)     # (B·nW, N, C)
        windows = self.attn(windows, shift_mask(padded, window, shift))
        x = window_reverse(windows, window, padded)
        return cyclic_shift(x, [-s for s in shift])[:, :T, :H, :W]     # (B, T, H, W, C)

    def forward(self, x):
        x = x + self.attend_in_windows(self.norm1(x))
        return x + self.mlp(self.norm2(x))

# %% [markdown]
# **Merging.** Between stages, 2 × 2 neighbours in space are laid side by side, 4C channels, normalised and projected to 2C. The order is
# part of the checkpoint: (0,0), (1,0), (0,1), (1,1); each pair is (row offset, column offset), so the row offset changes fastest. Time is left alone.

# %%
class PatchMerging(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x):                                              # (B, T, H, W, C)
        x = F.pad(x, (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2))
        a, b = x[:, :, 0::2], x[:, :, 1::2]  # even and odd rows
        x = [a[:, :, :, 0::2], b[:, :, :, 0::2], a[:, :, :, 1::2], b[:, :, :, 1::2]]
        return self.reduction(self.norm(torch.cat(x, -1)))  # (B, T, H/2, W/2, 2C)


class Stage(nn.Module):
    def __init__(self, dim, depth, num_heads, window, last):
        super().__init__()
        self.blocks = nn.Sequential(
            *[SwinBlock3D(dim, num_heads, window, j % 2) for j in range(depth)])
        self.downsample = None if last else PatchMerging(dim)

    def forward(self, x):
        x = self.blocks(x)
        return self.downsample(x) if self.downsample else x

# %%
class VideoSwin(nn.Module):
    def __init__(self, embed_dim, depths, num_heads, window, num_classes):
        super().__init__()
        self.patch_embed = PatchEmbed3D(embed_dim)
        last = len(depths) - 1
        self.layers = nn.Sequential(*[
            Stage(embed_dim * 2**i, depths[i], num_heads[i], window, i == last)
            for i in range(len(depths))])
        self.norm = nn.LayerNorm(embed_dim * 2**last)
        self.head = nn.Linear(embed_dim * 2**last, num_classes)

    def forward(self, x):                                              # (B, 3, T, H, W)
        x = self.norm(self.layers(self.patch_embed(x)))  # (B, T', H', W', C)
        return self.head(x.mean((1, 2, 3)))                            # (B, K)

# %% [markdown]
# ### Your network is the model
#
# The package ships a small Video Swin, trained on clips of moving shapes (section 12). `ZOO` lists every variant with its settings and stated numbers. Your class must accept its weights
# **strictly**, no name missing and none left over, and agree on any size of clip, also odd ones.

# %%
from safetensors.torch import load_file

from vt_course.models import ZOO, create, mini_weights

def only(config):
    """The settings that shape the network, without dropout and initialisation."""
    shape = ("embed_dim", "depths", "num_heads", "window", "num_classes")
    return {k: config[k] for k in shape}


mini = only(ZOO["video_swin_mini"].config)
weights = load_file(mini_weights("video_swin_mini"))
mine = VideoSwin(**mini).eval()
report(**mini, loading=str(mine.load_state_dict(weights, strict=True)))

# %%
package = create("video_swin_mini").eval()
_ = package.load_state_dict(weights)
shapes = [(1, 3, 16, 64, 64), (2, 3, 7, 50, 45), (1, 3, 20, 72, 40), (1, 3, 1, 33, 64)]
for shape in shapes:
    clip = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        agree(f"yours = package, {shape}", mine(clip), package(clip))

# %% [markdown]
# ### A third witness
#
# Both could share a mistake. So ask somebody else's code: torchvision's `swin3d_t`, with random weights copied into *your* class.
# (The repository's tests also compare with recorded outputs of the authors' own code, and in float64.)

# %% tags=["oracle"]
from torchvision.models.video import swin3d_t

from vt_course.models.official import from_official

_ = torch.manual_seed(0)
theirs = swin3d_t(num_classes=400).eval()
tiny = VideoSwin(**only(ZOO["video_swin_tiny"].config)).eval()
renamed = from_official(create("video_swin_tiny"), theirs.state_dict())
_ = tiny.load_state_dict(renamed, strict=True)
clip = torch.randn(1, 3, 18, 64, 96)
with torch.no_grad():
    agree("your Swin-T = torchvision's swin3d_t", tiny(clip), theirs(clip))

# %% [markdown] tags=["core"]
# ## 9 · From images to video: inflation
#
# Video Swin starts from weights that were trained on images. Three things do not fit: the patch embedding (48 = 4 · 4 · 3 numbers for each output
# channel become 96), the bias tables, and the head, which is dropped. The rest is copied.
#
# For the patch embedding the paper duplicates the weights over the two frames and halves them, so that mean and
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
    """Image weights (D, C, ph, pw) -> tube weights (D, C, pt, ph, pw)."""
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
    """Image weights (D, C, ph, pw) -> tube weights (D, C, pt, ph, pw)."""
    return weight[:, :, None].repeat(1, 1, pt, 1, 1) / pt  # (D, C, pt, ph, pw)


inflate = check("4.6", inflate, solution=True)

# %% [markdown]
# Do mean and variance really stay? On a still clip the tokens are *equal*, so yes, exactly. On a moving clip each token is the mean of two
# image tokens; the mean stays. The variance can only shrink: against the mean variance of the two, it loses a quarter of the variance of their difference. We measure it on frames of the
# course's own data set of drawn, moving shapes (section 12).

# %%
from vt_course.data import open_spec
from vt_course.data.clips import VideoFolder
from vt_course.training.recipes import RECIPES

motion = open_spec("synthetic:motion")
recipe = RECIPES["video_swin_mini"]
view = dict(frames=recipe.frames, stride=recipe.stride, size=recipe.size)
val = VideoFolder(motion.val, classes=motion.classes, train=False, **view)
moving = torch.stack([val[i]["clip"] for i in range(16)])  # (16, 3, T, H, W)
still = moving[:, :, :1].expand_as(moving)
image = nn.Conv2d(3, 32, 4, 4)
tube_weight = inflate(image.weight.detach(), 2)               # (32, 3, 2, 4, 4)
report(numbers_a_channel=image.weight[0].numel(), inflated=tube_weight[0].numel())

# %%
@torch.no_grad()
def tokens_of(clip, weight):
    return F.conv3d(clip, weight, image.bias, stride=(2, 4, 4))  # (B, 32, T', H', W')


on_image = image(still[:, :, 0]).detach()                     # (B, 32, H', W')
on_still = tokens_of(still, tube_weight)                      # (B, 32, T', H', W')
agree("still clip: video tokens = image tokens", on_still[:, :, 0], on_image)
frames = moving.movedim(2, 1).flatten(0, 1)                            # (B·T, 3, H, W)
ratio = (tokens_of(moving, tube_weight).var() / image(frames).var()).item()
within("moving clips: variance against the image's", ratio, 0.75, 0.999)

# %% [markdown]
# And without halving? The product with the weights doubles. Whether that does damage depends on what follows: released Swin has a LayerNorm
# after the patch embedding, which divides any common factor out again. But the bias of the projection was not doubled: next to the doubled product it counts half as much, so the tokens
# after the norm are not the same. Without that norm, everything after would receive numbers twice as large as in pre-training.

# %%
norm = nn.LayerNorm(32, elementwise_affine=False)
bias = image.bias.detach().view(-1, 1, 1, 1)
not_halved = tokens_of(still, 2 * tube_weight)                # (B, 32, T', H', W')
agree("no halving: twice the product", not_halved - bias, 2 * (on_still - bias))
normed, wanted = norm(not_halved.movedim(1, -1)), norm(on_still.movedim(1, -1))
within("after the norm, standard deviation", normed.std().item(), 0.98, 1.02)
differ("after the norm, yet not the same tokens", normed, wanted)

# %% [markdown]
# **The bias tables** get a time axis: the image table, (2M−1)² rows, is repeated for each of the 2P−1 offsets in time. Nothing is divided
# here. Why not? A query now sees its keys once for every time step of its group: P copies, or fewer where the border cuts the group. On a still clip the copies have equal logits, so they
# share the weight of their original, and the sum over the copies is the image model's attention. So the *whole* network must agree
# with the image model on a still clip. That is a strong test; it needs all rules at once: tubes divided, tables repeated, the rest copied.

# %%
from vt_course.models.swin import SwinTransformer

_ = torch.manual_seed(0)
shared = dict(embed_dim=24, depths=(2, 2), num_heads=(2, 4))
image_model = SwinTransformer(32, window=4, num_classes=5, **shared).eval()
video_model = VideoSwin(window=(4, 4, 4), num_classes=5, **shared).eval()
picture = still[:2, :, 0]                                              # (2, 3, 32, 32)

# %%
state = image_model.state_dict()
state["patch_embed.proj.weight"] = inflate(state["patch_embed.proj.weight"], 2)
for name in [n for n in state if n.endswith("bias_table")]:
    state[name] = state[name].repeat(2 * 4 - 1, 1)  # ((2P-1)(2M-1)², h)
_ = video_model.load_state_dict(state, strict=True)
still_clip = picture[:, :, None].repeat(1, 1, 16, 1, 1)       # (2, 3, 16, 32, 32)
with torch.no_grad():
    agree("inflated model on a still clip = image model on the picture",
          video_model(still_clip), image_model(picture))

# %% [markdown]
# The head fits here because both toys have five classes; with real weights it is trained anew. The package's
# `official.inflate_swin` does the same for released files, resizes tables for other window sizes bicubically, and also knows the
# alternative the paper tried, *centre* initialisation (weights only in one time step).

# %% [markdown] tags=["deep-dive"]
# ## 10 · The published variants, and what they cost
#
# Four sizes, some of them with other windows for Something-Something and for 384 pixels. The "FLOPs" of the paper are
# multiply-accumulates (MACs) of [**one view**](glossary.md#view): one clip, one crop. Its accuracies average several views (3 on Something-Something, 12 or 50 elsewhere): multiply by that.
#
# All of it follows from the structure. For a map of L tokens with C channels in windows of PM² tokens, a block costs
#
# - 4LC² for the projections of q, k, v and the output, and 8LC² for the MLP,
# - 2·PM²·LC for the two products of attention: each token meets the PM² tokens of its window.
#
# Its parameters are 12C² weights, 13C biases and norm numbers (3C + C for q, k, v and output, 4C + C for the MLP, 2 · 2C for two norms), and the bias table, rows times heads. Merging from C/2
# channels has a norm of 2 · 2C numbers and a matrix of 2C × C.
#
# **Predict** for one block in stage 1 of Swin-T (L = 50,176, C = 96, PM² = 392): which costs more, projections and MLP or the products of attention? Below, the formulas are summed over all variants; the counters must agree to the last digit.

# %%
def predicted_macs(T, H, W, dim, depths, window, classes, everywhere=False):
    """From the formulas alone; sizes must be multiples of the windows."""
    total = 0
    for i, r in enumerate(stage_shapes(T, H, W, dim)):
        L, C = math.prod(r["shape"]), r["channels"]
        smaller, _ = clamp(r["shape"], window, window)      # no matter the shift
        partners = L if everywhere else math.prod(smaller)
        total += depths[i] * (12 * L * C**2 + 2 * partners * L * C)    # blocks
        total += L * 96 * C if i == 0 else L * 2 * C * C      # tubes, or merging
    return total + C * classes


def predicted_parameters(embed_dim, depths, num_heads, window, num_classes):
    total = 96 * embed_dim + 3 * embed_dim            # tubes: weights, bias, norm
    for i, (depth, h) in enumerate(zip(depths, num_heads)):
        C = embed_dim * 2**i
        total += depth * (12 * C**2 + 13 * C + table_rows(window) * h)
        total += 2 * C * C + 4 * C if i else 0                # merging: 4 · C/2 → C
    return total + 2 * C + C * num_classes + num_classes      # last norm, head

# %% tags=["claim:video-swin-cost"]
from vt_course.models.cost import count_macs, count_parameters

variants = {n: v for n, v in ZOO.items()
            if n.startswith("video_swin") and v.stated and "design" not in v.config}
for name, v in variants.items():
    c = v.config
    with torch.device("meta"):                                # shapes only, no memory
        model = create(name)
    macs = predicted_macs(*v.input[1:], c["embed_dim"], c["depths"], c["window"],
                          c["num_classes"])
    params = predicted_parameters(**only(c))
    assert macs == count_macs(model, (1, *v.input))
    assert params == count_parameters(model)
report(variants=len(variants), formula_equals_count_in_all=True)

# %% [markdown]
# The block of the prediction: 12LC² = 5.5 billion for projections and MLP, 2PM²LC = 3.8 billion for the products of attention.
#
# And against what was stated, by the authors' repository or, for Swin-L and the parameters of Swin-T, by others (`vt-course models --json` names each source):

# %%
print(f"{'':22}{'params M':>9}{'stated':>8}{'GMACs':>9}{'stated':>8}")
for name, v in variants.items():
    c, stated = v.config, {what: value for what, value, _ in v.stated}
    macs = predicted_macs(*v.input[1:], c["embed_dim"], c["depths"], c["window"],
                          c["num_classes"]) / 1e9
    params = predicted_parameters(**only(c)) / 1e6
    print(f"{name:22}{params:9.1f}{stated['params M']:8g}"
          f"{macs:9.1f}{stated['GMACs']:8g}")

# %% [markdown]
# Parameters agree to the digits that were stated, GMACs to within 0.2 %. (`_22k` is the same network, pre-trained on more images.) Two remarks. The paper's Swin-L row, 200.0 M and 2107 G, is the **384-pixel model with a (8, 12, 12) window**; at 224 pixels
# Swin-L has 197.0 M and 603 G. And the stated GMACs are a little higher than ours. If their counter adds two operations for each number that passes
# a LayerNorm, the difference is explained in every row:

# %%
def through_norms(T, H, W, dim, depths):
    """How many numbers pass a LayerNorm: two a block, merging, first, last."""
    maps = [math.prod(r["shape"]) * r["channels"] for r in stage_shapes(T, H, W, dim)]
    merging = sum(2 * m for m in maps[1:])                    # 4 · C/2 = 2C channels
    return sum(2 * d * m for d, m in zip(depths, maps)) + maps[0] + merging + maps[-1]


for name, v in variants.items():
    c = v.config
    dim, depths = c["embed_dim"], c["depths"]
    macs = predicted_macs(*v.input[1:], dim, depths, c["window"], c["num_classes"])
    with_norms = (macs + 2 * through_norms(*v.input[1:], dim, depths)) / 1e9
    stated = {what: value for what, value, _ in v.stated}["GMACs"]
    assert round(with_norms, 1 if stated < 600 else 0) == stated, (name, with_norms)
report(rows_explained=f"{len(variants)} of {len(variants)}")

# %% [markdown] tags=["deep-dive"]
# ## 11 · How the cost grows
#
# The price of attention per token is its number of partners: PM² in windows, however long the clip; all L tokens in **global** attention.
# Let the clip grow, first in time, then in space. The points of "window" are counted on the model, the thin line is the formula; "global" is the formula
# only. At 256 frames global attention would need about 100 times the multiplications, and the logits of one head in stage 1, if stored in float32, 644 GB. Both axes are logarithmic: slope 1 is
# linear, 2 quadratic. Global stays a little below 2, because projections and MLP are linear.

# %%
with torch.device("meta"):
    swin_t = create("video_swin_tiny")
arguments = (96, (2, 2, 6, 2), (8, 7, 7), 400)


def growth(sizes):
    window = [count_macs(swin_t, (1, 3, *s)) / 1e9 for s in sizes]
    formula = [predicted_macs(*s, *arguments) / 1e9 for s in sizes]
    everywhere = [predicted_macs(*s, *arguments, everywhere=True) / 1e9 for s in sizes]
    return window, formula, everywhere


frames = [16, 32, 64, 128, 256]
side = [224, 448, 672, 896]
in_time = growth([(t, 224, 224) for t in frames])
in_space = growth([(32, s, s) for s in side])
for i in (1, 4):
    ratio = in_time[2][i] / in_time[0][i]
    report(**{f"{frames[i]} frames, global over window": f"{ratio:.1f} times"})

# %% tags=["figure"] alt="GMACs of one view against the number of frames, on logarithmic axes: windows rise with slope 1, global attention rises with slope 1.96 and lies about a hundred times higher at 256 frames."
def cost_figure(x, growth, xlabel, title):
    window, formula, everywhere = growth
    series = {"window 8×7×7": dict(x=x, y=window, formula_y=formula),
              "global (formula)": dict(x=x, y=everywhere)}
    return show.cost_curves(series, xlabel, "GMACs of one view", title)


cost_figure(frames, in_time, "frames of 224 × 224",
            "Windows are linear in time, global attention is not")

# %% tags=["figure"] alt="GMACs of one view against the pixels of a frame, on logarithmic axes: windows rise with slope 1, global attention rises with slope 1.98 and lies about two hundred times higher at 802,816 pixels."
cost_figure([s**2 for s in side], in_space, "pixels a frame, 32 frames",
            "Windows are linear in the area of the frame")

# %% [markdown] tags=["core"]
# ## 12 · Does it use time?
#
# Kinetics cannot answer that: many of its classes are recognised from one frame. The embedded data set can. Its eight motions form four pairs that are
# each other's film run backwards, and one frame shows nothing about the motion. (In *grow* and *shrink* the outline stays: only the rings inside flow outward or inward, endlessly, and shapes
# that leave on one side come back on the other. So no size or place betrays the class.) So two ceilings hold for *every* model, by construction:
#
# - a model that sees **one frame** cannot beat 12.5 % on average;
# - a model that sees the frames **without their order** cannot beat 50 % on average: it may find the pair, never the direction.

# %% tags=["figure"] alt="Eight frames of three clips, in rows named left, grow and clockwise: a heart, a square and a triangle in the colours of the rainbow, each in front of a dark pattern, change a little from frame to frame."
wanted = ["left", "grow", "clockwise"]
label = [motion.classes.index(name) for name in wanted]
clips = [next(s["clip"] for s in val if s["label"] == k) for k in label]
show.film_strip(clips, n=8, rows=wanted)

# %% [markdown]
# Our model is Video Swin with 24 channels, three stages and windows of 2 × 4 × 4, on 8 frames of 32 × 32 pixels, 3 apart. In small it has all
# that this notebook shows:

# %%
shift = tuple(m // 2 for m in mini["window"])
pixels = ZOO["video_swin_mini"].input[1:]                 # (T, H, W)
for r in stage_shapes(*pixels, mini["embed_dim"], 3):
    w, s = clamp(r["shape"], mini["window"], shift)
    whole = math.prod(n // m for n, m in zip(r["shape"], w))
    pieces = len(shifted_windows(r["shape"], w, s))
    report(**{r["name"]: f"map {r['shape']}, window {w}, shift {s}, "
                         f"{whole} windows, shifted {pieces}"})

# %% [markdown]
# Stage 1 is the picture of section 4 with half of its time steps: 8 windows, 27 when they are shifted. In stages 2 and 3 a window is as large as a frame, so only time still shifts.
#
# Training is one call. In the `smoke` profile it makes 4 steps, to show that everything is connected, in `lecture` 60, and in `full` it goes to the end, 4,000 steps.
# The run folder then holds the metrics, the curves and the weights.

# %%
import tempfile

from vt_course.training.fit import fit

steps = {"smoke": 4, "lecture": 60, "full": None}[PROFILE]
run = tempfile.mkdtemp()
summary = fit(recipe, run, max_steps=steps, progress=False)
report(model=summary["model"], parameters=summary["parameters"])

# %% [markdown]
# The weights that the package ships come from the same call, run to the end once. `results/ship/video_swin_mini.json` in the repository records
# the hardware, seconds, seed and commit. We evaluate them (or, in the `full` profile, yours) on the 400 held-out clips. They are those of the last
# epoch, not the best one: picking by held-out accuracy would flatter it.

# %%
from vt_course.training.checkpoint import load_run
from vt_course.training.evaluate import evaluate, open_data

source = run if PROFILE == "full" else mini_weights("video_swin_mini")
trained, _ = load_run(source, "last")
_, held_out = open_data(recipe)
kept = dict(workers=0, progress=False)       # here, where decoded clips stay
results = {order: evaluate(trained, held_out, order=order, **kept)
           for order in ("normal", "shuffled", "single", "reversed")}
normal = results["normal"]
within("held-out top-1, frames in order", 100 * normal["top1"], 85, 100, " %")

# %% tags=["figure"] alt="Confusion matrix of eight motions on 400 held-out clips: nearly all counts stand on the diagonal; the few others stand in the rows of grow and shrink."
show.confusion(normal["confusion"], normal["classes"], "400 held-out clips")

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
    return i + 1 if i % 2 == 0 else i - 1  # left ↔ right, up ↔ down, ...


backwards = torch.tensor(results["reversed"]["confusion"])
flipped = sum(backwards[i, partner(i)] for i in range(8)).item() / 400
within("backwards, predicted as the partner", 100 * flipped, 80, 100, " %")
for order, ceiling in (("single", 0.125), ("shuffled", 0.5)):
    error = math.sqrt(ceiling * (1 - ceiling) / 400)
    most = round(100 * (ceiling + 4 * error), 1)
    within(names[order], 100 * results[order]["top1"], 0, most, " %")

# %% [markdown]
# Played backwards, "left" becomes "right": the model does not fail, it answers correctly for what it sees. The accuracies on shuffled frames and on
# one frame are compatible with the ceilings. (A ceiling bounds the *expected* accuracy; 400 clips may exceed it by chance. The checks allow
# four standard errors.) Models and recipes were chosen by these 400 clips. A third split, of 2,000 test clips, was left alone until the end. This is what it said, stored once:

# %%
import json

from vt_course import repo_root

file = repo_root() / "results/video_swin_mini_motion_orders.json"
stored = json.loads(file.read_text(encoding="utf-8"))["rows"]
shares = {names[r["order"]]:
          f"{100 * r['top1']:.1f} ± {100 * r['stderr']:.1f} %"
          for r in stored}
report(test_clips=stored[0]["n"], **shares)

# %% [markdown]
# Shuffled, it stays far below 50 %. A ceiling says what is possible, not what this model reaches: it never saw shuffled frames in training, and they look like no motion it knows.
#
# ### What the model wrote into its bias table
#
# The first head of the second block in stage 1, one panel for each offset in time. Look for two things: is it largest near the centre (a
# token attends to its neighbourhood)? And is the panel for Δt the mirror image of that for −Δt? If it were, this head could not tell before from after by position alone.

# %% tags=["figure"] alt="Three small maps of the learned bias of one head, for the time offsets −1, 0 and 1, by offsets of height and width: for −1 and 0 a red spot just right of the centre, for 0 also dark blue at the left, for 1 only pale noise."
table = weights["layers.0.blocks.1.attn.relative_position_bias_table"]
show.bias_tables(table, mini["window"], head=0, title="Learned bias, first head")

# %%
P, Mh, Mw = mini["window"]
same_place = table.view(2 * P - 1, 2 * Mh - 1, 2 * Mw - 1, -1)[:, Mh - 1, Mw - 1, 0]
report(**{f"bias at Δt = {dt:+d}, same place": f"{same_place[dt + P - 1]:+.2f}"
          for dt in (-1, 0, 1)})

# %% [markdown]
# The offset is query minus key, so Δt < 0 are *later* time steps. For Δt = −1 and 0 the largest entries stand one step right of the centre: there the key lies one token to the left of the query. For Δt = +1 nothing stands out. So the panels are no mirror images: this head *could* tell before from
# after. Now look at the colour bar. A bias of 0.17 multiplies a weight by e^0.17 ≈ 1.19, and much of a panel is noise of initialisation. **Predict:** what is left of the accuracy when all bias tables are zero?

# %%
without = {n: v * ("bias_table" not in n) for n, v in trained.state_dict().items()}
_ = trained.load_state_dict(without)
zeroed = evaluate(trained, held_out, **kept)["top1"]
change = 100 * abs(zeroed - normal["top1"])
within("change of top-1 without any bias table", change, 0, 4, " points")

# %% [markdown]
# Hardly anything changes. So where does it read the direction? Notebook 01 (section 9) shows the four tubes in reverse order, with the two frames
# inside each in the right one, and this model answers as before; swap the two frames inside each tube, and it answers with the partner. **So it does use time, but inside its tubes**, where the
# first linear layer sees two frames at once. Attention over time steps gathers what the tubes have seen; their order it does not need on this data.
#
# ## What is scaled down, and what was left out
#
# - Accuracies above are of a model with a third of a million parameters on 8 frames of 32 × 32, drawn shapes. They say nothing about Kinetics; the
#   paper's 78.8 % (Swin-T, 12 views) starts from ImageNet weights and trains 30 epochs on about 240,000 clips. No accuracy of the paper is reproduced here.
# - The mini model starts with larger weights than the official ones (standard deviation 1/√fan-in, not 0.02). At 24 channels the official values make every block
#   nearly the identity. The recipe in `vt_course/training/recipes.py` says what else mattered.
# - Parameters, multiply-accumulates and the equality of outputs are at full scale and exact.
# - Dropout and drop path act in training only; your network leaves them out, the package's has them.
# - Your network is literal: it rebuilds the mask in every block and writes all logits to memory. The package's version keeps masks
#   and uses the fused attention of PyTorch.
#
# ## Summary
#
# - A token is a tube of 2 × 4 × 4 pixels, 96 numbers. Time is halved once, by the tubes; between stages H and W halve and C doubles,
#   three times.
# - Windows of P × M × M make the cost linear in the number of tokens; shifting them by half lets them talk.
# - 27 shifted windows = roll + mask + 8 windows + roll back, on the same weights.
# - The bias table has a row for each offset, (2P−1)(2M−1)(2M−1); the official corner of the index is right only if just time shrank.
# - Inflation: divide the patch weights by the number of frames, repeat the bias tables without dividing; on a still clip the video model
#   *is* the image model.
#
# ## Questionnaire
#
# 1. A map holds gT · gH · gW regular windows. Why are there (gT+1)(gH+1)(gW+1) shifted ones, and why does the trick need only gT · gH · gW?
# 2. In which stages of a 224-pixel, 16-frame clip does anything shift, and along which axes?
# 3. What would a mask of −5 do? When would −∞ hurt?
# 4. The query is 3 time steps later than the key, at the same place: which row of an (8, 7, 7) table do they use?
# 5. You go from 32 frames to 64. What happens to tokens, parameters, and multiply-accumulates?
# 6. Your model reaches 50 % on the motion set. What has it learned, and what not?

# %% [markdown] tags=["answer"]
# <details><summary>Answers</summary>
#
# 1. The shift cuts each axis once more (section 4); the roll joins first and last pieces in pairs (section 5).
# 2. With 16 frames the map has 8 time steps, one window: no shift in time anywhere. In space: stages 1 to 3, not stage 4 (section 7).
# 3. −5 leaves e⁻⁵ ≈ 0.7 % of a weight: information leaks across the border. −∞ hurts where a row is forbidden entirely (section 5).
# 4. Digits 3+7, 0+6, 0+6 in base (·, 13, 13): 10 · 169 + 6 · 13 + 6 = 1774 (section 6).
# 5. Tokens and multiply-accumulates double, parameters stay (section 11).
# 6. It may have learned to tell the four pairs apart, perfectly even; not the direction in any of them (section 12).
# </details>

# %% [markdown]
# **Next:** [05 · MViT](05_mvit.ipynb), where attention stays global, and keys and values are pooled.
