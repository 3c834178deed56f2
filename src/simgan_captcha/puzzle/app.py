"""The HTTP protocol of the HackMIT 2017 captcha puzzle. The server keeps no state.

    GET  /                        start page
    GET  /u/{user}/               description of the puzzle
    GET  /u/{user}/challenge      {"images": [{"name", "jpg_base64"} x 1000]}, new names each time
    GET  /u/{user}/random_image   image/jpeg
    GET  /u/{user}/image/{name}   image/jpeg
    POST /u/{user}/solution       {"solutions": [{"name", "solution"}, ...]}

Errors are JSON objects, {"error": ..., "message": ...}. As in the original, a submission with too
many or too few right answers has status 200, because this is a verdict and not an error.
"""

import asyncio
import base64
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import anyio.to_thread
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi import Path as PathParameter
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simgan_captcha._version import __version__
from simgan_captcha.errors import UsageError
from simgan_captcha.puzzle import MOST_SOLUTIONS
from simgan_captcha.puzzle.artwork import Artist
from simgan_captcha.puzzle.pages import front_page, user_page
from simgan_captcha.puzzle.replay import Recording
from simgan_captcha.puzzle.submission import (
    MAX_BODY_BYTES,
    NEEDED,
    Passed,
    Refused,
    Submission,
    SubmissionDesk,
)
from simgan_captcha.scheme import HACKMIT_2017

BATCH_SIZE = 1_000
"""Number of images in a challenge."""
PIECE_SIZE = 50
"""Number of images of a challenge that are drawn and sent together."""
MAX_NAME_LENGTH = 256
"""Maximum length of the name of a user or an image; longer names are not found."""
MOST_REQUESTS = 256
"""Maximum number of requests in progress; further clients are asked to retry."""
THREADS = 8
"""Threads that draw and check. One core works at a time, so more would only take memory."""

_SAFE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}


class ChallengeImage(BaseModel):
    """One captcha of a challenge."""

    name: str
    jpg_base64: str


class Challenge(BaseModel):
    """A batch of captchas."""

    images: list[ChallengeImage]


class Problem(BaseModel):
    """The body of an error response."""

    error: str
    message: str


def create_app(
    *,
    artist: Artist,
    passcode_key: bytes,
    users: frozenset[str] | None = None,
    batch_size: int = BATCH_SIZE,
    recording: Recording | None = None,
) -> FastAPI:
    """The ASGI application.

    Args:
        artist: Draws the captchas.
        passcode_key: Secret key of the passcodes. The same key and user give the same passcode.
        users: Users that have a puzzle; None for all names.
        batch_size: Number of images in a challenge.
        recording: Recorded batches to serve instead of drawing.
    """
    app = FastAPI(
        title="The captcha puzzle",
        version=__version__,
        docs_url=None,  # FastAPI's documentation page loads scripts from another host.
        redoc_url=None,
        lifespan=_few_threads,
        exception_handlers={
            StarletteHTTPException: _http_error,
            UsageError: _recording_is_gone,
            Exception: _server_error,
        },
    )
    app.add_middleware(Admission)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    known_user = _known_among(users)
    _add_pages(app, known_user, users, batch_size)
    _add_captchas(app, known_user, artist, recording, batch_size)
    _add_solution(app, known_user, SubmissionDesk(passcode_key))
    return app


KnownUser = Callable[[str], str]
"""Returns the user of an address, or raises an error if the user has no puzzle."""


def _known_among(users: frozenset[str] | None) -> KnownUser:
    def known_user(user: Annotated[str, _name("User of the puzzle.")]) -> str:
        if len(user) > MAX_NAME_LENGTH or (users is not None and user not in users):
            raise HTTPException(404, "no puzzle for this user")
        return user

    return known_user


def _add_pages(
    app: FastAPI, known_user: KnownUser, users: frozenset[str] | None, batch_size: int
) -> None:
    User = Annotated[str, Depends(known_user)]

    @app.get("/", response_class=HTMLResponse)
    def front() -> Response:
        return HTMLResponse(front_page(users), headers=_SAFE_HEADERS)

    @app.get("/u/{user}/", response_class=HTMLResponse, responses=_problems(404))
    def puzzle(user: User) -> Response:
        page = user_page(
            user,
            length=HACKMIT_2017.max_length,
            batch_size=batch_size,
            needed=NEEDED,
            most_solutions=MOST_SOLUTIONS,
        )
        return HTMLResponse(page, headers=_SAFE_HEADERS)


