"""The real application under a real uvicorn on loopback, in a thread of the tests."""

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from simgan_captcha.serving.listening import listen, url_of
from simgan_captcha.web.guard import LOOPBACK_HOSTS
from simgan_captcha.web.jobs.learning import NewRun
from simgan_captcha.web.server import build_server

PATIENCE_SECONDS = 120
"""Generous, because the machine may be slow and busy."""


@contextmanager
def serving(
    run: Path | None, hosts: Collection[str] | None = LOOPBACK_HOSTS, new: NewRun | None = None
) -> Iterator[str]:
    """Serve a run, or the generalist alone, and give the address."""
    with listen("127.0.0.1", 0) as listener:
        server = build_server(run, hosts, new)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield url_of(listener)
        finally:
            server.should_exit = True
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()


def asking(address: str) -> httpx.Client:
    """A client for a server on this machine."""
    return httpx.Client(base_url=address, timeout=PATIENCE_SECONDS, trust_env=False)
