"""The look of a reader's own images, and whether other images differ from it.

No label is needed: the figures are of pixels, and of the reader's own confidence.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from simgan_captcha.types import GreyImages

OWN_IMAGES = 500
"""Number of a reader's own images that give the ranges."""
MOST_LOOKS = 1000
"""Number of new images that are compared; later ones are not looked at."""

FEWEST_LOOKS = 10
"""Fewest new images for an alarm."""
_TAIL = 0.01
"""Share of the own images that lies outside the range of a figure of pixels."""
_LEAST_CONFIDENT = 0.1
"""Share of the own images that lies below the range of the confidence. It is larger, because each
family has a few images that are hardly read."""
_MOST_EVIDENCE = 2
"""Number of figures that an alarm names."""
_MARGIN = 0.05
"""Share by which a range is widened, so that equal images do not make an empty range."""


@dataclass(frozen=True)
class Look:
    """Figures of one image."""

    aspect_ratio: float
    """Width of the picture divided by its height."""
    brightness: float
    """Mean of the pixels that the reader receives, 0 to 255."""
    contrast: float
    """Standard deviation of these pixels."""
    detail: float
    """Mean difference between neighbouring pixels in a row."""
    confidence: float
    """Probability of the most probable text, without constraints."""


FIGURES = tuple(field.name for field in fields(Look))


def look(width: int, height: int, grey: GreyImages, confidence: float) -> Look:
    """Figures of one image: size of the picture, pixels (H, W), and confidence."""
    levels = grey.astype(np.float32)
    return Look(
        width / height,
        float(levels.mean()),
        float(levels.std()),
        float(np.abs(np.diff(levels, axis=1)).mean()),
        float(confidence),
    )


@dataclass(frozen=True)
class Family:
    """Ranges that hold the figures of nearly all of a reader's own images."""

    ranges: Mapping[str, tuple[float, float]]
    """For each of `FIGURES` the least and the greatest value."""

    @staticmethod
    def of(looks: Sequence[Look]) -> "Family":
        """The family of own images, at least one."""
        ranges = {}
        for name in FIGURES:
            values = [getattr(one, name) for one in looks]
            if name == "confidence":  # an image that is read well is never strange
                ranges[name] = (float(np.quantile(values, _LEAST_CONFIDENT)) * (1 - _MARGIN), 1.0)
                continue
            low, high = np.quantile(values, [_TAIL / 2, 1 - _TAIL / 2]).tolist()
            ranges[name] = (low * (1 - _MARGIN), high * (1 + _MARGIN))
        return Family(ranges)

    @staticmethod
    def from_description(values: Any) -> "Family":
        """The family that `describe` described.

        Raises:
            ValueError: A range is missing or is none.
        """
        if not isinstance(values, dict):
            raise ValueError("its metadata has no ranges of its images")
        ranges = {}
        for name in FIGURES:
            match values.get(name):
                case [float() | int() as low, float() | int() as high] if (
                    math.isfinite(low) and math.isfinite(high) and low <= high
                ):
                    ranges[name] = (float(low), float(high))
                case other:
                    raise ValueError(f"its metadata has no range of {name}: {other!r}"[:200])
        return Family(ranges)

    def describe(self) -> dict[str, list[float]]:
        """Plain values for a file."""
        return {name: [float(f"{end:.6g}") for end in ends] for name, ends in self.ranges.items()}

    def alarm(self, looks: Sequence[Look]) -> str | None:
        """Say in words that images differ from the family; None if they do not.

        They differ if more than half of them lie outside the range of one figure. Of own images, at
        most one in 10 does. If images are independent, 10 own ones give a false alarm with a
        probability of about 0.00015 a figure, and more images with a lower one.
        """
        if len(looks) < FEWEST_LOOKS:
            return None
        found = []
        for name, (low, high) in self.ranges.items():
            values = np.array([getattr(one, name) for one in looks])
            outside = int(((values < low) | (values > high)).sum())
            if 2 * outside > len(looks):
                where = (
                    f"below {low:.3g}" if name == "confidence" else f"not {low:.3g} to {high:.3g}"
                )
                words = f"the {name.replace('_', ' ')} of {outside} is {where}"
                found.append((outside, f"{words} (median {np.median(values):.3g})"))
        if not found:
            return None
        strongest = sorted(found, key=lambda one: -one[0])[:_MOST_EVIDENCE]
        return (
            "these images may be of another captcha family than those that the reader learned "
            f"from: of {len(looks)} images, {', and '.join(words for _, words in strongest)}"
        )
