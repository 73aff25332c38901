"""The scores of all views of a data set: computed batch by batch, kept in a folder, and turned into results.

Each batch has the same videos whoever computes it, and is computed as a whole. So an evaluation that was stopped goes
on with the next batch, and several processes, on one machine or on more, share the batches: the scores are the same.
"""

import hashlib
import json
import math
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import combinations
from pathlib import Path

import safetensors.torch
import torch
from tqdm import tqdm

from vt_course import CourseError, need
from vt_course.data.loading import in_order, make_loader, short_of_memory
from vt_course.files import alone, atomic_write, parse_json, read_json, read_safetensors, write_csv
from vt_course.training import ranks
from vt_course.training.checkpoint import checksum
from vt_course.training.curves import confusion_picture, figure_bytes
from vt_course.training.evaluate import calibration, class_scores, reorder_frames, score
from vt_course.training.experiments.statistics import wilson
from vt_course.training.protocols import Protocol, Shown, to_floats, video_scores
from vt_course.training.trained import Trained

RESULT = "evaluation.json"
AGAIN = "delete it and run the same command again, which makes it anew"


@torch.no_grad()
def view_logits(model, clip, shown: Shown, device, *, at_once: int, index=None, order="normal", seed=0) -> torch.Tensor:
    """The logits of all views of some videos, float32 (B, V, K), on the CPU.

    clip: views as bytes, uint8 (B, V, T, H, W, 3), or one finished view of each video, float32 (B, C, T, H, W). The
    model, in eval mode, sees `at_once` views at a time.
    """
    views = clip.shape[1] if clip.dtype == torch.uint8 else 1
    index = [i for i in (range(len(clip)) if index is None else index) for _ in range(views)]
    found = []
    for few, numbers in zip(
        (clip.flatten(0, 1) if clip.dtype == torch.uint8 else clip).split(at_once), torch.tensor(index).split(at_once)
    ):
        x = to_floats(few, shown) if few.dtype == torch.uint8 else few  # (b, C, T, H, W)
        x = reorder_frames(x.to(device, non_blocking=True), numbers.tolist(), order, seed)
        found.append(class_scores(model, x).float().cpu())  # (b, K)
    return torch.cat(found).unflatten(0, (-1, views))  # (B, V, K)


# ---------------------------------------------------------------- one evaluation


def measure(
    trained: Trained,
    clips,
    protocol: Protocol,
    *,
    device: torch.device,
    out: Path | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    order: str = "normal",
    seed: int = 0,
    progress: bool = True,
    every: float = 30.0,
) -> dict:
    """Evaluate a model on a data set (`evaluate.open_clips`). All ranks call this (ranks.py) and return the result.

    `out`: a folder for the scores and the results; else they are kept in a temporary one. The scores of new views are
    written about every `every` seconds. If `out` holds this evaluation already, it goes on where it was stopped.
    `batch_size` counts views. For the result see `report`. Raises `CourseError` if `out` holds another evaluation, if
    no video can be read, for a full disk, and if a rank was given another model or other clips.
    """
    asked = {
        "model": trained.name,
        "weights": trained.identity,
        "protocol": protocol.name,
        "views": protocol.views,
        "clips": digest(clips),
        "classes": list(trained.classes),
        "order": order,
        "seed": seed,
        "batch_size": batch_size,
    }
    batches = in_order(clips, batch_size)
    shape = (math.prod(clips.views or (1,)), len(trained.classes))  # (V, K)
    ranks.same(asked)
    with folder_for(out, asked) as folder:
        todo = ranks.by_leader(lambda: missing(folder, shape, len(batches)))
        mine = todo[ranks.rank() :: ranks.world()]

        def scores_of(numbered) -> dict | None:
            """The scores of the next batch of this rank, or None if it has no more."""
            for number, batch in numbered:
                logits = torch.zeros(0, *shape)
                if batch["clip"] is not None:
                    told = dict(index=batch["index"].tolist(), order=order, seed=seed)
                    logits = view_logits(
                        trained.model, batch["clip"], trained.shown, device, at_once=batch_size, **told
                    )
                return {"batch": number, "logits": logits, **{key: batch[key] for key in ("index", "label", "bad")}}

        def work() -> None:
            """In each round, every rank computes a batch. Rank 0 writes: only its machine needs the folder."""
            trained.model.to(device).eval()
            loader = make_loader(clips, [batches[number] for number in mine], workers, device) if mine else []
            numbered, fresh, last = zip(mine, loader), [], time.monotonic()
            rounds = range(0, len(todo), ranks.world())
            # One process ends at once on Ctrl-C. Of several, each must know of it.
            with ranks.polite_interrupt() if ranks.world() > 1 else nullcontext([]) as interrupt:
                try:
                    for _ in tqdm(rounds, desc="evaluate", disable=not progress or ranks.rank() > 0, leave=False):
                        found = ranks.together(lambda: (scores_of(numbered), bool(interrupt)))
                        fresh += [part for part, _ in found if part and ranks.rank() == 0]
                        if any(interrupted for _, interrupted in found):
                            raise KeyboardInterrupt
                        if fresh and time.monotonic() - last > every:
                            write_part(folder, fresh)
                            fresh, last = [], time.monotonic()
                finally:
                    if fresh:
                        write_part(folder, fresh)

        def finish() -> dict:
            found = collected(parts(folder, shape))
            log_probs = video_scores(found["logits"], protocol.average)  # (N, K)
            result = report(found, log_probs, trained, protocol) | {"order": order}
            if out:
                publish(folder, asked, result, found, log_probs, clips)
            return result

        with short_of_memory(progress_kept=bool(out)):
            work()
        return ranks.by_leader(finish)


