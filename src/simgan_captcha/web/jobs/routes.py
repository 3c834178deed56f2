"""The start page of a folder of images, and the routes of learning and export."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import FileResponse, HTMLResponse

from simgan_captcha.scheme import LONGEST_TEXT
from simgan_captcha.web.jobs.command import JobStatus, Nothing
from simgan_captcha.web.jobs.exports import Exports
from simgan_captcha.web.jobs.learning import Learning, LearningStatus, SchemeForm
from simgan_captcha.web.problems import describe_problems

if TYPE_CHECKING:
    from simgan_captcha.data.inspect import FirstLook

_BACKGROUNDS = {
    "shared": "All have the same picture behind the text.",
    "plain": "The background of each image has one colour.",
    "varying": "The background has gradients, clouds or areas of different colours.",
}


def add_learning(app: FastAPI, learning: Learning, page: Callable[..., Response]) -> None:
    """Add the start page, and learning from a folder of images.

    Args:
        app: The application.
        learning: The command that learns.
        page: Renders a template with values.
    """
    new = learning.new

    @app.get("/start", response_class=HTMLResponse, include_in_schema=False)
    def start_page() -> Response:
        return page(
            "start.html",
            new=new,
            found=_in_words(new.look),
            form=learning.form(),
            longest=LONGEST_TEXT,
        )

    @app.get("/api/contact-sheet", response_class=Response)
    def sheet() -> Response:
        """Some of the images with the generalist's readings, as PNG."""
        return Response(new.sheet, media_type="image/png")

    @app.post("/api/learning", status_code=202, responses=describe_problems(403, 409, 422, 503))
    def learn(form: SchemeForm) -> LearningStatus:
        """Start the run with this scheme, or continue it."""
        return learning.start(form)

    @app.get("/api/learning")
    def status() -> LearningStatus:
        """The state of learning."""
        return learning.status()

    @app.delete("/api/learning", responses=describe_problems(403))
    def stop() -> LearningStatus:
        """Stop the run. What is finished is kept."""
        learning.stop()
        return learning.status()


def add_export(app: FastAPI, exports: Exports, name: str) -> None:
    """Add the export of the reader as ONNX.

    Args:
        app: The application.
        exports: The command that exports.
        name: Name of the file for the user.
    """

    @app.post("/api/export", status_code=202, responses=describe_problems(403, 409, 422, 503))
    def export(_: Nothing) -> JobStatus:
        """Start the export of the run's reader."""
        return exports.start()

    @app.get("/api/export")
    def status() -> JobStatus:
        """The export in progress, or the last one of this reader."""
        return exports.status()

    @app.get("/api/reader.onnx", response_class=FileResponse, responses=describe_problems(404))
    def reader() -> Response:
        """The exported reader."""
        path = exports.file()
        if path is None:
            raise HTTPException(404, "expected an exported reader, found none; export it first")
        return FileResponse(path, media_type="application/octet-stream", filename=name)


def _in_words(look: "FirstLook") -> list[str]:
    """Sentences about the images."""
    width, height = look.size
    if len(look.sizes) == 1:
        sizes = f"All have {width}×{height} pixels."
    else:
        sizes = f"They have {len(look.sizes)} sizes, most often {width}×{height} pixels."
    return [
        f"{look.looked_at:,} of {look.files:,} images were inspected.",
        sizes,
        _BACKGROUNDS[look.kind],
    ]
