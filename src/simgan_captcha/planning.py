"""What a configuration will train, and what that costs, before anything is trained."""

from simgan_captcha.config import RunConfig
from simgan_captcha.reader.adaptation import count_adaptation_flops
from simgan_captcha.reader.network import ReaderArchitecture
from simgan_captcha.reader.training import ReaderSettings, count_flops
from simgan_captcha.simgan import count_forward_flops, count_training_flops

SCOUTED = 6_000
"""Real images that calibration looks at: some hundreds of every character."""


def calibrates(config: RunConfig) -> bool:
    """Whether a run has a calibration stage; the seed's generator has nothing to fit."""
    return config.calibrate and config.generator == "fonts"


def planned_training_flops(config: RunConfig) -> int:
    """Floating-point operations that the trainings of a run will take; a multiply-add is two."""
    reader, size = config.reader, (config.scheme.height, config.scheme.width)
    architecture = reader_architecture(config)
    each = count_flops(architecture, reader.batch_size, backward=True)
    flops = each * reader.steps + count_adaptation_flops(architecture, config.adaptation)
    if calibrates(config):
        scout = reader_architecture(config, pose=True)
        training = count_flops(scout, reader.batch_size, backward=True) * config.calibration.steps
        scouting = training + scouting_flops(config, SCOUTED)
        flops += scouting * config.calibration.rounds
    elif config.refine:
        flops += each * config.witness_steps
    if config.refine:
        flops += count_training_flops(config.simgan, *size)
        if reader.images == "refined":
            refining = count_forward_flops(config.simgan.refiner, *size)
            flops += reader.steps * reader.batch_size * refining
    return flops


def reader_architecture(config: RunConfig, *, pose: bool = False) -> ReaderArchitecture:
    """The reader's network for this scheme; with ``pose``, the scout's."""
    scheme, reader = config.scheme, config.reader
    return ReaderArchitecture(
        scheme.height,
        scheme.width,
        scheme.length,
        len(scheme.alphabet),
        "attention" if pose else reader.kind,
        reader.channels,
        pose,
    )


def scouting_flops(config: RunConfig, images: int) -> int:
    """Floating-point operations of the scout's look at so many images."""
    return images * count_flops(reader_architecture(config, pose=True), 1, backward=False)


def brief_settings(config: RunConfig, steps: int) -> ReaderSettings:
    """The reader's, for a training on raw images of so many steps."""
    return config.reader.model_copy(update={"steps": steps, "images": "raw"})
