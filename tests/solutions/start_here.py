"""Right and wrong solutions of the exercise of notebook 00."""

import torch

from .common import likely, overwrite


def by_index(clip):
    return clip[:, torch.arange(clip.shape[1] - 1, -1, -1)]


def by_list(clip):
    frames = [clip[:, t] for t in range(clip.shape[1])]
    return torch.stack(frames[::-1], dim=1)


def by_numpy(clip):
    return torch.from_numpy(clip.numpy()[:, ::-1].copy())


RIGHT = {
    "0.1": {
        "flip": lambda clip: clip.flip(1),
        "flip, counted from the end": lambda clip: torch.flip(clip, dims=[-3]),
        "index": by_index,
        "list": by_list,
        "numpy": by_numpy,
    }
}

WRONG = {
    "0.1": {
        "mirrored": (lambda clip: torch.flip(clip, [3]), likely("0.1", "mirrored, left for right")),
        "upside down": (lambda clip: clip[:, :, torch.arange(clip.shape[2]).flip(0)], likely("0.1", "upside down")),
        "colours": (lambda clip: torch.flip(clip, [0]), likely("0.1", "red and blue")),
        "all": (lambda clip: clip.flip(0, 1, 2, 3), likely("0.1", "all four axes")),
        "as it is": (lambda clip: clip.clone(), likely("0.1", "nothing is changed")),
        "first to last": (lambda clip: clip.roll(1, dims=1), likely("0.1", "the last frame comes first")),
        "first stays": (
            lambda clip: clip[:, [0, *range(clip.shape[1] - 1, 0, -1)]],
            likely("0.1", "the first frame stays"),
        ),
        "only the ends": (
            lambda clip: clip[:, [-1, *range(1, clip.shape[1] - 1), 0]],
            likely("0.1", "only the first and the last"),
        ),
        "slice": (lambda clip: clip[:, ::-1], "raised ValueError"),
        "one frame short": (lambda clip: clip[:, 1:].flip(1), "shape (3, 7, 6, 5), wanted (C, T, H, W) = (3, 8, 6, 5)"),
        "time first": (lambda clip: clip.flip(1).transpose(0, 1), "your axes are in another order"),
        "in place": (overwrite(lambda clip: clip.flip(1)), "changes its input"),
    }
}
