"""A folder from which a model can be used again: its weights, what must be known to use them, and a card for people.

    config.json         the facts below, for other programs
    model.safetensors   the weights; their header holds the same facts
    README.md           the card: data, recipe, accuracy, licence, what the model must not be used for

The names of the files are those of huggingface_hub's `PyTorchModelHubMixin`, so the folder can be uploaded as it is.
"""

import dataclasses
import json
import re
from pathlib import Path

from vt_course import CourseError, __version__, need
from vt_course.data import drawn
from vt_course.files import atomic_write, parse_json, read_json, read_utf8
from vt_course.training.checkpoint import save_weights
from vt_course.training.experiments.statistics import wilson
from vt_course.training.protocols import Shown
from vt_course.training.recipes import Recipe
from vt_course.training.trained import FACTS, Trained, open_model

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
AGAIN = "name a folder that `save_pretrained` wrote"


def usage(made_of: tuple[str, dict], classes, shown: Shown, trained_on: str) -> dict:
    """What must be known to use the weights of a model of `create`: how to build it, and how to show it a video.

    model, settings: `create(model, **settings)` builds it; they are `made_of`, which every model of `create` has.
    classes: their names, in the order of the logits. input: the frames and pixels of a clip, as in `protocols.Shown`; a
    pixel from 0 to 1 becomes (pixel - mean) / std.
    """
    name, settings = made_of
    return json.loads(  # tuples become lists, as in a file
        json.dumps(
            {
                "model": name,
                "settings": settings,
                "classes": list(classes),
                "input": dataclasses.asdict(shown),
                "trained_on": trained_on,
                "vt_course": __version__,
            }
        )
    )


def usage_of(trained: Trained) -> dict:
    return usage(trained.model.made_of, trained.classes, trained.shown, trained.trained_on)


def save_pretrained(source, folder, *, classes=None, shown: Shown | None = None, trained_on: str = "") -> Path:
    """Write a folder for `from_pretrained`. Returns its path.

    `source` is what `trained.open_model` opens: a run, a file of weights, or the name of a mini. The card that `train`
    wrote into a run folder is copied. Or it is a model of `create` that was trained in another way. Then `classes` are
    their names, `shown` says how the model saw videos, and `trained_on` names the data, for the card.

    Raises `CourseError` for a folder that holds something else.
    """
    folder = Path(folder)
    if isinstance(source, (str, Path)):
        trained = open_model(source)
        model, header, card = trained.model, trained.header, find_card(source)
        told = usage_of(trained)
        card = card or card_text(told, trained.recipe, header)
    else:
        need(
            hasattr(source, "made_of"), f"{type(source).__name__} was not built by vt_course.models.create; build it so"
        )
        need(classes and shown, "give save_pretrained the classes of the model, and how it is shown videos (`shown`)")
        model, header, told = (
            source,
            {"format": "pt"},
            usage(source.made_of, classes, shown, trained_on or "data not named"),
        )
        card = card_text(told)
    others = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    need(others <= {CONFIG, WEIGHTS, CARD}, f"{folder} holds other files; choose an empty or a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(f"cannot make the folder {folder} ({error.strerror}); choose another one") from error
    save_weights(folder / WEIGHTS, model, header | {FACTS: told})
    atomic_write(folder / CONFIG, json.dumps(told, indent=2, ensure_ascii=False).encode())
    atomic_write(folder / CARD, card.encode())
    return folder


def from_pretrained(where, revision: str | None = None) -> Trained:
    """The model in a folder of `save_pretrained`, with its classes and what it is shown; `.model` is the network.

    `where` may also be an address on the Hugging Face hub, OWNER/NAME, of such a folder. That needs the package
    huggingface_hub. `revision`: a branch, tag or commit there. No code of the folder is run.

    Raises `CourseError` for a folder that is not whole, or whose files do not belong together.
    """
    folder = Path(where)
    if not folder.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(where)):
        folder = from_hub(str(where), revision)
    need(folder.is_dir(), f"there is no folder {folder}; {AGAIN}")
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    need(not missing, f"{folder} has no {' and no '.join(missing)}; {AGAIN}")
    told = read_json(folder / CONFIG, AGAIN, dict)
    need("input" in told and "model" in told, f"{folder / CONFIG} is not one of vt_course; {AGAIN}")
    trained = open_model(folder / WEIGHTS)
    mine = usage_of(trained)
    differ = [name for name in mine if name != "vt_course" and told.get(name) != mine[name]]
    need(
        not differ,
        f"{folder / CONFIG} and {WEIGHTS} do not belong together: they differ in {', '.join(differ)}; {AGAIN}",
    )
    return trained


