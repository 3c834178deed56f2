"""Poses: the place and the form of a character in an image."""

import numpy as np

from simgan_captcha.types import Floats

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
