"""The values of the run page, most of them the same as in the report."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from simgan_captcha.documents import Json
from simgan_captcha.pipeline.graph import stage_named
from simgan_captcha.pipeline.lesson import LESSON
from simgan_captcha.pipeline.manifest import MANIFEST
from simgan_captcha.pipeline.routes import recorded_stages
from simgan_captcha.pipeline.run_folder import DIAGNOSIS, JUDGEMENT, READINGS, RUN
from simgan_captcha.pipeline.stages.stage import Stage
from simgan_captcha.report.curves import curve_group
from simgan_captcha.report.diagnosis import diagnosis_section
from simgan_captcha.report.inputs import (
    file_states,
    first_text,
    read_json,
    read_readings,
    refiner_sheets,
    warnings_of,
)
from simgan_captcha.report.judged import judged_section
from simgan_captcha.training.metrics import FILE_NAME
from simgan_captcha.web.gallery import captcha_key
from simgan_captcha.web.run_status import run_status


class RunPage:
    """Values of the run page; a chart is drawn again only when its metrics change."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._drawn: dict[str, tuple[str, Json, list[str]]] = {}
        # Matplotlib's settings are global, so only one chart is drawn at a time.
        self._lock = threading.Lock()

    def values(self) -> Json:
        """Variables of ``run.html``."""
        damage: list[str] = []
        run = read_json(self._run / RUN, damage) or {}
        status, stages = run_status(self._run), recorded_stages(run, self._run)
        with self._lock:
            results = self._results(run, stages, damage)
            curves = [self._curves(stage, damage) for stage in stages if stage.curves]
        refined = stage_named("refine") in stages
        return {
            "status": status,
            "preset": first_text(run.get("preset")),
            "curve_groups": [group for group in curves if group["panels"]],
            "sheets": list(refiner_sheets(self._run)) if refined else [],
            **results,
            "damage": list(dict.fromkeys(damage)),
        }

    def _curves(self, stage: Stage, damage: list[str]) -> Json:
        def draw(damage: list[str]) -> Json:
            return curve_group(self._run, stage, damage)

        metrics = self._run / stage.name / FILE_NAME
        return self._once(stage.name, file_states(metrics), draw, damage)

    def _results(self, run: Json, stages: Sequence[Stage], damage: list[str]) -> Json:
        def draw(damage: list[str]) -> Json:
            judged = judged_section(
                self._run, lambda name: f"api/captchas/{captcha_key(name)}", damage
            )
            truth = judged["figures"]["captcha_accuracy"] if judged else None
            readings = read_readings(self._run / READINGS, damage)
            own = diagnosis_section(self._run, run, readings, truth, damage)
            read = None if readings is None else len(readings)
            return {"own": own, "judged": judged, "images_read": read}

        state = file_states(
            *(self._run / name for name in (RUN, READINGS, DIAGNOSIS, JUDGEMENT, LESSON))
        )
        results = self._once("results", state, draw, damage)
        warnings = [
            (stage.title, text)
            for stage in stages
            for text in warnings_of(read_json(self._run / stage.name / MANIFEST, damage) or {})
            if text not in results["own"]["warnings"]
        ]
        return {**results, "warnings": warnings}

    def _once(
        self, what: str, state: str, draw: Callable[[list[str]], Json], damage: list[str]
    ) -> Json:
        """The result of ``draw`` for this state of the files, from the cache if possible.

        Messages about damage are cached too.
        """
        kept = self._drawn.get(what)
        if kept is None or kept[0] != state:
            found: list[str] = []
            drawn = draw(found)
            kept = self._drawn[what] = (state, drawn, found)
        damage += kept[2]
        return kept[1]
