from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from simgan_captcha.errors import RunError, ShapeError
from simgan_captcha.simgan import (
    Discriminator,
    DiscriminatorSettings,
    Refiner,
    RefinerSettings,
    SimGANSettings,
    count_training_flops,
    load_refiner,
    save_refiner,
)
from simgan_captcha.training.checkpoint import save_weights

PAPER = RefinerSettings(global_skip=False)


@pytest.fixture(autouse=True)
def _same_first_weights() -> None:
    torch.manual_seed(1)


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def awake(refiner: Refiner) -> Refiner:
    """The last convolution no longer zero, so that what comes before it matters."""
    torch.nn.init.normal_(refiner.leave.weight, generator=torch.Generator().manual_seed(2))
    return refiner


@pytest.mark.parametrize("global_skip", [True, False])
@pytest.mark.parametrize("downscale", [1, 2, 3])
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 1)])
def test_shape_and_range_stay(global_skip: bool, downscale: int, size: tuple[int, int]) -> None:
    settings = RefinerSettings(
        channels=2, features=4, blocks=1, downscale=downscale, global_skip=global_skip
    )
    x = images(3, 2, *size)
    refined = awake(Refiner(settings))(x)
    assert refined.shape == x.shape
    assert refined.abs().max() <= 1
    assert not torch.equal(refined, x)


@pytest.mark.parametrize("downscale", [1, 2, 3])
def test_untrained_refiner_with_global_skip_is_the_identity(downscale: int) -> None:
    x = torch.cat([images(2, 1, 7, 9), torch.ones(1, 1, 7, 9), -torch.ones(1, 1, 7, 9)])
    assert torch.equal(Refiner(RefinerSettings(features=4, downscale=downscale))(x), x)


def test_every_pixel_can_still_be_moved_inwards_and_none_further_out() -> None:
    refiner = Refiner(RefinerSettings(features=2, blocks=1))
    assert refiner.leave.bias is not None
    for offset, target, moves in [(-0.5, 1.0, True), (-0.5, -1.0, False), (0.0, 1.0, True)]:
        refiner.zero_grad()
        torch.nn.init.constant_(refiner.leave.bias, offset)
        black = -torch.ones(1, 1, 4, 4)
        (refiner(black) * -target).sum().backward()  # descent moves towards the target
        assert refiner.leave.bias.grad is not None
        assert bool(refiner.leave.bias.grad.item() < 0) is moves


def test_a_pixel_sees_its_neighbourhood_and_no_other_image() -> None:
    refiner = awake(Refiner(RefinerSettings(features=4, blocks=1)))
    x = images(2, 1, 16, 16)
    x.requires_grad_(True)
    refiner(x)[0, 0, 8, 8].backward()
    assert x.grad is not None
    reached = x.grad[0, 0].nonzero()
    # Three 3x3 convolutions: three pixels each way.
    assert reached.min() >= 8 - 3
    assert reached.max() <= 8 + 3
    assert not x.grad[1].any()


def test_the_papers_refiner_costs_what_the_design_says() -> None:
    settings = SimGANSettings(
        refiner=PAPER,
        batch_size=2,
        steps=1,
        refiner_updates=1,
        pretrain_refiner_steps=1,
        pretrain_discriminator_steps=0,
    )
    with_it = count_training_flops(settings, 50, 100)
    without = count_training_flops(
        settings.model_copy(update={"pretrain_refiner_steps": 0}), 50, 100
    )
    # 1,470 million multiply-adds an image; two operations each; backward costs twice the forward.
    assert (with_it - without) / (2 * 2 * 3) == pytest.approx(1470e6, rel=0.02)


def test_downscale_saves_its_square() -> None:
    def cost(downscale: int) -> int:
        settings = SimGANSettings(
            refiner=RefinerSettings(downscale=downscale),
            discriminator=DiscriminatorSettings(widths=(1, 1, 1, 1)),
            pretrain_discriminator_steps=0,
        )
        return count_training_flops(settings, 48, 96)

    assert cost(1) / cost(2) == pytest.approx(4, rel=0.05)


