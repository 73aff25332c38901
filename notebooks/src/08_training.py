# %% [markdown]
# # 08 · Training: from clips to a trained model
#
# `vt-course train` is one line. By the end of this notebook you have written what it does: the crop, the order of the clips, the learning rate, AdamW, the loss, and the step that
# puts them together. Then your loop and the package's train the same model on the same clips, and all 325,748 weights come out the same **in every bit**.
# A run that stops in the middle of an epoch and goes on ends with the same weights, in every bit, as a run without a stop. At the end you train on your own folder of videos.
#
# | | |
# |---|---|
# | **Needs** | PyTorch, backpropagation, one training loop that you have seen before. Notebooks 01 (frames and views) and 04 (the model) help; the families of 05 to 07 are named in sections 4, 10, 11 and 13, and section 13 uses a finished TimeSformer, but you need not know how they work |
# | **Data** | the embedded clips: `vt-course data synthetic`, once (`make course` and `make lab` do it); and, if you like, videos of your own |
# | **Time** | 3 to 4 hours with the exercises; to run it, on two cores: 25 to 60 seconds (`smoke`), 3 to 8 minutes (`lecture`); in `full` the two trainings of sections 11 and 12 take 9 to 15 minutes each |
# | **Hardware** | a laptop CPU and 2 GB of memory; with loader processes beside it (`lecture` and `full` on more than two cores) up to 4 GB |
#
# **You will be able to**
#
# 1. follow a clip from the file to a step of the optimiser, and say which parts are random and what they depend on (exercise 8.1);
# 2. write warm-up and cosine, AdamW, label smoothing and gradient clipping, and get torch's numbers, those of AdamW in every bit (exercises 8.2 to 8.5);
# 3. put them into one step in the right order, and recognise a broken step by its loss (exercise 8.6, the hunt in section 7);
# 4. say what must be in a checkpoint, and what need not be (questions 1 and 4);
# 5. say where 16 bits are enough for training, where they are not, and what is done about it (question 5);
# 6. split a batch over several GPUs so that the gradient stays the same (exercise 8.7);
# 7. say how sure an accuracy is (exercise 8.8), and prepare, check, train and evaluate on videos of your own.
#
# **On a first reading** leave out sections 9 and 10 (16 bits, many GPUs). If you are here for your own videos, run all cells, and read sections 1, 2 and 12.

# %% tags=["parameters"]
PROFILE = "smoke"   # lecture: trains eight epochs; full: to the end
MY_VIDEOS = ""      # a folder with a subfolder for each class

# %%
import csv
import json
import math
import shutil
import tempfile
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from vt_course import own_root, repo_root
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
# Four helpers print what is the same on every machine. `report` prints shapes and counts. `agree` stops the notebook unless two tensors match everywhere, and prints the bound it checked (times |x| for numbers x above 1).
# `differ` is the opposite, its control; its line begins with ≠. `within` checks that a number lies in an interval. For this notebook "nearly equal" is not enough, so it needs a fifth helper:

# %%
def same_bits(name, got, want):
    """All numbers equal; or within 1e-4, and then it says so.

    Right code that adds in another order is off by roundings."""
    bits = torch.equal(got, want)
    gap = (got.double() - want.double()).abs().max().item()
    assert gap <= 1e-4, f"{name}: {gap:.0e} apart; did all checks pass?"
    print(f"✓ {name}: {want.numel():,} numbers,",
          "every bit the same" if bits else "within 1e-4")


def flat(weights):
    """All numbers of a state dict in one row, as float64 (exact)."""
    return torch.cat([weights[name].flatten().double()
                      for name in sorted(weights)])

# %% [markdown] tags=["core"]
# ## 1 · The path in one picture

# %% tags=["figure"] alt="A flow chart in two rows: mp4 file, frames, decode, crop and normalise for each clip; then batch, model, loss, gradients and AdamW for each step; an arrow brings new weights from AdamW back to the model."
show.training_path(
    [("mp4 file", "32 frames,\n112 × 112"),
     ("frames", "8 of them,\nrandom start"),
     ("decode", "8 × 112 × 112 × 3\nbytes"),
     ("crop", "one box for all,\nscaled to 32 × 32"),
     ("normalise", "3 × 8 × 32 × 32\nfloats")],
    [("batch", "6 clips in the\norder of the epoch"),
     ("model", "6 × 8 logits,\ndrop path"),
     ("loss", "cross-entropy,\nsmoothed labels"),
     ("gradients", "shortened to\nnorm 1"),
     ("AdamW", "learning rate\nof this step")],
    "new weights, for the next batch",
    "From a file to a step of training")

# %% [markdown]
# Besides the first weights, four things on this path are random: the start in time, the box, the order of the clips, and drop path, which leaves out parts of the model. Watch what each of them depends on. It decides whether a
# training can be stopped and go on (section 8), and whether you can repeat it at all.
#
# All numbers of a training stand in a [**recipe**](glossary.md#recipe). Ours is that of `video_swin_mini`, on 16 of the embedded clips for 3 epochs. Label smoothing and drop path (section 6) are turned on, because we want to see them work.
# An embedded clip lasts 2 seconds and shows a drawn shape; how it moves is the class. One [**epoch**](glossary.md#epoch) is one pass through all clips. In batches of 6, an epoch of 16 clips has 3 steps, the last with 4 clips.

# %%
def write_manifest(path, rows):
    """A CSV of clips, as `--data csv:TRAIN.csv,VAL.csv` reads it."""
    lines = [f"{row['path']},{row['label']},," for row in rows]
    text = "\n".join(["path,label,start,end", *lines, ""])
    path.write_text(text, encoding="utf-8")


motion = open_spec("synthetic:motion")
kept = tempfile.TemporaryDirectory(prefix="vt_course_08_")
work = Path(kept.name)                          # removed at the end
write_manifest(work / "train.csv", read_manifest(motion.train)[:16])
write_manifest(work / "val.csv", read_manifest(motion.val)[:8])
recipe = replace(recipe_for("video_swin_mini"), batch_size=6, epochs=3,
                 keep=0,        # no frames in memory: decode anew
                 drop_path=0.1, label_smoothing=0.1,
                 data=f"csv:{work}/train.csv,{work}/val.csv")
rows = read_manifest(work / "train.csv")
classes = open_spec(recipe.data).classes
steps_each = math.ceil(len(rows) / recipe.batch_size)  # of an epoch
steps = recipe.epochs * steps_each
report(clips=len(rows), steps_of_an_epoch=steps_each, steps=steps)
print("the classes, by the alphabet:", ", ".join(classes))

# %% [markdown] tags=["core"]
# ## 2 · What a clip shows
#
# **Which frames** was the subject of notebook 01. Here a clip has 8 frames, 3 apart, so 22 frames from the first to the last. Any start that fits is allowed. The start is drawn first.
#
# **Which part of the picture** is drawn second: a box at a random place that keeps 70 to 100 % of the area and is nearly square. It is scaled to 32 × 32 pixels. (The aspect is drawn on a logarithmic scale, so that 1.1 and 1/1.1 are equally likely.)

# %% tags=["definition"]
def draw_box(H, W, rng):
    """top, left, height, width of a box inside H × W pixels."""
    while True:
        area = H * W * rng.uniform(*recipe.crop_scale)
        low, high = map(math.log, recipe.crop_ratio)
        aspect = math.exp(rng.uniform(low, high))
        h = round(math.sqrt(area / aspect))
        w = round(math.sqrt(area * aspect))
        if h <= H and w <= W:
            top, left = rng.integers(H - h + 1), rng.integers(W - w + 1)
            return int(top), int(left), h, w


def training_clip(index, epoch):
    """Clip number `index` as this epoch shows it: (3, 8, 32, 32)."""
    rng = np.random.default_rng((recipe.seed, epoch, index))
    video = ClipReader(rows[index]["path"])
    start = rng.integers(video.num_frames - 21)       # 22 must fit
    # (8, H, W, 3)
    frames = torch.from_numpy(video.read(start + 3 * np.arange(8)))
    top, left, h, w = draw_box(*frames.shape[1:3], rng)
    frames = frames[:, top:top + h, left:left + w]    # (8, h, w, 3)
    return normalise(resize(frames, 32, 32))          # (3, 8, 32, 32)

# %%
from vt_course.training.evaluate import open_data

train_set, _ = open_data(recipe)
for epoch, index in ((0, 0), (0, 7), (2, 7)):
    same_bits(f"clip {index} in epoch {epoch}",
              training_clip(index, epoch),
              train_set[epoch, index]["clip"])
differ("control: clip 7 in another epoch",
       training_clip(7, 0), training_clip(7, 2))

# %% [markdown]
# ### One box for all frames
#
# `draw_box` is called once for a clip. For images there is nothing to decide: each picture has its box. A clip has eight frames, and it is easy to apply an
# image augmentation to each of them.
#
# **Predict.** The clip below is labelled "left". What does a model see if each frame gets a box of its own? The package ships a trained model, which is right on nearly all clips. On how many with jumping boxes?

# %%
held_out = read_manifest(motion.val)


def held_out_clip(index, boxes=1, side=32, times=5 + 3 * np.arange(8)):
    """8 frames around the middle, cut by one random box, or by 8."""
    rng = np.random.default_rng((7, index))
    video = ClipReader(held_out[index]["path"])
    frames = torch.from_numpy(video.read(times))
    drawn = [draw_box(*frames.shape[1:3], rng) for _ in range(boxes)]
    drawn *= 8 // boxes
    cut = [resize(f[None, top:top + h, left:left + w], side, side)
           for f, (top, left, h, w) in zip(frames, drawn)]
    return normalise(torch.cat(cut))              # (3, 8, side, side)

# %% tags=["figure"] alt="Five frames of a clip in two rows: with one box for all frames a triangle glides evenly to the left at one height; with a box for each frame the triangle jumps up and down and changes its size."
show.film_strip([held_out_clip(8, side=64),
                 held_out_clip(8, boxes=8, side=64)],
                n=5, rows=["one box", "a box each"],
                title="The same clip, labelled " + held_out[8]["label"])

# %%
count = 64 if PROFILE == "smoke" else 400
# The shipped model numbers its classes by motion.classes: left, right,
# up, down, grow, shrink, clockwise, counter-clockwise.
true = torch.tensor([motion.classes.index(row["label"])
                     for row in held_out[:count]])
shipped = create("video_swin_mini", num_classes=8).eval()
_ = shipped.load_state_dict(load_file(mini_weights("video_swin_mini")))


@torch.no_grad()
def answers(clips):
    """The predicted class of each clip."""
    return torch.cat([shipped(c).argmax(1) for c in clips.split(50)])


def share_right(given):
    return (given == true).float().mean().item()


one_box = torch.stack([held_out_clip(i) for i in range(count)])
own_boxes = torch.stack([held_out_clip(i, 8) for i in range(count)])
jumping = answers(own_boxes)
boxed = {"one random box": share_right(answers(one_box)),
         "a box for each frame": share_right(jumping)}

# %% tags=["figure"] alt="Accuracy of the shipped model with intervals: with one random box it is nearly 100 %, with a box for each frame less than half of that; both lie above the dashed line of a guess at 12.5 %."
show.accuracies({name: (p, count) for name, p in boxed.items()}, 1 / 8,
                "Right answers of the shipped model")

# %% [markdown]
# The bars are 95 % intervals. You compute such an interval yourself in section 11. (In the profile `lecture` there are 400 clips instead of 64, and the bars are less than half as long.)

# %%
for (name, p), low, high in zip(boxed.items(), (85, 25), (100, 60)):
    within(f"{name}, right", 100 * p, low, high, " %")
# classes 6 and 7 of motion.classes are those that turn
turning = (jumping >= 6).float().mean().item()
within("own boxes, called turning", 100 * turning, 55, 90, " %")

