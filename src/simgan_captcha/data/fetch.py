"""Downloads challenge batches over HTTP, with a rate limit, retries and host checks."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from simgan_captcha._version import __version__
from simgan_captcha.addresses import LOOPBACK_DIRECT, server_and_user, without_password
from simgan_captcha.data.batch import MAX_BATCH_BYTES, MAX_QUARANTINED_BYTES, parse_batch
from simgan_captcha.data.settings import DownloadSettings
from simgan_captcha.errors import BatchError, UsageError

MAX_REDIRECTS = 5

_BACKOFF_SECONDS = 0.5
"""First wait between attempts, in seconds. It doubles each time, plus a random wait up to this
value, so that an overloaded server gets fewer requests."""
_MAX_WAIT_SECONDS = 30.0
"""Longest wait between attempts in seconds, even if the server's Retry-After is longer."""
_SILENCE_SECONDS = 15.0
"""Timeout in seconds for a server that sends nothing."""
_REQUEST_SECONDS = 120.0
"""Timeout in seconds for a whole request. It ends a body that arrives too slowly."""

OnBatch = Callable[[str, list[Any]], Awaitable[None]]
"""Awaited with the source and the images of a batch, see `batch.parse_batch`."""
OnFailure = Callable[[str, str, bytes], None]
"""Called with the source of a failed batch, the reason, and the start of the received data."""


class _FetchError(Exception):
    """One attempt failed; ``transient`` if another attempt may succeed."""

    def __init__(
        self, reason: str, *, transient: bool, retry_after: float = 0.0, data: bytes = b""
    ) -> None:
        super().__init__(reason)
        self.transient = transient
        self.retry_after = retry_after
        self.data = data


def batch_urls(location: str, user: str, batches: int) -> dict[str, httpx.URL]:
    """Addresses of batches by source. Sources contain no passwords.

    Args:
        location: A server, as ``http(s)://host[:port]``; a user's page on it, ``.../u/NAME/``; its
            ``.../challenge`` address, where ``{user}`` is replaced; or an address with ``{n}``,
            which is replaced by numbers from 0.
        user: User of the puzzle.
        batches: Number of batches.

    Raises:
        UsageError: The address is invalid, or needs a user and none is given.
    """
    shown = without_password(location)
    if "{user}" in location and not user:
        raise UsageError(f"expected a user for {shown}, got none; name one with --user")
    address = location.replace("{user}", quote(user, safe=""))
    try:
        urls = [httpx.URL(address.replace("{n}", str(n))) for n in range(batches)]
    except httpx.InvalidURL as error:
        raise UsageError(f"expected an http(s) URL, got {shown} ({error})") from None
    url = urls[0].copy_with(fragment=None)
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError(f"expected http(s)://host, got {shown}; correct the URL")
    if "{n}" in address:
        # Replace {n} after passwords are hidden, so that all sources differ.
        template = without_password(address)
        return {template.replace("{n}", str(n)): one for n, one in enumerate(urls)}
    server, named = server_and_user(str(url))
    if url.path == "/":
        if not user:
            raise UsageError(f"expected a user for {shown}, got none; name one with --user")
        url = url.copy_with(path=f"/u/{quote(user, safe='')}/challenge")
    elif named is not None and not url.path.endswith("/challenge"):
        url = httpx.URL(f"{server}/u/{quote(named, safe='')}/challenge")
    elif not url.path.endswith("/challenge"):
        raise UsageError(
            f"expected http(s)://host, .../challenge or a template with {{n}}, got {shown}; "
            "a numbered batch is written .../challenge-{n}"
        )
    return {f"{without_password(str(url))}#{k}": url for k in range(batches)}


async def fetch_batches(
    missing: Iterator[tuple[str, httpx.URL]],
    settings: DownloadSettings,
    on_batch: OnBatch,
    on_failure: OnFailure,
) -> None:
    """Fetch every batch once, several at a time. An exception in a callback ends all requests.

    Args:
        missing: Sources and addresses, see `batch_urls`.
        settings: Rate, retries and redirects.
        on_batch: Receives each batch.
        on_failure: Receives each batch that failed in all ``settings.attempts``.
    """
    headers = {
        "User-Agent": f"simgan-captcha/{__version__}",
        # A compressed body could be a thousand times larger than the bytes that the limit counts.
        "Accept-Encoding": "identity",
    }
    async with httpx.AsyncClient(
        headers=headers, timeout=_SILENCE_SECONDS, mounts=LOOPBACK_DIRECT
    ) as client:
        fetcher = _Fetcher(client, settings)

        async def work() -> None:
            for source, url in missing:  # shared by all workers
                try:
                    images = await fetcher.fetch_patiently(url)
                except _FetchError as error:
                    on_failure(source, str(error), error.data)
                else:
                    await on_batch(source, images)

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(settings.concurrency):
                    workers.create_task(work())
        except BaseExceptionGroup as group:  # such as a full disk, seen by one or several workers
            raise group.exceptions[0] from None


