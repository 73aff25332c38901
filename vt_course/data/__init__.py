"""Clips on disk and how to read them. A data set is named by a short text, its spec."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vt_course import CourseError, own_data

if TYPE_CHECKING:  # clips and images import torch; a process that only reads files needs none
    from vt_course.data.clips import Rows


@dataclass(frozen=True)
class Spec:
    """A data set: two manifests (CSV: path,label,start,end) and its classes, in the order of the label numbers.

    A folder of videos has no manifest files: there, `train` and `val` are `clips.Rows`. Drawn images
    (`images:shapes`) have no clips: there, `train` and `val` are None. `notes`: sentences that tell the
    user how the clips were found. `test`: the manifest of a third split, on which nothing is tuned. The embedded set
    has one, which is rendered on its first use (`evaluate.need_test_clips`).
    """

    train: Path | Rows | None
    val: Path | Rows | None
    classes: tuple[str, ...]
    name: str
    notes: tuple[str, ...] = ()
    test: Path | None = None

    def digest(self, split: str) -> str:
        """SHA-256 of the list of clips of a split. The contents of the videos are not included."""
        listed = getattr(self, split)
        text = listed.read_bytes() if isinstance(listed, Path) else json.dumps(listed).encode()
        return hashlib.sha256(text).hexdigest()


def drawn(spec: str) -> bool:
    """Whether the code of the course draws the data of a spec."""
    return spec.partition(":")[0] in ("synthetic", "images")


def open_spec(spec: str) -> Spec:
    """The data set that a spec names.

    `synthetic:motion`, `synthetic:appearance`: the embedded set, two labels for the same clips.
    `images:shapes`: single images. Each is drawn when it is needed (see `images`), so nothing is rendered before.
    `csv:TRAIN.csv,VAL.csv`: your own manifests. The classes are the sorted labels of TRAIN.csv. Lists of
    `PATH LABEL` without a header are read, too. If all their labels are numbers, each is the index of its class.
    `folder:PATH`: videos in class folders, or with the lists of UCF101, HMDB51 or Something-Something
    (see `folders`).
    `shards:PATH`: tar files that `vt-course data shard` or another program wrote (see `shards`).

    Raises `CourseError` for an unknown spec, a data set that is not rendered, a manifest that
    is missing or has no clips, and a validation label that does not occur in training.
    """
    from vt_course.data import synthetic  # here, because the command line imports this package and needs no numpy

    kind, _, rest = spec.partition(":")
    classes = {"motion": synthetic.MOTIONS, "appearance": synthetic.APPEARANCES}
    if kind == "synthetic" and rest in classes:
        folder = synthetic.rendered("train")
        if not folder:
            raise CourseError(
                "The embedded data set is not (or not wholly, or by an older version) rendered in "
                f"{own_data() / 'synthetic'}: run `vt-course data synthetic`."
            )
        tests = synthetic.rendered("test") or folder  # may lie elsewhere, or be rendered later
        train, val, test = (at / f"{rest}_{split}.csv" for at, split in zip((folder, folder, tests), synthetic.SPLITS))
        return Spec(train, val, classes[rest], spec, test=test)
    if spec == "images:shapes":
        from vt_course.data import images

        return Spec(None, None, images.SHAPES, spec)
    if kind == "csv" and rest.count(",") == 1:
        from vt_course.data.clips import is_list, numbered_classes, read_manifest

        train, val = (Path(path.strip()) for path in rest.split(","))
        known, asked = ({row["label"] for row in read_manifest(path)} for path in (train, val))
        if asked - known:
            extra = ", ".join(sorted(asked - known))
            raise CourseError(
                f"{val} has labels that {train} lacks ({extra}): add training clips for them or drop them."
            )
        classes, notes = tuple(sorted(known)), ()
        if is_list(train):
            classes = numbered_classes(known) or classes
            if gaps := [name for name in classes if name not in known]:
                notes = (
                    f"{train} has no clip of {len(gaps)} of the {len(classes)} classes up to its highest number (the "
                    f"first: {gaps[0]}).",
                )
        return Spec(train, val, classes, spec, notes)
    if kind == "folder" and rest:
        from vt_course.data.folders import read_folder

        found = read_folder(Path(rest).expanduser())
        return Spec(found.train, found.val, found.classes, spec, found.notes)
    if kind == "shards" and rest:
        from vt_course.data.shards import read_shards

        train, val, names, notes = read_shards(Path(rest).expanduser())
        return Spec(train, val, names, spec, notes)
    raise CourseError(
        f"Unknown data spec {spec!r}: use synthetic:motion, synthetic:appearance, "
        "images:shapes, folder:PATH, shards:PATH or csv:TRAIN.csv,VAL.csv."
    )
