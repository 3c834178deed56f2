"""Submits readings to a puzzle server. It uses the protocol but not the answer rule."""

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
from simgan_captcha.puzzle import MOST_SOLUTIONS

REPLY_SECONDS = 120.0
"""Timeout for a complete reply."""
SILENCE_SECONDS = 60.0
"""Timeout for a server that sends nothing."""
MAX_REPLY_BYTES = 1 << 20


class Reading(Protocol):
    """The reading of one image."""

    @property
    def name(self) -> str:
        """Name of the image in the challenge."""

    @property
    def text(self) -> str:
        """Text of the reading."""

    @property
    def confidence(self) -> float:
        """Confidence, 0 to 1."""


@dataclass(frozen=True)
class Verdict:
    """The puzzle server's answer to a submission."""

    passed: bool
    submitted: int
    """Number of submitted readings."""
    passcode: str | None
    message: str
    """Message of the server as one printable line."""
    reply: dict[str, Any]
    """JSON object of the server, unchanged."""


def submit(base_url: str, user: str, readings: Sequence[Reading]) -> Verdict:
    """Submit the 15,000 readings with the highest confidence.

    Readings of the same confidence are sorted by name. Must not be called from a running asyncio
    loop.

    Args:
        base_url: Address of the server, such as ``http://127.0.0.1:8000``, or of the user's puzzle,
            such as ``http://127.0.0.1:8000/u/marty/``.
        user: User of the puzzle.
        readings: Any number of readings.

    Raises:
        UsageError: There are no readings or no user, or the URL is invalid or of another user.
        SubmissionError: There is no connection, no reply in time, or the reply is not a verdict.
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
    best = sorted(readings, key=lambda reading: (-reading.confidence, reading.name))[
        :MOST_SOLUTIONS
    ]
    body = json.dumps({"solutions": [{"name": r.name, "solution": r.text} for r in best]})
    url = f"{server}/u/{quote(user, safe='')}/solution"
    status, content = asyncio.run(_post(url, body.encode()))
    return _verdict(without_password(url), status, content, submitted=len(best))


async def _post(url: str, body: bytes) -> tuple[int, bytes]:
    """Status and body of the reply."""
    shown = without_password(url)
    headers = {
        "User-Agent": f"simgan-captcha/{__version__}",
        "Content-Type": "application/json",
        # A compressed reply could be a thousand times larger than the bytes that the limit counts.
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
            f"expected a reply from {shown} within {REPLY_SECONDS:g} s, got an "
            "incomplete one; try again"
        ) from None
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise UsageError(
            f"expected the URL of a puzzle server, http://HOST:PORT, got {shown!r} ({error})"
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
    # A verdict has exactly one of the two, as text.
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
    """Untrusted text for a terminal, without control characters and at most 300 characters long."""
    return "".join(c if c.isprintable() else " " for c in str(said))[:300].strip()
