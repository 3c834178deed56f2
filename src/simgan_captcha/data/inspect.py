"""A first look at a folder of unlabelled images of an unknown family: ``simgan-captcha init``.

Nothing here is learned. What it sees goes into a run only as the scheme says it, which a person has
looked at.

Shapes: N images, H and W pixels.
"""

import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_lowercase, digits

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from simgan_captcha.data.background import Background, estimate_background, plain_background
from simgan_captcha.data.folder import is_image_file
from simgan_captcha.data.foreground import INK, fitted, ink_on_black, uneven_share
from simgan_captcha.data.images import MAX_BYTES, SUFFIXES, check_image, decode_grey, decode_rgb
from simgan_captcha.errors import ImageError, UsageError
from simgan_captcha.scheme import BackgroundKind, ClutterKind, Scheme, check_scheme
from simgan_captcha.types import GreyImages

_LOOKED_AT = 500
_MOST_PIXELS = 50_000_000
"""In all, as all are held at a time: of larger images fewer are looked at."""
_ON_SHEET = (5, 8)
"""Columns and rows of the contact sheet."""
_ALIKE = 16
"""Grey levels by which the middle half of images may differ where the background is one."""
_LINED = 0.04
"""Share of pixels under lines that makes a background of one colour a picture."""
_SPECK = 0.08
"""Of the image's height."""
_DOTTED = 6
"""Specks in most images that are no accident."""
_UNEVEN = 0.1
"""Share of an image that makes a background of more than one colour, see `uneven_share`; of those
of one colour that were looked at it was 0."""
_ONE_SIZE = 0.9
"""Share of images of one size that counts as all of them."""
_READ_PIXELS = 5_000
"""Of images that vary; what a text of some letters needs. Larger ones only cost more."""
_LARGE = 0.25
"""Of the image's height: what is lower is a dot or a speck."""
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
    sheet: bytes = field(repr=False)
    """PNG of some of the images."""

    @property
    def size(self) -> Size:
        """The commonest."""
        return self.sizes.most_common(1)[0][0]


