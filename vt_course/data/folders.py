"""What people already have: folders of videos by class, or with the official lists of a data set.

`read_folder` looks at the files that are there and takes the first layout that fits:

    manifest.csv                         columns path,label and, if you like, start,end,split
    train.csv, val.csv                   two manifests, path,label,start,end
    something-something-v2-*.json        the labels of Something-Something V2; videos ID.webm
    classInd.txt, trainlist01.txt, ...   UCF101, split 1; videos CLASS/NAME.avi
    CLASS_test_split1.txt                HMDB51, split 1; videos CLASS/NAME.avi
    train/CLASS/*, val/CLASS/*           as torchvision.datasets.Kinetics leaves it
    CLASS/*                              no split: see `split_by_hash`

A list may lie in the folder itself or one level below; videos may carry another ending than
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
from vt_course.data.clips import Rows, read_manifest
from vt_course.data.reader import SUFFIXES
from vt_course.files import csv_header, read_json, read_utf8

VAL_NAMES = ("val", "validation", "validate", "test")     # of a folder or split; the first counts
SHARE = 5                                                 # one clip in so many is for validation


@dataclass(frozen=True)
class Listing:
    """The clips of a folder. `notes`: sentences on what was decided or left out."""
    layout: str
    classes: tuple[str, ...]
    train: Rows
    val: Rows
    notes: tuple[str, ...] = ()


def read_folder(folder) -> Listing:
    """The clips that a folder holds, by the layout that its files show (see above).

    Classes are in the order of the official list where there is one, else sorted. Raises
    `CourseError` for a folder without a known layout or without clips, a class without videos
    or without training clips, and for a list that cannot be read. A single listed file that is
    missing stays in: whoever reads it gets a sentence that names it.
    """
    folder, notes = Path(folder), []
    with readable(folder):
        layout, read = layout_of(folder)
        rows, classes = read(folder, notes)
    if not rows:
        raise CourseError(f"{folder} lists no clips; add some to its lists.")
    if not any(row["split"] for row in rows):
        rows = split_by_hash(rows, notes)
    split = {name: Rows([{k: row[k] for k in ("path", "label", "start", "end")} for row in rows
                         if row["split"] == name], f"{folder} ({name})") for name in ("train", "val")}
    classes = checked(folder, classes, split, notes)
    return Listing(layout, tuple(classes), **split, notes=tuple(notes))


def listed(folder) -> tuple[str, list[dict]]:
    """(layout, rows) of the lists that a folder holds: what they promise, whether it is there or not.

    No rows where there is no list, only videos. A manifest's column frames is kept.
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
    """What goes wrong while reading lists and folders, as one sentence."""
    try:
        if not folder.is_dir():
            raise CourseError(f"There is no folder {folder}; give the path of a folder of videos.")
        yield
    except OSError as error:
        raise CourseError(f"{error.filename or folder} cannot be read ({error.strerror}); check the path and its "
                          "permissions.") from error


def checked(folder, classes, split: dict[str, Rows], notes: list) -> list[str]:
    """The classes in order, or `CourseError`; adds notes on listed files that are not there."""
    for name, rows in split.items():
        if not rows:
            raise CourseError(f"{folder} has no {name} clips; add some, or give manifests with csv:TRAIN.csv,VAL.csv.")
    count = {name: Counter(row["label"] for row in rows) for name, rows in split.items()}
    if extra := sorted(count["val"].keys() - count["train"].keys()):
        raise CourseError(f"{folder} has {_names(extra)} for validation only; add training clips or take the "
                          "validation clips away.")
    classes = classes or sorted(count["train"])
    if unknown := sorted(count["train"].keys() - set(classes)):
        raise CourseError(f"{folder} has clips of {_names(unknown)}, which its list of classes lacks; correct the list.")
    here = {name: {row["path"] for row in rows if os.path.lexists(row["path"])} for name, rows in split.items()}
    lost = [row["path"] for name, rows in split.items() for row in rows if row["path"] not in here[name]]
    there = {row["label"] for row in split["train"] if row["path"] in here["train"]}
    if empty := [name for name in classes if name not in there]:
        raise CourseError(f"{folder} has no training clip of {_names(empty)}; fetch the videos or take the "
                          f"{'class' if len(empty) == 1 else 'classes'} out of the list.")
    if lost:
        total = sum(map(len, split.values()))
        notes.append(f"{len(lost):,} of {total:,} listed clips are not there (the first: {lost[0]}); they will be "
                     "reported and skipped.")
    if unseen := [name for name in classes if not count["val"][name]]:
        notes.append(f"No validation clip of {_names(unseen)}.")
    return list(classes)


