"""Finds and reads images in folders, zip files and files of challenge batches.

The kind of a file depends on its content, not on its name. Ignored files are counted by kind.
"""

import hashlib
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simgan_captcha.data.batch import (
    ENCODED,
    MAX_BATCH_BYTES,
    batch_images,
    parse_batch,
    parse_table,
)
from simgan_captcha.data.kinds import IMAGES, SUFFIXES, kind_of, left_out_in_words
from simgan_captcha.data.pictures import MAX_BYTES, read_bytes
from simgan_captcha.errors import BatchError, ImageError, UsageError
from simgan_captcha.shown import without_home

GROUP = 1000
"""Number of image files that are stored as one batch."""

_HEAD = 4096
_MAX_MEMBERS = 200_000
"""Maximum number of files in one zip file."""
_FOLDER, _HIDDEN = "folder (not looked into without --recursive)", "hidden"


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image file of a folder, or one in a zip file."""

    name: str
    """Path within the folder or the zip file."""
    path: Path
    """Path of the file, or of the zip file."""
    size: int
    version: int
    """Modification time, or checksum in the zip file; changes with the file."""
    member: zipfile.ZipInfo | None = None
    """Entry in the zip file."""


@dataclass
class Found:
    """Content of a place: images or batches, but not both, and ignored entries."""

    files: list[ImageFile] = field(default_factory=list)
    batches: list[Path] = field(default_factory=list)
    """JSON or CSV files."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Counts of ignored entries by kind."""


def find_images(place: Path, *, recursive: bool = False) -> Found:
    """Find the images or batches of a folder, a zip file or a batch file.

    They are sorted in natural order (2 before 10).

    Args:
        place: Path of the folder or file.
        recursive: Whether subfolders are searched.

    Raises:
        UsageError: The place does not exist, or holds both batches and images, or neither.
    """
    if not place.is_dir() and not holds_images(place):
        raise UsageError(
            f"expected a folder or a zip file of images, or challenge batches, got {place}, "
            f"which {'is another kind of file' if place.exists() else 'does not exist'}; "
            "correct the path"
        )
    search = _Search(place, recursive)
    found = search.found()
    if not found.files and not found.batches:
        total = found.left_out.total()
        raise UsageError(
            f"expected images ({', '.join(IMAGES)}), or challenge batches named challenge-* or "
            f"*.json, in {place}, got none of {total} entries"
            + (f" ({left_out_in_words(found.left_out)})" if total else "")
            + "; name the folder that holds them"
        )
    return found


def holds_images(path: Path) -> bool:
    """Whether a file holds several images: a zip file or a batch."""
    try:
        head = file_head(path) if path.is_file() else b""
    except (OSError, ValueError):
        return False
    kind = kind_of(head)
    return (
        kind == "zip"
        or (kind == "JSON" and (path.suffix.lower() == ".json" or _is_batch(head)))
        or (path.suffix.lower() == ".csv" and _is_table(head))
    )


def holds_store(folder: Path) -> bool:
    """Whether a folder is a captcha store, see `store.CaptchaStore`."""
    return any(folder.glob("part-*.parquet"))


class _Search:
    """Searches a place and sorts its entries."""

    def __init__(self, place: Path, recursive: bool) -> None:
        self._place, self._recursive = place, recursive
        self._images: list[ImageFile] = []
        self._named_images: list[ImageFile] = []
        """Files with the name but not the content of an image."""
        self._batches: list[Path] = []
        self._named_batches: list[tuple[Path, str]] = []
        """Files with the name but not the content of a batch, and their kinds."""
        self._left_out: Counter[str] = Counter()
        if place.is_dir():
            self._look_into(place, "")
        else:
            self._take(place, place.name, alone=True)

    def found(self) -> Found:
        if self._images and self._batches:
            raise UsageError(
                f"expected images or challenge batches in {self._place}, got both: "
                f"{len(self._batches)} batches and {len(self._images)} images; move one of the two "
                "to another folder"
            )
        files, batches, left_out = self._images, self._batches, self._left_out
        if files or not (batches or self._named_batches):
            files = files + self._named_images
            left_out.update(kind for _, kind in self._named_batches)
        else:
            batches = batches + [path for path, _ in self._named_batches]
            left_out.update(f"no image ({file.path.suffix.lower()})" for file in self._named_images)
        return Found(
            sorted(files, key=lambda file: natural_order(file.name)),
            sorted(batches, key=lambda path: natural_order(str(path))),
            left_out,
        )

    def _look_into(self, folder: Path, prefix: str) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                path, name = folder / entry.name, prefix + entry.name
                if entry.name.startswith("."):
                    self._left_out[_HIDDEN] += 1
                # Links to folders may form cycles.
                elif entry.is_dir(follow_symlinks=not self._recursive):
                    if self._recursive:
                        self._look_into(path, f"{name}/")
                    else:
                        self._left_out[_FOLDER] += 1
                elif path.is_file():
                    self._take(path, name)
                else:
                    self._left_out["no regular file"] += 1

    def _take(self, path: Path, name: str, *, alone: bool = False) -> None:
        try:
            head, about = file_head(path), path.stat()
        except OSError:
            self._left_out["not readable"] += 1
            return
        kind, suffix = kind_of(head), path.suffix.lower()
        file = ImageFile(name, path, about.st_size, about.st_mtime_ns)
        challenge = path.name.startswith("challenge-") and not suffix
        if kind in IMAGES:
            self._images.append(file)
        elif kind == "zip" and (suffix == ".zip" or alone):
            self._take_zip(path, "" if alone else f"{name}/")
        elif (
            (challenge and kind == "JSON")
            or ((alone or suffix == ".json") and kind == "JSON" and _is_batch(head))
            or (suffix == ".csv" and _is_table(head))
        ):
            self._batches.append(path)
        elif challenge or suffix == ".json":
            self._named_batches.append((path, kind))
        elif suffix in SUFFIXES:
            self._named_images.append(file)
        else:
            self._left_out[kind] += 1

    def _take_zip(self, path: Path, prefix: str) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
                if len(members) > _MAX_MEMBERS:
                    raise zipfile.BadZipFile
                for member in members:
                    self._take_member(archive, path, member, prefix)
        except (*_ZIP_ERRORS, OSError):
            self._left_out["damaged zip"] += 1

    def _take_member(
        self, archive: zipfile.ZipFile, path: Path, member: zipfile.ZipInfo, prefix: str
    ) -> None:
        name = member.filename.rpartition("/")[2]
        if member.is_dir():
            return
        if name.startswith(".") or member.filename.startswith("__MACOSX/"):
            self._left_out[_HIDDEN] += 1
            return
        file = ImageFile(prefix + member.filename, path, member.file_size, member.CRC, member)
        if member.flag_bits & 1:
            self._left_out["locked in a zip file"] += 1
            return
        try:
            with archive.open(member) as opened:
                kind = kind_of(opened.read(_HEAD))
        except (*_ZIP_ERRORS, OSError):
            kind = "damaged"
        if kind in IMAGES:
            self._images.append(file)
        elif Path(name).suffix.lower() in SUFFIXES:
            self._named_images.append(file)
        else:
            self._left_out[f"{kind} in a zip file"] += 1


