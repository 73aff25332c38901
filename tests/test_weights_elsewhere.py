"""Weights as training tools and other libraries leave them: prefixes, wrappers, several states, other precisions, no
head."""

import re
import warnings

import pytest
import torch
import transformers

from vt_course.models import create
from vt_course.models.official import from_official, to_official, unwrap

from weights import shake

MINI = ["swin_mini", "video_swin_mini", "mvit_v2_mini", "timesformer_mini", "uniformer_mini"]


def load(model, checkpoint, **settings):
    """The state dict, and what was said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        return from_official(model, checkpoint, **settings), [str(w.message) for w in said]


def renamed(state, name):
    return {name(k): v for k, v in state.items()}


WRAPPED = {
    "compiled": lambda s: {"model": renamed(s, lambda k: "_orig_mod." + k)},
    "compiled inside DDP": lambda s: {"state_dict": renamed(s, lambda k: "module._orig_mod." + k)},
    "parts compiled": lambda s: renamed(s, lambda k: k.replace("norm.", "norm._orig_mod.")),
    "FSDP": lambda s: renamed(s, lambda k: "_fsdp_wrapped_module." + k),
    "Lightning": lambda s: {"state_dict": renamed(s, lambda k: "model." + k), "pytorch-lightning_version": "2.5"},
    "Lightning, compiled": lambda s: {"state_dict": renamed(s, lambda k: "net._orig_mod." + k)},
    "DeepSpeed": lambda s: {"module": s, "optimizer": {"state": {}}},
    "averaged": lambda s: {"state_dict_ema": s},
    "averaged by torch": lambda s: {"n_averaged": torch.tensor(3)} | renamed(s, "module.{}".format),
    "twice": lambda s: {"model": {"state_dict": s}},
}


@pytest.mark.parametrize("name", MINI)
def test_what_tools_put_around_is_taken_off(name):
    model, other = shake(create(name)), create(name)
    for layout in ("official", "ours"):
        for tool, wrap in WRAPPED.items():
            state, said = load(other, wrap(to_official(model, layout=layout)))
            assert not said and all(torch.equal(state[k], v) for k, v in model.state_dict().items()), (layout, tool)


def test_a_second_state_is_said():
    model, average = shake(create("mvit_mini")), shake(create("mvit_mini"), 1)
    both = {"model": model.state_dict(), "model_ema": average.state_dict()}
    state, said = load(model, both)
    assert said == [
        "the file holds several states, model, model_ema; 'model' is taken: pass its entry 'model_ema' alone "
        "for that one."
    ]
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    state, said = load(model, {"model_ema": both["model_ema"]})
    assert not said and all(torch.equal(state[k], v) for k, v in average.state_dict().items())
    flat = {"model." + k: v for k, v in model.state_dict().items()} | {
        "ema." + k: v for k, v in average.state_dict().items()
    }
    state, said = load(model, {"state_dict": flat | {"loss.weight": torch.ones(3)}})
    assert (
        len(said) == 1
        and f"begins with 'model.' is taken; {len(average.state_dict()) + 1} other entries are left out" in said[0]
    )
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    with pytest.warns(UserWarning, match="several states"):  # the door of the inflations as well
        assert unwrap(both).keys() == model.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision_becomes_the_models(dtype):
    model, large = shake(create("swin_mini")), create("swin_mini", img_size=128, window=8)
    theirs = {k: v.to(dtype) for k, v in model.state_dict().items()}
    state, said = load(create("swin_mini"), theirs)
    assert not said and all(torch.equal(state[k], theirs[k].float()) for k in theirs)
    assert all(v.dtype == torch.float32 for v in from_official(large, theirs, resize=True).values())


@pytest.mark.parametrize(
    "whole, part, ours",
    [
        (
            transformers.TimesformerModel,
            transformers.TimesformerConfig(
                image_size=32,
                patch_size=8,
                num_frames=8,
                hidden_size=96,
                num_hidden_layers=3,
                num_attention_heads=4,
                intermediate_size=384,
            ),
            "timesformer_mini",
        ),
        (
            transformers.SwinModel,
            transformers.SwinConfig(image_size=64, window_size=4, embed_dim=32, depths=(2, 2, 2), num_heads=(2, 4, 8)),
            "swin_mini",
        ),
    ],
    ids=["TimesformerModel", "SwinModel"],
)
def test_a_headless_model_of_transformers(whole, part, ours):
    theirs, model = shake(whole(part)), create(ours)
    state, said = load(model, theirs.state_dict())
    assert len(said) == 1 and "has no head (classifier.weight); the model keeps its own" in said[0]
    assert torch.equal(state["head.weight"], model.head.weight)
    norm = "layernorm.weight"
    assert torch.equal(state["norm.weight"], theirs.state_dict()[norm])


@pytest.mark.parametrize("name", MINI)
def test_a_headless_file_of_any_family(name):
    model, other = shake(create(name)), create(name)
    for layout in ("official", "ours"):
        theirs = {k: v for k, v in to_official(model, layout=layout).items() if "head." not in k}
        state, said = load(other, {"backbone." + k: v for k, v in theirs.items()})
        assert len(said) == 1 and "has no head" in said[0]
        assert all(
            torch.equal(v, (other if k.startswith("head.") else model).state_dict()[k]) for k, v in state.items()
        )


def refused(model, checkpoint):
    with pytest.raises(ValueError) as error:
        from_official(model, checkpoint)
    return str(error.value)


@pytest.mark.slow
def test_a_failing_load_names_the_likely_variant():
    with torch.device("meta"):
        small, deep = create("swin_small"), create("mvit_base_24_32x3")
    said = refused(
        create("video_swin_mini"), {"state_dict": {"encoder.net." + k: v for k, v in small.state_dict().items()}}
    )
    assert "These are weights of swin_small; pass `create` that name" in said
    assert len(said) < 1200 and re.search(r"\d+ entries differ: (.*; ){6}and \d+ more", said)
    assert "mvit_base_24_32x3 or" in refused(create("mvit_mini"), to_official(deep, layout="pytorchvideo"))
    odd = create("swin_mini", embed_dim=16, depths=(1, 1, 1)).state_dict()
    said = refused(create("swin_mini"), odd)  # with three stages and no bias table of a known size, they fit either
    assert (
        "The names are those of SwinTransformer or SwinTransformer3D, but no published variant has these shapes" in said
    )
    assert "belong to no family here; they begin with conv1, layer1" in refused(
        create("swin_mini"),
        {"conv1.weight": torch.zeros(1), **{f"layer1.{i}.weight": torch.zeros(1) for i in range(9)}},
    )


@pytest.mark.parametrize(
    "checkpoint, words",
    [
        ([torch.zeros(3)], "a dictionary of tensors by name, not a list"),
        ({"epoch": 3, "model": {}}, "holds no tensors by name, only nothing"),
        ({"epoch": 3, "lr": 0.1}, "holds no tensors by name, only epoch, lr"),
    ],
    ids=str,
)
def test_what_is_no_checkpoint(checkpoint, words):
    assert words in refused(create("swin_mini"), checkpoint)


def test_weights_that_are_no_floating_point_numbers():
    model = create("swin_mini")
    state = model.state_dict() | {"norm.bias": torch.zeros(128, dtype=torch.int64)}
    assert "norm.bias has numbers of type torch.int64, wanted torch.float32" in refused(model, state)
