"""Check images against a scheme and convert them to the single channel that networks use.

Shapes: H and W are the height and width of the scheme.
"""

from collections.abc import Sequence

import numpy as np

from simgan_captcha.data.pictures import Picture, PictureSource, Pixels, luma, open_picture
from simgan_captcha.raster import blurred, dilated, moving_median, pieces, resized
from simgan_captcha.scheme import Scheme
from simgan_captcha.types import Floats, GreyImages, Ids, Mask

INK = 200
"""Grey level of the strongest ink of an image in `ink_on_black`."""

_STRONGEST = 98
"""Percentile of the colour distances from the background that counts as strongest ink."""
_INKED = 0.2
"""Share of that distance above which a pixel counts as ink."""
_LARGE = 0.15
"""Side of a square, in image heights, that is smaller than a letter and larger than a dot."""
_OF_LETTERS = 75
"""Percentile of the distances within large components, which are mostly letters."""
_STRONGER = 1.25
"""Ratio by which dots and lines may exceed letters before letters determine the scale."""
_LEAST_INK = 32
"""Least ink in levels; weaker ink is not amplified, because noise would be too."""
_OTHER = 16
"""Difference in levels from which two colours count as different."""
_ABOUT = 0.75
"""Window side in image heights; most of the window is background, even within a text."""
_WIDEST = 255
"""Greatest window side in pixels, which bounds the time of the median."""
_FEW = 0.01
"""Share of background in a window that is too small to use."""
_NEAR = 24
"""Levels by which background pixels may differ from the most frequent colour."""
_SPECK = 0.08
"""Height and width of the largest speck, in image heights."""
_LETTER = 0.25
"""Least height of a letter in image heights; lower components are dots or specks."""


def open_scheme_image(source: PictureSource, scheme: Scheme) -> Picture:
    """Decode a picture from any source if it fits the scheme.

    Raises:
        ImageError: See `pictures.open_picture`; or the size is wrong for a shared background.
        TypeError: Not a source.
    """
    if scheme.shares_picture:
        return open_picture(source, width=scheme.width, height=scheme.height)
    return open_picture(source)


def decode_scheme_image(source: PictureSource, scheme: Scheme) -> GreyImages:
    """Decode a picture from any source to (H, W): luma, or `ink_on_black`.

    Raises:
        ImageError: See `open_scheme_image`.
        TypeError: Not a source.
    """
    return pixels_of_scheme(open_scheme_image(source, scheme).rgb, scheme)


def pixels_of_scheme(rgb: Pixels, scheme: Scheme) -> GreyImages:
    """Convert the colours (h, w, 3) that `open_scheme_image` gives to (H, W)."""
    return luma(rgb) if scheme.shares_picture else _ink_of(rgb, scheme)


def _ink_of(rgb: GreyImages, scheme: Scheme) -> GreyImages:
    varying = scheme.background == "varying"
    return ink_on_black(rgb, scheme.width, scheme.height, varying=varying)


