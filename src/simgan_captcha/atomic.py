"""Atomic file writes: a file is complete or absent, even if the process is killed or the disk full.

The module also writes JSON documents, and arrays as .npz files with checksums.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file in the folder of the target. It replaces the target after the block.

    The file is flushed to disk before that. If the block raises an error, the target is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically, see `replacing`."""
    with replacing(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write an indented JSON document that ends in a newline."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write arrays, numbers and texts by name to a compressed .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read a file of `write_arrays` without unpickling.

    Raises:
        Exception: The file is missing or damaged. The exception is one of zipfile, zlib or numpy.
    """
    data = io.BytesIO(path.read_bytes())
    # numpy stops after the last byte of an array, so it does not check every checksum.
    if damaged := zipfile.ZipFile(data).testzip():
        raise ValueError(f"checksum of {damaged}")
    data.seek(0)
    with np.load(data, allow_pickle=False) as arrays:
        return dict(arrays)


def file_hash(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def core_count() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
