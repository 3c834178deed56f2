"""The glyph bank: every character in every font, size and stroke, drawn once.

The fonts are open ones from PyPI packages, wide enough to hold the alternate shapes a stranger's
font may have: single- and double-storey g and a, footed and plain 1, open and closed 4, slashed
and dotted 0, serif and sans. The puzzle's own font is never among them (see `puzzle.artwork`).
"""

import importlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from simgan_captcha.errors import ConfigError

_FONT_FILES = {
    "dejavu-sans-bold": ("matplotlib", "mpl-data/fonts/ttf/DejaVuSans-Bold.ttf"),
    "dejavu-serif-bold": ("matplotlib", "mpl-data/fonts/ttf/DejaVuSerif-Bold.ttf"),
    "dejavu-sans-mono-bold": ("matplotlib", "mpl-data/fonts/ttf/DejaVuSansMono-Bold.ttf"),
    "stix-bold": ("matplotlib", "mpl-data/fonts/ttf/STIXGeneralBol.ttf"),
    "source-sans-black": ("font_source_sans_pro", "files/SourceSansPro-Black.ttf"),
    "source-serif-black": ("font_source_serif_pro", "files/SourceSerifPro-Black.ttf"),
    "manrope-extrabold": ("font_manrope", "files/Manrope-ExtraBold.ttf"),
    "hanken-grotesk-bold": ("font_hanken_grotesk", "files/HankenGrotesk-Bold.otf"),
    "fredoka-one": ("font_fredoka_one", "files/FredokaOne-Regular.ttf"),
    "roboto-black": ("font_roboto", "files/Roboto-Black.ttf"),
    "caladea-bold": ("font_caladea", "files/Caladea-Bold.ttf"),
}

DEFAULT_FONTS = tuple(_FONT_FILES)
"""Names that `font_path` knows."""


def font_path(name: str) -> Path:
    """The file of a font: one of `DEFAULT_FONTS`, or a path to a TrueType or OpenType file.

    Raises:
        ConfigError: Neither a known name nor a file.
    """
    if name in _FONT_FILES:
        package, file = _FONT_FILES[name]
        location = importlib.util.find_spec(package)
        if location is None or location.origin is None:
            raise ConfigError(
                f"font {name} needs the package {package}; install simgan-captcha again"
            )
        return Path(location.origin).parent / file
    path = Path(name)
    if not path.is_file():
        raise ConfigError(
            f"expected a font file or one of {', '.join(DEFAULT_FONTS)}; got {name!r}"
        )
    return path


@dataclass(frozen=True)
class Glyph:
    """One drawn character, cropped to its ink."""

    alpha: npt.NDArray[np.uint8]
    """Coverage, (h, w), 0 none to 255 full."""
    centre: tuple[float, float]
    """(x, y) in ``alpha`` of the point that is placed and turned about: the middle of the advance
    width, half an x-height above the baseline, so that a 'g' hangs below and a 'd' stands above."""


class GlyphBank:
    """Glyphs by (font, size, stroke, character), all as indices."""

    def __init__(
        self,
        alphabet: str,
        fonts: tuple[str, ...],
        sizes: tuple[int, ...],
        strokes: tuple[float, ...],
    ) -> None:
        """Draw everything once.

        Args:
            alphabet: Characters, in the order of their class ids.
            fonts: Names or paths, see `font_path`.
            sizes: Font sizes in pixels per em.
            strokes: Extra outline widths in pixels; 0 draws the font as it is.

        Raises:
            ConfigError: A font that is missing, unreadable, or lacks a character of the alphabet.
        """
        self.shape = (len(fonts), len(sizes), len(strokes), len(alphabet))
        self._glyphs = [
            self._draw(font, name, character, stroke)
            for name in fonts
            for size in sizes
            for font in [self._open(name, size)]
            for stroke in strokes
            for character in alphabet
        ]

    def glyph(self, font: int, size: int, stroke: int, character: int) -> Glyph:
        """One glyph by its four indices."""
        _, sizes, strokes, characters = self.shape
        return self._glyphs[((font * sizes + size) * strokes + stroke) * characters + character]

    @staticmethod
    def _open(name: str, size: int) -> ImageFont.FreeTypeFont:
        path = font_path(name)
        try:
            return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
        except OSError as error:
            raise ConfigError(
                f"expected a TrueType or OpenType font at {path}, got {error}"
            ) from None

    @staticmethod
    def _draw(font: ImageFont.FreeTypeFont, name: str, character: str, stroke: float) -> Glyph:
        left, top, right, bottom = font.getbbox(character, anchor="ls", stroke_width=stroke)
        x_height = -font.getbbox("x", anchor="ls")[1]
        left, top = int(np.floor(left)) - 1, int(np.floor(top)) - 1
        width, height = int(np.ceil(right)) + 1 - left, int(np.ceil(bottom)) + 1 - top
        canvas = Image.new("L", (width, height), 0)
        ImageDraw.Draw(canvas).text(
            (-left, -top), character, 255, font=font, anchor="ls", stroke_width=stroke
        )
        alpha = np.asarray(canvas, np.uint8)
        if not alpha.any():
            raise ConfigError(f"font {name} draws nothing for {character!r}; choose another font")
        return Glyph(alpha, (font.getlength(character) / 2 - left, -x_height / 2 - top))