class _Fetcher:
    """Requests batches with a rate limit and retries."""

    def __init__(self, client: httpx.AsyncClient, settings: DownloadSettings) -> None:
        self._client = client
        self._settings = settings
        self._next_request = 0.0

    async def fetch_patiently(self, url: httpx.URL) -> list[Any]:
        settings = self._settings
        backoff = wait_exponential(_BACKOFF_SECONDS) + wait_random(0, _BACKOFF_SECONDS)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.retry_after if isinstance(error, _FetchError) else 0.0
            return min(max(backoff(state), asked), _MAX_WAIT_SECONDS)

        retrying = AsyncRetrying(
            stop=stop_after_attempt(settings.attempts),
            wait=wait,
            retry=retry_if_exception(
                lambda error: isinstance(error, _FetchError) and error.transient
            ),
            reraise=True,
        )
        return await retrying(self._fetch, url)

    async def _fetch(self, url: httpx.URL) -> list[Any]:
        """One attempt: the images of the batch at ``url``."""
        asked = url
        for _ in range(MAX_REDIRECTS + 1):
            found = await self._request(url, asked)
            if isinstance(found, list):
                return found
            url = found
        raise _FetchError(
            f"expected at most {MAX_REDIRECTS} redirects, got more; name the final address",
            transient=False,
        )

    async def _request(self, url: httpx.URL, asked: httpx.URL) -> list[Any] | httpx.URL:
        """The images of the batch at ``url``, or the next address if it redirects.

        Args:
            url: Address of this request.
            asked: Address before all redirects.
        """
        await self._wait_for_turn()
        try:
            async with (
                asyncio.timeout(_REQUEST_SECONDS),
                self._client.stream("GET", url) as response,
            ):
                if response.next_request is not None:
                    return self._checked_redirect(asked, url, response.next_request.url)
                return _images(response, await _body(response))
        except TimeoutError:
            raise _FetchError(
                f"expected a batch within {_REQUEST_SECONDS:g} s, got an incomplete one",
                transient=True,
            ) from None
        except httpx.HTTPError as error:
            what = str(error) or type(error).__name__
            raise _FetchError(
                f"expected a complete response, the connection failed ({what})", transient=True
            ) from None

    def _checked_redirect(self, asked: httpx.URL, here: httpx.URL, there: httpx.URL) -> httpx.URL:
        netloc = there.netloc.decode()
        known = {asked.netloc.decode(), *self._settings.redirect_hosts}
        if netloc not in known or (here.scheme, there.scheme) == ("https", "http"):
            raise _FetchError(
                f"expected a response from {asked.host}, got a redirect to "
                f"{without_password(str(there))}; if you trust that address, name it instead, or "
                f'allow its host: --set download.redirect_hosts=["{netloc}"]',
                transient=False,
            )
        return there

    async def _wait_for_turn(self) -> None:
        now = time.monotonic()
        turn = max(now, self._next_request)
        self._next_request = turn + 1 / self._settings.requests_per_second
        await asyncio.sleep(turn - now)


async def _body(response: httpx.Response) -> bytearray:
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
            f"expected an uncompressed body, got {encoding}",
            transient=False,
        )
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_BATCH_BYTES:
            raise _FetchError(
                f"expected at most {MAX_BATCH_BYTES} bytes, got more",
                transient=False,
                data=bytes(body[:MAX_QUARANTINED_BYTES]),
            )
    return body


def _images(response: httpx.Response, body: bytearray) -> list[Any]:
    try:
        return parse_batch(body)
    except BatchError as error:
        kind = response.headers.get("Content-Type", "none")
        raise _FetchError(
            f"{error}, content type {kind[:80]!r}",
            transient=True,
            data=bytes(body[:MAX_QUARANTINED_BYTES]),
        ) from None


def _retry_after(value: str) -> float:
    """Seconds of a Retry-After header in either of its forms; 0 if there is none."""
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
