"""Recorded challenge batches, served again in the order of their numbers."""

import base64
import binascii
import itertools
import random
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from simgan_captcha.errors import UsageError

MAX_BATCH_BYTES = 64 << 20
"""Larger batch files are refused."""


class _Image(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    name: str
    jpg_base64: str


class _Batch(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    images: list[_Image]


class Recording:
    """A folder of batch files, each as a challenge server answered it.

    Holds the names in memory, never the images. After the last batch the first comes again.

    Raises:
        UsageError: The folder cannot be read, is empty, or a file in it is not a challenge batch.
    """

    def __init__(self, folder: Path) -> None:
        """Read every file once: a recording that is damaged is refused before anybody asks."""
        try:
            files = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
        except OSError as error:
            raise UsageError(
                f"expected a folder of challenge batches, cannot list {folder} ({error.strerror}); "
                "give another --replay"
            ) from None
        if not files:
            raise UsageError(
                f"expected a folder of challenge batches, {folder} holds no file; "
                "give another --replay"
            )
        self._files = sorted(files, key=_natural_order)
        self._file_of: dict[str, Path] = {}
        for path in self._files:
            self._file_of.update(dict.fromkeys((image.name for image in _read(path).images), path))
        self._names = tuple(self._file_of)
        self._turns = itertools.count()

    def next_batch(self) -> bytes:
        """The next batch file, byte for byte; one turn for all users together."""
        return self._files[next(self._turns) % len(self._files)].read_bytes()

    def random_name(self) -> str:
        """The name of one recorded image."""
        return random.choice(self._names)

    def jpeg(self, name: str) -> bytes | None:
        """The recorded image, or None when no batch holds it."""
        path = self._file_of.get(name)
        if path is None:
            return None
        for image in _read(path).images:
            if image.name == name:
                try:
                    return base64.b64decode(image.jpg_base64, validate=True)
                except (binascii.Error, ValueError):
                    return None
        return None


def _natural_order(path: Path) -> tuple[list[int], str]:
    """challenge-2 before challenge-10."""
    return [int(number) for number in re.findall(r"\d{1,18}", path.name)], path.name


def _read(path: Path) -> _Batch:
    """Raises UsageError unless the file is a batch that holds an image."""
    try:
        size = path.stat().st_size
        if size > MAX_BATCH_BYTES:
            raise UsageError(
                f"expected batch files of at most {MAX_BATCH_BYTES} bytes, {path} has {size}; "
                "remove it from the --replay folder"
            )
        batch = _Batch.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the batch {path} ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise UsageError(
            f'expected a batch {{"images": [{{"name", "jpg_base64"}}, ...]}}, {path} is none '
            f"({first['msg']}); remove it from the --replay folder"
        ) from None
    if not batch.images:
        raise UsageError(
            f"expected a batch with images, {path} has none; remove it from the --replay folder"
        )
    return batch
