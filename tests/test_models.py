"""Swin and Video Swin against torchvision, their definition, and the numbers stated about them."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from vt_course.models import ZOO, create
from vt_course.models.cost import count_macs, count_parameters
from vt_course.models.official import from_official, inflate_bias_table, inflate_patch, inflate_swin, to_official
from vt_course.models.swin import (
    SwinBlock,
    SwinTransformer,
    relative_position_index,
    shift_mask,
    window_partition,
    window_reverse,
)
from vt_course.models.video_swin import SwinTransformer3D

from computed import SWIN
from counting import count_equal_blocks_once
from weights import shake, unset

# B, T, H, W: even, odd, non-square, smaller than the window in one or all axes, B > 1, still
SHAPES = [
    (1, 16, 64, 64),
    (2, 8, 56, 56),
    (1, 7, 50, 45),
    (1, 20, 64, 96),
    (2, 4, 32, 32),
    (1, 1, 40, 40),
    (1, 17, 30, 61),
    (1, 3, 5, 9),
    (1, 18, 120, 36),
]


def gradients(model, x):
    """Logits, and the gradients of a weighted sum of them: of the input and of every parameter."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    out = model(x)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).mean().backward()
    return out.detach(), x.grad, {k: p.grad for k, p in model.named_parameters()}


def assert_same_gradients(ours, theirs, x):
    """Same weights, same logits, same gradients through the layout."""
    (logits, dx, grads), (want, want_dx, want_grads) = gradients(ours, x), gradients(theirs, x)
    torch.testing.assert_close(logits, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dx, want_dx, rtol=1e-5, atol=1e-5)
    renamed = from_official(ours, want_grads)
    for key, grad in grads.items():
        torch.testing.assert_close(grad, renamed[key], rtol=1e-5, atol=1e-5, msg=lambda m: f"{key}: {m}")


def twins(name, patch):
    """torchvision's model and ours with the same weights. Base is as deep as small, which shows what depth does: at
    first whole, without weights, then with two blocks a stage."""
    video = name.startswith("video")
    package, theirs = (torchvision.models.video, "swin3d_") if video else (torchvision.models, "swin_")
    theirs = getattr(package, theirs + name.split("swin_")[1][0])
    shallow = {}
    if name.endswith("base"):
        with torch.device("meta"):
            ours = create(name)
            ours.load_state_dict(from_official(ours, theirs().state_dict()), strict=True)
        shallow = dict(depths=(2, 2, 2, 2))
        module = torchvision.models.video.swin_transformer if video else torchvision.models.swin_transformer
        build = "_swin_transformer3d" if video else "_swin_transformer"
        real = getattr(module, build)
        patch.setattr(module, build, lambda **settings: real(**settings | shallow))
    with unset():
        theirs, ours = theirs(), create(name, **shallow).eval()
    shake(theirs)
    ours.load_state_dict(from_official(ours, theirs.state_dict()), strict=True)
    return ours, theirs


@pytest.fixture(scope="module", params=["tiny", "small", "base"])
def pair(request):
    with pytest.MonkeyPatch.context() as patch:
        return request.param, *twins(f"video_swin_{request.param}", patch)


# The deep and the wide one differ from tiny in depth and width, which a small clip shows.
@pytest.mark.parametrize(
    "pair, shape",
    [
        *[("tiny", shape) for shape in SHAPES],
        *[(name, shape) for name in ("small", "base") for shape in ((1, 7, 50, 45), (1, 10, 32, 48))],
    ],
    indirect=["pair"],
    ids=str,
)
def test_video_swin_equals_torchvision(pair, shape):
    _, ours, theirs = pair
    B, T, H, W = shape
    torch.manual_seed(0)
    x = torch.randn(B, 3, T, H, W)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "pair, shape",
    [
        ("tiny", (2, 8, 32, 32)),
        ("tiny", (1, 7, 50, 45)),
        ("tiny", (1, 20, 40, 72)),
        ("small", (1, 9, 20, 36)),
        ("base", (1, 9, 20, 36)),
    ],
    indirect=["pair"],
    ids=str,
)
def test_video_swin_gradients_equal_torchvision(pair, shape):
    _, ours, theirs = pair
    B, T, H, W = shape
    assert_same_gradients(ours, theirs, torch.randn(B, 3, T, H, W))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, size", [("tiny", (224, 224)), ("tiny", (228, 268)), ("small", (224, 224)), ("base", (224, 224))]
)
def test_swin_equals_torchvision(name, size, monkeypatch):  # every stage map is at least 7 x 7
    ours, theirs = twins(f"swin_{name}", monkeypatch)
    x = torch.randn(2 if size == (228, 268) else 1, 3, *size, generator=torch.Generator().manual_seed(0))
    assert_same_gradients(ours, theirs, x)


