"""A first look at a folder of unlabelled images of an unknown family: ``simgan-captcha init``.

Nothing here is learned, and nothing of it but the size goes into a run: it tells a person what to
look at, and saves typing.

Shapes: N images, H and W pixels.
"""

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_lowercase, digits

import numpy as np
import numpy.typing as npt
from PIL import Image

from simgan_captcha.background import Background, estimate_background
from simgan_captcha.errors import ImageError, UsageError
from simgan_captcha.images import (
    MAX_BYTES,
    SUFFIXES,
    check_image,
    decode_grey,
    decode_rgb,
)
from simgan_captcha.loose_images import is_image_file
from simgan_captcha.scheme_file import check_scheme

_LOOKED_AT = 500
_MOST_PIXELS = 50_000_000
"""In all, as all are held at a time: of larger images fewer are looked at."""
_ON_SHEET = (5, 8)
"""Columns and rows of the contact sheet."""
_ALIKE = 16
"""Grey levels by which the middle half of images may differ where the background is one."""
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
    one_background: bool
    """Whether it is the same in most images."""
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
        ImageError: Fewer than two images of one size can be read, or they are all alike.
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
    encoded = by_size[sizes.most_common(1)[0][0]]
    grey = np.stack([decode_grey(data) for data in encoded])
    background = estimate_background(grey)
    ink = background.normalise(grey)[:, 0] > 0
    low, high = np.percentile(grey, (25, 75), axis=0)
    colours = np.stack([decode_rgb(data) for data in encoded[:50]])[ink[:50]].astype(np.int64)
    shares = np.cumsum(ink.sum((0, 2))) / max(1, ink.sum())
    return FirstLook(
        files=len(files),
        looked_at=len(chosen),
        unreadable=unreadable,
        sizes=sizes,
        background=background,
        one_background=bool(np.median(high - low) <= _ALIKE),
        coloured_ink=bool(len(colours) and np.median(np.ptp(colours, axis=1)) > _COLOURED),
        rows=(int(np.searchsorted(shares, 0.05)), int(np.searchsorted(shares, 0.95))),
        stretches=Counter(_stretches(image) for image in ink),
        sheet=_contact_sheet(encoded),
    )


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
        row, column = divmod(number, columns)
        top, left = row * (height + 4) + 2, column * (width + 4) + 2
        sheet[top : top + height, left : left + width] = image
    buffer = io.BytesIO()
    Image.fromarray(sheet[: -(-len(shown) // columns) * (height + 4)]).save(buffer, "PNG")
    return buffer.getvalue()


def scheme_text(
    look: FirstLook, folder: Path, name: str, alphabet: str | None, length: int | None
) -> str:
    """A scheme file with what was seen and given; what is guessed says so.

    Args:
        look: At the folder.
        folder: To be named.
        name: Of the file.
        alphabet: As given, or None for lower-case letters and digits.
        length: As given, or None for the commonest number of stretches of ink.

    Raises:
        ConfigError: An alphabet that no scheme may have, or images of such a size.
    """
    (width, height), seen = look.size, look.sizes.most_common()
    usual = ", ".join(
        f"{count} in {images / look.stretches.total():.0%}"
        for count, images in look.stretches.most_common(4)
    )
    others = look.sizes.total() - seen[0][1]
    guessed = min(64, max(1, look.stretches.most_common(1)[0][0]))
    characters = ascii_lowercase + digits if alphabet is None else alphabet
    scheme = check_scheme(
        {"alphabet": characters, "length": length or guessed, "width": width, "height": height}
    )
    # Control characters would end a comment, and TOML knows one more of them than JSON.
    where = "".join(c if c.isprintable() else "?" for c in str(folder))
    quoted = json.dumps(characters, ensure_ascii=False).replace("\x7f", "\\u007f")
    brightness = "brighter" if look.background.bright_ink else "darker"
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
        "# Characters in every text.",
        *([] if length else ["# A guess: letters that touch are seen as one."]),
        f"# Stretches of ink side by side: {usual} of the images.",
        f"length = {scheme.length}",
        "",
        "# Pixels of an image."
        + (f" {others} of {look.sizes.total()} have another size: set aside." if others else ""),
        f"width = {width}",
        f"height = {height}",
        "",
        "# Seen as well; a run finds it by itself:",
        "# - background: "
        + ("the same in all images" if look.one_background else "DIFFERS from image to image"),
        f"# - ink: {brightness} than the background, about {look.background.ink_level:.0f} of 255"
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
    if len(look.sizes) > 1:
        found.append(
            f"images of {len(look.sizes)} sizes, only those of {look.size[0]}x{look.size[1]} are "
            "taken: varying sizes are not read yet"
        )
    if not look.one_background:
        found.append(
            "the background differs from image to image: this is not learned yet, expect few texts "
            "to be read right"
        )
    return found
