"""Checks of procedures: which frames and boxes are seen, learning rates, how weights begin, what decays, and where
official code and papers part ways."""

import math
import re
from collections import Counter
from itertools import product
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from vt_course.claims.ledger import structure
from vt_course.claims.ledger.running import Refuted, build, check, fill, noise, passed, plain, remembered, two_digits
from vt_course.data import augment, clips, transforms
from vt_course.data.loading import EpochBatches
from vt_course.models import mvit, swin, timesformer, uniformer
from vt_course.models.zoo import ZOO
from vt_course.training import protocols
from vt_course.training.fit import lr_at, parameter_groups
from vt_course.training.official_recipes import PUBLISHED

# ---------------------------------------------------------------- frames, crops, learning rates


@check
def view_starts(rule: str, num_frames: int, frames: int, stride: int, views: int) -> list[int]:
    """The first frame of each test clip of a video of `num_frames` frames."""
    return clips.VIEW_RULES[rule](num_frames, frames, stride, views)[:, 0].tolist()


@check
def view_frames(rule: str, num_frames: int, frames: int, stride: int) -> list[int]:
    """The frames of a single test clip."""
    return clips.VIEW_RULES[rule](num_frames, frames, stride, 1)[0].tolist()


@check
def segment_frames(rule: str, num_frames: int, frames: int) -> list[int]:
    """The frames that a rule takes from the middles of equal segments."""
    return clips.SEGMENT_RULES[rule](num_frames, frames).tolist()


@check
def crop_places(height: int, width: int, size: int) -> list[list[int]]:
    """Row and column of the upper left pixel of the three test crops."""
    rows, columns = np.mgrid[:height, :width]
    frame = torch.from_numpy(np.stack([rows, columns, rows], -1)[None])  # (1, H, W, 3), each pixel says where it is
    return [crop[0, 0, 0, :2].tolist() for crop in transforms.three_crops(frame, size)]


@check
def learning_rates(recipe: str, at: list[float]) -> list[float]:
    """The learning rates of a published recipe at some ends of epochs, with 1,000 steps an epoch."""
    steps, found = 1000, PUBLISHED[recipe].recipe()
    warmup = round(found.warmup_epochs * steps)
    rates = [lr_at(round(epoch * steps) - 1, found.epochs * steps, warmup, found.lr) for epoch in at]
    return list(map(two_digits, rates))


@check
def from_the_released_rates(
    recipe: str, rule: str, start: float = 0.0, end: float = 0.0, epochs: float = 0, warmup: float = 0
) -> list[float]:
    """How far our learning rates are from those of the released program, at 3,000 points, as shares of the peak: the
    largest difference in the warm-up and the largest behind it.

    rule: "slowfast" (`lr_policy.py`, and timm's schedule as Swin calls it): linear from `start` to the peak, then a
    cosine to `end`. "mmcv" (`CosineAnnealingLrUpdaterHook`): a cosine over all epochs, which falls once an epoch; in
    the warm-up its rate is multiplied by a share that rises from `start` to 1. "steps": a tenth after each milestone.
    `epochs` and `warmup`: as in a released file, if they are not those of our recipe.
    """
    found, points = PUBLISHED[recipe].recipe(), 3000
    last, first = epochs or found.epochs, warmup or found.warmup_epochs
    worst = [0.0, 0.0]
    for i in range(points):
        epoch = i / points * last
        if rule == "steps":
            theirs = 0.1 ** sum(epoch >= milestone for milestone in found.milestones)
        elif rule == "mmcv":
            theirs = (1 + math.cos(math.pi * int(epoch) / last)) / 2
            theirs *= 1 - (1 - epoch / first) * (1 - start) if epoch < first else 1
        elif epoch < first:
            theirs = start + (1 - start) * epoch / first
        else:
            theirs = end + (1 - end) * (1 + math.cos(math.pi * (epoch - first) / (last - first))) / 2
        steps, warm = round(found.epochs * points), round(found.warmup_epochs * points)
        step = round(i / points * last * points)
        ours = lr_at(step, steps, warm, 1.0, tuple(m * points for m in found.milestones)) if step < steps else 0.0
        worst[epoch >= first] = max(worst[epoch >= first], abs(ours - theirs))
    return list(map(two_digits, worst))


