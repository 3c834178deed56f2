"""A scheme as a TOML file that people write, or have written by ``simgan-captcha init``."""

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from simgan_captcha.errors import ConfigError
from simgan_captcha.glyphs import fonts_with
from simgan_captcha.scheme import Scheme

OF_THE_SCHEME = ("scheme.", "simulator.", "calibration.first_steps")
"""How settings begin that `scheme_settings` gives: they belong to the captchas, not to a preset."""

_MAX_BYTES = 1_000_000

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


def load_scheme(path: Path) -> Scheme:
    """The scheme of a file.

    Raises:
        ConfigError: No such file, no TOML, an unknown key (the nearest right one is named), or a
            value that is missing or out of its range.
    """
    try:
        with path.open("rb") as file:
            values = tomllib.loads(file.read(_MAX_BYTES).decode())
    except FileNotFoundError:
        raise ConfigError(
            f"expected a scheme at {path}, found none; write one with simgan-captcha init "
            f"FOLDER {path}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"expected TOML at {path}, got {error}") from None
    try:
        return check_scheme(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}; correct the file") from None


def check_scheme(values: Mapping[str, Any]) -> Scheme:
    """A scheme of plain values.

    Raises:
        ConfigError: An unknown key (the nearest right one is named), or a value that is missing or
            out of its range.
    """
    known = list(Scheme.model_fields)
    for key in values.keys() - known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        raise ConfigError(f"expected a known key, got {key!r}; {hint}")
    try:
        return Scheme(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {message}") from None


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
