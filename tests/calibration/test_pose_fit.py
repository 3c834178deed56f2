from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simgan_captcha.calibration.calibrate import calibrate
from simgan_captcha.calibration.drawing.characters import (
    cover,
    draw_characters,
    glyph_radius,
    reaches,
)
from simgan_captcha.calibration.drawing.linear import Scene, linearise, missed_by, with_gradients
from simgan_captcha.calibration.drawing.misfits import superfluous_characters
from simgan_captcha.calibration.drawing.pose_fit import POSE_UNIT, PoseFit, fit_poses
from simgan_captcha.calibration.drawing.poses import Poses
from simgan_captcha.simulator.pose import PLACED, POSE
from simgan_captcha.simulator.simulator import AS_FOUND, Simulator
from simgan_captcha.types import FloatImages, Floats
from tests.calibration.scene import (
    LETTERS,
    SIZE,
    STRANGER,
    disturbed,
    drawing,
    exact_poses,
    font_glyphs,
    scene,
    skewed,
    unformed,
)
from tests.drawing import plain

COUNT = 70
STEPS = 30
CLASSES = len(LETTERS.alphabet)

Ids = npt.NDArray[np.int64]


def places(poses: Poses) -> Floats:
    return poses.places[:COUNT]


def known() -> tuple[FloatImages, Ids, Floats]:
    """Images under lines, their ids and poses."""
    normalised, poses = scene()
    return normalised[:COUNT], poses.probabilities.argmax(-1)[:COUNT], places(poses)


def begin() -> Floats:
    """The poses that a recognizer would predict."""
    return places(disturbed(scene()[1], 1, 4))


@cache
def fitted() -> PoseFit:
    normalised, ids, _ = known()
    return fit_poses(normalised, ids, begin(), font_glyphs(STRANGER, SIZE), STEPS)


# Poses.


def test_disturbed_positions_and_rotations_are_corrected() -> None:
    true, fit = known()[2], fitted()
    assert fit.poses.shape == true.shape
    assert fit.poses.dtype == fit.missed.dtype == fit.inked.dtype == np.float32
    off = [(poses - true)[..., :PLACED] for poses in (begin(), fit.poses)]
    before, after = (np.abs(each).mean((0, 1)) for each in off)
    assert (before > (0.7, 0.7, 3)).all()
    assert (after < (0.25, 0.25, 1.6)).all()
    # Errors have no bias: reference points and rotations agree.
    assert (np.abs(np.median(off[1], (0, 1))) < (0.15, 0.15, 0.5)).all()
    assert not fit.poses[..., PLACED:].any()


def test_poses_may_begin_far_from_the_characters() -> None:
    """Further than the width of a stroke, where the drawing itself shows no way."""
    normalised, ids, true = known()
    far = true.copy()
    far[..., :2] += np.random.default_rng(0).choice([-4, 4], far[..., :2].shape)
    fit = fit_poses(normalised, ids, far, font_glyphs(STRANGER, SIZE), STEPS)
    off = np.abs(fit.poses - true)[..., :2].max(-1)
    assert (off < 1).mean() > 0.97


def test_without_steps_poses_are_unchanged() -> None:
    normalised, ids, true = known()
    first = true.copy()
    fit = fit_poses(normalised, ids, first, font_glyphs(STRANGER, SIZE), 0)
    np.testing.assert_array_equal(fit.poses, true)
    fit_poses(normalised, ids, first, font_glyphs(STRANGER, SIZE), 3)
    np.testing.assert_array_equal(first, true)  # the given array is unchanged


def test_the_pose_of_a_class_without_a_glyph_is_unchanged() -> None:
    normalised, ids, _ = known()
    glyphs = font_glyphs(STRANGER, SIZE).copy()
    glyphs[2] = 0
    fit = fit_poses(normalised, ids, begin(), glyphs, STEPS)
    np.testing.assert_array_equal(fit.poses[ids == 2], begin()[ids == 2])
    moved = (fit.poses != begin())[..., :PLACED].all(-1)
    assert moved[ids != 2].mean() > 0.99
    # Characters that have no such neighbour are found as usual.
    alone = (ids != 2).all(1)
    assert alone.sum() > 20
    np.testing.assert_allclose(fit.poses[alone], fitted().poses[alone], atol=1e-3)
    # The ink of the missing glyph is an error.
    assert (fit.missed > 2 * fitted().missed)[~alone].all()


