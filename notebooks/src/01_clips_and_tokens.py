# %% [markdown]
# # 01 · Clips and tokens: from a video file to what a transformer sees
#
# *The first step of Swin ([2103.14030](https://arxiv.org/abs/2103.14030)), Video Swin ([2106.13230](https://arxiv.org/abs/2106.13230)),
# MViT ([2104.11227](https://arxiv.org/abs/2104.11227)), TimeSformer ([2102.05095](https://arxiv.org/abs/2102.05095)) and
# UniFormer ([2201.04676](https://arxiv.org/abs/2201.04676)).*
#
# A ten-second video holds 300 frames. A model sees 8 to 96 of them, cut into 1,500 to 50,000 tokens. By the end of this notebook you have written every step
# from the file to the tokens: which frames, which rectangle of them, which numbers, which token. On the same weights, your cut gives the same tokens as the
# course's own models. The last section takes a trained model and finds out where it
# reads the direction of time.
#
# | | |
# |---|---|
# | **Needs** | PyTorch: shapes, `reshape`, `permute`, a convolution |
# | **Data** | the embedded clips: `vt-course data synthetic`, once (`make course` and `make lab` do it) |
# | **Time** | core 2 hours with the exercises, deep dives half an hour more; to run it on two quiet cores: 10 to 20 seconds (`smoke`), 10 to 25 (`lecture`, `full`) |
# | **Hardware** | a laptop CPU; it takes 0.8 to 1.5 GB of memory |
#
# **You will be able to**
#
# 1. read frames of a video, and say what can be wrong with a file or with a decoder (section 1, questions 8 and 9);
# 2. compute the frames that each paper picks, dense or uniform, and the seconds they cover (exercises 1.1 and 1.2, questions 1 and 2);
# 3. list the views of a test, and say how their scores are averaged and what that costs (exercise 1.3, question 3);
# 4. normalise as the weights expect it, and recognise a BGR or 0..255 mistake (question 4, the bug to hunt);
# 5. cut images and clips into tokens, and check that cut + linear layer = strided convolution (exercises 1.4 to 1.6, questions 5 and 6);
# 6. say how much time resolution each model keeps, and what a tube of two frames can still tell (question 7, the small experiment).
#
# Sections 1 to 6 and 9 are the core. Sections 7 and 8 are deep dives: they can wait for a second reading, and question 6 with them.
#
# "**Predict**" asks you to write an answer down before you run the cell.

# %% tags=["parameters"]
# smoke: section 9 on 160 clips; lecture, full: on 400, so that the
# error bars of its figure are a third shorter
PROFILE = "smoke"

# %%
import tempfile
from itertools import product
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from vt_course import data_root
from vt_course.data import clips as package, transforms
from vt_course.data.decoders import decoder_fault
from vt_course.data.reader import BadClip, ClipReader
from vt_course.lab import show
from vt_course.lab.check import check
from vt_course.lab.report import agree, differ, report, within

_ = torch.manual_seed(0)

# %% [markdown]
# Four helpers print what is the same on every machine. `report` prints shapes and counts. `agree` stops the notebook unless two tensors match
# everywhere, and prints the bound that it checked (times |x| for numbers x above 1). `differ` is the opposite test: it stops unless the two tensors are clearly different, and its line begins with ≠. `within` checks that a number lies in an interval.

# %% [markdown] tags=["core"]
# ## 1 · From a file to numbers
#
# The course brings 2,000 small videos. They are drawn, not filmed: a coloured shape on a patterned background moves, grows or turns. What leaves the picture on one side comes in on the other.
# Files, codec and reader are the real ones. Here is one video, with the label "right":

# %%
folder = data_root() / "synthetic"
rows = package.read_manifest(folder / "motion_val.csv")
path = next(r["path"] for r in rows if r["path"].endswith("00101.mp4"))
video = ClipReader(path)
# (T, H, W, 3)
frames = torch.from_numpy(video.read(range(video.num_frames)))
report(frames=frames.shape, type=str(frames.dtype),
       rate=f"{video.fps:g} a second")

# %% tags=["figure"] alt="An animation: a flower with a white border, coloured like a rainbow, moves to the right over a dark cloudy background, leaves the picture and comes in again on the other side."
show.play(frames, fps=video.fps)

# %% tags=["figure"] alt="Five of 32 frames in a row: the flower moves from left to right; in the first and in the last one it is cut by the border."
show.film_strip(frames, n=5, width=7,
                title="The same, standing still: five of 32 frames")

# %% [markdown]
# ### What a decoder gives
#
# `ClipReader` reads with [PyAV](https://github.com/PyAV-Org/PyAV), which is FFmpeg in Python. Most repositories of video models use
# [decord](https://github.com/dmlc/decord). Such a library, which turns a file into pixels, is a [**decoder**](glossary.md#decoder). A few calls of decord are enough, and the pixels are the same:

# %%
missing = decoder_fault("decord")
if missing:
    print(missing, "Without it, decord's cells show nothing.")
else:
    import decord

    raw = decord.VideoReader(path, num_threads=1)
    # any order, repeats allowed
    batch = raw.get_batch([0, 8, 8, 4]).asnumpy()
    report(frames=len(raw), rate=f"{raw.get_avg_fps():g} a second",
           batch=batch.shape, type=str(batch.dtype),
           key_frames=len(raw.get_key_indices()))
    agree("both read the same", torch.from_numpy(batch).int(),
          frames[[0, 8, 8, 4]].int())

# %% [markdown]
# Three things to remember.
#
# - The layout is **(T, H, W, 3)**, bytes from 0 to 255, colours in the order **red, green, blue**. (OpenCV gives blue, green, red; section 5 shows what that does.)
# - Frames are addressed by number. To show frame 57, the decoder goes back to the last [**key frame**](glossary.md#key-frame), which is stored as a whole, and decodes from there. Here every frame is a key frame.
#   In a downloaded video there may be one in 250. Then the decoder may have to decode up to 249 frames that nobody asked for, before the first one of the clip.
#   (`ClipReader` skips those among them that no other frame needs.)
# - A decord reader must be opened in the process that uses it. If it was opened before a `DataLoader` forks its workers, it hangs in them. So open it in `__getitem__` of your data set.
#   (The course's data sets open a `ClipReader` there, too.)
#
# A common error is decord's `cannot find video stream with wanted index: -1`. The file is then empty or damaged, or
# holds no video; often a download was cut short. Look for such files before you train (`vt-course data verify FOLDER`), not in epoch 7. `ClipReader` says in words what is wrong:

# %%
with tempfile.TemporaryDirectory() as empty_folder:
    empty = Path(empty_folder) / "empty.mp4"
    empty.touch()
    try:
        ClipReader(empty)
    except BadClip as error:
        print(str(error).replace(str(empty), empty.name))

# %% [markdown]
# ### Another decoder is a setting
#
# You may want to compare with somebody's pipeline that is built on another decoder. `ClipReader(path, decoder="decord")` takes the pixels from decord, and so does
# `vt-course train ... --set decoder=decord`. The third choice is `torchcodec`, where it is installed.
#
# PyAV still decides which frames the video has and when each is shown. So the same index means the same frame with every decoder.
# Pixels differ by at most 3 of 255 (`docs/researchers.md`); in the comparison with decord above they were equal. But some files that PyAV reads are refused.
# To see why, look at what a file stores:
#
# ```
# shown    0 1 2 3 4 5 6 7 | 8  9 10 11 ...      I  key frame, decoded alone
#          I B B P B B P B | I  B  B  P ...      P  needs a frame that is shown before it
# stored   0 3 1 2 6 4 5 | 8 7 11  9 10 ...      B  needs one that is shown before it and one after
#          I P B B P B B | I B  P  B  B ...
# ```
#
# A key frame and the frames stored up to the next key frame are a [**group of pictures**](glossary.md#group-of-pictures). Some programs let a frame refer to two groups: to the last frames of one group and to
# the key frame of the next. Such a frame, here number 7, is shown before that key frame. It is stored behind it, because the key frame must be decoded first. The group is then
# called **open**. The cell below encodes our clip in this way, and asks decord 0.6.0 for frames:

