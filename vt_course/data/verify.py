"""Decode whole files in a process of their own, with a time limit: the thorough check of clips.

Reading (`reader.ClipReader`) guards against what headers and single frames betray. Only a full
decode finds a picture that was damaged in the middle (codecs conceal it) or a container that
counts frames it does not have. A decoder may crash on such a file or never come back; a second
process can be killed.
"""
import faulthandler
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import av

from vt_course import CourseError
from vt_course.data.reader import BadClip, ClipReader, open_file

READY = "ready\n"
serving: list[float] = []      # in a helper: the limit of a job in seconds
LATE = "is not decoded within"
PIXELS = 500e6          # that may take `timeout` seconds: a minute of 640x480. One core decodes them in 2 to 20 s.


def verify(paths: Iterable[str | Path], timeout: float = 60.0, workers: int = 1) -> Iterator[dict]:
    """dict(path, frames, seconds, error) for each file, in order; error is None or one sentence.

    A file that crashes its process is reported as that; one that takes longer than `timeout` seconds (more
    for a long one, see `work`) also has late=True: nobody knows yet whether it is healthy.
    """
    paths, early, wanted = list(map(str, paths)), {}, 0
    with closing(in_processes("vt_course.data.verify", paths, timeout, workers)) as answers:
        for number, row, fault in answers:
            late = {"late": True} if fault.startswith(LATE) else {}
            remedy = "give it a longer time limit, or fetch or encode it again" if late else "fetch or encode it again"
            early[number] = row or dict(path=paths[number], frames=None, seconds=None,
                                        error=f"Clip {paths[number]} {fault}; {remedy}.", **late)
            while wanted in early:
                yield early.pop(wanted)
                wanted += 1


def in_processes(module: str, jobs: Iterable, timeout: float, workers: int) -> Iterator[tuple[int, dict | None, str]]:
    """(number of the job, what `serve` in `python -m module` answered, ""), as the answers come.

    A job is anything that JSON can hold. Where one takes longer than `timeout` seconds, or than it asked for
    (see `more_time`), or crashes its process: (number, None, what went wrong, for a sentence). Then a new process
    does the jobs that follow.
    """
    jobs, answers = list(jobs), queue.SimpleQueue()
    todo = iter(enumerate(jobs))                     # shared by the threads

    def ask(helper):
        for number, job in todo:
            answers.put((number, *helper.ask(job)))

    with ExitStack() as stack:
        for _ in range(min(workers, len(jobs))):
            helper = Helper(module, timeout)
            thread = threading.Thread(target=ask, args=(helper,), daemon=True)
            stack.callback(helper.end)
            stack.callback(thread.join)
            stack.callback(helper.close)             # before its thread is waited for
            thread.start()
        stack.callback(lambda: list(todo))           # nothing more to do, when the caller breaks off
        for _ in jobs:
            number, answer, fault = answers.get()
            if not (answer or fault):
                raise CourseError(f"The process that works on {jobs[number]} was ended from outside; run "
                                  "the same command again.")
            yield number, answer, fault


class Helper:
    """One thread's process of `python -m module`: started when it is needed, and again after it was killed or crashed.

    It is no fork: Windows has none, and forking a process that has threads or decoders open is not safe.
    """

    def __init__(self, module: str, timeout: float):
        self.command, self.timeout = [sys.executable, "-m", module, str(timeout)], timeout
        self.process, self.closed, self.lock = None, False, threading.Lock()

    def ask(self, job) -> tuple[dict | None, str]:
        """(the answer, ""), (None, what went wrong) or, where no process could be started, (None, "")."""
        if not self.process and not self._start():
            return None, ""
        late, limit, line = threading.Event(), self.timeout, json.dumps(job)
        while True:
            timer = threading.Timer(limit, lambda: (late.set(), self.process.kill()))
            timer.start()
            answer = self._say(line)
            timer.cancel()
            timer.join()                             # it may just have begun
            if late.is_set() or not answer:
                self.end()
                return None, f"{LATE} {limit:g} s" if late.is_set() else "crashes the decoder"
            answer = json.loads(answer)
            if "more_time" not in answer:
                return answer, ""
            limit, line = answer["more_time"] * self.timeout, ""

    def _start(self) -> bool:
        with self.lock:
            if not self.closed:
                self.process = subprocess.Popen(self.command, encoding="utf-8", stdin=subprocess.PIPE,
                                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if self.closed or self.process.stdout.readline() != READY:     # its imports are not the first job's time
            self.end()
            return False
        return True

    def _say(self, line: str) -> str:
        try:
            if line:
                print(line, file=self.process.stdin, flush=True)
            return self.process.stdout.readline()
        except OSError:                              # it is gone
            return ""

    def end(self) -> None:
        if self.process:
            self.process.kill()
            with suppress(OSError):                  # closing flushes what it did not take
                self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait()
            self.process = None

    def close(self) -> None:
        """From another thread: end the process, whatever it does, and start none again."""
        with self.lock:
            self.closed = True
            if process := self.process:
                process.kill()


def serve(answer: Callable) -> None:
    """The helper's loop: a job a line on stdin, `answer(job)` a line on stdout, in ASCII. It ends with the caller."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)     # Ctrl-C is the caller's, who then ends us
    print(READY, end="", flush=True)
    serving.append(float(sys.argv[1]))
    for line in sys.stdin:
        _end_after(serving[0])
        print(json.dumps(answer(json.loads(line))), flush=True)
        faulthandler.cancel_dump_traceback_later()


def more_time(times: float) -> None:
    """In a helper: from now on the job in hand may take `times` the limit. Anywhere else there is none."""
    if serving and times > 1:
        _end_after(times * serving[0])
        print(json.dumps(dict(more_time=times)), flush=True)


def _end_after(seconds: float) -> None:
    """Ends this process even if it hangs and nobody is left to kill it."""
    faulthandler.dump_traceback_later(seconds + 5, exit=True)


def work(frames: int, height: int, width: int) -> float:
    """How many times the usual limit the decoding of a file may take: 1, or more for a long or large one."""
    return max(1.0, frames * (height * width + 10_000) / PIXELS)       # a picture of no size takes time, too


def decode_all(path: str) -> dict:
    """Decode one file here and now: all of it, and its last frame as a data set reads it."""
    frames, seconds, error = None, None, None
    try:
        reader = ClipReader(path)
        seconds = reader.seconds
        more_time(work(reader.num_frames, *reader.stored))
        if reader.pictures:
            frames = sum(1 for _ in reader.every_frame())
        else:
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
        with open_file(path) as container:
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
    serve(decode_all)
