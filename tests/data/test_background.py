import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from simgan_captcha import HACKMIT_2017
from simgan_captcha.data.background import (
    Background,
    binarise,
    estimate_background,
    otsu_threshold,
    per_pixel_percentile,
    plain_background,
    remove_thin_lines,
    shared_by_and,
    shared_by_average,
)
from simgan_captcha.data.images import decode_grey
from simgan_captcha.errors import ImageError, RunError
from simgan_captcha.simulator.settings import SimulatorSettings
from simgan_captcha.simulator.simulator import Simulator
from simgan_captcha.types import GreyImages
from tests.drawing import encode_jpeg, plain, striped

BRIGHT_INK = striped((60, 140, 100, 150), 250)
DARK_INK = striped((200, 240, 150, 180), 20)


def captchas(truth: Background, count: int = 600) -> GreyImages:
    settings = SimulatorSettings(
        fonts=("dejavu-sans-bold", "stix-bold"), size=(22, 26), ink=(0, 0), jpeg_quality=(50, 50)
    )
    return Simulator(HACKMIT_2017, settings, truth).batch(np.random.default_rng(0), count)[0]


# Simple operations


def test_the_original_rule_selects_bright_and_black_pixels() -> None:
    levels = np.array([[0, 1, 199, 200, 201, 255]], np.uint8)
    assert binarise(levels).tolist() == [[True, False, False, False, True, True]]
    assert binarise(levels, 1).tolist() == [[True, False, True, True, True, True]]


def test_otsu_separates_two_clusters() -> None:
    generator = np.random.default_rng(0)
    dark, bright = generator.normal(60, 8, 3000), generator.normal(190, 8, 1000)
    grey = np.concatenate([dark, bright]).astype(np.uint8).reshape(40, 100)
    threshold = otsu_threshold(grey)
    assert dark.max() - 10 < threshold < bright.min() + 10


def test_the_average_tolerates_misses_and_bitwise_and_does_not() -> None:
    binary = np.zeros((100, 4, 5), np.bool_)
    binary[:, 0] = True
    binary[:95, 1] = True
    binary[:90, 2] = True  # 90 % is not more than 230/255
    assert shared_by_average(binary).all(axis=1).tolist() == [True, True, False, False]
    assert shared_by_average(binary, 0.5).all(axis=1).tolist() == [True, True, True, False]
    assert shared_by_and(binary).any(axis=1).tolist() == [True, False, False, False]


def test_percentiles_are_computed_per_pixel() -> None:
    images = np.arange(101, dtype=np.uint8)[:, None, None] + np.array([[0, 100]], np.uint8)
    for percentile in (0, 25, 50, 100):
        shared = per_pixel_percentile(np.random.default_rng(0).permutation(images), percentile)
        assert shared.tolist() == [[percentile, 100 + percentile]]
        assert shared.dtype == np.uint8


@pytest.mark.parametrize("bright", [True, False])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_thin_lines_are_removed_and_strokes_kept(width: int, bright: bool) -> None:
    ground, ink = (40, 250) if bright else (250, 40)
    for degrees in range(0, 180, 15):
        image = Image.new("L", (120, 120), ground)
        x, y = 45 * math.cos(math.radians(degrees)), 45 * math.sin(math.radians(degrees))
        ImageDraw.Draw(image).line((60 - x, 60 - y, 60 + x, 60 + y), ink, width)
        lines = np.array(image)
        assert (lines == ink).sum() > 60
        assert (remove_thin_lines(lines, width, bright=bright) == ground).all()
    ImageDraw.Draw(image).rectangle((30, 20, 37, 100), ink)
    cleaned = remove_thin_lines(np.array(image), width, bright=bright)
    assert (cleaned[25:96, 30:38] == ink).all()
    assert (cleaned[:, 45:] == ground).all()


# Estimating


@pytest.mark.parametrize("truth", [BRIGHT_INK, DARK_INK], ids=["bright ink", "dark ink"])
def test_background_lines_and_ink_are_found_under_letters(truth: Background) -> None:
    found = estimate_background(captchas(truth))
    # What can be seen of the truth is what the codec leaves of it.
    visible = decode_grey(encode_jpeg(truth.grey, 50))
    error = np.abs(found.grey.astype(int) - visible)
    assert error.mean() < 2
    assert np.percentile(error, 98) <= 10
    assert error.max() <= 20
    both, either = found.line_mask & truth.line_mask, found.line_mask | truth.line_mask
    assert both.sum() / either.sum() > 0.95
    assert found.ink_level == pytest.approx(truth.ink_level, abs=5)


