"""Decode and encode images: the one shape and value-range convention of the package.

Stored images are encoded bytes. Decoded images are luma (the Y of a JPEG), ``uint8``, (H, W) or
(N, H, W), 0 black to 255 white. Networks see ``float32`` (B, C, H, W) in [-1, 1].

Luma alone is kept (but where images share no picture, see `foreground`) as a JPEG codes it
apart from colour: drawing in grey and encoding in grey gives the very luma that drawing in colour
and encoding in colour would, in half the time.
"""

import io
from contextlib import closing

import cv2
import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from simgan_captcha.errors import ImageError
from simgan_captcha.types import GreyImages

MAX_PIXELS = 4_000_000
"""Larger images are refused before they are decoded."""

MAX_BYTES = 8_000_000
"""Larger files are refused before they are opened."""


SUFFIXES = (".jpg", ".jpeg", ".png")
"""Of image files in a folder, in lower case."""

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


def begins_as_image(data: bytes) -> bool:
    """Whether bytes begin as a JPEG or PNG does."""
    return data.startswith((_JPEG, _PNG))


def check_image(data: bytes, *, width: int | None = None, height: int | None = None) -> GreyImages:
    """Decode strictly: raises unless ``data`` is a whole image of the stated size.

    Args:
        data: An encoded JPEG or PNG.
        width: Expected width in pixels; None takes any.
        height: Expected height in pixels; None takes any.

    Returns:
        Its luma, see `decode_grey`.

    Raises:
        ImageError: Not a JPEG or PNG, damaged, animated, too large, or of another size.
    """
    if len(data) > MAX_BYTES:
        raise ImageError(f"expected at most {MAX_BYTES} bytes of image, got {len(data)}")
    try:
        with closing(_open(data)) as image:
            size = image.size
            if size[0] * size[1] > MAX_PIXELS:
                raise ImageError(
                    f"expected at most {MAX_PIXELS} pixels, the image claims {size[0]}x{size[1]}"
                )
            if (width or size[0], height or size[1]) != size:
                raise ImageError(
                    f"expected an image of {width or 'any'}x{height or 'any'} pixels, "
                    f"got {size[0]}x{size[1]}"
                )
            image.draft("L", None)  # of a JPEG's damage, its colours tell no more
            image.load()
            # Pillow tells damage strictly; OpenCV is what decodes from here on, so ask both.
            decoded = decode_grey(data)
            if decoded.shape != size[::-1]:
                raise ImageError(f"expected {size[1]}x{size[0]} pixels, decoded {decoded.shape}")
            return decoded
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"expected a whole JPEG or PNG, got a damaged one ({error})") from None


class _JpegWithoutMetadata(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Not wanted: it warns of damaged EXIF, and no thread can catch warnings safely."""


def _open(data: bytes) -> JpegImageFile | PngImageFile:
    """Header only. Past `Image.open`, which warns of large sizes before we can see them."""
    if data.startswith(_JPEG):
        return _JpegWithoutMetadata(io.BytesIO(data))
    if data.startswith(_PNG):
        if b"acTL" in data.partition(b"IDAT")[0]:
            raise ImageError("expected one still image, got an animated PNG")
        return PngImageFile(io.BytesIO(data))
    raise ImageError(f"expected a JPEG or PNG, got bytes starting {data[:8]!r}")


def decode_grey(data: bytes) -> GreyImages:
    """Luma of one encoded image that `check_image` accepts, ``uint8`` (H, W).

    Raises:
        ImageError: The bytes do not decode.
    """
    return _decode(data, cv2.IMREAD_GRAYSCALE)


def decode_rgb(data: bytes) -> GreyImages:
    """Colours of one encoded image that `check_image` accepts, ``uint8`` (H, W, 3).

    What is transparent is laid on white, as pages are.

    Raises:
        ImageError: The bytes do not decode.
    """
    rgb = _decode(data, cv2.IMREAD_COLOR_RGB)
    if not _may_be_transparent(data):
        return rgb
    whole = _decode(data, cv2.IMREAD_UNCHANGED)
    if whole.ndim != 3 or whole.shape[2] != 4:
        return rgb
    opaque = whole[..., 3:] / np.iinfo(whole.dtype).max
    return np.asarray(np.rint(rgb * opaque + 255 * (1 - opaque)), np.uint8)


def _may_be_transparent(data: bytes) -> bool:
    """Whether it is a PNG whose header has an alpha channel, or a transparent colour after it."""
    header = data.partition(b"IDAT")[0]
    return data.startswith(_PNG) and (header[25:26] in (b"\x04", b"\x06") or b"tRNS" in header)


def _decode(data: bytes, flags: int) -> GreyImages:
    try:
        # As stored: EXIF may claim a turn, which would make it an image of another size.
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise ImageError(f"expected a JPEG or PNG, got bytes starting {data[:8]!r}")
    return np.asarray(image)


def encode_png(pixels: GreyImages) -> bytes:
    """A picture for people: (H, W) grey or (H, W, 3) RGB, ``uint8``."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
