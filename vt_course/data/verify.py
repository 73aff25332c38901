"""Decode whole files in a process of their own, with a time limit: the thorough check of clips.

Reading (`reader.ClipReader`) guards against what headers and single frames betray. Only a full
decode finds a picture that was damaged in the middle (codecs conceal it) or a container that
counts frames it does not have. A decoder may crash on such a file or never come back; a second
process can be killed.
"""
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import av

from vt_course import CourseError
from vt_course.data.reader import BadClip, ClipReader


def verify(paths: Iterable[str | Path], timeout: float = 60.0, workers: int = 1) -> Iterator[dict]:
    """dict(path, frames, seconds, error) for each file, in order; error is None or one sentence.

    A file that takes longer than `timeout` seconds or crashes its process is reported as that.
    """
    early, wanted = {}, 0
    with closing(in_processes("vt_course.data.verify", map(str, paths), timeout, workers)) as answers:
        for number, row in answers:
            early[number] = row
            while wanted in early:
                yield early.pop(wanted)
                wanted += 1


def in_processes(module: str, jobs: Iterable, timeout: float, workers: int) -> Iterator[tuple[int, dict]]:
    """(number of the job, what `serve` in `python -m module` answered), as the answers come.

    A job is anything that JSON can hold. Each of the `workers` helper processes is started once
    and forks for each job: it has no threads and has used no decoder, so forking it is safe,
    which cannot be said of the caller. A helper ends with the caller, whatever ends that.
    """
    jobs, answers = list(jobs), queue.SimpleQueue()
    todo = iter(enumerate(jobs))                     # shared by the threads

    def ask(helper):
        try:
            for number, job in todo:
                print(json.dumps(job), file=helper.stdin, flush=True)
                answers.put((number, json.loads(helper.stdout.readline())))
        except (OSError, ValueError):                # the helper is gone
            with suppress(OSError):                  # closing flushes what it did not take
                helper.stdin.close()
            answers.put((number, None))

    with ExitStack() as stack:
        for _ in range(min(workers, len(jobs))):
            helper = stack.enter_context(subprocess.Popen(
                [sys.executable, "-m", module, str(timeout)], text=True, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
            thread = threading.Thread(target=ask, args=(helper,), daemon=True)
            stack.callback(thread.join)              # before the pipes of its helper are closed
            thread.start()
        stack.callback(lambda: list(todo))           # nothing more to do, when the caller breaks off
        for _ in jobs:
            number, answer = answers.get()
            if answer is None:
                raise CourseError(f"The process that works on {jobs[number]} was ended from outside; run "
                                  "the same command again.")
            yield number, answer


def serve(answer: Callable) -> None:
    """The helper's loop: a job a line on stdin, `answer(job, timeout)` a line on stdout."""
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), float(sys.argv[1]))), flush=True)


def apart(work: Callable, job, timeout: float) -> tuple[dict | None, str]:
    """(`work(job)`, "") from a fork of this process, or (None, what went wrong, for a sentence).

    The fork is killed after `timeout` seconds. The answer must be less than 64 kB of JSON.
    """
    answer, child_answer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(int(timeout) + 5)           # ends it even if nobody is left to kill it
            os.write(child_answer, json.dumps(work(job)).encode())
        finally:
            os._exit(0)
    os.close(child_answer)
    in_time = select.select([answer], [], [], timeout)[0]
    found = os.read(answer, 1 << 16) if in_time else b""
    os.close(answer)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if found:
        return json.loads(found), ""
    return None, "crashes the decoder" if in_time else f"is not decoded within {timeout:g} s"


def check_apart(path: str, timeout: float) -> dict:
    """`check(path)` in a fork of this process, killed after `timeout` seconds."""
    row, fault = apart(check, path, timeout)
    return row or dict(path=path, frames=None, seconds=None,
                       error=f"Clip {path} {fault}; fetch or encode it again.")


def check(path: str) -> dict:
    """Decode one file here and now: all of it, and its last frame as a data set reads it."""
    frames, seconds, error = None, None, None
    try:
        reader = ClipReader(path)
        seconds = reader.seconds
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
    return dict(path=path, frames=frames, seconds=seconds, error=error)


def _count(path: str) -> tuple[int, bool]:
    """(frames decoded, whether decoding met damage). H.264 shows nearly all, VP8 hardly any."""
    count = 0
    try:
        with av.open(f"file:{path}", metadata_errors="replace") as container:      # a title in Latin-1 is no fault
            stream = next(iter(container.streams.video), None)
            if stream is None or stream.codec_context is None:      # of a kind that PyAV cannot decode
                return 0, True
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
    serve(check_apart)
