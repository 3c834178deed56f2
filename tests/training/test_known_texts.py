"""Batches with a share of known texts."""

import torch

from simgan_captcha.training.known_texts import draw_numbers, known_of_batch


def test_the_share_of_known_texts_grows_with_their_number() -> None:
    assert known_of_batch(0, 64) == 0
    assert known_of_batch(10, 64) == 16
    assert 30 <= known_of_batch(1000, 64) <= 32


def test_known_images_stand_last_in_a_batch() -> None:
    generator = torch.Generator().manual_seed(1)
    drawn = draw_numbers(torch.arange(100), torch.tensor([200, 201]), 60, generator)
    assert len(drawn) == 60
    count = known_of_batch(2, 60)
    assert set(drawn[60 - count :].tolist()) == {200, 201}
    assert drawn[: 60 - count].max() < 100


def test_without_known_texts_a_batch_is_drawn_as_before() -> None:
    """Runs without labels keep their readings to the bit."""
    expected = torch.randint(100, (60,), generator=torch.Generator().manual_seed(1))
    none = torch.zeros(0, dtype=torch.long)
    drawn = draw_numbers(torch.arange(100), none, 60, torch.Generator().manual_seed(1))
    assert torch.equal(drawn, expected)
