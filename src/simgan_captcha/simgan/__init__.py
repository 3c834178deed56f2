"""Simulated + unsupervised learning for any images: SimGAN, arXiv:1612.07828.

`train` learns from synthetic images and unlabelled real images. It returns a refiner, which makes
synthetic images look real and preserves their labels::

    from simgan_captcha import simgan

    refiner = simgan.train(synthetic, real)
    refined = refiner(images)

`train` accepts images in many forms, see `to_stream`. Everything else works on (B, C, H, W) float32
in [-1, 1]. Importing this package or its `settings` does not import torch. The first use of any
other name does.
"""

from typing import TYPE_CHECKING, Any

from simgan_captcha.simgan.settings import (
    DiscriminatorSettings,
    RefinerSettings,
    SimGANSettings,
)

if TYPE_CHECKING:
    from simgan_captcha.simgan.alarms import (
        discriminator_has_won,
        refiner_is_identity,
        refining_destroys_labels,
    )
    from simgan_captcha.simgan.api import SimGANResult, train, train_refiner
    from simgan_captcha.simgan.augmentation import DiffAugment
    from simgan_captcha.simgan.batches import BatchStream, Images, to_stream
    from simgan_captcha.simgan.contrastive import PatchSampler, contrastive_loss, patch_nce_loss
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
        FlowHead,
        Refinement,
        Refiner,
        displace,
        load_refiner,
        save_refiner,
    )
    from simgan_captcha.simgan.sheet import sheet_png
    from simgan_captcha.simgan.updates import (
        Features,
        Recognizer,
        count_forward_flops,
        count_training_flops,
    )

__all__ = [
    "REAL",
    "REFINED",
    "BatchStream",
    "DiffAugment",
    "Discriminator",
    "DiscriminatorSettings",
    "FeatureDiscriminator",
    "Features",
    "FlowHead",
    "ImageHistory",
    "Images",
    "PatchSampler",
    "Recognizer",
    "Refinement",
    "Refiner",
    "RefinerSettings",
    "SimGANResult",
    "SimGANSettings",
    "consistency_loss",
    "contrastive_loss",
    "count_forward_flops",
    "count_training_flops",
    "discriminator_has_won",
    "displace",
    "flow_roughness",
    "hinge_loss",
    "hinge_refiner_loss",
    "load_refiner",
    "local_adversarial_loss",
    "patch_accuracy",
    "patch_nce_loss",
    "r1_penalty",
    "refiner_is_identity",
    "refining_destroys_labels",
    "save_refiner",
    "self_regularization_loss",
    "sheet_png",
    "to_stream",
    "train",
    "train_refiner",
]


def __getattr__(name: str) -> Any:
    """Import all modules, and return a public name from the first module that defines it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from simgan_captcha.simgan import (
        alarms,
        api,
        augmentation,
        batches,
        contrastive,
        history,
        losses,
        networks,
        sheet,
        updates,
    )

    modules = (alarms, api, augmentation, batches, contrastive, history, losses, networks, sheet)
    return next(vars(module)[name] for module in (*modules, updates) if name in vars(module))
