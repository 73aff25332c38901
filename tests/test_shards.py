"""Shards: the WebDataset library reads what we write, we read what others write, and training does not see a
difference."""

import csv
import dataclasses
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from test_cli import run, run_json

from vt_course import CourseError
from vt_course.data import loading, open_spec
from vt_course.data import shards as module
from vt_course.data.clips import Rows, VideoFolder, read_manifest
from vt_course.data.reader import ClipReader
from vt_course.data.shards import shard
from vt_course.files import alone
from vt_course.training import evaluate
from vt_course.training.checkpoint import read_state

from test_training import QUIET, assert_same_run, clips, recipe, tiny, train  # noqa: F401 (fixtures)
from videos import write_video


def read_csv(path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def refusal(call, words: str) -> str:
    with pytest.raises(CourseError, match=words) as caught:
        call()
    message = str(caught.value)
    assert message.endswith((".", "[shards]")) and "\n" not in message and len(message) < 400
    return message


@pytest.fixture(scope="module")
def src(tmp_path_factory) -> Path:
    """11 + 4 clips of two classes, no two alike, in three containers; a listed clip is missing, one file is no
    video."""
    at = tmp_path_factory.mktemp("source")
    lines = {"train": [], "val": []}
    for k in range(15):
        split, label = ("train", "val")[k >= 11], ("jump, high", "rün")[k % 2]
        name = f"{label} {k}.{('mp4', 'MKV', 'avi')[k % 3]}"
        video = write_video(at / name.lower(), frames=4 + k, codec="mpeg4" if k % 3 == 2 else "libx264")
        video.rename(at / name)
        lines[split].append([name, label, "0.05" if k == 4 else "", "0.2" if k == 4 else ""])
    (at / "text.mp4").write_text("no video", encoding="utf-8")
    for rows in lines.values():
        rows.sort(key=lambda row: row[1])  # as a listing by class is
    lines["train"] += [["text.mp4", "rün", "", ""], ["gone.mp4", "rün", "", ""]]
    for split, rows in lines.items():
        with open(at / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["path", "label", "start", "end"], *rows])
    return at


SIZE = 12_000  # of a shard: three or four clips


@pytest.fixture(scope="module")
def out(src, tmp_path_factory) -> Path:
    at = tmp_path_factory.mktemp("shards") / "new" / "out"
    done = shard(src, at, SIZE)
    tars = sorted(at.glob("*.tar"))
    assert done == dict(
        out=str(at),
        shards=len(tars),
        written=len(tars),
        done_before=0,
        clips=15,
        left_out=2,
        notes=done["notes"],
        bytes=sum(path.stat().st_size for path in tars),
        seconds=done["seconds"],
    )
    assert "1 of 17 listed clips are not there" in done["notes"][0] and len(tars) >= 5
    return at


def samples(out, split) -> list[dict]:
    """What the WebDataset library makes of the shards."""
    tars = sorted(str(path) for path in out.glob(f"{split}-*.tar"))
    return list(webdataset.WebDataset(tars, shardshuffle=False))


def by_path(out, split) -> dict[str, dict]:
    return {json.loads(sample["json"])["path"]: sample for sample in samples(out, split)}


# ------------------------------------------------------------------------- what is written


def test_the_library_reads_every_clip_unchanged(src, out):
    spec = open_spec(f"shards:{out}")
    for split, count in (("train", 11), ("val", 4)):
        rows = {row["path"]: row for row in read_csv(src / f"{split}.csv")}
        found = by_path(out, split)
        assert len(samples(out, split)) == len(found) == count
        assert found.keys() == rows.keys() - {"text.mp4", "gone.mp4"}
        assert sorted(sample["__key__"] for sample in found.values()) == sorted({s["__key__"] for s in found.values()})
        for path, sample in found.items():
            assert sample[Path(path).suffix[1:].lower()] == (src / path).read_bytes()
            meta, row = json.loads(sample["json"]), rows[path]
            assert spec.classes[int(sample["cls"])] == meta["label"] == row["label"] and sample["__key__"].isdecimal()
            assert [meta.get(key) for key in ("start", "end")] == [
                float(row[key]) if row[key] else None for key in ("start", "end")
            ]


