"""Make a folder of videos ready for training: encode them again at a small size, check them, count them.

Encoding once is worth the time if videos then open quickly, decode cheaply and have correct time stamps.
`prepare` encodes, `verify_folder` decodes every clip, `probe_folder` reads headers. Other processes with a
time limit open the files (see `verify`), so a bad file cannot stop the work on the others.
"""

import csv
import errno
import math
import os
import re
import shutil
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from fractions import Fraction
from pathlib import Path
from statistics import median

import av
import numpy as np
from tqdm import tqdm

from vt_course import CourseError, need
from vt_course.data.reader import (
    OTHERS,
    SUFFIXES,
    BadClip,
    ClipReader,
    clips_below,
    container_fault,
    open_file,
    progressive,
    scaled_size,
    shown_width,
)
from vt_course.data.verify import decode_all, in_processes, more_time, serve, verify, work
from vt_course.files import (
    Unreadable,
    alone_in,
    csv_header,
    csv_lines,
    of_share,
    open_own,
    read_csv,
    regular,
    remove_shares,
    replacing,
    shares_of,
    write_csv,
)
from vt_course.machine import cores

SOURCES = SUFFIXES + OTHERS
LISTS = (
    "*.csv",
    "*.txt",
    "*.list",
    "something-something-v2-*.json",
    "classInd.txt",
    "trainlist*.txt",
    "testlist*.txt",
    "*_test_split*.txt",
)  # lists that `folders` reads, in a folder or a subfolder
OFFICIAL = LISTS[3:]  # of these, those that are copied without changes
RECORD = ("path", "source", "size", "mtime_ns", "settings", "frames", "seconds", "bytes")
TIMEOUT = 300.0  # seconds a file may take
PROBE_SECONDS = 20.0  # seconds that the headers of 32 files may take
WORTH_IT = 480  # pixels of the short side from which `prepare` is advised
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


# ------------------------------------------------------------------------- prepare


