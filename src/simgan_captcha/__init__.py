"""Reads short text in images, having learned without a single label."""

from simgan_captcha.errors import SimganCaptchaError
from simgan_captcha.scheme import HACKMIT_2017, Scheme

__version__ = "0.1.0"

__all__ = ["HACKMIT_2017", "Scheme", "SimganCaptchaError", "__version__"]
