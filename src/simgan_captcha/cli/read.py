"""The command read: text from images, with a run, an exported reader or the generalist."""

import sys
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simgan_captcha.cli.app import AsJson, Recursive, app, parse_length, warn
from simgan_captcha.cli.endings import FAILED
from simgan_captcha.errors import UsageError

if TYPE_CHECKING:
    from simgan_captcha.inference.formats import Shown
    from simgan_captcha.inference.reader import TextReader, Unreadable
    from simgan_captcha.inference.readings import Reading

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="[READER] SOURCES...",
        help="First a reader: a finished run's folder or a file that export wrote; without "
        "one, the pretrained generalist reads. Then images, folders and zip files of them, "
        "challenge batches, captcha stores; - for an image, or for "
        "names of files, from standard input.",
        show_default=False,
    ),
]
Alphabet = Annotated[
    str | None, typer.Option(help="Characters that texts may hold.", show_default=False)
]
Length = Annotated[
    str | None, typer.Option(help="Characters in a text, as 4 or 4-6.", show_default=False)
]
Pattern = Annotated[
    str | None,
    typer.Option(
        help=r"What a text matches as a whole, as '[A-Z]{2}\d{4}'. Characters, classes, \d, ., "
        "groups, |, ?, *, + and {m,n} mean the same as in regular expressions.",
        show_default=False,
    ),
]
Top = Annotated[
    int,
    typer.Option(help="Number of texts of each image, the most probable ones.", min=1, max=100),
]
MinConfidence = Annotated[
    float | None,
    typer.Option(
        help="Mark readings of a lower confidence as uncertain, and count them.",
        min=0,
        max=1,
        show_default=False,
    ),
]


@app.command()
def read(
    sources: Sources,
    alphabet: Alphabet = None,
    length: Length = None,
    pattern: Pattern = None,
    top: Top = 1,
    min_confidence: MinConfidence = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    parquet: Annotated[
        Path | None, typer.Option(help="Write a Parquet file.", show_default=False)
    ] = None,
    recursive: Recursive = False,
) -> None:
    """Read images: text, confidence, and confidence per character. Only runs need torch.

    A confidence is the probability of the text among all texts that the reader knows. Exit 1 if an
    image could not be read.
    """
    from simgan_captcha.data.kinds import in_words
    from simgan_captcha.inference.constraints.texts import Constraints
    from simgan_captcha.inference.formats import (
        Shown,
        write_csv,
        write_json,
        write_lines,
        write_parquet,
    )
    from simgan_captcha.inference.sources import image_sources
    from simgan_captcha.shown import taught_with

    if as_json + as_csv + (parquet is not None) > 1:
        raise UsageError("expected one of --json, --csv and --parquet FILE, got several")
    constraints = Constraints(alphabet, parse_length(length) if length else None, pattern, top)
    reader, images = _reader_and_images(sources)
    if reader.taught:
        typer.echo(f"the reader was {taught_with(reader.taught)}", err=True)
    left_out: Counter[str] = Counter()
    given = image_sources(images, sys.stdin.buffer, recursive=recursive, left_out=left_out)
    rows = reader.read_each(given, constraints)
    # The first row is read before any output, so that an error in the sources leaves none.
    rows = chain(list(islice(rows, 1)), rows)
    shown, counts = Shown(top, min_confidence), Counter[str]()
    rows = _counted(rows, shown, counts)
    if parquet is not None:
        unreadable = write_parquet(rows, parquet, shown)
    elif as_json or as_csv:
        unreadable = (write_json if as_json else write_csv)(rows, sys.stdout, shown)
    else:
        unreadable = write_lines(rows, sys.stdout, sys.stderr, shown)
    for line in in_words(left_out, reader.notes):
        warn(line)
    if alarm := reader.alarm():
        warn(alarm)
    if counts["uncertain"]:
        warn(
            f"{counts['uncertain']} of {counts['read']} readings are uncertain: their confidence "
            f"is below {min_confidence:g}"
        )
    if unreadable:
        raise typer.Exit(FAILED)


def _counted(
    rows: "Iterator[Reading | Unreadable]", shown: "Shown", counts: Counter[str]
) -> "Iterator[Reading | Unreadable]":
    """Pass on rows, and count the readings and the uncertain ones."""
    from simgan_captcha.inference.readings import Reading

    for row in rows:
        counts["read"] += isinstance(row, Reading)
        counts["uncertain"] += shown.uncertain(row)
        yield row


def _reader_and_images(sources: list[str]) -> "tuple[TextReader, list[str]]":
    """The reader at the start of the sources, or the generalist, and the images to read."""
    if not _is_reader(sources[0]):
        from simgan_captcha.generalist.reader import GeneralistReader

        return GeneralistReader(), sources
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
