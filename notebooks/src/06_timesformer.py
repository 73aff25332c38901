# %% [markdown]
# # 06 · TimeSformer: five schemes of attention over space and time
#
# *Bertasius, Wang and Torresani, "Is Space-Time Attention All You Need for Video Understanding?", [arXiv 2102.05095](https://arxiv.org/abs/2102.05095).*
#
# By the end of this notebook you own a complete TimeSformer that is made only of cells you ran here.
# It accepts the weights of the finished model in `vt_course` and gives the same numbers up to rounding.
# You build its attention twice: once as a table that says who may see whom, and once as small groups of tokens. On the same weights the two agree.
# You also find the place where the paper and its released code differ, build both, and see what the difference costs.
#
# | | |
# |---|---|
# | **Needs** | softmax attention with queries, keys, values and heads (notebook 02) |
# | **Data** | the embedded clips: `vt-course data synthetic`, once (`make course` and `make lab` do it) |
# | **Time** | 3 hours with the exercises; to run it: 1 minute (`smoke`), 4 (`lecture`), 16 (`full`) on two cores |
# | **Profiles** | `smoke`: a few steps of training. `lecture`: 60 steps in the figure of section 9, and 2,000 test clips instead of 400 in section 13. `full`: 1,500 steps, and section 13 tests the model that you trained |
# | **Hardware** | a laptop CPU and 2 GB of memory |
#
# **You will be able to**
#
# 1. write each of the five schemes as a mask over all tokens, and as attention in groups;
# 2. say how many tokens a patch is compared with, and what follows for multiply-accumulates, time and memory;
# 3. say where the class token goes: in the paper, in the released code, and what each costs;
# 4. explain why a new TimeSformer cannot tell the order of frames, which part must change first, and what the second one adds;
# 5. turn an image model into a video model, and say for which clips the two agree;
# 6. say how much a trained model owes to its time embedding, against ceilings that are exact.

# %% tags=["parameters"]
PROFILE = "smoke"   # a few training steps; lecture: 60; full: all

# %%
import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from vt_course.lab import show
from vt_course.lab.check import check
from vt_course.lab.report import agree, differ, report, within

_ = torch.manual_seed(0)

# %% [markdown]
# `report` prints shapes and counts. `agree` stops the notebook unless two tensors match everywhere, and prints the bound it checked (times |x| for numbers x above 1);
# `differ` is its control; its line begins with ≠. `within` checks that a number lies in an interval.

# %% [markdown] tags=["core", "claim:ts-token-768", "claim:ts-tokens-are-not-tubes"]
# ## 1 · Frames as one sequence of tokens
#
# The image model ViT cuts an image into square [patches](glossary.md#patch), makes one [token](glossary.md#token) of each, and adds one more: the [class token](glossary.md#class-token), from which the answer is read.
# TimeSformer cuts every frame of a clip in the same way; the whole clip gets one class token (section 3 of the paper, equation 1). Nothing is merged later: from the first block to the last there are as many tokens.
#
# We use these letters in the whole notebook:
#
# | letter | meaning | in the paper's base model |
# |---|---|---|
# | H, W | rows and columns of patches in a frame | 14, 14 |
# | N = H · W | places, that is, patches of one frame | 196 |
# | T | frames of the clip (the paper writes F) | 8 |
# | C | channels of a token (the paper writes D) | 768 |
# | B, K | clips of a batch, classes | |
# | n, h, d (in the shapes of attention) | tokens that attend, heads, channels of a head | –, 12, 64 |
#
# **Predict, then run.** How many tokens does the base model have for its 8 frames? And for 96 frames?

# %%
def count_tokens(H, W, T):
    return H * W * T + 1  # one class token


report(tokens_of_the_base_model=count_tokens(14, 14, 8),
       with_96_frames=count_tokens(14, 14, 96))

# %% [markdown]
# A patch of 16 × 16 pixels in 3 colours holds 768 numbers, and one linear layer maps them to C channels. Cut, then a linear layer: that is a convolution
# whose stride equals its kernel (notebook 01 proves it). So the first layer is a 2-D convolution, applied to each frame by itself.

# %%
class PatchEmbed(nn.Module):
    def __init__(self, patch, dim):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)


cut = PatchEmbed(8, 12).proj
report(one_frame=(1, 3, 32, 48),
       its_map=cut(torch.randn(1, 3, 32, 48)).shape)

# %% [markdown]
# ### Who am I? Two tables of positions
#
# Attention compares contents. It does not know where a token stands (notebook 02, section 5). So two learned vectors are added to each patch: a
# [position embedding](glossary.md#position-embedding) for its place in the frame, the same in all frames, and a time embedding for its frame, the same at all places.
# Two small tables, 197 rows and 8, stand for 1,568 patches. The class token belongs to no frame. It has the first row of the table of places, and no time.
#
# ### Exercise 6.1 · Tokens with positions
#
# Difficulty 2/5 · importance 4/5 · 15 minutes
#
# Put the tokens of a clip into one row, with their positions.
#
# - `patches`: (B, T, N, C), the patches of each frame, row by row;
# - `cls`: (1, 1, C), the class token, the same for all clips of the batch;
# - `pos`: (1, 1 + N, C); entry 0 belongs to the class token, entry 1 + n to place n;
# - `time`: (1, T, C); entry t belongs to frame t.
#
# The answer is (B, 1 + N·T, C). The class token comes first. The patches follow **place by place, and at each place frame by frame**: time is fastest.
# (This is the order of the released code. It makes one step of the attention very simple, as section 3 shows.)

# %% tags=["exercise:6.1"]
def add_positions(patches, cls, pos, time):
    """(B, T, N, C) -> (B, 1 + N·T, C): class token, then (N T)."""
    raise NotImplementedError("exercise 6.1")

# %% tags=["check:6.1"]
add_positions = check("6.1", add_positions)

# %% [markdown] tags=["hints:6.1"]
# <details><summary>Hint 1: intuition</summary>
#
# Add both tables while time and place are still axes of their own. Then each of the two additions is a broadcast.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `pos` without its entry 0, with a new axis for T; `time` with a new axis for N; exchange T and N; flatten; put the class token in front, once for each clip.
# </details>
# <details><summary>Symptom: the shape is right, most numbers are wrong</summary>
#
# From (B, T, N, C) a single `reshape` makes (B, T·N, C) with *place* fastest. It never exchanges two axes.
# </details>

# %% tags=["solution:6.1"]
def add_positions(patches, cls, pos, time):
    """(B, T, N, C) -> (B, 1 + N·T, C): class token, then (N T)."""
    x = patches + pos[:, None, 1:] + time[:, :, None]   # (B, T, N, C)
    x = x.transpose(1, 2).flatten(1, 2)                 # (B, N·T, C)
    first = (cls + pos[:, :1]).expand(len(x), -1, -1)   # (B, 1, C)
    return torch.cat([first, x], 1)  # (B, 1 + N·T, C)


add_positions = check("6.1", add_positions, solution=True)

# %% [markdown] tags=["core", "claim:ts-space-keys", "claim:ts-n-f-2"]
# ## 2 · Who may see whom
#
# With attention among all tokens, each patch meets N·T + 1 tokens, itself included. The paper asks which of these meetings are needed, and tries five schemes (its figures 1 and 2).
# A scheme is a list of **steps**. In each step a patch sees only the patches of its own group:
#
# | step | two patches see each other if | a group holds |
# |---|---|---|
# | `all` | always | N · T |
# | `space` | they are in the same frame | N |
# | `temporal` | they are at the same place, row and column | T |
# | `local` | they are in the same quarter of the frame: both in the upper or both in the lower half of the rows, and the same for columns; the frames do not matter | N · T / 4 |
# | `global` | the distance of their rows is even, that of their columns is even, and that of their frames is even | N · T / 8 |
# | `width` | they are in the same frame and the same row | W |
# | `height` | they are in the same frame and the same column | H |
#
# The five schemes are:
#
# | scheme | steps, one after the other |
# |---|---|
# | space ([space attention](glossary.md#space-attention)) | `space` |
# | joint ([joint attention](glossary.md#joint-attention)) | `all` |
# | divided ([divided attention](glossary.md#divided-attention)) | `temporal`, `space` |
# | sparse local-global ([local-global attention](glossary.md#local-global-attention)) | `local`, `global` |
# | axial ([axial attention](glossary.md#axial-attention)) | `temporal`, `width`, `height` |
#
# Only the first three exist in the released code. The paper describes the last two in a sentence each: local attention looks at "the neighboring F × H/2 × W/2 patches", global attention
# at the clip "using a stride of 2 patches along the temporal dimension and also the two spatial dimensions" (section 3). Fixed quarters and even distances are our reading of it.

# %%
SCHEMES = {
    "space": ("space",),
    "joint": ("all",),
    "divided": ("temporal", "space"),
    "local_global": ("local", "global"),
    "axial": ("temporal", "width", "height"),
}

# %% [markdown]
# ### Exercise 6.2 · The table of a step
#
# Difficulty 3/5 · importance 5/5 · 20 minutes
#
# `step` is one of the seven names in the table of steps above, and `size` is (H, W, T). Return a tensor of booleans (L, L) with L = H · W · T: entry (i, j) is True if patch i
# may see patch j. Patches are numbered as in exercise 6.1: place by place, row by row, and time fastest. There is no class token here. H and W are even for `local`, all three are even for `global`.

# %% tags=["exercise:6.2"]
def step_mask(step, size):
    """(L, L) booleans: who may see whom in one step."""
    raise NotImplementedError("exercise 6.2")

# %% tags=["check:6.2"]
step_mask = check("6.2", step_mask)

# %% [markdown] tags=["hints:6.2"]
# <details><summary>Hint 1: intuition</summary>
#
# Write down three numbers for each patch: its row, its column, its frame. A rule of the table compares those of two patches.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `h, w, t`, each (L,), from `torch.cartesian_prod` of three ranges. All pairs of one number: `h[:, None]` against `h[None, :]`. One boolean (L, L) for each condition, joined with `&`.
# </details>
# <details><summary>Hint 3: half and stride</summary>
#
# Two rows are in the same half if the answers to "is twice the row at least H?" agree. A distance is even if the remainders by 2 agree.
# </details>

# %% tags=["solution:6.2"]
def step_mask(step, size):
    """(L, L) booleans: who may see whom in one step."""
    H, W, T = size
    places = torch.cartesian_prod(*map(torch.arange, size)).view(-1, 3)
    h, w, t = places.unbind(1)                          # 3 × (L,)
    labels = {                                          # who must agree
        "all": [], "space": [t], "temporal": [h, w],
        "local": [2 * h >= H, 2 * w >= W],
        "global": [h % 2, w % 2, t % 2],
        "width": [t, h], "height": [t, w],
    }
    mask = torch.ones(len(h), len(h), dtype=torch.bool)
    for label in labels[step]:
        mask = mask & (label[:, None] == label[None])   # (L, L)
    return mask


step_mask = check("6.2", step_mask, solution=True)

# %% [markdown]
# Here is one patch of a clip, drawn with an outline, and what it may see in each step. The percentage above a frame says which part of the seen patches lies in it. The coloured fields are rows of *your* masks. Under the name of a step stand the schemes that use it, with its number in them: "divided 2" is the second step of the divided scheme. The clip comes from the
# embedded data: a shape that moves. What leaves on one side comes back on the other.

# %%
from vt_course.data import open_spec
from vt_course.data.clips import VideoFolder

motion = open_spec("synthetic:motion")
videos = VideoFolder(motion.val, classes=motion.classes, train=False,
                     frames=4, stride=6, size=48)
