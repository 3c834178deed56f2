"""Plain arrays in files: .npz, written whole, read only if every checksum holds."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simgan_captcha.atomic import write_bytes


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
