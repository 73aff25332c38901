"""The speed of our models compared with that of other libraries: same weights, same input, one process, taking turns.

Each pair has a process of its own, because memory that earlier pairs leave behind changes the speed of later ones.
`bench_models` gives one row for each pair of models, pass (forward, or forward and backward) and execution (eager,
or through torch.compile). A ratio above 1 means that ours is faster. Both models are in eval mode with drop path
and dropout off, so that a backward pass is the same arithmetic in both.
"""

import importlib.util
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from multiprocessing.connection import Connection

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vt_course import CourseError, need
from vt_course.models import ZOO, create
from vt_course.models.cost import count_macs
from vt_course.models.mvit import PoolingAttention
from vt_course.models.official import from_official
from vt_course.models.swin import WindowAttention
from vt_course.models.timesformer import SCHEMES, Attention, DividedBlock
from vt_course.models.uniformer import Depthwise
from vt_course.training.recipes import CLIPS


@dataclass(frozen=True)
class Pair:
    """One of our variants and its peer. It is sent to another process, so `peer` must be a function that pickles."""

    ours: str
    library: str
    peer: Callable[[], nn.Module]
    shape: tuple[int, ...]  # of one sample in our layout: (C, H, W) or (C, T, H, W)
    batch: int = 1


def torchvision(name: str) -> nn.Module:
    import torchvision

    return torchvision.models.get_model(name)


def timm(name: str) -> nn.Module:
    import timm

    return timm.create_model(name)


class Timesformer(nn.Module):
    """The model of transformers, called like ours: (B, C, T, H, W) -> logits (B, K)."""

    def __init__(self):
        super().__init__()
        from transformers import TimesformerConfig, TimesformerForVideoClassification

        self.model = TimesformerForVideoClassification(TimesformerConfig(num_labels=400, num_frames=8))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x.transpose(1, 2)).logits


PAIRS = {
    "swin_tiny": Pair("swin_tiny", "torchvision", partial(torchvision, "swin_t"), (3, 224, 224), 4),
    "swin_tiny/timm": Pair("swin_tiny", "timm", partial(timm, "swin_tiny_patch4_window7_224"), (3, 224, 224), 4),
    "video_swin_tiny": Pair("video_swin_tiny", "torchvision", partial(torchvision, "swin3d_t"), (3, 16, 224, 224)),
    "video_swin_small": Pair("video_swin_small", "torchvision", partial(torchvision, "swin3d_s"), (3, 16, 224, 224)),
    "video_swin_base": Pair("video_swin_base", "torchvision", partial(torchvision, "swin3d_b"), (3, 16, 224, 224)),
    "mvit_base_16x4": Pair("mvit_base_16x4", "torchvision", partial(torchvision, "mvit_v1_b"), (3, 16, 224, 224)),
    "mvit_v2_small_16x4": Pair(
        "mvit_v2_small_16x4", "torchvision", partial(torchvision, "mvit_v2_s"), (3, 16, 224, 224)
    ),
    "timesformer_divided_8x224": Pair("timesformer_divided_8x224", "transformers", Timesformer, (3, 8, 224, 224)),
}


PASSES = ("forward", "forward+backward")
LEAST = 7  # turns; with fewer, medians say little on a machine that others also use


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """MACs per second of one large matrix product, the most that the machine can reach. Median of 7."""
    n = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in "ab")
    return n**3 / statistics.median(clock(lambda: a @ b, device) for _ in range(7))


