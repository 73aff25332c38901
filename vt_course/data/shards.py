"""Many clips in few files: tar files in the layout of the WebDataset library ("shards").

A file system that many machines share is fast with a few large files and slow with a million small ones. In a
shard, each clip is three members of a tar: KEY.mp4 (the video, bytes unchanged), KEY.cls (the number of
its class) and KEY.json (label, path and, if given, start and end in seconds). `shard` writes the
tars. Any program that uses the library can read them as a stream. Our training does not stream: `train.csv`
and `val.csv` say in which tar and where each video lies, and a clip is opened at that place, as if it
were a file. So sampling, workers and restarts are the same as for a folder.
"""

import hashlib
import io
import json
import os
import re
import time
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
from tqdm import tqdm

from vt_course import CourseError, need
from vt_course.data.clips import Rows
from vt_course.data.folders import Listing, checked, read_folder, readable, split_names
from vt_course.data.prepare import size_of
from vt_course.data.reader import PICTURES, SUFFIXES, BadClip, ClipReader, container_fault
from vt_course.files import (
    SMALL,
    alone_in,
    atomic_write,
    of_share,
    parse_json,
    parsing,
    read_json,
    read_tar,
    remove_shares,
    replacing,
    shares_of,
    write_csv,
)

RECORD = "shards.json"
COLUMNS = ("path", "label", "start", "end", "offset", "bytes")
LARGEST = 8 << 30  # bytes of a member, because its size has 11 octal digits


# ------------------------------------------------------------------------- writing


def shard(
    src, out, max_bytes: int = 1_000_000_000, *, share: tuple[int, int] | None = None, progress: bool = False
) -> dict:
    """Pack the clips of `src`, any folder that `folders` reads, into tars of about `max_bytes`.

    Writes out/train-000000.tar ..., out/val-000000.tar ... The same clips give the same bytes on any
    machine. Clips are in the order of a hash, so classes are mixed. A shard gets its name when it is
    complete; then its clips, bytes and SHA-256 are added to out/shards.json. A second call goes on with
    the shards that are missing. The index (train.csv and val.csv) is written last.
    A clip that is missing, or whose headers show that it cannot be used, is left out. left_out.csv says why.
    `share`: (I, N) writes every N-th shard, beginning with number I, so that N machines can work at the same time (see
    `prepare`). Then a call without `share` checks them, writes those that are missing, and writes the index.

    Returns dict(out, shards, written, done_before, clips, left_out, bytes, seconds, notes). Raises
    `CourseError` if nothing can be written: no clips, a full disk, an `out` with shards of other clips or
    settings, another process that writes there, no webdataset library.
    """
    src, out, began = Path(src), Path(out), time.monotonic()
    need(max_bytes > 0, f"max_bytes is {max_bytes}; give the size of a shard, 1 or more")
    need(
        src.resolve() not in (out.resolve(), *out.resolve().parents),
        f"{out} lies in {src}, where its files would be taken for clips; name a folder beside it",
    )
    _tar_writer()
    found = read_folder(src)
    plan = _plan(src, found, max_bytes)
    out.mkdir(parents=True, exist_ok=True)
    with alone_in(out, share):
        record = _begin(out, found, plan, max_bytes, share)
        if share:
            plan = dict(list(plan.items())[share[0] - 1 :: share[1]])
        shards, rows, written = record["shards"], {"train": [], "val": []}, 0
        for name, clips in tqdm(plan.items(), unit="shard", disable=not progress, leave=False):
            path = out / name
            inside = _inside(path, shards.get(name))
            if inside is None:
                shards[name] = _write_shard(path, clips)
                atomic_write(out / of_share(RECORD, share), json.dumps(record, indent=1).encode())
                written, inside = written + 1, index(path)
            rows[name.split("-")[0]] += [dict(row, path=name) for row in inside]
        left_out = [pair for name in plan for pair in shards[name]["left_out"]]
        if share is None:
            _write_index(src, out, rows, left_out)
    return dict(
        out=str(out),
        shards=len(plan),
        written=written,
        done_before=len(plan) - written,
        clips=sum(map(len, rows.values())),
        left_out=len(left_out),
        bytes=sum(shards[name]["bytes"] for name in plan),
        seconds=round(time.monotonic() - began, 1),
        notes=list(found.notes),
    )


