"""Differentiable augmentation of all images that the discriminator sees, for few real images.

Source: DiffAugment, arXiv:2006.10738. The refiner's gradient passes through the augmentation, so
the refined images themselves need not look augmented.

Shapes: B batch, C channel, H and W in pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from simgan_captcha.simgan.networks import displace
from simgan_captcha.simgan.settings import Augmentation

_BRIGHTNESS = 0.5
"""Largest change of brightness either way, of a range of 2; as in the paper."""
_SHIFT = 1 / 8
"""Largest shift either way, as a share of the side; as in the paper."""
_HOLE = 1 / 2
"""Sides of the hole, as shares of the image's; as in the paper."""


class DiffAugment:
    """Random brightness, translation and cutout of each image of a batch, differentiable.

    Deviations from the source: saturation and contrast are left out, values stay in [-1, 1], and
    what a shift brings in repeats the edge where the source has zeros.

    Args:
        kinds: Which changes; they are made in this order.
        generator: A CPU generator; every draw comes from it.

    Example:
        >>> images = torch.zeros(4, 1, 16, 16)
        >>> augment = DiffAugment(("translation", "cutout"), torch.Generator().manual_seed(1))
        >>> augment(images).shape
        torch.Size([4, 1, 16, 16])
    """

    def __init__(self, kinds: Sequence[Augmentation], generator: torch.Generator) -> None:
        self.kinds, self.generator = tuple(kinds), generator

    def __call__(self, images: Tensor) -> Tensor:
        """Augment (B, C, H, W) float images in [-1, 1]; shape and range stay."""
        changes = {
            "brightness": self._brightness,
            "translation": self._translation,
            "cutout": self._cutout,
        }
        for kind in self.kinds:
            images = changes[kind](images)
        return images

    def _uniform(self, images: Tensor, count: int) -> Tensor:
        """(B, count) numbers in [-1, 1) on the images' device."""
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
        """A rectangle of half the sides, at a random place, becomes 0, the middle grey."""
        height, width = images.shape[2:]
        middle = (self._uniform(images, 2) + 1) / 2
        y = torch.arange(height, device=images.device) + 0.5
        x = torch.arange(width, device=images.device) + 0.5
        rows = (y - middle[:, :1] * height).abs() < height * _HOLE / 2  # (B, H)
        columns = (x - middle[:, 1:] * width).abs() < width * _HOLE / 2  # (B, W)
        hole = rows[:, None, :, None] & columns[:, None, None, :]
        return images.masked_fill(hole, 0.0)
