"""Training figures, as one JSON object per line and as TensorBoard scalars."""

import json
import math
from pathlib import Path
from types import TracebackType

from simgan_captcha.atomic import write_bytes
from simgan_captcha.interrupts import defer_sigint

FILE_NAME = "metrics.jsonl"


class MetricsLog:
    """A log in ``metrics.jsonl`` and TensorBoard's ``events.*`` of one folder.

    Args:
        folder: Folder to write to; created if missing.
        resume_step: Step after which the log continues. Later and incomplete lines are dropped.
            None starts a new log and deletes earlier figures.
        writes: Whether this process writes. It is False in all processes except the first.

    Example of a line: ``{"step": 100, "loss": 0.31}``. A figure that is not finite is ``null``,
    because JSON has no name for it.
    """

    def __init__(
        self, folder: Path, resume_step: int | None = None, *, writes: bool = True
    ) -> None:
        self._writes = writes
        if not writes:
            return
        from torch.utils.tensorboard import SummaryWriter  # imported late because it is slow

        path = folder / FILE_NAME
        folder.mkdir(parents=True, exist_ok=True)
        if resume_step is None:
            for events in folder.glob("events.out.tfevents.*"):
                events.unlink()
        write_bytes(path, b"" if resume_step is None else _lines_until(path, resume_step))
        self._file = path.open("a", encoding="utf-8")
        purge = None if resume_step is None else resume_step + 1
        self._board = SummaryWriter(str(folder), purge_step=purge)

    def log(self, step: int, **figures: float) -> None:
        """Write and flush the figures of one step."""
        if not self._writes:
            return
        row: dict[str, float | None] = {"step": step}
        row |= {name: v if math.isfinite(v) else None for name, v in figures.items()}
        with defer_sigint():
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            for name, value in figures.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close both files."""
        if self._writes:
            self._file.close()
            self._board.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _lines_until(path: Path, step: int) -> bytes:
    kept = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        try:
            if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line)
    return b"".join(kept)
