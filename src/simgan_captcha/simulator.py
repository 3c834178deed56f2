"""Synthetic captchas: draw parameters, then render them on the estimated background.

Parameters are plain arrays, so any image can be drawn again; rendering holds no randomness.
"""

from dataclasses import dataclass, fields

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from simgan_captcha.background import Background
from simgan_captcha.errors import ConfigError
from simgan_captcha.glyphs import DEFAULT_FONTS, GlyphBank
from simgan_captcha.images import GreyImages
from simgan_captcha.scheme import Scheme

Range = tuple[float, float]
Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class SimulatorSettings(BaseModel):
    """Ranges that parameters are drawn from, uniformly, for every character or image on its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fonts: tuple[str, ...] = Field(DEFAULT_FONTS, min_length=1)
    """Names (see `glyphs.DEFAULT_FONTS`) or font files; every character draws its own."""
    size: tuple[int, int] = (20, 28)
    """Font size in pixels per em, both ends included."""
    strokes: tuple[float, ...] = (0.0, 0.4)
    """Extra outline in pixels; each character draws one."""
    rotation: Range = (-34.0, 34.0)
    """Degrees, counter-clockwise."""
    shear: Range = (-0.1, 0.1)
    """Horizontal shift per vertical pixel."""
    stretch: Range = (0.9, 1.15)
    """Horizontal scale."""
    horizontal: Range = (-0.38, 0.42)
    """Offset from the middle of the character's slot, in slot pitches (width / length)."""
    vertical: Range = (0.2, 0.8)
    """Where a letter's middle lies, as a fraction of the image height."""
    ink: Range = (-6.0, 4.0)
    """Grey levels off the ink level estimated from the images."""
    nearest: float = Field(0.5, ge=0, le=1)
    """Share of images whose letters are turned without interpolation, as many drawing programs do."""
    blur: Range = (0.0, 0.6)
    """Gaussian blur of the letters before they are laid on the background, sigma in pixels."""
    noise: Range = (0.0, 2.0)
    """Gaussian noise, standard deviation in grey levels."""
    jpeg_quality: tuple[int, int] = (45, 60)
    """JPEG quality, both ends included."""

    @model_validator(mode="after")
    def _ordered(self) -> "SimulatorSettings":
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name not in ("fonts", "strokes", "nearest") and value[0] > value[1]:
                raise ValueError(f"{name}: expected low <= high, got {value}")
        if not 4 <= self.size[0] <= self.size[1] <= 200:
            raise ValueError(f"size: expected 4 to 200 pixels, got {self.size}")
        if not 1 <= self.jpeg_quality[0] <= self.jpeg_quality[1] <= 100:
            raise ValueError(f"jpeg_quality: expected 1 to 100, got {self.jpeg_quality}")
        return self


@dataclass(frozen=True)
class DrawParameters:
    """Everything that decides N images of L characters."""

    ids: Ids
    """(N, L) class ids."""
    font: Ids
    """(N, L) index into the bank's fonts; ``size`` and ``stroke`` likewise."""
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

    def __getitem__(self, images: slice) -> "DrawParameters":
        return DrawParameters(**{f.name: getattr(self, f.name)[images] for f in fields(self)})


