"""Middleware that checks the host, origin, size and speed of requests, and sets safe headers.

A page of another site must not be able to read this server's pages through DNS rebinding, that is,
by a host name that points at this machine. It must not be able to change anything with a form or a
script either.
"""

import asyncio
from collections.abc import Collection
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simgan_captcha.web.problems import problem

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
MAX_BODY_BYTES = 16 << 20
MAX_DISCARDED_BYTES = 4 * MAX_BODY_BYTES
BODY_SECONDS = 60.0
"""A body must arrive within this time."""
MAX_BODIES = 16
"""Requests with a body at the same time; with `MAX_BODY_BYTES`, this bounds the memory."""

_READING_METHODS = {"GET", "HEAD", "OPTIONS"}
_SAFE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class RequestGuard:
    """ASGI middleware that refuses unsafe or excessive requests.

    Args:
        app: The application behind it.
        hosts: Names and addresses that a request's Host may have, without port; None for any.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self.app = app
        self.hosts = None if hosts is None else {_host_name(host) for host in hosts} - {""}
        self._bodies = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on with limits on the size and time of its body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_SAFE_HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refusal(scope["method"], headers)
        if refusal is not None:
            status, detail = refusal
            await problem(status, detail)(scope, receive, send_safely)
            return
        if scope["method"] in _READING_METHODS:
            await self.app(scope, receive, send_safely)  # these have no body
            return
        if self._bodies >= MAX_BODIES:
            busy = problem(503, "too many requests at once; try again", {"Retry-After": "1"})
            await busy(scope, receive, send_safely)
            return
        self._bodies += 1
        try:
            await self.app(scope, _limited(receive), send_safely)
        finally:
            self._bodies -= 1

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self.hosts is not None and _host_name(host) not in self.hosts:
            return 421, (
                f"expected one of the hosts {', '.join(sorted(self.hosts))}, got {host[:100]!r}; "
                "use such an address, or start the server with --allow-host NAME"
            )
        if method not in _READING_METHODS and not _from_here(headers, host):
            return 403, (
                "expected a request from this server's own pages or from a program, got one from "
                f"another site ({headers.get('origin', '')[:100]!r}); behind a proxy, pass on Host"
            )
        return None


def _host_name(host: str) -> str:
    """Host name in lower case, without port and brackets; empty if there is none."""
    if host.count(":") > 1 and not host.startswith("["):
        host = f"[{host}]"
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _from_here(headers: Headers, host: str) -> bool:
    """Whether the request comes from a page of this server, or from no browser at all.

    Scripts can set neither of the two headers.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2].lower() == host.lower()


def _limited(receive: Receive) -> Receive:
    deadline = asyncio.get_running_loop().time() + BODY_SECONDS
    received, arrived = 0, False

    async def receive_limited() -> Message:
        nonlocal received, arrived
        if arrived:  # only a disconnect can follow
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
                received += len(message.get("body", b""))
                # A client does not read the reply while it sends, so the rest is dropped first.
                while received > MAX_BODY_BYTES:
                    if received > MAX_DISCARDED_BYTES or not message.get("more_body"):
                        raise HTTPException(413, f"expected at most {MAX_BODY_BYTES} bytes of body")
                    message = await receive()
                    received += len(message.get("body", b""))
        except TimeoutError:
            raise HTTPException(408, f"expected the body within {BODY_SECONDS:.0f} s") from None
        arrived = not message.get("more_body", False)
        return message

    return receive_limited
