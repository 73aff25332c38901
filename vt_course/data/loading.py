"""From a data set to batches: which clips make one, what is kept in memory, how many processes decode."""
import math
import os
import signal

import numpy as np
import torch
from torch.utils.data import DataLoader

from vt_course import CourseError
from vt_course.data import transforms
from vt_course.data.clips import VideoFolder, collate
from vt_course.data.reader import scaled_size
from vt_course.machine import cores

ROOM = 512 << 20  # bytes of frames that a data set keeps: all of the embedded one's, 482 MB


class KeptFrames(VideoFolder):
    """A `VideoFolder` that decodes each file once and keeps its frames in memory, while there is room.

    They are scaled to the short side `keep`; files of more than twice that are scaled to twice it
    while they are decoded. For training all frames of a file are kept, for validation those that it
    looks at: frames * H * W * 3 bytes, at most `ROOM` bytes in the process that reads. A file that
    has no room is decoded for each sample, to the same pixels.
    Raises `CourseError` for a manifest with start or end times: a part of a
    long video would keep all of it.
    """

    def __init__(self, manifest, *, keep: int, **settings):
        super().__init__(manifest, **settings)
        if any(row["start"] is not None or row["end"] is not None for row in self.rows):
            raise CourseError(f"{manifest} has start or end times: train with keep=0")
        self.keep, self.kept, self.room = keep, {}, ROOM

    def _clip(self, row, rng):
        video = row["path"], row.get("offset")
        if video not in self.kept:
            reader = self._open(row)
            n, size = reader.num_frames, scaled_size(*reader.size, self.keep)
            reader.at_most(2 * self.keep)
            wanted = np.arange(n) if self.train else self._indices(n, rng)
            if len(wanted) * math.prod(size) * 3 > self.room:
                return self._view(_read_scaled(reader, self._indices(n, rng), size), rng)
            self.kept[video] = _read_scaled(reader, wanted, size)  # (F, h, w, C)
            self.room -= self.kept[video].nbytes
        frames = self.kept[video]
        if self.train:
            frames = frames[torch.from_numpy(self._indices(len(frames), rng))]  # (T, h, w, C)
        return self._view(frames, rng)


def _read_scaled(reader, indices, size: tuple[int, int]):
    """The frames at `indices`, uint8 (T, h, w, C), (h, w) = size; never more than a few of them larger."""
    return torch.from_numpy(reader.read(indices, lambda few: transforms.resize(torch.from_numpy(few), *size).numpy()))


class EpochBatches:
    """Batches of keys (epoch, index): a permutation that depends on (seed, epoch) only.

    `start` skips batches at the front, which is how a run goes on in the middle of an epoch.
    Each index comes exactly once an epoch: the last batch may be smaller. Of each batch, process
    `rank` of `world` takes every `world`-th key from its own on, which may be none of a small one.
    """

    def __init__(self, clips: int, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        self.clips, self.size, self.seed = clips, min(batch_size, clips), seed
        self.rank, self.world = rank, world
        self.epoch = self.start = 0

    def __len__(self):
        return -(-self.clips // self.size)                       # rounded up

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.clips).tolist()
        for batch in range(self.start, len(self)):
            whole = order[batch * self.size:(batch + 1) * self.size]
            yield [(self.epoch, i) for i in whole[self.rank::self.world]]


def ignore_interrupt(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; only the main one may answer it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def make_loader(dataset, batches, workers: int | None, device: torch.device) -> DataLoader:
    """A loader over `batches`, an iterable of lists of data set keys."""
    workers = default_workers() if workers is None else workers
    if isinstance(dataset, KeptFrames):
        workers = min(workers, 1)  # each process would keep its own copy
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=collate,
                      worker_init_fn=ignore_interrupt, persistent_workers=workers > 0,
                      pin_memory=device.type == "cuda")


def in_order(dataset, batch_size: int) -> list[list[int]]:
    """Batches of consecutive indices that hold about `batch_size` clips, all views counted."""
    n, videos = len(dataset), max(batch_size // math.prod(dataset.views or (1,)), 1)
    return [list(range(i, min(i + videos, n))) for i in range(0, n, videos)]


def default_workers() -> int:
    """One decoding process leaves the second core of a small machine to the model; torchrun's processes share the cores."""
    return min(max(cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1, 1), 8)
