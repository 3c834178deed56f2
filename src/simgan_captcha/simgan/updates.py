"""What one update of each network computes, and what it costs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from simgan_captcha.simgan.augmentation import DiffAugment
from simgan_captcha.simgan.contrastive import PatchSampler, contrastive_loss
from simgan_captcha.simgan.history import ImageHistory
from simgan_captcha.simgan.losses import (
    consistency_loss,
    flow_roughness,
    hinge_loss,
    hinge_refiner_loss,
    local_adversarial_loss,
    patch_accuracy,
    r1_penalty,
    self_regularization_loss,
)
from simgan_captcha.simgan.networks import REAL, REFINED, Discriminator, Refiner
from simgan_captcha.simgan.settings import RefinerSettings, SimGANSettings
from simgan_captcha.training.parallel import gather

Figures = dict[str, Tensor]

Recogniser = Callable[[Tensor], Tensor]
"""``recogniser(images)``: logits (..., K) of images (B, C, H, W), on their device."""


@dataclass(frozen=True)
class Extras:
    """What the losses need besides the two networks, if the settings ask for it."""

    recogniser: Recogniser | None = None
    """What ``consistency`` asks."""
    sampler: PatchSampler | None = None
    """What ``contrastive`` describes patches with."""
    augment: DiffAugment | None = None
    """What changes all images that the discriminator sees."""
    generator: torch.Generator = field(default_factory=torch.Generator)
    """Draws the patches of ``contrastive``."""

    def shown(self, images: Tensor) -> Tensor:
        """Images as the discriminator sees them."""
        return images if self.augment is None else self.augment(images)


NO_EXTRAS = Extras()


def refiner_pretraining_loss(refiner: nn.Module, synthetic: Tensor) -> tuple[Tensor, Figures]:
    """Self-regularisation alone: learn the identity first."""
    change = self_regularization_loss(refiner(synthetic), synthetic)
    return change, {"change": change}


def refiner_loss(
    refiner: Refiner,
    discriminator: nn.Module,
    synthetic: Tensor,
    settings: SimGANSettings,
    extras: Extras = NO_EXTRAS,
) -> tuple[Tensor, Figures]:
    """Equation 4 of SimGAN: look real to every patch, and change little.

    With ``settings.consistency``, also: be read as before. With ``settings.contrastive``: keep
    every patch recognisable. With a flow field: displace smoothly.
    """
    refined, displaced, flow = refiner.explain(synthetic)
    logits = discriminator(extras.shown(refined))
    if settings.adversarial == "hinge":
        adversarial = hinge_refiner_loss(logits)
    else:
        adversarial = local_adversarial_loss(logits, REAL)
    regularization = self_regularization_loss(refined, displaced)
    loss = adversarial + settings.regularization * regularization
    figures = {"adversarial_loss": adversarial, "change": regularization}
    if flow is not None:
        roughness = flow_roughness(flow)
        loss = loss + settings.flow_smoothness * roughness
        # The change in all, of which displacement is a part, says whether anything is done.
        figures["change"] = self_regularization_loss(refined, synthetic)
        figures |= {"displacement": flow.norm(dim=1).mean(), "roughness": roughness}
    if settings.contrastive and extras.sampler is not None:
        contrast = _contrast(refiner, synthetic, refined, extras.sampler, extras.generator)
        loss = loss + settings.contrastive * contrast
        figures["contrast"] = contrast
    if settings.consistency and extras.recogniser is not None:
        with torch.no_grad():
            before = extras.recogniser(synthetic)
        misread = consistency_loss(extras.recogniser(refined), before)
        loss = loss + settings.consistency * misread
        figures["misread"] = misread
    return loss, {"refiner_loss": loss, **figures}


def _contrast(
    refiner: Refiner,
    synthetic: Tensor,
    refined: Tensor,
    sampler: PatchSampler,
    generator: torch.Generator,
) -> Tensor:
    """`contrastive_loss` of refined images, by the refiner's own layers as in CUT."""
    queries = refiner.features(refined)
    with torch.no_grad():
        keys = refiner.features(synthetic)
    places = sampler.draw(queries[0][0, 0].numel(), generator).to(refined.device)
    return contrastive_loss(sampler(queries, places), sampler(keys, places))


def discriminator_loss(
    refiner: nn.Module,
    discriminator: nn.Module,
    images: tuple[Tensor, Tensor],
    history: ImageHistory,
    settings: SimGANSettings,
    *,
    extras: Extras = NO_EXTRAS,
    fabric: Fabric | None = None,
) -> tuple[Tensor, Figures]:
    """Equation 2 of SimGAN, halved, so that undecided is ln 2; or the hinge loss, halved.

    Half of the refined images come from the history, as soon as it holds as many; the fresh ones go
    into it afterwards. Only those are refined: the other half of the synthetic ones is not needed.

    Of several processes, which ``fabric`` joins, each has the whole history and takes its share of
    what is drawn.

    Args:
        refiner: Gets no gradient.
        discriminator: Is trained.
        images: Synthetic and real ones, (B, C, H, W) each.
        history: Of refined images, (C, H, W) each.
        settings: Which loss, and the weight of `r1_penalty`.
        extras: How the discriminator sees images.
        fabric: The processes.
    """
    synthetic, real = images
    processes, rank = (fabric.world_size, fabric.global_rank) if fabric else (1, 0)
    past = min(len(history) // processes, len(synthetic) // 2)
    with torch.no_grad():
        fresh: Tensor = refiner(synthetic[past:])
    refined = torch.cat([fresh, history.draw(past * processes)[rank::processes]]) if past else fresh
    history.add(gather(fabric, fresh) if fabric else fresh)
    real = extras.shown(real)
    on_refined, on_real = discriminator(extras.shown(refined)), discriminator(real)
    judge = hinge_loss if settings.adversarial == "hinge" else local_adversarial_loss
    loss = (judge(on_refined, REFINED) + judge(on_real, REAL)) / 2
    accuracy = (patch_accuracy(on_refined, REFINED) + patch_accuracy(on_real, REAL)) / 2
    figures = {"discriminator_loss": loss, "discriminator_accuracy": accuracy}
    if settings.r1:
        # Fabric's wrapper allows one backward pass of a mixed precision, and this is a second one.
        penalty = r1_penalty(getattr(discriminator, "module", discriminator), real)
        loss = loss + settings.r1 * penalty
        figures["gradient_penalty"] = penalty
    return loss, figures


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Gradients pass through the module to its input, none are computed for its weights."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def patch_sampler(settings: SimGANSettings) -> PatchSampler | None:
    """What ``contrastive`` describes the refiner's layers with; None where it weighs nothing."""
    if not settings.contrastive:
        return None
    return PatchSampler(settings.refiner.features, settings.refiner.blocks + 1)


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
        extras = Extras(sampler=patch_sampler(settings))
    history = ImageHistory(settings.batch_size, torch.Generator())
    history.add(images)

    def flops(loss: Callable[[], tuple[Tensor, Figures]]) -> int:
        with FlopCounterMode(display=False) as counter:
            loss()[0].backward()
        return int(counter.get_total_flops())

    pretraining = flops(lambda: refiner_pretraining_loss(refiner, images))
    with frozen(discriminator):
        refining = flops(lambda: refiner_loss(refiner, discriminator, images, settings, extras))
    judging = flops(
        lambda: discriminator_loss(refiner, discriminator, (images, images), history, settings)
    )
    return (
        settings.pretrain_refiner_steps * pretraining
        + settings.pretrain_discriminator_steps * judging
        + settings.steps * settings.refiner_updates * refining
        + settings.steps * settings.discriminator_updates * judging
    )
