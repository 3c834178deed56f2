"""Inspects a folder of unlabelled images and proposes a scheme, for ``simgan-captcha init``.

Nothing is trained here. A run uses only the scheme, after a person has checked it.

Shapes: N images, H and W pixels.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Any

import numpy as np

from simgan_captcha.data.background import Background, estimate_background, plain_background
from simgan_captcha.data.folder import Found, find_images, read_found
from simgan_captcha.data.foreground import (
    INK,
    fitted,
    ink_colours,
    ink_on_black,
    specks,
    stretches,
    text_extent,
    uneven_share,
)
from simgan_captcha.data.kinds import in_words
from simgan_captcha.data.pictures import Pixels, luma, open_picture
from simgan_captcha.errors import ImageError
from simgan_captcha.raster import dilated
from simgan_captcha.scheme import LONGEST_TEXT, BackgroundKind, ClutterKind, Scheme, check_scheme
from simgan_captcha.types import Doubles, Mask

_LOOKED_AT = 500
_MOST_PIXELS = 50_000_000
"""Maximum number of pixels in memory; fewer images are inspected if they are large."""
_KEPT = 200
"""Maximum number of images that are kept for a recognizer."""
_ALIKE = 16
"""Maximum interquartile range of grey levels for a shared background."""
_LINED = 0.04
"""Least share of pixels under shared lines for which a background of one colour is shared."""
_DOTTED = 6
"""Least median number of specks for which images have dots."""
_UNEVEN = 0.1
"""Least `uneven_share` of a varying background. It was 0 for all plain backgrounds tested."""
_ONE_SIZE = 0.9
"""Least share of images of one size for which all count as that size."""
_LEAST_ROWS = 36
"""Least image height after scaling; the recognizer's feature map has a quarter of the rows."""
_MOST_READ_PIXELS = 15_000
"""Maximum number of pixels of an enlarged image."""
_READ_PIXELS = 5_000
"""Maximum number of pixels of images without a shared background. More pixels only cost time."""
_COLOURED = 40
"""Least difference of the strongest and weakest colour channel for coloured ink."""

Size = tuple[int, int]
"""Width and height."""


@dataclass(frozen=True)
class FirstLook:
    """The properties of the images."""

    files: int
    """Number of image files in the folder."""
    looked_at: int
    unreadable: int
    """Number of inspected images that cannot be read."""
    reasons: Counter[str]
    """Reasons why images cannot be read."""
    notes: Counter[str]
    """Counts of remarks on the inspected images, see `pictures.Picture.notes`."""
    left_out: Counter[str]
    """Ignored entries of the folder by kind."""
    sizes: Counter[Size]
    background: Background = field(repr=False)
    """Background of the images of the most common size."""
    kind: BackgroundKind
    """Kind of background, see `Scheme.background`."""
    clutter: tuple[ClutterKind, ...]
    """Probable clutter among the letters. Lines are hard to detect, so they are always assumed."""
    reading_size: Size
    """Size at which images are read. Without a shared background it may differ from their own size,
    see `_READ_PIXELS`."""
    text_height: int
    """Height of a text in pixels, at `reading_size`."""
    text_width: int
    """Width of a text in pixels, at `reading_size`."""
    coloured_ink: bool
    rows: tuple[int, int]
    """First and last of the rows that contain 90 % of the ink."""
    stretches: Counter[int]
    """Number of images by the number of separate runs of columns with ink."""
    pictures: tuple[Pixels, ...] = field(repr=False)
    """At most `_KEPT` of the images, evenly spaced."""
    names: tuple[str, ...] = field(repr=False)
    """Names of ``pictures``."""

    @property
    def size(self) -> Size:
        """The most common size."""
        return self.sizes.most_common(1)[0][0]


