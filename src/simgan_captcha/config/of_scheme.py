"""A scheme as a TOML file that people write, or have written by ``simgan-captcha init``."""

import json
from pathlib import Path
from typing import Any

from simgan_captcha.scheme import load_scheme
from simgan_captcha.simulator.glyphs import fonts_with

OF_THE_SCHEME = ("scheme.", "simulator.", "calibration.first_steps")
"""How settings begin that `scheme_settings` gives: they belong to the captchas, not to a preset."""


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


def scheme_settings(path: Path) -> list[str]:
    """The scheme of a file as settings of a run, see `load_scheme`, and what is drawn before
    anything of it is known: the preset's ranges are those of one puzzle.

    Raises:
        ConfigError: As `load_scheme`; or no font has all characters of the alphabet.
    """
    scheme = load_scheme(path)
    settings = {f"scheme.{key}": value for key, value in scheme.model_dump(mode="json").items()}
    height = scheme.text_height or round(scheme.height * _USUAL_HEIGHT)
    settings["simulator.size"] = [min(200, max(4, round(height * part))) for part in _EMS]
    layout = {}
    if scheme.text_width:
        usual = min(1.0, scheme.text_width / scheme.width)
        layout["extent"] = [max(_NARROWEST, round(usual * part, 3)) for part in _EXTENT]
    settings["simulator.layout"] = layout
    settings["simulator.fonts"] = fonts_with(scheme.alphabet)
    settings |= {f"simulator.{key}": value for key, value in _WIDE.items()}
    if not scheme.shares_picture:
        settings |= {f"simulator.{key}": value for key, value in _OF_EACH_IMAGE.items()}
    settings["calibration.first_steps"] = _FIRST_STEPS
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]
