"""One look at real images through what a scout says of them: whose shapes stand where.

A scout that the simulator taught errs alike all over: it takes one character for another wherever
it stands. Before it may calibrate the simulator that teaches the next one, its classes are shared
out, shapes that are another character's go to that one, and those nobody has are looked for.
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
    """Shapes and poses, and in words which shapes the scout had by no name or by a wrong one.

    Args:
        normalised: (N, 2, H, W) real images, see `background.Background.normalise`.
        told: Of them, by a scout.
        alphabet: K characters.
        simulator: Whose fonts say what characters look like.
        seed: Decides the order of images.
        glyphs: (K, G, G) coverage, 0 to 1, that an earlier look found; None at the first.
        waves: Whether characters may be bent, see `scheme.Scheme.waves`.
        formed: Whether that look found characters to have forms of their own.
        epochs: Passes over the images; as many again for each of its errors that is mended.
        on_epoch: Called after each, with the mean misfit of its images.

    Raises:
        ConfigError: A font that does not serve, see `glyphs.open_font`.
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
            f"what was taken for {alphabet[k]!r} looks like the fonts' {alphabet[name]!r}: taken "
            "for that; look at calibrate/glyphs.png"
            for k, name in names.items()
        )
        told = told.renamed(names)
        return told, fitted(told, renamed_glyphs(fit.glyphs, names), fit.poses.places)

    told, fit = with_right_names(told, fit)
    if recovered := find_lost_shapes(normalised, fit):
        doubts += [shape.in_words(alphabet) for shape in recovered.shapes]
        told = replace(told, probabilities=recovered.poses.probabilities)
        fit = fitted(told, recovered.glyphs, recovered.poses.places)
        # The scout that overlooked them had little to say of their names.
        told, fit = with_right_names(told, fit)
    return fit, doubts


def _misnamed(glyphs: Floats, alphabet: str, simulator: SimulatorSettings) -> dict[int, int]:
    """Classes whose shapes (K, G, G) are another class's, and whose, see `misnamed_shapes`."""
    shapes = np.rint(glyphs[: len(alphabet)] * 255).astype(np.uint8)
    matches = match_fonts(shapes, alphabet, simulator.fonts, simulator.size, simulator.strokes)
    return misnamed_shapes(shapes, alphabet, matches)
