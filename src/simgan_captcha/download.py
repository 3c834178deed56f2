"""Challenge batches from a URL or a folder into the captcha store.

A batch is ``{"images": [{"name": "...", "jpg_base64": "..."}, ...]}``. Whatever arrives is hostile
until checked: a bad image is set aside with its reason, a bad batch as a whole, and neither is
fatal to the rest. Every image of every batch that could be unpacked is counted exactly once:
stored, duplicate, or quarantined. A batch whose part is in the store is never fetched again.
"""

import asyncio
import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, Field
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

import simgan_captcha
from simgan_captcha.errors import BatchError, DownloadError, ImageError, UsageError
from simgan_captcha.images import check_image
from simgan_captcha.loopback import LOOPBACK_DIRECT
from simgan_captcha.scheme import Scheme
from simgan_captcha.store import Captcha, CaptchaStore, RejectedCaptcha

DEFAULT_BATCHES = 20
"""Batches asked of a URL that can give any number."""

MAX_IMAGES_PER_BATCH = 100_000
MAX_NAME_CHARACTERS = 256
MAX_REDIRECTS = 5
MAX_REASONS = 20
"""The report lists this many reasons; the rest are summed under one heading."""

OnProgress = Callable[[int, int, int], None]
"""Called with batches done, batches in all, images stored so far."""


class DownloadSettings(BaseModel):
    """How politely and how patiently batches are fetched."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    concurrency: int = Field(default=4, ge=1, le=64)
    """Requests under way at once."""
    attempts: int = Field(default=5, ge=1, le=100)
    """Times one batch is asked for before it is given up."""
    backoff_seconds: float = Field(default=0.5, ge=0)
    """First wait between attempts; it doubles each time, with as much jitter added."""
    max_wait_seconds: float = Field(default=30.0, ge=0)
    """Longest wait between attempts, whatever the server's Retry-After says."""
    silence_seconds: float = Field(default=15.0, gt=0)
    """A server that sends nothing for so long is given up."""
    request_seconds: float = Field(default=120.0, gt=0)
    """A whole attempt, redirects and body included, may take so long."""
    max_batch_bytes: int = Field(default=64 * 2**20, ge=1)
    """Larger batches are cut and refused."""


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What became of every batch and image of one location, earlier runs included.

    ``batches_stored + batches_skipped + batches_failed == batches_expected`` and
    ``images_stored + duplicates + quarantined == images_expected``.
    """

    location: str
    batches_expected: int
    batches_stored: int
    batches_skipped: int
    """In the store already, from an earlier run."""
    batches_failed: int
    """Tried again at the next run."""
    failures: tuple[str, ...]
    """One line for each failed batch: source and reason."""
    files_ignored: int
    """Entries of a folder that are not named like batches."""
    images_expected: int
    images_stored: int
    duplicates: int
    quarantined: int
    reasons: dict[str, int]
    """Images of the store's quarantine by reason, the most frequent first."""


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
    """Bring the batches of a location into a store; what is there already is not fetched again.

    Must not be called from a running asyncio loop. Batches are stored as they come, so an interrupt
    leaves all that were done.

    Args:
        location: A folder of files ``challenge-*`` or ``*.json``; a server ``http(s)://host[:port]``;
            its ``.../challenge`` address, ``{user}`` filled in, every answer a fresh batch; or an
            address with ``{n}``, counted from 0.
        store_folder: The captcha store to add to, made if missing.
        scheme: Its width and height are what images must measure.
        user: Puzzle user whose challenges are asked for; folders need none.
        batches: How many; by default all files of a folder, `DEFAULT_BATCHES` of a URL.
        settings: Time-outs, retries and limits of HTTP requests; files obey the size limit too.
        on_progress: Called before the first batch and after each.

    Raises:
        UsageError: The location is no folder of batches and no such address.
        DownloadError: Not one image could be had; the message says why.
        StoreError: The store is damaged, or the disk does not take it.
    """
    settings = settings or DownloadSettings()
    if batches is not None and batches < 1:
        raise UsageError(f"expected at least 1 batch, got {batches}; ask for one or more")
    text = str(location)
    remote = "://" in text or re.match(r"https?:", text, re.IGNORECASE) is not None
    ignored = 0
    places: dict[str, httpx.URL] | dict[str, Path]
    if remote:
        places = _urls(text, user, batches or DEFAULT_BATCHES)
    else:
        places, ignored = _files(Path(location), batches)
    store = CaptchaStore(store_folder)
    store.discard_partial_files()
    run = _Ingestion(store, scheme, list(places), on_progress)
    missing = iter([(source, place) for source, place in places.items() if not store.has(source)])
    if remote:
        asyncio.run(_fetch_all(missing, run, settings))
    else:
        _read_all(missing, run, settings.max_batch_bytes)
    return run.report(without_password(text) if remote else text, ignored)


