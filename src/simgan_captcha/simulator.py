"""Synthetic captchas: draw parameters, then render them on the estimated background.

Parameters are plain arrays, so any image can be drawn again; rendering holds no randomness.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from simgan_captcha.background import Background
from simgan_captcha.calibration.calibration import GLYPH_SCALE, Calibration
from simgan_captcha.clutter import Clutter, ClutterSettings, draw_clutter, lay_clutter
from simgan_captcha.errors import ConfigError
from simgan_captcha.glyphs import DEFAULT_FONTS, GlyphBank
from simgan_captcha.images import GreyImages, decode_grey, encode_jpeg
from simgan_captcha.scheme import Scheme

Range = tuple[float, float]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


class SimulatorSettings(BaseModel):
    """Ranges that parameters are drawn from, uniformly, for every character or image on its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    fonts: tuple[str, ...] = Field(default=DEFAULT_FONTS, min_length=1)
    """Names (see `glyphs.DEFAULT_FONTS`) or font files; every character draws its own."""
    size: tuple[int, int] = (21, 28)
    """Font size in pixels per em, both ends included; at most eight sizes are drawn."""
    strokes: tuple[float, ...] = Field(default=(0.0, 0.4), min_length=1)
    """Extra outline in pixels; each character draws one."""
    rotation: Range = (-32.0, 32.0)
    """Degrees, counter-clockwise."""
    shear: Range = (-0.05, 0.05)
    """Horizontal shift per vertical pixel."""
    stretch: Range = (0.92, 1.12)
    """Horizontal scale."""
    pitch: Range = (1.0, 1.0)
    """From one character's place to the next, of an image, in slots (width / length)."""
    shift: Range = (0.0, 0.0)
    """Of all characters of an image, to the right, as a fraction of what the pitch leaves free."""
    horizontal: Range = (-0.35, 0.45)
    """Offset from the character's place, in pitches."""
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
    are neither sheared nor stretched."""
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
        if not all(0 <= stroke <= 10 for stroke in self.strokes):
            raise ValueError(f"strokes: expected 0 to 10 pixels each, got {self.strokes}")
        return self


_BOUNDS: dict[str, tuple[float, float]] = {
    "size": (4, 200),
    "rotation": (-360, 360),
    "shear": (-2, 2),
    "stretch": (0.1, 10),
    "pitch": (0.1, 2),
    "shift": (-0.5, 0.5),
    "horizontal": (-10, 10),
    "vertical": (-10, 10),
    "ink": (-255, 255),
    "blur": (0, 1),  # the filter is 3x3
    "noise": (0, 255),
    "jpeg_quality": (1, 100),
}


@dataclass(frozen=True)
class DrawParameters:
    """Everything that decides N images of L characters."""

    ids: Ids
    """(N, L) class ids; `Scheme.absent` where no character stands."""
    font: Ids
    """(N, L) index into the bank's fonts, or their number for a calibration's glyph, of which
    there are two versions (see `Simulator.render`); ``size`` and ``stroke`` likewise."""
    size: Ids
    stroke: Ids
    rotation: Floats
    """(N, L) degrees; ``shear``, ``stretch`` as in the settings."""
    shear: Floats
    stretch: Floats
    x: Floats
    """(N, L) pixels: where the glyph's centre goes; ``y`` likewise."""
    y: Floats
    ink: Floats
    """(N, L) grey level, 0 to 255."""
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
        sizes = np.unique(np.rint(np.linspace(*settings.size, _SIZES)).astype(np.int64)).tolist()
        self.bank = GlyphBank(scheme.alphabet, settings.fonts, tuple(sizes), settings.strokes)
        self.calibration = calibration
        if calibration is not None:
            K = len(scheme.alphabet)
            self.bank.append(list(calibration.drawn_glyphs()[:K]), GLYPH_SCALE)
            self.bank.append(calibration.drawn_rasters()[:K], 1)
        field = np.random.default_rng(0).standard_normal(_NOISE_FIELD, np.float32)
        # Longer by an image, so that noise may begin anywhere in the field.
        self._noise_field = np.resize(field, _NOISE_FIELD + scheme.width * scheme.height)

    def batch(self, generator: np.random.Generator, count: int) -> tuple[GreyImages, Ids]:
        """New images (count, H, W) ``uint8`` and their class ids (count, L)."""
        parameters = self.draw_parameters(generator, count)
        return self.render(parameters), parameters.ids

    def draw_parameters(self, generator: np.random.Generator, count: int) -> DrawParameters:
        """Parameters of ``count`` images, every character drawn uniformly from the alphabet."""
        s, shape = self.settings, (count, self.scheme.length)
        fonts, sizes, strokes, characters = self.bank.shape

        def uniform(limits: Range, size: tuple[int, ...] = shape) -> Floats:
            return generator.uniform(*limits, size).astype(np.float32)

        ids = generator.integers(characters, size=shape)
        font = generator.integers(fonts, size=shape)
        shear, stretch = uniform(s.shear), uniform(s.stretch)
        if self.calibration is None:
            ids = self._cut_short(generator, ids)
            places, pitch = self._columns(generator, ids)
            x = places + uniform(s.horizontal) * pitch
            y = uniform(s.vertical) * np.float32(self.scheme.height)
            rotation = uniform(s.rotation)
            ink_level, rendering = self.background.ink_level, s
        else:
            ids, x, y, rotation = self.calibration.draw_places(generator, ids)
            fitted = self.calibration.found[ids] & (generator.random(shape) < s.fitted)
            font = np.where(fitted, fonts, font)
            shear, stretch = np.where(fitted, 0, shear), np.where(fitted, 1, stretch)
            ink_level, rendering = _around(self.calibration, s)
        # Far outside, where nothing is drawn of it.
        x = np.where(ids == self.scheme.absent, np.float32(-10 * self.scheme.width), x)
        y, rotation = np.nan_to_num(y), np.nan_to_num(rotation)
        ground = float(np.median(self.background.grey))
        parameters = DrawParameters(
            ids=ids,
            font=font,
            size=generator.integers(sizes, size=shape),
            stroke=generator.integers(strokes, size=shape),
            rotation=rotation,
            shear=shear.astype(np.float32),
            stretch=stretch.astype(np.float32),
            x=x,
            y=y,
            ink=np.clip(uniform(rendering.ink) + np.float32(ink_level), 0, 255),
            nearest=generator.random(count) < rendering.nearest,
            blur=uniform(rendering.blur, (count,)),
            noise=uniform(rendering.noise, (count,)),
            noise_seed=generator.integers(_NOISE_FIELD, size=count),
            jpeg_quality=generator.integers(*rendering.jpeg_quality, size=count, endpoint=True),
        )
        if not self.scheme.clutter:
            return parameters
        clutter = draw_clutter(
            self.scheme, s.clutter, generator, count, ground=ground, ink=ink_level
        )
        return replace(parameters, clutter=clutter)

    def _cut_short(self, generator: np.random.Generator, ids: Ids) -> Ids:
        """(N, L) texts of the scheme's lengths, each as likely as the others."""
        scheme = self.scheme
        if scheme.absent is None or scheme.shortest is None:
            return ids
        lengths = generator.integers(scheme.shortest, scheme.length + 1, size=(len(ids), 1))
        return np.where(np.arange(scheme.length) < lengths, ids, scheme.absent)

    def _columns(self, generator: np.random.Generator, ids: Ids) -> tuple[Floats, Floats]:
        """(N, L) pixels from the left where characters are placed about, and the pitch, (N, 1)."""
        s, (count, L) = self.settings, ids.shape
        lengths = np.full((count, 1), L)

        def each(limits: Range) -> Doubles:
            low, high = limits
            drawn = generator.uniform(low, high, (count, 1)) if low < high else low
            return np.broadcast_to(drawn, (count, 1))

        slots = lengths
        if self.scheme.absent is not None:
            lengths = (ids != self.scheme.absent).sum(1, keepdims=True)
            # Some programs spread a short text over the width, others leave the rest free.
            slots = np.where(generator.random((count, 1)) < 0.5, lengths, L)
        pitch = each(s.pitch) * (self.scheme.width / slots)
        start = (self.scheme.width - pitch * lengths) * (0.5 + each(s.shift))
        places = start + (np.arange(L) + 0.5) * pitch
        return places.astype(np.float32), pitch.astype(np.float32)

    def render(self, parameters: DrawParameters) -> GreyImages:
        """The images of these parameters after a real JPEG codec, (N, H, W) ``uint8``.

        A calibration's glyph is turned from its fine version with interpolation, without from the
        one of an image's own resolution.
        """
        p = parameters
        index, matrices, boxes = self._place(p)
        # Single numbers are read from lists, which takes a fraction of reading them from arrays.
        indices, edges, inks = index.tolist(), boxes.tolist(), p.ink.tolist()
        blurs, noises, noise_starts = p.blur.tolist(), p.noise.tolist(), p.noise_seed.tolist()
        flags = np.where(p.nearest, cv2.INTER_NEAREST, cv2.INTER_LINEAR).tolist()
        images = np.empty((len(p.ids), *self.background.grey.shape), np.uint8)
        for n, quality in enumerate(p.jpeg_quality.tolist()):
            canvas = self.background.grey.astype(np.float32)
            for glyph, matrix, (left, top, right, bottom), ink in zip(
                indices[n], matrices[n], edges[n], inks[n], strict=True
            ):
                if left >= right or top >= bottom:
                    continue
                patch = cv2.warpAffine(
                    self.bank.glyphs[glyph].alpha,
                    matrix,
                    (right - left, bottom - top),
                    flags=flags[n],
                )
                if blurs[n] > 0.3:
                    patch = cv2.GaussianBlur(patch, (3, 3), blurs[n])
                area = canvas[top:bottom, left:right]
                area += (ink - area) * (patch * np.float32(1 / 255))
            if p.clutter is not None:
                lay_clutter(canvas, p.clutter, n)
            if noises[n] > 0:
                noise = self._noise_field[noise_starts[n] : noise_starts[n] + canvas.size]
                canvas += noise.reshape(canvas.shape) * noises[n]
            grey = cv2.convertScaleAbs(np.maximum(canvas, 0))
            images[n] = decode_grey(encode_jpeg(grey, quality))
        return images

    def _place(self, p: DrawParameters) -> tuple[Ids, Doubles, Ids]:
        """Where every letter goes.

        Returns:
            (N, L) glyph indices; (N, L, 2, 3) affine maps from a glyph's pixels to those of its
            box; (N, L, 4) that box, cut to the image: left, top, right, bottom.
        """
        coarse = (p.font >= self.bank.shape[0]) & p.nearest[:, None]
        drawn = np.minimum(p.ids, len(self.scheme.alphabet) - 1)  # what is absent lies outside
        index = self.bank.index(p.font + coarse, p.size, p.stroke, drawn)
        size, centre = self.bank.boxes[index], self.bank.centres[index]
        turn = np.deg2rad(p.rotation.astype(np.float64))
        cosine, sine = np.cos(turn), np.sin(turn)
        # Image y points down, so a counter-clockwise turn has its minus below the diagonal.
        linear = np.stack(
            [
                cosine * p.stretch,
                cosine * p.shear + sine,
                -sine * p.stretch,
                cosine - sine * p.shear,
            ],
            axis=-1,
            dtype=np.float64,
        ).reshape(*index.shape, 2, 2)
        linear *= self.bank.scales[index][..., None, None]
        place = np.stack([p.x, p.y], axis=-1, dtype=np.float64)
        middle = place + _apply(linear, size / 2 - centre)
        reach = _apply(np.abs(linear), size / 2) + 1  # and a pixel all round for the blur
        limits = (self.scheme.width, self.scheme.height)
        start = np.clip(np.floor(middle - reach), 0, limits).astype(np.int64)
        stop = np.clip(np.ceil(middle + reach), 0, limits).astype(np.int64)
        # OpenCV counts from the middle of the first pixel, glyphs and places from its corner.
        offset = place + _apply(linear, 0.5 - centre) - start - 0.5
        matrices = np.concatenate([linear, offset[..., None]], axis=-1)
        return index, matrices, np.concatenate([start, stop], axis=-1)


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


def _apply(linear: Doubles, points: Doubles) -> Doubles:
    """(N, L, 2, 2) matrices times (N, L, 2) points."""
    return np.asarray((linear * points[..., None, :]).sum(axis=-1))


_NOISE_FIELD = 1 << 18
_SIZES = 8
