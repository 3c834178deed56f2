"""Images as a scheme has them: which are taken, and what of them all that learns or reads is given.

Shapes: H and W the scheme's height and width.
"""

import cv2
import numpy as np
import numpy.typing as npt

from simgan_captcha.errors import ImageError
from simgan_captcha.images import GreyImages, check_image, decode_grey, decode_rgb
from simgan_captcha.scheme import Scheme

Floats = npt.NDArray[np.float32]

INK = 200
"""Grey level that an image's strongest ink has in `ink_on_black`, see there."""

_STRONGEST = 98
"""Percentile of a pixel's distance from the background that is taken for an image's ink."""
_INKED = 0.2
"""Of that distance: what is further is ink, more or less."""
_LARGE = 0.15
"""Side of a square, in image heights, that is smaller than a letter and larger than a dot."""
_OF_LETTERS = 75
"""Percentile of the distance in what is large, of which letters are the most..."""
_STRONGER = 1.25
"""...and by which dots and lines may be stronger before letters set the measure."""
_LEAST_INK = 32
"""Levels; weaker ink is not made stronger, or noise would be."""
_NEAR = 24
"""Levels by which a pixel of the background may differ from its commonest colour."""


def check_scheme_image(data: bytes, scheme: Scheme) -> GreyImages:
    """Raise unless ``data`` is a whole image that the scheme takes; its luma.

    Raises:
        ImageError: As `images.check_image`; of another size, unless the background is plain.
    """
    if scheme.background == "plain":
        return check_image(data)
    return check_image(data, width=scheme.width, height=scheme.height)


def read_scheme_image(data: bytes, scheme: Scheme) -> GreyImages:
    """Both in one, of an image from outside: what `decode_scheme_image` gives.

    Raises:
        ImageError: As `check_scheme_image`.
    """
    luma = check_scheme_image(data, scheme)
    return decode_scheme_image(data, scheme) if scheme.background == "plain" else luma


def decode_scheme_image(data: bytes, scheme: Scheme) -> GreyImages:
    """(H, W) of one encoded image that `check_scheme_image` accepts: luma, or `ink_on_black`.

    Raises:
        ImageError: The bytes do not decode.
    """
    if scheme.background == "plain":
        return ink_on_black(decode_rgb(data), scheme.width, scheme.height)
    return decode_grey(data)


def pixels_of_scheme(pixels: npt.NDArray[np.uint8], scheme: Scheme) -> GreyImages:
    """As `decode_scheme_image`, of an image that is decoded already.

    Args:
        pixels: Grey levels (H, W) or RGB (H, W, 3); of any size where the background is plain.
        scheme: That it belongs to.

    Raises:
        ImageError: Other shapes or types.
    """
    plain, grey = scheme.background == "plain", pixels.ndim == 2
    size = (scheme.height, scheme.width)
    if (
        pixels.dtype != np.uint8
        or (pixels.ndim, *pixels.shape[2:]) not in ((2,), (3, 3))
        or not pixels.size
        or not (plain or pixels.shape[:2] == size)
    ):
        h, w = ("h", "w") if plain else size
        raise ImageError(
            f"expected grey levels ({h}, {w}) or RGB ({h}, {w}, 3) of uint8, got {pixels.shape} of "
            f"{pixels.dtype}"
        )
    if plain:
        rgb = np.repeat(pixels[..., None], 3, -1) if grey else pixels
        return ink_on_black(rgb, scheme.width, scheme.height)
    return pixels if grey else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)


def ink_on_black(rgb: GreyImages, width: int, height: int) -> GreyImages:
    """What of an image is not its background, whatever the colours of both.

    A pixel is as bright as its colour is far from the commonest one (the largest difference of red,
    green and blue), and strong ink has `INK` in every image, of letters if clutter is stronger. An
    image of another size is scaled to fit, its aspect kept, and padded with background.

    Args:
        rgb: (h, w, 3), ``uint8``.
        width: W.
        height: H.

    Returns:
        (H, W), ``uint8``: 0 where the background is.
    """
    scale = min(width / rgb.shape[1], height / rgb.shape[0])
    if scale != 1:
        size = (
            min(width, max(1, round(rgb.shape[1] * scale))),
            min(height, max(1, round(rgb.shape[0] * scale))),
        )
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=how), np.uint8)
    levels = rgb.astype(np.float32)
    distance = np.abs(levels - _commonest_colour(rgb, levels)).max(-1)
    strongest = max(_strength(distance), _LEAST_INK)
    ink = np.minimum(np.rint(distance * (INK / strongest)), 255).astype(np.uint8)
    top, left = (height - ink.shape[0]) // 2, (width - ink.shape[1]) // 2
    padded = np.zeros((height, width), np.uint8)
    padded[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return padded


def _strength(distance: Floats) -> float:
    """Of ink, in levels: pale letters among dark dots are not to stay pale."""
    strongest = float(np.percentile(distance, _STRONGEST))
    inked = (distance > _INKED * strongest).astype(np.uint8)
    _, whose, figures, _ = cv2.connectedComponentsWithStats(inked, connectivity=8)
    large = figures[:, cv2.CC_STAT_AREA] >= (_LARGE * len(distance)) ** 2
    large[0] = False  # what is not inked
    letters = distance[large[whose]]
    if not letters.size:
        return strongest
    return min(strongest, _STRONGER * float(np.percentile(letters, _OF_LETTERS)))


def _commonest_colour(rgb: GreyImages, levels: Floats) -> Floats:
    coarse = (rgb >> 4).astype(np.int64) @ np.array([256, 16, 1])
    commonest = levels[coarse == np.bincount(coarse.ravel(), minlength=4096).argmax()].mean(0)
    # A background whose levels lie across the border of two bins counts whole.
    return np.asarray(levels[np.abs(levels - commonest).max(-1) <= _NEAR].mean(0))