def parse_batch(data: bytes) -> list[Any]:
    """The images of one batch as they stand in its JSON, not yet checked; at least one.

    Raises:
        BatchError: Not the JSON of a batch.
    """
    expected = 'expected the JSON of a batch, {"images": [...]}'
    try:
        batch = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BatchError(f"{expected}, got bytes starting {data[:24]!r} ({error})") from None
    images = batch.get("images") if isinstance(batch, dict) else None
    if not isinstance(images, list):
        raise BatchError(f'{expected}, got JSON without a list of "images"')
    if not 1 <= len(images) <= MAX_IMAGES_PER_BATCH:
        raise BatchError(f"{expected} with 1 to {MAX_IMAGES_PER_BATCH} images, got {len(images)}")
    return images


def unpack_batch(images: list[Any], scheme: Scheme) -> tuple[list[Captcha], list[RejectedCaptcha]]:
    """Check every image of `parse_batch`: the good ones, and the others with their reasons."""
    captchas: list[Captcha] = []
    rejected: list[RejectedCaptcha] = []
    for entry in images:
        fields = entry if isinstance(entry, dict) else {}
        name, encoded = fields.get("name"), fields.get("jpg_base64")
        data = encoded.encode(errors="replace") if isinstance(encoded, str) else b""
        try:
            label = _check_name(name)
            if not isinstance(encoded, str):
                raise BatchError(f'expected text in "jpg_base64", got {type(encoded).__name__}')
            data = base64.b64decode(encoded, validate=True)
            check_image(data, width=scheme.width, height=scheme.height)
            captchas.append(Captcha(label, data))
        except (BatchError, ImageError) as error:
            rejected.append(RejectedCaptcha(_storable(name), str(error), data))
        except (binascii.Error, ValueError) as error:
            reason = f"expected base64 of an image, got other text ({error})"
            rejected.append(RejectedCaptcha(_storable(name), reason, data))
    return captchas, rejected


def _check_name(name: object) -> str:
    if not isinstance(name, str):
        raise BatchError(f'expected text in "name", got {type(name).__name__}')
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        raise BatchError(
            f"expected a name of 1 to {MAX_NAME_CHARACTERS} characters, got {len(name)}"
        )
    if name != _storable(name):
        raise BatchError("expected a name of Unicode characters, got half a surrogate pair")
    return name


def _storable(name: object) -> str:
    """A label for the quarantine, short and valid UTF-8 whatever came."""
    if not isinstance(name, str):
        return ""
    return name[:MAX_NAME_CHARACTERS].encode(errors="backslashreplace").decode()


class _Ingestion:
    """Adds batches to the store and keeps count."""

    def __init__(
        self,
        store: CaptchaStore,
        scheme: Scheme,
        sources: list[str],
        on_progress: OnProgress | None,
    ) -> None:
        self.store = store
        self.scheme = scheme
        self.sources = sources
        self.counts = {source: store.counts(source) for source in sources if store.has(source)}
        self.failures: dict[str, str] = {}
        self.skipped = len(self.counts)
        self.on_progress = on_progress
        self._tell()

    def add(self, source: str, captchas: list[Captcha], rejected: list[RejectedCaptcha]) -> None:
        counts = self.counts[source] = self.store.add(source, captchas, rejected)
        if not self.store.has(source):
            common = Counter(one.reason for one in rejected).most_common(1)
            why = common[0][0] if common else "every name belongs to another image"
            self.failures[source] = f"none of its {counts.expected} images can be used: {why}"
        self._tell()

    def fail(self, source: str, reason: str, data: bytes) -> None:
        self.failures[source] = reason
        self.store.set_aside(source, reason, data)
        self._tell()

    def report(self, location: str, ignored: int) -> IngestReport:
        stored = sum(counts.stored for counts in self.counts.values())
        duplicates = sum(counts.duplicates for counts in self.counts.values())
        failures = [
            f"{source}: {self.failures[source]}"
            for source in self.sources
            if source in self.failures
        ]
        if stored + duplicates == 0:
            raise DownloadError(
                f"expected captchas from {location}, got none out of {len(self.sources)} batches; "
                f"the first: {failures[0]}"
            )
        return IngestReport(
            location=location,
            batches_expected=len(self.sources),
            batches_stored=len(self.sources) - self.skipped - len(failures),
            batches_skipped=self.skipped,
            batches_failed=len(failures),
            failures=tuple(failures),
            files_ignored=ignored,
            images_expected=sum(counts.expected for counts in self.counts.values()),
            images_stored=stored,
            duplicates=duplicates,
            quarantined=sum(counts.quarantined for counts in self.counts.values()),
            reasons=_shortened(self.store.reasons()),
        )

    def _tell(self) -> None:
        if self.on_progress is not None:
            done = len(self.counts.keys() | self.failures.keys())
            images = sum(counts.stored for counts in self.counts.values())
            self.on_progress(done, len(self.sources), images)


