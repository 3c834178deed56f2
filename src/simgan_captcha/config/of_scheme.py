"""The configuration for a captcha family with a known scheme and nothing else known."""

import json
from typing import Any

from simgan_captcha.scheme import Scheme

OF_THE_SCHEME = ("scheme.", "simulator.", "calibration.first_steps")
"""Prefixes of the keys of `scheme_values`: they belong to the captchas, not to a preset."""

_USUAL_HEIGHT = 0.6
"""Height of texts as a share of the image height, if a scheme does not give it."""
_EMS = (0.75, 1.4)
"""Range of the font size as a factor of the text height. Letters on one line are two thirds of an
em high. Rotated and shifted letters take a smaller part of the height of the whole text."""
_FIRST_STEPS = 1200
"""First steps of the bootstrap recognizer. Unknown letters take longer to learn than those of the
puzzle."""
_NARROWEST = 0.05
_EXTENT = (0.8, 1.2)
"""Range of the text width as a factor of the usual width."""
_WIDE: dict[str, Any] = {
    "strokes": (0.0, 0.3, 0.6, 1.0, -1.0),
    "ink": (-25, 15),
    "nearest": 0.3,
    "noise": (0, 6),
    "jpeg_quality": (40, 95),
}
_OF_EACH_IMAGE: dict[str, Any] = {"ink": (-120, 30)}
"""Values for images in which every letter or image has its own colour."""


def scheme_values(scheme: Scheme) -> dict[str, Any]:
    """The values of a configuration by key, for a family with this scheme.

    The ranges of the presets fit one puzzle. The ranges here are wider.

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
