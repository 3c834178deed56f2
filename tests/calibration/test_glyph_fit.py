from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from simgan_captcha.calibration.calibrate import FORMS_ALIKE, calibrate
from simgan_captcha.calibration.drawing.poses import Poses
from simgan_captcha.calibration.glyph_fit import (
    FEWEST_EXAMPLES,
    GlyphFit,
    fit_glyphs,
    forms_differ,
    found_classes,
    glyph_side,
    mean_glyphs,
    sure_characters,
    without_haze,
)
from simgan_captcha.calibration.lost_shapes import find_lost_shapes
from simgan_captcha.calibration.rendering_fit import start_rendering
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.calibrated import GLYPH_SCALE
from simgan_captcha.simulator.pose import PLACED, POSE, UNBENT
from simgan_captcha.simulator.simulator import AS_FOUND, Simulator
from simgan_captcha.types import FloatImages
from tests.calibration.scene import (
    LETTERS,
    SIDE,
    SIZE,
    STRANGER,
    STRIPED,
    disturbed,
    drawing,
    exact_poses,
    first_of,
    font_glyphs,
    many_sizes,
    mistaken,
    scene,
    similarity,
    unsure,
)
from tests.drawing import plain

Doubles = npt.NDArray[np.float64]

EPOCHS = 12


@cache
def predicted_and_found(pixels: float, degrees: float, share: float) -> tuple[Poses, GlyphFit]:
    """Predictions with these errors, and the fit that starts from them."""
    normalised, poses = scene()
    predicted = mistaken(disturbed(poses, pixels, degrees), share)
    return predicted, fit_glyphs(normalised, predicted, seed=0, epochs=EPOCHS)


def own_similarity(glyphs: npt.NDArray[np.float32]) -> Doubles:
    """Correlation (K,) of each glyph with its true one, after a check that it is the largest."""
    found = similarity(glyphs, font_glyphs(STRANGER, SIZE))
    np.testing.assert_array_equal(found.argmax(1), np.arange(len(found)))
    np.testing.assert_array_equal(found.argmax(0), np.arange(len(found)))
    return np.asarray(np.diagonal(found))


# Shapes.


@pytest.mark.parametrize(
    ("pixels", "degrees", "share"),
    [(0, 0, 0), (2, 6, 0.1)],
    ids=["exact", "disturbed and mistaken"],
)
def test_glyphs_of_an_unknown_font_are_found(pixels: float, degrees: float, share: float) -> None:
    predicted, fit = predicted_and_found(pixels, degrees, share)
    assert fit.glyphs.shape == (len(LETTERS.alphabet), SIDE, SIDE)
    assert fit.glyphs.dtype == np.float32
    assert fit.glyphs.min() >= 0
    assert fit.glyphs.max() <= 1
    found = own_similarity(fit.glyphs)
    assert found.min() > 0.9
    # The mean of the images at the predictions is hazier.
    before = similarity(mean_glyphs(scene()[0], predicted), font_glyphs(STRANGER, SIZE)).diagonal()
    assert (found > before).all()
    if degrees:
        assert ((1 - found) < 0.7 * (1 - before)).all()


