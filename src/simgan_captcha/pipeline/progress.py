"""What the person at the keyboard sees while stages run.

A stage calls ``progress.update(step, total, loss=...)`` as often as it likes. On a terminal that is
one live line a stage, with its own bar and ETA; elsewhere a plain line every ten seconds; with
``--quiet`` nothing.
"""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from simgan_captcha.shown import printable

PLAIN_LINE_SECONDS = 10.0


class StageProgress:
    """Progress of one run: stages one after another, each counted in steps."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.quiet = quiet
        self.console = console or Console(file=sys.stderr, highlight=False)
        self._live = self.console.is_terminal and not quiet
        self._bars = Progress(
            TextColumn("[bold]{task.description:<10}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:>6.0f}/{task.total:<6.0f}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
        )
        self._task: TaskID | None = None
        self._stage = ""
        self._started = 0.0
        self._first_step: int | None = None
        self._total = 0.0
        self._last_line = 0.0

    def __enter__(self) -> "StageProgress":
        if self._live:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._bars.stop()

    def stage(self, name: str) -> None:
        """Begin a stage; the next updates belong to it."""
        self._stage = name
        self._started = time.monotonic()
        self._first_step = None
        self._last_line = 0.0
        self._task = None
        if self._live:
            self._task = self._bars.add_task(name, total=1, figures="")

    def update(self, step: float, total: float, **figures: float | str) -> None:
        """Say how far the stage is; figures are shown as ``name value``."""
        if self.quiet:
            return
        shown = "  ".join(
            f"{name.replace('_', ' ')} {f'{value:.4g}' if isinstance(value, float) else value}"
            for name, value in figures.items()
        )
        if self._task is not None:
            self._bars.update(self._task, completed=step, total=total, figures=shown)
            return
        # What has another total is another part of the stage, and takes its own time.
        if self._first_step is None or total != self._total:
            self._first_step, self._started = int(step), time.monotonic()
            self._total = total
        now = time.monotonic()
        if now - self._last_line < PLAIN_LINE_SECONDS and step < total:
            return
        self._last_line = now
        done = step - self._first_step
        remaining = (now - self._started) / done * (total - step) if done > 0 else None
        eta = f"  ETA {remaining:.0f} s" if remaining is not None and step < total else ""
        self.say(f"{self._stage:<10} {step:.0f}/{total:.0f}  {shown}{eta}")

    def say(self, line: str) -> None:
        """One line for the user, above any live bars."""
        if not self.quiet:
            self.console.print(printable(line), markup=False, soft_wrap=True)

    def warn(self, line: str) -> None:
        """One line the user should see even with --quiet."""
        self.console.print(
            f"warning: {printable(line)}", markup=False, soft_wrap=True, style="yellow"
        )
