"""Rescoring of uncertain characters by analysis by synthesis.

If a character may be one of two classes, the image is drawn with either class, using the calibrated
glyphs. Poses are fitted to minimise the squared error of each drawing. The class with the smaller
error becomes likelier. The weight of this evidence against the recognizer's log odds depends on the
error of the better drawings. Noisier images give a smaller weight.

Two checks come first. In the first, drawings must agree with borderline characters, which the
recognizer reads with some confidence. Poor glyphs, or one glyph for letters of many sizes, would
contradict many of them. In the second, drawings must not lower the accuracy on synthetic images
with known texts. If a check fails, the readings stay the same.

Shapes: N images, M uncertain characters, L characters, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from torch import nn

from simgan_captcha.calibration.bootstrap import predict_poses
from simgan_captcha.calibration.drawing.pose_fit import fit_poses
from simgan_captcha.data.background import Background
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.calibrated import Calibration
from simgan_captcha.simulator.pose import moving
from simgan_captcha.types import Floats, GreyImages, Ids

UNCERTAIN = 0.1
"""Probability of the second likeliest class above which a character is rescored, and up to which it
is borderline. Confident characters are not drawn, because each drawing takes time."""

DOUBTED = 0.04
"""The same probability if drawings contradict no more borderline characters than the probabilities
predict. On the 2017 puzzle, where they do not, 0.1 corrects 1.5 to 1.7 % of the images, and 0.04
0.1 to 0.2 % more. On PyPI's digits they do; 0.1 corrects 0.3 % of the images, and 0.04 breaks as
many."""

_STEPS = 12
"""Greatest number of steps of the poses of a drawing, which begin at predicted poses."""

_NEIGHBOURS = 4
"""Number of pixels with correlated errors, because JPEG spreads each error."""

_COMPARED = 300
"""Greatest number of borderline characters in the first check."""

CONTRADICTED = 0.1
"""Share of borderline characters that drawings may contradict, beyond the share that the
probabilities predict. It was 0.07 where rescoring corrected 0.4 % of images, and 0.26 where it cost
4 %."""

_BATCH = 64


@dataclass(frozen=True)
class Comparisons:
    """M characters, each drawn as two classes."""

    images: Ids
    """(M,) index of the image."""
    slots: Ids
    """(M,) index of the slot."""
    first: Ids
    """(M,) likeliest class of the recognizer."""
    second: Ids
    """(M,) second likeliest class."""
    odds: Floats
    """(M,) log odds of the first class against the second, at least 0."""
    evidence: Floats
    """(M,) squared error of the first drawing minus that of the second; positive values favour the
    second."""
    variance: float
    """Variance of the ink of a pixel around the better drawing."""


def uncertain_characters(probabilities: Floats, least: float = UNCERTAIN) -> npt.NDArray[np.bool_]:
    """Mask (N, L) of characters of probabilities (N, L, K) whose second class exceeds ``least``."""
    return np.asarray(_second(probabilities) > least)


def borderline_characters(probabilities: Floats, calibration: Calibration) -> npt.NDArray[np.bool_]:
    """Mask (N, L) of borderline characters: the least confident ones up to `UNCERTAIN`."""
    second = _second(probabilities)
    eligible = drawable_pairs(probabilities, calibration) & (second <= UNCERTAIN)
    below = np.where(eligible, second, 0)
    chosen = np.zeros(below.shape, np.bool_)
    chosen.ravel()[np.argsort(-below, axis=None, kind="stable")[:_COMPARED]] = True
    return chosen & (below > 0)


def drawable_pairs(probabilities: Floats, calibration: Calibration) -> npt.NDArray[np.bool_]:
    """Mask (N, L) of characters with glyphs for both of their likeliest classes."""
    order = np.argsort(-probabilities, axis=-1, kind="stable")[..., :2]
    return np.asarray(calibration.found[order].all(-1))


def _second(probabilities: Floats) -> Floats:
    """Probabilities (N, L) of the second likeliest class."""
    return np.asarray(np.partition(probabilities, -2, axis=-1)[..., -2])


@dataclass(frozen=True)
class Redrawing:
    """What the characters of images are drawn with again."""

    background: Background
    """Background of the images."""
    bootstrap: nn.Module
    """Bootstrap recognizer, which predicts poses, see `bootstrap.predict_poses`."""
    calibration: Calibration
    """Calibration with the glyphs; classes without a glyph are left out."""
    scheme: Scheme
    """Scheme of the images."""

    def compare(
        self,
        images: GreyImages,
        probabilities: Floats,
        chosen: npt.NDArray[np.bool_],
        on_compared: Callable[[int, int], None] = lambda done, total: None,
    ) -> Comparisons:
        """Draw characters as both of their likeliest classes and compare the errors.

        Args:
            images: (N, H, W) ``uint8``.
            probabilities: (N, L, K) of the recognizer.
            chosen: (N, L) mask of characters, see `uncertain_characters` and
                `borderline_characters`.
            on_compared: Called with the number of finished characters and the total.
        """
        order = np.argsort(-probabilities, axis=-1, kind="stable")[..., :2]
        both = np.take_along_axis(probabilities, order, -1)
        of_image, slots = np.nonzero(chosen & drawable_pairs(probabilities, self.calibration))
        first, second = order[of_image, slots].T
        likelier, other = both[of_image, slots].T
        drawn, of_drawn = np.unique(of_image, return_inverse=True)
        read = order[drawn, :, 0]
        missed = np.zeros((2, len(of_image)), np.float32)
        inked = np.zeros(len(of_image), np.float32)
        glyphs = self.calibration.glyphs.astype(np.float32) / np.float32(255)
        fit = partial(fit_poses, glyphs=glyphs, steps=_STEPS, moving=moving(self.calibration.poses))
        offset = self.calibration.offset
        for n in range(0, len(drawn), _BATCH):
            batch = slice(n, n + _BATCH)
            normalised = self.background.normalise(images[drawn[batch]])
            poses = predict_poses(self.bootstrap, normalised, self.scheme)
            # Remove the offset of the predicted class here, and add that of the drawn class below.
            usual = poses.places - offset[poses.ids]
            as_read = fit(normalised, read[batch], usual + offset[read[batch]])
            own = slice(*np.searchsorted(of_drawn, (n, n + _BATCH)))  # the characters of the batch
            row = of_drawn[own] - n
            alternatives = read[batch][row]
            alternatives[np.arange(len(row)), slots[own]] = second[own]
            instead = fit(normalised[row], alternatives, usual[row] + offset[alternatives])
            missed[:, own] = as_read.missed[row], instead.missed
            inked[own] = as_read.inked[row]
            on_compared(own.stop, len(of_image))
        odds = np.log(np.maximum(likelier, 1e-12) / np.maximum(other, 1e-12)).astype(np.float32)
        variance = float(missed.min(0).sum() / max(1.0, float(inked.sum())))
        return Comparisons(of_image, slots, first, second, odds, missed[0] - missed[1], variance)


def contradicts(borderline: Comparisons, share: float = CONTRADICTED) -> bool:
    """Whether drawings contradict too many borderline characters.

    Args:
        borderline: Comparisons of characters that `borderline_characters` chose.
        share: Share that they may contradict, beyond the one that the probabilities predict.
    """
    against = int((borderline.evidence > 0).sum())
    wrong = float((1 / (1 + np.exp(borderline.odds.astype(np.float64)))).sum())
    allowed = wrong + share * len(borderline.images)
    # Plus 1, so that a single drawing cannot decide.
    return bool(against > allowed + 2 * np.sqrt(allowed) + 1)


def does_harm(doubts: Comparisons, ids: Ids) -> bool:
    """Whether rescoring breaks significantly more characters than it corrects (sign test).

    Args:
        doubts: Comparisons on synthetic images with known texts.
        ids: (N, L) class ids of these images.
    """
    true = ids[doubts.images, doubts.slots]
    changed = _log_odds(doubts) > 0
    mended, broken = (
        (changed & (true == doubts.second)).sum(),
        (changed & (true == doubts.first)).sum(),
    )
    return bool(broken - mended > 2 * np.sqrt(broken + mended))


def decide(probabilities: Floats, doubts: Comparisons) -> Floats:
    """Redistribute probabilities (N, L, K) between the two classes of each comparison."""
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
    """Log odds (M,) of the second class against the first, with the evidence of drawings."""
    trust = 1 / (2 * _NEIGHBOURS * max(doubts.variance, 1e-6))
    return np.asarray(trust * doubts.evidence.astype(np.float64) - doubts.odds)
