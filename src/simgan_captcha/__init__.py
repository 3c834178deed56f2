"""Reads short text in images, having learned without a single label."""

from typing import TYPE_CHECKING, Any

from simgan_captcha._version import __version__
from simgan_captcha.errors import SimganCaptchaError
from simgan_captcha.scheme import HACKMIT_2017, Scheme

if TYPE_CHECKING:
    from simgan_captcha.inference.reader import Reader

__all__ = ["HACKMIT_2017", "Reader", "Scheme", "SimganCaptchaError", "__version__"]


def __getattr__(name: str) -> Any:
    """`Reader` comes when it is asked for: OpenCV and NumPy take their time."""
    if name == "Reader":
        from simgan_captcha.inference.reader import Reader

        return Reader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
