"""Encoded images as the package stores and shows them; `pictures` decodes them.

Decoded images are luma, ``uint8``, (H, W) or (N, H, W), 0 black to 255 white; where images share no
picture, see `foreground`. Networks see ``float32`` (B, C, H, W) in [-1, 1].
"""

import io

from PIL import Image

from simgan_captcha.data.pictures import MAX_BYTES, MAX_PIXELS, Pixels, luma, open_picture
from simgan_captcha.types import GreyImages

__all__ = ["MAX_BYTES", "MAX_PIXELS", "check_image", "decode_grey", "decode_rgb", "encode_png"]


def check_image(data: bytes, *, width: int | None = None, height: int | None = None) -> GreyImages:
    """The luma (H, W) of a whole image of the stated size.

    Args:
        data: An encoded image.
        width: Expected width in pixels; None takes any.
        height: Expected height in pixels; None takes any.

    Raises:
        ImageError: As `pictures.open_picture`.
    """
    return luma(open_picture(data, width=width, height=height).rgb)


def decode_grey(data: bytes) -> GreyImages:
    """Luma (H, W) of one encoded image.

    Raises:
        ImageError: As `pictures.open_picture`.
    """
    return luma(open_picture(data).rgb)


def decode_rgb(data: bytes) -> Pixels:
    """Colours (H, W, 3) of one encoded image.

    Raises:
        ImageError: As `pictures.open_picture`.
    """
    return open_picture(data).rgb


def encode_png(pixels: GreyImages) -> bytes:
    """A picture for people: (H, W) grey or (H, W, 3) RGB, ``uint8``."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
