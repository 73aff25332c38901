"""Communication between several processes that train one model, started by torchrun.

torchrun numbers its processes, which are called ranks, from 0 to world - 1. A process that was not started by torchrun
is rank 0 of 1. Then the functions of this file return their own input.
"""

import os
import time
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from vt_course import CourseError


@contextmanager
def group(device: torch.device):
    """If torchrun started this process, join the group of its processes. Yields the device of this process.

    Numbers are sent by the backend gloo, gradients on CUDA by NCCL. Raises `CourseError` for a device that is neither
    cuda nor cpu, for more processes than GPUs, and if another process has ended.
    """
    if "LOCAL_RANK" not in os.environ:
        yield device
        return
    if device.type not in ("cpu", "cuda"):
        raise CourseError(f"torchrun trains on cuda or cpu, not on {device.type}: add --device cpu")
    if device.type == "cuda":
        here, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if here > gpus:
            raise CourseError(
                f"torchrun started {here} processes on a machine with {gpus} GPUs: use --nproc-per-node {gpus}"
            )
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")  # may fail if another ends
        yield device
    except RuntimeError as error:
        if not any(words in str(error) for words in ("Connection closed", "Connection reset", "remote worker")):
            raise
        raise CourseError(
            "another process of torchrun ended, and what it printed says why; the last checkpoint is "
            "kept: run the same command again"
        ) from error
    finally:
        if dist.is_initialized():
            # A thread of gloo may still have to drop the tensors of the last message, for which it needs Python's lock.
            # Up to torch 2.9, the end of the group waits for that thread without giving the lock away, so wait here.
            time.sleep(0.2)
            dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def total(*numbers: float) -> list[float]:
    """The sum of each number over all ranks."""
    if world() == 1:
        return list(numbers)
    sums = torch.tensor(numbers, dtype=torch.float64)  # exact for counts
    dist.all_reduce(sums)
    return sums.tolist()


def gather(value) -> list:
    """The values of all ranks, in the order of the ranks."""
    values = [value] * world()
    if world() > 1:
        dist.all_gather_object(values, value)
    return values


def together(work) -> list:
    """Call `work` on all ranks. Returns their results in order.

    If it raises `CourseError` on one rank, all ranks raise it, so that none waits for another.
    """
    results = gather(_attempt(work))
    for number, result in enumerate(results):
        if isinstance(result, CourseError):
            raise CourseError(f"rank {number}: {result}") if number else result
    return results


def by_leader(work):
    """Call `work` on rank 0 only. All ranks return its result, or raise its `CourseError`."""
    outcome = [_attempt(work) if rank() == 0 else None]
    if world() > 1:
        dist.broadcast_object_list(outcome)
    if isinstance(outcome[0], CourseError):
        raise outcome[0]
    return outcome[0]


def _attempt(work):
    try:
        return work()
    except CourseError as error:
        return error


def parallel(model, device: torch.device):
    """The model, wrapped so that `backward` gives every rank the mean of the gradients of all ranks."""
    if world() == 1:
        return model
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def apart(model, apart: bool):
    """A context for forward and backward in which, if `apart`, the ranks do not exchange their gradients yet."""
    return model.no_sync() if apart and world() > 1 else nullcontext()


def share_buffers(model) -> None:
    """Copy the buffers of rank 0 to all ranks. A BatchNorm's running means differ, because the ranks' clips do."""
    if world() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
