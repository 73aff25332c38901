"""Recipes by name: those that the authors published, one for a Kinetics subset of each family, and our minis'.

A published recipe is for a batch that needs many GPUs. `resolve` fits it to the batch at hand by the linear rule (Goyal
et al., arXiv 1706.02677): half the batch, half the learning rate.
"""

import dataclasses
import re
from dataclasses import dataclass, field

from vt_course import CourseError, closest, data_roots, need, own_data
from vt_course.models import ZOO
from vt_course.training.recipes import GREY, IMAGENET, RECIPES, Recipe

AT_HAND = 16  # clips of a step, for a published recipe, if the user does not say


@dataclass(frozen=True)
class Published:
    """A recipe as its authors published it. `settings` are those of a `Recipe` without model, frames and size.

    models: a regular expression for the models that it trains without being named, the first of which is `example`.
    strides: the stride for each number of frames. own: settings of some models, by a regular expression.
    grade: where it was read. "code": all in the authors' configuration file; "paper, code": in both, and where they
    disagree, `differs` says so; "partly": a value is ours, which `differs` names. differs: what is not as published.
    """

    models: str
    example: str
    source: str
    grade: str
    settings: dict
    strides: dict[int, int] = field(default_factory=dict)
    own: dict[str, dict] = field(default_factory=dict)
    differs: str = ""

    def recipe(self, model: str | None = None) -> Recipe:
        """The recipe of a model of the zoo (None: of `example`), for its input, and with its rate of drop path if the
        zoo states one."""
        model = model or self.example
        frames, size = shape(model)
        settings = {**self.settings, "stride": self.strides.get(frames, self.settings.get("stride", 1))}
        if "drop_path" in ZOO[model].config:
            settings["drop_path"] = ZOO[model].config["drop_path"]
        for pattern, changes in self.own.items():
            if re.fullmatch(pattern, model):
                settings |= changes
        if frames == 1:
            settings["stride"] = 1
        return Recipe(model=model, data="", frames=frames, size=size, **settings)


def shape(model: str) -> tuple[int, int]:
    """(frames, size) of the input of a model of the zoo; one frame for an image model."""
    _, *frames, size, _ = ZOO[model].input
    return (frames or [1])[0], size


KINETICS_CROP = dict(crop_scale=(0.08, 1.0), crop_ratio=(3 / 4, 4 / 3))
# A square of 224 from a picture whose short side is drawn from 256 to 320: for one of 4:3, 37 to 58 % of its area.
JITTER_CROP = dict(crop_scale=(0.37, 0.58), crop_ratio=(1.0, 1.0))
MIXED = dict(mixup=0.8, cutmix=1.0, label_smoothing=0.1, erasing=0.25, randaugment=(4, 7))
LARGE = {r"mvit_v2_large.*": IMAGENET}  # its configurations have the means and deviations of ImageNet
TIMESFORMER = (
    GREY
    | JITTER_CROP
    | dict(
        batch_size=16,
        epochs=15,
        lr=5e-3,
        optimizer="sgd",
        milestones=(11, 14),
        warmup_epochs=0,
        weight_decay=1e-4,
        decays="all",
        grad_clip=0.0,
        label_smoothing=0.0,
    )
)
SLOWFAST = "facebookresearch/SlowFast configs"
VIDEO_SWIN = "SwinTransformer/Video-Swin-Transformer configs/recognition/swin"
TIMM = "torchvision's RandAugment for timm's (data/augment.py); the cosine ends at 0, not at 1e-6"
WEIGHTS = "starts from weights for Kinetics (--init)"
OF_TIMESFORMER = "the paper's batch is 16, the released code accumulates 64; starts from an image model (--init)"

