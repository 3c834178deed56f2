"""What teaching a finished run brought. Needs no torch.

`simgan_captcha.teaching` writes it; what reads with a taught reader says so.
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
"""Folder of a run for everything that labels had a part in."""
LESSON = Path(TEACH) / "lesson.json"


@dataclass(frozen=True)
class Lesson:
    """How a reader taught with labels compares with the reader that needed none."""

    labels: int
    """Images whose labels were taught, at least one."""
    right_before: int
    """How many of them the run had read right without labels."""
    cross_validated: int | None
    """How many of them a reader reads right that was taught with the other half of the labels; None
    if there are too few labels."""
    before: Estimate
    after: Estimate | None
    """None where no estimate is known: the run's reader learned from the simulator."""
    better: bool
    """Whether the taught reader reads from now on."""

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
    """Write what was taught, after the taught reader."""
    hashes = {
        "reader_sha256": file_hash(run / TEACH / READER),
        "diagnosis_sha256": file_hash(run / DIAGNOSIS),
    }
    write_json(run / LESSON, asdict(lesson) | hashes)


def load_lesson(run: Path) -> Lesson | None:
    """What a run was taught; None if it was not.

    Raises:
        RunError: Damaged, or the run has been changed since it was taught.
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