def ink_on_black(rgb: GreyImages, width: int, height: int, *, varying: bool = False) -> GreyImages:
    """Convert an image of any colours to ink on black.

    The brightness of a pixel is the distance of its colour from the background: the largest
    difference in red, green and blue. The background is the most frequent colour of the image.
    Distances are scaled so that strong ink has the level `INK`; letters determine the scale if
    clutter is stronger. Other sizes are scaled to fit, keep their aspect, and are padded.

    Args:
        rgb: (h, w, 3), ``uint8``.
        width: W.
        height: H.
        varying: Whether the background changes within the image. It is then estimated from the
            surroundings of each pixel, without ink.

    Returns:
        (H, W), ``uint8``; 0 is background.
    """
    rgb = fitted(rgb, width, height)
    levels = rgb.astype(np.float32)
    ground = _surroundings(rgb) if varying else _commonest_colour(rgb, levels)
    distance = _difference(levels, ground)
    strongest = max(_strength(distance), _LEAST_INK)
    ink = np.minimum(np.rint(distance * (INK / strongest)), 255).astype(np.uint8)
    top, left = (height - ink.shape[0]) // 2, (width - ink.shape[1]) // 2
    padded = np.zeros((height, width), np.uint8)
    padded[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return padded


def _strength(distance: Floats) -> float:
    """Strength of the ink in levels, chosen so that pale letters among dark dots are amplified."""
    strongest = float(np.percentile(distance, _STRONGEST))
    inked = distance > _INKED * strongest
    found = pieces(inked)
    large = found.area >= (_LARGE * len(distance)) ** 2
    letters = distance[inked][large[found.piece]]
    if not letters.size:
        return strongest
    return min(strongest, _STRONGER * float(np.percentile(letters, _OF_LETTERS)))


def fitted(rgb: GreyImages, width: int, height: int) -> GreyImages:
    """Scale an image (h, w, 3) to fit, and keep its aspect ratio."""
    scale = min(width / rgb.shape[1], height / rgb.shape[0])
    if scale == 1:
        return rgb
    size = (
        min(width, max(1, round(rgb.shape[1] * scale))),
        min(height, max(1, round(rgb.shape[0] * scale))),
    )
    return resized(rgb, *size)


def uneven_share(rgb: GreyImages) -> float:
    """Share of an image (h, w, 3) where the background differs from the most frequent colour."""
    commonest = _commonest_colour(rgb, rgb.astype(np.float32))
    return float((_difference(_surroundings(rgb), commonest) > _OTHER).mean())


def _surroundings(rgb: GreyImages) -> Floats:
    """Estimate the background (h, w, 3) as a moving median, in two passes.

    The first pass includes ink. The second replaces ink by the weighted mean of the background
    near it.
    """
    window = min(max(3, round(_ABOUT * min(rgb.shape[:2]))), _WIDEST) | 1
    levels = rgb.astype(np.float32)
    distance = _difference(levels, moving_median(rgb, window))
    inked = distance > _INKED * max(_strength(distance), _LEAST_INK)
    free = ~dilated(inked)
    weights, spread = free.astype(np.float32), window / 4
    near = blurred(weights, spread)
    nearby = blurred(levels * weights[..., None], spread)
    known = near > _FEW
    nearby[known] /= near[known, None]
    # Far from any background, the first estimate stays.
    filled = np.where(free[..., None], levels, np.where(known[..., None], nearby, levels))
    return moving_median(np.rint(filled).astype(np.uint8), window).astype(np.float32)


def _commonest_colour(rgb: GreyImages, levels: Floats) -> Floats:
    coarse = (rgb >> 4).astype(np.int64) @ np.array([256, 16, 1])
    commonest = levels[coarse == np.bincount(coarse.ravel(), minlength=4096).argmax()].mean(0)
    # A background may lie across the border of two bins.
    return np.asarray(levels[_difference(levels, commonest) <= _NEAR].mean(0))


def _difference(one: Floats, other: Floats | Pixels) -> Floats:
    """Largest difference (h, w) in red, green and blue."""
    red, green, blue = np.moveaxis(np.abs(one - other), -1, 0)
    return np.asarray(np.maximum(np.maximum(red, green), blue), np.float32)


def ink_colours(images: Sequence[Pixels], ink: Mask) -> Ids:
    """(n, 3) RGB of the pixels (H, W) that are ink, of images of any size."""
    size = (ink.shape[2], ink.shape[1])
    scaled = np.stack([resized(image, *size) for image in images])
    return np.asarray(scaled[ink[: len(images)]], np.int64)


def specks(ink: Mask, near_lines: Mask) -> int:
    """Number of pieces of ink (H, W) that are too small for a letter or its dot.

    Pieces near a line do not count.
    """
    found = pieces(ink)
    small = np.maximum(found.right - found.left, found.bottom - found.top) < _SPECK * len(ink)
    small[found.piece[near_lines[ink]]] = False
    return int(small.sum())


def text_extent(ink: Mask) -> tuple[int, int]:
    """Width and height of the box around the large pieces of ink (H, W)."""
    found = pieces(ink)
    large = found.bottom - found.top >= _LETTER * len(ink)
    if not large.any():
        return ink.shape[1], ink.shape[0]
    columns = found.right[large].max() - found.left[large].min()
    return int(columns), int(found.bottom[large].max() - found.top[large].min())


def stretches(ink: Mask) -> int:
    """Number of separate runs of columns with ink (H, W); isolated letters are one each."""
    # A column needs two pixels, because a codec can leave single specks.
    columns = np.concatenate([[False], ink.sum(0) >= 2])
    return int((columns[1:] & ~columns[:-1]).sum())
