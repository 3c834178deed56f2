"""The effect of JPEG compression on grey images, bit for bit as libjpeg, without entropy coding.

JPEG loses information only where it rounds the coefficients of its transform. Entropy coding is
lossless, so it is left out. This takes a third of the time.

Sources: ITU-T T.81 (JPEG), annexes A and K. The transform is that of Loeffler, Ligtenberg and
Moschytz (ICASSP 1989, "Practical fast 1-D DCT algorithms with 11 multiplications"). It uses
integers with 13 fractional bits and keeps 2 of them between its two passes, as libjpeg's "slow"
transform does.

Shapes: N images, H and W pixels. A strip is 8 rows of an image, (8, P), with P pixels in whole
blocks.
"""

import numpy as np
import numpy.typing as npt

from simgan_captcha.simulator.compiled import compiled
from simgan_captcha.types import GreyImages

Strip = npt.NDArray[np.int32]

_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
"""Quantisation steps at quality 50 (T.81, table K.1)."""


def quantisation_table(quality: int) -> Strip:
    """Quantisation steps (8, 8) at a quality of 1 to 100, by the rule of libjpeg.

    Rows are vertical frequencies.
    """
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.asarray(((_LUMA * scale + 50) // 100).clip(1, 255), np.int32)


_TABLES = np.stack([quantisation_table(max(1, quality)) for quality in range(101)])


def through_jpeg(images: GreyImages, qualities: npt.NDArray[np.int64]) -> GreyImages:
    """Compress and decompress images (N, H, W) ``uint8`` at qualities (N,) of 1 to 100."""
    out = np.empty_like(images)
    _through(np.ascontiguousarray(images), _TABLES[qualities], out)
    return out


_i = np.int32
_f = np.float32
_ROUNDED_FIRST, _ROUNDED_LAST = _i(11), _i(15)
"""Bits that the first and the last pass drop: 13, minus or plus the 2 that stay between passes."""
_DECODED_LAST = _i(18)
"""Bits that the last pass of decoding drops: 3 more, for the factor 8 of the unscaled transform."""
_POINT, _ONE, _MIDDLE, _WHITE = _i(13), _i(1), _i(128), _i(255)
# Sums of cosines, times 2 ** 13, from figures 1 and 8 of the paper.
_C6, _C2_LESS, _C2_MORE = _i(4433), _i(6270), _i(15137)
_C3, _Z1, _Z2, _Z3, _Z4 = _i(9633), _i(-7373), _i(-20995), _i(-16069), _i(-3196)
_ODD0, _ODD1, _ODD2, _ODD3 = _i(2446), _i(16819), _i(25172), _i(12299)


@compiled
def _through(images: GreyImages, tables: npt.NDArray[np.int32], out: GreyImages) -> None:
    N, H, W = images.shape
    P = (W + 7) // 8 * 8
    one, other = np.empty((8, P), np.int32), np.empty((8, P), np.int32)
    steps, half_step = np.empty((8, P), np.int32), np.empty((8, P), np.float32)
    per_step = np.empty((8, P), np.float32)
    for n in range(N):
        for frequency in range(8):
            for column in range(P):
                # Coefficients are 8 times too large until the last pass of decoding.
                step = tables[n, frequency, column & 7]
                steps[frequency, column] = step
                per_step[frequency, column] = _f(1) / _f(8 * step)
                half_step[frequency, column] = _f(4 * step) + _f(0.5)
        for top in range(0, H, 8):
            for y in range(8):
                # Incomplete blocks repeat the last row and column.
                pixels, row = images[n, min(top + y, H - 1)], one[y]
                for x in range(W):
                    row[x] = _i(pixels[x]) - _MIDDLE
                row[W:] = row[W - 1]
            # All passes run down the columns; for passes along rows, blocks are transposed.
            _turned(one, other)
            _forward(other, one, _ROUNDED_FIRST)
            _turned(one, other)
            _forward(other, one, _ROUNDED_LAST)
            _rounded(one, steps, per_step, half_step)
            _inverse(one, other, _ROUNDED_FIRST)
            _turned(other, one)
            _inverse(one, other, _DECODED_LAST)
            _turned(other, one)
            for y in range(min(8, H - top)):
                pixels, row = out[n, top + y], one[y]
                for x in range(W):
                    pixels[x] = min(max(row[x] + _MIDDLE, _i(0)), _WHITE)


@compiled
def _turned(blocks: Strip, out: Strip) -> None:
    """Transpose each block."""
    for left in range(0, blocks.shape[1], 8):
        for y in range(8):
            for x in range(8):
                out[x, left + y] = blocks[y, left + x]


@compiled
def _rounded(
    coefficients: Strip,
    steps: Strip,
    per_step: npt.NDArray[np.float32],
    half_step: npt.NDArray[np.float32],
) -> None:
    """Round coefficients to whole steps, halves away from 0, in place.

    Integers below 2 ** 16 are divided as float32, which vectorises. The additional 0.5 keeps each
    quotient further from a whole number than the rounding error of float32.
    """
    for row in range(8):
        for column in range(coefficients.shape[1]):
            value = coefficients[row, column]
            times = _i((_f(abs(value)) + half_step[row, column]) * per_step[row, column])
            size = times * steps[row, column]
            coefficients[row, column] = size if value >= 0 else -size


@compiled
def _forward(s: Strip, out: Strip, dropped: np.int32) -> None:
    """The cosine transform down each column of blocks, without the ``dropped`` last bits."""
    half = _ONE << (dropped - _ONE)
    for c in range(s.shape[1]):
        a0, a7 = s[0, c] + s[7, c], s[0, c] - s[7, c]
        a1, a6 = s[1, c] + s[6, c], s[1, c] - s[6, c]
        a2, a5 = s[2, c] + s[5, c], s[2, c] - s[5, c]
        a3, a4 = s[3, c] + s[4, c], s[3, c] - s[4, c]
        b0, b3, b1, b2 = a0 + a3, a0 - a3, a1 + a2, a1 - a2
        out[0, c] = (((b0 + b1) << _POINT) + half) >> dropped
        out[4, c] = (((b0 - b1) << _POINT) + half) >> dropped
        z = (b2 + b3) * _C6
        out[2, c] = (z + b3 * _C2_LESS + half) >> dropped
        out[6, c] = (z - b2 * _C2_MORE + half) >> dropped
        z5 = (a4 + a6 + a5 + a7) * _C3
        z1, z2 = (a4 + a7) * _Z1, (a5 + a6) * _Z2
        z3, z4 = (a4 + a6) * _Z3 + z5, (a5 + a7) * _Z4 + z5
        out[7, c] = (a4 * _ODD0 + z1 + z3 + half) >> dropped
        out[5, c] = (a5 * _ODD1 + z2 + z4 + half) >> dropped
        out[3, c] = (a6 * _ODD2 + z2 + z3 + half) >> dropped
        out[1, c] = (a7 * _ODD3 + z1 + z4 + half) >> dropped


@compiled
def _inverse(s: Strip, out: Strip, dropped: np.int32) -> None:
    """The inverse of `_forward`."""
    half = _ONE << (dropped - _ONE)
    for c in range(s.shape[1]):
        z = (s[2, c] + s[6, c]) * _C6
        t2, t3 = z - s[6, c] * _C2_MORE, z + s[2, c] * _C2_LESS
        t0, t1 = (s[0, c] + s[4, c]) << _POINT, (s[0, c] - s[4, c]) << _POINT
        b0, b3, b1, b2 = t0 + t3 + half, t0 - t3 + half, t1 + t2 + half, t1 - t2 + half
        o0, o1, o2, o3 = s[7, c], s[5, c], s[3, c], s[1, c]
        z5 = (o0 + o2 + o1 + o3) * _C3
        z1, z2 = (o0 + o3) * _Z1, (o1 + o2) * _Z2
        z3, z4 = (o0 + o2) * _Z3 + z5, (o1 + o3) * _Z4 + z5
        o0, o1 = o0 * _ODD0 + z1 + z3, o1 * _ODD1 + z2 + z4
        o2, o3 = o2 * _ODD2 + z2 + z3, o3 * _ODD3 + z1 + z4
        out[0, c], out[7, c] = (b0 + o3) >> dropped, (b0 - o3) >> dropped
        out[1, c], out[6, c] = (b1 + o2) >> dropped, (b1 - o2) >> dropped
        out[2, c], out[5, c] = (b2 + o1) >> dropped, (b2 - o1) >> dropped
        out[3, c], out[4, c] = (b3 + o0) >> dropped, (b3 - o0) >> dropped