@pytest.mark.parametrize(
    "name, settings",
    [
        ("swin_mini", {}),
        ("swin_mini", dict(shift=False)),
        ("video_swin_mini", {}),
        ("video_swin_mini", dict(window=(2, 4, 4))),
        ("video_swin_mini", dict(design="factorized")),
    ],
    ids=str,
)
def test_equal_blocks_counted_once_make_the_whole(name, settings):
    with torch.device("meta"):
        model = create(name, **settings)
    shape = (1, *ZOO[name].input)
    assert count_equal_blocks_once(model, shape) == count_equal_blocks_once(model, shape) == count_macs(model, shape)


@pytest.mark.parametrize("name", SWIN)
def test_parameters_and_macs(name):
    with torch.device("meta"):
        model = create(name)
    params, gmacs = SWIN[name]
    assert count_parameters(model) / 1e6 == pytest.approx(params, abs=6e-4)
    assert count_equal_blocks_once(model, (1, *ZOO[name].input)) / 1e9 == pytest.approx(
        gmacs, abs=0.06 if gmacs > 1000 else 6e-3
    )


def test_every_published_variant_is_checked():
    assert set(SWIN) == {n for n in ZOO if "swin" in n and not n.endswith("_mini")}


@pytest.mark.parametrize("window, gmacs", [((16, 7, 7), 105.70), ((8, 7, 7), 87.76), ((4, 7, 7), 78.80)])
def test_macs_of_the_temporal_window_ablation(window, gmacs):
    with torch.device("meta"):
        model = create("video_swin_tiny", window=window)
    assert count_equal_blocks_once(model, (1, 3, 32, 224, 224)) / 1e9 == pytest.approx(gmacs, abs=6e-3)


def test_stage_maps():
    model = create("video_swin_mini").eval()
    maps = model.features(torch.randn(2, 3, 16, 50, 64))
    D = model.layers[0].blocks[0].norm1.normalized_shape[0]
    assert [tuple(m.shape) for m in maps] == [(2, D, 8, 13, 16), (2, 2 * D, 8, 7, 8), (2, 4 * D, 8, 4, 4)]


# ------------------------------------------------------------ properties

sizes = st.lists(st.integers(1, 4), min_size=2, max_size=3)


@given(grid=sizes, data=st.data())
@settings(max_examples=40, deadline=None)
def test_partition_and_reverse_are_inverse(grid, data):
    window = tuple(data.draw(st.integers(1, 4)) for _ in grid)
    size = tuple(g * w for g, w in zip(grid, window))
    x = torch.arange(2 * torch.Size(size).numel() * 3.0).view(2, *size, 3)
    windows = window_partition(x, window)
    assert windows.shape == (2 * torch.Size(grid).numel(), torch.Size(window).numel(), 3)
    assert torch.equal(windows[0, 0], x[(0,) * (len(size) + 1)])
    assert torch.equal(window_reverse(windows, window, size), x)


