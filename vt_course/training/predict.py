"""What a trained model says about videos that nobody has labelled.

predictor = Predictor("runs/a")
predictor("cat.mp4")["classes"][0]  # {"class": "left", "probability": 0.93}
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from vt_course import CourseError
from vt_course.data.reader import OTHERS, SUFFIXES, BadClip, ClipReader, clips_below, pictures_in
from vt_course.files import atomic_write
from vt_course.machine import pick_device
from vt_course.training.curves import figure_bytes, time_line
from vt_course.training.protocols import check_sampling, protocol_named, read_views, video_scores
from vt_course.training.scores import view_logits
from vt_course.training.trained import Trained, open_model


class Predictor:
    """`Predictor(run)(path)`: the most probable classes of a video.

    `run`: what `trained.open_model` opens, or its result. `protocol`: a name of `protocols.PROTOCOLS` or clips and
    crops, as in "4x3"; default: that of the authors of published weights, and for a run the clip that its validation
    saw. `batch_size`: the views that the model sees at a time. `caution` is a sentence on what the answers are worth.
    Raises `CourseError` for an unknown protocol, and for one that does not fit the model.
    """

    def __init__(self, run, protocol: str | None = None, device=None, batch_size: int = 8):
        self.trained = run if isinstance(run, Trained) else open_model(run)
        self.protocol = protocol_named(protocol, self.trained.family) if protocol else self.trained.protocol
        check_sampling(self.protocol, self.trained.shown, self.trained.name)
        self.device, self.batch_size = pick_device(device), batch_size
        self.trained.model.to(self.device).eval()
        self.caution = self.trained.caution

    def __call__(self, path, top: int = 5) -> dict:
        """dict(path, frames, seconds, views, classes=[dict(class, probability)], note).

        The `top` most probable classes come first. `note`: None, or a sentence on a video that is shorter than a clip.
        Raises `BadClip` for a file that is no video or is damaged.
        """
        reader = ClipReader(path)
        return {
            "path": str(path),
            "frames": reader.num_frames,
            "seconds": reader.seconds,
            "views": self.protocol.views,
            "classes": self._classes(self.probabilities(reader), top),
            "note": self._note(reader),
        }

    def windows(self, path, seconds: float, top: int = 5) -> Iterator[dict]:
        """dict(path, start, end, classes) of each `seconds` seconds of a video; the last window may be shorter.

        Windows are read one after the other, so a film takes no more memory than a short clip. A window in which the
        video shows no new picture is left out. Raises `BadClip` as for the whole video.
        """
        reader = ClipReader(path)
        for number in range(math.ceil(reader.seconds / seconds)):
            start, end = (round(min(n * seconds, reader.seconds), 6) for n in (number, number + 1))
            if span := frames_between(reader, start, end):
                found = self._classes(self.probabilities(reader, *span), top)
                yield {"path": str(path), "start": start, "end": end, "classes": found}

    @torch.no_grad()
    def probabilities(self, reader: ClipReader, first: int = 0, stop: int | None = None) -> torch.Tensor:
        """The probabilities of all classes (K,), float64, of a video, or of its frames `first` to `stop` - 1."""
        views = read_views(reader, self.protocol, self.trained.shown, first, stop)  # (V, T, size, size, C)
        told = dict(at_once=self.batch_size)
        logits = view_logits(self.trained.model, views[None], self.trained.shown, self.device, **told)  # (1, V, K)
        return video_scores(logits, self.protocol.average)[0].exp()  # (K,)

    def _classes(self, probabilities: torch.Tensor, top: int) -> list[dict]:
        best = probabilities.topk(min(top, len(probabilities)))
        names = self.trained.classes
        return [{"class": names[k], "probability": p} for p, k in zip(best.values.tolist(), best.indices.tolist())]

    def _note(self, reader: ClipReader) -> str | None:
        shown = self.trained.shown
        span = shown.frames if shown.sampling != "dense" else round((shown.frames - 1) * shown.stride) + 1
        if reader.num_frames >= span:
            return None
        return f"it has {reader.num_frames} frames and a clip of this model spans {span}, so frames are repeated"


def frames_between(reader: ClipReader, start: float, end: float) -> tuple[int, int] | None:
    """The frames that a video shows from `start` to `end` seconds after its first one: (first, stop), or None."""
    if reader.pictures:  # which have no times, and count as 25 a second
        first, stop = round(start * reader.fps), min(round(end * reader.fps), reader.num_frames)
        return (first, stop) if first < stop else None
    try:
        return reader.frame_range(reader.begin + start, reader.begin + end)
    except BadClip:
        return None


def videos_at(path) -> list[str]:
    """The videos that a user names: a file, a folder of one video's pictures, or all videos below a folder.

    Raises `CourseError` for a name that does not exist and for a folder without videos. Whether a file is a video is
    found when it is read.
    """
    if not os.path.lexists(path):
        raise CourseError(f"there is no file or folder {path}; correct its name")
    if not os.path.isdir(path) or pictures_in(path):
        return [str(path)]
    clips, _ = clips_below(path, SUFFIXES + OTHERS)
    if not clips:
        raise CourseError(
            f"{path} has no videos (files that end in {', '.join(SUFFIXES)}); name a folder that has some"
        )
    return [str(Path(path, clip)) for clip in clips]


def draw_time_line(rows: list[dict], folder: Path, most: int = 5) -> Path | None:
    """Draw the windows of one video (`Predictor.windows`, with all classes) into `folder`/NAME.png; returns its path.

    The classes are the `most` probable ones over the whole video. None if there is no window.
    """
    if not rows:
        return None
    columns = [{one["class"]: one["probability"] for one in row["classes"]} for row in rows]
    total = {name: sum(column[name] for column in columns) for name in columns[0]}
    names = sorted(total, key=total.get, reverse=True)[:most]
    edges, values = [rows[0]["start"]], {name: [] for name in names}
    for row, column in zip(rows, columns):
        if row["start"] > edges[-1]:  # a gap
            edges.append(row["start"])
            for name in names:
                values[name].append(math.nan)
        edges.append(row["end"])
        for name in names:
            values[name].append(column[name])
    path = Path(folder) / f"{Path(rows[0]['path']).name}.png"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(f"cannot make the folder {folder} ({error.strerror}); choose another --out") from error
    atomic_write(path, figure_bytes(time_line(edges, values, path.stem)))
    return path
