"""Adds images from a folder, a zip file, challenge batches or a URL to the captcha store.

Invalid images and invalid batches go to the quarantine with a reason; the others are still stored.
Every image of every readable batch is counted exactly once: as stored, duplicate or quarantined.
Stored batches are never fetched again.
"""

import asyncio
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from simgan_captcha.addresses import is_url, without_password
from simgan_captcha.data.batch import Unpacked, unpack, unpack_batch
from simgan_captcha.data.fetch import batch_urls, fetch_batches
from simgan_captcha.data.folder import (
    ImageFile,
    file_head,
    find_images,
    image_groups,
    read_batch,
    read_files,
)
from simgan_captcha.data.kinds import in_words
from simgan_captcha.data.settings import DownloadSettings
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.errors import BatchError, DownloadError, StoreError, UsageError
from simgan_captcha.scheme import Scheme
from simgan_captcha.shown import without_home

DEFAULT_BATCHES = 20
"""Default number of batches from a URL."""

MAX_REASONS = 20
"""Maximum number of reasons in the report; the rest are added under one heading."""

_OTHER_SIZE = re.compile(r", got \d+x\d+$")

Place = TypeVar("Place", httpx.URL, Path, tuple[ImageFile, ...])

OnProgress = Callable[[int, int, int], None]
"""Called with the finished batches, all batches, and the images stored so far."""


@dataclass(frozen=True, slots=True)
class IngestReport:
    """Counts of all batches and images of one location, including earlier runs.

    ``batches_stored + batches_skipped + batches_failed == batches_expected`` and
    ``images_stored + duplicates + quarantined == images_expected``.
    """

    location: str
    batches_expected: int
    batches_stored: int
    batches_skipped: int
    """Already in the store, from an earlier run."""
    batches_failed: int
    """Failed batches; the next run tries them again."""
    failures: tuple[str, ...]
    """One line for each failed batch: source and reason."""
    files_ignored: int
    """Number of entries that are neither batches nor images."""
    left_out: dict[str, int]
    """Counts of these entries by kind."""
    images_expected: int
    images_stored: int
    duplicates: int
    quarantined: int
    reasons: dict[str, int]
    """Images in the quarantine by reason, most frequent first."""
    notes: dict[str, int]
    """Counts of remarks on stored images, see `pictures.Picture.notes`."""


def ingest(
    location: str | Path,
    store_folder: Path,
    *,
    scheme: Scheme,
    user: str,
    batches: int | None = None,
    settings: DownloadSettings | None = None,
    on_progress: OnProgress | None = None,
) -> IngestReport:
    """Add the batches of a location to a store; stored batches are not fetched again.

    Must not be called from a running asyncio loop. Each batch is stored as soon as it arrives,
    so an interrupted ingestion keeps the finished batches.

    Args:
        location: A folder or a zip file of images, a folder of files ``challenge-*`` or ``*.json``,
            see `folder.find_images`; or an address, see `fetch.batch_urls`.
        store_folder: Folder of the captcha store, created if missing.
        scheme: Scheme that images must fit, see `foreground.open_scheme_image`.
        user: User of the puzzle, if the location is an address.
        batches: Maximum number of batches. By default all files of a folder are used, and
            `DEFAULT_BATCHES` of a URL. A thousand image files count as one batch.
        settings: Rate, retries and redirects of HTTP requests, and whether subfolders are searched.
        on_progress: Called before the first batch and after each batch.

    Raises:
        UsageError: The location has no images or batches, has both, or is not a valid address.
        DownloadError: There is not a single usable image; the message gives the reason.
        StoreError: The store is damaged or cannot be written.
    """
    settings = settings or DownloadSettings()
    if batches is not None and batches < 1:
        raise UsageError(f"expected at least 1 batch, got {batches}; ask for one or more")
    text = str(location)
    if is_url(text):
        urls = batch_urls(text, user, batches or DEFAULT_BATCHES)
        run = _Ingestion(store_folder, scheme, list(urls), on_progress)
        asyncio.run(_fetch_all(run.missing(urls), run, settings))
        return run.report(without_password(text), {})
    place = Path(location)
    found = find_images(place, recursive=settings.recursive)
    if found.files:
        groups = dict(itertools.islice(image_groups(place, found.files).items(), batches))
        run = _Ingestion(store_folder, scheme, list(groups), on_progress)
        for source, group in run.missing(groups):
            run.add(source, unpack(read_files(group), scheme))
    else:
        files = {without_home(path.resolve().as_uri()): path for path in found.batches[:batches]}
        run = _Ingestion(store_folder, scheme, list(files), on_progress)
        _read_all(run.missing(files), run)
    return run.report(without_home(text), found.left_out)


def ingest_warnings(report: IngestReport) -> list[str]:
    """Warnings about failed batches, quarantined images and ignored files."""
    warnings = []
    if report.batches_failed:
        warnings.append(
            f"{report.batches_failed} of {report.batches_expected} batches could not be loaded, "
            f"first: {report.failures[0]}; repeat the command to try them again"
        )
    if report.quarantined:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in report.reasons.items())
        warnings.append(f"{report.quarantined} images were set aside: {reasons}")
    return warnings + in_words(report.left_out, report.notes)


