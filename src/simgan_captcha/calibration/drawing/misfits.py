"""How well drawings explain the pixels around each character.

Shapes: N images, B of them at a time, L characters, K classes, G side of a glyph.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simgan_captcha.calibration.drawing.characters import Patches, draw_characters
from simgan_captcha.types import FloatImages, Floats

INKED = 0.1
"""Ink, 0 to 1, from which a pixel counts as inked."""
_BATCH = 64
_REACH = 0.3  # radius in image heights in which a character can hide its neighbours
_SUPERFLUOUS = 0.2
"""A character explains nothing if it reduces the error by less than this share of its ink**2..."""
_COVERED = 0.3
"""...and overlaps others if they cover this share of its ink."""


class Near(NamedTuple):
    """The pixels near each character."""

    places: Tensor
    """(B, L, M) index of pixels in the image, row by row."""
    near: Tensor
    """(B, L, M) whether each of them is near."""

    @staticmethod
    def of(pose: Tensor, size: tuple[int, int]) -> "Near":
        """Pixels near poses (B, L, 9) in images of H and W."""
        radius = _REACH * size[0]
        patches = Patches.around(pose, radius, size)
        near = patches.right.square() + patches.down.square() < radius**2
        return Near(patches.places, near.flatten(2))

    def of_any(self, characters: Tensor, size: tuple[int, int]) -> Tensor:
        """Mask (B, H, W) of pixels near any of the characters, a mask (B, L)."""
        chosen = (self.near & characters[..., None]).flatten(1).float()
        found = chosen.new_zeros(len(chosen), size[0] * size[1])
        found = found.scatter_reduce(1, self.places.flatten(1), chosen, "amax")
        return found.view(-1, *size).bool()

    def mean(self, missed: Tensor, looked_at: Tensor) -> Tensor:
        """Mean (B, L) of errors (B, H, W) over the counted pixels near each character."""
        total, count = (
            (image.flatten(1).gather(1, self.places.flatten(1)).view_as(self.near) * self.near)
            for image in (missed, looked_at)
        )
        return total.sum(2) / count.sum(2).clamp(min=1)


@torch.inference_mode()
def character_misfits(
    normalised: FloatImages, ids: npt.NDArray[np.int64], poses: Floats, glyphs: Floats
) -> Floats:
    """Mean squared error (N, L) of a drawing near each character.

    Args:
        normalised: (N, 2, H, W) images, see `background.Background.normalise`.
        ids: (N, L) classes to draw.
        poses: (N, L, 9) poses, see `pose.POSE`.
        glyphs: (K, G, G) coverage, 0 to 1.
    """
    misfits = np.zeros(ids.shape, np.float32)
    for chosen, drawn, ink, visible in _drawn_batches(normalised, ids, poses, glyphs):
        missed = (1 - (1 - drawn).prod(1) - ink).square() * visible
        near = Near.of(torch.from_numpy(poses[chosen]), (ink.shape[1], ink.shape[2]))
        misfits[chosen] = near.mean(missed, visible).numpy()
    return misfits


@torch.inference_mode()
def superfluous_characters(
    normalised: FloatImages,
    ids: npt.NDArray[np.int64],
    present: npt.NDArray[np.bool_],
    poses: Floats,
    glyphs: Floats,
) -> npt.NDArray[np.bool_]:
    """Mask (N, L) of characters that overlap others and explain no further ink.

    If a text is read too long, one letter is seen twice, and both poses look right.

    Args:
        normalised: (N, 2, H, W) images, see `background.Background.normalise`.
        ids: (N, L) classes to draw.
        present: (N, L) mask of slots with a character.
        poses: (N, L, 9) poses, see `pose.POSE`.
        glyphs: (K, G, G) coverage, 0 to 1.
    """
    superfluous = np.zeros(ids.shape, np.bool_)
    for chosen, letters, ink, visible in _drawn_batches(normalised, ids, poses, glyphs):
        drawn = letters * torch.from_numpy(present[chosen])[..., None, None]
        uncovered = 1 - drawn
        all_of_them = 1 - uncovered.prod(1)
        # Scale pale ink to the strength of the drawing. Otherwise overlaps of pale letters would
        # leave ink unexplained.
        seen = all_of_them * visible * (ink > INKED)
        pale = (seen * ink).sum((1, 2)).clamp(min=1)
        ink = ink * ((seen * all_of_them).sum((1, 2)) / pale)[:, None, None]
        missed = ((all_of_them - ink).square() * visible).sum((1, 2))
        for slot in range(ids.shape[1]):
            own = drawn[:, slot] * visible
            without = 1 - torch.cat([uncovered[:, :slot], uncovered[:, slot + 1 :]], 1).prod(1)
            spared = ((without - ink).square() * visible).sum((1, 2)) - missed
            idle = spared < _SUPERFLUOUS * own.square().sum((1, 2))
            covered = (own * without).sum((1, 2)) > _COVERED * own.sum((1, 2))
            superfluous[chosen, slot] = (idle & covered).numpy()
    return superfluous


def _drawn_batches(
    normalised: FloatImages, ids: npt.NDArray[np.int64], poses: Floats, glyphs: Floats
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Batches: the slice, characters (B, L, H, W), ink and visibility (B, H, W)."""
    shapes, size = torch.from_numpy(glyphs), normalised.shape[2:]
    for at in range(0, len(ids), _BATCH):
        chosen = slice(at, at + _BATCH)
        of_ids, pose = torch.from_numpy(ids[chosen]), torch.from_numpy(poses[chosen])
        yield chosen, draw_characters(shapes, of_ids, pose, *size), *ink_of(normalised[chosen])


def ink_of(normalised: FloatImages) -> tuple[Tensor, Tensor]:
    """Ink and visibility (B, H, W), 0 to 1, of images (B, 2, H, W)."""
    images = torch.from_numpy(normalised)
    return (images[:, 0] + 1) / 2, (1 - images[:, 1]) / 2