def look_at(place: Path, *, recursive: bool = False) -> FirstLook:
    """Inspect some images of a folder, a zip file or challenge batches, evenly spaced by name.

    Raises:
        UsageError: There are no images, or both images and batches.
        ImageError: Fewer than two images can be read, or all are identical.
    """
    found = find_images(place, recursive=recursive)
    by_size, seen = _some_pictures(found)
    sizes = Counter({size: len(images) for size, images in by_size.items()})
    if not sizes:
        raise ImageError(
            f"expected images in {place}, none of {seen.looked_at} inspected ones can be read; the "
            f"first is {seen.first}"
        )
    size, count = sizes.most_common(1)[0]
    named = by_size[size]
    shared = count >= _ONE_SIZE * sizes.total()  # images that share a picture share a size
    if not shared:
        named = [one for of_size in by_size.values() for one in of_size]
        middle = np.median(list(sizes.elements()), axis=0)
        size = round(float(middle[0])), round(float(middle[1]))
    names, pictures = zip(*named, strict=True)
    if shared:
        grey = np.stack([luma(picture) for picture in pictures])
        background = estimate_background(grey)
        darkest, low, high, lightest = np.percentile(grey, (10, 25, 75, 90), axis=0)
        one = bool(np.median(high - low) <= _ALIKE)
        shared = one and _is_picture(darkest, lightest, background.line_mask)
    kind: BackgroundKind = "shared"
    if not shared:
        size = _reading_size(size)
        scaled = [fitted(picture, *size) for picture in pictures]
        varying = bool(np.median([uneven_share(picture) for picture in scaled]) > _UNEVEN)
        kind = "varying" if varying else "plain"
        drawn = np.stack([ink_on_black(picture, *size, varying=varying) for picture in scaled])
        background = plain_background(size[1], size[0], INK)
        ink = drawn > INK / 2
    else:
        ink = background.normalise(grey)[:, 0] > 0
    return FirstLook(
        files=len(found.files) or seen.looked_at,
        looked_at=seen.looked_at,
        unreadable=seen.reasons.total(),
        reasons=seen.reasons,
        notes=seen.notes,
        left_out=found.left_out,
        sizes=sizes,
        background=background,
        kind=kind,
        reading_size=size,
        pictures=pictures[:: -(-len(pictures) // _KEPT)],
        names=names[:: -(-len(names) // _KEPT)],
        **_of_ink(ink, background, pictures, shared=shared),
    )


@dataclass
class _Seen:
    """Counts of the inspected images."""

    looked_at: int = 0
    first: str = ""
    reasons: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)


def _some_pictures(found: Found) -> tuple[dict[Size, list[tuple[str, Pixels]]], _Seen]:
    """Decode some images, and group them with their names by size."""
    by_size: dict[Size, list[tuple[str, Pixels]]] = {}
    seen, pixels = _Seen(), 0
    some = Found(found.files[:: -(-len(found.files) // _LOOKED_AT) or 1], found.batches)
    for name, data in islice(read_found(some), _LOOKED_AT):
        if pixels > _MOST_PIXELS:
            break
        seen.looked_at, seen.first = seen.looked_at + 1, seen.first or name
        try:
            if isinstance(data, ImageError):
                raise data
            picture = open_picture(data)
        except ImageError as error:
            seen.reasons[str(error)] += 1
            continue
        seen.notes.update(picture.notes)
        height, width = picture.rgb.shape[:2]
        pixels += width * height
        by_size.setdefault((width, height), []).append((name, picture.rgb))
    return by_size, seen


def _of_ink(
    ink: Mask, background: Background, pictures: Sequence[Pixels], *, shared: bool
) -> dict[str, Any]:
    """The fields of `FirstLook` that depend on the ink (N, H, W)."""
    # Letters cut by a line also leave small pieces.
    near_lines = dilated(background.line_mask)
    dotted = np.median([specks(image, near_lines) for image in ink]) >= _DOTTED
    colours = ink_colours(pictures[:50], ink)
    extents = np.median([text_extent(image) for image in ink], axis=0)
    text_width, text_height = (round(float(extent)) for extent in extents)
    shares = np.cumsum(ink.sum((0, 2))) / max(1, ink.sum())
    return {
        "clutter": (*(() if shared else ("lines",)), *(("dots",) if dotted else ())),
        "text_height": max(4, text_height),
        "text_width": max(4, text_width),
        "coloured_ink": bool(len(colours) and np.median(np.ptp(colours, axis=1)) > _COLOURED),
        "rows": (int(np.searchsorted(shares, 0.05)), int(np.searchsorted(shares, 0.95))),
        "stretches": Counter(stretches(image) for image in ink),
    }


def _is_picture(darkest: Doubles, lightest: Doubles, lines: Mask) -> bool:
    """Whether the shared background has more than one colour.

    One of the two extremes of each pixel shows the background without ink, even where letters are
    frequent. It is the lightest level if ink is dark, and the darkest if ink is light.

    Args:
        darkest: Tenth percentile of each pixel's grey levels, (H, W).
        lightest: Ninetieth percentile, (H, W).
        lines: Pixels under shared lines, (H, W).
    """
    spreads = [np.ptp(np.percentile(extreme, (5, 95))) for extreme in (darkest, lightest)]
    return bool(min(spreads) > _ALIKE or lines.mean() >= _LINED)


def _reading_size(size: Size) -> Size:
    """The size that images are scaled to: few pixels, but enough rows for the letters."""
    width, height = size
    scale = min(1.0, math.sqrt(_READ_PIXELS / (width * height)))
    if width * _LEAST_ROWS**2 <= _MOST_READ_PIXELS * height:
        scale = max(scale, _LEAST_ROWS / height)
    return max(8, round(width * scale)), max(8, round(height * scale))


def scheme_of(look: FirstLook, alphabet: str | None, lengths: tuple[int, int] | None) -> Scheme:
    """Propose a scheme.

    Args:
        look: The properties of the images.
        alphabet: The alphabet, or None for lower-case letters and digits.
        lengths: Lengths of the shortest and the longest text, or None for the most common number of
            separate runs of ink.

    Raises:
        ConfigError: The alphabet or the size is not allowed in a scheme.
    """
    guessed = min(LONGEST_TEXT, max(1, look.stretches.most_common(1)[0][0]))
    width, height = look.reading_size
    return check_scheme(
        {
            "alphabet": ascii_lowercase + digits if alphabet is None else alphabet,
            "length": lengths or guessed,
            "width": width,
            "height": height,
            "background": look.kind,
            "text_height": look.text_height,
            "text_width": look.text_width,
            "clutter": look.clutter,
        }
    )


def doubts(look: FirstLook) -> list[str]:
    """Warnings about problems of a run on these images."""
    found = []
    if look.unreadable:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in look.reasons.most_common(20))
        found.append(
            f"{look.unreadable} of {look.looked_at} images cannot be read, left out: {reasons}"
        )
    found += in_words(look.left_out, look.notes)
    if len(look.sizes) > 1 and look.kind == "shared":
        found.append(
            f"the images have {len(look.sizes)} sizes, and only those of "
            f"{look.size[0]}x{look.size[1]} are used; "
            '"plain" and "varying" backgrounds use all sizes, but no shared picture'
        )
    return found