def test_images_are_fitted_independently() -> None:
    """The other images of the batch have no effect."""
    normalised, ids, _ = known()
    last = slice(COUNT - 8, COUNT)
    fit = fit_poses(normalised[last], ids[last], begin()[last], font_glyphs(STRANGER, SIZE), STEPS)
    for name in ("poses", "missed", "inked"):
        alone, together = getattr(fit, name), getattr(fitted(), name)[last]
        np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-2)


def test_any_number_of_threads_gives_the_same_poses() -> None:
    normalised, ids, _ = known()
    found, before = list[Floats](), torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        fit = fit_poses(normalised[:7], ids[:7], begin()[:7], font_glyphs(STRANGER, SIZE), 6)
        found.append(fit.poses)
    torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0], found[1])


def test_poses_without_a_place_draw_nothing() -> None:
    """Indices are not checked in compiled loops, so no pose may lead outside the image."""
    normalised, ids, _ = known()
    ink = np.asarray((normalised[:1, 0] + 1) / 2, np.float32)
    glyphs = with_gradients(font_glyphs(STRANGER, SIZE))
    nowhere = np.full((1, LETTERS.max_length, len(POSE)), np.nan, np.float32)
    far = np.full_like(nowhere, 3e38)
    for poses, reach in ((nowhere, np.nan), (far, 9), (-far, 9), (far, np.inf)):
        missed = np.empty(1, np.float32)
        reached = np.full(poses.shape[:2], reach, np.float32)
        missed_by(missed, Scene(ink, np.ones_like(ink), glyphs, ids[:1], poses, reached))
        assert missed[0] == pytest.approx(np.square(ink).sum(), rel=1e-4)


def test_no_images_give_no_poses() -> None:
    normalised, ids, true = known()
    fit = fit_poses(normalised[:0], ids[:0], true[:0], font_glyphs(STRANGER, SIZE), STEPS)
    assert fit.poses.shape == (0, LETTERS.max_length, len(POSE))
    assert fit.missed.shape == fit.inked.shape == (0,)
    assert fit.poses.dtype == fit.missed.dtype == fit.inked.dtype == np.float32


# Errors of drawings.


def test_the_true_class_has_a_smaller_error() -> None:
    normalised, ids, _ = known()
    generator, rows = np.random.default_rng(0), np.arange(COUNT)
    slots = generator.integers(LETTERS.max_length, size=COUNT)
    other = ids.copy()
    other[rows, slots] = (ids[rows, slots] + generator.integers(1, CLASSES, COUNT)) % CLASSES
    fit = fit_poses(normalised, other, begin(), font_glyphs(STRANGER, SIZE), STEPS)
    assert (fitted().missed < fit.missed).mean() > 0.97
    assert np.median(fit.missed / fitted().missed) > 2


def test_better_poses_have_a_smaller_error() -> None:
    normalised, ids, true = known()
    glyphs = font_glyphs(STRANGER, SIZE)
    first, early, of_truth = (
        fit_poses(normalised, ids, poses, glyphs, steps).missed
        for poses, steps in ((begin(), 0), (begin(), 3), (true, 0))
    )
    last = fitted().missed
    assert (early < first).mean() > 0.95
    assert last.mean() < early.mean() < first.mean()
    # The fit explains the noise, too.
    assert (last < 1.02 * of_truth).mean() > 0.95


def test_the_error_is_squared_ink_outside_lines() -> None:
    normalised, ids, true = known()
    glyphs = np.zeros_like(font_glyphs(STRANGER, SIZE))
    ink, visible = (normalised[:, 0] + 1) / 2, normalised[:, 1] < 0
    assert 0.05 < 1 - visible.mean() < 0.3
    fit = fit_poses(normalised, ids, true, glyphs, 0)
    np.testing.assert_allclose(fit.missed, (ink**2 * visible).sum((1, 2)), rtol=1e-4)
    np.testing.assert_array_equal(fit.inked, ((ink > 0.1) & visible).sum((1, 2)))
    # Pixels under lines have no effect.
    under = normalised.copy()
    under[:, 0][~visible] = 1
    changed = fit_poses(under, ids, begin(), font_glyphs(STRANGER, SIZE), 5)
    same = fit_poses(normalised, ids, begin(), font_glyphs(STRANGER, SIZE), 5)
    for name in ("poses", "missed", "inked"):
        np.testing.assert_array_equal(getattr(changed, name), getattr(same, name))


