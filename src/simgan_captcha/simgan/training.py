"""Algorithm 1 of SimGAN, arXiv:1612.07828: one loop, resumable to the bit."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from simgan_captcha.atomic import write_bytes
from simgan_captcha.errors import RunError, ShapeError, UsageError
from simgan_captcha.simgan.alarms import ALARMS, WINDOW
from simgan_captcha.simgan.history import ImageHistory
from simgan_captcha.simgan.networks import Discriminator, Refiner, save_refiner
from simgan_captcha.simgan.settings import SimGANSettings
from simgan_captcha.simgan.sheet import sheet_png
from simgan_captcha.simgan.updates import (
    Figures,
    Recogniser,
    count_training_flops,
    discriminator_loss,
    frozen,
    refiner_loss,
    refiner_pretraining_loss,
)
from simgan_captcha.training.checkpoint import load_training_state, save_training_state
from simgan_captcha.training.metrics import MetricsLog
from simgan_captcha.training.parallel import require_same_step, share

BatchStream = Callable[[int], Iterator[Tensor]]
"""``stream(n)``: the endless batches from number n on, (B, C, H, W) float32 in [-1, 1]; batch k is
the same whenever and from wherever it is asked for."""

LabelAgreement = Callable[[Tensor, Tensor], float]
"""``agreement(synthetic, refined)``: the fraction of images, (B, C, H, W) each, whose label some
recogniser reads the same before and after refining."""

OnStep = Callable[[int, int, dict[str, float]], None]
"""``on_step(step, total, figures)``, after every step."""

CHECKPOINT = "checkpoint.safetensors"
REFINER = "refiner.safetensors"


@dataclass(frozen=True)
class SimGANResult:
    """What a training leaves."""

    refiner: Refiner
    """The averaged refiner, in eval mode, on the device it was trained on."""
    flops: int
    """Floating-point operations of the whole training, counted, so equal on every machine."""
    images: int
    """Synthetic and real images seen, in all its processes."""
    alarms: tuple[str, ...]
    """Sentences of the alarms raised, each at most once."""
    figures: dict[str, float]
    """The last step's figures, as in metrics.jsonl."""


def train_refiner(
    *,
    synthetic: BatchStream,
    real: BatchStream,
    folder: Path,
    fabric: Fabric,
    seed: int,
    settings: SimGANSettings,
    on_step: OnStep,
    warn: Callable[[str], None],
    label_agreement: LabelAgreement | None = None,
    recogniser: Recogniser | None = None,
) -> SimGANResult:
    """Train a refiner until synthetic images look real, or go on with a training that was killed.

    Writes ``refiner.safetensors`` (the averaged weights, last of all), ``checkpoint.safetensors``,
    ``metrics.jsonl``, TensorBoard's ``events.*`` and ``sheet-000500.png`` ... into ``folder``. A
    folder with a checkpoint of the same settings and seed goes on from there and, on the CPU, ends
    with the very weights of a training never interrupted; a finished one only gives its result.

    Args:
        synthetic: Batches to refine, ``settings.batch_size`` images each; of several processes each
            has a stream of its own, of its `parallel.share` of the images.
        real: Unlabelled real batches, of the same shape and range.
        folder: Where to write; made if missing.
        fabric: Device and precision (32-true or a mixed one). Several processes train as one on the
            joint batch: all read the checkpoint, the first alone writes.
        seed: Of the first weights and of the image history.
        settings: Networks and Algorithm 1.
        on_step: Called after every step, with ``images_per_second`` among the figures.
        warn: Gets every alarm's sentence when it is first raised.
        label_agreement: Measured every ``picture_every`` adversarial steps on the first synthetic
            batch; None measures nothing and keeps that alarm silent.
        recogniser: What ``settings.consistency`` asks; its weights stay. ``flops`` leaves it out.

    Raises:
        ShapeError: A batch of another shape or range than expected, or of both sizes.
        RunError: The checkpoint is damaged or of other settings, or the training diverged.
        UsageError: There is no recogniser to ask.
        ConfigError: Several processes cannot share a batch.
    """
    if settings.consistency and recogniser is None:
        raise UsageError("expected a recogniser with consistency above 0, got none; give one")
    training = _Training(fabric, settings, seed, synthetic, real, recogniser)
    resumed = (folder / CHECKPOINT).exists()
    if resumed:
        training.load(folder / CHECKPOINT)
    require_same_step(fabric, training.step, folder)
    sample, real_sample = training.first_batches()
    started, first_image = time.monotonic(), training.images

    leads = fabric.is_global_zero
    with MetricsLog(folder, training.step if resumed else None, writes=leads) as log:
        while training.step < settings.total_steps:
            figures = training.advance()
            step, last = training.step, training.step == settings.total_steps
            pictured = training.adversarial and (step % settings.picture_every == 0 or last)
            if leads and pictured:
                with torch.no_grad():
                    refined = training.average(sample)
                picture = sheet_png(sample, refined, real_sample)
                write_bytes(folder / f"sheet-{step:06d}.png", picture)
                if label_agreement is not None:
                    figures["label_agreement"] = label_agreement(sample, refined)
            log.log(step, **figures)
            _require_finite(step, figures)
            for sentence in training.new_alarms(figures):
                warn(f"refining, step {step}: {sentence}")
            if leads and (step % settings.checkpoint_every == 0 or last):
                training.save(folder / CHECKPOINT)
            seconds = max(time.monotonic() - started, 1e-9)
            speed = {"images_per_second": (training.images - first_image) / seconds}
            on_step(step, settings.total_steps, figures | speed)

    if leads:
        save_refiner(folder / REFINER, training.average)
    return SimGANResult(
        refiner=training.average,
        flops=count_training_flops(settings, *sample.shape[2:]),
        images=training.images,
        alarms=tuple(training.alarms.values()),
        figures=training.figures,
    )


