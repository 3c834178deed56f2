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
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from simgan_captcha.recognizer.augment import AUGMENTATION, Augmentation, augment
from simgan_captcha.recognizer.network import RecognizerArchitecture
from simgan_captcha.recognizer.settings import AdaptationSettings
from simgan_captcha.recognizer.train import (
    MEMORY_FORMAT,
    KeptSteps,
    TrainedRecognizer,
    TrainingSession,
    adamw,
    character_objective,
    count_flops,
    draw_seed,
    in_memory_format,
    learning_rate_at,
    seeded_dropout,
    take_step,
    to_device,
)
from simgan_captcha.training.average import update_average
from simgan_captcha.training.parallel import mean
from simgan_captcha.training.streams import LabelledStream

UnlabelledStream = Callable[[int], Iterator[Tensor]]
"""``stream(n)``: endless real batches (B, 2, H, W) float32 in [-1, 1], from batch n on."""

STATISTICS_BATCHES = 30
"""Real batches that estimate the batch-norm statistics, and then the share of unsure characters,
before the first step."""

_UNSURE = (0.05, 0.2)
"""Shares of unsure characters. At the first, adaptation takes ``steps`` steps; from the second on,
``max_steps_factor`` times as many. Below the first, steps fall in proportion."""
_LEAST_PART = 0.25
"""Least part of ``steps``."""

_STRONGEST_BIAS = 3.0  # keeps a class that is never read from being read everywhere


class DistributionAlignment:
    """Running class frequencies, and biases that make all classes equally frequent.

    The biases are added to the logits (Saerens, Latinne and Decaestecker 2002). They move the
    decision boundary between similar classes and leave confident readings unchanged.
    """

    def __init__(self, classes: int, blank: int | None = None) -> None:
        """Start with uniform frequencies. The class ``blank`` is not aligned."""
        self.blank = blank
        self.frequencies = torch.full((classes,), 1 / classes)
        self.bias = torch.zeros(classes)

    def update(self, read: Tensor) -> None:
        """Update with the mean aligned probabilities (K,) of a batch, averaged over about 100."""
        K = len(self.bias)
        self.frequencies.lerp_(read.to(self.frequencies), 0.01)
        relative = self.frequencies * K
        if self.blank is not None:
            relative = self.frequencies * (K - 1) / (1 - self.frequencies[self.blank])
            relative[self.blank] = 1
        self.bias -= 0.02 * torch.log(relative.clamp(min=0.1))
        self.bias.clamp_(-_STRONGEST_BIAS, _STRONGEST_BIAS)

    def align(self, probabilities: Tensor) -> Tensor:
        """Lower over-predicted classes and raise under-predicted ones in (B, L, K)."""
        aligned = probabilities * torch.exp(self.bias).to(probabilities)
        return aligned / aligned.sum(-1, keepdim=True)


def adapt_recognizer(
    reader: nn.Module,
    architecture: RecognizerArchitecture,
    real: UnlabelledStream,
    synthetic: LabelledStream,
    settings: AdaptationSettings,
    session: TrainingSession,
    *,
    blank: int | None = None,
    augmentation: Augmentation = AUGMENTATION,
) -> TrainedRecognizer:
    """Self-train a copy of a recognizer and return the teacher.

    Running statistics of batch normalisation come from real images only. Synthetic batches are
    normalised by their own statistics, so reading needs no second set.

    An interrupted training continues from ``checkpoint.safetensors`` in its folder. On a CPU with
    the same number of threads, its final weights are identical to those of an uninterrupted one.

    Args:
        reader: Recognizer trained on synthetic images; not changed.
        architecture: Architecture of the recognizer.
        real: Unlabelled batches of ``settings.batch_size`` images.
        synthetic: Labelled batches of ``settings.synthetic_batch_size`` images.
        settings: Settings with at least one step.
        session: Where to train; its seed is that of augmentation and dropout. The number of steps,
            see `steps_of`, is reported to it.
        blank: Class of empty slots, see `Scheme.blank`.
        augmentation: Limits of the changes of the student's images.

    Raises:
        RunError: Loss or gradient are not finite. Or the checkpoint is damaged or belongs to other
            settings.
    """
    prior = DistributionAlignment(architecture.classes, blank)
    training = _SelfTraining(reader, prior, augmentation, settings, session)
    kept, steps = training.kept, training.begin(real)
    with kept.log():
        real_images, synthetic_images = real(kept.first), synthetic(kept.first)
        for step in range(kept.first, steps):
            training.learn(step, steps, next(real_images), synthetic_images)
    return TrainedRecognizer(
        reader=training.teacher.cpu(),
        flops=count_adaptation_flops(architecture, settings, steps),
        images=steps * (settings.batch_size + settings.synthetic_batch_size),
        figures=kept.figures,
    )


