"""Data sets that people already have: class folders of videos, or videos with the official lists of a data set.

`read_folder` looks at the files in the folder and takes the first layout that fits:

    manifest.csv                         columns path,label and optionally start,end,split
    train.csv, val.csv                   two manifests, path,label,start,end, or lists of PATH LABEL without a header
    something-something-v2-*.json        the labels of Something-Something V2; videos ID.webm
    classInd.txt, trainlist01.txt, ...   UCF101, split 1; videos CLASS/NAME.avi
    CLASS_test_split1.txt                HMDB51, split 1; videos CLASS/NAME.avi
    ..._train_....txt, ..._val_....txt   lists of PATH LABEL, as mmaction2 calls them
    train/CLASS/*, val/CLASS/*           as torchvision.datasets.Kinetics leaves it
    CLASS/*                              no split: see `split_by_hash`

A class folder may contain groups (CLASS/GROUP/*, as in UCF11). Instead of a video there may be a folder of its frames
(CLASS/VIDEO/img_00001.jpg), which a list names without an ending.

The usual names of splits are recognised (`TRAIN_NAMES`, `VAL_NAMES`). If there are several splits for validation, the
first in `VAL_NAMES` is used, so `test` is used only if there is no other. A note names what is left out.
A list may lie in the folder itself or one level below. Videos may have another ending than
their list says (`vt-course data prepare` writes .mp4). Nothing is written.
"""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vt_course import CourseError
from vt_course.data.clips import Rows, is_list, numbered_classes, read_manifest
from vt_course.data.reader import OTHERS, PICTURES, SUFFIXES, clips_below
from vt_course.files import csv_header, read_json, read_utf8

TRAIN_NAMES = ("train", "training")  # names of a folder, a list or a split, in small letters
VAL_NAMES = ("val", "valid", "validation", "validate", "dev", "eval", "test", "testing")  # the first is used
SHARE = 5  # one clip of every 5 is for validation


@dataclass(frozen=True)
class Listing:
    """The clips of a folder. `notes`: sentences that say what was decided and what was left out."""

    layout: str
    classes: tuple[str, ...]
    train: Rows
    val: Rows
    notes: tuple[str, ...] = ()


def read_folder(folder) -> Listing:
    """The clips of a folder, whose layout is recognised by its files (see the top of this module).

    Classes are in the order of the official list if there is one, else sorted. Raises
    `CourseError` for a folder without a known layout or without clips, a class without videos
    or without training clips, and for a list that cannot be read. A single listed file that is
    missing stays in the list: reading it raises an error that names it.
    """
    folder, notes = Path(folder), []
    with readable(folder):
        layout, read = layout_of(folder)
        rows, classes = read(folder, notes)
    if not rows:
        raise CourseError(f"{folder} lists no clips; add some to its lists.")
    if not any(row["split"] for row in rows):
        rows = split_by_hash(rows, notes)
    split = {
        name: Rows(
            [{k: row[k] for k in ("path", "label", "start", "end")} for row in rows if row["split"] == name],
            f"{folder} ({name})",
        )
        for name in ("train", "val")
    }
    classes = checked(folder, classes, split, notes, gaps=read in (two_manifests, lists))
    return Listing(layout, tuple(classes), **split, notes=tuple(notes))


def listed(folder) -> tuple[str, list[dict]]:
    """(layout, rows) of the lists in a folder. All listed clips are returned, also those whose files are missing.

    If there is no list, only videos, there are no rows. The column frames of a manifest is kept.
    """
    folder = Path(folder)
    with readable(folder):
        layout, read = layout_of(folder)
        return layout, [] if read in (train_and_val, by_class) else read(folder, [])[0]


def layout_of(folder: Path):
    """(name, function) of the first layout that fits."""
    if (folder / "shards.json").is_file():
        raise CourseError(f"{folder} holds shards and no videos as files; train with --data shards:{folder}.")
    return next((name, read) for name, fits, read in LAYOUTS if fits(folder))


@contextmanager
def readable(folder: Path):
    """Turn errors while reading lists and folders into `CourseError`s of one sentence."""
    try:
        if not folder.is_dir():
            raise CourseError(f"There is no folder {folder}; give the path of a folder of videos.")
        yield
    except OSError as error:
        raise CourseError(
            f"{error.filename or folder} cannot be read ({error.strerror}); check the path and its permissions."
        ) from error


