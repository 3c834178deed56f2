"""Labels for teaching a run: they are collected, matched with its images, and stored.

RUN/teach/labels.json   {"texts": {name: text}}
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from simgan_captcha.atomic import write_json
from simgan_captcha.documents import read_object
from simgan_captcha.errors import RunError, UsageError
from simgan_captcha.evaluation.labels import examples, match_labels, read_labels_csv
from simgan_captcha.pipeline.lesson import TEACH
from simgan_captcha.scheme import Scheme

KEPT = Path(TEACH) / "labels.json"


@dataclass(frozen=True)
class Collected:
    """Labels of images of a run, and names of labels without an image."""

    texts: dict[str, str]
    """Texts by image name, in the case of the scheme."""
    without_image: list[str]
    """Names of labels that belong to no image of the run."""


def labels_of(file: str | os.PathLike[str]) -> dict[str, str]:
    """Read texts by image name from a CSV file, see `evaluation.labels.read_labels_csv`."""
    return read_labels_csv(Path(file))


def collect(labels: Mapping[str, str], names: list[str], scheme: Scheme) -> Collected:
    """Match labels with the images of a run, see `evaluation.labels.match_labels`.

    Args:
        labels: Texts by image name, with or without folder and extension.
        names: Names of the images of the run.
        scheme: Scheme of the run. If a character is missing from its alphabet, it is replaced by
            its upper or lower case, if the alphabet has that.

    Raises:
        UsageError: No label belongs to an image of the run.
        SchemeError: A label does not fit the scheme.
    """
    known = set(names)
    matched = match_labels(labels, names).labels
    texts = {
        name: scheme.fold(_in_case_of(scheme, text))
        for name, text in matched.items()
        if name in known
    }
    if not texts:
        raise UsageError(
            f"expected labels of some of the run's {len(names)} images, got {len(labels)} of other "
            f"names (labels: {examples(list(labels)) or 'none'}; images: {examples(names)}); "
            "check that labels and run are of the same images"
        )
    for text in texts.values():
        scheme.encode(text)
    return Collected(texts, [name for name in matched if name not in known])


def kept_labels(run: Path) -> dict[str, str]:
    """The labels that were collected earlier, by image name.

    Raises:
        RunError: The file is damaged.
    """
    try:
        texts = read_object(run / KEPT)["texts"]
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("no texts by name")
        return texts
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError) as error:
        raise RunError(
            f"expected labels in {run / KEPT}, the file is damaged ({error}); mend it or delete it"
        ) from None


def keep_labels(run: Path, texts: Mapping[str, str]) -> dict[str, str]:
    """Add labels to those that were collected earlier, and return all. New labels replace old."""
    together = kept_labels(run) | dict(texts)
    (run / TEACH).mkdir(exist_ok=True)
    write_json(run / KEPT, {"texts": together})
    return together


def _in_case_of(scheme: Scheme, text: str) -> str:
    def recased(character: str) -> str:
        if character in scheme.alphabet or any(character in group for group in scheme.alike):
            return character
        cases = [c for c in (character.lower(), character.upper()) if c in scheme.alphabet]
        return cases[0] if cases else character

    return "".join(map(recased, text))
