"""Errors as problem details (RFC 9457, ``application/problem+json``), never as tracebacks."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from simgan_captcha.errors import ImageError, SimganCaptchaError, UsageError
from simgan_captcha.serving.connection import PROBLEM_TYPE


class Problem(BaseModel):
    """The body of every error response."""

    title: str
    """Name of the status."""
    status: int
    """HTTP status."""
    detail: str
    """What was expected, what was received, and what to do."""


def problem(
    status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Any
) -> Response:
    """An error response; ``more`` are further members of its JSON object."""
    body = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}
    return JSONResponse(body, status, headers, media_type=PROBLEM_TYPE)


def describe_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI descriptions of these statuses, for ``responses`` of a route."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_TYPE: {"schema": Problem.model_json_schema()}},
        }
        for status in statuses
    }


def answer_with_problems(app: FastAPI) -> None:
    """Answer all errors of the application with problem details."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(SimganCaptchaError, _on_purpose)
    app.add_exception_handler(Exception, _unforeseen)


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, error.detail, error.headers)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return problem(422, f"{where}: {first['msg']}")


async def _on_purpose(_: Request, error: Exception) -> Response:
    # The cause is the client's input (422) or the run folder (503).
    sent = isinstance(error, UsageError | ImageError)
    return problem(422 if sent else 503, str(error))


async def _unforeseen(_: Request, __: Exception) -> Response:
    return problem(500, "internal server error; see the log of the server")