film = videos[3]["clip"]                                # (3, T, 48, 48)
small = (6, 6, 4)  # H, W, T of the picture
query = (1, 2, 1)  # row, column, frame


def row_of(mask, size, place):
    """What one patch sees, as shares that sum to 1: (T, H, W)."""
    H, W, T = size
    h, w, t = place
    seen = mask[(h * W + w) * T + t].float()            # (L,)
    return (seen / seen.sum()).view(H, W, T).movedim(-1, 0)


def who_sees(masks, size, place, names, title):
    rows = [row_of(m, size, place) for m in masks]
    h, w, t = place
    return show.attention_over_frames(
        film, torch.stack(rows), (t, h, w), names, title)

# %% tags=["figure"] alt="Seven rows of four frames with the patches that one outlined patch sees: all, its own frame, its own place in all frames, a quarter of all frames, every second patch of two frames, its row, its column."
steps = ["all", "space", "temporal", "local", "global",
         "width", "height"]
used_in = {step: [f"{name} {its.index(step) + 1}"
                  for name, its in SCHEMES.items() if step in its]
           for step in steps}
names_of_rows = [f"{step}\n({', '.join(used_in[step])})"
                 for step in steps]
who_sees([step_mask(s, small) for s in steps], small, query,
         names_of_rows, "What the outlined patch sees in each step")

# %% [markdown]
# **Predict.** A block makes its steps one after the other. What a patch learns in the first step it hands on in the second. For which schemes has something of *every* patch of the clip
# arrived at the query after one whole block? The next cell multiplies the masks, as a table: entry (i, j) says whether i has received something from j.

# %%
def reach(step_names, size):
    """(L, L): from whom has something arrived after these steps?"""
    total = torch.eye(math.prod(size))
    for step in step_names:
        total = step_mask(step, size).float() @ total   # one step more
    return total > 0


for name, its_steps in SCHEMES.items():
    seen = reach(its_steps, small).float().mean().item()
    report(**{f"{name}, reached after a block": f"{100 * seen:.4g} %"})

# %% [markdown] tags=["answer"]
# All but `space`. Divided attention needs two hops: first from any frame to the query's frame at the same place, then inside the frame. Local and global hop from a quarter into the whole clip.
# Axial attention needs three. In the space scheme the frames meet for the first time after the last block, where their class tokens are averaged.

# %% [markdown]
# ### How many comparisons?
#
# The paper counts how many comparisons one patch makes in a block: N·T + 1 for joint attention, N + T + 2 for divided (section 3; the +1 and +2 are the class token, once for each softmax).
# Your masks hold the same counts without the class token. **Predict** the ratio of joint to divided for the base model, 14 × 14 × 8, before you run the cell.

# %%
def comparisons(scheme, size):
    """Patches that a patch is compared with in a block."""
    rows = [step_mask(s, size).sum(1) for s in SCHEMES[scheme]]
    assert all((r == r[0]).all() for r in rows)  # the same for each
    return sum(int(r[0]) for r in rows)


base = (14, 14, 8)
for name in SCHEMES:
    report(**{name: comparisons(name, base)})
ratio = comparisons("joint", base) / comparisons("divided", base)
report(joint_over_divided=f"{ratio:.2f}")

# %% [markdown] tags=["answer"]
# 1,568 against 204, about 7.7 times as many. Local-global needs 588. Axial needs only 36, the fewest: T + W + H.

# %% [markdown] tags=["core", "claim:ts-local-global-steps"]
# ## 3 · From a mask to groups
#
# A [mask](glossary.md#mask) is a definition, not a program: with it, attention computes all N·T × N·T [logits](glossary.md#logit) (the products of queries and keys) and throws most of them away. First the attention itself, with an optional mask of booleans. Forbidden pairs get the logit −∞, which the softmax turns into the weight
# 0. (Notebook 04 uses −100, as Swin does. Here each token sees at least itself, so no row is forbidden entirely.)

# %% tags=["definition"]
class Attention(nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x, mask=None):  # (B, n, C), (n, n)
        split = "b n (s h d) -> s b h n d"
        q, k, v = rearrange(self.qkv(x), split, s=3, h=self.num_heads)
        logits = q @ k.mT / math.sqrt(q.shape[-1])      # (B, h, n, n)
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf)
        out = logits.softmax(-1) @ v                    # (B, h, n, d)
        return self.proj(rearrange(out, "b h n d -> b n (h d)"))

# %% [markdown]
# The fast form sorts the patches into groups, puts the groups on the batch axis, and attends inside each group. The step `temporal` shows why time is the fastest axis:
# the T patches of one place already stand side by side, so a plain `reshape` makes the groups. For `global` we have to work harder.
#
# ### Exercise 6.3 · The groups of global attention
#
# Difficulty 3/5 · importance 3/5 · 15 minutes
#
# `(B, H·W·T, C) → (B·8, H/2·W/2·T/2, C)`: `size` is (H, W, T), all even. A group holds every second row, every second column and every second frame.
# There are 8 groups, one for each combination of offsets (row, column, frame), each 0 or 1. The frame's offset is fastest in the list of groups, and the batch is slowest. Inside a group the patches keep their order, time fastest.

# %% tags=["exercise:6.3"]
def global_groups(x, size):
    """(B, H·W·T, C) -> (B·8, H/2·W/2·T/2, C)."""
    raise NotImplementedError("exercise 6.3")

# %% tags=["check:6.3"]
global_groups = check("6.3", global_groups)

# %% [markdown] tags=["hints:6.3"]
# <details><summary>Hint 1: intuition</summary>
#
# Row h is number h // 2 among those with the same remainder h % 2. So split each axis in two factors: the quotient is slow, the remainder fast.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `reshape` to (B, H/2, 2, W/2, 2, T/2, 2, C); bring the three axes of length 2 behind the batch with `permute`; `reshape` again.
# </details>
# <details><summary>Symptom: your groups are blocks of the clip</summary>
#
# You split an axis as (2, H/2). The first factor is the slow one: that makes an upper and a lower half.
# </details>

