"""The floating-point operations of a run, computed before anything is trained.

A multiply-add counts as two.
"""

from simgan_captcha.config.settings import RunConfig
from simgan_captcha.pipeline.graph import stages_of
from simgan_captcha.recognizer.adapt import count_adaptation_flops, steps_of
from simgan_captcha.recognizer.network import RecognizerArchitecture
from simgan_captcha.recognizer.train import count_flops
from simgan_captcha.simgan import count_forward_flops, count_training_flops

KNOWN = 3_000
"""Synthetic images whose errors the accuracy estimate counts."""

COMPARED = 5_000
"""Real images that each recognizer of a run reads, to choose between them."""

CHECKED = 1_500
"""Synthetic images, and real ones, of the check of the simulator's recognizer."""


def planned_training_flops(config: RunConfig, *, unsure: float = 0.0) -> int:
    """Floating-point operations that the trainings of a run will take.

    Test-time augmentation of synthetic images is left out, because its extent is not known yet.

    Args:
        config: The configuration of the run.
        unsure: Share of real characters with low confidence before the adaptation. If it is 0, a
            run that starts with the generalist leaves out the simulator.
    """
    simulates = unsure > 0 or not config.begins_pretrained
    return sum(
        stage.work().planned_flops(config, unsure)
        for stage in stages_of(config)
        if simulates or stage.route != "simulator"
    )


def plan_in_words(config: RunConfig) -> str:
    """The planned training as a line for the user."""
    least, most = (planned_training_flops(config, unsure=share) for share in (0.0, 1.0))
    case = "the recognizer is unsure"
    if config.begins_pretrained:
        alone = config.model_copy(update={"pretrained": False})
        least, case = min(least, planned_training_flops(alone)), "both routes are needed"
    more = f", up to {most / 1e12:.1f} if {case}" if most > least else ""
    return f"planned    {least / 1e12:.1f} TFLOP of training{more}"


def recognizer_architecture(config: RunConfig, *, pose: bool = False) -> RecognizerArchitecture:
    """The recognizer's network for the scheme; with ``pose``, the bootstrap recognizer's."""
    scheme, recognizer = config.scheme, config.recognizer
    return RecognizerArchitecture(
        scheme.height,
        scheme.width,
        scheme.max_length,
        scheme.classes,
        "attention" if pose else recognizer.kind,
        recognizer.channels,
        pose,
    )


# One function for each stage that trains.


def calibration_flops(config: RunConfig, unsure: float = 0.0) -> int:
    """Floating-point operations of all calibration rounds; a run may need fewer."""
    settings = config.calibration
    each = _step_flops(config, pose=True)
    return (
        each * sum(settings.steps_of_rounds)
        + pose_prediction_flops(config, settings.images) * settings.rounds
    )


def refining_flops(config: RunConfig, unsure: float = 0.0) -> int:
    """Floating-point operations of the refiner's training and of its label checker."""
    scheme = config.scheme
    flops = count_training_flops(config.simgan, scheme.height, scheme.width)
    if not config.calibrates:
        flops += _step_flops(config, pose=False) * config.label_check_steps
    if config.simgan.consistency:
        flops += label_check_flops(config)
    return flops


def reading_flops(config: RunConfig, unsure: float = 0.0) -> int:
    """Floating-point operations of the recognizer's supervised training."""
    recognizer, scheme = config.recognizer, config.scheme
    flops = _step_flops(config, pose=config.reads_poses) * recognizer.steps
    if config.refines:
        refining = count_forward_flops(config.simgan.refiner, scheme.height, scheme.width)
        flops += recognizer.steps * recognizer.batch_size * refining
    return flops


def adaptation_flops(config: RunConfig, unsure: float = 0.0) -> int:
    """Floating-point operations of the adaptation."""
    steps = steps_of(config.adaptation, unsure)
    return count_adaptation_flops(recognizer_architecture(config), config.adaptation, steps)


def estimate_flops(config: RunConfig, unsure: float = 0.0) -> int:
    """Floating-point operations of the readings that the accuracy estimate is based on."""
    each, images = _image_flops(config), 0
    for stage in stages_of(config):
        if not stage.recognizer:
            continue
        if stage.route == "generalist":  # whose estimate needs no simulator
            images += COMPARED
        elif unsure > 0 or not config.begins_pretrained:
            images += KNOWN + COMPARED
    return each * images


def check_flops(config: RunConfig, unsure: float = 0.0) -> int:
    """Floating-point operations of the readings in the check of the simulator's recognizer."""
    return _image_flops(config) * 2 * CHECKED


def pose_prediction_flops(config: RunConfig, images: int) -> int:
    """Floating-point operations of the bootstrap recognizer's predictions for some images."""
    return images * count_flops(recognizer_architecture(config, pose=True), 1, backward=False)


def label_check_flops(config: RunConfig) -> int:
    """Floating-point operations of the label checker in the refiner's consistency loss.

    It reads each image before and after refining. The second time has a backward pass, which is
    counted as a whole training step.
    """
    simgan = config.simgan
    architecture = recognizer_architecture(config, pose=config.calibrates)
    each = sum(count_flops(architecture, simgan.batch_size, backward=b) for b in (False, True))
    return each * simgan.steps * simgan.refiner_updates


def _image_flops(config: RunConfig) -> int:
    """Floating-point operations of the recognizer for one image."""
    return count_flops(recognizer_architecture(config), 1, backward=False)


def _step_flops(config: RunConfig, *, pose: bool) -> int:
    architecture = recognizer_architecture(config, pose=pose)
    return count_flops(architecture, config.recognizer.batch_size, backward=True)
