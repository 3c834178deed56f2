"""The pages of a run and the JSON API beside them.

    GET    /                          read images: drop, paste or choose them
    GET    /run                       the run: progress, curves, sheets, what it says of itself
    GET    /review                    all readings, page by page, to be corrected
    POST   /api/read                  images -> text
    GET    /api/run                   how far the run is
    GET    /api/run/events            the same as server-sent events, at every change
    GET    /api/run/sheets/{step}     the refiner's picture of that step
    GET    /api/captchas/{key}        one captcha of the run
    PUT    /api/corrections/{key}     what a person says that it says
    DELETE /api/corrections/{key}     ... said no longer
    GET    /api/corrections.csv       all of that, for ``simgan-captcha judge --labels``

Addresses in the pages are relative, so that a proxy may serve them under a path of its own.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, HTTPException, Query, Response, UploadFile
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.sse import EventSourceResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool

from simgan_captcha._version import __version__
from simgan_captcha.data.images import MAX_BYTES, decode_rgb, encode_png
from simgan_captcha.data.kinds import kind_of
from simgan_captcha.errors import RunError
from simgan_captcha.inference.readings import Reading
from simgan_captcha.pipeline.run_folder import read_run
from simgan_captcha.report.diagnosis import lesson_shown
from simgan_captcha.report.inputs import refiner_sheets
from simgan_captcha.report.templates import marked_characters, page_template
from simgan_captcha.scheme import Scheme
from simgan_captcha.web.corrections import Corrections, labels_csv
from simgan_captcha.web.gallery import Gallery, Order, captcha_key
from simgan_captcha.web.guard import RequestGuard
from simgan_captcha.web.problems import answer_with_problems, describe_problems, problem
from simgan_captcha.web.run_page import RunPage
from simgan_captcha.web.run_reader import ImageReading, ImageRefusal, RunReader
from simgan_captcha.web.run_status import RunStatus, run_status

MAX_FILES = 64
"""In one request."""
MAX_FOLLOWERS = 32
"""Streams of events at once."""
FOLLOW_SECONDS = 0.5
"""Between two looks at the run's folder."""


class Readings(BaseModel):
    """What the images of one request say, in their order."""

    readings: list[ImageReading | ImageRefusal]


class CorrectionText(BaseModel):
    """What a person says that an image says."""

    model_config = ConfigDict(strict=True, extra="forbid")

    text: str


class Correction(BaseModel):
    """What is kept of one captcha, and of how many."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    reading: str
    """What the run read."""
    text: str | None
    """What a person says; None when nothing is said."""
    total: int
    """Captchas of which something is said."""


def create_app(
    run: Path,
    *,
    hosts: Collection[str] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """The ASGI application.

    Args:
        run: The run's folder; the run may be in the making, by another process.
        hosts: Names that a request's Host may have; None for any.
        stopping: Whether the server wants to stop: endless answers then end.

    Raises:
        RunError: There is no run in the folder.
    """
    read_run(run)
    app = FastAPI(
        title="simgan-captcha serve",
        version=__version__,
        description="Reads images with a run's reader, and shows the run. See docs/serve.md.",
        docs_url=None,  # FastAPI's documentation page loads scripts from another host.
        redoc_url=None,
        form_limits={"max_files": MAX_FILES, "max_fields": 1, "max_part_size": 1024},
    )
    app.add_middleware(RequestGuard, hosts=hosts)
    answer_with_problems(app)
    package = Path(str(files("simgan_captcha")))
    app.mount("/static", StaticFiles(directory=package / "web" / "static"), "static")
    app.add_api_route(
        "/report.css",
        lambda: FileResponse(package / "report" / "report.css"),
        include_in_schema=False,
    )
    _add_reading(app, run)
    _add_run(app, run, stopping)
    _add_review(app, run)
    return app


def _page(name: str, run: Path, **values: Any) -> Response:
    page = page_template(f"web/templates/{name}").render(run_name=run.resolve().name, **values)
    # A damaged file's message may hold a lone surrogate, which UTF-8 cannot.
    body = page.encode("utf-8", "replace")
    return HTMLResponse(body, headers={"Cache-Control": "no-cache"})


def _scheme(run: Path) -> Scheme:
    return Scheme.model_validate(read_run(run)["scheme"])


# Images -> text.


def _add_reading(app: FastAPI, run: Path) -> None:
    reader = RunReader(run)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def read_page() -> Response:
        status = run_status(run)
        return _page(
            "read.html",
            run,
            scheme=_scheme(run),
            finished=status.finished,
            lesson=lesson_shown(run, []),
            most_bytes=MAX_BYTES,
        )

    @app.post(
        "/api/read",
        response_model=Readings,
        response_model_exclude_none=True,
        responses=describe_problems(400, 403, 408, 413, 422, 503),
    )
    async def read(
        files: Annotated[
            list[UploadFile],
            File(description="Images of the size that the run's captchas have."),
        ],
        explain: Annotated[
            bool, Query(description="Also draw what the net saw, and what each character hangs on.")
        ] = False,
    ) -> Any:
        """Read images. Those that are unfit are told beside the others, in the order given."""
        given = [(file.filename or "", await file.read()) for file in files]
        answers = await run_in_threadpool(reader.read, given, explain=explain)
        refused = [answer for answer in answers if isinstance(answer, ImageRefusal)]
        if len(refused) == len(answers):
            return problem(422, refused[0].error, errors=[each.model_dump() for each in refused])
        return Readings(readings=answers)


# The run.


def _add_run(app: FastAPI, run: Path, stopping: Callable[[], bool]) -> None:
    page = RunPage(run)
    followers = 0

    async def follower() -> AsyncIterator[None]:
        # Counted before the stream begins, or all who come together would find room.
        nonlocal followers
        if followers >= MAX_FOLLOWERS:
            detail = f"expected at most {MAX_FOLLOWERS} followers; close a page and try again"
            raise HTTPException(503, detail, {"Retry-After": "5"})
        followers += 1
        try:
            yield
        finally:
            followers -= 1

    @app.get("/run", response_class=HTMLResponse, include_in_schema=False)
    def run_page() -> Response:
        return _page("run.html", run, **page.values())

    @app.get("/api/run")
    def status() -> RunStatus:
        """How far the run is."""
        return run_status(run)

    @app.get(
        "/api/run/events",
        response_class=EventSourceResponse,
        responses=describe_problems(503),
        dependencies=[Depends(follower)],
    )
    async def events() -> AsyncIterator[RunStatus]:
        """How far the run is: once at first, and then whenever something has changed."""
        told: RunStatus | None = None
        while not stopping():
            now = await run_in_threadpool(run_status, run)
            if now != told:
                told = now
                yield now
            await asyncio.sleep(FOLLOW_SECONDS)

    @app.get(
        "/api/run/sheets/{step}",
        response_class=FileResponse,
        responses=describe_problems(404, 422),
    )
    def sheet(step: int) -> Response:
        """The refiner's picture of a step: synthetic | refined | difference | real, a PNG."""
        path = refiner_sheets(run).get(step)
        if path is None:
            raise HTTPException(404, f"the refiner has left no picture of step {step}")
        return FileResponse(path, media_type="image/png")


