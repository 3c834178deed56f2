"""Reads images from any source, in order and in constant memory, without torch.

Shapes: N images, H and W pixels, L characters.
"""

import os
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Unpack, overload

import numpy as np
import numpy.typing as npt

from simgan_captcha.atomic import core_count
from simgan_captcha.data.foreground import open_scheme_image, pixels_of_scheme
from simgan_captcha.data.pictures import PictureSource
from simgan_captcha.errors import ImageError, RunError
from simgan_captcha.inference.constraints.texts import (
    NONE,
    Asked,
    Constraints,
    best_texts,
    texts_of_scheme,
)
from simgan_captcha.inference.exported import Probabilities, Recognize, load_exported
from simgan_captcha.inference.family import FEWEST_LOOKS, MOST_LOOKS, Family, Look, look
from simgan_captcha.inference.readings import Alternative, Reading, to_readings
from simgan_captcha.scheme import Length, Scheme
from simgan_captcha.types import Floats, GreyImages

_BATCH_PER_THREAD = 32


@dataclass(frozen=True)
class NamedImage:
    """An encoded image with a name, which is not a file."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read; takes the place of its reading."""

    name: str
    error: str
    """What was expected and what was received."""


Source = PictureSource | NamedImage
"""A path or a ``data:`` URI; encoded bytes, named or not; a Pillow picture; an array of grey levels
(H, W), RGB (H, W, 3) or RGBA (H, W, 4), see `pictures.from_array`."""


class TextReader(ABC):
    """Base class of readers; subclasses implement `read_each`."""

    def __init__(self) -> None:
        self.notes: Counter[str] = Counter()
        """Counts of remarks on the images, see `pictures.Picture.notes`."""
        self.taught = 0
        """Number of labels that the recognizer was taught with, usually 0."""

    @overload
    def read(self, images: list[Source], **asked: Unpack[Asked]) -> list[Reading | Unreadable]: ...
    @overload
    def read(self, images: Source, **asked: Unpack[Asked]) -> Reading: ...
    def read(
        self,
        images: Source | list[Source],
        *,
        alphabet: str | None = None,
        length: Length | None = None,
        pattern: str | None = None,
        top: int = 1,
    ) -> Reading | list[Reading | Unreadable]:
        """Read one image, or a list of images in order.

        A reading has the name of its file, or its index in the list. An image of a list that cannot
        be read gives an `Unreadable` in its place.

        Args:
            images: An image or a list of images.
            alphabet: Characters that texts may hold; None: all that the reader knows.
            length: Number of characters, or the fewest and the most; None: any it knows.
            pattern: What texts match as a whole, such as ``[A-Z]{2}\\d{4}``, see `pattern.parse`.
            top: Number of texts of each image: the reading and its alternatives.

        Raises:
            ConfigError: The reader does not know a character or the length, no text satisfies the
                constraints, or the pattern is invalid.
            ImageError: A single image cannot be read.
            TypeError: The argument is not a `Source`.
        """
        constraints = Constraints(alphabet, length, pattern, top)
        if isinstance(images, list):
            return list(self.read_each(images, constraints))
        (reading,) = self.read_each([images], constraints)
        if isinstance(reading, Unreadable):
            raise ImageError(reading.error)
        return reading

    @abstractmethod
    def read_each(
        self, images: Iterable[Source | Unreadable], constraints: Constraints = NONE
    ) -> Iterator[Reading | Unreadable]:
        """Like `read` of a list, but as an iterator that holds only a few batches in memory.

        An `Unreadable` in the input is passed on in its place.
        """

    def predict(self, images: Iterable[Source]) -> npt.NDArray[np.str_]:
        """Texts (N,) of N images, in the form in which scikit-learn's classifiers give classes.

        Raises:
            ImageError: An image cannot be read. `read` of a list reads the others as well.
        """
        texts = []
        for reading in self.read_each(images):
            if isinstance(reading, Unreadable):
                raise ImageError(f"{reading.name}: {reading.error}")
            texts.append(reading.text)
        return np.array(texts, np.str_)

    def alarm(self) -> str | None:
        """Say in words that the images read so far are unlike those that the reader learned from.

        Returns:
            None if they are not, if there are fewer than 10, or if nothing is known about its
            images, as for the generalist.
        """
        return None


