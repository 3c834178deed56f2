import pytest
import torch
from torch import Tensor, nn

from simgan_captcha.simgan import (
    FeatureDiscriminator,
    ImageHistory,
    Refiner,
    RefinerSettings,
    SimGANSettings,
)
from simgan_captcha.simgan.updates import (
    Extras,
    FeatureJudge,
    discriminator_loss,
    frozen,
    refiner_loss,
)
from tests.simgan.training_case import edge_maps, make_real, squares

PLAIN = SimGANSettings()


@pytest.fixture(autouse=True)
def _same_first_weights() -> None:
    torch.manual_seed(1)


class Watched(nn.Module):
    """A tiny discriminator that remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3)
        self.shown: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(images)
        logits: Tensor = self.layer(images)
        return logits


def level(value: float, n: int) -> Tensor:
    return torch.full((n, 1, 8, 8), value)


def levels(images: Tensor) -> list[float]:
    return [round(value, 3) for value in images.mean(dim=(1, 2, 3)).tolist()]


def test_half_of_the_discriminators_refined_batch_is_history() -> None:
    refiner, watched = Refiner(RefinerSettings(features=2, blocks=1)), Watched()
    history = ImageHistory(6, torch.Generator().manual_seed(1))
    for synthetic, expected in [
        (0.1, [0.1] * 6),  # nothing is past yet
        (0.2, [0.1] * 3 + [0.2] * 3),
    ]:
        watched.shown.clear()
        discriminator_loss(refiner, watched, (level(synthetic, 6), level(0.9, 6)), history, PLAIN)
        on_refined, on_real = watched.shown
        assert sorted(levels(on_refined)) == expected
        assert levels(on_real) == [0.9] * 6
    assert sorted(levels(history.images)) == [0.1] * 3 + [0.2] * 3


def test_discriminator_update_leaves_the_refiner_alone() -> None:
    refiner, watched = Refiner(RefinerSettings(features=2, blocks=1)), Watched()
    history = ImageHistory(4, torch.Generator())
    loss, figures = discriminator_loss(
        refiner, watched, (level(0.0, 4), level(0.9, 4)), history, PLAIN
    )
    loss.backward()
    assert watched.layer.weight.grad is not None
    assert all(p.grad is None for p in refiner.parameters())
    assert 0 <= figures["discriminator_accuracy"] <= 1


def test_refiner_update_leaves_the_discriminator_alone() -> None:
    refiner, watched = Refiner(RefinerSettings(features=2, blocks=1)), Watched()
    with frozen(watched):
        settings = SimGANSettings(regularization=2.0)
        loss, figures = refiner_loss(refiner, watched, level(0.0, 4), settings)
        loss.backward()
    assert refiner.leave.weight.grad is not None
    assert refiner.leave.weight.grad.any()
    assert watched.layer.weight.grad is None
    assert watched.layer.weight.requires_grad
    assert torch.equal(loss, figures["adversarial_loss"] + 2 * figures["change"])


def test_feature_maps_are_judged_by_a_discriminator_of_their_own() -> None:
    refiner, watched = Refiner(RefinerSettings(features=2, blocks=1)), Watched()
    judge = FeatureJudge(edge_maps, FeatureDiscriminator([2, 2], width=4))
    extras, settings = Extras(judge=judge), SimGANSettings(regularization=0.0, features=3.0)
    with frozen(watched), frozen(judge.discriminator):
        loss, figures = refiner_loss(refiner, watched, squares(1, 0), settings, extras)
        loss.backward()
    torch.testing.assert_close(loss, figures["adversarial_loss"] + 3 * figures["feature_loss"])
    assert refiner.leave.weight.grad is not None
    assert all(p.grad is None for p in judge.discriminator.parameters())
    optimizer = torch.optim.Adam(judge.discriminator.parameters(), 1e-2)
    losses = []
    for number in range(60):
        batches = squares(1, number), make_real(squares(2, number))
        history = ImageHistory(8, torch.Generator())
        _, figures = discriminator_loss(refiner, watched, batches, history, settings, extras=extras)
        optimizer.zero_grad()
        figures["feature_discriminator_loss"].backward()
        optimizer.step()
        losses.append(figures["feature_discriminator_loss"].item())
    assert losses[-1] < 0.9 * losses[0]  # most places of both are empty


def test_consistency_costs_what_the_recognizer_misreads() -> None:
    refiner, watched = Refiner(RefinerSettings(features=2, blocks=1)), Watched()
    settings = SimGANSettings(consistency=3.0)

    def recognizer(images: Tensor) -> Tensor:
        return torch.stack([images.mean((1, 2, 3)) * 10, torch.zeros(len(images))], -1)

    images = level(0.9, 4)
    plain, _ = refiner_loss(refiner, watched, images, SimGANSettings())
    unmoved, figures = refiner_loss(refiner, watched, images, settings, Extras(recognizer))
    assert figures["misread"] < 0.01  # the untrained refiner changes nothing
    assert torch.isclose(unmoved, plain + 3 * figures["misread"])

    torch.nn.init.constant_(refiner.leave.bias, -1.8)  # type: ignore[arg-type]
    loss, figures = refiner_loss(refiner, watched, images, settings, Extras(recognizer))
    loss.backward()
    assert figures["misread"] > 5
    assert refiner.leave.bias is not None
    assert refiner.leave.bias.grad is not None
    assert refiner.leave.bias.grad < 0  # brighter again
