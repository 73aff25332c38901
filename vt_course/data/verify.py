"""The thorough check of clips: decode whole files in another process, with a time limit.

Reading (`reader.ClipReader`) finds the faults that headers and single frames show. Only a full decode finds a
picture that was damaged in the middle (codecs conceal it), or a container that counts frames which it does
not have. On such a file, a decoder may crash or never return. It runs in another process, which can be killed.
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
from vt_course.data.decoders import need_decoder
from vt_course.data.reader import BadClip, ClipReader, open_file

READY = "ready\n"
serving: list[float] = []  # filled in a helper process: the limit of a job in seconds
LATE = "is not decoded within"
PIXELS = 500e6  # may take `timeout` seconds: a minute of 640x480. One core decodes it in 2 to 20 s.


def verify(
    paths: Iterable[str | Path], timeout: float = 60.0, workers: int = 1, decoder: str = "pyav"
) -> Iterator[dict]:
    """dict(path, frames, seconds, error) for each file, in order; error is None or one sentence.

    The error says whether a file crashed its process. If a file takes longer than `timeout` seconds (more
    for a long one, see `work`), its dict also has late=True, because it may still be healthy.
    `decoder`: another one than PyAV decodes each file as well, and must show the same (see `decoders`).
    """
    need_decoder(decoder)
    paths, early, wanted = list(map(str, paths)), {}, 0
    with closing(
        in_processes("vt_course.data.verify", [(path, decoder) for path in paths], timeout, workers)
    ) as answers:
        for number, row, fault in answers:
            late = {"late": True} if fault.startswith(LATE) else {}
            remedy = "give it a longer time limit, or fetch or encode it again" if late else "fetch or encode it again"
            early[number] = row or dict(
                path=paths[number], frames=None, seconds=None, error=f"Clip {paths[number]} {fault}; {remedy}.", **late
            )
            while wanted in early:
                yield early.pop(wanted)
                wanted += 1


def in_processes(module: str, jobs: Iterable, timeout: float, workers: int) -> Iterator[tuple[int, dict | None, str]]:
    """(number of the job, the answer of `serve` in `python -m module`, ""), in the order in which the answers come.

    A job is any value that JSON can hold. If a job crashes its process, or takes longer than `timeout` seconds or than
    it asked for (see `more_time`): (number, None, what went wrong, as part of a sentence). Then a new process does
    the next jobs. Raises `CourseError` if a process is ended from outside.
    """
    jobs, answers = list(jobs), queue.SimpleQueue()
    todo = iter(enumerate(jobs))  # all threads take jobs from it

    def ask(helper):
        for number, job in todo:
            answers.put((number, *helper.ask(job)))

    with ExitStack() as stack:
        for _ in range(min(workers, len(jobs))):
            helper = Helper(module, timeout)
            thread = threading.Thread(target=ask, args=(helper,), daemon=True)
            stack.callback(helper.end)
            stack.callback(thread.join)
            stack.callback(helper.close)  # runs before the join: callbacks run in reverse order
            thread.start()
        stack.callback(lambda: list(todo))  # if the caller stops early, no job is left
        for _ in jobs:
            number, answer, fault = answers.get()
            if not (answer or fault):
                raise CourseError(
                    f"The process that works on {jobs[number]} was ended from outside; run the same command again."
                )
            yield number, answer, fault


class Helper:
    """A process of `python -m module`, for one thread. It is started when needed, and again after a crash or a kill.

    It is not forked, because Windows has no fork, and because forking is not safe with threads or open decoders.
    """

    def __init__(self, module: str, timeout: float):
        self.command, self.timeout = [sys.executable, "-m", module, str(timeout)], timeout
        self.process, self.closed, self.lock = None, False, threading.Lock()

    def ask(self, job) -> tuple[dict | None, str]:
        """(the answer, ""), or (None, what went wrong), or (None, "") if no process could be started."""
        if not self.process and not self._start():
            return None, ""
        late, limit, line = threading.Event(), self.timeout, json.dumps(job)
        while True:
            timer = threading.Timer(limit, lambda: (late.set(), self.process.kill()))
            timer.start()
            answer = self._say(line)
            timer.cancel()
            timer.join()  # its function may be running at this moment
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
                self.process = subprocess.Popen(
                    self.command,
                    encoding="utf-8",
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
        if self.closed or self.process.stdout.readline() != READY:  # so imports do not count as time of a job
            self.end()
            return False
        return True

    def _say(self, line: str) -> str:
        try:
            if line:
                print(line, file=self.process.stdin, flush=True)
            return self.process.stdout.readline()
        except OSError:  # the process is gone
            return ""

    def end(self) -> None:
        if self.process:
            self.process.kill()
            with suppress(OSError):  # closing flushes, and nobody reads any more
                self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait()
            self.process = None

    def close(self) -> None:
        """Called from another thread: end the process, whatever it is doing, and never start one again."""
        with self.lock:
            self.closed = True
            if process := self.process:
                process.kill()


def serve(answer: Callable) -> None:
    """The loop of a helper process: each line of stdin is a job, and `answer(job)` is written as a line to stdout.

    Lines are JSON in ASCII. The loop ends when the caller ends.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller gets Ctrl-C, and then ends this process
    print(READY, end="", flush=True)
    serving.append(float(sys.argv[1]))
    for line in sys.stdin:
        _end_after(serving[0])
        print(json.dumps(answer(json.loads(line))), flush=True)
        faulthandler.cancel_dump_traceback_later()


