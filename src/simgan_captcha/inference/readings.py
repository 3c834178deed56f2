"""Readings of images and their Parquet files. Needs no torch, and pyarrow only for files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from simgan_captcha.atomic import write_bytes
from simgan_captcha.errors import RunError
from simgan_captcha.scheme import Scheme

if TYPE_CHECKING:
    import pyarrow as pa

_MAX_BYTES = 512_000_000


@dataclass(frozen=True)
class Alternative:
    """Another text that an image may hold."""

    text: str
    confidence: float
    """Probability of the whole text, as in `Reading`."""


@dataclass(frozen=True)
class Reading:
    """The reading of one image."""

    name: str
    text: str
    confidence: float
    """Probability of the whole text, in [0, 1]: the product over its characters and over the empty
    slots after its end.

    It is the share among all texts that the reader knows, not among those that satisfy the
    constraints. If an image contradicts the constraints, all texts that satisfy them are
    improbable, and the confidence is low. (Within an alphabet, the generalist alone gives the
    probability of other characters to those of the alphabet.)"""
    character_confidence: tuple[float, ...]
    """Probability of each character, in [0, 1]."""
    alternatives: tuple[Alternative, ...] = ()
    """The next texts in order of probability, if more than one was asked for."""


def to_readings(
    scheme: Scheme,
    names: Sequence[str],
    ids: npt.NDArray[np.int64],
    confidence: npt.NDArray[np.float32],
) -> Iterator[Reading]:
    """Readings of N images from class ids (N, L) and their probabilities (N, L).

    Raises:
        RunError: A class id is not in the scheme, or a probability is not in [0, 1].
    """
    require_readings(scheme, ids, confidence)
    confidence = np.minimum(confidence, np.float32(1))  # rounding may exceed 1
    for name, of_image, each in zip(names, ids.tolist(), confidence, strict=True):
        of_characters = tuple(
            share for k, share in zip(of_image, each.tolist(), strict=True) if k != scheme.blank
        )
        yield Reading(name, scheme.decode(of_image), float(each.prod()), of_characters)


_ROUNDING = 1e-4
"""Amount by which a probability may exceed 1."""


def require_readings(
    scheme: Scheme, ids: npt.NDArray[np.int64], confidence: npt.NDArray[np.float32]
) -> None:
    """Check that class ids and probabilities, (N, L) each, are valid.

    Raises:
        RunError: A class id is not in the scheme, or a probability is not in [0, 1].
    """
    if not ids.size:
        return
    if not 0 <= ids.min() <= ids.max() < scheme.classes:
        raise RunError(
            f"expected class ids from 0 to {scheme.classes - 1}, the reader gave {ids.min()} to "
            f"{ids.max()}: it is damaged or of another scheme; export it or repeat the run"
        )
    # Written so that NaN also fails.
    if not (confidence.min() >= 0 and confidence.max() <= 1 + _ROUNDING):
        raise RunError(
            f"expected confidences from 0 to 1, the reader gave {confidence.min():g} to "
            f"{confidence.max():g}: its weights are damaged; export it or repeat the run"
        )


def require_probabilities(
    scheme: Scheme, probabilities: npt.NDArray[np.float32], images: int
) -> npt.NDArray[np.float32]:
    """Return the probabilities of all classes.

    Raises:
        RunError: They are not (images, L, K), or those of a slot are no distribution.
    """
    wanted = (images, scheme.max_length, scheme.classes)
    sums = probabilities.sum(-1)
    # Written so that NaN also fails.
    if probabilities.shape != wanted or not (
        (probabilities >= 0).all() and (np.abs(sums - 1) <= _SUM).all()
    ):
        raise RunError(
            f"expected {wanted} probabilities with the sum 1 in each slot, the reader gave "
            f"{probabilities.shape} with sums up to {sums.max(initial=0):g}; export it again"
        )
    return probabilities


_SUM = 1e-2
"""Amount by which the sum of the probabilities of a slot may differ from 1."""

COLUMNS = ("name", "text", "confidence", "character_confidence")
"""Columns of a table of readings."""


def readings_schema(*, errors: bool = False) -> "pa.Schema":
    """Schema of a table of readings.

    Args:
        errors: Whether it has a column ``error`` for images that could not be read.
    """
    import pyarrow as pa

    kinds = pa.string(), pa.string(), pa.float64(), pa.list_(pa.float64())
    fields = [pa.field(name, kind) for name, kind in zip(COLUMNS, kinds, strict=True)]
    return pa.schema([*fields, pa.field("error", pa.string())] if errors else fields)


def save_readings(path: Path, readings: Sequence[Reading]) -> None:
    """Write readings as Parquet, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: [getattr(r, name) for r in readings] for name in COLUMNS}
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=readings_schema()), buffer)
    write_bytes(path, buffer.getvalue().to_pybytes())


def load_readings(path: Path) -> list[Reading]:
    """Load the readings that `save_readings` wrote.

    Raises:
        RunError: The file is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"larger than {_MAX_BYTES} bytes")
        table = pq.read_table(path, schema=readings_schema())
        if any(column.null_count for column in table.columns):
            raise ValueError("a value or a whole column is missing")
        readings = [
            Reading(r["name"], r["text"], r["confidence"], tuple(r["character_confidence"]))
            for r in table.to_pylist()
        ]
        for reading in readings:
            if len(reading.text) != len(reading.character_confidence):
                raise ValueError(f"{reading.text!r} lacks a confidence for each character")
            for confidence in (reading.confidence, *reading.character_confidence):
                if confidence is None or not 0 <= confidence <= 1:
                    raise ValueError(f"a confidence of {confidence}, not in [0, 1]")
    except FileNotFoundError:
        raise RunError(f"expected readings at {path}, found none; finish the run first") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RunError(
            f"expected readings at {path}, the file is damaged ({error}); delete it and run again"
        ) from None
    return readings
