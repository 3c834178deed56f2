"""Synthetic captchas: draw parameters, then render them on the estimated background.

Parameters are plain arrays, so any image can be drawn again; rendering holds no randomness.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from simgan_captcha.data.background import Background
from simgan_captcha.errors import ConfigError
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.calibrated import GLYPH_SCALE, Calibration
from simgan_captcha.simulator.clutter import (
    Clutter,
    ClutterSettings,
    clutter_like,
    draw_clutter,
    lay_clutter,
)
from simgan_captcha.simulator.codec import through_jpeg
from simgan_captcha.simulator.compositing import lay_letters, with_noise
from simgan_captcha.simulator.glyphs import DEFAULT_FONTS, GlyphBank
from simgan_captcha.simulator.layout import LayoutSettings, Letters, lay_out
from simgan_captcha.simulator.spacing import letter_heights
from simgan_captcha.types import Doubles, Floats, GreyImages, Ids, Range


class SimulatorSettings(BaseModel):
    """Ranges that parameters are drawn from, uniformly, for every character or image on its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    fonts: tuple[str, ...] = Field(default=DEFAULT_FONTS, min_length=1)
    """Names (see `glyphs.WIDE_FONTS`) or font files; every character draws its own, with a
    ``layout`` most images one for all."""
    size: tuple[int, int] = (21, 28)
    """Font size in pixels per em, both ends included; at most eight sizes are drawn, with a
    ``layout`` four."""
    strokes: tuple[float, ...] = Field(default=(0.0, 0.4), min_length=1)
    """Extra outline in pixels; each character, with a ``layout`` each image, draws one. Negative:
    hollow letters, see `glyphs.GlyphBank`."""
    rotation: Range = (-32.0, 32.0)
    """Degrees, counter-clockwise."""
    shear: Range = (-0.05, 0.05)
    """Horizontal shift per vertical pixel."""
    stretch: Range = (0.92, 1.12)
    """Horizontal scale."""
    horizontal: Range = (-0.35, 0.45)
    """Offset from the character's slot, in slots (width / length)."""
    vertical: Range = (0.24, 0.76)
    """Where a letter's middle lies, as a fraction of the image height."""
    ink: Range = (-6.0, 4.0)
    """Grey levels off the ink level estimated from the images."""
    nearest: float = Field(default=0.6, ge=0, le=1)
    """Share of images whose letters are turned without interpolation, as many programs do."""
    blur: Range = (0.0, 0.5)
    """Gaussian blur of the letters before they are laid on the background, sigma in pixels; below
    0.3 there is none."""
    noise: Range = (0.0, 2.0)
    """Gaussian noise, standard deviation in grey levels."""
    jpeg_quality: tuple[int, int] = (45, 60)
    """JPEG quality, both ends included."""
    fitted: float = Field(default=0.95, ge=0, le=1)
    """Share of characters that are drawn with the glyphs calibration found, if it found them; they
    are sheared and stretched as real ones are, not by these ranges."""
    other_fonts: float = Field(default=0.5, ge=0, le=1)
    """Of a scheme of several fonts with a ``layout``, the share of calibrated images whose letters
    are all of one of the ``fonts``, as large as those found: calibration finds the fonts' mean."""
    free: float = Field(default=0.05, ge=0, le=1)
    """Share of images that a ``layout`` draws even where a calibration is known, and of those whose
    clutter is drawn by its ranges. A scout has its own, ``calibration.free``."""
    layout: LayoutSettings | None = None
    """How letters stand where not even that is known: it goes before ``rotation``, ``shear``,
    ``stretch``, ``horizontal`` and ``vertical``, and ``ink`` is drawn for each image. Texts of
    several lengths always have one. None: slot by slot, by those ranges."""
    clutter: ClutterSettings = ClutterSettings()
    """What lies among the letters, where the scheme says so."""

    @model_validator(mode="after")
    def _in_bounds(self) -> "SimulatorSettings":
        for name, (lowest, highest) in _BOUNDS.items():
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise ValueError(
                    f"{name}: expected {lowest} <= low <= high <= {highest}, got {low}, {high}"
                )
        if not all(-10 <= stroke <= 10 for stroke in self.strokes):
            raise ValueError(f"strokes: expected -10 to 10 pixels each, got {self.strokes}")
        return self


_BOUNDS: dict[str, tuple[float, float]] = {
    "size": (4, 200),
    "rotation": (-360, 360),
    "shear": (-2, 2),
    "stretch": (0.1, 10),
    "horizontal": (-10, 10),
    "vertical": (-10, 10),
    "ink": (-255, 255),
    "blur": (0, 1),  # the filter is 3x3
    "noise": (0, 255),
    "jpeg_quality": (1, 100),
}


