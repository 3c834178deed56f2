"""The commands of the puzzle: submit, puzzle and demo."""

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from simgan_captcha.cli.app import Quiet, RunFolder, Seed, Settings, app, warn_if_outdated
from simgan_captcha.cli.endings import FAILED
from simgan_captcha.cli.learn import train
from simgan_captcha.errors import UsageError
from simgan_captcha.extras import needing


@app.command()
@needing("learn", "simgan-captcha submit")
def submit(
    url: Annotated[
        str,
        typer.Argument(
            help="Address of the puzzle server, or of a user's puzzle on it.", show_default=False
        ),
    ],
    run: RunFolder,
    user: Annotated[
        str | None, typer.Option(help="User of the puzzle; the run's if left out.")
    ] = None,
) -> None:
    """Send the 15,000 readings with the highest confidence to a puzzle server.

    The answer of the server is stored in the run, in submission/verdict.json.
    """
    from simgan_captcha.pipeline.run_folder import read_run

    recorded = read_run(run)
    warn_if_outdated(run, recorded)
    if not _submit(url, run, user or recorded["user"]):
        raise typer.Exit(FAILED)


def _submit(url: str, run: Path, user: str) -> bool:
    from simgan_captcha.atomic import file_hash, write_json
    from simgan_captcha.inference.readings import load_readings
    from simgan_captcha.pipeline.run_folder import READINGS, VERDICT
    from simgan_captcha.puzzle.client import submit as send
    from simgan_captcha.report.report import write_report

    verdict = send(url, user, load_readings(run / READINGS))
    # The result is printed first, so that a passcode is not lost if the disk is not writable.
    typer.echo(f"{verdict.submitted} solutions submitted: {verdict.message}")
    if verdict.passed:
        typer.echo(f"passcode: {verdict.passcode}")
    write_json(
        run / VERDICT,
        {**dataclasses.asdict(verdict), "readings_sha256": file_hash(run / READINGS)},
    )
    write_report(run)
    typer.echo(f"kept in {run / VERDICT}")
    return verdict.passed


@app.command()
@needing("serve", "simgan-captcha puzzle")
def puzzle(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    user: Annotated[
        list[str] | None, typer.Option(help="Only these users have a puzzle; may be repeated.")
    ] = None,
    font: Annotated[Path | None, typer.Option(help="Font file to draw with.")] = None,
    replay: Annotated[
        Path | None, typer.Option(help="Serve recorded batches of this folder in order.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that serve.", min=1, max=64)] = 1,
) -> None:
    """Serve the captcha puzzle: challenges, images, and a check of solutions."""
    from simgan_captcha.puzzle.server import serve

    serve(
        host=host,
        port=port,
        users=frozenset(user) if user else None,
        font=font,
        replay=replay,
        workers=workers,
        announce=typer.echo,
    )


@app.command()
@needing("serve", "simgan-captcha demo")
def demo(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")] = Path("demo-run"),
    preset: Annotated[str, typer.Option(help="quick, cpu, paper or original.")] = "quick",
    seed: Seed = 1,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Solve a puzzle on this machine: download, learn, read and submit. Exit 0 if it passes."""
    from simgan_captcha.pipeline.run_folder import RUN, Request, read_run
    from simgan_captcha.puzzle.server import running_puzzle
    from simgan_captcha.training.parallel import started_together

    if started_together():
        raise UsageError(
            "expected one process, got several of torchrun's; they share run, not demo"
        )
    # The store identifies batches by their address, so a run must continue on the same port.
    known = read_run(run)["challenges"] if (run / RUN).exists() else None
    port = (urlsplit(known).port or 0) if known else 0
    with ExitStack() as stack:
        try:
            url = stack.enter_context(running_puzzle(port=port))
        except UsageError as error:
            raise UsageError(
                f"{run} was downloaded from port {port} of this machine, which cannot be listened "
                f"on now ({error}); free it, or name another folder: simgan-captcha demo FOLDER"
            ) from None
        if not quiet:
            typer.echo(f"the embedded puzzle listens at {url}")
        request = Request(url, "demo", preset, seed, settings=tuple(settings or ()))
        report = train(run, request, quiet=quiet)
        passed = _submit(url, run, "demo")
    typer.echo(f"report: {report}")
    if not passed:
        raise typer.Exit(FAILED)
