"""The recorded weights are those of the definition, for every family, and recording changes nothing."""

from math import prod

import pytest
import torch
import torch.nn.functional as F
from test_fast import literal_positions
from torch import nn

from vt_course.models import ZOO, create
from vt_course.models.attention import recording, token_places
from vt_course.models.mvit import PoolingAttention
from vt_course.models.swin import WindowAttention
from vt_course.models.uniformer import UniFormer

from solutions.attention_and_cost import weights as literal_weights
from weights import shake

MODELS = {name: lambda name=name: create(name) for name in ZOO if name.endswith("_mini")} | {
    f"timesformer {scheme}": lambda scheme=scheme: create("timesformer_mini", attention=scheme)
    for scheme in ("joint", "local_global", "axial")
}
MODELS |= {
    "swin padded": lambda: create("swin_mini"),
    "video swin padded": lambda: create("video_swin_mini"),
    "video swin split": lambda: create("video_swin_mini", design="split"),
    "video swin factorized": lambda: create("video_swin_mini", design="factorized"),
    "mvit without class token": lambda: create("mvit_mini", class_token=False),
    "uniformer divided": lambda: create("uniformer_mini", divided=True),
    "uniformer windows": lambda: UniFormer(
        2, 3, 8, (1, 1, 2, 1), (8, 8, 16, 16), head_dim=8, kinds="LLWH", window=3, mlp_ratio=1
    ),
}
SIZES = {"uniformer windows": (3, 64, 80), "video swin padded": (3, 8, 36, 24), "swin padded": (3, 48, 56)}


def built(name):
    """A model of `MODELS` with loud weights, and a clip for it."""
    model = MODELS[name]()
    size = SIZES.get(name) or ZOO.get(name, ZOO["swin_mini" if getattr(model, "dims", 3) == 2 else "mvit_mini"]).input
    return shake(model.double()), torch.randn(1, *size, dtype=torch.float64)


@pytest.fixture(scope="module", params=MODELS)
def pass_of(request):
    """(model, the layers of one pass, per layer: what entered it, and what entered its last projection)."""
    torch.manual_seed(0)
    model, clip = built(request.param)
    seen = {}

    def note(name):
        return lambda module, args, out: seen.setdefault(name, []).append((args[0], out)) and None

    with torch.no_grad():
        quiet = model(clip)
    watched = [(n, m) for n, m in model.named_modules() if n.endswith(("attn", "proj", "_time"))]
    hooks = [module.register_forward_hook(note(name)) for name, module in watched]
    with recording(model) as layers:
        loud = model(clip)
    for hook in hooks:
        hook.remove()
    assert torch.equal(quiet, loud)
    return model, layers, [(seen[layer.name][0][0], seen[f"{layer.name}.proj"][0][0]) for layer in layers]


def test_weights_times_values_are_what_the_layer_projects(pass_of):
    _, layers, tensors = pass_of
    for layer, (_, projected) in zip(layers, tensors, strict=True):
        assert layer.weights.min() >= 0
        torch.testing.assert_close(layer.weights.sum(-1), torch.ones_like(layer.weights[..., 0]), rtol=0, atol=1e-12)
        out = layer.weights @ layer.values  # (n, h, N, d)
        if getattr(layer.module, "residual", False):  # MViTv2 adds the pooled queries before the projection
            out = out + torch.cat([call.q for call in layer.calls]) * layer.module.on_map
        torch.testing.assert_close(out.transpose(1, 2).flatten(2), projected.flatten(2), rtol=1e-12, atol=1e-12)


def literal(layer, entered):
    """The definition, on the tokens that `token_places` names: softmax(q k^T / sqrt(d) + bias), (n, h, N, M)."""
    module, places = layer.module, token_places(layer)
    if isinstance(module, PoolingAttention):
        q, k = (module.pooled(part, name).transpose(1, 2) for name, part in zip("qk", module.qkv(entered).chunk(3, -1)))
        if not module.rel_pos:
            return literal_weights(q, k)
        one = torch.eye(k.shape[2], dtype=k.dtype).expand(*k.shape[:2], -1, -1)
        return literal_positions(q, k, one, module.relative_scores(q), module.size_kv)
    if isinstance(module, WindowAttention):
        tokens = F.pad(entered.flatten(0, -2), (0, 0, 0, 1))  # after the last: the zeros of padding
    else:  # the tokens of UniFormer and TimeSformer come to the module in their groups
        tokens = torch.empty(int(places.queries.max()) + 1, entered.shape[-1], dtype=entered.dtype)
        tokens[places.queries.flatten()] = entered.flatten(0, 1)
    x = tokens[places.keys]  # (n, M, C)
    q, k, _ = module.qkv(x).unflatten(-1, (3, layer.heads, -1)).permute(2, 0, 3, 1, 4)
    if not isinstance(module, WindowAttention) or (places.queries == len(tokens) - 1).any():
        return None if isinstance(module, WindowAttention) else literal_weights(q, k)
    size = tuple(entered.shape[1:-1])
    window, _ = module.window_and_shift(size)
    at = torch.stack(torch.unravel_index(places.keys, size), -1)  # (n, N, axes): where each token is on the map
    offset = at[:, :, None] - at[:, None]  # (n, N, N, axes)
    near = (offset.abs() < torch.tensor(window)).all(-1)  # else the roll brought them together
    if window == module.window:
        sides = [2 * w - 1 for w in window]
        row = sum((offset[..., a] + w - 1) * prod(sides[a + 1 :]) for a, w in enumerate(window))
        bias = module.relative_position_bias_table[row * near].movedim(-1, 1)  # (n, h, N, N)
    else:  # of a smaller window the official code takes the corner of its index
        bias = module.bias(len(places.keys[0]))
    scores = q @ k.mT / q.shape[-1] ** 0.5 + bias
    return scores.masked_fill(~near[:, None], -torch.inf).softmax(-1)


