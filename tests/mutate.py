"""Small videos of many kinds, and damage to them at random, by seed.

`python tests/mutate.py FIRST LAST` reads the mutants of these seeds, each in a process of its own with a time limit,
and prints those that do not end in frames or in one sentence within 5 s, or that take more than 200 MB. It needs fork.
"""

import json
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import av

from vt_course.data.reader import BadClip, ClipReader

from videos import write_video

KINDS = {
    "front.mp4": dict(gop=8, faststart=True),
    "b frames.mp4": dict(gop=4, bframes=2),
    "mpeg4.mov": dict(gop=8, codec="mpeg4"),
    "h264.mkv": dict(gop=4, bframes=2),
    "vp8.webm": dict(codec="libvpx"),
    "vp9.webm": dict(codec="libvpx-vp9"),
    "mpeg4.avi": dict(codec="mpeg4", bframes=2),
    "h264.avi": dict(codec="libx264"),
    "mjpeg.avi": dict(codec="mjpeg", pixels="yuvj420p"),
}
NUMBERS = (0, 1, 7, 8, 9, 16, 127, 128, 255, 1 << 15, (1 << 16) - 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 24)
MARKS = re.compile(  # before a box's name, after the id of an element or the name of a chunk stands its size
    rb"ftyp|moov|mvhd|trak|tkhd|mdia|mdhd|hdlr|minf|stbl|stsd|stts|stsz|stco|stsc|stss|ctts|avcC|edts|elst|mdat|moof|"
    rb"traf|trun|tfhd|mvex|trex|LIST|strh|strf|avih|movi|idx1|00dc|\x1a\x45\xdf\xa3|\x18\x53\x80\x67|\x16\x54\xae\x6b|"
    rb"\x1f\x43\xb6\x75|\x1c\x53\xbb\x6b|\x15\x49\xa9\x66|\x11\x4d\x9b\x74"
)


def healthy(folder: Path) -> dict[str, bytes]:
    """name -> bytes of a video of 16 frames of 64x64 pixels of each kind; the last one is an MP4 in fragments."""
    paths = [write_video(folder / name, frames=16, size=(64, 64), **how) for name, how in KINDS.items()]
    paths.append(in_fragments(paths[0], folder / "fragments.mp4"))
    return {path.name: path.read_bytes() for path in paths}


def in_fragments(source: Path, path: Path) -> Path:
    options = {"movflags": "frag_keyframe+empty_moov"}
    with av.open(str(source)) as old, av.open(str(path), "w", options=options) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                new.mux(packet)
    return path


def mutate(videos: dict[str, bytes], seed: int) -> tuple[str, bytes]:
    """(name, bytes) of one of `videos` with one to eight faults of one kind, most of them in its headers."""
    rng = random.Random(seed)
    name = rng.choice(sorted(videos))
    data, fault = bytearray(videos[name]), rng.randrange(8)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not data:
            break
        at, index = rng.randrange(len(data)), data.find(b"moov")
        if rng.random() < 0.75:  # in a header
            at = (
                rng.randrange(index, min(index + 1200, len(data))) if index >= 0 else rng.randrange(min(len(data), 700))
            )
        if fault == 0:  # a bit
            data[at] ^= 1 << rng.randrange(8)
        elif fault == 1:  # a number
            size = rng.choice((1, 2, 4, 4, 8))
            number = rng.choice(NUMBERS) & ((1 << 8 * size) - 1)
            data[at : at + size] = number.to_bytes(size, rng.choice(("big", "little")))
        elif fault == 2:  # cut
            del data[at:]
        elif fault == 3:  # zeros up to the end
            data[at:] = bytes(len(data) - at)
        elif fault == 4:  # a piece is missing
            del data[at : at + rng.choice((1, 2, 4, 8, 16, 100, 1000))]
        elif fault == 5:  # a piece is there several times
            data[at:at] = data[at : at + rng.choice((4, 8, 16, 100, 1000))] * rng.choice((1, 2, 50))
        elif marks := [found.start() for found in MARKS.finditer(data)]:  # a size, or a number after it
            at = rng.choice(marks) + (4 if fault == 6 else rng.choice((8, 12, 16)))
            at -= 8 * (fault == 6 and name.endswith(("mp4", "mov")))
            data[max(at, 0) : max(at, 0) + 4] = rng.choice(NUMBERS).to_bytes(4, "little" if "avi" in name else "big")
    return name, bytes(data)


def read(path) -> str:
    """Open a file and read three frames of it, as a data set does. Returns "" or the sentence that says why not."""
    try:
        reader = ClipReader(path)
        reader.read([0, reader.num_frames // 2, reader.num_frames - 1])
        reader.frame_range(0, reader.seconds)
        reader.close()
    except BadClip as error:
        return str(error)
    return ""


def peak_mb() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024


def main(first: int, last: int, folder: Path) -> None:
    videos, ends = healthy(folder), Counter()
    for seed in range(first, last):
        name, data = mutate(videos, seed)
        path = folder / f"{seed}{Path(name).suffix}"
        path.write_bytes(data)
        out, into = os.pipe()
        began = time.monotonic()
        if (child := os.fork()) == 0:
            signal.alarm(30)
            before = peak_mb()
            try:
                said = read(path)
                said = "odd: " + said if "\n" in said or said and not said.endswith(".") else said and "refused"
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            os.write(into, json.dumps([said[:200], peak_mb() - before]).encode())
            os._exit(0)
        os.close(into)
        with open(out, "rb") as pipe:
            answer = pipe.read()
        _, status, used = os.wait4(child, 0)
        seconds = used.ru_utime + used.ru_stime if time.monotonic() - began < 25 else 25  # the machine may be busy
        said, grown = json.loads(answer) if answer else (f"signal {os.WTERMSIG(status)}", 0)
        ends[said if said in ("", "refused") else "odd"] += 1
        if said not in ("", "refused") or seconds > 5 or grown > 200:
            print(seed, name, f"{seconds:.1f} s", f"{grown} MB", said, flush=True)
        else:
            path.unlink()
    print(f"{ends['']} read, {ends['refused']} refused, {ends['odd']} odd; those above lie in {folder}")


if __name__ == "__main__":
    import tempfile

    av.logging.set_level(av.logging.PANIC)
    main(int(sys.argv[1]), int(sys.argv[2]), Path(tempfile.mkdtemp()))
