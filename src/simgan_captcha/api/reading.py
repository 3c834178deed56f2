"""Reading of images of any captcha family with the pretrained generalist."""

from typing import TYPE_CHECKING, Unpack, overload

if TYPE_CHECKING:
    from simgan_captcha.inference.constraints.texts import Asked
    from simgan_captcha.inference.reader import Source, Unreadable
    from simgan_captcha.inference.readings import Reading
    from simgan_captcha.scheme import Length


@overload
def read(images: "list[Source]", **asked: Unpack["Asked"]) -> "list[Reading | Unreadable]": ...
@overload
def read(images: "Source", **asked: Unpack["Asked"]) -> "Reading": ...
def read(
    images: "Source | list[Source]",
    *,
    alphabet: str | None = None,
    length: "Length | None" = None,
    pattern: str | None = None,
    top: int = 1,
) -> "Reading | list[Reading | Unreadable]":
    """Read images of any captcha family with the pretrained generalist, without training.

    Args:
        images: An image or a list of images, see `Source`.
        alphabet: Characters that texts may contain; None allows all that the generalist knows.
        length: Number of characters, or the least and the greatest number; None allows any.
        pattern: What texts match as a whole, such as ``[A-Z]{2}\\d{4}``, see `pattern.parse`.
        top: Number of texts of each image: the reading and its alternatives.

    Returns:
        A reading. For a list, a list in the same order, with an `Unreadable` for each image that
        cannot be decoded.

    Raises:
        RunError: This installation has no generalist.
        ConfigError: The generalist cannot read this alphabet, length or pattern.
        ImageError: A single image cannot be decoded.
    """
    from simgan_captcha.generalist.reader import GeneralistReader

    return GeneralistReader().read(
        images, alphabet=alphabet, length=length, pattern=pattern, top=top
    )
