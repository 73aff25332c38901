"""Figures of clips: film strips, moving pictures, picked frames, test views, one token."""

from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Image as Picture
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from vt_course import CourseError
from vt_course.colours import BLUE, YELLOW
from vt_course.data.transforms import IMAGENET_MEAN, IMAGENET_STD, resize
from vt_course.lab.show.style import array, bare, figure, headline, ink, page_size


def frames_of(clip) -> np.ndarray:
    """A clip, uint8 (T, H, W, 3) or normalised float (3, T, H, W), as uint8 (T, H, W, 3); else CourseError."""
    clip = array(clip)
    if clip.ndim == 4 and clip.dtype == np.uint8 and clip.shape[3] == 3:
        return clip
    if clip.ndim == 4 and clip.dtype.kind == "f" and clip.shape[0] == 3:
        clip = clip.transpose(1, 2, 3, 0) * IMAGENET_STD + IMAGENET_MEAN  # (T, H, W, C)
        return (clip * 255).round().clip(0, 255).astype(np.uint8)
    raise CourseError(f"a clip is uint8 (T, H, W, 3) or float (3, T, H, W), not {clip.dtype} {clip.shape}")


def thumbnails(frames: np.ndarray, pixels: int) -> np.ndarray:
    """Frames scaled to at most `pixels` pixels each and 32 levels per colour, so that a strip takes about 150 kB."""
    height, width = frames.shape[1:3]
    scale = min(1, (pixels / (height * width)) ** 0.5)
    size = [max(1, round(scale * side)) for side in (height, width)]
    small = resize(torch.from_numpy(frames), *size)  # (n, h, w, 3)
    return small.numpy() // 8 * 8 + 4


@figure
def film_strip(
    clip, n: int = 8, title: str | None = None, rows: list[str] | None = None, first: int = 0, width: float = 10
) -> Figure:
    """`n` evenly spaced frames of a clip. Several clips are drawn as one strip each, named by `rows`.

    `first`: the number of the clip's first frame in its video, for the titles. `width`: of the figure in inches.
    A clip is uint8 (T, H, W, 3), or float (3, T, H, W) normalised with ImageNet's mean and
    standard deviation, which is undone. Raises `CourseError` for anything else.
    """
    clips = [frames_of(c) for c in (clip if isinstance(clip, (list, tuple)) else [clip])]
    if rows is not None and len(rows) != len(clips):
        raise CourseError(f"{len(rows)} row names for {len(clips)} clips: give one each")
    picks = [np.unique(np.linspace(0, len(c) - 1, n).round().astype(int)) for c in clips]
    columns = max(map(len, picks))
    margin = 0.1 * max(map(len, rows or [""]))  # in inches, for the names of the rows
    heights = [(width - margin) / columns * c.shape[1] / c.shape[2] for c in clips]
    height = sum(heights) + 0.06 * len(clips) + 0.4 + 0.3 * bool(title)
    fig, grid = plt.subplots(len(clips), columns, squeeze=False, height_ratios=heights, figsize=(width, height))
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for r, (frames, pick) in enumerate(zip(clips, picks)):
        small = thumbnails(frames[pick], 90_000 // grid.size)
        for axes in grid[r]:
            bare(axes)
        for axes, i, image in zip(grid[r], pick, small):
            axes.imshow(image, interpolation="nearest")
            if r == 0 or len(frames) != len(clips[0]):
                axes.set_title(f"frame {first + i}" if columns <= 8 else f"{first + i}", size=11, pad=3)
        if rows is not None:
            grid[r, 0].set_ylabel(rows[r], rotation=0, ha="right", va="center")
    headline(fig, title)
    return fig


PLAY_BYTES = 200_000  # the most that one moving picture may take


def play(clip, fps: float = 16, width: int = 336) -> Picture:
    """The clip as a moving picture that repeats: an animated PNG of at most 200 kB, `width` pixels wide on the page.

    Colours are reduced and frames are scaled down until it fits. Raises `CourseError` for an array that is no clip,
    and for a clip that is too long.
    """
    frames = frames_of(clip)
    for pixels, colours in ((30_000, 256), (30_000, 64), (30_000, 32), (12_000, 32), (12_000, 16), (4_000, 16)):
        data = animated(thumbnails(frames, pixels), fps, colours)
        if len(data) <= PLAY_BYTES:
            return Picture(data=data, format="png", **page_size(width))
    raise CourseError(
        f"{len(frames)} frames do not fit into {PLAY_BYTES // 1000} kB; give every second one, at half the fps"
    )


def animated(frames: np.ndarray, fps: float, colours: int) -> bytes:
    """Frames uint8 (T, H, W, 3) -> an animated PNG with one palette for all frames."""
    T, H, W, _ = frames.shape
    # Pillow's default, the median cut, gives most colours to a large background and few to a small bright thing.
    method = Image.Quantize.FASTOCTREE
    sheet = Image.fromarray(frames.reshape(T * H, W, 3)).quantize(colours, method, dither=Image.Dither.NONE)
    first, *others = [sheet.crop((0, t * H, W, (t + 1) * H)) for t in range(T)]
    buffer = BytesIO()
    first.save(buffer, format="png", save_all=True, append_images=others, duration=1000 / fps, loop=0, optimize=True)
    return buffer.getvalue()


@figure
def sampling(
    num_frames: int,
    schemes: dict,
    fps: float = 30,
    segments: dict | None = None,
    title: str | None = None,
    width: float = 10,
) -> Figure:
    """The frames that sampling schemes pick from a video: one row with a time line for each scheme.

    `schemes`: name -> indices (K,), or (clips, K) for several clips of one video, which are drawn one below the other.
    A bar reaches from the first frame of a clip to its last. Where a clip jumps back (loops), a new bar begins below.
    `segments`: name -> the edges of that scheme's segments, in frames. `fps`: frames a second, for the axis in seconds.
    Raises `CourseError` for a frame that the video does not have.
    """
    names = list(schemes)
    fig, axes = plt.subplots(figsize=(width, 0.62 * len(names) + 1.1 + 0.35 * bool(title)))
    for row, name in enumerate(names):
        clips = np.atleast_2d(array(schemes[name])).astype(int)  # (clips, K)
        if clips.min() < 0 or clips.max() >= num_frames:
            raise CourseError(
                f"{name!r} picks frames {clips.min()} to {clips.max()} of a video with frames 0 to {num_frames - 1}"
            )
        axes.plot([-0.5, num_frames - 0.5], [row, row], color="0.8", linewidth=1, zorder=0)
        for edge in array((segments or {}).get(name, [])):
            axes.plot([edge - 0.5] * 2, [row - 0.36, row + 0.36], color="0.35", linewidth=1, linestyle=":")
        height = 0.64 / len(clips)
        for i, clip in enumerate(clips):
            runs = np.split(clip, np.flatnonzero(np.diff(clip) < 0) + 1)
            for j, run in enumerate(runs):
                part = height / len(runs)
                middle = row - 0.32 + i * height + (j + 0.5) * part
                light, dark = [("#CDE7F7", BLUE), ("#FBE3BC", "#9A5B00")][(i + j) % 2]
                axes.add_patch(
                    Rectangle(
                        (run[0] - 0.5, middle - 0.45 * part),
                        run[-1] - run[0] + 1,
                        0.9 * part,
                        facecolor=light,
                        linewidth=0,
                    )
                )
                axes.vlines(run, middle - 0.42 * part, middle + 0.42 * part, color=dark, linewidth=0.16 * width)
        axes.text(1.015, row, counted(clips, fps), transform=axes.get_yaxis_transform(), va="center", size=11)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(-0.02 * num_frames, 1.02 * num_frames), ylim=(len(names) - 0.4, -0.6), xlabel="frame")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    seconds = axes.secondary_xaxis("top", functions=(lambda x: x / fps, lambda s: s * fps))
    seconds.set_xlabel(f"seconds at {fps:g} frames a second")
    headline(fig, title)
    return fig