@check
def boxes_drawn(recipe: str, height: int, width: int) -> list[float]:
    """Of 2,000 random crops of a published recipe, in a frame of height x width: the smallest and the largest share of
    the area, the smallest and the largest width / height."""
    found, rng = PUBLISHED[recipe].recipe(), np.random.default_rng(0)
    sizes = [transforms.random_box(height, width, rng, found.crop_scale, found.crop_ratio)[2:] for _ in range(2000)]
    shares, ratios = [h * w / height / width for h, w in sizes], [w / h for h, w in sizes]
    return [round(each, 2) for each in (min(shares), max(shares), min(ratios), max(ratios))]


@check
def shares_mixed(recipe: str) -> list[float]:
    """Of 3,000 mixed batches: how many have a box of another clip, not a blend; and the variance of the share of the
    first clip in the blends, which for Beta(a, a) is 1 / (8a + 4)."""
    found = PUBLISHED[recipe].recipe()
    return mixed_batches(found.mixup, found.cutmix)


@remembered
def mixed_batches(mixup: float, cutmix: float) -> list[float]:
    clip, label = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1).expand(2, 3, 1, 8, 8), torch.tensor([0, 1])
    boxes, blends = 0, []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(3000):
            mixed, shares = augment.mix(clip, label, 2, mixup, cutmix)
            boxed = bool(((mixed == 0) | (mixed == 1)).all())
            boxes += boxed
            blends += [] if boxed else [float(shares[0, 0])]
    return [round(boxes / 3000, 2), round(float(np.var(blends)), 3)]


@check
def erased(recipe: str) -> list[float]:
    """Of 2,000 clips: how many get a box of noise, and the smallest and the largest share of the area that it has."""
    found, rng = PUBLISHED[recipe].recipe(), np.random.default_rng(0)
    rule, clip = augment.Augment(erasing=found.erasing), torch.zeros(1, 1, 64, 64)
    areas = [float((rule.erase(clip, rng) != 0).float().mean()) for _ in range(2000)]
    boxes = [area for area in areas if area]
    return [round(each, 2) for each in (len(boxes) / 2000, min(boxes), max(boxes))]


@check
def views_of_a_clip(recipe: str) -> list[int]:
    """How often a clip comes in a batch of a published recipe, and how many different clips are in it."""
    found = PUBLISHED[recipe].recipe()
    keys = next(iter(EpochBatches(4096, found.batch_size, 0, repeats=found.repeats)))
    counts = Counter(index for _, index in keys)
    if len(set(keys)) < len(keys) or len(set(counts.values())) > 1:
        raise Refuted("a view comes twice, or some clips come more often than others")
    return [max(counts.values()), len(counts)]


# ---------------------------------------------------------------- protocols


@check
def protocol_boxes(protocol: str, height: int, width: int, size: int = 224) -> list[list[int]]:
    """[height, width] of the scaled frames of a video, then (top, left) of each crop."""
    scaled = protocols.scaled(protocols.PROTOCOLS[protocol], height, width, size)
    return [list(scaled), *map(list, protocols.boxes(protocols.PROTOCOLS[protocol], *scaled, size))]


@check
def mean_over_views(protocol: str) -> str:
    """What a protocol averages over views: the "logits" or the "softmax"."""
    logits = 3 * noise(5, 4, 6)  # (N, V, K)
    got = protocols.video_scores(logits, protocols.PROTOCOLS[protocol].average)
    means = {"logits": logits.mean(1).log_softmax(-1), "softmax": logits.softmax(-1).mean(1).log()}
    fits = [name for name, want in means.items() if structure.same(got, want)]
    if len(fits) != 1:
        raise Refuted(f"the scores are neither of the two means: {fits}")
    return fits[0]


