import pytest
import torch
from torch import Tensor

from simgan_captcha.simgan import (
    FlowHead,
    Refiner,
    RefinerSettings,
    SimGANSettings,
    displace,
    flow_roughness,
)
from simgan_captcha.simgan.updates import frozen, refiner_loss

SETTINGS = RefinerSettings(features=4, blocks=1, displacement=4.0, channels=2)


@pytest.fixture(autouse=True)
def _same_first_weights() -> None:
    torch.manual_seed(1)


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def constant(x: float, y: float, like: Tensor) -> Tensor:
    return (
        torch.tensor([x, y], dtype=torch.float32)
        .view(1, 2, 1, 1)
        .expand(len(like), 2, *like.shape[2:])
    )


@pytest.mark.parametrize("size", [(16, 16), (7, 13), (1, 1)])
def test_an_untrained_flow_head_moves_nothing(size: tuple[int, int]) -> None:
    x = images(3, 2, *size)
    result = Refiner(SETTINGS).explain(x)
    assert result.flow is not None
    assert result.flow.shape == (3, 2, *size)
    assert not result.flow.any()
    torch.testing.assert_close(result.displaced, x, atol=1e-5, rtol=0)
    torch.testing.assert_close(result.refined, x, atol=1e-5, rtol=0)


def test_whole_vectors_move_pixels_and_the_edge_repeats() -> None:
    x = images(2, 1, 6, 9)
    moved = displace(x, constant(2, -1, x))  # right by two, up by one
    torch.testing.assert_close(moved[:, :, :-1, 2:], x[:, :, 1:, :-2], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        moved[:, :, :-1, :2], x[:, :, 1:, :1].expand(-1, -1, -1, 2), atol=1e-5, rtol=0
    )


def test_vectors_stay_within_the_largest_displacement() -> None:
    head = FlowHead(SETTINGS)
    torch.nn.init.constant_(head.leave.bias, 50.0)  # type: ignore[arg-type]
    assert head(images(1, 2, 12, 12)).abs().max() <= 4.0


def test_the_adversarial_gradient_reaches_the_flow_head() -> None:
    refiner, discriminator = Refiner(SETTINGS), torch.nn.Conv2d(2, 2, 3)
    settings = SimGANSettings(regularization=0.0)
    with frozen(discriminator):
        loss, figures = refiner_loss(refiner, discriminator, images(4, 2, 16, 16), settings)
        loss.backward()
    assert refiner.flow is not None
    assert refiner.flow.leave.weight.grad is not None
    assert refiner.flow.leave.weight.grad.any()
    assert figures["displacement"] == figures["roughness"] == 0


def test_regularisation_leaves_displacement_free_and_roughness_costs() -> None:
    refiner, discriminator = Refiner(SETTINGS), torch.nn.Conv2d(2, 2, 3)
    assert refiner.flow is not None
    torch.nn.init.constant_(refiner.flow.leave.bias, 0.5)  # type: ignore[arg-type]
    x = images(4, 2, 16, 16)
    one, figures = refiner_loss(refiner, discriminator, x, SimGANSettings(regularization=0.0))
    other, _ = refiner_loss(refiner, discriminator, x, SimGANSettings(regularization=9.0))
    assert figures["change"] > 0.1
    assert figures["displacement"] > 1
    torch.testing.assert_close(one, other)

    torch.nn.init.normal_(refiner.flow.leave.weight)
    free, figures = refiner_loss(refiner, discriminator, x, SimGANSettings(flow_smoothness=0.0))
    dear, _ = refiner_loss(refiner, discriminator, x, SimGANSettings(flow_smoothness=2.0))
    torch.testing.assert_close(dear, free + 2 * figures["roughness"])


def test_roughness_is_the_difference_of_neighbours() -> None:
    flow = torch.zeros(1, 2, 3, 3)
    flow[:, 0] = torch.tensor([0.0, 1.0, 2.0])
    assert flow_roughness(flow).item() == pytest.approx(0.5)  # 1 across in one of two components
    assert flow_roughness(constant(3, 3, flow)) == 0


def squares(seed: int) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    x = -torch.ones(16, 1, 16, 16)
    for image in x:
        left, top = torch.randint(2, 7, (2,), generator=draws).tolist()
        image[:, top : top + 6, left : left + 6] = 1
    return x


def test_it_learns_a_shift_of_two_pixels() -> None:
    head = FlowHead(RefinerSettings(displacement=4.0))
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)

    def misfit(seed: int) -> Tensor:
        x = squares(seed)
        return (displace(x, head(x)) - x.roll(2, 3)).abs().mean()

    before = misfit(999).item()
    for seed in range(40):
        loss = misfit(seed)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert misfit(999).item() < 0.25 * before