def test_the_index_says_where_each_video_lies(src, out):
    for split in ("train", "val"):
        rows, found = read_csv(out / f"{split}.csv"), samples(out, split)
        assert len(rows) == len(found)
        for row, sample in zip(rows, found):  # in the order of the tars
            meta = json.loads(sample["json"])
            data = (out / row["path"]).read_bytes()[int(row["offset"]) : int(row["offset"]) + int(row["bytes"])]
            assert data == (src / meta["path"]).read_bytes() and row["label"] == meta["label"]
            assert [row["start"], row["end"]] == [str(meta.get(key, "")) for key in ("start", "end")]


def test_shards_are_of_the_size_asked_for_and_mix_the_classes(src, out):
    for split in ("train", "val"):
        videos = [
            [member.size for member in tarfile.open(path) if not member.name.endswith(("cls", "json"))]
            for path in sorted(out.glob(f"{split}-*.tar"))
        ]
        assert all(sum(sizes) <= SIZE for sizes in videos) and all(videos)
        assert all(sum(one) + two[0] > SIZE - 50 for one, two in zip(videos, videos[1:]))  # full (the text has 8 bytes)
    labels = [row["label"] for row in read_csv(out / "train.csv")]
    assert 3 <= sum(one != two for one, two in zip(labels, labels[1:]))  # sorted by class: 1


def test_the_record_says_what_is_in_each_shard_and_what_is_not(src, out):
    record = json.loads((out / "shards.json").read_text(encoding="utf-8"))
    assert record["classes"] == ["jump, high", "rün"] and list(record["shards"]) == sorted(
        path.name for path in out.glob("*.tar")
    )
    for name, told in record["shards"].items():
        data = (out / name).read_bytes()
        assert (told["bytes"], told["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert told["clips"] == sum(
            row["path"] == name for split in ("train", "val") for row in read_csv(out / f"{split}.csv")
        )
    reasons = {os.path.basename(row["path"]): row["reason"] for row in read_csv(out / "left_out.csv")}
    assert reasons.keys() == {"text.mp4", "gone.mp4"}
    assert "is no MP4" in reasons["text.mp4"] and "is not there" in reasons["gone.mp4"]
    assert not list(out.glob(".*"))


def test_the_same_clips_give_the_same_bytes_anywhere(src, out, tmp_path):
    shutil.copytree(src, tmp_path / "src")  # other times, another place
    shard(tmp_path / "src", tmp_path / "out", SIZE)
    for path in [*out.glob("*.tar"), out / "train.csv", out / "val.csv"]:
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name


# ------------------------------------------------------------------------- again, and after a kill


def stamps(out) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}


def test_a_second_run_does_only_what_is_not_there(src, out, tmp_path):
    before, first = stamps(out), {path.name: path.read_bytes() for path in out.glob("*.*")}
    copy = shutil.copytree(out, tmp_path / "out")
    assert shard(src, out, SIZE)["written"] == 0 and stamps(out) == before
    (copy / "train-000001.tar").unlink()
    (copy / "val-000000.tar").write_bytes(b"half")
    (copy / "train.csv").unlink()
    kept = stamps(copy)
    assert shard(src, copy, SIZE)["written"] == 2
    assert {path.name: path.read_bytes() for path in copy.glob("*.*")} == first
    assert {name for name in kept if stamps(copy)[name] == kept[name]} == kept.keys() - {
        "train-000001.tar",
        "val-000000.tar",
    }


def in_a_fork(work, tmp_path) -> tuple[int, str]:
    """(how a fork of this process ended, the sentence it was refused with); negative: killed by that signal."""
    said = tmp_path / "said"
    child = os.fork()
    if child == 0:
        try:
            work()
        except CourseError as error:
            said.write_text(str(error), encoding="utf-8")
        finally:
            os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.read_text(encoding="utf-8") if said.exists() else ""


@pytest.mark.posix("kill -9")
def test_a_kill_loses_only_the_shard_in_hand(src, out, tmp_path, monkeypatch):
    video, seen = module._video, []

    def kill_at_the_eighth(path):
        seen.append(path)
        if len(seen) == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return video(path)

    monkeypatch.setattr(module, "_video", kill_at_the_eighth)
    assert in_a_fork(lambda: shard(src, tmp_path / "out", SIZE), tmp_path) == (-signal.SIGKILL, "")
    monkeypatch.undo()
    before = stamps(tmp_path / "out")
    assert before and all((tmp_path / "out" / name).read_bytes() == (out / name).read_bytes() for name in before)
    assert list((tmp_path / "out").glob(".*.part")) and not (tmp_path / "out/train.csv").exists()
    refusal(lambda: open_spec(f"shards:{tmp_path / 'out'}"), "are not complete; run the `vt-course data shard`")
    done = shard(src, tmp_path / "out", SIZE)
    assert done["done_before"] == len(before) and {name: stamps(tmp_path / "out")[name] for name in before} == before
    names = [path.name for path in out.glob("*.*")]
    assert sorted(names) == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert all((tmp_path / "out" / name).read_bytes() == (out / name).read_bytes() for name in names)


