"""The generator of 2017, kept for comparison as preset ``original``.

It draws binary letters of one font, rotated by at most 20 degrees. If letters touch, the text is
drawn again. The line mask is drawn over the letters. There are two deviations from the original.
The font is an open one, because this package may not distribute the original font. The step "add
noise" is missing, because it had no effect: it multiplied the image by random numbers, and then
compared it with 0.

Source: 0b01/SimGAN-Captcha, "(Dumb) Generator". All lengths are those of the original for 100x50
pixels and 4 characters. They are scaled to the scheme.
"""

import numpy as np
from PIL import Image, ImageDraw

from simgan_captcha.data.background import Background
from simgan_captcha.errors import ConfigError
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.glyphs import open_font
from simgan_captcha.simulator.simulator import check_background
from simgan_captcha.types import GreyImages, Ids, Mask

FONT = "dejavu-sans-bold"
"""Name of an open font, see `simulator.settings.BOLD_FONTS`."""
FONT_SIZE = 26
"""Font size in pixels per em, as in the original."""
ROTATION = 20.0
"""Largest rotation in degrees, in either direction, as in the original."""

MAX_DRAWINGS = 10_000
"""Largest number of attempts to draw one image. With default settings, about one attempt in nine
succeeds."""


class OriginalSimulator:
    """Draws labelled binary captchas as the system of 2017 did."""

    def __init__(
        self,
        scheme: Scheme,
        background: Background,
        *,
        rotation: float = ROTATION,
        apart: bool = True,
    ) -> None:
        """Prepare an image of every character.

        Args:
            scheme: Scheme of the captchas, with texts of one length.
            background: Background with the lines.
            rotation: Largest rotation in degrees, in either direction.
            apart: Whether texts with touching letters are drawn again, as in the original.

        Raises:
            ConfigError: The background has another size than the scheme, or the font lacks a
                character.
        """
        check_background(scheme, background)
        self.scheme, self.background = scheme, background
        self.rotation, self.apart = rotation, apart
        font = open_font(FONT, FONT_SIZE, scheme.alphabet)
        side = round(FONT_SIZE * 40 / 26)
        self._tiles = []
        for character in scheme.alphabet:
            tile = Image.new("L", (side, side))
            ImageDraw.Draw(tile).text((0, 0), character, 255, font=font)
            self._tiles.append(tile)

    def batch(self, generator: np.random.Generator, count: int) -> tuple[GreyImages, Ids]:
        """Draw images (count, H, W) ``uint8``, 0 or 255, and their class ids (count, L).

        Raises:
            ConfigError: `MAX_DRAWINGS` attempts to draw an image with separate letters failed.
        """
        images = np.empty((count, self.scheme.height, self.scheme.width), np.uint8)
        ids = np.empty((count, self.scheme.max_length), np.int64)
        for n in range(count):
            letters, ids[n] = self._draw_well_formed(generator)
            images[n] = np.where(letters | self.background.line_mask, 255, 0)
        return images, ids

    def _draw_well_formed(self, generator: np.random.Generator) -> tuple[Mask, Ids]:
        for _ in range(MAX_DRAWINGS):
            letters, ids = self._draw(generator)
            if not self.apart or len(segment(letters)) == self.scheme.max_length:
                return letters, ids
        raise ConfigError(
            f"expected letters that can be separated, {MAX_DRAWINGS} drawings of "
            f"{self.scheme.max_length} characters of {FONT_SIZE} pixels on "
            f"{self.scheme.width}x{self.scheme.height} ran together; use generator=fonts"
        )

    def _draw(self, generator: np.random.Generator) -> tuple[Mask, Ids]:
        """Draw letters that may overlap, (H, W), and return them with their class ids (L,)."""
        width, height, length = self.scheme.width, self.scheme.height, self.scheme.max_length
        ids = generator.integers(len(self._tiles), size=length)
        canvas = Image.new("1", (width, height))
        chances = generator.random((length, 4)).tolist()
        for slot, (side, turn, across, down) in enumerate(chances):
            x = int(slot * width / (length + 1)) + int(width / length * across)
            if side > 0.5:
                angle = self.rotation * (1 - turn)
                y = int(height / 2 + 0.6 * height * (down - 1))
            else:
                angle = self.rotation * (turn - 1)
                y = int(0.4 * height * down)
            letter = self._tiles[ids[slot]].rotate(angle, expand=True)
            # As in the original, PIL dithers the letter's soft edges on a canvas of single bits.
            canvas.paste(letter, (x, y), letter)
        return np.asarray(canvas), ids


def segment(letters: Mask) -> list[int]:
    """Columns (x in pixels) at which the original would cut between letters.

    A column counts as empty if it has at most one pixel more ink than the emptiest column. The cuts
    are the empty columns with a distance of at least 8 columns to the next empty column.

    Args:
        letters: Mask of the ink, (H, W).
    """
    ink = letters.sum(axis=0)
    empty = np.flatnonzero(ink < ink.min() + 2)
    return [int(x) for x in empty[:-1][np.diff(empty) >= 8]]
