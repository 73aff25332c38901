# %% [markdown]
# # 09 · Does it use time?
#
# A video model is right about a clip. Did it look at the motion, or would a single frame have been enough?
# Did it read the order of the frames, and if so, with which part? The papers of this course claim answers, each with a table of numbers.
# In this notebook you ask such questions with clips on which the answer is exact, you learn to read a table of experiments, and you see which claims come out here.
#
# No result below is typed: each is computed, or read from a file. Each row of `experiments.yaml` says what was asked and what was expected, **before** the first run of the row. Some rows had trials before; their expectation says so. The runs of a row lie in `results/experiments`. A row that has no file says "not run".
#
# | | |
# |---|---|
# | **Needs** | notebook 01 (frames, tubes) and the idea of one of the models, best 04 and 06; mean and standard deviation |
# | **Data** | the embedded clips: `vt-course data synthetic`, once (`make course` and `make lab` do it) |
# | **Time** | 2.5 hours with the exercises; to run it: 1 minute (`smoke`), 5 (`lecture`), 35 (`full`) |
# | **Hardware** | a laptop CPU and 2 GB of memory |
#
# **You will be able to**
#
# 1. build a control that cannot leak, and say which ceiling it has;
# 2. find out whether a model reads the order of frames inside its tokens or between them;
# 3. compare two variants over seeds, with an interval, and say how sure the result is;
# 4. say how one fools oneself with a single run, with the best seed, and with many ablations;
# 5. design an experiment: predict, run, judge;
# 6. choose a model by accuracy, cost and what it does with time.

# %% tags=["parameters"]
PROFILE = "smoke"   # few clips; lecture: all; full: real training

# %%
import math
from itertools import product

import numpy as np
import torch
from safetensors.torch import load_file

from vt_course.lab import show
from vt_course.lab.check import check
from vt_course.lab.report import agree, differ, report, within
from vt_course.models import create, mini_weights
from vt_course.training.evaluate import open_data
from vt_course.training.experiments import results, verdicts
from vt_course.training.experiments.rows import read_rows
from vt_course.training.recipes import recipe_for

_ = torch.manual_seed(0)

# %% [markdown]
# `report` prints names and numbers. `agree` stops the notebook unless two tensors match everywhere; `differ` stops it unless they differ, and its line begins with ≠. `within` checks that a number lies in an interval. A number that is printed below is computed or comes from a file.

# %% [markdown] tags=["core"]
# ## 1 · Questions and answers in files
#
# A **row** is one question. It has variants, the first of which is the reference, and seeds: each variant is trained once with each [seed](glossary.md#seed). A run is then tested on 2,000 clips on which nothing was tuned, with the frames in several orders. These are the rows of the course, and what is done of them:

# %%
rows = {row.id: row for row in read_rows()}
found = {id: results.read_result(id) for id in rows}
found = {id: each for id, each in found.items()
         if results.fresh(rows[id], each)}
for id, row in rows.items():
    print(f"{id:34}{results.state(row)['state']}")

# %% [markdown]
# `fresh` asks whether the row is still the one that was answered. If anybody changes a recipe, a model, the clips or the **expectation** afterwards, the result is stale, and nothing here reads it. So an expectation cannot be changed later unnoticed. One of them, as it was written:

# %%
def accuracies(id, variant, order="normal"):
    """In percent, one for each seed that was run."""
    runs = found[id]["variants"][variant]["runs"] if id in found else []
    return [100 * run["top1"][order] for run in runs
            if order in run["top1"]]


def told(values):
    """Numbers as text, one for each seed."""
    return " ".join(f"{value:.1f}" for value in values)


tubes = rows["families-motion-tubes"]
print(tubes.told["question"], "\n\n" + tubes.told["expectation"])

# %% [markdown] tags=["core"]
# ## 2 · Ceilings
#
# The embedded clips show one shape that moves in one of eight ways. The eight motions are four pairs: left and right, up and down, grow and shrink, clockwise and counter-clockwise. Two facts make these clips a measuring instrument:
#
# - In **one frame**, every place, size and turn of the shape is equally likely for every motion. (A shape that leaves on one side comes back on the other. In *grow* and *shrink* the outline stays; rings inside flow outward or inward without end.) One frame tells nothing. Whoever sees one frame is right in 1 of 8 cases, **12.5 %**, and no model can beat that.
# - A clip played **backwards** is exactly as likely as a clip of the partner. The frames without their order tell at most the pair. So the ceiling is **50 %**.
#
# A [ceiling](glossary.md#ceiling) of this kind is a calculation, not an estimate from other models. It holds on average: on *n* test clips an accuracy *p* still varies by its standard error, √(*p*(1 − *p*)/*n*).
#
# ### Exercise 9.1 · A control that does not leak
#
# Difficulty 2/5 · importance 5/5 · 15 minutes
#
# Take away the order of the frames, and nothing else. `clip` is (B, C, T, H, W), `index` holds the number of each clip in the data set.
#
# - Frame *t* of the result is frame `order[t]` of the clip, and `order` is `np.random.default_rng([seed, number]).permutation(T)`.
# - So each clip has an order of its own, the same for every model and for every batch.

# %% tags=["exercise:9.1"]
def shuffle_frames(clip, index, seed):
    """The clips, each with its frames shuffled, (B, C, T, H, W)."""
    raise NotImplementedError("exercise 9.1")

# %% tags=["check:9.1"]
shuffle_frames = check("9.1", shuffle_frames)

# %% [markdown] tags=["hints:9.1"]
# <details><summary>Hint 1: intuition</summary>
#
# Go through the clips one by one: each needs a fresh generator. Inside a clip, all colours and all pixels of a frame move together.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# for video, number: `order = torch.from_numpy(...)`; `video[:, order]`; then `torch.stack`
# </details>
# <details><summary>Symptom: the control is too good</summary>
#
# Do neighbouring frames stay neighbours? Then the direction leaks. Does every clip get the same order? Then a model can learn this one order.
# </details>

