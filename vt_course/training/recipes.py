"""Recipes: all settings on which a training run depends, in one frozen dataclass.

`fit` needs only a recipe and an output folder. The recipe is written to the run folder as
JSON and read back by `Recipe.from_json`. It is changed by `dataclasses.replace` or, from a command line,
by `recipe.override(["lr=3e-4", "epochs=5"])`.
"""

import dataclasses
import json
import math
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field

from vt_course import CourseError, closest
from vt_course.data.decoders import DECODERS
from vt_course.files import parse_json

# Of the frames of a clip; see evaluate.reorder_frames.
ORDERS = ("normal", "shuffled", "reversed", "single", "tubes-reversed", "frames-swapped")
# What weight decay acts on, see fit.parameter_groups.
DECAYS = ("matrices", "biases", "all")
OPTIMIZERS = ("adamw", "sgd", "nesterov")
IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
GREY = dict(mean=(0.45,) * 3, std=(0.225,) * 3)  # SlowFast's DATA.MEAN and DATA.STD, whatever the colour


@dataclass(frozen=True)
class Recipe:
    """Which model to train, on which data, and how. Raises `CourseError` for values that cannot work."""

    model: str
    # Entries that replace those of the model's configuration, e.g. {"shift": False}. On a command line they are JSON.
    config: dict = field(default_factory=dict)
    data: str = "synthetic:motion"
    # The clips that the model sees: `frames` frames, `stride` apart, of size × size pixels.
    frames: int = 16
    stride: int = 2
    size: int = 64
    sampling: str = "dense"  # or "uniform"
    order: str = "normal"  # of the frames in training and validation, one of ORDERS; for controls
    # Short side, in pixels, of the decoded frames that are kept in memory. 0: decode again in every epoch.
    keep: int = 0
    # The pixels from 0 to 1 minus mean, over std, of red, green and blue; then blue comes first if bgr.
    mean: tuple[float, float, float] = IMAGENET["mean"]
    std: tuple[float, float, float] = IMAGENET["std"]
    bgr: bool = False
    decoder: str = "pyav"  # whose pixels, or "decord", "torchcodec", to compare with a pipeline built on them
    # Augmentation of clips (not of drawn images, which are all new). No flip by default: it turns "left" into "right".
    crop_scale: tuple[float, float] = (0.8, 1.0)  # the random crop's share of the area
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # the random crop's width / height
    flip: float = 0.0  # probability
    jitter: float = 0.0  # brightness, contrast and saturation change by up to this share
    randaugment: tuple[int, int] = (0, 0)  # random changes of shape and colour a clip; their strength, from 0 to 10
    erasing: float = 0.0  # probability that a box of the clip becomes noise
    mixup: float = 0.0  # clips of a batch are blended in pairs, by a share from Beta(mixup, mixup); 0: not
    cutmix: float = 0.0  # the same with a box instead of a blend; if both are set, each batch draws one of them
    repeats: int = 1  # how often a clip comes in its batch, each time with another view; batch_size counts all of them
    # Optimisation: linear warm-up, then cosine to zero.
    optimizer: str = "adamw"  # or "sgd", with a momentum of 0.9; "nesterov", the same with Nesterov's
    batch_size: int = 32
    epochs: int = 20
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_epochs: float = 1.0
    milestones: tuple[float, ...] = ()  # after each of these epochs the rate is a tenth; there is no cosine then
    backbone_lr: float = 1.0  # the learning rate of all but the classifier, as a share of lr
    decays: str = "matrices"  # what weight_decay acts on, one of DECAYS
    drop_path: float = 0.1
    label_smoothing: float = 0.1
    grad_clip: float = 1.0  # largest gradient norm; 0 turns clipping off
    accumulate: int = 1  # in how many parts a batch is computed; more parts need less memory, the step stays the same
    ema: float = 0.0  # a moving average of the weights, with this decay a step, is what is evaluated and kept; 0: none
    # Mixed precision. true: only on a CUDA device, in bf16 if it has that, else fp16. bf16: on a CPU as well.
    amp: bool | str = True
    compile: bool = False  # torch.compile for the training step
    checkpoint_activations: bool = False  # compute each block again in the backward pass, which needs less memory
    seed: int = 0
    # To start from an image model, which is trained first and then inflated: {"mode": "average" or "centre"}, and
    # settings of that model's recipe, at least "model". Those that are left out are the ones of this recipe.
    inflate: dict = field(default_factory=dict)
    # Fine-tuning; see start.py and finetune.py.
    init: str = ""  # the weights to start from: a file, a name, a run, or inflate: and one of these
    freeze: str = ""  # backbone, stages:N, or patterns of parameter names, separated by commas
    layer_decay: float = 1.0  # each layer learns at this share of the rate of the layer after it
    class_weights: str = ""  # balanced, or a CSV file class,weight

    def __post_init__(self):
        self._need(
            not {"num_classes", "drop_path"} & set(self.config),
            "config",
            "without num_classes (of the data) and drop_path (a setting of its own)",
        )
        for name in ("frames", "stride", "size", "batch_size", "epochs", "repeats", "accumulate"):
            self._need(getattr(self, name) >= 1, name, "at least 1")
        self._need(self.keep == 0 or self.keep >= self.size, "keep", f"0 or at least size={self.size}")
        for name in ("lr", "weight_decay", "warmup_epochs", "grad_clip", "backbone_lr", "mixup", "cutmix"):
            value = getattr(self, name)
            self._need(math.isfinite(value) and value >= 0, name, "finite and at least 0")
        for name in ("drop_path", "label_smoothing", "ema"):
            self._need(0 <= getattr(self, name) < 1, name, "in [0, 1)")
        self._need(0 <= self.jitter <= 1, "jitter", "in [0, 1]")
        for name in ("flip", "erasing"):
            self._need(0 <= getattr(self, name) <= 1, name, "a probability in [0, 1]")
        self._need(all(map(math.isfinite, self.mean)), "mean", "three finite numbers")
        self._need(all(0 < each < math.inf for each in self.std), "std", "three numbers above 0")
        operations, strength = self.randaugment
        good = operations >= 0 and 0 <= strength <= 10
        self._need(good, "randaugment", "operations,strength, the strength at most 10")
        self._need(self.batch_size % self.repeats == 0, "repeats", f"a divisor of batch_size={self.batch_size}")
        self._need(self.accumulate <= self.batch_size, "accumulate", f"at most batch_size={self.batch_size}")
        self._need(self.optimizer in OPTIMIZERS, "optimizer", "'adamw', 'sgd' or 'nesterov'")
        self._need(self.decays in DECAYS, "decays", f"one of {', '.join(DECAYS)}")
        self._need(self.amp in (True, False, "bf16", "fp16"), "amp", "true, false, bf16 or fp16")
        if self.milestones:
            places = (self.warmup_epochs, *self.milestones, self.epochs)
            rising = all(a < b for a, b in zip(places, places[1:]))
            self._need(rising, "milestones", f"rising, after the warm-up and before epochs={self.epochs}")
        self._need(0 < self.layer_decay <= 1, "layer_decay", "above 0 and at most 1")
        self._need(not (self.init and self.inflate), "init", "empty where inflate is given: a run has one start")
        self._need(self.warmup_epochs <= self.epochs, "warmup_epochs", f"at most epochs={self.epochs}")
        self._need(self.sampling in ("dense", "uniform"), "sampling", "'dense' or 'uniform'")
        self._need(self.decoder in DECODERS, "decoder", f"one of {', '.join(DECODERS)}")
        self._need(self.order in ORDERS, "order", f"one of {', '.join(ORDERS)}")
        self._need(self.order == "normal" or self.frames > 1, "order", "normal for clips of one frame")
        low, high = self.crop_scale
        self._need(0 < low <= high <= 1, "crop_scale", "low,high with 0 < low <= high <= 1")
        low, high = self.crop_ratio
        self._need(0 < low <= high < math.inf, "crop_ratio", "low,high with 0 < low <= high")
        self._need(0 <= self.seed < 2**32, "seed", "in [0, 2**32)")
        if self.inflate:
            self._need(self.inflate.get("mode") in ("average", "centre"), "inflate", "with the mode average or centre")
            self._need("model" in self.inflate, "inflate", "with the model, an image model")
            self.image()

    def image(self) -> "Recipe":
        """The recipe of the image model that `inflate` starts from: single frames, and no further start of its own."""
        inherited = dataclasses.replace(self, config={}, frames=1, stride=1, order="normal", inflate={}, freeze="")
        settings = {name: _convert(name, value) for name, value in self.inflate.items() if name != "mode"}
        return dataclasses.replace(inherited, **settings)

    def _need(self, good: bool, name: str, wanted: str) -> None:
        if not good:
            raise CourseError(f"recipe setting {name}={getattr(self, name)!r} must be {wanted}")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """The inverse of `to_json`. Settings that are left out have their default values.

        Raises `CourseError` for an unknown setting or a value that cannot work.
        """
        settings = parse_json(text, "the recipe", "write it as `vt-course train` does")
        if not isinstance(settings, dict) or "model" not in settings:
            raise CourseError('a recipe is a JSON object with at least "model"')
        return cls(**{name: _convert(name, value) for name, value in settings.items()})

    def override(self, assignments: Iterable[str]) -> "Recipe":
        """A copy with settings from `name=value` strings, e.g. `["lr=3e-4", "crop_scale=0.5,1"]`; or `CourseError`."""
        changes = {}
        for assignment in assignments:
            name, equals, value = assignment.partition("=")
            if not equals:
                raise CourseError(f"cannot read {assignment!r}: write a setting as name=value")
            changes[name.strip()] = _convert(name.strip(), value.strip())
        return dataclasses.replace(self, **changes)


