"""The table of stages, for the pipeline, the report, the web pages and the cost.

To add a stage, write its work and add a row to `STAGES`. The table needs no torch, because the work
of a stage is imported when it begins.
"""

from collections.abc import Callable
from typing import Any

from simgan_captcha.atomic import file_hash
from simgan_captcha.config.settings import RunConfig
from simgan_captcha.generalist.shipped import shipped
from simgan_captcha.pipeline.stages.stage import Stage, Training, Work


def _after(*names: str) -> Callable[[RunConfig], tuple[str, ...]]:
    return lambda config: names


def _of(*keys: str) -> Callable[[RunConfig], dict[str, Any]]:
    return lambda config: config.dump(*keys)


def _store() -> Work:
    from simgan_captcha.pipeline.stages.preparation import store

    return Work(store)


def _background() -> Work:
    from simgan_captcha.pipeline.stages.preparation import background

    return Work(background)


def _background_settings(config: RunConfig) -> dict[str, Any]:
    scheme = config.scheme
    found = config.dump("encoding", "lines", "line_removal_width")
    if not scheme.shares_picture:  # the scheme determines how images are decoded
        found[scheme.background] = {"width": scheme.width, "height": scheme.height}
    return found


def _pictures(config: RunConfig) -> tuple[str, ...]:
    """The pictures that the generalist reads: without the background, if images share one."""
    return ("background",) if config.scheme.shares_picture else ("store",)


def _look() -> Work:
    from simgan_captcha.pipeline.stages import first_look

    return Work(first_look.look, first_look.look_flops)


def _generalist_settings(config: RunConfig) -> dict[str, Any]:
    scheme = config.scheme
    return {
        "texts": [scheme.alphabet, scheme.min_length, scheme.max_length],
        "generalist": file_hash(shipped("generalist.safetensors")),
    }


def _specialize_inputs(config: RunConfig) -> tuple[str, ...]:
    return (*_pictures(config), "look", "read")


def _specialize() -> Work:
    from simgan_captcha.pipeline.stages import specialization

    return Work(specialization.specialize_generalist, specialization.specialization_flops)


def _specialize_settings(config: RunConfig) -> dict[str, Any]:
    return {**config.dump("specialization"), **_generalist_settings(config)}


def _distill() -> Work:
    from simgan_captcha.pipeline.stages import distillation

    return Work(distillation.distill, distillation.distillation_flops)


def _distill_settings(config: RunConfig) -> dict[str, Any]:
    found = config.dump("scheme", "recognizer", "specialization", "distillation")
    del found["distillation"]["enough"]  # determines only the later stages
    return found


def _distill_trainings(config: RunConfig) -> tuple[Training, ...]:
    settings = config.distillation
    steps = settings.steps_of(config.scheme.classes)
    return tuple(Training(f"round-{n}", steps) for n in range(1, settings.rounds + 1))


def _simulate() -> Work:
    from simgan_captcha.pipeline.stages.preparation import simulate

    return Work(simulate)


def _calibrate() -> Work:
    from simgan_captcha.pipeline import cost
    from simgan_captcha.pipeline.stages import calibration

    return Work(calibration.calibrate, cost.calibration_flops)


def _calibrate_settings(config: RunConfig) -> dict[str, Any]:
    bootstrap = config.brief_training(config.calibration.steps)
    return {**config.dump("calibration"), "bootstrap": bootstrap.model_dump(mode="json")}


def _calibrate_trainings(config: RunConfig) -> tuple[Training, ...]:
    rounds = enumerate(config.calibration.steps_of_rounds, 1)
    return tuple(Training(f"round-{number}", steps) for number, steps in rounds)


def _simulated(config: RunConfig) -> tuple[str, ...]:
    return ("calibrate",) if config.calibrates else ("simulate",)


def _refine() -> Work:
    from simgan_captcha.pipeline import cost
    from simgan_captcha.pipeline.stages import training

    return Work(training.refine, cost.refining_flops)


def _refine_settings(config: RunConfig) -> dict[str, Any]:
    if config.calibrates:
        return config.dump("simgan")
    training = config.brief_training(config.label_check_steps)
    return {**config.dump("simgan"), "label_check": training.model_dump(mode="json")}


def _refine_trainings(config: RunConfig) -> tuple[Training, ...]:
    refiner = Training("", config.simgan.total_steps)
    if config.calibrates:
        return (refiner,)
    return Training("label_check", config.label_check_steps), refiner


