import math

import pytest
import torch
from torch import Tensor, nn

from simgan_captcha.errors import ShapeError
from simgan_captcha.simgan import (
    REAL,
    REFINED,
    consistency_loss,
    hinge_loss,
    hinge_refiner_loss,
    local_adversarial_loss,
    patch_accuracy,
    r1_penalty,
    self_regularization_loss,
)


def test_regularisation_is_a_mean_whatever_the_size() -> None:
    for size in (4, 32):
        grey = torch.full((2, 1, size, size), -0.25)
        assert self_regularization_loss(grey, grey + 0.5).item() == pytest.approx(0.5)
        assert self_regularization_loss(grey, grey).item() == 0


def test_regularisation_refuses_other_shapes() -> None:
    with pytest.raises(ShapeError, match=r"\(1, 1, 2, 2\) and \(1, 1, 2, 3\)"):
        self_regularization_loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 3))


def test_adversarial_loss_averages_the_patches() -> None:
    logits = torch.zeros(1, 2, 1, 2)
    logits[0, REFINED, 0, 0] = 2.0  # one patch leans towards refined, one is undecided
    expected = (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    assert local_adversarial_loss(logits, REFINED).item() == pytest.approx(expected)
    expected = (math.log(1 + math.exp(2)) + math.log(2)) / 2
    assert local_adversarial_loss(logits, REAL).item() == pytest.approx(expected)


@pytest.mark.parametrize("target", [REAL, REFINED])
def test_descending_the_adversarial_loss_raises_the_accuracy(target: int) -> None:
    logits = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    before = patch_accuracy(logits, target)
    (gradient,) = torch.autograd.grad(local_adversarial_loss(logits, target), logits)
    assert before < 1
    assert patch_accuracy(logits - 1000 * gradient, target) == 1


def test_adversarial_loss_keeps_its_precision_in_half() -> None:
    logits = torch.tensor([20.0, -20.0]).reshape(1, 2, 1, 1)
    assert local_adversarial_loss(logits.bfloat16(), REFINED).item() == pytest.approx(40)


def test_accuracy_counts_patches() -> None:
    logits = torch.zeros(1, 2, 1, 4)
    logits[0, REFINED, 0, :3] = 1.0
    assert patch_accuracy(logits, REFINED).item() == pytest.approx(0.75)
    assert patch_accuracy(logits, REAL).item() == pytest.approx(0.25)


def test_other_logits_are_refused() -> None:
    for loss in (local_adversarial_loss, patch_accuracy):
        with pytest.raises(ShapeError, match="expected logits"):
            loss(torch.zeros(2, 1, 3, 3), REAL)


def test_consistency_is_least_where_the_reading_stays() -> None:
    read = torch.tensor([[[4.0, 0.0, 0.0], [0.0, 2.0, 0.0]]])
    stays = consistency_loss(read, read)
    entropy = torch.distributions.Categorical(logits=read).entropy().mean()
    assert stays.item() == pytest.approx(entropy.item(), rel=1e-5)
    assert consistency_loss(read.roll(1, -1), read) > 2 * stays


def test_the_hinge_costs_what_is_missing_to_a_margin_of_one() -> None:
    logits = torch.zeros(1, 2, 1, 3)
    logits[0, REAL, 0] = torch.tensor([3.0, 0.25, -1.0])  # margins towards REAL
    assert hinge_loss(logits, REAL).item() == pytest.approx((0 + 0.75 + 2) / 3)
    assert hinge_loss(logits, REFINED).item() == pytest.approx((4 + 1.25 + 0) / 3)
    assert hinge_refiner_loss(logits).item() == pytest.approx(-2.25 / 3)
    for loss in (lambda x: hinge_loss(x, REAL), hinge_refiner_loss):
        with pytest.raises(ShapeError, match="expected logits"):
            loss(torch.zeros(2, 1, 3, 3))


def test_the_gradient_penalty_is_half_the_squared_slope() -> None:
    class Sloped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(3.0))

        def forward(self, images: Tensor) -> Tensor:
            # The margin of every patch, here a pixel, is slope times its level.
            return torch.cat([self.slope * images, torch.zeros_like(images)], 1)

    sloped = Sloped()
    for size in (4, 9):
        penalty = r1_penalty(sloped, torch.rand(2, 1, size, size))
        assert penalty.item() == pytest.approx(9 / 2)
    penalty.backward()
    assert sloped.slope.grad is not None
    assert sloped.slope.grad.item() == pytest.approx(3.0)
