"""Compare calibrated glyphs with known fonts, to estimate name, size and rotation.

A glyph that is fitted to images has an arbitrary size and rotation, because poses can absorb both.
Its name can be wrong, too. Comparison with fonts determines all three, and shows glyphs that no
font has.

Shapes: K classes, G rows and columns of a calibrated glyph.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from simgan_captcha.simulator.calibrated import GLYPH_SCALE
from simgan_captcha.simulator.glyphs import GlyphBank
from simgan_captcha.types import Floats, GreyImages

UNLIKE = 0.9
"""Similarity above which a glyph never counts as unlike all fonts."""
# In a test that left out each font, the median similarity of its letters to the other fonts was
# 0.98. Two of 252 letters were below 0.9. The median of letters with a wrong name was 0.76, and
# nine tenths of them were below 0.9.

_DEVIATIONS = 4.0  # median absolute deviations below the median
_WIDER = 4  # pixels per em beyond the sizes of the simulator
_SMALLEST = 4
_COARSE_SIZES = 16
_FONTS = 4  # best fonts in the fine search
_TURNS = (-9.0, -6.0, -3.0, 0.0, 3.0, 6.0, 9.0)
_REACH = 3  # largest shift in glyph pixels
_BLUR = 0.8  # sigma in glyph pixels, as sharp as calibrated glyphs

_MISNAMED = 0.2
_OFF = 2.0
"""A glyph is misnamed if it correlates much better with another character than with its own. The
correlation must be higher by `_MISNAMED`, and its distance from 1 smaller by the factor `_OFF`. Of
54 glyphs of svg-captcha, the misnamed one had 0.3 and 3.7, and all others had at most 0.06. A round
'a' (URW Gothic), which few fonts have, has a correlation with 'o' that is higher by 0.15."""
_LEANING = (-6.0, 0.0, 6.0)
_ALIKE_SIZES = 0.2  # relative to the median; other sizes fit a glyph by chance


class Estimate(NamedTuple):
    """A value and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class FontMatch:
    """The font that is most similar to the glyph of a class."""

    font: str
    """Name or path, as in the settings of the simulator."""
    size: int
    """Font size in image pixels per em."""
    similarity: float
    """Correlation of the two glyphs, -1 to 1."""
    turn: float
    """Rotation of the calibrated glyph against the font, in degrees counter-clockwise."""
    weight: float
    """Ratio of the ink area to that of the font without an extra outline."""
    stroke: float
    """Extra outline in pixels."""


@dataclass(frozen=True)
class FontMatches:
    """The matches of all classes."""

    classes: tuple[FontMatch | None, ...]
    """K matches; None for classes without a glyph."""
    size: Estimate
    """Median over the classes in pixels per em, with its standard error; NaN without glyphs."""
    turn: Estimate
    """Median rotation in degrees, with its standard error."""
    weight: Estimate
    """Median of the ink ratio, with its standard error."""

    @property
    def unlike(self) -> tuple[int, ...]:
        """Classes with glyphs that are unlike all fonts, although other glyphs match."""
        similarity = {k: match.similarity for k, match in enumerate(self.classes) if match}
        if not similarity:
            return ()
        all_of_them = np.array(list(similarity.values()))
        median = float(np.median(all_of_them))
        bound = median - _DEVIATIONS * float(np.median(np.abs(all_of_them - median)))
        return tuple(k for k, value in similarity.items() if value < min(bound, UNLIKE))


