"""The whole path compared, from video files to steps of an optimiser: ours beside what a user would write instead.

Same files, number of parameters, batch, steps, frames, size and machine. Files are decoded anew in every epoch; the
frames that are kept in memory are a comparison of their own. Each side is a process (bench_train_sides.py), and they
take turns of one epoch, so that other work on the machine hits all of them. First each side gets the settings with
which it is fastest, by a short search that the report contains.
"""

import importlib.util
import multiprocessing
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from vt_course import CourseError, data_root, need
from vt_course.claims.bench_models import median_and_error
from vt_course.claims.bench_train_sides import AGAIN, END, READERS, REST, Task, serve
from vt_course.claims.parts import in_parts
from vt_course.claims.phone_clips import phone_clips
from vt_course.data import open_spec
from vt_course.data.clips import read_manifest
from vt_course.data.prepare import prepare
from vt_course.data.reader import ClipReader
from vt_course.machine import PeakMemory, cores, processor, provenance, version
from vt_course.training.recipes import recipe_for

PEERS = {  # library: (our model, its twin in words, the packages that it needs)
    "torchvision": ("video_swin_mini", "torchvision's SwinTransformer3d in its reference loop", ("torchvision",)),
    "transformers": ("timesformer_mini", "transformers' TimeSformer in its Trainer", ("transformers", "accelerate")),
}
BY_HAND = "by hand"
PHONES = 3  # files, 43 MB each
LIMIT = 900.0  # seconds an epoch may take


@dataclass(frozen=True)
class Kind:
    """A kind of clips. `tried`, `clips`: how many are trained on in an epoch of the search, and of a turn, on 2 cores.

    `kept`: frames are decoded once and kept, so the first epoch after new settings does not count. `target`: the ratio
    that the course wants to reach, if any.
    """

    name: str
    tried: int
    clips: int
    kept: bool = False
    target: float | None = None

    @property
    def pipeline(self) -> str:
        """Of the peers; see `PeerClips`."""
        return "kept" if self.kept else "reference"


PHONE = Kind("phone clips", 8, 24, target=2.0)
PREPARED = Kind("prepared clips", 32, 96, target=1.3)
KEPT = Kind("prepared clips, frames kept", 64, 128, kept=True)
YOURS = Kind("your files", 8, 24)
GOAL, SEEDS = 0.85, (0, 1, 2)  # of the clips of validation of `motion`
TO_GOAL = Kind(f"seconds to {GOAL:.0%} of motion", 160, 1600, kept=True)  # all clips that `motion` trains on


def for_cores(kind: Kind) -> Kind:
    """More clips where more workers decode them, so that each gets some and an epoch takes as long."""
    times = 1 if kind.kept else max(cores() // 2, 1)
    return replace(kind, tried=kind.tried * times, clips=kind.clips * times)


class Side:
    """The process of a side. It trains only while `epoch` is called."""

    def __init__(self, name: str, task: Task):
        context = multiprocessing.get_context("spawn")
        self.name, self.current = name, None
        self.connection, its_end = context.Pipe()
        self.process = context.Process(target=serve, args=(its_end, name, task))
        self.process.start()
        its_end.close()  # now only the child holds this end

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_) -> None:
        with suppress(OSError):  # the process has ended already
            self.connection.send(END)
        self.process.join(10)  # its loader and its folder go with it
        self.process.terminate()
        self.process.join()
        self.connection.close()

    def epoch(self, settings: dict, warm: bool = False) -> dict:
        """The report of an epoch with these settings (see `Watch.report`), with clips_per_second and peak_mb.

        peak_mb: of the process and its workers. `warm`: if the settings are new, of the epoch after the first one.
        Raises `CourseError` if the epoch fails.
        """
        new, self.current = settings != self.current, settings
        if new:
            self._ask(REST)
        with PeakMemory() as memory:
            memory.watch(self.process.pid)
            report = self._ask(settings if new else AGAIN)
            if new and warm:
                report = self._ask(AGAIN)
        return {**report, "clips_per_second": settings["clips"] / report["seconds"], "peak_mb": memory.peak / 1e6}

    def _ask(self, what) -> dict:
        try:
            self.connection.send(what)
            need(self.connection.poll(LIMIT), f"{self.name} trained on no epoch in {LIMIT:g} seconds; use fewer clips")
            report = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            raise CourseError(
                f"the process of {self.name} ended without a result (exit code {self.process.exitcode}; -9 is mostly "
                "too little memory); free some memory and run the same command again"
            ) from None
        if "error" in report:
            self.current = None
            raise CourseError(f"{self.name} cannot train on these files: {report['error']}")
        return report


