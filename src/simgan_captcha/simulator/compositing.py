"""Compositing of letters on backgrounds, pixel by pixel.

Shapes: N images of H x W pixels with L letters each, G glyphs with P pixels in total.
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
"""Glyph pixels per image pixel below which a row does not move along an axis of the glyph."""


@compiled
def lay_letters(
    canvases: Floats,
    glyphs: PackedGlyphs,
    index: Ids,
    maps: Floats,
    boxes: Ids,
    ink: Floats,
    nearest: npt.NDArray[np.bool_],
    side_weight: Floats,
) -> None:
    """Draw letters one after another, in place; each covers what is below it.

    Args:
        canvases: (N, H, W) grey levels.
        glyphs: All glyphs, each with a margin of one pixel without ink.
        index: (N, L) glyph indices.
        maps: (N, L, 2, 5) maps from image pixels (x, y) to glyph pixels. Each axis of the glyph has
            the coefficients of x, y, 1, x * y (perspective) and x**2 (bent letters).
        boxes: (N, L, 4) bounding boxes in the image: left, top, right, bottom.
        ink: (N, L) grey levels.
        nearest: (N,) whether glyphs are rotated without interpolation.
        side_weight: (N,) weight of each neighbour along an axis in the blur, 0 to 1/3.
    """
    N, L = index.shape
    H, W = canvases.shape[1:]
    # One more pixel on each side, for the blur.
    coverage = np.empty((H + 2, W + 2), np.float32)
    for n in range(N):
        for letter in range(L):
            left, top, right, bottom = boxes[n, letter]
            width, height = right - left, bottom - top
            if width <= 0 or height <= 0:
                continue
            drawn = coverage[: height + 2, : width + 2]
            _cover(drawn, glyphs, index[n, letter], maps[n, letter], left - 1, top - 1, nearest[n])
            if side_weight[n] > 0:
                _blur(drawn, side_weight[n])
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
    """Coverage (h, w) of the image by a glyph, 0 to 255, from ``left`` and ``top`` on."""
    h, w = coverage.shape
    start, columns, rows = glyphs.starts[glyph], glyphs.columns[glyph], glyphs.rows[glyph]
    pixels, stride = glyphs.pixels[start : start + rows * columns], np.uint32(columns)
    last_column, last_row = _f(columns - 1), _f(rows - 1)
    bent = to_glyph[0, 4] != 0 or to_glyph[1, 4] != 0
    for y in range(h):
        # Within a row, x * y is a multiple of x, so the map of the row is linear.
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
        # Solve for each axis, then step inwards, because the solutions are rounded.
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
    """Coverage by a glyph at column ``u`` and row ``v``, interpolated between four pixels."""
    # Unsigned indices need no check for negative values.
    column, row = np.uint32(u), np.uint32(v)
    right, lower = u - _f(column), v - _f(row)
    at = row * stride + column
    here, right_of_it = _f(pixels[at]), _f(pixels[at + _NEXT])
    below, diagonal = _f(pixels[at + stride]), _f(pixels[at + stride + _NEXT])
    upper_line = here + (right_of_it - here) * right
    lower_line = below + (diagonal - below) * right
    return upper_line + (lower_line - upper_line) * lower


@compiled
def _within_axis(
    begin: np.float32, per_pace: np.float32, last: np.float32, low: np.float32, high: np.float32
) -> tuple[np.float32, np.float32]:
    """Narrow the range of row pixels to those within a glyph along one axis.

    Args:
        begin: Position of the first row pixel in the glyph.
        per_pace: Row pixels per glyph pixel; 0 if the row does not move along the axis.
        last: Index of the last glyph pixel.
        low: Start of the range before.
        high: End of the range before.
    """
    if per_pace != 0:
        enters, leaves = -begin * per_pace, (last - begin) * per_pace
        return max(low, min(enters, leaves)), min(high, max(enters, leaves))
    if 0 <= begin < last:
        return low, high
    return low, low


@compiled
def _blur(coverage: Floats, side_weight: np.float32) -> None:
    """Blur over three pixels along both axes, in place, except the outermost pixels."""
    h, w = coverage.shape
    here = _ONE - _TWO * side_weight
    for y in range(h):
        before = coverage[y, 0]
        for x in range(1, w - 1):
            own = coverage[y, x]
            coverage[y, x] = here * own + side_weight * (before + coverage[y, x + 1])
            before = own
    for x in range(1, w - 1):
        before = coverage[0, x]
        for y in range(1, h - 1):
            own = coverage[y, x]
            coverage[y, x] = here * own + side_weight * (before + coverage[y + 1, x])
            before = own


@compiled
def with_noise(canvases: Floats, field: Floats, starts: Ids, deviations: Floats) -> GreyImages:
    """Add noise to canvases (N, H, W) and round them to grey levels ``uint8``.

    Args:
        canvases: Grey levels.
        field: Standard normal noise, one image longer than the largest start.
        starts: (N,) offset of each image in the field.
        deviations: (N,) standard deviations in grey levels.
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
