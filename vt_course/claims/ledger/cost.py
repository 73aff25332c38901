"""Checks of parameters and of multiply-accumulates (MACs; the papers call 10^9 of them one GFLOP).

MACs are counted twice in one pass: from the shapes of layers and of attention (`running.watched`), and by PyTorch's own
`torch.utils.flop_counter`. If the two disagree, the claim is refuted, whatever it states.
"""

from math import log, prod

import torch
import torch.nn.functional as F

from vt_course.claims.ledger.running import NotRun, Refuted, build, check, passed
from vt_course.models import swin
from vt_course.models.cost import count_macs, count_parameters
from vt_course.models.mvit_config import kv_strides


@check
def parameters(model: str, settings=None) -> float:
    """Learnable values, in millions."""
    return count_parameters(build(model, settings)) / 1e6


def macs(model: str, settings=None, size=None) -> int:
    seen = passed(model, settings, size)
    if seen.macs != seen.counted:
        raise Refuted(f"counted from shapes {seen.macs:,} MACs, by PyTorch's counter {seen.counted:,}")
    return seen.macs


@check
def gmacs(model: str, settings=None, size=None) -> float:
    """10^9 MACs of one view."""
    return macs(model, settings, size) / 1e9


@check
def gmacs_with_norms(model: str) -> float:
    """10^9 MACs of one view, and two operations for each number that passes a LayerNorm."""
    return (macs(model) + 2 * passed(model).normalised) / 1e9


@check
def gmacs_of_attention(model: str, settings=None, within: str = "") -> float:
    """10^9 MACs of the products with scores alone, in the attentions whose names contain `within`."""
    return macs_of_scores(model, settings, None, within) / 1e9


def macs_of_scores(model: str, settings, size, within: str = "") -> int:
    calls = [call for call in passed(model, settings, size).attention if within in call["name"]]
    return sum(2 * prod(call[key] for key in ("groups", "heads", "queries", "keys", "d")) for call in calls)


@check
def times_as_many(one: dict, other: dict, of: str = "gmacs") -> float:
    """By which factor the MACs or the parameters of `one` exceed those of `other` (arguments of `gmacs`)."""
    count = {"gmacs": gmacs, "parameters": parameters}[of]
    return count(**one) / count(**other)


@check
def mvit_ablation(of: str, stages=(1, 2, 11, 2), kv=None, adaptive=True, last=True, pool="max", kernel=None) -> float:
    """GMACs or parameters ("gmacs", "parameters") of MViT-B 16x4 with other stages or strides of keys and values.

    `kv`: the stride in the first block; None: keys and values are not pooled. `adaptive`: later stages divide it by the
    query strides before them. `last`: whether the blocks of the last stage pool keys and values too.
    """
    double = {str(sum(stages[:i])): 2 for i in (1, 2, 3)}
    q_stride = {block: [1, 2, 2] for block in double}
    if kv is not None:
        at = {int(block): (1, 2, 2) for block in double} if adaptive else {}
        strides = kv_strides(tuple(kv), at, sum(stages) if last else sum(stages[:3]))
        kv = {str(i): list(stride) for i, stride in enumerate(strides)}
    settings = dict(dim_mul=double, head_mul=double, q_stride=q_stride, kv_stride=kv, pool_mode=pool, kernel=kernel)
    return {"gmacs": gmacs, "parameters": parameters}[of]("mvit_base_16x4", settings)


FORMULAS = {  # of a map of h x w tokens of C channels, in windows of M x M
    "MSA": lambda h, w, C, M: 4 * h * w * C**2 + 2 * (h * w) ** 2 * C,
    "W-MSA": lambda h, w, C, M: 4 * h * w * C**2 + 2 * M**2 * h * w * C,
}


@check
def swin_complexity(formula: str, size: list[int], dim: int, window: int, shift: int = 0) -> int:
    """MACs of W-MSA (of MSA: in one window as large as the map), minus those of the paper's formula."""
    M = tuple(size) if formula == "MSA" else (window, window)
    with torch.device("meta"):
        attn = swin.WindowAttention(dim, M, (shift, shift), 1)
    return count_macs(attn, (1, *size, dim)) - FORMULAS[formula](*size, dim, window)


@check
def sliding_complexity(size: list[int], dim: int, window: int) -> int:
    """MACs of attention in windows that slide, one around each token, minus those of the paper's formula of W-MSA.

    Its layers are those of the model. The keys and values of each token are gathered, as in the naive way of table 5.
    """

    class Sliding(swin.WindowAttention):
        def forward(self, x):  # (1, h, w, C)
            q, k, v = self.qkv(x).chunk(3, -1)
            k, v = (F.unfold(t.movedim(-1, 1), window, padding=window // 2).mT.unflatten(2, (dim, -1)) for t in (k, v))
            weights = q.flatten(1, 2)[:, :, None] @ k[:, : prod(size)]  # (1, hw, 1, M²)
            return self.proj(weights @ v[:, : prod(size)].mT)  # (1, hw, 1, C)

    with torch.device("meta"):
        attn = Sliding(dim, (window, window), (0, 0), 1)
    return count_macs(attn, (1, *size, dim)) - FORMULAS["W-MSA"](*size, dim, window)


@check
def gmacs_by_padding(model: str) -> float:
    """10^9 MACs of a Swin whose shifted windows are computed in the naive way, each padded to a whole window.

    A map of h x w windows then has (h + 1)(w + 1). All of a padded window is computed: the four layers of attention and
    the products with scores.
    """
    more = 0
    for call in passed(model).attention:
        if call["kinds"] > 1:  # shifted
            side, N, C = round(call["groups"] ** 0.5), call["queries"], call["heads"] * call["d"]
            more += ((side + 1) ** 2 - side**2) * (4 * N * C**2 + 2 * N**2 * C)
    return (macs(model) + more) / 1e9


SPEEDS = {
    "sliding": "Attention in sliding windows is not built, and there is no V100. "
    "Its multiply-accumulates are those of windows: see swin-sliding-macs.",
    "sliding kernel": "It is a program for GPUs of the authors, and there is no V100.",
    "performer": "Performer is not built: the paper does not say how many features its attention has.",
    "padding": "Shifted windows with padding are not built, and there is no V100. "
    "What they would cost is in swin-padding-gmacs.",
    "gpu": "There is no V100. `vt-course bench models swin_tiny --device cuda` measures images a second elsewhere; "
    "results/bench_models_cpu.json has 7 a second of two cores for Swin-T.",
}


@check
def frames_per_second(how: str) -> list[int]:
    """Of table 5: never run here, each for a reason of its own."""
    raise NotRun(SPEEDS[how])


@check
def quadratic(model: str, size: list[int], larger: list[int]) -> float:
    """The power of the number of tokens with which the products with scores grow, from one input to a larger one."""
    few, many = (macs_of_scores(model, settings_for(model, n), n) for n in (size, larger))
    return round(log(many / few) / log(prod(larger[1:]) / prod(size[1:])), 2)


def settings_for(model: str, size: list[int]) -> dict:
    """What has to be set so that a model of a fixed input takes `size`."""
    if model.startswith("timesformer"):
        return dict(num_frames=size[1], img_size=size[2])
    return dict(img_size=size[1]) if len(size) == 3 and model.startswith("swin") else {}
