"""Which frames, how they are read, what bad files say, and the data set that joins it all."""

import os
import pickle
import shutil
import time
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from vt_course import CourseError
from vt_course.data import clips, transforms, verify
from vt_course.data import reader as reader_module
from vt_course.data.clips import (
    VideoFolder,
    collate,
    dense_indices,
    iter_views,
    mvit_views,
    read_manifest,
    slowfast_segments,
    timesformer_views,
    uniform_indices,
    uniformer_ssv2_views,
    video_swin_views,
)
from vt_course.data.reader import BadClip, ClipReader

from videos import cut_without_encoding, decode, rotate_tag, write_audio, write_interlaced, write_video

# ------------------------------------------------------------------------- index rules


@pytest.mark.parametrize(
    "num_frames, frames, stride, position, wanted",
    [
        (10, 4, 2, "start", [0, 2, 4, 6]),
        (10, 4, 2, "centre", [1, 3, 5, 7]),  # spans 7, so starts 0 to 3 fit: 3 // 2 = 1
        (11, 4, 2, "centre", [2, 4, 6, 8]),
        (7, 4, 2, "centre", [0, 2, 4, 6]),  # just fits
        (5, 4, 2, "centre", [0, 2, 4, 1]),  # too short: 6 is frame 6 - 5 = 1
        (3, 4, 3, "start", [0, 0, 0, 0]),  # 0, 3, 6, 9 all loop to 0
        (1, 3, 1, "centre", [0, 0, 0]),
    ],
)
def test_dense_indices(num_frames, frames, stride, position, wanted):
    assert dense_indices(num_frames, frames, stride, position).tolist() == wanted


def test_dense_random_starts_are_all_that_fit_and_equally_likely():
    rng = np.random.default_rng(0)
    drawn = np.array([dense_indices(10, 4, 2, "random", rng) for _ in range(4000)])
    assert (np.diff(drawn) == 2).all()
    counts = np.bincount(drawn[:, 0])
    assert len(counts) == 4 and (abs(counts - 1000) < 5 * np.sqrt(750)).all()


def test_uniform_indices():
    assert uniform_indices(10, 4).tolist() == [1, 3, 6, 8]  # floor of 1.25, 3.75, 6.25, 8.75
    assert uniform_indices(32, 32).tolist() == list(range(32))
    assert uniform_indices(3, 4).tolist() == [0, 1, 1, 2]  # repeats in place, never loops
    rng = np.random.default_rng(0)
    drawn = np.array([uniform_indices(10, 4, rng) for _ in range(300)])
    assert [sorted(set(column)) for column in drawn.T.tolist()] == [
        [0, 1],
        [2, 3, 4],
        [5, 6],
        [7, 8, 9],
    ]  # edges 0, 2, 5, 7, 10


def test_slowfast_segments():
    # s = 10 / 4 = 2.5; np.round(0, 2.5, 5, 7.5, 10) is 0, 2, 5, 8, 10 (halves to even)
    assert slowfast_segments(11, 4).tolist() == [1, 3, 6, 9]
    rng = np.random.default_rng(0)
    drawn = np.array([slowfast_segments(11, 4, rng) for _ in range(300)])
    assert drawn.min(0).tolist() == [0, 2, 5, 8] and drawn.max(0).tolist() == [2, 5, 8, 10]


def test_video_swin_views():
    # 300 - 32 * 2 + 1 = 237 starts, avg = 59.25: 29.625, 88.875, 148.125, 207.375
    views = video_swin_views(300, 32, 2, 4)
    assert views.shape == (4, 32) and views[:, 0].tolist() == [29, 88, 148, 207]
    assert (np.diff(views) == 2).all()
    looped = video_swin_views(50, 32, 2, 4)[3]  # 48, then 50 -> 0, ... 62 -> 12
    assert looped[:25].tolist() == list(range(0, 50, 2))
    assert looped[25:].tolist() == list(range(0, 14, 2))


def test_mvit_views():
    # delta = 303 - 64 = 239, floor(239 / 4) = 59: the last clip begins at 236, not at 239
    views = mvit_views(303, 16, 4, 5)
    assert views[:, 0].tolist() == [0, 59, 118, 177, 236]
    # 63 / 15 = 4.2 apart, rounded down: not a stride of 4
    assert views[0].tolist() == [0, 4, 8, 12, 16, 21, 25, 29, 33, 37, 42, 46, 50, 54, 58, 63]
    assert mvit_views(303, 16, 4, 1)[0, 0] == 119  # floor(239 / 2)
    assert mvit_views(40, 16, 4, 1)[0, -6:].tolist() == [39] * 6  # clamped: no loop


def test_timesformer_views_begin_at_zero_where_the_paper_takes_the_middle():
    # 255 / 7 = 36.43 apart; delta = 300 - 256 = 44
    assert timesformer_views(300, 8, 32, 1)[0].tolist() == [0, 36, 72, 109, 145, 182, 218, 255]
    assert timesformer_views(300, 8, 32, 4)[:, 0].tolist() == [0, 11, 22, 33]
    assert mvit_views(300, 8, 32, 1)[0, 0] == 22


