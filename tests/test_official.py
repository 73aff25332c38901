"""Checkpoint layouts: ours <-> theirs, strictly, for every family and every layout we know."""

import ast
import re
from pathlib import Path

import pytest
import torch
import transformers

from vt_course.models import create, official
from vt_course.models.official import LAYOUTS, from_official, layouts, recognise, resize_bias_table, to_official
from vt_course.models.swin import SwinTransformer

from weights import shake

MINI = ["swin_mini", "video_swin_mini", "mvit_mini", "mvit_v2_mini", "timesformer_mini", "uniformer_mini"]
PAIRS = [(name, layout) for name in MINI for layout in layouts(create(name))]


@pytest.mark.parametrize("name, layout", PAIRS)
def test_there_and_back(name, layout):
    model = shake(create(name))
    theirs = to_official(model, layout=layout)
    back = from_official(create(name), {"epoch": 3, "model_state": {"module." + k: v for k, v in theirs.items()}})
    assert set(back) == set(model.state_dict())
    assert all(torch.equal(back[k], v) for k, v in model.state_dict().items())
    names = {tuple(sorted(to_official(model, layout=other))) for other in layouts(model)}
    if len(names) > 1:  # layouts with different names are told apart
        assert set(to_official(model, layout=recognise(model, theirs))) == set(theirs)


def test_what_depends_on_the_family_stands_with_the_family():
    """official.py imports no model (`zoo`, which names all variants, only to say what weights might be) and asks for
    no class of ours."""
    tree = ast.parse(Path(official.__file__).read_text(encoding="utf-8"))
    ours = {
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("vt_course")
    }
    asked = {
        ast.unparse(node.args[1])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"
    }
    assert ours == {"vt_course.models.zoo"} and asked == {"Mapping", "Tensor"}
    for name in MINI:
        model = create(name)
        state = model.resize_positions(model.state_dict())
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()), name


def test_every_layout_is_listed():
    assert {type(create(name)).__name__ for name in MINI} == set(LAYOUTS)


@pytest.mark.parametrize("resize", [False, True])
@pytest.mark.parametrize("name", MINI)
def test_what_does_not_fit_is_listed_by_the_names_of_the_file(name, resize):
    model = create(name)
    theirs = to_official(model)
    bias = next(k for k in theirs if k.endswith("norm1.bias"))
    theirs["surplus.weight"] = theirs.pop(bias)
    head = [k for k in theirs if k.startswith(("head", "cls_head", "model.head"))][-1]
    theirs[head] = torch.zeros(3)
    with pytest.raises(ValueError) as error:
        from_official(model, theirs, resize=resize)
    for part in (f"missing {bias}", "unexpected surplus.weight", f"{head} has shape (3,), wanted (8,)", "3 entries"):
        assert part in str(error.value)


@pytest.mark.parametrize("resize", [False, True])
def test_a_third_of_a_projection_in_another_shape(resize):
    model = create("swin_mini")
    theirs = to_official(model, layout="transformers")
    key = next(k for k in theirs if k.endswith("k_proj.weight"))
    theirs[key] = theirs[key][:, 1:]
    with pytest.raises(ValueError, match=re.escape(f"1 entries differ: {key} has shape (32, 31), wanted (32, 32)")):
        from_official(model, theirs, resize=resize)


def test_unknown_layout():
    with pytest.raises(ValueError, match="choose from official, torchvision"):
        to_official(create("swin_mini"), layout="torchvison")


# ------------------------------------------------------------ other people's models


def compare(ours, theirs, x, call=lambda model, x: model(x)):
    """Same weights, same logits, same gradients through the layout."""
    ours.load_state_dict(from_official(ours, theirs.state_dict()), strict=True)
    grads = []
    for model in (ours, theirs):
        inp = x.clone().requires_grad_()
        out = call(model, inp) if model is theirs else model(inp)
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        grads.append((out.detach(), inp.grad, {k: p.grad for k, p in model.named_parameters()}))
    for a, b in zip(grads[0][:2], grads[1][:2]):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)
    renamed = from_official(ours, grads[1][2])
    for key, grad in grads[0][2].items():
        torch.testing.assert_close(
            grad, renamed[key], rtol=1e-4, atol=1e-4 * max(1, grad.abs().max().item()), msg=lambda m: f"{key}: {m}"
        )


@pytest.mark.parametrize("size, batch", [(64, 2), (96, 1)], ids=str)
def test_swin_equals_transformers(size, batch):
    config = dict(embed_dim=24, depths=(2, 2), num_heads=(3, 6))
    theirs = shake(
        transformers.SwinForImageClassification(
            transformers.SwinConfig(image_size=size, window_size=4, num_labels=10, drop_path_rate=0.0, **config)
        )
    )
    ours = SwinTransformer(img_size=size, window=4, num_classes=10, **config).eval()
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
    compare(ours, theirs, x, lambda model, x: model(pixel_values=x).logits)


@pytest.mark.slow
def test_swin_equals_timm():
    timm = pytest.importorskip("timm")
    theirs = shake(timm.create_model("swin_tiny_patch4_window7_224"))
    compare(create("swin_tiny").eval(), theirs, torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(2)))


# ------------------------------------------------------------ other sizes


def test_resized_bias_table_is_bicubic_in_space_and_linear_in_time():
    table = torch.randn(13 * 13, 3)
    assert torch.equal(resize_bias_table(table, (7, 7)), table)
    grid = torch.nn.functional.interpolate(table.T.view(1, 3, 13, 13), (23, 23), mode="bicubic")
    torch.testing.assert_close(resize_bias_table(table, (12, 12)), grid.view(3, -1).T)
    video = torch.randn(15 * 13 * 13, 3)
    one = resize_bias_table(video, (8, 12, 12)).view(15, -1, 3)
    for t in range(15):  # every temporal offset on its own
        torch.testing.assert_close(one[t], resize_bias_table(video.view(15, -1, 3)[t], (12, 12)))
    longer = resize_bias_table(video, (16, 7, 7)).view(31, 169, 3)
    assert longer.amax() <= video.amax() and longer.amin() >= video.amin()
    torch.testing.assert_close(longer[15], video.view(15, 169, 3)[7])  # offset 0 stays offset 0
    with pytest.raises(ValueError, match="14 rows"):
        resize_bias_table(torch.zeros(14, 2), (4, 4))
    with pytest.raises(ValueError, match="(5, 3, 3)"):
        resize_bias_table(torch.zeros(7 * 49, 2), (5, 3, 3))


def test_swin_for_another_window():
    small = shake(create("swin_mini"))
    large = create("swin_mini", img_size=128, window=8)
    with pytest.raises(ValueError, match="relative_position_bias_table has shape"):
        from_official(large, small.state_dict())
    large.load_state_dict(from_official(large, small.state_dict(), resize=True))
    assert torch.isfinite(large(torch.randn(1, 3, 128, 128))).all()
