import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from simgan_captcha.simgan import (
    PatchSampler,
    Refiner,
    RefinerSettings,
    SimGANSettings,
    contrastive_loss,
    patch_nce_loss,
)
from simgan_captcha.simgan.updates import Extras, frozen, patch_sampler, refiner_loss


@pytest.fixture(autouse=True)
def _same_first_weights() -> None:
    torch.manual_seed(1)


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(shape), dim=-1)


def test_undecided_is_the_logarithm_of_the_number_of_patches() -> None:
    same = unit(1, 1, 8).expand(3, 10, 8)
    assert patch_nce_loss(same, same).item() == pytest.approx(math.log(10), rel=1e-5)


def test_it_is_the_cross_entropy_of_the_right_place() -> None:
    queries, keys = unit(2, 5, 8), unit(2, 5, 8)
    by_hand = [
        -torch.log_softmax(keys[b] @ queries[b, p] / 0.07, 0)[p] for b in range(2) for p in range(5)
    ]
    expected = torch.stack(by_hand).mean()
    torch.testing.assert_close(patch_nce_loss(queries, keys), expected)
    both = contrastive_loss([queries, keys], [keys, keys])
    torch.testing.assert_close(both, (expected + patch_nce_loss(keys, keys)) / 2)


def test_the_gradient_reaches_the_queries_alone() -> None:
    queries, keys = unit(1, 5, 8).requires_grad_(), unit(1, 5, 8).requires_grad_()
    patch_nce_loss(queries, keys).backward()
    assert queries.grad is not None
    assert queries.grad.any()
    assert keys.grad is None


def test_the_sampler_describes_the_chosen_places() -> None:
    sampler = PatchSampler(3, layers=2, size=4, places=6)
    maps = [torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)]
    places = sampler.draw(20, torch.Generator().manual_seed(1))
    assert len(set(places.tolist())) == 6
    described = sampler(maps, places)
    assert [each.shape for each in described] == [(2, 6, 4)] * 2
    torch.testing.assert_close(described[0].norm(dim=-1), torch.ones(2, 6))
    row, column = divmod(int(places[3]), 5)
    expected = F.normalize(sampler.heads[1](maps[1][0, :, row, column]), dim=0)
    torch.testing.assert_close(described[1][0, 3], expected)
    assert len(sampler.draw(4, torch.Generator())) == 4


def test_refining_that_swaps_patches_costs_more_than_none() -> None:
    """By the refiner's own layers: what keeps its place is found again, what moved is not."""
    settings = SimGANSettings(
        refiner=RefinerSettings(features=8, blocks=1), regularization=0.0, contrastive=1.0
    )
    sampler = patch_sampler(settings)
    assert sampler is not None
    refiner, discriminator = Refiner(settings.refiner), torch.nn.Conv2d(1, 2, 3)
    x = torch.rand(4, 1, 12, 12) * 2 - 1

    def cost(refined: Tensor) -> float:
        places = sampler.draw(144, torch.Generator().manual_seed(1))
        maps = [sampler(refiner.features(each), places) for each in (refined, x)]
        return contrastive_loss(*maps).item()

    assert cost(x) < 0.7 * cost(x.flip(3))

    with frozen(discriminator):
        loss, figures = refiner_loss(refiner, discriminator, x, settings, Extras(sampler=sampler))
        loss.backward()
    torch.testing.assert_close(loss, figures["adversarial_loss"] + figures["contrast"])
    for module in (refiner, sampler):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert patch_sampler(SimGANSettings()) is None
