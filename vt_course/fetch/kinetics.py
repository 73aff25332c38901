"""Kinetics from the CVDF mirror: the clips of a few classes, without downloading all 450 GB.

The mirror has no single clips, only archives. An archive of Kinetics-400 mixes all classes, but it holds
a range of the list in the order of the YouTube ids (issue #21 of the mirror shows two: part_10 from 1sces
to 267SB, part_120 from UYF8s on). So clips that come first in that order lie together in the first
archives. An archive of Kinetics-700-2020 holds one class. This leads to a rule by which everybody gets
the same clips: of each class the first N by `rank`. The rule needs nothing but the official list. It is a
random choice, because ids are random. And it takes a tenth of the download of another random choice of as many clips.

    OUT/kinetics.json            the version, which is never mixed with another, and checksums of the lists
    OUT/train/LABEL/ID_S_E.mp4   complete, decoded to the last frame; the layout of torchvision
    OUT/train.csv, val.csv       the clips of the last call, for `--data csv:train.csv,val.csv`
    OUT/clips.jsonl              one line for each clip: name, label, split, part, bytes, time, sha256, frames
    OUT/parts.jsonl              one line for each archive that was read to its end: its contents
    OUT/annotations/             the official lists, from the mirror
    OUT/archives/, incoming/     unfinished work; removed at the end

A clip is first decoded, then moved into place, and then gets its line. An archive first gets its line and then is
deleted. So `kill -9` at any moment loses at most the work on one archive. Downloads of the other archives
go on where they stopped. Lists, records and clips are checked at each start; what is damaged is made anew.
"""

import csv
import io
import json
import math
import os
import re
import shutil
import sys
import tarfile
import threading
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from difflib import get_close_matches
from errno import EDQUOT, EFBIG, ENOSPC
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote

from vt_course import CourseError, need
from vt_course.data.reader import container_fault
from vt_course.data.verify import verify
from vt_course.fetch.download import AGAIN, fetch, open_url
from vt_course.files import (
    LARGEST,
    Unreadable,
    alone,
    atomic_write,
    open_own,
    parse_json,
    read_csv,
    read_json,
    read_lines,
    read_tar,
    replacing,
    sha256_of,
)
from vt_course.machine import cores

BASE = "https://s3.amazonaws.com/kinetics"
SPLITS = ("train", "val")
TINY10 = {  # those of data/kinetics_subset.csv; the motion classes show similar mats and halls
    "motion": ("breakdancing", "capoeira", "gymnastics tumbling", "side kick", "somersaulting"),
    "appearance": ("archery", "bowling", "feeding birds", "jetskiing", "playing harp"),
}
MINI = 200  # classes of mini200
PRESETS = {"tiny10": (50, 20), "mini200": (400, 25)}  # clips of each class for training and for validation


class Version(NamedTuple):
    name: str
    folder: str  # folder below the address of the mirror
    lists: str  # FOLDER/SPLIT/LISTS_SPLIT_path.txt names the archives
    by_class: bool  # whether an archive holds one class
    bytes_per_clip: float  # github.com/cvdfoundation/kinetics-dataset/issues/15: 443 GB of 299,758
    rows: tuple[int, int]  # of the lists of train and val, at least: 98 % of 246,534 and 19,906; of 700-2020 fewer
    per_archive: int | None  # clips in the list for each archive, to within 10 %
    replacement: str | None = None  # archive that replaces corrupt training clips
    replacements: int = 0  # the number of clips in it


VERSIONS = {
    "400": Version(
        "Kinetics-400",
        "400",
        "k400",
        False,
        1.48e6,
        (241_600, 19_500),
        1000,
        "replacement_for_corrupted_k400.tgz",
        1392,
    ),
    "700-2020": Version("Kinetics-700-2020", "700_2020", "k700_2020", True, 1.34e6, (450_000, 25_000), None),
}


class Clip(NamedTuple):
    label: str
    id: str  # id of the YouTube video
    start: int  # start and end in that video, in seconds; the file holds only this part
    end: int
    split: str
    cc: str  # "1": Creative Commons; "" if the list does not say

    @property
    def stem(self) -> str:
        return f"{self.id}_{self.start:06d}_{self.end:06d}"

    @property
    def path(self) -> str:
        """The path below the folder, in the layout of torchvision.datasets.Kinetics."""
        return f"{self.split}/{folder_of(self.label)}/{self.stem}.mp4"


