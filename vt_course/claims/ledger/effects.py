"""What a deviation does: the minis that ship, as the authors' code is and in the other way, on the same clips.

Where a paper and its code disagree, both ways are built here: the released one is the model of the course. The other
one is put into the running model while a `with` block lasts, or is another set of views. Numbers are those of small
models on drawn clips of 32 x 32 pixels. They say how much a deviation can matter, and not what it does to a paper's
accuracy.
"""

import atexit
import tempfile
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vt_course.claims.bench_models import peak_bytes, with_literal
from vt_course.claims.ledger import faults
from vt_course.claims.ledger.faults import Changes
from vt_course.claims.ledger.running import build, check, noise, plain, remembered, two_digits
from vt_course.data import images, synthetic
from vt_course.data.reader import ClipReader
from vt_course.models import fast, mvit, swin, timesformer, uniformer
from vt_course.models.layers import DropPath
from vt_course.models.official import inflate_patch
from vt_course.models.zoo import ZOO
from vt_course.training.fit import parameter_groups
from vt_course.training.official_recipes import PUBLISHED
from vt_course.training.protocols import PROTOCOLS, read_views, to_floats, video_scores
from vt_course.training.trained import Trained, open_model

CLIPS = 64
SEED = 47  # of the clips; the course's own have 0, those of the proofs of explanations 31

# ---------------------------------------------------------------- models and clips


@lru_cache
def trained(model: str, exact: bool = False) -> Trained:
    """The mini with the weights that ship. exact: in float64."""
    found = open_model(model)
    if exact:
        found.model.double()
    return found


@lru_cache
def films() -> list[Path]:
    """Files of fresh clips that nobody has trained on. They are removed when Python ends."""
    folder = tempfile.TemporaryDirectory(prefix="vt_course_ledger_")
    atexit.register(folder.cleanup)
    found = []
    for number, (motion, appearance) in enumerate(synthetic.labels(CLIPS, 2, SEED)):
        found.append(Path(folder.name, f"{number}.mp4"))
        clip = synthetic.clip_array(motion, appearance, frames=32, size=112, key=(SEED, 2, number))
        found[-1].write_bytes(synthetic.encode(clip))
    return found


@lru_cache
def views(protocol, shown) -> Tensor:
    """uint8 (N, V, T, H, W, 3): the views of all clips."""
    found = []
    for file in films():
        with closing(ClipReader(file)) as reader:
            found.append(read_views(reader, protocol, shown))
    return torch.stack(found)


def logits_of(model: str, protocol: dict | None = None, shown: dict | None = None) -> Tensor:
    """(N, V, K) logits. `protocol`: its name and what is changed of it, by default the clip of validation, in float64;
    `shown`: what is changed of how the model is shown a clip."""
    told = dict(protocol or {"name": "centre"})
    one = trained(model, exact=protocol is None)
    dtype = next(one.model.parameters()).dtype
    if one.model.layout == "B C H W":
        drawn = images.Shapes("test", size=one.shown.size, count=CLIPS)
        x = torch.stack([drawn[i]["clip"][:, 0] for i in range(CLIPS)])[:, None]  # (N, 1, C, H, W)
        x = F.interpolate(x.flatten(0, 1), (shown or {}).get("size", one.shown.size), mode="bilinear")[:, None]
    else:
        here = replace(one.shown, **plain(shown or {}))
        x = views(replace(PROTOCOLS[told.pop("name")], **told), here)
        x = torch.stack([to_floats(each, here) for each in x])  # (N, V, C, T, H, W)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that positions are stretched, which is what is measured
        return torch.cat([one.model(batch.to(dtype)) for batch in x.flatten(0, 1).split(16)]).unflatten(0, x.shape[:2])


def difference(one: Tensor, other: Tensor) -> list:
    """How many of the clips get another answer, and the largest change of a score (N, K), to two digits."""
    changed = int((one.argmax(1) != other.argmax(1)).sum())
    return [changed, two_digits((one - other).abs().max())]


# ---------------------------------------------------------------- the other way, in a running model

WAYS: dict[str, tuple[str, dict, Callable]] = {}


def way(model: str, **shown):
    """Decorator: register what `apply(change, network)` makes of the mini `model`. `shown`: changes of its clips."""

    def register(apply):
        WAYS[apply.__name__] = model, shown, apply
        return apply

    return register


@check
def effect(model: str, of: str) -> list:
    """[how many of 64 clips get another answer, the largest change of a logit] by the other way `of`."""
    named, shown, apply = WAYS[of]
    if named != model:
        raise ValueError(f"{of} is a way of {named}")
    released = as_released(model, shown)
    with Changes() as change:
        apply(change, trained(model, exact=True).model)
        return difference(released, logits_of(model, None, shown)[:, 0])


