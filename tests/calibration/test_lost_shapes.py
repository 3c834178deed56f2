"""Recovery of a glyph that the bootstrap recognizer misreads as other classes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt

from simgan_captcha.calibration.drawing.poses import Poses
from simgan_captcha.calibration.glyph_fit import fit_glyphs
from simgan_captcha.calibration.lost_shapes import LostShape, Recovered, find_lost_shapes
from simgan_captcha.simulator.simulator import Simulator
from simgan_captcha.types import FloatImages
from tests.calibration.scene import (
    LETTERS,
    SIZE,
    STRANGER,
    STRIPED,
    disturbed,
    drawing,
    exact_poses,
    first_of,
    font_glyphs,
    mistaken,
    scene,
    similarity,
)

Ids = npt.NDArray[np.int64]

A, G, E, L, ONE, M = range(6)
COUNT = 120
EPOCHS = 8


def blind(poses: Poses, taken: Mapping[int, Sequence[int]], thought_of: float = 0) -> Poses:
    """Predictions that misread some classes as others; the true class is a little likely."""
    true = poses.probabilities.argmax(-1)
    probabilities = poses.probabilities.copy()
    for k, others in taken.items():
        images, slots = np.nonzero(true == k)
        probabilities[images, slots] = 0
        probabilities[images, slots, k] = thought_of
        donors = np.resize(others, len(images))
        probabilities[images, slots, donors] = 1 - thought_of
    return replace(poses, probabilities=probabilities)


def seen() -> tuple[FloatImages, Ids, Poses]:
    """Images, their ids, and predictions with errors of a pixel and 4 degrees."""
    normalised, poses = scene()
    poses = first_of(poses, COUNT)
    return normalised[:COUNT], poses.probabilities.argmax(-1), disturbed(poses, 1, 4)


def recover(normalised: FloatImages, told: Poses) -> Recovered | None:
    return find_lost_shapes(normalised, fit_glyphs(normalised, told, seed=0, epochs=EPOCHS))


@cache
def lost_g() -> tuple[Ids, Recovered]:
    """True poses, and the fit and recovery if 'g' is read as 'a' and as 'e'."""
    normalised, true, poses = seen()
    recovered = recover(normalised, blind(poses, {G: (A, E)}))
    assert recovered is not None
    return true, recovered


def test_a_glyph_that_is_always_misread_is_found() -> None:
    true, recovered = lost_g()
    named = recovered.poses.probabilities.argmax(-1) == G
    assert (true[named] == G).mean() > 0.95
    assert named[true == G].mean() > 0.6
    assert recovered.poses.probabilities[named, G].min() == 1
    found = similarity(recovered.glyphs, font_glyphs(STRANGER, SIZE))
    assert found[G].argmax() == G
    assert found[G, G] > 0.85


def test_the_poses_of_the_glyph_are_found() -> None:
    true, recovered = lost_g()
    _, exact = scene()
    named = (recovered.poses.probabilities.argmax(-1) == G) & (true == G)
    # The offset of the middle of a glyph is arbitrary; all its positions have the same offset.
    for name in ("x", "y", "rotation"):
        off = (getattr(recovered.poses, name) - getattr(exact, name)[:COUNT])[named]
        assert np.median(np.abs(off - np.median(off))) < 1, name


def test_the_report_names_the_classes_it_was_read_as() -> None:
    _, recovered = lost_g()
    named = recovered.poses.probabilities.argmax(-1) == G
    (shape,) = recovered.shapes
    assert shape.character == G
    assert sum(shape.taken_for.values()) == named.sum()
    assert list(shape.taken_for)[:2] in ([A, E], [E, A])
    words = LostShape(G, {E: 40, A: 12}).in_words(LETTERS.alphabet)
    assert words.startswith("'g' was hardly ever read, but 52 characters")
    assert "(40 as 'e', 12 as 'a')" in words


def test_a_second_fit_has_the_glyph() -> None:
    _, recovered = lost_g()
    normalised, _, _ = seen()
    fit = fit_glyphs(normalised, recovered.poses, seed=0, glyphs=recovered.glyphs, epochs=EPOCHS)
    found = similarity(fit.glyphs, font_glyphs(STRANGER, SIZE))
    np.testing.assert_array_equal(found.argmax(1), np.arange(len(found)))
    assert found.diagonal().min() > 0.9


def test_two_missing_glyphs_are_named_by_probability() -> None:
    normalised, true, poses = seen()
    recovered = recover(normalised, blind(poses, {G: (A, L), M: (E, ONE)}, thought_of=0.08))
    assert recovered is not None
    named = recovered.poses.probabilities.argmax(-1)
    assert {shape.character for shape in recovered.shapes} == {G, M}
    for k in (G, M):
        assert (true[named == k] == k).mean() > 0.9
        assert (named[true == k] == k).mean() > 0.5


def test_a_shape_from_many_classes_is_no_missing_glyph() -> None:
    normalised, _, poses = seen()
    assert recover(normalised, blind(poses, {G: (A, E, L, ONE, M)})) is None


def test_without_missing_glyphs_nothing_is_searched() -> None:
    normalised, _, poses = seen()
    assert recover(normalised, poses) is None


def test_a_character_that_never_occurs_is_not_found() -> None:
    simulator = Simulator(LETTERS, drawing(), STRIPED)
    parameters = simulator.draw_parameters(np.random.default_rng(1), COUNT)
    parameters = replace(parameters, ids=np.where(parameters.ids == M, A, parameters.ids))
    normalised = STRIPED.normalise(simulator.render(parameters))
    # Other characters are misread, at wrong positions, but never as that one.
    read = blind(mistaken(exact_poses(parameters), 0.15), {M: (A, G, E, L, ONE)})
    assert recover(normalised, disturbed(read, 2, 8)) is None


def test_an_untrained_recognizer_finds_nothing() -> None:
    normalised, _, poses = seen()
    nothing = replace(poses, probabilities=np.full_like(poses.probabilities, 1 / 6))
    assert recover(normalised, nothing) is None


def test_with_many_missing_glyphs_nothing_is_searched() -> None:
    normalised, _, poses = seen()
    fit = fit_glyphs(normalised, blind(poses, {G: (A, E)}), seed=0, epochs=EPOCHS)
    fit.glyphs[[L, ONE, M]] = 0
    assert find_lost_shapes(normalised, fit) is None
