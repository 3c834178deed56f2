"""Exponential moving average of weights, which every training here returns as its result."""

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move averaged weights and batch-norm statistics towards those of the model, in place.

        average <- d average + (1 - d) model,   d = min(decay, (1 + step) / (10 + step))

    `torch.optim.swa_utils` has no such smaller decay at the beginning. Without it, the average
    would stay near the random weights for about 1 / (1 - decay) steps.

    Args:
        average: Module with the structure of ``model``.
        model: The model after this step.
        decay: Decay in [0, 1).
        step: Number of the step, from 1.
    """
    decay = min(decay, (1 + step) / (10 + step))
    source = model.state_dict()
    for name, kept in average.state_dict().items():
        if kept.dtype.is_floating_point:
            kept.lerp_(source[name], 1 - decay)
        else:
            kept.copy_(source[name])
