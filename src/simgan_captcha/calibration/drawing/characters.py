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
    return _sampled(glyphs[:, None], ids, pose, _upright(pose, right, down, height))[:, :, 0]


def slopes_at(
    glyphs: Tensor, ids: Tensor, pose: Tensor, right: Tensor, down: Tensor, height: int
) -> tuple[Tensor, Tensor]:
    """Coverage (B, L, h, w), and its derivatives (B, L, 9, h, w) by the pose of each character.

    With p, q and a as in `draw_characters`, the coverage of a glyph G is G(p * s, q * s), with
    s = exp(-size). Its derivative by a value z is G_p * d(p * s)/dz + G_q * d(q * s)/dz.

    Args:
        glyphs: (K, 3, G, G), see `with_gradients`.
        ids: (B, L) int64.
        pose: (B, L, 9), see `pose.POSE`.
        right: (B, L, 1, w), u.
        down: (B, L, h, 1), v.
        height: H.
    """
    upright = _upright(pose, right, down, height)
    coverage, by_across, by_along = _sampled(glyphs, ids, pose, upright).unbind(2)
    cosine, sine, straight, across, along, _ = upright
    size, stretch, shear, taper, swell, bend = pose[..., PLACED:, None, None].unbind(2)
    narrow, wide = torch.exp(-size - stretch), torch.exp(-size)
    # The derivatives by a and q; p = (a - shear * q) * exp(-stretch).
    by_a = by_across * narrow
    by_q = by_along * wide - by_a * shear
    bent = 2 * bend * right / height  # -dv' / du
    diagonal, squared = right * down / height, right.square() / height
    radian = math.pi / 180
    slopes = (
        # du / dx = dv / dy = -1
        by_a * (taper * down / height - cosine - sine * bent)
        + by_q * (swell * down / height - sine + cosine * bent),
        by_a * (taper * right / height + sine) + by_q * (swell * right / height - cosine),
        radian * (by_q * (cosine * right - sine * straight))
        - radian * (by_a * (sine * right + cosine * straight)),
        -by_across * across * wide - by_along * along * wide,
        -by_across * across * wide,
        -by_a * along,
        -by_a * diagonal,
        -by_q * diagonal,
        (by_a * sine - by_q * cosine) * squared,
    )
    return coverage, torch.stack(slopes, 2)


def with_gradients(glyphs: Tensor) -> Tensor:
    """Glyphs (K, G, G) and their derivatives along both axes per image pixel, as (K, 3, G, G)."""
    down, right = torch.gradient(glyphs * GLYPH_SCALE, dim=(1, 2))
    return torch.stack([glyphs, right, down], 1)


class _Upright(NamedTuple):
    """Where pixels lie in upright characters, in the terms of `draw_characters`."""

    cosine: Tensor
    """cos(t), (B, L, 1, 1)."""
    sine: Tensor
    """sin(t), (B, L, 1, 1)."""
    straight: Tensor
    """v', (B, L, h, w)."""
    across: Tensor
    """p, (B, L, h, w)."""
    along: Tensor
    """q, (B, L, h, w)."""
    unfolded: Tensor
    """Mask (B, L, h, w) of pixels on this side of the fold of the perspective."""


def _upright(pose: Tensor, right: Tensor, down: Tensor, height: int) -> _Upright:
    turn = torch.deg2rad(pose[..., 2])[..., None, None]
    cosine, sine = torch.cos(turn), torch.sin(turn)
    _, stretch, shear, taper, swell, bend = pose[..., PLACED:, None, None].unbind(2)
    # Undo the bend, the perspective and the rotation, then shear and stretch.
    diagonal = right * down / height
    straight = down - bend * right.square() / height
    across = cosine * right - sine * straight - taper * diagonal
    along = sine * right + cosine * straight - swell * diagonal
    narrowed = (across - shear * along) * torch.exp(-stretch)
    beyond = swell * (cosine * right + sine * down) + taper * (cosine * down - sine * right)
    return _Upright(cosine, sine, straight, narrowed, along, beyond < height)


def _sampled(glyphs: Tensor, ids: Tensor, pose: Tensor, upright: _Upright) -> Tensor:
    """Channels of glyphs (K, C, G, G) at (p, q) * exp(-size), as (B, L, C, h, w)."""
    unit = 2 * GLYPH_SCALE / glyphs.shape[-1] * torch.exp(-pose[..., PLACED, None, None, None])
    grid = torch.stack([upright.across, upright.along], -1) * unit
    # Beyond the fold, the map would show a mirrored glyph.
    grid = grid.where(upright.unfolded[..., None], _OUTSIDE)
    chosen = glyphs.index_select(0, ids.flatten())
    drawn = nn.functional.grid_sample(chosen, grid.flatten(0, 1), align_corners=False)
    return drawn.view(*ids.shape, *drawn.shape[1:])


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
        (height, width), (rows, columns) = size, patch_size(radius, size)
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


def patch_size(radius: float, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a patch, at most those of the image."""
    side = 2 * math.ceil(radius) + 1
    return min(side, size[0]), min(side, size[1])


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
    """Greatest distance in pixels from the centre of poses (B, L, 9) that a glyph can cover.

    A disc of radius r becomes an ellipse. Its half axis is e = r * exp(size) * s. Here s is the
    operator norm of [[exp(stretch), shear], [0, 1]], at most max(exp(stretch), 1) + |shear|. The
    bend then adds bend * e**2 / H. Perspective divides by 1 - f, with f = (taper + swell) * e / H.
    """
    if not pose.numel():
        return radius
    height, width = size
    scale, stretch, shear, taper, swell, bend = pose[..., PLACED:].unbind(-1)
    e = radius * scale.exp() * (stretch.exp().clamp(min=1) + shear.abs())
    e = e + bend.abs() * e.square() / height
    folded = (taper.abs() + swell.abs()) * e / height
    if bool((folded > _FOLDED).any()):
        return height + width
    return min(height + width, float((e / (1 - folded)).max()))


def form_prior(pose: Tensor) -> Tensor:
    """Regularisation (B,) of the forms of poses (B, L, 9), added to the squared error.

    The weight is small. It keeps glyphs as large as most of their characters, and keeps forms that
    the image does not determine at zero.
    """
    return FORM_WEIGHT * pose[..., PLACED:].square().sum((1, 2))