# %%
with tempfile.TemporaryDirectory() as folder_of_one:
    file = Path(folder_of_one) / "open.mp4"
    with av.open(str(file), "w") as out:
        stream = out.add_stream("libx264", rate=16)
        stream.height, stream.width = frames.shape[1:3]
        stream.options = {"x264-params": "open-gop=1:keyint=8"
                          ":scenecut=0:bframes=2:b-adapt=0"}
        for frame in frames.numpy():
            frame = av.VideoFrame.from_ndarray(frame, format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    asked, reader = [8, 12, 16, 20], ClipReader(file)
    # (T, H, W, 3)
    coded = reader.read(range(reader.num_frames)).astype(int)
    print("asked for:   ", asked)
    if not missing:
        raw = decord.VideoReader(str(file), num_threads=1)
        # which of our frames is nearest to each picture it gives?
        nearest = [abs(coded - picture).mean((1, 2, 3)).argmin()
                   for picture in raw.get_batch(asked).asnumpy()]
        print("decord shows:", [int(number) for number in nearest])
        try:
            ClipReader(file, decoder="decord").read(asked)
        except BadClip as error:
            print(str(error).replace(str(file), file.name))

# %% [markdown]
# decord 0.6.0 was asked for frames 8, 12, 16, 20 and gave 9, 13, 17, 21. Each picture is one frame late. There is no error, and the loss hardly changes. (Without decord, or with decord2, your output may differ.)
#
# So the setting refuses what a decoder is known to get wrong. The sentence names the file and the remedy, and a training run goes on without that clip and lists it.
# `vt-course data verify FOLDER --decoder decord` finds such files before you train. `docs/researchers.md` has the table of the known faults of decord and torchcodec.

# %% [markdown] tags=["core", "claim:vswin-short-videos-loop"]
# ## 2 · Which frames? Dense sampling
#
# Neighbouring frames are nearly equal, so nobody feeds all of them. On Kinetics (videos of ten seconds, human actions) all four video papers take a [**dense**](glossary.md#dense-sampling) clip: T frames, [`stride`](glossary.md#stride) apart, from one place of the video.
# They write T×stride: 32×2 is 32 frames, every second one.
#
# T frames have T − 1 gaps, so the clip **spans** (T − 1) · stride + 1 frames. A video of `num_frames` has room = num_frames − span,
# and the clip may start at 0, 1, ..., room. In training the start is drawn at random; in
# mmaction's validation (Video Swin's training library, see below) the clip stands in the centre.
#
# **Predict, then run.** A Kinetics video has 300 frames, 30 a second. Which models (32×2, 16×4, 32×3, 32×4, 8×32, 16×16, 96×4) see less than a quarter of the video? For which model is the video too short?
#
# ### Exercise 1.1 · Dense frame indices
#
# Difficulty 2/5 · importance 4/5 · 10 minutes
#
# Return the indices as an integer tensor of shape `(frames,)`. `position` is "start" (begin at frame 0) or "centre" (start at room / 2, rounded down). A video shorter than
# the span starts at frame 0 and is **looped**: after its last frame comes frame 0 again, then frame 1, as often as needed. Frame 3 beyond the end is frame 3.

# %% tags=["exercise:1.1"]
def dense_indices(num_frames, frames, stride, position="centre"):
    """Frame numbers (frames,): `stride` apart, looped at the end."""
    raise NotImplementedError("exercise 1.1")

# %% tags=["check:1.1"]
dense_indices = check("1.1", dense_indices)

# %% [markdown] tags=["hints:1.1"]
# <details><summary>Hint 1: intuition</summary>
#
# Write the indices of a clip that starts at 0. Everything else moves them, or folds them back.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `start + [0, 1, ..., frames − 1] · stride`, then the remainder after division by `num_frames`
# </details>
# <details><summary>Symptom: one case in the centre is off by one</summary>
#
# The span is not frames · stride. Count it for two frames with stride 4: frames 0 and 4 span 5 frames.
# </details>

# %% tags=["solution:1.1"]
def dense_indices(num_frames, frames, stride, position="centre"):
    """Frame numbers (frames,): `stride` apart, looped at the end."""
    room = max(num_frames - ((frames - 1) * stride + 1), 0)
    start = room // 2 if position == "centre" else 0
    return (start + torch.arange(frames) * stride) % num_frames


dense_indices = check("1.1", dense_indices, solution=True)

# %% [markdown]
# PyTorch can list every window that fits (`Tensor.unfold`). Yours must be the middle one:

# %% tags=["oracle"]
# (starts, 32)
windows = torch.arange(300).unfold(0, 31 * 2 + 1, 1)[:, ::2]
report(windows_that_fit=len(windows))
agree("centre", dense_indices(300, 32, 2),
      windows[(len(windows) - 1) // 2])

# %% tags=["figure"] alt="Timelines of seven sampling rules in a video of 300 frames: 32×2 and 16×4 cover about two seconds in the middle, TimeSformer 8×32 most of the video, and TimeSformer-L 96×4 all of it and then its beginning again."
published = {"Video Swin 32×2": (32, 2),
             "MViT-B, UniFormer 16×4": (16, 4),
             "MViT-B 32×3": (32, 3), "UniFormer 32×4": (32, 4),
             "TimeSformer 8×32": (8, 32),
             "TimeSformer-HR 16×16": (16, 16),
             "TimeSformer-L 96×4": (96, 4)}
show.sampling(300, {name: dense_indices(300, *rule)
                    for name, rule in published.items()},
              title="Dense clips in a video of 10 seconds", width=8)

# %% [markdown]
# A bar reaches from the first frame to the last, and each line is a frame that the model sees. The labels at the right were counted from your indices.

# %%
print(f"{'':24}{'frames':>7}{'stride':>8}{'span':>6}"
      f"{'seconds':>9}{'of 10 s':>9}")
for name, (count, gap) in published.items():
    span = (count - 1) * gap + 1
    print(f"{name:24}{count:7}{gap:8}{span:6}"
          f"{span / 30:9.2f}{span / 300:9.0%}")

# %% [markdown] tags=["answer"]
# 32×2 (21 %) and 16×4 (20 %) see less than a quarter. For 96×4 the video is too short: 381 frames.

# %% [markdown]
# - Video Swin and MViT 16×4 look at about two seconds. TimeSformer looks at seven and a half, with gaps of one second. Both work on Kinetics, whose actions mostly go on for the whole clip.
# - TimeSformer-L needs more frames than the video has. Your function loops. The released code of TimeSformer repeats the last frame instead.
#
# ### Two families of rules
#
# "32×2, centre" does not yet say which frames. Two public training libraries, mmaction and SlowFast, stand behind the four papers:
#
# | | mmaction (Video Swin) | SlowFast (MViT, TimeSformer, UniFormer) |
# |---|---|---|
# | a clip takes | a window of T · stride frames | a window of T · stride frames |
# | step | exactly `stride` | T points spread over T · stride frames: (T · stride − 1) / (T − 1), more than `stride` |
# | too short | loop | repeat the last frame |
# | another frame rate | not looked at: at 60 frames a second the same clip covers half the time | the window is scaled to 30 frames a second (`DATA.TARGET_FPS`) |
#
# Both place a *window* of T · stride frames. It is stride − 1 frames longer than your span: 64 instead of 63 for 32×2, 256 instead of 225 for 8×32. So the starts in section 4 come from 64, and the middle 16×4 begins at 118 (exercise 1.1: 119). SlowFast spreads its points
# over the whole window. So there, and in the figure of section 4, TimeSformer's clip covers 8.5 seconds instead of 7.5, and 16×4 covers 2.1 instead of 2.0. SlowFast's rule as code, for MViT 16×4 (rounded down):

# %% tags=["definition"]
def slowfast_clip(start, num_frames, frames, stride):
    """T points over T·stride frames, clamped to the video: (T,)."""
    last = start + frames * stride - 1
    points = torch.linspace(start, last, frames)
    return points.clamp(0, num_frames - 1).long()


# 118 = (300 − 64) // 2, the middle window
spread = slowfast_clip(118, 300, 16, 4)
print("steps of MViT 16×4:", torch.diff(spread).tolist())
agree("package", spread,
      torch.from_numpy(package.mvit_views(300, 16, 4, 1)[0]))

# %% [markdown] tags=["core", "claim:vswin-uniform"]
# ## 3 · One frame of each segment: uniform sampling
#
# In Something-Something, people move things, and the classes are about order: "putting something *on* a surface" against "taking it *off*". Two seconds from the middle may miss the point. So here all four papers look at the
# **whole** video. They cut it into T equal segments and take one frame of each: a random one in training, the one in the middle in testing.
#
# Segment i runs from i · num_frames / T to (i + 1) · num_frames / T. These are points in time, not whole numbers. The frame that holds the point t is ⌊t⌋.
#
# ### Exercise 1.2 · Uniform frame indices
#
# Difficulty 2/5 · importance 3/5 · 10 minutes
#
# Return the middle frame of each segment, integers `(frames,)`: ⌊(i + ½) · num_frames / frames⌋. If the video has fewer frames than segments, the same formula repeats frames in place.
# Integers only: floating-point numbers may fall on the wrong side of a frame.

# %% tags=["exercise:1.2"]
def uniform_indices(num_frames, frames):
    """Frame numbers (frames,): the middle of each equal segment."""
    raise NotImplementedError("exercise 1.2")

# %% tags=["check:1.2"]
uniform_indices = check("1.2", uniform_indices)

# %% [markdown] tags=["hints:1.2"]
# <details><summary>Hint 1: intuition</summary>
#
# (i + ½) / T is (2i + 1) / 2T.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# odd numbers 1, 3, 5, ... times `num_frames`, then `//` once, at the end
# </details>
# <details><summary>Symptom: right for 300 and 4, wrong for 101 and 16</summary>
#
# You divided before you multiplied: `num_frames // frames` throws a fraction away, and T fractions add up.
# </details>

# %% tags=["solution:1.2"]
def uniform_indices(num_frames, frames):
    """Frame numbers (frames,): the middle of each equal segment."""
    return (2 * torch.arange(frames) + 1) * num_frames // (2 * frames)


uniform_indices = check("1.2", uniform_indices, solution=True)

# %% [markdown]
# Shrinking an image to T pixels by nearest neighbour asks the same question: which old pixel lies under the middle of the new one? PyTorch calls the rule
# `nearest-exact`. Its older `nearest` takes the start of each segment.

# %% tags=["oracle"]
# (1, 1, frames)
timeline = torch.arange(301, dtype=torch.float64)[None, None]
for segments in (8, 16, 32):
    exact = F.interpolate(timeline, size=segments, mode="nearest-exact")
    agree(f"{segments} segments of 301 frames",
          uniform_indices(301, segments), exact[0, 0].long())
older = F.interpolate(timeline, size=32, mode="nearest")[0, 0].long()
differ("the older rule", uniform_indices(301, 32), older, at_least=1)

# %% tags=["figure"] alt="Timelines of three rules in a video of 60 frames: dotted lines cut it into 32, 16 and 8 equal segments, and one frame is marked near the middle of each."
ssv2 = {"Video Swin-B": 32, "UniFormer, MViT-B": 16, "TimeSformer": 8}
middles = {name: uniform_indices(60, n) for name, n in ssv2.items()}
edges = {name: np.arange(n + 1) * 60 / n for name, n in ssv2.items()}
show.sampling(60, middles, fps=12, segments=edges, width=8,
              title="Equal segments of a video of 60 frames")

# %% [markdown]
# The axis draws frame k from k − ½ to k + ½, so that the line of a frame stands at its number. So the dotted edge of segment i stands at i · num_frames / T − ½.
#
# Videos of Something-Something last a few seconds. In one of 60 frames, 32 segments take about every second frame.
#
# Again there are several rules. Yours is the plain one, that of `SampleFrames(clip_len=1, num_clips=T)` in the mmaction that Video Swin builds on. In the SlowFast family the segments end at the last frame, and their edges are rounded. Video Swin's code for
# Something-Something does the same (`frame_uniform=True`). Elsewhere a function called *uniform* may mean evenly spaced points
# from the first frame to the last:

# %%
from torchvision.transforms.v2 import UniformTemporalSubsample

# frame k holds k
still = torch.arange(300)[:, None, None, None].expand(300, 3, 1, 1)
other = UniformTemporalSubsample(4)(still)[:, 0, 0, 0]
print("segments, middle     ", uniform_indices(300, 4).tolist())
print("SlowFast's segments  ",
      package.slowfast_segments(300, 4).tolist())
print("torchvision's uniform", other.tolist())

# %% [markdown] tags=["core", "claim:vswin-views"]
# ## 4 · Views: what is averaged at test time
#
# A clip shows part of the time, and a square crop part of the frame. At test time the model looks several times, at n clips and m crops, and the n · m results are averaged. One such look
# is a **view**. "4 × 3 views" means 4 clips, 3 crops each. Most tables list the cost of one view. (Tables 2 and 3 of UniFormer and tables 2 and 5 of TimeSformer list that of all views.) The whole test costs n · m times as much.
#
# ### Clips
#
# Where do n clips start? Three rules, with the windows of section 2, T · stride frames long:

# %% tags=["definition"]
def video_swin_starts(num_frames, window, n):
    """The middle of each of n equal parts of all starts."""
    starts = num_frames - window + 1
    return [int((i + 0.5) * starts / n) for i in range(n)]


def mvit_starts(num_frames, window, n):
    """From the first start to the last; a single clip in the middle."""
    last = num_frames - window
    if n == 1:
        return [last // 2]
    return [i * (last // (n - 1)) for i in range(n)]


def timesformer_starts(num_frames, window, n):
    """As in the released code: a single clip begins at frame 0."""
    return [int((num_frames - window) * i / n) for i in range(n)]

# %%
# starts, T, stride, the name of the rule in the package
starts = {
    "Video Swin 32×2":
        (video_swin_starts(300, 64, 4), 32, 2, "video_swin"),
    "MViT 16×4": (mvit_starts(300, 64, 5), 16, 4, "mvit"),
    "UniFormer 16×4": (mvit_starts(300, 64, 4), 16, 4, "uniformer"),
    "TimeSformer 8×32":
        (timesformer_starts(300, 256, 1), 8, 32, "timesformer")}
views = {}
for name, (begin, count, gap, rule) in starts.items():
    listed = package.VIEW_RULES[rule](300, count, gap, len(begin))
    views[name] = torch.from_numpy(listed)            # (clips, T)
    agree(f"{name}, starts {begin}", views[name][:, 0],
          torch.tensor(begin))

# %% tags=["figure"] alt="Timelines of the test clips of four models in 300 frames: four clips that overlap for Video Swin, five for MViT, four with gaps between them for UniFormer, and one long clip for TimeSformer."
show.sampling(300, views, title="The clips of a test on Kinetics",
              width=8)

# %% [markdown]
# Four or five short clips see most of the video; one clip of 8×32 does, too. The paper of TimeSformer takes its clip "in the middle of the video" (section 4). The released code begins at frame 0.
#
# ### Crops
#
# Frames are scaled so that the *shorter* side has a fixed length, and a square is cut out. The centre square of a landscape video misses both ends. **Three crops** along the longer
# side see all of the frame, if the longer side is at most three times the shorter one. (TimeSformer's paper, section 4, says top-left, centre, bottom-right. The short side equals the crop, so these are left, centre, right.)
#
# ### Exercise 1.3 · Three crops
#
# Difficulty 2/5 · importance 3/5 · 10 minutes
#
# Return an integer tensor `(3, 4)`: for each crop top, left, bottom, right, so that `frame[top:bottom, left:right]` is the crop. Along the longer side they lie at the beginning, in the centre
# and at the end, in this order. Along the other side all are centred. Odd margins: round down.

# %% tags=["exercise:1.3"]
def crop_boxes(height, width, size):
    """(3, 4): top, left, bottom, right of three squares."""
    raise NotImplementedError("exercise 1.3")

# %% tags=["check:1.3"]
crop_boxes = check("1.3", crop_boxes)

# %% [markdown] tags=["hints:1.3"]
# <details><summary>Hint 1: intuition</summary>
#
# height − size rows and width − size columns are left over. Which share of them lies before the crop?
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `top, left = (height − size) // 2, (width − size) // 2`; then replace one of the two by 0 and by the whole margin
# </details>

# %% tags=["solution:1.3"]
def crop_boxes(height, width, size):
    """(3, 4): top, left, bottom, right of three squares."""
    top, left = (height - size) // 2, (width - size) // 2
    if width >= height:
        corners = [(top, 0), (top, left), (top, width - size)]
    else:
        corners = [(0, left), (top, left), (height - size, left)]
    return torch.tensor([(t, x, t + size, x + size)
                         for t, x in corners])


crop_boxes = check("1.3", crop_boxes, solution=True)

# %% [markdown]
# Our clips are square, so we cut a wide video out of one: 64 rows of 112 columns, the shape of 16:9 nearly. torchvision's `five_crop` cuts the corners and the centre; where the crop is as high as
# the frame, the two left corners are one.

# %% tags=["oracle"]
from torchvision.transforms.functional import five_crop

wide = frames[:, 24:88]                               # (T, 64, 112, 3)
boxes = crop_boxes(64, 112, 64)
# (3, T, 64, 64, 3)
cut = torch.stack([wide[:, t:b, x:r] for t, x, b, r in boxes])
left, right, _, _, centre = five_crop(wide.movedim(-1, 1), 64)
of_torchvision = torch.stack([left, centre, right]).movedim(2, -1)
agree("torchvision", cut.int(), of_torchvision.int())
agree("package", cut.int(),
      torch.stack(transforms.three_crops(wide, 64)).int())

# %% tags=["figure"] alt="Two rows of three views: each row shows on a line which eight frames are taken, and their middle frame with a yellow border around the crop at the left, in the middle and at the right; the rest of the frame is dark."
two_clips = package.video_swin_views(32, 8, 2, 2)  # (clips, frames)
show.views(wide, two_clips, boxes, width=8,
           title="2 × 3 views of 8×2 frames each (middle frame shown)")

# %% [markdown]
# A list of views is the product of both, crops fastest. Each view is a clip of its own for the model:

# %%
def all_views(video, clips, boxes):
    """(F, H, W, 3), (n, T), (m, 4) -> (n·m, T, size, size, 3)."""
    pairs = product(torch.tensor(clips), boxes)
    return torch.stack([video[index][:, t:b, x:r]
                        for index, (t, x, b, r) in pairs])


six = all_views(wide, two_clips, boxes)
report(views=six.shape)
same_crops = all_views(frames, two_clips, crop_boxes(112, 112, 112))
agree("a square video has one crop, three times",
      same_crops[0].int(), same_crops[2].int())

# %% [markdown]
# ### Averaging
#
# Two ways look alike and give different results: the mean of the [**probabilities**](glossary.md#probability) (softmax first) and the mean of the [**logits**](glossary.md#logit) (scores before the softmax).
# Three views of one video, two classes. **Predict** the winner of each (their logits are in the first line of the cell):

# %%
# (views, classes)
logits = torch.tensor([[10.0, 0.0], [0.0, 3.0], [0.0, 3.0]])
mean_logit = logits.mean(0)
mean_probability = logits.softmax(1).mean(0)
report(by_logits=f"class {mean_logit.argmax()}",
       by_probabilities=f"class {mean_probability.argmax()}",
       sum_instead_of_mean=f"class {logits.sum(0).argmax()}")

# %% [markdown] tags=["answer"]
# By logits class 0 wins, by probabilities class 1. Adding the scores instead of averaging them changes nothing.

# %% [markdown]
# What the papers and the released code do:
#
# | | short side, crop | Kinetics: clips × crops | Something-Something | averaged |
# |---|---|---|---|---|
# | Video Swin | 224, 224 | 4 × 3 | 1 × 3 | probabilities (`average_clips="prob"`) |
# | MViT | 256, 224; with three crops 224, 224 | 5 × 1 | 1 × 3 | probabilities: the model ends in a softmax when it evaluates |
# | TimeSformer | 224, 224 | 1 × 3 | 1 × 3 | the paper averages the scores; the released code adds logits |
# | UniFormer | 224, 224 (its README; its training configurations say 256) | 4 × 1 | 1 × 3 | logits |
#
# In the mean of logits one very sure view can outvote two others. In the mean of probabilities no view counts more than one. So this course averages probabilities everywhere.
#
# What a whole test costs, in GMACs, billions of [multiply-adds](glossary.md#multiply-accumulate),
# as stated for one view, times the views:

# %%
from vt_course.models import ZOO, create

tests = {"video_swin_tiny": 12, "mvit_base_16x4": 5,
         "timesformer_divided_8x224": 3, "uniformer_small_16": 4}
for name, n in tests.items():
    # stated: (what, value, source)
    one = next(value for what, value, _ in ZOO[name].stated
               if what == "GMACs")
    print(f"{name:26}{one:7.1f} GMACs × {n:2} views = {n * one:6.0f}")

# %% [markdown] tags=["core", "claim:swin-pixels"]
# ## 5 · From bytes to floats
#
# Networks are trained on numbers around 0: divide by 255, subtract a mean, divide by a standard deviation, colour by colour. Weights fit the numbers that they were trained on. So every set of released weights fixes mean and deviation.
#
# | weights | mean | standard deviation | colours |
# |---|---|---|---|
# | Swin, Video Swin | 0.485, 0.456, 0.406 | 0.229, 0.224, 0.225 | RGB |
# | MViT, TimeSformer, UniFormer (video) | 0.45 for all | 0.225 for all | RGB |
# | MViTv2-L | as Swin | as Swin | RGB |
# | MViTv2, on Something-Something | 0.45 | 0.225 | RGB: its loader reads BGR with OpenCV, and `REVERSE_INPUT_CHANNEL: True` turns it round |
#
# (From the released configurations and code.)
#
# Configurations of mmaction list 123.675, 116.28, 103.53 and 58.395, 57.12, 57.375. These are the same numbers, times 255, for frames that were never divided:

# %%
mean = torch.tensor([0.485, 0.456, 0.406])
std = torch.tensor([0.229, 0.224, 0.225])
bytes_ = frames.float()                               # (T, H, W, 3)
by_unit = (bytes_ / 255 - mean) / std
by_byte = ((bytes_ - torch.tensor([123.675, 116.28, 103.53]))
           / torch.tensor([58.395, 57.12, 57.375]))
agree("0..1 = 0..255", by_unit, by_byte)
clip = transforms.normalise(frames)  # (3, T, H, W)
agree("package", clip, by_unit.permute(3, 0, 1, 2))

# %% [markdown]
# Three mistakes raise no error. **Predict** for each how large the numbers become that enter the network:
#
# 1. not dividing by 255, but using the mean and deviation for 0..1;
# 2. dividing by 255 and using 123.675, ...;
# 3. mean and deviation of another paper.

# %%
def interval(low, high, m, s):
    """What black and white become."""
    return f"{(low - m) / s:9.2f} to {(high - m) / s:.2f}"


print("right             ", interval(0, 1, 0.485, 0.229))
print("1: never divided  ", interval(0, 255, 0.485, 0.229))
print("2: divided twice  ", interval(0, 1, 123.675, 58.395))
print("3: 0.45 and 0.225 ", interval(0, 1, 0.45, 0.225))

# %% [markdown]
# Number 1 is a catastrophe that you notice, number 3 a small shift that you do not. Number 2 is the dangerous one: all numbers are near −2.1, the contrast is 255 times too weak, and nothing looks suspicious.
#
# ### Mean, deviation and colour order are part of the weights
#
# Normalising is linear, and the first layer is linear too. So normalising can be moved into the layer's weights, exactly: bytes go in, the same tokens come out.
# (This holds without padding. A first layer that pads needs the mean as border.)

# %%
_ = torch.manual_seed(0)
conv = nn.Conv3d(3, 24, (2, 4, 4), (2, 4, 4))
scale = (255 * std)[:, None, None, None]              # (3, 1, 1, 1)
moved = conv.weight / scale                           # (24, 3, 2, 4, 4)
# W·(x/255 − m)/s + b = (W/255s)·x + (b − Σ W·m/s)
of_colours = conv.weight.sum((2, 3, 4))               # (24, 3)
offset = conv.bias - (of_colours * (mean / std)).sum(1)
pixels = bytes_.permute(3, 0, 1, 2)                   # (3, T, H, W)
conv_tokens = conv(clip)                              # (24, T', H', W')
from_bytes = F.conv3d(pixels, moved, offset, conv.stride)
agree("bytes in, same tokens out", from_bytes, conv_tokens, tol=1e-4)

# %% [markdown]
# With wrong colours the weights are wrong again. To feed BGR is to feed RGB to weights whose colours are reversed, and these are not the trained ones.

# %%
bgr = clip.flip(0)                                    # (3, T, H, W)
reversed_weights = F.conv3d(bgr, conv.weight.flip(1), conv.bias,
                            conv.stride)
agree("BGR, weights reversed", reversed_weights, conv_tokens)
differ("BGR, weights as trained", conv(bgr), conv_tokens, at_least=0.1)
grey = clip.mean(0, keepdim=True).expand(3, -1, -1, -1)
agree("a grey video has no order", conv(grey.flip(0)), conv(grey))

# %% [markdown]
# You would notice a blue face at once. Here every colour of the rainbow is still there; only their order has changed. So look at what the network sees, beside what it should see:

# %% tags=["figure"] alt="Five frames of the same clip twice: in the row RGB the background is purple and the right arm of the flower is blue; in the row BGR the background is red-brown and the right arm is red."
show.film_strip([clip, bgr], n=5, width=7, rows=["RGB", "BGR"])

# %% [markdown]
# **My accuracy is lower than the paper's.** Look in this order:
#
# 1. the views (in UniFormer's table 5, four clips instead of one are worth 2.0 to 4.6 points);
# 2. mean, deviation, scale and colour order;
# 3. a short side of 224 or 256;
# 4. the loop or clamp of short videos;
# 5. logits or probabilities;
# 6. the order of the classes (UniFormer's Kinetics labels are in another order than those of other toolboxes);
# 7. and last, the videos themselves. Kinetics loses videos every year; the authors of Video Swin had 19,870 for validation.

# %% [markdown] tags=["notes"]
# The question comes up again and again in the issues of these repositories; the number 19,870 is from issue 5 of Video Swin's. How to run the model on one video was asked in its issue 36.

# %% [markdown]
# ### One video, from the file to the answer
#
# You have all the pieces. The course ships a small Video Swin that was trained on the eight motions; its recipe says what it expects.

# %%
from vt_course.models import mini_weights
from vt_course.training.checkpoint import load_run
from vt_course.training.evaluate import open_data

model, recipe = load_run(mini_weights("video_swin_mini"), "last")
_ = model.eval()
_, held_out = open_data(recipe)
chosen = dense_indices(video.num_frames, recipe.frames, recipe.stride)
small = transforms.resize_short_side(frames[chosen], recipe.size)
square = transforms.centre_crop(small, recipe.size)   # (8, 32, 32, 3)
view = transforms.normalise(square)                   # (3, 8, 32, 32)
with torch.no_grad():
    scores = model(view[None]).softmax(1)[0]          # (8,)
report(view=view.shape, answer=held_out.classes[scores.argmax()])

# %% [markdown] tags=["core"]
# ## 6 · Tokens: cut and project
#
# A transformer takes a set of vectors. Swin (section 3.1) cuts an image into patches of 4 × 4 pixels and reads the 4 · 4 · 3 = **48** numbers of each as one vector. A linear layer maps this vector
# to C channels. The result is a **token**. We build the cut first, in two dimensions.
#
# ### Exercise 1.4 · Cut into patches
#
# Difficulty 3/5 · importance 5/5 · 15 minutes
#
# `(B, C, H, W) → (B, H/ph, W/pw, C·ph·pw)`, `patch` is (ph, pw). The numbers of a token run **colour, row, column**: colour slowest, column fastest, because the weights of PyTorch's convolutions are
# stored so. Use `reshape` and `permute`. In the check `x` is 0, 1, 2, …, so a wrong number tells where it came from.

# %% tags=["exercise:1.4"]
def cut_patches(x, patch):
    """(B, C, H, W) -> (B, H/ph, W/pw, C·ph·pw), order (c, h, w)."""
    raise NotImplementedError("exercise 1.4")

# %% tags=["check:1.4"]
cut_patches = check("1.4", cut_patches)

# %% [markdown] tags=["hints:1.4"]
# <details><summary>Hint 1: intuition</summary>
#
# Split each axis in two without moving a number: which patch, and where in the patch. Row 13 with patches of 4 is row 1 of patch 3.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `x → (B, C, H/ph, ph, W/pw, pw) → permute → (B, H/ph, W/pw, C, ph, pw) → reshape`
# </details>
# <details><summary>Symptom: the shape is right, most numbers are wrong</summary>
#
# A single `reshape` never moves a number. It takes 48 numbers that follow each other in memory: parts of rows of one colour.
# </details>
# <details><summary>Symptom: "the sizes you reshape to do not multiply to the number of elements"</summary>
#
# `patch` is (ph, pw): ph belongs to H, pw to W.
# </details>

# %% tags=["solution:1.4"]
def cut_patches(x, patch):
    """(B, C, H, W) -> (B, H/ph, W/pw, C·ph·pw), order (c, h, w)."""
    B, C, H, W = x.shape
    ph, pw = patch
    x = x.reshape(B, C, H // ph, ph, W // pw, pw)
    x = x.permute(0, 2, 4, 1, 3, 5)           # (B, H', W', C, ph, pw)
    return x.reshape(B, H // ph, W // pw, C * ph * pw)


cut_patches = check("1.4", cut_patches, solution=True)

# %% [markdown]
# The same in einops, which names what the permutation does. And as a library function: `F.unfold` lists patches along its last axis, its numbers in the same order.

# %% tags=["fast"]
_ = torch.manual_seed(0)
images = torch.randn(2, 3, 32, 48)
patches = cut_patches(images, (4, 4))                 # (2, 8, 12, 48)
by_einops = rearrange(images, "b c (H h) (W w) -> b H W (c h w)",
                      h=4, w=4)
agree("einops = reshape and permute", by_einops, patches)
columns = F.unfold(images, (4, 4), stride=4)          # (2, 48, 96)
agree("F.unfold = cut",
      columns.transpose(1, 2).reshape(2, 8, 12, 48), patches)

# %% [markdown]
# *Cut, then a linear layer* is a convolution whose stride equals its kernel: each output position sees its own patch, and all use the same weights. MViT says so of ViT's patches (section 3.2). The weights are
# the same numbers, (D, 3, 4, 4) read as (D, 48). This first layer is called the [**patch embedding**](glossary.md#patch-embedding), or [**stem**](glossary.md#stem). We test it on the stem of the course's own Swin-T, which ends in a LayerNorm:

# %%
swin_stem = create("swin_tiny").patch_embed
swin_weight = swin_stem.proj.weight.reshape(96, 48)   # (D, C·ph·pw)
# (2, 8, 12, 96)
swin_tokens = F.linear(patches, swin_weight, swin_stem.proj.bias)
agree("cut + linear = convolution", swin_tokens,
      swin_stem.proj(images).movedim(1, -1))
agree("with the norm: Swin-T's tokens", swin_stem.norm(swin_tokens),
      swin_stem(images))
wrong = rearrange(images, "b c (H h) (W w) -> b H W (h w c)", h=4, w=4)
differ("colours last",
       F.linear(wrong, swin_weight, swin_stem.proj.bias), swin_tokens)

# %% [markdown]
# ### Tubes
#
# Video Swin adds time: 2 frames × 4 × 4 pixels × 3 colours = **96** numbers. Such a box is called a **tube**. Video Swin-T also *projects* them to 96 channels; that is a coincidence.
#
# ### Exercise 1.5 · Cut into tubes
#
# Difficulty 3/5 · importance 5/5 · 10 minutes
#
# `(B, C, T, H, W) → (B, T/pt, H/ph, W/pw, C·pt·ph·pw)`, `tube` is (pt, ph, pw). The numbers of a token run colour, frame, row, column, the last fastest.

# %% tags=["exercise:1.5"]
def cut_tubes(x, tube):
    """-> (B, T/pt, H/ph, W/pw, C·pt·ph·pw), order (c, t, h, w)."""
    raise NotImplementedError("exercise 1.5")

# %% tags=["check:1.5"]
cut_tubes = check("1.5", cut_tubes)

# %% [markdown] tags=["hints:1.5"]
# <details><summary>Hint 1: intuition</summary>
#
# Exercise 1.4 with one more axis that is split.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `x → (B, C, T/pt, pt, H/ph, ph, W/pw, pw) → permute(0, 2, 4, 6, 1, 3, 5, 7) → reshape`
# </details>
# <details><summary>Symptom: only the order inside the token is wrong</summary>
#
# In the decoder's layout (T, H, W, C), colours come last. Here they come first, also inside the token.
# </details>

# %% tags=["solution:1.5"]
def cut_tubes(x, tube):
    """-> (B, T/pt, H/ph, W/pw, C·pt·ph·pw), order (c, t, h, w)."""
    B, C, T, H, W = x.shape
    pt, ph, pw = tube
    x = x.reshape(B, C, T // pt, pt, H // ph, ph, W // pw, pw)
    x = x.permute(0, 2, 4, 6, 1, 3, 5, 7)
    return x.flatten(4)           # (B, T', H', W', C·pt·ph·pw)


cut_tubes = check("1.5", cut_tubes, solution=True)

# %% tags=["fast"]
tubes = cut_tubes(clip[None], (2, 4, 4))      # (1, 16, 28, 28, 96)
agree("einops = reshape and permute", tubes[0],
      rearrange(clip, "c (T t) (H h) (W w) -> T H W (c t h w)",
                t=2, h=4, w=4))

# %% [markdown]
# Here is one of the 12,544 tokens of our clip, cut by your function out of the bytes. Each row of numbers is one colour of one frame, read row by row. The cells run from grey (0) to the light colour (255).

# %% tags=["figure"] alt="One token of two frames: a yellow square marks the same 4 × 4 pixels in frames 16 and 17, beside each frame these pixels are enlarged, and a table below lists their 96 numbers by colour and frame."
place = (8, 8, 19)
numbers = cut_tubes(pixels[None], (2, 4, 4))[0][place]        # (96,)
show.token(frames, (2, 4, 4), place, numbers, width=8,
           title="One token of 2 · 4 · 4 · 3 = 96 numbers")

# %% [markdown]
# Compare the two rows of one colour: what moved between two frames is inside the token.
#
# ### Exercise 1.6 · Convolution weights for a linear layer
#
# Difficulty 3/5 · importance 4/5 · 10 minutes
#
# Tokens may hold their numbers in another order, for instance "thwc" if they were cut from the decoder's layout. Then the weights must follow. Turn the convolution weight
# `(D, C, pt, ph, pw)`, whose axes are called "cthw", into the weight of a linear layer, `(D, C·pt·ph·pw)`, for tokens in the order that the string `order` names, slowest first.

# %% tags=["exercise:1.6"]
def linear_weight(weight, order):
    """(D, C, pt, ph, pw) -> (D, C·pt·ph·pw), numbers in `order`."""
    raise NotImplementedError("exercise 1.6")

# %% tags=["check:1.6"]
linear_weight = check("1.6", linear_weight)

# %% [markdown] tags=["hints:1.6"]
# <details><summary>Hint 1: intuition</summary>
#
# Number k of the token must meet weight k. Whatever axis is slowest in the token is slowest in the weight.
# </details>
# <details><summary>Hint 2: pseudocode</summary>
#
# `weight.permute(0, axis of order[0], axis of order[1], ...)`, then flatten all but the first; `"dcthw".index(letter)` is an axis
# </details>
# <details><summary>Symptom: "duplicate dims"</summary>
#
# Axis 0 is D. Add 1 to `"cthw".index(letter)`, or use `"dcthw"`.
# </details>

# %% tags=["solution:1.6"]
def linear_weight(weight, order):
    """(D, C, pt, ph, pw) -> (D, C·pt·ph·pw), numbers in `order`."""
    axes = ["dcthw".index(letter) for letter in order]
    return weight.permute(0, *axes).flatten(1)


linear_weight = check("1.6", linear_weight, solution=True)

# %% [markdown]
# Now the tokens of the course's own Video Swin-T, twice: from your cut, and straight from the decoder's layout, with no axis of the video moved.

# %%
stem = create("video_swin_tiny").patch_embed
weight, bias = stem.proj.weight, stem.proj.bias       # (96, 3, 2, 4, 4)
# (1, 16, 28, 28, 96)
tokens = F.linear(tubes, linear_weight(weight, "cthw"), bias)
agree("cut + linear = convolution", tokens,
      stem.proj(clip[None]).movedim(1, -1))
agree("with the norm: Video Swin-T's tokens", stem.norm(tokens),
      stem(clip[None]))
last = rearrange(by_unit, "(T t) (H h) (W w) c -> T H W (t h w c)",
                 t=2, h=4, w=4)                       # (16, 28, 28, 96)
agree("colours last",
      F.linear(last, linear_weight(weight, "thwc"), bias), tokens[0])

# %% [markdown]
# (A size that is no multiple of the tube: Swin and Video Swin add zeros at the end, TimeSformer and UniFormer leave the last pixels out.)
#
# The [oracle](glossary.md#oracle), an independent implementation to compare with, is torchvision's patch embedding, with the same weights:

# %% tags=["oracle"]
from torchvision.models.video.swin_transformer import PatchEmbed3d

oracle = PatchEmbed3d([2, 4, 4], embed_dim=96, norm_layer=nn.LayerNorm)
print(oracle.load_state_dict(stem.state_dict()))
agree("torchvision", stem.norm(tokens), oracle(clip[None]))

# %% [markdown]
# ### Frames: TimeSformer
#
# TimeSformer cuts every frame by itself into patches of 16 × 16: 16 · 16 · 3 = **768** numbers, and 768 channels (equation 1; again these are two things of one size). In our terms such a patch is a tube of one frame.

# %%
from vt_course.models.timesformer import PatchEmbed

frame_stem = PatchEmbed(16, 3, 768)
# (32, 7, 7, 768)
frame_patches = cut_tubes(clip[None], (1, 16, 16))[0]
agree("tube of one frame = patch", frame_patches,
      cut_patches(clip.transpose(0, 1), (16, 16)))
frame_tokens = F.linear(
    frame_patches, frame_stem.proj.weight.flatten(1),
    frame_stem.proj.bias).flatten(1, 2)               # (32, 49, 768)
agree("TimeSformer's tokens", frame_tokens, frame_stem(clip[None]),
      tol=1e-4)

# %% [markdown]
# ### Which cut does a model make?
#
# The first convolution of a model says it. It can be read without the weights: on PyTorch's `meta` device a model has shapes, but takes no memory.

# %%
def stem_of(name):
    """The first convolution: (kernel, stride, padding, channels)."""
    with torch.device("meta"):
        network = create(name)
    first = next(m for m in network.modules()
                 if isinstance(m, (nn.Conv2d, nn.Conv3d)))
    missing = 3 - len(first.kernel_size)  # a 2-D one sees single frames
    return ((1,) * missing + first.kernel_size,
            (1,) * missing + first.stride,
            (0,) * missing + first.padding, first.out_channels)


for name in ("swin_tiny", "video_swin_tiny",
             "timesformer_divided_8x224"):
    kernel, steps, _, C = stem_of(name)
    report(model=name, kernel=kernel, stride=steps, channels=C)

# %% [markdown] tags=["deep-dive", "claim:uf-token-144"]
# ## 7 · Stems that overlap: MViT and UniFormer
#
# MViT's tokens come from *overlapping* cubes: 3 × 7 × 7 pixels at stride 2 × 4 × 4 (section 3.3 and table 3b). The kernel is larger than the stride. Along one axis of pixels:
#
# ```
# Swin       kernel 4, stride 4              0 1 2 3 | 4 5 6 7 | 8 9 10 11
# MViT       kernel 7, stride 4, padding 3   · · · 0 1 2 3 | 1 2 3 4 5 6 7 | 5 6 7 8 9 10 11
# UniFormer  kernel 3, stride 2, padding 1   · 0 1 | 1 2 3 | 3 4 5          (time only)
# ```
#
# No `reshape` or `permute` can do this: they move numbers, and here numbers are **copied** into several tokens. `Tensor.unfold` gives overlapping windows along one axis. Three of them, one for each axis, make cubes.

# %% tags=["definition"]
def gather_cubes(x, kernel, stride, padding):
    """-> (B, T', H', W', C·kt·kh·kw): what each output sees."""
    pt, ph, pw = padding
    x = F.pad(x, (pw, pw, ph, ph, pt, pt))            # on all sides
    for axis, (k, s) in enumerate(zip(kernel, stride), start=2):
        x = x.unfold(axis, k, s)      # appends the window as last axis
    return x.movedim(1, 4).flatten(4)


agree("kernel = stride: your cut", tubes,
      gather_cubes(clip[None], (2, 4, 4), (2, 4, 4), (0, 0, 0)))

# %% [markdown]
# *Every* convolution is such a gathering, followed by a multiplication. The stems of the course's own models (small ones; their stems have the published kernels), on their own weights:

# %%
for name, conv_stem in (
        ("MViT", create("mvit_mini").patch_embed.proj),
        ("UniFormer", create("uniformer_mini").patch_embed1.proj)):
    cubes = gather_cubes(clip[None], conv_stem.kernel_size,
                         conv_stem.stride, conv_stem.padding)
    gathered = F.linear(cubes, linear_weight(conv_stem.weight, "cthw"),
                        conv_stem.bias)       # (B, T', H', W', D)
    agree(f"{name}, {cubes.shape[-1]} numbers a token", gathered,
          conv_stem(clip[None]).movedim(1, -1), tol=1e-4)

# %% [markdown]
# **Predict.** In how many of MViT's cubes does one pixel lie, at least, at most and on average? Give every pixel a number, gather, and count:

# %%
def times_read(kernel, stride, padding, size=(8, 32, 32)):
    """How many tokens each pixel of a clip enters: (T, H, W)."""
    number = 1 + torch.arange(np.prod(size), dtype=torch.float)
    read = gather_cubes(number.view(1, 1, *size), kernel, stride,
                        padding).long().flatten()
    return read.bincount()[1:].view(size)             # 0 is the padding


for name, rule in (("plain", ((2, 4, 4), (2, 4, 4), (0, 0, 0))),
                   ("UniFormer", ((3, 4, 4), (2, 4, 4), (1, 0, 0))),
                   ("MViT", ((3, 7, 7), (2, 4, 4), (1, 3, 3)))):
    times = times_read(*rule)
    print(f"{name:10}", *times.unique().tolist())
within("MViT, mean over all pixels", times.float().mean().item(),
       3.7, 3.8)

# %% [markdown] tags=["answer"]
# In 1 to 8 cubes. In time 3/2 on average, in height and width 7/4 each: 1.5 · 1.75² = 4.6 times inside. With the border the mean is 4.3 for 16 × 224 × 224, and 3.8 for this tiny clip.

# %% [markdown]
# What is the overlap for? A plain cut has seams: what lies across the border of two patches is whole in no token. With overlap it lies whole in some token, and
# neighbouring tokens change smoothly. MViT's table 12 shows what overlap is worth, for 8 frames on Kinetics: 1 × 4 × 4 without overlap 74.5 %, 1 × 7 × 7 75.6 %, 3 × 7 × 7 75.9 %.

# %% [markdown] tags=["deep-dive"]
# ## 8 · How much time is left?
#
# The table below lists each stem. Its numbers are read from the first convolution of the model (`stem_of`, section 6). Every size follows from the formula ⌊(n + 2 · padding − kernel) / stride⌋ + 1.
#
# **Predict** before you run: which model has the most tokens? Which keeps the most steps in time? Sizes: 224, TimeSformer-HR 448; frames as in section 2.

# %%
def stem_map(size, kernel, stride, padding):
    return tuple((n + 2 * p - k) // s + 1
                 for n, k, s, p in zip(size, kernel, stride, padding))

# %%
strides = {"swin_tiny": 1, "video_swin_tiny": 2,
           "mvit_base_16x4": 4, "mvit_base_32x3": 3,
           "timesformer_divided_8x224": 32,
           "timesformer_hr_16x448": 16, "timesformer_l_96x224": 4,
           "uniformer_small_16": 4, "uniformer_small_32": 4}
print(f"{'':26}{'frames':>6} {'t · h · w':<14}{'tokens':>7}"
      f"{'numbers':>8}{'→ C':>4}{'step':>5}{'seconds':>8}")
for name, every in strides.items():
    # (T, H, W), or (H, W) for images
    *size, H, W = ZOO[name].input[1:]
    count = size[0] if size else 1
    kernel, steps, padding, C = stem_of(name)
    t, h, w = stem_map((count, H, W), kernel, steps, padding)
    gap = f"{steps[0] * every / 30:8.2f}" if size else f"{'none':>8}"
    shape = f"{t} · {h} · {w}"
    print(f"{name:26}{count:6} {shape:<14}{t * h * w:7,}"
          f"{3 * np.prod(kernel):8}{C:4}{steps[0] * every:5}{gap}")

# %% [markdown] tags=["answer"]
# Most tokens: 50,176, for the three video models with 32 frames and tokens of 4 × 4 pixels. Most steps: TimeSformer-L, 96.

# %% [markdown]
# "step" is the number of video frames from one token to the next in time: the stem's stride times the sampling stride. "seconds" is the same at 30 frames a second.
#
# - TimeSformer has few, large tokens: coarse in space, and every picked frame is its own step in time. But at 8×32 the picked frames lie a second apart.
# - The three other video models have tokens of 4 × 4 pixels, 16 times as many in a frame. To pay for them, they merge two frames at the entrance. None of them shortens time again: the 8 or 16 steps last to the end.
# - Video Swin's 32×2 with tubes of 2 has a step of 4 frames, 0.13 s, as fine as TimeSformer-L's, which uses 96 frames. What happens *within* 0.07 s, between the two frames of a tube, is up to the tube's 96 numbers.
#
# **Keep every frame, with tubes of 1 × 4 × 4?** (Asked of the authors of Video Swin.) This can be done: `create("video_swin_tiny", patch=(1, 4, 4))`. It gives 32 steps instead of 16, twice the tokens, and about twice the cost.

# %%
with torch.device("meta"):
    fine = create("video_swin_tiny", patch=(1, 4, 4))
    tokens_of = fine.patch_embed(torch.empty(1, 3, 32, 224, 224)).shape
report(tokens_and_channels=tokens_of[1:],
       numbers_a_token=fine.patch_embed.proj.weight[0].numel())

# %% [markdown] tags=["core"]
# ## 9 · What can a tube of two frames still tell?
#
# Two frames enter, one token leaves. Is the order of the two lost? **Predict**: swap the two frames inside every tube, and leave everything else as it is. Do the tokens change
#
# - with random weights?
# - with weights inflated from an image model (each frame gets half of the image weights; notebook 04 derives it)?

# %%
def swap_in_tubes(x):
    """Exchange frames 0 and 1, 2 and 3, ...: (..., T, H, W)."""
    # (..., T, H, W)
    return x.unflatten(-3, (-1, 2)).flip(-3).flatten(-4, -3)


def tokens_by(weight, x):
    return F.linear(cut_tubes(x, (2, 4, 4)),
                    linear_weight(weight, "cthw"))


_ = torch.manual_seed(0)
double = clip[None].double()                          # (1, 3, T, H, W)
swapped = swap_in_tubes(double)
generic = torch.randn(96, 3, 2, 4, 4, dtype=torch.float64) / 96**0.5
image = torch.randn(96, 3, 4, 4, dtype=torch.float64) / 48**0.5
inflated = torch.stack([image, image], dim=2) / 2     # (96, 3, 2, 4, 4)
differ("random weights, order swapped",
       tokens_by(generic, swapped), tokens_by(generic, double))
agree("inflated weights, order swapped",
      tokens_by(inflated, swapped), tokens_by(inflated, double))

# %% [markdown] tags=["answer"]
# With random weights the tokens change. With inflated weights they do not: these cannot see the order.

# %% [markdown]
# The reason is one line of algebra. With weights W₀ and W₁ for the two frames x₀ and x₁,
#
# W₀x₀ + W₁x₁ = ½ (W₀ + W₁)(x₀ + x₁) + ½ (W₀ − W₁)(x₀ − x₁):
#
# a part that sees the **sum** and a part that sees the **difference**. Swapping changes the sign of the second. Inflation sets it to zero.

# %%
W0, W1 = generic.unbind(2)  # (96, 3, 4, 4) each
see_sum, see_change = (W0 + W1) / 2, (W0 - W1) / 2
both = torch.stack([see_sum + see_change, see_sum - see_change], 2)
agree("the two parts are all", both, generic)
mirrored = torch.stack([see_sum - see_change, see_sum + see_change], 2)
agree("swap = change of sign",
      tokens_by(mirrored, double), tokens_by(generic, swapped))

# %% [markdown]
# How much is lost can be counted. 96 numbers go in, 96 channels come out; how many of them are independent? This number is the [matrix rank](glossary.md#matrix-rank) of the weights.

# %%
def rank(weight):
    matrix = linear_weight(weight, "cthw")
    return int(torch.linalg.matrix_rank(matrix))


report(random=rank(generic), inflated=rank(inflated),
       image=rank(image[:, :, None]))

# %% [markdown]
# With random weights nothing is lost: 96 equations, 96 unknowns. The pixels can be computed back from the tokens. With inflated weights 48 numbers survive: the mean of both frames.
# The next cell does this. Of all videos with these tokens, the [pseudo-inverse](glossary.md#pseudo-inverse) gives the one with the smallest numbers.

# %%
def repaint(tokens, weight):
    """The smallest video (B, 3, T, H, W) that has these tokens."""
    inverse = torch.linalg.pinv(linear_weight(weight, "cthw"))
    numbers = tokens @ inverse.T                      # (..., 96)
    return rearrange(
        numbers, "b T H W (c t h w) -> b c (T t) (H h) (W w)",
        c=3, t=2, h=4, w=4)


from_generic = repaint(tokens_by(generic, double), generic)
from_inflated = repaint(tokens_by(inflated, double), inflated)
# (1, 3, T, H, W)
pair_means = double.unflatten(2, (-1, 2)).mean(3)
pair_means = pair_means.repeat_interleave(2, 2)
agree("random: the video itself", from_generic, double)
agree("inflated: the mean of each pair", from_inflated, pair_means)

# %% tags=["figure"] alt="Four frames of a small part in three rows: the rows video and random show an arm of the flower sharply, the row inflated shows it paler and with double edges."
videos = (double, from_generic, from_inflated)
strips = [v[0, :, 12:16, 20:52, 56:88].float() for v in videos]
show.film_strip(strips, n=4, first=12, width=6.5,
                rows=["video", "random", "inflated"],
                title="Four frames of 32 × 32, painted from tokens")

# %% [markdown]
# In the last row frames come in equal pairs, blurred by the motion between them. So a Video Swin that starts from ImageNet begins with half the frame rate, and must *learn* the difference.
#
# ### What a trained model does
#
# The small model of section 5 was trained from random weights on the eight motions: left and right, up and down, and so on. In each pair, a clip of one motion played backwards is a clip of the other. The model sees 8 frames, three apart (`recipe.stride`), in 4 tubes. Where does it read the direction? Five
# versions of the held-out clips:
#
# | | tubes | inside each tube |
# |---|---|---|
# | in order | 1 2 3 4 | in order |
# | backwards | 4 3 2 1 | swapped |
# | tubes reversed | 4 3 2 1 | in order |
# | tubes shuffled | 3 1 4 2 | in order |
# | frames swapped | 1 2 3 4 | swapped |
#
# **Predict.** What share of the answers is right, in each of the five versions? Write five numbers down. (If the model reads the direction from the order of the tubes, "tubes reversed" looks like "backwards". If it reads the direction inside the tubes, "frames swapped" does.)
#
# In the figure, lines show what the best model could reach. From a single frame it is 1 in 8, a guess among the motions. From frames without order it is 1 in 2: the pair is known, but not which of the two. A bar far *below* 1 in 8 is no guess:
# the model gives the opposite motion. Bars come with one standard error (in notebook 00 with 95 % intervals, about twice as long).

# %%
how_many = 160 if PROFILE == "smoke" else 400
samples = [held_out[i] for i in range(how_many)]
# (how_many, 3, 8, 32, 32)
clips = torch.stack([s["clip"] for s in samples])
labels = torch.tensor([s["label"] for s in samples])
partner = labels ^ 1              # 0 and 1, 2 and 3, ... are pairs
report(clips=clips.shape)
print(*held_out.classes, sep=", ")

# %%
def reverse_tubes(x):
    """The last tube first, each tube as it is."""
    return swap_in_tubes(x.flip(-3))


def shuffle_tubes(x, order=(2, 0, 3, 1)):
    """The four tubes in another order: (..., T, H, W)."""
    tubes = x.unflatten(-3, (-1, 2))          # (..., T/2, 2, H, W)
    return tubes[..., order, :, :, :].flatten(-4, -3)


@torch.no_grad()
def answers(version):
    """The class that the model gives to each clip."""
    return torch.cat([model(part).argmax(1)
                      for part in version.split(40)])

# %%
versions = {"in order": clips, "backwards": clips.flip(-3),
            "tubes reversed": reverse_tubes(clips),
            "tubes shuffled": shuffle_tubes(clips),
            "frames swapped": swap_in_tubes(clips)}
given = {name: answers(version) for name, version in versions.items()}
correct = {name: (a == labels).float().mean().item()
           for name, a in given.items()}

# %% tags=["figure"] alt="Bars of the accuracy of video_swin_mini on held-out clips: long bars, far above the dashed lines at 12.5 % and 50 %, for frames in order, tubes reversed and tubes shuffled; very short bars for backwards and frames swapped."
bars = {name: (p, (p * (1 - p) / how_many) ** 0.5)
        for name, p in correct.items()}
show.ceilings(bars, {"one frame": 0.125, "no order": 0.5},
              f"Top-1 of video_swin_mini on {how_many} clips",
              width=7.5)

# %%
percent = {name: 100 * p for name, p in correct.items()}
within("in order, right", percent["in order"], 80, 100, " %")
within("tubes reversed, right", percent["tubes reversed"],
       75, 100, " %")
within("tubes shuffled, right", percent["tubes shuffled"],
       75, 100, " %")
within("frames swapped, right", percent["frames swapped"], 0, 15, " %")
alike = given["tubes reversed"] == given["in order"]
within("tubes reversed, same answer as in order",
       100 * alike.float().mean().item(), 90, 100, " %")
turned = given["frames swapped"] == partner
within("frames swapped, the partner",
       100 * turned.float().mean().item(), 80, 100, " %")

# %% [markdown] tags=["answer"]
# The model reads the direction **inside the tubes**. Run the four tubes backwards or shuffle them, and the answers hardly change. Swap the frames in each tube, and "left" becomes "right".

# %% [markdown]
# A tube of two frames is enough to tell the direction of a steady motion. The order of the tubes, which attention over time could read, plays next to no part.
#
# Two lessons. The first layer of a video model already carries motion, if its weights may differ between frames. And "the model uses time" can mean very different things. Notebook 04 shows a bias table of this same model that
# *can* tell earlier tokens from later ones. This does not mean that the answer depends on the table. Before you praise the attention, swap the frames in the tubes. (TimeSformer has no tubes. What it knows of order, it has from its time embedding, and from the attention that reads it.)
#
# ## Four tasks
#
# **A formula to complete.** A stem with stride st × sh × sw makes one token of C numbers for each st · sh · sw pixels of 3 colours. So for each number that goes in, … numbers come out. For which models is this less than 1, so that something must be lost? Compare with the cell:

# %%
def numbers_out_for_one_in(name):
    _, strides_of, _, C = stem_of(name)
    return C / (3 * np.prod(strides_of))


for name in ("swin_tiny", "video_swin_tiny", "mvit_base_16x4",
             "timesformer_divided_8x224", "uniformer_small_16"):
    print(f"{name:26}{numbers_out_for_one_in(name):.2f}")

# %% [markdown]
# **A bug to hunt.** This function prepares a clip for the model. The shape is right; mean and deviation of all numbers are right; no error is raised. Which line is wrong? Which figure of this notebook would show it at once?

# %%
def hunted(frames):
    """(T, H, W, 3) bytes -> (3, T, H, W)."""
    x = (frames.float() / 255 - mean) / std
    return x.reshape(3, *frames.shape[:3])


prepared = hunted(frames)
agree("mean", prepared.mean(), clip.mean())
agree("deviation", prepared.std(), clip.std())
differ("the clip", prepared, clip)

# %% [markdown]
# **A thing to explain.** In two sentences: with "frames swapped" every frame is still in the clip, and each is at most one place away from its own. Why does the model nearly always answer with the opposite motion?
#
# **A small experiment.** Predict two accuracies, then measure them: show the first frame of each tube twice, and show the first tube four times.

# %%
pairs_of = clips.unflatten(2, (-1, 2))        # (n, 3, 4, 2, H, W)
first_frame_twice = pairs_of[:, :, :, [0, 0]].flatten(2, 3)
first_tube_repeated = pairs_of[:, :, [0] * 4].flatten(2, 3)
report(shapes=first_frame_twice.shape)
# measure: (answers(first_frame_twice) == labels).float().mean()

# %% [markdown] tags=["answer"]
# <details><summary>Answers</summary>
#
# - Formula: C / (3 · st · sh · sw). Only UniFormer-S has less than 1, 0.67. (At 1 or above nothing *has* to be lost; inflated weights lose half all the same.)
# - Bug: `reshape` moves no number; it must be `permute(3, 0, 1, 2)`. A film strip of the prepared clip shows stripes instead of a flower.
# - Explanation: the tokens hold sum and difference of two frames, and the swap changes only the sign of the difference. That is what the film backwards does inside each tube, and the model reads the direction there.
# - Experiment: 14 % for the first frame twice (12.5 % is a guess): there is motion from tube to tube, and the model does not use it. With equal frames in each tube even the pair is lost. (Note that the model never saw such tubes in training.)
#   88 % for the first tube four times: two frames tell most of it. Four tubes add 11 points because the model sees more of the same motion. Their order adds nearly none: see "tubes shuffled". (160 clips; with 400 the numbers differ by a few points.)
# </details>

# %% [markdown]
# ## What is scaled down, and what was left out
#
# - Clips are drawn, 112 × 112, 32 frames, 16 a second. 300 frames at 30 a second stand for a Kinetics video. Crops, normalisation, stems and the view rules of section 4 follow the released code at full scale; your two
#   index rules are the plain ones, and sections 2 and 3 say where the released ones differ.
# - The finding of section 9 is about one model of a third of a million parameters and steady motions. It does not say what a Video Swin trained on Kinetics does.
# - The random start of a clip, random crops, flips and colour augmentation belong to training: notebook 08.
# - The position of a token (embeddings, biases) comes with each model: notebooks 03 to 07.
#
# ## Summary
#
# - A clip from a decoder is bytes, (T, H, W, 3), RGB. A model takes floats, (B, 3, T, H, W), normalised as its weights expect.
# - Dense clips span (T − 1) · stride + 1 frames of one place; uniform ones take the middle of T segments of the whole video.
# - A test averages clips × crops views; a stated cost is usually that of one.
# - Cut + linear layer = convolution with stride = kernel, on the same weights: 48 numbers a token in Swin, 96 in Video Swin, 768 in TimeSformer. The cubes of MViT (441) and UniFormer (144) overlap and copy numbers.
# - A tube's weights have a part for the sum and a part for the difference of its frames. Inflated weights lack the second: half the frame rate, until trained.
#
# ## Questionnaire
#
# 1. How many frames does 16×4 span? How many starts fit into 300 frames?
# 2. You train with 32×2 on videos of 50 frames. What does mmaction do, what SlowFast?
# 3. A paper states 281 GMACs and 4 × 3 views. What does one video cost?
# 4. Released weights give 3 points less than stated, from one centre view. Name three things to check first.
# 5. Which numbers of the video does token (0, 0, 1) of Video Swin hold? Which of them does `x.reshape(B, T/2, H/4, W/4, 96)` put there?
# 6. Why can `reshape` and `permute` not build MViT's cubes?
# 7. An inflated Video Swin sees a clip and the same clip with the frames swapped in each tube. Compare the tokens. And for the whole clip backwards?
# 8. The reader says that a file is empty. What are the likely causes, and when should you find out?
# 9. You change `decoder=pyav` to `decoder=decord`, and 40 clips are refused. What may be wrong with them, and why is that better than reading them?

# %% [markdown] tags=["answer"]
# <details><summary>Answers</summary>
#
# 1. 15 · 4 + 1 = 61 frames; 300 − 61 + 1 = 240 starts (section 2).
# 2. The span is 63. mmaction loops: after frame 48 comes frame 0. SlowFast repeats frame 49 (section 2).
# 3. 12 · 281 = 3,372 GMACs (section 4).
# 4. The number of views; mean, deviation and scale; RGB or BGR. Then short side, averaging, class order (section 5).
# 5. Frames 0 and 1, rows 0 to 3, columns 4 to 7, all colours. A plain reshape takes numbers 96 to 191 in memory: red, frame 0, from its first rows (section 6).
# 6. They only move numbers; overlapping cubes hold a pixel up to 8 times (section 7).
# 7. Equal. Backwards: the same tokens in reverse order of time (section 9).
# 8. The download was cut short, or the disk was full. Before the training: `vt-course data verify FOLDER` (section 1).
# 9. Their groups of pictures may be open, so that decord would show other frames. (`docs/researchers.md` lists its other faults.) Read in this way, they would be wrong clips, and nobody would notice (section 1).
# </details>

# %% [markdown]
# **Next:** [02 · Attention and what it costs](02_attention_and_cost.ipynb).
