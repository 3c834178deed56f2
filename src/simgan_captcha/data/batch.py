"""One challenge batch: from its JSON to checked captchas.

A batch is ``{"images": [{"name": "...", "jpg_base64": "..."}, ...]}``. Whatever arrives is hostile
until checked: a bad image is set aside with its reason, a bad batch as a whole.
"""

import base64
import binascii
import json
from typing import Any

from simgan_captcha.data.foreground import check_scheme_image
from simgan_captcha.data.store import Captcha, RejectedCaptcha
from simgan_captcha.errors import BatchError, ImageError
from simgan_captcha.scheme import Scheme

MAX_IMAGES = 100_000
"""In one batch."""
MAX_NAME_CHARACTERS = 256

_MAX_MARKS = 10 * MAX_IMAGES
"""Brackets, commas and colons in the JSON: an image has five, and each value at least one."""


def parse_batch(data: bytes | bytearray) -> list[Any]:
    """The images of one batch as they stand in its JSON, not yet checked; at least one.

    Raises:
        BatchError: Not the JSON of a batch.
    """
    expected = 'expected the JSON of a batch, {"images": [...]}'
    # Counted first, as the empty lists of "[[],[],..." take thirty times the bytes of their text.
    if sum(map(data.count, (b"[", b"{", b",", b":"))) > _MAX_MARKS:
        raise BatchError(f"{expected} with 1 to {MAX_IMAGES} images, got many more values")
    try:
        batch = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BatchError(f"{expected}, got bytes starting {bytes(data[:24])!r} ({error})") from None
    images = batch.get("images") if isinstance(batch, dict) else None
    if not isinstance(images, list):
        raise BatchError(f'{expected}, got JSON without a list of "images"')
    if not 1 <= len(images) <= MAX_IMAGES:
        raise BatchError(f"{expected} with 1 to {MAX_IMAGES} images, got {len(images)}")
    return images


def unpack_batch(images: list[Any], scheme: Scheme) -> tuple[list[Captcha], list[RejectedCaptcha]]:
    """Check every image of `parse_batch`: the good ones, and the others with their reasons."""
    captchas: list[Captcha] = []
    rejected: list[RejectedCaptcha] = []
    for entry in images:
        fields = entry if isinstance(entry, dict) else {}
        name, encoded = fields.get("name"), fields.get("jpg_base64")
        data = encoded.encode(errors="replace") if isinstance(encoded, str) else b""
        try:
            label = checked_name(name)
            if not isinstance(encoded, str):
                raise BatchError(f'expected text in "jpg_base64", got {type(encoded).__name__}')
            data = base64.b64decode(encoded, validate=True)
            check_scheme_image(data, scheme)
            captchas.append(Captcha(label, data))
        except (BatchError, ImageError) as error:
            rejected.append(RejectedCaptcha(storable(name), str(error), data))
        except (binascii.Error, ValueError) as error:
            reason = f"expected base64 of an image, got other text ({error})"
            rejected.append(RejectedCaptcha(storable(name), reason, data))
    return captchas, rejected


def checked_name(name: object) -> str:
    """A label that may be stored.

    Raises:
        BatchError: It is none.
    """
    if not isinstance(name, str):
        raise BatchError(f'expected text in "name", got {type(name).__name__}')
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        raise BatchError(
            f"expected a name of 1 to {MAX_NAME_CHARACTERS} characters, got {len(name)}"
        )
    if name != storable(name):
        raise BatchError("expected a name of Unicode characters, got half a surrogate pair")
    return name


def storable(name: object) -> str:
    """A label for the quarantine, short and valid UTF-8 whatever came."""
    if not isinstance(name, str):
        return ""
    return name[:MAX_NAME_CHARACTERS].encode(errors="backslashreplace").decode()
