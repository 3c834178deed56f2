"""Doubtful images are read again from several views, a little moved; the mean is what they say.

Test-time augmentation (Krizhevsky, Sutskever and Hinton 2012, section 4.1, there ten crops; here
moves as the student of self-training met them). A reader errs otherwise on each view, and where it
is sure hardly at all, so that sure images need no more.

Shapes: N images, L characters, K classes.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from simgan_captcha.data.background import Background
from simgan_captcha.recognizer.augment import augment
from simgan_captcha.recognizer.decode import BATCH
from simgan_captcha.recognizer.settings import AugmentationSettings
from simgan_captcha.types import Floats, GreyImages

VIEWS = 8
"""Beside the image as it is."""

_SURE = 0.9
"""Of a whole text: an image that is read with more confidence is not read again."""

_PART = 0.6
"""Of how far images are moved that the reader learned to read through."""


def view_settings(learned: AugmentationSettings) -> AugmentationSettings:
    """How far a view is moved at most, of a reader that learned to read what is moved so far."""
    moves = {
        name: _PART * getattr(learned, name) for name in ("rotation", "scale", "shear", "shift")
    }
    return AugmentationSettings(**moves, noise=0, hole=0)


@torch.inference_mode()
def read_views(
    reader: nn.Module,
    background: Background,
    images: GreyImages,
    probabilities: Floats,
    moves: AugmentationSettings,
    seed: int,
    on_step: Callable[[int, int, dict[str, float]], None] = lambda done, total, figures: None,
) -> tuple[Floats, int]:
    """Images as they were read, the doubtful ones as all their views are read on average.

    Args:
        reader: In evaluation mode.
        background: The images'.
        images: (N, H, W) ``uint8``.
        probabilities: (N, L, K) as the reader read them.
        moves: Of each view, see `view_settings`.
        seed: Of the moves.
        on_step: Called with how many doubtful images are read again, and of how many.

    Returns:
        (N, L, K) probabilities, and how many images were read again, each `VIEWS` times.

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
            total = total + reader(augment(normalised, moves, generator)).float().softmax(-1)
        viewed[chosen] = (total / (VIEWS + 1)).numpy()
        on_step(start + len(chosen), len(doubtful), {})
    return viewed, len(doubtful)