class _Training:
    """All that changes while training, and so all that a checkpoint holds."""

    def __init__(
        self,
        fabric: Fabric,
        settings: SimGANSettings,
        seed: int,
        synthetic: BatchStream,
        real: BatchStream,
        recogniser: Recogniser | None,
    ) -> None:
        self.fabric, self.settings, self.seed = fabric, settings, seed
        self.recogniser = recogniser
        expected = (share(fabric, settings.batch_size), settings.refiner.channels)
        self.synthetic = _Batches("synthetic", synthetic, expected, fabric.device)
        self.real = _Batches("real", real, expected, fabric.device)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            refiner = Refiner(settings.refiner)
            discriminator = Discriminator(settings.discriminator)
        self.average = copy.deepcopy(refiner).to(fabric.device).eval().requires_grad_(False)
        self.refiner, self.refiner_optimizer = fabric.setup(
            refiner, _adam(refiner, settings.refiner_learning_rate)
        )
        self.discriminator, self.discriminator_optimizer = fabric.setup(
            discriminator, _adam(discriminator, settings.discriminator_learning_rate)
        )
        self.history = ImageHistory(settings.history_capacity, torch.Generator().manual_seed(seed))
        self.step = 0
        self.refiner_updates = 0
        self.figures: dict[str, float] = {}
        self.recent: list[dict[str, float]] = []
        self.alarms: dict[str, str] = {}

    @property
    def images(self) -> int:
        return (self.synthetic.count + self.real.count) * self.settings.batch_size

    @property
    def adversarial(self) -> bool:
        """Whether the step just made was one of Algorithm 1, after both pre-trainings."""
        return self.step > self.settings.total_steps - self.settings.steps

    def first_batches(self) -> tuple[Tensor, Tensor]:
        """The first synthetic and real batch: the same after every restart, for the pictures."""
        sample, real_sample = self.synthetic.first(), self.real.first()
        if sample.shape != real_sample.shape:
            raise ShapeError(
                f"expected synthetic and real images of one size, got {tuple(sample.shape)} and "
                f"{tuple(real_sample.shape)}; bring both to the same"
            )
        return sample, real_sample

    def advance(self) -> dict[str, float]:
        """One step of the phase that it belongs to; the mean figures of its updates."""
        s = self.settings
        self.step += 1
        if self.step <= s.pretrain_refiner_steps:
            updates = [self._update_refiner(adversarial=False)]
        elif not self.adversarial:
            updates = [self._update_discriminator()]
        else:
            updates = [self._update_refiner(adversarial=True) for _ in range(s.refiner_updates)]
            updates += [self._update_discriminator() for _ in range(s.discriminator_updates)]
        self.figures = _means(updates)
        return self.figures

    def _update_refiner(self, *, adversarial: bool) -> Figures:
        synthetic = self.synthetic.next()
        # DDP awaits gradients of all that a module forwards; the frozen discriminator has none.
        with frozen(self.discriminator), self.fabric.no_backward_sync(self.discriminator):
            loss, figures = (
                refiner_loss(
                    self.refiner, self.discriminator, synthetic, self.settings, self.recogniser
                )
                if adversarial
                else refiner_pretraining_loss(self.refiner, synthetic)
            )
            self.refiner_optimizer.zero_grad()
            self.fabric.backward(loss)
        self.refiner_optimizer.step()
        self._average_refiner()
        return figures

    def _update_discriminator(self) -> Figures:
        loss, figures = discriminator_loss(
            self.refiner,
            self.discriminator,
            self.synthetic.next(),
            self.real.next(),
            self.history,
            self.fabric,
        )
        self.discriminator_optimizer.zero_grad()
        self.fabric.backward(loss)
        self.discriminator_optimizer.step()
        return figures

    @torch.no_grad()
    def _average_refiner(self) -> None:
        self.refiner_updates += 1
        n = self.refiner_updates
        # A short memory at first, or the average would stay at the untrained weights.
        decay = min(self.settings.ema_decay, (1 + n) / (10 + n))
        for kept, new in zip(self.average.parameters(), self.refiner.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)

    def new_alarms(self, figures: dict[str, float]) -> list[str]:
        """Sentences of the alarms that these figures raise for the first time."""
        if not self.adversarial:
            return []
        self.recent = [*self.recent, figures][-WINDOW:]
        raised = {
            name: sentence
            for name, alarm in ALARMS.items()
            if name not in self.alarms and (sentence := alarm(self.recent))
        }
        self.alarms |= raised
        return list(raised.values())

    def _parts(self) -> dict[str, Any]:
        return {
            "modules": {
                "refiner": self.refiner,
                "average": self.average,
                "discriminator": self.discriminator,
            },
            "optimizers": {
                "refiner": self.refiner_optimizer,
                "discriminator": self.discriminator_optimizer,
            },
        }

    def _made_with(self) -> dict[str, Any]:
        return {"settings": self.settings.model_dump(mode="json"), "seed": self.seed}

    def save(self, path: Path) -> None:
        numbers = {
            "made_with": self._made_with(),
            "step": self.step,
            "refiner_updates": self.refiner_updates,
            "synthetic_batches": self.synthetic.count,
            "real_batches": self.real.count,
            "figures": self.figures,
            "recent": self.recent,
            "alarms": self.alarms,
        }
        tensors = {f"history/{name}": tensor for name, tensor in self.history.state().items()}
        save_training_state(path, **self._parts(), tensors=tensors, numbers=numbers)

    def load(self, path: Path) -> None:
        tensors, numbers = load_training_state(path, **self._parts())
        if numbers.get("made_with") != self._made_with():
            raise RunError(
                f"expected the checkpoint {path} to be of these settings and seed, it is of "
                f"{numbers.get('made_with')}; go back to those, or delete it to start anew"
            )
        self.step = numbers["step"]
        self.refiner_updates = numbers["refiner_updates"]
        self.synthetic.count = numbers["synthetic_batches"]
        self.real.count = numbers["real_batches"]
        self.figures = numbers["figures"]
        self.recent = numbers["recent"]
        self.alarms = numbers["alarms"]
        history = {name: tensors[f"history/{name}"] for name in ("images", "generator")}
        self.history.restore(history, self.fabric.device)


