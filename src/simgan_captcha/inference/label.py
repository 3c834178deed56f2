"""Labels one partition, or all partitions one after another on this machine."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from simgan_captcha.errors import RunError, StoreError
from simgan_captcha.inference.constraints.texts import NONE, Constraints
from simgan_captcha.inference.partitions import (
    BYTES,
    IMAGE,
    NAME,
    Partition,
    kept_reader,
    place,
    replacing,
)
from simgan_captcha.inference.reader import NamedImage, Reader, TextReader, Unreadable
from simgan_captcha.inference.readings import readings_schema

LABELS = pa.schema(
    [
        ("source", pa.string()),
        ("row", pa.int64()),
        *((field.name, field.type) for field in readings_schema(errors=True)),
    ]
)
"""Schema of a part: the source file, the row, and its reading or error."""

_MOST_REASONS = 20
_BATCH = 64  # rows read from a file at a time, few because images may be large


class MakeReader(Protocol):
    """Makes a reader of the bytes that `partitions.kept_reader` gives."""

    def __call__(self, file: bytes, /, *, threads: int | None = None) -> TextReader:
        """Make the reader; ``threads`` is None for the number of cores."""


@dataclass(frozen=True)
class Labelled:
    """Counts of a labelled partition."""

    rows: int
    unreadable: int
    reasons: dict[str, int]
    """Counts of unreadable images by reason."""


def label_partition(
    reader: TextReader, partition: Partition, out: str, constraints: Constraints = NONE
) -> Labelled:
    """Write the part of a partition atomically.

    Raises:
        ConfigError: The reader cannot satisfy the constraints.
        RunError: The number of rows of the file has changed.
        StoreError: The file cannot be read completely.
    """
    target, rows, reasons = place(out) / partition.part, 0, Counter[str]()
    readings = reader.read_each(_images(partition), constraints)
    with replacing(target) as file, pq.ParquetWriter(file, LABELS) as writer:
        while group := list(itertools.islice(readings, _BATCH)):
            written = [
                {"source": partition.source, "row": partition.first_row + rows + n, **asdict(row)}
                for n, row in enumerate(group)
            ]
            writer.write_table(pa.Table.from_pylist(written, schema=LABELS))
            rows += len(group)
            reasons.update(row.error for row in group if isinstance(row, Unreadable))
        if rows != partition.rows:
            raise RunError(
                f"expected {partition.rows} rows in row groups {partition.first} to "
                f"{partition.stop - 1} of {partition.source}, got {rows}; the file "
                "changes while it is read"
            )
    return Labelled(rows, reasons.total(), dict(reasons.most_common(_MOST_REASONS)))


def _images(partition: Partition) -> Iterator[NamedImage]:
    try:
        yield from _rows(partition)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(
            f"expected the rows of {partition.source}, could not read them ({error}); repair the "
            "file, then run the same command again: finished partitions are kept"
        ) from None


def _rows(partition: Partition) -> Iterator[NamedImage]:
    at = partition.place
    with (
        at.filesystem.open_input_file(at.path) as opened,
        pq.ParquetFile(opened, page_checksum_verification=True) as file,
    ):
        names = [NAME] if NAME in file.schema_arrow.names else []
        batches = file.iter_batches(
            _BATCH, range(partition.first, partition.stop), columns=[IMAGE, *names]
        )
        row = partition.first_row
        for batch in batches:
            images = _as_bytes(batch.column(IMAGE))
            called = _as_bytes(batch.column(NAME)) if names else [None] * len(images)
            for image, name in zip(images, called, strict=True):
                # Parquet does not ensure that text is valid UTF-8.
                called_as = (name or b"").decode(errors="backslashreplace")
                yield NamedImage(called_as or str(row), image or b"")
                row += 1


def _as_bytes(column: pa.Array) -> list[bytes | None]:
    """The values of a column that `partitions` accepts as images or names."""
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, BYTES)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return list(column.cast(pa.large_binary()).to_pylist())


def label_here(
    pending: Sequence[Partition],
    out: str,
    make: MakeReader = Reader,
    constraints: Constraints = NONE,
) -> Iterator[Labelled]:
    """Label one partition after another on all cores of this machine."""
    reader = make(kept_reader(out))
    for partition in pending:
        yield label_partition(reader, partition, out, constraints)
