"""The base of the command line: errors, common options and the start."""

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from simgan_captcha._version import __version__
from simgan_captcha.cli.endings import FAILED, ending_well, reader_has_left
from simgan_captcha.errors import SimganCaptchaError, UsageError
from simgan_captcha.shown import printable

DEBUG = "--debug"

_OUT_OF_MEMORY = (
    "out of memory; set a smaller batch_size or fewer workers, or use a larger machine; "
    "what was done is kept"
)
_TORCH_ERRORS = {
    "memory|DataLoader worker": _OUT_OF_MEMORY,
    "gloo|NCCL": "another process of this training was lost; read its error, then run the same "
    "command again to continue",
}
"""Messages for errors of torch, by a pattern of the text of the error."""


_ORDER = (
    *("init", "run", "demo", "judge", "audit", "report"),
    *("export", "read", "label", "serve", "puzzle", "submit"),
)
"""Commands in the order of the help; others come last."""


class Commands(typer.core.TyperGroup):
    """Turns an error into one line and an exit code; with --debug it shows the traceback."""

    debug = False

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands in the order of the help."""
        return sorted(super().list_commands(ctx), key=[*_ORDER, *self.commands].index)

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            with ending_well():
                return super().invoke(ctx)
        except (SimganCaptchaError, OSError, KeyboardInterrupt, MemoryError, RuntimeError) as error:
            message = _message(error)
            if message is None or Commands.debug:
                raise
            _give_up(message, error.exit_code if isinstance(error, SimganCaptchaError) else FAILED)


def _message(error: BaseException) -> str | None:
    """The message for an error. None for a bug of this package, or if the output pipe is closed."""
    if isinstance(error, SimganCaptchaError):
        return str(error)
    if isinstance(error, BrokenPipeError) and reader_has_left():
        return None  # typer ends without a message, with exit code 1
    if isinstance(error, OSError):
        return (
            f"the system refused: {error}; free space or correct the path, then run the same "
            "command again: what was done is kept"
        )
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; run the same command again to continue"
    if isinstance(error, MemoryError):
        return _OUT_OF_MEMORY
    # torch raises a RuntimeError if memory is full or a worker was killed.
    found = (message for said, message in _TORCH_ERRORS.items() if re.search(said, str(error)))
    return next(found, None)


def _give_up(message: str, code: int) -> NoReturn:
    typer.secho(f"error: {printable(' '.join(message.split()))}", fg="red", err=True)
    raise typer.Exit(code)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Read short text in images, having learned without a single label.",
    epilog="Add --debug to any command to see the traceback of an error. For puzzles, research "
    "and captchas you own or may test.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"simgan-captcha {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Read options that stand before the command; they have done their work by now."""


RunFolder = Annotated[Path, typer.Argument(help="Folder of the run.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Seed = Annotated[
    int, typer.Option(help="Random seed of everything that is drawn.", min=0, max=2**31 - 1)
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, as recognizer.steps=500."),
]
Recursive = Annotated[bool, typer.Option("--recursive", help="Look into folders of folders.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print results and warnings only.")]


def warn(message: str) -> None:
    """Print a warning."""
    typer.secho(f"warning: {printable(message)}", fg="yellow", err=True)


def warn_if_outdated(run: Path, recorded: dict[str, Any]) -> None:
    """Warn if the readings of a run are older than its settings."""
    from simgan_captcha.pipeline.manifest import why_outdated

    if why := why_outdated(run, recorded):
        warn(
            f"the readings in {run} are older than the run as it is set now: {why}; run "
            f"simgan-captcha run {run} to its end for new ones"
        )


def parse_length(text: str) -> tuple[int, int]:
    """Parse ``N`` or ``MIN-MAX`` to the least and the greatest length.

    Raises:
        UsageError: The text has neither form.
    """
    found = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", text)
    if not found or not 1 <= int(found[1]) <= int(found[2] or found[1]) <= 64:
        raise UsageError(f"expected --length as 5 or 4-6, from 1 to 64, got {text!r}")
    return int(found[1]), int(found[2] or found[1])


def main() -> None:
    """Run the command line."""
    if DEBUG in sys.argv:
        sys.argv.remove(DEBUG)
        Commands.debug = True
    # By default, waiting threads spin for long. Beside another busy process, trainings then run at
    # half the speed. If threads sleep at once, trainings are 20 % slower on an idle machine. A
    # thousand turns (of GNU OpenMP, on Linux) are a compromise. Must be set before torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    app()
