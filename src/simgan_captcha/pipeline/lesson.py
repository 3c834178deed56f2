"""The result of teaching a finished run with labels. This module needs no torch.

`simgan_captcha.teaching` writes it. Commands that use a taught recognizer report it.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from simgan_captcha.atomic import file_hash, write_json
from simgan_captcha.documents import read_object, require_shape
from simgan_captcha.errors import RunError
from simgan_captcha.pipeline.estimate import Estimate
from simgan_captcha.pipeline.run_folder import DIAGNOSIS, READER
from simgan_captcha.shown import in_labels

TEACH = "teach"
"""Folder of a run for everything that was made with labels."""
LESSON = Path(TEACH) / "lesson.json"


@dataclass(frozen=True)
class Lesson:
    """Comparison of a recognizer taught with labels and the recognizer without labels."""

    labels: int
    """Number of labelled images that were taught, at least one."""
    right_before: int
    """Number of these images that the run had read right without labels."""
    cross_validated: int | None
    """Number of these images that are read right in cross-validation, by a recognizer taught with
    the other half of the labels. None if there are too few labels."""
    before: Estimate
    after: Estimate | None
    """None if the run uses the simulator, because this estimate is then unknown."""
    better: bool
    """Whether the taught recognizer is used from now on."""

    def in_words(self) -> str:
        """``taught with N labels``."""
        return in_labels(self.labels)


class _Written(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    labels: int
    right_before: int
    cross_validated: int | None
    before: dict[str, float | None]
    after: dict[str, float | None] | None
    better: bool
    reader_sha256: str
    diagnosis_sha256: str


def save_lesson(run: Path, lesson: Lesson) -> None:
    """Write the lesson. The taught recognizer must already be saved."""
    hashes = {
        "reader_sha256": file_hash(run / TEACH / READER),
        "diagnosis_sha256": file_hash(run / DIAGNOSIS),
    }
    write_json(run / LESSON, asdict(lesson) | hashes)


def load_lesson(run: Path) -> Lesson | None:
    """The lesson of a run; None if the run was not taught.

    Raises:
        RunError: The lesson is damaged, or the run has changed since.
    """
    try:
        written = require_shape(read_object(run / LESSON), _Written)
        whole = written["reader_sha256"] == file_hash(run / TEACH / READER)
        lesson = _lesson(written)
    except (FileNotFoundError, NotADirectoryError):
        if not (run / LESSON).exists():
            return None
        whole = False
    except (OSError, ValueError, TypeError) as error:
        raise _unusable(run, f"{LESSON} is damaged ({error})") from None
    if not whole:
        raise _unusable(run, f"{Path(TEACH) / READER} is damaged")
    if written["diagnosis_sha256"] != file_hash(run / DIAGNOSIS):
        raise _unusable(run, "the run was changed after it was taught")
    return lesson


def _lesson(written: dict[str, Any]) -> Lesson:
    of_labels = {
        key: written[key] for key in ("labels", "right_before", "cross_validated", "better")
    }
    before, after = Estimate(**written["before"]), written["after"]
    return Lesson(before=before, after=Estimate(**after) if after else None, **of_labels)


def _unusable(run: Path, why: str) -> RunError:
    return RunError(
        f"expected a taught reader in {run}, {why}; teach the run again, or delete its folder "
        f"{TEACH}"
    )
