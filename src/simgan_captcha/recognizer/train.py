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
from simgan_captcha.recognizer.network import RecognizerArchitecture, build_recognizer
from simgan_captcha.recognizer.settings import AdaptationSettings, RecognizerSettings
from simgan_captcha.training.average import update_average
from simgan_captcha.training.checkpoint import load_training_state, save_training_state
from simgan_captcha.training.metrics import MetricsLog
from simgan_captcha.training.parallel import require_ranks_in_step
from simgan_captcha.training.streams import LabelledStream
from simgan_captcha.types import OnStep

Objective = Callable[[Any, Tensor], tuple[Tensor, dict[str, Tensor]]]
"""``objective(outputs, targets)``: the loss, and scalar figures for people. The first argument is
the output of the network."""

CHECKPOINT = "checkpoint.safetensors"

_WEIGHT_DECAY = 0.02
"""Weight decay of AdamW, per step and unit of the learning rate."""

MEMORY_FORMAT = torch.channels_last
"""Memory format of images and weights in training; convolutions of few channels are fast in it."""


@dataclass(frozen=True)
class TrainingSession:
    """Where a training runs, and who follows it."""

    folder: Path
    """For checkpoint, ``metrics.jsonl`` and ``events.*``; created if missing."""
    fabric: Fabric
    """Device and precision (32-true or mixed). Several processes train together on the joint batch.
    All read the checkpoint; only the first writes it."""
    seed: int
    """Random seed of all that the training draws."""
    on_step: OnStep
    """Called after each step with figures that include ``images_per_second``. They cover the images
    of this process."""


@dataclass(frozen=True)
class TrainedRecognizer:
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


def count_flops(architecture: RecognizerArchitecture, batch_size: int, *, backward: bool) -> int:
    """Floating-point operations of one batch, the same on any machine.

    A multiply-add counts as two.
    """
    with torch.device("meta"):
        reader = build_recognizer(architecture)
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


def train_recognizer(
    stream: LabelledStream,
    architecture: RecognizerArchitecture,
    settings: RecognizerSettings,
    session: TrainingSession,
    *,
    initial: nn.Module | None = None,
    objective: Objective = character_objective,
) -> TrainedRecognizer:
    """Train a recognizer with AdamW, and return the average of its weights.

    An interrupted training continues from ``checkpoint.safetensors`` in its folder. On a CPU with
    the same number of threads, its final weights are identical to those of an uninterrupted one.

    Args:
        stream: Batches of ``settings.batch_size`` images of the size in the architecture.
        architecture: Architecture of the recognizer.
        settings: Settings of training; ``kind``, ``channels`` and ``images`` have no effect here.
        session: Where to train; its seed is that of the first weights and of dropout.
        initial: Module with initial weights. Weights that it does not have are random.
        objective: Loss; other outputs than characters need another one.

    Raises:
        RunError: Loss or gradient are not finite. Or the checkpoint is damaged or belongs to other
            settings.
    """
    fabric, steps = session.fabric, settings.steps
    model = _first_weights(architecture, session.seed, initial)
    average = copy.deepcopy(model).requires_grad_(False).eval().to(fabric.device)
    reader, optimizer = fabric.setup(model, adamw(model, settings))
    kept = KeptSteps(
        session, settings, {"reader": reader, "average": average}, {"reader": optimizer}
    )
    reader.train()

    with kept.log():
        batches = stream(kept.first)
        for step in range(kept.first, steps):
            images, targets = to_device(next(batches), fabric)
            with seeded_dropout(session.seed, step, fabric.global_rank):
                outputs = reader(images)
            loss, of_step = objective(outputs, targets)
            rate = learning_rate_at(step, steps, settings.learning_rate)
            take_step(fabric, reader, optimizer, loss, rate, step + 1)
            update_average(average, model, settings.ema_decay, step + 1)
            figures = {name: value.item() for name, value in of_step.items()}
            kept.keep(step + 1, steps, figures | {"learning_rate": rate})

    return TrainedRecognizer(
        reader=average.cpu(),
        flops=count_flops(architecture, settings.batch_size, backward=True) * steps,
        images=steps * settings.batch_size,
        figures=kept.figures,
    )