@dataclass(frozen=True)
class DrawParameters(Letters):
    """Everything that decides N images of L characters.

    ``font`` is the number of the bank's fonts for a calibration's glyph, of which there are two
    versions (see `Simulator.render`), and ``ink`` a grey level, 0 to 255.
    """

    nearest: npt.NDArray[np.bool_]
    """(N,) whether letters are turned without interpolation."""
    blur: Floats
    """(N,) sigma in pixels."""
    noise: Floats
    """(N,) standard deviation in grey levels."""
    noise_seed: Ids
    """(N,) where in the noise field this image's noise begins."""
    jpeg_quality: Ids
    """(N,)"""
    clutter: Clutter | None = None
    """None where the scheme has none."""

    def __getitem__(self, images: slice) -> "DrawParameters":
        chosen: dict[str, Any] = {}
        for f in fields(self):
            part = getattr(self, f.name)
            chosen[f.name] = part if part is None else part[images]
        return DrawParameters(**chosen)

    def or_else(self, others: "DrawParameters", chosen: npt.NDArray[np.bool_]) -> "DrawParameters":
        """Those of ``others`` instead where ``chosen`` (N,); neither has clutter yet."""
        merged: dict[str, Any] = {}
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(others, f.name)
            if mine is not None:
                where = chosen.reshape(-1, *[1] * (mine.ndim - 1))
                merged[f.name] = np.where(where, theirs, mine)
        return DrawParameters(**merged)


def as_found(settings: SimulatorSettings) -> SimulatorSettings:
    """Only as calibration found real images, without what readers learn from beside them.

    Those of several fonts, where the scheme says so, are of several here as well.
    """
    return settings.model_copy(update={"fitted": 1.0, "free": 0.0})


def check_background(scheme: Scheme, background: Background) -> None:
    """Refuse a background of another size than the scheme.

    Raises:
        ConfigError: It is one.
    """
    if background.grey.shape != (scheme.height, scheme.width):
        raise ConfigError(
            f"expected a background of {scheme.width}x{scheme.height} pixels, got "
            f"{background.grey.shape[1]}x{background.grey.shape[0]}; it belongs to another scheme"
        )


def layout_of(scheme: Scheme, settings: SimulatorSettings) -> LayoutSettings | None:
    """How letters stand; None where they stand slot by slot, by ranges.

    Slots are of one length, so texts of several always have a layout.
    """
    return settings.layout or (None if scheme.absent is None else LayoutSettings())