def prepare(
    src,
    out,
    short_side: int = 256,
    fps: float | None = None,
    seconds: float | None = 10.0,
    workers: int | None = None,
    *,
    share: tuple[int, int] | None = None,
    timeout: float = TIMEOUT,
    progress: bool = False,
) -> dict:
    """Encode every video (or folder of frames) below `src` again, to the same place below `out`, with the ending .mp4.

    The result is H.264 without sound, with a key frame every 16 frames and the index at the front. Pictures are
    scaled to the short side `short_side` in pixels (smaller ones are not enlarged), to even sizes. A rotation tag is
    applied, pixels become square, and interlaced pictures are completed. `fps`: that many frames a second, or
    None for the frames and times of the source (25 a second for a folder of frames).
    `seconds`: encode only the first so many seconds, or None for all. Lists that `folders` reads are copied.

    If a manifest gives start or end, that part of the video becomes a file of its own,
    NAME_START_END.mp4 (NAME_000010_000020.mp4). The copy of the manifest has the name of this file, with start
    and end empty. If manifests name only parts of a video, the whole video is not encoded.

    A second call goes on where the first was stopped: a clip is done if out/prepared.csv has the size and time of
    its source and these settings. Each clip is decoded completely before one rename gives it its name. Clips that fail
    are listed in out/quarantine.csv with the reason, and the next call tries them again. out/left_out.csv names the
    files whose names are neither those of videos nor of lists. Such files are not opened.

    `share`: (I, N) encodes every N-th clip, beginning with number I, so that N machines that see `src` and `out` can
    work at the same time. Shares may run in any order and again. Then a call without `share` checks what they made,
    makes what is missing, and writes the lists and one prepared.csv.

    Returns dict(out, encoded, done_before, failed, left_out, clips, bytes, seconds). Raises `CourseError`
    if nothing can be done: no videos, a manifest that cannot be read, a full disk, two sources of one
    name, another process at work on `out`.
    """
    src, out, began = Path(src), Path(out), time.monotonic()
    need(short_side >= 16, f"short_side is {short_side}; give at least 16 pixels")
    need(
        fps is None or 0.01 <= fps <= 1000,
        f"fps is {fps}; give 0.01 to 1000 frames a second, or None to keep the source's",
    )
    need(seconds is None or 0.01 <= seconds < math.inf, f"seconds is {seconds}; give at least 0.01, or None for all")
    need(src.resolve() != out.resolve(), f"{src} cannot be prepared into itself; name another folder for the result")
    targets, lists, left_out = _plan(src, out)
    settings = " ".join(f"{n:g}" if n else "all" for n in (short_side, fps, seconds))
    out.mkdir(parents=True, exist_ok=True)
    failed = []
    with alone_in(out, share), _open_record(out / of_share("prepared.csv", share)) as record:
        of_shares = shares_of(out / "prepared.csv")
        records = [_read_record(file)[0] for file in (out / "prepared.csv", *of_shares)]
        rows = {path: row for one in records for path, row in one.items()}
        mine = {path: k for k, path in enumerate(targets) if share is None or k % share[1] == share[0] - 1}
        # A part (an unfinished file) is named after this process, because a helper of a killed run may still write.
        jobs = [
            dict(
                do="encode",
                path=path,
                source=str(src / source),
                start=start,
                end=end,
                short_side=short_side,
                fps=fps,
                seconds=seconds,
                part=str((out / path).with_name(f".{number}.{os.getpid()}.part")),
            )
            for path, number in mine.items()
            for source, start, end in [targets[path]]
            if not _is_done(rows.get(path), src / source, out / path, settings)
        ]
        if share is None:
            _copy_lists(src, out, lists)
        with (
            _no_parts_left([Path(job["part"]) for job in jobs], all_of_them=share is None),
            closing(_work(jobs, timeout, workers, progress)) as answers,
        ):
            for job, answer, fault in answers:
                part = Path(job["part"])
                answer = answer or dict(error=f"Clip {job['source']} {fault}; fetch or encode it again.")
                if answer["error"]:
                    part.unlink(missing_ok=True)
                    need(not answer.get("stop"), answer["error"])
                    failed.append((job["source"], answer["error"]))
                    continue
                size = part.stat().st_size
                os.replace(part, out / job["path"])
                rows[job["path"]] = row = dict(
                    path=job["path"],
                    source=targets[job["path"]][0],
                    size=answer["size"],
                    mtime_ns=answer["mtime_ns"],
                    settings=settings,
                    frames=answer["frames"],
                    seconds=f"{answer['seconds']:.3f}",
                    bytes=size,
                )
                csv.writer(record, lineterminator="\n").writerow(row.values())
                record.flush()
        write_csv(out / of_share("quarantine.csv", share), ("path", "reason"), sorted(failed))
        if share is None:
            write_csv(out / "left_out.csv", ("path",), ([(src / path).as_posix()] for path in left_out))
            record.close()  # Windows cannot replace a file that is open
            if of_shares:
                write_csv(out / "prepared.csv", RECORD, ([row[key] for key in RECORD] for row in rows.values()))
            for name in ("prepared.csv", "quarantine.csv"):
                remove_shares(out / name)
    encoded = len(jobs) - len(failed)
    return dict(
        out=str(out),
        encoded=encoded,
        done_before=len(mine) - len(jobs),
        failed=len(failed),
        left_out=len(left_out),
        clips=len(mine),
        bytes=sum(int(rows[path]["bytes"]) for path in mine if path in rows),
        seconds=round(time.monotonic() - began, 1),
    )


