"""Communication between several processes that train one model, started by torchrun on one machine or on several.

torchrun numbers its processes, which are called ranks, from 0 to world - 1. A process that was not started by torchrun
is rank 0 of 1. Then the functions of this file return their own input.

If one rank fails, all must end, in a bounded time and with the reason. A rank that fails leaves its sentence in the
store of torchrun, and its connections close. The others notice that in their next exchange and look for the sentence.
Each error is printed once on each machine: by rank 0, and on the others by the first rank that fails.
"""

import itertools
import os
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from vt_course import CourseError, need

MEETING = 300.0  # seconds within which all ranks must have come, and then have connected
PATIENCE = 1800.0  # seconds that a rank waits for the numbers of another one: rank 0 may be writing to a slow disk
SILENCE = 60  # seconds after which a machine counts as lost whose system does not answer at all

WHY, SAID = "why", "said on machine {}"  # in the store: the sentence of the rank that failed; whether it was printed
GROUPS = itertools.count()  # this process may join one group after another, which need keys of their own


@contextmanager
def group(device: torch.device):
    """If torchrun started this process, join the group of its processes. Yields the device of this process.

    Within a group, the same group goes on. Numbers are sent by the backend gloo, gradients on CUDA by NCCL. Raises
    `CourseError` for a device that is neither cuda nor cpu, for more processes than GPUs, if a process does not come or
    cannot be reached, and if another process has ended.
    """
    if "LOCAL_RANK" not in os.environ or dist.is_initialized():
        yield device
        return
    store = None
    try:
        store, number, world = _rendezvous()
        store = dist.PrefixStore(f"group {next(GROUPS)}", store)
        device = _meet(store, number, world, device)
        _connect(store, number, world, device)
        yield device
    except CourseError as error:
        _leave_word(store, str(error))
        if int(os.environ.get("GROUP_RANK", 0)):  # not the machine of rank 0
            error.speaks = _first_here(store)
        raise
    except KeyboardInterrupt:
        _leave_word(store, "it was interrupted")
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and any(words in str(error) for words in LOST):
            raise _lost(store, error) from error
        _leave_word(store, f"it ended in a {type(error).__name__}, which its machine printed")
        raise
    finally:
        if dist.is_initialized():
            # A thread of gloo may still have to drop the tensors of the last message, for which it needs Python's lock.
            # Up to torch 2.9, the end of the group waits for that thread without giving the lock away, so wait here.
            try:
                time.sleep(0.2)
            except RuntimeError:  # as in `_leave_word`: another loader process has ended, which is no news
                time.sleep(0.2)
            dist.destroy_process_group()


def _rendezvous() -> tuple:
    """(the store of torchrun, the number of this rank, world)."""
    try:
        return next(dist.rendezvous("env://", timeout=timedelta(seconds=MEETING)))
    except Exception as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise CourseError(
            f"the {os.environ['WORLD_SIZE']} ranks have not met at {place} within {MEETING / 60:g} minutes: read what "
            "their machines printed, and run the same command again on all of them"
        ) from error


def _meet(store, number: int, world: int, device: torch.device) -> torch.device:
    """Wait until all ranks have come. Returns the device of this one.

    If the ranks run on several machines, they tell each other their addresses. By default gloo takes the address that
    belongs to the name of the machine. Many systems give it 127.0.1.1, where no other machine reaches it.
    """
    own = _own_address(os.environ["MASTER_ADDR"])
    mine = _attempt(lambda: _local_device(device))
    fault = str(mine) if isinstance(mine, CourseError) else ""
    store.set(f"fault of rank {number}", fault)
    store.set(f"rank {number}", own)
    end = time.monotonic() + MEETING
    while missing := [each for each in range(world) if not store.check([f"rank {each}"])]:
        need(
            time.monotonic() < end,
            f"rank {missing[0]} of {world} has not come within {MEETING / 60:g} minutes: read what its machine "
            "printed, and run the same command again on all machines",
        )
        time.sleep(0.05)
    for each in range(world):
        fault = store.get(f"fault of rank {each}").decode()
        need(not fault, f"rank {each}: {fault}" if each else fault)
    addresses = [store.get(f"rank {each}").decode() for each in range(world)]
    far = [address for address in addresses if not address.startswith("127.") and address != "::1"]
    if int(os.environ.get("GROUP_WORLD_SIZE", 1)) > 1 and far:
        own = own if own in far else _own_address(far[0])
        for name, found in psutil.net_if_addrs().items():
            if own in [each.address for each in found]:
                os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    return mine


