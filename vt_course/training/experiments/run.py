"""All runs of some rows, several at a time. What is done is skipped; what fails is reported, and the others go on."""

import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import torch

from vt_course import CourseError, need
from vt_course.files import alone, parse_json
from vt_course.machine import at_once, processor, provenance
from vt_course.training.experiments import results
from vt_course.training.experiments.rows import Row, digest, known, own_home, read_rows
from vt_course.training.experiments.switches import refusals
from vt_course.training.recipes import Recipe

MEMORY = 2 << 30  # bytes that a run may take: the embedded clips take 0.5 GB, the model and its batch as much again
TEST = 10.0  # seconds, about, in which a run that another row has trained is tested
COMMAND = [sys.executable, "-m", "vt_course.training.experiments.worker"]
MACHINE = ("processor", "device", "torch")  # where these agree, a run gives the same numbers in every bit


def select(only: list[str] | None) -> list[Row]:
    """The rows with these ids, in the order of the file; all if `only` is empty. `CourseError` for an unknown id."""
    rows = read_rows()
    known(only or [], [row.id for row in rows], "--only", "experiment")
    return [row for row in rows if not only or row.id in only]


def run_rows(rows: list[Row], *, jobs: int | None = None, tell: Callable = print) -> list[str]:
    """Make all missing runs of `rows`, `jobs` at a time. Returns one sentence for each run that failed.

    A run that several rows of experiments.yaml have is trained once; the others only test it, in their own orders of
    frames. If its record has these orders already, and comes from such a machine as this one, it is copied. After each
    run the result of its row is written, so a kill costs at most the runs in progress, and these go on from their last
    checkpoint. `tell` is called with a line for each run. `jobs`: None for as many as cores and memory allow.
    Raises `CourseError` if another process runs experiments here.
    """
    runs_folder = own_home() / "runs" / "experiments"
    runs_folder.mkdir(parents=True, exist_ok=True)
    with alone(runs_folder / ".lock", wait=False):
        found, todo, cost = {}, [], {}
        for row in rows:
            result = results.read_result(row.id)
            cost[row.id] = results.expected_seconds(row, result)
            if not results.fresh(row, result):
                if result:
                    tell(f"{row.id}: the row has changed since its result; all its runs are made anew")
                result = results.begin(row, refusals(row.recipes))
                for name, variant in result["variants"].items():
                    if variant["refused"]:
                        tell(f"{row.id}: {name!r} is refused: {variant['refused']}")
            found[row.id] = result
            todo += [(row, name, seed) for name, seed in results.missing(row, result)]
        where, pairs = facts(1), rows_with_results()
        folders = run_folders(pairs)
        for row, name, seed in list(todo):
            recipe = seeded(row, name, seed)
            if copy := recorded(pairs, row, recipe, where):
                owner, _ = folders[recipe.to_json()]
                todo.remove((row, name, seed))
                results.add_run(found[row.id], name, copy | {"row": found[row.id]["hash"], "trained_for": owner})
                results.write_result(found[row.id])
                tell(f"{row.id}: {name}, seed {seed}: copied from the result of {owner}")
        if not todo:
            return []
        jobs = jobs or at_once(len(todo), MEMORY)
        owners, asked = [], []  # of each run: the row for which it is trained, and the job
        for row, name, seed in todo:
            owner, folder = folders[seeded(row, name, seed).to_json()]
            owners.append(owner)
            asked.append(job(row, name, seed, runs_folder / folder))

        def rest() -> str:
            left = (cost[todo[which][0].id] if owners[which] == todo[which][0].id else TEST for which in waiting)
            return minutes(sum(left) / jobs)

        where, waiting = where | {"jobs": jobs}, set(range(len(todo)))
        tell(f"{len(todo)} runs, {jobs} at a time, about {rest()}")
        failed = []
        with closing(in_workers(asked, jobs)) as answers:
            for done, (which, answer) in enumerate(answers, 1):
                row, name, seed = todo[which]
                waiting.remove(which)
                title = f"{row.id}: {name}, seed {seed}"
                if "error" in answer:
                    failed.append(f"{title}: {answer['error']}")
                    said = f"FAILED: {answer['error']}"
                else:
                    result = found[row.id]
                    made = where | answer | {"row": result["hash"]}
                    if owners[which] != row.id:
                        made["trained_for"] = owners[which]
                    results.add_run(result, name, made)
                    results.write_result(result)
                    cost[row.id] = results.expected_seconds(row, result)
                    said = f"{100 * answer['top1'][row.test[0]]:.1f} % in {answer['seconds']:.0f} s"
                tell(f"{done}/{len(todo)}  {title}: {said}" + (f"; about {rest()} left" if waiting else ""))
        return failed


