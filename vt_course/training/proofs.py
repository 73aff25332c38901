"""Two proofs that an explanation means something: `python -m vt_course.training.proofs` writes results/explain.json.

(a) Inside. The renderer knows where the moving shape is, and only the shape tells the motion. So the share of an
    explanation inside the shape, divided by the shape's share of the area, should be at least `explain.INSIDE`.
(b) Random weights (Adebayo et al., arXiv 1810.03292, section 3.1). The layers get fresh weights one after the other,
    the classifier first. An explanation of what was learnt must change. If its ranks still agree with the true
    picture's when nothing learnt is left, it shows the clip or the architecture instead.

Both use the weights that ship and clips that nobody has trained on. Means over clips have their 95 % interval.
"""

import json
import tempfile
import time
from contextlib import closing
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vt_course.data import synthetic
from vt_course.data.clips import dense_indices
from vt_course.data.reader import ClipReader
from vt_course.files import atomic_write
from vt_course.machine import provenance
from vt_course.models import mini_weights
from vt_course.training import explain
from vt_course.training.checkpoint import build_model, restore
from vt_course.training.experiments.statistics import compare
from vt_course.training.protocols import PROTOCOLS, read_views, to_floats
from vt_course.training.trained import shown_by

FAMILIES = ("video_swin_mini", "mvit_mini", "mvit_v2_mini", "timesformer_mini", "uniformer_mini")
INSIDE_CLIPS, RANDOM_CLIPS = 32, 8
SEED = 31  # of the clips; the course's own have 0
FRAMES, SIZE = 32, 112  # as rendered


def drawn_clips(recipe, count: int, seed: int = SEED) -> list[tuple[Tensor, Tensor, str]]:
    """Fresh clips as a run of this recipe sees them: (clip (C, T, H, W), mask (T, 112, 112) from 0 to 1, motion).

    They are encoded and read as files, because a run sees what is decoded and scaled on the way that it was trained on.
    """
    found, shown = [], shown_by(recipe)
    frames = dense_indices(FRAMES, recipe.frames, recipe.stride)
    with tempfile.TemporaryDirectory(prefix="vt_course_proofs_") as folder:
        file = Path(folder, "clip.mp4")
        for number, (motion, appearance) in enumerate(synthetic.labels(count, 2, seed)):
            same = dict(frames=FRAMES, size=SIZE, key=(seed, 2, number))
            file.write_bytes(synthetic.encode(synthetic.clip_array(motion, appearance, **same)))
            with closing(ClipReader(file)) as reader:
                [clip] = to_floats(read_views(reader, PROTOCOLS["centre"], shown), shown)
            found.append((clip, torch.from_numpy(synthetic.mask_array(motion, appearance, **same)[frames]), motion))
    return found


def all_maps(model, clip: Tensor, target: int) -> dict[tuple[str, str], Tensor]:
    """(method, layer) -> map, for every method. Of attention, every layer with the mean of its heads."""
    layers = explain.attention_layers(model, clip)
    maps = {("attention", layer.name): explain.attention_map(layer) for layer in layers}
    maps["rollout", ""] = explain.rollout_map(layers)
    return maps | {(name, ""): explain.METHODS[name].run(model, clip, target)[0] for name in ("gradcam", "occlusion")}


def times_its_area(shares: Tensor, mask: Tensor) -> float:
    """The share inside a mask, divided by the mask's share of the area. 1: as if spread evenly. An empty map has 0."""
    cover = F.adaptive_avg_pool3d(mask[None], tuple(shares.shape))[0]  # of each place, the part inside
    return float((shares * cover).sum() / cover.mean())


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's: Pearson's of the ranks, ties at their mean rank. 0 where one map is the same everywhere."""

    def ranks(values):
        _, inverse, counts = np.unique(values.flatten().numpy(), return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[inverse.ravel()]

    a, b = ranks(a), ranks(b)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else 0.0


def steps_down(model) -> list[tuple[str, list[str]]]:
    """(name, names of weights) of the parts of a model, from the classifier down to the embedding of patches."""
    keys = list(model.state_dict())
    blocks = [explain.BLOCK.match(key) for key in keys]
    inside = [k for k, block in enumerate(blocks) if block]

    def part(k: int) -> str:
        if blocks[k]:
            return blocks[k][0]
        return "embedding" if k < inside[0] else "classifier" if k > inside[-1] else keys[k].rpartition(".")[0]

    return [(name, [keys[k] for k in group]) for name, group in groupby(range(len(keys)), part)][::-1]


def interval(values: list[float]) -> dict:
    """The mean of values and the ends of its 95 % interval."""
    found = compare(dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.0))
    return {key: round(found[key], 3) + 0.0 for key in ("mean", "low", "high")}  # + 0.0: no minus zero


def inside(model, classes, clips) -> dict[tuple[str, str], list[float]]:
    """Proof (a): (method, layer) -> for each clip, how many times its share of the area the shape gets."""
    found = {}
    for clip, mask, motion in clips:
        for key, shares in all_maps(model, clip, classes.index(motion)).items():
            found.setdefault(key, []).append(times_its_area(shares, mask))
    return found


def cascade(model, recipe, classes, clips) -> dict[tuple[str, str], dict[str, list[float]]]:
    """Proof (b): (method, layer) -> part of the model -> for each clip, the rank correlation with the true picture.

    The parts lose their weights one after the other, for those of a network that was never trained. `model` ends with
    random weights.
    """
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        fresh = build_model(recipe, len(classes)).state_dict()
    true = [all_maps(model, clip, classes.index(motion)) for clip, _, motion in clips]
    found = {key: {} for key in true[0]}
    for part, names in steps_down(model):
        model.load_state_dict(model.state_dict() | {name: fresh[name] for name in names})
        for (clip, _, motion), before in zip(clips, true):
            for key, shares in all_maps(model, clip, classes.index(motion)).items():
                found[key].setdefault(part, []).append(rank_correlation(before[key], shares))
    return found


def prove(family: str, inside_clips: int = INSIDE_CLIPS, random_clips: int = RANDOM_CLIPS) -> list[dict]:
    """Both proofs of all methods for the mini of a family: a row for each method, and for each layer of attention."""
    model, recipe, classes = restore(mini_weights(family))
    clips = drawn_clips(recipe, max(inside_clips, random_clips))
    first = inside(model, classes, clips[:inside_clips])
    second = cascade(model, recipe, classes, clips[:random_clips])
    return [
        {
            "method": key[0],
            "layer": key[1],
            "inside": interval(first[key]),
            "random": interval(list(second[key].values())[-1]),
            "cascade": {part: round(float(np.mean(values)), 3) for part, values in second[key].items()},
        }
        for key in first
    ]


def main() -> None:
    """Both proofs of all families: minutes of one core."""
    found = {
        **provenance(torch.device("cpu")),
        "command": "python -m vt_course.training.proofs",
        "inside": f"times its share of the area that the moving shape gets, {INSIDE_CLIPS} clips of seed {SEED}",
        "random": f"rank correlation with the true picture, all weights random, {RANDOM_CLIPS} of these clips",
        "families": {},
    }
    start = time.process_time()
    for family in FAMILIES:
        found["families"][family] = prove(family)
        for row in found["families"][family]:
            print(family, row["method"], row["layer"], row["inside"], row["random"], flush=True)
    found["cpu_seconds"] = round(time.process_time() - start)
    atomic_write(explain.RESULTS, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
