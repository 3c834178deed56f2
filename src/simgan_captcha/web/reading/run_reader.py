"""Reads uploaded images with the recognizer of a finished run."""

import base64
import threading
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simgan_captcha.data.foreground import decode_scheme_image
from simgan_captcha.data.images import encode_png
from simgan_captcha.errors import RunError
from simgan_captcha.pipeline.graph import STAGES
from simgan_captcha.pipeline.lesson import LESSON, load_lesson
from simgan_captcha.pipeline.manifest import FINISHED
from simgan_captcha.pipeline.run_folder import BACKGROUND, DIAGNOSIS, READER, RUN
from simgan_captcha.report.inputs import file_states
from simgan_captcha.types import FloatImages
from simgan_captcha.web.reading.answers import (
    Answer,
    ImageReading,
    decode_within_limits,
    short_name,
)

if TYPE_CHECKING:
    from torch import nn

    from simgan_captcha.config.settings import RunConfig
    from simgan_captcha.data.background import Background

_LINE_COLOUR = (64, 104, 168)
_HEAT_COLOUR = (255, 140, 26)


class RunReader:
    """The recognizer of `pipeline.run.load_run_reader`, loaded at the first image.

    It is loaded again if the run changes. One request at a time is read, and two at a time are
    decoded.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._loaded: tuple[nn.Module, Background, RunConfig] | None = None
        self._taught: str | None = None
        self._state: Any = None

    def read(self, files: Sequence[tuple[str, bytes]], *, explain: bool) -> list[Answer]:
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
        found, answers = decode_within_limits(
            files,
            lambda data: decode_scheme_image(data, scheme),
            pixels_each=scheme.width * scheme.height,
        )
        with self._lock:
            reader, background, config = self._current()
            if config.scheme != scheme:
                raise RunError("the run has changed in the meantime; send the images again")
            if found:
                images = np.stack(list(found.values()))
                named = [short_name(files[number][0]) for number in found]
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
                        reader="run",
                        taught=self._taught,
                        input=pictures[row][0] if pictures else None,
                        heat=[*compress(pictures[row][1:], slots[row])] if pictures else None,
                    )
        return [answers[number] for number in range(len(files))]

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