@remembered
def as_released(model: str, shown: dict) -> Tensor:
    return logits_of(model, None, shown)[:, 0]


@way("timesformer_mini")
def class_token_in_time(change, network):
    """Equation 13: over time, a patch is compared with the class token as well."""
    change.set(timesformer.DividedBlock, "attend", lambda *args: faults.attend(*args, in_time=True))


@way("timesformer_mini", size=48)
def positions_resized_in_one_dimension(change, network):
    """As released weights are loaded: the table of places is resized as one row of numbers."""

    def stretch(pos, source, grid):
        places = F.interpolate(pos[:, 1:].mT, grid[0] * grid[1], mode="nearest").mT
        return torch.cat((pos[:, :1], places), 1)

    change.set(timesformer, "stretch", stretch)


@way("timesformer_mini", size=48)
def positions_interpolated(change, network):
    """Between neighbours, not from the nearest one."""

    def stretch(pos, source, grid):
        places = pos[:, 1:].unflatten(1, source).permute(0, 3, 1, 2)  # (1, D, h, w)
        places = F.interpolate(places, grid, mode="bilinear").flatten(2).mT
        return torch.cat((pos[:, :1], places), 1)

    change.set(timesformer, "stretch", stretch)


@way("swin_mini")
def mask_of_minus_infinity(change, network):
    real = fast.known_kinds

    def kinds(*key):
        return [(rows, mask if mask is None else mask.masked_fill(mask < 0, -torch.inf)) for rows, mask in real(*key)]

    change.set(fast, "known_kinds", kinds)


@way("swin_mini")
def last_stage_shifts(change, network):
    """Section 3.2: successive blocks alternate, also where one window covers the map."""

    def everywhere(size, window, shift):
        return tuple(min(s, w) for s, w in zip(size, window)), tuple(
            w // 2 if sh else 0 for sh, w in zip(shift, window)
        )

    change.set(swin.WindowAttention, "window_and_shift", lambda attn, size: everywhere(size, attn.window, attn.shift))


def padding_masked(attn, x: Tensor) -> Tensor:
    """`WindowAttention.forward` in which nobody sees a token that fills a window."""
    size = tuple(x.shape[1:-1])
    window, shift = attn.window_and_shift(size)
    real = swin.pad(torch.ones_like(x[..., :1]), window)  # (B, *padded, 1)
    x = swin.pad(x, window)
    windows, groups, order = swin.roll_and_cut(x, window, shift)  # (B·nW, N, C)
    seen = swin.roll_and_cut(real, window, shift)[0].mT[:, None]  # (B·nW, 1, 1, N)
    q, k, v = attn.qkv(windows).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)  # 3 x (B·nW, h, N, d)
    scores = q @ k.mT / q.shape[-1] ** 0.5 + attn.bias(windows.shape[1])
    masks = [scores.new_zeros(n, *scores.shape[2:]) if mask is None else mask.expand(n, -1, -1) for n, mask in groups]
    scores = (scores + torch.cat(masks)[:, None]).masked_fill(seen == 0, -torch.inf)
    out = (scores.softmax(-1).nan_to_num() @ v).transpose(1, 2).flatten(2)  # a window of padding only sees nothing
    x = swin.put_back(attn.proj(out), window, x.shape[1:-1], order)
    return x[(slice(None), *map(slice, size))]


@way("video_swin_mini", size=40)
def padding_is_masked(change, network):
    change.set(swin.WindowAttention, "forward", padding_masked)


@way("swin_mini", size=72)
def image_padding_is_masked(change, network):
    change.set(swin.WindowAttention, "forward", padding_masked)


@way("video_swin_mini")
def offsets_of_the_clamped_window(change, network):
    """The bias of each pair is that of its own offset, also in a window that is smaller than the built one."""
    real, now = swin.WindowAttention.window_and_shift, {}

    def window_and_shift(attn, size):
        now[attn] = real(attn, size)[0]
        return real(attn, size)

    def bias(attn, N):
        places = torch.stack(torch.meshgrid(*map(torch.arange, now[attn]), indexing="ij")).flatten(1)
        rows = torch.zeros(N, N, dtype=torch.long)
        for offset, w in zip(places[:, :, None] - places[:, None], attn.window):
            rows = rows * (2 * w - 1) + offset + w - 1
        return attn.relative_position_bias_table[rows].permute(2, 0, 1)  # (h, N, N)

    change.set(swin.WindowAttention, "window_and_shift", window_and_shift)
    change.set(swin.WindowAttention, "bias", bias)


