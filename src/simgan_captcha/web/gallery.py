"""The readings and captchas of a run, sorted by confidence and divided into pages."""

import hashlib
import threading
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.inference.readings import Reading, load_readings
from simgan_captcha.pipeline.questions import most_useful, texts_of_generalist
from simgan_captcha.pipeline.run_folder import READINGS, STORE
from simgan_captcha.report.inputs import file_states

PAGE_SIZE = 60

Order = Literal["least", "most", "random"]
"""Order of the readings: lowest confidence first, highest first, or a fixed random order."""


def captcha_key(name: str) -> str:
    """SHA-256 (hex) of a name, for addresses; a name may contain any character."""
    return hashlib.sha256(name.encode()).hexdigest()


@dataclass(frozen=True)
class Page:
    """One page of readings."""

    number: int
    """Number of this page, from 1."""
    pages: int
    """Number of pages, at least 1."""
    found: int
    """Number of readings on all pages."""
    first: int
    """Number of the first reading on this page, from 1."""
    readings: list[Reading]


class Gallery:
    """The readings and captchas of one run, loaded on first use.

    Changed readings are loaded again. All encoded captchas are held in memory, because a part of
    the store can only be read as a whole.
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
        """One page of all readings, or of those that contain a character.

        A number beyond the last page gives the last page.

        Raises:
            RunError: There are no readings yet, or they are damaged.
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

    def questions(self, answered: Set[str], character: str | None) -> Page:
        """The readings whose true texts would teach most, as one page.

        Args:
            answered: Names of images whose texts are known; they are left out.
            character: See `page`.

        Raises:
            RunError: See `page`.
        """
        with self._lock:
            self._refresh_readings()
            readings = self._readings
        readings = [one for one in readings if not character or character in one.text]
        names = most_useful(readings, texts_of_generalist(self._run), answered, PAGE_SIZE)
        by_name = {one.name: one for one in readings}
        left = sum(name not in answered for name in by_name)
        return Page(1, 1, left, 1, [by_name[name] for name in names])

    def reading(self, key: str) -> Reading | None:
        """The reading of the captcha with this key; None if there is none.

        Raises:
            RunError: There are no readings yet, or they are damaged.
        """
        with self._lock:
            self._refresh_readings()
            index = self._by_key.get(key)
            return None if index is None else self._readings[index]

    def image(self, key: str) -> bytes | None:
        """The encoded captcha with this key as it was received; None if there is none.

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
