# %% [markdown]
# # 02 · Attention, and what it costs
#
# *Vaswani et al., "Attention Is All You Need", [arXiv 1706.03762](https://arxiv.org/abs/1706.03762); Liu et al., "Swin Transformer",
# [2103.14030](https://arxiv.org/abs/2103.14030), section 3.2; Bertasius et al., "Is Space-Time Attention All You Need for Video Understanding?",
# [2102.05095](https://arxiv.org/abs/2102.05095), sections 3 and 4.1.*
#
# By the end of this notebook you own multi-head self-attention. You build it from two loops, and it is equal to PyTorch's own on the same weights.
# You also own its price list: multiply-accumulates from a formula that a counter confirms to the last digit, bytes, and the number of frames at which a
# clip no longer fits into a given memory. This price is the reason for every other paper of the course.
#
# | | |
# |---|---|
# | **Needs** | PyTorch: tensors, `Linear`, autograd. Notebook 01 helps, but is not required |
# | **Data** | the embedded clips: `vt-course data synthetic`, once (`make course` and `make lab` do it) |
# | **Time** | 2 to 3 hours with the exercises, and half an hour more for sections 6 and 8; to run it on two quiet cores: 15 to 30 seconds (`smoke`), 20 to 40 (`lecture`), 45 to 90 (`full`) |
# | **Hardware** | a laptop CPU; it takes 0.8 to 1.4 GB of memory, `full` up to 1.8 |
#
# **You will be able to**
#
# 1. write attention as loops, as matrices, with heads, and as one fused call, and check that they are the same (exercises 2.1 and 2.2, questions 1 and 7);
# 2. derive the factor 1/√d, and say what happens to gradients without it (questions 2 and 8);
# 3. say what attention knows about order without positions, with absolute and with relative ones (exercise 2.3, question 3);
# 4. derive the cost of attention among all tokens and in windows, and say where each term takes over (exercises 2.4 and 2.5, question 4);
# 5. read "FLOPs" in a paper: which unit, which counter, one clip of a video or several (question 5);
# 6. predict the bytes of joint space-time attention, and from them the longest clip for a memory (exercise 2.6, question 6).

# %% tags=["parameters"]
# smoke: maps up to 42 × 42 tokens are timed; lecture: 56 × 56 too,
# where the gap between the curves is wider; full: 70 × 70
PROFILE = "smoke"

# %%
import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from vt_course.lab import show
from vt_course.lab.check import check
from vt_course.lab.report import agree, differ, report, within

_ = torch.manual_seed(0)

# %% [markdown]
# Four helpers print what is the same on every machine. `report` prints shapes and counts. `agree` stops the notebook unless two tensors match everywhere,
# and prints the bound that it checked (times |x| for numbers x above 1). `differ` is its control; its line begins with ≠. `within` checks that a number lies in an interval.

# %% [markdown] tags=["core"]
# ## 1 · One layer in one picture
#
# A clip of 8 frames of 224 × 224 pixels, cut into patches of 16 × 16, has 8 · 14 · 14 patches. Each becomes a token, a vector of C = 768 numbers, its channels. One more token, the [class token](glossary.md#class-token), collects
# the answer (TimeSformer, section 3). Attention lets each token look at all the others:
#
# - from each token it makes a [**query**](glossary.md#query) (what am I looking for?), a [**key**](glossary.md#key) (what do I offer?) and a [**value**](glossary.md#value) (what do I say?), in h = 12 [heads](glossary.md#head) of d = 64 channels;
# - it compares each query with each key. The results are the [**logits**](glossary.md#logit), one for each pair and head. (A logit is a number that goes into a softmax.)
# - it turns each row of logits into shares that sum to 1: the **weights**;
# - each token takes the average of all values with its weights. A last linear layer mixes the heads.
#
# **Predict, then run.** Which of these tensors is the largest, and how many times larger is it than the tokens themselves?

# %%
def attention_tensors(N, C, h):
    """What one layer of attention makes of one clip of N tokens."""
    d = C // h
    return [dict(name="tokens", axes="N C", shape=(N, C)),
            dict(name="queries, keys, values", axes="3 h N d",
                 shape=(3, h, N, d)),
            dict(name="logits", axes="h N N", shape=(h, N, N)),
            dict(name="weights", axes="h N N", shape=(h, N, N)),
            dict(name="average of the values", axes="h N d",
                 shape=(h, N, d)),
            dict(name="output", axes="N C", shape=(N, C))]


clip_tokens = 8 * 14 * 14 + 1
report(tokens=clip_tokens, pairs=clip_tokens**2,
       logits_in_12_heads=12 * clip_tokens**2,
       logits_over_tokens=f"{clip_tokens * 12 / 768:.1f} times")

# %% tags=["figure"] alt="A table of the six tensors of one layer of attention with their shapes and bytes: logits and weights have by far the longest bars, 118 MB each; no other tensor has more than 14.5 MB."
show.shape_flow(attention_tensors(clip_tokens, 768, 12),
                "One layer of attention, 8 frames of 224 × 224",
                counts=False)

# %% [markdown] tags=["answer"]
# The logits and the weights. Each of the two is 24.5 times as large as the tokens: N · h / C.

# %% [markdown]
# The ratio N · h / C grows with N. All other rows of the table grow in proportion to the number of tokens; these two grow with its square. Sections 7 to 10 are about the two longest bars.

# %% [markdown] tags=["core"]
# ## 2 · One head: from loops to matrices
#
# Our toy clip has 2 frames of 2 × 3 tokens, so N = 12, and one head with d = 8. For query i and key j the logit is qᵢ·kⱼ/√d
# (TimeSformer, equation 5). The softmax turns the logits of one query into its weights. The result is the average of the values with these weights (equation 7). Number by number:

# %% tags=["definition"]
def attention_in_loops(q, k, v):
    """One head: q, k, v (N, d) -> (N, d)."""
    N, d = q.shape
    out = torch.zeros(N, d)
    for i in range(N):
        logits = [(q[i] * k[j]).sum() / math.sqrt(d) for j in range(N)]
        powers = [logit.exp() for logit in logits]
        for j in range(N):
            out[i] += powers[j] / sum(powers) * v[j]
    return out


generator = torch.Generator().manual_seed(2)
toy = torch.randn(3, 1, 1, 12, 8, generator=generator)
toy_q, toy_k, toy_v = toy                             # 3 × (B, h, N, d)
by_loops = attention_in_loops(toy_q[0, 0], toy_k[0, 0], toy_v[0, 0])
report(toy=toy_q.shape, result=by_loops.shape)

# %% [markdown]
# All products together are one matrix product: row i, column j of q kᵀ is qᵢ·kⱼ. Divided by √d, they are the logits. The average is another one: weights times v. What
# stands between the two is yours.
#
# ### Exercise 2.1 · The weights
#
# Difficulty 1/5 · importance 5/5 · 10 minutes
#
# `(B, h, N, d), (B, h, M, d) → (B, h, N, M)`: the weights of each query over all keys. There are N queries and M keys; M may be larger or smaller than N (MViT in
# notebook 05 has fewer keys than queries). Rows are queries, columns are keys, and each row sums to 1.

# %% tags=["exercise:2.1"]
def attention_weights(q, k):
    """(B, h, N, d), (B, h, M, d) -> (B, h, N, M)."""
    raise NotImplementedError("exercise 2.1")

# %% tags=["check:2.1"]
attention_weights = check("2.1", attention_weights)

# %% [markdown] tags=["hints:2.1"]
# <details><summary>Hint 1: intuition</summary>
#
# A logit is a scalar product over channels, so the matrix product must sum over channels. What has to sum to 1 are the weights of one query.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `logits = q @ (k with its last two axes exchanged) / √d`, then softmax over the last axis
# </details>
# <details><summary>Symptom: the shape is right only for N = M, or the columns sum to 1</summary>
#
# If the shape is wrong for N ≠ M, the product is k qᵀ. If the columns sum to 1 instead of the rows, the softmax runs over the queries.
# </details>

# %% tags=["solution:2.1"]
def attention_weights(q, k):
    """(B, h, N, d), (B, h, M, d) -> (B, h, N, M)."""
    logits = q @ k.transpose(-1, -2)                  # (B, h, N, M)
    return (logits / math.sqrt(q.shape[-1])).softmax(dim=-1)


attention_weights = check("2.1", attention_weights, solution=True)

# %%
toy_weights = attention_weights(toy_q, toy_k)         # (B, h, N, N)
agree("matrices = loops", (toy_weights @ toy_v)[0, 0], by_loops)
agree("each row sums to 1", toy_weights.sum(-1), torch.ones(1, 1, 12))

# %% [markdown]
# Here are your weights, once for these random keys and once for keys that equal the queries. The lines separate
# the two frames. **Predict:** what will the second picture show on its diagonal? Is the second matrix symmetric?

# %% tags=["figure"] alt="Two matrices of the attention weights of 12 queries by 12 keys, cut into quarters by two lines: with random q and k there is no pattern, with k = q the diagonal stands out."
pictures = [attention_weights(toy_q, toy_k)[0, 0],
            attention_weights(toy_q, toy_q)[0, 0]]
show.attention_matrices(pictures, ["q and k random", "k = q"], every=6,
                        width=7.5)

