"""What is recorded of a run, and where its results lie. Needs no torch."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from simgan_captcha.atomic import write_json
from simgan_captcha.documents import read_object, require_shape
from simgan_captcha.errors import ConfigError, RunError, UsageError
from simgan_captcha.pipeline.estimate import Estimate
from simgan_captcha.scheme import check_scheme

RUN = "run.json"
READINGS = Path("readings") / "readings.parquet"
DIAGNOSIS = Path("readings") / "diagnosis.json"
JUDGEMENT = Path("judge") / "judgement.json"
VERDICT = Path("submission") / "verdict.json"


class _Recorded(BaseModel):
    """What `record_run` writes."""

    model_config = ConfigDict(strict=True, extra="allow")

    challenges: str
    user: str
    seed: int
    preset: str
    settings: list[str]
    scheme: dict[str, Any]
    config: dict[str, Any]


class _Diagnosis(BaseModel):
    """What is relied on of a diagnosis."""

    model_config = ConfigDict(strict=True, extra="allow")

    kept: str
    estimates: dict[str, dict[str, Any]]


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
        recorded = require_shape(read_object(run / RUN), _Recorded)
        check_scheme(recorded["scheme"])
        return recorded
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(
            f"expected a run in {run}, found no {RUN}; start one with simgan-captcha run"
        ) from None
    except (OSError, ValueError, ConfigError) as error:
        raise RunError(
            f"expected a run in {run}, its {RUN} is damaged ({error}); delete that file and "
            "give simgan-captcha run its options again: finished stages are kept"
        ) from None


def read_diagnosis(run: Path) -> dict[str, Any]:
    """What a finished run says of itself, see `estimate.diagnose`.

    Raises:
        RunError: The run is not finished, or its diagnosis is damaged.
    """
    try:
        diagnosis = require_shape(read_object(run / DIAGNOSIS), _Diagnosis)
        if diagnosis["kept"] not in ("read", "adapt"):
            raise ValueError(f"it keeps {diagnosis['kept']!r}")
        estimates = {stage: Estimate(**of) for stage, of in diagnosis["estimates"].items()}
        if diagnosis["kept"] not in estimates:
            raise ValueError(f"it has no estimate of {diagnosis['kept']}")
        return diagnosis
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(
            f"expected a finished run in {run}, found no {DIAGNOSIS}; run the run to its end"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"expected a finished run in {run}, its {DIAGNOSIS} is damaged ({error}); delete the "
            "folder readings in it and run the run again"
        ) from None
