"""HTTP connections with time limits for slow clients.

uvicorn limits the time that a connection may be idle. This module also limits the time to receive a
request head and the time until the client reads a response. The handlers limit the time for a body.
"""

import asyncio
import json
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0
"""Time limit for a complete request head."""
UNREAD_SECONDS = 60.0
"""Time limit for the client to read what was sent."""
PROBLEM_TYPE = "application/problem+json"


STOP_SECONDS = 5
"""Time for requests in progress to finish when the server stops."""


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with time limits, and refusals in JSON."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start waiting for a request."""
        super().connection_made(transport)
        # pause_writing is then called for any waiting byte, resume_writing when none is left.
        transport.set_write_buffer_limits(high=0)
        self._unread: asyncio.TimerHandle | None = None
        self._head = self.loop.call_later(HEAD_SECONDS, self._give_up_on_head)

    def data_received(self, data: bytes) -> None:
        """Receive bytes from the client."""
        super().data_received(data)
        if self._request_in_progress():
            self._head.cancel()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if not self._request_in_progress():
            self._head.cancel()
            self._head = self.loop.call_later(HEAD_SECONDS, self._give_up_on_head)

    def pause_writing(self) -> None:
        """Start the time limit for unread bytes."""
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Cancel the time limit: the client has read everything."""
        super().resume_writing()
        self._forget_unread()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all time limits of the connection."""
        self._head.cancel()
        self._forget_unread()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse an invalid request, or one with too large a head."""
        self._refuse(400, "expected an HTTP/1.1 request with a head of at most 64 KiB")

    def _request_in_progress(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _forget_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _give_up_on_head(self) -> None:
        begun, _ = self.conn.trailing_data
        if self.conn.our_state is h11.IDLE and begun:
            self._refuse(408, f"expected the request's head within {HEAD_SECONDS:.0f} s")
        else:
            self.transport.close()  # unread bytes are limited by UNREAD_SECONDS

    def refusal(self, status: int, detail: str) -> tuple[str, dict[str, object]]:
        """Media type and JSON object of an error response, as problem details (RFC 9457)."""
        title = HTTPStatus(status).phrase
        return PROBLEM_TYPE, {"title": title, "status": status, "detail": detail}

    def _refuse(self, status: int, detail: str) -> None:
        media_type, problem = self.refusal(status, detail)
        body = json.dumps(problem).encode()
        headers = [
            ("Content-Type", media_type),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        for event in (
            h11.Response(status_code=status, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def server_config(app: Any, protocol: type[PatientProtocol], **more: Any) -> uvicorn.Config:
    """uvicorn settings of our servers: HTTP only, with time limits and without an access log.

    Args:
        app: The ASGI application, or a function that creates it.
        protocol: Protocol of the connections.
        more: Further uvicorn settings.
    """
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
        **more,
    )