def _first_weights(
    architecture: RecognizerArchitecture, seed: int, initial: nn.Module | None
) -> nn.Module:
    """A recognizer with random weights, replaced by those of ``initial`` that it has."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = in_memory_format(build_recognizer(architecture))
    if initial is not None:
        known, own = initial.state_dict(), model.state_dict()
        model.load_state_dict({name: known.get(name, own[name]) for name in own})
    return model


def adamw(
    module: nn.Module, settings: RecognizerSettings | AdaptationSettings
) -> torch.optim.AdamW:
    """AdamW for all weights of a module."""
    return torch.optim.AdamW(
        module.parameters(), settings.learning_rate, weight_decay=_WEIGHT_DECAY
    )


def to_device(batch: tuple[Tensor, Tensor], fabric: Fabric) -> tuple[Tensor, Tensor]:
    """Images in `MEMORY_FORMAT` and their targets, on the device of the training."""
    images, targets = batch
    images = images.to(fabric.device, memory_format=MEMORY_FORMAT)
    return images, targets.to(fabric.device)


class KeptSteps:
    """The steps of a training, logged and kept in checkpoints from which it continues.

    Attributes:
        first: Number of finished steps at the start.
        figures: Figures of the last finished step.
        tensors: Additional tensors of the checkpoint from which the training continues.
    """

    def __init__(
        self,
        session: TrainingSession,
        settings: RecognizerSettings | AdaptationSettings,
        modules: dict[str, nn.Module],
        optimizers: dict[str, torch.optim.Optimizer],
    ) -> None:
        """Restore modules and optimizers from the checkpoint, if there is one.

        Raises:
            RunError: The checkpoint is damaged, or belongs to other settings or another seed.
        """
        self._session, self._settings = session, settings
        self._state: dict[str, Any] = {"modules": modules, "optimizers": optimizers}
        self._made_with = {"settings": settings.model_dump(mode="json"), "seed": session.seed}
        self.first, self.figures, self.tensors = _resume_step(
            session.folder, self._state, self._made_with
        )
        require_ranks_in_step(session.fabric, self.first, session.folder)

    @contextmanager
    def log(self) -> Iterator[None]:
        """Context in which steps are taken; their speed counts from here."""
        self._started = time.monotonic()
        writes = self._session.fabric.is_global_zero
        with MetricsLog(self._session.folder, self.first or None, writes=writes) as self._log:
            yield

    def keep(
        self,
        done: int,
        steps: int,
        figures: dict[str, float],
        *,
        silent: dict[str, float] | None = None,
        tensors: dict[str, Tensor] | None = None,
    ) -> None:
        """Log a step, save a checkpoint when one is due, and report to the session.

        Args:
            done: Number of finished steps.
            steps: Number of all steps.
            figures: Figures of this step.
            silent: Figures that are kept, but not reported to the session.
            tensors: Additional tensors to restore.
        """
        session, settings = self._session, self._settings
        self.figures = figures | (silent or {})
        self._log.log(done, **self.figures)
        due = done % settings.checkpoint_every == 0 or done == steps
        if due and session.fabric.is_global_zero:
            save_training_state(
                session.folder / CHECKPOINT,
                **self._state,
                tensors=tensors or {},
                numbers={"made_with": self._made_with, "step": done, "figures": self.figures},
            )
        speed = (done - self.first) * settings.batch_size / (time.monotonic() - self._started)
        session.on_step(done, steps, figures | {"images_per_second": speed})


def _resume_step(
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
            f"{numbers.get('made_with')}; go back to those, or delete it to start again"
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
