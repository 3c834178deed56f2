"""The configuration for a captcha family of which only the scheme is known."""

import json
from typing import Any

from simgan_captcha.scheme import Scheme

OF_THE_SCHEME = ("scheme.", "simulator.", "calibration.first_steps")
"""Prefixes of the keys of `scheme_values`: they belong to the captchas, not to a preset."""

_USUAL_HEIGHT = 0.6
"""Of the image's, where a scheme does not say how high its texts are."""
_EMS = (0.75, 1.4)
"""Font sizes in heights of a text: letters of one line are two thirds of an em high, turned and
shifted ones less of the height of all."""
_FIRST_STEPS = 1200
"""Of the scout; letters that may be anything take longer to learn than the puzzle's."""
_NARROWEST = 0.05
_EXTENT = (0.8, 1.2)
"""Widths that texts are drawn in, in those of a usual one."""
_WIDE: dict[str, Any] = {
    "strokes": (0.0, 0.3, 0.6, 1.0, -1.0),
    "ink": (-25, 15),
    "nearest": 0.3,
    "noise": (0, 6),
    "jpeg_quality": (40, 95),
}
_OF_EACH_IMAGE: dict[str, Any] = {"ink": (-120, 30)}
"""Where every letter or image has a colour of its own."""


def scheme_values(scheme: Scheme) -> dict[str, Any]:
    """The values of a configuration, by key, for a family of which only the scheme is known.

    The ranges of the presets are those of one puzzle. These are wider.

    Raises:
        ConfigError: No font has all characters of the alphabet.
    """
    from simgan_captcha.simulator.glyphs import fonts_with  # late: it needs NumPy and Pillow

    values = {f"scheme.{key}": value for key, value in scheme.model_dump(mode="json").items()}
    height = scheme.text_height or round(scheme.height * _USUAL_HEIGHT)
    values["simulator.size"] = [min(200, max(4, round(height * part))) for part in _EMS]
    layout = {}
    if scheme.text_width:
        usual = min(1.0, scheme.text_width / scheme.width)
        layout["extent"] = [max(_NARROWEST, round(usual * part, 3)) for part in _EXTENT]
    values["simulator.layout"] = layout
    values["simulator.fonts"] = list(fonts_with(scheme.alphabet))
    values |= {f"simulator.{key}": value for key, value in _WIDE.items()}
    if not scheme.shares_picture:
        values |= {f"simulator.{key}": value for key, value in _OF_EACH_IMAGE.items()}
    values["calibration.first_steps"] = _FIRST_STEPS
    return values


def scheme_settings(scheme: Scheme) -> list[str]:
    """The same values as ``key=value`` settings of the command line."""
    return [f"{key}={json.dumps(value)}" for key, value in scheme_values(scheme).items()]