@pytest.mark.parametrize("damage", [b"", b"\0" * 500, b'{"a": 1}', b'{"classes": [], "shards"', b"<html></html>"])
def test_a_damaged_record_is_made_anew(damage, src, out, tmp_path):
    at = shutil.copytree(out, tmp_path / "out")
    (at / "shards.json").write_bytes(damage)
    refusal(lambda: open_spec(f"shards:{at}"), "run the `vt-course data shard` that wrote it again")
    shard(src, at, SIZE)
    assert all((at / path.name).read_bytes() == path.read_bytes() for path in out.iterdir())
    (at / "shards.json").write_bytes(damage)
    (at / "train-000000.tar").rename(at / "train-000099.tar")  # of other clips, as far as we know
    refusal(lambda: shard(src, at, SIZE), "holds a damaged shards.json and, in train-000099.tar, other clips")
    assert (at / "train-000099.tar").read_bytes() == (out / "train-000000.tar").read_bytes()


def test_shares_make_what_one_call_makes(src, out, tmp_path):
    """In any order, one of them never: the call without shares makes its tars, and leaves no trace of shares."""
    whole, at = sorted(path.name for path in out.iterdir()), tmp_path / "out"
    tars = [name for name in whole if name.endswith(".tar")]
    counts = [shard(src, at, SIZE, share=share)["written"] for share in ((3, 3), (1, 3), (3, 3))]
    assert counts[:2] == [len(tars[2::3]), len(tars[::3])] and counts[2] == 0
    refusal(lambda: open_spec(f"shards:{at}"), "are not complete; run the `vt-course data shard`")
    refusal(lambda: shard(src, at, SIZE + 1, share=(2, 3)), "holds shards of other clips or of another size")
    with alone(at / ".lock.2-of-3"):
        refusal(lambda: shard(src, at, SIZE), "another run is at work")
    done = shard(src, at, SIZE)
    assert done["written"] == len(tars[1::3]) and sorted(path.name for path in at.iterdir()) == whole
    assert all((at / name).read_bytes() == (out / name).read_bytes() for name in whole if name != "shards.json")
    told, wanted = (json.loads((folder / "shards.json").read_text(encoding="utf-8")) for folder in (at, out))
    assert told == wanted


@pytest.mark.parametrize(
    "damage", [bytes, lambda size: b"no tar".ljust(size), lambda size: b""], ids=["zeros", "text", "cut"]
)
def test_a_shard_that_was_overwritten_is_written_again(src, out, tmp_path, damage):
    shutil.copytree(out, tmp_path / "out")
    shard_file = sorted((tmp_path / "out").glob("train-*.tar"))[0]
    good = shard_file.read_bytes()
    shard_file.write_bytes(damage(len(good)))
    assert shard(src, tmp_path / "out", SIZE)["written"] == 1 and shard_file.read_bytes() == good


@pytest.mark.posix("fork")
def test_a_full_disk_keeps_the_whole_shards(tmp_path):
    for split, frames in (("train", 4), ("train", 5), ("val", 90)):
        (tmp_path / f"src/{split}/a").mkdir(parents=True, exist_ok=True)
        write_video(
            tmp_path / f"src/{split}/a/{frames}.mp4", frames=frames, size=(240, 320) if frames > 9 else (48, 64)
        )

    def with_small_files():
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        shard(tmp_path / "src", tmp_path / "out", 1)

    code, said = in_a_fork(with_small_files, tmp_path)
    assert code == 7 and said.endswith(
        "cannot be written (File too large); the shards before it are whole: free space and run the same command again."
    ), said
    whole = list((tmp_path / "out").glob("*.tar"))
    assert len(whole) == 2 and not list((tmp_path / "out").glob(".*"))
    again = shard(tmp_path / "src", tmp_path / "out", 1)
    assert (again["done_before"], again["clips"], again["left_out"]) == (2, 3, 0)


