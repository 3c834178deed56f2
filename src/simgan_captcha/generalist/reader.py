"""Reads any image of a short text with the generalist; needs no torch and no run."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from simgan_captcha.data.pictures import Picture, Pixels, open_picture
from simgan_captcha.errors import ConfigError, ImageError, RunError
from simgan_captcha.generalist.characters import CHARACTERS, MOST_CHARACTERS
from simgan_captcha.generalist.decoding import (
    Alphabet,
    PossibleTexts,
    decode_columns,
    length_probabilities,
    other_texts,
)
from simgan_captcha.generalist.features import features
from simgan_captcha.generalist.shipped import shipped
from simgan_captcha.inference.constraints.automaton import of_pattern
from simgan_captcha.inference.constraints.texts import NONE, Constraints, matching_texts
from simgan_captcha.inference.reader import NamedImage, Source, TextReader, Unreadable, source_name
from simgan_captcha.inference.readings import Alternative, Reading
from simgan_captcha.scheme import Length, least_and_greatest
from simgan_captcha.types import Doubles, Floats

WEIGHTS = "generalist.onnx"
"""Name of the file with the weights, see `shipped.shipped`."""
_AT_ONCE = 64
"""Images that are decoded before any is read, so that those of one width are read together."""


class FoundText(NamedTuple):
    """What one image shows before alphabet and length are known."""

    text: str
    """The most probable text of n characters."""
    characters: Floats
    """(n, A): probability of each character of the alphabet at each place of the text."""
    lengths: Doubles
    """(1 + MOST_CHARACTERS,): probability of each number of characters."""


def check_length(length: Length | None) -> tuple[int, int] | None:
    """Fewest and most characters of N or (MIN, MAX).

    Raises:
        ConfigError: Not 1 to 32, or the wrong way round.
    """
    if length is None:
        return None
    fewest, most = least_and_greatest(length)
    if not 1 <= fewest <= most <= MOST_CHARACTERS:
        raise ConfigError(
            f"expected a length of 1 to {MOST_CHARACTERS}, as 4 or (4, 6), got {length!r}"
        )
    return fewest, most


class GeneralistReader(TextReader):
    """The generalist within an alphabet and a range of lengths.

    Example:
        >>> GeneralistReader(alphabet="0123456789", length=4).read("captcha.png").text
        ... # doctest: +SKIP
        '7351'
    """

    def __init__(
        self,
        alphabet: str | None = None,
        length: Length | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        """Load the network that the package ships.

        Args:
            alphabet: Characters that texts may hold; None: all that it knows. A letter whose other
                case is missing stands for both.
            length: Number of characters, or the fewest and the most; None: any.
            threads: That the network runs in; None: one for each core.

        Raises:
            ConfigError: An alphabet or a length that cannot be.
            RunError: This installation has no generalist.
        """
        super().__init__()
        self.alphabet, self.lengths = Alphabet(alphabet), check_length(length)
        self._session = _session(threads or 0)

    def read_each(
        self, images: Iterable[Source | Unreadable], constraints: Constraints = NONE
    ) -> Iterator[Reading | Unreadable]:
        """See `TextReader.read_each`; constraints replace those of the constructor."""
        possible = self._possible(constraints)
        numbered = enumerate(images)
        while some := list(islice(numbered, _AT_ONCE)):
            opened = [self._open(image, str(number)) for number, image in some]
            pictures = [one for one in opened if not isinstance(one, Unreadable)]
            read = iter(self._read(pictures, possible, constraints.top))
            for one in opened:
                yield one if isinstance(one, Unreadable) else next(read)

    def _possible(self, constraints: Constraints) -> PossibleTexts:
        """What texts may be read under constraints.

        Raises:
            ConfigError: A character is unknown, the pattern is invalid, or no text is left.
        """
        alphabet, lengths = self.alphabet, self.lengths
        if constraints.alphabet is not None:
            alphabet = Alphabet(constraints.alphabet)
        if constraints.length is not None:
            lengths = check_length(constraints.length)
        if constraints.pattern is None:
            return PossibleTexts.of_lengths(alphabet, lengths)
        matching = of_pattern(constraints.pattern, CHARACTERS).of(
            [CHARACTERS.index(c) for c in alphabet.characters]
        )
        of_lengths = PossibleTexts.of_lengths(alphabet, lengths).texts
        texts = matching_texts(constraints.pattern, matching, of_lengths)
        # A pattern says which characters there are, as an alphabet does.
        alphabet = Alphabet("".join(alphabet.characters[k] for k in texts.used))
        return PossibleTexts(alphabet, texts.of(texts.used))

    def _open(self, image: Source | Unreadable, otherwise: str) -> tuple[str, Pixels] | Unreadable:
        if isinstance(image, Unreadable):
            return image
        try:
            picture = open_source(image)
        except ImageError as error:
            return Unreadable(source_name(image, otherwise), str(error))
        self.notes.update(picture.notes)
        return source_name(image, otherwise), picture.rgb

    def columns(self, image: npt.NDArray[np.uint8]) -> Floats:
        """The network's logits (T, K) of one RGB image (H, W, 3)."""
        return np.asarray(self._columns(features(image)[None])[0], np.float32)

    def evidence(self, image: npt.NDArray[np.uint8]) -> FoundText:
        """Text of one RGB image (H, W, 3), with the evidence for its characters and its length."""
        possible = self._possible(NONE)
        logits = self.columns(image)
        found = decode_columns(logits, possible)
        probabilities = possible.alphabet.probabilities(logits)
        characters = probabilities[list(found.columns), 1:]
        return FoundText(
            found.text,
            characters / np.maximum(characters.sum(1, keepdims=True), 1e-6),
            length_probabilities(probabilities, MOST_CHARACTERS),
        )

    def _read(
        self, pictures: list[tuple[str, Pixels]], possible: PossibleTexts, top: int
    ) -> list[Reading | Unreadable]:
        """Readings of named images, in order; images of the same width are read together."""
        given = [features(image) for _, image in pictures]
        by_width: dict[int, list[int]] = {}
        for index, one in enumerate(given):
            by_width.setdefault(one.shape[-1], []).append(index)
        read: dict[int, Reading | Unreadable] = {}
        for indices in by_width.values():
            logits = self._columns(np.stack([given[i] for i in indices]))
            for index, of_image in zip(indices, logits, strict=True):
                read[index] = _reading(pictures[index][0], of_image, possible, top)
        return [read[index] for index in range(len(pictures))]

    def _columns(self, images: Floats) -> Floats:
        """Logits (N, T, K) of inputs (N, 4, 40, W)."""
        (logits,) = self._session.run(["logits"], {"images": images})
        return np.asarray(logits, np.float32)