class _SelfTraining:
    """A student, its teacher, and the steps in which they learn from each other."""

    def __init__(
        self,
        reader: nn.Module,
        prior: DistributionAlignment,
        augmentation: Augmentation,
        settings: AdaptationSettings,
        session: TrainingSession,
    ) -> None:
        self.prior, self.augmentation = prior, augmentation
        self.settings, self.session = settings, session
        fabric = session.fabric
        self.model = in_memory_format(copy.deepcopy(reader).requires_grad_(True))
        self.teacher = copy.deepcopy(self.model).requires_grad_(False).eval().to(fabric.device)
        # The student is the model, as Fabric wraps it.
        self.student, self.optimizer = fabric.setup(self.model, adamw(self.model, settings))
        self.kept = KeptSteps(
            session,
            settings,
            {"student": self.student, "teacher": self.teacher},
            {"student": self.optimizer},
        )

    def begin(self, real: UnlabelledStream) -> int:
        """Continue from the checkpoint, or look at real images first; the number of steps."""
        fabric = self.session.fabric
        self.student.train()
        if self.kept.first:
            self.prior.frequencies, self.prior.bias = self.kept.tensors["prior"].clone()
            return int(self.kept.figures["steps"])
        _estimate_statistics(self.student, self.teacher, real(0), fabric)
        unsure = _unsure_share(self.teacher, real(0), self.settings.confidence, fabric)
        return steps_of(self.settings, mean(fabric, unsure).item())

    def learn(
        self, step: int, steps: int, images: Tensor, synthetic: Iterator[tuple[Tensor, Tensor]]
    ) -> None:
        """Teach the student a batch of real images and one of synthetic images.

        Args:
            step: Number of the step, from 0.
            steps: Number of all steps.
            images: (B, 2, H, W) real images.
            synthetic: Labelled batches; the next one is taken.
        """
        settings, session = self.settings, self.session
        images = images.to(session.fabric.device, memory_format=MEMORY_FORMAT)
        pseudo_labels, sure = self._pseudo_labels(images)
        rank = session.fabric.global_rank
        generator = torch.Generator().manual_seed(draw_seed(session.seed, step, rank))
        moved = augment(images, self.augmentation, generator)
        known_images, targets = to_device(next(synthetic), session.fabric)
        with seeded_dropout(session.seed, step, rank):
            logits = self.student(moved).float()
            with frozen_statistics(self.student):
                known = self.student(known_images)
        cross_entropy = nn.functional.cross_entropy(
            logits.transpose(1, 2), pseudo_labels, reduction="none"
        )
        real_loss = (cross_entropy * sure).mean()
        synthetic_loss, of_known = character_objective(known, targets)
        loss = real_loss + synthetic_loss * (len(targets) / len(images))

        rate = learning_rate_at(step, steps, settings.learning_rate)
        take_step(session.fabric, self.student, self.optimizer, loss, rate, step + 1)
        update_average(self.teacher, self.model, settings.ema_decay, step + 1_000)
        figures = {
            "loss": loss.item(),
            "real_loss": real_loss.item(),
            "synthetic_loss": synthetic_loss.item(),
            "synthetic_accuracy": of_known["accuracy"].item(),
            "pseudo_label_rate": sure.float().mean().item(),
            "learning_rate": rate,
        }
        # The number of steps is kept for the progress display, and for resuming.
        prior = torch.stack([self.prior.frequencies, self.prior.bias])
        self.kept.keep(step + 1, steps, figures, silent={"steps": steps}, tensors={"prior": prior})

    def _pseudo_labels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Classes (B, L) that the teacher reads, and a mask (B, L) of those it is sure of."""
        with torch.no_grad(), self.session.fabric.autocast():
            read = self.teacher(images).float().softmax(-1)
        aligned = self.prior.align(read)
        self.prior.update(mean(self.session.fabric, aligned.mean((0, 1))))
        confidence, pseudo_labels = aligned.max(-1)
        return pseudo_labels, confidence > self.settings.confidence


def steps_of(settings: AdaptationSettings, unsure: float) -> int:
    """Optimiser steps for a share of unsure characters before adaptation.

    Unsure characters remain to be learned, and give few pseudo-labels at first.
    """
    few, many = _UNSURE
    share = min(1.0, max(0.0, (unsure - few) / (many - few)))
    part = min(1.0, max(_LEAST_PART, unsure / few))
    return math.ceil(settings.steps * part * (1 + (settings.max_steps_factor - 1) * share))


def count_adaptation_flops(
    architecture: RecognizerArchitecture, settings: AdaptationSettings, steps: int
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
