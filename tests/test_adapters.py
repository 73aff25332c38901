"""What people wrap around a model: hooks, autocast, functional calls, copies, checkpointing, int8, replicas,
compilers."""

import shutil
import warnings
from collections import OrderedDict
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vt_course.models import create

from weights import shake

pytestmark = pytest.mark.slow

INPUT = {
    "swin_mini": (3, 64, 64),
    "video_swin_mini": (3, 4, 48, 48),
    "mvit_mini": (3, 8, 32, 32),
    "mvit_v2_mini": (3, 8, 32, 32),
    "timesformer_mini": (3, 8, 32, 32),
    "uniformer_mini": (3, 4, 32, 32),
}
# The same networks with fewer blocks: a graph is traced for every one.
SHALLOW = {
    "mvit_mini": dict(depth=2, dim_mul={1: 2}, head_mul={1: 2}, q_stride={1: (1, 2, 2)}),
    "mvit_v2_mini": dict(depth=2, dim_mul={1: 2}, head_mul={1: 2}, q_stride={0: (1, 1, 1), 1: (1, 2, 2)}),
    "timesformer_mini": dict(depth=1),
    "uniformer_mini": dict(depths=(1, 1, 1, 1)),
}
each_mini = pytest.mark.parametrize("name", INPUT)


def make(name, **settings):
    return shake(create(name, **settings)), torch.randn(2, *INPUT[name])


def gradients(model, x, run=None):
    """Logits, and the gradients of a weighted sum of them."""
    model.zero_grad()
    out = model(x) if run is None else run(x)
    (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    return out.detach().float(), {k: p.grad for k, p in model.named_parameters()}


def assert_same(a, b, tolerance=1e-5):
    torch.testing.assert_close(a[0], b[0], rtol=tolerance, atol=tolerance)
    assert a[1].keys() == b[1].keys()
    for key in a[1]:
        torch.testing.assert_close(
            a[1][key], b[1][key], rtol=tolerance, atol=tolerance * max(1.0, b[1][key].abs().max().item())
        )


@each_mini
@pytest.mark.parametrize("grad", [True, False], ids=["train", "no_grad"])
def test_every_leaf_module_is_called_and_what_a_hook_returns_counts(name, grad):
    """An adapter, as of LoRA, adds to the output of a Linear: each must reach the logits."""
    (model, x), called = make(name), set()
    leaves = {k: m for k, m in model.named_modules() if not list(m.children())}
    for key, module in leaves.items():
        module.register_forward_hook(lambda m, args, out, key=key: called.add(key))
    with torch.set_grad_enabled(grad):
        before = model(x)
        assert called == set(leaves)
        for key, module in leaves.items():
            if key.endswith("qkv"):
                handle = module.register_forward_hook(
                    lambda m, args, out: out + args[0].mean(-1, keepdim=True) + torch.linspace(-1, 1, out.shape[-1])
                )
                assert not torch.equal(model(x), before), key
                handle.remove()


@each_mini
def test_bf16_autocast_trains(name):
    model, x = make(name)
    want, want_grads = gradients(model, x)

    def autocast(x):
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    got, grads = gradients(model, x, autocast)
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.05 * want.std().item())
    for key, grad in want_grads.items():
        assert grads[key].dtype == grad.dtype == torch.float32
    flat, want = (torch.cat([g.flatten() for g in gs.values()]) for gs in (grads, want_grads))
    assert torch.cosine_similarity(flat, want, dim=0) > 0.995


@each_mini
def test_functional_calls_and_the_transforms_of_torch_func(name):
    model, x = make(name)
    out, grads = gradients(model, x)
    other = shake(create(name), seed=1)
    weights = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        torch.testing.assert_close(torch.func.functional_call(other, weights, (x,)), out, rtol=1e-5, atol=1e-5)

    def loss(params):
        out = torch.func.functional_call(model, params, (x,))
        return (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum(), out

    transformed, out_again = torch.func.grad(loss, has_aux=True)({k: p.detach() for k, p in model.named_parameters()})
    assert_same((out_again.detach(), transformed), (out, grads), 1e-4)


@each_mini
def test_a_copy_is_the_model_and_has_its_own_weights(name):
    model, x = make(name)
    want = gradients(model, x)
    copy = deepcopy(model)
    assert_same(gradients(copy, x), want)
    with torch.no_grad():
        for p in copy.parameters():
            p.zero_()
        torch.testing.assert_close(model(x), want[0], rtol=1e-5, atol=1e-5)


@each_mini
@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
def test_activation_checkpointing_changes_no_gradient(name, reentrant):
    model, x = make(name)
    want = gradients(model, x.requires_grad_())
    blocks = [m for m in model.modules() if type(m).__name__.endswith("Block")]
    assert blocks
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=reentrant)
    assert_same(gradients(model, x), want)


@each_mini
def test_dynamic_int8_takes_every_linear(name):
    model, x = make(name)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.ao is on its way to another package
        small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
        want, got = model(x).flatten(), small(x).flatten()
    assert not any(type(m) is nn.Linear for m in small.modules())
    assert torch.cosine_similarity(got, want, dim=0) > 0.97


def replica(module):
    """What DataParallel hands to each device: shallow copies of all modules that hold plain tensors, not parameters."""
    copy = module._replicate_for_data_parallel()
    for key, p in module._parameters.items():
        setattr(copy, key, None if p is None else p.view_as(p))
    for key, b in module._buffers.items():
        copy._buffers[key] = b
    copy._modules = OrderedDict(
        (key, child if child is None else replica(child)) for key, child in module._modules.items()
    )
    return copy


@each_mini
def test_a_replica_has_no_parameters_and_gives_the_gradients_of_the_model(name):
    model, x = make(name)
    want = gradients(model, x)
    assert not list(replica(model).parameters())
    assert_same(gradients(model, x, replica(model)), want)


@pytest.mark.dear
@pytest.mark.parametrize("name", SHALLOW)
def test_a_compiled_graph_gives_the_same_gradients(name):
    """Traced and differentiated as torch.compile does, with PyTorch's own kernels. Swin and Video Swin:
    tests/test_video_swin_designs.py."""
    model, x = make(name, **SHALLOW[name])
    want = gradients(model, x)
    assert_same(gradients(model, x, torch.compile(model, backend="aot_eager")), want, 1e-4)
    torch.compiler.reset()


@pytest.mark.dear
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile makes C++ of a graph")
def test_a_graph_made_to_c_gives_the_same_logits():
    """One family only: the C++ compiler takes most of a minute for each."""
    model, x = make("timesformer_mini", **SHALLOW["timesformer_mini"])
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model)(x), model(x), rtol=1e-4, atol=1e-4)
    torch.compiler.reset()