def test_discriminator_judges_local_patches() -> None:
    discriminator = Discriminator(DiscriminatorSettings(widths=(16, 16, 16, 16)))
    x = images(1, 1, 64, 64)
    x.requires_grad_(True)
    logits = discriminator(x)
    assert logits.shape == (1, 2, 16, 16)
    logits[0, :, 8, 8].sum().backward()
    assert x.grad is not None
    reached = x.grad[0, 0].nonzero()
    assert (reached.max(0).values - reached.min(0).values).max() < 31
    last = discriminator.layers[-1]
    assert isinstance(last, torch.nn.Conv2d)
    assert last.bias is not None
    torch.nn.init.constant_(last.bias, -10)
    assert (discriminator(x) < 0).all()  # no ReLU on the logits
    assert discriminator(images(1, 1, 1, 1)).shape == (1, 2, 1, 1)


def test_spectral_norm_bounds_the_discriminator() -> None:
    """However large the weights: what it says of two images differs by a fixed measure at most."""

    def spread(spectral_norm: bool) -> float:
        torch.manual_seed(1)
        discriminator = Discriminator(
            DiscriminatorSettings(widths=(16, 16, 16, 16), spectral_norm=spectral_norm)
        )
        with torch.no_grad():
            for name, parameter in discriminator.named_parameters():
                if "bias" not in name:
                    parameter.mul_(100)
            for _ in range(20):  # each call estimates the largest stretch better
                discriminator(images(1, 1, 32, 32))
            apart = discriminator(images(1, 1, 32, 32)) - discriminator(-images(1, 1, 32, 32))
        return float(apart.abs().max())

    assert spread(False) > 1e4
    assert spread(True) < 100


def test_a_second_scale_judges_patches_of_twice_the_size() -> None:
    discriminator = Discriminator(DiscriminatorSettings(widths=(16, 16, 16, 16), scales=2))
    x = images(1, 1, 128, 128)
    x.requires_grad_(True)
    logits = discriminator(x)
    assert logits.shape == (1, 2, 64, 32)  # 32 rows of either scale

    def extent(row: int) -> int:
        (gradient,) = torch.autograd.grad(logits[0, :, row, 16].sum(), x, retain_graph=True)
        reached = gradient[0, 0].nonzero()
        return int((reached.max(0).values - reached.min(0).values).max())

    assert extent(16) < 31 < extent(32 + 16) < 62
    assert torch.equal(logits[0, :, 32], logits[0, :, 33])  # the coarser ones are repeated
    assert discriminator(images(1, 1, 5, 7)).shape == (1, 2, 4, 2)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 3, 8, 8)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    for network in (
        Refiner(RefinerSettings(features=2)),
        Discriminator(DiscriminatorSettings(widths=(2, 2, 2, 2))),
    ):
        with pytest.raises(ShapeError, match=r"expected images of \(B, 1, H, W\)"):
            network(images(*shape))


def test_settings_are_checked() -> None:
    for wrong in ({"features": 0}, {"downscale": 9}, {"colour": 1}):
        with pytest.raises(ValidationError):
            RefinerSettings.model_validate(wrong)
    with pytest.raises(ValidationError):
        DiscriminatorSettings(widths=(96, 64, 0, 32))
    with pytest.raises(ValidationError, match="channels"):
        SimGANSettings(refiner=RefinerSettings(channels=3))
    with pytest.raises(ValidationError, match="history_capacity"):
        SimGANSettings(batch_size=64, history_capacity=63)


def test_refiner_file(tmp_path: Path) -> None:
    refiner = awake(Refiner(RefinerSettings(features=3, blocks=2, downscale=2)))
    path = tmp_path / "refiner.safetensors"
    save_refiner(path, refiner)
    loaded = load_refiner(path)
    assert loaded.settings == refiner.settings
    assert not loaded.training
    assert torch.equal(loaded(images(1, 1, 5, 5)), refiner(images(1, 1, 5, 5)))

    tensors = refiner.state_dict()
    for description in ({"network": "Reader"}, {"network": "Refiner", "settings": {"blocks": -1}}):
        save_weights(path, tensors, description)
        with pytest.raises(RunError, match="expected a refiner"):
            load_refiner(path)


def test_noise_makes_refined_images_random() -> None:
    """An untrained refiner is the identity; a trained one draws something else each time."""
    settings = RefinerSettings(channels=3, features=4, blocks=1, downscale=2, noise=True)
    refiner, images = Refiner(settings), torch.rand(2, 3, 9, 14) * 2 - 1
    torch.testing.assert_close(refiner(images), images)
    nn.init.normal_(refiner.leave.weight)
    first, second = refiner(images), refiner(images)
    assert first.shape == images.shape
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    one = refiner(images)
    torch.manual_seed(5)
    assert torch.equal(refiner(images), one)
