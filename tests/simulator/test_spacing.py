from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from simgan_captcha.simulator.pose import POSE
from simgan_captcha.simulator.spacing import (
    fit_following,
    letter_heights,
    letter_widths,
    moved_by_widths,
    widening,
)


def test_a_letter_is_as_wide_and_as_high_as_its_ink() -> None:
    glyphs = np.zeros((3, 20, 20), np.uint8)
    glyphs[0, 5:9, 2:12] = 255
    glyphs[1, 3, 7] = 255
    glyphs[1, 9, 10] = 255  # a separate part of the same letter
    glyphs[1, 12, 0] = 90  # very pale
    assert letter_widths(glyphs).tolist() == [10, 4, 7]  # the mean for the last one
    assert letter_heights(glyphs).tolist() == [4, 7, 5.5]


def test_forms_make_letters_wider() -> None:
    poses = np.zeros((2, len(POSE)), np.float32)
    poses[1] = np.arange(len(POSE))
    poses[1, POSE.index("size")], poses[1, POSE.index("stretch")] = np.log(2), np.log(1.5)
    np.testing.assert_allclose(widening(poses), [1, 3], rtol=1e-6)


def test_without_glyphs_all_widths_are_equal() -> None:
    assert letter_widths(np.zeros((3, 8, 8), np.uint8)).tolist() == [0, 0, 0]


LENGTHS = np.arange(4)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("fixed", np.zeros((4, 4))),
        ("left", np.tril(np.ones((4, 4)), -1) + 0.5 * np.eye(4)),
        ("middle", np.tril(np.ones((4, 4)), -1) - 0.5 + 0.5 * np.eye(4)),
        ("right", np.tril(np.ones((4, 4)), -1) - 1 + 0.5 * np.eye(4)),
    ],
)
def test_the_spacing_model_is_found_from_positions(
    kind: str, expected: npt.NDArray[np.float64]
) -> None:
    generator = np.random.default_rng(0)
    widths = generator.uniform(4, 20, (900, 4))
    anchor = {"fixed": 0.0, "left": 0.0, "middle": 0.5, "right": 1.0}[kind]
    ends = np.cumsum(widths, 1)
    x: npt.NDArray[Any] = ends - widths / 2 - anchor * ends[:, -1:]
    if kind == "fixed":
        x = np.tile(25.0 * LENGTHS, (900, 1))
    x = (x + generator.normal(0, 2, x.shape)).astype(np.float32)
    x[:300, 3] = np.nan  # texts of three letters
    found = fit_following(x, widths.astype(np.float32))
    np.testing.assert_allclose(found[3], expected, atol=0.1)
    assert not found[:2].any()  # which no text has
    assert not found[2, 3].any()
    assert not found[2, :, 3].any()
    if kind == "left":
        np.testing.assert_allclose(found[2, :3, :3], expected[:3, :3], atol=0.1)


def test_too_few_texts_give_no_spacing_model() -> None:
    widths = np.random.default_rng(0).uniform(4, 20, (119, 4)).astype(np.float32)
    assert not fit_following(np.cumsum(widths, 1), widths).any()


def test_letters_move_by_the_widths_of_present_letters() -> None:
    following = np.zeros((2, 2, 2), np.float32)
    following[0, 0, 0] = 0.5
    following[1] = [[0.5, 0], [1, 0.5]]
    wider = np.array([[2, 4], [2, np.nan], [np.nan, np.nan]], np.float32)
    moved = moved_by_widths(following, wider, np.isfinite(wider))
    np.testing.assert_allclose(moved, [[1, 4], [1, 0], [0, 0]])
