"""The web server of the pages."""

import contextlib
import socket
from collections.abc import Callable, Collection
from pathlib import Path

import uvicorn

from simgan_captcha.serving.connection import PatientProtocol, server_config
from simgan_captcha.serving.listening import is_loopback, listen, url_of
from simgan_captcha.web.app import create_app
from simgan_captcha.web.guard import LOOPBACK_HOSTS
from simgan_captcha.web.jobs.learning import NewRun


def serve(
    run: Path | None,
    *,
    new: NewRun | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    allow_hosts: Collection[str] = (),
    announce: Callable[[str], None] = print,
    warn: Callable[[str], None] = print,
) -> None:
    """Serve the pages until Ctrl-C or SIGTERM.

    Args:
        run: Folder of the run. Another process may still be working on it. None to read with the
            generalist only.
        new: A folder of images that the run learns from; then the run need not exist.
        host: Address to listen on; by default, only this machine can connect.
        port: TCP port; 0 for a free one.
        allow_hosts: Further accepted host names, such as that of a proxy. On loopback, only these
            and the names of this machine are accepted. On other addresses, all names are accepted
            if this is empty.
        announce: Called once with the URL, when the server accepts connections.
        warn: Called with a warning if other machines can connect.

    Raises:
        RunError: There is no run in the folder.
        UsageError: The server cannot listen on the address.
    """
    with listen(host, port) as listener:
        if not is_loopback(listener):
            warn(
                f"{url_of(listener)} is open to other machines and has no password: everyone who "
                "reaches it can read images, correct readings, start a lesson and, on a folder of "
                "images, a run; see docs/serve.md"
            )
        server = build_server(run, answered_hosts(listener, allow_hosts), new)
        announce(url_of(listener))
        # Ctrl-C is the normal way to stop the server.
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def answered_hosts(listener: socket.socket, allow_hosts: Collection[str]) -> set[str] | None:
    """Names and addresses that a request's Host may have; None for any.

    Args:
        listener: Socket of the server.
        allow_hosts: Further names from the user.
    """
    if not is_loopback(listener) and not allow_hosts:
        return None
    return {*allow_hosts, *LOOPBACK_HOSTS, listener.getsockname()[0]}


def build_server(
    run: Path | None, hosts: Collection[str] | None, new: NewRun | None = None
) -> uvicorn.Server:
    """The application under uvicorn, not yet running.

    Args:
        run: The run's folder, see `serve`.
        hosts: Names that a request's Host may have; None for any.
        new: See `serve`.

    Raises:
        RunError: There is no run in the folder.
    """
    server = uvicorn.Server(
        server_config(
            # Event streams end when the server stops.
            create_app(run, new=new, hosts=hosts, stopping=lambda: server.should_exit),
            PatientProtocol,
        )
    )
    return server
