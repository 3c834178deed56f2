"""The limit on pixels of a request, which applies before decoding."""

import io
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from simgan_captcha.inference.pixels import claimed_size
from tests.web.serving import asking, serving
from tests.web.test_read_api import a_problem, files


@pytest.fixture(scope="module")
def of_plain_captchas(
    tmp_path_factory: pytest.TempPathFactory, made: Path
) -> Iterator[httpx.Client]:
    """The run with a plain scheme, which accepts images of any size."""
    run = shutil.copytree(made, tmp_path_factory.mktemp("plain") / "run")
    recorded = json.loads((run / "run.json").read_text())
    for scheme in (recorded["scheme"], recorded["config"]["scheme"]):
        scheme["background"] = "plain"
    (run / "run.json").write_text(json.dumps(recorded))
    finished = json.loads((run / "finished.json").read_text())
    finished["config"] = recorded["config"]
    (run / "finished.json").write_text(json.dumps(finished))
    with serving(run) as address, asking(address) as client:
        yield client


def large_png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (width, height), (250, 250, 250, 255)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_request_of_too_many_pixels_is_cut_before_decoding(
    of_plain_captchas: httpx.Client, captchas: dict[str, bytes]
) -> None:
    small, large = next(iter(captchas.values())), large_png(2000, 2000)
    given = files(("small", small), *((f"{n}", large) for n in range(62)), ("last", small))
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(of_plain_captchas.post, "/api/read", files=given)
        # Other clients are served at the same time.
        beside = of_plain_captchas.post("/api/read", files=files(("beside", small)))
        assert beside.status_code == 200
        reply = asked.result()
    assert reply.elapsed.total_seconds() < 15
    first, *refused = reply.json()["readings"]
    assert "text" in first
    assert [answer["name"] for answer in refused] == [*map(str, range(62)), "last"]
    assert all("4000000 pixels in one request" in answer["error"] for answer in refused)


def test_a_single_image_may_have_all_the_pixels(of_plain_captchas: httpx.Client) -> None:
    most = files(("most", large_png(2000, 2000)))
    assert of_plain_captchas.post("/api/read", files=most).status_code == 200
    more = files(("more", large_png(2000, 2001)))
    a_problem(of_plain_captchas.post("/api/read", files=more), 422, "at most 4000000 pixels")


KINDS = ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"]


@settings(max_examples=60)
@given(width=st.integers(1, 300), height=st.integers(1, 300), kind=st.sampled_from(KINDS))
def test_the_claimed_size_is_that_of_the_image(width: int, height: int, kind: str) -> None:
    buffer = io.BytesIO()
    options = {
        "JPEG": {"progressive": True},
        "WEBP": {"lossless": True},
        "TIFF": {"big_tiff": True},
    }
    Image.new("RGB", (width, height)).save(
        buffer, kind, **(options.get(kind, {}) if width % 2 else {})
    )
    assert claimed_size(buffer.getvalue()) == (width, height)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_all_frames_of_an_animation_count(kind: str) -> None:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (30, 20), (level, 0, 0)) for level in (0, 100, 200)]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    assert claimed_size(buffer.getvalue()) == (30, 60)


BEGINNINGS = [
    *(b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"MM\0+"),
    *(b"BM" + 12 * b"\0" + b"(\0\0\0", b"RIFF\0\0\0\0WEBP", b"RIFF\0\0\0\0WEBPVP8X"),
]


@given(st.binary(max_size=60), st.sampled_from(BEGINNINGS))
def test_any_bytes_claim_some_size(data: bytes, beginning: bytes) -> None:
    assert min(claimed_size(beginning + data)) >= 0


def test_of_several_sizes_the_largest_counts() -> None:
    frames = [(10, 20), (3000, 1000), (30, 40)]
    parts = [
        b"\xff\xc0\x00\x0b\x08" + height.to_bytes(2) + width.to_bytes(2) + b"\x01\x01\x11\x00"
        for width, height in frames
    ]
    assert claimed_size(b"\xff\xd8" + b"".join(parts)) == (3000, 1000)
