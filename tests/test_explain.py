"""Explanations: each method against its definition, both proofs in a cheap form, and the result that pictures cite."""

import json
import re
from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vt_course import CourseError, repo_root
from vt_course.data import synthetic
from vt_course.models import ZOO, create, mini_weights
from vt_course.models.attention import token_places
from vt_course.training import explain, proofs
from vt_course.training.checkpoint import restore, save_weights
from vt_course.training.evaluate import open_clips
from vt_course.training.explain import METHODS
from vt_course.training.trained import open_model

from videos import write_video
from weights import shake

BOTH = ["gradcam", "occlusion"]  # know classes


def clip_for(name):
    return torch.randn(ZOO[name].input)


@pytest.fixture(scope="module")
def shipped():
    """A family's name -> (model, recipe, classes), read once."""
    return {name: restore(mini_weights(name)) for name in proofs.FAMILIES}


# ---------------------------------------------------------------- rollout and attention


def averaging(small, large):
    """(l, L): row by row, the cells of an average pooling, written out."""
    one = torch.eye(prod(large)).view(-1, 1, *large)
    return F.adaptive_avg_pool3d(one, small).flatten(1).T


def with_classes(matrix, cls):
    return torch.block_diag(matrix, torch.eye(cls))


def literal_rollout(layers):
    """Abnar and Zuidema's product of matrices over all tokens and class tokens, (L_out + cls, L_in + cls)."""
    total = last = None
    for layer in reversed(layers):
        places, weights = token_places(layer), layer.weights.float().mean(1)
        queries, keys, cls = prod(places.size_q) + places.cls, prod(places.size_k) + places.cls, places.cls
        A, asked = torch.zeros(queries, keys), torch.zeros(queries)
        for group, (rows, columns) in enumerate(zip(places.queries.tolist(), places.keys.tolist())):
            for i, row in enumerate(rows):
                asked[row] += 1
                for j, column in enumerate(columns):
                    A[row, column] += weights[group, i, j]
        A = A / asked.clamp(min=1)[:, None]
        half = 0.5 * (asked > 0)[:, None]
        pooled_k = with_classes(averaging(places.size_k, places.size_in), cls)
        pooled_q = with_classes(averaging(places.size_q, places.size_in), cls)
        step = half * (A @ pooled_k) + (1 - half) * pooled_q
        if total is None:
            total = step
        else:
            total = total @ with_classes(averaging(last, places.size_q), cls) @ step
        last = places.size_in
    return total


SETTINGS = {
    "timesformer_mini": {},
    "timesformer_mini joint": dict(attention="joint", depth=2),
    "vit_frames_mini": {},
    "video_swin_mini": {},
    "mvit_mini": {},
    "mvit_v2_mini": dict(class_token=False),
    "uniformer_mini": {},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_rollout_is_the_product_of_matrices(name):
    base = name.split()[0]
    model, clip = shake(create(base, **SETTINGS[name])), clip_for(base)
    layers = explain.attention_layers(model, clip)
    matrix = literal_rollout(layers)
    torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix)), rtol=0, atol=1e-5)
    first, cls = token_places(layers[0]), token_places(layers[-1]).cls
    row = (matrix[-cls:] if cls else matrix).mean(0)[: prod(first.size_in)]
    got, shows = METHODS["rollout"].run(model, clip)
    assert got.shape == first.size_in and layers[0].name in shows
    torch.testing.assert_close(got.flatten(), row / row.sum(), rtol=0, atol=1e-6)


def test_padding_is_left_out_of_what_is_read():
    model, clip = shake(create("video_swin_mini")), torch.randn(3, 8, 36, 24)
    layers = explain.attention_layers(model, clip)
    assert any((token_places(layer).keys == prod(token_places(layer).size_k)).any() for layer in layers)
    for shares in (explain.rollout_map(layers), *map(explain.attention_map, layers)):
        assert shares.min() >= 0 and float(shares.sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["timesformer_mini", "mvit_v2_mini"])
def test_attention_is_the_row_of_the_class_token(name):
    model, clip = shake(create(name)), clip_for(name)
    layer = explain.attention_layers(model, clip)[-1]
    shares, shows = METHODS["attention"].run(model, clip, head=1)
    rows = layer.weights[:, 1, 0, 1:].reshape(shares.shape)  # MViT has one group, TimeSformer one a frame
    torch.testing.assert_close(shares, rows / rows.sum(), rtol=0, atol=1e-6)
    assert shows == f"{layer.name}, head 1"


def test_where_the_class_token_does_not_ask_all_patches_do():
    model, clip = shake(create("timesformer_mini")), clip_for("timesformer_mini")
    layer = explain.attention_layers(model, clip)[0]
    assert layer.name == "blocks.0.temporal_attn"
    shares, _ = METHODS["attention"].run(model, clip, layer=0)
    want = layer.weights.mean((1, 2)).T  # (T, H·W): the mean over heads and queries of each place
    torch.testing.assert_close(shares.flatten(1), want / want.sum(), rtol=0, atol=1e-6)


