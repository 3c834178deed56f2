"""Synthetic captchas: draw parameters, then render them on the estimated background.

Parameters are plain arrays and rendering uses no randomness, so any image can be drawn again.
"""

import math
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from simgan_captcha.data.background import Background
from simgan_captcha.errors import ConfigError
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.calibrated import GLYPH_SCALE, Calibration
from simgan_captcha.simulator.clutter import (
    ANY_CLUTTER,
    Clutter,
    ClutterRanges,
    clutter_like,
    draw_clutter,
    lay_clutter,
)
from simgan_captcha.simulator.codec import through_jpeg
from simgan_captcha.simulator.compositing import lay_letters, with_noise
from simgan_captcha.simulator.glyphs import GlyphBank
from simgan_captcha.simulator.layout import Letters, lay_out
from simgan_captcha.simulator.pose import place_glyphs
from simgan_captcha.simulator.settings import (
    Range,
    SimulatorSettings,
    layout_of,
)
from simgan_captcha.simulator.spacing import letter_heights
from simgan_captcha.types import Floats, GreyImages, Ids


@dataclass(frozen=True)
class DrawParameters(Letters):
    """All parameters of N images of L characters.

    A ``font`` equal to the number of fonts in the bank selects the calibrated glyph. This glyph has
    two versions, see `Simulator.render`. ``ink`` is a grey level, 0 to 255.
    """

    nearest: npt.NDArray[np.bool_]
    """(N,) whether letters are rotated without interpolation."""
    blur: Floats
    """(N,) sigma in pixels."""
    noise: Floats
    """(N,) standard deviation in grey levels."""
    noise_seed: Ids
    """(N,) offset of the image in the noise field."""
    jpeg_quality: Ids
    """(N,) JPEG quality."""
    clutter: Clutter | None = None
    """Clutter; None for schemes without it."""

    def __getitem__(self, images: slice) -> "DrawParameters":
        chosen: dict[str, Any] = {}
        for f in fields(self):
            part = getattr(self, f.name)
            chosen[f.name] = part if part is None else part[images]
        return DrawParameters(**chosen)

    def where(self, others: "DrawParameters", chosen: npt.NDArray[np.bool_]) -> "DrawParameters":
        """Parameters with the images ``chosen`` (N,) taken from ``others``, before clutter."""
        merged: dict[str, Any] = {}
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(others, f.name)
            if mine is not None:
                where = chosen.reshape(-1, *[1] * (mine.ndim - 1))
                merged[f.name] = np.where(where, theirs, mine)
        return DrawParameters(**merged)


@dataclass(frozen=True)
class Shares:
    """Shares of what a calibrated simulator draws. The defaults are those of a training."""

    calibrated_glyphs: float = 0.95
    """Share of characters that are drawn with calibrated glyphs, where these exist. Their shear and
    stretch come from real images, not from the ranges of the settings."""
    other_fonts: float = 0.5
    """Share of calibrated images in one of the fonts of the settings, as large as the calibrated
    glyphs. It applies to schemes with several fonts and a layout. Calibration finds only the mean
    of the fonts."""
    uncalibrated: float = 0.05
    """Share of images that are drawn without calibration, with a layout and the ranges of clutter.
    It keeps the recognizer robust to calibration errors."""


TRAINING = Shares()
"""Shares for the images that a recognizer learns from."""

AS_FOUND = Shares(calibrated_glyphs=1.0, uncalibrated=0.0)
"""Shares for calibrated images only. Schemes with several fonts keep their share of other fonts."""


def check_background(scheme: Scheme, background: Background) -> None:
    """Check that the background has the size of the scheme.

    Raises:
        ConfigError: It has another size.
    """
    if background.grey.shape != (scheme.height, scheme.width):
        raise ConfigError(
            f"expected a background of {scheme.width}x{scheme.height} pixels, got "
            f"{background.grey.shape[1]}x{background.grey.shape[0]}; it belongs to another scheme"
        )


