"""The 2017 project's own generator, kept for comparison as preset ``original``.

Binary letters of one font, turned by at most 20 degrees; drawings whose letters run together are
drawn again; the line mask is laid over them. Two things differ from the original: its font is not
ours to give, so an open one takes its place; and its "add noise" is left out, which multiplied by
random numbers and then asked what is above 0, so that nothing changed.

Source: 0b01/SimGAN-Captcha, "(Dumb) Generator". All lengths are the original's for 100x50 pixels
and 4 characters, and grow with the scheme.
"""

import numpy as np
from PIL import Image, ImageDraw

from simgan_captcha.data.background import Background
from simgan_captcha.errors import ConfigError
from simgan_captcha.original.settings import OriginalSimulatorSettings
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.glyphs import open_font
from simgan_captcha.simulator.simulator import check_background
from simgan_captcha.types import GreyImages, Ids, Mask

MAX_DRAWINGS = 10_000
"""Drawings tried for one image; of the default settings about one in nine will do."""


class OriginalSimulator:
    """Draws labelled binary captchas as the 2017 project did."""

    def __init__(
        self, scheme: Scheme, settings: OriginalSimulatorSettings, background: Background
    ) -> None:
        """Draw every character once.

        Raises:
            ConfigError: The background has another size than the scheme, or the font does not
                serve.
        """
        check_background(scheme, background)
        self.scheme, self.settings, self.background = scheme, settings, background
        font = open_font(settings.font, settings.font_size, scheme.alphabet)
        side = round(settings.font_size * 40 / 26)
        self._tiles = []
        for character in scheme.alphabet:
            tile = Image.new("L", (side, side))
            ImageDraw.Draw(tile).text((0, 0), character, 255, font=font)
            self._tiles.append(tile)

    def batch(self, generator: np.random.Generator, count: int) -> tuple[GreyImages, Ids]:
        """Well-formed images (count, H, W) ``uint8``, 0 or 255, and their class ids (count, L).

        Raises:
            ConfigError: The settings hardly ever give a well-formed image.
        """
        images = np.empty((count, self.scheme.height, self.scheme.width), np.uint8)
        ids = np.empty((count, self.scheme.length), np.int64)
        for n in range(count):
            letters, ids[n] = self._draw_well_formed(generator)
            images[n] = np.where(letters | self.background.line_mask, 255, 0)
        return images, ids

    def _draw_well_formed(self, generator: np.random.Generator) -> tuple[Mask, Ids]:
        for _ in range(MAX_DRAWINGS):
            letters, ids = self._draw(generator)
            if not self.settings.apart or len(segment(letters)) == self.scheme.length:
                return letters, ids
        raise ConfigError(
            f"expected letters that can be told apart, {MAX_DRAWINGS} drawings of "
            f"{self.scheme.length} characters of {self.settings.font_size} pixels on "
            f"{self.scheme.width}x{self.scheme.height} ran together; set another "
            "original_simulator.font_size or use generator=fonts"
        )

    def _draw(self, generator: np.random.Generator) -> tuple[Mask, Ids]:
        """Letters that may overlap, (H, W), and their class ids (L,)."""
        width, height, length = self.scheme.width, self.scheme.height, self.scheme.length
        ids = generator.integers(len(self._tiles), size=length)
        canvas = Image.new("1", (width, height))
        chances = generator.random((length, 4)).tolist()
        for slot, (side, turn, across, down) in enumerate(chances):
            x = int(slot * width / (length + 1)) + int(width / length * across)
            if side > 0.5:
                angle = self.settings.rotation * (1 - turn)
                y = int(height / 2 + 0.6 * height * (down - 1))
            else:
                angle = self.settings.rotation * (turn - 1)
                y = int(0.4 * height * down)
            letter = self._tiles[ids[slot]].rotate(angle, expand=True)
            # As in the original, PIL dithers the letter's soft edges on a canvas of single bits.
            canvas.paste(letter, (x, y), letter)
        return np.asarray(canvas), ids


def segment(letters: Mask) -> list[int]:
    """Where the original would cut between letters: the last empty column before each wide step.

    Columns (x in pixels) with hardly more ink than the emptiest one, whose next such column is at
    least 8 columns on.

    Args:
        letters: (H, W).
    """
    ink = letters.sum(axis=0)
    empty = np.flatnonzero(ink < ink.min() + 2)
    return [int(x) for x in empty[:-1][np.diff(empty) >= 8]]
