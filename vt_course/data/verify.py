"""Decode whole files in a process of their own, with a time limit: the thorough check of clips.

Reading (`clips.ClipReader`) guards against what headers and single frames betray. Only a full
decode finds a picture that was damaged in the middle (codecs conceal it) or a container that
counts frames it does not have. On some of these decord spins for ever without letting Python
in; a second process can be killed.
"""
import json
import select
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import av

from vt_course.data.clips import BadClip, ClipReader


def verify(paths: Iterable[str | Path], timeout: float = 60.0) -> Iterator[dict]:
    """dict(path, frames, error) for each file, in order; error is None or one sentence.

    One worker process serves file after file; it is replaced when a file takes longer than
    `timeout` seconds or crashes it.
    """
    worker = None
    try:
        for path in paths:
            worker = worker or _start()
            print(json.dumps(str(path)), file=worker.stdin, flush=True)
            in_time = select.select([worker.stdout], [], [], timeout)[0]
            answer = worker.stdout.readline() if in_time else ""
            if answer:
                yield json.loads(answer)
                continue
            _stop(worker)
            worker = None
            fault = "crashes the decoder" if in_time else f"is not decoded within {timeout:g} s"
            yield dict(path=str(path), frames=None,
                       error=f"Clip {path} {fault}; fetch or encode it again.")
    finally:
        if worker:
            _stop(worker)


def _start() -> subprocess.Popen:
    worker = subprocess.Popen([sys.executable, "-m", "vt_course.data.verify"], text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL)
    worker.stdout.readline()                         # "ready": imports do not count as decoding
    return worker


def _stop(worker: subprocess.Popen) -> None:
    worker.kill()
    worker.communicate()


def check(path: str) -> dict:
    """Decode one file here and now: all of it with PyAV (strict), its end with decord too."""
    frames, error = None, None
    try:
        reader = ClipReader(path)
        frames, damaged = _count(path)
        if damaged:
            error = f"Clip {path} is damaged after frame {frames}; fetch or render it again."
        elif frames != reader.num_frames:
            error = (f"Clip {path} claims {reader.num_frames} frames but shows {frames}; "
                     "encode it again.")
        else:
            reader.read([frames - 1])
    except BadClip as bad:
        error = str(bad)
    return dict(path=path, frames=frames, error=error)


def _count(path: str) -> tuple[int, bool]:
    """(frames decoded, whether decoding met damage)."""
    count = 0
    try:
        with av.open(path) as container:
            for frame in container.decode(video=0):
                if frame.is_corrupt:
                    return count, True
                count += 1
    except av.FFmpegError:
        return count, True
    return count, False


if __name__ == "__main__":
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(check(json.loads(line))), flush=True)
