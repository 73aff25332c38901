# %% [markdown]
# # 00 · Start here: one clip, one prediction, the map
#
# In the next two minutes a real video file becomes a prediction, on your machine: mp4 → frames → clip → model → probabilities. Then come the map of the
# course, and the three things that hold it together: witnesses, exercises, and checks.
#
# | | |
# |---|---|
# | **Needs** | Python and a little PyTorch |
# | **Data** | the embedded clips: `vt-course data synthetic`, once (`make course` and `make lab` do it) |
# | **Time** | 10 minutes to read; to run it: under a minute on two cores |
# | **Hardware** | a laptop CPU and 1 GB of memory |
#
# **You will be able to**
#
# 1. say what happens to a video on its way to a prediction, with the shape at every step;
# 2. tell whether your installation works, and what to send with a bug report;
# 3. find your way through the course, and plan your hours;
# 4. read a proof by three witnesses, and a check that failed.

# %% tags=["parameters"]
PROFILE = "smoke"   # smoke, lecture, full: this notebook does the same in all three

# %% [markdown]
# ## 1 · Does everything work?
#
# `vt-course doctor` in a terminal prints versions, hardware and data; put its output into a bug report. The cell below asks the same
# code what is missing. If something is, the line says what to type.

# %%
from vt_course import doctor

missing = doctor.report()["missing"]
for item in missing:
    print(f"missing: {item['what']}; remedy: {item['how']}")
if not missing:
    print("✓ nothing is missing")

# %%
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from vt_course.data import open_spec
from vt_course.data.clips import dense_indices, read_manifest
from vt_course.data.reader import ClipReader
from vt_course.data.transforms import centre_crop, normalise, resize_short_side
from vt_course.lab import show
from vt_course.lab.check import check
from vt_course.lab.report import agree, differ, report, within
from vt_course.models import create, mini_weights

# %% [markdown]
# ## 2 · One clip, one prediction
#
# Two of the course's printing helpers come up here: `report` prints shapes and counts, `within` checks that a number lies in an interval.
#
# The embedded data set holds real mp4 files: a coloured shape on a patterned background that does one of eight things. We take one that the model has
# not seen in training. A video file is opened, and nothing is decoded until frames are asked for.

# %%
motion = open_spec("synthetic:motion")
rows = read_manifest(motion.val)
row = next(r for r in rows if r["path"].endswith("00057.mp4"))
video = ClipReader(row["path"])
frames = torch.from_numpy(video.read(range(video.num_frames)))         # (T, H, W, 3)
report(frames=video.num_frames, frames_a_second=round(video.fps),
       decoded=tuple(frames.shape), type=str(frames.dtype))

# %% tags=["figure"] alt="Eight frames of a clip in a row: a star with a white border, coloured like a rainbow, is turned further in each frame, in front of a green background with dark upright stripes."
show.film_strip(frames, n=8, title="8 of the 32 frames")

# %% [markdown]
# **Predict.** What is this shape doing? Would you know from the first frame alone?
#
# Our model looks at 8 frames of 32 × 32 pixels. So: choose 8 frames, three apart, around the middle; scale the short side to 32; cut the middle square;
# subtract the mean colour, divide by the spread, and put colours first. That is a [*clip*](glossary.md#clip).

# %%
indices = dense_indices(video.num_frames, frames=8, stride=3)
clip = torch.from_numpy(video.read(indices))                           # (8, H, W, 3)
clip = centre_crop(resize_short_side(clip, 32), 32)                    # (8, 32, 32, 3)
clip = normalise(clip)                                                 # (3, 8, 32, 32)
report(chosen=str(indices.tolist()), clip=tuple(clip.shape), type=str(clip.dtype))

# %% [markdown]
# The model is a small Video Swin, trained from scratch on 1,600 such clips in nine minutes on one CPU core. Notebook 04 builds it; here it is
# taken from the package. It returns one number for each class, the [*logits*](glossary.md#logit); softmax makes probabilities of them.

# %%
model = create("video_swin_mini").eval()
_ = model.load_state_dict(load_file(mini_weights("video_swin_mini")), strict=True)
with torch.no_grad():
    logits = model(clip[None])                                         # (1, 8)
    backwards = model(clip[None].flip(2))                              # (1, 8)
report(clips=logits.shape[0], classes=logits.shape[1])

# %% [markdown]
# **Predict.** The second call shows the model the same eight frames, last one first. Which class should win?

# %% tags=["figure"] alt="Two bar charts of eight motions: for the clip the bar of clockwise is by far the longest; for the clip played backwards it is the bar of counter-clockwise."
probabilities = {"the clip": logits.softmax(-1)[0],
                 "played backwards": backwards.softmax(-1)[0]}         # (8,) each
show.probabilities(probabilities, motion.classes, title="The clip shows: clockwise")

# %%
report(**{f"{name}, prediction": motion.classes[p.argmax()]
          for name, p in probabilities.items()})
within("its probability", 100 * probabilities["the clip"].max().item(), 80, 100, " %")

# %% [markdown]
# Backwards, clockwise *is* counter-clockwise. The same eight pictures, the other answer: this model uses the order of the frames. One clip proves little, so
# notebook 04 does it with 400, against the best accuracy that any model can expect which ignores the order of frames.
#
# That was the whole way of a video through this course:
#
# `mp4 → which frames → decode → scale, crop, normalise → (C, T, H, W) → model → logits → softmax`

