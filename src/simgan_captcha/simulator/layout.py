"""How letters stand in images of a family that nothing is known of but how large its texts are.

Programs that draw captchas keep some things the same within an image and change others from letter
to letter. So each image draws its own font, size, baseline and how orderly it is, and each letter
only its departure from them. Letters drawn wholly on their own would hardly ever stand in a line,
and take a scout several times as long to learn.

Shapes: N images, L characters.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.glyphs import GlyphBank
from simgan_captcha.types import Doubles, Floats, Ids, Range


class LayoutSettings(BaseModel):
    """Ranges that are drawn from uniformly."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    extent: Range = (0.6, 0.95)
    """Width of a text of mean length, as a fraction of the image's; each image draws one."""
    one_font: float = Field(default=0.7, ge=0, le=1)
    """Share of images whose letters are all of one font."""
    even: float = Field(default=0.4, ge=0, le=1)
    """Share of images whose letters stand at equal distances, not each after the width of the one
    before."""
    jitter: Range = (0.0, 0.25)
    """How far letters lie off their places, in distances to the next; each image draws how far at
    most."""
    baseline: Range = (-0.12, 0.12)
    """Of an image, as a fraction of its height, off where a text would stand in the middle."""
    slant: Range = (-0.25, 0.25)
    """Of an image's letters: horizontal shift per vertical pixel."""
    stretch: Range = (0.6, 1.2)
    """Of an image's letters: horizontal scale."""
    drift: Range = (0.0, 0.2)
    """How far letters lie off the baseline, as a fraction of the height; each image draws how far
    at most. Likewise ``turn`` (degrees), ``skew`` (off the image's slant), ``resize`` (a fraction
    of the size, and of the width once more) and ``fade`` (grey levels)."""
    turn: Range = (0.0, 35.0)
    skew: Range = (0.0, 0.3)
    resize: Range = (0.0, 0.3)
    fade: Range = (0.0, 30.0)
    warp: Range = (0.0, 0.6)
    """How much letters `taper` and `swell`, see `Letters`; each image draws how much at most."""
    wave: Range = (0.0, 0.3)
    """How steep the baseline of a scheme with waves is where it is steepest; each image draws its
    own."""
    wavelength: Range = (0.7, 2.5)
    """In image heights; each image draws its own."""

    @model_validator(mode="after")
    def _in_bounds(self) -> "LayoutSettings":
        for name, (lowest, highest) in _BOUNDS.items():
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise ValueError(
                    f"{name}: expected {lowest} <= low <= high <= {highest}, got {low}, {high}"
                )
        return self


_BOUNDS: dict[str, tuple[float, float]] = {
    "extent": (0.05, 2),
    "jitter": (0, 2),
    "baseline": (-1, 1),
    "slant": (-2, 2),
    "stretch": (0.1, 10),
    "drift": (0, 1),
    "turn": (0, 360),
    "skew": (0, 2),
    "resize": (0, 0.9),
    "fade": (0, 255),
    "warp": (0, 1),  # with more, letters fold over
    "wave": (0, 2),
    "wavelength": (0.1, 100),
}


@dataclass(frozen=True)
class Letters:
    """Of N images; every array is (N, L)."""

    ids: Ids
    """Class ids; `Scheme.absent` where no character stands."""
    font: Ids
    """Index into the bank's fonts; ``size`` and ``stroke`` likewise."""
    size: Ids
    stroke: Ids
    scale: Floats
    """By which a letter of that size is enlarged."""
    rotation: Floats
    """Degrees."""
    shear: Floats
    """As in `simulator.SimulatorSettings`; ``stretch`` likewise."""
    stretch: Floats
    taper: Floats
    """Perspective: by which share a letter widens, at its centre, per image height down."""
    swell: Floats
    """Likewise how it grows taller to the right."""
    bend: Floats
    """How far its ends are bent down beside its middle, in image heights: so far where they are one
    to either side, a quarter of it where they are half of one. What a letter shows of a wave."""
    x: Floats
    """Pixels: where the glyph's centre goes; ``y`` likewise."""
    y: Floats
    ink: Floats
    """Grey levels off those of the letters of all images."""


_Placed = TypeVar("_Placed", bound=Letters)


