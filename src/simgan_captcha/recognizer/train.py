"""Supervised training of a recognizer on an endless labelled stream, with exact resumption.

Shapes: B images, H and W pixels, L characters, K classes.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from simgan_captcha.errors import RunError
from simgan_captcha.recognizer.network import ReaderArchitecture, build_reader
from simgan_captcha.recognizer.settings import ReaderSettings
from simgan_captcha.training.checkpoint import load_training_state, save_training_state
from simgan_captcha.training.metrics import MetricsLog
from simgan_captcha.training.parallel import require_same_step
from simgan_captcha.training.streams import LabelledStream

Objective = Callable[[Any, Tensor], tuple[Tensor, dict[str, Tensor]]]
"""``objective(outputs, targets)``: the loss, and scalar figures for people. The first argument is
the output of the network."""

OnStep = Callable[[int, int, dict[str, float]], None]
"""``on_step(step, total, figures)``."""

CHECKPOINT = "checkpoint.safetensors"

MEMORY_FORMAT = torch.channels_last
"""Memory format of images and weights in training; convolutions of few channels are fast in it."""


@dataclass(frozen=True)
class ReaderResult:
    """The result of a training."""

    reader: nn.Module
    """The averaged recognizer, on the CPU, in evaluation mode."""
    flops: int
    """Floating-point operations of this training, forward and backward."""
    images: int
    """Number of images seen, with repeats."""
    figures: dict[str, float]
    """Figures of the last step."""


def in_memory_format(module: nn.Module) -> nn.Module:
    """Convert the weights of a module to `MEMORY_FORMAT` in place, and return it."""
    module.to(memory_format=MEMORY_FORMAT)  # type: ignore[call-overload]
    return module


def learning_rate_at(step: int, total: int, highest: float, warm_up: float = 0.15) -> float:
    """Learning rate of a step: a linear warm-up to ``highest``, then a cosine down to 0.

    The warm-up takes the share ``warm_up`` of all steps.
    """
    rising = max(1.0, warm_up * total)
    if step < rising:
        return highest * (step + 1) / (rising + 1)
    return highest * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1.0, total - rising)))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move averaged weights and batch-norm statistics towards those of the model, in place.

    Args:
        average: Module with the structure of ``model``.
        model: The model after this step.
        decay: Decay in [0, 1). Early steps use less, or the average would stay near its random
            start.
        step: Number of the step, from 1.
    """
    decay = min(decay, (1 + step) / (10 + step))
    source = model.state_dict()
    for name, kept in average.state_dict().items():
        if kept.dtype.is_floating_point:
            kept.lerp_(source[name], 1 - decay)
        else:
            kept.copy_(source[name])


def count_flops(architecture: ReaderArchitecture, batch_size: int, *, backward: bool) -> int:
    """Floating-point operations of one batch, the same on any machine.

    A multiply-add counts as two.
    """
    with torch.device("meta"):
        reader = build_reader(architecture)
        images = torch.empty(batch_size, 2, architecture.height, architecture.width)
    with FlopCounterMode(display=False) as counter:
        outputs = reader(images)
        if backward:
            parts = [outputs] if isinstance(outputs, Tensor) else outputs
            torch.stack([part.sum() for part in parts]).sum().backward()
    return int(counter.get_total_flops())


