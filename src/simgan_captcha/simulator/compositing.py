"""Letters laid on backgrounds, pixel by pixel.

Shapes: N images, H and W pixels, L letters in each, G glyphs of P pixels in all.
"""

import numpy as np
import numpy.typing as npt

from simgan_captcha.simulator.compiled import compiled
from simgan_captcha.simulator.glyphs import PackedGlyphs
from simgan_captcha.types import Floats, GreyImages, Ids

_f = np.float32
_NOTHING, _HALF, _ONE, _TWO, _WHITE = _f(0), _f(0.5), _f(1), _f(2), _f(255)
_PER_WHITE = _ONE / _WHITE
_NEXT = np.uint32(1)
_STILL = _f(1e-6)
"""Pixels of a glyph to one of the image: what moves less stands still along an axis."""


@compiled
def lay_letters(
    canvases: Floats,
    glyphs: PackedGlyphs,
    index: Ids,
    maps: Floats,
    boxes: Ids,
    ink: Floats,
    nearest: npt.NDArray[np.bool_],
    beside: Floats,
) -> None:
    """Draw letters one after another, in place: each covers what is under it as far as it is there.

    Args:
        canvases: (N, H, W) grey levels.
        glyphs: All there are, each with a margin of a pixel without ink.
        index: (N, L) which.
        maps: (N, L, 2, 5) from a pixel's number in the image (x, y) to that in the glyph: what each
            of them counts, a constant, what their product counts (perspective), and the square of
            the first (bent letters).
        boxes: (N, L, 4) the part of the image that it may reach: left, top, right, bottom.
        ink: (N, L) grey levels.
        nearest: (N,) whether glyphs are turned without interpolation.
        beside: (N,) by how much a pixel's coverage goes to each of its neighbours along an axis, 0
            to a third: blur.
    """
    N, L = index.shape
    H, W = canvases.shape[1:]
    # A pixel more all round, for the blur.
    coverage = np.empty((H + 2, W + 2), np.float32)
    for n in range(N):
        for letter in range(L):
            left, top, right, bottom = boxes[n, letter]
            width, height = right - left, bottom - top
            if width <= 0 or height <= 0:
                continue
            drawn = coverage[: height + 2, : width + 2]
            _cover(drawn, glyphs, index[n, letter], maps[n, letter], left - 1, top - 1, nearest[n])
            if beside[n] > 0:
                _blur(drawn, beside[n])
            level = ink[n, letter]
            for y in range(height):
                row, covering = canvases[n, top + y, left:right], drawn[y + 1, 1:]
                for x in range(width):
                    row[x] += (level - row[x]) * (covering[x] * _PER_WHITE)


@compiled
def _cover(
    coverage: Floats,
    glyphs: PackedGlyphs,
    glyph: int,
    to_glyph: Floats,
    left: int,
    top: int,
    nearest: bool,
) -> None:
    """(h, w), 0 to 255: what a glyph covers of the image from ``left`` and ``top`` on."""
    h, w = coverage.shape
    start, columns, rows = glyphs.starts[glyph], glyphs.columns[glyph], glyphs.rows[glyph]
    pixels, stride = glyphs.pixels[start : start + rows * columns], np.uint32(columns)
    last_column, last_row = _f(columns - 1), _f(rows - 1)
    bent = to_glyph[0, 4] != 0 or to_glyph[1, 4] != 0
    for y in range(h):
        # Along a row the product is a multiple of x, so that rows stay straight.
        across = to_glyph[0, 0] + to_glyph[0, 3] * _f(top + y)
        down = to_glyph[1, 0] + to_glyph[1, 3] * _f(top + y)
        per_across = _ONE / across if abs(across) > _STILL else _NOTHING
        per_down = _ONE / down if abs(down) > _STILL else _NOTHING
        u0 = across * _f(left) + to_glyph[0, 1] * _f(top + y) + to_glyph[0, 2]
        v0 = down * _f(left) + to_glyph[1, 1] * _f(top + y) + to_glyph[1, 2]
        if bent:
            for x in range(w):
                square = _f(left + x) * _f(left + x)
                u = u0 + across * _f(x) + to_glyph[0, 4] * square
                v = v0 + down * _f(x) + to_glyph[1, 4] * square
                coverage[y, x] = _NOTHING
                if 0 <= u < last_column and 0 <= v < last_row:
                    if nearest:
                        at = np.uint32(v + _HALF) * stride + np.uint32(u + _HALF)
                        coverage[y, x] = _f(pixels[at])
                    else:
                        coverage[y, x] = _between(pixels, stride, u, v)
            continue
        # Solved for each axis, then stepped inwards, as solutions are not exact.
        low, high = _within_axis(u0, per_across, last_column, _NOTHING, _f(w))
        low, high = _within_axis(v0, per_down, last_row, low, high)
        first = min(int(np.ceil(low)), w)
        end = max(first, min(int(high) + 1, w))
        while first < end and not (
            0 <= u0 + across * _f(first) < last_column and 0 <= v0 + down * _f(first) < last_row
        ):
            first += 1
        while first < end and not (
            0 <= u0 + across * _f(end - 1) < last_column and 0 <= v0 + down * _f(end - 1) < last_row
        ):
            end -= 1
        coverage[y, :first] = _NOTHING
        coverage[y, end:] = _NOTHING
        if nearest:
            for x in range(first, end):
                u, v = u0 + across * _f(x) + _HALF, v0 + down * _f(x) + _HALF
                coverage[y, x] = _f(pixels[np.uint32(v) * stride + np.uint32(u)])
        else:
            for x in range(first, end):
                u, v = u0 + across * _f(x), v0 + down * _f(x)
                coverage[y, x] = _between(pixels, stride, u, v)


