"""Where images to read come from: files, folders of them, captcha stores, standard input."""

import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from simgan_captcha.data.folder import is_image_file
from simgan_captcha.data.images import MAX_BYTES, SUFFIXES, begins_as_image
from simgan_captcha.data.store import read_stored
from simgan_captcha.errors import UsageError
from simgan_captcha.inference.reader import NamedImage

_HEADER = 8  # bytes that tell an image
_LONGEST_NAME = 65_536


def image_sources(places: Iterable[str], standard_input: BinaryIO) -> Iterator[Path | NamedImage]:
    """All images of these places, one after another.

    Args:
        places: Files; folders, whose .jpg, .jpeg and .png files are taken by name, but for hidden
            ones; captcha stores;
            ``-`` for an image from standard input, or for files named there, one a line.
        standard_input: Read where a place is ``-``.

    Raises:
        UsageError: A folder without any image.
        StoreError: A part of a store is damaged.
    """
    for place in places:
        if place == "-":
            yield from _given(standard_input)
        elif Path(place).is_dir():
            yield from _in_folder(Path(place))
        else:
            yield Path(place)


def _given(stream: BinaryIO) -> Iterator[Path | NamedImage]:
    first = stream.read(_HEADER)
    if begins_as_image(first):
        yield NamedImage("-", first + stream.read(MAX_BYTES))
        return
    first += stream.readline(_LONGEST_NAME)
    if not first:
        raise UsageError(
            "expected an image, or names of files, on standard input, got nothing; see what comes "
            "before the pipe"
        )
    if b"\0" in first:  # in no name: an image of another kind, or no image at all
        yield NamedImage("-", first)
        return
    for line in chain(first.splitlines(), iter(lambda: stream.readline(_LONGEST_NAME), b"")):
        name = os.fsdecode(line.rstrip(b"\r\n"))
        if "\0" in name:
            yield NamedImage(name, line)  # refused in its place
        elif name:
            yield Path(name)


def _in_folder(folder: Path) -> Iterator[Path | NamedImage]:
    found = False
    for name, data in read_stored(folder):
        found = True
        yield NamedImage(name, data)
    if found:
        return
    files = sorted(path for path in folder.iterdir() if is_image_file(path))
    yield from files
    if not files:
        raise UsageError(
            f"expected {', '.join(SUFFIXES)} files or a captcha store in {folder}, found none; "
            "name a folder that holds some"
        )
