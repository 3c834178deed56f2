"""Adaptation to unlabelled real images by self-training.

The teacher is the running average of the student. It reads real images without augmentation. The
student must predict the same characters for augmented images, where the teacher was confident.
Synthetic images with known texts are part of each step. Batch normalisation uses the statistics of
real images.

Sources: mean teacher (arXiv:1703.01780) and self-ensembling for domain adaptation
(arXiv:1706.05208). Weak and strong augmentation with a threshold come from FixMatch
(arXiv:2001.07685); the threshold applies per character here. Distribution alignment comes from
ReMixMatch (arXiv:1911.09785); the target is a uniform alphabet here, and biases align to it.

Shapes: B images, L characters, K classes.
"""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from simgan_captcha.recognizer.augment import augment
from simgan_captcha.recognizer.network import ReaderArchitecture
from simgan_captcha.recognizer.settings import AdaptationSettings
from simgan_captcha.recognizer.train import (
    CHECKPOINT,
    MEMORY_FORMAT,
    OnStep,
    ReaderResult,
    character_objective,
    count_flops,
    draw_seed,
    in_memory_format,
    learning_rate_at,
    resume_step,
    seeded_dropout,
    take_step,
    update_average,
)
from simgan_captcha.training.checkpoint import save_training_state
from simgan_captcha.training.metrics import MetricsLog
from simgan_captcha.training.parallel import mean, require_same_step
from simgan_captcha.training.streams import LabelledStream

UnlabelledStream = Callable[[int], Iterator[Tensor]]
"""``stream(n)``: endless real batches (B, 2, H, W) float32 in [-1, 1], from batch n on."""

STATISTICS_BATCHES = 30
"""Real batches that estimate the batch-norm statistics, and then the share of unsure characters,
before the first step."""

_UNSURE = (0.05, 0.2)
"""Shares of unsure characters. Up to the first, adaptation takes ``steps`` steps; from the second
on, ``longest`` times as many."""

_STRONGEST_BIAS = 3.0  # keeps a class that is never read from being read everywhere


class Prior:
    """Running class frequencies, and biases that make all classes equally frequent.

    The biases are added to the logits (Saerens, Latinne and Decaestecker 2002). They move the
    decision boundary between similar classes and leave confident readings unchanged.
    """

    def __init__(self, classes: int, absent: int | None = None) -> None:
        """Start with uniform frequencies. The class ``absent`` is not aligned."""
        self.absent = absent
        self.frequencies = torch.full((classes,), 1 / classes)
        self.bias = torch.zeros(classes)

    def update(self, read: Tensor) -> None:
        """Update with the mean aligned probabilities (K,) of a batch, averaged over about 100."""
        K = len(self.bias)
        self.frequencies.lerp_(read.to(self.frequencies), 0.01)
        relative = self.frequencies * K
        if self.absent is not None:
            relative = self.frequencies * (K - 1) / (1 - self.frequencies[self.absent])
            relative[self.absent] = 1
        self.bias -= 0.02 * torch.log(relative.clamp(min=0.1))
        self.bias.clamp_(-_STRONGEST_BIAS, _STRONGEST_BIAS)

    def align(self, probabilities: Tensor, strength: float) -> Tensor:
        """Lower over-predicted classes and raise under-predicted ones in (B, L, K)."""
        aligned = probabilities * torch.exp(self.bias * strength).to(probabilities)
        return aligned / aligned.sum(-1, keepdim=True)


