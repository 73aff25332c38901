"""Decoders side by side: the same frames of the same files, in one process, taking turns.

Each decoder opens the file, reads and closes, on one thread, as a data loader worker does.
"random" is one training clip at a random place; "sequential" is every frame of the file.
"""
import time
from importlib import metadata

import av
import numpy as np
import torch

from vt_course import CourseError
from vt_course.data import transforms
from vt_course.data.clips import dense_indices
from vt_course.data.reader import ClipReader, scaled_size


def read_decord(path, indices, short_side=None) -> np.ndarray:
    return ClipReader(path, short_side).read(indices)


def read_pyav(path, indices, short_side=None) -> np.ndarray:
    """Seek to the key frame before the first index and decode to the last one."""
    with av.open(str(path)) as container:
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
                clip.append(frame.to_ndarray(format="rgb24", height=height, width=width))
            if len(clip) == len(indices):
                break
        return np.stack(clip)


def read_torchcodec(path, indices, short_side=None) -> np.ndarray:
    """Exact seek mode; scaled after decoding."""
    from torchcodec.decoders import VideoDecoder
    decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1)
    clip = decoder.get_frames_at(indices.tolist()).data
    return (transforms.resize_short_side(clip, short_side) if short_side else clip).numpy()


def bench_decode(files, *, frames: int = 16, stride: int = 2, short_side: int | None = None,
                 repeats: int = 5, seed: int = 0) -> list[dict]:
    """One row for each access ("random", "sequential") and decoder, decord first.

    A row is dict(access, decoder, version, frames_per_second, ratio, max_difference, error):
    frames delivered in the median pass over all files; that rate over decord's; the largest
    difference of any channel of any pixel from decord's, None where the shapes differ (decord
    and torchcodec obey rotation tags, PyAV does not); error: None or why there are no numbers.
    """
    files = list(files)
    if not files:
        raise CourseError("There are no files to decode; name at least one video file.")
    readers, missing = {"decord": read_decord, "pyav": read_pyav}, _torchcodec_fault()
    if missing is None:
        readers["torchcodec"] = read_torchcodec
    rng = np.random.default_rng(seed)
    lengths = [ClipReader(path).num_frames for path in files]
    plans = {"random": [np.unique(dense_indices(n, frames, stride, "random", rng))
                        for n in lengths],
             "sequential": [np.arange(n) for n in lengths]}
    rows = []
    for access, plan in plans.items():
        jobs = list(zip(files, plan))
        difference = _differences(readers, jobs, short_side)       # warms the file cache too
        passes = _take_turns(readers, jobs, short_side, repeats)
        rate = {name: sum(map(len, plan)) / float(np.median(passes[name])) for name in readers}
        for name in readers:
            rows.append(dict(access=access, decoder=name, version=_version(name),
                             frames_per_second=rate[name], ratio=rate[name] / rate["decord"],
                             max_difference=difference[name], error=None))
        if missing:
            rows.append(dict(access=access, decoder="torchcodec", version=None, ratio=None,
                             frames_per_second=None, max_difference=None, error=missing))
    return rows


def _take_turns(readers: dict, jobs: list, short_side, repeats: int) -> dict[str, list[float]]:
    """Seconds of each pass over all files; on a file the decoders alternate, in turn first."""
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
            if clip.shape != clips["decord"].shape:
                worst[name] = None
            elif worst[name] is not None:
                gap = np.abs(clip.astype(np.int16) - clips["decord"])
                worst[name] = max(worst[name], int(gap.max()))
    return worst


def _torchcodec_fault() -> str | None:
    """Why torchcodec cannot be measured here, in one sentence, or None."""
    try:
        import torchcodec.decoders  # noqa: F401
    except ModuleNotFoundError:
        return "torchcodec is not installed (optional: pip install --no-deps torchcodec)."
    except (ImportError, OSError, RuntimeError):
        return (f"torchcodec {_version('torchcodec')} does not load: it finds no FFmpeg "
                f"libraries, or it does not suit torch {torch.__version__}.")
    return None


def _version(decoder: str) -> str:
    for package in {"decord": ("decord", "decord2"), "pyav": ("av",)}.get(decoder, (decoder,)):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            pass
    return "unknown"


def table(rows: list[dict]) -> str:
    """The rows of `bench_decode` as aligned text."""
    lines = [f"{'access':<11}{'decoder':<20}{'frames/s':>10}{'x decord':>10}{'max diff':>10}"]
    for row in rows:
        if row["error"]:
            lines.append(f"{row['access']:<11}{row['decoder']:<20}{row['error']}")
            continue
        difference = "shape" if row["max_difference"] is None else row["max_difference"]
        lines.append(f"{row['access']:<11}{row['decoder'] + ' ' + row['version']:<20}"
                     f"{row['frames_per_second']:>10.0f}{row['ratio']:>10.2f}{difference:>10}")
    return "\n".join(lines)
