"""UniFormer against its literal definition and the numbers stated about it."""

from functools import lru_cache
from math import prod

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vt_course.models import ZOO, create
from vt_course.models.cost import count_macs, count_parameters
from vt_course.models.uniformer import Depthwise, LocalBlock, RelationAggregator, UniFormer

from computed import UNIFORMER
from counting import count_equal_blocks_once
from weights import shake

pytestmark = pytest.mark.slow

TINY = dict(embed_dims=(8, 12, 16, 24), depths=(1, 2, 4, 1), head_dim=4, num_classes=5)


# ------------------------------------------------------------ the definition, straight from the weights


class Literal:
    """UniFormer step by step on contiguous (B, C, *size) maps, with the softmax written out."""

    def __init__(self, weights, head_dim, depths, window=14, training=False, **ignored):
        self.w, self.head_dim, self.depths, self.window, self.training = weights, head_dim, depths, window, training

    def conv(self, name, x, stride=1, padding=0, groups=1):
        w = self.w[name + ".weight"]
        return (F.conv3d if w.ndim == 5 else F.conv2d)(x, w, self.w[name + ".bias"], stride, padding, groups=groups)

    def depthwise(self, name, x):
        w = self.w[name + ".weight"]
        return self.conv(name, x, padding=tuple(k // 2 for k in w.shape[2:]), groups=len(w))

    def batch_norm(self, name, x):
        mean, var = (self.w[f"{name}.running_{s}"] for s in ("mean", "var"))
        if self.training:
            others = [0, *range(2, x.ndim)]
            mean, var = x.mean(others), x.var(others, correction=0)
        shape = (1, -1, *[1] * (x.ndim - 2))
        scale, bias = self.w[name + ".weight"].view(shape), self.w[name + ".bias"].view(shape)
        return (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt() * scale + bias

    def layer_norm(self, name, x, eps):
        return F.layer_norm(x, x.shape[-1:], self.w[name + ".weight"], self.w[name + ".bias"], eps)

    def linear(self, name, x):
        return x @ self.w[name + ".weight"].T + self.w[name + ".bias"]

    def attention(self, name, x):
        B, N, C = x.shape
        heads = [t.view(B, N, -1, self.head_dim).transpose(1, 2) for t in self.linear(name + ".qkv", x).chunk(3, -1)]
        q, k, v = heads
        out = (q @ k.transpose(2, 3) * self.head_dim**-0.5).softmax(-1) @ v
        return self.linear(name + ".proj", out.transpose(1, 2).reshape(B, N, C))

    def windows(self, name, x):
        """Attention in each window of (B, H, W, C), zeros appended to fill the last ones."""
        _, H, W, C = x.shape
        M = self.window
        padded = x.new_zeros(len(x), -(-H // M) * M, -(-W // M) * M, C)
        padded[:, :H, :W] = x
        out = torch.empty_like(padded)
        for i in range(0, padded.shape[1], M):
            for j in range(0, padded.shape[2], M):
                piece = padded[:, i : i + M, j : j + M]
                out[:, i : i + M, j : j + M] = self.attention(name, piece.reshape(len(x), -1, C)).view(piece.shape)
        return out[:, :H, :W]

    def embed(self, name, x, first):
        if name + ".proj.0.weight" in self.w:  # S†
            x = self.batch_norm(name + ".proj.1", self.conv(name + ".proj.0", x, 2, 1))
            return self.batch_norm(name + ".proj.4", self.conv(name + ".proj.3", F.gelu(x), 2, 1)) if first else x
        video, n = x.ndim == 5, 4 if first else 2
        stride, padding = ((2 if first else 1, n, n), (1 if first else 0, 0, 0)) if video else (n, 0)
        x = self.conv(name + ".proj", x, stride, padding).movedim(1, -1)
        return self.layer_norm(name + ".norm", x, 1e-5).movedim(-1, 1).contiguous()

    def block(self, name, x, windowed):
        has = lambda part: f"{name}.{part}" in self.w  # noqa: E731
        gamma = [self.w[f"{name}.gamma_{i}"] if has("gamma_1") else 1 for i in (1, 2)]
        if has("pos_embed.weight"):
            x = x + self.depthwise(name + ".pos_embed", x)
        if has("conv1.weight"):
            act = (lambda t: t) if has("norm2.weight") else F.gelu
            y = act(self.conv(name + ".conv1", self.batch_norm(name + ".norm1", x)))
            x = x + gamma[0] * self.conv(name + ".conv2", act(self.depthwise(name + ".attn", y)))
            if has("norm2.weight"):
                y = F.gelu(self.conv(name + ".mlp.fc1", self.batch_norm(name + ".norm2", x)))
                x = x + gamma[1] * self.conv(name + ".mlp.fc2", y)
            return x
        B, C, *size = x.shape
        x = x.movedim(1, -1)  # (B, *size, C)
        y = x
        if has("t_attn.qkv.weight"):  # the residual below is x, not y
            T, H, W = size
            y = torch.empty_like(x)
            for i in range(H):
                for j in range(W):
                    column = x[:, :, i, j]
                    y[:, :, i, j] = column + self.attention(
                        name + ".t_attn", self.layer_norm(name + ".t_norm", column, 1e-6)
                    )
        y = self.layer_norm(name + ".norm1", y, 1e-6)
        if has("t_attn.qkv.weight"):
            y = torch.stack([self.attention(name + ".attn", y[:, t].reshape(B, H * W, C)) for t in range(T)], 1).view(
                x.shape
            )
        elif windowed:
            y = self.windows(name + ".attn", y)
        else:
            y = self.attention(name + ".attn", y.reshape(B, -1, C)).view(x.shape)
        x = x + gamma[0] * y
        y = F.gelu(self.linear(name + ".mlp.fc1", self.layer_norm(name + ".norm2", x, 1e-6)))
        x = x + gamma[1] * self.linear(name + ".mlp.fc2", y)
        return x.movedim(-1, 1).contiguous()

    def __call__(self, x, kinds="LLGG"):
        maps = []
        for i in range(4):
            x = self.embed(f"patch_embed{i + 1}", x, i == 0)
            for j in range(self.depths[i]):
                x = self.block(f"blocks{i + 1}.{j}", x, kinds[i] == "W" or kinds[i] == "H" and (j + 1) % 4 != 0)
            maps.append(x)
        tokens = self.batch_norm("norm", x).flatten(2).transpose(1, 2)
        scores = self.linear("head", tokens.mean(1))
        if "aux_head.weight" in self.w:
            scores = scores + self.linear("aux_head", tokens).max(1).values / 2
        return scores, maps


CONFIGS = {
    "video": {},
    "LLLL": dict(kinds="LLLL"),
    "LLLG": dict(kinds="LLLG"),
    "LGGG": dict(kinds="LGGG"),
    "GGGG": dict(kinds="GGGG"),
    "divided": dict(divided=True),
    "no DPE": dict(dpe=False),
    "no FFN": dict(local_ffn=False),
    "tube 3": dict(tube=3),
    "tube 7": dict(tube=7),
    "video LayerScale": dict(layer_scale="LG"),
    "narrower FFN": dict(mlp_ratio=3, in_channels=2),
    "image": dict(dims=2),
    "overlapping": dict(dims=2, conv_stem=True),
    "image LayerScale": dict(dims=2, layer_scale="G"),
    "token labelling": dict(dims=2, layer_scale="LG", aux_head=True),
    "windows": dict(dims=2, kinds="LLWG", window=3),
    "hybrid": dict(dims=2, kinds="LLHG", window=3),
    "windows larger than the map": dict(dims=2, kinds="LLWW", window=14),
}


def sizes(config, i):
    """Two inputs: B, T, H, W even and odd, square and not, sides that leave a rest."""
    B, *size = [(2, 4, 64, 64), (1, 5, 61, 103)][i]
    return B, config.get("in_channels", 3), *size[config.get("dims", 3) == 2 :]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("i", [0, 1])
def test_equals_the_definition(name, i):
    config = TINY | CONFIGS[name]
    model = shake(UniFormer(**config))
    x = torch.randn(sizes(config, i), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        scores, maps = Literal(model.state_dict(), **config)(x, config.get("kinds", "LLGG"))
        torch.testing.assert_close(model(x), scores, rtol=1e-5, atol=1e-5)
        for got, want in zip(model.features(x), maps, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * max(1, want.std().item()))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_equal_the_definition(name, training, batch):
    config = TINY | CONFIGS[name]
    model = shake(UniFormer(**config)).double()  # in float32 BatchNorm's gradients are too noisy
    weights = {k: v.clone().requires_grad_(k in dict(model.named_parameters())) for k, v in model.state_dict().items()}
    x = torch.randn(batch, *sizes(config, 0)[1:], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    w = torch.randn(batch, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    (model.train(training)(a) * w).sum().backward()
    (Literal(weights, training=training, **config)(b, config.get("kinds", "LLGG"))[0] * w).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-9)
    for key, p in model.named_parameters():
        torch.testing.assert_close(p.grad, weights[key].grad, rtol=1e-8, atol=1e-9, msg=lambda m: f"{key}: {m}")


@pytest.mark.parametrize("size", [(3, 5, 4), (5, 6)], ids=str)
@pytest.mark.parametrize("tube", [3, 5])
def test_local_affinity_is_a_matrix_of_learned_numbers(size, tube):
    """Equation 6 and appendix A: A[i, j] depends on the offset of i and j only, 0 outside the tube; R = A V, then U."""
    block = shake(LocalBlock(len(size), 6, 4.0, tube, True, True, False, 0.0))
    x = torch.randn(2, 6, *size)
    coords = torch.stack(torch.meshgrid(*[torch.arange(n) for n in size], indexing="ij"), -1).view(-1, len(size))
    offset = coords[None] - coords[:, None] + tube // 2  # (L, L, axes); convolution's sign, paper's is minus it
    inside = ((offset >= 0) & (offset < tube)).all(-1)
    index = tuple(offset.clamp(0, tube - 1).unbind(-1))
    with torch.no_grad():
        V = torch.einsum("oc,bcl->bol", block.conv1.weight.flatten(1), x.flatten(2)) + block.conv1.bias[:, None]
        A = torch.stack([a[index] * inside for a in block.attn.weight[:, 0]])  # (C, L, L): one head a channel
        R = torch.einsum("nij,bnj->bni", A, V) + block.attn.bias[:, None]
        want = torch.einsum("oc,bcl->bol", block.conv2.weight.flatten(1), R) + block.conv2.bias[:, None]
        got = block.conv2(block.attn(block.conv1(x))).flatten(2)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert (A[0] != 0).sum(1).max() == prod(min(n, tube) for n in size)


def test_frozen_filters_get_no_gradient():
    conv = Depthwise(3, 4, 5)
    conv.weight.requires_grad_(False)
    conv(torch.randn(1, 4, 2, 3, 6)).sum().backward()
    assert conv.weight.grad is None and conv.bias.grad is not None


def test_global_affinity_row_by_row():
    """Equations 4, 5 and 7, one token and one head at a time."""
    aggregator = shake(RelationAggregator(12, 4))
    x = torch.randn(1, 7, 12)
    with torch.no_grad():
        q, k, v = aggregator.qkv(x)[0].view(7, 3, 3, 4).unbind(1)
        rows = []
        for i in range(7):
            heads = []
            for n in range(3):
                e = torch.stack([(q[i, n] @ k[j, n] / 4**0.5).exp() for j in range(7)])
                heads.append((e / e.sum()) @ v[:, n])
            rows.append(aggregator.proj(torch.cat(heads)))
        torch.testing.assert_close(aggregator(x)[0], torch.stack(rows), rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------ what it costs


UNEXPLAINED = {"uniformer_image_large_ls": 12.6, "uniformer_image_large_ls_384": 39.2}  # stated GMACs


@lru_cache
def cost(shape, **config):
    with torch.device("meta"):
        model = UniFormer(**config)
    return count_parameters(model) / 1e6, count_equal_blocks_once(model, (1, 3, *shape)) / 1e9


@pytest.mark.parametrize("name", ["video", "divided", "no DPE", "overlapping", "windows", "hybrid"])
def test_equal_blocks_counted_once_make_the_whole(name):
    with torch.device("meta"):
        model = UniFormer(**TINY | CONFIGS[name])
    shape = (1, 3, 4, 64, 96)[:2] + (4, 64, 96)[CONFIGS[name].get("dims", 3) == 2 :]
    assert count_equal_blocks_once(model, shape) == count_equal_blocks_once(model, shape) == count_macs(model, shape)


@pytest.mark.parametrize("name", UNIFORMER)
def test_parameters_and_macs(name):
    with torch.device("meta"):
        model = create(name)
    params, gmacs = count_parameters(model) / 1e6, count_equal_blocks_once(model, (1, *ZOO[name].input)) / 1e9
    assert (params, gmacs) == (pytest.approx(UNIFORMER[name][0], abs=6e-5), pytest.approx(UNIFORMER[name][1], abs=6e-4))
    stated = {quantity: value for quantity, value, _ in ZOO[name].stated}
    assert params == pytest.approx(stated["params M"], abs=0.55 if isinstance(stated["params M"], int) else 0.12)
    if name in UNEXPLAINED:
        assert (
            stated["GMACs"] == UNEXPLAINED[name]
            and gmacs / stated["GMACs"] > 1.55
            and "not be reproduced" in ZOO[name].note
        )
    else:
        assert gmacs == pytest.approx(stated["GMACs"], rel=0.011)


def test_every_variant_is_checked():
    assert set(UNIFORMER) == {n for n, v in ZOO.items() if v.family is UniFormer and not n.endswith("_mini")}


# UniFormer table 4: (settings, stated (GMACs, params M) of the video model, of the image model).
# The depths of LLLG are not stated; {3, 5, 10, 3} is the only choice near the others that gives all four numbers.
ABLATIONS = {
    "LLGG": ({}, (41.8, 21.4), (3.6, 21.5)),
    "no FFN": (dict(local_ffn=False), (41.0, 21.3), (3.3, 21.3)),
    "divided": (dict(divided=True), (36.8, 27.7), None),
    "no DPE": (dict(dpe=False), (41.4, 21.3), (3.6, 21.5)),
    "LLLL": (dict(kinds="LLLL", depths=(3, 5, 10, 4)), (31.6, 23.7), (3.7, 23.3)),
    "LLLG": (dict(kinds="LLLG", depths=(3, 5, 10, 3)), (31.6, 22.4), (3.7, 22.2)),
    "LLLL, small": (dict(kinds="LLLL"), (26.1, None), None),  # the transfer table
    "tube 3": (dict(tube=3), (41.0, None), None),
    "tube 7": (dict(tube=7), (43.6, None), None),
    "tube 9": (dict(tube=9), (46.6, None), None),
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_costs_of_the_ablations(name):
    config, *stated = ABLATIONS[name]
    for numbers, shape, more in zip(stated, ((16, 224, 224), (224, 224)), ({}, dict(dims=2, num_classes=1000))):
        if numbers:
            params, gmacs = cost(shape, **config, **more)
            assert gmacs == pytest.approx(numbers[0], rel=0.006, abs=0.06)
            # 27.848 M with the 400-class head; the stated 27.7 is within 0.02 of a head with 174
            assert numbers[1] is None or params == pytest.approx(numbers[1], abs=0.15 if name == "divided" else 0.07)


def test_the_official_split_model():
    params, gmacs = cost((16, 224, 224), divided=True)
    assert (params, gmacs) == (pytest.approx(27.848, abs=6e-4), pytest.approx(36.68, abs=6e-3))
    assert cost((16, 224, 224), divided=True, num_classes=174)[0] == pytest.approx(27.7, abs=0.05)


@pytest.mark.parametrize(
    "kinds, depths, stated, ours",
    [("LGGG", (3, 4, 8, 3), (39.0, 21.4), (82.365, 21.468)), ("GGGG", (2, 2, 7, 3), (72.0, 19.8), (216.067, 19.771))],
)
def test_costs_that_do_not_come_out(kinds, depths, stated, ours):
    """Global attention at 56 x 56 and 28 x 28 costs 2 L^2 C a block. The stated GMACs cannot contain that much, though
    the parameters agree: in these rows the authors' count or network differs from what the paper describes.
    """
    params, gmacs = cost((16, 224, 224), kinds=kinds, depths=depths)
    assert (gmacs, params) == (pytest.approx(ours[0], abs=6e-4), pytest.approx(ours[1], abs=6e-4))
    assert params == pytest.approx(stated[1], abs=0.07) and gmacs > 2 * stated[0]
    tokens, width = (8 * 28 * 28, 128) if kinds == "LGGG" else (8 * 56 * 56, 64)
    assert 2 * tokens**2 * width * depths[kinds.index("G")] / 1e9 > stated[0]  # these products alone


@pytest.mark.parametrize("size", [(224, 224), (512, 2048), (800, 1280), (448, 320)], ids=str)
@pytest.mark.parametrize("kinds, window", [("LLWG", 14), ("LLHG", 14), ("LLHG", 32)])
def test_macs_of_windows_follow_from_their_number(kinds, window, size):
    """A window block compares L M^2 pairs instead of L^2, and projects padded tokens as well."""
    (_, full), (_, got) = (cost(size, dims=2, depths=(1, 1, 8, 1), kinds=k, window=window) for k in ("LLGG", kinds))
    H, W = (n // 16 for n in size)
    padded = -(-H // window) * -(-W // window) * window**2
    saved = 2 * 320 * ((H * W) ** 2 - padded * window**2) - 4 * 320**2 * (padded - H * W)
    assert full - got == pytest.approx(saved * (8 if kinds == "LLWG" else 6) / 1e9, rel=1e-9, abs=1e-9)


DEPTHS = (3, 4, 8, 3), (5, 8, 20, 7)  # S and B


def dense(depths, kinds, window):
    return cost((512, 2048), dims=2, depths=depths, kinds=kinds, window=window)[1]


@pytest.mark.parametrize(
    "head, stated",
    [
        ("Semantic FPN", {(3, 4, 8, 3): (247, 183, 199, 172), (5, 8, 20, 7): (471, 310, 350, 328)}),
        ("UperNet", {(3, 4, 8, 3): (1004, 939, 955, 947), (5, 8, 20, 7): (1227, 1066, 1106, 1085)}),
    ],
)
def test_differences_of_the_stated_segmentation_macs(head, stated):
    """Sense-X/UniFormer semantic_segmentation/README.md, 512 x 2048: global, windows of 32, hybrid 32, hybrid 14.

    The heads are the same, so they drop out of differences; the stated numbers are rounded to 1.
    """
    for depths, (full, windows, hybrid, hybrid14) in stated.items():
        ours = dense(depths, "LLGG", 14)
        saved = ours - dense(depths, "LLHG", 14)
        assert ours - dense(depths, "LLWG", 32) == pytest.approx(full - windows, abs=1.01)
        assert ours - dense(depths, "LLHG", 32) == pytest.approx(full - hybrid, abs=1.01)
        if (head, depths[0]) == ("Semantic FPN", 3):  # 75 stated, 55.6 computed: does not come out
            assert full - hybrid14 == 75 and saved == pytest.approx(55.61, abs=0.01)
        else:  # 4 at most, of 57, 142 and 143
            assert saved == pytest.approx(full - hybrid14, abs=4.01)
    small, base = DEPTHS
    for i, kind in enumerate((("LLGG", 14), ("LLWG", 32), ("LLHG", 32))):
        assert dense(base, *kind) - dense(small, *kind) == pytest.approx(stated[base][i] - stated[small][i], abs=1.01)


@pytest.mark.parametrize(
    "kinds, size, stated",
    [
        ("LLHG", (800, 1280), 399 - 269),
        ("LLHG", (800, 1280), 878 - 747),  # object_detection/README.md
        ("LLGG", (256, 192), 9.2 - 4.7),
        ("LLGG", (448, 320), 29.6 - 14.8),
    ],
)  # pose_estimation/README.md
def test_differences_of_the_stated_detection_and_pose_macs(kinds, size, stated):
    """UniFormer-B minus UniFormer-S under the same head. (Pose at 384 x 288 repeats another row and is left out.)"""
    small, base = (cost(size, dims=2, kinds=kinds, depths=d)[1] for d in DEPTHS)
    assert base - small == pytest.approx(stated, abs=1.01 if stated > 100 else 0.11)


# ------------------------------------------------------------ properties


@given(B=st.integers(1, 2), T=st.integers(1, 9), H=st.integers(32, 90), W=st.integers(32, 90))
@settings(max_examples=12, deadline=None)
def test_any_size_goes_in(B, T, H, W):
    model = UniFormer(**TINY).eval()
    with torch.no_grad():
        maps = model.features(torch.randn(B, 3, T, H, W))
    assert [tuple(m.shape) for m in maps] == [
        (B, C, (T + 1) // 2, H // s, W // s) for C, s in zip(TINY["embed_dims"], (4, 8, 16, 32))
    ]


@given(B=st.integers(1, 2), H=st.integers(1, 90), W=st.integers(1, 90), kinds=st.sampled_from(["LLGG", "LLWG", "LLHG"]))
@settings(max_examples=12, deadline=None)
def test_any_size_goes_into_overlapping_patches(B, H, W, kinds):
    model = UniFormer(dims=2, conv_stem=True, kinds=kinds, window=3, **TINY).eval()
    with torch.no_grad():
        maps = model.features(torch.randn(B, 3, H, W))
    assert [tuple(m.shape) for m in maps] == [
        (B, C, -(-H // s), -(-W // s)) for C, s in zip(TINY["embed_dims"], (4, 8, 16, 32))
    ]


@pytest.mark.parametrize("name", ["video", "divided", "hybrid"])
def test_samples_do_not_see_each_other(name):
    config = TINY | CONFIGS[name]
    model = shake(UniFormer(**config))
    x = torch.randn(3, *sizes(config, 1)[1:])
    with torch.no_grad():
        torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-5, atol=1e-5)


def test_memory_layout_of_the_input_does_not_matter():
    model = shake(UniFormer(**TINY))
    x = torch.randn(2, 3, 4, 64, 48)
    with torch.no_grad():
        want = model(x)
        torch.testing.assert_close(model(x.transpose(3, 4).contiguous().transpose(3, 4)), want, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(model(x.to(memory_format=torch.channels_last_3d)), want, rtol=1e-6, atol=1e-6)


def test_only_the_embedding_of_position_knows_where_tokens_are():
    """Without it, global attention does not notice a permutation of its tokens; with it, it does."""
    for dpe, same in ((False, True), (True, False)):
        block = shake(UniFormer(**TINY | dict(dpe=dpe))).blocks3[0]
        x = torch.randn(1, 16, 2, 3, 4)
        with torch.no_grad():
            assert torch.allclose(block(x).flip(2, 3, 4), block(x.flip(2, 3, 4)), atol=1e-5) == same


def test_drop_path_rises_over_all_blocks_and_initial_weights():
    torch.manual_seed(0)
    model = create("uniformer_mini", drop_path=0.7, narrow_init=False)
    rates = [b.drop_path.rate for i in range(1, 5) for b in getattr(model, f"blocks{i}")]
    assert rates == pytest.approx([0.1 * i for i in range(8)])
    assert model.blocks4[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05) and not model.head.bias.any()
    divided = UniFormer(divided=True, **TINY).eval()
    for block in (*divided.blocks3, *divided.blocks4):  # time adds exactly nothing at first
        assert not block.t_attn.qkv.weight.any() and (block.t_attn.proj.weight == 1).all()
        t = torch.randn(2, 4, block.t_norm.normalized_shape[0])
        assert not block.t_attn(block.t_norm(t)).any()


# ------------------------------------------------------------ inflation


@pytest.mark.parametrize("mode", ["average", "centre"])
def test_inflated_weights_see_a_still_clip_as_the_image(mode):
    """The middle of a long still clip, before attention mixes in its ends."""
    image, video = shake(UniFormer(dims=2, layer_scale="LG", **TINY)), UniFormer(layer_scale="LG", **TINY).eval()
    state = video.inflate({"model": image.state_dict()}, mode)
    video.load_state_dict(state)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        want = image.features(x)[:2]
        got = video.features(x[:, :, None].expand(-1, -1, 45, -1, -1))[:2]
    for w, g in zip(want, got):
        torch.testing.assert_close(g[:, :, g.shape[2] // 2], w, rtol=1e-4, atol=1e-4)
        if mode == "centre":  # needs no neighbours in time, so all frames agree
            torch.testing.assert_close(g, w[:, :, None].expand_as(g), rtol=1e-4, atol=1e-4)
    assert torch.equal(state["head.weight"], image.head.weight)
    assert torch.equal(state["blocks1.0.norm1.running_var"], image.blocks1[0].norm1.running_var)
    kernel, flat = state["blocks1.0.attn.weight"], image.blocks1[0].attn.weight
    assert kernel.shape == (8, 1, 5, 5, 5)
    if mode == "centre":
        assert torch.equal(kernel[:, :, 2], flat) and not kernel[:, :, [0, 1, 3, 4]].any()
    else:
        assert all(torch.equal(kernel[:, :, t], flat / 5) for t in range(5))


def test_inflation_keeps_the_models_head_for_other_classes_and_is_strict():
    image = shake(UniFormer(dims=2, **TINY))
    video = UniFormer(**TINY | dict(num_classes=7))
    state = video.inflate(image.state_dict())
    assert torch.equal(state["head.weight"], video.head.weight) and set(state) == set(video.state_dict())
    wrong = image.state_dict()
    wrong["extra"] = wrong.pop("norm.bias")
    wrong["blocks3.0.norm1.bias"] = torch.zeros(3)
    with pytest.raises(ValueError) as error:
        video.inflate(wrong)
    for part in (
        "3 entries",
        "missing norm.bias",
        "unexpected extra",
        "blocks3.0.norm1.bias has shape (3,), wanted (16,)",
    ):
        assert part in str(error.value)
    with pytest.raises(ValueError, match="'average' or 'centre'"):
        video.inflate(image.state_dict(), "middle")


# ------------------------------------------------------------ errors


@pytest.mark.parametrize(
    "dims, x, words",
    [
        (3, torch.zeros(3, 8, 32, 32), ["4 axes", "(B, C=3, T, H, W)", "x[None]"]),
        (3, torch.zeros(1, 8, 3, 32, 32), ["8 channels", "(1, 8, 3, 32, 32)"]),
        (3, torch.zeros(1, 3, 0, 32, 32), ["empty along T"]),
        (3, torch.zeros(1, 3, 8, 31, 64), ["(1, 3, 8, 31, 64)", "too small", ">= 32"]),
        (2, torch.zeros(1, 3, 64, 16), ["(1, 3, 64, 16)", "too small"]),
        (2, torch.zeros(1, 3, 8, 32, 32), ["5 axes", "(B, C=3, H, W)"]),
        (2, torch.zeros(1, 3, 32, 32, dtype=torch.uint8), ["uint8", "floating point"]),
    ],
)
def test_wrong_input_says_what_came_and_what_was_wanted(dims, x, words):
    model = UniFormer(dims=dims, **TINY)
    for call in (model, model.features):
        with pytest.raises(ValueError) as error:
            call(x)
        assert all(w in str(error.value) for w in words), error.value


@pytest.mark.parametrize(
    "config, words",
    [
        (dict(dims=4), "dims is 4"),
        (dict(kinds="LLG"), "each must have 4 stages"),
        (dict(depths=(1, 1)), "each must have 4 stages"),
        (dict(kinds="LLXG"), "'LLXG' has an unknown letter"),
        (dict(kinds="LLWG"), "in image models also W or H"),
        (dict(tube=4), "tube 4 must be odd and at least 3"),
        (dict(window=0), "window=0; it must be at least 1"),
        (dict(head_dim=5), "16 channels are not divisible by head_dim 5"),
        (dict(conv_stem=True), "conv_stem needs dims=2"),
        (dict(dims=2, divided=True), "divided needs dims=3"),
    ],
)
def test_wrong_configurations(config, words):
    with pytest.raises(ValueError, match=words):
        UniFormer(**TINY | config)


# ------------------------------------------------------------ BatchNorm and a single clip


@pytest.mark.parametrize(
    "settings, shape",
    [
        ({}, (1, 3, 1, 32, 32)),
        (dict(dims=2), (1, 3, 32, 32)),
        (dict(kinds="LLLL"), (1, 3, 2, 32, 32)),
        (dict(dims=2, kinds="LLLL", conv_stem=True), (1, 3, 20, 20)),
    ],
    ids=str,
)
def test_one_clip_with_a_map_of_one_place_cannot_be_trained_on(settings, shape):
    model, x = create("uniformer_mini", **settings), torch.randn(shape)
    with pytest.raises(
        ValueError, match=r"BatchNorm cannot be trained on one clip whose map is 1 x 1( x 1)?: it needs two values"
    ):
        model(x)
    model(x.repeat(2, *[1] * (x.ndim - 1)))
    model.eval()(x)
