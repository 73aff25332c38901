"""Every mechanism that a notebook teaches changes the output of its mini when it is switched off.

A mechanism can be in a small model and do nothing: a window that covers an axis never shifts along it. So each switch
is thrown on weights that are all random (zero-initialised ones, too), in float64. The logits must change by more than a
hundredth of their spread over clips.
"""

import itertools

import pytest
import torch
from torch import nn

from vt_course.models import ZOO, create, swin, uniformer
from vt_course.models.timesformer import DividedBlock
from vt_course.training.experiments.switches import fill

# ---------------------------------------------------------------- ways to switch off


def config(**changes):
    """The model is built with other settings. Weights are random by name, so those that both have are the same."""
    return lambda model, patch: changes


def zero(ending):
    """All parameters with this ending of the name are zero."""

    def switch(model, patch):
        found = [p for name, p in model.named_parameters() if name.endswith(ending)]
        assert found, ending
        for p in found:
            p.zero_()

    return switch


def replace(kind, forward):
    """All modules of a class compute something else."""

    def switch(model, patch):
        found = [m for m in model.modules() if type(m) is kind]
        assert found, kind
        for m in found:
            patch.setattr(m, "forward", lambda *args, m=m: forward(m, *args))

    return switch


def one(name, forward):
    """One module computes something else."""
    return lambda model, patch: patch.setattr(
        model.get_submodule(name), "forward", lambda *args, m=model.get_submodule(name): forward(m, *args)
    )


def nothing(module, x, *rest):
    return torch.zeros_like(x)


def flat_bias(axis):
    """The bias table does not depend on the offset along this axis."""

    def switch(model, patch):
        for block in (m for m in model.modules() if isinstance(m, swin.SwinBlock)):
            table = block.attn.relative_position_bias_table
            lengths = [2 * w - 1 for w in block.window]
            table.copy_(table.view(*lengths, -1).mean(axis, keepdim=True).expand(*lengths, -1).reshape(table.shape))

    return switch


def without_mask(model, patch):
    cut = swin.roll_and_cut

    def no_mask(*args):
        windows, groups, order = cut(*args)
        return windows, [(sum(count for count, _ in groups), None)], order

    patch.setattr(swin, "roll_and_cut", no_mask)


def other_merging(model, patch):
    """Patch merging concatenates the lower row of neighbours first."""

    def swapped(module, x):
        upper, lower = x[..., ::2, :, :], x[..., 1::2, :, :]
        return swin.PatchMerging.forward(module, torch.stack((lower, upper), -3).flatten(-4, -3))

    for m in (m for m in model.modules() if isinstance(m, swin.PatchMerging)):
        patch.setattr(m, "forward", lambda x, m=m: swapped(m, x))


def plain(module, x):
    """What a learned pooling would keep without its kernel: every stride-th token."""
    return x[:, :, :: module.stride[0], :: module.stride[1], :: module.stride[2]]


def pools(which):
    """The learned poolings of Q, K or V take every stride-th token."""

    def switch(model, patch):
        found = [m for name, m in model.named_modules() if name.endswith(f"pool_{which}")]
        assert found, which
        for m in found:
            patch.setattr(m, "forward", lambda x, m=m: plain(m, x))

    return switch


def skip_pools(model, patch):
    found = [m for name, m in model.named_modules() if name.endswith("pool_skip")]
    assert found
    for m in found:
        patch.setattr(m, "forward", lambda x, m=m: plain(m, x))


def local_in_space(model, patch):
    """The tube of the local blocks sees its own time step only."""
    for block in (m for m in model.modules() if isinstance(m, uniformer.LocalBlock)):
        keep = block.attn.weight[:, :, 2:3].clone()
        block.attn.weight.zero_()[:, :, 2:3] = keep


def without_border(model, patch):
    """The position embedding pads its maps in circles, so that no token is near a border."""

    def circular(module, x):
        x = nn.functional.pad(x, (1, 1, 1, 1, 1, 1), mode="circular")
        return nn.functional.conv3d(x, module.weight, module.bias, groups=len(module.weight))

    for name, m in model.named_modules():
        if name.endswith("pos_embed"):
            patch.setattr(m, "forward", lambda x, m=m: circular(m, x))


def cls_in_time(model, patch):
    """The class token does not learn from the frames: what it gets there is left out."""
    for block in (m for m in model.modules() if isinstance(m, DividedBlock)):
        attend = block.attend
        patch.setattr(block, "attend", lambda x, size, attend=attend: torch.cat((x[:, :1], attend(x, size)[:, 1:]), 1))


def temporal_fc(model, patch):
    for name, m in model.named_modules():
        if name.endswith("temporal_fc"):
            patch.setattr(m, "forward", lambda x: x)


def no_local_relation(model, patch):
    for block in (m for m in model.modules() if isinstance(m, uniformer.LocalBlock)):
        patch.setattr(block, "relate", torch.zeros_like)


