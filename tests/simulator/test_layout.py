"""Text layouts of unknown families: values per image, and values per letter."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from simgan_captcha.data.background import plain_background
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.glyphs import GlyphBank
from simgan_captcha.simulator.layout import Letters, lay_out
from simgan_captcha.simulator.settings import LayoutSettings, SimulatorSettings
from simgan_captcha.simulator.simulator import Simulator

FONTS = ("roboto-black", "caladea", "dejavu-sans-mono")
SCHEME = Scheme(alphabet="iWm1", length=(2, 4), width=120, height=40)
WAVED = SCHEME.model_copy(update={"wavy_baseline": True})
BANK = GlyphBank(SCHEME.alphabet, FONTS, (14, 20), (0.0, -1.0))
STILL: dict[str, Any] = dict.fromkeys(
    ("jitter", "drift", "turn", "skew", "resize", "fade", "warp"), (0, 0)
)


def letters(count: int = 600, scheme: Scheme = SCHEME, **settings: Any) -> Letters:
    layout = LayoutSettings(**settings)
    return lay_out(scheme, layout, (-20, 10), BANK, np.random.default_rng(1), count)


def test_lengths_and_characters_are_uniform() -> None:
    found = letters(1800)
    present = found.ids != SCHEME.blank
    assert np.bincount(present.sum(1), minlength=5).tolist()[:2] == [0, 0]
    assert np.bincount(present.sum(1))[2:].min() > 500
    assert (present[:, :-1] >= present[:, 1:]).all()  # from the left
    counts = np.bincount(found.ids[present])
    assert counts.min() > 0.9 * counts.max()


def test_without_variation_all_letters_of_an_image_are_alike() -> None:
    found = letters(one_font=1, **STILL)
    assert not found.taper.any()
    assert not found.swell.any()
    assert not found.bend.any()
    for name in ("font", "size", "stroke", "scale", "y", "rotation", "shear", "stretch", "ink"):
        of_images = getattr(found, name)
        assert (of_images == of_images[:, :1]).all(), name
    for name in ("font", "size", "stroke", "y", "shear", "stretch", "ink"):
        assert len(np.unique(getattr(found, name)[:, 0])) > 1, name  # but images differ
    assert found.ink.min() >= -20
    assert found.ink.max() <= 10


def test_letters_deviate_from_the_slant_of_their_image() -> None:
    shear = letters(**{**STILL, "skew": (0.3, 0.3)}, slant=(0.1, 0.1)).shear
    assert np.ptp(shear, axis=1).min() > 0
    assert np.abs(shear - 0.1).max() == pytest.approx(0.3, abs=0.02)


def test_letters_have_their_own_perspective() -> None:
    found = letters(**{**STILL, "warp": (0.4, 0.4)})
    for perspective in (found.taper, found.swell):
        assert perspective.dtype == np.float32
        assert np.abs(perspective).max() == pytest.approx(0.4, abs=0.01)
        assert np.ptp(perspective, axis=1).min() > 0
    assert abs(np.corrcoef(found.taper.ravel(), found.swell.ravel())[0, 1]) < 0.1


def test_letters_on_a_wave_are_tilted_and_bent() -> None:
    one_wave = {**STILL, "wave": (0.25, 0.25), "wavelength": (1.5, 1.5), "slant": (0, 0)}
    found = letters(scheme=WAVED, **one_wave, baseline=(0, 0))
    height = SCHEME.height
    frequency = 2 * np.pi / (1.5 * height)
    risen = (found.y - height / 2) * frequency / 0.25  # the sine of the phase
    assert np.abs(risen).max() == pytest.approx(1, abs=0.01)
    slope = -np.tan(np.deg2rad(found.rotation))
    assert np.abs(slope).max() == pytest.approx(0.25, abs=0.01)
    np.testing.assert_allclose(np.square(risen) + np.square(slope / 0.25), 1, atol=1e-3)
    np.testing.assert_allclose(found.shear, slope, atol=1e-5)  # vertical strokes stay vertical
    # The bend is half of the second derivative of the wave.
    np.testing.assert_allclose(found.bend, -0.25 * frequency * risen * height / 2, atol=1e-3)
    # The wave continues between two letters.
    phase = np.arctan2(risen, slope / 0.25)
    apart = np.exp(1j * (np.diff(phase, axis=1) - np.diff(found.x, axis=1) * frequency))
    np.testing.assert_allclose(apart, 1, atol=1e-3)
    # Every image has its own wave.
    assert np.ptp(phase[:, 0]) > 6


def test_only_schemes_with_waves_have_them() -> None:
    calm, waved = letters(), letters(scheme=WAVED)
    changed = {
        field.name
        for field in fields(Letters)
        if not np.array_equal(getattr(calm, field.name), getattr(waved, field.name))
    }
    assert changed == {"y", "rotation", "shear", "bend"}
    assert not calm.bend.any()


def test_each_image_draws_its_amount_of_variation() -> None:
    spreads = np.ptp(letters(turn=(0, 40)).rotation, axis=1)
    assert spreads.max() > 50
    assert np.quantile(spreads, 0.1) < 10
    wild = letters(turn=(40, 40)).rotation
    assert np.abs(wild).max() <= 40
    assert np.quantile(np.ptp(wild, axis=1), 0.1) > 20


def test_images_have_one_font_or_one_per_letter() -> None:
    def alike(share: float) -> float:
        font = letters(one_font=share).font
        return float((font == font[:, :1]).all(1).mean())

    assert alike(1) == 1
    assert alike(0) < 0.1
    assert alike(0.5) == pytest.approx(0.52, abs=0.08)


def test_distances_are_equal_or_follow_the_widths() -> None:
    fixed = SCHEME.model_copy(update={"length": 4})
    even = np.diff(letters(scheme=fixed, even=1, **STILL).x, axis=1)
    assert np.allclose(even, even[:, :1], atol=1e-3)
    found = letters(scheme=fixed, even=0, **STILL)
    wide = found.ids == SCHEME.alphabet.index("W")
    narrow = found.ids == SCHEME.alphabet.index("i")
    apart = np.diff(found.x, axis=1)
    apart /= apart.mean(1, keepdims=True)
    # Two letters of one kind next to two of the other, compared within an image.
    both_wide, both_narrow = wide[:, 1:] & wide[:, :-1], narrow[:, 1:] & narrow[:, :-1]
    mixed = both_wide.any(1, keepdims=True) & both_narrow.any(1, keepdims=True)
    both_wide, both_narrow = both_wide & mixed, both_narrow & mixed
    assert np.median(apart[both_wide]) > 2 * np.median(apart[both_narrow])


def test_a_text_has_its_extent_and_is_inside_the_image() -> None:
    fixed = SCHEME.model_copy(update={"length": 4})
    found = letters(scheme=fixed, even=1, extent=(0.5, 0.5), **STILL)
    # Three of four distances lie between the first and the last centre.
    assert np.allclose(np.ptp(found.x, axis=1), 0.75 * 0.5 * SCHEME.width, atol=0.01)
    assert found.x.min() >= 0
    assert found.x.max() <= SCHEME.width
    middles = found.x.mean(1) - SCHEME.width / 2
    assert (np.abs(middles) < 0.01).mean() == pytest.approx(0.5, abs=0.08)
    assert np.abs(middles).max() > 0.2 * SCHEME.width  # others anywhere


def test_short_texts_are_spread_or_narrower() -> None:
    found = letters(even=1, extent=(0.6, 0.6), **STILL)
    short = (found.ids != SCHEME.blank).sum(1) == 2
    apart = (found.x[short, 1] - found.x[short, 0]).round(2)
    spread, narrower = 0.6 * 120 / 2, 0.6 * 120 * (2 / 3) / 2
    assert set(apart.tolist()) == {round(spread, 2), round(narrower, 2)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"extent": (1, 0.5)},
        {"turn": (-1, 5)},
        {"resize": (0, 2)},
        {"warp": (0, 9)},
        {"jitter": (0, np.nan)},
    ],
)
def test_invalid_ranges_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=f"{next(iter(wrong))}: expected"):
        LayoutSettings(**wrong)


def test_a_simulator_draws_the_layout() -> None:
    fixed = SCHEME.model_copy(update={"length": 4})
    settings = SimulatorSettings(
        fonts=("roboto-black",),
        size=(14, 20),
        noise=(0, 0),
        layout=LayoutSettings(turn=(0, 0), drift=(0, 0)),
    )
    simulator = Simulator(fixed, settings, plain_background(40, 120, 200))
    parameters = simulator.draw_parameters(np.random.default_rng(2), 50)
    images = simulator.render(parameters)
    inked = images > 60
    for n in range(50):
        columns = np.flatnonzero(inked[n].any(0))
        assert columns.min() > parameters.x[n].min() - 20
        assert columns.max() < parameters.x[n].max() + 20
    larger = simulator.render(replace(parameters, scale=parameters.scale * 1.5))
    assert (larger > 60).sum() > 1.3 * inked.sum()
    assert {f.name for f in fields(Letters)} < {f.name for f in fields(parameters)}
