"""TimeSformer against its literal definition, transformers' model, and the numbers stated about it."""

import re
from itertools import product
from math import prod

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vt_course.claims.ledger import running
from vt_course.models import ZOO, create
from vt_course.models.cost import count_parameters
from vt_course.models.official import from_official
from vt_course.models.timesformer import TimeSformer, group, resize_space, resize_time, ungroup

from computed import TIMESFORMER
from counting import count_equal_blocks_once
from weights import shake

TINY = dict(img_size=16, patch_size=4, num_frames=4, embed_dim=8, depth=2, num_heads=2, num_classes=5, drop_path=0.0)
SCHEMES = ["space", "joint", "divided", "local_global", "axial"]


def tiny(attention, **more):
    return shake(TimeSformer(**TINY | dict(attention=attention) | more).double())


def clip(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a, b, tolerance=1e-10, **more):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, **more)


def same_to_the_gradients(ours, theirs):
    """For two (output, input, parameters by our names): equal outputs and gradients of a random sum of them."""
    grads = []
    for out, x, parameters in (ours, theirs):
        total = (out * clip(*out.shape, seed=2)).sum()
        grads.append(dict(zip(["input", *parameters], torch.autograd.grad(total, [x, *parameters.values()]))))
    close(ours[0], theirs[0])
    assert grads[0].keys() == grads[1].keys() and all(g.any() for g in grads[0].values())
    for key, grad in grads[0].items():
        close(grad, grads[1][key], msg=lambda m: f"{key}: {m}")


# ------------------------------------------------------------ the definition, straight from the weights

# Do the patches a and b, given as (row, column, frame), see each other in this step? Section 3, and for the last
# four the reading in the module's docstring.
SEES = {
    "all": lambda a, b, H, W: True,  # equation 5
    "temporal": lambda a, b, H, W: a[:2] == b[:2],  # equation 13: the same place
    "space": lambda a, b, H, W: a[2] == b[2],  # equation 6: the same frame
    "local": lambda a, b, H, W: (a[0] < H / 2, a[1] < W / 2) == (b[0] < H / 2, b[1] < W / 2),
    "global": lambda a, b, H, W: all((i - j) % 2 == 0 for i, j in zip(a, b)),
    "width": lambda a, b, H, W: (a[0], a[2]) == (b[0], b[2]),  # one row of one frame
    "height": lambda a, b, H, W: a[1:] == b[1:],  # one column of one frame
}
STEPS = {
    "space": ["space"],
    "joint": ["all"],
    "divided": ["temporal", "space"],
    "local_global": ["local", "global"],
    "axial": ["temporal", "width", "height"],
}