class Simulator:
    """Draws labelled captchas of one scheme on one background."""

    def __init__(self, scheme: Scheme, settings: SimulatorSettings, background: Background) -> None:
        """Build the glyph bank.

        Raises:
            ConfigError: The background has another size than the scheme, or a font does not serve.
        """
        if background.grey.shape != (scheme.height, scheme.width):
            raise ConfigError(
                f"expected a background of {scheme.width}x{scheme.height} pixels, got "
                f"{background.grey.shape[1]}x{background.grey.shape[0]}; it belongs to another scheme"
            )
        self.scheme, self.settings, self.background = scheme, settings, background
        low, high = settings.size
        self.bank = GlyphBank(
            scheme.alphabet, settings.fonts, tuple(range(low, high + 1)), settings.strokes
        )
        field = np.random.default_rng(0).standard_normal(_NOISE_FIELD, np.float32)
        self._noise_field = np.concatenate([field, field[: scheme.width * scheme.height]])

    def draw_parameters(self, generator: np.random.Generator, count: int) -> DrawParameters:
        """Parameters of ``count`` images, every character drawn uniformly from the alphabet."""
        s, shape = self.settings, (count, self.scheme.length)
        fonts, sizes, strokes, characters = self.bank.shape

        def uniform(limits: Range, size: tuple[int, ...] = shape) -> Floats:
            return generator.uniform(*limits, size).astype(np.float32)

        pitch = self.scheme.width / self.scheme.length
        slots = (np.arange(self.scheme.length, dtype=np.float32) + 0.5) * pitch
        return DrawParameters(
            ids=generator.integers(characters, size=shape),
            font=generator.integers(fonts, size=shape),
            size=generator.integers(sizes, size=shape),
            stroke=generator.integers(strokes, size=shape),
            rotation=uniform(s.rotation),
            shear=uniform(s.shear),
            stretch=uniform(s.stretch),
            x=slots + uniform(s.horizontal) * np.float32(pitch),
            y=uniform(s.vertical) * np.float32(self.scheme.height),
            ink=np.clip(uniform(s.ink) + np.float32(self.background.ink_level), 0, 255),
            nearest=generator.random(count) < s.nearest,
            blur=uniform(s.blur, (count,)),
            noise=uniform(s.noise, (count,)),
            noise_seed=generator.integers(_NOISE_FIELD, size=count),
            jpeg_quality=generator.integers(*s.jpeg_quality, size=count, endpoint=True),
        )

    def render(self, parameters: DrawParameters) -> GreyImages:
        """The images of these parameters after a real JPEG codec, (N, H, W) ``uint8``."""
        images = np.empty((len(parameters.ids), *self.background.grey.shape), np.uint8)
        for n in range(len(images)):
            images[n] = self._render_one(parameters, n)
        return images

    def _render_one(self, p: DrawParameters, n: int) -> GreyImages:
        canvas = self.background.grey.astype(np.float32)
        flags = cv2.INTER_NEAREST if p.nearest[n] else cv2.INTER_LINEAR
        for slot in range(p.ids.shape[1]):
            self._lay_glyph(canvas, p, n, slot, flags)
        if p.noise[n] > 0:
            start = p.noise_seed[n]
            noise = self._noise_field[start : start + canvas.size].reshape(canvas.shape)
            canvas += noise * p.noise[n]
        grey = cv2.convertScaleAbs(np.maximum(canvas, 0))
        _, data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, int(p.jpeg_quality[n])])
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)

    def _lay_glyph(self, canvas: Floats, p: DrawParameters, n: int, slot: int, flags: int) -> None:
        """Turn, stretch and lay one glyph over the canvas; what falls outside is cut."""
        at = (n, slot)
        glyph = self.bank.glyph(p.font[at], p.size[at], p.stroke[at], p.ids[at])
        cosine, sine = np.cos(np.deg2rad(p.rotation[at])), np.sin(np.deg2rad(p.rotation[at]))
        # Image y points down, so a counter-clockwise turn has the sine below the diagonal negative.
        stretch, shear = p.stretch[at], p.shear[at]
        a, b = cosine * stretch, cosine * shear + sine
        c, d = -sine * stretch, cosine - sine * shear
        height, width = glyph.alpha.shape
        reach = int(np.hypot(width * stretch + height * abs(shear), height)) // 2 + 3
        cx, cy = glyph.centre
        # The patch is centred on the glyph's box, so the box middle must be known in the image.
        mx, my = width / 2 - cx, height / 2 - cy
        x, y = p.x[at] + a * mx + b * my, p.y[at] + c * mx + d * my
        left, top = int(np.floor(x)) - reach, int(np.floor(y)) - reach
        matrix = np.array(
            [
                [a, b, p.x[at] - left - a * cx - b * cy],
                [c, d, p.y[at] - top - c * cx - d * cy],
            ]
        )
        patch = cv2.warpAffine(glyph.alpha, matrix, (2 * reach, 2 * reach), flags=flags)
        if p.blur[n] > 0.3:
            patch = cv2.GaussianBlur(patch, (3, 3), float(p.blur[n]))
        rows = slice(max(top, 0), max(top + 2 * reach, 0))
        columns = slice(max(left, 0), max(left + 2 * reach, 0))
        area = canvas[rows, columns]
        if not area.size:
            return
        patch = patch[rows.start - top :, columns.start - left :][: area.shape[0], : area.shape[1]]
        area += (p.ink[at] - area) * (patch * np.float32(1 / 255))


_NOISE_FIELD = 1 << 18
