# %% [markdown]
# # 08 · Training: from clips to a trained model
#
# `vt-course train` is one line. By the end of this notebook you have written what it does: the crop, the order of the clips, the learning rate, AdamW, the loss, the loop,
# the checkpoint. Then your loop and the package's train the same model on the same clips, and all 325,748 weights come out the same **in every bit**.
# A run that was stopped in the middle of an epoch and one that was not are equal in the same sense. At the end you train on your own folder of videos.
#
# | | |
# |---|---|
# | **Needs** | PyTorch, backpropagation, one training loop that you have seen before. Notebooks 01 (frames and views) and 04 (the model) help; nothing of 05 to 07 is used |
# | **Data** | the embedded clips: `vt-course data synthetic`, once (`make course` and `make lab` do it); and, if you like, videos of your own |
# | **Time** | 2 to 3 hours with the exercises; to run it: 1 minute (`smoke`), 7 (`lecture`, on a busy core); in `full` the two trainings of sections 11 and 12 take about 10 minutes each |
# | **Hardware** | a laptop CPU and 2 GB of memory (4 GB for `lecture` and `full`) |
#
# **You will be able to**
#
# 1. follow a clip from the file to a step of the optimiser, and say which parts are random and what they depend on;
# 2. write warm-up and cosine, AdamW, label smoothing and gradient clipping, and get torch's bits;
# 3. say what must be in a checkpoint, and what need not be;
# 4. say where 16 bits are enough for training, where they are not, and what is done about it;
# 5. split a batch over several GPUs so that the gradient stays the same;
# 6. say how sure an accuracy is, and prepare, check, train and evaluate on videos of your own.

# %% tags=["parameters"]
PROFILE = "smoke"   # smoke: a few steps; lecture: eight epochs; full: to the end
MY_VIDEOS = ""      # a folder with a subfolder for each class; "": copies of ours

# %%
import csv
import math
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from vt_course import repo_root
from vt_course.data import open_spec
from vt_course.data.clips import Rows, VideoFolder, read_manifest
from vt_course.data.reader import ClipReader
from vt_course.data.transforms import normalise, resize
from vt_course.lab import show
from vt_course.lab.check import check
from vt_course.lab.report import agree, differ, report, within
from vt_course.models import create, mini_weights
from vt_course.training.recipes import recipe_for

_ = torch.manual_seed(0)

# %% [markdown]
# Four helpers print what is the same on every machine: `report` prints shapes and counts; `agree` stops the notebook unless two tensors match everywhere, and prints the bound it checked (times |x| for numbers x above 1); `differ`
# is its control; `within` checks that a number lies in an interval. This notebook needs a fifth, because "nearly" is not enough for it:

# %%
def same_bits(name, got, want):
    """All numbers equal, not just nearly; or within 5e-5, and it says so."""
    bits = torch.equal(got, want)
    gap = (got.double() - want.double()).abs().max().item()
    assert gap <= 5e-5, f"{name}: up to {gap:.0e} apart; did all checks above pass?"
    print(f"✓ {name}: {want.numel():,} numbers,",
          "every bit the same" if bits else "within 5e-5")


def flat(weights):
    """All numbers of a state dict in one row; float64 holds a float32 exactly."""
    return torch.cat([weights[name].flatten().double() for name in sorted(weights)])

# %% [markdown]
# ## 1 · The path in one picture

# %% tags=["figure"] alt="A flow chart in two rows: mp4 file, frames, decode, crop and normalise for each clip; then batch, model, loss, gradients and AdamW for each step; an arrow brings new weights from AdamW back to the model."
show.training_path(
    [("mp4 file", "32 frames,\n112 × 112"), ("frames", "8 of them,\nrandom start"),
     ("decode", "8 × 112 × 112 × 3\nbytes"),
     ("crop", "one box for all,\nscaled to 32 × 32"),
     ("normalise", "3 × 8 × 32 × 32\nfloats")],
    [("batch", "6 clips in the\norder of the epoch"),
     ("model", "6 × 8 logits,\ndrop path"),
     ("loss", "cross-entropy,\nsmoothed labels"), ("gradients", "shortened to\nnorm 1"),
     ("AdamW", "learning rate\nof this step")],
    "new weights, for the next batch", "From a file to a step of training")

# %% [markdown]
# Four things on this path are random: the start in time, the box, the order of the clips, and drop path, which leaves out parts of the model. Keep an eye on what each depends on. That question decides whether a
# training can be stopped and go on (section 8), and whether you can repeat it at all.
#
# All numbers of a training stand in a [**recipe**](glossary.md#recipe). Ours is that of `video_swin_mini`, with label smoothing and drop path (section 6) turned on, because we want to see them work, on 16 of the embedded clips for
# 3 epochs. An embedded clip lasts 2 seconds and shows a drawn shape; how it moves is the class. One [**epoch**](glossary.md#epoch) is one pass through all clips. In batches of 6 that makes 3 steps, the last with 4 clips.

# %%
def write_manifest(path, rows):
    """A CSV of clips, as `--data csv:TRAIN.csv,VAL.csv` reads it."""
    lines = [f"{row['path']},{row['label']},," for row in rows]
    text = "\n".join(["path,label,start,end", *lines, ""])
    path.write_text(text, encoding="utf-8")


motion = open_spec("synthetic:motion")
kept = tempfile.TemporaryDirectory(prefix="vt_course_08_")    # removed at the end
work = Path(kept.name)
write_manifest(work / "train.csv", read_manifest(motion.train)[:16])
write_manifest(work / "val.csv", read_manifest(motion.val)[:8])
recipe = replace(recipe_for("video_swin_mini"), batch_size=6, epochs=3,
                 keep=0,                            # decode anew in each epoch
                 drop_path=0.1, label_smoothing=0.1,
                 data=f"csv:{work}/train.csv,{work}/val.csv")
