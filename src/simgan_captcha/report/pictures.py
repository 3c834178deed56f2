"""Pictures inside a page: encoded images as ``data:`` URIs, shrunk when they are heavy."""

import base64
import io

from PIL import Image

from simgan_captcha.data.images import check_image, decode_rgb

_JPEG_QUALITY = 82


def picture_uri(data: bytes, max_bytes: int, max_side: int) -> str:
    """An encoded JPEG or PNG as a ``data:`` URI.

    Args:
        data: The image as stored; shown bit by bit as it is, when it is small.
        max_bytes: A longer one is shrunk into a square of ``max_side`` pixels, as a JPEG.
        max_side: Pixels.

    Raises:
        ImageError: `simgan_captcha.data.images.check_image` does not accept the bytes.
    """
    check_image(data)
    if len(data) > max_bytes:
        data = _shrunk(data, max_side)
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _shrunk(data: bytes, max_side: int) -> bytes:
    picture = Image.fromarray(decode_rgb(data))
    picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return buffer.getvalue()
