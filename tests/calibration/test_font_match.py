import math
import time

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from simgan_captcha.calibration.font_match import FontMatches, match_fonts, misnamed_shapes
from simgan_captcha.scheme import HACKMIT_2017
from simgan_captcha.simulator.settings import DEFAULT_FONTS
from simgan_captcha.types import GreyImages
from tests.calibration.scene import LETTERS, SIDE, STRANGER, font_glyphs

SIZES = (20, 26)
SOME = ("stix-bold", "roboto-black", "dejavu-sans-bold")
WORD = "abegkmrw2457"


def seen(
    font: str,
    size: int,
    alphabet: str,
    *,
    turns: npt.ArrayLike = 0.0,
    right: float = 0.0,
    noise: float = 0.03,
) -> GreyImages:
    """Letters of a font like fitted glyphs: rotated, shifted, blurred, with traces of others."""
    pictures = font_glyphs(font, size, alphabet)
    generator = np.random.default_rng(0)
    found = []
    for picture, turn in zip(pictures, np.broadcast_to(turns, len(pictures)), strict=True):
        matrix = cv2.getRotationMatrix2D((SIDE / 2 - 0.5, SIDE / 2 - 0.5), float(turn), 1)
        matrix[0, 2] += right
        turned = cv2.GaussianBlur(cv2.warpAffine(picture, matrix, (SIDE, SIDE)), (0, 0), 1.2)
        found.append(turned + noise * generator.random(turned.shape))
    return np.asarray(np.rint(np.clip(found, 0, 1) * 255), np.uint8)


def match(glyphs: GreyImages, alphabet: str, fonts: tuple[str, ...] = SOME) -> FontMatches:
    return match_fonts(glyphs, alphabet, fonts, SIZES, (0.0, 0.4))


@pytest.mark.parametrize(("font", "size"), [("roboto-black", 17), ("stix-bold", 24)])
def test_a_font_and_its_size_are_recognised(font: str, size: int) -> None:
    """Also a size that the simulator does not draw."""
    matches = match(seen(font, size, WORD, turns=np.linspace(-7, 7, len(WORD)), right=5), WORD)
    found = [m for m in matches.classes if m]
    assert len(found) == len(WORD)
    assert sum(m.font == font for m in found) >= len(WORD) - 1
    assert min(m.similarity for m in found) > 0.95
    assert all(abs(m.size - size) <= 1 for m in found)
    assert matches.size.value == pytest.approx(size, abs=1)
    assert abs(matches.size.value - size) <= 3 * matches.size.error
    assert matches.size.error < 1
    assert matches.weight.value == pytest.approx(1, abs=0.1)
    assert matches.unlike == ()


@pytest.mark.parametrize("turn", [-6, 0, 5])
def test_a_common_rotation_of_all_glyphs_is_found(turn: int) -> None:
    matches = match(seen("roboto-black", 24, WORD, turns=turn), WORD)
    assert matches.turn.value == pytest.approx(turn, abs=2)
    assert abs(matches.turn.value - turn) <= 3 * matches.turn.error
    assert matches.turn.error < 2


def test_a_bolder_font_has_a_larger_weight() -> None:
    weights = []
    for outline in (1, 3):
        bold = seen("roboto-black", 22, WORD, noise=0)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (outline, outline))
        thick = np.stack([cv2.dilate(picture, kernel) for picture in bold])
        weights.append(match(thick, WORD, ("roboto-black",)).weight)
    assert weights[0].value == pytest.approx(1, abs=0.08)
    assert weights[1].value > weights[0].value + 0.1
    assert weights[1].error < 0.1


def test_letters_of_an_unknown_font_are_similar_to_known_fonts() -> None:
    alphabet = HACKMIT_2017.alphabet
    glyphs = seen(STRANGER, 24, alphabet)
    begun = time.process_time()
    matches = match(glyphs, alphabet, DEFAULT_FONTS)
    assert time.process_time() - begun < 15  # 3 on a core that is not shared
    assert matches.unlike == ()
    assert min(m.similarity for m in matches.classes if m) > 0.9
    assert len({m.font for m in matches.classes if m}) > 2


