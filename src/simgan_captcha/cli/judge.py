"""Commands that judge a run: judge, audit and report."""

import enum
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simgan_captcha.cli.app import (
    AsJson,
    Quiet,
    RunFolder,
    Seed,
    app,
    warn,
    warn_if_outdated,
)
from simgan_captcha.cli.endings import WEAK
from simgan_captcha.errors import RunError
from simgan_captcha.extras import needing

if TYPE_CHECKING:
    from simgan_captcha.pipeline.estimate import Estimate
    from simgan_captcha.pipeline.lesson import Lesson


@app.command()
@needing("learn", "simgan-captcha judge")
def judge(
    run: RunFolder,
    user: Annotated[
        str | None, typer.Option(help="Judge by the puzzle's answer rule for this user.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Judge by a CSV with the header name,label; also with ; or tabs."),
    ] = None,
    labels_in_names: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Judge by the images' names, as '{label}_*.png'."),
    ] = None,
    ignore_case: Annotated[
        bool, typer.Option("--ignore-case", help="Count upper and lower case as the same.")
    ] = False,
    taught: Annotated[
        bool, typer.Option("--taught", help="Judge the reader that teach made.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare the readings of a finished run with true texts. Nothing learns from them."""
    from simgan_captcha.atomic import file_hash, write_json
    from simgan_captcha.evaluation.judge import Truth, judge_run
    from simgan_captcha.evaluation.judgement import judgement_in_words
    from simgan_captcha.inference.readings import load_readings
    from simgan_captcha.pipeline.lesson import TAUGHT_READINGS
    from simgan_captcha.pipeline.run_folder import JUDGEMENT, READINGS, read_run
    from simgan_captcha.report.report import write_report
    from simgan_captcha.scheme import check_scheme

    truth = Truth(user, labels, labels_in_names)
    recorded = read_run(run)
    warn_if_outdated(run, recorded)
    if user not in (None, recorded["user"]):
        warn(
            f"{run} is a run on captchas of {recorded['user']}, and is judged by the answers for "
            f"{user}"
        )
    lesson = _lesson_of(run) if taught else None
    readings = run / (TAUGHT_READINGS if lesson else READINGS)
    judgement = judge_run(
        run,
        load_readings(readings),
        check_scheme(recorded["scheme"]),
        truth,
        ignore_case=ignore_case,
        estimate=lesson.after if lesson else _own_estimate(run),
    )
    figures = judgement.model_dump(mode="json") | {"readings_sha256": file_hash(readings)}
    lines = judgement_in_words(judgement)
    if lesson:
        figures["taught_labels"] = lesson.labels
        lines.insert(0, f"reader {lesson.in_words()}")
    # The result is printed first, so that it is not lost if the folder is not writable.
    typer.echo(json.dumps(figures) if as_json else "\n".join(lines))
    if lesson:
        return  # the run and its report stay those without labels
    try:
        write_json(run / JUDGEMENT, figures)
        report = write_report(run)
    except OSError as error:
        raise RunError(
            f"expected to keep the result in {run}, the system refused ({error}); what is printed "
            "above is whole: make the folder writable and judge again to keep it"
        ) from None
    if not as_json:
        typer.echo(f"report: {report}")


def _lesson_of(run: Path) -> "Lesson":
    from simgan_captcha.pipeline.lesson import load_lesson

    lesson = load_lesson(run)
    if lesson is None:
        raise RunError(f"expected a taught run in {run}; teach it with simgan-captcha teach {run}")
    return lesson


def _own_estimate(run: Path) -> "Estimate | None":
    """The estimate of the run; None if it has no usable one, which does not prevent judging."""
    from simgan_captcha.api.learning import Run
    from simgan_captcha.pipeline.run_folder import DIAGNOSIS

    if not (run / DIAGNOSIS).exists():
        return None
    try:
        return Run(run).estimate
    except RunError as error:
        warn(str(error))
        return None


class FailOn(enum.StrEnum):
    """Lowest severity at which the command fails."""

    high = "high"
    medium = "medium"
    low = "low"


@app.command()
@needing("learn", "simgan-captcha audit")
def audit(
    run: RunFolder,
    images: Annotated[
        int, typer.Option(help="Captchas drawn of each change.", min=10, max=100_000)
    ] = 1000,
    steps: Annotated[
        int,
        typer.Option(help="Steps that the reader learns on, of each change.", min=1, max=100_000),
    ] = 150,
    seed: Seed = 1,
    stock: Annotated[
        list[str] | None,
        typer.Option("--with", help="A stock reader to compare with: ddddocr; may be repeated."),
    ] = None,
    fail_on: Annotated[
        FailOn | None, typer.Option(help="Exit with 3 if the severity is this or higher.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure how weak a captcha is and which changes would make it stronger, for its owner.

    The figures are stored in the run, in audit/audit.json, with an HTML page and a Markdown file.
    Nothing is sent to any server.
    """
    from simgan_captcha.evaluation.audit.figures import AuditSettings
    from simgan_captcha.evaluation.audit.figures import audit as examine
    from simgan_captcha.evaluation.audit.page import write_audit
    from simgan_captcha.evaluation.audit.verdict import Severity
    from simgan_captcha.evaluation.audit.words import audit_in_words
    from simgan_captcha.pipeline.progress import StageProgress

    with StageProgress(quiet=quiet) as progress:
        progress.stage("audit")
        figures, measured = examine(
            run,
            AuditSettings(images, steps, seed, tuple(stock or ())),
            on_step=lambda name, step, total: progress.update(step, total, change=name),
        )
    page = write_audit(run, figures, measured)
    lines = [*audit_in_words(figures), f"page: {page}"]
    typer.echo(json.dumps(figures) if as_json else "\n".join(lines))
    if fail_on is not None and Severity(figures["verdict"]["severity"]).reaches(Severity(fail_on)):
        raise typer.Exit(WEAK)


@app.command()
@needing("learn", "simgan-captcha report")
def report(run: RunFolder) -> None:
    """Write the HTML report of a run again."""
    from simgan_captcha.report.report import write_report

    typer.echo(write_report(run))