def from_hub(address: str, revision: str | None) -> Path:
    """Download the three files of a folder from the Hugging Face hub, or find them where they were stored before."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CourseError(
            f"there is no folder {address}, and fetching it from the hub needs the package huggingface_hub, which is "
            "not installed: pip install huggingface_hub"
        ) from error
    try:
        return Path(snapshot_download(address, revision=revision, allow_patterns=[CONFIG, WEIGHTS, CARD]))
    except Exception as error:  # of the network and of the hub, of many kinds
        reason = str(error).strip().partition("\n")[0][:200]
        raise CourseError(
            f"there is no folder {address}, and the hub did not give it ({reason}); check the address and the network"
        ) from error


# ---------------------------------------------------------------- the card


def find_card(source) -> str | None:
    """The card beside the weights of a run, or None."""
    path = Path(source)
    path = (path if path.is_dir() else path.parent) / CARD
    known = path.is_file() and (path.parent / CONFIG).is_file()  # a README.md of anything else is no card
    return read_utf8(path, "delete it") if known else None


def card_text(told: dict, recipe: Recipe | None = None, header: dict = {}, results: list[str] = ()) -> str:
    """A model card (Markdown) from the `usage` of a model. `results`: sentences on its accuracy."""
    data, shown, classes = told["trained_on"], told["input"], told["classes"]
    ours = drawn(data)
    licence = header.get("licence") or ("MIT" if ours else None)
    image = shown["frames"] == 1
    clips = "images" if image else f"clips of {shown['frames']} frames, {shown['stride']:g} apart,"
    settings = (
        [f"- {name}: {json.dumps(value)}" for name, value in dataclasses.asdict(recipe).items()] if recipe else []
    )
    return "\n".join(
        [
            "---",
            "library_name: vt_course",
            f"license: {licence.lower() if licence in ('MIT', 'Apache-2.0', 'BSD-3-Clause') else 'other'}",
            f"pipeline_tag: {'image' if image else 'video'}-classification",
            "---",
            f"# {told['model']}, trained on {data}",
            "",
            "```python",
            "from vt_course.training.pretrained import from_pretrained",
            "",
            "trained = from_pretrained(FOLDER)  # this folder, or its address on the hub",
            "trained.model, trained.classes, trained.shown  # the network, its classes, and how it is shown videos",
            "```",
            "",
            "## Data",
            "",
            f"Trained on {data}: {len(classes)} classes ({', '.join(classes[:8])}{', ...' * (len(classes) > 8)}).",
            f"It sees {clips} of {shown['size']} x {shown['size']} pixels. A pixel from 0 to 1 becomes",
            f"(pixel - mean) / std, with mean {shown['mean']} and std {shown['std']}{', blue first' * shown['bgr']}.",
            "",
            "## Recipe",
            "",
            *(
                settings
                or ["Not recorded." if not header.get("url") else f"Published by its authors: {header['url']}."]
            ),
            "",
            "## Accuracy",
            "",
            *(results or stated(header)),
            "",
            "## Licence of the weights",
            "",
            f"{licence}." * bool(licence)
            + " The code of vt_course makes the data, so the weights have its licence." * ours
            + f"Not decided. It depends on what the owners of {data} allow. Find that out before you pass the weights "
            "on, and write it here." * (not licence),
            "",
            "## What it must not be used for",
            "",
            '- It answers every video with one of its classes and cannot say "none of these".',
            "- It has seen drawn shapes only: its accuracy says nothing about films of the world."
            if ours
            else f"- Its accuracy is that on {data}. Other videos look different, and it can be much lower there.",
            "- It must not be used to recognise, watch or judge people, nor where a wrong answer can harm somebody.",
            "",
        ]
    )


def stated(header: dict) -> list[str]:
    """What the header of a file of weights says of its accuracy, as sentences."""
    measure = "`vt-course evaluate` measures it."
    again = "name a file that `vt-course train` wrote"
    metric = parse_json(header.get("metric", "{}"), "the metric in the header", again, dict)
    if "val_top1" not in metric:
        return [f"Not recorded. {measure}"]
    right = f"{100 * metric['val_top1']:.1f} % of the validation clips were right when it was saved."
    return [f"{right} How many clips there were is not recorded, so there is no interval. {measure}"]


def results_of(rows: list[dict], best: dict, clips: int, classes: int) -> list[str]:
    """Sentences on the accuracy of a run, from the rows of its epochs, whose validation saw `clips` clips."""

    def share(row: dict) -> str:
        low, high = wilson(row["val_top1"], clips)
        ends = f"{100 * low:.1f} to {100 * high:.1f} %"
        return f"{100 * row['val_top1']:.1f} % of {clips:,} validation clips are right (95 % interval: {ends})"

    last = rows[-1]
    return [
        f"last.safetensors, after epoch {last['epoch']}: {share(last)}; chance is {100 / classes:.1f} %.",
        f"best.safetensors, after epoch {best['epoch']}: {share(best)}. These clips chose the "
        "epoch, which makes the number a little too high.",
        "Nothing else was measured. `vt-course evaluate` measures other clips; with `--split test`, those on which "
        "nothing was tuned, if the data have some.",
    ]