@pytest.mark.parametrize("truth", [BRIGHT_INK, DARK_INK], ids=["bright ink", "dark ink"])
def test_network_input_is_high_for_ink_and_low_for_background(truth: Background) -> None:
    images = captchas(truth)
    found = estimate_background(images)
    ink, mask = np.moveaxis(found.normalise(images), 1, 0)
    assert ink.dtype == np.float32
    assert (ink.min(), ink.max()) == (-1, 1)
    np.testing.assert_array_equal(mask > 0, np.broadcast_to(found.line_mask, mask.shape))
    free = np.broadcast_to(~truth.line_mask, images.shape)
    letters = free & (np.abs(images - truth.ink_level) < 10)
    empty = free & (np.abs(images - truth.grey.astype(float)) < 3)
    assert letters.mean() > 0.02
    assert ink[letters].min() > 0.5
    assert np.percentile(ink[empty], 99) < -0.7


@pytest.mark.parametrize("truth", [BRIGHT_INK, DARK_INK], ids=["bright ink", "dark ink"])
def test_a_cleared_image_has_black_strokes_that_go_on_across_a_line(truth: Background) -> None:
    found = estimate_background(captchas(truth))
    image = truth.grey.copy()
    # A stroke of 5 columns at right angles to the shared lines, where there are some.
    image[:, 60:65] = truth.ink_level
    cleared = found.cleared(image[None])[0]
    assert cleared.dtype == np.uint8
    assert found.line_mask[:, 62].any()
    assert cleared[:, 62].max() < 60
    away = np.ones_like(found.line_mask)
    away[:, 55:70] = False
    assert np.percentile(cleared[away], 2) > 200
    with pytest.raises(ImageError, match="another scheme"):
        found.cleared(image[None, 1:])


@pytest.mark.parametrize("bright", [True, False])
def test_lines_that_differ_per_image_are_removed(bright: bool) -> None:
    generator = np.random.default_rng(4)
    images = np.full((60, 40, 80), 90 if bright else 170, np.uint8)
    ink = 240 if bright else 20
    blocks = generator.integers(5, 60, 60)
    for image, left in zip(images, blocks, strict=True):
        image[generator.integers(27, 40)] = ink  # a line of one pixel, elsewhere in every image
        image[12:24, left : left + 10] = ink
    found = estimate_background(images, line_removal_width=1)
    normalised = found.normalise(images)[:, 0]
    for channel, left in zip(normalised, blocks, strict=True):
        assert (channel[14:22, left + 2 : left + 8] > 0.9).all()
        channel[12:24, left : left + 10] = -1
    assert (normalised < -0.9).all()
    with_lines = estimate_background(images).normalise(images)[:, 0]
    assert ((with_lines > 0.9).sum(axis=(1, 2)) > 12 * 10).all()


def test_lines_by_and_are_in_every_image() -> None:
    generator = np.random.default_rng(4)
    images = np.full((60, 40, 80), 90, np.uint8)
    images[:, 20] = 250
    images[:59, 30] = 250
    for image in images:
        left = generator.integers(5, 60)
        image[2:14, left : left + 10] = 250
    found = estimate_background(images, lines="and")
    assert np.nonzero(found.line_mask.all(axis=1))[0].tolist() == [20]
    assert found.line_mask.sum() == 80


def test_the_binary_encoding_is_the_original_s() -> None:
    images = captchas(BRIGHT_INK)
    found = estimate_background(images, encoding="binary", lines="average")
    both, either = found.line_mask & BRIGHT_INK.line_mask, found.line_mask | BRIGHT_INK.line_mask
    assert both.sum() / either.sum() > 0.9
    ink = found.normalise(images)[:, 0]
    np.testing.assert_array_equal(ink, np.where(images > 200, 1, -1))
    np.testing.assert_array_equal(ink == 1, binarise(images) & (images > 0))


def test_too_few_or_identical_images_are_refused() -> None:
    grey = np.full((5, 50, 100), 7, np.uint8)
    with pytest.raises(ImageError, match="at least 2 images to compare, got 1"):
        estimate_background(grey[:1])
    with pytest.raises(ImageError, match="identical images"):
        estimate_background(grey)


@pytest.mark.parametrize("shape", [(2, 100, 50), (50, 100), (2, 1, 50, 100)])
def test_images_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="belongs to another scheme"):
        plain().normalise(np.zeros(shape, np.uint8))


def test_real_captchas(real_images: GreyImages) -> None:
    found = estimate_background(real_images)
    assert 0.03 < found.line_mask.mean() < 0.15
    # Lines are thin: none is left where they are taken away.
    assert not remove_thin_lines(found.line_mask.astype(np.uint8), 3).any()
    assert found.ink_level == pytest.approx(250, abs=5)
    ink = found.normalise(real_images)[:, 0][:, ~found.line_mask]
    assert np.median(ink) < -0.95
    assert (ink < -0.7).mean() > 0.7
    assert 0.04 < (ink > 0.5).mean() < 0.2


