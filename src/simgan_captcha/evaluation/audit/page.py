"""The report of an audit for the owner of the captcha, as JSON, HTML and Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simgan_captcha.atomic import write_bytes, write_json
from simgan_captcha.data.images import encode_png
from simgan_captcha.evaluation.audit.markdown import audit_markdown
from simgan_captcha.evaluation.audit.measure import Measured
from simgan_captcha.evaluation.audit.words import (
    effect_in_words,
    labels_in_words,
    rate_in_words,
    reader_in_words,
    verdict_sentences,
)
from simgan_captcha.report.pictures import picture_uri
from simgan_captcha.report.templates import page_template
from simgan_captcha.types import GreyImages

AUDIT = Path("audit") / "audit.json"
PAGE = Path("audit") / "audit.html"
MARKDOWN = Path("audit") / "audit.md"

_GAP = 4
_MOST_BYTES, _MOST_SIDE = 200_000, 1_200


def write_audit(run: Path, figures: Mapping[str, Any], measured: Sequence[Measured]) -> Path:
    """Write ``audit.json``, ``audit.html`` and ``audit.md`` to ``audit/``; return the HTML path."""
    write_json(run / AUDIT, dict(figures))
    name = run.resolve().name
    write_bytes(run / MARKDOWN, audit_markdown(name, figures).encode())
    now = figures["changes"][0]
    page = page_template("evaluation/audit/audit.html").render(
        name=name,
        figures=figures,
        sentences=verdict_sentences(figures),
        labels=labels_in_words(figures),
        effect_in_words=effect_in_words,
        rate=rate_in_words,
        reader_in_words=reader_in_words,
        # Points are the difference in accuracy after fine-tuning.
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
    """Images side by side as one image (H, W)."""
    height, width = images.shape[1:]
    row = np.full((height, len(images) * (width + _GAP) - _GAP), 255, np.uint8)
    for number, image in enumerate(images):
        row[:, number * (width + _GAP) : number * (width + _GAP) + width] = image
    return row
