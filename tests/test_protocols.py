"""The views of each paper: every frame and every crop, as worked out by hand from the rules of the authors' code."""

import dataclasses

import numpy as np
import pytest
import torch

from vt_course import CourseError
from vt_course.data.clips import Rows, VideoFolder
from vt_course.data.loading import KeptFrames
from vt_course.data.reader import ClipReader
from vt_course.fetch.weights import releases
from vt_course.models import ZOO
from vt_course.training import protocols, trained
from vt_course.training.protocols import PROTOCOLS, Shown, Views, boxes, frame_numbers, protocol_named, scaled

from videos import decode, rotate_tag, write_video

# ---------------------------------------------------------------- frames

# mmaction, SampleFrames in test mode: start_i = floor(i * avg + avg / 2), avg = (N - 32 * 2 + 1) / 4, and gaps of 2.
# SlowFast, decoder.py with USE_OFFSET_SAMPLING: start_i = i * floor((N - L) / (clips - 1)), for one clip
# floor((N - L) / 2). L, the length of the clip in frames of the video, is frames * stride * fps / 30. The frames are
# linspace(start, start + L - 1), rounded down, and at most N - 1.
SIXTEEN = [0, 4, 8, 12, 16, 21, 25, 29, 33, 37, 42, 46, 50, 54, 58, 63]  # floor(k * 63 / 15): 63 / 15 is 4.2
MVIT = Shown(16, 4, 224, rate=30.0)
CASES = {
    # name: (protocol, shown, frames of the video, frames a second, the frames of each clip)
    # 300: avg 237 / 4 = 59.25: starts 29.6, 88.9, 148.1, 207.4
    "swin": ("swin", Shown(32, 2, 224), 300, 30, [[s + 2 * k for k in range(32)] for s in (29, 88, 148, 207)]),
    # 251: avg 188 / 4 = 47: starts 23.5, 70.5, 117.5, 164.5
    "swin, odd": ("swin", Shown(32, 2, 224), 251, 24, [[s + 2 * k for k in range(32)] for s in (23, 70, 117, 164)]),
    # 70: avg 7 / 4: starts 0.9, 2.6, 4.4, 6.1. The last frame of the last clip is 6 + 62 = 68.
    "swin, tight": ("swin", Shown(32, 2, 224), 70, 30, [[s + 2 * k for k in range(32)] for s in (0, 2, 4, 6)]),
    # 50 is less than 64: all starts are (50 - 63) -> 0, and after frame 48 comes 50 - 50 = 0: it loops
    "swin, short": ("swin", Shown(32, 2, 224), 50, 30, [[*range(0, 50, 2), *range(0, 14, 2)]] * 4),
    "swin, two frames": ("swin", Shown(4, 1, 224), 2, 30, [[0, 1, 0, 1]] * 4),
    # 300: (300 - 64) / 4 = 59
    "mvit": ("mvit", MVIT, 300, 30, [[s + k for k in SIXTEEN] for s in (0, 59, 118, 177, 236)]),
    # 25 frames a second: L = 64 * 25 / 30 = 53.33, floor(246.67 / 4) = 61, gaps of 52.33 / 15 = 3.489
    "mvit, 25 fps": (
        "mvit",
        MVIT,
        300,
        25,
        [
            [s + k for k in (0, 3, 6, 10, 13, 17, 20, 24, 27, 31, 34, 38, 41, 45, 48, 52)]
            for s in (0, 61, 122, 183, 244)
        ],
    ),
    # our own runs count frames, whatever their rate
    "mvit, own run": ("mvit", Shown(16, 4, 224), 300, 25, [[s + k for k in SIXTEEN] for s in (0, 59, 118, 177, 236)]),
    # 40 is less than 64: no room, and frames after 39 are 39
    "mvit, short": ("mvit", MVIT, 40, 30, [[0, 4, 8, 12, 16, 21, 25, 29, 33, 37, *[39] * 6]] * 5),
    # UniFormer reads with decord, which knows no rate: floor((250 - 64) / 3) = 62 at any rate
    "uniformer": ("uniformer", Shown(16, 4, 224), 250, 25, [[s + k for k in SIXTEEN] for s in (0, 62, 124, 186)]),
    "uniformer, short": ("uniformer", Shown(4, 2, 224), 5, 30, [[0, 2, 4, 4]] * 4),  # floor(k * 7 / 3): 0 2 4 7 -> 4
    # 8 x 32: gaps of 255 / 7 = 36.43. The released code begins at 44 * 0 / 1 = 0, the paper's clip at floor(44 / 2).
    "timesformer": ("timesformer", Shown(8, 32, 224), 300, 30, [[0, 36, 72, 109, 145, 182, 218, 255]]),
    "timesformer-paper": ("timesformer-paper", Shown(8, 32, 224), 300, 30, [[22, 58, 94, 131, 167, 204, 240, 277]]),
    "timesformer, short": ("timesformer", Shown(8, 32, 224), 100, 30, [[0, 36, 72, 99, 99, 99, 99, 99]]),
    # Something-Something, SlowFast's ssv2.py: s = (N - 1) / frames, the middle of round(i s) and round((i + 1) s).
    # 49: s = 3, edges 0, 3, 6, ..., middles 1 (of 0 and 3), 4 (of 3 and 6), ...
    "mvit-ssv2": ("mvit-ssv2", Shown(16, 1, 224, "slowfast_ssv2"), 49, 12, [list(range(1, 49, 3))]),
    # 10: s = 0.5625, edges 0 1 1 2 2 3 3 4 4 5 6 6 7 7 8 8 9 (4.5 is rounded to the even 4)
    "swin-ssv2, short": (
        "swin-ssv2",
        Shown(16, 1, 224, "slowfast_ssv2"),
        10,
        12,
        [[0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 6, 7, 7, 8, 8]],
    ),
    "timesformer-ssv2": ("timesformer-ssv2", Shown(4, 1, 224, "slowfast_ssv2"), 17, 12, [[2, 6, 10, 14]]),
    # UniFormer's sth.py: round(i s) + floor(s (c + 1) / (clips + 1)). 33: s = 2, and 2 * 1 / 2 = 1.
    "uniformer-ssv2": ("uniformer-ssv2", Shown(16, 1, 224, "uniformer_ssv2"), 33, 12, [list(range(1, 33, 2))]),
    # the course's validation: 8 x 3 spans 22 frames, and starts 0 to 8 fit into 30: the middle one is 4
    "centre": ("centre", Shown(8, 3, 32), 30, 24, [list(range(4, 28, 3))]),
    "centre, short": ("centre", Shown(4, 2, 32), 3, 24, [[0, 2, 1, 0]]),  # 0 2 4 6, looped
    "centre, UniFormer's segments": ("centre", Shown(16, 1, 224, "uniformer_ssv2"), 33, 12, [list(range(1, 33, 2))]),
    "centre, segments": ("centre", Shown(4, 1, 32, "uniform"), 16, 24, [[2, 6, 10, 14]]),
}


