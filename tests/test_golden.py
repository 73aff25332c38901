"""Our models against recorded outputs of the official code, through the official checkpoint layout."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from golden.fill import golden_input, golden_weights
from vt_course.models.official import from_official, inflate_swin
from vt_course.models.swin import SwinTransformer
from vt_course.models.video_swin import SwinTransformer3D

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(p.stem for p in GOLDEN.glob("*swin*.json") if not p.stem.startswith("inflate"))
INFLATIONS = sorted(p.stem for p in GOLDEN.glob("inflate*.json"))


def load(case):
    return json.loads((GOLDEN / f"{case}.json").read_text()), np.load(GOLDEN / f"{case}.npz")


def fill(keys, prefix=""):
    """The official state dict, made by the rule."""
    values = {k: golden_weights(prefix + k, shape, kind) for k, shape, kind in keys}
    return {k: torch.from_numpy(v) for k, v in values.items() if v is not None}


def build(config):
    config = dict(config)
    assert config.pop("layer_norm_eps") == 1e-5 and config.pop("qkv_bias") and config.pop("patch_norm")
    config["in_channels"] = config.pop("in_chans")
    config["window"] = config.pop("window_size")
    if "img_size" in config:
        assert not config.pop("ape")
        return SwinTransformer(**config)
    config["patch"] = config.pop("patch_size")
    return SwinTransformer3D(**config)


def load_model(facts):
    official = fill(facts["keys"])
    total = sum(v.double().abs().sum().item() for v in official.values())
    assert total == pytest.approx(facts["weights_abs_sum"], rel=1e-8)
    model = build(facts["config"])
    wrapper = "model" if "img_size" in facts["config"] else "state_dict"
    model.load_state_dict(from_official(model, {wrapper: official}), strict=True)
    return model.eval(), list(official)


@pytest.mark.parametrize("case", CASES)
def test_logits_and_stages(case):
    facts, arrays = load(case)
    model, _ = load_model(facts)
    assert sum(p.numel() for p in model.parameters()) == facts["param_count"]
    seen = {}
    modules = dict(model.named_modules())
    for stage in facts["stages"]:
        module = modules[stage["name"].removeprefix("backbone.")]
        module.register_forward_hook(lambda m, i, out, name=stage["name"]: seen.__setitem__(name, out))
    x = torch.from_numpy(golden_input(facts["input"]["seed"], facts["input"]["shape"]))
    with torch.no_grad():
        logits = model(x)
    want = torch.from_numpy(arrays["logits"])
    torch.testing.assert_close(logits, want, rtol=1e-4, atol=2e-5 * max(1.0, want.std().item()))
    for i, stage in enumerate(facts["stages"]):
        rows = seen[stage["name"]].flatten(0, -2)                      # channels are last in all of ours
        got = [rows.mean(), rows.std(correction=0), *rows[0, :8], *rows[-1, :8]]
        golden = [arrays["stage_mean"][i], arrays["stage_std"][i], *arrays["stage_first8"][i], *arrays["stage_last8"][i]]
        np.testing.assert_allclose(torch.stack(got).numpy(), golden, rtol=1e-4, atol=3e-5, err_msg=stage["name"])


@pytest.mark.parametrize("case", [c for c in CASES if "logits_f64" in load(c)[1]])
def test_logits_in_float64(case):
    """Sharp enough to see a LayerNorm epsilon of 1e-6 in place of 1e-5, which float32 hides."""
    facts, arrays = load(case)
    model, _ = load_model(facts)
    x = torch.from_numpy(golden_input(facts["input"]["seed"], facts["input"]["shape"]))
    with torch.no_grad():
        logits = model.double()(x.double())
    assert np.abs(logits.numpy() - arrays["logits_f64"]).max() < 1e-9


@pytest.mark.parametrize("case", [c for c in CASES if "gradients" in load(c)[0]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_norms(case, dtype):
    facts, _ = load(case)
    model, names = load_model(facts)
    model.to(dtype)
    x = torch.from_numpy(golden_input(facts["input"]["seed"], facts["input"]["shape"])).to(dtype).requires_grad_()
    logits = model(x)
    w = np.random.RandomState(facts["gradients"]["loss_weight_seed"]).standard_normal(tuple(logits.shape))
    (logits * torch.from_numpy(w.astype("float32")).to(dtype)).sum().backward()
    want = facts["gradients" if dtype == torch.float32 else "gradients_f64"]
    ours = dict(model.named_parameters())
    largest = max(want["params"].values())
    rtol, atol = (1e-4, 1e-5 * largest) if dtype == torch.float32 else (1e-7, 1e-9 * largest)
    assert set(want["params"]) == set(names)
    for name, norm in want["params"].items():
        key = name.replace("cls_head.fc_cls.", "head.").removeprefix("backbone.")
        assert ours[key].grad.norm().item() == pytest.approx(norm, rel=rtol, abs=atol), name
    assert x.grad.norm().item() == pytest.approx(want["input"], rel=rtol, abs=atol)


@pytest.mark.parametrize("case", INFLATIONS)
def test_inflation(case):
    facts, _ = load(case)
    model = build(facts["config_3d"]).eval()
    model.load_state_dict(inflate_swin(model, {"model": fill(facts["keys_2d"])}), strict=True)
    state = model.state_dict()
    for name, want in facts["tensors"].items():
        assert list(state[name].shape) == want["shape"]
        np.testing.assert_allclose(state[name].flatten()[:16], want["first16"], rtol=1e-4, atol=1e-6, err_msg=name)
        assert state[name].double().norm().item() == pytest.approx(want["l2"], rel=1e-5)
    x = torch.from_numpy(golden_input(facts["input"]["seed"], facts["input"]["shape"]))
    with torch.no_grad():
        features = model.norm(model.stages(x)[-1]).mean((1, 2, 3))
    want = facts["features"]
    assert list(features.shape) == want["shape"]
    np.testing.assert_allclose(features.flatten()[:8], want["first8"], rtol=1e-4, atol=2e-5)
    assert features.std(correction=0).item() == pytest.approx(want["std"], rel=1e-5)