class Simulator:
    """Draws labelled captchas of one scheme on one background."""

    def __init__(
        self,
        scheme: Scheme,
        settings: SimulatorSettings,
        background: Background,
        calibration: Calibration | None = None,
    ) -> None:
        """Build the glyph bank; what a calibration found goes before the settings' ranges.

        Raises:
            ConfigError: The background has another size than the scheme, or a font does not serve.
        """
        check_background(scheme, background)
        self.scheme, self.settings, self.background = scheme, settings, background
        self.layout = layout_of(scheme, settings)
        # A layout enlarges letters, too, so it needs fewer.
        number = _SIZES if self.layout is None else _SIZES // 2
        sizes = np.unique(np.rint(np.linspace(*settings.size, number)).astype(np.int64)).tolist()
        self.bank = GlyphBank(scheme.alphabet, settings.fonts, tuple(sizes), settings.strokes)
        self.calibration = calibration
        if calibration is not None:
            K = len(scheme.alphabet)
            self.bank.append(list(calibration.drawn_glyphs()[:K]), GLYPH_SCALE)
            self.bank.append(calibration.drawn_rasters()[:K], 1)
            self._height_factors = _height_factors(self.bank, calibration)
        self._glyphs = self.bank.packed()
        field = np.random.default_rng(0).standard_normal(_NOISE_FIELD, np.float32)
        # Longer by an image, so that noise may begin anywhere in the field.
        self._noise_field = np.resize(field, _NOISE_FIELD + scheme.width * scheme.height)

    def batch(self, generator: np.random.Generator, count: int) -> tuple[GreyImages, Ids]:
        """New images (count, H, W) ``uint8`` and their class ids (count, L)."""
        parameters = self.draw_parameters(generator, count)
        return self.render(parameters), parameters.ids

    def draw_parameters(self, generator: np.random.Generator, count: int) -> DrawParameters:
        """Parameters of ``count`` images, every character drawn uniformly from the alphabet."""
        if self.calibration is None:
            letters = self._free_letters(generator, count)
            level, rendering = self.background.ink_level, self.settings
        else:
            level, rendering = _around(self.calibration, self.settings)
            letters = self._calibrated_letters(self.calibration, rendering, generator, count)
        parameters = self._rendered(letters, level, rendering, generator)
        if self.calibration is not None and self.layout is not None:
            # What calibration did not see must not be forgotten.
            free = self._free_letters(generator, count)
            others = self._rendered(free, self.background.ink_level, self.settings, generator)
            parameters = parameters.or_else(others, generator.random(count) < self.settings.free)
        if not self.scheme.clutter:
            return parameters
        return replace(parameters, clutter=self._clutter(level, generator, count))

    def _clutter(self, ink: float, generator: np.random.Generator, count: int) -> Clutter:
        """As real images have it, where that is known; of a share of images by the settings."""
        ground = float(np.median(self.background.grey))

        def drawn(settings: ClutterSettings) -> Clutter:
            return draw_clutter(self.scheme, settings, generator, count, ground=ground, ink=ink)

        free = drawn(self.settings.clutter)
        if self.calibration is None or np.isnan(self.calibration.clutter).all():
            return free
        found = drawn(clutter_like(self.calibration.clutter))
        return found.or_else(free, generator.random(count) < self.settings.free)

    def _free_letters(self, generator: np.random.Generator, count: int) -> Letters:
        """By the settings' ranges alone."""
        if self.layout is None:
            return self._in_slots(generator, count)
        return lay_out(self.scheme, self.layout, self.settings.ink, self.bank, generator, count)

    def _in_slots(self, generator: np.random.Generator, count: int) -> Letters:
        s, shape = self.settings, (count, self.scheme.length)
        fonts, sizes, strokes, characters = self.bank.shape

        def uniform(limits: Range) -> Floats:
            return generator.uniform(*limits, shape).astype(np.float32)

        slot = self.scheme.width / self.scheme.length
        places = ((np.arange(self.scheme.length) + 0.5) * slot).astype(np.float32)
        # This order decides what a seed draws.
        return Letters(
            ids=generator.integers(characters, size=shape),
            font=generator.integers(fonts, size=shape),
            shear=uniform(s.shear),
            stretch=uniform(s.stretch),
            x=places + uniform(s.horizontal) * np.float32(slot),
            y=uniform(s.vertical) * np.float32(self.scheme.height),
            rotation=uniform(s.rotation),
            size=generator.integers(sizes, size=shape),
            stroke=generator.integers(strokes, size=shape),
            scale=np.ones(shape, np.float32),
            taper=np.zeros(shape, np.float32),
            swell=np.zeros(shape, np.float32),
            bend=np.zeros(shape, np.float32),
            ink=uniform(s.ink),
        )

    def _calibrated_letters(
        self,
        calibration: Calibration,
        rendering: SimulatorSettings,
        generator: np.random.Generator,
        count: int,
    ) -> Letters:
        """Where real ones stand, most of them with the glyphs that were found."""
        s, shape = self.settings, (count, self.scheme.length)
        fonts, sizes, strokes, characters = self.bank.shape

        def uniform(limits: Range) -> Floats:
            return generator.uniform(*limits, shape).astype(np.float32)

        ids = generator.integers(characters, size=shape)
        font = generator.integers(fonts, size=shape)
        shear, stretch = uniform(s.shear), uniform(s.stretch)
        ids, places = calibration.draw_places(generator, ids)
        x, y, rotation, size, wider, leaning, taper, swell, bend = np.moveaxis(places, -1, 0)
        fitted = calibration.found[ids] & (generator.random(shape) < s.fitted)
        letters = Letters(
            ids=ids,
            font=np.where(fitted, fonts, font),
            shear=np.where(fitted, np.float32(0), shear) + leaning,
            stretch=np.where(fitted, np.float32(1), stretch) * np.exp(wider),
            x=x,
            y=y,
            rotation=rotation,
            size=generator.integers(sizes, size=shape),
            stroke=generator.integers(strokes, size=shape),
            scale=np.exp(size),
            taper=taper,
            swell=swell,
            bend=bend,
            ink=uniform(rendering.ink),
        )
        if self.layout and self.scheme.several_fonts and s.other_fonts:
            return self._in_other_fonts(letters, generator)
        return letters

    def _in_other_fonts(self, letters: Letters, generator: np.random.Generator) -> Letters:
        """Some images' letters, standing where they do, each image's in one font."""
        fonts, sizes, strokes, _ = self.bank.shape
        chosen = generator.random((len(letters.ids), 1)) < self.settings.other_fonts
        font, size, stroke = (
            np.where(chosen, generator.integers(below, size=chosen.shape), of_letters)
            for below, of_letters in (
                (fonts, letters.font),
                (sizes, letters.size),
                (strokes, letters.stroke),
            )
        )
        drawn = np.minimum(font, fonts - 1)  # that of found glyphs is none of these
        as_high = letters.scale * self._height_factors[drawn, size, stroke]
        scale = np.where(chosen, as_high, letters.scale)
        return replace(letters, font=font, size=size, stroke=stroke, scale=scale)

    def _rendered(
        self,
        letters: Letters,
        level: float,
        rendering: SimulatorSettings,
        generator: np.random.Generator,
    ) -> DrawParameters:
        """Letters of N images whose ink is about ``level``, and how each image is rendered."""
        count = len(letters.ids)

        def uniform(limits: Range) -> Floats:
            return generator.uniform(*limits, count).astype(np.float32)

        absent = letters.ids == self.scheme.absent
        # Of what is absent a calibration knows nothing.
        placed = {
            name: np.nan_to_num(getattr(letters, name))
            for name in ("y", "rotation", "shear", "taper", "swell", "bend")
        }
        placed |= {n: np.nan_to_num(getattr(letters, n), nan=1) for n in ("scale", "stretch")}
        return DrawParameters(
            **{f.name: getattr(letters, f.name) for f in fields(letters)}
            | placed
            # Far outside, where nothing is drawn of it.
            | {"x": np.where(absent, np.float32(-10 * self.scheme.width), letters.x)}
            | {"ink": np.clip(letters.ink + np.float32(level), 0, 255)},
            nearest=generator.random(count) < rendering.nearest,
            blur=uniform(rendering.blur),
            noise=uniform(rendering.noise),
            noise_seed=generator.integers(_NOISE_FIELD, size=count),
            jpeg_quality=generator.integers(*rendering.jpeg_quality, size=count, endpoint=True),
        )

    def render(self, parameters: DrawParameters) -> GreyImages:
        """The images of these parameters as a JPEG leaves them, (N, H, W) ``uint8``.

        A calibration's glyph is turned from its fine version with interpolation, without from the
        one of an image's own resolution.
        """
        p = parameters
        index, maps, boxes = self._place(p)
        beside = _beside(p.blur)
        images = np.empty((len(p.ids), *self.background.grey.shape), np.uint8)
        for at in range(0, len(images), _AT_ONCE):
            some = slice(at, at + _AT_ONCE)
            canvases = np.empty(images[some].shape, np.float32)
            canvases[:] = self.background.grey
            letters = (index[some], maps[some], boxes[some], p.ink[some])
            lay_letters(canvases, self._glyphs, *letters, p.nearest[some], beside[some])
            if p.clutter is not None:
                for n, canvas in enumerate(canvases):
                    lay_clutter(canvas, p.clutter, at + n)
            drawn = with_noise(canvases, self._noise_field, p.noise_seed[some], p.noise[some])
            images[some] = through_jpeg(drawn, p.jpeg_quality[some])
        return images

    def _place(self, p: DrawParameters) -> tuple[Ids, Floats, Ids]:
        """Where every letter goes.

        Returns:
            (N, L) glyph indices; (N, L, 2, 5) maps from the image's pixels to the glyph's, see
            `compositing.lay_letters`; (N, L, 4) the box that it may reach, cut to the image: left,
            top, right, bottom.
        """
        coarse = (p.font >= self.bank.shape[0]) & p.nearest[:, None]
        drawn = np.minimum(p.ids, len(self.scheme.alphabet) - 1)  # what is absent lies outside
        index = self.bank.index(p.font + coarse, p.size, p.stroke, drawn)
        size, centre = self.bank.boxes[index], self.bank.centres[index]
        turn = np.deg2rad(p.rotation.astype(np.float64))
        cosine, sine = np.cos(turn), np.sin(turn)
        stretch, shear = p.stretch.astype(np.float64), p.shear.astype(np.float64)
        scale = self.bank.scales[index] * p.scale
        # Image y points down, so a counter-clockwise turn has its minus below the diagonal.
        linear = _matrices(
            cosine * stretch,
            cosine * shear + sine,
            -sine * stretch,
            cosine - sine * shear,
            scale,
        )
        back = _matrices(
            cosine - sine * shear,
            -cosine * shear - sine,
            sine * stretch,
            cosine * stretch,
            1 / (scale * stretch),
        )
        place = np.stack([p.x, p.y], axis=-1, dtype=np.float64)
        off = _apply(linear, size / 2 - centre)
        reach = _apply(np.abs(linear), size / 2)
        # What is bent reaches further up or down, what tapers further on its wide side; what would
        # fold over is cut.
        taper, swell, bend = (warp / self.scheme.height for warp in (p.taper, p.swell, p.bend))
        extent = np.abs(off) + reach
        ends = np.abs(bend) * np.square(extent[..., 0])
        reach[..., 1] += ends
        extent[..., 1] += ends
        folded = np.minimum((np.abs(taper) + np.abs(swell)) * extent.max(-1), _MOST_FOLDED)
        reach += extent * (folded / (1 - folded))[..., None] + 1  # and a pixel for the blur
        limits = (self.scheme.width, self.scheme.height)
        start = np.clip(np.floor(place + off - reach), 0, limits).astype(np.int64)
        stop = np.clip(np.ceil(place + off + reach), 0, limits).astype(np.int64)
        # Pixels are counted from the middle of the first one, places from its corner.
        origin = place - 0.5
        # What the product of how far right and how far down of the place a pixel lies counts.
        diagonal = np.stack([(taper - shear * swell) / stretch, swell], -1) / -scale[..., None]
        offset = centre - 0.5 - _apply(back, origin) + diagonal * origin.prod(-1, keepdims=True)
        # Likewise the square of how far right it lies.
        square, from_left = -bend[..., None] * back[..., 1], origin[..., :1]
        offset += square * np.square(from_left)
        back = back - diagonal[..., None] * origin[..., None, ::-1]
        along = back[..., 0] - 2 * square * from_left
        maps = np.stack([along, back[..., 1], offset, diagonal, square], axis=-1)
        maps = maps.astype(np.float32)
        return index, maps, np.concatenate([start, stop], axis=-1)


