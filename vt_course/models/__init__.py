"""The finished models. `create(name)` builds any published variant."""
from difflib import get_close_matches
from pathlib import Path

from torch import nn

from vt_course.models.maps import FeatureMaps
from vt_course.models.zoo import ZOO


def create(name: str, *, features_only: bool = False, **overrides) -> nn.Module:
    """Build the variant `name` of the zoo with fresh weights.

    `overrides` replace entries of its configuration, for instance `num_classes=10` or `drop_path=0.2`. With `features_only`
    it is the model without its classifier, which gives its stage maps: see `FeatureMaps`.
    Raises ValueError for an unknown name (the message names the closest ones), an unknown override, or a size below 1.
    """
    if name not in ZOO:
        close = get_close_matches(name, ZOO, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else "see `vt-course models` for all names."
        raise ValueError(f"unknown model {name!r}; {hint}")
    variant = ZOO[name]
    known = set(variant.family.__init__.__annotations__) - {"return"}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise ValueError(f"{name} has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}.")
    settings = {**variant.config, **overrides}
    model = variant.family(**settings)
    model.made_of = name, overrides      # for those who store it: `training.pretrained`
    return FeatureMaps(model, input_shape(variant, settings)) if features_only else model


def input_shape(variant, settings: dict) -> tuple[int, ...]:
    """The shape of the input, without the batch axis, that a variant has with other `settings`: (C, T, H, W) or (C, H, W)."""
    channels, *frames, height, width = variant.input
    size = settings.get("img_size", (height, width))
    frames = [settings.get("frames", settings.get("num_frames", T)) for T in frames]
    return settings.get("in_channels", channels), *frames, *((size, size) if isinstance(size, int) else size)


def built_for(name: str, channels: int, frames: int, size: int | tuple[int, int]) -> dict:
    """The settings that make `create(name, **settings)` a model for clips (B, channels, frames, H, W) with (H, W) =
    `size`.

    The settings differ between the families. A family whose positions, tables and strides do not depend on the size
    has none.
    """
    facts = {"in_channels": channels, "frames": frames, "num_frames": frames, "img_size": size}
    return {k: v for k, v in facts.items() if k in ZOO[name].family.__init__.__annotations__}


def mini_weights(name: str) -> Path:
    """The file of trained weights (.safetensors) that the package contains for a `*_mini` variant.

    They were trained on the embedded `motion` clips (those of swin_mini on `images:shapes`). The metadata of the file
    hold the recipe. Raises ValueError for a variant without such a file.
    """
    path = Path(__file__).parent / "weights" / f"{name}.safetensors"
    if not path.is_file():
        raise ValueError(f"no weights are shipped for {name!r}; only *_mini variants have them, others come from `official`.")
    return path


__all__ = ["ZOO", "FeatureMaps", "built_for", "create", "input_shape", "mini_weights"]
