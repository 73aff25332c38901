"""A model without its classifier, for those who build on its stage maps: detection, segmentation, pyramids."""
from copy import copy, deepcopy
from functools import cached_property

import torch
from torch import Tensor, nn

CLASSIFIER = ("norm", "head_drop", "head", "aux_head")


class FeatureMaps(nn.Module):
    """The stage maps of a model as a module: (B, C, T, H, W) or (B, C, H, W) -> [(B, C_i, *size_i), ...].

    What only serves the classifier is taken off, so that every parameter has a gradient. `create(name, features_only=True)`
    makes one with fresh weights. For trained ones, give the trained model: its weights are shared, not copied. As in the
    official detection backbones, no norm is applied to the maps.

    `channels` and `strides` say what each map is, from the first to the last, as `feature_info` of timm does. A stride has
    a number for each axis of the input without the batch and the channels. `TimeSformer` has no stages: its four maps are
    those after each quarter of the blocks, all of one size.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, ...]):
        """`shape`: of an input that the model was built for, without the batch axis."""
        super().__init__()
        self.shape, self.model = tuple(shape), copy(model)            # a shallow copy: `model` itself keeps its classifier
        self.no_weight_decay = getattr(model, "no_weight_decay", ())
        self.model._modules = {name: part for name, part in model._modules.items() if name not in CLASSIFIER}

    @cached_property
    def info(self) -> list[dict]:
        """[{"channels": C_i, "stride": (t, h, w) or (h, w)}, ...]. Found by a pass without arithmetic."""
        with torch.no_grad():
            maps = deepcopy(self.model).to("meta").eval().features(torch.empty(1, *self.shape, device="meta"))
        return [{"channels": m.shape[1], "stride": tuple(round(n / k) for n, k in zip(self.shape[1:], m.shape[2:]))}
                for m in maps]

    @property
    def channels(self) -> list[int]:
        return [row["channels"] for row in self.info]

    @property
    def strides(self) -> list[tuple[int, ...]]:
        return [row["stride"] for row in self.info]

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.model.features(x)
