"""Listening sockets of the servers."""

import ipaddress
import socket

from simgan_captcha.errors import UsageError

_CONNECTIONS_WAITING = 128


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket. Connections wait until the application has started.

    Args:
        host: Address or name to listen on.
        port: TCP port; 0 for a free one.

    Raises:
        UsageError: The port is invalid, or the address cannot be used.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"expected a port from 0 to 65535, got {port}; give another --port")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=_CONNECTIONS_WAITING)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"cannot listen on {host} port {port} ({error}); give another --host or --port"
        ) from None
    # Connections inherit this option. Otherwise small replies wait 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url_of(listener: socket.socket) -> str:
    """``http://address:port`` of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can connect."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback
