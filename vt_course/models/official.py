"""Official checkpoint layouts <-> ours, inflation of image weights to video, and resizing of position tables.

Our parameters carry the names of the official repositories, so an official file needs little: a wrapper taken
off, a prefix dropped, buffers left out that a model computes by itself. Other people's files of the same
networks (torchvision, transformers, timm, ...) name the same tensors differently. Each layout below is a list of
renamings from our names to theirs; read backwards, the same list loads their files. Everything is strict: what
is missing, unexpected or misshapen is an error that lists it.
"""
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .swin import Backbone, SwinBlock

WRAPPERS = ("state_dict", "model_state", "model")
COMPUTED = ("relative_position_index", "attn_mask", "num_batches_tracked")


@dataclass(frozen=True)
class Layout:
    """How someone else's files name the tensors of one of our models.

    `rules` are (pattern, replacement) pairs of `re.sub`, applied one after the other to our name.
    """

    rules: tuple = ()
    split_qkv: bool = False       # three tensors q, k, v where ours holds one; `qkv` becomes `q`, `k`, `v` before the rules
    flat: tuple = ()              # (pattern, n): our names that they store without the n leading axes, of length 1

    def names(self, ours: str) -> list[str]:
        """Their name, or their three names, of our entry `ours`."""
        parts = [ours.replace("qkv", part) for part in "qkv"] if self.split_qkv and ".qkv." in ours else [ours]
        for pattern, replacement in self.rules:
            parts = [re.sub(pattern, replacement, name) for name in parts]
        return parts

    def left_out(self, ours: str) -> int:
        """How many leading axes of our entry `ours` are not in their file."""
        return next((n for pattern, n in self.flat if re.search(pattern, ours)), 0)


# torchvision counts stages and mergings in one list: stage i is features[2i], the merging after it
# features[2i + 1]; the image model keeps the patch embedding in front, so there everything moves up by one.
def _torchvision_swin(first: int) -> tuple:
    return ((r"^layers\.(\d+)\.blocks", lambda m: f"features.{2 * int(m[1]) + first}"),
            (r"^layers\.(\d+)\.downsample", lambda m: f"features.{2 * int(m[1]) + 1 + first}"),
            (r"mlp\.fc1", "mlp.0"), (r"mlp\.fc2", "mlp.3"))


_HF_SWIN = ((r"^layers\.", "swin.encoder.layers."), (r"^patch_embed\.proj", "swin.embeddings.patch_embeddings.projection"),
            (r"^patch_embed\.norm", "swin.embeddings.norm"), (r"^norm\.", "swin.layernorm."), (r"^head\.", "classifier."),
            (r"^absolute_pos_embed", "swin.embeddings.position_embeddings"),
            (r"\.norm1\.", ".layernorm_before."), (r"\.norm2\.", ".layernorm_after."))
_HF_TIMESFORMER = (
    (r"^(cls_token)", r"timesformer.embeddings.\1"), (r"^pos_embed", "timesformer.embeddings.position_embeddings"),
    (r"^time_embed", "timesformer.embeddings.time_embeddings"),
    (r"^patch_embed\.proj", "timesformer.embeddings.patch_embeddings.projection"),
    (r"^blocks\.", "timesformer.encoder.layer."), (r"^norm\.", "timesformer.layernorm."), (r"^head\.", "classifier."),
    (r"temporal_norm1", "temporal_layernorm"), (r"temporal_fc", "temporal_dense"),
    (r"\.norm1\.", ".layernorm_before."), (r"\.norm2\.", ".layernorm_after."),
    (r"\.(temporal_attn|attn)\.", lambda m: "." + m[1].replace("attn", "attention") + "."),
    (r"attention\.qkv", "attention.attention.qkv"), (r"attention\.proj", "attention.output.dense"),
    (r"mlp\.fc1", "intermediate.dense"), (r"mlp\.fc2", "output.dense"))
_TORCHVISION_MVIT = (
    (r"^patch_embed\.proj", "conv_proj"), (r"^cls_token", "pos_encoding.class_token"),
    (r"^pos_embed_(\w+)", r"pos_encoding.\1_pos"), (r"attn\.proj\.", "attn.project.0."),
    (r"attn\.pool_([qkv])", r"attn.pool_\1.pool"), (r"attn\.norm_([qkv])", r"attn.pool_\1.norm_act.0"),
    (r"^(blocks\.\d+)\.proj\.", r"\1.project."), (r"mlp\.fc1", "mlp.0"), (r"mlp\.fc2", "mlp.3"),
    (r"^head\.projection", "head.1"))
_PYTORCHVIDEO_MVIT = (
    (r"^patch_embed\.proj", "patch_embed.patch_model"), (r"^(cls_token|pos_embed)", r"cls_positional_encoding.\1"),
    (r"^norm\.", "norm_embed."), (r"^head\.projection", "head.proj"))

