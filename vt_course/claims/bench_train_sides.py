"""The sides that `bench train` compares: each trains in a process of its own, one epoch at a time, when it is asked to.

A side is a function `side(task, settings, turn, watch)`. It sets up a training and calls `turn()` before each epoch:
there it waits, reports, and learns whether to go on (True) or to end. Ours is the loop of `vt-course train`. The peers
are what a user would write instead: torchvision's model in a loop like that of torchvision's reference scripts
(references/video_classification), and the `Trainer` of transformers with its TimeSformer. All sides import their
libraries here below, so that no process holds those of another.
"""

import gc
import math
import multiprocessing
import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import av
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vt_course import CourseError
from vt_course.data.reader import open_file, scaled_size
from vt_course.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from vt_course.files import parsing, write_csv

LABELS = ("a", "b")
STAGES = ("decode", "resize", "collate", "forward", "backward", "step")
WEIGHT_DECAY, CLIP_NORM = 0.05, 1.0
# Instead of settings: another epoch with the same ones; let go of all that was trained; no further epoch.
AGAIN, REST, END = "again", "rest", "end"


@dataclass(frozen=True)
class Task:
    """What all sides do: train `model`, or its twin, on clips of `files`, in batches of `batch`.

    Both files and their `labels` are gone through again and again. `val`: pairs (file, label) on which each epoch is
    closed. `epochs`: for so many the learning rate is planned; by default, for more than anybody asks for. `smallest`,
    `ratio`: the least share of the area, and the range of width / height, of a random crop.
    """

    model: str
    files: tuple[str, ...]
    frames: int = 16
    stride: int = 2
    size: int = 64
    batch: int = 4
    labels: tuple[str, ...] = LABELS
    val: tuple[tuple[str, str], ...] = ()
    epochs: int = 1000
    warmup_epochs: float = 0.0
    lr: float = 1e-4
    flip: float = 0.5
    smallest: float = 0.8
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    short_side: int | None = None

    @property
    def keep(self) -> int:
        """The short side of frames that are decoded once and kept in memory, and of those scaled by hand."""
        return self.short_side or math.ceil(2 * self.size / math.sqrt(self.smallest))

    @property
    def classes(self) -> list[str]:
        return sorted(set(self.labels))


class Watch:
    """Where the seconds of an epoch go: the whole, the waits for each batch, and the stages of the work.

    The stages of loading are known only if the batches are made in this process. What the loss takes is in "backward".
    """

    def __init__(self):
        self.parameters, self.began, self.running, self.top1 = None, None, None, None

    def start(self) -> None:
        self.waits, self.seconds, self.running = [], dict.fromkeys(STAGES, 0.0), None
        self.began = self.marked = time.perf_counter()

    def report(self) -> dict:
        seconds, first = time.perf_counter() - self.began, self.waits[0]
        waiting = sum(self.waits[1:]) / (seconds - first)  # the first batch is waited for, whatever the loader does
        return {
            "seconds": seconds,
            "steps": len(self.waits),
            "waiting_share": waiting,
            "stages": self.seconds,
            "parameters": self.parameters,
            **({"val_top1": self.top1()} if self.top1 else {}),  # none of its seconds count
        }

    def mark(self, stage: str | None) -> None:
        now = time.perf_counter()
        if self.running:
            self.seconds[self.running] += now - self.marked
        self.running, self.marked = stage, now

    def look_at(self, model, optimizer, top1: Callable[[], float] | None) -> None:
        """From now on, note when a step goes forward, backward, and changes the weights; `top1` closes an epoch."""
        self.top1 = top1
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        model.register_forward_pre_hook(lambda *_: self.mark("forward"))
        model.register_forward_hook(lambda *_: self.mark("backward"))
        optimizer.register_step_pre_hook(lambda *_: self.mark("step"))
        optimizer.register_step_post_hook(lambda *_: self.mark(None))

    def timed(self, stage: str, work: Callable, less: str | None = None) -> Callable:
        """`work`, whose seconds count for `stage`. Those that meanwhile counted for the stage `less` do not."""

        def run(*args):
            began, inner = time.perf_counter(), self.seconds[less] if less else 0.0
            done = work(*args)
            inner = self.seconds[less] - inner if less else 0.0
            self.seconds[stage] += time.perf_counter() - began - inner
            return done

        return run


