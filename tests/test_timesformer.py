"""TimeSformer against its literal definition, transformers' model, and the numbers stated about it."""
from itertools import product

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vt_course.models import ZOO, create
from vt_course.models.cost import count_macs, count_parameters
from vt_course.models.official import from_official
from vt_course.models.timesformer import (PATTERNS, Block, DividedBlock, TimeSformer, group, initialise_from_vit,
                                          resize_positions, resize_space, resize_time, ungroup)

TINY = dict(img_size=16, patch_size=4, num_frames=4, embed_dim=8, depth=2, num_heads=2, num_classes=5, drop_path=0.0)
SCHEMES = ["space", "joint", "divided", "local_global", "axial"]


def shake(model, seed=0):
    """Random double-precision weights, large enough that every part of the network matters to the output."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.double().named_parameters():
            noise = torch.randn(p.shape, generator=g, dtype=p.dtype)
            p.copy_(0.5 * noise if "token" in name or "_embed" in name.split(".")[-1] else
                    noise / p[0].numel() ** 0.5 if p.ndim > 1 else
                    1 + 0.3 * noise if "norm" in name and name.endswith("weight") else 0.3 * noise)
    return model.eval()


def tiny(attention, **more):
    return shake(TimeSformer(**TINY | dict(attention=attention) | more))


def clip(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a, b, tolerance=1e-10, **more):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, **more)


# ------------------------------------------------------------ the definition, straight from the weights

# Do the patches a and b, given as (row, column, frame), see each other in this step? Section 3 and figure 2.
SEES = {
    "all": lambda a, b, H, W: True,                                    # equation 5
    "temporal": lambda a, b, H, W: a[:2] == b[:2],                     # equation 13: the same place
    "space": lambda a, b, H, W: a[2] == b[2],                          # equation 6: the same frame
    "local": lambda a, b, H, W: (a[0] < H / 2, a[1] < W / 2) == (b[0] < H / 2, b[1] < W / 2),
    "global": lambda a, b, H, W: all((i - j) % 2 == 0 for i, j in zip(a, b)),
    "width": lambda a, b, H, W: (a[0], a[2]) == (b[0], b[2]),          # one row of one frame
    "height": lambda a, b, H, W: a[1:] == b[1:],                       # one column of one frame
}
STEPS = {"space": ["all"], "joint": ["all"], "divided": ["temporal", "space"], "local_global": ["local", "global"],
         "axial": ["temporal", "width", "height"]}                     # `space`: all patches of a clip of one frame


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
        """Equations 5 to 9: `query` and `seen` are q, k and v in one vector."""
        q, (_, k, v) = query.chunk(3)[0], torch.stack(seen).chunk(3, 1)
        out, d = [], len(q) // self.heads
        for i in range(0, len(q), d):
            e = (k[:, i:i + d] @ q[i:i + d] / d**0.5).exp()
            out.append(e / e.sum() @ v[:, i:i + d])
        return self.linear(name + ".proj", torch.cat(out))

    def mlp(self, name, x):
        y = self.linear(name + ".mlp.fc1", self.norm(name + ".norm2", x))
        return x + self.linear(name + ".mlp.fc2", y * (1 + (y / 2**0.5).erf()) / 2)

    def block(self, name, cls, x, H, W):
        *first, last = STEPS[self.attention]
        for step in first:                                             # patches only
            qkv = {p: self.linear(f"{name}.{step}_attn.qkv", self.norm(f"{name}.{step}_norm1", v)) for p, v in x.items()}
            y = {p: self.attend(f"{name}.{step}_attn", qkv[p], [qkv[o] for o in x if SEES[step](p, o, H, W)]) for p in x}
            x = {p: v + self.linear(f"{name}.{step}_fc", y[p]) for p, v in x.items()}
        c, *rest = (self.linear(name + ".attn.qkv", self.norm(name + ".norm1", v)) for v in (cls, *x.values()))
        qkv = dict(zip(x, rest))
        groups = {p: tuple(o for o in x if SEES[last](p, o, H, W)) for p in x}
        y = {p: v + self.attend(name + ".attn", qkv[p], [c, *(qkv[o] for o in groups[p])]) for p, v in x.items()}
        to_cls = [self.attend(name + ".attn", c, [c, *(qkv[o] for o in g)]) for g in set(groups.values())]
        return self.mlp(name, cls + sum(to_cls) / len(to_cls)), {p: self.mlp(name, v) for p, v in y.items()}

    def embed(self, x):
        (_, T, *pixels), P = x.shape, self.P
        H, W = (n // P for n in pixels)
        cls, places, times = self.w["cls_token"][0, 0], self.w.get("pos_embed"), self.w.get("time_embed")
        patches = {}
        for h, w, t in product(range(H), range(W), range(T)):
            v = self.linear("patch_embed.proj", x[:, t, h * P:h * P + P, w * P:w * P + P].flatten())
            if places is not None:
                side = round((places.shape[1] - 1) ** 0.5)
                v = v + places[0, 1 + h * side // H * side + w * side // W]
            patches[h, w, t] = v if times is None else v + times[0, t * times.shape[1] // T]
        return cls if places is None else cls + places[0, 0], patches, H, W

    def one(self, x):
        """(C, T, H, W) -> scores (K,), and the patches after each block, [(D, T, H/P, W/P)] * depth."""
        cls, patches, H, W = self.embed(x)
        clips, maps = [(cls, patches)], []
        if self.attention == "space":
            clips = [(cls, {p: v for p, v in patches.items() if p[2] == t}) for t in range(x.shape[1])]
        for i in range(self.depth):
            clips = [self.block(f"blocks.{i}", *c, H, W) for c in clips]
            patches = {p: v for _, c in clips for p, v in c.items()}
            maps.append(torch.stack([patches[p] for p in product(range(H), range(W), range(x.shape[1]))], 1)
                        .unflatten(1, (H, W, -1)).permute(0, 3, 1, 2))
        cls = sum(c for c, _ in clips) / len(clips)                    # one clip, or for `space` the frames
        return self.linear("head", self.norm("norm", cls)), maps

    def __call__(self, x):
        scores, maps = zip(*map(self.one, x))
        return torch.stack(scores), [torch.stack(m) for m in zip(*maps)]


# (B, T, H, W) in pixels: as built (4 frames of 16 x 16), fewer and oblong, more with a rest of pixels, odd numbers.
SIZES = [(2, 4, 16, 16), (2, 2, 8, 24), (1, 6, 27, 18), (2, 3, 12, 20)]


@pytest.mark.parametrize("attention", SCHEMES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_definition(attention, size):
    B, *size = (*size[:3], 16) if attention == "local_global" and size[3] == 20 else size
    size = (4, 8, 16) if attention == "local_global" and size[0] == 3 else size
    model, x = tiny(attention), clip(B, 3, *size)
    with torch.no_grad():
        scores, maps = Literal(model.state_dict(), **TINY, attention=attention)(x)
        close(model(x), scores)
        for got, i in zip(model.features(x), (0, 0, 1, 1), strict=True):
            close(got, maps[i])


@pytest.mark.parametrize("attention", SCHEMES)
@pytest.mark.parametrize("more", [dict(positions="space"), dict(positions="none"), dict(in_channels=2, mlp_ratio=1.5)], ids=str)
def test_switches_equal_the_definition(attention, more):
    config = TINY | dict(attention=attention, depth=1, **more)
    model, x = shake(TimeSformer(**config)), clip(1, more.get("in_channels", 3), 2, 8, 24)
    assert (model.pos_embed is None) == (more.get("positions") == "none")
    assert (model.time_embed is None) == ("positions" in more or attention == "space")
    with torch.no_grad():
        close(model(x), Literal(model.state_dict(), **config)(x)[0])


@pytest.mark.parametrize("attention", SCHEMES)
def test_gradients_equal_the_definition(attention):
    model = tiny(attention).train()                                    # no drop path: training changes nothing
    weights = {k: v.detach().clone().requires_grad_() for k, v in model.named_parameters()}
    a, b = (clip(2, 3, 2, 8, 16).requires_grad_() for _ in range(2))
    w = clip(2, 5, seed=2)
    (model(a) * w).sum().backward()
    (Literal(weights, **TINY, attention=attention)(b)[0] * w).sum().backward()
    close(a.grad, b.grad)
    for key, p in model.named_parameters():
        assert p.grad.any(), key
        close(p.grad, weights[key].grad, msg=lambda m: f"{key}: {m}")


# ------------------------------------------------------------ who sees whom

CASES = [(a, steps) for a in SCHEMES for steps in ([[s] for s in STEPS[a]] + [STEPS[a]] * (len(STEPS[a]) > 1))]


@pytest.mark.parametrize("attention, steps", CASES, ids=str)
@pytest.mark.parametrize("start", [(0, 0, 0), (1, 4, 2), (3, 5, 3)], ids=str)
@torch.no_grad()
def test_who_sees_whom(attention, steps, start):
    """One block with only some of its steps: which patches notice a change of one, and does the class token?"""
    H, W, T = size = (4, 6, 4)
    model = tiny(attention, depth=1)
    block, last = model.blocks[0], STEPS[attention][-1] in steps
    if not last:
        block.attn.proj.weight.zero_()
    for step in STEPS[attention][:-1]:
        if step not in steps:
            block.get_submodule(step + "_fc").weight.zero_()
    tokens = []
    block.register_forward_hook(lambda module, args, out: tokens.append(out))

    def changes(before, after):                                        # in the patches, in the class token
        places = (after[0] - before[0]).abs().amax((0, 1)).permute(1, 2, 0) > 1e-9                 # (H, W, T)
        return set(map(tuple, places.nonzero().tolist())), bool((after[1] - before[1]).abs().max() > 1e-9)

    def run(x):
        return model.features(x)[0], tokens.pop()[:, 0]

    x = clip(1, 3, T, H * 4, W * 4)
    before = run(x)
    h, w, t = start
    x[:, :, t, h * 4:h * 4 + 4, w * 4:w * 4 + 4] += clip(4, 4, seed=3)
    after = run(x)
    want = {start}
    for step in steps:                                                 # who sees one of those who know already
        rule = "space" if attention == "space" else step
        want |= {b for b in product(*map(range, size)) for a in want if SEES[rule](a, b, H, W)}
    assert changes(before, after) == (want, last)                      # the class token stays out of the other steps
    numbers = {"temporal": T, "space": H * W, "local": H * W * T // 4, "global": H * W * T // 8, "width": W, "height": H}
    if len(steps) == 1:
        assert len(want) == (H * W if attention == "space" else numbers.get(steps[0], H * W * T))
    else:                                                              # the whole clip within one block
        assert len(want) == H * W * T
    model.cls_token.add_(clip(8, seed=4))
    assert changes(after, run(x)) == (set(product(*map(range, size))) if last else set(), True)


@given(halves=st.tuples(*[st.integers(1, 3)] * 3), name=st.sampled_from(sorted(PATTERNS)))
@settings(max_examples=40)
def test_groups_are_those_of_the_paper(halves, name):
    H, W, T = size = tuple(2 * n for n in halves)
    places = list(product(*map(range, size)))
    groups = group(torch.arange(len(places))[None, :, None], size, PATTERNS[name])[0, ..., 0].tolist()
    got = {frozenset(places[i] for i in g) for g in groups}
    assert got == {frozenset(b for b in places if SEES[name](a, b, H, W)) for a in places}
    assert sum(map(len, groups)) == len(places) and len(got) == len(groups)


@given(data=st.data(), B=st.integers(1, 3), C=st.integers(1, 3))
@settings(max_examples=60)
def test_ungroup_undoes_group(data, B, C):
    pattern = data.draw(st.tuples(*[st.sampled_from(["whole", "each", "half", "stride"])] * 3))
    size = tuple(data.draw(st.integers(1, 4)) * (2 if how in ("half", "stride") else 1) for how in pattern)
    x = torch.randn(B, torch.Size(size).numel(), C)
    y = group(x, size, pattern)
    groups = torch.Size({"whole": 1, "each": n}.get(how, 2) for n, how in zip(size, pattern)).numel()
    assert y.shape == (B, groups, x.shape[1] // groups, C)
    assert torch.equal(ungroup(y, size, pattern), x) and torch.equal(y.flatten(1, 2).sort(1)[0], x.sort(1)[0])


# ------------------------------------------------------------ an independent implementation

@pytest.mark.parametrize("attention", ["divided", "joint"])
@pytest.mark.parametrize("shape", [(2, 4, 32, 32), (1, 6, 32, 32), (2, 3, 24, 32), (1, 5, 48, 40)], ids=str)
def test_equals_transformers(attention, shape):
    """Equal logits, gradients of the input and of all parameters, also where positions must be resized."""
    B, T, H, W = shape
    theirs = shake(transformers.TimesformerForVideoClassification(transformers.TimesformerConfig(
        image_size=32, patch_size=8, num_frames=4, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=192, num_labels=7, attention_type=attention + "_space_time")))
    theirs.config.num_frames, theirs.config.image_size = T, W          # its layers sort the tokens by these
    ours = TimeSformer(img_size=32, patch_size=8, num_frames=4, num_classes=7, embed_dim=48, depth=2, num_heads=4,
                       attention=attention).double().eval()
    ours.load_state_dict(from_official(ours, theirs.state_dict()), strict=True)
    a, b = (clip(B, 3, T, H, W).requires_grad_() for _ in range(2))
    got, want = ours(a), theirs(pixel_values=b.transpose(1, 2)).logits
    close(got, want)
    w = clip(B, 7, seed=2)
    (got * w).sum().backward()
    (want * w).sum().backward()
    close(a.grad, b.grad)
    wanted = from_official(ours, {k: p.grad for k, p in theirs.named_parameters()})
    assert set(wanted) == {k for k, _ in ours.named_parameters()}
    for key, p in ours.named_parameters():
        assert p.grad.any(), key
        close(p.grad, wanted[key], msg=lambda m: f"{key}: {m}")


# ------------------------------------------------------------ what it costs

# Our own count, (parameters in M, GMACs of one view).
COMPUTED = {
    "timesformer_divided_8x224": (121.566, 195.830), "timesformer_divided_8x224_k600": (121.720, 195.830),
    "timesformer_divided_8x224_ssv2": (121.393, 195.830), "timesformer_hr_16x448": (122.024, 1702.686),
    "timesformer_hr_16x448_k600": (122.178, 1702.686), "timesformer_hr_16x448_ssv2": (121.850, 1702.685),
    "timesformer_l_96x224": (121.634, 2379.857), "timesformer_l_96x224_k600": (121.788, 2379.857),
    "timesformer_l_64x224_ssv2": (121.436, 1579.191), "timesformer_space_8x224": (86.106, 140.505),
    "timesformer_joint_8x224": (86.112, 179.563), "timesformer_local_global_8x224": (121.566, 206.928),
    "timesformer_axial_8x224": (157.020, 249.412), "timesformer_divided_8x224_space_positions": (121.560, 195.830),
    "timesformer_divided_8x224_no_positions": (121.409, 195.830), "timesformer_mini": (0.658, 0.197),
}
TABLE_1 = {"space": 85.9, "joint": 85.9, "divided": 121.4, "local_global": 121.4, "axial": 156.8}      # params M
EXTRA = {"space": 0, "joint": 0, "divided": 1, "local_global": 1, "axial": 2}                          # steps a block


def compared(attention, s, T):
    """Comparisons of one patch in a block at s x s patches and T frames, and those of the class token."""
    N = s * s
    return {"space": (N + 1, T * (N + 1)), "joint": (N * T + 1, N * T + 1), "divided": (N + T + 1, T * (N + 1)),
            "local_global": (N * T // 4 + N * T // 8 + 1, 8 * (N * T // 8 + 1)),
            "axial": (T + s + s + 1, s * T * (s + 1))}[attention]


@pytest.mark.parametrize("name", COMPUTED)
def test_parameters_and_macs(name):
    """Exactly what a count by hand gives, which rounds to what is stated."""
    config = dict(patch_size=16, embed_dim=768, depth=12, attention="divided", positions="space-time") | ZOO[name].config
    with torch.device("meta"):
        model = create(name)
    D, L, K, T, P = (config[k] for k in ("embed_dim", "depth", "num_classes", "num_frames", "patch_size"))
    attention, positions, s = config["attention"], config["positions"], config["img_size"] // P
    patches, extra, (each, cls) = s * s * T, EXTRA[attention], compared(attention, s, T)
    params, macs = count_parameters(model), count_macs(model, (1, *ZOO[name].input))
    copies = {"space": T, "divided": T, "local_global": 8, "axial": s * T}.get(attention, 1)             # of the class token
    assert params == (
        (3 * P * P + 1) * D + D + (positions != "none") * (s * s + 1) * D
        + (positions == "space-time" and attention != "space") * T * D
        + L * (12 * D * D + 13 * D + extra * (5 * D * D + 7 * D)) + 2 * D + (D + 1) * K)
    assert macs == (
        patches * D * 3 * P * P + D * K + L * (
            (12 + 5 * extra) * D * D * patches + D * D * (4 * copies + 8 * (T if attention == "space" else 1))
            + 2 * D * (patches * each + cls)))
    assert (params / 1e6, macs / 1e9) == (pytest.approx(COMPUTED[name][0], abs=6e-4), pytest.approx(COMPUTED[name][1], abs=6e-4))
    for quantity, value, source in ZOO[name].stated:
        if quantity == "params M":
            assert value == TABLE_1[attention] == pytest.approx((params + (D + 1) * (174 - K)) / 1e6, abs=0.05)
        elif quantity == "GMACs":                                      # whole numbers, or TFLOPs rounded to 0.01 over 3 views
            assert macs / 1e9 == pytest.approx(value, abs=0.5 if isinstance(value, int) else 10 / 6 + 0.05), source


def test_every_variant_is_checked():
    family = {n for n, v in ZOO.items() if v.family is TimeSformer}
    assert family == set(COMPUTED) == {n for n in ZOO if n.startswith("timesformer")}
    assert {ZOO[n].config.get("attention", "divided") for n in family} == set(SCHEMES)
    stated = {n: {q for q, *_ in ZOO[n].stated} for n in family}
    assert sum("params M" in s for s in stated.values()) == 6 and sum("GMACs" in s for s in stated.values()) == 10


@pytest.mark.parametrize("attention", SCHEMES)
def test_comparisons_of_a_patch(attention):
    """Section 3: N F + 1 in `joint`; in `divided` N + F + 2, less the class token over time, as in the released code.

    Counted as what is left of all MACs without the linear layers, at 2 D a comparison.
    """
    with torch.device("meta"):
        model = create(f"timesformer_{attention}_8x224")
    linear = []
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.register_forward_hook(lambda m, args, out: linear.append(m.weight[0].numel() * out.numel()))
    s, T = 14, 8
    left, rest = divmod(count_macs(model, (1, 3, T, 224, 224)) - sum(linear), 2 * 768 * 12)
    each, cls = compared(attention, s, T)
    assert (rest, left) == (0, s * s * T * each + cls)
    assert each == {"space": 197, "joint": 196 * 8 + 1, "divided": 196 + 8 + 1, "local_global": 392 + 196 + 1,
                    "axial": 8 + 14 + 14 + 1}[attention]


# ------------------------------------------------------------ properties

@given(order=st.permutations(range(4)), seed=st.integers(0, 9))
@settings(max_examples=15)
@torch.no_grad()
def test_what_the_order_of_frames_is_to_divided(order, seed):
    """At first nothing. Attention over time alone does not tell it either: that takes the time embedding as well."""
    torch.manual_seed(seed)
    x = clip(1, 3, 4, 16, 16, seed=seed)
    model = TimeSformer(**TINY | dict(embed_dim=32)).double().eval()
    awake = shake(TimeSformer(**TINY), seed)
    fc = [b.temporal_fc for b in awake.blocks]
    time, weights = awake.time_embed.clone(), [f.weight.clone() for f in fc]
    close(model(x[:, :, order]), model(x), 1e-12)
    awake.time_embed.zero_()
    for f in fc:
        f.weight.zero_()
        f.bias.zero_()
    still = awake(x)
    close(awake(x[:, :, order]), still, 1e-12)
    for f, w in zip(fc, weights):
        f.weight.copy_(w)
    assert (awake(x) - still).abs().max() > 1e-3                       # frames see each other now
    close(awake(x[:, :, order]), awake(x))
    awake.time_embed.copy_(time)
    assert torch.allclose(awake(x[:, :, order]), awake(x), atol=1e-6) == (order == sorted(order))


@given(order=st.permutations(range(5)))
@settings(max_examples=10)
@torch.no_grad()
def test_space_never_sees_the_order_of_frames(order):
    model, x = tiny("space"), clip(2, 3, 5, 12, 16)
    close(model(x[:, :, order]), model(x))
    assert all((a[:, :, order] - b).abs().max() < 1e-10 for a, b in zip(model.features(x), model.features(x[:, :, order])))


@given(order=st.permutations(range(12)))
@settings(max_examples=10)
@torch.no_grad()
def test_joint_without_positions_sees_a_set_of_patches(order):
    patches = clip(1, 3, 12, 4, 4)

    def lay(p):                                                        # 12 patches -> 2 frames of 2 x 3
        return p.unflatten(2, (2, 2, 3)).permute(0, 1, 2, 3, 5, 4, 6).flatten(5, 6).flatten(3, 4)

    same = order == sorted(order)
    for positions, equal in (("none", True), ("space", same), ("space-time", same)):
        model = tiny("joint", positions=positions)
        assert torch.allclose(model(lay(patches[:, :, order])), model(lay(patches)), atol=1e-9) == equal


@pytest.mark.parametrize("attention", SCHEMES)
@pytest.mark.parametrize("training", [False, True])
def test_samples_do_not_see_each_other(attention, training):
    """To the gradient: what one sample's output owes to the others is exactly zero; and B = 3 is three times B = 1."""
    model, x = tiny(attention).train(training), clip(3, 3, 4, 16, 16).requires_grad_()
    out = model(x)
    grad, = torch.autograd.grad(out[1].sum(), x)
    assert grad[1].any() and not grad[[0, 2]].any()
    close(out, torch.cat([model(one[None]) for one in x]))