def checked(folder, classes, split: dict[str, Rows], notes: list, gaps: bool = False) -> list[str]:
    """The classes in order. Adds notes on listed files that are missing, and raises `CourseError` for other mistakes.

    `gaps`: a class without any listed clip is allowed, as it is if the labels are numbers.
    """
    for name, rows in split.items():
        if not rows:
            raise CourseError(f"{folder} has no {name} clips; add some, or give manifests with csv:TRAIN.csv,VAL.csv.")
    count = {name: Counter(row["label"] for row in rows) for name, rows in split.items()}
    if extra := sorted(count["val"].keys() - count["train"].keys()):
        raise CourseError(
            f"{folder} has {_names(extra)} for validation only; add training clips or take the validation clips away."
        )
    classes = classes or sorted(count["train"])
    if unknown := sorted(count["train"].keys() - set(classes)):
        raise CourseError(
            f"{folder} has clips of {_names(unknown)}, which its list of classes lacks; correct the list."
        )
    here = {name: {row["path"] for row in rows if os.path.lexists(row["path"])} for name, rows in split.items()}
    lost = [row["path"] for name, rows in split.items() for row in rows if row["path"] not in here[name]]
    there = {row["label"] for row in split["train"] if row["path"] in here["train"]}
    if gaps and (unlisted := [name for name in classes if not count["train"][name]]):
        notes.append(f"No training clip of {_names(unlisted)}.")
    if empty := [name for name in classes if name not in there and not (gaps and not count["train"][name])]:
        raise CourseError(
            f"{folder} has no training clip of {_names(empty)}; fetch the videos or take the "
            f"{'class' if len(empty) == 1 else 'classes'} out of the list."
        )
    if lost:
        total = sum(map(len, split.values()))
        notes.append(
            f"{len(lost):,} of {total:,} listed clips are not there (the first: {lost[0]}); they will be "
            "reported and skipped."
        )
    if unseen := [name for name in classes if not count["val"][name]]:
        notes.append(f"No validation clip of {_names(unseen)}.")
    return list(classes)


def split_by_hash(rows: list[dict], notes: list) -> list[dict]:
    """Take one fifth of each class for validation: the clips whose file names have the smallest SHA-256.

    The same names give the same split on every machine, in any folder. A class with fewer than
    five clips is left out. If every other class has at least five groups (folders within the class folder), groups
    are split instead of clips, so that each group stays whole. File names do not tell which clips were cut from one
    video or show the same person. If that matters, give the split with train/ and val/, or with a column split
    in manifest.csv.
    """
    classes, small = {}, []
    for row in rows:
        classes.setdefault(row["label"], []).append(row)
    large = [members for members in classes.values() if len(members) >= SHARE]
    grouped = any(row.get("group") for row in rows)
    whole = grouped and all(len({row["group"] or row["path"] for row in members}) >= SHARE for members in large)
    for label, members in sorted(classes.items()):
        units = {}
        for row in members:
            units.setdefault(whole and row["group"] or row["path"], []).append(row)
        for k, unit in enumerate(sorted(units, key=lambda unit: (name_hash(unit), unit))):
            for row in units[unit]:
                row["split"] = "val" if k < len(units) // SHARE else "train"
        if len(members) < SHARE:
            small.append(label)
    if len(small) == len(classes):
        raise CourseError(
            f"No class has {SHARE} clips ({_names(small)}), too few to split; add clips, or say with "
            "train/ and val/ which are which."
        )
    notes.append(
        "No split was given: of each class the fifth of the clips whose file names have the smallest "
        "SHA-256 is for validation."
    )
    if whole:
        notes[-1] = (
            f"No split was given: of each class the fifth of the groups (folders within {_names(list(classes))}) whose "
            "names have the smallest SHA-256 is for validation."
        )
    elif grouped:
        notes.append(
            "There are too few groups to split by them, so clips of one group are on both sides; say with train/ and "
            "val/ which are which if they are alike."
        )
    if small:
        notes.append(f"Left out, with fewer than {SHARE} clips: {_names(small)}.")
    return [row for row in rows if row["label"] not in small]


