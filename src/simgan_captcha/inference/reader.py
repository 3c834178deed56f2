"""Images of any kind → readings, in order and in constant memory; needs no torch.

Shapes: N images, H and W pixels, L characters.
"""

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from simgan_captcha.atomic import core_count
from simgan_captcha.data.foreground import pixels_of_scheme, read_scheme_image
from simgan_captcha.data.images import MAX_BYTES
from simgan_captcha.errors import ImageError
from simgan_captcha.inference.exported import Recognise, load_exported
from simgan_captcha.inference.readings import Reading, to_readings
from simgan_captcha.scheme import Scheme
from simgan_captcha.types import GreyImages

_BATCH_PER_THREAD = 32


@dataclass(frozen=True)
class NamedImage:
    """An encoded image that is no file."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Unreadable:
    """In the place of a reading, an image that could not be read."""

    name: str
    error: str
    """What was expected, what was got."""


Source = str | os.PathLike[str] | bytes | NamedImage | Image.Image | npt.NDArray[np.uint8]
"""A path; encoded bytes, named or not; a picture of Pillow's; grey levels (H, W) or RGB (H, W, 3)
as ``uint8``."""


class ImageReader:
    """Reads images of one scheme with whatever recognises them."""

    def __init__(self, scheme: Scheme, recognise: Recognise, *, threads: int | None = None) -> None:
        """Take what recognises; images are decoded in as many threads as there are cores."""
        self.scheme = scheme
        self.recognise = recognise
        self.threads = threads or core_count()

    @overload
    def read(self, images: list[Source]) -> list[Reading | Unreadable]: ...
    @overload
    def read(self, images: Source) -> Reading: ...
    def read(self, images: Source | list[Source]) -> Reading | list[Reading | Unreadable]:
        """What an image says; of a list, a list in its order.

        A reading is named as its file, or as its place in the list. In a list, what cannot be read
        leaves an `Unreadable` in its place.

        Raises:
            ImageError: A single image cannot be read.
            TypeError: Not a `Source`.
        """
        if isinstance(images, list):
            return list(self.read_each(images))
        decoded = self._decode(0, images)
        if isinstance(decoded, Unreadable):
            raise ImageError(decoded.error)
        return self._read([decoded])[0]

    def read_each(self, images: Iterable[Source]) -> Iterator[Reading | Unreadable]:
        """As `read` of a list, but image by image: only a few batches are held at any time."""
        size = self.threads * _BATCH_PER_THREAD
        with closing(self._decoded(images)) as decoded:
            while batch := list(islice(decoded, size)):
                readings = iter(self._read([one for one in batch if isinstance(one, _Decoded)]))
                for one in batch:
                    yield next(readings) if isinstance(one, _Decoded) else one

    def _decoded(self, images: Iterable[Source]) -> "Generator[_Decoded | Unreadable]":
        """In their order; other threads decode ahead while a batch is read."""
        numbered = enumerate(images)
        if self.threads == 1:  # which would take turns with another
            yield from (self._decode(number, image) for number, image in numbered)
            return
        waiting: deque[Future[_Decoded | Unreadable]] = deque()
        with ThreadPoolExecutor(self.threads) as pool:
            while True:
                ahead = 2 * self.threads * _BATCH_PER_THREAD - len(waiting)
                for number, image in islice(numbered, ahead):
                    waiting.append(pool.submit(self._decode, number, image))
                if not waiting:
                    return
                yield waiting.popleft().result()

    def _read(self, decoded: "list[_Decoded]") -> list[Reading]:
        if not decoded:
            return []
        recognised = self.recognise(np.stack([one.grey for one in decoded]))
        return list(to_readings(self.scheme, [one.name for one in decoded], *recognised))

    def _decode(self, number: int, image: Source) -> "_Decoded | Unreadable":
        name = str(number)
        try:
            if isinstance(image, (str, os.PathLike)):
                name = os.fspath(image)
                with Path(image).open("rb") as file:
                    image = file.read(MAX_BYTES + 1)
            elif isinstance(image, NamedImage):
                name, image = image.name, image.data
            return _Decoded(name, self._grey(image))
        except (OSError, ImageError) as error:
            return Unreadable(name, str(error))

    def _grey(self, image: bytes | Image.Image | npt.NDArray[Any]) -> GreyImages:
        scheme = self.scheme
        if isinstance(image, bytes):
            return read_scheme_image(image, scheme)
        if isinstance(image, Image.Image):
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = np.asarray(image.convert("RGB"))
        elif not isinstance(image, np.ndarray):
            raise TypeError(
                "expected an image as a path, bytes, a Pillow picture or an array, got "
                f"{type(image).__name__}"
            )
        return pixels_of_scheme(image, scheme)


@dataclass(frozen=True)
class _Decoded:
    name: str
    grey: GreyImages


class Reader(ImageReader):
    """Reads with a file that `simgan-captcha export` wrote.

    Example:
        >>> Reader("reader.onnx").read("captcha.jpg").text  # doctest: +SKIP
        'a1z9'
    """

    def __init__(self, file: str | os.PathLike[str] | bytes, *, threads: int | None = None) -> None:
        """Load the file; nothing in it is executed but the network's own operators.

        Args:
            file: Its path, or its bytes.
            threads: That decode images, and that the network runs in; as many as there are cores
                by default.

        Raises:
            RunError: Missing, too large, damaged, or not an exported reader, see `load_exported`.
        """
        exported = load_exported(file, threads)
        super().__init__(exported.scheme, exported.recognise, threads=threads)
        self.version: str = exported.version
        """Of the package that wrote the file."""
