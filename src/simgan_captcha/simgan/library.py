"""The parts of `simgan` that need torch; import them from `simgan_captcha.simgan`."""

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
    Refiner,
    load_refiner,
    save_refiner,
)
from simgan_captcha.simgan.sheet import sheet_png
from simgan_captcha.simgan.training import BatchStream, SimGANResult, train_refiner
from simgan_captcha.simgan.updates import Recogniser, count_forward_flops, count_training_flops

__all__ = [
    "REAL",
    "REFINED",
    "BatchStream",
    "Discriminator",
    "ImageHistory",
    "Recogniser",
    "Refiner",
    "SimGANResult",
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
