"""Divides input files into partitions, and finds the partitions that are not yet labelled.

A partition is a range of consecutive row groups of one input file. It becomes one part of the
output. The part is named after the file and the first row group, so a partition is finished if its
part exists. The output folder also holds the recognizer (``_reader.onnx``) and a list of the
partitions (``_labelling.json``).

Places are local paths or URIs that pyarrow can open (``s3://bucket/folder``, ``gs://``, ``file://``).
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
from simgan_captcha.inference.constraints.texts import NONE, Constraints

MANIFEST, READER = "_labelling.json", "_reader.onnx"
IMAGE, NAME = "image", "name"
"""Columns of an input file: encoded images, and optional names."""
BYTES = "bytes"
"""Field of the encoded image in a column of structs, as Hugging Face's ``datasets`` writes it."""

_FOOTER = 65_536  # bytes at the end of a file, for a fingerprint of its footer
_TEXTS = "texts"
"""Key of the constraints in ``_labelling.json``."""
_ROWS = 10_000
"""Row groups are joined until they have this many rows."""


@dataclass(frozen=True)
class Partition:
    """Row groups ``first`` to ``stop`` (not included) of a file."""

    source: str
    """Canonical name of the file, without passwords."""
    path: str
    """Path on its file system."""
    fingerprint: str
    """Hash of the size and the footer of the file, to detect changes."""
    first: int
    stop: int
    first_row: int
    """Number of its first row in the file, from 0."""
    rows: int
    given: str = field(compare=False, repr=False)
    """Place that the user gave. It may contain passwords and is never written."""

    @property
    def part(self) -> str:
        """File name of its part."""
        file = hashlib.sha256(self.source.encode()).hexdigest()[:16]
        return f"part-{file}-{self.first:06}.parquet"

    @property
    def place(self) -> "Place":
        """Place of the file."""
        return Place(place(self.given).filesystem, self.path)

    @property
    def recorded(self) -> dict[str, Any]:
        """Values for ``_labelling.json``."""
        return {name: value for name, value in asdict(self).items() if name != "given"}


@dataclass(frozen=True)
class Place:
    """A file or folder on any file system."""

    filesystem: fs.FileSystem
    path: str

    def __truediv__(self, name: str) -> "Place":
        return Place(self.filesystem, f"{self.path.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """Full name; the path, if it is on this machine."""
        kind = self.filesystem.type_name
        return self.path if kind == "local" else f"{kind}://{self.path}"

    @property
    def kind(self) -> fs.FileType:
        """Whether it is a file, a folder, or missing."""
        return self.filesystem.get_file_info(self.path).type


def place(given: str) -> Place:
    """The place of a path or URI.

    Raises:
        UsageError: pyarrow does not support the URI.
    """
    if "://" not in given:
        return Place(fs.LocalFileSystem(), str(Path(given).resolve()))
    try:
        return Place(*fs.FileSystem.from_uri(given))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UsageError(
            f"expected a path or a URI such as s3://bucket/folder, got {error}"
        ) from None


def resolved(given: str) -> str:
    """The absolute form of a path or URI, which also holds on other nodes."""
    return given if "://" in given else str(Path(given).resolve())


@contextmanager
def replacing(target: Place) -> Iterator[pa.NativeFile]:
    """Open a temporary file that replaces the target if the block succeeds."""
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
    """All partitions of Parquet files and folders, without the quarantine of a store.

    Raises:
        UsageError: There are no files, a file is given twice, or a file has no images.
        StoreError: A file is not Parquet.
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
            raise UsageError(
                f"expected a Parquet file or a folder of them at {given}, found none; correct the "
                "path"
            )
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
    for name in (IMAGE, NAME):
        if (count := columns.names.count(name)) > 1:
            raise UsageError(
                f"expected one column {name!r} in {source}, got {count}; rename the others"
            )
    if IMAGE not in columns.names or not _is_bytes(columns.field(IMAGE).type):
        raise UsageError(
            f"expected a column {IMAGE!r} of encoded images (binary, or structs with binary "
            f"{BYTES!r}) in {source}, its columns are "
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
    if pa.types.is_struct(kind):
        fields = [kind.field(number) for number in range(kind.num_fields)]
        return [_is_binary(field.type) for field in fields if field.name == BYTES] == [True]
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    kind = _of_dictionary(kind)
    return any(is_kind(kind) for is_kind in _BYTES)


def _is_text(kind: pa.DataType) -> bool:
    kind = _of_dictionary(kind)
    return any(is_kind(kind) for is_kind in _TEXT)


def _of_dictionary(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
_TEXT = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null,
)  # fmt: skip


def open_output(
    out: str, model: bytes, partitions: Sequence[Partition], constraints: Constraints = NONE
) -> list[Partition]:
    """Create or continue the output folder, and return the partitions that are not finished.

    Args:
        out: The output folder.
        model: Bytes of the reader, see `label.MakeReader`. They are saved for all processes.
        partitions: All requested partitions.
        constraints: Constraints on all texts; they are recorded.

    Raises:
        UsageError: The folder belongs to another recognizer or to other constraints, or an input
            file has changed.
    """
    folder = place(out)
    folder.filesystem.create_dir(folder.path, recursive=True)
    there = folder.filesystem.get_file_info(fs.FileSelector(folder.path))
    done = {info.base_name for info in there if info.is_file and info.size}
    if READER not in done:
        if any(name.endswith(".parquet") for name in done):
            raise UsageError(
                f"expected an empty folder for the labels, {out} holds other Parquet files; "
                "give an empty folder"
            )
        with replacing(folder / READER) as file:
            file.write(model)
    elif kept_reader(out) != model:
        raise UsageError(
            f"expected the reader that labelled {out} so far, got another one; give an empty folder"
        )
    known: dict[str, Any] = {}
    if (folder / MANIFEST).kind != fs.FileType.NotFound:
        try:
            known = dict(json.loads(_read(folder / MANIFEST)))
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"expected a list of partitions in {out}/{MANIFEST}, could not read it ({error}); "
                "give an empty folder"
            ) from None
    asked = json.loads(json.dumps(asdict(constraints)))  # as it will be read
    if known and known.get(_TEXTS, asdict(NONE)) != asked:
        raise UsageError(
            f"expected the alphabet, length and pattern that {out} was started with, got others; "
            "give the same, or an empty folder"
        )
    known[_TEXTS] = asked
    for partition in partitions:
        if known.setdefault(partition.part, partition.recorded) != partition.recorded:
            raise UsageError(
                f"{partition.source} has changed since {out} was started; give an empty folder"
            )
    with replacing(folder / MANIFEST) as file:
        file.write(json.dumps(known, indent=1).encode())
    return [partition for partition in partitions if partition.part not in done]


def remove_unfinished(out: str) -> None:
    """Remove partial files of killed workers, after all parts are finished."""
    folder = place(out)
    for info in folder.filesystem.get_file_info(fs.FileSelector(folder.path)):
        if info.base_name.startswith(".part-"):
            folder.filesystem.delete_file(info.path)


def kept_reader(out: str) -> bytes:
    """Bytes of the reader in an output folder."""
    return _read(place(out) / READER)


def _read(at: Place) -> bytes:
    with at.filesystem.open_input_stream(at.path) as file:
        return bytes(file.read())
