"""Official checkpoint layouts <-> ours, inflation of image weights to video, and resizing of position tables.

Our parameters carry the names of the official repositories, so an official file needs little: a wrapper taken
off, a prefix dropped, buffers left out that a model computes by itself. Other people's files of the same
networks (torchvision, transformers, timm, ...) name the same tensors differently. Each layout below is a list of
renamings from our names to theirs; read backwards, the same list loads their files. Everything is strict: what
is missing, unexpected or misshapen is an error that lists it.
"""
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Where files keep their weights: mmaction2 and Lightning, SlowFast, most others, DeepSpeed; then the averaged ones of
# timm and mmengine.
WRAPPERS = ("state_dict", "model_state", "model", "model_state_dict", "module",
            "model_ema", "state_dict_ema", "ema_state_dict", "ema")
COMPUTED = ("relative_position_index", "attn_mask", "num_batches_tracked", "n_averaged")
# Parts of names that (Distributed)DataParallel, torch.compile, FSDP and activation checkpointing put in.
PUT_IN = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
LISTED = 6                       # differences that an error lists one by one; of more, it gives the number


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
    """The tensors of a released file, without its wrappers, what training tools put into the names, and computed
    buffers.

    Warns where the file holds several states (weights and their moving average): the first of `WRAPPERS` is taken.
    Raises ValueError for an object without tensors.
    """
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"a checkpoint is a dictionary of tensors by name, not a {type(checkpoint).__name__}")
    while found := [k for k in WRAPPERS if isinstance(checkpoint.get(k), Mapping)]:
        taken, *others = found
        if others:
            warnings.warn(f"the file holds several states, {', '.join(found)}; {taken!r} is taken: pass its entry "
                          f"{others[0]!r} alone for that one.", stacklevel=3)
        checkpoint = checkpoint[taken]
    state = {".".join(part for part in str(k).split(".") if part not in PUT_IN): v for k, v in checkpoint.items()
             if isinstance(v, Tensor) and not computed(str(k))}
    if not state:
        raise ValueError(f"the checkpoint holds no tensors by name, only {', '.join(map(str, list(checkpoint)[:8])) or 'nothing'}")
    return state


def match(model: nn.Module, names) -> tuple[str, str, str]:
    """The layout that has most of `names`, after `prefix` is taken off and `base` put on: (layout, prefix, base).

    Names have a prefix where the model was a part of another one (Lightning's `model.`). They lack a base where only a
    part was saved: a headless `TimesformerModel` has no `timesformer.`
    """
    names, keys = list(names), [k for k in model.state_dict() if not computed(k)]
    before = Counter(".".join(parts[:i]) + "." for parts in (n.split(".") for n in names) for i in range(1, min(len(parts), 5)))
    prefixes = ["", *(p for p, count in before.items() if 2 * count > len(keys))]
    found, known = {}, layouts(model)    # the best has most names; among equals, the shortest base, then the shortest prefix
    for layout in known:
        theirs = {n for k in keys for n in known[layout].names(k)}
        first, count = Counter(n.split(".")[0] + "." for n in theirs).most_common(1)[0]
        for prefix in prefixes:
            for base in ("", first) if 2 * count > len(theirs) else ("",):
                hits = sum(n.startswith(prefix) and base + n[len(prefix):] in theirs for n in names)
                found[layout, prefix, base] = hits, -base.count("."), -prefix.count(".")
    return max(found, key=found.get)


def recognise(model: nn.Module, names) -> str:
    """The layout whose names cover most of `names`."""
    return match(model, names)[0]


