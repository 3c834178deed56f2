"""Learning from a folder of images by the command ``run`` in a child process.

RUN/learn/scheme.toml   the scheme of the form
RUN/learn/output.txt    what the command prints
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict

from simgan_captcha.atomic import write_bytes
from simgan_captcha.errors import ConfigError, RunError
from simgan_captcha.pipeline.run_folder import RUN, Request, read_run
from simgan_captcha.scheme import BackgroundKind, Scheme, check_scheme
from simgan_captcha.web.jobs.command import ChildCommand, JobStatus, unwritable

if TYPE_CHECKING:
    from simgan_captcha.data.inspect import FirstLook

SCHEME = Path("learn") / "scheme.toml"
OUTPUT = Path("learn") / "output.txt"


class LearningStatus(JobStatus):
    """The state of learning."""

    begun: bool
    """Whether the run exists, so that its pages can be shown."""


class SchemeForm(BaseModel):
    """The form of the start page, and a request to learn."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)

    alphabet: str
    """All characters that texts may contain."""
    min_length: int
    """Number of characters in the shortest text."""
    max_length: int
    """Number of characters in the longest text."""
    background: BackgroundKind
    ignore_case: bool
    """Whether a small and a capital letter count as one."""
    preset: Literal["quick", "cpu"]


@dataclass(frozen=True)
class NewRun:
    """A folder of images, what the first look found in it, and the run that learns from it."""

    images: Path
    run: Path
    scheme: Scheme
    """Proposed scheme."""
    look: "FirstLook" = field(repr=False)
    sheet: bytes = field(repr=False)
    """Contact sheet as PNG."""
    doubts: tuple[str, ...] = ()
    """Sentences about possible mistakes of the scheme."""
    remarks: Mapping[str, str] = field(default_factory=dict)
    """Sentences that explain the proposed alphabet and length."""


class Learning:
    """Starts the command that learns from the images, and follows it."""

    def __init__(self, new: NewRun) -> None:
        self.new = new
        self._command = ChildCommand(new.run / OUTPUT)
        self._lock = threading.Lock()

    def form(self) -> SchemeForm:
        """The values that the form shows: of the run if it exists, or else of the first look."""
        scheme, preset = self._base()
        return SchemeForm(
            alphabet=scheme.alphabet,
            min_length=scheme.min_length,
            max_length=scheme.max_length,
            background=scheme.background,
            ignore_case=any(map(_is_pair, scheme.equivalents)),
            preset="cpu" if preset == "cpu" else "quick",
        )

    def begun(self) -> bool:
        """Whether the run exists."""
        return (self.new.run / RUN).exists()

    def start(self, form: SchemeForm) -> LearningStatus:
        """Start the run, or continue it with the values of the form.

        Raises:
            HTTPException: A value is not allowed, or the run is in progress.
            RunError: The folder of the run cannot be written.
        """
        try:
            scheme = _corrected(self._base()[0], form, self.new.look)
        except ConfigError as error:
            raise HTTPException(422, str(error)) from None
        run = self.new.run
        busy = "expected one run at a time; wait until it has ended, or stop it"
        with self._lock:
            if self._command.status("").state == "working":
                raise HTTPException(409, busy)
            try:
                write_bytes(run / SCHEME, scheme.to_toml().encode())
            except OSError as error:
                raise unwritable(run / SCHEME, error) from None
            self._command.start(
                [
                    *("run", str(run), "--images", str(self.new.images)),
                    *("--scheme", str(run / SCHEME), "--preset", form.preset),
                ],
                busy,
            )
        return self.status()

    def status(self) -> LearningStatus:
        """The state of the command, and whether the run exists."""
        status = self._command.status("The run starts.")
        return LearningStatus(state=status.state, said=status.said, begun=self.begun())

    def stop(self) -> None:
        """End the run. What is finished is kept."""
        self._command.stop()

    def _base(self) -> tuple[Scheme, str]:
        """Scheme and preset of the run if it exists, or else of the first look."""
        if self.begun():
            try:
                earlier = Request.of_record(read_run(self.new.run))
            except RunError:
                earlier = None  # the command reports it
            if earlier is not None and earlier.scheme is not None:
                return earlier.scheme, earlier.preset
        return self.new.scheme, "quick"


def _corrected(scheme: Scheme, form: SchemeForm, look: "FirstLook") -> Scheme:
    """The scheme with the values of the form.

    Raises:
        ConfigError: A value is not allowed in a scheme.
    """
    values = scheme.model_dump()
    alphabet, groups = form.alphabet, [group for group in scheme.equivalents if not _is_pair(group)]
    if form.ignore_case:
        small = [c.lower() if _is_pair(c.lower() + c) else c for c in alphabet]
        alphabet = "".join(dict.fromkeys(small))
        groups += [pair for c in alphabet if _is_pair(pair := c + c.upper())]
    if form.background == "shared" and not scheme.shares_picture:
        # Images that share a picture are not scaled.
        width, height = look.size
        for key in ("text_height", "text_width"):
            values[key] = max(4, round((values[key] or scheme.height) * height / scheme.height))
        values |= {"width": width, "height": height}
    values |= {
        "alphabet": alphabet,
        "equivalents": tuple(groups),
        "length": (form.min_length, form.max_length),
        "background": form.background,
    }
    return check_scheme(values)


def _is_pair(group: str) -> bool:
    """Whether a group is a small letter and its capital."""
    return len(group) == 2 and group[0] != group[1] and group[0].upper() == group[1]
