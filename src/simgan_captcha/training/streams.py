"""Endless batches by number: batch n is the same whenever, wherever and from whichever start.

A training that was killed opens its streams at the batch it had come to, and meets the same images.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from simgan_captcha.errors import StoreError
from simgan_captcha.interrupts import end_with_parent, held_back, kept_from_children
from simgan_captcha.types import GreyImages

_REAL = 0
"""First word of the seeds of real batches; synthetic streams are numbered by their user from 1."""

LabelledStream = Callable[[int], Iterator[tuple[Tensor, Tensor]]]
"""``stream(n)``: endless (images (B, 2, H, W) float32 in [-1, 1], class ids (B, L) int64) from
batch number n on; batch k is the same from wherever it is asked for. Of several processes each has
a stream of its own, of its `parallel.share` of the images."""


class CaptchaSimulator(Protocol):
    """What `Simulator`, `OriginalSimulator` and `calibration.scout.PosedSimulator` share."""

    def batch(
        self, generator: np.random.Generator, count: int
    ) -> tuple[GreyImages, npt.NDArray[Any]]:
        """(N, H, W) ``uint8`` images and their targets, (N, L) class ids or (N, L, 5) with pose."""
        ...


def real_batches(
    images: GreyImages,
    batch_size: int,
    seed: int,
    first: int = 0,
    *,
    rank: int = 0,
    processes: int = 1,
) -> Iterator[GreyImages]:
    """Shuffled full batches of unlabelled images, epoch after epoch, without end.

    What is left of an epoch after the last full batch is dropped; the next epoch is shuffled anew.

    Args:
        images: (N, H, W), ``uint8``, in the store's content order.
        batch_size: B, of all processes together.
        seed: Decides the order.
        first: Number of the batch to begin with.
        rank: Of this process, from 0; each has every ``processes``-th image of a batch.
        processes: That share the images; B divides by it.

    Raises:
        StoreError: Fewer images than one batch.
    """
    each_epoch = len(images) // batch_size
    if not each_epoch:
        raise StoreError(
            f"expected at least one batch of {batch_size} images, got {len(images)}; "
            "download more captchas or set a smaller batch_size"
        )
    number = first
    while True:
        epoch, within = divmod(number, each_epoch)
        order = np.random.default_rng([_REAL, seed, epoch]).permutation(len(images))
        for start in range(within * batch_size, each_epoch * batch_size, batch_size):
            yield images[order[start + rank : start + batch_size : processes]]
        number = (epoch + 1) * each_epoch


def synthetic_batches(
    simulator: CaptchaSimulator,
    batch_size: int,
    seed: int,
    *,
    stream: int,
    first: int = 0,
    workers: int = 0,
    rank: int = 0,
    processes: int = 1,
) -> Iterator[tuple[GreyImages, Tensor]]:
    """Labelled batches without end: images (B, H, W) ``uint8`` and class ids (B, L) ``int64``.

    Args:
        simulator: Draws them.
        batch_size: B, of this process.
        seed: With ``stream`` and its number decides a batch, in any number of workers.
        stream: From 1; batches of different streams share nothing.
        first: Number of the batch to begin with.
        workers: Processes that draw ahead; 0 draws in this one.
        rank: Of this process, from 0; each has every ``processes``-th batch.
        processes: That share the stream.
    """
    loader: DataLoader[Any] = DataLoader(
        _SyntheticBatches(simulator, batch_size, (stream, seed)),
        batch_size=None,
        sampler=_Every(processes, first * processes + rank),
        num_workers=workers,
        # A fork of a process that runs torch's threads can hang.
        multiprocessing_context="forkserver" if workers else None,
        worker_init_fn=_start_worker if workers else None,
        prefetch_factor=4 if workers else None,
    )
    # Workers that are interrupted while they start leave noise, or are waited for in vain: the
    # first batch shows that they run, and from then on this process alone stops them.
    with kept_from_children(signal.SIGTERM) if workers else nullcontext():
        batches = iter(loader)
        images, ids = next(batches)
    try:
        while True:
            yield images.numpy(), ids
            with held_back():
                images, ids = next(batches)
    finally:
        del batches  # stops the workers even where a traceback holds this frame


def _start_worker(_: int) -> None:
    # Torch's own watch looks at the fork server, which lives as long as its workers do.
    end_with_parent()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


class _Every(Sampler[int]):
    def __init__(self, step: int, first: int) -> None:
        self.step, self.first = step, first

    def __iter__(self) -> Iterator[int]:
        number = self.first
        while True:
            yield number
            number += self.step


class _SyntheticBatches(Dataset[tuple[Any, Any]]):
    def __init__(self, simulator: CaptchaSimulator, batch_size: int, seed: tuple[int, int]) -> None:
        self.simulator, self.batch_size, self.seed = simulator, batch_size, seed

    def __getitem__(self, number: int) -> tuple[GreyImages, npt.NDArray[Any]]:
        generator = np.random.default_rng([*self.seed, number])
        return self.simulator.batch(generator, self.batch_size)