def _shortened(reasons: dict[str, int]) -> dict[str, int]:
    # A hostile batch can give each of its images a reason of its own.
    shown = dict(list(reasons.items())[:MAX_REASONS])
    rest = sum(reasons.values()) - sum(shown.values())
    return {**shown, "other reasons": rest} if rest else shown


# Folders


def _files(folder: Path, batches: int | None) -> tuple[dict[str, Path], int]:
    """Batch files by source, in natural order (2 before 10), and the number of other entries."""
    if not folder.is_dir():
        raise UsageError(
            f"expected a folder of challenge batches or an http(s) URL, got {folder}, which is "
            f"{'a file' if folder.exists() else 'not there'}; correct the path"
        )
    entries = list(folder.iterdir())
    found = [entry for entry in entries if _is_batch_file(entry)]
    if not found:
        raise UsageError(
            f"expected files named challenge-* or *.json in {folder}, got none of "
            f"{len(entries)} entries; name the folder that holds the batches"
        )
    found.sort(key=lambda path: _natural(path.name))
    return {path.resolve().as_uri(): path for path in found[:batches]}, len(entries) - len(found)


def _is_batch_file(path: Path) -> bool:
    named = path.suffix == ".json" or (path.name.startswith("challenge-") and not path.suffix)
    return named and not path.name.startswith(".") and path.is_file()


def _natural(name: str) -> list[tuple[int, str]]:
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def _read_all(missing: Iterator[tuple[str, Any]], run: _Ingestion, max_bytes: int) -> None:
    for source, path in missing:
        data = b""
        try:
            with path.open("rb") as file:
                data = file.read(max_bytes + 1)
            if len(data) > max_bytes:
                raise BatchError(f"expected at most {max_bytes} bytes, got a larger file")
            images = parse_batch(data)
        except (OSError, BatchError) as error:
            run.fail(source, str(error), data)
        else:
            run.add(source, *unpack_batch(images, run.scheme))


# HTTP


class _FetchError(Exception):
    """One attempt failed; ``transient`` when another may not."""

    def __init__(
        self, reason: str, *, transient: bool, retry_after: float = 0.0, data: bytes = b""
    ) -> None:
        super().__init__(reason)
        self.transient = transient
        self.retry_after = retry_after
        self.data = data


def _urls(location: str, user: str, batches: int) -> dict[str, httpx.URL]:
    """Addresses by source; sources hold no password, and one address gives many fresh batches."""
    if "{user}" in location and not user:
        raise UsageError(f"expected a user for {location}, got none; name one with --user")
    address = location.replace("{user}", quote(user, safe=""))
    try:
        urls = [httpx.URL(address.replace("{n}", str(n))) for n in range(batches)]
    except httpx.InvalidURL as error:
        raise UsageError(f"expected an http(s) URL, got {location} ({error})") from None
    url = urls[0].copy_with(fragment=None)
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError(f"expected http(s)://host, got {location}; correct the URL")
    if "{n}" in address:
        return {without_password(str(one)): one for one in urls}
    if url.path == "/":
        if not user:
            raise UsageError(f"expected a user to ask {location} for, got none; name one")
        url = url.copy_with(path=f"/u/{quote(user, safe='')}/challenge")
    elif not url.path.endswith("/challenge"):
        raise UsageError(
            f"expected http(s)://host, .../challenge or a template with {{n}}, got {location}; "
            "a numbered batch is written .../challenge-{n}"
        )
    return {f"{without_password(str(url))}#{k}": url for k in range(batches)}


