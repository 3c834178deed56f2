"""Plans: every parameter of one synthetic image, drawn from its family's style.

Rendering a plan (`drawing.render`) holds no randomness but the noise that the plan's seed decides,
so any image can be drawn again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np

from simgan_captcha.simulator.wide.fonts import FontShelf
from simgan_captcha.simulator.wide.styles import LetterStyle, Scope, Span, Style
from simgan_captcha.simulator.wide.texts import draw_text
from simgan_captcha.types import Doubles, Floats

Colour = tuple[int, int, int]
Point = tuple[float, float]
MarkKind = Literal["curve", "stroke", "dot", "ellipse"]


@dataclass(frozen=True)
class PlannedLetter:
    """One letter."""

    character: str
    font: int
    size: int
    """Pixels per em."""
    height: float
    """Height of a capital in pixels."""
    x: float
    """Pixels: where the middle of the letter goes, half a capital above the baseline."""
    y: float
    turn: float
    """Degrees, counter-clockwise."""
    shear: float
    stretch: float
    ink: Colour
    framed: bool


@dataclass(frozen=True)
class PlannedMark:
    """A stroke, dot or blot of clutter."""

    kind: MarkKind
    points: tuple[Point, ...]
    """Pixels: the three control points of a curve; the ends of a stroke; the centre of a dot; the
    centre and the half axes of an ellipse."""
    width: float
    """Pixels; of a dot its radius; -1: the ellipse is filled."""
    colour: Colour
    over: bool
    """Whether it lies over the letters."""


@dataclass(frozen=True)
class ImagePlan:
    """One image."""

    style: Style
    text: str
    letters: tuple[PlannedLetter, ...]
    width: int
    height: int
    unit: float
    """Height of a capital of the text in pixels."""
    background: Colour
    second_background: Colour
    """The other colour of a gradient, stripes or clouds."""
    marks: tuple[PlannedMark, ...]
    border: Colour
    wave: tuple[float, float, float, float]
    """Amplitude and length in pixels, phases of the waves along and across."""
    blur: float
    noise: float
    jpeg: int | None
    rescaled: float
    seed: int


def draw_plan(style: Style, shelf: FontShelf, generator: np.random.Generator) -> ImagePlan:
    """Parameters of one image of a family."""
    family = np.random.default_rng(style.seed)
    placed, width, height = _lay_out(style, shelf, family, generator)
    unit = float(np.mean([letter.height for letter in placed]))
    background, second, inks = _colours(style, len(placed), family, generator)
    f = style.finish
    return ImagePlan(
        style=style,
        text="".join(letter.character for letter in placed),
        letters=tuple(replace(at, ink=ink) for at, ink in zip(placed, inks, strict=True)),
        width=width,
        height=height,
        unit=unit,
        background=background,
        second_background=second,
        marks=_marks(style, width, height, background, inks[0], generator),
        border=_mark_colour(style, background, inks[0], generator),
        wave=(
            _one(f.wave, generator) * unit,
            _one(f.wavelength, generator) * unit,
            generator.uniform(0, 2 * np.pi),
            generator.uniform(0, 2 * np.pi),
        ),
        blur=_one(f.blur, generator) * min(1.0, unit / 16),
        noise=min(_one(f.noise, generator), 0.3 * style.colours.contrast[0]),
        jpeg=None if f.jpeg is None else int(generator.integers(f.jpeg[0], f.jpeg[1] + 1)),
        rescaled=max(_one(f.rescaled, generator), min(1.0, _LEAST_UNIT / unit)),
        seed=int(generator.integers(1 << 62)),
    )


_LEAST_UNIT = 9.0
"""Pixels: capitals are not scaled below this height."""


def _one(span: Span, generator: np.random.Generator) -> float:
    return float(generator.uniform(*span)) if span[1] > span[0] else span[0]


T = TypeVar("T")


def _shared(scope: Scope, count: int, draw: Callable[[], T], family: Callable[[], T]) -> list[T]:
    """One value for a family or an image, or one for each letter."""
    if scope == "letter":
        return [draw() for _ in range(count)]
    return [family() if scope == "family" else draw()] * count


def _lay_out(
    style: Style, shelf: FontShelf, family: np.random.Generator, generator: np.random.Generator
) -> tuple[list[PlannedLetter], int, int]:
    """Letters without their inks, and the image's width and height."""
    s = style.letters
    text = draw_text(style.text, generator)
    count = len(text)
    size = round(family.uniform(*s.size))
    fonts = _shared(
        s.font_scope, count, lambda: s.fonts[generator.integers(len(s.fonts))], lambda: s.fonts[0]
    )
    sizes = _shared(s.size_scope, count, lambda: round(generator.uniform(*s.size)), lambda: size)
    text = "".join(_as_drawn(c, f, shelf) for c, f in zip(text, fonts, strict=True))
    turns = _shared(s.turn_scope, count, lambda: generator.uniform(-s.turn, s.turn), lambda: 0.0)
    forms = _shared(s.form_scope, count, lambda: _form(s, generator), lambda: _form(s, family))
    heights = [shelf.cap_height(f, z) for f, z in zip(fonts, sizes, strict=True)]
    advances = [
        shelf.glyph(f, z, c, stroke=s.stroke, smooth=s.smooth)[2] * stretch
        for f, z, c, (_, stretch) in zip(fonts, sizes, text, forms, strict=True)
    ]
    unit = float(np.mean(heights))
    x, extent = _in_a_row(style, np.array(advances), np.array(heights), turns, generator)
    start, width = _across(style, extent, unit, family, generator)
    height, y = _down(style, unit, count, family, generator)
    y = y + np.array([generator.uniform(-s.lift, s.lift) * unit for _ in range(count)])
    inside = (0.45 - style.cut) * unit
    y = np.clip(y, inside, height - inside)
    framed = generator.random(count) < s.framed
    letters = [
        PlannedLetter(
            character=text[i],
            font=fonts[i],
            size=sizes[i],
            height=float(heights[i]),
            x=float(x[i] + start),
            y=float(y[i]),
            turn=float(turns[i]),
            shear=forms[i][0],
            stretch=forms[i][1],
            ink=(0, 0, 0),
            framed=bool(framed[i]),
        )
        for i in range(count)
    ]
    return letters, width, height