def split_names(names, where, notes: list) -> dict[str, str]:
    """{"train": ..., "val": ...}: which of `names` is the training and which the validation split.

    A key is absent if there is no such split. Capital and small letters are equal. Notes say which other splits are
    left out, and whether a test split is used for validation.
    """
    known = {name.lower(): name for name in sorted(names, reverse=True)}
    found = {
        split: next((known[name] for name in order if name in known), None)
        for split, order in (("train", TRAIN_NAMES), ("val", VAL_NAMES))
    }
    if None not in found.values():
        if other := [
            name
            for name in sorted(set(names))
            if name.lower() in TRAIN_NAMES + VAL_NAMES and name not in found.values()
        ]:
            notes.append(f"Validation is on {found['val']}; left out of {where}: {', '.join(other)}.")
        elif found["val"].lower() in ("test", "testing"):
            notes.append(f"{where} has no validation split, so {found['val']} is used for it.")
    return {split: name for split, name in found.items() if name is not None}


def name_hash(path) -> str:
    """SHA-256 of a file's name. Accents are composed with their letters first (NFC): macOS stores them separately."""
    name = unicodedata.normalize("NFC", os.path.basename(path))
    return hashlib.sha256(os.fsencode(name)).hexdigest()


# ------------------------------------------------------------------------- layouts
# Each function takes the folder and a list to which it adds notes. It returns (rows, classes in order or None).
# A row is dict(path, label, start, end, split); split is "train", "val", or "" if none is given.


def manifest(folder: Path, notes):
    rows = _read(folder / "manifest.csv")
    given = {row["split"] for row in rows}
    if given == {""}:
        return rows, None
    if odd := sorted(name for name in given if name.lower() not in TRAIN_NAMES + VAL_NAMES):
        raise CourseError(
            f"{folder / 'manifest.csv'} has the split {odd[0]!r}; it is train or val, on every line or on none."
        )
    splits = split_names(given, "manifest.csv", notes)
    return [dict(row, split=split) for split, name in splits.items() for row in rows if row["split"] == name], None


def two_manifests(folder: Path, notes):
    return _read_splits(split_files(folder, True)[0], folder, notes)


def lists(folder: Path, notes):
    at = next(at for at in (folder, *below(folder)) if split_files(at, False)[0])
    files, other = split_files(at, False)
    if other:
        notes.append(
            f"Left out, other lists than {', '.join(sorted(path.name for path in files.values()))}: "
            f"{', '.join(other[:3])}{f' and {len(other) - 3} more' if len(other) > 3 else ''}."
        )
    return _read_splits(files, at, notes)


def _read_splits(files: dict[str, Path], folder: Path, notes):
    splits = split_names(files, folder, notes)
    rows = [dict(row, split=split) for split, name in splits.items() for row in _read(files[name])]
    numbers = all(is_list(files[name]) for name in splits.values())
    return rows, (numbered_classes({row["label"] for row in rows}) if numbers else None)


def split_files(folder: Path, plain: bool) -> tuple[dict[str, Path], list[str]]:
    """({name of a split: its file}, names of further lists). The files' names differ only in the name of the split.

    plain=True: manifests train.csv, val.csv, ... plain=False: lists without a header, such as
    kinetics400_train_list_videos.txt. {} if there is no file for training or none for validation.
    """
    alike = {}
    for name in _scan(folder)[1]:
        stem, ending = os.path.splitext(name)
        parts = re.split(r"([^A-Za-z]+)", stem)
        at = next((k for k, word in enumerate(parts) if word.lower() in TRAIN_NAMES + VAL_NAMES), None)
        if at is not None and ending.lower() in (".csv", ".txt", ".list"):
            like = "".join([*parts[:at], "#", *parts[at + 1 :], ending.lower()])
            if plain and like == "#.csv" and is_manifest(folder / name) or not plain and is_list(folder / name):
                alike.setdefault(like, {})[parts[at]] = folder / name
    found = next((files for _, files in sorted(alike.items()) if len(split_names(files, folder, [])) == 2), {})
    return found, sorted(path.name for files in alike.values() if files is not found for path in files.values())


def _read(path: Path) -> list[dict]:
    find = Finder("")
    return [dict(row, path=find(row["path"])) for row in read_manifest(path, also=("split", "frames"))]


