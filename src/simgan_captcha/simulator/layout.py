"""Text layouts for a captcha family of which only the approximate text size is known.

Captcha generators keep some properties constant within an image and vary others from letter to
letter. Each image therefore draws its font, size, baseline and amount of variation. Each letter
draws only its deviation from these. Independent letters would rarely form a line of text, and the
bootstrap recognizer would need several times as long to learn.

Shapes: N images, L characters.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.glyphs import GlyphBank
from simgan_captcha.simulator.settings import LayoutSettings, Range
from simgan_captcha.types import Doubles, Floats, Ids


@dataclass(frozen=True)
class Letters:
    """The letters of N images; each array is (N, L)."""

    ids: Ids
    """Class ids; `Scheme.blank` for empty slots."""
    font: Ids
    """Index of the font in the glyph bank."""
    size: Ids
    """Index of the font size in the glyph bank."""
    stroke: Ids
    """Index of the stroke in the glyph bank."""
    scale: Floats
    """Factor that enlarges a letter of that size."""
    rotation: Floats
    """Degrees, counter-clockwise."""
    shear: Floats
    """Horizontal shift per vertical pixel."""
    stretch: Floats
    """Horizontal scale."""
    taper: Floats
    """Perspective: relative growth in width at the centre, per image height downwards."""
    swell: Floats
    """Perspective: relative growth in height at the centre, per image height to the right."""
    bend: Floats
    """Curvature from a wave. A point at horizontal distance d from the centre moves down by
    bend * d**2; d and the shift are in image heights."""
    x: Floats
    """Pixels from the left to the centre of the glyph."""
    y: Floats
    """Pixels from the top to the centre of the glyph."""
    ink: Floats
    """Deviation of the grey level from the common ink level."""


_Placed = TypeVar("_Placed", bound=Letters)


@dataclass(frozen=True)
class _Draws:
    """Random values for N images of L letters each."""

    generator: np.random.Generator
    images: int
    """N."""
    letters: int
    """L."""

    def each(self, limits: Range) -> Doubles:
        """(N, 1): one value per image."""
        return self.generator.uniform(*limits, (self.images, 1))

    def chance(self, share: float) -> npt.NDArray[np.bool_]:
        """(N, 1): true for this share of the images."""
        return self.generator.random((self.images, 1)) < share

    def of_letters(self) -> Doubles:
        """(N, L): from -1 to 1."""
        return self.generator.uniform(-1, 1, (self.images, self.letters))

    def departures(self, limits: Range) -> Doubles:
        """(N, L): symmetric deviations, up to a limit that each image draws."""
        return self.each(limits) * self.of_letters()

    def shared(self, below: int, share: float = 1.0) -> Ids:
        """(N, L): one number per image, or one per letter."""
        alike = self.generator.integers(below, size=(self.images, 1))
        own = self.generator.integers(below, size=(self.images, self.letters))
        return np.where(self.chance(share), alike, own)


def lay_out(
    scheme: Scheme,
    settings: LayoutSettings,
    ink: Range,
    bank: GlyphBank,
    generator: np.random.Generator,
    count: int,
) -> Letters:
    """Draw the texts of ``count`` images, with uniform lengths and characters.

    Args:
        scheme: Scheme with the lengths of texts.
        settings: Ranges of the layout.
        ink: Range of the deviation of an image's ink from the common level.
        bank: Glyph bank.
        generator: Source of all randomness.
        count: N.
    """
    s, L = settings, scheme.max_length
    fonts, sizes, strokes, characters = bank.shape
    draws = _Draws(generator, count, L)
    lengths = generator.integers(scheme.min_length, L + 1, size=(count, 1))
    ids = generator.integers(characters, size=(count, L))
    font = draws.shared(fonts, s.one_font)
    size, stroke = draws.shared(sizes), draws.shared(strokes)
    widths = bank.boxes[bank.index(font, size, stroke, ids)][..., 0]
    x = _line_up(scheme, s, widths, lengths, draws)
    y = scheme.height * (0.5 + draws.each(s.baseline) + draws.departures(s.drift))
    warp = draws.each(s.warp)
    present = np.arange(L) < lengths
    letters = Letters(
        ids=ids if scheme.blank is None else np.where(present, ids, scheme.blank),
        font=font,
        size=size,
        stroke=stroke,
        scale=(1 + draws.departures(s.resize)).astype(np.float32),
        x=x.astype(np.float32),
        y=y.astype(np.float32),
        rotation=draws.departures(s.turn).astype(np.float32),
        shear=(draws.each(s.slant) + draws.departures(s.skew)).astype(np.float32),
        stretch=(draws.each(s.stretch) * (1 + draws.departures(s.resize))).astype(np.float32),
        taper=(warp * draws.of_letters()).astype(np.float32),
        swell=(warp * draws.of_letters()).astype(np.float32),
        bend=np.zeros((count, L), np.float32),
        ink=(draws.each(ink) + draws.departures(s.fade)).astype(np.float32),
    )
    if not scheme.wavy_baseline:
        return letters
    return on_waves(letters, scheme.height, s.wave, s.wavelength, generator)


def _line_up(
    scheme: Scheme, settings: LayoutSettings, widths: Doubles, lengths: Ids, draws: _Draws
) -> Doubles:
    """Centres (N, L) of letters next to each other, in pixels from the left.

    Args:
        scheme: Scheme with the lengths of texts.
        settings: Ranges of the layout.
        widths: (N, L) of the letters, in any unit.
        lengths: (N, 1) number of present letters.
        draws: Source of all randomness.
    """
    # Letters take their own widths, or all the same.
    relative = widths / widths.mean(1, keepdims=True)
    present = np.arange(draws.letters) < lengths
    width = np.where(draws.chance(settings.even), 1, relative) * present
    mean_length = (scheme.min_length + scheme.max_length) / 2
    # Some generators spread texts of any length over the same width.
    spread = draws.chance(0.3)
    extent = draws.each(settings.extent) * scheme.width * np.where(spread, 1, lengths / mean_length)
    # Longer texts would usually leave the image.
    extent = np.minimum(extent, scheme.width)
    distance = extent * width / width.sum(1, keepdims=True)
    # The text is in the middle, or anywhere with room.
    aside = np.where(draws.chance(0.5), 0, draws.each((-0.5, 0.5)))
    start = (scheme.width - extent) * (0.5 + aside)
    x = start + np.cumsum(distance, 1) - distance / 2
    return np.asarray(x + draws.departures(settings.jitter) * extent / lengths)


def on_waves(
    letters: _Placed,
    height: int,
    steepness: Range,
    wavelength: Range,
    generator: np.random.Generator,
) -> _Placed:
    """Place texts on waves, one wave per image.

    With steepness s, frequency f and phase p, the wave is w(x) = s / f * sin(f * x + p). A letter
    at x moves down by w(x), is sheared and rotated along the slope w'(x), and is bent by the
    curvature w''(x). Vertical strokes stay vertical. As an approximation, a tilted letter becomes
    narrower and higher, by a twentieth each at a slope of 0.3.

    Args:
        letters: Letters of N images.
        height: Image height in pixels.
        steepness: Range of s, the greatest slope: pixels down per pixel to the right.
        wavelength: Range of the wavelength in image heights.
        generator: Source of all randomness.
    """
    x, each = letters.x.astype(np.float64), (len(letters.x), 1)
    frequency = 2 * np.pi / (generator.uniform(*wavelength, each) * height)
    phase = frequency * x + generator.uniform(0, 2 * np.pi, each)
    steep = generator.uniform(*steepness, each)
    slope, curvature = steep * np.cos(phase), -steep * frequency * np.sin(phase)

    def further(of_letters: Floats, change: Doubles) -> Floats:
        return (of_letters + change).astype(np.float32)

    return replace(
        letters,
        y=further(letters.y, steep / frequency * np.sin(phase)),
        rotation=further(letters.rotation, -np.rad2deg(np.arctan(slope))),
        shear=further(letters.shear, slope),
        bend=further(letters.bend, curvature * height / 2),
    )
