"""A self-contained HTML page about a run, built from the files in its folder.

This module uses no labels. Accuracies against labels come from `judge/judgement.json`, if the run
was judged. The report lists stages that have not run and files that are damaged; neither stops it.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from simgan_captcha.atomic import write_bytes
from simgan_captcha.data.background import Background
from simgan_captcha.data.images import encode_png
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.documents import Json
from simgan_captcha.errors import ImageError, RunError, SimganCaptchaError, StoreError
from simgan_captcha.inference.readings import Reading
from simgan_captcha.pipeline.graph import STAGES, stage_named
from simgan_captcha.pipeline.manifest import MANIFEST
from simgan_captcha.pipeline.routes import left_out, recorded_config, recorded_stages
from simgan_captcha.pipeline.run_folder import BACKGROUND, READINGS, RUN, STORE, VERDICT
from simgan_captcha.pipeline.stages.stage import Stage
from simgan_captcha.report import charts
from simgan_captcha.report.curves import curve_group
from simgan_captcha.report.diagnosis import diagnosis_section
from simgan_captcha.report.inputs import (
    as_mapping,
    as_number,
    first_text,
    of_these_readings,
    read_json,
    read_readings,
    refiner_sheets,
    scheme_of,
    warnings_of,
)
from simgan_captcha.report.judged import judged_section
from simgan_captcha.report.pictures import picture_uri
from simgan_captcha.report.provenance import Manifests, provenance
from simgan_captcha.report.templates import marked_characters, page_template
from simgan_captcha.shown import without_home

REPORT = "report.html"
"""Name of the report in the run folder."""

_COSTS = ("seconds", "cpu_seconds", "images", "training_flops")
"""Keys of a manifest that the table of stages shows."""

_SHEET_BYTES = 250_000
"""Larger sheets are shrunk, so that five of them fit into about 2 MB."""
_THUMBNAIL_BYTES = 12_000
_SHOWN = 24
"""Number of captchas in each gallery."""
_FONTS = 60
"""Maximum number of characters whose most similar font is shown."""
_FORMS = {
    "taper": "taper: wider towards the bottom (share, per image height)",
    "swell": "swell: taller to the right (share, per image height)",
    "bend": "bend: ends bent down (image heights, one to either side)",
}
"""Descriptions of forms whose names need an explanation."""


def write_report(run_folder: Path) -> Path:
    """Write ``RUN/report.html``, which contains its styles and pictures and makes no requests.

    Args:
        run_folder: Folder of a run, see docs/how-it-works.md; only ``run.json`` is required.

    Returns:
        The path of the page, which has at most about 3 MB.

    Raises:
        RunError: The folder has no readable ``run.json``.
    """
    damage: list[str] = []
    run = read_json(run_folder / RUN, damage)
    if run is None:
        raise RunError(
            f"expected a run's folder with a readable run.json, got {run_folder}; "
            "name the folder given to simgan-captcha run"
        )
    stages = recorded_stages(run, run_folder)
    manifests = {
        stage: manifest
        for stage in stages
        if (manifest := read_json(run_folder / stage.name / MANIFEST, damage)) is not None
    }
    readings = read_readings(run_folder / READINGS, damage)
    gallery = _Gallery(run_folder / STORE, damage)
    judged = judged_section(run_folder, gallery.uri, damage)
    truth = judged["figures"]["captcha_accuracy"] if judged else None
    own = diagnosis_section(run_folder, run, readings, truth, damage)
    page = page_template("report/report.html").render(
        **_headline(run_folder, run, manifests, readings),
        own=own,
        **_flow(manifests, shown=own["warnings"]),
        **_pictures(run_folder, stages, readings, gallery, damage),
        shares_picture=first_text(scheme_of(run).get("background")) in (None, "shared"),
        why_left_out=_why_left_out(run_folder, run),
        calibrated=_calibration(run_folder, run, stages, manifests, damage),
        curve_groups=[curve_group(run_folder, stage, damage) for stage in stages if stage.curves],
        reading=_reading_section(readings, gallery),
        judged=judged,
        verdict=of_these_readings(run_folder / VERDICT, run_folder, damage),
        **provenance(run_folder, run, manifests),
        # Last, because the sections above add messages to the list.
        damage=list(dict.fromkeys(damage)),
    )
    path = run_folder / REPORT
    # A server's message may contain a lone surrogate, which UTF-8 cannot encode.
    write_bytes(path, without_home(page).encode("utf-8", "replace"))
    return path


class _Gallery:
    """Pictures of the stored captchas for the page."""

    def __init__(self, folder: Path, damage: list[str]) -> None:
        self._store: CaptchaStore | None = None
        self._damage = damage
        if folder.is_dir():
            try:
                self._store = CaptchaStore(folder)
            except StoreError as error:
                damage.append(str(error))

    def uri(self, name: str) -> str | None:
        """A captcha as a ``data:`` URI; None if the store does not have it."""
        if self._store is None:
            return None
        try:
            return picture_uri(self._store.image(name), _THUMBNAIL_BYTES, 200)
        except SimganCaptchaError:
            return None  # the page shows a note instead of the picture

    def first(self, texts: dict[str, str]) -> list[Json]:
        """Pictures of the store's first captchas, with their readings."""
        if not self._store:
            return []
        try:
            names = self._store.in_content_order().names[:_SHOWN]
        except StoreError as error:
            self._damage.append(str(error))
            return []
        return [{"uri": self.uri(name), "text": texts.get(name)} for name in names]


