"""The characters that the generalist knows, and their class ids."""

from collections.abc import Iterable
from string import ascii_lowercase, ascii_uppercase, digits

from simgan_captcha.scheme import SIGNS

CHARACTERS = digits + ascii_uppercase + ascii_lowercase + SIGNS
"""Every character, in the order of the class ids: the id of ``CHARACTERS[k]`` is ``k + 1``."""

BLANK = 0
"""Class id of "no character here", the blank of CTC (Graves et al. 2006)."""

CLASSES = len(CHARACTERS) + 1
"""Number of classes, the blank among them."""

MOST_CHARACTERS = 32
"""Longest text that is decoded within a length."""

_IDS = {character: number for number, character in enumerate(CHARACTERS, start=1)}


def encode(text: str) -> list[int]:
    """Class ids of a text.

    Raises:
        KeyError: A character that the generalist does not know.

    Example:
        >>> encode("0A")
        [1, 11]
    """
    return [_IDS[character] for character in text]


def decode(ids: Iterable[int]) -> str:
    """Text of class ids; blanks are left out.

    Example:
        >>> decode([1, 0, 11])
        '0A'
    """
    return "".join(CHARACTERS[number - 1] for number in ids if number != BLANK)
