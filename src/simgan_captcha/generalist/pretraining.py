"""Trains the generalist on synthetic images; goes on exactly where it stopped.

    python -m simgan_captcha.generalist.pretraining FOLDER

The folder holds the training's state, a log of one JSON object a line, and the weights that read
most texts in fonts of the held-out families. No real image is used, neither to learn nor to choose.
"""

import argparse
import json
import math
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode

from simgan_captcha.checkpoint import load_training_state, save_training_state, save_weights
from simgan_captcha.generalist.characters import BLANK, decode
from simgan_captcha.generalist.examples import (
    IGNORED,
    Examples,
    batches,
    draw_pool,
)
from simgan_captcha.generalist.features import CHANNELS, HEIGHT
from simgan_captcha.generalist.fonts import FontShelf
from simgan_captcha.generalist.network import Generalist, GeneralistOutput

CATALOGUE = Path(__file__).parent / "fonts.tsv"
"""Fonts that the generalist learns from and is measured on."""


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
    cycle: int = 10_000
    """Steps of the first cosine cycle; each further one is twice as long, so that the training may
    be ended at any cycle's end or gone on with (Loshchilov and Hutter 2017)."""
    easy: int = 4_000
    """Steps until families are as difficult as they get."""
    average: float = 0.9995
    """Decay of the weights' moving average, which is what is kept."""
    held_out_families: int = 160


def learning_rate(settings: PretrainingSettings, step: int) -> float:
    """Cosine from the highest rate to a fiftieth of it, again and again, after a linear warm-up."""
    length, begin = settings.cycle, 0
    while step >= begin + length:
        begin, length = begin + length, 2 * length
    low = 0.02
    share = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * (step - begin) / length))
    # Later cycles start from less: they refine.
    highest = settings.learning_rate * (1.0 if begin == 0 else 0.7)
    return highest * share * min(1.0, (step + 1) / settings.warm_up)


def difficulty(settings: PretrainingSettings, step: int) -> float:
    """0.2 at the first step, 1 after the easy ones."""
    return min(1.0, 0.2 + 0.8 * step / settings.easy)


