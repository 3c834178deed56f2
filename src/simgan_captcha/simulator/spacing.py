"""The spacing model: letter positions as a linear function of letter widths.

Some generators use fixed positions. Most place each letter after the one before, from an edge or
such that the text is centred. A text at the positions of another text, with wider or narrower
letters, would have wrong overlaps and gaps. All these layouts are linear: the shift of letter i is
sum_j F[i, j] * (width_j - mean width). F is estimated by least squares for each text length.

Shapes: N images, L characters, K classes, G side of a glyph.
"""

import numpy as np
import numpy.typing as npt

from simgan_captcha.simulator.pose import POSE
from simgan_captcha.types import Floats, GreyImages

_FEWEST = 30
"""Least number of images per letter of a text."""
_SIZE, _STRETCH = POSE.index("size"), POSE.index("stretch")


def letter_widths(glyphs: GreyImages) -> Floats:
    """Widths (K,) of glyphs (K, G, G) in pixels; the mean for classes without a glyph."""
    return _extents(glyphs, 1)


def letter_heights(glyphs: GreyImages) -> Floats:
    """Heights (K,) of glyphs (K, G, G) in pixels; the mean for classes without a glyph."""
    return _extents(glyphs, 2)


def _extents(glyphs: GreyImages, across: int) -> Floats:
    # Relative to the maximum, so that pale glyphs have their full size.
    inked = glyphs.max(across) > glyphs.max((1, 2))[:, None] // 2
    found = inked.any(1)
    extents = inked.shape[1] - inked.argmax(1) - inked[:, ::-1].argmax(1)
    usual = extents[found].mean() if found.any() else 0.0
    return np.where(found, extents, usual).astype(np.float32)


def widening(poses: Floats) -> Floats:
    """Factors (...) by which the forms of poses (..., 9) widen letters."""
    return np.asarray(np.exp(poses[..., _SIZE] + poses[..., _STRETCH]))


def wider_than_usual(widths: Floats, ids: npt.NDArray[np.int64], places: Floats) -> Floats:
    """Widths (N, L) of letters minus the mean glyph width, in the unit of ``widths``.

    Args:
        widths: (K,) widths of glyphs.
        ids: (N, L) classes.
        places: (N, L, 9) poses, see `pose.POSE`.
    """
    return np.asarray(widths[ids] * widening(places) - widths.mean())


def fit_following(x: Floats, widths: Floats) -> Floats:
    """Fit the spacing model (L, L, L) for texts of 1 to L letters.

    Args:
        x: (N, L) positions from the left; NaN after the last letter.
        widths: (N, L) widths, absolute or relative to the mean, in the same unit.

    Returns:
        Shifts per width; 0 for lengths with too few texts.
    """
    L = x.shape[1]
    following = np.zeros((L, L, L), np.float32)
    lengths = np.isfinite(x).sum(1)
    for length in range(1, L + 1):
        chosen = lengths == length
        if chosen.sum() < _FEWEST * length:
            continue
        stand, wide = (
            (values[chosen, :length] - values[chosen, :length].mean(0)).astype(np.float64)
            for values in (x, widths)
        )
        # Rows are the letters that move, columns those with the widths.
        following[length - 1, :length, :length] = np.linalg.lstsq(wide, stand, rcond=None)[0].T
    return following


def moved_by_widths(following: Floats, wider: Floats, present: npt.NDArray[np.bool_]) -> Floats:
    """Shifts (N, L) to the right, for letters that are wider than the mean by ``wider`` (N, L).

    Args:
        following: (L, L, L) spacing model, see `fit_following`.
        wider: (N, L) widths minus the mean, in the unit of the result; empty slots are ignored.
        present: (N, L) mask of slots with a letter.
    """
    of_length = following[np.maximum(present.sum(1), 1) - 1]
    return np.asarray((of_length @ np.where(present, wider, 0)[..., None])[..., 0], np.float32)
