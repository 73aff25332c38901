# %% [markdown]
# # 00 · Start here: one clip, one prediction, the map
#
# In the next two minutes a real video file becomes a prediction, on your machine: mp4 → frames → clip → model → probabilities. Then you solve a first
# exercise, and see how a check answers. At the end stand the three witnesses behind every claim of the course, and its map.
#
# | | |
# |---|---|
# | **Needs** | Python and a little PyTorch |
# | **Data** | the embedded clips: `vt-course data synthetic`, once (`make course` and `make lab` do it) |
# | **Time** | 15 to 20 minutes with the exercise; to run it, on two cores: 5 to 20 seconds (`smoke`), 10 to 40 seconds (`lecture`) |
# | **Hardware** | a laptop CPU and 1 GB of memory |
#
# **You will be able to**
#
# 1. say what happens to a video on its way to a prediction, with the shape at every step (section 2, question 1);
# 2. tell whether your installation works, and what to send with a bug report (section 1);
# 3. read a check that failed, and solve an exercise (exercise 0.1);
# 4. read a proof by three witnesses (question 2);
# 5. find your way through the course, and plan your hours (section 5).

# %% tags=["parameters"]
PROFILE = "smoke"   # smoke: 24 clips in section 3; lecture, full: 400

# %% [markdown]
# ## 1 · Does everything work?
#
# `vt-course doctor` in a terminal prints versions, hardware and data. Put its output into a bug report. The cell below asks the same
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
from vt_course.data.transforms import centre_crop, normalise
from vt_course.data.transforms import resize_short_side
from vt_course.lab import show
from vt_course.lab.check import check
from vt_course.lab.report import agree, differ, report, within
from vt_course.models import create, mini_weights

# %% [markdown]
# ## 2 · One clip, one prediction
#
# Two of the course's printing helpers come up here. `report` prints shapes and counts. `within` checks that a number lies in an interval.
#
# The embedded data set holds real mp4 files. Each shows a coloured shape on a patterned background that does one of eight things. We take a file that the model has
# not seen in training. When a video file is opened, nothing is decoded until frames are asked for.

# %%
motion = open_spec("synthetic:motion")
rows = read_manifest(motion.val)
row = next(r for r in rows if r["path"].endswith("00057.mp4"))
video = ClipReader(row["path"])
# (T, H, W, 3)
frames = torch.from_numpy(video.read(range(video.num_frames)))
report(frames=video.num_frames, frames_a_second=round(video.fps),
       decoded=tuple(frames.shape), type=str(frames.dtype))

# %% tags=["figure"] alt="Five frames of a clip in a row: a star with a white border, coloured like a rainbow, is turned further in each frame, in front of a green background with dark upright stripes."
show.film_strip(frames, n=5, title="5 of the 32 frames")

# %% [markdown]
# **Predict.** What is this shape doing? Would you know from the first frame alone?
#
# Our model looks at 8 frames of 32 × 32 pixels. So we choose 8 frames, three apart, around the middle. We scale the short side to 32 and cut the middle square.
# Then we subtract the mean colour, divide by the spread, and put colours first. The result is a [*clip*](glossary.md#clip).
#
# **Complete the formula.** 8 frames, 3 apart, reach from the first to the last over … frames. In a video of 32 frames, … are left over. Half of them, rounded down, come before the first: the clip begins with frame … .

# %%
def clip_of(path):
    """A file -> the clip that the model sees: (3, 8, 32, 32)."""
    video = ClipReader(path)
    indices = dense_indices(video.num_frames, frames=8, stride=3)
    clip = torch.from_numpy(video.read(indices))      # (8, H, W, 3)
    clip = centre_crop(resize_short_side(clip, 32), 32)
    return normalise(clip)                            # (3, 8, 32, 32)


clip = clip_of(row["path"])
chosen = dense_indices(video.num_frames, frames=8, stride=3)
report(chosen=str(chosen.tolist()), clip=tuple(clip.shape),
       type=str(clip.dtype))

# %% [markdown] tags=["answer"]
# 7 · 3 + 1 = 22 frames; 10 are left over; the clip begins with frame 5. The star turns clockwise. One frame alone cannot tell: a star that turns the other way passes through the same picture.

