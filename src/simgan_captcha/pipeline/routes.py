"""The routes of a run, and the stages that it takes on them. This module needs no torch.

A run learns from texts of the generalist, from images of the simulator, or from both. Its first
look decides where it begins. Later stages are left out if an estimate shows that they bring little.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simgan_captcha.config.settings import RunConfig, load_config
from simgan_captcha.errors import ConfigError, RunError
from simgan_captcha.pipeline.estimate import (
    calibration_failure,
    checked_estimate,
    checked_rescoring,
    distilled_estimate,
    first_confidence,
)
from simgan_captcha.pipeline.graph import STAGES, stages_of
from simgan_captcha.pipeline.stages.stage import Route, Stage

UNKNOWN = 0.7
"""Mean confidence of the generalist's first readings below which a run begins with the simulator.

Self-training keeps what the generalist confuses. Of the families tried below this limit, the
simulator reads two far better and one as well (docs/experiments.md)."""

_UNTIL_CALIBRATION = ("simulate", "calibrate")


def routes(config: RunConfig, run: Path) -> tuple[Route, ...]:
    """The routes of a run, in order.

    A run whose first look shows that the generalist does not know the family begins with the
    simulator. The other route is taken if the first does not give a recognizer that is good enough.
    """
    if not config.begins_pretrained:
        return ("simulator",)
    confidence = first_confidence(run)
    known = confidence is None or confidence >= UNKNOWN or not config.calibrates
    return ("generalist", "simulator") if known else ("simulator", "generalist")


def in_order(config: RunConfig, run: Path) -> Iterator[Stage]:
    """The stages of a run in the order in which they run.

    The iterator must be advanced while the run works, because the first look decides the order.
    """
    stages = stages_of(config)
    yield from (stage for stage in stages[:-1] if stage.route is None)
    order = routes(config, run)
    for route in order:
        yield from (
            stage
            for stage in stages
            if stage.route == route and (route == order[0] or not stage.only_first)
        )
    yield stages[-1]


def left_out(stage: Stage, run: Path, config: RunConfig) -> str | None:
    """The reason why a run leaves out one of its stages; None if it needs the stage."""
    if stage.route is None or not config.begins_pretrained:
        return None
    drawn_from = stage.route == "simulator" and stage.name not in _UNTIL_CALIBRATION
    if drawn_from and calibration_failure(run):
        return "the simulator could not be calibrated"
    first = routes(config, run)[0]
    improves = first == "simulator" == stage.route and stage.improves
    if first == stage.route and not improves:
        return None
    try:
        accuracy = (distilled_estimate if first == "generalist" else checked_estimate)(run).accuracy
    except RunError:  # not known yet
        return None
    good = accuracy >= config.distillation.enough
    needed = good == (first == stage.route)
    nearly_all = improves and accuracy >= config.adaptation.enough and checked_rescoring(run)
    if needed and not nearly_all:
        return None
    name = "distilled reader" if first == "generalist" else "simulator's reader"
    return f"the {name} is estimated to read {accuracy:.0%} right"


def stages_taken(config: RunConfig, run: Path) -> tuple[Stage, ...]:
    """The stages of a run without those that are `left_out`, in the order in which they run."""
    return tuple(stage for stage in in_order(config, run) if not left_out(stage, run, config))


def recognizers(config: RunConfig, run: Path) -> tuple[str, ...]:
    """Names of the stages whose recognizers may read the run's images, in their usual order."""
    taken = stages_taken(config, run)
    return tuple(stage.name for stage in STAGES if stage.recognizer and stage in taken)


def recorded_config(recorded: Mapping[str, Any]) -> RunConfig | None:
    """The configuration in a ``run.json``; None if it is damaged or from another version."""
    config = recorded.get("config")
    try:
        return load_config(config) if isinstance(config, dict) else None
    except ConfigError:
        return None


def recorded_stages(recorded: Mapping[str, Any], run: Path) -> tuple[Stage, ...]:
    """The stages of the run in a ``run.json``; all stages if its configuration cannot be used."""
    config = recorded_config(recorded)
    return STAGES if config is None else stages_taken(config, run)