def _write_index(src: Path, out: Path, rows: dict[str, list[dict]], left_out: list) -> None:
    """Write left_out.csv, val.csv and train.csv, and remove the records of shares, which are in shards.json now."""
    write_csv(out / "left_out.csv", ("path", "reason"), left_out)
    for split in rows:
        need(rows[split], f"none of the {split} clips of {src} can be used; {out / 'left_out.csv'} says why")
    for split in ("val", "train"):
        write_csv(out / f"{split}.csv", COLUMNS, ([row[key] for key in COLUMNS] for row in rows[split]))
    remove_shares(out / RECORD)


def _inside(path: Path, told: dict | None) -> list[dict] | None:
    """The `index` of a shard that is there as the record tells; None if it is to be written (again)."""
    if told is None or size_of(path) != told["bytes"]:
        return None
    try:
        rows = index(path)
    except CourseError:
        return None
    return rows if len(rows) == told.get("clips") else None  # a tar overwritten by zeros is a tar without clips


def _plan(src: Path, found: Listing, max_bytes: int) -> dict[str, list[dict]]:
    """{name of a shard: its clips}; a clip is dict(key, source, cls, json, bytes)."""
    number, plan = {label: str(k) for k, label in enumerate(found.classes)}, {}
    for split in ("train", "val"):
        clips = []
        for row in getattr(found, split):
            meta = dict(
                label=row["label"],
                path=Path(os.path.relpath(row["path"], src)).as_posix(),
                **{key: row[key] for key in ("start", "end") if row[key] is not None},
            )
            clips.append(
                dict(source=row["path"], cls=number[row["label"]], json=json.dumps(meta), bytes=size_of(row["path"]))
            )
        clips.sort(key=lambda clip: hashlib.sha256(clip["json"].encode()).digest())
        shards, room = [], 0
        for k, clip in enumerate(clips):
            if not shards or clip["bytes"] > room:
                shards.append([])
                room = max_bytes
            shards[-1].append(dict(clip, key=f"{k:08}"))
            room -= clip["bytes"]
        plan |= {f"{split}-{k:06}.tar": shard for k, shard in enumerate(shards)}
    return plan


def _begin(out: Path, found: Listing, plan: dict, max_bytes: int, share: tuple[int, int] | None) -> dict:
    """The contents of shards.json: those that interrupted calls and shares left, or those of a new one."""
    listing = [(name, clip["json"], clip["bytes"]) for name, clips in plan.items() for clip in clips]
    new = dict(
        classes=list(found.classes),
        max_bytes=max_bytes,
        clips_sha256=hashlib.sha256(json.dumps(listing).encode()).hexdigest(),
    )
    paths = [path for path in (out / RECORD, *shares_of(out / RECORD)) if os.path.lexists(path)]
    olds, shards = [record for record in map(_record_or_none, paths) if record], {}
    if len(olds) < len(paths):  # a damaged record is made anew, but only over the shards that it told of
        _need_same(out, plan)
    for old in olds:
        need(
            all(old[key] == new[key] for key in new),
            f"{out} holds shards of other clips or of another size "
            f"({old['max_bytes'] / 1e6:g} MB); name another folder, or delete this one",
        )
        shards |= old["shards"]
    need(paths or not any(out.glob("*.tar")), f"{out} holds tar files of another program; name another folder")
    new["shards"] = shards
    atomic_write(out / of_share(RECORD, share), json.dumps(new, indent=1).encode())
    return new


def _write_shard(path: Path, clips: list[dict]) -> dict:
    """Write one tar, first under a temporary name; dict(clips, bytes, sha256, left_out=[(path, reason), ...])."""
    left_out = []
    try:
        with replacing(path) as part, open(part, "w+b") as file:
            with _tar_writer()(file, encoder=False, user="", group="", mode=0o644, mtime=0) as tar:
                for clip in clips:
                    video, fault = _video(clip["source"])
                    if fault:
                        left_out.append((clip["source"], fault))
                        continue
                    ending = ".mov" if os.path.isdir(clip["source"]) else Path(clip["source"]).suffix.lower()
                    tar.write(
                        {
                            "__key__": clip["key"],
                            "cls": clip["cls"].encode(),
                            "json": clip["json"].encode(),
                            (ending if ending in SUFFIXES else ".mp4")[1:]: video,
                        }
                    )
            file.flush()
            os.fsync(file.fileno())
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CourseError(
            f"{path} cannot be written ({error.strerror}); the shards before it are whole: free space "
            "and run the same command again."
        ) from error
    return dict(clips=len(clips) - len(left_out), bytes=size, sha256=digest, left_out=left_out)