def test_what_cannot_work_is_refused(src, out, tmp_path, monkeypatch):
    refusal(lambda: shard(src, out, SIZE + 1), "shards of other clips or of another size")
    copy = shutil.copytree(src, tmp_path / "src")
    (copy / "gone.mp4").write_bytes((copy / "rün 1.MKV").read_bytes())
    refusal(lambda: shard(copy, out, SIZE), "shards of other clips")
    refusal(lambda: shard(src, src / "shards", SIZE), "lies in .*; name a folder beside it")
    refusal(lambda: shard(tmp_path / "nowhere", tmp_path / "x"), "There is no folder")
    refusal(lambda: shard(out, tmp_path / "x"), "holds shards and no videos as files; train with --data shards:")
    refusal(lambda: open_spec(f"folder:{out}"), "holds shards and no videos")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/backup.tar").touch()
    refusal(lambda: shard(src, tmp_path / "other"), "tar files of another program")
    with alone(out / ".lock"):
        refusal(lambda: shard(src, out, SIZE), "another run is at work")
    monkeypatch.setitem(sys.modules, "webdataset", None)
    refusal(lambda: shard(src, tmp_path / "x"), r"needs the library webdataset, .*pip install -e .\[shards\]")
    assert not (tmp_path / "x").exists() and open_spec(f"shards:{out}").classes  # reading needs no library


def test_clips_of_which_none_can_be_used(tmp_path):
    for split in ("train", "val"):
        (tmp_path / f"src/{split}/a").mkdir(parents=True)
        (tmp_path / f"src/{split}/a/1.mp4").write_text("no video", encoding="utf-8")
    refusal(
        lambda: shard(tmp_path / "src", tmp_path / "out"),
        "none of the train clips of .* can be used; .*left_out.csv says why",
    )
    assert len(read_csv(tmp_path / "out/left_out.csv")) == 2


def test_the_command(src, out, tmp_path):
    shutil.copytree(src, tmp_path / "src")
    code, text, err = run("data", "shard", tmp_path / "src", "--shard-mb", "1")
    assert code == 0 and "1 of 17 listed clips are not there" in err
    assert f"{tmp_path}/src-shards: 15 clips in 2 shards, 0 MB, 2 written now" in text
    assert "2 clips left out; " in text and f"train with --data shards:{tmp_path}/src-shards" in text
    again = run_json("data", "shard", tmp_path / "src", "--shard-mb", "1")
    assert (again["written"], again["done_before"], again["clips"], again["left_out"]) == (0, 2, 15, 2)


# ------------------------------------------------------------------------- shards of others


def write_tar(path, members: dict, **settings) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **settings) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_folders_of_frames_are_packed_as_the_pictures_they_are(tmp_path, kind):
    """A video whose packets are the files: the same pixels, and any program reads it."""
    rng, src = np.random.default_rng(0), tmp_path / "src"
    for split in ("train", "val"):
        (src / split / "a/v").mkdir(parents=True)
        for k in range(5):
            noise = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(src / split / f"a/v/{k}.{kind}", subsampling=0 if split == "val" else 2)
    assert shard(src, tmp_path / "out")["left_out"] == 0
    rows, spec = read_csv(tmp_path / "out/train.csv"), open_spec(f"shards:{tmp_path / 'out'}")
    for split in ("train", "val"):
        [row] = read_manifest(getattr(spec, split))
        packed = ClipReader(row["path"], span=(row["offset"], row["bytes"]))
        wanted = [4, 0, 0, 2]
        assert packed.num_frames == 5 and packed.fps == 25
        np.testing.assert_array_equal(packed.read(wanted), ClipReader(src / split / "a/v").read(wanted))
    data = (tmp_path / "out" / rows[0]["path"]).read_bytes()
    assert all(path.read_bytes() in data for path in (src / "train/a/v").iterdir())
    once = (tmp_path / "out/train-000000.tar").read_bytes()
    shard(src, tmp_path / "again")
    assert (tmp_path / "again/train-000000.tar").read_bytes() == once


@pytest.fixture
def foreign(src, tmp_path) -> Path:
    """As other programs write them: labels in .json, .cls or .txt, folders, long names, sound beside the video."""
    videos = [path.read_bytes() for path in sorted(src.glob("*.mp4"))[:4]]
    at, long = tmp_path / "foreign", "a/" * 60 + "long"
    write_tar(
        at / "train-00.tar",
        {
            "./1.json": b'{"label": "run", "start": 900}',
            "./1.mp4": videos[0],
            "./1.wav": b"RIFF",
            f"{long}.v.MP4": videos[1],
            f"{long}.v.cls": b"jump\n",
        },
        format=tarfile.PAX_FORMAT,
    )
    write_tar(at / "train-01.tar", {"3.txt": b"run", "3.mp4": videos[2], "README": b"mine", "4.cls": b"run"})
    write_tar(at / "validation/0.tar", {"x.mp4": videos[3], "x.cls": b"jump", "x.json": b"[1]"})
    write_tar(at / "test-0.tar", {"y.mp4": videos[3], "y.cls": b"another"})
    return at