@pytest.mark.parametrize("name", CASES)
def test_frames(name):
    protocol, shown, num_frames, fps, wanted = CASES[name]
    found = frame_numbers(PROTOCOLS[protocol], shown, num_frames, fps)
    assert found.tolist() == wanted
    assert found.shape == (PROTOCOLS[protocol].clips, shown.frames) and found.dtype == np.int64


def test_every_protocol_has_a_case_of_its_frames_and_a_source():
    assert {case[0] for case in CASES.values()} == set(PROTOCOLS)
    assert all(protocol.source for protocol in PROTOCOLS.values())


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("num_frames", [1, 2, 3, 17, 64, 65, 299])
def test_no_rule_leaves_the_video(name, num_frames):
    segments = PROTOCOLS[name].time in protocols.SEGMENTS
    for frames, stride in ((1, 1), (16, 4), (32, 2)):
        shown = Shown(frames, stride, 224, "slowfast_ssv2" if segments else "dense", rate=30.0)
        found = frame_numbers(PROTOCOLS[name], shown, num_frames, 29.97)
        assert found.shape == (PROTOCOLS[name].clips, frames) and 0 <= found.min() <= found.max() < num_frames


# ---------------------------------------------------------------- pixels

# (height, width) of the file -> (height, width) before the crop, [(top, left)], for crops of 224 unless said.
# mmaction: Resize(-1, 224) rounds half up; ThreeCrop: step = (long - 224) // 2, at 0, step, 2 * step.
# SlowFast: the long side is rounded down; uniform_crop: at 0, ceil(margin / 2), margin. One crop: short side 256.
BOXES = {
    # 340 * 224 / 256 = 297.5 -> 298, margin 74
    "swin": ("swin", (256, 340), 224, (224, 298), [(0, 0), (0, 37), (0, 74)]),
    "swin, portrait": ("swin", (340, 256), 224, (298, 224), [(0, 0), (37, 0), (74, 0)]),
    # margin 3, step 1: the last crop ends one column before the edge
    "swin, odd": ("swin", (224, 227), 224, (224, 227), [(0, 0), (0, 1), (0, 2)]),
    "swin, square": ("swin", (256, 256), 224, (224, 224), [(0, 0)] * 3),
    # 241 * 112 / 137 = 197.02, margin 85, step 42
    "swin, odd sizes": ("swin-ssv2", (137, 241), 112, (112, 197), [(0, 0), (0, 42), (0, 84)]),
    # 297.5 -> 297, margin 73: ceil(36.5) = 37
    "timesformer": ("timesformer", (256, 340), 224, (224, 297), [(0, 0), (0, 37), (0, 73)]),
    "timesformer, portrait": ("timesformer-paper", (340, 256), 224, (297, 224), [(0, 0), (37, 0), (73, 0)]),
    "timesformer, odd": ("timesformer-ssv2", (224, 227), 224, (224, 227), [(0, 0), (0, 2), (0, 3)]),
    "timesformer, enlarged": ("timesformer", (120, 160), 224, (224, 298), [(0, 0), (0, 37), (0, 74)]),  # 298.67
    # 240 x 320 -> 256 x 341 (341.33): top ceil(32 / 2) = 16, left ceil(117 / 2) = 59
    "mvit": ("mvit", (240, 320), 224, (256, 341), [(16, 59)]),
    "mvit, portrait": ("mvit", (320, 240), 224, (341, 256), [(59, 16)]),
    # 112 * 256 / 224 = 128; 241 * 128 / 137 = 225.17: left ceil(113 / 2) = 57
    "mvit, odd sizes": ("mvit", (137, 241), 112, (128, 225), [(8, 57)]),
    "mvit-ssv2": ("mvit-ssv2", (240, 427), 224, (224, 398), [(0, 0), (0, 87), (0, 174)]),  # 398.53, margin 174
    # its single crop has the short side of the crop: 320 * 224 / 240 = 298.67 -> 298
    "uniformer": ("uniformer", (240, 320), 224, (224, 298), [(0, 37)]),
    "uniformer-ssv2": ("uniformer-ssv2", (320, 240), 224, (298, 224), [(0, 0), (37, 0), (74, 0)]),
    "centre": ("centre", (36, 51), 32, (32, 45), [(0, 6)]),  # 45.33, margin 13
    # the single crop of Video Swin's validation: Resize(-1, 256), CenterCrop(224): (340 - 224) // 2
    "4x1": ("4x1", (256, 340), 224, (256, 340), [(16, 58)]),
}


