"""Decode and encode images: the one shape and value-range convention of the package.

Stored images are encoded bytes. Decoded images are luma (the Y of a JPEG), ``uint8``, (H, W) or
(N, H, W), 0 black to 255 white. Networks see ``float32`` (B, C, H, W) in [-1, 1].

Luma alone is kept because a JPEG codes it apart from colour: drawing in grey and encoding in grey
gives the very luma that drawing in colour and encoding in colour would, in half the time.
"""

import io

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from simgan_captcha.errors import ImageError

GreyImages = npt.NDArray[np.uint8]

MAX_PIXELS = 4_000_000
"""Larger images are refused before they are decoded."""

MAX_BYTES = 8_000_000
"""Larger files are refused before they are opened."""

_FORMATS = ("JPEG", "PNG")


def check_image(data: bytes, *, width: int | None = None, height: int | None = None) -> None:
    """Decode strictly and discard: raises unless ``data`` is a whole image of the stated size.

    Args:
        data: An encoded JPEG or PNG.
        width: Expected width in pixels; None takes any.
        height: Expected height in pixels; None takes any.

    Raises:
        ImageError: Not a JPEG or PNG, damaged, too large, or of another size.
    """
    if len(data) > MAX_BYTES:
        raise ImageError(f"expected at most {MAX_BYTES} bytes of image, got {len(data)}")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
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
            image.load()
    except UnidentifiedImageError:
        raise ImageError(f"expected a JPEG or PNG, got bytes starting {data[:8]!r}") from None
    except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError) as error:
        raise ImageError(f"expected a whole JPEG or PNG, got a damaged one ({error})") from None


def decode_grey(data: bytes) -> GreyImages:
    """Luma of one encoded image that `check_image` accepts, ``uint8`` (H, W).

    Raises:
        ImageError: The bytes do not decode.
    """
    if not data:
        raise ImageError("expected a JPEG or PNG, got no bytes")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ImageError(f"expected a JPEG or PNG, got bytes starting {data[:8]!r}")
    return np.asarray(image, np.uint8)


def decode_rgb(data: bytes) -> GreyImages:
    """Colours of one encoded image, ``uint8`` (H, W, 3), for showing to people.

    Raises:
        ImageError: The bytes do not decode.
    """
    check_image(data)
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        return np.asarray(image.convert("RGB"), np.uint8)


def encode_jpeg(grey: GreyImages, quality: int) -> bytes:
    """A grey image (H, W) through the real codec; ``quality`` in 1 to 100."""
    done, data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ImageError(f"cannot encode an image of shape {grey.shape}; expected (H, W)")
    return bytes(data)


def encode_png(pixels: GreyImages) -> bytes:
    """A picture for people: (H, W) grey or (H, W, 3) RGB, ``uint8``."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
