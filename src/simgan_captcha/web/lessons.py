"""Teaching of the run with the corrections of the review page.

The work is the command ``teach RUN --reviewed`` in a child process. Code that learns from labels
never runs in the process of the server.

    RUN/teach/output.txt   what the command prints
"""

import subprocess
import threading
from pathlib import Path
from typing import Literal

from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict

from simgan_captcha.errors import RunError, UsageError
from simgan_captcha.pipeline.estimate import Estimate
from simgan_captcha.pipeline.lesson import TEACH, Lesson
from simgan_captcha.report.diagnosis import lesson_shown
from simgan_captcha.serving.child import start_command
from simgan_captcha.serving.connection import STOP_SECONDS
from simgan_captcha.web.corrections import Corrections

OUTPUT = Path(TEACH) / "output.txt"

_TAIL_BYTES = 4096
_ERROR = "error: "


class TeachingStatus(BaseModel):
    """The state of teaching, and its last result."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    state: Literal["none", "teaching", "taught", "failed"]
    said: str
    """The result, the latest line of progress, or the reason of a failure."""
    labels: int | None = None
    """Number of labels of the last result."""
    before: float | None = None
    """Estimated accuracy without labels, 0 to 1."""
    after: float | None = None
    """Estimated accuracy of the taught recognizer; None if the run learned from the simulator."""
    in_use: bool = False
    """Whether the taught recognizer reads from now on."""


class Lessons:
    """Starts the command that teaches a run, one at a time, and follows it."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._corrections = Corrections(run)
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> TeachingStatus:
        """Start teaching with all corrections.

        Raises:
            HTTPException: A lesson is in progress.
            UsageError: There are no corrections.
            RunError: The corrections are damaged, or the folder of the run cannot be written.
        """
        with self._lock:
            if self._child is not None and self._child.poll() is None:
                raise HTTPException(409, "expected one lesson at a time; wait until it has ended")
            if not self._corrections.texts():
                raise UsageError(
                    "expected at least one correction, found none; correct or confirm a reading "
                    "first"
                )
            self._forget()
            try:
                (self._run / TEACH).mkdir(exist_ok=True)
                with (self._run / OUTPUT).open("wb") as output:
                    command = ["teach", str(self._run.absolute()), "--reviewed"]
                    self._child = start_command(command, output)
            except OSError as error:
                raise RunError(
                    f"expected to write {self._run / OUTPUT}, could not ({error}); free disk "
                    "space, or run the server as a user who may write there"
                ) from None
        return self.status()

    def status(self) -> TeachingStatus:
        """The lesson in progress, or else the last result."""
        child = self._child
        code = None if child is None else child.poll()
        if child is not None and code is None:
            return TeachingStatus(state="teaching", said=self._lines()[-1] or "The lesson starts.")
        if code:
            return TeachingStatus(state="failed", said=self._reason(code))
        damage: list[str] = []
        lesson = lesson_shown(self._run, damage)
        if lesson is None:
            return TeachingStatus(state="failed" if damage else "none", said="".join(damage))
        return TeachingStatus(
            state="taught",
            said=_in_words(lesson),
            labels=lesson.labels,
            before=lesson.before.accuracy,
            after=lesson.after.accuracy if lesson.after else None,
            in_use=lesson.better,
        )

    def stop(self) -> None:
        """End the lesson in progress. Its labels are kept."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None
        with child.stdin:  # closed after the end, because the child ends at once without it
            child.terminate()
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _lines(self) -> list[str]:
        """The last lines that the command has printed, at least one, which may be empty."""
        try:
            with (self._run / OUTPUT).open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - _TAIL_BYTES))
                return file.read().decode("utf-8", "replace").strip().splitlines() or [""]
        except OSError:
            return [""]

    def _reason(self, code: int) -> str:
        errors = [line for line in self._lines() if line.startswith(_ERROR)]
        if errors:
            return errors[-1].removeprefix(_ERROR)
        return f"the command ended with code {code} and without a result; see {self._run / OUTPUT}"


def _in_words(lesson: Lesson) -> str:
    taught = lesson.in_words()
    parts = [
        f"{taught[0].upper()}{taught[1:]}. Estimated accuracy of whole captchas: before "
        f"{_share(lesson.before)}, after {_share(lesson.after)}."
    ]
    if lesson.cross_validated is not None:
        parts.append(
            f"Of the labelled images, {lesson.right_before} were read right before, "
            f"{lesson.cross_validated} in cross-validation."
        )
    parts.append(
        "The taught recognizer is in use."
        if lesson.better
        else "The labels made it no better; the recognizer without labels stays in use."
    )
    return " ".join(parts)


def _share(estimate: Estimate | None) -> str:
    if estimate is None:
        return "unknown, because the run learned from the simulator"
    return f"{estimate.accuracy:.1%} ({estimate.low:.1%} to {estimate.high:.1%})"