# %% tags=["solution:6.3"]
def global_groups(x, size):
    """(B, H·W·T, C) -> (B·8, H/2·W/2·T/2, C)."""
    H, W, T = (n // 2 for n in size)
    x = x.reshape(len(x), H, 2, W, 2, T, 2, -1)
    x = x.permute(0, 2, 4, 6, 1, 3, 5, 7)               # offsets first
    return x.reshape(-1, H * W * T, x.shape[-1])        # (B·8, N', C)


global_groups = check("6.3", global_groups, solution=True)

# %% [markdown]
# All steps as patterns of einops. On the left stand the tokens, on the right the groups. Read from right to left, the same pattern puts the groups back.

# %% tags=["fast"]
PATTERNS = {
    "all": "b (h w t) c -> b (h w t) c",
    "space": "b (h w t) c -> (b t) (h w) c",
    "temporal": "b (h w t) c -> (b h w) t c",
    "local": "b (i h j w t) c -> (b i j) (h w t) c",
    "global": "b (h i w j t k) c -> (b i j k) (h w t) c",
    "width": "b (h w t) c -> (b h t) w c",
    "height": "b (h w t) c -> (b w t) h c",
}


def lengths(step, size):
    """The lengths of the letters of a pattern."""
    H, W, T = size
    if step == "local":
        return dict(i=2, h=H // 2, j=2, w=W // 2, t=T)
    if step == "global":
        return dict(h=H // 2, i=2, w=W // 2, j=2, t=T // 2, k=2)
    return dict(h=H, w=W, t=T)

# %% tags=["fast"]
def group(x, step, size):
    """(B, H·W·T, C) -> (B·groups, tokens of a group, C)."""
    return rearrange(x, PATTERNS[step], **lengths(step, size))


def ungroup(y, step, size):
    """Undo `group`."""
    left, right = PATTERNS[step].split(" -> ")
    return rearrange(y, f"{right} -> {left}", **lengths(step, size))


x = torch.randn(2, math.prod(small), 16)                # (B, L, C)
agree("the pattern = your function",
      group(x, "global", small), global_groups(x, small))

# %% [markdown]
# Now the claim: for each step, one masked attention over all patches equals attention inside groups, on the same weights.

# %% tags=["claim:ts-temporal-groups"]
attn = Attention(16, 2)
with torch.no_grad():
    for step in PATTERNS:
        masked = attn(x, step_mask(step, small))
        y = group(x, step, small)
        grouped = ungroup(attn(y), step, small)
        agree(f"{step}: mask = {len(y) // 2} × {y.shape[1]} tokens",
              grouped, masked)

# %% [markdown]
# A check that cannot fail proves nothing. With the groups of another step the equality must break:

# %%
with torch.no_grad():
    other = ungroup(attn(group(x, "width", small)), "width", small)
    differ("groups of width, mask of height", other,
           attn(x, step_mask("height", small)))

# %% [markdown] tags=["core", "claim:ts-divided-steps", "claim:ts-drop-path-of-groups"]
# ## 4 · Two softmaxes in a row, and the class token between them
#
# Space and joint attention have one [softmax](glossary.md#softmax) for each query: *one* masked attention says it all. Divided attention has two. Its second step starts from what the first one made, with weights of its own, so no single mask
# is equal to it. It is equal to **two masked attentions in a row**, as axial attention is to three.
#
# Now the class token must come in. What does it see, and who sees it? Here the paper and its released code part. To compare the two, describe each by its N·T + 1 tokens and by what they see in each step:
#
# - **The paper.** In equation 13 each patch sees, over time, the T patches of its place *and the class token*. In equation 6 it sees, over space, the N patches of its frame and the class token. That is why section 3 counts (T + 1) + (N + 1) = N + T + 2.
#   What the class token itself sees in each step, the paper does not say. Below it sees every token in both steps, as in equation 5.
# - **The released code.** Over time, patches are among themselves; the class token stays as it is. Over space, each frame gets a *copy* of the class token. The T copies learn different things, and their **average** is added to the class token. That makes N + T + 1.
#   (Users ask about this in issues 74 and 125 of the official repository.)
#
# The paper's reading, as literally as possible. `block` holds the weights: a norm and an attention for time, another norm and attention for space, and the MLP. One more layer, `temporal_fc`, is explained in section 9. The paper's equations do not have it. It stands here so that both readings use the same weights.

# %% tags=["definition"]
def with_class(mask):
    """(L, L) -> (1 + L, 1 + L): the class token sees and is seen."""
    return F.pad(mask, (1, 0, 1, 0), value=True)


def paper_block(x, size, block):                        # (B, 1 + L, C)
    time = with_class(step_mask("temporal", size))
    space = with_class(step_mask("space", size))
    y = block.temporal_attn(block.temporal_norm1(x), time)
    x = x + block.temporal_fc(y)
    x = x + block.attn(block.norm1(x), space)
    return x + block.mlp(block.norm2(x))

# %% [markdown]
# These masks are over all N·T + 1 tokens. Their rows hold the paper's counts: N·T + 1 for joint and N + T + 2 for divided attention. **Predict** those of the base model for the other three.

# %%
for name, its_steps in SCHEMES.items():
    masks = [with_class(step_mask(s, base)) for s in its_steps]
    met = sum(int(mask[1].sum()) for mask in masks)     # of a patch
    report(**{name: f"{len(masks)} mask(s) of {len(masks[0]):,} tokens,"
              f" {met:,} comparisons a patch"})

# %% [markdown] tags=["answer"]
# One more for each softmax than in section 2: 197, 590 and 39.

# %% [markdown]
# ### Exercise 6.4 · The divided block
#
# Difficulty 4/5 · importance 5/5 · 40 minutes
#
# Write the whole `forward` of a block as the **released code** has it. `x` is (B, 1 + H·W·T, C) with the class token first, `size` is (H, W, T).
#
# 1. Split off the class token. The patches attend over time: `temporal_norm1`, `temporal_attn` inside groups of T, then `temporal_fc`. The result is added to the patches.
# 2. The patches attend over space. Each frame gets a copy of the class token in front: groups of 1 + N tokens, through `norm1` and `attn`. The result of a patch is added to the patch.
#    The results of the copies are averaged over the frames, and the average is added to the class token.
# 3. All tokens go through `norm2` and `mlp`; the result is added.
#
# `block.attn(y)` attends among all tokens of each row of a batch: (rows, tokens, C) → the same shape.

# %% tags=["exercise:6.4"]
def divided_block(x, size, block):
    """(B, 1 + H·W·T, C) -> the same: time, space, MLP."""
    raise NotImplementedError("exercise 6.4")

# %% tags=["check:6.4"]
divided_block = check("6.4", divided_block)

# %% [markdown] tags=["hints:6.4"]
# <details><summary>Hint 1: intuition</summary>
#
# Two groupings, each with its way back: by place, and by frame. Only in the second one a token is put in front, and taken off again.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# ```
# class, patches = x[:, :1], x[:, 1:]
# patches = patches + fc(attention over time(norm(groups of T)))
# frames = copies of class | patches in groups of N
# frames = attention over space(norm1(frames))
# class = class + mean over frames of the first tokens
# patches = patches + the other tokens, back in order
# all = all + mlp(norm2(all))
# ```
# </details>
# <details><summary>Hint 3: the copies</summary>
#
# `einops.repeat(cls, "b 1 c -> (b t) 1 c", t=T)` makes one copy for each frame, clip by clip. In the same order, `group(x, "space", size)` lists the frames.
# </details>
# <details><summary>Symptom: right the first time, wrong when it is called again</summary>
#
# `patches += …` writes into `x` itself, because a slice is no copy.
# </details>
# <details><summary>Symptom: right for a batch of one, wrong for two</summary>
#
# The frames of clip 0 come first, then those of clip 1: (b t). An average over the wrong one of the two axes mixes clips.
# </details>

# %% tags=["solution:6.4"]
def divided_block(x, size, block):
    """(B, 1 + H·W·T, C) -> the same: time, space, MLP."""
    T = size[2]
    cls, x = x[:, :1], x[:, 1:]
    y = group(x, "temporal", size)                      # (B·N, T, C)
    y = block.temporal_attn(block.temporal_norm1(y))
    x = x + ungroup(block.temporal_fc(y), "temporal", size)
    y = group(x, "space", size)                         # (B·T, N, C)
    copies = repeat(cls, "b 1 c -> (b t) 1 c", t=T)     # (B·T, 1, C)
    y = torch.cat([copies, y], 1)  # (B·T, 1 + N, C)
    y = block.attn(block.norm1(y))
    news = y[:, :1].unflatten(0, (-1, T)).mean(1)       # (B, 1, C)
    x = x + ungroup(y[:, 1:], "space", size)
    x = torch.cat([cls + news, x], 1)                   # (B, 1 + L, C)
    return x + block.mlp(block.norm2(x))


divided_block = check("6.4", divided_block, solution=True)

# %% [markdown]
# A class that holds the weights, with the names of the official checkpoints. Its `forward` is your function.

# %%
class DividedBlock(nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        for name in ("norm1", "norm2", "temporal_norm1"):
            setattr(self, name, nn.LayerNorm(dim, eps=1e-6))
        self.attn = Attention(dim, num_heads)
        self.temporal_attn = Attention(dim, num_heads)
        self.temporal_fc = nn.Linear(dim, dim)
        self.mlp = nn.Sequential()      # runs what is assigned to it
        self.mlp.fc1, self.mlp.act = nn.Linear(dim, 4 * dim), nn.GELU()
        self.mlp.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x, size):                         # (B, 1 + L, C)
        return divided_block(x, size, self)

# %% [markdown]
# ### The same block by masks
#
# The witness for your block: nothing is sorted into groups. The first step is one masked attention over all patches. The second is one masked attention over the patches *and T copies of the class
# token*: copy number t sees, and is seen by, the tokens of frame t. The numbers of the groups are read off the mask.

# %% tags=["definition"]
def group_numbers(step, size):
    """(L,) For each patch, the number of its group."""
    first = step_mask(step, size).int().argmax(1)  # first one it sees
    return first.unique(return_inverse=True)[1]


def block_by_masks(x, size, block, steps):
    """The block of the released code, for any steps."""
    cls, x = x[:, :1], x[:, 1:]
    for step in steps[:-1]:
        part = {p: getattr(block, f"{step}_{p}")
                for p in ("norm1", "attn", "fc")}
        y = part["attn"](part["norm1"](x), step_mask(step, size))
        x = x + part["fc"](y)
    number = group_numbers(steps[-1], size)             # (L,)
    G = int(number.max()) + 1  # copies of the class
    number = torch.cat([torch.arange(G), number])       # (G + L,)
    y = torch.cat([cls.expand(-1, G, -1), x], 1)        # (B, G + L, C)
    y = block.attn(block.norm1(y), number[:, None] == number)
    cls = cls + y[:, :G].mean(1, keepdim=True)
    x = torch.cat([cls, x + y[:, G:]], 1)
    return x + block.mlp(block.norm2(x))

# %% tags=["claim:ts-block-divided"]
block = DividedBlock(16, 2)
x = torch.randn(2, 1 + math.prod(small), 16)            # (B, 1 + L, C)
with torch.no_grad():
    by_groups = block(x, small)
    agree("your block = two masked attentions in a row", by_groups,
          block_by_masks(x, small, block, SCHEMES["divided"]))

# %% [markdown]
# And the paper's reading, on the same weights?

# %%
with torch.no_grad():
    as_written = paper_block(x, small, block)
differ("patches: equation 13 or the released code",
       as_written[:, 1:], by_groups[:, 1:])
differ("class token", as_written[:, :1], by_groups[:, :1])

# %% [markdown]
# These are different functions. Weights that were trained with one do not fit the other exactly. The released weights belong to the second, and so does everything from here on.
#
# **Why time first, and then space?** The paper tried the other order, and both attentions side by side. It reports 0.5 and 0.4 points less. It gives no reason, and differences of this size may come from the seed.
#
# **Why did the authors leave the class token out of time?** The answers in the repository do not say, as far as we know. One reason can be computed: with the class token over time each place
# would need a copy of it, N copies more for each clip, that is 196 tokens more in a step of 1,568. (The copies are equal before attention. A cleverer program would compute their queries, keys and values once.) Below are the [multiply-accumulates](glossary.md#multiply-accumulate) of this step for the base model. A step over n tokens of C channels in groups of g costs 4nC² for the projections and 2ngC for the two products of attention.

# %%
def step_macs(groups, tokens, C=768):
    """One attention in groups: projections and both products."""
    n = groups * tokens
    return 4 * n * C**2 + 2 * n * tokens * C


N, T = 196, 8
without, with_it = step_macs(N, T), step_macs(N, T + 1)
report(over_time_without=without, over_time_with_class=with_it)
within("with the class token", 100 * (with_it / without - 1), 12, 13,
       " % more")

# %% [markdown] tags=["core", "claim:ts-12-blocks", "claim:ts-head"]
# ## 5 · The network
#
# ### Exercise 6.5 · Assemble it
#
# Difficulty 3/5 · importance 5/5 · 25 minutes
#
# `x` is a batch of clips in pixels, (B, 3, T, height, width), and `model` holds the parts:
#
# - `model.patch_embed.proj`: the convolution of section 1; it takes frames (·, 3, height, width) and gives maps (·, C, H, W);
# - `model.cls_token`, `model.pos_embed`, `model.time_embed`: the arguments of exercise 6.1;
# - `model.blocks`: a list; each takes `(tokens, (H, W, T))`;
# - `model.norm`, a LayerNorm, and `model.head`, a linear layer: the norm is applied, then the head reads the class token.
#
# Return the logits, (B, classes).

# %% tags=["exercise:6.5"]
def network(x, model):
    """(B, 3, T, height, width) -> logits (B, K)."""
    raise NotImplementedError("exercise 6.5")

# %% tags=["check:6.5"]
network = check("6.5", network)

# %% [markdown] tags=["hints:6.5"]
# <details><summary>Hint 1: intuition</summary>
#
# The convolution wants images. So put the frames on the batch axis first; afterwards unfold this axis again and let exercise 6.1 do the rest.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# clips → frames (B·T, 3, …) → maps (B·T, C, H, W) → patches (B, T, H·W, C) → tokens → all blocks, with the size that the map had → norm → token 0 → head
# </details>
# <details><summary>Symptom: right for one frame, wrong for several</summary>
#
# `x.reshape(B·T, 3, …)` mixes colours and frames. Time must stand before the colours first.
# </details>

# %% tags=["solution:6.5"]
def network(x, model):
    """(B, 3, T, height, width) -> logits (B, K)."""
    T = x.shape[2]
    frames = rearrange(x, "b c t h w -> (b t) c h w")
    maps = model.patch_embed.proj(frames)               # (B·T, C, H, W)
    size = (*maps.shape[2:], T)                         # (H, W, T)
    patches = rearrange(maps, "(b t) c h w -> b t (h w) c", t=T)
    z = add_positions(patches, model.cls_token, model.pos_embed,
                      model.time_embed)                 # (B, 1 + L, C)
    for block in model.blocks:
        z = block(z, size)
    return model.head(model.norm(z)[:, 0])              # (B, K)


network = check("6.5", network, solution=True)

# %%
class TimeSformer(nn.Module):
    def __init__(self, img_size, patch_size, num_frames, embed_dim,
                 depth, num_heads, num_classes):
        super().__init__()
        C, N = embed_dim, (img_size // patch_size) ** 2
        self.patch_embed = PatchEmbed(patch_size, C)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, C))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + N, C))
        self.time_embed = nn.Parameter(torch.zeros(1, num_frames, C))
        self.blocks = nn.ModuleList(
            [DividedBlock(C, num_heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(C, eps=1e-6)
        self.head = nn.Linear(C, num_classes)

    def forward(self, x):  # (B, 3, T, ., .)
        return network(x, self)

# %% [markdown]
# ### Your network is the model
#
# The package ships a small TimeSformer that was trained on clips of moving shapes (section 13). `ZOO` lists every variant with its settings. Your class must accept its weights
# **strictly**, no name missing and none left over, and agree.

# %%
from safetensors.torch import load_file

from vt_course.models import ZOO, create, mini_weights


def only(config):
    """The settings that shape the network."""
    names = ("img_size", "patch_size", "num_frames", "embed_dim",
             "depth", "num_heads", "num_classes")
    return {name: config[name] for name in names}


mini = ZOO["timesformer_mini"]
weights = load_file(mini_weights("timesformer_mini"))
mine = TimeSformer(**only(mini.config)).eval()
report(**only(mini.config),
       loading=str(mine.load_state_dict(weights, strict=True)))

# %%
package = create("timesformer_mini").eval()
_ = package.load_state_dict(weights)
clips = torch.randn(3, *mini.input)  # (B, 3, T, ., .)
with torch.no_grad():
    agree("yours = package", mine(clips), package(clips))
    agree("one clip by itself", mine(clips[1:2]), mine(clips)[1:2])

# %% [markdown]
# ### A third witness
#
# Both could share a mistake. So ask somebody else's code: the TimeSformer of the library transformers, with random weights copied into *your* class. (The repository's tests also compare the gradients, in float64.)

# %% tags=["oracle"]
from transformers import TimesformerConfig
from transformers import TimesformerForVideoClassification

from vt_course.models.official import from_official

_ = torch.manual_seed(0)
config = TimesformerConfig(
    image_size=32, patch_size=8, num_frames=4, hidden_size=48,
    num_hidden_layers=2, num_attention_heads=4, intermediate_size=192,
    num_labels=7, initializer_range=0.2)
theirs = TimesformerForVideoClassification(config).eval()
shape = dict(img_size=32, patch_size=8, num_frames=4, embed_dim=48,
             depth=2, num_heads=4, num_classes=7)

# %% tags=["oracle"]
renamed = from_official(create("timesformer_mini", **shape),
                        theirs.state_dict())
tiny = TimeSformer(**shape).eval()
_ = tiny.load_state_dict(renamed, strict=True)
four = torch.randn(2, 3, 4, 32, 32)                     # four frames
with torch.no_grad():
    answers = tiny(four)                                # (B, K)
    agree("your network = transformers", answers,
          theirs(pixel_values=four.transpose(1, 2)).logits)
differ("its answers for two clips", answers[0], answers[1])

# %% [markdown] tags=["deep-dive", "claim:ts-hr-tokens", "claim:ts-divided-is-not-smaller"]
# ## 6 · All five schemes, and their price list
#
# The other schemes differ only in the steps of a block. Here is one class for all schemes of several steps, which the next cells use: every step but the last has a norm, an attention and a linear layer of its own, and only patches in it.
# In the last step the class token joins each group, as in the divided block. (For local-global and axial attention this is our assumption. That the parameters come out, as you will see, speaks for the layers. It says nothing about where the class token takes part, because that changes no parameter.)

# %%
class SteppedBlock(DividedBlock):
    def __init__(self, dim, num_heads, steps):
        super().__init__(dim, num_heads)
        del self.temporal_norm1, self.temporal_attn, self.temporal_fc
        self.steps = steps
        for s in steps[:-1]:
            self.add_module(f"{s}_norm1", nn.LayerNorm(dim, eps=1e-6))
            self.add_module(f"{s}_attn", Attention(dim, num_heads))
            self.add_module(f"{s}_fc", nn.Linear(dim, dim))

    def forward(self, x, size):                         # (B, 1 + L, C)
        (*first, last), cls, x = self.steps, x[:, :1], x[:, 1:]
        for s in first:
            norm, attn, fc = (self.get_submodule(f"{s}_{part}")
                              for part in ("norm1", "attn", "fc"))
            y = fc(attn(norm(group(x, s, size))))
            x = x + ungroup(y, s, size)
        y = group(x, last, size)                        # (B·G, n, C)
        G = len(y) // len(x)
        copies = repeat(cls, "b 1 c -> (b g) 1 c", g=G)
        y = self.attn(self.norm1(torch.cat([copies, y], 1)))
        cls = cls + y[:, :1].unflatten(0, (-1, G)).mean(1)
        x = torch.cat([cls, x + ungroup(y[:, 1:], last, size)], 1)
        return x + self.mlp(self.norm2(x))

# %% [markdown]
# Three witnesses for each block: groups, masks, and the package, on the same weights.

# %% tags=["claim:ts-block-axial"]
from vt_course.models import timesformer

x = torch.randn(2, 1 + math.prod(small), 16)
for name in ("divided", "local_global", "axial"):
    packaged = timesformer.DividedBlock(
        16, 2, mlp_ratio=4.0, drop_path=0.0, steps=SCHEMES[name])
    block = SteppedBlock(16, 2, SCHEMES[name])
    _ = block.load_state_dict(packaged.state_dict(), strict=True)
    with torch.no_grad():
        agree(f"{name}: groups = masks", block(x, small),
              block_by_masks(x, small, block, SCHEMES[name]))
        agree(f"{name}: groups = package", block(x, small),
              packaged(x, small))

# %% [markdown]
# Where one softmax suffices, one masked attention does the whole step. Joint: a single group, so the class token and all patches see each other. Space: every frame is a sample of its own, *with a class token of its own*, and its block is that of the image model. (After the last block the T class tokens are averaged, and the head reads the average.) As a mask: T class tokens and all patches, and a token sees those of its frame.

# %% tags=["claim:ts-block-joint"]
vit = timesformer.Block(16, 2, mlp_ratio=4.0, drop_path=0.0)
one = SteppedBlock(16, 2, ("all",))
_ = one.load_state_dict(vit.state_dict(), strict=True)
frame = group_numbers("space", small)                   # (L,)
frame = torch.cat([torch.arange(4), frame])             # (T + L,)
classes = torch.randn(2, 4, 16)                         # (B, T, C)
with torch.no_grad():
    agree("joint: one mask = package", block_by_masks(
        x, small, one, ("all",)), vit(x, small))
    y = torch.cat([classes, x[:, 1:]], 1)               # (B, T + L, C)
    y = y + one.attn(one.norm1(y), frame[:, None] == frame)
    masked = y + one.mlp(one.norm2(y))
    y = torch.cat([classes.flatten(0, 1)[:, None],
                   group(x[:, 1:], "space", small)], 1)
    y = vit(y, (6, 6, 1))  # (B·T, 1 + N, C)
    agree("space: one mask = package, frame by frame",
          masked[:, 4:], ungroup(y[:, 1:], "space", small))

# %% [markdown]
# **Parameters.** A block of ViT with C channels has 12C² + 13C: 4C² + 4C in the attention, 8C² + 5C in the MLP, and two norms of 2C. Each further step adds a norm (2C), an attention (4C² + 4C) and a linear layer (C² + C), together 5C² + 7C.
# Outside the blocks there are the patch embedding, the class token, the two tables, the last norm and the head. **Predict:** the paper states 85.9 M for space and joint, 121.4 M for divided and local-global, 156.8 M for axial (its table 1). Which head do these numbers belong to: 400 classes (Kinetics), or 174 (Something-Something)?

# %% tags=["claim:ts-table-1-divided"]
from vt_course.models.cost import count_macs, count_parameters


def predicted_parameters(scheme, C=768, depth=12, N=196, T=8, K=400):
    more = len(SCHEMES[scheme]) - 1                     # further steps
    blocks = 12 * C**2 + 13 * C + more * (5 * C**2 + 7 * C)
    tables = (1 + N) * C + (T * C if scheme != "space" else 0)
    return ((3 * 16 * 16 + 1) * C + C + tables + depth * blocks
            + 2 * C + (C + 1) * K)


stated = dict(space=85.9, joint=85.9, divided=121.4,
              local_global=121.4, axial=156.8)
for name, value in stated.items():
    with torch.device("meta"):                          # shapes only
        model = create(f"timesformer_{name}_8x224")
    assert count_parameters(model) == predicted_parameters(name)
    small_head = predicted_parameters(name, K=174) / 1e6
    assert abs(small_head - value) <= 0.05
    report(**{f"{name}, M": f"{small_head:.2f} with 174 classes, "
              f"{predicted_parameters(name) / 1e6:.2f} with 400"})

# %% [markdown] tags=["answer"]
# With 174 classes all five come out: 85.93, 85.94, 121.39, 121.39 and 156.85. With 400 classes each is 0.17 M larger. Space attention has no time embedding; that is 6,144 numbers less.
#
# The count also shows that `temporal_fc` is part of the paper's model, although its equations have no such layer: without it, divided attention would have 7.1 M fewer.

# %% [markdown]
# **Multiply-accumulates.** A step over n tokens in groups of g costs 4nC² + 2ngC, as in section 4. Each step but the last also has the linear layer, nC². In the last step every group has one token more, a copy of the class token. The MLP costs 8C² a token.
# The formula below is summed over a network, and the counter must agree to the last digit.

# %% tags=["claim:timesformer_divided_8x224-gmacs"]
def groups_and_tokens(step, H, W, T):
    """How many groups a step has, and patches in each."""
    sizes = {"all": 1, "space": T, "temporal": H * W, "local": 4,
             "global": 8, "width": H * T, "height": W * T}
    return sizes[step], H * W * T // sizes[step]


def predicted_macs(scheme, H, W, T, C=768, depth=12, K=400):
    *first, last = SCHEMES[scheme]
    L, block = H * W * T, 0
    for step in first:
        block += step_macs(*groups_and_tokens(step, H, W, T), C)
        block += L * C**2  # its linear layer
    groups, tokens = groups_and_tokens(last, H, W, T)
    block += step_macs(groups, tokens + 1, C)  # a class token each
    block += 8 * C**2 * (L + (T if scheme == "space" else 1))  # MLP
    cut = L * 3 * 16 * 16 * C  # patches: 768 numbers of a pixel square
    return cut + depth * block + C * K

# %%
print(f"{'scheme':14}{'GMACs':>8}{'of it, comparisons':>25}")
for name in SCHEMES:
    with torch.device("meta"):
        model = create(f"timesformer_{name}_8x224")
    macs = predicted_macs(name, 14, 14, 8)
    assert macs == count_macs(model, (1, 3, 8, 224, 224))
    products = 12 * 2 * 768 * 1568 * comparisons(name, base)
    print(f"{name:14}{macs / 1e9:8.2f}{100 * products / macs:14.1f} %")

# %% [markdown]
# Two things may surprise. First, at 8 frames of 224 pixels divided attention costs *more* than joint: it compares far less, but it has a second set of projections. Second, comparisons are the smaller part in every row: the
# projections and the MLP, 12C² and more a token, dominate at this size. The paper's argument for dividing is about growth:

# %%
frames = [8, 16, 32, 64, 96]
sides = [14, 28, 42, 56]  # 224 to 896 pixels
in_time = {name: [predicted_macs(name, 14, 14, T) / 1e9 for T in frames]
           for name in SCHEMES}
in_space = {name: [predicted_macs(name, s, s, 8) / 1e9 for s in sides]
            for name in SCHEMES}
with torch.device("meta"):
    large = create("timesformer_joint_8x224", num_frames=32)
counted = count_macs(large, (1, 3, 32, 224, 224))
assert counted / 1e9 == in_time["joint"][2]
for name in ("joint", "divided"):
    growth = in_time[name][-1] / in_time[name][0]
    report(**{f"{name}, 96 frames over 8": f"{growth:.1f} times"})

# %%
cheaper = [T for T in range(8, 97) if predicted_macs(
    "divided", 14, 14, T) < predicted_macs("joint", 14, 14, T)]
report(divided_costs_less_from=f"{cheaper[0]} frames on")

# %% [markdown]
# Both axes of the next figures are logarithmic. The **slope** in a legend is an exponent: GMACs grow as the size to this power, on average over the drawn range. Over frames, 1 is linear. Over pixels of a side, 2 is linear in the number of places, because there are side² of them.

# %% tags=["figure"] alt="GMACs of the five schemes against the number of frames from 8 to 96 on logarithmic axes: joint and then local-global bend upwards and end highest; divided, axial and space stay straight with slope 1."
show.cost_curves({n: dict(x=frames, y=y) for n, y in in_time.items()},
                 "frames of 224 × 224", "GMACs of one clip",
                 "Longer clips: the schemes part")

# %% tags=["figure"] alt="GMACs of the five schemes against the pixels of a side from 224 to 896 on logarithmic axes: joint rises most steeply and ends highest, then local-global; divided, axial and space lie close together below."
pixels = [16 * s for s in sides]
show.cost_curves({n: dict(x=pixels, y=y) for n, y in in_space.items()},
                 "pixels of a side, 8 frames", "GMACs of one clip",
                 "Larger frames: even divided attention bends")

# %% [markdown]
# Divided attention is linear in the number of frames as long as T is small against C, and its step over space still grows with the square of the places.

# %% [markdown] tags=["deep-dive", "claim:ts-joint-is-quadratic", "claim:ts-memory-of-joint"]
# ## 7 · What no longer fits
#
# In figure 3 the paper shows that joint attention runs out of GPU memory at 448 pixels, or at 32 frames. That is a property of the *program* of 2021, which stores all logits. Your `Attention` does the same. For one head, N·T + 1 tokens have (N·T + 1)² logits of 4 bytes.
#
# **Predict.** 8 frames of 896 × 896 pixels are 25,088 patches. How many gigabytes do the logits of one layer with 12 heads take?

# %%
def logit_bytes(tokens, heads):
    return 4 * heads * tokens**2


GB = 1e9
a_frame = 56 * 56
joint_GB = logit_bytes(8 * a_frame + 1, 12) / GB
space_GB = 8 * logit_bytes(a_frame + 1, 12) / GB        # 8 frames
time_GB = a_frame * logit_bytes(8, 12) / GB             # all places
report(joint=f"{joint_GB:.1f} GB", over_space=f"{space_GB:.1f} GB",
       over_time=f"{time_GB:.3f} GB")

# %% [markdown]
# [Fused attention](glossary.md#fused-attention) (`scaled_dot_product_attention`, in PyTorch since 2023) never stores the logits. Then the order is reversed. Here are the peaks of memory of one layer, forward and backward, as `vt-course bench growth` measured them
# on a quiet CPU (192 channels, 3 heads; `results/bench_growth_cpu.json` has machine and commit). The logits that a literal joint layer would store are computed and drawn beside them.

# %%
import json

from vt_course import repo_root

file = repo_root() / "results/bench_growth_cpu.json"
stored = json.loads(file.read_text(encoding="utf-8"))


def measured(grows, what):
    """kind of attention -> what was measured, as one size grows."""
    out = {}
    for kind in ("joint", "divided"):
        chosen = [r for r in stored["rows"] if r["grows"] == grows
                  and r["attention"] == kind]
        out[kind] = dict(x=[r["tokens"] for r in chosen],
                         y=[r[what] for r in chosen])
    return out


curve = measured("side", "peak_mb")
peak = {kind: round(c["y"][-1]) for kind, c in curve.items()}
report(patches=curve["joint"]["x"][-1], joint_fused_MB=peak["joint"],
       divided_fused_MB=peak["divided"])

# %% tags=["figure"] alt="Megabytes of one layer against the number of patches on logarithmic axes: fused joint and divided attention are two parallel lines of slope 1, divided above joint; the stored logits rise with slope 2 and end fifty times higher."
tokens = curve["joint"]["x"]
show.cost_curves(
    {"joint, fused": curve["joint"], "divided, fused": curve["divided"],
     "logits of joint, if stored":
         dict(x=tokens, y=[logit_bytes(n, 3) / 1e6 for n in tokens])},
    "patches of the clip", "MB of one layer",
    "Memory: the limit was in the program")

# %% [markdown]
# With fused attention, joint takes *less* memory than divided. Divided stores what two attentions and a linear layer need for the backward pass, and joint only one. What remains of the square is arithmetic, and with it time.
#
# ### Comparisons, multiply-accumulates, time and memory, side by side
#
# Section 2 counted comparisons: a patch meets N·T patches in joint attention, and N + T and a class token in divided attention. (The joint layer was timed without a class token.) What do these numbers say about the rest? For each size, and for each of the four quantities, the next table divides joint by divided. In the upper half the number of frames grows, in the lower half the side of a frame.
#
# **Predict** for two clips with 6,272 patches each, 32 frames of 14 × 14 and 8 frames of 28 × 28: for which clip is the ratio of the comparisons, joint over divided, larger? And is the ratio of the *times* as large as that of the comparisons?

# %%
def compared(kind, T, places):
    """How many tokens a patch is compared with, as timed."""
    return T * places if kind == "joint" else T + places + 1


def joint_over_divided(grows):
    """Rows: size, then joint over divided in four quantities."""
    table = {(r["T"], r["H"], r["attention"]): r
             for r in stored["rows"] if r["grows"] == grows}
    for T, side in dict.fromkeys(key[:2] for key in table):
        j, d = (table[T, side, kind] for kind in ("joint", "divided"))
        pairs = (compared("joint", T, side * side)
                 / compared("divided", T, side * side))
        yield (T, side, pairs, j["gmacs"] / d["gmacs"],
               j["ms"] / d["ms"], j["peak_mb"] / d["peak_mb"])

# %%
print(f"{'frames':>6}{'side':>6}{'comparisons':>13}{'MACs':>7}"
      f"{'time':>7}{'memory':>8}   joint over divided")
for grows in ("frames", "side"):
    for T, side, *ratios in joint_over_divided(grows):
        pairs, macs, seconds, memory = ratios
        print(f"{T:6}{side:6}{pairs:13.1f}{macs:7.2f}{seconds:7.2f}"
              f"{memory:8.2f}")

# %% tags=["figure"] alt="Milliseconds of one layer, forward and backward, against the patches of the clip, on logarithmic axes, for joint and divided attention as the frames grow and as the side grows: the two joint curves lie on each other and are the steepest; divided attention is cheapest where only the frames grow."
clocked = {f"{kind}, {word} grow": line
           for grows, word in (("frames", "frames"), ("side", "sides"))
           for kind, line in measured(grows, "ms").items()}
show.cost_curves(clocked, "patches of the clip",
                 "milliseconds of one layer, fused",
                 "Time: the square is still there")

# %% [markdown] tags=["answer"]
# For the long clip: 27 comparisons for one, against 8 in the clip of large frames. The times differ less, 7 and 4 times, and so do the multiply-accumulates: both contain the projections, which cost the same for each patch however many it is compared with. In memory joint attention takes about half in every row.
#
# Where only the frames grow, divided attention is linear: its groups over space keep their size, and those over time are small. Where the side grows, its step over space grows with the square, too, only T times less.

# %% [markdown]
# (The clip of 8 frames of 14 × 14 stands in both halves. It was timed twice, so the two rows show how far such a time can be trusted.)
#
# So figure 3 of the paper is right for the programs of its time, and it is no law: what joint attention lacks is time, not room.
#
# (The comparison of memory is a little unfair: "joint" is the attention alone, "divided" includes two norms and two additions.) Here is a fair one, on your machine and small: the attention part of a whole block of the package, with norms and additions in both. And, beside it, your literal `Attention` against the same with a fused kernel, and against the size of its logits:

# %%
class Fused(Attention):
    def forward(self, x, mask=None):
        split = "b n (s h d) -> s b h n d"
        q, k, v = rearrange(self.qkv(x), split, s=3, h=self.num_heads)
        out = F.scaled_dot_product_attention(q, k, v)   # (B, h, n, d)
        return self.proj(rearrange(out, "b h n d -> b n (h d)"))


literal, fused = Attention(48, 3), Fused(48, 3)
_ = fused.load_state_dict(literal.state_dict())
x = torch.randn(1, 800, 48)
with torch.no_grad():
    agree("fused = literal", fused(x), literal(x))

# %%
from vt_course.claims.bench_models import peak_bytes


def peak_of(layer, *inputs):
    """Megabytes at the peak of a forward and a backward pass."""
    def work():
        layer(*inputs).sum().backward()
    work()                                              # memory is made
    return peak_bytes(work, torch.device("cpu")) / 1e6


sets = peak_of(literal, x) / (logit_bytes(800, 3) / 1e6)
within("literal: peak, in sets of logits", sets, 2, 4.5)
within("peaks, literal over fused",
       peak_of(literal, x) / peak_of(fused, x), 5, 50, " times")
plain = dict(mlp_ratio=1.0, drop_path=0.0)
joint = timesformer.Block(96, 3, **plain).attend
divided = timesformer.DividedBlock(
    96, 3, steps=SCHEMES["divided"], **plain).attend
x = torch.randn(1, 1569, 96)
ratio = peak_of(divided, x, base) / peak_of(joint, x, base)
within("fused: divided over joint", ratio, 1.2, 2.2, " times")

# %% [markdown] tags=["core", "claim:ts-temporal-reach"]
# ## 8 · Who sees whom, measured
#
# A mask says who *may* see whom. How much arrives can be measured: change a patch of the input a little, and see how much the query changes. That is a [gradient](glossary.md#gradient). The next function takes the network's own blocks, lets the tokens pass, and
# computes the gradient of one patch's output by all patches of the input. What it draws is the share of each patch in the sum of the absolute gradients. The tokens are random numbers, and so are the weights; the figure is an average over 20 of both, and it shows places only.
#
# **Predict** for your divided network with random weights: after one block, what share of the sum lies in the query's own frame, if the query itself is left out? Nearly all, half, or hardly more than a quarter? There are four frames.

# %%
def shares_of(blocks, size, place, C, seed=0):
    """(T, H, W): from where does something arrive, and how much."""
    (H, W, T), (h, w, t) = size, place
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 1 + H * W * T, C, generator=g)
    y = x.requires_grad_()
    for block in blocks:
        y = block(y, size)
    one = y[0, 1 + (h * W + w) * T + t].sum()
    grad, = torch.autograd.grad(one, x)
    size_of = grad[0, 1:].abs().sum(-1)                 # (L,)
    return (size_of / size_of.sum()).view(H, W, T).movedim(-1, 0)


class SpaceBlock(SteppedBlock):
    """Only the step over space; one class token for all frames."""

    def __init__(self, dim, num_heads):
        super().__init__(dim, num_heads, ("space",))

# %%
C = 32
stacks = {  # a kind of block, its arguments, how many of them
    "space step, 3 blocks": (SpaceBlock, (), 3),
    "divided, 1 block": (DividedBlock, (), 1),
    "divided, 2 blocks": (DividedBlock, (), 2),
    "divided, 3 blocks": (DividedBlock, (), 3),
    "axial, 1 block": (SteppedBlock, (SCHEMES["axial"],), 1),
}

# %%
def random_blocks(kind, more, depth):
    blocks = [kind(C, 2, *more) for _ in range(depth)]
    for block in blocks:                                # larger weights
        for p in block.parameters():
            if p.ndim == 2:
                _ = nn.init.normal_(p, std=1.5 * p.shape[1] ** -0.5)
    return blocks

# %%
arrived = {}
for name, made_of in stacks.items():
    shares = []
    for seed in range(20):
        torch.manual_seed(seed)
        shares.append(shares_of(random_blocks(*made_of), small, query,
                                C, seed))
    arrived[name] = torch.stack(shares).mean(0)         # (T, H, W)
report(**{name: f"{int((a > 0).sum())} of {a.numel()} patches"
          for name, a in arrived.items()})

# %% tags=["figure"] alt="Five rows of four frames with the share of each patch in the gradient of one outlined patch: with the step over space alone nearly all of it lies in its own frame; with divided attention in all frames, most strongly at the patch's own place; with axial attention its row and column stand out, too."
def shown(a):
    """The query itself left out, so that the rest can be seen."""
    a = a.clone()
    h, w, t = query
    a[t, h, w] = 0
    return a / a.sum()


show.attention_over_frames(
    torch.zeros_like(film),                             # grey frames
    torch.stack([shown(a) for a in arrived.values()]),
    (query[2], *query[:2]), list(arrived),
    "From where something arrives (the outlined patch left out)")

# %%
h, w, t = query
for name, a in arrived.items():
    a = 100 * shown(a)
    own_place = a[:, h, w].sum().item()  # in the three other frames
    print(f"{name:22}own frame {a[t].sum():3.0f} %, own place "
          f"in the other frames {own_place:3.0f} %")

# %% [markdown]
# In the first row something arrives from other frames: the class token carries it from block to block. (In the scheme "space" of the paper even this does not happen: there each frame has a class token of its own.) After one divided block every patch of the clip has arrived. Its own place in the other frames stands out, because that way is one hop: 3 patches of 143 have 27 % of the sum.
# With more blocks the share of the own frame comes near a quarter. The own place keeps a fifth of the sum.

# %% [markdown] tags=["answer"]
# 30 %: hardly more than a quarter, which would be no preference at all. What comes over two hops is weak for each single patch, but these patches are many.

# %% [markdown] tags=["core", "claim:ts-trained-model-sees"]
# ## 9 · Why a new TimeSformer cannot tell the order of frames
#
# The released model starts from image weights, and its new parts start so that they change nothing at first: the weights and biases of `temporal_fc` are **zero in every block**, and so is the table `time_embed`.
# Users ask why there is this extra layer, and why it is zero (issues 7, 29 and 66 of the official repository). The layer is there *because* it can be zero: the attention over time has the weights of the image model, which were made for space. With a zero layer behind it nothing of it gets through, and the video model
# starts as the image model: for a still clip it gives the image model's answer. In a moving clip, frames meet in the class token only. The equations of the paper have no such layer, but its counts of parameters need it (section 6).
#
# What does the network know about the order of frames, then? Four starts, the same clip, and the clip with its frames in another order. **Predict** which of the four notices.

# %%
def start(time_zero, fc_zero, seed=0):
    """Your network, with the two new parts zero or not."""
    torch.manual_seed(seed)
    model = TimeSformer(32, 8, 8, 48, 2, 4, 8).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "temporal_fc" in name:
                p.mul_(0 if fc_zero else 2)
            elif p.ndim == 3:  # the three tables
                p.normal_(std=0.5)
            elif p.ndim == 2:
                p.normal_(std=1.5 * p.shape[1] ** -0.5)
        model.time_embed.mul_(0 if time_zero else 1)
    return model


in_order = torch.randn(4, 3, 8, 32, 32)  # (B, 3, T, ., .)
mixed = in_order[:, :, [3, 1, 7, 0, 5, 2, 6, 4]]
names = {True: "zero", False: "not zero"}
starts = [(a, b) for a in (True, False) for b in (True, False)]

# %% tags=["claim:ts-new-model-is-blind"]
with torch.no_grad():
    for time_zero, fc_zero in starts:
        model = start(time_zero, fc_zero)
        what = f"time {names[time_zero]}, fc {names[fc_zero]}"
        compare = agree if time_zero else differ
        compare(f"frames mixed, {what}", model(mixed), model(in_order))

# %% [markdown] tags=["answer"]
# Only the time embedding counts. Attention over time compares contents, and its result does not depend on the order in which the frames are listed; the average over the class tokens does not either. So with a zero `time_embed` the network is blind to order *whatever* `temporal_fc` is. With a time embedding it is not blind, even if `temporal_fc` is zero: then each frame is marked, but frames are not yet compared.

# %% [markdown]
# Blind at the start, it must learn to see. Training follows the gradient. Which part of it knows about order? Take the difference of the answers for a clip and for its film run backwards, and ask for its derivative by the two new parts:

# %%
def order_gradient(model):
    """Sizes of d(f(clip) - f(backwards)) by time_embed, by fc."""
    gap = model(in_order) - model(in_order.flip(2))     # (B, K)
    fc = [block.temporal_fc.weight for block in model.blocks]
    by_time, *by_fc = torch.autograd.grad(
        gap[:, 0].sum(), [model.time_embed, *fc])
    return by_time.norm(), sum(g.norm() for g in by_fc)


for time_zero in (True, False):
    by_time, by_fc = order_gradient(start(time_zero, fc_zero=True))
    what = f"fc zero, time {names[time_zero]}"
    report(**{f"{what}: time can help": bool(by_time > 1e-3),
              f"{what}: fc can help": bool(by_fc > 1e-3)})

# %% [markdown]
# With both at zero, the derivative by `temporal_fc` vanishes: no small change of it makes the network see order. At first only a change of the time embedding makes order visible. It does so by another path, through attention over space and the class token. (The loss does move `temporal_fc` in the first step as well, but not towards order.) What attention *over time* can tell about order is like a product of two factors that both start at zero. That is a saddle: along this path the slope is zero, although the direction is useful.
#
# An image model as start makes up for it: much is known already when the order is learned. From scratch it may be one reason for a long wait (a user reports hardly any progress after 15 epochs, issue 137 of the official repository). How much of the wait is due to the zeros is not known to us.
# The course's mini has no image weights, so it starts with both parts *not* at zero.
#
# **Live, and only a sketch** (one seed, in `smoke` eight steps; one seed proves nothing). The mini with two starts, trained on `motion`. What is drawn is the mean size of f(clip) − f(clip backwards), in logits, from the first step on. (Before it the zero start has 0, which has no logarithm.)

# %%
from vt_course.training.recipes import RECIPES

recipe = RECIPES["timesformer_mini"]
view = dict(frames=recipe.frames, stride=recipe.stride,
            size=recipe.size)
train = VideoFolder(motion.train, classes=motion.classes, train=False,
                    **view)
count = {"smoke": 64, "lecture": 256, "full": 1600}[PROFILE]
some = [train[i * len(train) // count] for i in range(count)]
pool = torch.stack([s["clip"] for s in some])  # (count, 3, T, ., .)
labels = torch.tensor([s["label"] for s in some])


def own_start(zero):
    """The mini with its two new parts zero, or as it comes."""
    torch.manual_seed(0)
    model = create("timesformer_mini")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "temporal_fc" in name or name == "time_embed":
                p.mul_(0 if zero else 1)
    return model

# %%
def order_seen(model, clips):
    with torch.no_grad():
        gap = model(clips) - model(clips.flip(2))       # (B, K)
    return gap.abs().mean().item()


def follow(model, steps, batch=16):
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-4)
    g = torch.Generator().manual_seed(0)
    seen = [order_seen(model, pool[:16])]
    for _ in range(steps):
        i = torch.randint(len(pool), (batch,), generator=g)
        loss = F.cross_entropy(model(pool[i]), labels[i])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(order_seen(model, pool[:16]))
    return seen


steps_here = {"smoke": 8, "lecture": 60, "full": 1500}[PROFILE]
paths = {name: follow(own_start(zero), steps_here)
         for name, zero in (("both zero", True), ("not zero", False))}
zero, other = (torch.tensor(paths[name]) for name in paths)
report(blind_at_the_start=bool(zero[0] < 1e-6),
       less_blind_after_one_step=bool(zero[1] > 3 * zero[0]))
ratio = (other[1] / zero[1]).item()
within("after one step, the other start sees", ratio, 20, 1e5,
       " times as much")

# %% tags=["figure", "measured"] alt="The logarithm of the difference between the answers for a clip and for the same clip backwards, against training steps: the start with both parts zero lies far below the other start."
show.curves(
    {name: dict(x=list(range(1, len(y))), y=torch.tensor(y[1:]).log10())
     for name, y in paths.items()},
    "log₁₀ of mean |f(clip) − f(backwards)|",
    "How much of the order is seen, step by step", "step of training")

# %% [markdown]
# The zero start leaves blindness with the first step, because the time embedding gets a gradient at once. But it begins several powers of ten below the other.
#
# Eight steps are no training. Stored are two seeds of each start over 1,200 steps of the same loop, with the recipe's augmentation left out and a test on 400 held-out clips every 100 steps (`results/timesformer_zero_start.json`). The eight motions form four pairs: left and right, up and down, grow and shrink, clockwise and counter-clockwise. Each is its partner's film played backwards. A model that is blind to order can at most guess between the two, so it cannot pass 50 %. **Predict** which start passes it, and at which step.

# %%
import json

from vt_course import repo_root

file = repo_root() / "results/timesformer_zero_start.json"
long_runs = json.loads(file.read_text(encoding="utf-8"))["runs"]
tested = {f"{r['start']}, seed {r['seed']}":
          dict(x=r["step"], y=[100 * a for a in r["top1"]])
          for r in long_runs}
report(runs=len(tested), steps=long_runs[0]["step"][-1])

# %% tags=["figure"] alt="Accuracy on held-out clips against steps of training, two seeds of each start: the starts with both parts not zero rise above a line at 50 percent before the end, the starts with both parts zero stay below it."
show.curves(tested, "top-1 on 400 held-out clips, %",
            "Two starts, everything else equal", "step of training",
            levels={"most without the order: 50 %": 50})

# %% [markdown]
# Within this time the zero start does not pass 50 %. The other start does: with one seed at step 900, with the other at step 1,100. At the end the first stands at 66 %, the second at 54 %. The second is less than two standard errors above 50 % (one is 2.5 points for 400 clips). Two seeds and one small model: a sketch, but one that fits the derivative above.

# %% [markdown] tags=["deep-dive", "claim:ts-place-embedding"]
# ## 10 · Positions: none, space, space and time
#
# The paper trains the divided model with three choices of positions (table 4):
#
# | positions | Kinetics-400, top-1 | Something-Something v2, top-1 |
# |---|---|---|
# | none | 75.4 | 45.8 |
# | space only | 77.8 | 52.5 |
# | space and time | 78.0 | 59.5 |
#
# **Predict** what each choice makes the network blind to. We need no training for that, and no new class: a table of zeros is no table.

# %%
def blinded(model, pos=True, time=True):
    """A copy of your network without some of its positions."""
    copy = TimeSformer(32, 8, 8, 48, 2, 4, 8).eval()
    state = dict(model.state_dict())
    if not pos:
        state["pos_embed"] = torch.zeros_like(state["pos_embed"])
    if not time:
        state["time_embed"] = torch.zeros_like(state["time_embed"])
    _ = copy.load_state_dict(state)
    return copy


def move_patches(x, order):
    """The 4 x 4 patches of each frame in another order."""
    cut = "b c t (h p) (w q) -> b (h w) c t p q"
    put = "b (h w) c t p q -> b c t (h p) (w q)"
    x = rearrange(x, cut, p=8, q=8)[:, order]
    return rearrange(x, put, h=4)


whole = start(False, False)
places = torch.randperm(16, generator=torch.Generator().manual_seed(1))
puzzle = move_patches(in_order, places)

# %%
choices = {"none": (False, False), "space": (True, False),
           "space and time": (True, True)}
with torch.no_grad():
    for name, (pos, time) in choices.items():
        model = blinded(whole, pos, time)
        (differ if pos else agree)(f"{name}: patches moved",
                                   model(puzzle), model(in_order))
        (differ if time else agree)(f"{name}: frames mixed",
                                    model(mixed), model(in_order))

# %% [markdown]
# Without positions, a clip whose patches are thrown together like a puzzle (in all frames alike) gets the same answer. With positions in space only, it is frames that may be mixed. Now read the table again: on Kinetics, time is worth 0.2 points, on Something-Something 7.0. There classes differ by what happens first ("pushing from left to right"), and a network
# that cannot tell the order has to guess. On the embedded label `motion` this is sharp: without a time embedding *no* TimeSformer can beat 50 %, by the same argument, because each class has a partner that is its film run backwards. On `appearance`, where one frame tells the class, it need not lose anything.
#
# Blind is one thing, trained is another. Stored is the mini, trained for 4,000 steps with each of the three choices, three seeds each, on both labels of the same clips (`vt-course experiments --only timesformer-positions-motion timesformer-positions-appearance`; nothing is trained here).
#
# **Predict:** how many points are the three choices apart on `motion`, and how many on `appearance`? In the paper time is worth 7.0 points on Something-Something and 0.2 on Kinetics. (In the figures, ± is the standard deviation over the seeds.)

# %%
from vt_course.training.experiments.results import read_result


def trained_with(label):
    """Choice of positions -> accuracies in percent, one a seed."""
    result = read_result(f"timesformer-positions-{label}")
    return {name: [100 * run["top1"]["normal"] for run in v["runs"]]
            for name, v in result["variants"].items()}


accuracies = {label: trained_with(label)
              for label in ("motion", "appearance")}

# %% tags=["figure"] alt="Accuracy of three trained models a row on motion, one dot a seed: space and time far to the right, space only and none on the left."
show.spread(accuracies["motion"], "top-1 on test clips of motion, %",
            "The label is the motion")

# %% tags=["figure"] alt="Accuracy of three trained models a row on appearance, one dot a seed: the three rows lie close together on the right."
show.spread(accuracies["appearance"],
            "top-1 on test clips of appearance, %",
            "The label is the pattern of the background")

# %%
means = {label: {name: sum(v) / len(v) for name, v in rows.items()}
         for label, rows in accuracies.items()}
for name in ("space only", "none"):
    within(f"motion, {name}", means["motion"][name], 0, 52, " %")
gain = means["motion"]["space and time"] - means["motion"]["space only"]
within("motion: the time embedding is worth", gain, 20, 100, " points")
apart = (max(means["appearance"].values())
         - min(means["appearance"].values()))
within("appearance: all three lie within", apart, 0, 5, " points")

# %% [markdown] tags=["answer"]
# Tens of points on `motion`, less than 5 on `appearance`. That is the paper's contrast in kind: the time embedding is worth what the order of frames is worth for the label. Its size is another, because `motion` is *nothing but* order, and Something-Something is not.

# %% [markdown]
# Two things were not expected. On `appearance`, *none* is the best with each of the three seeds, by one point; in the paper it is the worst. We do not know why. And on `motion` we had written down 15 to 30 % for no positions at all, because a set of patches without places should not tell left from up. The runs reach 49 %: they tell the pair of motions as well with no positions as with those of space.
#
# How can a network without positions tell left from up? Not by where the patches lie: the puzzle above excludes that, exactly. What is left is the **inside** of a patch. The linear layer has one weight for each pixel of a patch, so it does know where a pixel lies in its patch.
#
# **Predict**: turn each patch by 90 degrees where it lies, in all frames. What does a network without positions answer? And one with positions?

# %%
def turn_patches(x):
    """Each 8 x 8 patch of each frame turned by 90 degrees."""
    patches = rearrange(x, "b c t (h p) (w q) -> b c t h w p q",
                        p=8, q=8)
    patches = patches.rot90(1, (5, 6))
    return rearrange(patches, "b c t h w p q -> b c t (h p) (w q)")


film_turned = in_order.rot90(1, (3, 4))           # the whole picture
inside_turned = turn_patches(in_order)
with torch.no_grad():
    for name, (pos, time) in choices.items():
        model = blinded(whole, pos, time)
        (differ if pos else agree)(
            f"{name}: patches turned = film turned",
            model(inside_turned), model(film_turned))

# %% [markdown]
# Without positions the two answers are equal: a turned film is a film of turned patches that are moved, and moved patches change nothing. So for this network, "left" with each patch turned is "up" or "down". All that it knows of left and up it reads inside single patches, from edges and from the small steps that they make. Our expectation forgot that a patch is more than a colour.
#
# If a patch were one pixel, its ceiling would be 37.5 %: left, right, up and down could not be told apart (1 in 4), and of the other two pairs the order would be missing (1 in 2). (This assumes that shapes and backgrounds favour no direction.)

# %% [markdown]
# Why is there no table of N·T rows, one for each patch? The paper does not try it. Two tables share what is known of a place among all frames, and they can be made from those of an image model.

# %% [markdown] tags=["deep-dive", "claim:ts-resizing-in-one-dimension"]
# ## 11 · From an image model to a video model
#
# TimeSformer starts from the weights of an image ViT. The names fit, apart from the new parts. The rule (appendix A of the paper speaks of the weights; the released code shows the details): copy what has the same name; let the attention over time and its norm start as those over space; set `temporal_fc` and
# `time_embed` to zero; give the head its own start.

# %%
def from_image(image_state, model):
    """A state for `model` out of that of an image model."""
    state = dict(model.state_dict())
    for name in state:
        source = name.replace("temporal_norm1", "norm1")
        source = source.replace("temporal_attn", "attn")
        if "temporal_fc" in name or name == "time_embed":
            state[name] = torch.zeros_like(state[name])
        elif source in image_state and not name.startswith("head"):
            state[name] = image_state[source]
    return state

# %% [markdown]
# An image ViT is a TimeSformer of one frame with attention over space only. So the package can build one, with random weights. The heads are made equal, so that the answers can be compared. By section 9, a still clip gets the image model's answer. **Predict** for a *moving* clip of four frames, with `temporal_fc` and `time_embed` still at zero: is the answer that of the image model for the first frame, the average of its answers for the four frames, or neither?

# %%
_ = torch.manual_seed(0)
image_model = create("timesformer_mini", **shape | dict(num_frames=1),
                     attention="space").eval()
with torch.no_grad():
    for p in image_model.parameters():
        p.add_(0.1 * torch.randn_like(p))
image_state = image_model.state_dict()
video = TimeSformer(**shape).eval()
state = from_image(image_state, video)
state |= {n: image_state[n] for n in ("head.weight", "head.bias")}
report(loading=str(video.load_state_dict(state, strict=True)))

# %% tags=["claim:ts-still-clip"]
picture = torch.randn(2, 3, 32, 32)
with torch.no_grad():
    answer = image_model(picture[:, :, None])           # (B, K)
    still = video(picture[:, :, None].repeat(1, 1, 4, 1, 1))
    agree("a still clip = the image model", still, answer)
    moving = torch.randn(2, 3, 4, 32, 32)
    alone = torch.stack([image_model(moving[:, :, t:t + 1])
                         for t in range(4)])            # (T, B, K)
    differ("a moving clip, against its first frame",
           video(moving), alone[0])
    differ("a moving clip, against the average of its frames",
           video(moving), alone.mean(0))

# %% [markdown] tags=["answer"]
# Neither. In a still clip all frames make the same tokens, all copies of the class token learn the same, and their average is what the image model has. In a moving clip the copies learn different things. They are averaged after *each* block, not once at the end, and the patches of the next block look at the average. So frames influence each other, even while `temporal_fc` is zero.

# %% [markdown]
# ### Another data set: a new head
#
# Users ask how to fine-tune on a small data set of their own (issues 20 and 88 of the official repository). The authors' answer is about files: write lists in the style of Kinetics, and give the number of classes. (In this course: `--data folder:PATH`; notebook 08, section 12, prepares a folder of videos and fine-tunes.) In the network only the head has to be new. Here for six classes, from the trained mini with its eight motions:

# %%
six = TimeSformer(**only(mini.config) | dict(num_classes=6)).eval()
kept = {n: t for n, t in weights.items() if not n.startswith("head")}
loaded = six.load_state_dict(kept, strict=False)
report(new=", ".join(loaded.missing_keys),
       left_over=len(loaded.unexpected_keys))
with torch.no_grad():
    report(answers=six(clips).shape)

# %% [markdown]
# ### Boxes: the patches as a map
#
# And AVA, where each person of a frame has a box and actions of its own? (Issues 1, 99 and 128. The authors had not tried it; the first answer says that the network would have to be changed for boxes.) What a head for boxes needs is a map of features. TimeSformer has one, the patches after the last block. It is as fine as the patches, and the same after every block: there is no pyramid.

# %%
def map_of_patches(x, model):
    """(B, 3, T, height, width) -> (B, C, T, H, W), no class token."""
    T = x.shape[2]
    frames = rearrange(x, "b c t h w -> (b t) c h w")
    maps = model.patch_embed.proj(frames)               # (B·T, C, H, W)
    H, W = maps.shape[2:]
    patches = rearrange(maps, "(b t) c h w -> b t (h w) c", t=T)
    z = add_positions(patches, model.cls_token, model.pos_embed,
                      model.time_embed)
    for block in model.blocks:
        z = block(z, (H, W, T))
    return rearrange(z[:, 1:], "b (h w t) c -> b c t h w", h=H, w=W)


with torch.no_grad():
    features = map_of_patches(clips, mine)
    agree("map = the package's last feature map",
          features, package.features(clips)[-1])
report(map=features.shape)

# %% [markdown]
# From here it goes on as for MViT: an average over time, and a small grid out of the map for each box (notebook 05, section 7).

# %% [markdown]
# ### Another size: 224 to 448 pixels
#
# TimeSformer-HR takes 448 × 448 pixels: 28 × 28 places, and the table has 14 × 14. It must be stretched. The released code takes the nearest old place, and leaves the class token's row alone. (The table of times is stretched in the same way along its one axis, where a clip has another number of frames.)
#
# ### Exercise 6.6 · Positions for another grid
#
# Difficulty 2/5 · importance 3/5 · 15 minutes
#
# `pos` is (1, 1 + h·w, C), entry 0 for the class token, then row by row for a grid of h × w places. `grid` is (h, w), `new` is (H, W). Return (1, 1 + H·W, C). Row i of the new grid takes row ⌊i · h / H⌋ of the old one, and columns work in the same way. (⌊ ⌋ rounds down.)

# %% tags=["exercise:6.6"]
def resize_positions(pos, grid, new):
    """(1, 1 + h·w, C) -> (1, 1 + H·W, C), nearest neighbour."""
    raise NotImplementedError("exercise 6.6")

# %% tags=["check:6.6"]
resize_positions = check("6.6", resize_positions)

# %% [markdown] tags=["hints:6.6"]
# <details><summary>Hint 1: intuition</summary>
#
# Take the class token's entry off, make a picture of the rest, stretch the picture, and make a row of it again.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `F.interpolate(picture, size, mode="nearest")` stretches (B, C, h, w). It rounds down, as asked, and passes the check. For some pairs of sizes its arithmetic is off by one place; `torch.arange(H) * h // H` is exact.
# </details>
# <details><summary>Symptom: right while the number of rows stays, wrong otherwise</summary>
#
# Stretched as one line of h·w entries, a place moves into another column, unless rows stay rows by luck.
# </details>

# %% tags=["solution:6.6"]
def resize_positions(pos, grid, new):
    """(1, 1 + h·w, C) -> (1, 1 + H·W, C), nearest neighbour."""
    picture = pos[:, 1:].mT.unflatten(2, grid)          # (1, C, h, w)
    picture = F.interpolate(picture, size=new, mode="nearest")
    return torch.cat([pos[:, :1], picture.flatten(2).mT], 1)


resize_positions = check("6.6", resize_positions, solution=True)

# %%
table = torch.arange(17.0).view(1, 17, 1)               # 4 x 4 places
larger = resize_positions(table, (4, 4), (6, 6))        # (1, 37, 1)
line = F.interpolate(table[:, 1:].mT, size=36)[0, 0]    # as one line
in_2d = larger[0, 1:, 0].view(6, 6).int()
in_1d = line.view(6, 6).int()
report(places_that_differ=int((in_2d != in_1d).sum()))

# %% tags=["figure"] alt="Two grids of 6 × 6 numbered places: stretched in two directions, the numbers 1 to 16 keep their rows and columns; stretched as one line, rows run over into the next."
show.regions_2d([in_2d, in_1d],
                ["in two directions", "as one line of 16"])

# %% [markdown]
# The right picture is what the official *loader* does when it reads weights of another size (`load_pretrained` of `timesformer/models/helpers.py`); the official *forward* makes the left one, and so does `vt_course`. (Numbers are entries of `pos`: 1 to 16, because 0 is the class token.) What does the line do from 14 × 14 to 28 × 28, the case that occurs? It is stretched four times. Here is what the first two new rows take:

# %%
old = torch.arange(196.0).view(1, 1, -1)                # 14 x 14 places
line = F.interpolate(old, size=784)[0, 0].view(28, 28).int()
for i in (0, 1):
    row, column = line[i] // 14, line[i] % 14
    report(**{f"new row {i}": f"old row {row.unique().tolist()}, "
              f"columns {column.min()} to {column.max()}"})

# %% [markdown]
# Each new row gets *half* an old row, stretched over its whole width. Stretched in two directions it would get the whole one. Nearest neighbours also mean that four new places share one vector: what tells them apart must be learned in the fine-tuning.

# %% [markdown] tags=["deep-dive", "claim:ts-frames", "claim:ts-clip-in-the-middle"]
# ## 12 · One clip and three crops
#
# At test time the paper takes one clip from the middle of the video and three crops of it: top-left, centre, bottom-right. It averages the three softmax scores (section 4). The released test code differs in both points. With a single clip, its rule gives the start 0; and it adds logits.

# %%
def first_frame(num_frames, frames, stride, rule):
    """Where the one test clip begins."""
    room = max(num_frames - frames * stride, 0)
    return room // 2 if rule == "paper" else 0


for length in (300, 150):
    report(**{f"{length} frames, clip of 8, stride 32":
              f"paper {first_frame(length, 8, 32, 'paper')}, "
              f"released {first_frame(length, 8, 32, 'released')}"})

# %% [markdown]
# A clip of 8 frames with stride 32 spans 256 frames. A video of 300 leaves room for 22 before the middle clip, less than a second; a video of 150 leaves none. And sums of logits against averages of probabilities? They can disagree, when one view is very sure and the others are mildly of another opinion:

# %%
views = torch.tensor([[9.0, 0.0], [0.0, 2.0], [0.0, 2.0]])  # (3, K)
report(sum_of_logits=int(views.sum(0).argmax()),
       average_of_softmax=int(views.softmax(-1).mean(0).argmax()))

# %% [markdown]
# Both are small effects. Users who cannot reach the 77.9 % of the released weights (issues 16 and 94 of the official repository) are mostly told something else: their copy of Kinetics lacks videos. Here and in `vt_course`, softmax scores are averaged.

# %% [markdown] tags=["core", "claim:ts-space-is-blind"]
# ## 13 · Does it use time?
#
# The embedded `motion` clips answer this with exact ceilings (notebook 04, section 12): a model that sees one frame cannot beat 12.5 %, one that sees the frames without their order cannot beat 50 %. The mini has the divided scheme. First a short training, to show that everything runs:

# %%
import tempfile

from vt_course.training.fit import fit

max_steps = {"smoke": 4, "lecture": 60, "full": None}[PROFILE]
temporary = tempfile.TemporaryDirectory()
run = temporary.name
summary = fit(recipe, run, max_steps=max_steps, progress=False)
report(model=summary["model"], parameters=summary["parameters"])

# %% [markdown]
# The shipped weights come from the same call, run to the end once, with 80 epochs instead of 40 (`results/ship/timesformer_mini.json`). We evaluate them (in the `full` profile: yours) on held-out clips: 400 clips in `smoke`, otherwise 2,000. There are four orders of frames: in order, shuffled, one frame repeated over the whole clip, and backwards. Two more bars show the same model, frames in order, with a part at zero: its **time embedding**, and its **`temporal_fc`**. **Predict** each bar. Which of the last two models is certainly blind to order (section 9)?

# %%
from vt_course.training.checkpoint import load_run
from vt_course.training.evaluate import evaluate, open_data, open_test

source = run if PROFILE == "full" else mini_weights("timesformer_mini")
trained, _ = load_run(source, "last")
held_out = (open_data(recipe)[1] if PROFILE == "smoke"
            else open_test(recipe, progress=False))
quietly = dict(workers=0, progress=False)
words = dict(normal="in order", shuffled="shuffled", single="one frame",
             reversed="backwards")
results = {text: evaluate(trained, held_out, order=order, **quietly)
           for order, text in words.items()}


def without(part):
    """The trained model with all weights of this name at zero."""
    model, _ = load_run(source, "last")
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.mul_(0 if part in name else 1)
    return model


blind, unmixed = without("time_embed"), without("temporal_fc")
temporary.cleanup()
results["no time embedding"] = evaluate(blind, held_out, **quietly)
results["no temporal_fc"] = evaluate(unmixed, held_out, **quietly)

# %% tags=["figure"] alt="Bars of the accuracy on held-out clips: in order it stands far above the dashed line at 50 %, shuffled and without time embedding near this line, one frame and without temporal_fc near the line at 12.5 %, backwards lowest."
bars = {text: (r["top1"], r["stderr"]) for text, r in results.items()}
show.ceilings(bars, {"one frame": 0.125, "no order": 0.5},
              f"Top-1 on {len(held_out):,} held-out clips")

# %%
for text, ceiling in (("one frame", 0.125), ("shuffled", 0.5),
                      ("no time embedding", 0.5)):
    error = math.sqrt(ceiling * (1 - ceiling) / len(held_out))
    most = round(100 * (ceiling + 4 * error), 1)
    within(text, 100 * results[text]["top1"], 0, most, " %")
counts = results["backwards"]["confusion"]              # (true, said)
partner = sum(counts[i][i + 1] + counts[i + 1][i]       # left, right
              for i in (0, 2, 4, 6)) / len(held_out)
within("backwards, called the partner", 100 * partner, 60, 100, " %")
within("in order", 100 * results["in order"]["top1"], 70, 100, " %")
clip = held_out[0]["clip"][None]
with torch.no_grad():
    agree("blind to order", blind(clip), blind(clip.flip(2)))

# %% [markdown] tags=["answer"]
# Without the time embedding the network is blind to the order of frames, exactly, by section 9. So its bar cannot stand above 50 % but by chance. How far below it falls depends on the trained weights. (A ceiling bounds the *expected* accuracy; the checks allow four standard errors.) Everything that this model knows about direction it owes to one table of T · C numbers. Backwards, it mostly names the partner: it answers correctly for what it sees.
#
# With `temporal_fc` at zero it falls nearly to chance. What it has learned about motion, the pair included, goes through its attention over time. (This is weaker evidence than the first, because the later layers were trained with this layer at work.)
#
# Compare Video Swin of notebook 04, which reads the direction inside its tubes
# of two frames. TimeSformer has no tubes: a token never holds two frames, so the *only* way to the direction is attention over time, or between class tokens, with marked frames.

# %% [markdown] tags=["core"]
# ## 14 · What this architecture buys, and what it costs
#
# The families so far, trained in one regime of 4,000 steps on the same clips and the same machine. (So this TimeSformer had half the steps of the one in section 13.) The last row is a ViT that sees each frame by itself and averages its class tokens: the scheme `space`, in which frames meet only in the average at the end. There is one mark for each of five seeds (`vt-course experiments --only families-motion`), and dashed lines stand at the two ceilings, 12.5 and 50 %. A difference that is smaller than the spread over seeds is not shown by these runs.

# %% tags=["figure"] alt="One row for each family: marks for the accuracy with frames in order, shuffled, in reverse and one frame repeated, dashed lines at 12.5 % and 50 %, and bars for parameters, multiply-accumulates, time and memory of a clip; TimeSformer stands between MViTv2 and the ViT that averages."
show.families("Video Swin", "MViT", "MViTv2", "TimeSformer",
              "frame-average ViT")

# %% [markdown]
# **It buys** the image model. All weights of a ViT are used, and at the start a still clip gets the image model's answer. Length is cheap: the cost is linear in the number of frames, and the released models go to 96 frames, which joint attention with stored logits could not.
# Every patch can reach every other one within a block.
#
# **It costs** a second set of projections in every block: 35.5 M parameters and, at 8 frames, more multiply-accumulates than joint attention. There is no hierarchy: all blocks work at the resolution of the first, so small objects need small patches, and these cost the square in the step over space.
# The order of frames must be learned from a table that starts at zero. From scratch, on little data, this is slow (section 9).
#
# ## What is scaled down, and what was left out
#
# - The accuracies above are of a small model on drawn shapes. No accuracy of the paper is reproduced here: its models start from ImageNet weights and train on Kinetics, Something-Something and HowTo100M.
# - Parameters, multiply-accumulates and the equalities are exact and at full scale. Times and peaks of memory are of one CPU.
# - How fast the zero start leaves blindness is only sketched, with two seeds of a small model. The comparison of table 4 (positions) is repeated with a small model on the two labels of the course's clips, a few seeds each.
# - Local-global and axial attention were never released. Their patterns are our reading of section 3, and that their parameters come out speaks for the layers, not for the patterns.
# - Dropout and drop path act in training only; your network leaves them out, the package's has them.
# - In both schemes of one softmax, space and joint, a block is that of ViT. The package's class has them; yours is the divided one, and section 6 has the blocks of the others.
#
# ## Summary
#
# - Each frame is cut into patches; with the class token they are one sequence of N·T + 1 tokens that keeps its length.
# - A scheme is a list of steps; a step is a mask over all patches, or attention in groups: the same numbers.
# - Divided attention is two masked attentions in a row, N + T + 2 comparisons a patch in the paper and N + T + 1 in the released code, where the class token skips the step over time and its copies are averaged over space.
# - At 8 frames of 224 pixels it costs more than joint attention; from 11 frames on it costs less.
# - "Does not fit" was true of stored logits; with fused attention joint takes less memory than divided, and more time.
# - A zero time embedding makes the network blind to order, whatever else it holds; a zero `temporal_fc` shuts off attention over time, and frames meet in the class token only.
# - From an image model: copy, copy the attention over space to time, zero the rest.
#
# ## Questionnaire
#
# 1. A patch at row 3, column 5, frame 2 of a 6 × 6 × 4 clip: how many patches does it see in `global`, and does it see the one at row 1, column 1, frame 0?
# 2. Why can divided attention not be written as one masked attention?
# 3. How many copies of the class token does axial attention make in its last step, for 14 × 14 × 8?
# 4. You double the frames. What happens to the comparisons of a patch in joint and in divided attention, and to the parameters?
# 5. A colleague sets `time_embed` to zero, keeps it fixed and trains. What is the best accuracy on `motion`?
# 6. You load 224-pixel weights into a 448-pixel model. Which tables change, and what do four neighbours share?

# %% [markdown] tags=["answer"]
# <details><summary>Answers</summary>
#
# 1. 6 · 6 · 4 / 8 = 18. Yes: the distances 2, 4 and 2 are all even (section 2).
# 2. Its second softmax compares tokens that the first step has changed, with other weights (section 4).
# 3. One for each group of `height`, a column of a frame: 14 · 8 = 112 (section 6).
# 4. Joint: N·T + 1 nearly doubles. Divided: N + T + 2 grows by T, 8 of 206. The parameters grow by the rows of the time table, 8 · 768 (sections 2 and 6).
# 5. 50 % on average: the network is blind to order (sections 9 and 13).
# 6. Only `pos_embed`. Four new places take the vector of one old place (section 11).
# </details>

# %% [markdown]
# **Next:** [07 · UniFormer](07_uniformer.ipynb), which compares contents only in its deep layers, and offsets in the shallow ones.
