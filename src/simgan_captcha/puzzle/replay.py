"""Recorded challenge batches, replayed in the order of their numbers."""

import base64
import binascii
import itertools
import multiprocessing
import random
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from simgan_captcha.data.folder import natural_order
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
    """A folder of batch files, each a recorded response of a challenge server.

    Only the names are held in memory, not the images. After the last batch, the first one follows.

    Raises:
        UsageError: The folder cannot be read, is empty, or a file in it is not a challenge batch.
    """

    def __init__(self, folder: Path, next_turn: Callable[[], int] | None = None) -> None:
        """Read every file once, so that a damaged recording is refused at the start.

        Args:
            folder: Folder of the batch files.
            next_turn: Returns 0, 1, 2, ... in successive calls. Worker processes that share one
                recording need `SharedTurns`. None for a private counter.
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
        self._files = sorted(files, key=lambda path: natural_order(path.name))
        self._file_of: dict[str, Path] = {}
        for path in self._files:
            self._file_of.update(dict.fromkeys((image.name for image in _read(path).images), path))
        self._names = tuple(self._file_of)
        self._next_turn = next_turn or itertools.count().__next__

    def next_batch(self) -> Path:
        """The next batch file; all users share one counter.

        Raises:
            UsageError: The file no longer exists.
        """
        path = self._files[self._next_turn() % len(self._files)]
        if not path.is_file():
            raise UsageError(f"expected the batch file {path}, it no longer exists; restore it")
        return path

    def random_name(self) -> str:
        """The name of one recorded image."""
        return random.choice(self._names)

    def jpeg(self, name: str) -> bytes | None:
        """The recorded image; None if no batch contains it.

        Raises:
            UsageError: Its batch can no longer be read.
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
    """A counter 0, 1, 2, ... that worker processes share."""

    def __init__(self) -> None:
        self._next = multiprocessing.get_context("spawn").Value("Q", 0)

    def __call__(self) -> int:
        """The next number over all processes."""
        with self._next.get_lock():
            turn: int = self._next.value
            self._next.value += 1
        return turn


def _read(path: Path) -> _Batch:
    """Read a batch file.

    Raises:
        UsageError: The file is not a batch with at least one image.
    """
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
            f'expected a batch {{"images": [{{"name", "jpg_base64"}}, ...]}}, {path} is not one '
            f"({first['msg']}); remove it from the --replay folder"
        ) from None
    if not batch.images:
        raise UsageError(
            f"expected a batch with images, {path} has none; remove it from the --replay folder"
        )
    return batch