# %% tags=["solution:9.1"]
def shuffle_frames(clip, index, seed):
    """The clips, each with its frames shuffled, (B, C, T, H, W)."""
    moved = []
    for video, number in zip(clip, index):
        rng = np.random.default_rng([seed, number])
        order = torch.from_numpy(rng.permutation(video.shape[1]))
        moved.append(video[:, order])
    return torch.stack(moved)


shuffle_frames = check("9.1", shuffle_frames, solution=True)

# %% [markdown]
# Why would it matter if all clips had *the same* order? Suppose a model is trained on clips whose frames always come as 3, 0, 6, 1, … The motion is then written in another script, but it is all there. The ceiling is 100 %, not 50 %.
#
# Two further orders ask a finer question. A [tube](glossary.md#tube) is a pair of neighbouring frames, 0 and 1, 2 and 3, and so on: what one token covers in most families.
#
# | order | frames | what is kept |
# |---|---|---|
# | in order | 0 1 · 2 3 · 4 5 · 6 7 | all |
# | tubes reversed | 6 7 · 4 5 · 2 3 · 0 1 | the order inside each tube |
# | frames swapped | 1 0 · 3 2 · 5 4 · 7 6 | the order of the tubes |
# | reversed | 7 6 · 5 4 · 3 2 · 1 0 | none |

# %%
frames = torch.arange(8.0).view(1, 1, 8, 1, 1)


def reorder(clip, order):
    """Clips (B, C, T, H, W) in one of the four orders of the table."""
    pairs = clip.unflatten(2, (-1, 2))            # (B, C, T/2, 2, H, W)
    if order in ("tubes reversed", "reversed"):
        pairs = pairs.flip(2)
    if order in ("frames swapped", "reversed"):
        pairs = pairs.flip(3)
    return pairs.flatten(2, 3)                    # (B, C, T, H, W)


agree("both steps reverse the clip", reorder(frames, "reversed"),
      frames.flip(2))
differ("one of them, and the clip reversed",
       reorder(frames, "tubes reversed"),
       frames.flip(2))

# %% [markdown]
# Do models respect the ceilings? In the rows `ceilings-motion` and `video-swin-without-order` models are **trained** on clips without order, so that they are used to such clips, and tested on the same kind. Four standard errors are allowed: many values are tested, and luck alone should stop none of them.

# %%
def highest(ceiling, n=2000):
    """A ceiling and four standard errors, in percent."""
    return 100 * (ceiling + 4 * math.sqrt(ceiling * (1 - ceiling) / n))


without_order = {}
for id in ("ceilings-motion", "video-swin-without-order"):
    for name in rows[id].recipes:
        order = rows[id].recipes[name].order
        for value in accuracies(id, name, order):
            if order != "normal":
                swin = "Video Swin, " if "swin" in id else ""
                key = (swin + name, order)
                without_order.setdefault(key, []).append(value)
for (name, order), values in without_order.items():
    most = highest(0.5 if order == "shuffled" else 0.125)
    within(f"{name}, at most {max(values):.1f} %",
           max(values), 0, round(most, 1), " %")

# %% tags=["figure"] alt="A row for each model that was trained without the order of frames, with a mark for each seed: those trained on shuffled frames lie below the dashed line at 50 %, those trained on single frames near the dashed line at 12.5 %."
ceilings = {"one frame": 12.5, "no order": 50}
called = {"shuffled": "shuffled", "single": "one frame repeated"}
show.orders({name: {called[order]: values}
             for (name, order), values in without_order.items()},
            ceilings, "Trained and tested without order")

# %% [markdown]
# A ceiling does not say how low a model may be. It may stay far below because it learns slowly, or because it cannot learn at all. That is why the row `ceilings-appearance` exists: the models of `ceilings-motion` (not Video Swin) on the same clips, but the label is the pattern of the background, which every frame shows.
#
# Both rows have a control that cannot read the order, whatever it learns: the **frame-average ViT**. It looks at each frame alone and averages what it found; then a norm and one linear layer answer. It has all frames without their order, so its ceiling is 50 %. On motion it has about 15 % (section 8). That it cannot compare frames *before* they are averaged is our guess at the reason.

# %%
for name in rows["ceilings-appearance"].recipes:
    order = rows["ceilings-appearance"].recipes[name].order
    for value in accuracies("ceilings-appearance", name, order):
        within(f"{name}, the background, {value:.1f} %",
               value, 85, 100, " %")

# %% [markdown] tags=["core"]
# ## 3 · One run proves nothing
#
# Two trainings that differ only in the seed differ in their first weights and in the order of the clips. How much does that change? The row `swin-shift-early` compares two variants of an image model; the windows of one shift, those of the other do not. Each was trained with the same three seeds:

# %%
early = "swin-shift-early"
first, second = [torch.tensor(accuracies(early, name),
                              dtype=torch.float64)
                 for name in rows[early].recipes]
for seed, a, b in zip(rows[early].seeds, first, second):
    print(f"seed {seed}: {a:.1f} % and {b:.1f} %,",
          f"difference {b - a:+.1f} points")

# %% [markdown]
# Had we run one seed, we would have published one of these three differences. So a result needs several seeds. And the seeds belong **together**: seed 1 is a good one for both variants here, seed 2 a bad one for both. Compare variants *inside* each seed, and that part of the luck cancels. These are [paired differences](glossary.md#paired-difference).
#
# The mean of *n* differences has an uncertainty of its own. With *s* their standard deviation (divided by *n* − 1), the 95 % interval is
#
# $$\bar d \pm t\,\frac{s}{\sqrt n}$$
#
# and *t* comes from Student's distribution with *n* − 1 degrees of freedom: 12.7 for two seeds, 4.3 for three, 2.8 for five, and 1.96 for very many. Few seeds cost twice: √*n* is small, and *t* is large because *s* itself is uncertain.
#
# ### Exercise 9.2 · A paired interval
#
# Difficulty 2/5 · importance 5/5 · 15 minutes
#
# `first` and `second` hold the accuracies of two variants, seed by seed. Return one tensor of two numbers, low and high: the ends of the 95 % interval of the mean difference, second minus first. `t` is given.

# %% tags=["exercise:9.2"]
def paired_interval(first, second, t):
    """Low and high end of the interval of the mean difference, (2,)."""
    raise NotImplementedError("exercise 9.2")

