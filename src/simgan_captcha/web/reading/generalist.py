"""Reads uploaded images with the generalist, before a run has learned from such images."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from simgan_captcha.data.background import Background, without_background
from simgan_captcha.data.pictures import Pixels, open_picture
from simgan_captcha.errors import ConfigError, RunError
from simgan_captcha.generalist.reader import GeneralistReader
from simgan_captcha.inference.reader import Source
from simgan_captcha.inference.readings import Reading
from simgan_captcha.pipeline.run_folder import BACKGROUND, read_run
from simgan_captcha.scheme import Length, Scheme
from simgan_captcha.web.reading.answers import (
    Answer,
    ImageReading,
    ImageRefusal,
    decode_within_limits,
    short_name,
)

_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Family:
    """What is known of a captcha family before a run has learned it."""

    alphabet: str | None = None
    """Characters that texts may contain; None: all that the generalist knows."""
    length: Length | None = None
    """Number of characters, or the fewest and the most; None: any."""
    background: Background | None = None
    """The picture that all images share, if it is known."""
    scheme: Scheme | None = None
    """The scheme of the run, if there is one."""

    @staticmethod
    def of_run(run: Path) -> "Family":
        """The family of a run, which may be in the making.

        Raises:
            RunError: There is no run in the folder, or it is damaged.
        """
        scheme, background = Scheme.model_validate(read_run(run)["scheme"]), None
        if scheme.shares_picture and (run / BACKGROUND).exists():
            background = Background.load(run / BACKGROUND)
        return Family(scheme.alphabet, scheme.length, background, scheme)

    def reader(self) -> GeneralistReader:
        """The generalist within the alphabet and the length.

        Raises:
            ConfigError: The request has an alphabet or a length that the generalist cannot read.
            RunError: The run has; or this installation has no generalist.
        """
        try:
            return GeneralistReader(self.alphabet, self.length)
        except ConfigError as error:
            if self.scheme is None:
                raise
            raise RunError(
                f"expected a finished run; until then the generalist reads, but not such texts "
                f"({error})"
            ) from None

    def picture(self, data: bytes) -> Pixels:
        """The colours (H, W, 3) of an encoded image, without the shared picture if it is known.

        Raises:
            ImageError: It cannot be decoded, or its size is wrong for a shared picture.
        """
        if self.background is None:
            return open_picture(data).rgb
        height, width = self.background.grey.shape
        rgb = open_picture(data, width=width, height=height).rgb
        return without_background([rgb], self.background)[0]


def read_with_generalist(files: Sequence[tuple[str, bytes]], family: Family) -> list[Answer]:
    """Read encoded images, in order; one that cannot be read does not affect the others.

    Args:
        files: Name and bytes of each image. The name is only returned.
        family: What is known of the images.

    Raises:
        ConfigError, RunError: See `Family.reader`.
    """
    reader = family.reader()
    found, answers = decode_within_limits(files, family.picture)
    pictures: list[Source] = [*found.values()]
    with _one_at_a_time:
        readings = reader.read(pictures)
    for number, reading in zip(found, readings, strict=True):
        name = short_name(files[number][0])
        if isinstance(reading, Reading):
            answers[number] = ImageReading(
                name=name,
                text=reading.text,
                confidence=reading.confidence,
                character_confidence=list(reading.character_confidence),
                reader="generalist",
            )
        else:
            answers[number] = ImageRefusal(name=name, error=reading.error)
    return [answers[number] for number in range(len(files))]