def _plan(src: Path, out: Path) -> tuple[dict[str, tuple], dict[str, list | None], list[str]]:
    """(targets, lists, other files below `src`).

    targets: {path below `out`: (path below `src`, start, end)}.
    lists: {list below `src`: its new lines, or None to copy it}.
    """
    need(src.is_dir(), f"there is no folder {src}; name a folder of videos")
    videos, other = clips_below(src, SOURCES, leave_out=out)
    need(
        videos,
        f"{src} has no videos (names that end in {', '.join(SOURCES)}) and no folders of frames; name a folder of "
        f"videos",
    )
    lists, parts, whole = {}, [], set()
    for path in sorted({path for pattern in LISTS for path in (*src.glob(pattern), *src.glob(f"*/{pattern}"))}):
        if path.is_file() and out.resolve() not in path.resolve().parents:
            official = any(path.match(pattern) for pattern in OFFICIAL)
            rows, lines = ([], None) if official else _manifest(src, path)
            if not official and lines is None:
                continue
            lists[path.relative_to(src).as_posix()] = lines
            parts += [row for row in rows if row[1:] != (None, None)]
            whole |= {row[0] for row in rows if row[1:] == (None, None)}
    in_parts = {source for source, _, _ in parts} - whole
    targets, spare = {}, [path for path in other if path not in lists]
    for row in [(source, None, None) for source in videos if source not in in_parts] + parts:
        path = _name(*row)
        other = targets.setdefault(path, row)[0]
        need(other == row[0], f"{src / other} and {src / row[0]} would both become {out / path}; rename one")
    return targets, lists, spare


def _manifest(src: Path, path: Path) -> tuple[list[tuple], list | None]:
    """([(path below src, start, end), ...], the lines for the prepared folder); ([], None) if it is not a manifest."""
    from vt_course.data.clips import is_list, read_manifest  # here: it imports torch
    from vt_course.data.folders import Finder, is_manifest, readable

    with readable(path.parent):
        if not is_manifest(path):
            return [], None
        bare = is_list(path)  # stays a list: its numbers are class indices
        header = [] if bare else csv_header(path, "save it as CSV with commas.")
        also = [name for name in header if name not in ("path", "label", "start", "end")]
    find, rows, lines = Finder(""), [], [] if bare else [["path", "label", "start", "end", *also]]
    for row in read_manifest(path, also=also):
        source, times = Path(os.path.relpath(find(row["path"]), src)).as_posix(), (row["start"], row["end"])
        if source.split("/")[0] == os.pardir:  # outside `src`: the line keeps file and times
            place = os.path.abspath(row["path"]), row["label"], *times
        else:
            rows.append((source, *times))
            place = os.path.relpath(src / _name(source, *times), path.parent), row["label"], None, None
        lines.append([Path(place[0]).as_posix(), *place[1 : 2 if bare else None], *(row[name] for name in also)])
    return rows, lines


def _name(source: str, start: float | None, end: float | None) -> str:
    """The path of the result: a/b.mp4 for a/b.avi, or a/b_000010_000012.5.mp4 for its part from 10 to 12.5 seconds."""
    stem, ending = os.path.splitext(source)
    stem = stem if ending.lower() in SOURCES else source  # else a folder of frames, which has no ending
    if (start, end) == (None, None):
        return f"{stem}.mp4"
    first, last = (
        f"{time:010.3f}".rstrip("0").rstrip(".") if time is not None else other
        for time, other in ((start, "000000"), (end, "end"))
    )
    return f"{stem}_{first}_{last}.mp4"


@contextmanager
def _no_parts_left(parts: list[Path], all_of_them: bool):
    """Make the folders of `parts`. At the end, also after an error, remove all parts there, also of killed runs.

    all_of_them=False: only those with the numbers of `parts`, because another share may be writing the others.
    """
    folders, numbers = {part.parent for part in parts}, {part.name.split(".")[1] for part in parts}
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for part in (part for folder in folders for part in folder.glob(".*.*.part")):
            if all_of_them or part.name.split(".")[1] in numbers:
                part.unlink(missing_ok=True)


def _is_done(row: dict | None, source: Path, target: Path, settings: str) -> bool:
    if row is None:
        return False
    try:
        now, there = source.stat(), target.stat()
        told = row["size"], row["mtime_ns"], row["settings"], row["bytes"]
        same = told == (str(now.st_size), str(now.st_mtime_ns), settings, str(there.st_size))
        return same and not container_fault(target)  # it may have been overwritten by as many bytes
    except OSError:
        return False