_FIELDS = {field.name: field for field in dataclasses.fields(Recipe)}


def _convert(name: str, value):
    """`value`, a string or a JSON value, converted to the type of the setting `name`."""
    if name not in _FIELDS:
        raise CourseError(f"unknown recipe setting {name!r}: {closest(name, _FIELDS)}")
    kind = _FIELDS[name].type
    flags = {"true": True, "1": True, "false": False, "0": False}
    try:
        if kind is bool:
            return flags[str(value).lower()]
        if kind == bool | str:
            return flags.get(str(value).lower(), str(value))
        if kind in (int, float, str):
            return _number(kind, value) if kind is not str else str(value)
        if kind is dict:
            return dict(
                parse_json(value, f"{name}={value[:40]}", "write it as a JSON object")
                if isinstance(value, str)
                else value
            )
        each = typing.get_args(kind)  # of a tuple
        parts = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        if each[-1] is ...:
            return tuple(_number(each[0], part) for part in parts)
        return tuple(_number(kind, part) for kind, part in zip(each, parts, strict=True))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        wanted = f"of type {kind.__name__}" if kind in (bool, int, float, str, dict) else _WANTED.get(name, "low,high")
        raise CourseError(f"recipe setting {name}={value!r:.100} must be {wanted}") from error


_WANTED = dict.fromkeys(("mean", "std"), "three numbers, as in 0.45,0.45,0.45")
_WANTED |= {"milestones": "epochs, as in 11,14", "randaugment": "operations,strength, as in 4,7"}


