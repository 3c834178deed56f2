"""Learn a reader from unlabelled images, and use the finished run."""

import json
import os
import shutil
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, overload

from simgan_captcha.api.images import location_of
from simgan_captcha.api.inspection import changed_scheme, inspect
from simgan_captcha.config.settings import RunConfig
from simgan_captcha.extras import needing
from simgan_captcha.inference.readings import Reading, load_readings
from simgan_captcha.pipeline.estimate import Estimate
from simgan_captcha.pipeline.progress import OnEvent, StageProgress, print_events
from simgan_captcha.pipeline.run_folder import (
    READINGS,
    STORE,
    Request,
    read_diagnosis,
    read_run,
)
from simgan_captcha.scheme import HACKMIT_2017, Length, Scheme

if TYPE_CHECKING:
    from torch import nn

    from simgan_captcha.api.images import Images
    from simgan_captcha.data.background import Background
    from simgan_captcha.inference.reader import ImageReader, Source, Unreadable
    from simgan_captcha.pipeline.lesson import Lesson
    from simgan_captcha.recognizer.export import Parity

Settings = Mapping[str, Any] | Sequence[str]
"""Changes of a preset, as ``{"reader.steps": 100}`` or ``["reader.steps=100"]``."""


@needing("learn", "learning")
def learn(
    images: "Images",
    *,
    run: str | os.PathLike[str] | None = None,
    scheme: Scheme | None = None,
    alphabet: str | None = None,
    length: Length | None = None,
    preset: str = "quick",
    seed: int = 1,
    settings: Settings = (),
    progress: OnEvent | None = None,
) -> "Run":
    """Learn from unlabelled images, and read all of them.

    Without a scheme the images are inspected first, see `inspect`; then give at least an alphabet
    and a length, because these are hard to see.

    Args:
        images: A folder of JPEG or PNG images or of challenge batches, a captcha store, an address,
            or a list of paths, encoded bytes, Pillow images or arrays (H, W) or (H, W, 3).
        run: Folder of the run; finished stages in it are skipped. None takes a temporary one, which
            is deleted together with the returned object.
        scheme: The captcha family; `HACKMIT_2017` for the puzzle's.
        alphabet: Every character that a text may hold; overrides the scheme's.
        length: Number of characters, or the least and the greatest; overrides the scheme's.
        preset: ``quick``, ``cpu``, ``paper`` or ``original``.
        seed: Random seed of everything that is drawn.
        settings: Changes of the preset, see docs/configuration.md.
        progress: Called with each event, and may raise to stop the run. By default there are bars
            on a terminal, lines in a notebook, and only warnings elsewhere.

    Raises:
        SimganCaptchaError: A setting or an image does not fit, or a stage failed. The work so far
            is kept in the folder of the run.

    Example:
        >>> learn("captchas/", alphabet="0123456789", length=4).estimate  # doctest: +SKIP
        Estimate(accuracy=0.987, low=0.981, high=0.991, known_accuracy=0.99)
    """
    import torch  # noqa: F401  # where it is missing, before anything is done

    if scheme is None:
        scheme = inspect(images, alphabet=alphabet, length=length).scheme
    else:
        scheme = changed_scheme(scheme, alphabet, length)
    request = Request(
        "",
        preset=preset,
        seed=seed,
        scheme=None if scheme == HACKMIT_2017 else scheme,
        settings=_assignments(settings),
    )
    request.config()  # a mistake is found before anything is written
    with _folder(run) as folder, _shown(progress) as on_event:
        complete(folder, replace(request, challenges=location_of(images, folder)), on_event)
    return Run(folder, _temporary=run is None)


def complete(folder: Path, request: Request, progress: OnEvent) -> Path:
    """Run all stages that are not finished and write the report; the path of the report.

    Of several processes that torchrun started, the others train along with the first.
    """
    from simgan_captcha.pipeline.run import assist, run_pipeline
    from simgan_captcha.report.report import REPORT, write_report
    from simgan_captcha.training.parallel import leads

    if not leads():
        assist(folder, request)
        return folder / REPORT
    run_pipeline(folder, request, progress=progress)
    return write_report(folder)


