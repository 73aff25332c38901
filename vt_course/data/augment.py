"""Random changes of training clips beyond crop and flip: those of torchvision.transforms.v2, the same for all frames.

The published video recipes of MViT, MViTv2 and UniFormer use RandAugment, random erasing, mixup and cutmix; Video Swin
uses the first two on Something-Something (`vt-course recipes`). torchvision draws from torch's global generator. Here
it is seeded before each draw and set back afterwards, so that a changed clip stays a pure function of its key
(seed, epoch, index), in a worker process or not.

torchvision is imported where it is needed, because the import takes a second and most runs change nothing.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

STRENGTHS = 11  # a strength is 0 .. 10, as in the names of timm's rules: "rand-m7-n4" is Augment(4, 7)
GREY = (124, 116, 104)  # the mean of ImageNet, for what a rotation or a shift leaves empty


@contextmanager
def drawing(rng):
    """In this context, torch's generator of the CPU is seeded by `rng`, a numpy generator."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(rng.integers(2**63)))
        yield


@dataclass(frozen=True)
class Augment:
    """Colour jitter, `operations` changes of strength `strength` (0 to 10), a box of noise with probability `erasing`.

    `jitter`: brightness, contrast and saturation are multiplied by numbers from 1 - jitter to 1 + jitter, in random
    order. All frames of a clip are changed alike. The operations are RandAugment's (Cubuk et al., arXiv 1909.13719):
    shear, shift, rotation, brightness, colour, contrast, sharpness, posterize, solarize, autocontrast, equalize. Two
    things differ from the official recipes, which use timm's rule "rand-m7-n4-mstd0.5-inc1": there, the strength of
    each change varies around 7, and "inc1" takes versions of some changes that grow with the strength. The changes are
    made on the crop, which is smaller than the frame, and not before it.
    """

    operations: int = 0
    strength: int = 0
    erasing: float = 0.0
    jitter: float = 0.0

    def change(self, clip: Tensor, rng) -> Tensor:
        """uint8 (T, H, W, C) -> the same shape, changed by colour jitter, then by RandAugment."""
        if not self.operations and not self.jitter:
            return clip
        from torchvision import tv_tensors
        from torchvision.transforms import InterpolationMode, v2

        rules = [v2.ColorJitter(self.jitter, self.jitter, self.jitter)] if self.jitter else []
        if self.operations:
            how = dict(interpolation=InterpolationMode.BILINEAR, fill=list(GREY))
            rules.append(v2.RandAugment(self.operations, self.strength, STRENGTHS, **how))
        with drawing(rng):
            changed = v2.Compose(rules)(tv_tensors.Video(clip.permute(0, 3, 1, 2)))  # (T, C, H, W)
        return changed.as_subclass(Tensor).permute(0, 2, 3, 1)  # (T, H, W, C)

    def erase(self, clip: Tensor, rng) -> Tensor:
        """float (C, T, H, W) -> the same; with probability `erasing`, normal noise fills a box, the same in each frame.

        The box has 2 to 33 % of the area and sides in a ratio of 0.3 to 3.3 (Zhong et al., arXiv 1708.04896).
        """
        if not self.erasing:
            return clip
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        with drawing(rng):
            erased = v2.RandomErasing(self.erasing, value="random")(tv_tensors.Video(clip.transpose(0, 1)))
        return erased.as_subclass(Tensor).transpose(0, 1).contiguous()  # (C, T, H, W)


def mix(clip: Tensor, label: Tensor, classes: int, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Mix each clip of a batch with the one before it: (B, C, T, H, W), (B,) -> (B, C, T, H, W), shares (B, K).

    mixup blends two clips, cutmix puts a box of one, the same in all frames, into the other. Both draw one share for
    the whole batch, from Beta(mixup, mixup) or Beta(cutmix, cutmix). If both are above 0, one of them is drawn, each
    with probability 1/2 (SlowFast, MIXUP.SWITCH_PROB). The draws come from torch's global generator of the CPU.
    """
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    box = bool(cutmix) and (not mixup or torch.rand(()).item() < 0.5)
    rule = v2.CutMix(alpha=cutmix, num_classes=classes) if box else v2.MixUp(alpha=mixup, num_classes=classes)
    mixed, shares = rule(tv_tensors.Video(clip), label)
    return mixed.as_subclass(Tensor), shares
