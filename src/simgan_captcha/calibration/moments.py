"""Moments of images: what the fit of the rendering compares.

They are histograms of grey levels, differences of neighbouring pixels, coefficients of the JPEG
transform, and, with clutter, sizes of components and the profile of the ink.

Shapes: N images, H and W pixels, M moments.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from simgan_captcha.data.background import Background
from simgan_captcha.types import Doubles, Floats, GreyImages

_BLOCK = 8
_INKED = -0.4
"""Ink threshold in the range from -1 (no ink) to 1."""
_STRIPS = 12
"""Number of strips per axis for the ink profile."""


def image_moments(
    images: GreyImages, background: Background, *, cluttered: bool = False
) -> Doubles:
    """Mean moments (M,) of images (N, H, W), with those of clutter if ``cluttered``."""
    N = len(images)
    ink = background.normalise(images)[:, 0]
    free = ~background.line_mask
    right = np.abs(np.diff(ink, axis=2))[:, free[:, 1:] & free[:, :-1]]
    down = np.abs(np.diff(ink, axis=1))[:, free[1:] & free[:-1]]
    bend = 4 * ink[:, 1:-1, 1:-1] - ink[:, :-2, 1:-1] - ink[:, 2:, 1:-1]
    bend = np.abs(bend - ink[:, 1:-1, :-2] - ink[:, 1:-1, 2:])[:, free[1:-1, 1:-1]]
    inked = images[(ink > 0.3) & free]
    coefficients = _block_coefficients(images)
    return np.concatenate(
        [
            np.log1p(coefficients).mean(0),
            (coefficients < 1.5).mean(0),
            _histogram(ink[:, free], 32, -1.0, 1.0) / N,
            _histogram(inked.astype(np.float32), 64, 0, 256) / N,
            _histogram(right, 14, 0.1, 2) / N,
            _histogram(down, 14, 0.1, 2) / N,
            _histogram(bend, 16, 0.2, 6) / N,
            *(_clutter_moments(ink) if cluttered else ()),
        ]
    )


def _clutter_moments(ink: Floats) -> Iterator[Doubles]:
    """Sizes of connected components, and the mean ink in strips of the image."""
    sizes = [
        cv2.connectedComponentsWithStats((image > _INKED).astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
        for image in ink
    ]
    octaves = np.log2(np.concatenate(sizes)).clip(0, 11.9).astype(np.float32)
    yield _histogram(octaves, 24, 0, 12) / len(ink)
    profile = ink.mean(0, dtype=np.float64)
    for axis in (0, 1):
        strips = np.array_split(profile, min(_STRIPS, profile.shape[axis]), axis)
        yield np.array([strip.mean() for strip in strips])


def _histogram(values: npt.NDArray[np.float32], bins: int, low: float, high: float) -> Doubles:
    """Counts (bins,) of values from ``low`` to ``high``, both included."""
    if not values.size:
        return np.zeros(bins)
    # OpenCV takes a fraction of the time of numpy, and leaves out the upper limit.
    counts = cv2.calcHist([values], [0], None, [bins], [low, high]).ravel()
    counts[-1] += np.count_nonzero(values == high)
    return np.asarray(counts, np.float64)


def _block_coefficients(images: GreyImages) -> Floats:
    """Magnitudes (blocks, 64) of the discrete cosine transform of JPEG."""
    n = np.arange(_BLOCK)
    cosines = np.cos(np.pi * np.outer(n, 2 * n + 1) / (2 * _BLOCK)) * np.sqrt(2 / _BLOCK)
    cosines[0] /= np.sqrt(2)
    cosines = cosines.astype(np.float32)
    rows, columns = (side // _BLOCK for side in images.shape[1:])
    cut = images[:, : rows * _BLOCK, : columns * _BLOCK].astype(np.float32)
    blocks = cut.reshape(-1, rows, _BLOCK, columns, _BLOCK).swapaxes(2, 3)
    transformed = cosines @ blocks.reshape(-1, _BLOCK, _BLOCK) @ cosines.T
    return np.asarray(np.abs(transformed.reshape(-1, _BLOCK * _BLOCK)), np.float32)