def _video(path: str) -> tuple[bytes, str | None]:
    """(the bytes of a video file, None), or (b"", what is wrong with the file)."""
    try:
        if os.path.isdir(path):
            return _from_pictures(path), None
        if not os.path.isfile(path):
            return b"", f"Clip {path} is not there, or is no file; fetch it again."
        fault = container_fault(Path(path))
        if fault is None and size_of(path) >= LARGEST:
            fault = "has more than 8 GB, too much for a tar; shorten it with `vt-course data prepare`"
        return (b"", f"Clip {path} {fault}.") if fault else (Path(path).read_bytes(), None)
    except BadClip as error:
        return b"", str(error)
    except OSError as error:
        return b"", f"Clip {path} cannot be read ({error.strerror}); fetch it again."


def _from_pictures(folder: str) -> bytes:
    """A folder of frames as one MOV, 25 a second. Each picture becomes a packet, unchanged, so its pixels stay."""
    reader = ClipReader(folder)
    kinds = {PICTURES[os.path.splitext(name)[1].lower()] for name in reader.pictures}
    if not kinds <= {"mjpeg", "png"} or len(kinds) > 1:
        raise BadClip(
            f"Clip {folder} has pictures of more than one kind, or neither JPEG nor PNG; make it a video with "
            "`vt-course data prepare`."
        )
    file, first = io.BytesIO(), next(reader.every_frame())
    with av.open(file, "w", format="mov", options={"fflags": "+bitexact"}) as new:
        stream = new.add_stream(kinds.pop(), rate=25)
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, first.format.name
        for number, name in enumerate(reader.pictures):
            packet = av.Packet(Path(folder, name).read_bytes())
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), True
            packet.pts = packet.dts = number
            packet.duration = 1
            new.mux(packet)
    return file.getvalue()


def _tar_writer():
    try:
        from webdataset import TarWriter
    except ImportError as error:
        raise CourseError(
            "Writing shards needs the library webdataset, which is not installed: pip install -e .[shards]"
        ) from error
    return TarWriter


# ------------------------------------------------------------------------- reading


def read_shards(folder: Path) -> tuple[Path | Rows, Path | Rows, tuple[str, ...], tuple[str, ...]]:
    """(train, val, classes, notes) of a folder of shards, from the index that `shard` wrote, or else from the tars.

    Raises `CourseError` for a folder that is not complete, for a shard whose size has changed, and for tars
    without an index that cannot be understood (see `_foreign`).
    """
    with readable(folder):
        listed, shares = [folder / f"{split}.csv" for split in ("train", "val")], shares_of(folder / RECORD)
        if not shares and not (folder / RECORD).is_file():
            return _foreign(folder)
        incomplete = f"The shards in {folder} are not complete; run the `vt-course data shard` that writes them again"
        need(not shares, incomplete)
        record = _record(folder / RECORD)
        need(all(path.is_file() for path in listed), incomplete)
        for name, told in record["shards"].items():
            size = size_of(folder / name)
            need(
                size == told["bytes"],
                f"Shard {folder / name} has {size:,} bytes and not {told['bytes']:,}; copy it "
                "again, or delete it and repeat `vt-course data shard`",
            )
        return *listed, tuple(record["classes"]), ()