def literal_shifted_attention(block, x):
    """The definition: cut the map at the shifted borders into whole and partial windows, attend in each."""
    B, T, H, W, C = x.shape
    out = torch.empty_like(x)
    cuts = []
    for n, w, s in zip((T, H, W), block.attn.window, block.attn.shift):
        edges = sorted({0, n, *range(s, n, w)}) if s else list(range(0, n + 1, w))
        cuts.append(list(zip(edges, edges[1:])))
    coords = torch.stack(torch.meshgrid(*[torch.arange(n) for n in (T, H, W)], indexing="ij"), -1)
    table = block.attn.relative_position_bias_table.view(*[2 * w - 1 for w in block.attn.window], -1)
    h = block.attn.num_heads
    groups = 0
    for t0, t1 in cuts[0]:
        for y0, y1 in cuts[1]:
            for x0, x1 in cuts[2]:
                groups += 1
                piece = x[:, t0:t1, y0:y1, x0:x1].reshape(B, -1, C)
                pos = coords[t0:t1, y0:y1, x0:x1].reshape(-1, 3)
                off = pos[:, None] - pos[None] + torch.tensor(block.attn.window) - 1
                bias = table[off[..., 0], off[..., 1], off[..., 2]].permute(2, 0, 1)  # (h, N, N)
                q, k, v = block.attn.qkv(piece).view(B, -1, 3, h, C // h).permute(2, 0, 3, 1, 4)
                attn = (q @ k.transpose(-1, -2) / (C // h) ** 0.5 + bias).softmax(-1)
                y = block.attn.proj((attn @ v).transpose(1, 2).reshape(B, -1, C))
                out[:, t0:t1, y0:y1, x0:x1] = y.view(B, t1 - t0, y1 - y0, x1 - x0, C)
    return out, groups


@given(grid=st.tuples(*[st.integers(2, 3)] * 3), window=st.tuples(*[st.integers(2, 4)] * 3), shifted=st.booleans())
@settings(max_examples=12, deadline=None)
def test_masked_rolled_attention_is_attention_in_the_shifted_windows(grid, window, shifted):
    block = shake(SwinBlock(8, 2, window, tuple(w // 2 * shifted for w in window)))
    size = [g * w for g, w in zip(grid, window)]
    x = torch.randn(2, *size, 8)
    want, groups = literal_shifted_attention(block, x)
    assert groups == (torch.Size([g + 1 for g in grid]).numel() if shifted else torch.Size(grid).numel())
    with torch.no_grad():
        torch.testing.assert_close(block.attn(x), want, rtol=1e-5, atol=1e-5)


def test_eight_cubed_tokens_make_27_shifted_windows():
    block = shake(SwinBlock(8, 2, (4, 4, 4), (2, 2, 2)))
    x = torch.randn(1, 8, 8, 8, 8)
    want, groups = literal_shifted_attention(block, x)
    assert groups == 27
    with torch.no_grad():
        torch.testing.assert_close(block.attn(x), want, rtol=1e-5, atol=1e-5)


def test_no_mask_where_nothing_shifts():
    """Stage 4 at 32 x 224 x 224: 16 x 7 x 7 tokens shift in time only, and half of the windows are masked."""
    mask = shift_mask((16, 7, 7), (8, 7, 7), (4, 0, 0), torch.device("cpu"), torch.float32)
    assert mask.shape == (2, 392, 392)
    assert [bool((m < 0).any()) for m in mask] == [False, True]
    assert (mask[1] < 0).float().mean() == 0.5


def test_relative_position_index_by_hand():
    index = relative_position_index((2, 2))
    assert index.tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    for window, rows in (((8, 7, 7), 2535), ((16, 7, 7), 5239), ((8, 12, 12), 7935)):
        index = relative_position_index(window)
        assert index.min() == 0 and index.max() == rows - 1 and len(index.unique()) == rows


def test_the_index_slice_is_right_only_when_time_shrank():
    full = relative_position_index((8, 7, 7))

    def same(clamped):
        N = torch.Size(clamped).numel()
        small, sliced = relative_position_index(clamped), full[:N, :N]
        # equal geometry: the same pairs of tokens share an entry
        return all(len(sliced[small == i].unique()) == 1 for i in small.unique()) and len(sliced.unique()) == len(
            small.unique()
        )

    assert same((4, 7, 7))
    assert not any(same(c) for c in ((8, 4, 4), (8, 7, 4), (4, 4, 7)))


@given(T=st.integers(1, 12), H=st.integers(1, 40), W=st.integers(1, 40), B=st.integers(1, 2))
@settings(max_examples=25, deadline=None)
def test_any_size_goes_in(T, H, W, B):
    model = create("video_swin_mini", num_classes=5).eval()
    with torch.no_grad():
        assert model(torch.randn(B, 3, T, H, W)).shape == (B, 5)


def test_samples_do_not_see_each_other():
    model = shake(create("video_swin_mini"))
    x = torch.randn(3, 3, 10, 40, 36)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-5, atol=1e-5)


def test_bias_cache_follows_the_weights():
    model = shake(create("video_swin_mini"))
    x = torch.randn(1, 3, 8, 32, 32)
    with torch.inference_mode():
        before = model(x)
    assert torch.allclose(before, model(x).detach(), atol=1e-6)  # cached without, gathered with gradients
    with torch.no_grad():
        table = model.layers[0].blocks[0].attn.relative_position_bias_table
        table.add_(torch.randn(len(table), 1))
        changed = model(x)
    assert not torch.allclose(before, changed, atol=1e-4)
    assert torch.allclose(changed, model(x).detach(), atol=1e-6)
    model(x).sum().backward()  # masks made in inference mode still serve


def test_drop_path_schedule_and_expectation():
    model = create("video_swin_mini", drop_path=0.2)
    rates = [b.drop_path.rate for s in model.layers for b in s.blocks]
    assert rates[0] == 0 and rates[-1] == pytest.approx(0.2)
    assert [b - a for a, b in zip(rates, rates[1:])] == pytest.approx([0.2 / (len(rates) - 1)] * (len(rates) - 1))
    drop = model.layers[-1].blocks[-1].drop_path.train()
    torch.manual_seed(0)
    y = drop(torch.ones(20000, 2, 3))
    assert torch.equal(y, y[:, :1, :1].expand_as(y))  # whole samples
    assert set(y.unique().tolist()) == {0.0, 1.25}
    assert y.mean().item() == pytest.approx(1, abs=0.02)


# ------------------------------------------------------------ checkpoints and inflation


def test_official_round_trip_with_wrappers_and_buffers():
    model = shake(create("video_swin_mini"))
    official = to_official(model)
    assert "cls_head.fc_cls.weight" in official and "backbone.patch_embed.proj.weight" in official
    official["backbone.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(64, 64, dtype=torch.long)
    wrapped = {"meta": {}, "state_dict": {"module." + k: v for k, v in official.items()}}
    state = from_official(create("video_swin_mini"), wrapped)
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


def test_wrong_checkpoint_lists_what_differs():
    model = create("video_swin_mini")
    official = to_official(model)
    official["backbone.extra.weight"] = official.pop("backbone.norm.bias")
    official["cls_head.fc_cls.bias"] = torch.zeros(3)
    with pytest.raises(ValueError) as error:
        from_official(model, official)
    for part in (
        "missing backbone.norm.bias",
        "unexpected backbone.extra.weight",
        "cls_head.fc_cls.bias has shape (3,), wanted (8,)",
    ):
        assert part in str(error.value)


def image_twin():
    """An image Swin and a video Swin of the same widths; every stage's map is larger than the window."""
    torch.manual_seed(0)
    image = shake(SwinTransformer(64, embed_dim=12, depths=(2, 2), num_heads=(2, 4), window=4, num_classes=5))
    video = SwinTransformer3D(embed_dim=12, depths=(2, 2), num_heads=(2, 4), window=(4, 4, 4), num_classes=5).eval()
    return image, video


def test_an_inflated_model_sees_a_still_clip_as_the_image():
    image, video = image_twin()
    video.load_state_dict(video.inflate({"model": image.state_dict()}))
    assert all(torch.equal(v, video.state_dict()[k]) for k, v in inflate_swin(video, image.state_dict()).items())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for want, got in zip(image.stages(x), video.stages(x[:, :, None].repeat(1, 1, 16, 1, 1))):
            torch.testing.assert_close(got, want[:, None].expand_as(got), rtol=1e-4, atol=1e-4)


def test_centre_inflation():
    weight = torch.randn(6, 3, 4, 4)
    centre = inflate_patch(weight, 2, "centre")
    assert torch.equal(centre[:, :, 1], weight) and not centre[:, :, 0].any()
    average = inflate_patch(weight, 2)
    assert torch.equal(average.sum(2), weight) and torch.equal(average[:, :, 0], average[:, :, 1])
    table = torch.randn(49, 3)
    out = inflate_bias_table(table, (4, 4, 4), "centre").view(7, 49, 3)
    assert torch.equal(out[3], table) and torch.allclose(out[0], table - 4.6)
    with pytest.raises(ValueError, match="'average' or 'centre'"):
        inflate_patch(weight, 2, "middle")


# ------------------------------------------------------------ errors


@pytest.mark.parametrize(
    "x, words",
    [
        (torch.zeros(3, 8, 32, 32), ["4 axes", "(3, 8, 32, 32)", "(B, C=3, T, H, W)", "x[None]"]),
        (torch.zeros(1, 8, 3, 32, 32), ["8 channels", "(1, 8, 3, 32, 32)", "(B, C=3, T, H, W)"]),
        (torch.zeros(1, 3, 8, 32, 32, dtype=torch.uint8), ["uint8", "(1, 3, 8, 32, 32)", "floating point"]),
        (torch.zeros(1, 3, 0, 32, 32), ["empty along T", "(1, 3, 0, 32, 32)"]),
        (torch.zeros(1, 3, 8, 0, 32), ["empty along H"]),
        (torch.zeros(1, 3, 8, 32, 0), ["empty along W"]),
    ],
)
def test_wrong_input_says_what_came_and_what_was_wanted(x, words):
    model = create("video_swin_mini")
    for call in (model, model.features):
        with pytest.raises(ValueError) as error:
            call(x)
        assert all(w in str(error.value) for w in words), error.value


def test_wrong_configurations():
    with pytest.raises(ValueError, match="did you mean video_swin_tiny"):
        create("video_swn_tiny")
    with pytest.raises(ValueError, match="has no setting windw"):
        create("video_swin_tiny", windw=3)
    with pytest.raises(ValueError, match="24 is not divisible by num_heads 5"):
        create("video_swin_mini", num_heads=(5, 4, 8))
    with pytest.raises(ValueError, match="at least 1"):
        create("video_swin_mini", window=(0, 4, 4))
    with pytest.raises(ValueError, match="different numbers of stages"):
        create("video_swin_mini", depths=(2, 2))