def lay_out(
    scheme: Scheme,
    settings: LayoutSettings,
    ink: Range,
    bank: GlyphBank,
    generator: np.random.Generator,
    count: int,
) -> Letters:
    """Texts of ``count`` images, every length and character as likely as the others.

    Args:
        scheme: Says how long texts are.
        settings: How they stand.
        ink: Grey levels of an image's letters off those of all.
        bank: To draw with.
        generator: Decides everything.
        count: N.
    """
    s, L = settings, scheme.length
    fonts, sizes, strokes, characters = bank.shape

    def each(limits: Range) -> Doubles:
        """(N, 1): of each image."""
        return generator.uniform(*limits, (count, 1))

    def departures(limits: Range) -> Doubles:
        """(N, L): up to as much as each image draws, either way."""
        return each(limits) * generator.uniform(-1, 1, (count, L))

    def shared(below: int, share: float = 1.0) -> Ids:
        """(N, L): one number for all letters of an image, or each its own."""
        alike = generator.integers(below, size=(count, 1))
        own = generator.integers(below, size=(count, L))
        return np.where(generator.random((count, 1)) < share, alike, own)

    lengths = generator.integers(scheme.shortest or L, L + 1, size=(count, 1))
    ids = generator.integers(characters, size=(count, L))
    font, size, stroke = shared(fonts, s.one_font), shared(sizes), shared(strokes)
    present = np.arange(L) < lengths

    # Letters as wide as they are, or all alike.
    width = bank.boxes[bank.index(font, size, stroke, ids)][..., 0]
    width /= width.mean(1, keepdims=True)
    width = np.where(generator.random((count, 1)) < s.even, 1, width) * present
    mean_length = (L + (scheme.shortest or L)) / 2
    # Some programs spread a text of any length over one width.
    spread = generator.random((count, 1)) < 0.3
    extent = each(s.extent) * scheme.width * np.where(spread, 1, lengths / mean_length)
    # Longer ones would leave the image more often than not.
    extent = np.minimum(extent, scheme.width)
    distance = extent * width / width.sum(1, keepdims=True)
    # In the middle, or wherever there is room.
    aside = np.where(
        generator.random((count, 1)) < 0.5, 0, generator.uniform(-0.5, 0.5, (count, 1))
    )
    start = (scheme.width - extent) * (0.5 + aside)
    x = start + np.cumsum(distance, 1) - distance / 2
    x += departures(s.jitter) * extent / lengths
    y = scheme.height * (0.5 + each(s.baseline) + departures(s.drift))
    warp = each(s.warp)
    letters = Letters(
        ids=ids if scheme.absent is None else np.where(present, ids, scheme.absent),
        font=font,
        size=size,
        stroke=stroke,
        scale=(1 + departures(s.resize)).astype(np.float32),
        x=x.astype(np.float32),
        y=y.astype(np.float32),
        rotation=departures(s.turn).astype(np.float32),
        shear=(each(s.slant) + departures(s.skew)).astype(np.float32),
        stretch=(each(s.stretch) * (1 + departures(s.resize))).astype(np.float32),
        taper=(warp * generator.uniform(-1, 1, (count, L))).astype(np.float32),
        swell=(warp * generator.uniform(-1, 1, (count, L))).astype(np.float32),
        bend=np.zeros((count, L), np.float32),
        ink=(each(ink) + departures(s.fade)).astype(np.float32),
    )
    if not scheme.waves:
        return letters
    return on_waves(letters, scheme.height, s.wave, s.wavelength, generator)


def on_waves(
    letters: _Placed,
    height: int,
    steepness: Range,
    wavelength: Range,
    generator: np.random.Generator,
) -> _Placed:
    """The texts on waves, one for each image.

    A wave moves and tilts a letter as it does the letter's middle, and bends it. What is upright
    stays so. Not drawn is that a tilted letter keeps its width and height: it comes out narrower
    and higher, by a twentieth each where the wave is as steep as 0.3.

    Args:
        letters: Of N images.
        height: Of the images, pixels.
        steepness: Of a wave where it is steepest, pixels down for each one to the right, a range.
        wavelength: In image heights, a range.
        generator: Decides everything.
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
