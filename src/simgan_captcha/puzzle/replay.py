"""Recorded challenge batches, served again in the order of their numbers."""

import base64
import binascii
import itertools
import multiprocessing
import random
import re
from collections.abc import Callable
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

    def __init__(self, folder: Path, next_turn: Callable[[], int] | None = None) -> None:
        """Read every file once: a recording that is damaged is refused before anybody asks.

        Args:
            folder: Where the batch files are.
            next_turn: Gives 0, 1, 2, ..., one a call; worker processes that serve one recording
                need `SharedTurns`. None for a count of its own.
        """
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
        self._next_turn = next_turn or itertools.count().__next__

    def next_batch(self) -> Path:
        """The next batch file; one turn for all users together.

        Raises:
            UsageError: It is not there any more.
        """
        path = self._files[self._next_turn() % len(self._files)]
        if not path.is_file():
            raise UsageError(f"cannot find the batch {path} any more; put it back")
        return path

    def random_name(self) -> str:
        """The name of one recorded image."""
        return random.choice(self._names)

    def jpeg(self, name: str) -> bytes | None:
        """The recorded image, or None when no batch holds it.

        Raises:
            UsageError: Its batch cannot be read any more.
        """
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


class SharedTurns:
    """Counts 0, 1, 2, ... over all worker processes it is handed to."""

    def __init__(self) -> None:
        self._next = multiprocessing.get_context("spawn").Value("Q", 0)

    def __call__(self) -> int:
        """The next number, whichever process asks."""
        with self._next.get_lock():
            turn: int = self._next.value
            self._next.value += 1
        return turn


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
