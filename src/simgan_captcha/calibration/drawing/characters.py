"""Differentiable drawings of characters, by their glyphs and poses.

Shapes: B images, L characters, K classes, G side of a glyph.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from simgan_captcha.simulator.calibrated import GLYPH_SCALE
from simgan_captcha.simulator.pose import PLACED
from simgan_captcha.types import Floats

FORM_WEIGHT = 2.0
"""Weight of `form_prior`."""
_OUTSIDE = 2.0  # a coordinate outside the glyph, which spans -1 to 1
_SOLVING = 6  # steps of the iteration in `reaches`
_FOLDED = 0.5  # share of perspective above which a letter may cover any part of the image


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
    return coverage_at(glyphs, ids, pose, right, down, height)


def coverage_at(
    glyphs: Tensor, ids: Tensor, pose: Tensor, right: Tensor, down: Tensor, height: int
) -> Tensor:
    """Coverage (B, L, h, w) at u = ``right`` (B, L, 1, w) and v = ``down`` (B, L, h, 1)."""
    turn = torch.deg2rad(pose[..., 2])[..., None, None]
    cosine, sine = torch.cos(turn), torch.sin(turn)
    size, stretch, shear, taper, swell, bend = pose[..., PLACED:, None, None].unbind(2)
    # Undo the bend, the perspective and the rotation, then shear and stretch.
    diagonal = right * down / height
    straight = down - bend * right.square() / height
    across = cosine * right - sine * straight - taper * diagonal
    along = sine * right + cosine * straight - swell * diagonal
    across = (across - shear * along) * torch.exp(-stretch)
    unit = 2 * GLYPH_SCALE / glyphs.shape[-1] * torch.exp(-size)
    grid = torch.stack([across * unit, along * unit], -1)
    # Beyond the fold of the perspective, the map would show a mirrored glyph.
    beyond = swell * (cosine * right + sine * down) + taper * (cosine * down - sine * right)
    grid = grid.where((beyond < height)[..., None], _OUTSIDE)
    chosen = glyphs.index_select(0, ids.flatten())[:, None]
    drawn = nn.functional.grid_sample(chosen, grid.flatten(0, 1), align_corners=False)
    return drawn[:, 0].view(*ids.shape, *drawn.shape[2:])


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
    patches = Patches.around(pose, reach(radius, pose.detach(), size), size)
    coverage = coverage_at(glyphs, ids, pose, patches.right, patches.down, height).flatten(2)
    if drawn is not None:
        coverage = coverage * drawn[..., None]
    return 1 - patches.uncovered(coverage, size).view(-1, height, width)


class Patches(NamedTuple):
    """One patch of h x w pixels for each character, inside the image."""

    right: Tensor
    """(B, L, 1, w) distance of each column from the centre of the character."""
    down: Tensor
    """(B, L, h, 1) distance of each row from the centre of the character."""
    places: Tensor
    """(B, L, h * w) index of each pixel in the image, row by row."""

    @staticmethod
    def around(pose: Tensor, radius: float, size: tuple[int, int]) -> "Patches":
        """Patches that hold all pixels of the image closer than ``radius`` to each pose."""
        (height, width), side = size, 2 * math.ceil(radius) + 1
        rows, columns = min(side, height), min(side, width)
        row = _first(pose[..., 1], rows, height)[..., None] + torch.arange(rows)
        column = _first(pose[..., 0], columns, width)[..., None] + torch.arange(columns)
        return Patches(
            (column + 0.5 - pose[..., 0, None])[..., None, :],
            (row + 0.5 - pose[..., 1, None])[..., None],
            (row[..., None] * width + column[..., None, :]).flatten(2),
        )

    def uncovered(self, coverage: Tensor, size: tuple[int, int]) -> Tensor:
        """(1 - a)(1 - b)... of characters with coverage (B, L, h * w), as (B, H * W)."""
        found = coverage.new_ones(len(coverage), size[0] * size[1])
        for character, places in zip(coverage.unbind(1), self.places.unbind(1), strict=True):
            found = found.scatter(1, places, found.gather(1, places) * (1 - character))
        return found


def _first(centre: Tensor, length: int, whole: int) -> Tensor:
    """First pixel of a patch around a centre, moved so that the patch lies in the image."""
    return (centre.detach() - length / 2).round().long().clamp(0, whole - length)


def glyph_radius(glyphs: Floats) -> float:
    """Distance in image pixels from the centre of glyphs (K, G, G) that holds all coverage."""
    side = glyphs.shape[-1]
    off = np.arange(side) - (side - 1) / 2
    covered = np.hypot(off[:, None], off) * (glyphs > 0).any(0)
    return float(covered.max() + 1) / GLYPH_SCALE  # plus one for the interpolation


def reach(radius: float, pose: Tensor, size: tuple[int, int]) -> float:
    """Greatest distance in pixels from the centre of poses (B, L, 9) that a glyph can cover."""
    return float(reaches(radius, pose, size).max()) if pose.numel() else radius


def reaches(radius: float | Tensor, pose: Tensor, size: tuple[int, int]) -> Tensor:
    """Distance (B, L) in pixels from the centre of each pose (B, L, 9) that a glyph can cover.

    A disc of radius r becomes an ellipse. Its half axis is e = r * exp(size) * s. Here s is the
    operator norm of [[exp(stretch), shear], [0, 1]], at most max(exp(stretch), 1) + |shear|. With
    the bend straightened, a pixel that the glyph covers lies at a distance d from the centre, and
    at most at d + bend * d**2 / H with the bend. The perspective gives d <= e / (1 - f), with
    f = (taper + swell) * (d + bend * d**2 / H) / H. Fixed-point iteration solves for d.
    """
    height, width = size
    scale, stretch, shear, taper, swell, bend = pose[..., PLACED:].unbind(-1)
    e = radius * scale.exp() * (stretch.exp().clamp(min=1) + shear.abs())
    slope = (taper.abs() + swell.abs()) / height
    d = e
    for _ in range(_SOLVING):
        bent = d + bend.abs() * d.square() / height
        d = e / (1 - (slope * bent).clamp(max=_FOLDED))
    bent = d + bend.abs() * d.square() / height
    most = float(height + width)
    return bent.clamp(max=most).where(slope * bent <= _FOLDED, most)


def form_prior(pose: Tensor) -> Tensor:
    """Regularisation (B,) of the forms of poses (B, L, 9), added to the squared error.

    The weight is small. It keeps glyphs as large as most of their characters, and keeps forms that
    the image does not determine at zero.
    """
    return FORM_WEIGHT * pose[..., PLACED:].square().sum((1, 2))
