"""What settings of a recipe do to a model and its optimiser: moving average, checkpointing of blocks, compilation."""

import functools
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from vt_course import CourseError, need


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of the model whose weights will be the moving average of the model's, with `decay` a step.

    It begins with the weights after the first step. Buffers (BatchNorm's running statistics, which are moving averages
    already) are the model's.
    """
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def checkpoint_blocks(model: nn.Module, compiled: bool = False) -> None:
    """Let each block keep only its input in training, and compute it again in the backward pass.

    A block is a member of a `ModuleList` that contains no `ModuleList` itself. Names and weights stay the same. Raises
    `CourseError` for a model without blocks, and for one with BatchNorm in its blocks that will be `compiled`:
    torch.compile cannot trace the second pass with the running statistics kept.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    blocks = [block for each in lists for block in each if not _holds_blocks(block)]
    need(blocks, f"{type(model).__name__} has no blocks: train it with checkpoint_activations=false")
    norms = any(batch_norms(block) for block in blocks)
    need(
        not (compiled and norms),
        f"{type(model).__name__} has BatchNorm in its blocks, which torch.compile cannot compute again: choose "
        "compile=false or checkpoint_activations=false",
    )
    for block in blocks:
        block.forward = functools.partial(_again, block, block.forward)


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The BatchNorms in a module."""
    return [inner for inner in module.modules() if isinstance(inner, _BatchNorm)]


def _holds_blocks(module: nn.Module) -> bool:
    return any(isinstance(inner, nn.ModuleList) for inner in module.modules())


def _again(block: nn.Module, forward, *inputs):
    if not torch.is_grad_enabled():
        return forward(*inputs)
    norms = batch_norms(block)
    settings = {"context_fn": lambda: (nullcontext(), _statistics_kept(norms))} if norms else {}
    return checkpoint(forward, *inputs, use_reentrant=False, **settings)


@contextmanager
def _statistics_kept(norms: list[_BatchNorm]):
    """The second pass over a block must not count its batch again in the running statistics."""
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """`torch.compile(model)`. Raises `CourseError` if nothing can be compiled here, for instance without a compiler."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except Exception as error:  # which one depends on what is missing: a C++ compiler, Triton, this version of Python
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CourseError(f"torch.compile cannot be used here ({reason:.200}): train with compile=false") from error
    return torch.compile(model)


def optimizer(name: str, groups: list[dict]) -> torch.optim.Optimizer:
    """The optimiser "adamw", "sgd" or "nesterov" for groups of parameters; the loop sets the learning rates."""
    if name == "adamw":
        return torch.optim.AdamW(groups)
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=name == "nesterov")


def moments(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> dict:
    """A state like the one that the optimiser keeps of a parameter after a step, to compare a loaded one with."""
    like = parameter.detach()
    if isinstance(optimizer, torch.optim.SGD):
        return {"momentum_buffer": like}
    return {"step": torch.zeros(()), "exp_avg": like, "exp_avg_sq": like}