def _copy_lists(src: Path, out: Path, lists: dict[str, list | None]) -> None:
    for name, lines in lists.items():
        (out / name).parent.mkdir(exist_ok=True)
        if lines:
            write_csv(out / name, lines[0], lines[1:])
        else:
            with replacing(out / name) as part:
                shutil.copyfile(src / name, part)


def _open_record(path: Path):
    """Open prepared.csv, to add lines. One that is damaged, or cut by a kill, is first written anew."""
    rows, fault = _read_record(path)
    if fault:
        write_csv(path, RECORD, ([row[key] for key in RECORD] for row in rows.values()))
    return open_own(path, "a", newline="", encoding="utf-8", errors="surrogateescape")


def _read_record(path: Path) -> tuple[dict[str, dict], str | None]:
    """(the last row of prepared.csv for each path, what is wrong with the file: None, "cut" or "damaged").

    What is damaged, or was cut by a kill, counts as missing, so that its clips are encoded again.
    """
    text = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    try:
        lines = [row for _, row in read_csv(path, "", errors="surrogateescape")] if text else []
        fault = None if text.startswith(",".join(RECORD).encode()) or not text else "damaged"
    except Unreadable:
        lines, fault = [], "damaged"
    end = "cut" if not text.endswith(b"\n") else None
    if fault or not all(map(_is_row, lines[: -1 if end else None])):
        lines, fault = [dict(zip(RECORD, row)) for row in csv_lines(text)], "damaged"
    return {row["path"]: row for row in lines if _is_row(row)}, fault or end


def _is_row(row: dict) -> bool:
    numbers = [row.get(key) or "" for key in ("size", "mtime_ns", "frames", "bytes")]
    return all(row.get(key) for key in RECORD) and all(re.fullmatch(r"-?\d{1,20}", number) for number in numbers)


# ------------------------------------------------------------------------- one file, in a process of its own


class DamagedVideo(CourseError):
    """A video with frames that cannot be decoded."""


def encode(job: dict) -> dict:
    """Write job["part"]; dict(error, frames, seconds, size, mtime_ns). stop=True: other files would fail, too."""
    source, part = job["source"], job["part"]
    how = {key: job[key] for key in ("source", "part", "short_side", "fps", "seconds", "start", "end")}
    try:
        if not (folder := os.path.isdir(source)):
            with open(regular(source), "rb"):
                pass
        stat = os.stat(source)
        if not folder and (fault := container_fault(Path(source))) and "truncated" in fault:
            return dict(error=f"Clip {source} {fault}.")
    except OSError as error:
        return dict(error=f"Clip {source} cannot be read ({error.strerror}); check the path and its permissions.")
    leap = (job["start"] or 0) > 1
    try:
        try:
            written = _transcode(**how, leap=leap)
        except DamagedVideo:
            if not leap:
                raise
            written = _transcode(**how, leap=False)  # decoding may have to begin at the start
    except CourseError as error:
        return dict(error=str(error))
    except (OSError, av.FFmpegError) as error:  # not every error of PyAV is an OSError
        if error.errno in NO_ROOM or not isinstance(error, av.FFmpegError):
            return dict(
                stop=True,
                error=f"{part} cannot be written ({error.strerror}); free space and run the same command again.",
            )
        return dict(
            error=f"Clip {source} is damaged or of a kind that cannot be decoded ({error.strerror}); fetch it again."
        )
    row = decode_all(part)
    if row["error"] or row["frames"] != written:
        return dict(error=f"Clip {source} came out damaged ({row['error'] or 'frames are missing'}); look at it.")
    return dict(error=None, frames=row["frames"], seconds=row["seconds"], size=stat.st_size, mtime_ns=stat.st_mtime_ns)


