"""The puzzle's HTTP protocol, as contestants of HackMIT 2017 met it. Keeps no state.

    GET  /                        where to go
    GET  /u/{user}/               the puzzle, in words
    GET  /u/{user}/challenge      {"images": [{"name", "jpg_base64"} x 1000]}, new names each time
    GET  /u/{user}/random_image   image/jpeg
    GET  /u/{user}/image/{name}   image/jpeg
    POST /u/{user}/solution       {"solutions": [{"name", "solution"}, ...]}

What went wrong is answered in JSON, {"error": ..., "message": ...}. As in the original, too many
or too few right answers have status 200: they are the puzzle's verdict, not a broken request.
"""

import asyncio
import base64
import hmac
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from simgan_captcha.puzzle.answers import answer
from simgan_captcha.puzzle.artwork import Artist
from simgan_captcha.puzzle.pages import front_page, user_page
from simgan_captcha.puzzle.replay import Recording
from simgan_captcha.scheme import HACKMIT_2017

MOST_SOLUTIONS = 15_000
"""More in one request are not looked at."""
NEEDED = 10_000
"""Different images read right that earn the passcode."""
BATCH_SIZE = 1_000
"""Images in a challenge."""

MAX_BODY_BYTES = 8 << 20
"""A submission of 15,000 is about one megabyte."""
MAX_DISCARDED_BYTES = 4 * MAX_BODY_BYTES
BODY_SECONDS = 60.0
"""A submission that takes longer to arrive is given up."""
MAX_NAME_LENGTH = 256
"""Characters in a user's or an image's name; longer ones do not exist."""

_SAFE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}


class Solution(BaseModel):
    """One reading of one image."""

    model_config = ConfigDict(strict=True, frozen=True)

    name: str
    solution: str


class Submission(BaseModel):
    """The body of a submission."""

    model_config = ConfigDict(strict=True, frozen=True)

    # FailFast, since one clear error is enough and 15,000 of them are a load.
    solutions: Annotated[list[Solution], FailFast(), Field(max_length=MOST_SOLUTIONS)]


def create_app(
    *,
    artist: Artist,
    passcode_key: bytes,
    users: frozenset[str] | None = None,
    batch_size: int = BATCH_SIZE,
    replay: Path | None = None,
) -> FastAPI:
    """The ASGI application.

    Args:
        artist: Draws the captchas.
        passcode_key: Secret from which passcodes are made; the same key and user give the same.
        users: Who has a puzzle; None for everybody.
        batch_size: Images in a challenge.
        replay: Folder of recorded batches to serve instead of drawing.

    Raises:
        UsageError: ``replay`` is not a folder of batches.
    """
    recording = None if replay is None else Recording(replay)
    app = FastAPI(
        title="The captcha puzzle",
        docs_url=None,  # FastAPI's documentation page loads scripts from another host.
        redoc_url=None,
        exception_handlers={StarletteHTTPException: _http_error},
    )

    def known_user(user: str) -> str:
        if len(user) > MAX_NAME_LENGTH or (users is not None and user not in users):
            raise HTTPException(404, "no puzzle for this user")
        return user

    User = Annotated[str, Depends(known_user)]

    @app.get("/", response_class=HTMLResponse)
    def front() -> Response:
        return HTMLResponse(front_page(users), headers=_SAFE_HEADERS)

    @app.get("/u/{user}/", response_class=HTMLResponse)
    def puzzle(user: User) -> Response:
        page = user_page(
            user,
            length=HACKMIT_2017.length,
            batch_size=batch_size,
            needed=NEEDED,
            most_solutions=MOST_SOLUTIONS,
        )
        return HTMLResponse(page, headers=_SAFE_HEADERS)

    @app.get("/u/{user}/challenge", response_class=JSONResponse)
    def challenge(user: User) -> Response:
        if recording is not None:
            return Response(recording.next_batch(), media_type="application/json")
        names = [_random_name() for _ in range(batch_size)]
        images = [
            {"name": name, "jpg_base64": base64.b64encode(artist.jpeg(user, name)).decode()}
            for name in names
        ]
        return Response(json.dumps({"images": images}), media_type="application/json")

    @app.get("/u/{user}/random_image", response_class=Response)
    def random_image(user: User) -> Response:
        return image(user, _random_name() if recording is None else recording.random_name())

    @app.get("/u/{user}/image/{name}", response_class=Response)
    def image(user: User, name: str) -> Response:
        if len(name) > MAX_NAME_LENGTH:
            raise HTTPException(404, "no image of this name")
        jpeg = artist.jpeg(user, name) if recording is None else recording.jpeg(name)
        if jpeg is None:
            raise HTTPException(404, "no image of this name")
        return Response(jpeg, media_type="image/jpeg")

    @app.post("/u/{user}/solution", openapi_extra=_submission_schema())
    async def solution(user: User, request: Request) -> dict[str, str]:
        body = await _read_body(request)
        return await run_in_threadpool(_verdict, user, body, passcode_key)

    return app


def _verdict(user: str, body: bytes, passcode_key: bytes) -> dict[str, str]:
    try:
        solutions = Submission.model_validate_json(body).solutions
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if first["type"] == "too_long" and first["loc"] == ("solutions",):
            return {"error": "Too many answers submitted"}
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise HTTPException(400, f"{where}: {first['msg']}") from None
    right = _count_right(user, solutions)
    if right >= NEEDED:
        return {
            "message": "The machine can read. Here is your passcode.",
            "passcode": _passcode(passcode_key, user),
        }
    # Never how many: a count would tell, one image at a time, what its text is.
    found = "None" if right == 0 else "At least one"
    return {
        "error": "Too few correct solutions",
        "message": f"{found} of your solutions was correct; {NEEDED:,} are needed.",
    }


def _count_right(user: str, solutions: Sequence[Solution]) -> int:
    """Different images that have at least one right reading."""
    return len({given.name for given in solutions if given.solution == answer(user, given.name)})


def _passcode(key: bytes, user: str) -> str:
    """A keyed hash, so that nobody can make another user's passcode."""
    return hmac.new(key, user.encode("utf-8", "surrogatepass"), "sha256").hexdigest()[:32]


def _random_name() -> str:
    return secrets.token_hex(16)


async def _read_body(request: Request) -> bytes:
    """The request's body, counted while it arrives."""
    body = bytearray()
    received = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                received += len(chunk)
                if received <= MAX_BODY_BYTES:
                    body += chunk
                elif received > MAX_DISCARDED_BYTES:
                    break
                # In between the bytes are dropped: a client that is still sending reads no reply.
    except TimeoutError:
        raise HTTPException(408, f"expected the body within {BODY_SECONDS:.0f} s") from None
    except ClientDisconnect:
        raise HTTPException(400, "the body broke off") from None
    if received > MAX_BODY_BYTES:
        raise HTTPException(413, f"expected at most {MAX_BODY_BYTES} bytes of body")
    return bytes(body)


async def _http_error(_: Request, error: StarletteHTTPException) -> Response:
    title = {
        400: 'Expected {"solutions": [{"name": "...", "solution": "..."}, ...]}',
        404: "Not found",
        405: "Method not allowed",
        408: "Too slow",
        413: "Too large",
    }.get(error.status_code, "Error")
    return JSONResponse(
        {"error": title, "message": error.detail},
        status_code=error.status_code,
        headers=error.headers,
    )


def _submission_schema() -> dict[str, Any]:
    """OpenAPI of the body, which is read by hand to limit its size."""
    schema = Submission.model_json_schema()
    solution = schema.pop("$defs")["Solution"]
    schema["properties"]["solutions"]["items"] = solution
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
