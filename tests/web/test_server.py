"""``simgan-captcha serve`` as a person starts and stops it."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from simgan_captcha.listening import listen
from tests.web.test_run_status import events

COMMAND = [sys.executable, "-m", "simgan_captcha", "serve"]


@contextmanager
def started(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and the address that it says it listens on."""
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


def test_it_serves_on_loopback_and_stops_at_once_though_somebody_follows(made: Path) -> None:
    with started(made, "--port", "0") as (server, address):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
        with (
            httpx.Client(base_url=address, timeout=30) as client,
            client.stream("GET", "/api/run/events") as reply,
        ):
            told = events(reply)  # kept, for a stream ends with who reads it
            assert next(told)["finished"] is True
            # Nothing that only reading needs is loaded for looking on.
            loaded = Path(f"/proc/{server.pid}/maps")
            assert not loaded.exists() or "libtorch" not in loaded.read_text()
            began = time.monotonic()
            server.send_signal(signal.SIGINT)
            _, messages = server.communicate(timeout=60)
            assert time.monotonic() - began < 4
    assert server.returncode == 0
    assert messages == ""


def test_other_machines_are_a_warning_and_their_names_are_stated(made: Path) -> None:
    arguments = ["--port", "0", "--host", "0.0.0.0", "--allow-host", "captchas.example"]
    with started(made, *arguments) as (server, address):
        port = httpx.URL(address).port
        for host, status in (("captchas.example", 200), ("evil.example", 421)):
            reply = httpx.get(f"http://127.0.0.1:{port}/api/run", headers={"Host": host})
            assert reply.status_code == status
        server.terminate()
        _, messages = server.communicate(timeout=60)
    assert messages.count("\n") == 1
    assert messages.startswith("warning: ")
    assert "no password" in messages


def refused(*arguments: str | Path) -> str:
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_what_cannot_be_served_is_one_line(tmp_path: Path, made: Path) -> None:
    assert "start one with simgan-captcha run" in refused(tmp_path / "missing")
    (tmp_path / "run.json").write_text("{")
    assert "damaged" in refused(tmp_path)
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert "give another --host or --port" in refused(made, "--port", str(port))


def test_a_failure_of_ours_is_a_problem_without_a_traceback(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("simgan_captcha.web.app.run_status", fail)
    reply = client.get("/api/run")
    assert reply.status_code == 500
    assert reply.headers["content-type"] == "application/problem+json"
    assert "secret" not in json.dumps(reply.json())
