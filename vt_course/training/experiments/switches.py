"""Switches that do nothing: two configurations of a model that give the same numbers, whatever is trained.

At the small size of a mini, a mechanism may have nothing to work on. For instance, a window that covers the whole axis
never shifts along it. To train both variants would compare a run with itself.
"""

import dataclasses
import zlib

import torch

from vt_course.training.checkpoint import build_model
from vt_course.training.evaluate import class_scores
from vt_course.training.recipes import Recipe

CLASSES = 8  # of the models that are tried; the number does not matter


def same_training(one: Recipe, other: Recipe) -> bool:
    """Whether the models of two recipes, which may differ only in `config`, would be trained to the same weights.

    They would if they have the same parameters, begin with the same values (`narrow_init` changes these), and give the
    same logits, in training (dropout) and in evaluation. The logits are compared on weights that are all random,
    because at their own initialisation some mechanisms do nothing yet: their last weights are zero.
    """
    models = []
    for recipe in (one, other):
        torch.manual_seed(0)
        models.append(build_model(recipe, CLASSES).double())
    begin, other_begin = (model.state_dict() for model in models)
    if begin.keys() != other_begin.keys() or any(
        begin[name].shape != other_begin[name].shape or not torch.equal(begin[name], other_begin[name])
        for name in begin
    ):
        return False
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, one.frames, one.size, one.size)
    clip = torch.randn(shape, generator=generator, dtype=torch.float64)
    for training in (False, True):
        logits = []
        for model in models:
            fill(model)
            torch.manual_seed(0)  # of dropout
            with torch.no_grad():
                logits.append(class_scores(model.train(training), clip))
        if not torch.allclose(*logits, rtol=1e-9, atol=1e-9 * logits[0].abs().max().item()):
            return False
    return True


def fill(model) -> None:
    """Set every parameter to random values that depend on its name and shape only, and are large enough to matter."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            inputs = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.copy_(noise / inputs**0.5)


def refusals(recipes: dict[str, Recipe]) -> dict[str, str]:
    """name -> the reason, for each variant that would be trained to the same weights as an earlier one."""
    refused = {}
    for number, (name, recipe) in enumerate(recipes.items()):
        for earlier in list(recipes)[:number]:
            only_config = dataclasses.replace(recipes[earlier], config=recipe.config) == recipe
            if earlier not in refused and only_config and same_training(recipe, recipes[earlier]):
                refused[name] = f"its switch changes nothing: on random weights it gives the logits of {earlier!r}"
                break
    return refused
