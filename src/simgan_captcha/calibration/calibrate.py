"""Build a `Calibration`, which the simulator draws from, from fitted glyphs and poses.

Shapes: N images, L characters, K classes, G side of a glyph.
"""

import numpy as np
import numpy.typing as npt

from simgan_captcha.calibration.drawing.poses import Poses
from simgan_captcha.errors import TooLittleReadError
from simgan_captcha.simulator.calibrated import UNKNOWN_CLUTTER, Calibration, widths_in_image
from simgan_captcha.simulator.pose import PLACED, POSE
from simgan_captcha.simulator.spacing import fit_following, moved_by_widths, wider_than_usual
from simgan_captcha.types import Floats, GreyImages

FORMS_ALIKE = np.array([0.05, 0.05, 0.05, 0.2, 0.2, 0.2], np.float32)
"""Spread of each form value below which characters count as having the same form."""

FEWEST_CHARACTERS = 20
"""Least number of confident characters in each slot for a calibration."""

_REACHED = 0.1
_ENDS = (0.05, 0.95)
_FORM_ENDS = (0.01, 0.99)


def glyph_sheet(glyphs: GreyImages, columns: int = 12) -> GreyImages:
    """A contact sheet of all glyphs (K, G, G) in the order of the alphabet."""
    missing = -len(glyphs) % columns
    padded = np.concatenate([glyphs, np.zeros((missing, *glyphs.shape[1:]), np.uint8)])
    rows = [np.hstack(list(padded[at : at + columns])) for at in range(0, len(padded), columns)]
    return np.asarray(np.vstack(rows), np.uint8)


def calibrate(
    glyphs: Floats,
    poses: Poses,
    kept: npt.NDArray[np.bool_],
    settled: npt.NDArray[np.bool_],
    rendering: Floats,
    clutter: Floats = UNKNOWN_CLUTTER,
) -> Calibration:
    """Build a calibration from fitted glyphs, poses and rendering.

    Args:
        glyphs: (K, G, G) coverage, 0 to 1, from `glyph_fit.fit_glyphs`.
        poses: Fitted poses of N images.
        kept: (N, L) mask of confident characters, which determine the class offsets.
        settled: (N,) mask of images that give the poses to draw. It includes images with unsure
            characters, because overlapping letters would otherwise be too rare.
        rendering: (6,) values from `rendering_fit.fit_rendering`.
        clutter: (9,) values from the same fit.

    Raises:
        TooLittleReadError: Too few characters were read with confidence.
    """
    # Slots that few texts reach have few characters.
    reached = poses.present.mean(0) > _REACHED
    fewest = min(kept.sum(0)[reached].tolist(), default=0)
    if min(fewest, settled.sum()) < FEWEST_CHARACTERS:
        raise TooLittleReadError(
            f"expected at least {FEWEST_CHARACTERS} characters read with confidence in every slot, "
            f"got {kept.sum(0).tolist()}, and as many images with all letters found where they are "
            f"read, got {settled.sum()}; train longer (calibration.first_steps, "
            "calibration.steps), widen the ranges of the simulator, or set calibrate=false"
        )
    ids, places = poses.ids, poses.places
    forms, of_kept = places[..., PLACED:], places[kept][:, PLACED:]
    # Misread letters get extreme forms that make them look like another class.
    forms = np.clip(forms, *np.quantile(of_kept, _FORM_ENDS, axis=0))
    alike = spread_of(of_kept) < FORMS_ALIKE
    places = np.concatenate([places[..., :PLACED], np.where(alike, 0, forms)], -1)
    shapes, present = np.rint(glyphs * 255).astype(np.uint8), poses.present
    # Remove the effect of the widths of the letter and its neighbours.
    wider = wider_than_usual(widths_in_image(shapes), ids, places)
    stand = np.where(present, places[..., 0], np.nan)
    following = fit_following(stand[settled], wider[settled])
    places[..., 0] -= moved_by_widths(following, wider, present)
    apart = np.zeros_like(places)
    for s in np.flatnonzero(kept.any(0)):
        apart[:, s] = places[:, s] - np.median(places[kept[:, s], s], axis=0)
    offset = np.zeros((len(glyphs), len(POSE)), np.float32)
    for k in np.flatnonzero(shapes.any((1, 2))):
        offset[k, :PLACED] = _shift(apart[kept & (ids == k)], apart[kept])[:PLACED]
    usual = np.where(present[..., None], places - offset[ids], np.nan)
    return Calibration(
        glyphs=shapes,
        poses=usual[settled].astype(np.float32),
        offset=offset,
        following=following,
        rendering=rendering.astype(np.float32),
        clutter=clutter.astype(np.float32),
    )


def spread_of(poses: Floats) -> Floats:
    """A robust standard deviation (P,) of (n, P): half the range of the middle two thirds."""
    return np.asarray(np.ptp(np.quantile(poses, (1 / 6, 5 / 6), axis=0), axis=0) / 2)


def _shift(some: Floats, all_of_them: Floats) -> Floats:
    """Offset (9,) of some poses (n, 9) from all poses.

    It is the smaller shift of the 5th and 95th percentiles, or 0 if their signs differ. A median
    would be biased by one-sided misreadings. If right-leaning letters of a class are misread, the
    rest lean left on average, and the next recognizer would learn to separate classes by slant.
    """
    ends = np.quantile(some, _ENDS, axis=0) - np.quantile(all_of_them, _ENDS, axis=0)
    least = np.abs(ends).min(0)
    return np.asarray(np.where((ends > 0).all(0), least, np.where((ends < 0).all(0), -least, 0)))
