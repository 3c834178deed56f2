"""Simulated + unsupervised learning for any images: SimGAN, arXiv:1612.07828.

Synthetic images go in, images that look like a pile of unlabelled real ones come out, and what the
synthetic ones were labelled with stays true. Images are (B, C, H, W) float32 in [-1, 1].

Only the settings are imported with the package; everything else needs torch and is imported when
it is first used.
"""

from typing import TYPE_CHECKING, Any

from simgan_captcha.simgan.settings import (
    DiscriminatorSettings,
    RefinerSettings,
    SimGANSettings,
)

if TYPE_CHECKING:
    from simgan_captcha.simgan.library import (
        REAL,
        REFINED,
        BatchStream,
        Discriminator,
        ImageHistory,
        Recogniser,
        Refiner,
        SimGANResult,
        consistency_loss,
        count_forward_flops,
        count_training_flops,
        discriminator_has_won,
        load_refiner,
        local_adversarial_loss,
        patch_accuracy,
        refiner_is_identity,
        refining_destroys_labels,
        save_refiner,
        self_regularization_loss,
        sheet_png,
        train_refiner,
    )

__all__ = [
    "REAL",
    "REFINED",
    "BatchStream",
    "Discriminator",
    "DiscriminatorSettings",
    "ImageHistory",
    "Recogniser",
    "Refiner",
    "RefinerSettings",
    "SimGANResult",
    "SimGANSettings",
    "consistency_loss",
    "count_forward_flops",
    "count_training_flops",
    "discriminator_has_won",
    "load_refiner",
    "local_adversarial_loss",
    "patch_accuracy",
    "refiner_is_identity",
    "refining_destroys_labels",
    "save_refiner",
    "self_regularization_loss",
    "sheet_png",
    "train_refiner",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    if name in __all__:
        from simgan_captcha.simgan import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
