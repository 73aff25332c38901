"""Readers of video files compared: the same frames of the same files, in one process, taking turns.

Each reader opens the file, reads and closes, on one thread, as a worker of a data loader does. `bench_decode`
measures decoding to pixels: "random" reads one training clip at a random place, "sequential" reads every frame of
the file. `bench_loader` also measures the steps up to the input of a model.
"""

import statistics
import time
from collections.abc import Callable
from importlib import metadata

import numpy as np
import torch

from vt_course import CourseError
from vt_course.data import transforms
from vt_course.data.clips import dense_indices
from vt_course.data.decoders import decoder_fault
from vt_course.data.reader import ClipReader, open_file, scaled_size
from vt_course.files import parsing


def read_ours(path, indices, short_side=None) -> np.ndarray:
    return ClipReader(path, short_side, square=False).read(indices)  # pixels as stored, like the peers


def read_decord(path, indices, short_side=None) -> np.ndarray:
    reader = _decord(path)
    if short_side:
        height, width = scaled_size(*_decord_frames(path, lambda: reader[0].asnumpy()).shape[:2], short_side)
        reader = _decord(path, width=width, height=height)
    return _decord_frames(path, lambda: reader.get_batch(indices).asnumpy())


def read_decord_loop(path, indices, short_side=None) -> np.ndarray:
    """The loop that many repositories use: decord reads one frame at a time."""
    reader = _decord(path)
    return _decord_frames(path, lambda: np.stack([reader[int(i)].asnumpy() for i in indices]))


def _decord(path, **size):
    import decord  # here: only this peer needs it

    with parsing(path, "not readable by decord", "leave it out."):
        return decord.VideoReader(str(path), num_threads=1, **size)


def _decord_frames(path, read: Callable[[], np.ndarray]) -> np.ndarray:
    """`read()`, with decord's errors as one sentence. At a few widths decord takes the padding of rows for channels."""
    import decord

    try:
        clip = read()
    except decord.DECORDError:
        clip = None
    if clip is None or clip.shape[-1] != 3:
        raise CourseError(
            f"decord cannot read {path} at this size (a known fault at widths of 16, 24, 48 and 72 pixels, or "
            "the file is damaged); leave it out or choose another size."
        )
    return clip


def read_pyav(path, indices, short_side=None) -> np.ndarray:
    """Seek to the key frame before the first index and decode to the last one."""
    with parsing(path, "not readable by PyAV alone", "leave it out."), open_file(path) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        times = sorted(p.pts for p in container.demux(stream) if p.pts is not None)
        wanted = {times[i] for i in indices}
        container.seek(times[indices[0]], stream=stream)
        height, width = stream.height, stream.width
        if short_side:
            height, width = scaled_size(height, width, short_side)
        clip = []
        for frame in container.decode(stream):
            if frame.pts in wanted:
                clip.append(frame.to_ndarray(format="rgb24", height=height, width=width, threads=1))
            if len(clip) == len(indices):
                break
        return np.stack(clip)


def read_torchvision_style(path, indices, short_side=None) -> np.ndarray:
    """Decode and convert all frames from the first to the last one wanted, then pick those wanted.

    This is what `torchvision.io.read_video` did, with PyAV, until torchvision 0.26 removed it.
    """
    return read_pyav(path, np.arange(indices[0], indices[-1] + 1), short_side)[indices - indices[0]]


def read_torchcodec(path, indices, short_side=None) -> np.ndarray:
    """torchcodec in its exact seek mode; frames are scaled after decoding."""
    from torchcodec.decoders import VideoDecoder

    with parsing(path, "not readable by torchcodec", "leave it out."):
        clip = (
            VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1).get_frames_at(indices.tolist()).data
        )
    return (transforms.resize_short_side(clip, short_side) if short_side else clip).numpy()