def test_shards_of_others_are_indexed_from_their_headers(src, foreign):
    spec = open_spec(f"shards:{foreign}")
    assert spec.classes == ("jump", "run")
    assert spec.notes == (
        f"Validation is on validation; left out of {foreign}: test.",
        f"1 samples in {foreign} have no video and are left out.",
        "No validation clip of class run.",
    )
    assert [row["label"] for row in spec.train] == ["run", "jump", "run"] and [row["label"] for row in spec.val] == [
        "jump"
    ]
    videos = [path.read_bytes() for path in sorted(src.glob("*.mp4"))[:4]]
    for row, video in zip([*spec.train, *spec.val], videos, strict=True):
        assert Path(row["path"]).read_bytes()[row["offset"] : row["offset"] + row["bytes"]] == video
        assert row["start"] is row["end"] is None  # of others, who knows what "start" means
    sample = VideoFolder(spec.val, classes=spec.classes, frames=4, stride=1, size=32, train=False)[0]
    assert sample["label"] == 0 and sample["clip"].shape == (3, 4, 32, 32)
    (foreign / "validation/0.tar").rename(foreign / "valid_0.tar")
    assert open_spec(f"shards:{foreign}").notes[0] == f"Validation is on valid; left out of {foreign}: test."


def test_classes_that_are_numbers_are_in_their_order(foreign):
    video = b"any"
    for split in ("train", "val"):
        write_tar(
            foreign / f"numbers/{split}.tar",
            {f"{k}.{end}": text for k in range(11) for end, text in (("mp4", video), ("cls", str(k).encode()))},
        )
    assert open_spec(f"shards:{foreign / 'numbers'}").classes == tuple(map(str, range(11)))


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda at: shutil.rmtree(at), "There is no folder"),
        (lambda at: [path.rename(path.with_suffix(".tar.gz")) for path in at.rglob("*.tar")], "has no tar files"),
        (lambda at: [path.unlink() for path in at.rglob("train*.tar")], "do not begin with train and val or test"),
        (
            lambda at: (at / "validation/0.tar").rename(at / "../0.tar") and (at / "test-0.tar").unlink(),
            "do not begin with train and val",
        ),
        (lambda at: write_tar(at / "train-01.tar", {"3.mp4": b"any"}), "Sample 3 in shard .*train-01.tar has no label"),
        (
            lambda at: write_tar(at / "train-01.tar", {"3.mp4": b"any", "3.json": b"{"}),
            "3.json in shard .* is not valid JSON",
        ),
        (
            lambda at: write_tar(at / "validation/0.tar", {"x.mp4": b"any", "x.cls": b"new"}),
            "class new for validation only",
        ),
        (lambda at: (at / "train-01.tar").write_bytes(b""), "train-01.tar is truncated, damaged or no plain tar"),
        (lambda at: (at / "train-01.tar").write_bytes(b"\x1f\x8b" * 900), "no plain tar"),
    ],
    ids=["no folder", "compressed", "names", "no val", "label", "json", "class", "empty", "gzip"],
)
def test_shards_of_others_that_cannot_be_read(foreign, change, words):
    change(foreign)
    refusal(lambda: open_spec(f"shards:{foreign}"), words)


def test_a_truncated_tar_is_named_wherever_it_was_cut(foreign, out, tmp_path):
    whole = (foreign / "train-00.tar").read_bytes()
    with tarfile.open(foreign / "train-00.tar") as tar:
        end = tar.getmembers()[-1].offset_data + 512
    for size in (
        100,
        512,
        700,
        end // 2,
        end - 1000,
        end - 512,
        end - 5,
        end,
    ):  # in headers, videos, and between members
        (foreign / "train-00.tar").write_bytes(whole[:size])
        refusal(lambda: open_spec(f"shards:{foreign}"), "train-00.tar is truncated")
    copy = shutil.copytree(out, tmp_path / "copy")
    os.truncate(copy / "train-000001.tar", 5000)
    refusal(lambda: open_spec(f"shards:{copy}"), "train-000001.tar has 5,000 bytes and not")
    (copy / "train-000001.tar").unlink()
    refusal(lambda: open_spec(f"shards:{copy}"), "train-000001.tar has 0 bytes and not")
    (copy / "shards.json").write_text('{"a": 1}', encoding="utf-8")
    refusal(lambda: open_spec(f"shards:{copy}"), "is not what `vt-course data shard` writes")