@pytest.mark.parametrize("name", BOXES)
def test_boxes(name):
    protocol, size, crop, small, wanted = BOXES[name]
    protocol = protocol_named(protocol)
    assert scaled(protocol, *size, crop) == small
    assert boxes(protocol, *small, crop) == wanted
    assert all(top + crop <= small[0] and left + crop <= small[1] for top, left in wanted)


def test_every_protocol_has_a_case_of_its_boxes():
    assert set(PROTOCOLS) <= {case[0] for case in BOXES.values()}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "wide.mp4", frames=30, size=(48, 70), bframes=2)
    write_video(folder / "high.mp4", frames=5, size=(70, 48))
    rotate_tag(folder / "wide.mp4", folder / "turned.mp4")
    return folder


@pytest.mark.parametrize("name", ["wide", "high", "turned"])
def test_the_views_of_a_file_are_these_frames_and_these_pixels(name, files):
    """Where nothing is scaled: exactly the pixels of a full decode by PyAV."""
    path, shown = files / f"{name}.mp4", Shown(4, 3, 48)
    views = protocols.read_views(ClipReader(path), PROTOCOLS["swin"], shown)
    frames = decode(path)
    frames = np.rot90(frames, -1, (1, 2)) if name == "turned" else frames
    numbers = frame_numbers(PROTOCOLS["swin"], shown, len(frames))
    corners = [(0, 0), (0, 11), (0, 22)] if name == "wide" else [(0, 0), (11, 0), (22, 0)]  # margin 22
    wanted = [frames[clip][:, y : y + 48, x : x + 48] for clip in numbers for y, x in corners]
    assert views.dtype == torch.uint8 and np.array_equal(views.numpy(), np.stack(wanted))


