"""The commands that use a reader: export, read, label and serve."""

import enum
import sys
from collections import Counter
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simgan_captcha.cli.app import AsJson, Quiet, Recursive, RunFolder, app, parse_length, warn
from simgan_captcha.cli.endings import FAILED
from simgan_captcha.errors import UsageError
from simgan_captcha.extras import needing

if TYPE_CHECKING:
    from simgan_captcha.inference.reader import TextReader


@app.command()
@needing("learn", "simgan-captcha export")
def export(
    run: RunFolder,
    file: Annotated[Path, typer.Argument(help="Where to write it, as reader.onnx.")],
    int8: Annotated[bool, typer.Option("--int8", help="Compute in 8 bits.")] = False,
) -> None:
    """Write the reader of a finished run as one ONNX file, which needs no torch."""
    from simgan_captcha.api.learning import Run

    finished = Run(run)
    parity = finished.export(file, int8=int8)
    lesson = finished.lesson
    taught = f", {lesson.in_words()}" if lesson and lesson.better else ""
    typer.echo(
        f"{file}{taught}: {file.stat().st_size / 1e3:.0f} kB; {parity.images - parity.changed} of "
        f"{parity.images} real images read as in torch, confidences at most "
        f"{parity.confidence_error:.2g} apart"
    )


@app.command()
def read(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="[READER] SOURCES...",
            help="First a reader: a finished run's folder or a file that export wrote; without "
            "one, the pretrained generalist reads. Then images, folders and zip files of them, "
            "challenge batches, captcha stores; - for an image, or for "
            "names of files, from standard input.",
            show_default=False,
        ),
    ],
    alphabet: Annotated[
        str | None,
        typer.Option(
            help="Characters that texts may hold, for the generalist.", show_default=False
        ),
    ] = None,
    length: Annotated[
        str | None,
        typer.Option(
            help="Characters in a text, as 4 or 4-6, for the generalist.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    parquet: Annotated[
        Path | None, typer.Option(help="Write a Parquet file.", show_default=False)
    ] = None,
    recursive: Recursive = False,
) -> None:
    """Read images: text, confidence, and confidence per character. Only runs need torch."""
    from simgan_captcha.data.kinds import in_words
    from simgan_captcha.inference.formats import write_csv, write_json, write_lines, write_parquet
    from simgan_captcha.inference.sources import image_sources
    from simgan_captcha.shown import taught_with

    if as_json + as_csv + (parquet is not None) > 1:
        raise UsageError("expected one of --json, --csv and --parquet FILE, got several")
    reader, images = _reader_and_images(sources, alphabet, length)
    if reader.taught:
        typer.echo(f"the reader was {taught_with(reader.taught)}", err=True)
    left_out: Counter[str] = Counter()
    rows = reader.read_each(
        image_sources(images, sys.stdin.buffer, recursive=recursive, left_out=left_out)
    )
    # The first row is read before any output, so that an error in the sources leaves none.
    rows = chain(list(islice(rows, 1)), rows)
    if parquet is not None:
        unreadable = write_parquet(rows, parquet)
    elif as_json or as_csv:
        unreadable = (write_json if as_json else write_csv)(rows, sys.stdout)
    else:
        unreadable = write_lines(rows, sys.stdout, sys.stderr)
    for line in in_words(left_out, reader.notes):
        warn(line)
    if unreadable:
        raise typer.Exit(FAILED)


def _reader_and_images(
    sources: list[str], alphabet: str | None, length: str | None
) -> "tuple[TextReader, list[str]]":
    """The reader at the start of the sources, or the generalist, and the images to read."""
    if not _is_reader(sources[0]):
        from simgan_captcha.generalist.reader import GeneralistReader

        lengths = parse_length(length) if length else None
        return GeneralistReader(alphabet, lengths), sources
    if alphabet is not None or length is not None:
        raise UsageError(
            f"expected --alphabet and --length without a reader, got {sources[0]}, which has its "
            "own; leave them out"
        )
    if len(sources) == 1:
        raise UsageError(f"expected images to read with {sources[0]}, got none; name some")
    reader, images = Path(sources[0]), sources[1:]
    if reader.is_file() or reader.suffix == ".onnx":
        from simgan_captcha.inference.reader import Reader

        return Reader(reader), images
    from simgan_captcha.api.learning import Run

    return Run(reader).reader, images


def _is_reader(source: str) -> bool:
    """Whether a source is a reader: a run, an exported file, or a missing file of unknown kind."""
    from simgan_captcha.data.kinds import HEAD, IMAGES, SUFFIXES, kind_of

    path = Path(source)
    if source == "-":
        return False
    if path.is_dir():
        from simgan_captcha.pipeline.run_folder import RUN

        return (path / RUN).exists()
    if path.is_file() and path.suffix != ".onnx":
        with path.open("rb") as file:
            return kind_of(file.read(HEAD)) not in (*IMAGES, "zip", "JSON")
    # A missing file with the name of an image or zip file is no reader.
    return path.suffix.lower() not in (*SUFFIXES, ".zip")


class Engine(enum.StrEnum):
    """Engine of bulk labelling."""

    local = "local"
    ray = "ray"


@app.command()
@needing("label", "simgan-captcha label")
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
    """Read any number of images. Each row of the Parquet files becomes one row in the parts of OUT.

    Run the command again to continue: finished parts are not repeated.
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

    Reader(reader)  # reports a damaged reader before any work
    partitions, out = find_partitions(inputs), resolved(out)
    pending = open_output(out, reader.read_bytes(), partitions)
    run_engine = label_on_ray if engine == Engine.ray else label_here
    total, rows, unreadable = sum(one.rows for one in pending), 0, 0
    reasons: Counter[str] = Counter()
    with StageProgress(quiet=quiet) as progress:
        progress.stage("label")
        for labelled in run_engine(pending, out):
            rows, unreadable = rows + labelled.rows, unreadable + labelled.unreadable
            reasons.update(labelled.reasons)
            progress.update(rows, total, unreadable=str(unreadable))
    remove_unfinished(out)
    for reason, count in reasons.most_common():
        warn(f"{count} images unreadable: {reason}")
    earlier = len(partitions) - len(pending)
    typer.echo(
        f"{out}: {rows} images in {len(pending)} parts, {unreadable} of them unreadable (column "
        "error says why)" + (f"; {earlier} parts were there before" if earlier else "")
    )


@app.command()
@needing("serve", "simgan-captcha serve")
def serve(
    run: RunFolder,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8080,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name that a proxy asks for it by; may be repeated."),
    ] = None,
) -> None:
    """Serve a run to a browser: read images, watch the training, and review readings."""
    from simgan_captcha.web.server import serve

    serve(
        run,
        host=host,
        port=port,
        allow_hosts=allow_host or (),
        announce=typer.echo,
        warn=warn,
    )