@way("mvit_mini")
def class_token_passes_by_the_norm(change, network):
    real = mvit.PoolingAttention.pooled

    def pooled(attn, x, name):
        untouched = x[:, : attn.cls].unflatten(-1, (attn.num_heads, -1))  # (B, 1, h, d)
        return torch.cat([untouched, real(attn, x, name)[:, attn.cls :]], 1)

    change.set(mvit.PoolingAttention, "pooled", pooled)


@way("mvit_v2_mini")
def relative_scores_are_scaled(change, network):
    """E is divided by sqrt(d) as q k^T is."""
    real = mvit.PoolingAttention.relative_scores

    def scaled(attn, q):
        return {axis: scores / q.shape[-1] ** 0.5 for axis, scores in real(attn, q).items()}

    change.set(mvit.PoolingAttention, "relative_scores", scaled)


@way("mvit_v2_mini")
def class_token_gets_the_pooled_query(change, network):
    for attn in network.modules():
        if isinstance(attn, mvit.PoolingAttention) and attn.residual:
            change.callback(attn.on_map.copy_, attn.on_map.clone())
            attn.on_map.fill_(1)


@way("uniformer_mini")
def patches_have_the_epsilon_of_blocks(change, network):
    for i in range(1, 5):
        change.set(getattr(network, f"patch_embed{i}").norm, "eps", 1e-6)


# ---------------------------------------------------------------- the other way, in the views


@check
def effect_of_views(model: str, released: dict, other: dict) -> list:
    """[how many of 64 clips get another answer, the largest change of a log-probability] by other views.

    Each way is a dict of `protocol` (its name and what is changed of it) and `shown` (changes of size or colours)."""
    return difference(*(scores_by(model, **told) for told in (released, other)))


@remembered
def scores_by(model: str, protocol: dict, shown: dict | None = None) -> Tensor:
    average = protocol.get("average") or PROTOCOLS[protocol["name"]].average
    return video_scores(logits_of(model, protocol, shown), average)


# ---------------------------------------------------------------- the other way, in training or when weights begin


def untrained(model: str, **settings) -> nn.Module:
    torch.manual_seed(0)
    variant = ZOO[model]
    return variant.family(**variant.config | {"narrow_init": False} | settings).double().eval()


@check
@torch.no_grad()
def effect_of_initial_biases(model: str, other: float) -> float:
    """The largest change of a logit of a new model, as a share of its largest logit, if biases begin with `other`."""
    network, x = untrained(model), torch.randn(4, *ZOO[model].input, dtype=torch.float64)
    released = network(x)
    for name, p in network.named_parameters():
        if name.endswith("bias"):
            p.fill_(other)
    return two_digits((network(x) - released).abs().max() / released.abs().max())


@check
@torch.no_grad()
def effect_of_kept_time(model: str) -> float:
    """How far a UniFormer with divided attention moves, as a share of its largest logit, if attention over space has
    what attention over time gave as its residual. Weights are random: none of this kind were released."""
    network, x = build(model, {"divided": True}, "cpu"), noise(2, *ZOO[model].input)
    released = network(x)

    def forward(block, x):
        size = x.shape[2:]
        x = block.embed_position(x).movedim(1, -1)  # (B, T, H, W, C)
        t = x.movedim(1, 3).flatten(0, 2)  # (B·H·W, T, C)
        t = (t + block.t_attn(block.t_norm(t))).unflatten(0, (x.shape[0], *size[1:])).movedim(3, 1)  # (B, T, H, W, C)
        s = t.flatten(0, 1).flatten(1, 2)  # (B·T, H·W, C)
        x = block.add(s, block.attn(block.norm1(s)), block.gamma_1)
        x = block.add(x, block.mlp(block.norm2(x)), block.gamma_2)
        return x.unflatten(0, (-1, size[0])).unflatten(2, size[1:]).movedim(-1, 1)  # (B, C, T, H, W)

    with Changes() as change:
        change.set(uniformer.DividedBlock, "forward", forward)
        return two_digits((network(x) - released).abs().max() / released.abs().max())


