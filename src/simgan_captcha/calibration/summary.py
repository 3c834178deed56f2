"""What calibration found, for people: every figure with its standard error, doubts in words.

Shapes: N images, L characters, K classes.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from simgan_captcha.calibration.font_match import Estimate, FontMatches, match_fonts
from simgan_captcha.calibration.glyph_fit import GlyphFit
from simgan_captcha.calibration.rendering_fit import RenderingFit
from simgan_captcha.simulator.calibrated import RENDERING, Calibration
from simgan_captcha.simulator.clutter import CLUTTER
from simgan_captcha.simulator.pose import PLACED, POSE
from simgan_captcha.simulator.simulator import SimulatorSettings
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
    """As JSON; an estimate is [value, standard error], a range [estimate, estimate].

    Returns:
        ``x``: of each slot, ``y``, ``rotation``: the middle 98 % of characters that a class lies
        as usual, pixels and degrees, turns as the fonts' uprights have them; ``pitch``: pixels from
        slot to slot, None for a single one; ``forms``: likewise the values of form, as the
        simulator has them, of those in which letters differ; ``font_size``: pixels per em and
        ``stroke_weight``: area of ink to that of the likest font, None without any glyph;
        ``rendering`` and ``clutter``: by name; ``rendering_misfit``: mean squared difference of
        what is counted in real and drawn images, in units of what chance explains; ``fonts``: by
        character, the likest font, its size and the likeness, -1 to 1; ``warnings``: in words.

    Raises:
        ConfigError: A font that does not serve, see `glyphs.open_font`.
    """
    matches = match_fonts(
        calibration.glyphs[: len(alphabet)],
        alphabet,
        simulator.fonts,
        simulator.size,
        simulator.strokes,
    )
    # A glyph has no upright: what all are turned by is missing from their characters' turns.
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
        "rendering": {
            name: _json(Estimate(value, error))
            for name, value, error in zip(
                RENDERING, rendered.values.tolist(), rendered.errors.tolist(), strict=True
            )
        },
        "clutter": {
            name: _json(Estimate(value, error), decimals=4)
            for name, value, error in zip(
                CLUTTER, rendered.clutter.tolist(), rendered.clutter_errors.tolist(), strict=True
            )
            if not math.isnan(value)
        },
        "rendering_misfit": round(rendered.misfit, 2),
        "fonts": {
            character: [match.font, match.size, round(match.likeness, 3)]
            for character, match in zip(alphabet, matches.classes, strict=True)
            if match
        },
        "warnings": [*_starved(fit, calibration, alphabet), *_unlike(matches, alphabet)],
    }


class _Places:
    """Places and turns of the characters that count, as they are and resampled.

    The bootstrap (Efron 1979) draws whole images: characters of one image are not independent.
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
        """The range of most of one of `POSE`, of one slot or of all, or of its exponential."""
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
        """How far apart slots are: the slope of their medians."""
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
            # A slot without any character left is not in a calibration, but may be in a resample.
            chosen = values[images][kept[images]]
            yield chosen if len(chosen) else values[kept]


def _json(estimate: Estimate, decimals: int = 2) -> list[float] | None:
    """Rounded; None for what there is no value of."""
    if math.isnan(estimate.value):
        return None
    return [round(float(estimate.value), decimals), round(float(estimate.error), decimals)]


def _starved(fit: GlyphFit, calibration: Calibration, alphabet: str) -> Iterator[str]:
    ids = fit.poses.ids[fit.kept]
    read = np.bincount(ids, minlength=len(alphabet))
    for k in np.flatnonzero(~calibration.found[: len(alphabet)]):
        yield (
            f"{alphabet[k]!r} was read surely {read[k]} times in the images calibration looked at, "
            f"{len(ids) / len(alphabet):.0f} expected: too few to learn its shape, so only the "
            "simulator's fonts draw it"
        )


def _unlike(matches: FontMatches, alphabet: str) -> Iterator[str]:
    for k in matches.unlike:
        match = matches.classes[k]
        assert match is not None  # only what was compared is unlike
        yield (
            f"{alphabet[k]!r} looks like no font of the simulator (nearest: {match.font}, likeness "
            f"{match.likeness:.2f}); its shape is learned from the images alone: look at "
            "calibrate/glyphs.png"
        )