# %% [markdown]
# ## 3 · Three witnesses
#
# How do you know that what you built is the real thing? In this course every claim about a model has three witnesses:
#
# 1. the **definition**: literal and slow, straight from the paper's sentence;
# 2. the **model**: fast, the code you would use;
# 3. an **oracle**: somebody else's code, that cannot share our mistakes.
#
# Five lines show it, for the heart of every model here: [attention](glossary.md#attention). *Each token's output is the mean of all values, weighted by the softmax of
# its products with all keys, divided by √d.*

# %%
_ = torch.manual_seed(0)
q, k, v = torch.randn(3, 5, 4)                     # queries, keys, values, each (N, d)
weights = [[float(a @ b) / 4**0.5 for b in k] for a in q]
definition = torch.stack([sum(w * c for w, c in zip(torch.tensor(row).softmax(0), v))
                          for row in weights])       # token by token: (N, d)
model = (q @ k.T / 4**0.5).softmax(-1) @ v           # two matrix products: (N, d)
oracle = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]  # (N, d)

# %%
agree("definition = model", definition, model)
agree("model = oracle", model, oracle)
differ("control: without the division by √d", (q @ k.T).softmax(-1) @ v, oracle)

# %% [markdown]
# `agree` stops the notebook unless two tensors match everywhere, and prints the bound it checked. The third line is the **control**: a check that cannot
# fail proves nothing, so we show that a wrong version fails it. No helper prints a number that could differ on your machine.

# %% [markdown]
# ## 4 · Exercises and checks
#
# Each exercise is a stub (a function that raises `NotImplementedError`), a check, folded hints, and a solution. You fill in the stub and run the check.
# It compares your function with the definition on several shapes. While the stub is untouched, the cells below use the course's own function, so every notebook
# runs from top to bottom unsolved. Once you have tried, they use *your* function, right or wrong, and may stop where it is wrong; put `raise NotImplementedError` back to go on without it.
#
# This is what a check says to a mistake. In exercise 4.3 a video is rolled, so that [token](glossary.md#token) (t + s) comes to t. Here is a plausible wrong answer:

# %% alt="Three panels of coloured cells, expected, got and their difference: all 720 numbers of the wrong answer differ, and a circle marks the first of them in each panel."
def cyclic_shift(x, shift):
    return torch.roll(x, shift, dims=(1, 2, 3))


_ = check("4.3", cyclic_shift)

# %% [markdown]
# It ran your function, found the first number that is wrong, drew where it differs, and tried the mistakes it knows on *your* output until one fit. Now
# the right sign (`solution=True` only says that this one shall not count as your progress):

# %%
def cyclic_shift(x, shift):
    return torch.roll(x, [-s for s in shift], dims=(1, 2, 3))


_ = check("4.3", cyclic_shift, solution=True)

# %% [markdown]
# - `make lab` opens your copy in `work/`: the same notebooks without solutions. It is written once and never overwritten; `vt-course student --update` brings your work into a newer edition. `make lab-solutions` opens the notebooks with solutions.
# - `vt-course progress` lists which checks passed. It reads a small file in your checkout; nothing is sent anywhere.
# - Cells that say **Predict** ask for a guess before you run the next one. A guess you wrote down is worth more than an hour of reading.

# %% [markdown]
# ## 5 · The map
#
# Read in order, or enter where you like: each notebook says what it needs.
#
# | notebook | you build | hours |
# |---|---|---|
# | **00 start here** | this one | 0.2 |
# | [01 clips and tokens](01_clips_and_tokens.ipynb) | frame sampling, views, patches, tubes | 3 |
# | [02 attention and cost](02_attention_and_cost.ipynb) | attention from loops to fused, its cost measured | 3 |
# | [03 swin](03_swin.ipynb) | windows, shift, mask, the hierarchy | 4 |
# | [04 video swin](04_video_swin.ipynb) | 27 windows of space and time, inflation, a trained model | 3 |
# | [05 mvit](05_mvit.ipynb) | pooling attention, the block, four stages, MViTv2 | 4 |
# | [06 timesformer](06_timesformer.ipynb) | five attention schemes as masks and as groups, the divided network | 3 |
# | [07 uniformer](07_uniformer.ipynb) | local and global relations, equal to convolutions and attention | 3 |
# | 08 training | from clips to a trained model | 2 |
# | 09 does it use time | experiments with exact ceilings | 2 |
# | 10 paper companion | every claim, and what came out | 1 |
#
# Notebooks without a link are not written yet.
#
# Three ways through: *"I want to understand one model"*: 01, 02, then its notebook. *"I have a paper's number in doubt"*: `vt-course models`
# prints parameters and [multiply-accumulates](glossary.md#multiply-accumulate) of every published variant beside what was stated. *"I want to train on my videos"*: 01, then
# `vt-course train --help`.
#
# ### Letters
#
# The same letters everywhere: `B` batch, `C` channels, `T H W` time, height, width, `N` tokens, `h` heads, `d` channels of a head, `K` classes, `P` and `M` sides of a
# window in time and space. A comment such as `# (B, T, H, W, C)` gives the shape of what the line made.
#
# ### Profiles
#
# Every notebook starts with `PROFILE = "smoke"`. `smoke` runs every cell in a minute or so and trains a few steps, `lecture` takes minutes, `full` trains to the
# end. The cells are the same.
#
# ## Summary
#
# - A video becomes a clip `(C, T, H, W)`: frames chosen, decoded, scaled, cropped, normalised. The model gives logits, softmax probabilities.
# - Each claim has a definition, a model, an oracle, and a control that fails.
# - A check compares your function with the definition, and names the mistake.
#
# **Next:** [01 · Clips and tokens](01_clips_and_tokens.ipynb): which frames, which pixels, how many numbers.
