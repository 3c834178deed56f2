"""The losses of one update of each network, and their floating-point operations."""

from collections.abc import Callable, Iterator, Sequence
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
from simgan_captcha.simgan.networks import (
    REAL,
    REFINED,
    Discriminator,
    FeatureDiscriminator,
    Refiner,
)
from simgan_captcha.simgan.settings import RefinerSettings, SimGANSettings
from simgan_captcha.training.parallel import gather

Figures = dict[str, Tensor]

Recognizer = Callable[[Tensor], Tensor]
"""A function from images (B, C, H, W) to logits (..., K) on the same device."""


Features = Callable[[Tensor], Sequence[Tensor]]
"""A function from images (B, C, H, W) to feature maps (B, c, h, w) of a fixed network, which passes
gradients to the images."""


@dataclass(frozen=True)
class FeatureJudge:
    """A discriminator of the feature maps of images."""

    features: Features
    discriminator: FeatureDiscriminator

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Compute logits (B, 2, h, w) for each feature map of images."""
        logits: list[Tensor] = self.discriminator(self.features(images))
        return logits


@dataclass(frozen=True)
class Extras:
    """Further inputs of the losses, which some settings need."""

    recognizer: Recognizer | None = None
    """Recognizer for ``consistency``."""
    sampler: PatchSampler | None = None
    """Patch sampler for ``contrastive``."""
    judge: FeatureJudge | None = None
    """Discriminator for ``features``."""
    augment: DiffAugment | None = None
    """Augmentation of all images that the discriminator sees."""
    generator: torch.Generator = field(default_factory=torch.Generator)
    """Random generator of the patches for ``contrastive``."""

    def shown(self, images: Tensor) -> Tensor:
        """Images as the discriminator sees them, augmented if there is an augmentation."""
        return images if self.augment is None else self.augment(images)


NO_EXTRAS = Extras()


def refiner_pretraining_loss(refiner: nn.Module, synthetic: Tensor) -> tuple[Tensor, Figures]:
    """Self-regularization alone, with which the refiner first learns the identity."""
    change = self_regularization_loss(refiner(synthetic), synthetic)
    return change, {"change": change}


def refiner_loss(
    refiner: Refiner,
    discriminator: nn.Module,
    synthetic: Tensor,
    settings: SimGANSettings,
    extras: Extras = NO_EXTRAS,
) -> tuple[Tensor, Figures]:
    """Equation 4 of SimGAN: the adversarial loss of the refiner plus self-regularization.

    ``settings.consistency`` adds `consistency_loss`, and ``settings.contrastive`` adds
    `contrastive_loss`, and ``settings.features`` the adversarial loss of feature maps. A flow field
    adds `flow_roughness`.
    """
    refined, displaced, flow = refiner.explain(synthetic)
    shown = extras.shown(refined)
    adversarial = _deception(discriminator(shown), settings)
    regularization = self_regularization_loss(refined, displaced)
    loss = adversarial + settings.regularization * regularization
    figures = {"adversarial_loss": adversarial, "change": regularization}
    if settings.features and extras.judge is not None:
        deceptions = [_deception(logits, settings) for logits in extras.judge(shown)]
        of_features = torch.stack(deceptions).mean()
        loss = loss + settings.features * of_features
        figures["feature_loss"] = of_features
    if flow is not None:
        roughness = flow_roughness(flow)
        loss = loss + settings.flow_smoothness * roughness
        # The figure is the total change, which includes the displacement.
        figures["change"] = self_regularization_loss(refined, synthetic)
        figures |= {"displacement": flow.norm(dim=1).mean(), "roughness": roughness}
    if settings.contrastive and extras.sampler is not None:
        contrast = _contrast(refiner, synthetic, refined, extras.sampler, extras.generator)
        loss = loss + settings.contrastive * contrast
        figures["contrast"] = contrast
    if settings.consistency and extras.recognizer is not None:
        with torch.no_grad():
            before = extras.recognizer(synthetic)
        misread = consistency_loss(extras.recognizer(refined), before)
        loss = loss + settings.consistency * misread
        figures["misread"] = misread
    return loss, {"refiner_loss": loss, **figures}


def _deception(logits: Tensor, settings: SimGANSettings) -> Tensor:
    """The refiner's adversarial loss for the logits of refined images."""
    if settings.adversarial == "hinge":
        return hinge_refiner_loss(logits)
    return local_adversarial_loss(logits, REAL)


