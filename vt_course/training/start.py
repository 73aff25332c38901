"""The weights that a run starts from: the setting `init` of its recipe.

    FILE          a state dict: ours, the authors', torchvision's, transformers', ... (see `models.official`)
    NAME          weights of the package (`video_swin_mini`) or of `vt-course weights` (`uniformer_small_16/k400_16x4`)
    RUN           a run folder, of which the best weights are taken
    inflate:...   one of these, with the weights of an image model, which the family's own rule turns into a video model

A head for other classes is left out, and the model keeps its own, which is new. Tables of positions that were made for
another size are resized by the rule of the family (`resize_positions`). Everything else must fit strictly.
"""

import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from vt_course import CourseError, closest, data_roots, need
from vt_course.files import parse_json, parsing, sha256_of
from vt_course.models import ZOO, create, mini_weights
from vt_course.models.official import computed, from_official, layouts, match, to_official, unwrap
from vt_course.training.checkpoint import build_model, check_whole, load_weights, read_checkpoint, read_weights
from vt_course.training.recipes import Recipe

INFLATE = "inflate:"
# Where a run folder has its weights, then a folder of transformers.
IN_FOLDER = ("best.safetensors", "last.safetensors", "model.safetensors", "pytorch_model.bin")
REMEDY = "name a run folder, a file of weights or a name from `vt-course weights list`"


def find(init: str) -> Path | None:
    """The file that `init` names, or None. Names of the package's weights come first: write ./NAME for a file of it."""
    name = init.removeprefix(INFLATE)
    if name in ZOO:
        with suppress(ValueError):
            return mini_weights(name)
    path = Path(name)
    downloaded = (root / "weights" / f"{name}.safetensors" for root in data_roots())
    files = [path, *(path / each for each in IN_FOLDER), *downloaded]
    return next((file for file in files if os.path.isfile(file)), None)


def digest(init: str) -> str | None:
    """What identifies the start: whether it is inflated, and the SHA-256 of its file. None if there is no such file."""
    if (path := find(init)) is None:
        return None
    with parsing(path, "damaged", REMEDY):
        return f"{INFLATE if init.startswith(INFLATE) else ''}sha256 {sha256_of(path)}"


def load_start(model, recipe: Recipe, classes: list[str]) -> list[str]:
    """Set the weights of `model` to those that `recipe.init` names.

    Returns sentences on what was taken, made new and resized. Raises `CourseError` if there is no such file, and for
    weights that do not fit; the message names what is missing, unexpected or misshapen.
    """
    init, path = recipe.init, find(recipe.init)
    if path is None:
        name = init.removeprefix(INFLATE)
        need(not os.path.isdir(name), f"init={init}: the folder holds no weights ({', '.join(IN_FOLDER)}); {REMEDY}")
        minis = [each for each in ZOO if each.endswith("_mini")]
        raise CourseError(f"init={init}: there is no such file; {REMEDY} (of the minis: {closest(name, minis)})")
    try:
        with warnings.catch_warnings(record=True) as caught:  # of several states in a file, of a file without a head
            warnings.simplefilter("always")
            tensors, header = read_start(path)
            if init.startswith(INFLATE):
                state, said = inflated(model, tensors, header, classes)
            else:
                state, said = fitted(model, tensors, header, recipe, classes)
    except CourseError:
        raise
    except ValueError as error:
        image = "" if init.startswith(INFLATE) or not hasattr(model, "inflate") else image_hint(init, tensors)
        raise CourseError(f"{recipe.model} cannot start from init={init}: {error}{image}") from error
    load_weights(model, state, path)
    new_head = any(note.startswith("the head is new") for note in said)
    said += [str(each.message) for each in caught if not (new_head and "has no head" in str(each.message))]
    return [f"the run starts from {path}", *said]


def read_start(path: Path) -> tuple[Mapping, dict]:
    """(tensors by name, header) of a file of weights. The header of another than a safetensors file is empty."""
    if path.suffix == ".safetensors":
        checkpoint, header = read_weights(path)
        check_whole(path, checkpoint, header)
    else:
        checkpoint, header = read_checkpoint(path, REMEDY), {}
    try:
        return unwrap(checkpoint), header
    except ValueError as error:
        raise CourseError(f"{path}: {error}; {REMEDY}") from error


