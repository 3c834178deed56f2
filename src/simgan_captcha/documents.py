"""JSON that others may have written: of any depth and shape, read into an object or refused."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

Json = dict[str, Any]

MAX_BYTES = 16_000_000
MAX_DEPTH = 64
"""Of objects and arrays in one another; nothing of ours needs ten, and programs recurse."""


def parse_object(text: bytes | str) -> Json:
    """The JSON object that a text holds.

    Raises:
        ValueError: Anything else, whatever is wrong with it.
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
    """The JSON object that a file holds.

    Raises:
        OSError: No such file, or one that cannot be read.
        ValueError: Anything else, whatever is wrong with it.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")
    return parse_object(path.read_bytes())


def require_shape(value: Json, shape: type[BaseModel]) -> Json:
    """The same object, if its values have the types that a model says.

    Raises:
        ValueError: A value is missing or of another type; the first such is named.
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
