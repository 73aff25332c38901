"""Notebook 00: the first exercise."""

import torch
from torch import Tensor

from vt_course.lab.exercise import Exercise, randoms
from vt_course.lab.kinds.operations import Choices

EXERCISES: dict[str, Exercise] = {}


def backwards_literal(clip: Tensor) -> Tensor:
    """Frame t of the result is frame T - 1 - t of the clip."""
    out, T = torch.empty_like(clip), clip.shape[1]
    for t in range(T):
        out[:, t] = clip[:, T - 1 - t]
    return out  # (C, T, H, W)


def backwards_like(clip: Tensor, *, how=None) -> Tensor:
    """The clip backwards, or what is done in place of it."""
    return clip.flip(1) if how is None else how(clip)


def ends_exchanged(clip: Tensor) -> Tensor:
    out = clip.clone()
    out[:, 0], out[:, -1] = clip[:, -1], clip[:, 0]
    return out


BACKWARDS = Choices(
    backwards_like,
    {
        "how": (
            ("nothing is changed: the frames are in their old order", lambda x: x),
            (
                "the pictures are mirrored, left for right: of (C, T, H, W) you turn round W, not T",
                lambda x: x.flip(-1),
            ),
            (
                "the pictures are upside down: of (C, T, H, W) you turn round H, not T (axis 2 is T in a batch)",
                lambda x: x.flip(2),
            ),
            ("red and blue are exchanged: of (C, T, H, W) you turn round C, not T", lambda x: x.flip(0)),
            (
                "the pictures are turned by half a turn: of (C, T, H, W) you turn round H and W, not T",
                lambda x: x.flip(2, 3),
            ),
            ("colours and frames are turned round: only the frames, T, must be", lambda x: x.flip(0, 1)),
            ("all four axes are turned round: only the frames, T, must be", lambda x: x.flip(0, 1, 2, 3)),
            (
                "the pictures are turned round besides the frames: leave rows and columns as they are",
                lambda x: x.flip(1, 2, 3),
            ),
            ("only the first and the last frame are exchanged: turn round the order of all", ends_exchanged),
            (
                "the last frame comes first, and the others follow in their old order: turn round the order of all",
                lambda x: x.roll(1, 1),
            ),
            (
                "the first frame stays in its place: a clip that runs backwards begins with its last frame",
                lambda x: torch.cat([x[:, :1], x[:, 1:].flip(1)], 1),
            ),
            (
                "the last frame is shown all the time",
                lambda x: x[:, -1:].expand_as(x),
            ),
            (
                "the sign of the numbers is changed, not the order of the frames",
                lambda x: -x,
            ),
            ("the numbers are sorted: only whole frames change places", lambda x: x.sort(1, descending=True).values),
        )
    },
)  # fmt: skip


def play_backwards(clip: Tensor) -> Tensor:
    """`backwards_like` without options, for the cells of the notebook."""
    return backwards_like(clip)


EXERCISES["0.1"] = Exercise(
    "a clip played backwards",
    backwards_literal,
    lambda: [(torch.randn(3, 8, 6, 5),), (torch.randn(3, 5, 4, 4),), (torch.randn(1, 4, 3, 2),)],
    lambda clip: f"(C, T, H, W) = {tuple(clip.shape)}",
    (),
    piece=play_backwards,
    more=lambda: [(torch.randn(3, r.randint(3, 9), r.randint(2, 6), r.randint(2, 6)),) for r in randoms(4)],
    kinds=(BACKWARDS,),
)
