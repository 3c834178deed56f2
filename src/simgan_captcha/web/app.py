"""The web pages of a run and their JSON API.

    GET    /start                     page: learn from a folder of images, see ``web.jobs``
    GET    /read, /                   page: read images that are dropped, pasted or chosen
    GET    /run                       page: progress, curves, refiner sheets and accuracy estimate
    GET    /review                    page: review and correct the readings
    POST   /api/read                  read images
    GET    /api/run                   progress of the run
    GET    /api/run/events            progress as server-sent events, after every change
    GET    /api/run/sheets/{step}     the refiner's picture of one step
    GET    /api/captchas/{key}        one captcha of the run
    PUT    /api/corrections/{key}     save a correction
    DELETE /api/corrections/{key}     remove a correction
    GET    /api/corrections.csv       all corrections, for ``simgan-captcha judge --labels``
    POST   /api/teaching              start teaching the run with the corrections
    GET    /api/teaching              the lesson in progress, or the last result
    POST   /api/export                start the export of the reader; GET gives its state
    GET    /api/reader.onnx           the exported reader
    POST   /api/learning              start or continue the run; GET gives its state, DELETE stops
    GET    /api/contact-sheet         the images of the folder with the generalist's readings

Addresses in the pages are relative, so a proxy can serve them under any path.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, HTTPException, Query, Response
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.sse import EventSourceResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool

from simgan_captcha._version import __version__
from simgan_captcha.data.images import decode_rgb, encode_png
from simgan_captcha.data.kinds import kind_of
from simgan_captcha.errors import RunError
from simgan_captcha.inference.readings import Reading
from simgan_captcha.pipeline.lesson import labelled_names
from simgan_captcha.pipeline.run_folder import read_run
from simgan_captcha.report.inputs import refiner_sheets
from simgan_captcha.report.templates import marked_characters, page_template
from simgan_captcha.scheme import Scheme
from simgan_captcha.web.corrections import Corrections, labels_csv
from simgan_captcha.web.gallery import Gallery, Order, captcha_key
from simgan_captcha.web.guard import RequestGuard
from simgan_captcha.web.jobs.exports import Exports
from simgan_captcha.web.jobs.learning import Learning, NewRun
from simgan_captcha.web.jobs.lessons import Lessons, add_teaching
from simgan_captcha.web.jobs.routes import add_export, add_learning
from simgan_captcha.web.problems import answer_with_problems, describe_problems
from simgan_captcha.web.reading.reader import ImageReader
from simgan_captcha.web.reading.routes import add_reading
from simgan_captcha.web.run_page import RunPage
from simgan_captcha.web.run_status import RunStatus, run_status

MAX_FILES = 64
"""Maximum number of files in one request."""
MAX_FOLLOWERS = 32
"""Maximum number of event streams at the same time."""
FOLLOW_SECONDS = 0.5
"""Interval between two checks of the run folder."""


class CorrectionText(BaseModel):
    """A corrected text."""

    model_config = ConfigDict(strict=True, extra="forbid")

    text: str


class Correction(BaseModel):
    """The correction of one captcha."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    reading: str
    """Text that the run reads."""
    text: str | None
    """Corrected text; None if there is no correction."""
    total: int
    """Number of captchas with a correction."""


