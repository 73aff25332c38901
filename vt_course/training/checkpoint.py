"""Checkpoints: files that are either the old ones or the new ones, never halves, and whole or refused.

`state.pt` alone holds all that a resumed run needs and is switched by one rename, so a kill at
any moment leaves the previous state or the next. It ends in a checksum of all its bytes; the one
before it stays as `previous.pt`. `last.safetensors` and `best.safetensors` are copies of the
weights for everyone else, with the recipe, the metric and a checksum in their headers.
"""
import hashlib
import io
import json
import os
from pathlib import Path

import safetensors.torch
import torch

from vt_course import CourseError
from vt_course.files import atomic_write, parsing, read_pt, read_safetensors

STATE, PREVIOUS = "state.pt", "previous.pt"
PARTS = ("config", "model", "optimizer", "scaler", "progress")       # of a state, a dict each
SEAL = b"sha256 of what stands before: "


def save_state(folder: Path, state: dict) -> None:
    """Write `state` as state.pt; what was there becomes previous.pt."""
    buffer = io.BytesIO()  # torch.save into a file turns a full disk into a RuntimeError
    torch.save(state, buffer)
    # torch.save writes a zip, which ends in the length of a comment, 0. The checksum is that comment: torch.load,
    # which never looks at the zip's own checksums, still reads the file.
    buffer.seek(-2, os.SEEK_END)
    if buffer.read() != b"\0\0":
        raise RuntimeError("torch.save ends its file in another way than it used to; checkpoint.py must learn it")
    buffer.seek(-2, os.SEEK_END)
    buffer.write((len(SEAL) + 64).to_bytes(2, "little") + SEAL)
    with buffer.getbuffer() as data:
        digest = hashlib.sha256(data).hexdigest()
    buffer.write(digest.encode())
    atomic_write(folder / STATE, buffer.getbuffer(), keep=folder / PREVIOUS)


def read_state(folder: Path) -> dict | None:
    """The state of a run folder, or None where no checkpoint was written yet.

    Without state.pt (deleted, as the sentence about a damaged one says, or killed between the two
    renames of `save_state`) it is that of previous.pt. Raises `CourseError` for one that is not
    byte for byte what was written.
    """
    path = state_path(folder)
    if path is None:
        return None
    if fault := damage(path):
        raise unusable(folder, fault)
    state = read_pt(path, remedy(folder))
    if not isinstance(state, dict) or sorted(state) != sorted(PARTS) or not all(isinstance(v, dict) for v in state.values()):
        raise unusable(folder, f"is damaged: it does not hold the parts {', '.join(PARTS)}")
    return state


def state_path(folder: Path) -> Path | None:
    """The checkpoint that a run in this folder goes on from."""
    return next((path for path in (folder / STATE, folder / PREVIOUS) if os.path.lexists(path)), None)


def damage(path: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint, for a sentence that begins with its name; None: nothing."""
    with parsing(path, "damaged", "look at it"), open(path, "rb") as file:
        size, length = file.seek(0, os.SEEK_END), len(SEAL) + 64
        if size == 0:
            return "is damaged: it is empty (0 bytes)"
        file.seek(max(size - length, 0))
        end = file.read()
        if not end.startswith(SEAL):
            return "is damaged, or older than the checksums that checkpoints end in"
        file.seek(0)
        digest, left = hashlib.sha256(), size - 64
        while left:
            piece = file.read(min(left, 1 << 20))
            digest.update(piece)
            left -= len(piece)
    return None if digest.hexdigest().encode() == end[len(SEAL):] else "is damaged: its bytes do not agree with its checksum"


def unusable(folder: Path, fault: str) -> CourseError:
    """What is wrong with the checkpoint that a run would go on from, and what to do."""
    return CourseError(f"{state_path(folder)} {fault}; {remedy(folder)}")


def remedy(folder: Path) -> str:
    previous = folder / PREVIOUS
    if state_path(folder) != previous and previous.is_file() and damage(previous) is None:
        return f"delete it and run the same command again, which goes on from the checkpoint before it, {previous}"
    return "start again in another --out folder"


def misfit(want, got, at: str) -> str | None:
    """The first place where `got` is not built like `want`: names, lengths, types; shapes and numbers of tensors."""
    kind = next((kind for kind in (torch.Tensor, dict) if isinstance(want, kind)), type(want))     # a dict may be ordered
    if not isinstance(got, kind) or isinstance(got, bool) and kind is int:
        return f"{at} is a {type(got).__name__} and not a {kind.__name__}"
    if isinstance(want, torch.Tensor):
        if (got.shape, got.dtype) != (want.shape, want.dtype):
            return f"{at} is {got.dtype} {tuple(got.shape)} and not {want.dtype} {tuple(want.shape)}"
        return None if not got.is_floating_point() or got.isfinite().all() else f"{at} has numbers that are not finite"
    if isinstance(want, dict):
        if want.keys() != got.keys():
            return f"{at} lacks or adds {', '.join(map(str, list(want.keys() ^ got.keys())[:3]))}"
        return next((fault for key in want if (fault := misfit(want[key], got[key], f"{at} {key}"))), None)
    if isinstance(want, (list, tuple)):
        if len(want) != len(got):
            return f"{at} has {len(got)} entries and not {len(want)}"
        return next((fault for k, pair in enumerate(zip(want, got)) if (fault := misfit(*pair, f"{at} {k}"))), None)
    return None


def save_weights(path: Path, model, metadata: dict) -> None:
    """The model's weights as safetensors; `metadata` values become JSON in the header."""
    weights = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = {name: value if isinstance(value, str) else json.dumps(value)
              for name, value in metadata.items()}
    header["checksum"] = checksum(weights, header)
    atomic_write(path, safetensors.torch.save(weights, header))


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(weights, metadata) of a safetensors file; see `check_whole`. Raises `CourseError` for what is none."""
    return read_safetensors(path, "name a run folder or one of its .safetensors files")


def check_whole(path: Path, weights: dict[str, torch.Tensor], header: dict[str, str]) -> None:
    """Raise `CourseError` where these are not what `save_weights` wrote. A file without a checksum passes."""
    if header.get("checksum") not in (None, checksum(weights, header)):
        raise CourseError(f"{path} is damaged or was changed: its weights and header do not agree with its checksum; train or fetch it "
                          "again, or take the checksum out of its header if you changed it on purpose")


def checksum(weights: dict[str, torch.Tensor], header: dict[str, str]) -> str:
    """SHA-256 of a header and of the names, types, shapes and bytes of tensors."""
    told = sorted(item for item in header.items() if item[0] != "checksum")
    digest = hashlib.sha256(json.dumps(told).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
