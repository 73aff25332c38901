"""Decode whole files in a process of their own, with a time limit: the thorough check of clips.

Reading (`reader.ClipReader`) guards against what headers and single frames betray. Only a full
decode finds a picture that was damaged in the middle (codecs conceal it) or a container that
counts frames it does not have. On some of these decord spins for ever without letting Python
in; a second process can be killed.
"""
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import av

from vt_course.data.reader import BadClip, ClipReader


def verify(paths: Iterable[str | Path], timeout: float = 60.0) -> Iterator[dict]:
    """dict(path, frames, error) for each file, in order; error is None or one sentence.

    A helper process, started once, forks for each file: it has no threads and has used no
    decoder, so forking it is safe, which cannot be said of the caller. A file that takes longer
    than `timeout` seconds or crashes its process is reported as that.
    """
    command = [sys.executable, "-m", "vt_course.data.verify", str(timeout)]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as helper:
        for path in paths:
            print(json.dumps(str(path)), file=helper.stdin, flush=True)
            yield json.loads(helper.stdout.readline())


def check_apart(path: str, timeout: float) -> dict:
    """`check(path)` in a fork of this process, killed after `timeout` seconds."""
    answer, child_answer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(child_answer, json.dumps(check(path)).encode())
        os._exit(0)
    os.close(child_answer)
    in_time = select.select([answer], [], [], timeout)[0]
    found = os.read(answer, 1 << 16) if in_time else b""
    os.close(answer)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if found:
        return json.loads(found)
    fault = "crashes the decoder" if in_time else f"is not decoded within {timeout:g} s"
    return dict(path=path, frames=None, error=f"Clip {path} {fault}; fetch or encode it again.")


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
    """(frames decoded, whether decoding met damage). H.264 shows nearly all, VP8 hardly any."""
    count = 0
    try:
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.codec_context.options = {"err_detect": "explode"}    # conceal nothing;
            stream.thread_type = "NONE"                                 # threads would, still
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    return count, True
                count += 1
    except av.FFmpegError:
        return count, True
    return count, False


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(check_apart(json.loads(line), float(sys.argv[1]))), flush=True)