class _Ingestion:
    """Adds batches to the store and counts them."""

    def __init__(
        self,
        store_folder: Path,
        scheme: Scheme,
        sources: list[str],
        on_progress: OnProgress | None,
    ) -> None:
        self.store = store = CaptchaStore(store_folder)
        store.discard_partial_files()
        self.scheme = scheme
        self.sources = sources
        self.counts = {source: store.counts(source) for source in sources if store.has(source)}
        self.failures: dict[str, str] = {}
        self.skipped = len(self.counts)
        self.on_progress = on_progress
        self._report_progress()

    def missing(self, places: Mapping[str, Place]) -> Iterator[tuple[str, Place]]:
        """Batches that are not in the store, with their sources."""
        return iter([(source, at) for source, at in places.items() if not self.store.has(source)])

    def add(self, source: str, unpacked: Unpacked) -> None:
        counts = self.counts[source] = self.store.add(source, *unpacked)
        if not self.store.has(source):
            common = Counter(one.reason for one in unpacked.rejected).most_common(1)
            why = common[0][0] if common else "all names are already used by other images"
            self.failures[source] = f"none of its {counts.expected} images can be used: {why}"
        self._report_progress()

    def fail(self, source: str, reason: str, data: bytes) -> None:
        self.failures[source] = reason
        self.store.set_aside(source, reason, data)
        self._report_progress()

    def report(self, location: str, left_out: Mapping[str, int]) -> IngestReport:
        stored = sum(counts.stored for counts in self.counts.values())
        duplicates = sum(counts.duplicates for counts in self.counts.values())
        failures = [
            without_home(f"{source}: {self.failures[source]}")
            for source in self.sources
            if source in self.failures
        ]
        if stored + duplicates == 0:
            raise DownloadError(
                f"expected captchas from {location}, got none out of {len(self.sources)} batches; "
                f"the first: {failures[0]}"
            )
        self._check_counts()
        return IngestReport(
            location=location,
            batches_expected=len(self.sources),
            batches_stored=len(self.sources) - self.skipped - len(failures),
            batches_skipped=self.skipped,
            batches_failed=len(failures),
            failures=tuple(failures),
            files_ignored=sum(left_out.values()),
            left_out=dict(left_out),
            images_expected=sum(counts.expected for counts in self.counts.values()),
            images_stored=stored,
            duplicates=duplicates,
            quarantined=sum(counts.quarantined for counts in self.counts.values()),
            reasons=_shortened(self.store.reasons(self.sources)),
            notes=self.store.notes(self.sources),
        )

    def _check_counts(self) -> None:
        """Open the stored files again, and check that they agree with the counts."""
        found = CaptchaStore(self.store.folder)
        for source, counts in self.counts.items():
            if source in self.failures:
                continue
            there = found.counts(source) if found.has(source) else None
            if there != counts:
                raise StoreError(
                    f"expected {counts} of {source} in {found.folder}, found {there}; no "
                    "other program may change that folder; run again to fetch what is missing"
                )

    def _report_progress(self) -> None:
        if self.on_progress is not None:
            done = len(self.counts.keys() | self.failures.keys())
            images = sum(counts.stored for counts in self.counts.values())
            self.on_progress(done, len(self.sources), images)


def _shortened(reasons: Mapping[str, int]) -> dict[str, int]:
    """The most frequent reasons; reasons that differ only in the image size are merged."""
    grouped: Counter[str] = Counter()
    sizes = Counter(_OTHER_SIZE.sub("", reason) for reason in reasons)
    for reason, count in reasons.items():
        alike = _OTHER_SIZE.sub("", reason)
        grouped[f"{alike}, got {sizes[alike]} other sizes" if sizes[alike] > 1 else reason] += count
    # A hostile batch can cause a different reason for each image.
    shown = dict(grouped.most_common(MAX_REASONS))
    rest = grouped.total() - sum(shown.values())
    return {**shown, "other reasons": rest} if rest else shown


# Folders


def _read_all(missing: Iterator[tuple[str, Any]], run: _Ingestion) -> None:
    for source, path in missing:
        try:
            images = read_batch(path)
        except OSError as error:
            run.fail(source, str(error), b"")
        except BatchError as error:
            run.fail(source, str(error), file_head(path))
        else:
            run.add(source, unpack_batch(images, run.scheme))


# HTTP


async def _fetch_all(
    missing: Iterator[tuple[str, httpx.URL]], run: _Ingestion, settings: DownloadSettings
) -> None:
    async def add(source: str, images: list[Any]) -> None:
        # In a thread, so that other requests continue.
        run.add(source, await asyncio.to_thread(unpack_batch, images, run.scheme))

    await fetch_batches(missing, settings, add, run.fail)