@compiled
def _between(
    pixels: npt.NDArray[np.uint8], stride: np.uint32, u: np.float32, v: np.float32
) -> np.float32:
    """What a glyph covers at column ``u`` and row ``v``, of the four pixels about it."""
    # Numbers without a sign need no look at whether they count from the end.
    column, row = np.uint32(u), np.uint32(v)
    right, lower = u - _f(column), v - _f(row)
    at = row * stride + column
    here, beside = _f(pixels[at]), _f(pixels[at + _NEXT])
    below, diagonal = _f(pixels[at + stride]), _f(pixels[at + stride + _NEXT])
    upper_line = here + (beside - here) * right
    lower_line = below + (diagonal - below) * right
    return upper_line + (lower_line - upper_line) * lower


@compiled
def _within_axis(
    begin: np.float32, per_pace: np.float32, last: np.float32, low: np.float32, high: np.float32
) -> tuple[np.float32, np.float32]:
    """Between which pixels, and ``low`` and ``high``, a row lies within a glyph along an axis.

    Args:
        begin: Where the row begins in the glyph.
        per_pace: Pixels of the row to one of the glyph; 0 if the row does not move along the axis.
        last: Number of the glyph's last pixel.
        low: Of the axis before; ``high`` likewise.
    """
    if per_pace != 0:
        enters, leaves = -begin * per_pace, (last - begin) * per_pace
        return max(low, min(enters, leaves)), min(high, max(enters, leaves))
    if 0 <= begin < last:
        return low, high
    return low, low


@compiled
def _blur(coverage: Floats, beside: np.float32) -> None:
    """Three pixels along either axis, in place; the outermost ones are not."""
    h, w = coverage.shape
    here = _ONE - _TWO * beside
    for y in range(h):
        before = coverage[y, 0]
        for x in range(1, w - 1):
            own = coverage[y, x]
            coverage[y, x] = here * own + beside * (before + coverage[y, x + 1])
            before = own
    for x in range(1, w - 1):
        before = coverage[0, x]
        for y in range(1, h - 1):
            own = coverage[y, x]
            coverage[y, x] = here * own + beside * (before + coverage[y + 1, x])
            before = own


@compiled
def with_noise(canvases: Floats, field: Floats, starts: Ids, deviations: Floats) -> GreyImages:
    """Canvases (N, H, W) and noise as whole grey levels ``uint8``.

    Args:
        canvases: Grey levels.
        field: Normal noise of deviation 1, longer by an image than any start.
        starts: (N,) where in the field an image's noise begins.
        deviations: (N,) grey levels.
    """
    N, H, W = canvases.shape
    drawn = np.empty((N, H, W), np.uint8)
    for n in range(N):
        for y in range(H):
            begin = starts[n] + y * W
            noise, row = field[begin : begin + W], canvases[n, y]
            for x in range(W):
                level = row[x] + noise[x] * deviations[n]
                drawn[n, y, x] = np.int32(min(max(level, _NOTHING), _WHITE) + _HALF)
    return drawn
