"""Clutter: lines, dots and texture that differ from image to image.

Shapes: N images with up to M lines and D dots each; absent ones have width or radius 0.
"""

import math
from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import numpy.typing as npt

from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.settings import Range
from simgan_captcha.types import Floats, Ids

LINES = ("lines", "line_width", "bend", "line_strength")
DOTS = ("dots", "dot_radius", "dot_strength")
TEXTURE = ("texture", "grain")
CLUTTER = LINES + DOTS + TEXTURE
"""Calibrated values of clutter, in order; see `ClutterRanges` for their meaning."""

_HIGHEST = {
    "lines": 100,
    "line_width": 1,
    "line_strength": 10,
    "dots": 10_000,
    "dot_radius": 1,
    "dot_strength": 10,
    "grain": 1,
}
"""Upper bounds of calibrated ranges."""

_UNSURE = 0.25
"""Relative half width of the range in which calibrated clutter is drawn."""

_BEND = 12
"""Points of a curved line."""
_FINE = 3
"""Fractional bits of OpenCV's coordinates."""


_MOST = ("bend", "texture")
"""Values that are the upper end of a range from 0, not its middle."""


@dataclass(frozen=True)
class ClutterRanges:
    """Ranges of clutter, drawn uniformly, for schemes that have it.

    The default ranges are wide, because nothing is known of the clutter of a new family.
    """

    lines: Range = (0, 5)
    """Number of lines in an image, ends included. With a fraction, some images have one more."""
    line_width: Range = (0.02, 0.06)
    """Width of lines as a fraction of the image height; at least one pixel."""
    bend: float = 0.5
    """Greatest offset of the control point of a curved line, as a fraction of the image height."""
    line_strength: Range = (0.3, 1.1)
    """Strength of the lines relative to the ink of letters; one value per image."""
    dots: Range = (0, 60)
    """Number of dots in an image, ends included. With a fraction, some images have one more."""
    dot_radius: Range = (0.01, 0.035)
    """Radius of dots as a fraction of the image height; at least half a pixel."""
    dot_strength: Range = (0.3, 1.1)
    """Strength of the dots relative to the ink of letters; one value per image."""
    texture: float = 0.3
    """Greatest strength of the texture: its standard deviation relative to the ink of letters. Each
    image draws one value."""
    grain: Range = (0.01, 0.06)
    """Grain of the texture: the sigma of the Gaussian that blurs white noise, as a fraction of the
    image height. Each image draws one value."""


ANY_CLUTTER = ClutterRanges()
"""The ranges of clutter that is not calibrated."""


def clutter_like(found: Floats) -> ClutterRanges:
    """Narrow ranges around the values (9,) of `CLUTTER`; NaN for absent kinds."""
    ranges: dict[str, Range | float] = {}
    for name, value in zip(CLUTTER, np.nan_to_num(found).tolist(), strict=True):
        low, high = value * (1 - _UNSURE), value * (1 + _UNSURE)
        ranges[name] = value if name in _MOST else (low, min(high, _HIGHEST[name]))
    return ClutterRanges(**ranges)  # type: ignore[arg-type]


def middles() -> Floats:
    """The middles (9,) of the ranges `ANY_CLUTTER`, in the order of `CLUTTER`."""
    return np.array([np.mean(getattr(ANY_CLUTTER, name)) for name in CLUTTER], np.float32)


@dataclass(frozen=True)
class Clutter:
    """Clutter of N images."""

    lines: Floats
    """(N, M, 3, 2) x and y in pixels of the start, control point and end of each line."""
    line_width: Floats
    """(N, M) pixels; 0 where there is no line."""
    line_ink: Floats
    """(N,) grey level of the lines."""
    dots: Floats
    """(N, D, 2) x and y in pixels."""
    dot_radius: Floats
    """(N, D) pixels; 0 where there is no dot."""
    dot_ink: Floats
    """(N,) grey level of the dots."""
    texture: Floats
    """(N,) standard deviation in grey levels; 0 where there is none."""
    grain: Floats
    """(N,) sigma in pixels that blurs the noise."""
    texture_seed: Ids
    """(N,) random seeds of the noise."""

    def __getitem__(self, images: slice) -> "Clutter":
        return Clutter(**{f.name: getattr(self, f.name)[images] for f in fields(self)})

    def where(self, other: "Clutter", chosen: npt.NDArray[np.bool_]) -> "Clutter":
        """Clutter with the images ``chosen`` (N,) taken from ``other``."""
        merged = {}
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            if mine.ndim > 1:
                most = max(mine.shape[1], theirs.shape[1])
                mine, theirs = _as_many(mine, most), _as_many(theirs, most)
            merged[f.name] = np.where(chosen.reshape(-1, *[1] * (mine.ndim - 1)), theirs, mine)
        return Clutter(**merged)

    def with_lines_of(self, other: "Clutter") -> "Clutter":
        """Clutter with the lines of another added, all in the ink of the first."""
        ink = self.line_ink if self.lines.size else other.line_ink
        return replace(
            self,
            lines=np.concatenate([self.lines, other.lines], 1),
            line_width=np.concatenate([self.line_width, other.line_width], 1),
            line_ink=ink,
        )


def _as_many(parts: Floats, most: int) -> Floats:
    """Pad (N, m, ...) to (N, most, ...) with absent entries."""
    return np.pad(parts, [(0, 0), (0, most - parts.shape[1]), *[(0, 0)] * (parts.ndim - 2)])


