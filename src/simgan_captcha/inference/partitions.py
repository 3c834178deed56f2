"""What there is to label, cut into partitions, and what of it is done.

A partition is some consecutive row groups of one input file, and becomes one part of the output.
Its part is named after the file and its first row group, so "is it done?" is "is its part there?".
Beside the parts lie ``_reader.onnx``, which makes them, and ``_labelling.json``: of which files.

Places are local paths, or URIs of what pyarrow opens (``s3://bucket/folder``, ``gs://``, ``file://``).
"""

import hashlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from simgan_captcha.errors import StoreError, UsageError

MANIFEST, READER = "_labelling.json", "_reader.onnx"
IMAGE, NAME = "image", "name"
"""Columns of an input file: encoded images, and what to call them; the latter may be missing."""

_FOOTER = 65_536  # bytes at a file's end that hold its footer, or much of it
_ROWS = 10_000
"""Row groups are taken together until they have as many."""


@dataclass(frozen=True)
class Partition:
    """Row groups ``first`` to ``stop`` (not included) of a file."""

    source: str
    """Names the file: the same however it was given, and without passwords."""
    path: str
    """On its filesystem."""
    fingerprint: str
    """Of its size and its footer: another one is another file under the same name."""
    first: int
    stop: int
    first_row: int
    """Of its rows, counted from 0 in the file."""
    rows: int
    given: str = field(compare=False, repr=False)
    """What a user gave to find it by: may hold passwords, and is never written."""

    @property
    def part(self) -> str:
        """The name of its part."""
        file = hashlib.sha256(self.source.encode()).hexdigest()[:16]
        return f"part-{file}-{self.first:06}.parquet"

    @property
    def place(self) -> "Place":
        """Where the file is."""
        return Place(place(self.given).filesystem, self.path)

    @property
    def recorded(self) -> dict[str, Any]:
        """What is written of it."""
        return {name: value for name, value in asdict(self).items() if name != "given"}