@pytest.mark.parametrize("sampling", ["dense", "uniform"])
@pytest.mark.parametrize("keep", [0, 40])
def test_the_centre_is_the_clip_that_validation_sees(files, sampling, keep):
    rows = Rows([dict(path=str(files / "wide.mp4"), label="a", start=None, end=None)], "rows")
    same = dict(frames=4, stride=2, size=32, sampling=sampling, classes=("a",), train=False)
    seen = (KeptFrames(rows, keep=keep, **same) if keep else VideoFolder(rows, **same))[0]["clip"]  # (C, T, H, W)
    shown = Shown(4, 2, 32, sampling, keep=keep)
    views = Views(rows, classes=("a",), protocol=PROTOCOLS["centre"], shown=shown)[0]["clip"]  # (1, T, H, W, C)
    assert torch.equal(protocols.to_floats(views, shown)[0], seen)


def test_views_of_a_part_of_a_video(files):
    rows = Rows([dict(path=str(files / "wide.mp4"), label="a", start=0.5, end=1.0)], "rows")  # frames 12 to 23
    views = Views(rows, classes=("a",), protocol=protocol_named("2x1"), shown=Shown(2, 2, 42))[0]["clip"]
    whole = ClipReader(files / "wide.mp4")
    wanted = protocols.read_views(whole, protocol_named("2x1"), Shown(2, 2, 42), 12, 24)
    assert torch.equal(views, wanted) and views.shape == (2, 2, 42, 42, 3)
    # avg = (12 - 4 + 1) / 2 = 4.5: starts 2 and 6, after frame 12
    assert torch.equal(wanted[1, 0], protocols.read_views(whole, protocol_named("1x1"), Shown(1, 1, 42), 18, 19)[0, 0])


def test_colours_are_those_of_the_weights():
    views = torch.arange(24, dtype=torch.uint8).view(1, 1, 2, 4, 3)  # (V, T, H, W, C)
    plain = protocols.to_floats(views, Shown(1, 1, 2, mean=(0, 0, 0), std=(1, 1, 1)))
    assert plain.shape == (1, 3, 1, 2, 4) and plain[0, 2, 0, 0, 1].item() == pytest.approx(5 / 255)
    turned = protocols.to_floats(views, Shown(1, 1, 2, mean=(0, 0, 0), std=(1, 1, 1), bgr=True))
    assert torch.equal(turned, plain.flip(1))


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name, family, wanted",
    [
        ("4x3", "swin", (4, 3, "video_swin", 1.0, "softmax")),
        ("2x1", "swin", (2, 1, "video_swin", 256 / 224, "softmax")),
        ("4x3", "uniformer", (4, 3, "uniformer", 1.0, "logits")),
        ("10x1", "uniformer", (10, 1, "uniformer", 1.0, "logits")),
        ("3x3", "mvit", (3, 3, "mvit", 1.0, "softmax")),
        ("1x1", "timesformer", (1, 1, "timesformer", 256 / 224, "logits")),
    ],
)
def test_clips_and_crops_follow_the_rules_of_the_family(name, family, wanted):
    protocol = protocol_named(name, family)
    assert (protocol.clips, protocol.crops, protocol.time, protocol.short, protocol.average) == wanted
    assert protocol.views == name


@pytest.mark.parametrize(
    "name, family, words",
    [
        ("mvitt", "swin", "did you mean mvit?"),
        ("views", "swin", "or give clips and crops, as in 4x3"),
        ("0x3", "swin", "there is no protocol '0x3'"),
        ("4x2", "swin", "4x2 has 2 crops a clip"),
        ("10x5", "mvit", "have 1 or 3"),
        ("4x3", "swin-ssv2", "one clip of swin-ssv2 spans the whole video"),
    ],
)
def test_other_names_are_refused(name, family, words):
    with pytest.raises(CourseError, match=words):
        protocol_named(name, family)


def test_a_protocol_must_fit_how_the_model_learnt():
    dense, spread = Shown(8, 2, 32), Shown(8, 2, 32, "uniform")
    with pytest.raises(CourseError, match="mvit takes dense clips .*, but x has learnt from one frame of each segment"):
        protocols.check_sampling(PROTOCOLS["mvit"], spread, "x")
    with pytest.raises(CourseError, match="uniformer-ssv2 takes one frame .* choose one of centre, swin, mvit, "):
        protocols.check_sampling(PROTOCOLS["uniformer-ssv2"], dense, "x")
    for name, shown in (("mvit", dense), ("mvit-ssv2", spread), ("centre", dense), ("centre", spread)):
        protocols.check_sampling(PROTOCOLS[name], shown, "x")