def test_both_halves_of_the_real_captchas_give_the_same_background(real_images: GreyImages) -> None:
    one, other = estimate_background(real_images[::2]), estimate_background(real_images[1::2])
    assert np.abs(one.grey.astype(int) - other.grey).mean() < 1.5
    assert (one.line_mask != other.line_mask).mean() < 0.005


# On disk


@given(
    grey=st.integers(1, 40).flatmap(
        lambda side: st.binary(min_size=side * side, max_size=side * side).map(
            lambda data: np.frombuffer(data, np.uint8).reshape(side, side)
        )
    ),
    ink=st.floats(0, 255),
    binary=st.booleans(),
)
@settings(max_examples=20)
def test_what_is_saved_is_loaded(
    tmp_path_factory: pytest.TempPathFactory,
    grey: npt.NDArray[np.uint8],
    ink: float,
    binary: bool,
) -> None:
    path = tmp_path_factory.mktemp("background") / "background.npz"
    saved = Background(grey, grey > 99, ink, "binary" if binary else "relative")
    saved.save(path)
    loaded = Background.load(path)
    np.testing.assert_array_equal(loaded.grey, grey)
    np.testing.assert_array_equal(loaded.line_mask, saved.line_mask)
    assert (loaded.ink_level, loaded.encoding) == (ink, saved.encoding)


@pytest.mark.parametrize("keep", [0, 1, 50, 300, -1])
def test_a_truncated_file_is_a_run_error(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "background.npz"
    BRIGHT_INK.save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunError, match=r"expected a background at .* delete its folder and run"):
        Background.load(path)


@settings(max_examples=150)
@given(st.floats(0, 1), st.binary(min_size=1, max_size=6))
def test_a_damaged_file_is_a_run_error_or_still_a_background(
    tmp_path_factory: pytest.TempPathFactory, place: float, damage: bytes
) -> None:
    path = tmp_path_factory.mktemp("background") / "background.npz"
    BRIGHT_INK.save(path)
    data = bytearray(path.read_bytes())
    at = int(place * (len(data) - len(damage)))
    data[at : at + len(damage)] = damage
    path.write_bytes(data)
    try:
        loaded = Background.load(path)
    except RunError:
        return
    assert loaded.grey.dtype == np.uint8
    assert loaded.line_mask.shape == loaded.grey.shape


@pytest.mark.parametrize(
    "change",
    [
        {"grey": np.zeros((50, 100))},
        {"line_mask": np.zeros((50, 99), np.bool_)},
        {"grey": np.array([["pickled", None]], object)},
    ],
)
def test_other_arrays_are_a_run_error(
    tmp_path: Path, change: dict[str, npt.NDArray[np.generic]]
) -> None:
    path = tmp_path / "background.npz"
    arrays = vars(plain()) | change
    np.savez(path, allow_pickle=True, **{name: np.asarray(a) for name, a in arrays.items()})
    with pytest.raises(RunError, match="expected a background at"):
        Background.load(path)
    with pytest.raises(RunError, match="expected a background at"):
        Background.load(tmp_path / "missing.npz")


def test_letters_in_fixed_places_leave_no_trace_in_the_background() -> None:
    """No image is free of ink there, and most have some at any pixel."""
    rng = np.random.default_rng(1)
    scene = np.full((40, 90), 230, np.uint8)
    scene[:, ::15] = 90  # what images share
    images = np.repeat(scene[None], 400, 0)
    for image in images:
        for left in range(10, 80, 10):  # letters side by side, six of ten pixels of each inked
            inked = np.repeat(np.repeat(rng.random((10, 5)) < 0.6, 2, 0), 2, 1)
            image[10:30, left : left + 10][inked] = 20
    found = estimate_background(images)
    assert found.ink_level == pytest.approx(20, abs=4)
    assert not found.bright_ink
    apart = np.abs(found.grey.astype(int) - scene)
    assert apart.max() <= 5


def test_the_background_of_ink_on_black_is_not_estimated() -> None:
    background = plain_background(20, 30, 200, line_removal_width=2)
    assert background.grey.shape == (20, 30)
    assert background.bright_ink
    assert background.line_removal_width == 2
    ink = background.normalise(np.full((1, 20, 30), 200, np.uint8))
    assert (ink[:, 0] > 0.9).mean() > 0.5
    assert (ink[:, 1] == -1).all()
