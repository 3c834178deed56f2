"""Which known font draws each found glyph alike, and how large: what shapes no font has shows here.

A glyph that was learned from images has no name, size or upright of its own: poses may carry a part
of each. Comparing it with what fonts draw tells all three.

Shapes: K classes, G rows and columns of a found glyph.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from simgan_captcha.simulator.calibrated import GLYPH_SCALE
from simgan_captcha.simulator.glyphs import GlyphBank
from simgan_captcha.types import Floats, GreyImages

UNLIKE = 0.9
"""Glyphs more like a font than this are never said to disagree with every font."""
# Tried with each font left out: of its letters, median 0.98, two in 252 are less like those of the
# other fonts than 0.9; of letters taken for others, median 0.76, nine tenths are.

_DEVIATIONS = 4.0  # median absolute deviations below the median
_WIDER = 4  # pixels per em that are tried beyond the simulator's sizes
_SMALLEST = 4
_COARSE_SIZES = 16
_FONTS = 4  # are looked at closely
_TURNS = (-9.0, -6.0, -3.0, 0.0, 3.0, 6.0, 9.0)
_REACH = 3  # glyph pixels a glyph is shifted either way
_BLUR = 0.8  # glyph pixels, sigma: found glyphs are no sharper

_MISNAMED = 0.2
_OFF = 2.0
"""A shape is another character's if its correlation with that is by so much higher than with its
own, and its own is so many times as far from 1. Of the 54 shapes found of svg-captcha's letters,
the one misnamed had 0.3 and 3.7, all others at most 0.06; a round 'a' that few fonts draw so is by
0.15 more like an 'o' (URW Gothic)."""
_LEANING = (-6.0, 0.0, 6.0)
_ALIKE_SIZES = 0.2  # of the median; a size further from it suits a single shape by chance


class Estimate(NamedTuple):
    """A value and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class FontMatch:
    """The font that draws one class most alike."""

    font: str
    """Name or path, as the simulator's settings have it."""
    size: int
    """Pixels of the image per em."""
    likeness: float
    """Correlation of the two pictures, -1 to 1."""
    turn: float
    """Degrees counter-clockwise that the found glyph is turned from the font's."""
    weight: float
    """Area of the found glyph's ink to that of the font's own, without any extra outline."""
    stroke: float
    """Extra outline in pixels."""


@dataclass(frozen=True)
class FontMatches:
    """Of all classes."""

    classes: tuple[FontMatch | None, ...]
    """K; None where no glyph was found."""
    size: Estimate
    """Median over the classes, pixels per em; like ``turn`` and ``weight`` with the standard error
    of that median. NaN if no glyph was found at all."""
    turn: Estimate
    """Degrees."""
    weight: Estimate

    @property
    def unlike(self) -> tuple[int, ...]:
        """Classes whose glyphs disagree with every font, though those of others agree."""
        likeness = {k: match.likeness for k, match in enumerate(self.classes) if match}
        if not likeness:
            return ()
        all_of_them = np.array(list(likeness.values()))
        median = float(np.median(all_of_them))
        bound = median - _DEVIATIONS * float(np.median(np.abs(all_of_them - median)))
        return tuple(k for k, value in likeness.items() if value < min(bound, UNLIKE))


