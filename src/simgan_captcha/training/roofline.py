"""The rate of plain convolutions on a machine, which makes costs of machines comparable."""

import time
from functools import lru_cache

import torch

_SHAPES = ((64, 64, 32), (64, 128, 16), (128, 48, 25), (64, 32, 32), (64, 64, 16))
"""Images, input and output channels, and side length in pixels."""


@lru_cache(maxsize=1)
def convolution_rate(seconds: float = 0.5) -> float:
    """FLOP/s of 3x3 convolutions in float32 on the CPU, forward and backward.

    It is the best of a few shapes, measured once in a process. A multiply-add counts as two, and a
    backward pass as two forward passes.
    """
    until, best = time.perf_counter() + seconds, 0.0
    while True:
        for shape in _SHAPES:
            best = max(best, _rate(*shape))
            if time.perf_counter() > until:
                return best


def _rate(images: int, channels: int, side: int) -> float:
    # Random numbers would disturb those of the run.
    inputs = torch.ones(images, channels, side, side, requires_grad=True)
    weight = torch.ones(channels, channels, 3, 3, requires_grad=True)
    started = time.perf_counter()
    torch.nn.functional.conv2d(inputs, weight, padding=1).sum().backward()
    return 3 * 2 * images * channels * channels * 9 * side * side / (time.perf_counter() - started)