def bench_decode(
    files, *, frames: int = 16, stride: int = 2, short_side: int | None = None, repeats: int = 5, seed: int = 0
) -> list[dict]:
    """One row for each access ("random", "sequential") and decoder, ours (`ClipReader`) first.

    A row is dict(access, decoder, version, frames_per_second, ratio, max_difference, error).
    frames_per_second: in the median pass over all files. ratio: that rate divided by decord's. max_difference: the
    largest difference from ours of any channel of any pixel, or None if the shapes differ (only PyAV
    does not obey rotation tags). error: None, or the reason why there are no numbers.
    """
    files = list(files)
    if not files:
        raise CourseError("There are no files to decode; name at least one video file.")
    readers, missing = {"ours": read_ours, "decord": read_decord, "pyav": read_pyav}, decoder_fault("torchcodec")
    if missing is None:
        readers["torchcodec"] = read_torchcodec
    rng = np.random.default_rng(seed)
    lengths = [ClipReader(path).num_frames for path in files]
    plans = {
        "random": [np.unique(dense_indices(n, frames, stride, "random", rng)) for n in lengths],
        "sequential": [np.arange(n) for n in lengths],
    }
    rows = []
    for access, plan in plans.items():
        jobs = list(zip(files, plan))
        difference = _differences(readers, jobs, short_side)  # warms the file cache too
        passes = _take_turns(readers, jobs, short_side, repeats)
        rate = {name: sum(map(len, plan)) / float(np.median(passes[name])) for name in readers}
        for name in readers:
            rows.append(
                dict(
                    access=access,
                    decoder=name,
                    version=_version(name),
                    frames_per_second=rate[name],
                    ratio=rate[name] / rate["decord"],
                    max_difference=difference[name],
                    error=None,
                )
            )
        if missing:
            rows.append(
                dict(
                    access=access,
                    decoder="torchcodec",
                    version=None,
                    ratio=None,
                    frames_per_second=None,
                    max_difference=None,
                    error=missing,
                )
            )
    return rows


PEERS = {
    "decord, frame by frame": read_decord_loop,
    "decord, get_batch": read_decord,
    "PyAV": read_pyav,
    "torchvision style": read_torchvision_style,
    "torchcodec": read_torchcodec,
}