def split_by_hash(rows: list[dict], notes: list) -> list[dict]:
    """A fifth of each class for validation: the clips whose file names have the smallest SHA-256.

    The same names give the same split on every machine, in any folder. A class of fewer than
    five clips is left out. A name does not tell which clips were cut from one video or show one
    person; where that matters, say it with train/ and val/ or a column split in manifest.csv.
    """
    classes, small = {}, []
    for row in rows:
        classes.setdefault(row["label"], []).append(row)
    for label, members in sorted(classes.items()):
        members.sort(key=lambda row: (name_hash(row["path"]), row["path"]))
        for k, row in enumerate(members):
            row["split"] = "val" if k < len(members) // SHARE else "train"
        if len(members) < SHARE:
            small.append(label)
    if len(small) == len(classes):
        raise CourseError(f"No class has {SHARE} clips ({_names(small)}), too few to split; add clips, or say with "
                          "train/ and val/ which are which.")
    notes.append("No split was given: of each class the fifth of the clips whose file names have the smallest "
                 "SHA-256 is for validation.")
    if small:
        notes.append(f"Left out, with fewer than {SHARE} clips: {_names(small)}.")
    return [row for row in rows if row["label"] not in small]


def name_hash(path) -> str:
    """SHA-256 of a file's name, with accents composed: macOS stores them apart."""
    name = unicodedata.normalize("NFC", os.path.basename(path))
    return hashlib.sha256(os.fsencode(name)).hexdigest()


# ------------------------------------------------------------------------- layouts
# Each takes the folder and a list for notes and returns (rows, classes in order or None);
# a row is dict(path, label, start, end, split), split "train", "val" or "" where none is given.

def manifest(folder: Path, notes):
    rows = _read(folder / "manifest.csv")
    given = {row["split"] for row in rows}
    if given == {""}:
        return _with_split(rows, {"": ""}), None
    val = next((name for name in VAL_NAMES if name in given), None)
    if odd := sorted(given - {"train", *VAL_NAMES}):
        raise CourseError(f"{folder / 'manifest.csv'} has the split {odd[0]!r}; it is train or val, on every line or "
                          "on none.")
    return _with_split(rows, {"train": "train", val: "val"}), None


def two_manifests(folder: Path, notes):
    return [dict(row, split=name) for name in ("train", "val") for row in _read(folder / f"{name}.csv")], None


def _read(path: Path) -> list[dict]:
    find = Finder("")
    return [dict(row, path=find(row["path"])) for row in read_manifest(path, also=("split", "frames"))]


def something(folder: Path, notes):
    """The label is the template without its brackets; the order that of the file of labels, if there."""
    at = _list_folder(folder, "something-something-v2-train.json")
    find, rows = Finder(folder, *_below(folder)), []
    for name, split in (("train", "train"), ("validation", "val")):
        path = at / f"something-something-v2-{name}.json"
        try:
            rows += [_row(find(f"{entry['id']}.webm"), re.sub(r"[\[\]]", "", entry["template"]), split)
                     for entry in read_json(path, "fetch it again.", list)]
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
    find, rows = Finder(folder, *_below(folder)), []
    classes = [line.split()[-1] for line in _lines(at / "classInd.txt")]
    for name, split in (("trainlist01.txt", "train"), ("testlist01.txt", "val")):
        for line in _lines(at / name):
            path = re.sub(r"\s+\d+$", "", line)                        # the training list has the number, too
            if "/" not in path:
                raise CourseError(f"{at / name} has the line {line!r:.200}; each names CLASS/VIDEO.avi.")
            rows.append(_row(find(path), path.split("/")[0], split))
    return rows, classes


def hmdb51(folder: Path, notes):
    """Lines are NAME.avi and 1 (train), 2 (test) or 0 (neither)."""
    at = next(path for path in (folder, *_below(folder)) if any(path.glob("*_test_split1.txt")))
    find, rows = Finder(folder, *_below(folder)), []
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
    val = next((name for name in VAL_NAMES if (folder / name).is_dir()), None)
    if val is None:
        raise CourseError(f"{folder} has train/ but no val/; add it, or move the class folders up for a split by hash.")
    return [row for name, split in (("train", "train"), (val, "val"))
            for row in _by_class(folder / name, split, notes)], None


