"""Read images of any family with the pretrained generalist."""

from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, overload

from simgan_captcha.errors import RunError

if TYPE_CHECKING:
    from simgan_captcha.api.inspection import Length
    from simgan_captcha.generalist.reader import GeneralistReader
    from simgan_captcha.inference.reader import Source, Unreadable
    from simgan_captcha.inference.readings import Reading


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
    """Read images of any family with the pretrained generalist, without training.

    Args:
        images: An image, or a list, see `Source`.
        alphabet: Characters that texts may hold; None allows all that it knows.
        length: Number of characters, or the least and the greatest; None allows any.

    Returns:
        A reading; for a list, a list in the same order, with an `Unreadable` for each image that
        cannot be read.

    Raises:
        RunError: This installation has no generalist.
        ImageError: A single image cannot be read.
    """
    return generalist(alphabet, length).read(images)


@lru_cache(maxsize=4)
def generalist(alphabet: str | None = None, length: "Length | None" = None) -> "GeneralistReader":
    """The pretrained reader for an alphabet and a range of lengths.

    Raises:
        RunError: This installation has no generalist.
        ConfigError: An alphabet or a length that it cannot read.
    """
    weights = files("simgan_captcha") / "generalist" / "generalist.onnx"
    if not weights.is_file():
        raise RunError(
            f"expected the pretrained generalist in {weights}, this installation has none; learn a "
            "reader from your own images with simgan-captcha run, or simgan_captcha.learn"
        )
    from simgan_captcha.generalist.reader import GeneralistReader

    return GeneralistReader(alphabet, length)