class BadList(Exception):
    """A list that is not what it should be. `names`: of the files that are to be fetched again."""

    def __init__(self, why: str, *names: str):
        super().__init__(why)
        self.names = names


class DamagedArchive(Exception):
    """An archive that ends too early or does not agree with its own checksum."""


@lru_cache(None)
def folder_of(label: str) -> str:
    """The name of a class's folder, as in torchvision: "petting animal (not cat)" -> "petting_animal_not_cat"."""
    return re.sub(r"['()]", "", label.replace(" ", "_"))


def rank(clip: Clip) -> tuple[bool, str]:
    """The key of the order in which clips are chosen: by id, bytewise; ids that begin with "-" come last.

    (The names of their files look like options to every command that gets them as an argument.)
    """
    return clip.id.startswith("-"), clip.id


def read_annotations(path: Path, split: str) -> list[Clip]:
    """The official list (label,youtube_id,time_start,time_end,split,is_cc), sorted by `rank`.

    Raises `CourseError` for a file that is none, and for one that was cut within a line.
    """
    clips, first, row = [], None, None
    for line, row in read_csv(path, f"delete it and {AGAIN}"):
        first = first or row
        try:
            clips.append(
                Clip(
                    row["label"].strip(),
                    row["youtube_id"],
                    int(row["time_start"]),
                    int(row["time_end"]),
                    split,
                    row.get("is_cc") or "",
                )
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CourseError(
                f"{path} is not a list of Kinetics (columns label, youtube_id, "
                f"time_start, time_end) in line {line}: delete it and {AGAIN}"
            ) from error
    if not clips:
        raise CourseError(f"{path} lists no clips: delete it and {AGAIN}")
    if None in row or None in row.values() or "" in row.values() or row.get("split") != first.get("split"):
        raise CourseError(f"{path} was cut in its last line: delete it and {AGAIN}")
    for clip in clips:  # ids and labels become file names
        if (
            not re.fullmatch(r"[\w-]{11}", clip.id)
            or not re.fullmatch(r"[\w '()-]{1,100}", clip.label)
            or not 0 <= clip.start <= clip.end < 1_000_000
        ):
            raise CourseError(
                f"{path} lists a clip {clip.id!r:.50} of class {clip.label!r:.100} from {clip.start!r:.20} to "
                f"{clip.end!r:.20} s, which no Kinetics list has: delete it and {AGAIN}"
            )
    return sorted(set(clips), key=rank)


def read_archives(path: Path, split: str) -> list[str]:
    """The archives that a list names: "train/part_0.tar.gz", ..., in the order of their numbers.

    Raises `CourseError` if a line names none.
    """
    names = set()
    for number, line in enumerate(map(str.strip, read_lines(path, f"delete it and {AGAIN}")), 1):
        if line:
            found = re.fullmatch(r"(?:\S*/)?([\w-]*\d[\w-]*\.tar\.gz)", line)
            need(found, f"{path} names no archive in line {number}: delete it and {AGAIN}")
            names.add(found[1])
    if not names:
        raise CourseError(f"{path} names no archives: delete it and {AGAIN}")
    return [f"{split}/{name}" for name in sorted(names, key=numbers_in)]


def choose(clips: list[Clip], labels: Iterable[str], count: int) -> dict[str, list[Clip]]:
    """label -> its clips in the order in which they are chosen: `count` clips, and some spares after them.

    Spares are needed because, of the training clips of Kinetics-400, the mirror lacks 2.5 %, and 0.5 % are corrupt.
    """
    chosen = {label: [] for label in labels}
    for clip in clips:
        if clip.label in chosen and len(chosen[clip.label]) < count + max(10, count // 5):
            chosen[clip.label].append(clip)
    return chosen


def class_names(asked: Iterable[str], known: Iterable[str], source: str) -> list[str]:
    """The names `asked`, spelled as in the list. Underscores and other capital letters are accepted."""
    spelling, names = {folder_of(label).casefold(): label for label in known}, []
    for name in asked:
        key = folder_of(name.strip()).casefold()
        if key not in spelling:
            close = get_close_matches(key, spelling, 3, 0.5)
            hint = ", ".join(repr(spelling[c]) for c in close) or "nothing like it"
            raise CourseError(f"there is no class {name.strip()!r} in {source}; closest: {hint}")
        names.append(spelling[key])
    return sorted(set(names))


# ---------------------------------------------------------------- one archive


def read_archive(path: Path, wanted: dict[str, Clip], into: Path) -> tuple[set[str], list[Clip]]:
    """Read a tar, gzipped or not: (stems of all videos in it; the wanted clips, which are now files `into`/STEM.mp4).

    Only regular files count, and only the last part of their paths. Raises DamagedArchive.
    """
    stems, found = set(), []
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"  # because part_120 was a plain tar named .tar.gz
    try:
        for member, stream in read_tar(path, AGAIN, zipped=zipped):
            name = PurePosixPath(member.name)
            if not member.isreg() or name.suffix != ".mp4" or ".." in name.parts or name.is_absolute():
                continue
            stems.add(name.stem)
            clip = wanted.get(name.stem)
            if clip and clip not in found:
                if member.size > LARGEST:
                    raise DamagedArchive(f"{name.name} would have {member.size:,} bytes")
                with open_own(into / f"{clip.stem}.mp4", "wb") as out:
                    shutil.copyfileobj(stream, out)
                    os.fsync(out.fileno())
                found.append(clip)
    except Unreadable as error:
        raise DamagedArchive(error.why) from error
    return stems, found


def first_class(url: str) -> str | None:
    """The folder of the first video in an archive, from its first 64 kB; None if it cannot be found."""
    try:
        with open_url(url, {"Range": "bytes=0-65535"}, timeout=30) as response:
            start = response.read(1 << 16)
        if start[:2] == b"\x1f\x8b":
            start = zlib.decompressobj(31).decompress(start)
        with tarfile.open(fileobj=io.BytesIO(start), mode="r|") as tar:
            for member in tar:
                if member.name.endswith(".mp4"):
                    return folder_of(PurePosixPath(member.name).parent.name) or None
    except Exception:  # from the network or from a parser, because the file is cut
        pass
    return None


# ---------------------------------------------------------------- the folder


class Folder:
    """What is in OUT: `good` and `bad` clips by path, and in `parts` the stems of each archive that was read.

    `noted`: the paths of all clips with a line in clips.jsonl. `lists`: checksums of the lists that were found whole.
    `damaged`: whether a record was; what it told is then found out again (see `Collector.adopt`).
    """

    def __init__(self, root: Path, version: str):
        self.root, self.version, self.good, self.bad = root, version, {}, {}
        self.lists = self.claim(version)
        noted, clips_damaged = read_notes(root / "clips.jsonl", name=str, label=str, split=str, part=str)
        parts, parts_damaged = read_notes(root / "parts.jsonl", part=str, stems=list)
        lines = {f"{line['split']}/{folder_of(line['label'])}/{line['name']}": line for line in noted}
        for path, line in lines.items():
            if "error" in line:
                self.bad[path] = line
            elif now := intact(root / path, line):
                self.good[path] = now
        if renewed := [line for path, line in self.good.items() if line is not lines[path]]:
            append(root / "clips.jsonl", *renewed)
        self.parts = {line["part"]: set(map(str, line["stems"])) for line in parts}
        self.noted, self.damaged = set(lines), clips_damaged or parts_damaged

    def claim(self, version: str) -> dict[str, str]:
        """Record the version, and return the checksums of the lists.

        If kinetics.json is missing or damaged, the names of the lists tell the version.
        Raises CourseError for a folder with another version, or with other files.
        """
        note, told = self.root / "kinetics.json", {}
        with suppress(CourseError):
            told = read_json(note, "", dict) if note.is_file() else {}
        there = told.get("version")
        if there not in VERSIONS:
            names = {
                name for name, each in VERSIONS.items() if any(self.root.glob(f"annotations/{each.lists}_*_path.txt"))
            }
            there = names.pop() if len(names) == 1 else None
        if there is None and any((self.root / split).exists() for split in SPLITS):
            raise CourseError(f"{self.root} has videos that were not fetched by this command: give another --out")
        if there not in (None, version):
            raise CourseError(
                f"{self.root} holds Kinetics-{there}, and versions must not be "
                f"mixed (the training clips of one are validation clips of "
                f"another): give another --out for Kinetics-{version}"
            )
        lists = told.get("lists")
        lists = {k: v for k, v in lists.items() if isinstance(v, str)} if isinstance(lists, dict) else {}
        if told.get("version") != version:
            self.write_note(lists)
        return lists

    def write_note(self, lists: dict[str, str]) -> None:
        write(self.root / "kinetics.json", json.dumps({"version": self.version, "lists": lists}))

    def add(self, clip: Clip, part: str, file: Path, frames: int | None, error: str | None) -> None:
        """Move a decoded clip into place and write its line. A bad clip is deleted, and only its line is kept."""
        path = clip.path
        line = dict(name=f"{clip.stem}.mp4", label=clip.label, split=clip.split, part=part)
        if error:
            self.bad[path] = line | {"error": error}
            file.unlink()
        else:
            there = file.stat()
            line |= dict(bytes=there.st_size, mtime_ns=there.st_mtime_ns, sha256=sha256_of(file), frames=frames)
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, self.root / path)
            self.good[path] = line
            self.bad.pop(path, None)
        append(self.root / "clips.jsonl", self.good.get(path) or self.bad[path])

    def finish(self, part: str, stems: set[str]) -> None:
        self.parts[part] = stems
        append(self.root / "parts.jsonl", {"part": part, "stems": sorted(stems)})

    def write_manifest(self, split: str, chosen: dict[str, list[Clip]], count: int) -> dict[str, int]:
        """Write SPLIT.csv with the first `count` good clips of each class. Returns label -> number of clips."""
        text, numbers = io.StringIO(), {}
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["path", "label", "start", "end"])  # start and end stay empty: the files are already cut
        for label, clips in chosen.items():
            good = [clip for clip in clips if clip.path in self.good][:count]
            rows.writerows([clip.path, label, "", ""] for clip in good)
            numbers[label] = len(good)
        write(self.root / f"{split}.csv", text.getvalue())
        return numbers


