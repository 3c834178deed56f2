"""Labels for teaching a run: they are collected, matched with its images, and stored.

RUN/teach/labels.json   {"texts": {name: text}}
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from simgan_captcha.atomic import write_json
from simgan_captcha.documents import read_object
from simgan_captcha.errors import RunError, UsageError
from simgan_captcha.evaluation.casing import in_one_case
from simgan_captcha.evaluation.labels import examples, match_labels, read_labels_csv
from simgan_captcha.pipeline.lesson import LABELS, TEACH
from simgan_captcha.scheme import Scheme


@dataclass(frozen=True)
class Collected:
    """Labels of images of a run, and names of labels without an image."""

    texts: dict[str, str]
    """Texts by image name, in the case of the scheme."""
    without_image: list[str]
    """Names of labels that belong to no image of the run."""


def collect(
    labels: Mapping[str, str] | str | os.PathLike[str], names: list[str], scheme: Scheme
) -> Collected:
    """Match labels with the images of a run, see `evaluation.labels.match_labels`.

    Args:
        labels: Texts by image name, with or without folder and extension; or a CSV file of them,
            see `evaluation.labels.read_labels_csv`.
        names: Names of the images of the run.
        scheme: Scheme of the run, see `text_of_scheme`.

    Raises:
        UsageError: No label belongs to an image of the run, or the file cannot be read.
        SchemeError: A label does not fit the scheme.
    """
    if not isinstance(labels, Mapping):
        labels = read_labels_csv(Path(labels))
    known = set(names)
    matched = match_labels(labels, names).labels
    texts = {name: text_of_scheme(text, scheme) for name, text in matched.items() if name in known}
    if not texts:
        raise UsageError(
            f"expected labels of some of the run's {len(names)} images, got {len(labels)} of other "
            f"names (labels: {examples(list(labels)) or 'none'}; images: {examples(names)}); "
            "check that labels and run are of the same images"
        )
    return Collected(texts, [name for name in matched if name not in known])


def text_of_scheme(text: str, scheme: Scheme) -> str:
    """A label in the characters of the scheme.

    A character that is missing from the alphabet is replaced by its other case, if the alphabet has
    that.

    Raises:
        SchemeError: The label does not fit the scheme.
    """
    known = scheme.alphabet + "".join(scheme.equivalents)
    text = scheme.fold("".join(c if c in known else in_one_case(c, scheme) for c in text))
    scheme.encode(text)
    return text


def kept_labels(run: Path, names: Iterable[str]) -> dict[str, str]:
    """The labels that were collected earlier for images of these names.

    Raises:
        RunError: The file is damaged.
    """
    kept = _all_kept(run)
    return {name: kept[name] for name in names if name in kept}


def keep_labels(run: Path, texts: Mapping[str, str]) -> None:
    """Add labels to those that were collected earlier. New labels replace old ones."""
    (run / TEACH).mkdir(exist_ok=True)
    write_json(run / LABELS, {"texts": _all_kept(run) | dict(texts)})


def _all_kept(run: Path) -> dict[str, str]:
    try:
        texts = read_object(run / LABELS)["texts"]
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("no texts by name")
        return texts
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError) as error:
        raise RunError(
            f"expected labels in {run / LABELS}, the file is damaged ({error}); mend it or delete "
            "it"
        ) from None
