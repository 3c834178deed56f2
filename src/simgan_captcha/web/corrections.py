"""Corrections of readings by a person, stored in the run folder apart from the readings.

    RUN/review/corrections.json   {"texts": {name: text}}; includes confirmed readings

Corrections are labels of real images. Training code must not import this package or read that file,
and the accuracy estimate of a run does not use it.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from simgan_captcha.atomic import write_json
from simgan_captcha.errors import RunError
from simgan_captcha.report.inputs import read_json
from simgan_captcha.scheme import Scheme
from simgan_captcha.shown import spreadsheet_cell

FILE = Path("review") / "corrections.json"
_LOCK_SECONDS = 10.0


class Corrections:
    """The corrections of one run; several processes may change them at the same time."""

    def __init__(self, run: Path) -> None:
        self._path = run / FILE
        self._lock = FileLock(self._path.with_name(".lock"))

    def texts(self) -> dict[str, str]:
        """True texts by image name.

        Raises:
            RunError: The file is damaged.
        """
        damage: list[str] = []
        kept = read_json(self._path, damage)
        if kept is None and not damage:
            return {}
        texts = None if kept is None else kept.get("texts")
        if not isinstance(texts, dict) or not all(isinstance(t, str) for t in texts.values()):
            raise RunError(
                f"expected corrections in {self._path}, the file is damaged"
                f"{''.join(f' ({reason})' for reason in damage)}; repair it or move it away"
            )
        return dict(texts)

    def put(self, name: str, text: str | None, scheme: Scheme) -> int:
        """Save the corrected text of an image, or remove it with None.

        Returns:
            The number of corrections.

        Raises:
            SchemeError: The text has a wrong length, or a character outside the alphabet. Nothing
                changes.
            RunError: The file is damaged, cannot be written, or is locked by another process.
                Nothing changes.
        """
        if text is not None:
            scheme.encode(text)
        try:
            self._path.parent.mkdir(exist_ok=True)
            with self._lock.acquire(timeout=_LOCK_SECONDS):
                texts = self.texts()
                if text is None:
                    texts.pop(name, None)
                else:
                    texts[name] = text
                write_json(self._path, {"texts": texts})
                return len(texts)
        except Timeout:
            raise RunError(
                f"expected to write {self._path}, another process has locked it for more than "
                f"{_LOCK_SECONDS:.0f} s; try again"
            ) from None
        except OSError as error:
            raise RunError(
                f"expected to write {self._path}, could not ({error}); free disk space, or run "
                "the server as a user who may write there"
            ) from None


def labels_csv(texts: Mapping[str, str]) -> str:
    """Labels as CSV for ``simgan-captcha judge --labels``; cells are safe in a spreadsheet."""
    table = io.StringIO(newline="")
    rows = csv.writer(table)
    rows.writerow(["name", "label"])
    rows.writerows(map(spreadsheet_cell, row) for row in texts.items())
    return table.getvalue()