def clock(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


@contextmanager
def quiet():
    """Hide the messages of the profiler, which it writes to stderr directly, not through Python."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The peak of allocated memory while `work` runs, in bytes, minus what was allocated before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with (
        quiet(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile,
    ):
        work()
    now = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def passes(
    call: Callable[[Tensor], Tensor], x: Tensor, autocast: bool, model: nn.Module
) -> dict[str, Callable[[], object]]:
    """The two passes that are timed, by name: forward, and forward with backward. `call` runs `model`."""

    def logits():
        with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
            return call(x)

    def forward():
        with torch.no_grad():
            logits()

    def backward():
        model.zero_grad(set_to_none=True)
        logits().float().sum().backward()

    return dict(zip(PASSES, (forward, backward)))


def bench_models(
    names: list[str] | None = None,
    *,
    device: str = "cpu",
    compile: bool = False,
    seconds: float = 60,
    progress: Callable[[str], None] = lambda text: None,
) -> list[dict]:
    """Time our models against their peers; see the module's docstring.

    `names` are keys of `PAIRS` (default: all whose library is installed). `progress` gets a line for each row. On a GPU
    both models run under bf16 autocast. With `compile`, there are also rows for compiled models, which are compared
    with the *eager* peer.
    The two models take turns for about `seconds` in each pass, but at least `LEAST` times. A row is dict(model, peer,
    pass, mode, batch, input, max_difference, turns, ours_ms, peer_ms, ratio, ratio_error, clips_per_second, peak_mb,
    peer_peak_mb, matmul_share). Times are medians over the turns. `ratio` is the median of the ratios of the turns,
    because a machine that becomes slower slows both models down. `ratio_error` is its standard error. `matmul_share` is
    our MACs per second, divided by those of one large matrix product on this machine.
    Raises CourseError for an unknown name, and for a missing library or device.
    """
    installed = [k for k, p in PAIRS.items() if importlib.util.find_spec(p.library)]
    for name in names or []:
        if name not in PAIRS:
            raise CourseError(f"no peer for {name!r}; choose from {', '.join(PAIRS)}")
        if name not in installed:
            raise CourseError(f"{name} needs {PAIRS[name].library}, which is not installed: pip install -e .[bench]")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise CourseError("there is no CUDA device on this machine; use --device cpu")
    rows = []
    for name in names or installed:
        for row in in_own_process(bench_pair, name, PAIRS[name], torch.device(device), compile, seconds):
            rows.append(row)
            progress(f"{name}, {row['pass']}, {row['mode']}: {row['ratio']:.2f} times as fast as {row['peer']}")
    return rows


def in_own_process(work: Callable, name: str, *args, limit: float | None = None):
    """The result of `work(name, *args)` in a new process, which ends with this call. Its CourseError is raised here.

    Raises `CourseError` if the process ends without a result, or has none after `limit` seconds (None: no limit).
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_result, args=(sender, work, name, *args))
    process.start()
    sender.close()  # now only the child holds this end
    try:
        need(receiver.poll(limit), f"{name} had no result after {limit} seconds; measure it alone, with more time")
        result = receiver.recv()
    except EOFError:
        process.join()
        raise CourseError(
            f"the process that measured {name} ended without a result (exit code {process.exitcode}; -9 is "
            "mostly too little memory); free some memory and measure this pair alone"
        ) from None
    finally:
        process.terminate()
        process.join()
    if isinstance(result, CourseError):
        raise result
    return result


def send_result(sender: Connection, work: Callable, *args) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C, and ends this process
    try:
        result = work(*args)
    except CourseError as error:
        result = error
    sender.send(result)