def numbers_in(name: str) -> list[int]:
    """The numbers in a file name, so that part_2 comes before part_10."""
    return [int(digits) for digits in re.findall(r"\d+", name)]


def intact(file: Path, line: dict) -> dict | None:
    """The line of a clip, brought up to date, if its file is the one that was decoded; else None.

    If size and time are those of the line, the headers must still be those of a whole video. With another time (it was
    copied, or overwritten) its checksum decides.
    """
    try:
        there = file.stat()
        if there.st_size != line.get("bytes"):
            return None
        if there.st_mtime_ns == line.get("mtime_ns"):
            return None if container_fault(file) else line
        return line | {"mtime_ns": there.st_mtime_ns} if sha256_of(file) == line.get("sha256") else None
    except OSError:
        return None


def write(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def append(path: Path, *lines: dict) -> None:
    with open_own(path, "ab") as file:
        file.writelines(json.dumps(line).encode() + b"\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def read_notes(path: Path, **wanted: type) -> tuple[list[dict], bool]:
    """(the lines of a record, whether it was damaged). Each line is a JSON object with the names `wanted`.

    Other lines, and an unfinished last line, are dropped from the file. The latter is left by a kill and no damage.
    """
    data = path.read_bytes() if path.is_file() else None
    whole, rest = (data or b"").rpartition(b"\n")[::2]
    lines, texts, damaged = [], whole.split(b"\n") if whole else [], data == b""
    for text in texts:
        try:
            line = parse_json(text, path, "", dict)
            need(all(isinstance(line.get(name), kind) for name, kind in wanted.items()), "another kind")
            lines.append((text, line))
        except CourseError:
            damaged = True
    if rest or len(lines) < len(texts):
        atomic_write(path, b"".join(text + b"\n" for text, _ in lines))
    return [line for _, line in lines], damaged


# ---------------------------------------------------------------- the work


class Collector:
    """Fetches archives until the folder has all clips that are asked for."""

    def __init__(
        self, folder: Folder, version: Version, base: str, workers: int, keep: bool, skip: Iterable[str], progress: bool
    ):
        self.folder, self.version, self.progress = folder, version, progress
        self.base, self.workers, self.keep = f"{base.rstrip('/')}/{version.folder}", workers, keep
        self.skip = set(skip)
        self.archives, self.incoming = folder.root / "archives", folder.root / "incoming"
        self.annotations, self.sums = folder.root / "annotations", {}

    def lists(self, splits: Iterable[str]) -> tuple[dict[str, list[Clip]], dict[str, list[str]]]:
        """({split: its clips}, {split: its archives}) of `splits`, and the clips of train.

        A list that is not what it should be is fetched again, once. Raises `CourseError` if it comes so again.
        """
        seen = set()
        while True:
            try:
                return self.read_lists(splits)
            except BadList as error:
                for name in error.names:
                    (self.annotations / name).unlink(missing_ok=True)
                if seen & set(error.names):
                    raise CourseError(
                        f"the lists at {self.base} came twice not as they should be ({error}), and were not kept; try "
                        "later with the same command, or another --mirror"
                    ) from error
                seen |= set(error.names)

    def read_lists(self, splits: Iterable[str]) -> tuple[dict[str, list[Clip]], dict[str, list[str]]]:
        clips, parts, version = {}, {}, self.version
        archives = {split: f"{version.lists}_{split}_path.txt" for split in SPLITS}
        for split in dict.fromkeys((*splits, "train")):
            clips[split] = self.read_list(f"{split}.csv", "annotations", lambda path: read_annotations(path, split))
            if len(clips[split]) < (least := version.rows[split != "train"]):
                raise BadList(f"{split}.csv has {len(clips[split]):,} clips, and not {least:,} or more", f"{split}.csv")
        for split in SPLITS if version.by_class else splits:
            parts[split] = self.read_list(archives[split], split, lambda path: read_archives(path, split))
        if version.by_class:  # an archive for each class, so as many in both, but for a few that may be missing
            train, val = len(parts["train"]), len(parts["val"])
            if abs(train - val) > 0.02 * max(train, val):
                counts = [f"{archives[split]} names {len(parts[split])} archives" for split in SPLITS]
                raise BadList(" and ".join(counts), *archives.values())
        else:
            for split, names in parts.items():
                numbers = [numbers_in(name)[-1] for name in names]
                each = len(clips[split]) / len(names)
                if numbers != list(range(len(names))):
                    raise BadList(f"{archives[split]} does not name the archives 0 to {max(numbers)}", archives[split])
                if version.per_archive and not 0.9 < each / version.per_archive < 1.1:
                    raise BadList(
                        f"{split}.csv has {each:.0f} clips for each archive that {archives[split]} names",
                        f"{split}.csv",
                        archives[split],
                    )
        return clips, parts

    def read_list(self, name: str, folder: str, read: Callable[[Path], list]) -> list:
        """Fetch a list, if it is not there as it was when it was found whole, and read it. Raises `BadList`."""
        path = self.annotations / name
        if path.is_file() and self.folder.lists.get(name) not in (None, sha256_of(path)):
            path.unlink()
        fetch(f"{self.base}/{folder}/{name}", path, most=LARGEST, progress=self.progress and folder == "annotations")
        try:
            found = read(path)
        except CourseError as error:
            raise BadList(str(error).replace(f": delete it and {AGAIN}", "").replace(f"{path}", name), name) from error
        self.sums[name] = sha256_of(path)
        return found

    def note_lists(self) -> None:
        """Record the checksums of the lists that were read, and so found whole. Others may be damaged by now."""
        now = self.folder.lists | self.sums
        if now != self.folder.lists:
            self.folder.lists = now
            self.folder.write_note(now)

    def adopt(self, lists: dict[str, list[Clip]]) -> None:
        """Note again the clips that are there, but whose lines were lost with a damaged record. Each is decoded."""
        folder = self.folder
        there = {
            path.relative_to(folder.root).as_posix() for split in lists for path in folder.root.glob(f"{split}/*/*.mp4")
        } - folder.noted
        if not there:  # as nearly always: the paths of all clips in the lists take a second
            return
        places = {stem: part for part, stems in folder.parts.items() for stem in stems}
        lost = [
            (clip, places.get(clip.stem) or places.get(clip.id) or "")
            for clip in sum(lists.values(), [])
            if clip.path in there
        ]
        lost = [(clip, part) for clip, part in lost if part or folder.damaged]
        files = [folder.root / clip.path for clip, _ in lost]
        for (clip, part), file, result in zip(lost, files, verify(files, workers=cores())):
            if result["error"]:
                file.unlink()  # it is fetched again
            else:
                folder.add(clip, part, file, result["frames"], None)

    # ------------------------------------------------ what is still to do

    def sought(self, chosen: dict[str, list[Clip]], count: int) -> list[Clip]:
        """The clips to look for: of classes with fewer than `count` good clips, those that are neither good nor bad."""
        good, bad = self.folder.good, self.folder.bad
        return [
            clip
            for clips in chosen.values()
            if sum(clip.path in good for clip in clips) < count
            for clip in clips
            if clip.path not in good and clip.path not in bad
        ]

    def needed(self, part: str, sought: list[Clip]) -> bool:
        """Whether an archive may hold one of the clips `sought`. If it was read before, its contents are known."""
        stems = self.folder.parts.get(part)
        return (
            part not in self.skip
            and bool(sought)
            and (stems is None or any(c.stem in stems or c.id in stems for c in sought))
        )

    def estimate(self, clips: list[Clip], parts: list[str], chosen: dict, count: int) -> dict:
        """What is still to be fetched for one split: dict(clips, parts, download, kept, held).

        clips and parts are numbers of clips and archives. The others are estimated bytes: download of all archives,
        kept of the clips, held of the archives that are on the disk at the same time.
        """
        each, first = self.version.bytes_per_clip, {c for of in chosen.values() for c in of[:count]}
        left = [clip for clip in self.sought(chosen, count) if clip in first]
        if self.version.by_class:
            archives = Counter(clip.label for clip in clips)
            sizes = [archives[label] * each for label in {clip.label for clip in left}]
        else:
            place = {clip: number for number, clip in enumerate(clips, 1)}
            reach = max((place[clip] for clip in left), default=0) / len(clips)
            size = len(clips) / len(parts) * each
            sizes = [size] * sum(self.needed(part, left) for part in parts[: math.ceil(reach * len(parts))])
        parts = len(sizes)
        if left and left[0].split == "train" and self.version.replacement:
            sizes.append(self.version.replacements * each)
        held = sum(sizes) if self.keep else sum(sorted(sizes)[-self.workers - 2 :])
        return dict(clips=len(left), parts=parts, download=sum(sizes), kept=len(left) * each, held=held)

    def queue(self, parts: list[str], chosen: dict, count: int, labels: list[str]) -> Iterator[str]:
        """Yields the archives to fetch, one by one, as long as clips are still sought."""
        if not self.version.by_class:
            yield from (part for part in parts if self.needed(part, self.sought(chosen, count)))
            return
        for label, clips in chosen.items():
            if sought := self.sought({label: clips}, count):
                part = self.locate(label, parts, labels)
                if self.needed(part, sought):
                    yield part

    def locate(self, label: str, parts: list[str], labels: list[str]) -> str:
        """The archive of a class. They are in alphabetical order; as some may be missing, neighbours are tried, too."""
        guess = labels.index(label)
        for place in sorted(range(len(parts)), key=lambda place: abs(place - guess)):
            if first_class(self.address(parts[place])) in (None, folder_of(label)):
                return parts[place]
        raise CourseError(
            f"none of the {len(parts)} archives of {self.version.name} holds the "
            f"class {label!r}; leave it out of --classes"
        )

    def address(self, part: str) -> str:
        return f"{self.base}/{quote(part)}"

    # ------------------------------------------------ doing it

    def collect(self, queue: Iterator[str], likely: int, chosen: dict, count: int) -> None:
        """Read the archives of a queue, in its order, while the next ones are downloaded."""
        for part, download in ahead(queue, self.start, self.workers, likely):
            sought = self.sought(chosen, count)
            if self.needed(part, sought):  # may be false now: other archives were read meanwhile
                self.harvest(
                    part, download, sought, lambda clip: not self.sought({clip.label: chosen[clip.label]}, count)
                )

    def start(self, part: str) -> Future:
        """Download an archive in a thread that does not keep the process alive."""
        done = Future()

        def work():
            try:
                done.set_result(self.download(part))
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        return done

    def download(self, part: str) -> Path:
        return fetch(self.address(part), self.archives / part, progress=self.progress)

    def harvest(self, part: str, download: Future, sought: list[Clip], enough: Callable[[Clip], bool]) -> None:
        """Take the clips `sought` out of an archive, decode each, and keep those that decode completely."""
        wanted = {clip.id: clip for clip in sought} | {clip.stem: clip for clip in sought}
        try:
            archive = download.result()
            try:
                stems, found = read_archive(archive, wanted, self.incoming)
            except DamagedArchive:  # perhaps by the download: try once more
                archive.unlink()
                stems, found = read_archive(archive := self.download(part), wanted, self.incoming)
        except DamagedArchive as error:
            archive.unlink()
            raise self.failed(
                part, f"{self.address(part)} came damaged twice ({error}); try later with the same command"
            ) from error
        except CourseError as error:
            raise self.failed(part, error, isinstance(error.__context__, HTTPError)) from error
        before = len(self.folder.good)
        found = sorted(found, key=rank)
        files = [self.incoming / f"{clip.stem}.mp4" for clip in found]
        decoded = verify(files, workers=cores())
        for clip, file, result in zip(found, files, decoded):
            if enough(clip):
                file.unlink()
            else:
                error = result["error"] and result["error"].replace(str(file), file.name)
                self.folder.add(clip, part, file, result["frames"], error)
        self.folder.finish(part, stems)
        if not self.keep:
            archive.unlink()
        if self.progress:
            kept = len(self.folder.good) - before
            print(f"{part}: {kept} clips kept, {len(self.folder.good):,} in all", file=sys.stderr)

    def failed(self, part: str, why, at_fault: bool = True) -> CourseError:
        skip = f", and `--skip {part}` goes on without this archive" if at_fault else ""
        return CourseError(f"{why}; the {len(self.folder.good):,} clips fetched so far stay{skip}")

    def repair(self, chosen: dict[str, list[Clip]], count: int) -> None:
        """Take corrupt training clips again, from the archive of replacements."""
        part, bad = self.version.replacement, self.folder.bad
        corrupt = [
            clip
            for clips in chosen.values()
            for clip in clips[:count]
            if clip.path in bad and bad[clip.path]["part"] != part
        ]
        if part and self.needed(part, corrupt):
            self.harvest(part, self.start(part), corrupt, lambda clip: False)


def ahead(
    parts: Iterator[str], start: Callable[[str], Future], workers: int, likely: int
) -> Iterator[tuple[str, Future]]:
    """(part, its download) in order. Up to `workers` downloads run at the same time.

    This holds for the first `likely` ones. After that, one at a time: the next archive may already be enough.
    """
    waiting = deque()
    for number, part in enumerate(parts):
        waiting.append((part, start(part)))
        while len(waiting) >= (workers if number + 1 < likely else 1):
            yield waiting.popleft()
    yield from waiting


def kinetics(
    out: str | os.PathLike,
    *,
    classes: Iterable[str] | None = None,
    preset: str | None = None,
    clips_per_class: int | tuple[int, int] | None = None,
    splits: Iterable[str] = SPLITS,
    version: str = "400",
    cc_only: bool = False,
    base_url: str = BASE,
    workers: int = 4,
    keep_archives: bool = False,
    skip: Iterable[str] = (),
    dry_run: bool = False,
    progress: bool = False,
) -> dict:
    """Fetch the first clips of some classes of Kinetics into the folder `out`.

    Give either classes or preset. preset: "tiny10" (TINY10, 50 + 20 clips a class) or "mini200" (the 200 classes with
    the most training clips, 400 + 25 clips each, which is the definition of Mini-Kinetics-200). clips_per_class: one
    number for all splits, or (train, val); (50, 20) without a preset. version: "400" or "700-2020".
    cc_only: only clips whose videos are under Creative Commons (known for Kinetics-400 only; 2.6 %).
    workers: the number of archives that are downloaded at the same time, 1.5 GB each. skip: archives to leave out,
    such as "train/part_7.tar.gz". dry_run: fetch only the lists (20 MB) and return the estimate.

    Returns dict(out, version, clips, short, parts, bytes, estimate). clips: the number for each split. short: for
    each split, the classes that got fewer clips than asked for. parts: the archives that this call read. bytes: of
    all clips.
    After an interruption, call it again, with the same or with other arguments: clips that are there are kept.

    Raises `CourseError` for arguments that do not fit, and for downloads that fail.
    """
    out, splits = Path(out), tuple(dict.fromkeys(splits))
    if version not in VERSIONS:
        raise CourseError(f"version {version!r} is not on the mirror with its clips; choose {' or '.join(VERSIONS)}")
    if not splits or set(splits) - set(SPLITS):
        raise CourseError(f"splits {','.join(splits) or 'none'}: choose train, val or both")
    if (classes is None) == (preset is None) or preset not in (None, *PRESETS):
        raise CourseError(f"give either classes or a preset, one of {', '.join(PRESETS)}")
    count = clips_per_class or PRESETS.get(preset, PRESETS["tiny10"])
    count = dict(zip(SPLITS, (count, count) if isinstance(count, int) else count))
    if min(count.values()) < 1 or workers < 1:
        raise CourseError(f"{min(*count.values(), workers)} clips or workers: give 1 or more")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with alone(out / "kinetics.lock", progress):
            folder = Folder(out, version)
            collector = Collector(folder, VERSIONS[version], base_url, workers, keep_archives, skip, progress)
            return fetch_chosen(collector, classes, preset, count, splits, cc_only, dry_run)
    except OSError as error:
        full = error.errno in (ENOSPC, EDQUOT, EFBIG)
        raise CourseError(
            f"{'the disk is too full for' if full else 'cannot write to'} {out} "
            f"({error.strerror or error}); what is there stays: "
            f"{'free space' if full else 'mend permissions'} and {AGAIN}"
        ) from error


def fetch_chosen(
    collector: Collector, classes, preset, count: dict[str, int], splits, cc_only: bool, dry_run: bool
) -> dict:
    """The work of `kinetics`, after everything has been opened and checked."""
    folder, name = collector.folder, collector.version.name
    lists, parts = collector.lists(splits)
    collector.note_lists()
    if folder.damaged and collector.progress:
        print(f"a record in {folder.root} was damaged; what it told is found out again", file=sys.stderr)
    collector.adopt(lists)
    labels = sorted({clip.label for clip in lists["train"]})
    if preset == "mini200":
        sizes = Counter(clip.label for clip in lists["train"])
        classes = sorted(sizes, key=lambda label: (-sizes[label], label))[:MINI]
    elif preset:
        classes = [*TINY10["motion"], *TINY10["appearance"]]
    classes = classes.split(",") if isinstance(classes, str) else classes
    classes = class_names(classes, labels, f"{folder.root}/annotations/train.csv")
    chosen, plan = {}, {}
    for split in splits:
        clips = lists[split]
        if cc_only and not any(clip.cc for clip in clips):
            raise CourseError(
                f"the list of {name} does not say which clips are under Creative "
                "Commons; --cc-only works with Kinetics-400"
            )
        allowed = [clip for clip in clips if clip.cc == "1"] if cc_only else clips
        chosen[split] = choose(allowed, classes, count[split])
        plan[split] = collector.estimate(clips, parts[split], chosen[split], count[split])
    total = {key: sum(of[key] for of in plan.values()) for key in next(iter(plan.values()))}
    held = total["held"] if collector.keep else max(of["held"] for of in plan.values())
    estimate = dict(
        clips=total["clips"], parts=total["parts"], download=int(total["download"]), disk=int(total["kept"] + held)
    )
    said = (
        f"{name}, {len(classes)} classes: {estimate['clips']:,} clips to come, in about "
        f"{estimate['parts']} archives, {estimate['download'] / 1e9:.1f} GB to download; "
        f"needs {estimate['disk'] / 1e9:.1f} GB of disk"
    )
    if collector.progress:
        print(said, file=sys.stderr)
    if dry_run:
        return dict(out=folder.root, version=collector.version.name, estimate=estimate)
    if (free := shutil.disk_usage(folder.root).free) < estimate["disk"]:
        raise CourseError(
            f"{said}, and {free / 1e9:.1f} GB are free at {folder.root}: free space, "
            "give another --out, fewer classes or fewer --workers"
        )
    shutil.rmtree(collector.incoming, ignore_errors=True)
    collector.incoming.mkdir()
    before = set(folder.parts)
    try:
        for split in splits:
            queue = collector.queue(parts[split], chosen[split], count[split], labels)
            collector.collect(queue, plan[split]["parts"], chosen[split], count[split])
        if "train" in splits:
            collector.repair(chosen["train"], count["train"])
    finally:
        numbers = {split: folder.write_manifest(split, chosen[split], count[split]) for split in splits}
    shutil.rmtree(collector.incoming)
    if not collector.keep:
        shutil.rmtree(collector.archives, ignore_errors=True)
    return dict(
        out=folder.root,
        version=collector.version.name,
        clips={split: sum(numbers[split].values()) for split in splits},
        short={split: {label: n for label, n in numbers[split].items() if n < count[split]} for split in splits},
        parts=len(set(folder.parts) - before),
        bytes=sum(line["bytes"] for line in folder.good.values()),
        estimate=estimate,
    )
