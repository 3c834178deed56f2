"""What the reader doubts is decided by drawing it: analysis by synthesis of single characters.

Where a character may be one of two, the image is drawn with either, with the glyphs that
calibration found; poses are moved until each drawing misses least, and the one that misses less is
likelier. How much that counts against the reader's own odds follows from how much the better
drawings still miss: the noisier the images, the less.

Twice drawings must prove themselves first, or the reader's word stands. They must bear out what the
reader hardly doubts: where glyphs are poor, or letters of many sizes are drawn in one, they speak
against much that is surely read, and so are not to be believed elsewhere. And on images that the
simulator drew, whose texts are known, they must not do harm.

Shapes: N images, M doubts, L characters, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from simgan_captcha.calibration.pose_fit import fit_poses
from simgan_captcha.calibration.scout import scout_images
from simgan_captcha.data.background import Background
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.calibrated import Calibration
from simgan_captcha.simulator.pose import moving
from simgan_captcha.types import Floats, GreyImages, Ids

_NEIGHBOURS = 4
"""Pixels that err together: the codec spreads every error over some."""

_COMPARED = 600
"""The most characters hardly doubted that drawings must bear out."""

_CONTRADICTED = 0.05
"""Drawings may speak against this share of them beyond what the reader's own probabilities expect.
Where glyphs fit it was 0.01; 0.26 where deciding by drawings cost 4 % of images."""

_BATCH = 64


class VerificationSettings(BaseModel):
    """Of what the reader doubts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    doubt: float = Field(default=0.02, gt=0, le=1)
    """A character is drawn where its second likeliest class has more than this probability; 1 never
    draws."""
    steps: int = Field(default=30, ge=1, le=1000)
    """Steps that move the poses."""


@dataclass(frozen=True)
class Comparisons:
    """M characters, each drawn as one class and as another."""

    images: Ids
    """(M,) which image, likewise ``slots``."""
    slots: Ids
    first: Ids
    """(M,) the reader's likeliest class, and its ``second``."""
    second: Ids
    odds: Floats
    """(M,) the reader's log odds of first against second, at least 0."""
    evidence: Floats
    """(M,) how much more squared ink the drawing of the first misses; above 0 speaks for the
    second."""
    variance: float
    """Of one pixel's ink about the better drawings."""


def doubted(probabilities: Floats, settings: VerificationSettings) -> npt.NDArray[np.bool_]:
    """(N, L): which characters the reader, (N, L, K), doubts."""
    return np.asarray(_second(probabilities) > settings.doubt)


def hardly_doubted(
    probabilities: Floats, calibration: Calibration, settings: VerificationSettings
) -> npt.NDArray[np.bool_]:
    """(N, L): of the characters that can be drawn, the few hundred the reader is next to doubt."""
    second = _second(probabilities)
    eligible = drawable_pairs(probabilities, calibration) & (second <= settings.doubt)
    below = np.where(eligible, second, 0)
    chosen = np.zeros(below.shape, np.bool_)
    chosen.ravel()[np.argsort(-below, axis=None, kind="stable")[:_COMPARED]] = True
    return chosen & (below > 0)


def drawable_pairs(probabilities: Floats, calibration: Calibration) -> npt.NDArray[np.bool_]:
    """(N, L): whether both of the likeliest classes of (N, L, K) have a glyph."""
    order = np.argsort(-probabilities, axis=-1, kind="stable")[..., :2]
    return np.asarray(calibration.found[order].all(-1))


def _second(probabilities: Floats) -> Floats:
    """(N, L) of the second likeliest class."""
    return np.asarray(np.partition(probabilities, -2, axis=-1)[..., -2])


