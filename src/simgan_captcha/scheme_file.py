"""A scheme as a TOML file that people write, or have written by ``simgan-captcha init``."""

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from simgan_captcha.errors import ConfigError
from simgan_captcha.scheme import Scheme

_MAX_BYTES = 1_000_000


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
    """The scheme of a file as settings of a run, see `load_scheme`."""
    values = load_scheme(path).model_dump(mode="json")
    return [f"scheme.{key}={json.dumps(value)}" for key, value in values.items()]
