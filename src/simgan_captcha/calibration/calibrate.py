"""From what was found in real images to what the simulator shall draw, a `Calibration`.

Shapes: N images, L characters, K classes, G side of a glyph.
"""

import numpy as np
import numpy.typing as npt

from simgan_captcha.calibration.poses import Poses
from simgan_captcha.errors import TooLittleReadError
from simgan_captcha.simulator.calibrated import UNKNOWN_CLUTTER, Calibration, widths_in_image
from simgan_captcha.simulator.pose import PLACED, POSE
from simgan_captcha.simulator.spacing import fit_following, moved_by_widths, wider_than_usual
from simgan_captcha.types import Floats, GreyImages

FORMS_ALIKE = np.array([0.05, 0.05, 0.05, 0.2, 0.2, 0.2], np.float32)
"""Forms that spread less than this from one character to the next are taken for none."""

FEWEST_CHARACTERS = 20
"""With fewer in a slot to learn from there is no calibration."""

_REACHED = 0.1
_ENDS = (0.05, 0.95)
_FORM_ENDS = (0.01, 0.99)


def glyph_sheet(glyphs: GreyImages, columns: int = 12) -> GreyImages:
    """A picture of all glyphs (K, G, G) in the order of the alphabet."""
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
    """What was found, to draw from.

    Args:
        glyphs: (K, G, G) coverage, 0 to 1, as `glyph_fit.fit_glyphs` finds them.
        poses: Fitted, of N images.
        kept: (N, L) the characters that are read surely: they tell how a class lies.
        settled: (N,) the images whose places are drawn from. Not only those that are read surely:
            letters that overlap would be drawn too seldom.
        rendering: (6,), as `rendering_fit.fit_rendering` finds it.
        clutter: (9,), likewise.

    Raises:
        TooLittleReadError: Hardly any image counts: the scout knows too little.
    """
    # A slot that texts seldom reach cannot have many.
    reached = poses.present.mean(0) > _REACHED
    fewest = min(kept.sum(0)[reached].tolist(), default=0)
    if min(fewest, settled.sum()) < FEWEST_CHARACTERS:
        raise TooLittleReadError(
            f"expected at least {FEWEST_CHARACTERS} characters read surely in every slot, got "
            f"{kept.sum(0).tolist()}, and as many images whose letters were found where they are "
            f"read, got {settled.sum()}; train the scout longer (calibration.first_steps, "
            "calibration.steps), widen the simulator's ranges, or set calibrate=false"
        )
    ids, places = poses.ids, poses.places
    forms, surely = places[..., PLACED:], places[kept][:, PLACED:]
    # A misread letter is given whatever form makes it look like what it is not.
    forms = np.clip(forms, *np.quantile(surely, _FORM_ENDS, axis=0))
    alike = spread_of(surely) < FORMS_ALIKE
    places = np.concatenate([places[..., :PLACED], np.where(alike, 0, forms)], -1)
    shapes, present = np.rint(glyphs * 255).astype(np.uint8), poses.present
    # Where a letter stands for its own width and its neighbours' is no place of its slot.
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
    """(P,) half of what two thirds of (n, P) values lie within: a deviation, but some stray far."""
    return np.asarray(np.ptp(np.quantile(poses, (1 / 6, 5 / 6), axis=0), axis=0) / 2)


def _shift(some: Floats, all_of_them: Floats) -> Floats:
    """(9,) by how much some poses (n, 9) lie off all of them.

    Only as far as both ends of their distribution do. Where the scout takes a class's right-leaning
    letters for another class, the rest lies off on average, but reaches as far to the left: drawing
    it turned to the left would teach the next scout to tell the two by how they lean.
    """
    ends = np.quantile(some, _ENDS, axis=0) - np.quantile(all_of_them, _ENDS, axis=0)
    least = np.abs(ends).min(0)
    return np.asarray(np.where((ends > 0).all(0), least, np.where((ends < 0).all(0), -least, 0)))