def character_objective(logits: Tensor, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of all characters, from logits (B, L, K) and class ids (B, L)."""
    loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids.flatten())
    accuracy = (logits.argmax(-1) == ids).float().mean()
    return loss, {"loss": loss, "accuracy": accuracy}


def train_reader(
    stream: LabelledStream,
    architecture: ReaderArchitecture,
    settings: ReaderSettings,
    *,
    folder: Path,
    fabric: Fabric,
    seed: int,
    on_step: OnStep,
    initial: nn.Module | None = None,
    objective: Objective = character_objective,
) -> ReaderResult:
    """Train a recognizer with AdamW, and return the average of its weights.

    An interrupted training continues from ``folder/checkpoint.safetensors``. On a CPU with the same
    number of threads, its final weights are identical to those of an uninterrupted one.

    Args:
        stream: Batches of ``settings.batch_size`` images of the size in the architecture.
        architecture: Architecture of the recognizer.
        settings: Settings of training; ``kind``, ``channels`` and ``images`` have no effect here.
        folder: Folder for checkpoint, ``metrics.jsonl`` and ``events.*``; created if missing.
        fabric: Device and precision (32-true or mixed). Several processes train together on the
            joint batch. All read the checkpoint; only the first writes it.
        seed: Random seed of the first weights and of dropout.
        on_step: Called after each step with figures that include ``images_per_second``. They cover
            the images of this process.
        initial: Module with initial weights. Weights that it does not have are random.
        objective: Loss; other outputs than characters need another one.

    Raises:
        RunError: Loss or gradient are not finite. Or the checkpoint is damaged or belongs to other
            settings.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = in_memory_format(build_reader(architecture))
    if initial is not None:
        known, own = initial.state_dict(), model.state_dict()
        model.load_state_dict({name: known.get(name, own[name]) for name in own})
    average = copy.deepcopy(model).requires_grad_(False).eval().to(fabric.device)
    reader, optimizer = fabric.setup(
        model,
        torch.optim.AdamW(
            model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        ),
    )
    state: dict[str, Any] = {
        "modules": {"reader": reader, "average": average},
        "optimizers": {"reader": optimizer},
    }
    made_with = {"settings": settings.model_dump(mode="json"), "seed": seed}
    first, figures, _ = resume_step(folder, state, made_with)
    require_same_step(fabric, first, folder)
    started = time.monotonic()
    reader.train()

    with MetricsLog(folder, first or None, writes=fabric.is_global_zero) as log:
        batches = stream(first)
        for step in range(first, settings.steps):
            images, targets = next(batches)
            images = images.to(fabric.device, memory_format=MEMORY_FORMAT)
            targets = targets.to(fabric.device)
            with seeded_dropout(seed, step, fabric.global_rank):
                outputs = reader(images)
            loss, of_step = objective(outputs, targets)
            done = step + 1
            rate = learning_rate_at(step, settings.steps, settings.learning_rate)
            take_step(fabric, reader, optimizer, loss, rate, done)
            update_average(average, model, settings.ema_decay, done)

            figures = {name: value.item() for name, value in of_step.items()}
            figures["learning_rate"] = rate
            log.log(done, **figures)
            if fabric.is_global_zero and (
                done % settings.checkpoint_every == 0 or done == settings.steps
            ):
                save_training_state(
                    folder / CHECKPOINT,
                    **state,
                    tensors={},
                    numbers={"made_with": made_with, "step": done, "figures": figures},
                )
            speed = (done - first) * settings.batch_size / (time.monotonic() - started)
            on_step(done, settings.steps, figures | {"images_per_second": speed})

    each = count_flops(architecture, settings.batch_size, backward=True)
    return ReaderResult(
        reader=average.cpu(),
        flops=each * settings.steps,
        images=settings.steps * settings.batch_size,
        figures=figures,
    )


def resume_step(
    folder: Path, state: dict[str, Any], made_with: dict[str, Any]
) -> tuple[int, dict[str, float], dict[str, Tensor]]:
    """Restore ``state`` from the checkpoint in a folder, if there is one.

    Returns:
        The number of finished steps, the figures of the last step, and the additional tensors of
        the checkpoint.

    Raises:
        RunError: The checkpoint is damaged, or belongs to other settings or another seed.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return 0, {}, {}
    tensors, numbers = load_training_state(path, **state)
    if numbers.get("made_with") != made_with:
        raise RunError(
            f"expected the checkpoint {path} to be of these settings and seed, it is of "
            f"{numbers.get('made_with')}; go back to those, or delete it to start anew"
        )
    return int(numbers["step"]), numbers["figures"], tensors


def take_step(
    fabric: Fabric,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    rate: float,
    step: int,
) -> None:
    """Take one optimiser step, with the norm of the gradient clipped to 5.

    Raises:
        RunError: Loss or gradient are not finite; the weights are unchanged.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    _require_finite("loss", loss.item(), step)
    optimizer.zero_grad()
    fabric.backward(loss)
    norm = fabric.clip_gradients(module, optimizer, max_norm=5.0, error_if_nonfinite=False)
    _require_finite("gradient", float(norm), step)
    optimizer.step()


def _require_finite(name: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise RunError(
            f"expected a finite {name}, at step {step} got {value}: training diverged; "
            "lower the learning rate, or train in 32-true precision"
        )


def draw_seed(seed: int, step: int, rank: int) -> int:
    """Seed of the random draws of a process in one step."""
    return seed * 1_000_003 + step + rank * 2**40


@contextmanager
def seeded_dropout(seed: int, step: int, rank: int = 0) -> Iterator[None]:
    """Context in which dropout depends only on (seed, step, rank).

    A resumed step then drops the same units, and each of several processes drops different ones.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(draw_seed(seed, step, rank))
        yield
