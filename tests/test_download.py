"""Challenge batches over real HTTP and from real files, from servers that mean well and others."""

import base64
import dataclasses
import io
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from simgan_captcha import HACKMIT_2017, SimganCaptchaError, __version__
from simgan_captcha.download import (
    MAX_REASONS,
    DownloadSettings,
    IngestReport,
    ingest,
    parse_batch,
    unpack_batch,
)
from simgan_captcha.errors import BatchError, DownloadError, StoreError, UsageError
from simgan_captcha.images import encode_jpeg
from simgan_captcha.store import CaptchaStore
from tests.misbehaving_server import (
    Behaviour,
    MisbehavingServer,
    answer,
    endless_body,
    endless_headers,
    late,
    reset_in_body,
)

QUICK = DownloadSettings(
    attempts=3,
    backoff_seconds=0.01,
    max_wait_seconds=0.5,
    silence_seconds=5,
    request_seconds=10,
    max_batch_bytes=1_000_000,
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


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer() as running:
        yield running


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


def test_loopback_is_reached_past_a_proxy_of_the_environment(
    server: MisbehavingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    server.script("/challenge-0", answer(body(batch(0))))
    assert fetch(server, tmp_path).images_stored == 3


# Where batches come from


@pytest.mark.parametrize("location", ["", "/", "/u/{user}/challenge", "/u/some%20one/challenge"])
def test_server_that_answers_fresh_batches(
    server: MisbehavingServer, tmp_path: Path, location: str
) -> None:
    path = "/u/some%20one/challenge"
    server.script(path, *(answer(body(batch(k))) for k in range(4)))
    seen: list[tuple[int, int, int]] = []

    def run() -> IngestReport:
        return ingest(
            server.url + location,
            tmp_path,
            scheme=HACKMIT_2017,
            user="some one",
            batches=4,
            settings=QUICK,
            on_progress=lambda *figures: seen.append(figures),
        )

    report = run()
    assert_adds_up(report)
    assert (report.batches_stored, report.images_stored, report.duplicates) == (4, 12, 0)
    assert seen == [(0, 4, 0), (1, 4, 3), (2, 4, 6), (3, 4, 9), (4, 4, 12)]
    assert server.user_agents == {f"simgan-captcha/{__version__}"}
    assert CaptchaStore(tmp_path).image("2-1") == jpeg(2001)

    again = run()
    assert server.requests[path] == 4, "what is there is not fetched again"
    assert (again.batches_skipped, again.images_stored) == (4, 12)


def test_template_counts_from_zero(server: MisbehavingServer, tmp_path: Path) -> None:
    for n in range(3):
        server.script(f"/rickyhan/challenge-{n}", answer(body(batch(n)), content_type="text/plain"))
    report = fetch(server, tmp_path, location="/{user}/challenge-{n}", batches=3)
    assert (report.batches_stored, report.images_stored) == (3, 9)
    assert set(server.requests.values()) == {1}


def test_no_more_requests_at_once_than_told(server: MisbehavingServer, tmp_path: Path) -> None:
    lock, waiting, most = threading.Lock(), 0, 0

    def behave(handler: BaseHTTPRequestHandler) -> None:
        nonlocal waiting, most
        with lock:
            waiting += 1
            most = max(most, waiting)
        time.sleep(0.1)
        with lock:
            waiting -= 1
        answer(body(batch(0)))(handler)

    for n in range(6):
        server.script(f"/challenge-{n}", behave)
    fetch(server, tmp_path, batches=6, settings=QUICK.model_copy(update={"concurrency": 2}))
    assert most == 2


def test_password_is_used_but_never_kept(server: MisbehavingServer, tmp_path: Path) -> None:
    server.script("/challenge-0", answer(body(batch(0))))
    server.script("/challenge-1", answer(b"", 404))
    report = ingest(
        server.url.replace("://", "://me:secret@") + "/challenge-{n}",
        tmp_path,
        scheme=HACKMIT_2017,
        user="",
        batches=2,
        settings=QUICK,
    )
    assert report.images_stored == 3
    assert "secret" not in str(report)
    assert not any(b"secret" in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("location", "user", "message"),
    [
        ("ftp://host/challenge", "me", "expected http"),
        ("http://", "me", "expected http"),
        ("http:host", "me", "expected http"),
        ("http://host:port/", "me", r"expected an http\(s\) URL"),
        ("http://host/challenge-3", "me", r"written .../challenge-\{n\}"),
        ("http://host", "", "expected a user"),
        ("http://host/u/{user}/challenge", "", "expected a user"),
    ],
)
def test_address_that_cannot_be(tmp_path: Path, location: str, user: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ingest(location, tmp_path, scheme=HACKMIT_2017, user=user)


def ingest_folder(folder: Path, store: Path, batches: int | None = None) -> IngestReport:
    report = ingest(folder, store, scheme=HACKMIT_2017, user="", batches=batches, settings=QUICK)
    assert_adds_up(report)
    return report


def test_folder_in_natural_order_others_ignored(tmp_path: Path) -> None:
    folder = tmp_path / "batches"
    folder.mkdir()
    for n in (0, 1, 2, 10):
        (folder / f"challenge-{n}").write_bytes(body(batch(n)))
    (folder / "more.json").write_bytes(body(batch(11)))
    for name in ("README.md", "challenge-3.png", ".challenge-4", "notes"):
        (folder / name).write_bytes(body(batch(99)))
    (folder / "challenge-5").mkdir()

    first = ingest_folder(folder, tmp_path / "store", batches=3)
    assert first.files_ignored == 5
    assert sorted(CaptchaStore(tmp_path / "store").in_content_order().names) == [
        f"{n}-{i}" for n in (0, 1, 2) for i in range(3)
    ]
    rest = ingest_folder(folder, tmp_path / "store")
    assert (rest.batches_skipped, rest.batches_stored, rest.images_stored) == (3, 2, 15)


def test_folder_without_batches_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not there"):
        ingest_folder(tmp_path / "nowhere", tmp_path / "store")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match="is a file"):
        ingest_folder(tmp_path / "notes.txt", tmp_path / "store")
    with pytest.raises(UsageError, match=r"expected files named challenge-\* .* none of 1 entries"):
        ingest_folder(tmp_path, tmp_path / "store")
    with pytest.raises(UsageError, match="at least 1 batch"):
        ingest_folder(tmp_path, tmp_path / "store", batches=0)
    assert not (tmp_path / "store").exists()


def test_bad_file_is_set_aside_and_tried_again(tmp_path: Path) -> None:
    folder, store = tmp_path / "batches", tmp_path / "store"
    folder.mkdir()
    whole = body(batch(1))
    (folder / "challenge-0").write_bytes(body(batch(0)))
    (folder / "challenge-1").write_bytes(whole[: len(whole) // 2])
    (folder / "challenge-2").write_bytes(b" " * (QUICK.max_batch_bytes + 1))
    report = ingest_folder(folder, store)
    assert (report.batches_stored, report.batches_failed, report.images_stored) == (1, 2, 3)
    assert "challenge-1: expected the JSON of a batch" in report.failures[0]
    assert "challenge-2: expected at most 1000000 bytes" in report.failures[1]
    (folder / "challenge-1").write_bytes(whole)
    mended = ingest_folder(folder, store)
    assert (mended.batches_skipped, mended.batches_stored, mended.images_stored) == (1, 1, 6)


def test_real_batches(tmp_path: Path, real_batches: Path) -> None:
    store = tmp_path / "store"
    patient = DownloadSettings()
    report = ingest(real_batches, store, scheme=HACKMIT_2017, user="", batches=2, settings=patient)
    assert_adds_up(report)
    assert (report.images_expected, report.images_stored, report.quarantined) == (2000, 2000, 0)
    first = json.loads((real_batches / "challenge-0").read_bytes())["images"][0]
    assert CaptchaStore(store).image(first["name"]) == base64.b64decode(first["jpg_base64"])


# Servers that do not do as they should


GOOD = answer(body(batch(0)))
HTML = answer(b"<!DOCTYPE html><title>Welcome</title>", content_type="text/html")


@pytest.mark.parametrize(
    "first",
    [
        answer(b"oops", 500),
        answer(b"", 503, Retry_After="soon"),
        answer(b"", 408),
        answer(b"", 429, Retry_After="0"),
        reset_in_body(body(batch(0))),
        answer(body(batch(0))[:-20]),
        HTML,
        answer(b'{"images": []}'),
        endless_body(b" ", pause=0.1),
        endless_headers(pause=0.1),
        late(5, GOOD),
    ],
    ids=[
        "500",
        "503",
        "408",
        "429",
        "reset in the body",
        "truncated JSON",
        "HTML with 200",
        "no images",
        "slow drip of body",
        "slow drip of headers",
        "silence",
    ],
)
def test_passing_trouble_is_retried(
    server: MisbehavingServer, tmp_path: Path, first: Behaviour
) -> None:
    server.script("/challenge-0", first, GOOD)
    hasty = QUICK.model_copy(update={"silence_seconds": 1, "request_seconds": 1.5})
    started = time.monotonic()
    report = fetch(server, tmp_path, settings=hasty)
    assert (report.images_stored, report.batches_failed) == (3, 0)
    assert server.requests["/challenge-0"] == 2
    assert time.monotonic() - started < 5
    assert CaptchaStore(tmp_path).reasons() == {}


@pytest.mark.parametrize(
    ("asked", "cap", "least"),
    [("1", 2.0, 0.95), ("Fri, 31 Dec 2999 23:59:59 GMT", 0.5, 0.45), ("9" * 400, 0.5, 0.45)],
    ids=["seconds", "date", "ages"],
)
def test_retry_after_is_honoured_up_to_the_cap(
    server: MisbehavingServer, tmp_path: Path, asked: str, cap: float, least: float
) -> None:
    server.script("/challenge-0", answer(b"", 429, Retry_After=asked), GOOD)
    fetch(server, tmp_path, settings=QUICK.model_copy(update={"max_wait_seconds": cap}))
    first, second = server.moments["/challenge-0"]
    assert least < second - first < 10, "the backoff alone would wait about 0.01 s"


@pytest.mark.parametrize(
    ("behaviour", "requests", "reason"),
    [
        (answer(b"", 404), 1, "expected status 200, got 404; correct the URL"),
        (answer(b"", 403), 1, "got 403"),
        (answer(b"", 204), 1, "got 204"),
        (answer(b"", 500), 3, "got 500; run again later"),
        (HTML, 3, "content type 'text/html'"),
        (answer(body(batch(1))[:-2]), 3, "expected the JSON of a batch"),
        (answer(b"[1, 2]"), 3, 'without a list of "images"'),
        (answer(b'{"images": {"name": "x"}}'), 3, 'without a list of "images"'),
        (answer(b"[" * 100_000), 3, "expected the JSON of a batch"),
        (answer(b"\xff\xfe\x00"), 3, "expected the JSON of a batch"),
        (answer(body(batch(1)), Content_Encoding="gzip"), 1, "not compressed"),
        (endless_body(b" " * 65536), 1, "expected at most 1000000 bytes"),
        (reset_in_body(body(batch(1))), 3, "the connection failed"),
    ],
    ids=[
        "404",
        "403",
        "204",
        "500",
        "HTML with 200",
        "truncated JSON",
        "other JSON",
        "other images",
        "deep JSON",
        "not text",
        "compressed",
        "endless body",
        "reset in the body",
    ],
)
def test_lasting_trouble_is_set_aside_and_not_fatal(
    server: MisbehavingServer, tmp_path: Path, behaviour: Behaviour, requests: int, reason: str
) -> None:
    server.script("/challenge-0", GOOD)
    server.script("/challenge-1", behaviour)
    report = fetch(server, tmp_path, batches=2)
    assert (report.batches_stored, report.batches_failed, report.images_stored) == (1, 1, 3)
    assert f"{server.url}/challenge-1: " in report.failures[0]
    assert reason in report.failures[0]
    assert server.requests["/challenge-1"] == requests

    server.script("/challenge-1", answer(body(batch(1))))
    mended = fetch(server, tmp_path, batches=2)
    assert (mended.batches_skipped, mended.batches_stored, mended.images_stored) == (1, 1, 6)
    assert server.requests["/challenge-0"] == 1


def test_redirects_stay_on_the_host(server: MisbehavingServer, tmp_path: Path) -> None:
    server.script("/challenge-0", answer(b"", 302, Location="/moved"))
    server.script("/moved", answer(b"", 307, Location=server.url + "/again"))
    server.script("/again", GOOD)
    server.script("/challenge-1", answer(b"", 302, Location="/challenge-1"))
    with MisbehavingServer() as stranger:
        stranger.script("/trap", answer(body(batch(9))))
        server.script("/challenge-2", answer(b"", 301, Location=stranger.url + "/trap"))
        server.script("/challenge-3", answer(b"", 301, Location="http://localhost:1/trap"))
        report = fetch(server, tmp_path, batches=4)
        assert not stranger.requests
    assert (report.batches_stored, report.batches_failed) == (1, 3)
    assert "at most 5 redirects" in report.failures[0]
    assert server.requests["/challenge-1"] == 6
    assert "got a redirect to http://127.0.0.1" in report.failures[1]
    assert "got a redirect to http://localhost:1/trap" in report.failures[2]


def test_nothing_at_all_is_an_error(server: MisbehavingServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"got none out of 2 batches; .* got 404"):
        fetch(server, tmp_path, batches=2)


def test_server_that_is_not_there(tmp_path: Path) -> None:
    with MisbehavingServer() as gone:
        url = gone.url
    with pytest.raises(DownloadError, match="the connection failed"):
        ingest(url, tmp_path, scheme=HACKMIT_2017, user="me", batches=2, settings=QUICK)


def test_disk_trouble_is_fatal_and_one_error(server: MisbehavingServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of the store")
    for n in range(4):
        server.script(f"/challenge-{n}", answer(body(batch(n))))
    with pytest.raises(StoreError, match="the disk refused"):
        fetch(server, tmp_path / "file" / "store", batches=4)


# Images that are not as they should be


BAD_IMAGES: list[tuple[Any, str]] = [
    (entry("claims 65500x65500", claiming(65500, 65500)), "at most 4000000 pixels"),
    (entry("claims 3000x3000", claiming(3000, 3000)), "at most 4000000 pixels"),
    (entry("claims 100000x100000", huge_png()), "at most 4000000 pixels"),
    (entry("other size", jpeg(1, 50, 50)), "expected an image of 100x50 pixels, got 50x50"),
    (entry("no image", b"GIF89a and so on"), "expected a JPEG or PNG"),
    (entry("empty", b""), "expected a JPEG or PNG"),
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


@pytest.mark.parametrize(("bad", "reason"), BAD_IMAGES)
def test_bad_image_is_set_aside_with_its_reason(bad: Any, reason: str) -> None:
    captchas, rejected = unpack_batch([*batch(0), bad], HACKMIT_2017)
    assert [captcha.name for captcha in captchas] == ["0-0", "0-1", "0-2"]
    assert [captcha.image for captcha in captchas] == [jpeg(0), jpeg(1), jpeg(2)]
    (one,) = rejected
    assert reason in one.reason


def test_bad_images_are_counted_and_not_fatal(server: MisbehavingServer, tmp_path: Path) -> None:
    bad = [image for image, _ in BAD_IMAGES]
    server.script("/challenge-0", answer(body([*bad, *batch(0)])))
    report = fetch(server, tmp_path)
    assert (report.images_stored, report.quarantined) == (3, len(bad))
    assert sum(report.reasons.values()) == len(bad)
    assert CaptchaStore(tmp_path).quarantined_count() == len(bad)
    assert fetch(server, tmp_path).quarantined == len(bad)


def test_hostile_names_are_labels_and_duplicates_are_resolved(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    names = ["../../x", "/etc/passwd", "nul \0", "🦄", "a" * 256, "CON", "\u202e"]
    entries = [entry(name, jpeg(i)) for i, name in enumerate(names)]
    server.script("/challenge-0", answer(body([*entries, entries[0]])))
    server.script("/challenge-1", answer(body([*entries, entry("🦄", jpeg(99)), *batch(1)])))
    one_by_one = QUICK.model_copy(update={"concurrency": 1})
    store = tmp_path / "deep" / "store"
    report = fetch(server, store, batches=2, settings=one_by_one)
    assert report.images_expected == 8 + 11
    assert (report.images_stored, report.duplicates, report.quarantined) == (10, 8, 1)
    assert CaptchaStore(store).image("🦄") == jpeg(3)
    assert list(tmp_path.iterdir()) == [tmp_path / "deep"]
    assert {path.suffix for path in store.iterdir()} == {".parquet"}
    again = fetch(server, store, batches=2, settings=one_by_one)
    assert dataclasses.replace(again, batches_skipped=0, batches_stored=2) == report


def test_wrong_scheme_is_an_error_and_can_be_mended(tmp_path: Path) -> None:
    folder = tmp_path / "batches"
    folder.mkdir()
    (folder / "challenge-0").write_bytes(body(batch(0)))
    wide = HACKMIT_2017.model_copy(update={"width": 200})
    with pytest.raises(DownloadError, match=r"none of its 3 images .* 200x50 pixels, got 100x50"):
        ingest(folder, tmp_path / "store", scheme=wide, user="")
    assert ingest_folder(folder, tmp_path / "store").images_stored == 3
    assert CaptchaStore(tmp_path / "store").quarantined_count() == 0


def test_reasons_are_not_endless(tmp_path: Path) -> None:
    folder = tmp_path / "batches"
    folder.mkdir()
    bad = [entry(f"bad {i}", b"no image %d" % i * 2) for i in range(60)]
    bad += [entry(f"size {i}", jpeg(0, 5 * i, 50)) for i in range(2, 19)]
    bad += [entry(f"size {i}", jpeg(0, 100, 5 * i)) for i in range(2, 9)]
    (folder / "challenge-0").write_bytes(body(bad + batch(0)))
    report = ingest_folder(folder, tmp_path / "store")
    assert sum(report.reasons.values()) == report.quarantined == 84
    assert len(report.reasons) == MAX_REASONS + 1


# Whatever arrives

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
names = st.sampled_from(["a", "b", "c", ""]) | st.text(max_size=5) | anything
pictures = (
    st.sampled_from([base64.b64encode(jpeg(i)).decode() for i in range(3)])
    | st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode())
    | anything
)
entries = st.fixed_dictionaries({}, optional={"name": names, "jpg_base64": pictures}) | anything
batches = (
    st.binary(max_size=60)
    | anything.map(lambda value: json.dumps(value).encode())
    | st.lists(entries, max_size=8).map(body)
)


@given(files=st.lists(batches, min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
@example(files=[body([entry("a", jpeg(0)), entry("a", jpeg(1))]), body([entry("a", jpeg(1))])])
@example(files=[b'{"images": ' + b"[" * 5000])
@example(files=[b'{"images": [1' + b"0" * 5000 + b"]}"])
def test_any_bytes_give_package_errors_or_counts_that_add_up(files: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder, store = Path(place) / "batches", Path(place) / "store"
        folder.mkdir()
        for n, data in enumerate(files):
            (folder / f"challenge-{n}").write_bytes(data)
        try:
            report = ingest_folder(folder, store)
        except SimganCaptchaError:
            assert len(CaptchaStore(store)) == 0
        else:
            assert len(CaptchaStore(store)) == report.images_stored
            assert CaptchaStore(store).quarantined_count() == report.quarantined
            again = ingest_folder(folder, store)
            assert again.images_stored == report.images_stored
            assert again.images_expected == report.images_expected


@given(data=st.binary(max_size=100))
@settings(max_examples=200, deadline=None)
def test_parse_batch_raises_batch_errors_only(data: bytes) -> None:
    with pytest.raises(BatchError, match="expected the JSON of a batch"):
        parse_batch(data)


# Interrupted runs

RUN = """
import sys
from pathlib import Path
from simgan_captcha import HACKMIT_2017
from simgan_captcha.download import DownloadSettings, ingest
ingest(sys.argv[1], Path(sys.argv[2]), scheme=HACKMIT_2017, user="", batches=8,
       settings=DownloadSettings(concurrency=2))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_run_goes_on_with_nothing_lost_or_twice(
    server: MisbehavingServer, tmp_path: Path, how: signal.Signals
) -> None:
    for n in range(8):
        good = answer(body(batch(n)))
        server.script(f"/challenge-{n}", *([late(20, good)] if n in (5, 6) else []), good)
    arguments = [sys.executable, "-c", RUN, server.url + "/challenge-{n}", str(tmp_path)]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE) as process:
        while not (server.requests["/challenge-5"] and server.requests["/challenge-6"]):
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.send_signal(how)
        process.communicate(timeout=10)
    assert process.returncode != 0
    done = len(list(tmp_path.glob("part-*")))
    assert done == 5
    before = sum(server.requests.values())

    report = fetch(server, tmp_path, batches=8)
    assert (report.batches_skipped, report.batches_stored) == (done, 8 - done)
    assert sum(server.requests.values()) == before + 8 - done
    in_order = CaptchaStore(tmp_path).in_content_order()
    assert sorted(in_order.names) == sorted(f"{n}-{i}" for n in range(8) for i in range(3))
    assert all(
        image == jpeg(int(n) * 1000 + int(i))
        for image, (n, i) in zip(
            in_order.images, (name.split("-") for name in in_order.names), strict=True
        )
    )


def test_killed_at_any_moment_while_reading_files(tmp_path: Path) -> None:
    folder, store = tmp_path / "batches", tmp_path / "store"
    folder.mkdir()
    for n in range(8):
        spoilt = [{**one, "jpg_base64": "%"} for one in batch(n + 100)]
        (folder / f"challenge-{n}").write_bytes(body(batch(n) + batch(n)[:1] + spoilt))
    generator = random.Random(5)
    arguments = [sys.executable, "-c", RUN, str(folder), str(store)]
    for _ in range(3):
        with subprocess.Popen(arguments, stderr=subprocess.PIPE) as process:
            parts = len(list(store.glob("part-*")))
            while process.poll() is None and len(list(store.glob("part-*"))) <= parts:
                time.sleep(0.001)
            time.sleep(generator.uniform(0, 0.01))
            process.kill()
            process.communicate(timeout=30)
    report = ingest_folder(folder, store)
    assert report.batches_skipped >= 3
    assert (report.images_stored, report.duplicates, report.quarantined) == (24, 8, 24)
    assert len(CaptchaStore(store)) == 24
    assert CaptchaStore(store).quarantined_count() == 24
    assert not list(store.glob(".*"))
