"""Lines, dots and texture among the letters."""

from dataclasses import replace

import numpy as np
import pytest

from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.clutter import Clutter, ClutterRanges, draw_clutter, lay_clutter
from simgan_captcha.simulator.settings import SimulatorSettings
from simgan_captcha.simulator.simulator import Shares, Simulator
from tests.calibration.scene import skewed
from tests.drawing import plain

SCHEME = Scheme(alphabet="abc1", length=2, width=60, height=30)
TEXTURED = SCHEME.model_copy(update={"clutter": ("texture",)})
BOTH = SCHEME.model_copy(update={"clutter": ("lines", "dots")})
COUNT = 300


DEFAULT = ClutterRanges()


def drawn(scheme: Scheme, settings: ClutterRanges = DEFAULT, seed: int = 1) -> Clutter:
    random = np.random.default_rng(seed)
    return draw_clutter(scheme, settings, random, COUNT, ground=0.0, ink=200.0)


def laid(clutter: Clutter, image: int) -> np.ndarray:
    canvas = np.zeros((30, 60), np.float32)
    lay_clutter(canvas, clutter, image)
    return canvas


def test_a_fraction_gives_some_images_one_more() -> None:
    clutter = drawn(BOTH, ClutterRanges(lines=(1.3, 1.3), dots=(4, 4), line_width=(0.05, 0.05)))
    lines, dots = (clutter.line_width > 0).sum(1), (clutter.dot_radius > 0).sum(1)
    assert set(lines.tolist()) == {1, 2}
    assert lines.mean() == pytest.approx(1.3, abs=0.1)
    assert set(dots.tolist()) == {4}
    # A width of one and a half pixels.
    assert set(clutter.line_width[:, 0].tolist()) == {1, 2}
    assert clutter.line_width[:, 0].mean() == pytest.approx(1.5, abs=0.1)


def test_a_larger_maximum_keeps_the_first_entries() -> None:
    few, many = (drawn(BOTH, ClutterRanges(lines=(2, 2), dots=(d, d))) for d in (3, 9))
    assert np.array_equal(few.dots, many.dots[:, :3])
    assert np.array_equal(few.lines, many.lines)


def test_chosen_images_take_the_other_clutter() -> None:
    few = drawn(BOTH, ClutterRanges(lines=(1, 1), dots=(2, 2)))
    many = drawn(BOTH, ClutterRanges(lines=(4, 4), dots=(0, 0)), seed=2)
    chosen = np.arange(COUNT) % 3 == 0
    merged = few.where(many, chosen)
    assert set((merged.line_width > 0).sum(1)[chosen].tolist()) == {4}
    assert set((merged.line_width > 0).sum(1)[~chosen].tolist()) == {1}
    for n in (0, 1):
        assert np.array_equal(laid(merged, n), laid((few, many)[bool(chosen[n])], n))


def test_calibrated_clutter_is_drawn_except_in_a_share_of_images() -> None:
    found = replace(
        skewed(BOTH, 0, 1, 2, 3),
        clutter=np.array([8, 0.05, 0.3, 1, 20, 0.03, 0.7, np.nan, np.nan], np.float32),
    )
    few = ClutterRanges(lines=(1, 1), dots=(0, 0))
    for free in (0.0, 0.4):
        settings, shares = SimulatorSettings(fonts=("roboto-black",)), Shares(uncalibrated=free)
        simulator = Simulator(BOTH, settings, plain(60, 30), found, shares=shares, clutter=few)
        clutter = simulator.draw_parameters(np.random.default_rng(1), COUNT).clutter
        assert clutter is not None
        lines, dots = (clutter.line_width > 0).sum(1), (clutter.dot_radius > 0).sum(1)
        by_range = (lines == 1) & (dots == 0)
        assert by_range.mean() == pytest.approx(free, abs=0.08)
        assert set(lines[~by_range].tolist()) == {6, 7, 8, 9, 10}
        assert dots[~by_range].min() == 15
        assert dots[~by_range].max() == 25


def test_numbers_cover_the_whole_range() -> None:
    clutter = drawn(BOTH, ClutterRanges(lines=(0, 3), dots=(0, 5)))
    lines, dots = (clutter.line_width > 0).sum(1), (clutter.dot_radius > 0).sum(1)
    assert set(lines.tolist()) == {0, 1, 2, 3}
    assert set(dots.tolist()) == {0, 1, 2, 3, 4, 5}
    assert clutter.line_width[clutter.line_width > 0].min() >= 1
    assert clutter.dot_radius[clutter.dot_radius > 0].min() >= 0.5


@pytest.mark.parametrize("kind", ["lines", "dots", "texture"])
def test_only_kinds_of_the_scheme_are_drawn(kind: str) -> None:
    clutter = drawn(SCHEME.model_copy(update={"clutter": (kind,)}))
    assert (clutter.line_width > 0).any() == (kind == "lines")
    assert (clutter.dot_radius > 0).any() == (kind == "dots")
    assert (clutter.texture > 0).any() == (kind == "texture")


