"""The page that reads images, and the read API."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, Query, Response, UploadFile
from fastapi.responses import HTMLResponse
from starlette.concurrency import run_in_threadpool

from simgan_captcha.data.images import MAX_BYTES
from simgan_captcha.errors import SimganCaptchaError
from simgan_captcha.generalist.characters import MOST_CHARACTERS
from simgan_captcha.report.diagnosis import lesson_shown
from simgan_captcha.web.problems import describe_problems, problem
from simgan_captcha.web.reading.answers import ImageRefusal, Readings
from simgan_captcha.web.reading.generalist import Family
from simgan_captcha.web.reading.reader import ImageReader, length_of

_Characters = Annotated[
    int | None,
    Query(ge=1, le=MOST_CHARACTERS, description="Number of characters, for the generalist."),
]


def add_reading(
    app: FastAPI,
    reader: ImageReader,
    page: Callable[..., Response],
    begun: Callable[[], None],
) -> None:
    """Add the page and the API.

    Args:
        app: The application.
        reader: Reads the images.
        page: Renders the template with values.
        begun: Redirects from the first page to the start page, if nothing has been learned.
    """

    @app.get(
        "/", response_class=HTMLResponse, include_in_schema=False, dependencies=[Depends(begun)]
    )
    @app.get("/read", response_class=HTMLResponse, include_in_schema=False)
    def read_page() -> Response:
        return page("read.html", **_values(reader), most_bytes=MAX_BYTES, longest=MOST_CHARACTERS)

    @app.post(
        "/api/read",
        response_model=Readings,
        response_model_exclude_none=True,
        responses=describe_problems(400, 403, 408, 413, 422, 503),
    )
    async def read(
        files: Annotated[list[UploadFile], File(description="Images of one captcha family.")],
        explain: Annotated[
            bool,
            Query(
                description="Also return the input of the run's recognizer and a heat map of each "
                "character."
            ),
        ] = False,
        alphabet: Annotated[
            str | None, Query(description="Characters that texts may contain, for the generalist.")
        ] = None,
        min_length: _Characters = None,
        max_length: _Characters = None,
    ) -> Any:
        """Read images with the run's recognizer, or with the generalist until the run is finished.

        An image that cannot be read has an error in its place. Without a run, the generalist reads
        any text of the given alphabet and length.
        """
        given = [(file.filename or "", await file.read()) for file in files]
        asked = Family(alphabet, length_of(min_length, max_length))
        answers = await run_in_threadpool(reader.read, given, asked, explain=explain)
        refused = [answer for answer in answers if isinstance(answer, ImageRefusal)]
        if len(refused) == len(answers):
            return problem(422, refused[0].error, errors=[each.model_dump() for each in refused])
        return Readings(readings=answers)


def _values(reader: ImageReader) -> dict[str, Any]:
    """Variables of the template."""
    finished, family, why = reader.finished(), reader.family(Family()), None
    if not finished:
        try:
            family.reader()
        except SimganCaptchaError as error:
            why = str(error)
    return {
        "finished": finished,
        "scheme": family.scheme,
        "proposed": reader.new.scheme if reader.new else None,
        "unreadable": why,
        "lesson": None if reader.run is None else lesson_shown(reader.run, []),
    }
