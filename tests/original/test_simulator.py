import pickle

import numpy as np
import numpy.typing as npt
import pytest

from simgan_captcha import HACKMIT_2017
from simgan_captcha.data.background import Background
from simgan_captcha.errors import ConfigError
from simgan_captcha.original import simulator as original_simulator
from simgan_captcha.original.simulator import OriginalSimulator, segment
from simgan_captcha.scheme import Scheme
from tests.drawing import plain, striped


def columns(ink: list[int]) -> npt.NDArray[np.bool_]:
    """An image with so much ink in each column."""
    return np.arange(20)[:, None] < np.array(ink)[None]


def test_a_batch_is_binary_and_the_same_for_the_same_generator() -> None:
    simulator = OriginalSimulator(HACKMIT_2017, plain())
    images, ids = simulator.batch(np.random.default_rng(0), 40)
    assert (images.shape, ids.shape) == ((40, 50, 100), (40, 4))
    assert images.dtype == np.uint8
    assert set(np.unique(images)) == {0, 255}
    assert 0 <= ids.min() < ids.max() < 36
    again = pickle.loads(pickle.dumps(simulator)).batch(np.random.default_rng(0), 40)
    np.testing.assert_array_equal(images, again[0])
    np.testing.assert_array_equal(ids, again[1])
    assert not np.array_equal(ids, simulator.batch(np.random.default_rng(1), 40)[1])


def test_every_image_passes_the_segment_test_and_only_some_drawings_do() -> None:
    simulator = OriginalSimulator(HACKMIT_2017, plain())
    images, _ = simulator.batch(np.random.default_rng(2), 60)
    assert {len(segment(image == 255)) for image in images} == {4}
    generator = np.random.default_rng(2)
    drawings = [len(segment(simulator._draw(generator)[0])) for _ in range(400)]
    assert 0.03 < np.mean(np.array(drawings) == 4) < 0.3


def test_letters_may_run_together_where_that_is_mended() -> None:
    mended = OriginalSimulator(HACKMIT_2017, plain(), apart=False, rotation=30)
    images, _ = mended.batch(np.random.default_rng(2), 60)
    assert {len(segment(image == 255)) for image in images} > {4}


def test_lines_are_laid_over_the_letters() -> None:
    lined = striped((60, 140, 100, 150), 250)
    plain_images, _ = OriginalSimulator(HACKMIT_2017, plain()).batch(np.random.default_rng(3), 20)
    images, _ = OriginalSimulator(HACKMIT_2017, lined).batch(np.random.default_rng(3), 20)
    np.testing.assert_array_equal(images == 255, (plain_images == 255) | lined.line_mask)


def test_networks_see_what_was_drawn() -> None:
    binary = Background(**vars(plain()) | {"encoding": "binary"})
    images, _ = OriginalSimulator(HACKMIT_2017, binary).batch(np.random.default_rng(4), 5)
    np.testing.assert_array_equal(binary.normalise(images)[:, 0] == 1, images == 255)


@pytest.mark.parametrize(
    ("ink", "cuts"),
    [
        # The last empty column before each letter of 8 columns less one, or more; never the last.
        ([0, 0, 0] + [9] * 7 + [0, 0], [2]),
        ([0, 0, 0] + [9] * 6 + [0, 0], []),
        ([0] * 3 + [9] * 10 + [0] * 2 + [9] * 12 + [0] * 3, [2, 14]),
        # Where letters touch there is no cut, nor before a letter that is cut off at the right.
        ([0] * 3 + [9] * 22 + [0] * 2 + [9] * 12, [2]),
        # Empty is all with less than 2 pixels more than the emptiest.
        ([3, 4, 4] + [5] * 7 + [4, 3], [2]),
        ([7] * 12, []),
    ],
)
def test_segments_begin_at_the_last_empty_column_before_a_letter(
    ink: list[int], cuts: list[int]
) -> None:
    assert segment(columns(ink)) == cuts


def test_letters_lie_where_the_seed_put_them() -> None:
    """Tiles begin at 20 columns a slot and up to 24 more, and from 4 rows above to 24 below."""
    scheme = Scheme(alphabet="l1", length=4, width=100, height=50)
    simulator = OriginalSimulator(scheme, plain(), rotation=0)
    generator = np.random.default_rng(5)
    ever = np.any([simulator._draw(generator)[0] for _ in range(2000)], axis=0)
    tile_rows, tile_columns = np.nonzero(np.max([np.array(t) for t in simulator._tiles], axis=0))
    rows, columns = np.nonzero(ever)
    assert rows.min() == pytest.approx(tile_rows.min() - 4, abs=1)
    assert rows.max() == pytest.approx(tile_rows.max() + 24, abs=1)
    assert columns.min() == pytest.approx(tile_columns.min(), abs=1)
    assert columns.max() == pytest.approx(tile_columns.max() + 3 * 20 + 24, abs=1)


def test_schemes_of_other_sizes_are_drawn_likewise() -> None:
    scheme = Scheme(alphabet="abcdef", length=2, width=60, height=50)
    images, ids = OriginalSimulator(scheme, plain(60, 50)).batch(np.random.default_rng(6), 10)
    assert (images.shape, ids.shape) == ((10, 50, 60), (10, 2))


def test_letters_that_always_run_together_are_a_config_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(original_simulator, "MAX_DRAWINGS", 30)
    scheme = Scheme(alphabet="mw", length=12, width=100, height=50)
    simulator = OriginalSimulator(scheme, plain())
    with pytest.raises(ConfigError, match="30 drawings of 12 characters of 26 pixels on 100x50"):
        simulator.batch(np.random.default_rng(0), 1)


def test_a_background_of_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="background of 100x50 pixels, got 50x100"):
        OriginalSimulator(HACKMIT_2017, plain(50, 100))
