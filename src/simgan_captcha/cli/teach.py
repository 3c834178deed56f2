"""The command teach, with labels from a file, from image names or from questions."""

import json
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simgan_captcha.cli.app import AsJson, Quiet, RunFolder, app, warn
from simgan_captcha.errors import SchemeError, UsageError
from simgan_captcha.extras import needing

if TYPE_CHECKING:
    from simgan_captcha.api.learning import Run
    from simgan_captcha.inference.readings import Reading
    from simgan_captcha.pipeline.lesson import Lesson
    from simgan_captcha.pipeline.progress import StageProgress
    from simgan_captcha.scheme import Scheme

BATCH = 10
"""Number of answers after which their gain is stated."""


@app.command()
@needing("learn", "simgan-captcha teach")
def teach(
    run: RunFolder,
    labels: Annotated[
        Path | None,
        typer.Option(help="A CSV with the header name,label; also with ; or tabs."),
    ] = None,
    labels_in_names: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Labels from image names, as '{label}_*.png'."),
    ] = None,
    reviewed: Annotated[
        bool, typer.Option("--reviewed", help="The texts corrected on the page of serve.")
    ] = False,
    ask: Annotated[
        int, typer.Option(help="Ask for the texts of so many images here.", min=0, max=10_000)
    ] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Teach a finished run with a few labels, and read all its images again.

    Labels of earlier calls are used as well. The results are in RUN/teach. The readings without
    labels do not change.
    """
    from simgan_captcha.api.learning import Run
    from simgan_captcha.inference.readings import load_readings
    from simgan_captcha.pipeline.run_folder import READINGS
    from simgan_captcha.teaching.labels import collect, keep_labels, kept_labels

    if not (labels or labels_in_names or reviewed or ask):
        raise UsageError(
            "expected labels to teach: give --labels FILE.csv, --labels-in-names PATTERN, "
            "--reviewed or --ask 20"
        )
    if ask and as_json:
        raise UsageError("expected --json or --ask, got both; ask for texts without --json")
    finished = Run(run)
    scheme = finished.scheme
    readings = load_readings(run / READINGS)
    names = [reading.name for reading in readings]
    given = _given(run, names, labels, labels_in_names, reviewed)
    if given:
        collected = collect(given, names, scheme)
        keep_labels(run, collected.texts)
        if collected.without_image:
            warn(f"{len(collected.without_image)} labels belong to no image of the run")
    if ask:
        _ask(finished, readings, ask, quiet=quiet)
    texts = kept_labels(run, names)
    if not texts:
        typer.echo('{"labels": 0}' if as_json else "no labels given; nothing was taught")
        return
    with _training(finished, quiet=quiet) as progress:
        lesson = finished.teach(texts, progress=progress)
    typer.echo(json.dumps(asdict(lesson)) if as_json else "\n".join(_in_words(lesson)))


def _given(
    run: Path, names: list[str], labels: Path | None, pattern: str | None, reviewed: bool
) -> dict[str, str]:
    from simgan_captcha.evaluation.labels import labels_in_names, read_labels_csv
    from simgan_captcha.web.corrections import Corrections

    given: dict[str, str] = {}
    if reviewed:
        given |= Corrections(run).texts()
        if not given:
            raise UsageError(
                f"expected texts corrected on the page of {run}, found none; review some with "
                f"simgan-captcha serve {run}"
            )
    if pattern:
        given |= labels_in_names(names, pattern)
    if labels:
        given |= read_labels_csv(labels)
    return given


@contextmanager
def _training(run: "Run", *, quiet: bool) -> "Iterator[StageProgress]":
    """The display of a training, which uses the number of threads of the run."""
    import torch

    from simgan_captcha.atomic import core_count
    from simgan_captcha.pipeline.progress import StageProgress

    torch.set_num_threads(run.config.threads or core_count())
    with StageProgress(quiet=quiet) as progress:
        yield progress


def _in_words(lesson: "Lesson") -> Iterator[str]:
    labels = lesson.labels
    yield (
        f"labels      {labels}; without them the run read {lesson.right_before} of these images "
        "right"
    )
    if lesson.cross_validated is not None:
        yield (
            f"validated   {lesson.cross_validated} of {labels} right, each read by a reader taught "
            "with the other half of the labels"
        )
    for name, estimate in (("before", lesson.before), ("after", lesson.after)):
        if estimate is not None:
            yield (
                f"{name:<10}  {estimate.accuracy:.1%} of captchas read right as estimated "
                f"({estimate.low:.1%} to {estimate.high:.1%})"
            )
    if lesson.better:
        yield f"result      read, export and serve use the reader {lesson.in_words()} from now on"
    else:
        yield "result      the labels made it no better; the reader without labels stays in use"


def _ask(run: "Run", readings: "list[Reading]", count: int, *, quiet: bool) -> None:
    """Ask for texts in the terminal. Each answer is stored immediately."""
    from simgan_captcha.atomic import write_bytes
    from simgan_captcha.data.images import encode_png
    from simgan_captcha.data.pictures import open_picture
    from simgan_captcha.data.store import CaptchaStore
    from simgan_captcha.pipeline.lesson import labelled_names
    from simgan_captcha.pipeline.questions import most_useful, texts_of_generalist
    from simgan_captcha.pipeline.run_folder import STORE
    from simgan_captcha.teaching.labels import keep_labels
    from simgan_captcha.teaching.terminal import ASKED, picture_in_blocks
    from simgan_captcha.web.corrections import Corrections

    folder, gains = run.folder, _Gains(run, quiet=quiet)
    stored = CaptchaStore(folder / STORE).in_content_order()
    image_of = dict(zip(stored.names, stored.images, strict=True))
    text_of = {reading.name: reading.text for reading in readings}
    known = labelled_names(folder) | Corrections(folder).texts().keys()
    names = most_useful(readings, texts_of_generalist(folder), known, count)
    typer.echo(
        f"{len(names)} image{'s' if len(names) != 1 else ''} to label. Enter accepts the text "
        "shown, ? skips the image, . ends the questions; answers are kept."
    )
    for number, name in enumerate(names, 1):
        pixels = open_picture(image_of[name]).rgb
        write_bytes(folder / ASKED, encode_png(pixels))
        if sys.stdout.isatty():
            typer.echo(picture_in_blocks(pixels))
        question = f"{number} of {len(names)} ({folder / ASKED})"
        answer = _answer(question, text_of[name], run.scheme)
        if answer == ".":
            return
        if answer == "?":
            continue
        keep_labels(folder, {name: answer})
        if number < len(names):  # the lesson follows the last one
            gains.answered(text_of)


class _Gains:
    """States after each batch of answers what they gained."""

    def __init__(self, run: "Run", *, quiet: bool) -> None:
        from simgan_captcha.report.diagnosis import lesson_shown

        lesson = lesson_shown(run.folder, [])
        taught = lesson.after if lesson and lesson.better else None
        self._run, self._quiet = run, quiet
        self._from = taught or run.estimate
        self._answers = 0

    def answered(self, names: Collection[str]) -> None:
        """Count an answer. After each batch, train with all labels of these images, and compare."""
        from simgan_captcha.teaching.labels import kept_labels
        from simgan_captcha.teaching.teach import estimate_gain

        self._answers += 1
        if self._answers % BATCH:
            return
        texts = kept_labels(self._run.folder, names)
        try:
            typer.echo(
                f"{len(texts)} labels: one training estimates what they gain; Ctrl-C goes on "
                "without it"
            )
            with _training(self._run, quiet=self._quiet) as progress:
                now = estimate_gain(self._run.folder, texts, progress=progress)
        except KeyboardInterrupt:
            typer.echo("\ngain        not estimated; the answers are kept")
            return
        if now is None:
            typer.echo(
                "gain        unknown before the lesson, because the run learned from the simulator"
            )
            return
        typer.echo(
            f"gain        {len(texts)} labels: from {self._from.accuracy:.1%} to "
            f"{now.accuracy:.1%} of captchas read right as estimated"
        )
        self._from = now


def _answer(question: str, proposed: str, scheme: "Scheme") -> str:
    """Ask for a text, and return it or ``?`` or ``.``."""
    from simgan_captcha.teaching.labels import text_of_scheme

    while True:
        try:
            answer = typer.prompt(question, default=proposed).strip()
        except typer.Abort:
            typer.echo()
            return "."
        if answer in ("?", ".") and answer not in scheme.alphabet:
            return str(answer)
        try:
            return text_of_scheme(answer, scheme)
        except SchemeError as error:
            typer.echo(str(error))