def _read() -> Work:
    from simgan_captcha.pipeline import cost
    from simgan_captcha.pipeline.stages import training

    return Work(training.read, cost.reading_flops)


def _read_inputs(config: RunConfig) -> tuple[str, ...]:
    return (*_simulated(config), *(("refine",) if config.refines else ()))


def _adapt() -> Work:
    from simgan_captcha.pipeline import cost
    from simgan_captcha.pipeline.stages import training

    return Work(training.adapt, cost.adaptation_flops)


def _adapt_settings(config: RunConfig) -> dict[str, Any]:
    found = config.dump("adaptation")
    del found["adaptation"]["enough"]  # determines only whether it runs
    return found


def _check() -> Work:
    from simgan_captcha.pipeline import cost
    from simgan_captcha.pipeline.stages import final_readings

    return Work(final_readings.check_simulated, cost.check_flops)


def _readings() -> Work:
    from simgan_captcha.pipeline import cost
    from simgan_captcha.pipeline.stages import final_readings

    return Work(final_readings.read_captchas, cost.estimate_flops)


def _readings_inputs(config: RunConfig) -> tuple[str, ...]:
    reading = (stage.name for stage in stages_of(config) if stage.recognizer)
    return ("look", *(("calibrate",) if config.calibrates else ()), *reading)


STAGES = (
    Stage("store", "Download and store", _store),
    Stage(
        "background",
        "Background",
        _background,
        inputs=_after("store"),
        settings=_background_settings,
        seeded=False,
    ),
    Stage(
        "look",
        "First look of the generalist",
        _look,
        inputs=_pictures,
        settings=_generalist_settings,
        included=lambda config: config.begins_pretrained,
    ),
    Stage(
        "specialize",
        "Specialization of the generalist",
        _specialize,
        inputs=_specialize_inputs,
        settings=_specialize_settings,
        included=lambda config: config.begins_pretrained,
        route="generalist",
    ),
    Stage(
        "distill",
        "Distilled reader",
        _distill,
        inputs=_after("background", "specialize", "read"),
        settings=_distill_settings,
        included=lambda config: config.begins_pretrained,
        trainings=_distill_trainings,
        recognizer=True,
        route="generalist",
    ),
    Stage(
        "simulate",
        "Simulator",
        _simulate,
        inputs=_after("background"),
        settings=_of("scheme", "generator", "simulator"),
        route="simulator",
    ),
    Stage(
        "calibrate",
        "Calibration",
        _calibrate,
        inputs=_after("simulate"),
        settings=_calibrate_settings,
        included=lambda config: config.calibrates,
        trainings=_calibrate_trainings,
        route="simulator",
    ),
    Stage(
        "refine",
        "SimGAN refiner",
        _refine,
        inputs=_simulated,
        settings=_refine_settings,
        included=lambda config: config.refines,
        trainings=_refine_trainings,
        curves=True,
        route="simulator",
    ),
    Stage(
        "read",
        "Reader",
        _read,
        inputs=_read_inputs,
        settings=_of("recognizer"),
        trainings=lambda config: (Training("", config.recognizer.steps),),
        curves=True,
        recognizer=True,
        route="simulator",
    ),
    Stage(
        "check",
        "Check of the simulator's reader",
        _check,
        inputs=_after("look", "calibrate", "read"),
        settings=_of(),
        included=lambda config: config.begins_pretrained and config.calibrates,
        route="simulator",
        only_first=True,
    ),
    Stage(
        "adapt",
        "Adaptation",
        _adapt,
        inputs=_after("read"),
        settings=_adapt_settings,
        included=lambda config: config.adaptation.steps > 0,
        trainings=lambda config: (Training("", config.adaptation.steps),),
        curves=True,
        recognizer=True,
        route="simulator",
        improves=True,
    ),
    Stage(
        "readings",
        "Readings",
        _readings,
        inputs=_readings_inputs,
        settings=_of(),
    ),
)
"""All stages, in their usual order; see `pipeline.routes`."""


def stage_named(name: str) -> Stage:
    """The stage of this name.

    Raises:
        KeyError: No stage has this name.
    """
    return {stage.name: stage for stage in STAGES}[name]


def stages_of(config: RunConfig) -> tuple[Stage, ...]:
    """The stages of a run, in order."""
    return tuple(stage for stage in STAGES if stage.included(config))