class Watched:
    """A loader of batches that tells a `Watch` how long each batch was waited for."""

    def __init__(self, loader, watch: Watch):
        self.loader, self.watch = loader, watch

    def __iter__(self) -> Iterator:
        began = time.perf_counter()
        for batch in self.loader:
            self.watch.waits.append(time.perf_counter() - began)
            yield batch
            began = time.perf_counter()

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str):
        return getattr(self.loader, name)


# ------------------------------------------------------------------------- ours


def ours(task: Task, settings: dict, turn: Callable[[], bool], watch: Watch) -> None:
    """The loop of `vt-course train`, without checkpoints. Settings: clips, workers, pipeline, seed."""
    from vt_course.machine import deterministic
    from vt_course.training.fit import Run
    from vt_course.training.recipes import Recipe
    from vt_course.training.run import open_everywhere

    with tempfile.TemporaryDirectory() as folder, deterministic(torch.device("cpu")):
        rows = chosen(task, settings["clips"])
        for split, each in {"train": rows, "val": task.val or rows}.items():
            each = ((*row, "", "") for row in each)
            write_csv(Path(folder) / f"{split}.csv", ("path", "label", "start", "end"), each)
        recipe = Recipe(
            task.model,
            data=f"csv:{folder}/train.csv,{folder}/val.csv",
            frames=task.frames,
            stride=task.stride,
            size=task.size,
            keep=task.keep if settings["pipeline"] == "kept" else 0,
            crop_scale=(task.smallest, 1.0),
            crop_ratio=task.ratio,
            flip=task.flip,
            batch_size=task.batch,
            epochs=task.epochs,
            warmup_epochs=task.warmup_epochs,
            lr=task.lr,
            weight_decay=WEIGHT_DECAY,
            grad_clip=CLIP_NORM,
            drop_path=0.0,
            label_smoothing=0.0,
            amp=False,
            seed=settings.get("seed", 0),
        )
        config, sets = open_everywhere(recipe, None)
        if settings["workers"] == 0:
            sets[0]._view = watch.timed("resize", sets[0]._view)
            sets[0]._clip = watch.timed("decode", sets[0]._clip, less="resize")
        run = Run(recipe, Path(folder) / "run", config, None, torch.device("cpu"), sets, settings["workers"], False)
        run.out.mkdir()
        run.train_loader.collate_fn = collating(watch, settings, run.train_loader.collate_fn)
        run.train_loader = Watched(run.train_loader, watch)

        def none_skipped(split: str) -> None:
            """A clip that cannot be read is skipped: on fewer of them a side would look faster, or better."""
            for fault in run.progress.bad[split].values():
                raise CourseError(fault)

        def top1() -> float:
            scores, _ = run.validate([])
            none_skipped("val")
            return scores["top1"]

        watch.look_at(run.model, run.optimizer, top1 if task.val else None)
        with run.event_log():
            while turn():
                run.train_epoch([], None, math.inf)
                none_skipped("train")
                run.progress.epoch, run.progress.batch = run.progress.epoch + 1, 0


def chosen(task: Task, clips: int) -> list[tuple[str, str]]:
    """(path, label) of the `clips` samples of an epoch: each file comes equally often, with random frames each time."""
    return [(task.files[k % len(task.files)], task.labels[k % len(task.labels)]) for k in range(clips)]


def collating(watch: Watch, settings: dict, collate: Callable) -> Callable:
    """Only where batches are made in this process: a worker would count for itself."""
    return collate if settings["workers"] else watch.timed("collate", collate)


# ------------------------------------------------------------------------- the peers' clips


def read_decord(path: str, task: Task, threads: int, short_side: int | None) -> np.ndarray:
    import decord

    reader = decord.VideoReader(path, num_threads=threads)
    return reader.get_batch(positions(len(reader), task)).asnumpy()