@dataclass(frozen=True)
class Run:
    """A finished run in its folder."""

    folder: Path
    """Holds the captchas, the recognizers, the readings and the report."""
    _temporary: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        read_run(self.folder)
        if self._temporary:
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    @property
    def estimate(self) -> Estimate:
        """The estimated share of captchas that are read correctly; it needs no labels.

        Raises:
            RunError: The run is not finished.
        """
        diagnosis = read_diagnosis(self.folder)
        return Estimate(**diagnosis["estimates"][diagnosis["kept"]])

    @cached_property
    @needing("learn", "the reader of a run")
    def _loaded(self) -> "tuple[nn.Module, Background, RunConfig]":
        from simgan_captcha.pipeline.run import load_run_reader

        return load_run_reader(self.folder)

    @property
    def _taught(self) -> int:
        """Number of labels that the reader in use was taught with."""
        lesson = self.lesson
        return lesson.labels if lesson and lesson.better else 0

    @property
    def config(self) -> RunConfig:
        """The whole configuration."""
        return self._loaded[2]

    @property
    def scheme(self) -> Scheme:
        """The captcha family."""
        return self.config.scheme

    @cached_property
    def reader(self) -> "ImageReader":
        """The recognizer with the highest estimated accuracy.

        Raises:
            RunError: The run is not finished, or has been changed since.
        """
        network, background, config = self._loaded  # first: it says which extra is missing
        from simgan_captcha.inference.reader import ImageReader
        from simgan_captcha.recognizer.decode import recogniser

        reader = ImageReader(config.scheme, recogniser(network, background))
        reader.taught = self._taught
        return reader

    @overload
    def read(self, images: "list[Source]") -> "list[Reading | Unreadable]": ...
    @overload
    def read(self, images: "Source") -> Reading: ...
    def read(self, images: "Source | list[Source]") -> "Reading | list[Reading | Unreadable]":
        """Read other images of the family, see `ImageReader.read`."""
        return self.reader.read(images)

    def readings(self) -> list[Reading]:
        """The readings of the images that the run learned from."""
        return load_readings(self.folder / READINGS)

    def export(self, file: str | os.PathLike[str], *, int8: bool = False) -> "Parity":
        """Write the recognizer as one ONNX file for `Reader`, which needs no torch.

        Args:
            file: Path, as ``reader.onnx``.
            int8: Whether to compute in 8 bits.

        Returns:
            How its readings of real images compare with those of the run.
        """
        from simgan_captcha.data.store import CaptchaStore
        from simgan_captcha.pipeline.run_data import load_images
        from simgan_captcha.recognizer.export import COMPARED, export_reader

        network, background, config = self._loaded
        _, images = load_images(CaptchaStore(self.folder / STORE), config.scheme)
        return export_reader(
            Path(file),
            network,
            background,
            config.scheme,
            images[:COMPARED],
            int8=int8,
            taught=self._taught,
        )

    def teach(
        self,
        labels: "Mapping[str, str] | str | os.PathLike[str]",
        *,
        progress: OnEvent | None = None,
    ) -> "Lesson":
        """Teach the run with a few labels.

        `read` and `export` use the taught reader if it is better. The estimate and the readings of
        the run stay those without labels.

        Args:
            labels: Texts by the names of images of the run, or the path of a CSV file with the
                header ``name,label``.
            progress: Called with each event; by default progress is shown.

        Returns:
            How the taught reader compares with the one without labels.

        Raises:
            UsageError: No label belongs to an image of the run, or the file cannot be read.
            SchemeError: A label does not fit the scheme.
        """
        from simgan_captcha.teaching.labels import collect, labels_of
        from simgan_captcha.teaching.teach import teach

        names = [reading.name for reading in self.readings()]
        given = labels if isinstance(labels, Mapping) else labels_of(labels)
        texts = collect(given, names, self.scheme).texts
        with _shown(progress) as on_event:
            lesson = teach(self.folder, texts, progress=on_event)
        for loaded in ("_loaded", "reader"):  # of the reader before
            self.__dict__.pop(loaded, None)
        return lesson

    @property
    def lesson(self) -> "Lesson | None":
        """What the run was taught with labels; None if it was not."""
        from simgan_captcha.pipeline.lesson import load_lesson

        return load_lesson(self.folder)

    def report(self) -> Path:
        """Write the HTML report again; its path."""
        from simgan_captcha.report.report import write_report

        return write_report(self.folder)


def _assignments(settings: Settings) -> tuple[str, ...]:
    if isinstance(settings, Mapping):
        return tuple(f"{key}={json.dumps(value)}" for key, value in settings.items())
    return tuple(settings)


@contextmanager
def _folder(run: str | os.PathLike[str] | None) -> Iterator[Path]:
    """The folder of a run; a temporary one is deleted if the run fails."""
    if run is not None:
        yield Path(run)
        return
    folder = Path(mkdtemp(prefix="simgan-captcha-"))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def _shown(progress: OnEvent | None) -> Iterator[OnEvent]:
    if progress is not None:
        yield progress
    elif "ipykernel" in sys.modules:
        yield print_events
    else:
        with StageProgress() as bars:
            bars.quiet = not bars.console.is_terminal
            yield bars
