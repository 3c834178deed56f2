"""Decodes pictures of all common formats and sources to RGB, ``uint8``.

Pillow decodes all files, so a file and a Pillow picture of the same file agree in every pixel. For
the same reason, only `luma` derives grey from RGB: the luma that a JPEG stores cannot be computed
from its decoded colours.

Shapes: H and W pixels, F frames.
"""

import base64
import binascii
import io
import os
import struct
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from simgan_captcha.data.kinds import gif_frames, is_whole, kind_in_words, kind_of, orientation
from simgan_captcha.errors import ImageError
from simgan_captcha.scheme import MAX_PIXELS
from simgan_captcha.types import GreyImages

Pixels = npt.NDArray[np.uint8]
PictureSource = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any]
"""A path or a ``data:`` URI, encoded bytes, a Pillow picture, or an array, see `from_array`."""

MAX_BYTES = 8_000_000
"""Larger files are refused before they are opened."""

UNITED = "animated: the union of its frames is read"
FIRST_PAGE = "of several pages: the first is read"
NEARLY_BLACK = "nearly black, with the lowest levels only"
"""Possible values of `Picture.notes`."""

_LUMA = np.array([9798, 19235, 3735], np.float32) / 32768
"""Shares of red, green and blue in the luma; sums of their products are exact in ``float32``."""
_DARK = 16
"""A picture without a brighter level, of 0 to 255, is nearly black; 12 of 16 bits give 15."""
_VISIBLE = 32
"""Levels by which ink must differ from white to be visible on it."""
_CLEAR = 0.5
"""Least share of transparent pixels in a picture with a transparent background."""
_ANIMATED = ("GIF", "PNG", "WEBP")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transpositions by EXIF orientation."""

_RAISED = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, EOFError,
    ArithmeticError, struct.error, RuntimeError, AssertionError, Warning,
)  # fmt: skip
"""Exceptions of decoders for damaged bytes."""

_one_at_a_time = threading.RLock()
"""Lock for Pillow pictures, which load on first use, and for catching warnings."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture."""

    rgb: Pixels
    """(H, W, 3)."""
    notes: tuple[str, ...] = ()
    """Remarks for the user."""


def luma(rgb: Pixels) -> GreyImages:
    """Grey levels (H, W) of colours (H, W, 3) by ITU-R BT.601; grey colours keep their level."""
    return np.asarray(rgb.astype(np.float32) @ _LUMA + np.float32(0.5), np.uint8)


def open_picture(
    source: PictureSource, *, width: int | None = None, height: int | None = None
) -> Picture:
    """Decode a picture from any source. Checks are strict, because sources are not trusted.

    Args:
        source: See `PictureSource`.
        width: Expected width in pixels; None for any.
        height: Expected height in pixels; None for any.

    Raises:
        ImageError: The picture is missing, damaged, too large, of another size, or of an unknown
            format.
        TypeError: The argument is not a `PictureSource`.
    """
    if isinstance(source, (str, os.PathLike)):
        source = _bytes_at(source)
    if isinstance(source, bytes):
        picture = _from_bytes(source)
    elif isinstance(source, Image.Image):
        with _one_at_a_time:
            picture = _strictly(lambda: _from_pillow(source), source.format or "picture")
    elif isinstance(source, np.ndarray):
        picture = from_array(source)
    else:
        raise TypeError(
            "expected an image as a path, bytes, a Pillow picture or an array, got "
            f"{type(source).__name__}"
        )
    found = picture.rgb.shape[1::-1]
    if (width or found[0], height or found[1]) != found:
        raise ImageError(
            f"expected an image of {width or 'any'}x{height or 'any'} pixels, "
            f"got {found[0]}x{found[1]}"
        )
    return picture


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, up to one more than `MAX_BYTES`.

    Raises:
        ImageError: There is no such file, it cannot be read, or its name is impossible.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"expected an image at {path}, found no file; correct the path") from None
    except OSError as error:
        raise ImageError(
            f"expected an image at {path}, the system refused ({error.strerror}); correct the path "
            "or make the file readable"
        ) from None
    except ValueError:
        raise ImageError(
            "expected the name of a file, got one that contains a NUL character"
        ) from None


