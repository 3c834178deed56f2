"""Extras: what ``pip install simgan-captcha`` leaves out, because reading needs none of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from simgan_captcha.errors import MissingExtraError

Extra = Literal["label", "learn", "serve", "dist"]
"""A name below ``[project.optional-dependencies]`` in pyproject.toml."""


@contextmanager
def needing(extra: Extra, what: str) -> Iterator[None]:
    """A block, or a decorated function, that needs an extra, and says so where it is missing.

    Args:
        extra: The extra that holds all that the block imports.
        what: What needs it, for the message.

    Raises:
        MissingExtraError: A module of others is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "simgan_captcha":
            raise  # a mistake of this package
        raise MissingExtraError(
            f"expected the extra {extra!r} for {what}, it is not installed; run pip install "
            f"'simgan-captcha[{extra}]'"
        ) from error