@check
@torch.no_grad()
def effect_of_whole_clips(model: str, rate: float, draws: int) -> list[float]:
    """How far drop path moves the logits of a trained TimeSformer, as it is drawn in the released code (for each place,
    for each frame) and drawn once a clip: the standard deviation over `draws` of it, the mean of all logits."""
    network = trained(model).model
    x = to_floats(views(PROTOCOLS["centre"], trained(model).shown)[:8, 0], trained(model).shown)

    def whole(module, y):
        drawn = y.new_empty(len(x), 1).bernoulli_(1 - rate) / (1 - rate)
        return y * drawn.expand(-1, len(y) // len(x)).reshape(-1, *[1] * (y.ndim - 1))

    found = []
    with Changes() as change:
        change.callback(network.eval)
        network.train()
        for module in network.modules():
            if isinstance(module, DropPath):
                change.set(module, "rate", rate)
        for way in (DropPath.forward, whole):
            change.set(DropPath, "forward", way)
            torch.manual_seed(0)
            found.append(float(torch.stack([network(x) for _ in range(draws)]).std(0).mean()))
    return list(map(two_digits, found))


@check
def effect_of_the_longest_key(model: str) -> list[float]:
    """Of the parameters of a model, the shares (in %) that decay, and that learn at the full rate outside of the head:
    by Video Swin's configuration as it reads, and by the rule of mmcv, in which only the longest key that fits counts.
    """
    network = untrained(model)
    recipe = PUBLISHED["video_swin_k400"].settings
    keys = {"absolute_pos_embed": (1, 0), "relative_position_bias_table": (1, 0), "norm": (1, 0), "backbone": (0.1, 1)}
    names = {id(p): name for name, p in network.named_parameters()}
    decays, full, total = [0, 0], [0, 0], 0
    for group in parameter_groups(network, recipe["weight_decay"], recipe["decays"], recipe["backbone_lr"]):
        for p in group["params"]:
            name = names[id(p)] if names[id(p)].startswith("head.") else f"backbone.{names[id(p)]}"
            lr, decay = next((keys[k] for k in sorted(keys, key=len, reverse=True) if k in name), (1, 1))
            total += p.numel()
            for i, (rate, shrinks) in enumerate(((group.get("lr_scale", 1), group["weight_decay"] > 0), (lr, decay))):
                decays[i] += p.numel() * bool(shrinks)
                full[i] += p.numel() * (rate == 1 and not name.startswith("head."))
    return [float(f"{100 * each / total:.3g}") for each in (*decays, *full)]


@check
def effect_of_fusing(tokens: list[int]) -> list[float]:
    """How many times the memory of joint attention in one fused step other layers take, forward, on so many tokens
    (T, H, W): joint attention that stores its scores, and divided attention."""
    x, peak, threads = torch.zeros(1, *tokens, 192), {}, torch.get_num_threads()
    torch.set_num_threads(1)  # each thread of a fused step has a buffer of its own
    for name, (_, call) in with_literal(tuple(tokens)).items():
        if name in ("joint", "joint, literal", "divided"):
            with torch.no_grad():
                peak[name] = peak_bytes(lambda call=call: call(x), torch.device("cpu"))
    torch.set_num_threads(threads)
    return [round(peak[name] / peak["joint"], 1) for name in ("joint, literal", "divided")]


@check
def effect_of_a_hidden_layer(model: str) -> float:
    """By how many millions of parameters a head with one hidden layer, as wide as the tokens, is larger."""
    with torch.device("meta"):
        head = ZOO[model].family(**ZOO[model].config).head
        hidden = nn.Sequential(nn.Linear(head.in_features, head.in_features), nn.GELU(), head)
    return sum(p.numel() for p in hidden.parameters()) / 1e6 - sum(p.numel() for p in head.parameters()) / 1e6


@check
def updates_of_an_epoch(recipe: str, clips: int, other: int) -> list[int]:
    """Steps of an epoch of so many clips with the batch of a published recipe, and with the batch `other`."""
    batch = PUBLISHED[recipe].recipe().batch_size
    return [clips // batch, clips // other]


@check
@torch.no_grad()
def effect_of_inflating_the_centre(model: str, image: str) -> list:
    """Of a patch embedding that is inflated from an image model: the largest difference, as a share of the largest
    value, between weights repeated over time and weights in one step; on a still clip and on one that moves."""
    weight = trained(image).model.patch_embed.proj.weight.double()
    shown = trained(model).shown
    clip = to_floats(views(PROTOCOLS["centre"], shown)[:8, 0], shown).double()  # (N, C, T, H, W)
    steps, found = ZOO[model].family().patch_embed.proj.stride[0], []
    for x in (clip[:, :, :1].expand_as(clip), clip):
        one, other = (
            F.conv3d(x, inflate_patch(weight, steps, mode), stride=(steps, 4, 4)) for mode in ("average", "centre")
        )
        found.append(round(float((one - other).abs().max() / one.abs().max()), 2))
    return found
