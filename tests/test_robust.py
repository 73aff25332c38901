"""Whatever lies in a folder of videos has a defined outcome: it is read, or one sentence says why not.

`test_clips.py` has the common faults (missing, empty, truncated, damaged, audio only, no video at all, cut without
encoding) and the common shapes (one frame, variable rate, rotated, odd sizes, Unicode). Here: what is rarer, the
thorough check of the healthy ones, and files that were damaged at random.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import psutil
import pytest
from torch.utils.data import DataLoader

from vt_course.data import reader
from vt_course.data.clips import Rows, VideoFolder, collate
from vt_course.data.reader import LARGEST, BadClip, ClipReader
from vt_course.data.verify import in_processes, verify

from videos import decode, rotate_tag, write_audio, write_video

MUTANTS = 500  # mutated files; verifying and loading them takes about 10 s on one core


def video_folder(paths, **settings) -> VideoFolder:
    rows = Rows([dict(path=str(path), label="a", start=None, end=None) for path in paths], "the files of this test")
    return VideoFolder(rows, classes=["a"], **{**dict(frames=4, stride=2, size=32, train=False), **settings})


def sentence(path, **settings) -> str:
    """What VideoFolder says of a file; it must be what ClipReader says, in one sentence."""
    sample = video_folder([path], **settings)[0]
    with pytest.raises(BadClip) as caught:
        ClipReader(path)
    assert sample == dict(index=0, error=str(caught.value))
    assert str(path) in sample["error"] and sample["error"].endswith(".") and "\n" not in sample["error"]
    return sample["error"]


def huge_video(path, side: int) -> Path:
    """Two black pictures of side x side: a file of a few hundred kB."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4" if path.suffix == ".avi" else "libx264", rate=1)
        stream.width = stream.height = side
        stream.pix_fmt, stream.options = "yuv420p", {"preset": "ultrafast"}
        frame = av.VideoFrame(side, side, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        for frame.pts in range(2):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Path(path)


# ------------------------------------------------------------------------- what is read

ODD = {  # name: (how it is written, its frames); each is also verified
    "10 bits.mp4": (dict(pixels="yuv420p10le"), 24),
    "10 bits hevc.mkv": (dict(codec="libx265", pixels="yuv420p10le"), 24),
    "grey.mp4": (dict(pixels="gray"), 24),
    "full range.avi": (dict(codec="mjpeg", pixels="yuvj420p"), 24),
    "vp9.webm": (dict(codec="libvpx-vp9"), 24),
    "two pixels.mp4": (dict(size=(2, 2)), 24),
    "b frames.avi": (dict(codec="libx264", bframes=2), 24),
    "b frames mpeg4.avi": (dict(codec="mpeg4", bframes=2), 24),
    "one frame.mp4": (dict(frames=1), 1),
    "odd size.mp4": (dict(size=(51, 67), pixels="yuv444p"), 24),
    "av1.mp4": (dict(codec="libsvtav1", size=(64, 64)), 24),
    "variable rate.mp4": (dict(frames=12, times=[0, 1, 2, 3, 12, 13, 14, 30, 31, 60, 61, 62]), 12),
    "a space, 视频 & ünï 'q' #1 %20.mp4": ({}, 24),
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    at = tmp_path_factory.mktemp("odd files") / "wörds and spaces"
    at.mkdir()
    for name, (how, _) in ODD.items():
        write_video(at / name, **how)
    write_video(at / "upright.mp4", frames=8, size=(120, 54))
    rotate_tag(at / "upright.mp4", at / "turned.mp4")
    return at


@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_is_read_like_any_other(odd, name):
    sample = video_folder([odd / name])[0]
    assert sample["clip"].shape == (3, 4, 32, 32) and sample["clip"].isfinite().all()
    reader, oracle = ClipReader(odd / name), decode(odd / name)
    clip = reader.read(range(reader.num_frames))
    assert clip.dtype == np.uint8 and clip.shape == oracle.shape and len(clip) == ODD[name][1]
    np.testing.assert_array_equal(clip, oracle)
    wanted = [count // 2 for count in (len(oracle), 2 * len(oracle) - 1, 0)]
    np.testing.assert_array_equal(ClipReader(odd / name).read(wanted), oracle[wanted])


def test_odd_files_pass_the_thorough_check(odd):
    paths = sorted(odd.iterdir())
    rows = list(verify(paths, timeout=30))
    assert [(row["path"], row["error"]) for row in rows] == [(str(path), None) for path in paths]
    frames = {Path(row["path"]).name: row["frames"] for row in rows}
    assert frames == {name: count for name, (_, count) in ODD.items()} | {"upright.mp4": 8, "turned.mp4": 8}
    seconds = {Path(row["path"]).name: row["seconds"] for row in rows}
    assert seconds["variable rate.mp4"] == pytest.approx(62 / 24, abs=0.05)
    assert seconds["one frame.mp4"] == pytest.approx(1 / 24, abs=0.01)


def test_a_relative_name_with_a_colon(odd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.link(odd / "two pixels.mp4", "12:30 at home.mp4")
    assert ClipReader("12:30 at home.mp4").num_frames == 24


def test_the_content_decides_not_the_ending(odd, tmp_path):
    os.link(odd / "vp9.webm", tmp_path / "webm.mp4")
    os.link(odd / "10 bits.mp4", tmp_path / "mp4.avi")
    os.link(odd / "one frame.mp4", tmp_path / "no ending")
    for path in tmp_path.iterdir():
        assert ClipReader(path).read([0]).shape[0] == 1
    assert [row["error"] for row in verify(tmp_path.iterdir(), timeout=30)] == [None] * 3
    write_audio(tmp_path / "sound.mp4")
    os.link(tmp_path / "sound.mp4", tmp_path / "sound.webm")
    assert "has no video stream" in sentence(tmp_path / "sound.webm")


def test_a_title_that_is_not_utf_8_is_no_fault(tmp_path):
    data = write_video(tmp_path / "old.mp4").read_bytes()
    handler = data.index(b"VideoHandler")
    (tmp_path / "old.mp4").write_bytes(data[:handler] + "Vidéo".encode("latin-1") + data[handler + 5 :])
    [row] = verify([tmp_path / "old.mp4"], timeout=30)
    assert row["error"] is None and row["frames"] == 24


# ------------------------------------------------------------------------- what is not read


@pytest.mark.parametrize("ending", ["mp4", "mov", "avi", "mkv"])
def test_a_small_file_with_giant_pictures_is_refused_before_it_takes_memory(tmp_path, ending):
    side = 6016  # 36.2 million pixels; 8K has 35.4
    assert side * side > LARGEST
    path = huge_video(tmp_path / f"huge.{ending}", side)
    assert path.stat().st_size < 500_000
    before = psutil.Process().memory_info().rss
    assert f"has pictures of {side}x{side} pixels" in sentence(path)
    assert "6016x6016" in sentence(path, short_side=32)
    assert psutil.Process().memory_info().rss - before < 50e6


@pytest.mark.posix("symbolic links")
def test_a_circle_of_links_is_one_sentence(tmp_path):
    (tmp_path / "a.mp4").symlink_to("b.mp4")
    (tmp_path / "b.mp4").symlink_to("a.mp4")
    (tmp_path / "nowhere.mp4").symlink_to("gone.mp4")
    assert "Too many levels of symbolic links" in sentence(tmp_path / "a.mp4")
    assert "No such file" in sentence(tmp_path / "nowhere.mp4")
    rows = list(verify([tmp_path / "a.mp4", tmp_path / "nowhere.mp4"], timeout=30))
    assert ["cannot be read" in row["error"] for row in rows] == [True, True]


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may read everything")
def test_permission_denied_is_one_sentence(odd, tmp_path):
    path = tmp_path / "locked.mp4"
    path.write_bytes((odd / "one frame.mp4").read_bytes())
    path.chmod(0)
    assert "Permission denied" in sentence(path)
    [row] = verify([path], timeout=30)
    assert "Permission denied" in row["error"]


def test_permission_denied_is_one_sentence_even_where_root_would_read(tmp_path, monkeypatch):
    """The same by other means, so that it is tested in a container too."""
    write_video(tmp_path / "locked.mp4", frames=1)

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(BadClip, match=r"locked.mp4 cannot be read \(Permission denied\);"):
        ClipReader(tmp_path / "locked.mp4")


@pytest.mark.parametrize(
    "at, value", [(12, 2**31 - 1), (8, 257), (12, 9000)], ids=["frames", "entries", "a few too many"]
)
def test_an_index_that_claims_too_much_costs_no_memory(tmp_path, at, value):
    """A table of times for more frames than there are; decord ended the process on the first two."""
    path = write_video(tmp_path / "claims.mp4", frames=16, size=(64, 64))
    data = bytearray(path.read_bytes())
    times = data.index(b"stts") + at
    data[times : times + 4] = value.to_bytes(4, "big")
    path.write_bytes(data)
    before = psutil.Process().memory_info().rss
    if value == 257:
        assert "is damaged and cannot be opened" in sentence(path)
    else:
        assert ClipReader(path).num_frames == 16
    assert psutil.Process().memory_info().rss - before < 50e6


# ------------------------------------------------------------------------- damage at random


def mutants(at: Path, count: int, seed: int = 0) -> list[Path]:
    """Files of 64x64 pixels with flipped bits, anywhere or in the index, cut short, or with a zeroed tail."""
    rng, paths = np.random.default_rng(seed), []
    healthy = [
        write_video(at / f"healthy{k}.mp4", frames=16, size=(64, 64), **how).read_bytes()
        for k, how in enumerate((dict(gop=8, faststart=True), dict(gop=4, bframes=2), dict(gop=8, codec="mpeg4")))
    ]
    for k in range(count):
        data = bytearray(healthy[k % 3])
        index = data.index(b"moov") - 4
        length = int.from_bytes(data[index : index + 4], "big")
        kind = k // 3 % 4
        if kind in (0, 1):
            first, size = ((0, len(data)), (index, length))[kind]
            for bit in rng.integers(8 * first, 8 * (first + size), rng.integers(1, 24)):
                data[bit // 8] ^= 1 << bit % 8
        else:
            keep = int(rng.integers(len(data)))
            data[keep:] = bytes(len(data) - keep) if kind == 3 else b""
        paths.append(at / f"mutant{k:03}.mp4")
        paths[-1].write_bytes(data)
    return paths


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


class LostCodec:
    """A decoder that could not be opened before: FFmpeg 8 takes its codec, and PyAV raises a ValueError of its own."""

    def __getattr__(self, name):
        return lambda *args: None

    def decode(self, packet):
        raise ValueError("cannot decode unknown codec")


def test_a_decoder_that_lost_its_codec_is_damage_like_any_other(tmp_path):
    with pytest.raises(av.FFmpegError, match="unknown codec"):
        reader.decode(LostCodec(), None)
    clip = ClipReader(write_video(tmp_path / "a.mp4", frames=8, size=(64, 64)))
    codec = clip._stream.codec_context.codec
    clip._stream = SimpleNamespace(codec_context=LostCodec())
    clip._stream.codec_context.codec = codec
    with pytest.raises(BadClip, match=r"a\.mp4 is damaged .*; fetch or render it again"):
        clip.read([0])


@pytest.mark.posix("fork")
def test_hundreds_of_damaged_files_crash_nothing_and_leave_no_process(tmp_path):
    paths, before = mutants(tmp_path, MUTANTS), children()
    ds = video_folder(paths, frames=8, train=True)
    loader = DataLoader(
        ds, batch_size=10, num_workers=2, collate_fn=collate, timeout=10, multiprocessing_context="fork"
    )
    batches = list(loader)  # a batch that takes 10 s raises
    good = [index for batch in batches for index in batch["index"].tolist()]
    bad = dict(fault for batch in batches for fault in batch["bad"])
    assert sorted([*good, *bad]) == list(range(MUTANTS))
    assert len(bad) > MUTANTS // 2  # the mutations do harm
    for index, message in bad.items():
        assert str(paths[index]) in message and message.endswith(".") and "\n" not in message

    slowest, clock, rows = 0.0, time.monotonic(), []
    for row in verify(paths, timeout=10):
        rows.append(row)
        slowest, clock = max(slowest, time.monotonic() - clock), time.monotonic()
    assert [row["path"] for row in rows] == list(map(str, paths)) and slowest < 15
    for row, index in zip(rows, range(MUTANTS)):
        assert row["error"] is None or (row["error"].endswith(".") and "\n" not in row["error"])
        assert row["error"] or index not in bad  # what reading refuses, the thorough check refuses
        assert "crashes" not in (row["error"] or ""), row
    assert sum(row["error"] is not None for row in rows) >= len(bad)
    del loader
    assert children() <= before


def test_breaking_off_a_check_leaves_no_process(tmp_path):
    paths, before = [write_video(tmp_path / f"{k}.mp4", frames=2) for k in range(8)], children()
    rows = verify(paths, timeout=10, workers=2)
    assert next(rows)["error"] is None and len(children() - before) >= 1
    rows.close()
    assert children() <= before
    assert list(verify([], timeout=10)) == []


def test_several_workers_answer_in_order(tmp_path):
    paths = [write_video(tmp_path / f"{k}.mp4", frames=1 + 20 * (k % 2 == 0)) for k in range(6)]
    assert [row["path"] for row in verify(paths, timeout=30, workers=3)] == list(map(str, paths))


def test_a_helper_that_is_gone_is_one_sentence():
    with pytest.raises(ValueError, match="ended from outside; run the same command again"):
        list(in_processes("vt_course.no_such_module", ["a.mp4"], 5, 1))


@pytest.mark.slow
@pytest.mark.posix("kill -9")
def test_a_killed_caller_leaves_no_process(tmp_path, hangs):
    """A file that blocks for ever: the helper ends although nobody is left to end it."""
    (tmp_path / "hangs.mp4").touch()
    code = f"from vt_course.data.verify import verify; list(verify([{str(tmp_path / 'hangs.mp4')!r}], timeout=1))"
    caller = subprocess.Popen([sys.executable, "-c", code])
    family = []
    for _ in range(200):
        family = psutil.Process(caller.pid).children(recursive=True)
        if family:
            break
        time.sleep(0.05)
    time.sleep(0.8)  # it has begun with the file
    caller.kill()
    caller.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert len(family) == 1 and not alive
