"""Slow, many and endless clients, and invalid HTTP: clear answers and bounded memory."""

import contextlib
import io
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from simgan_captcha.puzzle.answers import answer
from simgan_captcha.puzzle.submission import MAX_BODY_BYTES
from tests.puzzle.served_puzzle import PATIENCE, ServedPuzzle, answer_of, served_puzzle

PATIENT = tuple(
    f"{limit} = 600"
    for limit in ("connection.HEAD_SECONDS", "connection.UNREAD_SECONDS", "submission.BODY_SECONDS")
)
"""So that clients on a busy machine are not taken for slow ones."""
HEAD = b"POST /u/marty/solution HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


def ask_for_challenge(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sendall(b"GET /u/marty/challenge HTTP/1.1\r\nHost: x\r\n\r\n")


def wait_for(puzzle: ServedPuzzle, status: int) -> httpx.Response:
    """The first answer with this status."""
    deadline = time.monotonic() + PATIENCE
    while (response := puzzle.get("/u/marty/random_image")).status_code != status:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return response


def wait_until_taken_in(puzzle: ServedPuzzle) -> None:
    """Wait for ten later requests, after which the server has read everything before."""
    for _ in range(10):
        puzzle.get()


@pytest.fixture(scope="module")
def hasty_server() -> Iterator[ServedPuzzle]:
    with served_puzzle("connection.HEAD_SECONDS = 2", "submission.BODY_SECONDS = 2") as puzzle:
        yield puzzle


@pytest.fixture
def hasty(hasty_server: ServedPuzzle) -> Iterator[ServedPuzzle]:
    """A server with short timeouts; after each test, it must still serve others."""
    yield hasty_server
    assert hasty_server.get("/u/marty/random_image").status_code == 200


@pytest.fixture
def narrow() -> Iterator[ServedPuzzle]:
    """A server with memory for one large body, and for three concurrent requests."""
    limits = ("submission.MAX_BODIES_BYTES = 1_000_000", "app.MOST_REQUESTS = 3")
    with served_puzzle(*PATIENT, *limits) as puzzle:
        yield puzzle


def test_a_slow_head_is_answered_408(hasty: ServedPuzzle) -> None:
    started = time.monotonic()
    with hasty.connect() as connection:
        dripping = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                connection.sendall(b"GET / HTTP/1.1\r\n")
                while not dripping.wait(0.1):
                    connection.sendall(b"X: y\r\n")

        thread = threading.Thread(target=drip)
        thread.start()
        status, problem = answer_of(connection)
        dripping.set()
        thread.join()
        assert (status, problem["error"]) == (408, "Too slow")
        assert time.monotonic() - started > 1.9


def test_a_slow_head_after_a_whole_request_is_dropped(hasty: ServedPuzzle) -> None:
    with hasty.connect() as connection:
        connection.sendall(b"GET /u/marty/random_image HTTP/1.1\r\nHost: x\r\n\r\nGET / HT")
        reader = connection.makefile("rb")
        assert reader.readline() == b"HTTP/1.1 200 OK\r\n"
        rest = reader.read()  # to the end of the connection
        assert b"HTTP/1.1 408 " in rest


def test_silence_ends_the_connection(hasty: ServedPuzzle) -> None:
    with hasty.connect() as connection:
        assert connection.recv(1) == b""


def test_a_slow_body_is_answered_408(hasty: ServedPuzzle) -> None:
    with hasty.connect() as connection:
        connection.sendall(HEAD % 100 + b'{"solutions"')
        status, problem = answer_of(connection)
        assert status == 408
        assert problem == {"error": "Too slow", "message": "expected the body within 2 s"}


def test_unread_answers_are_aborted() -> None:
    """Each answer has 50 MB, more than the buffers of the system, so the server has to wait."""
    limits = ("connection.UNREAD_SECONDS = 5", "app.MOST_REQUESTS = 3")
    with (
        served_puzzle(*limits, options="batch_size=20_000") as puzzle,
        contextlib.ExitStack() as it,
    ):
        for _ in range(3):
            ask_for_challenge(it.enter_context(puzzle.connect()))
        wait_for(puzzle, 503)
        wait_for(puzzle, 200)


def test_bodies_beyond_the_memory_limit_are_answered_503(narrow: ServedPuzzle) -> None:
    with narrow.connect() as first, narrow.connect() as second:
        first.sendall(HEAD % 900_000 + b" " * 800_000)
        wait_until_taken_in(narrow)
        second.sendall(HEAD % 900_000 + b" " * 900_000)
        status, problem = answer_of(second)
        assert (status, problem["error"]) == (503, "Not now")
        assert "send yours again" in problem["message"]
        first.sendall(b" " * 100_000)
        assert answer_of(first)[0] == 400
    # Their memory is free again.
    with narrow.connect() as third:
        third.sendall(HEAD % 900_000 + b" " * 900_000)
        assert answer_of(third)[0] == 400


def test_more_requests_than_are_served_at_once_are_answered_503(narrow: ServedPuzzle) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            waiting = stack.enter_context(narrow.connect())
            waiting.sendall(HEAD % 100)
        refused = wait_for(narrow, 503)
    assert refused.headers["retry-after"] == "5"
    assert refused.json()["message"].startswith("too many requests at once; send the same again")
    wait_for(narrow, 200)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /u/\xff/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /" + b"x" * 70_000,
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 70_000,
        HEAD % 5 + b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ],
    ids=["text", "TLS", "not ASCII", "no host", "long target", "long header", "then nonsense"],
)
def test_invalid_http_is_answered_400(hasty: ServedPuzzle, request_bytes: bytes) -> None:
    with hasty.connect() as connection:
        connection.sendall(request_bytes)
        status, problem = answer_of(connection)
        assert status == 400
        assert problem["error"]