def bench_pair(
    name: str, pair: Pair, device: torch.device, compile: bool, limit: float, kinds: tuple[str, ...] = PASSES
) -> list[dict]:
    """The rows of one pair for the passes `kinds`; see `bench_models`."""
    rate = matmul_rate(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    torch.manual_seed(0)
    peer = pair.peer().eval()
    ours = create(pair.ours).eval()
    ours.load_state_dict(from_official(ours, getattr(peer, "model", peer).state_dict()))
    with torch.device("meta"):
        macs = count_macs(create(pair.ours), (pair.batch, *pair.shape))
    x = torch.randn(pair.batch, *pair.shape).to(device)
    models = {"ours": ours.to(device), "peer": peer.to(device)}
    autocast = device.type == "cuda"
    with torch.no_grad():
        difference = (ours(x) - peer(x)).abs().max().item()
    work = {who: passes(model, x, autocast, model) for who, model in models.items()}
    if compile:
        work |= {f"{who} compiled": passes(torch.compile(model), x, autocast, model) for who, model in models.items()}
    rows = []
    for kind in kinds:
        for jobs in work.values():
            jobs[kind]()  # warm up, compile
        seconds = {who: [] for who in work}
        while len(seconds["ours"]) < LEAST or sum(map(sum, seconds.values())) < limit:
            for who in list(work)[:: (-1) ** len(seconds["ours"])]:  # the order alternates
                seconds[who].append(clock(work[who][kind], device))
        median = {who: statistics.median(s) for who, s in seconds.items()}
        peak = {who: peak_bytes(jobs[kind], device) / 1e6 for who, jobs in work.items()}
        for who in work:
            if who.startswith("ours") or compile and who == "peer compiled":
                ratios = [b / a for a, b in zip(seconds[who], seconds["peer"])]
                ratio, error = median_and_error(ratios)
                rows.append(
                    {
                        "model": name,
                        "peer": pair.library,
                        "pass": kind,
                        "mode": who.replace("ours", "").strip() or "eager",
                        "batch": pair.batch,
                        "input": "x".join(map(str, pair.shape)),
                        "max_difference": difference,
                        "turns": len(ratios),
                        "ours_ms": 1e3 * median[who],
                        "peer_ms": 1e3 * median["peer"],
                        "ratio": ratio,
                        "ratio_error": error,
                        "clips_per_second": pair.batch / median[who],
                        "peak_mb": peak[who],
                        "peer_peak_mb": peak["peer"],
                        "matmul_share": macs * (1 if kind == "forward" else 3) / median[who] / rate,
                    }
                )
    return rows


def median_and_error(ratios: list[float]) -> tuple[float, float]:
    """The median of ratios, and its standard error, which is about 1.25 times that of a mean; 0 for a single ratio."""
    error = 1.25 * statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else 0.0
    return statistics.median(ratios), error


def geometric_mean(rows: list[dict]) -> float:
    return prod(row["ratio"] for row in rows) ** (1 / len(rows))


# ---------------------------------------------------------------- how the cost grows

GROWTH = {"frames": [(T, 14, 14) for T in (2, 4, 8, 16, 32, 64)], "side": [(8, n, n) for n in (7, 14, 28, 56)]}
LITERAL = 6272  # tokens, up to which the attention that stores its scores is measured as well: it needs 2 GB there


class LiteralAttention(Attention):
    """The same numbers as `Attention`, with all N x N scores stored, as programs of 2021 did it."""

    def forward(self, x: Tensor) -> Tensor:  # (B, N, C)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # 3 x (B, h, N, d)
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)  # (B, h, N, N)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))  # (B, N, C)


def attentions(size: tuple[int, int, int], dim: int = 192, heads: int = 3) -> dict[str, tuple[nn.Module, Callable]]:
    """The attention layer of each family, for a map of `size` (T, H, W): name -> (module, call on (B, T, H, W, C))."""
    one, T, H, W = (1, 1, 1), *size

    def tokens(x):  # (B, T, H, W, C) -> (B, N, C)
        return x.flatten(1, 3)

    joint = Attention(dim, heads)
    window = WindowAttention(dim, (8, 7, 7), (4, 3, 3), heads)
    pooling = PoolingAttention(dim, dim, heads, size, 0, "conv", one, one, (3, 3, 3), (1, 4, 4), "", False)
    divided = DividedBlock(dim, heads, 1.0, 0.0, SCHEMES["divided"])
    local = nn.Sequential(nn.Conv3d(dim, dim, 1), Depthwise(3, dim, 5), nn.Conv3d(dim, dim, 1))
    return {
        "joint": (joint, lambda x: joint(tokens(x))),
        "divided": (divided, lambda x: divided.attend(F.pad(tokens(x), (0, 0, 1, 0)), (H, W, T))),
        "pooling, keys 1 x 4 x 4": (pooling, lambda x: pooling(tokens(x))),
        "window 8 x 7 x 7": (window, window),
        "local 5 x 5 x 5": (local, lambda x: local(x.movedim(-1, 1))),
    }