@given(B=st.integers(1, 2), T=st.integers(1, 9), H=st.integers(4, 30), W=st.integers(4, 30), depth=st.integers(1, 6),
       attention=st.sampled_from(SCHEMES))
@settings(max_examples=40)
@torch.no_grad()
def test_any_size_goes_in(B, T, H, W, depth, attention):
    if attention == "local_global":
        T, H, W = T + T % 2, H + 4 * (H // 4 % 2), W + 4 * (W // 4 % 2)
    model, x = tiny(attention, depth=depth), clip(B, 3, T, H, W)
    assert model(x).shape == (B, 5)
    after = []
    for block in model.blocks:
        block.register_forward_hook(lambda m, args, out: after.append(out))
    maps = model.features(x)
    quarters = [min(n for n in range(1, depth + 1) if 4 * n >= i * depth) for i in range(1, 5)]
    for m, n in zip(maps, quarters, strict=True):
        assert m.shape == (B, 8, T, H // 4, W // 4)
        tokens = after[n - 1][:, 1:].reshape(-1, 8)                    # the class token left out, nothing else done
        assert torch.equal(m.permute(0, 2, 3, 4, 1).reshape(-1, 8).sort(0)[0], tokens.sort(0)[0])


# ------------------------------------------------------------ initial weights, drop path

@pytest.mark.parametrize("attention", SCHEMES)
def test_initial_weights(attention):
    """Truncated normal of std 0.02; zero for the time embedding and for the Linear after each new attention."""
    model = TimeSformer(48, 8, 8, embed_dim=96, depth=4, num_heads=4, attention=attention)
    zeros = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert not module.bias.any(), name
            if name.endswith("_fc"):
                zeros += 1
                assert not module.weight.any(), name
            else:
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.03), name
        elif isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-6 and (module.weight == 1).all() and not module.bias.any()
    assert zeros == 4 * EXTRA[attention]
    assert model.cls_token.std().item() == pytest.approx(0.02, rel=0.3)
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.time_embed is None if attention == "space" else not model.time_embed.any()


def test_initial_weights_of_the_narrow_model():
    model = create("timesformer_mini")
    assert not any(b.temporal_fc.weight.any() for b in model.blocks) and not model.time_embed.any()
    for b in model.blocks:
        for linear in (b.attn.qkv, b.attn.proj, b.temporal_attn.qkv, b.mlp.fc1, b.mlp.fc2):
            assert linear.weight.std().item() == pytest.approx(linear.in_features**-0.5, rel=0.15)


@pytest.mark.parametrize("attention", SCHEMES)
def test_drop_path(attention):
    """Linear rates; before the MLP whole groups are dropped, all places of one frame or all times of one place."""
    model = tiny(attention, depth=5, drop_path=0.4).train()
    assert [b.drop_path.rate for b in model.blocks] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert all(isinstance(b, DividedBlock if EXTRA[attention] else Block) for b in model.blocks)
    branches = []
    model.blocks[4].drop_path.register_forward_hook(lambda m, args, out: branches.append((args[0], out)))
    B, T, H, W = 40, 2, 2, 4
    model(clip(B, 3, T, H * 4, W * 4))
    frames = B * T if attention == "space" else B
    assert [len(out) for _, out in branches] == {
        "divided": [B * H * W, B * T], "local_global": [B * 4, B * 8],
        "axial": [B * H * W, B * T * H, B * T * W]}.get(attention, [frames]) + [frames]
    for x, out in branches:
        kept = out.flatten(1).any(1)
        close(out[kept], x[kept] / 0.6)
        assert 0.4 < kept.double().mean() < 0.8


# ------------------------------------------------------------ other sizes, and image weights

@pytest.mark.parametrize("grid", [(4, 4), (6, 9), (2, 3), (8, 2), (1, 1)], ids=str)
def test_positions_are_resized_to_the_nearest(grid):
    pos, (H, W) = torch.randn(1, 17, 3), grid
    got = resize_space(pos, grid)
    assert torch.equal(got[0], torch.stack([pos[0, 0], *(
        pos[0, 1 + h * 4 // H * 4 + w * 4 // W] for h, w in product(range(H), range(W)))]))
    time = torch.randn(1, 4, 3)
    for T in (1, 3, 4, 6, 8):
        assert torch.equal(resize_time(time, T)[0], torch.stack([time[0, t * 4 // T] for t in range(T)]))
    assert resize_space(pos, (4, 4)) is pos and resize_time(time, 4) is time


@torch.no_grad()
def test_resized_positions_are_what_running_at_that_size_uses():
    small, x = tiny("divided"), clip(1, 3, 6, 24, 24)
    large = TimeSformer(**TINY | dict(img_size=24, num_frames=6)).double().eval()
    state = small.state_dict()
    large.load_state_dict(resize_positions(large, state))
    assert torch.equal(large(x), small(x)) and large.pos_embed.shape == (1, 37, 8) and large.time_embed.shape == (1, 6, 8)
    assert all(torch.equal(a, b) for a, b in zip(from_official(large, state, resize=True).values(), large.state_dict().values()))
    assert all(v is state[k] for k, v in resize_positions(small, state).items())
    with pytest.raises(ValueError, match="pos_embed has 16 places; only a square grid"):
        resize_positions(large, state | dict(pos_embed=torch.zeros(1, 16, 8)))


def vit(**more):
    """Weights of an image ViT, and the model itself by its definition: (B, C, H, W) -> (B, K)."""
    config = TINY | dict(attention="space", num_frames=1, **more)
    state = shake(TimeSformer(**config), 5).state_dict()
    return state, lambda x: Literal(state, **config)(x[:, :, None])[0]


@pytest.mark.parametrize("attention", ["divided", "space"])
@torch.no_grad()
def test_a_still_clip_is_seen_as_the_image(attention):
    state, image = vit()
    video = tiny(attention)
    filled = initialise_from_vit(video, {**state, "pre_logits.fc.weight": torch.zeros(2)})
    assert all(torch.equal(filled[k], video.state_dict()[k]) for k in ("head.weight", "head.bias"))
    video.load_state_dict(filled | {k: state[k] for k in ("head.weight", "head.bias")})
    frame = clip(2, 3, 16, 16)
    for T in (1, 4, 6):
        close(video(frame[:, :, None].expand(-1, -1, T, -1, -1)), image(frame))


@pytest.mark.parametrize("attention", SCHEMES)
def test_every_attention_starts_as_that_of_the_image(attention):
    state, _ = vit()
    video = tiny(attention, img_size=24, num_classes=3)
    got = initialise_from_vit(video, state)
    video.load_state_dict(got, strict=True)
    for i, step in product(range(2), STEPS[attention][:-1]):
        for new, old in ((f"{step}_norm1", "norm1"), (f"{step}_attn.qkv", "attn.qkv"), (f"{step}_attn.proj", "attn.proj")):
            for part in ("weight", "bias"):
                assert torch.equal(got[f"blocks.{i}.{new}.{part}"], state[f"blocks.{i}.{old}.{part}"])
                assert not got[f"blocks.{i}.{step}_fc.{part}"].any()
    assert torch.equal(got["pos_embed"], resize_space(state["pos_embed"], (6, 6)))
    assert attention == "space" or not got["time_embed"].any()
    assert "pos_embed" not in initialise_from_vit(tiny(attention, positions="none"), state)


def test_image_weights_that_do_not_fit():
    state, _ = vit()
    state["extra"] = state.pop("norm.bias")
    state["blocks.1.attn.qkv.bias"] = torch.zeros(3)
    with pytest.raises(ValueError) as error:
        initialise_from_vit(tiny("divided"), state)
    parts = str(error.value).removeprefix("the image weights do not fit: ").split("; ")
    assert set(parts) == {"missing norm.bias", "unexpected extra", "blocks.1.attn.qkv.bias has shape (3,), wanted (24,)",
                          "blocks.1.temporal_attn.qkv.bias has shape (3,), wanted (24,)"}


# ------------------------------------------------------------ errors

@pytest.mark.parametrize("config, words", [
    (dict(num_heads=3), "embed_dim 8 is not divisible by num_heads 3"),
    (dict(attention="time"), "unknown attention 'time'; choose one of space, joint, divided, local_global, axial"),
    (dict(positions="time"), "unknown positions 'time'; choose 'space-time', 'space' or 'none'"),
    (dict(img_size=3), "img_size 3 is smaller than patch_size 4"),
])
def test_wrong_configurations(config, words):
    with pytest.raises(ValueError, match=words):
        TimeSformer(**TINY | config)


@pytest.mark.parametrize("attention, x, words", [
    ("divided", torch.zeros(3, 4, 16, 16), ["4 axes", "(B, C=3, T, H, W)", "x[None]"]),
    ("space", torch.zeros(1, 4, 3, 16, 16), ["4 channels", "(1, 4, 3, 16, 16)"]),
    ("axial", torch.zeros(1, 3, 0, 16, 16), ["empty along T"]),
    ("joint", torch.zeros(1, 3, 4, 3, 16), ["smaller than one 4 x 4 patch", "(1, 3, 4, 3, 16)"]),
    ("divided", torch.zeros(1, 3, 4, 16, 3), ["smaller than one 4 x 4 patch", "(1, 3, 4, 16, 3)"]),
    ("divided", torch.zeros(1, 3, 4, 16, 16, dtype=torch.uint8), ["uint8", "floating point"]),
    ("local_global", torch.zeros(1, 3, 3, 16, 16), ["3 frames of 4 x 4 patches", "an even number of each"]),
    ("local_global", torch.zeros(1, 3, 4, 12, 16), ["4 frames of 3 x 4 patches", "(1, 3, 4, 12, 16)"]),
    ("local_global", torch.zeros(1, 3, 4, 16, 22), ["4 frames of 4 x 5 patches", "an even number of each"]),
])
def test_wrong_input_says_what_came_and_what_was_wanted(attention, x, words):
    model = TimeSformer(**TINY | dict(attention=attention))
    for call in (model, model.features):
        with pytest.raises(ValueError) as error:
            call(x)
        assert all(w in str(error.value) for w in words), error.value
