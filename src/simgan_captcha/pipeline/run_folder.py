"""The record of a run, and the paths of its results. This module needs no torch."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from simgan_captcha._version import FORMAT
from simgan_captcha.addresses import is_url, without_password
from simgan_captcha.atomic import write_json
from simgan_captcha.config.settings import RunConfig, load_config, resolve_config
from simgan_captcha.data.folder import find_images, read_found
from simgan_captcha.documents import read_object, require_shape
from simgan_captcha.errors import ConfigError, RunError, UsageError
from simgan_captcha.pipeline.estimate import Estimate
from simgan_captcha.pipeline.graph import STAGES
from simgan_captcha.pipeline.manifest import why_outdated
from simgan_captcha.scheme import Scheme, check_scheme
from simgan_captcha.shown import without_home

RUN = "run.json"
STORE = "store"
BACKGROUND = Path("background") / "background.npz"
READINGS = Path("readings") / "readings.parquet"
DIAGNOSIS = Path("readings") / "diagnosis.json"
JUDGEMENT = Path("judge") / "judgement.json"
VERDICT = Path("submission") / "verdict.json"
READER = "recognizer.safetensors"
"""Name of a recognizer in the folder of the stage that trained it."""
CALIBRATION = "calibration.npz"
"""Name of the calibration in the folder of its stage."""
PSEUDO_LABELS = "pseudo_labels.json"
"""Texts of the generalist, in the folder of its first look and of its specialization."""


@dataclass(frozen=True)
class Request:
    """The request for a run: images to learn from, a configuration and a seed."""

    challenges: str
    """Folder of images or challenge batches, or an address, see `data.ingest.ingest`."""
    user: str | None = None
    """User of the puzzle; only addresses need one."""
    preset: str = "quick"
    """Name of the preset."""
    seed: int = 1
    """Random seed of the run."""
    scheme: Scheme | None = None
    """The captcha family; None for the HackMIT puzzle, or what ``settings`` say."""
    settings: tuple[str, ...] = ()
    """Changes of single settings, such as ``recognizer.steps=100``."""

    def config(self) -> RunConfig:
        """The whole configuration.

        Raises:
            ConfigError: An unknown preset or key, or an invalid value.
        """
        return resolve_config(self.preset, self.settings, self.scheme)

    @staticmethod
    def of_record(recorded: Mapping[str, Any]) -> "Request":
        """The request that a ``run.json`` records."""
        scheme = recorded["given_scheme"]
        return Request(
            challenges=recorded["challenges"],
            user=recorded["user"],
            preset=recorded["preset"],
            seed=recorded["seed"],
            scheme=None if scheme is None else check_scheme(scheme),
            settings=tuple(recorded["settings"]),
        )

    def record(self, run: Path) -> None:
        """Write ``run.json``, before the first stage.

        Raises:
            UsageError: The folder holds captchas of another place or of another user.
        """
        config = self.config().model_dump(mode="json")
        scheme = self.scheme
        record_run(
            run,
            challenges=without_home(without_password(self.challenges)),
            user=self.user,
            seed=self.seed,
            preset=self.preset,
            settings=list(self.settings),
            given_scheme=None if scheme is None else scheme.model_dump(mode="json"),
            scheme=config["scheme"],
            config=config,
        )


class TeacherTexts(NamedTuple):
    """Readings of some of a run's images by the generalist."""

    names: list[str]
    texts: list[str]
    """One for each name; some may be empty or of a wrong length."""
    confidences: list[float]
    """Probability of each text, 0 to 1."""

    @staticmethod
    def of_stage(folder: Path) -> "TeacherTexts":
        """Texts in the folder of the stage ``look`` or ``specialize``.

        Raises:
            FileNotFoundError: The stage is not finished.
        """
        return TeacherTexts(**read_object(folder / PSEUDO_LABELS))

    def save(self, folder: Path) -> None:
        """Write the file that `of_stage` reads."""
        confidences = [round(confidence, 4) for confidence in self.confidences]
        write_json(folder / PSEUDO_LABELS, self._replace(confidences=confidences)._asdict())


