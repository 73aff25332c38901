"""A model with its weights, and what must be known to show it a video: from a run, or from published weights.

`open_model` is for programs that use a model and do not train it: they need its classes, its clips and its protocol.
"""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from vt_course import need
from vt_course.files import parse_json, parsing, read_utf8
from vt_course.models import ZOO, create, mini_weights
from vt_course.models.mvit import MViT
from vt_course.models.swin import SwinTransformer
from vt_course.models.timesformer import TimeSformer
from vt_course.models.uniformer import UniFormer
from vt_course.models.video_swin import SwinTransformer3D
from vt_course.training.checkpoint import (
    check_whole,
    checksum,
    load_weights,
    model_of,
    need_recipe,
    read_weights,
    run_file,
)
from vt_course.training.protocols import PROTOCOLS, Protocol, Shown, with_views
from vt_course.training.recipes import GREY, Recipe

FAMILIES = {
    SwinTransformer: "swin",
    SwinTransformer3D: "swin",
    MViT: "mvit",
    TimeSformer: "timesformer",
    UniFormer: "uniformer",
}
FACTS = "vt_course"  # the key of `pretrained.usage` in the header of a file of weights
NAMES = {  # what the model names of published weights say that they were trained on
    "in1k": "ImageNet-1K",
    "in22k": "ImageNet-22K",
    "in21k": "ImageNet-21K",
    "k400": "Kinetics-400",
    "k600": "Kinetics-600",
    "ssv1": "Something-Something v1",
    "ssv2": "Something-Something v2",
    "ucf101": "UCF101",
    "hmdb51": "HMDB51",
    "howto100m": "HowTo100M",
}


@dataclass(frozen=True)
class Trained:
    """A model in eval mode, its classes, and how it is shown videos.

    `protocol`: the one of its authors; for a run, the clip that its validation saw. `family`: the key of `PROTOCOLS`
    whose rules a name such as 4x3 means. `recipe` is None for published weights. `trained_on`: a phrase, such as
    "synthetic:motion". `numbered`: the names of the classes are not known, and the classes are "0", "1", ...
    `identity`: the checksum of the weights.
    """

    name: str
    model: torch.nn.Module
    classes: tuple[str, ...]
    shown: Shown
    protocol: Protocol
    family: str
    trained_on: str
    identity: str
    recipe: Recipe | None = None
    numbered: bool = False
    header: dict = dataclasses.field(default_factory=dict)  # of the file

    @property
    def caution(self) -> str:
        """One sentence on what the answers of this model are worth."""
        few = ", ".join(self.classes[:8]) + ", ..." * (len(self.classes) > 8)
        return (
            f"{self.name} was trained on {self.trained_on} and knows {len(self.classes)} classes"
            + ("" if self.numbered else f" ({few})")
            + "; a video of anything else also gets one of them, often with a high probability."
        )


def open_model(path) -> Trained:
    """The model of a run folder, of a `.safetensors` file, or of a mini whose weights the package contains.

    The file is one that `vt-course train` or `vt-course weights get` wrote. Raises `CourseError` if there is none, and
    if its weights do not fit.
    """
    name, file = str(path), Path(path)
    if not file.exists() and name in ZOO and name.endswith("_mini"):
        with parsing(name, "no model whose weights the package contains", "train it"):
            file = mini_weights(name)
    file = run_file(file)
    weights, header = read_weights(file)
    if "recipe" not in header and {"model", "settings", "release"} <= header.keys():
        return _published(file, weights, header)
    if not {"recipe", "classes"} & header.keys() and FACTS in header:  # a run's file has all three
        return _stored(file, weights, header)
    need_recipe(file, header)
    model, recipe, classes = model_of(file, weights, header)
    return Trained(
        name=name,
        model=model,
        classes=classes,
        shown=shown_by(recipe),
        protocol=PROTOCOLS["centre"],
        family=FAMILIES.get(type(model), "swin") + "-ssv2" * (recipe.sampling != "dense"),
        trained_on=recipe.data,
        identity=header.get("checksum") or checksum(weights, header),
        recipe=recipe,
        header=header,
    )


def shown_by(recipe: Recipe) -> Shown:
    """How a run shows its model a video, in validation."""
    pixels = dict(mean=recipe.mean, std=recipe.std, bgr=recipe.bgr)
    return Shown(recipe.frames, recipe.stride, recipe.size, recipe.sampling, keep=recipe.keep, **pixels)


def _stored(file: Path, weights: dict, header: dict) -> Trained:
    """Weights that `pretrained.save_pretrained` stored, of a model without a recipe."""
    again = "name a file that `save_pretrained` wrote"
    told = parse_json(header[FACTS], f"the header of {file}", again, dict)
    with parsing(f"the header of {file}", "none that a model can be built from", again):
        model = create(told["model"], **{name: with_numbers(value) for name, value in told["settings"].items()})
        classes = tuple(map(str, told["classes"]))
        shown = Shown(**told["input"])
        shown = dataclasses.replace(shown, mean=tuple(shown.mean), std=tuple(shown.std))
        trained_on = str(told["trained_on"])
    load_weights(model, weights, file)
    check_whole(file, weights, header)
    return Trained(
        name=told["model"],
        model=model.eval(),
        classes=classes,
        shown=shown,
        protocol=PROTOCOLS["centre"],
        family=FAMILIES[type(model)] + "-ssv2" * (shown.sampling != "dense"),
        trained_on=trained_on,
        identity=header.get("checksum") or checksum(weights, header),
        header=header,
    )