def _number(kind: type, value):
    if kind is int and float(value) != int(float(value)):
        raise ValueError(value)
    return int(float(value)) if kind is int else float(value)


# One regime for all families that see clips: 4,000 steps of 16 clips, from scratch. On one quiet core they take 3 to 9
# minutes. The weights that ship come from these recipes (results/ship has the runs), those of TimeSformer from 80
# epochs instead of 40: it learns late to tell growing from shrinking. After half as many steps most are as good, but
# video_swin_mini, which stays at chance for its first 800 steps or more, had 65 % of the test clips. Two things
# mattered most. One is the size: with frames of 32 pixels, four times as many steps fit into the same time as with 48.
# The other is `narrow_init` in the configuration of the variants.
MOTION = Recipe(
    model="video_swin_mini",
    frames=8,
    stride=3,
    size=32,
    keep=40,
    crop_scale=(0.7, 1.0),
    crop_ratio=(0.9, 1.1),
    batch_size=16,
    epochs=40,
    lr=8e-4,
    drop_path=0.0,
    label_smoothing=0.0,
)

CLIPS = ("video_swin_mini", "mvit_mini", "mvit_v2_mini", "timesformer_mini", "uniformer_mini", "vit_frames_mini")

RECIPES = {
    **{model: dataclasses.replace(MOTION, model=model) for model in CLIPS},
    # At 8e-4 TimeSformer reads the pair of motions soon, but its direction late: in a trial, 52 % of the validation
    # clips after 1,600 steps, at 4e-4 61 % after 1,000.
    "timesformer_mini": dataclasses.replace(MOTION, model="timesformer_mini", lr=4e-4),
    # 97 % of 1,000 held-out drawn images after training on 40,000, 82 % after 16,000. One core trains on 140 images a
    # second, on a busy machine on 60. Two things matter. The images must be new in every epoch (the model memorised the
    # 1,600 clips), and the shapes must be large and brighter than the background (see data/images.py).
    "swin_mini": Recipe(
        model="swin_mini",
        data="images:shapes",
        frames=1,
        stride=1,
        size=64,
        batch_size=16,
        epochs=10,
        lr=5e-4,
        warmup_epochs=0.2,
        drop_path=0.0,
        label_smoothing=0.0,
    ),
}


def recipe_for(model: str) -> Recipe:
    """The recipe of `RECIPES` for a model. If there is none, raises `CourseError`, which names the closest model."""
    if model not in RECIPES:
        raise CourseError(f"no training recipe for model {model!r}: {closest(model, RECIPES)}")
    return RECIPES[model]