# %% tags=["check:9.2"]
paired_interval = check("9.2", paired_interval)

# %% [markdown] tags=["hints:9.2"]
# <details><summary>Hint 1: intuition</summary>
#
# First one number a seed: its difference. After that, the two variants are not needed any more.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `d = second - first`; half of the width is t times the standard deviation of d over √n; mean minus half, mean plus half
# </details>
# <details><summary>Symptom: the interval is much too wide</summary>
#
# Did you add the variances of the two variants? That forgets the pairs.
# </details>

# %% tags=["solution:9.2"]
def paired_interval(first, second, t):
    """Low and high end of the interval of the mean difference, (2,)."""
    d = second - first
    half = t * d.std() / math.sqrt(len(d))
    return torch.stack([d.mean() - half, d.mean() + half])


paired_interval = check("9.2", paired_interval, solution=True)

# %%
from vt_course.training.experiments.statistics import t_quantile

t = t_quantile(len(first) - 1)
low, high = paired_interval(first, second, t).tolist()
(pair,) = found[early]["comparisons"]
agree("your interval = that of the result file",
      torch.tensor([low, high]) / 100,
      torch.tensor([pair["low"], pair["high"]]))
error = math.sqrt((first.var() + second.var()) / len(first))
own = t_quantile(2 * len(first) - 2)
report(half_the_width_paired=f"{(high - low) / 2:.1f} points",
       as_if_unpaired=f"{t * error:.1f} points",
       unpaired_with_its_own_t=f"{own * error:.1f} points",
       contains_0=low <= 0 <= high)

# %% [markdown]
# The second line uses the same *t*, to show what the pairs take off the spread. But a test of unpaired samples has more degrees of freedom, 2*n* − 2, and so a smaller *t*: the third line. With three seeds, pairs win almost nothing here. They help more with more seeds, and where both variants have the same parts and so share their first weights.
#
# How often would **one seed** have turned a result round? Here are the comparisons of the course that have at least two seeds. (Two rows are left out: sections 4 and 9 ask you about them first.) `one seed`: the share of seeds in which the difference has the other sign than the mean of all. `other seeds`: the same, if each variant had been run with one seed of its own, as happens when a new variant is compared with an old run.

# %%
yet_to_predict = ("families-motion-tubes", "video-swin-inflation")
print(f"{'one seed':>9}{'other seeds':>13}   row, variant, mean")
for id, result in found.items():
    if id in yet_to_predict:
        continue
    for pair in result["comparisons"]:
        if pair["order"] != rows[id].test[0] or len(pair["seeds"]) < 2:
            continue
        mine = accuracies(id, pair["variant"], pair["order"])
        theirs = accuracies(id, pair["against"], pair["order"])
        mean, own = pair["mean"], pair["differences"]
        turned = sum(d * mean < 0 for d in own) / len(own)
        crossed = [(a - b) * mean < 0 for a, b in product(mine, theirs)]
        print(f"{turned:9.0%}{sum(crossed) / len(crossed):13.0%}",
              f"  {id}, {pair['variant']}, {100 * mean:+.1f}")

# %% [markdown]
# Large effects survive any seed. Small ones do not, and no care in the rest of the work helps against that. A difference whose interval contains 0 is no result yet, whichever way it points. The smaller the difference, the more seeds it needs.

# %% [markdown] tags=["core"]
# ## 4 · One row, here and now
#
# You need not believe the files. The row `families-motion-tubes` only *tests*, and the package contains the weights of one seed of each family. So you can make a part of the row yourself, on the validation clips. (The files hold the test clips, five times as many.)
#
# Notebook 01, section 9, has shown Video Swin: it reads the direction inside its tubes. **Predict** for the other four families, before you run on: which of the two orders, tubes reversed or frames swapped, hurts more? The tokens of MViT, MViTv2 and UniFormer cover two frames, too, and reach one frame into the tube before. Those of TimeSformer cover one.
#
# The fifth order is your exercise 9.1. May a mark of it lie beyond 50 %?

# %%
FAMILIES = {"Video Swin": "video_swin_mini", "MViT": "mvit_mini",
            "MViTv2": "mvit_v2_mini", "TimeSformer": "timesformer_mini",
            "UniFormer": "uniformer_mini"}
ORDERS = ("in order", "tubes reversed", "frames swapped", "reversed",
          "shuffled")
count = 100 if PROFILE == "smoke" else 400
_, held_out = open_data(recipe_for("video_swin_mini"))
# (count, 3, 8, 32, 32)
clips = torch.stack([held_out[i]["clip"] for i in range(count)])
labels = torch.tensor(held_out.labels[:count])


@torch.no_grad()
def answers(model, clips):
    """The predicted class of each clip."""
    parts = [model(part).argmax(1) for part in clips.split(50)]
    return torch.cat(parts)


shipped = {}
for family, name in FAMILIES.items():
    shipped[family] = create(name, num_classes=8).eval()
    weights = load_file(mini_weights(name))
    _ = shipped[family].load_state_dict(weights)

# %%
here = {family: {} for family in FAMILIES}
moved = {order: reorder(clips, order) for order in ORDERS}
moved["shuffled"] = shuffle_frames(clips, range(count), seed=0)
for family, order in product(FAMILIES, ORDERS):
    said = answers(shipped[family], moved[order])
    here[family][order] = {
        "right": 100 * (said == labels).float().mean().item(),
        "partner": 100 * (said == (labels ^ 1)).float().mean().item()}

# %% tags=["figure"] alt="A row for each family with five marks: frames in order at the right for all; for Video Swin reversed tubes lie at the right and swapped frames at the left; for the other families it is the other way round; shuffled frames lie between the two dashed lines or near the right one."
show.orders({family: {order: [each[order]["right"]] for order in ORDERS}
             for family, each in here.items()}, ceilings,
            f"The shipped weights on {count} held-out clips")

# %% [markdown]
# Does it agree with the files? They have other clips, so a difference of four standard errors is allowed, and at least 4 points. Weights count only if they come from a run of the row: the TimeSformer that ships was trained for twice as many steps. (The expectation of `families-motion`, in section 11, was written before its weights were replaced, and speaks of the older ones.)