def counted(clips: np.ndarray, fps: float) -> str:
    """The text beside a row: how many frames, and how many seconds a clip spans (or "looped")."""
    K = clips.shape[1]
    text = f"{K} frames" if len(clips) == 1 else f"{len(clips)} × {K} frames"
    spans = clips[:, -1] - clips[:, 0] + 1
    return text + (f"\n{spans.max() / fps:.1f} s" if (np.diff(clips, axis=1) >= 0).all() else "\nlooped")


@figure
def views(video, indices, boxes, title: str | None = None, width: float = 10) -> Figure:
    """What each test view sees: one row for each clip, one column for each crop.

    `video`: all frames; `indices`: (clips, T) frame numbers; `boxes`: (crops, 4), each top, left, bottom, right, in
    pixels. On the left of each row is the time line with the clip's frames. Each picture is the middle frame of the
    clip, darkened outside the crop. Raises `CourseError` for frames or boxes that lie outside the video.
    """
    frames, indices, boxes = frames_of(video), np.atleast_2d(array(indices)), np.atleast_2d(array(boxes))
    F, H, W, _ = frames.shape
    if indices.min() < 0 or indices.max() >= F:
        raise CourseError(f"the views need frames {indices.min()} to {indices.max()}; the video has 0 to {F - 1}")
    if boxes.shape[1] != 4 or (boxes < 0).any() or (boxes > [H, W, H, W]).any() or (boxes[:, :2] >= boxes[:, 2:]).any():
        raise CourseError(f"a crop is top, left, bottom, right within {H} x {W}, not {boxes.tolist()}")
    clips, crops = len(indices), len(boxes)
    panel = width / (crops + 1.3)
    fig, grid = plt.subplots(
        clips,
        crops + 1,
        squeeze=False,
        width_ratios=[1.3] + [1] * crops,
        figsize=(width, clips * (panel * H / W + 0.34) + 0.4 * bool(title) + 0.1),
    )
    fig.get_layout_engine().set(w_pad=0.04, h_pad=0.03, wspace=0.01, hspace=0.01)
    for r, clip in enumerate(indices):
        line = grid[r, 0]
        line.plot([-0.5, F - 0.5], [0, 0], color="0.8", linewidth=1)
        line.vlines(clip, -0.3, 0.3, color=BLUE, linewidth=1.8)
        line.set(xlim=(-0.06 * F, 1.06 * F), ylim=(-1, 1), title=f"frames {clip[0]} to {clip[-1]}")
        line.title.set_size(11)
        bare(line)
        middle = clip[len(clip) // 2]
        picture = thumbnails(frames[middle : middle + 1], 12_000)[0]
        for c, (top, left, bottom, right) in enumerate(boxes):
            axes = grid[r, c + 1]
            shown = (picture * 0.3).astype(np.uint8)
            a, b, d, e = np.round(
                [
                    top * picture.shape[0] / H,
                    bottom * picture.shape[0] / H,
                    left * picture.shape[1] / W,
                    right * picture.shape[1] / W,
                ]
            ).astype(int)
            shown[a:b, d:e] = picture[a:b, d:e]
            axes.imshow(shown, interpolation="nearest", extent=(0, W, H, 0))
            axes.add_patch(
                Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=YELLOW, linewidth=2.5)
            )
            axes.set_title(f"view {r * crops + c + 1}", size=11, pad=3)
            bare(axes)
    headline(fig, title)
    return fig