class Simulator:
    """A generator of labelled captchas of one scheme on one background."""

    def __init__(
        self,
        scheme: Scheme,
        settings: SimulatorSettings,
        background: Background,
        calibration: Calibration | None = None,
        *,
        shares: Shares = TRAINING,
        clutter: ClutterRanges = ANY_CLUTTER,
    ) -> None:
        """Build the glyph bank; a calibration takes precedence over the ranges of the settings.

        Args:
            scheme: Scheme of the captchas.
            settings: Fonts and ranges.
            background: Background of the images.
            calibration: Glyphs, poses, rendering and clutter of real images.
            shares: Shares of what is drawn with a calibration.
            clutter: Ranges of clutter that is not calibrated.

        Raises:
            ConfigError: The background has another size, or a font cannot be used.
        """
        check_background(scheme, background)
        self.scheme, self.settings, self.background = scheme, settings, background
        self.shares, self.clutter = shares, clutter
        self.layout = layout_of(scheme, settings)
        # A layout also scales letters, so fewer sizes suffice.
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
        self._noise_field = _noise_field(scheme.width * scheme.height)

    def batch(self, generator: np.random.Generator, count: int) -> tuple[GreyImages, Ids]:
        """Draw images (count, H, W) ``uint8`` and their class ids (count, L)."""
        parameters = self.draw_parameters(generator, count)
        return self.render(parameters), parameters.ids

    def draw_parameters(self, generator: np.random.Generator, count: int) -> DrawParameters:
        """Draw the parameters of ``count`` images, with characters uniform over the alphabet."""
        if self.calibration is None:
            letters = self._free_letters(generator, count)
            level, rendering = self.background.ink_level, self.settings
        else:
            level, rendering = _around(self.calibration, self.settings)
            letters = self._calibrated_letters(self.calibration, rendering, generator, count)
        parameters = self._rendered(letters, level, rendering, generator)
        if self.calibration is not None and self.layout is not None:
            # The recognizer must not forget images that calibration missed.
            free = self._free_letters(generator, count)
            others = self._rendered(free, self.background.ink_level, self.settings, generator)
            parameters = parameters.where(
                others, generator.random(count) < self.shares.uncalibrated
            )
        if not self.scheme.clutter:
            return parameters
        return replace(parameters, clutter=self._clutter(level, generator, count))

    def _clutter(self, ink: float, generator: np.random.Generator, count: int) -> Clutter:
        """Draw calibrated clutter where it is known, and a share of images from wide ranges."""
        ground = float(np.median(self.background.grey))

        def drawn(ranges: ClutterRanges) -> Clutter:
            return draw_clutter(self.scheme, ranges, generator, count, ground=ground, ink=ink)

        free = drawn(self.clutter)
        if self.calibration is None or np.isnan(self.calibration.clutter).all():
            return free
        found = drawn(clutter_like(self.calibration.clutter))
        return found.where(free, generator.random(count) < self.shares.uncalibrated)

    def _free_letters(self, generator: np.random.Generator, count: int) -> Letters:
        """Draw letters from the settings, without calibration."""
        if self.layout is None:
            return self._in_slots(generator, count)
        return lay_out(self.scheme, self.layout, self.settings.ink, self.bank, generator, count)

    def _in_slots(self, generator: np.random.Generator, count: int) -> Letters:
        s, shape = self.settings, (count, self.scheme.max_length)
        fonts, sizes, strokes, characters = self.bank.shape

        def uniform(limits: Range) -> Floats:
            return generator.uniform(*limits, shape).astype(np.float32)

        slot = self.scheme.width / self.scheme.max_length
        places = ((np.arange(self.scheme.max_length) + 0.5) * slot).astype(np.float32)
        # The order of these draws determines the images of a seed.
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
        """Draw letters at the poses of real images, most of them with calibrated glyphs."""
        s, shape = self.settings, (count, self.scheme.max_length)
        fonts, sizes, strokes, characters = self.bank.shape

        def uniform(limits: Range) -> Floats:
            return generator.uniform(*limits, shape).astype(np.float32)

        ids = generator.integers(characters, size=shape)
        font = generator.integers(fonts, size=shape)
        shear, stretch = uniform(s.shear), uniform(s.stretch)
        ids, places = calibration.draw_places(generator, ids)
        x, y, rotation, size, wider, leaning, taper, swell, bend = np.moveaxis(places, -1, 0)
        fitted = calibration.found[ids] & (generator.random(shape) < self.shares.calibrated_glyphs)
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
        if self.layout and self.scheme.multiple_fonts and self.shares.other_fonts:
            return self._in_other_fonts(letters, generator)
        return letters

    def _in_other_fonts(self, letters: Letters, generator: np.random.Generator) -> Letters:
        """Draw a share of images in another font, at the same poses."""
        fonts, sizes, strokes, _ = self.bank.shape
        chosen = generator.random((len(letters.ids), 1)) < self.shares.other_fonts
        font, size, stroke = (
            np.where(chosen, generator.integers(below, size=chosen.shape), of_letters)
            for below, of_letters in (
                (fonts, letters.font),
                (sizes, letters.size),
                (strokes, letters.stroke),
            )
        )
        drawn = np.minimum(font, fonts - 1)  # calibrated glyphs have no index below this
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
        """Add the rendering parameters to letters with ink around ``level``."""
        count = len(letters.ids)

        def uniform(limits: Range) -> Floats:
            return generator.uniform(*limits, count).astype(np.float32)

        blank = letters.ids == self.scheme.blank
        # Absent characters have NaN in a calibration.
        placed = {
            name: np.nan_to_num(getattr(letters, name))
            for name in ("y", "rotation", "shear", "taper", "swell", "bend")
        }
        placed |= {n: np.nan_to_num(getattr(letters, n), nan=1) for n in ("scale", "stretch")}
        return DrawParameters(
            **{f.name: getattr(letters, f.name) for f in fields(letters)}
            | placed
            # Absent characters lie far outside the image.
            | {"x": np.where(blank, np.float32(-10 * self.scheme.width), letters.x)}
            | {"ink": np.clip(letters.ink + np.float32(level), 0, 255)},
            nearest=generator.random(count) < rendering.nearest,
            blur=uniform(rendering.blur),
            noise=uniform(rendering.noise),
            noise_seed=generator.integers(_NOISE_FIELD, size=count),
            jpeg_quality=generator.integers(*rendering.jpeg_quality, size=count, endpoint=True),
        )

    def render(self, parameters: DrawParameters) -> GreyImages:
        """Render images (N, H, W) ``uint8``, after JPEG compression.

        Calibrated glyphs have two versions. The fine one is rotated with interpolation, the one in
        image resolution without it.
        """
        p = parameters
        index, maps, boxes = place_glyphs(p, p.nearest, self.bank, self.scheme)
        side_weight = _side_weight(p.blur)
        images = np.empty((len(p.ids), *self.background.grey.shape), np.uint8)
        for at in range(0, len(images), _AT_ONCE):
            some = slice(at, at + _AT_ONCE)
            canvases = np.empty(images[some].shape, np.float32)
            canvases[:] = self.background.grey
            letters = (index[some], maps[some], boxes[some], p.ink[some])
            lay_letters(canvases, self._glyphs, *letters, p.nearest[some], side_weight[some])
            if p.clutter is not None:
                for n, canvas in enumerate(canvases):
                    lay_clutter(canvas, p.clutter, at + n)
            drawn = with_noise(canvases, self._noise_field, p.noise_seed[some], p.noise[some])
            images[some] = through_jpeg(drawn, p.jpeg_quality[some])
        return images


