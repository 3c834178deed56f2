"""The command line: one sub-command a stage.

Heavy imports (torch above all) wait until a command needs them, so that ``--help`` is quick.
"""

import dataclasses
import enum
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simgan_captcha._version import __version__
from simgan_captcha.cli.endings import ending_well, reader_has_left
from simgan_captcha.data.addresses import is_url, server_and_user, without_password
from simgan_captcha.errors import RunError, SimganCaptchaError, UsageError
from simgan_captcha.shown import printable

if TYPE_CHECKING:
    from simgan_captcha.inference.reader import ImageReader
    from simgan_captcha.pipeline.estimate import Estimate

DEBUG = "--debug"
DEFAULT_USER = "rickyhan"


class _Commands(typer.core.TyperGroup):
    """Turns what goes wrong into one line and an exit code; a traceback only with --debug."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with ending_well():
                return super().invoke(ctx)
        except SimganCaptchaError as error:
            _give_up(str(error), error.exit_code)
        except OSError as error:
            if isinstance(error, BrokenPipeError) and reader_has_left():
                raise  # typer ends quietly, with 1
            _give_up(
                f"the system refused: {error}; free space or correct the path, then run the same "
                "command again: what was done is kept",
                1,
            )
        except KeyboardInterrupt:
            _give_up("interrupted; run the same command again to go on where it was", 1)
        except MemoryError:
            _give_up(_OUT_OF_MEMORY, 1)
        except RuntimeError as error:  # what torch makes of a full memory or a killed worker
            for said, message in _TORCH_ERRORS.items():
                if re.search(said, str(error)):
                    _give_up(message, 1)
            raise


def _give_up(message: str, code: int) -> None:
    if os.environ.get(_DEBUG_VARIABLE):
        raise
    typer.secho(f"error: {printable(' '.join(message.split()))}", fg="red", err=True)
    raise typer.Exit(code)


_OUT_OF_MEMORY = (
    "out of memory; set a smaller batch_size or fewer workers, or use a larger machine; "
    "what was done is kept"
)
_TORCH_ERRORS = {
    "memory|DataLoader worker": _OUT_OF_MEMORY,
    "gloo|NCCL": "another process of this training was lost; see what it said, and run the same "
    "command again to go on where it was",
}
_DEBUG_VARIABLE = "SIMGAN_CAPTCHA_DEBUG"

app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
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
    """Nothing to do: an option that is before any command has done its work by now."""


Run = Annotated[Path, typer.Argument(help="Folder of the run.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Seed = Annotated[int, typer.Option(help="Decides every random draw.", min=0, max=2**31 - 1)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, as reader.steps=500."),
]
PresetName = Annotated[str, typer.Option(help="quick, cpu, paper or seed.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print results and warnings only.")]


@app.command()
def run(
    run: Run,
    challenges: Annotated[
        str | None,
        typer.Option(
            help="Folder of challenge batches, or a URL: a server, its .../challenge address, "
            "or an address with {n}. May be left out when a run is gone on with.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of unlabelled JPEG or PNG images, instead of --challenges."),
    ] = None,
    scheme: Annotated[
        Path | None,
        typer.Option(help="What is known of other captchas: a file of init's.", show_default=False),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(help="User of the puzzle; the URL's, or rickyhan, if left out."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="quick, cpu, paper or seed; cpu if left out.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Decides every random draw; 1 if left out.", min=0, max=2**31 - 1),
    ] = None,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Learn from unlabelled captchas and read them all.

    Options that are left out are those the run was started with; another preset begins with its
    own settings. What a change reaches is done again.
    """
    from simgan_captcha.config.of_scheme import OF_THE_SCHEME, scheme_settings
    from simgan_captcha.pipeline.run_folder import RUN, read_run

    recorded = read_run(run) if (run / RUN).exists() else {}
    if challenges and images:
        raise UsageError("expected --challenges or --images, got both; give one")
    challenges = challenges or (str(images) if images else recorded.get("challenges"))
    if challenges is None:
        raise UsageError(
            f"expected --challenges FOLDER-or-URL, or --images FOLDER, for the new run {run}"
        )
    named = None
    if is_url(challenges):
        server, named = server_and_user(challenges)
        if named is not None and user not in (None, named):
            shown = without_password(challenges)
            raise UsageError(
                f"expected the captchas of {user!r}, {shown} are those of {named!r}; "
                f"give --user {named}, or the server's address alone, {without_password(server)}"
            )
    else:
        # A run records the home folder as ~.
        challenges = str(Path(challenges).expanduser().resolve())
    _run(
        run,
        challenges,
        named or user or recorded.get("user", DEFAULT_USER),
        preset or recorded.get("preset", "cpu"),
        recorded.get("seed", 1) if seed is None else seed,
        _later_settings(
            # Another preset begins with its own values, but the captchas are the same.
            [
                setting
                for setting in recorded.get("settings", [])
                if preset in (None, recorded.get("preset")) or setting.startswith(OF_THE_SCHEME)
            ],
            [*(scheme_settings(scheme) if scheme else []), *(settings or [])],
        ),
        quiet,
    )