# %%
from vt_course.training.checkpoint import load_run

names = {"in order": ("families-motion", "normal"),
         "reversed": ("families-motion", "reversed"),
         "tubes reversed": ("families-motion-tubes", "tubes-reversed"),
         "frames swapped": ("families-motion-tubes", "frames-swapped"),
         "shuffled": ("families-motion", "shuffled")}
of_the_row = [
    family for family, name in FAMILIES.items()
    if load_run(mini_weights(name))[1]
    == rows["families-motion"].recipes[family]]          # seed 0
print("from a run of the row:", ", ".join(of_the_row))
for family, order in product(of_the_row, ORDERS):
    id, test = names[order]
    for filed in accuracies(id, family, test)[:1]:
        p = filed / 100
        room = max(400 * math.sqrt(p * (1 - p) / count), 4)
        low, high = max(filed - room, 0), min(filed + room, 100)
        within(f"{family}, {order}, filed {filed:.1f} %",
               here[family][order]["right"],
               round(low, 1), round(high, 1), " %")
within("the highest with shuffled frames",
       max(each["shuffled"]["right"] for each in here.values()),
       0, round(highest(0.5, count), 1), " %")

# %% [markdown] tags=["answer"]
# The ceiling holds on average over all clips. On these few, luck may lift a model that knows every pair above 50 %. The last line allows four standard errors.

# %% [markdown] tags=["core"]
# ## 5 · Inside tubes, or between them?
#
# If a model answers with the *partner*, it has read the opposite direction. So the wrong answers tell something, too.

# %%
for family, order in (("Video Swin", "frames swapped"),
                      ("MViT", "tubes reversed")):
    within(f"{family}, {order}, answered with the partner",
           here[family][order]["partner"], 85, 100, " %")
for family, order in (("Video Swin", "tubes reversed"),
                      ("MViT", "frames swapped")):
    within(f"{family}, {order}, right",
           here[family][order]["right"], 85, 100, " %")
for family in ("Video Swin", "MViT"):
    id, order = names["frames swapped"]
    values = accuracies(id, family, order)
    print(f"{family}, frames swapped, each seed: {told(values)}")

# %% [markdown]
# So these two networks, which are equally good with frames in order, read opposite things. Video Swin does not notice that the tubes come in the wrong order. It notices when the two frames of each tube are swapped, and then sees the opposite motion. MViT reads the order of its tokens and hardly looks at the order inside the pairs. (The weights that ship are those of the first seed. The last lines above have the test clips of all seeds: for MViT, the first is the clearest.)
#
# **Question.** Which layer of Video Swin can tell frame 0 from frame 1 inside a tube? Does its attention, with windows, shift and bias, read the order of frames at all?

# %% [markdown] tags=["answer"]
# <details><summary>Answers</summary>
#
# Only the patch embedding sees the two frames apart: a convolution of 2 × 4 × 4 pixels with one weight for each. After it, a tube is one token. The attention of this trained model hardly uses the order of the tokens in time: reversed tubes leave its accuracy as it was. It may still combine what the tubes tell. That is a statement about this small network on these clips, where the two frames of a tube are 3 video frames apart. It is not one about Video Swin on Something-Something.
# </details>

# %% [markdown]
# ### Exercise 9.3 · What the swap takes
#
# Difficulty 1/5 · importance 3/5 · 10 minutes
#
# A number for the figure: of what a family reads above chance with frames in order, which share does the swap inside the tubes take away?
#
# `in_order` and `swapped` hold the shares of clips that are right, from 0 to 1: tensors with one number for each seed. `chance` is 1/8. Average each over the seeds first. Then return (in order − swapped) / (in order − chance). A model that falls to chance loses 1; one that then sees the opposite loses more than 1.

# %% tags=["exercise:9.3"]
def lost_inside(in_order, swapped, chance):
    """The share that is lost, a number."""
    raise NotImplementedError("exercise 9.3")

# %% tags=["check:9.3"]
lost_inside = check("9.3", lost_inside)

# %% [markdown] tags=["hints:9.3"]
# <details><summary>Hint 1: intuition</summary>
#
# Above a fraction bar: what is gone. Below: what was there, counted from chance.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# two means; a difference; divide by the first mean minus chance
# </details>
# <details><summary>Symptom: the case with seeds near chance fails</summary>
#
# A share of each seed, averaged afterwards, is another number: a seed near chance divides by almost nothing.
# </details>

# %% tags=["solution:9.3"]
def lost_inside(in_order, swapped, chance):
    """The share that is lost, a number."""
    before, after = in_order.mean(), swapped.mean()
    return (before - after) / (before - chance)


lost_inside = check("9.3", lost_inside, solution=True)

# %% [markdown]
# The same number for reversed tubes says what is lost *between* tubes. Both come from the test clips of all seeds, in the files.

# %%
def measured(family, order):
    """Accuracies in order and in this order, one for each seed."""
    both = [accuracies(id, family, test)
            for id, test in (names["in order"], names[order])]
    seeds = min(map(len, both))
    return [torch.tensor(values[:seeds], dtype=torch.float64) / 100
            for values in both]


inside, between = {}, {}
for family in FAMILIES:
    for part, order in ((inside, "frames swapped"),
                        (between, "tubes reversed")):
        lost = lost_inside(*measured(family, order), 1 / 8)
        part[family] = float(lost)
    print(f"{family}: {inside[family]:.0%} lost inside tubes,"
          f" {between[family]:.0%} between")
within("Video Swin, lost inside", inside["Video Swin"], 0.9, 1.2)
within("Video Swin, lost between", between["Video Swin"], -0.1, 0.2)
within("MViT, lost inside", inside["MViT"], -0.1, 0.5)
within("MViT, lost between", between["MViT"], 0.7, 1.2)

# %% tags=["figure"] alt="A row for each family with two marks, the share that is lost when frames are swapped inside tubes and when tubes are reversed: for Video Swin the first is near 100 and the second near 0, for MViT the other way round."
show.orders({family: {"frames swapped": [100 * inside[family]],
                      "tubes reversed": [100 * between[family]]}
             for family in FAMILIES}, {},
            "How much is lost of what stands above chance", "share, %")

