"""Conversion of images to the grey levels that recognizers receive."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from simgan_captcha.data.foreground import (
    INK,
    decode_scheme_image,
    ink_on_black,
    open_scheme_image,
    uneven_share,
)
from simgan_captcha.data.images import encode_png
from simgan_captcha.errors import ImageError
from simgan_captcha.inference.reader import ImageReader, Unreadable
from simgan_captcha.scheme import Scheme
from simgan_captcha.types import GreyImages
from tests.drawing import encode_jpeg

SHARED = Scheme(alphabet="ab", length=2, width=40, height=20)
PLAIN = SHARED.model_copy(update={"background": "plain"})
COLOURS = st.tuples(*[st.integers(0, 255)] * 3)


def bar(ground: tuple[int, ...], ink: tuple[int, ...], scale: int = 1) -> GreyImages:
    """(20, 40, 3) times the scale, with an upright bar of ink in a tenth of it."""
    image = np.empty((20 * scale, 40 * scale, 3), np.uint8)
    image[:] = ground
    image[4 * scale : 16 * scale, 10 * scale : 16 * scale] = ink
    return image


WHITE_ON_BLACK = ink_on_black(bar((0, 0, 0), (255, 255, 255)), 40, 20)


def test_brightness_of_ink_is_its_distance_from_the_background() -> None:
    assert (WHITE_ON_BLACK[4:16, 10:16] == INK).all()
    assert WHITE_ON_BLACK.astype(int).sum() == INK * 12 * 6


@given(ground=COLOURS, ink=COLOURS)
def test_the_result_does_not_depend_on_colours(
    ground: tuple[int, ...], ink: tuple[int, ...]
) -> None:
    if max(abs(a - b) for a, b in zip(ground, ink, strict=True)) >= 32:
        assert np.array_equal(ink_on_black(bar(ground, ink), 40, 20), WHITE_ON_BLACK)


def dotted(image: GreyImages, ink: tuple[int, ...]) -> GreyImages:
    """With dots of four pixels in a tenth of it."""
    image = image.copy()
    for row in range(1, 20, 5):
        for column in range(1, 40, 8):
            image[row : row + 2, column : column + 2] = ink
    return image


def test_pale_letters_among_dark_dots_are_amplified() -> None:
    ground, pale, dark = (255, 255, 255), (175, 175, 175), (5, 5, 5)
    image = dotted(bar(ground, pale), dark)
    ink = ink_on_black(image, 40, 20)
    of_letters = (image == pale[0]).all(-1)
    # Beside the strongest ink they would have 64.
    assert np.median(ink[of_letters]) == pytest.approx(INK / 1.25, abs=1)
    assert (ink[(image == dark[0]).all(-1)] == 255).all()
    # As strong as the letters, or by themselves, dots change no measure.
    same = ink_on_black(dotted(bar(ground, dark), dark), 40, 20)
    assert set(np.unique(same)) == {0, INK}
    alone = ink_on_black(dotted(np.full((20, 40, 3), 255, np.uint8), dark), 40, 20)
    assert set(np.unique(alone)) == {0, INK}


@pytest.mark.parametrize(("length", "letters_measure"), [(20, True), (40, False)])
def test_letters_determine_the_scale_if_they_are_most_of_the_ink(
    length: int, letters_measure: bool
) -> None:
    """A dark line is not taken for dots: it is as large as a letter and has a share of the ink."""
    image = bar((255, 255, 255), (175, 175, 175))
    image[2, :length] = 5
    of_letters = ink_on_black(image, 40, 20)[(image == 175).all(-1)]
    measured = INK / 1.25 if letters_measure else INK * 80 / 250
    assert np.median(of_letters) == pytest.approx(measured, abs=1)


def test_weak_ink_is_not_amplified() -> None:
    faint = ink_on_black(bar((100, 100, 100), (104, 100, 100)), 40, 20)
    assert 0 < faint.max() < INK / 4


LIGHT = st.tuples(*[st.integers(140, 255)] * 3)


def on_grounds(ground: GreyImages, ink: tuple[int, ...]) -> GreyImages:
    """The bar of `bar`, on a ground (20, 40, 3)."""
    image = ground.copy()
    image[4:16, 10:16] = ink
    return image


def gradient(left: tuple[int, ...], right: tuple[int, ...]) -> GreyImages:
    """(20, 40, 3): one colour runs into another."""
    part = np.linspace(0, 1, 40)[:, None]
    row = np.array(left) * (1 - part) + np.array(right) * part
    return np.broadcast_to(np.rint(row).astype(np.uint8), (20, 40, 3))


def panels(left: tuple[int, ...], right: tuple[int, ...]) -> GreyImages:
    """(20, 40, 3): two colours side by side."""
    return np.repeat(np.array([left, right], np.uint8), [27, 13], axis=0)[None].repeat(20, 0)


@given(left=LIGHT, right=LIGHT, ink=st.tuples(*[st.integers(0, 40)] * 3), of=st.booleans())
def test_ink_is_found_on_varying_backgrounds(
    left: tuple[int, ...], right: tuple[int, ...], ink: tuple[int, ...], of: bool
) -> None:
    ground = (gradient if of else panels)(left, right)
    found = ink_on_black(on_grounds(ground, ink), 40, 20, varying=True)
    assert found[4:16, 10:16].min() > 0.7 * INK
    beside = np.ones((20, 40), bool)
    beside[4:16, 10:16] = False
    assert np.percentile(found[beside], 95) < 0.3 * INK  # at the edges it knows one side alone


def test_a_background_of_one_colour_is_not_varying() -> None:
    image = on_grounds(gradient((150, 150, 255), (255, 200, 140)), (0, 0, 0))
    assert uneven_share(image) > 0.5
    assert uneven_share(bar((255, 255, 255), (0, 0, 0))) == 0
    beside = ink_on_black(image, 40, 20)[:, 20:]
    assert np.percentile(beside, 95) > 0.3 * INK  # told that it is of one colour


def test_a_scheme_says_whether_its_background_varies() -> None:
    image = on_grounds(gradient((150, 150, 255), (255, 200, 140)), (0, 0, 0))
    data = encode_png(image)
    varying = SHARED.model_copy(update={"background": "varying"})
    expected = ink_on_black(image, 40, 20, varying=True)
    for found in (
        decode_scheme_image(data, varying),
        decode_scheme_image(data, varying),
        decode_scheme_image(image, varying),
    ):
        assert np.array_equal(found, expected)
    assert not np.array_equal(decode_scheme_image(data, PLAIN), expected)


@pytest.mark.parametrize("scale", [2, 3])
def test_larger_images_are_scaled(scale: int) -> None:
    scaled = ink_on_black(bar((9, 99, 199), (250, 10, 0), scale), 40, 20).astype(int)
    assert np.abs(scaled - WHITE_ON_BLACK).max() <= 1


def test_the_aspect_ratio_is_kept() -> None:
    wide = np.concatenate([bar((0, 0, 0), (255, 255, 255))] * 2, axis=1)  # (20, 80, 3)
    fitted = ink_on_black(wide, 40, 20)
    assert fitted.shape == (20, 40)
    assert not fitted[:5].any()
    assert not fitted[15:].any()
    assert fitted[7:13, 5:8].min() > INK / 2


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    seed=st.integers(0, 99),
    flat=st.booleans(),
    varying=st.booleans(),
)
def test_any_image_fits(height: int, width: int, seed: int, flat: bool, varying: bool) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    ink = ink_on_black(image * 0 + 7 if flat else image, 40, 20, varying=varying)
    assert ink.shape == (20, 40)
    assert ink.dtype == np.uint8
    assert not (flat and ink.any())


def test_a_shared_background_has_luma_of_one_size() -> None:
    grey = np.arange(800, dtype=np.uint16).reshape(20, 40).astype(np.uint8)
    png = encode_png(grey)
    open_scheme_image(png, SHARED)
    assert np.array_equal(decode_scheme_image(png, SHARED), grey)
    assert np.array_equal(decode_scheme_image(grey, SHARED), grey)
    with pytest.raises(ImageError, match="expected an image of 40x20"):
        open_scheme_image(encode_png(grey[:10]), SHARED)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((20, 40, 5), np.uint8),
        np.zeros((20,), np.uint8),
        np.zeros((0, 40), np.uint8),
        np.zeros((20, 40), np.float32),
    ],
)
@pytest.mark.parametrize("scheme", [SHARED, PLAIN])
def test_other_arrays_are_refused(pixels: np.ndarray, scheme: Scheme) -> None:
    with pytest.raises(ImageError, match="expected grey levels"):
        decode_scheme_image(pixels, scheme)


def test_all_sources_of_an_image_give_the_same_input() -> None:
    seen: list[GreyImages] = []

    def recognize(images: GreyImages) -> tuple[np.ndarray, np.ndarray]:
        seen.extend(images)
        return np.zeros((len(images), 2), np.int64), np.ones((len(images), 2), np.float32)

    large = bar((200, 30, 60), (0, 0, 250), 2)
    reader = ImageReader(PLAIN, recognize)
    read = reader.read([encode_png(large), large, encode_jpeg(large[..., 0], 90), b"no image"])
    assert isinstance(read[3], Unreadable)
    assert np.array_equal(seen[0], seen[1])
    assert np.abs(seen[2].astype(int) - seen[0]).max() < INK / 3


def test_transparent_images_are_laid_on_white() -> None:
    letters = np.zeros((20, 40, 4), np.uint8)
    letters[4:16, 10:16, 3] = 255  # black on nothing, which is black as well
    picture = Image.fromarray(letters, "RGBA")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    assert np.array_equal(decode_scheme_image(buffer.getvalue(), PLAIN), WHITE_ON_BLACK)
    seen: list[GreyImages] = []

    def recognize(images: GreyImages) -> tuple[np.ndarray, np.ndarray]:
        seen.extend(images)
        return np.zeros((len(images), 2), np.int64), np.ones((len(images), 2), np.float32)

    ImageReader(PLAIN, recognize).read(picture)
    assert np.array_equal(seen[0], WHITE_ON_BLACK)