@check
def white_pixel(family: str) -> list[float]:
    """What a white pixel becomes, for red, green and blue: by ImageNet's numbers, or by 0.45 and 0.225."""
    settings = {"imagenet": {}, "slowfast": dict(mean=(0.45,) * 3, std=(0.225,) * 3)}[family]
    white = torch.full((1, 1, 1, 3), 255, dtype=torch.uint8)
    return [round(value, 3) for value in transforms.normalise(white, **settings).flatten().tolist()]


@check
def drop_path_rates(model: str, settings=None) -> list[float]:
    """The rates of the first, the second and the last block, in the order of the pass, rounded to 4 digits."""
    rates = [module.rate for module in build(model, settings).modules() if type(module).__name__ == "DropPath"]
    return [round(rates[i], 4) for i in (0, 1, -1)]


@check
def undecayed(model: str) -> list[str]:
    """The last parts of the names of matrices and tables that no weight decay shrinks."""
    built = build(model)
    _, kept = parameter_groups(built, 0.05)
    names = {id(p): name for name, p in built.named_parameters()}
    return sorted({names[id(p)].rsplit(".", 1)[-1] for p in kept["params"] if p.ndim > 1})


# ---------------------------------------------------------------- how weights begin


def initial(model: str, pattern: str, settings=None) -> torch.Tensor:
    """All values of the parameters whose names contain `pattern`, of a new model."""
    torch.manual_seed(0)
    variant = ZOO[model]
    built = variant.family(**variant.config | {"narrow_init": False} | plain(settings or {}))
    values = [p.flatten() for name, p in built.named_parameters() if re.search(pattern, name)]
    if not values:
        raise Refuted(f"{model} has no parameter {pattern!r}")
    return torch.cat(values).detach()


@check
def initial_value(model: str, pattern: str, settings=None) -> float:
    """The one value with which the parameters begin."""
    values = initial(model, pattern, settings)
    if values.min() != values.max():
        raise Refuted(f"they begin with values from {float(values.min()):.3g} to {float(values.max()):.3g}")
    return round(float(values[0]), 9)


@check
def initial_deviation(model: str, pattern: str, settings=None) -> float:
    """The standard deviation with which the parameters begin, rounded to 3 digits."""
    return round(float(initial(model, pattern, settings).std()), 3)


@check
def epsilon(model: str, at: str) -> float:
    """The constant that a LayerNorm adds to the variance, found from what it makes of very small numbers."""
    norm = build(model).get_submodule(at).to_empty(device="cpu").double()
    nn.init.ones_(norm.weight), nn.init.zeros_(norm.bias)
    small = 1e-3
    x = torch.full((norm.weight.numel(),), small, dtype=torch.float64)
    x[::2] = -small
    y = norm(x)[1].item()
    return two_digits((small / y) ** 2 - small**2)


# ---------------------------------------------------------------- where code and paper part ways


@check
def wrong_offsets(window: list[int], clamped: list[int]) -> float:
    """The share of pairs of tokens of a clamped window whose bias is that of another offset.

    A model that was built for `window` takes, for a smaller one, the leading corner of its index of offsets.
    """
    attn = swin.WindowAttention(4, tuple(window), (0,) * len(window), 1).double()
    with torch.no_grad():
        attn.relative_position_bias_table.copy_(torch.arange(len(attn.relative_position_bias_table))[:, None])
        used = attn.bias(prod(clamped))[0]
    places = torch.stack(torch.meshgrid(*map(torch.arange, clamped), indexing="ij")).flatten(1)
    right = torch.zeros_like(used)
    for offset, w in zip(places[:, :, None] - places[:, None], window):
        right = right * (2 * w - 1) + offset + w - 1
    return round(float((used != right).double().mean()), 3)


