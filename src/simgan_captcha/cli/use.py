"""The commands that use a run or its reader: export, label and serve."""

import enum
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simgan_captcha.cli.app import AsJson, Quiet, RunFolder, app, parse_length, warn
from simgan_captcha.cli.read import Alphabet, Length, Pattern
from simgan_captcha.errors import UsageError
from simgan_captcha.extras import needing

if TYPE_CHECKING:
    from simgan_captcha.inference.label import MakeReader
    from simgan_captcha.web.jobs.learning import NewRun


@app.command()
@needing("learn", "simgan-captcha export")
def export(
    run: RunFolder,
    file: Annotated[Path, typer.Argument(help="Where to write it, as reader.onnx.")],
    int8: Annotated[bool, typer.Option("--int8", help="Compute in 8 bits.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the reader of a finished run as one ONNX file, which needs no torch."""
    from simgan_captcha.api.learning import Run

    finished = Run(run)
    parity = finished.export(file, int8=int8)
    lesson = finished.lesson if finished.lesson and finished.lesson.better else None
    size = file.stat().st_size
    if as_json:
        about = {"file": str(file), "bytes": size, "taught": lesson.labels if lesson else 0}
        typer.echo(json.dumps(about | asdict(parity)))
        return
    taught = f", {lesson.in_words()}" if lesson else ""
    typer.echo(
        f"{file}{taught}: {size / 1e3:.0f} kB; {parity.images - parity.changed} of "
        f"{parity.images} real images read as in torch, confidences at most "
        f"{parity.confidence_error:.2g} apart"
    )


class Engine(enum.StrEnum):
    """Engine of bulk labelling."""

    local = "local"
    ray = "ray"


@app.command()
@needing("label", "simgan-captcha label")
def label(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="[READER] IN...",
            help="A file that export wrote; without it, the pretrained generalist reads. Then "
            "Parquet files with a column image (and name), folders of them, captcha stores; "
            "paths, or URIs as s3://bucket/folder.",
            show_default=False,
        ),
    ],
    out: Annotated[str, typer.Argument(help="Folder for the parts, a path or URI.")],
    alphabet: Alphabet = None,
    length: Length = None,
    pattern: Pattern = None,
    engine: Annotated[
        Engine, typer.Option(help="This machine, or a Ray cluster (RAY_ADDRESS).")
    ] = Engine.local,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Read any number of images. Each row of the Parquet files becomes one row in the parts of OUT.

    Run the command again to continue: finished parts are not repeated.
    """
    from simgan_captcha.inference.constraints.texts import Constraints
    from simgan_captcha.inference.label import label_here
    from simgan_captcha.inference.on_ray import label_on_ray
    from simgan_captcha.inference.partitions import (
        find_partitions,
        open_output,
        remove_unfinished,
        resolved,
    )
    from simgan_captcha.pipeline.progress import StageProgress

    constraints = Constraints(alphabet, parse_length(length) if length else None, pattern)
    file, make, inputs = _reader_and_inputs(inputs)
    # Reports a damaged reader and impossible constraints before any work.
    list(make(file).read_each([], constraints))
    partitions, out = find_partitions(inputs), resolved(out)
    pending = open_output(out, file, partitions, constraints)
    run_engine = label_on_ray if engine == Engine.ray else label_here
    total, rows, unreadable = sum(one.rows for one in pending), 0, 0
    reasons: Counter[str] = Counter()
    with StageProgress(quiet=quiet) as progress:
        progress.stage("label")
        for labelled in run_engine(pending, out, make, constraints):
            rows, unreadable = rows + labelled.rows, unreadable + labelled.unreadable
            reasons.update(labelled.reasons)
            progress.update(rows, total, unreadable=str(unreadable))
    remove_unfinished(out)
    for reason, count in reasons.most_common():
        warn(f"{count} images unreadable: {reason}")
    earlier = len(partitions) - len(pending)
    if as_json:
        parts = {"parts": len(pending), "earlier_parts": earlier}
        counts = {"images": rows, "unreadable": unreadable, "reasons": reasons}
        typer.echo(json.dumps({"out": out} | parts | counts))
        return
    typer.echo(
        f"{out}: {rows} images in {len(pending)} parts, {unreadable} of them unreadable (column "
        "error says why)" + (f"; {earlier} parts were there before" if earlier else "")
    )


def _reader_and_inputs(inputs: list[str]) -> "tuple[bytes, MakeReader, list[str]]":
    """Bytes of the reader, how to make it of them, and the inputs without it."""
    from simgan_captcha.inference.reader import Reader

    first = Path(inputs[0])
    if first.suffix == ".onnx" or (first.is_file() and first.suffix != ".parquet"):
        Reader(first)  # a missing file is an error with its name
        if len(inputs) == 1:
            raise UsageError(f"expected images to read with {first}, got none; name some")
        return first.read_bytes(), Reader, inputs[1:]
    from simgan_captcha.generalist.reader import WEIGHTS, shipped_reader
    from simgan_captcha.generalist.shipped import shipped

    return shipped(WEIGHTS).read_bytes(), shipped_reader, inputs


@app.command()
@needing("serve", "simgan-captcha serve")
def serve(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PATH]",
            help="Folder of a run, or a folder or zip file of unlabelled images; without one, the "
            "page only reads images, with the pretrained generalist.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8080,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name that a proxy asks for it by; may be repeated."),
    ] = None,
) -> None:
    """Serve a page to a browser: read images, watch the training, and review readings.

    On a folder of images, the page first shows them and learns from them. The run is written next
    to the folder, as FOLDER-run.
    """
    from simgan_captcha.pipeline.run_folder import RUN
    from simgan_captcha.web.server import serve

    new = None
    if path is not None and path.exists() and not (path / RUN).exists():
        new = look_at_images(path)
    serve(
        path if new is None else new.run,
        new=new,
        host=host,
        port=port,
        allow_hosts=allow_host or (),
        announce=typer.echo,
        warn=warn,
    )


def look_at_images(images: Path) -> "NewRun":
    """Take a first look at the images of a new run."""
    from simgan_captcha.api.inspection import inspect
    from simgan_captcha.web.jobs.learning import NewRun

    typer.echo(f"looking at the images in {images}", err=True)
    images = images.resolve()
    seen = inspect(images)
    run = images.with_name(f"{images.stem if images.is_file() else images.name}-run")
    typer.echo(f"the page will learn from them in {run}", err=True)
    return NewRun(images, run, seen.scheme, seen.look, seen.sheet, seen.doubts, seen.remarks)