def found_under_a_line(masked: bool) -> float:
    """Share of the ink under the line that is missing from the glyphs, 0 to 1."""
    background = plain()
    background.line_mask[24:26] = True
    background.grey[background.line_mask] = 250
    # The line crosses the middle of every letter, which lies a little higher or lower.
    settings = drawing(rotation=(0, 0), vertical=(0.4, 0.6), horizontal=(0, 0))
    simulator = Simulator(LETTERS, settings, background)
    parameters = simulator.draw_parameters(np.random.default_rng(4), 120)
    normalised = background.normalise(simulator.render(parameters))
    if not masked:
        normalised[:, 1] = -1
    glyphs = fit_glyphs(normalised, exact_poses(parameters), seed=0, epochs=8).glyphs
    near = slice(SIDE // 2 - 6, SIDE // 2 + 6)
    full = font_glyphs(STRANGER, SIZE)[:, near] > 0.8
    return float((1 - glyphs[:, near][full]).mean())


def test_ink_under_a_line_is_taken_from_other_characters() -> None:
    hidden = found_under_a_line(masked=False)
    assert hidden > 0.1  # there is something to complete
    assert found_under_a_line(masked=True) < 0.5 * hidden


def test_fitted_glyphs_are_the_drawn_ones() -> None:
    """Simulator and fit agree on glyphs, positions and rotations to a fraction of a pixel."""
    first = predicted_and_found(0, 0, 0)[1]
    rendering = np.array([250, 0, 0.5, 0.5, 50, 1], np.float32)
    calibration = calibrate(first.glyphs, first.poses, first.kept, first.settled, rendering)
    settings = drawing(fonts=("stix-bold",))
    simulator = Simulator(LETTERS, settings, STRIPED, calibration, shares=AS_FOUND)
    parameters = simulator.draw_parameters(np.random.default_rng(5), 200)
    images = STRIPED.normalise(simulator.render(parameters))
    poses = exact_poses(parameters)
    again = fit_glyphs(images, poses, seed=0, glyphs=first.glyphs, epochs=6)
    assert np.diagonal(similarity(first.glyphs, again.glyphs)).min() > 0.98
    np.testing.assert_allclose(middles(again.glyphs), middles(first.glyphs), atol=0.5)
    off = errors(again.poses, poses)[again.kept]
    assert np.abs(np.median(off, 0)).max() < 0.2
    second = calibrate(again.glyphs, again.poses, again.kept, again.settled, rendering)
    assert np.abs(second.offset - calibration.offset)[:, :2].max() < 1.5


def middles(glyphs: npt.NDArray[np.float32]) -> Doubles:
    """Centres of mass (K, 2)."""
    places = np.indices(glyphs.shape[1:]).reshape(2, -1)
    ink = (glyphs > 0.5).reshape(len(glyphs), -1).astype(np.float64)
    return np.asarray(ink @ places.T / ink.sum(1, keepdims=True))


# Poses.


def errors(predicted: Poses, true: Poses) -> Doubles:
    """Errors (N, L, 3) in pixels and degrees, without the common offset of each class."""
    off = np.stack([getattr(predicted, n) - getattr(true, n) for n in ("x", "y", "rotation")], -1)
    off = off.astype(np.float64)
    ids = true.probabilities.argmax(-1)
    for k in range(true.probabilities.shape[-1]):
        off[ids == k] -= np.median(off[ids == k], 0)
    return off


def test_poses_are_improved() -> None:
    predicted, fit = predicted_and_found(2, 6, 0.1)
    true = scene()[1]
    counted = fit.kept & (predicted.probabilities.argmax(-1) == true.probabilities.argmax(-1))
    before, after = (np.abs(errors(p, true)[counted]).mean(0) for p in (predicted, fit.poses))
    assert (after < before / 2).all()
    assert after[:2].max() < 0.3


def test_dropped_characters_are_mostly_misread() -> None:
    predicted, fit = predicted_and_found(2, 6, 0.1)
    wrong = predicted.probabilities.argmax(-1) != scene()[1].probabilities.argmax(-1)
    assert fit.kept.mean() == pytest.approx(0.85, abs=0.01)
    assert wrong[~fit.kept].mean() > 0.4
    assert wrong[fit.kept].mean() < 0.06 < 0.09 < wrong.mean()
    assert np.isfinite(fit.misfit[fit.kept]).all()


def test_unsure_characters_do_not_count() -> None:
    normalised, poses = scene()
    normalised, poses = normalised[:60], first_of(poses, 60)
    uncertain = np.random.default_rng(1).random(poses.x.shape) < 0.2
    # With their wrong positions, they would spoil every glyph.
    predicted = unsure(replace(poses, rotation=poses.rotation + 180 * uncertain), uncertain)
    fit = fit_glyphs(normalised, predicted, seed=0, epochs=4)
    assert not fit.kept[uncertain].any()
    assert np.isnan(fit.misfit[uncertain]).all()
    assert own_similarity(fit.glyphs).min() > 0.8


def test_unsure_characters_converge_too() -> None:
    """Their poses must also be right in images that are drawn from."""
    normalised, poses = scene()
    normalised, poses = normalised[:100], first_of(poses, 100)
    uncertain = np.random.default_rng(1).random(poses.x.shape) < 0.2
    predicted = unsure(disturbed(poses, 1, 4), uncertain)
    glyphs = font_glyphs(STRANGER, SIZE)
    fit = fit_glyphs(normalised, predicted, seed=0, glyphs=glyphs, epochs=2)
    assert not fit.kept[uncertain].any()
    before, after = (np.abs(errors(p, poses)[uncertain]).mean(0) for p in (predicted, fit.poses))
    assert (after < 0.6 * before).all()
    assert fit.settled.mean() > 0.95


def test_images_with_a_letter_seen_twice_are_not_settled() -> None:
    normalised, poses = scene()
    normalised, poses = normalised[:100], first_of(poses, 100)
    places, probabilities = poses.places, poses.probabilities.copy()
    places[:50, 3], probabilities[:50, 3] = places[:50, 2], probabilities[:50, 2]
    predicted = replace(poses, probabilities=probabilities).at(places)
    fit = fit_glyphs(normalised, predicted, seed=0, glyphs=font_glyphs(STRANGER, SIZE), epochs=2)
    assert fit.settled[:50].mean() < 0.2
    assert fit.settled[50:].mean() > 0.9


SHORT = Scheme(alphabet="agel1m", length=2, width=48, height=24)


@cache
def short_scene() -> tuple[FloatImages, Poses]:
    """Images of so small a height that a few pixels are far."""
    settings = drawing(
        size=(13, 13), rotation=(-10, 10), horizontal=(-0.1, 0.1), vertical=(0.4, 0.6)
    )
    simulator = Simulator(SHORT, settings, plain(SHORT.width, SHORT.height))
    parameters = simulator.draw_parameters(np.random.default_rng(7), 150)
    images = simulator.background.normalise(simulator.render(parameters))
    return images, exact_poses(parameters, SHORT)


@pytest.mark.parametrize("sure", [True, False])
@pytest.mark.parametrize("pixels", [1.0, 3.7])
def test_images_with_a_letter_far_from_its_prediction_are_not_settled(
    pixels: float, sure: bool
) -> None:
    images, poses = short_scene()
    off = np.zeros(poses.x.shape, np.bool_)
    off[:30, 1] = True
    predicted = replace(poses, x=(poses.x + pixels * off).astype(np.float32))
    fit = fit_glyphs(images, predicted if sure else unsure(predicted, off), seed=0, epochs=8)
    assert fit.settled.shape == (len(images),)
    assert fit.settled.dtype == np.bool_
    assert fit.settled[30:].mean() > 0.97
    # Most letters are found at their true positions, not at the predicted ones.
    assert np.median(np.abs(fit.poses.x - poses.x)[off]) < 0.5
    strayed = (np.abs(fit.poses.x - predicted.x) > 0.12 * SHORT.height).any(1)
    np.testing.assert_array_equal(fit.settled[:30], ~strayed[:30])
    assert (strayed[:30].mean() > 0.6) == (pixels > 3)
    assert strayed[:30].any() == (pixels > 3)


def test_images_with_a_letter_rotated_far_from_its_prediction_are_not_settled() -> None:
    images, poses = short_scene()
    off = np.zeros(poses.x.shape, np.bool_)
    off[:30, 0] = True
    predicted = replace(poses, rotation=(poses.rotation + 35 * off).astype(np.float32))
    fit = fit_glyphs(images, predicted, seed=0, epochs=24)
    turned = np.abs(fit.poses.rotation - predicted.rotation).max(1) > 25
    assert turned[:30].mean() > 0.2
    np.testing.assert_array_equal(fit.settled[:30], ~turned[:30])
    assert fit.settled[30:].mean() > 0.97


def test_half_of_the_images_are_settled_with_rough_predictions() -> None:
    """Such as those of an untrained recognizer. The better half is better than nothing."""
    images, poses = short_scene()
    fit = fit_glyphs(images, disturbed(poses, 5, 30), seed=0, epochs=4)
    assert 0.5 <= fit.settled.mean() < 0.7


def test_the_same_seed_gives_the_same_fit() -> None:
    normalised, poses = scene()
    few = disturbed(first_of(poses, 100), 1, 4)
    one, again, other = (fit_glyphs(normalised[:100], few, s, epochs=3) for s in (1, 1, 2))
    for name in ("glyphs", "kept", "settled", "misfit"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    for name in ("x", "y", "rotation"):
        np.testing.assert_array_equal(getattr(one.poses, name), getattr(again.poses, name))
    assert (one.glyphs != other.glyphs).any(axis=(1, 2)).all()  # in another order


def test_epochs_are_reported() -> None:
    normalised, poses = scene()
    reported: list[tuple[int, int, float]] = []
    few = disturbed(first_of(poses, 64), 1, 4)
    fit_glyphs(normalised[:64], few, 0, epochs=4, on_epoch=lambda *e: reported.append(e))
    assert [(done, epochs) for done, epochs, _ in reported] == [(n, 4) for n in (1, 2, 3, 4)]
    assert 0 < reported[-1][2] < reported[0][2]


# Too few.


def test_an_under_predicted_class_gets_no_glyph() -> None:
    """A class that is read much less often than the others may be misread."""
    normalised, poses = scene()
    ones = poses.probabilities.argmax(-1) == LETTERS.alphabet.index("1")
    few = ones & (np.cumsum(ones).reshape(ones.shape) > FEWEST_EXAMPLES + 10)
    fit = fit_glyphs(normalised, unsure(poses, few), seed=0, epochs=3)
    np.testing.assert_array_equal(fit.glyphs.any(axis=(1, 2)), [True] * 4 + [False, True])


def test_without_confident_characters_no_glyph_is_found() -> None:
    normalised, poses = scene()
    poses = first_of(poses, 30)
    predicted = unsure(poses, np.ones(poses.x.shape, np.bool_))
    fit = fit_glyphs(normalised[:30], predicted, seed=0, epochs=4)
    assert not fit.glyphs.any()
    assert not fit.kept.any()
    np.testing.assert_allclose(fit.poses.x, poses.x, atol=1e-4)


@pytest.mark.parametrize(
    ("read", "found"),
    [
        ([100, 100, 100, 30], [True, True, True, True]),
        ([100, 100, 100, 29], [True, True, True, False]),
        ([FEWEST_EXAMPLES, FEWEST_EXAMPLES - 1, 21, 22], [True, False, True, True]),
        ([0, 0, 0, 0], [False] * 4),
    ],
)
def test_classes_with_enough_characters_are_found(read: list[int], found: list[bool]) -> None:
    assert found_classes(np.array(read)).tolist() == found


def test_the_most_confident_of_a_class_count_but_not_guesses() -> None:
    probabilities = np.full((300, 1, 3), 0.02, np.float32)
    probabilities[:100, 0, 0] = 0.95
    # No character of class 1 is confident; the first hundred are likelier than the next hundred.
    probabilities[100:200, 0, 1], probabilities[200:, 0, 1] = 0.7, 0.6
    sure = sure_characters(probabilities)[:, 0]
    np.testing.assert_array_equal(sure, np.arange(300) < 200)
    probabilities[100:200, 0, 1] = 0.45
    probabilities[200:, 0, 1] = 0.4
    np.testing.assert_array_equal(sure_characters(probabilities)[:, 0], np.arange(300) < 100)


def test_a_glyph_s_canvas_is_four_fifths_of_the_image() -> None:
    assert glyph_side(50) == 40 * GLYPH_SCALE
    assert glyph_side(24) == 18 * GLYPH_SCALE


def test_empty_slots_do_not_disturb_the_fit() -> None:
    scheme = LETTERS.model_copy(update={"length": (2, LETTERS.max_length)})
    simulator = Simulator(scheme, drawing(), STRIPED)
    parameters = simulator.draw_parameters(np.random.default_rng(1), 250)
    images, poses = simulator.render(parameters), exact_poses(parameters, scheme)
    poses = disturbed(poses, 1.0, 2.0)
    # The recognizer also predicts poses of empty slots.
    everywhere = np.random.default_rng(2).random(poses.x.shape).astype(np.float32)
    poses = replace(poses, x=np.where(poses.present, poses.x, 100 * everywhere))
    fit = fit_glyphs(STRIPED.normalise(images), poses, 1, epochs=10)

    assert not fit.kept[~poses.present].any()
    assert fit.kept[poses.present].mean() > 0.7
    glyphs, empty = fit.glyphs[:-1], fit.glyphs[-1]
    assert not empty.any()
    true = font_glyphs(STRANGER, SIZE)
    assert similarity(glyphs, true).diagonal().min() > 0.9
    assert find_lost_shapes(STRIPED.normalise(images), fit) is None  # an empty slot is none

    found = calibrate(fit.glyphs, fit.poses, fit.kept, fit.settled, start_rendering(STRIPED))
    again = Simulator(scheme, drawing(), STRIPED, found)
    redrawn = again.draw_parameters(np.random.default_rng(3), 600)
    lengths = (redrawn.ids != scheme.blank).sum(1)
    assert (np.bincount(lengths)[2:] / 600).min() > 0.25  # as real texts are
    assert np.array_equal((redrawn.x > -20) & (redrawn.x < 120), redrawn.ids != scheme.blank)
    assert again.render(redrawn[:5]).shape == (5, 50, 100)


# Forms.


@cache
def first_fit() -> GlyphFit:
    """The first fit, of letters of many sizes."""
    normalised, poses, _ = many_sizes()
    return fit_glyphs(normalised, poses, seed=0, epochs=EPOCHS)


def test_forms_differ_only_with_letters_of_many_sizes() -> None:
    normalised, fit = many_sizes()[0], first_fit()
    assert forms_differ(normalised, fit, UNBENT)
    assert not fit.poses.places[..., PLACED:].any()  # the first fit had none
    assert not forms_differ(scene()[0], predicted_and_found(2, 6, 0.1)[1], len(POSE))
    nothing = replace(fit, kept=np.zeros_like(fit.kept))
    assert not forms_differ(normalised, nothing, UNBENT)


def test_sizes_are_found_and_drawn_again() -> None:
    (normalised, poses, sizes), first = many_sizes(), first_fit()
    begin = first.poses.places
    fit = fit_glyphs(
        normalised, poses, 0, glyphs=first.glyphs, begin=begin, moving=UNBENT, epochs=EPOCHS
    )
    kept = fit.kept & first.kept
    assert np.median(fit.misfit[kept] / first.misfit[kept]) < 0.6
    found, ids = fit.poses.places[..., POSE.index("size")], poses.ids
    for k in range(len(LETTERS.alphabet)):
        # The size of the glyph itself is arbitrary.
        of_class = fit.kept & (ids == k)
        assert np.corrcoef(found[of_class], sizes[of_class])[0, 1] > 0.9
    calibration = calibrate(fit.glyphs, fit.poses, fit.kept, fit.settled, start_rendering(plain()))
    assert calibration.formed[0]
    simulator = Simulator(LETTERS, drawing(), plain(), calibration, shares=AS_FOUND)
    drawn = simulator.draw_parameters(np.random.default_rng(1), 2000)
    deviation = np.log(drawn.scale).std()
    assert deviation == pytest.approx(found[fit.settled].std(), rel=0.1)


def test_small_differences_of_form_are_ignored() -> None:
    fit = predicted_and_found(0, 0, 0)[1]
    spread = FORMS_ALIKE * (0.5, 3, 0.5, 2, 0.5, 2)
    form = np.random.default_rng(0).normal(0, 1, (*fit.kept.shape, 6)) * spread
    poses = replace(fit.poses, form=form.astype(np.float32))
    found = calibrate(fit.glyphs, poses, fit.kept, fit.settled, start_rendering(STRIPED))
    np.testing.assert_array_equal(found.formed, [False, True, False, True, False, True])
    simulator = Simulator(LETTERS, drawing(), STRIPED, found, shares=AS_FOUND)
    drawn = simulator.draw_parameters(np.random.default_rng(1), 300)
    np.testing.assert_array_equal(drawn.scale, 1)
    np.testing.assert_array_equal(drawn.shear, 0)
    np.testing.assert_array_equal(drawn.swell, 0)
    assert np.log(drawn.stretch).std() == pytest.approx(spread[1], rel=0.2)
    assert drawn.taper.std() == pytest.approx(spread[3], rel=0.2)
    assert drawn.bend.std() == pytest.approx(spread[5], rel=0.2)


def test_convergence_is_measured_from_the_predictions() -> None:
    """It is not measured from the poses of another fit."""
    normalised, poses = scene()
    first = predicted_and_found(0, 0, 0)[1]
    elsewhere = poses.at(poses.places + np.array([0, 12, *[0] * 7], np.float32))
    fit = fit_glyphs(
        normalised, elsewhere, 0, glyphs=first.glyphs, begin=first.poses.places, epochs=2
    )
    # All of them are equally far, so half of them count.
    assert np.median(np.abs(fit.poses.y - poses.y)) < 1
    assert fit.settled.mean() < 0.8
    again = fit_glyphs(
        normalised, poses, 0, glyphs=first.glyphs, begin=first.poses.places, epochs=2
    )
    assert again.settled.mean() > 0.9


def test_haze_around_a_letter_is_removed() -> None:
    glyph = np.full((40, 40), 0.05, np.float32)
    glyph[10:30, 18:24] = 1
    glyph[8:10, 18:24] = glyph[30:32, 18:24] = 0.2  # soft ends
    glyph[4:7, 18:24] = 0.6  # as the dot of an i
    glyph[10:30, 30:36] = 0.28  # now and then a neighbour
    clean = without_haze(np.stack([glyph, np.zeros_like(glyph)]))
    assert clean.dtype == np.float32
    assert not clean[1].any()
    np.testing.assert_array_equal(clean[0, 4:32, 18:24], glyph[4:32, 18:24])
    assert not clean[0, :, 28:].any()
    assert not clean[0, 35:].any()
    np.testing.assert_array_equal(glyph[0], np.float32(0.05))  # the given one stays
