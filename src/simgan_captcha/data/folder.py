"""A folder of loose images, taken in by groups of a thousand, as batches are."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from simgan_captcha.data.batch import checked_name, storable
from simgan_captcha.data.foreground import check_scheme_image
from simgan_captcha.data.images import MAX_BYTES, SUFFIXES
from simgan_captcha.data.store import Captcha, RejectedCaptcha
from simgan_captcha.errors import BatchError, ImageError
from simgan_captcha.scheme import Scheme
from simgan_captcha.shown import without_home

GROUP = 1000
"""Images that are stored together."""


def is_image_file(path: Path) -> bool:
    """Whether it is named like an image, and not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def image_groups(folder: Path, files: Sequence[Path]) -> dict[str, tuple[Path, ...]]:
    """Files of a folder by groups, each under a source of its own.

    The source holds names, sizes and times: a file that is added or changed makes another group of
    those that it stands with, and what of them is stored already counts as duplicate.
    """
    groups = {}
    for start in range(0, len(files), GROUP):
        group = tuple(files[start : start + GROUP])
        digest = hashlib.sha256()
        for path in group:
            about = path.stat()
            digest.update(os.fsencode(path.name))  # which need not be Unicode
            digest.update(f"\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
        groups[f"{without_home(folder.resolve().as_uri())}#{digest.hexdigest()[:16]}"] = group
    return groups


def unpack_images(
    files: Sequence[Path], scheme: Scheme
) -> tuple[list[Captcha], list[RejectedCaptcha]]:
    """Check every image, named as its file: the good ones, and the others with their reasons."""
    captchas: list[Captcha] = []
    rejected: list[RejectedCaptcha] = []
    for path in files:
        data = b""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
            name = checked_name(path.name)
            check_scheme_image(data, scheme)
            captchas.append(Captcha(name, data))
        except (OSError, BatchError, ImageError) as error:
            rejected.append(RejectedCaptcha(storable(path.name), str(error), data))
    return captchas, rejected
