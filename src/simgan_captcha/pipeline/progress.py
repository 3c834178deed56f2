"""Progress of a run: events for a callback, and their display.

On a terminal, each stage has a live line with a progress bar and the remaining time. Elsewhere, a
plain line is printed every ten seconds. With ``quiet``, only warnings are shown.
"""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from simgan_captcha.shown import printable


@dataclass(frozen=True)
class Event:
    """One event of a run."""

    kind: Literal["stage", "step", "message", "warning"]
    """``stage``: a stage begins. ``step``: it has reached a step. The others have a ``text``."""
    stage: str = ""
    """Name of the current stage."""
    step: float = 0
    steps: float = 0
    """Number of steps of the stage, or of a part of it."""
    figures: Mapping[str, float | str] = field(default_factory=dict)
    """Figures of the step, such as ``loss``."""
    text: str = ""


OnEvent = Callable[[Event], None]
"""A progress callback; it may raise to stop the run, which can be continued later."""


class Reporter:
    """Makes events and passes them to a callback."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._stage = ""

    def stage(self, name: str) -> None:
        """Report that a stage begins."""
        self._stage = name
        self._on_event(Event("stage", name))

    def step(self, step: float, steps: float, figures: Mapping[str, float | str]) -> None:
        """Report a step of the stage."""
        self._on_event(Event("step", self._stage, step, steps, figures))

    def say(self, text: str) -> None:
        """Report one line of text."""
        self._on_event(Event("message", self._stage, text=text))

    def warn(self, text: str) -> None:
        """Report a warning."""
        self._on_event(Event("warning", self._stage, text=text))


def ignore(event: Event) -> None:
    """Show nothing."""


def print_events(event: Event) -> None:
    """Print one line for each finished stage, and warnings, as a notebook can show them."""
    if event.kind in ("message", "warning"):
        prefix = "warning: " if event.kind == "warning" else ""
        print(prefix + printable(event.text), flush=True)


PLAIN_LINE_SECONDS = 10.0


class StageProgress:
    """Shows the progress of one stage after another on a console."""

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

    def __call__(self, event: Event) -> None:
        """Show an event: this object is a progress callback."""
        if event.kind == "stage":
            self.stage(event.stage)
        elif event.kind == "step":
            self.update(event.step, event.steps, **event.figures)
        elif event.kind == "message":
            self.say(event.text)
        else:
            self.warn(event.text)

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
        """Show the progress of the stage; figures are shown as ``name value``."""
        if self.quiet:
            return
        shown = "  ".join(
            f"{name.replace('_', ' ')} {f'{value:.4g}' if isinstance(value, float) else value}"
            for name, value in figures.items()
        )
        if self._task is not None:
            self._bars.update(self._task, completed=step, total=total, figures=shown)
            return
        # Another total means another part of the stage, with its own duration.
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
        """Print one line above the live bars."""
        if not self.quiet:
            self.console.print(printable(line), markup=False, soft_wrap=True)

    def warn(self, line: str) -> None:
        """Print a warning, even with ``quiet``."""
        self.console.print(
            f"warning: {printable(line)}", markup=False, soft_wrap=True, style="yellow"
        )
