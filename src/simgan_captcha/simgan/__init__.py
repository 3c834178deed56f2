"""Simulated + unsupervised learning for any images: SimGAN, arXiv:1612.07828.

Synthetic images go in, images that look like a pile of unlabelled real ones come out, and what the
synthetic ones were labelled with stays true. Images are (B, C, H, W) float32 in [-1, 1].
"""

from simgan_captcha.simgan.alarms import (
    discriminator_has_won,
    refiner_is_identity,
    refining_destroys_labels,
)
from simgan_captcha.simgan.history import ImageHistory
from simgan_captcha.simgan.losses import (
    consistency_loss,
    local_adversarial_loss,
    patch_accuracy,
    self_regularization_loss,
)
from simgan_captcha.simgan.networks import (
    REAL,
    REFINED,
    Discriminator,
    DiscriminatorSettings,
    Refiner,
    RefinerSettings,
    load_refiner,
    save_refiner,
)
from simgan_captcha.simgan.settings import SimGANSettings
from simgan_captcha.simgan.sheet import sheet_png
from simgan_captcha.simgan.training import BatchStream, SimGANResult, train_refiner
from simgan_captcha.simgan.updates import Recogniser, count_forward_flops, count_training_flops

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
