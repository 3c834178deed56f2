"""Writes readings as lines, JSON, CSV or Parquet, one at a time."""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class Shown:
    """What is written of each reading in addition to its own columns."""

    top: int = 1
    """Number of texts of each image: the reading and its alternatives."""
    min_confidence: float | None = None
    """Readings below it are marked as uncertain; None marks none."""

    def uncertain(self, row: Reading | Unreadable) -> bool:
        """Whether a row is a reading that is marked."""
        least = self.min_confidence
        return least is not None and isinstance(row, Reading) and row.confidence < least


PLAIN = Shown()


def write_lines(rows: Rows, out: TextIO, errors: TextIO, shown: Shown = PLAIN) -> int:
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
        others = "".join(f"  or {o.text}  {o.confidence:.3f}" for o in row.alternatives)
        mark = "  uncertain" if shown.uncertain(row) else ""
        start = f"{one_line(row.name)}  {row.text}  {row.confidence:.3f}  {each}"
        print(start + others + mark, file=out)
    return unreadable


def write_json(rows: Rows, out: TextIO, shown: Shown = PLAIN) -> int:
    """Write one JSON object with a list ``readings``; return the number of errors."""
    unreadable = 0
    out.write('{"readings": [')
    for number, row in enumerate(rows):
        unreadable += isinstance(row, Unreadable)
        out.write((", " if number else "") + json.dumps(_as_row(row, shown)))
    out.write("]}\n")
    return unreadable


def write_csv(rows: Rows, out: TextIO, shown: Shown = PLAIN) -> int:
    """Write CSV with a header; return the number of errors.

    Probabilities of characters are in one field, separated by spaces. Alternatives have columns
    ``text_2``, ``confidence_2``, and so on. Names and texts that a spreadsheet would read as a
    formula have an apostrophe in front.
    """
    unreadable = 0
    writer = csv.writer(out, lineterminator="\n")
    marks = [] if shown.min_confidence is None else ["uncertain"]
    others = [f"{of}_{n}" for n in range(2, shown.top + 1) for of in ("text", "confidence")]
    writer.writerow([*COLUMNS, *marks, *others, "error"])
    for row in rows:
        if isinstance(row, Unreadable):
            unreadable += 1
            empty = [""] * (len(COLUMNS) - 1 + len(marks) + len(others))
            writer.writerow([_cell(row.name), *empty, _cell(row.error)])
            continue
        each = " ".join(f"{confidence:.6g}" for confidence in row.character_confidence)
        cells = [_cell(row.name), _cell(row.text), f"{row.confidence:.6g}", each]
        if marks:
            cells.append("true" if shown.uncertain(row) else "false")
        found = [c for o in row.alternatives for c in (_cell(o.text), f"{o.confidence:.6g}")]
        writer.writerow([*cells, *found, *[""] * (len(others) - len(found)), ""])
    return unreadable


@needing("label", "Parquet")
def write_parquet(rows: Rows, path: Path, shown: Shown = PLAIN) -> int:
    """Write Parquet with an extra column ``error``, atomically; return the number of errors."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    unreadable, schema = 0, readings_schema(errors=True)
    if shown.min_confidence is not None:
        schema = schema.append(pa.field("uncertain", pa.bool_()))
    if shown.top > 1:
        text = pa.struct([("text", pa.string()), ("confidence", pa.float64())])
        schema = schema.append(pa.field("alternatives", pa.list_(text)))
    with replacing(path) as file, pq.ParquetWriter(file, schema) as writer:
        for group in _groups(rows, shown):
            unreadable += sum("error" in row for row in group)
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
    return unreadable


def _cell(text: str) -> str:
    return spreadsheet_cell(in_utf8(text))


def _as_row(row: Reading | Unreadable, shown: Shown) -> dict[str, Any]:
    values = {k: in_utf8(v) if isinstance(v, str) else v for k, v in asdict(row).items()}
    if isinstance(row, Reading):
        if shown.top == 1:
            del values["alternatives"]
        if shown.min_confidence is not None:
            values["uncertain"] = shown.uncertain(row)
    return values


def _groups(rows: Rows, shown: Shown) -> Iterator[list[dict[str, Any]]]:
    each = iter(rows)
    while group := [_as_row(row, shown) for row in islice(each, _ROW_GROUP)]:
        yield group