# %% [markdown] tags=["answer"]
# With one box the triangle glides to the left. With a box for each frame it also jumps up and down and changes its size: motion that is not there, as large as the real one. The model gives most of these clips the name of a turn. So it is still right on nearly all clips that do turn, and on about a quarter of the others.

# %% [markdown]
# About a quarter of these clips turn. With own boxes most are *called* turning.
#
# **Do the jumps alone make the turns?** Then a picture that stands still must be called turning as well, if each of its eight copies gets a box of its own. The control is the same picture in one box:

# %%
middle = np.full(8, 17)                       # one frame, eight times
for boxes, low, high in ((1, 0, 5), (8, 40, 85)):
    still = torch.stack([held_out_clip(i, boxes, times=middle)
                         for i in range(count)])
    called = (answers(still) >= 6).float().mean().item()
    within(f"a still picture, boxes: {boxes}, called turning",
           100 * called, low, high, " %")

# %% [markdown] tags=["answer"]
# They do: no motion is left but the jumps, and most pictures are called turning; in one box almost none is. *What* in a jump looks like a turn is not shown by this. The next part gives a hint: the model tells turns by colours that change their place.

# %% [markdown]
# ### No mirror for "left"
#
# A horizontal flip is the most common augmentation of images: a mirrored dog is a dog. **Predict** the answers to the mirrored clips, class by class, before you look at the figure.

# %%
mirrored = answers(one_box.flip(-1))          # (count,); W is last
matrix = torch.bincount(true * 8 + mirrored, minlength=64).view(8, 8)

# %% tags=["figure"] alt="Confusion matrix of 64 mirrored clips: left and right are exchanged; nearly all others, those that turn among them, stand on the diagonal."
show.confusion(matrix, motion.classes,
               f"{count} held-out clips, mirrored")

# %%
l, r = (motion.classes.index(name) for name in ("left", "right"))
swapped = (matrix[l, r] + matrix[r, l]) / matrix[[l, r]].sum()
within("mirrored left and right, called the other",
       100 * swapped.item(), 90, 100, " %")

# %% [markdown] tags=["answer"]
# Mirrored "left" *is* "right", and the model says so. Up, down, grow and shrink stay what they are. But a mirrored "clockwise" *is* "counter-clockwise", and the model says "clockwise" as before.

# %% [markdown]
# **Why does the mirror not change the answer of a clip that turns?** Around its centre each shape shows the colour circle: the colours of the rainbow, red, yellow, green, blue and back to red, one after the other around the centre. At a fixed place, the colours pass by in one order if the shape turns clockwise, and in the other order if it turns counter-clockwise. The mirror reverses
# the motion *and* the colour circle. So the order in which the colours pass by stays the same.
#
# Perhaps the model reads this order. That can be tested. Exchanging red and blue reverses the colour circle alone, and moves not a pixel. If the model reads the order of colours, its answers to turning clips must be exchanged:

# %%
recoloured, turns = answers(one_box.flip(1)), true >= 6  # BGR, not RGB
# ^ 1 flips the last bit: 6 becomes 7, and 7 becomes 6
other_way = (recoloured == true ^ 1)[turns].float().mean().item()
within("recoloured turns, the other way",
       100 * other_way, 75, 100, " %")
as_before = (recoloured == true)[~turns].float().mean().item()
within("recoloured other clips, right", 100 * as_before, 90, 100, " %")

# %% [markdown]
# The answers are exchanged. In this data set the order of colours and the turn always say the same. So no held-out accuracy could show which of the two the model has learned. A test outside of the data shows it.
#
# To flip and keep the label would teach the model that left and right cannot be told apart. So
# the recipe has `flip = 0`. On Kinetics the released recipes flip half of the clips. Something-Something has classes such as "pushing something from left to right"; there, Video Swin's recipe does not flip.

# %% [markdown] tags=["core"]
# ## 3 · Which clips, in which order
#
# Each epoch shuffles the clips anew. The usual way is a generator that lives as long as the training. Then, to know the order of epoch 7, you must have drawn the orders of the six before. Ours is a **pure function of (seed, epoch)**: a fresh generator for
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

batches, by_package = EpochBatches(len(rows), 6, recipe.seed), []
for epoch in range(recipe.epochs):
    batches.epoch = epoch                     # yields (epoch, clip)
    for batch in batches:
        by_package.append(torch.tensor([clip for _, clip in batch]))
yours = [batch_at(s, len(rows), 6, recipe.seed) for s in range(steps)]
same_bits("the clips of all steps",
          torch.cat(yours), torch.cat(by_package))
once = torch.cat(yours[:3]).unique().numel() == len(rows)
report(clips_of_each_step=str([len(b) for b in yours]),
       each_clip_once_an_epoch=once)

# %% [markdown]
# **What would break otherwise?** Suppose one generator served all clips in turn. Clip 7 would get another box whenever a clip before it was skipped, when a worker was added, or when the training went on after a stop. Here is that
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
    print(f"{rule.__name__}: clip 7",
          "keeps its box" if same else "gets another box")

# %% [markdown] tags=["core", "claim:swin-learning-rate"]
# ## 4 · The learning rate
#
# At first the weights are random and gradients point anywhere. So the learning rate rises from nearly 0 ([**warm-up**](glossary.md#warm-up)). At the end it falls to 0, so that the noise of single batches dies away. All but one of the papers of this course do both, and let the learning rate fall as half a wave of the cosine.
#
# ### Exercise 8.2 · Warm-up and cosine
#
# Difficulty 2/5 · importance 4/5 · 10 minutes
#
# The learning rate of step 0, 1, …, `steps` − 1:
#
# - in the first `warmup` steps it rises in equal parts: step 0 has peak / warmup, step warmup − 1 the whole peak;
# - then it is peak · (1 + cos π*x*) / 2. Here *x* is the share of the remaining steps that is done: 0 at step `warmup`, and it would be 1 at step `steps`.

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

whole = recipe_for("video_swin_mini")         # 40 epochs of 100 steps


def all_rates(rule, steps, warmup, peak=1.0):
    return [float(rule(s, steps, warmup, peak)) for s in range(steps)]


agree("your learning rate = the package's, all steps, peak 1",
      torch.tensor(all_rates(learning_rate, 4000, 100)),
      torch.tensor(all_rates(lr_at, 4000, 100)))

# %% tags=["figure"] alt="Learning rates of six recipes over a training, as shares of their peak: five rise in a straight line and fall like a cosine to 0; TimeSformer starts at the peak and falls in two steps, near 0.73 and 0.93."
recipes = {"video_swin_mini": (4000, 100), "Swin": (3000, 200),
           "Video Swin": (3000, 250), "UniFormer": (1100, 100),
           "MViT": (2000, 300)}
falling = {name: all_rates(learning_rate, *lengths)
           for name, lengths in recipes.items()}
falling["TimeSformer"] = [1.0] * 1100 + [0.1] * 300 + [0.01] * 100
show.schedules(falling, "Learning rates of six recipes")

# %% [markdown]
# | | optimiser | highest learning rate | epochs, of them warm-up | decay |
# |---|---|---|---|---|
# | Swin, ImageNet-1K | AdamW | 1e-3 for a batch of 1024 | 300, 20 | 0.05 |
# | Video Swin-T, Kinetics-400 | AdamW | 1e-3 for the head, a tenth of it for the pretrained rest | 30, 2.5 | 0.02 |
# | MViT-B, Kinetics-400 | AdamW | 1.6e-3 for a batch of 512 | 200, 30 | 0.05 |
# | TimeSformer, Kinetics-400 | SGD, momentum 0.9 | 5e-3, a tenth after 11 epochs, a hundredth after 14 | 15, none | 1e-4 |
# | UniFormer-S 16 × 8, Kinetics-400 | AdamW | 1e-4 for a batch of 32 | 110, 10 | 0.05 |
# | `video_swin_mini`, embedded clips | AdamW | 8e-4 for a batch of 16 | 40, 1 | 0.05 |
#
# AdamW and decay are the subject of section 5; momentum works like its *m*, without the factor 1 − β₁. (Sources: at the end.) Long recipes train from random weights (MViT). Video Swin, TimeSformer and UniFormer start from image weights, and the first two train short. With a larger batch the gradient is less noisy and there are fewer steps. So recipes scale the learning rate with
# the batch. A common rule: who halves the batch to fit a GPU halves the learning rate, too. The other way is to add up the gradients of two halves (exercise 8.6).

# %% [markdown] tags=["core", "claim:swin-initial-weights", "claim:mvit-biases-0.02"]
# ## 5 · AdamW
#
# Plain gradient descent gives every weight the same learning rate. **Adam** keeps two running means for each weight: *m* of its gradients and *v* of their squares. *m* and *v* are called the **moments**. Adam divides *m* by the root of *v*. So a weight whose gradients are small but point the same way
# moves as fast as one with large gradients. With *g* the gradient in step *t* (counted from 1):
#
# $$m \leftarrow \beta_1 m + (1-\beta_1)\,g \qquad v \leftarrow \beta_2 v + (1-\beta_2)\,g^2$$
#
# $$w \leftarrow (1 - \eta\lambda)\,w - \eta\,\frac{m/(1-\beta_1^t)}{\sqrt{v/(1-\beta_2^t)} + \epsilon}$$
#
# with β₁ = 0.9, β₂ = 0.999, ε = 1e-8. The divisions by 1 − β^t correct for *m* and *v* starting at 0. The factor (1 − ηλ) is the **W** of AdamW (Loshchilov and Hutter, [arXiv 1711.05101](https://arxiv.org/abs/1711.05101)): the weight decays by a share of itself, beside the gradient, not through it.
#
# ### Exercise 8.3 · One step of AdamW
#
# Difficulty 2/5 · importance 5/5 · 20 minutes
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
    m = torch.lerp(m, g, 1 - 0.9)                 # 0.9 · m + 0.1 · g
    v = torch.addcmul(0.999 * v, g, g, value=1 - 0.999)
    denominator = v.sqrt() / math.sqrt(1 - 0.999**t) + 1e-8
    w = torch.addcdiv(w * (1 - lr * decay), m, denominator,
                      value=-lr / (1 - 0.9**t))
    return torch.stack([w, m, v])


adamw_step = check("8.3", adamw_step, solution=True)

# %% [markdown]
# Against `torch.optim.AdamW`, 20 steps on the same gradients. If you wrote the formulas another way, the line says "within 1e-4"; that is fine, here and in sections 7 and 8.

# %%
weight = nn.Parameter(torch.randn(4, 5))
optimizer = torch.optim.AdamW([weight], lr=0.01, weight_decay=0.1)
w = weight.detach().clone()
m, v = torch.zeros(4, 5), torch.zeros(4, 5)
for t in range(1, 21):
    weight.grad = torch.randn(4, 5)
    w, m, v = adamw_step(w, weight.grad, m, v, t, 0.01, 0.1)
    optimizer.step()
same_bits("your AdamW = torch's after 20 steps", w, weight.detach())

# %% [markdown]
# ### Decay beside the gradient, or through it
#
# The older way adds λ*w* to the gradient, as if the loss had a term λ*w*²/2 (**L2**). For plain gradient descent both ways are the same. For Adam they are not, because the division by √*v* acts on λ*w*, too.
#
# **Predict.** Two weights are both 1. Their gradients carry no information: they alternate between +*G* and −*G*, with *G* = 10 for one weight and 0.01 for
# the other. After 200 steps with learning rate 0.01 and decay 0.1, what is left of each weight, with AdamW and with L2?

# %%
def after_200_steps(G, l2):
    w, m, v = torch.ones(1), torch.zeros(1), torch.zeros(1)
    for t in range(1, 201):
        g = torch.tensor([G if t % 2 else -G])
        g, decay = (g + 0.1 * w, 0.0) if l2 else (g, 0.1)
        w, m, v = adamw_step(w, g, m, v, t, 0.01, decay)
    return f"{w.item():.2f}"