@check
@torch.no_grad()
def padding_is_seen(size: list[int], window: list[int]) -> bool:
    """Whether the tokens that fill the last windows change what real tokens get."""
    attn = fill(swin.WindowAttention(4, tuple(window), (0,) * len(window), 1).double())
    x = noise(1, *size, 4)
    got = attn(x)[0]
    cuts = [[slice(i, min(i + w, n)) for i in range(0, n, w)] for n, w in zip(size, window)]
    return not all(
        structure.same(got[piece], structure.literal_window_attention(attn, x[0][piece])) for piece in product(*cuts)
    )


@check
@torch.no_grad()
def class_token_is_normalised(pool: str) -> bool:
    """Whether MViT's class token, which is not pooled, passes the LayerNorm behind the pooling."""
    one = (1, 1, 1)
    attn = mvit.PoolingAttention(6, 6, 1, (2, 4, 4), 1, "conv", (3, 3, 3), one, (3, 3, 3), one, "", False)
    attn, x = fill(attn.double()), noise(1, 33, 6)
    return bool((attn.pooled(x, pool)[:, 0, 0] - x[:, 0]).abs().max() > structure.EQUAL)


@check
@torch.no_grad()
def class_token_gets_the_residual() -> bool:
    """Whether residual pooling of MViTv2 adds the query of the class token to it."""
    one = (1, 1, 1)
    attn = mvit.PoolingAttention(6, 6, 1, (2, 4, 4), 1, "conv", (3, 3, 3), one, (3, 3, 3), one, "", True)
    attn, x = fill(attn.double()), noise(1, 33, 6)
    with_residual = attn(x)
    attn.residual = False
    return bool((attn(x) - with_residual)[:, 0].abs().max() > structure.EQUAL)


@check
@torch.no_grad()
def divided_relation_keeps_time() -> bool:
    """Whether UniFormer's divided block carries its temporal residual past the attention over space."""
    block = fill(uniformer.DividedBlock(3, 8, 4.0, 4, None, True, False, 0.0).double().eval())
    block.attn.proj.weight.zero_(), block.attn.proj.bias.zero_()
    x = noise(1, 8, 4, 2, 2)
    before = block(x)
    block.t_attn.proj.weight.mul_(3.0)
    return bool((block(x) - before).abs().max() > structure.EQUAL)


@check
def rows_dropped_at_once(attention: str, size: list[int], batch: int) -> list[int]:
    """The lengths of the axis on which TimeSformer's drop path draws, in the order of a block."""
    block = timesformer.DividedBlock(8, 2, 4.0, 0.0, timesformer.SCHEMES[attention])
    lengths = []
    block.drop_path.register_forward_pre_hook(lambda module, args: lengths.append(len(args[0])))
    block(torch.zeros(batch, 1 + prod(size), 8), tuple(size))
    return lengths


@check
def moved_by_resizing(old: int, new: int) -> float:
    """The share of patches whose position TimeSformer's released `load_pretrained`, which resizes the table in one
    dimension, takes from another place than resizing in two does. Grids of `old` and `new` squared patches."""
    table = torch.arange(old * old + 1.0).view(1, -1, 1)
    two = timesformer.resize_space(table, (new, new))[0, 1:, 0]
    one = F.interpolate(table[:, 1:].mT, new * new, mode="nearest")[0, 0]
    return round(float((one != two).float().mean()), 3)


@check
def scores_sum_to_one(model: str) -> bool:
    """Whether what a model gives in eval mode is already a softmax."""
    with torch.no_grad():
        scores = build(model, None, "cpu")(noise(2, *ZOO[model].input))
    return bool((scores.sum(1) - 1).abs().max() < structure.EQUAL and (scores >= 0).all())


@check
def layers_of_the_head(model: str) -> int:
    """How many linear layers stand behind the class token or the average."""
    modules = dict(build(model).named_modules())
    ran = [name for name in passed(model).outputs if name.startswith("head")]
    return sum(isinstance(modules[name], nn.Linear) for name in ran)