def _transcode(
    source: str,
    part: str,
    short_side: int,
    fps: float | None,
    seconds: float | None,
    start: float | None,
    end: float | None,
    leap: bool,
) -> int:
    """Write the new video; return the number of frames written. For `leap` see `_decoded`."""
    with ExitStack() as stack:
        if os.path.isdir(source):
            old, moments = None, ((frame.time, frame) for frame in ClipReader(source).every_frame())
            usual, square = Fraction(25), 1
        else:
            old = stack.enter_context(open_file(source, pixels=None))  # to make large ones small
            stream = next(iter(old.streams.video), None)
            if stream is None or stream.codec_context is None:
                raise CourseError(f"Clip {source} has no video stream that can be decoded; replace it.")
            usual, square = stream.average_rate or Fraction(25), stream.sample_aspect_ratio
            length = (old.duration or 0) / av.time_base if end is None else end  # seconds to decode
            length = min(length, math.inf if seconds is None else (start or 0) + seconds) - (start or 0) * leap
            more_time(work(int(length * usual), stream.height, stream.width))
            moments = _decoded(source, old, stream, -math.inf if start is None else start, leap)
        open_own(Path(part), "wb").close()  # what somebody put in its place is removed
        new = stack.enter_context(av.open(f"file:{part}", "w", format="mp4", options={"movflags": "faststart"}))
        rate = Fraction(fps).limit_denominator(1001) if fps else usual
        frames = _shown(source, moments, -math.inf if start is None else start, end, seconds)
        if fps:
            frames = _at_rate(frames, fps)
        encoder, written, last = None, 0, -1
        for moment, frame in frames:
            if encoder is None:
                encoder = new.add_stream("libx264", rate=rate, options={"crf": "23", "g": "16", "threads": "1"})
                encoder.codec_context.time_base, encoder.pix_fmt = Fraction(1, 90000), "yuv420p"
            picture = _upright(progressive(frame), short_side, square)
            if written == 0:
                encoder.width, encoder.height = size = picture.width, picture.height
                if picture.colorspace:  # 0 is RGB
                    encoder.codec_context.colorspace = picture.colorspace
            elif (picture.width, picture.height) != size:
                picture = picture.reformat(*size)  # in some streams the size changes
            pts = round(moment * 90000)
            if pts > last:  # else the frame would be shown for no time
                picture.pts, picture.time_base, picture.pict_type = pts, Fraction(1, 90000), 0
                new.mux(encoder.encode(picture))
                written, last = written + 1, pts
        new.mux(encoder.encode(None))
    return written


def _decoded(source: str, container, stream, start: float, leap: bool) -> Iterator:
    """(time in seconds, frame) for all frames from `start` on, and for some before. Raises `DamagedVideo` for damage.

    leap=False: decode from the beginning. leap=True: seek, and decode from a key frame a second or more before `start`.
    """
    stream.codec_context.options = {"err_detect": "explode"}
    stream.thread_type = "NONE"
    origin = (container.start_time or 0) / av.time_base if "mpeg" in container.format.name else 0  # a broadcast's clock
    count, time, stamps = 0, 0.0, deque()
    try:
        if leap:
            container.seek(int((origin + start - 1) / stream.time_base), stream=stream)
        for packet in container.demux(stream):
            if packet.size:
                stamps.append(packet.dts)
            for frame in packet.decode():
                if stamps and container.format.name == "avi":  # has none; guessed ones are wrong for H.264
                    frame.pts = stamps.popleft()
                if frame.time is not None:
                    time = frame.time - origin
                if leap and count == 0 and time >= start:
                    raise DamagedVideo(f"Clip {source} has no key frame before {start:g} s; encode it again.")
                if frame.is_corrupt and time >= start - 1e-3:
                    raise DamagedVideo(f"Clip {source} is damaged after frame {count}; fetch it again.")
                yield time, frame
                count += 1
    except av.FFmpegError as error:
        raise DamagedVideo(
            f"Clip {source} is damaged after frame {count} ({error.strerror}); fetch it again."
        ) from error
    if leap and not count:
        raise DamagedVideo(f"Clip {source} shows no frame; fetch it again.")


