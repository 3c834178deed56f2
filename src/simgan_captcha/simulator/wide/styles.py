"""Styles: everything that the images of one synthetic family have in common.

A style is drawn first; then every image of the family draws its own parameters from the style
(`plans`) and is rendered from them (`drawing`). Spread counts for more than realism: a family that
no site has costs little, one that is missing costs a family of real captchas.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from simgan_captcha.simulator.wide.fonts import FontShelf
from simgan_captcha.simulator.wide.texts import TextStyle, draw_text_style

Scope = Literal["family", "image", "letter"]
"""What shares one value of a parameter."""
Span = tuple[float, float]
Backdrop = Literal[
    "plain", "gradient", "clouds", "stripes", "patches", "texture", "hatching", "letters"
]
Rendering = Literal["filled", "hollow", "thin", "raised"]


@dataclass(frozen=True)
class LetterStyle:
    """How letters are drawn and where they stand."""

    fonts: tuple[int, ...]
    font_scope: Scope
    size: Span
    """Pixels per em."""
    size_scope: Scope
    rendering: Rendering
    stroke: int
    """Extra outline in pixels; of hollow letters the outline's width."""
    smooth: bool
    """Whether edges are antialiased."""
    turn: float
    """Largest rotation in degrees."""
    turn_scope: Scope
    shear: float
    """Largest horizontal shift per vertical pixel."""
    stretch: Span
    """Horizontal scale."""
    form_scope: Scope
    """What shares one shear and one stretch."""
    gap: Span
    """Space between letters as a fraction of their size; negative: they overlap."""
    even: bool
    """Whether letters stand at equal distances, whatever their width."""
    lift: float
    """Largest vertical offset of a letter from the baseline, as a fraction of the size."""
    nearest: bool
    """Whether letters are turned without interpolation."""
    framed: float
    """Share of letters with a square around them."""
    frame: float
    """Half a side of that square in capitals."""
    frame_width: int
    """Pixels."""


@dataclass(frozen=True)
class ColourStyle:
    """Colours of ink and background."""

    dark_ink: bool
    ink_scope: Scope
    contrast: Span
    """Difference of lightness between ink and background, 0 to 255."""
    contrast_scope: Scope
    """What shares one contrast: pale and dark letters may stand in one image."""
    saturation: float
    """0: greys; 1: as vivid as the lightness allows."""
    backdrop: Backdrop
    backdrop_scope: Scope
    unevenness: float
    """Amplitude of the backdrop's changes, 0 to 255."""
    grey: bool
    """Whether the image has no colour at all."""


@dataclass(frozen=True)
class ClutterStyle:
    """Marks that belong to no letter; counts are of one image."""

    lines: Span
    curved: float
    """Largest sagitta of a curve as a fraction of the image's height."""
    line_width: Span
    """Pixels."""
    through: bool
    """Whether lines cross the whole text from left to right."""
    over: bool
    """Whether clutter lies over the letters."""
    colour: Literal["ink", "own", "contrary"]
    """Of the clutter: the letters' ink, colours of its own, or the opposite of the background."""
    dots: Span
    dot_radius: Span
    """Pixels."""
    scratches: Span
    """Short straight strokes."""
    scratch_width: Span
    """Pixels."""
    blots: Span
    """Filled or hollow ellipses."""
    grid: int
    """Distance of the lines of a grid in pixels; 0: there is none."""
    border: int
    """Width of a frame around the image in pixels."""
    inverting: Literal["none", "arc", "ellipse", "half"]
    """A shape under which ink and background change places."""


@dataclass(frozen=True)
class FinishStyle:
    """What happens to an image once it is drawn."""

    wave: Span
    """Amplitude as a fraction of the text's size."""
    wavelength: Span
    """In text sizes."""
    ripple: bool
    """Whether waves run both ways."""
    elastic: float
    """Amplitude of random displacement in text sizes."""
    perspective: float
    warps_clutter: bool
    blur: Span
    noise: Span
    """Standard deviation in grey levels."""
    specks: float
    """Share of pixels that salt and pepper change."""
    one_bit: bool
    palette: int
    """Colours of the image's palette; 0: all."""
    jpeg: tuple[int, int] | None
    """Lowest and highest quality; None: the image is not compressed."""
    rescaled: Span
    """Factor of the size at which the image is drawn once more; (1, 1): none."""


@dataclass(frozen=True)
class Style:
    """One synthetic family."""

    text: TextStyle
    letters: LetterStyle
    colours: ColourStyle
    clutter: ClutterStyle
    finish: FinishStyle
    room: Span
    """Height of the image in text sizes."""
    margin: Span
    """Space left and right of the text in text sizes."""
    fixed_size: bool
    """Whether all images have one size."""
    cut: float
    """How far letters may reach beyond the image's edges, in capitals."""
    seed: int
    """Of what all images share, such as a picture behind them."""


