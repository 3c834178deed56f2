"""The scheme of a captcha family: alphabet, length, image size, and class ids of texts."""

import json
import os
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from simgan_captcha.errors import ConfigError, SchemeError
from simgan_captcha.shown import did_you_mean, shortened

SIGNS = "+-*/=?!@#$%&×÷"
"""Common signs of captchas, those of sums among them."""

Length = int | tuple[int, int]
"""Number of characters in a text, or the least and the greatest number."""

LONGEST_TEXT = 64
"""Greatest length of a text."""

BackgroundKind = Literal["shared", "plain", "varying"]
ClutterKind = Literal["lines", "dots", "texture"]

MAX_PIXELS = 4_000_000
"""Largest area of an image; larger ones are refused before decoding."""
_NARROWEST = 2
"""Least width of a character in pixels."""


class Scheme(BaseModel):
    """Alphabet, length and image size of one captcha family.

    Example:
        >>> HACKMIT_2017.encode("a1z9")
        [0, 27, 25, 35]
        >>> HACKMIT_2017.decode([0, 27, 25, 35])
        'a1z9'
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        # On a command line, an alphabet of digits is parsed as a number.
        coerce_numbers_to_str=True,
    )

    alphabet: str = Field(min_length=2, max_length=4096)
    """All characters that texts may contain, in the order of the class ids, without repeats."""
    equivalents: tuple[str, ...] = ()
    """Groups of characters that look the same and count as one, for example ``o0``. Only the first
    character of a group is in the alphabet. It is read for all characters of the group."""
    length: Length
    """Number of characters in a text, from 1 to 64. If it varies, the least and the greatest
    number, such as ``[4, 6]``."""
    width: int = Field(ge=8, le=4096)
    """Image width in pixels."""
    height: int = Field(ge=8, le=4096)
    """Image height in pixels."""
    background: BackgroundKind = "shared"
    """Kind of the background. With ``shared``, all images have the same picture and size. With
    ``plain``, each image has one colour, its own or a common one. With ``varying``, colours change
    slowly within the image (gradients, clouds) or in large steps (panels). Images of the last two
    kinds may have any size, and are scaled to width and height."""
    text_height: int | None = Field(default=None, ge=4, le=4096)
    """Approximate height of a text in pixels; None if unknown."""
    text_width: int | None = Field(default=None, ge=4, le=4096)
    """Approximate width of a text in pixels; None if unknown."""
    wavy_baseline: bool = False
    """Whether texts lie on waves that bend their letters. A ``simulator.layout`` draws them."""
    multiple_fonts: bool = False
    """Whether texts have different fonts. A ``simulator.layout`` draws them."""
    clutter: tuple[ClutterKind, ...] = ()
    """Kinds of clutter among the letters, different in each image: lines (straight or curved),
    dots, and texture. Texture is a grain about as fine as the strokes."""

    @field_validator("alphabet")
    @classmethod
    def _no_repeats(cls, alphabet: str) -> str:
        repeated = sorted({c for c in alphabet if alphabet.count(c) > 1})
        if repeated:
            raise ValueError(
                f"the alphabet repeats {shortened(''.join(repeated))!r}; name each character once"
            )
        return alphabet

    @field_validator("alphabet", "equivalents")
    @classmethod
    def _letters_that_stand_alone(cls, characters: str | tuple[str, ...]) -> Any:
        for character in "".join(characters):
            if reason := _why_unreadable(character):
                raise ValueError(
                    f"{_named(character)} cannot be read: {reason}; leave it out of the alphabet"
                )
        return characters

    @field_validator("length", mode="before")
    @classmethod
    def _lengths_in_order(cls, length: Any) -> Any:
        ends = list(length) if isinstance(length, list | tuple) else [length, length]
        if (
            len(ends) != 2
            or not all(isinstance(end, int) and not isinstance(end, bool) for end in ends)
            or not 1 <= ends[0] <= ends[1] <= LONGEST_TEXT
        ):
            raise ValueError(
                f"expected a number from 1 to {LONGEST_TEXT}, or the least and the greatest "
                f"number, as [4, 6]; got {shortened(json.dumps(length, default=str))}"
            )
        return ends[0] if ends[0] == ends[1] else tuple(ends)

    @field_validator("width", "height", "text_height", "text_width", mode="before")
    @classmethod
    def _no_truth_values(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"expected a number, got {str(value).lower()}")
        return value

    @model_validator(mode="after")
    def _equivalents_apart(self) -> "Scheme":
        together = "".join(self.equivalents)
        if len(set(together)) < len(together) or any(len(group) < 2 for group in self.equivalents):
            raise ValueError(
                f"equivalents: expected two characters or more each, none twice, got "
                f"{self.equivalents}"
            )
        for group in self.equivalents:
            if [c in self.alphabet for c in group] != [True] + [False] * (len(group) - 1):
                raise ValueError(
                    f"equivalents: expected the first of {group!r} in the alphabet and none of the "
                    "others; each is read as the first"
                )
        return self

    @model_validator(mode="after")
    def _room_for_a_text(self) -> "Scheme":
        if self.width < _NARROWEST * self.max_length:
            raise ValueError(
                f"expected at least {_NARROWEST} pixels of width for each character, got "
                f"{self.width} pixels for {self.max_length} characters; correct width or length"
            )
        if self.width * self.height > MAX_PIXELS:
            raise ValueError(
                f"expected at most {MAX_PIXELS} pixels, got {self.width}x{self.height}; give a "
                "smaller width and height"
            )
        return self

    @staticmethod
    def from_toml(path: str | os.PathLike[str]) -> "Scheme":
        """Read a scheme from a file, see `load_scheme`."""
        return load_scheme(Path(path))

    def to_toml(self) -> str:
        """The scheme as the text of a TOML file that `from_toml` reads."""
        # A JSON value is a TOML value, except for a control character that no alphabet holds.
        values = self.model_dump(mode="json", exclude_none=True)
        lines = [f"{key} = {json.dumps(of, ensure_ascii=False)}" for key, of in values.items()]
        return "\n".join([*lines, ""])

    @property
    def shares_picture(self) -> bool:
        """Whether all images have the same background picture."""
        return self.background == "shared"

    @property
    def min_length(self) -> int:
        """Number of characters in the shortest text."""
        return least_and_greatest(self.length)[0]

    @property
    def max_length(self) -> int:
        """Number of characters in the longest text, and of the recognizer's slots."""
        return least_and_greatest(self.length)[1]

    @property
    def blank(self) -> int | None:
        """Class id of an empty slot; None if all texts have the same length."""
        return len(self.alphabet) if self.min_length < self.max_length else None

    @property
    def classes(self) -> int:
        """Number of classes, including the class of an empty slot."""
        return len(self.alphabet) + (self.blank is not None)

    def fold(self, text: str) -> str:
        """Replace each character of a group in `equivalents` by the first one of the group."""
        firsts = {other: group[0] for group in self.equivalents for other in group[1:]}
        return "".join(firsts.get(character, character) for character in text)

    def encode(self, text: str) -> list[int]:
        """Class ids of a text, one per slot; slots after its end are `blank`.

        Raises:
            SchemeError: The text has another length, or a character outside the alphabet.
        """
        if not self.min_length <= len(text) <= self.max_length:
            raise SchemeError(
                f"expected a text of {length_in_words(self.length)} characters, got {text!r} "
                f"({len(text)}); correct the label or the scheme's length"
            )
        text = self.fold(text)
        missing = sorted(set(text) - set(self.alphabet))
        if missing:
            raise SchemeError(
                f"the alphabet {shortened(self.alphabet)!r} lacks "
                f"{''.join(missing)!r} of {text!r}; add it to the scheme's alphabet"
            )
        ids = [self.alphabet.index(character) for character in text]
        return ids + [len(self.alphabet)] * (self.max_length - len(text))

    def decode(self, ids: Iterable[int]) -> str:
        """Decode class ids, each in [0, classes), to a text."""
        return "".join(self.alphabet[i] for i in ids if i != self.blank)