def test_memory_stays_bounded() -> None:
    """Bodies that expand forty times in memory, endless bodies, and unread challenges."""
    unit = b'{"a":0},'
    worst = b'{"solutions": [' + unit * ((MAX_BODY_BYTES - 100) // len(unit)) + b"1]}"

    def post(content: bytes | Iterator[bytes]) -> int:
        return httpx.post(
            f"{puzzle.url}/u/marty/solution", content=content, timeout=PATIENCE
        ).status_code

    def endless() -> Iterator[bytes]:
        for _ in range(200):
            yield b" " * (1 << 20)

    with (
        served_puzzle(*PATIENT, options="batch_size=20_000") as puzzle,
        contextlib.ExitStack() as stack,
    ):
        assert post(b"{}") == 400
        before = puzzle.peak_memory()
        for _ in range(20):
            ask_for_challenge(stack.enter_context(puzzle.connect()))
        with ThreadPoolExecutor(14) as pool:
            flood = pool.map(post, [worst] * 12)
            # The server closes the connection of an endless client before it can read the reason.
            for _ in range(2):
                with contextlib.suppress(httpx.TransportError):
                    assert pool.submit(post, endless()).result() == 413
            assert set(flood) == {400}
        # Checked concurrently, 12 bodies would take 2 GB, and 20 challenges 1 GB.
        assert puzzle.peak_memory() - before < 600
        assert puzzle.get().status_code == 200


def test_fifty_clients_at_once_meet_no_error() -> None:
    names = [f"{i:032x}" for i in range(15_000)]
    body = json.dumps(
        {"solutions": [{"name": name, "solution": answer("marty", name)} for name in names]}
    ).encode()

    # An idle connection may end while its client sends; this is no error.
    one_by_one = httpx.Limits(max_keepalive_connections=0)

    def play(number: int) -> bool:
        with httpx.Client(base_url=puzzle.url, timeout=PATIENCE, limits=one_by_one) as client:
            assert client.get("/u/marty/").status_code == 200
            assert len(client.get("/u/marty/challenge").json()["images"]) == 200
            assert client.get(f"/u/marty/image/{number}").headers["content-type"] == "image/jpeg"
            reply = client.post("/u/marty/solution", content=body)
            return "passcode" in reply.json()

    with (
        served_puzzle(*PATIENT, options="batch_size=200") as puzzle,
        ThreadPoolExecutor(50) as pool,
    ):
        assert all(pool.map(play, range(50)))
        assert puzzle.stop(signal.SIGTERM) == ""


def test_a_stop_finishes_what_is_in_progress() -> None:
    with (
        served_puzzle(
            *PATIENT, f"server.STOP_SECONDS = {PATIENCE}", options="batch_size=2000"
        ) as puzzle,
        httpx.stream("GET", f"{puzzle.url}/u/marty/challenge", timeout=PATIENCE) as response,
    ):
        pieces = response.iter_raw()
        body = io.BytesIO(next(pieces))
        puzzle.process.send_signal(signal.SIGTERM)
        body.seek(0, io.SEEK_END)
        for piece in pieces:
            body.write(piece)
        assert len(json.loads(body.getvalue())["images"]) == 2000
        _, messages = puzzle.process.communicate(timeout=PATIENCE)
        assert messages == ""
        with pytest.raises(httpx.ConnectError):
            puzzle.get()


def test_a_stop_answers_clients_that_are_too_slow() -> None:
    with (
        served_puzzle(*PATIENT, "server.STOP_SECONDS = 1") as puzzle,
        puzzle.connect() as connection,
    ):
        connection.sendall(HEAD % 100 + b'{"solutions"')
        wait_until_taken_in(puzzle)
        puzzle.process.send_signal(signal.SIGTERM)
        status, problem = answer_of(connection)
        assert (status, problem["error"]) == (503, "Not now")
        assert problem["message"].startswith("the server stops; send the same again")
        _, messages = puzzle.process.communicate(timeout=PATIENCE)
        assert "Traceback" not in messages


def test_a_stop_does_not_wait_for_unread_answers() -> None:
    with (
        served_puzzle(*PATIENT, "server.STOP_SECONDS = 1", options="batch_size=20_000") as puzzle,
        puzzle.connect() as connection,
    ):
        ask_for_challenge(connection)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
        messages = puzzle.stop(signal.SIGTERM)
        assert "timeout graceful shutdown exceeded" in messages
        assert "Traceback" not in messages
