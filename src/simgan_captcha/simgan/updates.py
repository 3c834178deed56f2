"""What one update of each network computes, and what it costs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from simgan_captcha.simgan.history import ImageHistory
from simgan_captcha.simgan.losses import (
    consistency_loss,
    local_adversarial_loss,
    patch_accuracy,
    self_regularization_loss,
)
from simgan_captcha.simgan.networks import REAL, REFINED, Discriminator, Refiner
from simgan_captcha.simgan.settings import RefinerSettings, SimGANSettings
from simgan_captcha.training.parallel import gather

Figures = dict[str, Tensor]

Recogniser = Callable[[Tensor], Tensor]
"""``recogniser(images)``: logits (..., K) of images (B, C, H, W), on their device."""


def refiner_pretraining_loss(refiner: nn.Module, synthetic: Tensor) -> tuple[Tensor, Figures]:
    """Self-regularisation alone: learn the identity first."""
    change = self_regularization_loss(refiner(synthetic), synthetic)
    return change, {"change": change}


def refiner_loss(
    refiner: nn.Module,
    discriminator: nn.Module,
    synthetic: Tensor,
    settings: SimGANSettings,
    recogniser: Recogniser | None = None,
) -> tuple[Tensor, Figures]:
    """Equation 4 of SimGAN: look real to every patch, and change little.

    With ``settings.consistency``, also: be read as before.
    """
    refined = refiner(synthetic)
    change = self_regularization_loss(refined, synthetic)
    adversarial = local_adversarial_loss(discriminator(refined), REAL)
    loss = adversarial + settings.regularization * change
    figures = {"adversarial_loss": adversarial, "change": change}
    if settings.consistency and recogniser is not None:
        with torch.no_grad():
            before = recogniser(synthetic)
        misread = consistency_loss(recogniser(refined), before)
        loss = loss + settings.consistency * misread
        figures["misread"] = misread
    return loss, {"refiner_loss": loss, **figures}


def discriminator_loss(
    refiner: nn.Module,
    discriminator: nn.Module,
    synthetic: Tensor,
    real: Tensor,
    history: ImageHistory,
    fabric: Fabric | None = None,
) -> tuple[Tensor, Figures]:
    """Equation 2 of SimGAN, halved, so that undecided is ln 2.

    Half of the refined images come from the history, as soon as it holds as many; the fresh ones go
    into it afterwards. Only those are refined: the other half of ``synthetic`` is not needed.

    Of several processes, which ``fabric`` joins, each has the whole history and takes its share of
    what is drawn.
    """
    processes, rank = (fabric.world_size, fabric.global_rank) if fabric else (1, 0)
    past = min(len(history) // processes, len(synthetic) // 2)
    with torch.no_grad():
        fresh: Tensor = refiner(synthetic[past:])
    refined = torch.cat([fresh, history.draw(past * processes)[rank::processes]]) if past else fresh
    history.add(gather(fabric, fresh) if fabric else fresh)
    on_refined, on_real = discriminator(refined), discriminator(real)
    loss = (local_adversarial_loss(on_refined, REFINED) + local_adversarial_loss(on_real, REAL)) / 2
    accuracy = (patch_accuracy(on_refined, REFINED) + patch_accuracy(on_real, REAL)) / 2
    return loss, {"discriminator_loss": loss, "discriminator_accuracy": accuracy}


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Gradients pass through the module to its input, none are computed for its weights."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def count_forward_flops(settings: RefinerSettings, height: int, width: int) -> int:
    """Floating-point operations of refining one image; a multiply-add is two."""
    with torch.device("meta"):
        refiner, image = Refiner(settings), torch.empty(1, settings.channels, height, width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        refiner(image)
    return int(counter.get_total_flops())


def count_training_flops(settings: SimGANSettings, height: int, width: int) -> int:
    """Floating-point operations of a whole training on images of one size, on any machine.

    Counts one update of each kind, forward and backward, on tensors without storage, times how
    often it is made; a multiply-add is two operations. What a recogniser costs is not in it.
    """
    with torch.device("meta"):
        refiner, discriminator = Refiner(settings.refiner), Discriminator(settings.discriminator)
        images = torch.empty(settings.batch_size, settings.refiner.channels, height, width)
    history = ImageHistory(settings.batch_size, torch.Generator())
    history.add(images)

    def flops(loss: Callable[[], tuple[Tensor, Figures]]) -> int:
        with FlopCounterMode(display=False) as counter:
            loss()[0].backward()
        return int(counter.get_total_flops())

    pretraining = flops(lambda: refiner_pretraining_loss(refiner, images))
    with frozen(discriminator):
        refining = flops(lambda: refiner_loss(refiner, discriminator, images, settings))
    judging = flops(lambda: discriminator_loss(refiner, discriminator, images, images, history))
    return (
        settings.pretrain_refiner_steps * pretraining
        + settings.pretrain_discriminator_steps * judging
        + settings.steps * settings.refiner_updates * refining
        + settings.steps * settings.discriminator_updates * judging
    )
