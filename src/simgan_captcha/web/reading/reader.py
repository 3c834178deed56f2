"""Chooses the reader of uploaded images: the run's recognizer, or the generalist before."""

from collections.abc import Sequence
from pathlib import Path

from simgan_captcha.errors import UsageError
from simgan_captcha.generalist.characters import MOST_CHARACTERS
from simgan_captcha.pipeline.manifest import why_outdated
from simgan_captcha.pipeline.run_folder import DIAGNOSIS, RUN, read_run
from simgan_captcha.scheme import Length
from simgan_captcha.web.jobs.learning import NewRun
from simgan_captcha.web.reading.answers import Answer
from simgan_captcha.web.reading.generalist import Family, read_with_generalist
from simgan_captcha.web.reading.run_reader import RunReader


class ImageReader:
    """Reads images with the run's recognizer; until the run is finished, with the generalist.

    Args:
        run: Folder of the run; None to read with the generalist only.
        new: A folder of images that the run learns from; then the run need not exist.
    """

    def __init__(self, run: Path | None, new: NewRun | None = None) -> None:
        self.new = new
        self.run = run
        self._by_run = None if run is None else RunReader(run)

    def read(
        self, files: Sequence[tuple[str, bytes]], asked: Family, *, explain: bool
    ) -> list[Answer]:
        """Read encoded images, in order; one that cannot be read does not affect the others.

        Args:
            files: Name and bytes of each image. The name is only returned.
            asked: Alphabet and length of the request, which a run does without.
            explain: Whether to return the pictures of the run's recognizer.

        Raises:
            UsageError: The request has an alphabet or a length that cannot be used.
            RunError: The run is damaged, or the generalist cannot read its texts.
        """
        if self.has_run() and asked != Family():
            raise UsageError(
                "expected no alphabet and no length, because those of the run apply; leave them "
                "out, or reload the page"
            )
        if self._by_run is not None and self.finished():
            return self._by_run.read(files, explain=explain)
        return read_with_generalist(files, self.family(asked))

    def has_run(self) -> bool:
        """Whether there is a run, finished or not, whose scheme applies."""
        return self.run is not None and (self.new is None or (self.run / RUN).exists())

    def finished(self) -> bool:
        """Whether the run has learned, and has not been changed since.

        Raises:
            RunError: The record of the run is damaged.
        """
        run = self.run
        return (
            run is not None and (run / DIAGNOSIS).exists() and not why_outdated(run, read_run(run))
        )

    def family(self, asked: Family) -> Family:
        """What is known of the images: by the run, or else by the request and the first look.

        Raises:
            RunError: The record of the run is damaged.
        """
        if self.run is not None and self.has_run():
            return Family.of_run(self.run)
        look = self.new.look if self.new else None
        shared = look.background if look and look.kind == "shared" else None
        return Family(asked.alphabet, asked.length, shared)


def length_of(fewest: int | None, most: int | None) -> Length | None:
    """Fewest and most characters, of which either may be missing; None if both are."""
    if fewest is None and most is None:
        return None
    return fewest or 1, most or MOST_CHARACTERS