def draw_style(shelf: FontShelf, generator: np.random.Generator, difficulty: float = 1.0) -> Style:
    """A family.

    Args:
        shelf: Fonts to choose from.
        generator: Decides everything.
        difficulty: 0: plain letters on a plain background; 1: everything there is.
    """
    # Most families have one or two difficulties, few have all of them.
    draw = _Draw(generator, difficulty * generator.uniform(0.15, 1.1))
    size_low = float(np.exp(generator.uniform(np.log(13), np.log(52))))
    size_high = size_low * draw.span(1.0, 1.5, share=0.4)[1]
    letters = _letter_style(draw, shelf, (size_low, min(80.0, size_high)))
    return Style(
        text=draw_text_style(generator),
        letters=letters,
        colours=_colour_style(draw),
        clutter=_clutter_style(draw, size_low, letters.rendering),
        finish=_finish_style(draw),
        room=_room(draw),
        margin=(0.05, draw.one(0.1, 1.2)),
        fixed_size=draw.chance(0.8),
        cut=draw.up_to(0.35, 0.18),
        seed=int(generator.integers(1 << 62)),
    )


class _Draw:
    """Draws of one style; what is difficult is drawn less often and less strong at the start."""

    def __init__(self, generator: np.random.Generator, difficulty: float) -> None:
        self.generator, self.difficulty = generator, difficulty

    def chance(self, share: float) -> bool:
        return bool(self.generator.random() < share)

    def hard(self, share: float) -> bool:
        """Whether something difficult is there."""
        return self.chance(share * min(1.0, self.difficulty))

    def one(self, low: float, high: float) -> float:
        return float(self.generator.uniform(low, high))

    def up_to(self, most: float, share: float = 1.0) -> float:
        """0, or in a share of the families a difficult amount."""
        return self.one(0, most) * self.difficulty if self.hard(share) else 0.0

    def span(self, low: float, most: float, share: float = 1.0) -> Span:
        """From ``low`` up to a value that a share of the families draws."""
        return (low, self.one(low, most) if self.hard(share) else low)

    def between(self, low: float, high: float) -> Span:
        first, second = sorted((self.one(low, high), self.one(low, high)))
        return first, second

    def scope(self, family: float, image: float) -> Scope:
        roll = self.generator.random()
        return "family" if roll < family else "image" if roll < family + image else "letter"


def _letter_style(draw: _Draw, shelf: FontShelf, size: Span) -> LetterStyle:
    font_scope = draw.scope(0.5, 0.2)
    number = 1 if font_scope == "family" else int(draw.generator.integers(2, 8))
    roll = draw.generator.random()
    rendering = _rendering(draw)
    bold = rendering == "filled" and size[0] > 18 and draw.chance(0.12)
    return LetterStyle(
        fonts=tuple(shelf.draw(draw.generator) for _ in range(number)),
        font_scope=font_scope,
        size=size,
        size_scope=draw.scope(0.1, 0.3),
        rendering=rendering,
        stroke=1 if bold or rendering == "hollow" else 0,
        smooth=draw.chance(0.5 if rendering == "thin" else 0.85),
        turn=0.0 if roll < 0.3 else draw.one(0, 12 if roll < 0.55 else 40) * draw.difficulty,
        turn_scope=draw.scope(0.0, 0.15),
        shear=draw.up_to(0.5, 0.3),
        stretch=_stretch(draw),
        form_scope="letter" if draw.hard(0.3) else "image",
        gap=_gap(draw),
        even=draw.chance(0.4),
        lift=draw.up_to(0.4, 0.6),
        nearest=draw.chance(0.15),
        framed=float(draw.generator.choice([0.5, 1.0])) if draw.hard(0.1) else 0.0,
        frame=draw.one(0.62, 1.0),
        frame_width=1 if draw.chance(0.75) else 2,
    )


def _rendering(draw: _Draw) -> Rendering:
    if draw.hard(0.12):
        return "thin"
    if draw.hard(0.06):
        return "hollow"
    return "raised" if draw.hard(0.04) else "filled"


def _stretch(draw: _Draw) -> Span:
    """Narrow to wide letters, which vary a little from image to image."""
    if not draw.hard(0.45):
        return 1.0, 1.0
    middle = float(np.exp(draw.one(np.log(0.65), np.log(1.7))))
    spread = draw.one(1.0, 1.2)
    return middle / spread, middle * spread


