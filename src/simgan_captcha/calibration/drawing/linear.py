"""Drawings of characters and their derivatives by poses, pixel by pixel.

The drawing is that of `characters.draw_characters`, without gradients in glyphs. The loops touch
only pixels that a character can cover, and skip those where its coverage does not change.

Shapes: N images of H x W pixels, L characters, K classes, G side of a glyph with its margin, V
values of a pose.
"""

import math
from typing import NamedTuple

import numpy as np

from simgan_captcha.simulator.calibrated import GLYPH_SCALE
from simgan_captcha.simulator.compiled import compiled
from simgan_captcha.simulator.pose import POSE
from simgan_captcha.types import Floats, Ids

_f = np.float32
_ONE, _HALF, _TWO = _f(1), _f(0.5), _f(2)
_SCALE, _RADIAN = _f(GLYPH_SCALE), _f(math.pi / 180)
_LEAST = _f(1e-3)
"""Least uncovered share in a quotient."""
_VALUES = len(POSE)


def with_gradients(glyphs: Floats) -> Floats:
    """Glyphs (K, G - 2, G - 2) with an empty margin, and their derivatives, as (K, G, G, 3).

    The derivatives are along both axes, per image pixel.
    """
    glyphs = np.pad(glyphs, ((0, 0), (1, 1), (1, 1)))
    down, right = np.gradient(glyphs * _SCALE, axis=(1, 2))
    return np.ascontiguousarray(np.stack([glyphs, right, down], -1), np.float32)


class Scene(NamedTuple):
    """N images, and the characters that are drawn on them."""

    ink: Floats
    """(N, H, W), 0 to 1."""
    visible: Floats
    """(N, H, W), weights of the squared errors."""
    glyphs: Floats
    """(K, G, G, 3), see `with_gradients`."""
    ids: Ids
    """(N, L) classes."""
    poses: Floats
    """(N, L, 9), see `pose.POSE`."""
    reach: Floats
    """(N, L), see `characters.reaches`."""


@compiled
def missed_by(missed: Floats, scene: Scene) -> None:
    """Write the sum of squared errors of each drawing to ``missed`` (N,)."""
    N, H, W = scene.ink.shape
    uncovered = np.empty((H, W), np.float32)
    drawn = np.empty((scene.ids.shape[1], H, W, 3), np.float32)
    for n in range(N):
        _draw(uncovered, drawn, scene, n, 1)
        total = 0.0
        for y in range(H):
            for x in range(W):
                off = _ONE - uncovered[y, x] - scene.ink[n, y, x]
                total += scene.visible[n, y, x] * off * off
        missed[n] = total


@compiled
def linearise(gradient: Floats, curvature: Floats, scene: Scene) -> None:
    """Write J'r to ``gradient`` (N, L, V) and J'J to ``curvature`` (N, L, V, V).

    r holds the weighted residuals of the pixels, and J their derivatives by the first V values of
    the pose of one character.
    """
    N, H, W = scene.ink.shape
    L, V = gradient.shape[1:]
    uncovered = np.empty((H, W), np.float32)
    drawn = np.empty((L, H, W, 3), np.float32)
    slopes = np.empty(_VALUES, np.float32)
    gradient[:] = 0
    curvature[:] = 0
    for n in range(N):
        _draw(uncovered, drawn, scene, n, 3)
        for letter in range(L):
            pose, of_letter = scene.poses[n, letter], drawn[letter]
            left, right, top, bottom = _box(pose, scene.reach[n, letter], H, W)
            terms = _terms(pose, H)
            for y in range(top, bottom):
                for x in range(left, right):
                    by_across, by_along = of_letter[y, x, 1], of_letter[y, x, 2]
                    seen = scene.visible[n, y, x]
                    if seen == 0 or (by_across == 0 and by_along == 0):
                        continue
                    _slopes(slopes, terms, _f(x) + _HALF, _f(y) + _HALF, by_across, by_along)
                    # d(1 - (1 - a)(1 - b)...) / da = (1 - b)...
                    by_others = uncovered[y, x] / max(_ONE - of_letter[y, x, 0], _LEAST)
                    off = _ONE - uncovered[y, x] - scene.ink[n, y, x]
                    for v in range(V):
                        weighted = seen * by_others * slopes[v]
                        gradient[n, letter, v] += weighted * off
                        for other in range(v + 1):
                            curvature[n, letter, v, other] += weighted * by_others * slopes[other]
            for v in range(V):
                for other in range(v):
                    curvature[n, letter, other, v] = curvature[n, letter, v, other]