def test_overlapping_letters_do_not_add_their_coverage() -> None:
    glyph = np.zeros((1, 80, 80), np.float32)
    glyph[0, 20:60, 20:60] = 0.5  # 20x20 image pixels
    ids, centre = np.zeros((1, 2), np.int64), [50, 25, *[0] * 7]
    ink = np.zeros((1, 50, 100), np.float32)
    ink[0, 15:35, 40:60] = 0.75
    normalised = np.stack([2 * ink - 1, np.full_like(ink, -1)], 1)
    fit = fit_poses(normalised, ids, np.array([[centre, centre]], np.float32), glyph, 0)
    assert fit.missed[0] == pytest.approx(0, abs=1e-6)
    assert fit.inked[0] == 400


# The drawing.


def test_the_drawing_is_that_of_the_simulator() -> None:
    settings = drawing(nearest=0, noise=(0, 0), jpeg_quality=(100, 100), ink=(0, 0))
    glyphs = font_glyphs(STRANGER, SIZE)
    free = plain()
    every = np.ones((60, 4), np.bool_)
    poses = exact_poses(
        Simulator(LETTERS, settings, free).draw_parameters(np.random.default_rng(3), 60)
    )
    rendering = np.array([250, 0, 0, 0, 100, 1], np.float32)
    calibration = calibrate(glyphs, poses, every, every[:, 0], rendering)
    simulator = Simulator(LETTERS, settings, free, calibration, shares=AS_FOUND)
    parameters = simulator.draw_parameters(np.random.default_rng(2), 20)
    # One letter per position, so that nothing overlaps.
    calm = replace(
        parameters,
        x=np.tile(np.array([12, 37, 62, 87], np.float32), (20, 1)) + 0.3,
        ink=np.full_like(parameters.ink, 250),
        noise=np.zeros_like(parameters.noise),
        jpeg_quality=np.full_like(parameters.jpeg_quality, 100),
    )
    images = (simulator.render(calm).astype(np.float32) - 100) / 150
    pose = torch.from_numpy(unformed(np.stack([calm.x, calm.y, calm.rotation], -1)))
    characters = draw_characters(
        torch.from_numpy(calibration.glyphs / np.float32(255)),
        torch.from_numpy(calm.ids),
        pose,
        50,
        100,
    )
    covered = 1 - (1 - characters).prod(1)
    assert np.abs(covered.numpy() - images).mean() < 0.004
    assert np.abs(covered.numpy() - images).max() < 0.1


# Forms.


@cache
def formed_scene() -> tuple[FloatImages, Ids, Floats]:
    """Letters of many forms that do not overlap, their ids and poses."""
    free, settings = plain(), drawing(nearest=0, noise=(0, 0))
    parameters = Simulator(LETTERS, settings, free).draw_parameters(np.random.default_rng(5), 60)
    generator, shape = np.random.default_rng(6), parameters.x.shape

    def uniform(low: float, high: float) -> Floats:
        return generator.uniform(low, high, shape).astype(np.float32)

    size, stretch, shear = uniform(0.75, 1.3), uniform(0.8, 1.25), uniform(-0.2, 0.2)
    taper, swell, bend = uniform(-0.6, 0.6), uniform(-0.6, 0.6), uniform(-0.8, 0.8)
    placed = [
        np.broadcast_to(np.array([12.5, 37.5, 62.5, 87.5]), shape),
        uniform(22, 28),
        uniform(-20, 20),
    ]
    form = [np.log(size), np.log(stretch), shear, taper, swell, bend]
    poses = np.stack([*placed, *form], -1).astype(np.float32)
    calibration = replace(
        skewed(LETTERS), glyphs=np.rint(font_glyphs(STRANGER, SIZE) * 255).astype(np.uint8)
    )
    calibration.rendering[:] = (250, 0, 0, 0, 100, 1)
    simulator = Simulator(LETTERS, settings, free, calibration, shares=AS_FOUND)
    drawn = simulator.draw_parameters(np.random.default_rng(7), 60)
    x, y, rotation = np.moveaxis(poses[..., :PLACED], -1, 0)
    placed_like_them = replace(drawn, x=x, y=y, rotation=rotation)
    formed = replace(
        placed_like_them,
        scale=size,
        stretch=stretch,
        shear=shear,
        taper=taper,
        swell=swell,
        bend=bend,
    )
    images = simulator.render(formed)
    return free.normalise(images), drawn.ids, poses