def from_base64(text: str) -> bytes:
    """Decode strict base64, with or without the head of a ``data:`` URI.

    Raises:
        ImageError: The text is not base64.
    """
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise ImageError("expected a data: URI with base64, got one without")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ImageError("expected base64 of an image, got other text") from None


def from_array(pixels: npt.NDArray[Any]) -> Picture:
    """Convert an array to a picture.

    Args:
        pixels: (H, W) or (H, W, 1) grey, (H, W, 2) grey and alpha, (H, W, 3) RGB, (H, W, 4) RGB and
            alpha; ``uint8``, ``uint16`` of the full range, or ``bool``.

    Raises:
        ImageError: The array has another shape or type, or is too large.
    """
    channels = pixels.shape[2] if pixels.ndim == 3 else pixels.ndim == 2
    if (
        not (pixels.dtype in (np.uint8, np.bool_) or pixels.dtype.newbyteorder("=") == np.uint16)
        or channels not in (1, 2, 3, 4)
        or not pixels.size
    ):
        raise ImageError(
            "expected grey levels (h, w), RGB (h, w, 3) or RGBA (h, w, 4) of uint8, uint16 or "
            f"bool, got {pixels.shape} of {pixels.dtype}"
        )
    _check_area(pixels.shape[1], pixels.shape[0])
    levels = _of_eight_bits(pixels.reshape(*pixels.shape[:2], int(channels)))
    if channels < 3:
        levels = levels[..., [0, 0, 0, *([1] if channels == 2 else [])]]
    return _picture(_laid(levels) if levels.shape[2] == 4 else levels)


def _bytes_at(place: str | os.PathLike[str]) -> bytes:
    text = os.fspath(place)
    return from_base64(text) if text.startswith("data:") else read_bytes(Path(text))


