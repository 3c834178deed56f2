"""Endless numbered batches: batch n is the same in every process and from every start.

A resumed training opens its streams at the next batch, and receives the same images.
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from multiprocessing.context import BaseContext
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from simgan_captcha.errors import StoreError
from simgan_captcha.interrupts import block_sigint_in_children, defer_sigint, end_with_parent
from simgan_captcha.types import GreyImages

_REAL = 0
"""First number of the seeds of real batches; the streams of synthetic batches count from 1."""

LabelledStream = Callable[[int], Iterator[tuple[Tensor, Tensor]]]
"""A function ``stream(n)`` that returns endless pairs of images (B, 2, H, W) float32 in [-1, 1] and
class ids (B, L) int64, starting with batch n. Batch k is always the same, for every start n. With
several processes, each has its own stream with its `parallel.share` of the images."""


class CaptchaSimulator(Protocol):
    """Interface of `Simulator`, `OriginalSimulator` and `calibration.bootstrap.PosedSimulator`."""

    def batch(
        self, generator: np.random.Generator, count: int
    ) -> tuple[GreyImages, npt.NDArray[Any]]:
        """Draw images (N, H, W) ``uint8`` and targets: class ids (N, L), or (N, L, 5) with pose."""
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

    Images after the last full batch of an epoch are dropped. Each epoch has a new order.

    Args:
        images: (N, H, W) ``uint8``, in the content order of the store.
        batch_size: B, over all processes.
        seed: Random seed of the order.
        first: Number of the first batch.
        rank: Number of this process, from 0. It receives every ``processes``-th image of a batch.
        processes: Number of processes that share the images; B must be divisible by it.

    Raises:
        StoreError: There are fewer images than one batch.
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
    """Endless labelled batches: images (B, H, W) ``uint8`` and class ids (B, L) ``int64``.

    Args:
        simulator: Source of the images.
        batch_size: B, in this process.
        seed: Random seed. Seed, ``stream`` and number determine a batch, with any number of
            workers.
        stream: Number of the stream, from 1; different streams are independent.
        first: Number of the first batch.
        workers: Number of processes that draw ahead; 0 draws in this one.
        rank: Number of this process, from 0. It receives every ``processes``-th batch.
        processes: Number of processes that share the stream.
    """
    loader: DataLoader[Any] = DataLoader(
        _SyntheticBatches(simulator, batch_size, (stream, seed)),
        batch_size=None,
        sampler=_Every(processes, first * processes + rank),
        num_workers=workers,
        multiprocessing_context=_fork_server(type(simulator).__module__) if workers else None,
        worker_init_fn=_start_worker if workers else None,
        prefetch_factor=4 if workers else None,
    )
    # Workers that are interrupted during their start print tracebacks, or never answer. The first
    # batch shows that they run. From then on, only this process stops them.
    with block_sigint_in_children(signal.SIGTERM) if workers else nullcontext():
        batches = iter(loader)
        images, ids = next(batches)
    try:
        while True:
            yield images.numpy(), ids
            with defer_sigint():
                images, ids = next(batches)
    finally:
        del batches  # stops the workers even if a traceback holds this frame


def _fork_server(module: str) -> BaseContext:
    """The way to start workers. A fork of a process with torch threads can hang.

    The server imports the module of the simulator once, which takes each worker seconds otherwise.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, module])
    return context


def _start_worker(_: int) -> None:
    # Torch only watches the fork server, which lives as long as its workers.
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