def test_the_drawing_of_forms_is_that_of_the_simulator() -> None:
    normalised, ids, poses = formed_scene()
    glyphs = torch.from_numpy(font_glyphs(STRANGER, SIZE))
    characters = draw_characters(glyphs, torch.from_numpy(ids), torch.from_numpy(poses), 50, 100)
    covered = 1 - (1 - characters).prod(1)
    apart = np.abs(covered.numpy() - (normalised[:, 0] + 1) / 2)
    assert apart.mean() < 0.006
    assert np.quantile(apart, 0.999) < 0.15


def test_unknown_forms_are_found() -> None:
    normalised, ids, true = formed_scene()
    glyphs = font_glyphs(STRANGER, SIZE)
    begin = true.copy()
    begin[..., PLACED:] = 0
    begin[..., :2] += np.random.default_rng(8).normal(0, 1, begin[..., :2].shape)
    stiff = fit_poses(normalised, ids, begin, glyphs, 60)
    fit = fit_poses(normalised, ids, begin, glyphs, 60, moving=len(POSE))
    assert np.median(fit.missed / stiff.missed) < 0.3
    np.testing.assert_array_equal(stiff.poses[..., PLACED:], 0)
    # The shear of a round letter could be a rotation; all letters show their size.
    off = np.abs(fit.poses - true)[..., PLACED:]
    assert np.median(off[..., 0]) < 0.04
    # Bends are similar to perspective, and nearly invisible in narrow letters.
    share = np.median(off, (0, 1)) / np.median(np.abs(true[..., PLACED:]), (0, 1))
    assert (share < [0.1, 0.1, 0.1, 0.5, 0.5, 0.55]).all()


@pytest.mark.parametrize("values", [PLACED, len(POSE)])
def test_the_derivatives_are_those_of_the_drawing(values: int) -> None:
    """J'r and J'J of two overlapping letters, against differences of the drawing."""
    side, size = 80, (50, 60)
    off = np.arange(side, dtype=np.float32) - 38
    blob = np.exp(-((off / 9) ** 2) - ((off[:, None] - 5) / 12) ** 2)
    glyphs = np.stack([blob, blob.T]).astype(np.float32)
    ids = np.array([[0, 1]])
    poses = np.array(
        [
            [
                [24.3, 25.2, 12, 0.1, 0.1, 0.15, 0.2, -0.1, 0.3],
                [33.1, 22.4, -20, -0.1, 0.05, -0.1, -0.1, 0.2, -0.2],
            ]
        ],
        np.float32,
    )
    generator = np.random.default_rng(3)
    ink, visible = generator.random((2, 1, *size)).astype(np.float32)
    reach = reaches(30, torch.from_numpy(poses), size).numpy()
    scene = Scene(ink, visible, with_gradients(glyphs), ids, poses, reach)
    gradient = np.empty((1, 2, values), np.float32)
    curvature = np.empty((1, 2, values, values), np.float32)
    linearise(gradient, curvature, scene)

    def covered(letter: int, value: int, change: float) -> npt.NDArray[np.float64]:
        moved = poses.astype(np.float64)
        moved[0, letter, value] += change
        exact = torch.from_numpy(glyphs.astype(np.float64))
        drawn = draw_characters(exact, torch.from_numpy(ids), torch.from_numpy(moved), *size)
        return np.asarray(1 - (1 - drawn[0]).prod(0))

    weights, residuals = visible[0].astype(np.float64), covered(0, 0, 0) - ink[0]
    missed = np.empty(1, np.float32)
    missed_by(missed, scene)
    assert missed[0] == pytest.approx((weights * residuals**2).sum(), rel=1e-4)
    for letter in range(2):
        slopes = np.stack(
            [
                (covered(letter, v, unit / 8) - covered(letter, v, -unit / 8)) / (unit / 4)
                for v, unit in enumerate(POSE_UNIT[:values])
            ]
        )
        # Between two pixels of a glyph, the drawing is linear and the derivative is not.
        scale = np.sqrt((slopes**2 * weights).sum((1, 2)))
        by_hand = (slopes * weights * residuals).sum((1, 2)) / scale
        np.testing.assert_allclose(gradient[0, letter] / scale, by_hand, atol=0.1)
        together = np.einsum("vyx,wyx,yx->vw", slopes, slopes, weights) / np.outer(scale, scale)
        found = curvature[0, letter] / np.outer(scale, scale)
        np.testing.assert_allclose(found, together, atol=0.04)