@contextmanager
def folder_for(out: Path | None, asked: dict):
    """The folder of an evaluation, on the machine of rank 0: `out`, locked, or a temporary one."""
    with ExitStack() as held:

        def open_here() -> Path:
            if out is None:
                folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="vt-course-")))
                (folder / "views").mkdir()
                return folder
            folder = Path(out)
            try:
                (folder / "views").mkdir(parents=True, exist_ok=True)
                held.enter_context(alone(folder / ".lock", wait=False))
            except OSError as error:
                raise CourseError(
                    f"cannot make the folder {folder} ({error.strerror}); choose another --out folder"
                ) from error
            if (folder / RESULT).exists():
                old = read_json(folder / RESULT, AGAIN, dict).get("evaluated")
                need(isinstance(old, dict), f"{folder / RESULT} does not tell what was evaluated; {AGAIN}")
                differ = [
                    f"{key} was {old.get(key)!r:.80} and is now {asked[key]!r:.80}"
                    for key in asked
                    if old.get(key) != asked[key]
                ]
                need(
                    not differ,
                    f"{folder} holds another evaluation ({'; '.join(differ[:3])}); choose another --out folder",
                )
            else:
                atomic_write(folder / RESULT, json.dumps({"evaluated": asked}, indent=2).encode())
            return folder

        yield ranks.by_leader(open_here)


def digest(clips) -> str:
    """What identifies the list of clips of a data set."""
    listed = [[row["path"], row["label"], row["start"], row["end"]] for row in getattr(clips, "rows", [])]
    return hashlib.sha256(json.dumps([len(clips), listed]).encode()).hexdigest()


# ---------------------------------------------------------------- parts: the scores of some batches, in one file


def write_part(folder: Path, batches: list) -> None:
    """Write the scores of some batches, [dict(batch, index, label, logits, bad)], as one file of the folder `views`."""
    tensors = {"batches": torch.tensor([each["batch"] for each in batches])}
    tensors |= {name: torch.cat([each[name] for each in batches]) for name in ("index", "label", "logits")}  # (n, ...)
    header = {"bad": json.dumps([row for each in batches for row in each["bad"]])}
    header["checksum"] = checksum(tensors, header)
    path = folder / "views" / f"{batches[0]['batch']:07d}.safetensors"
    atomic_write(path, safetensors.torch.save(tensors, header))


def missing(folder: Path, shape: tuple[int, int], batches: int) -> list[int]:
    """The numbers of the batches, of so many, whose scores are not in the folder yet."""
    done = {number for part in parts(folder, shape) for number in part["batches"].tolist()}
    return [number for number in range(batches) if number not in done]


def parts(folder: Path, shape: tuple[int, int]) -> Iterable[dict]:
    """The parts of an evaluation with (V, K) = `shape`. Raises `CourseError` for a file that is damaged."""
    for path in sorted((folder / "views").glob("*.safetensors")):
        part, header = read_safetensors(path, AGAIN)
        need(
            part.keys() == {"batches", "index", "label", "logits"}
            and part["logits"].shape == (len(part["index"]), *shape)
            and header.get("checksum") == checksum(part, header),
            f"{path} is damaged; {AGAIN}",
        )
        part["bad"] = [(i, sentence) for i, sentence in parse_json(header["bad"], path, AGAIN, list)]
        yield part


# ---------------------------------------------------------------- results


def report(found: dict, log_probs: torch.Tensor, trained: Trained, protocol: Protocol) -> dict:
    """The result of an evaluation, from its scores (`collected`, `video_scores`): what `evaluate.score` returns, and

    protocol, views, average  the views and how their scores are combined
    top1_interval, ...        the ends of Wilson's 95 % interval, also for top5 and each class (`per_class_interval`)
    counts                    the videos of each class
    mean_class                the mean of the accuracies of the classes that have videos; and `mean_class_interval`
    calibration               see `evaluate.calibration`
    growth                    top-1 with fewer views, see `growth`
    bad                       videos that could not be read, [(index, sentence)]
    """
    logits, label, bad = found["logits"], found["label"], found["bad"]
    if not len(label):
        raise CourseError(f"none of the clips could be read (the first: {bad[0][1]})")
    result = score(log_probs, label, trained.classes)
    counts = [sum(row) for row in result["confusion"]]
    shares = {name: (share, n) for (name, share), n in zip(result["per_class"].items(), counts) if n}
    mean, interval = mean_with_interval(list(shares.values()))
    return result | {
        "model": trained.name,
        "trained_on": trained.trained_on,
        "protocol": protocol.name,
        "views": protocol.views,
        "average": protocol.average,
        "top1_interval": wilson(result["top1"], result["n"]),
        **({"top5_interval": wilson(result["top5"], result["n"])} if "top5" in result else {}),
        "counts": dict(zip(trained.classes, counts)),
        "per_class_interval": {name: wilson(*pair) for name, pair in shares.items()},
        "mean_class": mean,
        "mean_class_interval": interval,
        "calibration": calibration(log_probs, label),
        "growth": growth(logits, label, protocol) if logits.shape[1] == protocol.clips * protocol.crops > 1 else [],
        "bad": bad,
    }


