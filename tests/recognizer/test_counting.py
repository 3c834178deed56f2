"""Counting characters from left to right on a feature map."""

import pytest
import torch

from simgan_captcha.recognizer.counting import Counting, counting_loss

ROWS, COLUMNS, LENGTH, HEADS, CHANNELS = 3, 8, 4, 2, 6


def fresh() -> Counting:
    torch.manual_seed(1)
    return Counting(CHANNELS, LENGTH, HEADS, ROWS, COLUMNS)


def test_the_initial_count_is_uniform() -> None:
    count = fresh()(torch.randn(2, ROWS * COLUMNS, CHANNELS))
    expected = LENGTH * (torch.arange(COLUMNS) + 0.5) / COLUMNS
    torch.testing.assert_close(count, expected.expand(2, -1), rtol=1e-5, atol=1e-5)


def test_slots_prefer_their_own_count() -> None:
    counting = fresh()
    leaning = counting.leaning(counting(torch.randn(1, ROWS * COLUMNS, CHANNELS)))
    assert leaning.shape == (1, HEADS, LENGTH, COLUMNS)
    assert (leaning <= 0).all()
    # Eight columns, four slots: the two columns in the share of a slot are the nearest.
    nearest = leaning[0, 0].topk(2).indices.sort().values
    assert nearest.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_a_feature_changes_the_count_only_to_its_right() -> None:
    counting = fresh()
    with torch.no_grad():
        counting.density.weight.fill_(1)
    features = torch.zeros(1, ROWS, COLUMNS, CHANNELS)
    features[0, 1, 3] = 1  # a feature at row 1, column 3
    before = counting(torch.zeros(1, ROWS * COLUMNS, CHANNELS))
    more = counting(features.flatten(1, 2)) - before
    assert (more[0, :3].abs() < 1e-6).all()
    assert more[0, 3] > 1
    torch.testing.assert_close(more[0, 4:], 2 * more[0, 3].expand(COLUMNS - 4))


def test_codes_of_different_counts_differ() -> None:
    counting = fresh()
    codes = counting.codes(torch.linspace(0, LENGTH, COLUMNS)[None])
    assert codes.shape == (1, COLUMNS, CHANNELS)
    apart = torch.cdist(codes[0], codes[0])
    assert apart[~torch.eye(COLUMNS, dtype=torch.bool)].min() > 0.05


def test_the_loss_uses_the_columns_of_centres() -> None:
    # Centres in columns 1 and 6 (of rows 0 and 2), one outside the image.
    places = torch.tensor([[1, 2 * COLUMNS + 6, -1]])
    truth = torch.tensor([[0, 0.5, 1, 1, 1, 1, 1.5, 2]])
    assert counting_loss(truth, places).item() == 0
    assert counting_loss(truth + 0.25, places).item() == pytest.approx(0.25)
