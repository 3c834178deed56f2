"""The moving average of weights."""

import pytest
import torch
from torch import nn

from simgan_captcha.training.average import update_average


def test_the_average_follows_the_formula() -> None:
    average, model = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
    with torch.no_grad():
        for tensor in average.state_dict().values():
            tensor.zero_()
        for tensor in model.state_dict().values():
            tensor.fill_(1)
    update_average(average, model, 0.99, step=1)  # the small decay of early steps: 2/11
    assert average.weight.item() == pytest.approx(9 / 11)
    assert average.running_var is not None
    assert average.running_var.item() == pytest.approx(9 / 11)
    assert average.num_batches_tracked is not None
    assert average.num_batches_tracked.item() == 1  # whole numbers are copied
    update_average(average, model, 0.99, step=10**6)
    assert average.weight.item() == pytest.approx(1 - 0.99 * 2 / 11)
    assert model.weight.item() == 1


def test_a_decay_of_zero_copies_the_weights() -> None:
    average, model = nn.Linear(3, 2), nn.Linear(3, 2)
    update_average(average, model, 0.0, step=100)
    assert torch.equal(average.weight, model.weight)
