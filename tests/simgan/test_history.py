import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from simgan_captcha.errors import ShapeError
from simgan_captcha.simgan import ImageHistory


def numbered(first: int, n: int) -> Tensor:
    return torch.arange(float(first), float(first + n)).reshape(n, 1, 1, 1).expand(n, 1, 2, 2)


def numbers(images: Tensor) -> list[int]:
    return [int(n) for n in images.reshape(len(images), -1)[:, 0]] if len(images) else []


def make(capacity: int, seed: int = 1) -> ImageHistory:
    return ImageHistory(capacity, torch.Generator().manual_seed(seed))


def test_it_really_fills() -> None:
    history = make(5)
    assert len(history) == 0
    assert numbers(history.images) == []
    history.add(numbered(0, 3))
    assert sorted(numbers(history.images)) == [0, 1, 2]
    history.add(numbered(3, 2))
    assert sorted(numbers(history.images)) == [0, 1, 2, 3, 4]


def test_full_it_replaces_random_old_ones() -> None:
    survivors = set()
    for seed in range(20):
        history = make(8, seed)
        history.add(numbered(0, 8))
        history.add(numbered(8, 4))
        held = set(numbers(history.images))
        assert len(held) == 8
        assert {8, 9, 10, 11} <= held
        survivors.add(frozenset(held - {8, 9, 10, 11}))
    assert len(survivors) > 5  # not always the same ones


def test_old_images_stay_for_long() -> None:
    history = make(64)
    for step in range(50):
        history.add(numbered(step * 4, 4))
    ages = [199 - n for n in numbers(history.images)]
    assert max(ages) > 64  # older than a queue of 64 would hold


@given(
    capacity=st.integers(1, 12),
    sizes=st.lists(st.integers(0, 12), max_size=8),
    seed=st.integers(0, 99),
)
def test_contents(capacity: int, sizes: list[int], seed: int) -> None:
    history, first = make(capacity, seed), 0
    for size in (min(size, capacity) for size in sizes):
        history.add(numbered(first, size))
        first += size
        held = numbers(history.images)
        assert len(held) == len(set(held)) == len(history) == min(capacity, first)
        assert set(range(first - size, first)) <= set(held) <= set(range(first))
    drawn = numbers(history.draw(len(history))) if first else []
    assert sorted(drawn) == sorted(numbers(history.images))  # without replacement


def test_draw_gives_copies_in_random_order() -> None:
    history = make(32)
    history.add(numbered(0, 32))
    drawn = history.draw(32)
    assert numbers(drawn) != numbers(history.images)
    drawn.zero_()
    assert sorted(numbers(history.images)) == list(range(32))


def test_gradients_are_not_kept() -> None:
    history = make(4)
    history.add(torch.zeros(4, 1, 2, 2, requires_grad=True))
    history.add(torch.zeros(2, 1, 2, 2, requires_grad=True))
    assert not history.draw(4).requires_grad


def test_restored_it_goes_on_exactly() -> None:
    history, other = make(6, 1), make(6, 2)
    other.add(numbered(90, 6))
    history.add(numbered(0, 5))
    history.draw(2)
    other.restore(history.state(), torch.device("cpu"))
    for one in (history, other):
        one.add(numbered(5, 4))
    assert numbers(history.images) == numbers(other.images)
    assert numbers(history.draw(4)) == numbers(other.draw(4))
    empty = make(6)
    other.restore(empty.state(), torch.device("cpu"))
    assert len(other) == 0


def test_misuse_is_refused() -> None:
    history = make(4)
    with pytest.raises(ShapeError, match="at most the 0 images held, got 1"):
        history.draw(1)
    with pytest.raises(ShapeError, match="at most 4 images at once, got 5"):
        history.add(numbered(0, 5))
    history.add(numbered(0, 1))
    with pytest.raises(ShapeError, match="one history holds one shape"):
        history.add(torch.zeros(1, 1, 3, 3))
    with pytest.raises(ValueError, match="at least one"):
        make(0)