def more_time(times: float) -> None:
    """In a helper: from now on the present job may take `times` the limit. Elsewhere this does nothing."""
    if serving and times > 1:
        _end_after(times * serving[0])
        print(json.dumps(dict(more_time=times)), flush=True)


def _end_after(seconds: float) -> None:
    """End this process after `seconds` and a little more, even if it hangs and its caller is gone."""
    faulthandler.dump_traceback_later(seconds + 5, exit=True)


def work(frames: int, height: int, width: int) -> float:
    """How many times the usual limit the decoding of a file may take: 1, or more for a long or large one."""
    return max(1.0, frames * (height * width + 10_000) / PIXELS)  # an empty picture takes time, too


def decode_all(path: str, decoder: str = "pyav") -> dict:
    """Decode one file in this process: all frames, and then the last one in the way in which a data set reads it.

    With another `decoder`, each of its pictures is compared with PyAV's, too.
    Returns dict(path, frames, seconds, error).
    """
    frames, seconds, error = None, None, None
    try:
        reader = ClipReader(path)
        seconds = reader.seconds
        more_time(work(reader.num_frames, *reader.stored) * (1 if decoder == "pyav" else 3))
        if reader.pictures:
            frames = sum(1 for _ in reader.every_frame())
        else:
            frames, damaged = _count(path)
            if damaged:
                error = f"Clip {path} is damaged after frame {frames}; fetch or render it again."
            elif frames != reader.num_frames:
                error = f"Clip {path} claims {reader.num_frames} frames but shows {frames}; encode it again."
            else:
                reader.read([frames - 1])
                if decoder != "pyav":
                    ClipReader(path, decoder=decoder).compare()
    except BadClip as bad:
        error = str(bad)
    return dict(path=path, frames=frames, seconds=seconds, error=error)


def _count(path: str) -> tuple[int, bool]:
    """(frames decoded, whether damage was found). In H.264 nearly all damage is found, in VP8 hardly any."""
    count = 0
    try:
        with open_file(path) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None or stream.codec_context is None:  # PyAV cannot decode this codec
                return 0, True
            stream.codec_context.options = {"err_detect": "explode"}  # conceal no damage;
            stream.thread_type = "NONE"  # with threads it would be concealed
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    return count, True
                count += 1
    except av.FFmpegError:
        return count, True
    return count, False


if __name__ == "__main__":
    serve(lambda job: decode_all(*job))