def match_fonts(
    glyphs: GreyImages,
    alphabet: str,
    fonts: tuple[str, ...],
    sizes: tuple[int, int],
    strokes: tuple[float, ...],
) -> FontMatches:
    """Compare glyphs with fonts over sizes, shifts, small rotations and outlines.

    Args:
        glyphs: (K, G, G) coverage, `GLYPH_SCALE` pixels per image pixel; 0 for missing glyphs.
        alphabet: K characters.
        fonts: Names or paths, see `glyphs.font_path`.
        sizes: Range of the simulator in pixels per em; some more are tried.
        strokes: Extra outlines in pixels.

    Raises:
        ConfigError: A font cannot be used, see `glyphs.open_font`.
    """
    found = np.flatnonzero(glyphs.any(axis=(1, 2)))
    low, high = max(_SMALLEST, sizes[0] - _WIDER), sizes[1] + _WIDER
    grid = np.unique(np.rint(np.geomspace(low, high, _COARSE_SIZES)).astype(np.int64)).tolist()
    characters = "".join(alphabet[k] for k in found)
    bank = GlyphBank(characters, fonts, tuple(GLYPH_SCALE * size for size in grid), (0.0,))
    classes: list[FontMatch | None] = [None] * len(glyphs)
    for character, k in enumerate(found):
        picture = _Picture(glyphs[k])
        drawn = [
            _upright(bank.glyph(f, s, 0, character).alpha, picture.side)
            for f in range(len(fonts))
            for s in range(len(grid))
        ]
        similarity = picture.similarities(np.stack(drawn)).reshape(len(fonts), len(grid))
        best = similarity.argmax(1)
        classes[k] = max(
            (
                _look_closely(picture, alphabet[k], fonts[f], _about(grid, int(best[f])), strokes)
                for f in np.argsort(-similarity.max(1), kind="stable")[:_FONTS]
            ),
            key=lambda match: match.similarity,
        )
    matches = [match for match in classes if match]
    return FontMatches(
        tuple(classes),
        size=_median([match.size for match in matches], step=1),
        turn=_median([match.turn for match in matches], step=_TURNS[1] - _TURNS[0]),
        weight=_median([match.weight for match in matches], step=0),
    )


def misnamed_shapes(glyphs: GreyImages, alphabet: str, matches: FontMatches) -> dict[int, int]:
    """Misnamed glyphs: a map from each wrong class to the right one.

    A recognizer that reads each 's' as 'g' finds the glyph of an 's' under the name 'g', and the
    next recognizer learns the same. A glyph is misnamed if it is far more similar to another
    character than to its own. That character must also have no glyph, or a misnamed one. Comparison
    uses only fonts and sizes that match other glyphs well. With all fonts and sizes, some character
    would resemble any glyph by chance.

    Args:
        glyphs: (K, G, G) glyphs, as in `match_fonts`.
        alphabet: K characters.
        matches: Result of `match_fonts` for these glyphs.
    """
    found = np.flatnonzero(glyphs.any(axis=(1, 2))).tolist()
    shapes = [_Picture(glyphs[k]) for k in found]
    similarity = np.full((len(found), len(alphabet)), -1, np.float32)
    for font, size, stroke in sorted(_manners(matches)):
        bank = GlyphBank(alphabet, (font,), (GLYPH_SCALE * size,), (GLYPH_SCALE * stroke,))
        drawn = [
            _upright(glyph.alpha, shapes[0].side, turn)
            for turn in _LEANING
            for glyph in bank.glyphs
        ]
        alike = np.stack([shape.similarities(np.stack(drawn)) for shape in shapes])
        of_turns = alike.reshape(len(found), len(_LEANING), len(alphabet))
        similarity = np.maximum(similarity, of_turns.max(1))

    names: dict[int, int] = {}
    for k, of_characters in zip(found, similarity, strict=True):
        own = float(of_characters[k])
        if of_characters.max() > max(own + _MISNAMED, 1 - (1 - own) / _OFF):
            names[k] = int(of_characters.argmax())
    while theirs := [k for k, name in names.items() if name in set(found) - names.keys()]:
        for k in theirs:
            del names[k]
    return names


def _manners(matches: FontMatches) -> set[tuple[str, int, float]]:
    """Fonts, sizes and strokes that match the better half of the glyphs.

    The best match of a misnamed glyph is similar by chance only, so it is left out.
    """
    found = [match for match in matches.classes if match]
    likely = float(np.median([match.similarity for match in found])) if found else 0.0
    usual = [m for m in found if abs(m.size / matches.size.value - 1) <= _ALIKE_SIZES]
    return {(m.font, m.size, m.stroke) for m in usual if m.similarity >= likely}


