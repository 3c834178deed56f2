"""Receives and checks the submissions of contestants, within limits.

Bodies are not trusted. Three limits bound the memory: on the size of one body, on the bytes of all
bodies in progress, and on the number of simultaneous checks. Parsed JSON can take forty times the
memory of its text.
"""

import asyncio
import hmac
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from fastapi import HTTPException, Request
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError
from starlette.requests import ClientDisconnect

from simgan_captcha.puzzle import MOST_SOLUTIONS
from simgan_captcha.puzzle.answers import answer

NEEDED = 10_000
"""Number of different images with a right solution that earn the passcode."""

MAX_BODY_BYTES = 4 << 20
"""A submission with 15,000 solutions has about one megabyte."""
MAX_DISCARDED_BYTES = 4 * MAX_BODY_BYTES
MAX_BODIES_BYTES = 128 << 20
"""Maximum number of bytes of all bodies that are being received or checked."""
BODY_SECONDS = 60.0
"""A submission must arrive within this time."""
CHECKED_AT_ONCE = 2


class Solution(BaseModel):
    """One reading of one image."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: str
    solution: str


class Submission(BaseModel):
    """The body of a submission."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    # FailFast, because one clear error is enough and 15,000 errors are expensive.
    solutions: Annotated[list[Solution], FailFast(), Field(max_length=MOST_SOLUTIONS)]


class Passed(BaseModel):
    """The verdict on enough right solutions."""

    message: str
    passcode: str


class Refused(BaseModel):
    """The verdict on too few right solutions, or on too many solutions."""

    error: str
    message: str | None = None


class SubmissionDesk:
    """Receives submissions and checks them."""

    def __init__(self, passcode_key: bytes) -> None:
        self._passcode_key = passcode_key
        # Separate threads, because each thread keeps the memory of its largest body.
        self._checkers = ThreadPoolExecutor(CHECKED_AT_ONCE, "check")
        self._held_bytes = 0

    async def verdict(self, user: str, request: Request) -> Passed | Refused:
        """The verdict on the request's body.

        Raises:
            HTTPException: 400 invalid, 408 too slow, 413 too large, 503 too many at once.
        """
        body = bytearray()
        try:
            await self._receive(request, body)
            return await asyncio.get_running_loop().run_in_executor(
                self._checkers, check, user, body, self._passcode_key
            )
        finally:
            self._held_bytes -= len(body)

    async def _receive(self, request: Request, body: bytearray) -> None:
        """Append the request's body to ``body``, counted while it arrives."""
        received = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    received += len(chunk)
                    if self._held_bytes + len(chunk) > MAX_BODIES_BYTES:
                        raise HTTPException(
                            503,
                            "too many submissions at once; send yours again in a minute",
                            {"Retry-After": f"{BODY_SECONDS:.0f}"},
                        )
                    if received <= MAX_BODY_BYTES:
                        body += chunk
                        self._held_bytes += len(chunk)
                    elif received > MAX_DISCARDED_BYTES:
                        break
                    # Other bytes are dropped: a client does not read the reply while it sends.
        except TimeoutError:
            raise HTTPException(408, f"expected the body within {BODY_SECONDS:.0f} s") from None
        except ClientDisconnect:
            raise HTTPException(
                400, "expected a complete body, the connection was closed"
            ) from None
        if received > MAX_BODY_BYTES:
            raise HTTPException(413, f"expected at most {MAX_BODY_BYTES} bytes of body")


def check(user: str, body: bytes | bytearray, passcode_key: bytes) -> Passed | Refused:
    """The verdict on a complete body.

    Raises:
        HTTPException: 400, the body is not a submission; the message gives the error and its place.
    """
    try:
        solutions = Submission.model_validate_json(body).solutions
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if first["type"] == "too_long" and first["loc"] == ("solutions",):
            return Refused(error="Too many answers submitted")
        where = ".".join(str(part)[:100] for part in first["loc"]) or "the body"
        raise HTTPException(400, f"{where}: {first['msg']}") from None
    right = _count_right(user, solutions)
    if right >= NEEDED:
        return Passed(
            message="The machine can read. Here is your passcode.",
            passcode=passcode(passcode_key, user),
        )
    # Never the number: a count would reveal the texts, one image at a time.
    found = "None" if right == 0 else "At least one"
    return Refused(
        error="Too few correct solutions",
        message=f"{found} of your solutions was correct; {NEEDED:,} are needed.",
    )


def passcode(key: bytes, user: str) -> str:
    """The passcode of a user, 32 hex digits. Without the key it cannot be computed."""
    return hmac.new(key, user.encode("utf-8", "surrogatepass"), "sha256").hexdigest()[:32]


def _count_right(user: str, solutions: Sequence[Solution]) -> int:
    """Number of different images with at least one right solution."""
    return len({given.name for given in solutions if given.solution == answer(user, given.name)})
