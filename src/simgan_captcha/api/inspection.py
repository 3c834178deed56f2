"""Inspect unlabelled images of an unknown captcha family."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from simgan_captcha.api.images import image_folder
from simgan_captcha.scheme import Scheme, check_scheme

if TYPE_CHECKING:
    from simgan_captcha.api.images import Images
    from simgan_captcha.data.inspect import FirstLook

Length = int | tuple[int, int]
"""Number of characters in a text, or the least and the greatest."""


@dataclass(frozen=True)
class Inspection:
    """What a program sees in unlabelled images, and a scheme that follows from it."""

    scheme: Scheme
    """A proposal, to be compared with the images."""
    doubts: tuple[str, ...]
    """What may be wrong, in words."""
    look: "FirstLook" = field(repr=False)
    """The measurements."""

    @property
    def sheet(self) -> bytes:
        """A contact sheet of some images, as PNG."""
        return self.look.sheet


def inspect(
    images: "Images",
    *,
    alphabet: str | None = None,
    length: Length | None = None,
    recursive: bool = False,
) -> Inspection:
    """Inspect up to 500 unlabelled images, as ``simgan-captcha init`` does.

    Args:
        images: A folder of images, a captcha store or a list, see `learn`.
        alphabet: Every character that a text may hold; None proposes lower-case letters and digits.
        length: Number of characters, or the least and the greatest; None proposes the commonest
            number of separate pieces of ink.
        recursive: Whether folders within a folder are looked into.

    Raises:
        UsageError: There are no images.
        ImageError: Fewer than two images can be read.
        ConfigError: An alphabet or a length that no scheme may have.
    """
    from simgan_captcha.data.inspect import doubts, look_at, scheme_of

    with image_folder(images) as folder:
        look = look_at(folder, recursive=recursive)
    lengths = None if length is None else least_and_greatest(length)
    return Inspection(scheme_of(look, alphabet, lengths), tuple(doubts(look)), look)


def least_and_greatest(length: Length) -> tuple[int, int]:
    """Least and greatest number of characters."""
    return (length, length) if isinstance(length, int) else length


def changed_scheme(scheme: Scheme, alphabet: str | None, length: Length | None) -> Scheme:
    """The scheme with another alphabet or length, where they are given."""
    values = scheme.model_dump()
    if alphabet is not None:
        values["alphabet"] = alphabet
    if length is not None:
        shortest, longest = least_and_greatest(length)
        values |= {"length": longest, "shortest": shortest if shortest < longest else None}
    return check_scheme(values)