# %% [markdown]
# The model is a small Video Swin. It was trained from random weights on 1,600 such clips, in 9 to 15 minutes on one CPU core. Notebook 04 builds it; here it is
# taken from the package. The model returns one number for each class, the [*logits*](glossary.md#logit). Softmax makes probabilities of them.

# %%
model = create("video_swin_mini").eval()
weights = load_file(mini_weights("video_swin_mini"))
_ = model.load_state_dict(weights, strict=True)
with torch.no_grad():
    logits = model(clip[None])                        # (1, 8)
    shares = logits.softmax(-1)[0]                    # (8,)
report(clips=logits.shape[0], classes=logits.shape[1])

# %% tags=["figure"] alt="A bar chart of the probabilities of eight motions for the clip: the bar of clockwise is by far the longest."
show.probabilities(shares, motion.classes,
                   title="The clip shows: " + row["label"])

# %% [markdown]
# That was the whole way of a video through this course:
#
# `mp4 → which frames → decode → scale, crop, normalise → (C, T, H, W) → model → logits → softmax`

# %% [markdown]
# ## 3 · Your first exercise
#
# Does the model use the order of the frames, or would any frame do? Show it the same eight pictures, last one first. For that you need a function.
#
# An exercise has four cells: a stub (a function that raises `NotImplementedError`), a check, folded hints, and a solution. You fill in the stub and run the check.
# It compares your function with a definition on several shapes.
#
# **Hunt the bug.** Somebody else has tried already. The function below looks right: it turns something round, and the shape stays. The check runs it. Read what it says. Which axis is which?

# %% alt="Three panels of coloured cells, expected, got and their difference: most numbers of the wrong answer differ, and a circle marks the first of them in each panel."
def first_attempt(clip):
    """A clip (C, T, H, W), its last frame first."""
    return torch.flip(clip, dims=[-1])


_ = check("0.1", first_attempt)

# %% [markdown]
# The check ran the function, found the first number that is wrong, and drew where the results differ. Then it tried the mistakes that it knows on *this* output until one fitted, and named it.
#
# ### Exercise 0.1 · Played backwards
#
# Difficulty 1/5 · importance 3/5 · 5 minutes
#
# `clip` is (C, T, H, W). Return a clip of the same shape that runs backwards: its first frame is the last one of `clip`.

# %% tags=["exercise:0.1"]
def play_backwards(clip):
    """A clip (C, T, H, W), its last frame first."""
    raise NotImplementedError("exercise 0.1")

# %% tags=["check:0.1"]
play_backwards = check("0.1", play_backwards)

# %% [markdown] tags=["hints:0.1"]
# <details><summary>Hint 1: which axis?</summary>
#
# C is axis 0: colours. T is axis 1: frames.
# </details>
# <details><summary>Hint 2: which function?</summary>
#
# A slice with step −1, as for lists, is an error for tensors. `flip` turns an axis round; you may also index with a list of frame numbers.
# </details>

# %% tags=["solution:0.1"]
def play_backwards(clip):
    """A clip (C, T, H, W), its last frame first."""
    return clip.flip(1)


play_backwards = check("0.1", play_backwards, solution=True)

# %% [markdown]
# (`solution=True` only says that this pass shall not count as your progress.)
#
# - While a stub is untouched, the cells below use the course's own function. So every notebook runs from top to bottom unsolved.
# - Once you have tried, the cells use *your* function, right or wrong. Where it is wrong they may stop. Put `raise NotImplementedError` back to go on without it.
# - `make lab` opens your copy in `work/`: the same notebooks without solutions. It is written once and never overwritten; `vt-course student --update` brings your work into a newer edition. `make lab-solutions` opens the notebooks with solutions.
# - `vt-course progress` lists which checks passed. It reads a small file of yours (`vt-course doctor` says where); nothing is sent anywhere.
#
# Cells that say **Predict** ask for a guess before you run the next one. A guess you wrote down is worth more than an hour of reading.
#
# **Predict.** Your function turns the clip of section 2 round. Which class wins now?