class Literal:
    """TimeSformer one token at a time: a clip is a class token and a dict from (row, column, frame) to a vector."""

    def __init__(self, weights, attention, num_heads, patch_size, depth, **ignored):
        self.w, self.attention, self.heads, self.P, self.depth = weights, attention, num_heads, patch_size, depth

    def linear(self, name, x):
        return self.w[name + ".weight"].flatten(1) @ x + self.w[name + ".bias"]

    def norm(self, name, x):
        x = x - x.mean()
        return x / (x.square().mean() + 1e-6).sqrt() * self.w[name + ".weight"] + self.w[name + ".bias"]

    def attend(self, name, query, seen):
        """Equations 5 to 9: `query` and each of `seen` are q, k and v in one vector."""
        q, (_, k, v) = query.chunk(3)[0], torch.stack(seen).chunk(3, 1)
        out, d = [], len(q) // self.heads
        for i in range(0, len(q), d):
            e = (k[:, i : i + d] @ q[i : i + d] / d**0.5).exp()
            out.append(e / e.sum() @ v[:, i : i + d])
        return self.linear(name + ".proj", torch.cat(out))

    def mlp(self, name, x):
        y = self.linear(name + ".mlp.fc1", self.norm(name + ".norm2", x))
        return x + self.linear(name + ".mlp.fc2", y * (1 + (y / 2**0.5).erf()) / 2)

    def block(self, name, cls, x, H, W):
        *first, last = STEPS[self.attention]
        for step in first:  # patches only, and a Linear at the end
            new = f"{name}.{step}_"
            qkv = {p: self.linear(new + "attn.qkv", self.norm(new + "norm1", v)) for p, v in x.items()}
            y = {p: self.attend(new + "attn", qkv[p], [qkv[o] for o in x if SEES[step](p, o, H, W)]) for p in x}
            x = {p: v + self.linear(new + "fc", y[p]) for p, v in x.items()}
        c, *rest = (self.linear(name + ".attn.qkv", self.norm(name + ".norm1", v)) for v in (cls, *x.values()))
        qkv = dict(zip(x, rest))
        groups = {p: tuple(o for o in x if SEES[last](p, o, H, W)) for p in x}
        y = {p: v + self.attend(name + ".attn", qkv[p], [c, *(qkv[o] for o in groups[p])]) for p, v in x.items()}
        to_cls = [self.attend(name + ".attn", c, [c, *(qkv[o] for o in g)]) for g in set(groups.values())]
        return self.mlp(name, cls + sum(to_cls) / len(to_cls)), {p: self.mlp(name, v) for p, v in y.items()}

    def one(self, x):
        """(C, T, H, W) -> scores (K,), and the patches after each block, (depth, D, T, H/P, W/P)."""
        (_, T, *pixels), P = x.shape, self.P
        H, W = (n // P for n in pixels)
        cls, places, times = self.w["cls_token"][0, 0], self.w.get("pos_embed"), self.w.get("time_embed")
        patches = {}
        for h, w, t in product(range(H), range(W), range(T)):
            v = self.linear("patch_embed.proj", x[:, t, h * P : h * P + P, w * P : w * P + P].flatten())
            if places is not None:
                side = round((places.shape[1] - 1) ** 0.5)
                v = v + places[0, 1 + h * side // H * side + w * side // W]
            patches[h, w, t] = v if times is None else v + times[0, t * times.shape[1] // T]
        cls = cls if places is None else cls + places[0, 0]
        clips, maps = [(cls, patches)], []
        if self.attention == "space":  # a clip and a class token for every frame
            clips = [(cls, {p: v for p, v in patches.items() if p[2] == t}) for t in range(T)]
        for i in range(self.depth):
            clips = [self.block(f"blocks.{i}", *c, H, W) for c in clips]
            patches = {p: v for _, c in clips for p, v in c.items()}
            grid = torch.stack([patches[p] for p in product(range(H), range(W), range(T))], 1).unflatten(1, (H, W, T))
            maps.append(grid.permute(0, 3, 1, 2))
        return self.linear("head", self.norm("norm", sum(c for c, _ in clips) / len(clips))), torch.stack(maps)

    def __call__(self, x):
        return (torch.stack(t) for t in zip(*map(self.one, x)))  # (B, K), (B, depth, D, T, H/P, W/P)


# Settings, and (B, T, H, W) in pixels: as built for, fewer and oblong, more with a rest of pixels, odd numbers.
DEFINED = [
    ({}, (1, 4, 16, 16)),
    ({}, (2, 2, 8, 24)),
    ({}, (1, 6, 19, 10)),
    ({}, (1, 3, 12, 20)),
    (dict(positions="space"), (1, 2, 16, 8)),
    (dict(positions="none"), (1, 2, 16, 8)),
    (dict(in_channels=2, mlp_ratio=1.5, num_heads=4), (1, 2, 8, 8)),
]


@pytest.mark.parametrize(
    "attention, more, size",
    [(a, *case) for a, case in product(SCHEMES, DEFINED) if a != "local_global" or case[1][1] % 2 == 0],
    ids=str,
)
def test_equals_the_definition(attention, more, size):
    """Scores, maps, and the gradients of the input and of all weights."""
    config = TINY | dict(attention=attention) | more
    model = shake(TimeSformer(**config).double()).train()  # no drop path: training changes nothing
    assert (model.pos_embed is None) == (more.get("positions") == "none")
    assert (model.time_embed is None) == ("positions" in more or attention == "space")
    weights = {k: v.detach().clone().requires_grad_() for k, v in model.named_parameters()}
    a, b = (clip(size[0], config.get("in_channels", 3), *size[1:]).requires_grad_() for _ in range(2))
    scores, maps = Literal(weights, **config)(b)
    same_to_the_gradients((model(a), a, dict(model.named_parameters())), (scores, b, weights))
    for m, i in zip(model.features(a), (0, 0, 1, 1), strict=True):
        close(m, maps[:, i])


# ------------------------------------------------------------ who sees whom


@pytest.mark.parametrize(
    "attention, steps",
    [(a, steps) for a in SCHEMES for steps in [[s] for s in STEPS[a]] + [STEPS[a]] * (len(STEPS[a]) > 1)],
    ids=str,
)
@pytest.mark.parametrize("start", [(0, 0, 0), (1, 4, 2), (3, 5, 3)], ids=str)
@torch.no_grad()
def test_who_sees_whom(attention, steps, start):
    """One block with only some of its steps: which patches notice a change of one, and does the class token?"""
    H, W, T = size = (4, 6, 4)
    model, everywhere = tiny(attention, depth=1), set(product(*map(range, size)))
    block, last = model.blocks[0], STEPS[attention][-1] in steps
    if not last:
        block.attn.proj.weight.zero_()
    for step in set(STEPS[attention][:-1]) - set(steps):
        block.get_submodule(step + "_fc").weight.zero_()
    tokens = []
    block.register_forward_hook(lambda module, args, out: tokens.append(out))

    def run(x):
        return model.features(x)[0], tokens.pop()[:, 0]

    def changes(before, after):  # in the patches, in the class token
        places = (after[0] - before[0]).abs().amax((0, 1)).permute(1, 2, 0) > 1e-9  # (H, W, T)
        return set(map(tuple, places.nonzero().tolist())), bool((after[1] - before[1]).abs().max() > 1e-9)

    x = clip(1, 3, T, H * 4, W * 4)
    before = run(x)
    h, w, t = start
    x[:, :, t, h * 4 : h * 4 + 4, w * 4 : w * 4 + 4] += clip(4, 4, seed=3)
    after, want = run(x), {start}
    for step in steps:  # who sees one of those that know already
        want |= {b for b in everywhere for a in want if SEES[step](a, b, H, W)}
    assert changes(before, after) == (want, last)  # the class token stays out of the other steps
    number = dict(temporal=T, space=H * W, local=T * H // 2 * W // 2, width=W, height=H) | {"global": H * W * T // 8}
    assert len(want) == (number.get(steps[0], H * W * T) if len(steps) == 1 else H * W * T)
    model.cls_token.add_(clip(8, seed=4))
    assert changes(after, run(x)) == (everywhere if last else set(), True)


@given(data=st.data(), B=st.integers(1, 3), C=st.integers(1, 3))
@settings(max_examples=40)
def test_ungroup_undoes_group(data, B, C):
    """For any pattern; and a group holds the patches whose coordinates say so, in their old order."""
    pattern = data.draw(st.tuples(*[st.sampled_from(["whole", "each", "half", "stride"])] * 3))
    size = tuple(data.draw(st.integers(1, 4)) * (2 if how in ("half", "stride") else 1) for how in pattern)
    x = torch.randn(B, prod(size), C)
    y = group(x, size, pattern)
    assert torch.equal(ungroup(y, size, pattern), x)
    groups = {}
    for i, place in enumerate(product(*map(range, size))):
        key = tuple(
            {"whole": 0, "each": p, "half": 2 * p // n, "stride": p % 2}[how] for p, n, how in zip(place, size, pattern)
        )
        groups.setdefault(key, []).append(i)
    assert torch.equal(y, x[:, torch.tensor([groups[k] for k in sorted(groups)])])


# ------------------------------------------------------------ an independent implementation


@pytest.mark.parametrize("attention", ["divided", "joint"])
@pytest.mark.parametrize(
    "shape, built",
    [
        ((2, 4, 32, 32), 32),
        ((1, 6, 32, 32), 32),
        ((2, 3, 24, 32), 32),
        ((1, 5, 48, 40), 32),
        ((2, 4, 24, 40), (24, 40)),
        ((1, 5, 40, 16), (40, 16)),
    ],
    ids=str,
)
def test_equals_transformers(attention, shape, built):
    """Equal logits, gradients of the input and of all parameters, also where positions must be resized."""
    B, T, H, W = shape
    theirs = shake(
        transformers.TimesformerForVideoClassification(
            transformers.TimesformerConfig(
                image_size=built,
                patch_size=8,
                num_frames=4,
                hidden_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=192,
                num_labels=7,
                attention_type=attention + "_space_time",
            )
        ).double()
    )
    theirs.config.num_frames, theirs.config.image_size = T, W  # its layers sort the tokens by these
    ours = TimeSformer(built, 8, 4, 3, 7, embed_dim=48, depth=2, num_heads=4, attention=attention).double().eval()
    ours.load_state_dict(from_official(ours, theirs.state_dict()), strict=True)
    a, b = (clip(B, 3, T, H, W).requires_grad_() for _ in range(2))
    out, renamed = theirs(pixel_values=b.transpose(1, 2)), from_official(ours, dict(theirs.named_parameters()))
    same_to_the_gradients((ours(a), a, dict(ours.named_parameters())), (out.logits, b, renamed))


# ------------------------------------------------------------ what it costs


TABLE_1 = {"space": 85.9, "joint": 85.9, "divided": 121.4, "local_global": 121.4, "axial": 156.8}  # params M
EXTRA = {"space": 0, "joint": 0, "divided": 1, "local_global": 1, "axial": 2}  # steps a block


def comparisons(attention, s, T):
    """Of one patch in a block at T frames of N = s x s patches, and of all copies of the class token (section 3)."""
    N = s * s  # in `divided` the paper counts N + T + 2
    return {
        "space": (N + 1, T * (N + 1)),
        "joint": (N * T + 1, N * T + 1),
        "divided": (N + T + 1, T * (N + 1)),
        "local_global": (N * T // 4 + N * T // 8 + 1, 8 * (N * T // 8 + 1)),
        "axial": (T + s + s + 1, s * T * (s + 1)),
    }[attention]


@pytest.mark.parametrize("name", TIMESFORMER)
def test_parameters_and_macs(name):
    """Exactly what a count by hand gives, which rounds to what is stated."""
    with torch.device("meta"):
        model = create(name)
    config = dict(patch_size=16, embed_dim=768, depth=12, attention="divided", positions="space-time")
    config |= ZOO[name].config
    D, L, K, T, P = (config[k] for k in ("embed_dim", "depth", "num_classes", "num_frames", "patch_size"))
    attention, s = config["attention"], config["img_size"] // P
    places, times = config["positions"] != "none", config["positions"] == "space-time" and attention != "space"
    params = count_parameters(model)
    assert params == (
        (3 * P * P + 1) * D
        + D
        + places * (s * s + 1) * D
        + times * T * D
        + L * (12 * D * D + 13 * D + EXTRA[attention] * (5 * D * D + 7 * D))
        + 2 * D
        + (D + 1) * K
    )
    linear = []  # MACs but those of attention
    for path, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            times = L if path.startswith("blocks.") else 1  # only one of the equal blocks runs
            module.register_forward_hook(
                lambda m, args, out, times=times: linear.append(times * m.weight[0].numel() * out.numel())
            )
    running.BLOCKS.clear()
    macs = count_equal_blocks_once(model, (1, *ZOO[name].input))
    each, cls = comparisons(attention, s, T)
    assert macs - sum(linear) == 2 * D * L * (s * s * T * each + cls)
    assert (round(params / 1e6, 3), round(macs / 1e9, 3)) == TIMESFORMER[name]
    for quantity, value, source in ZOO[name].stated:
        if quantity == "params M":  # with 174 classes
            assert value == TABLE_1[attention] == pytest.approx((params + (D + 1) * (174 - K)) / 1e6, abs=0.05)
        elif quantity == "GMACs":  # rounded to 1, or in TFLOPs to 0.01 over 3 views
            assert macs / 1e9 == pytest.approx(value, abs=0.5 if isinstance(value, int) else 10 / 6 + 0.05), source


def test_every_variant_is_checked():
    assert {n for n, v in ZOO.items() if v.family is TimeSformer} == set(TIMESFORMER)
    assert {ZOO[n].config.get("attention") for n in TIMESFORMER if n.endswith("_8x224")} == set(SCHEMES)


# ------------------------------------------------------------ properties


@given(order=st.permutations(range(4)), seed=st.integers(0, 9))
@settings(max_examples=15)
@torch.no_grad()
def test_who_sees_the_order_of_frames(order, seed):
    """`space` never does, `divided` not at first, and with attention over time only when there is a time embedding."""
    torch.manual_seed(seed)
    x, fresh, model = clip(1, 3, 4, 16, 16, seed=seed), TimeSformer(**TINY), shake(TimeSformer(**TINY).double(), seed)
    for blind in (fresh.double().eval(), tiny("space")):
        close(blind(x[:, :, order]), blind(x), 1e-12)
    awake = {k: v.clone() for k, v in model.state_dict().items()}
    asleep = awake | {k: torch.zeros_like(v) for k, v in awake.items() if "temporal_fc" in k or k == "time_embed"}
    model.load_state_dict(asleep)
    still = model(x)
    close(model(x[:, :, order]), still, 1e-12)
    model.load_state_dict(awake | dict(time_embed=asleep["time_embed"]))
    assert (model(x) - still).abs().max() > 1e-3  # frames see each other now
    close(model(x[:, :, order]), model(x))
    model.load_state_dict(awake)
    assert torch.allclose(model(x[:, :, order]), model(x), atol=1e-7) == (order == sorted(order))


@given(order=st.permutations(range(12)))
@settings(max_examples=10)
@torch.no_grad()
def test_joint_without_positions_sees_a_set_of_patches(order):
    def lay(p):  # 12 patches -> 2 frames of 2 x 3
        return p.unflatten(2, (2, 2, 3)).permute(0, 1, 2, 3, 5, 4, 6).flatten(5, 6).flatten(3, 4)

    patches, same = clip(1, 3, 12, 4, 4), order == sorted(order)
    for positions, equal in (("none", True), ("space-time", same)):
        model = tiny("joint", positions=positions)
        assert torch.allclose(model(lay(patches[:, :, order])), model(lay(patches)), atol=1e-9) == equal


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("attention", SCHEMES)
def test_samples_do_not_see_each_other(attention, training):
    model, x = tiny(attention).train(training), clip(3, 3, 4, 16, 16).requires_grad_()
    out = model(x)
    (grad,) = torch.autograd.grad(out[1].sum(), x)
    assert grad[1].any() and not grad[[0, 2]].any()
    close(out, torch.cat([model(one[None]) for one in x]))


@given(
    B=st.integers(1, 2),
    T=st.integers(1, 9),
    H=st.integers(4, 30),
    W=st.integers(4, 30),
    depth=st.integers(1, 6),
    attention=st.sampled_from(SCHEMES),
)
@settings(max_examples=30)
@torch.no_grad()
def test_any_size_goes_in(B, T, H, W, depth, attention):
    if attention == "local_global":
        T, H, W = T + T % 2, H + 4 * (H // 4 % 2), W + 4 * (W // 4 % 2)
    model, x, after = tiny(attention, depth=depth), clip(B, 3, T, H, W), []
    assert model(x).shape == (B, 5)
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, out: after.append(out[:, 1:].sum()))
    maps = model.features(x)
    assert [m.shape for m in maps] == [(B, 8, T, H // 4, W // 4)] * 4
    quarters = [min(n for n in range(1, depth + 1) if 4 * n >= i * depth) for i in range(1, 5)]
    close(torch.stack([m.sum() for m in maps]), torch.stack([after[n - 1] for n in quarters]))


# ------------------------------------------------------------ initial weights, drop path


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("attention", SCHEMES)
def test_initial_weights(attention, narrow):
    """Truncated normal of std 0.02; zero for the time embedding and for the Linear after each new attention.

    A narrow model that is trained from scratch has neither zero."""
    model, zeros = TimeSformer(48, 8, embed_dim=96, depth=3, num_heads=4, attention=attention, narrow_init=narrow), 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            std = module.in_features**-0.5 if narrow and name != "head" else 0 if name.endswith("_fc") else 0.02
            zeros += std == 0
            assert not module.bias.any() and module.weight.std().item() == pytest.approx(std, rel=0.03), name
        elif isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-6 and (module.weight == 1).all() and not module.bias.any()
    assert zeros == (0 if narrow else 3 * EXTRA[attention])
    assert model.cls_token.std().item() == pytest.approx(0.02, rel=0.3)
    assert model.pos_embed.std().item() == pytest.approx(0.5 if narrow else 0.02, rel=0.05)
    if attention == "space":
        assert model.time_embed is None
    else:
        assert model.time_embed.std().item() == pytest.approx(0.5 if narrow else 0, rel=0.1)


@pytest.mark.parametrize("attention", SCHEMES)
def test_drop_path(attention):
    """Rates rise linearly; in attention whole groups are dropped (and before the new Linear), in the MLP samples."""
    model = tiny(attention, depth=5, drop_path=0.5).train()
    assert [b.drop_path.rate for b in model.blocks] == [0, 0.125, 0.25, 0.375, 0.5]
    branches, fc = [], []
    model.blocks[4].drop_path.register_forward_hook(lambda module, args, out: branches.append((args[0], out)))
    for step in STEPS[attention][:-1]:
        model.blocks[4].get_submodule(step + "_fc").register_forward_pre_hook(lambda module, args: fc.append(args[0]))
    B, T, H, W = 40, 2, 2, 4
    model(clip(B, 3, T, H * 4, W * 4))
    samples = B * T if attention == "space" else B
    assert [len(out) for _, out in branches] == {
        "divided": [B * H * W, B * T],
        "local_global": [B * 4, B * 8],
        "axial": [B * H * W, B * T * H, B * T * W],
    }.get(attention, [samples]) + [samples]
    for x, out in branches:
        kept = out.flatten(1).any(1)
        assert torch.equal(out[kept], 2 * x[kept]) and 0.25 < kept.double().mean() < 0.75
    assert len(fc) == EXTRA[attention] and all(x is out for x, (_, out) in zip(fc, branches))


# ------------------------------------------------------------ other sizes, and image weights


@pytest.mark.parametrize("grid", [(4, 4), (6, 9), (2, 3), (1, 1)], ids=str)
def test_positions_are_resized_to_the_nearest(grid):
    pos, time, (H, W) = torch.randn(1, 17, 3), torch.randn(1, 4, 3), grid
    places = [pos[0, 1 + h * 4 // H * 4 + w * 4 // W] for h, w in product(range(H), range(W))]
    assert torch.equal(resize_space(pos, grid)[0], torch.stack([pos[0, 0], *places]))
    assert torch.equal(resize_time(time, W)[0], torch.stack([time[0, t * 4 // W] for t in range(W)]))
    assert resize_space(pos, (4, 4)) is pos and resize_time(time, 4) is time
    assert resize_space(pos, (8, 2)) is pos  # as many patches: the official code looks no further


@torch.no_grad()
def test_resized_positions_are_what_running_at_that_size_uses():
    small, x = tiny("divided"), clip(1, 3, 6, 24, 24)
    large = TimeSformer(**TINY | dict(img_size=24, num_frames=6)).double().eval()
    state = small.state_dict()
    resized = large.resize_positions(state)
    large.load_state_dict(resized)
    assert torch.equal(large(x), small(x))
    assert all(torch.equal(v, resized[k]) for k, v in from_official(large, state, resize=True).items())
    assert all(v is state[k] for k, v in small.resize_positions(state).items())
    with pytest.raises(ValueError, match="pos_embed has 16 places; only a square grid"):
        large.resize_positions(state | dict(pos_embed=torch.zeros(1, 16, 8)))


VIT = TINY | dict(attention="space", num_frames=1)  # on one frame that is an image ViT


@pytest.mark.parametrize("attention", ["divided", "space"])
@torch.no_grad()
def test_a_still_clip_is_seen_as_the_image(attention):
    state, video, frame = shake(TimeSformer(**VIT).double(), 5).state_dict(), tiny(attention), clip(2, 3, 16, 16)
    head = {k: state[k] for k in ("head.weight", "head.bias")}
    video.load_state_dict(video.inflate({**state, "pre_logits.fc.weight": torch.zeros(2)}) | head)
    want, _ = Literal(state, **VIT)(frame[:, :, None])
    for T in (1, 4, 6):
        close(video(frame[:, :, None].expand(-1, -1, T, -1, -1)), want)


@pytest.mark.parametrize("attention", SCHEMES)
def test_every_attention_starts_as_that_of_the_image(attention):
    state, video = shake(TimeSformer(**VIT).double(), 5).state_dict(), tiny(attention, img_size=24, num_classes=3)
    got = video.inflate(state)
    assert torch.equal(got["head.weight"], video.head.weight) and torch.equal(got["head.bias"], video.head.bias)
    assert torch.equal(got["pos_embed"], resize_space(state["pos_embed"], (6, 6)))
    assert attention == "space" or not got["time_embed"].any()
    for i, step, part in product(range(2), STEPS[attention][:-1], ("weight", "bias")):
        for name in ("norm1", "attn.qkv", "attn.proj"):
            assert torch.equal(got[f"blocks.{i}.{step}_{name}.{part}"], state[f"blocks.{i}.{name}.{part}"])
        assert not got[f"blocks.{i}.{step}_fc.{part}"].any()
    video.load_state_dict(got, strict=True)
    assert "pos_embed" not in tiny(attention, positions="none").inflate(state)


def test_image_weights_that_do_not_fit():
    state = TimeSformer(**VIT).state_dict()
    state["extra"] = state.pop("norm.bias")
    state["blocks.1.attn.qkv.bias"] = torch.zeros(3)
    with pytest.raises(ValueError) as error:
        tiny("divided").inflate(state)
    assert set(str(error.value).removeprefix("the weights do not fit TimeSformer, 4 entries differ: ").split("; ")) == {
        "missing norm.bias (8,)",
        "unexpected extra (8,)",
        "blocks.1.attn.qkv.bias has shape (3,), wanted (24,)",
        "blocks.1.temporal_attn.qkv.bias has shape (3,), wanted (24,)",
    }


# ------------------------------------------------------------ errors


@pytest.mark.parametrize(
    "config, shape, words",
    [
        (dict(num_heads=3), None, "embed_dim 8 is not divisible by num_heads 3"),
        (dict(attention="x"), None, "unknown attention 'x'; choose one of space, joint, divided, local_global, axial"),
        (dict(positions="x"), None, "unknown positions 'x'; choose 'space-time', 'space' or 'none'"),
        (dict(img_size=3), None, "img_size 3 is smaller than patch_size 4"),
        (dict(), (3, 4, 16, 16), "4 axes, shape (3, 4, 16, 16); wanted 5, (B, C=3, T, H, W). Add the batch axis"),
        (dict(attention="space"), (1, 4, 3, 16, 16), "4 channels, shape (1, 4, 3, 16, 16)"),
        (dict(attention="axial"), (1, 3, 0, 16, 16), "empty along T"),
        (dict(attention="joint"), (1, 3, 4, 3, 16), "smaller than one 4 x 4 patch, shape (1, 3, 4, 3, 16)"),
        (dict(), (1, 3, 4, 16, 3), "smaller than one 4 x 4 patch, shape (1, 3, 4, 16, 3)"),
        (dict(), (1, 3, 4, 16, 16), "dtype torch.uint8; wanted floating point"),
        (
            dict(attention="local_global"),
            (1, 3, 3, 16, 16),
            "got 3 frames of 4 x 4 patches, shape (1, 3, 3, 16, 16); give",
        ),
        (
            dict(attention="local_global"),
            (1, 3, 4, 12, 16),
            "got 4 frames of 3 x 4 patches, shape (1, 3, 4, 12, 16); give",
        ),
        (
            dict(attention="local_global"),
            (1, 3, 4, 16, 22),
            "got 4 frames of 4 x 5 patches, shape (1, 3, 4, 16, 22); give",
        ),
    ],
    ids=str,
)
def test_errors_say_what_came_and_what_was_wanted(config, shape, words):
    for call in ("forward", "features"):
        with pytest.raises(ValueError, match=re.escape(words)):  # without an input, when the model is built
            model = TimeSformer(**TINY | config)
            getattr(model, call)(torch.zeros(shape, dtype=torch.uint8 if "uint8" in words else torch.float32))