def _form(letters: LetterStyle, generator: np.random.Generator) -> tuple[float, float]:
    """Shear and stretch."""
    return _one((-letters.shear, letters.shear), generator), _one(letters.stretch, generator)


def _as_drawn(character: str, font: int, shelf: FontShelf) -> str:
    """What a font can show of a character: a capital, or a digit in place of a sign it lacks."""
    if not shelf.has(font, character):
        return "7"
    return character.upper() if shelf.unicase(font) else character


def _in_a_row(
    style: Style,
    advances: Doubles,
    heights: Doubles,
    turns: Sequence[float],
    generator: np.random.Generator,
) -> tuple[Doubles, float]:
    """Middles of the letters (L,) from the text's left end, and the text's extent, in pixels."""
    s, unit, count = style.letters, float(heights.mean()), len(advances)
    # A letter w wide and h high that is turned by a takes about w (1 - |sin a|) + h |sin a|.
    sine = np.abs(np.sin(np.radians(turns)))
    room = np.maximum(advances * (1 - sine) + heights * sine, 0.25 * unit)
    if s.framed:
        room = np.maximum(room, 2 * s.frame * unit)
    elif s.even:
        room = np.full(count, room.max())
    gaps = np.array([_one(s.gap, generator) for _ in range(count)]) * unit
    # Overlapping letters keep a part of their own, however narrow they are.
    steps = np.maximum((room[1:] + room[:-1]) / 2 + gaps[1:], 0.3 * unit)
    x = np.concatenate([[0.0], np.cumsum(steps)])
    return x + room[0] / 2, float(x[-1] + (room[0] + room[-1]) / 2)


def _across(
    style: Style,
    extent: float,
    unit: float,
    family: np.random.Generator,
    generator: np.random.Generator,
) -> tuple[float, int]:
    """Where a text begins, and the image's width, in pixels."""
    margin = _one(style.margin, family if style.fixed_size else generator)
    most = style.text.lengths[1] if style.text.kind != "sum" else 6
    width = extent + 2 * margin * unit + 2
    if style.fixed_size:
        usual = most * unit * (family.uniform(0.8, 1.1) + float(np.mean(style.letters.gap)))
        width = max(extent + 2, float(usual) + 2 * margin * unit)
    free = width - extent
    aligned = family.integers(3)
    share = 0.5
    if aligned == 1:
        share = generator.uniform()
    elif aligned == 2:
        share = min(0.5, margin * unit / max(free, 1))
    start = free * share
    start -= generator.uniform(0, style.cut) * unit
    return float(start), max(12, round(width))


def _down(
    style: Style,
    unit: float,
    count: int,
    family: np.random.Generator,
    generator: np.random.Generator,
) -> tuple[int, Floats]:
    """The image's height and the letters' places (count,) down it, in pixels."""
    # A text with descenders is about 1.45 capitals high.
    height = max(
        10, round(1.45 * unit * _one(style.room, family if style.fixed_size else generator))
    )
    free = max(0.0, height - 1.3 * unit)
    middle = height / 2 - 0.05 * unit
    if style.room[1] > style.room[0]:
        middle += generator.uniform(-0.5, 0.5) * free
    else:
        middle += family.uniform(-0.3, 0.3) * free
    slope = generator.uniform(-0.5, 0.5) * free * (family.random() < 0.1)
    places = middle + slope * np.linspace(-0.5, 0.5, count)
    return height, places.astype(np.float32)


LUMA = np.array([0.299, 0.587, 0.114])
"""Share of red, green and blue in a colour's lightness."""


