"""Teaching of the run with the corrections of the review page.

The work is the command ``teach RUN --reviewed`` in a child process. Code that learns from labels
never runs in the process of the server.

    RUN/teach/output.txt   what the command prints
"""

from pathlib import Path
from typing import Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict

from simgan_captcha.errors import UsageError
from simgan_captcha.pipeline.estimate import Estimate
from simgan_captcha.pipeline.lesson import TEACH, Lesson
from simgan_captcha.report.diagnosis import lesson_shown
from simgan_captcha.web.corrections import Corrections
from simgan_captcha.web.jobs.command import ChildCommand, Nothing
from simgan_captcha.web.problems import describe_problems

OUTPUT = Path(TEACH) / "output.txt"


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
        self._command = ChildCommand(run / OUTPUT)

    def start(self) -> TeachingStatus:
        """Start teaching with all corrections.

        Raises:
            HTTPException: A lesson is in progress.
            UsageError: There are no corrections.
            RunError: The corrections are damaged, or the folder of the run cannot be written.
        """
        if not self._corrections.texts():
            raise UsageError(
                "expected at least one correction, found none; correct or confirm a reading first"
            )
        self._command.start(
            ["teach", str(self._run.absolute()), "--reviewed"],
            busy="expected one lesson at a time; wait until it has ended",
        )
        return self.status()

    def status(self) -> TeachingStatus:
        """The lesson in progress, or else the last result."""
        command = self._command.status("The lesson starts.")
        if command.state == "working":
            return TeachingStatus(state="teaching", said=command.said)
        if command.state == "failed":
            return TeachingStatus(state="failed", said=command.said)
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
        self._command.stop()


def add_teaching(app: FastAPI, lessons: Lessons) -> None:
    """Add teaching with the corrections of the review page.

    Args:
        app: The application.
        lessons: The command that teaches.
    """

    @app.post("/api/teaching", status_code=202, responses=describe_problems(403, 409, 422, 503))
    def teach(_: Nothing) -> TeachingStatus:
        """Start teaching the run with its corrections. Readings without labels do not change."""
        return lessons.start()

    @app.get("/api/teaching")
    def teaching() -> TeachingStatus:
        """The lesson in progress, or else the last result."""
        return lessons.status()


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
