"""Checkpoints: files that are either the old ones or the new ones, never halves.

`state.pt` alone holds all that a resumed run needs and is switched by one rename, so a kill at any moment
leaves the previous state or the next. `last.safetensors` and `best.safetensors` are copies of the weights
for everyone else, with the recipe and the metric in their headers; they can be written again from the
state.
"""
import csv
import io
import json
import os
import pickle
from collections.abc import Iterable
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from vt_course import CourseError
from vt_course.models import create
from vt_course.training.recipes import Recipe

STATE = "state.pt"


def atomic_write(path: Path, data) -> None:
    """Replace `path` by the bytes `data`. Raises `CourseError` (disk full, no permission), `path` intact."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could rename a file whose bytes never arrived
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CourseError(f"cannot write {path} ({error.strerror}); what was there is untouched: free "
                          "space or fix permissions and run the same command again, "
                          "or choose another folder") from error


def write_csv(path: Path, header: list, rows: Iterable) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    atomic_write(path, text.getvalue().encode())


def save_state(folder: Path, state: dict) -> None:
    buffer = io.BytesIO()  # torch.save straight to a file would hide a full disk in a RuntimeError
    torch.save(state, buffer)
    atomic_write(folder / STATE, buffer.getbuffer())


def read_state(folder: Path) -> dict | None:
    """The state of a run folder, or None where no checkpoint was written yet."""
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CourseError(f"{path} is damaged ({str(error).splitlines()[0]}); start again in another "
                          "folder") from error


def save_weights(path: Path, model, metadata: dict) -> None:
    """The model's weights as safetensors; `metadata` values become JSON strings in the header."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = {name: value if isinstance(value, str) else json.dumps(value)
              for name, value in metadata.items()}
    atomic_write(path, safetensors.torch.save(weights, header))


def load_weights(model, weights: dict, name) -> None:
    """Load a state dict strictly. Raises `CourseError` that lists every difference."""
    own = model.state_dict()
    shapes = [f"{key} {tuple(weights[key].shape)} instead of {tuple(own[key].shape)}"
              for key in own if key in weights and weights[key].shape != own[key].shape]
    groups = (("missing", [key for key in own if key not in weights]),
              ("unexpected", [key for key in weights if key not in own]),
              ("of another shape", shapes))
    if any(keys for _, keys in groups):
        text = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in groups if keys)
        raise CourseError(f"the weights in {name} do not fit the model ({text}); "
                          "load them into the model and settings they were saved from")
    model.load_state_dict(weights)


def load_run(path, which: str = "best"):
    """(model, recipe) of a run folder or of one of its `.safetensors` files, the model in eval mode.

    Of a folder, `which` ("best" or "last") says which checkpoint; a run that has no best one yet gives
    the last. Raises `CourseError` when there is none or when it does not fit.
    """
    path = Path(path)
    if path.is_dir():
        names = [f"{which}.safetensors", "last.safetensors"]
        files = [path / name for name in names if (path / name).is_file()]
        if not files:
            raise CourseError(f"{path} holds no checkpoint ({names[0]}); train first with "
                              f"`vt-course train MODEL --out {path}`")
        path = files[0]
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}
    except FileNotFoundError as error:
        raise CourseError(f"{path} does not exist; name a run folder or a .safetensors file") from error
    except SafetensorError as error:
        raise CourseError(f"{path} is not a readable safetensors file ({error})") from error
    if "recipe" not in metadata or "classes" not in metadata:
        raise CourseError(f"{path} was not written by `vt-course train`: its header has no recipe")
    recipe = Recipe.from_json(metadata["recipe"])
    model = create(recipe.model, num_classes=len(json.loads(metadata["classes"])),
                   drop_path=recipe.drop_path)
    load_weights(model, weights, path)
    return model.eval(), recipe