def test_ink_is_on_lines_and_dots() -> None:
    nothing = drawn(BOTH, ClutterRanges(lines=(0, 0), dots=(0, 0)))
    assert not laid(nothing, 0).any()
    line = Clutter(
        lines=np.array([[[[5, 10], [30, 10], [55, 10]]]], np.float32),
        line_width=np.array([[2]], np.float32),
        line_ink=np.array([120], np.float32),
        dots=np.array([[[40.5, 22.5]]], np.float32),
        dot_radius=np.array([[2]], np.float32),
        dot_ink=np.array([80], np.float32),
        texture=np.zeros(1, np.float32),
        grain=np.zeros(1, np.float32),
        texture_seed=np.zeros(1, np.int64),
    )
    canvas = laid(line, 0)
    assert np.allclose(canvas[10, 8:52], 120, atol=2)
    assert not canvas[:7].any()
    assert not canvas[14:19].any()
    assert canvas[22, 40] == pytest.approx(80, abs=2)
    assert canvas[22:, :35].max() == 0


def test_each_image_has_a_texture_of_its_own_strength_and_grain() -> None:
    clutter = drawn(TEXTURED, ClutterRanges(texture=0.2, grain=(0.02, 0.1)))
    assert clutter.texture.min() < 2
    assert clutter.texture.max() == pytest.approx(0.2 * 200, abs=1)
    assert clutter.grain.min() == pytest.approx(0.02 * 30, abs=0.05)
    assert clutter.grain.max() == pytest.approx(0.1 * 30, abs=0.05)
    one, again = laid(clutter, 0), laid(clutter, 0)
    assert np.array_equal(one, again)
    assert abs(np.corrcoef(one.ravel(), laid(clutter, 1).ravel())[0, 1]) < 0.3


def test_texture_has_its_strength_and_grain() -> None:
    def on_grey(deviation: float, grain: float) -> np.ndarray:
        clutter = drawn(TEXTURED)
        clutter.texture[0], clutter.grain[0] = deviation, grain
        canvas = np.full((200, 300), 100, np.float32)
        lay_clutter(canvas, clutter, 0)
        return canvas - 100

    def alike(texture: np.ndarray) -> float:
        """Correlation of neighbours."""
        return float(np.corrcoef(texture[:, 1:].ravel(), texture[:, :-1].ravel())[0, 1])

    for deviation, grain in ((12, 0.2), (12, 1.5), (4, 3)):
        texture = on_grey(deviation, grain)
        assert texture.std() == pytest.approx(deviation, rel=0.02)
        # Two Gaussians a pixel apart; a grain below a third of a pixel has none.
        expected = np.exp(-1 / (4 * grain**2)) if grain > 0.3 else 0
        assert alike(texture) == pytest.approx(expected, abs=0.05)
    # On black, grey levels are distances from the colour of the background.
    black = np.zeros((200, 300), np.float32)
    lay_clutter(black, drawn(TEXTURED), 0)
    assert black.min() >= 0
    assert (black > 0).mean() > 0.99


def test_texture_does_not_change_lines_and_dots() -> None:
    kinds = ("lines", "dots", "texture")
    all_of_them = drawn(SCHEME.model_copy(update={"clutter": kinds}))
    both = drawn(BOTH)
    assert all_of_them.texture.any()
    assert np.array_equal(both.lines, all_of_them.lines)
    assert np.array_equal(both.dot_radius, all_of_them.dot_radius)


def test_strength_is_relative_to_the_ink_of_letters() -> None:
    clutter = drawn(BOTH, ClutterRanges(line_strength=(0.5, 0.5)))
    assert np.allclose(clutter.line_ink, 100)
    dark = draw_clutter(
        BOTH,
        ClutterRanges(dot_strength=(0.5, 2)),
        np.random.default_rng(1),
        50,
        ground=200,
        ink=50,
    )
    assert dark.dot_ink.min() >= 0
    assert dark.dot_ink.max() <= 125


def test_schemes_without_clutter_draw_the_same_images() -> None:
    settings = SimulatorSettings(fonts=("roboto-black",), size=(12, 14), noise=(0, 0))
    clean = Simulator(SCHEME, settings, plain(60, 30))
    cluttered = Simulator(BOTH, settings, plain(60, 30))
    one, other = (s.draw_parameters(np.random.default_rng(4), 80) for s in (clean, cluttered))
    assert one.clutter is None
    assert other.clutter is not None
    assert np.array_equal(one.ids, other.ids)
    assert np.array_equal(one.x, other.x)
    with_it, without = cluttered.render(other), clean.render(one)
    marked = (other.clutter.line_width > 0).any(1) | (other.clutter.dot_radius > 0).any(1)
    differs = (with_it != without).any((1, 2))
    assert marked.any()
    assert np.array_equal(differs, marked)
    for some in (slice(3, 5), slice(70, 80)):
        assert np.array_equal(cluttered.render(other[some]), with_it[some])