def _headline(
    folder: Path, run: Json, manifests: Manifests, readings: list[Reading] | None
) -> Json:
    times = [(folder / stage.name / MANIFEST).stat().st_mtime for stage in manifests] or [
        (folder / RUN).stat().st_mtime
    ]
    return {
        "name": folder.resolve().name,
        "preset": first_text(run.get("preset")),
        "finished": datetime.fromtimestamp(max(times), UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "images_read": None if readings is None else len(readings),
    }


def _flow(manifests: Manifests, shown: Sequence[str]) -> Json:
    """The table of stages, and those of their warnings that no other section shows."""
    rows = [
        {
            "stage": stage.title,
            "done": stage in manifests,
            **{key: as_number(manifests.get(stage, {}).get(key)) for key in _COSTS},
            "precision": first_text(manifests.get(stage, {}).get("precision")),
        }
        for stage in STAGES
    ]
    alarms = [
        (stage.title, alarm)
        for stage, manifest in manifests.items()
        for alarm in warnings_of(manifest)
        if alarm not in shown
    ]
    return {
        "stages": rows,
        "totals": {
            key: sum(row[key] or 0 for row in rows)
            for key in ("seconds", "cpu_seconds", "training_flops")
        },
        "convolution_gflops": max(
            (as_number(of.get("convolution_gflops")) or 0 for of in manifests.values()), default=0
        ),
        "alarms": alarms,
    }


def _why_left_out(folder: Path, run: Json) -> str | None:
    """What the run does without, and why; None if it has all stages."""
    config = recorded_config(run)
    if config is None:
        return None
    names: dict[str, list[str]] = {}  # by reason
    for stage, name in (
        ("simulate", "the simulator and the stages after it"),
        ("specialize", "specialization of the generalist"),
        ("adapt", "adaptation"),
    ):
        row = stage_named(stage)
        if row.included(config) and (why := left_out(row, folder, config)):
            names.setdefault(why, []).append(name)
            if stage == "simulate":  # which includes the adaptation
                break
    return "; ".join(f"{' and '.join(of)}: {why}" for why, of in names.items()) or None


def _pictures(
    folder: Path,
    stages: Sequence[Stage],
    readings: list[Reading] | None,
    gallery: _Gallery,
    damage: list[str],
) -> Json:
    refined = stage_named("refine") in stages
    sheets = list(refiner_sheets(folder).items()) if refined else []
    chosen = [sheets[i] for i in sorted({0, len(sheets) // 2, len(sheets) - 1})] if sheets else []
    return {
        "background": _sheet(folder / "background" / "background.png", damage),
        "mask": _mask(folder / BACKGROUND, damage),
        "simulated": stage_named("simulate") in stages,
        "refined": refined,
        "synthetic": _sheet(folder / "simulate" / "sheet.png", damage),
        "real": gallery.first({reading.name: reading.text for reading in readings or ()}),
        "refiner_sheets": [
            (step, uri) for step, path in chosen if (uri := _sheet(path, damage)) is not None
        ],
    }


def _calibration(
    folder: Path, run: Json, stages: Sequence[Stage], manifests: Manifests, damage: list[str]
) -> Json | None:
    """Results of calibration: glyphs in the order of the alphabet, figures and similar fonts."""
    calibrate = stage_named("calibrate")
    if calibrate not in stages:
        return None
    glyphs = _sheet(folder / "calibrate" / "glyphs.png", damage)
    if glyphs is None:
        return None
    found = as_mapping(manifests.get(calibrate, {}).get("result"))
    rendering = as_mapping(found.get("rendering"))
    figures = {
        "horizontal position in each slot (pixels; middle 98 %)": found.get("x"),
        "distance between slots (pixels)": found.get("pitch"),
        "vertical position (pixels; middle 98 %)": found.get("y"),
        "rotation (degrees; middle 98 %)": found.get("rotation"),
        **{
            f"{_FORMS.get(name, name)}, each letter (middle 98 %)": value
            for name, value in as_mapping(found.get("forms")).items()
        },
        "font size (pixels per em)": found.get("font_size"),
        "area of ink, relative to the most similar font": found.get("stroke_weight"),
        **{key.replace("_", " "): value for key, value in rendering.items()},
        **{
            f"clutter: {key.replace('_', ' ')}": value
            for key, value in as_mapping(found.get("clutter")).items()
        },
    }
    fonts = [
        (character, str(match[0]), as_number(match[1]), similarity)
        for character, match in as_mapping(found.get("fonts")).items()
        if isinstance(match, list) and len(match) == 3
        for similarity in [as_number(match[2])]
        if similarity is not None
    ]
    fonts.sort(key=lambda font: font[3])
    return {
        "glyphs": glyphs,
        "figures": {k: _estimates(v) for k, v in figures.items() if v is not None},
        "fonts": fonts[:_FONTS],
        "fonts_left_out": max(0, len(fonts) - _FONTS),
        "alphabet": first_text(as_mapping(run.get("scheme")).get("alphabet")),
    }


def _estimates(value: object) -> str:
    """Text of an estimate [value, standard error], a range of two, or a list of these."""
    if not isinstance(value, list):
        return json.dumps(value)
    numbers = [as_number(item) for item in value]
    match numbers:
        case [float() | int() as number, float() | int() as error]:
            return f"{number:g} ± {error:g}"
        case [None, None] if all(_is_estimate(item) for item in value):
            return " to ".join(_estimates(item) for item in value)
    return "; ".join(_estimates(item) for item in value)


def _is_estimate(value: object) -> bool:
    return isinstance(value, list) and [as_number(item) is None for item in value] == [False] * 2


def _reading_section(readings: list[Reading] | None, gallery: _Gallery) -> Json | None:
    if not readings:
        return None
    confidences = np.array([reading.confidence for reading in readings])
    least = np.argsort(confidences, kind="stable")[:_SHOWN]
    return {
        "histogram": charts.confidence_histogram(confidences.tolist()),
        "mean_confidence": float(confidences.mean()),
        "sure": float((confidences >= 0.9).mean()),
        "least_sure": [_card(readings[i], gallery) for i in least],
    }


def _card(reading: Reading, gallery: _Gallery) -> Json:
    return {
        "name": reading.name,
        "uri": gallery.uri(reading.name),
        "text": reading.text,
        "characters": marked_characters(reading),
        "confidence": reading.confidence,
    }


def _sheet(path: Path, damage: list[str]) -> str | None:
    try:
        return picture_uri(path.read_bytes(), _SHEET_BYTES, 1000)
    except FileNotFoundError:
        return None
    except (OSError, ImageError) as error:
        damage.append(f"{path}: {error}")
        return None


def _mask(path: Path, damage: list[str]) -> str | None:
    if not path.exists():
        return None
    try:
        mask = Background.load(path).line_mask
        return picture_uri(encode_png(np.where(mask, 255, 0).astype(np.uint8)), _SHEET_BYTES, 1000)
    except SimganCaptchaError as error:
        damage.append(str(error))
        return None
