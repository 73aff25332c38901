"""Encoding a folder again, checking it, counting it: what is promised, what is kept after a kill, what is refused."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from PIL import Image

from vt_course import CourseError
from vt_course.cli import main
from vt_course.data import open_spec
from vt_course.data import prepare as module
from vt_course.data.folders import read_folder
from vt_course.data.prepare import prepare, probe_folder, stats, verify_folder, videos_below
from vt_course.data.reader import BadClip, ClipReader
from vt_course.fetch import kinetics
from vt_course.files import alone

from videos import cut_without_encoding, decode, rotate_tag, write_audio, write_interlaced, write_video


def read_csv(path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def all_frames(path) -> np.ndarray:
    reader = ClipReader(path)
    return reader.read(range(reader.num_frames)).astype(np.int16)  # so that differences have a sign


def times(path) -> np.ndarray:
    """Seconds at which each frame begins, by PyAV."""
    with av.open(str(path)) as container:
        return np.array([frame.time for frame in container.decode(video=0)])


def nearest(path, source: np.ndarray) -> list[int]:
    """For each frame of a clip, the frame of `source` (T, H, W, 3) that it looks like."""
    return [int(abs(frame - source).mean((1, 2, 3)).argmin()) for frame in all_frames(path)]


@pytest.fixture(scope="module")
def src(tmp_path_factory) -> Path:
    """Healthy videos of many kinds in train/CLASS and val/CLASS, and files that are none."""
    at = tmp_path_factory.mktemp("source")
    for folder in ("train/run", "train/ünï jump", "val/run", "val/ünï jump"):
        (at / folder).mkdir(parents=True)
    write_video(at / "train/run/large.mp4", frames=30, size=(150, 200), fps=10)
    write_video(at / "train/run/old.avi", codec="mpeg4")
    write_video(at / "train/run/full range.avi", codec="mjpeg", pixels="yuvj420p")
    write_video(at / "train/ünï jump/odd.mkv", size=(51, 67), pixels="yuv444p")
    write_video(at / "val/run/vfr.mp4", frames=12, times=[0, 1, 2, 3, 12, 13, 14, 30, 31, 60, 61, 62])
    write_video(at / "val/ünï jump/upright.mp4", frames=8, size=(120, 54))
    rotate_tag(at / "val/ünï jump/upright.mp4", at / "val/ünï jump/turned.mp4")
    write_video(at / "val/run/stream.ts", frames=20)  # ClipReader refuses it
    cut_without_encoding(write_video(at / "x.mp4", frames=60), at / "val/run/copied.mp4", 0.7)
    (at / "x.mp4").unlink()
    (at / "train/run/empty.mp4").touch()
    (at / "train/run/text.mp4").write_text("no video\n" * 99, encoding="utf-8")
    write_audio(at / "val/run/sound.mp4")
    data = bytearray((at / "train/run/large.mp4").read_bytes())
    (at / "train/run/cut.mp4").write_bytes(data[:-99])
    data[len(data) // 2 : len(data) // 2 + 20] = bytes(range(20))
    (at / "train/run/scar.mp4").write_bytes(data)
    (at / "train/run/README.txt").write_text("not copied", encoding="utf-8")
    return at


BAD = {
    "train/run/empty.mp4": "Invalid data",
    "train/run/text.mp4": "Invalid data",
    "val/run/sound.mp4": "no video stream",
    "train/run/cut.mp4": "is truncated",
    "train/run/scar.mp4": "is damaged after frame",
}
GOOD = {
    "train/run/large.mp4": 30,
    "train/run/old.mp4": 24,
    "train/run/full range.mp4": 24,
    "train/ünï jump/odd.mp4": 24,
    "val/run/vfr.mp4": 12,
    "val/ünï jump/upright.mp4": 8,
    "val/ünï jump/turned.mp4": 8,
    "val/run/stream.mp4": 20,
    "val/run/copied.mp4": 43,
}


@pytest.fixture(scope="module")
def out(src, tmp_path_factory) -> Path:
    at = tmp_path_factory.mktemp("prepared") / "new" / "out"
    summary = prepare(src, at, short_side=100, workers=2)
    assert summary == dict(
        out=str(at),
        encoded=len(GOOD),
        done_before=0,
        failed=len(BAD),
        left_out=1,
        clips=len(GOOD) + len(BAD),
        bytes=sum((at / path).stat().st_size for path in GOOD),
        seconds=summary["seconds"],
    )
    return at


# ------------------------------------------------------------------------- what comes out


def test_the_layout_is_kept_and_every_clip_is_whole(src, out):
    assert videos_below(out, (".mp4",)) == sorted(GOOD)
    listing = read_folder(out)
    assert listing.layout == "train and val" and listing.classes == ("run", "ünï jump")
    rows = verify_folder(out, workers=1)
    assert {row["path"]: (row["status"], row["frames"]) for row in rows} == {
        path: ("ok", frames) for path, frames in GOOD.items()
    }
    assert read_csv(out / "report.csv") == [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]
    record = {row["path"]: row for row in read_csv(out / "prepared.csv")}
    assert {path: int(row["frames"]) for path, row in record.items()} == GOOD
    assert record["train/run/old.mp4"]["source"] == "train/run/old.avi" and not list(out.rglob(".*"))


def test_what_fails_is_listed_with_the_reason_and_leaves_nothing(src, out):
    rows = {os.path.relpath(row["path"], src): row["reason"] for row in read_csv(out / "quarantine.csv")}
    assert rows.keys() == BAD.keys()
    for path, words in BAD.items():
        assert words in rows[path] and path in rows[path] and rows[path].endswith(".") and "\n" not in rows[path]
    assert not [path for path in BAD if (out / path).exists()]
    assert read_csv(out / "left_out.csv") == [dict(path=str(src / "train/run/README.txt"))]


@pytest.mark.parametrize(
    "source, path, size",
    [
        ("train/run/large.mp4", "train/run/large.mp4", (100, 132)),  # 133.3, made even
        ("train/run/old.avi", "train/run/old.mp4", (48, 64)),
        ("train/run/full range.avi", "train/run/full range.mp4", (48, 64)),
        ("train/ünï jump/odd.mkv", "train/ünï jump/odd.mp4", (50, 66)),
        ("val/run/vfr.mp4", "val/run/vfr.mp4", (48, 64)),
        ("val/ünï jump/upright.mp4", "val/ünï jump/upright.mp4", (120, 54)),
        ("val/ünï jump/turned.mp4", "val/ünï jump/turned.mp4", (54, 120)),
    ],
)
def test_the_pictures_are_those_of_the_source(src, out, source, path, size):
    before, after = all_frames(src / source), all_frames(out / path)
    assert after.shape == (len(before), *size, 3)
    with av.open(str(out / path)) as container:
        [stream] = container.streams
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert sum(packet.is_keyframe for packet in container.demux(stream)) >= len(before) // 16
    if before.shape[1] != 150:  # not scaled
        gap = after - before[:, : size[0], : size[1]]
        assert abs(gap).mean() < 11 and abs(gap.mean()) < 2.5
        slope = np.polyfit(before[:, : size[0], : size[1]].ravel(), after.ravel(), 1)[0]
        assert 0.85 < slope < 1.04  # 1.16 where the range is mistaken
    new, old = ClipReader(out / path), ClipReader(src / source)
    assert new.seconds == pytest.approx(old.seconds, abs=0.05)
    before, after = times(src / source), times(out / path)
    assert np.allclose(before - before[0], after, atol=2e-3)


def test_prepare_mends_what_reading_refuses(src, out):
    for name, frames in (("copied", 43), ("stream", 20)):
        source = next((src / "val/run").glob(f"{name}.*"))
        if name == "stream":
            with pytest.raises(BadClip):
                ClipReader(source)
        assert ClipReader(out / f"val/run/{name}.mp4").num_frames == frames
    gap = all_frames(out / "val/run/copied.mp4") - decode(src / "val/run/copied.mp4")
    assert abs(gap).mean() < 5


@pytest.mark.parametrize(
    "fps, seconds, frames, shown",
    [
        (12, 10, 12, range(0, 24, 2)),
        (48, 10, 48, [k // 2 for k in range(48)]),
        (None, 0.5, 12, range(12)),
        (8, 0.5, 4, [0, 3, 6, 9]),
        (1, None, 1, [0]),
    ],
)
def test_rate_and_length(tmp_path, fps, seconds, frames, shown):
    (tmp_path / "src").mkdir()
    write_video(tmp_path / "src/a.mp4", size=(64, 64), gop=1)  # 24 frames, 1 s
    assert prepare(tmp_path / "src", tmp_path / "out", fps=fps, seconds=seconds, workers=1)["encoded"] == 1
    reader = ClipReader(tmp_path / "out/a.mp4")
    assert reader.num_frames == frames and reader.fps == pytest.approx(fps or 24, rel=0.02)
    assert nearest(tmp_path / "out/a.mp4", all_frames(tmp_path / "src/a.mp4")) == list(shown)


@pytest.mark.parametrize("seconds, shown", [(10, [0, 1, 1, 1, 2, 3]), (0.5, [0, 1])])  # not the whole time that 1 stays
def test_variable_rates_are_resampled_by_time(tmp_path, seconds, shown):
    (tmp_path / "src").mkdir()
    write_video(tmp_path / "src/a.mp4", frames=4, times=[0, 6, 24, 30], size=(64, 64), gop=1)  # 0, 0.25, 1, 1.25 s
    prepare(tmp_path / "src", tmp_path / "out", fps=4, seconds=seconds, workers=1)
    assert nearest(tmp_path / "out/a.mp4", all_frames(tmp_path / "src/a.mp4")) == shown


OLD = {
    "a.mpg": "mpeg2video",
    "b.vob": "mpeg2video",
    "c.m2ts": "libx264",
    "d.wmv": "wmv2",
    "e.asf": "msmpeg4",
    "f.flv": "flv",
    "g.gif": "gif",
    "h.MPEG": "mpeg1video",
    "i.ogv": "theora",
}


def test_kinds_of_video_of_old_are_converted_and_others_named(tmp_path):
    (tmp_path / "src/class/group").mkdir(parents=True)
    known = [name for name, codec in OLD.items() if codec in av.codecs_available and (codec not in ("theora",))]
    for name in known:
        write_video(
            tmp_path / "src/class/group" / name.lower(),
            frames=12,
            fps=25,
            codec=OLD[name],
            pixels="rgb8" if name.endswith("gif") else "yuv420p",
        ).rename(tmp_path / "src/class/group" / name)
    for name in ("class/group/a.xgtf", "class/thumbs.db", "picture.png"):
        (tmp_path / "src" / name).write_text("no video", encoding="utf-8")
    summary = prepare(tmp_path / "src", tmp_path / "out", workers=1)
    assert (summary["encoded"], summary["failed"], summary["left_out"]) == (len(known), 0, 3) and len(known) >= 7
    assert [os.path.relpath(row["path"], tmp_path / "src") for row in read_csv(tmp_path / "out/left_out.csv")] == [
        "class/group/a.xgtf",
        "class/thumbs.db",
        "picture.png",
    ]
    for name in known:
        made = ClipReader(tmp_path / "out/class/group" / f"{name.split('.')[0]}.mp4")
        assert made.num_frames == 12 and made.seconds == pytest.approx(0.48, abs=0.09), name
        before, after = decode(tmp_path / "src/class/group" / name), made.read(range(12))
        assert abs(before.astype(int) - after).mean() < 20, name  # a GIF has 256 colours


def test_wide_pixels_and_interlaced_pictures_are_prepared_as_they_are_shown(tmp_path):
    (tmp_path / "src").mkdir()
    write_video(tmp_path / "src/wide.mp4", frames=6, aspect=Fraction(2))  # 64x48, shown as 128x48
    rotate_tag(tmp_path / "src/wide.mp4", tmp_path / "src/turned.mp4")
    write_interlaced(tmp_path / "src/combs.mkv")
    prepare(tmp_path / "src", tmp_path / "out", workers=1)
    for name in ("wide.mp4", "turned.mp4", "combs.mkv"):
        before, after = ClipReader(tmp_path / "src" / name), ClipReader(tmp_path / "out" / f"{name[:-4]}.mp4")
        assert (
            not after._stream.sample_aspect_ratio or after._stream.sample_aspect_ratio == 1
        ) and after.size == before.size
        assert not next(after.every_frame()).interlaced_frame
        assert abs(after.read([0, 5]).astype(int) - before.read([0, 5])).mean() < 9
    assert ClipReader(tmp_path / "out/wide.mp4").size == (48, 128) and ClipReader(tmp_path / "out/turned.mp4").size == (
        128,
        48,
    )


def test_folders_of_frames_become_videos_and_lists_stay_lists(tmp_path):
    """Folders named in a list of numbers, of which one has a point in its name, are prepared and the list names the
    videos."""
    for name, count in (("v_1.5", 12), ("7", 4)):
        (tmp_path / "src/frames" / name).mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", (64, 48), (10 + 16 * k,) * 3).save(tmp_path / "src/frames" / name / f"img_{k:05}.jpg")
    (tmp_path / "src/annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"src/annotations/{split}_list.txt").write_text("v_1.5 12 3\n7 4 1\n", encoding="utf-8")
    summary = prepare(tmp_path / "src", tmp_path / "out", workers=1)
    assert (summary["encoded"], summary["clips"], summary["left_out"]) == (2, 2, 0)
    assert videos_below(tmp_path / "out", (".mp4",)) == ["frames/7.mp4", "frames/v_1.5.mp4"]
    clip = ClipReader(tmp_path / "out/frames/v_1.5.mp4")
    assert clip.num_frames == 12 and clip.fps == pytest.approx(25)
    assert abs(clip.read(range(12)).mean((1, 2, 3)) - (10 + 16 * np.arange(12))).max() < 4
    spec = open_spec(f"folder:{tmp_path / 'out'}")
    assert spec.classes == ("0", "1", "2", "3") and [row["label"] for row in spec.train] == ["3", "1"]
    assert [os.path.normpath(row["path"]) for row in spec.val] == [
        str(tmp_path / "out/frames" / name) for name in ("v_1.5.mp4", "7.mp4")
    ]
    assert prepare(tmp_path / "src", tmp_path / "out", workers=1)["done_before"] == 2
    rows = probe_folder(tmp_path / "src")
    assert {(row["width"], row["height"], row["seconds"]) for row in rows} == {(64, 48, 0.48), (64, 48, 0.16)}
    assert min(row["bytes"] for row in rows) > 1000


# ------------------------------------------------------------------------- parts of videos

LONG = {  # the names of what is 150 frames long, 24 a second, with a key frame every 2 s
    "plain.mp4": dict(bframes=2),
    "old.avi": dict(codec="mpeg4"),
    "guessed.avi": dict(bframes=2),
    "broadcast.ts": dict(bframes=2),
}
PARTS = {  # (start, end): (what the file is called, the frames shown)
    ("", "0.5"): ("000000_000000.5", range(12)),
    ("1", "2"): ("000001_000002", range(24, 48)),
    ("3.5", "4.25"): ("000003.5_000004.25", range(84, 102)),
    ("5", ""): ("000005_end", range(120, 150)),
}


def put_manifest(path, rows) -> None:
    """As Windows writes it, and with a column that means nothing here."""
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["path", "label", "bytes", "start", "end"], *rows])


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> tuple[Path, Path]:
    """(a folder of long videos with a manifest of parts, the same prepared)."""
    at = tmp_path_factory.mktemp("long")
    (at / "src/v, w").mkdir(parents=True)
    for name, how in LONG.items():
        write_video(at / "src/v, w" / name, frames=150, gop=48, **how)
    write_video(at / "src/unlisted.mp4", frames=2)
    write_video(at / "elsewhere.mp4", frames=2)
    rows = [[f"v, w/{name}", "run, jump", "x", *times] for name in LONG for times in PARTS]
    put_manifest(
        at / "src/manifest.csv",
        [
            *rows,
            ["v, w/guessed.avi", "run, jump", "whole", "", ""],
            ["v, w/plain.mp4", "late", "y", "60", "70"],
            ["../elsewhere.mp4", "other", "z", "0", "0.05"],
            ["v, w/gone.mp4", "other", "", "2", "3"],
        ],
    )
    summary = prepare(at / "src", at / "out", workers=2)
    assert (summary["encoded"], summary["failed"], summary["clips"]) == (len(rows) + 2, 2, len(rows) + 4)
    return at / "src", at / "out"


@pytest.mark.parametrize("name", LONG)
def test_a_part_shows_its_frames_and_no_others(long, name):
    src, out = long
    source = decode(src / "v, w" / name).astype(np.int16)
    assert len(source) == 150
    for called, shown in PARTS.values():
        path = out / "v, w" / f"{Path(name).stem}_{called}.mp4"
        assert nearest(path, source) == list(shown), path
        assert np.allclose(times(path), np.arange(len(shown)) / 24, atol=2e-3)


def test_the_manifest_names_the_parts_and_only_what_is_asked_for_is_encoded(long):
    src, out = long
    whole = {"v, w/guessed.mp4", "unlisted.mp4"}  # plain.mp4 is named in parts only
    assert set(videos_below(out, (".mp4",))) == whole | {
        f"v, w/{Path(name).stem}_{called}.mp4" for name in LONG for called, _ in PARTS.values()
    }
    rows = {row["path"]: row for row in read_csv(out / "manifest.csv")}
    elsewhere = rows.pop(str(src.parent / "elsewhere.mp4"))
    assert (elsewhere["start"], elsewhere["end"]) == ("0.0", "0.05")  # not prepared, so it is still a part
    assert {row["start"] + row["end"] for row in rows.values()} == {""}
    assert rows["v, w/plain_000001_000002.mp4"]["label"] == "run, jump" and rows["v, w/guessed.mp4"]["bytes"] == "whole"
    status = {row["path"]: row["status"] for row in verify_folder(out)}
    assert sorted(path for path, word in status.items() if word != "ok") == [
        "v, w/gone_000002_000003.mp4",
        "v, w/plain_000060_000070.mp4",
    ]
    late, gone = sorted(
        (row["reason"] for row in read_csv(out / "quarantine.csv")), key=lambda reason: "gone" in reason
    )
    assert late.endswith(
        "plain.mp4 shows no frame from 60 to 70 s (it was read up to 6.21 s); correct start and end in the manifest."
    )
    assert "gone.mp4 cannot be read (No such file or directory)" in gone


def test_a_part_done_stays_and_another_time_is_another_file(long, tmp_path):
    src, out = copy_of(*long, tmp_path)
    before = stamps(out)
    assert prepare(src, out, workers=2)["encoded"] == 0 and stamps(out) == before
    put_manifest(
        src / "manifest.csv",
        [
            ["v, w/plain.mp4", "a", "", "1", "2"],
            ["v, w/plain.mp4", "b", "", "1", "2.5"],
            ["v, w/plain.mp4", "c", "", "1", "2"],
        ],
    )
    for name in set(LONG) - {"plain.mp4"}:
        (src / "v, w" / name).unlink()
    summary = prepare(src, out, workers=2)
    assert (summary["encoded"], summary["done_before"], summary["clips"]) == (1, 2, 3)
    after = stamps(out)
    assert {path for path in after if before.get(path) != after[path]} == {"v, w/plain_000001_000002.5.mp4"}
    assert [row["path"] for row in read_csv(out / "manifest.csv")] == [
        f"v, w/plain_000001_00000{end}.mp4" for end in ("2", "2.5", "2")
    ]
    prepare(src, out, seconds=0.25, workers=2)
    assert ClipReader(out / "v, w/plain_000001_000002.5.mp4").num_frames == 6


def test_a_video_of_a_parts_name_is_refused(long, tmp_path):
    shutil.copytree(long[0], tmp_path / "src")
    (tmp_path / "src/v, w/plain_000001_000002.mp4").touch()
    with pytest.raises(CourseError, match="would both become"):
        prepare(tmp_path / "src", tmp_path / "out")
    put_manifest(tmp_path / "src/manifest.csv", [["v, w/plain.mp4", "a", "", "1", "nan"]])
    with pytest.raises(CourseError, match=r"Line 2 of manifest .* has a bad start or end"):
        prepare(tmp_path / "src", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------- again, and after a kill


def copy_of(src, out, tmp_path) -> tuple[Path, Path]:
    shutil.copytree(src, tmp_path / "src", copy_function=shutil.copy2)  # times are kept
    shutil.copytree(out, tmp_path / "out", copy_function=shutil.copy2)
    return tmp_path / "src", tmp_path / "out"


def stamps(out) -> dict[str, int]:
    return {path: (out / path).stat().st_mtime_ns for path in videos_below(out, (".mp4",))}


def test_a_second_run_does_only_what_is_new(src, out, tmp_path):
    src, out = copy_of(src, out, tmp_path)
    before = stamps(out)
    assert prepare(src, out, short_side=100, workers=2)["encoded"] == 0 and stamps(out) == before
    shutil.copy(src / "train/run/large.mp4", src / "train/run/empty.mp4")  # mended
    os.utime(src / "train/run/old.avi", ns=(1, 1))  # another file by now
    (out / "val/run/vfr.mp4").unlink()
    (out / "val/run/copied.mp4").write_bytes(b"half")
    (out / "train/run/large.mp4").write_bytes(bytes((out / "train/run/large.mp4").stat().st_size))  # the same size
    with open(out / "prepared.csv", "a", encoding="utf-8") as file:
        file.write("train/run/large.mp4,train/run/la")  # a kill left half a line
    changed = [f"train/run/{name}.mp4" for name in ("empty", "old", "large")]
    changed += ["val/run/vfr.mp4", "val/run/copied.mp4"]
    summary = prepare(src, out, short_side=100, workers=2)
    assert (summary["encoded"], summary["done_before"], summary["failed"]) == (5, len(GOOD) - 4, len(BAD) - 1)
    after = stamps(out)
    assert sorted(path for path in after if after[path] != before.get(path)) == sorted(changed)
    assert len(read_csv(out / "quarantine.csv")) == len(BAD) - 1
    assert prepare(src, out, short_side=100)["encoded"] == 0
    assert prepare(src, out, short_side=48, workers=2)["encoded"] == len(GOOD) + 1  # other settings, all again


DAMAGE = {  # what happens to prepared.csv: text -> text, and how many of the three clips are encoded again
    "empty": (lambda text: b"", 3),
    "zeros": (lambda text: bytes(len(text)), 3),
    "noise": (lambda text: bytes(range(256)) * 9, 3),
    "another header": (lambda text: b"a,b\n" + text.partition(b"\n")[2], 0),
    "a line of zeros": (lambda text: text.replace(b"1.mp4,1.mp4", bytes(11)), 1),
    "an open quote": (lambda text: text.replace(b"1.mp4,1.mp4", b'"1.mp4,1.mp4'), 1),
    "a cut line": (lambda text: text[:-9], 1),
    "a page": (lambda text: b"<html>\n<p>moved, sorry</p>\n", 3),
}


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """(three videos, the same three prepared)."""
    folder = tmp_path_factory.mktemp("three")
    for k in range(3):
        (folder / "src").mkdir(exist_ok=True)
        write_video(folder / f"src/{k}.mp4", frames=4)
    assert prepare(folder / "src", folder / "out", workers=1)["encoded"] == 3
    return folder / "src", folder / "out"


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_record_is_made_anew(name, three, tmp_path):
    src, out = three[0], shutil.copytree(three[1], tmp_path / "out")
    damage, again = DAMAGE[name]
    record = out / "prepared.csv"
    whole = record.read_bytes()
    record.write_bytes(damage(whole))
    if name not in ("empty", "a cut line"):
        with pytest.raises(CourseError, match="prepared.csv is damaged; run the `vt-course data prepare`"):
            verify_folder(out)
    assert prepare(src, out, workers=1)["encoded"] == again
    # The encoder does not write the same number of bytes each time.
    kept = [sorted(line.rpartition(b",")[0] for line in text.splitlines()) for text in (record.read_bytes(), whole)]
    assert kept[0] == kept[1]
    assert prepare(src, out, workers=1)["encoded"] == 0


@pytest.mark.posix("links")
@pytest.mark.parametrize("plant", [os.symlink, os.link, lambda victim, at: os.mkfifo(at)], ids=["link", "hard", "pipe"])
def test_no_record_follows_a_planted_link(plant, three, tmp_path):
    src, out = three[0], shutil.copytree(three[1], tmp_path / "out")
    victim = tmp_path / "victim"
    victim.write_bytes(b"of somebody else\n")
    for path in (out / "prepared.csv", tmp_path / "clips.jsonl"):
        path.unlink(missing_ok=True)
        plant(victim, path)
    assert prepare(src, out, workers=1)["encoded"] == 3
    kinetics.append(tmp_path / "clips.jsonl", {"stem": "a"})
    assert victim.read_bytes() == b"of somebody else\n"
    assert not (out / "prepared.csv").is_symlink() and len(read_csv(out / "prepared.csv")) == 3
    assert (tmp_path / "clips.jsonl").read_text(encoding="utf-8") == '{"stem": "a"}\n'


@pytest.mark.slow
@pytest.mark.posix("kill -9")
def test_a_kill_loses_only_what_was_in_hand(tmp_path):
    (tmp_path / "src").mkdir()
    first = write_video(tmp_path / "src/00.mp4", frames=60, size=(240, 320))
    for k in range(1, 8):
        shutil.copy(first, tmp_path / f"src/{k:02}.mp4")
    src, out = str(tmp_path / "src"), str(tmp_path / "out")
    code = f"from vt_course.data.prepare import prepare; prepare({src!r}, {out!r}, workers=2)"
    run = subprocess.Popen([sys.executable, "-c", code])
    record = tmp_path / "out/prepared.csv"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (record.is_file() and len(read_csv(record)) >= 2):
        time.sleep(0.02)
    family = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGKILL)
    run.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert family and not alive
    kept, whole = read_csv(record), videos_below(tmp_path / "out", (".mp4",))
    assert 2 <= len(kept) <= len(whole) < 8
    assert all(ClipReader(tmp_path / "out" / path).num_frames == 60 for path in whole)
    before = stamps(tmp_path / "out")
    summary = prepare(tmp_path / "src", tmp_path / "out", workers=2)
    assert summary["done_before"] == len(kept) and summary["encoded"] == 8 - len(kept)
    after = stamps(tmp_path / "out")
    assert all(after[row["path"]] == before[row["path"]] for row in kept)
    assert {row["status"] for row in verify_folder(tmp_path / "out")} == {"ok"}
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.posix("a limit on the size of files")
def test_a_full_disk_stops_the_run_and_is_not_blamed_on_the_clip(tmp_path):
    (tmp_path / "src").mkdir()
    write_video(tmp_path / "src/a.mp4", frames=8)
    write_video(tmp_path / "src/b.mp4", frames=60, size=(240, 320))
    code = (
        "import resource, sys; from vt_course.data.prepare import prepare; from vt_course import CourseError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        f"try: prepare({str(tmp_path / 'src')!r}, {str(tmp_path / 'out')!r}, workers=1)\n"
        "except CourseError as error: print(error); sys.exit(7)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert done.returncode == 7 and "cannot be written (File too large); free space and run the same" in done.stdout
    assert videos_below(tmp_path / "out", (".mp4", ".part")) == ["a.mp4"]
    assert not (tmp_path / "out/quarantine.csv").exists()
    assert prepare(tmp_path / "src", tmp_path / "out", workers=1)["done_before"] == 1


def test_what_a_killed_run_still_writes_to_is_out_of_the_way(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "out").mkdir()
    write_video(tmp_path / "src/a.mp4", frames=4)
    (tmp_path / "out/.0.99999999.part").write_text("half", encoding="utf-8")
    prepare(tmp_path / "src", tmp_path / "out", workers=1)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.mp4",
        "left_out.csv",
        "prepared.csv",
        "quarantine.csv",
    ]


@pytest.mark.parametrize(
    "name",
    ["-v: a %d, 'q' \"é\" 视.mp4", "é" * 125 + ".mp4", os.fsdecode(b"\xff\xfe.mp4")],
    ids=["odd", "long", "bytes"],
)
def test_any_name_will_do(tmp_path, monkeypatch, name):
    (tmp_path / "src").mkdir()
    write_video(tmp_path / "a.mp4", frames=2).rename(tmp_path / "src" / name)
    monkeypatch.chdir(tmp_path / "src")
    assert prepare(".", "../out", workers=1)["encoded"] == 1
    [row] = verify_folder("../out")
    assert (row["path"], row["status"]) == (name, "ok")
    assert prepare(".", "../out", workers=1)["done_before"] == 1


@pytest.mark.parametrize(
    "option, value",
    [
        ("--fps", "all"),
        ("--fps", "0"),
        ("--fps", "-3"),
        ("--fps", "nan"),
        ("--fps", "inf"),
        ("--fps", "ten"),
        ("--fps", "1e-9"),
        ("--seconds", "keep"),
        ("--seconds", "0"),
        ("--seconds", "nan"),
        ("--seconds", "inf"),
        ("--seconds", "-1"),
        ("--short-side", "0"),
        ("--short-side", "15"),
        ("--short-side", "25.5"),
        ("--short-side", "nan"),
    ],
)
def test_the_command_takes_numbers_only_where_it_says_so(src, tmp_path, capsys, option, value):
    with pytest.raises(SystemExit) as stop:
        main(["data", "prepare", str(src), "--out", str(tmp_path / "out"), f"{option}={value}"])
    assert stop.value.code == 2 and not (tmp_path / "out").exists()
    assert f"argument {option}: {value!r} is n" in capsys.readouterr().err.splitlines()[-1]


def test_an_odd_short_side_gives_even_pictures(src, tmp_path, capsys):
    (tmp_path / "src").mkdir()
    shutil.copy(src / "train/run/large.mp4", tmp_path / "src")  # 150x200
    assert (
        main(
            [
                "data",
                "prepare",
                str(tmp_path / "src"),
                "--out",
                str(tmp_path / "out"),
                "--short-side",
                "75",
                "--fps",
                "keep",
                "--seconds",
                "all",
                "--json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["encoded"] == 1 and ClipReader(tmp_path / "out/large.mp4").size == (
        74,
        100,
    )


@pytest.mark.slow
def test_a_file_that_never_ends_is_given_up(tmp_path, hangs):
    (tmp_path / "src").mkdir()
    (tmp_path / "src/hangs.mp4").touch()
    write_video(tmp_path / "src/ok.mp4", frames=2)
    assert prepare(tmp_path / "src", tmp_path / "out", timeout=2, workers=2)["encoded"] == 1
    [row] = read_csv(tmp_path / "out/quarantine.csv")
    assert "hangs.mp4 is not decoded within 2 s" in row["reason"]
    assert [(row["path"], row["status"]) for row in verify_folder(tmp_path / "src", timeout=1)] == [
        ("hangs.mp4", "timeout"),
        ("ok.mp4", "ok"),
    ]


@pytest.mark.posix("kill -9")
def test_shares_in_parallel_one_of_them_killed(tmp_path):
    """Three processes on one folder; the second is killed. One call completes and merges what they made."""
    (tmp_path / "src/a").mkdir(parents=True)
    first = write_video(tmp_path / "src/a/0.mp4", frames=12)
    for k in range(1, 9):
        shutil.copy(first, tmp_path / f"src/a/{k}.mp4")
    (tmp_path / "src/a/bad.mp4").write_bytes(b"no video")
    (tmp_path / "src/manifest.csv").write_text("path,label\na/0.mp4,a\na/1.mp4,a\n", encoding="utf-8")
    src, out = tmp_path / "src", tmp_path / "out"
    code = "import sys; from vt_course.data.prepare import prepare\n"
    code += "prepare(sys.argv[1], sys.argv[2], workers=1, share=(int(sys.argv[3]), 3))"
    shares = [subprocess.Popen([sys.executable, "-c", code, src, out, str(k)]) for k in (1, 2, 3)]
    record, deadline = out / "prepared.2-of-3.csv", time.monotonic() + 60
    while time.monotonic() < deadline and not (record.is_file() and len(read_csv(record)) >= 1):
        time.sleep(0.01)
    shares[1].kill()
    ends = [share.wait(120) for share in shares]
    assert ends[::2] == [0, 0] and ends[1] in (-signal.SIGKILL, 0)
    assert {f"prepared.{k}-of-3.csv" for k in (1, 2, 3)} <= {path.name for path in out.iterdir()}
    assert prepare(src, out, share=(3, 3), workers=1)["encoded"] == 0  # again: nothing to do
    with alone(out / ".lock.2-of-3"), pytest.raises(CourseError, match="another run is at work"):
        prepare(src, out, workers=1)
    with alone(out / ".lock"), pytest.raises(CourseError, match="another run is at work"):
        prepare(src, out, share=(2, 3), workers=1)
    (out / ".quarantine.2-of-3.csv.part").touch()  # as if it had been killed while it wrote this file
    before = stamps(out)
    done = prepare(src, out, workers=1)
    assert done["clips"] == 10 and done["failed"] == 1 and 7 <= len(before) <= 9 and done["encoded"] == 9 - len(before)
    assert {path: stamps(out)[path] for path in before} == before
    wanted = prepare(src, tmp_path / "whole", workers=1)
    assert wanted["encoded"] == 9
    for folder in (out, tmp_path / "whole"):
        names = sorted(path.name for path in folder.iterdir())
        assert names == ["a", "left_out.csv", "manifest.csv", "prepared.csv", "quarantine.csv"]
        assert {row["path"] for row in read_csv(folder / "prepared.csv")} == {f"a/{k}.mp4" for k in range(9)}
    assert prepare(src, out, workers=1)["encoded"] == 0


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/3/3", "1/-3", "1/0"])
def test_what_is_no_part(text, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["data", "prepare", str(tmp_path), "--out", "x", "--part", text])
    assert "is not I/N with I from 1 to N, for instance 2/10" in capsys.readouterr().err


def test_large_clips_are_told_what_prepare_would_save(tmp_path):
    for k, (size, count) in enumerate((((540, 960), 3), ((48, 64), 2))):
        write_video(tmp_path / f"{k}.mp4", frames=1, size=size)
        for n in range(count):
            shutil.copy(tmp_path / f"{k}.mp4", tmp_path / f"{k}{n}.mp4")
    rows = [dict(path=str(tmp_path / f"{name}.mp4")) for name in ("00", "01", "02", "10", "11", "gone")]
    [sentence] = module.advice_on(rows)
    assert "960x540" in sentence and "data prepare FOLDER" in sentence and "4 times fewer pixels" in sentence
    assert module.advice_on(rows[2:]) == module.advice_on([]) == module.advice_on([dict(rows[0], offset=3)]) == []


# ------------------------------------------------------------------------- refusals, lists, links


def test_what_cannot_work_is_refused(src, tmp_path):
    (tmp_path / "two").mkdir()
    for name in ("a.mp4", "a.avi"):
        (tmp_path / "two" / name).touch()
    (tmp_path / "none").mkdir()
    for call, words in (
        (lambda: prepare(tmp_path / "two", tmp_path / "out"), "would both become"),
        (lambda: prepare(tmp_path / "none", tmp_path / "out"), "has no videos"),
        (lambda: prepare(tmp_path / "gone", tmp_path / "out"), "there is no folder"),
        (lambda: prepare(src, src), "cannot be prepared into itself"),
        (lambda: prepare(src, tmp_path / "out", short_side=0), "short_side is 0; give at least 16"),
        *(
            (lambda value=value: prepare(src, tmp_path / "out", fps=value), f"fps is {value}; give 0.01 to 1000")
            for value in (-1, 0, math.nan, math.inf, 1e-9)
        ),
        *(
            (lambda value=value: prepare(src, tmp_path / "out", seconds=value), f"seconds is {value}; give at")
            for value in (-1, 0, math.nan, math.inf, 1e-9)
        ),
        (lambda: verify_folder(tmp_path / "gone"), "there is no folder"),
        (lambda: verify_folder(tmp_path / "none"), "has no videos and no list"),
    ):
        with pytest.raises(CourseError, match=words) as caught:
            call()
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_two_runs_in_one_folder_are_refused(src, out):
    with alone(out / ".lock"), pytest.raises(CourseError, match="another run is at work"):
        prepare(src, out, short_side=100)
    assert not (out / ".lock").exists()


def test_lists_go_along_and_still_name_their_videos(tmp_path):
    for name in ("YoYo/v_YoYo_g08_c01.avi", "YoYo/v_YoYo_g01_c01.avi"):
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / "src" / name, frames=4, codec="mpeg4")
    lists = tmp_path / "src/ucfTrainTestlist"
    lists.mkdir()
    for name, text in (
        ("classInd.txt", "1 YoYo"),
        ("trainlist01.txt", "YoYo/v_YoYo_g08_c01.avi 1"),
        ("testlist01.txt", "YoYo/v_YoYo_g01_c01.avi"),
        ("diary.txt", "dear"),
    ):
        (lists / name).write_text(text + "\n", encoding="utf-8")
    prepare(tmp_path / "src", tmp_path / "src/small", workers=1)  # out inside src is no source
    assert prepare(tmp_path / "src", tmp_path / "src/small", workers=1)["clips"] == 2
    listing = read_folder(tmp_path / "src/small")
    assert listing.layout == "UCF101" and listing.val[0]["path"].endswith("v_YoYo_g01_c01.mp4") and not listing.notes
    assert not (tmp_path / "src/small/ucfTrainTestlist/diary.txt").exists()


@pytest.mark.posix("symbolic links")
def test_links_are_followed_but_not_in_circles(tmp_path):
    (tmp_path / "disk/run").mkdir(parents=True)
    (tmp_path / "disk/run/a.mp4").touch()
    (tmp_path / "disk/run/up").symlink_to(tmp_path / "data")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train").symlink_to(tmp_path / "disk")
    (tmp_path / "data/self").symlink_to("self")
    (tmp_path / "data/.hidden.mp4").touch()
    assert videos_below(tmp_path / "data", (".mp4",)) == ["train/run/a.mp4"]


# ------------------------------------------------------------------------- verify and stats


@pytest.mark.posix("symbolic links")
def test_verify_reports_what_lists_and_names_promise(src, out, tmp_path):
    for name in ("good.mp4", "unlisted.mp4", "brief.mp4", "until.mp4", "id_000010_000011.mp4", "id_000010_000013.mp4"):
        shutil.copy(out / "train/run/old.mp4", tmp_path / name)  # 24 frames, 1 s
    write_video(tmp_path / "one.mp4", frames=1)
    shutil.copy(src / "train/run/cut.mp4", tmp_path / "cut.mp4")
    (tmp_path / "link.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "manifest.csv").write_text(
        "\n".join(
            [
                "path,label,start,end,frames",
                "good.mp4,a,0,1.2,24",
                "good.mp4,a,0.5,,",
                "brief.mp4,a,,,30",
                "until.mp4,b,0,3,",
                "gone.mp4,b,,,",
                "id_000010_000011.mp4,b,,,",
                "id_000010_000013.mp4,b,,,",
            ]
        )
        + "\n",
        encoding="utf-8",
    )
    rows = verify_folder(tmp_path, report=tmp_path / "elsewhere.csv", workers=2)
    assert {row["path"]: (row["status"], row["reason"].split(" (")[0]) for row in rows} == {
        "good.mp4": ("ok", ""),
        "unlisted.mp4": ("ok", ""),
        "brief.mp4": ("short", "24 frames of 30"),
        "until.mp4": ("short", "1.0 s of 3.0"),
        "gone.mp4": ("missing", "there is no such file, or only a link to it"),
        "link.mp4": ("missing", "there is no such file, or only a link to it"),
        "id_000010_000011.mp4": ("ok", ""),
        "id_000010_000013.mp4": ("short", "1.0 s of 3.0"),
        "one.mp4": ("short", "a single frame"),
        "cut.mp4": ("corrupt", f"Clip {tmp_path}/cut.mp4 is truncated"),
    }
    assert [row["path"] for row in read_csv(tmp_path / "elsewhere.csv")] == sorted(row["path"] for row in rows)
    assert list(rows[0]) == ["path", "status", "frames", "seconds", "reason"] and not (tmp_path / "report.csv").exists()


def test_verify_misses_what_prepare_had_made(src, out, tmp_path):
    _, out = copy_of(src, out, tmp_path)
    (out / "val/run/vfr.mp4").unlink()
    write_video(out / "val/run/copied.mp4", frames=9)
    status = {row["path"]: (row["status"], row["reason"]) for row in verify_folder(out)}
    assert status["val/run/vfr.mp4"][0] == "missing"
    assert status["val/run/copied.mp4"] == ("short", "9 frames of 43")
    assert sum(s == "ok" for s, _ in status.values()) == len(GOOD) - 2


def test_statistics(src):
    clips = probe_folder(src, workers=1)
    assert {row["split"] for row in clips} == {"train", "val"}
    by_name = {Path(row["path"]).name: row for row in clips}
    assert len(clips) == len(GOOD) - 1 + len(BAD)  # stream.ts is none that we read
    large = by_name["large.mp4"]
    assert (large["width"], large["height"], large["seconds"], large["error"]) == (200, 150, 3.0, None)
    assert large["bytes"] == (src / "train/run/large.mp4").stat().st_size
    assert "empty.mp4 cannot be opened" in by_name["empty.mp4"]["error"] and by_name["empty.mp4"]["seconds"] is None
    run, jump = stats(clips)
    assert (run["label"], run["train"], run["val"]) == ("run", 7, 3) and run["unreadable"] == 3
    assert (jump["label"], jump["train"], jump["val"], jump["unreadable"]) == ("ünï jump", 1, 2, 0)
    assert jump["shortest"] == pytest.approx(8 / 24, abs=0.01) and jump["longest"] == pytest.approx(1, abs=0.01)
    assert jump["sizes"] == 2 and jump["usual_size"] == "54x120"
    assert jump["mb"] == pytest.approx(sum(p.stat().st_size for p in src.glob("*/ünï jump/*")) / 1e6)


@pytest.mark.slow
def test_a_file_that_stalls_the_headers_does_not_stop_the_others(tmp_path, monkeypatch, hangs):
    for k in range(5):
        (tmp_path / "a").mkdir(exist_ok=True)
        write_video(tmp_path / f"a/{k}.mp4", frames=2)
    (tmp_path / "a/hangs.mp4").touch()
    monkeypatch.setattr(module, "PROBE_SECONDS", 1.0)
    rows = {Path(row["path"]).name: row for row in probe_folder(tmp_path)}
    assert rows.pop("hangs.mp4")["error"].endswith("hangs.mp4 is not decoded within 1 s; fetch or encode it again.")
    assert [(row["width"], row["error"]) for row in rows.values()] == [(64, None)] * 5


CLIPS = os.environ.get("VT_COURSE_CLIPS")


@pytest.mark.skipif(not CLIPS, reason="VT_COURSE_CLIPS is not set: the real clips are not in the project")
def test_real_files_are_prepared_as_they_are_read(tmp_path):
    """Rotation tags, pictures out of order, a damaged file, a Matroska file, Kinetics' own 340x256."""
    fixtures = Path(CLIPS) / "fixtures"
    summary = prepare(fixtures, tmp_path, short_side=128, seconds=None, workers=2)
    [bad] = read_csv(tmp_path / "quarantine.csv")
    assert summary["encoded"] == 8 and "corrupted.mp4 is damaged after frame" in bad["reason"]
    for name in (
        "video_0.mov",
        "video_90.mov",
        "video_180.mov",
        "video_270.mov",
        "kinetics_demo_340x256.mp4",
        "flipping_a_pancake.mkv",
    ):
        new, old = ClipReader(tmp_path / name.replace(name[-4:], ".mp4")), ClipReader(fixtures / name, 128)
        assert abs(new.height - old.height) < 2 and abs(new.width - old.width) < 2, name
        height, width = min(new.height, old.height), min(new.width, old.width)
        first, second = (reader.read([0, 2]).astype(int)[:, :height, :width] for reader in (new, old))
        assert abs(first - second).mean() < 9, name  # other filters, even sizes
        assert abs(first - second[:, ::-1, ::-1]).mean() > 15, name  # not upside down
    assert {row["status"] for row in verify_folder(tmp_path)} == {"ok"}
