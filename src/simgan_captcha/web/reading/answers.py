"""Answers of the read API, and the decoding of a request within its limits."""

import threading
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from simgan_captcha.errors import ImageError
from simgan_captcha.inference.pixels import claimed_size
from simgan_captcha.scheme import MAX_PIXELS

_MAX_NAME = 200
"""Maximum length of a returned file name."""
_Decoded = TypeVar("_Decoded")

_decoding = threading.Semaphore(2)
"""At most two requests have their pixels in memory."""


class ImageReading(BaseModel):
    """The reading of one image."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    """File name that the client sent."""
    text: str
    confidence: float
    """Probability of the whole text, 0 to 1."""
    character_confidence: list[float]
    """Probability of each character, 0 to 1."""
    reader: Literal["run", "generalist"]
    """``run``: the run's recognizer. ``generalist``: the pretrained network, because no run has
    learned from such images yet."""
    taught: str | None = None
    """``taught with N labels``, if the recognizer was."""
    input: str | None = None
    """Input of the run's recognizer, a PNG as a ``data:`` URI: ink in grey to white, lines in
    blue."""
    heat: list[str] | None = None
    """Heat map of each character, also a PNG: orange where ink changes the log odds most."""


class ImageRefusal(BaseModel):
    """The reason why one image could not be read."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    error: str
    """What was expected and what was received."""


Answer = ImageReading | ImageRefusal


class Readings(BaseModel):
    """Readings of the images of one request, in their order."""

    readings: list[Answer]


def short_name(name: str) -> str:
    """A file name as it is returned."""
    return name[:_MAX_NAME]


def decode_within_limits(
    files: Sequence[tuple[str, bytes]], decode: Callable[[bytes], _Decoded], *, pixels_each: int = 0
) -> tuple[dict[int, _Decoded], dict[int, Answer]]:
    """Decoded images by their number, and refusals of the others.

    Two limits apply to a request: on the pixels that the images state, even if they cannot be
    decoded, and on the pixels that the network processes.

    Args:
        files: Name and bytes of each image.
        decode: Decodes one image; may raise an `ImageError`.
        pixels_each: Number of pixels that the network processes of each image; 0 for no such limit,
            as for the generalist, which sees at most 40 x 400 pixels.
    """
    found: dict[int, _Decoded] = {}
    refused: dict[int, Answer] = {}
    sent = 0
    with _decoding:
        for number, (name, data) in enumerate(files):
            width, height = claimed_size(data)
            try:
                if width * height > MAX_PIXELS:
                    raise ImageError(
                        f"expected at most {MAX_PIXELS} pixels, the image claims {width}x{height}"
                    )
                sent += width * height
                looked_at = (len(found) + 1) * pixels_each
                if sent > MAX_PIXELS or (found and looked_at > MAX_PIXELS):
                    raise ImageError(
                        f"expected at most {MAX_PIXELS} pixels in one request; send the rest in "
                        "another"
                    )
                found[number] = decode(data)
            except ImageError as error:
                refused[number] = ImageRefusal(name=short_name(name), error=str(error))
    return found, refused
