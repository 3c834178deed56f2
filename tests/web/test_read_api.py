import base64
import io
import json
import shutil
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from simgan_captcha.data.background import Background, without_background
from simgan_captcha.data.images import decode_grey, decode_rgb, encode_png
from simgan_captcha.generalist.reader import GeneralistReader
from simgan_captcha.pipeline.run import load_run_reader
from simgan_captcha.pipeline.run_folder import BACKGROUND
from simgan_captcha.recognizer.decode import read_images
from simgan_captcha.web import guard
from simgan_captcha.web.app import MAX_FILES
from tests.drawing import encode_jpeg
from tests.small_run import SCHEME
from tests.web.serving import PATIENCE_SECONDS, asking, serving

Files = list[tuple[str, tuple[str, bytes]]]


def files(*named: tuple[str, bytes]) -> Files:
    return [("files", each) for each in named]


def a_problem(response: httpx.Response, status: int, *parts: str) -> dict[str, Any]:
    """Check that the answer is a problem with this status and these words."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    said: dict[str, Any] = response.json()
    assert said["status"] == status
    assert said["title"]
    for part in parts:
        assert part in said["detail"]
    assert "Traceback" not in response.text
    return said


def claiming(width: int, height: int) -> bytes:
    """A PNG with a false size in its header."""
    about = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = (b"IHDR" + about, b"IDAT" + zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def test_readings_are_those_of_the_recognizer(
    client: httpx.Client, made: Path, captchas: dict[str, bytes]
) -> None:
    some = list(captchas.items())[:5]
    reader, background, config = load_run_reader(made)
    pixels = np.stack([decode_grey(data) for _, data in some])
    names = [name for name, _ in some]
    expected = list(read_images(reader, background, config.scheme, names, pixels))

    reply = client.post("/api/read", files=files(*some))
    assert reply.status_code == 200
    readings = reply.json()["readings"]
    assert [reading["name"] for reading in readings] == names
    for got, reading in zip(readings, expected, strict=True):
        assert got["text"] == reading.text
        assert got["confidence"] == pytest.approx(reading.confidence)
        assert got["character_confidence"] == pytest.approx(list(reading.character_confidence))
        assert "heat" not in got


def test_a_png_of_the_same_pixels_is_read_the_same(
    client: httpx.Client, captchas: dict[str, bytes]
) -> None:
    jpeg = next(iter(captchas.values()))
    png = encode_png(decode_grey(jpeg))
    one, other = client.post("/api/read", files=files(("a", jpeg), ("b", png))).json()["readings"]
    # The place in a batch may change the last bit.
    assert one["character_confidence"] == pytest.approx(other["character_confidence"], rel=1e-5)


def test_explained_readings_come_with_pictures_of_the_images_size(
    client: httpx.Client, captchas: dict[str, bytes]
) -> None:
    some = files(*list(captchas.items())[:2])
    for reading in client.post("/api/read?explain=true", files=some).json()["readings"]:
        assert len(reading["heat"]) == SCHEME.max_length
        drawn = []
        for uri in [reading["input"], *reading["heat"]]:
            kind, _, encoded = uri.partition(",")
            assert kind == "data:image/png;base64"
            with Image.open(io.BytesIO(base64.b64decode(encoded, validate=True))) as picture:
                assert (picture.mode, picture.size) == ("RGB", (SCHEME.width, SCHEME.height))
                drawn.append(np.asarray(picture, np.int64))
        # Lines that hide ink are blue, and the overlay is orange.
        blue = drawn[0][..., 2] > drawn[0][..., 0]
        assert 0 < blue.sum() < 200
        assert all((heat != drawn[0]).any() for heat in drawn[1:])


def test_invalid_images_are_reported_in_their_place(
    client: httpx.Client, captchas: dict[str, bytes]
) -> None:
    good = next(iter(captchas.values()))
    wrong = {
        "text.txt": (b"hello", "expected an image"),
        "empty.png": (b"", "expected an image"),
        "gif.gif": (b"GIF89a" + bytes(50), "damaged GIF"),
        "cut.jpg": (good[: len(good) // 2], "damaged"),
        "other.jpg": (encode_jpeg(np.zeros((50, 100), np.uint8), 90), "got 100x50"),
        "bomb.png": (claiming(100_000, 100_000), "100000x100000"),
        "../../../etc/passwd": (b"\0" * 100, "expected an image"),
        "<img src=x onerror=alert(1)>\u202e🙂": (b"\xff\xd8\xff", "damaged"),
    }
    given = [("first", good), *((name, data) for name, (data, _) in wrong.items()), ("last", good)]
    reply = client.post("/api/read", files=files(*given))
    assert reply.status_code == 200
    first, *refused, last = reply.json()["readings"]
    assert (first["name"], last["name"]) == ("first", "last")
    assert first["text"] == last["text"]
    for (name, (_, reason)), answer in zip(wrong.items(), refused, strict=True):
        assert answer.keys() == {"name", "error"}
        assert answer["name"] == name
        assert reason in answer["error"]


def test_only_invalid_images_are_a_problem(client: httpx.Client) -> None:
    said = a_problem(
        client.post("/api/read", files=files(("a.txt", b"a"), ("b.txt", b"b"))),
        422,
        "expected an image",
    )
    assert [error["name"] for error in said["errors"]] == ["a.txt", "b.txt"]


def test_a_client_s_file_names_touch_no_disk(
    run: Path, captchas: dict[str, bytes], tmp_path: Path
) -> None:
    names = ["../planted", "/tmp/planted", str(tmp_path / "planted"), "x" * 3_000]
    before = sorted(tmp_path.rglob("*"))
    with serving(run) as address, asking(address) as client:
        given = files(*((name, next(iter(captchas.values()))) for name in names))
        reply = client.post("/api/read?explain=true", files=given)
        assert reply.status_code == 200
        assert max(len(each["name"]) for each in reply.json()["readings"]) == 200
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/planted").exists()


def test_requests_without_images_are_problems(client: httpx.Client) -> None:
    a_problem(client.post("/api/read"), 422, "files")
    a_problem(client.post("/api/read", data={"files": "text"}), 422, "files")
    a_problem(client.post("/api/read", json={"files": []}), 422, "files")
    for kind, content in (("form-data", b"--x\r\n"), ("form-data; boundary=x", b"nonsense")):
        headers = {"Content-Type": f"multipart/{kind}"}
        a_problem(client.post("/api/read", content=content, headers=headers), 400)
    a_problem(client.get("/api/read"), 405)
    a_problem(client.get("/nowhere"), 404)


def test_more_files_than_the_limit_are_a_problem(client: httpx.Client) -> None:
    many = files(*((str(n), b"x") for n in range(MAX_FILES + 1)))
    a_problem(client.post("/api/read", files=many), 400, str(MAX_FILES))


def test_a_body_over_the_limit_is_a_problem_declared_or_not(client: httpx.Client) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'

    def endless() -> Iterator[bytes]:
        yield head
        for _ in range(guard.MAX_BODY_BYTES // 65536):
            yield b" " * 65536

    for content in (head + b" " * guard.MAX_BODY_BYTES, endless()):
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        reply = client.post("/api/read", content=content, headers=headers)
        a_problem(reply, 413, str(guard.MAX_BODY_BYTES))
    reply = client.put(
        f"/api/corrections/{'0' * 64}",
        content=b" " * (guard.MAX_BODY_BYTES + 1),
        headers={"Content-Type": "application/json"},
    )
    a_problem(reply, 413, str(guard.MAX_BODY_BYTES))


def test_a_slow_body_is_aborted(
    address: str, monkeypatch: pytest.MonkeyPatch, captchas: dict[str, bytes]
) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.5)
    with dripping(address) as connection:
        reply = connection.recv(65536)
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in reply


def test_too_many_concurrent_bodies_are_asked_to_retry(
    address: str, client: httpx.Client, monkeypatch: pytest.MonkeyPatch, captchas: dict[str, bytes]
) -> None:
    monkeypatch.setattr(guard, "MAX_BODIES", 1)
    image = files(next(iter(captchas.items())))
    with dripping(address):
        # After answers to later requests, the server has read the first one. Without this wait,
        # the image could be first, and the slow request would have to retry.
        for _ in range(10):
            assert client.get("/api/run").status_code == 200
        busy = client.post("/api/read", files=image)
        a_problem(busy, 503, "try again")
        assert busy.headers["retry-after"] == "1"
        assert client.get("/api/run").status_code == 200
    assert wait_for(client, image, 200).json()["readings"]


def dripping(address: str) -> socket.socket:
    """A connection with an incomplete body that does not continue."""
    url = httpx.URL(address)
    connection = socket.create_connection((url.host, url.port), PATIENCE_SECONDS)
    connection.sendall(
        b"POST /api/read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    )
    return connection


def wait_for(client: httpx.Client, image: Files, status: int) -> httpx.Response:
    """Wait for this status, because the server notices closed connections with a delay."""
    for _ in range(200):
        reply = client.post("/api/read", files=image)
        if reply.status_code == status:
            break
        time.sleep(0.05)
    return reply


@settings(max_examples=60)
@given(name=st.text(max_size=50), data=st.binary(max_size=400))
def test_files_never_cause_a_server_error(client: httpx.Client, name: str, data: bytes) -> None:
    a_problem(client.post("/api/read?explain=1", files=files((name or "x", data))), 422)


# Starlette lets Python close the file of an incomplete form.
@pytest.mark.filterwarnings("ignore:Unclosed file <tempfile.SpooledTemporaryFile:ResourceWarning")
@settings(max_examples=100)
@example(b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n\xff\xd8\xff')
@given(
    body=st.lists(
        st.sampled_from(
            [
                b"--x\r\n",
                b"--x--\r\n",
                b'Content-Disposition: form-data; name="files"; filename="a"\r\n',
                b'Content-Disposition: form-data; name="files"\r\n',
                b"Content-Disposition: \xff\r\n",
                b"\r\n",
                b"\xff\xd8\xff",
                b"\0",
                b"filename*=utf-8''%ff\"",
            ]
        )
        | st.binary(max_size=20),
        max_size=12,
    ).map(b"".join)
)
def test_forms_never_cause_a_server_error(client: httpx.Client, body: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    reply = client.post("/api/read", content=body, headers=headers)
    assert reply.status_code in (400, 422), reply.text
    a_problem(reply, reply.status_code)


def test_many_clients_at_once(client: httpx.Client, captchas: dict[str, bytes]) -> None:
    some = list(captchas.items())[:12]

    def read(named: tuple[str, bytes]) -> str:
        reply = client.post("/api/read?explain=1", files=files(named))
        name: str = reply.json()["readings"][0]["name"]
        return name

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(read, some)) == [name for name, _ in some]


def test_the_generalist_reads_until_the_run_is_finished(
    run: Path, captchas: dict[str, bytes]
) -> None:
    name, data = next(iter(captchas.items()))
    image = files((name, data))

    def reads(client: httpx.Client, reader: str) -> dict[str, Any]:
        answer: dict[str, Any] = client.post("/api/read?explain=1", files=image).json()
        (reading,) = answer["readings"]
        assert reading["reader"] == reader
        assert ("heat" in reading) == ("input" in reading) == (reader == "run")
        assert ("before learning" in client.get("/").text) == (reader == "generalist")
        return dict(reading)

    shutil.move(run / "readings", run / "later")
    with serving(run) as address, asking(address) as client:
        reading = reads(client, "generalist")
        cleared = without_background([decode_rgb(data)], Background.load(run / BACKGROUND))
        expected = GeneralistReader(SCHEME.alphabet, SCHEME.length).read(cleared[0])
        assert reading["name"] == name
        assert reading["text"] == expected.text
        assert reading["character_confidence"] == pytest.approx(expected.character_confidence)
        # A wrong size is refused as by the run's own recognizer.
        large = files(("large.jpg", encode_jpeg(np.zeros((50, 100), np.uint8), 90)))
        a_problem(client.post("/api/read", files=large), 422, "48x24", "got 100x50")
        shutil.move(run / "later", run / "readings")
        reads(client, "run")
        recorded = (run / "run.json").read_text()
        changed = {**json.loads(recorded), "seed": 99}  # another run of the stage has started
        (run / "run.json").write_text(json.dumps(changed))
        reads(client, "generalist")
        (run / "run.json").write_text(recorded)
        reads(client, "run")
        (run / "readings" / "diagnosis.json").write_text("{")
        a_problem(client.post("/api/read", files=image), 503, "damaged")


def test_before_the_background_is_known_the_generalist_reads_the_image_itself(
    run: Path, captchas: dict[str, bytes]
) -> None:
    shutil.rmtree(run / "readings")
    shutil.rmtree(run / "background")
    name, data = next(iter(captchas.items()))
    with serving(run) as address, asking(address) as client:
        (reading,) = client.post("/api/read", files=files((name, data))).json()["readings"]
    expected = GeneralistReader(SCHEME.alphabet, SCHEME.length).read(data)
    assert reading["text"] == expected.text
    assert reading["confidence"] == pytest.approx(expected.confidence)


def test_texts_that_the_generalist_cannot_read_wait_for_the_run(
    run: Path, captchas: dict[str, bytes]
) -> None:
    shutil.rmtree(run / "readings")
    recorded = json.loads((run / "run.json").read_text())
    recorded["scheme"]["alphabet"] = "абв1"
    (run / "run.json").write_text(json.dumps(recorded))
    with serving(run) as address, asking(address) as client:
        reply = client.post("/api/read", files=files(next(iter(captchas.items()))))
        a_problem(reply, 503, "expected a finished run; until then the generalist reads")
        assert "No reader yet" in client.get("/").text


def test_the_alphabet_of_a_run_cannot_be_replaced(
    client: httpx.Client, captchas: dict[str, bytes]
) -> None:
    image = files(next(iter(captchas.items())))
    for query in ("alphabet=abc", "min_length=2", "max_length=9"):
        a_problem(client.post(f"/api/read?{query}", files=image), 422, "those of the run apply")


def test_without_a_run_the_generalist_reads_within_what_is_asked(
    captchas: dict[str, bytes],
) -> None:
    name, data = next(iter(captchas.items()))
    wrong = ("a.txt", b"no image")
    with serving(None) as address, asking(address) as client:
        first, refused = client.post("/api/read", files=files((name, data), wrong)).json()[
            "readings"
        ]
        assert (first["reader"], first["text"]) == (
            "generalist",
            GeneralistReader().read(data).text,
        )
        assert "expected an image" in refused["error"]
        query = "alphabet=0123456789&min_length=3"
        (reading,) = client.post(f"/api/read?{query}", files=files((name, data))).json()["readings"]
        assert set(reading["text"]) <= set("0123456789")
        assert len(reading["text"]) >= 3
        for query, reason in (
            ("alphabet=aab", "different characters"),
            ("min_length=5&max_length=3", "expected a length"),
            ("min_length=33", "min_length"),
        ):
            a_problem(client.post(f"/api/read?{query}", files=files((name, data))), 422, reason)
        many = files(*((str(number), claiming(2000, 1500)) for number in range(2)))
        errors = a_problem(client.post("/api/read", files=many), 422)["errors"]
        assert "in one request" in errors[1]["error"]
        # There is a page to read, and none of a run.
        assert "started without a run" in client.get("/").text
        assert client.get("/run").status_code == 404
        assert client.get("/api/run").status_code == 404


def test_openapi_describes_requests_and_responses(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    assert described["paths"].keys() == {
        "/api/read",
        "/api/run",
        "/api/run/events",
        "/api/run/sheets/{step}",
        "/api/captchas/{key}",
        "/api/corrections/{key}",
        "/api/corrections.csv",
        "/api/teaching",
        "/api/export",
        "/api/reader.onnx",
    }
    read = described["paths"]["/api/read"]["post"]
    assert list(read["requestBody"]["content"]) == ["multipart/form-data"]
    assert {"200", "413", "422"} <= read["responses"].keys()
    for methods in described["paths"].values():
        for method in methods.values():
            for status, response in method["responses"].items():
                if not status.startswith("2"):
                    assert list(response["content"]) == ["application/problem+json"]
    assert "text/event-stream" in json.dumps(described["paths"]["/api/run/events"])
