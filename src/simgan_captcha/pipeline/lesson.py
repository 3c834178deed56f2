"""The result of teaching a finished run with labels. This module needs no torch.

`simgan_captcha.teaching` writes it. Commands that use a taught recognizer report it.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from simgan_captcha.atomic import file_hash, write_json
from simgan_captcha.documents import read_object, require_shape
from simgan_captcha.errors import RunError
from simgan_captcha.pipeline.estimate import Estimate
from simgan_captcha.pipeline.run_folder import DIAGNOSIS, READER, READINGS
from simgan_captcha.shown import taught_with

TEACH = "teach"
"""Folder of a run for everything that was made with labels."""
LESSON = Path(TEACH) / "lesson.json"
LABELS = Path(TEACH) / "labels.json"
"""Labels that `simgan_captcha.teaching.labels` stores: {"texts": {name: text}}."""
TAUGHT_NAMES = Path(TEACH) / "taught.json"
"""Names of the images whose labels a run was taught with, a JSON list."""
TAUGHT_READINGS = Path(TEACH) / READINGS.name
"""Readings of the run's images by the taught reader."""


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
        return taught_with(self.labels)


class _Written(BaseModel):
    """What `save_lesson` writes: a lesson, and hashes of the files that it belongs to."""

    model_config = ConfigDict(strict=True, extra="forbid")

    labels: int
    right_before: int
    cross_validated: int | None
    before: dict[str, float | None]
    after: dict[str, float | None] | None
    better: bool
    reader_sha256: str
    diagnosis_sha256: str


class _Labels(BaseModel):
    """Required keys of the stored labels."""

    texts: dict[str, object]


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
    if not (run / LESSON).exists():
        return None
    try:
        written = require_shape(read_object(run / LESSON), _Written)
        of_reader, of_diagnosis = written.pop("reader_sha256"), written.pop("diagnosis_sha256")
        for name in ("before", "after"):
            written[name] = written[name] and Estimate(**written[name])
        lesson = Lesson(**written)
    except (OSError, ValueError, TypeError) as error:
        raise _unusable(run, f"{LESSON} is damaged ({error})") from None
    reader = run / TEACH / READER
    if not reader.exists() or of_reader != file_hash(reader):
        raise _unusable(run, f"{Path(TEACH) / READER} is damaged")
    if of_diagnosis != file_hash(run / DIAGNOSIS):
        raise _unusable(run, "the run was changed after it was taught")
    return lesson


def labelled_names(run: Path) -> set[str]:
    """Names of the images with a stored label. The texts stay unread.

    Raises:
        RunError: The file is damaged.
    """
    try:
        return {*require_shape(read_object(run / LABELS), _Labels)["texts"]}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, ValueError) as error:
        raise RunError(
            f"expected labels in {run / LABELS}, the file is damaged ({error}); mend it or delete "
            "it"
        ) from None


def _unusable(run: Path, why: str) -> RunError:
    return RunError(
        f"expected a taught reader in {run}, {why}; teach the run again, or delete its folder "
        f"{TEACH}"
    )
