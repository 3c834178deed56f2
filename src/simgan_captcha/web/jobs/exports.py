"""Export of the run's reader by the command ``export RUN FILE`` in a child process.

RUN/export/reader.onnx   the exported reader
RUN/export/output.txt    what the command prints
"""

from pathlib import Path

from simgan_captcha.web.jobs.command import ChildCommand, JobStatus
from simgan_captcha.web.reading.run_reader import reader_state

FILE = Path("export") / "reader.onnx"
OUTPUT = Path("export") / "output.txt"


class Exports:
    """Starts the command that exports the reader, and follows it."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._command = ChildCommand(run / OUTPUT)
        self._state = ""

    def start(self) -> JobStatus:
        """Start the export of the reader in use.

        Raises:
            HTTPException: An export is in progress.
            RunError: The folder of the run cannot be written.
        """
        state, run = reader_state(self._run), self._run.absolute()
        self._command.start(
            ["export", str(run), str(run / FILE)],
            busy="expected one export at a time; wait until it has ended",
        )
        self._state = state
        return self.status()

    def status(self) -> JobStatus:
        """The export in progress or the last one; ``none`` if the reader has changed since."""
        status = self._command.status("The export starts.")
        if status.state == "done" and self.file() is None:
            return JobStatus(state="none", said="")
        return status

    def file(self) -> Path | None:
        """The exported reader; None if there is none of the reader in use."""
        path = self._run / FILE
        exported = self._command.status("").state == "done" and path.is_file()
        return path if exported and self._state == reader_state(self._run) else None

    def stop(self) -> None:
        """End the export in progress."""
        self._command.stop()
