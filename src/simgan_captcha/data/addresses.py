"""Addresses of puzzle servers, as ``http://127.0.0.1:8000/u/marty/challenge``."""

import re
from urllib.parse import unquote


def without_password(url: str) -> str:
    """The address as it may be shown and recorded."""
    return re.sub(r"^([^:/]+://)[^/?#]*@", r"\1", url)


def is_url(location: str) -> bool:
    """Whether a location is meant for HTTP, rightly written or not, and no folder."""
    return "://" in location or re.match(r"https?:", location, re.IGNORECASE) is not None


def server_and_user(url: str) -> tuple[str, str | None]:
    """The server's own address, without a slash at its end, and the user that the address names.

    Both the server's address and that of one of a user's pages are understood.

    Examples:
        >>> server_and_user("http://127.0.0.1:8000/")
        ('http://127.0.0.1:8000', None)
        >>> server_and_user("https://school.example/puzzle/u/a%20b/challenge")
        ('https://school.example/puzzle', 'a b')
    """
    page = re.fullmatch(r"(.+?)/u/([^/?#{}]+)(?:/(?:challenge|solution)?)?", url)
    if page is None:
        return url.rstrip("/"), None
    return page[1], unquote(page[2])


LOOPBACK_DIRECT: dict[str, None] = dict.fromkeys(
    f"all://{host}" for host in ("127.0.0.1", "localhost", "[::1]")
)
"""A proxy of the environment cannot reach this machine's loopback.
For the ``mounts`` of an httpx client."""