def test_a_glyph_unlike_all_fonts_is_reported() -> None:
    glyphs = seen("roboto-black", 24, WORD)
    g = WORD.index("g")
    glyphs[g] = glyphs[WORD.index("4")]  # mostly misread as it
    matches = match(glyphs, WORD)
    assert matches.unlike == (g,)
    odd = matches.classes[g]
    assert odd is not None
    assert odd.similarity < 0.9
    # Other glyphs do not change the estimate of the size.
    assert matches.size.value == pytest.approx(24, abs=1)


def test_equally_unlike_glyphs_are_not_reported() -> None:
    """Then the fonts do not fit, or the whole calibration."""
    shuffled = np.roll(seen("roboto-black", 24, LETTERS.alphabet), 1, axis=0)
    matches = match(shuffled, LETTERS.alphabet)
    assert np.median([m.similarity for m in matches.classes if m]) < 0.9
    assert len(matches.unlike) <= 1


def test_classes_without_a_glyph_have_no_font() -> None:
    glyphs = seen("stix-bold", 24, WORD)
    glyphs[[0, 3]] = 0
    matches = match(glyphs, WORD)
    assert [m is None for m in matches.classes] == [k in (0, 3) for k in range(len(WORD))]
    assert matches.size.value == pytest.approx(24, abs=1)
    nothing = match(np.zeros_like(glyphs), WORD)
    assert nothing.classes == (None,) * len(WORD)
    assert nothing.unlike == ()
    assert all(math.isnan(value) for value in (*nothing.size, *nothing.turn, *nothing.weight))


@pytest.mark.parametrize("level", [1, 60, 255])
def test_a_glyph_that_is_no_letter_is_unlike_all_fonts(level: int) -> None:
    blank = np.full((1, SIDE, SIDE), level, np.uint8)
    (found,) = match(blank, "a").classes
    assert found is not None
    assert -1 <= found.similarity < 0.5
    assert math.isfinite(found.weight)


def misnamed(glyphs: GreyImages, alphabet: str) -> dict[str, str]:
    found = misnamed_shapes(glyphs, alphabet, match(glyphs, alphabet, DEFAULT_FONTS))
    return {alphabet[k]: alphabet[name] for k, name in found.items()}


def mixed_up(shapes: str) -> GreyImages:
    """Letters of an unknown font in the places of the letters of ``WORD``; "." means none."""
    glyphs = seen(STRANGER, 24, WORD)
    return np.stack([glyphs[WORD.index(c)] if c != "." else 0 * glyphs[0] for c in shapes])


def test_letters_of_an_unknown_font_are_not_misnamed() -> None:
    glyphs = seen(STRANGER, 24, HACKMIT_2017.alphabet)
    begun = time.process_time()
    assert misnamed(glyphs, HACKMIT_2017.alphabet) == {}
    assert time.process_time() - begun < 25  # 5 on a core that is not shared


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        ("abegrmkw2457", {"k": "r", "r": "k"}),
        ("abegkwr.2457", {"m": "w"}),  # its owner has none
        ("abe.kmrw2745", {"4": "7", "5": "4", "7": "5"}),
        ("abeg.wrk2457", {"m": "w", "w": "k"}),  # one after the other
        ("abeg.wwk2457", {"m": "w", "r": "w", "w": "k"}),
        ("abegwmrw2457", {}),  # the owner has a glyph, like a bar that is a '1' next to an 'l'
        ("abegkkrw2457", {}),
    ],
)
def test_glyphs_of_other_characters_are_misnamed(shapes: str, found: dict[str, str]) -> None:
    assert misnamed(mixed_up(shapes), WORD) == found


def test_without_glyphs_none_is_misnamed() -> None:
    assert misnamed(mixed_up("." * len(WORD)), WORD) == {}
