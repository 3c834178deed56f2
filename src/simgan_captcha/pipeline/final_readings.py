"""The last stage of a run: read all images, rescore uncertain ones, and estimate the accuracy.

The recognizer with the higher estimated accuracy reads. The estimate uses unlabelled real images
and synthetic images with known texts.
"""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from simgan_captcha.atomic import write_json
from simgan_captcha.calibration.rescoring import (
    Comparisons,
    compare_readings,
    contradicts,
    decide,
    does_harm,
    doubted,
    hardly_doubted,
)
from simgan_captcha.inference.readings import save_readings
from simgan_captcha.pipeline.cost import COMPARED, KNOWN, reader_architecture, verifies
from simgan_captcha.pipeline.estimate import Estimate, diagnose, estimate_accuracy
from simgan_captcha.pipeline.learning import READER, Advance, Learning
from simgan_captcha.pipeline.manifest import StageOutcome
from simgan_captcha.pipeline.run_folder import DIAGNOSIS, READINGS
from simgan_captcha.recognizer.decode import decode, load_reader, read_probabilities
from simgan_captcha.recognizer.train import count_flops
from simgan_captcha.recognizer.tta import VIEWS, read_views, view_settings
from simgan_captcha.simulator.settings import layout_of
from simgan_captcha.simulator.simulator import Simulator, as_found
from simgan_captcha.types import Floats, GreyImages, Ids

_STREAM = 5  # random stream of the known images; `learning` uses other numbers


def read_captchas(learning: Learning, advance: Advance) -> StageOutcome:
    """Read all stored images with the recognizer of the highest estimated accuracy."""
    scheme, background = learning.config.scheme, learning.background()
    names, images = learning.captchas()
    known, ids = _known(learning)
    truths = [scheme.decode(row.tolist()) for row in ids]

    def read(stage: str, images: GreyImages) -> Floats:
        reader = load_reader(learning.run / stage / READER)[0]
        return read_probabilities(reader, background, images, advance)

    def estimate(of_known: Floats, of_real: Floats) -> Estimate:
        readings = decode(scheme, names[: len(of_real)], of_real)
        return estimate_accuracy(list(decode(scheme, truths, of_known)), truths, list(readings))

    stages = ["read", "adapt"] if learning.config.adaptation.steps else ["read"]
    of_known = {stage: read(stage, known) for stage in stages}
    estimates = {
        stage: estimate(of_known[stage], read(stage, images[:COMPARED])) for stage in stages
    }
    kept = max(stages, key=lambda stage: estimates[stage].accuracy)
    once, said, again, known_again = read(kept, images), of_known[kept], 0, 0
    of_real = once
    if learning.config.adaptation.steps:  # for either recognizer; both gain from augmented views
        view = partial(
            read_views,
            load_reader(learning.run / kept / READER)[0],
            background,
            moves=view_settings(learning.config.adaptation.augmentation),
            seed=learning.seed,
            on_step=advance,
        )
        (of_real, again), (said, known_again) = view(images, once), view(known, said)
    verified: dict[str, Any] = {}
    if verifies(learning.config):
        of_real, said, verified = _verify(
            learning, images, once, of_real, known, said, ids, advance
        )
    estimates[kept] = estimate(said, of_real)
    readings = list(decode(scheme, names, of_real))
    save_readings(learning.run / READINGS, readings)
    diagnosis = verified | diagnose(
        readings,
        list(decode(scheme, truths, said)),
        truths,
        estimates,
        kept,
        scheme.alphabet,
    )
    if "undecided" in verified:
        diagnosis["warnings"].append(verified["undecided"])
    write_json(learning.run / DIAGNOSIS, diagnosis)
    for warning in diagnosis["warnings"]:
        learning.warn(warning)
    confidence = sum(reading.confidence for reading in readings) / len(readings)
    looked_at = len(stages) * (KNOWN + min(COMPARED, len(images)))
    return StageOutcome(
        (READINGS.name, DIAGNOSIS.name),
        {
            "mean_confidence": round(confidence, 4),
            "estimated_accuracy": round(estimates[kept].accuracy, 4),
            "estimated_interval": [
                round(estimates[kept].low, 4),
                round(estimates[kept].high, 4),
            ],
            "kept": kept,
            "read_again": again,
            "known_read_again": known_again,
            **verified,
            "warnings": diagnosis["warnings"],
        },
        images=len(readings) + looked_at,
        # Reading does not count as training, except for the images of the estimate.
        training_flops=(looked_at + VIEWS * known_again)
        * count_flops(reader_architecture(learning.config), 1, backward=False),
    )


def _known(learning: Learning) -> tuple[GreyImages, Ids]:
    """Draw the synthetic images of the accuracy estimate, and their class ids.

    They are calibrated, without the uncalibrated share of the training images.
    """
    simulator = learning.simulator(learning.calibration())
    if isinstance(simulator, Simulator) and simulator.calibration is not None:
        simulator.settings = as_found(simulator.settings)
    return simulator.batch(np.random.default_rng([_STREAM, learning.seed]), KNOWN)


def _verify(
    learning: Learning,
    images: GreyImages,
    once: Floats,
    of_real: Floats,
    known: GreyImages,
    of_known: Floats,
    ids: Ids,
    advance: Advance,
) -> tuple[Floats, Floats, dict[str, Any]]:
    """Rescore real and known images; also return what was done.

    The check on borderline characters uses the probabilities ``once``, before test-time
    augmentation, because the mean of augmented views is less confident.
    """
    settings = learning.config.verification
    scout = load_reader(learning.run / "calibrate" / READER)[0]
    calibration = learning.calibration()
    assert calibration is not None  # rescoring needs a calibration

    def drawn(
        images: GreyImages, probabilities: Floats, chosen: npt.NDArray[np.bool_]
    ) -> Comparisons:
        return compare_readings(
            images,
            learning.background(),
            probabilities,
            chosen,
            scout,
            calibration,
            learning.config.scheme,
            settings,
            lambda done, total: advance(done, total, {}),
        )

    def refused(why: str) -> tuple[Floats, Floats, dict[str, Any]]:
        return of_real, of_known, {"doubted": 0, "changed": 0, "undecided": why}

    scheme = learning.config.scheme
    could_say = not scheme.several_fonts and layout_of(scheme, learning.config.simulator)
    hint = "; if images use different fonts, set several_fonts = true in the scheme"
    if contradicts(drawn(images, once, hardly_doubted(once, calibration, settings))):
        return refused(
            "drawings contradict confident readings, so uncertain characters are not rescored: the "
            f"calibrated glyphs do not fit all letters{hint if could_say else ''}"
        )
    known_doubts = drawn(known, of_known, doubted(of_known, settings))
    if does_harm(known_doubts, ids):
        return refused(
            "rescoring lowers accuracy on synthetic images with known texts, so uncertain "
            "characters are not rescored"
        )
    real_doubts = drawn(images, of_real, doubted(of_real, settings))
    decided = decide(of_real, real_doubts)
    changed = int((decided.argmax(-1) != of_real.argmax(-1)).sum())
    said = {"doubted": len(real_doubts.images), "changed": changed}
    return decided, decide(of_known, known_doubts), said
