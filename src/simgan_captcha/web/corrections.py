"""What a person says that images say: kept in the run, beside its readings, never among them.

    RUN/review/corrections.json   {"texts": {name: text}}; a reading that was confirmed, too

These are labels of real images. Nothing that learns may import this package or read that file, and
no figure that a run gives without a label knows of it.
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
    """The corrections of one run; several processes may correct at once."""

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
                f"{''.join(f' ({reason})' for reason in damage)}; mend it or move it away"
            )
        return dict(texts)

    def put(self, name: str, text: str | None, scheme: Scheme) -> int:
        """Keep what an image says, or with None forget it; how many are kept now.

        Raises:
            SchemeError: Another length, or a character outside the alphabet; nothing is changed.
            RunError: The file is damaged or cannot be written, or another process holds it; nothing
                is changed.
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
                f"expected to write {self._path}, another process holds it for more than "
                f"{_LOCK_SECONDS:.0f} s; try again"
            ) from None
        except OSError as error:
            raise RunError(
                f"expected to write {self._path}, could not ({error}); make room, or let the "
                "server run as somebody who may write there"
            ) from None


def labels_csv(texts: Mapping[str, str]) -> str:
    """The CSV of labels that ``simgan-captcha judge --labels`` reads, harmless in a spreadsheet."""
    table = io.StringIO(newline="")
    rows = csv.writer(table)
    rows.writerow(["name", "label"])
    rows.writerows(map(spreadsheet_cell, row) for row in texts.items())
    return table.getvalue()