def rows_with_results() -> list[tuple[Row, dict | None]]:
    """Each row of experiments.yaml and its result; None if there is none, or if the row has changed since."""
    pairs = [(row, results.read_result(row.id)) for row in read_rows()]
    return [(row, result if results.fresh(row, result) else None) for row, result in pairs]


def recorded(pairs: list[tuple[Row, dict | None]], row: Row, recipe: Recipe, where: dict) -> dict | None:
    """The record of a run of `recipe` in the result of another row, reduced to the orders of `row`, or None.

    It must hold all of them, and the curve if `row` asks for curves, and come from such a machine as `where`: there the
    run would give the same numbers in every bit. `pairs`: see `rows_with_results`.
    """
    for other, result in pairs:
        if other.id == row.id or result is None:
            continue
        for name, each in other.recipes.items():
            if dataclasses.replace(each, seed=recipe.seed) != recipe:
                continue
            for run in result["variants"][name]["runs"]:
                here = run["seed"] == recipe.seed and all(run[key] == where[key] for key in MACHINE)
                if here and set(row.test) <= set(run["top1"]) and ("val_top1" in run or not row.told.get("curves")):
                    kept = {key: {order: run[key][order] for order in row.test} for key in ("top1", "stderr")}
                    return run | kept
    return None


def job(row: Row, name: str, seed: int, out) -> dict:
    """What `worker.answer` takes."""
    recipe = dataclasses.asdict(seeded(row, name, seed))
    return {"recipe": recipe, "test": row.test, "out": str(out) if out else None}


def seeded(row: Row, name: str, seed: int) -> Recipe:
    return dataclasses.replace(row.recipes[name], seed=seed)


def run_folders(pairs: list[tuple[Row, dict | None]]) -> dict[str, tuple[str, str]]:
    """The recipe of a run as JSON -> (id of the row for which it is trained, its folder in runs/experiments).

    That is the first row of experiments.yaml that has this run. The digest in the folder's name covers all on which the
    row depends, so a run is not found again after its model or its clips have changed. `pairs`: see
    `rows_with_results`.
    """
    folders = {}
    for row, result in pairs:
        hash = result["hash"] if result else digest(row.depends_on())
        for number, name in enumerate(row.recipes):
            for seed in row.seeds:
                place = row.id, f"{row.id}-{hash[:8]}/{number}-{seed}"
                folders.setdefault(seeded(row, name, seed).to_json(), place)
    return folders


def facts(jobs: int) -> dict:
    """Where a run is made: commit, versions, device. The command is not among them: the row says what was run."""
    here = provenance(torch.device("cpu")) | {"processor": processor(), "threads": 1, "jobs": jobs}
    return {key: value for key, value in here.items() if key not in ("command", "ranks")}


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} s"


# ---------------------------------------------------------------- processes