def _own_address(host: str) -> str:
    """The address of this machine on the way to `host`."""
    with suppress(OSError):
        family, *_, place = socket.getaddrinfo(host, 1, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as one:  # which sends nothing yet
            one.connect(place)
            return one.getsockname()[0]
    return "127.0.0.1"


def _local_device(device: torch.device) -> torch.device:
    if device.type not in ("cpu", "cuda"):
        raise CourseError(f"torchrun trains on cuda or cpu, not on {device.type}: add --device cpu")
    if device.type == "cpu":
        return device
    here, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    need(here <= gpus, f"torchrun started {here} processes on a machine with {gpus} GPUs: use --nproc-per-node {gpus}")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


def _connect(store, number: int, world: int, device: torch.device) -> None:
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    unreachable = (
        f"the ranks have met at {os.environ['MASTER_ADDR']} but do not reach each other: open the network between the "
        "machines for all ports, or name the interface that they share in the variables GLOO_SOCKET_IFNAME and "
        "NCCL_SOCKET_IFNAME"
    )

    def give_up() -> None:  # gloo waits without end for a rank that failed to connect
        print(f"vt-course: {unreachable}.", file=sys.stderr, flush=True)
        os._exit(2)

    timer = threading.Timer(MEETING, give_up)
    timer.daemon = True
    timer.start()
    told = dict(store=store, rank=number, world_size=world, timeout=timedelta(seconds=PATIENCE))
    try:
        dist.init_process_group(backend, **told)
    except RuntimeError as error:
        if "connectFullMesh" not in str(error):  # else another rank has ended meanwhile
            raise
        raise CourseError(unreachable) from error
    finally:
        timer.cancel()
    _notice_silence()


def _notice_silence() -> None:
    """Let the system ask the machines at the other end of our connections whether they are still there.

    The system of a machine closes the connections of a process that dies. If the machine itself is lost, or the
    network, nothing would ever come. (Linux only; elsewhere `PATIENCE` ends the wait.)
    """
    if sys.platform != "linux":
        return
    tcp = {socket.TCP_KEEPIDLE: SILENCE // 2, socket.TCP_KEEPINTVL: SILENCE // 6, socket.TCP_KEEPCNT: 3}
    tcp[socket.TCP_USER_TIMEOUT] = 1000 * SILENCE  # milliseconds, for what was sent and not received
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(descriptor))) as one:  # of most files: no socket
            if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for name, value in tcp.items():
                    one.setsockopt(socket.IPPROTO_TCP, name, value)


# ---------------------------------------------------------------- the end of a rank

LATE = "Timed out waiting"
# What gloo, and the store of torchrun, say if another process or its machine is gone.
LOST = (LATE, "Connection closed", "Connection reset", "remote worker", "Broken pipe", "Connection refused")


def _leave_word(store, sentence: str) -> None:
    """Leave a sentence for the ranks that will miss this one. Rank 0 prints it itself, for its machine."""
    number = int(os.environ["RANK"])
    for _ in range(3):  # torch tells the end of a loader process by a RuntimeError at any moment, so also here
        with suppress(RuntimeError, AttributeError):  # or the machine of the store is gone, or was never reached
            if not store.check([WHY]):
                store.set(WHY, f"rank {number}: {sentence}" if number else sentence)
            break
    if number == 0:
        _first_here(store)


def _lost(store, error: RuntimeError) -> CourseError:
    """The error of a rank that misses another one. The first such rank of each machine prints it."""
    again = "what was saved is kept: run the same command again, on all machines"
    first, why = _first_here(store), None
    with suppress(RuntimeError):
        why = store.get(WHY).decode() if store.check([WHY]) else None
    if why is None and LATE in str(error):
        why = f"another process of torchrun has not answered for {PATIENCE / 60:g} minutes; {again}"
    elif why is None:
        why = (
            "another process of torchrun ended without a word, as when it is killed, memory runs out or its machine is "
            f"lost; {again}"
        )
    lost = CourseError(why)
    lost.speaks = first
    return lost


def _first_here(store) -> bool:
    """Whether no other rank of this machine has asked before. Without a store: whether it is the first by number."""
    try:
        return store.add(SAID.format(os.environ.get("GROUP_RANK", 0)), 1) == 1
    except (RuntimeError, AttributeError):
        return os.environ["LOCAL_RANK"] == "0"


@contextmanager
def polite_interrupt():
    """Yields a list. The first Ctrl-C, and the first request to end, only append to it; the second end as usual.

    The training loop looks at the list between its steps, because a KeyboardInterrupt in the middle of an
    optimiser step would leave half of the weights updated. A request to end (SIGTERM) comes from Slurm when the time of
    a job is over, and from torchrun when another process has failed. Both wait 30 seconds before they kill.
    """
    pressed = []
    if threading.current_thread() is not threading.main_thread():
        yield pressed  # only the main thread may set handlers
        return

    def handle(number, frame):
        pressed.append(number)
        signal.signal(number, before[number])

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield pressed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------- exchanges


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


def same(value: dict) -> None:
    """Raise `CourseError` if a rank has other values than rank 0."""
    each = gather(value)
    for number, other in enumerate(each):
        differ = [name for name in value if other[name] != each[0][name]]
        need(
            not differ,
            f"rank {number} has other {' and '.join(differ)} than rank 0: give every machine the same files and the "
            "same command",
        )


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


def share(tensors) -> None:
    """Copy the tensors of rank 0 to all ranks."""
    if world() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)