def read_pyav(path: str, task: Task, threads: int, short_side: int | None) -> np.ndarray:
    """Seek to the key frame before the clip and decode to its end. `short_side`: scale while converting to RGB."""
    with open_file(path) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE" if threads == 1 else "AUTO", threads
        rate, begin = stream.average_rate, stream.start_time or 0
        wanted, clip = positions(stream.frames or int(container.duration / av.time_base * rate), task).tolist(), []
        height, width = stream.height, stream.width
        if short_side:
            height, width = scaled_size(height, width, short_side)
        container.seek(begin + int(wanted[0] / rate / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if round((frame.pts - begin) * stream.time_base * rate) in wanted:
                clip.append(upright(frame, height, width))
            if len(clip) == task.frames:
                break
        return np.stack(clip)


def upright(frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
    """RGB, scaled to (height, width) as stored, then turned as the tag of the file says."""
    return np.rot90(frame.to_ndarray(format="rgb24", height=height, width=width), round(frame.rotation / 90) % 4)


def read_torchcodec(path: str, task: Task, threads: int, short_side: int | None) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=threads)
    return decoder.get_frames_at(positions(len(decoder), task).tolist()).data.numpy()


READERS = {"decord": read_decord, "PyAV": read_pyav, "torchcodec": read_torchcodec}


def positions(count: int, task: Task, train: bool = True) -> np.ndarray:
    """The frames of a clip that begins anywhere in a video of `count` frames; not `train`: of the one in its middle."""
    room = max(count - (task.frames - 1) * task.stride - 1, 0)
    return (random.randint(0, room) if train else room // 2) + np.arange(task.frames) * task.stride


def reference(task: Task) -> Callable:
    """The training preset of torchvision's references/video_classification: floats first, then everything else.

    There a clip of 128 x 171 pixels is cropped to 112; here the scale is the same, for the size of the task.
    """
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.ConvertImageDtype(torch.float32),
            transforms.Resize(task.size * 8 // 7, antialias=False),
            transforms.RandomHorizontalFlip(task.flip),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            transforms.RandomCrop(task.size),
        ]
    )


def by_hand(task: Task, train: bool) -> Callable:
    """The same with bytes as long as possible, as torchvision's documentation advises. `train`: else for validation."""
    from torchvision.transforms import v2

    cropped = [
        v2.RandomResizedCrop(task.size, scale=(task.smallest, 1.0), ratio=task.ratio, antialias=True),
        v2.RandomHorizontalFlip(task.flip),
    ]
    if not train:
        cropped = [v2.Resize(task.size, antialias=True), v2.CenterCrop(task.size)]
    return v2.Compose([*cropped, v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)])


class PeerClips(Dataset):
    """(clip (T, C, size, size), label), as the peers' users load them.

    Settings: clips, workers, decoder (of `READERS`), decoder_threads (0: the decoder chooses), and pipeline:
    "reference": frames of full size through the preset of the reference scripts; "by hand": frames scaled while they
    are decoded, and `by_hand`; "kept": the same, but each file is decoded once, and all its frames stay in memory.
    `train`: False for the clips of validation, which are kept, too: the middle of each, in time and in space.
    """

    def __init__(self, task: Task, settings: dict, watch: Watch, train: bool = True):
        self.task, self.settings, self.train = task, settings, train
        rows = chosen(task, settings["clips"]) if train else task.val
        self.rows = [(path, task.classes.index(label)) for path, label in rows]
        self.kept = {}  # path: uint8 (F, h, w, C)
        self.transform = reference(task) if settings["pipeline"] == "reference" else by_hand(task, train)
        if settings["workers"] == 0 and train:
            self.transform = watch.timed("resize", self.transform)
            self.read = watch.timed("decode", self.read)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.rows[index]
        frames = torch.from_numpy(self.read(path))  # (T, H, W, C)
        return self.transform(frames.permute(0, 3, 1, 2)), label

    def read(self, path: str) -> np.ndarray:
        task, decoder, threads = self.task, self.settings["decoder"], self.settings["decoder_threads"]
        short_side = None if self.settings["pipeline"] == "reference" else task.keep
        with parsing(path, f"not readable by {decoder}", "leave it out."):
            if self.settings["pipeline"] != "kept":
                return READERS[decoder](path, task, threads, short_side)
            if path not in self.kept:
                self.kept[path] = every_frame(path, short_side)
        frames = self.kept[path]
        return frames[positions(len(frames), task, self.train)]


def every_frame(path: str, short_side: int) -> np.ndarray:
    with open_file(path) as container:
        stream, clip = container.streams.video[0], []
        height, width = scaled_size(stream.height, stream.width, min(short_side, stream.height, stream.width))
        for frame in container.decode(stream):
            clip.append(upright(frame, height, width))
        return np.stack(clip)


# ------------------------------------------------------------------------- the peers


def measure(model, task: Task, settings: dict, watch: Watch, logits: Callable) -> Callable[[], float] | None:
    """What a user writes after the epoch: the share of the clips of validation whose class `logits(clip)` finds."""
    if not task.val:
        return None
    loader = DataLoader(PeerClips(task, settings, watch, train=False), 32)

    @torch.no_grad()
    def top1() -> float:
        model.eval()
        right = sum((logits(clip).argmax(1) == label).sum().item() for clip, label in loader)
        model.train()
        return right / len(task.val)

    return top1


def torchvision(task: Task, settings: dict, turn: Callable[[], bool], watch: Watch) -> None:
    """SwinTransformer3d of our mini's size, in a loop like `train_one_epoch` of the reference scripts."""
    from torchvision.models.video import SwinTransformer3d

    from vt_course.models import ZOO

    config = ZOO[task.model].config
    same = {name: list(config[name]) for name in ("depths", "num_heads")}
    window, width = list(config["window"]), config["embed_dim"]
    more = dict(window_size=window, stochastic_depth_prob=0.0, num_classes=len(task.classes))
    model = SwinTransformer3d([2, 4, 4], width, **same, **more)
    optimizer = torch.optim.AdamW(model.parameters(), task.lr, weight_decay=WEIGHT_DECAY)
    data, workers = PeerClips(task, settings, watch), settings["workers"]
    batches = -(-len(data) // task.batch)
    schedule = planned(optimizer, task.epochs * batches, round(task.warmup_epochs * batches))
    loader = DataLoader(
        data,
        task.batch,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=collating(watch, settings, torch.utils.data.default_collate),
        worker_init_fn=seed_random,
    )

    def scores(clip):
        return model(clip.transpose(1, 2))  # (B, T, C, H, W) -> (B, C, T, H, W)

    watch.look_at(model, optimizer, measure(model, task, settings, watch, scores))
    model.train()
    while turn():
        for clip, label in Watched(loader, watch):
            logits = scores(clip)
            loss = torch.nn.functional.cross_entropy(logits, label)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
            schedule.step()
            (logits.argmax(1) == label).float().mean().item(), loss.item()  # what its metric logger shows


def planned(optimizer, steps: int, warmup: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear to the peak, then cosine to zero."""
    from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

    if not warmup:
        return CosineAnnealingLR(optimizer, steps)
    parts = [
        LinearLR(optimizer, 1 / warmup, total_iters=max(warmup - 1, 1)),
        CosineAnnealingLR(optimizer, steps - warmup),
    ]
    return SequentialLR(optimizer, parts, [warmup])


def seed_random(worker: int) -> None:
    random.seed(torch.initial_seed())


def batch_of_trainer(samples: list) -> dict:
    clips, labels = torch.utils.data.default_collate(samples)
    return {"pixel_values": clips, "labels": labels}


class Ended(Exception):
    """No further epoch is asked for."""


def transformers(task: Task, settings: dict, turn: Callable[[], bool], watch: Watch) -> None:
    """`Trainer` with TimeSformer of our mini's size."""
    import transformers as library

    from vt_course.models import ZOO

    library.logging.set_verbosity_error()
    config, workers = ZOO[task.model].config, settings["workers"]
    model = library.TimesformerForVideoClassification(
        library.TimesformerConfig(
            image_size=task.size,
            patch_size=config["patch_size"],
            num_frames=task.frames,
            hidden_size=config["embed_dim"],
            num_hidden_layers=config["depth"],
            num_attention_heads=config["num_heads"],
            intermediate_size=4 * config["embed_dim"],
            num_labels=len(task.classes),
        )
    )

    top1 = measure(model, task, settings, watch, lambda clip: model(pixel_values=clip).logits)

    class Waits(library.TrainerCallback):
        def on_train_begin(self, args, state, control, optimizer=None, **more):
            watch.look_at(model, getattr(optimizer, "optimizer", optimizer), top1)  # accelerate has wrapped it

        def on_epoch_begin(self, args, state, control, **more):
            if not turn():
                raise Ended  # `should_training_stop` would be looked at after one more step

    class Trainer(library.Trainer):
        def get_train_dataloader(self):
            return Watched(super().get_train_dataloader(), watch)

    with tempfile.TemporaryDirectory() as folder:
        arguments = library.TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            per_device_train_batch_size=task.batch,
            num_train_epochs=task.epochs,
            learning_rate=task.lr,
            warmup_steps=round(task.warmup_epochs * -(-settings["clips"] // task.batch)),
            seed=settings.get("seed", 0),
            weight_decay=WEIGHT_DECAY,
            max_grad_norm=CLIP_NORM,
            lr_scheduler_type="cosine",
            dataloader_num_workers=workers,
            dataloader_persistent_workers=workers > 0,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(
            model,
            arguments,
            data_collator=collating(watch, settings, batch_of_trainer),
            train_dataset=PeerClips(task, settings, watch),
            callbacks=[Waits()],
        )
        trainer.remove_callback(library.PrinterCallback)
        with suppress(Ended):
            trainer.train()
            turn()  # after the last of all epochs; nobody asks for another one


SIDES = {"ours": ours, "torchvision": torchvision, "transformers": transformers}


# ------------------------------------------------------------------------- the process of a side


def serve(connection: Connection, side: str, task: Task) -> None:
    """Train whenever settings come through `connection`, and answer each epoch with the report of its `Watch`.

    AGAIN: another epoch with the same settings. REST: the training and its workers are dropped, so that they count for
    no other settings. END: the process ends. What goes wrong is answered as {"error": ...}.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C, and ends this process
    if sys.platform == "linux":  # workers are forked, as in a user's program; a process that was spawned would spawn
        multiprocessing.set_start_method("fork", force=True)
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # more workers than cores: it is a try
    if side != "ours":
        preload()
    with suppress(EOFError, ConnectionError):  # the parent has been killed
        asked = connection.recv()
        while asked != END:
            if asked != REST:
                asked = with_settings(connection, side, task, asked)
                continue
            gc.collect()  # a loader stands in a cycle of references: until that is found, its workers live on
            connection.send({})
            asked = connection.recv()
        gc.collect()  # at the exit of Python a loader complains of workers that are ended for it


def preload() -> None:
    """Import the decoders before the workers are forked, so that no worker's first clip pays for it."""
    for name in ("av", "decord", "torchcodec.decoders"):
        with suppress(ImportError, OSError, RuntimeError):
            __import__(name)


def with_settings(connection: Connection, side: str, task: Task, settings: dict):
    """Train with these settings until something else than AGAIN is asked for, which is returned."""
    watch, asked = Watch(), AGAIN

    def turn() -> bool:
        nonlocal asked
        if watch.began is not None:
            connection.send(watch.report())
            asked = connection.recv()
        watch.start()
        return asked == AGAIN

    torch.set_num_threads(settings["threads"])
    torch.manual_seed(settings.get("seed", 0))
    random.seed(settings.get("seed", 0))
    try:
        SIDES[side](task, settings, turn, watch)
        return asked
    except (EOFError, ConnectionError):
        raise
    except CourseError as error:
        sentence = str(error)
    except Exception as error:  # of another library: which one depends on what its code stumbles over
        sentence = " ".join([f"{type(error).__name__}:", *str(error).strip().splitlines()[-1:]])
    connection.send({"error": sentence})
    return connection.recv()