def _shown(source: str, frames, start: float, end: float | None, seconds: float | None) -> Iterator:
    """(time, frame) for the frames from `start` on, before `end`, and within `seconds` after the first of them.

    Times count in seconds from that first frame. Raises `CourseError` if there is none.
    """
    stop, time, first = math.inf if end is None else end, None, None
    for time, frame in frames:
        if time < start - 1e-3:
            continue
        if first is None and seconds is not None:
            stop = min(stop, time + seconds)
        if time >= stop - 1e-3:
            break
        first = time if first is None else first
        if stop < math.inf:
            frame.duration = min(frame.duration, int((stop - time) / frame.time_base))
        yield time - first, frame
    if first is None:
        need(time is not None, f"Clip {source} shows no frame; fetch it again")
        raise CourseError(
            f"Clip {source} shows no frame from {max(start, 0):g} to {'its end' if end is None else f'{end:g}'} s "
            f"(it was read up to {time:.2f} s); correct start and end in the manifest."
        )


def _at_rate(frames, fps: float) -> Iterator:
    """(time, the frame that is shown at this time) for times 0, 1 / fps, 2 / fps, ... to the end of the last frame."""
    shown, begin, k = None, 0.0, 0
    for moment, frame in frames:
        while shown is not None and k / fps < moment - 1e-6:
            yield k / fps, shown
            k += 1
        shown, begin = frame, moment
    end = begin + float(shown.duration * shown.time_base) if shown is not None and shown.duration else begin + 1e-3
    while shown is not None and (k == 0 or k / fps < end - 1e-6):
        yield k / fps, shown
        k += 1


def _upright(frame, short_side: int, aspect=1):
    """A picture of even size, turned as its rotation tag says, its short side at most `short_side`.

    `aspect`: width / height of a pixel of `frame`. The pixels of the picture are square.
    """
    height, width = frame.height, shown_width(frame.width, aspect)
    if min(height, width) > short_side:
        height, width = scaled_size(height, width, short_side)
    height, width = (max(n - n % 2, 2) for n in (height, width))
    turns = round(frame.rotation / 90) % 4
    if not turns:
        return frame.reformat(width, height, "yuv420p", dst_color_range="MPEG")
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height)  # (H, W, C)
    turned = np.ascontiguousarray(np.rot90(pixels, turns))
    return av.VideoFrame.from_ndarray(turned, format="rgb24").reformat(format="yuv420p", dst_color_range="MPEG")


def probe(path: str) -> dict:
    """dict(seconds, width, height, error) from a file's headers. Only a folder's first picture is decoded."""
    try:
        if os.path.isdir(path):
            reader = ClipReader(path)
            return dict(seconds=reader.seconds, width=reader.width, height=reader.height, error=None)
        with open_file(path) as container:
            stream = container.streams.video[0]
            length = stream.duration * stream.time_base if stream.duration else (container.duration or 0) / av.time_base
            return dict(
                seconds=round(float(length), 3),
                width=shown_width(stream.width, stream.sample_aspect_ratio),
                height=stream.height,
                error=None,
            )
    except BadClip as error:
        return dict(seconds=None, width=None, height=None, error=str(error))
    except Exception as error:  # a damaged file can raise any kind of error
        return dict(
            seconds=None, width=None, height=None, error=f"Clip {path} cannot be opened ({error}); fetch it again."
        )


def _answer(job: dict) -> dict:
    return encode(job) if job["do"] == "encode" else dict(rows=[probe(path) for path in job["paths"]])


def _work(
    jobs: list[dict], timeout: float, workers: int | None, progress: bool
) -> Iterator[tuple[dict, dict | None, str]]:
    """(job, answer, fault) in the order in which the answers come; see `in_processes`."""
    with closing(in_processes("vt_course.data.prepare", jobs, timeout, workers or cores())) as answers:
        for number, answer, fault in tqdm(answers, total=len(jobs), unit="clip", disable=not progress, leave=False):
            yield jobs[number], answer, fault


# ------------------------------------------------------------------------- verify


