"""Test-time augmentation: unsure images are read again in several views and averaged.

The views are slightly moved images. A recognizer makes different errors on each view. It makes few
errors on confident images, so these are not read again.

Source: Krizhevsky, Sutskever and Hinton 2012, section 4.1. Deviation: views are moved like the
images of the student in self-training, in place of ten crops.

Shapes: N images, L characters, K classes.
"""

import numpy as np
import torch
from torch import nn

from simgan_captcha.data.background import Background
from simgan_captcha.recognizer.augment import AUGMENTATION, Augmentation, augment
from simgan_captcha.recognizer.decode import BATCH, probabilities_of
from simgan_captcha.types import Floats, GreyImages, OnStep

VIEWS = 8
"""Number of views, in addition to the original image."""

_SURE = 0.9
"""Confidence of a whole text above which an image is not read again."""

_PART = 0.6
"""Limits of the views, as a fraction of those of the augmentation in training."""

MOVES = Augmentation(
    rotation=_PART * AUGMENTATION.rotation,
    scale=_PART * AUGMENTATION.scale,
    shear=_PART * AUGMENTATION.shear,
    shift=_PART * AUGMENTATION.shift,
    noise=0,
    hole=0,
)
"""Limits of the views. Views have no noise and no holes, because these hide parts of letters."""


@torch.inference_mode()
def read_views(
    reader: nn.Module,
    background: Background,
    images: GreyImages,
    probabilities: Floats,
    seed: int,
    *,
    moves: Augmentation = MOVES,
    on_step: OnStep = lambda done, total, figures: None,
) -> tuple[Floats, int]:
    """Average the probabilities of unsure images over their views; the others stay the same.

    Args:
        reader: Recognizer in evaluation mode.
        background: Background of the images.
        images: (N, H, W) ``uint8``.
        probabilities: (N, L, K) of the original images.
        seed: Random seed of the views.
        moves: Limits of the views.
        on_step: Called with the number of unsure images that are finished, and the total.

    Returns:
        Probabilities (N, L, K), and the number of images that were read again, each `VIEWS` times.

    Raises:
        ImageError: The images have another size than the background.
    """
    generator = torch.Generator().manual_seed(seed)
    doubtful = np.flatnonzero(probabilities.max(-1).prod(-1) <= _SURE)
    viewed = probabilities.copy()
    for start in range(0, len(doubtful), BATCH):
        chosen = doubtful[start : start + BATCH]
        normalised = torch.from_numpy(background.normalise(images[chosen]))
        total = torch.from_numpy(probabilities[chosen])
        for _ in range(VIEWS):
            total = total + probabilities_of(reader, augment(normalised, moves, generator))
        viewed[chosen] = (total / (VIEWS + 1)).numpy()
        on_step(start + len(chosen), len(doubtful), {})
    return viewed, len(doubtful)
