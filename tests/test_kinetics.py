"""A subset of Kinetics from a mirror of our own that has the layout of the real one, and its faults."""

import csv
import gzip
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from vt_course import CourseError, cli, repo_root
from vt_course.data import open_spec, verify
from vt_course.fetch import download
from vt_course.fetch import kinetics as module
from vt_course.fetch.kinetics import Clip, folder_of, kinetics, rank, read_annotations
from vt_course.files import sha256_of

from server import serving
from videos import write_video

CLASSES = ("petting animal (not cat)", "playing harp", "side kick", "yoga")
ASKED = "playing harp,side kick"


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """video(id): the bytes of a healthy little video, others for every id."""
    body = write_video(tmp_path_factory.mktemp("video") / "a.mp4", frames=6, faststart=True).read_bytes()
    return lambda id: body + (8 + 11).to_bytes(4, "big") + b"free" + id.encode()


def make_ids(count, seed=0):
    letters, rng = "-_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", random.Random(seed)
    return ["".join(rng.choices(letters, k=11)) for _ in range(count)]


def make_clips(split, each, cc=False):
    """`each` clips of each class, none with a "-" in front (two of them have one later on)."""
    ids = iter(i.replace("-", "x", 1) if i[0] == "-" else i for i in make_ids(each * len(CLASSES), seed=split))
    return sorted(
        [
            Clip(label, next(ids), n, n + 10, split, str(int(n % 3 == 0)) if cc else "")
            for label in CLASSES
            for n in range(each)
        ],
        key=rank,
    )


def tar(members, mode="w:gz"):
    """members: (name, bytes) or a TarInfo."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return file.getvalue()


def annotations(clips, cc=True):
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["label", "youtube_id", "time_start", "time_end", "split"] + ["is_cc"] * cc)
    rows.writerows([c.label, c.id, c.start, c.end, c.split] + [c.cc] * cc for c in clips)
    return text.getvalue().encode()


class Mirror:
    """Kinetics-400: 4 classes, 12 training clips each in 8 archives of 6, 5 for validation in 2."""

    def __init__(self, server, video):
        self.server, self.video = server, video
        self.train, self.val = make_clips("train", 12, cc=True), make_clips("val", 5, cc=True)
        for split, clips, each in (("train", self.train, 6), ("val", self.val, 10)):
            server.files[f"/400/annotations/{split}.csv"] = annotations(clips)
            for n in range(len(clips) // each):
                self.set_part(f"{split}/part_{n}.tar.gz", clips[n * each : n * each + each])
            names = [
                f"https://s3.amazonaws.com/kinetics/400/{split}/part_{n}.tar.gz" for n in range(len(clips) // each)
            ]
            server.files[f"/400/{split}/k400_{split}_path.txt"] = "\n".join(sorted(names, reverse=True)).encode()
        server.files["/400/replacement_for_corrupted_k400.tgz"] = tar([("replacement_for_corrupted_k400/", b"")])

    def set_part(self, part, clips):
        """In an archive clips lie in no order, after other things."""
        shuffled = random.Random(part).sample(clips, len(clips))
        self.server.files[f"/400/{part}"] = tar(
            [("./README", b"x")] + [(f"./{clip.stem}.mp4", self.video(clip.id)) for clip in shuffled]
        )

    def part_of(self, clip):
        clips, each = (self.train, 6) if clip.split == "train" else (self.val, 10)
        return f"{clip.split}/part_{clips.index(clip) // each}.tar.gz"

    def replace(self, clip, body=None):
        """Give a clip other content in its archive; None: it is not there."""
        path = f"/400/{self.part_of(clip)}"
        with tarfile.open(fileobj=io.BytesIO(self.server.files[path])) as archive:
            members = {member.name: archive.extractfile(member).read() for member in archive}
        members[f"./{clip.stem}.mp4"] = body
        self.server.files[path] = tar([(name, data) for name, data in members.items() if data is not None])

    def first(self, label, count, split="train"):
        return [clip for clip in (self.train if split == "train" else self.val) if clip.label == label][:count]

    def parts(self):
        """The archives asked for so far, in that order."""
        return [p.removeprefix("/400/") for p in self.server.paths if p.endswith("gz")]

    def get(self, out, classes=ASKED, clips_per_class=3, **settings):
        return kinetics(
            out,
            classes=classes,
            clips_per_class=clips_per_class,
            base_url=self.server.root,
            **{"workers": 1, **settings},
        )


@pytest.fixture
def server():
    with serving({}) as server:
        yield server


@pytest.fixture
def mirror(server, video):
    return Mirror(server, video)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No waiting between attempts, no second process to decode in, and estimates for small clips."""

    def check_here(paths, workers):
        for path in paths:
            yield verify.decode_all(str(path))

    monkeypatch.setattr(module, "verify", check_here)
    monkeypatch.setattr(download, "BACKOFF", 0.01)
    for name, version in module.VERSIONS.items():
        monkeypatch.setitem(module.VERSIONS, name, version._replace(bytes_per_clip=1e4, rows=(1, 1), per_archive=None))
    for proxy in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)


def rows(out, split):
    with open(out / f"{split}.csv", newline="", encoding="utf-8") as file:
        return [(row["label"], row["path"]) for row in csv.DictReader(file)]


def records(out):
    return [json.loads(line) for line in (out / "clips.jsonl").read_text(encoding="utf-8").splitlines()]


def timeless(out):
    return [{key: value for key, value in line.items() if key != "mtime_ns"} for line in records(out)]


def paths(clips):
    return [clip.path for clip in clips]


def whole(out, mirror):
    """Every video below `out` has its own bytes, to the last; returns how many there are."""
    files = [file for split in ("train", "val") for file in (out / split).glob("*/*")]
    for file in files:
        assert file.read_bytes() == mirror.video(file.name[:11]), file
    return len(files)


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text and len(text) < 700, text
    return text


