from dataclasses import replace
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from simgan_captcha.calibration import rendering_fit
from simgan_captcha.calibration.moments import image_moments
from simgan_captcha.calibration.rendering_fit import (
    IMAGES,
    RenderingFit,
    draw_rendered,
    fit_rendering,
    start_rendering,
)
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.calibrated import RENDERING, Calibration
from simgan_captcha.simulator.clutter import CLUTTER, middles
from simgan_captcha.simulator.settings import SimulatorSettings
from simgan_captcha.simulator.simulator import AS_FOUND, Simulator
from simgan_captcha.types import GreyImages
from tests.calibration.scene import SIZE, STRANGER, font_glyphs, skewed, unformed
from tests.drawing import plain

SMALL = Scheme(alphabet="agel1m", length=2, width=48, height=48)
BACKGROUND = replace(plain(48, 48), ink_level=250.0)
BACKGROUND.grey[:, :24] = 60

TRUTHS = (
    (251.0, 0.0, 0.55, 1.0, 77.0, 1.0),
    (247.0, 0.0, 1.0, 1.0, 70.0, 2.0),
    (244.0, 0.7, 0.0, 1.0, 85.0, 1.0),
)
_CONTRAST = RENDERING.index("contrast")


def calibration(soft: bool = False) -> Calibration:
    """A calibration with exact poses, and with exact glyphs or soft ones like an average.

    Its rendering is only the initial estimate from the background.
    """
    glyphs = font_glyphs(STRANGER, SIZE)
    if soft:
        glyphs = np.stack([cv2.GaussianBlur(glyph, (0, 0), 1.2) for glyph in glyphs])
    generator, shape = np.random.default_rng(0), (200, 2)
    places = [
        np.arange(2) * 24 + 6 + 12 * generator.random(shape),
        15 + 10 * np.sqrt(generator.random(shape)),
        generator.uniform(-25, 30, shape),
    ]
    return replace(
        skewed(SMALL),
        glyphs=np.rint(glyphs * 255).astype(np.uint8),
        poses=unformed(np.stack(places, -1)),
        rendering=start_rendering(BACKGROUND),
    )


def rendered(
    values: tuple[float, ...], seed: int, count: int = IMAGES, *, soft: bool = False
) -> GreyImages:
    found = calibration(soft)
    return draw_rendered(SMALL, BACKGROUND, found, np.array(values), count, seed)


@cache
def fitted(truth: tuple[float, ...], evaluations: int = 160) -> RenderingFit:
    """A fit, with soft glyphs if the contrast is to be found: sharp glyphs do not determine it."""
    soft = truth[_CONTRAST] > 1
    images = rendered(truth, seed=9, soft=soft)
    return fit_rendering(images, BACKGROUND, SMALL, calibration(soft), 0, evaluations=evaluations)


@pytest.mark.parametrize("truth", TRUTHS)
def test_known_values_are_found(truth: tuple[float, ...]) -> None:
    fit = fitted(truth)
    off = dict(zip(RENDERING, np.abs(fit.values - truth), strict=True))
    assert off["ink"] < 3
    assert off["blur"] < 0.15
    assert off["nearest"] < 0.25
    assert off["noise"] < 1
    assert off["jpeg_quality"] < 4
    assert off["contrast"] < 0.2
    assert 0.2 < fit.misfit < 2  # only sampling error remains
    assert fit.values.dtype == fit.errors.dtype == np.float32


@pytest.mark.parametrize("truth", TRUTHS)
def test_the_truth_is_within_the_standard_errors(truth: tuple[float, ...]) -> None:
    fit = fitted(truth)
    assert (fit.errors > 0).all()
    assert (np.abs(fit.values - truth) < 3.5 * fit.errors).all()
    # The errors are also small enough to be useful.
    assert (fit.errors < (1, 0.31, 0.2, 1, 2, 0.15)).all()


def test_a_value_without_effect_has_a_large_error() -> None:
    """Blur so weak that the simulator draws none."""
    fit = fitted(TRUTHS[1])
    assert fit.values[1] == 0
    assert fit.errors[1] == pytest.approx(0.3)


