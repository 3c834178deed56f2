"""Parses one challenge batch (JSON or CSV) into checked captchas.

A batch is ``{"images": [{"name": "...", "jpg_base64": "..."}, ...]}``, or a CSV with a column of
images. Images may have any supported format, as base64 or ``data:`` URIs. No input is trusted: an
invalid image is rejected with a reason, an invalid batch is rejected completely.
"""

import csv
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from simgan_captcha.data.foreground import open_scheme_image
from simgan_captcha.data.kinds import HEAD, kind_in_words, kind_of
from simgan_captcha.data.pictures import MAX_BYTES, from_base64
from simgan_captcha.errors import BatchError, ImageError
from simgan_captcha.scheme import Scheme

MAX_IMAGES = 100_000
"""Maximum number of images in one batch."""
MAX_BATCH_BYTES = 64 * 2**20
"""Greatest size of a batch in bytes; it limits the memory that a hostile batch takes."""
MAX_NAME_CHARACTERS = 256
MAX_QUARANTINED_BYTES = 4096
"""Number of bytes at the start of a rejected image or batch that the quarantine keeps."""

_MAX_MARKS = 10 * MAX_IMAGES
"""Maximum number of brackets, commas and colons in the JSON; an image has five of them."""

_MOST_ROWS = MAX_IMAGES + 2
_NAMES = ("name", "filename", "file")
_IMAGES = ("jpg_base64", "image", "base64", "data")
"""Possible fields of an image in JSON."""
ENCODED = re.compile(r"data:image/|\\?/9j\\?/|iVBOR|R0lGOD|UklGR|Qk.{6}AAAA|SUkqA|TU0AK")
"""First characters of images in base64, or in a ``data:`` URI, also escaped in JSON."""


@dataclass(frozen=True, slots=True)
class Captcha:
    """One image as it was received: its name and the encoded bytes."""

    name: str
    image: bytes


@dataclass(frozen=True, slots=True)
class RejectedCaptcha:
    """One invalid image: its name, the reason, and its bytes."""

    name: str
    reason: str
    data: bytes


class Unpacked(NamedTuple):
    """The checked images of a batch."""

    captchas: list[Captcha]
    rejected: list[RejectedCaptcha]
    """Invalid images."""
    notes: Counter[str]
    """Counts of remarks on valid images, see `pictures.Picture.notes`."""


def parse_batch(data: bytes | bytearray) -> list[Any]:
    """Parse the JSON of a batch into at least one image entry, not yet checked.

    Raises:
        BatchError: The bytes are not the JSON of a batch.
    """
    expected = 'expected the JSON of a batch, {"images": [...]}'
    # Counted before parsing, as the empty lists of "[[],[],..." take thirty times their text.
    if sum(map(data.count, (b"[", b"{", b",", b":"))) > _MAX_MARKS:
        raise BatchError(f"{expected} with 1 to {MAX_IMAGES} images, got many more values")
    try:
        batch = json.loads(data)
    except (ValueError, RecursionError):
        kind = kind_of(bytes(data[:HEAD]))
        what = "damaged JSON" if kind == "JSON" else kind_in_words(kind)
        raise BatchError(f"{expected}, got {what}") from None
    images = batch.get("images") if isinstance(batch, dict) else None
    if not isinstance(images, list):
        raise BatchError(f'{expected}, got JSON without a list of "images"')
    if not 1 <= len(images) <= MAX_IMAGES:
        raise BatchError(f"{expected} with 1 to {MAX_IMAGES} images, got {len(images)}")
    return images


def parse_table(data: bytes | bytearray) -> list[Any]:
    """Parse a CSV with a column of images into entries like those of `parse_batch`.

    The images are base64 or ``data:`` URIs. Their column is found by its first value. The column of
    names is called ``name``, ``filename``, ``file`` or ``id``; without one, rows are numbered.

    Raises:
        BatchError: The bytes are not such a CSV.
    """
    expected = "expected a CSV with a column of images as base64 or data: URIs"
    csv.field_size_limit(2 * MAX_BYTES)
    try:
        text = bytes(data).decode("utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        rows = list(
            itertools.islice(csv.reader(io.StringIO(text), delimiter=delimiter), _MOST_ROWS)
        )
    except (ValueError, csv.Error) as error:
        raise BatchError(f"{expected}, could not read it ({error})") from None
    header, rows = (rows or [[]])[0], [row for row in rows[1:] if row]
    columns = [k for k, value in enumerate(rows[0] if rows else []) if ENCODED.match(value)]
    if not columns:
        raise BatchError(f"{expected}, got other columns")
    if len(rows) > MAX_IMAGES:
        raise BatchError(f"{expected} and at most {MAX_IMAGES} rows, got more")
    called = [name.strip().lower() for name in header]
    names = [called.index(name) for name in (*_NAMES, "id") if name in called]
    return [
        {
            "name": row[names[0]] if names and names[0] < len(row) else str(number),
            "image": row[columns[0]] if columns[0] < len(row) else "",
        }
        for number, row in enumerate(rows)
    ]


def batch_images(images: Iterable[Any]) -> Iterator[tuple[object, bytes | ImageError]]:
    """Name and bytes of each image, or the error if it cannot be decoded."""
    for entry in images:
        fields = entry if isinstance(entry, dict) else {}
        name = next((fields[key] for key in _NAMES if key in fields), None)
        encoded = next((fields[key] for key in _IMAGES if key in fields), None)
        if not isinstance(encoded, str):
            kind = type(encoded).__name__
            yield name, ImageError(f'expected text in "{_IMAGES[0]}", got {kind}')
            continue
        try:
            yield name, from_base64(encoded)
        except ImageError as error:
            yield name, error


def unpack_batch(images: list[Any], scheme: Scheme) -> Unpacked:
    """Check all image entries of `parse_batch` or `parse_table`."""
    return unpack(batch_images(images), scheme)


def unpack(images: Iterable[tuple[object, bytes | ImageError]], scheme: Scheme) -> Unpacked:
    """Check that every image has a valid name, is complete and fits the scheme."""
    unpacked = Unpacked([], [], Counter())
    for name, data in images:
        try:
            label = checked_name(name)
            if isinstance(data, ImageError):
                raise data
            unpacked.notes.update(open_scheme_image(data, scheme).notes)
            unpacked.captchas.append(Captcha(label, data))
        except (BatchError, ImageError) as error:
            kept = b"" if isinstance(data, ImageError) else data[:MAX_QUARANTINED_BYTES]
            unpacked.rejected.append(RejectedCaptcha(storable(name), str(error), kept))
    return unpacked


def checked_name(name: object) -> str:
    """The name, if it can be stored.

    Raises:
        BatchError: The name is not text, too long, or not valid Unicode.
    """
    if not isinstance(name, str):
        raise BatchError(f'expected text in "name", got {type(name).__name__}')
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        raise BatchError(
            f"expected a name of 1 to {MAX_NAME_CHARACTERS} characters, got {len(name)}"
        )
    if name != storable(name):
        raise BatchError("expected a name of Unicode characters, got half a surrogate pair")
    return name


def storable(name: object) -> str:
    """A short, valid UTF-8 name for the quarantine, from any value."""
    if not isinstance(name, str):
        return ""
    return name[:MAX_NAME_CHARACTERS].encode(errors="backslashreplace").decode()
