"""Glyphs of the fonts that the generalist learns from, drawn by FreeType when asked for."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFont

from simgan_captcha.errors import ConfigError
from simgan_captcha.simulator.glyphs import lacking
from simgan_captcha.simulator.wide.catalogue import FontEntry, read_catalogue

CATALOGUE = Path(__file__).parent / "fonts.tsv"
"""Fonts that the generalist learns from and is measured on, with their licences."""

Coverage = npt.NDArray[np.uint8]


class FontShelf:
    """Fonts of a catalogue that are installed here, of some of its splits."""

    def __init__(self, catalogue: Path, split: str) -> None:
        """Read a catalogue.

        Args:
            catalogue: A list that `catalogue` wrote.
            split: ``train`` or ``held-out``.

        Raises:
            ConfigError: A listed font is not installed.
        """
        self.entries: list[FontEntry] = [e for e in read_catalogue(catalogue) if e.split == split]
        missing = [e.package for e in self.entries if not Path(e.path).is_file()]
        if missing or not self.entries:
            raise ConfigError(
                f"expected the {split} fonts of {catalogue}, {len(missing)} files are not "
                "installed; run: make pretrain-fonts"
            )
        packages = sorted({e.package for e in self.entries})
        self._by_package = [
            [i for i, e in enumerate(self.entries) if e.package == p] for p in packages
        ]

    def draw(self, generator: np.random.Generator) -> int:
        """A font: mostly of a uniformly drawn package, as packages hold 1 to 274 fonts."""
        if generator.random() < 0.75:
            package = self._by_package[generator.integers(len(self._by_package))]
            return int(package[generator.integers(len(package))])
        return int(generator.integers(len(self.entries)))

    def unicase(self, font: int) -> bool:
        """Whether a font draws capitals for lower-case letters."""
        return self.entries[font].unicase

    def has(self, font: int, character: str) -> bool:
        """Whether a font draws a character; letters and digits all of them do."""
        if character.isascii() and character.isalnum():
            return True
        return _has(self.entries[font].path, character)

    def cap_height(self, font: int, size: int) -> float:
        """Height of a capital H in pixels at a size in pixels per em."""
        return _cap_height(self.entries[font].path, size)

    def glyph(
        self, font: int, size: int, character: str, *, stroke: int = 0, smooth: bool = True
    ) -> tuple[Coverage, tuple[float, float], float]:
        """One character at a size.

        Args:
            font: Index of an entry.
            size: Pixels per em.
            character: One character.
            stroke: Extra outline in pixels.
            smooth: Whether edges are antialiased.

        Returns:
            Coverage (h, w), 0 to 255; the reference point (x, y) of the glyph; the advance in
            pixels. The reference point is the middle of the advance width, half a capital's height
            above the baseline.
        """
        return _glyph(self.entries[font].path, size, character, stroke, smooth)


@lru_cache(maxsize=4096)
def _open(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=20_000)
def _has(path: str, character: str) -> bool:
    return not lacking(_open(path, 24), character)


@lru_cache(maxsize=20_000)
def _cap_height(path: str, size: int) -> float:
    _, top, _, bottom = _open(path, size).getbbox("H", anchor="ls")
    return max(4.0, float(bottom - top))


@lru_cache(maxsize=20_000)
def _glyph(
    path: str, size: int, character: str, stroke: int, smooth: bool
) -> tuple[Coverage, tuple[float, float], float]:
    font = _open(path, size)
    mask, offset = font.getmask2(
        character, mode="L" if smooth else "1", stroke_width=stroke, anchor="ls"
    )
    width, height = mask.size
    advance = float(font.getlength(character))
    if not (width and height):  # a font may lack a sign
        return np.zeros((1, 1), np.uint8), (0.0, 0.0), advance
    pixels = np.asarray(Image.frombytes("L", (width, height), bytes(mask)), np.uint8)
    centre = (advance / 2 - offset[0], -_cap_height(path, size) / 2 - offset[1])
    return pixels, centre, advance


def outlined(coverage: Coverage, width: int) -> Coverage:
    """Hollow letters: the outline alone, ``width`` pixels wide."""
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    padded = np.pad(coverage, 1)
    return np.asarray(padded - cv2.erode(padded, kernel), np.uint8)


def shadowed(coverage: Coverage, width: int) -> Coverage:
    """Raised letters: the shadow alone, ``width`` pixels to the right and below.

    The result has the glyph's middle where it was.
    """
    padded = np.pad(coverage, width)
    shadow = padded.copy()
    for step in range(1, width + 1):
        shadow = np.maximum(shadow, np.roll(padded, (step, step), (0, 1)))
    return np.asarray((shadow - padded)[width:, width:], np.uint8)


def thinned(coverage: Coverage) -> Coverage:
    """Letters of single-pixel strokes: the skeleton (Zhang and Suen 1984)."""
    pixels = (coverage > 127).astype(np.uint8)
    pixels = np.pad(pixels, 1)
    while True:
        removed = 0
        for step in (0, 1):
            p = _neighbours(pixels)
            count = sum(p)
            turns = sum((a == 0) & (b == 1) for a, b in zip(p, [*p[1:], p[0]], strict=True))
            north, _, east, _, south, _, west, _ = p
            if step == 0:
                open_sides = (north * east * south == 0) & (east * south * west == 0)
            else:
                open_sides = (north * east * west == 0) & (north * south * west == 0)
            remove = (pixels == 1) & (count >= 2) & (count <= 6) & (turns == 1) & open_sides
            removed += int(remove.sum())
            pixels[remove] = 0
        if not removed:
            return np.asarray(pixels[1:-1, 1:-1] * 255, np.uint8)


def _neighbours(pixels: Coverage) -> Sequence[Coverage]:
    """The eight neighbours of every pixel, clockwise from the north."""
    q = np.pad(pixels, 1)
    H, W = pixels.shape
    at = ((0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0), (0, 0))
    return [q[i : i + H, j : j + W] for i, j in at]