def axes(side: str, kind: Kind) -> dict[str, list]:
    """What is searched for a side, in this order, each with the best of what was before. The first values begin."""
    n = cores()
    workers = [0, 1] if kind.kept else [n, max(n - 1, 1)]
    if side == "ours":
        return {"workers": workers, "threads": [1, n]}
    if kind.kept:
        return {"workers": [*workers, n], "threads": [1, n]}
    decoders = [name for name in READERS if importlib.util.find_spec(name) or name == "PyAV"]
    return {"decoder": decoders, "workers": [*workers, 2 * n], "decoder_threads": [1, 0], "threads": [1, n]}


def search(side: Side, kind: Kind) -> tuple[dict, list[dict]]:
    """(the best settings, a row for each that was tried): along one axis after the other.

    A row has the settings, and clips_per_second and waiting_share, or an error. Raises `CourseError` if none works.
    """
    along = axes(side.name, kind)
    start = {"clips": kind.tried, "pipeline": kind.pipeline, "decoder": "PyAV", "decoder_threads": 1}
    best, fastest, rows = start | {name: values[0] for name, values in along.items()}, 0.0, []
    for name, values in along.items():
        for value in dict.fromkeys(values):
            settings = best | {name: value}
            if any(settings.items() <= row.items() for row in rows):
                continue
            try:
                report = side.epoch(settings, kind.kept)
            except CourseError as error:
                rows.append(settings | {"error": str(error)})
                continue
            rows.append(settings | {key: report[key] for key in ("clips_per_second", "waiting_share")})
        done = [row for row in rows if row.get("clips_per_second", 0.0) > fastest]
        if done:
            row = max(done, key=lambda row: row["clips_per_second"])
            best, fastest = {key: row[key] for key in best}, row["clips_per_second"]
    need(fastest, rows[0].get("error", f"{side.name} trained on no clip"))
    return best, rows


