"""All that a run has read, sorted by confidence, page by page, with the pictures."""

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.inference.readings import Reading, load_readings
from simgan_captcha.pipeline.run_folder import READINGS, STORE
from simgan_captcha.report.inputs import file_states

PAGE_SIZE = 60

Order = Literal["least", "most", "random"]
"""Which readings come first: the least or the most sure; or always the same, but by chance."""


def captcha_key(name: str) -> str:
    """SHA-256 (hex) of a name: names are any text, of any length; addresses are not."""
    return hashlib.sha256(name.encode()).hexdigest()


@dataclass(frozen=True)
class Page:
    """Some of the readings."""

    number: int
    """From 1."""
    pages: int
    """At least 1."""
    found: int
    """Readings on all these pages."""
    first: int
    """The place of this page's first reading among them, from 1."""
    readings: list[Reading]


class Gallery:
    """The readings and captchas of one run, loaded when they are asked for.

    Readings that were made anew since then are loaded anew. All encoded captchas are held in
    memory: a part of the store can only be read as a whole.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._states: dict[str, str] = {}
        self._readings: list[Reading] = []
        self._orders: dict[Order, list[int]] = {}
        self._by_key: dict[str, int] = {}
        self._images: dict[str, bytes] = {}

    def page(self, number: int, order: Order, character: str | None) -> Page:
        """One page of the readings that hold a character, or of all; at most the last page.

        Raises:
            RunError: Nothing was read yet, or the readings are damaged.
        """
        with self._lock:
            self._refresh_readings()
            readings, chosen = self._readings, self._orders[order]
        if character:
            chosen = [index for index in chosen if character in readings[index].text]
        pages = max(1, -(-len(chosen) // PAGE_SIZE))
        number = min(max(1, number), pages)
        first = PAGE_SIZE * (number - 1)
        shown = [readings[index] for index in chosen[first : first + PAGE_SIZE]]
        return Page(number, pages, len(chosen), first + 1, shown)

    def reading(self, key: str) -> Reading | None:
        """The reading of the captcha of this key; None when there is none.

        Raises:
            RunError: Nothing was read yet, or the readings are damaged.
        """
        with self._lock:
            self._refresh_readings()
            index = self._by_key.get(key)
            return None if index is None else self._readings[index]

    def image(self, key: str) -> bytes | None:
        """The encoded captcha of this key as it was received; None when there is none.

        Raises:
            StoreError: The store is empty or damaged.
        """
        with self._lock:
            parts = sorted((self._run / STORE).glob("part-*.parquet"))
            state = file_states(*parts)
            if self._states.get("store") != state:
                stored = CaptchaStore(self._run / STORE).in_content_order()
                self._images = {
                    captcha_key(name): image
                    for name, image in zip(stored.names, stored.images, strict=True)
                }
                self._states["store"] = state
            return self._images.get(key)

    def _refresh_readings(self) -> None:
        path = self._run / READINGS
        state = file_states(path)
        if self._states.get("readings") == state:
            return
        self._readings = load_readings(path)
        confidence = np.array([reading.confidence for reading in self._readings])
        least = np.argsort(confidence, kind="stable").tolist()
        self._by_key = {captcha_key(r.name): index for index, r in enumerate(self._readings)}
        by_hash = [index for _, index in sorted(self._by_key.items())]
        self._orders = {"least": least, "most": least[::-1], "random": by_hash}
        self._states["readings"] = state
