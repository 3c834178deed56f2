"""Images as a scheme has them: which are taken, and what of them all that learns or reads is given.

Shapes: H and W the scheme's height and width.
"""

import cv2
import numpy as np
import numpy.typing as npt

from simgan_captcha.data.images import check_image, decode_grey, decode_rgb
from simgan_captcha.errors import ImageError
from simgan_captcha.scheme import Scheme
from simgan_captcha.types import Floats, GreyImages

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
_OTHER = 16
"""Levels by which a colour is another one."""
_ABOUT = 0.75
"""Side of a pixel's surroundings, in image heights: most of it is background, even amid a text."""
_WIDEST = 255
"""Pixels, that a median of is to be had in time."""
_FEW = 0.01
"""Share of background in them that is too little to go by."""
_NEAR = 24
"""Levels by which a pixel of the background may differ from its commonest colour."""


def check_scheme_image(data: bytes, scheme: Scheme) -> GreyImages:
    """Raise unless ``data`` is a whole image that the scheme takes; its luma.

    Raises:
        ImageError: As `images.check_image`; of another size, where all share a picture.
    """
    if scheme.shares_picture:
        return check_image(data, width=scheme.width, height=scheme.height)
    return check_image(data)


def read_scheme_image(data: bytes, scheme: Scheme) -> GreyImages:
    """Both in one, of an image from outside: what `decode_scheme_image` gives.

    Raises:
        ImageError: As `check_scheme_image`.
    """
    luma = check_scheme_image(data, scheme)
    return luma if scheme.shares_picture else decode_scheme_image(data, scheme)


def decode_scheme_image(data: bytes, scheme: Scheme) -> GreyImages:
    """(H, W) of one encoded image that `check_scheme_image` accepts: luma, or `ink_on_black`.

    Raises:
        ImageError: The bytes do not decode.
    """
    if scheme.shares_picture:
        return decode_grey(data)
    return _ink_of(decode_rgb(data), scheme)


def pixels_of_scheme(pixels: npt.NDArray[np.uint8], scheme: Scheme) -> GreyImages:
    """As `decode_scheme_image`, of an image that is decoded already.

    Args:
        pixels: Grey levels (H, W) or RGB (H, W, 3); of any size where images share no picture.
        scheme: That it belongs to.

    Raises:
        ImageError: Other shapes or types.
    """
    own, grey = not scheme.shares_picture, pixels.ndim == 2
    size = (scheme.height, scheme.width)
    if (
        pixels.dtype != np.uint8
        or (pixels.ndim, *pixels.shape[2:]) not in ((2,), (3, 3))
        or not pixels.size
        or not (own or pixels.shape[:2] == size)
    ):
        h, w = ("h", "w") if own else size
        raise ImageError(
            f"expected grey levels ({h}, {w}) or RGB ({h}, {w}, 3) of uint8, got {pixels.shape} of "
            f"{pixels.dtype}"
        )
    if own:
        return _ink_of(np.repeat(pixels[..., None], 3, -1) if grey else pixels, scheme)
    return pixels if grey else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)


def _ink_of(rgb: GreyImages, scheme: Scheme) -> GreyImages:
    varying = scheme.background == "varying"
    return ink_on_black(rgb, scheme.width, scheme.height, varying=varying)


def ink_on_black(rgb: GreyImages, width: int, height: int, *, varying: bool = False) -> GreyImages:
    """What of an image is not its background, whatever the colours of both.

    A pixel is as bright as its colour is far from the background's, which is the image's commonest
    (the largest difference of red, green and blue counts). Strong ink has `INK` in every image, of
    letters if clutter is stronger. An image of another size is scaled to fit, its aspect kept, and
    padded with background.

    Args:
        rgb: (h, w, 3), ``uint8``.
        width: W.
        height: H.
        varying: Whether the background's colour is another from place to place: then it is that of
            what surrounds a pixel, ink left out.

    Returns:
        (H, W), ``uint8``: 0 where the background is.
    """
    rgb = fitted(rgb, width, height)
    levels = rgb.astype(np.float32)
    ground = _surroundings(rgb) if varying else _commonest_colour(rgb, levels)
    distance = np.abs(levels - ground).max(-1)
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


def fitted(rgb: GreyImages, width: int, height: int) -> GreyImages:
    """An image (h, w, 3) scaled to fit, its aspect kept."""
    scale = min(width / rgb.shape[1], height / rgb.shape[0])
    if scale == 1:
        return rgb
    size = (
        min(width, max(1, round(rgb.shape[1] * scale))),
        min(height, max(1, round(rgb.shape[0] * scale))),
    )
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgb, size, interpolation=how), np.uint8)


def uneven_share(rgb: GreyImages) -> float:
    """The share of an image (h, w, 3) about which the background has not its commonest colour."""
    commonest = _commonest_colour(rgb, rgb.astype(np.float32))
    return float((np.abs(_surroundings(rgb) - commonest).max(-1) > _OTHER).mean())


def _surroundings(rgb: GreyImages) -> Floats:
    """(h, w, 3): of each pixel the median of what is about it, twice: at first with all ink in it,
    then with what is background beside the ink in its place."""
    window = min(max(3, round(_ABOUT * min(rgb.shape[:2]))), _WIDEST) | 1
    levels = rgb.astype(np.float32)
    distance = np.abs(levels - cv2.medianBlur(rgb, window)).max(-1)
    inked = distance > _INKED * max(_strength(distance), _LEAST_INK)
    free = cv2.dilate(inked.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
    weights, spread = free.astype(np.float32), window / 4
    near = cv2.GaussianBlur(weights, (0, 0), spread)
    beside = cv2.GaussianBlur(levels * weights[..., None], (0, 0), spread)
    known = near > _FEW
    beside[known] /= near[known, None]
    # Far from all background: as at first.
    filled = np.where(free[..., None], levels, np.where(known[..., None], beside, levels))
    return np.asarray(cv2.medianBlur(np.rint(filled).astype(np.uint8), window), np.float32)


def _commonest_colour(rgb: GreyImages, levels: Floats) -> Floats:
    coarse = (rgb >> 4).astype(np.int64) @ np.array([256, 16, 1])
    commonest = levels[coarse == np.bincount(coarse.ravel(), minlength=4096).argmax()].mean(0)
    # A background whose levels lie across the border of two bins counts whole.
    return np.asarray(levels[np.abs(levels - commonest).max(-1) <= _NEAR].mean(0))
