"""The differentiable drawing, and poses of letters with known glyphs by gradient descent.

Shapes: N images, B of them at a time, L characters, K classes, G side of a glyph.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from simgan_captcha.simulator.calibrated import GLYPH_SCALE
from simgan_captcha.simulator.pose import PLACED
from simgan_captcha.types import FloatImages, Floats

_BATCH = 64
_REACH = 0.3  # radius in image heights in which a character can hide its neighbours
_INKED = 0.1
_FORM_WEIGHT = 2.0
_SUPERFLUOUS = 0.2
"""A character explains nothing if it reduces the error by less than this share of its ink**2..."""
_COVERED = 0.3
"""...and overlaps others if they cover this share of its ink."""
_OUTSIDE = 2.0  # a coordinate outside the glyph, which spans -1 to 1
_FOLDED = 0.5  # share of perspective above which a letter may cover any part of the image
_RATE = 0.4  # first step in pixels
POSE_UNIT = (1.0, 1.0, 4.0, 0.08, 0.08, 0.08, 0.3, 0.3, 0.4)
"""Step of each value of `POSE` that moves the rim of a letter by about one pixel."""


def draw_characters(glyphs: Tensor, ids: Tensor, pose: Tensor, height: int, width: int) -> Tensor:
    """Coverage of the image by each character, differentiable in glyphs and poses.

    A pixel lies at (u, v) = (x - x0, y - y0) from the centre of a pose with rotation t. It shows
    the glyph at (p, q) * exp(-size), in image pixels from the centre of the glyph. With H::

        v' = v - bend * u**2 / H
        a  = cos(t) * u - sin(t) * v' - taper * u * v / H
        q  = sin(t) * u + cos(t) * v' - swell * u * v / H
        p  = (a - shear * q) * exp(-stretch)

    `Simulator.render` uses the same map.

    Args:
        glyphs: (K, G, G) coverage, 0 to 1.
        ids: (B, L) int64.
        pose: (B, L, 9), see `pose.POSE`.
        height: H.
        width: W.

    Returns:
        (B, L, H, W).
    """
    right = torch.arange(width) + 0.5 - pose[..., 0, None, None]  # (B, L, 1, W)
    down = (torch.arange(height) + 0.5).view(-1, 1) - pose[..., 1, None, None]  # (B, L, H, 1)
    return _coverage(glyphs, ids, pose, right, down, height)


def _coverage(
    glyphs: Tensor, ids: Tensor, pose: Tensor, right: Tensor, down: Tensor, height: int
) -> Tensor:
    """Coverage (B, L, h, w) at u = ``right`` (B, L, 1, w) and v = ``down`` (B, L, h, 1)."""
    turn = torch.deg2rad(pose[..., 2])[..., None, None]
    cosine, sine = torch.cos(turn), torch.sin(turn)
    size, stretch, shear, taper, swell, bend = pose[..., PLACED:, None, None].unbind(2)
    # Undo the bend, the perspective and the rotation, then shear, stretch and size.
    diagonal = right * down / height
    straight = down - bend * right.square() / height
    across = cosine * right - sine * straight - taper * diagonal
    along = sine * right + cosine * straight - swell * diagonal
    unit = 2 * GLYPH_SCALE / glyphs.shape[-1] * torch.exp(-size)
    grid = torch.stack([(across - shear * along) * torch.exp(-stretch), along], -1)
    # Beyond the fold of the perspective, the map would show a mirrored glyph.
    unfolded = swell * (cosine * right + sine * down) + taper * (cosine * down - sine * right)
    grid = (grid * unit[..., None]).where((unfolded < height)[..., None], _OUTSIDE)
    drawn = nn.functional.grid_sample(
        glyphs.index_select(0, ids.flatten()).unsqueeze(1), grid.flatten(0, 1), align_corners=False
    )
    return drawn.view(*ids.shape, *grid.shape[2:4])


def cover(
    glyphs: Tensor,
    ids: Tensor,
    pose: Tensor,
    size: tuple[int, int],
    radius: float,
    drawn: Tensor | None = None,
) -> Tensor:
    """Coverage of the image by all characters together: 1 - (1 - a)(1 - b)...

    Each character is drawn on a patch that holds it, which takes a fraction of the time of drawing
    it on the whole image.

    Args:
        glyphs: (K, G, G) coverage, 0 to 1.
        ids: (B, L) int64.
        pose: (B, L, 9), see `pose.POSE`.
        size: H and W.
        radius: Coverage further than this from the centre of a glyph, in image pixels, may be left
            out, see `glyph_radius`.
        drawn: (B, L) mask of the characters to draw; by default all.

    Returns:
        (B, H, W), differentiable in glyphs and poses.
    """
    height, width = size
    reach = min(_reach(radius, pose.detach(), height), height + width)
    patches = _Patches.around(pose, reach, size)
    coverage = _coverage(glyphs, ids, pose, patches.right, patches.down, height).flatten(2)
    if drawn is not None:
        coverage = coverage * drawn[..., None]
    uncovered = coverage.new_ones(len(ids), height * width)
    for character, places in zip(coverage.unbind(1), patches.places.unbind(1), strict=True):
        uncovered = uncovered.scatter(1, places, uncovered.gather(1, places) * (1 - character))
    return 1 - uncovered.view(-1, height, width)


class _Patches(NamedTuple):
    """One patch of h x w pixels for each character, inside the image."""

    right: Tensor
    """(B, L, 1, w) distance of each column from the centre of the character."""
    down: Tensor
    """(B, L, h, 1) distance of each row from the centre of the character."""
    places: Tensor
    """(B, L, h * w) index of each pixel in the image, row by row."""

    @staticmethod
    def around(pose: Tensor, radius: float, size: tuple[int, int]) -> "_Patches":
        """Patches that hold all pixels of the image closer than ``radius`` to each pose."""
        (height, width), side = size, 2 * math.ceil(radius) + 1
        rows, columns = min(side, height), min(side, width)
        row = _first(pose[..., 1], rows, height)[..., None] + torch.arange(rows)
        column = _first(pose[..., 0], columns, width)[..., None] + torch.arange(columns)
        return _Patches(
            (column + 0.5 - pose[..., 0, None])[..., None, :],
            (row + 0.5 - pose[..., 1, None])[..., None],
            (row[..., None] * width + column[..., None, :]).flatten(2),
        )


def _first(centre: Tensor, length: int, whole: int) -> Tensor:
    """First pixel of a patch around a centre, moved so that the patch lies in the image."""
    return (centre.detach() - length / 2).round().long().clamp(0, whole - length)


def glyph_radius(glyphs: Floats) -> float:
    """Distance in image pixels from the centre of glyphs (K, G, G) that holds all coverage."""
    side = glyphs.shape[-1]
    off = np.arange(side) - (side - 1) / 2
    covered = np.hypot(off[:, None], off) * (glyphs > 0).any(0)
    return float(covered.max() + 1) / GLYPH_SCALE  # plus one for the interpolation


def _reach(radius: float, pose: Tensor, height: int) -> float:
    """Greatest distance in pixels from the centre of poses (B, L, 9) that a glyph can cover.

    A disc of radius r becomes an ellipse. Its half axis is e = r * exp(size) * s. Here s is the
    operator norm of [[exp(stretch), shear], [0, 1]], at most max(exp(stretch), 1) + |shear|. The
    bend then adds bend * e**2 / H. Perspective divides by 1 - f, with f = (taper + swell) * e / H.
    """
    if not pose.numel():
        return radius
    size, stretch, shear, taper, swell, bend = pose[..., PLACED:].unbind(-1)
    e = radius * size.exp() * (stretch.exp().clamp(min=1) + shear.abs())
    e = e + bend.abs() * e.square() / height
    folded = (taper.abs() + swell.abs()) * e / height
    if bool((folded > _FOLDED).any()):
        return math.inf
    return float((e / (1 - folded)).max())


def form_prior(pose: Tensor) -> Tensor:
    """Regularisation of the forms of poses (B, L, 9), added to the squared error.

    The weight is small. It keeps glyphs as large as most of their characters, and keeps forms that
    the image does not determine at zero.
    """
    return _FORM_WEIGHT * pose[..., PLACED:].square().sum()


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
        patches = _Patches.around(pose, radius, size)
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
        seen = all_of_them * visible * (ink > _INKED)
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
        yield chosen, draw_characters(shapes, of_ids, pose, *size), *_ink(normalised[chosen])


def _ink(normalised: FloatImages) -> tuple[Tensor, Tensor]:
    """Ink and visibility (B, H, W), 0 to 1, of images (B, 2, H, W)."""
    images = torch.from_numpy(normalised)
    return (images[:, 0] + 1) / 2, (1 - images[:, 1]) / 2


@dataclass(frozen=True)
class PoseFit:
    """The best drawings of N images."""

    poses: Floats
    """(N, L, 9), see `pose.POSE`."""
    missed: Floats
    """(N,) sum of squared errors."""
    inked: Floats
    """(N,) number of visible pixels with ink."""


def fit_poses(
    normalised: FloatImages,
    ids: npt.NDArray[np.int64],
    begin: Floats,
    glyphs: Floats,
    steps: int,
    *,
    moving: int = PLACED,
) -> PoseFit:
    """Fit poses to minimise the squared error of drawings.

    Args:
        normalised: (N, 2, H, W) images, see `background.Background.normalise`.
        ids: (N, L) classes to draw; classes with empty glyphs leave no ink and do not move.
        begin: (N, L, 9) initial poses.
        glyphs: (K, G, G) coverage, 0 to 1.
        steps: Optimiser steps for each image.
        moving: Number of leading values of `POSE` that are fitted; the others stay.
    """
    shapes, unit = torch.from_numpy(glyphs.astype(np.float32)), torch.tensor(POSE_UNIT)
    fitted = begin.astype(np.float32)
    missed_ink, inked = np.zeros((2, len(ids)), np.float32)
    size, radius = (normalised.shape[2], normalised.shape[3]), glyph_radius(glyphs)
    for at in range(0, len(ids), _BATCH):
        chosen = slice(at, at + _BATCH)
        ink, visible = _ink(normalised[chosen])
        classes = torch.from_numpy(ids[chosen])
        poses = (torch.from_numpy(fitted[chosen]) / unit).requires_grad_(True)
        optimizer = torch.optim.Adam([poses], _RATE)

        def missed(
            poses: Tensor = poses,
            classes: Tensor = classes,
            ink: Tensor = ink,
            visible: Tensor = visible,
        ) -> Tensor:
            covered = cover(shapes, classes, poses * unit, size, radius)
            return ((covered - ink).square() * visible).sum((1, 2))

        for step in range(steps):
            optimizer.param_groups[0]["lr"] = _RATE * (1 - step / steps)
            optimizer.zero_grad()
            (missed().sum() + form_prior(poses * unit)).backward()
            assert poses.grad is not None  # computed above
            poses.grad[..., moving:] = 0
            optimizer.step()
        with torch.no_grad():
            fitted[chosen], missed_ink[chosen] = (poses * unit).numpy(), missed().numpy()
            inked[chosen] = (visible * (ink > _INKED)).sum((1, 2)).numpy()
    return PoseFit(fitted, missed_ink, inked)