PUBLISHED: dict[str, Published] = {
    "swin_in1k": Published(
        r"swin_(?!mini).*",
        "swin_tiny",
        "Swin appendix A2.1; microsoft/Swin-Transformer config.py",
        "paper, code",
        dict(batch_size=1024, epochs=300, lr=1e-3, warmup_epochs=20, weight_decay=0.05, grad_clip=1.0, flip=0.5)
        | KINETICS_CROP
        | MIXED
        | dict(randaugment=(2, 9)),
        differs=f"config.py clips gradients at 5, the paper at 1; {TIMM}",
    ),
    "video_swin_ssv2": Published(
        r"video_swin_.*_ssv2",
        "video_swin_base_ssv2",
        f"{VIDEO_SWIN}/swin_base_patch244_window1677_sthv2.py",
        "partly",
        dict(batch_size=512, epochs=60, lr=3e-4, backbone_lr=0.1, warmup_epochs=2.5, weight_decay=0.05, grad_clip=0.0)
        | dict(decays="biases", sampling="uniform", label_smoothing=0.1, erasing=0.25, randaugment=(4, 7))
        | KINETICS_CROP,
        differs=f"{WEIGHTS}; the batch is that of the Kinetics configuration; torchvision's RandAugment for timm's",
    ),
    "video_swin_k400": Published(
        r"video_swin_(?!mini).*",
        "video_swin_tiny",
        f"{VIDEO_SWIN}/swin_tiny_patch244_window877_kinetics400_1k.py",
        "code",
        dict(batch_size=256, epochs=30, lr=1e-3, backbone_lr=0.1, warmup_epochs=2.5, weight_decay=0.02, grad_clip=0.0)
        | dict(decays="biases", label_smoothing=0.0, flip=0.5, stride=2)
        | KINETICS_CROP,
        own={
            r"video_swin_(small|base|large).*": dict(batch_size=512),
            r"video_swin_(base|large).*": dict(weight_decay=0.05),
            r"video_swin_(base_22k|base_k600|large.*)": dict(lr=3e-4),
        },
        differs="starts from an image model (inflate); the batch of 256 or 512 is 8 GPUs of 8 videos, 4 or 8 times "
        "accumulated, while notes on the paper say 64; norms and bias tables do not decay and learn as slowly as the "
        "rest of the backbone, as the configuration says (mmcv lets the longest matching key win, by which norms decay "
        "and bias tables learn at the full rate: read, not run)",
    ),
    "mvit_ssv2": Published(
        r"mvit_.*_ssv2",
        "mvit_v2_small_16x4_ssv2",
        f"{SLOWFAST}/SSv2/MVITv2_S_16x4.yaml",
        "code",
        dict(batch_size=16, epochs=100, lr=2.5e-3, optimizer="nesterov", warmup_epochs=3, weight_decay=1e-4)
        | dict(grad_clip=0.0, sampling="uniform", bgr=True)
        | GREY
        | JITTER_CROP
        | MIXED,
        own=LARGE,
        differs=f"{WEIGHTS}; {TIMM}",
    ),
    "mvit_k400": Published(
        r"mvit_(?!image|v2_image|mini|v2_mini).*",
        "mvit_base_16x4",
        f"MViT appendix D.1; {SLOWFAST}/Kinetics/MVIT_B_16x4_CONV.yaml, MVITv2_S_16x4.yaml",
        "paper, code",
        dict(batch_size=512, epochs=200, lr=1.6e-3, warmup_epochs=30, weight_decay=0.05, grad_clip=1.0, flip=0.5)
        | dict(repeats=2, stride=4)
        | GREY
        | KINETICS_CROP
        | MIXED,
        strides={16: 4, 32: 3, 40: 3, 64: 3},
        own=LARGE,
        differs=TIMM,
    ),
    "timesformer_ssv2": Published(
        r"timesformer_.*_ssv2",
        "timesformer_divided_8x224_ssv2",
        "TimeSformer section 4; facebookresearch/TimeSformer configs/SSv2",
        "partly",
        TIMESFORMER | dict(sampling="uniform"),
        differs=f"no flip, because classes have directions; {OF_TIMESFORMER}",
    ),
    "timesformer_k400": Published(
        r"timesformer_(?!mini).*",
        "timesformer_divided_8x224",
        "TimeSformer section 4; facebookresearch/TimeSformer configs/Kinetics",
        "paper, code",
        TIMESFORMER | dict(flip=0.5, stride=32),
        strides={8: 32, 16: 16, 96: 4},
        differs=OF_TIMESFORMER,
    ),
    "uniformer_ssv2": Published(
        r"uniformer_.*_ssv2",
        "uniformer_small_16_ssv2",
        "UniFormer appendix C; Sense-X/UniFormer video_classification/exp/uniformer_b16_sthv2_prek400/run.sh",
        "paper, code",
        dict(batch_size=64, epochs=50, lr=2e-4, warmup_epochs=5, weight_decay=0.05, grad_clip=0.0, repeats=2)
        | dict(sampling="uniform")
        | GREY
        | KINETICS_CROP
        | MIXED,
        differs=f"{WEIGHTS}; the batch is 32 videos, each twice; {TIMM}",
    ),
    "uniformer_k400": Published(
        r"uniformer_(?!image|mini).*",
        "uniformer_small_16",
        "UniFormer appendix C; Sense-X/UniFormer video_classification/exp/uniformer_s16x8_k400/run.sh, config.yaml",
        "paper, code",
        dict(batch_size=64, epochs=110, lr=1e-4, warmup_epochs=10, weight_decay=0.05, grad_clip=0.0, repeats=2)
        | dict(flip=0.5, stride=4)
        | GREY
        | KINETICS_CROP
        | MIXED,
        strides={8: 8, 16: 4, 32: 4},
        own={r"uniformer_.*_8": dict(epochs=100)},
        differs=f"starts from an image model (inflate); the batch is 32 videos, each twice; {TIMM}",
    ),
}