def with_literal(size: tuple[int, int, int], dim: int = 192, heads: int = 3) -> dict[str, tuple[nn.Module, Callable]]:
    """`attentions`, and up to `LITERAL` tokens joint attention that stores its scores, as "joint, literal"."""
    layers = attentions(size, dim, heads)
    if prod(size) <= LITERAL:
        literal = LiteralAttention(dim, heads)
        layers["joint, literal"] = (literal, lambda x: literal(x.flatten(1, 3)))  # (B, T, H, W, C) -> (B, N, C)
    return layers


def bench_growth(device: str = "cpu", repeats: int = 3) -> list[dict]:
    """MACs, milliseconds and peak memory of each family's attention, as the frames, or height and width, grow.

    One layer with 192 channels and 3 heads runs forward and backward on one clip. A row is dict(grows, T, H, W, tokens,
    attention, gmacs, ms, of_joint, peak_mb). GMACs are those of the forward pass. The layers of one size take turns, so
    that other work on the machine slows all of them alike: `of_joint` is the median, over the turns, of the time
    divided by that of joint attention in the same turn. The peak memory is that of fused attention, which never stores
    a whole N x N matrix, except in "joint, literal", up to `LITERAL` tokens.
    """
    where = torch.device(device)
    rows = []
    for grows, sizes in GROWTH.items():
        for size in sizes:
            with torch.device("meta"):
                macs = {}
                for name, (module, call) in with_literal(size).items():
                    counter = FlopCounterMode(display=False)
                    with counter, torch.no_grad():
                        call(torch.empty(1, *size, 192))
                    macs[name] = counter.get_total_flops() // 2
            x = torch.randn(1, *size, 192, device=where)
            works = {
                name: passes(call, x, where.type == "cuda", module.to(where))["forward+backward"]
                for name, (module, call) in with_literal(size).items()
            }
            for work in works.values():
                work()
            turns = [{name: clock(work, where) for name, work in works.items()} for _ in range(repeats)]
            for name, work in works.items():
                rows.append(
                    {
                        "grows": grows,
                        "T": size[0],
                        "H": size[1],
                        "W": size[2],
                        "tokens": prod(size),
                        "attention": name,
                        "gmacs": macs[name] / 1e9,
                        "ms": 1e3 * statistics.median(turn[name] for turn in turns),
                        "of_joint": statistics.median(turn[name] / turn["joint"] for turn in turns),
                        "peak_mb": peak_bytes(work, where) / 1e6,
                    }
                )
    return rows


# ---------------------------------------------------------------- the families of the course


def bench_minis(device: str = "cpu", repeats: int = 15, batch: int = 16) -> list[dict]:
    """Milliseconds and memory a clip of each family's mini, forward with backward, in one process.

    The models take turns, so that other work on the machine slows all of them alike. A row is dict(model, batch, ms,
    of_first, error, peak_mb): `ms` is the median of one clip, `of_first` the median, over the turns, of the time
    divided by that of the first model in the same turn, and `error` its standard error. `peak_mb` is the peak of memory
    that the two passes take, divided by the clips of the batch.
    """
    where = torch.device(device)
    works = {}
    for name in CLIPS:
        model = create(name).eval().to(where)
        clips = torch.randn(batch, *ZOO[name].input, device=where)
        works[name] = passes(model, clips, where.type == "cuda", model)["forward+backward"]
        works[name]()
    turns = [{name: clock(work, where) for name, work in works.items()} for _ in range(repeats)]
    rows = []
    for name in CLIPS:
        of_first, error = median_and_error([turn[name] / turn[CLIPS[0]] for turn in turns])
        rows.append(
            {
                "model": name,
                "batch": batch,
                "ms": 1e3 * statistics.median(turn[name] for turn in turns) / batch,
                "of_first": of_first,
                "error": error,
                "peak_mb": peak_bytes(works[name], where) / 1e6 / batch,
            }
        )
    return rows