@dataclass(frozen=True)
class Place:
    """A file or folder, wherever it is."""

    filesystem: fs.FileSystem
    path: str

    def __truediv__(self, name: str) -> "Place":
        return Place(self.filesystem, f"{self.path.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """Of a file anywhere; its path, if it is on this machine."""
        kind = self.filesystem.type_name
        return self.path if kind == "local" else f"{kind}://{self.path}"

    @property
    def kind(self) -> fs.FileType:
        """Whether it is a file, a folder, or not there."""
        return self.filesystem.get_file_info(self.path).type


def place(given: str) -> Place:
    """Where a path or URI points.

    Raises:
        UsageError: A URI that pyarrow does not know.
    """
    if "://" not in given:
        return Place(fs.LocalFileSystem(), str(Path(given).resolve()))
    try:
        return Place(*fs.FileSystem.from_uri(given))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UsageError(f"expected a path or a URI as s3://bucket/folder, got {error}") from None


def resolved(given: str) -> str:
    """The same place from wherever it is looked at, as other nodes do."""
    return given if "://" in given else str(Path(given).resolve())


@contextmanager
def replacing(target: Place) -> Iterator[pa.NativeFile]:
    """A file beside the target that takes its place if the block ends well."""
    folder, _, name = target.path.rpartition("/")
    partial = f"{folder}/.{name}.{uuid.uuid4().hex}"
    try:
        with target.filesystem.open_output_stream(partial) as file:
            yield file
        if isinstance(target.filesystem, fs.LocalFileSystem):
            with Path(partial).open("rb") as written:
                os.fsync(written.fileno())
        target.filesystem.move(partial, target.path)
    except BaseException:
        if target.filesystem.get_file_info(partial).is_file:
            target.filesystem.delete_file(partial)
        raise


def find_partitions(inputs: Sequence[str]) -> list[Partition]:
    """All partitions of Parquet files, and of folders' files (without a store's quarantine).

    Raises:
        UsageError: Nothing there, a file given twice, or one without images.
        StoreError: A file that is no Parquet.
    """
    found = []
    for given in inputs:
        at = place(given)
        if at.kind == fs.FileType.Directory:
            names = sorted(
                info.base_name
                for info in at.filesystem.get_file_info(fs.FileSelector(at.path))
                if info.base_name.endswith(".parquet")
                and not info.base_name.startswith((".", "_", "quarantine-"))
            )
            found += [(given, at / name) for name in names]
        elif at.kind == fs.FileType.File:
            found.append((given, at))
        else:
            raise UsageError(f"expected a Parquet file or a folder of them at {given}, found none")
    if not found:
        raise UsageError(f"expected Parquet files in {', '.join(inputs)}, found none")
    twice = [name for name, count in Counter(at.name for _, at in found).items() if count > 1]
    if twice:
        raise UsageError(f"expected every input file once, got {twice[0]} twice")
    return [partition for given, at in found for partition in _cut(given, at)]


def _cut(given: str, at: Place) -> Iterator[Partition]:
    source = at.name
    try:
        with at.filesystem.open_input_file(at.path) as file:
            metadata = pq.read_metadata(file)
            columns = metadata.schema.to_arrow_schema()
            file.seek(max(0, file.size() - _FOOTER))
            about = f"{file.size()} bytes, ending in ".encode() + file.read(_FOOTER)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(f"expected a Parquet file at {source}, got {error}") from None
    fingerprint = hashlib.sha256(about).hexdigest()[:16]
    if IMAGE not in columns.names or not _is_bytes(columns.field(IMAGE).type):
        raise UsageError(
            f"expected a column {IMAGE!r} of encoded images (binary) in {source}, its columns are "
            f"{', '.join(f'{field.name} ({field.type})' for field in columns)}"
        )
    if NAME in columns.names and not _is_text(columns.field(NAME).type):
        raise UsageError(
            f"expected text in the column {NAME!r} of {source}, got {columns.field(NAME).type}"
        )
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    first = before = taken = 0
    for group, count in enumerate(rows):
        taken += count
        if taken >= _ROWS or group == len(rows) - 1:
            yield Partition(source, at.path, fingerprint, first, group + 1, before, taken, given)
            first, before, taken = group + 1, before + taken, 0


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
    )


def open_output(out: str, model: bytes, partitions: Sequence[Partition]) -> list[Partition]:
    """Make the output folder, or go on in it; the partitions that are not done there.

    Args:
        out: The folder.
        model: An exported reader's file; the folder keeps it, for whoever reads there.
        partitions: All that are wanted.

    Raises:
        UsageError: It was made by another reader, or of files that have changed since.
    """
    folder = place(out)
    folder.filesystem.create_dir(folder.path, recursive=True)
    there = folder.filesystem.get_file_info(fs.FileSelector(folder.path))
    done = {info.base_name for info in there if info.is_file and info.size}
    if READER not in done:
        if any(name.endswith(".parquet") for name in done):
            raise UsageError(
                f"expected a folder of its own for the labels, {out} holds other Parquet files; "
                "give an empty folder"
            )
        with replacing(folder / READER) as file:
            file.write(model)
    elif kept_reader(out) != model:
        raise UsageError(
            f"expected the reader that made what is in {out}, got another one; give an empty folder"
        )
    known: dict[str, Any] = {}
    if (folder / MANIFEST).kind != fs.FileType.NotFound:
        try:
            known = dict(json.loads(_read(folder / MANIFEST)))
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"expected what is labelled in {out}/{MANIFEST}, could not read it ({error}); "
                "give an empty folder"
            ) from None
    for partition in partitions:
        if known.setdefault(partition.part, partition.recorded) != partition.recorded:
            raise UsageError(
                f"{partition.source} has changed since {out} was begun; give an empty folder"
            )
    with replacing(folder / MANIFEST) as file:
        file.write(json.dumps(known, indent=1).encode())
    return [partition for partition in partitions if partition.part not in done]


def remove_unfinished(out: str) -> None:
    """Take away what killed workers had begun, when all parts are there."""
    folder = place(out)
    for info in folder.filesystem.get_file_info(fs.FileSelector(folder.path)):
        if info.base_name.startswith(".part-"):
            folder.filesystem.delete_file(info.path)


def kept_reader(out: str) -> bytes:
    """The exported reader that labels into this folder."""
    return _read(place(out) / READER)


def _read(at: Place) -> bytes:
    with at.filesystem.open_input_stream(at.path) as file:
        return bytes(file.read())