# What was read, and what a person says of it.


def _add_review(app: FastAPI, run: Path) -> None:
    gallery, corrections = Gallery(run), Corrections(run)

    def reading_of(key: str) -> Reading:
        reading = gallery.reading(key)
        if reading is None:
            raise HTTPException(404, "expected the SHA-256 of the name of a captcha that was read")
        return reading

    @app.get("/review", response_class=HTMLResponse, include_in_schema=False)
    def review_page(
        page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
        order: Order = "least",
        character: Annotated[str, Query(max_length=1)] = "",
    ) -> Response:
        scheme, problems, texts, found = _scheme(run), [], {}, None
        try:
            found = gallery.page(page, order, character)
            texts = corrections.texts()
        except RunError as error:
            problems.append(str(error))
        return _page(
            "review.html",
            run,
            scheme=scheme,
            order=order,
            character=character,
            page=found,
            cards=[_card(reading, texts.get(reading.name)) for reading in found.readings]
            if found
            else [],
            corrected=len(texts),
            problems=problems,
        )

    @app.get(
        "/api/captchas/{key}", response_class=Response, responses=describe_problems(404, 422, 503)
    )
    def captcha(key: str) -> Response:
        """One captcha as it was received; ``key`` is the SHA-256 of its name."""
        image = gallery.image(key)
        if image is None:
            raise HTTPException(404, "expected the SHA-256 of the name of a captcha in the store")
        headers = {"Cache-Control": "private, max-age=3600"}
        kind = kind_of(image)
        if kind == "TIFF":  # which few browsers show
            image, kind = encode_png(decode_rgb(image)), "PNG"
        return Response(image, media_type=f"image/{kind.lower()}", headers=headers)

    @app.put("/api/corrections/{key}", responses=describe_problems(403, 404, 422, 503))
    def correct(key: str, correction: CorrectionText) -> Correction:
        """Keep what a person says that a captcha says; what was read is never changed."""
        reading = reading_of(key)
        total = corrections.put(reading.name, correction.text, _scheme(run))
        return Correction(reading=reading.text, text=correction.text, total=total)

    @app.delete("/api/corrections/{key}", responses=describe_problems(403, 404, 422, 503))
    def forget(key: str) -> Correction:
        """Forget what a person said of a captcha."""
        reading = reading_of(key)
        total = corrections.put(reading.name, None, _scheme(run))
        return Correction(reading=reading.text, text=None, total=total)

    @app.get("/api/corrections.csv", response_class=Response, responses=describe_problems(503))
    def export() -> Response:
        """What a person says, as ``simgan-captcha judge --labels`` reads it: name,label."""
        headers = {"Content-Disposition": 'attachment; filename="corrections.csv"'}
        return Response(labels_csv(corrections.texts()), media_type="text/csv", headers=headers)


def _card(reading: Reading, text: str | None) -> dict[str, Any]:
    return {
        "key": captcha_key(reading.name),
        "text": reading.text,
        "confidence": reading.confidence,
        "characters": marked_characters(reading),
        "correction": text,
    }