class _Batches:
    """A stream, counted and checked; opened at its count when the first batch is asked for."""

    def __init__(
        self, name: str, stream: BatchStream, expected: tuple[int, int], device: torch.device
    ) -> None:
        self.count = 0
        self._name, self._stream, self._device = name, stream, device
        self._expected = expected
        self._iterator: Iterator[Tensor] | None = None

    def next(self) -> Tensor:
        if self._iterator is None:
            self._iterator = self._stream(self.count)
        self.count += 1
        return self._checked(next(self._iterator))

    def first(self) -> Tensor:
        return self._checked(next(self._stream(0)))

    def _checked(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[:2] != self._expected:
            raise ShapeError(
                f"expected {self._name} batches of {(*self._expected, 'H', 'W')}, got "
                f"{tuple(images.shape)}; change batch_size or channels, or the stream"
            )
        low, high = images.min().item(), images.max().item()
        # Images of two ranges are told apart at a glance, and the discriminator wins.
        if images.dtype != torch.float32 or not -1 <= low <= high <= 1:
            raise ShapeError(
                f"expected {self._name} images of float32 in [-1, 1], got {images.dtype} from "
                f"{low:.4g} to {high:.4g}; scale them"
            )
        return images.to(self._device)


def _adam(module: nn.Module, learning_rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=learning_rate, betas=(0.5, 0.999))


def _means(updates: Sequence[Figures]) -> dict[str, float]:
    names = dict.fromkeys(name for figures in updates for name in figures)
    values = {name: [u[name].detach() for u in updates if name in u] for name in names}
    return {name: torch.stack(each).mean().item() for name, each in values.items()}


def _require_finite(step: int, figures: dict[str, float]) -> None:
    diverged = {name: value for name, value in figures.items() if not math.isfinite(value)}
    if diverged:
        raise RunError(
            f"expected finite figures, at step {step} got {diverged}: training diverged; "
            "lower the learning rates, or train in 32-true precision"
        )
