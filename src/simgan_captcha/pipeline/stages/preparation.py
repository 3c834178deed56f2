"""The stages before training: store the images, find the background, draw a sample."""

import dataclasses
import time
from pathlib import Path

import cv2
import numpy as np

from simgan_captcha.addresses import is_url
from simgan_captcha.atomic import write_bytes, write_json
from simgan_captcha.data.background import estimate_background, plain_background
from simgan_captcha.data.foreground import INK
from simgan_captcha.data.images import encode_png
from simgan_captcha.data.ingest import IngestReport, ingest, ingest_warnings
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.documents import read_object
from simgan_captcha.pipeline.manifest import StageOutcome
from simgan_captcha.pipeline.run_data import RunData
from simgan_captcha.pipeline.run_folder import BACKGROUND
from simgan_captcha.shown import without_home
from simgan_captcha.types import GreyImages, OnStep

INGEST = "ingest.json"
"""Counts of the images of the run, in the folder of the stage."""

_STREAM = 5  # random stream of the sample
_DRAWN = 500
"""Number of images drawn to measure the speed of the simulator."""


def store(data: RunData, folder: Path, advance: OnStep) -> StageOutcome:
    """Download or copy images that the store does not have; nothing is removed.

    A folder that is gone is no error, if all its images were stored before.
    """
    if gone := _stored_before(data, folder):
        return gone
    report = ingest(
        data.challenges,
        folder,
        scheme=data.config.scheme,
        user=data.user,
        batches=data.config.batches,
        settings=data.config.download,
        on_progress=lambda done, total, images: advance(done, total, {"images": images}),
    )
    write_json(folder / INGEST, dataclasses.asdict(report))
    warnings = ingest_warnings(report)
    for warning in warnings:
        data.warn(warning)
    result = {**dataclasses.asdict(report), "warnings": warnings}
    return StageOutcome((), result, images=report.images_stored + report.duplicates)


def _stored_before(data: RunData, folder: Path) -> StageOutcome | None:
    """The outcome of an earlier run, if the folder of images is no longer there."""
    if is_url(data.challenges) or Path(data.challenges).exists():
        return None
    try:
        report = IngestReport(**read_object(folder / INGEST))
    except (OSError, ValueError, TypeError):
        return None
    count = len(CaptchaStore(folder))
    warning = (
        f"{without_home(data.challenges)} is no longer there: the run continues with its {count} "
        "stored images; if the folder has moved, give --images or --challenges with its new place"
    )
    data.warn(warning)
    return StageOutcome((), {**dataclasses.asdict(report), "warnings": [warning]}, images=count)


def background(data: RunData, folder: Path, advance: OnStep) -> StageOutcome:
    """Estimate the background that all images share, or make a plain one."""
    config, scheme = data.config, data.config.scheme
    if scheme.shares_picture:
        found = estimate_background(
            data.images, config.encoding, config.lines, config.line_removal_width
        )
    else:
        found = plain_background(
            scheme.height, scheme.width, INK, config.encoding, config.line_removal_width
        )
    found.save(folder / BACKGROUND.name)
    write_bytes(folder / "background.png", encode_png(found.grey))
    return StageOutcome(
        (BACKGROUND.name,),
        {
            "ink_level": found.ink_level,
            "line_share": round(float(found.line_mask.mean()), 4),
        },
        images=len(data.images),
    )


def simulate(data: RunData, folder: Path, advance: OnStep) -> StageOutcome:
    """Draw a sample without calibration, as a picture for people."""
    simulator = data.simulator()
    started = time.perf_counter()
    images, _ = simulator.batch(np.random.default_rng([_STREAM, data.seed]), _DRAWN)
    seconds = time.perf_counter() - started
    write_bytes(folder / "sheet.png", encode_png(_sheet(images, rows=8, columns=6)))
    return StageOutcome(
        ("sheet.png",), {"images_per_second": round(_DRAWN / seconds)}, images=_DRAWN
    )


def _sheet(images: GreyImages, *, rows: int, columns: int) -> GreyImages:
    """A picture of the first images, two pixels apart."""
    framed = np.pad(images[: rows * columns], ((0, 0), (1, 1), (1, 1)), constant_values=0)
    lines = [np.hstack(list(framed[row * columns : (row + 1) * columns])) for row in range(rows)]
    return np.asarray(cv2.resize(np.vstack(lines), None, fx=2, fy=2), np.uint8)
