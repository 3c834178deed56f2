"""Encoded images as ``data:`` URIs; large ones are shrunk."""

import base64
import io

from PIL import Image

from simgan_captcha.data.images import decode_rgb, encode_png
from simgan_captcha.data.kinds import kind_of
from simgan_captcha.data.pictures import Pixels

_JPEG_QUALITY = 82


def picture_uri(data: bytes, max_bytes: int, max_side: int) -> str:
    """An encoded image as a ``data:`` URI that browsers show.

    Args:
        data: The image as stored. A small JPEG or PNG is kept byte for byte; other formats become
            PNGs.
        max_bytes: A larger image is scaled down to fit ``max_side``, and becomes a JPEG.
        max_side: Maximum width and height of a shrunk image, in pixels.

    Raises:
        ImageError: The bytes are not a usable image, see
            `simgan_captcha.data.pictures.open_picture`.
    """
    pixels = decode_rgb(data)
    if len(data) > max_bytes:
        data = _shrunk(pixels, max_side)
    kind = kind_of(data)
    if kind not in ("JPEG", "PNG"):
        data, kind = encode_png(pixels), "PNG"
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"


def _shrunk(pixels: Pixels, max_side: int) -> bytes:
    picture = Image.fromarray(pixels)
    picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return buffer.getvalue()
