"""Encoding and decoding of images for the store, the report and the web pages.

Decoded images are luma, ``uint8``, (H, W) or (N, H, W), 0 black to 255 white. For images without a
shared background, see `foreground`. Networks receive ``float32`` (B, C, H, W) in [-1, 1].
"""

import io
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

from simgan_captcha.data.pictures import MAX_BYTES, Pixels, luma, open_picture
from simgan_captcha.raster import resized
from simgan_captcha.scheme import MAX_PIXELS
from simgan_captcha.types import GreyImages

_ON_SHEET = (5, 8)
"""Columns and rows of a contact sheet."""
_CAPTION = 14
"""Height of a line of text in pixels."""
_Image = TypeVar("_Image")

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "contact_sheet",
    "decode_grey",
    "decode_rgb",
    "encode_png",
    "evenly",
]


def decode_grey(data: bytes) -> GreyImages:
    """Luma (H, W) of one encoded image.

    Raises:
        ImageError: See `pictures.open_picture`.
    """
    return luma(open_picture(data).rgb)


def decode_rgb(data: bytes) -> Pixels:
    """Colours (H, W, 3) of one encoded image.

    Raises:
        ImageError: See `pictures.open_picture`.
    """
    return open_picture(data).rgb


def encode_png(pixels: GreyImages) -> bytes:
    """Encode a picture as PNG: (H, W) grey or (H, W, 3) RGB, ``uint8``."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def evenly(images: Sequence[_Image], most: int) -> list[_Image]:
    """At most ``most`` of the images, evenly spaced."""
    if len(images) <= most:
        return list(images)
    return [images[int(i)] for i in np.linspace(0, len(images) - 1, most)]


def contact_sheet(pictures: Sequence[Pixels], captions: Sequence[str] = ()) -> bytes:
    """Contact sheet of some pictures (h, w, 3) with captions, as PNG.

    All pictures are scaled to the size of the first.
    """
    columns, rows = _ON_SHEET
    step = -(-len(pictures) // (columns * rows))
    shown, texts = pictures[::step], captions[::step]
    height, width = shown[0].shape[:2]
    below = _CAPTION if texts else 0
    pitch = height + below + 4
    sheet = Image.new("RGB", (columns * (width + 4), -(-len(shown) // columns) * pitch), "white")
    draw = ImageDraw.Draw(sheet)
    for number, image in enumerate(shown):
        row, column = divmod(number, columns)
        left, top = column * (width + 4) + 2, row * pitch + 2
        sheet.paste(Image.fromarray(resized(image, width, height)), (left, top))
        if texts:
            draw.text((left, top + height), texts[number], fill="black")
    return encode_png(np.asarray(sheet, np.uint8))