# By class of model: the official layout first. Sources: the state dicts of the classes themselves.
LAYOUTS: dict[str, dict[str, Layout]] = {
    "SwinTransformer": {
        "official": Layout(),                                            # microsoft/Swin-Transformer
        "torchvision": Layout(((r"^patch_embed\.proj", "features.0.0"), (r"^patch_embed\.norm", "features.0.2"),
                               *_torchvision_swin(1))),
        # timm merges at the start of a stage, not at the end of the one before
        "timm": Layout(((r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample"),
                        (r"^head\.", "head.fc."))),
        "transformers": Layout((*_HF_SWIN, (r"\.attn\.([qkv])\.", r".attention.\1_proj."),
                                (r"\.attn\.proj\.", ".attention.o_proj."),
                                (r"\.attn\.", ".attention.relative_position_bias.")), split_qkv=True),
        "transformers 4": Layout((*_HF_SWIN, (r"\.attn\.q\.", ".attention.self.query."), (r"\.attn\.k\.", ".attention.self.key."),
                                  (r"\.attn\.v\.", ".attention.self.value."), (r"\.attn\.proj\.", ".attention.output.dense."),
                                  (r"\.attn\.", ".attention.self."), (r"mlp\.fc1", "intermediate.dense"),
                                  (r"mlp\.fc2", "output.dense")), split_qkv=True),
    },
    "SwinTransformer3D": {
        # SwinTransformer/Video-Swin-Transformer
        "official": Layout(((r"^head\.", "cls_head.fc_cls."), (r"^(?!cls_head)", "backbone."))),
        "mmaction2": Layout(((r"^head\.", "cls_head.fc_cls."), (r"^norm\.", "norm3."), (r"^(?!cls_head)", "backbone."))),
        "torchvision": Layout(_torchvision_swin(0)),
    },
    "MViT": {
        "official": Layout(),                                            # facebookresearch/SlowFast
        "official, separate q k v": Layout(split_qkv=True),              # the same with MVIT.SEPARATE_QKV
        "pytorchvideo": Layout(_PYTORCHVIDEO_MVIT, split_qkv=True),
        "pytorchvideo, fused qkv": Layout(_PYTORCHVIDEO_MVIT),
        "torchvision": Layout(_TORCHVISION_MVIT, flat=((r"^(cls_token|pos_embed_class)$", 2), (r"^pos_embed_", 1))),
    },
    "TimeSformer": {
        "official": Layout(((r"^", "model."),)),                         # facebookresearch/TimeSformer
        "transformers": Layout(_HF_TIMESFORMER),
    },
    "UniFormer": {
        "official": Layout(),                                            # Sense-X/UniFormer
    },
}


def layouts(model: nn.Module) -> dict[str, Layout]:
    """The layouts known for a model, the official one first, our own names last."""
    return {**LAYOUTS[type(model).__name__], "ours": Layout()}


def computed(name: str) -> bool:
    """Whether an entry is a buffer that the model computes by itself."""
    return name.rsplit(".", 1)[-1] in COMPUTED


def unwrap(checkpoint: Mapping) -> dict[str, Tensor]:
    """The tensors of a released file, without its wrapper, `module.` prefix and computed buffers."""
    for wrapper in WRAPPERS:
        if isinstance(checkpoint.get(wrapper), Mapping):
            checkpoint = checkpoint[wrapper]
            break
    return {k.removeprefix("module."): v for k, v in checkpoint.items()
            if isinstance(v, Tensor) and not computed(k)}


def recognise(model: nn.Module, names) -> str:
    """The layout whose names cover most of `names`."""
    names, keys = set(names), [k for k in model.state_dict() if not computed(k)]
    known = layouts(model)
    return max(known, key=lambda layout: sum(n in names for k in keys for n in known[layout].names(k)))


def from_official(model: nn.Module, checkpoint: Mapping, *, resize: bool = False,
                  source: tuple[int, ...] | None = None) -> dict[str, Tensor]:
    """Turn someone else's checkpoint into a state dict of `model`, strictly.

    `checkpoint` is the object in the file, wrapped or not, in any of `layouts(model)`; which one is recognised by
    its names. With `resize`, position tables made for other sizes (bias tables for another window, position
    embeddings for another grid or number of frames) are interpolated to the model's, along each axis. Rows do not tell
    a grid that is not square: then give `source`, its (H, W) or (T, H, W) in patches. Raises ValueError
    that lists every missing, unexpected or misshapen entry by its name in the file.
    """
    theirs = unwrap(checkpoint)
    name = recognise(model, theirs)
    layout, own = layouts(model)[name], model.state_dict()
    names = {ours: layout.names(ours) for ours in own if not computed(ours)}
    want = to_official(model, {ours: own[ours] for ours in names}, name)

    def renamed(ours: str) -> Tensor:
        parts = [theirs[n] for n in names[ours]]
        value = torch.cat(parts) if len(parts) > 1 else parts[0]
        axes = layout.left_out(ours)
        return value[(None,) * axes] if axes else value

    if resize:                                   # only what is stored whole: no position table is split as q, k, v are
        whole = {ours: renamed(ours) for ours, (first, *more) in names.items() if first in theirs and not more}
        theirs |= to_official(model, resize_positions(model, whole, source), name)
    check_state(model, theirs, want)
    return {ours: renamed(ours) if ours in names else own[ours] for ours in own}


def to_official(model: nn.Module, state: Mapping[str, Tensor] | None = None, layout: str = "official") -> dict[str, Tensor]:
    """`state` (default: the model's own weights) under the names of `layout`; the inverse of `from_official`.

    It holds for anything shaped like the weights, for instance their gradients.
    """
    known = layouts(model)
    if layout not in known:
        raise ValueError(f"unknown layout {layout!r} for {type(model).__name__}; choose from {', '.join(known)}")
    layout, out = known[layout], {}
    for ours, value in (model.state_dict() if state is None else state).items():
        names = layout.names(ours)
        parts = value.chunk(len(names)) if len(names) > 1 else [value]
        for name, part in zip(names, parts):
            axes = layout.left_out(ours)
            out[name] = part[(0,) * axes] if axes else part
    return out


def check_state(model: nn.Module, state: Mapping[str, Tensor], want: Mapping[str, Tensor] | None = None) -> None:
    """Raise ValueError that lists what `state` lacks, has too much of, or has in another shape than `want`.

    `want` is by default the model's own state.
    """
    want = model.state_dict() if want is None else want
    problems = [f"missing {k} {tuple(want[k].shape)}" for k in want if k not in state]
    problems += [f"unexpected {k} {tuple(state[k].shape)}" for k in state if k not in want]
    problems += [f"{k} has shape {tuple(state[k].shape)}, wanted {tuple(want[k].shape)}"
                 for k in want if k in state and state[k].shape != want[k].shape]
    if problems:
        raise ValueError(f"the weights do not fit {type(model).__name__}, {len(problems)} entries differ: "
                         + "; ".join(problems))


# ---------------------------------------------------------------- other sizes

def resize_bias_table(table: Tensor, window: tuple[int, ...]) -> Tensor:
    """Resize a relative position bias table to the table of `window`.

    (prod(2w-1), h) -> (prod(2w'-1), h): bicubically over height and width (the rule of microsoft/Swin-Transformer, utils.py,
    and of the video code when it loads image weights), linearly over time (ours: nothing is published for that).
    The rows alone do not tell the old window; where they are not as many as the new one's, it is taken to be square, as
    all official ones are, with P or M as in `window`. Raises ValueError when no such window has that many rows.
    """
    *time, H, W = [2 * w - 1 for w in window]                         # sides of the new table
    rows, h = table.shape
    if rows == prod(time) * H * W:
        return table
    T = time[0] if time else 1
    side = round((rows / T) ** 0.5)
    if T * side * side == rows and side % 2:
        old = (T, side, side)                                         # P as before
    elif time and rows % (H * W) == 0 and rows // (H * W) % 2:
        old = (rows // (H * W), H, W)                                 # M as before
    else:
        raise ValueError(f"a bias table of {rows} rows belongs to no square window"
                         + (f" with the temporal or the spatial size of {tuple(window)}" if time else ""))
    grid = table.view(*old, h).permute(0, 3, 1, 2)                    # (2P-1, h, 2M-1, 2M-1)
    if old[1:] != (H, W):
        grid = F.interpolate(grid, (H, W), mode="bicubic", align_corners=False)
    if old[0] != T:
        grid = F.interpolate(grid.flatten(1).T[None], T, mode="linear", align_corners=False)[0].T.view(T, h, H, W)
    return grid.permute(0, 2, 3, 1).reshape(-1, h)                    # (prod(2w'-1), h)


def resize_positions(model: nn.Module, state: Mapping[str, Tensor],
                     source: tuple[int, ...] | None = None) -> dict[str, Tensor]:
    """`state` with every position table or embedding interpolated to the sizes of `model`.

    Swin and Video Swin: `resize_bias_table`. MViT and TimeSformer: their method `resize_positions`, which takes `source`,
    the old grid. UniFormer has none.
    """
    if isinstance(model, Backbone):
        windows = {f"{name}.attn.relative_position_bias_table": block.window
                   for name, block in model.named_modules() if isinstance(block, SwinBlock)}
        return {k: resize_bias_table(v, windows[k]) if k in windows else v for k, v in state.items()}
    return model.resize_positions(state, source) if hasattr(model, "resize_positions") else dict(state)


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
    h = table.shape[1]
    table = resize_bias_table(table, (Mh, Mw))                        # ((2M'-1)^2, h)
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
