"""One calibration round: from predictions of the bootstrap recognizer to glyphs and poses.

A recognizer trained on the simulator makes systematic errors: it confuses the same two characters
everywhere. Three steps correct its predictions: class balancing, renaming of misnamed glyphs, and
recovery of missing glyphs. The corrected predictions calibrate the simulator of the next round.

Class balancing limits over-predicted classes by optimal transport. If the real font draws an 'a' as
most fonts draw a 'q', the bootstrap recognizer confidently reads both as 'q'. Its other
probabilities still separate the two, and an alphabet with about equally frequent characters has
fewer q's. So each class keeps at most its share of characters. Those with the lowest probability
move to their next likeliest class.

This is a transport problem, solved by Sinkhorn scaling. Classes have an upper bound but no lower
bound, so characters that never occur attract no samples.

Sources: Sinkhorn distances (Cuturi 2013, arXiv:1306.0895); equal shares against degenerate labels
(Asano, Rupprecht and Vedaldi 2020, arXiv:1911.05371, section 3.1). Deviation: shares are bounded
from above only, and the result is soft probabilities.

Shapes: N images, L characters, K classes, M characters of all images.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from simgan_captcha.calibration.drawing.poses import Poses
from simgan_captcha.calibration.font_match import match_fonts, misnamed_shapes
from simgan_captcha.calibration.glyph_fit import (
    GlyphFit,
    enough_examples,
    fit_glyphs,
    forms_differ,
    renamed_glyphs,
)
from simgan_captcha.calibration.lost_shapes import find_lost_shapes
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.pose import PLACED, POSE, UNBENT
from simgan_captcha.simulator.settings import SimulatorSettings
from simgan_captcha.types import Doubles, FloatImages, Floats

_LEAST = 1e-30
"""Least probability, so that nearly impossible classes keep an order."""
_STEPS = 300
_SETTLED = 1e-3
"""Relative excess over the share at which scaling stops."""


@dataclass(frozen=True)
class ShapeSearch:
    """The real images of a round, and how glyphs and poses are fitted to them."""

    normalised: FloatImages
    """(N, 2, H, W) real images, see `background.Background.normalise`."""
    scheme: Scheme
    """Their scheme; with waves, characters may be bent."""
    simulator: SimulatorSettings
    """Settings with the fonts for comparison."""
    seed: int
    """Random seed of the order of images."""
    epochs: int
    """Passes over the images; each correction repeats them."""
    on_epoch: Callable[[int, int, float], None]
    """Called after each pass with the mean error of its images."""

    def find(
        self, predicted: Poses, glyphs: Floats | None, *, formed: bool
    ) -> tuple[GlyphFit, list[str]]:
        """Fit glyphs and poses, and describe recovered and renamed glyphs in words.

        Args:
            predicted: Predictions of the bootstrap recognizer for the images.
            glyphs: (K, G, G) coverage, 0 to 1, of the previous round; None in the first.
            formed: Whether the previous round found forms that differ between characters.

        Raises:
            ConfigError: A font cannot be used, see `glyphs.open_font`.
        """
        forms = len(POSE) if self.scheme.wavy_baseline else UNBENT
        moving = forms if formed else PLACED
        predicted = balance_classes(predicted)
        fit = self._fitted(predicted, glyphs, moving)
        if not formed and forms_differ(self.normalised, fit, forms):
            moving = forms
            fit = self._fitted(predicted, fit.glyphs, moving, fit.poses.places)
        predicted, fit, doubts = self._with_right_names(predicted, fit, moving)
        if recovered := find_lost_shapes(self.normalised, fit):
            doubts += [shape.in_words(self.scheme.alphabet) for shape in recovered.shapes]
            predicted = replace(predicted, probabilities=recovered.poses.probabilities)
            fit = self._fitted(predicted, recovered.glyphs, moving, recovered.poses.places)
            # The names of recovered glyphs are uncertain, so fonts are compared again.
            predicted, fit, renamed = self._with_right_names(predicted, fit, moving)
            doubts += renamed
        return fit, doubts

    def _fitted(
        self, predicted: Poses, glyphs: Floats | None, moving: int, begin: Floats | None = None
    ) -> GlyphFit:
        return fit_glyphs(
            self.normalised,
            predicted,
            self.seed,
            glyphs=glyphs,
            begin=begin,
            moving=moving,
            epochs=self.epochs,
            on_epoch=self.on_epoch,
        )

    def _with_right_names(
        self, predicted: Poses, fit: GlyphFit, moving: int
    ) -> tuple[Poses, GlyphFit, list[str]]:
        """Rename misnamed glyphs and fit again; describe the renamed ones in words."""
        alphabet = self.scheme.alphabet
        names = _misnamed(fit.glyphs, alphabet, self.simulator)
        if not names:
            return predicted, fit, []
        predicted = predicted.renamed(names)
        fit = self._fitted(predicted, renamed_glyphs(fit.glyphs, names), moving, fit.poses.places)
        renamed = [
            f"the glyph taken for {alphabet[k]!r} looks like the fonts' {alphabet[name]!r} and was "
            "renamed: check calibrate/glyphs.png"
            for k, name in names.items()
        ]
        return predicted, fit, renamed


def _misnamed(glyphs: Floats, alphabet: str, simulator: SimulatorSettings) -> dict[int, int]:
    """Classes of misnamed glyphs (K, G, G) and their right classes, see `misnamed_shapes`."""
    shapes = np.rint(glyphs[: len(alphabet)] * 255).astype(np.uint8)
    matches = match_fonts(shapes, alphabet, simulator.fonts, simulator.size, simulator.strokes)
    return misnamed_shapes(shapes, alphabet, matches)


def balance_classes(poses: Poses) -> Poses:
    """Balance the probabilities so that no class has more than its share of characters."""
    likely = poses.probabilities.astype(np.float64).clip(_LEAST)
    characters = likely if poses.blank is None else likely[..., : poses.blank]
    read = characters[poses.present]
    if not len(read):
        return poses
    scaled = characters * class_weights(read)
    # The total probability of a character stays the same.
    scaled *= characters.sum(-1, keepdims=True) / scaled.sum(-1, keepdims=True)
    shared = likely.copy()
    shared[..., : characters.shape[-1]] = scaled
    found = replace(poses, probabilities=shared.astype(np.float32))
    # Balancing must not change which slots are empty.
    changed = (found.present != poses.present)[..., None]
    return replace(found, probabilities=np.where(changed, poses.probabilities, found.probabilities))


def class_weights(probabilities: Doubles) -> Doubles:
    """Weights (K,), 0 to 1, that limit each class of probabilities (M, K) > 0 to its share.

    The bound is M / C + sqrt(M / C) for C occurring classes, one standard deviation above the
    mean. Balancing can make further classes occur; the bound is then computed again.
    """
    likely = probabilities
    weights = np.ones(likely.shape[1])
    occurring = 0
    while occurring < (now := _occurring(likely * weights)):
        occurring = now
        share = len(likely) / occurring
        most = share + np.sqrt(share)
        for _ in range(_STEPS):
            # Total of each class over the characters, if its weight were 1.
            taken = (likely / (likely @ weights)[:, None]).sum(0)
            if (taken * weights).max() < most * (1 + _SETTLED):
                break
            weights = np.minimum(1, most / taken)
    return weights


def _occurring(likely: Doubles) -> int:
    """Number of classes with enough characters of (M, K) for a glyph."""
    taken = (likely / likely.sum(1, keepdims=True)).sum(0)
    return int((taken >= enough_examples(taken)).sum())