def without_password(url: str) -> str:
    """The address as it may be shown and recorded."""
    return re.sub(r"^([^:/]+://)[^/?#]*@", r"\1", url)


async def _fetch_all(
    missing: Iterator[tuple[str, Any]], run: _Ingestion, settings: DownloadSettings
) -> None:
    headers = {
        "User-Agent": f"simgan-captcha/{simgan_captcha.__version__}",
        # A compressed body could be a thousand times as large as what the limit counts.
        "Accept-Encoding": "identity",
    }

    async with httpx.AsyncClient(
        headers=headers, timeout=settings.silence_seconds, mounts=LOOPBACK_DIRECT
    ) as client:

        async def work() -> None:
            for source, url in missing:  # shared: each worker takes the next
                try:
                    images = await _fetch_patiently(client, url, settings)
                except _FetchError as error:
                    run.fail(source, str(error), error.data)
                else:
                    # In a thread, so that the other requests are still served.
                    run.add(source, *await asyncio.to_thread(unpack_batch, images, run.scheme))

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(settings.concurrency):
                    workers.create_task(work())
        except BaseExceptionGroup as group:  # a full disk, say, met by one worker or by several
            raise group.exceptions[0] from None


async def _fetch_patiently(
    client: httpx.AsyncClient, url: httpx.URL, settings: DownloadSettings
) -> list[Any]:
    backoff = wait_exponential(settings.backoff_seconds) + wait_random(0, settings.backoff_seconds)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, _FetchError) else 0.0
        return min(max(backoff(state), asked), settings.max_wait_seconds)

    retrying = AsyncRetrying(
        stop=stop_after_attempt(settings.attempts),
        wait=wait,
        retry=retry_if_exception(lambda error: isinstance(error, _FetchError) and error.transient),
        reraise=True,
    )
    return await retrying(_fetch, client, url, settings)


async def _fetch(
    client: httpx.AsyncClient, url: httpx.URL, settings: DownloadSettings
) -> list[Any]:
    """One attempt: the images of the batch at ``url``."""
    try:
        async with asyncio.timeout(settings.request_seconds):
            for _ in range(MAX_REDIRECTS + 1):
                async with client.stream("GET", url) as response:
                    if response.next_request is None:
                        return _images(response, await _body(response, settings.max_batch_bytes))
                    url = _checked_redirect(url, response.next_request.url)
    except TimeoutError:
        seconds = settings.request_seconds
        raise _FetchError(
            f"expected a batch within {seconds:g} s, got no end of it", transient=True
        ) from None
    except httpx.HTTPError as error:
        what = str(error) or type(error).__name__
        raise _FetchError(
            f"expected a whole answer, the connection failed ({what})", transient=True
        ) from None
    raise _FetchError(
        f"expected at most {MAX_REDIRECTS} redirects, got more; name the final address",
        transient=False,
    )


def _checked_redirect(here: httpx.URL, there: httpx.URL) -> httpx.URL:
    same = (there.host, there.port) == (here.host, here.port)
    if not same or (here.scheme, there.scheme) == ("https", "http"):
        raise _FetchError(
            f"expected an answer of {here.host}, got a redirect to "
            f"{without_password(str(there))}; if you trust that address, name it instead",
            transient=False,
        )
    return there


async def _body(response: httpx.Response, max_bytes: int) -> bytes:
    status = response.status_code
    if status != httpx.codes.OK:
        transient = status in (408, 429) or status >= 500
        hint = "run again later" if transient else "correct the URL, the user or the batch count"
        raise _FetchError(
            f"expected status 200, got {status}; {hint}",
            transient=transient,
            retry_after=_retry_after(response.headers.get("Retry-After", "")),
        )
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise _FetchError(
            f"expected a body that is not compressed, as asked for, got {encoding}",
            transient=False,
        )
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise _FetchError(
                f"expected at most {max_bytes} bytes, got more", transient=False, data=bytes(body)
            )
    return bytes(body)


def _images(response: httpx.Response, body: bytes) -> list[Any]:
    try:
        return parse_batch(body)
    except BatchError as error:
        kind = response.headers.get("Content-Type", "none")
        raise _FetchError(
            f"{error}, content type {kind[:80]!r}", transient=True, data=body
        ) from None


def _retry_after(value: str) -> float:
    """Seconds to wait by a Retry-After header, in either of its forms; 0 when there is none."""
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
