"""Commands that judge a run: judge, audit and report."""

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
from simgan_captcha.errors import RunError, UsageError

if TYPE_CHECKING:
    from simgan_captcha.evaluation.judge import Judgement
    from simgan_captcha.pipeline.estimate import Estimate


@app.command()
def judge(
    run: RunFolder,
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
    warn_if_outdated(run, recorded)
    if user not in (None, recorded["user"]):
        warn(
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
    else:
        _print_judgement(judgement)
        typer.echo(f"report: {report}")


def _print_judgement(judgement: "Judgement") -> None:
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


def _own_estimate(run: Path) -> "Estimate | None":
    """The run's own estimate; a run without a usable one can be judged all the same."""
    from simgan_captcha.api.learning import Run
    from simgan_captcha.pipeline.run_folder import DIAGNOSIS

    if not (run / DIAGNOSIS).exists():
        return None
    try:
        return Run(run).estimate
    except RunError as error:
        warn(str(error))
        return None


@app.command()
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
    quiet: Quiet = False,
) -> None:
    """How weak a captcha is, for its owner: what falls, at what cost, and which change would help.

    The figures are kept in the run, in audit/audit.json, beside a page of them.
    """
    from tempfile import TemporaryDirectory

    from simgan_captcha.evaluation.audit import audit_run
    from simgan_captcha.evaluation.audit_page import audit_figures, write_audit
    from simgan_captcha.pipeline.progress import StageProgress
    from simgan_captcha.pipeline.run import load_run_reader
    from simgan_captcha.pipeline.run_data import run_simulator
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
def report(run: RunFolder) -> None:
    """Write the run's HTML report again."""
    from simgan_captcha.report.report import write_report

    typer.echo(write_report(run))