# ---------------------------------------------------------------- published weights

GREY, COLOUR = (0.45, 0.45, 0.45), (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    "release, frames, stride, size, views, average, mean, on",
    [
        ("video_swin_tiny/k400", 32, 2, 224, "4x3", "softmax", COLOUR, "Kinetics-400"),
        ("video_swin_base_ssv2/ssv2", 32, None, 224, "1x3", "softmax", COLOUR, "Something-Something v2"),
        ("mvit_base_16x4/k400", 16, 4, 224, "5x1", "softmax", GREY, "Kinetics-400"),
        ("mvit_base_24_32x3/k600", 32, 3, 224, "5x1", "softmax", GREY, "Kinetics-600"),
        ("mvit_v2_large_40x3/k400", 40, 3, 312, "5x3", "softmax", COLOUR, "Kinetics-400"),
        ("mvit_v2_small_16x4/ssv2", 16, None, 224, "1x3", "softmax", GREY, "Something-Something v2"),
        ("timesformer_divided_8x224/k400", 8, 32, 224, "1x3", "logits", GREY, "Kinetics-400"),
        ("timesformer_hr_16x448/k600", 16, 16, 448, "1x3", "logits", GREY, "Kinetics-600"),
        ("timesformer_l_96x224/howto100m", 96, 32, 224, "1x3", "logits", GREY, "HowTo100M"),
        ("timesformer_l_96x224/howto100m_64", 64, 32, 224, "1x3", "logits", GREY, "HowTo100M"),
        ("timesformer_l_96x224/k400", 96, 4, 224, "1x3", "logits", GREY, "Kinetics-400"),
        ("uniformer_small_16/k400_16x8", 16, 8, 224, "4x1", "logits", GREY, "Kinetics-400"),
        ("uniformer_base_32_ssv2/ssv2_k600", 32, None, 224, "1x3", "logits", GREY, "Something-Something v2, after"),
        ("torchvision/mvit_v2_s", 16, 4, 224, "5x1", "softmax", GREY, "Kinetics-400"),
        ("swin_tiny/in1k_in22k", 1, 1, 224, "1x1", "softmax", COLOUR, "ImageNet-1K"),
    ],
)
def test_published_weights_are_shown_what_their_authors_showed(release, frames, stride, size, views, average, mean, on):
    told = releases()[release]
    found = trained.published(release, told.variant, told.settings, told.url)
    shown, protocol = found["shown"], found["protocol"]
    assert (shown.frames, shown.size, shown.mean) == (frames, size, mean) and not shown.antialias
    assert (protocol.views, protocol.average) == (views, average) and found["trained_on"].startswith(on)
    assert shown.stride == stride if stride else shown.sampling == protocol.time
    assert shown.bgr == (release == "mvit_v2_small_16x4/ssv2")
    protocols.check_sampling(protocol, shown, release)


def test_all_published_weights_have_such_facts():
    for name, release in releases().items():
        found = trained.published(name, release.variant, release.settings, release.url)
        variant, shown, protocol = ZOO[release.variant], found["shown"], found["protocol"]
        frames = 1 if len(variant.input) == 3 else release.settings.get("num_frames", variant.input[1])
        assert (shown.frames, shown.size) == (frames, variant.input[-1]) and shown.stride >= 1
        assert protocol.views == variant.views or found["family"].endswith("-ssv2")
        assert protocol.time in ("centre", *protocols.VIEW_RULES, *protocols.SEGMENT_RULES)


def test_classes_are_named_only_where_their_order_is_known():
    names = trained.class_names("mvit_base_16x4/k400", "mvit_base_16x4")
    assert len(names) == 400 and names[0] == "abseiling"
    assert len(trained.class_names("swin_tiny/in1k", "swin_tiny")) == 1000
    for release in ("uniformer_small_16/k400_16x4", "video_swin_base_k600/k600", "mvit_v2_small_16x4/ssv2"):
        assert trained.class_names(release, releases()[release].variant) is None


def test_names_of_classes_from_a_file(tmp_path):
    model = trained.open_model("video_swin_mini")
    file = tmp_path / "names.txt"
    file.write_text("\n".join("abcdefgh"), encoding="utf-8")
    named = trained.name_classes(dataclasses.replace(model, numbered=True), file)
    assert named.classes == tuple("abcdefgh") and not named.numbered
    for text in ("a\nb\n", "\n".join("abcdefgg")):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(CourseError, match="video_swin_mini has 8; write each once"):
            trained.name_classes(model, file)