class _Recorded(BaseModel):
    """Required keys of ``run.json``."""

    model_config = ConfigDict(strict=True, extra="allow")

    challenges: str
    user: str | None
    seed: int
    preset: str
    settings: list[str]
    given_scheme: dict[str, Any] | None
    scheme: dict[str, Any]
    config: dict[str, Any]


class _Diagnosis(BaseModel):
    """Required keys of a diagnosis."""

    model_config = ConfigDict(strict=True, extra="allow")

    kept: str
    estimates: dict[str, dict[str, Any]]


def record_run(run: Path, **about: Any) -> None:
    """Write ``run.json``, see `Request.record`.

    Args:
        run: Folder of the run.
        about: ``challenges`` (an address without its password), ``user``, ``seed``, ``preset``,
            ``settings``, ``given_scheme``, ``scheme``, ``config``; JSON.

    Raises:
        UsageError: The folder holds captchas of another place or of another user.
    """
    # As long as nothing is stored, a mistyped address can still be corrected.
    if (run / RUN).exists() and any((run / STORE).glob("part-*.parquet")):
        recorded = read_run(run)
        if recorded["challenges"] != about["challenges"]:
            _require_same_images(run, recorded["challenges"], about)
        if recorded["user"] != about["user"]:
            raise UsageError(
                f"{run} is a run on user {recorded['user']}, got {about['user']}; "
                "choose another folder, or give the same value"
            )
    write_json(run / RUN, {"format": FORMAT, **about})


def _require_same_images(run: Path, before: str, about: Mapping[str, Any]) -> None:
    """Check that another place holds every stored image of a run, as a moved folder does.

    Raises:
        UsageError: It does not.
    """
    # Imports pyarrow, which reading does without.
    from simgan_captcha.data.store import CaptchaStore

    place = about["challenges"]
    says = f"{run} is a run on the images of {before}, got {place}"
    folder = Path(place).expanduser()
    if is_url(place) or not folder.exists():
        raise UsageError(f"{says}; choose another folder for the run, or give the same value")
    found = find_images(folder, recursive=about["config"]["download"]["recursive"])
    stored = CaptchaStore(run / STORE).digests()
    missing = stored - {
        hashlib.sha256(image).hexdigest()
        for _, image in read_found(found)
        if isinstance(image, bytes)
    }
    if missing:
        raise UsageError(
            f"{says}, which lacks {len(missing)} of its {len(stored)} images; choose another "
            "folder for the run, or give the folder that these images were moved to"
        )


def read_run(run: Path) -> dict[str, Any]:
    """The content of ``run.json``, see `record_run`.

    Raises:
        RunError: There is no run in the folder, its ``run.json`` is damaged, or another version
            made it.
    """
    try:
        recorded = read_object(run / RUN)
        if "config" in recorded and recorded.get("format") != FORMAT:
            raise RunError(
                f"expected a run of format {FORMAT} in {run}, another version of simgan-captcha "
                "made this one; begin it again in another folder"
            )
        require_shape(recorded, _Recorded)
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


def finished_config(run: Path) -> RunConfig:
    """The configuration of a finished run.

    Raises:
        RunError: The run has changed since it was finished, or is of another version.
    """
    recorded = read_run(run)
    if (run / DIAGNOSIS).exists() and (why := why_outdated(run, recorded)):
        raise RunError(
            f"expected a finished run in {run}: {why}; run simgan-captcha run {run} to its end"
        )
    try:
        return load_config(recorded["config"])
    except ConfigError as error:
        raise RunError(
            f"expected a run of this version in {run}, its settings are of another one ({error}); "
            "begin it again in another folder"
        ) from None


def run_estimate(run: Path) -> Estimate:
    """The estimated accuracy of the recognizer that a finished run keeps.

    Raises:
        RunError: The run is not finished, or its diagnosis is damaged.
    """
    diagnosis = read_diagnosis(run)
    return Estimate(**diagnosis["estimates"][diagnosis["kept"]])


def read_diagnosis(run: Path) -> dict[str, Any]:
    """The diagnosis of a finished run, see `estimate.diagnose`.

    Raises:
        RunError: The run is not finished, or its diagnosis is damaged.
    """
    try:
        diagnosis = require_shape(read_object(run / DIAGNOSIS), _Diagnosis)
        if diagnosis["kept"] not in {stage.name for stage in STAGES if stage.recognizer}:
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
