"""A small reading task of several tests, and a training to kill: run it with its folder.

Images have two of four shapes (upright bar, lying bar, frame, cross), bright on black. Real images
are rotated, dim and noisy.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from simgan_captcha.recognizer.adapt import UnlabelledStream, adapt_recognizer
from simgan_captcha.recognizer.augment import Augmentation
from simgan_captcha.recognizer.network import RecognizerArchitecture, build_recognizer
from simgan_captcha.recognizer.settings import (
    AdaptationSettings,
    RecognizerSettings,
)
from simgan_captcha.recognizer.train import TrainedRecognizer, TrainingSession, train_recognizer
from simgan_captcha.training.streams import LabelledStream
from simgan_captcha.types import OnStep

HEIGHT, WIDTH, LENGTH, CLASSES = 24, 48, 2, 4
ARCHITECTURE = RecognizerArchitecture(HEIGHT, WIDTH, LENGTH, CLASSES, channels=(8, 8, 8, 8, 16))
SETTINGS = RecognizerSettings(
    channels=ARCHITECTURE.channels,
    batch_size=32,
    steps=200,
    learning_rate=1e-2,
    ema_decay=0.9,
    checkpoint_every=20,
)
ADAPTATION = AdaptationSettings(
    steps=150,
    max_steps_factor=1,
    batch_size=32,
    synthetic_batch_size=16,
    learning_rate=3e-3,
    ema_decay=0.95,
    checkpoint_every=20,
)
AUGMENTATION = Augmentation(rotation=4, scale=0.05, shear=0.05, hole=0.1)


def _shapes() -> Tensor:
    """The shapes (K, 9, 9), 0 or 1."""
    shapes = torch.zeros(CLASSES, 9, 9)
    shapes[0, :, 3:6] = 1
    shapes[1, 3:6, :] = 1
    shapes[2] = 1
    shapes[2, 3:6, 3:6] = 0
    shapes[3, :, 3:6] = shapes[3, 3:6, :] = 1
    return shapes


def draw(seed: int, number: int, count: int) -> tuple[Tensor, Tensor]:
    """Draw batch ``number``: images (B, 2, H, W) and class ids (B, L)."""
    draws, shapes = torch.Generator().manual_seed(seed * 1_000_000 + number), _shapes()
    ids = torch.randint(CLASSES, (count, LENGTH), generator=draws)
    places = torch.randint(1, 14, (count, LENGTH, 2), generator=draws).tolist()
    images = -torch.ones(count, 2, HEIGHT, WIDTH)
    for n in range(count):
        for slot in range(LENGTH):
            y, x = places[n][slot]
            x += slot * WIDTH // LENGTH
            images[n, 0, y : y + 9, x : x + 9] = shapes[ids[n, slot]] * 2 - 1
    return images, ids


def make_real(images: Tensor, number: int) -> Tensor:
    """Make images real: each shape is rotated by 15 degrees, dim and noisy."""
    draws = torch.Generator().manual_seed(number)
    halves = torch.cat(images[:, :1].chunk(LENGTH, dim=3))  # squares: rotations have no shear
    turn = torch.tensor([[0.966, -0.259, 0.0], [0.259, 0.966, 0.0]]).expand(len(halves), 2, 3)
    grid = F.affine_grid(turn, list(halves.shape), align_corners=False)
    turned = F.grid_sample(halves + 1, grid, align_corners=False) - 1
    ink = torch.cat(turned.chunk(LENGTH), dim=3) * 0.5 + 0.1
    ink += torch.randn(ink.shape, generator=draws) * 0.1
    return torch.cat([ink.clamp(-1, 1), images[:, 1:]], 1)


def synthetic(seed: int, count: int) -> LabelledStream:
    def stream(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield draw(seed, first, count)
            first += 1

    return stream


def real(first: int) -> Iterator[Tensor]:
    """Real images without ids."""
    while True:
        yield make_real(draw(3, first, ADAPTATION.batch_size)[0], first)
        first += 1


def real_test() -> tuple[Tensor, Tensor]:
    """500 other real images, with ids that no training sees."""
    images, ids = draw(4, 0, 500)
    return make_real(images, 10**6), ids


@torch.no_grad()
def accuracy(reader: nn.Module, images: Tensor, ids: Tensor) -> float:
    """Share of correct characters."""
    return float((reader(images).argmax(-1) == ids).float().mean())


def cpu(precision: str = "32-true") -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision=precision)


def quiet(step: int, total: int, figures: dict[str, float]) -> None:
    pass


def train(
    folder: Path,
    settings: RecognizerSettings = SETTINGS,
    *,
    architecture: RecognizerArchitecture = ARCHITECTURE,
    stream: LabelledStream | None = None,
    seed: int = 1,
    precision: str = "32-true",
    on_step: OnStep = quiet,
    initial: nn.Module | None = None,
) -> TrainedRecognizer:
    return train_recognizer(
        stream or synthetic(1, settings.batch_size),
        architecture,
        settings,
        TrainingSession(folder, cpu(precision), seed, on_step),
        initial=initial,
    )


def adapt(
    reader: nn.Module,
    folder: Path,
    settings: AdaptationSettings = ADAPTATION,
    *,
    real: UnlabelledStream = real,
    known: LabelledStream | None = None,
    seed: int = 1,
    precision: str = "32-true",
    on_step: OnStep = quiet,
) -> TrainedRecognizer:
    return adapt_recognizer(
        reader,
        ARCHITECTURE,
        real,
        known or synthetic(2, settings.synthetic_batch_size),
        settings,
        TrainingSession(folder, cpu(precision), seed, on_step),
        augmentation=AUGMENTATION,
    )


def untrained() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return build_recognizer(ARCHITECTURE).eval()


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks have identical weights."""
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


if __name__ == "__main__":
    torch.set_num_threads(1)

    def say(step: int, total: int, figures: dict[str, float]) -> None:
        print(step, flush=True)

    train(Path(sys.argv[1]), on_step=say)
