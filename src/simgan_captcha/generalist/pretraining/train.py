"""Trains the generalist on synthetic images; goes on exactly where it stopped.

    python -m simgan_captcha.generalist.pretraining FOLDER

The folder holds the training's state, a log of one JSON object a line, and the weights that read
most texts in fonts of the held-out families. No real image is used, neither to learn nor to choose.
The training uses a GPU where there is one. ``--minutes`` then ends it at a fixed time.
"""

import argparse
import copy
import json
import math
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from simgan_captcha.generalist.network import Generalist, count_forward_flops, in_halves
from simgan_captcha.generalist.pretraining.examples import Examples, batches, draw_pool
from simgan_captcha.generalist.pretraining.objective import (
    WEIGHTS,
    Batch,
    accuracy,
    as_tensors,
    loss_of,
)
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
    """How often a pool is learned from, because drawing is slow. Between two uses, the training
    learns from other pools."""
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
    # Later cycles start from less: they refine.
    highest = settings.learning_rate * (1.0 if begin == 0 else 0.5)
    return highest * _fallen((step - begin) / length) * min(1.0, (step + 1) / settings.warm_up)


def _fallen(share: float) -> float:
    """Factor of the learning rate at a share of a cycle: a cosine from 1 to a fiftieth."""
    low = 0.02
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def timed_learning_rate(settings: PretrainingSettings, step: int, share: float) -> float:
    """The rate of one cycle that lasts for a fixed time, ``share`` of which has passed.

    The warm-up counts from the first step of the cycle, which is ``step`` 0.
    """
    return settings.learning_rate * _fallen(share) * min(1.0, (step + 1) / settings.warm_up)


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
    return [
        examples._replace(images=examples.images.astype(np.float16))
        for examples in batches(pool, s.batch_size, np.random.default_rng((s.seed, number)))
    ]


def _varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, 4, 40, W) that are used again, with other colours and more noise."""
    B, device = len(images), images.device
    signs = torch.randint(0, 2, (B, 4, 1, 1), generator=generator, device=device) * 2 - 1
    signs[:, 0] = 1  # the first channel is a distance and has no sign
    noise = torch.empty_like(images).normal_(generator=generator)
    strength = torch.rand((B, 1, 1, 1), generator=generator, device=device) * 0.12
    return images * signs + noise * strength


def held_out_examples(settings: PretrainingSettings, catalogue: Path = CATALOGUE) -> list[Examples]:
    """Images in fonts of families that are never learned from."""
    shelf = FontShelf(catalogue, "held-out")
    pool = draw_pool(
        shelf, 10**9 + 7, 0, families=settings.held_out_families, images=8, difficulty=1.0
    )
    # Batches of 8 hold every image, however large the training's batches are.
    return list(batches(pool, 8, np.random.default_rng(0)))


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
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = Generalist()
        self.network.to(  # type: ignore[call-overload]
            self.device, memory_format=torch.channels_last
        )
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

    def learn(self, pools: Sequence[list[Batch]], rate: Callable[[int], float]) -> None:
        """One step for each batch of the latest pools, in random order.

        Args:
            pools: At most `PretrainingSettings.uses` of them, the new one last.
            rate: Learning rate at a step.
        """
        number = int(self.numbers["pool"])
        every = [(pool is pools[-1], batch) for pool in pools for batch in pool]
        order = np.random.default_rng((self.settings.seed, number, 1)).permutation(len(every))
        generator = torch.Generator(self.device).manual_seed(number)
        for at in order:
            new, batch = every[at]
            images = batch["images"].float()
            images = images if new else _varied(images, generator)
            self.step({**batch, "images": images}, rate(int(self.numbers["step"])))
        self.numbers["pool"] += 1

    def step(self, batch: Batch, rate: float) -> None:
        """One step on a batch."""
        numbers = self.numbers
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            output = self.network(batch["images"].contiguous(memory_format=torch.channels_last))
        parts = loss_of(output, batch)
        total = sum(
            (WEIGHTS[name] * part for name, part in parts.items()),
            torch.zeros((), device=self.device),
        )
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        B, _, _, W = batch["images"].shape
        numbers["step"] += 1
        update_average(self.average, self.network, self.settings.average, int(numbers["step"]))
        numbers["tflop"] += B * W * self.flops_a_column / 1e12
        for name, part in parts.items():
            value = float(part.detach())
            self.losses[name] = 0.98 * self.losses.get(name, value) + 0.02 * value

    def keep(self, known: list[Batch], **also: float) -> None:
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
    seconds: float | None = None,
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
        seconds: If given, the training ends after this time, and the learning rate falls in one
            cycle over it.
        workers: Processes that draw.
        bf16: Whether convolutions compute in bfloat16.
        every: Steps between two measurements, after which the training may be killed.
        catalogue: Fonts, see `catalogue`.

    Raises:
        ConfigError: A listed font is not installed.
        RunError: The state is damaged or of another network.
    """
    training = Pretraining(folder, settings, bf16=bf16)
    known = [as_tensors(e, training.device) for e in held_out_examples(settings, catalogue)]
    drawn = _Drawn(settings, catalogue, workers)
    began, first = time.monotonic(), int(training.numbers["step"])

    def passed() -> float:
        return 0.0 if seconds is None else (time.monotonic() - began) / seconds

    def rate(step: int) -> float:
        if seconds is None:
            return learning_rate(settings, step)
        return timed_learning_rate(settings, step - first, passed())

    next_pool = int(training.numbers["pool"])
    # Pools before the next one complete the window in which they are used again.
    start = max(0, next_pool - settings.uses + 1)
    window: deque[list[Batch]] = deque(maxlen=settings.uses)
    try:
        for number, pool in enumerate(drawn.pools(start), start):
            window.append([as_tensors(examples, training.device) for examples in pool])
            if number < next_pool:
                continue
            before = training.numbers["step"]
            if before >= steps:
                break
            training.learn(window, rate)
            step = training.numbers["step"]
            ended = step >= steps or passed() >= 1
            if step // every != before // every or ended:
                took = (time.monotonic() - began) / (step - first)
                training.keep(known, seconds_a_step=took)
            if ended:
                break
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
    parser.add_argument(
        "--minutes", type=float, help="end after so long, in one cycle of the learning rate"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    parser.add_argument("--precision", choices=["bf16", "32"], default="bf16")
    sizes = ("batch_size", "families", "uses", "learning_rate")
    for size in sizes:
        default = getattr(PretrainingSettings(), size)
        parser.add_argument(f"--{size.replace('_', '-')}", type=type(default), default=default)
    options = parser.parse_args()
    pretrain(
        options.folder,
        PretrainingSettings(**{size: getattr(options, size) for size in sizes}),
        steps=options.steps,
        seconds=None if options.minutes is None else 60 * options.minutes,
        workers=options.workers,
        bf16=options.precision == "bf16",
    )