def test_no_candidate_draws_ink_without_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A contrast below 1 would show the canvas of a glyph."""
    tried: list[float] = []

    def recorded(*arguments: Any, **named: Any) -> GreyImages:
        tried.append(float(named["values"][_CONTRAST]))
        return draw_rendered(*arguments, **named)

    monkeypatch.setattr(rendering_fit, "draw_rendered", recorded)
    values = start_rendering(BACKGROUND)
    values[_CONTRAST] = 1
    begin = replace(calibration(), rendering=values)
    fit_rendering(rendered(TRUTHS[0], 3, 20), BACKGROUND, SMALL, begin, 0, evaluations=10)
    assert min(tried) >= 1
    assert max(tried) > 1.2
    lowest = replace(begin, rendering=np.array([250, 0, 0, 0, 95, min(tried)], np.float32))
    empty = begin.glyphs == 0
    assert not lowest.drawn_glyphs()[empty].any()


def test_the_same_seed_gives_the_same_fit_and_counts_candidates() -> None:
    images, told = rendered(TRUTHS[0], 3, 30), list[tuple[int, int]]()

    def fit() -> RenderingFit:
        return fit_rendering(
            images,
            BACKGROUND,
            SMALL,
            calibration(),
            1,
            evaluations=12,
            on_evaluation=lambda done, total: told.append((done, total)),
        )

    one, again = fit(), fit()
    np.testing.assert_array_equal(one.values, again.values)
    np.testing.assert_array_equal(one.errors, again.errors)
    half = len(told) // 2
    assert told[:half] == told[half:]
    done = [d for d, _ in told[:half]]
    assert done == sorted(done)
    assert told[-1] == (12, 12)


def test_a_wrong_model_of_letters_gives_a_misfit_and_larger_errors() -> None:
    other = replace(
        calibration(),
        glyphs=np.rint(font_glyphs("stix-bold", SIZE) * 255).astype(np.uint8),
    )
    images = rendered(TRUTHS[0], seed=9)
    fit = fit_rendering(images, BACKGROUND, SMALL, other, 0, evaluations=30)
    assert fit.misfit > 10
    assert fit.errors[0] > 2 * fitted(TRUTHS[0]).errors[0]  # of ink


# Drawn images and their moments.


def test_images_are_rendered_with_exactly_these_values() -> None:
    sharp, blurred, noisy, coarse, plain, steep = (
        rendered(values, 0, 50, soft=soft).astype(np.float64)
        for values, soft in (
            ((250, 0, 0, 0, 95, 1), False),
            ((250, 1, 0, 0, 95, 1), False),
            ((250, 0, 0, 8, 95, 1), False),
            ((250, 0, 0, 0, 25, 1), False),
            ((250, 0, 0, 0, 95, 1), True),
            ((250, 0, 0, 0, 95, 4), True),
        )
    )
    assert sharp.max() <= 256
    assert np.median(sharp[sharp > 230]) == pytest.approx(250, abs=1)
    steepest = [np.abs(np.diff(images, axis=2)).max() for images in (sharp, blurred)]
    assert steepest[1] < 0.9 * steepest[0]
    # Far from the letters, over the darker half.
    for images, scatter in ((sharp, 0), (noisy, 8)):
        assert images[:, 44:, :16].std() == pytest.approx(scatter, abs=1.2)
    assert np.abs(coarse - sharp).mean() > 2
    # Pixels that are neither letter nor background, over the darker half.
    between = [((i > 90) & (i < 220))[:, :, :20].mean() for i in (plain, steep)]
    assert between[1] < 0.7 * between[0]


def test_fractional_qualities_are_mixed_over_images() -> None:
    low, between, high = (rendered((250, 0, 0, 0, q, 1), 0, 60) for q in (50, 50.5, 51))
    as_low = (between == low).all(axis=(1, 2))
    as_high = (between == high).all(axis=(1, 2))
    assert (as_low | as_high).all()
    assert 15 < as_low.sum() < 45


def test_other_calibrated_rendering_has_no_effect() -> None:
    found = calibration(soft=True)
    values = np.array(TRUTHS[1])
    one, other = (
        draw_rendered(SMALL, BACKGROUND, replace(found, rendering=r), values, 10, 0)
        for r in (found.rendering, np.array([9, 1, 0, 9, 20, 5], np.float32))
    )
    np.testing.assert_array_equal(one, other)
    assert (found.rendering == start_rendering(BACKGROUND)).all()


@pytest.mark.parametrize("cluttered", [False, True])
def test_moments_are_the_mean_over_images(cluttered: bool) -> None:
    """The spread of single images therefore gives the sampling error of the mean."""
    images = rendered(TRUTHS[0], 1, 8)

    def moments(of: GreyImages) -> npt.NDArray[np.float64]:
        return image_moments(of, BACKGROUND, cluttered=cluttered)

    each = np.stack([moments(images[n : n + 1]) for n in range(8)])
    np.testing.assert_allclose(moments(images), each.mean(0), rtol=1e-4)


# Clutter.

CLUTTERED = SMALL.model_copy(update={"clutter": ("lines", "dots")})
CLUTTER_TRUTH = (1.6, 0.065, 0.85, 0.95, 14.0, 0.04, 0.45)
TEXTURED = SMALL.model_copy(update={"clutter": ("texture",)})
TEXTURE_TRUTH = (0.16, 0.025)


def cluttered(count: int) -> GreyImages:
    """Images with clutter in a range around the true values, as in real images."""
    no_texture = (np.nan, np.nan)
    rendering, clutter = (
        np.array(v, np.float32) for v in (TRUTHS[0], (*CLUTTER_TRUTH, *no_texture))
    )
    truth = replace(calibration(), rendering=rendering, clutter=clutter)
    settings = SimulatorSettings(fonts=("roboto-black",))
    simulator = Simulator(CLUTTERED, settings, BACKGROUND, truth, shares=AS_FOUND)
    return simulator.batch(np.random.default_rng(9), count)[0]


def test_clutter_is_found() -> None:
    images = cluttered(800)
    fit = fit_rendering(images, BACKGROUND, CLUTTERED, calibration(), 0, evaluations=160)
    found = fit.clutter[: len(CLUTTER_TRUTH)]
    off = dict(zip(CLUTTER, np.abs(found - CLUTTER_TRUTH), strict=False))
    assert off["lines"] < 0.4
    assert off["line_width"] < 0.015
    assert off["line_strength"] < 0.15
    assert off["dots"] < 4
    assert off["dot_radius"] < 0.006
    assert off["dot_strength"] < 0.15
    assert fit.misfit < 4
    assert (fit.clutter_errors[: len(found)] > 0).all()
    assert abs(fit.values[0] - TRUTHS[0][0]) < 5  # the ink of the letters
    assert off["bend"] < 0.2
    # The start was further away.
    begun = np.abs(middles()[: len(found)] - CLUTTER_TRUTH)
    assert (begun > 2 * np.array(list(off.values()))).all()


def test_texture_is_found() -> None:
    truth = np.array([*TRUTHS[0], *TEXTURE_TRUTH])
    images = draw_rendered(TEXTURED, BACKGROUND, calibration(), truth, 600, 9)
    fit = fit_rendering(images, BACKGROUND, TEXTURED, calibration(), 0, evaluations=100)
    strength, grain = fit.clutter[-2:]
    assert strength == pytest.approx(TEXTURE_TRUTH[0], rel=0.15)
    assert grain == pytest.approx(TEXTURE_TRUTH[1], rel=0.2)
    assert np.isnan(fit.clutter[:-2]).all()
    assert fit.misfit < 4
    assert abs(fit.values[0] - TRUTHS[0][0]) < 5


def test_only_clutter_of_the_scheme_is_fitted() -> None:
    dotted = SMALL.model_copy(update={"clutter": ("dots",)})
    images = draw_rendered(
        dotted, BACKGROUND, calibration(), np.array([*TRUTHS[0], 8, 0.03, 1]), 40, 9
    )
    fit = fit_rendering(images, BACKGROUND, dotted, calibration(), 0, evaluations=20)
    said = dict(zip(CLUTTER, np.isnan(fit.clutter).tolist(), strict=True))
    assert said == {name: not name.startswith("dot") for name in CLUTTER}
    assert np.array_equal(np.isnan(fit.clutter), np.isnan(fit.clutter_errors))
    none = fit_rendering(images, BACKGROUND, SMALL, calibration(), 0, evaluations=20)
    assert np.isnan(none.clutter).all()


def test_only_calibrated_images_are_compared() -> None:
    """This also holds for schemes with several fonts and text lengths."""
    scheme = SMALL.model_copy(update={"length": (1, SMALL.max_length)})
    several = scheme.model_copy(update={"multiple_fonts": True})
    one, other = (
        draw_rendered(s, BACKGROUND, calibration(), np.array(TRUTHS[0]), 20, 9)
        for s in (scheme, several)
    )
    np.testing.assert_array_equal(one, other)
