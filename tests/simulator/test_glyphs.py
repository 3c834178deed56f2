from pathlib import Path
from string import ascii_lowercase, digits

import numpy as np
import pytest

from simgan_captcha.errors import ConfigError
from simgan_captcha.simulator.glyphs import (
    WIDE_FONTS,
    Glyph,
    GlyphBank,
    font_path,
    fonts_with,
    open_font,
)
from simgan_captcha.simulator.settings import DEFAULT_FONTS

ALPHABET = ascii_lowercase + digits


def glyphs(*characters: str, font: str = "dejavu-sans-bold", stroke: float = 0.0) -> list[Glyph]:
    bank = GlyphBank("".join(characters), (font,), (24,), (stroke,))
    return [bank.glyph(0, 0, 0, i) for i in range(len(characters))]


@pytest.mark.parametrize("font", DEFAULT_FONTS)
def test_every_default_font_draws_every_character_of_its_own(font: str) -> None:
    bank = GlyphBank(ALPHABET, (font,), (24,), (0.0, 0.4))
    for stroke in (0, 1):
        drawn = [bank.glyph(0, 0, stroke, i).alpha for i in range(len(ALPHABET))]
        assert all(alpha.max() == 255 for alpha in drawn)
        assert len({alpha.tobytes() for alpha in drawn}) == len(ALPHABET)


def test_glyphs_are_cropped_to_a_margin_of_one_pixel() -> None:
    bank = GlyphBank(ALPHABET, ("dejavu-sans-bold", "caladea-bold"), (16, 28), (0.0, 1.5))
    for glyph in bank.glyphs:
        edges = (glyph.alpha[0], glyph.alpha[-1], glyph.alpha[:, 0], glyph.alpha[:, -1])
        assert not any(edge.any() for edge in edges)
        height, width = (np.ptp(found) + 1 for found in np.nonzero(glyph.alpha))
        # A side bearing or a stroke may leave some more.
        assert glyph.alpha.shape[0] - height <= 6
        assert glyph.alpha.shape[1] - width <= 8


def test_centre_is_the_middle_of_an_o() -> None:
    (glyph,) = glyphs("o")
    rows, columns = np.nonzero(glyph.alpha > 128)
    middle = ((columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2)
    assert glyph.centre == pytest.approx(middle, abs=1)


def test_a_g_extends_below_the_centre_and_a_d_above() -> None:
    g, d = glyphs("g", "d")
    for glyph, hangs in ((g, True), (d, False)):
        rows = np.flatnonzero((glyph.alpha > 128).any(axis=1))
        above, below = glyph.centre[1] - rows[0], rows[-1] + 1 - glyph.centre[1]
        assert (below - above > 3) if hangs else (above - below > 3)


def test_strokes_thicken() -> None:
    ink = [int(glyphs("n", stroke=stroke)[0].alpha.sum()) for stroke in (0.0, 0.4, 1.0)]
    assert ink[0] * 1.05 < ink[1] < ink[2] / 1.05


def test_indices_are_those_of_font_size_stroke_character() -> None:
    fonts, sizes, strokes = ("stix-bold", "roboto-black"), (12, 20, 30), (0.0, 0.5)
    bank = GlyphBank("abc", fonts, sizes, strokes)
    assert bank.shape == (2, 3, 2, 3)
    every = np.indices(bank.shape).reshape(4, -1)
    np.testing.assert_array_equal(bank.index(*every), np.arange(len(bank.glyphs)))
    single = GlyphBank("c", fonts[1:], sizes[2:], strokes[1:]).glyph(0, 0, 0, 0)
    np.testing.assert_array_equal(bank.glyph(1, 2, 1, 2).alpha, single.alpha)
    last = bank.index(1, 2, 1, 2)
    assert tuple(bank.boxes[last]) == single.alpha.shape[::-1]
    assert tuple(bank.centres[last]) == single.centre


def test_a_font_may_be_a_file() -> None:
    named, path = "manrope-extrabold", str(font_path("manrope-extrabold"))
    assert open_font(path, 20, ALPHABET).getname() == open_font(named, 20, ALPHABET).getname()


@pytest.mark.parametrize("name", ["comic-sans", "/no/such/font.ttf", ""])
def test_a_missing_font_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError, match="expected a font file or one of dejavu-sans-bold, "):
        GlyphBank("ab", (name,), (24,), (0.0,))


def test_a_file_that_is_no_font_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "text.ttf").write_text("not a font")
    with pytest.raises(ConfigError, match="expected a TrueType or OpenType font at"):
        GlyphBank("ab", (str(tmp_path / "text.ttf"),), (24,), (0.0,))


@pytest.mark.parametrize("font", ["roboto-black", "caladea-bold"])
def test_missing_characters_of_a_font_are_named(font: str) -> None:
    """The font may draw a box in their place, or nothing."""
    with pytest.raises(ConfigError, match="lacks ' 漢'; choose another font"):
        GlyphBank("a 漢b", (font,), (24,), (0.0,))


def test_fonts_that_lack_a_character_are_left_out() -> None:
    assert fonts_with("abc1") == WIDE_FONTS
    cyrillic = fonts_with("\u0430\u0431\u0432")
    assert "dejavu-sans" in cyrillic
    assert set(cyrillic) < set(WIDE_FONTS)
    with pytest.raises(ConfigError, match="no known one has them; name font files"):
        fonts_with("\u0430\u4e2d")


def test_a_hollow_letter_is_its_outline_and_a_shadow() -> None:
    bank = GlyphBank("I", ("roboto-black",), (40,), (0.0, -2.0))
    full, hollow = (bank.glyph(0, 0, stroke, 0) for stroke in (0, 1))

    def level(glyph: Glyph, right: float, down: float) -> int:
        x, y = glyph.centre
        return int(glyph.alpha[round(y + down), round(x + right)])

    assert level(full, 0, 0) == 255
    assert level(hollow, 0, 0) == 0  # left out
    row = hollow.alpha[round(hollow.centre[1])] > 127
    edges = np.flatnonzero(np.diff(row.astype(int)))
    assert len(edges) == 4  # two strokes
    left, right = edges[1] - edges[0], edges[3] - edges[2]
    assert right > left  # the shadow
