"""Conversion of images in any form to a folder for a run or an inspection."""

import base64
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from simgan_captcha.addresses import is_url, without_password
from simgan_captcha.atomic import write_bytes
from simgan_captcha.data.folder import holds_store
from simgan_captcha.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    OneImage = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]
    Images = str | os.PathLike[str] | Sequence[OneImage]

_BATCH = 1000
"""Number of images in a file."""


def location_of(images: "Images", run: Path) -> str:
    """Folder or address that a run can learn from. Images in other forms are written to the run."""
    if isinstance(images, (str, os.PathLike)):
        place = os.fspath(images)
        if is_url(place):
            return place
        if not holds_store(Path(place)):
            return str(Path(place).resolve())
    named = list(_named(images))
    digest = hashlib.sha256()
    for name, data in named:
        digest.update(f"{len(name)} {len(data)} {name}".encode("utf-8", "replace") + data)
    folder = run.resolve() / f"images-{digest.hexdigest()[:12]}"
    for start in range(0, len(named), _BATCH):
        batch = {
            "images": [
                {"name": name, "jpg_base64": base64.b64encode(data).decode()}
                for name, data in named[start : start + _BATCH]
            ]
        }
        write_bytes(folder / f"challenge-{start // _BATCH}", json.dumps(batch).encode())
    return str(folder)


@contextmanager
def image_folder(images: "Images") -> Iterator[Path]:
    """Provide a folder with image files."""
    if isinstance(images, (str, os.PathLike)):
        if is_url(os.fspath(images)):
            raise UsageError(
                "expected a scheme to learn from the address "
                f"{without_password(os.fspath(images))}, got none; give one, "
                "such as scheme=simgan_captcha.HACKMIT_2017"
            )
        if not holds_store(Path(images)):
            yield Path(images)
            return
    with TemporaryDirectory() as folder:
        for number, (_, data) in enumerate(_named(images)):
            suffix = ".jpg" if data.startswith(b"\xff\xd8") else ".png"
            (Path(folder) / f"{number:08d}{suffix}").write_bytes(data)
        yield Path(folder)


def _named(images: "Images") -> Iterable[tuple[str, bytes]]:
    """Names and encoded bytes of the images of a store or a list."""
    if isinstance(images, (str, os.PathLike)):
        from simgan_captcha.data.store import read_stored

        return read_stored(Path(images))
    return ((str(number), _encoded(image)) for number, image in enumerate(images))


def _encoded(image: "OneImage") -> bytes:
    import numpy as np
    from PIL import Image

    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, os.PathLike)):
        return Path(image).read_bytes()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.shape[2:] not in ((), (3,)) or image.ndim < 2:
            raise UsageError(
                "expected images (H, W) or (H, W, 3) of uint8, got an array "
                f"{image.shape} of {image.dtype}"
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise UsageError(
            "expected images as paths, bytes, Pillow images or arrays, got a "
            f"{type(image).__name__}"
        )
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