def test_beyond_the_fold_of_perspective_nothing_is_drawn() -> None:
    """With the largest taper and swell, the map would show a mirrored letter."""
    glyphs = torch.from_numpy(font_glyphs(STRANGER, SIZE))
    pose = torch.zeros(1, 1, len(POSE))
    pose[..., :2] = torch.tensor([60.0, 10.0])
    pose[..., [POSE.index("taper"), POSE.index("swell")]] = 1
    height, width = LETTERS.height, 3 * LETTERS.width
    ids = torch.tensor([[LETTERS.alphabet.index("m")]])
    drawn = draw_characters(glyphs, ids, pose, height, width)[0, 0].numpy()
    down, right = np.mgrid[:height, :width] + 0.5
    beyond = right - 60 + down - 10 > height
    assert drawn[~beyond].max() > 0.9
    assert not drawn[beyond].any()


# Patches.


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(30, 40), (50, 100), (20, 200)]),
    st.floats(0, 1.5),
)
@settings(deadline=None, max_examples=60)
def test_patches_cover_what_whole_drawings_do(
    seed: int, size: tuple[int, int], strength: float
) -> None:
    """For all poses, partly or wholly outside the image and strongly deformed ones included."""
    height, width = size
    generator = np.random.default_rng(seed)
    glyphs = torch.from_numpy(font_glyphs(STRANGER, SIZE))
    ids = torch.from_numpy(generator.integers(CLASSES, size=(3, 4)))
    pose = generator.normal(0, strength * np.array([0, 0, 40, *6 * [0.3]]), (3, 4, len(POSE)))
    pose[..., :2] = generator.uniform(-20, (width + 20, height + 20), (3, 4, 2))
    places = torch.from_numpy(pose.astype(np.float32)).requires_grad_()
    radius = glyph_radius(glyphs.numpy())
    weights = torch.from_numpy(generator.normal(size=(3, height, width)).astype(np.float32))
    together = cover(glyphs, ids, places, size, radius)
    whole = 1 - (1 - draw_characters(glyphs, ids, places, height, width)).prod(1)
    np.testing.assert_allclose(together.detach(), whole.detach(), atol=1e-5)
    patched, entire = (
        torch.autograd.grad((each * weights).sum(), places)[0] for each in (together, whole)
    )
    np.testing.assert_allclose(patched, entire, rtol=1e-3, atol=1e-2)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(30, 40), (50, 100)]), st.floats(0, 1.5))
@example(1212, (50, 100), 1.2)  # a bend and a perspective that together reach far
@settings(deadline=None, max_examples=60)
def test_compiled_drawings_are_those_of_torch(
    seed: int, size: tuple[int, int], strength: float
) -> None:
    """For strongly deformed letters partly outside the image, and ink at the edge of a glyph."""
    height, width = size
    generator = np.random.default_rng(seed)
    glyphs = cv2.blur(generator.random((40, 40, 3)), (9, 9)).transpose(2, 0, 1).astype(np.float32)
    ids = generator.integers(3, size=(2, 3))
    drawn_poses = generator.normal(
        0, strength * np.array([0, 0, 40, *6 * [0.3]]), (2, 3, len(POSE))
    )
    drawn_poses[..., :2] = generator.uniform(-20, (width + 20, height + 20), (2, 3, 2))
    poses = drawn_poses.astype(np.float32)
    ink, visible = generator.random((2, 2, *size)).astype(np.float32)
    places = torch.from_numpy(poses)
    reach = reaches(glyph_radius(glyphs), places, size).numpy()
    missed = np.empty(2, np.float32)
    missed_by(missed, Scene(ink, visible, with_gradients(glyphs), ids, poses, reach))
    drawn = draw_characters(torch.from_numpy(glyphs), torch.from_numpy(ids), places, *size)
    off = 1 - (1 - drawn).prod(1).numpy() - ink
    np.testing.assert_allclose(missed, (np.square(off) * visible).sum((1, 2)), rtol=1e-4)


