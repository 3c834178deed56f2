"""Batches of images with pseudo-labels, a share of them with known texts.

Only `simgan_captcha.teaching` has known texts. Everything else passes none.
"""

import torch
from torch import Tensor

_MOST = 0.5
_HALF = 10


def known_of_batch(known: int, batch_size: int) -> int:
    """Number of images with known texts in a batch.

    Their share of the batch is n / (2 n + 20), where n is the number of known texts. It is 0.25 for
    ten texts, and at most 0.5.
    """
    return round(batch_size * _MOST * known / (known + _HALF))


def draw_numbers(
    pool: Tensor, known: Tensor, batch_size: int, generator: torch.Generator
) -> Tensor:
    """Numbers of the images of a batch (B,), drawn with replacement.

    The last `known_of_batch` of them have known texts.

    Args:
        pool: Numbers of all images to draw from (M,), at least one.
        known: Numbers of the images with known texts (N,).
        batch_size: B.
        generator: Draws the numbers.
    """
    count = known_of_batch(len(known), batch_size)
    chosen = pool[torch.randint(len(pool), (batch_size - count,), generator=generator)]
    if not count:
        return chosen
    certain = known[torch.randint(len(known), (count,), generator=generator)]
    return torch.cat([chosen, certain])
