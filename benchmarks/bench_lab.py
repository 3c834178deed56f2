"""Streams of synthetic and real captchas, for benchmarks that train without a run.

Shapes: B batch, H and W pixels, L characters, K classes.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from record import RESULTS
from torch import Tensor, nn

from simgan_captcha.data.background import Background
from simgan_captcha.pipeline.manifest import Stopwatch
from simgan_captcha.pipeline.stages.training import ink_recognizer, label_agreement
from simgan_captcha.recognizer.train import seeded_dropout
from simgan_captcha.scheme import Scheme
from simgan_captcha.simgan import (
    BatchStream,
    Features,
    Refiner,
    SimGANResult,
    SimGANSettings,
    train_refiner,
)
from simgan_captcha.training.streams import CaptchaSimulator, real_batches, synthetic_batches
from simgan_captcha.types import GreyImages

REFINE, READ, ADAPT, FRESH, MEASURE = range(11, 16)
"""Numbers of the synthetic streams. No two trainings see the same images."""


@dataclass(frozen=True)
class Lab:
    """What all trainings of one seed share. It holds no label of a real image."""

    scheme: Scheme
    background: Background
    simulator: CaptchaSimulator
    images: GreyImages
    """The real images, (N, H, W)."""
    seed: int
    workers: int = 0
    """The number of processes that draw in advance."""

    def synthetic(
        self, stream: int, size: int, first: int = 0, refiner: Refiner | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Labelled batches for readers, (B, 2, H, W) and (B, L), refined or raw."""
        batches = synthetic_batches(
            self.simulator, size, self.seed, stream=stream, first=first, workers=self.workers
        )
        for number, (images, ids) in enumerate(batches, first):
            normalised = torch.from_numpy(self.background.normalise(images))
            if refiner is not None:
                with seeded_dropout(self.seed, number):  # for the noise
                    normalised = refined(normalised, refiner)
            yield normalised, ids

    def real(self, size: int, first: int = 0) -> Iterator[Tensor]:
        """Unlabelled batches of real images for readers, (B, 2, H, W)."""
        for images in real_batches(self.images, size, self.seed, first):
            yield torch.from_numpy(self.background.normalise(images))

    def synthetic_ink(self, stream: int, size: int) -> BatchStream:
        """Batches of synthetic images for refiners, (B, 1, H, W)."""
        return lambda first: (images[:, :1] for images, _ in self.synthetic(stream, size, first))

    def real_ink(self, size: int) -> BatchStream:
        """Unlabelled batches of real images for refiners, (B, 1, H, W)."""
        return lambda first: (images[:, :1] for images in self.real(size, first))

    def refine(
        self,
        settings: SimGANSettings,
        folder: Path,
        reader: nn.Module | None = None,
        features: Features | None = None,
    ) -> tuple[SimGANResult, float]:
        """Train a refiner of ink, or continue its training. Return it and the total seconds.

        ``reader`` checks the texts, and ``features`` gives the maps for ``settings.features``.
        """
        size, fabric, stopwatch = settings.batch_size, alone(), Stopwatch(folder)
        recognizer = None
        if reader is not None:
            reader = copy.deepcopy(reader).eval()
            recognizer = ink_recognizer(reader, self.background, self.images, fabric.device)
        result = train_refiner(
            synthetic=self.synthetic_ink(REFINE, size),
            real=self.real_ink(size),
            folder=folder,
            fabric=fabric,
            seed=self.seed,
            settings=settings,
            on_step=ticking(stopwatch, folder.parent.name + " refiner"),
            warn=print,
            label_agreement=None if recognizer is None else partial(label_agreement, recognizer),
            recognizer=recognizer,
            features=features,
        )
        return result, stopwatch.seconds()


def parser(description: str | None) -> argparse.ArgumentParser:
    """The argument parser of a benchmark that trains a network for each row."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument(
        "work", type=Path, help="folder for the trainings; interrupted ones continue"
    )
    found.add_argument("--challenges", type=Path, required=True, help="folder of batch files")
    found.add_argument("--user", default="rickyhan")
    found.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    found.add_argument("--test", type=int, default=5_000, help="images to judge on")
    found.add_argument("--threads", type=int, default=2)
    found.add_argument("--out", type=Path, default=RESULTS)
    return found


def keep_out_of_results(out: Path) -> None:
    """Exit if a trial would write to the folder of full runs."""
    if out == RESULTS:
        sys.exit(
            "expected --out with --tiny, because its figures mean nothing; give another folder"
        )


@torch.no_grad()
def refined(images: Tensor, refiner: Refiner) -> Tensor:
    """Refine the ink of images (B, 2, H, W). The result is on the CPU."""
    device = next(refiner.parameters()).device
    return torch.cat([refiner(images[:, :1].to(device)).cpu(), images[:, 1:]], 1)


def alone() -> Fabric:
    """A Fabric with one process, on an accelerator if there is one."""
    return Fabric(accelerator="auto", devices=1)


def ticking(stopwatch: Stopwatch, name: str) -> Callable[[int, int, dict[str, float]], None]:
    """An ``on_step`` callback that saves the time and prints the progress of a training."""

    def on_step(step: int, total: int, figures: dict[str, Any]) -> None:
        stopwatch.tick()
        if step % 100 == 0 or step == total:
            said = ", ".join(f"{key} {value:.3g}" for key, value in figures.items())
            print(f"{name}: {step} of {total}, {said}", flush=True)

    return on_step