def draw_clutter(
    scheme: Scheme,
    ranges: ClutterRanges,
    generator: np.random.Generator,
    count: int,
    *,
    ground: float,
    ink: float,
) -> Clutter:
    """Draw the clutter of ``count`` images.

    Args:
        scheme: Scheme with the kinds of clutter and the image size.
        ranges: Ranges of the clutter.
        generator: Source of all randomness.
        count: N.
        ground: Grey level of the background.
        ink: Grey level of letters.
    """
    W, H = scheme.width, scheme.height
    M = math.ceil(ranges.lines[1]) if "lines" in scheme.clutter else 0
    D = math.ceil(ranges.dots[1]) if "dots" in scheme.clutter else 0
    streams = iter(generator.spawn(_STREAMS))

    def uniform(limits: Range, most: int | None = None) -> Floats:
        """(N,), or (N, most), where the first entries do not depend on ``most``."""
        size = count if most is None else (most, count)
        return next(streams).uniform(*limits, size).astype(np.float32).T

    def present(limits: Range, most: int) -> npt.NDArray[np.bool_]:
        """(N, most): whether each entry is present."""
        number = np.floor(uniform((limits[0], limits[1] + 1)))
        return np.asarray(np.arange(most) < number[:, None])

    # From the left part to the right part, as lines through a text, or anywhere.
    across = uniform((0, 1), M) < 0.7
    x0 = uniform((0, W), M) * np.where(across, 0.4, 1)
    x2 = W - uniform((0, W), M) * np.where(across, 0.4, 1)
    y0, y2 = uniform((0, H), M), uniform((0, H), M)
    bend = uniform((-ranges.bend, ranges.bend), M) * H
    x1, y1 = (x0 + x2) / 2 + uniform((-0.1, 0.1), M) * W, (y0 + y2) / 2 + bend
    points = np.stack([np.stack([x0, y0], -1), np.stack([x1, y1], -1), np.stack([x2, y2], -1)], 2)
    # Lines have whole widths in pixels: with a fraction, some are one pixel wider.
    width = np.floor(uniform(ranges.line_width, M) * H + uniform((0, 1), M))
    radius = np.maximum(uniform(ranges.dot_radius, D) * H, 0.5)

    def level(strength: Floats) -> Floats:
        levels = np.clip(ground + (ink - ground) * strength, 0, 255)
        return np.asarray(levels, np.float32)

    texture, grain, texture_seed = _draw_texture(
        scheme, ranges, generator, count, abs(ink - ground)
    )
    return Clutter(
        lines=points.astype(np.float32),
        line_width=np.maximum(width, 1) * present(ranges.lines, M),
        line_ink=level(uniform(ranges.line_strength)),
        dots=np.stack([uniform((0, W), D), uniform((0, H), D)], -1),
        dot_radius=radius * present(ranges.dots, D),
        dot_ink=level(uniform(ranges.dot_strength)),
        texture=texture,
        grain=grain,
        texture_seed=texture_seed,
    )


def _draw_texture(
    scheme: Scheme,
    ranges: ClutterRanges,
    generator: np.random.Generator,
    count: int,
    contrast: float,
) -> tuple[Floats, Floats, Ids]:
    """Draw texture, grain and seeds, see `Clutter`; ``contrast`` is that of letters."""
    if "texture" not in scheme.clutter:
        return *np.zeros((2, count), np.float32), np.zeros(count, np.int64)
    # Separate streams keep lines and dots the same with and without texture.
    strength, coarseness, noise = generator.spawn(3)
    texture = strength.uniform(0, ranges.texture * contrast, count).astype(np.float32)
    grain = (scheme.height * coarseness.uniform(*ranges.grain, count)).astype(np.float32)
    return texture, grain, noise.integers(1 << 32, size=count)


_STREAMS = 16
_FINEST = 0.3
"""Sigma in pixels below which the grain is white noise."""


def lay_clutter(canvas: Floats, clutter: Clutter, image: int) -> None:
    """Draw the clutter of one image on its canvas (H, W), in place."""
    if clutter.texture[image]:
        _lay_texture(canvas, clutter, image)
    layer = np.zeros(canvas.shape, np.uint8)
    for points, width in zip(clutter.lines[image], clutter.line_width[image].tolist(), strict=True):
        if width:
            bent = np.rint(curve(points) * (1 << _FINE)).astype(np.int32)
            cv2.polylines(layer, [bent], False, 255, round(width), cv2.LINE_AA, _FINE)
    _lay(canvas, layer, clutter.line_ink[image])
    layer[:] = 0
    places = np.rint(clutter.dots[image] * (1 << _FINE)).astype(np.int64).tolist()
    for place, radius in zip(places, clutter.dot_radius[image].tolist(), strict=True):
        if radius:
            cv2.circle(layer, place, round(radius * (1 << _FINE)), 255, -1, cv2.LINE_AA, _FINE)
    _lay(canvas, layer, clutter.dot_ink[image])


def _lay_texture(canvas: Floats, clutter: Clutter, image: int) -> None:
    generator = np.random.default_rng(clutter.texture_seed[image])
    noise = generator.standard_normal(canvas.shape, np.float32)
    grain = float(clutter.grain[image])
    if grain > _FINEST:
        noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), grain), np.float32)
    canvas += noise * (clutter.texture[image] / noise.std())
    # Levels of ink on black are distances from the background, so they have no sign.
    np.abs(canvas, out=canvas)


def _lay(canvas: Floats, layer: npt.NDArray[np.uint8], ink: np.float32) -> None:
    canvas += (ink - canvas) * (layer.astype(np.float32) / 255)


def curve(points: Floats, number: int = _BEND) -> Floats:
    """Points (n, 2) of the quadratic Bezier curve with the control points (3, 2)."""
    t = np.linspace(0, 1, number, dtype=np.float32)[:, None]
    weights = np.concatenate([(1 - t) ** 2, 2 * t * (1 - t), t**2], 1)
    return np.asarray(weights @ points)
