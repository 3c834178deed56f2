"""What an audit found, as JSON and as a page for the captcha's owner."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simgan_captcha.atomic import write_bytes, write_json
from simgan_captcha.data.images import encode_png
from simgan_captcha.evaluation.audit import Measured
from simgan_captcha.pipeline.graph import recorded_stages
from simgan_captcha.pipeline.manifest import MANIFEST, versions
from simgan_captcha.pipeline.run_folder import JUDGEMENT
from simgan_captcha.report.inputs import of_these_readings, read_json
from simgan_captcha.report.pictures import picture_uri
from simgan_captcha.report.templates import page_template
from simgan_captcha.types import GreyImages

AUDIT = Path("audit") / "audit.json"
PAGE = Path("audit") / "audit.html"

BROKEN = 0.01
"""From this share on a captcha counts as broken (Bursztein, Martin and Mitchell, Text-based CAPTCHA
strengths and weaknesses, CCS 2011, section 2.3): an attacker has as many tries as they like."""

_GAP = 4
_MOST_BYTES, _MOST_SIDE = 200_000, 1_200


def audit_figures(
    run: Path,
    recorded: Mapping[str, Any],
    diagnosis: Mapping[str, Any],
    measured: Sequence[Measured],
    *,
    images: int,
    steps: int,
    flops: int,
) -> dict[str, Any]:
    """As JSON: how much of the scheme falls, at what cost, and what each change would do.

    Args:
        run: The finished run's folder.
        recorded: Its ``run.json``.
        diagnosis: What it says of itself, see `estimate.diagnose`.
        measured: By `audit.audit_run`.
        images: Drawn of each change.
        steps: That the reader learned on, of each.
        flops: Of that learning.
    """
    stages = {
        stage.name: manifest
        for stage in recorded_stages(recorded)
        if (manifest := read_json(run / stage.name / MANIFEST, [])) is not None
    }
    estimate = diagnosis["estimates"][diagnosis["kept"]]
    judged = of_these_readings(run / JUDGEMENT, run, [])
    share, least = estimate["accuracy"], estimate["low"]
    if judged is not None:
        share, least = judged["captcha_accuracy"], judged["captcha_interval"][0]
    return {
        "estimate": estimate,
        "judged": judged and {key: judged[key] for key in ("captcha_accuracy", "captcha_interval")},
        "attempts": 1 / share if share else None,
        "broken": least >= BROKEN,
        "broken_from": BROKEN,
        "calibrated": "calibrate" in stages,
        "cost": {
            "labels": 0,
            "unlabelled_images": stages.get("store", {}).get("images"),
            "training_tflop": sum(m["training_flops"] for m in stages.values()) / 1e12,
            "seconds": sum(m["seconds"] for m in stages.values()),
            "machines": sorted({m["machine"] for m in stages.values()}),
        },
        "changes": [
            {
                "name": of.name,
                "what": of.what,
                "as_it_is": dict(zip(("share", "low", "high"), of.as_it_is, strict=True)),
                "learned_on": dict(zip(("share", "low", "high"), of.learned_on, strict=True)),
            }
            for of in measured
        ],
        "drawn_of_each": images,
        "steps_of_each": steps,
        "training_flops": flops,
        "scheme": recorded["scheme"],
        "seed": recorded["seed"],
        "versions": versions(),
    }


def write_audit(run: Path, figures: Mapping[str, Any], measured: Sequence[Measured]) -> Path:
    """Write ``audit/audit.json`` and the page of it into the run's folder; the page's path."""
    write_json(run / AUDIT, dict(figures))
    now = figures["changes"][0]
    page = page_template("evaluation/audit.html").render(
        name=run.resolve().name,
        figures=figures,
        # What an attacker who learns on would lose.
        changes=[
            {
                **change,
                "points": 100 * (change["learned_on"]["share"] - now["learned_on"]["share"]),
                "picture": picture_uri(encode_png(_row(of.samples)), _MOST_BYTES, _MOST_SIDE),
            }
            for change, of in zip(figures["changes"], measured, strict=True)
        ],
    )
    write_bytes(run / PAGE, page.encode())
    return run / PAGE


def _row(images: GreyImages) -> GreyImages:
    """Side by side, (H, W)."""
    height, width = images.shape[1:]
    row = np.full((height, len(images) * (width + _GAP) - _GAP), 255, np.uint8)
    for number, image in enumerate(images):
        row[:, number * (width + _GAP) : number * (width + _GAP) + width] = image
    return row