def _why_unreadable(character: str) -> str | None:
    """The reason why a character cannot be read, in words; None if it can."""
    category = unicodedata.category(character)
    if category.startswith("M"):
        return (
            "it is a mark on the letter before it, and texts are read letter by letter; write the "
            "letter and its mark as one character, as é, where there is such"
        )
    if category in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return "nothing of it is seen in an image"
    if unicodedata.bidirectional(character) in ("R", "AL"):
        return "texts are read from left to right, this script is written from right to left"
    return None


def _named(character: str) -> str:
    return f"U+{ord(character):04X} ({unicodedata.name(character, 'without a name').lower()})"


def least_and_greatest(length: Length) -> tuple[int, int]:
    """Least and greatest number of characters."""
    return (length, length) if isinstance(length, int) else length


def length_in_words(length: Length) -> str:
    """A length as ``4`` or ``4 to 6``."""
    least, greatest = least_and_greatest(length)
    return f"{least}" if least == greatest else f"{least} to {greatest}"


HACKMIT_2017 = Scheme(alphabet=ascii_lowercase + digits, length=4, width=100, height=50)
"""The HackMIT 2017 puzzle: four of a-z0-9 on 100x50 pixels."""


def load_scheme(path: Path) -> Scheme:
    """Read a scheme from a file.

    Raises:
        ConfigError: The file is missing or is not TOML, a key is unknown, or a value is missing or
            out of range.
    """
    try:
        with path.open("rb") as file:
            # Some editors begin a file with a byte order mark.
            values = tomllib.loads(file.read(_MAX_BYTES).decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(
            f"expected a scheme at {path}, found none; write one with simgan-captcha init "
            f"FOLDER {path}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"expected TOML at {path}, got {error}") from None
    if not isinstance(values.get("alphabet", ""), str):
        raise ConfigError(
            f"{path}: alphabet: expected a text, got {shortened(str(values['alphabet']))}; "
            "write it in quotes"
        )
    try:
        return check_scheme(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}; correct the file") from None


def check_scheme(values: Mapping[str, Any]) -> Scheme:
    """Build a scheme from plain values.

    Raises:
        ConfigError: A key is unknown (the message names the nearest one), or a value is missing or
            out of range.
    """
    known = list(Scheme.model_fields)
    for key in values.keys() - known:
        hint = did_you_mean(key, known, f"known are {', '.join(known)}")
        raise ConfigError(f"expected a known key, got {key!r}; {hint}")
    try:
        return Scheme(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        where = "".join(f"{part}: " for part in first["loc"][:1])  # no part: several values
        raise ConfigError(f"{where}{message}") from None


_MAX_BYTES = 1_000_000
