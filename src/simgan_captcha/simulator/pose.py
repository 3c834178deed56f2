"""Poses: the place and the form of a character in an image, and the map to pixels."""

import numpy as np
import numpy.typing as npt

from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.glyphs import GlyphBank
from simgan_captcha.simulator.layout import Letters
from simgan_captcha.types import Doubles, Floats, Ids

POSE = ("x", "y", "rotation", "size", "stretch", "shear", "taper", "swell", "bend")
"""Values of a pose, in order. The first three place a character; the others are its form.

    x         pixels from the left edge to the centre
    y         pixels from the top edge to the centre
    rotation  degrees, counter-clockwise
    size      logarithm of the scale
    stretch   logarithm of the additional horizontal scale
    shear     horizontal shift in pixels per vertical pixel
    taper     perspective: relative growth in width per image height downwards
    swell     perspective: relative growth in height per image height to the right
    bend      curvature: at horizontal distance d, a point moves down by bend * d**2

The bend measures d and the shift in image heights. A form of zeros is that of the glyph.
`layout.Letters` has size and stretch as factors.
"""

PLACED = 3
"""Number of values that place a character. The bootstrap recognizer predicts only these."""

UNBENT = POSE.index("bend")
"""Number of values without the bend, for characters that do not lie on a wave."""


def moving(places: Floats) -> int:
    """The number of leading values of `POSE` that vary in these poses (..., 9).

    `PLACED` if all characters have the form of their glyph, `UNBENT` if none is bent, else all.
    """
    formed = np.nan_to_num(places[..., PLACED:])
    if formed[..., -1].any():
        return len(POSE)
    return UNBENT if formed.any() else PLACED


def place_glyphs(
    letters: Letters, nearest: npt.NDArray[np.bool_], bank: GlyphBank, scheme: Scheme
) -> tuple[Ids, Floats, Ids]:
    """Compute the map and the bounding box of each letter.

    With d = (image point - centre of the letter) and A = scale * R(rotation) [[stretch, shear],
    [0, 1]], the map is g = glyph centre + A^-1 d + (bilinear) d_x d_y + (quadratic) d_x^2. The
    bilinear coefficient comes from taper and swell, the quadratic one from the bend.

    Args:
        letters: The poses of (N, L) letters.
        nearest: (N,) whether calibrated glyphs are drawn in their version in image resolution.
        bank: The glyphs.
        scheme: Gives the size of the image.

    Returns:
        Glyph indices (N, L). Maps (N, L, 2, 5) from image pixels to glyph pixels, see
        `compositing.lay_letters`. Bounding boxes (N, L, 4), clipped to the image: left, top,
        right, bottom.
    """
    coarse = (letters.font >= bank.shape[0]) & nearest[:, None]
    drawn = np.minimum(letters.ids, len(scheme.alphabet) - 1)  # absent characters lie outside
    index = bank.index(letters.font + coarse, letters.size, letters.stroke, drawn)
    size, centre = bank.boxes[index], bank.centres[index]
    turn = np.deg2rad(letters.rotation.astype(np.float64))
    cosine, sine = np.cos(turn), np.sin(turn)
    stretch, shear = letters.stretch.astype(np.float64), letters.shear.astype(np.float64)
    scale = bank.scales[index] * letters.scale
    # Image y points down: a counter-clockwise rotation is [[cos, sin], [-sin, cos]].
    linear = _matrices(
        cosine * stretch,
        cosine * shear + sine,
        -sine * stretch,
        cosine - sine * shear,
        scale,
    )
    back = _matrices(
        cosine - sine * shear,
        -cosine * shear - sine,
        sine * stretch,
        cosine * stretch,
        1 / (scale * stretch),
    )
    place = np.stack([letters.x, letters.y], axis=-1, dtype=np.float64)
    taper, swell, bend = (
        warp / scheme.height for warp in (letters.taper, letters.swell, letters.bend)
    )
    boxes = _bounding_boxes(place, linear, size, centre, (taper, swell, bend), scheme)
    # Pixel coordinates start at the centre of the first pixel, poses at its corner.
    origin = place - 0.5
    # Coefficient of the bilinear term (x - x0) * (y - y0).
    diagonal = np.stack([(taper - shear * swell) / stretch, swell], -1) / -scale[..., None]
    offset = centre - 0.5 - _apply(back, origin) + diagonal * origin.prod(-1, keepdims=True)
    # Coefficient of the quadratic term (x - x0)**2.
    square, from_left = -bend[..., None] * back[..., 1], origin[..., :1]
    offset += square * np.square(from_left)
    back = back - diagonal[..., None] * origin[..., None, ::-1]
    along = back[..., 0] - 2 * square * from_left
    maps = np.stack([along, back[..., 1], offset, diagonal, square], axis=-1)
    return index, maps.astype(np.float32), boxes


def _bounding_boxes(
    place: Doubles,
    linear: Doubles,
    size: Doubles,
    centre: Doubles,
    warps: tuple[Doubles, Doubles, Doubles],
    scheme: Scheme,
) -> Ids:
    """Boxes (N, L, 4) of warped letters, clipped to the image: left, top, right, bottom.

    Args:
        place: (N, L, 2) centres of the letters in the image.
        linear: (N, L, 2, 2) from glyph to image pixels, without warps.
        size: (N, L, 2) of the glyphs.
        centre: (N, L, 2) of the glyphs.
        warps: Taper, swell and bend (N, L), per pixel.
        scheme: Gives the size of the image.
    """
    taper, swell, bend = warps
    off = _apply(linear, size / 2 - centre)
    reach = _apply(np.abs(linear), size / 2)
    # Bent letters extend by bend * d**2 vertically; tapered letters extend on the wide side.
    # The part that would fold over is cut.
    extent = np.abs(off) + reach
    ends = np.abs(bend) * np.square(extent[..., 0])
    reach[..., 1] += ends
    extent[..., 1] += ends
    folded = np.minimum((np.abs(taper) + np.abs(swell)) * extent.max(-1), _MOST_FOLDED)
    reach += extent * (folded / (1 - folded))[..., None] + 1  # plus one pixel for the blur
    limits = (scheme.width, scheme.height)
    start = np.clip(np.floor(place + off - reach), 0, limits).astype(np.int64)
    stop = np.clip(np.ceil(place + off + reach), 0, limits).astype(np.int64)
    return np.concatenate([start, stop], axis=-1)


def _matrices(a: Doubles, b: Doubles, c: Doubles, d: Doubles, scale: Doubles) -> Doubles:
    """Matrices (N, L, 2, 2) [[a, b], [c, d]] times a scale."""
    return np.asarray((np.stack([a, b, c, d], axis=-1) * scale[..., None]).reshape(*a.shape, 2, 2))


def _apply(linear: Doubles, points: Doubles) -> Doubles:
    """Products of matrices (N, L, 2, 2) and points (N, L, 2)."""
    return np.asarray((linear * points[..., None, :]).sum(axis=-1))


_MOST_FOLDED = 0.5
