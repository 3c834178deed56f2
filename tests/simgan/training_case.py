"""A small training that several tests share, and that one kills: run it with a folder to train in.

Synthetic images are clean bright squares on black; real ones are other such squares, blurred and
brightened.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional as F

from simgan_captcha.simgan import (
    DiscriminatorSettings,
    RefinerSettings,
    SimGANResult,
    SimGANSettings,
    train_refiner,
)

SIZE = 16
SETTINGS = SimGANSettings(
    refiner=RefinerSettings(features=4, blocks=1),
    discriminator=DiscriminatorSettings(widths=(8, 8, 8, 8)),
    batch_size=8,
    steps=30,
    pretrain_refiner_steps=2,
    pretrain_discriminator_steps=3,
    history_capacity=24,
    picture_every=10,
    checkpoint_every=7,
)


def squares(seed: int, number: int) -> Tensor:
    draws = torch.Generator().manual_seed(seed * 1_000_000 + number)
    images = -torch.ones(SETTINGS.batch_size, 1, SIZE, SIZE)
    for image in images:
        x, y = torch.randint(1, 8, (2,), generator=draws).tolist()
        image[:, y : y + 7, x : x + 7] = 1
    return images


def make_real(images: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1) * 0.7 + 0.2


def synthetic(first: int) -> Iterator[Tensor]:
    while True:
        yield squares(1, first)
        first += 1


def real(first: int) -> Iterator[Tensor]:
    while True:
        yield make_real(squares(2, first))
        first += 1


def edge_maps(images: Tensor) -> list[Tensor]:
    """Feature maps of a fixed network: differences of neighbours, at two resolutions."""
    fine = torch.cat([images.diff(dim=2)[:, :, :, 1:], images.diff(dim=3)[:, :, 1:]], 1)
    return [fine, F.avg_pool2d(fine.abs(), 3)]


def train(
    folder: Path,
    settings: SimGANSettings = SETTINGS,
    *,
    seed: int = 1,
    precision: str = "32-true",
    synthetic: Callable[[int], Iterator[Tensor]] = synthetic,
    real: Callable[[int], Iterator[Tensor]] = real,
    label_agreement: Callable[[Tensor, Tensor], float] | None = None,
    recognizer: Callable[[Tensor], Tensor] | None = None,
    features: Callable[[Tensor], list[Tensor]] | None = None,
    on_step: Callable[[int, int, dict[str, float]], None] = lambda step, total, figures: None,
    warn: Callable[[str], None] = lambda sentence: None,
) -> SimGANResult:
    return train_refiner(
        synthetic=synthetic,
        real=real,
        folder=folder,
        fabric=Fabric(accelerator="cpu", devices=1, precision=precision),
        seed=seed,
        settings=settings,
        label_agreement=label_agreement,
        recognizer=recognizer,
        features=features,
        on_step=on_step,
        warn=warn,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), on_step=lambda step, total, figures: print(step, flush=True))