def test_uniformer_ssv2_views():
    # s = 16 / 4 = 4: segments begin at 0, 4, 8, 12; one clip is s / 2 in, three are 1, 2, 3 in
    assert uniformer_ssv2_views(17, 4, 1, 1).tolist() == [[2, 6, 10, 14]]
    assert uniformer_ssv2_views(17, 4, 1, 3)[:, 0].tolist() == [1, 2, 3]


@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 9), st.integers(1, 10))
def test_every_rule_stays_inside_the_video(num_frames, frames, stride, count):
    rng = np.random.default_rng(0)
    found = [rule(num_frames, frames, stride, count) for rule in clips.VIEW_RULES.values()]
    assert all(index.shape == (count, frames) for index in found)
    segments = [rule(num_frames, frames, r) for rule in clips.SEGMENT_RULES.values() for r in (None, rng)]
    assert all((np.diff(index) >= 0).all() for index in segments)
    found += segments + [
        dense_indices(num_frames, frames, stride, place, rng) for place in ("start", "centre", "random")
    ]
    for index in found:
        assert index.dtype == np.int64 and index.shape[-1] == frames
        assert index.min() >= 0 and index.max() < num_frames


# ------------------------------------------------------------------------- reading


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Healthy files of several kinds."""
    at = tmp_path_factory.mktemp("healthy")
    write_video(at / "plain.mp4", frames=40, bframes=2, faststart=True)
    write_video(at / "intra.mp4", frames=32, gop=1)
    write_video(at / "portrait.mp4", frames=8, size=(120, 54))
    write_video(at / "odd.mp4", frames=8, size=(51, 67), pixels="yuv444p")
    write_video(at / "narrow.mp4", frames=20, size=(64, 48))
    write_video(at / "one.mp4", frames=1)
    write_video(at / "ünï cödé 视频.mp4", frames=8)
    write_video(at / "old.avi", frames=20, codec="mpeg4")
    write_video(at / "matroska.mkv", frames=20)
    write_video(at / "web.webm", frames=20, codec="libvpx")
    write_video(at / "vfr.mp4", frames=12, times=[0, 1, 2, 3, 12, 13, 14, 30, 31, 60, 61, 62])
    rotate_tag(at / "portrait.mp4", at / "turned.mp4")
    return at


HEALTHY = [
    "plain.mp4",
    "intra.mp4",
    "portrait.mp4",
    "odd.mp4",
    "narrow.mp4",
    "one.mp4",
    "ünï cödé 视频.mp4",
    "old.avi",
    "matroska.mkv",
    "web.webm",
    "vfr.mp4",
]


@pytest.mark.parametrize("name", HEALTHY)
def test_read_agrees_with_a_sequential_decode_in_any_order(folder, name):
    oracle = decode(folder / name)
    reader = ClipReader(folder / name)
    assert reader.num_frames == len(oracle) and reader.size == oracle.shape[1:3]
    rng = np.random.default_rng(0)
    for count in (1, 3, 8):
        wanted = rng.integers(0, len(oracle), count)  # unsorted, with repeats
        clip = ClipReader(folder / name).read(wanted)
        assert clip.dtype == np.uint8
        np.testing.assert_array_equal(clip, oracle[wanted])
    np.testing.assert_array_equal(reader.read(range(len(oracle))), oracle)


@pytest.mark.parametrize("wanted", [range(0, 32, 2), [31, 0], [9, 9, 8, 7], range(31, -1, -1), [0, 15, 31], [5]])
def test_read_returns_the_order_asked_for(folder, wanted):
    oracle = decode(folder / "intra.mp4")
    np.testing.assert_array_equal(ClipReader(folder / "intra.mp4").read(wanted), oracle[wanted])


SOUGHT = {
    "b frames.mp4": dict(bframes=3),
    "b frames.mkv": dict(bframes=3),
    "open.mp4": dict(codec="libx265", bframes=2),
    "open.mkv": dict(codec="libx265", bframes=2),
    "old.avi": dict(codec="mpeg4"),
    "vp9.webm": dict(codec="libvpx-vp9"),
    "av1.mp4": dict(codec="libsvtav1", size=(64, 64)),
    "vfr.mp4": dict(times=[k * k for k in range(60)]),
}
SCANNED = {
    "guessed.avi": dict(bframes=2),
    "mpeg4.avi": dict(codec="mpeg4", bframes=2),
    "copied.mp4": {},
    "edited.mp4": dict(bframes=2),
}


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Files of five groups of pictures, and a tar that holds one of them."""
    at = tmp_path_factory.mktemp("long")
    for name, how in {**SOUGHT, **SCANNED}.items():
        write_video(at / name, frames=60, **how)
    write_video(at / "whole.mp4", frames=80, bframes=2)
    cut_without_encoding(at / "whole.mp4", at / "copied.mp4", 0.7)
    edited = bytearray((at / "edited.mp4").read_bytes())
    place = edited.index(b"elst") + 12  # the edit's duration, halved
    edited[place : place + 4] = (int.from_bytes(edited[place : place + 4], "big") // 2).to_bytes(4, "big")
    (at / "edited.mp4").write_bytes(edited)
    video = (at / "b frames.mp4").read_bytes()
    (at / "in a tar").write_bytes(b"x" * 512 + video + b"y" * 512)
    return at, (512, len(video))


@pytest.mark.parametrize("name", [*SOUGHT, *SCANNED, "in a tar"])
def test_a_long_file_is_sought_not_read_and_shows_the_same(long, name, monkeypatch):
    """What a video of hours takes: seeks for what is wanted, to the same pixels; a scan only where a seek may not be
    trusted."""
    at, span = long
    span, source = (span, "b frames.mp4") if name == "in a tar" else (None, name)
    oracle, short = decode(at / source), ClipReader(at / source)
    monkeypatch.setattr("vt_course.data.reader." + ("INDEXED" if name.endswith(".mp4") else "KEEP"), 0)
    if name in SOUGHT:  # reading all from the beginning would end here
        monkeypatch.setattr(ClipReader, "_packets", None)
    if name.endswith(".mp4") and name in SOUGHT:
        monkeypatch.setattr("vt_course.data.reader._scanned_table", None)
    reader = ClipReader(at / name, span=span)
    assert reader.num_frames == len(oracle) and (reader.seconds, reader.fps) == (short.seconds, short.fps)
    assert reader.frame_range(0.5, 1) == short.frame_range(0.5, 1)
    rng, last = np.random.default_rng(0), len(oracle) - 1
    for wanted in ([last, 3, 3], [0], [1, last - 1], range(12, 30, 3), rng.integers(0, last, 4), range(len(oracle))):
        np.testing.assert_array_equal(reader.read(wanted), oracle[list(wanted)])


@pytest.mark.parametrize("change", ["pts", "keys", "count", "landing"])
def test_an_index_that_says_something_else_than_the_packets_is_not_believed(long, monkeypatch, change):
    at, _ = long
    oracle, tables = decode(at / "b frames.mp4"), reader_module._sample_tables

    def wrong(file):
        pts, dts, durations, keys = tables(file)
        if change == "pts":  # in the middle, where opening does not look
            pts[[20, 21]] = pts[[21, 20]]
        if change == "keys":
            keys[17] = True
        return [column[1:] if change == "count" else column for column in (pts, dts, durations, keys)]

    monkeypatch.setattr(reader_module, "INDEXED", 0)
    monkeypatch.setattr(reader_module, "_sample_tables", wrong)
    reader = ClipReader(at / "b frames.mp4")
    assert reader.num_frames == 60
    if change == "landing":  # at the key frame after the one that is needed
        reader._dts = reader._dts + 12 * 512
    np.testing.assert_array_equal(reader.read([18, 22, 20, 59]), oracle[[18, 22, 20, 59]])


def test_many_frames_are_never_all_there_at_full_size(folder, monkeypatch):
    oracle, sizes = decode(folder / "plain.mp4"), []
    monkeypatch.setattr(reader_module, "BLOCK", 3 * 48 * 64 * 3 + 5)

    def corner(frames):
        sizes.append(len(frames))
        return frames[:, :2, :4]

    wanted = [39, 0, 5, 5, 17, 18, 30, 31]
    clip = ClipReader(folder / "plain.mp4").read(wanted, corner)
    np.testing.assert_array_equal(clip, oracle[wanted, :2, :4])
    assert sizes == [3, 3, 1]  # seven frames, three at a time
    reader = ClipReader(folder / "plain.mp4")
    assert reader.size == (48, 64) and reader.at_most(96).size == (48, 64) and reader.at_most(24).size == (24, 32)


def test_read_refuses_frames_that_do_not_exist(folder):
    reader = ClipReader(folder / "intra.mp4")
    for wanted in ([0, 32], [-1]):
        with pytest.raises(IndexError, match="frames 0 to 31"):
            reader.read(wanted)


@pytest.mark.parametrize(
    "name, short_side, size",
    [
        ("plain.mp4", 36, (36, 48)),
        ("plain.mp4", 31, (31, 41)),  # 64 * 31 / 48 = 41.33
        ("portrait.mp4", 27, (60, 27)),
        ("odd.mp4", 34, (34, 45)),  # 67 * 34 / 51 = 44.67
        ("plain.mp4", 96, (96, 128)),
        ("plain.mp4", 48, (48, 64)),
        ("turned.mp4", 27, (27, 60)),
    ],
)
def test_short_side_scales_while_decoding(folder, name, short_side, size):
    reader = ClipReader(folder / name, short_side)
    clip = reader.read([3, 1])
    assert (reader.height, reader.width) == size == clip.shape[1:3]
    full = torch.from_numpy(ClipReader(folder / name).read([3, 1]))
    near = transforms.resize(full, *size).numpy().astype(int)
    assert abs(clip - near).mean() < 6  # another filter, same picture
    assert abs(clip[::-1] - near).mean() > 10


def test_rotation_tags_are_obeyed(folder):
    plain, turned = decode(folder / "portrait.mp4"), ClipReader(folder / "turned.mp4")
    assert turned.size == (54, 120)
    gap = turned.read([0, 5]).astype(int) - np.rot90(plain[[0, 5]], -1, axes=(1, 2))
    assert abs(gap).mean() < 1.5


@pytest.mark.parametrize(
    "ending, aspect, width",
    [
        ("mp4", "2/1", 128),
        ("mkv", "4/3", 85),
        ("mp4", "16/15", 68),
        ("avi", "1/2", 32),  # of 64 stored
        ("mp4", "256/255", 64),
        ("mp4", "1/1", 64),
    ],
)  # a rounding, and none
def test_pixels_that_are_not_square_are_shown_as_a_player_shows_them(tmp_path, ending, aspect, width):
    path = write_video(tmp_path / f"a.{ending}", frames=4, aspect=Fraction(aspect))
    stored = decode(path)
    assert ClipReader(path).size == (48, width) and ClipReader(path, 24).size[0 if width > 48 else 1] == 24
    clip = ClipReader(path).read([3, 0])
    if width == 64:
        np.testing.assert_array_equal(clip, stored[[3, 0]])
    else:
        near = transforms.resize(torch.from_numpy(stored[[3, 0]]), 48, width).numpy().astype(int)
        assert clip.shape == near.shape and abs(clip - near).mean() < 8


def test_a_turned_picture_with_wide_pixels_is_high(tmp_path):
    path = rotate_tag(write_video(tmp_path / "a.mp4", frames=2, aspect=Fraction(2)), tmp_path / "b.mp4")
    assert ClipReader(path).size == (128, 48)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_interlaced_pictures_have_no_combs(tmp_path, ending):
    path = write_interlaced(tmp_path / f"a.{ending}")

    def combs(frames):  # how much a line differs from both its neighbours
        lines = frames.astype(int).mean(-1)
        return abs(2 * lines[:, 2:-2] - lines[:, 1:-3] - lines[:, 3:-1]).mean()

    woven, reader = decode(path), ClipReader(path)
    shown = reader.read(range(6))
    assert combs(woven) > 60 and combs(shown) < 6
    for t in range(6):  # the field that is shown first, at its place
        bar = np.flatnonzero(shown[t, 32].mean(-1) > 128)
        assert abs(bar.min() - 32 * t % 96) <= 1 and abs(len(bar) - 32) <= 2
    np.testing.assert_array_equal(reader.read([4, 2]), shown[[4, 2]])  # whatever was read before


def test_fps_and_frame_range_follow_time_stamps(folder):
    assert ClipReader(folder / "plain.mp4").fps == pytest.approx(24)
    reader = ClipReader(folder / "vfr.mp4")  # frame 4 is shown at 12 / 24 s
    assert reader.frame_range(0.5, 1.25) == (4, 7)
    assert reader.frame_range(None, 0.5) == (0, 4)
    assert reader.frame_range(1.0, None) == (7, 12)
    with pytest.raises(BadClip, match=r"vfr.mp4 shows no frame from 5.0 to 9.0 seconds"):
        reader.frame_range(5.0, 9.0)


def test_short_side_must_be_positive(folder):
    with pytest.raises(CourseError, match="short_side is 0"):
        ClipReader(folder / "one.mp4", 0)


# ------------------------------------------------------------------------- bad files


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """One file for each fault."""
    at = tmp_path_factory.mktemp("bad")
    large = dict(frames=60, size=(120, 160))
    healthy = write_video(at / "healthy.mp4", faststart=True, **large).read_bytes()
    late = write_video(at / "late.mp4", **large).read_bytes()
    (at / "empty.mp4").touch()
    (at / "text.mp4").write_text("This is not a video.\n" * 99, encoding="utf-8")
    (at / "byte.mp4").write_bytes(b"x")
    (at / "cut_early.mp4").write_bytes(healthy[: len(healthy) // 2])
    (at / "cut_late.mp4").write_bytes(healthy[:-40])
    (at / "no_index.mp4").write_bytes(late[: len(late) // 2])
    (at / "stub.mp4").write_bytes(late[: late.index(b"mdat") - 4])
    for name, codec in (("cut.mkv", "libx264"), ("cut.avi", "mpeg4"), ("cut.webm", "libvpx")):
        whole = write_video(at / f"whole_{name}", frames=40, codec=codec).read_bytes()
        (at / name).write_bytes(whole[: len(whole) * 2 // 3])
    (at / "zero_tail.mp4").write_bytes(healthy[: len(healthy) * 2 // 3] + bytes(len(healthy) - len(healthy) * 2 // 3))
    write_audio(at / "audio.mp4")
    write_video(at / "stream.ts", frames=20)
    cut_without_encoding(at / "healthy.mp4", at / "copied.mp4", 0.7)
    edited = bytearray(write_video(at / "edited.mp4", frames=40, bframes=2).read_bytes())
    at_list = edited.index(b"elst") + 12  # the edit's duration, halved
    length = int.from_bytes(edited[at_list : at_list + 4], "big")
    edited[at_list : at_list + 4] = (length // 2).to_bytes(4, "big")
    (at / "edited.mp4").write_bytes(edited)
    (at / "folder.mp4").mkdir()
    return at


FAULTS = {
    "missing.mp4": "No such file",
    "folder.mp4": "Is a directory",
    "empty.mp4": "is empty",
    "text.mp4": "is no MP4",
    "byte.mp4": "is no MP4",
    "stream.ts": "is no MP4",
    "cut_early.mp4": "is truncated",
    "cut_late.mp4": "is truncated",
    "no_index.mp4": "is truncated",
    "stub.mp4": "is truncated",
    "cut.mkv": "is truncated",
    "cut.avi": "is truncated",
    "cut.webm": "is truncated",
    "audio.mp4": "has no video stream",
    "zero_tail.mp4": "is damaged",
}


def is_one_sentence(message, path):
    foreign = any(word in message for word in ("\n", ".cc", "Stack", "Check"))
    return str(path) in message and ";" in message and message.endswith(".") and not foreign


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_one_sentence_that_names_the_file(bad, name, capfd):
    with pytest.raises(BadClip) as caught:
        reader = ClipReader(bad / name)
        reader.read(range(reader.num_frames))
    message = str(caught.value)
    assert FAULTS[name] in message and is_one_sentence(message, bad / name), message
    assert capfd.readouterr() == ("", "")  # nor does FFmpeg print its own


@pytest.mark.parametrize("name, frames", [("copied.mp4", 43), ("edited.mp4", 20)])
def test_frames_that_an_edit_list_hides_are_not_counted(bad, name, frames):
    """A cut without re-encoding begins at a key frame before its start; players show neither, nor do we."""
    oracle, reader = decode(bad / name), ClipReader(bad / name)
    assert reader.num_frames == len(oracle) == frames
    wanted = [frames - 1, 0, 7, 7]
    np.testing.assert_array_equal(reader.read(wanted), oracle[wanted])


def test_a_truncated_file_is_bad_even_where_its_first_frames_are_whole(bad):
    with pytest.raises(BadClip, match="truncated"):
        ClipReader(bad / "cut_late.mp4").read([0, 1])


def test_no_bad_file_hangs_a_data_set_and_none_is_replaced(bad, tmp_path):
    shutil.copy(bad / "healthy.mp4", tmp_path / "good.mp4")
    rows = [f"{bad / name},a,," for name in FAULTS] + ["good.mp4,a,,"]
    manifest = write_manifest(tmp_path / "all.csv", rows)
    folder = VideoFolder(manifest, classes=["a"], frames=8, stride=7, size=32, train=False)
    start = time.perf_counter()
    batch = collate(list(folder))
    assert time.perf_counter() - start < 5
    assert batch["index"].tolist() == [len(FAULTS)] and len(batch["clip"]) == 1
    assert [index for index, _ in batch["bad"]] == list(range(len(FAULTS)))
    for (_, message), (name, fault) in zip(batch["bad"], FAULTS.items()):
        assert fault in message and is_one_sentence(message, bad / name)


def test_verify_finds_what_reading_cannot_and_survives_a_hang(bad, tmp_path, hangs):
    write_video(bad / "healthy.avi", frames=60, size=(120, 160), codec="mpeg4")
    for name, whole in (("scar.mp4", "healthy.mp4"), ("scar.avi", "healthy.avi")):
        data = bytearray((bad / whole).read_bytes())
        data[len(data) // 2 : len(data) // 2 + 20] = bytes(range(20))
        (tmp_path / name).write_bytes(data)
        reader = ClipReader(tmp_path / name)
        reader.read([0])  # before the damage
        with pytest.raises(BadClip, match="is damaged or ends before its frame"):
            reader.read(range(reader.num_frames))
    (tmp_path / "hangs.mp4").touch()
    paths = [
        bad / "healthy.mp4",
        tmp_path / "scar.mp4",
        tmp_path / "scar.avi",
        tmp_path / "hangs.mp4",
        bad / "edited.mp4",
        bad / "empty.mp4",
    ]
    good, *scarred, hung, edited, empty = verify.verify(paths, timeout=2)
    assert (edited["frames"], edited["error"]) == (20, None)
    assert good == dict(path=str(paths[0]), frames=60, seconds=pytest.approx(2.5), error=None)
    for row in scarred:
        assert "is damaged after frame" in row["error"] and row["frames"] < 40
    assert "hangs.mp4 is not decoded within 2 s; give it a longer time limit" in hung["error"] and hung["late"]
    assert not any(row.get("late") for row in (good, *scarred, edited, empty))
    assert "is empty" in empty["error"]
    for row in (*scarred, hung, empty):
        assert is_one_sentence(row["error"], row["path"])


@pytest.mark.parametrize("major", [18, 19])
def test_the_decoders_of_two_majors_are_opened_alike(monkeypatch, bad, major):
    """PyAV 19 has no metadata_errors; before it, a title that is not UTF-8 is an error without it."""
    asked = []

    def av_open(source, **options):
        asked.append(options)
        if major == 19 and "metadata_errors" in options:
            raise TypeError("open() got an unexpected keyword argument 'metadata_errors'")
        return real(source, **(options if has_option else {}))

    real, has_option = reader_module.av.open, int(av.__version__.partition(".")[0]) < 19
    monkeypatch.setattr(reader_module.av, "open", av_open)
    assert ClipReader(bad / "healthy.mp4").num_frames == 60
    assert ["metadata_errors" in options for options in asked] == [True, False][: 1 + (major == 19)]
    assert all(options["timeout"] and options["options"]["max_pixels"] for options in asked)


def test_verify_counts_up_to_a_frame_that_the_codec_marks_as_damaged(monkeypatch):
    class Container:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return False

        streams = SimpleNamespace(video=[SimpleNamespace(codec_context=SimpleNamespace())])

        def decode(self, stream):
            return [SimpleNamespace(is_corrupt=mark) for mark in (False, False, True, False)]

    monkeypatch.setattr(verify.av, "open", lambda path, **options: Container())
    assert verify._count(__file__) == (2, True)


@pytest.mark.parametrize(
    "act, words",
    [
        ("os.abort()", "crashes the decoder"),
        ("1 / 0", "crashes the decoder"),  # an error of our own is reported too
        ("time.sleep(60)", "is not decoded within 1 s"),
    ],
)
def test_a_file_that_crashes_or_stalls_its_process_costs_no_other(tmp_path, monkeypatch, act, words):
    (tmp_path / "deadly.py").write_text(
        "import os, time\nfrom vt_course.data.verify import serve\n"
        f"serve(lambda path: {act} if path == 'deadly.mp4' else dict(path=path, process=os.getpid()))\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    paths = ["a.mp4", "b.mp4", "deadly.mp4", "c.mp4", "d.mp4"]
    answers = {number: (row, fault) for number, row, fault in verify.in_processes("deadly", paths, 1, 1)}
    assert answers.pop(2) == (None, words)
    assert [row["path"] for row, _ in answers.values()] == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    first, second, third, fourth = (row["process"] for row, _ in answers.values())
    assert first == second != third == fourth  # one process, and another after it was lost


def test_a_long_file_may_take_longer(tmp_path, monkeypatch):
    assert verify.work(300, 480, 640) == 1  # ten seconds
    assert 30 < verify.work(180_000, 240, 320) < 35  # two hours, which took more than the usual minute
    (tmp_path / "slow.py").write_text(
        "import time\nfrom vt_course.data.verify import more_time, serve\n"
        "serve(lambda job: [more_time(job[0]), time.sleep(job[1])] and dict(slept=job[1]))\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    answers = {
        number: (row, fault) for number, row, fault in verify.in_processes("slow", [(1, 0), (20, 1), (2, 60)], 0.5, 1)
    }
    assert answers == {0: (dict(slept=0), ""), 1: (dict(slept=1), ""), 2: (None, "is not decoded within 1 s")}
    verify.more_time(3)  # where nobody waits it says nothing


# ------------------------------------------------------------------------- the data set


def write_manifest(path, rows, header="path,label,start,end"):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def manifest(folder):
    return write_manifest(
        folder / "train.csv",
        [
            "plain.mp4,slow,,",
            "intra.mp4,fast,,",
            f"{folder / 'vfr.mp4'},slow,0.5,1.25",
            "one.mp4,fast,,",
            "ünï cödé 视频.mp4,slow,,",
        ],
    )


def video_folder(manifest, **settings):
    standard = dict(classes=["fast", "slow"], frames=4, stride=2, size=32, train=True)
    return VideoFolder(manifest, **{**standard, **settings})


@pytest.mark.parametrize("size, scaled", [((480, 640), (77, 103)), ((112, 150), (112, 150))])
def test_large_frames_are_scaled_while_they_are_decoded(tmp_path, monkeypatch, size, scaled):
    """A training clip of a phone's video shows what it showed at full size, and no frame of that size is made."""
    write_video(tmp_path / "a.mp4", frames=6, size=size)
    listed = write_manifest(tmp_path / "train.csv", ["a.mp4,slow,,"])
    made, read = [], ClipReader.read
    monkeypatch.setattr(ClipReader, "read", lambda *args: made.append(read(*args)) or made[-1])
    ds = video_folder(listed, scale=(0.7, 1.0))
    clip = ds[0]["clip"]  # (C, T, H, W)
    assert [frames.shape[1:3] for frames in made] == [scaled]
    ds.enough = 10_000
    whole = ds[0]["clip"]
    assert made[-1].shape[1:3] == size and torch.equal(clip, whole) == (size == scaled)
    alike = torch.corrcoef(torch.stack([clip.flatten(), whole.flatten()]))[0, 1]
    assert alike > 0.98 > torch.corrcoef(torch.stack([clip.flatten(), whole.roll(1, 3).flatten()]))[0, 1]
    video_folder(listed, train=False)[0]
    assert made[-1].shape[1:3] == size  # validation shows what `evaluate` and `predict` show


def test_read_manifest(manifest, folder):
    rows = read_manifest(manifest)
    assert len(rows) == 5
    assert rows[0] == dict(path=str(folder / "plain.mp4"), label="slow", start=None, end=None)
    assert rows[2] == dict(path=str(folder / "vfr.mp4"), label="slow", start=0.5, end=1.25)


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "No such file"),
        ("", "first line must be"),
        ("a,b\n1,2\n", "first line must be"),
        ("path,label,start,end\n", "lists no clips"),
        ("path,label\nx.mp4\n", "Line 2"),
        ("path,label,start,end\nx.mp4,a,,\ny.mp4,a,soon,\n", "Line 3"),
        (b"path,label\n\xff\xfe.mp4,a\n", "not UTF-8"),
    ],
)
def test_a_bad_manifest_is_explained(tmp_path, content, words):
    path = tmp_path / "m.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CourseError, match=words) as caught:
        read_manifest(path)
    assert is_one_sentence(str(caught.value), path)


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(frames=0), "frames=0"),
        (dict(size=-1), "size=-1"),
        (dict(sampling="x"), "'x'"),
        (dict(classes=["fast"]), "slow"),
        (dict(views=(2, 3)), "testing only"),
        (dict(views=(2, 2), train=False), "3 crops"),
        (dict(view_rule="x"), "'x'"),
        (dict(views=(2, 3), train=False, sampling="uniform"), "one clip"),
    ],
)
def test_wrong_settings_are_explained(manifest, settings, words):
    with pytest.raises(CourseError, match=words):
        video_folder(manifest, **settings)


def test_a_test_sample_is_the_centre_clip_of_the_middle_square(manifest, folder):
    oracle = torch.from_numpy(decode(folder / "plain.mp4"))
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    sample = video_folder(manifest, train=False, size=48, mean=mean, std=std)[0]
    assert sample["label"] == 1 and sample["index"] == 0
    clip = oracle[[16, 18, 20, 22], :, 8:56].permute(3, 0, 1, 2) / 255  # room 33, start 16
    clip = (clip - torch.tensor(mean).view(3, 1, 1, 1)) / torch.tensor(std).view(3, 1, 1, 1)
    assert sample["clip"].dtype == torch.float32 and sample["clip"].is_contiguous()
    torch.testing.assert_close(sample["clip"], clip)


def test_train_samples_are_a_function_of_seed_epoch_and_index(manifest):
    a, b = (video_folder(manifest, seed=7) for _ in range(2))
    key = (3, 1)
    first = a[key]["clip"]
    for other in (0, (3, 0), (4, 1)):  # reading others changes nothing
        b[other]
    torch.testing.assert_close(b[key]["clip"], first, rtol=0, atol=0)
    torch.testing.assert_close(a[1]["clip"], a[0, 1]["clip"], rtol=0, atol=0)
    assert not torch.equal(a[4, 1]["clip"], first)
    assert not torch.equal(video_folder(manifest, seed=8)[key]["clip"], first)
    assert a[-1]["index"] == 4 and len(list(a)) == 5


def test_flip_happens_as_often_as_asked(manifest, folder):
    whole = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0), size=48, frames=1, mean=(0, 0, 0), std=(1, 1, 1))
    stored = torch.from_numpy(decode(folder / "one.mp4")[:, :, 8:56]).permute(3, 0, 1, 2) / 255
    straight, mirrored = (video_folder(manifest, flip=p, **whole) for p in (0.0, 1.0))
    sometimes = video_folder(manifest, flip=0.5, **whole)
    count = 0
    for epoch in range(40):
        clip = straight[epoch, 3]["clip"]  # one frame, one box
        torch.testing.assert_close(clip, stored)
        torch.testing.assert_close(mirrored[epoch, 3]["clip"], clip.flip(-1), rtol=0, atol=0)
        count += torch.equal(sometimes[epoch, 3]["clip"], clip.flip(-1))
    assert 8 < count < 32


def test_start_and_end_bound_the_clip(manifest, folder):
    oracle = decode(folder / "vfr.mp4")
    settings = dict(train=False, size=48, frames=3, stride=1, mean=(0, 0, 0), std=(1, 1, 1))
    clip = video_folder(manifest, **settings)[2]["clip"]  # frames 4, 5, 6 and no other
    wanted = torch.from_numpy(oracle[4:7, :, 8:56]).permute(3, 0, 1, 2) / 255
    torch.testing.assert_close(clip, wanted)
    looped = video_folder(manifest, **{**settings, "frames": 5})[2]["clip"]
    torch.testing.assert_close(looped, wanted[:, [0, 1, 2, 0, 1]])


def test_a_clip_of_one_frame_is_looped(manifest):
    clip = video_folder(manifest, frames=6)[3]["clip"]
    assert clip.shape == (3, 6, 32, 32) and (clip == clip[:, :1]).all()


def test_uniform_sampling_takes_middle_frames_but_random_ones_in_training(manifest, folder):
    oracle = torch.from_numpy(decode(folder / "plain.mp4")[:, :, 8:56])
    oracle = oracle.permute(3, 0, 1, 2) / 255
    settings = dict(sampling="uniform", size=48, mean=(0, 0, 0), std=(1, 1, 1))
    clip = video_folder(manifest, train=False, **settings)[0]["clip"]
    torch.testing.assert_close(clip, oracle[:, [5, 15, 25, 35]])  # 40 frames, segments of 10
    whole = video_folder(manifest, scale=(1, 1), ratio=(4 / 3, 4 / 3), **settings)
    assert len({whole[epoch, 0]["clip"].sum().item() for epoch in range(5)}) == 5


@pytest.mark.parametrize(
    "settings, count",
    [
        (dict(views=(4, 3)), 12),
        (dict(views=(1, 1)), 1),
        (dict(views=(2, 3), view_rule="mvit"), 6),
        (dict(views=(3, 1), view_rule="timesformer"), 3),
        (dict(views=(1, 3), sampling="uniform"), 3),
    ],
)
def test_shape_of_the_views(manifest, settings, count):
    sample = video_folder(manifest, train=False, **settings)[0]
    assert sample["clip"].shape == (count, 3, 4, 32, 32)


def test_views_are_the_rules_clips_with_left_centre_and_right(manifest, folder):
    oracle = torch.from_numpy(decode(folder / "plain.mp4")).permute(3, 0, 1, 2) / 255
    ds = video_folder(manifest, train=False, size=48, views=(2, 3), mean=(0, 0, 0), std=(1, 1, 1))
    views = ds[0]["clip"]
    for c, start in enumerate((8, 24)):  # 40 - 8 + 1 = 33: 8.25, 24.75
        for k, left in enumerate((0, 8, 16)):
            wanted = oracle[:, start : start + 7 : 2, :, left : left + 48]
            torch.testing.assert_close(views[3 * c + k], wanted)


def test_iter_views_yields_bytes_one_view_at_a_time(folder):
    views = iter_views(ClipReader(folder / "portrait.mp4"), np.array([[0, 2], [1, 3]]), 54)
    first = next(views)
    assert first.dtype == torch.uint8 and first.shape == (2, 54, 54, 3)
    np.testing.assert_array_equal(first, decode(folder / "portrait.mp4")[[0, 2], :54])
    assert len(list(views)) == 5


def test_collate_keeps_good_samples_and_lists_bad_ones():
    good = [dict(clip=torch.full((3, 2, 4, 4), float(i)), label=i, index=10 + i) for i in range(2)]
    broken = dict(index=7, error="Clip x.mp4 is empty; fetch it again.")
    batch = collate([good[0], broken, good[1]])
    assert batch["clip"].shape == (2, 3, 2, 4, 4) and batch["clip"][1, 0, 0, 0, 0] == 1
    assert batch["label"].tolist() == [0, 1] and batch["index"].tolist() == [10, 11]
    assert batch["bad"] == [(7, broken["error"])]
    nothing = collate([broken])
    assert nothing["clip"] is None and len(nothing["label"]) == 0 and len(nothing["bad"]) == 1


@pytest.mark.posix("fork")
def test_forked_workers_read_after_the_parent_has_read(manifest, bad):
    ds = video_folder(manifest)
    alone = [ds[3, i]["clip"] for i in range(len(ds))]  # decord is warm in this process
    pickle.dumps(ds)  # and no reader is kept in ds
    loader = DataLoader(
        ds,
        batch_size=2,
        sampler=[(3, i) for i in range(5)],
        num_workers=2,
        collate_fn=collate,
        multiprocessing_context="fork",
        timeout=30,
    )
    batches = list(loader)
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(5))
    torch.testing.assert_close(torch.cat([batch["clip"] for batch in batches]), torch.stack(alone), rtol=0, atol=0)
