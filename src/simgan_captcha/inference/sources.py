"""Sources of images to read: files, folders, captcha stores and standard input."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from simgan_captcha.data.folder import Found, find_images, holds_images, holds_store, read_found
from simgan_captcha.data.kinds import HEAD, IMAGES, kind_in_words, kind_of
from simgan_captcha.data.pictures import MAX_BYTES
from simgan_captcha.errors import ImageError, UsageError
from simgan_captcha.extras import needing
from simgan_captcha.inference.reader import NamedImage, Unreadable

_LONGEST_NAME = 65_536
_BINARY = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f]")
"""Pattern of control characters that no text has. A list may hold names that are not UTF-8."""

Given = Path | NamedImage | Unreadable


def image_sources(
    places: Iterable[str],
    standard_input: BinaryIO,
    *,
    recursive: bool = False,
    left_out: Counter[str] | None = None,
) -> Iterator[Given]:
    """All images of these places, one after another.

    Args:
        places: Images; folders and zip files of images; files and folders of challenge batches;
            captcha stores; or ``-`` for standard input, which holds one image or one file name per
            line.
        standard_input: The stream for the place ``-``.
        recursive: Whether subfolders are searched.
        left_out: Receives the counts of ignored entries by kind.

    Raises:
        UsageError: A folder has no images, or standard input holds neither an image nor names.
        StoreError: A part of a store is damaged.
    """
    left_out = Counter() if left_out is None else left_out
    for place in places:
        if place == "-":
            yield from _given(standard_input)
        elif Path(place).is_dir() or holds_images(Path(place)):
            yield from _within(Path(place), recursive, left_out)
        else:
            yield Path(place)


def _given(stream: BinaryIO) -> Iterator[Given]:
    first = stream.read(HEAD)
    kind = kind_of(first)
    if kind in IMAGES:
        yield NamedImage("-", first + stream.read(MAX_BYTES))
        return
    if kind == "empty" or _BINARY.search(first):
        raise UsageError(
            f"expected an image ({', '.join(IMAGES)}), or one file name per line, from "
            f"standard input, got {'nothing' if kind == 'empty' else kind_in_words(kind)}"
        )
    first += stream.readline(_LONGEST_NAME)
    for line in chain(first.splitlines(), iter(lambda: stream.readline(_LONGEST_NAME), b"")):
        if name := os.fsdecode(line.rstrip(b"\r\n")):
            yield Path(name)


def _within(place: Path, recursive: bool, left_out: Counter[str]) -> Iterator[Given]:
    stored = False
    if holds_store(place):
        # Imports pyarrow, which single images do not need.
        with needing("label", "captcha stores"):
            from simgan_captcha.data.store import read_stored

        for name, data in read_stored(place):
            stored = True
            yield NamedImage(name, data)
    if stored:
        return
    found = find_images(place, recursive=recursive)
    left_out.update(found.left_out)
    if not any(file.member for file in found.files):
        yield from (file.path for file in found.files)  # opened later by threads
        found = Found(batches=found.batches)
    for name, image in read_found(found):
        if isinstance(image, ImageError):
            yield Unreadable(name, str(image))
        else:
            yield NamedImage(name, image)