class _JpegWithoutMetadata(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Skip this step of Pillow, which warns of damaged EXIF."""


_OPENERS: dict[str, Callable[[io.BytesIO], ImageFile]] = {
    "JPEG": _JpegWithoutMetadata,
    "PNG": PngImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "WebP": WebPImageFile,
    "TIFF": TiffImageFile,
}
"""Used instead of `Image.open`, which warns of large sizes before they can be checked."""


def _from_bytes(data: bytes) -> Picture:
    if len(data) > MAX_BYTES:
        raise ImageError(f"expected at most {MAX_BYTES} bytes of image, got more")
    kind = kind_of(data)
    if kind not in _OPENERS:
        raise ImageError(f"expected an image ({', '.join(_OPENERS)}), got {kind_in_words(kind)}")

    def decode() -> Picture:
        if kind == "GIF":  # before Pillow reads all frames
            width, height = struct.unpack_from("<HH", data, 6)
            _check_area(width * height, gif_frames(data))
        with ExitStack() as stack:
            if kind == "TIFF" or (kind == "PNG" and b"acTL" in data[:4096]):
                # Catching warnings affects all threads, so only one thread decodes such files.
                stack.enter_context(_one_at_a_time)
                stack.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("error", category=UserWarning, module="PIL")
            image = stack.enter_context(closing(_OPENERS[kind](io.BytesIO(data))))
            _check_area(*image.size)
            if not is_whole(data, kind):
                raise ValueError("truncated")
            return _from_pillow(image)

    return _strictly(decode, kind)


def _strictly(decode: Callable[[], Picture], kind: str) -> Picture:
    try:
        return decode()
    except Image.DecompressionBombError:  # raised for a GIF frame larger than the picture
        raise ImageError(f"expected at most {MAX_PIXELS} pixels, the image claims more") from None
    except _RAISED as error:
        raise _damaged(kind) from error


def _damaged(kind: str) -> ImageError:
    # The decoder's own message is left out: it differs between images, which prevents counting.
    return ImageError(f"expected a whole image, got a damaged {kind}")


def _check_area(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(f"expected at most {MAX_PIXELS} pixels, the image claims {width}x{height}")


def _from_pillow(image: Image.Image) -> Picture:
    _check_area(*image.size)
    if image.format in _ANIMATED and image.tell() == 0 and _is_animated(image):
        frames = []
        try:
            count = getattr(image, "n_frames", 1)
            _check_area(image.width * image.height, count)
            for number in range(count):
                image.seek(number)
                frames.append(_with_alpha(image))
        finally:
            image.seek(0)
        return _picture(_united(_laid(np.stack(frames))), UNITED)
    pages = image.format == "TIFF" and getattr(image, "n_frames", 1) > 1
    if image.mode.startswith("I;16"):
        numbers = np.asarray(image)[..., None].repeat(3, 2)
        clear = image.info.get("transparency")
        if isinstance(clear, int):  # the one transparent level
            alpha = np.where(numbers[..., :1] == clear, 0, 65535).astype(np.uint16)
            numbers = np.concatenate([numbers, alpha], 2)
        levels = _of_eight_bits(numbers)
        rgb = _turned(_laid(levels) if levels.shape[2] == 4 else levels, image)
    elif image.has_transparency_data:
        rgb = _turned(_laid(_with_alpha(image)), image)
    else:
        rgb = _turned(np.asarray(_as_rgb(image), np.uint8), image)
    return _picture(rgb, *([FIRST_PAGE] if pages else []))


def _is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except (ValueError, AttributeError):
        return False  # the file is closed, so only the loaded frame exists


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I":
        numbers = np.asarray(image)
        if not 0 <= numbers.min() <= numbers.max() <= 65535:
            raise ImageError("expected 8 or 16 bits a channel, got 32")
        image = Image.fromarray((numbers >> (8 if numbers.max() > 255 else 0)).astype(np.uint8))
    if image.mode in ("F", "LAB"):
        raise ImageError(f"expected grey, RGB, CMYK or a palette, got the mode {image.mode}")
    return image if image.mode == "RGB" else image.convert("RGB")


def _with_alpha(image: Image.Image) -> Pixels:
    """Convert to RGBA, (H, W, 4)."""
    if image.mode == "La":
        image = image.convert("LA")
    return np.asarray(image.convert("RGBA"), np.uint8)


def _of_eight_bits(numbers: npt.NDArray[Any]) -> Pixels:
    # Keep the upper 8 of 16 bits, as Pillow does for colours.
    if numbers.dtype == np.bool_:
        return np.asarray(numbers * np.uint8(255), np.uint8)
    return np.asarray(numbers if numbers.dtype == np.uint8 else numbers >> 8, np.uint8)


def _picture(rgb: Pixels, *notes: str) -> Picture:
    return Picture(rgb, (*notes, *([NEARLY_BLACK] if rgb.max() <= _DARK else [])))


def _laid(rgba: Pixels) -> Pixels:
    """Lay (..., H, W, 4) on white, or on black where ink would be invisible on white."""
    alpha = rgba[..., 3:].astype(np.uint16)
    strongest = int(alpha.max())
    if alpha.min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    seen = alpha[..., 0] >= max(1, (strongest + 1) // 2)
    on_nothing = bool(seen.any()) and seen.mean() <= 1 - _CLEAR
    hidden = on_nothing and np.median(255 - rgba[seen][:, :3].min(-1)) < _VISIBLE
    ground = np.uint16(0 if hidden else 255)
    return np.asarray((rgba[..., :3] * alpha + ground * (255 - alpha) + 127) // 255, np.uint8)


def _united(frames: Pixels) -> Pixels:
    """Unite frames (F, H, W, 3): each pixel takes the colour farthest from the most common one."""
    coarse = (frames >> 4).astype(np.int64) @ np.array([256, 16, 1])
    commonest = frames[coarse == np.bincount(coarse.ravel()).argmax()].mean(0)
    distance = np.abs(frames.astype(np.float32) - commonest.astype(np.float32)).max(-1)
    farthest = distance.argmax(0)[None, ..., None]
    return np.asarray(np.take_along_axis(frames, farthest, 0)[0], np.uint8)


def _turned(pixels: Pixels, image: Image.Image) -> Pixels:
    turn = _TURNS.get(orientation(image.info.get("exif")))
    return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))