@compiled
def _draw(uncovered: Floats, drawn: Floats, scene: Scene, n: int, channels: int) -> None:
    """Draw the characters of image n.

    ``uncovered`` (H, W) becomes (1 - a)(1 - b)... The coverage of each character goes to the first
    channel of ``drawn`` (L, H, W, 3), inside its `_box` only. With 3 channels, its derivatives
    along the axes of the glyph follow.
    """
    H, W = uncovered.shape
    uncovered[:] = 1
    for letter in range(len(drawn)):
        pose, of_letter = scene.poses[n, letter], drawn[letter]
        glyph = scene.glyphs[scene.ids[n, letter]]
        left, right, top, bottom = _box(pose, scene.reach[n, letter], H, W)
        terms = _terms(pose, H)
        last = len(glyph) - 1
        scale, middle = _SCALE * terms.wide, _f(last) * _HALF
        for y in range(top, bottom):
            for x in range(left, right):
                across, along, _, unfolded = _upright(terms, _f(x) + _HALF, _f(y) + _HALF)
                u, v = across * scale + middle, along * scale + middle
                pixel = of_letter[y, x]
                pixel[:channels] = 0
                # Beyond the fold, the map would show a mirrored glyph.
                if not (unfolded and 0 <= u < last and 0 <= v < last):
                    continue
                column, row = int(u), int(v)
                beside, below = u - _f(column), v - _f(row)
                above = _ONE - below
                for channel in range(channels):
                    first = glyph[row, column, channel] * above
                    first += glyph[row + 1, column, channel] * below
                    second = glyph[row, column + 1, channel] * above
                    second += glyph[row + 1, column + 1, channel] * below
                    pixel[channel] = first + (second - first) * beside
                uncovered[y, x] *= _ONE - pixel[0]


@compiled
def _box(pose: Floats, reach: np.float32, H: int, W: int) -> tuple[int, int, int, int]:
    """The part of the image that a character can cover: left, right, top, bottom."""
    return (
        _pixel(pose[0] - reach, W),
        _pixel(np.ceil(pose[0] + reach), W),
        _pixel(pose[1] - reach, H),
        _pixel(np.ceil(pose[1] + reach), H),
    )


@compiled
def _pixel(place: np.float32, most: int) -> int:
    """The whole part of a place, 0 to ``most``; 0 for NaN, because indices are not checked."""
    if place >= most:
        return most
    return int(place) if place > 0 else 0


class _Terms(NamedTuple):
    """What the map of a pose consists of; perspective and bend are per pixel."""

    x: np.float32
    y: np.float32
    cosine: np.float32
    sine: np.float32
    wide: np.float32
    """exp(-size)."""
    narrow: np.float32
    """exp(-stretch)."""
    shear: np.float32
    taper: np.float32
    swell: np.float32
    bend: np.float32
    height: np.float32


@compiled
def _terms(pose: Floats, H: int) -> _Terms:
    turn, height = _RADIAN * pose[2], _f(H)
    return _Terms(
        pose[0],
        pose[1],
        np.cos(turn),
        np.sin(turn),
        np.exp(-pose[3]),
        np.exp(-pose[4]),
        pose[5],
        pose[6] / height,
        pose[7] / height,
        pose[8] / height,
        height,
    )


@compiled
def _upright(
    terms: _Terms, x: np.float32, y: np.float32
) -> tuple[np.float32, np.float32, np.float32, np.bool_]:
    """p, q and v' of `characters.draw_characters` at (x, y), and whether it is before the fold."""
    right, down = x - terms.x, y - terms.y
    straight = down - terms.bend * right * right
    a = terms.cosine * right - terms.sine * straight - terms.taper * right * down
    along = terms.sine * right + terms.cosine * straight - terms.swell * right * down
    beyond = terms.swell * (terms.cosine * right + terms.sine * down)
    beyond += terms.taper * (terms.cosine * down - terms.sine * right)
    return (a - terms.shear * along) * terms.narrow, along, straight, beyond < _ONE


@compiled
def _slopes(
    slopes: Floats,
    terms: _Terms,
    x: np.float32,
    y: np.float32,
    by_across: np.float32,
    by_along: np.float32,
) -> None:
    """Write the derivatives (9,) of the coverage at (x, y) by the pose of its character.

    With p, q and a as in `characters.draw_characters`, the coverage of a glyph G is
    G(p * s, q * s), with s = exp(-size). Its derivative by a value z is
    G_p * d(p * s)/dz + G_q * d(q * s)/dz.
    """
    right, down = x - terms.x, y - terms.y
    across, along, straight, _ = _upright(terms, x, y)
    cosine, sine, wide = terms.cosine, terms.sine, terms.wide
    bent = _TWO * terms.bend * right  # -dv' / du
    # The derivatives by a and q; p = (a - shear * q) * exp(-stretch).
    by_a = by_across * wide * terms.narrow
    by_q = by_along * wide - by_a * terms.shear
    # du / dx = dv / dy = -1
    slopes[0] = by_a * (terms.taper * down - cosine - sine * bent)
    slopes[0] += by_q * (terms.swell * down - sine + cosine * bent)
    slopes[1] = by_a * (terms.taper * right + sine) + by_q * (terms.swell * right - cosine)
    slopes[2] = by_q * (cosine * right - sine * straight)
    slopes[2] = _RADIAN * (slopes[2] - by_a * (sine * right + cosine * straight))
    slopes[3] = -(by_across * across + by_along * along) * wide
    slopes[4] = -by_across * across * wide
    slopes[5] = -by_a * along
    slopes[6] = -by_a * right * down / terms.height
    slopes[7] = -by_q * right * down / terms.height
    slopes[8] = (by_a * sine - by_q * cosine) * right * right / terms.height
