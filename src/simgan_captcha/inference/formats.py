"""Writes readings as lines, JSON, CSV or Parquet, one at a time."""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from simgan_captcha.atomic import replacing
from simgan_captcha.extras import needing
from simgan_captcha.inference.reader import Unreadable
from simgan_captcha.inference.readings import COLUMNS, Reading, readings_schema
from simgan_captcha.shown import in_utf8, one_line, spreadsheet_cell

Rows = Iterable[Reading | Unreadable]

_ROW_GROUP = 10_000


def write_lines(rows: Rows, out: TextIO, errors: TextIO) -> int:
    """Write one line for each reading, and errors to ``errors``; return the number of errors."""
    unreadable = 0
    for row in rows:
        if isinstance(row, Unreadable):
            unreadable += 1
            print(one_line(f"{row.name}: {row.error}"), file=errors)
            continue
        each = " ".join(
            f"{character}:{confidence:.2f}"
            for character, confidence in zip(row.text, row.character_confidence, strict=True)
        )
        print(f"{one_line(row.name)}  {row.text}  {row.confidence:.3f}  {each}", file=out)
    return unreadable


def write_json(rows: Rows, out: TextIO) -> int:
    """Write one JSON object with a list ``readings``; return the number of errors."""
    unreadable = 0
    out.write('{"readings": [')
    for number, row in enumerate(rows):
        unreadable += isinstance(row, Unreadable)
        out.write((", " if number else "") + json.dumps(_as_row(row)))
    out.write("]}\n")
    return unreadable


def write_csv(rows: Rows, out: TextIO) -> int:
    """Write CSV with a header; return the number of errors.

    Probabilities of characters are in one field, separated by spaces. Names and texts that a
    spreadsheet would read as a formula have an apostrophe in front.
    """
    unreadable = 0
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*COLUMNS, "error"])
    for row in rows:
        if isinstance(row, Unreadable):
            unreadable += 1
            writer.writerow([_cell(row.name), "", "", "", _cell(row.error)])
        else:
            each = " ".join(f"{confidence:.6g}" for confidence in row.character_confidence)
            writer.writerow([_cell(row.name), _cell(row.text), f"{row.confidence:.6g}", each, ""])
    return unreadable


@needing("label", "Parquet")
def write_parquet(rows: Rows, path: Path) -> int:
    """Write Parquet with an extra column ``error``, atomically; return the number of errors."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    unreadable, schema = 0, readings_schema(errors=True)
    with replacing(path) as file, pq.ParquetWriter(file, schema) as writer:
        for group in _groups(rows):
            unreadable += sum("error" in row for row in group)
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
    return unreadable


def _cell(text: str) -> str:
    return spreadsheet_cell(in_utf8(text))


def _as_row(row: Reading | Unreadable) -> dict[str, Any]:
    values = asdict(row)
    return {k: in_utf8(v) if isinstance(v, str) else v for k, v in values.items()}


def _groups(rows: Rows) -> Iterator[list[dict[str, Any]]]:
    each = iter(rows)
    while group := [_as_row(row) for row in islice(each, _ROW_GROUP)]:
        yield group
