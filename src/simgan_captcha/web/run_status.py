"""The progress of a run, from the files of its stages. The process of the run is not involved.

This module takes no lock, because only the process of the run may hold it.
"""

import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from simgan_captcha.config.settings import RunConfig
from simgan_captcha.documents import Json, parse_object
from simgan_captcha.pipeline.manifest import ELAPSED, IDENTITY, MANIFEST
from simgan_captcha.pipeline.routes import recorded_config, recorded_stages
from simgan_captcha.pipeline.run_folder import DIAGNOSIS, JUDGEMENT, READINGS, RUN
from simgan_captcha.pipeline.stages.stage import Stage
from simgan_captcha.report.inputs import (
    as_number,
    file_states,
    read_json,
    refiner_sheets,
)
from simgan_captcha.report.templates import duration
from simgan_captcha.training.metrics import FILE_NAME

QUIET_SECONDS = 60.0
"""A stage that has written nothing for this time may have been interrupted."""

_TAIL_BYTES = 4096
"""Bytes at the end of a metrics file, far more than one line."""
_SHOWN_FIGURES = 3
_NOT_SHOWN = ("step", "steps", "learning_rate")

State = Literal["waiting", "working", "quiet", "done"]


class StageStatus(BaseModel):
    """The progress of one stage."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    stage: str
    """Name of its folder."""
    title: str
    state: State
    """``quiet`` means that a started stage has written nothing for `QUIET_SECONDS`."""
    step: int | None = None
    """Finished training steps, out of ``steps``; None for a stage without training."""
    steps: int | None = None
    said: str = ""
    """Metrics, times and counts as text."""


class RunStatus(BaseModel):
    """The progress of a run."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    finished: bool
    """Whether all stages are done."""
    stages: list[StageStatus]
    """Stages in the order in which they run."""
    versions: dict[str, str]
    """Versions of ``curves``, ``sheets`` and ``results``, which change with their content."""


def run_status(run: Path) -> RunStatus:
    """The current progress; a stage without files is waiting."""
    damage: list[str] = []
    recorded = read_json(run / RUN, damage) or {}
    config = recorded_config(recorded)
    stages = [_stage_status(run, stage, config) for stage in recorded_stages(recorded, run)]
    sheets = list(refiner_sheets(run).values())
    curves = [run / stage.stage / FILE_NAME for stage in stages]
    return RunStatus(
        finished=bool(stages) and all(stage.state == "done" for stage in stages),
        stages=stages,
        versions={
            "curves": file_states(*curves),
            "sheets": file_states(*sheets),
            "results": file_states(
                *(run / name for name in (RUN, READINGS, DIAGNOSIS, JUDGEMENT)),
                *(run / stage.stage / MANIFEST for stage in stages),
            ),
        },
    )


def _stage_status(run: Path, stage: Stage, config: RunConfig | None) -> StageStatus:
    folder, damage = run / stage.name, list[str]()
    status = StageStatus(stage=stage.name, title=stage.title, state="waiting")
    trainings = () if config is None else stage.trainings(config)
    last = [_last_figures(folder / training.folder / FILE_NAME) for training in trainings]
    if trainings:
        # The length of an adaptation is known only after its first step.
        status.steps = sum(
            _steps(figures, "steps") or training.steps
            for training, figures in zip(trainings, last, strict=True)
        )
        status.step = sum(int(as_number(figures.get("step")) or 0) for figures in last)
    manifest = read_json(folder / MANIFEST, damage)
    if manifest is not None:
        status.state, status.step = "done", status.steps
        status.said = _costs(manifest)
        return status
    begun = folder.is_dir() if stage.settings is None else (folder / IDENTITY).exists()
    if not begun:
        return status
    silent = time.time() - _last_sign(folder)
    status.state = "working" if silent < QUIET_SECONDS else "quiet"
    if status.state == "quiet":
        status.said = (
            f"nothing new for {duration(silent)}: interrupted or slow; repeat the command that "
            "started the run to continue it"
        )
    elif stage.settings is None:
        status.said = f"{len(list(folder.glob('part-*.parquet')))} batches so far"
    else:
        latest = next((figures for figures in reversed(last) if figures), {})
        elapsed = as_number((read_json(folder / ELAPSED, damage) or {}).get("seconds"))
        time_so_far = [] if elapsed is None else [f"for {duration(elapsed)}"]
        status.said = " · ".join([*_figures(latest), *time_so_far])
    return status


def _steps(settings: Json, key: str) -> int:
    return int(as_number(settings.get(key)) or 0)


def _last_figures(path: Path) -> Json:
    """The last complete line of a metrics file that may still grow; empty if there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
        return parse_object(lines[-1]) if lines else {}
    except (OSError, ValueError):
        return {}


def _last_sign(folder: Path) -> float:
    """Time of the last change in a folder or its subfolders, in seconds since the epoch."""
    times = [0.0]
    for path in [folder, *folder.glob("*"), *folder.glob("*/*")]:
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue  # the file was renamed in the meantime
    return max(times)


def _figures(latest: Json) -> list[str]:
    return [
        f"{key.replace('_', ' ')} {number:.3g}"
        for key, value in latest.items()
        if key not in _NOT_SHOWN and (number := as_number(value)) is not None
    ][:_SHOWN_FIGURES]


def _costs(manifest: Json) -> str:
    seconds, images = as_number(manifest.get("seconds")), as_number(manifest.get("images"))
    costs = [] if seconds is None else [duration(seconds)]
    return " · ".join(costs + ([f"{images:,.0f} images"] if images else []))
