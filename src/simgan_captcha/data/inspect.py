"""A first look at a folder of unlabelled images of an unknown family: ``simgan-captcha init``.

Nothing here is learned. What it sees goes into a run only as the scheme says it, which a person has
looked at.

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

import cv2
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
from simgan_captcha.scheme import BackgroundKind, ClutterKind, Scheme, check_scheme
from simgan_captcha.types import Doubles, Mask

_LOOKED_AT = 500
_MOST_PIXELS = 50_000_000
"""In all, as all are held at a time: of larger images fewer are looked at."""
_KEPT = 200
"""Images that a reader may look at after the first look."""
_ALIKE = 16
"""Grey levels by which the middle half of images may differ where the background is one."""
_LINED = 0.04
"""Share of pixels under lines that makes a background of one colour a picture."""
_DOTTED = 6
"""Specks in most images that are no accident."""
_UNEVEN = 0.1
"""Share of an image that makes a background of more than one colour, see `uneven_share`; of those
of one colour that were looked at it was 0."""
_ONE_SIZE = 0.9
"""Share of images of one size that counts as all of them."""
_LEAST_ROWS = 36
"""Rows that images are enlarged to: the recognizer's map has a quarter of them."""
_MOST_READ_PIXELS = 15_000
"""Wider images are not enlarged beyond this."""
_READ_PIXELS = 5_000
"""Of images that vary; what a text of some letters needs. Larger ones only cost more."""
_COLOURED = 40
"""Levels between the strongest and the weakest of red, green and blue, of ink that has a colour."""

Size = tuple[int, int]
"""Width and height."""


@dataclass(frozen=True)
class FirstLook:
    """What was seen."""

    files: int
    """Image files in the folder."""
    looked_at: int
    unreadable: int
    """Of those looked at."""
    reasons: Counter[str]
    """Why these cannot be read."""
    notes: Counter[str]
    """Images looked at that a person should know something of, see `pictures.Picture.notes`."""
    left_out: Counter[str]
    """Entries of the folder that are not taken, by kind."""
    sizes: Counter[Size]
    background: Background = field(repr=False)
    """Of the images of the commonest size."""
    kind: BackgroundKind
    """Of background, see `Scheme.background`."""
    clutter: tuple[ClutterKind, ...]
    """What seems to lie among the letters; lines that do are hard to see for a program."""
    reading_size: Size
    """That images are read at: their own, or smaller where they share no picture, see
    `_READ_PIXELS`."""
    text_height: int
    """Pixels from the top of a text to its foot, at `reading_size`."""
    text_width: int
    """Pixels from its left end to its right one, likewise."""
    coloured_ink: bool
    rows: tuple[int, int]
    """First and last row of those that hold nine tenths of the ink."""
    stretches: Counter[int]
    """Images by how many stretches of columns hold ink: letters that stand apart are one each."""
    pictures: tuple[Pixels, ...] = field(repr=False)
    """Some of the images, at most `_KEPT`, evenly taken."""

    @property
    def size(self) -> Size:
        """The commonest."""
        return self.sizes.most_common(1)[0][0]


def look_at(place: Path, *, recursive: bool = False) -> FirstLook:
    """Look at some images of a folder, a zip file or challenge batches, evenly taken by name.

    Raises:
        UsageError: No images there, or both images and batches.
        ImageError: Fewer than two images can be read, or they are all alike.
    """
    found = find_images(place, recursive=recursive)
    by_size, seen = _some_pictures(found)
    sizes = Counter({size: len(images) for size, images in by_size.items()})
    if not sizes:
        raise ImageError(
            f"expected images in {place}, none of {seen.looked_at} looked at can be read; the "
            f"first is {seen.first}"
        )
    size, count = sizes.most_common(1)[0]
    pictures = by_size[size]
    shared = count >= _ONE_SIZE * sizes.total()  # images that share a picture share a size
    if not shared:
        pictures = [picture for of_size in by_size.values() for picture in of_size]
        middle = np.median(list(sizes.elements()), axis=0)
        size = round(float(middle[0])), round(float(middle[1]))
    else:
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
        pictures=tuple(pictures[:: -(-len(pictures) // _KEPT)]),
        **_of_ink(ink, background, pictures, shared=shared),
    )


@dataclass
class _Seen:
    """What became of the images that were looked at."""

    looked_at: int = 0
    first: str = ""
    reasons: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)


def _some_pictures(found: Found) -> tuple[dict[Size, list[Pixels]], _Seen]:
    """Some images, decoded, by their sizes."""
    by_size: dict[Size, list[Pixels]] = {}
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
        by_size.setdefault((width, height), []).append(picture.rgb)
    return by_size, seen


def _of_ink(
    ink: Mask, background: Background, pictures: Sequence[Pixels], *, shared: bool
) -> dict[str, Any]:
    """What `FirstLook` says of ink (N, H, W)."""
    # A letter that a line cuts leaves pieces, too.
    near_lines = cv2.dilate(background.line_mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
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
    """Whether the background of all images is more than one colour.

    One of the two extremes of each pixel shows it without ink, even where letters often stand: the
    lightest if ink is dark, the darkest if ink is light.

    Args:
        darkest: (H, W) the tenth percentile of each pixel's grey levels.
        lightest: (H, W) the ninetieth.
        lines: (H, W) pixels under lines that all images share.
    """
    spreads = [np.ptp(np.percentile(extreme, (5, 95))) for extreme in (darkest, lightest)]
    return bool(min(spreads) > _ALIKE or lines.mean() >= _LINED)


def _reading_size(size: Size) -> Size:
    """The size that images are scaled to: few pixels, but letters of enough rows."""
    width, height = size
    scale = min(1.0, math.sqrt(_READ_PIXELS / (width * height)))
    if width * _LEAST_ROWS**2 <= _MOST_READ_PIXELS * height:
        scale = max(scale, _LEAST_ROWS / height)
    return max(8, round(width * scale)), max(8, round(height * scale))


def scheme_of(look: FirstLook, alphabet: str | None, lengths: tuple[int, int] | None) -> Scheme:
    """The scheme that follows from what was seen and given.

    Args:
        look: At the folder.
        alphabet: As given, or None for lower-case letters and digits.
        lengths: Of the shortest and the longest text, as given, or None for the commonest number of
            stretches of ink.

    Raises:
        ConfigError: An alphabet that no scheme may have, or images of such a size.
    """
    guessed = min(64, max(1, look.stretches.most_common(1)[0][0]))
    shortest, longest = lengths or (guessed, guessed)
    width, height = look.reading_size
    return check_scheme(
        {
            "alphabet": ascii_lowercase + digits if alphabet is None else alphabet,
            "length": longest,
            "shortest": shortest if shortest < longest else None,
            "width": width,
            "height": height,
            "background": look.kind,
            "text_height": look.text_height,
            "text_width": look.text_width,
            "clutter": look.clutter,
        }
    )


def doubts(look: FirstLook) -> list[str]:
    """What will go wrong with a run on these images, in words."""
    found = []
    if look.unreadable:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in look.reasons.most_common(20))
        found.append(
            f"{look.unreadable} of {look.looked_at} images cannot be read, set aside: {reasons}"
        )
    found += in_words(look.left_out, look.notes)
    if len(look.sizes) > 1 and look.kind == "shared":
        found.append(
            f"images of {len(look.sizes)} sizes, only those of {look.size[0]}x{look.size[1]} are "
            'taken; "plain" and "varying" backgrounds take all, but no picture that they share'
        )
    return found