def padded(layers) -> bool:
    """Whether some layer of windows has padding. There, `literal` has an answer only for the layers without."""
    windows = [token_places(layer) for layer in layers if isinstance(layer.module, WindowAttention)]
    return any((places.keys == prod(places.size_k)).any() for places in windows)


def test_weights_are_those_of_the_definition_at_the_places(pass_of):
    _, layers, tensors = pass_of
    checked = []
    with torch.no_grad():
        for layer, (entered, _) in zip(layers, tensors, strict=True):
            want = literal(layer, entered)
            if want is not None:
                torch.testing.assert_close(layer.weights, want, rtol=0, atol=1e-12)
                checked.append(layer.name)
    assert checked and (padded(layers) or len(checked) == len(layers))


def test_every_token_of_a_map_asks_and_each_place_is_named_once(pass_of):
    for layer in pass_of[1]:
        places = token_places(layer)
        tokens = prod(places.size_q)
        count = torch.bincount(places.queries.flatten(), minlength=tokens)[:tokens]
        assert (count == 1).all() and layer.weights.shape[0] == len(places.queries)
        assert layer.weights.shape[2:] == (places.queries.shape[1], places.keys.shape[1])
        assert places.keys.max() <= prod(places.size_k) + places.cls


def test_groups_hold_the_tokens_that_the_paper_names():
    model, clip = built("timesformer_mini")
    with recording(model) as layers:
        model(clip)
    (T, H, W), time, space = token_places(layers[0]).size_q, token_places(layers[0]), token_places(layers[1])
    assert {tuple(sorted((group % (H * W)).unique().tolist())) for group in time.queries} == {
        (place,) for place in range(H * W)
    }
    for t, group in enumerate(space.queries):  # a frame and the class token
        assert group[0] == T * H * W and sorted(group[1:].tolist()) == list(range(t * H * W, (t + 1) * H * W))


@pytest.mark.parametrize("name", ["video_swin_mini", "mvit_v2_mini", "timesformer_mini"])
def test_in_float32_and_a_batch(name):
    model, clip = create(name).eval(), torch.randn(1, *ZOO[name].input)
    with recording(model) as layers:
        model(clip.expand(2, -1, -1, -1, -1))
    exact = model.double()
    with recording(exact) as double:
        exact(clip.double().expand(2, -1, -1, -1, -1))
    torch.testing.assert_close(layers[0].weights.double(), double[0].weights, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=f"{layers[0].name} saw .* record one clip at a time"):
        token_places(layers[0])


def test_recording_leaves_nothing_behind_even_after_an_error():
    model, clip = built("uniformer_mini")
    with pytest.raises(ValueError, match="too small"), recording(model):
        model(clip[..., :8, :8])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()) and torch.is_grad_enabled()
    with recording(model) as layers:
        model(clip)
    count = len(layers)
    model(clip)
    assert len(layers) == count and model(clip).requires_grad


class Masked(nn.Module):
    """Somebody else's attention, with a mask of booleans, causal, and a scale of its own."""

    def forward(self, x):
        allowed = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(1)
        y = F.scaled_dot_product_attention(x, x, x, attn_mask=allowed, scale=0.3)
        return F.scaled_dot_product_attention(y, x, x, is_causal=True)


def test_another_network_is_recorded_but_its_places_are_not_known():
    x, model = torch.randn(2, 5, 5, 4, dtype=torch.float64), Masked()  # (B, h, N, d)
    with recording(model) as layers:
        out = model(x)
    (layer,) = layers
    first, second = layer.calls
    assert torch.equal(layer.weights[2:].triu(1), torch.zeros_like(layer.weights[2:]))
    torch.testing.assert_close(layer.weights[2:] @ second.v, out, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.weights[:2] @ first.v, second.q, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="is a Masked: only the layers of this course's models"):
        token_places(layer)