def image_hint(init: str, tensors: Mapping) -> str:
    video = any(tensor.ndim == 5 for tensor in tensors.values())
    return "" if video else f"; if these are weights of an image model, write {INFLATE}{init}"


def other_classes(header: dict, classes: list[str]) -> str | None:
    """Why the head of a file with this header cannot be kept: it is for classes of other names. Else None."""
    if "classes" not in header:
        return None
    had = parse_json(header["classes"], "the list of classes", REMEDY, list)
    return None if had == list(classes) else f"that of the file is for the classes {', '.join(map(str, had[:4]))}, ..."


def fitted(model, tensors: Mapping, header: dict, recipe: Recipe, classes: list[str]) -> tuple[dict, list[str]]:
    """(a complete state dict of `model`, sentences) from weights of the same architecture."""
    own = model.state_dict()
    name, prefix, base = match(model, tensors)
    theirs = {}  # our name -> their names, as they are in the file
    for ours in own:
        if not computed(ours):
            theirs[ours] = [prefix + n[len(base) :] for n in layouts(model)[name].names(ours) if n.startswith(base)]
    head = [each for ours in theirs if ours.startswith("head.") for each in theirs[ours] if each in tensors]
    why = other_classes(header, classes)
    if head and not why and tensors[head[0]].shape[:1] != (len(classes),):
        why = f"that of the file is for {tensors[head[0]].shape[:1].numel()} classes, the data have {len(classes)}"
    said = []
    if head and why:
        tensors = {key: value for key, value in tensors.items() if key not in head}
        said.append(f"the head is new: {why}")
    # A table with another number of axes is of no other size, it is wrong: then let `from_official` list what differs.
    axes = {n: value.ndim for n, value in to_official(model, layout=name).items()}
    tables = all(value.ndim == axes.get(base + n[len(prefix) :], value.ndim) for n, value in tensors.items())
    state = from_official(model, tensors, resize=tables, source=tokens_of(header))
    resized = [
        f"{ours} from {tuple(tensors[each[0]].shape)} to {tuple(own[ours].shape)}"
        for ours, each in theirs.items()
        if len(each) == 1 and each[0] in tensors and tensors[each[0]].numel() != own[ours].numel()
    ]
    if resized:
        more = f" and {len(resized) - 1} more" if len(resized) > 1 else ""
        size = f"frames={recipe.frames}, size={recipe.size}"
        said.append(f"positions are resized for {size} and the windows of {recipe.model}: {resized[0]}{more}")
    return state, said


def tokens_of(header: dict) -> tuple[int, int, int] | None:
    """The (T, H, W) of the tokens for which an MViT file was made, which the rows of joint positions do not tell."""
    with torch.device("meta"):
        if "recipe" in header:
            return getattr(build_model(Recipe.from_json(header["recipe"]), 1), "size", None)
        if header.get("model") in ZOO:
            settings = parse_json(header.get("settings", "{}"), "the settings of the weights", REMEDY, dict)
            return getattr(create(header["model"], **settings), "size", None)
    return None


def inflated(model, tensors: Mapping, header: dict, classes: list[str]) -> tuple[dict, list[str]]:
    """(a complete state dict of `model`, sentences) from weights of an image model of the same family."""
    if not hasattr(model, "inflate"):
        raise ValueError(
            f"{type(model).__name__} has no rule to inflate an image model; name weights of the model itself"
        )
    if video := next((name for name, tensor in tensors.items() if tensor.ndim == 5), None):
        raise ValueError(f"{video} is a tensor of a video model; name its file without {INFLATE}")
    own = model.state_dict()
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    try:
        state = model.inflate(tensors)
    except (IndexError, RuntimeError) as error:  # of a tensor with fewer axes than the rule works on
        raise ValueError(f"the rule of the family cannot inflate these weights ({error})") from error
    head = [name for name in own if name.startswith("head.")]
    if why := other_classes(header, classes):
        state |= {name: own[name] for name in head}
    said = ["the weights of the image model are inflated"]
    if all(torch.equal(state[name].to(own[name].dtype), own[name]) for name in head):
        said.append(f"the head is new: {why}" if why else "the head is new")
    return state, said
