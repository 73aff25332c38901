"""Weights for tests."""

from contextlib import contextmanager

import pytest
import torch


@contextmanager
def unset():
    """Models are built without drawing their weights, which takes longer than a pass through a large one: set them
    all."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("trunc_normal_", "normal_", "kaiming_uniform_", "uniform_", "xavier_uniform_"):
            patch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)
        yield


def shake(model, seed=0):
    """Random weights and BatchNorm statistics large enough that every part of the network matters to the output."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g, dtype=p.dtype)
            leaf = name.rsplit(".", 1)[-1]
            p.copy_(
                1 + 0.1 * noise
                if "gamma" in leaf
                else 0.2 * noise
                if "table" in leaf
                else 0.5 * noise
                if any(word in leaf for word in ("pos", "token", "embed"))
                else noise / p[0].numel() ** 0.5
                if p.ndim > 1
                else 1 + 0.1 * noise
                if leaf == "weight"
                else 0.2 * noise
            )
        for name, b in model.named_buffers():
            if "running" in name:
                noise = torch.randn(b.shape, generator=g, dtype=b.dtype)
                b.copy_(1 + 0.3 * noise.abs() if name.endswith("var") else 0.2 * noise)
    return model.eval()