# %% tags=["figure"] alt="Two bar charts of eight motions: for the clip the bar of clockwise is by far the longest; for the clip played backwards it is the bar of counter-clockwise."
with torch.no_grad():
    backwards = model(play_backwards(clip)[None]).softmax(-1)[0]
show.probabilities({"the clip": shares, "played backwards": backwards},
                   motion.classes)

# %%
report(**{"the clip": motion.classes[shares.argmax()],
          "played backwards": motion.classes[backwards.argmax()]})
within("its probability", 100 * shares.max().item(), 80, 100, " %")

# %% [markdown] tags=["answer"]
# Backwards, clockwise *is* counter-clockwise. The same eight pictures, the other answer: this model uses the order of the frames.

# %% [markdown]
# ### A small experiment: one clip proves little
#
# The eight classes are four pairs, and each class is the other one of its pair backwards. So of more clips we ask two things. In order: is the answer right? Backwards: is it the *other* class of the pair? **Predict** both shares.
# Here are 24 clips; in the profile `lecture` there are 400. Run the notebook in both, and compare the bars. (They are 95 % intervals, which notebook 08 explains.)

# %%
count = 24 if PROFILE == "smoke" else 400
clips = torch.stack([clip_of(r["path"]) for r in rows[:count]])
turned = torch.stack([play_backwards(c) for c in clips])
labels = [motion.classes.index(r["label"]) for r in rows[:count]]
labels = torch.tensor(labels)
with torch.no_grad():
    in_order = torch.cat([model(c).argmax(1) for c in clips.split(50)])
    reverse = torch.cat([model(c).argmax(1) for c in turned.split(50)])
right = (in_order == labels).float().mean().item()
# 0 and 1, 2 and 3, … are the pairs
other = (reverse == labels ^ 1).float().mean().item()

# %% tags=["figure"] alt="Two points with intervals near 100 %, far right of the dashed line of a guess at 12.5 %: clips in order that are answered with their class, and clips played backwards that are answered with the other class of the pair."
show.accuracies({"in order:\nits class": (right, count),
                 "backwards:\nthe other class": (other, count)}, 1 / 8,
                "Answers to held-out clips")

# %%
within("in order, its class", 100 * right, 85, 100, " %")
within("backwards, the other class", 100 * other, 85, 100, " %")

# %% [markdown] tags=["answer"]
# Nearly all, both times. With 24 clips the interval still reaches down to below 90 %; with 400 it is a few points wide. Notebook 04 goes on: what is the best that *any* model can do which ignores the order of frames?

# %% [markdown]
# ## 4 · Three witnesses
#
# How do you know that what you built is the real thing? In this course every claim about a model has three witnesses:
#
# 1. the **definition**: literal and slow, straight from the paper's sentence;
# 2. the **model**: fast, the code you would use;
# 3. an **oracle**: code of somebody else, which cannot share our mistakes.
#
# Five lines show it, for the heart of every model here: [attention](glossary.md#attention). Each token has a query, a key and a value, three rows of d numbers. *The output of a token is the mean of all values. The weights of this mean are a softmax: of the products of the token's query with all keys, divided by √d.*

# %%
_ = torch.manual_seed(0)
q, k, v = torch.randn(3, 5, 4)        # queries, keys, values: (N, d)
# token by token
products = [[float(a @ b) / 4**0.5 for b in k] for a in q]
means = [torch.tensor(row).softmax(0) for row in products]
definition = torch.stack([sum(w * c for w, c in zip(weight, v))
                          for weight in means])       # (N, d)
# two matrix products
fast = (q @ k.T / 4**0.5).softmax(-1) @ v             # (N, d)
# PyTorch's own
oracle = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]

# %%
agree("definition = model", definition, fast)
agree("model = oracle", fast, oracle)
differ("control: without the division by √d",
       (q @ k.T).softmax(-1) @ v, oracle)

# %% [markdown]
# `agree` stops the notebook unless two tensors match everywhere, and prints the bound it checked. The third line is the **control**. A check that cannot
# fail proves nothing, so we show that a wrong version fails it. No helper prints a number that could differ on your machine.

