"""Trains the generalist on synthetic images; goes on exactly where it stopped.

    python -m simgan_captcha.generalist.pretraining FOLDER

The folder holds the training's state, a log of one JSON object a line, and the weights that read
most texts in fonts of the held-out families. No real image is used, neither to learn nor to choose.
"""

import argparse
import copy
import json
import math
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from simgan_captcha.generalist.pretraining.examples import Examples, batches, draw_pool
from simgan_captcha.generalist.features import CHANNELS, HEIGHT
from simgan_captcha.generalist.network import Generalist, count_forward_flops, in_halves
from simgan_captcha.generalist.pretraining.objective import WEIGHTS, accuracy, as_tensors, loss_of
from simgan_captcha.interrupts import end_with_parent
from simgan_captcha.simulator.wide.fonts import CATALOGUE, FontShelf
from simgan_captcha.training.average import update_average
from simgan_captcha.training.checkpoint import (
    load_training_state,
    save_training_state,
    save_weights,
)


_COLUMNS = 128
"""Input columns of the image by which the operations of a column are counted."""


@dataclass(frozen=True)
class PretrainingSettings:
    """What decides a training, the machine apart."""

    seed: int = 1
    batch_size: int = 64
    families: int = 64
    """Families of one pool."""
    images: int = 8
    """Images of each family of a pool."""
    uses: int = 2
    """How often a pool is learned from, as drawing costs a third of a step."""
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warm_up: int = 500
    """Steps."""
    cycles: tuple[int, ...] = (8_000, 6_000)
    """Steps of each cosine cycle; the last one repeats. The training may be ended at the end of any
    cycle, or gone on with (Loshchilov and Hutter 2017)."""
    easy: int = 4_000
    """Steps until families are as difficult as they get."""
    average: float = 0.9995
    """Decay of the weights' moving average, which is what is kept."""
    held_out_families: int = 160
    """Families, of 8 images each, that choose the weights."""

    @property
    def steps_a_pool(self) -> int:
        """Steps that one pool is good for."""
        return self.uses * (self.families * self.images // self.batch_size)


def learning_rate(settings: PretrainingSettings, step: int) -> float:
    """Cosine from the highest rate to a fiftieth of it, in cycles, after a linear warm-up."""
    cycles = chain(settings.cycles, repeat(settings.cycles[-1]))
    length, begin = next(cycles), 0
    while step >= begin + length:
        begin, length = begin + length, next(cycles)
    low = 0.02
    share = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * (step - begin) / length))
    # Later cycles start from less: they refine.
    highest = settings.learning_rate * (1.0 if begin == 0 else 0.5)
    return highest * share * min(1.0, (step + 1) / settings.warm_up)


def difficulty(settings: PretrainingSettings, step: int) -> float:
    """0.2 at the first step, 1 after the easy ones."""
    return min(1.0, 0.2 + 0.8 * step / settings.easy)


class _Drawn:
    """Pools of batches, drawn ahead by other processes."""

    def __init__(self, settings: PretrainingSettings, catalogue: Path, workers: int) -> None:
        self.settings = settings
        context = multiprocessing.get_context("spawn")
        self.executor = ProcessPoolExecutor(workers, context, _prepare, (str(catalogue),))
        self.ahead = workers + 1

    def pools(self, first: int) -> Iterator[list[Examples]]:
        """Pool after pool, for ever, each a pure function of the seed and its number."""
        waiting: list[Future[list[Examples]]] = []
        number = first
        while True:
            while len(waiting) < self.ahead:
                hard = difficulty(self.settings, number * self.settings.steps_a_pool)
                waiting.append(self.executor.submit(_draw, self.settings, number, hard))
                number += 1
            yield waiting.pop(0).result()


_SHELF: list[FontShelf] = []


def _prepare(catalogue: str) -> None:
    end_with_parent()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    _SHELF.append(FontShelf(Path(catalogue), "train"))


def _draw(settings: PretrainingSettings, number: int, hard: float) -> list[Examples]:
    s = settings
    pool = draw_pool(
        _SHELF[0], s.seed, number, families=s.families, images=s.images, difficulty=hard
    )
    generator = np.random.default_rng((s.seed, number))
    made: list[Examples] = []
    for use in range(s.uses):
        for examples in batches(pool, s.batch_size, generator):
            if use:
                _vary(examples, generator)
            made.append(examples._replace(images=examples.images.astype(np.float16)))
    return made


def _vary(examples: Examples, generator: np.random.Generator) -> None:
    """Changes colours of images that are used again, in place."""
    images = examples.images
    B = len(images)
    # The first channel is a distance and has no sign.
    for channel in (slice(1, 2), slice(2, 3), slice(3, 4)):
        signs = np.where(generator.random(B) < 0.5, -1, 1).astype(np.float32)
        images[:, channel] *= signs[:, None, None, None]
    noise = generator.standard_normal(images.shape, np.float32)
    strength = generator.uniform(0, 0.12, B).astype(np.float32)
    images += noise * strength[:, None, None, None]


