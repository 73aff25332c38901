"""One run of an experiment, in a process of its own: `python -m vt_course.training.experiments.worker`.

Each line of stdin is a job, each line of stdout an answer, both JSON. A process does several jobs, and keeps the frames
that it has decoded for the next one. It computes with one thread, so that the numbers do not depend on how many runs
are made at the same time. When stdin ends, because the caller has stopped or was killed, the run in progress
saves a checkpoint and the process ends.
"""

import _thread
import functools
import json
import os
import signal
import sys
import tempfile
import threading
import traceback
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue

import torch

from vt_course import CourseError
from vt_course.data.loading import KeptFrames
from vt_course.files import alone, parse_json, read_csv
from vt_course.machine import forget_peak_memory
from vt_course.training.checkpoint import load_run
from vt_course.training.evaluate import evaluate, has_test, open_data, open_test
from vt_course.training.fit import fit
from vt_course.training.recipes import Recipe

QUIET = dict(device="cpu", workers=0, progress=False)
CHECKPOINT_MINUTES = 1.0  # a kill costs at most so much of a run


def train_and_test(recipe: Recipe, orders, out: Path | None, **settings) -> dict:
    """Train `recipe` on the CPU, or go on with it, and test its last weights on the test split (or, where there is
    none, on the validation split). `settings` replace those of `QUIET`, for instance device="cuda".

    On a CPU the same run gives the same numbers in every bit. The last weights are tested, not the best ones, because
    the best epoch is chosen on the validation split. `out`: the run folder (None: a temporary one).

    Returns dict(seed, top1, stderr, held_out, val_top1, train_loss, steps, parameters, bad_clips, seconds,
    peak_memory_mb, commit). top1 and its binomial standard error are fractions from 0 to 1, one for each order of
    frames in `orders`; val_top1 has one for each epoch. A run that was finished before keeps its seconds and commit.
    """
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.parent.mkdir(parents=True, exist_ok=True)
        # If the caller was killed a moment ago, its process may still be saving this run: wait for it.
        stack.enter_context(alone(folder.with_name(f"{folder.name}.lock")))
        forget_peak_memory()
        settings = QUIET | settings
        run = fit(recipe, folder, checkpoint_minutes=CHECKPOINT_MINUTES, **settings)
        model, _ = load_run(folder, "last")
        held_out = open_test(recipe, progress=False) if has_test(recipe.data) else open_data(recipe)[1]
        val_top1 = [float(row["val_top1"]) for _, row in read_csv(folder / "metrics.csv", "delete the run folder")]
        scores = {order: evaluate(model, held_out, order=order, **settings) for order in orders}
    return {
        "seed": recipe.seed,
        "top1": {order: each["top1"] for order, each in scores.items()},
        "stderr": {order: each["stderr"] for order, each in scores.items()},
        "held_out": scores[orders[0]]["n"],
        "val_top1": val_top1,
        "train_loss": run["last"]["train_loss"],
        "steps": run["steps"],
        "parameters": run["parameters"],
        "bad_clips": run["bad_clips"],
        "seconds": run["seconds"],
        "peak_memory_mb": run["peak_memory_mb"],
        "commit": run["commit"],
    }


@functools.lru_cache(maxsize=1)
def frames_of(*settings) -> dict:
    """Where `KeptFrames` keeps frames for all runs with these settings. Memory has room for one such set."""
    return {}


def answer(job: dict) -> dict:
    """The result of a job, dict(recipe, test, out), or dict(error=one sentence)."""
    out = job["out"] and Path(job["out"])
    try:
        recipe = Recipe.from_json(json.dumps(job["recipe"]))
        KeptFrames.shared = frames_of(recipe.data, recipe.keep, recipe.frames, recipe.stride, recipe.sampling)
        return train_and_test(recipe, job["test"], out)
    except CourseError as error:
        return {"error": str(error)}
    except Exception as error:  # a bug: the other runs go on, and its place is kept
        if out:
            with suppress(OSError):
                out.with_name(f"{out.name}.error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        return {"error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}


def main() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background, it may be ignored
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a run prints is no answer
    jobs = SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            jobs.put(line)
        jobs.put("")
        _thread.interrupt_main()  # as Ctrl-C does: `fit` saves and raises KeyboardInterrupt

    threading.Thread(target=listen, daemon=True).start()
    with suppress(KeyboardInterrupt, BrokenPipeError):
        while line := jobs.get():
            print(json.dumps(answer(parse_json(line, "a job", "report this"))), file=answers, flush=True)
    os._exit(0)  # an interrupt that comes late must not look like an error


if __name__ == "__main__":
    main()
