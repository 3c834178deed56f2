"""How letters stand as wide as they and their neighbours are.

Some programs put letters at fixed places, most where the one before ends, beginning at an edge, or
so that the text is in the middle. A text drawn at the places of another one, whose letters are
wider or narrower, would overlap or have gaps where no real text has. All these ways are linear: a
letter moves by some part of how much wider each letter of its text is. Least squares tell by which
parts, for texts of every length.

Shapes: N images, L characters, K classes, G side of a glyph.
"""

import numpy as np
import numpy.typing as npt

from simgan_captcha.simulator.pose import POSE
from simgan_captcha.types import Floats, GreyImages

_FEWEST = 30
"""Images for each letter of a text, to learn from."""
_SIZE, _STRETCH = POSE.index("size"), POSE.index("stretch")


def letter_widths(glyphs: GreyImages) -> Floats:
    """(K,) how many pixels wide letters of (K, G, G) glyphs are; the mean where there is none."""
    return _extents(glyphs, 1)


def letter_heights(glyphs: GreyImages) -> Floats:
    """(K,) likewise how high."""
    return _extents(glyphs, 2)


def _extents(glyphs: GreyImages, across: int) -> Floats:
    # Pale ones are as large as others.
    inked = glyphs.max(across) > glyphs.max((1, 2))[:, None] // 2
    found = inked.any(1)
    extents = inked.shape[1] - inked.argmax(1) - inked[:, ::-1].argmax(1)
    usual = extents[found].mean() if found.any() else 0.0
    return np.where(found, extents, usual).astype(np.float32)


def widening(poses: Floats) -> Floats:
    """(...) by which factor forms of (..., 9) poses make letters wider."""
    return np.asarray(np.exp(poses[..., _SIZE] + poses[..., _STRETCH]))


def wider_than_usual(widths: Floats, ids: npt.NDArray[np.int64], places: Floats) -> Floats:
    """(N, L) by how much letters are wider than glyphs are on average, in the unit of ``widths``.

    Args:
        widths: (K,) of glyphs.
        ids: (N, L) which letters.
        places: (N, L, 9) in which forms, see `pose.POSE`.
    """
    return np.asarray(widths[ids] * widening(places) - widths.mean())


def fit_following(x: Floats, widths: Floats) -> Floats:
    """(L, L, L): of texts of 1 to L letters, how far right each stands for each one's width.

    Args:
        x: (N, L) where letters stand, from the left; NaN where there is none, which is after the
            last one.
        widths: (N, L) how wide they are, or by how much wider than usual, in the same unit.

    Returns:
        0 for lengths that too few texts have.
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
        # Rows are the letters that stand, columns those that are wide.
        following[length - 1, :length, :length] = np.linalg.lstsq(wide, stand, rcond=None)[0].T
    return following


def moved_by_widths(following: Floats, wider: Floats, present: npt.NDArray[np.bool_]) -> Floats:
    """(N, L) how much further right letters stand in texts whose letters are ``wider`` (N, L).

    Args:
        following: (L, L, L), see `fit_following`.
        wider: In the same unit as what is returned; of letters that are not there, anything.
        present: (N, L) the letters that are.
    """
    of_length = following[np.maximum(present.sum(1), 1) - 1]
    return np.asarray((of_length @ np.where(present, wider, 0)[..., None])[..., 0], np.float32)
