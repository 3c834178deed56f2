"""Renamed classes, and the values of a pose that vary."""

import numpy as np

from simgan_captcha.calibration.drawing.poses import Poses
from simgan_captcha.calibration.glyph_fit import renamed_glyphs
from simgan_captcha.simulator.pose import PLACED, POSE, UNBENT, moving


def told(*rows: tuple[float, ...]) -> Poses:
    probabilities = np.array([rows], np.float32)
    nothing = np.zeros(probabilities.shape[:2], np.float32)
    return Poses(probabilities, nothing, nothing, nothing, blank=3)


READ = ((0.7, 0.2, 0.1, 0), (0.1, 0.6, 0.2, 0.1), (0.1, 0.1, 0.7, 0.1), (0.3, 0.3, 0, 0.4))


def test_only_characters_of_a_renamed_class_change() -> None:
    renamed = told(*READ).renamed({0: 1})
    np.testing.assert_allclose(renamed.probabilities[0, 0], (0, 0.9, 0.1, 0))
    np.testing.assert_array_equal(renamed.probabilities[0, 1:], told(*READ).probabilities[0, 1:])
    # The slot is likely empty. It would not be if renaming raised that class everywhere.
    assert not renamed.present[0, 3]


def test_classes_are_renamed_in_one_step() -> None:
    swapped = told(*READ).renamed({0: 1, 1: 0})
    assert swapped.ids.tolist() == [[1, 0, 2, 3]]
    assert told(*READ).renamed({0: 1, 1: 2, 2: 0}).ids.tolist() == [[1, 2, 0, 3]]
    assert told(*READ).renamed({0: 2, 1: 2}).ids.tolist() == [[2, 2, 2, 3]]
    np.testing.assert_array_equal(told(*READ).renamed({}).probabilities, told(*READ).probabilities)


def test_glyphs_are_renamed_too() -> None:
    glyphs = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((4, 2, 2), np.float32)

    def renamed(names: dict[int, int]) -> list[float]:
        return [float(glyph.mean()) for glyph in renamed_glyphs(glyphs, names)]

    assert renamed({1: 0}) == [1, 0, 2, 3]
    assert renamed({1: 2, 2: 1}) == [0, 2, 1, 3]
    assert renamed({1: 2}) == [0, 0, 2, 3]  # a class with a glyph keeps it
    assert renamed({1: 0, 2: 0}) == [1, 0, 0, 3]
    assert renamed({}) == [0, 1, 2, 3]


def test_only_values_that_vary_are_fitted() -> None:
    places = np.zeros((2, 3, len(POSE)), np.float32)
    assert moving(places) == moving(places[:0]) == PLACED
    places[0, 0, 0] = 20
    assert moving(places) == PLACED
    places[1, 2, PLACED] = -0.1
    places[0] = np.nan  # an empty slot
    assert moving(places) == UNBENT
    places[1, 1, -1] = 0.1
    assert moving(places) == len(POSE)
