"""The puzzle server in its own process, with small limits for tests."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

PATIENCE = 300.0
"""Seconds within which anything is done, on a machine however busy."""

SCRIPT = """
from simgan_captcha.serving import connection
from simgan_captcha.puzzle import app, server, submission
{limits}
server.serve({options})
"""


class ServedPuzzle:
    """A running server.

    Attributes:
        url: Address of the server.
        process: The parent process; stderr is a pipe.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        self.process = process
        self.url = process.stdout.readline().strip()
        assert self.url, process.communicate()[1]

    def get(self, path: str = "/") -> httpx.Response:
        """The answer to one request on its own connection."""
        return httpx.get(self.url + path, timeout=PATIENCE, trust_env=False)

    def connect(self) -> socket.socket:
        """Open a raw connection, for requests that no HTTP client sends."""
        address = httpx.URL(self.url)
        return socket.create_connection((address.host, address.port or 80), timeout=PATIENCE)

    def peak_memory(self) -> int:
        """Peak memory of the process in MiB."""
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.exists():
            pytest.skip("no /proc that shows the memory of a process; run on Linux")
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        assert found is not None
        return int(found[1]) // 1024

    def stop(self, how: int, *, whole_group: bool = False) -> str:
        """Send a signal, and return stderr until the end.

        Args:
            how: The signal.
            whole_group: Whether all processes of the server get it, as with Ctrl-C in a terminal.
        """
        if whole_group:
            os.killpg(self.process.pid, how)
        else:
            self.process.send_signal(how)
        return self.process.communicate(timeout=PATIENCE)[1]


@contextlib.contextmanager
def served_puzzle(*limits: str, options: str = "") -> Iterator[ServedPuzzle]:
    """Serve with changed limits, as ``submission.BODY_SECONDS = 1``, until the block ends.

    Args:
        limits: Assignments to constants of the modules app, connection, server, submission.
        options: Arguments of `server.serve`.
    """
    code = SCRIPT.format(limits="\n".join(limits), options=options)
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        try:
            yield ServedPuzzle(process)
        finally:
            process.terminate()


def answer_of(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the next answer."""
    with connection.makefile("rb") as reader:
        status = int(reader.readline().split()[1])
        headers = {}
        while line := reader.readline().strip().lower():
            name, _, value = line.partition(b": ")
            headers[name] = value
        assert headers[b"content-type"] == b"application/json"
        return status, json.loads(reader.read(int(headers[b"content-length"])))
