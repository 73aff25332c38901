"""Official checkpoint layouts <-> ours, and inflation of image weights to video.

A released file wraps its tensors in a dict, prefixes their names, and stores buffers that a model can
compute by itself. `from_official` undoes all three and is strict: names or shapes that do not fit are an
error that lists them.
"""
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WRAPPERS = ("state_dict", "model_state", "model")
COMPUTED = ("relative_position_index", "attn_mask")

# Prefixes of the released Video Swin files (SwinTransformer/Video-Swin-Transformer).
VIDEO_SWIN = {"backbone.": "", "cls_head.fc_cls.": "head."}


def unwrap(checkpoint: Mapping) -> dict[str, Tensor]:
    """The tensors of a released file, without its wrapper, `module.` prefix and computed buffers."""
    for wrapper in WRAPPERS:
        if isinstance(checkpoint.get(wrapper), Mapping):
            checkpoint = checkpoint[wrapper]
            break
    return {k.removeprefix("module."): v for k, v in checkpoint.items()
            if isinstance(v, Tensor) and k.rsplit(".", 1)[-1] not in COMPUTED}


def rename(key: str, prefixes: Mapping[str, str]) -> str:
    """Replace the first prefix that fits."""
    for old, new in prefixes.items():
        if key.startswith(old):
            return new + key[len(old):]
    return key


def from_official(model: nn.Module, checkpoint: Mapping) -> dict[str, Tensor]:
    """Turn a released Swin or Video Swin checkpoint into a state dict of `model`, strictly.

    `checkpoint` is the object in the file, wrapped or not. Raises ValueError that lists every missing,
    unexpected or misshapen entry by its name in our layout.
    """
    state = {rename(k, VIDEO_SWIN): v for k, v in unwrap(checkpoint).items()}
    check_state(model, state)
    return state


def to_official(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a Video Swin model under the names of the released files."""
    return {"cls_head.fc_cls." + k.removeprefix("head.") if k.startswith("head.") else "backbone." + k: v
            for k, v in model.state_dict().items()}


def from_torchvision(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the state dict of torchvision's `swin_*` or `swin3d_*` into one of `model`, strictly.

    torchvision counts stages and mergings in one list, `features`: stage i is features[2i] and the
    merging after it features[2i + 1]; the image model keeps the patch embedding in front, so there
    everything moves up by one. The MLP is a Sequential.
    """
    image = "features.0.0.weight" in state
    renamed = {}
    for key, value in state.items():
        if key.rsplit(".", 1)[-1] in COMPUTED:
            continue
        parts = key.split(".")
        if image and parts[:2] == ["features", "0"]:
            parts = ["patch_embed", {"0": "proj", "2": "norm"}[parts[2]], parts[3]]
        elif parts[0] == "features":
            i = int(parts[1]) - image
            parts = ["layers", str(i // 2), "downsample", *parts[2:]] if i % 2 else \
                    ["layers", str(i // 2), "blocks", *parts[2:]]
        name = ".".join(parts).replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
        renamed[name] = value
    check_state(model, renamed)
    return renamed


def check_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise ValueError that lists what `state` lacks, has too much of, or has in another shape."""
    want = model.state_dict()
    problems = [f"missing {k} {tuple(want[k].shape)}" for k in want if k not in state]
    problems += [f"unexpected {k} {tuple(state[k].shape)}" for k in state if k not in want]
    problems += [f"{k} has shape {tuple(state[k].shape)}, wanted {tuple(want[k].shape)}"
                 for k in want if k in state and state[k].shape != want[k].shape]
    if problems:
        raise ValueError(f"the weights do not fit {type(model).__name__}, {len(problems)} entries differ: "
                         + "; ".join(problems))


# ---------------------------------------------------------------- inflation

def inflate_patch(weight: Tensor, pt: int, mode: str = "average") -> Tensor:
    """Image patch weights (D, C, ph, pw) -> tube weights (D, C, pt, ph, pw).

    "average" (what the official code does): repeat over time and divide by pt, so that a still clip gives
    the image model's tokens. "centre": the image weights at time step pt // 2, zeros elsewhere.
    """
    if mode == "average":
        return weight[:, :, None].repeat(1, 1, pt, 1, 1) / pt         # (D, C, pt, ph, pw)
    if mode == "centre":
        out = weight.new_zeros(*weight.shape[:2], pt, *weight.shape[2:])
        out[:, :, pt // 2] = weight
        return out
    raise ValueError(f"unknown inflation mode {mode!r}; choose 'average' or 'centre'")


def inflate_bias_table(table: Tensor, window: tuple[int, int, int], mode: str = "average") -> Tensor:
    """Image bias table ((2M-1)^2, h) -> video table ((2P-1)(2M'-1)(2M'-1), h).

    "average" (the official rule): the same spatial table for every temporal offset. "centre": the table at
    temporal offset 0 and a bias of -4.6 (a factor of 1/100 before normalisation) at all others, so that a
    token starts by attending within its own frame; the paper names this initialisation without giving
    its constant, so -4.6 is our assumption. For another window side the table is resized bicubically first.
    """
    P, Mh, Mw = window
    side, h = round(len(table) ** 0.5), table.shape[1]
    if side * side != len(table):
        raise ValueError(f"a bias table of {len(table)} rows is not square")
    if (side, side) != (2 * Mh - 1, 2 * Mw - 1):
        grid = table.T.view(1, h, side, side)                         # (1, h, 2M-1, 2M-1)
        grid = F.interpolate(grid, (2 * Mh - 1, 2 * Mw - 1), mode="bicubic", align_corners=False)
        table = grid.view(h, -1).T                                    # ((2M'-1)^2, h)
    out = table.repeat(2 * P - 1, 1)                                  # ((2P-1)(2M'-1)^2, h)
    if mode == "centre":
        away = torch.ones(2 * P - 1, dtype=torch.bool)
        away[P - 1] = False
        out.view(2 * P - 1, -1, h)[away] -= 4.6
    elif mode != "average":
        raise ValueError(f"unknown inflation mode {mode!r}; choose 'average' or 'centre'")
    return out


def inflate_swin(model: nn.Module, checkpoint: Mapping, mode: str = "average") -> dict[str, Tensor]:
    """Initialise a Video Swin model from an image Swin checkpoint (the paper's section on initialisation).

    Returns a complete state dict for `model`: everything but the patch embedding and the bias tables is
    copied; the head is the model's own (the classes differ). Raises ValueError as `from_official` does.
    """
    head = {k: v for k, v in model.state_dict().items() if k.startswith("head.")}
    state = {k: v for k, v in unwrap(checkpoint).items() if not k.startswith("head.")} | head
    if "patch_embed.proj.weight" in state and state["patch_embed.proj.weight"].ndim == 4:
        pt = model.patch_embed.proj.stride[0]
        state["patch_embed.proj.weight"] = inflate_patch(state["patch_embed.proj.weight"], pt, mode)
    window = model.layers[0].blocks[0].window
    for key in [k for k in state if k.endswith("relative_position_bias_table")]:
        state[key] = inflate_bias_table(state[key], window, mode)
    check_state(model, state)
    return state
