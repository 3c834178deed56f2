"""Draws the captchas of the puzzle; the same user and name always give the same bytes.

The parameters are drawn first (`background_plan`, `letter_plan`) and then rendered (`Artist`). The
appearance follows the HackMIT 2017 puzzle. The use of the hash bits is our own choice.
"""

import colorsys
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import md5, shake_128
from pathlib import Path

from font_lato import font_files
from PIL import Image, ImageChops, ImageDraw, ImageFont

from simgan_captcha.errors import UsageError
from simgan_captcha.puzzle.answers import answer
from simgan_captcha.scheme import HACKMIT_2017

WIDTH, HEIGHT = HACKMIT_2017.width, HACKMIT_2017.height
SLOTS = HACKMIT_2017.max_length
SLOT_WIDTH = WIDTH // SLOTS
"""Stripes and letter slots are equally wide, in pixels."""

LINES = 4
LINE_WIDTH = 2
STRIPE_VALUE = 0.7
"""Brightness of the stripes (HSV, 0 to 1); their saturation is 1."""

X_OFFSETS = (15, 15, 15, 5)
"""Number of x offsets, from 0, in each slot; fewer in the last slot to stay in the image."""
Y_OFFSETS = 20
ANGLES = range(-30, 30)
"""Rotations in degrees, counter-clockwise."""

INK = 250
"""Grey level of a letter, 0 black to 255 white."""
JPEG_QUALITY = 50

DEFAULT_FONT = Path(font_files["LatoBlack"])
"""Lato Black (OFL-1.1), a font that the simulator must not contain."""
FONT_SIZE = 26
"""Pixels per em. At 26, letters of Lato Black are slightly taller than the original ones and have
80 % of their ink, because the original font is bolder."""

CACHED_BACKGROUNDS = 256


@dataclass(frozen=True)
class Line:
    """A white line, in pixels from the upper left corner."""

    start: tuple[int, int]
    end: tuple[int, int]


@dataclass(frozen=True)
class BackgroundPlan:
    """The background that all captchas of one user share."""

    colours: tuple[tuple[int, int, int], ...]
    """RGB of the stripes from left to right, 0 to 255."""
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Letter:
    """One character and its place."""

    character: str
    angle: int
    """Degrees, counter-clockwise about the middle of the glyph's box."""
    x: int
    """Left edge of the rotated box, in pixels."""
    y: int
    """Upper edge of the rotated box, in pixels."""


def _draws(text: str, sizes: Iterable[int]) -> list[int]:
    """One number in [0, size) for every size, derived from md5(text) alone."""
    sizes = tuple(sizes)
    digest = md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
    # md5 has too few bits for twenty draws; SHAKE extends it to four bytes for each.
    stream = shake_128(digest).digest(4 * len(sizes))
    return [
        int.from_bytes(stream[4 * i : 4 * i + 4], "little") % size for i, size in enumerate(sizes)
    ]


def background_plan(user: str) -> BackgroundPlan:
    """Draw stripes in saturated hues, and lines from the left quarter to the right quarter."""
    hue_steps = 1 << 16
    draws = iter(
        _draws(user, [hue_steps] * SLOTS + [SLOT_WIDTH, HEIGHT, SLOT_WIDTH, HEIGHT] * LINES)
    )
    colours = []
    for _ in range(SLOTS):
        red, green, blue = colorsys.hsv_to_rgb(next(draws) / hue_steps, 1.0, STRIPE_VALUE)
        colours.append((int(255 * red), int(255 * green), int(255 * blue)))
    lines = tuple(
        Line((next(draws), next(draws)), (WIDTH - SLOT_WIDTH + next(draws), next(draws)))
        for _ in range(LINES)
    )
    return BackgroundPlan(tuple(colours), lines)


def letter_plan(user: str, name: str) -> tuple[Letter, ...]:
    """The characters of a captcha from left to right, which is also the order of drawing."""
    sizes = [size for offsets in X_OFFSETS for size in (len(ANGLES), offsets, Y_OFFSETS)]
    draws = _draws(user + name, sizes)
    return tuple(
        Letter(
            character=character,
            angle=ANGLES[draws[3 * slot]],
            x=SLOT_WIDTH * slot + draws[3 * slot + 1],
            y=draws[3 * slot + 2],
        )
        for slot, character in enumerate(answer(user, name))
    )


class Artist:
    """Draws captchas with one font; safe to use from several threads.

    Raises:
        UsageError: The font cannot be opened, or lacks one of a-z0-9.
    """

    def __init__(self, font: Path | None = None) -> None:
        """Render every glyph at every angle once, so that captchas need no FreeType.

        Args:
            font: A font file (TTF, OTF, WOFF2); None for Lato Black.
        """
        self._glyphs = {
            (character, angle): _rotated(upright, angle)
            for character, upright in _upright_glyphs(font or DEFAULT_FONT).items()
            for angle in ANGLES
        }
        self._background = lru_cache(maxsize=CACHED_BACKGROUNDS)(_render_background)

    def draw(self, user: str, name: str) -> Image.Image:
        """The captcha before JPEG compression: RGB, 100x50."""
        image = self._background(user).copy()
        for letter in letter_plan(user, name):
            ink, mask = self._glyphs[letter.character, letter.angle]
            image.paste(ink, (letter.x, letter.y), mask)
        return image

    def jpeg(self, user: str, name: str) -> bytes:
        """The captcha as JPEG bytes."""
        buffer = io.BytesIO()
        self.draw(user, name).save(buffer, "JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue()


def _render_background(user: str) -> Image.Image:
    plan = background_plan(user)
    image = Image.new("RGB", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(image)
    for stripe, colour in enumerate(plan.colours):
        left = stripe * SLOT_WIDTH
        draw.rectangle((left, 0, left + SLOT_WIDTH - 1, HEIGHT - 1), fill=colour)
    for line in plan.lines:
        draw.line((line.start, line.end), fill=(255, 255, 255), width=LINE_WIDTH)
    return image


def _upright_glyphs(font: Path) -> dict[str, Image.Image]:
    """Coverage (0 to 255) of each character of the alphabet in its own box."""
    try:
        face = ImageFont.truetype(font, FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
        glyphs = {character: _upright(face, character) for character in HACKMIT_2017.alphabet}
        # No font has this noncharacter, so it shows what the font draws for a missing character.
        unknown = _upright(face, "\uffff").tobytes()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"expected a font file (TTF, OTF or WOFF2), cannot open {font} ({error}); "
            "give another --font"
        ) from None
    missing = "".join(
        character
        for character, glyph in glyphs.items()
        if glyph.getbbox() is None or glyph.tobytes() == unknown
    )
    if missing:
        raise UsageError(
            f"expected a font with all of a-z0-9, {font} lacks {missing!r}; give another --font"
        )
    return glyphs


def _upright(face: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    _, _, right, bottom = face.getbbox(character)
    glyph = Image.new("L", (max(1, round(right)), max(1, round(bottom))))
    ImageDraw.Draw(glyph).text((0, 0), character, font=face, fill=255)
    return glyph


def _rotated(upright: Image.Image, angle: int) -> tuple[Image.Image, Image.Image]:
    """Ink (RGB) and mask (L) of a glyph rotated about the centre of its box, which grows to fit."""
    mask = upright.rotate(angle, expand=True)
    # The ink fades towards the edge of the glyph, which gives the thin dark rim of real captchas.
    ink = ImageChops.multiply(mask, Image.new("L", mask.size, INK))
    return Image.merge("RGB", (ink, ink, ink)), mask
