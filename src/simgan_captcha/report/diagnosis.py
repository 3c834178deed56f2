"""The report's section on the accuracy estimate, which uses no labels."""

from dataclasses import asdict
from pathlib import Path

from simgan_captcha.documents import Json
from simgan_captcha.errors import RunError
from simgan_captcha.inference.readings import Reading
from simgan_captcha.pipeline.estimate import Estimate, character_shares
from simgan_captcha.pipeline.graph import stage_named
from simgan_captcha.pipeline.lesson import Lesson, load_lesson
from simgan_captcha.pipeline.run_folder import DIAGNOSIS
from simgan_captcha.report import charts
from simgan_captcha.report.inputs import as_texts, first_text, read_json, scheme_of

_PRIOR_CHARACTERS = 80
"""Maximum number of characters in the chart: those with the largest differences from the prior."""


def diagnosis_section(
    folder: Path, run: Json, readings: list[Reading] | None, truth: float | None, damage: list[str]
) -> Json:
    """The estimate in ``readings/diagnosis.json`` and the frequency of each character.

    Args:
        folder: Folder of the run.
        run: Its ``run.json``, which holds the alphabet.
        readings: All readings, or None if there are none.
        truth: Accuracy of whole captchas against labels, or None if the run was not judged.
        damage: Receives a message for the user if the diagnosis is damaged.
    """
    return {
        **_estimate(folder / DIAGNOSIS, truth, damage),
        "lesson": lesson_shown(folder, damage),
        "characters": None if readings is None else _against_prior(run, readings),
    }


def lesson_shown(folder: Path, damage: list[str]) -> Lesson | None:
    """The lesson of a run taught with labels; None if there is none or it is damaged."""
    try:
        return load_lesson(folder)
    except RunError as error:
        damage.append(str(error))
        return None


def _estimate(path: Path, truth: float | None, damage: list[str]) -> Json:
    nothing: Json = {"kept": None, "warnings": []}
    diagnosis = read_json(path, damage)
    if diagnosis is None:
        return nothing
    try:
        estimates = {stage: Estimate(**of) for stage, of in diagnosis["estimates"].items()}
        kept = estimates[diagnosis["kept"]]
        return {
            "kept": asdict(kept),
            "readers": [
                {"title": stage_named(stage).title, "kept": estimate is kept, **asdict(estimate)}
                for stage, estimate in estimates.items()
            ],
            "points_above": None if truth is None else 100 * (truth - kept.accuracy),
            "held": truth is not None and kept.low <= truth <= kept.high,
            "confusions": [
                {"truth": str(c["truth"]), "read": str(c["read"]), "share": float(c["share"])}
                for c in diagnosis["confusions"]
            ],
            "warnings": as_texts(diagnosis["warnings"]),
        }
    except (LookupError, TypeError, ValueError, AttributeError):
        damage.append(
            f"{path} is not what simgan-captcha run writes; delete the folder it is in and run "
            "the run again to see its accuracy estimate"
        )
        return nothing


def _against_prior(run: Json, readings: list[Reading]) -> Json | None:
    """Frequency of each character in the readings, compared with a uniform prior."""
    text = "".join(reading.text for reading in readings)
    if not text:
        return None
    scheme = scheme_of(run)
    alphabet = first_text(scheme.get("alphabet")) or "".join(sorted(set(text)))
    prior = 1 / len(alphabet)
    shares = character_shares(readings, alphabet)
    furthest = sorted(alphabet, key=lambda c: -abs(shares[c] - prior))
    shown = set(furthest[:_PRIOR_CHARACTERS])
    return {
        "chart": charts.character_shares(
            {c: share for c, share in shares.items() if c in shown}, prior
        ),
        "prior": prior,
        "furthest": [(c, shares[c]) for c in furthest[:3]],
        "left_out": len(alphabet) - len(shown),
    }