# ---------------------------------------------------------------- the right clips


def test_kinetics_400(mirror, tmp_path):
    done = mirror.get(tmp_path, clips_per_class=(3, 2))
    for split, count in (("train", 3), ("val", 2)):
        expected = [
            (c.label, c.path) for label in ("playing harp", "side kick") for c in mirror.first(label, count, split)
        ]
        assert rows(tmp_path, split) == expected
    assert done["clips"] == {"train": 6, "val": 4} and done["short"] == {"train": {}, "val": {}}
    assert whole(tmp_path, mirror) == 10 and sorted(p.name for p in tmp_path.iterdir()) == [
        "annotations",
        "clips.jsonl",
        "kinetics.json",
        "parts.jsonl",
        "train",
        "train.csv",
        "val",
        "val.csv",
    ]


def test_the_record(mirror, tmp_path):
    done = mirror.get(tmp_path, splits=["train"])
    lines = records(tmp_path)
    assert len(lines) == 6 and done["bytes"] == sum(line["bytes"] for line in lines)
    for line in lines:
        path = tmp_path / line["split"] / folder_of(line["label"]) / line["name"]
        clip = next(c for c in mirror.train if f"{c.stem}.mp4" == line["name"])
        assert line == dict(
            name=path.name,
            label=clip.label,
            split="train",
            part=mirror.part_of(clip),
            frames=6,
            bytes=path.stat().st_size,
            mtime_ns=path.stat().st_mtime_ns,
            sha256=sha256_of(path),
        )


def test_stops_when_it_has_enough(mirror, tmp_path):
    """Archives are read in the order of their numbers, whatever that of the list, up to the last clip needed."""
    needed = max(
        int(mirror.part_of(c).split("_")[1][0])
        for label in ("playing harp", "side kick")
        for c in mirror.first(label, 3)
    )
    done = mirror.get(tmp_path, splits=["train"])
    assert mirror.parts() == [f"train/part_{n}.tar.gz" for n in range(needed + 1)] and needed < 6
    assert done["parts"] == done["estimate"]["parts"] == needed + 1


def test_parallel_fetches_the_same(mirror, tmp_path):
    mirror.get(tmp_path / "one")
    alone = mirror.parts()
    mirror.get(tmp_path / "four", workers=4)
    assert sorted(mirror.parts()[len(alone) :]) == sorted(alone)  # and not one archive more
    assert timeless(tmp_path / "one") == timeless(tmp_path / "four")
    for name in ("train.csv", "val.csv", "parts.jsonl"):
        assert (tmp_path / "one" / name).read_text(encoding="utf-8") == (tmp_path / "four" / name).read_text(
            encoding="utf-8"
        )


def test_parallel_is_parallel(mirror, tmp_path):
    mirror.server.always = dict(pause=0.3)
    began = time.monotonic()
    mirror.get(tmp_path, clips_per_class=5, splits=["train"], workers=8)
    assert len(mirror.parts()) >= 3
    assert mirror.server.most_at_once >= 3 and time.monotonic() - began < 10


def test_again_asks_for_nothing(mirror, tmp_path):
    first = mirror.get(tmp_path)
    before = len(mirror.server.paths)
    again = mirror.get(tmp_path)
    assert len(mirror.server.paths) == before and again["parts"] == 0 and again["clips"] == first["clips"]
    assert again["estimate"] == dict(clips=0, parts=0, download=0, disk=0)


def test_more_later(mirror, tmp_path):
    """Fewer clips, then more, then other classes: nothing is lost, and archives known to hold nothing new are
    skipped."""
    mirror.get(tmp_path, splits=["train"], clips_per_class=2)
    had = {line["name"]: line["sha256"] for line in records(tmp_path)}
    asked = mirror.parts()
    mirror.get(tmp_path, splits=["train"], clips_per_class=5)
    new = mirror.parts()[len(asked) :]
    assert set(new) & set(asked) == {
        p
        for p in asked
        if any(
            mirror.part_of(c) == p and f"{c.stem}.mp4" not in had
            for label in ASKED.split(",")
            for c in mirror.first(label, 5)
        )
    }
    assert rows(tmp_path, "train") == [(c.label, c.path) for label in ASKED.split(",") for c in mirror.first(label, 5)]
    mirror.get(tmp_path, "yoga", splits=["train"], clips_per_class=2)
    assert rows(tmp_path, "train") == [("yoga", c.path) for c in mirror.first("yoga", 2)]
    assert whole(tmp_path, mirror) == 12 and len(records(tmp_path)) == 12
    mirror.get(tmp_path, splits=["train"], clips_per_class=2)
    assert len(rows(tmp_path, "train")) == 4 and whole(tmp_path, mirror) == 12


def test_what_was_deleted_comes_back(mirror, tmp_path):
    mirror.get(tmp_path)
    lost = mirror.first("side kick", 3)[1]
    (tmp_path / lost.path).unlink()
    cut = mirror.first("side kick", 3, "val")[0]
    (tmp_path / cut.path).write_bytes(b"cut")
    asked = len(mirror.parts())
    mirror.get(tmp_path)
    assert mirror.parts()[asked:] == [mirror.part_of(lost), mirror.part_of(cut)] and whole(tmp_path, mirror) == 12


def test_creative_commons(mirror, tmp_path):
    done = mirror.get(tmp_path, clips_per_class=(3, 20), cc_only=True)
    for split, count in (("train", 3), ("val", 20)):
        free = [
            c for label in ASKED.split(",") for c in [c for c in mirror.first(label, 99, split) if c.cc == "1"][:count]
        ]
        assert rows(tmp_path, split) == [(c.label, c.path) for c in free]
    assert done["short"] == {"train": {}, "val": {"playing harp": 2, "side kick": 2}}