for way, l2 in (("AdamW", False), ("Adam with L2", True)):
    report(**{f"{way}, G = {G}": after_200_steps(G, l2)
              for G in (10.0, 0.01)})

# %% [markdown] tags=["answer"]
# AdamW leaves the same of both: the decay multiplies by 0.999²⁰⁰ = 0.82. Without decay the weight would end at 0.982 and not at 1: the first gradient is positive, and in the first steps, where *m* is a mean of few gradients, the two signs do not cancel. 0.82 · 0.98 is 0.80. With L2 the term λ*w* is 0.1 at the start. Beside *G* = 10 it is a hundredth, and of the 0.04 that this weight loses, about half are those first steps. Beside *G* = 0.01 it is ten times as large as the gradient, so Adam takes it for the direction and steps nearly the whole learning rate in each of the first steps: 0.02 is left. How much a weight decays should not depend on how noisy its gradient is. With the W it does not.

# %% [markdown]
# ### What does not decay
#
# Decay pulls towards zero. For the weight of a LayerNorm zero means "erase this channel", and a bias has nothing to gain from being small. So vectors do not decay. Nor do tables of relative positions: their entries are biases, too, which are added to the scores of attention. Video Swin's released configurations do the same for norms and tables (`decay_mult=0.`).

# %%
def decay_of(name, parameter):
    """The decay of a parameter, from its name and shape."""
    table = name.endswith("relative_position_bias_table")
    free = parameter.ndim <= 1 or table
    return 0.0 if free else recipe.weight_decay

# %%
from vt_course.training.fit import parameter_groups

named = dict(shipped.named_parameters())
theirs = {id(p): group["weight_decay"]
          for group in parameter_groups(shipped, recipe.weight_decay)
          for p in group["params"]}
assert all(theirs[id(p)] == decay_of(n, p) for n, p in named.items())
free = [p.numel() for n, p in named.items() if not decay_of(n, p)]
report(parameters=sum(p.numel() for p in named.values()),
       without_decay=sum(free), tensors_without_decay=len(free))

# %% [markdown] tags=["core", "claim:swin-t-drop-path", "claim:uf-b-drop-path"]
# ## 6 · Loss and gradient
#
# Cross-entropy compares the softmax with the label: 1 for the true class, 0 for all others. A softmax reaches 1 only with infinite logits, so this target is never reached. [**Label smoothing**](glossary.md#label-smoothing) asks for something that can be reached: each label gives away ε, and each of the K classes, the true one among them, gets ε / K.
#
# ### Exercise 8.4 · Label smoothing
#
# Difficulty 3/5 · importance 3/5 · 10 minutes
#
# `logits` (B, K), `label` (B,) class numbers, `eps` ε. The loss of a clip is −Σₖ targetₖ · log softmaxₖ with target = (1 − ε) · (1 for the label, 0 else) + ε / K. Return the mean over the clips, one number. Its gradient is checked, too.

# %% tags=["exercise:8.4"]
def smoothed_loss(logits, label, eps):
    """Cross-entropy with smoothed labels, the mean over clips."""
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
# `log_p = logits.log_softmax(-1)`; of the true classes: `log_p.gather(1, label[:, None])`. Both parts are means over the clips; the even part sums over classes and has the factor ε / K.
# </details>
# <details><summary>Symptom: a little too small or too large, except at ε = 0</summary>
#
# The true class keeps 1 − ε and gets ε / K besides.
# </details>

# %% tags=["solution:8.4"]
def smoothed_loss(logits, label, eps):
    """Cross-entropy with smoothed labels, the mean over clips."""
    log_p = logits.log_softmax(-1)                            # (B, K)
    at_label = -log_p.gather(1, label[:, None]).mean()
    even = -log_p.sum(1).mean()
    return (1 - eps) * at_label + even * (eps / logits.shape[1])


smoothed_loss = check("8.4", smoothed_loss, solution=True)

# %%
logits, label = torch.randn(16, 8), torch.randint(8, (16,))
# Processors add in different orders: on some, every bit is the same.
agree("your loss = torch's", smoothed_loss(logits, label, 0.1),
      F.cross_entropy(logits, label, label_smoothing=0.1), 1e-6)
target = 0.9 * F.one_hot(torch.tensor(0), 8) + 0.1 / 8        # (8,)
smallest = -(target * target.log()).sum()
report(loss_of_a_guess=f"{math.log(8):.3f}",
       smallest_loss_with_smoothing=f"{smallest:.3f}")

# %% [markdown]
# With 8 classes a model that knows nothing has a loss of ln 8 = 2.079. A loss far above it at the start is a bug. With ε = 0.1 nothing below 0.467 is possible; without smoothing the smallest loss is 0.
# Compare losses of runs only if their ε is the same. (The validation loss of the package is always without smoothing.)
#
# ### Gradient clipping
#
# Now and then a batch gives a gradient many times as long as usual, and one step can undo a hundred. So a gradient that is longer than a limit is shortened, and its direction is kept. "The gradient" is that of **all** parameters, laid end to end.
#
# ### Exercise 8.5 · By which factor?
#
# Difficulty 1/5 · importance 4/5 · 10 minutes
#
# `norms` (P,) holds the norm of the gradient of each of P parameter tensors. Return the factor for all of them: limit / norm of all together, but at most 1.
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

# %% [markdown]
# With this factor, clipping is four lines. `clip_gradients` does what torch's `clip_grad_norm_` does: it shortens the gradients and returns their common norm *before* that.

# %%
@torch.no_grad()
def clip_gradients(model, limit):
    """Shorten all gradients together; their norm before, a number."""
    grads = [p.grad for p in model.parameters()]
    norms = torch.stack([g.norm() for g in grads])            # (P,)
    factor = clip_factor(norms, limit)
    for g in grads:
        g.mul_(factor)
    return norms.norm().item()


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])

# %%
# 13 clips: (13, 3, 8, 32, 32)
x = torch.stack([training_clip(i, 0) for i in range(13)])
y = torch.tensor([motion.classes.index(row["label"])
                  for row in rows[:13]])
_ = torch.manual_seed(0)
untrained = create("video_swin_mini")        # its gradients are long
twin = deepcopy(untrained)
for each in (untrained, twin):
    F.cross_entropy(each(x), y).backward()
_ = clip_gradients(untrained, 1.0)
_ = nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
same_bits("your clipping = torch's", gradients(untrained),
          gradients(twin))
length = gradients(twin).double().norm()
agree("its length", length, torch.ones_like(length))

# %% [markdown]
# ### Drop path
#
# A transformer block adds something to its input: x + f(x). [**Drop path**](glossary.md#drop-path) leaves out f(x) for some of the clips, drawn at random, in training only. Where f(x) is kept, it is enlarged, so that its expectation stays the same. Later blocks are dropped more often than early ones.

# %%
from vt_course.models.layers import DropPath


def drop_path(branch, rate):
    """(B, ...): a clip's branch is 0, or it is divided by 1 - rate."""
    shape = len(branch), *[1] * (branch.ndim - 1)
    keep = torch.empty(shape).bernoulli_(1 - rate)
    return branch * (keep / (1 - rate))


branch = torch.randn(16, 4, 8, 8, 24)             # (B, T, H, W, C)
_ = torch.manual_seed(5)
dropped = drop_path(branch, 0.1)
_ = torch.manual_seed(5)
same_bits("this drop path = the model's", dropped,
          DropPath(0.1).train()(branch))
dropping = create("video_swin_mini", drop_path=0.1)
drop_rates = [module.rate for module in dropping.modules()
              if isinstance(module, DropPath)]
report(rate_of_each_block=", ".join(f"{r:.3f}" for r in drop_rates))

# %% [markdown]
# It draws from torch's global generator. Before each step the loop will seed that generator with a number made from (seed, step). So drop path has no memory either.

# %% [markdown] tags=["core"]
# ## 7 · The step
#
# All pieces are there. A run holds them. Two small classes give yours the form that torch's have: an optimiser with `zero_grad()` and `step()`, and a schedule whose `step()` sets the learning rate of the next step.

# %%
class OwnAdamW:
    """Exercise 8.3 for all parameters of a model."""

    def __init__(self, model, moments=None, t=0):
        self.model, self.lr, self.t = model, None, t
        self.moments = dict(moments or {
            name: (torch.zeros_like(p), torch.zeros_like(p))
            for name, p in model.named_parameters()})

    def zero_grad(self):
        self.model.zero_grad()

    @torch.no_grad()
    def step(self):
        self.t += 1
        for name, p in self.model.named_parameters():
            w, *state = adamw_step(p, p.grad, *self.moments[name],
                                   self.t, self.lr, decay_of(name, p))
            self.moments[name] = tuple(state)
            p.copy_(w)

# %%
class Schedule:
    """A list of learning rates, one for each step."""

    def __init__(self, optimizer, rates, at=0):
        self.optimizer, self.rates, self.at = optimizer, rates, at
        optimizer.lr = rates[at]

    def step(self):
        self.at += 1
        if self.at < len(self.rates):
            self.optimizer.lr = self.rates[self.at]


def run_of(model, rates, eps=0.0, at=0, moments=None, t=0):
    """Everything that a step needs.

    at: the steps of the schedule that are done; t: those of AdamW,
    which are fewer if a step was left out.
    """
    optimizer = OwnAdamW(model, moments, t)
    return SimpleNamespace(
        model=model, optimizer=optimizer, limit=recipe.grad_clip,
        schedule=Schedule(optimizer, rates, at), autocast=nullcontext,
        loss=lambda out, y: smoothed_loss(out.float(), y, eps))

# %% [markdown]
# ### Exercise 8.6 · The step
#
# Difficulty 4/5 · importance 5/5 · 40 minutes
#
# Write one step of a training. `run` has `model`, `optimizer`, `schedule`, `loss`, `limit` and `autocast`. `parts` is the batch: a list of pairs (clips, labels). Often it has one pair. It has more where the batch does not fit into memory at once; then each part goes through the model alone.
#
# What has to be true of a step:
#
# - Before it a validation may have left the model in evaluation mode. It trains in training mode.
# - Gradients are set to zero by `run.optimizer.zero_grad()`. (The hunt after this exercise changes this method.)
# - The gradient is that of the **mean** loss of all clips of the batch. `run.loss(logits, labels)` is the mean of one part. Parts may differ in size. Remember that `backward` *adds* to the gradients that are there.
# - The model and its loss run inside `with run.autocast():`. It lets the model multiply in 16 bits where the run wants that (section 9). On our CPU it does nothing. The backward pass stands outside, as torch advises. (The check notices only a *model* that runs outside.)
# - All gradients together are shortened to `run.limit`, once: `clip_gradients(run.model, run.limit)`, or torch's own function.
# - A loss or a norm that is not finite (infinite, or NaN) must not reach the weights. Such a step is left out: the weights stay as they are, and nothing of it may be left for the next step. It counts as a step for the schedule. (A NaN loss makes a NaN norm. But a norm can be NaN where the loss is finite, and an infinite loss can have a finite gradient. So ask about both.)
# - The optimiser uses the learning rate of *this* step.
#
# Return the mean loss of the batch, a number. If it is NaN, return NaN.
#
# The check takes several steps on a model of 48 weights, in four runs. It compares a table: a row for each step, with the loss in column 0 and then all weights. The first row that differs is the step in which something went wrong.

# %% tags=["exercise:8.6"]
def train_step(run, parts):
    """One step on a batch in parts [(clips, labels), ...]; its loss."""
    raise NotImplementedError("exercise 8.6")

# %% tags=["check:8.6"]
train_step = check("8.6", train_step)

