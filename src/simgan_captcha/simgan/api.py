"""SimGAN in one call: `train` for images of any kind, `train_refiner` for streams and Fabric.

Both functions run Algorithm 1 of SimGAN, arXiv:1612.07828, which updates the refiner R and the
discriminator D alternately. D(x) is the probability that a patch of x is refined, s are synthetic
images, and y are real images. The losses are means over patches, pixels and the batch::

    L_D = -1/2 mean log D(R(s)) - 1/2 mean log(1 - D(y))        equation 2, halved
    L_R = -mean log(1 - D(R(s))) + lambda mean |R(s) - s|       equation 4

Half of the refined images that D sees come from earlier steps (section 2.3). There are four
deviations from the paper. The losses are means in place of sums. The optimizer is Adam in place of
SGD. The result is an average of the weights of R. R learns the difference that it adds to the image
(``global_skip``). `SimGANSettings` also has methods that are newer than the paper. They are off by
default.
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
from simgan_captcha.simgan.updates import Features, Recognizer, count_training_flops
from simgan_captcha.training.metrics import MetricsLog
from simgan_captcha.training.parallel import require_ranks_in_step
from simgan_captcha.types import OnStep


class FixedNetworks(TypedDict, total=False):
    """Networks whose weights stay fixed. ``flops`` does not include their operations."""

    recognizer: Recognizer | None
    """The recognizer for ``settings.consistency``. It maps images (B, C, H, W) to logits
    (..., K)."""
    features: Features | None
    """The network for ``settings.features``. It maps images (B, C, H, W) to a list of feature maps
    (B, c, h, w)."""


class Watching(FixedNetworks, total=False):
    """Optional callbacks and helpers of a training."""

    on_step: OnStep
    """It is called after every step. The figures contain ``images_per_second``."""
    warn: Callable[[str], None]
    """It is called with the sentence of each alarm when the alarm is first raised."""
    label_agreement: LabelAgreement | None
    """It is called every ``picture_every`` adversarial steps with the first synthetic batch.
    Without it, the alarm `alarms.refining_destroys_labels` is off."""


CHECKPOINT = "checkpoint.safetensors"
REFINER = "refiner.safetensors"


@dataclass(frozen=True)
class SimGANResult:
    """Result of a training."""

    refiner: Refiner
    """The averaged refiner, in evaluation mode, on the device of the training."""
    flops: int
    """Number of floating-point operations of the whole training. It is counted, not measured, so
    it is the same on every machine."""
    images: int
    """Number of synthetic and real images used, in all processes together."""
    alarms: tuple[str, ...]
    """Sentences of the alarms that were raised, each at most once."""
    figures: dict[str, float]
    """Figures of the last step, as in metrics.jsonl."""


def train(
    synthetic: Images,
    real: Images,
    settings: SimGANSettings | None = None,
    *,
    folder: Path | str | None = None,
    seed: int = 1,
    progress: OnStep | None = None,
    device: str = "auto",
    **fixed: Unpack[FixedNetworks],
) -> Refiner:
    """Train a refiner that makes synthetic images look like unlabelled real ones.

    Args:
        synthetic: Images to refine, all of the same size (H, W) with C channels. They are a tensor,
            an array, a PyTorch dataset or any iterable, see `batches.to_stream`. Values are
            ``uint8``, or float in [-1, 1].
        real: Unlabelled real images of the same size and number of channels.
        settings: Networks, losses and steps. C is taken from the images. None uses the defaults.
        folder: Folder for a checkpoint, ``metrics.jsonl``, TensorBoard events, pictures and
            ``refiner.safetensors`` (see `load_refiner`). To continue a stopped training, call this
            function again with the same images and settings. None writes nothing.
        seed: Random seed of the weights and of the order of images. The random state of the caller
            does not change.
        progress: ``progress(step, total, figures)``, called after every step.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, or ``mps``.
        **fixed: Networks with fixed weights that some settings need, see `FixedNetworks`.

    Returns:
        The refiner, in evaluation mode on the device. ``refiner(images)`` refines (B, C, H, W)
        float images in [-1, 1] of any size. Shape and range do not change.

    Raises:
        UsageError: There are no images, the device does not exist, or the settings need a network
            that was not given.
        ShapeError: The images have several sizes or kinds.
        RunError: The checkpoint has other settings, or the training diverged.

    Warns:
        RuntimeWarning: An alarm of `alarms` was raised, such as a discriminator that has won.

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
    # The two seeds differ. Otherwise the images of paired datasets would stay in pairs.
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
        **fixed,
    )
    return result.refiner


def _fabric(device: str) -> Fabric:
    """Fabric for one process on a device."""
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
    """Train a refiner until synthetic images look real, or continue an interrupted training.

    The function writes ``checkpoint.safetensors``, ``metrics.jsonl``, TensorBoard's ``events.*``
    and ``sheet-000500.png`` etc. into ``folder``. At the end, it writes the averaged weights to
    ``refiner.safetensors``. If the folder has a checkpoint of the same settings and seed, training
    continues from it. On the CPU, the resulting weights are exactly those of an uninterrupted
    training. For a finished training, the function only returns its result.

    Args:
        synthetic: Batches to refine, of ``settings.batch_size`` images each. With several
            processes, each has its own stream with its `parallel.share` of the images.
        real: Unlabelled real batches of the same shape and range.
        folder: Folder to write to; created if missing. None writes nothing.
        fabric: Device and precision (32-true or a mixed one). Several processes train together on
            the joint batch. All of them read the checkpoint, and only the first writes.
        seed: Random seed of the initial weights, the image history and everything else that is
            drawn.
        settings: Networks, losses and Algorithm 1.
        **watching: See `Watching`.

    Raises:
        ShapeError: A batch has an unexpected shape or range, or synthetic and real images differ
            in size.
        RunError: The checkpoint is damaged or has other settings, or the training diverged.
        UsageError: The settings need a recognizer, and none was given.
        ConfigError: The processes cannot share a batch.
    """
    recognizer = watching.get("recognizer")
    if settings.consistency and recognizer is None:
        raise UsageError("expected a recognizer with consistency above 0, got none; give one")
    features = watching.get("features")
    if settings.features and features is None:
        raise UsageError("expected a network of features with features above 0, got none; give one")
    training = Training(fabric, settings, seed, (synthetic, real), recognizer, features)
    if folder is not None and (folder / CHECKPOINT).exists():
        training.load(folder / CHECKPOINT)
    require_ranks_in_step(fabric, training.step, folder or Path())
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
    """Make all remaining steps, and write and report their figures."""
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