def test_presets(mirror, tmp_path, monkeypatch):
    monkeypatch.setitem(module.TINY10, "motion", ("side kick",))
    monkeypatch.setitem(module.TINY10, "appearance", ("playing harp",))
    done = mirror.get(tmp_path / "tiny", classes=None, preset="tiny10", clips_per_class=None)
    assert done["clips"] == {"train": 24, "val": 10}  # of 50 + 20 all there are
    extra = [Clip(label, id, 0, 10, "train", "0") for label, id in zip(["yoga"] * 2 + ["side kick"], make_ids(3, 9))]
    mirror.server.files["/400/annotations/train.csv"] = annotations(mirror.train + extra)
    monkeypatch.setattr(module, "MINI", 2)
    mirror.get(tmp_path / "mini", classes=None, preset="mini200", clips_per_class=1)
    assert {label for label, _ in rows(tmp_path / "mini", "train")} == {"yoga", "side kick"}


def test_the_command_with_default_arguments(mirror, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(module.TINY10, "motion", ("side kick",))
    monkeypatch.setitem(module.TINY10, "appearance", ("playing harp",))
    monkeypatch.setenv("VT_COURSE_DATA", str(tmp_path))
    start = ["data", "kinetics", "--preset", "tiny10", "--mirror", mirror.server.root]
    assert cli.main([*start, "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and "34 clips to come" in err and mirror.parts() == []
    assert cli.main(start) == 1  # of 50 and 20 clips a class there are 12 and 5
    out, train, val = capsys.readouterr().out, *(tmp_path / "kinetics" / f"{split}.csv" for split in ("train", "val"))
    assert out.splitlines()[:2] == [f"{train}: 24 clips", f"{val}: 10 clips"]
    assert "train, side kick: only 12, the mirror has no more\n" in out
    assert out.endswith(f"train with --data csv:{train},{val}\n")


def test_folders_and_manifests_are_what_others_read(mirror, tmp_path):
    mirror.get(tmp_path, "Petting_animal_not_cat,yoga", clips_per_class=2)
    import torchvision.datasets.kinetics as theirs  # the two functions that Kinetics builds on

    classes, index = theirs.find_classes(str(tmp_path / "train"))
    samples = theirs.make_dataset(str(tmp_path / "train"), index, ("avi", "mp4"))
    assert classes == ["petting_animal_not_cat", "yoga"] and Counter(k for _, k in samples) == {0: 2, 1: 2}
    spec = open_spec(f"csv:{tmp_path / 'train.csv'},{tmp_path / 'val.csv'}")
    assert spec.classes == ("petting animal (not cat)", "yoga")


def test_estimate_only(mirror, tmp_path):
    done = mirror.get(tmp_path, dry_run=True)
    assert mirror.parts() == [] and not (tmp_path / "train").exists()
    assert done["estimate"]["clips"] == 12 and 3 <= done["estimate"]["parts"] <= 8
    sizes = [1e4 * 6 * (done["estimate"]["parts"] - 2), 1e4 * 10 * 2, 1392 * 1e4]
    assert done["estimate"]["download"] == sum(sizes)


def test_says_what_is_to_come(mirror, tmp_path, capsys):
    mirror.get(tmp_path, progress=True)
    said = capsys.readouterr().err
    assert "Kinetics-400, 2 classes: 12 clips to come, in about" in said and "GB to download" in said
    assert "train/part_0.tar.gz: " in said


def test_ids_that_look_like_options_come_last():
    ids = ["zz", "-a", "0", "_", "A", "-0"]
    assert sorted(ids, key=lambda id: rank(Clip("", id, 0, 0, "", ""))) == ["0", "A", "_", "zz", "-0", "-a"]


# ---------------------------------------------------------------- Kinetics-700-2020


@pytest.fixture
def mirror700(mirror):
    """The same clips, an archive for each class, no column is_cc."""
    for split, clips in (("train", mirror.train), ("val", mirror.val)):
        names = []
        for n, label in enumerate(CLASSES):
            names.append(f"k700_{split}_{n + 1:03d}.tar.gz")
            mirror.server.files[f"/700_2020/{split}/{names[-1]}"] = tar(
                [(f"{label}/{c.stem}.mp4", mirror.video(c.id)) for c in clips if c.label == label]
            )
        mirror.server.files[f"/700_2020/{split}/k700_2020_{split}_path.txt"] = "\n".join(names).encode()
        mirror.server.files[f"/700_2020/annotations/{split}.csv"] = annotations(clips, cc=False)
    return mirror


def whole_archives(mirror):
    """Requests for an archive that were not for its first 64 kB."""
    return [
        p.rpartition("/")[2]
        for p, asked in zip(mirror.server.paths, mirror.server.log)
        if p.endswith("gz") and asked != "bytes=0-65535"
    ]


def test_kinetics_700_fetches_only_the_archives_of_its_classes(mirror700, tmp_path):
    done = mirror700.get(tmp_path, version="700-2020", clips_per_class=(3, 2))
    assert whole_archives(mirror700) == [f"k700_{s}_{n}.tar.gz" for s in ("train", "val") for n in ("002", "003")]
    assert done["parts"] == done["estimate"]["parts"] == 4 and whole(tmp_path, mirror700) == 10
    assert rows(tmp_path, "train") == [
        (c.label, c.path) for label in ASKED.split(",") for c in mirror700.first(label, 3)
    ]
    before = len(mirror700.server.paths)
    mirror700.get(tmp_path, version="700-2020", clips_per_class=(3, 2))
    assert len(mirror700.server.paths) == before


def test_kinetics_700_with_an_archive_missing(mirror700, tmp_path):
    """Then every class lies one place earlier than its number says."""
    for split in ("train", "val"):
        del mirror700.server.files[f"/700_2020/{split}/k700_{split}_001.tar.gz"]
        name = f"/700_2020/{split}/k700_2020_{split}_path.txt"
        mirror700.server.files[name] = mirror700.server.files[name].partition(b"\n")[2]
    mirror700.get(tmp_path, version="700-2020")
    assert whole(tmp_path, mirror700) == 12 and len(whole_archives(mirror700)) == 4
    with pytest.raises(CourseError, match="none of the 3 archives of Kinetics-700-2020 holds the class 'petting"):
        mirror700.get(tmp_path, "petting animal (not cat)", version="700-2020")


def test_versions_are_not_mixed(mirror700, tmp_path):
    mirror700.get(tmp_path)
    with pytest.raises(
        CourseError, match="holds Kinetics-400.*must not be mixed.*another --out for Kinetics-700"
    ) as error:
        mirror700.get(tmp_path, version="700-2020")
    assert str(tmp_path) in one_sentence(error) and not any("700" in path for path in mirror700.server.paths)
    other = tmp_path / "mine"
    (other / "train" / "yoga").mkdir(parents=True)
    with pytest.raises(CourseError, match="videos that were not fetched by this command"):
        mirror700.get(other)


def test_no_licence_column(mirror700, tmp_path):
    with pytest.raises(CourseError, match="does not say which clips are under Creative Commons"):
        mirror700.get(tmp_path, version="700-2020", cc_only=True)


# ---------------------------------------------------------------- clips that cannot be had


def test_a_spare_for_a_corrupt_clip_and_one_for_a_missing_one(mirror, tmp_path):
    corrupt, missing, *_ = first = mirror.first("side kick", 5)
    mirror.replace(corrupt, mirror.video(corrupt.id)[:900])
    if mirror.part_of(missing) != mirror.part_of(corrupt):
        mirror.replace(missing)
    else:
        pytest.fail("choose another seed")
    done = mirror.get(tmp_path, splits=["train"])
    assert [path for label, path in rows(tmp_path, "train") if label == "side kick"] == paths(first[2:5])
    bad = [line for line in records(tmp_path) if "error" in line]
    assert [line["name"] for line in bad] == [f"{corrupt.stem}.mp4"] and corrupt.stem in bad[0]["error"]
    assert done["short"] == {"train": {}} and whole(tmp_path, mirror) == 6
    asked = len(mirror.server.paths)
    mirror.get(tmp_path, splits=["train"])
    assert len(mirror.server.paths) == asked  # nor is the corrupt one tried again


def test_the_replacement_comes_last(mirror, tmp_path):
    corrupt = mirror.first("side kick", 3)[1]
    mirror.replace(corrupt, b"not a video")
    mirror.server.files["/400/replacement_for_corrupted_k400.tgz"] = tar(
        [(f"replacement_for_corrupted_k400/{corrupt.id}.mp4", mirror.video(corrupt.id))]
    )
    mirror.get(tmp_path)
    assert mirror.parts()[-1] == "replacement_for_corrupted_k400.tgz"
    assert rows(tmp_path, "train") == [(c.label, c.path) for label in ASKED.split(",") for c in mirror.first(label, 3)]
    assert whole(tmp_path, mirror) == 13  # and the spare that had stood in
    asked = len(mirror.server.paths)
    mirror.get(tmp_path)
    assert len(mirror.server.paths) == asked and len(rows(tmp_path, "train")) == 6


def test_a_corrupt_replacement_is_not_fetched_again(mirror, tmp_path):
    corrupt = mirror.first("side kick", 3)[1]
    mirror.replace(corrupt, b"not a video")
    mirror.server.files["/400/replacement_for_corrupted_k400.tgz"] = tar([(f"r/{corrupt.stem}.mp4", b"no better")])
    for _ in range(2):
        mirror.get(tmp_path)
        assert mirror.parts().count("replacement_for_corrupted_k400.tgz") == 1 and len(rows(tmp_path, "train")) == 6


def test_too_few(mirror, tmp_path):
    for clip in mirror.first("yoga", 4):
        mirror.replace(clip, b"not a video")
    done = mirror.get(tmp_path, "yoga", clips_per_class=10, splits=["train"])
    assert done["short"] == {"train": {"yoga": 8}} and len(rows(tmp_path, "train")) == 8


def test_hostile_members(mirror, tmp_path):
    good, escaping, absolute, linked, hard, device = [c for label in ASKED.split(",") for c in mirror.first(label, 3)]
    out, secret = tmp_path / "deep" / "out", tmp_path / "secret.mp4"
    secret.write_bytes(b"secret")

    def special(name, kind, target=""):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        return info

    body = mirror.video(good.id)
    mirror.server.files["/400/train/part_0.tar.gz"] = tar(
        [
            (f"../../{escaping.stem}.mp4", mirror.video(escaping.id)),
            ("../../evil", b"x"),
            (f"/{absolute.stem}.mp4", body),
            special(f"{linked.stem}.mp4", tarfile.SYMTYPE, str(secret)),
            special(f"{hard.stem}.mp4", tarfile.LNKTYPE, str(secret)),
            special(f"{device.stem}.mp4", tarfile.CHRTYPE),
            special("train", tarfile.SYMTYPE, "/tmp"),
            (f"home/someone/train/{good.stem}.mp4", body),
            (f"._{good.stem}.mp4", b"junk"),
            (f"{good.stem}.txt", b"junk"),
            (f"{good.id}_000099_000109.mp4", b"another part of that video"),
        ]
    )
    for n in range(1, 8):
        mirror.server.files[f"/400/train/part_{n}.tar.gz"] = tar([("./README", b"x")])
    mirror.get(out, splits=["train"])
    assert rows(out, "train") == [(good.label, good.path)] and whole(out, mirror) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "secret.mp4"] and secret.read_bytes() == b"secret"
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["out"]
    assert not any(p.is_symlink() for p in out.rglob("*"))


def test_a_plain_tar_under_a_zipped_name(mirror, tmp_path):
    path = "/400/train/part_1.tar.gz"
    mirror.server.files[path] = gzip.decompress(mirror.server.files[path])
    mirror.get(tmp_path)
    assert whole(tmp_path, mirror) == 12


# ---------------------------------------------------------------- networks and archives that fail


def test_drops_and_slow_bytes(mirror, tmp_path):
    mirror.server.faults_at = {
        f"/400/train/part_{n}.tar.gz": [dict(cut=500), dict(status=503), dict(cut=900)] for n in (0, 1)
    }
    mirror.server.faults_at |= {
        "/400/annotations/train.csv": [dict(cut=50)],
        "/400/val/part_0.tar.gz": [dict(piece=2000, pause=0.01)],
    }
    mirror.get(tmp_path, workers=2)
    assert whole(tmp_path, mirror) == 12 and {"bytes=500-", "bytes=1400-", "bytes=50-"} <= set(mirror.server.log)


def damage(body, how):
    if how == "truncated":
        return body[: len(body) * 2 // 3]
    if how == "checksum":  # gzip's own, far behind what tar reads
        body = gzip.compress(gzip.decompress(body) + bytes(1 << 20))
        return body[:-8] + bytes([body[-8] ^ 1]) + body[-7:]
    if how == "bits":
        return (
            body[: len(body) // 2] + bytes(b ^ 255 for b in body[len(body) // 2 :][:50]) + body[len(body) // 2 + 50 :]
        )
    if how == "no tar":
        return gzip.compress(b"not found" * 200)
    return gzip.decompress(body)[: 1024 + 100]  # a plain tar, cut in the header of the second file


@pytest.mark.parametrize("how", ["truncated", "checksum", "bits", "no tar", "plain"])
def test_a_damaged_archive(mirror, tmp_path, how):
    """Once: it is fetched again. Twice: an error; what was fetched stays, and the rest can be had without it."""
    path = "/400/train/part_1.tar.gz"
    bad = damage(mirror.server.files[path], how)
    mirror.server.faults_at[path] = [dict(body=bad)]
    mirror.get(tmp_path / "once", splits=["train"])
    assert (
        mirror.parts()[:4] == [f"train/part_{n}.tar.gz" for n in (0, 1, 1, 2)] and whole(tmp_path / "once", mirror) == 6
    )

    mirror.server.files[path] = bad
    out = tmp_path / "twice"
    with pytest.raises(CourseError, match=r"part_1.tar.gz came damaged twice \(.*--skip train/part_1") as error:
        mirror.get(out, splits=["train"])
    assert f"the {len(records(out))} clips fetched so far stay" in one_sentence(error) and not list(out.rglob("part_*"))
    had = whole(out, mirror)
    assert had == len(records(out)) == len(rows(out, "train")) > 0
    done = mirror.get(out, splits=["train"], skip=["train/part_1.tar.gz"])
    assert whole(out, mirror) == 6 and done["short"] == {"train": {}} and len(records(out)) == 6


def test_a_missing_archive(mirror, tmp_path):
    body = mirror.server.files.pop("/400/train/part_1.tar.gz")
    with pytest.raises(
        CourseError, match="part_1.tar.gz answered 404.*fetched so far stay.*--skip train/part_1"
    ) as error:
        mirror.get(tmp_path, workers=3)
    had = records(tmp_path)
    one_sentence(error), whole(tmp_path, mirror)
    mirror.server.files["/400/train/part_1.tar.gz"] = body
    asked = len(mirror.parts())
    mirror.get(tmp_path)
    assert records(tmp_path)[: len(had)] == had and "train/part_0.tar.gz" not in mirror.parts()[asked:]
    assert whole(tmp_path, mirror) == 12


def test_no_mirror(mirror, tmp_path):
    mirror.server.files.clear()
    with pytest.raises(CourseError, match="annotations/.*.csv answered 404"):
        mirror.get(tmp_path)


# ---------------------------------------------------------------- disks


def test_a_disk_too_small_is_noticed_before_the_download(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    with pytest.raises(CourseError, match="2 classes: 12 clips to come.*0.0 GB are free.*free space") as error:
        mirror.get(tmp_path)
    assert mirror.parts() == [] and one_sentence(error)


@pytest.mark.parametrize("step", [1, 6])
@pytest.mark.parametrize("where", ["copyfileobj", "append"])
def test_a_disk_that_fills_up(mirror, tmp_path, monkeypatch, where, step):
    owner = {"copyfileobj": module.shutil, "append": module}[where]
    real, calls = getattr(owner, where), []

    def failing(*args, **settings):
        calls.append(args)
        if len(calls) == step:
            raise OSError(28, "No space left on device")
        return real(*args, **settings)

    monkeypatch.setattr(owner, where, failing)
    with pytest.raises(CourseError, match="the disk is too full for.*what is there stays: free space") as error:
        mirror.get(tmp_path)
    one_sentence(error)
    asked = Counter(mirror.parts())
    monkeypatch.setattr(owner, where, real)
    mirror.get(tmp_path)
    assert whole(tmp_path, mirror) == 12
    assert max(Counter(mirror.parts()).values()) == 1, asked  # no archive a second time


RUN = """
import sys
from vt_course import CourseError
from vt_course.fetch.kinetics import VERSIONS, kinetics
VERSIONS["400"] = VERSIONS["400"]._replace(bytes_per_clip=10.0, rows=(1, 1), per_archive=None)
try: kinetics(sys.argv[2], classes="playing harp,side kick", clips_per_class=3, base_url=sys.argv[1], workers=1)
except CourseError as error: sys.exit(str(error))
"""


@pytest.mark.skipif(
    getattr(os, "geteuid", lambda: 1)() != 0
    or not shutil.which("unshare")
    or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="cannot mount",
)
def test_a_small_disk(mirror, tmp_path):
    """A real one: an error, then a larger one, and it goes on."""
    (tmp_path / "disk").mkdir()
    script = (
        'mount -t tmpfs -o size=60k tmpfs "$1" || exit 77; "$2" -c "$3" "$4" "$1/out"; echo first $?; '
        'mount -o remount,size=10m "$1"; "$2" -c "$3" "$4" "$1/out"; echo second $?; '
        'find "$1/out/train" "$1/out/val" -name "*.mp4"'
    )
    command = [
        "unshare",
        "-m",
        "sh",
        "-c",
        script,
        "sh",
        tmp_path / "disk",
        sys.executable,
        CHECK_HERE + RUN,
        mirror.server.root,
    ]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    if done.returncode == 77:
        pytest.skip("cannot mount")
    assert "first 1" in done.stdout and "disk is too full" in done.stderr, done.stderr
    assert "second 0" in done.stdout and done.stdout.count(".mp4") == 12, done


# ---------------------------------------------------------------- kill -9


def start(server, out, before=""):
    return subprocess.Popen(
        [sys.executable, "-c", before + RUN, server.root, str(out)], stderr=subprocess.PIPE, encoding="utf-8"
    )


CHECK_HERE = """
from vt_course.data import verify
from vt_course.fetch import kinetics
kinetics.verify = lambda paths, workers: (verify.decode_all(str(path)) for path in paths)
kinetics.VERSIONS["400"] = kinetics.VERSIONS["400"]._replace(rows=(1, 1), per_archive=None)
"""


@pytest.mark.posix("kill -9")
def test_kill_in_the_middle_of_a_download(mirror, tmp_path):
    """With the real verifier, which must not outlive it."""
    big = {p: b + bytes(400_000) for p, b in mirror.server.files.items() if p.startswith("/400/train/part")}
    mirror.server.files.update(big)  # zeros after a gzip stream are allowed
    mirror.server.faults_at = {"/400/train/part_1.tar.gz": [dict(piece=20_000, pause=0.1)]}
    part = tmp_path / "archives" / "train" / "part_1.tar.gz.part"
    process, end = start(mirror.server, tmp_path), time.monotonic() + 30
    while not (part.exists() and part.stat().st_size > 100_000 and (tmp_path / "parts.jsonl").exists()):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    had, size = records(tmp_path), part.stat().st_size
    assert whole(tmp_path, mirror) == len(had)
    mirror.get(tmp_path)
    asked = dict(zip(mirror.server.paths, mirror.server.log))
    assert asked["/400/train/part_1.tar.gz"] == f"bytes={size}-"
    assert mirror.parts().count("train/part_0.tar.gz") == 1
    assert whole(tmp_path, mirror) == 12 and records(tmp_path)[: len(had)] == had


DYING = """
import os, signal, sys
from pathlib import Path
from vt_course.fetch import download

def mortal(owner, name):
    real = getattr(owner, name)
    def call(*args, **settings):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **settings)
    setattr(owner, name, call)

for owner, name in ((os, "replace"), (os, "fsync"), (Path, "unlink"), (Path, "write_text"), (kinetics, "append"),
                    (kinetics.shutil, "copyfileobj"), (kinetics.shutil, "rmtree"), (download.Download, "write")):
    mortal(owner, name)
for step in range(1, 200):
    child = os.fork()
    if child == 0:
        left = step
        kinetics.kinetics(sys.argv[2].format(step), classes="playing harp,side kick", clips_per_class=int(sys.argv[3]),
                          splits=sys.argv[4].split(","), base_url=sys.argv[1], workers=1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        sys.exit(os.WEXITSTATUS(status))
    print(step, flush=True)
    sys.stdin.readline()
"""


def kills(mirror, out, clips_per_class, splits):
    """Run the command, killed at its first step, then its second, ..., until it survives; yields after each kill."""
    command = [sys.executable, "-c", CHECK_HERE + DYING, mirror.server.root, str(out), str(clips_per_class), splits]
    with subprocess.Popen(command, encoding="utf-8", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for step in process.stdout:
            yield int(step)
            print(file=process.stdin, flush=True)
    assert process.returncode == 0


@pytest.mark.posix("fork and kill -9")
def test_killed_again_and_again(mirror, tmp_path):
    """In one folder: there is never a video that is not whole, nothing is lost, and in the end all is as without
    kills."""
    corrupt = mirror.first("side kick", 3)[1]
    mirror.replace(corrupt, mirror.video(corrupt.id)[:900])
    mirror.server.files["/400/replacement_for_corrupted_k400.tgz"] = tar(
        [(f"r/{corrupt.id}.mp4", mirror.video(corrupt.id))]
    )
    mirror.get(tmp_path / "whole")
    out, most = tmp_path / "killed", 0
    for step in kills(mirror, out, 3, "train,val"):
        assert most <= (most := whole(out, mirror))
    assert step > 10
    for name in ("train.csv", "val.csv", "parts.jsonl"):
        assert (out / name).read_text(encoding="utf-8") == (tmp_path / "whole" / name).read_text(encoding="utf-8")
    had, wanted = ({json.dumps(line) for line in timeless(at)} for at in (out, tmp_path / "whole"))
    assert had == wanted
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in (tmp_path / "whole").iterdir())


@pytest.mark.posix("fork and kill -9")
def test_killed_at_any_step(mirror, tmp_path):
    """In a folder each: no part of a video, and no archive gone before its clips and its contents are noted."""
    for step in kills(mirror, tmp_path / "{}", 1, "train"):
        out = tmp_path / str(step)
        assert whole(out, mirror) <= 2
        if (out / "clips.jsonl").exists():
            read = module.Folder(out, "400").parts
            assert all(line["part"] in read or (out / "archives" / line["part"]).exists() for line in records(out))
    assert step > 30


def test_a_torn_line_is_cut_off(mirror, tmp_path):
    mirror.get(tmp_path)
    lines = records(tmp_path)
    with open(tmp_path / "clips.jsonl", "a", encoding="utf-8") as file:
        file.write('{"name": "half')
    mirror.get(tmp_path, clips_per_class=4)
    assert records(tmp_path)[:12] == lines and len(records(tmp_path)) == 16


def test_two_at_once(mirror, tmp_path):
    mirror.server.always = dict(pause=0.02)
    both = [start(mirror.server, tmp_path, CHECK_HERE) for _ in range(2)]
    assert [(p.communicate()[1], p.returncode) for p in both] == [("", 0)] * 2
    assert max(Counter(mirror.parts()).values()) == 1 and whole(tmp_path, mirror) == len(records(tmp_path)) == 12


# ---------------------------------------------------------------- wishes that cannot be met


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(classes="playing harb"), r"no class 'playing harb' in .*train.csv; closest: 'playing harp'"),
        (dict(classes="zzzzzz"), "closest: nothing like it"),
        (dict(classes=None), "either classes or a preset"),
        (dict(preset="tiny10"), "either classes or a preset"),
        (dict(classes=None, preset="tiny11"), "tiny10, mini200"),
        (dict(version="600"), "'600'.*400 or 700-2020"),
        (dict(splits=["test"]), "choose train, val or both"),
        (dict(splits=[]), "choose train, val or both"),
        (dict(clips_per_class=(0, 1)), "give 1 or more"),
        (dict(workers=0), "give 1 or more"),
    ],
)
def test_mistakes(mirror, tmp_path, settings, message):
    with pytest.raises(CourseError, match=message) as error:
        mirror.get(tmp_path, **settings)
    assert one_sentence(error) and mirror.parts() == []


@pytest.mark.parametrize(
    "text",
    [
        "<html>Not found</html>",
        "label,youtube_id\nyoga,abc",
        "label,youtube_id,time_start,time_end\nyoga,../../evil1,0,10",
        "label,youtube_id,time_start,time_end\n../yoga,abcdefghijk,0,10",
    ],
)
def test_lists_that_are_none(mirror, tmp_path, text):
    mirror.server.files["/400/annotations/train.csv"] = text.encode()
    with pytest.raises(
        CourseError, match=r"came twice not as they should be \(train.csv .*not kept; try later"
    ) as error:
        mirror.get(tmp_path)
    one_sentence(error)


# ---------------------------------------------------------------- lists, records and clips that are damaged

LISTS = {"train.csv": "annotations/train.csv", "k400_train_path.txt": "train/k400_train_path.txt"}
DAMAGES = {
    "cut in a line": lambda data: data[: len(data) // 2].rpartition(b"\n")[0] + b"\nhalf",
    "cut in the last number": lambda data: data.rstrip()[:-1],
    "cut at a line end": lambda data: data[: len(data) // 2].rpartition(b"\n")[0] + b"\n",
    "a web page": lambda data: b"<!DOCTYPE html>\n<html><body>Log in, please</body></html>\n",
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "noise": lambda data: random.Random(0).randbytes(len(data)),
    "no first line": lambda data: data.partition(b"\n")[2],
}


@pytest.fixture
def strict(monkeypatch):
    """As many clips as the real lists have, at this scale: rows of the lists, and clips for each archive."""
    monkeypatch.setitem(
        module.VERSIONS, "400", module.VERSIONS["400"]._replace(rows=(48, 20), bytes_per_clip=1e4, per_archive=6)
    )


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_comes_damaged_is_fetched_again(mirror, tmp_path, strict, name, how):
    address = f"/400/{LISTS[name]}"
    good = mirror.server.files[address]
    bad = DAMAGES[how](good)
    mirror.server.faults_at[address] = [dict(body=bad)]
    mirror.get(tmp_path / "once", splits=["train"])
    assert mirror.server.paths.count(address) == 2 and whole(tmp_path / "once", mirror) == 6
    assert (tmp_path / "once" / "annotations" / name).read_bytes() == good
    mirror.server.files[address] = bad
    for _ in range(2):  # nothing has to be deleted by hand
        with pytest.raises(CourseError, match="came twice not as they should be.*not kept; try later") as error:
            mirror.get(tmp_path / "twice", splits=["train"])
        assert name in one_sentence(error) and not (tmp_path / "twice" / "annotations" / name).exists()
    mirror.server.files[address] = good
    mirror.get(tmp_path / "twice", splits=["train"])
    assert whole(tmp_path / "twice", mirror) == 6


@pytest.mark.parametrize("how", ["cut at a line end", "zeros", "a bit"])
@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_is_damaged_later_is_fetched_again(mirror, tmp_path, name, how):
    mirror.get(tmp_path)
    path = tmp_path / "annotations" / name
    good, asked = path.read_bytes(), len(mirror.parts())
    damages = DAMAGES | {"a bit": lambda data: data.replace(b"1", b"2", 1)}
    path.write_bytes(damages[how](good))
    mirror.get(tmp_path)
    assert path.read_bytes() == good and len(mirror.parts()) == asked
    assert mirror.server.paths[-1] == f"/400/{LISTS[name]}"


def test_a_list_that_nobody_read_is_not_taken_for_whole(mirror, tmp_path):
    """A call that needs only the lists of train leaves the checksums of the others as they were."""
    mirror.get(tmp_path)
    path = tmp_path / "annotations" / "val.csv"
    good = path.read_bytes()
    path.write_bytes(good.replace(b"1", b"2", 1))
    mirror.get(tmp_path, splits=["train"])
    mirror.get(tmp_path)
    assert path.read_bytes() == good and whole(tmp_path, mirror) == 12


def test_each_list_may_come_damaged_once(mirror, tmp_path, strict):
    for address in (f"/400/{place}" for place in LISTS.values()):
        mirror.server.faults_at[address] = [dict(body=b"")]
    mirror.get(tmp_path, splits=["train"])
    assert whole(tmp_path, mirror) == 6


def test_lists_that_do_not_agree(mirror700, tmp_path):
    name = "/700_2020/val/k700_2020_val_path.txt"
    good = mirror700.server.files[name]
    mirror700.server.faults_at[name] = [dict(body=good.rpartition(b"\n")[0])]
    mirror700.get(tmp_path, version="700-2020")
    assert mirror700.server.paths.count(name) == 2 and whole(tmp_path, mirror700) == 12


def test_clips_for_each_archive(mirror, tmp_path, monkeypatch):
    monkeypatch.setitem(module.VERSIONS, "400", module.VERSIONS["400"]._replace(per_archive=6))
    mirror.get(tmp_path, splits=["train"])
    with pytest.raises(CourseError, match=r"val.csv has 10 clips for each archive that k400_val_path.txt names"):
        mirror.get(tmp_path)


RECORDS = {
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "noise": DAMAGES["noise"],
    "another": lambda data: b"[]\nnull\n{}\n",
    "a line": lambda data: b"\n".join([b"\xff\0", *data.split(b"\n")[1:]]),
}


@pytest.mark.parametrize("how", RECORDS)
@pytest.mark.parametrize("name", ["kinetics.json", "clips.jsonl", "parts.jsonl"])
def test_a_damaged_record_is_made_anew(mirror, tmp_path, name, how):
    mirror.get(tmp_path)
    had = {json.dumps(line, sort_keys=True) for line in records(tmp_path)}
    path, asked = tmp_path / name, len(mirror.parts())
    path.write_bytes(RECORDS[how](path.read_bytes()))
    done = mirror.get(tmp_path)
    assert done["clips"] == {"train": 6, "val": 6} and whole(tmp_path, mirror) == 12
    assert len(mirror.parts()) == asked  # nothing is downloaded again
    assert {json.dumps(line, sort_keys=True) for line in records(tmp_path)} == had
    again = mirror.get(tmp_path, clips_per_class=4)
    assert again["clips"] == {"train": 8, "val": 8} and whole(tmp_path, mirror) == 16


def test_all_records_lost(mirror, tmp_path):
    """A version is told by the names of the lists; clips are decoded and noted again, and damaged ones fetched."""
    mirror.get(tmp_path)
    for name in ("kinetics.json", "clips.jsonl", "parts.jsonl"):
        (tmp_path / name).write_bytes(b"")
    clip = tmp_path / mirror.first("side kick", 1)[0].path
    clip.write_bytes(bytes(clip.stat().st_size))
    with pytest.raises(CourseError, match="holds Kinetics-400, and versions must not be"):
        kinetics(tmp_path, classes=ASKED, version="700-2020", base_url=mirror.server.root)
    mirror.get(tmp_path)
    assert whole(tmp_path, mirror) == len(records(tmp_path)) == 12
    shutil.rmtree(tmp_path / "annotations")
    (tmp_path / "kinetics.json").unlink()
    with pytest.raises(CourseError, match="has videos that were not fetched by this command"):
        mirror.get(tmp_path)


@pytest.mark.parametrize("keep_time", [True, False])
@pytest.mark.parametrize("how", ["zeros", "a web page"])
def test_a_clip_that_was_overwritten_is_fetched_again(mirror, tmp_path, how, keep_time):
    mirror.get(tmp_path)
    clip = mirror.first("side kick", 3)[1]
    path, asked = tmp_path / clip.path, len(mirror.parts())
    there = path.stat()
    path.write_bytes((DAMAGES[how](b"") * there.st_size or bytes(there.st_size))[: there.st_size])
    if keep_time:
        os.utime(path, ns=(there.st_atime_ns, there.st_mtime_ns))
    mirror.get(tmp_path)
    assert mirror.parts()[asked:] == [mirror.part_of(clip)] and whole(tmp_path, mirror) == 12


def test_a_bit_of_a_clip(mirror, tmp_path):
    mirror.get(tmp_path)
    clip = mirror.first("playing harp", 1, "val")[0]
    data = bytearray((tmp_path / clip.path).read_bytes())
    data[-1] ^= 1
    (tmp_path / clip.path).write_bytes(data)
    mirror.get(tmp_path)
    assert whole(tmp_path, mirror) == 12


def test_a_folder_that_was_copied_is_not_fetched_again(mirror, tmp_path):
    mirror.get(tmp_path / "a")
    asked = len(mirror.server.paths)
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)  # other times
    for _ in range(2):
        mirror.get(tmp_path / "b")
    assert len(mirror.server.paths) == asked and len(records(tmp_path / "b")) == 24


# ---------------------------------------------------------------- the course's own subset

SUBSET = repo_root() / "data" / "kinetics_subset.csv"


def read_subset():
    with open(SUBSET, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_subset_has_five_classes_of_each_kind_and_twenty_clips_of_each():
    counts = Counter((row["kind"], row["label"]) for row in read_subset())
    assert set(counts) == {(kind, label) for kind, labels in module.TINY10.items() for label in labels}
    assert set(counts.values()) == {20} and Counter(kind for kind, _ in counts) == {"motion": 5, "appearance": 5}
    assert module.PRESETS["tiny10"] == (50, 20)


@pytest.mark.skipif(
    "VT_COURSE_CLIPS" not in os.environ, reason="VT_COURSE_CLIPS does not name the folder of the official list"
)
def test_the_subset_obeys_the_rule():
    """Of each class the first 20 of the official list, and its times, as `kinetics` chooses them."""
    official = read_annotations(Path(os.environ["VT_COURSE_CLIPS"]) / "fixtures" / "k400_val.csv", "val")
    assert len(official) == 19_906
    labels = sorted(label for labels in module.TINY10.values() for label in labels)
    chosen = module.choose(official, labels, 20)
    expected = [(*map(str, clip),) for label in labels for clip in chosen[label][:20]]
    assert [tuple(row.values())[:6] for row in read_subset()] == expected