# %% [markdown] tags=["hints:8.6"]
# <details><summary>Hint 1: intuition</summary>
#
# Ask of each action what it reads and what it writes. The backward pass adds to the gradients. Clipping reads and writes them. The optimiser reads them and writes the weights. The schedule writes the learning rate, which the optimiser reads. This leaves one order, up to the places of `zero_grad` and `train`.
# </details>
# <details><summary>Hint 2: the weight of a part</summary>
#
# A part with n of the N clips of the batch counts n / N. Multiply its loss by that before `backward`.
# </details>
# <details><summary>Symptom: all weights are NaN</summary>
#
# Ask `math.isfinite` about the loss and about the norm, and let the optimiser step only if both are.
# </details>
# <details><summary>Symptom: the second row differs, the first does not</summary>
#
# What does a step leave behind? Look at gradients, mode and learning rate.
# </details>

# %% tags=["solution:8.6"]
def train_step(run, parts):
    """One step on a batch in parts [(clips, labels), ...]; its loss."""
    run.model.train()
    run.optimizer.zero_grad()
    clips, total = sum(len(labels) for _, labels in parts), 0.0
    for part, labels in parts:
        with run.autocast():
            loss = run.loss(run.model(part), labels)
        share = len(labels) / clips
        (share * loss).backward()
        total += share * loss.item()
    norm = clip_gradients(run.model, run.limit)
    if math.isfinite(total) and math.isfinite(norm):
        run.optimizer.step()
    run.schedule.step()
    return total


train_step = check("8.6", train_step, solution=True)

# %% [markdown]
# ### Your loop, and the package's
#
# Around the step stands the loop: which clips, which seed. Read it against the picture of section 1.
#
# One more condition for equal bits. Floating-point sums depend on their order. Many tokens read the same entry of a bias table, and its gradient is the sum over these tokens. By default several threads add it up, in whatever order they finish. While `deterministic` is open, torch adds
# in a fixed order on a CPU. `fit` does the same.

# %%
from vt_course.machine import deterministic

cpu = torch.device("cpu")
warmup = round(recipe.warmup_epochs * steps_each)
rates = [float(learning_rate(s, steps, warmup, recipe.lr))
         for s in range(steps)]


def fresh_model(seed=recipe.seed, rate=recipe.drop_path):
    _ = torch.manual_seed(seed)
    return create(recipe.model, num_classes=len(classes),
                  drop_path=rate)