def adapt_reader(
    reader: nn.Module,
    architecture: ReaderArchitecture,
    real: UnlabelledStream,
    synthetic: LabelledStream,
    settings: AdaptationSettings,
    *,
    folder: Path,
    fabric: Fabric,
    seed: int,
    on_step: OnStep,
    absent: int | None = None,
) -> ReaderResult:
    """Self-train a copy of a recognizer and return the teacher.

    Running statistics of batch normalisation come from real images only. Synthetic batches are
    normalised by their own statistics, so reading needs no second set.

    An interrupted training continues from ``folder/checkpoint.safetensors``. On a CPU with the same
    number of threads, its final weights are identical to those of an uninterrupted one.

    Args:
        reader: Recognizer trained on synthetic images; not changed.
        architecture: Architecture of the recognizer.
        real: Unlabelled batches of ``settings.batch_size`` images.
        synthetic: Labelled batches of ``settings.synthetic_batch_size`` images.
        settings: Settings with at least one step.
        folder: Folder for checkpoint, ``metrics.jsonl`` and ``events.*``; created if missing.
        fabric: See `train_reader`.
        seed: Random seed of augmentation and dropout.
        on_step: Called after each step with the number of steps (see `steps_of`) and figures that
            include ``images_per_second``.
        absent: Class of empty slots, see `Scheme.absent`.

    Raises:
        RunError: Loss or gradient are not finite. Or the checkpoint is damaged or belongs to other
            settings.
    """
    model = in_memory_format(copy.deepcopy(reader).requires_grad_(True))
    teacher = copy.deepcopy(model).requires_grad_(False).eval().to(fabric.device)
    student, optimizer = fabric.setup(
        model,
        torch.optim.AdamW(
            model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        ),
    )
    prior = Prior(architecture.classes, absent)
    state: dict[str, Any] = {
        "modules": {"student": student, "teacher": teacher},
        "optimizers": {"student": optimizer},
    }
    made_with = {"settings": settings.model_dump(mode="json"), "seed": seed}
    first, figures, tensors = resume_step(folder, state, made_with)
    require_same_step(fabric, first, folder)
    student.train()
    if first:
        prior.frequencies, prior.bias = tensors["prior"].clone()
        steps = int(figures["steps"])
    else:
        _estimate_statistics(student, teacher, real(0), fabric)
        unsure = _unsure_share(teacher, real(0), settings.confidence, fabric)
        steps = steps_of(settings, mean(fabric, unsure).item())
    started = time.monotonic()

    with MetricsLog(folder, first or None, writes=fabric.is_global_zero) as log:
        real_images, synthetic_images = real(first), synthetic(first)
        for step in range(first, steps):
            images = next(real_images).to(fabric.device, memory_format=MEMORY_FORMAT)
            with torch.no_grad(), fabric.autocast():
                read = teacher(images).float().softmax(-1)
            aligned = prior.align(read, settings.alignment)
            prior.update(mean(fabric, aligned.mean((0, 1))))
            confidence, pseudo_labels = aligned.max(-1)
            sure = confidence > settings.confidence

            generator = torch.Generator().manual_seed(draw_seed(seed, step, fabric.global_rank))
            moved = augment(images, settings.augmentation, generator)
            known_images, targets = next(synthetic_images)
            known_images = known_images.to(fabric.device, memory_format=MEMORY_FORMAT)
            targets = targets.to(fabric.device)
            with seeded_dropout(seed, step, fabric.global_rank):
                logits = student(moved).float()
                with frozen_statistics(student):
                    known = student(known_images)
            cross_entropy = nn.functional.cross_entropy(
                logits.transpose(1, 2), pseudo_labels, reduction="none"
            )
            real_loss = (cross_entropy * sure).mean()
            synthetic_loss, of_known = character_objective(known, targets)
            loss = real_loss + synthetic_loss * (len(targets) / len(images))

            done = step + 1
            rate = learning_rate_at(step, steps, settings.learning_rate)
            take_step(fabric, student, optimizer, loss, rate, done)
            update_average(teacher, model, settings.ema_decay, step + 1_000)

            figures = {
                "loss": loss.item(),
                "real_loss": real_loss.item(),
                "synthetic_loss": synthetic_loss.item(),
                "synthetic_accuracy": of_known["accuracy"].item(),
                "pseudo_label_rate": sure.float().mean().item(),
                "learning_rate": rate,
            }
            speed = (done - first) * settings.batch_size / (time.monotonic() - started)
            shown = figures | {"images_per_second": speed}
            figures["steps"] = steps  # for the progress display, and for resuming
            log.log(done, **figures)
            if fabric.is_global_zero and (done % settings.checkpoint_every == 0 or done == steps):
                save_training_state(
                    folder / CHECKPOINT,
                    **state,
                    tensors={"prior": torch.stack([prior.frequencies, prior.bias])},
                    numbers={"made_with": made_with, "step": done, "figures": figures},
                )
            on_step(done, steps, shown)

    return ReaderResult(
        reader=teacher.cpu(),
        flops=count_adaptation_flops(architecture, settings, steps),
        images=steps * (settings.batch_size + settings.synthetic_batch_size),
        figures=figures,
    )


def steps_of(settings: AdaptationSettings, unsure: float) -> int:
    """Optimiser steps for a share of unsure characters before adaptation.

    Unsure characters remain to be learned, and give few pseudo-labels at first.
    """
    few, many = _UNSURE
    share = min(1.0, max(0.0, (unsure - few) / (many - few)))
    return round(settings.steps * (1 + (settings.longest - 1) * share))


def count_adaptation_flops(
    architecture: ReaderArchitecture, settings: AdaptationSettings, steps: int
) -> int:
    """Floating-point operations of an adaptation with this number of steps.

    A multiply-add counts as two.
    """
    if not steps:
        return 0
    teacher = count_flops(architecture, settings.batch_size, backward=False)
    student = count_flops(
        architecture, settings.batch_size + settings.synthetic_batch_size, backward=True
    )
    return (teacher + student) * steps + teacher * 2 * STATISTICS_BATCHES


@torch.no_grad()
def _estimate_statistics(
    student: nn.Module, teacher: nn.Module, real: Iterator[Tensor], fabric: Fabric
) -> None:
    """Estimate batch-norm statistics of real images before the first step (arXiv:1603.04779)."""
    for _ in range(STATISTICS_BATCHES):
        student(next(real).to(fabric.device))
    teacher.load_state_dict(student.state_dict())


@torch.no_grad()
def _unsure_share(
    teacher: nn.Module, real: Iterator[Tensor], confidence: float, fabric: Fabric
) -> Tensor:
    """Share of real characters below the confidence threshold before adaptation, a scalar."""
    unsure = torch.zeros((), device=fabric.device)
    for _ in range(STATISTICS_BATCHES):
        with fabric.autocast():
            read = teacher(next(real).to(fabric.device)).float().softmax(-1)
        unsure += (read.amax(-1) <= confidence).float().mean()
    return unsure / STATISTICS_BATCHES


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Context in which batches do not change the running batch-norm statistics."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