# ---------------------------------------------------------------- methods that know classes


def test_gradcam_is_what_the_paper_says():
    model, clip = shake(create("uniformer_mini")), torch.randn(3, 8, 64, 64)
    shares, shows = METHODS["gradcam"].run(model, clip, 3, layer=-1)
    A = model.features(clip[None])[-1].detach().requires_grad_()  # (1, C, T, H, W)
    score = model.head(model.norm(A).flatten(2).mean(2))[0, 3]
    (slope,) = torch.autograd.grad(score, A)
    cam = sum(slope[0, c].mean() * A[0, c].detach() for c in range(A.shape[1])).clamp(min=0)
    torch.testing.assert_close(shares, cam / cam.sum(), rtol=0, atol=1e-5)
    assert shows == "the map after blocks4.1"


@pytest.mark.parametrize(
    "name, layer, size",
    [
        ("video_swin_mini", "layers.0.blocks.1", (4, 8, 8)),
        ("mvit_mini", "blocks.0", (4, 8, 8)),
        ("timesformer_mini", "blocks.1", (8, 4, 4)),
        ("vit_frames_mini", "blocks.1", (8, 4, 4)),
        ("uniformer_mini", "blocks1.1", (4, 8, 8)),
        ("swin_mini", "layers.1.blocks.1", (1, 8, 8)),
    ],
)
def test_gradcam_takes_the_deepest_fine_map_of_any_family(name, layer, size):
    model, clip = shake(create(name)), clip_for(name)
    clip = clip if clip.ndim == 4 else clip[:, None]  # an image is a clip of one frame
    found = explain.explain(model, clip, "gradcam")
    assert (found.shows, tuple(found.map.shape)) == (f"the map after {layer}", size)
    assert not any(m._forward_hooks for m in model.modules())


class Corner(torch.nn.Module):
    """Its score of class 1 is the brightness of one box."""

    def forward(self, x):
        score = x[:, :, 2:4, 8:16, 24:32].mean((1, 2, 3, 4))
        return torch.stack([0 * score, score], 1)


def test_occlusion_finds_the_box_that_counts():
    clip = torch.zeros(3, 8, 32, 32)
    clip[:, 2:4, 8:16, 24:32] = 5
    found = explain.explain(Corner(), clip, target=1)
    want = torch.zeros(4, 4, 4)
    want[1, 1, 3] = 1
    torch.testing.assert_close(found.map, want)
    none = explain.explain(Corner(), clip, target=0)
    assert not none.map.any() and "The picture is empty" in none.caveat and explain.UNTESTED in none.caveat
    shares, shows = METHODS["occlusion"].run(Corner(), torch.randn(3, 5, 64, 70), 1)
    assert shares.shape == (4, 7, 7) and shows == "4 x 7 x 7 boxes"


# ---------------------------------------------------------------- what cannot be asked


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("video_swin_mini", dict(method="grad-cam"), "there is no method 'grad-cam': did you mean gradcam?"),
        ("video_swin_mini", dict(method="rollout", layer=1), "rollout takes no layer; .* attention, gradcam"),
        ("video_swin_mini", dict(method="attention", target=1), "attention takes no class; .*: gradcam, occlusion"),
        ("video_swin_mini", dict(method="occlusion", head=0), "occlusion takes no head; .* attention"),
        ("video_swin_mini", dict(method="attention", layer=6), r"no attention layer 6: they are 0 \(layers.0.blocks.0"),
        ("video_swin_mini", dict(method="gradcam", layer=-7), "there is no block with a slope -7"),
        ("video_swin_mini", dict(method="attention", head=8), "layers.2.blocks.1.attn has the heads 0 to 7, not 8"),
        ("timesformer_mini", dict(method="gradcam", layer=2), r"no block with a slope 2: .* to 1 \(blocks.1\)"),
        ("video_swin_mini", dict(target=8), "the classes are 0 to 7, not 8"),
    ],
)
def test_what_cannot_be_asked(name, options, words):
    with pytest.raises(CourseError, match=words):
        explain.explain(create(name).eval(), clip_for(name), **options)


def test_methods_that_a_model_has_not():
    clip = clip_for("uniformer_mini")
    with pytest.raises(CourseError, match="rollout is not defined for UniFormer's divided blocks"):
        explain.explain(create("uniformer_mini", divided=True).eval(), clip, "rollout")
    for method in ("rollout", "attention"):
        with pytest.raises(CourseError, match="this UniFormer has no attention; choose the method occlusion"):
            explain.explain(create("uniformer_mini", kinds="LLLL").eval(), clip, method)
    with pytest.raises(CourseError, match="needs the blocks of one of the five families, and Corner is none"):
        explain.explain(Corner(), clip, "gradcam")


