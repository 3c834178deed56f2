"""Send readings to a puzzle server and take its verdict. Knows the protocol, not the answers."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

import httpx

from simgan_captcha._version import __version__
from simgan_captcha.addresses import LOOPBACK_DIRECT, server_and_user, without_password
from simgan_captcha.errors import SubmissionError, UsageError

MOST_SOLUTIONS = 15_000
"""What the puzzle takes in one submission."""
REPLY_SECONDS = 120.0
"""A reply that is not complete by then is given up."""
SILENCE_SECONDS = 60.0
"""A server that sends nothing for so long is given up."""
MAX_REPLY_BYTES = 1 << 20


class Reading(Protocol):
    """What a reader says of one image."""

    @property
    def name(self) -> str:
        """The image's name, as the challenge gave it."""

    @property
    def text(self) -> str:
        """What it reads."""

    @property
    def confidence(self) -> float:
        """How sure it is, from 0 to 1."""


@dataclass(frozen=True)
class Verdict:
    """The puzzle server's answer to a submission."""

    passed: bool
    submitted: int
    """Readings that were sent."""
    passcode: str | None
    message: str
    """One line, printable."""
    reply: dict[str, Any]
    """The server's JSON object, unchanged."""


def submit(base_url: str, user: str, readings: Sequence[Reading]) -> Verdict:
    """Post the 15,000 readings that are surest, equally sure ones in the order of their names.

    Must not be called from a running asyncio loop.

    Args:
        base_url: The server, as ``http://127.0.0.1:8000``, or the user's puzzle on it, as
            ``http://127.0.0.1:8000/u/marty/``.
        user: Whose puzzle it is.
        readings: Any number of them.

    Raises:
        UsageError: No readings, no user, no http(s) URL, or one that names another user.
        SubmissionError: No connection, no reply in time, or a reply that is not a verdict.
    """
    if not readings or not user:
        raise UsageError(
            f"expected readings and a user, got {len(readings)} readings and user {user!r}"
        )
    server, named = server_and_user(base_url)
    if named is not None and named != user:
        raise UsageError(
            f"expected the puzzle of {user!r}, {without_password(base_url)} is that of {named!r}; "
            f"give --user {named}, or the server's address alone, {without_password(server)}"
        )
    surest = sorted(readings, key=lambda reading: (-reading.confidence, reading.name))[
        :MOST_SOLUTIONS
    ]
    body = json.dumps({"solutions": [{"name": r.name, "solution": r.text} for r in surest]})
    url = f"{server}/u/{quote(user, safe='')}/solution"
    status, content = asyncio.run(_post(url, body.encode()))
    return _verdict(without_password(url), status, content, submitted=len(surest))


async def _post(url: str, body: bytes) -> tuple[int, bytes]:
    """Status and body of the reply."""
    shown = without_password(url)
    headers = {
        "User-Agent": f"simgan-captcha/{__version__}",
        "Content-Type": "application/json",
        # A compressed reply could be a thousand times as large as what the limit counts.
        "Accept-Encoding": "identity",
    }
    content = bytearray()
    try:
        async with (
            asyncio.timeout(REPLY_SECONDS),
            httpx.AsyncClient(timeout=SILENCE_SECONDS, mounts=LOOPBACK_DIRECT) as client,
            client.stream("POST", url, content=body, headers=headers) as response,
        ):
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > MAX_REPLY_BYTES:
                    raise SubmissionError(
                        f"expected at most {MAX_REPLY_BYTES} bytes of reply from {shown}, got "
                        "more; is it a puzzle server?"
                    )
            return response.status_code, bytes(content)
    except TimeoutError:
        raise SubmissionError(
            f"expected a reply from {shown} within {REPLY_SECONDS:g} s, got no end of it; try again"
        ) from None
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise UsageError(
            f"expected the URL of a puzzle server as http://HOST:PORT, got {shown!r} ({error})"
        ) from None
    except httpx.HTTPError as error:
        raise SubmissionError(
            f"expected a reply from {shown}, got none ({str(error) or type(error).__name__}); "
            "is the puzzle server running there?"
        ) from None


def _verdict(url: str, status: int, content: bytes, *, submitted: int) -> Verdict:
    try:
        reply = json.loads(content)
    except (ValueError, RecursionError):
        reply = None
    if status != httpx.codes.OK:
        reason = reply.get("message") or reply.get("error") if isinstance(reply, dict) else None
        raise SubmissionError(
            f"expected status 200 from {url}, got {status} "
            f"({_one_line(reason or 'no reason given')}); check the URL and the user"
        )
    passcode = reply.get("passcode") if isinstance(reply, dict) else None
    error = reply.get("error") if isinstance(reply, dict) else None
    # One of the two, and text: anything else is not the puzzle's word.
    if [isinstance(said, str) for said in (passcode, error)].count(True) != 1:
        raise SubmissionError(
            f'expected {{"message", "passcode"}} or {{"error"}} from {url}, got '
            f"{_one_line(content[:80].decode(errors='replace'))!r}; is it a puzzle server?"
        )
    said = [text for text in (error, reply.get("message")) if isinstance(text, str)]
    return Verdict(
        passed=passcode is not None,
        submitted=submitted,
        passcode=None if passcode is None else _one_line(passcode),
        message=_one_line(": ".join(said)),
        reply=reply,
    )


def _one_line(said: object) -> str:
    """Text from outside, fit for a terminal: no control characters, not endless."""
    return "".join(c if c.isprintable() else " " for c in str(said))[:300].strip()
