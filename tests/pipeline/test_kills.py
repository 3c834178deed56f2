"""A run that is killed while it calibrates and adapts ends with the same readings.

The environment variable KILLS is the number of kills.
"""

import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np

from simgan_captcha.pipeline.manifest import IDENTITY, MANIFEST
from tests.small_run import CALIBRATED, draw_captchas, pipeline, write_challenges

KILLS = int(os.environ.get("KILLS", "4"))
SETTINGS = (*CALIBRATED, "adaptation.steps=30")


def killed(run: Path, challenges: Path, stage: str, seconds: float) -> bool:
    """Start or continue a run, and kill it this long after it is in a stage.

    Returns whether the stage was unfinished then.
    """
    process = multiprocessing.get_context("fork").Process(
        target=pipeline, args=(run, challenges, *SETTINGS)
    )
    process.start()
    while process.is_alive() and not (run / stage / IDENTITY).exists():
        time.sleep(0.001)
    process.join(seconds)
    unfinished = process.is_alive() and not (run / stage / MANIFEST).exists()
    process.kill()
    process.join()
    return unfinished


def test_kills_amid_calibration_and_adaptation_change_no_reading(tmp_path: Path) -> None:
    challenges, whole, run = (tmp_path / name for name in ("challenges", "whole", "run"))
    write_challenges(challenges, draw_captchas())
    expected = pipeline(whole, challenges, *SETTINGS)
    random = np.random.default_rng()
    for stage in ("calibrate", "adapt"):
        finished = json.loads((whole / stage / MANIFEST).read_text())
        # The stage continues after each kill, and must not be finished before the last one.
        moments = random.uniform(0, 2 * finished["seconds"] / (KILLS // 2 + 1), KILLS // 2)
        kills = [killed(run, challenges, stage, seconds) for seconds in moments]
        print(f"{stage}: {sum(kills)} kills at", [f"{seconds:.2f} s" for seconds in moments])
        assert any(kills) or not kills
    assert pipeline(run, challenges, *SETTINGS) == expected
    for stage in ("calibrate", "read", "adapt", "readings"):
        outputs = {json.loads((of / stage / MANIFEST).read_text())["output"] for of in (run, whole)}
        assert len(outputs) == 1, stage