def train(run, last):
    """From where the run is to step `last`; the losses."""
    losses = []
    with deterministic(cpu):
        for step in range(run.schedule.at, last):
            index = batch_at(step, len(rows), 6, recipe.seed).tolist()
            clips = torch.stack([training_clip(i, step // steps_each)
                                 for i in index])
            labels = torch.tensor([classes.index(rows[i]["label"])
                                   for i in index])
            # the seed of drop path
            _ = torch.manual_seed(recipe.seed * 1_000_003 + step)
            losses.append(float(train_step(run, [(clips, labels)])))
    return losses

# %%
own = run_of(fresh_model(), rates, recipe.label_smoothing)
own_losses = train(own, steps)
mine = flat(own.model.state_dict())
report(steps=len(own_losses), tensors=len(own.model.state_dict()),
       numbers=mine.numel())

# %% [markdown]
# Now the package: the same recipe, into a folder. It trains with its own loader, torch's AdamW, torch's loss and torch's clipping. After each epoch it looks at the validation clips and writes a checkpoint.

# %%
from vt_course.training.checkpoint import read_weights
from vt_course.training.fit import fit

quiet = dict(device="cpu", workers=0, progress=False)
summary = fit(recipe, work / "run", **quiet)
stored, _ = read_weights(work / "run" / "last.safetensors")
assert summary["steps"] == steps
assert stored.keys() == own.model.state_dict().keys()
fitted = flat(stored)
same_bits("your loop = the package, after 9 steps", mine, fitted)
differ("control: the weights before",
       flat(fresh_model().state_dict()), fitted, 1e-3)

# %% [markdown]
# If a single box had been another one, if the learning rate had been a step late, if a LayerNorm had decayed, the first line would not be there. There is nothing in a step of `fit` that you
# have not written. Around the steps it has validation, progress, curves and files, and the subjects of sections 9 and 10.
#
# ### First, let it memorise
#
# A loop can be equal to another and both be wrong. Before a long training, ask for something easy: eight clips, the same in each step, without smoothing or drop path, with 5 steps of warm-up. A model that cannot learn these by heart will learn nothing else. **Predict**: after 24 steps, is the last loss near that of a guess, about half of it, or below a third of it?

# %%
def by_heart(steps=24, peak=1e-3, change=lambda run: None):
    """The losses of `steps` steps on the same eight clips."""
    rising = [peak * min(1, t / 5) for t in range(1, steps + 1)]
    run = run_of(fresh_model(rate=0.0), rising)
    change(run)
    return [float(train_step(run, [(x[:8], y[:8])]))
            for _ in range(steps)]


memory = by_heart()
within("first loss", memory[0], 1.8, 2.4)
within("last loss", memory[-1], 0, 0.7)

# %% tags=["figure"] alt="The loss of the same eight clips over 24 steps: it falls from the dotted line of a guess, about 2.1, to below 0.5."
show.curves({"loss of the same eight clips": memory}, "loss",
            "Learning by heart", xlabel="step",
            levels={"a guess: ln 8 = 2.08": math.log(8)})

# %% [markdown] tags=["answer"]
# The first loss lies near ln 8 ≈ 2.08, as it must: the model knows nothing yet, and gives each of 8 classes about the same probability. The last loss lies below a third of that: 24 steps are enough for eight clips.

# %% [markdown]
# ### A hunt
#
# When a loss does not fall, you see a curve, not the mistake. Here are four runs on the same eight clips. Each has one thing changed. The four causes (not in the order of the letters):
#
# - the gradients are never set to zero;
# - the labels belong to other clips: in each step they are shuffled anew;
# - the learning rate is 100 times as high;
# - the limit of clipping is 1,000 times as low.
#
# **Predict, then match.** Draw the four curves that you expect. Then run the cells: which letter has which cause? Two of the four look almost healthy. Look at the lines below the figure, too: one of the two stays with the healthy run in all steps. Which change does AdamW hardly notice, and which only partly?

# %%
def other_labels(run):
    """The loss sees the labels in another order in each step."""
    right_loss = run.loss
    run.loss = lambda out, y: right_loss(out, y[torch.randperm(len(y))])


def never_zero(run):
    run.optimizer.zero_grad = lambda: None


def low_limit(run):
    run.limit /= 1000


causes = {"never zero": dict(change=never_zero),
          "other labels": dict(change=other_labels),
          "rate too high": dict(peak=0.1),
          "limit too low": dict(change=low_limit)}
letters = dict(zip(np.random.default_rng(8).permutation([*causes]),
                   "ABCD"))
hunted = {cause: by_heart(**how) for cause, how in causes.items()}

# %% tags=["figure"] alt="Five loss curves over 24 steps, on a logarithmic axis: the healthy one and A fall together below 0.3, D almost as fast; B falls slowly and stays far above them; C jumps up and down, at first far above the dotted line of a guess."
by_letter = sorted((letter, hunted[c]) for c, letter in letters.items())
figure = show.curves({"healthy": memory} | dict(by_letter), "loss",
                     "Four runs with one thing changed", xlabel="step",
                     levels={"a guess": math.log(8)})
figure.axes[0].set_yscale("log")
figure.axes[0].set_yticks([0.1, 0.3, 1, 3, 10],
                          ["0.1", "0.3", "1", "3", "10"])
figure.axes[0].minorticks_off()
figure

# %%
for letter, losses in by_letter:
    gap = max(abs(a - b) for a, b in zip(losses, memory))
    print(f"{letter}:", "within 0.05 of" if gap <= 0.05 else
          "somewhere more than 0.05 from", "the healthy loss")

# %%
for cause, low, high in (("never zero", 0, 0.7),
                         ("other labels", 1.4, 2.1),
                         ("limit too low", 0, 0.7)):
    within(f"{letters[cause]}, last loss", hunted[cause][-1], low, high)
within(f"{letters['rate too high']}, largest loss",
       max(hunted["rate too high"]), 2.4, 50)

# %% [markdown] tags=["answer"]
# **B: other labels.** No label can be learned. The loss still falls below ln 8, because the model learns how often each class occurs among the eight clips: one class occurs three times, five occur once. Who knows only that has a loss of 1.67. **C: the learning rate is too high.** The loss jumps, and is far above that of a guess at times.
#
# **A: the limit of clipping is too low.** The curve is the healthy one. All gradients are 1,000 times as short, so *m* and √*v* are too, and AdamW divides one by the other.
#
# **D: the gradients are never set to zero.** Here the most popular of all mistakes hardly shows. The clips are the same in each step, so old gradients point nearly where the new one points; their sum is too long, but clipping shortens it. With other clips in each step the sum points elsewhere. The check of exercise 8.6 has other clips in each step: it finds this mistake in the second row.

# %% [markdown]
# So learning by heart finds much, not all. When a loss does *not* fall on the same clips, look first at the labels (are they those of the clips?), then at the learning rate. A loss that falls does not acquit `zero_grad`: AdamW and clipping hide the length of the sum. Test it by itself: after two steps on different clips the gradient must be that of the second batch alone.

# %% [markdown] tags=["core"]
# ## 8 · Stop and go on
#
# A training of days is stopped: by a full disk, by the queue of the cluster, by you. What must be stored so that it goes on *as if nothing had happened*? In general: weights, moments, the step, the state of every random generator, the place of every worker. With nothing random that has a memory, the first three are all. To the moments belongs *t*, the number of steps that AdamW has taken. It equals the step unless a step was left out because it was not finite (exercise 8.6).
#
# We stop after 7 of the 9 steps, in the middle of the third epoch. Then a fresh model is filled from the file and goes on.

# %%
def go_on(state):
    """A run that continues from a state."""
    model = fresh_model(seed=99)              # will be overwritten
    model.load_state_dict(state["model"])
    return run_of(model, rates, recipe.label_smoothing,
                  at=state["step"], moments=state["moments"],
                  t=state["t"])


def weights_at_the_end(run):
    _ = train(run, steps)
    return flat(run.model.state_dict())


first = run_of(fresh_model(), rates, recipe.label_smoothing)
_ = train(first, 7)
torch.save(dict(model=first.model.state_dict(), step=7,
                moments=first.optimizer.moments,
                t=first.optimizer.t), work / "mine.pt")

# %%
state = torch.load(work / "mine.pt", weights_only=True)
same_bits("stopped after 7 of 9 steps = not stopped",
          weights_at_the_end(go_on(state)), mine)

# %% [markdown]
# **Predict.** What happens if the file lacks *m* and *v* (it still has *t* = 7)? Is there an error? Are the steps shorter or longer than they should be? And what happens if the file says only "in the third epoch" (number 2, counted from 0), and the training goes on at the beginning of it?

# %%
bare = state | dict(moments=None)             # moments begin at 0
early = state | dict(step=6)                  # the third epoch begins
differ("without the moments",
       weights_at_the_end(go_on(bare)), mine, 2e-4)
differ("from the beginning of the epoch",
       weights_at_the_end(go_on(early)), mine, 2e-4)


def step_sizes(state):
    """|Δw| of all weights in step 7, in learning rates."""
    run = go_on(state)
    _ = train(run, 8)
    moved = flat(run.model.state_dict()) - flat(state["model"])
    return moved.abs() / rates[7]


for name, saved, low, high in (("with", state, 0.15, 0.35),
                               ("without", bare, 0.48, 0.51)):
    within(f"median step {name} the moments",
           step_sizes(saved).median().item(), low, high,
           " learning rates")

# %% [markdown] tags=["answer"]
# No error, no warning: the weights look like weights. Without the moments all of them move equally far, half a learning rate here, whatever their gradients (question 4 has the reason). That is more than one and a half times as far as the median weight should move. From the beginning of the third epoch, three steps follow (6, 7, 8) in place of two: the weights that had made step 6 make it again, so its clips count twice. The run is just not the one that it says it is.

# %% [markdown]
# With `fit`:

# %%
for stop in (7, None):                        # None: to the end
    _ = fit(recipe, work / "stopped", max_steps=stop, **quiet)
stopped, _ = read_weights(work / "stopped" / "last.safetensors")
same_bits("fit, stopped after 7 steps = not stopped",
          flat(stopped), fitted)

# %% [markdown]
# `fit` adds three things. Its state is one file, `state.pt`, written under another name and then renamed. So a kill at any moment leaves the old state or the new one, never half of one. It refuses to go on with another recipe or other clips than the folder's. And everything else in the folder follows
# from the state and can be written again. So the way to go on, after anything, is to run the same command again.

# %% [markdown] tags=["deep-dive"]
# ## 9 · Sixteen bits
#
# GPUs multiply 16-bit numbers many times as fast as 32-bit ones (an A100: 312 against 19.5 TFLOP/s, says NVIDIA's data sheet), and these numbers take half of the memory. There are two kinds. One bit is the sign. The other 15 are shared in different ways between exponent (how large) and fraction (how exact).

# %%
bits = {torch.float32: "8 + 23", torch.float16: "5 + 10",
        torch.bfloat16: "8 + 7"}
print(f"{'':10}{'exponent + fraction':22}{'largest':>9}",
      f"{'smallest':>10}  after 1")
for dtype, split in bits.items():
    i = torch.finfo(dtype)
    print(f"{str(dtype)[6:]:10}{split:22}{i.max:9.3g} {i.tiny:10.2g} ",
          1 + i.eps)

# %% [markdown]
# (In front of the fraction stands a 1 that is not stored. "After 1" is the next number above 1. "Smallest" is the smallest number with all its digits. Below it there are numbers with fewer and fewer digits. The last one of float16 is 2⁻²⁴ ≈ 6e-8; less than half of it is rounded to 0.) bfloat16 is float32 with 16 of its bits cut off: the same range, hardly any digits. float16 has more digits and a much smaller range.

# %% tags=["figure"] alt="Number lines from 0.98 to 1.02: the numbers of float32 fill a bar, float16 has 61 marks, bfloat16 has 8; the number 1.003 stays almost in its place in float32 and float16 and becomes 1 in bfloat16."
show.number_lines([torch.float32, torch.float16, torch.bfloat16],
                  0.98, 1.02, 1.003,
                  "All numbers near 1, and what 1 + 0.003 becomes")

# %% [markdown]
# ### Why the weights stay in float32
#
# 1 + 0.003 is 1 in bfloat16. **Predict:** start at 1 and add 0.003 a hundred times, in each of the three types. What comes out?

# %%
def add_up(dtype):
    total = torch.tensor(1.0, dtype=dtype)
    for _ in range(100):
        total = total + torch.tensor(0.003, dtype=dtype)
    return f"{total.item():.2f}"


report(**{f"1 + 100 × 0.003 in {str(dtype)[6:]}": add_up(dtype)
          for dtype in bits})

# %% [markdown] tags=["answer"]
# In bfloat16 each addition is rounded away, so a hundred of them are, too.

# %% [markdown]
# A step of AdamW usually changes a weight by less than the learning rate, while the weight has any size. Take the trained weights, move each by the learning rate of each epoch, and count those that do not move:

# %%
weights = torch.cat([p.detach().flatten()
                     for p in shipped.parameters()])
weights = weights[weights != 0]


def stuck(dtype, lr):
    """The share of the weights to which `lr` can be added in vain."""
    before = weights.to(dtype)
    after = before + torch.tensor(lr).to(dtype)
    return (after == before).float().mean().item()


each_epoch = [float(learning_rate(100 * e + 50, 4000, 100, whole.lr))
              for e in range(40)]
lost = {dtype: [100 * stuck(dtype, lr) for lr in each_epoch]
        for dtype in (torch.bfloat16, torch.float16)}

# %% tags=["figure"] alt="Share of the weights that do not move in each of 40 epochs: with bfloat16 weights it is small at first and then rises in steps to nearly 100 %, with float16 weights it is near 0 for most of the training and rises at the end."
show.curves({f"{str(dtype)[6:]} weights": shares
             for dtype, shares in lost.items()},
            "weights that do not move (%)",
            "Updates that are lost when the weights have 16 bits")

# %%
within("bfloat16, epoch 2", lost[torch.bfloat16][1], 1, 8, " %")
within("bfloat16, epoch 39", lost[torch.bfloat16][38], 90, 100, " %")

# %% [markdown]
# At the peak of the learning rate a few updates in a hundred are lost. At the end nearly all are, and with them what the end of the cosine is for. (The curve has steps because the distance between neighbouring numbers doubles at each power of 2.) With smaller updates more are lost, so this is an estimate from below. The remedy is [**mixed precision**](glossary.md#mixed-precision): weights, moments and the update stay in float32 ("master
# weights"); for the multiplications of forward and backward a 16-bit copy is made. These multiplications are most of the time, and rounding hurts them less: their errors change from step to step, and what is summed over steps is kept in 32 bits.
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


small = gradient_on(shipped, x, y)

# %% tags=["figure"] alt="Two histograms of the sizes of gradients on a logarithmic axis, with the range of float16 shaded: as they are, many lie where digits get lost; times 2¹⁶ nearly all lie where all digits are kept."
show.gradient_sizes(
    {"gradients": small, "gradients times 2¹⁶": 2.0**16 * small},
    "Gradients of video_swin_mini against the range of float16")

# %%
sizes_16 = small[small != 0].abs()
below = 100 * (sizes_16 < 2.0**-14).float().mean().item()
scaled = 100 * (2.0**16 * sizes_16 < 2.0**-14).float().mean().item()
within("gradients that lose digits or vanish", below, 30, 90, " %")
within("the same, of a loss times 2¹⁶", scaled, 0, 1, " %")

# %% [markdown]
# Here more than half of them lose digits, and a few in a thousand vanish. This small model might do without help, but nobody knows beforehand. Multiply the loss by 2¹⁶, and by the chain rule every gradient is 2¹⁶ times as large. Divide before the update. A power of two changes the exponent alone, so nothing is lost:

# %%
same_bits("(gradient of 2¹⁶ · loss) / 2¹⁶ = gradient",
          gradient_on(shipped, x, y, scale=2**16) / 2**16, small)

# %% [markdown]
# Too large a factor makes gradients infinite, so it is adapted. `torch.amp.GradScaler` leaves out a step with an infinite gradient and halves the factor; it doubles the factor when all went well for long. That is where steps that are left out (exercise 8.6) are normal. Clipping must come after the division. (The method: Micikevicius and others, [arXiv 1710.03740](https://arxiv.org/abs/1710.03740).) bfloat16 has the range of float32 and needs none of it.
#
# ### What it does to the outputs
#
# `torch.autocast` chooses for each operation. On CUDA linear layers, convolutions and matrix products run in 16 bits, softmax, norms and losses in 32. There is a version for CPUs, with lists of its own. With it, your step trains in 16 bits as it is:

# %%
in_16 = run_of(fresh_model(rate=0.0), [1e-3])
in_16.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
in_32 = run_of(fresh_model(rate=0.0), [1e-3])
loss_16, loss_32 = (
    torch.tensor(float(train_step(run, [(x[:8], y[:8])])))
    for run in (in_16, in_32))
differ("loss of your step in bfloat16 and float32",
       loss_16, loss_32, 1e-5)
within("their distance", abs(loss_16 - loss_32).item(), 0, 0.03)
kinds = {str(p.dtype)[6:] for p in in_16.model.parameters()}
report(type_of_the_weights=", ".join(kinds))

# %%
with torch.no_grad():
    exact = shipped(one_box[:24])                     # (24, 8)
    with torch.autocast("cpu", torch.bfloat16):
        rough = shipped(one_box[:24])
report(type_of_the_logits=str(rough.dtype)[6:])
differ("logits in bfloat16 and in float32", rough.float(), exact, 1e-3)
alike = (rough.argmax(1) == exact.argmax(1)).float().mean().item()
within("clips with the same answer", 100 * alike, 90, 100, " %")

# %% [markdown]
# In `fit`, `amp=true` (the default) takes effect on a CUDA device only: bfloat16 where the device has it, else float16 with a `GradScaler`, whose factor is part of the checkpoint. No GPU was at hand. That path is tested by its parts, as here, and **has not been run**. For losses that become NaN, UniFormer's author advises (issues 30 and 112
# of its repository): mixed precision off, which he calls the most effective (`--set amp=false` here), a lower learning rate, a longer warm-up, weaker augmentation.

# %% [markdown] tags=["deep-dive"]
# ## 10 · Many GPUs
#
# With R GPUs, R processes, the [**ranks**](glossary.md#rank), hold the same weights. Each computes the gradient of its part of the batch. Then all gradients are averaged, and every rank takes the same step. For that to be *the same training*, two things must hold: the ranks must take different clips of a common order, and the average must be that of all clips.

# %% tags=["figure"] alt="Three rows of numbered boxes, one row for each step of an epoch of 16 clips: blue boxes of rank 0 and orange boxes of rank 1 take turns, 3 + 3 clips in the first two steps and 2 + 2 in the last."
show.ranks([b.tolist() for b in yours[:3]], 2,
           "16 clips in batches of 6: two ranks share each batch")

# %% [markdown]
# ### Exercise 8.7 · The gradient of all ranks
#
# Difficulty 2/5 · importance 4/5 · 10 minutes
#
# Rank r has computed the gradient of the **mean** loss of its `sizes[r]` clips: row r of `gradients` (R, P). Parts may differ in size: 13 clips are 7 and 6. A rank whose files are damaged may have no clips at all; its row is then some finite numbers, which must not count. Return the gradient of the mean loss of all clips, (P,).

# %% tags=["exercise:8.7"]
def gradient_of_all(gradients, sizes):
    """(R, P) means over sizes (R,) clips -> (P,), that of all clips."""
    raise NotImplementedError("exercise 8.7")

# %% tags=["check:8.7"]
gradient_of_all = check("8.7", gradient_of_all)

# %% [markdown] tags=["hints:8.7"]
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

# %% tags=["solution:8.7"]
def gradient_of_all(gradients, sizes):
    """(R, P) means over sizes (R,) clips -> (P,), that of all clips."""
    return ((sizes / sizes.sum())[:, None] * gradients).sum(0)


gradient_of_all = check("8.7", gradient_of_all, solution=True)

# %% [markdown]
# A check with numbers, in one process: the same weights, a batch of 13 clips, two ranks; rank r takes `batch[r::2]`.

# %%
whole_batch = gradient_on(untrained, x, y)
of_ranks = torch.stack([gradient_on(untrained, x[r::2], y[r::2])
                        for r in range(2)])           # (2, P)
sizes = torch.tensor([len(y[r::2]) for r in range(2)])
report(clips_of_each_rank=str(sizes.tolist()))
agree("weighted mean = the whole batch",
      gradient_of_all(of_ranks, sizes), whole_batch, 1e-4)
differ("control: plain mean of the ranks", of_ranks.mean(0),
       whole_batch)

# %% [markdown]
# Equal but for rounding, this time: the sum is made in another order. Three things are *not* the same on several ranks, or only if one takes care:
#
# - **Clipping.** Average first, then clip. If each rank clips its own gradient, the average is another one.
# - **BatchNorm** takes mean and variance from the clips that it sees: those of its own rank. (UniFormer has BatchNorm, Swin does not; `torch.nn.SyncBatchNorm` exists for that.)
# - **Drop path** is drawn by each rank for its own clips, from a seed of (seed, step, rank). So a run may go on with another number of ranks, but then drop path falls differently.

# %%
def clipped(gradient):
    return gradient * clip_factor(gradient.norm()[None], 1.0)


each_clipped = torch.stack([clipped(g) for g in of_ranks])
differ("clipped before the average",
       gradient_of_all(each_clipped, sizes), clipped(whole_batch), 1e-3)
norm, features = nn.BatchNorm1d(4), torch.randn(13, 4)
by_rank = torch.empty_like(features)
for r in range(2):
    by_rank[r::2] = norm(features[r::2])
differ("BatchNorm of each rank's own clips", by_rank, norm(features))

# %% [markdown]
# In the package, `batch_size` is that of all ranks together, whatever their number. So a recipe means the same on one GPU and on eight. torch's `DistributedDataParallel` averages plainly: it adds all gradients and divides by R. So `fit` multiplies the loss of each rank first.
#
# **Complete the formula.** Rank r has n_r of the n clips. Its loss must be multiplied by … , so that "add all and divide by R" gives the mean over all clips. Put your two factors for 7 and 6 clips into the cell, as fractions:

# %%
factors = torch.tensor([1.0, 1.0])            # for 7 and for 6 clips
averaged = (factors[:, None] * of_ranks).mean(0)
print("the gradient of all clips:",
      torch.allclose(averaged, whole_batch, rtol=1e-4, atol=1e-4))

# %% [markdown] tags=["answer"]
# By n_r · R / n, here 7 · 2 / 13 and 6 · 2 / 13, not rounded: with them the cell prints True. The R cancels the division, and n_r / n is the weight of exercise 8.7.

# %% [markdown]
# The command for two processes:
#
# ```sh
# .venv/bin/torchrun --nproc-per-node 2 -m vt_course.cli train video_swin_mini --data synthetic:motion --out runs/two
# ```
#
# It works without a GPU, too (`--device cpu`), one process a core. For the 16 clips and 9 steps of section 7, without drop path, the weights of one process and of two differ by a few 1e-5 (`tests/test_ranks.py` of the repository runs this). These are roundings. AdamW enlarges them where a gradient is next to nothing, because its sign decides about a whole step.
#
# ### One GPU that is too small
#
# The same algebra in time instead of space is [**gradient accumulation**](glossary.md#gradient-accumulation). Your step of exercise 8.6 can do it already: give it the batch in parts. Against the whole batch in one part, with plain gradient descent:

# %%
def after_one_step(parts):
    """The weights of `untrained` after one step of yours."""
    model = deepcopy(untrained)
    run = run_of(model, [0.1])
    run.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    _ = train_step(run, parts)
    return flat(model.state_dict())


cuts = (slice(0, 5), slice(5, 10), slice(10, 13))
in_parts = after_one_step([(x[cut], y[cut]) for cut in cuts])
at_once = after_one_step([(x, y)])
agree("three parts = the whole batch", in_parts, at_once)
differ("control: the first part alone",
       after_one_step([(x[:5], y[:5])]), at_once, 1e-3)

# %% [markdown] tags=["core"]
# ## 11 · A whole training, and how sure its number is
#
# Now the real recipe on all 1,600 clips. In `smoke` (and for videos of your own) it makes one step. `lecture` trains the first eight epochs of 40, and `full` goes to the end.
#
# **Predict.** The loss begins at ln 8. How does it fall over 40 epochs: fast at first and then ever slower, in a straight line, or in another way?

# %%
long_run = work / "long"
until = {"smoke": 1, "lecture": 800, "full": None}[PROFILE]
until = 1 if MY_VIDEOS else until
long_summary = fit(whole, long_run, max_steps=until, progress=False)
report(parameters=long_summary["parameters"], epochs=whole.epochs,
       steps_of_the_recipe=whole.epochs * 100)

# %%
def epochs_of(file):
    """The finished epochs of a run: a dict of texts for each."""
    with open(file, encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def column(file, name):
    return [float(row[name]) for row in epochs_of(file)]


ship = repo_root() / "results" / "ship"
seed_0 = ship / "video_swin_mini.csv"
seed_1 = ship / "video_swin_mini_seed1.csv"
histories = {"training, seed 0": column(seed_0, "train_loss"),
             "validation, seed 0": column(seed_0, "val_loss"),
             "validation, seed 1": column(seed_1, "val_loss")}
if until != 1:                                # lecture and full
    histories["validation, yours"] = column(
        long_run / "metrics.csv", "val_loss")

# %% tags=["figure"] alt="Losses of two trainings over 40 epochs: they stay at the dotted line of a guess for about four epochs, fall steeply until epoch 15, and then slowly towards 0; the validation losses are the more uneven ones."
show.curves(histories, "loss", "Two whole trainings of video_swin_mini",
            levels={"a guess: ln 8 = 2.08": math.log(8)})

# %% [markdown] tags=["answer"]
# For about four epochs nothing seems to happen: the losses stay near that of a guess. Then they fall steeply. A flat beginning is not a bug by itself. The same step has learned eight clips by heart (section 7); that is the reason to wait.

# %% [markdown]
# Seed 0 is the training whose weights ship. Seed 1 is the same training with another seed. `results/ship/` has their epochs, hardware, seconds and commit. In `lecture` the figure has a curve more: the first eight epochs of *your* run. It has the recipe and the seed of seed 0. Does it lie on the stored curve? (On our machine it does.) `fit` leaves such a figure in the run folder, too (`curves.png`), and every step for TensorBoard: `tensorboard --logdir runs`.
#
# The shipped weights are those of the last epoch, not of the best. Who picks the best of 40 epochs by validation accuracy reports luck as well.
#
# ### Views, and how sure
#
# A video is longer than a clip. At test time several clips are cut out of it, its *views*. The **mean of their softmax** is the prediction (notebook 01, section 4).
#
# Of n videos a share p is right. How far may p be from the share that one would find with infinitely many videos of this kind? The [standard error](glossary.md#standard-error) is the usual answer: p ± √(p(1 − p)/n). It fails where it is needed most: if all n are right, it says ± 0.
#
# Wilson's interval (1927) asks the other way round: for which true shares q is our p no surprise? A share q makes p no surprise if p is at most z = 1.96 standard errors of *q* away, that is 1.96 · √(q(1 − q)/n). The two ends of all such q are
#
# $$\frac{p + \frac{z^2}{2n} \pm z\sqrt{\frac{p(1-p)}{n} + \frac{z^2}{4n^2}}}{1 + \frac{z^2}{n}}$$
#
# If the test is repeated with other videos of the kind, about 95 of 100 such intervals hold the true share.
#
# ### Exercise 8.8 · The score of several views
#
# Difficulty 2/5 · importance 4/5 · 20 minutes
#
# `logits` (N, V, K): N videos, V views of each, K classes. `labels` (N,). Return three numbers, `(3,)`: the share of videos that are right, and the lower and the upper end of its 95 % interval (z = 1.96).

# %% tags=["exercise:8.8"]
def score(logits, labels):
    """(N, V, K), (N,) -> (3,): share right, lower end, upper end."""
    raise NotImplementedError("exercise 8.8")

# %% tags=["check:8.8"]
score = check("8.8", score)

# %% [markdown] tags=["hints:8.8"]
# <details><summary>Hint 1: intuition</summary>
#
# One video is one prediction, however many views it has. First from views to probabilities of a video, then from probabilities to a class, then count.
# </details>
# <details><summary>Hint 2: the axes</summary>
#
# The softmax runs over the last axis, K. The mean runs over axis 1, V. What is left is (N, K).
# </details>
# <details><summary>Symptom: the share is right, the interval too narrow</summary>
#
# n is the number of videos, not of views.
# </details>

# %% tags=["solution:8.8"]
def score(logits, labels):
    """(N, V, K), (N,) -> (3,): share right, lower end, upper end."""
    shares = logits.softmax(-1).mean(1)               # (N, K)
    p = (shares.argmax(-1) == labels).double().mean().item()
    n, z = len(labels), 1.96
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    ends = [p + z**2 / (2 * n) - half, p + z**2 / (2 * n) + half]
    return torch.tensor([p, *(end / (1 + z**2 / n) for end in ends)])


score = check("8.8", score, solution=True)

# %% [markdown]
# For the shipped model, with four views in time of each video, against the package's evaluation:

# %%
from vt_course.training.evaluate import evaluate

settings = dict(classes=motion.classes, frames=8, stride=3, size=32,
                train=False)
some = {"smoke": 30, "lecture": 100, "full": 400}[PROFILE]
four = VideoFolder(Rows(held_out[:some], "held-out clips"),
                   views=(4, 1), **settings)
with torch.no_grad():
    of_views = torch.stack([shipped(four[i]["clip"])  # (4, 8)
                            for i in range(some)])    # (some, 4, 8)
yours_4 = score(of_views, true[:some])
package_4 = evaluate(shipped, four, workers=0, progress=False)
agree("share right = the package's", yours_4[0].double(),
      torch.tensor(package_4["top1"], dtype=torch.float64), 1e-6)
within("four views", 100 * package_4["top1"], 75, 100, " %")

# %% [markdown]
# ### Two seeds
#
# The two trainings of the figure above were tested on the same 400 clips. After the last epoch seed 0 is right on 397 of them and seed 1 on all 400. **Predict**: do their intervals overlap? And do the clips show that seed 1 is better?

# %%
def interval_of(right, clips):
    """`score` for a count: logits that are right so many times."""
    made = torch.zeros(clips, 1, 2)
    made[:right, 0, 0], made[right:, 0, 1] = 1, 1
    return score(made, torch.zeros(clips, dtype=torch.int64))


for seed, name in enumerate(("", "_seed1")):
    file = ship / f"video_swin_mini{name}.json"
    last = json.loads(file.read_text(encoding="utf-8"))["last"]
    right = round(400 * last["val_top1"])
    p, low, high = (100 * interval_of(right, 400)).tolist()
    report(**{f"seed {seed}": f"{right} of 400, {p:.2f} %, "
              f"interval {low:.2f} to {high:.2f} %"})

# %% [markdown] tags=["answer"]
# The intervals overlap, and no: these clips do not show that seed 1 is better. But overlapping intervals are not the reason. They are those of *independent* tests, and here both models saw the same clips. Two models on the same clips are a pair. Only clips on which they differ can tell. Here these are 3, and seed 1 is right on each. If both were equally good, each of the 3 would be a toss of a coin, and all would fall to the same side with a probability of 2 · 0.5³ = 25 %. (This is McNemar's test; notebook 09 has an interval for paired results of several seeds.)
#
# That seed 1 is right on all 400 clips does not mean that it is always right. A model that errs on one clip in 200 is right on 400 others with a probability of 0.995⁴⁰⁰ = 13 %.

# %% [markdown]
# The interval covers the choice of clips only. How much the seed of the training matters, one learns from several seeds.
#
# ### A small experiment: how many clips do you need?
#
# **Predict.** A model is right on 95 % of the clips. With 100 clips its interval is about 9 points wide. How many clips make it 1 point wide? Change `share` and look what happens: where is the interval widest, and why?

# %%
share = 0.95                                  # change it
# the last one is the number of videos that validate Kinetics-400
numbers = [20, 40, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 19881]
scored = [interval_of(round(share * n), n) for n in numbers]
widths = [100 * (high - low).item() for _, low, high in scored]

# %% tags=["figure"] alt="Width of the interval against the number of clips, both on logarithmic axes: a straight line that falls, from about 23 points at 20 clips to below 1 point at 12,800; a dotted line marks 1 point."
figure = show.curves(
    {f"{100 * share:.0f} % right": dict(x=numbers, y=widths)},
    "width of the 95 % interval (points)",
    "The width of an interval", xlabel="clips",
    levels={"1 point": 1})
figure.axes[0].set(xscale="log", yscale="log")
figure.axes[0].set_xticks(numbers[::2], numbers[::2], minor=False)
figure.axes[0].set_yticks([0.5, 1, 2, 5, 10, 20],
                          ["0.5", "1", "2", "5", "10", "20"])
figure.axes[0].minorticks_off()
figure

# %% [markdown] tags=["answer"]
# About 7,300: the width falls with the root of n, so four times the clips make half the interval. It is widest where p is 50 %: there p(1 − p) is largest. Kinetics-400 has 19,881 validation videos in the public mirror; at 79 % that makes an interval of 1.1 points. Differences of 0.1 between papers lie far below it.

# %% [markdown]
# ### What does each line of a recipe buy?
#
# Each line of a recipe has a reason. What it is worth, only a training without it can tell. The row `recipe-lines` of `experiments.yaml` asks this of a small MViT on another label of the same clips, the pattern of the background (eight patterns; a guess is 12.5 %). It trains the full recipe, and the same with one line switched off, each for 300 steps and with three seeds, and tests on 2,000 clips. Two things in this recipe are not in the one of our notebook. Its augmentation also mirrors clips and erases a box of them. And the training keeps a **moving average** of the weights (EMA) beside them, a mean in which late steps count most; the accuracy is that of this average. Three things were expected, before the first run: without augmentation 5 to 20 points *higher* accuracy, because the clips are easier; each other line within 5 points; and an interval that contains 0 for all but augmentation. (The intervals are those of the mean of three paired differences: with three, they reach 4.3 standard errors to either side.)
#
# **Predict.** What became of the three?

# %%
from vt_course.training.experiments import results, verdicts
from vt_course.training.experiments.rows import read_rows

row = next(row for row in read_rows() if row.id == "recipe-lines")
found = results.read_result(row.id)
points = {name: {run["seed"]: 100 * run["top1"]["normal"]
                 for run in variant["runs"]}
          for name, variant in found["variants"].items()}
print("right, %                 seed 0     1     2")
for name, each in points.items():
    print(f"{name:25}" + "".join(f"{each[seed]:6.1f}"
                                 for seed in row.seeds))
print("\nminus the full recipe     mean   95 % interval")
for line in verdicts.comparisons(row, found):
    print(f"{line['variant']:25}{line['mean']:+6.1f}"
          f"   {line['low']:+.1f} to {line['high']:+.1f}")

# %% [markdown] tags=["answer"]
# None came true as a whole. *All* intervals contain 0, that of augmentation too: without it the model gains 2 points, not 5 to 20. And two lines moved the mean by more than 5. Without warm-up no seed left chance (12.5 %). At a constant rate two seeds are about 10 points better; perhaps 300 steps are too few to let the rate fall. But no interval can tell, because seed 1 stays near chance with *every* recipe. It has hardly begun to learn, so no line can matter there.
#
# So the table does not say that a line is worth nothing. It says that three short runs cannot tell. Weight decay, label smoothing and augmentation fight memorising, and a model that has seen each clip three times has not memorised. What can you do? More seeds for warm-up and cosine, whose differences are large; more epochs for the others.

# %% [markdown]
# ### The control
#
# And does the accuracy mean what you think? Notebook 04 has the argument: of clips whose frames were shuffled no model can expect more than 50 % right on this data set, because each motion has a partner that is its film run backwards. `order` shuffles the frames:

# %%
in_order = VideoFolder(Rows(held_out[:count], "held-out clips"),
                       **settings)
one, shuffled = (evaluate(shipped, in_order, order=order, workers=0,
                          progress=False)["top1"]
                 for order in ("normal", "shuffled"))
within("one view", 100 * one, 75, 100, " %")
within("one view, frames shuffled", 100 * shuffled, 5, 50, " %")

# %% tags=["figure"] alt="Accuracy of the shipped model with intervals: four views and one view lie at or near 100 %, one view with shuffled frames not far above the dashed line of a guess."
show.accuracies({"four views": (package_4["top1"], some),
                 "one view": (one, count),
                 "one view, frames shuffled": (shuffled, count)}, 1 / 8,
                "The shipped model on held-out clips")

# %% [markdown]
# In `smoke` and `lecture` the first two bars do not compare views: they were measured on different numbers of clips. The third is the control. It has to stay below 50 %, and it does.

# %% [markdown] tags=["core"]
# ## 12 · Your own videos
#
# The same path for a folder of yours: a subfolder for each class, at least five videos in each. (Of each class a fifth, rounded down, is set aside for validation.) Write its path into `MY_VIDEOS` at the top and run the notebook again, in the profile `lecture`. With `MY_VIDEOS = ""` the next cell makes such a folder from
# embedded clips of three classes, and damages one file, because every real folder has one.

# %%
def example_folder(folder, each):
    """videos/CLASS/*.mp4: embedded clips, and one that is cut short."""
    for name in ("grow", "left", "right"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        ours = [row["path"] for row in read_manifest(motion.train)
                if row["label"] == name]
        for k, path in enumerate(ours[:each]):
            shutil.copyfile(path, folder / name / f"{name}_{k:03}.mp4")
    left = folder / "left"
    data = (left / "left_000.mp4").read_bytes()
    (left / "cut.mp4").write_bytes(data[:20_000])  # a broken download
    return folder


videos, home = Path(MY_VIDEOS).expanduser().resolve(), work
if MY_VIDEOS:                                     # this folder is kept
    home = own_root() / "runs" / f"mine_{videos.name}"
    print("What is made of your videos goes to", home)
else:
    videos = example_folder(work / "videos",
                            each=5 if PROFILE == "smoke" else 100)
report(subfolders=len([f for f in videos.iterdir() if f.is_dir()]))

# %% [markdown]
# **Prepare**: encode every video once more, small and with a key frame every 16 frames. Such a file is decoded many times as fast. The short side is 64 pixels here, because the model reads 32; for larger models take 128 or more. The first 10 seconds of each video are kept, unless told otherwise (`seconds`). What fails goes into `quarantine.csv`, with the reason. If you run it again, `prepare` goes on with what is missing. (If your videos have fewer than 16 frames a second, give fewer: a higher rate only doubles frames.)

# %%
from vt_course.data.prepare import prepare, stats
from vt_course.data.prepare import probe_folder, verify_folder

prepared = home / "prepared"
done = prepare(videos, prepared, short_side=64, fps=16)
report(videos=done["clips"], encoded=done["encoded"],
       failed=done["failed"])
with open(prepared / "quarantine.csv", encoding="utf-8") as file:
    for row in csv.DictReader(file):
        name = Path(row["path"]).name
        print(row["reason"].replace(row["path"], name))

# %% [markdown]
# **Verify** decodes every frame of what came out, each file in a process of its own with a time limit, and compares with what was promised (`short`: fewer frames). **Stats** counts. Look at the figure for classes with few clips, and for lengths: clips that are shorter than the model's clip are looped.

# %%
status = [row["status"] for row in verify_folder(prepared)]
report(**{name: status.count(name)
          for name in ("ok", "corrupt", "short", "missing")})
found = probe_folder(prepared)
wide = max(len(row["label"]) for row in found) + 2
print(f"\n{'class':{wide}}{'train':>6}{'val':>5}{'seconds':>9}",
      f"{'size':>8}")
for row in stats(found):
    print(f"{row['label']:{wide}}{row['train']:6}{row['val']:5}",
          f"{row['median']:8.1f} {row['usual_size']:>8}")

# %% tags=["figure"] alt="The prepared folder: a bar of 5 clips for each of the classes grow, left and right, 4 for training and 1 for validation, and a histogram in which all 15 clips are 2 seconds long."
show.dataset(found, "The prepared folder")

# %% [markdown]
# **Train**: the recipe needs to know the folder, and how many epochs make enough steps. The classes follow from the subfolders, and the split from the names of the files:

# %%
mine_recipe = replace(recipe_for("video_swin_mini"),
                      data=f"folder:{prepared}")
for note in open_spec(mine_recipe.data).notes:
    print(note)
own_train, own_val = open_data(mine_recipe)
own_classes = list(own_val.classes)
epoch_steps = math.ceil(len(own_train) / mine_recipe.batch_size)
wanted = {"smoke": 2, "lecture": 300, "full": 4000}[PROFILE]
mine_recipe = replace(mine_recipe,
                      epochs=math.ceil(wanted / epoch_steps))
own_run = home / f"run_{PROFILE}"             # remove it to train anew
own_summary = fit(mine_recipe, own_run, workers=0, progress=False)
trained = f"after {own_summary['steps']} steps"
if PROFILE == "smoke":
    trained += " only"
report(clips=len(own_train), classes=len(own_classes),
       epochs=mine_recipe.epochs, steps=own_summary["steps"])

# %% tags=["figure"] alt="Loss of a run on the own videos, with two points for each loss, one for each of its two steps: both losses fall a little."
show.curves({f"{part}, {trained}": column(own_run / "metrics.csv", key)
             for part, key in (("training", "train_loss"),
                               ("validation", "val_loss"))},
            "loss", f"Your own run, {trained}",
            levels={"a guess": math.log(len(own_classes))})

# %% [markdown]
# **Evaluate**, on the clips that were set aside, the weights of the last epoch. (The best ones, `best.safetensors`, are what `evaluate_run` takes for a folder. They were picked on these very clips.) Of so few clips the number says next to nothing, as the interval shows.

# %%
from vt_course.training.evaluate import evaluate_run

result = evaluate_run(own_run / "last.safetensors", workers=0,
                      progress=False)
report(held_out_clips=result["n"], unreadable=len(result["bad"]))

# %% tags=["figure"] alt="One point for your model with an interval that takes most of the axis, for the 3 clips that were set aside, beside the dashed line of a guess at 33.3 %."
name = f"your model,\n{trained}"
show.accuracies({name: (result["top1"], result["n"])},
                1 / len(own_classes), "Clips that were set aside")

# %% [markdown]
# **Predict** one video: the model and its recipe come back from the run folder, which knows its classes, too.

# %%
from vt_course.data.clips import dense_indices
from vt_course.data.transforms import centre_crop, resize_short_side
from vt_course.training.checkpoint import load_run


@torch.no_grad()
def predict_file(run, path):
    """Probabilities (K,) for the middle of one video."""
    model, used = load_run(run, "last")
    video = ClipReader(path)
    indices = dense_indices(video.num_frames, used.frames, used.stride)
    frames = torch.from_numpy(video.read(indices))    # (T, H, W, 3)
    frames = resize_short_side(frames, used.size)
    clip = normalise(centre_crop(frames, used.size))  # (3, T, H, W)
    return model(clip[None]).softmax(-1)[0]           # (K,)

# %%
chosen = next(row for row in found if row["split"] == "val")
given = predict_file(own_run, chosen["path"])
report(probabilities=given.shape[0], their_sum=f"{given.sum():.3f}")

# %% tags=["figure"] alt="Bars of the probabilities of three classes for a held-out video of the class grow: none of them is longer than half of the axis."
show.probabilities(
    given, [f"{name} (true)" if name == chosen["label"] else name
            for name in own_classes],
    f"What your model holds likely, {trained}")

# %% [markdown]
# In `smoke` the model has made two steps and knows nothing. If it is right on 2 of the 3 clips, that is luck: a guess is right on 2 or 3 of them with a probability of 7/27 = 26 %. In `lecture` it makes 300, on 240 of our clips, and is right on most of those that were set aside. The same functions in a terminal:
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
# Two hundred clips are few for a model that starts from random weights. What is done then is **fine-tuning**: start from weights that were trained on more. (Here the shipped weights have learned even the three classes of our example, among their eight. So the case is an easy one; with your own classes it is not.) First with your own step, where nothing is hidden:

# %%
def fine_tune(pretrained, clips, labels, steps=6):
    """A few steps of yours on one batch; the model, in eval mode."""
    _ = torch.manual_seed(0)
    model = create("video_swin_mini", num_classes=len(own_classes))
    if pretrained:                            # all but the head
        stored = load_file(mini_weights("video_swin_mini"))
        body = {name: w for name, w in stored.items()
                if not name.startswith("head")}
        _ = model.load_state_dict(body, strict=False)
    run = run_of(model, [4e-4] * steps)
    for _ in range(steps):
        _ = train_step(run, [(clips, labels)])
    return model.eval()

# %%
spread = np.linspace(0, len(own_train) - 1, 8).astype(int).tolist()
samples = [own_train[0, i] for i in spread]       # of all classes
eight = torch.stack([s["clip"] for s in samples])  # (8, 3, 8, 32, 32)
truth = torch.tensor([s["label"] for s in samples])
tuned = {"6 steps from random weights": fine_tune(False, eight, truth),
         "6 steps from trained weights": fine_tune(True, eight, truth)}

# %% [markdown]
# After 6 steps both have seen the same 8 videos six times. The question is what they say about others: those that were set aside of yours, or, for our example, the held-out embedded clips of the same three classes. **Predict** both accuracies.

# %%
three = [row for row in held_out[:count] if row["label"] in own_classes]
others = own_val if MY_VIDEOS else VideoFolder(
    Rows(three, "held-out clips"),
    **(settings | dict(classes=own_classes)))
tried = {name: evaluate(model, others, workers=0, progress=False)
         for name, model in tuned.items()}
if not MY_VIDEOS:
    for (name, s), low, high in zip(tried.items(), (10, 88), (65, 100)):
        within(f"{name}, right", 100 * s["top1"], low, high, " %")

# %% tags=["figure"] alt="Accuracy on 27 other videos: after 6 steps from random weights its interval holds the dashed line of a guess at 33.3 %, after 6 steps from trained weights it is nearly 100 %."
show.accuracies(
    {name: (s["top1"], s["n"]) for name, s in tried.items()},
    1 / len(own_classes), "Other videos of the same classes")

# %% [markdown] tags=["answer"]
# Eight videos were enough, because the trained weights know motion already, and even these classes: that is as easy as fine-tuning gets.

# %% [markdown]
# The package needs one setting for it. `init` names the weights: of a run, of a mini, of an official file. The head is new when the classes are others, and the command line says so. `freeze` keeps parts as they are: `backbone` is everything but the head, `stages:2` the first two stages.
#
# **Predict**: how many numbers train with `freeze="backbone"` on three classes? (The model with eight classes has 325,748 in all.)

# %%
tuned_recipe = replace(mine_recipe, init="video_swin_mini",
                       freeze="backbone", epochs=2)
tuned_run = home / f"tuned_{PROFILE}"
_ = fit(tuned_recipe, tuned_run, max_steps=2, workers=0,
        progress=False)
start = load_file(mini_weights("video_swin_mini"))
ended = load_file(tuned_run / "last.safetensors")
body = [name for name in start if not name.startswith("head")]
same_bits("frozen weights", flat({n: ended[n] for n in body}),
          flat({n: start[n] for n in body}))
report(trained=sum(w.numel() for name, w in ended.items()
                   if name.startswith("head")))

# %% [markdown]
# ```sh
# vt-course train video_swin_mini --data folder:data/videos --init video_swin_mini --freeze backbone --out runs/tuned
# vt-course train video_swin_mini --data folder:data/videos --init runs/tuned --out runs/more --set epochs=5 lr=1e-4
# ```
#
# The second line goes on from a finished run, with another rate. Weights do not always help. The row `finetune-other-label` of `experiments.yaml` starts from weights that read motion and trains on the pattern of the background: they hinder. `finetune-larger-frames` takes the same label and larger frames: they save nearly all of the training (notebook 09 has both).

# %% [markdown]
# ### Below the classifier
#
# A detector needs no class of the clip, but a map of the picture at several sizes. `features_only=True` gives the model without its classifier: a list of maps, one for each stage. `strides` is the distance between neighbouring places of a map, in frames, rows and columns of the clip. An example with a feature pyramid is in `docs/researchers.md`.

# %%
backbone = create("video_swin_mini", features_only=True).eval()
with torch.no_grad():
    maps = backbone(torch.zeros(1, 3, 8, 32, 32))
for stage, stride in zip(maps, backbone.strides):
    # (B, channels, T, H, W)
    report(map=stage.shape, strides=stride)

# %% [markdown] tags=["deep-dive"]
# ## 13 · What does the answer rest on?
#
# The shipped `timesformer_mini` says "up" to a clip, and is right. (We take another model than before because its picture is the clearest; the table below has five.) Did it look at the shape? **Occlusion** asks the model itself: hide one box of the clip, in grey, and see how much the probability of the class falls. The answer rests on the boxes whose hiding lowers the probability most. In the figure a box covers two frames, which are called a step; a percentage says which part of all that was lost belongs to this step. (M. Zeiler and R. Fergus, 2014.)
#
# **Predict** where they lie for the clip below.

# %%
from vt_course.training.explain import explain_run, proofs

file = next(row["path"] for row in held_out if row["label"] == "up")
clip, why, names = explain_run(mini_weights("timesformer_mini"), file)
report(answer=names[why.target], boxes=tuple(why.map.shape))

# %% tags=["figure"] alt="Eight frames of a clip in which a shape moves up, and below each the same frame in grey: in the first frames one yellow box lies on the upper edge of the shape, and nearly all else is dark."
show.explanation(clip, why.map, f"{names[why.target]}: occlusion")

# %% [markdown]
# A picture that looks right proves nothing. Two tests can fail:
#
# - **Does it point at the cause?** Only the moving shape tells the motion, and the renderer knows where it is. Does the shape get clearly more than its share of the area? We ask for twice as much.
# - **Does it depend on the model at all?** Give the layers random weights, one after the other from the last to the first. A picture that stays the same was a picture of the clip, not of the model. We ask for a correlation below 0.5 with the picture of the trained model. (J. Adebayo et al., 2018.)
#
# Stored are both tests for occlusion, Grad-CAM (slopes of the score) and rollout (attention through all layers). The file has single layers of attention as well (`python -m vt_course.training.proofs`, two minutes).

# %%
tested = proofs()
wanted = {"inside": "share of the shape / its area",
          "random": "correlation, random weights"}
for key, title in wanted.items():
    print(f"{title:32}" + "".join(
        f"{name.removesuffix('_mini'):>13}" for name in tested))
    for method in ("occlusion", "gradcam", "rollout"):
        found_here = [next(row[key]["mean"] for row in each
                           if row["method"] == method)
                      for each in tested.values()]
        print(f"{method:32}"
              + "".join(f"{x:13.2f}" for x in found_here))

# %% [markdown]
# A method passes if its whole 95 % interval does; the intervals are in the file. Only occlusion passes both tests in all five families. Grad-CAM and rollout point at the shape less in each of them. In a terminal: `vt-course explain timesformer_mini clip.mp4 --out why.png`. These are small models on drawn clips; for another model, test again.

# %%
# 120 MB of runs; to repeat a section after this, begin at the top
kept.cleanup()

# %% [markdown]
# ## What is scaled down, and what was left out
#
# - A third of a million parameters, 8 frames of 32 × 32, 1,600 drawn clips. The pieces are those of the full recipes; no accuracy of a paper is reproduced.
# - RandAugment, random erasing, mixup, cutmix and repeated augmentation are settings of the package (`vt-course recipes` has the published recipes), and none is used here. MViT's recipe uses all of them, Video Swin's on Something-Something the first two.
# - The same holds for learning rates that differ between layers (Video Swin's 0.1 for the backbone) and for averaged weights (EMA). What each line of a recipe buys was measured once, for a small MViT with three seeds (section 11): too few to separate the lines.
# - Views as each paper takes them are in `vt-course evaluate --protocol`; the notebook uses four clips in time only.
# - Mixed precision on CUDA and several GPUs have not been run; several processes on a CPU have (`tests/test_ranks.py`).
# - "Every bit" holds on one machine with one version of torch. Another processor adds in another order; on a GPU even two runs may differ.
#
# Sources of the table in section 4: Swin's paper, appendix A2.1; Video Swin's configuration `swin_tiny_patch244_window877_kinetics400_1k.py`; MViT's paper, appendix D.1; TimeSformer's configuration `TimeSformer_divST_8x32_224.yaml`; UniFormer's `exp/uniformer_s16x8_k400/run.sh`; `recipes.py`. The interval of section 11: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the American Statistical Association 22, 1927.
#
# ## Summary
#
# - A clip is a pure function of (seed, epoch, index), a batch of (seed, epoch), drop path of (seed, step), and of the rank if there are several. That is why weights, moments with their *t*, and the step are the whole state.
# - One box for all frames of a clip. No mirror where left and right are classes.
# - Warm-up, cosine; AdamW's decay stands beside the gradient; vectors and bias tables do not decay; clip the gradient of all parameters together.
# - A step: training mode, gradients to zero, each part forward and backward with its share of the clips, clip, step the optimiser unless something is not finite, move the schedule on.
# - 16 bits for multiplications, 32 for weights and sums. float16 needs loss scaling, bfloat16 does not.
# - The gradient of a batch is the mean of those of its parts, weighted by their clips: over GPUs, or one after the other.
# - An accuracy comes with an interval, and with a control.
#
# ## Questionnaire
#
# 1. You add a worker to the loader. What changes in the weights after 9 steps? And with a generator that serves all clips in turn?
# 2. A run has 1,000 clips, a batch of 32, and 10 epochs. How many steps are there, and how many clips has the last batch of an epoch?
# 3. Your first loss is 2.9 with 8 classes. What do you look at?
# 4. A checkpoint after 10,000 steps holds weights, epoch and step, and no moments; *t* is taken from the step. How long is the next step, and why?
# 5. Why is 1 + 0.003 equal to 1 in bfloat16 and not in float16? What is (1 + 0.003) in float16?
# 6. Two ranks have 10 and 6 clips. By what does each multiply its loss, if the gradients are averaged plainly afterwards?
# 7. Model A is right on 355 of 400 clips, B on 364 of other 400. Is B better?
# 8. You train on clips of sign language. Which settings of the recipe do you check first?
# 9. Explain to a colleague, in two or three sentences, why forgetting `zero_grad` does not show when a model learns eight clips by heart with AdamW and clipping.
# 10. This step trains without an error, and all its numbers are finite. What is wrong? *Backward; optimiser; clip; schedule; gradients to zero.*

# %% [markdown] tags=["answer"]
# <details><summary>Answers</summary>
#
# 1. Nothing (section 3). With one generator the boxes depend on who draws first.
# 2. 32 an epoch (31.25, rounded up), 320 in all; the last batch has 8 (section 3).
# 3. A guess has ln 8 = 2.08. Higher means confident and wrong: weights that start too large, logits that are scaled, labels of other clips (section 6).
# 4. Too long, in all weights: with m = 0.1 g, v = 0.001 g² and a bias correction that is 1 by now (in section 8, at t = 8, it leaves half a learning rate), m/√v is 0.1/√0.001 = 3.2, so each weight moves by 3.2 learning rates, whatever its gradient. If t begins anew as well, it is 1 learning rate. Both are more than usual, where gradients of changing sign make m small beside √v (sections 5 and 8).
# 5. Next to 1 bfloat16 has 1 + 2⁻⁷ = 1.0078, and 1.003 is nearer to 1; float16 has steps of 2⁻¹⁰ = 0.00098, so it becomes 1 + 3/1024 = 1.00293 (section 9).
# 6. 10 · 2 / 16 = 1.25 and 6 · 2 / 16 = 0.75 (section 10).
# 7. 88.75 and 91.0 %, the difference 2.25 points with a standard error of √(1.58² + 1.43²) = 2.1: one cannot tell. (On the same clips, count those on which the two differ: section 11.)
# 8. Flip (left and right hands matter), the seconds that a clip covers, the size (fingers are small), and the split by person (section 12).
# 9. The clips are the same in each step, so the old gradients point nearly where the new one points. Their sum is only too long, and clipping and AdamW's division by √v take no notice of length (section 7).
# 10. The gradients are clipped after the optimiser has used them, and then set to zero: nothing is clipped at all (exercise 8.6).
# </details>

# %% [markdown]
# **Next:** [09 · Does it use time?](09_does_it_use_time.ipynb), where trainings like this one become experiments.