def verify_folder(
    folder,
    *,
    report=None,
    timeout: float = 60.0,
    workers: int | None = None,
    progress: bool = False,
    decoder: str = "pyav",
) -> list[dict]:
    """Decode every clip below `folder`; dict(path, status, frames, seconds, reason) for each.

    status is one of:
    "ok"; "corrupt"; "short": shorter than promised, or a single frame; "missing": promised, but not there;
    "timeout": not decoded within `timeout` seconds (long files get more, see `verify.work`), so it may be healthy.
    Another `decoder` than PyAV decodes each clip as well; one that it shows otherwise is "corrupt", too.

    What is promised stands in prepared.csv (see `prepare`), in a list that `folders` reads (the end time in a
    manifest, or a column frames), or in a name as in Kinetics (ID_000024_000034.mp4 promises 10 s). A clip up to
    half a second shorter than promised still counts as ok.
    The rows are written to `report`, by default report.csv in the folder. Raises `CourseError` for a folder that
    cannot be read.
    """
    folder = Path(folder)
    need(folder.is_dir(), f"there is no folder {folder}; name a folder of videos")
    promised = _promises(folder, videos_below(folder, SUFFIXES))
    paths = sorted(promised)
    there = [path for path in paths if os.path.exists(folder / path)]
    checked = verify([folder / path for path in there], timeout, workers or cores(), decoder)
    checked = dict(zip(there, tqdm(checked, total=len(there), unit="clip", disable=not progress, leave=False)))
    rows = [_judge(path, checked.get(path), *promised[path]) for path in paths]
    need(rows, f"{folder} has no videos and no list of any; name a folder of videos")
    write_csv(Path(report or folder / "report.csv"), tuple(rows[0]), [row.values() for row in rows])
    return rows


def _judge(path: str, row: dict | None, frames: int | None, seconds: float | None) -> dict:
    if row is None:
        return dict(
            path=path, status="missing", frames=None, seconds=None, reason="there is no such file, or only a link to it"
        )
    length = None if row["seconds"] is None else round(row["seconds"], 3)
    status, reason = "ok", ""
    if row["error"]:
        status, reason = "timeout" if row.get("late") else "corrupt", row["error"]
    elif frames and row["frames"] < frames:
        status, reason = "short", f"{row['frames']} frames of {frames}"
    elif seconds and length < seconds - 0.5:
        status, reason = "short", f"{length:.1f} s of {seconds:.1f}"
    elif row["frames"] == 1:
        status, reason = "short", "a single frame"
    return dict(path=path, status=status, frames=row["frames"], seconds=length, reason=reason)


def _promises(folder: Path, found: list[str]) -> dict[str, tuple[int | None, float | None]]:
    """{path below the folder: promised (frames, seconds)} of every clip found or listed; None: not promised."""
    from vt_course.data.folders import listed

    promised = {path: (None, _named_seconds(path)) for path in found}
    for row in listed(folder)[1]:
        path = Path(os.path.relpath(row["path"], folder)).as_posix()
        frames = int(row["frames"]) if re.fullmatch(r"\d{1,18}", str(row.get("frames", ""))) else None
        before = promised.get(path, (None, None))
        promised[path] = frames or before[0], max(row["end"] or 0, before[1] or 0) or _named_seconds(path)
    record = folder / "prepared.csv"
    if record.is_file():
        rows, fault = _read_record(record)
        need(fault != "damaged", f"{record} is damaged; run the `vt-course data prepare` that wrote it again")
        for path, row in rows.items():
            promised[path] = int(row["frames"]), None
    return promised


def _named_seconds(path: str) -> float | None:
    match = re.search(r"_(\d{6})_(\d{6})\.\w+$", path)
    return float(int(match[2]) - int(match[1])) if match else None


# ------------------------------------------------------------------------- statistics