def compare(peer: str, kind: Kind, task: Task, turns: int) -> dict:
    """One part of the report: ours beside a peer on one kind of clips.

    dict(peer, parameters, sides, ratio, ratio_error, target). sides: name -> dict(settings, clips_per_second,
    waiting_share, peak_mb, stages, search). Numbers are medians over the turns, peak_mb is the largest. `ratio`: the
    median of the ratios of the turns, above 1 if ours is faster, and `ratio_error` its standard error. stages: the
    milliseconds of a clip where one thread does all the work. "by hand": the peer again, with a loader that does what
    ours does (see `PeerClips`); its ratio is ratio_by_hand.
    """
    with ExitStack() as stack:
        sides = {name: stack.enter_context(Side(name, task)) for name in ("ours", peer)}
        chosen, found = {}, {}
        for name, side in sides.items():
            best, rows = search(side, kind)
            chosen[name], found[name] = best | {"clips": kind.clips}, {"search": rows}
        if not kind.kept:
            sides[BY_HAND] = stack.enter_context(Side(peer, task))
            chosen[BY_HAND], found[BY_HAND] = chosen[peer] | {"pipeline": BY_HAND, "decoder": "PyAV"}, {}
        reports = {name: [] for name in sides}
        for turn in range(turns):
            for name in list(sides)[:: (-1) ** turn]:  # the order alternates
                reports[name].append(sides[name].epoch(chosen[name], kind.kept))
        parameters = parameters_of(reports, peer)
        for name, each in reports.items():
            alone = chosen[name] | {"workers": 0, "threads": 1, "clips": max(kind.tried // 2, task.batch, 2)}
            stages = sides[name].epoch(alone, kind.kept)
            found[name] |= {
                "settings": chosen[name],
                **{key: statistics.median(r[key] for r in each) for key in ("clips_per_second", "waiting_share")},
                "peak_mb": max(report["peak_mb"] for report in each),
                "stages": {stage: 1e3 * s / alone["clips"] for stage, s in stages["stages"].items()},
                "one_thread_ms": 1e3 * stages["seconds"] / alone["clips"],
            }
    result = {"peer": PEERS[peer][1], "model": task.model, "parameters": parameters, "turns": turns, "sides": found}
    for key, other in (("ratio", peer), ("ratio_by_hand", BY_HAND)):
        if other in reports:
            ratios = [b["seconds"] / a["seconds"] for a, b in zip(reports["ours"], reports[other])]
            result[key], result[f"{key}_error"] = median_and_error(ratios)
    return result | {"target": kind.target}


def parameters_of(reports: dict[str, list[dict]], peer: str) -> int:
    """The number of parameters that all sides report of their model. Raises `CourseError` if they differ."""
    counts = {report["parameters"] for each in reports.values() for report in each}
    need(len(counts) == 1, f"the models of ours and {peer} differ: they have {counts} parameters")
    return counts.pop()


def motion_task(model: str) -> Task:
    """What the course's recipe of a mini does on the embedded clips of `motion`."""
    recipe = recipe_for(model)
    spec = open_spec(recipe.data)
    train, val = ([(str(row["path"]), row["label"]) for row in read_manifest(each)] for each in (spec.train, spec.val))
    files, labels = zip(*train)
    same = ("frames", "stride", "size", "epochs", "warmup_epochs", "lr", "flip")
    same = {name: getattr(recipe, name) for name in same}
    cut = {"smallest": recipe.crop_scale[0], "ratio": recipe.crop_ratio, "short_side": recipe.keep}
    return Task(model, files, batch=recipe.batch_size, labels=labels, val=tuple(val), **same, **cut)


def to_goal(peer: str, kind: Kind, task: Task, seed: int) -> dict:
    """One part of the report: how long ours and a peer train until they have `GOAL` of the clips of validation.

    The sides take turns of one epoch, each with the settings with which it is fastest. The first epoch's decoding
    counts, validation does not. A side that has not got there after all epochs of the task has not reached the goal.
    dict(peer, model, parameters, seed, goal, sides). sides: name -> dict(settings, search, reached, epochs, seconds,
    seconds_per_epoch, val_top1). seconds_per_epoch: the median without the first; val_top1: after each epoch.
    """
    with ExitStack() as stack:
        sides = {name: stack.enter_context(Side(name, task)) for name in ("ours", peer)}
        found, epochs = {}, {name: [] for name in sides}
        for name, side in sides.items():
            best, rows = search(side, kind)
            found[name] = {"settings": best | {"clips": kind.clips, "seed": seed}, "search": rows}
        for turn in range(task.epochs):
            for name in list(sides)[:: (-1) ** turn]:  # the order alternates
                if not epochs[name] or epochs[name][-1]["val_top1"] < GOAL:
                    epochs[name].append(sides[name].epoch(found[name]["settings"]))
    parameters = parameters_of(epochs, peer)
    for name, reports in epochs.items():
        seconds, top1 = ([report[key] for report in reports] for key in ("seconds", "val_top1"))
        found[name] |= {"reached": top1[-1] >= GOAL, "epochs": len(reports), "seconds": sum(seconds)}
        found[name] |= {"seconds_per_epoch": statistics.median(seconds[1:] or seconds), "val_top1": top1}
    said = {"peer": PEERS[peer][1], "model": task.model, "parameters": parameters, "seed": seed, "goal": GOAL}
    return said | {"sides": found}


def clips_of(kind: Kind, files: tuple[str, ...], tell: Callable[[str], None]) -> tuple[str, ...]:
    """The files of a kind, rendered and prepared if they are not there yet."""
    if kind is YOURS:
        return files
    folder = data_root() / "bench"
    if not (folder / "phone" / f"phone_{PHONES - 1}.mp4").is_file():
        tell(f"drawing {PHONES} stand-ins for a phone's clips in {folder}, once; this takes a minute")
    paths = phone_clips(folder / "phone", PHONES)
    if kind is not PHONE:
        prepare(folder / "phone", folder / "prepared")
        paths = [folder / "prepared" / path.name for path in paths]
    return tuple(map(str, paths))


def bench_train(
    files=(),
    *,
    out: Path | None = None,
    peers: list[str] | None = None,
    turns: int = 3,
    frames: int = 16,
    stride: int = 2,
    size: int = 64,
    batch: int = 4,
    tell: Callable[[str], None] = print,
) -> dict:
    """Train on phone clips, on prepared ones, on kept frames, and to a goal, ours beside each peer; returns the report.

    `files`: train on these videos instead. `peers`: keys of PEERS (default: all that are installed). `out`: the file
    to which each part is written when it is made; a part that it has already is not made again. `tell` gets a line for
    each part. See `compare` and `to_goal` for the contents of a part.
    Raises `CourseError` for an unknown or missing peer, and for files that cannot be read or are too short.
    """
    files = tuple(map(str, files))
    for path in files:
        count = ClipReader(path).num_frames
        need(count > (frames - 1) * stride, f"{path} has {count} frames, too few for {frames}, {stride} apart")
    names = chosen_peers(peers, tell)
    shape = {"frames": frames, "stride": stride, "size": size, "batch": batch}
    head = {"what": "parts of vt-course bench train", **provenance(torch.device("cpu")), "processor": processor()}
    head |= {
        "versions": {name: version(name) for name in ("torchvision", "transformers", "accelerate", "decord", "av")}
    }
    head |= {"settings": shape | {"turns": turns, "files": list(files)}}

    def todo() -> Iterator[tuple[str, Callable]]:
        for kind in [YOURS] if files else [PHONE, PREPARED, KEPT]:
            for peer in names:
                yield f"{peer}, {kind.name}", partial(part, peer, kind)
        if not files:
            for seed in SEEDS:
                for peer in names:
                    yield f"{peer}, {TO_GOAL.name}, seed {seed}", partial(until_goal, peer, seed)

    def part(peer: str, kind: Kind) -> dict:
        return compare(peer, for_cores(kind), Task(PEERS[peer][0], clips_of(kind, files, tell), **shape), turns)

    def until_goal(peer: str, seed: int) -> dict:
        return to_goal(peer, TO_GOAL, motion_task(PEERS[peer][0]), seed)

    return in_parts(out, head, ("processor", "settings"), "of this machine with these settings", todo(), tell)


def chosen_peers(names: list[str] | None, tell: Callable[[str], None]) -> list[str]:
    """The peers to compare with. Raises `CourseError` for those that are named and cannot be measured here."""
    lacking = {}
    for name, (_, _, packages) in PEERS.items():
        if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
            lacking[name] = f"{name} is not measured without {' and '.join(missing)}: pip install {' '.join(missing)}"
    for name in names or []:
        need(name in PEERS, f"no peer {name!r}; choose from {', '.join(PEERS)}")
        need(name not in lacking, lacking.get(name, ""))
    if names is None:
        for sentence in lacking.values():
            tell(sentence)
    return names or [name for name in PEERS if name not in lacking]


def table(report: dict) -> list[dict]:
    """A row for each side of each part of a report that compares speeds."""
    rows = []
    for name, made in report["parts"].items():
        if "error" in made:
            rows.append({"part": name, "side": made["error"]})
            continue
        result = made["result"]
        if "goal" in result:
            continue
        for side, found in result["sides"].items():
            settings = found["settings"]
            loader = f"{settings['workers']} workers, {settings['threads']} threads"
            if side != "ours" and settings["pipeline"] != "kept":
                loader += f", {settings['decoder']} ({settings['decoder_threads'] or 'own'} threads)"
            ratio = {"ours": None, BY_HAND: "ratio_by_hand"}.get(side, "ratio")
            rows.append(
                {
                    "part": name if side == "ours" else "",
                    "side": side,
                    **{key: found[key] for key in ("clips_per_second", "peak_mb")},
                    "waiting": 100 * found["waiting_share"],
                    "ratio": result[ratio] if ratio else None,
                    "ratio_error": result[f"{ratio}_error"] if ratio else None,
                    "target": result["target"] if ratio == "ratio" else None,
                    "loader": loader,
                }
            )
    return rows


def trained_to_goal(report: dict) -> dict[str, dict]:
    """name -> result of the finished parts of a report that train to a goal; the others compare speeds."""
    results = {name: part["result"] for name, part in report["parts"].items() if "result" in part}
    return {name: result for name, result in results.items() if "goal" in result}


def goals(report: dict) -> list[dict]:
    """A row for each side of each part of a report that trains to a goal."""
    rows = []
    for name, result in trained_to_goal(report).items():
        for side, found in result["sides"].items():
            row = {key: found[key] for key in ("reached", "epochs", "seconds", "seconds_per_epoch")}
            row |= {"part": name if side == "ours" else "", "side": side, "best": max(found["val_top1"])}
            rows.append(row)
    return rows


def summary(report: dict) -> str:
    """The ratios of a report in one line, as docs/researchers.md quotes them; failed parts are left out."""
    said = {}  # what was compared: a text for each peer
    trained = trained_to_goal(report)
    for name, made in report["parts"].items():
        if name not in trained and (result := made.get("result")):
            peer, _, kind = name.partition(", ")
            text = f"{result['ratio']:.2f} ± {result['ratio_error']:.2f} times {peer}"
            if "ratio_by_hand" in result:
                text += f" ({result['ratio_by_hand']:.2f} times its loader made by hand)"
            said.setdefault(kind, []).append(text)
    seconds = {}  # of each side beside a peer: a text for each seed
    for name, result in trained.items():
        peer = name.partition(", ")[0]
        for side, found in result["sides"].items():
            text = f"{found['seconds']:.0f}" if found["reached"] else "not reached"
            seconds.setdefault((side, peer), []).append(text)
    for (side, peer), texts in seconds.items():
        beside = f" (beside {peer})" if side == "ours" else ""
        said.setdefault(f"{TO_GOAL.name}, seed by seed", []).append(f"{side} {' / '.join(texts)}{beside}")
    return "; ".join(f"{kind}: {', '.join(texts)}" for kind, texts in said.items())
