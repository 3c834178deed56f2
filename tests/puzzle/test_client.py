import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest

from simgan_captcha import __version__
from simgan_captcha.errors import SubmissionError, UsageError
from simgan_captcha.puzzle import client
from simgan_captcha.puzzle.answers import answer
from simgan_captcha.puzzle.client import Verdict, submit
from simgan_captcha.puzzle.server import running_puzzle


@dataclass(frozen=True)
class Reading:
    name: str
    text: str
    confidence: float


@pytest.fixture(scope="module")
def puzzle_url() -> Iterator[str]:
    with running_puzzle(users=["marty", "a b&č"], batch_size=1) as url:
        yield url


def right(user: str, count: int, confidence: float) -> list[Reading]:
    return [Reading(f"right{i}", answer(user, f"right{i}"), confidence) for i in range(count)]


def wrong(count: int, confidence: float) -> list[Reading]:
    return [Reading(f"wrong{i}", "????", confidence) for i in range(count)]


def test_ten_thousand_right_readings_pass(puzzle_url: str) -> None:
    verdict = submit(puzzle_url + "/", "a b&č", right("a b&č", 10_000, 0.9))
    assert verdict.passed
    assert verdict.submitted == 10_000
    assert verdict.passcode == verdict.reply["passcode"]
    assert verdict.message == verdict.reply["message"]


def test_too_few_right_readings_are_a_verdict_too(puzzle_url: str) -> None:
    assert submit(puzzle_url, "marty", wrong(2, 0.5)) == Verdict(
        passed=False,
        submitted=2,
        passcode=None,
        message=(
            "Too few correct solutions: None of your solutions was correct; 10,000 are needed."
        ),
        reply={
            "error": "Too few correct solutions",
            "message": "None of your solutions was correct; 10,000 are needed.",
        },
    )


def test_the_15000_most_confident_are_sent(puzzle_url: str) -> None:
    readings = wrong(9_000, 0.2) + right("marty", 10_000, 0.9) + wrong(1, 0.1)
    verdict = submit(puzzle_url, "marty", readings)
    assert (verdict.passed, verdict.submitted) == (True, 15_000)
    unsure = wrong(15_000, 0.9) + right("marty", 10_000, 0.2)
    assert not submit(puzzle_url, "marty", unsure).passed


def test_an_unknown_user_is_a_clear_error(puzzle_url: str) -> None:
    with pytest.raises(SubmissionError, match=r"got 404 \(no puzzle for this user\); check the"):
        submit(puzzle_url, "biff", wrong(1, 0.5))


def test_a_refused_connection_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        port = closed_soon.getsockname()[1]
    with pytest.raises(SubmissionError, match="is the puzzle server running there"):
        submit(f"http://127.0.0.1:{port}", "marty", wrong(1, 0.5))


@pytest.mark.parametrize(
    "url", ["ftp://localhost", "localhost:80", "http://", "http://a:b:c", "\x00"]
)
def test_an_invalid_url_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="expected the URL of a puzzle server"):
        submit(url, "marty", wrong(1, 0.5))


def test_no_readings_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="got 0 readings"):
        submit("http://127.0.0.1:1", "marty", [])
    with pytest.raises(UsageError, match="user ''"):
        submit("http://127.0.0.1:1", "", wrong(1, 0.5))


@contextmanager
def misbehaving_server(
    reply: Callable[[socket.socket], None], requests: list[bytes] | None = None
) -> Iterator[str]:
    """A server that reads one request and its small body, then answers with ``reply``."""

    def run() -> None:
        connection, _ = listener.accept()
        with connection:
            received = b""
            while b"]}" not in received:
                received += connection.recv(65536)
            if requests is not None:
                requests.append(received)
            with suppress(OSError):  # The client hangs up on an endless reply, as it should.
                reply(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def whole(status: str, body: bytes, *headers: str) -> Callable[[socket.socket], None]:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""])
    return lambda connection: connection.sendall(head.encode() + body)


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b" " * 65536)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (whole("200 OK", b"<html>hello</html>"), "'<html>hello</html>'; is it a puzzle server"),
        (whole("200 OK", b""), "got ''"),
        (whole("200 OK", b"[]"), "is it a puzzle server"),
        (whole("200 OK", b"[" * 100_000), "is it a puzzle server"),
        (whole("200 OK", b"{}"), "is it a puzzle server"),
        (whole("200 OK", b'{"passcode": 7}'), "is it a puzzle server"),
        (whole("200 OK", b'{"passcode": "a", "error": "b"}'), "is it a puzzle server"),
        (whole("200 OK", b"\xff\x1b[2J"), "is it a puzzle server"),
        (whole("500 Oops", b"Internal"), r"got 500 \(no reason given\)"),
        (whole("400 Bad", b'{"error": "x\\u001b[2Jy"}'), r"got 400 \(x \[2Jy\)"),
        (whole("302 Found", b"", "Location: http://127.0.0.1:1/"), "got 302"),
        (whole("200 OK", b"junk", "Content-Encoding: gzip"), "is it a puzzle server"),
        (lambda connection: connection.sendall(b"SSH-2.0-OpenSSH\r\n"), "expected a reply from"),
        (lambda connection: None, "expected a reply from"),
        (
            lambda connection: connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"
            ),
            "expected a reply from",
        ),
        (endless, "expected at most 1048576 bytes of reply"),
    ],
)
def test_a_reply_that_is_no_verdict_is_a_clear_error(
    reply: Callable[[socket.socket], None], message: str
) -> None:
    with misbehaving_server(reply) as url, pytest.raises(SubmissionError, match=message) as caught:
        submit(url, "marty", wrong(1, 0.5))
    assert str(caught.value).isprintable()


def drip(connection: socket.socket) -> None:
    while True:
        connection.sendall(b" ")
        time.sleep(0.05)


def dripping_body(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    drip(connection)


def dripping_head(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: y")
    drip(connection)


@pytest.mark.parametrize("reply", [dripping_body, dripping_head])
def test_a_slow_reply_is_aborted(
    reply: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "REPLY_SECONDS", 2.0)
    expected = "expected a reply from .* within 2 s, got an incomplete one; try again"
    with misbehaving_server(reply) as url, pytest.raises(SubmissionError, match=expected):
        submit(url, "marty", wrong(1, 0.5))


def test_the_client_identifies_itself() -> None:
    requests: list[bytes] = []
    with misbehaving_server(whole("200 OK", b'{"error": "no"}'), requests) as url:
        assert not submit(url, "marty", wrong(1, 0.5)).passed
    assert f"user-agent: simgan-captcha/{__version__}\r\n".encode() in requests[0].lower()


def test_loopback_ignores_the_proxy_of_the_environment(
    puzzle_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    assert not submit(puzzle_url, "marty", wrong(1, 0.5)).passed


def test_the_client_does_not_know_the_answers() -> None:
    code = (
        "import sys, simgan_captcha.puzzle.client;"
        "assert 'simgan_captcha.puzzle.answers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