def _foreign(folder: Path):
    """Tars that another program wrote. The beginnings of their paths, such as train, val or test, tell the split."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.tar"))
    need(names, f"{folder} has no tar files, or compressed ones; name a folder of plain .tar shards")
    split, notes, lost = {}, [], 0
    starts = {name: re.match("[A-Za-z]*", name)[0] for name in names}  # "valid" of valid-000.tar, valid/000.tar
    splits = split_names(starts.values(), folder, notes)
    need(
        len(splits) == 2, f"The names of the tar files in {folder} do not begin with train and val or test; rename them"
    )
    for which, start in splits.items():
        rows = []
        for path in (folder / name for name in names if starts[name] == start):
            stat = path.stat()
            rows += [
                dict(row, path=str(path), start=None, end=None)  # their times may be of the uncut film
                for row in _kept_index(path, stat.st_size, stat.st_mtime_ns)
            ]
        split[which] = Rows([row for row in rows if row["bytes"]], f"{folder} ({which})")
        lost += len(rows) - len(split[which])
    if lost:
        notes.append(f"{lost:,} samples in {folder} have no video and are left out.")
    labels = {row["label"] for row in split["train"]}
    numbers = all(label.isdecimal() for label in labels)
    classes = checked(folder, sorted(labels, key=int if numbers else str), split, notes)
    return split["train"], split["val"], tuple(classes), tuple(notes)


@lru_cache(maxsize=None)
def _kept_index(path: Path, size: int, mtime_ns: int) -> list[dict]:
    """`index`, remembered: a data set may be opened several times in one process, but its tars are read once."""
    return index(path)


def index(path: Path) -> list[dict]:
    """dict(label, start, end, offset, bytes) of each sample of a tar, from its headers and small members.

    `offset`, `bytes`: the place of the video in the tar, or 0, 0 if the sample has no video. The label is that in
    the sample's .json, else the text of its .cls or .txt.
    """
    samples, name, remedy = {}, f"Shard {path}", "copy or make it again."
    for member, stream in read_tar(path, remedy, name):
        folder, file = os.path.split(member.name)
        stem, dot, endings = file.partition(".")  # KEY is everything before the first dot
        ending = endings.rpartition(".")[2].lower()
        if not stem or not dot or not member.isreg():
            continue
        sample = samples.setdefault((folder, stem), {})
        if f".{ending}" in SUFFIXES:
            sample["video"] = dict(offset=member.offset_data, bytes=member.size)
        elif ending in ("json", "cls", "txt"):
            need(
                member.size <= SMALL,
                f"{name} has a member {member.name:.60} of {member.size:,} bytes, too many for a label; make it again",
            )
            with parsing(name, "truncated, damaged or no plain tar", remedy):
                sample[ending] = stream.read().decode()
    return [_row(path, key, sample) for key, sample in samples.items()]


def _row(path: Path, key: tuple[str, str], sample: dict) -> dict:
    key = os.path.join(*key)
    meta = parse_json(sample.get("json", "{}"), f"{key}.json in shard {path}", "make it again.")
    meta = meta if isinstance(meta, dict) else {}
    given = meta.get("label"), sample.get("cls", "").strip(), sample.get("txt", "").strip()
    label = next((str(text) for text in given if text not in (None, "")), None)
    need(
        label and len(label) < 1000,
        f'Sample {key} in shard {path} has no label; give it a .json with "label", a .cls or a .txt',
    )
    return dict(
        label=label, start=meta.get("start"), end=meta.get("end"), **sample.get("video", dict(offset=0, bytes=0))
    )


# ------------------------------------------------------------------------- small things


def _record_or_none(path: Path) -> dict | None:
    """The contents of a record, or None if it is damaged."""
    try:
        return _record(path)
    except CourseError:
        return None


def _need_same(out: Path, plan: dict) -> None:
    """Raise `CourseError` if a tar in `out` has other clips than the plan, so that no shards of other clips are lost.

    A tar that is damaged has none.
    """
    for path in sorted(out.glob("*.tar")):
        planned = {parse_json(clip["json"], path, "")["label"] for clip in plan.get(path.name, ())}
        try:
            labels = {row["label"] for row in index(path)}
        except CourseError:
            labels = set()
        need(
            path.name in plan and labels <= planned,
            f"{out} holds a damaged {RECORD} and, in {path.name}, other clips; name another folder",
        )


def _record(path: Path) -> dict:
    again = "run the `vt-course data shard` that wrote it again, which makes it anew"
    wrong = f"{path} is not what `vt-course data shard` writes; {again}"
    record = read_json(path, f"{again}.", dict)
    need(
        all(
            isinstance(record.get(key), kind)
            for key, kind in (("classes", list), ("max_bytes", int), ("clips_sha256", str), ("shards", dict))
        ),
        wrong,
    )
    need(record["classes"] and all(isinstance(label, str) for label in record["classes"]), wrong)
    need(
        all(
            isinstance(told, dict)
            and isinstance(told.get("bytes"), int)
            and isinstance(told.get("left_out"), list)
            and all(isinstance(pair, list) for pair in told["left_out"])
            for told in record["shards"].values()
        ),
        wrong,
    )
    return record