def match_fonts(
    glyphs: GreyImages,
    alphabet: str,
    fonts: tuple[str, ...],
    sizes: tuple[int, int],
    strokes: tuple[float, ...],
) -> FontMatches:
    """Compare found glyphs with those of fonts, over sizes, shifts, small turns and outlines.

    Args:
        glyphs: (K, G, G) coverage, `GLYPH_SCALE` pixels to one of an image; all 0 where there is
            none.
        alphabet: K characters.
        fonts: Names or paths, see `glyphs.font_path`.
        sizes: Pixels per em the simulator draws, both ends included; some more are tried.
        strokes: Extra outlines in pixels.

    Raises:
        ConfigError: A font that does not serve, see `glyphs.open_font`.
    """
    found = np.flatnonzero(glyphs.any(axis=(1, 2)))
    low, high = max(_SMALLEST, sizes[0] - _WIDER), sizes[1] + _WIDER
    grid = np.unique(np.rint(np.geomspace(low, high, _COARSE_SIZES)).astype(np.int64)).tolist()
    characters = "".join(alphabet[k] for k in found)
    bank = GlyphBank(characters, fonts, tuple(GLYPH_SCALE * size for size in grid), (0.0,))
    classes: list[FontMatch | None] = [None] * len(glyphs)
    for character, k in enumerate(found):
        picture = _Picture(glyphs[k])
        likeness = np.array(
            [
                [
                    picture.likeness(_upright(bank.glyph(f, s, 0, character).alpha, picture.side))
                    for s in range(len(grid))
                ]
                for f in range(len(fonts))
            ]
        )
        best = likeness.argmax(1)
        classes[k] = max(
            (
                _look_closely(picture, alphabet[k], fonts[f], _about(grid, int(best[f])), strokes)
                for f in np.argsort(-likeness.max(1), kind="stable")[:_FONTS]
            ),
            key=lambda match: match.likeness,
        )
    matches = [match for match in classes if match]
    return FontMatches(
        tuple(classes),
        size=_median([match.size for match in matches], step=1),
        turn=_median([match.turn for match in matches], step=_TURNS[1] - _TURNS[0]),
        weight=_median([match.weight for match in matches], step=0),
    )


def misnamed_shapes(glyphs: GreyImages, alphabet: str, matches: FontMatches) -> dict[int, int]:
    """Shapes that are another character's: by class, the class whose they are.

    A scout that takes every 's' for a 'g' finds the shape of an 's' and calls it 'g', and who
    learns from that calls it so for good. What fonts draw tells the two apart: a shape is misnamed
    if it is far more like another character than like its own, and that one has no shape, or a
    misnamed one itself. All characters are drawn as those shapes are that some font draws alike,
    since with any font and size something resembles anything.

    Args:
        glyphs: (K, G, G) as `match_fonts` has them.
        alphabet: K characters.
        matches: Of them, by `match_fonts`.
    """
    found = np.flatnonzero(glyphs.any(axis=(1, 2))).tolist()
    shapes = [_Picture(glyphs[k]) for k in found]
    likeness = np.full((len(found), len(alphabet)), -1, np.float32)
    for font, size, stroke in sorted(_manners(matches)):
        bank = GlyphBank(alphabet, (font,), (GLYPH_SCALE * size,), (GLYPH_SCALE * stroke,))
        for turn in _LEANING:
            drawn = [_upright(glyph.alpha, shapes[0].side, turn) for glyph in bank.glyphs]
            alike = [shape.likenesses(np.stack(drawn)) for shape in shapes]
            likeness = np.maximum(likeness, alike)

    names: dict[int, int] = {}
    for k, of_characters in zip(found, likeness, strict=True):
        own = float(of_characters[k])
        if of_characters.max() > max(own + _MISNAMED, 1 - (1 - own) / _OFF):
            names[k] = int(of_characters.argmax())
    while theirs := [k for k, name in names.items() if name in set(found) - names.keys()]:
        for k in theirs:
            del names[k]
    return names


def _manners(matches: FontMatches) -> set[tuple[str, int, float]]:
    """Fonts, sizes and strokes that draw the better half of the shapes most alike.

    Of misnamed shapes, the likest of many fonts and sizes would be one that is like by chance.
    """
    found = [match for match in matches.classes if match]
    likely = float(np.median([match.likeness for match in found])) if found else 0.0
    usual = [m for m in found if abs(m.size / matches.size.value - 1) <= _ALIKE_SIZES]
    return {(m.font, m.size, m.stroke) for m in usual if m.likeness >= likely}


def _unit(pictures: GreyImages) -> Floats:
    """(n, P) of mean 0 and length 1, so that products are correlations."""
    centred = pictures.astype(np.float32) - pictures.mean(1, dtype=np.float32, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(length, 1e-6))