# %% [markdown]
# **Questions.** 1. Which families read the order inside tubes, and which between them? 2. TimeSformer is the control: its tokens cover one frame, so a tube is nothing for it. Yet a swap is not the same for it as a reversal. Why? 3. Was the expectation of section 1 right?

# %% [markdown] tags=["answer"]
# <details><summary>Answers</summary>
#
# 1. Inside: Video Swin, nearly all of it. Between: MViT and MViTv2, and TimeSformer. UniFormer lies between the two groups, nearer to the second: its tokens reach into the tube before, and so see the step from one tube to the next as well.
# 2. The swap turns 4 of the 28 pairs of frames round, and the large steps of the motion stay. The reversal of tubes turns the other 24.
# 3. On average over the seeds, for all families but one. We expected that each family keeps more than 50 % with swapped frames. Video Swin does the opposite. The expectation stays in the file as it was.
# </details>

# %% [markdown] tags=["core"]
# ## 6 · Many ablations, one of them good
#
# An interval of 95 % misses the truth in 5 of 100 cases. That is little for one comparison. A paper has many. Suppose that none of *n* changes does anything:

# %%
for n in (1, 5, 20):
    print(f"{n:2} comparisons: at least one is decided by luck with"
          f" probability {1 - 0.95**n:.0%}")

# %% [markdown]
# (1 − 0.95ⁿ needs independent comparisons. The variants of one row share their reference, and so a part of their luck; the probability is then smaller.)
#
# Let us watch luck at work. We make up papers with 20 ablations each. In each ablation both variants come from the *same* distribution, with five seeds and a standard deviation of 3 points, and the paper claims an improvement.

# %%
def made_up_paper(rng):
    """20 changes that change nothing, as lines of a figure."""
    lines = []
    for n in range(20):
        a, b = torch.from_numpy(80 + 3 * rng.standard_normal((2, 5)))
        low, high = paired_interval(a, b, t_quantile(4)).tolist()
        lines.append({"label": f"change {n + 1}", "claimed": 1,
                      "mean": (low + high) / 2,
                      "low": low, "high": high,
                      "verdict": verdicts.verdict(1, low, high)})
    return lines


rng = np.random.default_rng(0)
papers = [made_up_paper(rng) for _ in range(200)]
lucky = [lines for lines in papers
         if any(line["verdict"] == "agrees" for line in lines)]
decided = [lines for lines in papers
           if any(line["verdict"] != "undecided" for line in lines)]
report(papers=len(papers), with_a_decided_change=len(decided),
       with_an_improvement=len(lucky))

# %% tags=["figure"] alt="Twenty intervals of changes that do nothing, around 0; at least one lies wholly above 0 and is marked as agreeing with the claim, most contain 0."
show.intervals(lucky[0], "Twenty changes that change nothing")

# %% [markdown]
# This is the first of the lucky papers, and it was easy to find. Whoever shows only its best line has a "significant" improvement. Other ways to the same end, all of them common:
#
# - **The best seed.** The best of 5 runs lies on average 1.16 standard deviations above the mean. Variants with more runs look better.
# - **The best epoch on the test clips.** It is a choice among 40 numbers, one for each epoch. The rows here test the *last* weights.
# - **More seeds until it is decided.** Each look is a new chance for luck. The number of seeds stands in the row before the first run.
# - **A new expectation.** "As we expected" is easy to write afterwards.
# - **The other metric.** Of accuracy, loss, calibration and speed one will have improved.
#
# The remedy is dull: write down the question, the variants, the seeds and the test before; show all of it after.

# %% [markdown] tags=["core"]
# ## 7 · Agrees, disagrees, undecided
#
# A paper says: with this change, the accuracy is lower. Our models are hundreds of times smaller, our clips are drawn, our trainings short. It would be silly to compare sizes. The **sign** can be compared, and the rule must be fixed before one looks:
#
# - *agrees*: our 95 % interval lies on the side of the paper's difference;
# - *disagrees*: it lies on the other side; or the paper says "no difference", and it lies on either side;
# - *undecided*: it contains 0.
#
# A claim of no difference can be contradicted, never confirmed: a small difference may hide in any interval.
#
# ### Exercise 9.4 · The verdict
#
# Difficulty 2/5 · importance 4/5 · 10 minutes
#
# `low`, `high` and `predicted` have one entry for each comparison; `predicted` is 1 (higher), −1 (lower) or 0 (no difference). Return 1 for agrees, −1 for disagrees, 0 for undecided, as integers.

# %% tags=["exercise:9.4"]
def judge(low, high, predicted):
    """1 agrees, -1 disagrees, 0 undecided: integers, (n,)."""
    raise NotImplementedError("exercise 9.4")

# %% tags=["check:9.4"]
judge = check("9.4", judge)

# %% [markdown] tags=["hints:9.4"]
# <details><summary>Hint 1: intuition</summary>
#
# Which sign has the whole interval: 1, −1, or none? Only then compare with the prediction.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `sign = (low > 0).int() - (high < 0).int()`; where it is 0: 0; else 1 where it equals the prediction, −1 where not
# </details>
# <details><summary>Symptom: an end at exactly 0</summary>
#
# Such an interval contains 0.
# </details>

# %% tags=["solution:9.4"]
def judge(low, high, predicted):
    """1 agrees, -1 disagrees, 0 undecided: integers, (n,)."""
    sign = (low > 0).long() - (high < 0).long()
    matches = torch.where(sign == predicted, 1, -1)
    return torch.where(sign == 0, 0, matches)


judge = check("9.4", judge, solution=True)

# %% [markdown]
# Your rule and the package's, on every comparison with a claim that has been run:

# %%
words = {1: "agrees", -1: "disagrees", 0: "undecided"}
table = verdicts.table(list(rows.values()))
claims = [line | {"label": f"{entry['id']}: "
                  + verdicts.told_pair(rows[entry["id"]], line),
                  "claimed": verdicts.sign(line["claimed"])}
          for entry in table for line in entry["comparisons"]
          if line["low"] is not None
          and verdicts.sign(line["claimed"]) is not None]