# ---------------------------------------------------------------- one video


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", frames=30, size=(100, 60))


@pytest.mark.parametrize("name", ["video_swin_mini", "uniformer_mini"])
def test_a_run_is_explained_on_the_clip_that_its_validation_sees(name, video):
    """Which was scaled in two steps, because the recipe has `keep`."""
    trained, manifest = open_model(name), video.with_suffix(".csv")
    assert trained.recipe.keep > trained.shown.size
    manifest.write_text(f"path,label\n{video},up\n", encoding="utf-8")
    clip, found, classes = explain.explain_run(trained, video, "gradcam", target="up")
    assert torch.equal(clip, open_clips(trained, f"csv:{manifest}")[0]["clip"])
    assert (classes[found.target], classes) == ("up", trained.classes)


def test_published_weights_are_explained_on_pixels_as_they_learnt_them(video, tmp_path):
    told = dict(model="timesformer_mini", settings={"num_classes": 3}, release="timesformer_mini/k600", url="")
    save_weights(tmp_path / "a.safetensors", shake(create("timesformer_mini", num_classes=3)), told)
    clip, found, classes = explain.explain_run(tmp_path / "a.safetensors", video, "occlusion", target="2")
    shown = open_model(tmp_path / "a.safetensors").shown
    pixels = clip * shown.std[0] + shown.mean[0]  # grey: alike in all colours
    assert shown.mean == (0.45,) * 3 and 0 <= float(pixels.min()) + 1e-6 and float(pixels.max()) <= 1 + 1e-6
    assert (classes, found.target) == (("0", "1", "2"), 2)
    with pytest.raises(CourseError, match="timesformer_mini/k600 has no class '3': there are 0, 1, 2"):
        explain.explain_run(tmp_path / "a.safetensors", video, target="3")


# ---------------------------------------------------------------- the proofs


def test_the_mask_is_where_the_renderer_paints_the_shape():
    key, kind = (3, 1, 4), dict(frames=4, size=48)
    mask = synthetic.mask_array("left", "dots", **kind, key=key)
    scene, path = synthetic.draw_scene("dots", 48, key), synthetic.draw_path("left", 4, key)
    shake_ = synthetic.draw_shake(4, 48, key)
    other = replace(scene, texture=1 - scene.texture, rim=1 - scene.rim)
    painted = [synthetic.paint(each, path, shake_).astype(int) for each in (scene, other)]
    change = abs(painted[0] - painted[1]).max(-1)  # 1 level where the soft edge covers less than the mask's last digit
    assert mask.shape == (4, 48, 48) and 0.05 < mask.mean() < 0.6 and mask.min() == 0 and mask.max() == 1
    assert change[mask == 0].max() <= 1 and (change[mask == 1] > 1).mean() > 0.98


def test_times_its_area():
    mask = torch.zeros(8, 32, 32)
    mask[:, :16, :8] = 1  # an eighth
    shares = torch.zeros(4, 4, 4)
    shares[1, 0, 0] = 1
    assert proofs.times_its_area(shares, mask) == pytest.approx(8)
    assert proofs.times_its_area(torch.full((4, 2, 2), 1 / 16), mask) == pytest.approx(1)
    assert proofs.times_its_area(shares.flip(2), mask) == 0


def test_rank_correlation():
    a = torch.tensor([[1.0, 5.0], [2.0, 9.0]])
    assert proofs.rank_correlation(a, a.exp()) == pytest.approx(1)
    assert proofs.rank_correlation(a, -a) == pytest.approx(-1)
    assert proofs.rank_correlation(a, torch.zeros(2, 2)) == 0
    ties = torch.tensor([0.0, 0.0, 1.0, 3.0])  # ranks 1.5, 1.5, 3, 4
    assert proofs.rank_correlation(ties, torch.arange(4.0)) == pytest.approx(
        np.corrcoef([1.5, 1.5, 3, 4], [1, 2, 3, 4])[0, 1]
    )


@pytest.mark.parametrize("family", proofs.FAMILIES)
def test_the_cascade_takes_every_weight_once_from_the_classifier_down(family, shipped):
    model = shipped[family][0]
    steps = proofs.steps_down(model)
    names = [name for name, _ in steps]
    assert sorted(key for _, keys in steps for key in keys) == sorted(model.state_dict())
    assert names[0] == "classifier" and names[-1] == "embedding" and len(set(names)) == len(names)
    assert [name for name in names if name in explain.blocks_of(model)] == list(explain.blocks_of(model))[::-1]


