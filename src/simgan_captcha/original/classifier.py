"""The last step of the 2017 system: train a classifier until it reads its own synthetic images.

Shapes: B batch, H and W pixels, L characters, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from simgan_captcha.errors import RunError
from simgan_captcha.training.checkpoint import load_training_state, save_training_state
from simgan_captcha.training.streams import LabelledStream

CHECKPOINT = "checkpoint.safetensors"


class ClassifierSettings(BaseModel):
    """Schedule of the training of the classifier."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """Learning rate of Adam."""
    target: float = Field(default=0.97, gt=0, le=1)
    """Share of correctly read new synthetic images at which training ends."""
    examine_every: int = Field(default=250, ge=1)
    """Number of steps between evaluations, each followed by a checkpoint."""
    examined: int = Field(default=16, ge=1)
    """Number of new batches in an evaluation."""
    most_steps: int = Field(default=20_000, ge=1)
    """Largest number of steps."""


@dataclass(frozen=True)
class Trained:
    """Result of a training."""

    steps: int
    """Number of steps."""
    synthetic_accuracy: float
    """Share of new synthetic images that were read correctly in the last evaluation."""
    flops: int
    """Number of floating-point operations of the training; a multiply-add is two."""


def train_classifier(
    network: nn.Module,
    stream: LabelledStream,
    fresh: LabelledStream,
    settings: ClassifierSettings,
    folder: Path,
    on_step: Callable[[int], None] = lambda step: None,
) -> Trained:
    """Train a classifier in place with Adam, until it reads its own synthetic images.

    A stopped training continues from the checkpoint in ``folder``.

    Args:
        network: Network from images (B, 2, H, W) to logits (B, L, K). It ends in evaluation mode.
        stream: Training batches, raw or refined.
        fresh: Batches of the same kind for evaluation, with other images than ``stream``.
        settings: Schedule.
        folder: Folder of the checkpoint; created if missing.
        on_step: Called after every step with its number.

    Raises:
        RunError: The checkpoint is damaged or has other settings.
    """
    optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate)
    path, step, accuracy, each = folder / CHECKPOINT, 0, 0.0, 0
    modules, optimizers = {"classifier": network}, {"classifier": optimizer}
    made_with = settings.model_dump(mode="json")
    if path.exists():
        _, numbers = load_training_state(path, modules=modules, optimizers=optimizers)
        if numbers["made_with"] != made_with:
            raise RunError(f"expected the checkpoint {path} to be of these settings; delete it")
        step, accuracy, each = numbers["step"], numbers["accuracy"], numbers["flops"]
    batches, device = stream(step), next(network.parameters()).device
    while step < settings.most_steps and accuracy < settings.target:
        images, ids = (each.to(device) for each in next(batches))
        network.train()
        with FlopCounterMode(display=False) as counter:
            loss = nn.functional.cross_entropy(network(images).flatten(0, 1), ids.flatten())
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        step, each = step + 1, int(counter.get_total_flops())
        on_step(step)
        if step % settings.examine_every == 0 or step == settings.most_steps:
            accuracy = examine(network, fresh, settings.examined)
            numbers = {"made_with": made_with, "step": step, "accuracy": accuracy, "flops": each}
            save_training_state(
                path, modules=modules, optimizers=optimizers, tensors={}, numbers=numbers
            )
    network.eval()
    return Trained(step, accuracy, each * step)


@torch.no_grad()
def examine(network: nn.Module, fresh: LabelledStream, batches: int) -> float:
    """Share of images in the first ``batches`` batches that are read correctly."""
    network.eval()
    stream, device = fresh(0), next(network.parameters()).device
    right = []
    for _ in range(batches):
        images, ids = (each.to(device) for each in next(stream))
        right.append((network(images).argmax(-1) == ids).all(-1).float().mean())
    return float(torch.stack(right).mean())