yours = judge(*[torch.tensor([float(line[key]) for line in claims])
                for key in ("low", "high", "claimed")])
same = [words[int(said)] == line["verdict"]
        for said, line in zip(yours, claims)]
report(comparisons=len(claims), the_same_verdict=all(same))

# %% tags=["figure"] alt="Two panels with the same lines, one for each difference for which a paper states a sign, with its interval of 95 %: on the left all of each line, on the right the part from −5 to 5 points; colour and marker say whether it agrees with the paper, disagrees or is undecided, and a triangle beside the border shows the paper's direction."
show.intervals([line for line in claims
                if not line["label"].startswith(yet_to_predict)],
               "Differences, and the direction the paper claims",
               near=5)

# %% [markdown] tags=["core"]
# ## 8 · Which model would you choose?
#
# A user does not ask which paper is right, but what an accuracy costs. The row `families-motion` has all families in one regime: the same clips, the same 4,000 steps, from scratch. The time and the memory of a clip, forward and backward, were measured on one core of a CPU, where the models took turns (`vt-course bench minis`). Dashed: the two ceilings.

# %% tags=["figure"] alt="One row for each family: marks for the accuracy with frames in order, shuffled, in reverse and one frame repeated, dashed lines at 12.5 % and 50 %, and bars for parameters, multiply-accumulates and memory."
show.families()

# %%
from vt_course.models import ZOO
from vt_course.models.cost import count_macs

points, company = {}, set()
for name, variant in found["families-motion"]["variants"].items():
    model = rows["families-motion"].recipes[name].model
    with torch.device("meta"):
        macs = count_macs(create(model), (1, *ZOO[model].input))
    seconds = [run["seconds"] for run in variant["runs"]]
    company |= {run["jobs"] for run in variant["runs"]}
    if seconds:
        points[name] = {"top1": accuracies("families-motion", name),
                        "macs": macs / 1e6, "seconds": min(seconds)}
print("trainings at the same time on the two cores:",
      " or ".join(map(str, sorted(company))))

# %% tags=["figure"] alt="Two panels of accuracy against cost with a mark for each seed: against multiply-accumulates and against seconds of training; the frame-average ViT lies far below the others in both."
show.tradeoff(points, "Accuracy and cost on motion")

# %% [markdown]
# Read the right panel with care. A training used one core. Another one, or other work, often ran on the second, so these seconds are too long, and not equally so. For each family the quickest seed is drawn. A fair comparison needs a quiet machine; `vt-course bench models` makes one. Multiply-accumulates are exact, but they are not time: many small operations cost more than one large one with as many products.
#
# Four families are right about 99 % of the clips or more, on average over the seeds. Between them the cost decides: Video Swin needs the fewest multiply-accumulates. But section 5 shows that it reads the order only inside its tubes. The control, a ViT that averages over frames, cannot read the order at any cost.
#
# **Question.** Your motions are slow: two neighbouring frames look alike. Which family do you try first, and which experiment would you run before?

# %% [markdown] tags=["answer"]
# <details><summary>Answers</summary>
#
# One of those that read the order between tubes; UniFormer costs least among them. But Video Swin may have read inside its tubes only because that was enough here. So the experiment compares these two on clips with less motion between frames, for instance with `stride: 1` in place of 3: several seeds, an expectation with numbers, and the orders of section 4 at test. If Video Swin now reads between its tubes, its lower cost decides again.
# </details>

# %% [markdown] tags=["deep-dive"]
# ## 9 · From an image model
#
# Video Swin, TimeSformer and UniFormer start from image models. The row `video-swin-inflation` asks what such a start is worth here. It starts Video Swin from an image model that learned the backgrounds of single frames, inflated in two ways (notebook 04, sections 8 and 9), and from random weights. *Average* gives both frames of a tube the same weights; *centre* gives all weights to one time step.
#
# **Predict** before you run on. Which start reaches 85 % of the validation clips soonest? Do the three differ at the end? What we expected ourselves stands in `experiments.yaml`.

# %%
learned, each_seed, soonest = {}, {}, {}
starts = found["video-swin-inflation"]["variants"]
for name, variant in starts.items():
    curves = torch.tensor([run["val_top1"] for run in variant["runs"]])
    mean = 100 * curves.mean(0)                   # (epochs,)
    learned[f"{name}, mean of {len(curves)} seeds"] = mean
    each_seed[f"{name}, mean of {len(curves)} seeds"] = 100 * curves
    above = (mean >= 85).nonzero()
    soonest[name] = int(above[0]) + 1 if len(above) else "never"
for name, epoch in soonest.items():
    print(f"{name}: the mean of the seeds reaches 85 %"
          f" at epoch {epoch}")
id = "video-swin-inflation"
for name in starts:
    print(f"{name}, test clips: {told(accuracies(id, name))}")
(entry,) = [entry for entry in table if entry["id"] == id]
print("differences from the first, in points:")
for line in entry["comparisons"]:
    undecided = line["low"] <= 0 <= line["high"]
    print("   ", verdicts.told_difference(rows[id], line),
          "undecided" if undecided else "decided", sep="  ")

# %% tags=["figure"] alt="Validation accuracy over 40 epochs, the mean of the seeds and a thin line for each: the mean of the random start leaves chance first, rises fastest and ends near 100 %; those of the two inflated starts rise later and more slowly and end lower."
show.curves(learned, "validation accuracy, %",
            "Video Swin from an image model, a thin line for each seed",
            single=each_seed)

# %% [markdown]
# We were wrong. On average, both inflated starts stay at chance for longer than the random one. Then they learn more slowly, and they end lower. (Whether the difference at the end is decided by the rule of section 7 stands in the last lines above: it is not where the interval contains 0.)
#
# Does that refute the papers? No. Their image model knows objects, and an object often tells the action. Ours knows patterns, which tell nothing about the motion here. Perhaps the start brings weights that the new label does not need, and 4,000 steps are too few to lose them. This is our explanation, not a result. The row `finetune-other-label` found the same the other way round: weights that read motion hinder the learning of patterns. A start from an image model that knows the *shapes* would test the explanation. That is not run.
#
# Of the two inflations, the paper finds no difference. Ours stands above, too.