def _judgement(on_refined: Tensor, on_real: Tensor, settings: SimGANSettings) -> Tensor:
    """The discriminator's loss for the logits of refined and of real images."""
    judge = hinge_loss if settings.adversarial == "hinge" else local_adversarial_loss
    return (judge(on_refined, REFINED) + judge(on_real, REAL)) / 2


def _contrast(
    refiner: Refiner,
    synthetic: Tensor,
    refined: Tensor,
    sampler: PatchSampler,
    generator: torch.Generator,
) -> Tensor:
    """`contrastive_loss` of refined images, on features of the refiner itself as in CUT."""
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
    """Half of equation 2 of SimGAN, or half of the hinge loss.

    The factor 1/2 makes the loss ln 2 if both classes are equally likely.

    Half of the refined images come from the history, once it has enough images. The new half is
    added to the history afterwards. Only this half of the synthetic images is refined.

    With several processes, each has the whole history, and takes its share of the drawn images.

    Args:
        refiner: The refiner, which receives no gradient.
        discriminator: The discriminator to train.
        images: Synthetic and real images, (B, C, H, W) each.
        history: History of refined images, (C, H, W) each.
        settings: Kind of loss, and weight of `r1_penalty`.
        extras: Augmentation of the images.
        fabric: Fabric of all processes; None for a single process without Fabric.
    """
    synthetic, real = images
    processes, rank = (fabric.world_size, fabric.global_rank) if fabric else (1, 0)
    past = min(len(history) // processes, len(synthetic) // 2)
    with torch.no_grad():
        fresh: Tensor = refiner(synthetic[past:])
    refined = torch.cat([fresh, history.draw(past * processes)[rank::processes]]) if past else fresh
    history.add(gather(fabric, fresh) if fabric else fresh)
    real = extras.shown(real)
    refined = extras.shown(refined)
    on_refined, on_real = discriminator(refined), discriminator(real)
    loss = _judgement(on_refined, on_real, settings)
    accuracy = (patch_accuracy(on_refined, REFINED) + patch_accuracy(on_real, REAL)) / 2
    figures = {"discriminator_loss": loss, "discriminator_accuracy": accuracy}
    if settings.features and extras.judge is not None:
        pairs = zip(extras.judge(refined), extras.judge(real), strict=True)
        of_features = torch.stack([_judgement(*pair, settings) for pair in pairs]).mean()
        loss = loss + of_features
        figures["feature_discriminator_loss"] = of_features
    if settings.r1:
        # In mixed precision, Fabric's wrapper allows one backward pass. This is a second one.
        penalty = r1_penalty(getattr(discriminator, "module", discriminator), real)
        loss = loss + settings.r1 * penalty
        figures["gradient_penalty"] = penalty
    return loss, figures


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Compute no gradients for the weights of a module, only for its input."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def patch_sampler(settings: SimGANSettings) -> PatchSampler | None:
    """Patch sampler for ``contrastive``; None if the weight is 0."""
    if not settings.contrastive:
        return None
    return PatchSampler(settings.refiner.features, settings.refiner.blocks + 1)


def count_forward_flops(settings: RefinerSettings, height: int, width: int) -> int:
    """Number of floating-point operations to refine one image; a multiply-add is two."""
    with torch.device("meta"):
        refiner, image = Refiner(settings), torch.empty(1, settings.channels, height, width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        refiner(image)
    return int(counter.get_total_flops())


def count_training_flops(settings: SimGANSettings, height: int, width: int) -> int:
    """Number of floating-point operations of a whole training, which is the same on any machine.

    The function counts one update of each kind, forward and backward, on tensors without storage.
    It multiplies each count by the number of such updates. A multiply-add is two operations. The
    operations of a recognizer, and of discriminators of feature maps, are not included.
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