def shipped_reader(file: bytes, *, threads: int | None = None) -> GeneralistReader:
    """The generalist of this installation, if its weights are these bytes.

    Raises:
        RunError: This installation has other weights, or none.
    """
    if shipped(WEIGHTS).read_bytes() != file:
        raise RunError(
            "expected the generalist that the labels began with, this installation has another "
            "one; install the same version of simgan-captcha everywhere, or give an empty folder"
        )
    return GeneralistReader(threads=threads)


def _reading(name: str, logits: Floats, possible: PossibleTexts, top: int) -> Reading | Unreadable:
    """The reading of one image (T, K), with top - 1 alternatives."""
    found = decode_columns(logits, possible)
    if not possible.texts.accepts(possible.alphabet.characters.index(c) for c in found.text):
        return Unreadable(
            name,
            f"expected an image wide enough for the length or the pattern, got room for "
            f"{len(found.text)} characters; give another length or a larger image",
        )
    others = other_texts(logits, possible, found.text, top - 1) if top > 1 else ()
    return Reading(
        name,
        found.text,
        found.confidence,
        found.confidences,
        tuple(Alternative(*other) for other in others),
    )


def open_source(image: Source) -> Picture:
    """The decoded picture of a source.

    Raises:
        ImageError: It cannot be read or decoded.
        TypeError: Not a `Source`.
    """
    return open_picture(image.data if isinstance(image, NamedImage) else image)


@lru_cache(maxsize=4)
def _session(threads: int) -> Any:
    model = shipped(WEIGHTS)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
