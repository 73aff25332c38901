"""Checkpoints. A file is either the old one or the new one, never a part of one, and a damaged file is refused.

`state.pt` alone holds everything that a resumed run needs. It is replaced by one rename, so a kill at
any moment leaves either the previous state or the new one. It ends in a checksum of all its bytes. The state
before it is kept as `previous.pt`. `last.safetensors` and `best.safetensors` are copies of the
weights for all other uses, with the recipe, the metric and a checksum in their headers.
"""

import argparse
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch

from vt_course import CourseError, need
from vt_course.files import Unreadable, atomic_write, parse_json, parsing, read_pt, read_safetensors, regular
from vt_course.models import ZOO, built_for, create
from vt_course.models.official import check_state
from vt_course.training.recipes import Recipe

STATE, PREVIOUS = "state.pt", "previous.pt"
PARTS = ("config", "model", "optimizer", "scaler", "progress")  # the parts of a state, each a dict
EMA = "ema"  # one more, of a run that keeps a moving average of its weights
SEAL = b"sha256 of what stands before: "


def save_state(folder: Path, state: dict) -> None:
    """Write `state` as state.pt. The old state.pt becomes previous.pt."""
    buffer = io.BytesIO()  # torch.save into a file turns a full disk into a RuntimeError
    torch.save(state, buffer)
    # torch.save writes a zip file, which ends in the length of a comment, 0. We write our checksum as this comment,
    # because torch.load never checks the checksums of the zip itself. It still reads the file.
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
    """The state of a run folder, or None if no checkpoint was written yet.

    If there is no state.pt, it is read from previous.pt. This happens if the user deleted a damaged state.pt, as the
    error message says, or if the run was killed between the two renames of `save_state`. Raises `CourseError` for
    a file whose bytes are not exactly those that were written.
    """
    path = state_path(folder)
    if path is None:
        return None
    if fault := damage(path):
        raise unusable(folder, fault)
    state = read_pt(path, remedy(folder))
    if (
        not isinstance(state, dict)
        or set(state) - {EMA} != set(PARTS)
        or not all(isinstance(v, dict) for v in state.values())
    ):
        raise unusable(folder, f"is damaged: it does not hold the parts {', '.join(PARTS)}")
    return state


def state_path(folder: Path) -> Path | None:
    """The checkpoint from which a run in this folder goes on, or None."""
    return next((path for path in (folder / STATE, folder / PREVIOUS) if os.path.lexists(path)), None)


