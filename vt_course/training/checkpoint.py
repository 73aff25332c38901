"""Checkpoints: files that are either the old ones or the new ones, never halves.

`state.pt` alone holds all that a resumed run needs and is switched by one rename, so a kill at
any moment leaves the previous state or the next. `last.safetensors` and `best.safetensors` are
copies of the weights for everyone else, with the recipe and the metric in their headers.
"""
import io
import json
import pickle
from pathlib import Path

import safetensors.torch
import torch

from vt_course import CourseError
from vt_course.files import atomic_write

STATE = "state.pt"


def save_state(folder: Path, state: dict) -> None:
    buffer = io.BytesIO()  # torch.save into a file turns a full disk into a RuntimeError
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
        raise CourseError(f"{path} is damaged ({str(error).splitlines()[0]}); start again in "
                          "another folder") from error


def save_weights(path: Path, model, metadata: dict) -> None:
    """The model's weights as safetensors; `metadata` values become JSON in the header."""
    weights = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = {name: value if isinstance(value, str) else json.dumps(value)
              for name, value in metadata.items()}
    atomic_write(path, safetensors.torch.save(weights, header))


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(weights, metadata) of a safetensors file, copied into memory: a file that stays mapped can be neither replaced
    nor removed on Windows.

    Raises SafetensorError for what is no safetensors file, OSError for what cannot be read.
    """
    data = path.read_bytes()
    weights = safetensors.torch.load(data)               # checks the header that is read again below
    size = int.from_bytes(data[:8], "little")
    return weights, json.loads(data[8:8 + size]).get("__metadata__", {})
