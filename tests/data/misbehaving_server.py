"""A real HTTP server on loopback that misbehaves as told, path by path."""

import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

Behaviour = Callable[[BaseHTTPRequestHandler], None]


def answer(
    body: bytes, status: int = 200, content_type: str = "application/json", **headers: str
) -> Behaviour:
    """A whole answer; header names are written with underscores."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return behave


def reset_in_body(body: bytes) -> Behaviour:
    """Half the promised body, then a TCP reset."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2])
        handler.wfile.flush()
        linger = struct.pack("ii", 1, 0)  # close() then sends RST instead of FIN
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.connection.close()

    return behave


def endless_body(piece: bytes, pause: float = 0.0) -> Behaviour:
    """A body without length or end, sent piece by piece with ``pause`` seconds between."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(piece)
            time.sleep(pause)

    return behave


def endless_headers(pause: float) -> Behaviour:
    """Header lines without end, one every ``pause`` seconds."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            handler.wfile.write(b"X: y\r\n")
            time.sleep(pause)

    return behave


def late(pause: float, then: Behaviour) -> Behaviour:
    """Silence of ``pause`` seconds, then another behaviour."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(pause)
        then(handler)

    return behave


class MisbehavingServer:
    """Serves each path by its script, one behaviour a request; the last one repeats.

    Attributes:
        requests: Requests seen so far, by path.
        moments: When each came, seconds on the monotonic clock, by path.
        user_agents: Every User-Agent seen.
    """

    def __init__(self) -> None:
        self.scripts: dict[str, list[Behaviour]] = {}
        self.requests: Counter[str] = Counter()
        self.moments: dict[str, list[float]] = {}
        self.user_agents: set[str] = set()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.close_connection = True
                behave = outer._next(self.path, self.headers.get("User-Agent", ""))
                with contextlib.suppress(OSError):  # the client has hung up, as it should
                    behave(self)

            def finish(self) -> None:
                if self.connection.fileno() != -1:
                    super().finish()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 64

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # connections cut on purpose are not news

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def script(self, path: str, *behaviours: Behaviour) -> None:
        self.scripts[path] = list(behaviours)

    def __enter__(self) -> "MisbehavingServer":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _next(self, path: str, user_agent: str) -> Behaviour:
        with self._lock:
            self.user_agents.add(user_agent)
            self.moments.setdefault(path, []).append(time.monotonic())
            script = self.scripts.get(path, [answer(b"no such page", 404, "text/plain")])
            behave = script[min(self.requests[path], len(script) - 1)]
            self.requests[path] += 1
            return behave