def create_app(
    run: Path | None,
    *,
    new: NewRun | None = None,
    hosts: Collection[str] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """The ASGI application.

    Args:
        run: The run's folder; the run may be in the making, by another process. None to read with
            the generalist only.
        new: A folder of images that the run learns from; then the run need not exist.
        hosts: Names that a request's Host may have; None for any.
        stopping: Whether the server wants to stop: endless answers then end.

    Raises:
        RunError: There is no run in the folder.
    """
    learning = None if new is None else Learning(new)
    if run is not None and learning is None:
        read_run(run)
    reader, jobs = ImageReader(run, new), list[Lessons | Exports | Learning]()
    pages = Pages(reader, learning)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        for job in jobs:
            await run_in_threadpool(job.stop)

    app = FastAPI(
        title="simgan-captcha serve",
        version=__version__,
        description="Reads images, and shows a run. See docs/serve.md.",
        docs_url=None,  # FastAPI's documentation page loads scripts from another host.
        redoc_url=None,
        lifespan=lifespan,
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
    add_reading(app, reader, pages.show, pages.begun)
    if run is not None:
        lessons, exports = Lessons(run), Exports(run)
        jobs += [lessons, exports]
        _add_run(app, run, pages, exports, stopping)
        _add_review(app, run, pages, lessons)
        add_teaching(app, lessons)
        add_export(app, exports, f"{run.resolve().name}.onnx")
    if learning is not None:
        jobs.append(learning)
        add_learning(app, learning, pages.show)
    return app


@dataclass(frozen=True)
class Pages:
    """Renders the pages of a run."""

    reader: ImageReader
    learning: Learning | None
    """The command that learns, if the server was started on a folder of images."""

    def show(self, name: str, **values: Any) -> Response:
        """The page of a template."""
        run = self.reader.run
        page = page_template(f"web/templates/{name}").render(
            run_name="simgan-captcha" if run is None else run.resolve().name,
            has_run=self.reader.has_run(),
            learning=self.learning.status() if self.learning else None,
            **values,
        )
        # A message about a damaged file may contain a lone surrogate, which UTF-8 cannot encode.
        body = page.encode("utf-8", "replace")
        return HTMLResponse(body, headers={"Cache-Control": "no-cache"})

    def begun(self) -> None:
        """Redirect to the start page if there is no run yet."""
        if self.learning is not None and not self.reader.has_run():
            raise HTTPException(303, "there is no run yet", {"Location": "start"})


def _scheme(run: Path) -> Scheme:
    return Scheme.model_validate(read_run(run)["scheme"])


# The run.


def _add_run(
    app: FastAPI, run: Path, pages: Pages, exports: Exports, stopping: Callable[[], bool]
) -> None:
    page, begun = RunPage(run), [Depends(pages.begun)]
    followers = 0

    async def follower() -> AsyncIterator[None]:
        # Counted before the stream begins; otherwise simultaneous requests could exceed the limit.
        nonlocal followers
        if followers >= MAX_FOLLOWERS:
            detail = f"expected at most {MAX_FOLLOWERS} followers; close another page and try again"
            raise HTTPException(503, detail, {"Retry-After": "5"})
        followers += 1
        try:
            yield
        finally:
            followers -= 1

    @app.get("/run", response_class=HTMLResponse, include_in_schema=False, dependencies=begun)
    def run_page() -> Response:
        return pages.show("run.html", export=exports.status(), **page.values())

    @app.get("/api/run")
    def status() -> RunStatus:
        """The progress of the run."""
        return run_status(run)

    @app.get(
        "/api/run/events",
        response_class=EventSourceResponse,
        responses=describe_problems(503),
        dependencies=[Depends(follower)],
    )
    async def events() -> AsyncIterator[RunStatus]:
        """The progress of the run: at the start and after every change."""
        sent: RunStatus | None = None
        while not stopping():
            now = await run_in_threadpool(run_status, run)
            if now != sent:
                sent = now
                yield now
            await asyncio.sleep(FOLLOW_SECONDS)

    @app.get(
        "/api/run/sheets/{step}",
        response_class=FileResponse,
        responses=describe_problems(404, 422),
    )
    def sheet(step: int) -> Response:
        """The refiner's picture of one step as a PNG: synthetic, refined, difference, real."""
        path = refiner_sheets(run).get(step)
        if path is None:
            raise HTTPException(404, f"the refiner has saved no picture of step {step}")
        return FileResponse(path, media_type="image/png")


# Review readings.


def _add_review(app: FastAPI, run: Path, pages: Pages, lessons: Lessons) -> None:
    gallery, corrections = Gallery(run), Corrections(run)
    _add_review_page(app, run, pages, lessons, gallery, corrections)

    def reading_of(key: str) -> Reading:
        reading = gallery.reading(key)
        if reading is None:
            raise HTTPException(404, "expected the SHA-256 of the name of a captcha that was read")
        return reading

    @app.get(
        "/api/captchas/{key}", response_class=Response, responses=describe_problems(404, 422, 503)
    )
    def captcha(key: str) -> Response:
        """One captcha as it was received. ``key`` is the SHA-256 of its name."""
        image = gallery.image(key)
        if image is None:
            raise HTTPException(404, "expected the SHA-256 of the name of a captcha in the store")
        headers = {"Cache-Control": "private, max-age=3600"}
        kind = kind_of(image)
        if kind == "TIFF":  # few browsers show it
            image, kind = encode_png(decode_rgb(image)), "PNG"
        return Response(image, media_type=f"image/{kind.lower()}", headers=headers)

    @app.put("/api/corrections/{key}", responses=describe_problems(403, 404, 422, 503))
    def correct(key: str, correction: CorrectionText) -> Correction:
        """Save the correction of a captcha. Its reading does not change."""
        reading = reading_of(key)
        total = corrections.put(reading.name, correction.text, _scheme(run))
        return Correction(reading=reading.text, text=correction.text, total=total)

    @app.delete("/api/corrections/{key}", responses=describe_problems(403, 404, 422, 503))
    def forget(key: str) -> Correction:
        """Remove the correction of a captcha."""
        reading = reading_of(key)
        total = corrections.put(reading.name, None, _scheme(run))
        return Correction(reading=reading.text, text=None, total=total)

    @app.get("/api/corrections.csv", response_class=Response, responses=describe_problems(503))
    def export() -> Response:
        """All corrections as CSV (name,label), for ``simgan-captcha judge --labels``."""
        headers = {"Content-Disposition": 'attachment; filename="corrections.csv"'}
        return Response(labels_csv(corrections.texts()), media_type="text/csv", headers=headers)


def _add_review_page(
    app: FastAPI,
    run: Path,
    pages: Pages,
    lessons: Lessons,
    gallery: Gallery,
    corrections: Corrections,
) -> None:
    begun = [Depends(pages.begun)]

    @app.get("/review", response_class=HTMLResponse, include_in_schema=False, dependencies=begun)
    def review_page(
        page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
        order: Order | Literal["useful"] = "useful",
        character: Annotated[str, Query(max_length=1)] = "",
    ) -> Response:
        texts, labelled, found, problems = dict[str, str](), set[str](), None, []
        try:
            texts = corrections.texts()
            labelled = labelled_names(run)
        except RunError as error:
            problems.append(str(error))
        try:
            if order == "useful":
                found = gallery.questions(labelled | texts.keys(), character)
            else:
                found = gallery.page(page, order, character)
        except RunError as error:
            problems.append(str(error))
        return pages.show(
            "review.html",
            scheme=_scheme(run),
            order=order,
            character=character,
            page=found,
            cards=[_card(reading, texts.get(reading.name)) for reading in found.readings]
            if found
            else [],
            corrected=len(texts),
            elsewhere=len(labelled - texts.keys()),
            teaching=lessons.status(),
            problems=problems,
        )


def _card(reading: Reading, text: str | None) -> dict[str, Any]:
    return {
        "key": captcha_key(reading.name),
        "text": reading.text,
        "confidence": reading.confidence,
        "characters": marked_characters(reading),
        "correction": text,
    }
