"""What is recorded of a run, and where its results lie. Needs no torch."""

import json
from pathlib import Path
from typing import Any

from simgan_captcha.atomic import write_json
from simgan_captcha.errors import RunError, UsageError
from simgan_captcha.pipeline.estimate import Estimate

RUN = "run.json"
READINGS = Path("readings") / "readings.parquet"
DIAGNOSIS = Path("readings") / "diagnosis.json"
JUDGEMENT = Path("judge") / "judgement.json"
_RECORDED = ("challenges", "user", "seed", "preset", "settings", "scheme", "config")

VERDICT = Path("submission") / "verdict.json"


def record_run(run: Path, **about: Any) -> None:
    """Record what a run is, before its first stage.

    Args:
        run: Its folder.
        about: ``challenges`` (an address without its password), ``user``, ``seed``, ``preset``,
            ``settings``, ``scheme``, ``config``; JSON.

    Raises:
        UsageError: The folder holds captchas of other challenges or of another user.
    """
    # Before anything is stored a mistyped address may still be mended.
    if (run / RUN).exists() and any((run / "store").glob("part-*.parquet")):
        recorded = read_run(run)
        for key in ("challenges", "user"):
            if recorded[key] != about[key]:
                raise UsageError(
                    f"{run} is a run on {key} {recorded[key]}, got {about[key]}; "
                    "choose another folder, or give the same"
                )
    write_json(run / RUN, about)


def read_run(run: Path) -> dict[str, Any]:
    """What is recorded of a run, see `record_run`.

    Raises:
        RunError: No run there, or its file is damaged.
    """
    try:
        recorded = json.loads((run / RUN).read_text(encoding="utf-8"))
        missing = [key for key in _RECORDED if key not in recorded]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        return dict(recorded)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(
            f"expected a run in {run}, found no {RUN}; start one with simgan-captcha run"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"expected a run in {run}, its {RUN} is damaged ({error!r}); delete that file and "
            "give simgan-captcha run its options again: finished stages are kept"
        ) from None


def read_diagnosis(run: Path) -> dict[str, Any]:
    """What a finished run says of itself, see `estimate.diagnose`.

    Raises:
        RunError: The run is not finished, or its diagnosis is damaged.
    """
    try:
        diagnosis = json.loads((run / DIAGNOSIS).read_text(encoding="utf-8"))
        if diagnosis["kept"] not in ("read", "adapt"):
            raise ValueError(f"it keeps {diagnosis['kept']!r}")
        estimates = {stage: Estimate(**of) for stage, of in dict(diagnosis["estimates"]).items()}
        if diagnosis["kept"] not in estimates:
            raise ValueError(f"it has no estimate of {diagnosis['kept']}")
        return dict(diagnosis)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(
            f"expected a finished run in {run}, found no {DIAGNOSIS}; run the run to its end"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(
            f"expected a finished run in {run}, its {DIAGNOSIS} is damaged ({error!r}); delete the "
            "folder readings in it and run the run again"
        ) from None