# ------------------------------------------------------------------------- training


def test_samples_are_those_of_the_files(src, out):
    settings = dict(frames=4, stride=1, size=32, train=True, seed=5, flip=0.5)
    spec = open_spec(f"shards:{out}")
    rows = {os.path.relpath(row["path"], src): row for row in read_manifest(src / "train.csv")}
    order = [json.loads(sample["json"])["path"] for sample in samples(out, "train")]
    shards = VideoFolder(spec.train, classes=spec.classes, **settings)
    files = VideoFolder(Rows([rows[path] for path in order], "files"), classes=spec.classes, **settings)
    for k, path in enumerate(order):
        for epoch in (0, 3):
            one, two = shards[epoch, k], files[epoch, k]
            assert one["label"] == two["label"] and torch.equal(one["clip"], two["clip"]), path


@pytest.fixture(scope="module")
def as_shards(clips, tmp_path_factory) -> tuple[str, str]:  # noqa: F811
    """The clips of test_training as (shards:OUT, csv:... of the files in the order of the shards)."""
    at = tmp_path_factory.mktemp("training")
    shard(clips, at / "shards", 9_000)
    assert len(list((at / "shards").glob("train-*.tar"))) >= 3
    for split in ("train", "val"):
        with open(at / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            metas = [json.loads(sample["json"]) for sample in samples(at / "shards", split)]
            csv.writer(file).writerows([["path", "label"], *([clips / meta["path"], meta["label"]] for meta in metas)])
    return f"shards:{at / 'shards'}", f"csv:{at / 'train.csv'},{at / 'val.csv'}"


@pytest.mark.slow
def test_training_equals_that_on_files_bit_for_bit(as_shards, recipe, tiny, tmp_path):  # noqa: F811
    for name, data, workers in (("shards", as_shards[0], 0), ("files", as_shards[1], 0), ("workers", as_shards[0], 2)):
        train(dataclasses.replace(recipe, data=data), tmp_path / name, workers=workers)
    assert_same_run(tmp_path / "shards", tmp_path / "files")
    assert_same_run(tmp_path / "shards", tmp_path / "workers")


@pytest.mark.slow
def test_a_stop_within_an_epoch_changes_nothing(as_shards, recipe, tiny, tmp_path):  # noqa: F811
    recipe = dataclasses.replace(recipe, data=as_shards[0])
    train(recipe, tmp_path / "whole")
    for steps in (1, 5, None):  # three steps an epoch
        train(recipe, tmp_path / "stopped", max_steps=steps, workers=2)
        if steps:
            assert read_state(tmp_path / "stopped")["progress"]["batch"] == steps % 3
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_frames_kept_in_memory_are_each_clips_own(as_shards, recipe):  # noqa: F811
    plain, _ = evaluate.open_data(dataclasses.replace(recipe, data=as_shards[0]))
    kept, _ = evaluate.open_data(dataclasses.replace(recipe, data=as_shards[0], keep=32))  # as stored
    for k in range(12):  # several in one tar
        assert torch.equal(kept[1, k]["clip"], plain[1, k]["clip"])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_each_clip_is_read_once_an_epoch(as_shards, recipe, workers):  # noqa: F811
    dataset, _ = evaluate.open_data(dataclasses.replace(recipe, data=as_shards[0]))
    batches = loading.EpochBatches(len(dataset), 5, seed=1)  # 5, 5 and 2
    loader = loading.make_loader(dataset, batches, workers, torch.device("cpu"))
    orders = []
    for batches.epoch in (0, 1):
        read = list(loader)
        assert not any(batch["bad"] for batch in read)
        orders.append([int(k) for batch in read for k in batch["index"]])
        assert Counter(orders[-1]) == Counter(range(12))
        assert [int(k) for batch in read for k in batch["label"]] == [dataset.labels[k] for k in orders[-1]]
    assert orders[0] != orders[1]
    batches.start = 2  # as a restart after two of three batches
    assert [int(k) for batch in loader for k in batch["index"]] == orders[1][10:]
