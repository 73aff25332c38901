"""What a run that starts from trained weights may want: frozen parts, slower first layers, weights of classes."""

import math
import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from vt_course import CourseError, closest, need
from vt_course.files import csv_header, read_csv
from vt_course.training.engine import batch_norms

HEAD = ("head.", "aux_head.")
BLOCK = re.compile(r"(?:layers\.\d+\.blocks|blocks\d*|temporal_layers)\.\d+(?=\.)")
OF_STAGE = re.compile(r"(?:layers\.(\d+)|(?:patch_embed|blocks)(\d+)|blocks\.(\d+))\.")  # Swin; UniFormer; others


# ---------------------------------------------------------------- frozen parts


def freeze(model: nn.Module, what: str) -> list[nn.Module]:
    """Take the gradient from the parameters that `what` names (see `frozen`). "" changes nothing.

    Returns the BatchNorms whose parameters are all frozen. Whoever trains the model must keep them in eval mode, or
    their running statistics, and with them the frozen features, would still change. Dropout in frozen parts goes on.
    Raises `CourseError` if nothing is left to train.
    """
    if not what:
        return []
    names = frozen(model, what)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in names)
    left = any(parameter.requires_grad for parameter in model.parameters())
    need(left, f"freeze={what} leaves no parameter to train; leave the head out of it")
    return [norm for norm in batch_norms(model) if not any(parameter.requires_grad for parameter in norm.parameters())]


