"""Serve a run to a browser, in the foreground."""

import contextlib
import socket
from collections.abc import Callable, Collection
from pathlib import Path

import uvicorn

from simgan_captcha.serving.connection import PatientProtocol, server_config
from simgan_captcha.serving.listening import is_loopback, listen, url_of
from simgan_captcha.web.app import create_app
from simgan_captcha.web.guard import LOOPBACK_HOSTS


def serve(
    run: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    allow_hosts: Collection[str] = (),
    announce: Callable[[str], None] = print,
    warn: Callable[[str], None] = print,
) -> None:
    """Serve a run's pages until Ctrl-C or SIGTERM.

    Args:
        run: Its folder; the run may be in the making, by another process.
        host: Address to listen on; the default takes connections of this machine only.
        port: TCP port; 0 for a free one.
        allow_hosts: Further names by which the server is asked for, as a proxy's. On loopback no
            others are answered; elsewhere any are, unless some are given.
        announce: Called once with the server's URL, when it takes connections.
        warn: Called with what the user should know of the address.

    Raises:
        RunError: There is no run in the folder.
        UsageError: The address cannot be listened on.
    """
    with listen(host, port) as listener:
        if not is_loopback(listener):
            warn(
                f"{url_of(listener)} is open to other machines and has no password: whoever "
                "reaches it can read images and correct readings; see docs/serve.md"
            )
        server = build_server(run, answered_hosts(listener, allow_hosts))
        announce(url_of(listener))
        # Ctrl-C is how a person stops the server, not a failure.
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def answered_hosts(listener: socket.socket, allow_hosts: Collection[str]) -> set[str] | None:
    """Names and addresses that a request's Host may have; None for any.

    Args:
        listener: Where the server listens.
        allow_hosts: Names that the user gave.
    """
    if not is_loopback(listener) and not allow_hosts:
        return None
    return {*allow_hosts, *LOOPBACK_HOSTS, listener.getsockname()[0]}


def build_server(run: Path, hosts: Collection[str] | None) -> uvicorn.Server:
    """The application under uvicorn, not yet running.

    Args:
        run: The run's folder.
        hosts: Names that a request's Host may have; None for any.

    Raises:
        RunError: There is no run in the folder.
    """
    server = uvicorn.Server(
        server_config(
            # Endless answers end by themselves when the server is to stop.
            create_app(run, hosts=hosts, stopping=lambda: server.should_exit),
            PatientProtocol,
        )
    )
    return server