SWIN = {
    "the shift in height": config(shift=(True, False, True)),
    "the shift in width": config(shift=(True, True, False)),
    "any shift": config(shift=False),
    "the mask": without_mask,
    "the relative position bias": zero("relative_position_bias_table"),
    "the order in which neighbours are merged": other_merging,
}
MVIT = {
    "the pooling of Q": pools("q"),
    "the pooling of K": pools("k"),
    "the pooling of V": pools("v"),
    "the stride of K and V": config(kv_stride=None),
    "the pooling of the skip connection": skip_pools,
    "the class token": config(class_token=False),
}
MECHANISMS = {
    "video_swin_mini": {
        **SWIN,
        "the shift in time": config(shift=(False, True, True)),
        **{f"the bias along {axis}": flat_bias(i) for i, axis in enumerate(("time", "height", "width"))},
        "windows in time": config(window=(4, 4, 4)),
    },
    "swin_mini": {
        "any shift": config(shift=False),
        **{name: SWIN[name] for name in ("the mask", "the relative position bias")},
        "the order in which neighbours are merged": other_merging,
        **{f"the bias along {axis}": flat_bias(i) for i, axis in enumerate(("height", "width"))},
    },
    "mvit_mini": {
        **MVIT,
        "positions in time": zero("pos_embed_temporal"),
        "positions in space": zero("pos_embed_spatial"),
    },
    "mvit_v2_mini": {
        **MVIT,
        **{f"relative positions along {axis}": zero(f"rel_pos_{axis}") for axis in "thw"},
        "residual pooling": config(residual_pooling=False),
    },
    "timesformer_mini": {
        **{f"temporal attention of block {i}": one(f"blocks.{i}.temporal_attn", nothing) for i in range(3)},
        **{f"spatial attention of block {i}": one(f"blocks.{i}.attn", nothing) for i in range(3)},
        "temporal_fc": temporal_fc,
        "the time embedding": zero("time_embed"),
        "the position embedding": zero("pos_embed"),
        "what the class token learns in space": cls_in_time,
    },
    "uniformer_mini": {
        "dynamic position embedding": config(dpe=False),
        "the border that it sees": without_border,
        "local relation": no_local_relation,
        "local relation in time": local_in_space,
        "a tube of 5 instead of 3": config(tube=3),
        "global relation": replace(uniformer.RelationAggregator, nothing),
        "joint instead of divided": config(divided=True),
        "the FFN of local blocks": replace(uniformer.ConvMlp, nothing),
    },
    "vit_frames_mini": {
        **{f"attention of block {i}": one(f"blocks.{i}.attn", nothing) for i in range(3)},
        **{f"the MLP of block {i}": one(f"blocks.{i}.mlp", nothing) for i in range(3)},
        "the position embedding": zero("pos_embed"),
    },
}


def random_model(name, **changes):
    model = create(name, **changes).double().eval()
    with torch.no_grad():
        fill(model)
        for key, buffer in model.named_buffers():  # of BatchNorm; at 0 and 1 they would do nothing
            if key.endswith(("running_mean", "running_var")):
                generator = torch.Generator().manual_seed(len(key))
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator, dtype=torch.float64))
    return model


def clips(name, count=4):
    return torch.randn(count, *ZOO[name].input, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@torch.no_grad()
def change(name, switch, patch) -> float:
    """How much the switch changes the logits, as a share of their standard deviation over clips."""
    model, x = random_model(name), clips(name)
    before = model(x)
    changed = switch(model, patch)
    after = random_model(name, **changed)(x) if changed else model(x)
    return ((after - before).square().mean().sqrt() / before.std(0).mean()).item()


@pytest.mark.parametrize(
    "name, mechanism", [(name, mechanism) for name, rows in MECHANISMS.items() for mechanism in rows]
)
def test_a_mechanism_that_is_switched_off_changes_the_output(name, mechanism, monkeypatch):
    assert change(name, MECHANISMS[name][mechanism], monkeypatch) > 0.01


def test_every_mini_has_its_table():
    assert set(MECHANISMS) == {name for name in ZOO if name.endswith("_mini")}
    assert all(len(rows) >= 6 for rows in MECHANISMS.values())


@torch.no_grad()
def test_who_sees_the_order_of_frames():
    """On random weights, every mini but the control. The control cannot, whatever its weights are."""
    for name in MECHANISMS:
        if name == "swin_mini":
            continue
        model, x = random_model(name), clips(name)
        same = torch.allclose(model(x), model(x.flip(2)), rtol=1e-9)
        assert same == (name == "vit_frames_mini"), name


@torch.no_grad()
def test_the_shifted_windows_of_the_video_mini_are_27_of_different_kinds():
    """The map of its first stage is cut into 2 x 2 x 2 windows, and shifted ones into 3 x 3 x 3 parts."""
    model, seen = random_model("video_swin_mini"), {}
    attn = model.layers[0].blocks[1].attn
    attn.register_forward_pre_hook(lambda module, args: seen.update(size=args[0].shape[1:-1]))
    model(clips("video_swin_mini", 1))
    size, window = tuple(seen["size"]), attn.window
    assert swin.clamp_window(size, window, attn.shift) == (window, tuple(w // 2 for w in window))
    parts = [{(i >= s - w) + (i >= s - w // 2) for i in range(s)} for s, w in zip(size, window)]
    assert len(list(itertools.product(*parts))) == 27
    assert len({tuple(mask.flatten().tolist()) for mask in swin.shift_mask(size, window, attn.shift)}) == 8