# %%
agree("logits of k = q are symmetric",
      toy_q @ toy_q.mT, (toy_q @ toy_q.mT).mT)
differ("the weights and their transpose", pictures[1], pictures[1].T)

# %% [markdown] tags=["answer"]
# The diagonal is dark, because a token is usually most like itself. The logits are symmetric. The weights are not: each row is divided by its own sum.

# %% [markdown]
# Nothing in the layer knows where one frame ends and the next begins; we drew the lines. This is attention over space and time jointly. Attention over
# space only (among the places of one frame), over time only (among the frames at one place) or in windows keeps a part of this matrix: the two squares on the diagonal for space only, the diagonal of each square for time only, groups of cells for windows (notebooks 03, 04 and 06). MViT (05) makes the matrix narrower.

# %% [markdown] tags=["core"]
# ## 3 · Why 1/√d
#
# Suppose that the components of q and k are independent, with mean 0 and variance 1 (Vaswani et al., section 3.2.1, argue so). Then q·k is a sum of d
# products. Each product has mean 0 and variance 1 · 1. Variances of independent terms add, so q·k has variance **d**. Dividing by √d
# divides the variance by d and brings it back to 1: the variance of a logit. Measured, for five values of d:

# %%
def some_logits(d, n=8192):
    """n scalar products of independent q and k."""
    generator = torch.Generator().manual_seed(d)
    q, k = torch.randn(2, n, d, generator=generator)
    return (q * k).sum(-1)                            # (n,)


widths = [4, 16, 64, 256, 1024]
variances = [some_logits(d).var().item() for d in widths]
for d, variance in zip(widths, variances):
    within(f"variance over d, d = {d}", variance / d, 0.9, 1.1)

# %% tags=["figure"] alt="Variance of q·k, q·k / √d and q·k / d against the channels of a head d, on logarithmic axes: q·k rises in proportion to d, q·k / d falls, and q·k / √d stays at 1."
by_root = [s / d for s, d in zip(variances, widths)]
by_d = [s / d**2 for s, d in zip(variances, widths)]
show.cost_curves(
    {"q·k": dict(x=widths, y=variances, formula_y=widths),
     "q·k / √d": dict(x=widths, y=by_root, formula_y=[1] * 5),
     "q·k / d": dict(x=widths, y=by_d,
                     formula_y=[1 / d for d in widths])},
    "channels of a head, d", "variance",
    "Only 1/√d keeps the variance at 1", slopes=False, width=6.6)

# %% [markdown]
# Why does the variance matter? Because of what the softmax does to gradients. Let p be one row of weights, and s its logits. The derivative of weight i by
# logit j is pᵢ(δᵢⱼ − pⱼ), where δᵢⱼ is 1 if i = j and 0 otherwise. Autograd agrees:

# %%
row = torch.randn(6, generator=torch.Generator().manual_seed(3))
p = row.softmax(0)
jacobian = torch.autograd.functional.jacobian(
    lambda s: s.softmax(0), row)                      # (6, 6)
agree("∂p/∂s = diag(p) − p pᵀ", jacobian,
      torch.diag(p) - p[:, None] * p[None, :])

# %% [markdown]
# A matrix has many numbers; we want one that says how much gradient passes. The **trace**, the sum of the diagonal, is such a number. It is Σ pᵢ(1 − pᵢ) = 1 − Σ pᵢ².
# The matrix is symmetric, and none of its eigenvalues is negative. So the largest eigenvalue is at most the sum of all, the trace: no gradient that goes through this softmax backwards becomes longer than trace times its length.
# If the trace is near 0, every gradient is.

# %%
eigenvalues = torch.linalg.eigvalsh(jacobian)         # (6,), sorted
trace_of_p = 1 - (p**2).sum()
agree("trace = 1 − Σp²", jacobian.trace(), trace_of_p)
agree("trace = sum of the eigenvalues", eigenvalues.sum(), trace_of_p)
within("smallest eigenvalue", eigenvalues[0].item(), -1e-6, 1e-6)
gradients = torch.randn(
    1000, 6, generator=torch.Generator().manual_seed(7))
passed = (gradients @ jacobian).norm(dim=1) / gradients.norm(dim=1)
within("largest of 1,000 ratios, over the trace",
       (passed.max() / trace_of_p).item(), 0.3, 1)

# %% [markdown]
# When one weight is nearly 1, every entry is nearly 0, and no gradient says which key to prefer. When all N weights are equal, the trace is at
# its largest, 1 − 1/N; but then attention is a plain average.
#
# **Predict:** there are 196 keys, and d = 1024. How large is the largest weight of a row, on average: without scaling, with 1/√d, with 1/d?

# %%
def softmax_of(d, scale, queries=64, keys=196):
    """The weights of random queries and keys: (queries, keys)."""
    generator = torch.Generator().manual_seed(d)
    q = torch.randn(queries, d, generator=generator)
    k = torch.randn(keys, d, generator=generator)
    return (q @ k.T * scale).softmax(-1)


def mean_trace(p):
    return (1 - (p**2).sum(-1)).mean().item()


for name, scale, low, high in (("no scaling", 1, 0.90, 0.98),
                               ("1/√d", 1024**-0.5, 0.04, 0.06),
                               ("1/d", 1 / 1024, 0.005, 0.006)):
    largest = softmax_of(1024, scale).amax(-1).mean().item()
    within(f"largest weight, {name}", largest, low, high)

# %% tags=["figure"] alt="Trace of the derivative of the softmax against the channels of a head, on logarithmic axes: with 1/√d and with 1/d it stays near 1, without scaling it falls from 0.9 at 4 channels to below 0.1 at 1,024."
plain = [mean_trace(softmax_of(d, 1)) for d in widths]
scaled = [mean_trace(softmax_of(d, d**-0.5)) for d in widths]
flat = [mean_trace(softmax_of(d, 1 / d)) for d in widths]
show.cost_curves(
    {"no scaling": dict(x=widths, y=plain),
     "1/√d": dict(x=widths, y=scaled),
     "1/d": dict(x=widths, y=flat)},
    "channels of a head, d", "trace of ∂p/∂s, mean of 64 rows",
    "Without scaling, wide heads pass little gradient",
    slopes=False, width=6.6)

# %% [markdown] tags=["answer"]
# Without scaling the largest weight is 0.94: attention at d = 1024 copies one value, and its softmax passes a small part of the gradient. With 1/√d it is 0.05. With 1/d it is 0.0056, hardly more than 1/196: attention
# averages everything.

# %% [markdown]
# With 1/d gradients pass as well, but at large d every row is nearly a plain average. Only 1/√d does both at every width: it passes gradients, and it lets rows prefer some keys. The trace is about the softmax alone. The gradient of a query has one more factor, the scale
# times k. So without scaling the gradient of a query is not simply small. All this holds at the beginning of training. Afterwards q and k are no longer independent, and
# the logits may become as large as they need to.
#
# Some codes scale q before the product, some the logits after it. That is the same. Doing both is the error 1/d.

# %% [markdown] tags=["core"]
# ## 4 · Heads
#
# One softmax gives a token one average. With h heads it gets h averages. Each head has its own queries, keys and values of d = C/h channels (TimeSformer, section 3, equations 2 to 4
# and 7). The results of the heads are laid side by side and mixed by one more linear layer. The three projections of all
# heads are one matrix of 3C rows:
#
# ```
# rows of w_qkv:   q of head 0 | q of head 1 | ... | k of head 0 | k of head 1 | ... | v of head 0 | ...
#                  d rows        d rows
# ```
#
# ### Exercise 2.2 · Multi-head attention
#
# Difficulty 3/5 · importance 5/5 · 20 minutes
#
# `x (B, N, C), w_qkv (3C, C), b_qkv (3C,), w_out (C, C), b_out (C,), num_heads → (B, N, C)`. Weights as in `nn.Linear`: `F.linear(x, w, b)` is x wᵀ + b. The 3C rows
# are ordered (3 h d), the C columns of `w_out` are ordered (h d). You may use your `attention_weights`. The check also compares gradients.

# %% tags=["exercise:2.2"]
def multi_head_attention(x, w_qkv, b_qkv, w_out, b_out, num_heads):
    """(B, N, C) -> (B, N, C)."""
    raise NotImplementedError("exercise 2.2")

# %% tags=["check:2.2"]
multi_head_attention = check("2.2", multi_head_attention)

# %% [markdown] tags=["hints:2.2"]
# <details><summary>Hint 1: intuition</summary>
#
# Heads never meet before the last layer, just as clips never meet. So move them next to the batch axis, and let the matrix products of exercise 2.1 do the rest.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `linear → (B, N, 3, h, d) → permute to (3, B, h, N, d) → q, k, v → weights @ v → (B, h, N, d) → transpose → (B, N, h·d) → linear`
# </details>
# <details><summary>Symptom: right shape, wrong numbers</summary>
#
# Three reshapes have the right shape by accident: (B, N, C) to (B, h, N, d) without a transpose, the same on the way back, and channels split (d h)
# instead of (h d). The check tells them apart.
# </details>

