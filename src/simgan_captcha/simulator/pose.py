"""What places a character in an image, and what form it has."""

import numpy as np

from simgan_captcha.types import Floats

POSE = ("x", "y", "rotation", "size", "stretch", "shear", "taper", "swell", "bend")
"""What poses tell of a character: pixels from the left and from the top, degrees counter-clockwise;
and its form, the logarithms of its size and of its width beside that, pixels that it leans to the
right for each one down, its perspective, how much wider it grows an image height down and how much
taller one to the right, and how far down its ends are bent, in image heights one to either side,
more as the square: 0 as its glyph is. `layout.Letters` has size and width as factors."""

PLACED = 3
"""So many of them place a character; the others are its form, which no scout tells."""

UNBENT = POSE.index("bend")
"""So many of them tell all of characters that lie on no wave."""


def moving(places: Floats) -> int:
    """How many of `POSE`, from the first on, these places (..., 9) need.

    `PLACED` where all have one form, `UNBENT` where none is bent, or all.
    """
    formed = np.nan_to_num(places[..., PLACED:])
    if formed[..., -1].any():
        return len(POSE)
    return UNBENT if formed.any() else PLACED
