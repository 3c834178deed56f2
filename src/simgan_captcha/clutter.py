"""Strokes and dots that belong to no letter, elsewhere in every image.

Shapes: N images, M lines and D dots in each, of which some are not there.
"""

from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from simgan_captcha.scheme import Scheme

Range = tuple[float, float]
Floats = npt.NDArray[np.float32]

_BEND = 12
"""Straight pieces that a curved line is drawn of."""
_FINE = 3
"""Binary digits that OpenCV takes of a coordinate's fraction."""


class ClutterSettings(BaseModel):
    """Ranges that clutter is drawn from, uniformly, where the scheme has it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    lines: int = Field(default=5, ge=0, le=100)
    """The most lines of an image; each image draws how many, none among them."""
    line_width: tuple[float, float] = (0.02, 0.06)
    """Of the image's height; at least one pixel."""
    bend: float = Field(default=0.5, ge=0, le=5)
    """How far a line's middle may lie off its ends' middle, as a fraction of the image's height."""
    dots: int = Field(default=60, ge=0, le=10_000)
    """The most dots of an image, likewise."""
    dot_radius: tuple[float, float] = (0.01, 0.035)
    """Of the image's height; at least half a pixel."""
    strength: tuple[float, float] = (0.3, 1.1)
    """How strong its ink is beside the letters'; each image draws one of lines and one of dots."""

    @model_validator(mode="after")
    def _in_bounds(self) -> "ClutterSettings":
        for name, highest in (("line_width", 1), ("dot_radius", 1), ("strength", 10)):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= highest:
                raise ValueError(
                    f"{name}: expected 0 <= low <= high <= {highest}, got {low}, {high}"
                )
        return self


@dataclass(frozen=True)
class Clutter:
    """Of N images."""

    lines: Floats
    """(N, M, 3, 2) x and y in pixels of both ends and of where the line bends to."""
    line_width: Floats
    """(N, M) pixels; 0 where there is no line."""
    line_ink: Floats
    """(N,) grey level; ``dot_ink`` likewise."""
    dots: Floats
    """(N, D, 2) x and y in pixels."""
    dot_radius: Floats
    """(N, D) pixels; 0 where there is no dot."""
    dot_ink: Floats

    def __getitem__(self, images: slice) -> "Clutter":
        return Clutter(**{f.name: getattr(self, f.name)[images] for f in fields(self)})

    def with_lines_of(self, other: "Clutter") -> "Clutter":
        """With another clutter's lines, too; all in the ink of those that are there first."""
        ink = self.line_ink if self.lines.size else other.line_ink
        return replace(
            self,
            lines=np.concatenate([self.lines, other.lines], 1),
            line_width=np.concatenate([self.line_width, other.line_width], 1),
            line_ink=ink,
        )


def draw_clutter(
    scheme: Scheme,
    settings: ClutterSettings,
    generator: np.random.Generator,
    count: int,
    *,
    ground: float,
    ink: float,
) -> Clutter:
    """Clutter of ``count`` images, as the scheme has it.

    Args:
        scheme: Says which kinds there are, and the size.
        settings: How much.
        generator: Decides everything.
        count: N.
        ground: Grey level of the background.
        ink: Grey level of letters.
    """
    W, H = scheme.width, scheme.height
    M = settings.lines if "lines" in scheme.clutter else 0
    D = settings.dots if "dots" in scheme.clutter else 0

    def uniform(limits: Range, *size: int) -> Floats:
        return generator.uniform(*limits, size).astype(np.float32)

    def present(most: int) -> npt.NDArray[np.bool_]:
        """(N, most): as many as were drawn, none to all."""
        return np.asarray(np.arange(most) < generator.integers(most + 1, size=(count, 1)))

    # From the left half to the right one, as lines through a text do, or anywhere.
    across = generator.random((count, M)) < 0.7
    x0 = uniform((0, W), count, M) * np.where(across, 0.4, 1)
    x2 = np.where(across, W - uniform((0, W), count, M) * 0.4, uniform((0, W), count, M))
    y0, y2 = uniform((0, H), count, M), uniform((0, H), count, M)
    bend = uniform((-settings.bend, settings.bend), count, M) * H
    x1, y1 = (x0 + x2) / 2 + uniform((-0.1, 0.1), count, M) * W, (y0 + y2) / 2 + bend
    points = np.stack([np.stack([x0, y0], -1), np.stack([x1, y1], -1), np.stack([x2, y2], -1)], 2)
    width = np.maximum(uniform(settings.line_width, count, M) * H, 1)
    radius = np.maximum(uniform(settings.dot_radius, count, D) * H, 0.5)

    def level(strength: Floats) -> Floats:
        levels = np.clip(ground + (ink - ground) * strength, 0, 255)
        return np.asarray(levels, np.float32)

    return Clutter(
        lines=points.astype(np.float32),
        line_width=width * present(M),
        line_ink=level(uniform(settings.strength, count)),
        dots=np.stack([uniform((0, W), count, D), uniform((0, H), count, D)], -1),
        dot_radius=radius * present(D),
        dot_ink=level(uniform(settings.strength, count)),
    )


def lay_clutter(canvas: Floats, clutter: Clutter, image: int) -> None:
    """Draw the clutter of one image on its canvas (H, W), in place."""
    layer = np.zeros(canvas.shape, np.uint8)
    for points, width in zip(clutter.lines[image], clutter.line_width[image].tolist(), strict=True):
        if width:
            curve = np.rint(_curve(points) * (1 << _FINE)).astype(np.int32)
            cv2.polylines(layer, [curve], False, 255, round(width), cv2.LINE_AA, _FINE)
    _lay(canvas, layer, clutter.line_ink[image])
    layer[:] = 0
    places = np.rint(clutter.dots[image] * (1 << _FINE)).astype(np.int64).tolist()
    for place, radius in zip(places, clutter.dot_radius[image].tolist(), strict=True):
        if radius:
            cv2.circle(layer, place, round(radius * (1 << _FINE)), 255, -1, cv2.LINE_AA, _FINE)
    _lay(canvas, layer, clutter.dot_ink[image])


def _lay(canvas: Floats, layer: npt.NDArray[np.uint8], ink: np.float32) -> None:
    canvas += (ink - canvas) * (layer.astype(np.float32) / 255)


def _curve(points: Floats) -> Floats:
    """(n, 2) points of the parabola from the first to the last of (3, 2), drawn to the middle."""
    t = np.linspace(0, 1, _BEND, dtype=np.float32)[:, None]
    weights = np.concatenate([(1 - t) ** 2, 2 * t * (1 - t), t**2], 1)
    return np.asarray(weights @ points)
