"""SimGAN in one call: `train` for images of any kind, `train_refiner` for streams and Fabric.

Both run the same loop, Algorithm 1 of SimGAN, arXiv:1612.07828: refiner R and discriminator D
alternate. With D(x) the probability that a patch of x is refined, s synthetic and y real images,
and means over patches, pixels and the batch::

    L_D = -1/2 mean log D(R(s)) - 1/2 mean log(1 - D(y))        equation 2, halved
    L_R = -mean log(1 - D(R(s))) + lambda mean |R(s) - s|       equation 4

Half of the refined images that D sees are past ones (section 2.3). Deviations: means in place of
sums, Adam in place of SGD, an average of R's weights is kept, and R learns what to add to the image
(``global_skip``). `SimGANSettings` lists what came after the paper, all of it off by default.
"""

import math
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from simgan_captcha.atomic import write_bytes
from simgan_captcha.errors import RunError, UsageError
from simgan_captcha.simgan.batches import BatchStream, Images, to_stream
from simgan_captcha.simgan.networks import Refiner, save_refiner
from simgan_captcha.simgan.settings import SimGANSettings
from simgan_captcha.simgan.training import LabelAgreement, Training
from simgan_captcha.simgan.updates import Recogniser, count_training_flops
from simgan_captcha.training.metrics import MetricsLog
from simgan_captcha.training.parallel import require_same_step

OnStep = Callable[[int, int, dict[str, float]], None]
"""``on_step(step, total, figures)``, after every step."""


class Watching(TypedDict, total=False):
    """What accompanies a training; all of it may be left out."""

    on_step: OnStep
    """Called after every step, with ``images_per_second`` among the figures."""
    warn: Callable[[str], None]
    """Gets every alarm's sentence when it is first raised."""
    label_agreement: LabelAgreement | None
    """Measured every ``picture_every`` adversarial steps on the first synthetic batch; without it
    that alarm is silent."""
    recogniser: Recogniser | None
    """What ``settings.consistency`` asks; its weights stay. ``flops`` leaves it out."""


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


def train(
    synthetic: Images,
    real: Images,
    settings: SimGANSettings | None = None,
    *,
    folder: Path | str | None = None,
    seed: int = 1,
    progress: OnStep | None = None,
    device: str = "auto",
    recogniser: Recogniser | None = None,
) -> Refiner:
    """Train a refiner that makes synthetic images look like unlabelled real ones.

    Args:
        synthetic: Images to refine, all (H, W) large with C channels: a tensor, an array, a PyTorch
            dataset or any iterable, see `batches.to_stream`. ``uint8``, or float in [-1, 1].
        real: Images to look like, of the same size and channels, without labels.
        settings: Networks, losses and steps; C is taken from the images. None takes the defaults.
        folder: For a checkpoint, ``metrics.jsonl``, TensorBoard's events, pictures and
            ``refiner.safetensors`` (`load_refiner`). A training that was stopped goes on when it
            is called again with the same images and settings. None writes nothing.
        seed: Of weights and of the images' order. The caller's random state stays as it is.
        progress: ``progress(step, total, figures)``, called after every step.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, or ``mps``.
        recogniser: What ``settings.consistency`` asks: (B, C, H, W) images to logits (..., K).

    Returns:
        The refiner, in evaluation mode on the device: ``refiner(images)`` refines (B, C, H, W)
        float images in [-1, 1] of any size; shape and range stay.

    Raises:
        UsageError: There are no images, or no such device.
        ShapeError: Images of several sizes or kinds.
        RunError: The checkpoint is of other settings, or the training diverged.

    Warns:
        RuntimeWarning: An alarm of `alarms`, such as a discriminator that has won.

    Example:
        >>> import torch
        >>> clean, noisy = -torch.ones(64, 3, 8, 8), torch.rand(64, 3, 8, 8) * 2 - 1
        >>> small = SimGANSettings(steps=2, pretrain_discriminator_steps=1)
        >>> refiner = train(clean, noisy, small, device="cpu")
        >>> refiner(clean[:5]).shape
        torch.Size([5, 3, 8, 8])
    """
    settings = settings or SimGANSettings()
    fabric = _fabric(device)
    # Two orders, so that datasets of pairs do not come in pairs.
    streams = [
        to_stream(images, settings.batch_size, 2 * seed + k)
        for k, images in enumerate((synthetic, real))
    ]
    channels = next(streams[0](0)).shape[1]
    result = train_refiner(
        synthetic=streams[0],
        real=streams[1],
        folder=None if folder is None else Path(folder),
        fabric=fabric,
        seed=seed,
        settings=settings.with_channels(channels),
        on_step=progress or (lambda step, total, figures: None),
        warn=lambda sentence: warnings.warn(sentence, RuntimeWarning, stacklevel=4),
        recogniser=recogniser,
    )
    return result.refiner