def compare_readings(
    images: GreyImages,
    background: Background,
    probabilities: Floats,
    chosen: npt.NDArray[np.bool_],
    scout: nn.Module,
    calibration: Calibration,
    scheme: Scheme,
    settings: VerificationSettings,
    on_compared: Callable[[int, int], None] = lambda done, total: None,
) -> Comparisons:
    """Draw characters as both of their likeliest classes.

    Args:
        images: (N, H, W) ``uint8``.
        background: Theirs.
        probabilities: (N, L, K) of the reader.
        chosen: (N, L) of which characters, see `doubted` and `hardly_doubted`.
        scout: Tells where characters lie, see `scout.scout_images`.
        calibration: Whose glyphs are drawn; a class without one is left out.
        scheme: Of the images.
        settings: How they are drawn.
        on_compared: Called with how many are drawn, and of how many.
    """
    order = np.argsort(-probabilities, axis=-1, kind="stable")[..., :2]
    both = np.take_along_axis(probabilities, order, -1)
    of_image, slots = np.nonzero(chosen & drawable_pairs(probabilities, calibration))
    first, second = order[of_image, slots].T
    likelier, other = both[of_image, slots].T
    read = order[of_image, :, 0]
    alternatives = read.copy()
    alternatives[np.arange(len(of_image)), slots] = second
    missed, inked = np.zeros((2, len(of_image)), np.float32), np.zeros(len(of_image), np.float32)
    glyphs = calibration.glyphs.astype(np.float32) / np.float32(255)
    moved = moving(calibration.poses)
    for n in range(0, len(of_image), _BATCH):
        batch = slice(n, n + _BATCH)
        normalised = background.normalise(images[of_image[batch]])
        poses = scout_images(scout, normalised, scheme)
        told = poses.places
        # Each class lies in its own way about the place that the scout tells of the class it saw.
        usual = told - calibration.offset[poses.ids]
        for row, ids in enumerate((read[batch], alternatives[batch])):
            begin = np.asarray(usual + calibration.offset[ids], np.float32)
            fit = fit_poses(normalised, ids, begin, glyphs, settings.steps, moving=moved)
            missed[row, batch], inked[batch] = fit.missed, fit.inked
        on_compared(min(n + _BATCH, len(of_image)), len(of_image))
    odds = np.log(np.maximum(likelier, 1e-12) / np.maximum(other, 1e-12)).astype(np.float32)
    variance = float(missed.min(0).sum() / max(1.0, float(inked.sum())))
    return Comparisons(of_image, slots, first, second, odds, missed[0] - missed[1], variance)


def contradicts(hardly: Comparisons) -> bool:
    """Whether drawings speak against more than they may of what is all but surely read.

    Args:
        hardly: Of what is `hardly_doubted`.
    """
    against = int((hardly.evidence > 0).sum())
    wrong = float((1 / (1 + np.exp(hardly.odds.astype(np.float64)))).sum())
    allowed = wrong + _CONTRADICTED * len(hardly.images)
    # One more, lest a single drawing of very few should decide.
    return bool(against > allowed + 2 * np.sqrt(allowed) + 1)


def does_harm(doubts: Comparisons, ids: Ids) -> bool:
    """Whether deciding these doubts breaks clearly more characters than it mends (a sign test).

    Args:
        doubts: Of images whose texts are known, as the simulator drew them.
        ids: (N, L) their class ids.
    """
    true = ids[doubts.images, doubts.slots]
    changed = _log_odds(doubts) > 0
    mended, broken = (
        (changed & (true == doubts.second)).sum(),
        (changed & (true == doubts.first)).sum(),
    )
    return bool(broken - mended > 2 * np.sqrt(broken + mended))


def decide(probabilities: Floats, doubts: Comparisons) -> Floats:
    """(N, L, K) probabilities with those of doubted characters' two classes shared out anew."""
    decided = probabilities.copy()
    both = (
        probabilities[doubts.images, doubts.slots, doubts.first]
        + probabilities[doubts.images, doubts.slots, doubts.second]
    )
    for_second = 1 / (1 + np.exp(-np.clip(_log_odds(doubts), -50, 50)))
    decided[doubts.images, doubts.slots, doubts.first] = both * (1 - for_second)
    decided[doubts.images, doubts.slots, doubts.second] = both * for_second
    return decided


def _log_odds(doubts: Comparisons) -> npt.NDArray[np.float64]:
    """(M,) of the second class against the first."""
    trust = 1 / (2 * _NEIGHBOURS * max(doubts.variance, 1e-6))
    return np.asarray(trust * doubts.evidence.astype(np.float64) - doubts.odds)
