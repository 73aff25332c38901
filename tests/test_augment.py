"""Random changes of training clips: the same for all frames, a pure function of the key, torchvision's own."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from vt_course.data.augment import Augment, mix
from vt_course.data.clips import VideoFolder

from test_training import clips  # noqa: F401 (a fixture)


def still(frames=4, size=32) -> torch.Tensor:
    """A clip of equal frames, uint8 (T, H, W, C)."""
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    return torch.from_numpy(image).repeat(frames, 1, 1, 1)


@pytest.mark.parametrize("seed", range(6))
def test_frames_are_changed_alike(seed):
    augment, clip = Augment(4, 7, 1.0), still()
    changed = augment.change(clip, np.random.default_rng(seed))
    assert changed.dtype == torch.uint8 and changed.shape == clip.shape and type(changed) is torch.Tensor
    assert (changed == changed[:1]).all() and not torch.equal(changed, clip)
    floats = changed.permute(3, 0, 1, 2) / 255.0  # (C, T, H, W)
    erased = augment.erase(floats, np.random.default_rng(seed))
    assert erased.is_contiguous() and type(erased) is torch.Tensor and erased.dtype == torch.float32
    assert (erased == erased[:, :1]).all()
    share = (erased != floats).all(0)[0].float().mean().item()
    assert 0.005 < share < 0.36


def test_changes_depend_on_the_key_only_and_leave_torchs_generator_alone():
    augment, clip = Augment(2, 9), still()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = augment.change(clip, np.random.default_rng([0, 1, 2]))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(augment.change(clip, np.random.default_rng([0, 1, 2])), one)
    others = [augment.change(clip, np.random.default_rng([0, 1, k])) for k in range(3, 9)]
    assert not all(torch.equal(one, other) for other in others)


def test_it_is_torchvisions_randaugment():
    clip, rng = still(), np.random.default_rng(5)
    torch.manual_seed(int(np.random.default_rng(5).integers(2**63)))
    rule = v2.RandAugment(3, 5, 11, v2.InterpolationMode.BILINEAR, fill=[124, 116, 104])
    wanted = rule(tv_tensors.Video(clip.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)  # (T, H, W, C)
    assert torch.equal(Augment(3, 5).change(clip, rng), wanted)


def test_it_is_torchvisions_colour_jitter_before_its_randaugment():
    clip = still()
    torch.manual_seed(int(np.random.default_rng(5).integers(2**63)))
    jitter = v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4)
    wanted = jitter(tv_tensors.Video(clip.permute(0, 3, 1, 2)))  # (T, C, H, W)
    changed = Augment(jitter=0.4).change(clip, np.random.default_rng(5))
    assert torch.equal(changed, wanted.permute(0, 2, 3, 1)) and (changed == changed[:1]).all()
    assert not torch.equal(changed, clip)
    wanted = v2.RandAugment(3, 5, 11, v2.InterpolationMode.BILINEAR, fill=[124, 116, 104])(wanted)
    both = Augment(3, 5, jitter=0.4).change(clip, np.random.default_rng(5))
    assert torch.equal(both, wanted.permute(0, 2, 3, 1))


def test_nothing_is_drawn_and_nothing_copied_by_default():
    rng, clip = np.random.default_rng(0), still()
    assert Augment().change(clip, rng) is clip and Augment().erase(clip, rng) is clip
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_a_data_set_changes_training_clips_by_their_key(clips):  # noqa: F811
    settings = dict(classes=("dark", "grey", "light"), frames=2, stride=1, size=16)
    changed = VideoFolder(clips / "train.csv", train=True, augment=Augment(2, 9, 0.5), **settings)
    plain = VideoFolder(clips / "train.csv", train=True, **settings)
    assert torch.equal(changed[3, 1]["clip"], changed[3, 1]["clip"])
    assert not torch.equal(changed[3, 1]["clip"], changed[4, 1]["clip"])
    assert any(not torch.equal(changed[0, i]["clip"], plain[0, i]["clip"]) for i in range(4))


@pytest.mark.parametrize("mixup, cutmix", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixed_clips_have_the_labels_of_their_parts(mixup, cutmix):
    """Each clip is filled with the number of its class, so the shares can be read off."""
    label = torch.tensor([2, 0, 1, 2])
    clip = label.float().view(4, 1, 1, 1, 1).expand(4, 3, 2, 16, 16).contiguous()
    boxes = set()
    for seed in range(8):
        torch.manual_seed(seed)
        mixed, shares = mix(clip, label, 3, mixup, cutmix)
        assert mixed.shape == clip.shape and shares.shape == (4, 3) and type(mixed) is torch.Tensor
        assert torch.allclose(shares.sum(1), torch.ones(4))
        assert torch.allclose(mixed.mean((1, 2, 3, 4)), shares @ torch.arange(3.0), atol=1e-5)
        boxes.add(bool((mixed == mixed.round()).all()))
        torch.manual_seed(seed)
        assert torch.equal(mix(clip, label, 3, mixup, cutmix)[0], mixed)
        assert torch.equal(mixed[:, :, :1], mixed[:, :, 1:])  # the same in each frame
    assert boxes == {bool(cutmix)} | ({False} if mixup else set())