# %% [markdown] tags=["core"]
# ## 10 · An experiment of your own
#
# Three steps, in this order. **Predict**: which sign has the difference, and why? **Run**: with the same seeds for both. **Judge**: by the rule of section 7.
#
# The change below is yours to replace. It must be *one* thing; whatever else differs explains the result as well. Settings to try: `{"relative_bias": False}`, `{"window": [1, 4, 4]}`, `{"shift": [False, True, True]}`, `{"patch": [1, 4, 4]}`; notebook 04 explains them. In `smoke` a run has four steps on 32 clips, which is enough to see that everything works and too little to learn anything.

# %%
from dataclasses import replace

CHANGE = {"shift": False}      # settings of video_swin_mini
PREDICTED = -1                 # 1 higher, -1 lower; 0, no difference,
#                                can never agree (section 7)
SEEDS = {"smoke": (0, 1), "lecture": (0, 1, 2),
         "full": (0, 1, 2, 3, 4)}[PROFILE]

# %%
import tempfile
from pathlib import Path

from vt_course.data import open_spec
from vt_course.data.clips import read_manifest
from vt_course.training.experiments.worker import train_and_test


def few_clips(folder, sizes=(("train", 32), ("val", 32))):
    """A spec of some of the embedded clips."""
    for split, count in sizes:
        manifest = getattr(open_spec("synthetic:motion"), split)
        lines = [f"{row['path']},{row['label']},,"
                 for row in read_manifest(manifest)[:count]]
        text = "\n".join(["path,label,start,end", *lines, ""])
        path = Path(folder) / f"{split}.csv"
        path.write_text(text, encoding="utf-8")
    return f"csv:{folder}/train.csv,{folder}/val.csv"


kept = tempfile.TemporaryDirectory(prefix="vt_course_09_")
recipe = recipe_for("video_swin_mini")
if PROFILE == "smoke":
    recipe = replace(recipe, data=few_clips(kept.name), epochs=2)
if PROFILE == "lecture":
    recipe = replace(recipe, epochs=2)

# %%
def top1(config, seed):
    """Train with these settings and this seed; percent right."""
    made = train_and_test(replace(recipe, config=config, seed=seed),
                          ["normal"], None)
    return 100 * made["top1"]["normal"]


reference = torch.tensor([top1({}, seed) for seed in SEEDS])
changed = torch.tensor([top1(CHANGE, seed) for seed in SEEDS])
kept.cleanup()

# %%
t = t_quantile(len(SEEDS) - 1)
low, high = paired_interval(reference, changed, t)
said = judge(low[None], high[None], torch.tensor([PREDICTED]))
print("differences in points:",
      *[f"{d:+.1f}" for d in (changed - reference).tolist()])
print(f"interval: {low:+.1f} to {high:+.1f}, {words[int(said)]}",
      "" if PROFILE == "full" else "(too short a training to judge)")

# %% [markdown]
# To keep an experiment, make it a row of `experiments.yaml`, with its expectation, and run `vt-course experiments --only ID`. It can be stopped and goes on, it refuses a change that changes nothing, and it writes the result file that this notebook reads. `vt-course experiments --verify ID` makes one recorded run of any row again and compares.

# %% [markdown] tags=["core"]
# ## 11 · The claims of the papers
#
# One entry for each row. *claim*: the paper's differences from the first variant, and, where the paper also ranks two other variants, their difference. *expected*: what we wrote before the first run of the row. *here*: ours in points with the 95 % interval, on test clips with frames in order. Where no paper claims anything, *here* gives accuracies in percent.

# %%
from textwrap import wrap


def lines_of(entry):
    """The lines below the title of an entry, by what they tell."""
    yield "claim", entry["claim"].split("; ")
    if entry["here"]:
        expectation = rows[entry["id"]].told["expectation"]
        yield "expected", wrap(expectation, 90)
        yield "here", entry["here"].split("; ")


for entry in table:
    source = ("no paper" if entry["paper"] == "none"
              else f"{entry['paper']}, {entry['table']}")
    print(f"{entry['id']} · {source} · {entry['verdict'].upper()}"
          f" ({entry['state']})")
    for key, lines in lines_of(entry):
        for n, line in enumerate(lines):
            print(f"    {'' if n else key:10}{line}")

# %%
counts = {}
for entry in table:
    counts[entry["verdict"]] = counts.get(entry["verdict"], 0) + 1
report(rows=len(table), **dict(sorted(counts.items())))
assert len(table) == len(rows)

# %% [markdown]
# Some rows need a word. Their accuracies, in percent, one for each seed:

# %%
for id in ("timesformer-attention", "timesformer-positions-motion",
           "timesformer-positions-appearance", "video-swin-window-16",
           "mvit-positions", "video-swin-shift-axes"):
    print(id)
    for name, order in product(rows[id].recipes, rows[id].test):
        if order != "tubes-reversed":
            print(f"    {name}, {order}:",
                  told(accuracies(id, name, order)))

# %% [markdown]
# - **swin-shift-and-bias** is undecided as a row, but one of its three comparisons is decided: without the shift Swin loses 10.0 points, as in the paper (notebook 03, section 13).
# - **timesformer-attention.** In the paper joint attention is about as good as divided. Here it stays below 50 % in every seed, and shuffled frames cost it at most 2 points: it knows the pairs of motions and not yet their direction. We had expected the two within 10 points. The sign agrees. The size may tell only how fast a scheme learns. A training of joint attention for five times as many steps would test that. It is not run. Space attention ends near chance, as expected.
# - **timesformer-positions-appearance** disagrees: without any position the accuracy is a little *higher*, in every seed. One of the intervals begins at +0.2 points. Among all the comparisons of section 7 such a result may be luck. More seeds would tell. The patterns of the backgrounds look the same everywhere, so a place tells nothing about them. That a useless table also harms a short training is our guess, and not tested.
# - **timesformer-positions-motion** is undecided, because of one of its three comparisons. Without a position in time, both variants lie near 50 %, the ceiling without order. So the table cannot show a difference between them. Both lie far below the reference, as the paper says. For *none* we had expected 15 to 30 %; notebook 06, section 10, shows what we forgot.
# - **families-appearance** has no claim, though its expectation quotes 7.1 points of MViT's table 9. That number compares two orders of frames for one model. This table compares two variants with frames in order.
# - **video-swin-window-16.** With P = 1 no attention crosses time, and every seed is still right about 97 % of the clips or more. We had expected at least 5 points less than P = 2. With swapped frames every variant falls below 10 %. Both intervals are wide because one seed of P = 2 ends at 87 %.
# - **mvit-positions** is undecided and saturated: with and without embeddings, MViT is right about nearly every clip.
# - **video-swin-inflation**: section 9.
# - **uniformer-stages** disagrees by a hair: with all stages local the accuracy is 0.7 points *higher*, and the interval begins at 0.0. In the paper it is lower. All variants are near 100 %, so this task does not ask for what global stages are good at.
# - **video-swin-shift-axes** shows what a mean hides. Without the shift, some seeds lose nothing and the second loses much: it stays at chance for longer and has not caught up at the end. That this network reads the motion inside its tubes, before any window (section 5), fits the seeds that lose nothing.

