"""What a configuration will train, and what that costs, before anything is trained."""

from simgan_captcha.config.settings import RunConfig
from simgan_captcha.recognizer.adapt import count_adaptation_flops, steps_of
from simgan_captcha.recognizer.network import ReaderArchitecture
from simgan_captcha.recognizer.settings import ReaderSettings
from simgan_captcha.recognizer.train import count_flops
from simgan_captcha.simgan import count_forward_flops, count_training_flops

KNOWN = 3_000
"""Drawn images that a finished run reads, to know how often it errs."""

COMPARED = 5_000
"""Real images that each of a run's readers reads, to tell which to keep."""


def calibrates(config: RunConfig) -> bool:
    """Whether a run has a calibration stage; the original's generator has nothing to fit."""
    return config.calibrate and config.generator == "fonts"


def reads_poses(config: RunConfig) -> bool:
    """Whether the reader's training goes on telling poses, as the scout's did."""
    return calibrates(config) and config.reader.kind == "attention"


def verifies(config: RunConfig) -> bool:
    """Whether doubts are decided by drawing; without a calibration there are no glyphs to draw."""
    return calibrates(config) and config.verification.doubt < 1


def planned_training_flops(config: RunConfig, *, unsure: float = 0.0) -> int:
    """Floating-point operations that the trainings of a run will take; a multiply-add is two.

    Not those of known images that are read again, see `tta`: nobody knows how many are doubtful.

    Args:
        config: The run's.
        unsure: Share of real characters that the reader will not be sure of before it adapts.
    """
    reader, size = config.reader, (config.scheme.height, config.scheme.width)
    architecture = reader_architecture(config)
    trained = reader_architecture(config, pose=reads_poses(config))
    each = count_flops(trained, reader.batch_size, backward=True)
    flops = each * reader.steps + count_adaptation_flops(
        architecture, config.adaptation, steps_of(config.adaptation, unsure)
    )
    if calibrates(config):
        scout, calibration = reader_architecture(config, pose=True), config.calibration
        each = count_flops(scout, reader.batch_size, backward=True)
        for number in range(1, calibration.rounds + 1):
            flops += each * calibration.steps_of(number)
        flops += scouting_flops(config, calibration.images) * calibration.rounds
    elif config.refine:
        flops += each * config.witness_steps
    readers = 2 if config.adaptation.steps else 1
    read = count_flops(architecture, 1, backward=False) * (KNOWN + COMPARED)
    flops += read * readers
    if config.refine:
        flops += count_training_flops(config.simgan, *size)
        if config.simgan.consistency:
            flops += recognising_flops(config)
        if reader.images == "refined":
            refining = count_forward_flops(config.simgan.refiner, *size)
            flops += reader.steps * reader.batch_size * refining
    return flops


def plan_in_words(config: RunConfig) -> str:
    """What a run will train, for whoever begins it."""
    least, most = (planned_training_flops(config, unsure=share) / 1e12 for share in (0.0, 1.0))
    doubt = f", up to {most:.1f} if the reader is sure of little" if most > least else ""
    return f"planned    {least:.1f} TFLOP of training{doubt}"


def reader_architecture(config: RunConfig, *, pose: bool = False) -> ReaderArchitecture:
    """The reader's network for this scheme; with ``pose``, the scout's."""
    scheme, reader = config.scheme, config.reader
    return ReaderArchitecture(
        scheme.height,
        scheme.width,
        scheme.length,
        scheme.classes,
        "attention" if pose else reader.kind,
        reader.channels,
        pose,
    )


def scouting_flops(config: RunConfig, images: int) -> int:
    """Floating-point operations of the scout's look at so many images."""
    return images * count_flops(reader_architecture(config, pose=True), 1, backward=False)


def recognising_flops(config: RunConfig) -> int:
    """Floating-point operations of the recogniser that guards the text while refining.

    It reads each image before and after; the second time a gradient goes back, which is counted as
    a whole training step.
    """
    simgan = config.simgan
    architecture = reader_architecture(config, pose=calibrates(config))
    each = sum(count_flops(architecture, simgan.batch_size, backward=b) for b in (False, True))
    return each * simgan.steps * simgan.refiner_updates


def brief_settings(config: RunConfig, steps: int) -> ReaderSettings:
    """The reader's, for a training on raw images of so many steps."""
    return config.reader.model_copy(update={"steps": steps, "images": "raw"})