def colour(lightness: float, saturation: float, generator: np.random.Generator) -> Colour:
    """A colour of a lightness (luma, 0 to 255).

    It is grey plus ``saturation`` (0 to 1) times the longest step in a random direction without
    luma that stays within 0 to 255.
    """
    lightness = min(255.0, max(0.0, lightness))
    if saturation <= 0:
        level = round(lightness)
        return level, level, level
    direction = generator.standard_normal(3)
    direction -= direction @ LUMA
    limits = np.where(direction > 0, 255 - lightness, lightness) / np.maximum(abs(direction), 1e-6)
    red, green, blue = np.rint(lightness + saturation * limits.min() * direction).astype(int)
    return int(red), int(green), int(blue)


def _colours(
    style: Style, count: int, family: np.random.Generator, generator: np.random.Generator
) -> tuple[Colour, Colour, list[Colour]]:
    """Two colours of the background and the letters' inks."""
    c = style.colours
    saturation = 0.0 if c.grey else c.saturation

    def lightness(source: np.random.Generator) -> float:
        if c.dark_ink:
            return 255.0 if source.random() < 0.35 else source.uniform(150, 255)
        return 0.0 if source.random() < 0.2 else source.uniform(0, 110)

    ground = lightness(family if c.backdrop_scope == "family" else generator)
    most = ground if c.dark_ink else 255 - ground
    contrast = min(_one(c.contrast, generator), most)
    down = -1 if c.dark_ink else 1

    def ink(source: np.random.Generator) -> Colour:
        if c.contrast_scope == "letter":
            depth = min(most, _one(c.contrast, source))
        else:
            depth = contrast * source.uniform(0.75, 1)
        # Light colours of full saturation are seldom seen; dark ones are.
        return colour(ground + down * depth, saturation, source)

    inks = _shared(c.ink_scope, count, lambda: ink(generator), lambda: ink(family))
    pale = 0.4 * saturation
    first = colour(ground, pale, generator if c.backdrop_scope != "family" else family)
    unevenness = min(c.unevenness, 0.7 * contrast)
    # Mostly away from the ink's lightness.
    other = ground - down * unevenness * generator.choice([1, 1, -0.6])
    return first, colour(other, pale, generator), inks


def _mark_colour(
    style: Style, background: Colour, ink: Colour, generator: np.random.Generator
) -> Colour:
    if style.clutter.colour == "ink":
        return ink
    ground = float(np.dot(background, LUMA))
    if style.clutter.colour == "contrary":
        return (0, 0, 0) if ground > 127 else (255, 255, 255)
    depth = generator.uniform(20, 255)
    lightness = ground - depth if ground > 127 else ground + depth
    return colour(lightness, 0.0 if style.colours.grey else style.colours.saturation, generator)


def _marks(
    style: Style,
    width: int,
    height: int,
    background: Colour,
    ink: Colour,
    generator: np.random.Generator,
) -> tuple[PlannedMark, ...]:
    c = style.clutter
    marks: list[PlannedMark] = []

    def add(kind: MarkKind, points: list[Point], thickness: float) -> None:
        shade = _mark_colour(style, background, ink, generator)
        over = c.over if c.colour == "ink" else c.over and generator.random() < 0.8
        marks.append(PlannedMark(kind, tuple(points), thickness, shade, bool(over)))

    def anywhere() -> Point:
        return generator.uniform(0, width), generator.uniform(0, height)

    for _ in range(_count(c.lines, generator)):
        ends = [anywhere(), anywhere()]
        if c.through:
            ends = [
                (generator.uniform(-0.05, 0.25) * width, ends[0][1]),
                (generator.uniform(0.75, 1.05) * width, ends[1][1]),
            ]
        middle = (
            (ends[0][0] + ends[1][0]) / 2,
            (ends[0][1] + ends[1][1]) / 2 + generator.uniform(-1, 1) * 2 * c.curved * height,
        )
        add("curve", [ends[0], middle, ends[1]], _one(c.line_width, generator))
    for _ in range(_count(c.scratches, generator)):
        x, y = anywhere()
        angle, reach = generator.uniform(0, np.pi), generator.uniform(0.05, 0.35) * height
        add(
            "stroke",
            [(x, y), (x + reach * np.cos(angle), y + reach * np.sin(angle))],
            _one(c.scratch_width, generator),
        )
    for _ in range(_count(c.dots, generator)):
        add("dot", [anywhere()], _one(c.dot_radius, generator))
    for _ in range(_count(c.blots, generator)):
        axes = (generator.uniform(0.05, 0.5) * height, generator.uniform(0.05, 0.4) * height)
        add("ellipse", [anywhere(), axes], 1 if generator.random() < 0.6 else -1)
    return tuple(marks)


def _count(span: Span, generator: np.random.Generator) -> int:
    return int(generator.uniform(span[0], span[1] + 1)) if span[1] > 0 else 0
