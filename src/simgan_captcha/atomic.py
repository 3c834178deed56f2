"""Files that are either whole or not there, whenever the process is killed or the disk fills.

JSON, and plain arrays as .npz, which are read only if every checksum holds.
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
    """A file beside the target: if the block ends well, flushed to disk and renamed over it."""
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
    """Write the whole file at once, see `replacing`."""
    with replacing(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """A JSON document, indented, ending in a newline."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write arrays, numbers and texts by name, compressed."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read what `write_arrays` wrote; nothing is unpickled.

    Raises:
        Exception: Whatever zipfile, zlib and numpy make of a file that is missing or damaged.
    """
    data = io.BytesIO(path.read_bytes())
    # numpy reads no further than an array's last byte, so it does not see every checksum.
    if damaged := zipfile.ZipFile(data).testzip():
        raise ValueError(f"checksum of {damaged}")
    data.seek(0)
    with np.load(data, allow_pickle=False) as arrays:
        return dict(arrays)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def core_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