def held_out_examples(settings: PretrainingSettings, catalogue: Path = CATALOGUE) -> list[Examples]:
    """Images in fonts of families that are never learned from."""
    shelf = FontShelf(catalogue, "held-out")
    pool = draw_pool(
        shelf, 10**9 + 7, 0, families=settings.held_out_families, images=8, difficulty=1.0
    )
    return list(batches(pool, settings.batch_size, np.random.default_rng(0)))


class Pretraining:
    """A training that can stop after any pool and go on in another process."""

    def __init__(self, folder: Path, settings: PretrainingSettings, *, bf16: bool = True) -> None:
        """Build the network, or restore what ``folder/state.safetensors`` holds.

        Args:
            folder: Of the state, the log and the weights.
            settings: As at the first call.
            bf16: Whether convolutions compute in bfloat16; parameters stay float32.

        Raises:
            RunError: The state is damaged or of another network.
        """
        self.folder, self.settings, self.bf16 = folder, settings, bf16
        torch.manual_seed(settings.seed)
        self.network = Generalist()
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            weight_decay=settings.weight_decay,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.flops_a_column = 3 * count_forward_flops(_COLUMNS) / _COLUMNS
        self.numbers = {"step": 0, "pool": 0, "tflop": 0.0, "best": -1.0}
        self.losses: dict[str, float] = {}
        if self._state.is_file():
            _, self.numbers = load_training_state(
                self._state, modules=self._modules, optimizers={"adamw": self.optimizer}
            )
        self.network.train()

    @property
    def _state(self) -> Path:
        return self.folder / "state.safetensors"

    @property
    def _modules(self) -> dict[str, torch.nn.Module]:
        return {"network": self.network, "average": self.average}

    def learn(self, pool: list[Examples]) -> None:
        """One step for each batch of a pool."""
        for examples in pool:
            self.step(examples)
        self.numbers["pool"] += 1

    def step(self, examples: Examples) -> None:
        """One step on a batch."""
        numbers = self.numbers
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, int(numbers["step"]))
        tensors = as_tensors(examples)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            output = self.network(tensors["images"])
        parts = loss_of(output, tensors)
        total = sum((WEIGHTS[name] * part for name, part in parts.items()), torch.zeros(()))
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        B, _, _, W = examples.images.shape
        numbers["step"] += 1
        update_average(self.average, self.network, self.settings.average, int(numbers["step"]))
        numbers["tflop"] += B * W * self.flops_a_column / 1e12
        for name, part in parts.items():
            value = float(part.detach())
            self.losses[name] = 0.98 * self.losses.get(name, value) + 0.02 * value

    def keep(self, known: list[Examples], **also: float) -> None:
        """Measure, log, keep the weights if they are the best so far, and save the state."""
        measured = accuracy(self.average, known)
        line = {
            "step": self.numbers["step"],
            "tflop": round(self.numbers["tflop"], 2),
            **{name: round(value, 4) for name, value in (self.losses | measured | also).items()},
        }
        _log(self.folder, line)
        if measured["texts"] > self.numbers["best"]:
            self.numbers["best"] = measured["texts"]
            description = {"settings": asdict(self.settings), **line}
            weights = in_halves(self.average)
            save_weights(self.folder / "best.safetensors", weights, description)
        save_training_state(
            self._state,
            modules=self._modules,
            optimizers={"adamw": self.optimizer},
            tensors={},
            numbers=self.numbers,
        )


def pretrain(
    folder: Path,
    settings: PretrainingSettings,
    *,
    steps: int,
    workers: int = 1,
    bf16: bool = True,
    every: int = 500,
    catalogue: Path = CATALOGUE,
) -> None:
    """Train up to a number of steps, from wherever the folder's state is.

    Args:
        folder: Made if it is missing.
        settings: As at the first call.
        steps: In all, those of earlier calls included; the last pool is learned from whole.
        workers: Processes that draw.
        bf16: Whether convolutions compute in bfloat16.
        every: Steps between two measurements, after which the training may be killed.
        catalogue: Fonts, see `catalogue`.

    Raises:
        ConfigError: A listed font is not installed.
        RunError: The state is damaged or of another network.
    """
    training = Pretraining(folder, settings, bf16=bf16)
    known = held_out_examples(settings, catalogue)
    drawn = _Drawn(settings, catalogue, workers)
    began, first = time.monotonic(), training.numbers["step"]
    try:
        for pool in drawn.pools(int(training.numbers["pool"])):
            before = training.numbers["step"]
            if before >= steps:
                break
            training.learn(pool)
            step = training.numbers["step"]
            if step // every != before // every or step >= steps:
                took = (time.monotonic() - began) / (step - first)
                training.keep(known, seconds_a_step=took)
    finally:
        drawn.executor.shutdown(cancel_futures=True)


def _log(folder: Path, line: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    print(line, flush=True)


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--steps", type=int, default=56_000, help="in all; a cycle ends at 8 + 6 n thousand"
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--precision", choices=["bf16", "32"], default="bf16")
    options = parser.parse_args()
    pretrain(
        options.folder,
        PretrainingSettings(),
        steps=options.steps,
        workers=options.workers,
        bf16=options.precision == "bf16",
    )
