"""Differentiable augmentation of all images that the discriminator sees.

It helps if there are few real images. The gradient of the refiner passes through the augmentation,
so the refined images themselves need not look augmented.

Source: DiffAugment, arXiv:2006.10738.

Shapes: B batch, C channel, H and W in pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from simgan_captcha.simgan.networks import displace
from simgan_captcha.simgan.settings import Augmentation

_BRIGHTNESS = 0.5
"""Largest change of brightness in either direction, for a range of 2, as in the paper."""
_SHIFT = 1 / 8
"""Largest shift in either direction, as a share of the image side, as in the paper."""
_HOLE = 1 / 2
"""Sides of the cutout, as shares of the image sides, as in the paper."""


class DiffAugment:
    """Random, differentiable brightness, translation and cutout of each image of a batch.

    Deviations from the source: there is no change of saturation and contrast, and values stay in
    [-1, 1]. A shift repeats the image edge, where the source inserts zeros.

    Args:
        kinds: Kinds of changes, in the order of their application.
        generator: CPU generator of all random numbers.

    Example:
        >>> images = torch.zeros(4, 1, 16, 16)
        >>> augment = DiffAugment(("translation", "cutout"), torch.Generator().manual_seed(1))
        >>> augment(images).shape
        torch.Size([4, 1, 16, 16])
    """

    def __init__(self, kinds: Sequence[Augmentation], generator: torch.Generator) -> None:
        self.kinds, self.generator = tuple(kinds), generator

    def __call__(self, images: Tensor) -> Tensor:
        """Augment (B, C, H, W) float images in [-1, 1]; shape and range do not change."""
        changes = {
            "brightness": self._brightness,
            "translation": self._translation,
            "cutout": self._cutout,
        }
        for kind in self.kinds:
            images = changes[kind](images)
        return images

    def _uniform(self, images: Tensor, count: int) -> Tensor:
        """Draw (B, count) uniform numbers in [-1, 1) on the device of the images."""
        drawn = torch.rand(len(images), count, generator=self.generator) * 2 - 1
        return drawn.to(images.device)

    def _brightness(self, images: Tensor) -> Tensor:
        change = self._uniform(images, 1).view(-1, 1, 1, 1) * _BRIGHTNESS
        return (images + change).clamp(-1, 1)

    def _translation(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        sides = torch.tensor([width, height], device=images.device)
        shift = (self._uniform(images, 2) * sides * _SHIFT).round()
        return displace(images, shift.view(-1, 2, 1, 1).expand(-1, -1, height, width))

    def _cutout(self, images: Tensor) -> Tensor:
        """Set a rectangle at a random place to 0, the middle grey."""
        height, width = images.shape[2:]
        middle = (self._uniform(images, 2) + 1) / 2
        y = torch.arange(height, device=images.device) + 0.5
        x = torch.arange(width, device=images.device) + 0.5
        rows = (y - middle[:, :1] * height).abs() < height * _HOLE / 2  # (B, H)
        columns = (x - middle[:, 1:] * width).abs() < width * _HOLE / 2  # (B, W)
        hole = rows[:, None, :, None] & columns[:, None, None, :]
        return images.masked_fill(hole, 0.0)