def something(folder: Path, notes):
    """The label is the template without its brackets. Classes have the order of the file of labels, if there is one."""
    at = _list_folder(folder, "something-something-v2-train.json")
    find, rows = Finder(folder, *below(folder)), []
    for name, split in (("train", "train"), ("validation", "val")):
        path = at / f"something-something-v2-{name}.json"
        try:
            rows += [
                _row(find(f"{entry['id']}.webm"), re.sub(r"[\[\]]", "", entry["template"]), split)
                for entry in read_json(path, "fetch it again.", list)
            ]
        except (KeyError, TypeError) as error:
            raise CourseError(f"{path} is not a list of objects with id and template; fetch it again.") from error
    labels = at / "something-something-v2-labels.json"
    number = read_json(labels, "fetch it again.", dict) if labels.is_file() else None
    try:
        return rows, number and sorted(number, key=lambda label: int(number[label]))
    except (TypeError, ValueError) as error:
        raise CourseError(f"{labels} is not an object of label and number; fetch it again.") from error


def ucf101(folder: Path, notes):
    at = _list_folder(folder, "classInd.txt")
    find, rows = Finder(folder, *below(folder)), []
    classes = [line.split()[-1] for line in _lines(at / "classInd.txt")]
    for name, split in (("trainlist01.txt", "train"), ("testlist01.txt", "val")):
        for line in _lines(at / name):
            path = re.sub(r"\s+\d+$", "", line)  # the training list has class numbers, too
            if "/" not in path:
                raise CourseError(f"{at / name} has the line {line!r:.200}; each names CLASS/VIDEO.avi.")
            rows.append(_row(find(path), path.split("/")[0], split))
    return rows, classes


def hmdb51(folder: Path, notes):
    """Each line is NAME.avi and a number: 1 (train), 2 (test) or 0 (neither)."""
    at = next(path for path in (folder, *below(folder)) if any(path.glob("*_test_split1.txt")))
    find, rows = Finder(folder, *below(folder)), []
    for path in sorted(at.glob("*_test_split1.txt")):
        label = path.name.removesuffix("_test_split1.txt")
        for line in _lines(path):
            name, _, use = line.rpartition(" ")
            if use not in ("0", "1", "2"):
                raise CourseError(f"{path} has the line {line!r:.200}; each is NAME.avi and 0, 1 or 2.")
            if use != "0":
                rows.append(_row(find(f"{label}/{name.strip()}"), label, ("train", "val")[use == "2"]))
    return rows, None


def train_and_val(folder: Path, notes):
    subfolders, _ = _scan(folder)
    splits = split_names(subfolders, folder, notes)
    if "train" not in splits:
        raise CourseError(
            f"{folder} has {splits['val']}/ but no train/; add it, or move the class folders up for a split by hash."
        )
    if "val" not in splits:
        raise CourseError(f"{folder} has train/ but no val/; add it, or move the class folders up for a split by hash.")
    if other := [name for name in subfolders if name.lower() not in TRAIN_NAMES + VAL_NAMES]:
        notes.append(
            f"Left out of {folder}, beside {' and '.join(splits.values())}: {', '.join(other[:3])}"
            f"{f' and {len(other) - 3} more' if len(other) > 3 else ''}."
        )
    return [row for split, name in splits.items() for row in _by_class(folder / name, split, notes)], None


def by_class(folder: Path, notes):
    return _by_class(folder, "", notes), None


def _by_class(folder: Path, split: str, notes) -> list[dict]:
    rows, other = [], []
    subfolders, files = _scan(folder)
    if not subfolders:
        hint = (
            "put those of each class into a folder of its own"
            if any(map(is_video, files))
            else "it needs a folder for each class, with its videos in it"
        )
        raise CourseError(f"{folder} has no class folders; {hint}.")
    for name in subfolders:
        clips, inside = clips_below(folder / name, SUFFIXES, leave_out=folder)  # a link may lead back to it
        if not clips:
            raise CourseError(f"Class folder {folder / name} has no videos: {_instead(folder, name, inside)}.")
        rows += [
            dict(
                _row(str(folder / name / clip), name, split),
                group=str(folder / name / os.path.dirname(clip)) * ("/" in clip),
            )
            for clip in clips
        ]
        other += [folder / name / file for file in inside]
    other += [folder / file for file in files if is_video(file) or is_other(file)]
    if unread := [path for path in other if is_other(path.name)]:
        notes.append(
            f"Left out: {len(unread):,} videos of kinds that are read only after `vt-course data prepare` (the first: "
            f"{unread[0]})."
        )
    if other := [path for path in other if not is_other(path.name)]:
        notes.append(f"Left out, no videos or beside the class folders: {len(other):,} files (the first: {other[0]}).")
    return rows