def _add_captchas(
    app: FastAPI,
    known_user: KnownUser,
    artist: Artist,
    recording: Recording | None,
    batch_size: int,
) -> None:
    User = Annotated[str, Depends(known_user)]

    @app.get("/u/{user}/challenge", response_model=Challenge, responses=_problems(404))
    def challenge(user: User) -> Response:
        if recording is not None:
            return FileResponse(recording.next_batch(), media_type="application/json")
        return StreamingResponse(
            drawn_batch(artist, user, batch_size), media_type="application/json"
        )

    @app.get("/u/{user}/random_image", response_class=Response, responses=_JPEG)
    def random_image(user: User) -> Response:
        return image(user, _random_name() if recording is None else recording.random_name())

    @app.get("/u/{user}/image/{name}", response_class=Response, responses=_JPEG)
    def image(
        user: User, name: Annotated[str, _name("Name of an image of a challenge.")]
    ) -> Response:
        if len(name) > MAX_NAME_LENGTH:
            raise HTTPException(404, "no image of this name")
        jpeg = artist.jpeg(user, name) if recording is None else recording.jpeg(name)
        if jpeg is None:
            raise HTTPException(404, "no image of this name")
        return Response(jpeg, media_type="image/jpeg")


def _add_solution(app: FastAPI, known_user: KnownUser, desk: SubmissionDesk) -> None:
    User = Annotated[str, Depends(known_user)]

    @app.post(
        "/u/{user}/solution",
        response_model=Passed | Refused,
        response_model_exclude_unset=True,
        responses=_problems(400, 404, 408, 413),
        openapi_extra=_submission_schema(),
    )
    async def solution(user: User, request: Request) -> Passed | Refused:
        return await desk.verdict(user, request)


def drawn_batch(artist: Artist, user: str, size: int) -> Iterator[bytes]:
    """A challenge of ``size`` captchas as JSON, in pieces that bound the memory of slow clients."""
    before = b'{"images": ['
    for first in range(0, size, PIECE_SIZE):
        names = [_random_name() for _ in range(first, min(first + PIECE_SIZE, size))]
        images = [
            {"name": name, "jpg_base64": base64.b64encode(artist.jpeg(user, name)).decode()}
            for name in names
        ]
        yield before + json.dumps(images)[1:-1].encode()
        before = b", "
    yield b"]}"


def _random_name() -> str:
    return secrets.token_hex(16)


@contextlib.asynccontextmanager
async def _few_threads(_: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield


class Admission:
    """ASGI middleware that limits the requests in progress and answers those that a stop ends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._in_progress = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or ask the client to retry."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._in_progress >= MOST_REQUESTS:
            await _try_again("too many requests at once")(scope, receive, send)
            return
        started = False

        async def noting_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        self._in_progress += 1
        try:
            await self._app(scope, receive, noting_send)
        except asyncio.CancelledError:  # the time to finish before the stop is over
            # A started response ends early, without an error, as this is not a server failure.
            if not started:
                await _try_again("the server stops")(scope, receive, send)
        finally:
            self._in_progress -= 1


def _try_again(why: str) -> Response:
    return _problem(503, f"{why}; send the same again in a few seconds", {"Retry-After": "5"})


async def _http_error(_: Request, error: StarletteHTTPException) -> Response:
    return _problem(error.status_code, error.detail, error.headers)


async def _recording_is_gone(_: Request, error: UsageError) -> Response:
    return _problem(503, "the recorded batch cannot be read now; ask the host")


async def _server_error(_: Request, error: Exception) -> Response:
    """A message without details for the client; the terminal of the host shows the traceback."""
    return _problem(500, "the server failed; ask the host")


_TITLES = {
    400: 'Expected {"solutions": [{"name": "...", "solution": "..."}, ...]}',
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    413: "Too large",
    503: "Not now",
}


def _problem(status: int, message: str, headers: Any = None) -> Response:
    title = _TITLES.get(status, "Error")
    return JSONResponse(
        Problem(error=title, message=message).model_dump(), status_code=status, headers=headers
    )


# OpenAPI


def _name(description: str) -> Any:
    # This is documentation only; the routes check the length.
    return PathParameter(
        description=description, json_schema_extra={"minLength": 1, "maxLength": MAX_NAME_LENGTH}
    )


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    # FastAPI's "model" would declare the media type of the route instead of JSON.
    answer = {"application/json": {"schema": Problem.model_json_schema()}}
    return {
        status: {"description": _TITLES[status], "content": answer} for status in (*statuses, 503)
    }


_JPEG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}},
    **_problems(404),
}


def _submission_schema() -> dict[str, Any]:
    """OpenAPI schema of the body, which is read by hand to limit its size."""
    schema = Submission.model_json_schema()
    solution = schema.pop("$defs")["Solution"]
    schema["properties"]["solutions"]["items"] = solution
    # The limit is in the description only, because more solutions get a verdict with status 200.
    most = schema["properties"]["solutions"].pop("maxItems")
    schema["description"] = f"At most {most} solutions, in at most {MAX_BODY_BYTES} bytes of JSON."
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's OpenAPI schema without status 422, which no route returns."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for unused in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(unused, None)
        app.openapi_schema = schema
    return app.openapi_schema