def damage(path: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint, as the rest of a sentence that begins with its name; else None."""
    with parsing(path, "damaged", "look at it"), open(regular(path), "rb") as file:
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
    return (
        None
        if digest.hexdigest().encode() == end[len(SEAL) :]
        else "is damaged: its bytes do not agree with its checksum"
    )


def unusable(folder: Path, fault: str) -> CourseError:
    """The error for a checkpoint from which a run cannot go on: what is wrong, and what to do."""
    return CourseError(f"{state_path(folder)} {fault}; {remedy(folder)}")


def remedy(folder: Path) -> str:
    previous = folder / PREVIOUS
    if state_path(folder) != previous and previous.is_file() and damage(previous) is None:
        return f"delete it and run the same command again, which goes on from the checkpoint before it, {previous}"
    return "start again in another --out folder"


def misfit(want, got, at: str) -> str | None:
    """The first place where `got` differs from `want` in names, lengths, types or shapes, or is not finite, or None."""
    kind = next((kind for kind in (torch.Tensor, dict) if isinstance(want, kind)), type(want))  # or a subclass
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
    """Write the model's weights as safetensors. The values of `metadata` are written as JSON into the header."""
    weights = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    header["checksum"] = checksum(weights, header)
    atomic_write(path, safetensors.torch.save(weights, header))


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(weights, metadata) of a safetensors file; see `check_whole`. Raises `CourseError` for another kind of file."""
    return read_safetensors(path, "name a run folder or one of its .safetensors files")


def read_checkpoint(path: Path, remedy: str = "delete it and run the same command again") -> Mapping:
    """The object in a published file. It is read without running any code that a pickle can contain.

    Sense-X/UniFormer image_classification/main.py stores its command line together with the weights, as an
    argparse.Namespace. This class only holds values, so it is allowed. Everything else except plain values and tensors
    raises CourseError.
    """
    try:
        checkpoint = read_pt(path, remedy, "not a PyTorch checkpoint or is damaged", allow=[argparse.Namespace])
    except Unreadable as error:
        if found := re.search(r"GLOBAL ([\w.]+)", str(error.__cause__)):
            raise CourseError(
                f"{path} holds a {found[1]} beside its weights, and loading that could run code, so it was "
                "not loaded; if you trust where it comes from, save its tensors alone with torch.save, put "
                "that file in its place and run the same command again"
            ) from error
        raise
    if not isinstance(checkpoint, Mapping):
        raise CourseError(f"{path} holds a {type(checkpoint).__name__} instead of named weights; {remedy}")
    return checkpoint


def check_whole(path: Path, weights: dict[str, torch.Tensor], header: dict[str, str]) -> None:
    """Raise `CourseError` if these are not what `save_weights` wrote. A file without a checksum passes."""
    if header.get("checksum") not in (None, checksum(weights, header)):
        raise CourseError(
            f"{path} is damaged or was changed: its weights and header do not agree with its checksum; train or fetch "
            f"it again, or take the checksum out of its header if you changed it on purpose"
        )


def checksum(weights: dict[str, torch.Tensor], header: dict[str, str]) -> str:
    """SHA-256 over a header and over the names, types, shapes and bytes of the tensors."""
    told = sorted(item for item in header.items() if item[0] != "checksum")
    digest = hashlib.sha256(json.dumps(told).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


# ---------------------------------------------------------------- from a run to its model


def build_model(recipe: Recipe, classes: int):
    """The model of a recipe, with fresh weights, built for RGB clips of the recipe's frames and size.

    `recipe.config` overrides everything else. Training and loading a run both call this function, so they build the
    same model. Raises `CourseError` for settings with which the model cannot be built.
    """
    try:
        return create(recipe.model, **model_settings(recipe, classes))
    except ValueError as error:
        if recipe.model not in ZOO:
            raise CourseError(str(error)) from error
        raise CourseError(
            f"{recipe.model} cannot be built for frames={recipe.frames}, size={recipe.size} and "
            f"config={recipe.config}: {error}"
        ) from error


def model_settings(recipe: Recipe, classes: int) -> dict:
    """The settings with which a recipe builds its model."""
    settings = dict(num_classes=classes, drop_path=recipe.drop_path, **recipe.config)
    if recipe.model in ZOO:  # else `create` raises, and names the closest
        settings = built_for(recipe.model, 3, recipe.frames, recipe.size) | settings
    return settings


def load_weights(model, weights: dict, name) -> None:
    """Load a state dict strictly. The precision of floats may differ from the model's.

    Raises `CourseError` for differences of keys or shapes (the message lists them) and for numbers that are not finite.
    """
    try:
        check_state(model, weights)
    except ValueError as error:
        raise CourseError(
            f"cannot load {name}: {error}; load it into the model and settings it was saved from"
        ) from error
    own = model.state_dict()
    if key := not_finite({key: weights[key].to(tensor.dtype) for key, tensor in own.items()}):
        raise CourseError(
            f"cannot load {name}: {key} has numbers that are not finite (NaN or infinity); train again, with a "
            "lower lr if it was the training that diverged"
        )
    model.load_state_dict(weights)


def not_finite(weights: dict[str, torch.Tensor]) -> str | None:
    """The name of the first tensor with numbers that are NaN or infinite, or None."""
    return next((key for key, t in weights.items() if t.is_floating_point() and not t.isfinite().all()), None)


def run_file(path, which: str = "best") -> Path:
    """The file of weights of a run folder (see `load_run`), or `path` itself if it is a file."""
    path = Path(path)
    if path.is_dir():
        names = [f"{which}.safetensors", "last.safetensors", "model.safetensors"]  # the latter: pretrained.py
        files = [path / name for name in names if (path / name).is_file()]
        if not files:
            raise CourseError(
                f"{path} holds no checkpoint ({names[0]}); train first with vt-course train MODEL --out {path}"
            )
        path = files[0]
    need(path.exists(), f"{path} does not exist; name a run folder or one of its .safetensors files")
    return path


def read_run(path, which: str = "best") -> tuple[Path, dict, dict]:
    """(file, weights, header) of a run folder or `.safetensors` file; see `load_run`."""
    path = run_file(path, which)
    weights, header = read_weights(path)
    need_recipe(path, header)
    return path, weights, header


def need_recipe(path: Path, header: dict) -> None:
    """Raise `CourseError` unless this is the header of a run's weights."""
    if "recipe" not in header or "classes" not in header:
        raise CourseError(f"{path} has no recipe in its header; name a file that `vt-course train` wrote")


def load_run(path, which: str = "best"):
    """(model, recipe) of a run folder or `.safetensors` file, the model in eval mode.

    `which` ("best" or "last") says which checkpoint of a folder is loaded. If there is no best one yet, the
    last is loaded. Raises `CourseError` if there is none, or if it does not fit.
    """
    model, recipe, _ = restore(path, which)
    return model, recipe


def restore(path, which: str = "best"):
    """(model, recipe, classes) as in `load_run`; the file is read only once."""
    return model_of(*read_run(path, which))


def model_of(path: Path, weights: dict, header: dict):
    """(model, recipe, classes) of a run's file that is read already."""
    again = "name a file that `vt-course train` wrote"
    classes = tuple(parse_json(header["classes"], f"the list of classes in {path}", again, list))
    need(
        classes and all(isinstance(name, str) for name in classes),
        f"the list of classes in {path} does not hold names; {again}",
    )
    try:
        recipe = Recipe.from_json(header["recipe"])
    except CourseError as error:
        raise CourseError(f"the recipe in {path} cannot be used: {error}") from error
    with parsing(f"the recipe in {path}", "none that a model can be built from", again):
        try:
            model = build_model(recipe, len(classes))
        except CourseError as error:
            raise ValueError(str(error)) from error
    load_weights(model, weights, path)
    check_whole(path, weights, header)
    return model.eval(), recipe, classes