class Worker:
    """A process of worker.py, for one thread."""

    def __init__(self):
        self.process = subprocess.Popen(
            COMMAND,
            encoding="utf-8",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,  # so Ctrl-C reaches us alone, and we end the worker politely
        )

    def ask(self, job: dict) -> dict:
        """The worker's answer to a job, or dict(error=...) if the process ends before it answers."""
        line = ""
        with suppress(OSError, ValueError):  # the process is gone, or we have closed its stdin
            print(json.dumps(job), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        if line:
            return parse_json(line, "the answer of a worker", "report this", dict)
        code = self.process.wait()
        why = f"signal {-code}" + (", perhaps for want of memory" if code == -9 else "") if code < 0 else f"code {code}"
        return {"error": f"its process ended with {why}; run the same command again"}

    def stop(self) -> None:
        """A run in progress saves a checkpoint, and the process ends."""
        with suppress(OSError):
            self.process.stdin.close()

    def close(self) -> None:
        self.stop()
        self.process.wait()
        self.process.stdout.close()


def in_workers(jobs: list[dict], count: int) -> Iterator[tuple[int, dict]]:
    """(number of the job, its answer) in the order in which the answers come, from `count` processes.

    A process that dies is replaced. If the generator is closed early, the runs in progress save a checkpoint first.
    """
    todo, answers, workers, stopped = iter(enumerate(jobs)), queue.SimpleQueue(), [], threading.Event()
    lock = threading.Lock()

    def take():
        with lock:
            return None if stopped.is_set() else next(todo, None)

    def work() -> None:
        worker = None
        while (taken := take()) is not None:
            if worker and worker.process.poll() is not None:
                worker.close()
                worker = None
            if worker is None:
                worker = Worker()
                with lock:
                    workers.append(worker)
                if stopped.is_set():
                    break
            answers.put((taken[0], worker.ask(taken[1])))
        if worker:
            worker.close()

    pool = [threading.Thread(target=work, daemon=True) for _ in range(min(count, len(jobs)))]
    for thread in pool:
        thread.start()
    try:
        for _ in jobs:
            yield answers.get()
    finally:
        stopped.set()
        with lock:
            for worker in workers:
                worker.stop()
        for thread in pool:
            thread.join()


# ---------------------------------------------------------------- again


def verify(id: str) -> dict:
    """Make the quickest recorded run of a row again, and compare.

    Where processor and version of torch are those of the record, every number must be the same. Elsewhere sums are
    rounded in another way, and training makes of that a difference like that of another seed. There, each must lie
    within 4 standard deviations: those of the variant's seeds and of counting the held-out clips, taken together.

    Returns dict(id, variant, seed, verdict, same_machine, rows, good). Each of `rows` has order, recorded, again,
    tolerance and good.
    Raises `CourseError` if there is no such row, no run of it, or if the row has changed since.
    """
    (row,) = select([id])
    result = results.read_result(id)
    runs = [(run, name) for name, v in (result or {"variants": {}})["variants"].items() for run in v["runs"]]
    need(runs, f"no run of {id} is recorded; run it first with vt-course experiments --only {id}")
    need(results.fresh(row, result), f"the row {id} has changed since its result; run it again first")
    recorded, name = min(runs, key=lambda each: each[0]["seconds"])
    same = {key: recorded[key] for key in MACHINE} == {key: facts(1)[key] for key in MACHINE}
    with closing(in_workers([job(row, name, recorded["seed"], None)], 1)) as answers:
        ((_, again),) = answers
    if "error" in again:
        raise CourseError(f"{id}: {name}, seed {recorded['seed']}: {again['error']}")
    rows = []
    for order in row.test:
        std = result["variants"][name]["std"][order] or 0.0
        tolerance = 0.0 if same else 4 * (std**2 + recorded["stderr"][order] ** 2) ** 0.5
        was, now = recorded["top1"][order], again["top1"][order]
        rows.append(
            {"order": order, "recorded": was, "again": now, "tolerance": tolerance, "good": abs(was - now) <= tolerance}
        )
    good = all(each["good"] for each in rows) and (not same or recorded["train_loss"] == again["train_loss"])
    verdict = ("equal" if same else "within the tolerance") if good else "differs"
    verdict += ", on the same kind of machine" if same else ", on another kind of machine"
    seed = recorded["seed"]
    return {
        "id": id,
        "variant": name,
        "seed": seed,
        "verdict": verdict,
        "same_machine": same,
        "rows": rows,
        "good": good,
    }
