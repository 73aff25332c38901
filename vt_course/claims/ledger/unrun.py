"""What is said of an accuracy that is not run here: the command that measures it, and what it would take.

Seconds and memory are estimates. They follow from the passes of results/bench_models_cpu.json, measured on two cores of
a CPU: multiply-accumulates per second in each family, and the memory of a pass per number of its first map.
"""

from functools import lru_cache
from math import prod

from vt_course.models.zoo import ZOO
from vt_course.models.zoo.variant import Variant
from vt_course.training.estimates import bench_rows

# The published file whose accuracy the zoo states, where its name is not NAME/k400 or alike (`vt-course weights list`).
RELEASED = {
    "video_swin_base_22k": "video_swin_base/k400_in22k",
    "timesformer_divided_8x224_k600": "timesformer_divided_8x224/k600",
    "timesformer_divided_8x224_ssv2": "timesformer_divided_8x224/ssv2",
    "timesformer_hr_16x448_k600": "timesformer_hr_16x448/k600",
    "timesformer_hr_16x448_ssv2": "timesformer_hr_16x448/ssv2",
    "timesformer_l_96x224_k600": "timesformer_l_96x224/k600",
    "mvit_v2_small_16x4_ssv2": "mvit_v2_small_16x4/ssv2",
    "mvit_v2_base_32x3_ssv2": "mvit_v2_base_32x3/ssv2",
    "mvit_v2_large_40x3_ssv2": "mvit_v2_large_40x3/ssv2",
    "mvit_base_32x3": "mvit_base_32x3/k400_pytorchvideo",
    "mvit_base_24_32x3_k600": "mvit_base_24_32x3/k600",
    "uniformer_small_8": "uniformer_small_8/k400_8x8",
    "uniformer_small_16": "uniformer_small_16/k400_16x4",
    "uniformer_base_8": "uniformer_base_8/k400_8x8",
    "uniformer_base_16": "uniformer_base_16/k400_16x4",
    "uniformer_base_32": "uniformer_base_32/k400_32x4",
    "uniformer_small_16_k600": "uniformer_small_16_k600/k600_16x4",
    "uniformer_base_16_k600": "uniformer_base_16_k600/k600_16x4",
    "uniformer_base_32_k600": "uniformer_base_32_k600/k600_32x4",
    "uniformer_small_16_ssv2": "uniformer_small_16_ssv2/{dataset}_k600",
    "uniformer_small_32_ssv2": "uniformer_small_32_ssv2/{dataset}_k600",
    "uniformer_base_16_ssv2": "uniformer_base_16_ssv2/{dataset}_k400",
    "uniformer_base_32_ssv2": "uniformer_base_32_ssv2/{dataset}_k400",
    "swin_large": "swin_large/in1k_in22k",
    "swin_large_384": "swin_large_384/in1k_in22k",
    "uniformer_image_large_ls": "uniformer_image_large_ls/in1k_tl",
    "uniformer_image_small_384": "uniformer_image_small_384/in1k_tl",
    "uniformer_image_small_plus_384": "uniformer_image_small_plus_384/in1k_tl",
    "uniformer_image_base_384": "uniformer_image_base_384/in1k_tl",
    "uniformer_image_large_ls_384": "uniformer_image_large_ls_384/in1k_tl",
    "timesformer_l_64x224_ssv2": "timesformer_l_64x224_ssv2/ssv2",
}
SAME_NAME = (  # NAME/k400, NAME/k600, NAME/ssv2, NAME/in1k
    "swin_tiny swin_small swin_base swin_base_384 video_swin_tiny video_swin_small video_swin_base "
    "video_swin_base_k600 video_swin_base_ssv2 mvit_base_16x4 mvit_base_24_32x3 mvit_image_base_16 "
    "mvit_v2_small_16x4 mvit_v2_base_32x3 mvit_v2_large_40x3 mvit_v2_image_tiny mvit_v2_image_small "
    "mvit_v2_image_base mvit_v2_image_large timesformer_divided_8x224 timesformer_hr_16x448 "
    "timesformer_l_96x224 uniformer_image_small uniformer_image_small_plus uniformer_image_base "
    "uniformer_image_base_ls"
).split()
DATA = {"K400": "k400", "K600": "k600", "SSv2": "ssv2", "SSv1": "ssv1", "IN-1K": "in1k"}