@figure
def token(clip, tube, place, numbers, title: str | None = None, width: float = 10) -> Figure:
    """One token: its pixels in the clip, and the numbers that the reader's cut makes of them.

    `clip`: a clip, or one frame of it; `tube`: its size (pt, ph, pw) in frames and pixels; `place`: (t, h, w) of the
    token, counted in tubes. `numbers`: the token (3·pt·ph·pw,), values 0 to 255. It is drawn as a table in which each
    row is one colour of one frame. If the cut is right, a row holds the pixels of the frame above it, row by row. The
    colour of a cell goes from grey (0) to a light colour (255), so that its number stays readable. Raises
    `CourseError` if sizes do not match.
    """
    frames, numbers = frames_of(clip), array(numbers)
    (pt, ph, pw), start = tube, np.multiply(tube, place)
    if numbers.shape != (3 * pt * ph * pw,):
        raise CourseError(
            f"a tube of {pt} x {ph} x {pw} in 3 colours has {3 * pt * ph * pw} numbers, not {numbers.shape}"
        )
    if (start + tube > frames.shape[:3]).any():
        raise CourseError(f"the tube at {tuple(place)} ends outside the clip {frames.shape}")
    t, h, w = start
    above = 0.27 * width  # inches
    fig = plt.figure(figsize=(width, 0.4 + above + 0.42 * 3 * pt + 0.35 * bool(title)))
    grid = fig.add_gridspec(2, 2 * pt, height_ratios=[above, 0.42 * 3 * pt])
    for i in range(pt):
        whole, close = fig.add_subplot(grid[0, 2 * i]), fig.add_subplot(grid[0, 2 * i + 1])
        whole.imshow(
            thumbnails(frames[t + i : t + i + 1], 12_000)[0],
            extent=(0, *frames.shape[2:0:-1], 0),
            interpolation="nearest",
        )
        whole.add_patch(Rectangle((w, h), pw, ph, fill=False, edgecolor=YELLOW, linewidth=2))
        whole.set_title(f"frame {t + i}", size=11, pad=3)
        close.imshow(frames[t + i, h : h + ph, w : w + pw], interpolation="nearest")
        close.set_title(f"its {ph} × {pw} pixels", size=11, pad=3)
        for axes in (whole, close):
            bare(axes)
    axes = fig.add_subplot(grid[1, :])
    rows = numbers.reshape(3 * pt, ph * pw)
    tint = np.full((*rows.shape, 3), 0.5)
    for r in range(3 * pt):
        tint[r, :, r // pt] += 0.5 * rows[r].clip(0, 255) / 255
    axes.imshow(tint, aspect="auto", interpolation="nearest")
    if ph * pw <= 16:
        for (r, c), value in np.ndenumerate(rows):
            axes.text(c, r, f"{value:.0f}", ha="center", va="center", size=11, color=ink(tint[r, c]))
    axes.set_yticks(
        range(3 * pt), [f"{colour}, frame {t + i}" for colour in ("red", "green", "blue") for i in range(pt)]
    )
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.set_xlabel(f"the token: {numbers.size} numbers, read row by row")
    headline(fig, title)
    return fig
