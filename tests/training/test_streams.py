from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simgan_captcha.errors import StoreError
from simgan_captcha.original.simulator import OriginalSimulator
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.settings import SimulatorSettings
from simgan_captcha.simulator.simulator import Simulator
from simgan_captcha.training.streams import CaptchaSimulator, real_batches, synthetic_batches
from simgan_captcha.types import GreyImages
from tests.drawing import plain

T = TypeVar("T")


def take(stream: Iterator[T], count: int) -> list[T]:
    return list(islice(stream, count))


def numbered(count: int) -> GreyImages:
    """Images that show their own number."""
    return np.arange(count, dtype=np.uint8).reshape(-1, 1, 1).repeat(2, 1).repeat(3, 2)


def numbers(batch: GreyImages) -> list[int]:
    return [int(n) for n in batch[:, 0, 0]]


@given(count=st.integers(1, 60), size=st.integers(1, 60), seed=st.integers(0, 2**31 - 1))
def test_full_batches_of_distinct_images_epoch_by_epoch(count: int, size: int, seed: int) -> None:
    images = numbered(count)
    if size > count:
        with pytest.raises(StoreError, match=rf"one batch of {size} images, got {count}; download"):
            next(real_batches(images, size, seed))
        return
    each_epoch = count // size
    batches = [numbers(batch) for batch in take(real_batches(images, size, seed), 3 * each_epoch)]
    assert all(len(batch) == size for batch in batches)
    for start in range(0, 3 * each_epoch, each_epoch):
        epoch = [n for batch in batches[start : start + each_epoch] for n in batch]
        assert len(set(epoch)) == each_epoch * size <= count
        # Less than a batch is dropped.
        assert count - len(epoch) < size


@given(
    count=st.integers(1, 60), size=st.integers(1, 60), seed=st.integers(0, 9), n=st.integers(0, 70)
)
def test_resuming_at_a_batch_equals_skipping_to_it(
    count: int, size: int, seed: int, n: int
) -> None:
    size = min(size, count)
    whole = take(real_batches(numbered(count), size, seed), n + 4)
    resumed = take(real_batches(numbered(count), size, seed, first=n), 4)
    assert [numbers(b) for b in resumed] == [numbers(b) for b in whole[n:]]


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    images = numbered(50)
    one, two = (numbers(batch) for batch in take(real_batches(images, 50, 1), 2))
    other = numbers(next(real_batches(images, 50, 2)))
    assert len({tuple(order) for order in (one, two, other, range(50))}) == 4


def test_batches_contain_the_given_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 5, 7), dtype=np.uint8)
    (batch,) = take(real_batches(images, 20, 3), 1)
    assert batch.dtype == np.uint8
    assert sorted(image.tobytes() for image in batch) == sorted(i.tobytes() for i in images)
    batch[:] = 0
    assert images.any()  # a batch is a copy


SCHEME = Scheme(alphabet="abc1", length=2, width=48, height=24)
FONTS = SimulatorSettings(fonts=("roboto-black",), size=(12, 14))


@cache
def simulator() -> CaptchaSimulator:
    return Simulator(SCHEME, FONTS, plain(48, 24))


def draw(
    count: int, *, seed: int = 1, stream: int = 1, first: int = 0, workers: int = 0, size: int = 3
) -> list[tuple[bytes, list[list[int]]]]:
    batches = synthetic_batches(
        simulator(), size, seed, stream=stream, first=first, workers=workers
    )
    drawn = []
    for images, ids in take(batches, count):
        assert images.shape == (size, 24, 48)
        assert images.dtype == np.uint8
        assert ids.shape == (size, 2)
        assert ids.dtype == torch.int64
        drawn.append((images.tobytes(), ids.tolist()))
    return drawn


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int) -> None:
    assert draw(6, first=2, workers=workers) == draw(8)[2:]


@pytest.mark.parametrize("first", [1, 2, 7])
def test_a_batch_is_the_same_from_any_start(first: int) -> None:
    assert draw(3, first=first) == draw(first + 3)[first:]


def test_batches_streams_and_seeds_all_differ() -> None:
    batches = [*draw(3), *draw(3, stream=2), *draw(3, seed=2), *draw(1, seed=2, stream=2)]
    assert len({images for images, _ in batches}) == 10


def test_the_original_simulator_streams_too() -> None:
    wide = Scheme(alphabet="abc1", length=2, width=80, height=48)
    drawing = OriginalSimulator(wide, plain(80, 48))
    streams = [synthetic_batches(drawing, 2, 1, stream=1, first=n) for n in (0, 1)]
    (_, one), (resumed, *_) = (take(stream, 2) for stream in streams)
    assert one[0].tobytes() == resumed[0].tobytes()
    assert torch.equal(one[1], resumed[1])


# Shares of several processes.


def test_real_images_are_shared_without_overlap() -> None:
    images = numbered(24)

    def epoch(**shared: int) -> list[list[int]]:
        return [numbers(batch) for batch in take(real_batches(images, 8, 1, **shared), 3)]

    whole, first, second = epoch(), epoch(rank=0, processes=2), epoch(rank=1, processes=2)
    for batch, one, other in zip(whole, first, second, strict=True):
        assert batch[::2] == one
        assert batch[1::2] == other
    assert sorted(n for batch in first + second for n in batch) == list(range(24))


def test_synthetic_images_are_shared_without_overlap() -> None:
    def some(number: int, **shared: int) -> list[bytes]:
        batches = synthetic_batches(simulator(), 4, 1, stream=2, **shared)
        return [images.tobytes() for images, _ in take(batches, number)]

    whole = some(6)
    assert some(3, rank=0, processes=2) == whole[::2]
    assert some(3, rank=1, processes=2) == whole[1::2]
    assert some(2, rank=1, processes=2, first=1) == whole[3::2]
