"""Addresses of puzzle servers, as ``http://127.0.0.1:8000/u/marty/challenge``."""

import re
from urllib.parse import unquote

_SECRET = re.compile(
    r"key|token|secret|pass|pwd|^pw$|auth|sig$|signature|session|^sid$|credential|jwt|^code$",
    re.IGNORECASE,
)
"""Names of parameters whose values open something."""
_LIKE_A_SECRET = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w.~+/=-]{20,}")
HIDDEN = "***"


def without_password(url: str) -> str:
    """The address as it may be shown and recorded: no user, no password, no token.

    Values of parameters that are named as secrets, or look like one, become `HIDDEN`; a ``{n}`` in
    them stays. What follows a ``#`` is left out where there are parameters.

    Example:
        >>> without_password("http://me:pw@host/{n}?token=S&page=2")
        'http://host/{n}?token=***&page=2'
    """
    url = re.sub(r"^([^:/]+://)[^/?#]*@", r"\1", url)
    address, mark, query = url.partition("?")
    if not mark or "://" not in address:
        return url
    parts = re.split(r"([&;])", query.partition("#")[0])
    return f"{address}?{''.join(_hidden(part) for part in parts)}"


def _hidden(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    if not equals:
        return HIDDEN if _LIKE_A_SECRET.fullmatch(name) else parameter
    if not _SECRET.search(unquote(name)) and not _LIKE_A_SECRET.fullmatch(unquote(value)):
        return parameter
    return f"{name}={HIDDEN}{'{n}' if '{n}' in value else ''}"


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
