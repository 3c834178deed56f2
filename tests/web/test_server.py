"""``simgan-captcha serve``, started and stopped like a person would."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from simgan_captcha.serving import connection
from simgan_captcha.serving.listening import listen
from simgan_captcha.web.server import answered_hosts
from tests.web.serving import PATIENCE_SECONDS, asking, serving
from tests.web.test_run_status import events

COMMAND = [sys.executable, "-m", "simgan_captcha", "serve"]


@contextmanager
def started(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and the address that it prints."""
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        try:
            yield server, server.stdout.readline().strip()
        finally:
            server.kill()


def test_it_serves_on_loopback_and_stops_with_followers(made: Path) -> None:
    with started(made, "--port", "0") as (server, address):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
        with (
            asking(address) as client,
            client.stream("GET", "/api/run/events") as reply,
        ):
            told = events(reply)  # kept, because the stream ends with its reader
            assert next(told)["finished"] is True
            # Following a run does not load what only reading needs.
            loaded = Path(f"/proc/{server.pid}/maps")
            assert not loaded.exists() or "libtorch" not in loaded.read_text()
            server.send_signal(signal.SIGINT)
            _, messages = server.communicate(timeout=PATIENCE_SECONDS)
    assert server.returncode == 0
    # uvicorn would report an interrupted answer.
    assert messages == ""


def test_other_machines_are_a_warning_and_their_names_are_stated(made: Path) -> None:
    arguments = ["--port", "0", "--host", "0.0.0.0", "--allow-host", "captchas.example"]
    with started(made, *arguments) as (server, address):
        port = httpx.URL(address).port
        for host, status in (("captchas.example", 200), ("evil.example", 421)):
            with asking(f"http://127.0.0.1:{port}") as client:
                assert client.get("/api/run", headers={"Host": host}).status_code == status
        server.terminate()
        _, messages = server.communicate(timeout=PATIENCE_SECONDS)
    assert messages.count("\n") == 1
    assert messages.startswith("warning: ")
    assert "no password" in messages


def test_hosts_are_stated_on_loopback_and_where_the_user_states_them() -> None:
    with listen("127.0.0.1", 0) as here, listen("0.0.0.0", 0) as everywhere:
        assert answered_hosts(here, ["a.example"]) == {
            "a.example",
            "localhost",
            "127.0.0.1",
            "::1",
        }
        assert answered_hosts(everywhere, []) is None
        assert answered_hosts(everywhere, ["a.example"]) == {
            *(answered_hosts(here, ["a.example"]) or ()),
            "0.0.0.0",
        }


@pytest.mark.skipif(
    sys.platform != "linux", reason="only 127.0.0.1 is loopback at once elsewhere; run on Linux"
)
def test_an_address_of_loopback_that_was_asked_for_is_answered() -> None:
    with listen("127.0.0.2", 0) as listener:
        assert "127.0.0.2" in (answered_hosts(listener, []) or ())


def refused(*arguments: str | Path) -> str:
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_invalid_arguments_give_one_line(tmp_path: Path, made: Path) -> None:
    assert "start one with simgan-captcha run" in refused(tmp_path / "missing")
    (tmp_path / "run.json").write_text("{")
    assert "damaged" in refused(tmp_path)
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert "give another --host or --port" in refused(made, "--port", str(port))


def test_addresses_in_the_pages_are_relative(client: httpx.Client) -> None:
    """A proxy can therefore serve them under another path."""
    scripts = [f"/static/{name}.js" for name in ("ask", "job", "read", "review", "run")]
    for path in ("/", "/run", "/review", "/report.css", "/static/page.css", *scripts):
        reply = client.get(path)
        assert reply.status_code == 200
        assert re.findall(r"""["'`(=]/\w[^"'`)]*""", reply.text) == []


def test_an_internal_failure_is_a_problem_without_a_traceback(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("simgan_captcha.web.app.run_status", fail)
    reply = client.get("/api/run")
    assert reply.status_code == 500
    assert reply.headers["content-type"] == "application/problem+json"
    assert "secret" not in json.dumps(reply.json())


@pytest.mark.parametrize(
    ("sent", "status", "detail"),
    [
        (b"no HTTP at all\r\n\r\n", 400, "expected an HTTP/1.1 request"),
        (b"GET / HTTP/1.1\r\nX: ", 408, "expected the request's head within 1 s"),
    ],
)
def test_an_invalid_request_is_a_problem(
    made: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes, status: int, detail: str
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 1.0 if status == 408 else 600.0)
    with serving(made) as address:
        url = httpx.URL(address)
        with socket.create_connection((url.host, url.port or 80), timeout=PATIENCE_SECONDS) as held:
            held.sendall(sent)
            head, _, body = held.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in head
    told = json.loads(body)
    assert told["status"] == status
    assert told["detail"].startswith(detail)
