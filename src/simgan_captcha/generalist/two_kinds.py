"""Detection of two kinds of captcha in one folder.

A property such as the width may take two values within one kind. So an image set counts as two
kinds only if two properties of different groups divide it in the same way.

Shapes: N images, H and W pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from simgan_captcha.data.pictures import Pixels, luma
from simgan_captcha.types import Doubles, Mask

PROPERTIES = {
    "width": "size",
    "height": "size",
    "number of characters": "text",
    "share of digits": "text",
    "share of capitals": "text",
    "height of the text": "letters",
    "brightness of the background": "background",
    "colour of the ink": "ink",
    "amount of ink": "amount",
    "grain": "amount",
}
"""Properties of an image, and the group of each. Those of one group depend on each other."""

_APART = 60
"""Least difference of a colour channel between ink and background."""
_FEWEST = 5
"""Least number of images of a kind."""
_LEAST_SHARE = 0.1
"""Least share of the images of a kind."""
_TWO_VALUES = 0.8
"""Least share of the variance between two parts in the total variance. A uniform distribution has
0.75."""
_ALIKE = 0.95
"""Least share of images that two properties put into the same part."""


@dataclass(frozen=True)
class TwoKinds:
    """A division of N images into two kinds."""

    second: Mask
    """Whether an image belongs to the smaller kind, (N,)."""
    properties: tuple[str, str]
    """The two of `PROPERTIES` that divide the images most similarly."""


def two_kinds(pictures: Sequence[Pixels], texts: Sequence[str]) -> TwoKinds | None:
    """Divide images into two kinds; None if they seem to be of one.

    Args:
        pictures: N images, each (H, W, 3).
        texts: The texts that the generalist reads in them.
    """
    if len(pictures) < 2 * _FEWEST:
        return None
    measured = np.array([list(_properties(*image)) for image in zip(pictures, texts, strict=True)])
    parts = {
        name: part
        for name, values in zip(PROPERTIES, measured.T, strict=True)
        if (part := _divided(values)) is not None
    }
    best, alike = None, _ALIKE
    for one, other in combinations(parts, 2):
        same = float((parts[one] == parts[other]).mean())
        if PROPERTIES[one] != PROPERTIES[other] and max(same, 1 - same) >= alike:
            best, alike = (one, other), max(same, 1 - same)
    if best is None:
        return None
    second = parts[best[0]]
    return TwoKinds(second if second.mean() <= 0.5 else ~second, best)


def _properties(picture: Pixels, text: str) -> Iterator[float]:
    """The values of `PROPERTIES`."""
    height, width, _ = picture.shape
    ground = np.median(picture.reshape(-1, 3), 0)
    ink = np.abs(picture - ground).max(-1) > _APART
    yield width
    yield height
    yield len(text)
    yield sum(character.isdigit() for character in text) / max(1, len(text))
    yield sum(character.isupper() for character in text) / max(1, len(text))
    yield float((ink.mean(1) > ink.mean()).sum())
    yield float(ground.mean())
    yield float(np.ptp(picture[ink], 1).mean()) if ink.any() else 0.0
    yield float(ink.mean())
    yield (
        float(np.abs(np.diff(luma(picture).astype(np.int64), axis=1)).mean()) if width > 1 else 0.0
    )


def _divided(values: Doubles) -> Mask | None:
    """Whether each value (N,) is above the threshold that divides them best (Otsu's method).

    None if one part is too small, or if the values are not clearly of two sizes.
    """
    total = values.var()
    best, part = 0.0, None
    for threshold in np.unique(values)[:-1]:
        above = values > threshold
        share = above.mean()
        apart = values[above].mean() - values[~above].mean()
        if (between := share * (1 - share) * apart**2 / total) > best:
            best, part = between, above
    least = max(_FEWEST, _LEAST_SHARE * len(values))
    if part is None or best < _TWO_VALUES or not least <= part.sum() <= len(values) - least:
        return None
    return np.asarray(part)