def frozen(model: nn.Module, what: str) -> set[str]:
    """The names of the parameters that `what` means.

    backbone    all but the head
    stages:N    the embedding and the first N stages. TimeSformer has no stages; there, a quarter of its blocks is one,
                as in its `features`.
    PATTERN     names of parameters or modules with *, ? and [...], several separated by commas: patch_embed,layers.0

    Raises `CourseError` for a pattern without a parameter, and for more stages than there are.
    """
    names = [name for name, _ in model.named_parameters()]
    if what == "backbone":
        return {name for name in names if not name.startswith(HEAD)}
    if what.startswith("stages:"):
        stage = {name: stage_of(model, name) for name in names}
        most, count = max((n for n in stage.values() if n < math.inf), default=0), what.removeprefix("stages:")
        good = count.isdecimal() and 1 <= int(count) <= most
        need(good, f"freeze={what}: {type(model).__name__} has {most} stages; write stages:1 to stages:{most}")
        return {name for name in names if stage[name] <= int(count)}
    found = set()
    for pattern in (part.strip() for part in what.split(",")):
        here = {name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")}
        if not here:
            parts = [name.split(".") for name in names]
            known = dict.fromkeys(".".join(part[:i]) for part in parts for i in range(1, len(part) + 1))
            known = ["backbone", *known]
            near = ", ".join(get_close_matches(pattern, known, n=3, cutoff=0.4) or known[:3])
            raise CourseError(f"freeze={what}: no parameter is called {pattern!r}; the closest names are {near}")
        found |= here
    return found


def stage_of(model: nn.Module, name: str) -> float:
    """The stage of a parameter, from 1; 0 for what comes before the blocks, infinity for what comes after them."""
    if name.startswith(("norm.", *HEAD)):
        return math.inf
    if name.startswith("temporal_layers."):  # of Video Swin's "split" design: part of the last stage
        return len(model.layers)
    if not (found := OF_STAGE.match(name)):
        return 0
    if found[1]:
        return int(found[1]) + 1
    if found[2]:
        return int(found[2])
    blocks = list(model.blocks)
    starts = [j for j, block in enumerate(blocks) if j and getattr(block, "pool_skip", None) is not None]  # MViT
    starts = starts or [-(-len(blocks) * i // 4) for i in (1, 2, 3)]
    return 1 + sum(int(found[3]) >= start for start in starts)


def say_frozen(model: nn.Module, what: str) -> str:
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    count, rest = (sum(n for n, trains in sizes if trains is kind) for kind in (False, True))
    return f"freeze={what}: {count:,} parameters are frozen, {rest:,} are trained"


# ---------------------------------------------------------------- slower first layers


def layers(model: nn.Module) -> dict[str, int]:
    """The layer of each parameter: 0 for the embeddings, 1 .. L for the L blocks, L + 1 for the last norm and the head.

    The rule of BEiT (microsoft/unilm beit/optim_factory.py) and MAE (facebookresearch/mae util/lr_decay.py), which MViT
    follows (facebookresearch/SlowFast slowfast/models/optimizer.py). What stands between two blocks (a patch merging of
    Swin, a later embedding of UniFormer) is of the layer of the block before it, as Swin's merging is in SimMIM
    (microsoft/SimMIM optimizer.py). It relies on the order of `named_parameters`, in which models run.
    """
    found, blocks = {}, []
    for name, _ in model.named_parameters():
        block = BLOCK.match(name)
        if block and block[0] not in blocks:
            blocks.append(block[0])
        found[name] = math.inf if name.startswith(("norm.", *HEAD)) else len(blocks)
    return {name: min(layer, len(blocks) + 1) for name, layer in found.items()}


def by_layer(model: nn.Module, groups: list[dict], decay: float) -> list[dict]:
    """The groups of an optimiser, split by layer. A group of layer l has `lr_scale` = decay^(L + 1 - l).

    `lr_scale` is the factor on the rate of the schedule. The last layer comes first. With a decay of 1 the groups are
    returned as they are.
    """
    if decay == 1:
        return groups
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    layer_of = layers(model)
    last, split = max(layer_of.values()), {}
    for number, group in enumerate(groups):
        for parameter in group["params"]:
            split.setdefault((-layer_of[name_of[id(parameter)]], number), []).append(parameter)
    return [
        groups[number]
        | {"params": split[layer, number], "lr_scale": groups[number].get("lr_scale", 1.0) * decay ** (last + layer)}
        for layer, number in sorted(split)
    ]


# ---------------------------------------------------------------- weights of classes


def class_weights(what: str, classes: Sequence[str], labels: Sequence[int] | None) -> list[float] | None:
    """The factor on the loss of each class, in the order of `classes`; None if the file is gone.

    "balanced": clips / (classes * clips of the class), the rule of scikit-learn's `compute_class_weight`. Then all
    classes together weigh the same, and the mean over all clips is 1. `labels`: of the training clips; None: every
    class has as many. Else `what` is a CSV file with the columns class and weight. Raises `CourseError` for a class
    without clips, for a class that is unknown, missing or twice in the file, and for a weight that is not above 0.
    """
    if what == "balanced":
        if labels is None:
            return [1.0] * len(classes)
        counts = [0] * len(classes)
        for label in labels:
            counts[label] += 1
        if 0 in counts:
            empty = f"the class {classes[counts.index(0)]!r} has no training clip"
            raise CourseError(f"class_weights=balanced: {empty}; add one, or name a file of weights")
        return [len(labels) / (len(classes) * count) for count in counts]
    if not os.path.isfile(what):
        return None
    remedy = "write a line class,weight and then one line for each class"
    header = csv_header(what, remedy)
    need(set(header) >= {"class", "weight"}, f"{what} has the columns {', '.join(header)[:100]}; {remedy}")
    found = {}
    for line, row in read_csv(what, remedy):
        name, place = row["class"], f"{what}, line {line}"
        need(name in classes, f"{place}: unknown class {name!r}; {closest(name or '', classes)}")
        need(name not in found, f"{place}: the class {name!r} occurs twice; take one line away")
        try:
            found[name] = float(row["weight"])
        except (TypeError, ValueError):
            found[name] = math.nan
        good = 0 < found[name] < math.inf
        need(good, f"{place}: the weight of {name!r} is {row['weight']!r}; it must be a number above 0")
    missing = [name for name in classes if name not in found]
    need(not missing, f"{what} has no weight for {', '.join(missing[:5])}; add a line for each class")
    return [found[name] for name in classes]
