"""Reading of images of any captcha family with the pretrained generalist."""

from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from simgan_captcha.inference.reader import Source, Unreadable
    from simgan_captcha.inference.readings import Reading
    from simgan_captcha.scheme import Length


@overload
def read(
    images: "list[Source]", *, alphabet: str | None = None, length: "Length | None" = None
) -> "list[Reading | Unreadable]": ...
@overload
def read(
    images: "Source", *, alphabet: str | None = None, length: "Length | None" = None
) -> "Reading": ...
def read(
    images: "Source | list[Source]", *, alphabet: str | None = None, length: "Length | None" = None
) -> "Reading | list[Reading | Unreadable]":
    """Read images of any captcha family with the pretrained generalist, without training.

    Args:
        images: An image or a list of images, see `Source`.
        alphabet: Characters that texts may contain; None allows all that the generalist knows.
        length: Number of characters, or the least and the greatest number; None allows any.

    Returns:
        A reading. For a list, a list in the same order, with an `Unreadable` for each image that
        cannot be decoded.

    Raises:
        RunError: This installation has no generalist.
        ConfigError: The generalist cannot read this alphabet or length.
        ImageError: A single image cannot be decoded.
    """
    from simgan_captcha.generalist.reader import GeneralistReader

    return GeneralistReader(alphabet, length).read(images)
