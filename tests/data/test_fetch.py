"""Batches over real HTTP, from servers that mean well and others."""

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from simgan_captcha import HACKMIT_2017, __version__
from simgan_captcha.data import fetch as data_fetch
from simgan_captcha.data.ingest import IngestReport, ingest
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.errors import DownloadError, UsageError
from tests.data.downloading import QUICK, assert_adds_up, batch, body, fetch, jpeg
from tests.data.misbehaving_server import (
    Behaviour,
    MisbehavingServer,
    answer,
    endless_body,
    endless_headers,
    late,
    reset_in_body,
)


def test_loopback_is_reached_past_a_proxy_of_the_environment(
    server: MisbehavingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    server.script("/challenge-0", answer(body(batch(0))))
    assert fetch(server, tmp_path).images_stored == 3


# Where batches come from


@pytest.mark.parametrize(
    "location",
    ["", "/", "/u/{user}/", "/u/some%20one", "/u/{user}/challenge", "/u/some%20one/challenge"],
)
def test_a_server_with_new_batches_each_time(
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


def test_simultaneous_requests_are_limited(server: MisbehavingServer, tmp_path: Path) -> None:
    lock, waiting, most = threading.Lock(), 0, 0

    def behave(handler: BaseHTTPRequestHandler) -> None:
        nonlocal waiting, most
        with lock:
            waiting += 1
            most = max(most, waiting)
        time.sleep(0.3)
        with lock:
            waiting -= 1
        answer(body(batch(0)))(handler)

    for n in range(6):
        server.script(f"/challenge-{n}", behave)
    fetch(server, tmp_path, batches=6, settings=QUICK.model_copy(update={"concurrency": 2}))
    assert most == 2


def test_the_request_rate_is_limited(server: MisbehavingServer, tmp_path: Path) -> None:
    """By any worker, retries and redirects included."""
    for n in range(6):
        server.script(f"/challenge-{n}", answer(b"", 500), answer(b"", 302, Location=f"/moved-{n}"))
        server.script(f"/moved-{n}", answer(body(batch(n))))
    settings = QUICK.model_copy(update={"requests_per_second": 10, "concurrency": 4})
    report = fetch(server, tmp_path, batches=6, settings=settings)
    assert report.images_stored == 18
    moments = sorted(moment for path in server.moments.values() for moment in path)
    assert len(moments) == 3 * 6
    # Half of what it should be, as a busy machine delays one request and not the next.
    for first, later in zip(moments, moments[10:], strict=False):
        assert later - first > 0.5 * 10 / 10


def test_a_password_is_used_but_not_stored(server: MisbehavingServer, tmp_path: Path) -> None:
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
def test_an_invalid_address_is_refused(
    tmp_path: Path, location: str, user: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        ingest(location, tmp_path, scheme=HACKMIT_2017, user=user)


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
        late(60, GOOD),
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
def test_transient_errors_are_retried(
    server: MisbehavingServer, tmp_path: Path, first: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script("/challenge-0", first, GOOD)
    monkeypatch.setattr(data_fetch, "_SILENCE_SECONDS", 3)
    monkeypatch.setattr(data_fetch, "_REQUEST_SECONDS", 4)
    report = fetch(server, tmp_path)
    assert (report.images_stored, report.batches_failed) == (3, 0)
    assert server.requests["/challenge-0"] == 2
    assert CaptchaStore(tmp_path).reasons() == {}


@pytest.mark.parametrize(
    ("asked", "cap", "least"),
    [("1", 2.0, 0.95), ("Fri, 31 Dec 2999 23:59:59 GMT", 0.5, 0.45), ("9" * 400, 0.5, 0.45)],
    ids=["seconds", "date", "ages"],
)
def test_retry_after_is_honoured_up_to_the_cap(
    server: MisbehavingServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    cap: float,
    least: float,
) -> None:
    monkeypatch.setattr(data_fetch, "_MAX_WAIT_SECONDS", cap)
    server.script("/challenge-0", answer(b"", 429, Retry_After=asked), GOOD)
    fetch(server, tmp_path)
    first, second = server.moments["/challenge-0"]
    assert second - first > least, "the backoff alone would wait about 0.01 s"


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
        (answer(body(batch(1)), Content_Encoding="gzip"), 1, "uncompressed"),
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
def test_permanent_errors_go_to_the_quarantine_and_are_not_fatal(
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


@pytest.mark.parametrize("content_type", ["image/png", "text/html", "nonsense", ""])
def test_a_batch_under_a_wrong_content_type_is_a_batch(
    server: MisbehavingServer, tmp_path: Path, content_type: str
) -> None:
    server.script("/challenge-0", answer(body(batch(0)), content_type=content_type))
    assert fetch(server, tmp_path).images_stored == 3


def test_redirects_to_a_host_that_is_allowed_are_followed(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    with MisbehavingServer() as friend, MisbehavingServer() as stranger:
        server.script("/challenge-0", answer(b"", 302, Location=friend.url + "/there"))
        friend.script("/there", answer(b"", 302, Location=server.url + "/and-back"))
        server.script("/and-back", GOOD)
        server.script("/challenge-1", answer(b"", 302, Location=stranger.url + "/trap"))
        host = friend.url.removeprefix("http://")
        # A host alone is its usual port.
        allowing = QUICK.model_copy(update={"redirect_hosts": (host, "127.0.0.1")})
        report = fetch(server, tmp_path, batches=2, settings=allowing)
        assert not stranger.requests
        trap = stranger.url.removeprefix("http://")
    assert (report.images_stored, report.batches_failed) == (3, 1)
    assert f'--set download.redirect_hosts=["{trap}"]' in report.failures[0]


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


@pytest.mark.parametrize(
    "where",
    ["", "//", "http://", "http://[", "http://a b/", "ftp://{here}/", "file:///etc/passwd", "\x7f"],
)
def test_a_redirect_to_nowhere_is_a_failed_batch(
    server: MisbehavingServer, tmp_path: Path, where: str
) -> None:
    here = server.url.removeprefix("http://")
    server.script("/challenge-0", GOOD)
    server.script("/challenge-1", answer(b"", 302, Location=where.format(here=here)))
    report = fetch(server, tmp_path, batches=2)
    assert (report.images_stored, report.batches_failed) == (3, 1)
    assert report.failures[0].startswith(f"{server.url}/challenge-1: expected ")


def test_nothing_at_all_is_an_error(server: MisbehavingServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"got none out of 2 batches; .* got 404"):
        fetch(server, tmp_path, batches=2)


def test_an_unreachable_server_is_an_error(tmp_path: Path) -> None:
    with MisbehavingServer() as gone:
        url = gone.url
    with pytest.raises(DownloadError, match="the connection failed"):
        ingest(url, tmp_path, scheme=HACKMIT_2017, user="me", batches=2, settings=QUICK)


# Memory

MEASURED = """
import json, resource, sys
from pathlib import Path
from simgan_captcha import HACKMIT_2017
from simgan_captcha.data.ingest import ingest
from simgan_captcha.data.settings import DownloadSettings
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
report = ingest(sys.argv[1], Path(sys.argv[2]), scheme=HACKMIT_2017, user="", batches=5,
                settings=DownloadSettings(attempts=1))
print(json.dumps([report.images_stored, report.batches_failed, peak() - before]))
"""


@pytest.mark.parametrize(
    "flood",
    [
        endless_body(b" " * 65536),
        # Sixty MB that would be 1.3 GB of empty lists.
        answer(b'{"images": [' + b"[]," * 20_000_000 + b"1]}"),
    ],
    ids=["endless body", "endless values"],
)
def test_memory_stays_bounded(server: MisbehavingServer, tmp_path: Path, flood: Behaviour) -> None:
    """A real process, with the limits as they are set for everybody: four bodies of 64 MiB."""
    server.script("/challenge-0", GOOD)
    for n in range(1, 5):
        server.script(f"/challenge-{n}", flood)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, server.url + "/challenge-{n}", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    stored, failed, mebibytes = json.loads(done.stdout)
    assert (stored, failed) == (3, 4)
    assert mebibytes < 450
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1_000_000
