import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgan_captcha.data.images import decode_grey
from simgan_captcha.simulator.codec import quantisation_table, through_jpeg
from simgan_captcha.types import GreyImages
from tests.drawing import encode_jpeg


def saved_and_opened(images: GreyImages, qualities: npt.NDArray[np.int64]) -> GreyImages:
    """Images that libjpeg saved and opened again."""
    pairs = zip(images, qualities.tolist(), strict=True)
    return np.stack([decode_grey(encode_jpeg(image, quality)) for image, quality in pairs])


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(1, 70),
    st.sampled_from(["noise", "smooth", "steep", "two levels"]),
    st.integers(1, 100),
)
def test_every_bit_is_that_of_libjpeg(
    seed: int, height: int, width: int, kind: str, first: int
) -> None:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (3, height, width)).astype(np.uint8)
    if kind == "two levels":
        images = np.where(images > 127, 255, 0).astype(np.uint8)
    elif kind != "noise":
        blurred = [cv2.GaussianBlur(image, (0, 0), 2.0).reshape(height, width) for image in images]
        gain = 1 if kind == "smooth" else 9
        images = (128 + gain * (np.stack(blurred) - 128.0)).clip(0, 255).astype(np.uint8)
    qualities = np.array([first, *generator.integers(1, 101, 2)])
    before = images.copy()
    np.testing.assert_array_equal(
        through_jpeg(images, qualities), saved_and_opened(images, qualities)
    )
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("quality", range(1, 101))
def test_every_quality_has_the_steps_of_libjpeg(quality: int) -> None:
    coded = encode_jpeg(np.zeros((8, 8), np.uint8), quality)
    # The table is in zigzag order, after its marker, two bytes of length and one of number.
    stored = np.frombuffer(coded, np.uint8, 64, coded.index(b"\xff\xdb") + 5)
    diagonals = sorted(
        np.ndindex(8, 8), key=lambda cell: (sum(cell), cell[1 - sum(cell) % 2])
    )  # up and down alternately
    zigzag = quantisation_table(quality)[tuple(np.array(diagonals).T)]
    np.testing.assert_array_equal(stored, zigzag)


def test_images_may_be_a_view() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 40, 60)).astype(np.uint8)
    view, qualities = images[::2, 3:33, ::2], np.array([50, 70, 90])
    np.testing.assert_array_equal(through_jpeg(view, qualities), saved_and_opened(view, qualities))
