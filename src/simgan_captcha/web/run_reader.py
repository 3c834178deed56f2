"""Reads uploaded images with the recognizer of a finished run."""

import base64
import threading
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from simgan_captcha.data.foreground import decode_scheme_image
from simgan_captcha.data.images import MAX_PIXELS, encode_png
from simgan_captcha.errors import ImageError, RunError
from simgan_captcha.inference.pixels import claimed_size
from simgan_captcha.pipeline.graph import STAGES
from simgan_captcha.pipeline.lesson import LESSON, load_lesson
from simgan_captcha.pipeline.manifest import FINISHED
from simgan_captcha.pipeline.run_folder import BACKGROUND, DIAGNOSIS, READER, RUN
from simgan_captcha.report.inputs import file_states
from simgan_captcha.scheme import Scheme
from simgan_captcha.types import FloatImages, GreyImages

if TYPE_CHECKING:
    from torch import nn

    from simgan_captcha.config.settings import RunConfig
    from simgan_captcha.data.background import Background

_MAX_NAME = 200
"""Maximum length of a returned file name."""
_LINE_COLOUR = (64, 104, 168)
_HEAT_COLOUR = (255, 140, 26)


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
    taught: str | None = None
    """``taught with N labels``, if the recognizer was."""
    input: str | None = None
    """Input of the network, a PNG as a ``data:`` URI: ink in grey to white, lines in blue."""
    heat: list[str] | None = None
    """Heat map of each character, also a PNG: orange where ink changes the log odds most."""


class ImageRefusal(BaseModel):
    """The reason why one image could not be read."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    error: str
    """What was expected and what was received."""


class RunReader:
    """The recognizer of `pipeline.run.load_run_reader`, loaded at the first image.

    It is loaded again if the run changes. One request at a time is read, and two at a time are
    decoded.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._lock = threading.Lock()
        # At most two requests have their pixels in memory.
        self._decoding = threading.Semaphore(2)
        self._loaded: tuple[nn.Module, Background, RunConfig] | None = None
        self._taught: str | None = None
        self._state: Any = None

    def read(
        self, files: Sequence[tuple[str, bytes]], *, explain: bool
    ) -> list[ImageReading | ImageRefusal]:
        """Read encoded images, in order; one that cannot be read does not affect the others.

        Args:
            files: Name and bytes of each image. The name is only returned.
            explain: Whether to return the input of the network and the heat maps.

        Raises:
            RunError: The run has no finished reader.
        """
        from simgan_captcha.recognizer.decode import decode, read_probabilities

        with self._lock:
            scheme = self._current()[2].scheme
        names = [name[:_MAX_NAME] for name, _ in files]
        found, refused = self._decoded([data for _, data in files], scheme)
        answers: dict[int, ImageReading | ImageRefusal] = {
            number: ImageRefusal(name=names[number], error=why) for number, why in refused.items()
        }
        with self._lock:
            reader, background, config = self._current()
            if config.scheme != scheme:
                raise RunError("the run has changed in the meantime; send the images again")
            if found:
                images = np.stack(list(found.values()))
                named = [names[number] for number in found]
                probabilities = read_probabilities(reader, background, images)
                slots = probabilities.argmax(-1) != scheme.blank
                readings = list(decode(scheme, named, probabilities))
                pictures = _explain(reader, background.normalise(images)) if explain else None
                for row, (number, reading) in enumerate(zip(found, readings, strict=True)):
                    answers[number] = ImageReading(
                        name=reading.name,
                        text=reading.text,
                        confidence=reading.confidence,
                        character_confidence=list(reading.character_confidence),
                        taught=self._taught,
                        input=pictures[row][0] if pictures else None,
                        heat=[*compress(pictures[row][1:], slots[row])] if pictures else None,
                    )
        return [answers[number] for number in range(len(files))]

    def _decoded(
        self, files: Sequence[bytes], scheme: Scheme
    ) -> tuple[dict[int, GreyImages], dict[int, str]]:
        """Decoded images by their number, and the reasons why others were refused.

        Two limits apply to a request: on the pixels that the images state, even if they cannot be
        decoded, and on the pixels that the network processes.
        """
        found: dict[int, GreyImages] = {}
        refused: dict[int, str] = {}
        sent = 0
        with self._decoding:
            for number, data in enumerate(files):
                width, height = claimed_size(data)
                try:
                    if width * height > MAX_PIXELS:
                        raise ImageError(
                            f"expected at most {MAX_PIXELS} pixels, the image claims "
                            f"{width}x{height}"
                        )
                    sent += width * height
                    looked_at = (len(found) + 1) * scheme.width * scheme.height
                    if sent > MAX_PIXELS or (found and looked_at > MAX_PIXELS):
                        raise ImageError(
                            f"expected at most {MAX_PIXELS} pixels in one request; send the rest "
                            "in another"
                        )
                    found[number] = decode_scheme_image(data, scheme)
                except ImageError as error:
                    refused[number] = str(error)
        return found, refused

    def _current(self) -> "tuple[nn.Module, Background, RunConfig]":
        from simgan_captcha.pipeline.run import load_run_reader

        state = reader_state(self._run)
        if self._loaded is None or state != self._state:
            self._loaded = (
                None  # if the run is being repeated, it has no recognizer until it is finished
            )
            self._loaded = load_run_reader(self._run)
            self._loaded[0].requires_grad_(False)
            lesson = load_lesson(self._run)
            self._taught = lesson.in_words() if lesson and lesson.better else None
            self._state = state
        return self._loaded


def reader_state(run: Path) -> str:
    """A hash that changes when the recognizer of the run changes, or another is used."""
    readers = [run / stage.name / READER for stage in STAGES if stage.recognizer]
    about = [run / name for name in (RUN, FINISHED, DIAGNOSIS, LESSON, BACKGROUND)]
    return file_states(*about, *readers)


def _explain(reader: "nn.Module", normalised: FloatImages) -> list[list[str]]:
    """For each image, the network input and the heat maps of all slots, as ``data:`` URIs."""
    from simgan_captcha.recognizer.saliency import saliency

    heat = saliency(reader, normalised)
    explained = []
    for image, maps in zip(normalised, heat, strict=True):
        ink, line = (image[0] + 1) / 2, image[1] > 0
        seen = np.repeat(255 * ink[..., None], 3, axis=-1)
        # The amount of ink under a line is unknown.
        seen[line] = 0.5 * seen[line] + 0.5 * np.array(_LINE_COLOUR)
        drawn = [seen]
        for each in maps[..., None]:
            drawn.append(0.7 * seen * (1 - each) + np.array(_HEAT_COLOUR) * each)
        explained.append([_png_uri(picture) for picture in drawn])
    return explained


def _png_uri(picture: np.ndarray[Any, np.dtype[Any]]) -> str:
    png = encode_png(np.asarray(np.rint(picture), np.uint8))
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