def loss_of(output: GeneralistOutput, examples: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parts of the loss, each a mean over what it is about.

    ``text`` is CTC (Graves et al. 2006) per character; ``columns`` is the cross-entropy of the
    columns that hold a middle plus that of those that hold none; ``geometry`` is a smooth L1.
    """
    log_probabilities = output.logits.float().log_softmax(-1)
    B, T, K = log_probabilities.shape
    lengths = examples["lengths"]
    texts = torch.cat([t[:n] for t, n in zip(examples["texts"], lengths, strict=True)])
    ctc = F.ctc_loss(
        log_probabilities.transpose(0, 1),
        texts,
        torch.full((B,), T),
        lengths,
        reduction="none",
        zero_infinity=True,
    )
    columns = examples["columns"]
    each = F.nll_loss(
        log_probabilities.reshape(B * T, K), columns.reshape(-1), ignore_index=IGNORED, reduction="none"
    ).view(B, T)
    held, free = columns > BLANK, columns == BLANK
    geometry = F.smooth_l1_loss(output.geometry.float()[held], examples["geometry"][held], beta=0.2)
    return {
        "text": (ctc / lengths).mean(),
        "columns": each[held].mean() + each[free].mean(),
        "geometry": geometry,
    }


WEIGHTS = {"text": 1.0, "columns": 0.7, "geometry": 0.7}
"""What each part of the loss counts."""


class _Drawn:
    """Pools of batches, drawn ahead by other processes."""

    def __init__(self, settings: PretrainingSettings, workers: int) -> None:
        self.settings = settings
        context = multiprocessing.get_context("spawn")
        self.executor = ProcessPoolExecutor(workers, context, _prepare, (str(CATALOGUE),))
        self.ahead = workers + 1

    def pools(self, first: int, steps_a_pool: int) -> Iterator[list[Examples]]:
        waiting: list[Future[list[Examples]]] = []
        number = first
        while True:
            while len(waiting) < self.ahead:
                hard = difficulty(self.settings, number * steps_a_pool)
                waiting.append(self.executor.submit(_draw, self.settings, number, hard))
                number += 1
            yield waiting.pop(0).result()


_SHELF: list[FontShelf] = []


def _prepare(catalogue: str) -> None:
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


def as_tensors(examples: Examples) -> dict[str, Tensor]:
    """A batch as the loss takes it, images channels-last."""
    tensors = {name: torch.from_numpy(value) for name, value in examples._asdict().items()}
    tensors["images"] = tensors["images"].float().contiguous(memory_format=torch.channels_last)
    return tensors


@torch.no_grad()
def accuracy(network: torch.nn.Module, known: list[Examples]) -> dict[str, float]:
    """Shares of whole texts right, as drawn and with case ignored, by greedy decoding."""
    network.eval()
    right = folded = count = 0
    for examples in known:
        tensors = as_tensors(examples)
        best = network(tensors["images"]).logits.argmax(-1).numpy()
        for row, text, length in zip(best, examples.texts, examples.lengths, strict=True):
            kept = row[np.concatenate([[True], row[1:] != row[:-1]])]
            read, truth = decode(kept), decode(text[:length])
            right += read == truth
            folded += read.casefold() == truth.casefold()
            count += 1
    network.train()
    return {"texts": right / count, "texts_any_case": folded / count}


def held_out_examples(settings: PretrainingSettings) -> list[Examples]:
    """Images in fonts of families that are never learned from."""
    shelf = FontShelf(CATALOGUE, "held-out")
    pool = draw_pool(
        shelf, 10**9 + 7, 0, families=settings.held_out_families, images=8, difficulty=1.0
    )
    return list(batches(pool, settings.batch_size, np.random.default_rng(0)))


def forward_flops(network: Generalist, columns: int = 128) -> float:
    """FLOPs of one forward pass for one input column; a multiply-add is two."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.zeros(1, CHANNELS, HEIGHT, columns))
    return counter.get_total_flops() / columns


def pretrain(
    folder: Path,
    settings: PretrainingSettings,
    *,
    steps: int,
    workers: int = 1,
    bf16: bool = True,
    every: int = 500,
) -> None:
    """Train up to a number of steps.

    Args:
        folder: Of the state, the log and the weights; made if it is missing.
        settings: As at the first call.
        steps: In all, those of earlier calls included.
        workers: Processes that draw.
        bf16: Whether convolutions compute in bfloat16; parameters stay float32.
        every: Steps between two measurements.
    """
    torch.manual_seed(settings.seed)
    network = Generalist().to(memory_format=torch.channels_last)
    average = AveragedModel(
        network, multi_avg_fn=get_ema_multi_avg_fn(settings.average), use_buffers=True
    )
    optimizer = torch.optim.AdamW(
        network.parameters(), weight_decay=settings.weight_decay, betas=(0.9, 0.98), fused=True
    )
    flops_a_column = 3 * forward_flops(network)
    state, numbers = folder / "state.safetensors", {"step": 0, "pool": 0, "tflop": 0.0, "best": -1.0}
    modules = {"network": network, "average": average}
    if state.is_file():
        _, numbers = load_training_state(state, modules=modules, optimizers={"adamw": optimizer})
    known = held_out_examples(settings)
    network.train()
    drawn = _Drawn(settings, workers)
    steps_a_pool = settings.uses * (settings.families * settings.images // settings.batch_size)
    began, began_at = time.monotonic(), numbers["step"]
    losses: dict[str, float] = {}
    for pool in drawn.pools(numbers["pool"], steps_a_pool):
        for examples in pool:
            rate = learning_rate(settings, numbers["step"])
            for group in optimizer.param_groups:
                group["lr"] = rate
            tensors = as_tensors(examples)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                output = network(tensors["images"])
            parts = loss_of(output, tensors)
            total = sum((WEIGHTS[name] * part for name, part in parts.items()), torch.zeros(()))
            optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            # A young average would remember the random weights.
            if numbers["step"] < 2_000 and numbers["step"] % 50 == 0:
                average.n_averaged.zero_()
            average.update_parameters(network)
            B, _, _, W = examples.images.shape
            numbers["step"] += 1
            numbers["tflop"] += B * W * flops_a_column / 1e12
            for name, part in parts.items():
                value = float(part.detach())
                losses[name] = value if name not in losses else 0.98 * losses[name] + 0.02 * value
        numbers["pool"] += 1
        step = numbers["step"]
        if step // every != (step - len(pool)) // every or step >= steps:
            measured = accuracy(average.module, known)
            took = time.monotonic() - began
            line = {
                "step": step,
                "tflop": round(numbers["tflop"], 2),
                "rate": round(rate, 6),
                **{name: round(value, 4) for name, value in losses.items()},
                **{name: round(value, 4) for name, value in measured.items()},
                "seconds_a_step": round(took / (step - began_at), 3),
            }
            _log(folder, line)
            if measured["texts"] > numbers["best"]:
                numbers["best"] = measured["texts"]
                save_weights(
                    folder / "best.safetensors",
                    {
                        name: value.half() if value.is_floating_point() else value
                        for name, value in average.module.state_dict().items()
                    },
                    {"settings": asdict(settings), **line},
                )
            save_training_state(
                state,
                modules=modules,
                optimizers={"adamw": optimizer},
                tensors={},
                numbers=numbers,
            )
        if step >= steps:
            break
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
    parser.add_argument("--steps", type=int, default=70_000, help="in all; cycles end at 10, 30 and 70 thousand")
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


if __name__ == "__main__":
    main()
