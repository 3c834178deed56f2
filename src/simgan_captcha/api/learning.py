"""Learn a reader from unlabelled images, and use the finished run."""

import json
import os
import shutil
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Unpack, overload

from simgan_captcha.api.images import location_of
from simgan_captcha.api.inspection import changed_scheme, inspect
from simgan_captcha.config.settings import RunConfig
from simgan_captcha.errors import StoreError
from simgan_captcha.extras import needing
from simgan_captcha.inference.readings import Reading, load_readings
from simgan_captcha.pipeline.estimate import Estimate
from simgan_captcha.pipeline.progress import OnEvent, StageProgress, print_events
from simgan_captcha.pipeline.run_folder import (
    READINGS,
    STORE,
    Request,
    finished_config,
    read_run,
    run_estimate,
)
from simgan_captcha.scheme import HACKMIT_2017, Length, Scheme

if TYPE_CHECKING:
    from torch import nn

    from simgan_captcha.api.images import Images
    from simgan_captcha.data.background import Background
    from simgan_captcha.inference.constraints.texts import Asked
    from simgan_captcha.inference.family import Family
    from simgan_captcha.inference.reader import ImageReader, Source, Unreadable
    from simgan_captcha.pipeline.lesson import Lesson
    from simgan_captcha.recognizer.export import Parity

Settings = Mapping[str, Any] | Sequence[str]
"""Changes of a preset, such as ``{"recognizer.steps": 100}`` or ``["recognizer.steps=100"]``."""


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

    Without a scheme, the images are inspected first, see `inspect`. In this case give at least the
    alphabet and the length, because they are hard to find automatically.

    Args:
        images: A folder of JPEG or PNG images or of challenge batches, a captcha store, an address,
            or a list. Items of a list are paths, encoded bytes, Pillow images or arrays (H, W) or
            (H, W, 3).
        run: Folder of the run; finished stages in it are skipped. None uses a temporary folder,
            which is deleted together with the returned object.
        scheme: Scheme of the captcha family; `HACKMIT_2017` for the puzzle.
        alphabet: All characters that texts may contain; it replaces the alphabet of the scheme.
        length: Number of characters, or the least and the greatest number; it replaces the length
            of the scheme.
        preset: ``quick``, ``cpu``, ``paper`` or ``original``.
        seed: Random seed of everything that is drawn.
        settings: Changes of the preset, see docs/configuration.md.
        progress: Called with each event. It may raise an exception to stop the run. By default, a
            terminal shows bars, a notebook shows lines, and other outputs show only warnings.

    Raises:
        SimganCaptchaError: A setting or an image does not fit, or a stage failed. The work so far
            is kept in the folder of the run.

    Example:
        >>> learn("captchas/", alphabet="0123456789", length=4).estimate  # doctest: +SKIP
        Estimate(accuracy=0.987, low=0.981, high=0.991, known_accuracy=0.99)
    """
    import torch  # noqa: F401  # so that a missing torch is found before anything is done

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
    """Run all unfinished stages, write the report, and return its path.

    If torchrun started several processes, the other processes train together with the first.
    """
    from simgan_captcha.pipeline.run import assist, run_pipeline
    from simgan_captcha.report.report import REPORT, write_report
    from simgan_captcha.training.parallel import is_rank_zero

    if not is_rank_zero():
        assist(folder, request)
        return folder / REPORT
    run_pipeline(folder, request, progress=progress)
    return write_report(folder)


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    """Folder with the captchas, the recognizers, the readings and the report."""
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
        return run_estimate(self.folder)

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

    @cached_property
    def config(self) -> RunConfig:
        """The configuration of the run."""
        return finished_config(self.folder)

    @property
    def scheme(self) -> Scheme:
        """The scheme of the captcha family."""
        return self.config.scheme

    @cached_property
    def reader(self) -> "ImageReader":
        """The recognizer that read the images of the run.

        Raises:
            RunError: The run is not finished, or its settings have changed since.
        """
        network, background, config = self._loaded  # first, because it names a missing extra
        from simgan_captcha.inference.reader import ImageReader
        from simgan_captcha.recognizer.decode import read_probabilities, recognizer

        reader = ImageReader(
            config.scheme,
            recognizer(network, background),
            partial(read_probabilities, network, background),
        )
        reader.own_family = self._family
        reader.taught = self._taught
        return reader

    def _family(self) -> "Family | None":
        """Look of the images that the run learned from; None if they are no longer there."""
        from simgan_captcha.data.store import CaptchaStore
        from simgan_captcha.inference.family import OWN_IMAGES, Family
        from simgan_captcha.inference.reader import ImageReader
        from simgan_captcha.recognizer.decode import recognizer

        network, background, config = self._loaded
        reader = ImageReader(config.scheme, recognizer(network, background))
        try:
            images = CaptchaStore(self.folder / STORE).in_content_order().images
        except StoreError:
            return None
        list(reader.read_each(images[:OWN_IMAGES]))
        return Family.of(reader.looks)

    @overload
    def read(
        self, images: "list[Source]", **asked: Unpack["Asked"]
    ) -> "list[Reading | Unreadable]": ...
    @overload
    def read(self, images: "Source", **asked: Unpack["Asked"]) -> Reading: ...
    def read(
        self,
        images: "Source | list[Source]",
        *,
        alphabet: str | None = None,
        length: "Length | None" = None,
        pattern: str | None = None,
        top: int = 1,
    ) -> "Reading | list[Reading | Unreadable]":
        """Read new images of the captcha family; the arguments are those of `Reader.read`."""
        return self.reader.read(images, alphabet=alphabet, length=length, pattern=pattern, top=top)

    def readings(self) -> list[Reading]:
        """The readings of the images that the run learned from."""
        return load_readings(self.folder / READINGS)

    def export(self, file: str | os.PathLike[str], *, int8: bool = False) -> "Parity":
        """Write the recognizer as one ONNX file for `Reader`, which needs no torch.

        Args:
            file: Path such as ``reader.onnx``.
            int8: Whether to compute in 8 bits.

        Returns:
            A comparison of its readings of real images with those of the run.
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
            family=self._family(),
        )

    def teach(
        self,
        labels: "Mapping[str, str] | str | os.PathLike[str]",
        *,
        progress: OnEvent | None = None,
    ) -> "Lesson":
        """Teach the run with a few labels.

        Labels of earlier calls are used as well. `read` and `export` use the taught reader if it is
        better. The estimate and the readings of the run do not change.

        Args:
            labels: Texts by the names of images of the run, or the path of a CSV file with the
                header ``name,label``.
            progress: Called with each event; by default progress is shown as by `learn`.

        Returns:
            A comparison of the taught reader with the reader without labels.

        Raises:
            UsageError: No label belongs to an image of the run, or the file cannot be read.
            SchemeError: A label does not fit the scheme.
        """
        from simgan_captcha.teaching.labels import collect, keep_labels, kept_labels
        from simgan_captcha.teaching.teach import teach

        names = [reading.name for reading in self.readings()]
        keep_labels(self.folder, collect(labels, names, self.scheme).texts)
        texts = kept_labels(self.folder, names)
        with _shown(progress) as on_event:
            lesson = teach(self.folder, texts, progress=on_event)
        for loaded in ("_loaded", "reader"):  # they belong to the reader before teaching
            self.__dict__.pop(loaded, None)
        return lesson

    @property
    def lesson(self) -> "Lesson | None":
        """Summary of the teaching with labels; None if the run was not taught."""
        from simgan_captcha.pipeline.lesson import load_lesson

        return load_lesson(self.folder)

    def report(self) -> Path:
        """Write the HTML report again and return its path."""
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
