import pytest
import torch
from torch import Tensor

from simgan_captcha.simgan import DiffAugment
from simgan_captcha.simgan.settings import Augmentation

KINDS: tuple[Augmentation, ...] = ("brightness", "translation", "cutout")


def augment(*kinds: Augmentation, seed: int = 1) -> DiffAugment:
    return DiffAugment(kinds, torch.Generator().manual_seed(seed))


def images(count: int = 32) -> Tensor:
    return torch.rand(count, 2, 16, 24, generator=torch.Generator().manual_seed(5)) * 2 - 1


@pytest.mark.parametrize("kind", KINDS)
def test_each_image_is_changed_in_its_own_way_within_the_range(kind: Augmentation) -> None:
    x = images(1).expand(32, -1, -1, -1)
    y = augment(kind)(x)
    assert y.shape == x.shape
    assert y.abs().max() <= 1
    assert len({tuple(image.flatten().tolist()) for image in y}) > 8


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_passes(kind: Augmentation) -> None:
    x = (images() * 0.4).requires_grad_()
    augment(kind)(x).sum().backward()
    assert x.grad is not None
    share = (x.grad != 0).float().mean().item()
    assert share > (0.5 if kind == "cutout" else 0.8)


def test_brightness_adds_one_number_to_all_pixels() -> None:
    x = images() * 0.4
    change = augment("brightness")(x) - x
    assert change.flatten(1).std(1).max() < 1e-6
    assert 0.3 < change.abs().max() <= 0.5


def test_translation_shifts_by_an_eighth_of_the_side_at_most() -> None:
    x = -torch.ones(200, 1, 16, 24)
    x[:, :, 8, 12] = 1
    y = augment("translation")(x)
    places = y.flatten(1).argmax(1)
    down, across = places // 24 - 8, places % 24 - 12
    assert down.abs().max() == 2
    assert across.abs().max() == 3


def test_cutout_takes_a_quarter_at_most() -> None:
    y = augment("cutout")(torch.ones(400, 1, 16, 24))
    share = (y == 0).float().mean((1, 2, 3))
    assert share.max() == pytest.approx(0.25, abs=0.01)
    assert share.min() < 0.15  # a corner
    assert set(y.unique().tolist()) == {0.0, 1.0}


def test_the_generator_decides_and_nothing_is_done_without_kinds() -> None:
    x = images()
    assert torch.equal(augment(*KINDS)(x), augment(*KINDS)(x))
    assert not torch.equal(augment(*KINDS)(x), augment(*KINDS, seed=2)(x))
    assert augment()(x) is x