def _gap(draw: _Draw) -> Span:
    """Letters that overlap, that stand as in a book, or far apart."""
    if draw.hard(0.3):
        return draw.between(-0.28, 0.05)
    if draw.chance(0.12):
        return draw.between(0.3, 1.3)
    return draw.between(-0.03, draw.one(0.05, 0.5))


def _colour_style(draw: _Draw) -> ColourStyle:
    pale = draw.hard(0.2)
    ink_scope = draw.scope(0.45, 0.25)
    mixed = ink_scope == "letter" and draw.hard(0.5)
    backdrops: tuple[Backdrop, ...] = (
        "plain", "gradient", "clouds", "stripes", "patches", "texture", "hatching", "letters"
    )  # fmt: skip
    shares = np.array([0.52, 0.1, 0.1, 0.05, 0.06, 0.09, 0.04, 0.04])
    backdrop = backdrops[draw.generator.choice(len(backdrops), p=shares)]
    return ColourStyle(
        dark_ink=draw.chance(0.75),
        ink_scope=ink_scope,
        contrast=_contrast(draw, pale=pale, mixed=mixed),
        contrast_scope="letter" if mixed else "image",
        saturation=0.0 if draw.chance(0.35) else draw.one(0.2, 1.0),
        backdrop=backdrop if draw.hard(1.0) else "plain",
        backdrop_scope=draw.scope(0.3, 0.7),
        unevenness=draw.one(5, 70),
        grey=draw.chance(0.3),
    )


def _contrast(draw: _Draw, *, pale: bool, mixed: bool) -> Span:
    if mixed:
        return draw.one(30, 80), draw.one(120, 255)
    return draw.between(40, 110) if pale else draw.between(90, 255)


def _clutter_style(draw: _Draw, size: float, rendering: Rendering) -> ClutterStyle:
    few = draw.one(1, 4) if draw.chance(0.8) else draw.one(4, 12)
    # Wider lines than strokes hide letters for good.
    thick = 1.5 if rendering == "thin" else max(1.5, 0.13 * size)
    roll = draw.generator.random()
    return ClutterStyle(
        lines=(0, few) if draw.hard(0.55) else (0, 0),
        curved=draw.up_to(0.8, 0.6),
        line_width=draw.between(1, thick),
        through=draw.chance(0.5),
        over=draw.chance(0.7),
        colour="ink" if roll < 0.45 else "own" if roll < 0.78 else "contrary",
        dots=(0, np.exp(draw.one(np.log(3), np.log(250)))) if draw.hard(0.3) else (0, 0),
        dot_radius=draw.between(0.4, max(0.8, 0.05 * size)),
        scratches=(0, np.exp(draw.one(np.log(3), np.log(90)))) if draw.hard(0.18) else (0, 0),
        scratch_width=(1, 1) if draw.chance(0.6) else draw.between(1, thick),
        blots=(0, draw.one(1, 8)) if draw.hard(0.1) else (0, 0),
        grid=int(draw.one(4, 20)) if draw.hard(0.06) else 0,
        border=int(draw.one(1, 3.5)) if draw.hard(0.15) else 0,
        inverting=(
            ("arc", "ellipse", "half")[draw.generator.integers(3)] if draw.hard(0.12) else "none"
        ),
    )


def _finish_style(draw: _Draw) -> FinishStyle:
    wavy = draw.hard(0.25)
    shrunk = draw.hard(0.2)
    roll = draw.generator.random()
    quality = int(draw.one(20, 96))
    return FinishStyle(
        wave=(0, draw.one(0.03, 0.25)) if wavy else (0, 0),
        wavelength=draw.between(1.0, 6.0),
        ripple=draw.chance(0.5),
        elastic=draw.up_to(0.12, 0.1),
        perspective=draw.up_to(0.15, 0.1),
        warps_clutter=draw.chance(0.5),
        blur=draw.between(0.3, 1.2) if draw.hard(0.25) else (0, 0),
        noise=draw.between(0, 25) if draw.hard(0.3) else (0, 0),
        specks=draw.one(0.002, 0.15) if draw.hard(0.12) else 0.0,
        one_bit=draw.hard(0.06),
        palette=int(draw.generator.choice([4, 8, 16, 64])) if draw.hard(0.1) else 0,
        jpeg=None if roll < 0.4 else (max(15, quality - 10), min(97, quality + 10)),
        rescaled=draw.between(0.5, 1.3) if shrunk else (1, 1),
    )


def _room(draw: _Draw) -> Span:
    """Height of the image: close about the text, or with room for letters that stand anywhere."""
    low = draw.one(0.9, 1.8)
    return (low, low) if draw.chance(0.75) else (low, low + draw.one(0.1, 1.2))
