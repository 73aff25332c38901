"""From a data set to batches: which clips form a batch, which frames are kept in memory, how many processes decode."""

import math
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vt_course import CourseError
from vt_course.data import transforms
from vt_course.data.clips import VideoFolder, collate
from vt_course.data.reader import scaled_size
from vt_course.machine import cores

ROOM = 512 << 20  # bytes of frames that a data set keeps; the embedded data set has 482 MB


class KeptFrames(VideoFolder):
    """A `VideoFolder` that decodes each file once and keeps its frames in memory, while there is room.

    Frames are kept with the short side `keep`. If a file has more than twice `keep`, its frames are first scaled to
    twice `keep`, while they are decoded. For training, all frames of a file are kept; for validation, only those
    that are used. They take frames * H * W * 3 bytes, and at most `ROOM` bytes in the process that reads. A file for
    which there is no room is decoded again for each sample, to the same pixels.
    A process that makes several runs on the same clips sets `shared` to an empty dict. Then a new data set finds the
    frames that an earlier one has kept, if it would keep the same.
    Raises `CourseError` for a manifest with start or end times, because the whole of a long video would be kept
    for a part of it.
    """

    shared: dict | None = None

    def __init__(self, manifest, *, keep: int, **settings):
        super().__init__(manifest, **settings)
        if any(row["start"] is not None or row["end"] is not None for row in self.rows):
            raise CourseError(f"{manifest} has start or end times: train with keep=0")
        self.keep = keep
        used = None if self.train else (self.frames, self.stride, self.sampling)
        found = {} if self.shared is None else self.shared.setdefault((keep, used, str(manifest), self.decoder), {})
        self.kept: dict[tuple, Tensor] = found  # (path, offset): uint8 (F, h, w, C)
        self.room = ROOM - sum(frames.nbytes for frames in found.values())

    def _clip(self, row, rng):
        video = row["path"], row.get("offset")
        if video not in self.kept:
            reader = self._open(row)
            n, size = reader.num_frames, scaled_size(*reader.size, self.keep)
            reader.at_most(2 * self.keep)
            wanted = np.arange(n) if self.train else self._indices(n, rng)
            if len(wanted) * math.prod(size) * 3 > self.room:
                return self._view(_read_scaled(reader, self._indices(n, rng), size), rng)
            self.kept[video] = _read_scaled(reader, wanted, size)
            self.room -= self.kept[video].nbytes
        frames = self.kept[video]
        if self.train:
            frames = frames[torch.from_numpy(self._indices(len(frames), rng))]  # (T, h, w, C)
        return self._view(frames, rng)


def _read_scaled(reader, indices, size: tuple[int, int]):
    """The frames at `indices`, uint8 (T, h, w, C), (h, w) = size. Only a few at a time are in memory at full size."""
    return torch.from_numpy(reader.read(indices, lambda few: transforms.resize(torch.from_numpy(few), *size).numpy()))


class EpochBatches:
    """Batches of keys (epoch, index), in an order that depends on (seed, epoch) only.

    `start` skips this many batches at the front, so that a run can go on in the middle of an epoch.
    Each index comes exactly once in an epoch, so the last batch may be smaller. Of each batch, process number
    `rank` of `world` processes takes every `world`-th key, beginning with key number `rank`. In a small batch
    this may be no key at all.

    With `repeats`, each index comes so many times in its batch, in keys of different epochs, so that the data set gives
    different views of it. No two epochs of the training share such a key. `batch_size` counts all views, `size` the
    different clips of a batch.
    """

    def __init__(self, clips: int, batch_size: int, seed: int, rank: int = 0, world: int = 1, repeats: int = 1):
        self.clips, self.size, self.seed, self.repeats = clips, min(batch_size // repeats, clips), seed, repeats
        self.rank, self.world = rank, world
        self.epoch = self.start = 0

    def __len__(self):
        return -(-self.clips // self.size)  # rounded up

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.clips).tolist()
        for batch in range(self.start, len(self)):
            whole = order[batch * self.size : (batch + 1) * self.size]
            keys = [(self.epoch * self.repeats + k, i) for i in whole for k in range(self.repeats)]
            yield keys[self.rank :: self.world]


def ignore_interrupt(worker: int) -> None:
    """Start of a worker: ignore Ctrl-C. It reaches every process of a terminal, but only the main one may react.

    A request to end must end it, although the main process may have handlers of its own, which a fork inherits.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def make_loader(dataset, batches, workers: int | None, device: torch.device) -> DataLoader:
    """A DataLoader over `batches`, an iterable of lists of data set keys. `workers`: None for the default."""
    workers = default_workers() if workers is None else workers
    if isinstance(dataset, KeptFrames):
        workers = min(workers, 1)  # because each process would keep its own copy of the frames
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=ignore_interrupt,
        persistent_workers=workers > 0,
        multiprocessing_context=start_method() if workers else None,
        pin_memory=device.type == "cuda",
    )


@contextmanager
def short_of_memory(progress_kept: bool = False) -> Iterator[None]:
    """Turn a lack of memory into one sentence (`CourseError`): of this process, of a GPU, or of a loader process.

    If memory runs out, the system kills a process, most often one of the loader's. torch tells this by a RuntimeError,
    which it raises at any moment, from its handler of the signal that a child has ended. If we were just taking a clip
    from that process, its end is an error of a connection.
    `progress_kept`: whether the same command goes on from a checkpoint.
    """
    try:
        yield
    except (RuntimeError, MemoryError, ConnectionError, EOFError) as error:
        what = lacking(error)
        if what is None:
            raise
        again = ", which goes on from the last checkpoint," * progress_kept
        raise CourseError(
            f"{what}: run the same command again{again} with fewer loader processes (--workers 0: none), smaller "
            "batches, or more free memory"
        ) from error


def lacking(error: Exception) -> str | None:
    """What lacks memory, as the beginning of a sentence; None if the error has another cause."""
    text = str(error)
    if re.search(r"workers are out of shared memory|allocate shared memory|</torch_\S*: No space left", text):
        return "the loader processes found no room in the shared memory (/dev/shm)"
    end = re.search(r"DataLoader worker \(pid.*?\) (is killed by signal: [\w ]+|exited unexpectedly)", text)
    if end or isinstance(error, (ConnectionError, EOFError)):
        how = end[1].strip() if end else "exited unexpectedly"
        return f"a loader process {how}, as when memory runs out or somebody ends it"
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU has too little free memory"
    if isinstance(error, MemoryError) or "allocate memory" in text:  # the latter is torch's own, on the CPU
        return "memory ran out"
    return None


def start_method() -> str | None:
    """How workers are started: forked on Linux, by the default of Python elsewhere.

    Since Python 3.14, the default of Linux is a fork server. If a training process is killed, the server waits for its
    workers and the workers wait for the server, so that they stay in memory for good.
    """
    return "fork" if sys.platform == "linux" else None


def in_order(dataset, batch_size: int) -> list[list[int]]:
    """Batches of consecutive indices that hold about `batch_size` clips, where each view counts as one."""
    n, videos = len(dataset), max(batch_size // math.prod(dataset.views or (1,)), 1)
    return [list(range(i, min(i + videos, n))) for i in range(0, n, videos)]


def default_workers() -> int:
    """The number of decoding processes, 1 to 8: one a core. Ranks share the cores.

    The model needs a core, too, but where files are large it waits for clips: with two processes on two cores an epoch
    over a phone's clips takes little more than half as long as with one, and over prepared clips about as long
    (`vt-course bench train`).
    """
    return min(max(cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 1), 8)
