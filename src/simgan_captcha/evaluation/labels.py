"""Labels from a CSV file or from image names, and their matching with readings.

This module reads true texts of real images. Code that learns without labels must not import it.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from simgan_captcha.data.kinds import SUFFIXES
from simgan_captcha.errors import RunError, UsageError
from simgan_captcha.pipeline.lesson import TAUGHT_NAMES
from simgan_captcha.shown import few_of, from_spreadsheet_cell

MAX_LABELS_BYTES = 64_000_000
"""Largest size of a label file."""

EXAMPLES = 3
"""Number of names shown as examples."""

_SEPARATORS = (",", ";", "\t")
_LABEL = "{label}"


def read_labels_csv(path: Path) -> dict[str, str]:
    """Read true texts by image name from a CSV file.

    The header is ``name,label`` in upper or lower case. The separator is a comma, a semicolon or a
    tab. The encoding is UTF-8 or UTF-16.

    Args:
        path: CSV file of at most `MAX_LABELS_BYTES`. A name may repeat with the same label.

    Raises:
        UsageError: The file is missing, too large, or in another encoding. Or the header is wrong,
            a row is incomplete, a name has two different labels, or there are no labels.
    """
    text = _labels_text(path)
    separator = _separator(path, text)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    labels: dict[str, str] = {}
    try:
        next(rows)  # the header, which `_separator` has checked
        for row in rows:
            if not row:
                continue
            if len(row) != 2 or not all(row):
                raise UsageError(
                    f"{path}, line {rows.line_num}: expected a name and a label, got "
                    f"{separator.join(row)[:80]!r}; correct the line"
                )
            name, label = map(from_spreadsheet_cell, row)
            if labels.setdefault(name, label) != label:
                raise UsageError(
                    f"{path}, line {rows.line_num}: {name[:80]!r} already has the label "
                    f"{labels[name][:80]!r}, got {label[:80]!r}; keep one of them"
                )
    except csv.Error as error:
        kind = {",": "comma", ";": "semicolon", "\t": "tab"}[separator]
        raise UsageError(
            f"{path}, line {rows.line_num}: expected {kind}-separated values, got a line that is "
            f"not ({error}); correct the line"
        ) from None
    if not labels:
        raise UsageError(f"{path}: expected at least one label after the header, got none")
    return labels


def labels_in_names(names: Iterable[str], pattern: str) -> dict[str, str]:
    """Extract true texts from image names.

    Args:
        names: Names of the images. Names that do not match the pattern have no label.
        pattern: Pattern of a whole name, with ``{label}`` for the text and ``*`` for any
            characters.

    Raises:
        UsageError: The pattern does not have exactly one ``{label}``, or matches no name.

    Example:
        >>> labels_in_names(["a1z9_03.png", "other.png"], "{label}_*.png")
        {'a1z9_03.png': 'a1z9'}
    """
    if pattern.count(_LABEL) != 1:
        raise UsageError(
            f"expected a pattern with one {_LABEL}, as '{_LABEL}_*.png', got {pattern!r}"
        )
    written = re.escape(pattern).replace(re.escape("*"), ".*")
    fits = re.compile(written.replace(re.escape(_LABEL), "(?P<label>.+?)"), re.DOTALL)
    names = list(names)
    labels = {name: found["label"] for name in names if (found := fits.fullmatch(name))}
    if not labels:
        raise UsageError(
            f"expected names like {pattern!r}, got {len(names)} others ({examples(names)}); "
            "correct the pattern"
        )
    return labels


@dataclass(frozen=True)
class Matched:
    """Labels by the names of their readings."""

    labels: dict[str, str]
    """Labels by name. A label without a reading keeps its own name."""
    ambiguous: int
    """Number of labels without a reading because the match is not unique."""


def match_labels(labels: Mapping[str, str], names: Iterable[str]) -> Matched:
    """Match labels with readings by name, with or without folder and extension.

    Equal names are matched first. The remaining names are compared without folders and without
    image extensions. A label and a reading match if no other label or reading has this name.

    Example:
        >>> match_labels({"a": "xy", "c": "z"}, ["a.jpg", "b.jpg"])
        Matched(labels={'a.jpg': 'xy', 'c': 'z'}, ambiguous=0)
    """
    free: dict[str, list[str]] = {}
    for name in names:
        if name not in labels:
            free.setdefault(_stem(name), []).append(name)
    known = set(names)
    unmatched = [name for name in labels if name not in known]
    claims = Counter(map(_stem, unmatched))
    matched = {name: label for name, label in labels.items() if name in known}
    ambiguous = 0
    for name in unmatched:
        fitting = free.get(_stem(name), [])
        if len(fitting) == 1 and claims[_stem(name)] == 1:
            matched[fitting[0]] = labels[name]
        else:
            matched[name] = labels[name]
            ambiguous += bool(fitting)
    return Matched(matched, ambiguous)


def examples(names: Sequence[str]) -> str:
    """List the first few names, shortened and printable: ``a.jpg, b.jpg, c.jpg, …``."""
    return few_of(names[:EXAMPLES], len(names))


def taught_names(run: Path) -> frozenset[str]:
    """Names of the images that a run was taught with; empty if it was not taught.

    Raises:
        RunError: The list of names is damaged.
    """
    path = run / TAUGHT_NAMES
    try:
        names = json.loads(path.read_bytes())
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("no list of names")
        return frozenset(names)
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"expected the names of taught images in {path}, it is damaged ({error}); teach the "
            "run again, or delete its folder teach"
        ) from None


def _stem(name: str) -> str:
    """Remove folders and an image extension from a name."""
    last = PurePosixPath(name.replace("\\", "/"))
    return last.stem if last.suffix.lower() in SUFFIXES else last.name


def _separator(path: Path, text: str) -> str:
    """Find the separator of a table by its header, which is checked."""
    first = next(_lines(text), None)
    for separator in _SEPARATORS:
        fields = [] if first is None else first.split(separator)
        if [field.strip().strip('"').lower() for field in fields] == ["name", "label"]:
            return separator
    got = "nothing" if first is None else repr(first[:80])
    raise UsageError(
        f"{path}: expected the header name,label, got {got}; add it (a semicolon or a tab may "
        "separate the columns, too)"
    )


def _lines(text: str) -> Iterator[str]:
    yield from io.StringIO(text[:1000], newline=None).read().splitlines()


def _labels_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LABELS_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"expected a label file at {path}, got {error.strerror}; name a CSV file"
        ) from None
    if len(data) > MAX_LABELS_BYTES:
        raise UsageError(f"{path}: expected at most {MAX_LABELS_BYTES} bytes of labels, got more")
    encoding = _encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: expected {encoding.removesuffix('-sig').upper()}, got another byte at "
            f"{error.start}; save the file as UTF-8"
        ) from None


def _encoding(data: bytes) -> str:
    """UTF-16 if there is a byte order mark or a zero byte in the header, else UTF-8."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if data[:1] and data[1:2] == b"\0":
        return "utf-16-le"
    if data[:1] == b"\0":
        return "utf-16-be"
    # Spreadsheet programs write a byte order mark before the header.
    return "utf-8-sig"