TINY10_CLASSES, TINY10_CLIPS = 10, 500  # for training, as `vt-course data kinetics --preset tiny10` fetches them
# Those clips from scratch: 3,200 steps of 16
# clips of 16 frames, 4 apart. One regime for all families, whose models lie between mini and small: 5 to 12 million
# parameters, 3 to 13 GMACs a clip. It was tried for a few steps only, on other clips.
TINY10 = Recipe(
    model="video_swin_tiny",
    data="",
    frames=16,
    stride=4,
    size=128,
    crop_scale=(0.25, 1.0),
    flip=0.5,
    randaugment=(2, 7),
    erasing=0.25,
    batch_size=16,
    epochs=100,
    lr=2.5e-4,
    warmup_epochs=5.0,
    label_smoothing=0.1,
)
SMALL_MODELS = {
    # Three stages of 32, 16 and 8 rows and columns, in windows of 8 frames and 8 x 8 patches.
    "video_swin": ("video_swin_tiny", {"depths": [2, 2, 6], "num_heads": [3, 6, 12], "window": [8, 8, 8]}),
    "mvit": ("mvit_base_16x4", {"embed_dim": 48}),
    "mvit_v2": ("mvit_v2_small_16x4", {"embed_dim": 48}),
    "timesformer": ("timesformer_divided_8x224", {"embed_dim": 256, "depth": 8, "num_heads": 4}),
    "uniformer": ("uniformer_small_16", {"embed_dims": [32, 64, 160, 256], "head_dim": 32}),
}
TINY10_RECIPES = {
    f"tiny10-{family}": dataclasses.replace(TINY10, model=model, config=config)
    for family, (model, config) in SMALL_MODELS.items()
}

NAMES = (*RECIPES, *TINY10_RECIPES, *PUBLISHED)


def recipe_table() -> list[dict]:
    """A row for each recipe: dict(name, model, source, grade, differs, settings). settings: those of `Recipe`."""
    ours = {"differs": "", "grade": "ours"}
    minis = [dict(name=name, source="training/recipes.py", recipe=recipe, **ours) for name, recipe in RECIPES.items()]
    tiny = [
        dict(name=name, source="training/official_recipes.py; not yet run to its end", recipe=recipe, **ours)
        for name, recipe in TINY10_RECIPES.items()
    ]
    published = [
        dict(name=name, source=each.source, grade=each.grade, differs=each.differs, recipe=each.recipe())
        for name, each in PUBLISHED.items()
    ]
    rows = [*minis, *tiny, *published]
    return [
        {"name": row["name"], "model": row["recipe"].model}
        | {key: row[key] for key in ("grade", "source", "differs")}
        | {"settings": dataclasses.asdict(row["recipe"])}
        for row in rows
    ]