def _around(
    calibration: Calibration, settings: SimulatorSettings
) -> tuple[float, SimulatorSettings]:
    """The ink level, and settings with narrow ranges around the calibrated rendering.

    The ranges are as wide as the typical uncertainty of the values.
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
    """Factors (fonts, sizes, strokes) that scale letters to the height of calibrated ones."""
    classes = np.flatnonzero(calibration.found)
    if not len(classes):
        return np.ones(bank.shape[:-1], np.float32)
    found = letter_heights(calibration.glyphs)[classes] / GLYPH_SCALE
    drawn = bank.boxes[: math.prod(bank.shape), 1].reshape(bank.shape)[..., classes]
    margins = 2  # see `glyphs.Glyph`
    return np.median(found / (drawn - margins), axis=-1).astype(np.float32)


def _side_weight(blur: Floats) -> Floats:
    """(N,) side weight of a three-pixel Gaussian kernel of sigma ``blur`` (N,) in pixels."""
    off = np.exp(-0.5 / np.square(np.maximum(blur, _LEAST_BLUR)))
    return np.where(blur > _LEAST_BLUR, off / (1 + 2 * off), 0).astype(np.float32)


@lru_cache(maxsize=1)
def _noise_field(pixels: int) -> Floats:
    """Normal noise, longer by an image of these pixels, so that noise can start anywhere."""
    field = np.random.default_rng(0).standard_normal(_NOISE_FIELD, np.float32)
    return np.resize(field, _NOISE_FIELD + pixels)


_NOISE_FIELD = 1 << 18
_SIZES = 8
_LEAST_BLUR = 0.3
_AT_ONCE = 64  # images per chunk, which fit into the processor's cache