def _fabric(device: str) -> Fabric:
    """One process on a device."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise UsageError(f"expected the device auto, cpu, cuda, cuda:N or mps, got {device!r}")
    kind, _, number = device.partition(":")
    try:
        return Fabric(accelerator=kind, devices=[int(number)] if number else 1)
    except (RuntimeError, MisconfigurationException) as error:
        raise UsageError(f"expected a device that is there, got {device!r}: {error}") from error


def train_refiner(
    *,
    synthetic: BatchStream,
    real: BatchStream,
    folder: Path | None,
    fabric: Fabric,
    seed: int,
    settings: SimGANSettings,
    **watching: Unpack[Watching],
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
        folder: Where to write; made if missing. None writes nothing.
        fabric: Device and precision (32-true or a mixed one). Several processes train as one on the
            joint batch: all read the checkpoint, the first alone writes.
        seed: Of the first weights, of the image history and of everything drawn.
        settings: Networks, losses and Algorithm 1.
        **watching: See `Watching`.

    Raises:
        ShapeError: A batch of another shape or range than expected, or of both sizes.
        RunError: The checkpoint is damaged or of other settings, or the training diverged.
        UsageError: There is no recogniser to ask.
        ConfigError: Several processes cannot share a batch.
    """
    recogniser = watching.get("recogniser")
    if settings.consistency and recogniser is None:
        raise UsageError("expected a recogniser with consistency above 0, got none; give one")
    training = Training(fabric, settings, seed, (synthetic, real), recogniser)
    if folder is not None and (folder / CHECKPOINT).exists():
        training.load(folder / CHECKPOINT)
    require_same_step(fabric, training.step, folder or Path())
    samples = training.first_batches()
    _run(training, samples, folder, watching)
    if folder is not None and fabric.is_global_zero:
        save_refiner(folder / REFINER, training.average)
    return SimGANResult(
        refiner=training.average,
        flops=count_training_flops(settings, *samples[0].shape[2:]),
        images=training.images,
        alarms=tuple(training.alarms.values()),
        figures=training.figures,
    )


def _run(
    training: Training,
    samples: tuple[Tensor, Tensor],
    folder: Path | None,
    watching: Watching,
) -> None:
    """Step after step to the end, with all that is written and reported on the way."""
    settings = training.settings
    on_step, warn = watching.get("on_step"), watching.get("warn")
    started, first_image = time.monotonic(), training.images
    writes = folder is not None and training.fabric.is_global_zero
    where, resumed_at = folder or Path(), training.step or None
    with MetricsLog(where, resumed_at, writes=writes) as log:
        while training.step < settings.total_steps:
            figures = training.advance()
            step, last = training.step, training.step == settings.total_steps
            pictured = training.adversarial and (step % settings.picture_every == 0 or last)
            if pictured and training.fabric.is_global_zero:
                picture = training.look(*samples, watching.get("label_agreement"))
                if writes:
                    write_bytes(where / f"sheet-{step:06d}.png", picture)
            log.log(step, **figures)
            _require_finite(step, figures)
            for sentence in training.new_alarms(figures):
                if warn:
                    warn(f"refining, step {step}: {sentence}")
            if writes and (step % settings.checkpoint_every == 0 or last):
                training.save(where / CHECKPOINT)
            seconds = max(time.monotonic() - started, 1e-9)
            speed = {"images_per_second": (training.images - first_image) / seconds}
            if on_step:
                on_step(step, settings.total_steps, figures | speed)


def _require_finite(step: int, figures: dict[str, float]) -> None:
    diverged = {name: value for name, value in figures.items() if not math.isfinite(value)}
    if diverged:
        raise RunError(
            f"expected finite figures, at step {step} got {diverged}: training diverged; "
            "lower the learning rates, or train in 32-true precision"
        )