def from_official(model: nn.Module, checkpoint: Mapping, *, resize: bool = False,
                  source: tuple[int, ...] | None = None) -> dict[str, Tensor]:
    """Turn someone else's checkpoint into a state dict of `model`, strictly.

    `checkpoint` is the object in the file, wrapped or not (see `unwrap`, `match`), in any of `layouts(model)`; which
    one is recognised by its names. Numbers of another precision become the model's. A warning says what is left out:
    entries outside the prefix of the model, such as a second state, and a head that the file lacks (the model keeps
    its own).

    With `resize`, position tables made for other sizes (bias tables for another window, position
    embeddings for another grid or number of frames) are interpolated to the model's, along each axis. Rows do not tell
    a grid that is not square: then give `source`, its (H, W) or (T, H, W) in patches. Raises ValueError
    that lists every missing, unexpected or misshapen entry by its name in the file.
    """
    own = model.state_dict()
    dtype = next(v.dtype for v in own.values() if v.is_floating_point())
    theirs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in unwrap(checkpoint).items()}
    name, prefix, base = match(model, theirs)
    outside = [k for k in theirs if not k.startswith(prefix)]
    theirs = {base + k[len(prefix):]: v for k, v in theirs.items() if k.startswith(prefix)}
    layout = layouts(model)[name]
    names = {ours: layout.names(ours) for ours in own if not computed(ours)}
    want = to_official(model, {ours: own[ours] for ours in names}, name)

    def renamed(ours: str) -> Tensor:
        parts = [theirs[n] for n in names[ours]]
        value = torch.cat(parts) if len(parts) > 1 else parts[0]
        axes = layout.left_out(ours)
        return value[(None,) * axes] if axes else value

    if resize:                                   # what is stored in one piece is enough: only q, k and v are ever split
        whole = {ours: renamed(ours) for ours, (first, *more) in names.items() if first in theirs and not more}
        theirs |= to_official(model, model.resize_positions(whole, source), name)
    head = [n for ours in names if ours.startswith("head.") for n in names[ours]]
    headless = theirs and not any(n in theirs for n in head)
    check_state(model, theirs | {n: want[n] for n in head} if headless else theirs, want)
    if headless:
        theirs |= {n: want[n] for n in head}
        warnings.warn(f"the file has no head ({head[0]}); the model keeps its own.", stacklevel=2)
    if outside:
        warnings.warn(f"of the file, what begins with {prefix!r} is taken; {len(outside)} other entries are left out, the first is "
                      f"{outside[0]}.", stacklevel=2)
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
    """Raise ValueError that lists what `state` lacks, has too much of, or has in another shape or kind than `want`.

    `want` is by default the model's own state. Of a long list the first are named, and what the weights most likely
    are.
    """
    want = model.state_dict() if want is None else want
    problems = [f"missing {k} {tuple(want[k].shape)}" for k in want if k not in state]
    problems += [f"unexpected {k} {tuple(state[k].shape)}" for k in state if k not in want]
    problems += [f"{k} has shape {tuple(state[k].shape)}, wanted {tuple(want[k].shape)}"
                 for k in want if k in state and state[k].shape != want[k].shape]
    problems += [f"{k} has numbers of type {state[k].dtype}, wanted {want[k].dtype}" for k in want
                 if k in state and (want[k].is_floating_point() != state[k].is_floating_point() or state[k].is_complex())]
    if problems:
        more = len(problems) - LISTED
        listed = problems if more <= 0 else [*problems[:LISTED], f"and {more} more. {likely(state)}"]
        raise ValueError(f"the weights do not fit {type(model).__name__}, {len(problems)} entries differ: {'; '.join(listed)}")


@cache
def without_memory(name: str) -> nn.Module:
    """The published variant `name` on the meta device: names and shapes, no numbers."""
    from vt_course.models.zoo import ZOO  # only here: it imports the families, which import this file
    with torch.device("meta"):
        return ZOO[name].family(**ZOO[name].config)


def likely(state: Mapping[str, Tensor]) -> str:
    """A sentence: which published variants have the names and shapes of `state`, or else which family has the names."""
    from vt_course.models.zoo import ZOO  # only here: it imports the families, which import this file

    def compared(name: str) -> tuple[float, bool, str]:
        """The share of the variant's names in `state`, whether all but its head have the right shape, and the
        prefix."""
        model = without_memory(name)
        layout, prefix, base = match(model, state)
        theirs = {base + k[len(prefix):]: v.shape for k, v in state.items() if k.startswith(prefix)}
        want = {k: v.shape for k, v in to_official(model, layout=layout).items() if not computed(k)}
        body = [k for k in want if not re.search(r"(^|\.)(head|cls_head|classifier)\.", k)]
        found = sum(k in theirs for k in body) / len(body)
        return found, found == 1 and all(theirs[k] == want[k] for k in body) and len(theirs) <= len(want), prefix

    share = {variant.family: compared(name)[0] for name, variant in ZOO.items() if name.endswith("_mini")}
    near = [family for family in share if share[family] >= 0.9 * max(share.values())]
    if max(share.values()) < 0.5:
        first = ", ".join(dict.fromkeys(k.split(".")[0] for k in list(state)[:200]))
        return f"The names belong to no family here; they begin with {first[:200] or 'nothing'}"
    fits = {}
    for name, variant in ZOO.items():
        if variant.family in near:
            _, same, prefix = compared(name)
            if same:
                fits[name] = prefix
    if fits:
        names, (prefix, *_) = list(fits), fits.values()
        return (f"These are weights of {' or '.join(names[:3])}{' or others of the same shapes' * (len(names) > 3)}"
                + f", under the prefix {prefix!r}" * bool(prefix) + "; pass `create` that name")
    return (f"The names are those of {' or '.join(family.__name__ for family in near)}, but no published variant has these shapes; pass "
            "`create` the settings they were trained with")


# ---------------------------------------------------------------- other sizes

def resize_bias_table(table: Tensor, window: tuple[int, ...]) -> Tensor:
    """Resize a relative position bias table to the table of `window`.

    (prod(2w-1), h) -> (prod(2w'-1), h): bicubically over height and width (the rule of microsoft/Swin-Transformer,
    utils.py, and of the video code when it loads image weights), linearly over time (ours: nothing is published for
    that). The rows alone do not tell the old window; where they are not as many as the new one's, it is taken to be
    square, as all official ones are, with P or M as in `window`. Raises ValueError when no such window has that many
    rows.
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
    """The method `inflate` of a Video Swin model, which initialises it from an image Swin checkpoint."""
    return model.inflate(checkpoint, mode)