def collected(parts: Iterable[dict]) -> dict:
    """dict(logits (N, V, K), label (N,), index (N,), bad) of all parts, in the order of the videos."""
    parts = list(parts)
    order = torch.cat([part["index"] for part in parts]).argsort()
    found = {name: torch.cat([part[name] for part in parts])[order] for name in ("logits", "label", "index")}
    return found | {"bad": sorted(row for part in parts for row in part["bad"])}


def mean_with_interval(shares: list[tuple[float, int]]) -> tuple[float, tuple[float, float]]:
    """The mean of some shares, each of n videos, and its 95 % interval.

    The interval combines those of Wilson of the shares (the method of variance estimates recovery, Zou and Donner,
    Statistics in Medicine 27, 2008). So it does not shrink to a point where all videos are right.
    """
    mean = sum(share for share, _ in shares) / len(shares)
    ends = [(share, *wilson(share, n)) for share, n in shares]
    below = math.sqrt(sum((share - low) ** 2 for share, low, _ in ends)) / len(shares)
    above = math.sqrt(sum((high - share) ** 2 for share, _, high in ends)) / len(shares)
    return mean, (max(mean - below, 0.0), min(mean + above, 1.0))


def growth(logits: torch.Tensor, label: torch.Tensor, protocol: Protocol) -> list[dict]:
    """How top-1 grows with the views, from the scores of all: [dict(clips, crops, top1)].

    For fewer clips, it is the mean over the choices of so many of the protocol's clips (32 of them, if there are more).
    One crop is the middle one.
    """
    views = logits.unflatten(1, (protocol.clips, protocol.crops))  # (N, clips, crops, K)
    crops = {1: views[:, :, protocol.crops // 2 :][:, :, :1]} | {protocol.crops: views}
    rows = []
    for number, few in crops.items():
        for clips in range(1, protocol.clips + 1):
            choices = list(combinations(range(protocol.clips), clips))
            choices = choices[:: -(-len(choices) // 32)]
            top1 = 0.0
            for choice in choices:
                best = video_scores(few[:, list(choice)].flatten(1, 2), protocol.average).argmax(-1)  # (N,)
                top1 += (best == label).double().mean().item() / len(choices)
            rows.append({"clips": clips, "crops": number, "top1": top1})
    return rows


def publish(folder: Path, asked: dict, result: dict, found: dict, log_probs: torch.Tensor, clips) -> None:
    """Write the results of an evaluation into its folder, beside the scores of all views."""
    label, index, classes = found["label"], found["index"], result["classes"]
    best, right = log_probs.max(-1), log_probs.gather(1, label[:, None])  # (N,), (N, 1)
    place = 1 + (log_probs > right).sum(1)  # (N,): 1 if the true class has the highest score
    rows = {
        i: (name(clips, i), classes[true], classes[top], f"{math.exp(value):.6f}", at, "")
        for i, true, top, value, at in zip(
            index.tolist(), label.tolist(), best.indices.tolist(), best.values.tolist(), place.tolist()
        )
    } | {i: (name(clips, i), classes[clips.labels[i]], "", "", "", sentence) for i, sentence in result["bad"]}
    columns = ["path", "class", "predicted", "probability", "place of the class", "error"]
    write_csv(folder / "predictions.csv", columns, [rows[i] for i in sorted(rows)])
    write_csv(
        folder / "confusion.csv",
        ["true \\ predicted", *classes],
        [[true, *counts] for true, counts in zip(classes, result["confusion"])],
    )
    ends = result["per_class_interval"]
    write_csv(
        folder / "classes.csv",
        ["class", "videos", "accuracy", "low", "high"],
        [
            [label, result["counts"][label], share, *ends.get(label, ("", ""))]
            for label, share in result["per_class"].items()
        ],
    )
    if result["growth"]:
        write_csv(folder / "growth.csv", result["growth"][0], [row.values() for row in result["growth"]])
    title = f"{result['model']}, {result['views']} views of {result['n']} videos: {100 * result['top1']:.1f} %"
    atomic_write(folder / "confusion.png", figure_bytes(confusion_picture(result["confusion"], classes, title)))
    atomic_write(folder / RESULT, json.dumps({"evaluated": asked, "result": result}, indent=2).encode())


def name(clips, index: int) -> str:
    """The path of a video of a data set. A drawn image has none, only a number."""
    return clips.rows[index]["path"] if hasattr(clips, "rows") else f"image {index}"
