"""Every fast piece of the models equals its literal expression, forward and gradient, and none depends on the size of
the batch."""

import statistics
import time
from itertools import product
from math import prod

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter

from vt_course.models import ZOO, create, fast
from vt_course.models.swin import shift_mask, window_partition, window_reverse

from weights import shake


def results(piece, inputs):
    """What a piece returns, and the gradients of its inputs (of a fixed weighting of what it returns)."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    out = piece(*inputs)
    weights = torch.cos(torch.arange(out.numel(), dtype=out.dtype)).view_as(out)
    return [out.detach(), *torch.autograd.grad(out, inputs, weights)]


def assert_equal(piece, literal, *inputs, tolerance=1e-10):
    for got, want in zip(results(piece, inputs), results(literal, inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


# ------------------------------------------------------------ rolled windows

rolled_maps = st.lists(st.tuples(st.integers(2, 3), st.integers(2, 3), st.booleans()), min_size=1, max_size=3).filter(
    lambda axes: any(shifted for _, _, shifted in axes)
)


def rolled(x, shift, sign):
    return torch.roll(x, [sign * s for s in shift], [a + 1 for a in range(len(shift))])


@given(axes=rolled_maps, B=st.integers(1, 3))
@settings(max_examples=12, deadline=None)
def test_cut_and_paste(axes, B):
    """The windows of the rolled map with their masks, in another order; and back."""
    window = tuple(w for _, w, _ in axes)
    shift = tuple(w // 2 * shifted for _, w, shifted in axes)
    size = tuple(n * w for n, w, _ in axes)
    x = torch.arange(B * prod(size) * 2.0, dtype=torch.float64).view(B, *size, 2)  # every number once
    windows, groups, order = fast.cut(x, window, shift)
    want = window_partition(rolled(x, shift, -1), window)
    place = {tuple(w.flatten().tolist()): i for i, w in enumerate(want)}
    at = torch.tensor([place[tuple(w.flatten().tolist())] for w in windows])  # where each stands in `want`
    assert at.sort().values.tolist() == list(range(len(want)))
    masks = shift_mask(size, window, shift, dtype=x.dtype).repeat(B, 1, 1)  # (B·nW, N, N)
    assert len(groups) == 2 ** sum(map(bool, shift)) and groups[0][1] is None
    got = torch.cat(
        [(torch.zeros_like(masks[0]) if mask is None else mask).expand(count, -1, -1) for count, mask in groups]
    )
    assert torch.equal(got, masks[at])
    assert_equal(
        lambda x: fast.cut(x, window, shift)[0], lambda x: window_partition(rolled(x, shift, -1), window)[at], x
    )
    assert_equal(
        lambda windows: fast.paste(windows, size, order),
        lambda windows: rolled(window_reverse(windows[at.argsort()], window, size), shift, 1),
        windows,
    )


def literal_attention(qkv, bias, groups):
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B·nW, h, N, d)
    masks = torch.cat(
        [torch.zeros(count, *bias.shape[1:]) if mask is None else mask.expand(count, -1, -1) for count, mask in groups]
    )
    return ((q @ k.mT / q.shape[-1] ** 0.5 + bias + masks[:, None]).softmax(-1) @ v).transpose(1, 2)


GROUPS = {"one": [(7, None)], "two": [(5, None), (2, -3.0)], "four": [(3, None), (1, -100.0), (2, -1.0), (1, -2.0)]}


@pytest.mark.parametrize("kept", [2**23, 0], ids=["scores kept", "scores computed again"])
@pytest.mark.parametrize("groups", GROUPS)
def test_attention(groups, kept, monkeypatch):
    monkeypatch.setattr(fast, "KEPT_SCORES", kept)
    groups = [(count, factor and factor * torch.rand(6, 6, dtype=torch.float64)) for count, factor in GROUPS[groups]]
    qkv, bias = random(7, 6, 3, 2, 4), random(2, 6, 6)
    assert_equal(
        lambda qkv, bias: fast.attention(qkv, bias, groups),
        lambda qkv, bias: literal_attention(qkv, bias, groups),
        qkv,
        bias,
    )
    no_bias = torch.zeros(1, 6, 6)
    assert_equal(
        lambda qkv: fast.attention(qkv, None, groups), lambda qkv: literal_attention(qkv, no_bias, groups), qkv
    )
    with torch.no_grad():
        torch.testing.assert_close(
            fast.attention(qkv, bias, groups), literal_attention(qkv, bias, groups), rtol=1e-10, atol=1e-10
        )


def test_scores_are_computed_again_a_few_windows_at_a_time(monkeypatch):
    parts = []
    monkeypatch.setattr(fast, "KEPT_SCORES", 0)
    monkeypatch.setattr(fast, "heads_first", lambda qkv, split=fast.heads_first: parts.append(len(qkv)) or split(qkv))
    groups = [(70, None), (9, -torch.rand(64, 64, dtype=torch.float64))]
    assert_equal(
        lambda qkv, bias: fast.attention(qkv, bias, groups),
        lambda qkv, bias: literal_attention(qkv, bias, groups),
        random(79, 64, 3, 2, 4),
        random(2, 64, 64),
    )
    assert parts == [32, 32, 6, 9]  # 2^18 scores, 2 heads of 64 x 64


# ------------------------------------------------------------ relative positions


def literal_positions(q, k, v, scores, size_k):
    """For every key its place on each axis, and the scores there summed."""
    places = dict(zip("thw", torch.tensor(list(product(*map(range, size_k)))).unbind(1)))  # 3 x (Nk,)
    E = sum(of.flatten(2, 4)[..., places[axis]] for axis, of in scores.items())  # (B, h, N', Nk)
    cls = q.shape[2] - E.shape[2]
    return F.scaled_dot_product_attention(q, k, v, F.pad(E, (cls, 0, cls, 0)))


@pytest.mark.parametrize("cls", [0, 1])
@pytest.mark.parametrize("axes", ["thw", "hw", "t"])
def test_attention_with_positions(axes, cls):
    size_q, size_k = (2, 3, 2), (1, 2, 4)
    q, k, v = (
        random(2, 2, cls + prod(size_q), 5),
        random(2, 2, cls + prod(size_k), 5),
        random(2, 2, cls + prod(size_k), 5),
    )
    scores = [random(2, 2, *size_q, n) for axis, n in zip("thw", size_k) if axis in axes]
    places = fast.places_of_keys(axes, size_k, cls)

    def piece(q, k, v, *scores):
        return fast.attention_with_positions(q, k, v, dict(zip(axes, scores)), size_k, places)

    def literal(q, k, v, *scores):
        return literal_positions(q, k, v, dict(zip(axes, scores)), size_k)

    assert_equal(piece, literal, q, k, v, *scores)
    with torch.no_grad():  # another way
        torch.testing.assert_close(piece(q, k, v, *scores), literal(q, k, v, *scores), rtol=1e-10, atol=1e-10)


# ------------------------------------------------------------ depthwise convolution


@given(B=st.integers(1, 2), C=st.integers(1, 3), dims=st.integers(2, 3), data=st.data())
@settings(max_examples=60, deadline=None)
def test_depthwise(B, C, dims, data):
    """For any size, kernel and stride: odd kernels at small strides go one way, all others another."""
    sides, strides = data.draw(st.sampled_from([([3, 5, 7], [1, 2]), ([1, 2, 3, 5, 9], [1, 2, 3, 8])]))
    kernel, stride = (tuple(data.draw(st.sampled_from(of)) for _ in range(dims)) for of in (sides, strides))
    size = [data.draw(st.integers(max(1, k % 2 == 0), 9)) for k in kernel]
    conv = {2: F.conv2d, 3: F.conv3d}[dims]
    assert_equal(
        lambda x, w, b: fast.depthwise(x, w, b, stride),
        lambda x, w, b: conv(x, w, b, stride, [k // 2 for k in kernel], groups=C),
        random(B, C, *size),
        random(C, 1, *kernel),
        random(C),
    )


# ------------------------------------------------------------ the size of the batch

# Every mini with one stage or fewer blocks, because tracing takes a while for each; the windows of both Swins shift.
MINIS = {
    "swin_mini": ((3, 32, 32), dict(depths=(2,), num_heads=(2,))),
    "video_swin_mini": ((3, 4, 48, 48), dict(depths=(2,), num_heads=(2,))),
    "mvit_mini": ((3, 8, 32, 32), dict(depth=1, dim_mul={}, head_mul={}, q_stride={0: (1, 2, 2)})),
    "mvit_v2_mini": ((3, 8, 32, 32), dict(depth=1, dim_mul={}, head_mul={}, q_stride={0: (1, 2, 2)})),
    "timesformer_mini": ((3, 8, 32, 32), dict(depth=1)),
    "vit_frames_mini": ((3, 8, 32, 32), dict(depth=1)),
    "uniformer_mini": ((3, 4, 32, 32), dict(depths=(1, 1, 1, 1))),
}


def test_every_mini_is_here():
    assert set(MINIS) == {name for name in ZOO if name.endswith("_mini")}


@pytest.mark.dear
@pytest.mark.parametrize("name", MINIS)
@pytest.mark.slow
@torch.no_grad()
def test_one_exported_program_serves_every_batch(name):
    """Any number of clips but one, which torch.export treats apart. And the model remembers nothing of the export."""
    shape, settings = MINIS[name]
    model = shake(create(name, **settings))
    program = torch.export.export(
        model, (torch.randn(2, *shape),), dynamic_shapes=({0: torch.export.Dim("B")},)
    ).module()
    for B in (3, 5):
        x = torch.randn(B, *shape)
        torch.testing.assert_close(program(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.dear
@pytest.mark.parametrize("name", ["video_swin_mini", "mvit_v2_mini"])  # the others were tried by hand
@pytest.mark.slow
def test_another_batch_size_compiles_nothing_anew(name):
    """In training, with the batch axis marked as one that changes. Of an unmarked one PyTorch learns from the second
    size that it changes: it compiles once more, and then no more."""
    shape, settings = MINIS[name]
    model, counter = shake(create(name, **settings)), CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for B in (2, 3, 5):
        x = torch.randn(B, *shape)
        torch._dynamo.mark_dynamic(x, 0)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)
    assert counter.frame_count == 1
    torch._dynamo.reset()


# ------------------------------------------------------------ how much faster: python tests/test_fast.py


def times_as_fast(name, piece, literal, *inputs, turns=9):
    """Print the median ratio of the times of literal and piece, forward and then forward with backward. They take
    turns."""

    def seconds(work):
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    inputs = [x.requires_grad_() for x in inputs]
    grad = torch.ones_like(literal(*inputs))
    with_backward = [lambda f=f: torch.autograd.grad(f(*inputs), inputs, grad) for f in (literal, piece)]
    for grads, works in ((False, [lambda f=f: f(*inputs) for f in (literal, piece)]), (True, with_backward)):
        with torch.set_grad_enabled(grads):
            ratios = [[seconds(work) for work in works] for _ in range(turns + 1)][1:]
        print(
            name,
            "forward, backward:" if grads else "forward:",
            f"{statistics.median(a / b for a, b in ratios):.2f}",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    window, shift, size = (8, 7, 7), (0, 3, 3), (8, 56, 56)  # stage 1 of Video Swin-T, 16 frames
    masks = shift_mask(size, window, shift)  # (64, 392, 392)
    windows, groups, order = fast.cut(torch.zeros(1, *size, 96), window, shift)
    times_as_fast(
        "roll and cut, 8 x 56 x 56 x 96",
        lambda x: fast.paste(fast.cut(x, window, shift)[0], size, order),
        lambda x: rolled(
            window_reverse(window_partition(rolled(x, shift, -1), window).contiguous(), window, size), shift, 1
        ),
        torch.randn(1, *size, 96),
    )

    def written_out(qkv, bias, mask):
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return ((q @ k.mT * q.shape[-1] ** -0.5 + (bias + mask[:, None])).softmax(-1) @ v).transpose(1, 2)

    times_as_fast(
        "attention, 64 windows of 392",
        lambda qkv, bias: fast.attention(qkv, bias, groups),
        lambda qkv, bias: written_out(qkv, bias, masks),
        torch.randn(64, 392, 3, 3, 32),
        torch.randn(3, 392, 392),
    )
    image, (_, few, _) = shift_mask((56, 56), (7, 7), (3, 3)), fast.cut(torch.zeros(1, 56, 56, 1), (7, 7), (3, 3))
    times_as_fast(
        "attention, 64 windows of 49",
        lambda qkv, bias: fast.attention(qkv, bias, few),
        lambda qkv, bias: written_out(qkv, bias, image),
        torch.randn(64, 49, 3, 3, 32),
        torch.randn(3, 49, 49),
    )

    size_q, size_k = (8, 28, 28), (8, 7, 7)  # stage 2 of MViTv2-S, 16 frames
    q, k, v = (torch.randn(1, 2, 1 + prod(s), 96) for s in (size_q, size_k, size_k))
    places, scores = fast.places_of_keys("thw", size_k, 1), [torch.randn(1, 2, *size_q, n) for n in size_k]
    times_as_fast(
        "positions, 6272 queries, 392 keys",
        lambda q, k, v, *of: fast.attention_with_positions(q, k, v, dict(zip("thw", of)), size_k, places),
        lambda q, k, v, *of: literal_positions(q, k, v, dict(zip("thw", of)), size_k),
        q,
        k,
        v,
        *scores,
    )
    for C, kernel, stride in ((64, (5, 5, 5), (1, 1, 1)), (96, (3, 3, 3), (1, 2, 2))):  # UniFormer-S stage 1, MViT-B
        x = torch.randn(1, C, 8, 56, 56).contiguous(memory_format=torch.channels_last_3d)
        times_as_fast(
            f"depthwise, filters {kernel}, stride {stride}, {C} channels of 8 x 56 x 56",
            lambda x, w: fast.depthwise(x, w, None, stride),
            lambda x, w: F.conv3d(x, w, None, stride, [n // 2 for n in kernel], groups=C),
            x,
            torch.randn(C, 1, *kernel),
        )
