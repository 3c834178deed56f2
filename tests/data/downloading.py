"""Challenge batches, good and bad, and downloads of them in a hurry."""

import base64
import dataclasses
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from simgan_captcha import HACKMIT_2017
from simgan_captcha.data.ingest import IngestReport, ingest
from simgan_captcha.data.settings import DownloadSettings
from tests.data.misbehaving_server import MisbehavingServer
from tests.drawing import encode_jpeg

QUICK = DownloadSettings(
    requests_per_second=1000,
    attempts=3,
)


def jpeg(seed: int, width: int = 100, height: int = 50) -> bytes:
    grey = np.random.default_rng(seed).integers(0, 256, (height // 5, width // 5), dtype=np.uint8)
    return encode_jpeg(np.kron(grey, np.ones((5, 5), np.uint8)), 50)


def claiming(width: int, height: int) -> bytes:
    """A JPEG whose frame header claims another size; JPEG has 16 bits for each side."""
    data = bytearray(jpeg(0))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


def huge_png() -> bytes:
    """A PNG that claims 100000x100000."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def entry(name: Any, image: bytes) -> dict[str, Any]:
    return {"name": name, "jpg_base64": base64.b64encode(image).decode()}


def batch(number: int, images: int = 3) -> list[dict[str, Any]]:
    return [entry(f"{number}-{i}", jpeg(1000 * number + i)) for i in range(images)]


def body(entries: list[Any]) -> bytes:
    return json.dumps({"images": entries}).encode()


def fetch(
    server: MisbehavingServer,
    store: Path,
    *,
    location: str = "/challenge-{n}",
    batches: int = 1,
    settings: DownloadSettings = QUICK,
) -> IngestReport:
    report = ingest(
        server.url + location,
        store,
        scheme=HACKMIT_2017,
        user="rickyhan",
        batches=batches,
        settings=settings,
    )
    assert_adds_up(report)
    return report


def assert_adds_up(report: IngestReport) -> None:
    assert report.images_stored + report.duplicates + report.quarantined == report.images_expected
    assert (
        report.batches_stored + report.batches_skipped + report.batches_failed
        == report.batches_expected
    )
    assert report.batches_failed == len(report.failures)
    json.dumps(dataclasses.asdict(report))


def ingest_folder(folder: Path, store: Path, batches: int | None = None) -> IngestReport:
    report = ingest(folder, store, scheme=HACKMIT_2017, user="", batches=batches, settings=QUICK)
    assert_adds_up(report)
    return report


BAD_IMAGES: list[tuple[Any, str]] = [
    (entry("claims 65500x65500", claiming(65500, 65500)), "at most 4000000 pixels"),
    (entry("claims 3000x3000", claiming(3000, 3000)), "at most 4000000 pixels"),
    (entry("claims 100000x100000", huge_png()), "at most 4000000 pixels"),
    (entry("other size", jpeg(1, 50, 50)), "expected an image of 100x50 pixels, got 50x50"),
    (entry("no image", b"GIF89a and so on"), "damaged GIF"),
    (entry("empty", b""), "expected an image"),
    (entry("cut", jpeg(1)[:-300]), "damaged"),
    ({"name": "bad base64", "jpg_base64": "%%%"}, "expected base64"),
    ({"name": "loose base64", "jpg_base64": base64.encodebytes(jpeg(1)).decode()}, "base64"),
    ({"name": "not ASCII", "jpg_base64": "ÿ\ud800"}, "expected base64"),
    ({"name": "no image"}, 'expected text in "jpg_base64", got NoneType'),
    ({"name": "list", "jpg_base64": [1]}, 'expected text in "jpg_base64", got list'),
    ({"jpg_base64": base64.b64encode(jpeg(1)).decode()}, 'expected text in "name", got NoneType'),
    (entry(7, jpeg(1)), 'expected text in "name", got int'),
    (entry("", jpeg(1)), "expected a name of 1 to 256 characters, got 0"),
    (entry("x" * 10_000, jpeg(1)), "expected a name of 1 to 256 characters, got 10000"),
    (entry("half \ud83e", jpeg(1)), "half a surrogate pair"),
    ("a string", 'expected text in "name"'),
    (None, 'expected text in "name"'),
]
