"""Stage maps as a module: what others build on a model."""

import re
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, box_iou

from vt_course import repo_root
from vt_course.models import ZOO, FeatureMaps, create

from weights import shake, unset

MINIS = [name for name in ZOO if name.endswith("_mini")]
each_mini = pytest.mark.parametrize("name", MINIS)


@each_mini
def test_channels_and_strides_are_those_of_the_maps(name):
    body, x = create(name, features_only=True), torch.randn(2, *ZOO[name].input)
    maps = body(x)
    assert [m.shape[1] for m in maps] == body.channels
    for m, stride in zip(maps, body.strides, strict=True):
        assert tuple(n * s for n, s in zip(m.shape[2:], stride)) == x.shape[2:]


@pytest.mark.parametrize(
    "name, channels, strides",
    [
        ("swin_tiny", [96, 192, 384, 768], [(4, 4), (8, 8), (16, 16), (32, 32)]),
        ("video_swin_tiny", [96, 192, 384, 768], [(2, 4, 4), (2, 8, 8), (2, 16, 16), (2, 32, 32)]),
        ("mvit_base_16x4", [192, 384, 768, 768], [(2, 4, 4), (2, 8, 8), (2, 16, 16), (2, 32, 32)]),
        ("timesformer_divided_8x224", [768] * 4, [(1, 16, 16)] * 4),
        ("uniformer_small_16", [64, 128, 320, 512], [(2, 4, 4), (2, 8, 8), (2, 16, 16), (2, 32, 32)]),
    ],
)
def test_full_size(name, channels, strides):
    with torch.device("meta"):
        body = create(name, features_only=True)
    assert (body.channels, body.strides) == (channels, strides)


@each_mini
def test_a_pyramid_on_top_trains_every_parameter(name):
    """Frames go into the batch, because torchvision's pyramid is one of images."""
    body = create(name, features_only=True)
    pyramid = FeaturePyramidNetwork(body.channels, 16)
    maps = body(torch.randn(1, *ZOO[name].input))
    maps = [m.transpose(1, 2).flatten(0, 1) if m.ndim == 5 else m for m in maps]  # (B·T, C_i, H_i, W_i)
    levels = pyramid(OrderedDict((str(i), m) for i, m in enumerate(maps)))
    assert [level.shape[1:] for level in levels.values()] == [(16, *m.shape[2:]) for m in maps]
    sum(level.square().sum() for level in levels.values()).backward()
    assert [key for key, p in body.named_parameters() if p.grad is None] == []
    assert [key for key in body.state_dict() if "head" in key] == []


@each_mini
def test_a_trained_model_shares_its_weights_and_stays_whole(name):
    model, x = shake(create(name)), torch.randn(1, *ZOO[name].input)
    with torch.no_grad():
        before, body = model(x), FeatureMaps(model, ZOO[name].input)
        assert all(torch.equal(a, b) for a, b in zip(body(x), model.features(x)))
        assert torch.equal(model(x), before)
        own = {key: p.data_ptr() for key, p in model.named_parameters()}
        assert all(own[key.removeprefix("model.")] == p.data_ptr() for key, p in body.named_parameters())
    assert body.eval() and not body.model.training


def test_other_settings():
    body = create("timesformer_mini", features_only=True, num_frames=4, img_size=(32, 64), in_channels=1)
    assert body.shape == (1, 4, 32, 64) and len(body.strides[0]) == 3
    with pytest.raises(ValueError, match="no setting colour"):
        create("swin_mini", features_only=True, colour=1)


class Pyramid(nn.Module):
    """A backbone for torchvision's detectors: the maps of a model and a pyramid on top."""

    def __init__(self, name: str, channels: int):
        super().__init__()
        self.body, self.out_channels = create(name, features_only=True), channels
        self.fpn = FeaturePyramidNetwork(self.body.channels, channels)

    def forward(self, x):
        return self.fpn(OrderedDict((str(i), m) for i, m in enumerate(self.body(x))))


@pytest.mark.slow
def test_a_detector_of_torchvision_finds_the_square_in_one_image():
    backbone = Pyramid("swin_mini", 32)
    anchors = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    pool = MultiScaleRoIAlign(["0", "1", "2"], 5, 2)
    detector = FasterRCNN(
        backbone,
        2,
        min_size=64,
        max_size=64,
        rpn_anchor_generator=anchors,
        box_roi_pool=pool,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        rpn_pre_nms_top_n_train=100,
        rpn_post_nms_top_n_train=50,
        rpn_pre_nms_top_n_test=100,
        rpn_post_nms_top_n_test=50,
    )
    image = torch.zeros(3, 64, 64)
    image[:, 20:40, 12:36] = 1.0
    target = {"boxes": torch.tensor([[12.0, 20.0, 36.0, 40.0]]), "labels": torch.tensor([1])}
    optimizer = torch.optim.AdamW(detector.parameters(), 2e-3)
    for _ in range(60):
        losses = sum(detector([image], [target]).values())
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
    with torch.no_grad():
        found = detector.eval()([image])[0]
    assert found["labels"][0] == 1 and found["scores"][0] > 0.5
    assert box_iou(found["boxes"][:1], target["boxes"]).item() > 0.6, found


@pytest.mark.slow
def test_the_detector_of_the_document_takes_an_image():
    text = (repo_root() / "docs" / "researchers.md").read_text(encoding="utf-8")
    (code,) = [
        code for code in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if "FasterRCNN" in code
    ]
    names = {}
    with unset():
        exec(code.replace("num_classes=91", "num_classes=91, min_size=64, max_size=64"), names)
    body = names["detector"].backbone.body
    assert (body.channels, body.strides[-1]) == ([96, 192, 384, 768], (32, 32))
    with torch.no_grad():
        (found,) = shake(names["detector"])([torch.rand(3, 48, 64)])
    assert found["boxes"].shape[1] == 4 and len(found["boxes"]) == len(found["labels"])
