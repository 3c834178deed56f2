"""Addresses of puzzle servers, such as ``http://127.0.0.1:8000/u/marty/challenge``."""

import re
from urllib.parse import unquote

_SECRET = re.compile(
    r"key|token|secret|pass|pwd|^pw$|auth|sig$|signature|session|^sid$|credential|jwt|^code$",
    re.IGNORECASE,
)
"""Pattern of the names of parameters with secret values."""
_LIKE_A_SECRET = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w.~+/=-]{20,}")
HIDDEN = "***"


def without_password(url: str) -> str:
    """Remove user, password and tokens from an address, so that it may be shown and recorded.

    A value becomes `HIDDEN` if the name of its parameter indicates a secret, or if the value looks
    like one. A ``{n}`` in the value is kept. If there are parameters, the part after ``#`` is
    removed.

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
    """Whether a location is meant as a URL, correct or not, and not as a folder."""
    return "://" in location or re.match(r"https?:", location, re.IGNORECASE) is not None


def server_and_user(url: str) -> tuple[str, str | None]:
    """The address of the server, without a slash at its end, and the user in an address.

    The argument is the address of the server or of a page of a user.

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
"""Value for ``mounts`` of an httpx client, so that loopback addresses bypass a configured proxy. A
proxy cannot reach the loopback of this machine."""