def test_the_radius_of_glyphs_holds_their_ink() -> None:
    glyphs = np.zeros((2, 40, 40), np.float32)
    assert glyph_radius(glyphs) <= 1
    glyphs[1, 20, 29] = 1  # 9.5 glyph pixels from the centre, which are 4.75 image pixels
    assert 4.75 <= glyph_radius(glyphs) <= 5.5


# Superfluous characters.


def told_twice() -> tuple[FloatImages, Ids, npt.NDArray[np.bool_], Floats]:
    """Four letters, the last of which is read twice: its double is in a fifth slot."""
    normalised, ids, poses = known()
    generator = np.random.default_rng(9)
    double = poses[:, -1:] + generator.normal(0, 1, (COUNT, 1, len(POSE))) * (1, 1, 4, *[0] * 6)
    places = np.concatenate([poses, double], 1).astype(np.float32)
    return normalised, np.hstack([ids, ids[:, -1:]]), np.ones((COUNT, 5), np.bool_), places


def test_a_letter_that_is_read_twice_is_superfluous() -> None:
    told = told_twice()
    found = superfluous_characters(*told, font_glyphs(STRANGER, SIZE))
    assert found.shape == (COUNT, 5)
    assert found[:, -2:].any(1).mean() > 0.9
    assert found[:, :-2].mean() < 0.02


def test_overlapping_letters_are_not_superfluous() -> None:
    normalised, ids, places = known()
    present = np.ones(ids.shape, np.bool_)
    glyphs = font_glyphs(STRANGER, SIZE)
    assert superfluous_characters(normalised, ids, present, places, glyphs).mean() < 0.01
    # A misread character without neighbours is not superfluous: it explains ink.
    wrong = (ids + 1) % CLASSES
    assert superfluous_characters(normalised, wrong, present, places, glyphs).mean() < 0.02


@pytest.mark.parametrize("strength", [0.4, 1])
def test_pale_overlapping_letters_are_not_superfluous(strength: float) -> None:
    generator = np.random.default_rng(2)
    ids = generator.integers(CLASSES, size=(COUNT, 2))
    places = unformed(np.zeros((COUNT, 2, PLACED)))
    places[..., :2] = (45, 25)
    places[:, 1, 0] += generator.uniform(4, 8, COUNT)
    glyphs = font_glyphs(STRANGER, SIZE)
    drawn = draw_characters(
        torch.from_numpy(glyphs),
        torch.from_numpy(ids),
        torch.from_numpy(places),
        LETTERS.height,
        LETTERS.width,
    )
    ink = np.float32(strength) * (1 - (1 - drawn).prod(1)).numpy()
    normalised = np.stack([2 * ink - 1, np.full_like(ink, -1)], 1)
    present = np.ones(ids.shape, np.bool_)
    assert superfluous_characters(normalised, ids, present, places, glyphs).mean() < 0.02
    # A letter that is read twice in such images is found.
    ids, places = np.hstack([ids, ids[:, -1:]]), np.hstack([places, places[:, -1:]])
    found = superfluous_characters(normalised, ids, np.ones((COUNT, 3), np.bool_), places, glyphs)
    assert found[:, -2:].any(1).mean() > 0.95


def test_a_double_is_found_among_misplaced_letters() -> None:
    normalised, ids, present, places = told_twice()
    places[:, :2, 1] += np.where(places[:, :2, 1] < LETTERS.height / 2, 14, -14)
    glyphs = np.stack([cv2.GaussianBlur(g, (0, 0), 2.5) for g in font_glyphs(STRANGER, SIZE)])
    found = superfluous_characters(normalised, ids, present, places, glyphs)
    assert found[:, -2:].any(1).mean() > 0.9


def test_an_absent_double_covers_nothing() -> None:
    normalised, ids, present, places = told_twice()
    present[:, -1] = False
    glyphs = font_glyphs(STRANGER, SIZE)
    assert superfluous_characters(normalised, ids, present, places, glyphs).mean() < 0.01