def not_run(model: str, quantity: str) -> str:
    """Why an accuracy ("top-1 K400") is not run, the command, and an estimate of what it takes."""
    variant = ZOO[model]
    what = "clips" if len(variant.input) == 4 else "images"
    return f"Not run here: there are neither the {what} nor the weights. {command(model, quantity)} {estimate(model)}"


def release(model: str, quantity: str) -> str | None:
    """The name of the published weights of a variant, trained on the data of `quantity`; None if there are none."""
    dataset = DATA.get(quantity.split()[-1], "")
    if model in RELEASED:
        name = RELEASED[model].format(dataset=dataset)
        return name if dataset in name.partition("/")[2] else None
    on_its_own = dataset not in ("k600", "ssv2") or model.endswith(f"_{dataset}")
    return f"{model}/{dataset}" if model in SAME_NAME and on_its_own else None


def command(model: str, quantity: str) -> str:
    """The commands that measure it, one sentence each."""
    variant, name = ZOO[model], release(model, quantity)
    if len(variant.input) == 3:
        fetch = f"`vt-course weights get {name}` fetches the weights." if name else "No weights were published."
        return f"{fetch} No command of the course tests a model on ImageNet: `vt-course evaluate` has videos only."
    clips, crops = variant.views.split("x")
    nearest = (
        "" if crops in "13" else f"It was measured with {variant.views} views, and only 1 or 3 crops are possible. "
    )
    views = f"--protocol {clips}x{crops if crops in '13' else 3} --data folder:CLIPS"
    if name:
        return f"{nearest}`vt-course evaluate {name} {views}`, where CLIPS has a folder for each class."
    return (
        f"{nearest}No weights were published. `vt-course train {model} --data folder:CLIPS --out runs/{model}`, then "
        f"`vt-course evaluate runs/{model} {views}`."
    )


# ---------------------------------------------------------------- estimates


@lru_cache
def measured() -> tuple[dict[str, float], float] | None:
    """(10^9 MACs a second, by the family's name; the most bytes for a number of a first map), or None without the file.

    A row has the frames that it was measured with; costs of Video Swin are in proportion to them.
    """
    rows = bench_rows("forward")
    if rows is None:
        return None
    rates, most = {}, 0.0
    for row in rows:
        if row["model"] in ZOO:
            variant, shape = ZOO[row["model"]], row["input"]
            share = prod(shape) / prod(variant.input)
            rates.setdefault(variant.family.__name__, []).append(row["clips_per_second"] * gmacs(variant) * share)
            most = max(most, 1e6 * row["peak_mb"] / row["batch"] / numbers(variant, shape))
    return {family: min(values) for family, values in rates.items()}, most


def gmacs(variant: Variant) -> float:
    return next(value for quantity, value, _ in variant.stated if quantity == "GMACs")


def numbers(variant: Variant, shape: tuple[int, ...]) -> float:
    """Pixels of the input times the channels of the first map, to which the memory of a pass is about in proportion."""
    config = variant.config
    return prod(shape[1:]) * config.get("embed_dim", config.get("embed_dims", (96,))[0])


def estimate(model: str) -> str:
    """A sentence on the time and the memory, or one on why there is none."""
    variant, known = ZOO[model], measured()
    if known is None or not any(quantity == "GMACs" for quantity, *_ in variant.stated):
        return "There is no estimate of what it takes: no cost is stated."
    rates, most = known
    rate = rates.get(variant.family.__name__, min(rates.values()))
    clips, crops = map(int, variant.views.split("x"))
    seconds = 1000 * clips * crops * gmacs(variant) / rate
    weights = 4e-3 * next((value for quantity, value, _ in variant.stated if quantity == "params M"), 0)
    memory = weights + most * numbers(variant, variant.input) / 1e9
    what = "videos" if len(variant.input) == 4 else "images"
    return (
        f"Estimated from the rates in results/bench_models_cpu.json: {seconds:,.0f} seconds of two cores for 1,000 "
        f"{what} ({variant.views} views), {memory:.1f} GB with one view at a time (--batch-size 1), without reading."
    )