# %% tags=["solution:2.2"]
def multi_head_attention(x, w_qkv, b_qkv, w_out, b_out, num_heads):
    """(B, N, C) -> (B, N, C)."""
    B, N, C = x.shape
    qkv = F.linear(x, w_qkv, b_qkv)                   # (B, N, 3C)
    qkv = qkv.view(B, N, 3, num_heads, C // num_heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)              # 3 × (B, h, N, d)
    out = attention_weights(q, k) @ v                 # (B, h, N, d)
    out = out.transpose(1, 2).reshape(B, N, C)        # (B, N, h·d)
    return F.linear(out, w_out, b_out)


multi_head_attention = check("2.2", multi_head_attention, solution=True)

# %% [markdown]
# Four more ways to write it, each equal to yours on the same weights. First a loop over heads, each with its own rows:

# %% tags=["definition"]
def heads_in_a_loop(x, w_qkv, b_qkv, w_out, b_out, num_heads):
    """Head by head: the equations of the paper."""
    w_q, w_k, w_v = w_qkv.chunk(3)                    # 3 × (C, C)
    b_q, b_k, b_v = b_qkv.chunk(3)
    results = []
    # the row numbers of one head after the other, (d,) each
    for rows in torch.arange(x.shape[-1]).chunk(num_heads):
        q = F.linear(x, w_q[rows], b_q[rows])         # (B, N, d)
        k = F.linear(x, w_k[rows], b_k[rows])
        v = F.linear(x, w_v[rows], b_v[rows])
        logits = q @ k.mT / math.sqrt(len(rows))      # (B, N, N)
        results.append(logits.softmax(-1) @ v)        # (B, N, d)
    return F.linear(torch.cat(results, -1), w_out, b_out)

# %%
_ = torch.manual_seed(0)
B, N, C, h = 2, 12, 24, 3
x = torch.randn(B, N, C)
oracle = nn.MultiheadAttention(C, h, batch_first=True)
_ = nn.init.normal_(oracle.in_proj_bias)
_ = nn.init.normal_(oracle.out_proj.bias)
params = [p.detach() for p in (
    oracle.in_proj_weight, oracle.in_proj_bias,
    oracle.out_proj.weight, oracle.out_proj.bias)]
yours = multi_head_attention(x, *params, h)
agree("all heads at once = a loop over heads", yours,
      heads_in_a_loop(x, *params, h))

# %% [markdown]
# Then in einops, which names what is split, and with PyTorch's fused `scaled_dot_product_attention`. This function scales by 1/√d itself. It never holds the whole matrix of
# logits where it has a fused kernel (section 8).

# %% tags=["fast"]
def fused_attention(x, w_qkv, b_qkv, w_out, b_out, num_heads):
    qkv = F.linear(x, w_qkv, b_qkv)                   # (B, N, 3C)
    q, k, v = rearrange(qkv, "b n (three h d) -> three b h n d",
                        three=3, h=num_heads)
    out = F.scaled_dot_product_attention(q, k, v)     # (B, h, N, d)
    return F.linear(rearrange(out, "b h n d -> b n (h d)"),
                    w_out, b_out)


agree("fused = yours", fused_attention(x, *params, h), yours)

# %% [markdown]
# And somebody else's code with the same parameters: PyTorch's `nn.MultiheadAttention`, whose module also returns its attention weights, and the attention of the
# package's TimeSformer.

# %% tags=["oracle"]
theirs, their_weights = oracle(x, x, x, average_attn_weights=False)
agree("nn.MultiheadAttention = yours", theirs.detach(), yours)
x_qkv = F.linear(x, *params[:2]).view(B, N, 3, h, C // h)
x_q, x_k, x_v = x_qkv.permute(2, 0, 3, 1, 4)          # 3 × (B, h, N, d)
agree("and its weights = yours", their_weights.detach(),
      attention_weights(x_q, x_k))

# %% tags=["oracle"]
from vt_course.models.timesformer import Attention

package = Attention(C, h)
names = ("qkv.weight", "qkv.bias", "proj.weight", "proj.bias")
_ = package.load_state_dict(dict(zip(names, params)), strict=True)
agree("the package's attention = yours", package(x).detach(), yours)

# %% [markdown]
# **The order of rows is part of a checkpoint.** Read as (3 d h), the same numbers are another network: every head gets channels of all heads. Sort the rows,
# and it is the same network again. Converting weights between code bases is mostly this.

# %% [markdown] tags=["notes"]
# Another such change: MViT's official code moved between one `qkv` matrix and three separate ones over time (SlowFast issue 456).

# %%
def reorder(rows, h):
    """Rows ordered (3 h d) -> (3 d h)."""
    rows = rows.unflatten(0, (3, h, -1))              # (3, h, d, ...)
    return rows.transpose(1, 2).flatten(0, 2)


def read_as_d_h(x, w_qkv, b_qkv, w_out, b_out, h):
    qkv = F.linear(x, w_qkv, b_qkv)
    q, k, v = rearrange(qkv, "b n (three d h) -> three b h n d",
                        three=3, h=h)
    out = F.scaled_dot_product_attention(q, k, v)     # (B, h, N, d)
    return F.linear(rearrange(out, "b h n d -> b n (h d)"),
                    w_out, b_out)


sorted_rows = [reorder(rows, h) for rows in params[:2]] + params[2:]
differ("the same rows, read as (3 d h)",
       read_as_d_h(x, *params, h), yours)
agree("sorted rows, read as (3 d h)",
      read_as_d_h(x, *sorted_rows, h), yours)

# %% [markdown]
# **What do more heads cost?** **Predict** how the three numbers of a line change for h = 1, 4, 16, with C = 64 channels and 196 tokens. A MAC is one multiplication with its addition; section 7 counts them by hand, here a counter does.

# %%
from vt_course.models.cost import count_macs, count_parameters

for heads in (1, 4, 16):
    with torch.device("meta"):                # shapes, no arithmetic
        one_layer = Attention(64, heads)
    macs = count_macs(one_layer, (1, 196, 64))
    report(**{f"{heads:2} heads":
              f"{count_parameters(one_layer):,} parameters, "
              f"{macs:,} MACs, {heads * 196**2:,} logits"})

# %% [markdown] tags=["answer"]
# Only the last one changes. Each head compares all pairs, with fewer channels: h · N² · d = N²C multiplications, whatever h is. But every head has its own N² logits. Where they are stored, memory
# grows with h.

# %% [markdown] tags=["notes"]
# Users ask why a model with smaller heads needs more memory at equal parameters and "FLOPs" (UniFormer issue 92).

# %% [markdown] tags=["core"]
# ## 5 · Positions: none, absolute, relative
#
# Nothing so far depends on where a token is. Permute the tokens. Then queries, keys and values are permuted with them. Each row of weights holds the same numbers in another order,
# so the averages are the same. The result is only permuted: attention is **permutation equivariant**.
#
# **Predict:** what happens to the mean over all tokens?

# %%
order = torch.randperm(N, generator=torch.Generator().manual_seed(4))


def msa(x, bias=None):
    """Your attention; a bias (h, N, N) is added to the logits."""
    if bias is None:
        return multi_head_attention(x, *params, h)
    qkv = F.linear(x, *params[:2])                    # (B, N, 3C)
    qkv = qkv.view(*x.shape[:2], 3, h, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)              # 3 × (B, h, N, d)
    logits = q @ k.mT / math.sqrt(C // h) + bias      # (B, h, N, N)
    out = logits.softmax(-1) @ v                      # (B, h, N, d)
    return F.linear(out.transpose(1, 2).flatten(2), *params[2:])


agree("a bias of 0 changes nothing",
      msa(x, torch.zeros(h, N, N)), msa(x))
agree("no positions: permuted in, permuted out",
      msa(x[:, order]), msa(x)[:, order])
agree("the mean over tokens", msa(x[:, order]).mean(1), msa(x).mean(1))

# %% [markdown] tags=["answer"]
# Nothing happens to it: the mean is permutation **invariant**. It forgets the order of the tokens.

# %% [markdown]
# Take such layers, cut tokens from single frames, add MLPs that see one token at a time, and average at the end. This network cannot tell a clip from the same clip with its frames shuffled. On this course's motion
# data its expected accuracy is at most 50 %, because each motion has a partner that is the same film backwards (notebook 09).
#
# **Absolute positions** add a learned vector to each token before the first layer (TimeSformer, equation 1).
# **Relative positions** add a learned number to each logit, which depends only on the offset, query minus key (Swin, equation 4): softmax(q kᵀ/√d + B) v. The bias B is added *after* the scaling.

# %%
positions = torch.randn(
    N, C, generator=torch.Generator().manual_seed(5))
placed = msa(x + positions)
differ("absolute: tokens permuted, or not",
       msa(x[:, order] + positions), placed[:, order])
agree("unless positions move along",
      msa((x + positions)[:, order]), placed[:, order])

# %% [markdown]
# How much do positions matter on real video? TimeSformer's table 4 compares three models: without positions, with one vector for each place in the frame ("space only"), and with one for each place and one for each frame. The numbers are top-1 accuracies in percent:
#
# | data | none | space only | space and time |
# |---|---|---|---|
# | Kinetics-400 (K400): 400 human actions | 75.4 | 77.8 | 78.0 |
# | Something-Something-V2: 174 movements of objects, such as "pushing something from left to right" | 45.8 | 52.5 | 59.5 |
#
# Kinetics hardly needs the order of frames; Something-Something does.
#
# ### Exercise 2.3 · A relative position bias in one dimension
#
# Difficulty 2/5 · importance 4/5 · 10 minutes
#
# `table (2n−1, h), n → (h, n, n)`. Between n tokens in a row there are 2n−1 offsets i − j, query minus key, from −(n−1) to n−1. Row 0 of the table is for the offset −(n−1). Entry (a, i, j) of the result is the
# number of head a for query i and key j. Windows of a video (notebook 04) do the same with three offsets.

# %% tags=["exercise:2.3"]
def relative_bias(table, n):
    """(2n-1, h), n -> (h, n, n)."""
    raise NotImplementedError("exercise 2.3")

# %% tags=["check:2.3"]
relative_bias = check("2.3", relative_bias)

# %% [markdown] tags=["hints:2.3"]
# <details><summary>Hint 1: intuition</summary>
#
# Build the (n, n) matrix of row numbers first. It is constant along every diagonal, and its smallest entry must be 0.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `rows = i[:, None] − i[None, :] + n − 1`, then `table[rows]` has the shape (n, n, h): bring the heads to the front
# </details>

# %% tags=["solution:2.3"]
def relative_bias(table, n):
    """(2n-1, h), n -> (h, n, n)."""
    i = torch.arange(n)
    rows = i[:, None] - i[None, :] + n - 1    # (n, n): query minus key
    return table[rows].permute(2, 0, 1)               # (h, n, n)


relative_bias = check("2.3", relative_bias, solution=True)

# %% tags=["figure"] alt="Matrices of the relative bias of two heads, 12 queries by 12 keys: each diagonal has one colour, and the two heads have different colours."
table = torch.randn(
    2 * N - 1, h, generator=torch.Generator().manual_seed(6))
bias = relative_bias(table, N)                        # (h, N, N)
show.attention_matrices(list(bias[:2]), ["head 0", "head 1"], width=7.5)

# %% [markdown]
# Constant along diagonals: that is what "relative" looks like. With a relative bias the order matters. But if all tokens move together by some steps, no offset changes, and the result does not either.
# To see it, place the same five tokens at the beginning and at the end of the row:

# %%
differ("relative: tokens permuted, or not",
       msa(x[:, order], bias), msa(x, bias)[:, order])
five, early, late = x[:, :5], slice(0, 5), slice(7, 12)
agree("relative: at the end = at the beginning",
      msa(five, bias[:, late, late]),
      msa(five, bias[:, early, early]))
differ("absolute: at the end, at the beginning",
       msa(five + positions[late]),
       msa(five + positions[early]))

# %% [markdown] tags=["deep-dive"]
# ## 6 · What a trained model looks at
#
# The package ships a small Video Swin, trained on clips of drawn, moving shapes. It attends in windows of 2 × 4 × 4 tokens. It works in **stages**: groups of layers on one map, and from stage to stage the map shrinks. In its second stage the
# map is 4 × 4 × 4, so a window holds all places of two time steps: joint attention among 32 tokens. We take the tokens that enter the first layer of this stage, the layer's parameters and its bias. Then we compute the
# attention in the first window with the functions of this notebook.
#
# The model adds a bias to the logits, your function does not. But a bias in the exponent is a factor outside: softmax(s + b) is softmax(s) · eᵇ, divided by its sum.

# %%
from safetensors.torch import load_file

from vt_course.data import open_spec
from vt_course.data.clips import VideoFolder
from vt_course.data.transforms import IMAGENET_STD
from vt_course.models import create, mini_weights
from vt_course.training.recipes import RECIPES

motion = open_spec("synthetic:motion")
recipe = RECIPES["video_swin_mini"]
val = VideoFolder(motion.val, classes=motion.classes, train=False,
                  frames=recipe.frames, stride=recipe.stride,
                  size=recipe.size)
mini = create("video_swin_mini").eval()
_ = mini.load_state_dict(load_file(mini_weights("video_swin_mini")))
attn, seen = mini.layers[1].blocks[0].attn, {}
# a hook gets the inputs as a tuple
_ = attn.register_forward_hook(
    lambda m, inputs, out: seen.update(entering=inputs[0], leaving=out))

# %%
def first_window(clip):
    """What enters and leaves this layer at time steps 0 and 1."""
    with torch.no_grad():
        _ = mini(clip[None])
    # 2 × (1, 2, 4, 4, C)
    return seen["entering"][:, :2], seen["leaving"][:, :2]


left = val[9]
entering, leaving = first_window(left["clip"])
report(clip=left["clip"].shape, motion=motion.classes[left["label"]],
       window=entering.shape, heads=attn.num_heads)

# %%
@torch.no_grad()
def values_and_weights(window):
    """Of the 32 tokens of a window: (1, h, N, d), (1, h, N, N)."""
    tokens = window.flatten(1, 3)                     # (1, 32, C)
    qkv = attn.qkv(tokens).view(1, 32, 3, attn.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)              # 3 × (1, h, N, d)
    weights = attention_weights(q, k) * attn.bias(32).exp()
    return v, weights / weights.sum(-1, keepdim=True)


left_v, left_weights = values_and_weights(entering)
with torch.no_grad():
    average = (left_weights @ left_v).transpose(1, 2).flatten(2)
    ours = attn.proj(average)                         # (1, N, C)
agree("your weights make the layer's own output",
      ours.view_as(leaving), leaving)

# %% [markdown]
# So these *are* the weights that the trained model uses. A heart moves to the left. The query is the token at its lower right corner, in the first of the two
# time steps. **Predict:** will it look at its own place in both steps, at another part of the heart, or at the background? In the figure a token is 2 frames × 8 × 8 pixels. The query has a black frame. The stronger the orange, the larger the weight; a percentage is the weight that lies in this time step. (Clip 9 and two of the four heads were chosen because the pattern is easy to see.)
# %% tags=["figure"] alt="Two frames in two rows, for head 0 and head 3: a square in the frame at t = 0 marks the token that asks, at the lower right of a heart; nearly all orange lies on one token at the bottom of the heart in each frame, at its left for head 0 and in its middle for head 3."
query = (0, 3, 3)                                     # (t, h, w)
number = (query[0] * 4 + query[1]) * 4 + query[2]
# (h, t, h, w): the weights of this query, in each head
query_maps = left_weights[0, :, number].view(-1, 2, 4, 4)
# time steps 0 and 1 are frames 0 to 3
show.attention_over_frames(left["clip"][:, :4], query_maps[[0, 3]],
                           query, ["head 0", "head 3"],
                           "What one token attends to, by time step")

# %% [markdown] tags=["answer"]
# At another part of the heart: at one token of its lower edge, in both time steps, and more in the second one. Head 0 takes its left end, head 3 its middle.

# %% [markdown]
# One token of one clip proves little. The next cell asks 100 clips: of the weights of a query, which part falls on tokens of which at least two fifths show the shape? (A pixel belongs to
# the shape if its colour is far from the usual one of the clip.)

# %%
def on_the_shape(clip):
    """Which of the 32 tokens show the shape, on 2/5 or more: (32,)."""
    pixels = clip[:, :4] * torch.tensor(IMAGENET_STD).view(3, 1, 1, 1)
    usual = pixels.flatten(1).median(1).values        # (3,): background
    gap = (pixels - usual[:, None, None, None]).abs().amax(0)
    far = (gap > 0.2).float()                         # (4, 32, 32)
    return F.avg_pool3d(far[None], (2, 8, 8)).flatten() > 0.4


share, by_shape, by_background = [], [], []
for i in range(100):
    shape = on_the_shape(val[i]["clip"])              # (32,)
    window, _ = first_window(val[i]["clip"])
    # (h, N): the part of each query's weights on the shape
    part = values_and_weights(window)[1][0, :, :, shape].sum(-1)
    share.append(shape.float().mean().item())
    by_shape.append(part[:, shape].mean(1))           # (h,) each
    by_background.append(part[:, ~shape].mean(1))

# %%
within("tokens that show the shape", sum(share) / 100, 0.18, 0.28)
inside = torch.stack(by_shape).mean(0)                # (h,)
outside = torch.stack(by_background).mean(0)          # (h,)
within("weight on them, in each head, from the shape",
       inside.min().item(), 0.45, 1)
within("from the background it is more, by",
       (outside - inside).min().item(), 0.03, 0.3)

# %% [markdown]
# A quarter of the tokens show the shape. In every head they get about half of the weight or more. Queries on the shape give them this much; queries on the background, which has nothing to tell about the motion, give them even more. Mind what
# such numbers show: from where one layer takes values. They do not show which information these values hold.

# %% [markdown] tags=["core", "claim:swin-equation-1"]
# ## 7 · Counting multiply-accumulates
#
# A matrix product (a × b) by (b × c) costs a·b·c [**multiply-accumulates**](glossary.md#multiply-accumulate) (MACs): one multiplication and one addition each. From here on h × w, two letters together, is
# the size of the map, as in the Swin paper. (The number of heads does not occur in this section's formulas.) Attention among N = hw tokens is six such products:
#
# | product | sizes |
# |---|---|
# | queries, keys, values | 3 times (hw × C) by (C × C) |
# | logits, all heads | (hw × C) by (C × hw) |
# | average of the values | (hw × hw) by (hw × C) |
# | output | (hw × C) by (C × C) |
#
# **Complete the formula**, which is equation 1 of the Swin paper: Ω(MSA) = … hwC² + … (hw)²C. MSA is multi-head self-attention among all tokens. The softmax is left out there, and by the counters. It takes one exponential for each pair and head, where the two
# products take 2d MACs, 128 for d = 64.
#
# ### Exercise 2.4 · Ω(MSA)
#
# Difficulty 1/5 · importance 5/5 · 5 minutes
#
# `h, w, C → a whole number`: the MACs of attention among all tokens of a map of h × w.

# %% tags=["exercise:2.4"]
def msa_macs(h, w, C):
    """MACs of attention among h × w tokens with C channels."""
    raise NotImplementedError("exercise 2.4")

# %% tags=["check:2.4"]
msa_macs = check("2.4", msa_macs)

# %% [markdown] tags=["hints:2.4"]
# <details><summary>Hint: which numbers does the formula not contain?</summary>
#
# The number of heads (section 4), and the batch: all costs are those of one clip.
# </details>

# %% tags=["solution:2.4"]
def msa_macs(h, w, C):
    """MACs of attention among h × w tokens with C channels."""
    return 4 * h * w * C**2 + 2 * (h * w) ** 2 * C


msa_macs = check("2.4", msa_macs, solution=True)

# %% [markdown]
# In windows of M × M tokens (**W-MSA**), a token meets the M² tokens of its window. The projections stay the same. Each of the other two products is computed
# once for each window: hw/M² times, and each time it costs (M²)²C. Together this is equation 2 of the paper.
#
# The equation assumes that h and w are multiples of M. If they are not, the authors' code for detection and for video pads the map with zeros at its right and bottom edge, *before* the projections. (Their code for classification does not: it takes sizes that need no padding.) Padded tokens are
# computed like all others and thrown away at the end. (In the code for video, a map smaller than the window is not padded: the window shrinks to the map, notebook 04.)
#
# ### Exercise 2.5 · Ω(W-MSA), with padding
#
# Difficulty 2/5 · importance 4/5 · 10 minutes
#
# `h, w, C, M → a whole number`: the MACs of attention in windows of M × M, of any map with h, w ≥ M. Padded tokens count.

# %% tags=["exercise:2.5"]
def window_msa_macs(h, w, C, M):
    """MACs of attention in windows of M × M on a padded map."""
    raise NotImplementedError("exercise 2.5")

# %% tags=["check:2.5"]
window_msa_macs = check("2.5", window_msa_macs)

# %% [markdown] tags=["hints:2.5"]
# <details><summary>Hint 1: intuition</summary>
#
# After padding, the map is a whole number of windows. Each window is a small map of its own, with attention among all its tokens.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `windows = ⌈h/M⌉ · ⌈w/M⌉`, times Ω(MSA) of an M × M map
# </details>

# %% tags=["solution:2.5"]
def window_msa_macs(h, w, C, M):
    """MACs of attention in windows of M × M on a padded map."""
    windows = math.ceil(h / M) * math.ceil(w / M)
    return windows * (4 * M**2 * C**2 + 2 * M**4 * C)


window_msa_macs = check("2.5", window_msa_macs, solution=True)

# %% [markdown]
# Now against a counter that watches what PyTorch really computes. On the device `meta` there are shapes but no numbers, so even a layer that would fill a machine can be counted. The
# first layer is the attention of exercise 2.2 as a module. The second is the package's `WindowAttention(96, (7, 7), (0, 0), 3)`: 96 channels, windows of 7 × 7, shifted by 0 × 0, 3 heads. Notebook 03 builds it.
#
# **Predict:** by which factor are windows cheaper at 7 × 7 tokens, and at 56 × 56? And what does one row and one column more, 57 × 57, do to the price?

# %%
from vt_course.models.swin import WindowAttention

class MSA(nn.Module):
    """Attention by matrices, with all logits in memory."""

    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):                             # (B, N, C)
        B, N, C = x.shape
        # (B, N, 3, h, d)
        qkv = self.qkv(x).view(B, N, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)          # 3 × (B, h, N, d)
        logits = q @ k.mT / math.sqrt(q.shape[-1])    # (B, h, N, N)
        out = (logits.softmax(-1) @ v).transpose(1, 2)
        return self.proj(out.reshape(B, N, C))

# %%
with torch.device("meta"):
    whole = MSA(96, 3)
    windowed = WindowAttention(96, (7, 7), (0, 0), 3)
for side in (7, 14, 28, 56, 57, 224):
    by_counter = count_macs(whole, (1, side**2, 96))
    in_windows = count_macs(windowed, (1, side, side, 96))
    assert by_counter == msa_macs(side, side, 96)
    assert in_windows == window_msa_macs(side, side, 96, 7)
    print(f"{side:3} × {side:<3} MSA {by_counter:17,} "
          f"  W-MSA {in_windows:13,}   ratio "
          f"{by_counter / in_windows:6.2f}")

# %% [markdown]
# Formula and counter agree exactly, in all twelve cases.

# %% [markdown] tags=["answer"]
# - At 7 × 7 the window is the map, and both cost the same.
# - The map of Swin-T's first stage (its first group of layers) is 56 × 56. Without windows it costs 14 times as much. At 224 × 224, one token for each pixel of a small image, the factor is 209.
# - 57 × 57 tokens cost as much in windows as 63 × 63: the price rises by 27 %.

# %% [markdown]
# **Where does the square take over?** Attention is often called quadratic. At which N? The two terms of Ω(MSA), 4NC² and 2N²C, are equal at N = 2C. If Ω is drawn against N on logarithmic axes, its
# slope is 1 + N/(2C + N): near 1 for few tokens, exactly 1.5 at N = 2C, and towards 2 for many.

# %%
def slope(N, C):
    """Of Ω(MSA) between N and N + 1 tokens, on logarithmic axes."""
    ratio = int(msa_macs(1, N + 1, C)) / int(msa_macs(1, N, C))
    return math.log(ratio) / math.log((N + 1) / N)


for n, channels, where in (
        (196, 768, "ViT-B/16, one image (no class token)"),
        (3136, 96, "Swin-T, stage 1, if it were global"),
        (1568, 768, "TimeSformer joint, 8 frames"),
        (6272, 768, "TimeSformer joint, 32 frames"),
        (18816, 768, "TimeSformer joint, 96 frames")):
    formula = 1 + n / (2 * channels + n)
    assert abs(slope(n, channels) - formula) < 1e-3
    print(f"N = {n:6,}   2C = {2 * channels:5,}   "
          f"slope {formula:.2f}   {where}")

# %% [markdown]
# For one image in 196 patches, attention is nearly linear. With 8 frames, TimeSformer's joint attention (among the patches of all frames) stands just behind the turning point: 1,568 tokens, and 2C = 1,536. A whole block has an MLP too. Its two layers (C → 4C → C) cost 8NC² more. So a block turns where 12NC² = 2N²C, at
# N = 6C = 4,608 tokens. That is 23.5 frames.
#
# ### "FLOPs"
#
# To test a model, papers show it several **views** of each video, and average its predictions. A view is one clip cut from the video: some frames, and one crop of each (notebook 01, section 4).
#
# The papers of this course say FLOPs and mean MACs, of **one view** unless they say otherwise. What the tools count:
#
# | counter | one multiply-accumulate is | and it |
# |---|---|---|
# | fvcore | 1 | sees operators; those without a rule, such as fused attention, it only lists as unsupported |
# | PyTorch's `FlopCounterMode` | **2** | sees operators: products, convolutions, fused attention |
# | hooks on modules (such as thop) | 1 | see `nn.Linear`, `nn.Conv2d`; not `@`, not `F.linear` |
# | `count_macs` of this course | 1 | is `FlopCounterMode` divided by 2 |
#
# What functions compute, and no module, is easily missed. The simplest counter of hooks, which knows linear layers and convolutions only, shows how. The cell below has four numbers: `FlopCounterMode` and `count_macs` on this course's Swin-T, and such hooks on this course's Swin-T and on torchvision's. **Predict:** the paper states 4.5 G for Swin-T. Which of the four will be near it, and which near the double?

# %%
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import swin_t

from vt_course.models import ZOO, create

def macs_by_hooks(model, x):
    """As simple tools count: linear layers, convolutions."""
    counts = []

    def hook(module, _, out):
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            counts.append(out.numel() * module.weight[0].numel())

    handles = [m.register_forward_hook(hook) for m in model.modules()]
    _ = model(x)
    for handle in handles:
        handle.remove()
    return sum(counts)

# %%
with torch.device("meta"):
    our_swin, their_swin = create("swin_tiny").eval(), swin_t().eval()
    image = torch.empty(1, 3, 224, 224)
with torch.no_grad(), FlopCounterMode(display=False) as counter:
    _ = our_swin(image)
report(FlopCounterMode=counter.get_total_flops(),
       count_macs=count_macs(our_swin, (1, 3, 224, 224)),
       hooks_on_ours=macs_by_hooks(our_swin, image),
       hooks_on_torchvision=macs_by_hooks(their_swin, image))

# %% [markdown] tags=["answer"]
# `count_macs` says 4.49 G, the paper's 4.5; `FlopCounterMode` says 8.98 G in its own unit. Hooks miss the products q kᵀ and weights · v in ours. In torchvision's code they also miss the projections, which that code calls as functions.

# %% [markdown] tags=["notes"]
# Users have asked: should Swin-T not have 9 GFLOPs (Swin issues 99, 165, 340)? Somebody measured 3.13 G for torchvision's `swin_t` instead of 4.5 (ptflops issue 142). Count on the device `meta`: until PyTorch 2.13 `FlopCounterMode` saw nothing of fused attention on a *CPU* (pytorch issue 195460).

# %% [markdown]
# **One view or all?** TimeSformer shows 3 views: three crops of the same frames. Its tables 2 and 5 give *inference* TFLOPs, all 3 views together. For one view it is a third. (`divided` in the names is TimeSformer's own kind of attention; section 9 explains it.)

# %%
stated_tera = {"timesformer_divided_8x224": 0.59,
               "timesformer_hr_16x448": 5.11,
               "timesformer_l_96x224": 7.14}
for name, stated in stated_tera.items():
    with torch.device("meta"):
        one_model = create(name)
    macs_of_a_view = count_macs(one_model, (1, *ZOO[name].input))
    all_views = 3 * macs_of_a_view / 1e12
    assert round(all_views, 2) == stated
    report(**{name: f"{macs_of_a_view / 1e9:8.1f} G a view, "
              f"{all_views:.2f} T for 3 views"})

# %% [markdown]
# All three as stated in the paper's table 5. So its TFLOPs are 10¹² MACs of three views. Before you compare two models, ask for the unit, the number of views, and the size of the clip.

# %% [markdown] tags=["deep-dive"]
# ## 8 · Does the clock agree? Does the memory?
#
# MACs are exact and the same everywhere. Time and memory are not. They depend on the machine, on the kernels, and on what else has to be moved. So they appear in
# figures only, measured where this notebook ran; your figures will differ. One layer of 96 channels and 3 heads, one map, forward and backward:
#
# - **literal**: the module `MSA` above, all logits in memory;
# - **fused**: the package's attention, on the same weights, through `scaled_dot_product_attention`;
# - **windows**: 7 × 7, also the package's.

# %%
from vt_course.claims.bench_models import clock, peak_bytes

sides = {"smoke": [7, 14, 28, 42], "lecture": [7, 14, 28, 42, 56],
         "full": [7, 14, 28, 42, 56, 70]}[PROFILE]
cpu = torch.device("cpu")
_ = torch.manual_seed(0)
literal, fused = MSA(96, 3), Attention(96, 3)
_ = fused.load_state_dict(literal.state_dict())
in_windows_of_7 = WindowAttention(96, (7, 7), (0, 0), 3)
probe = torch.randn(1, 196, 96)
agree("fused = literal", fused(probe).detach(), literal(probe).detach())

# %%
def measure(module, inputs):
    """Seconds (best of 3) and peak bytes, forward and backward."""
    def work():
        module(inputs).sum().backward()

    work()                                    # the first call is slower
    best = min(clock(work, cpu) for _ in range(3))
    return best, peak_bytes(work, cpu)


three = {"literal": literal, "fused": fused, "windows": in_windows_of_7}
square_maps = [torch.randn(1, side, side, 96) for side in sides]
map_seconds, map_peaks = {}, {}
for name, module in three.items():
    flat = [m.flatten(1, 2) for m in square_maps]
    pairs = [measure(module, m) for m in
             (square_maps if name == "windows" else flat)]
    map_seconds[name], map_peaks[name] = zip(*pairs)

# %% tags=["figure", "measured"] alt="Time of forward and backward against the number of tokens, on logarithmic axes: three rising curves; for the largest map literal attention takes longest, then fused attention, and windows take least."
areas = [side**2 for side in sides]
side_ticks = {side**2: f"{side}²" for side in sides}
show.cost_curves({name: dict(x=areas, y=[1000 * s for s in values])
                  for name, values in map_seconds.items()},
                 "tokens of the map",
                 "milliseconds, forward and backward",
                 "Time on the machine that ran this notebook",
                 ticks=side_ticks, slopes=False, width=6.6)

# %% tags=["figure"] alt="Peak of memory against the number of tokens, on logarithmic axes: the curve of literal attention is steepest and ends about ten times above those of windows and fused attention, which rise in proportion to the tokens."
show.cost_curves({name: dict(x=areas, y=[b / 1e6 for b in values])
                  for name, values in map_peaks.items()},
                 "tokens of the map", "peak of memory, MB",
                 "Stored logits grow with the square of the tokens",
                 ticks=side_ticks, slopes=False, width=6.6)

# %% [markdown]
# Time does not follow the MACs exactly. To start work at all costs something that does not grow with the map. And the softmax and the traffic of N × N matrices, which
# MACs leave out, grow with the square. Large matrices also have to be allocated, and no longer fit into the caches of a processor.
#
# Fused attention computes the same N² products, but its **memory is linear** in N. It works through the logits in blocks and keeps a few numbers for each row. On the way
# back it computes q kᵀ a second time, block by block (Dao et al., "FlashAttention", [2205.14135](https://arxiv.org/abs/2205.14135)). Windows are linear in both. In training on a CPU they store the weights of each window (section 10 says why).
#
# One set of logits is (h, N, N) numbers. How many sets does the literal layer hold at once? **Predict** for a forward pass, and for forward and backward. When the map is large and the layer narrow, nothing else counts:

# %%
narrow = MSA(16, 4)
tokens_512 = torch.randn(1, 512, 16)
one_set = 4 * 512**2 * 4                      # heads · N² · bytes


def forward_only():
    with torch.no_grad():
        narrow(tokens_512)


def both_passes(module):
    module(tokens_512).sum().backward()


within("forward: peak, in sets of logits",
       peak_bytes(forward_only, cpu) / one_set, 1.9, 2.5)
within("forward and backward",
       peak_bytes(lambda: both_passes(narrow), cpu) / one_set, 2.8, 3.5)

# %% [markdown] tags=["answer"]
# Two in the forward pass: each step makes a new matrix while the old one is still there. Three with the backward pass: one that is kept for it, and two at work.

# %% [markdown]
# What stays until the backward pass? Autograd tells, if asked. **Predict** how many sets 12 layers keep.

# %%
def saved_matrices(module, inputs, N):
    """The (…, N, N) tensors kept for backward: their bytes."""
    kept = {}

    def pack(t):
        if t.shape[-2:] == (N, N):
            size = t.numel() * t.element_size()
            kept[t.untyped_storage().data_ptr()] = size
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = module(inputs)    # `out` keeps the tensors alive
    return list(kept.values()), out

# %%
by_one, _ = saved_matrices(narrow, tokens_512, 512)
report(sets_kept=len(by_one), their_bytes=sum(by_one),
       one_set=one_set)
twelve = nn.Sequential(*[MSA(16, 4) for _ in range(12)])
by_twelve, _ = saved_matrices(twelve, tokens_512, 512)
report(sets_kept_by_12_layers=len(by_twelve))
within("12 layers, forward and backward: peak, in sets",
       peak_bytes(lambda: both_passes(twelve), cpu) / one_set, 13.8, 15)

# %% [markdown]
# One set a layer: the weights, which both the softmax and the product with v need again. So training holds **one set for every layer**, and two at work.
# Inference holds two, however deep the network.

# %% [markdown] tags=["core"]
# ## 9 · Joint space-time attention, and where it stops fitting
#
# **Joint** attention takes all patches of all frames as one set of tokens (TimeSformer, section 3). The paper reports that it runs out of GPU memory once frames
# reach 448 × 448 pixels, or once there are 32 frames (section 4.1, figure 3). It names V100 GPUs elsewhere, but neither their memory nor the clips on each. Let us see what
# the formula says.
#
# ### Exercise 2.6 · Bytes of the logits
#
# Difficulty 2/5 · importance 4/5 · 10 minutes
#
# `T, H, W, patch, heads, batch, each → a whole number`: the bytes of one layer's logits, if all are stored. There are T frames of H × W pixels, patches of `patch` × `patch`
# pixels of one frame, and one class token for the clip. `each` is the bytes of one number.

# %% tags=["exercise:2.6"]
def logit_bytes(T, H, W, patch, heads, batch, each):
    """Bytes of the logits of joint attention in one layer."""
    raise NotImplementedError("exercise 2.6")

# %% tags=["check:2.6"]
logit_bytes = check("2.6", logit_bytes)

# %% [markdown] tags=["hints:2.6"]
# <details><summary>Hint 1: intuition</summary>
#
# Tokens first: how many patches has a frame, how many the clip, and who joins them? Then: one number for each ordered pair.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `N = T · (H // patch) · (W // patch) + 1`, then `batch · heads · N² · each`
# </details>

# %% tags=["solution:2.6"]
def logit_bytes(T, H, W, patch, heads, batch, each):
    """Bytes of the logits of joint attention in one layer."""
    N = T * (H // patch) * (W // patch) + 1
    return batch * heads * N**2 * each


logit_bytes = check("2.6", logit_bytes, solution=True)

# %% [markdown]
# TimeSformer's base model has 12 heads and 12 layers; a number takes 4 bytes. All columns but the first three are GB (10⁹ bytes) of logits: *one head* and *12 heads* of one layer and one clip, *batch 8* of one
# layer and eight clips. *Forward* is two sets of a clip, *training* 14: one for each of the 12 layers, and two at work (section 8). **Predict** the tokens in each row, and which rows a GPU of 16 GB can train.

# %%
def gigabytes(T, side=224, heads=12, batch=1, each=4):
    size = logit_bytes(T, side, side, 16, heads, batch, each)
    return int(size) / 1e9


print(f"{'frames':>6} {'side':>4} {'tokens':>6} {'one head':>8} "
      f"{'12 heads':>8} {'batch 8':>7} {'forward':>7} {'training':>8}")
for T, side in ((8, 224), (16, 224), (32, 224), (8, 448), (96, 224)):
    n, gb = T * (side // 16) ** 2 + 1, gigabytes(T, side)
    head = gigabytes(T, side, heads=1)
    print(f"{T:6} {side:4} {n:6,} {head:8.3f} {gb:8.2f} "
          f"{8 * gb:7.1f} {2 * gb:7.2f} {14 * gb:8.1f}")

# %% [markdown] tags=["answer"]
# Rows three and four have **the same number of tokens**: 32 frames of 14 × 14 patches and 8 frames of 28 × 28 are 6,272 patches each. These are the two limits of the paper. Only 8 and 16 frames of 224 × 224 fit.

# %% [markdown]
# At the paper's limits the logits alone take 26.4 GB to train one clip. This is more than a V100 of 16 GB has, and most of one of 32 GB (it was sold with either), before weights and all other activations. With 8 frames it is
# 1.7 GB. And 96 frames, the length of TimeSformer-L, would need 238 GB. The longest clips for a given memory, from logits alone:

# %%
def longest(memory, sets, each):
    """The most frames of 224 × 224 whose logits fit."""
    return max(T for T in range(1, 400)
               if sets * gigabytes(T, each=each) <= memory)


for memory in (16, 32, 80):
    report(**{f"{memory} GB":
              f"training {longest(memory, 14, 4)} frames in 4 bytes, "
              f"{longest(memory, 14, 2)} in 2; "
              f"forward {longest(memory, 2, 4)} and "
              f"{longest(memory, 2, 2)}"})

# %% tags=["figure"] alt="Gigabytes of joint attention against the number of frames, on logarithmic axes: training with 12 layers passes a line at 16 GB between 16 and 32 frames and a line at 80 GB between 32 and 64; the tokens alone stay below 1 GB."
lengths = [4, 8, 16, 32, 64, 96]
token_gb = [13 * (196 * T + 1) * 768 * 4 / 1e9 for T in lengths]
show.cost_curves(
    {"training, 12 layers":
         dict(x=lengths, y=[14 * gigabytes(T) for T in lengths]),
     "forward": dict(x=lengths, y=[2 * gigabytes(T) for T in lengths]),
     "tokens: input, 12 outputs": dict(x=lengths, y=token_gb)},
    "frames of 224 × 224", "GB of one clip, 4 bytes a number",
    "Training: logits outgrow 16 GB between 16 and 32 frames",
    {"16 GB": 16, "80 GB": 80}, slopes=False, width=6.6)

# %% [markdown]
# Twice the memory buys 41 % more frames (up to rounding to whole frames), because the bytes grow with the square of the frames. Numbers of half the bytes buy the same. This is why the papers change the *pattern* of attention instead.
#
# Two remarks, so that the picture stays honest. First, with a fused kernel these matrices are never stored, and the 26.4 GB of 32 frames vanish. (Other activations remain.) In
# 2021 there was no such kernel in PyTorch (`scaled_dot_product_attention` came with 2.0, in 2023). What remains is the arithmetic. Second, at 8 frames joint attention is even
# *cheaper* than TimeSformer's **divided** attention. There a token attends first to the same place in all frames, then to all places of its own frame. For this the layer has a second set of projections. *Space only* leaves out the attention over time:

# %%
for name in ("timesformer_space_8x224", "timesformer_joint_8x224",
             "timesformer_divided_8x224"):
    with torch.device("meta"):
        scheme = create(name)
    giga = count_macs(scheme, (1, 3, 8, 224, 224)) / 1e9
    report(**{name: f"{giga:.1f} GMACs"})

# %% [markdown] tags=["core"]
# ## 10 · All families in one plot
#
# Each paper of this course has its own answer to the square. The table names their layers; notebooks 04 to 07 build them. One layer with C = 192 channels and 3 heads, on a map of T × H × W tokens, N in all, costs:
#
# | family | a token meets | MACs |
# |---|---|---|
# | joint (TimeSformer, and UniFormer's global blocks) | all N | 4NC² + 2N²C |
# | divided (TimeSformer) | T, then HW + 1 | see the code: two attentions and a linear layer |
# | pooling (MViT), keys pooled 1 × 4 × 4 | N′, about N/16 (N/12.25 on maps of 14 × 14) | 4NC² + 2NN′C, and two depthwise convolutions 3 × 3 × 3 |
# | window (Video Swin), 8 × 7 × 7 | at most 392 | 4NC² + 2·392·NC |
# | local (UniFormer), 5 × 5 × 5 | 125, with learned weights for each channel, the same for all tokens | 2NC² + 125NC |
#
# In divided attention the class token takes part in the attention over space. For this each frame gets a copy of the class token: HW + 1 tokens. Afterwards the copies are averaged.

# %%
def up(n, m):
    return math.ceil(n / m) * m


def attention_macs(N, partners, C=192):
    return 4 * N * C**2 + 2 * N * partners * C


def family_macs(T, H, W, C=192):
    N, pooled = T * H * W, T * math.ceil(H / 4) * math.ceil(W / 4)
    window = [min(n, m) for n, m in zip((T, H, W), (8, 7, 7))]
    padded = math.prod(up(n, m) for n, m in zip((T, H, W), window))
    # over time, and a linear layer
    over_time = attention_macs(N, T) + N * C**2
    # a copy of the class token joins each frame
    over_space = attention_macs(T * (H * W + 1), H * W + 1)
    pooling = attention_macs(N, pooled) + 2 * 27 * pooled * C
    return {"joint": attention_macs(N, N),
            "divided": over_time + over_space,
            "pooling, keys 1 x 4 x 4": pooling,
            "window 8 x 7 x 7":
                attention_macs(padded, math.prod(window)),
            "local 5 x 5 x 5": 2 * N * C**2 + 125 * N * C}

# %% [markdown]
# The points of the figures are counted on the package's layers, the lines are the formulas; an assertion compares every number.
#
# **Predict:** pooling divides the keys by about 16, windows leave 392. Which of the two costs less for a short clip, and which for a long one?

# %%
from vt_course.claims.bench_models import attentions

def counted_macs(size):
    counts = {}
    with torch.device("meta"), torch.no_grad():
        for name, (_, call) in attentions(size).items():
            with FlopCounterMode(display=False) as counter:
                _ = call(torch.empty(1, *size, 192))
            counts[name] = counter.get_total_flops() // 2
    return counts


in_time = [(T, 14, 14) for T in (2, 4, 8, 16, 32, 96)]
in_space = [(8, n, n) for n in (7, 14, 28, 56)]
counted = {size: counted_macs(size) for size in in_time + in_space}
assert all(counted[size] == family_macs(*size) for size in counted)
report(sizes=len(counted), families=5, formula_equals_count_in_all=True)

# %%
def family_figure(sizes, x, xlabel, title, ticks=None):
    series = {}
    for name in counted[sizes[0]]:
        points = [counted[s][name] / 1e9 for s in sizes]
        line = [family_macs(*s)[name] / 1e9 for s in sizes]
        series[name] = dict(x=x, y=points, formula_y=line)
    return show.cost_curves(series, xlabel, "GMACs of one layer", title,
                            ticks=ticks, slopes=False, width=7)

# %% tags=["figure"] alt="GMACs of one layer against the number of frames, on logarithmic axes: joint attention is steepest and highest from 4 frames on; local attention is lowest; pooling starts below windows, passes them between 16 and 32 frames and divided attention between 32 and 96."
family_figure(in_time, [s[0] for s in in_time],
              "frames of 14 × 14 tokens",
              "At 32 frames pooling costs more than windows")

# %% tags=["figure"] alt="GMACs of one layer against the pixels of a frame, on logarithmic axes: joint attention is steepest, divided attention and pooling bend upwards, windows and local attention rise in proportion; pooling meets windows at 448 × 448 and lies above them at 896 × 896."
family_figure(in_space, [s[1] * s[2] for s in in_space],
              "pixels of a frame, in patches of 16 × 16; 8 frames",
              "At 448 × 448 pooling costs as much as windows",
              {n * n: f"{16 * n}²" for n in (7, 14, 28, 56)})

# %%
cross = next(T for T in range(1, 97)
             if family_macs(T, 14, 14)["pooling, keys 1 x 4 x 4"]
             > family_macs(T, 14, 14)["window 8 x 7 x 7"]
             and T % 8 == 0)
report(**{"of lengths 8, 16, 24, ... pooling costs more from":
          f"{cross} frames"})

# %% [markdown] tags=["answer"]
# For a short clip pooling costs less, for a long one windows do. (At 24 frames the two differ by 1 %.)

# %% [markdown]
# (The cell looks at lengths that whole windows fill, multiples of 8 frames. At other lengths above 8, windows are padded to the next multiple of 8, and padding costs as much as real frames.)
#
# Each curve has a linear part, the projections, and a part that grows with the number of partners.
#
# - **Joint** attention bends first. **Pooling** bends in the same way, at about sixteen times as many tokens: fewer keys are a constant factor, not another exponent. (MViT gains more by pooling queries too, which shortens all later blocks.)
# - **Divided** attention grows linearly in the length of the clip as long as T is small against HW and C. It still bends as the *frame* grows.
# - **Windows** and **local** aggregation are linear in the number of tokens. (Below 8 frames the window shrinks to the clip, so its curve is steeper there.) A token pays for it: it does not see far.
#
# And the clock? The same layers, forward and backward, at a few small sizes. They are too small to show how the curves go on; they show where the curves begin. **Predict** which layer needs most memory at 8 frames. (Joint, divided and pooled attention run through a fused kernel.)

# %%
# `full` measures 16 and 32 frames too
measured = [2, 4, 8] + [16, 32] * (PROFILE == "full")
family_ms, family_mb = {}, {}
for T in measured:
    clip_map = torch.randn(1, T, 14, 14, 192)
    for name, (_, call) in attentions((T, 14, 14)).items():
        best, most = measure(call, clip_map)
        family_ms.setdefault(name, []).append(1000 * best)
        family_mb.setdefault(name, []).append(most / 1e6)

# %% tags=["figure", "measured"] alt="Time of one layer against 2, 4 and 8 frames, on logarithmic axes: five rising curves, of which that of joint attention is steepest."
show.cost_curves({name: dict(x=measured, y=y)
                  for name, y in family_ms.items()},
                 "frames of 14 × 14 tokens",
                 "milliseconds, forward and backward",
                 "Time on the machine that ran this notebook",
                 slopes=False, width=7)

# %% tags=["figure"] alt="Peak of memory of one layer against 2, 4 and 8 frames, on logarithmic axes: at 8 frames windows need most, then divided attention; joint attention and pooling need least."
show.cost_curves({name: dict(x=measured, y=y)
                  for name, y in family_mb.items()},
                 "frames of 14 × 14 tokens",
                 "peak MB, forward and backward",
                 "At 8 frames windows need most memory",
                 slopes=False, width=7)

# %%
at_8 = {name: values[2] for name, values in family_mb.items()}
largest_need = max(at_8, key=at_8.get)
report(most_memory_at_8_frames=largest_need)
within("windows over joint", at_8["window 8 x 7 x 7"] / at_8["joint"],
       2.5, 4.5)

# %% [markdown] tags=["answer"]
# Windows, about three times as much as joint attention. Joint, divided and pooled attention run through a fused kernel and store no logits. Windows have a bias that learns. PyTorch has no
# fused kernel for the gradient of this bias on a CPU, so the package stores the weights: 392 for each token and head, once the clip is as long as the window.

# %% [markdown]
# Where logits are stored, partners are memory. Where they are not, partners are only time. The gaps in time also differ from the gaps in MACs. A depthwise convolution multiplies little and moves much memory, so local aggregation gains less than its MACs promise. Divided
# attention sorts tokens twice and makes more and smaller products.
#
# Compare MACs to compare algorithms. Compare clocks and peaks to compare programs on one machine.
#
# ## Four tasks
#
# **A formula to complete.** In a block with an MLP, the products among tokens cost 2N²C of 12NC² + 2N²C. Complete: their share is N / (… + N). How large is it for ViT-B/16 (N = 197, C = 768), and for joint attention with 8 and with 32 frames? Compare with the cell:

# %%
def share_of_products(N, C):
    return 2 * N**2 * C / (12 * N * C**2 + 2 * N**2 * C)


for tokens_in in (197, 1569, 6273):
    report(**{f"N = {tokens_in:5,}":
              f"{share_of_products(tokens_in, 768):.0%}"})

# %% [markdown]
# **A bug to hunt.** This layer has the right shape, its rows of weights sum to 1, it is permutation equivariant, and with one head it equals yours. With three heads it does not. Which line is wrong, and why do these four properties not show it?

# %%
def hunted(x, w_qkv, b_qkv, w_out, b_out, num_heads):
    B, N, C = x.shape
    qkv = F.linear(x, w_qkv, b_qkv)
    qkv = qkv.view(B, N, num_heads, 3, C // num_heads)
    q, k, v = qkv.permute(3, 0, 2, 1, 4)
    out = F.scaled_dot_product_attention(q, k, v)
    return F.linear(out.transpose(1, 2).flatten(2), w_out, b_out)


agree("one head", hunted(x, *params, 1),
      multi_head_attention(x, *params, 1))
agree("equivariant", hunted(x[:, order], *params, h),
      hunted(x, *params, h)[:, order])
differ("three heads", hunted(x, *params, h), yours)

# %% [markdown]
# **A thing to explain.** In two sentences: in section 10, joint attention costs the most MACs and needs nearly the least memory. Why is that no contradiction?
#
# **A small experiment.** With 1/√d the largest of 196 weights is about 0.05. By which factor must the logits be multiplied so that it is about one half? Guess, then try factors in `softmax_of(64, factor / 8)` until `.amax(-1).mean()` is near 0.5. Does the same factor serve for d = 1024, in `softmax_of(1024, factor / 32)`?

# %% [markdown] tags=["answer"]
# <details><summary>Answers</summary>
#
# - Formula: N / (6C + N): 4 %, 25 %, 58 %. Quadratic cost begins to matter where N comes near 6C = 4,608.
# - Bug: `view(B, N, num_heads, 3, …)` reads the rows as (h 3 d); they are (3 h d). With one head both are the same. The other tests ask for properties that every attention has, whatever its heads read. Only a comparison with the same weights tells.
# - Explanation: MACs count every product, and joint attention has N² pairs. Memory counts what is stored at once, and the fused kernel stores no logits.
# - Experiment: about 4 (0.53 for d = 64, 0.50 for d = 1024). After the division by √d the width hardly matters any more, so one factor serves for both.
# </details>

# %% [markdown]
# ## What is scaled down, and what was left out
#
# - Formulas, counts, bytes and equalities are exact and at full scale. Times and peaks of memory are of one CPU, small maps and one layer. They
#   say nothing about a GPU beyond their shape. `vt-course bench growth` measures the families at larger sizes, on a GPU if there is one.
# - The memory table counts logits in the literal implementation. Weights, optimiser and other activations come on top; fused kernels remove the logits.
# - The attention maps are of one clip and a model with a third of a million parameters.
# - Masks, and dropout on the weights, are left out here; masks come in notebook 03.
#
# ## Summary
#
# - Attention is two matrix products with a softmax between them. Heads are a batch axis. PyTorch's module, its fused kernel and your loops agree.
# - 1/√d keeps the variance of the logits at 1, so that the softmax passes gradients at every width.
# - Without positions attention is permutation equivariant: order must be put in, as vectors on tokens or as a bias on offsets.
# - Ω(MSA) = 4hwC² + 2(hw)²C and Ω(W-MSA) = 4hwC² + 2M²hwC, exact to the last digit. The square takes over at N = 2C.
# - "FLOPs" are MACs of one view in most tables. TimeSformer's TFLOPs are of three views. PyTorch's counter says twice as much.
# - 448 pixels and 32 frames are the same 6,272 patches: there the literal joint attention stopped fitting.
#
# ## Questionnaire
#
# 1. Which of the tensors of section 1 change their size if you double h at constant C, and how?
# 2. Your attention scales q by d^(−1/2) and hands it to `scaled_dot_product_attention`. What happens?
# 3. A model has no positions, but a class token. Is its class output invariant or equivariant under permuted frames?
# 4. For which N do q kᵀ and the average of values together cost as much as the four projections? As the whole rest of a block with MLP?
# 5. A tool says 8.98 GFLOPs for Swin-T, another 4.5, a third 2.96. Who is right?
# 6. A clip of 16 frames of 320 × 320 in patches of 16: how many tokens, and how does this number compare with the paper's two limits?
# 7. You switch from the literal to fused attention. Which of these change: parameters, MACs of the forward pass, peak memory, results?
# 8. A row of weights is (0.98, 0.01, 0.01). What is the trace of ∂p/∂s, and what does it say about the gradient?

# %% [markdown] tags=["answer"]
# <details><summary>Answers</summary>
#
# 1. Logits and weights double; all others keep their size (section 4).
# 2. The logits are divided by d instead of √d: weights too even (section 3).
# 3. Invariant: the class token stays where it is, and its average does not depend on the order of the others (section 5).
# 4. N = 2C; N = 6C (section 7).
# 5. The first counts additions and multiplications, the second MACs; both are right in their unit. The third misses products and functions (section 7).
# 6. 16 · 20 · 20 + 1 = 6,401: slightly more than 6,273, so beyond both (section 9).
# 7. Peak memory only; results stay up to rounding. (The MACs of the *backward* pass rise a little, since logits are computed again. Sections 4 and 8.)
# 8. 1 − 0.98² − 2 · 0.01² = 0.039. No gradient that passes this row becomes longer than 4 % of its length (section 3).
# </details>

# %% [markdown]
# **Next:** [03 · Swin](03_swin.ipynb), which cuts the map into windows, and moves them.
