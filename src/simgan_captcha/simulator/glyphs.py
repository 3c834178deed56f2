"""The glyph bank: every character in every font, size and stroke, drawn once.

The fonts are open ones from PyPI packages. They include the common variants of letters: single- and
double-storey g and a, footed and plain 1, open and closed 4, slashed and dotted 0, serif and sans.
The font of the puzzle is never among them (see `puzzle.artwork`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from simgan_captcha.errors import ConfigError
from simgan_captcha.shown import shortened
from simgan_captcha.simulator.settings import BOLD_FONTS, LIGHTER_FONTS

_FONT_FILES = BOLD_FONTS | LIGHTER_FONTS

WIDE_FONTS = tuple(_FONT_FILES)
"""All names that `font_path` knows, for families with unknown fonts."""


def font_path(name: str) -> Path:
    """The file of a font: one of `WIDE_FONTS`, or a path to a TrueType or OpenType file.

    Raises:
        ConfigError: The name is unknown, and there is no such file.
    """
    if name in _FONT_FILES:
        package, file = _FONT_FILES[name]
        location = find_spec(package)
        if location is None or location.origin is None:
            raise ConfigError(
                f"font {name} needs the package {package}; install simgan-captcha again"
            )
        return Path(location.origin).parent / file
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"expected a font file or one of {', '.join(WIDE_FONTS)}; got {name!r}")
    return path


def open_font(name: str, size: int, alphabet: str) -> ImageFont.FreeTypeFont:
    """Open a font and check that it has all characters of an alphabet.

    Args:
        name: A name or path, see `font_path`.
        size: Pixels per em.
        alphabet: Required characters.

    Raises:
        ConfigError: The font is missing, unreadable, or lacks a character.
    """
    path = font_path(name)
    try:
        font = ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
        missing = lacking(font, alphabet)
    except (OSError, ValueError) as error:
        raise ConfigError(f"expected a TrueType or OpenType font at {path}, got {error}") from None
    if missing:
        raise ConfigError(
            f"expected a font with all of {alphabet!r}, {name} lacks {missing!r}; "
            "choose another font"
        )
    return font


def fonts_with(alphabet: str) -> tuple[str, ...]:
    """The names in `WIDE_FONTS` of all fonts with every character of an alphabet.

    Raises:
        ConfigError: No font has every character.
    """
    found = []
    for name in WIDE_FONTS:
        try:
            open_font(name, 20, alphabet)
        except ConfigError:
            continue
        found.append(name)
    if not found:
        raise ConfigError(
            f"expected a font with all of {shortened(alphabet)!r}, no known one has them; name "
            'font files with --set simulator.fonts=["/path/to/font.ttf"]'
        )
    return tuple(found)


def lacking(font: ImageFont.FreeTypeFont, alphabet: str) -> str:
    """Characters of an alphabet that a font does not draw."""
    # A noncharacter, which no font maps, shows what the font draws for a character it lacks.
    unknown = _coverage(font, "\uffff")
    return "".join(c for c in alphabet if _coverage(font, c) in (unknown, None))


def _coverage(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes] | None:
    """Size and pixels of a character; None if it leaves no ink."""
    mask = font.getmask(character)
    pixels = bytes(mask)
    return (mask.size, pixels) if any(pixels) else None


@dataclass(frozen=True)
class Glyph:
    """One drawn character, cropped to its ink and a margin of one pixel."""

    alpha: npt.NDArray[np.uint8]
    """(h, w) coverage, 0 to 255."""
    centre: tuple[float, float]
    """(x, y) of the reference point, from the upper left corner of ``alpha``. Letters are placed at
    this point and rotated about it. It is the middle of the advance width, half an x-height above
    the baseline. A 'g' therefore extends below it, and a 'd' above it."""


class PackedGlyphs(NamedTuple):
    """All glyphs of a bank in one array, for compiled loops."""

    pixels: npt.NDArray[np.uint8]
    """(P,) coverage, glyph after glyph, row after row."""
    starts: npt.NDArray[np.int64]
    """(glyphs,) index of the first pixel of each glyph."""
    rows: npt.NDArray[np.int64]
    """(glyphs,) height of each glyph."""
    columns: npt.NDArray[np.int64]
    """(glyphs,) width of each glyph."""


Index = TypeVar("Index", int, npt.NDArray[np.int64])


class GlyphBank:
    """Glyphs, indexed by font, size, stroke and character."""

    def __init__(
        self,
        alphabet: str,
        fonts: tuple[str, ...],
        sizes: tuple[int, ...],
        strokes: tuple[float, ...],
    ) -> None:
        """Draw all glyphs.

        Args:
            alphabet: Characters, in the order of their class ids.
            fonts: Names or paths, see `font_path`.
            sizes: Font sizes in pixels per em.
            strokes: Extra outline widths in pixels; 0 draws the font unchanged. Negative values
                draw hollow letters, with an outline of half the width and a shadow of the width.

        Raises:
            ConfigError: A font is missing, unreadable, or lacks a character of the alphabet.
        """
        self.shape = (len(fonts), len(sizes), len(strokes), len(alphabet))
        self.glyphs = [
            glyph
            for name in fonts
            for size in sizes
            for glyph in _drawn(name, size, strokes, alphabet)
        ]
        """In the order of `index`."""
        self.boxes = np.array([glyph.alpha.shape[::-1] for glyph in self.glyphs], np.float64)
        """(glyphs, 2): width and height in pixels."""
        self.centres = np.array([glyph.centre for glyph in self.glyphs], np.float64)
        """(glyphs, 2): x and y, see `Glyph.centre`."""
        self.scales = np.ones(len(self.glyphs))
        """(glyphs,): image pixels per glyph pixel."""

    def append(self, glyphs: Sequence[npt.NDArray[np.uint8]], scale: int) -> None:
        """Add a font of one size, given the coverage (h, w) of each character.

        The reference point of its glyphs is their middle. They have ``scale`` pixels per image
        pixel. Their font index is the number of fonts, plus one for each font appended before.
        Their indices of size and stroke are ignored.
        """
        appended = [_cropped(alpha) for alpha in glyphs]
        boxes = np.array([glyph.alpha.shape[::-1] for glyph in appended], np.float64)
        self.glyphs += appended
        self.boxes = np.concatenate([self.boxes, boxes])
        self.centres = np.concatenate([self.centres, [glyph.centre for glyph in appended]])
        self.scales = np.concatenate([self.scales, [1 / scale] * len(glyphs)])

    def index(self, font: Index, size: Index, stroke: Index, character: Index) -> Index:
        """Positions in `glyphs`, for one glyph or for arrays of glyphs."""
        fonts, sizes, strokes, characters = self.shape
        inside = font < fonts
        drawn = (font * sizes + size) * strokes + stroke
        appended = fonts * sizes * strokes + font - fonts
        return (drawn * inside + appended * (1 - inside)) * characters + character

    def glyph(self, font: int, size: int, stroke: int, character: int) -> Glyph:
        """One glyph by its four indices."""
        return self.glyphs[self.index(font, size, stroke, character)]

    def packed(self) -> PackedGlyphs:
        """Pack all glyphs, in the order of `index`."""
        columns, rows = self.boxes.astype(np.int64).T.copy()
        ends = np.cumsum(rows * columns)
        pixels = np.concatenate([glyph.alpha.ravel() for glyph in self.glyphs])
        return PackedGlyphs(pixels, ends - rows * columns, rows, columns)


def _cropped(alpha: npt.NDArray[np.uint8]) -> Glyph:
    """A glyph with its middle as reference point, cropped to its ink and a margin of one pixel."""
    inked = [np.flatnonzero(alpha.any(axis)) for axis in (1, 0)]
    height, width = alpha.shape
    (top, bottom), (left, right) = (
        (along[0], along[-1] + 1) if len(along) else (0, 1) for along in inked
    )
    cut = np.pad(alpha[top:bottom, left:right], 1)
    return Glyph(cut, (width / 2 - float(left) + 1, height / 2 - float(top) + 1))


@lru_cache(maxsize=64)  # the fit of the rendering builds the same bank hundreds of times
def _drawn(name: str, size: int, strokes: tuple[float, ...], alphabet: str) -> tuple[Glyph, ...]:
    """The characters of a font of one size, stroke by stroke."""
    font = open_font(name, size, alphabet)
    return tuple(_draw(font, character, stroke) for stroke in strokes for character in alphabet)


def _draw(font: ImageFont.FreeTypeFont, character: str, stroke: float) -> Glyph:
    around = abs(stroke)
    left, top, right, bottom = font.getbbox(character, anchor="ls", stroke_width=around)
    x_height = -font.getbbox("x", anchor="ls")[1]
    # A shadow falls down and to the right, by the width of the outline.
    shadow = around if stroke < 0 else 0
    left, top = math.floor(left) - 1, math.floor(top) - 1
    width = math.ceil(right + shadow) + 1 - left
    height = math.ceil(bottom + shadow) + 1 - top
    canvas = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(canvas)

    def put(level: int, offset: float = 0, stroke_width: float = 0) -> None:
        at = (offset - left, offset - top)
        draw.text(at, character, level, font=font, anchor="ls", stroke_width=stroke_width)

    put(255, shadow, around)
    if stroke < 0:
        put(255, 0, around / 2)
        put(0)
    centre = (font.getlength(character) / 2 - left, -x_height / 2 - top)
    return Glyph(np.asarray(canvas, np.uint8), centre)
