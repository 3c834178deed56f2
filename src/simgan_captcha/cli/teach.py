"""The command teach, with labels from a file, from image names or from questions."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simgan_captcha.cli.app import Quiet, RunFolder, app, warn
from simgan_captcha.errors import SchemeError, UsageError
from simgan_captcha.extras import needing

if TYPE_CHECKING:
    from simgan_captcha.api.learning import Run
    from simgan_captcha.inference.readings import Reading
    from simgan_captcha.pipeline.lesson import Lesson
    from simgan_captcha.scheme import Scheme


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
        _ask(run, readings, scheme, ask)
    texts = kept_labels(run, names)
    if not texts:
        typer.echo("no labels given; nothing was taught")
        return
    lesson = _taught(finished, texts, quiet=quiet)
    typer.echo("\n".join(_in_words(lesson)))


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


def _taught(run: "Run", texts: Mapping[str, str], *, quiet: bool) -> "Lesson":
    import torch

    from simgan_captcha.atomic import core_count
    from simgan_captcha.pipeline.progress import StageProgress

    torch.set_num_threads(run.config.threads or core_count())
    with StageProgress(quiet=quiet) as progress:
        return run.teach(texts, progress=progress)


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


def _ask(run: Path, readings: "list[Reading]", scheme: "Scheme", count: int) -> None:
    """Ask for texts in the terminal. Each answer is stored immediately."""
    from simgan_captcha.atomic import write_bytes
    from simgan_captcha.data.images import encode_png
    from simgan_captcha.data.pictures import open_picture
    from simgan_captcha.data.store import CaptchaStore
    from simgan_captcha.pipeline.run_folder import STORE
    from simgan_captcha.teaching.labels import keep_labels, kept_labels
    from simgan_captcha.teaching.questions import most_useful
    from simgan_captcha.teaching.teach import texts_of_generalist
    from simgan_captcha.teaching.terminal import ASKED, picture_in_blocks

    stored = CaptchaStore(run / STORE).in_content_order()
    image_of = dict(zip(stored.names, stored.images, strict=True))
    text_of = {reading.name: reading.text for reading in readings}
    names = most_useful(readings, texts_of_generalist(run), set(kept_labels(run, text_of)), count)
    typer.echo(
        f"{len(names)} images to label. Enter accepts the text shown, ? skips the image, "
        ". ends the questions; answers are kept."
    )
    for number, name in enumerate(names, 1):
        pixels = open_picture(image_of[name]).rgb
        write_bytes(run / ASKED, encode_png(pixels))
        if sys.stdout.isatty():
            typer.echo(picture_in_blocks(pixels))
        answer = _answer(f"{number} of {len(names)} ({run / ASKED})", text_of[name], scheme)
        if answer == ".":
            return
        if answer != "?":
            keep_labels(run, {name: answer})


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