def _around(
    calibration: Calibration, settings: SimulatorSettings
) -> tuple[float, SimulatorSettings]:
    """The ink level, and the settings with narrow ranges about the rendering that was found.

    As wide as its values are commonly uncertain, so that nothing depends on their being exact.
    """
    ink, blur, nearest, noise, quality, _ = (float(value) for value in calibration.rendering)
    return ink, settings.model_copy(
        update={
            "ink": (-1.0, 1.0),
            "blur": (max(0.0, blur - 0.1), min(1.0, blur + 0.1)),
            "nearest": nearest,
            "noise": (max(0.0, noise - 0.5), noise + 0.5),
            "jpeg_quality": (max(1, round(quality) - 1), min(100, round(quality) + 1)),
        }
    )


def _height_factors(bank: GlyphBank, calibration: Calibration) -> Floats:
    """(fonts, sizes, strokes) factors by which letters become as high as those that were found."""
    classes = np.flatnonzero(calibration.found)
    if not len(classes):
        return np.ones(bank.shape[:-1], np.float32)
    found = letter_heights(calibration.glyphs)[classes] / GLYPH_SCALE
    drawn = bank.boxes[: math.prod(bank.shape), 1].reshape(bank.shape)[..., classes]
    margins = 2  # see `glyphs.Glyph`
    return np.median(found / (drawn - margins), axis=-1).astype(np.float32)


def _matrices(a: Doubles, b: Doubles, c: Doubles, d: Doubles, scale: Doubles) -> Doubles:
    """(N, L, 2, 2) of (N, L) values, row after row, all times a scale."""
    return np.asarray((np.stack([a, b, c, d], axis=-1) * scale[..., None]).reshape(*a.shape, 2, 2))


def _beside(blur: Floats) -> Floats:
    """(N,) what a Gaussian of sigma ``blur`` (N,) in pixels gives to each neighbour of three."""
    off = np.exp(-0.5 / np.square(np.maximum(blur, _LEAST_BLUR)))
    return np.where(blur > _LEAST_BLUR, off / (1 + 2 * off), 0).astype(np.float32)


def _apply(linear: Doubles, points: Doubles) -> Doubles:
    """(N, L, 2, 2) matrices times (N, L, 2) points."""
    return np.asarray((linear * points[..., None, :]).sum(axis=-1))


_NOISE_FIELD = 1 << 18
_SIZES = 8
_LEAST_BLUR = 0.3
_MOST_FOLDED = 0.5
_AT_ONCE = 64  # images, which stay in the processor's cache from step to step
