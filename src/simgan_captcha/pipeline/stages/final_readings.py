"""The last stage of a run: read all images, rescore uncertain ones, and estimate the accuracy.

The better recognizer reads, see `_choose`. The estimate of its accuracy uses unlabelled real images
and synthetic images with known texts.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from simgan_captcha.atomic import write_json
from simgan_captcha.calibration.rescoring import (
    DOUBTED,
    UNCERTAIN,
    Comparisons,
    Redrawing,
    borderline_characters,
    contradicts,
    decide,
    does_harm,
    uncertain_characters,
)
from simgan_captcha.inference.readings import Reading, save_readings
from simgan_captcha.pipeline.cost import (
    CHECKED,
    COMPARED,
    KNOWN,
    check_flops,
    recognizer_architecture,
)
from simgan_captcha.pipeline.estimate import (
    Estimate,
    diagnose,
    distilled_estimate,
    estimate_accuracy,
    first_is_better,
    limited_by_agreement,
    limited_by_readings,
)
from simgan_captcha.pipeline.manifest import StageOutcome
from simgan_captcha.pipeline.routes import recognizers, stages_taken
from simgan_captcha.pipeline.run_data import RunData
from simgan_captcha.pipeline.run_folder import DIAGNOSIS, READINGS, TeacherTexts
from simgan_captcha.recognizer.decode import decode, read_probabilities
from simgan_captcha.recognizer.train import count_flops
from simgan_captcha.recognizer.tta import VIEWS, read_views
from simgan_captcha.simulator.settings import layout_of
from simgan_captcha.simulator.simulator import AS_FOUND, Simulator
from simgan_captcha.types import Floats, GreyImages, Ids, OnStep

_DISTILLED = "distill"
_NONE = np.zeros((0, 0, 0), np.float32)
_STREAM = 5  # random stream of the known images; trainings use other numbers


@dataclass
class _Probabilities:
    """Probabilities (N, L, K) of real and of known images by one recognizer.

    The distilled recognizer reads no known images, as nothing was fitted for it.
    """

    real: Floats
    known: Floats


@dataclass(frozen=True)
class _Known:
    """Synthetic images with known texts."""

    images: GreyImages
    ids: Ids
    texts: list[str]


def check_simulated(data: RunData, folder: Path, advance: OnStep) -> StageOutcome:
    """Estimate the accuracy of the recognizer that learned from the simulator.

    The generalist has not been specialized yet, so only its first readings limit the estimate.
    """
    stage = "read"
    reader, background = data.recognizer(stage), data.background()
    known = _draw_known(data, CHECKED)
    read = _Probabilities(
        read_probabilities(reader, background, data.images[:CHECKED], advance),
        read_probabilities(reader, background, known.images, advance),
    )
    estimate = _estimate(data, stage, known, {stage: read})
    return StageOutcome(
        (),
        {"estimate": asdict(estimate), "rescores": _rescores(data, read, known, advance)},
        images=len(read.real) + len(read.known),
        training_flops=check_flops(data.config),
    )


def read_captchas(data: RunData, folder: Path, advance: OnStep) -> StageOutcome:
    """Read all stored images with the better recognizer."""
    scheme, background = data.config.scheme, data.background()
    names, images = data.captchas
    readers = {stage: data.recognizer(stage) for stage in recognizers(data.config, data.run)}
    known = _draw_known(data) if set(readers) - {_DISTILLED} else None
    compared, estimates = dict[str, _Probabilities](), dict[str, Estimate]()
    for stage, reader in readers.items():
        drawn = None if stage == _DISTILLED else known
        compared[stage] = _Probabilities(
            read_probabilities(reader, background, images[:COMPARED], advance),
            read_probabilities(reader, background, drawn.images, advance) if drawn else _NONE,
        )
        estimates[stage] = _estimate(data, stage, drawn, compared)
    kept = _choose(data, estimates, compared)
    known = None if kept == _DISTILLED else known
    read = compared[kept]
    if len(images) > COMPARED:
        rest = read_probabilities(readers[kept], background, images[COMPARED:], advance)
        read.real = np.concatenate([read.real, rest])
    verified: dict[str, Any] = {}
    if known is not None and data.config.calibrates:
        verified = _verify(data, read, known, advance)
    again = 0, 0
    # Where most uncertain characters are drawn, that corrects what views would correct, and more.
    if verified.get("uncertain", 0) <= verified.get("undrawn", 0):
        again = _read_views(data, readers[kept], read, known, advance)
    estimates[kept] = _estimate(data, kept, known, compared)
    readings = list(decode(scheme, names, read.real))
    save_readings(folder / READINGS.name, readings)
    diagnosis = verified | diagnose(
        readings,
        list(decode(scheme, known.texts, read.known)) if known else [],
        known.texts if known else [],
        _in_order_of_training(estimates, data),
        kept,
        scheme.alphabet,
    )
    if "undecided" in verified:
        diagnosis["warnings"].append(verified["undecided"])
    write_json(folder / DIAGNOSIS.name, diagnosis)
    for warning in diagnosis["warnings"]:
        data.warn(warning)
    looked_at = len(readers) * min(COMPARED, len(images)) + sum(
        len(p.known) for p in compared.values()
    )
    return StageOutcome(
        (READINGS.name, DIAGNOSIS.name),
        _result(readings, estimates[kept], kept, again)
        | verified
        | {"warnings": diagnosis["warnings"]},
        images=len(readings) + looked_at,
        # Reading does not count as training, except for the images of the estimate.
        training_flops=(looked_at + VIEWS * again[1])
        * count_flops(recognizer_architecture(data.config), 1, backward=False),
    )


def _in_order_of_training(estimates: dict[str, Estimate], data: RunData) -> dict[str, Estimate]:
    """The estimates of the recognizers, that of the first one trained first."""
    order = [stage.name for stage in stages_taken(data.config, data.run)]
    return {stage: estimates[stage] for stage in sorted(estimates, key=order.index)}


def _result(
    readings: list[Reading], estimate: Estimate, kept: str, again: tuple[int, int]
) -> dict[str, Any]:
    confidence = sum(reading.confidence for reading in readings) / len(readings)
    return {
        "mean_confidence": round(confidence, 4),
        "estimated_accuracy": round(estimate.accuracy, 4),
        "estimated_interval": [round(estimate.low, 4), round(estimate.high, 4)],
        "kept": kept,
        "read_again": again[0],
        "known_read_again": again[1],
    }


def _draw_known(data: RunData, count: int = KNOWN) -> _Known:
    """Draw the synthetic images of the accuracy estimate.

    They are calibrated, without the uncalibrated share of the training images.
    """
    simulator = data.simulator(data.calibration())
    if isinstance(simulator, Simulator) and simulator.calibration is not None:
        simulator.shares = AS_FOUND
    images, ids = simulator.batch(np.random.default_rng([_STREAM, data.seed]), count)
    return _Known(images, ids, [data.config.scheme.decode(row.tolist()) for row in ids])


def _estimate(
    data: RunData, stage: str, known: _Known | None, compared: dict[str, _Probabilities]
) -> Estimate:
    """The estimate of one recognizer, limited by what the generalist reads."""
    if known is None:
        return distilled_estimate(data.run)
    read, scheme = compared[stage], data.config.scheme
    readings = list(decode(scheme, data.captchas[0][: len(read.real)], read.real))
    estimate = estimate_accuracy(
        list(decode(scheme, known.texts, read.known)), known.texts, readings
    )
    estimate = _limited_by_first_look(data, estimate, readings)
    if _DISTILLED not in compared:
        return estimate
    pairs = _paired(data, compared[stage], compared[_DISTILLED])
    alike = [one.text == other.text for one, other in pairs]
    return limited_by_agreement(estimate, sum(alike) / len(alike), distilled_estimate(data.run))


def _choose(
    data: RunData, estimates: dict[str, Estimate], compared: dict[str, _Probabilities]
) -> str:
    """The stage of the better recognizer.

    Among recognizers that learned from the simulator, it is that of the highest estimate. The
    estimates of this one and of the distilled one have different sources, and synthetic images that
    are easier than the real ones make the first too high. So each of the two is judged by the
    readings of the other one instead, see `first_is_better`.
    """
    simulated = [stage for stage in estimates if stage != _DISTILLED]
    if not simulated:
        return _DISTILLED
    best = max(simulated, key=lambda stage: estimates[stage].accuracy)
    if _DISTILLED not in compared:
        return best
    pairs = _paired(data, compared[best], compared[_DISTILLED])
    better = first_is_better(
        [(one.text, one.confidence) for one, _ in pairs],
        [(other.text, other.confidence) for _, other in pairs],
    )
    if better is None:
        return max(best, _DISTILLED, key=lambda stage: estimates[stage].accuracy)
    return best if better else _DISTILLED


def _paired(
    data: RunData, one: _Probabilities, other: _Probabilities
) -> list[tuple[Reading, Reading]]:
    """Readings of the images that two recognizers have both read; the kept one has read all."""
    both = min(len(one.real), len(other.real))
    scheme, names = data.config.scheme, data.captchas[0][:both]
    first, second = (decode(scheme, names, read.real[:both]) for read in (one, other))
    return list(zip(first, second, strict=True))


def _limited_by_first_look(data: RunData, estimate: Estimate, readings: list[Reading]) -> Estimate:
    if not data.config.begins_pretrained:
        return estimate
    first = TeacherTexts.of_stage(data.run / "look")
    text_of = {reading.name: reading.text for reading in readings}
    pairs = [
        (confidence, text == text_of[name])
        for name, text, confidence in zip(first.names, first.texts, first.confidences, strict=True)
        if name in text_of
    ]
    return limited_by_readings(estimate, [c for c, _ in pairs], [alike for _, alike in pairs])


def _read_views(
    data: RunData,
    recognizer: nn.Module,
    read: _Probabilities,
    known: _Known | None,
    advance: OnStep,
) -> tuple[int, int]:
    """Average uncertain readings over augmented views; return the numbers of images read again."""
    if not data.config.adaptation.steps:  # such a run reads by its network alone
        return 0, 0
    view = partial(
        read_views,
        recognizer,
        data.background(),
        seed=data.seed,
        on_step=advance,
    )
    read.real, again = view(data.images, read.real)
    if known is None:
        return again, 0
    read.known, known_again = view(known.images, read.known)
    return again, known_again


def _verify(data: RunData, read: _Probabilities, known: _Known, advance: OnStep) -> dict[str, Any]:
    """Rescore real and known images in place, and return the counts."""
    redrawing = _redrawing(data)
    trust = _trust(data, redrawing, read, known, advance)
    if trust.why_refused:
        return {"uncertain": 0, "undrawn": 0, "changed": 0, "undecided": trust.why_refused}
    uncertain = uncertain_characters(read.real, trust.least)
    doubts = redrawing.compare(data.images, read.real, uncertain, _shown_by(advance))
    decided = decide(read.real, doubts)
    changed = int((decided.argmax(-1) != read.real.argmax(-1)).sum())
    read.real, read.known = decided, decide(read.known, trust.known_doubts)
    drawn = len(doubts.images)
    return {"uncertain": drawn, "undrawn": int(uncertain.sum()) - drawn, "changed": changed}


def _rescores(data: RunData, read: _Probabilities, known: _Known, advance: OnStep) -> bool:
    """Whether drawings may rescore all doubted characters, judged by the first images."""
    trust = _trust(data, _redrawing(data), read, known, advance)
    return trust.why_refused is None and trust.least == DOUBTED


def _redrawing(data: RunData) -> Redrawing:
    calibration = data.calibration()
    assert calibration is not None  # rescoring needs a calibration
    return Redrawing(data.background(), data.label_checker(), calibration, data.config.scheme)


def _shown_by(advance: OnStep) -> Callable[[int, int], None]:
    return lambda done, total: advance(done, total, {})


class _Trust(NamedTuple):
    """How far drawings may rescore readings."""

    why_refused: str | None
    """Why they may not; None if they may."""
    least: float
    """Probability of the second class from which they may."""
    known_doubts: Comparisons
    """Comparisons of these characters of known images."""


def _trust(
    data: RunData, redrawing: Redrawing, read: _Probabilities, known: _Known, advance: OnStep
) -> _Trust:
    """How far drawings may rescore the first ``len(read.real)`` images."""
    scheme, why = data.config.scheme, None
    draw = partial(redrawing.compare, on_compared=_shown_by(advance))
    chosen = borderline_characters(read.real, redrawing.calibration)
    borderline = draw(data.images[: len(read.real)], read.real, chosen)
    least = UNCERTAIN if contradicts(borderline, share=0) else DOUBTED
    known_doubts = draw(known.images, read.known, uncertain_characters(read.known, least))
    if contradicts(borderline):
        could_say = not scheme.multiple_fonts and layout_of(scheme, data.config.simulator)
        hint = "; if images use different fonts, set multiple_fonts = true in the scheme"
        why = (
            "drawings contradict confident readings, so uncertain characters are not rescored: the "
            f"calibrated glyphs do not fit all letters{hint if could_say else ''}"
        )
    elif does_harm(known_doubts, known.ids):
        why = (
            "rescoring lowers accuracy on synthetic images with known texts, so uncertain "
            "characters are not rescored"
        )
    return _Trust(why, least, known_doubts)