rows, classes = read_manifest(work / "train.csv"), open_spec(recipe.data).classes
steps = recipe.epochs * math.ceil(len(rows) / recipe.batch_size)
report(clips=len(rows), steps_of_an_epoch=steps // recipe.epochs, steps=steps)
print("the classes:", ", ".join(classes))

# %% [markdown]
# ## 2 · What a clip shows
#
# **Which frames** was the subject of notebook 01. Here: 8 frames, 3 apart, so 22 frames from the first to the last, and any start that fits. The start is the first thing drawn.
#
# **Which part of the picture** is the second: a box that keeps 70 to 100 % of the area and is nearly square, at a random place, scaled to 32 × 32. (The aspect is drawn on a logarithmic scale, so that 1.1 and 1/1.1 are equally likely.)

# %% tags=["definition"]
def draw_box(H, W, rng):
    """top, left, height, width of a box inside H × W pixels."""
    while True:
        area = H * W * rng.uniform(*recipe.crop_scale)
        aspect = math.exp(rng.uniform(*map(math.log, recipe.crop_ratio)))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if h <= H and w <= W:
            return int(rng.integers(H - h + 1)), int(rng.integers(W - w + 1)), h, w


def training_clip(index, epoch):
    """Clip number `index` as this epoch shows it: (3, 8, 32, 32)."""
    rng = np.random.default_rng((recipe.seed, epoch, index))
    video = ClipReader(rows[index]["path"])
    start = rng.integers(video.num_frames - 21)               # 22 must fit
    # (8, H, W, 3)
    frames = torch.from_numpy(video.read(start + 3 * np.arange(8)))
    top, left, h, w = draw_box(*frames.shape[1:3], rng)
    frames = frames[:, top:top + h, left:left + w]                     # (8, h, w, 3)
    return normalise(resize(frames, 32, 32))                  # (3, 8, 32, 32)

# %%
from vt_course.training.evaluate import open_data

train_set, _ = open_data(recipe)
for epoch, index in ((0, 0), (0, 7), (2, 7)):
    same_bits(f"clip {index} in epoch {epoch}", training_clip(index, epoch),
              train_set[epoch, index]["clip"])
differ("control: clip 7 in another epoch", training_clip(7, 0), training_clip(7, 2))

# %% [markdown]
# ### One box for all frames
#
# `draw_box` is called once for a clip. For images it makes no difference whether the crop is drawn for each picture; for clips it does. The mistake is easily made: apply an
# image augmentation to each frame. **Predict:** what does a model see then?

# %%
held_out = read_manifest(motion.val)


def held_out_clip(index, boxes=1):
    """8 frames around the middle, cut by one random box, or by 8."""
    rng, video = np.random.default_rng((7, index)), ClipReader(held_out[index]["path"])
    frames = torch.from_numpy(video.read(5 + 3 * np.arange(8)))
    drawn = [draw_box(*frames.shape[1:3], rng) for _ in range(boxes)] * (8 // boxes)
    cut = [resize(f[None, top:top + h, left:left + w], 32, 32)
           for f, (top, left, h, w) in zip(frames, drawn)]
    return normalise(torch.cat(cut))                          # (3, 8, 32, 32)

# %% tags=["figure"] alt="Eight frames of one clip in two rows: with one box for all frames a heart stays in its place while its rings change; with a box for each frame the heart jumps."
show.film_strip([held_out_clip(14), held_out_clip(14, boxes=8)],
                rows=["one box", "a box each"],
                title=f"The same clip, labelled “{held_out[14]['label']}”")

# %% [markdown]
# Above, only the rings on the shape grow. Below, the shape jumps and changes its size: motion that is not there, as large as the real one. How bad is that? We ask the trained model that the
# package ships (notebook 04, section 12 has its accuracy).

# %%
count = 64 if PROFILE == "smoke" else 400
labels = torch.tensor([motion.classes.index(row["label"]) for row in held_out[:count]])
shipped = create("video_swin_mini", num_classes=8).eval()
_ = shipped.load_state_dict(load_file(mini_weights("video_swin_mini")))


@torch.no_grad()
def answers(clips):
    """The predicted class of each clip."""
    return torch.cat([shipped(part).argmax(1) for part in clips.split(50)])


one_box = torch.stack([held_out_clip(i) for i in range(count)])
own_boxes = torch.stack([held_out_clip(i, boxes=8) for i in range(count)])
right = {"one random box": (answers(one_box) == labels).float().mean().item(),
         "a box for each frame": (answers(own_boxes) == labels).float().mean().item()}

# %% tags=["figure"] alt="Accuracy of the shipped model with error bars: with one random box it is nearly 100 %, with a box for each frame less than half of that; both lie above the dashed line of a guess at 12.5 %."
show.accuracies({name: (share, count) for name, share in right.items()}, 1 / 8,
                "Right answers of the shipped model")

# %%
for (name, share), low, high in zip(right.items(), (85, 25), (100, 60)):
    within(f"{name}, right", 100 * share, low, high, " %")
# the last two classes are those that turn
turning = (answers(own_boxes) >= 6).float().mean().item()
within("a box for each frame, called turning", 100 * turning, 55, 90, " %")

# %% [markdown]
# Jumping boxes look like turning to it: it gives most clips one of these two names. So it is still right on nearly all clips that do turn, and on about a quarter of the others.
#
# ### No mirror for "left"
#
# A horizontal flip is the most common augmentation of images: a mirrored dog is a dog. **Predict** the answers to the mirrored clips, class by class, before you look at the figure.

# %%
mirrored = answers(one_box.flip(-1))             # (count,); the last axis is W
matrix = torch.bincount(labels * 8 + mirrored, minlength=64).view(8, 8)

# %% tags=["figure"] alt="Confusion matrix of 64 mirrored clips: left and right are exchanged; nearly all others, those that turn among them, stand on the diagonal."
show.confusion(matrix, motion.classes, f"{count} held-out clips, mirrored")

# %%
sideways = [motion.classes.index(name) for name in ("left", "right")]
swapped = matrix[sideways[0], sideways[1]] + matrix[sideways[1], sideways[0]]
share = (swapped / matrix[sideways].sum()).item()
within("mirrored left and right, answered as the other", 100 * share, 90, 100, " %")

# %% [markdown]
# Mirrored "left" *is* "right". Up, down, grow and shrink stay what they are. But a mirrored "clockwise" *is* "counter-clockwise", and the model says "clockwise" as before. Why? Around its centre each shape shows the colour circle. Where a clip turns, the colours pass by in one order, turning back in the other. The mirror turns round
# the motion *and* the colour circle, so that the order in which colours pass by stays. If the model reads that order, then exchanging red and blue, which turns round the colour circle alone, must exchange the answers for clips that turn, though not a pixel has moved:

# %%
recoloured, turns = answers(one_box.flip(1)), labels >= 6   # BGR, not RGB
share = (recoloured == labels ^ 1)[turns].float().mean().item()
within("recoloured turns, the other way", 100 * share, 75, 100, " %")
share = (recoloured == labels)[~turns].float().mean().item()
within("recoloured other clips, right", 100 * share, 90, 100, " %")

# %% [markdown]
# So it does. On all clips of this data set the order of colours and the turn say the same, so no held-out accuracy could show which of the two the model has learned. A test outside of the data shows it.
#
# To flip and keep the label would teach the model that left and right cannot be told apart. So
# the recipe has `flip = 0`. On Kinetics the released recipes flip half of the clips; on Something-Something, which has classes such as "pushing something from left to right", Video Swin's does not.

# %% [markdown]
# ## 3 · Which clips, in which order
#
# Each epoch shuffles the clips anew. The usual way is a generator that lives as long as the training: to know the order of epoch 7 you must have drawn the six before. Ours is a **pure function of (seed, epoch)**: a fresh generator for
# each epoch. `training_clip` did the same with (seed, epoch, index). Nothing random has a memory.
#
# ### Exercise 8.1 · The batch of a step
#
# Difficulty 2/5 · importance 5/5 · 15 minutes
#
# Which clips does step `step` train on? Steps are counted from 0 over the whole training.
#
# - An epoch takes each clip once, `batch_size` at a time; its last batch may be smaller.
# - The order of an epoch is `np.random.default_rng([seed, epoch]).permutation(clips)`.
#
# Return the numbers of the clips as a tensor.

# %% tags=["exercise:8.1"]
def batch_at(step, clips, batch_size, seed):
    """The clips of a step: integers, (B,) with B at most batch_size."""
    raise NotImplementedError("exercise 8.1")

# %% tags=["check:8.1"]
batch_at = check("8.1", batch_at)

# %% [markdown] tags=["hints:8.1"]
# <details><summary>Hint 1: intuition</summary>
#
# First find out which epoch the step is in, and which batch of that epoch it is. Then make the order of that epoch, and cut.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `epoch, k = divmod(step, batches of an epoch)`; `order = ...`; `order[k * batch_size:(k + 1) * batch_size]`; `torch.from_numpy`
# </details>
# <details><summary>Symptom: wrong from the second epoch on</summary>
#
# An epoch has clips / batch_size batches, rounded **up**: 10 clips in batches of 4 are 3 batches.
# </details>

# %% tags=["solution:8.1"]
def batch_at(step, clips, batch_size, seed):
    """The clips of a step: integers, (B,) with B at most batch_size."""
    epoch, k = divmod(step, math.ceil(clips / batch_size))
    order = np.random.default_rng([seed, epoch]).permutation(clips)
    return torch.from_numpy(order[k * batch_size:(k + 1) * batch_size])


batch_at = check("8.1", batch_at, solution=True)

# %% [markdown]
# The package's `EpochBatches` does the same for torch's `DataLoader`. All steps of our three epochs:

# %%
from vt_course.data.loading import EpochBatches

batches = EpochBatches(len(rows), recipe.batch_size, recipe.seed)
theirs = []
for epoch in range(recipe.epochs):
    batches.epoch = epoch                              # batches of (epoch, clip)
    theirs += [torch.tensor([clip for _, clip in batch]) for batch in batches]
yours = [batch_at(s, len(rows), recipe.batch_size, recipe.seed) for s in range(steps)]
same_bits("the clips of all steps", torch.cat(yours), torch.cat(theirs))
report(clips_of_each_step=str([len(b) for b in yours]),
       each_clip_once_an_epoch=torch.cat(yours[:3]).unique().numel() == len(rows))

# %% [markdown]
# **What would break?** Suppose one generator served all clips in turn. Clip 7 would then get another box whenever a clip before it was skipped, a worker was added, or the training went on after a stop. Here is that
# version, and what happens to a box when one clip in front of it drops out:

# %%
def boxes_in_turn(clips):
    """The mistake: one generator that remembers."""
    rng = np.random.default_rng(recipe.seed)
    return {i: draw_box(112, 112, rng) for i in clips}


def boxes_by_number(clips):
    """A generator for each (seed, epoch, index)."""
    own = {i: np.random.default_rng((recipe.seed, 0, i)) for i in clips}
    return {i: draw_box(112, 112, rng) for i, rng in own.items()}


for rule in (boxes_in_turn, boxes_by_number):
    same = rule([3, 5, 7])[7] == rule([3, 7])[7]
    print(f"{rule.__name__}: clip 7 {'keeps its' if same else 'gets another'} box")

# %% [markdown]
# ## 4 · The learning rate
#
# At first the weights are random and gradients point anywhere, so the learning rate rises from nearly 0 ([**warm-up**](glossary.md#warm-up)). At the end it falls to 0, so that the noise of single batches dies away. All but one of the papers of this course do both, the second with half a wave of the cosine.
#
# ### Exercise 8.2 · Warm-up and cosine
#
# Difficulty 2/5 · importance 4/5 · 10 minutes
#
# The learning rate of step 0, 1, …, `steps` − 1:
#
# - in the first `warmup` steps it rises in equal parts: step 0 has peak / warmup, step warmup − 1 the whole peak;
# - then it is peak · (1 + cos π*x*) / 2, where *x* is the share of the remaining steps that is done: 0 at step `warmup`, and it would be 1 at step `steps`.

# %% tags=["exercise:8.2"]
def learning_rate(step, steps, warmup, peak):
    """The learning rate of a step, a number."""
    raise NotImplementedError("exercise 8.2")

# %% tags=["check:8.2"]
learning_rate = check("8.2", learning_rate)

# %% [markdown] tags=["hints:8.2"]
# <details><summary>Hint 1: intuition</summary>
#
# Two cases. In the second, count steps and their total from the end of the warm-up.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `if step < warmup: peak * (step + 1) / warmup`; else `x = (step - warmup) / (steps - warmup)`
# </details>
# <details><summary>Symptom: the learning rate does not come down to 0</summary>
#
# The cosine is stretched over all steps. Its length is steps − warmup.
# </details>

# %% tags=["solution:8.2"]
def learning_rate(step, steps, warmup, peak):
    """The learning rate of a step, a number."""
    if step < warmup:
        return peak * (step + 1) / warmup
    x = (step - warmup) / (steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * x))


learning_rate = check("8.2", learning_rate, solution=True)

# %%
from vt_course.training.fit import lr_at

whole = recipe_for("video_swin_mini")              # 40 epochs of 100 steps
mine = [float(learning_rate(s, 4000, 100, 1.0)) for s in range(4000)]
agree("your learning rate = the package's, all steps, peak 1", torch.tensor(mine),
      torch.tensor([lr_at(s, 4000, 100, 1.0) for s in range(4000)]))

# %% tags=["figure"] alt="Learning rates of six recipes over a training, as shares of their peak: five rise in a straight line and fall like a cosine to 0; TimeSformer starts at the peak and falls in two steps, near 0.73 and 0.93."
wave = {name: [float(learning_rate(s, n, warm, 1.0)) for s in range(n)]
        for name, n, warm in (("ours", 4000, 100), ("Swin", 3000, 200),
                              ("Video Swin", 3000, 250), ("UniFormer", 1100, 100),
                              ("MViT", 2000, 300))}
show.schedules(wave | {"TimeSformer": [1.0] * 1100 + [0.1] * 300 + [0.01] * 100},
               "Learning rates of six recipes")

# %% [markdown]
# | | optimiser | highest learning rate | epochs, of them warm-up | decay |
# |---|---|---|---|---|
# | Swin, ImageNet-1K | AdamW | 1e-3 for a batch of 1024 | 300, 20 | 0.05 |
# | Video Swin-T, Kinetics-400 | AdamW | 1e-3 for the head, a tenth of it for the pretrained rest | 30, 2.5 | 0.02 |
# | MViT-B, Kinetics-400 | AdamW | 1.6e-3 for a batch of 512 | 200, 30 | 0.05 |
# | TimeSformer, Kinetics-400 | SGD, momentum 0.9 | 5e-3, a tenth from epoch 11, a hundredth from 14 | 15, none | 1e-4 |
# | UniFormer-S 16 × 8, Kinetics-400 | AdamW | 1e-4 for a batch of 32 | 110, 10 | 0.05 |
# | `video_swin_mini`, embedded clips | AdamW | 8e-4 for a batch of 16 | 40, 1 | 0.05 |
#
# (AdamW and decay are the subject of section 5; momentum is its *m*. Sources: at the end.) Long ones train from scratch (MViT), short ones start from image weights (Video Swin, TimeSformer). With a larger batch the gradient is less noisy and there are fewer steps, so recipes scale the learning rate with
# the batch. If you halve the batch to fit your GPU, halve the learning rate, too, or add up the gradients of two halves (section 10).

# %% [markdown]
# ## 5 · AdamW
#
# Plain gradient descent gives every weight the same learning rate. **Adam** keeps, for each weight, a running mean *m* of its gradients and *v* of their squares, and divides: a weight whose gradients are small but point the same way
# moves as fast as one with large gradients. With *g* the gradient in step *t* (counted from 1):
#
# $$m \leftarrow \beta_1 m + (1-\beta_1)\,g \qquad v \leftarrow \beta_2 v + (1-\beta_2)\,g^2$$
#
# $$w \leftarrow (1 - \eta\lambda)\,w - \eta\,\frac{m/(1-\beta_1^t)}{\sqrt{v/(1-\beta_2^t)} + \epsilon}$$
#
# with β₁ = 0.9, β₂ = 0.999, ε = 1e-8. The divisions by 1 − β^t correct for *m* and *v* starting at 0. The factor (1 − ηλ) is the **W** of AdamW (Loshchilov and Hutter, [arXiv 1711.05101](https://arxiv.org/abs/1711.05101)): the weight decays by a share of itself, beside the gradient, not through it.
#
# ### Exercise 8.3 · One step
#
# Difficulty 3/5 · importance 5/5 · 20 minutes
#
# Given are the weight `w`, its gradient `g`, the `m` and `v` of the step before, all of one shape; `t`, the learning rate `lr` (η) and `decay` (λ). Return the new w, m, v, stacked: `(3, ...)`.
#
# Any order of operations passes the check. For the last bit to be torch's as well, do as it does: `torch.lerp(m, g, 1 - 0.9)`; `torch.addcmul(0.999 * v, g, g, value=1 - 0.999)`; the denominator is √v / √(1 − β₂^t) + ε; and the
# last operation is `torch.addcdiv(w * (1 - lr * decay), m, denominator, value=-lr / (1 - 0.9**t))`.

# %% tags=["exercise:8.3"]
def adamw_step(w, g, m, v, t, lr, decay):
    """One step: the new w, m and v, stacked: (3, ...)."""
    raise NotImplementedError("exercise 8.3")

# %% tags=["check:8.3"]
adamw_step = check("8.3", adamw_step)

# %% [markdown] tags=["hints:8.3"]
# <details><summary>Hint 1: intuition</summary>
#
# Three lines: the new m, the new v, and the new weight from the new m and v.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# Take the formulas above literally, then `torch.stack([w, m, v])`. Corrected moments are used for the step and not returned.
# </details>
# <details><summary>Symptom: right at decay 0, wrong else</summary>
#
# The decay must not go into g. And it is multiplied by the learning rate.
# </details>

# %% tags=["solution:8.3"]
def adamw_step(w, g, m, v, t, lr, decay):
    """One step: the new w, m and v, stacked: (3, ...)."""
    m = torch.lerp(m, g, 1 - 0.9)                             # 0.9 · m + 0.1 · g
    v = torch.addcmul(0.999 * v, g, g, value=1 - 0.999)       # 0.999 · v + 0.001 · g²
    denominator = v.sqrt() / math.sqrt(1 - 0.999**t) + 1e-8
    w = torch.addcdiv(w * (1 - lr * decay), m, denominator, value=-lr / (1 - 0.9**t))
    return torch.stack([w, m, v])


adamw_step = check("8.3", adamw_step, solution=True)

# %% [markdown]
# Against `torch.optim.AdamW`, 20 steps on the same gradients. If you wrote the formulas another way, the line says "within 5e-5"; that is fine.

# %%
weight = nn.Parameter(torch.randn(4, 5))
optimizer = torch.optim.AdamW([weight], lr=0.01, weight_decay=0.1)
w, m, v = weight.detach().clone(), torch.zeros(4, 5), torch.zeros(4, 5)
for t in range(1, 21):
    weight.grad = torch.randn(4, 5)
    w, m, v = adamw_step(w, weight.grad, m, v, t, 0.01, 0.1)
    optimizer.step()
same_bits("your AdamW = torch's after 20 steps", w, weight.detach())

# %% [markdown]
# ### Decay beside the gradient, or through it
#
# The older way adds λ*w* to the gradient, as if the loss had a term λ*w*²/2 (**L2**). For plain gradient descent it is the same thing. For Adam it is not: the division by √*v* undoes it. **Predict:** two weights, both 1. Their gradients carry no information, they just alternate between +*G* and −*G*, with *G* = 10 for one and 0.01 for
# the other. After 200 steps with learning rate 0.01 and decay 0.1, what is left of each weight?

# %%
def after_200_steps(G, l2):
    w, m, v = torch.ones(1), torch.zeros(1), torch.zeros(1)
    for t in range(1, 201):
        g = torch.tensor([G if t % 2 else -G])
        g, decay = (g + 0.1 * w, 0.0) if l2 else (g, 0.1)
        w, m, v = adamw_step(w, g, m, v, t, 0.01, decay)
    return f"{w.item():.2f}"


report(**{f"AdamW, G = {G}": after_200_steps(G, l2=False) for G in (10.0, 0.01)})
report(**{f"Adam with L2, G = {G}": after_200_steps(G, l2=True) for G in (10.0, 0.01)})

# %% [markdown]
# AdamW leaves the same of both: 0.999²⁰⁰ = 0.82, less 0.02 that the first steps have moved them. L2 hardly touches the weight with large gradients, and drives the other to zero. How much a weight decays should not depend on how noisy its gradient is; with the W it does not.
#
# ### What does not decay
#
# Decay pulls towards zero. For the weight of a LayerNorm zero means "erase this channel"; a bias has nothing to gain. So vectors do not decay, nor do tables of relative positions. Video Swin's released configurations do the same (`decay_mult=0.` for norms and bias tables).

# %%
def decay_of(name, parameter):
    """The decay of a parameter, from its name and shape."""
    table = name.endswith("relative_position_bias_table")
    return 0.0 if parameter.ndim <= 1 or table else recipe.weight_decay

# %%
from vt_course.training.fit import parameter_groups

groups = parameter_groups(shipped, recipe.weight_decay)
theirs = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
assert all(theirs[id(p)] == decay_of(n, p) for n, p in shipped.named_parameters())
free = [p.numel() for n, p in shipped.named_parameters() if not decay_of(n, p)]
report(parameters=sum(p.numel() for p in shipped.parameters()), without_decay=sum(free),
       tensors_without_decay=len(free))

# %% [markdown]
# ## 6 · Loss and gradient
#
# Cross-entropy compares the softmax with the label: 1 for the true class, 0 for all others. It is never satisfied, since a softmax reaches 1 only with infinite logits. [**Label smoothing**](glossary.md#label-smoothing) asks for something that can be reached: each label gives away ε, and all K classes, the true one among them, get ε / K of it.
#
# ### Exercise 8.4 · Label smoothing
#
# Difficulty 3/5 · importance 3/5 · 10 minutes
#
# `logits` (B, K), `label` (B,) class numbers, `eps` ε. The loss of a clip is −Σₖ targetₖ · log softmaxₖ with target = (1 − ε) · (1 for the label, 0 else) + ε / K. Return the mean over the clips, one number. Its gradient is checked, too.
#
# (As torch adds it up: the mean over clips of −log softmax at the label, times 1 − ε, plus the mean over clips of the sum of −log softmax over classes, times ε / K.)

# %% tags=["exercise:8.4"]
def smoothed_loss(logits, label, eps):
    """Cross-entropy with smoothed labels, the mean over clips: one number."""
    raise NotImplementedError("exercise 8.4")

# %% tags=["check:8.4"]
smoothed_loss = check("8.4", smoothed_loss)

# %% [markdown] tags=["hints:8.4"]
# <details><summary>Hint 1: intuition</summary>
#
# The loss is linear in the target. So it is (1 − ε) times the usual loss plus ε times the loss against an even target.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `log_p = logits.log_softmax(-1)`; of the true classes: `log_p.gather(1, label[:, None])`
# </details>
# <details><summary>Symptom: a little too small or too large, except at ε = 0</summary>
#
# The true class keeps 1 − ε and gets ε / K besides.
# </details>

# %% tags=["solution:8.4"]
def smoothed_loss(logits, label, eps):
    """Cross-entropy with smoothed labels, the mean over clips: one number."""
    log_p = logits.log_softmax(-1)                            # (B, K)
    true = -log_p.gather(1, label[:, None]).mean()
    even = -log_p.sum(1).mean()
    return (1 - eps) * true + even * (eps / logits.shape[1])


smoothed_loss = check("8.4", smoothed_loss, solution=True)

# %%
logits, label = torch.randn(16, 8), torch.randint(8, (16,))
# Processors differ in the order in which they add: on some, every bit is the same.
agree("your loss = torch's", smoothed_loss(logits, label, 0.1),
      F.cross_entropy(logits, label, label_smoothing=0.1), 1e-6)
target = 0.9 * F.one_hot(torch.tensor(0), 8) + 0.1 / 8       # (8,)
report(loss_of_a_guess=f"{math.log(8):.3f}",
       smallest_loss_with_smoothing=f"{-(target * target.log()).sum():.3f}")

# %% [markdown]
# With 8 classes a model that knows nothing has a loss of ln 8 = 2.079; a loss far above it at the start is a bug. With ε = 0.1 nothing below 0.467 is possible, without it nothing below 0.
# Compare losses of runs only if their ε is the same. (The validation loss of the package is always without smoothing.)
#
# ### Gradient clipping
#
# Now and then a batch gives a gradient many times as long as usual, and one step undoes a hundred. So the gradient is shortened when it is longer than a limit, its direction kept. "The gradient" is that of **all** parameters, laid end to end.
#
# ### Exercise 8.5 · By which factor?
#
# Difficulty 1/5 · importance 4/5 · 10 minutes
#
# `norms` (P,) holds the norm of the gradient of each of P parameters. Return the factor for all of them: limit / norm of all together, but at most 1.
#
# (torch adds 1e-6 to the norm, so that nothing is divided by zero.)

# %% tags=["exercise:8.5"]
def clip_factor(norms, limit):
    """What all gradients are multiplied by, one number in (0, 1]."""
    raise NotImplementedError("exercise 8.5")

# %% tags=["check:8.5"]
clip_factor = check("8.5", clip_factor)

# %% [markdown] tags=["hints:8.5"]
# <details><summary>Hint 1: intuition</summary>
#
# Two vectors of length 3 and 4, laid end to end, make a vector of length 5: Pythagoras.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `norms.norm()` treats the P norms as one vector. Then a division, and a limit from above: `clamp`.
# </details>
# <details><summary>Symptom: short gradients come out too long</summary>
#
# The factor is never above 1.
# </details>

# %% tags=["solution:8.5"]
def clip_factor(norms, limit):
    """What all gradients are multiplied by, one number in (0, 1]."""
    return (limit / (norms.norm() + 1e-6)).clamp(max=1.0)


clip_factor = check("8.5", clip_factor, solution=True)

# %%
# (13, 3, 8, 32, 32)
x = torch.stack([training_clip(i, 0) for i in range(13)])
y = torch.tensor([motion.classes.index(rows[i]["label"]) for i in range(13)])
_ = torch.manual_seed(0)
untrained = create("video_swin_mini")        # gradients are long at the beginning
F.cross_entropy(untrained(x), y).backward()
gradient = torch.cat([p.grad.flatten() for p in untrained.parameters()])
norms = torch.stack([p.grad.norm() for p in untrained.parameters()])
factor = clip_factor(norms, 1.0)
torch.nn.utils.clip_grad_norm_(untrained.parameters(), 1.0)
clipped = torch.cat([p.grad.flatten() for p in untrained.parameters()])
same_bits("your clipping = torch's", factor * gradient, clipped)
length = clipped.double().norm()
agree("its length", length, torch.ones_like(length))

# %% [markdown]
# ### Drop path
#
# A transformer block adds something to its input: x + f(x). [**Drop path**](glossary.md#drop-path) leaves out f(x), for a random part of the clips, in training only. What is kept is enlarged, so that the expectation stays the same. Later blocks are dropped more often than early ones.

# %%
from vt_course.models.layers import DropPath


def drop_path(branch, rate):
    """(B, ...): a clip's branch is dropped, or kept and 1/(1 - rate) times as large."""
    keep = torch.empty(len(branch), *[1] * (branch.ndim - 1)).bernoulli_(1 - rate)
    return branch * (keep / (1 - rate))


branch = torch.randn(16, 4, 8, 8, 24)                     # (B, T, H, W, C)
_ = torch.manual_seed(5)
mine = drop_path(branch, 0.1)
_ = torch.manual_seed(5)
same_bits("this drop path = the model's", mine, DropPath(0.1).train()(branch))
rates = [m.rate for m in create("video_swin_mini", drop_path=0.1).modules()
         if isinstance(m, DropPath)]
report(rate_of_each_block=", ".join(f"{rate:.3f}" for rate in rates))

# %% [markdown]
# It draws from torch's global generator. Before each step the loop will seed that one with a number made from (seed, step), so drop path has no memory either.

# %% [markdown]
# ## 7 · The loop
#
# First the model, and for each parameter an m and a v, all zero:

# %%
def zero_moments(model):
    """An m and a v for each parameter, by its name."""
    return {name: (torch.zeros_like(p), torch.zeros_like(p))
            for name, p in model.named_parameters()}


def start(seed=recipe.seed, rate=recipe.drop_path):
    """A fresh model, and the moments of AdamW by name."""
    _ = torch.manual_seed(seed)
    model = create(recipe.model, num_classes=len(classes), drop_path=rate)
    return model, zero_moments(model)

# %% [markdown]
# What happens after `backward`: shorten the gradients, then one step of AdamW for each parameter.

# %%
@torch.no_grad()
def update(model, moments, t, lr):
    """Clip, then AdamW; t counts from 1. Changes the model and the dict of moments."""
    parameters = dict(model.named_parameters())
    norms = torch.stack([p.grad.norm() for p in parameters.values()])
    factor = clip_factor(norms, recipe.grad_clip)
    for name, p in parameters.items():
        m, v = moments[name]
        w, m, v = adamw_step(p, factor * p.grad, m, v, t, lr, decay_of(name, p))
        moments[name] = m, v
        p.copy_(w)

# %% [markdown]
# And the step itself. Read it against the picture of section 1.

# %%
def train_step(model, moments, step):
    """One step of the recipe; returns the loss."""
    chosen = batch_at(step, len(rows), recipe.batch_size, recipe.seed).tolist()
    epoch = step // (steps // recipe.epochs)
    clips = torch.stack([training_clip(i, epoch) for i in chosen])
    labels = torch.tensor([classes.index(rows[i]["label"]) for i in chosen])
    warmup = round(recipe.warmup_epochs * (steps // recipe.epochs))
    lr = float(learning_rate(step, steps, warmup, recipe.lr))
    _ = torch.manual_seed(recipe.seed * 1_000_003 + step)              # for drop path
    loss = smoothed_loss(model(clips), labels, recipe.label_smoothing)
    model.zero_grad()
    loss.backward()
    update(model, moments, step + 1, lr)
    return loss.item()

# %% [markdown]
# One more condition for equal bits. Floating-point sums depend on their order, and the gradient of a table that many tokens read is, by default, added up by several threads in whatever order they finish. `deterministic` makes torch
# add in a fixed order, on a CPU, while it is open; `fit` does the same.

# %%
from vt_course.machine import deterministic
from vt_course.training.checkpoint import read_weights
from vt_course.training.fit import fit

cpu = torch.device("cpu")
model, moments = start()
with deterministic(cpu):
    losses = [train_step(model, moments, step) for step in range(steps)]
mine = flat(model.state_dict())
report(steps=len(losses), tensors=len(model.state_dict()), numbers=mine.numel())

# %% [markdown]
# Now the package: the same recipe, into a folder. It trains with its own loader, torch's AdamW, torch's loss and torch's clipping; after each epoch it looks at the validation clips, and it writes a checkpoint.

# %%
summary = fit(recipe, work / "run", device="cpu", workers=0, progress=False)
theirs, _ = read_weights(work / "run" / "last.safetensors")
assert summary["steps"] == steps and theirs.keys() == model.state_dict().keys()
same_bits("your loop = the package, after 9 steps", mine, flat(theirs))
differ("control: the weights before", flat(start()[0].state_dict()), flat(theirs), 1e-3)

# %% [markdown]
# If a single box had been another one, if the learning rate had been a step late, if a LayerNorm had decayed, the first line would not be there. There is nothing in a step of `fit` that you
# have not written. Around the steps it has validation, progress, curves and files, and the subjects of sections 9 and 10.
#
# ### First, let it memorise
#
# A loop can be equal to another and both be wrong. Before a long training, ask for something easy: eight clips, the same in each step, without smoothing or drop path, with 5 steps of warm-up. A model that cannot learn these by heart will learn nothing else. **Predict** the first loss.

# %%
model, moments = start(rate=0.0)
memory = []
for t in range(1, 31):
    loss = F.cross_entropy(model(x[:8]), y[:8])
    model.zero_grad()
    loss.backward()
    update(model, moments, t, 1e-3 * min(1, t / 5))
    memory.append(loss.item())
within("first loss", memory[0], 1.8, 2.4)
within("last loss", memory[-1], 0, 0.4)

# %% tags=["figure"] alt="The loss of the same eight clips over 30 steps: it falls from about 2.1 to about 0.1."
figure = show.curves({"loss of the same eight clips": memory}, "loss",
                     "Learning by heart")
_ = figure.axes[0].set_xlabel("step")
figure

# %% [markdown]
# It begins near ln 8 ≈ 2.08, as it must, and falls. When it does not, look at the labels (are they those of the clips?), at `zero_grad`, at the learning rate.

# %% [markdown]
# ## 8 · Stop and go on
#
# A training of days is stopped: by a full disk, by the queue of the cluster, by you. What must be stored so that it goes on *as if nothing had happened*? In general: weights, moments, the step, the state of every random generator, the place of every worker. With nothing random that has a memory, the first three are all.
#
# We stop after 7 of the 9 steps, in the middle of the third epoch, and go on in another "process": a fresh model that is filled from the file.

# %%
def go_on(state):
    """From a state to the end of the training; returns all weights in a row."""
    model, moments = start(seed=99)                   # another model, to be overwritten
    model.load_state_dict(state["model"])
    moments = dict(state["moments"] or moments)       # a copy: update puts in new ones
    with deterministic(cpu):
        for step in range(state["step"], steps):
            train_step(model, moments, step)
    return flat(model.state_dict())


model, moments = start()
with deterministic(cpu):
    for step in range(7):
        train_step(model, moments, step)
torch.save(dict(model=model.state_dict(), moments=moments, step=7), work / "mine.pt")

# %%
state = torch.load(work / "mine.pt", weights_only=True)
same_bits("stopped after 7 of 9 steps = not stopped", go_on(state), mine)

# %% [markdown]
# **Predict.** What happens if the file lacks the moments? If it says only "epoch 3", and the training goes on at the beginning of it?

# %%
differ("without the moments", go_on(state | dict(moments=None)), mine, 1e-4)
differ("from the beginning of the epoch", go_on(state | dict(step=6)), mine, 1e-5)


def step_sizes(moments):
    """|Δw| of all weights in the step after the file, in learning rates."""
    model, none = start()
    model.load_state_dict(state["model"])
    train_step(model, dict(moments or none), 7)
    moved = flat(model.state_dict()) - flat(state["model"])
    return moved.abs() / float(learning_rate(7, steps, 3, recipe.lr))


for name, moments, low, high in (("with", state["moments"], 0.15, 0.35),
                                 ("without", None, 0.48, 0.51)):
    median = step_sizes(moments).median().item()
    within(f"median step {name} the moments", median, low, high, " learning rates")

# %% [markdown]
# No error, no warning: the weights look like weights. Without the moments all of them move equally far, half a learning rate here, whatever their gradients (question 4 has the reason). From the beginning of the epoch, the clips of step 6 count twice. The run is just not the one that it says it is. With `fit`:

# %%
for stop in (7, None):                                # None: to the end
    _ = fit(recipe, work / "stopped", device="cpu", workers=0, progress=False,
            max_steps=stop)
stopped, _ = read_weights(work / "stopped" / "last.safetensors")
same_bits("fit, stopped after 7 steps = not stopped", flat(stopped), flat(theirs))

# %% [markdown]
# `fit` adds three things. Its state is one file, `state.pt`, written under another name and then renamed: a kill at any moment leaves the old state or the new one, never half of one. It refuses to go on with another recipe or other clips than the folder's. And everything else in the folder follows
# from the state and can be written again. So the way to go on, after anything, is to run the same command again.

# %% [markdown]
# ## 9 · Sixteen bits
#
# GPUs multiply 16-bit numbers many times as fast as 32-bit ones (an A100: 312 against 19.5 TFLOP/s, says NVIDIA's data sheet), and they take half of the memory. There are two kinds. Beside the sign they share 15 bits in different ways between exponent (how large) and fraction (how exact).

# %%
names = {torch.float32: "8 + 23", torch.float16: "5 + 10", torch.bfloat16: "8 + 7"}
print(f"{'':10}{'exponent + fraction':28}{'largest':>10}{'smallest':>10}", "after 1")
for dtype, bits in names.items():
    i = torch.finfo(dtype)
    print(f"{str(dtype)[6:]:10}{bits:28}{i.max:10.3g}{i.tiny:10.2g}", 1 + i.eps)

# %% [markdown]
# (In front of the fraction stands a 1 that is not stored. "Smallest" is the smallest with all its digits. Below it there are numbers with fewer and fewer; the last one of float16 is 2⁻²⁴ ≈ 6e-8, and less than half of it is rounded to 0.) bfloat16 is float32 with 16 of its bits cut off: the same range, hardly any digits. float16 has more digits and a much smaller range.

# %% tags=["figure"] alt="Number lines from 0.98 to 1.02: the numbers of float32 fill a bar, float16 has 61 marks, bfloat16 has 8; the number 1.003 stays almost in its place in float32 and float16 and becomes 1 in bfloat16."
show.number_lines([torch.float32, torch.float16, torch.bfloat16], 0.98, 1.02, 1.003,
                  "All numbers near 1, and what 1 + 0.003 becomes")

# %% [markdown]
# ### Why the weights stay in float32
#
# 1 + 0.003 is 1 in bfloat16. **Predict:** add 0.003 a hundred times.

# %%
def add_up(dtype):
    w = torch.tensor(1.0, dtype=dtype)
    for _ in range(100):
        w = w + torch.tensor(0.003, dtype=dtype)
    return f"{w.item():.2f}"


report(**{f"1 + 100 × 0.003 in {str(dtype)[6:]}": add_up(dtype) for dtype in names})

# %% [markdown]
# Each addition is rounded away. A step of AdamW usually changes a weight by less than the learning rate, while the weight has any size. Take the trained weights, move each by the learning rate of each epoch, and count those that do not move:

# %%
weights = torch.cat([p.detach().flatten() for p in shipped.parameters()])
weights = weights[weights != 0]
peaks = [learning_rate(100 * epoch + 50, 4000, 100, whole.lr) for epoch in range(40)]
lost = {dtype: [((weights.to(dtype) + torch.tensor(float(lr)).to(dtype))
                 == weights.to(dtype)).float().mean().item() for lr in peaks]
        for dtype in (torch.bfloat16, torch.float16)}

# %% tags=["figure"] alt="Share of the weights that do not move in each of 40 epochs: with bfloat16 weights it is small at first and then rises in steps to nearly 100 %, with float16 weights it is near 0 for most of the training and rises at the end."
show.curves({f"{str(dtype)[6:]} weights": [100 * s for s in shares]
             for dtype, shares in lost.items()}, "weights that do not move (%)",
            "Updates that are lost when the weights have 16 bits")

# %%
within("bfloat16, epoch 2", 100 * lost[torch.bfloat16][1], 1, 8, " %")
within("bfloat16, epoch 39", 100 * lost[torch.bfloat16][38], 90, 100, " %")

# %% [markdown]
# At the peak of the learning rate one update in fifty is lost, at the end nearly all are, and with them what the end of the cosine is for. (The curve has steps because the distance between neighbouring numbers doubles at each power of 2.) With smaller updates more are lost, so this is an estimate from below. The remedy is [**mixed precision**](glossary.md#mixed-precision): weights, moments and the update stay in float32 ("master
# weights"); for the multiplications of forward and backward a 16-bit copy is made. Those are most of the time, and they mind less: their errors change from step to step, and what is summed over steps is kept in 32 bits.
#
# ### Why float16 needs loss scaling
#
# Gradients are small. Here are those of the trained model (13 clips, computed in float32) against what float16 can hold, and the same times 2¹⁶:

# %%
def gradient_on(model, clips, labels, scale=1):
    """The gradient of the mean loss, all parameters in a row: (P,)."""
    with deterministic(cpu):
        loss = scale * F.cross_entropy(model(clips), labels)
        grads = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([g.flatten() for g in grads])


gradient = gradient_on(shipped, x, y)

# %% tags=["figure"] alt="Two histograms of the sizes of gradients on a logarithmic axis, with the range of float16 shaded: as they are, many lie where digits get lost; times 2¹⁶ nearly all lie where all digits are kept."
show.gradient_sizes({"gradients": gradient, "gradients times 2¹⁶": 2.0**16 * gradient},
                    "Gradients of video_swin_mini against the range of float16")

# %%
nonzero = gradient[gradient != 0].abs()
below = 100 * (nonzero < 2.0**-14).float().mean().item()
scaled = 100 * (2.0**16 * nonzero < 2.0**-14).float().mean().item()
within("gradients that lose digits or vanish", below, 30, 90, " %")
within("the same, of a loss that was multiplied by 2¹⁶", scaled, 0, 1, " %")

# %% [markdown]
# Here more than half of them lose digits, and a few in a thousand vanish: this small model might do without help, but nobody knows beforehand. Multiply the loss by 2¹⁶, and by the chain rule every gradient is 2¹⁶ times as large; divide before the update. A power of two changes the exponent alone, so nothing is lost:

# %%
same_bits("(gradient of 2¹⁶ · loss) / 2¹⁶ = gradient",
          gradient_on(shipped, x, y, scale=2**16) / 2**16, gradient)

# %% [markdown]
# Too large a factor makes gradients infinite, so it is adapted: `torch.amp.GradScaler` skips a step with an infinite gradient and halves the factor, and doubles it when all went well for long. Clipping must come after the division. (The method: Micikevicius and others, [arXiv 1710.03740](https://arxiv.org/abs/1710.03740).) bfloat16 has the range of float32 and needs none of it.
#
# ### What it does to the outputs
#
# `torch.autocast` chooses for each operation. On CUDA linear layers, convolutions and matrix products run in 16 bits, softmax, norms and losses in 32. There is a version for CPUs, with lists of its own:

# %%
with torch.no_grad():
    exact = shipped(one_box[:24])                                      # (24, 8)
    with torch.autocast("cpu", torch.bfloat16):
        rough = shipped(one_box[:24])
report(type_of_the_logits=str(rough.dtype)[6:])
differ("logits in bfloat16 and in float32", rough.float(), exact, 1e-3)
same = 100 * (rough.argmax(1) == exact.argmax(1)).float().mean().item()
within("clips with the same answer", same, 90, 100, " %")

# %% [markdown]
# In `fit`, `amp=true` (the default) takes effect on a CUDA device only: bfloat16 where it has it, else float16 with a `GradScaler`, whose factor is part of the checkpoint. No GPU was at hand: that path is tested by its parts, as here, and **has not been run**. For losses that become NaN, UniFormer's author advises (issues 30 and 112
# of its repository): mixed precision off, which he calls the most effective (`--set amp=false` here), a lower learning rate, a longer warm-up, weaker augmentation.

# %% [markdown]
# ## 10 · Many GPUs
#
# With R GPUs, R processes, the [**ranks**](glossary.md#rank), hold the same weights. Each computes the gradient of its part of the batch, then all gradients are averaged, and every rank takes the same step. For that to be *the same training*, two things must hold: the ranks must take different clips of a common order, and the average must be that of all clips.

# %% tags=["figure"] alt="Three rows of numbered boxes, one row for each step of an epoch of 16 clips: blue boxes of rank 0 and orange boxes of rank 1 take turns, 3 + 3 clips in the first two steps and 2 + 2 in the last."
show.ranks([b.tolist() for b in yours[:3]], 2,
           "An epoch of 16 clips in batches of 6: two ranks share each batch")

# %% [markdown]
# ### Exercise 8.6 · The gradient of all ranks
#
# Difficulty 2/5 · importance 4/5 · 10 minutes
#
# Rank r has computed the gradient of the **mean** loss of its `sizes[r]` clips: row r of `gradients` (R, P). Parts may differ in size: 13 clips are 7 and 6, and a rank whose files are damaged may have none at all (its row is then some finite numbers, which must not count). Return the gradient of the mean loss of all clips, (P,).

# %% tags=["exercise:8.6"]
def gradient_of_all(gradients, sizes):
    """(R, P) means over sizes (R,) clips each -> (P,), the mean over all clips."""
    raise NotImplementedError("exercise 8.6")

# %% tags=["check:8.6"]
gradient_of_all = check("8.6", gradient_of_all)

# %% [markdown] tags=["hints:8.6"]
# <details><summary>Hint 1: intuition</summary>
#
# Make sums of the means, add them, and divide by the number of all clips.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `sizes / sizes.sum()` are the weights; they sum to 1. Give them an axis for P.
# </details>
# <details><summary>Symptom: right when all parts are equal</summary>
#
# The plain mean over ranks lets a clip of a small part count more than one of a large part.
# </details>

# %% tags=["solution:8.6"]
def gradient_of_all(gradients, sizes):
    """(R, P) means over sizes (R,) clips each -> (P,), the mean over all clips."""
    return ((sizes / sizes.sum())[:, None] * gradients).sum(0)


gradient_of_all = check("8.6", gradient_of_all, solution=True)

# %% [markdown]
# The proof, in one process: the same weights, a batch of 13 clips, two ranks; rank r takes `batch[r::2]`.

# %%
whole_batch = gradient_on(untrained, x, y)
parts = torch.stack([gradient_on(untrained, x[r::2], y[r::2])
                     for r in range(2)])                  # (2, P)
sizes = torch.tensor([len(y[r::2]) for r in range(2)])
report(clips_of_each_rank=str(sizes.tolist()))
combined = gradient_of_all(parts, sizes)
agree("weighted mean = the whole batch", combined, whole_batch, 1e-4)
differ("control: plain mean of the ranks", parts.mean(0), whole_batch)

# %% [markdown]
# But for rounding, this time: the sum is made in another order. Three things are *not* the same on several ranks, or only if one takes care:
#
# - **Clipping.** Average first, then clip. Ranks that clip their own gradients average something else.
# - **BatchNorm** takes mean and variance from the clips that it sees: those of its own rank. (UniFormer has it, Swin does not; `torch.nn.SyncBatchNorm` exists for that.)
# - **Drop path** is drawn by each rank for its own clips.

# %%
clip_own = torch.stack([g * clip_factor(g.norm()[None], 1.0) for g in parts])
clip_all = whole_batch * clip_factor(whole_batch.norm()[None], 1.0)
differ("clipped before the average", gradient_of_all(clip_own, sizes), clip_all, 1e-3)
norm, features = nn.BatchNorm1d(4), torch.randn(13, 4)
by_rank = torch.empty_like(features)
for r in range(2):
    by_rank[r::2] = norm(features[r::2])
differ("BatchNorm of each rank's own clips", by_rank, norm(features))

# %% [markdown]
# In the package, `batch_size` is that of all ranks together, whatever their number, so a recipe means the same on one GPU and on eight. torch's `DistributedDataParallel` averages plainly: it adds all gradients and divides by R. So each rank multiplies its loss by n_r · R / n first, and the R cancels. The command:
#
# ```sh
# .venv/bin/torchrun --nproc-per-node 2 -m vt_course.cli train video_swin_mini --data synthetic:motion --out runs/two
# ```
#
# It works without a GPU, too (`--device cpu`), one process a core. For the 16 clips and 9 steps of section 7, without drop path, the weights of one process and of two differ by a few 1e-5: roundings, which AdamW enlarges where a gradient is next to nothing, because its sign decides about a whole step.
#
# ### One GPU that is too small
#
# The same algebra in time instead of space is [**gradient accumulation**](glossary.md#gradient-accumulation). `backward` adds to `.grad`; so take the parts one after the other, weigh each loss by n_r / n, and step once at the end:

# %%
untrained.zero_grad()
for part in (slice(0, 5), slice(5, 10), slice(10, 13)):
    loss = F.cross_entropy(untrained(x[part]), y[part])
    (loss * len(y[part]) / len(y)).backward()
added = torch.cat([p.grad.flatten() for p in untrained.parameters()])
agree("three parts, added up = the whole batch", added, whole_batch, 1e-4)

# %% [markdown]
# ## 11 · A whole training, and how sure its number is
#
# Now the real recipe on all 1,600 clips. In `smoke` (and for videos of your own) it makes one step; `lecture` trains the first eight epochs of 40; `full` goes to the end.

# %%
long_run = work / "long"
until = 1 if MY_VIDEOS else {"smoke": 1, "lecture": 800, "full": None}[PROFILE]
summary = fit(whole, long_run, max_steps=until, progress=False)
report(parameters=summary["parameters"], epochs=whole.epochs,
       steps_of_the_recipe=whole.epochs * 100)

# %% [markdown]
# The figure shows the epochs that were finished; after one step those of section 7, in which nothing can be learned, and the training loss is that of smoothed labels. (In `lecture` both losses stay near that of a guess, 2.08, for about four epochs, and then fall. A flat beginning is not a bug by itself; that the same loop has learned eight clips by heart is the reason to wait.) `fit` leaves such a figure in the run folder, too (`curves.png`), and every step for TensorBoard: `tensorboard --logdir runs`.

# %%
def loss_curves(folder, title):
    """The losses of the finished epochs of a run."""
    with open(folder / "metrics.csv", encoding="utf-8") as file:
        epochs = list(csv.DictReader(file))
    return show.curves({name: [float(row[name]) for row in epochs]
                        for name in ("train_loss", "val_loss")}, "loss", title)

# %% tags=["figure"] alt="Loss over three epochs: the training loss falls from about 2.1 to 1.7, the validation loss rises from about 2.1 to 2.3."
loss_curves(work / "run" if until == 1 else long_run, "Training and validation loss")

# %% [markdown]
# The shipped weights come from this recipe, run to the end once (`results/ship/video_swin_mini.json` has hardware, seconds, seed and commit). They are those of the last epoch, not of the best: who picks the best of 40 by validation accuracy reports luck as well.
#
# ### Views
#
# A video is longer than a clip. At test time several clips are cut out, and the **mean of their softmax** is the prediction (notebook 01, section 4). For four clips in time:

# %%
settings = dict(classes=motion.classes, frames=8, stride=3, size=32, train=False)
some = {"smoke": 30, "lecture": 100, "full": 400}[PROFILE]
test_rows = Rows(held_out[:some], "held-out clips")
four = VideoFolder(test_rows, views=(4, 1), **settings)
with torch.no_grad():
    shares = torch.stack([shipped(four[i]["clip"]).softmax(-1).mean(0)
                          for i in range(some)])       # (4, 8) each -> (some, 8)
top1 = (shares.argmax(1) == labels[:some]).double().mean().item()

# %%
from vt_course.training.evaluate import evaluate

score = evaluate(shipped, four, workers=0, progress=False)
assert score["top1"] == top1
standard_error = math.sqrt(top1 * (1 - top1) / some)
agree("standard error = the package's", torch.tensor(standard_error),
      torch.tensor(score["stderr"]))
within("four views", 100 * top1, 75, 100, " %")

# %% [markdown]
# ### How sure
#
# n clips, of which a share p is right: the [standard error](glossary.md#standard-error) of p is √(p(1 − p)/n), the spread of p if one took other clips of the same kind. Two seeds of this training are stored in `results/`:

# %%
import json


def stored(file):
    """Top-1 of the last epoch of a run and its standard error, percent."""
    text = (repo_root() / "results" / file).read_text(encoding="utf-8")
    last = json.loads(text)["last"]
    return 100 * last["val_top1"], 100 * last["val_top1_stderr"]


(p0, e0), (p1, e1) = (stored(f"ship/video_swin_mini{seed}.json")
                      for seed in ("", "_seed1"))
gap = f"{p1 - p0:+.2f} ± {math.hypot(e0, e1):.2f} points"
report(**{"seed 0": f"{p0:.2f} ± {e0:.2f} %",
          "seed 1": f"{p1:.2f} ± {e1:.2f} %", "difference": gap})

# %% [markdown]
# The standard error of a difference is the root of the sum of both squares. A difference below two of them is no evidence that one run is better. But look at seed 1. It is right on all 400 clips, and the formula says ± 0. It wants clips of both kinds, right and wrong, several of each. A model that errs on one clip in 200 is right on 400 others with a probability of 0.995⁴⁰⁰ = 13 %. So 400 clips do not decide between these two seeds, whatever the last line says.
#
# On the 19,881 validation videos of Kinetics-400 that the public mirror has, it is 0.3 points at 79 %; differences of 0.1 between papers are below that.
#
# Where all clips are right or all are wrong, the figures leave the ± out. And the formula covers the choice of clips only; how much the seed of the training matters one learns from several seeds.
#
# ### The control
#
# And does the accuracy mean what you think? Notebook 04 has the argument: of clips whose frames were shuffled no model can expect more than 50 % right on this data set. It takes one argument to ask:

# %%
in_order = VideoFolder(Rows(held_out[:count], "held-out clips"), **settings)
one, shuffled = (evaluate(shipped, in_order, order=order, workers=0, progress=False)
                 for order in ("normal", "shuffled"))
within("one view", 100 * one["top1"], 75, 100, " %")
within("one view, frames shuffled", 100 * shuffled["top1"], 5, 50, " %")

# %% tags=["figure"] alt="Accuracy of the shipped model with error bars: four views and one view lie at or near 100 %, one view with shuffled frames not far above the dashed line of a guess."
show.accuracies({"four views": (top1, some), "one view": (one["top1"], count),
                 "one view, frames shuffled": (shuffled["top1"], count)}, 1 / 8,
                "The shipped model on held-out clips, ± one standard error")

# %% [markdown]
# ## 12 · Your own videos
#
# The same path for a folder of yours: a subfolder for each class, at least five videos in each (of each class a fifth, rounded down, is set aside for validation). Write its path into `MY_VIDEOS` at the top and run the notebook again, in the profile `lecture`. With `MY_VIDEOS = ""` the next cell makes such a folder from
# embedded clips of three classes, and damages one file, because every real folder has one.

# %%
def example_folder(folder, each):
    """videos/CLASS/*.mp4: copies of embedded clips, and one more that is cut short."""
    for name in ("grow", "left", "right"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        ours = [row for row in read_manifest(motion.train) if row["label"] == name]
        for k, row in enumerate(ours[:each]):
            shutil.copyfile(row["path"], folder / name / f"{name}_{k:03}.mp4")
    whole = (folder / "left" / "left_000.mp4").read_bytes()
    (folder / "left" / "cut.mp4").write_bytes(whole[:20_000])   # a broken download
    return folder


videos, home = Path(MY_VIDEOS).expanduser().resolve(), work
if MY_VIDEOS:
    home = repo_root() / "runs" / f"mine_{videos.name}"       # this folder is kept
    print("What is made of your videos goes to", home)
else:
    videos = example_folder(work / "videos", each=5 if PROFILE == "smoke" else 100)
report(subfolders=len([f for f in videos.iterdir() if f.is_dir()]))

# %% [markdown]
# **Prepare**: encode every video once more, small and with a key frame every 16 frames: that is decoded many times as fast. What fails goes into `quarantine.csv`, with the reason. Run again, `prepare` goes on with what is missing. (If your videos have fewer than 16 frames a second, give fewer: a higher rate only doubles frames.)

# %%
from vt_course.data.prepare import prepare, probe_folder, stats, verify_folder

small = home / "prepared"
done = prepare(videos, small, short_side=64, fps=16)
report(videos=done["clips"], encoded=done["encoded"], failed=done["failed"])
with open(small / "quarantine.csv", encoding="utf-8") as file:
    for row in csv.DictReader(file):
        print(row["reason"].replace(row["path"], Path(row["path"]).name))

# %% [markdown]
# **Verify** decodes every frame of what came out, each file in a process of its own with a time limit, and compares with what was promised (`short`: fewer frames). **Stats** counts. Look at the figure for classes with few clips, and for lengths: shorter clips than the model sees are looped.

# %%
status = [row["status"] for row in verify_folder(small)]
report(**{name: status.count(name) for name in ("ok", "corrupt", "short", "missing")})
found = probe_folder(small)
wide = max(len(row["label"]) for row in found) + 2
print(f"\n{'class':{wide}}{'train':>6}{'val':>5}{'seconds':>9}{'size':>9}")
for row in stats(found):
    print(f"{row['label']:{wide}}{row['train']:6}{row['val']:5}{row['median']:9.1f}"
          f"{row['usual_size']:>9}")

# %% tags=["figure"] alt="The prepared folder: a bar of 5 clips for each of the classes grow, left and right, 4 for training and 1 for validation, and a histogram in which all 15 clips are 2 seconds long."
show.dataset(found, "The prepared folder")

# %% [markdown]
# **Train**: the recipe needs to know the folder, and how many epochs make enough steps. The classes follow from the subfolders, and the split from the names of the files:

# %%
own = replace(recipe_for("video_swin_mini"), data=f"folder:{small}")
for note in open_spec(own.data).notes:
    print(note)
own_train, own_val = open_data(own)
steps_each = math.ceil(len(own_train) / own.batch_size)         # of an epoch
wanted = {"smoke": 2, "lecture": 300, "full": 4000}[PROFILE]
own = replace(own, epochs=math.ceil(wanted / steps_each))
own_run = home / f"run_{PROFILE}"               # remove it to train anew
_ = fit(own, own_run, workers=0, progress=False)
report(clips=len(own_train), classes=len(own_train.classes), epochs=own.epochs)

# %% tags=["figure"] alt="Loss of a run on the own videos over two epochs: both losses fall, and that of validation is the lower one."
guess = math.log(len(own_val.classes))
loss_curves(own_run, f"Your own run (the loss of a guess is {guess:.2f})")

# %% [markdown]
# **Evaluate**, on the clips that were set aside, the weights of the last epoch: the best ones (`best.safetensors`, what `evaluate_run` takes for a folder) were picked on these very clips. Of so few clips the number says next to nothing, as the figure shows.

# %%
from vt_course.training.evaluate import evaluate_run

result = evaluate_run(own_run / "last.safetensors", workers=0, progress=False)
report(held_out_clips=result["n"], unreadable=len(result["bad"]))

# %% tags=["figure"] alt="One point for your model with a very wide error bar, for the 3 clips that were set aside, right of the dashed line of a guess at 33.3 %."
show.accuracies({"your model": (result["top1"], result["n"])}, 1 / len(own_val.classes),
                "Clips that were set aside, ± one standard error")

# %% [markdown]
# **Predict** one video: the model and its recipe come back from the run folder, which knows its classes, too.

# %%
from vt_course.data.clips import dense_indices
from vt_course.data.transforms import centre_crop, resize_short_side
from vt_course.training.checkpoint import load_run


@torch.no_grad()
def predict_file(run, path):
    """The probability of each class for the middle of one video: (K,)."""
    model, used = load_run(run, "last")
    video = ClipReader(path)
    indices = dense_indices(video.num_frames, used.frames, used.stride)
    frames = torch.from_numpy(video.read(indices))                     # (T, H, W, 3)
    clip = normalise(centre_crop(resize_short_side(frames, used.size), used.size))
    return model(clip[None]).softmax(-1)[0]                            # (K,)

# %%
chosen = next(row for row in found if row["split"] == "val")
shares = predict_file(own_run, chosen["path"])
report(probabilities=shares.shape[0], their_sum=f"{shares.sum():.3f}")

# %% tags=["figure"] alt="Bars of the probabilities of three classes for a held-out video of the class grow: right has the longest bar, then grow, and left the shortest."
show.probabilities(shares, [f"{name} (true)" if name == chosen["label"] else name
                            for name in own_val.classes],
                   "A held-out video: what the model holds likely")

# %% [markdown]
# In `smoke` the model has made two steps and knows nothing. The same functions in a terminal:
#
# ```sh
# vt-course data prepare videos --out data/videos --short-side 128 --fps 16
# vt-course data verify data/videos
# vt-course data stats data/videos --figure stats.png
# vt-course train video_swin_mini --data folder:data/videos --out runs/mine
# vt-course evaluate runs/mine/last.safetensors --order normal shuffled
# ```
#
# **What to change for videos of your own**, with `--set name=value` or `replace`:
#
# | setting | think of |
# |---|---|
# | `--fps`, `--seconds` of `prepare`; `frames`, `stride` | A clip must cover what happens. 8 frames, 3 apart, at 16 frames a second are 1.4 seconds. A wave of the hand fits, a high jump needs more: `stride=5`, or `--fps 8`. `prepare` keeps the first 10 seconds unless told otherwise. |
# | `sampling=uniform` | One frame from each of 8 equal parts, when the whole video is the action. |
# | `size`, `keep` | Pixels the model sees; the short side of frames kept in memory (0 where they do not fit). |
# | `flip=0.5` | If a mirrored clip keeps its class (section 2). |
# | `batch_size`, `lr`, `epochs` | What counts is steps: ours has 4,000. With 200 clips an epoch has 13, and 4,000 are 308 epochs. Drop path, label smoothing and smaller crops are there against learning by heart. |
# | the split | Clips cut from one recording, or of one person, must be on the same side. The names do not tell: make folders `train/CLASS` and `val/CLASS`, or a `manifest.csv` (`data/README.md`). |
#
# Two hundred clips are few for a model that starts from random weights. What is done then is **fine-tuning**: start from weights that were trained on more. `fit` does not do that yet; your loop does:

# %%
def fine_tune(pretrained, clips, labels, classes, steps=6):
    """A few steps of your loop on one batch; returns the model, in eval mode."""
    _ = torch.manual_seed(0)
    model = create("video_swin_mini", num_classes=classes)
    if pretrained:                                            # all but the head
        weights = load_file(mini_weights("video_swin_mini"))
        body = {n: w for n, w in weights.items() if not n.startswith("head")}
        _ = model.load_state_dict(body, strict=False)
    moments = zero_moments(model)
    for t in range(1, steps + 1):
        loss = F.cross_entropy(model(clips), labels)
        model.zero_grad()
        loss.backward()
        update(model, moments, t, 4e-4)
    return model.eval()

# %%
spread = np.linspace(0, len(own_train) - 1, 8).astype(int).tolist()
samples = [own_train[0, i] for i in spread]                    # of all classes
batch = torch.stack([s["clip"] for s in samples])         # (8, 3, 8, 32, 32)
truth = torch.tensor([s["label"] for s in samples])
fresh, tuned = (fine_tune(start_from, batch, truth, len(own_train.classes))
                for start_from in (False, True))

# %% [markdown]
# After 6 steps on the same 8 videos both know these by heart. The question is what they say about others: those that were set aside of yours, or, for our example, the held-out embedded clips of the same three classes.

# %%
three = [row for row in held_out[:count] if row["label"] in own_val.classes]
others = own_val if MY_VIDEOS else VideoFolder(
    Rows(three, "held-out clips"), **{**settings, "classes": own_val.classes})
tried = {name: evaluate(model, others, workers=0, progress=False)
         for name, model in (("6 steps from random weights", fresh),
                             ("6 steps from trained weights", tuned))}
if not MY_VIDEOS:
    for (name, scored), low, high in zip(tried.items(), (10, 88), (65, 100)):
        within(f"{name}, right", 100 * scored["top1"], low, high, " %")

# %% tags=["figure"] alt="Accuracy on 27 other videos: after 6 steps from random weights it lies near the dashed line of a guess at 33.3 %, after 6 steps from trained weights it is nearly 100 %."
show.accuracies({name: (scored["top1"], scored["n"]) for name, scored in tried.items()},
                1 / len(own_val.classes), "Other videos of the same classes")

# %% [markdown]
# Eight videos were enough, because the trained weights know motion already, and even these classes: that is as easy as fine-tuning gets.

# %%
kept.cleanup()      # 120 MB of runs; to repeat a section after this, begin at the top

# %% [markdown]
# ## What is scaled down, and what was left out
#
# - A third of a million parameters, 8 frames of 32 × 32, 1,600 drawn clips. The pieces are those of the full recipes; no accuracy of a paper is reproduced.
# - RandAugment, random erasing, mixup, cutmix, repeated augmentation and colour jitter are not in the package. MViT's recipe uses all of them, Video Swin's on Something-Something the first two.
# - Learning rates that differ between layers (Video Swin's 0.1 for the backbone) and averaged weights (EMA) are not there either.
# - Mixed precision on CUDA and several GPUs have not been run; several processes on a CPU have (`tests/test_ranks.py`).
# - "Every bit" holds on one machine with one version of torch. Another processor adds in another order; on a GPU even two runs may differ.
#
# Sources of the table in section 4: Swin's paper, appendix A2.1; Video Swin's configuration `swin_tiny_patch244_window877_kinetics400_1k.py`; MViT's paper, appendix D.1; TimeSformer's configuration `TimeSformer_divST_8x32_224.yaml`; UniFormer's `exp/uniformer_s16x8_k400/run.sh`; `recipes.py`.
#
# ## Summary
#
# - A clip is a pure function of (seed, epoch, index), a batch of (seed, epoch), drop path of (seed, step). That is why weights, moments and the step are the whole state.
# - One box for all frames of a clip. No mirror where left and right are classes.
# - Warm-up, cosine; AdamW's decay stands beside the gradient; vectors and bias tables do not decay; clip the gradient of all parameters together.
# - 16 bits for multiplications, 32 for weights and sums. float16 needs loss scaling, bfloat16 does not.
# - The gradient of a batch is the mean of those of its parts, weighted by their clips: over GPUs, or one after the other.
# - An accuracy comes with √(p(1 − p)/n), and with a control.
#
# ## Questionnaire
#
# 1. You add a worker to the loader. What changes in the weights after 9 steps? And with a generator that serves all clips in turn?
# 2. A run has 1,000 clips, a batch of 32, and 10 epochs. How many steps are there, and how many clips has the last batch of an epoch?
# 3. Your first loss is 2.9 with 8 classes. What do you look at?
# 4. A checkpoint holds weights, epoch and step, and no moments. How long is the next step, and why?
# 5. Why is 1 + 0.003 equal to 1 in bfloat16 and not in float16? What is (1 + 0.003) in float16?
# 6. Two ranks have 10 and 6 clips. By what does each multiply its loss, if the gradients are averaged plainly afterwards?
# 7. Model A is right on 355 of 400 clips, B on 364. Is B better?
# 8. You train on clips of sign language. Which settings of the recipe do you check first?

# %% [markdown] tags=["answer"]
# <details><summary>Answers</summary>
#
# 1. Nothing (section 3). With one generator the boxes depend on who draws first.
# 2. 32 an epoch (31.25, rounded up), 320 in all; the last batch has 8 (section 3).
# 3. A guess has ln 8 = 2.08. Higher means confident and wrong: weights that start too large, logits that are scaled, labels of other clips (section 6).
# 4. Too long, in all weights: with m = 0.1 g, v = 0.001 g² and a bias correction that is 1 by now (in section 8, at t = 8, it leaves half a learning rate), m/√v is 0.1/√0.001 = 3.2, so each weight moves by 3.2 learning rates, whatever its gradient. If t begins anew as well, it is 1 learning rate. Both are more than usual, where gradients of changing sign make m small beside √v (sections 5 and 8).
# 5. Next to 1 bfloat16 has 1 + 2⁻⁷ = 1.0078, and 1.003 is nearer to 1; float16 has steps of 2⁻¹⁰ = 0.00098, so it becomes 1 + 3/1024 = 1.00293 (section 9).
# 6. 10 · 2 / 16 = 1.25 and 6 · 2 / 16 = 0.75 (section 10).
# 7. 88.75 and 91.0 %, the difference 2.25 points with a standard error of √(1.58² + 1.43²) = 2.1: one cannot tell. (On the same clips, look at those where the two differ.)
# 8. Flip (left and right hands matter), the seconds that a clip covers, the size (fingers are small), and the split by person (section 12).
# </details>

# %% [markdown]
# **Next:** 09 · Does it use time, where trainings like this one become experiments.
