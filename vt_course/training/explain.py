"""Where a model looks, and what its answer rests on: a share for each place of a clip.

    occlusion   where hiding a box lowers the probability of a class (Zeiler and Fergus, arXiv 1311.2901, section 2)
    gradcam     which places raise the score of a class, to first order (Selvaraju et al., arXiv 1610.02391)
    rollout     what reaches the classifier if attention alone moved information (Abnar and Zuidema, arXiv 2005.00928)
    attention   what one attention layer reads, in one head or in the mean of its heads

Each returns a map (T, H, W) of shares, which are at least 0 and sum to 1 (or are all 0 where nothing was found), and
the name of what it shows. `explain` calls them by name. A picture that looks right proves nothing, so
`training.proofs` tests each method twice on each family. The docstrings below and every picture end in what came out,
read from `results/explain.json`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from vt_course import CourseError, closest, need, repo_root
from vt_course.data.reader import ClipReader
from vt_course.files import read_json
from vt_course.models.attention import Layer, Places, recording, token_places
from vt_course.models.mvit import MViT
from vt_course.models.swin import Backbone
from vt_course.models.timesformer import TimeSformer
from vt_course.models.uniformer import DividedBlock, UniFormer
from vt_course.models.video_swin import SwinTransformer3D
from vt_course.training.evaluate import class_scores
from vt_course.training.protocols import PROTOCOLS, read_views, to_floats
from vt_course.training.trained import Trained, open_model

RESULTS = repo_root() / "results" / "explain.json"
# A proof is passed if the whole 95 % interval keeps to these.
INSIDE = 2.0  # proof (a): the moving shape must get at least so many times its share of the area
ALIKE = 0.5  # proof (b): with random weights, the rank correlation with the true picture must be below this
BLOCK = re.compile(r"layers\.\d+\.blocks\.\d+|temporal_layers\.\d+|blocks\d?\.\d+")  # names of blocks, in all families
METHODS = {}  # name -> Method


@dataclass
class Method:
    run: Callable  # (model, clip, ...) -> map, name of what it shows
    takes: tuple[str, ...]  # its options: of "target", "layer", "head"
    caveat: str  # what a reader of any picture must know


def method(*takes: str, caveat: str):
    """Decorator: a method that takes these options. Its docstring gets the caveat, and what the proofs found."""

    def register(run):
        name = run.__name__
        METHODS[name] = Method(run, takes, caveat)
        found = [f"- {line}" for family in proofs() for line in told(name, family)]
        run.__doc__ = "\n\n    ".join([(run.__doc__ or "").strip(), caveat, "\n    ".join(found or [UNTESTED])])
        return run

    return register


# ---------------------------------------------------------------- what the proofs found

UNTESTED = "Not tested: there is no result for this model in results/explain.json."


def proofs() -> dict:
    """family (the name of its mini) -> what `training.proofs` found; {} in an installed copy without results."""
    if not RESULTS.is_file():
        return {}
    return read_json(RESULTS, "write it anew: python -m vt_course.training.proofs", dict)["families"]


def tested_as(model) -> str | None:
    """The mini on which the proofs tested the family of `model`, or None for a kind that was not tested."""
    if isinstance(model, SwinTransformer3D):
        return "video_swin_mini"
    if isinstance(model, MViT) and not model.image:
        return "mvit_v2_mini" if model.blocks[0].attn.rel_pos else "mvit_mini"
    if isinstance(model, TimeSformer) and model.attention == "divided":
        return "timesformer_mini"
    return "uniformer_mini" if isinstance(model, UniFormer) and model.dims == 3 else None


def verdict(good: bool) -> str:
    return "passed" if good else "FAILED"


def told(name: str, family: str | None, layer: str | None = None) -> list[str]:
    """What the proofs found for a method on a family: a sentence, or of `attention` one for each layer (or `layer`)."""
    lines = []
    for row in proofs().get(family, []):
        if row["method"] != name or layer not in (None, row["layer"]):
            continue
        first, second = ("{mean:.2f} ({low:.2f} to {high:.2f})".format(**row[proof]) for proof in ("inside", "random"))
        where = f" {row['layer']}" if name == "attention" else ""
        shape, random = verdict(row["inside"]["low"] >= INSIDE), verdict(row["random"]["high"] < ALIKE)
        lines.append(
            f"{family}{where}: {shape}, the moving shape gets {first} times its share of the area, asked: all above "
            f"{INSIDE:g}; {random}, with random weights the rank correlation is {second}, asked: all below {ALIKE:g}."
        )
    return lines


# ---------------------------------------------------------------- attention


def attention_layers(model, clip: Tensor) -> list[Layer]:
    """The attention layers of one pass of a clip (C, T, H, W). Raises `CourseError` if the model has none."""
    with recording(model) as layers:
        class_scores(model, clip[None])
    need(layers, f"this {type(model).__name__} has no attention; choose the method occlusion or gradcam")
    return layers


def asking(places: Places) -> Tensor:
    """The share of each query in what the classifier reads, (Lq + cls,): of class tokens or, if none, all alike."""
    tokens = prod(places.size_q)
    share = torch.zeros(tokens + places.cls)
    share[tokens if places.cls else 0 :] = 1
    return share / share.sum()


def read(weights: Tensor, places: Places, share: Tensor) -> Tensor:
    """What queries with these shares (Lq + cls,) read: shares of the keys (Lk + cls,), with the same sum.

    `weights`: (n, N, M). The class token of TimeSformer asks once in each frame, and its answers are averaged: a
    query that stands in several groups counts in each by an equal part. Padding holds no picture, so what is read of it
    is left out and the rest scaled up.
    """
    times = torch.bincount(places.queries.flatten(), minlength=len(share) + 1)  # (Lq + cls + 1,): the last is padding
    each = (F.pad(share, (0, 1)) / times.clamp(min=1))[places.queries]  # (n, N)
    flow = (each[:, None] @ weights).flatten()  # (n·M,)
    got = torch.zeros(prod(places.size_k) + places.cls + 1).index_add_(0, places.keys.flatten(), flow)[:-1]
    return got * (each.sum() / got.sum().clamp(min=1e-12))


def spread(share: Tensor, small: tuple, large: tuple) -> Tensor:
    """Shares of a pooled map for the map it was pooled from, (l + cls,) -> (L + cls,), with the same sum.

    A pooled token stands for the tokens of its cell, each by an equal part: the adjoint of an average pooling.
    """
    if small == large:
        return share
    with torch.enable_grad():
        before = torch.zeros(1, *large, requires_grad=True)
        after = F.adaptive_avg_pool3d(before, small).flatten()
    (cells,) = torch.autograd.grad(after, before, share[: prod(small)])
    return torch.cat([cells.flatten(), share[prod(small) :]])


def as_map(share: Tensor, size: tuple) -> Tensor:
    """The shares of a map, without those of class tokens, scaled to sum to 1: (L + cls,) -> (T, H, W)."""
    return scaled(share[: prod(size)].view(size))


def scaled(values: Tensor) -> Tensor:
    """Values of at least 0 as shares that sum to 1; all 0 stays all 0."""
    return values / values.sum().clamp(min=1e-12)


def attention_map(layer: Layer, head: int | None = None) -> Tensor:
    """What one layer reads: shares (T, H, W) of its keys."""
    places, weights = token_places(layer), layer.weights.float()  # (n, h, N, M)
    share = asking(places)
    if not share[places.queries.unique().clamp(max=len(share) - 1)].any():  # the class token does not ask in this layer
        share = torch.ones_like(share)
    return as_map(read(weights.mean(1) if head is None else weights[:, head], places, share), places.size_k)


def rollout_map(layers: list[Layer]) -> Tensor:
    """Attention rollout through all layers, the last one first: shares (T, H, W) of the tokens of the first."""
    need(
        not any(isinstance(layer.block, DividedBlock) for layer in layers),
        "rollout is not defined for UniFormer's divided blocks, whose residual passes by the attention over time; "
        "choose another method",
    )
    share = size = None
    for layer in reversed(layers):
        places = token_places(layer)
        share = asking(places) if share is None else spread(share, size, places.size_q)
        asks = torch.zeros(len(share) + 1).index_fill_(0, places.queries.flatten(), 0.5)[:-1]  # 0: passes by the layer
        got = read(layer.weights.float().mean(1), places, share * asks)
        size = places.size_in
        share = spread(share * (1 - asks), places.size_q, size) + spread(got, places.size_k, size)
    return as_map(share, size)


def pick(what: str, number: int, names: list[str]) -> int:
    """A number of a layer, also counted from the end. Raises `CourseError` for one that does not exist."""
    need(
        -len(names) <= number < len(names),
        f"there is no {what} {number}: they are 0 ({names[0]}) to {len(names) - 1} ({names[-1]})",
    )
    return number % len(names)


@method("layer", "head", caveat="It shows what a layer reads, not what the answer rests on, and knows no classes.")
def attention(model, clip: Tensor, layer: int | None = None, head: int | None = None) -> tuple[Tensor, str]:
    """What one attention layer reads, by default the last: of the class token where it asks, else of all queries alike.

    Layers are counted in the order of computation; a block of TimeSformer has several. Without `head`, the mean of all.
    """
    layers = attention_layers(model, clip)
    chosen = layers[pick("attention layer", -1 if layer is None else layer, [one.name for one in layers])]
    need(head is None or 0 <= head < chosen.heads, f"{chosen.name} has the heads 0 to {chosen.heads - 1}, not {head}")
    heads = f"the mean of {chosen.heads} heads" if head is None else f"head {head}"
    return attention_map(chosen, head), f"{chosen.name}, {heads}"


@method(
    caveat="It follows attention and residuals only, each by half, and knows no classes; MLPs and convolutions are "
    "left out, and a merged or pooled token stands for its cell by equal parts."
)
def rollout(model, clip: Tensor) -> tuple[Tensor, str]:
    """Attention rollout: the product over all layers of (A + I) / 2, A the mean of the heads (section 3 of the paper).

    The row of the class token, or the mean of all rows where the model averages its tokens. The paper defines it for
    layers that all see the same tokens; so does TimeSformer, whose steps over time and over space are two layers, each
    with a residual of its own. The rest is approximated. Windows (Swin) are layers whose A has zeros between windows;
    what is read of padding is left out. A merged, pooled or strided token stands for its cell by equal parts, where
    the model learns unequal ones. In UniFormer it begins where attention does: the stages of convolutions before stay
    unseen. Raises `CourseError` for UniFormer's divided blocks.
    """
    layers = attention_layers(model, clip)
    return rollout_map(layers), f"from {layers[-1].name} back to {layers[0].name}"


# ---------------------------------------------------------------- classes


def blocks_of(model) -> dict[str, nn.Module]:
    """name -> block, in the order of computation, of a model of the five families."""
    return {name: module for name, module in model.named_modules() if BLOCK.fullmatch(name)}


def block_map(model, block, arguments: tuple, tokens: Tensor) -> Tensor:
    """What a block returned for one clip as a map with channels first: (C, T, H, W), without class tokens."""
    if isinstance(model, TimeSformer):
        H, W, T = arguments[1]
        return (
            tokens[:, 1:].unflatten(1, (H, W, T)).permute(4, 0, 3, 1, 2).flatten(1, 2)
        )  # of `space`: frames are samples
    if isinstance(model, MViT):
        return tokens[0, block.attn.cls :].T.unflatten(1, block.size_out)
    tokens = tokens[0].movedim(-1, 0) if isinstance(model, Backbone) else tokens[0]
    return tokens if tokens.ndim == 4 else tokens[:, None]  # an image is a clip of one frame


def deepest_fine(sizes: list[tuple]) -> int:
    """The last block whose map has 7 x 7 places, as the last stages of published models have; else that of the most."""
    places = [min(height * width, 49) for _, height, width in sizes]
    return max(range(len(places)), key=lambda k: (places[k], k))


@method(
    "target", "layer", caveat="It is a slope: what the score does for very small changes, averaged over all places."
)
def gradcam(model, clip: Tensor, target: int, layer: int | None = None) -> tuple[Tensor, str]:
    """Grad-CAM on the map after a block: relu(sum over c of w_c A_c), w_c the mean slope of the score along channel c.

    The means run over time and space. `layer` counts blocks. By default it is the last whose map has 7 x 7 places. Of
    the last block, a model with a class token reads nothing else; its map has no slope there, so it is refused.
    """
    blocks, kept = blocks_of(model), {}
    need(blocks, f"Grad-CAM needs the blocks of one of the five families, and {type(model).__name__} is none")
    hooks = [
        block.register_forward_hook(lambda m, args, out, name=name: kept.update({name: (args, out)}))
        for name, block in blocks.items()
    ]
    try:
        with torch.enable_grad():
            score = class_scores(model, clip[None].clone().requires_grad_())[0, target]
    finally:
        for hook in hooks:
            hook.remove()
    names = list(kept)
    if hasattr(model, "cls_token"):
        names = names[:-1]
        need(names, "Grad-CAM needs a block before the last, after which only the class token is read; this has one")
    maps = {name: block_map(model, blocks[name], *kept[name]).detach() for name in names}
    default = deepest_fine([values.shape[1:] for values in maps.values()])
    name = names[pick("block with a slope", default if layer is None else layer, names)]
    arguments, out = kept[name]
    slope = block_map(model, blocks[name], arguments, *torch.autograd.grad(score, out))  # (C, T, H, W)
    return scaled((slope.mean((1, 2, 3), keepdim=True) * maps[name]).sum(0).relu()), f"the map after {name}"


@method(
    "target",
    caveat="It hides one box at a time: what two boxes tell alike does not show, and grey boxes are pictures that the "
    "model never saw.",
)
@torch.no_grad()
def occlusion(model, clip: Tensor, target: int, grid: tuple | None = None, progress=False) -> tuple[Tensor, str]:
    """How much log p(class) falls when a box of the clip gets the clip's mean colour; rises count as 0.

    `grid`: boxes along time, height and width. By default 4 in time, and in space 4 x 4 below 64 pixels, else 7 x 7: 64
    or 196 passes.
    """
    side = 4 if min(clip.shape[2:]) < 64 else 7
    axes = [torch.arange(n).tensor_split(min(g, n)) for n, g in zip(clip.shape[1:], grid or (4, side, side))]
    grey, boxes = clip.mean((1, 2, 3), keepdim=True), list(product(*axes))
    scores = [class_scores(model, clip[None]).log_softmax(-1)[:, target]]
    for at in tqdm(range(0, len(boxes), 32), desc="hiding boxes", disable=not progress, leave=False):
        hidden = clip.repeat(len(boxes[at : at + 32]), 1, 1, 1, 1)  # (n, C, T, H, W)
        for copy, (t, h, w) in zip(hidden, boxes[at : at + 32]):
            copy[:, t[0] : t[-1] + 1, h[0] : h[-1] + 1, w[0] : w[-1] + 1] = grey
        scores.append(class_scores(model, hidden).log_softmax(-1)[:, target])
    whole, *without = torch.cat(scores)
    size = tuple(map(len, axes))
    falls = (whole - torch.stack(without)).relu().view(size)  # (T, H, W)
    return scaled(falls), f"{' x '.join(map(str, size))} boxes"


# ---------------------------------------------------------------- one clip, one video


@dataclass
class Explanation:
    """A map and what belongs under it."""

    map: Tensor  # (T, H, W), shares that sum to 1
    method: str
    shows: str  # which layer, block or boxes
    target: int  # the class it is about; where a method knows none, the model's answer
    probability: float  # of that class
    caveat: str


def explain(
    model,
    clip: Tensor,
    method: str = "occlusion",
    *,
    target: int | None = None,
    layer: int | None = None,
    head: int | None = None,
    progress: bool = False,
) -> Explanation:
    """One of `METHODS` on a normalised clip (C, T, H, W); an image model takes the one frame of a clip (C, 1, H, W).

    `target`: a class, by default the model's answer. `layer`: of attention, an attention layer; of gradcam, a block;
    both also count from the end. Raises `CourseError` for a method or number that does not exist, and for an option
    that the method has not.
    """
    need(method in METHODS, f"there is no method {method!r}: {closest(method, METHODS)}")
    given = {"target": target, "layer": layer, "head": head}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        called = "class" if name == "target" else name
        users = ", ".join(k for k, m in METHODS.items() if name in m.takes)
        need(
            name in METHODS[method].takes,
            f"{method} takes no {called}; leave it out, or choose a method with it: {users}",
        )
    with torch.no_grad():
        probability = class_scores(model, clip[None])[0].softmax(-1)
    need(target is None or 0 <= target < len(probability), f"the classes are 0 to {len(probability) - 1}, not {target}")
    about = int(probability.argmax()) if target is None else target
    options = given | {"target": about} if "target" in METHODS[method].takes else given
    if method == "occlusion":
        options["progress"] = progress
    shares, shows = METHODS[method].run(model, clip, **options)
    notes = [METHODS[method].caveat]
    if not shares.any():
        notes.append("The picture is empty: no place raises the score of this class.")
    # Of attention, the proofs have the mini's layers by name; a layer that only a larger model has was not tested.
    found = told(method, tested_as(model), shows.partition(",")[0] if method == "attention" else "")
    notes += [f"Proofs: {line}" for line in found] or [UNTESTED]
    return Explanation(shares, method, shows, about, float(probability[about]), " ".join(notes))


def explain_run(run, video, method: str = "occlusion", *, target: str | None = None, **options):
    """(clip, `Explanation`, classes) of a video for a trained model; see `explain`.

    `run`: what `trained.open_model` opens, or its result. `clip`: (C, T, H, W), the one that the validation of a run
    sees. `target` is the name of a class. Raises `CourseError` also for a name that is no class, and for a video that
    cannot be read.
    """
    trained = run if isinstance(run, Trained) else open_model(run)
    classes, shown = trained.classes, trained.shown
    if target is not None and target not in classes:
        raise CourseError(f"{trained.name} has no class {target!r}: {closest(target, classes)}")
    [clip] = to_floats(read_views(ClipReader(video), PROTOCOLS["centre"], shown), shown)
    number = None if target is None else classes.index(target)
    return clip, explain(trained.model, clip, method, target=number, **options), classes
