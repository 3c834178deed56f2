"""Three small trainings, in one process or in several from torchrun: run it with a folder.

Batches are cut into halves by number. Two processes have one half each. One process has both, with
alternating images. The results are the same, up to the order of sums.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from lightning_fabric import Fabric
from torch import Tensor

from simgan_captcha.recognizer.adapt import adapt_recognizer
from simgan_captcha.recognizer.augment import Augmentation
from simgan_captcha.recognizer.network import build_recognizer
from simgan_captcha.recognizer.train import TrainingSession, character_objective, train_recognizer
from simgan_captcha.simgan import train_refiner
from simgan_captcha.training.parallel import make_fabric
from tests.recognizer import training_case as reading
from tests.simgan import training_case as refining

PROCESSES = 2
READER = reading.SETTINGS.model_copy(update={"steps": 12, "batch_size": 16, "learning_rate": 1e-3})
ADAPTATION = reading.ADAPTATION.model_copy(
    update={
        "steps": 6,
        "batch_size": 16,
        "synthetic_batch_size": 8,
        # Every character is a pseudo-label, so rounding does not matter.
        "confidence": 1e-6,
    }
)
# With other shares, augmentation would move images in other ways.
STILL = Augmentation(rotation=0, scale=0, shear=0, shift=0, hole=0, noise=0)
REFINER = refining.SETTINGS.model_copy(
    update={
        "steps": 15,
        "refiner_learning_rate": 2e-3,
        "discriminator_learning_rate": 2e-3,
        "regularization": 0,
        "ema_decay": 0.5,
    }
)

Halves = Callable[[int], Any]


def joined(fabric: Fabric, half: Halves) -> Callable[[int], Iterator[Any]]:
    """A stream of the halves of this process, or of both."""

    def stream(first: int) -> Iterator[Any]:
        number = first
        while True:
            begin = number * PROCESSES
            if fabric.world_size == PROCESSES:
                yield half(begin + fabric.global_rank)
            else:
                yield in_turn([half(begin + n) for n in range(PROCESSES)])
            number += 1

    return stream


def in_turn(halves: list[Any]) -> Any:
    if isinstance(halves[0], tuple):
        return tuple(in_turn(list(parts)) for parts in zip(*halves, strict=True))
    return torch.stack(halves, 1).flatten(0, 1)


def gradients(fabric: Fabric) -> dict[str, Tensor]:
    """Gradients of one batch, for all parameters of a recognizer."""
    torch.manual_seed(0)
    model = build_recognizer(reading.ARCHITECTURE)
    reader, _ = fabric.setup(model, torch.optim.SGD(model.parameters()))
    images, ids = next(joined(fabric, lambda number: reading.draw(5, number, 8))(0))
    loss, _ = character_objective(reader(images), ids)
    fabric.backward(loss)
    found = {f"gradient/{name}": p.grad for name, p in model.named_parameters()}
    found |= {f"buffer/{name}": b.float() for name, b in model.named_buffers()}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def real_half(number: int) -> Tensor:
    return reading.make_real(reading.draw(3, number, ADAPTATION.batch_size // 2)[0], number)


def train_all(fabric: Fabric, folder: Path) -> dict[str, Tensor]:
    """Outputs of the trained networks for unseen images."""
    known = reading.draw(8, 0, 40)[0]
    read = train_recognizer(
        joined(fabric, lambda number: reading.draw(1, number, READER.batch_size // 2)),
        reading.ARCHITECTURE,
        READER,
        TrainingSession(folder / "read", fabric, 1, reading.quiet),
    )
    adapted = adapt_recognizer(
        read.reader,
        reading.ARCHITECTURE,
        joined(fabric, real_half),
        joined(fabric, lambda n: reading.draw(2, n, ADAPTATION.synthetic_batch_size // 2)),
        ADAPTATION,
        TrainingSession(folder / "adapt", fabric, 1, reading.quiet),
        augmentation=STILL,
    )
    refined = train_refiner(
        synthetic=joined(fabric, lambda number: refining.squares(1, number)[:4]),
        real=joined(fabric, lambda number: refining.make_real(refining.squares(2, number)[:4])),
        folder=folder / "refine",
        fabric=fabric,
        seed=1,
        settings=REFINER,
        on_step=reading.quiet,
        warn=lambda sentence: None,
    )
    squares = refining.squares(9, 0)
    with torch.no_grad():
        return {
            "read": read.reader(known),
            "adapted": adapted.reader(known),
            "refined change": refined.refiner(squares) - squares,
        }


def measure(fabric: Fabric, folder: Path) -> dict[str, Tensor]:
    """Gradients and outputs."""
    torch.set_num_threads(1)
    return gradients(fabric) | train_all(fabric, folder)


if __name__ == "__main__":
    out = Path(sys.argv[1])
    fabric = make_fabric("32-true")
    folder = out / ("trained" if fabric.is_global_zero else "of another process")
    measured = measure(fabric, folder)
    # Each process saves its results, because all must be the same.
    safetensors.torch.save_file(measured, out / f"process-{fabric.global_rank}.safetensors")