def probe_folder(
    folder, *, workers: int | None = None, progress: bool = False, notes: list | None = None
) -> list[dict]:
    """dict(path, label, split, seconds, width, height, bytes, error) of each clip that `folders` finds.

    Its notes are added to `notes`.
    """
    from vt_course.data.folders import read_folder

    found = read_folder(folder)
    if notes is not None:
        notes += found.notes
    rows = [
        dict(path=row["path"], label=row["label"], split=split)
        for split in ("train", "val")
        for row in getattr(found, split)
    ]
    paths = list(dict.fromkeys(row["path"] for row in rows))
    known, jobs = {}, [dict(do="probe", paths=paths[k : k + 32]) for k in range(0, len(paths), 32)]
    while jobs:
        alone = []  # when 32 files fail together, each is tried alone
        for job, answer, fault in _work(jobs, PROBE_SECONDS, workers, progress):
            if not answer and len(job["paths"]) > 1:
                alone += [dict(do="probe", paths=[path]) for path in job["paths"]]
                continue
            known.update(
                zip(
                    job["paths"],
                    answer["rows"]
                    if answer
                    else [
                        dict(
                            seconds=None,
                            width=None,
                            height=None,
                            error=f"Clip {job['paths'][0]} {fault}; fetch or encode it again.",
                        )
                    ],
                )
            )
        jobs = alone
    return [{**row, **known[row["path"]], "bytes": size_of(row["path"])} for row in rows]


def stats(clips: list[dict]) -> list[dict]:
    """One row for each class, from the rows of `probe_folder`: clips of each split, lengths, sizes, bytes."""
    classes, rows = {}, []
    for clip in clips:
        classes.setdefault(clip["label"], []).append(clip)
    for label, members in classes.items():
        lengths = [clip["seconds"] for clip in members if not clip["error"]]
        sizes = Counter(f"{clip['width']}x{clip['height']}" for clip in members if not clip["error"])
        rows.append(
            dict(
                label=label,
                train=sum(clip["split"] == "train" for clip in members),
                val=sum(clip["split"] == "val" for clip in members),
                unreadable=len(members) - len(lengths),
                shortest=min(lengths, default=None),
                median=median(lengths) if lengths else None,
                longest=max(lengths, default=None),
                minutes=sum(lengths) / 60,
                sizes=len(sizes),
                usual_size=sizes.most_common(1)[0][0] if sizes else None,
                mb=sum(clip["bytes"] for clip in members) / 1e6,
            )
        )
    return rows


def advice(clips: list[dict]) -> list[str]:
    """[a sentence on what `prepare` would save], from rows of `probe`; [] if it would save little, or if unknown."""
    shown = [(clip["width"], clip["height"]) for clip in clips if not clip["error"]]
    if not shown or (side := median(min(size) for size in shown)) < WORTH_IT:
        return []
    width, height = Counter(shown).most_common(1)[0][0]
    return [
        f"Most clips are large ({width}x{height}): `vt-course data prepare FOLDER --out SMALL --short-side 256 "
        f"--seconds all` makes copies of {(side / 256) ** 2:.0f} times fewer pixels, which are read so much faster."
    ]


def advice_on(rows) -> list[str]:
    """`advice` on the rows of a manifest, from the headers of five of its files."""
    files = [
        row["path"] for row in rows[:: -(-len(rows) // 5) or 1] if "offset" not in row and os.path.isfile(row["path"])
    ]
    return advice([probe(path) for path in files])


# ------------------------------------------------------------------------- small things


def videos_below(folder: Path, suffixes: tuple[str, ...], leave_out: Path | None = None) -> list[str]:
    """The first result of `reader.clips_below`: the clips."""
    return clips_below(folder, suffixes, leave_out)[0]


def size_of(path: str | os.PathLike) -> int:
    """Bytes of a file, or of the pictures in a folder; 0 if it is not there."""
    try:
        if os.path.isdir(path):
            with os.scandir(path) as entries:
                return sum(entry.stat().st_size for entry in entries if entry.is_file())
        return os.stat(path).st_size
    except OSError:
        return 0


if __name__ == "__main__":
    serve(_answer)