# %% [markdown]
# ## 5 · The map
#
# Read in order, or enter where you like: each notebook says what it needs.
#
# | notebook | you build | hours |
# |---|---|---|
# | **00 start here** | this one | 0.3 |
# | [01 clips and tokens](01_clips_and_tokens.ipynb) | frame sampling, views, patches, tubes | 2.5 |
# | [02 attention and cost](02_attention_and_cost.ipynb) | attention from loops to fused, its cost measured | 3 |
# | [03 swin](03_swin.ipynb) | windows, shift, mask, the hierarchy | 4.5 |
# | [04 video swin](04_video_swin.ipynb) | 27 windows of space and time, inflation, a trained model | 3.5 |
# | [05 mvit](05_mvit.ipynb) | pooling attention, the block, four stages, MViTv2 | 4 |
# | [06 timesformer](06_timesformer.ipynb) | five attention schemes as masks and as groups, the divided network | 3 |
# | [07 uniformer](07_uniformer.ipynb) | local and global relations, equal to convolutions and attention | 3 |
# | [08 training](08_training.ipynb) | the step and all its pieces, a whole training, your own videos | 3.5 |
# | [09 does it use time](09_does_it_use_time.ipynb) | controls that cannot leak, intervals over seeds, what the papers claim about time | 2.5 |
# | [10 paper companion](10_paper_companion.ipynb) | every claim of the five papers and what came out; a claim of your own | 2 |
#
# Ways through:
#
# - *"I want to understand one model"*: 01, 02, then its notebook.
# - *"I want to train on my videos"*: 01, then the first two sections of [08](08_training.ipynb). Then go to notebook 08, section 12: it takes a folder of yours from files to a trained model.
# - *"I have a paper's number in doubt"*: [10](10_paper_companion.ipynb) has a page for each paper, and `vt-course claims` lists every number. `vt-course models`
# prints parameters and [multiply-accumulates](glossary.md#multiply-accumulate) of every published variant beside what was stated.
#
# ### Letters
#
# The same letters everywhere: `B` batch, `C` channels, `T H W` time, height, width, `N` tokens, `h` heads, `d` channels of a head, `K` classes, `P` and `M` sides of a
# window in time and space. A comment such as `# (B, T, H, W, C)` gives the shape of what the line made.
#
# ### Profiles
#
# Every notebook starts with `PROFILE = "smoke"`. `smoke` runs every cell in a minute or so and trains a few steps. `lecture` takes minutes and shows more: here 400 clips in place of 24, in 08 the first eight epochs of your own training. `full` trains to the
# end. The cells are the same.
#
# ## Summary
#
# - A video becomes a clip `(C, T, H, W)`: frames chosen, decoded, scaled, cropped, normalised. The model gives logits, softmax probabilities.
# - A check compares your function with the definition, and names the mistake.
# - Each claim has a definition, a model, an oracle, and a control that fails.
#
# ## Questionnaire
#
# 1. A video has 300 frames of 240 × 320 pixels. Which shape has it after decoding, after scaling the short side to 32, after the crop of 8 frames, and after `normalise`?
# 2. Explain why two witnesses that agree are not enough if both were written by the same person, and why even three need a control.
# 3. A model is right on 24 of 24 clips. What do you answer to somebody who says "so it is always right"?

# %% [markdown] tags=["answer"]
# <details><summary>Answers</summary>
#
# 1. All frames decoded: (300, 240, 320, 3). Of 8 frames that were chosen: (8, 240, 320, 3), scaled (8, 32, 43, 3), since 32 · 320 / 240 = 42.7 is rounded; cropped (8, 32, 32, 3); normalised, colours first, (3, 8, 32, 32).
# 2. One person makes the same mistake twice, for instance in reading the paper. And all witnesses can agree because the comparison cannot fail, for instance where a difference does not show in these numbers; the control shows that it can.
# 3. A model that errs on one clip in 20 is right on 24 clips with a probability of 0.95²⁴ = 29 %. The interval in section 3 says the same.
# </details>

# %% [markdown]
# **Next:** [01 · Clips and tokens](01_clips_and_tokens.ipynb): which frames, which pixels, how many numbers.