@pytest.mark.parametrize("family", proofs.FAMILIES)
def test_occlusion_lies_inside_the_shape_and_not_inside_those_of_other_clips(family, shipped):
    """Proof (a), in a cheap form on other clips than those of the result, with a control that fails."""
    model, recipe, classes = shipped[family]
    clips = proofs.drawn_clips(recipe, 8, seed=77)
    hide, boxes = METHODS["occlusion"].run, (2, 4, 4)  # half as many passes as by default
    maps = [hide(model, clip, classes.index(motion), boxes)[0] for clip, _, motion in clips]
    own = [proofs.times_its_area(shares, mask) for shares, (_, mask, _) in zip(maps, clips)]
    others = [proofs.times_its_area(a, clips[j][1]) for i, a in enumerate(maps) for j in range(len(clips)) if i != j]
    assert np.mean(own) > 2 > np.mean(others)


def test_random_weights_destroy_what_knows_classes_from_the_classifier_on():
    """Proof (b), in a cheap form. Rollout does not see the classifier at all, and says so."""
    model, recipe, classes = restore(mini_weights("video_swin_mini"))
    found = proofs.cascade(model, recipe, classes, proofs.drawn_clips(recipe, 2, seed=77))
    for name in BOTH:
        steps = found[name, ""]
        assert max(np.mean(steps["classifier"]), abs(np.mean(steps["embedding"]))) < 0.7
    assert found["rollout", ""]["classifier"] == pytest.approx([1, 1])
    assert "knows no classes" in METHODS["rollout"].caveat


def rows():
    """(family, row) of the recorded result."""
    recorded = json.loads((repo_root() / "results" / "explain.json").read_text(encoding="utf-8"))
    return [(family, row) for family, rows in recorded["families"].items() for row in rows]


def test_the_result_has_every_method_of_every_family(shipped):
    for family in proofs.FAMILIES:
        model, recipe, _ = shipped[family]
        layers = explain.attention_layers(model, clip_for(family))
        want = {("attention", layer.name) for layer in layers} | {(name, "") for name in ("rollout", *BOTH)}
        assert {(row["method"], row["layer"]) for of, row in rows() if of == family} == want


def test_one_method_passes_both_proofs_in_every_family():
    """The default. The others say where they fail."""
    for family, row in rows():
        if row["method"] == "occlusion":
            assert row["inside"]["low"] >= explain.INSIDE and row["random"]["high"] < explain.ALIKE, family


def test_docstrings_and_pictures_say_what_failed(shipped):
    seen = set()
    for family, row in rows():
        failed = (row["inside"]["low"] < explain.INSIDE) + (row["random"]["high"] >= explain.ALIKE)
        (line,) = explain.told(row["method"], family, row["layer"])
        assert line.count("FAILED") == failed and line.count("passed") == 2 - failed
        assert line in METHODS[row["method"]].run.__doc__
        seen.add(failed > 0)
    assert seen == {True, False}
    model = shipped["uniformer_mini"][0]
    caveat = explain.explain(model, clip_for("uniformer_mini"), "rollout").caveat
    assert METHODS["rollout"].caveat in caveat and explain.told("rollout", "uniformer_mini")[0] in caveat


@pytest.mark.parametrize(
    "name, settings, tested",
    [
        ("video_swin_mini", dict(embed_dim=12), "video_swin_mini"),
        ("mvit_v2_mini", {}, "mvit_v2_mini"),
        ("mvit_mini", {}, "mvit_mini"),
        ("timesformer_mini", dict(attention="axial"), None),
        ("vit_frames_mini", {}, None),
        ("uniformer_mini", {}, "uniformer_mini"),
        ("swin_mini", {}, None),
    ],
)
def test_what_was_not_tested_says_so(name, settings, tested):
    assert explain.tested_as(create(name, **settings)) == tested
    assert bool(explain.told("occlusion", tested)) == bool(tested)


def test_the_table_of_the_researchers_page_is_the_result():
    """Each cell has (a), then (b), in bold what did not pass; of attention, the layer with the largest (a)."""
    page = (repo_root() / "docs" / "researchers.md").read_text(encoding="utf-8")
    for method in METHODS:
        (line,) = re.findall(rf"^\| `{method}`[^|]*\| (.*) \|$", page, re.MULTILINE)
        for cell, family in zip(line.split(" | "), proofs.FAMILIES, strict=True):
            best = max(
                (row for of, row in rows() if (of, row["method"]) == (family, method)),
                key=lambda r: r["inside"]["mean"],
            )
            inside, random = best["inside"], best["random"]
            failed = inside["low"] < explain.INSIDE, random["high"] >= explain.ALIKE
            want = [f"{each['mean'] + 0.0:.2f}".replace("-0.00", "0.00").replace("-", "−") for each in (inside, random)]
            bold = {(True, True): "**{}, {}**", (True, False): "**{}**, {}", (False, True): "{}, **{}**"}
            assert cell == bold.get(failed, "{}, {}").format(*want), (family, method)