def _instead(folder: Path, name: str, files: list[str]) -> str:
    """For a message: what a class folder without videos contains, and what to do."""
    kinds = f"(videos end in {', '.join(SUFFIXES)}); fill it or remove it"
    if unread := sorted({os.path.splitext(file)[1].lower() for file in files if is_other(file)}):
        return (
            f"its {len(files)} files are of other kinds ({', '.join(unread[:3])}); convert them with "
            f"`vt-course data prepare "
            f"{folder}`"
        )
    if any("/" not in file and file.lower().endswith(tuple(PICTURES)) for file in files):
        return (
            f"its {len(files)} pictures lie in it as they are; put the frames of each video into a folder of its "
            f"own in it"
        )
    if files:
        return f"none of its {len(files)} files is one {kinds}"
    return f"{'there is no file in its folders' if _scan(folder / name)[0] else 'it is empty'} {kinds}"


def is_split_in_two(folder: Path) -> bool:
    """Whether the folder is split: it has a training folder with class folders, or only folders named as splits."""
    subfolders, _ = _scan(folder)
    named = [name for name in subfolders if name.lower() in TRAIN_NAMES + VAL_NAMES]
    return (
        any(name.lower() in TRAIN_NAMES and _scan(folder / name)[0] for name in named)
        or named == subfolders
        and any(name.lower() in VAL_NAMES for name in named)
    )


LAYOUTS = (
    ("manifest", lambda f: (f / "manifest.csv").is_file(), manifest),
    ("two manifests", lambda f: split_files(f, True)[0], two_manifests),
    ("Something-Something", lambda f: _list_folder(f, "something-something-v2-train.json"), something),
    ("UCF101", lambda f: _list_folder(f, "classInd.txt"), ucf101),
    ("HMDB51", lambda f: any(any(at.glob("*_test_split1.txt")) for at in (f, *below(f))), hmdb51),
    ("lists", lambda f: any(split_files(at, False)[0] for at in (f, *below(f))), lists),
    ("train and val", is_split_in_two, train_and_val),
    ("by class", lambda f: True, by_class),
)


# ------------------------------------------------------------------------- small things


class Finder:
    """Finds a listed video below one of `roots`: itself, with another ending (re-encoded), or the folder of its frames.

    Calling it with a listed name returns the path; a name that is not found gives its path below the first root.
    """

    def __init__(self, *roots: Path | str):
        self.roots, self.seen = [str(root) for root in roots], {}

    def __call__(self, name: str) -> str:
        for root in self.roots:
            folder, file = os.path.split(os.path.join(root, name))
            if folder not in self.seen:
                folders, names = _scan(folder) if os.path.isdir(folder) else ([], [])
                stems = {name: name for name in folders} | {os.path.splitext(n)[0]: n for n in names if is_video(n)}
                self.seen[folder] = stems, {*names, *folders}
            stems, names = self.seen[folder]
            found = file if file in names else stems.get(file) or stems.get(os.path.splitext(file)[0])
            if found:
                return os.path.join(folder, found)
        return os.path.join(self.roots[0], name)


def is_video(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def is_other(name: str) -> bool:
    """Whether a file is a video of a format that `prepare` must convert first."""
    return name.lower().endswith(OTHERS)


def _scan(folder) -> tuple[list[str], list[str]]:
    """(subfolders, other entries), sorted, without hidden ones. A broken link is not a folder."""
    with os.scandir(folder) as entries:
        kinds = [(entry.name, os.path.isdir(entry.path)) for entry in entries if not entry.name.startswith(".")]
    return [sorted(name for name, is_dir in kinds if is_dir == wanted) for wanted in (True, False)]


def below(folder: Path) -> list[Path]:
    return [folder / name for name in _scan(folder)[0]]


def _list_folder(folder: Path, name: str) -> Path | None:
    """The folder in which a list lies: `folder` or one of its subfolders; None if there is none."""
    return next((at for at in (folder, *below(folder)) if (at / name).is_file()), None)


def is_manifest(path: Path) -> bool:
    """Whether a file is a manifest or a list. Kinetics' own train.csv is not: it has no column path."""
    if not path.is_file():
        return False
    return is_list(path) or {"path", "label"} <= set(csv_header(path, "save it as CSV with commas."))


def _row(path: str, label: str, split: str) -> dict:
    return dict(path=path, label=label, start=None, end=None, split=split)


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_utf8(path, "fetch it again.").splitlines() if line.strip()]


def _names(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ("class " if len(names) == 1 else "classes ") + ", ".join(names[:3]) + more
