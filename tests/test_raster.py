"""Operations on pixels give the results of OpenCV, which only learning and the tests have."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgan_captcha.data.background import line_disc, otsu_threshold
from simgan_captcha.data.pictures import Pixels, luma
from simgan_captcha.raster import blurred, dilated, disc, moving_median, pieces, resized
from simgan_captcha.types import Mask


def drawn(height: int, width: int, seed: int = 0) -> Pixels:
    """(height, width, 3): panels of several colours, with a grain."""
    random = np.random.default_rng(seed)
    panels = random.integers(60, 240, (3, 4, 3))
    rows, columns = np.arange(height) * 3 // height, np.arange(width) * 4 // width
    grain = random.normal(0, 4, (height, width, 3))
    return np.clip(np.rint(panels[rows][:, columns] + grain), 0, 255).astype(np.uint8)


@given(
    before=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    after=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    grey=st.booleans(),
)
def test_a_picture_that_grows_or_shrinks_on_both_sides_is_resized_as_by_opencv(
    before: tuple[int, int], after: tuple[int, int], grey: bool
) -> None:
    picture = drawn(*before)[..., 0] if grey else drawn(*before)
    found = resized(picture, after[1], after[0])
    assert found.shape == (*after, *picture.shape[2:])
    (H, W), (height, width) = before, after
    if (height <= H and width <= W) or (height >= H and width >= W):
        how = cv2.INTER_AREA if height < H or width < W else cv2.INTER_LINEAR
        expected = cv2.resize(picture, (width, height), interpolation=how)
        most = 16 if max(H / height, W / width) >= 16 else 1  # the last block may not be whole
        assert np.abs(found.astype(int) - expected.reshape(found.shape)).max() <= most


def test_a_picture_that_shrinks_a_lot_is_averaged() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (700, 1300, 3), np.uint8)
    expected = cv2.resize(picture, (130, 40), interpolation=cv2.INTER_AREA)
    assert np.abs(resized(picture, 130, 40).astype(int) - expected).max() <= 8
    for shape in ((1, 4_000_000, 3), (4_000_000, 1, 3)):
        assert (resized(np.full(shape, 77, np.uint8), 400, 40) == 77).all()


def test_a_wide_result_is_made_of_bands() -> None:
    picture = drawn(30, 700)
    for width in (600, 1000):
        how = cv2.INTER_AREA if width < 700 else cv2.INTER_LINEAR
        expected = cv2.resize(picture, (width, 30), interpolation=how)
        assert np.abs(resized(picture, width, 30).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("shape", [(40, 90, 3), (40, 90), (5, 1, 3), (1, 9, 3)])
def test_blurring(shape: tuple[int, ...]) -> None:
    levels = np.random.default_rng(2).uniform(0, 255, shape).astype(np.float32)
    expected = cv2.GaussianBlur(levels, (0, 0), 7.25).reshape(shape)
    np.testing.assert_allclose(blurred(levels, 7.25), expected, atol=0.01)


@pytest.mark.parametrize("window", [3, 33, 255])
def test_the_moving_median_is_near_the_exact_one(window: int) -> None:
    picture = drawn(45, 110)
    found = moving_median(picture, window).astype(int)
    assert np.abs(found - cv2.medianBlur(picture, window)).mean() < 2


def test_the_moving_median_of_few_colours_is_exact() -> None:
    picture = np.where(np.indices((30, 70))[1][..., None] < 41, [200, 10, 30], [90, 10, 250])
    picture = picture.astype(np.uint8)
    picture[10:20, 8:12] = picture[10:20, 60:64] = 0
    expected = cv2.medianBlur(picture, 23)
    assert len(np.unique(expected)) == 5
    np.testing.assert_array_equal(moving_median(picture, 23), expected)


MASKS = st.tuples(st.integers(1, 30), st.integers(1, 40), st.integers(0, 99), st.floats(0, 1)).map(
    lambda one: np.random.default_rng(one[2]).random(one[:2]) < one[3]
)


@given(mask=MASKS, diameter=st.sampled_from([1, 3, 5, 9, 15]))
def test_areas_around_pixels(mask: Mask, diameter: int) -> None:
    round_one = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter))
    square = np.ones((3, 3), np.uint8)
    for found, area in ((dilated(mask, disc(diameter)), round_one), (dilated(mask), square)):
        np.testing.assert_array_equal(found, cv2.dilate(mask.astype(np.uint8), area) > 0)


def test_discs() -> None:
    for width in range(1, 30):
        side = len(line_disc(width))
        expected = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        np.testing.assert_array_equal(line_disc(width), expected)


@given(mask=MASKS)
def test_connected_pieces(mask: Mask) -> None:
    found = pieces(mask)
    count, of_pixel, figures, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    boxes = np.stack(
        [found.left, found.top, found.right - found.left, found.bottom - found.top, found.area], 1
    )
    assert len(boxes) == count - 1
    # Pixel by pixel, because the order of the pieces may differ.
    np.testing.assert_array_equal(boxes[found.piece], figures[of_pixel[mask]])
    assert len({*zip(found.piece.tolist(), of_pixel[mask].tolist(), strict=True)}) == count - 1


@given(seed=st.integers(0, 999), ink=st.floats(0, 1))
def test_otsu(seed: int, ink: float) -> None:
    random = np.random.default_rng(seed)
    dark, light = random.normal(random.integers(20, 230, (2, 1, 1, 1)), 9, (2, 3, 20, 30))
    levels = np.where(random.random(dark.shape) < ink, dark, light)
    grey = np.clip(levels, 0, 255).astype(np.uint8)
    expected, _ = cv2.threshold(grey.reshape(1, -1), 0, 255, cv2.THRESH_OTSU)
    assert otsu_threshold(grey) == expected


def test_luma() -> None:
    colours = np.random.default_rng(3).integers(0, 256, (400, 500, 3), np.uint8)
    np.testing.assert_array_equal(luma(colours), cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY))
