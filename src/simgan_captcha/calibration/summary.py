"""A summary of calibration for people: figures with standard errors, and warnings in words.

Shapes: N images, L characters, K classes.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from simgan_captcha.calibration.font_match import Estimate, FontMatches, match_fonts
from simgan_captcha.calibration.glyph_fit import GlyphFit
from simgan_captcha.calibration.rendering_fit import RenderingFit
from simgan_captcha.simulator.calibrated import RENDERING, Calibration
from simgan_captcha.simulator.clutter import CLUTTER
from simgan_captcha.simulator.pose import PLACED, POSE
from simgan_captcha.simulator.settings import SimulatorSettings
from simgan_captcha.types import Floats

_MIDDLE = (0.01, 0.99)
_RESAMPLES = 200


def summarise(
    fit: GlyphFit,
    calibration: Calibration,
    rendered: RenderingFit,
    alphabet: str,
    simulator: SimulatorSettings,
    seed: int,
) -> dict[str, Any]:
    """The summary as JSON values.

    An estimate is [value, standard error]. A range is [estimate, estimate] and covers the middle
    98 % of characters, without class offsets.

    Returns:
        A mapping with these keys:

            x                 range of the position in pixels, for each slot
            y                 range of the position in pixels
            rotation          range in degrees, relative to the upright fonts
            pitch             pixels from slot to slot; None for a single slot
            forms             ranges of form values that differ between letters, by name
            font_size         pixels per em; None without glyphs
            stroke_weight     ink area relative to the best font; None without glyphs
            rendering         estimates by name
            clutter           estimates by name
            rendering_misfit  mean squared difference of moments, in sampling variances
            fonts             by character: the best font, its size, and the similarity, -1 to 1
            warnings          sentences

    Raises:
        ConfigError: A font cannot be used, see `glyphs.open_font`.
    """
    matches = match_fonts(
        calibration.glyphs[: len(alphabet)],
        alphabet,
        simulator.fonts,
        simulator.size,
        simulator.strokes,
    )
    # The rotation of the glyphs is missing from the rotations of the characters.
    upright = matches.turn if any(matches.classes) else Estimate(0.0, 0.0)
    found = _Places(fit, calibration, seed)
    return {
        "x": [found.middle(0, slot) for slot in np.flatnonzero(fit.kept.any(0)).tolist()],
        "pitch": found.pitch(),
        "y": found.middle(1),
        "rotation": found.middle(2, plus=upright),
        "forms": {
            name: found.middle(PLACED + n, factor=name in ("size", "stretch"))
            for n, name in enumerate(POSE[PLACED:])
            if calibration.formed[n]
        },
        "font_size": _json(matches.size),
        "stroke_weight": _json(matches.weight),
        "rendering": _named(RENDERING, rendered.values, rendered.errors),
        "clutter": {
            name: estimate
            for name, estimate in _named(
                CLUTTER, rendered.clutter, rendered.clutter_errors, decimals=4
            ).items()
            if estimate  # of a kind of clutter that there is
        },
        "rendering_misfit": round(rendered.misfit, 2),
        "fonts": {
            character: [match.font, match.size, round(match.similarity, 3)]
            for character, match in zip(alphabet, matches.classes, strict=True)
            if match
        },
        "warnings": [*_starved(fit, calibration, alphabet), *_unlike(matches, alphabet)],
    }


class _Places:
    """Poses of the confident characters, and bootstrap resamples.

    The bootstrap (Efron 1979) draws whole images, because characters of one image are dependent.
    """

    def __init__(self, fit: GlyphFit, calibration: Calibration, seed: int) -> None:
        poses = fit.poses
        self.usual: Floats = calibration.as_usual(poses.places, poses.ids, poses.present)
        self.kept = fit.kept
        generator, N = np.random.default_rng(seed), len(fit.kept)
        self.resamples = [np.arange(N), *generator.integers(N, size=(_RESAMPLES, N))]

    def middle(
        self,
        number: int,
        slot: int | None = None,
        *,
        plus: Estimate | None = None,
        factor: bool = False,
    ) -> list[Any]:
        """Range of one value of `POSE`, or its exponential, in one slot or in all."""
        slots = slice(None) if slot is None else slice(slot, slot + 1)
        found = np.array(
            [
                np.quantile(values, _MIDDLE)
                for values in self._resampled(self.usual[:, slots, number], self.kept[:, slots])
            ]
        )
        if factor:
            found = np.exp(found)
        value, error = plus or Estimate(0.0, 0.0)
        errors = found[1:].std(0)
        return [
            _json(Estimate(end + value, math.hypot(bootstrapped, error)))
            for end, bootstrapped in zip(found[0].tolist(), errors.tolist(), strict=True)
        ]

    def pitch(self) -> list[float] | None:
        """Distance between slots: the slope of their median positions."""
        slots = np.flatnonzero(self.kept.any(0)).tolist()
        if len(slots) == 1:
            return None
        medians = np.stack(
            [
                [np.median(x) for x in self._resampled(self.usual[:, [s], 0], self.kept[:, [s]])]
                for s in slots
            ]
        )
        slopes = np.polyfit(slots, medians, 1)[0]
        return _json(Estimate(float(slopes[0]), float(slopes[1:].std())))

    def _resampled(self, values: Floats, kept: npt.NDArray[np.bool_]) -> Iterator[Floats]:
        for images in self.resamples:
            # A resample may have no character in a slot; the full sample is used then.
            chosen = values[images][kept[images]]
            yield chosen if len(chosen) else values[kept]


def _json(estimate: Estimate, decimals: int = 2) -> list[float] | None:
    """Rounded value and error; None for a missing value."""
    if math.isnan(estimate.value):
        return None
    return [round(float(estimate.value), decimals), round(float(estimate.error), decimals)]


def _named(
    names: Sequence[str], values: Floats, errors: Floats, decimals: int = 2
) -> dict[str, list[float] | None]:
    """Rounded values and errors by name; None for missing values."""
    return {
        name: _json(Estimate(value, error), decimals)
        for name, value, error in zip(names, values.tolist(), errors.tolist(), strict=True)
    }


def _starved(fit: GlyphFit, calibration: Calibration, alphabet: str) -> Iterator[str]:
    ids = fit.poses.ids[fit.kept]
    read = np.bincount(ids, minlength=len(alphabet))
    for k in np.flatnonzero(~calibration.found[: len(alphabet)]):
        yield (
            f"{alphabet[k]!r} was read with confidence {read[k]} times in the images of "
            f"calibration, {len(ids) / len(alphabet):.0f} expected: too few for a glyph, so only "
            "the fonts of the simulator draw it"
        )


def _unlike(matches: FontMatches, alphabet: str) -> Iterator[str]:
    for k in matches.unlike:
        match = matches.classes[k]
        assert match is not None  # `unlike` lists compared classes only
        yield (
            f"{alphabet[k]!r} looks like no font of the simulator (nearest: {match.font}, "
            f"similarity {match.similarity:.2f}); its glyph comes from the images alone: check "
            "calibrate/glyphs.png"
        )
