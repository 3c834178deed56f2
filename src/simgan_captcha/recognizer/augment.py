"""Strong augmentation for the student of self-training: changes that must not change a reading.

Shapes: B images of 2 channels (ink, line mask) and H x W pixels, with values in [-1, 1].
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Augmentation:
    """Limits of the augmentation; each image draws its own values uniformly."""

    rotation: float = 8.0
    """Rotation in degrees, in both directions."""
    scale: float = 0.1
    """Relative change of the scale, drawn for each axis."""
    shear: float = 0.1
    """Horizontal shift per vertical pixel."""
    shift: float = 0.04
    """Shift as a fraction of the image height, in both directions."""
    noise: float = 0.15
    """Standard deviation of Gaussian noise, for values in [-1, 1]."""
    hole: float = 0.24
    """Longest side of a hidden rectangle (no ink, mask set), as a fraction of the image height."""


AUGMENTATION = Augmentation()
"""The augmentation of a run. Readable captchas stay readable within these limits."""


def augment(images: Tensor, limits: Augmentation, generator: torch.Generator) -> Tensor:
    """Rotate, scale, shear and shift images, add noise, and cut a hole into half of them.

    Ink and line mask move together, so the mask still marks the lines. A hole looks like a line: it
    has no ink, and the mask is set. Recognizers confuse letters under lines most often.

    Args:
        images: (B, 2, H, W) float32 in [-1, 1].
        limits: Limits of the changes.
        generator: CPU generator, the source of all randomness.

    Returns:
        Augmented images; ``images`` is not changed.
    """
    B, _, H, W = images.shape
    device = images.device

    def spread(limit: float) -> Tensor:
        return ((torch.rand(B, generator=generator) * 2 - 1) * limit).to(device)

    turn = spread(math.radians(limits.rotation))
    cosine, sine = torch.cos(turn), torch.sin(turn)
    wide, high = 1 + spread(limits.scale), 1 + spread(limits.scale)
    shear = spread(limits.shear)
    # affine_grid measures each axis from -1 to 1, so the aspect ratio must correct a rotation.
    aspect = W / H
    matrix = torch.stack(
        [
            torch.stack([cosine * wide, (shear - sine) * high / aspect], 1),
            torch.stack([sine * wide * aspect, cosine * high], 1),
        ],
        1,
    )
    shift = torch.stack([spread(2 * limits.shift) / aspect, spread(2 * limits.shift)], 1)
    grid = nn.functional.affine_grid(
        torch.cat([matrix, shift.unsqueeze(2)], 2), [B, 2, H, W], align_corners=False
    )
    # Background without lines is outside: -1 in both channels, which is 0 after adding 1.
    moved = nn.functional.grid_sample(images + 1, grid, align_corners=False) - 1

    strength = torch.rand(B, 1, 1, 1, generator=generator) * limits.noise
    moved[:, :1] += (torch.randn(B, 1, H, W, generator=generator) * strength).to(device)
    holes = _holes(B, H, W, round(limits.hole * H), generator).to(device)
    moved[:, 0].masked_fill_(holes, -1.0)
    moved[:, 1].masked_fill_(holes, 1.0)
    return moved.clamp_(-1, 1)


def _holes(count: int, height: int, width: int, longest: int, generator: torch.Generator) -> Tensor:
    """Masks (B, H, W) of a rectangle with sides up to ``longest``, in about half of the images."""

    def draw(limits: int) -> Tensor:
        return (torch.rand(count, 1, 1, generator=generator) * limits).long()

    tall, wide = draw(longest + 1), draw(longest + 1)
    present = torch.rand(count, 1, 1, generator=generator) < 0.5
    top, left = draw(height), draw(width)
    rows, columns = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
    inside = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
    return inside & present