def _unit(pictures: GreyImages) -> Floats:
    """Pictures (n, P) with mean 0 and norm 1, so that dot products are correlations."""
    centred = pictures.astype(np.float32) - pictures.mean(1, dtype=np.float32, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(length, 1e-6))


class _Picture:
    """A calibrated glyph, centred by its ink on a canvas with room for shifts."""

    def __init__(self, glyph: GreyImages) -> None:
        self.side = len(glyph)
        self.area = _area(glyph)
        moved = np.eye(2, 3)
        moved[:, 2] = (self.side - 1) / 2 + _REACH - _middle(glyph)
        self.canvas = cv2.warpAffine(glyph, moved, (self.side + 2 * _REACH,) * 2)

    def similarities(self, drawn: GreyImages) -> Floats:
        """Correlations (n,) with glyphs (n, G, G) of fonts, at the best shift of each."""
        shape = (self.side, self.side)
        windows = np.lib.stride_tricks.sliding_window_view(self.canvas, shape)
        each = _unit(windows.reshape(-1, self.side**2)) @ _unit(drawn.reshape(len(drawn), -1)).T
        return np.asarray(each.max(0))


def _middle(glyph: GreyImages) -> npt.NDArray[np.float64]:
    """Centre of mass (x, y) of the ink, without faint traces of neighbours."""
    ink = np.where(glyph > 64, glyph, 0).astype(np.float64)
    along = np.arange(max(ink.shape))
    x, y = ink.sum(0) @ along[: ink.shape[1]], ink.sum(1) @ along[: ink.shape[0]]
    return np.array([x, y]) / max(1.0, float(ink.sum()))


def _area(glyph: GreyImages) -> int:
    """Number of pixels with more than half coverage; it is nearly independent of blur."""
    return int((glyph > 127).sum())


def _upright(glyph: GreyImages, side: int, turn: float = 0.0) -> GreyImages:
    """A font glyph (side, side), centred, rotated and slightly blurred."""
    middle = _middle(glyph)
    matrix = cv2.getRotationMatrix2D(middle.tolist(), turn, 1)
    matrix[:, 2] += (side - 1) / 2 - middle
    drawn = cv2.warpAffine(glyph, matrix, (side, side))
    return np.asarray(cv2.GaussianBlur(drawn, (5, 5), _BLUR), np.uint8)


def _about(grid: list[int], best: int) -> range:
    """All sizes between the neighbours of the best one."""
    return range(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)] + 1)


def _look_closely(
    picture: _Picture, character: str, font: str, sizes: Iterable[int], strokes: tuple[float, ...]
) -> FontMatch:
    """The best match of one font over rotations, sizes and outlines."""
    sizes = tuple(sizes)
    outlines = tuple(dict.fromkeys((0.0, *strokes)))  # the plain font first
    bank = GlyphBank(
        character,
        (font,),
        tuple(GLYPH_SCALE * size for size in sizes),
        tuple(GLYPH_SCALE * outline for outline in outlines),
    )
    tried = list(product(range(len(sizes)), range(len(outlines)), _TURNS))
    drawn = [_upright(bank.glyph(0, s, o, 0).alpha, picture.side, turn) for s, o, turn in tried]
    similarities = picture.similarities(np.stack(drawn))
    best = int(similarities.argmax())
    similarity, (s, o, turn) = float(similarities[best]), tried[best]
    own = _area(bank.glyph(0, s, 0, 0).alpha)
    weight = picture.area / max(1, own)
    return FontMatch(font, sizes[s], similarity, turn, weight, outlines[o])


def _median(values: list[float] | list[int], step: float) -> Estimate:
    """Median and its standard error, for values that were searched in steps."""
    if not values:
        return Estimate(math.nan, math.nan)
    array: Floats = np.array(values, np.float32)
    median = float(np.median(array))
    deviation = 1.4826 * float(np.median(np.abs(array - median)))
    # Standard error of a median of n normal values, plus the error of the step width.
    chance = 1.2533 * deviation / math.sqrt(len(array))
    return Estimate(median, math.hypot(chance, step / math.sqrt(12)))