_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, LookupError,
)  # fmt: skip
"""Exceptions from reading an untrusted zip file."""


def file_head(path: Path) -> bytes:
    """The first bytes of a file, which are enough to detect its kind."""
    with path.open("rb") as file:
        return file.read(_HEAD)


def _is_batch(head: bytes) -> bool:
    """Whether JSON contains encoded images, unlike a list of labels."""
    return any(ENCODED.match(value) for value in re.findall(r'"([^"]{6,})', _text(head)))


def _is_table(head: bytes) -> bool:
    return any(ENCODED.match(value) for value in re.split(r'[,;\t"\r\n]+', _text(head)))


def _text(head: bytes) -> str:
    return head.decode("utf-8", errors="replace")


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key for natural order, with challenge-2 before challenge-10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def read_files(files: Iterable[ImageFile]) -> Iterator[tuple[str, bytes | ImageError]]:
    """Name and bytes of each file, or the error if it cannot be read."""
    archive: zipfile.ZipFile | None = None
    try:
        for file in files:
            try:
                if file.member is None:
                    data: bytes | ImageError = read_bytes(file.path)
                else:
                    if archive is None or archive.filename != str(file.path):
                        if archive is not None:
                            archive.close()
                        archive = zipfile.ZipFile(file.path)
                    with archive.open(file.member) as member:
                        data = member.read(MAX_BYTES + 1)
            except ImageError as error:
                data = error
            except OSError as error:
                data = ImageError(f"expected a file to read, the system refused ({error.strerror})")
            except _ZIP_ERRORS:
                data = ImageError("expected a complete zip file, got a damaged one")
            yield file.name, data
    finally:
        if archive is not None:
            archive.close()


def read_batch(path: Path) -> list[Any]:
    """The image entries of one batch file, not yet checked.

    Raises:
        BatchError: The file is too large or not a batch.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BATCH_BYTES + 1)
    if len(data) > MAX_BATCH_BYTES:
        raise BatchError(f"expected at most {MAX_BATCH_BYTES} bytes, got a larger file")
    return (parse_table if path.suffix.lower() == ".csv" else parse_batch)(data)


def read_found(found: Found) -> Iterator[tuple[str, bytes | ImageError]]:
    """Name and bytes of each image. An invalid batch gives one error in place of its images."""
    yield from read_files(found.files)
    for path in found.batches:
        try:
            images = read_batch(path)
        except (OSError, BatchError) as error:
            yield path.name, ImageError(str(error))
            continue
        for number, (name, data) in enumerate(batch_images(images)):
            yield name if isinstance(name, str) else f"{path.name}#{number}", data


def image_groups(folder: Path, files: Sequence[ImageFile]) -> dict[str, tuple[ImageFile, ...]]:
    """Divide the files of a folder into groups, each with its own source.

    The source is derived from names, sizes and times, so it changes if a file of the group is added
    or changed. Images of the group that are already stored then count as duplicates.
    """
    groups = {}
    for start in range(0, len(files), GROUP):
        group = tuple(files[start : start + GROUP])
        digest = hashlib.sha256()
        for file in group:
            digest.update(os.fsencode(file.name))  # it may not be valid Unicode
            digest.update(f"\0{file.size}\0{file.version}\0".encode())
        groups[f"{without_home(folder.resolve().as_uri())}#{digest.hexdigest()[:16]}"] = group
    return groups