def bench_loader(
    files, *, frames=(8, 16, 32), span: int = 64, size: int = 224, repeats: int = 5, seed: int = 0
) -> list[dict]:
    """Training samples per second on one core, of our loader and of loaders built on each peer.

    To make a sample, a file is opened and decoded, cropped to one random box (the same for all), scaled to `size` and
    normalised to float32 (3, T, size, size). The T frames are span // T apart. Our loader does the same as
    `VideoFolder` with files that are not much larger than `size`. The loaders of the peers pass their frames to
    torchvision's functions.
    There is a row for each peer and number of frames: dict(frames, stride, peer, clips_per_second,
    peer_clips_per_second, ratio, max_difference). Rates are medians over `repeats` passes over all files. A ratio
    above 1 means that ours is faster. max_difference: the largest difference of a pixel, in units of 1 / 255. Raises
    `CourseError` if there are no files.
    """
    files = list(files)
    if not files:
        raise CourseError("There are no files to read; name at least one video file.")
    peers = {name: read for name, read in PEERS.items() if name != "torchcodec" or decoder_fault("torchcodec") is None}
    lengths, rows, rng, threads = (
        [ClipReader(path).num_frames for path in files],
        [],
        np.random.default_rng(seed),
        torch.get_num_threads(),
    )
    torch.set_num_threads(1)
    try:
        for T in frames:
            stride = max(span // T, 1)
            jobs = [(path, dense_indices(n, T, stride, "random", rng)) for path, n in zip(files, lengths)]
            jobs = [(path, (np.unique(indices), int(rng.integers(2**31)))) for path, indices in jobs]
            loaders = {"ours": lambda path, job, _: _our_sample(path, *job, size)}
            loaders |= {
                name: lambda path, job, _, read=read: _peer_sample(read, path, *job, size)
                for name, read in peers.items()
            }
            gap = dict.fromkeys(loaders, 0.0)
            for path, job in jobs:  # warms the file cache too
                ours = loaders["ours"](path, job, None)
                for name, load in loaders.items():
                    gap[name] = max(gap[name], float((load(path, job, None) - ours).abs().max()))
            seconds = {name: statistics.median(s) for name, s in _take_turns(loaders, jobs, None, repeats).items()}
            rows += [
                dict(
                    frames=T,
                    stride=stride,
                    peer=name,
                    clips_per_second=len(jobs) / seconds["ours"],
                    peer_clips_per_second=len(jobs) / seconds[name],
                    ratio=seconds[name] / seconds["ours"],
                    max_difference=gap[name] * 255 * max(transforms.IMAGENET_STD),
                )
                for name in peers
            ]
    finally:
        torch.set_num_threads(threads)
    return rows


def _our_sample(path, indices, seed: int, size: int) -> torch.Tensor:
    clip = torch.from_numpy(ClipReader(path, square=False).read(indices))  # (T, H, W, C)
    return transforms.normalise(transforms.random_resized_crop(clip, size, np.random.default_rng(seed)))


def _peer_sample(read: Callable, path, indices, seed: int, size: int) -> torch.Tensor:
    from torchvision.transforms import functional

    clip = torch.from_numpy(read(path, indices)).permute(0, 3, 1, 2)  # (T, C, H, W)
    box = transforms.random_box(*clip.shape[-2:], np.random.default_rng(seed))
    clip = functional.resized_crop(clip, *box, [size, size], antialias=True)
    clip = functional.normalize(clip.float() / 255, transforms.IMAGENET_MEAN, transforms.IMAGENET_STD)
    return clip.transpose(0, 1).contiguous()  # (C, T, h, w)


def _take_turns(readers: dict, jobs: list, short_side, repeats: int) -> dict[str, list[float]]:
    """Seconds of each pass over all files. On each file the decoders take turns, and which one is first changes."""
    seconds = {name: [0.0] * repeats for name in readers}
    for repeat in range(repeats):
        for number, (path, indices) in enumerate(jobs):
            names = list(readers)
            turn = (repeat + number) % len(names)
            for name in names[turn:] + names[:turn]:
                start = time.perf_counter()
                readers[name](path, indices, short_side)
                seconds[name][repeat] += time.perf_counter() - start
    return seconds


def _differences(readers: dict, jobs: list, short_side) -> dict[str, int | None]:
    worst = dict.fromkeys(readers, 0)
    for path, indices in jobs:
        clips = {name: read(path, indices, short_side) for name, read in readers.items()}
        for name, clip in clips.items():
            if clip.shape != clips["ours"].shape:
                worst[name] = None
            elif worst[name] is not None:
                gap = np.abs(clip.astype(np.int16) - clips["ours"])
                worst[name] = max(worst[name], int(gap.max()))
    return worst


def _version(decoder: str) -> str:
    for package in {"ours": ("vt-course",), "decord": ("decord", "decord2"), "pyav": ("av",)}.get(decoder, (decoder,)):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            pass
    return "unknown"


def decode_table(rows: list[dict]) -> str:
    """The rows of `bench_decode` as aligned text."""
    lines = [f"{'access':<11}{'decoder':<20}{'frames/s':>10}{'x decord':>10}{'max diff':>10}"]
    for row in rows:
        if row["error"]:
            lines.append(f"{row['access']:<11}{row['decoder']:<20}{row['error']}")
            continue
        difference = "shape" if row["max_difference"] is None else row["max_difference"]
        lines.append(
            f"{row['access']:<11}{row['decoder'] + ' ' + row['version']:<20}"
            f"{row['frames_per_second']:>10.0f}{row['ratio']:>10.2f}{difference:>10}"
        )
    return "\n".join(lines)