# %% [markdown]
# How to read it:
#
# - **One row is one claim.** A row agrees only if each of its comparisons with a claim agrees, and disagrees if one does.
# - **Undecided is a result**: what the change does is too small for these seeds. It is not "no effect".
# - **Disagrees is a result, too.** It does not refute the paper. It says that the effect depends on data, size or training, and asks which.
# - **Saturated**: where the reference has nearly 100 %, a change can only hurt. A harder task would be needed to see it help.
# - Effects too small to decide at this scale are not trained at all: kinds of pooling, the stride of keys and values, the sizes of tubes, single changes of MViTv2, the order of the two steps of divided attention, axial and local-global attention. Their **costs** are measured in notebooks 02 to 07.

# %% [markdown] tags=["deep-dive"]
# ## 12 · A project for a class
#
# **Take the tubes away: does attention now read the order?** Section 5 found a network whose attention had no need to read the order of tokens, because the patch embedding does it. `patch: [1, 4, 4]` gives Video Swin tokens of one frame, eight time steps instead of four. All the order then has to be read by windows, shift and bias. Two to four people, two weeks, a laptop.
#
# 1. Write a row for `experiments.yaml`: the reference, the variant without tubes, and at least one more that tells *which* part reads the order (no shift in time, no bias, P = 1 or P = 4). Five seeds. `test: [normal, shuffled, tubes-reversed, frames-swapped]`.
# 2. Write the expectation, with numbers, and have another group sign it.
# 3. Run it. A variant has eight time steps, so it costs about twice as much; say what else that changes.
# 4. Judge by the rule of section 7, then write one page.
#
# | | 0 | 1 | 2 |
# |---|---|---|---|
# | question | none, or several at once | one, not testable | one, and a result that would refute it |
# | variants | differ in several things | differ in one thing, cost not considered | differ in one thing; what changes with it (tokens, MACs) is measured |
# | expectation | written afterwards | a direction | numbers, written before, with a reason |
# | control | none | a ceiling is named | a control without a leak, and a second label that shows that the model can learn |
# | seeds | one | several, compared unpaired | at least five, paired, all shown |
# | judgement | by the mean | by an interval | by the rule fixed before; undecided is called so |
# | honesty | the best runs | all runs | all runs, what failed, what was tried first, and what would decide it |
#
# `vt-course experiments --list` shows what is done, the result file has every run, and `--verify` lets the other group check one of them.

# %% [markdown]
# ## What is scaled down, and what was left out
#
# - Small networks, drawn clips of 32 × 32 pixels, 4,000 steps. A sign that agrees here is weak support for a claim at full scale; one that disagrees is a question.
# - The intervals assume that differences over seeds are about normally distributed. With three to five of them nobody can check that.
# - The clips are the same for all seeds. A new set of clips would be another source of luck, which the intervals leave out.
# - No correction for many comparisons is made in the table. Of 20 changes that change nothing, one is decided by luck on average.
#
# ## Summary
#
# - A ceiling that is calculated beats any baseline: one frame 12.5 %, no order 50 %.
# - A control must not leak: each clip gets an order of its own. And it needs a second label that shows that the model can learn.
# - Orders inside and between tubes tell which part of a model reads time. Two networks with equal accuracy may read opposite things.
# - Same seeds for both variants, differences inside each seed, an interval with Student's *t*.
# - Write before you run: question, variants, seeds, expectation, rule. Show everything after.
#
# ## Questionnaire
#
# 1. A model has 53 % on 2,000 clips with shuffled frames. Does the control leak? What if it has 58 %?
# 2. Why do all clips need different orders in the control, if each single order already destroys the motion for a viewer?
# 3. A model has the same accuracy with frames in order and in reverse, 80 %. What does it read? On our motions, can that happen?
# 4. Two variants, two seeds, differences of +4 and +6 points. Is that decided?
# 5. Your interval is [−0.4, +0.6] points. What may you write, and what not?
# 6. A paper reports ten ablations, each with one seed. Which do you believe?

# %% [markdown] tags=["answer"]
# <details><summary>Answers</summary>
#
# 1. 53 % lies 2.7 standard errors above 50 %. That is within our limit of four (section 2), but suspicious: test more clips. 58 % lies 7 above: it leaks.
# 2. A fixed order can be learned like a script; then nothing is hidden, and the ceiling is 100 % (section 2).
# 3. Something that is the same in both directions: the pair at most, or single frames. On our motions such a model cannot exceed 50 %, because the reversed clip has the other label (section 2).
# 4. No. The mean is 5, s is 1.41, and t is 12.7 for two seeds: 5 ± 12.7 contains 0 (section 3).
# 5. That the difference lies between −0.4 and +0.6 points with 95 % confidence, and is undecided. Not that there is none (section 7).
# 6. Those whose effect is much larger than what a seed changes, if the paper tells that anywhere. For the others, one seed of a small effect is close to a coin (sections 3 and 6).
# </details>

# %% [markdown]
# **Next:** [10 · Paper companion](10_paper_companion.ipynb) has the claims of all papers beside what the course found: numbers of parameters, costs, equality with the official code, and the differences of section 11.