def by_class(folder: Path, notes):
    return _by_class(folder, "", notes), None


def _by_class(folder: Path, split: str, notes) -> list[dict]:
    rows, other = [], []
    subfolders, files = _scan(folder)
    if not subfolders:
        hint = ("put those of each class into a folder of its own" if any(map(is_video, files))
                else "it needs a folder for each class, with its videos in it")
        raise CourseError(f"{folder} has no class folders; {hint}.")
    for name in subfolders:
        _, inside = _scan(folder / name)
        videos = [file for file in inside if is_video(file)]
        if not videos:
            what = f"none of its {len(inside)} files is one (" if inside else "it is empty ("
            raise CourseError(f"Class folder {folder / name} has no videos: {what}videos end in {', '.join(SUFFIXES)}); "
                              "fill it or remove it.")
        rows += [_row(str(folder / name / file), name, split) for file in videos]
        other += [folder / name / file for file in inside if not is_video(file)]
    other += [folder / file for file in files if is_video(file)]
    if other:
        notes.append(f"Left out, no videos or beside the class folders: {len(other):,} files (the first: {other[0]}).")
    return rows


LAYOUTS = (
    ("manifest", lambda f: (f / "manifest.csv").is_file(), manifest),
    ("two manifests", lambda f: all(is_manifest(f / f"{name}.csv") for name in ("train", "val")), two_manifests),
    ("Something-Something", lambda f: _list_folder(f, "something-something-v2-train.json"), something),
    ("UCF101", lambda f: _list_folder(f, "classInd.txt"), ucf101),
    ("HMDB51", lambda f: any(any(at.glob("*_test_split1.txt")) for at in (f, *_below(f))), hmdb51),
    ("train and val", lambda f: (f / "train").is_dir() and bool(_scan(f / "train")[0]), train_and_val),
    ("by class", lambda f: True, by_class),
)


# ------------------------------------------------------------------------- small things

class Finder:
    """The path of a listed video below one of `roots`; with another ending if it was re-encoded."""

    def __init__(self, *roots: Path | str):
        self.roots, self.seen = [str(root) for root in roots], {}

    def __call__(self, name: str) -> str:
        for root in self.roots:
            folder, file = os.path.split(os.path.join(root, name))
            if folder not in self.seen:
                names = sorted(_scan(folder)[1]) if os.path.isdir(folder) else []
                self.seen[folder] = ({os.path.splitext(n)[0]: n for n in names if is_video(n)}, set(names))
            stems, names = self.seen[folder]
            found = file if file in names else stems.get(os.path.splitext(file)[0])
            if found:
                return os.path.join(folder, found)
        return os.path.join(self.roots[0], name)


def is_video(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _scan(folder) -> tuple[list[str], list[str]]:
    """(subfolders, other entries), sorted, without hidden ones. A link that leads nowhere is no folder."""
    with os.scandir(folder) as entries:
        kinds = [(entry.name, os.path.isdir(entry.path)) for entry in entries if not entry.name.startswith(".")]
    return [sorted(name for name, is_dir in kinds if is_dir == wanted) for wanted in (True, False)]


def _below(folder: Path) -> list[Path]:
    return [folder / name for name in _scan(folder)[0]]


def _list_folder(folder: Path, name: str) -> Path | None:
    """Where a list lies: the folder or one of its subfolders."""
    return next((at for at in (folder, *_below(folder)) if (at / name).is_file()), None)


def is_manifest(path: Path) -> bool:
    """Kinetics' own train.csv has no column path."""
    if not path.is_file():
        return False
    return {"path", "label"} <= set(csv_header(path, "save it as CSV with commas."))


def _row(path: str, label: str, split: str) -> dict:
    return dict(path=path, label=label, start=None, end=None, split=split)


def _with_split(rows, names: dict) -> list[dict]:
    return [dict(row, split=names[row["split"]]) for row in rows if row["split"] in names]


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_utf8(path, "fetch it again.").splitlines() if line.strip()]


def _names(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ("class " if len(names) == 1 else "classes ") + ", ".join(names[:3]) + more