class ImageReader(TextReader):
    """Reads images of one scheme with a given recognition function."""

    def __init__(
        self,
        scheme: Scheme,
        recognize: Recognize,
        probabilities: Probabilities | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        """Set the scheme, the recognition functions and the number of decoding threads.

        Args:
            scheme: Of the images.
            recognize: Gives the most probable character of each slot.
            probabilities: Gives those of all characters; only constraints and alternatives need it.
            threads: By default as many as cores.
        """
        super().__init__()
        self.scheme = scheme
        self.recognize = recognize
        self.probabilities = probabilities
        self.own_family: Callable[[], Family | None] | None = None
        """Gives the look of the images that the reader learned from, if it is known."""
        self.looks: list[Look] = []
        """Figures of the first images that were read."""
        self.threads = threads or core_count()

    def read_each(
        self, images: Iterable[Source | Unreadable], constraints: Constraints = NONE
    ) -> Iterator[Reading | Unreadable]:
        """See `TextReader.read_each`."""
        to_text = self._to_text(constraints)
        size = self.threads * _BATCH_PER_THREAD
        with closing(self._decoded(images)) as decoded:
            while batch := list(islice(decoded, size)):
                pictures = [one for one in batch if isinstance(one, _Decoded)]
                readings = iter(self._read(pictures, to_text))
                for one in batch:
                    yield next(readings) if isinstance(one, _Decoded) else one

    def _decoded(
        self, images: "Iterable[Source | Unreadable]"
    ) -> "Generator[_Decoded | Unreadable]":
        """Decode images in order; threads decode ahead while a batch is read."""
        numbered = enumerate(images)
        if self.threads == 1:  # a second thread would not help
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

    def _read(self, decoded: "list[_Decoded]", to_text: "_ToText") -> list[Reading]:
        if not decoded:
            return []
        for one in decoded:
            self.notes.update(one.notes)
        grey = np.stack([one.grey for one in decoded])
        readings, confidence = to_text([one.name for one in decoded], grey)
        for one, share in zip(decoded[: MOST_LOOKS - len(self.looks)], confidence, strict=False):
            self.looks.append(look(*one.size, one.grey, share))
        return readings

    def _to_text(self, constraints: Constraints) -> "_ToText":
        """The function that reads pixels (N, H, W) under constraints."""
        if constraints == NONE:
            return self._most_probable
        if self.probabilities is None:
            raise RunError(
                "expected a reader that gives the probabilities of all characters, this one gives "
                "only the most probable; give ImageReader its probabilities"
            )
        texts, probabilities = texts_of_scheme(constraints, self.scheme), self.probabilities
        decode, blank, top = self.scheme.decode, self.scheme.blank, constraints.top

        def to_text(names: list[str], grey: GreyImages) -> tuple[list[Reading], list[float]]:
            each = probabilities(grey)
            best = best_texts(each, texts, blank, top)
            if constraints.any_text:  # alternatives alone never change what is read
                chosen = each.argmax(-1).tolist()
                best = [
                    [read, *(other for other in others if decode(other) != decode(read))][:top]
                    for read, others in zip(chosen, best, strict=True)
                ]
            readings = [self._reading(*one) for one in zip(names, each, best, strict=True)]
            return readings, each.max(-1).prod(-1).tolist()

        return to_text

    def _most_probable(
        self, names: list[str], grey: GreyImages
    ) -> tuple[list[Reading], list[float]]:
        readings = list(to_readings(self.scheme, names, *self.recognize(grey)))
        return readings, [reading.confidence for reading in readings]

    def alarm(self) -> str | None:
        """See `TextReader.alarm`."""
        if self.own_family is None or len(self.looks) < FEWEST_LOOKS:
            return None
        family = self.own_family()
        return family.alarm(self.looks) if family else None

    def _reading(self, name: str, probabilities: Floats, texts: list[list[int]]) -> Reading:
        """The reading of one image (L, K) and its alternatives, from class ids of its texts."""
        ids = np.array(texts)
        each = np.take_along_axis(probabilities, ids.T, 1).T
        first, *others = to_readings(self.scheme, [name] * len(ids), ids, each)
        return replace(first, alternatives=tuple(Alternative(o.text, o.confidence) for o in others))

    def _decode(self, number: int, image: Source | Unreadable) -> "_Decoded | Unreadable":
        if isinstance(image, Unreadable):
            return image
        name = source_name(image, str(number))
        given = image.data if isinstance(image, NamedImage) else image
        try:
            picture = open_scheme_image(given, self.scheme)
            H, W, _ = picture.rgb.shape
            grey = pixels_of_scheme(picture.rgb, self.scheme)
            return _Decoded(name, grey, (W, H), picture.notes)
        except ImageError as error:
            return Unreadable(name, str(error))


_ToText = Callable[[list[str], GreyImages], tuple[list[Reading], list[float]]]
"""Gives the readings of pixels (N, H, W) under N names, and the confidences without constraints."""


@dataclass(frozen=True)
class _Decoded:
    name: str
    grey: GreyImages
    size: tuple[int, int]
    """Width and height of the picture in pixels."""
    notes: tuple[str, ...]


def source_name(image: Source, otherwise: str) -> str:
    """Path of a file or name of a named image; otherwise the given name."""
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        return otherwise if path.startswith("data:") else path
    return image.name if isinstance(image, NamedImage) else otherwise


class Reader(ImageReader):
    """Reads with a file that `simgan-captcha export` wrote.

    Example:
        >>> Reader("reader.onnx").read("captcha.jpg").text  # doctest: +SKIP
        'a1z9'
    """

    def __init__(self, file: str | os.PathLike[str] | bytes, *, threads: int | None = None) -> None:
        """Load the file. Only operators that recognizers use are executed.

        Args:
            file: Path or bytes of the file.
            threads: Number of threads for decoding and for the network; by default the number of
                cores.

        Raises:
            RunError: The file is missing, damaged or not an exported recognizer, see
                `load_exported`.
        """
        exported = load_exported(file, threads)
        super().__init__(
            exported.scheme, exported.recognize, exported.probabilities, threads=threads
        )
        self.own_family = lambda: exported.family
        self.taught = exported.taught
        self.version: str = exported.version
        """Version of the package that wrote the file."""
