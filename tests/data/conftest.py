"""Short waits and small batches, so that bad servers take no long time to test."""

import pytest

from simgan_captcha.data import fetch


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits, timeouts and bodies of downloads within this process."""
    monkeypatch.setattr(fetch, "_BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(fetch, "_MAX_WAIT_SECONDS", 0.5)
    monkeypatch.setattr(fetch, "_SILENCE_SECONDS", 5)
    monkeypatch.setattr(fetch, "_REQUEST_SECONDS", 10)
    monkeypatch.setattr(fetch, "MAX_BATCH_BYTES", 1_000_000)
