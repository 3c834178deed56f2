"""Safe parsing of JSON from unknown sources."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

Json = dict[str, Any]

MAX_BYTES = 16_000_000
MAX_DEPTH = 64
"""Largest nesting depth of objects and arrays. The documents of this package need fewer than ten.
The limit protects recursive functions."""


def parse_object(text: bytes | str) -> Json:
    """Parse a text that contains one JSON object.

    Raises:
        ValueError: The text is not JSON, contains no object, or is nested too deeply.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("too deeply nested") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got a {type(value).__name__}")
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for one in level
            for item in (one.values() if isinstance(one, dict) else one)
            if isinstance(item, dict | list)
        ]
        if not level:
            return value
    raise ValueError(f"nested more than {MAX_DEPTH} deep")


def read_object(path: Path) -> Json:
    """Read a file that contains one JSON object.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: The file is too large, or its text is refused by `parse_object`.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")
    return parse_object(path.read_bytes())


def require_shape(value: Json, shape: type[BaseModel]) -> Json:
    """Check that the values of an object have the types of a model, and return the object.

    Raises:
        ValueError: A value is missing or has another type. The message names the first one.
    """
    try:
        shape.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg']}") from None
    except RecursionError:
        raise ValueError("too deeply nested") from None
    return value
