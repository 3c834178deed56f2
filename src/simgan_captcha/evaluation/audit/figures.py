"""The audit of a finished run and its figures as JSON. It needs no labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.documents import Json
from simgan_captcha.evaluation.audit.findings import Found, find_weaknesses
from simgan_captcha.evaluation.audit.measure import Measured, audit_run, texts_per_hour
from simgan_captcha.evaluation.audit.stock_readers import (
    StockRow,
    check_stock_readers,
    stock_rows,
)
from simgan_captcha.evaluation.audit.verdict import (
    CHANGE_FIXES,
    CHECKLIST,
    Finding,
    change_finding,
    most_effective_first,
    severity_of,
)
from simgan_captcha.inference.readings import load_readings
from simgan_captcha.pipeline.lesson import Lesson, load_lesson
from simgan_captcha.pipeline.manifest import MANIFEST, machine, versions
from simgan_captcha.pipeline.routes import recorded_stages
from simgan_captcha.pipeline.run import load_run_reader
from simgan_captcha.pipeline.run_data import run_simulator
from simgan_captcha.pipeline.run_folder import (
    JUDGEMENT,
    READINGS,
    STORE,
    read_diagnosis,
    read_run,
)
from simgan_captcha.report.inputs import of_these_readings, read_json

BROKEN = 0.01
"""Share of correctly read texts from which a captcha counts as broken, because an attacker may try
any number of times. Source: Bursztein, Martin and Mitchell, Text-based CAPTCHA strengths and
weaknesses, CCS 2011, section 2.3."""

TIMED = 500
"""Largest number of real images that are read to measure texts per hour."""


@dataclass(frozen=True)
class AuditSettings:
    """Settings of an audit."""

    images: int = 1000
    """Number of images drawn for each change."""
    steps: int = 150
    """Number of fine-tuning steps of the reader for each change."""
    seed: int = 1
    stock: tuple[str, ...] = ()
    """Names of stock readers for comparison, see `stock_readers`."""


@dataclass(frozen=True)
class Audit:
    """Measurements and findings of an audit."""

    measured: list[Measured]
    flops: int
    """Number of floating-point operations of fine-tuning."""
    per_hour: float
    """Number of texts that the reader of the run reads in an hour on one core."""
    timed: int
    """Number of images in this measurement."""
    found: Found
    readers: list[StockRow]
    lesson: Lesson | None
    """What the run gained by labels, if it was taught; the audit uses the reader without labels."""


def audit(
    run: Path,
    settings: AuditSettings,
    on_step: Callable[[str, int, int], None] = lambda name, step, steps: None,
) -> tuple[Json, list[Measured]]:
    """Audit a finished run, and return the figures and the measurements of each change.

    Args:
        run: Folder of the run; nothing is written to it.
        settings: Settings of the audit.
        on_step: Called with the name of the change, the step and the number of steps.

    Raises:
        RunError: The run is not finished or is damaged.
        UsageError: A stock reader is unknown, or the simulator of the run does not use fonts.
    """
    check_stock_readers(settings.stock)
    reader, background, config = load_run_reader(run, taught=False)
    recorded, diagnosis, lesson = read_run(run), read_diagnosis(run), load_lesson(run)
    simulator = run_simulator(run, config)
    stored = CaptchaStore(run / STORE).in_content_order()
    images = list(zip(stored.names, stored.images, strict=True))
    texts = {reading.name: reading.text for reading in load_readings(run / READINGS)}
    judged = of_these_readings(run / JUDGEMENT, run, [])
    with TemporaryDirectory() as folder:
        measured, flops = audit_run(
            config,
            simulator,
            reader,
            Path(folder),
            seed=settings.seed,
            images=settings.images,
            steps=settings.steps,
            on_step=on_step,
        )
    timed = stored.images[:TIMED]
    made = Audit(
        measured,
        flops,
        texts_per_hour(reader, background, config.scheme, timed),
        len(timed),
        find_weaknesses(
            images, texts, config.scheme, read_right=_share_read(judged, diagnosis)["share"]
        ),
        list(stock_rows(settings.stock, images, texts, config.scheme)),
        lesson,
    )
    return audit_figures(run, recorded, diagnosis, judged, made, settings), measured


def audit_figures(
    run: Path,
    recorded: Mapping[str, Any],
    diagnosis: Mapping[str, Any],
    judged: Json | None,
    made: Audit,
    settings: AuditSettings,
) -> Json:
    """Figures of an audit as JSON: severity, findings with fixes, and measurements.

    Args:
        run: Folder of the finished run.
        recorded: Content of its ``run.json``.
        diagnosis: Its diagnosis with the estimates, see `estimate.diagnose`.
        judged: A judgement of the current readings, if there is one.
        made: Measurements and findings.
        settings: Settings of the audit.
    """
    read = _share_read(judged, diagnosis)
    falls = max(read["share"], made.found.given_away)
    findings = most_effective_first([*made.found.findings, *_of_changes(made.measured)])
    return {
        "verdict": {
            "severity": str(severity_of(falls)),
            "share": falls,
            "by": read["by"] if read["share"] >= made.found.given_away else "names or metadata",
            "falling_per_hour": falls * made.per_hour,
        },
        "estimate": diagnosis["estimates"][diagnosis["kept"]],
        "labels": None if made.lesson is None else asdict(made.lesson),
        "judged": judged and {key: judged[key] for key in ("captcha_accuracy", "captcha_interval")},
        "attempts": 1 / read["share"] if read["share"] else None,
        "broken": read["low"] >= BROKEN or made.found.given_away >= BROKEN,
        "broken_from": BROKEN,
        "speed": {
            "texts_per_hour": made.per_hour,
            "images": made.timed,
            "cores": 1,
            "machine": machine(),
        },
        "findings": [{**asdict(one), "severity": str(one.severity)} for one in findings],
        "looked_at": {
            "images": made.found.images,
            "of": made.found.of,
            "notes": made.found.notes,
        },
        "readers": [_reader_row(row) for row in made.readers],
        "calibrated": "calibrate" in [stage.name for stage in recorded_stages(recorded, run)],
        "cost": _cost(run, recorded),
        "changes": [
            {
                "name": of.name,
                "what": of.what,
                "as_it_is": _with_interval(of.as_it_is),
                "learned_on": _with_interval(of.learned_on),
            }
            for of in made.measured
        ],
        "checklist": [asdict(check) for check in CHECKLIST],
        "drawn_of_each": settings.images,
        "steps_of_each": settings.steps,
        "training_flops": made.flops,
        "scheme": recorded["scheme"],
        "seed": recorded["seed"],
        "versions": versions(),
    }


def _share_read(judged: Json | None, diagnosis: Mapping[str, Any]) -> Json:
    """Share of correctly read texts with the lower end of its interval, judged or estimated."""
    if judged is not None:
        low = judged["captcha_interval"][0]
        return {"share": judged["captcha_accuracy"], "low": low, "by": "judged"}
    estimate = diagnosis["estimates"][diagnosis["kept"]]
    return {"share": estimate["accuracy"], "low": estimate["low"], "by": "estimated"}


def _of_changes(measured: Sequence[Measured]) -> list[Finding]:
    """Findings for changes that make a fine-tuned reader worse, with disjoint intervals."""
    now, least, _ = measured[0].learned_on
    found = []
    for one in measured[1:]:
        then, _, most = one.learned_on
        if one.name in CHANGE_FIXES and most < least:
            found.append(change_finding(one.name, one.what, least - most, now, then))
    return found


def _reader_row(row: StockRow) -> Json:
    return {**asdict(row), "agrees": row.agrees and _with_interval(row.agrees)}


def _with_interval(share: tuple[float, float, float]) -> Json:
    return dict(zip(("share", "low", "high"), share, strict=True))


def _cost(run: Path, recorded: Mapping[str, Any]) -> Json:
    """Cost of the stages that the run has with its current settings."""
    stages = {
        stage.name: manifest
        for stage in recorded_stages(recorded, run)
        if (manifest := read_json(run / stage.name / MANIFEST, [])) is not None
    }
    return {
        "labels": 0,
        "unlabelled_images": stages.get("store", {}).get("images"),
        "training_tflop": sum(m["training_flops"] for m in stages.values()) / 1e12,
        "seconds": sum(m["seconds"] for m in stages.values()),
        "machines": sorted({m["machine"] for m in stages.values()}),
    }