def _later_settings(earlier: list[str], later: list[str]) -> list[str]:
    """Both, each key once with its latest value: going on again and again adds nothing."""
    latest: dict[str, str] = {}
    for setting in [*earlier, *later]:
        key = setting.partition("=")[0].strip()
        latest.pop(key, None)  # so that it comes after what it is to override
        latest[key] = setting
    return list(latest.values())


def _run(
    run: Path,
    challenges: str,
    user: str,
    preset: str,
    seed: int,
    settings: list[str],
    quiet: bool,
) -> Path:
    """All stages, then the report; the report's path."""
    from simgan_captcha.config.settings import resolve_config
    from simgan_captcha.pipeline.progress import StageProgress
    from simgan_captcha.pipeline.run import assist, run_pipeline
    from simgan_captcha.report.report import REPORT, write_report
    from simgan_captcha.training.parallel import leads

    config = resolve_config(preset, settings)
    if not leads():
        assist(run, config, seed=seed)
        return run / REPORT
    with StageProgress(quiet=quiet) as progress:
        run_pipeline(
            run,
            config,
            challenges=challenges,
            user=user,
            seed=seed,
            preset=preset,
            settings=settings,
            progress=progress,
        )
        report = write_report(run)
        progress.say(f"report     {report}")
    return report


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder of unlabelled JPEG or PNG images.")],
    file: Annotated[Path, typer.Argument(help="Where to write the scheme, as my.toml.")],
    alphabet: Annotated[
        str | None, typer.Option(help="Every character a text may hold.", show_default=False)
    ] = None,
    length: Annotated[
        str | None, typer.Option(help="Characters in a text, as 5 or 4-6.", show_default=False)
    ] = None,
) -> None:
    """Look at images of another captcha family: write a commented scheme and a contact sheet."""
    import shlex

    from simgan_captcha.atomic import write_bytes
    from simgan_captcha.data.inspect import doubts, look_at, scheme_text

    lengths = _lengths(length) if length else None
    if file.suffix != ".toml":
        raise UsageError(f"expected a file named like my.toml for the scheme, got {file}")
    if file.resolve().parent == folder.resolve():
        raise UsageError(
            f"expected the scheme outside of {folder}, as its contact sheet would lie among the "
            "images; name another place"
        )
    sheet = file.with_suffix(".png")
    for path in (file, sheet):
        if path.exists():
            raise UsageError(
                f"expected a new file, {path} is there already; move it or name another"
            )
    look = look_at(folder)
    text = scheme_text(look, folder, file.name, alphabet, lengths)
    write_bytes(file, text.encode())
    write_bytes(sheet, look.sheet)
    for doubt in doubts(look):
        typer.secho(f"warning: {doubt}", fg="yellow", err=True)
    typer.echo(
        f"{file}: check alphabet and length beside {sheet}, then\n"
        f"simgan-captcha run RUN --scheme {shlex.quote(str(file))} "
        f"--images {shlex.quote(str(folder))}"
    )


def _lengths(told: str) -> tuple[int, int]:
    """The shortest and the longest text, of N or MIN-MAX."""
    found = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", told)
    if not found or not 1 <= int(found[1]) <= int(found[2] or found[1]) <= 64:
        raise UsageError(f"expected --length as 5 or 4-6, from 1 to 64, got {told!r}")
    return int(found[1]), int(found[2] or found[1])