def with_numbers(value):
    """A setting as it was before JSON, which makes the numbers of blocks in a dict into text: {"3": 2} -> {3: 2}."""
    return {int(key): each for key, each in value.items()} if isinstance(value, dict) else value


def _published(file: Path, weights: dict, header: dict) -> Trained:
    """Published weights, as `vt-course weights get` stores them."""
    again = "fetch it again with `vt-course weights get`"
    settings = parse_json(header["settings"], f"the list of settings in {file}", again, dict)
    with parsing(f"the header of {file}", "none that a model can be built from", again):
        model = create(header["model"], **settings)
    load_weights(model, weights, file)
    check_whole(file, weights, header)
    facts = published(header["release"], header["model"], settings, header.get("url", ""))
    names = class_names(header["release"], header["model"])
    return Trained(
        name=header["release"],
        model=model.eval(),
        classes=names or tuple(map(str, range(settings["num_classes"]))),
        identity=header.get("checksum") or checksum(weights, header),
        numbered=names is None,
        header=header,
        **facts,
    )


def published(release: str, variant: str, settings: dict, url: str = "") -> dict:
    """How published weights are shown a video, as `Trained` has it: shown, protocol, family, trained_on.

    The gap between frames stands in the name of the release or of its file: 16x4, divST_8x32. The views are those with
    which the accuracy of the variant is stated. The pixels are normalised as in the authors' configurations; for
    TimeSformer that of SlowFast is assumed, on which its code is built.
    """
    model, data = ZOO[variant], release.partition("/")[2]
    family, size = FAMILIES[model.family], model.input[-1]
    sets = [name for part in data.split("_") if (name := NAMES.get(part))]
    if release.startswith("torchvision/"):
        sets = ["ImageNet-1K" if len(model.input) == 3 else "Kinetics-400"]
    trained_on = ", after ".join(sets[:2]) or f"what {release} says"
    if len(model.input) == 3:
        shown = Shown(1, 1, size, antialias=False)
        return dict(shown=shown, protocol=PROTOCOLS["centre"], family="swin", trained_on=trained_on)
    segments = "ssv" in data.split("_")[0]
    where = {"mvit": variant, "uniformer": data, "timesformer": url}.get(family, "")
    named = re.search(r"_(\d+)x(\d+)(?=_|$)", where)
    stride = int(named[2]) if named else 2  # Video Swin: clip_len=32, frame_interval=2
    family += "-ssv2" * segments
    protocol = PROTOCOLS[family]
    if model.views and model.views != protocol.views and not segments:
        protocol = with_views(protocol, *map(int, model.views.split("x")))
    pixels = {} if family.startswith("swin") or variant.startswith("mvit_v2_large") else GREY
    shown = Shown(
        frames=settings.get("num_frames", model.input[1]),
        stride=stride,
        size=size,
        sampling=protocol.time if segments else "dense",
        rate=30.0 if family == "mvit" else None,
        antialias=False,
        bgr=family == "mvit-ssv2",  # REVERSE_INPUT_CHANNEL
        **pixels,
    )
    return dict(shown=shown, protocol=protocol, family=family, trained_on=trained_on)


def class_names(release: str, variant: str) -> tuple[str, ...] | None:
    """The names of the classes of published weights, in the order of the head; None if they are not known here.

    torchvision lists those of Kinetics-400 and ImageNet-1K in the order that most repositories use. UniFormer's
    Kinetics models have another order (mmaction2 rearranges their heads).
    """
    from torchvision.models import Swin_T_Weights
    from torchvision.models.video import MViT_V1_B_Weights

    data = release.partition("/")[2].split("_")[0]
    image = len(ZOO[variant].input) == 3
    if release.startswith("torchvision/"):
        data = "in1k" if image else "k400"
    if data == "k400" and not variant.startswith("uniformer"):
        return tuple(MViT_V1_B_Weights.KINETICS400_V1.meta["categories"])
    return tuple(Swin_T_Weights.IMAGENET1K_V1.meta["categories"]) if data == "in1k" else None


def name_classes(trained: Trained, file) -> Trained:
    """The same model, with the names of its classes from a text file: one a line, in the order of the head."""
    names = tuple(line.strip() for line in read_utf8(file, "write one class a line").splitlines() if line.strip())
    need(
        len(names) == len(trained.classes) and len(set(names)) == len(names),
        f"{file} names {len(set(names))} classes, and {trained.name} has {len(trained.classes)}; write each once, "
        "one a line, in the order of the model's head",
    )
    return dataclasses.replace(trained, classes=names, numbered=False)