def resolve(model: str | None, name: str | None, assignments: list[str]) -> tuple[Recipe, str | None]:
    """(the recipe to train with, a sentence on what it is or None) for what a user types.

    model: of the zoo; None: the recipe's. name: of a recipe; None: that of the model, see `name_for`. assignments:
    settings as `Recipe.override` takes them. A published recipe is fitted to the batch at hand, see `fitted`.
    Raises `CourseError` for a name that is not known, with the closest, and for a recipe without clips.
    """
    if model is None:
        need(name, "name a model, or a recipe with --recipe; `vt-course recipes` lists them")
    elif model not in ZOO:
        raise CourseError(f"unknown model {model!r}: {closest(model, ZOO)}")
    if name is None:
        name = name_for(model)
    elif name not in NAMES:
        raise CourseError(f"unknown recipe {name!r}: {closest(name, NAMES)}")
    given = {assignment.partition("=")[0].strip() for assignment in assignments}
    if name is None:
        recipe, told = plain(model).override(assignments), f"no published recipe for {model}: a plain one"
    elif name in PUBLISHED:
        recipe, told = fitted(PUBLISHED[name].recipe(model), assignments, given)
        told = f"recipe {name} ({PUBLISHED[name].source}) {told}"
    else:
        recipe, told = (RECIPES | TINY10_RECIPES)[name], None
        if model not in (None, recipe.model):
            recipe = dataclasses.replace(recipe, model=model, config={})
        recipe = recipe.override(assignments)
    if recipe.model not in ZOO:  # `--set model=...`
        raise CourseError(f"unknown model {recipe.model!r}: {closest(recipe.model, ZOO)}")
    if not recipe.data:
        folders = (root / "kinetics" for root in data_roots())
        folder = next((each for each in folders if (each / "train.csv").is_file()), None)
        need(
            folder,
            f"{own_data() / 'kinetics'} has no clips of Kinetics: name clips with --data, or fetch ten classes with "
            "`vt-course data kinetics --preset tiny10`",
        )
        recipe = dataclasses.replace(recipe, data=f"csv:{folder / 'train.csv'},{folder / 'val.csv'}")
    return recipe, told


def name_for(model: str) -> str | None:
    """The recipe of a model that is trained without naming one: of a mini its own, else the published one or None."""
    if model in RECIPES:
        return model
    return next((name for name, each in PUBLISHED.items() if re.fullmatch(each.models, model)), None)


def plain(model: str) -> Recipe:
    """A recipe for a model without a published one: AdamW, 30 epochs, mild augmentation, at the model's input size."""
    frames, size = shape(model)
    seen = dict(frames=frames, stride=4 if frames > 1 else 1, size=size, crop_scale=(0.25, 1.0), flip=0.5)
    return Recipe(model, data="", batch_size=AT_HAND, epochs=30, lr=2.5e-4, warmup_epochs=2.5, **seen)


def fitted(published: Recipe, assignments: list[str], given: set[str]) -> tuple[Recipe, str]:
    """(the recipe with the user's settings, what of it was scaled). What the user has set stays as it is.

    The batch is `AT_HAND`, the learning rate follows the batch, and warm-up and milestones follow the epochs.
    """
    if "batch_size" not in given:
        assignments = [f"batch_size={min(published.batch_size, AT_HAND)}", *assignments]
    asked = dataclasses.replace(published, warmup_epochs=0.0, milestones=()).override(assignments)
    share, shorter = asked.batch_size / published.batch_size, asked.epochs / published.epochs
    scaled = {
        "lr": published.lr * share,
        "warmup_epochs": published.warmup_epochs * shorter,
        "milestones": tuple(epoch * shorter for epoch in published.milestones),
    }
    recipe = dataclasses.replace(asked, **{key: value for key, value in scaled.items() if key not in given})
    notes = []
    if share != 1:
        notes.append(f"batch_size={asked.batch_size} for {published.batch_size}")
        notes += [f"so lr={recipe.lr:.3g} for {published.lr:g}"] if "lr" not in given else []
    if shorter != 1:
        notes.append(f"epochs={asked.epochs} for {published.epochs}")
    return recipe, f"scaled: {', '.join(notes)}" if notes else "as published"
