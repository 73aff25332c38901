"""How long the recipes for ten classes of Kinetics take, and how much memory: estimated, because nobody has run them.

The rates are measured, by `vt-course bench models` on a CPU: for a model of each family, the time and the memory of a
step, and the share of the speed of one large matrix product that it reached. We assume that a smaller model of the
family has the same rates for each multiply-accumulate, and that it reaches the same share on a GPU. The second is the
weaker one: a GPU is often held up by memory, so read its minutes as a lower bound. Decoding is not counted.
"""

import torch

from vt_course import repo_root
from vt_course.files import read_json
from vt_course.models import create
from vt_course.models.cost import count_macs, count_parameters
from vt_course.training.checkpoint import build_model
from vt_course.training.official_recipes import TINY10_CLASSES, TINY10_CLIPS, TINY10_RECIPES
from vt_course.training.recipes import Recipe

GPU = 10e12  # MACs a second of large matrix products in half precision: a third of what NVIDIA states for a T4
LIKE = {  # the measured model of each family; UniFormer was not measured, and gets the least favourable rates
    "tiny10-video_swin": "video_swin_tiny",
    "tiny10-mvit": "mvit_base_16x4",
    "tiny10-mvit_v2": "mvit_v2_small_16x4",
    "tiny10-timesformer": "timesformer_divided_8x224",
}
STATE = 16  # bytes a parameter in float32: itself, its gradient and the two moments of AdamW
ASSUMED = (
    "Estimates, not measurements: `vt-course bench models` on a CPU (results/bench_models_cpu.json) gave time and "
    f"memory for each MAC; the GPU is assumed to do {2 * GPU / 1e12:g} TFLOP/s in large matrix products, of which a "
    "model gets the same share as on the CPU. UniFormer was not measured, and has the least favourable rates. Memory "
    "is for float32; reading clips is not counted."
)


def bench_rows(what: str) -> list[dict] | None:
    """What the recorded `vt-course bench models` measured of a pass, "forward" or "forward+backward": a row a model.

    The input of a row is its shape without the batch. None if the results are not there, as in a package without its
    repository.
    """
    path = repo_root() / "results" / "bench_models_cpu.json"
    if not path.is_file():
        return None
    runs = read_json(path, "make it anew with `vt-course bench models --json`", dict)["runs"]
    rows = [row for run in runs for row in run["rows"] if row["pass"] == what]
    return [row | {"input": tuple(map(int, row["input"].split("x")))} for row in rows]


def measured_rates() -> dict[str, dict] | None:
    """{model: dict(share, seconds, bytes)} of training steps: seconds and bytes for each MAC of a forward pass.

    share: of the speed of a large matrix product. None without `bench_rows`.
    """
    rows = bench_rows("forward+backward")
    if rows is None:
        return None
    rates = {}
    for row in rows:
        if row["model"] in LIKE.values():
            with torch.device("meta"):
                model = create(row["model"])
            macs = row["batch"] * count_macs(model, (1, *row["input"]))
            seconds, memory = row["ours_ms"] / 1e3 / macs, row["peak_mb"] * 1e6 / macs
            rates[row["model"]] = dict(share=row["matmul_share"], seconds=seconds, bytes=memory)
    return rates


def estimate(recipe: Recipe, rates: dict, like: str | None) -> dict:
    """dict(gmacs, steps, cpu_hours, gpu_minutes, gpu_gb) of a recipe on the clips of `tiny10`.

    rates: `measured_rates`. like: a model among them; None takes the least favourable of each rate. cpu_hours: on the
    machine of the bench.
    """
    rate = rates.get(like) or {
        key: pick(each[key] for each in rates.values())
        for key, pick in (("share", min), ("seconds", max), ("bytes", max))
    }
    with torch.device("meta"):
        model = build_model(recipe, TINY10_CLASSES)
    macs = count_macs(model, (1, 3, recipe.frames, recipe.size, recipe.size))
    clips = TINY10_CLIPS * recipe.epochs
    memory = recipe.batch_size * macs * rate["bytes"] + STATE * count_parameters(model)
    return {
        "gmacs": macs / 1e9,
        "steps": recipe.epochs * -(-TINY10_CLIPS // recipe.batch_size),
        "cpu_hours": clips * macs * rate["seconds"] / 3600,
        "gpu_minutes": clips * 3 * macs / (rate["share"] * GPU) / 60,  # a backward pass takes twice the forward one
        "gpu_gb": memory / 1e9,
    }


def estimates(names) -> dict[str, dict]:
    """`estimate` for some of the recipes `tiny10-*`; {} without the results of the bench."""
    rates = measured_rates()
    return {name: estimate(TINY10_RECIPES[name], rates, LIKE.get(name)) for name in names if rates}
