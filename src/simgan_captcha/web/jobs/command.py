"""A command of this package in a child process of the server, and what it prints."""

import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict

from simgan_captcha.errors import RunError
from simgan_captcha.serving.child import start_command
from simgan_captcha.serving.connection import STOP_SECONDS

_TAIL_BYTES = 4096
_ERROR = "error: "

State = Literal["none", "working", "done", "failed"]


class JobStatus(BaseModel):
    """The state of a command that a page started."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    state: State
    said: str
    """The latest line of progress, or the reason of a failure."""


class Nothing(BaseModel):
    """A request without values: an empty object."""

    model_config = ConfigDict(extra="forbid")


def unwritable(path: Path, error: OSError) -> RunError:
    """The error of a file that the server cannot write."""
    return RunError(
        f"expected to write {path}, could not ({error}); free disk space, or run the server as a "
        "user who may write there"
    )


class ChildCommand:
    """Runs one command at a time in a child process, which ends with the server.

    Args:
        output: File for what the command prints; its folder is created if missing.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, arguments: Sequence[str], busy: str) -> None:
        """Start the command.

        Args:
            arguments: Arguments of the command line.
            busy: Message if the last command has not ended.

        Raises:
            HTTPException: The last command has not ended.
            RunError: The output cannot be written.
        """
        with self._lock:
            if self._child is not None and self._child.poll() is None:
                raise HTTPException(409, busy)
            self._forget()
            try:
                self._output.parent.mkdir(parents=True, exist_ok=True)
                with self._output.open("wb") as output:
                    self._child = start_command(arguments, output)
            except OSError as error:
                raise unwritable(self._output, error) from None

    def status(self, starting: str) -> JobStatus:
        """The state of the last command.

        Args:
            starting: Message as long as the command has printed nothing.
        """
        child = self._child
        if child is None:
            return JobStatus(state="none", said="")
        code = child.poll()
        if code is None:
            return JobStatus(state="working", said=self._lines()[-1] or starting)
        if code:
            return JobStatus(state="failed", said=self._reason(code))
        return JobStatus(state="done", said="")

    def stop(self) -> None:
        """End the command. What it has written is kept."""
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
            with self._output.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - _TAIL_BYTES))
                return file.read().decode("utf-8", "replace").strip().splitlines() or [""]
        except OSError:
            return [""]

    def _reason(self, code: int) -> str:
        errors = [line for line in self._lines() if line.startswith(_ERROR)]
        if errors:
            return errors[-1].removeprefix(_ERROR)
        return f"the command ended with code {code} and without a result; see {self._output}"
