"""One calibration round: from predictions of the bootstrap recognizer to glyphs and poses.

A recognizer trained on the simulator makes systematic errors: it confuses the same two characters
everywhere. Three corrections come before its predictions calibrate the simulator of the next round:
class balancing, renaming of misnamed glyphs, and recovery of missing glyphs.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from simgan_captcha.calibration.font_match import match_fonts, misnamed_shapes
from simgan_captcha.calibration.glyph_fit import GlyphFit, fit_glyphs, forms_differ, renamed_glyphs
from simgan_captcha.calibration.lost_shapes import find_lost_shapes
from simgan_captcha.calibration.poses import Poses
from simgan_captcha.calibration.sharing import share_out
from simgan_captcha.simulator.pose import PLACED, POSE, UNBENT
from simgan_captcha.simulator.simulator import SimulatorSettings
from simgan_captcha.types import FloatImages, Floats


def find_shapes(
    normalised: FloatImages,
    told: Poses,
    alphabet: str,
    simulator: SimulatorSettings,
    seed: int,
    *,
    glyphs: Floats | None,
    waves: bool,
    formed: bool,
    epochs: int,
    on_epoch: Callable[[int, int, float], None],
) -> tuple[GlyphFit, list[str]]:
    """Fit glyphs and poses, and describe recovered and renamed glyphs in words.

    Args:
        normalised: (N, 2, H, W) real images, see `background.Background.normalise`.
        told: Predictions of the bootstrap recognizer for these images.
        alphabet: K characters.
        simulator: Settings with the fonts for comparison.
        seed: Random seed of the order of images.
        glyphs: (K, G, G) coverage, 0 to 1, of the previous round; None in the first.
        waves: Whether characters may be bent, see `scheme.Scheme.waves`.
        formed: Whether the previous round found forms that differ between characters.
        epochs: Passes over the images; each correction repeats them.
        on_epoch: Called after each pass with the mean error of its images.

    Raises:
        ConfigError: A font cannot be used, see `glyphs.open_font`.
    """
    forms = len(POSE) if waves else UNBENT

    def fitted(told: Poses, glyphs: Floats | None, begin: Floats | None = None) -> GlyphFit:
        return fit_glyphs(
            normalised,
            told,
            seed,
            glyphs=glyphs,
            begin=begin,
            moving=forms if formed else PLACED,
            epochs=epochs,
            on_epoch=on_epoch,
        )

    told = share_out(told)
    fit = fitted(told, glyphs)
    if not formed and forms_differ(normalised, fit, forms):
        formed = True
        fit = fitted(told, fit.glyphs, fit.poses.places)
    doubts: list[str] = []

    def with_right_names(told: Poses, fit: GlyphFit) -> tuple[Poses, GlyphFit]:
        names = _misnamed(fit.glyphs, alphabet, simulator)
        if not names:
            return told, fit
        doubts.extend(
            f"the glyph taken for {alphabet[k]!r} looks like the fonts' {alphabet[name]!r} and was "
            "renamed: check calibrate/glyphs.png"
            for k, name in names.items()
        )
        told = told.renamed(names)
        return told, fitted(told, renamed_glyphs(fit.glyphs, names), fit.poses.places)

    told, fit = with_right_names(told, fit)
    if recovered := find_lost_shapes(normalised, fit):
        doubts += [shape.in_words(alphabet) for shape in recovered.shapes]
        told = replace(told, probabilities=recovered.poses.probabilities)
        fit = fitted(told, recovered.glyphs, recovered.poses.places)
        # The names of recovered glyphs are uncertain, so fonts are compared again.
        told, fit = with_right_names(told, fit)
    return fit, doubts


def _misnamed(glyphs: Floats, alphabet: str, simulator: SimulatorSettings) -> dict[int, int]:
    """Classes of misnamed glyphs (K, G, G) and their right classes, see `misnamed_shapes`."""
    shapes = np.rint(glyphs[: len(alphabet)] * 255).astype(np.uint8)
    matches = match_fonts(shapes, alphabet, simulator.fonts, simulator.size, simulator.strokes)
    return misnamed_shapes(shapes, alphabet, matches)
