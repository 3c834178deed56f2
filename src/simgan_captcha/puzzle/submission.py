"""A contestant's submission: taken in within limits, checked, answered.

Bodies are hostile until checked. What bounds the memory they take: one body's size, the bytes of
all bodies on their way together, and how many are checked at a time, since the values of a JSON
text can take forty times its bytes.
"""

import asyncio
import hmac
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from fastapi import HTTPException, Request
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError
from starlette.requests import ClientDisconnect

from simgan_captcha.puzzle.answers import answer

MOST_SOLUTIONS = 15_000
"""More in one request are not looked at."""
NEEDED = 10_000
"""Different images read right that earn the passcode."""

MAX_BODY_BYTES = 4 << 20
"""A submission of 15,000 is about one megabyte."""
MAX_DISCARDED_BYTES = 4 * MAX_BODY_BYTES
MAX_BODIES_BYTES = 128 << 20
"""All bodies that are on their way or wait for their check, together."""
BODY_SECONDS = 60.0
"""A submission that takes longer to arrive is given up."""
CHECKED_AT_ONCE = 2


class Solution(BaseModel):
    """One reading of one image."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: str
    solution: str


class Submission(BaseModel):
    """The body of a submission."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    # FailFast, since one clear error is enough and 15,000 of them are a load.
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
    """Takes submissions in and checks them."""

    def __init__(self, passcode_key: bytes) -> None:
        self._passcode_key = passcode_key
        # Threads of its own: each keeps the memory that its largest body took.
        self._checkers = ThreadPoolExecutor(CHECKED_AT_ONCE, "check")
        self._held_bytes = 0

    async def verdict(self, user: str, request: Request) -> Passed | Refused:
        """The verdict on the request's body.

        Raises:
            HTTPException: 400 no submission, 408 too slow, 413 too large, 503 too many at once.
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
                    # In between bytes are dropped: a client that still sends reads no reply.
        except TimeoutError:
            raise HTTPException(408, f"expected the body within {BODY_SECONDS:.0f} s") from None
        except ClientDisconnect:
            raise HTTPException(400, "the body broke off") from None
        if received > MAX_BODY_BYTES:
            raise HTTPException(413, f"expected at most {MAX_BODY_BYTES} bytes of body")


def check(user: str, body: bytes | bytearray, passcode_key: bytes) -> Passed | Refused:
    """The verdict on a whole body.

    Raises:
        HTTPException: 400, the body is no submission; the message says what is wrong, and where.
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
    # Never how many: a count would tell, one image at a time, what its text is.
    found = "None" if right == 0 else "At least one"
    return Refused(
        error="Too few correct solutions",
        message=f"{found} of your solutions was correct; {NEEDED:,} are needed.",
    )


def passcode(key: bytes, user: str) -> str:
    """The passcode of a user, 32 hex digits: a keyed hash, so that nobody can make another's."""
    return hmac.new(key, user.encode("utf-8", "surrogatepass"), "sha256").hexdigest()[:32]


def _count_right(user: str, solutions: Sequence[Solution]) -> int:
    """Different images that have at least one right reading."""
    return len({given.name for given in solutions if given.solution == answer(user, given.name)})