def look_at(folder: Path) -> FirstLook:
    """Look at some images of a folder, evenly taken by name.

    Raises:
        UsageError: No folder, or no images in it.
        ImageError: Fewer than two images can be read, or they are all alike.
    """
    if not folder.is_dir():
        raise UsageError(f"expected a folder of images, got {folder}; correct the path")
    files = sorted(path for path in folder.iterdir() if is_image_file(path))
    if not files:
        raise UsageError(
            f"expected images ({', '.join(SUFFIXES)}) in {folder}, found none; name the folder "
            "that holds them"
        )
    chosen = files[:: -(-len(files) // _LOOKED_AT)]
    by_size: dict[Size, list[bytes]] = {}
    unreadable = pixels = 0
    for number, path in enumerate(chosen):
        if pixels > _MOST_PIXELS:
            chosen = chosen[:number]
            break
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
            check_image(data)
        except (OSError, ImageError):
            unreadable += 1
            continue
        height, width = decode_grey(data).shape
        pixels += width * height
        by_size.setdefault((width, height), []).append(data)
    sizes = Counter({size: len(images) for size, images in by_size.items()})
    if not sizes:
        raise ImageError(
            f"expected images in {folder}, none of {len(chosen)} looked at can be read; the first "
            f"is {chosen[0].name}"
        )
    size, count = sizes.most_common(1)[0]
    encoded = by_size[size]
    shared = count >= _ONE_SIZE * sizes.total()  # images that share a picture share a size
    if not shared:
        encoded = [data for images in by_size.values() for data in images]
        middle = np.median(list(sizes.elements()), axis=0)
        size = round(float(middle[0])), round(float(middle[1]))
    else:
        grey = np.stack([decode_grey(data) for data in encoded])
        background = estimate_background(grey)
        low, high = np.percentile(grey, (25, 75), axis=0)
        shared = _is_picture(background, one=bool(np.median(high - low) <= _ALIKE))
    kind: BackgroundKind = "shared"
    if not shared:
        size = _reading_size(size)
        pictures = [fitted(decode_rgb(data), *size) for data in encoded]
        varying = bool(np.median([uneven_share(picture) for picture in pictures]) > _UNEVEN)
        kind = "varying" if varying else "plain"
        drawn = np.stack([ink_on_black(picture, *size, varying=varying) for picture in pictures])
        background = plain_background(size[1], size[0], INK)
        ink = drawn > INK / 2
    else:
        ink = background.normalise(grey)[:, 0] > 0
    # A letter that a line cuts leaves pieces, too.
    beside = cv2.dilate(background.line_mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    dotted = np.median([_specks(image, beside) for image in ink]) >= _DOTTED
    colours = _ink_colours([decode_rgb(data) for data in encoded[:50]], ink)
    extents = np.median([_text_extent(image) for image in ink], axis=0)
    text_width, text_height = (round(float(extent)) for extent in extents)
    shares = np.cumsum(ink.sum((0, 2))) / max(1, ink.sum())
    return FirstLook(
        files=len(files),
        looked_at=len(chosen),
        unreadable=unreadable,
        sizes=sizes,
        background=background,
        kind=kind,
        clutter=(*(() if shared else ("lines",)), *(("dots",) if dotted else ())),
        reading_size=size,
        text_height=max(4, text_height),
        text_width=max(4, text_width),
        coloured_ink=bool(len(colours) and np.median(np.ptp(colours, axis=1)) > _COLOURED),
        rows=(int(np.searchsorted(shares, 0.05)), int(np.searchsorted(shares, 0.95))),
        stretches=Counter(_stretches(image) for image in ink),
        sheet=_contact_sheet(encoded),
    )


def _is_picture(background: Background, *, one: bool) -> bool:
    """Whether it is more than a colour; ``one``: whether it is the same in most images."""
    low, high = np.percentile(background.grey, (5, 95))
    return one and bool(high - low > _ALIKE or background.line_mask.mean() >= _LINED)


def _ink_colours(images: Sequence[GreyImages], ink: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """(n, 3) RGB of the pixels (H, W) that are ink, of images of any size."""
    size = (ink.shape[2], ink.shape[1])
    resized = np.stack([cv2.resize(image, size) for image in images])
    return np.asarray(resized[ink[: len(images)]], np.int64)


def _specks(ink: npt.NDArray[np.bool_], beside: npt.NDArray[np.bool_]) -> int:
    """Pieces of ink (H, W) that are too small for a letter or its dot, none ``beside`` a line."""
    count, of_piece, pieces, _ = cv2.connectedComponentsWithStats(ink.astype(np.uint8))
    cut = np.isin(np.arange(count), of_piece[beside])
    small = pieces[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(1) < _SPECK * len(ink)
    return int((small & ~cut)[1:].sum())


def _reading_size(size: Size) -> Size:
    scale = min(1.0, math.sqrt(_READ_PIXELS / (size[0] * size[1])))
    return max(8, round(size[0] * scale)), max(8, round(size[1] * scale))


def _text_extent(ink: npt.NDArray[np.bool_]) -> Size:
    """Columns and rows from one end of the large pieces of ink (H, W) to the other."""
    _, _, pieces, _ = cv2.connectedComponentsWithStats(ink.astype(np.uint8))
    large = pieces[1:][pieces[1:, cv2.CC_STAT_HEIGHT] >= _LARGE * len(ink)]
    if not len(large):
        return ink.shape[1], ink.shape[0]
    begin = large[:, [cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP]]
    end = begin + large[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]]
    columns, rows = (end.max(0) - begin.min(0)).tolist()
    return columns, rows


def _stretches(ink: npt.NDArray[np.bool_]) -> int:
    # Two pixels are more than the specks that a codec leaves.
    columns = np.concatenate([[False], ink.sum(0) >= 2])
    return int((columns[1:] & ~columns[:-1]).sum())


def _contact_sheet(encoded: Sequence[bytes]) -> bytes:
    columns, rows = _ON_SHEET
    shown = [decode_rgb(data) for data in encoded[:: -(-len(encoded) // (columns * rows))]]
    height, width = shown[0].shape[:2]
    sheet = np.full((rows * (height + 4), columns * (width + 4), 3), 255, np.uint8)
    for number, image in enumerate(shown):
        image = cv2.resize(image, (width, height))
        row, column = divmod(number, columns)
        top, left = row * (height + 4) + 2, column * (width + 4) + 2
        sheet[top : top + height, left : left + width] = image
    buffer = io.BytesIO()
    Image.fromarray(sheet[: -(-len(shown) // columns) * (height + 4)]).save(buffer, "PNG")
    return buffer.getvalue()


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


def scheme_text(
    look: FirstLook,
    folder: Path,
    name: str,
    alphabet: str | None,
    lengths: tuple[int, int] | None,
) -> str:
    """A scheme file with what was seen and given; what is guessed says so.

    Args:
        look: At the folder.
        folder: To be named.
        name: Of the file.
        alphabet: As given, or None for lower-case letters and digits.
        lengths: Of the shortest and the longest text, as given, or None for the commonest number of
            stretches of ink.

    Raises:
        ConfigError: An alphabet that no scheme may have, or images of such a size.
    """
    (width, height), seen = look.reading_size, look.sizes.most_common()
    usual = ", ".join(
        f"{count} in {images / look.stretches.total():.0%}"
        for count, images in look.stretches.most_common(4)
    )
    others = look.sizes.total() - seen[0][1]
    scheme = scheme_of(look, alphabet, lengths)
    # Control characters would end a comment, and TOML knows one more of them than JSON.
    where = "".join(c if c.isprintable() else "?" for c in str(folder))
    quoted = json.dumps(scheme.alphabet, ensure_ascii=False).replace("\x7f", "\\u007f")
    brightness = "brighter" if look.background.bright_ink else "darker"
    shared = look.kind == "shared"
    ink = f"{brightness} than the background" if shared else "as far from it"
    fate = "set aside" if shared else "scaled"
    lines = [
        f"# A scheme for simgan-captcha, from {look.looked_at:,} of the {look.files:,} images in",
        f"# {where}. Look at {Path(name).stem}.png, correct what is wrong here, then:",
        "#",
        f"#   simgan-captcha run RUN --scheme {name} --images {where}",
        "",
        "# Every character that a text may hold, each once.",
        *(
            []
            if alphabet is not None
            else ["# A guess: leave out what never occurs, add what does."]
        ),
        f"alphabet = {quoted}",
        "",
        '# Characters that look the same and count as one, as in ["o0", "1lI"]: the first of each',
        "# stands in the alphabet and is read for all, the others do not.",
        "alike = []",
        "",
        "# Characters in every text; where their number varies, in the longest and the shortest.",
        *([] if lengths else ["# A guess: letters that touch are seen as one."]),
        f"# Stretches of ink side by side: {usual} of the images.",
        f"length = {scheme.length}",
        f"shortest = {scheme.shortest}" if scheme.shortest else "# shortest =",
        "",
        "# Pixels that an image is read at."
        + (f" {others} of {look.sizes.total()} have another size: {fate}." if others else ""),
        f"width = {width}",
        f"height = {height}",
        "",
        "# shared: all images have one picture behind the text, and one size. plain: behind it",
        "# is one colour, each image's own or that of all; any size is scaled to fit. varying:",
        "# likewise, but colours run into each other (gradients, clouds) or lie side by side.",
        f'background = "{scheme.background}"',
        "",
        "# Pixels from the top of a text to its foot, about, at that size.",
        f"text_height = {scheme.text_height}",
        "",
        "# And from its left end to its right one; where lengths vary, of one of middle length.",
        f"text_width = {scheme.text_width}",
        "",
        "# Nothing here can see these two, and each may cost accuracy where it is not so: look at",
        "# the images. Whether texts stand on waves that bend their letters; whether they are of",
        "# different fonts.",
        "waves = false",
        "several_fonts = false",
        "",
        "# Elsewhere in every image, among the letters: lines (straight or curved), dots, texture",
        "# (a grain about as fine as strokes). A guess: look at the images, leave out what they do",
        "# not have, add what they do.",
        f"clutter = {json.dumps(scheme.clutter)}",
        "",
        "# Seen as well; a run finds it by itself:",
        f"# - ink: {ink}, about {look.background.ink_level:.0f} of 255"
        + (", coloured" if look.coloured_ink else ""),
        f"# - text: rows {look.rows[0]} to {look.rows[1]}",
        f"# - lines that all images share: {look.background.line_mask.mean():.1%} of the pixels",
    ]
    return "\n".join([*lines, ""])


def doubts(look: FirstLook) -> list[str]:
    """What will go wrong with a run on these images, in words."""
    found = []
    if look.unreadable:
        found.append(f"{look.unreadable} of {look.looked_at} images cannot be read: set aside")
    if len(look.sizes) > 1 and look.kind == "shared":
        found.append(
            f"images of {len(look.sizes)} sizes, only those of {look.size[0]}x{look.size[1]} are "
            'taken; "plain" and "varying" backgrounds take all, but no picture that they share'
        )
    return found