class _Picture:
    """A found glyph, its ink's middle in the middle of a canvas with room to shift."""

    def __init__(self, glyph: GreyImages) -> None:
        self.side = len(glyph)
        self.area = _area(glyph)
        moved = np.eye(2, 3)
        moved[:, 2] = (self.side - 1) / 2 + _REACH - _middle(glyph)
        self.canvas = cv2.warpAffine(glyph, moved, (self.side + 2 * _REACH,) * 2)

    def likenesses(self, drawn: GreyImages) -> Floats:
        """(n,) `likeness` with each of many (n, G, G), in the time of one product."""
        shape = (self.side, self.side)
        windows = np.lib.stride_tricks.sliding_window_view(self.canvas, shape)
        each = _unit(windows.reshape(-1, self.side**2)) @ _unit(drawn.reshape(len(drawn), -1)).T
        return np.asarray(each.max(0))

    def likeness(self, drawn: GreyImages) -> float:
        """With a font's (G, G), at the shift that suits best."""
        found = cv2.matchTemplate(self.canvas, drawn, cv2.TM_CCOEFF_NORMED)
        # Of a picture without any ink there is none.
        return float(np.nan_to_num(found).max())


def _middle(glyph: GreyImages) -> npt.NDArray[np.float64]:
    """x and y of the middle of the ink; faint traces of neighbours do not count."""
    ink = np.where(glyph > 64, glyph, 0).astype(np.float64)
    along = np.arange(max(ink.shape))
    x, y = ink.sum(0) @ along[: ink.shape[1]], ink.sum(1) @ along[: ink.shape[0]]
    return np.array([x, y]) / max(1.0, float(ink.sum()))


def _area(glyph: GreyImages) -> int:
    """Pixels more than half covered, of which blur makes neither more nor fewer."""
    return int((glyph > 127).sum())


def _upright(glyph: GreyImages, side: int, turn: float = 0.0) -> GreyImages:
    """(side, side): a font's glyph about its middle, turned and slightly blurred."""
    middle = _middle(glyph)
    matrix = cv2.getRotationMatrix2D(middle.tolist(), turn, 1)
    matrix[:, 2] += (side - 1) / 2 - middle
    drawn = cv2.warpAffine(glyph, matrix, (side, side))
    return np.asarray(cv2.GaussianBlur(drawn, (5, 5), _BLUR), np.uint8)


def _about(grid: list[int], best: int) -> range:
    """All sizes between the neighbours of the best."""
    return range(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)] + 1)


def _look_closely(
    picture: _Picture, character: str, font: str, sizes: Iterable[int], strokes: tuple[float, ...]
) -> FontMatch:
    """The best of one font over turns, sizes and outlines."""
    sizes = tuple(sizes)
    outlines = tuple(dict.fromkeys((0.0, *strokes)))  # first the font as it is
    bank = GlyphBank(
        character,
        (font,),
        tuple(GLYPH_SCALE * size for size in sizes),
        tuple(GLYPH_SCALE * outline for outline in outlines),
    )
    likeness, s, o, turn = max(
        (picture.likeness(_upright(bank.glyph(0, s, o, 0).alpha, picture.side, turn)), s, o, turn)
        for s in range(len(sizes))
        for o in range(len(outlines))
        for turn in _TURNS
    )
    own = _area(bank.glyph(0, s, 0, 0).alpha)
    weight = picture.area / max(1, own)
    return FontMatch(font, sizes[s], likeness, turn, weight, outlines[o])


def _median(values: list[float] | list[int], step: float) -> Estimate:
    """With its standard error, for values that were looked for in steps."""
    if not values:
        return Estimate(math.nan, math.nan)
    array: Floats = np.array(values, np.float32)
    median = float(np.median(array))
    deviation = 1.4826 * float(np.median(np.abs(array - median)))
    # A median of n normal values; what steps hide is common to all of them.
    chance = 1.2533 * deviation / math.sqrt(len(array))
    return Estimate(median, math.hypot(chance, step / math.sqrt(12)))
