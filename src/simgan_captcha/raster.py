"""Operations on the pixels of a picture, in numpy and Pillow alone: reading needs no OpenCV.

Shapes: H and W pixels, C colours.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from simgan_captcha.types import Doubles, Floats, Ids, Mask

_Pixels = npt.NDArray[np.uint8]
_Count = TypeVar("_Count", np.uint8, np.uint16)

_ENOUGH = 8
"""Most pixels for one of the result that `resized` weights; more are first averaged in blocks."""
_BAND = 256
"""Pixels of the result that `resized` computes at once, which bounds the memory."""
_GREYS = 32
"""Levels of each colour among which `moving_median` finds the median."""
_REACH = 4
"""Standard deviations after which the kernel of `blurred` ends."""


def resized(picture: _Pixels, width: int, height: int) -> _Pixels:
    """Scale a picture (H, W) or (H, W, C): area averages if a side shrinks, otherwise linear.

    Each pixel of the result is the mean of the area that it covers. Where both sides grow, it lies
    between the nearest pixels instead.
    """
    H, W = picture.shape[:2]
    blocks = max(1, W // (_ENOUGH * width)), max(1, H // (_ENOUGH * height))
    if blocks != (1, 1):
        picture = np.asarray(Image.fromarray(picture).reduce(blocks), np.uint8)
        H, W = picture.shape[:2]
    shrinks = height < H or width < W
    # Planes of colours, because products of large matrices are fast.
    planes = np.atleast_3d(picture).transpose(2, 0, 1).astype(np.float32)
    across = _scaled(planes, width, shrinks)
    scaled = _scaled(across.transpose(0, 2, 1), height, shrinks).transpose(2, 1, 0)
    levels = (scaled + np.float32(0.5)).astype(np.uint8, order="C")
    return levels.reshape(height, width, *picture.shape[2:])


def _scaled(planes: Floats, after: int, shrinks: bool) -> Floats:
    """Scale the last axis."""
    parts = []
    for begin in range(0, after, _BAND):
        first, weights = _weights(planes.shape[-1], after, begin, shrinks)
        parts.append(planes[..., first : first + len(weights)] @ weights)
    return parts[0] if len(parts) == 1 else np.concatenate(parts, -1)


@lru_cache(maxsize=64)
def _weights(before: int, after: int, begin: int, shrinks: bool) -> tuple[int, Floats]:
    """The first source of at most `_BAND` results, and the weights (sources, results)."""
    step, place = before / after, np.arange(begin, min(begin + _BAND, after))
    if shrinks:
        low, high = place * step, (place + 1) * step
        first, last = int(low[0]), min(before, math.ceil(high[-1]))
        of = np.arange(first, last)[:, None]
        weights = np.maximum(np.minimum(of + 1, high) - np.maximum(of, low), 0)
    else:
        centre = np.clip((place + 0.5) * step - 0.5, 0, before - 1)
        first, last = int(centre[0]), math.ceil(centre[-1]) + 1
        weights = np.maximum(1 - np.abs(np.arange(first, last)[:, None] - centre), 0)
    return first, (weights / weights.sum(0)).astype(np.float32)


def blurred(levels: Floats, spread: float) -> Floats:
    """Gaussian blur of (H, W) or (H, W, C), mirrored at the edges."""
    H, W = levels.shape[:2]
    planes = np.atleast_3d(levels).transpose(2, 0, 1)
    blurry = _kernel(H, spread) @ planes @ _kernel(W, spread).T
    return np.asarray(blurry.transpose(1, 2, 0).reshape(levels.shape), np.float32)


@lru_cache(maxsize=4)
def _kernel(length: int, spread: float) -> Floats:
    """Weights (length, length) of the pixels of a row or a column."""
    reach = round(_REACH * spread)
    offset = np.arange(-reach, reach + 1)
    period = max(1, 2 * (length - 1))
    place = np.abs(np.arange(length)[:, None] + offset) % period
    weights: Doubles = np.zeros((length, length))
    share = np.broadcast_to(np.exp(-0.5 * (offset / spread) ** 2), place.shape)
    np.add.at(weights, (np.arange(length)[:, None], np.minimum(place, period - place)), share)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def moving_median(picture: _Pixels, window: int) -> _Pixels:
    """Median of each colour (H, W, C) in a square window around each pixel, to a few levels.

    The result holds only `_GREYS` levels of each colour, evenly spaced by rank in the picture. The
    median is the highest of them that most pixels of the window reach. Edges are continued.

    Args:
        picture: (H, W, C).
        window: Side in pixels, odd, at most 255.
    """
    H, W, C = picture.shape
    ranks = np.arange(1, 2 * _GREYS, 2) * (H * W) // (2 * _GREYS)
    colours = np.ascontiguousarray(picture.transpose(2, 0, 1))
    each = [
        np.unique(np.bincount(c.ravel()).cumsum().searchsorted(ranks, "right")) for c in colours
    ]
    count = max(map(len, each))
    levels = np.stack([np.pad(one, (0, count - len(one)), "edge") for one in each], 1)
    # A level is reached from half-way to the level below.
    limits = ((levels[1:] + levels[:-1] + 1) // 2).astype(np.uint8)
    reached = colours.transpose(1, 0, 2)[:, None] >= limits[..., None]  # (H, count - 1, C, W)
    down = np.empty(reached.shape, np.uint8)
    for row, counts in enumerate(_sums(reached.view(np.uint8), window, np.uint8)):
        down[row] = counts
    across = np.ascontiguousarray(down.transpose(3, 1, 2, 0))
    most, found = window**2 // 2, np.empty((W, C, H), np.uint8)
    for column, sums in enumerate(_sums(across, window, np.uint16)):
        found[column] = (sums > most).sum(0, dtype=np.uint8)
    return np.asarray(levels[found.transpose(2, 0, 1), np.arange(C)], np.uint8)


def _sums(planes: _Pixels, window: int, kind: type[_Count]) -> Iterator[npt.NDArray[_Count]]:
    """Sums over a window that moves along the first axis; edges are continued."""
    last, reach = len(planes) - 1, window // 2
    places = np.clip(np.arange(-reach, last + reach + 1), 0, last).tolist()
    total = np.zeros(planes.shape[1:], kind)
    for place in places[:window]:
        total += planes[place]
    yield total
    for leaves, enters in zip(places, places[window:], strict=False):
        total += planes[enters]
        total -= planes[leaves]
        yield total


SQUARE = (1, 1, 1)
"""A pixel and its eight neighbours, see `dilated`."""


def disc(diameter: int) -> tuple[int, ...]:
    """A disc of an odd diameter in pixels, see `dilated`."""
    radius = diameter // 2
    rows = np.arange(-radius, radius + 1)
    return tuple(np.rint(np.sqrt(radius**2 - rows**2)).astype(int).tolist())


def dilated(mask: Mask, reach: tuple[int, ...] = SQUARE) -> Mask:
    """A mask (H, W) that is grown by an area around each pixel.

    Args:
        mask: (H, W).
        reach: For each row of the area, an odd number, how many pixels it reaches to both sides.
    """
    H, radius = len(mask), len(reach) // 2
    wide, grown = mask.copy(), np.zeros_like(mask)
    for columns in range(max(reach) + 1):
        if columns:
            wide[:, columns:] |= mask[:, :-columns]
            wide[:, :-columns] |= mask[:, columns:]
        rows = [row - radius for row, least in enumerate(reach) if least == columns]
        for row in [row for row in rows if abs(row) < H]:
            grown[max(row, 0) : H + min(row, 0)] |= wide[max(-row, 0) : H - max(row, 0)]
    return grown


@dataclass(frozen=True)
class Pieces:
    """The connected pieces of a mask; pixels that touch at a corner are connected."""

    piece: Ids
    """(N,) index of the piece of each pixel of the mask, in the order of ``picture[mask]``."""
    area: Ids
    """(P,) pixels of each piece."""
    left: Ids
    top: Ids
    right: Ids
    """(P,) first column after the piece."""
    bottom: Ids
    """(P,) first row after the piece."""


def pieces(mask: Mask) -> Pieces:
    """The connected pieces of a mask (H, W)."""
    H, W = mask.shape
    # Runs of pixels in a row. Places count along the rows, with an empty column after each.
    step = W + 1
    edges = np.zeros((H, step + 1), np.int8)
    edges[:, 1:-1] = mask
    changes = np.diff(edges, axis=1).ravel()
    begin, end = np.flatnonzero(changes == 1), np.flatnonzero(changes == -1)
    # A run touches each run of the next row that ends at its start or later, and starts at its end
    # or earlier.
    first = np.searchsorted(end, begin + step)
    count = np.searchsorted(begin, end + step, side="right") - first
    upper = np.repeat(np.arange(len(begin)), count)
    lower = np.arange(len(upper)) + np.repeat(first - (np.cumsum(count) - count), count)
    least = _joined(len(begin), upper, lower)
    of_run = (np.cumsum(least == np.arange(len(least))) - 1)[least]
    row, length = begin // step, end - begin
    order = np.argsort(of_run, kind="stable")
    of_piece = np.flatnonzero(np.diff(of_run[order], prepend=-1))

    def of_each(how: np.ufunc, values: Ids) -> Ids:
        """Reduce the values of all runs to one for each piece."""
        return np.asarray(how.reduceat(values[order], of_piece), np.int64)

    return Pieces(
        np.repeat(of_run, length),
        of_each(np.add, length),
        left=of_each(np.minimum, begin - row * step),
        top=of_each(np.minimum, row),
        right=of_each(np.maximum, end - row * step),
        bottom=of_each(np.maximum, row + 1),
    )


def _joined(count: int, one: Ids, other: Ids) -> Ids:
    """For each node, the smallest node of its connected component; edges join one and other."""
    least = np.arange(count)
    while True:
        a, b = least[one], least[other]
        apart = a != b
        if not apart.any():
            return least
        one, other = one[apart], other[apart]
        np.minimum.at(least, np.maximum(a, b)[apart], np.minimum(a, b)[apart])
        while (further := least[least]).tobytes() != least.tobytes():
            least = further