@app.command()
def judge(
    run: Run,
    user: Annotated[
        str | None, typer.Option(help="Judge by the puzzle's answer rule for this user.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Judge by a CSV with the header name,label.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a finished run's readings with the truth. Nothing learns from this."""
    from simgan_captcha.atomic import file_hash, write_json
    from simgan_captcha.evaluation.judge import judge as compare
    from simgan_captcha.evaluation.judge import puzzle_truth, read_labels_csv
    from simgan_captcha.inference.readings import load_readings
    from simgan_captcha.pipeline.run_folder import JUDGEMENT, READINGS, read_run
    from simgan_captcha.report.report import write_report
    from simgan_captcha.scheme import check_scheme

    if (user is None) == (labels is None):
        raise UsageError("expected either --user NAME or --labels FILE.csv to judge by")
    recorded = read_run(run)
    _warn_if_outdated(run, recorded)
    if user not in (None, recorded["user"]):
        _warn(
            f"{run} is a run on captchas of {recorded['user']}, and is judged by the answers for "
            f"{user}"
        )
    readings = load_readings(run / READINGS)
    judgement = compare(
        [reading.name for reading in readings],
        [reading.text for reading in readings],
        puzzle_truth(user) if user is not None else read_labels_csv(labels or Path()),
        recorded["scheme"]["alphabet"],
        fold=check_scheme(recorded["scheme"]).fold,
        confidences=[reading.confidence for reading in readings],
        estimate=_own_estimate(run),
    )
    figures = judgement.model_dump(mode="json")
    figures["readings_sha256"] = file_hash(run / READINGS)
    write_json(run / JUDGEMENT, figures)
    report = write_report(run)
    if as_json:
        typer.echo(json.dumps(figures))
        return
    low, high = judgement.captcha_interval
    typer.echo(
        f"{judgement.images} images: {judgement.captcha_accuracy:.2%} of captchas right "
        f"(95 % interval {low:.2%} to {high:.2%}), {judgement.character_accuracy:.2%} of characters"
    )
    if own := judgement.own_estimate:
        typer.echo(
            f"estimated {own.accuracy:.1%} ({own.low:.1%} to {own.high:.1%}) without a label, "
            f"{abs(own.points_below):.1f} points {'below' if own.points_below > 0 else 'above'}"
        )
    worst = ", ".join(f"{c.truth} read as {c.read} {c.count}x" for c in judgement.confusions[:5])
    typer.echo(f"most confused: {worst or 'nothing'}")
    typer.echo(f"report: {report}")


def _warn(message: str) -> None:
    typer.secho(f"warning: {printable(message)}", fg="yellow", err=True)


def _warn_if_outdated(run: Path, recorded: dict[str, Any]) -> None:
    from simgan_captcha.pipeline.manifest import why_outdated

    if why := why_outdated(run, recorded):
        _warn(
            f"the readings in {run} are older than the run as it is set now: {why}; run "
            f"simgan-captcha run {run} to its end for new ones"
        )


def _own_estimate(run: Path) -> "Estimate | None":
    """What the run says of its own accuracy; whether it can does not decide if it can be judged."""
    from simgan_captcha.pipeline.estimate import Estimate
    from simgan_captcha.pipeline.run_folder import DIAGNOSIS, read_diagnosis

    if not (run / DIAGNOSIS).exists():
        return None
    try:
        diagnosis = read_diagnosis(run)
    except RunError as error:
        _warn(str(error))
        return None
    return Estimate(**diagnosis["estimates"][diagnosis["kept"]])


@app.command()
def export(
    run: Run,
    file: Annotated[Path, typer.Argument(help="Where to write it, as reader.onnx.")],
    int8: Annotated[bool, typer.Option("--int8", help="Compute in 8 bits.")] = False,
) -> None:
    """Write a finished run's reader as one ONNX file, which reads without torch."""
    from simgan_captcha.data.store import CaptchaStore
    from simgan_captcha.pipeline.learning import load_images
    from simgan_captcha.pipeline.run import load_run_reader
    from simgan_captcha.recognizer.export import COMPARED, export_reader

    reader, background, config = load_run_reader(run)
    _, images = load_images(CaptchaStore(run / "store"), config.scheme)
    parity = export_reader(file, reader, background, config.scheme, images[:COMPARED], int8=int8)
    typer.echo(
        f"{file}: {file.stat().st_size / 1e3:.0f} kB; {parity.images - parity.changed} of "
        f"{parity.images} real images read as in torch, confidences at most "
        f"{parity.confidence_error:.2g} apart"
    )


@app.command()
def read(
    reader: Annotated[
        Path, typer.Argument(help="A finished run's folder, or a file that export wrote.")
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            help="JPEG or PNG files, folders of them, captcha stores; - for an image, or for names "
            "of files, from standard input.",
            show_default=False,
        ),
    ],
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    parquet: Annotated[
        Path | None, typer.Option(help="Write a Parquet file.", show_default=False)
    ] = None,
) -> None:
    """Read images: text, confidence, confidence per character. Those of a .onnx need no torch."""
    from simgan_captcha.inference.formats import write_csv, write_json, write_lines, write_parquet
    from simgan_captcha.inference.sources import image_sources

    if as_json + as_csv + (parquet is not None) > 1:
        raise UsageError("expected one of --json, --csv and --parquet FILE, got several")
    rows = _image_reader(reader).read_each(image_sources(images, sys.stdin.buffer))
    if parquet is not None:
        unreadable = write_parquet(rows, parquet)
    elif as_json or as_csv:
        unreadable = (write_json if as_json else write_csv)(rows, sys.stdout)
    else:
        unreadable = write_lines(rows, sys.stdout, sys.stderr)
    if unreadable:
        raise typer.Exit(1)


class Engine(enum.StrEnum):
    """What runs bulk labelling."""

    local = "local"
    ray = "ray"


@app.command()
def label(
    reader: Annotated[Path, typer.Argument(help="A file that export wrote.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="IN...",
            help="Parquet files with a column image (and name), folders of them, captcha stores; "
            "paths, or URIs as s3://bucket/folder.",
            show_default=False,
        ),
    ],
    out: Annotated[str, typer.Argument(help="Folder for the parts, a path or URI.")],
    engine: Annotated[
        Engine, typer.Option(help="This machine, or a Ray cluster (RAY_ADDRESS).")
    ] = Engine.local,
    quiet: Quiet = False,
) -> None:
    """Read any number of images: each row of Parquet files becomes one row of OUT's parts.

    Run it again to go on where it was: parts that are there are not made again.
    """
    from simgan_captcha.inference.label import label_here
    from simgan_captcha.inference.on_ray import label_on_ray
    from simgan_captcha.inference.partitions import (
        find_partitions,
        open_output,
        remove_unfinished,
        resolved,
    )
    from simgan_captcha.inference.reader import Reader
    from simgan_captcha.pipeline.progress import StageProgress

    Reader(reader)  # what is wrong with it is said before any work
    partitions, out = find_partitions(inputs), resolved(out)
    pending = open_output(out, reader.read_bytes(), partitions)
    run_engine = label_on_ray if engine == Engine.ray else label_here
    total, rows, unreadable = sum(one.rows for one in pending), 0, 0
    with StageProgress(quiet=quiet) as progress:
        progress.stage("label")
        for labelled in run_engine(pending, out):
            rows, unreadable = rows + labelled.rows, unreadable + labelled.unreadable
            progress.update(rows, total, unreadable=str(unreadable))
    remove_unfinished(out)
    earlier = len(partitions) - len(pending)
    typer.echo(
        f"{out}: {rows} images in {len(pending)} parts, {unreadable} of them unreadable (column "
        "error says why)" + (f"; {earlier} parts were there before" if earlier else "")
    )


def _image_reader(reader: Path) -> "ImageReader":
    from simgan_captcha.inference.reader import ImageReader, Reader

    if reader.is_file() or reader.suffix == ".onnx":
        return Reader(reader)
    from simgan_captcha.pipeline.run import load_run_reader
    from simgan_captcha.recognizer.decode import recogniser

    network, background, config = load_run_reader(reader)
    return ImageReader(config.scheme, recogniser(network, background))


@app.command()
def audit(
    run: Run,
    images: Annotated[
        int, typer.Option(help="Captchas drawn of each change.", min=10, max=100_000)
    ] = 1000,
    steps: Annotated[
        int,
        typer.Option(help="Steps that the reader learns on, of each change.", min=1, max=100_000),
    ] = 150,
    seed: Seed = 1,
    quiet: Quiet = False,
) -> None:
    """How weak a captcha is, for its owner: what falls, at what cost, and which change would help.

    The figures are kept in the run, in audit/audit.json, beside a page of them.
    """
    from tempfile import TemporaryDirectory

    from simgan_captcha.evaluation.audit import audit_run
    from simgan_captcha.evaluation.audit_page import audit_figures, write_audit
    from simgan_captcha.pipeline.learning import run_simulator
    from simgan_captcha.pipeline.progress import StageProgress
    from simgan_captcha.pipeline.run import load_run_reader
    from simgan_captcha.pipeline.run_folder import read_diagnosis, read_run

    reader, _, config = load_run_reader(run)
    recorded, diagnosis = read_run(run), read_diagnosis(run)
    simulator = run_simulator(run, config)
    with StageProgress(quiet=quiet) as progress, TemporaryDirectory() as folder:
        progress.stage("audit")
        measured, flops = audit_run(
            config,
            simulator,
            reader,
            Path(folder),
            seed=seed,
            images=images,
            steps=steps,
            on_step=lambda name, step, total: progress.update(step, total, change=name),
        )
    figures = audit_figures(
        run, recorded, diagnosis, measured, images=images, steps=steps, flops=flops
    )
    page = write_audit(run, figures, measured)
    own = figures["estimate"]
    typer.echo(
        f"{own['accuracy']:.1%} of captchas fall, as estimated ({own['low']:.1%} to "
        f"{own['high']:.1%}), with no label; drawn ones, one feature changed at a time:"
    )
    for change in figures["changes"]:
        typer.echo(
            f"{change['name']:<20} {change['as_it_is']['share']:>6.1%} at once, "
            f"{change['learned_on']['share']:>6.1%} after {steps} steps"
        )
    typer.echo(f"page: {page}")


@app.command()
def report(run: Run) -> None:
    """Write the run's HTML report again."""
    from simgan_captcha.report.report import write_report

    typer.echo(write_report(run))


@app.command()
def submit(
    url: Annotated[
        str,
        typer.Argument(
            help="Address of the puzzle server, or of a user's puzzle on it.", show_default=False
        ),
    ],
    run: Run,
    user: Annotated[
        str | None, typer.Option(help="User of the puzzle; the run's if left out.")
    ] = None,
) -> None:
    """Send the 15,000 readings a run is surest of to a puzzle server.

    The server's answer is kept in the run, in submission/verdict.json.
    """
    from simgan_captcha.pipeline.run_folder import read_run

    recorded = read_run(run)
    _warn_if_outdated(run, recorded)
    if not _submit(url, run, user or recorded["user"]):
        raise typer.Exit(1)


def _submit(url: str, run: Path, user: str) -> bool:
    from simgan_captcha.atomic import file_hash, write_json
    from simgan_captcha.inference.readings import load_readings
    from simgan_captcha.pipeline.run_folder import READINGS, VERDICT
    from simgan_captcha.puzzle.client import submit as send
    from simgan_captcha.report.report import write_report

    verdict = send(url, user, load_readings(run / READINGS))
    # Said before it is kept: a disk that refuses must not cost a passcode.
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
def serve(
    run: Run,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8080,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name that a proxy asks for it by; may be repeated."),
    ] = None,
) -> None:
    """Serve a run to a browser: read images, watch it learn, review what it read."""
    from simgan_captcha.web.server import serve

    serve(
        run,
        host=host,
        port=port,
        allow_hosts=allow_host or (),
        announce=typer.echo,
        warn=_warn,
    )


@app.command()
def demo(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")] = Path("demo-run"),
    preset: PresetName = "quick",
    seed: Seed = 1,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """The main job on the embedded puzzle: download, learn, read, submit; exit 0 if it passes."""
    from contextlib import ExitStack
    from urllib.parse import urlsplit

    from simgan_captcha.pipeline.run_folder import RUN, read_run
    from simgan_captcha.puzzle.server import running_puzzle
    from simgan_captcha.training.parallel import started_together

    if started_together():
        raise UsageError(
            "expected one process, got several of torchrun's; they share run, not demo"
        )
    # The store knows its batches by their address, so a run is gone on with on the same port.
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
        report = _run(run, url, "demo", preset, seed, settings or [], quiet)
        passed = _submit(url, run, "demo")
    typer.echo(f"report: {report}")
    if not passed:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line."""
    if DEBUG in sys.argv:
        sys.argv.remove(DEBUG)
        os.environ[_DEBUG_VARIABLE] = "1"
    # Threads that spin while they wait take the core from others, and from the simulator's own
    # workers: on a shared machine trainings ran at half the speed. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
